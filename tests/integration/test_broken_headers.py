"""Headers as hospitals send them: the results are valid all the same, and say nothing wrong."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from coread.dicom_sr.encode import ResultObject, encode_findings
from coread.dicom_sr.repair import EMPTY_IF_ABSENT
from coread.workers.volume import build_volume
from tests.integration.test_result_objects import findings_in
from tests.support import identity, images_of, output_of, volume_in_plane

Harm = Callable[[Dataset], None]


def raw(keyword: str, value: bytes) -> Harm:
    """Put bytes into a header as a scanner would, past every check of the library."""

    def harm(image: Dataset) -> None:
        tag = Tag(tag_for_keyword(keyword) or 0)
        element = {"length": len(value), "value": value, "value_tell": 0, "is_implicit_VR": False}
        image._dict[tag] = RawDataElement(tag, dictionary_VR(tag), **element, is_little_endian=True)  # type: ignore[arg-type]

    return harm


def absent(keyword: str) -> Harm:
    def harm(image: Dataset) -> None:
        image.pop(keyword, None)

    return harm


def together(*harms: Harm) -> Harm:
    def harm(image: Dataset) -> None:
        for one in harms:
            one(image)

    return harm


HARMS: dict[str, Harm] = {
    **{f"no {keyword}": absent(keyword) for keyword in sorted(EMPTY_IF_ABSENT)},
    "no type 2 attribute at all": together(*(absent(keyword) for keyword in EMPTY_IF_ABSENT)),
    "no character set": absent("SpecificCharacterSet"),
    "sex U": raw("PatientSex", b"U "),
    "sex in words": raw("PatientSex", b"female"),
    "birth date with dashes": raw("PatientBirthDate", b"1960-01-02"),
    "birth date in words": raw("PatientBirthDate", b"unknown "),
    "birth date of year 0": raw("PatientBirthDate", b"00000000"),
    "study date with dots": raw("StudyDate", b"2020.01.02"),
    "study date of day 99": raw("StudyDate", b"20209999"),
    "study time with letters": raw("StudyTime", b"12h30 "),
    "age without a unit": raw("PatientAge", b"45"),
    "weight with a comma": raw("PatientWeight", b"72,5"),
    "weight with too many digits": raw("PatientWeight", b"72.50000000000000000001 "),
    "size in words": raw("PatientSize", b"tall"),
    "long accession number": raw("AccessionNumber", b"A" * 40),
    "long study identifier": raw("StudyID", b"S" * 40),
    "long study description": raw("StudyDescription", b"words " * 40),
    "long name": raw("PatientName", b"Long^" + b"Name" * 30),
    "empty first character set": together(
        raw("SpecificCharacterSet", b"\\ISO 2022 IR 87"),
        raw("PatientName", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    ),
    "unknown character set": raw("SpecificCharacterSet", b"ISO_IR 999"),
    "character set misspelt": raw("SpecificCharacterSet", b"UTF8"),
    "bytes that are not in the character set": together(
        raw("SpecificCharacterSet", b"ISO_IR 192"), raw("PatientName", b"M\xfcller^Hans")
    ),
    "time zone in words": raw("TimezoneOffsetFromUTC", b"CEST"),
    "two study descriptions": raw("StudyDescription", b"one\\two "),
    "no position reference": absent("PositionReferenceIndicator"),
    "no slice thickness": absent("SliceThickness"),
    "empty slice thickness": raw("SliceThickness", b""),
    "slice thickness in words": raw("SliceThickness", b"thin"),
    "no spacing between slices": absent("SpacingBetweenSlices"),
    "empty spacing between slices": raw("SpacingBetweenSlices", b""),
    "no body part": absent("BodyPartExamined"),
}


def results_of(harm: Harm) -> tuple[Dataset, list[ResultObject]]:
    images = images_of(volume_in_plane("oblique"))
    for image in images:
        harm(image)
    source = build_volume(images)
    return images[0], list(encode_findings(findings_in(source, 2), source=source.as_source, identity=identity()))


@pytest.mark.parametrize("name", HARMS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # the libraries say that the values are odd; they are
def test_a_broken_header_gives_valid_results(name: str, tmp_path: Path) -> None:
    _, results = results_of(HARMS[name])
    assert [result.kind for result in results] == ["SEG", "SR", "SR-KEY", "SR-ABSENT"]
    for result in results:
        path = tmp_path / result.kind
        path.write_bytes(result.file())
        status, said = output_of("dciodvfy", "-new", path)
        assert status == 0, said


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_identifier_that_is_too_long_is_left_empty_and_never_cut() -> None:
    for keyword, name in (("StudyID", "long study identifier"), ("AccessionNumber", "long accession number")):
        for result in results_of(HARMS[name])[1]:
            assert result.dataset[keyword].value == ""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_archive_files_a_study_under_is_never_changed() -> None:
    odd_uid = b"1.2.03.4"  # an old scanner's: a component must not begin with 0

    def odd_instance(image: Dataset) -> None:
        raw("SOPInstanceUID", odd_uid + f".{image.InstanceNumber}".encode())(image)

    harm = together(raw("PatientID", b"1" * 80), raw("StudyInstanceUID", odd_uid), odd_instance)
    for result in results_of(harm)[1]:
        assert result.dataset.PatientID == "1" * 80
        assert result.dataset.StudyInstanceUID == odd_uid.decode()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_name_in_two_scripts_is_kept_in_both() -> None:
    for result in results_of(HARMS["empty first character set"])[1]:
        name = pydicom.dcmread(io.BytesIO(result.file())).PatientName
        assert (name.alphabetic, name.ideographic) == ("Yamada^Tarou", "山田^太郎")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_source_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    source, _ = results_of(HARMS["long study identifier"])
    assert source.StudyID == "S" * 40


@pytest.mark.parametrize("keyword", ["PatientAge", "PatientSize", "PatientWeight", "IssuerOfPatientID"])
def test_what_is_in_order_is_inherited(keyword: str) -> None:
    values: dict[str, Any] = {
        "PatientAge": "045Y",
        "PatientSize": "1.75",
        "PatientWeight": "72.5",
        "IssuerOfPatientID": "Ward 7",
    }
    source, results = results_of(lambda image: setattr(image, keyword, values[keyword]))
    assert [result.dataset[keyword].value for result in results] == [source[keyword].value] * len(results)

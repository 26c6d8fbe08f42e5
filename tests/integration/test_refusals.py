"""That a study was not evaluated is said in a valid report, whatever is wrong with the header of its images."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import DigitalXRayImageStorageForPresentation, MRSpectroscopyStorage, RawDataStorage

from coread.dicom_files import write_files
from coread.dicom_sr.encode import ResultObject, encode_findings, encode_refusal
from coread.dicom_sr.source import Plane, Source
from coread.dicom_sr.validation.run import validate_files
from coread.errors import InputError
from coread.findings import Classification, Findings, NotEvaluated
from coread.models.manifest import Manifest
from coread.models.runner import BundleRunner
from coread.objects import ObjectKind
from coread.workers import folder as folder_module
from coread.workers.folder import analyze_studies
from coread.workers.measure import sought
from coread.workers.study import studies_in_folder
from tests.integration.test_broken_headers import Harm, absent, raw, together
from tests.support import MANIFEST, enhanced, identity, images_of, program, texts, volume_in_plane

REASON = "expected ImagePositionPatient of 3 numbers in every image, found none; only slices of a volume can be read"
GEOMETRY = {"111026", "112225", "110901", "110904"}
"""Codes of a pixel spacing, the slice thickness, a position and a direction cosine in an image library."""


def without_groups(*sequences: str) -> Harm:
    """Take functional groups from an enhanced image."""

    def harm(image: Dataset) -> None:
        for groups in (*image.SharedFunctionalGroupsSequence, *image.PerFrameFunctionalGroupsSequence):
            for sequence in sequences:
                groups.pop(sequence, None)

    return harm


def in_group(sequence: str, harm: Harm) -> Harm:
    """Do harm to a functional group that all frames of an enhanced image share."""

    def harm_group(image: Dataset) -> None:
        harm(image.SharedFunctionalGroupsSequence[0][sequence][0])

    return harm_group


def of_class(uid: str) -> Harm:
    return raw("SOPClassUID", uid.encode() + b"\0" * (len(uid) % 2))


NO_GEOMETRY: dict[str, Harm] = {
    **{f"no {keyword}": absent(keyword) for keyword in ("ImagePositionPatient", "ImageOrientationPatient")},
    **{f"empty {keyword}": raw(keyword, b"") for keyword in ("ImagePositionPatient", "ImageOrientationPatient")},
    "no pixel spacing": absent("PixelSpacing"),
    "empty pixel spacing": raw("PixelSpacing", b""),
    "one pixel spacing": raw("PixelSpacing", b"1.5 "),
    "pixel spacing with commas": raw("PixelSpacing", b"1,5\\1,5 "),
    "position of two numbers": raw("ImagePositionPatient", b"1\\2 "),
    "orientation in words": raw("ImageOrientationPatient", b"a\\b\\c\\d\\e\\f "),
    "orientation of five numbers": raw("ImageOrientationPatient", b"1\\0\\0\\0\\1 "),
    "slice thickness in words": raw("SliceThickness", b"thin"),
    "empty slice thickness": raw("SliceThickness", b""),
    "nothing of the geometry": together(
        *(absent(keyword) for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    ),
}
OTHERWISE_ODD: dict[str, Harm] = {
    "nothing odd": together(),
    "no frame of reference": absent("FrameOfReferenceUID"),
    "empty frame of reference": raw("FrameOfReferenceUID", b""),
    "frame of reference that is no UID": raw("FrameOfReferenceUID", b"1.2.03.4"),
    "empty spacing between slices": raw("SpacingBetweenSlices", b""),
    "many frames in a class of one": raw("NumberOfFrames", b"8 "),
    "no modality": absent("Modality"),
}
NO_REFERENCE: dict[str, Harm] = {
    "no class": absent("SOPClassUID"),
    "empty class": raw("SOPClassUID", b""),
    "private class": of_class("1.3.46.670589.11.0.0.12.1"),
    "class of spectra": of_class(MRSpectroscopyStorage),
    "class of raw data": of_class(RawDataStorage),
    "instance UID of an old scanner": raw("SOPInstanceUID", b"1.2.03.4"),
    "series UID of an old scanner": raw("SeriesInstanceUID", b"1.2.03.4"),
    "no rows": absent("Rows"),
}
ENHANCED: dict[str, Harm] = {
    "nothing odd": together(),
    "no positions": without_groups("PlanePositionSequence"),
    "no orientation and spacing": without_groups("PlaneOrientationSequence", "PixelMeasuresSequence"),
    "orientation in words": in_group("PlaneOrientationSequence", raw("ImageOrientationPatient", b"a\\b\\c\\d\\e\\f ")),
    "pixel spacing with commas": in_group("PixelMeasuresSequence", raw("PixelSpacing", b"1,5\\1,5 ")),
    "no functional groups": together(
        absent("SharedFunctionalGroupsSequence"), absent("PerFrameFunctionalGroupsSequence")
    ),
}


def single_frame(harm: Harm) -> Dataset:
    image = images_of(volume_in_plane("oblique"))[0]
    harm(image)
    return image


def multi_frame(harm: Harm) -> Dataset:
    image = enhanced(images_of(volume_in_plane("oblique")))
    harm(image)
    return image


def radiograph(harm: Harm) -> Dataset:
    """A projection as a detector sends it, without a patient orientation or a spacing."""
    image = images_of(volume_in_plane("axial"))[0]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    image.Modality = "DX"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del image[keyword]
    harm(image)
    return image


CASES: dict[str, Callable[[], Dataset]] = {
    **{
        name: lambda harm=harm: single_frame(harm)  # type: ignore[misc]
        for name, harm in {**NO_GEOMETRY, **OTHERWISE_ODD, **NO_REFERENCE}.items()
    },
    **{f"enhanced, {name}": lambda harm=harm: multi_frame(harm) for name, harm in ENHANCED.items()},  # type: ignore[misc]
    "radiograph": lambda: radiograph(together()),
    "radiograph with half an orientation": lambda: radiograph(raw("PatientOrientation", b"L\\")),
    "radiograph with one orientation": lambda: radiograph(raw("PatientOrientation", b"LF")),
}


def report_on(image: Dataset) -> ResultObject:
    frame = None if "NumberOfFrames" not in image else 1
    (result,) = encode_refusal(
        NotEvaluated(structures=sought(Manifest.model_validate(MANIFEST)), reason=REASON),
        source=Source(planes=[Plane(image=image, frame=frame)]),
        identity=identity(),
    )
    return result


def concepts_in(report: Dataset) -> set[str]:
    return {
        str(element.value[0].CodeValue) for element in report.iterall() if element.keyword == "ConceptNameCodeSequence"
    }


def instances_named_in(report: Dataset) -> set[str]:
    return {str(element.value) for element in report.iterall() if element.keyword == "ReferencedSOPInstanceUID"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # the libraries say that the values are odd; they are
def test_the_report_is_valid_and_in_the_patients_study(name: str, tmp_path: Path) -> None:
    image = CASES[name]()
    path = tmp_path / "report.dcm"
    path.write_bytes(report_on(copy.deepcopy(image)).file())
    for validator in ("dciodvfy", "dsrdump", "tid1500reader"):
        program(validator)
    (judgement,) = validate_files([path], source=None)
    assert list(judgement.problems) == []
    report = pydicom.dcmread(path)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "StudyDate"):
        assert report[keyword].value == image[keyword].value, keyword
    assert texts(report).count(REASON) == len(sought(Manifest.model_validate(MANIFEST)))


@pytest.mark.parametrize("name", NO_GEOMETRY)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_geometry_that_is_not_all_there_is_left_out_and_the_image_still_named(name: str) -> None:
    image = single_frame(NO_GEOMETRY[name])
    report = report_on(image).dataset
    assert not GEOMETRY & concepts_in(report)
    assert instances_named_in(report) == {image.SOPInstanceUID}


@pytest.mark.parametrize("name", [name for name in OTHERWISE_ODD if name != "no modality"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_header_says_is_kept_and_the_image_named_as_a_whole(name: str) -> None:
    image = single_frame(OTHERWISE_ODD[name])
    report = report_on(image).dataset
    assert concepts_in(report) >= GEOMETRY
    assert instances_named_in(report) == {image.SOPInstanceUID}
    assert "ReferencedFrameNumber" not in {element.keyword for element in report.iterall()}


@pytest.mark.parametrize("name", NO_REFERENCE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_image_that_cannot_be_referred_to_is_not(name: str) -> None:
    report = report_on(single_frame(NO_REFERENCE[name])).dataset
    assert not instances_named_in(report)
    assert "CurrentRequestedProcedureEvidenceSequence" not in report


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_same_job_gives_the_same_bytes() -> None:
    for name in ("nothing odd", "no pixel spacing", "no class"):
        assert report_on(CASES[name]()).file() == report_on(CASES[name]()).file()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_radiograph_without_an_orientation_can_be_classified(tmp_path: Path) -> None:
    pneumonia = Classification(
        name="Pneumonia",
        finding=Code("233604007", "SCT", "Pneumonia"),
        value=Code("52101004", "SCT", "Present"),
        probability=0.87,
    )
    (result,) = encode_findings(
        Findings(classifications=(pneumonia,)),
        source=Source(planes=[Plane(image=radiograph(together()))]),
        identity=identity(),
        kinds=frozenset({ObjectKind.SR_CLASSIFICATION}),
    )
    (tmp_path / "report.dcm").write_bytes(result.file())
    (judgement,) = validate_files([tmp_path / "report.dcm"], source=None)
    assert list(judgement.problems) == []


class NoReader:
    """A model that is warm and is never asked: no series is fit for it."""

    model = SimpleNamespace(name="test_model", version="1", manifest=Manifest.model_validate(MANIFEST))
    digest = "ab" * 32
    device = "cpu"


def outcome_of(images: list[Dataset], tmp_path: Path) -> folder_module.Outcome:
    write_files(images, tmp_path / "in")
    (outcome,) = analyze_studies(
        studies_in_folder(tmp_path / "in"),
        ["test_model"],
        warm=lambda _: cast("BundleRunner", NoReader()),
        output=tmp_path / "out",
    )
    return outcome


def test_a_folder_whose_images_have_no_position_is_refused_for_that_with_a_report(tmp_path: Path) -> None:
    images = images_of(volume_in_plane("axial"))
    for image in images:
        del image.ImagePositionPatient
    outcome = outcome_of(images, tmp_path)
    assert "ImagePositionPatient" in str(outcome.error)
    (path,) = outcome.files
    assert str(outcome.error) in texts(pydicom.dcmread(path))


def test_the_reason_is_told_even_if_no_report_of_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise AttributeError("a header of a kind that nobody has thought of")

    monkeypatch.setattr(folder_module, "explain_refusal", broken)
    outcome = outcome_of(images_of(volume_in_plane("axial", shape=(1, 20, 14))), tmp_path)
    assert isinstance(outcome.error, InputError)
    assert "unexpected" not in str(outcome.error)
    assert list(outcome.files) == []

"""Objects under pseudonyms: nothing of the patient is left in their bytes, and they are as valid as they were."""

import copy
import io
import itertools
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from coread import phantom
from coread.dicom_files import write_files
from coread.dicom_sr.review_objects import Signature, verified_successor
from coread.dicom_sr.validation.run import validate_files
from coread.errors import NotPseudonymised
from coread.models.runner import BundleRunner
from coread.objects import ObjectKind, Profile
from coread.pseudonyms import Choices, Dates, Pseudonyms
from coread.pseudonyms.key_table import Tied
from coread.pseudonyms.profile import OURS, PATIENT, STATED, TEMPORAL
from coread.workers.folder import analyze_studies
from coread.workers.study import studies_in_folder
from coread.workers.volume import build_volume
from tests.ecg import ecg
from tests.integration.test_object_kinds import SOURCES, every_object
from tests.integration.test_review_objects import TOO_NEW, note
from tests.support import NOW, images_of, volume_in_plane

TABLE = [BaseTag(tag[0] << 16 | tag[1]) for tag in table.ALL_TAGS or ()] or [
    BaseTag(tag[0] << 16 | tag[1])
    for name in dir(table)
    if name.endswith("_TAGS")
    for tag in getattr(table, name)
    if len(tag) == 2
]
"""Every attribute that PS3.15 Table E.1-1 names by itself."""

NUMBERS = {"US", "SS", "UL", "SL", "FL", "FD", "AS"}
"""Too short to be looked for in bytes."""
FIXED = {
    "EncapsulatedDocument",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientSex",
}
"""What planting something in would make another object of it, or an illegal one."""
CHOSEN = {"PatientAge", "PatientSize", "PatientWeight", "PregnancyStatus", "PatientSex"}


DAY = "77770707"
"""The same everywhere: one moved back might be another."""


class Markers:
    """Values that stand nowhere else, one for each place."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.bytes: list[bytes] = []

    def of(self, vr: str) -> Any:
        """A value of this VR; None if no value of it can be told in a file."""
        number = next(self._numbers)
        word = f"ZQ{number:05d}QZ"
        values: dict[str, tuple[Any, str]] = {
            **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"), (word, word)),
            "PN": (f"{word}^GIVEN", word),
            "UR": (f"http://{word}", word),
            "UI": (f"1.2.826.0.1.{number}.271828", f"1.2.826.0.1.{number}.271828"),
            "DA": (DAY, DAY),
            "DT": (f"{DAY}010203.{number:06d}", DAY),
            "TM": (f"010203.{number:06d}", f"010203.{number:06d}"),
            "DS": (f"31415.{number:05d}", f"31415.{number:05d}"),
            "IS": (f"27{number:06d}", f"27{number:06d}"),
            **dict.fromkeys(("OB", "UN", "OW"), (word.encode() + b"\0", word)),
        }
        if vr not in values:
            return None
        value, sought = values[vr]
        self.bytes.append(sought.encode())
        return value

    def plant(self, dataset: Dataset, tags: Sequence[BaseTag]) -> None:
        """Put one into each of these attributes, sequences included, and into what no standard names."""
        for tag in tags:
            if tag.group in (0, 2):
                continue
            vr = dictionary_VR(tag)[:2]
            if vr == "SQ":
                if tag not in dataset:
                    dataset.add(DataElement(tag, "SQ", DicomSequence([self._item()])))
                continue
            value = self.of(vr)
            if value is not None:
                dataset.add(DataElement(tag, vr, value))
        block = dataset.private_block(0x0011, "ZQPRIVATE", create=True)
        block.add_new(1, "LO", self.of("LO"))
        block.add_new(2, "SQ", DicomSequence([self._item()]))
        dataset.add(DataElement(BaseTag(0x60003000), "OW", self.of("OW")))
        dataset.add(DataElement(BaseTag(0x60004000), "LT", self.of("LT")))
        self.bytes.append(b"ZQPRIVATE")

    def _item(self) -> Dataset:
        item, inner = Dataset(), Dataset()
        for keyword in ("PersonName", "InstitutionName", "PatientComments", "StudyDate", "ReferencedSOPInstanceUID"):
            tag = pydicom.datadict.tag_for_keyword(keyword)
            setattr(item, keyword, self.of(dictionary_VR(tag or 0)))
            setattr(inner, keyword, self.of(dictionary_VR(tag or 0)))
        item.RequestAttributesSequence = DicomSequence([inner])
        item.AssigningFacilitySequence = DicomSequence([copy.deepcopy(inner)])
        return item

    def found_in(self, dataset: Dataset) -> list[str]:
        """Those that stand in the bytes of a file."""
        content = file_of(dataset)
        return [marker.decode() for marker in self.bytes if marker in content]


def file_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read_again(dataset: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(file_of(dataset)))


@pytest.fixture
def pseudonyms(tmp_path: Path) -> Pseudonyms:
    return Pseudonyms(tmp_path / "key", choices=Choices(images=True))


@pytest.fixture(scope="module")
def results() -> Mapping[ObjectKind, Dataset]:
    """Every kind of object, as it is read from the archive."""
    objects = every_object(build_volume(SOURCES["oblique"]()))
    return {kind: pydicom.dcmread(io.BytesIO(each.file())) for kind, each in objects.items()}


def plantable(*, but: frozenset[str] | set[str] = frozenset()) -> list[BaseTag]:
    return [tag for tag in TABLE if dictionary_has_tag(tag) and keyword_for_tag(tag) not in FIXED | CHOSEN | but]


def test_the_table_is_whole() -> None:
    keywords = {keyword_for_tag(tag) for tag in TABLE}
    assert len(keywords) > 600
    assert {"PatientName", "PatientID", "AccessionNumber", "StudyDate", "ContentSequence", "UID"} <= keywords


def test_nothing_planted_in_the_source_is_in_any_result(pseudonyms: Pseudonyms) -> None:
    markers = Markers()
    images = SOURCES["oblique"]()
    common = Dataset()
    geometry = {"PixelSpacing", "FrameOfReferenceUID"}
    markers.plant(common, plantable(but=geometry))
    common.PatientID, common.IssuerOfPatientID = "ZQIDQZ", "ZQISSUERQZ"
    common.PositionReferenceIndicator = "ZQPLACEQZ"
    markers.bytes += [b"ZQIDQZ", b"ZQISSUERQZ", b"ZQPLACEQZ"]
    markers.bytes += [str(getattr(image, keyword)).encode() for image in images for keyword in UIDS]
    for image in images:
        image.update(common)
    objects = every_object(build_volume(images))
    leaks = {kind: markers.found_in(result.dataset) for kind, result in objects.items()}
    assert all(leaks.values()), "the results themselves do name the patient"
    found = {kind: markers.found_in(pseudonyms.dataset(result.dataset)) for kind, result in objects.items()}
    assert found == {kind: [] for kind in objects}


UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "edited by others"])
@pytest.mark.parametrize("kind", [ObjectKind.SEG, ObjectKind.SR, ObjectKind.GSPS, ObjectKind.KOS, ObjectKind.RTSTRUCT])
def test_nothing_planted_in_an_object_is_left(
    kind: ObjectKind, is_ours: bool, results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms
) -> None:
    original = copy.deepcopy(results[kind])
    if not is_ours:
        original.SOPInstanceUID = original.file_meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.31415")
    markers, inner = Markers(), an_item_of(original)
    stays = OURS if is_ours else STATED
    markers.plant(original, plantable(but=stays | {"TimezoneOffsetFromUTC", "ContentCreatorName"}))
    markers.plant(inner, plantable(but=stays | {"ContentCreatorName"}))
    if not is_ours:
        for keyword in OURS - STATED:
            setattr(original, keyword, markers.of("LO"))
    original.preamble = b"ZQPREAMBLE".ljust(128, b"\0")
    original.file_meta.SourceApplicationEntityTitle = "ZQAET"
    markers.bytes += [b"ZQPREAMBLE", b"ZQAET", b"TEST-1", b"TEST^PATIENT", results[kind].StudyInstanceUID.encode()]
    assert len(markers.found_in(original)) > 500
    assert markers.found_in(pseudonyms.dataset(original)) == []


def an_item_of(dataset: Dataset) -> Dataset:
    """An item as deep inside as there is one: of the last sequence, and so on."""
    inside = [element for element in dataset if element.VR == "SQ" and element.value and not element.tag.is_private]
    return an_item_of(inside[-1].value[-1]) if inside else dataset


@pytest.mark.parametrize("choices", [Choices(images=True, dates=dates) for dates in Dates], ids=list(Dates))
def test_every_kind_stays_valid_beside_its_source(
    choices: Choices, results: Mapping[ObjectKind, Dataset], tmp_path: Path
) -> None:
    pseudonyms = Pseudonyms(tmp_path / "key", choices=choices)
    write_files(pseudonyms.datasets(SOURCES["oblique"]()), tmp_path / "source")
    files = []
    for original, found in zip(results.values(), pseudonyms.datasets(list(results.values())), strict=True):
        assert found.LongitudinalTemporalInformationModified == TEMPORAL[choices.dates]
        assert found.get("PixelData") == original.get("PixelData")
        files.append(tmp_path / f"{found.SOPInstanceUID}.dcm")
        files[-1].write_bytes(file_of(found))
    problems = {
        said.file.name: [f"{each.where}: expected {each.expected}, found {each.found}" for each in said.problems]
        for said in validate_files(files, source=tmp_path / "source")
    }
    assert problems == {file.name: [] for file in files}


def test_what_persons_said_of_results_stays_valid_and_names_nobody(
    results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms, tmp_path: Path
) -> None:
    signature = Signature(review_id="ab" * 16, name="ZQREADER^Anna", organization="ZQHOSPITAL", at=NOW)
    objects: dict[ObjectKind, Dataset] = {kind: each for kind, each in results.items() if kind not in TOO_NEW}
    signed = verified_successor(results[ObjectKind.SR], signature)
    rejected = note(objects, comment="ZQCOMMENT")
    write_files(pseudonyms.datasets(SOURCES["oblique"]()), tmp_path / "source")
    files = []
    for found in pseudonyms.datasets([signed, rejected, *objects.values()]):
        content = file_of(found)
        assert [word for word in (b"ZQ", b"M\xc3\xbcller", b"Krankenhaus", b"TEST-1") if word in content] == []
        files.append(tmp_path / f"{found.SOPInstanceUID}.dcm")
        files[-1].write_bytes(content)
    judged = validate_files(files, source=tmp_path / "source")
    problems = {problem.rule for each in judged for problem in each.problems}
    assert problems == {"tracking"}, "the names of its structures went with all else that a person may have typed"
    verified = pydicom.dcmread(files[0])
    assert verified.VerificationFlag == "VERIFIED"
    assert verified.VerifyingObserverSequence[0].VerifyingObserverName == "REMOVED^"
    assert verified.PredecessorDocumentsSequence[0].StudyInstanceUID == verified.StudyInstanceUID


def test_what_was_found_stays_word_for_word(results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms) -> None:
    kept = {"NumericValue", "TextValue", "GraphicData", "SegmentLabel", "ROIName", "ContourData", "FloatPixelData"}
    for original in results.values():
        found = pseudonyms.dataset(original)
        before, after = (
            [(element.keyword, element.value) for element in each.iterall() if element.keyword in kept]
            for each in (original, found)
        )
        assert before == after
        concepts = [concepts_in(each) for each in (original, found)]
        assert concepts[1][-len(concepts[0]) :] == concepts[0] or set(concepts[0]) < set(concepts[1])
        assert found.SeriesDescription == original.SeriesDescription
        assert found.ContentQualification == "RESEARCH"
        assert (found.ManufacturerModelName, found.DeviceSerialNumber) == ("test_model", "ab" * 8)


def concepts_in(dataset: Dataset) -> list[str]:
    return [element.value for element in dataset.iterall() if element.keyword == "CodeMeaning"]


def test_how_it_was_done_stands_in_the_object(results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms) -> None:
    found = read_again(pseudonyms.dataset(results[ObjectKind.SEG]))
    assert found.PatientIdentityRemoved == "YES"
    assert found.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [item.CodeValue for item in found.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113103", "113104", "113105", "113107", "113108"]
    assert "PS3.15" in found.DeidentificationMethod[1]
    assert found.PatientName == f"{found.PatientID}^"


def test_references_lead_to_the_source_under_its_pseudonyms(
    results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms
) -> None:
    images = pseudonyms.datasets(SOURCES["oblique"]())
    found = pseudonyms.dataset(results[ObjectKind.SEG])
    referenced = {
        item.ReferencedSOPInstanceUID for item in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == {image.SOPInstanceUID for image in images}
    assert found.StudyInstanceUID == images[0].StudyInstanceUID
    assert found.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert all(UID(uid).is_valid and uid.startswith("2.25.") for uid in referenced)
    assert found.SOPClassUID == results[ObjectKind.SEG].SOPClassUID


def test_a_patients_dates_keep_their_distances(pseudonyms: Pseudonyms) -> None:
    first, second, other = (images_of(volume_in_plane("axial"), name=name)[0] for name in ("a", "b", "c"))
    first.StudyDate, second.StudyDate, other.StudyDate = "20200227", "20200301", "20200227"
    second.ContentTime = "235959.123456"
    other.PatientID = "SOMEBODY-ELSE"
    found = pseudonyms.datasets([first, second, other])
    days = [date.fromisoformat(each.StudyDate) for each in found]
    assert days[1] - days[0] == timedelta(days=3)
    assert date(2010, 2, 1) < days[0] < date(2020, 2, 27)
    assert days[2] != days[0]
    assert found[1].ContentTime == "2359"
    assert [each.PatientBirthDate or "" for each in found] == ["", "", ""]


def test_the_oldest_are_told_as_ninety(pseudonyms: Pseudonyms) -> None:
    image = images_of(volume_in_plane("axial"))[0]
    for stated, told in (("045Y", "045Y"), ("090Y", "090Y"), ("104Y", "090Y"), ("011M", "011M"), ("old", "")):
        with pydicom.config.disable_value_validation():
            image.PatientAge = stated
            assert (pseudonyms.dataset(image).PatientAge or "") == told


def test_a_text_that_names_the_patient_goes_and_a_uid_in_one_is_replaced(
    results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms
) -> None:
    report = copy.deepcopy(results[ObjectKind.SR_NOT_EVALUATED])
    report.PatientName = "Vermeulen^Anneke"
    texts = [item for item in report.iterall() if item.keyword == "TextValue"]
    texts[0].value = "seen with Mrs VERMEULEN today"
    texts[1].value = f"expected one, found two in {report.StudyInstanceUID}; send it again"
    said = [str(item.value) for item in pseudonyms.dataset(report).iterall() if item.keyword == "TextValue"]
    assert said[0] == "REMOVED"
    assert said[1] == f"expected one, found two in {pseudonyms.uid(report.StudyInstanceUID)}; send it again"


@pytest.mark.parametrize(
    "said", ["Mrs Jansen", "formerly DE WIT", "Pieters, see there", "of Bakker", "number HOSP-77123", "id q-88 x"]
)
def test_a_text_that_holds_another_name_or_number_of_the_patient_goes(
    results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms, said: str
) -> None:
    report = copy.deepcopy(results[ObjectKind.SR_NOT_EVALUATED])
    report.PatientBirthName = "Jansen^Anneke"
    report.OtherPatientNames = ["De Wit^Anneke", "Pieters^A"]
    report.PatientMotherBirthName = "Bakker^B"
    known_as = [Dataset(), Dataset()]
    known_as[0].PatientID, known_as[1].PatientID = "HOSP-77123", " Q-88 "
    report.OtherPatientIDsSequence = known_as
    text, other = [item for item in report.iterall() if item.keyword == "TextValue"][:2]
    text.value, other.value = said, "nobody"
    found = [str(item.value) for item in pseudonyms.dataset(report).iterall() if item.keyword == "TextValue"]
    assert found[:2] == ["REMOVED", "nobody"]


def test_pixels_of_images_are_refused_unless_somebody_has_looked(
    results: Mapping[ObjectKind, Dataset], tmp_path: Path
) -> None:
    careful = Pseudonyms(tmp_path / "key")
    for kind in (ObjectKind.SC, ObjectKind.SC_MAP):
        with pytest.raises(NotPseudonymised, match="burned into"):
            careful.dataset(results[kind])
    with pytest.raises(NotPseudonymised, match="burned into"):
        careful.dataset(SOURCES["oblique"]()[0])
    assert careful.dataset(results[ObjectKind.SEG]).get("BurnedInAnnotation") is None
    looked = Pseudonyms(tmp_path / "other key", choices=Choices(images=True))
    assert looked.dataset(results[ObjectKind.SC]).BurnedInAnnotation == "NO"


def test_documents_of_other_formats_are_refused(pseudonyms: Pseudonyms) -> None:
    document = images_of(volume_in_plane("axial"))[0]
    document.EncapsulatedDocument = b"%PDF"
    with pytest.raises(NotPseudonymised, match="another format"):
        pseudonyms.dataset(document)


def test_an_ecg_keeps_its_signal_and_none_of_its_words(pseudonyms: Pseudonyms) -> None:
    recording = ecg(PatientName="ZQNAME^A", PatientID="ZQID")
    annotation = Dataset()
    annotation.UnformattedTextValue = "ZQWORDS of the cardiologist"
    recording.WaveformAnnotationSequence = DicomSequence([annotation])
    found = pseudonyms.dataset(recording)
    assert [word for word in (b"ZQNAME", b"ZQID", b"ZQWORDS") if word in file_of(found)] == []
    signal = [each.WaveformSequence[0].WaveformData for each in (recording, found)]
    assert signal[0] == signal[1]


def test_every_object_is_tied_back_before_it_is_handed_out(
    results: Mapping[ObjectKind, Dataset], pseudonyms: Pseudonyms
) -> None:
    original = results[ObjectKind.SR]
    found = pseudonyms.dataset(original)
    ties = pseudonyms.find(str(found.SOPInstanceUID))
    assert [(tie.kind, tie.original) for tie in ties] == [
        (Tied.INSTANCE, original.SOPInstanceUID),
        (Tied.SERIES, original.SeriesInstanceUID),
        (Tied.STUDY, original.StudyInstanceUID),
        (Tied.PATIENT, original.PatientID),
    ]
    assert pseudonyms.find(found.PatientID)[0].original == original.PatientID


def test_the_original_stays_as_it_is_and_the_same_again_gives_the_same_bytes(
    results: Mapping[ObjectKind, Dataset], tmp_path: Path
) -> None:
    before = {kind: file_of(each) for kind, each in results.items()}
    once = [
        file_of(each)
        for each in Pseudonyms(tmp_path / "key", choices=Choices(images=True)).datasets([*results.values()])
    ]
    again = [file_of(each) for each in Pseudonyms(tmp_path / "key").datasets([*results.values()])]
    assert once == again
    assert {kind: file_of(each) for kind, each in results.items()} == before
    other = Pseudonyms(tmp_path / "other", choices=Choices(images=True)).dataset(results[ObjectKind.SEG])
    assert other.StudyInstanceUID not in once[0].decode("latin-1")


def test_a_real_reading_names_nobody(left_ventricle: BundleRunner, pseudonyms: Pseudonyms, tmp_path: Path) -> None:
    markers = Markers()
    common = Dataset()
    kept = {"StudyDate", "SeriesDescription", "ProtocolName", "AcquisitionContextSequence", "ContrastBolusAgent"}
    names = [tag for tag in plantable(but=kept) if dictionary_VR(tag)[:2] in ("PN", "LO", "SH", "LT", "UT", "UI")]
    markers.plant(common, [tag for tag in names if tag.group in (0x0008, PATIENT, 0x0012, 0x0032, 0x0040, 0x4008)])
    common.PatientID = "ZQIDQZ"
    markers.bytes.append(b"ZQIDQZ")
    for path in phantom.write_short_axis_study(tmp_path / "in"):
        image = pydicom.dcmread(path)
        image.update(common)
        markers.bytes += [str(getattr(image, keyword)).encode() for keyword in UIDS]
        image.save_as(path)
    (outcome,) = analyze_studies(
        studies_in_folder(tmp_path / "in"),
        ["left_ventricle_sax"],
        warm=lambda _: left_ventricle,
        output=tmp_path / "out",
        profiles=list(Profile),
    )
    objects = [pydicom.dcmread(path) for path in outcome.files if path.suffix == ".dcm"]
    assert len(objects) >= 6
    assert all(markers.found_in(each) for each in objects)
    assert [markers.found_in(each) for each in pseudonyms.datasets(objects)] == [[] for _ in objects]

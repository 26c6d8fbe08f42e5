"""``coread validate``: defects that are planted are found, and nothing is said of objects that are right."""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from coread.cli import coread
from coread.dicom_files import write_files
from coread.dicom_sr.encode import encode_findings
from coread.dicom_sr.validation.problem import Problem, Severity
from coread.dicom_sr.validation.run import validate_files
from coread.workers.volume import build_volume
from tests.integration.test_result_objects import findings_in
from tests.support import PLANES, identity, images_of, volume_in_plane

Harm = Callable[[Dataset], None]


@dataclass(frozen=True)
class Case:
    """Result objects that are right, as datasets, and the folder of their source."""

    objects: dict[str, Dataset]
    source: Path


def case_in(folder: Path, plane: str, labels: tuple[int, ...]) -> Case:
    images = images_of(volume_in_plane(plane))
    write_files(images, folder)
    source = build_volume(images)
    results = encode_findings(findings_in(source, *labels), images=source.images, identity=identity())
    return Case({result.kind: pydicom.dcmread(io.BytesIO(result.file())) for result in results}, folder)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_in(tmp_path_factory.mktemp("source"), "oblique", (1, 2))


def judged(objects: dict[str, Dataset], source: Path, folder: Path) -> dict[str, list[Problem]]:
    files = []
    for kind, dataset in objects.items():
        files.append(folder / f"{kind}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return {each.file.stem: list(each.problems) for each in validate_files(files, source=source)}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("labels", [(1, 2), (1,), ()])
def test_nothing_is_said_of_what_is_right(plane: str, labels: tuple[int, ...], tmp_path: Path) -> None:
    case = case_in(tmp_path / "source", plane, labels)
    assert judged(case.objects, case.source, tmp_path) == {kind: [] for kind in case.objects}


def frames(dataset: Dataset) -> Sequence:
    sequence: Sequence = dataset.PerFrameFunctionalGroupsSequence
    return sequence


def shared(dataset: Dataset) -> Dataset:
    item: Dataset = dataset.SharedFunctionalGroupsSequence[0]
    return item


def move(dataset: Dataset, by: tuple[float, float, float]) -> None:
    for groups in frames(dataset):
        position = groups.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            f"{float(x) + dx:.4f}" for x, dx in zip(position.ImagePositionPatient, by, strict=True)
        ]


def set_everywhere(keyword: str, value: object) -> Harm:
    def harm(dataset: Dataset) -> None:
        found = [element for element in dataset.iterall() if element.keyword == keyword]
        assert found, keyword
        for element in found:
            element.value = value

    return harm


def put(keyword: str, value: object) -> Harm:
    return lambda dataset: setattr(dataset, keyword, value)


def drop(keyword: str) -> Harm:
    def harm(dataset: Dataset) -> None:
        del dataset[keyword]

    return harm


def in_segment(change: Harm, index: int = 0) -> Harm:
    return lambda dataset: change(dataset.SegmentSequence[index])


def in_first_frame(change: Harm) -> Harm:
    return lambda dataset: change(frames(dataset)[0])


def swap_frames(dataset: Dataset) -> None:
    first, second = frames(dataset)[0], frames(dataset)[1]
    first.PlanePositionSequence, second.PlanePositionSequence = (
        second.PlanePositionSequence,
        first.PlanePositionSequence,
    )


def repeat_frame(dataset: Dataset) -> None:
    frames(dataset)[1] = copy.deepcopy(frames(dataset)[0])


def cut_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


def first_source(dataset: Dataset) -> Dataset:
    image: Dataset = frames(dataset)[0].DerivationImageSequence[0].SourceImageSequence[0]
    return image


def recode(sequence: str, **values: str) -> Harm:
    def harm(item: Dataset) -> None:
        for keyword, value in values.items():
            setattr(item[sequence].value[0], keyword, value)

    return harm


SEG_DEFECTS: dict[str, Harm] = {
    "another study": put("StudyInstanceUID", "1.2.3.4"),
    "another patient": put("PatientID", "SOMEBODY-ELSE"),
    "another name": put("PatientName", "Somebody^Else"),
    "another birth date": put("PatientBirthDate", "19000101"),
    "another sex": put("PatientSex", "F"),
    "no patient identifier": put("PatientID", ""),
    "another study date": put("StudyDate", "19990101"),
    "another accession number": put("AccessionNumber", "X1"),
    "the source's series": lambda dataset: put(
        "SeriesInstanceUID", dataset.ReferencedSeriesSequence[0].SeriesInstanceUID
    )(dataset),
    "another frame of reference": put("FrameOfReferenceUID", "1.2.3.4"),
    "modality SR": put("Modality", "SR"),
    "10 mm up": lambda dataset: move(dataset, (0, 0, 10)),
    "1 mm left": lambda dataset: move(dataset, (1, 0, 0)),
    "one frame moved": lambda dataset: set_everywhere("ImagePositionPatient", [0, 0, 0])(frames(dataset)[2]),
    "two frames exchanged": swap_frames,
    "mirrored": lambda dataset: set_everywhere("ImageOrientationPatient", [0.64, -0.48, -0.6, -0.6, -0.8, 0])(
        shared(dataset)
    ),
    "rows and columns exchanged": lambda dataset: set_everywhere(
        "ImageOrientationPatient", [0.6, 0.8, 0, -0.64, 0.48, 0.6]
    )(shared(dataset)),
    "spacing exchanged": lambda dataset: set_everywhere("PixelSpacing", [2.25, 1.5])(shared(dataset)),
    "spacing doubled": lambda dataset: set_everywhere("PixelSpacing", [3.0, 4.5])(shared(dataset)),
    "no references": drop("ReferencedSeriesSequence"),
    "another series referenced": lambda dataset: set_everywhere("SeriesInstanceUID", "1.2.3")(
        dataset.ReferencedSeriesSequence[0]
    ),
    "a frame without its source": in_first_frame(drop("DerivationImageSequence")),
    "a source that is not there": lambda dataset: put("ReferencedSOPInstanceUID", "1.2.3")(first_source(dataset)),
    "a source of another class": lambda dataset: put("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2")(
        first_source(dataset)
    ),
    "a listed instance that is not there": lambda dataset: put("ReferencedSOPInstanceUID", "1.2.3")(
        dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    ),
    "segment numbered 3": in_segment(put("SegmentNumber", 3)),
    "two segments of one number": in_segment(put("SegmentNumber", 2)),
    "a frame of a segment that is not there": in_first_frame(
        lambda groups: put("ReferencedSegmentNumber", 9)(groups.SegmentIdentificationSequence[0])
    ),
    "a segment without a label": in_segment(put("SegmentLabel", "")),
    "a segment without a type": in_segment(drop("SegmentedPropertyTypeCodeSequence")),
    "a segment without a category": in_segment(drop("SegmentedPropertyCategoryCodeSequence")),
    "an automatic segment without its algorithm": in_segment(drop("SegmentAlgorithmName")),
    "an unknown kind of algorithm": in_segment(put("SegmentAlgorithmType", "MAGIC")),
    "a Tracking ID without its UID": in_segment(drop("TrackingUID")),
    "one Tracking UID for two segments": set_everywhere("TrackingUID", "1.2.3.4"),
    "a code of the retired scheme": in_segment(
        recode("SegmentedPropertyTypeCodeSequence", CodeValue="T-32602", CodingSchemeDesignator="SRT")
    ),
    "the meaning of another code": in_segment(recode("SegmentedPropertyTypeCodeSequence", CodeMeaning="Spleen")),
    "a code of DCM that is none": in_segment(recode("SegmentationAlgorithmIdentificationSequence", AlgorithmName="x")),
    "a frame twice": repeat_frame,
    "one frame too many stated": lambda dataset: put("NumberOfFrames", dataset.NumberOfFrames + 1)(dataset),
    "pixels cut short": cut_pixels,
    "eight bits": put("BitsAllocated", 8),
    "a dimension without a value": in_first_frame(
        lambda groups: put("DimensionIndexValues", [1])(groups.FrameContentSequence[0])
    ),
}
SEG_DEFECTS["a code of DCM that is none"] = in_segment(
    lambda segment: recode("AlgorithmFamilyCodeSequence", CodeValue="999999")(
        segment.SegmentationAlgorithmIdentificationSequence[0]
    )
)


def items(dataset: Dataset, concept: str) -> list[tuple[Dataset, Dataset]]:
    """(parent, item) of each content item with a concept."""
    found = []
    for item in dataset.get("ContentSequence", []):
        if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeValue == concept:
            found.append((dataset, item))
        found += items(item, concept)
    return found


def without(concept: str) -> Harm:
    def harm(dataset: Dataset) -> None:
        found = items(dataset, concept)
        assert found, concept
        for parent, item in found:
            parent.ContentSequence = Sequence([each for each in parent.ContentSequence if each is not item])

    return harm


def in_item(concept: str, change: Harm) -> Harm:
    def harm(dataset: Dataset) -> None:
        found = items(dataset, concept)
        assert found, concept
        change(found[0][1])

    return harm


def with_unit(code: str, meaning: str, scheme: str = "UCUM") -> Harm:
    def harm(item: Dataset) -> None:
        unit = item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
        unit.CodeValue, unit.CodeMeaning, unit.CodingSchemeDesignator = code, meaning, scheme

    return harm


def with_value(value: str) -> Harm:
    return lambda item: put("NumericValue", value)(item.MeasuredValueSequence[0])


def without_segmentation(dataset: Dataset) -> None:
    study = dataset.CurrentRequestedProcedureEvidenceSequence[0]
    study.ReferencedSeriesSequence = Sequence(
        [
            series
            for series in study.ReferencedSeriesSequence
            if series.ReferencedSOPSequence[0].ReferencedSOPClassUID != "1.2.840.10008.5.1.4.1.1.66.4"
        ]
    )


def add_point(dataset: Dataset, frame_of_reference_uid: str | None, numbers: list[float]) -> None:
    """A 3D point in the first measurement group; by default in the frame of reference of the source."""
    ((_, group), *_) = items(dataset, "125007")
    known = {str(element.value) for element in dataset.iterall() if element.keyword == "ReferencedFrameOfReferenceUID"}
    library = [item.UID for _, item in items(dataset, "112227")]
    point = Dataset()
    point.RelationshipType, point.ValueType, point.GraphicType = "CONTAINS", "SCOORD3D", "POINT"
    point.ReferencedFrameOfReferenceUID = frame_of_reference_uid or next(iter([*library, *known]))
    point.GraphicData = numbers
    group.ContentSequence = Sequence([*group.ContentSequence, point])


REFERENCED_SEGMENT, VOLUME, DIAMETER = "121191", "118565006", "81827009"

SR_DEFECTS: dict[str, Harm] = {
    "another study": put("StudyInstanceUID", "1.2.3.4"),
    "another patient": put("PatientID", "SOMEBODY-ELSE"),
    "no template": drop("ContentTemplateSequence"),
    "another title": recode("ConceptNameCodeSequence", CodeValue="113000", CodeMeaning="Of Interest"),
    "a point in another frame of reference": lambda dataset: add_point(dataset, "1.2.3", [1.0, 2.0, 3.0]),
    "a point of two numbers": lambda dataset: add_point(dataset, None, [1.0, 2.0]),
    "another template": lambda dataset: put("TemplateIdentifier", "2000")(dataset.ContentTemplateSequence[0]),
    "no procedure reported": without("121058"),
    "no observer type": without("121005"),
    "no device UID": without("121012"),
    "verified by nobody": put("VerificationFlag", "VERIFIED"),
    "no Tracking Identifier": without("112039"),
    "no Tracking UID": without("112040"),
    "another Tracking UID than the segment's": in_item("112040", put("UID", "1.2.3.4")),
    "no algorithm": without("111001"),
    "a volume in mm": in_item(VOLUME, with_unit("mm", "mm")),
    "a volume without a unit": in_item(VOLUME, with_unit("1", "no units")),
    "a volume in a unit of nobody's": in_item(VOLUME, with_unit("ml", "ml", "99X")),
    "a length in ml": in_item(DIAMETER, with_unit("ml", "milliliter")),
    "a negative volume": in_item(VOLUME, with_value("-3")),
    "a volume of a thousand litres": in_item(VOLUME, with_value("1000000")),
    "a length of ten metres": in_item(DIAMETER, with_value("10000")),
    "a volume that is not the segment's": in_item(VOLUME, with_value("99")),
    "a thousandfold volume (mm3 called ml)": in_item(
        VOLUME, lambda item: with_value(f"{float(item.MeasuredValueSequence[0].NumericValue) * 1000:.6g}")(item)
    ),
    "a number without a value": in_item(VOLUME, put("MeasuredValueSequence", Sequence([]))),
    "a segment that is not there": in_item(
        REFERENCED_SEGMENT, lambda item: put("ReferencedSegmentNumber", 7)(item.ReferencedSOPSequence[0])
    ),
    "the other segment": in_item(
        REFERENCED_SEGMENT, lambda item: put("ReferencedSegmentNumber", 2)(item.ReferencedSOPSequence[0])
    ),
    "an instance that is not in the evidence": in_item(
        REFERENCED_SEGMENT, lambda item: put("ReferencedSOPInstanceUID", "1.2.3")(item.ReferencedSOPSequence[0])
    ),
    "another class than the instance's": in_item(
        REFERENCED_SEGMENT,
        lambda item: put("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4")(item.ReferencedSOPSequence[0]),
    ),
    "the segmentation is not in the evidence": without_segmentation,
    "evidence of another study": lambda dataset: put("StudyInstanceUID", "1.2.3")(
        dataset.CurrentRequestedProcedureEvidenceSequence[0]
    ),
    "a code of the retired scheme": in_item("121071", recode("ConceptCodeSequence", CodingSchemeDesignator="SRT")),
    "the meaning of another code": in_item("121071", recode("ConceptCodeSequence", CodeMeaning="Spleen")),
    "the meaning of another concept": in_item(VOLUME, recode("ConceptNameCodeSequence", CodeMeaning="Weight")),
    "a code without a meaning": in_item("121071", recode("ConceptCodeSequence", CodeMeaning="")),
}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("SEG", name) for name in SEG_DEFECTS), *(("SR", name) for name in SR_DEFECTS)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says that a planted value is odd; it is
def test_a_planted_defect_is_found(case: Case, kind: str, name: str, tmp_path: Path) -> None:
    objects = copy.deepcopy(case.objects)
    harm = (SEG_DEFECTS if kind == "SEG" else SR_DEFECTS)[name]
    harm(objects[kind])
    ours = [
        problem
        for problem in judged(objects, case.source, tmp_path)[kind]
        if problem.severity is Severity.ERROR and problem.rule not in ("dciodvfy", "dsrdump")
    ]
    assert ours, "no rule of our own has found it"
    assert "structure" not in {problem.rule for problem in ours}, "found only because a rule broke"


def test_the_suite_is_as_large_as_it_claims() -> None:
    assert len(SEG_DEFECTS) + len(SR_DEFECTS) >= 70


def test_the_command_says_what_is_wrong_and_where(case: Case, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.dcm", tmp_path / "wrong.dcm"
    case.objects["SEG"].save_as(right, enforce_file_format=True)
    harmed = copy.deepcopy(case.objects["SEG"])
    move(harmed, (0, 0, 10))
    harmed.SOPInstanceUID = harmed.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4.5")
    harmed.save_as(wrong, enforce_file_format=True)
    good = CliRunner().invoke(coread, ["validate", str(right), "--source", str(case.source)])
    assert (good.exit_code, "in order" in good.output) == (0, True), good.output
    bad = CliRunner().invoke(coread, ["validate", str(right), str(wrong), "--source", str(case.source)])
    assert bad.exit_code == 1
    assert "PerFrameFunctionalGroupsSequence[0].PlanePositionSequence" in bad.output
    assert "10.00 mm away" in bad.output
    machine = CliRunner().invoke(coread, ["validate", str(wrong), "--source", str(case.source), "--json"])
    assert json.loads(machine.output)[0]["problems"][0]["rule"] == "geometry"


FOREIGN = (
    "objects/seg_image_ct_binary_overlap.dcm",
    "objects/seg_image_ct_true_fractional.dcm",
    "objects/seg_image_sm_control_labelmap.dcm",
    "objects/liver_deflate.dcm",
    "objects/sr_document.dcm",
    "objects/parametric_map_float.dcm",
    "series_ct_with_seg/liver.dcm",
    "series_ct_with_seg/partial_overlaps.dcm",
    "pet_sr/sr.dcm",
    "pet_sr/seg.dcm",
    "pet_sr/rwvm.dcm",
)


def test_a_file_that_is_no_dicom_does_not_stop_the_others(case: Case, tmp_path: Path) -> None:
    case.objects["SR"].save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("not DICOM")
    judgements = validate_files([tmp_path / "notes.txt", tmp_path / "sr.dcm"], source=None)
    assert [judgement.has_errors for judgement in judgements] == [True, False]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_foreign_objects_are_judged_without_a_crash(name: str, real_data: Path) -> None:
    (judgement,) = validate_files([real_data / "zoo" / name], source=None)
    assert [problem for problem in judgement.problems if problem.rule == "structure"] == []


def test_a_foreign_segmentation_lies_on_its_source(real_data: Path) -> None:
    folder = real_data / "zoo" / "series_ct_with_seg"
    (judgement,) = validate_files([folder / "liver.dcm"], source=folder)
    assert [problem for problem in judgement.problems if problem.rule == "geometry"] == []
    harmed = pydicom.dcmread(folder / "liver.dcm")
    assert harmed.Modality == "SEG"

"""``coread validate``: defects that are planted are found, and nothing is said of objects that are right."""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
from coread.dicom_sr.validation.run import judge, subjects_in, validate_files
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
    results = encode_findings(findings_in(source, *labels), source=source.as_source, identity=identity())
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


def judged_by_us(objects: dict[str, Dataset], source: Path, folder: Path) -> dict[str, list[Problem]]:
    """What our own rules find; the public validators are not asked."""
    files = []
    for kind, dataset in objects.items():
        files.append(folder / f"{kind}.dcm")
        dataset.save_as(files[-1], enforce_file_format=False)
    subjects = subjects_in(files, source=source)
    return {file.stem: list(judge(subject)) for file, subject in subjects.items() if subject}


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


def all_of(*changes: Harm) -> Harm:
    """One change after the other."""

    def harm(dataset: Dataset) -> None:
        for change in changes:
            change(dataset)

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


LEFT, RIGHT = ("7771000", "SCT", "Left"), ("24028007", "SCT", "Right")


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def as_code(sequence: str, value: str, scheme: str, meaning: str) -> Harm:
    return recode(sequence, CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def shift(dataset: Dataset, **pixels: float) -> None:
    """Along the rows, the columns and the normal, in pixels and slices."""
    orientation = [float(x) for x in shared(dataset).PlaneOrientationSequence[0].ImageOrientationPatient]
    measures = shared(dataset).PixelMeasuresSequence[0]
    row, column = orientation[:3], orientation[3:]
    normal = [row[1] * column[2] - row[2] * column[1], row[2] * column[0] - row[0] * column[2]]
    normal.append(row[0] * column[1] - row[1] * column[0])
    steps = {
        "columns": (row, float(measures.PixelSpacing[1])),
        "rows": (column, float(measures.PixelSpacing[0])),
        "slices": (normal, float(measures.SliceThickness)),
    }
    total = [sum(steps[name][0][axis] * steps[name][1] * count for name, count in pixels.items()) for axis in range(3)]
    move(dataset, (total[0], total[1], total[2]))


def orient(*values: float) -> Harm:
    return lambda dataset: set_everywhere("ImageOrientationPatient", list(values))(shared(dataset))


def turned(dataset: Dataset, *, row: int, column: int) -> None:
    orientation = [float(x) for x in shared(dataset).PlaneOrientationSequence[0].ImageOrientationPatient]
    values = [row * x for x in orientation[:3]] + [column * x for x in orientation[3:]]
    orient(*(round(value, 6) for value in values))(dataset)


def reverse_positions(dataset: Dataset) -> None:
    """The stack upside down: pixels and sources stay, positions run the other way."""
    positions = [copy.deepcopy(groups.PlanePositionSequence) for groups in frames(dataset)]
    for groups, position in zip(frames(dataset), reversed(positions), strict=True):
        groups.PlanePositionSequence = position


def as_right_anterior_superior(dataset: Dataset) -> None:
    for groups in frames(dataset):
        position = groups.PlanePositionSequence[0]
        x, y, z = (float(each) for each in position.ImagePositionPatient)
        position.ImagePositionPatient = [-x, -y, z]


def in_measures(keyword: str, value: object) -> Harm:
    return lambda dataset: put(keyword, value)(shared(dataset).PixelMeasuresSequence[0])


def in_indices(change: Callable[[list[int]], list[int]], index: int = 0) -> Harm:
    def harm(dataset: Dataset) -> None:
        content = frames(dataset)[index].FrameContentSequence[0]
        content.DimensionIndexValues = change(list(content.DimensionIndexValues))

    return harm


def in_dimension(keyword: str, value: object, index: int = 0) -> Harm:
    return lambda dataset: put(keyword, value)(dataset.DimensionIndexSequence[index])


def drop_in_dimension(keyword: str) -> Harm:
    return lambda dataset: drop(keyword)(dataset.DimensionIndexSequence[0])


def list_series_twice(dataset: Dataset) -> None:
    dataset.ReferencedSeriesSequence.append(copy.deepcopy(dataset.ReferencedSeriesSequence[0]))


def list_instance_twice(dataset: Dataset) -> None:
    listed = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    listed.append(copy.deepcopy(listed[0]))


def one_source_for_all(dataset: Dataset) -> None:
    for groups in frames(dataset):
        groups.DerivationImageSequence = copy.deepcopy(frames(dataset)[0].DerivationImageSequence)


def share_frame_content(dataset: Dataset) -> None:
    shared(dataset).FrameContentSequence = copy.deepcopy(frames(dataset)[0].FrameContentSequence)


def exchange_segment_descriptions(dataset: Dataset) -> None:
    """Type and category, each in the other's place."""
    segment = dataset.SegmentSequence[0]
    kind, category = segment.SegmentedPropertyTypeCodeSequence, segment.SegmentedPropertyCategoryCodeSequence
    segment.SegmentedPropertyTypeCodeSequence, segment.SegmentedPropertyCategoryCodeSequence = category, kind


def both_sides(segment: Dataset) -> None:
    segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [code(*LEFT), code(*RIGHT)]


def add_private(dataset: Dataset) -> None:
    dataset.add_new(0x00111001, "LO", "junk")


def no_overlap(dataset: Dataset) -> None:
    """Every pixel of the second segment set, in frames that the first one shares."""
    dataset.SegmentsOverlap = "NO"
    dataset.PixelData = b"\xff" * len(dataset.PixelData)


def as_rows_and_columns(dataset: Dataset) -> None:
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


def derivation(dataset: Dataset) -> Dataset:
    item: Dataset = frames(dataset)[0].DerivationImageSequence[0]
    return item


SEG_DEFECTS |= {
    "the file's class is another": lambda dataset: put("MediaStorageSOPClassUID", "1.2.840.10008.5.1.4.1.1.4")(
        dataset.file_meta
    ),
    "the file's instance is another": lambda dataset: put("MediaStorageSOPInstanceUID", "1.2.3.4")(dataset.file_meta),
    "a UID with a leading zero": put("SeriesInstanceUID", "1.2.03.4"),
    "a UID of 70 characters": put("DeviceUID", "1.2." + "3" * 66),
    "a description of 80 characters": put("SeriesDescription", "x" * 80),
    "a label in small letters": put("ContentLabel", "segmentation"),
    "a date with dashes": put("ContentDate", "2026-01-02"),
    "a content date before the study": put("ContentDate", "20010101"),
    "no series number": put("SeriesNumber", None),
    "no instance number": drop("InstanceNumber"),
    "no manufacturer": put("Manufacturer", ""),
    "no software version": drop("SoftwareVersions"),
    "no serial number": drop("DeviceSerialNumber"),
    "no content date": drop("ContentDate"),
    "no study date attribute": drop("StudyDate"),
    "no accession number attribute": drop("AccessionNumber"),
    "an original image": put("ImageType", ["ORIGINAL", "PRIMARY"]),
    "another study description": put("StudyDescription", "another"),
    "a sex that there is not": put("PatientSex", "X"),
    "a qualification that there is not": put("ContentQualification", "CLINICAL"),
    "a private element without a creator": add_private,
    "a lossy flag without a loss": put("LossyImageCompression", "01"),
    "a flag that is none": put("LossyImageCompression", "NO"),
    "text beyond ASCII without a character set": all_of(
        drop("SpecificCharacterSet"), put("SeriesDescription", "Hürtgen")
    ),
    "an unknown character set": put("SpecificCharacterSet", "ISO_IR 999"),
    "half a pixel right": lambda dataset: shift(dataset, columns=0.5),
    "half a pixel down": lambda dataset: shift(dataset, rows=0.5),
    "half a pixel right and down": lambda dataset: shift(dataset, columns=0.5, rows=0.5),
    "one slice up": lambda dataset: shift(dataset, slices=1),
    "half a slice up": lambda dataset: shift(dataset, slices=0.5),
    "a tenth of a millimetre off": lambda dataset: move(dataset, (0, 0, 0.1)),
    "positions the other way round": reverse_positions,
    "rows flipped": lambda dataset: turned(dataset, row=-1, column=1),
    "columns flipped": lambda dataset: turned(dataset, row=1, column=-1),
    "turned by 180 degrees": lambda dataset: turned(dataset, row=-1, column=-1),
    "directions that are no unit vectors": orient(2, 0, 0, 0, 2, 0),
    "directions that are not at a right angle": orient(1, 0, 0, 0.6, 0.8, 0),
    "RAS instead of LPS": as_right_anterior_superior,
    "a spacing of zero": in_measures("PixelSpacing", [0, 0]),
    "one spacing for two directions": in_measures("PixelSpacing", [1.5]),
    "twice the spacing between slices": in_measures("SpacingBetweenSlices", 10),
    "half the spacing between slices": in_measures("SpacingBetweenSlices", 2.5),
    "a thickness of nothing that is there": in_measures("SliceThickness", 3.3),
    "a negative thickness": in_measures("SliceThickness", -5),
    "rows and columns of pixels exchanged": as_rows_and_columns,
    "no orientation": lambda dataset: drop("PlaneOrientationSequence")(shared(dataset)),
    "no pixel measures": lambda dataset: drop("PixelMeasuresSequence")(shared(dataset)),
    "a frame without a position": in_first_frame(drop("PlanePositionSequence")),
    "a position of two numbers": in_first_frame(
        lambda groups: put("ImagePositionPatient", [1, 2])(groups.PlanePositionSequence[0])
    ),
    "frame content for all": share_frame_content,
    "an orientation for all and for one": in_first_frame(
        lambda groups: put("PlaneOrientationSequence", Sequence([Dataset()]))(groups)
    ),
    "one source for all frames": one_source_for_all,
    "a series listed twice": list_series_twice,
    "an instance listed twice": list_instance_twice,
    "a listed instance of another class": lambda dataset: put("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2")(
        dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    ),
    "a listed series without instances": lambda dataset: put("ReferencedInstanceSequence", Sequence([]))(
        dataset.ReferencedSeriesSequence[0]
    ),
    "frame 2 of a single image": lambda dataset: put("ReferencedFrameNumber", 2)(first_source(dataset)),
    "its own source": lambda dataset: put("ReferencedSOPInstanceUID", dataset.SOPInstanceUID)(first_source(dataset)),
    "a source without a purpose": lambda dataset: drop("PurposeOfReferenceCodeSequence")(first_source(dataset)),
    "a purpose that is none": lambda dataset: as_code("PurposeOfReferenceCodeSequence", "121007", "DCM", "Device")(
        first_source(dataset)
    ),
    "no derivation": lambda dataset: drop("DerivationCodeSequence")(derivation(dataset)),
    "a derivation that is none": lambda dataset: as_code("DerivationCodeSequence", "121007", "DCM", "Device")(
        derivation(dataset)
    ),
    "an index of 0": in_indices(lambda values: [0, *values[1:]]),
    "the indices of another frame": in_indices(lambda values: [values[0], values[1] + 1]),
    "an index for two segments": lambda dataset: set_everywhere("DimensionIndexValues", [1, 1])(frames(dataset)[-1]),
    "a pointer to nothing that is there": in_dimension("DimensionIndexPointer", 0x00209056),
    "a pointer into another group": in_dimension("FunctionalGroupPointer", 0x00209113),
    "a dimension of another organization": in_dimension("DimensionOrganizationUID", "1.2.3"),
    "no organization": drop("DimensionOrganizationSequence"),
    "no dimensions": drop("DimensionIndexSequence"),
    "a dimension without a pointer": drop_in_dimension("DimensionIndexPointer"),
    "category and type exchanged": exchange_segment_descriptions,
    "an organ as category": in_segment(as_code("SegmentedPropertyCategoryCodeSequence", "10200004", "SCT", "Liver")),
    "a category as type": in_segment(
        as_code("SegmentedPropertyTypeCodeSequence", "91723000", "SCT", "Anatomical Structure")
    ),
    "an observer as type": in_segment(as_code("SegmentedPropertyTypeCodeSequence", "121007", "DCM", "Device")),
    "an answer as anatomy": in_segment(as_code("AnatomicRegionSequence", "52101004", "SCT", "Present"), 1),
    "a liver that is a body substance": in_segment(
        all_of(
            as_code("SegmentedPropertyTypeCodeSequence", "10200004", "SCT", "Liver"),
            as_code("SegmentedPropertyCategoryCodeSequence", "91720002", "SCT", "Body Substance"),
        )
    ),
    "a SNOMED code with a wrong digit": in_segment(recode("SegmentedPropertyTypeCodeSequence", CodeValue="49848008")),
    "value and meaning exchanged": in_segment(
        recode("SegmentedPropertyTypeCodeSequence", CodeValue="Myocardium", CodeMeaning="49848007")
    ),
    "a scheme that is none": in_segment(recode("SegmentedPropertyTypeCodeSequence", CodingSchemeDesignator="SNOMED")),
    "a code of SNOMED called DCM": in_segment(
        recode("SegmentedPropertyTypeCodeSequence", CodingSchemeDesignator="DCM")
    ),
    "a code without a scheme": in_segment(recode("SegmentedPropertyTypeCodeSequence", CodingSchemeDesignator="")),
    "a context group that the code is not in": in_segment(
        lambda segment: put("ContextIdentifier", "244")(segment.SegmentedPropertyCategoryCodeSequence[0])
    ),
    "two types": in_segment(
        lambda segment: segment.SegmentedPropertyTypeCodeSequence.append(code("10200004", "SCT", "Liver"))
    ),
    "left and right": in_segment(both_sides),
    "made by hand by an algorithm": in_segment(put("SegmentAlgorithmType", "MANUAL")),
    "an algorithm without a version": in_segment(
        lambda segment: drop("AlgorithmVersion")(segment.SegmentationAlgorithmIdentificationSequence[0])
    ),
    "an algorithm of no family": in_segment(
        lambda segment: as_code("AlgorithmFamilyCodeSequence", "121007", "DCM", "Device")(
            segment.SegmentationAlgorithmIdentificationSequence[0]
        )
    ),
    "a colour of two numbers": in_segment(put("RecommendedDisplayCIELabValue", [1, 2])),
    "a label of 80 characters": in_segment(put("SegmentLabel", "x" * 80)),
    "a Tracking UID that is none": in_segment(put("TrackingUID", "first")),
    "segment 0": in_segment(put("SegmentNumber", 0)),
    "frames of the other segment": lambda dataset: set_everywhere("ReferencedSegmentNumber", 2)(frames(dataset)[0]),
    "a type of segmentation that is none": put("SegmentationType", "BINARIES"),
    "fractional by its name only": put("SegmentationType", "FRACTIONAL"),
    "a label map by its name only": put("SegmentationType", "LABELMAP"),
    "binary with a fractional type": put("SegmentationFractionalType", "PROBABILITY"),
    "two bits stored": put("BitsStored", 2),
    "the second bit high": put("HighBit", 1),
    "signed pixels": put("PixelRepresentation", 1),
    "three samples": put("SamplesPerPixel", 3),
    "dark for bright": put("PhotometricInterpretation", "MONOCHROME1"),
    "pixels too many": lambda dataset: put("PixelData", dataset.PixelData + b"\0\0")(dataset),
    "segments that overlap and do not": no_overlap,
    "an overlap that there is not": put("SegmentsOverlap", "MAYBE"),
    "no segments": put("SegmentSequence", Sequence([])),
    "laterality that is none": put("Laterality", "X"),
}


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
    def harm(item: Dataset) -> None:
        item.MeasuredValueSequence[0].NumericValue = value
        item.MeasuredValueSequence[0].pop("FloatingPointValue", None)

    return harm


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


def all_items(dataset: Dataset) -> list[tuple[Dataset, Dataset]]:
    """(parent, item) of every content item."""
    found = []
    for item in dataset.get("ContentSequence", []):
        found += [(dataset, item), *all_items(item)]
    return found


def evidence(dataset: Dataset) -> Sequence:
    series: Sequence = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    return series


def listed_twice(dataset: Dataset) -> None:
    evidence(dataset).append(copy.deepcopy(evidence(dataset)[0]))


def listed_as_current_and_other(dataset: Dataset) -> None:
    dataset.PertinentOtherEvidenceSequence = copy.deepcopy(dataset.CurrentRequestedProcedureEvidenceSequence)


def listed_in_the_other_series(dataset: Dataset) -> None:
    one, other = evidence(dataset)[0], evidence(dataset)[1]
    one.SeriesInstanceUID, other.SeriesInstanceUID = other.SeriesInstanceUID, one.SeriesInstanceUID


def document_of(dataset: Dataset, class_uid: str, instance_uid: str) -> Sequence:
    study, series, reference = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = class_uid, instance_uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = dataset.SeriesInstanceUID, Sequence([reference])
    study.StudyInstanceUID, study.ReferencedSeriesSequence = dataset.StudyInstanceUID, Sequence([series])
    return Sequence([study])


def preceded_by_itself(dataset: Dataset) -> None:
    dataset.PredecessorDocumentsSequence = document_of(dataset, dataset.SOPClassUID, dataset.SOPInstanceUID)


def preceded_by_an_image(dataset: Dataset) -> None:
    dataset.PredecessorDocumentsSequence = document_of(dataset, "1.2.840.10008.5.1.4.1.1.4", "1.2.3")


def verified(dataset: Dataset) -> None:
    observer = Dataset()
    observer.VerifyingObserverName, observer.VerifyingOrganization = "Some^Body", "Somewhere"
    observer.VerificationDateTime = "20260102030405"
    dataset.VerifyingObserverSequence = Sequence([observer])


def verified_while_partial(dataset: Dataset) -> None:
    verified(dataset)
    dataset.VerificationFlag, dataset.CompletionFlag = "VERIFIED", "PARTIAL"


def verified_without_a_date(dataset: Dataset) -> None:
    verified(dataset)
    dataset.VerificationFlag = "VERIFIED"
    del dataset.VerifyingObserverSequence[0].VerificationDateTime


def add_region(
    graphic_type: str, numbers: list[float], *, relationship: str = "SELECTED FROM", frame: int | None = None
) -> Harm:
    """Coordinates in the first image of the library, in the first measurement group."""

    def harm(dataset: Dataset) -> None:
        image = copy.deepcopy(next(item for _, item in all_items(dataset) if item.ValueType == "IMAGE"))
        source = Dataset()
        source.RelationshipType, source.ValueType = relationship, "IMAGE"
        source.ReferencedSOPSequence = image.ReferencedSOPSequence
        if frame is not None:
            source.ReferencedSOPSequence[0].ReferencedFrameNumber = frame
        region = Dataset()
        region.RelationshipType, region.ValueType, region.GraphicType = "CONTAINS", "SCOORD", graphic_type
        region.ConceptNameCodeSequence = Sequence([code("111030", "DCM", "Image Region")])
        region.GraphicData, region.ContentSequence = numbers, Sequence([source])
        items(dataset, "125007")[0][1].ContentSequence.append(region)

    return harm


def add_region_without_image(dataset: Dataset) -> None:
    add_region("POINT", [3.0, 4.0])(dataset)
    del items(dataset, "111030")[0][1].ContentSequence


def add_certainty(value: str, unit: str, meaning: str) -> Harm:
    def harm(dataset: Dataset) -> None:
        group = items(dataset, "125007")[0][1]
        number = copy.deepcopy(items(dataset, VOLUME)[0][1])
        number.ConceptNameCodeSequence = Sequence([code("111012", "DCM", "Certainty of Finding")])
        with_value(value)(number)
        with_unit(unit, meaning)(number)
        group.ContentSequence.append(number)

    return harm


def by_reference(*path: int) -> Harm:
    def harm(dataset: Dataset) -> None:
        item = Dataset()
        item.RelationshipType, item.ReferencedContentItemIdentifier = "INFERRED FROM", list(path)
        number = items(dataset, VOLUME)[0][1]
        number.ContentSequence = Sequence([item])

    return harm


def empty_group(dataset: Dataset) -> None:
    group = items(dataset, "125007")[0][1]
    kept = ("112039", "112040", "111001", "111003", "111000")
    group.ContentSequence = Sequence(
        [item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue in kept]
    )


def exchange_findings(dataset: Dataset) -> None:
    (_, one), (_, other) = items(dataset, "121071")
    one.ConceptCodeSequence, other.ConceptCodeSequence = other.ConceptCodeSequence, one.ConceptCodeSequence


def exchange_groups_tracking(dataset: Dataset) -> None:
    (_, one), (_, other) = items(dataset, "112040")
    one.UID, other.UID = other.UID, one.UID


def related_as(concept: str, relationship: str) -> Harm:
    return in_item(concept, put("RelationshipType", relationship))


def in_library(concept: str, value: str) -> Harm:
    return in_item(concept, with_value(value))


def float_value(item: Dataset) -> None:
    item.MeasuredValueSequence[0].FloatingPointValue = 77.0


def as_text(item: Dataset) -> None:
    item.ValueType, item.TextValue = "TEXT", str(item.UID)
    del item.UID


def reference(item: Dataset) -> Dataset:
    found: Dataset = item.ReferencedSOPSequence[0]
    return found


SR_DEFECTS |= {
    "no language": without("121049"),
    "a language that is none": in_item("121049", as_code("ConceptCodeSequence", "Deutsch", "RFC5646", "German")),
    "a language of SNOMED": in_item("121049", as_code("ConceptCodeSequence", "10200004", "SCT", "Liver")),
    "an organ as procedure": in_item("121058", as_code("ConceptCodeSequence", "10200004", "SCT", "Liver")),
    "an observer of another type": in_item("121005", as_code("ConceptCodeSequence", "113076", "DCM", "Segmentation")),
    "a person who observes like a device": in_item("121005", as_code("ConceptCodeSequence", "121006", "DCM", "Person")),
    "a device UID that is none": in_item("121012", put("UID", "device 1")),
    "a device UID as text": in_item("121012", as_text),
    "a Tracking UID as text": in_item("112040", as_text),
    "a template of another resource": lambda dataset: put("MappingResource", "SNM3")(
        dataset.ContentTemplateSequence[0]
    ),
    "a group of a strange template": in_item(
        "125007", lambda group: put("TemplateIdentifier", "5200")(group.ContentTemplateSequence[0])
    ),
    "no measurements": without("126010"),
    "an empty container of measurements": in_item("126010", put("ContentSequence", Sequence([]))),
    "a group that says nothing": empty_group,
    "a group without its segment": in_item("125007", without(REFERENCED_SEGMENT)),
    "a segment without its number": in_item(
        REFERENCED_SEGMENT, lambda item: drop("ReferencedSegmentNumber")(reference(item))
    ),
    "a segment of an image": lambda dataset: in_item(
        REFERENCED_SEGMENT,
        all_of(
            lambda item: put(
                "ReferencedSOPClassUID", evidence(dataset)[0].ReferencedSOPSequence[0].ReferencedSOPClassUID
            )(reference(item)),
            lambda item: put(
                "ReferencedSOPInstanceUID", evidence(dataset)[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            )(reference(item)),
        ),
    )(dataset),
    "a segment number on an image": lambda dataset: put("ReferencedSegmentNumber", 1)(
        reference(next(item for _, item in all_items(dataset) if item.ValueType == "IMAGE"))
    ),
    "a frame that the segmentation does not have": in_item(
        REFERENCED_SEGMENT, lambda item: put("ReferencedFrameNumber", 99)(reference(item))
    ),
    "a frame of the other segment": in_item(
        REFERENCED_SEGMENT, lambda item: put("ReferencedFrameNumber", 7)(reference(item))
    ),
    "two segments in one item": in_item(
        REFERENCED_SEGMENT, lambda item: item.ReferencedSOPSequence.append(copy.deepcopy(reference(item)))
    ),
    "findings exchanged": exchange_findings,
    "Tracking UIDs exchanged": exchange_groups_tracking,
    "another identifier for the same Tracking UID": in_item("112039", put("TextValue", "another")),
    "one Tracking UID for two groups": set_everywhere("UID", "1.2.3.4"),
    "a Tracking UID that is none": in_item("112040", put("UID", "first")),
    "a source series that is not the segment's": in_item("121232", put("UID", "1.2.3.4")),
    "an answer as finding site": in_item("363698007", as_code("ConceptCodeSequence", "52101004", "SCT", "Present")),
    "a derivation that is none": in_item("121401", as_code("ConceptCodeSequence", "10200004", "SCT", "Liver")),
    "an algorithm without a version": without("111003"),
    "a family of no algorithms": in_item("111000", as_code("ConceptCodeSequence", "121007", "DCM", "Device")),
    "a procedure that is contained": related_as("121058", "CONTAINS"),
    "a language that is context": related_as("121049", "HAS OBS CONTEXT"),
    "an observer that is contained": related_as("121005", "CONTAINS"),
    "a Tracking UID that is contained": related_as("112040", "CONTAINS"),
    "a measurement that is a property": related_as(VOLUME, "HAS PROPERTIES"),
    "a measurement that is inferred": related_as(VOLUME, "INFERRED FROM"),
    "a measurement that modifies": related_as(VOLUME, "HAS CONCEPT MOD"),
    "a derivation that is contained": related_as("121401", "CONTAINS"),
    "a segment that is context": related_as(REFERENCED_SEGMENT, "HAS OBS CONTEXT"),
    "a relationship that there is not": related_as(VOLUME, "BELONGS TO"),
    "no relationship": in_item(VOLUME, drop("RelationshipType")),
    "a value type that there is not": in_item(VOLUME, put("ValueType", "NUMBER")),
    "a text without a text": in_item("112039", put("TextValue", "")),
    "a code without a code": in_item("121071", drop("ConceptCodeSequence")),
    "a UID without a UID": in_item("112040", drop("UID")),
    "an image without a reference": in_item(REFERENCED_SEGMENT, drop("ReferencedSOPSequence")),
    "a measurement without a name": in_item(VOLUME, drop("ConceptNameCodeSequence")),
    "two names": in_item(VOLUME, lambda item: item.ConceptNameCodeSequence.append(code("42798000", "SCT", "Area"))),
    "a container that continues nothing": in_item("125007", put("ContinuityOfContent", "")),
    "a root that is no container": put("ValueType", "TEXT"),
    "no title": drop("ConceptNameCodeSequence"),
    "no content": put("ContentSequence", Sequence([])),
    "no completion flag": drop("CompletionFlag"),
    "a completion flag that there is not": put("CompletionFlag", "DONE"),
    "no verification flag": drop("VerificationFlag"),
    "a preliminary flag that there is not": put("PreliminaryFlag", "MAYBE"),
    "verified, and not": verified,
    "verified while partial": verified_while_partial,
    "verified without a date": verified_without_a_date,
    "a content date before the study": put("ContentDate", "20010101"),
    "no content time": drop("ContentTime"),
    "preceded by itself": preceded_by_itself,
    "preceded by an image": preceded_by_an_image,
    "evidence listed twice": listed_twice,
    "evidence that is current and other": listed_as_current_and_other,
    "evidence in the other's series": listed_in_the_other_series,
    "evidence of another class": lambda dataset: put("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2")(
        evidence(dataset)[0].ReferencedSOPSequence[0]
    ),
    "evidence that does not exist": lambda dataset: put("ReferencedSOPInstanceUID", "1.2.3")(
        evidence(dataset)[0].ReferencedSOPSequence[-1]
    ),
    "no evidence": drop("CurrentRequestedProcedureEvidenceSequence"),
    "the report as its own evidence": lambda dataset: put("ReferencedSOPInstanceUID", dataset.SOPInstanceUID)(
        evidence(dataset)[0].ReferencedSOPSequence[-1]
    ),
    "a value that is no number": in_item(VOLUME, with_value("NaN")),
    "a value that has no end": in_item(VOLUME, with_value("inf")),
    "a value of 20 characters": in_item(VOLUME, with_value("1.234567890123456789")),
    "two values": in_item(
        VOLUME, lambda item: item.MeasuredValueSequence.append(copy.deepcopy(item.MeasuredValueSequence[0]))
    ),
    "another floating point value": in_item(VOLUME, float_value),
    "a unit with the name of another": in_item(VOLUME, with_unit("ml", "millimeter")),
    "an area unit for a diameter": in_item(DIAMETER, with_unit("mm2", "square millimeter")),
    "a diameter longer than its segment": in_item(DIAMETER, with_value("60")),
    "a diameter in metres that is millimetres": in_item(DIAMETER, with_unit("m", "m")),
    "a volume 5 % too large": in_item(
        VOLUME, lambda item: with_value(f"{float(item.MeasuredValueSequence[0].NumericValue) * 1.05:.6g}")(item)
    ),
    "a value of the scheme's own": in_item(
        VOLUME,
        lambda item: as_code("MeasurementUnitsCodeSequence", "ml", "SCT", "milliliter")(item.MeasuredValueSequence[0]),
    ),
    "certain to 140 %": add_certainty("140", "%", "Percent"),
    "certain to -1 %": add_certainty("-1", "%", "Percent"),
    "certain to 87 of 1": add_certainty("87", "1", "no units"),
    "certain in millimetres": add_certainty("87", "mm", "mm"),
    "a SNOMED code with a wrong digit": in_item("121071", recode("ConceptCodeSequence", CodeValue="49848008")),
    "a scheme that is none": in_item("121071", recode("ConceptCodeSequence", CodingSchemeDesignator="SNOMED")),
    "value and meaning exchanged": in_item(
        "121071", recode("ConceptCodeSequence", CodeValue="Myocardium", CodeMeaning="49848007")
    ),
    "a concept of DCM called SCT": in_item("121071", recode("ConceptNameCodeSequence", CodingSchemeDesignator="SCT")),
    "a code of 20 characters": in_item("121071", recode("ConceptCodeSequence", CodeValue="1" * 20)),
    "a point outside the image": add_region("POINT", [40.0, 4.0]),
    "a point left of the image": add_region("POINT", [-3.0, 4.0]),
    "a polyline of one point": add_region("POLYLINE", [3.0, 4.0]),
    "an odd number of coordinates": add_region("POLYLINE", [3.0, 4.0, 5.0]),
    "a circle of three points": add_region("CIRCLE", [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
    "an ellipse of two points": add_region("ELLIPSE", [3.0, 4.0, 5.0, 6.0]),
    "an ellipse of crooked axes": add_region("ELLIPSE", [2.0, 5.0, 10.0, 5.0, 5.0, 3.0, 8.0, 7.0]),
    "two points that are one": add_region("POINT", [3.0, 4.0, 5.0, 6.0]),
    "a polygon in an image": add_region("POLYGON", [3.0, 4.0, 5.0, 6.0, 3.0, 7.0, 3.0, 4.0]),
    "an open outline": add_region("POLYLINE", [3.0, 4.0, 5.0, 6.0, 3.0, 7.0]),
    "a line of no length": add_region("POLYLINE", [3.0, 4.0, 3.0, 4.0]),
    "coordinates of no number": add_region("POINT", [float("nan"), 4.0]),
    "coordinates of no image": add_region_without_image,
    "coordinates inferred from an image": add_region("POINT", [3.0, 4.0], relationship="INFERRED FROM"),
    "coordinates in frame 5 of one": add_region("POINT", [3.0, 4.0], frame=5),
    "a point far from the images": lambda dataset: add_point(dataset, None, [500.0, 500.0, 500.0]),
    "a polygon that is no plane": all_of(
        lambda dataset: add_point(dataset, None, [-31, 17, 8, -30, 17, 8, -30, 18, 12, -31, 18, 8, -31, 17, 8]),
        lambda dataset: put("GraphicType", "POLYGON")(items(dataset, "125007")[0][1].ContentSequence[-1]),
    ),
    "a polygon that is open": all_of(
        lambda dataset: add_point(dataset, None, [-31, 17, 8, -30, 17, 8, -30, 18, 8, -31, 18, 8]),
        lambda dataset: put("GraphicType", "POLYGON")(items(dataset, "125007")[0][1].ContentSequence[-1]),
    ),
    "points in a class that knows none": all_of(
        lambda dataset: add_point(dataset, None, [-31.0, 17.0, 8.5]),
        put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33"),
        lambda dataset: put("MediaStorageSOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33")(dataset.file_meta),
    ),
    "inferred from what is not there": by_reference(1, 99),
    "inferred from what it is part of": by_reference(1, 10),
    "a library of another modality": in_item(
        "121139", as_code("ConceptCodeSequence", "CT", "DCM", "Computed Tomography")
    ),
    "a library of another frame of reference": in_item("112227", put("UID", "1.2.3")),
    "a library of other rows": in_library("110910", "512"),
    "a library with spacings exchanged": all_of(in_library("111026", "1.5"), in_library("111066", "2.25")),
    "a library of another place": in_library("110903", "99"),
    "a library of another direction": in_library("110904", "1"),
    "a private element without a creator": add_private,
    "no series number": put("SeriesNumber", None),
    "no instance number": drop("InstanceNumber"),
}


WARNED: dict[str, tuple[str, Harm]] = {
    "a device's final word": ("SR", put("PreliminaryFlag", "FINAL")),
    "another finding site than the segment's": (
        "SR",
        in_item("363698007", as_code("ConceptCodeSequence", "10200004", "SCT", "Liver")),
    ),
    "another finding than the segment's": (
        "SR",
        in_item("121071", as_code("ConceptCodeSequence", "10200004", "SCT", "Liver")),
    ),
    "groups of two templates": (
        "SR",
        in_item("125007", lambda group: put("TemplateIdentifier", "1501")(group.ContentTemplateSequence[0])),
    ),
    "two segments of one label": ("SEG", set_everywhere("SegmentLabel", "one")),
    "a segment without a colour": ("SEG", in_segment(drop("RecommendedDisplayCIELabValue"))),
    "a liver that is a tissue": (
        "SEG",
        in_segment(
            all_of(
                as_code("SegmentedPropertyTypeCodeSequence", "10200004", "SCT", "Liver"),
                as_code("SegmentedPropertyCategoryCodeSequence", "85756007", "SCT", "Tissue"),
            )
        ),
    ),
    "frames without a pixel": ("SEG", lambda dataset: put("PixelData", bytes(len(dataset.PixelData)))(dataset)),
    "a content date in the future": ("SEG", put("ContentDate", "20990101")),
}
"""What is worse than it need be, and no more: readers, not the standard, have trouble with it."""


@pytest.mark.parametrize(
    ("kind", "name"), [*(("SEG", name) for name in SEG_DEFECTS), *(("SR", name) for name in SR_DEFECTS)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says that a planted value is odd; it is
def test_a_planted_defect_is_found(case: Case, kind: str, name: str, tmp_path: Path) -> None:
    objects = copy.deepcopy(case.objects)
    harm = (SEG_DEFECTS if kind == "SEG" else SR_DEFECTS)[name]
    harm(objects[kind])
    ours = [
        problem for problem in judged_by_us(objects, case.source, tmp_path)[kind] if problem.severity is Severity.ERROR
    ]
    assert ours, "no rule of our own has found it"
    assert "structure" not in {problem.rule for problem in ours}, "found only because a rule broke"


def test_objects_of_two_patients_in_one_study_are_wrong_without_a_source(case: Case, tmp_path: Path) -> None:
    objects = {kind: copy.deepcopy(case.objects[kind]) for kind in ("SEG", "SR")}
    files = [tmp_path / f"{kind}.dcm" for kind in objects]
    for changed, expected in ((False, set()), (True, {"patient"})):
        if changed:
            objects["SR"].PatientID = "SOMEBODY-ELSE"
        for file in files:
            objects[file.stem].save_as(file, enforce_file_format=True)
        subjects = subjects_in(files, source=None).values()
        rules = {problem.rule for subject in subjects if subject for problem in judge(subject)}
        assert rules == expected


@pytest.mark.parametrize("name", WARNED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_only_readers_dislike_is_a_warning(case: Case, name: str, tmp_path: Path) -> None:
    kind, harm = WARNED[name]
    objects = {each: copy.deepcopy(case.objects[each]) for each in ("SEG", "SR")}
    harm(objects[kind])
    problems = judged_by_us(objects, case.source, tmp_path)[kind]
    assert {problem.severity for problem in problems} == {Severity.WARNING}


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mask_that_is_flipped_is_not_where_its_outline_is(case: Case, axis: int, tmp_path: Path) -> None:
    outlined = [kind for kind, each in case.objects.items() if any(e.keyword == "GraphicData" for e in each.iterall())]
    if not outlined:
        pytest.skip("no report with outlines is written")
    objects = {kind: copy.deepcopy(case.objects[kind]) for kind in ("SEG", *outlined)}
    assert not any(judged_by_us(objects, case.source, tmp_path).values())
    segmentation = objects["SEG"]
    flipped = np.flip(segmentation.pixel_array, axis=axis)
    segmentation.PixelData = (
        np.packbits(flipped.ravel(), bitorder="little").tobytes().ljust(len(segmentation.PixelData), b"\0")
    )
    rules = {problem.rule for kind in outlined for problem in judged_by_us(objects, case.source, tmp_path)[kind]}
    assert rules == {"coordinates"}


@pytest.mark.parametrize(("concept", "factor"), [("42798000", 4.0), ("42798000", 0.25), (DIAMETER, 3.0)])
@pytest.mark.parametrize("flat", [False, True])
def test_an_outline_is_measured_as_it_is(case: Case, concept: str, factor: float, flat: bool, tmp_path: Path) -> None:
    report = copy.deepcopy(case.objects["SR"])
    group = items(report, "125007")[0][1]
    kept = [item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue in ("112039", "112040")]
    group.ContentSequence = Sequence(kept)
    if flat:  # columns of 2.25 mm, rows of 1.5 mm
        add_region("POLYLINE", [2.0, 3.0, 10.0, 3.0, 10.0, 15.0, 2.0, 15.0, 2.0, 3.0])(report)
    else:
        image = pydicom.dcmread(next(iter(sorted(case.source.iterdir()))))
        origin, along = np.array(image.ImagePositionPatient, float), np.array(image.ImageOrientationPatient, float)
        corners = [(4.5, 4.5), (22.5, 4.5), (22.5, 22.5), (4.5, 22.5), (4.5, 4.5)]
        add_point(report, None, [x for a, b in corners for x in origin + a * along[:3] + b * along[3:]])
        region = group.ContentSequence[-1]
        region.GraphicType, region.ConceptNameCodeSequence = (
            "POLYLINE",
            Sequence([code("111030", "DCM", "Image Region")]),
        )
    stated = {"42798000": 18.0 * 18.0, DIAMETER: 18.0 * 2**0.5}
    for value, expected in ((stated[concept], 0), (stated[concept] * factor, 1)):
        number = copy.deepcopy(items(case.objects["SR"], VOLUME)[0][1])
        number.ConceptNameCodeSequence = Sequence([code(concept, "SCT", "Area" if concept != DIAMETER else "Diameter")])
        all_of(with_value(f"{value:.6g}"), with_unit("mm2" if concept != DIAMETER else "mm", "mm"))(number)
        changed = copy.deepcopy(report)
        items(changed, "125007")[0][1].ContentSequence.append(number)
        problems = judged_by_us({"SR": changed}, case.source, tmp_path)["SR"]
        assert len([each for each in problems if each.rule == "value"]) == expected


def test_the_suite_is_as_large_as_it_claims() -> None:
    assert len(SEG_DEFECTS) + len(SR_DEFECTS) >= 250


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


WELL_FORMED = (
    "objects/seg_image_ct_binary_overlap.dcm",
    "objects/seg_image_ct_true_fractional.dcm",
    "objects/seg_image_sm_control_labelmap.dcm",
    "objects/liver_deflate.dcm",
    "objects/liver_nonbyte_aligned_rle.dcm",
    "objects/parametric_map_float.dcm",
    "objects/sm_annotations.dcm",
    "series_ct_with_seg/liver.dcm",
    "series_ct_with_seg/partial_overlaps.dcm",
    "pet_sr/sr.dcm",
    "pet_sr/seg.dcm",
    "pet_sr/rwvm.dcm",
)


@pytest.mark.parametrize("name", WELL_FORMED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_rule_of_ours_calls_well_formed_foreign_objects_wrong(name: str, real_data: Path) -> None:
    file = real_data / "zoo" / name
    source = file.parent if file.parent.name == "series_ct_with_seg" else None
    (subject,) = subjects_in([file], source=source).values()
    assert subject
    assert [problem for problem in judge(subject) if problem.severity is Severity.ERROR] == []


def test_a_foreign_segmentation_lies_on_its_source(real_data: Path) -> None:
    folder = real_data / "zoo" / "series_ct_with_seg"
    (judgement,) = validate_files([folder / "liver.dcm"], source=folder)
    assert [problem for problem in judgement.problems if problem.rule == "geometry"] == []
    harmed = pydicom.dcmread(folder / "liver.dcm")
    assert harmed.Modality == "SEG"

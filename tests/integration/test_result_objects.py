"""What `dicom_sr` writes, read back and judged by other people's programs."""

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from coread.dicom_sr.encode import ResultObject, encode_findings
from coread.dicom_sr.proof import prove_segmentation
from coread.errors import ResultError
from coread.findings import Findings
from coread.workers.volume import SourceVolume, build_volume
from tests.support import PLANES, identity, images_of, measured, output_of, volume_in_plane

NOISE = (
    "Element=<AccessionNumber> IE <Series> versus <Study>",
    "The VR checker does not support",
)
"""Lines of the validators that say nothing about the object."""


def findings_in(source: SourceVolume, *labels: int) -> Findings:
    """Two lopsided structures, as far as ``labels`` names them."""
    array = np.zeros(source.volume.spatial_shape, np.uint8)
    if 1 in labels:
        array[1:4, 3:11, 2:5] = 1
        array[2, 12, 9] = 1
    if 2 in labels:
        array[2:6, 5:9, 6:13] = 2
    return measured(array, source.volume)


def encoded(plane: str = "oblique", labels: tuple[int, ...] = (1, 2)) -> tuple[SourceVolume, Findings, dict[str, Any]]:
    source = build_volume(images_of(volume_in_plane(plane)))
    findings = findings_in(source, *labels)
    results = encode_findings(findings, source=source.as_source, identity=identity())
    return source, findings, {result.kind: result for result in results}


def written(results: dict[str, ResultObject], folder: Path) -> dict[str, Path]:
    paths = {}
    for kind, result in results.items():
        paths[kind] = folder / f"{kind}.dcm"
        paths[kind].write_bytes(result.file())
    return paths


@pytest.fixture(params=sorted(PLANES))
def case(request: pytest.FixtureRequest) -> tuple[SourceVolume, Findings, dict[str, Any]]:
    return encoded(request.param)


def read_report(result: ResultObject) -> hd.sr.MeasurementReport:
    content = hd.sr.Comprehensive3DSR.from_dataset(result.dataset).content
    assert isinstance(content, hd.sr.MeasurementReport)
    return content


def without_noise(text: str) -> list[str]:
    return [line for line in text.splitlines() if not any(noise in line for noise in NOISE)]


def complaints(text: str) -> list[str]:
    return [line for line in without_noise(text) if line.startswith(("Error", "Warning", "E:", "W:"))]


@pytest.mark.parametrize("labels", [(1, 2), (1,), (2,), ()])
def test_dciodvfy_and_dcentvfy_find_nothing(labels: tuple[int, ...], tmp_path: Path) -> None:
    source, _, results = encoded(labels=labels)
    paths = written(results, tmp_path)
    for path in paths.values():
        status, said = output_of("dciodvfy", "-new", path)
        assert status == 0, said
        assert complaints(said) == []
    for index, image in enumerate(source.images):
        image.save_as(tmp_path / f"source{index}.dcm", enforce_file_format=True)
    _, said = output_of("dcentvfy", *sorted(tmp_path.glob("source*.dcm")), *paths.values())
    assert complaints(said) == []


def test_dcmqi_gives_back_the_very_mask(case: tuple[SourceVolume, Findings, dict[str, Any]], tmp_path: Path) -> None:
    source, findings, results = case
    path = written(results, tmp_path)["SEG"]
    arguments = ["--inputDICOM", path, "--outputDirectory", tmp_path, "-p", "mask", "-t", "nii"]
    status, said = output_of("segimage2itkimage", *arguments)
    assert status == 0, said
    for number, structure in enumerate(findings.present, start=1):
        image: Any = nibabel.load(tmp_path / f"mask-{number}.nii.gz")
        voxels = np.argwhere(np.asarray(image.dataobj) > 0)
        places = nibabel.affines.apply_affine(image.affine, voxels) * [-1, -1, 1]  # NIfTI is RAS
        expected = source.volume.map_indices_to_reference(np.argwhere(findings.mask.array == structure.label))
        assert len(places) == len(expected)
        # Sort both clouds by place: they must be the same points, not only as many.
        for one, other in ((places, expected),):
            order_one = np.lexsort(np.round(one, 2).T)
            order_other = np.lexsort(np.round(other, 2).T)
            assert np.allclose(one[order_one], other[order_other], atol=0.02)


@pytest.mark.parametrize("labels", [(1, 2), (1,), ()])
def test_the_report_is_read_by_dcmtk_and_dcmqi(labels: tuple[int, ...], tmp_path: Path) -> None:
    for kind, path in written(encoded(labels=labels)[2], tmp_path).items():
        if kind == "SEG":
            continue
        status, said = output_of("dsrdump", path)
        assert status == 0, said
        if kind == "SR":
            read = tmp_path / "report.json"
            status, said = output_of("tid1500reader", "--inputDICOM", path, "--outputMetadata", read)
            assert status == 0
            assert [line for line in said.splitlines() if line.startswith("E:")] == []
            groups = json.loads(read.read_text())["Measurements"]
            assert len(groups) == len(labels)


def test_the_report_says_what_was_measured(case: tuple[SourceVolume, Findings, dict[str, Any]]) -> None:
    _, findings, results = case
    groups = read_report(results["SR"]).get_volumetric_roi_measurement_groups()
    assert len(groups) == 2
    for group, structure in zip(groups, findings.present, strict=True):
        assert group.finding_type is not None
        assert group.finding_type.value == structure.type.value
        said = {
            (one.name.value, one.derivation and one.derivation.value): (one.value, one.unit.value)
            for one in group.get_measurements()
        }
        for measurement in structure.measurements:
            derivation = measurement.derivation and measurement.derivation.value
            value, unit = said[measurement.concept.value, derivation]
            assert value == pytest.approx(measurement.value, rel=1e-5)
            assert unit == measurement.unit.value


def test_report_and_segmentation_are_tied_by_their_tracking_uids() -> None:
    _, _, results = encoded()
    segmentation = results["SEG"].dataset
    groups = read_report(results["SR"]).get_volumetric_roi_measurement_groups()
    assert [segment.TrackingUID for segment in segmentation.SegmentSequence] == [group.tracking_uid for group in groups]
    references = [group.referenced_segment for group in groups]
    assert [reference and reference.referenced_sop_instance_uid for reference in references] == [
        segmentation.SOPInstanceUID
    ] * 2


def test_what_was_not_found_is_said() -> None:
    _, _, results = encoded(labels=(2,))
    assert set(results) == {"SEG", "SR", "SR-KEY", "SR-ABSENT"}
    (group,) = read_report(results["SR-ABSENT"]).get_image_measurement_groups()
    said = [(each.name.meaning, str(each.value)) for each in group.get_qualitative_evaluations()]
    assert any(name == "Left Ventricle Myocardium" and "Absent" in value for name, value in said)


def test_without_any_finding_there_is_no_segmentation() -> None:
    assert set(encoded(labels=())[2]) == {"SR-ABSENT"}


def test_the_same_job_gives_the_same_bytes_and_another_job_other_uids() -> None:
    source, findings, results = encoded()
    again = encode_findings(findings, source=source.as_source, identity=identity())
    assert [result.file() for result in again] == [result.file() for result in results.values()]
    other = encode_findings(findings, source=source.as_source, identity=identity("f" * 32))
    for one, another in zip(again, other, strict=True):
        assert one.dataset.SOPInstanceUID != another.dataset.SOPInstanceUID
        assert one.dataset.SeriesInstanceUID != another.dataset.SeriesInstanceUID


def test_results_join_the_study_in_series_of_their_own_and_call_themselves_research() -> None:
    source, _, results = encoded()
    first = source.images[0]
    series = {first.SeriesInstanceUID}
    for result in results.values():
        dataset = result.dataset
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "StudyDescription"):
            assert dataset[keyword].value == first[keyword].value
        assert "(RESEARCH)" in dataset.SeriesDescription
        assert dataset.ContentQualification == "RESEARCH"
        assert dataset.Manufacturer == "Coread"
        series.add(dataset.SeriesInstanceUID)
    assert len(series) == 1 + len(results)
    report = results["SR"].dataset
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )


def coded(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    for element in dataset.iterall():
        if element.keyword.endswith("CodeSequence") or element.VR == "SQ":
            for item in element.value:
                if "CodeValue" in item:
                    yield item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning


NOT_IN_THE_DICTIONARIES = {
    ("UCUM", "ml", "milliliter"),
    ("UCUM", "g", "gram"),
    ("UCUM", "{pixels}", "Pixels"),  # TID 1602
    ("UCUM", "{-1:1}", "{-1:1}"),  # TID 1602
    ("SCT", "260753009", "Source"),  # TID 1600
}
"""Valid codes that pydicom's dictionaries do not list, or list by another meaning than the template's."""


def test_every_code_means_what_the_standard_says() -> None:
    tables: dict[str, dict[str, dict[str, tuple[str, list[int]]]]] = concepts  # type: ignore[assignment]
    known = {
        (scheme, code, meaning)
        for scheme, names in tables.items()
        for entry in names.values()
        for code, (meaning, _) in entry.items()
    }
    used = {
        code
        for labels in ((1, 2), ())
        for result in encoded(labels=labels)[2].values()
        for code in coded(result.dataset)
    }
    checked = {code for code in used if code[0] != "RFC5646"}
    assert {scheme for scheme, _, _ in checked} == {"SCT", "DCM", "UCUM"}
    assert checked - known - NOT_IN_THE_DICTIONARIES == set()
    assert {scheme for scheme, _, _ in used} <= {"SCT", "DCM", "LN", "UCUM", "RFC5646"}


def shift(segmentation: Dataset) -> None:
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        x, y, z = groups.PlanePositionSequence[0].ImagePositionPatient
        groups.PlanePositionSequence[0].ImagePositionPatient = [x, y, float(z) + 10]


def flip(segmentation: Dataset) -> None:
    orientation = segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [-float(x) for x in orientation.ImageOrientationPatient]


def stretch(segmentation: Dataset) -> None:
    segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2.25, 1.5]


def swap_segments(segmentation: Dataset) -> None:
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        identification = groups.SegmentIdentificationSequence[0]
        identification.ReferencedSegmentNumber = 3 - identification.ReferencedSegmentNumber


@pytest.mark.parametrize("harm", [shift, flip, stretch, swap_segments])
def test_a_segmentation_in_the_wrong_place_is_not_stored(harm: Any) -> None:
    _, findings, results = encoded()
    segmentation = copy.deepcopy(results["SEG"].dataset)
    prove_segmentation(segmentation, findings)
    harm(segmentation)
    with pytest.raises(ResultError):
        prove_segmentation(segmentation, findings)


ABSENT_IN_HOSPITALS = ("PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber")


@pytest.mark.parametrize("keyword", ABSENT_IN_HOSPITALS)
def test_an_absent_type_2_attribute_of_the_source_gives_a_valid_result(keyword: str, tmp_path: Path) -> None:
    images = images_of(volume_in_plane("axial"))
    for image in images:
        del image[keyword]
    source = build_volume(images)
    results = encode_findings(findings_in(source, 1, 2), source=source.as_source, identity=identity())
    for path in written({result.kind: result for result in results}, tmp_path).values():
        assert output_of("dciodvfy", "-new", path)[0] == 0
        assert pydicom.dcmread(path)[keyword].is_empty
    assert keyword not in images[0], "the source stays as it is"


def test_an_unknown_sex_is_left_empty() -> None:
    images = images_of(volume_in_plane("axial"))
    for image in images:
        image.PatientSex = "U"
    source = build_volume(images)
    results = encode_findings(findings_in(source, 1), source=source.as_source, identity=identity())
    assert all(result.dataset.PatientSex == "" for result in results)


WITH_A_NAME = [path for path in sorted(map(str, get_charset_files("*.dcm"))) if "SQEncoding" not in path]
"""The two left out hold no patient's name."""


@pytest.mark.parametrize("path", WITH_A_NAME, ids=lambda path: Path(path).stem)
@pytest.mark.filterwarnings("ignore::UserWarning")  # the libraries say that names and character sets are odd; they are
def test_names_in_every_character_set_are_kept(path: str) -> None:
    header = pydicom.dcmread(path)
    expected = str(header.PatientName)
    images = images_of(volume_in_plane("axial"))
    for image in images:
        image.SpecificCharacterSet = header.get("SpecificCharacterSet", "")
        image["PatientName"] = copy.deepcopy(header["PatientName"])
    source = build_volume(images)
    for result in encode_findings(findings_in(source, 1), source=source.as_source, identity=identity()):
        read_back = pydicom.dcmread(io.BytesIO(result.file()))
        assert str(read_back.PatientName) == expected
        assert read_back.SpecificCharacterSet == "ISO_IR 192"

"""Every kind of object, of every kind of source: proven, valid, the same each time, and read by other programs."""

import copy
import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import SecondaryCaptureImageStorage

from coread import codes
from coread.dicom_sr import frames, proof
from coread.dicom_sr.decode import moments_of_bits
from coread.dicom_sr.encode import ResultObject, encode_findings, encode_refusal, warm_up
from coread.dicom_sr.frames import binary_frames, fractional_frames, label_map_frames
from coread.dicom_sr.key_findings import outlines_in_report
from coread.dicom_sr.segmentation import describe_segment, encode_segmentation, segment_numbers
from coread.dicom_sr.structure_set import rings_in
from coread.dicom_sr.validation.run import judge, subjects_in
from coread.errors import ResultError
from coread.findings import Classification, Findings, NotEvaluated, ScalarMap
from coread.objects import ObjectKind
from coread.volume import count_by_slice
from coread.workers.volume import SourceVolume, build_volume
from tests.integration.test_broken_headers import HARMS as BROKEN_HEADERS
from tests.integration.test_broken_headers import raw
from tests.integration.test_result_objects import complaints, findings_in
from tests.support import PLANES, enhanced, identity, images_of, output_of, texts, volume_in_plane

ALL = frozenset(ObjectKind)
LEFT_VENTRICLE = Code("87878005", "SCT", "Left ventricle")
TILT_MM = 1.7
"""How far each slice of the tilted series is shifted."""


def single_frames(plane: str) -> list[Dataset]:
    return images_of(volume_in_plane(plane))


def tilted() -> list[Dataset]:
    images = single_frames("axial")
    for index, image in enumerate(images):
        x, y, z = (float(each) for each in image.ImagePositionPatient)
        image.ImagePositionPatient = [x, y + TILT_MM * index, z]
    return images


SOURCES: dict[str, Callable[[], list[Dataset]]] = {
    **{plane: lambda plane=plane: single_frames(plane) for plane in PLANES},  # type: ignore[misc]
    "tilted": tilted,
    "shuffled": lambda: random.Random(3).sample(single_frames("oblique"), 6),
    "enhanced multi-frame": lambda: [enhanced(single_frames("oblique")[::-1])],
}


def everything_in(source: SourceVolume, *labels: int) -> Findings:
    """Findings with all that findings can have."""
    findings = findings_in(source, *labels)
    array = findings.mask.array
    noise = np.random.default_rng(1).random(array.shape).astype(np.float32)
    probabilities = {label: np.where(array == label, 0.8 + 0.2 * noise, 0.3 * noise) for label in (1, 2)}
    classification = Classification(
        name="Pneumonia",
        finding=Code("233604007", "SCT", "Pneumonia"),
        value=Code("52101004", "SCT", "Present"),
        probability=0.87,
    )
    return replace(
        findings,
        probabilities={label: each.astype(np.float32) for label, each in probabilities.items()},
        classifications=(classification,),
        maps=(
            ScalarMap(
                name="Probability of Second",
                volume=source.volume.with_array(probabilities[2].astype(np.float32)),
                quantity=codes.PROBABILITY,
                unit=codes.NO_UNITS,
                anatomy=LEFT_VENTRICLE,
            ),
            ScalarMap(
                name="Saliency for Pneumonia",
                volume=source.volume.with_array(noise / noise.max()),
                quantity=codes.SALIENCY,
                unit=codes.NO_UNITS,
                anatomy=LEFT_VENTRICLE,
                explains=classification,
            ),
        ),
    )


def every_object(source: SourceVolume) -> dict[ObjectKind, ResultObject]:
    nothing = findings_in(source)
    results = (
        *encode_findings(everything_in(source, 1, 2), source=source.as_source, identity=identity(), kinds=ALL),
        *encode_findings(nothing, source=source.as_source, identity=identity()),
        *encode_refusal(
            NotEvaluated(structures=nothing.structures, reason="expected 5 slices, found 4; send them all"),
            source=source.as_source,
            identity=identity(),
        ),
    )
    return {result.kind: result for result in results}


@pytest.fixture(scope="module", params=sorted(SOURCES))
def case(request: pytest.FixtureRequest) -> tuple[SourceVolume, dict[ObjectKind, ResultObject]]:
    source = build_volume(SOURCES[request.param]())
    return source, every_object(source)


NOISE = {
    ObjectKind.SEG_LABELMAP: ("Information Object Not found", "with SegmentNumber of 0"),
    ObjectKind.SEG_LABELMAP_RLE: ("Information Object Not found", "with SegmentNumber of 0"),
    ObjectKind.MAP: ("Unrecognized defined term = <QUANTITY>",),
}
"""What the validator of 2022 does not know of these objects."""


def test_every_kind_is_written_and_dciodvfy_finds_nothing(
    case: tuple[SourceVolume, dict[ObjectKind, ResultObject]], tmp_path: Path
) -> None:
    source, objects = case
    assert set(objects) == ALL
    for index, image in enumerate(source.images):
        image.save_as(tmp_path / f"source{index}.dcm", enforce_file_format=True)
    paths = []
    for kind, result in objects.items():
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(result.file())
        _, said = output_of("dciodvfy", "-new", path)
        noise = NOISE.get(kind, ())
        assert [line for line in complaints(said) if not any(each in line for each in noise)] == [], kind
        paths.append(path)
    _, said = output_of("dcentvfy", *sorted(tmp_path.glob("source*.dcm")), *paths)
    unknown = ("IE <Unknown>", "Unrecognized SOP Class")
    assert [line for line in complaints(said) if not any(each in line for each in unknown)] == []


def test_coread_validate_finds_nothing_in_them(
    case: tuple[SourceVolume, dict[ObjectKind, ResultObject]], tmp_path: Path
) -> None:
    source, objects = case
    (tmp_path / "source").mkdir()
    for index, image in enumerate(source.images):
        image.save_as(tmp_path / "source" / f"{index}.dcm", enforce_file_format=True)
    for kind, result in objects.items():
        (tmp_path / f"{kind}.dcm").write_bytes(result.file())
    subjects = subjects_in(sorted(tmp_path.glob("*.dcm")), source=tmp_path / "source")
    for path, subject in subjects.items():
        assert subject is not None
        assert list(judge(subject)) == [], path.stem


def test_what_is_encoded_is_written_as_it_is(case: tuple[SourceVolume, dict[ObjectKind, ResultObject]]) -> None:
    """Reading back must not turn the functional groups into thousands of objects, which take long to write."""
    source, _ = case
    for result in encode_findings(everything_in(source, 1, 2), source=source.as_source, identity=identity(), kinds=ALL):
        if "SegmentSequence" in result.dataset or result.kind is ObjectKind.MAP:
            assert isinstance(result.dataset.get_item("PerFrameFunctionalGroupsSequence"), RawDataElement), result.kind


def test_the_same_job_gives_the_same_bytes_of_every_kind(
    case: tuple[SourceVolume, dict[ObjectKind, ResultObject]],
) -> None:
    source, objects = case
    again = every_object(build_volume(source.images))
    assert {kind: result.file() for kind, result in again.items()} == {
        kind: result.file() for kind, result in objects.items()
    }


def test_each_object_is_in_a_series_of_its_own_and_says_what_it_is(
    case: tuple[SourceVolume, dict[ObjectKind, ResultObject]],
) -> None:
    source, objects = case
    datasets = [result.dataset for result in objects.values()]
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == len(ALL)
    assert len({dataset.SeriesNumber for dataset in datasets}) == len(ALL)
    for dataset in datasets:
        assert dataset.StudyInstanceUID == source.images[0].StudyInstanceUID
        assert dataset.SeriesDescription.endswith("(RESEARCH)")
        assert dataset.SeriesDescription.startswith("AI Test model ")
        assert dataset.PatientName == source.images[0].PatientName


@pytest.mark.parametrize("kind", [ObjectKind.SEG, ObjectKind.SEG_LABELMAP, ObjectKind.SEG_LABELMAP_RLE])
def test_dcmqi_gives_back_the_labels(
    case: tuple[SourceVolume, dict[ObjectKind, ResultObject]], kind: ObjectKind, tmp_path: Path
) -> None:
    source, objects = case
    if source.volume.is_tilted:
        pytest.skip("dcmqi bends tilted series straight; the report says so")
    (tmp_path / "seg.dcm").write_bytes(objects[kind].file())
    arguments = ["--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-p", "mask", "-t", "nii"]
    assert output_of("segimage2itkimage", *arguments)[0] == 0
    findings = findings_in(source, 1, 2)
    found = {1: [], 2: []}  # type: dict[int, list[Any]]
    for path in sorted(tmp_path.glob("mask-*.nii.gz")):
        image: Any = nibabel.load(path)
        values = np.asarray(image.dataobj)
        number = int(path.name.split("-")[1].split(".")[0])
        for value in np.unique(values[values > 0]):
            places = nibabel.affines.apply_affine(image.affine, np.argwhere(values == value)) * [-1, -1, 1]
            found[number if kind is ObjectKind.SEG else int(value)].append(places)
    for structure in findings.present:
        (places,) = found[structure.label]
        expected = findings.mask.map_indices_to_reference(np.argwhere(findings.mask.array == structure.label))
        assert_same_points(places, expected)


def assert_same_points(found: np.ndarray, expected: np.ndarray) -> None:
    assert len(found) == len(expected)
    order = [np.lexsort(np.round(points, 2).T) for points in (found, expected)]
    assert np.allclose(found[order[0]], expected[order[1]], atol=0.02)


def test_dcmqi_gives_back_the_map(case: tuple[SourceVolume, dict[ObjectKind, ResultObject]], tmp_path: Path) -> None:
    source, objects = case
    if source.volume.is_tilted:
        pytest.skip("dcmqi bends tilted series straight")
    (tmp_path / "map.dcm").write_bytes(objects[ObjectKind.MAP].file())
    arguments = ["--inputDICOM", tmp_path / "map.dcm", "--outputDirectory", tmp_path, "-t", "nii"]
    status, said = output_of("paramap2itkimage", *arguments)
    assert status == 0, said
    image: Any = nibabel.load(tmp_path / "pmap.nii.gz")
    expected = everything_in(source, 1, 2).maps[-1].volume
    for index in [(0, 0, 0), (5, 19, 13), (2, 7, 11), (4, 3, 0)]:
        (place,) = expected.map_indices_to_reference([index]) * [-1, -1, 1]
        at = np.linalg.inv(image.affine) @ [*place, 1]
        assert np.allclose(at, np.round(at), atol=0.01)
        assert np.asarray(image.dataobj)[tuple(np.round(at[:3]).astype(int))] == expected.array[index]


REPORTS = [kind for kind in ObjectKind if kind.startswith("SR")]


@pytest.mark.parametrize("kind", REPORTS)
def test_dcmtk_and_dcmqi_read_the_reports(
    case: tuple[SourceVolume, dict[ObjectKind, ResultObject]], kind: ObjectKind, tmp_path: Path
) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(case[1][kind].file())
    status, said = output_of("dsrdump", path)
    assert status == 0, said
    _, said = output_of("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "sr.json")
    assert [line for line in said.splitlines() if line.startswith("E:")] == []


def groups_of(dataset: Dataset) -> Any:
    content = hd.sr.Comprehensive3DSR.from_dataset(dataset).content
    assert isinstance(content, hd.sr.MeasurementReport)
    return content


def answer_of(group: Any) -> Any:
    """The evaluation whose name is the finding's."""
    (answer,) = (each for each in group.get_qualitative_evaluations() if each.name == group.finding_type)
    return answer


def test_only_a_tilted_series_is_flagged(case: tuple[SourceVolume, dict[ObjectKind, ResultObject]]) -> None:
    source, objects = case
    flagged = [text for text in texts(objects[ObjectKind.SR].dataset) if "tilt" in text]
    assert bool(flagged) is source.volume.is_tilted


def test_key_findings_are_outlines_with_the_segments_tracking_uids(
    case: tuple[SourceVolume, dict[ObjectKind, ResultObject]],
) -> None:
    source, objects = case
    segments = objects[ObjectKind.SEG].dataset.SegmentSequence
    groups = groups_of(objects[ObjectKind.SR_KEY_FINDINGS].dataset).get_planar_roi_measurement_groups()
    assert [group.tracking_uid for group in groups] == [segment.TrackingUID for segment in segments]
    findings = findings_in(source, 1, 2)
    for group, structure in zip(groups, findings.present, strict=True):
        index = findings.key_plane(structure)
        area = {item.name.value: item.value for item in group.get_measurements()}[codes.AREA.value]
        _, row_mm, column_mm = source.volume.spacing
        largest = int((findings.mask.array[index] == structure.label).sum()) - (1 if structure.label == 1 else 0)
        assert area == pytest.approx(largest * row_mm * column_mm, rel=1e-5)  # label 1 has a pixel apart


def test_outlines_are_in_the_image_where_pixels_are_square_else_in_the_patient() -> None:
    for spacing, in_image in (((5.0, 1.5, 1.5), True), ((5.0, 1.5, 2.25), False)):
        source = build_volume(images_of(volume_in_plane("oblique", spacing=spacing)))
        findings = findings_in(source, 1, 2)
        results = encode_findings(findings, source=source.as_source, identity=identity())
        (report,) = (result.dataset for result in results if result.kind is ObjectKind.SR_KEY_FINDINGS)
        assert isinstance(report, hd.sr.Comprehensive3DSR)
        for outline, structure in zip(outlines_in_report(report).values(), findings.present, strict=True):
            index = findings.key_plane(structure)
            uid = source.planes[index].image.SOPInstanceUID
            assert outline.sop_instance_uid == (uid if in_image else "")
            assert outline.points.shape[1] == (2 if in_image else 3)


def test_a_presentation_state_shows_each_image_in_its_own_window() -> None:
    """In PET each image has a Rescale Slope of its own, and a presentation state has one for all."""
    images = single_frames("axial")
    for index, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = str(0.5 * (index + 1)), "-10"
        image.WindowCenter, image.WindowWidth = ["100", "40"], ["80", "400"]
    source = build_volume(images)
    results = encode_findings(
        findings_in(source, 1, 2), source=source.as_source, identity=identity(), kinds=frozenset({ObjectKind.GSPS})
    )
    state = next(result.dataset for result in results if result.kind is ObjectKind.GSPS)
    assert (state.RescaleSlope, state.RescaleIntercept) == (1, 0)
    windows = {
        item.ReferencedImageSequence[0].ReferencedSOPInstanceUID: (item.WindowCenter, item.WindowWidth)
        for item in state.SoftcopyVOILUTSequence
    }
    assert len(windows) == 5  # the slices that show something
    for image in images[1:]:
        slope = float(image.RescaleSlope)
        assert windows[image.SOPInstanceUID] == pytest.approx(((100 + 10) / slope, 80 / slope))


def test_classes_absence_and_refusal_are_said(case: tuple[SourceVolume, dict[ObjectKind, ResultObject]]) -> None:
    _, objects = case
    (group,) = groups_of(objects[ObjectKind.SR_CLASSIFICATION].dataset).get_image_measurement_groups()
    evaluation = answer_of(group)
    (certainty,) = group.get_measurements()
    assert (evaluation.name.meaning, evaluation.value.meaning) == ("Pneumonia", "Present")
    assert (certainty.name.value, certainty.value, certainty.unit.value) == ("111012", 87.0, "%")
    for kind, expected in (
        (ObjectKind.SR_ABSENT, codes.ABSENT),
        (ObjectKind.SR_NOT_EVALUATED, codes.NOT_EVALUATED),
    ):
        groups = groups_of(objects[kind].dataset).get_image_measurement_groups()
        answers = [answer_of(each).value.value for each in groups]
        assert answers == [expected.value] * 2
    assert "expected 5 slices, found 4; send them all" in texts(objects[ObjectKind.SR_NOT_EVALUATED].dataset)


def test_absence_is_as_certain_as_the_model_is(case: tuple[SourceVolume, dict[ObjectKind, ResultObject]]) -> None:
    source, _ = case
    findings = everything_in(source, 1)
    results = encode_findings(findings, source=source.as_source, identity=identity())
    (absence,) = (result.dataset for result in results if result.kind is ObjectKind.SR_ABSENT)
    (group,) = groups_of(absence).get_image_measurement_groups()
    (certainty,) = group.get_measurements()
    assert certainty.value == pytest.approx(100 * (1 - findings.probabilities[2].max()), rel=1e-5)


def test_a_probability_out_of_range_is_not_written(case: tuple[SourceVolume, dict[ObjectKind, ResultObject]]) -> None:
    source, _ = case
    findings = everything_in(source, 1, 2)
    wrong = replace(findings, classifications=(replace(findings.classifications[0], probability=87.0),))
    with pytest.raises(ValueError, match="probability from 0 to 1"):
        encode_findings(wrong, source=source.as_source, identity=identity())


def test_fractional_needs_probabilities() -> None:
    source = build_volume(single_frames("axial"))
    with pytest.raises(ValueError, match="expected probabilities of every structure"):
        encode_findings(
            findings_in(source, 1),
            source=source.as_source,
            identity=identity(),
            kinds=frozenset({ObjectKind.SEG_FRACTIONAL}),
        )


# The frames against highdicom's


@pytest.mark.parametrize("shape", [(6, 20, 14), (5, 7, 9), (4, 16, 16)], ids=["280 pixels", "63", "whole bytes"])
def test_frames_are_those_that_highdicom_writes(shape: tuple[int, int, int]) -> None:
    images = images_of(volume_in_plane("oblique", shape=shape))
    source = build_volume(images)
    array = np.random.default_rng(5).integers(0, 3, shape).astype(np.uint8)
    array[1] = 0  # an empty slice
    array[2][array[2] == 2] = 0  # a slice with one segment only
    structures = findings_in(build_volume(single_frames("axial")), 1, 2).structures
    findings = Findings(labels=source.volume.with_array(array), structures=structures)
    ours = encode_segmentation(findings, source.as_source, identity())
    theirs = hd.seg.Segmentation(
        source_images=[plane.image for plane in source.planes],
        pixel_array=array,
        segmentation_type="BINARY",
        segment_descriptions=[describe_segment(n, each, identity()) for n, each in enumerate(findings.present, 1)],
        series_instance_uid="1.2.3",
        series_number=1,
        sop_instance_uid="1.2.4",
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    read = pydicom.dcmread(io.BytesIO(ResultObject(kind=ObjectKind.SEG, dataset=ours).file()))
    assert len(bytes(ours.PixelData)) == len(theirs.PixelData)
    mine, other = frames_by_place(read), frames_by_place(theirs)
    assert mine.keys() == other.keys()
    for place, (pixels, groups) in mine.items():
        assert np.array_equal(pixels, other[place][0])
        assert groups == other[place][1]
    shared, their_shared = (each.SharedFunctionalGroupsSequence[0].to_json_dict() for each in (read, theirs))
    assert shared == their_shared
    listed, their_listed = (
        sorted(item.ReferencedSOPInstanceUID for item in each.ReferencedSeriesSequence[0].ReferencedInstanceSequence)
        for each in (read, theirs)
    )
    assert listed == their_listed


def frames_by_place(dataset: Dataset) -> dict[tuple[int, tuple[float, ...]], tuple[np.ndarray, dict[str, Any]]]:
    """Segment and position → pixels, and what is said of the frame (but its index, which follows from the order)."""
    found: dict[tuple[int, tuple[float, ...]], tuple[np.ndarray, dict[str, Any]]] = {}
    pixels = dataset.pixel_array
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        said = groups.to_json_dict()
        said.pop("00209111")
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = said.pop("00209113")["Value"][0]["00200032"]["Value"]
        found[number, tuple(float(value) for value in position)] = (frame, said)
    return found


def test_label_map_and_fractional_frames_hold_what_they_are_given() -> None:
    array = np.random.default_rng(6).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    array[3] = 0
    numbers = np.zeros(256, np.uint8)
    numbers[[1, 3]] = [1, 2]
    label_map = label_map_frames(array, numbers)
    assert label_map.planes.tolist() == [0, 1, 2, 4]
    values = np.frombuffer(label_map.pixels, np.uint8)[: 4 * 42].reshape(4, 6, 7)
    assert np.array_equal(values, numbers[array][[0, 1, 2, 4]])
    probability = np.linspace(0, 1, array.size, dtype=np.float32).reshape(array.shape)
    fractional = fractional_frames([probability, np.zeros_like(probability)])
    assert fractional.segments is not None
    assert set(fractional.segments.tolist()) == {1}
    assert np.abs(np.frombuffer(fractional.pixels, np.uint8) / 255 - probability.ravel()).max() < 0.5 / 255 + 1e-6


def test_labels_without_a_segment_are_left_out() -> None:
    array = np.full((2, 8, 8), 7, np.uint8)
    array[0, 0, 0] = 1
    numbers = np.zeros(256, np.uint8)
    numbers[1] = 1
    assert binary_frames([array], numbers).planes.tolist() == [0]
    assert segment_numbers([]).sum() == 0


# The proof notices


def shift_frames(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        x, y, z = (float(value) for value in groups.PlanePositionSequence[0].ImagePositionPatient)
        groups.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 1.0]


def swap_positions(dataset: Dataset) -> None:
    first, second = (dataset.PerFrameFunctionalGroupsSequence[index].PlanePositionSequence[0] for index in (0, 3))
    first.ImagePositionPatient, second.ImagePositionPatient = second.ImagePositionPatient, first.ImagePositionPatient


def swap_spacing(dataset: Dataset) -> None:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = list(measures.PixelSpacing)[::-1]


def flip_rows(dataset: Dataset) -> None:
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    values = [float(value) for value in orientation.ImageOrientationPatient]
    orientation.ImageOrientationPatient = [*values[:3], *(-value for value in values[3:])]


HARMS = {"shifted": shift_frames, "swapped": swap_positions, "spacing": swap_spacing, "flipped": flip_rows}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    "kind",
    [ObjectKind.SEG, ObjectKind.SEG_FRACTIONAL, ObjectKind.SEG_LABELMAP, ObjectKind.MAP, ObjectKind.SC],
)
def test_a_frame_in_the_wrong_place_stops_the_job(kind: ObjectKind, harm: str) -> None:
    source = build_volume(single_frames("oblique"))
    findings = everything_in(source, 1, 2)
    objects = encode_findings(findings, source=source.as_source, identity=identity(), kinds=frozenset({kind}))
    dataset = copy.deepcopy(objects[0].dataset)
    prove_again(kind, dataset, findings)
    HARMS[harm](dataset)
    with pytest.raises(ResultError):
        prove_again(kind, dataset, findings)


def prove_again(kind: ObjectKind, dataset: Dataset, findings: Findings) -> None:
    if kind is ObjectKind.MAP:
        proof.prove_map(dataset, findings.maps[0])
    elif kind is ObjectKind.SC:
        proof.prove_secondary_capture(dataset, findings)
    else:
        proof.prove_segmentation(dataset, findings)


def test_wrong_pixels_stop_the_job() -> None:
    source = build_volume(single_frames("oblique"))
    findings = everything_in(source, 1, 2)
    results = encode_findings(findings, source=source.as_source, identity=identity(), kinds=ALL)
    objects = {result.kind: result.dataset for result in results}
    parametric_map = objects[ObjectKind.MAP]
    parametric_map.FloatPixelData = parametric_map.FloatPixelData[::-1]
    with pytest.raises(ResultError, match="numbers of slice 1"):
        proof.prove_map(parametric_map, findings.maps[0])
    capture = objects[ObjectKind.SC]
    capture.PixelData = bytes(len(capture.PixelData))
    with pytest.raises(ResultError, match="rims"):
        proof.prove_secondary_capture(capture, findings)
    state = objects[ObjectKind.GSPS]
    del state.GraphicAnnotationSequence[0]
    with pytest.raises(ResultError, match="presentation state"):
        proof.prove_presentation_state(state, findings, source.as_source)
    structure_set = objects[ObjectKind.RTSTRUCT]
    rings = rings_in(structure_set)
    rings[1][0] = rings[1][0] + [0.0, 0.0, 1.5]
    with pytest.raises(ResultError, match="contour"):
        proof.prove_contours(rings, findings)


def test_after_warming_up_nothing_is_left_to_compile() -> None:
    warm_up()
    kernels = (frames._present, frames._set_bits_in_parallel, moments_of_bits, proof.moments_by_label, count_by_slice)
    compiled = [len(kernel.signatures) for kernel in kernels]
    source = build_volume(images_of(volume_in_plane("oblique", shape=(6, 20, 16))))
    encode_findings(findings_in(source, 1, 2), source=source.as_source, identity=identity())
    assert [len(kernel.signatures) for kernel in kernels] == compiled


ODD: dict[str, Callable[[Dataset], object]] = {
    "no window": lambda image: [image.pop(keyword) for keyword in ("WindowCenter", "WindowWidth")],
    "window of no width": lambda image: setattr(image, "WindowWidth", "0"),
    "window in words": lambda image: raw("WindowCenter", b"bright")(image),
    "slope in words": lambda image: raw("RescaleSlope", b"steep")(image),
    "lossy": lambda image: setattr(image, "LossyImageCompression", "01"),
    "no modality": lambda image: image.pop("Modality"),
    "another class of the modality": lambda image: setattr(image, "SOPClassUID", SecondaryCaptureImageStorage),
    **BROKEN_HEADERS,
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore::UserWarning")  # the libraries say that the values are odd; they are
def test_odd_headers_give_every_kind_of_object(name: str, tmp_path: Path) -> None:
    images = single_frames("oblique")
    for image in images:
        ODD[name](image)
    source = build_volume(images)
    results = encode_findings(everything_in(source, 1, 2), source=source.as_source, identity=identity(), kinds=ALL)
    for result in results:
        path = tmp_path / f"{result.kind}.dcm"
        path.write_bytes(result.file())
        _, said = output_of("dciodvfy", "-new", path)
        noise = NOISE.get(result.kind, ())
        errors = [line for line in complaints(said) if line.startswith("Error")]
        assert [line for line in errors if not any(each in line for each in noise)] == [], result.kind


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plane=st.sampled_from(sorted(PLANES)),
    shape=st.tuples(st.integers(2, 5), st.integers(1, 24), st.integers(1, 24)),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    shear=st.floats(-0.9, 0.9),
    is_enhanced=st.booleans(),
    density=st.sampled_from([0.02, 0.3, 0.6, 0.95]),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_is_found_can_be_written_and_proven(
    plane: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    shear: float,
    is_enhanced: bool,
    density: float,
    seed: int,
) -> None:
    """The proof stops what is wrong; it must not stop what is right, however odd the mask."""
    images = images_of(volume_in_plane(plane, shape=shape, spacing=spacing))
    for index, image in enumerate(images):
        position = np.array(image.ImagePositionPatient, float)
        along_row = np.array(image.ImageOrientationPatient, float)[:3]
        image.ImagePositionPatient = [f"{x:.6f}" for x in position + shear * spacing[0] * index * along_row]
    source = build_volume([enhanced(images)] if is_enhanced else images)
    random = np.random.default_rng(seed)
    array = ((random.random(shape) < density) * random.integers(1, 3, shape)).astype(np.uint8)
    everything = everything_in(build_volume(single_frames("axial")), 1, 2)
    probabilities = {label: np.where(array == label, 0.9, 0.1).astype(np.float32) for label in (1, 2)}
    findings = Findings(
        labels=source.volume.with_array(array),
        structures=tuple(
            replace(structure, voxels=int((array == structure.label).sum())) for structure in everything.structures
        ),
        probabilities=probabilities,
        maps=(replace(everything.maps[0], volume=source.volume.with_array(probabilities[1])),),
    )
    for result in encode_findings(findings, source=source.as_source, identity=identity(), kinds=ALL):
        assert result.file()

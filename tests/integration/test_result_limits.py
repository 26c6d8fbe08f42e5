"""Results at the limits of formats, standards and pictures: long outlines and titles, many names, small numbers."""

import copy
import io
import math
import os
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy import ndimage

from coread import codes
from coread.dicom_sr import proof
from coread.dicom_sr.encode import ResultObject, encode_findings
from coread.dicom_sr.header import series_description
from coread.dicom_sr.outlines import corners, in_one_ring, regions_of
from coread.dicom_sr.repair import repaired
from coread.dicom_sr.structure_set import rings_in
from coread.dicom_sr.validation.run import judge, subjects_in
from coread.errors import GeometryError, ResultError
from coread.findings import Findings
from coread.objects import ObjectKind
from coread.workers.volume import SourceVolume, build_volume
from tests.integration.test_object_kinds import NOISE, everything_in, groups_of
from tests.integration.test_result_objects import complaints, findings_in
from tests.support import identity, images_of, output_of, volume_in_plane

REPOSITORY = Path(__file__).parents[2]


def source_of(array: NDArray[Any], spacing: tuple[float, float, float] = (3.0, 0.8, 0.8)) -> SourceVolume:
    return build_volume(images_of(volume_in_plane("oblique", shape=array.shape, spacing=spacing, array=array)))


def grey(*shape: int) -> NDArray[np.int16]:
    return (np.arange(math.prod(shape)).reshape(shape) % 1000).astype(np.int16)


def labelled(source: SourceVolume, array: NDArray[np.uint8]) -> Findings:
    """Findings with a structure for each label from 1 to the highest."""
    first = everything_in(build_volume(images_of(volume_in_plane("axial"))), 1).structures[0]
    structures = tuple(
        replace(first, label=label, name=f"Structure number {label}", voxels=int((array == label).sum()))
        for label in range(1, int(array.max()) + 1)
    )
    return Findings(labels=source.volume.with_array(array), structures=structures)


def result_of(kind: ObjectKind, findings: Findings, source: SourceVolume) -> ResultObject:
    """The first object of a kind."""
    result, *_ = encode_findings(findings, source=source.as_source, identity=identity(), kinds=frozenset({kind}))
    return result


def errors_of_dciodvfy(result: ResultObject, folder: Path) -> list[str]:
    path = folder / f"{result.kind}.dcm"
    path.write_bytes(result.file())
    _, said = output_of("dciodvfy", "-new", path)
    errors = [line for line in complaints(said) if line.startswith("Error")]
    return [line for line in errors if not any(each in line for each in NOISE.get(result.kind, ()))]


# Outlines longer than 64 kB


def lung() -> NDArray[np.bool_]:
    """An ellipse with some hundred small holes, as vessels leave them in a mask of the lung."""
    row, column = np.mgrid[:512, :512]
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((512, 512)), 1.6)
    inside = ((column - 256) / 200) ** 2 + ((row - 256) / 140) ** 2 < 1
    mask: NDArray[np.bool_] = inside & (noise > np.percentile(noise, 4))
    return mask


def comb() -> NDArray[np.bool_]:
    """One part with some ten thousand corners: rough teeth on a bar."""
    mask = np.zeros((160, 160), bool)
    mask[0] = True
    mask[:, ::4] = True
    mask[::2, 1::4] = True
    return mask


@pytest.mark.parametrize("mask", [lung(), comb()], ids=["lung", "comb"])
@pytest.mark.parametrize("kind", [ObjectKind.RTSTRUCT, ObjectKind.GSPS, ObjectKind.SR_KEY_FINDINGS])
@pytest.mark.parametrize("spacing", [(3.0, 0.8, 0.8), (3.0, 0.8, 0.7)], ids=["square", "oblong"])
def test_a_long_outline_is_written_as_what_it_is(
    mask: NDArray[np.bool_], kind: ObjectKind, spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    array = np.zeros((2, *mask.shape), np.uint8)
    array[1] = mask
    source = source_of(grey(*array.shape), spacing)
    findings = labelled(source, array)
    result = result_of(kind, findings, source)
    assert errors_of_dciodvfy(result, tmp_path) == []
    read = pydicom.dcmread(tmp_path / f"{kind}.dcm")
    lines = [element for element in read.iterall() if element.keyword in ("ContourData", "GraphicData")]
    assert {element.VR for element in lines} <= {"DS", "FL"}
    assert lines
    if kind is ObjectKind.RTSTRUCT:
        proof.prove_contours({1: rings_in(read)[1]}, findings)
    if kind is ObjectKind.GSPS:
        proof.prove_presentation_state(read, findings, source.as_source)


def test_outlines_of_ordinary_length_are_in_explicit_encoding() -> None:
    source = build_volume(images_of(volume_in_plane("oblique")))
    for kind in (ObjectKind.RTSTRUCT, ObjectKind.GSPS, ObjectKind.SR_KEY_FINDINGS):
        dataset = result_of(kind, findings_in(source, 1, 2), source).dataset
        assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_a_value_that_the_encoding_cannot_hold_is_never_written() -> None:
    array = np.zeros((2, 512, 512), np.uint8)
    array[1] = lung()
    source = source_of(grey(*array.shape))
    result = result_of(ObjectKind.RTSTRUCT, labelled(source, array), source)
    assert result.dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    result.dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with pytest.raises(ResultError, match="found a longer ContourData"):
        result.file()


def test_coordinates_have_no_digit_too_many() -> None:
    source = build_volume(images_of(volume_in_plane("axial")))
    structure_set = result_of(ObjectKind.RTSTRUCT, findings_in(source, 1), source).dataset
    written = {str(value) for value in structure_set.ROIContourSequence[0].ContourSequence[0].ContourData}
    assert "13.5" in written  # 8.5 mm, one slice of 5 mm further
    assert all(len(value.partition(".")[2]) <= 3 and not value.endswith(".") for value in written)


@settings(max_examples=50, deadline=None)
@given(density=st.sampled_from([0.3, 0.6, 0.8, 0.95]), seed=st.integers(0, 2**32 - 1))
def test_corners_and_channels_enclose_the_very_region(density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < density
    filled = np.zeros(mask.shape, int)
    for region in regions_of(mask):
        ring = in_one_ring(region)
        assert len(ring) <= len(region.outer) + sum(len(hole) + 1 for hole in region.holes)
        assert np.array_equal(ring[0], ring[-1])
        filled += proof.enclosed(ring, mask.shape)
    assert np.array_equal(filled, mask)


def test_corners_of_a_rectangle_do_not_grow_with_it() -> None:
    mask = np.zeros((90, 70), bool)
    mask[2:80, 3:60] = True
    (region,) = regions_of(mask)
    ring = corners(region.outer)
    assert len(region.outer) > 200
    assert len(ring) == 9  # each corner is cut, and the first stands at the end again
    assert np.array_equal(proof.enclosed(ring, mask.shape), mask)


def test_the_diameter_of_a_rough_outline_is_that_of_its_farthest_points() -> None:
    """Of all its points against all it would take gigabytes."""
    array = np.zeros((2, 160, 160), np.uint8)
    array[1] = comb()
    source = source_of(grey(*array.shape), (3.0, 0.5, 0.5))
    findings = labelled(source, array)
    tracemalloc.start()
    report = result_of(ObjectKind.SR_KEY_FINDINGS, findings, source).dataset
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 500e6
    (group,) = groups_of(report).get_planar_roi_measurement_groups()
    (diameter,) = (item.value for item in group.get_measurements() if item.name == codes.DIAMETER)
    mask = comb()
    places = np.argwhere(mask) + 0.5
    edges = np.concatenate([places + step for step in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))])
    extreme = edges[[np.argmax(edges @ way) for way in ((1, 1), (1, -1), (-1, 1), (-1, -1))]]
    expected = max(float(np.linalg.norm(one - other)) for one in extreme for other in extreme)
    assert diameter == pytest.approx(0.5 * expected, rel=1e-3)


# Rounded direction cosines


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_accepted_with_rounded_cosines_can_be_written_and_proven(seed: int) -> None:
    shape = (2, 512, 512)
    row, column, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0].round(3)
    normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
    images = images_of(volume_in_plane("axial", shape=shape, spacing=(3, 0.9, 0.9), array=grey(*shape)))
    for index, image in enumerate(images):
        image.ImageOrientationPatient = [f"{value:.3f}" for value in (*row, *column)]
        image.ImagePositionPatient = [f"{value:.6f}" for value in 3 * normal * index]
    try:
        source = build_volume(images)
    except GeometryError:
        reject()
    array = np.zeros(shape, np.uint8)
    array[1, 440:500, 430:510] = 1  # far from the first pixel
    probability = (array > 0).astype(np.float32)
    template = everything_in(build_volume(images_of(volume_in_plane("axial"))), 1)
    findings = replace(
        labelled(source, array),
        probabilities={1: probability},
        maps=(replace(template.maps[0], volume=source.volume.with_array(probability)),),
    )
    kinds = frozenset(ObjectKind) - {ObjectKind.SEG_LABELMAP_RLE}
    for result in encode_findings(findings, source=source.as_source, identity=identity(), kinds=kinds):
        if "SharedFunctionalGroupsSequence" in result.dataset:
            (orientation,) = result.dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
            written = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
            assert np.allclose(written @ written.T, np.eye(2), atol=1e-8)
            assert np.allclose(written, (row, column), atol=2e-3)


def test_cosines_that_are_not_at_right_angles_give_valid_objects(tmp_path: Path) -> None:
    images = images_of(volume_in_plane("axial"))
    for image in images:
        image.ImageOrientationPatient = ["1", "0", "0", "0.0009", "1", "0"]
    source = build_volume(images)
    for kind in (ObjectKind.SEG, ObjectKind.MAP, ObjectKind.SC):
        assert errors_of_dciodvfy(result_of(kind, everything_in(source, 1, 2), source), tmp_path) == []


# Titles and legends


@pytest.mark.parametrize("length", [1, 30, 38, 46, 100])
def test_a_description_says_research_however_long_the_title(length: int) -> None:
    for what in ("map", "segmentation"):
        description = series_description(replace(identity(), title="T" * length), what)
        assert len(description) <= 64
        assert description.startswith("AI T")
        assert description.endswith(f" {what} (RESEARCH)")


def many_structures(count: int) -> tuple[SourceVolume, Findings]:
    array = np.zeros((3, 400, 512), np.uint8)
    for label in range(1, count + 1):
        row, column = divmod(label - 1, 12)
        array[1:, row * 40 : row * 40 + 20, 8 + column * 40 : column * 40 + 28] = label
    source = source_of(np.full(array.shape, 100, np.int16))
    return source, labelled(source, array)


@pytest.mark.parametrize("count", [1, 41, 104])
def test_the_legend_of_many_structures_hides_nothing(count: int, tmp_path: Path) -> None:
    source, findings = many_structures(count)
    result = result_of(ObjectKind.SC, findings, source)
    legend = result.dataset.Rows - 400
    assert 0 < legend < 400
    pictures = result.dataset.pixel_array[:, legend:]
    outside = findings.mask.array[1:] == 0
    assert len(np.unique(pictures[outside], axis=0)) == 1
    for rows in (slice(None, legend + 30), slice(legend + 10, None), slice(None)):
        harmed = copy.deepcopy(result.dataset)
        pixels = harmed.pixel_array.copy()
        pixels[:, rows] = 0
        harmed.PixelData = pixels.tobytes()
        with pytest.raises(ResultError, match="rims"):
            proof.prove_secondary_capture(harmed, findings)
    assert errors_of_dciodvfy(result, tmp_path) == []


def test_a_picture_of_another_size_is_not_proven() -> None:
    source, findings = many_structures(1)
    capture = result_of(ObjectKind.SC, findings, source).dataset
    capture.Columns, capture.Rows = capture.Rows, capture.Columns
    with pytest.raises(ResultError, match="frames of 512 by"):
        proof.prove_secondary_capture(capture, findings)


@pytest.mark.parametrize("way", ["rows", "columns"])
def test_coread_validate_takes_a_legend_and_finds_a_shift(way: str, tmp_path: Path) -> None:
    source, findings = many_structures(30)
    (tmp_path / "source").mkdir()
    for index, image in enumerate(source.images):
        image.save_as(tmp_path / "source" / f"{index}.dcm", enforce_file_format=True)
    capture = result_of(ObjectKind.SC, findings, source).dataset
    assert judged(capture, tmp_path) == set()
    step = source.volume.affine[:3, 1 if way == "rows" else 2]
    for groups in capture.PerFrameFunctionalGroupsSequence:
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float) + 4 * step
        groups.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.6f}" for value in position]
    assert judged(capture, tmp_path) == {"geometry"}


def judged(dataset: Dataset, folder: Path) -> set[str]:
    """The rules that have something to say."""
    dataset.save_as(folder / "object.dcm", enforce_file_format=True)
    (subject,) = subjects_in([folder / "object.dcm"], source=folder / "source").values()
    assert subject is not None
    return {problem.rule for problem in judge(subject)}


def test_a_finding_in_one_slice_gives_valid_objects_of_every_kind(tmp_path: Path) -> None:
    source = build_volume(images_of(volume_in_plane("axial")))
    array = np.zeros(source.volume.spatial_shape, np.uint8)
    array[2, 3:9, 3:9] = 1
    everything = everything_in(source, 1, 2)
    structures = (replace(everything.structures[0], voxels=36),)
    findings = replace(everything, labels=source.volume.with_array(array), structures=structures)
    kinds = frozenset(ObjectKind)
    results = encode_findings(findings, source=source.as_source, identity=identity(), kinds=kinds)
    assert {result.kind for result in results} >= {ObjectKind.SC, ObjectKind.SEG, ObjectKind.MAP}
    for result in results:
        assert errors_of_dciodvfy(result, tmp_path) == [], result.kind


# Probabilities


@pytest.mark.parametrize(("overlapping", "expected"), [(True, "YES"), (False, "NO")])
def test_a_fractional_segmentation_says_whether_its_segments_overlap(overlapping: bool, expected: str) -> None:
    source = build_volume(images_of(volume_in_plane("axial")))
    findings = everything_in(source, 1, 2)
    if not overlapping:
        array = findings.mask.array
        findings = replace(findings, probabilities={label: (array == label).astype(np.float32) for label in (1, 2)})
    dataset = result_of(ObjectKind.SEG_FRACTIONAL, findings, source).dataset
    read = pydicom.dcmread(io.BytesIO(ResultObject(kind=ObjectKind.SEG_FRACTIONAL, dataset=dataset).file()))
    assert read.SegmentsOverlap == expected
    assert result_of(ObjectKind.SEG, findings, source).dataset.SegmentsOverlap == "NO"


@pytest.mark.parametrize("without", [(1,), (1, 2)])
def test_a_structure_that_nothing_speaks_for_is_refused_by_name(without: tuple[int, ...]) -> None:
    source = build_volume(images_of(volume_in_plane("axial")))
    findings = everything_in(source, 1, 2)
    zero = np.full(findings.mask.array.shape, 0.001, np.float32)
    findings = replace(findings, probabilities={**findings.probabilities, **dict.fromkeys(without, zero)})
    with pytest.raises(ResultError, match="found none of First"):
        result_of(ObjectKind.SEG_FRACTIONAL, findings, source)


# Values and headers


def test_an_element_that_the_standard_does_not_name_is_left_out() -> None:
    images = images_of(volume_in_plane("oblique"))
    for image in images:
        image.add_new(0x00189FFE, "LO", ["A", "B"])
    source = build_volume(images)
    assert 0x00189FFE not in repaired(images[0])
    assert result_of(ObjectKind.SEG, findings_in(source, 1), source).file()


def small_values(*, window: bool) -> SourceVolume:
    """Diffusion coefficients in mm²/s: none above 0.003."""
    array = (np.random.default_rng(0).random((6, 20, 14)) * 3000).astype(np.int16)
    images = images_of(volume_in_plane("axial", array=array))
    for image in images:
        image.RescaleSlope, image.RescaleIntercept = "0.000001", "0"
        image.WindowCenter, image.WindowWidth = "0.0015", "0.003"
        if not window:
            del image.WindowCenter, image.WindowWidth
    return build_volume(images)


@pytest.mark.parametrize("window", [True, False], ids=["the sender's window", "no window"])
def test_small_values_are_seen(window: bool, tmp_path: Path) -> None:
    source = small_values(window=window)
    findings = findings_in(source, 1, 2)
    capture = result_of(ObjectKind.SC, findings, source).dataset
    scale = capture.Columns // 14
    values = capture.pixel_array[0, -20 * scale :][findings.mask.array[1].repeat(scale, 0).repeat(scale, 1) == 0]
    assert np.ptp(values) > 200
    state = result_of(ObjectKind.GSPS, findings, source)
    (shown,) = state.dataset.SoftcopyVOILUTSequence
    assert shown.VOILUTFunction == "LINEAR_EXACT"  # LINEAR is for widths from 1 (PS3.3 C.11.2.1.2.1)
    assert shown.WindowWidth == pytest.approx(0.003, rel=0.05)
    assert errors_of_dciodvfy(state, tmp_path) == []


def test_a_volume_of_one_value_can_be_shown() -> None:
    images = images_of(volume_in_plane("axial", array=np.full((6, 20, 14), 7, np.int16)))
    for image in images:
        del image.WindowCenter, image.WindowWidth
    source = build_volume(images)
    findings = findings_in(source, 1)
    assert result_of(ObjectKind.SC, findings, source).file()
    (shown,) = result_of(ObjectKind.GSPS, findings, source).dataset.SoftcopyVOILUTSequence
    assert (shown.WindowWidth, shown.get("VOILUTFunction")) == (1, None)


WRITE = """
import hashlib
from coread.dicom_sr.encode import encode_findings
from coread.workers.volume import build_volume
from tests.integration.test_result_objects import findings_in
from tests.support import identity, images_of, volume_in_plane
source = build_volume(images_of(volume_in_plane("axial")))
for result in encode_findings(findings_in(source, 1), source=source.as_source, identity=identity()):
    print(result.kind, result.dataset.SeriesTime, "TimezoneOffsetFromUTC" in result.dataset)
    print(hashlib.sha256(result.file()).hexdigest())
"""


def test_the_same_job_gives_the_same_bytes_in_every_zone() -> None:
    written = set()
    for zone in ("UTC", "Asia/Tokyo", "America/St_Johns"):
        command = [sys.executable, "-c", WRITE]
        done = subprocess.run(
            command, cwd=REPOSITORY, env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=True
        )
        written.add(done.stdout)
    (said,) = written
    assert "SEG 030405.678901 False" in said


class Meddled(Dataset):
    """While it is written, another thread changes what becomes of warnings: that is one list for all of them."""

    def save_as(self, *arguments: Any, **more: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().save_as(*arguments, **more)


@pytest.mark.parametrize("kind", [Dataset, Meddled])
def test_a_value_that_is_too_long_for_its_encoding_is_never_written_as_something_else(kind: type[Dataset]) -> None:
    source = source_of(grey(2, 8, 8))
    result = result_of(ObjectKind.SEG, labelled(source, np.ones((2, 8, 8), np.uint8)), source)
    dataset = kind(result.dataset)
    dataset.file_meta = result.dataset.file_meta
    dataset.GraphicData = [0.0] * 20_000
    with pytest.raises(ResultError, match="found a longer GraphicData"):
        replace(result, dataset=dataset).file()

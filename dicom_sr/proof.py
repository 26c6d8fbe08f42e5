"""Reads each object back, by other means than it was written with, and compares it with what was found.

A wrong place in the patient is the one mistake that no validator sees, so every object with a geometry is checked
before it is stored. What is compared: the number of voxels, their centre and their spread along each axis and across
(a frame in another's place, a flip or a shift changes one of them), in patient coordinates.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage
from skimage.measure import points_in_poly

from coread.dicom_sr.decode import MOMENTS, frame_geometries, frame_moments, frames_of
from coread.dicom_sr.source import Source
from coread.errors import ResultError
from coread.findings import Findings, Mark, ScalarMap
from coread.kernels.measuring import end_of_run
from coread.volume import Volume

CENTROID_TOLERANCE_MM = 0.15
"""Frames lie where their source images say, the mask on a regular grid; the sources may deviate from it by 0.1 mm."""

SPREAD_TOLERANCE_MM = 0.5
"""For the covariance of the voxels' places, in mm² per mm of extent; deviations as above change it by less."""


PIXEL_TOLERANCE = 0.01
"""So far may a coordinate in pixels be rounded: it is written as a 32-bit float."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cloud:
    """A set of weighted points in the patient: its weight, its centre (LPS, mm) and its covariance (mm²)."""

    weight: float
    centre: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, sums: NDArray[np.float64]) -> "Cloud":
        """``sums`` (4, 4): over all points the weighted products of (x, y, z, 1) with themselves."""
        weight = float(sums[3, 3])
        centre = sums[:3, 3] / weight if weight else np.zeros(3)
        covariance = sums[:3, :3] / weight - np.outer(centre, centre) if weight else np.zeros((3, 3))
        return cls(weight=weight, centre=centre, covariance=covariance)


def prove_segmentation(segmentation: Dataset, findings: Findings) -> None:
    """Raises ResultError unless each segment has its structure's voxels, in the same place in the patient."""
    expected = _expected_clouds(findings, segmentation)
    found = _segment_clouds(segmentation)
    for number, structure in enumerate(findings.present, start=1):
        nothing = Cloud.of(np.zeros((4, 4)))
        _compare(f"segment {number}", found.get(number, nothing), expected[structure.label])


def prove_map(parametric_map: Dataset, scalar_map: ScalarMap) -> None:
    """Raises ResultError unless each slice's numbers are there, unchanged, in the slice's place; a projection's have
    none.
    """
    volume = scalar_map.volume
    if volume.frame_of_reference_uid is None:
        frames = list(frames_of(parametric_map))
        if len(frames) != 1 or not np.array_equal(frames[0], volume.array[0].astype(np.float32)):
            raise _not_read_back("map", "the numbers of the image", "others")
        return
    geometries = frame_geometries(parametric_map)
    if len(geometries) != len(volume.array):
        raise _not_read_back("map", f"{len(volume.array)} slices", f"{len(geometries)}")
    for index, (geometry, frame) in enumerate(zip(geometries, frames_of(parametric_map), strict=True)):
        expected = volume.affine[:3, [1, 2, 3]].copy()
        expected[:, 2] += volume.affine[:3, 0] * index
        away_mm = _corners_apart_mm(geometry.affine, expected, frame.shape)
        if away_mm > CENTROID_TOLERANCE_MM:
            raise _not_read_back("map", f"slice {index + 1} in its place", f"it {away_mm:.2f} mm away")
        if not np.array_equal(frame, volume.array[index].astype(np.float32)):
            raise _not_read_back("map", f"the numbers of slice {index + 1}", "others")


def prove_outline(ring: NDArray[np.float64], mask: NDArray[np.bool_], what: str) -> None:
    """Raises ResultError unless the ring (columns and rows in pixels, corners counted from 0) encloses the largest
    connected part of the mask (row, column), pixel by pixel.
    """
    parts, count = ndimage.label(mask)
    if not count:
        raise _not_read_back(what, "an outline of something", "one of nothing")
    sizes = ndimage.sum_labels(mask, parts, range(1, count + 1))
    filled = [
        ndimage.binary_fill_holes(parts == index, structure=np.ones((3, 3)))  # what touches outside by a corner is none
        for index, size in enumerate(sizes, start=1)
        if size == max(sizes)  # of several as large, any may be meant
    ]
    found = enclosed(ring, mask.shape)
    if not any(np.array_equal(found, expected) for expected in filled):
        raise _not_read_back(what, f"{[int(each.sum()) for each in filled]} pixels enclosed", f"{int(found.sum())}")


def prove_key_outlines(rings: Mapping[int, tuple[int, NDArray[np.float64]]], findings: Findings) -> None:
    """``rings``: label → (slice, ring). Raises ResultError unless each encloses its structure in its key slice."""
    for structure in findings.present:
        index, ring = rings[structure.label]
        if index != findings.key_plane(structure):
            raise _not_read_back("outline", f"slice {findings.key_plane(structure) + 1}", f"slice {index + 1}")
        prove_outline(ring, findings.in_slice(structure, index), f"outline of label {structure.label}")


def prove_marks(places: Mapping[str, tuple[int, NDArray[np.float64]]], marks: Iterable[Mark]) -> None:
    """``places``: name → (slice, outline). Raises ResultError unless each mark is where it was found."""
    for mark in marks:
        index, outline = places[mark.name]
        apart = np.abs(outline - mark.outline).max() if outline.shape == mark.outline.shape else np.inf
        if index != mark.plane or apart > PIXEL_TOLERANCE:
            raise _not_read_back("mark", f"one in slice {mark.plane + 1}", f"another in slice {index + 1}")


def prove_contours(rings: Mapping[int, Iterable[NDArray[np.float64]]], findings: Findings) -> None:
    """``rings``: label → closed rings in LPS, mm, shape (points, 3), each in one slice. Raises ResultError unless,
    filled, they are the structures' masks.
    """
    filled: Filled = {}
    for structure in findings.present:
        for ring in rings.get(structure.label, ()):
            index, in_slice = ring_in_slice(ring, findings.mask)
            inside = enclosed(in_slice, findings.mask.spatial_shape[1:])
            filled[structure.label, index] = inside | filled.get((structure.label, index), False)
    _compare_filled("contours", filled, findings)


def ring_in_slice(ring: NDArray[np.float64], volume: Volume) -> tuple[int, NDArray[np.float64]]:
    """A ring in LPS, mm, as its slice and (column, row) in pixels. Raises ResultError if it lies in no slice."""
    to_indices = np.linalg.inv(volume.affine)
    indices = ring @ to_indices[:3, :3].T + to_indices[:3, 3]
    index = round(float(indices[:, 0].mean()))
    if np.abs(indices[:, 0] - index).max() * volume.spacing[0] > CENTROID_TOLERANCE_MM:
        raise _not_read_back("contour", "a ring in one slice", "one between slices")
    return index, indices[:, :0:-1] + 0.5


def prove_presentation_state(state: Dataset, findings: Findings, source: Source) -> None:
    """Raises ResultError unless the rings of each layer, filled, are its structure's mask in every slice."""
    layers = {layer.GraphicLayer: int(layer.GraphicLayerOrder) - 1 for layer in state.GraphicLayerSequence}
    filled: Filled = {}
    for annotation in state.GraphicAnnotationSequence:
        (reference,) = annotation.ReferencedImageSequence
        index = source.indices[str(reference.ReferencedSOPInstanceUID), reference.get("ReferencedFrameNumber")]
        label = findings.present[layers[annotation.GraphicLayer]].label
        for graphic in annotation.GraphicObjectSequence:
            ring = np.array(graphic.GraphicData, dtype=np.float64).reshape(-1, 2)
            inside = enclosed(ring, findings.mask.spatial_shape[1:])
            filled[label, index] = inside ^ filled.get((label, index), False)
    _compare_filled("presentation state", filled, findings)


def prove_secondary_capture(capture: Dataset, findings: Findings) -> None:
    """Raises ResultError unless each slice that shows something is there, whole and in its place, and its coloured
    pixels (below the legend, which stands above it) are the rims of the structures.
    """
    planes = np.flatnonzero(findings.areas[:, [structure.label for structure in findings.present]].any(axis=1))
    geometries = frame_geometries(capture)
    if len(geometries) != len(planes):
        raise _not_read_back("secondary capture", f"{len(planes)} frames", f"{len(geometries)}")
    _, rows, columns = findings.mask.spatial_shape
    scale = capture.Columns // columns
    above = capture.Rows - scale * rows
    if above < 0 or capture.Columns != scale * columns:
        raise _not_read_back(
            "secondary capture",
            f"slices of {rows} by {columns} pixels",
            f"frames of {capture.Rows} by {capture.Columns}",
        )
    for index, geometry, frame in zip(planes, geometries, frames_of(capture), strict=True):
        of_slice = findings.mask.affine[:3, [1, 2, 3]].copy()
        of_slice[:, 2] += findings.mask.affine[:3, 0] * index
        away_mm = _corners_apart_mm(geometry.affine, of_slice @ _enlarged(scale, above), frame.shape)
        if away_mm > CENTROID_TOLERANCE_MM:
            raise _not_read_back("secondary capture", f"slice {index + 1} in its place", f"it {away_mm:.2f} mm away")
        picture = frame[above:]
        outlined = np.zeros(picture.shape[:2], bool)
        right = True
        for structure in reversed(findings.present):  # where rims cross, the later is drawn over the earlier
            large = np.kron(findings.in_slice(structure, int(index)), np.ones((scale, scale), bool))
            rim = large & ~ndimage.binary_erosion(large)
            right &= bool((picture[rim & ~outlined] == structure.colour).all())
            outlined |= rim
        grey = np.ptp(picture.astype(np.int16), axis=-1) == 0
        if not right or not grey[~outlined].all():
            raise _not_read_back("secondary capture", f"the rims of slice {index + 1}", "others")


HEAT_PER_VALUE = 0.6 * 255
"""Red less blue of a heat map where the map is 1: the colours, from yellow to red, have all the red and no blue."""
HEAT_TOLERANCE = 1.1
"""Rounding of red and of blue, and of the sums before."""


def prove_heat_map(capture: Dataset, scalar_map: ScalarMap) -> None:
    """Raises ResultError unless each slice in which the map reaches half of its maximum is there, whole and in its
    place, and its colour (below the legend, which stands above it) says the map's numbers.
    """
    volume = scalar_map.volume
    _, rows, columns = volume.spatial_shape
    planes = np.flatnonzero((volume.array >= 0.5).any(axis=(1, 2)))
    scale = capture.Columns // columns
    above = capture.Rows - scale * rows
    if above < 0 or capture.Columns != scale * columns or int(capture.NumberOfFrames) != len(planes):
        raise _not_read_back(
            "heat map", f"{len(planes)} slices of {rows} by {columns} pixels", "others or of another size"
        )
    if volume.frame_of_reference_uid is not None:
        for index, geometry in zip(planes, frame_geometries(capture), strict=True):
            of_slice = volume.affine[:3, [1, 2, 3]].copy()
            of_slice[:, 2] += volume.affine[:3, 0] * index
            shape = (capture.Rows, capture.Columns)
            away_mm = _corners_apart_mm(geometry.affine, of_slice @ _enlarged(scale, above), shape)
            if away_mm > CENTROID_TOLERANCE_MM:
                raise _not_read_back("heat map", f"slice {index + 1} in its place", f"it {away_mm:.2f} mm away")
    for index, frame in zip(planes, frames_of(capture), strict=True):
        picture = frame[above:].astype(np.float32)
        heat = volume.array[index].repeat(scale, 0).repeat(scale, 1) * np.float32(HEAT_PER_VALUE)
        if np.abs(picture[..., 0] - picture[..., 2] - heat).max() > HEAT_TOLERANCE:
            raise _not_read_back("heat map", f"the numbers of slice {index + 1}", "others")


def _corners_apart_mm(found: NDArray[np.float64], expected: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """The largest distance of a frame's corners by one affine, (row, column, 1) → LPS, from those by another."""
    rows, columns = shape[0] - 1, shape[1] - 1
    corners = np.array([(0, 0, 1), (rows, 0, 1), (0, columns, 1), (rows, columns, 1)]).T
    return float(np.linalg.norm((found - expected) @ corners, axis=0).max())


def _enlarged(scale: int, above: int) -> NDArray[np.float64]:
    """(row, column, 1) of an enlarged picture with rows above it → of the original, by pixel centres."""
    shift = 0.5 / scale - 0.5
    return np.array([[1 / scale, 0, shift - above / scale], [0, 1 / scale, shift], [0, 0, 1]])


def enclosed(ring: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels (row, column) whose centres a ring (column, row; corners counted from 0) encloses."""
    inside = np.zeros(shape, bool)
    low = np.floor(ring.min(axis=0)).astype(int).clip(0)
    high = np.ceil(ring.max(axis=0)).astype(int)
    columns, rows = np.arange(low[0], min(high[0], shape[1])), np.arange(low[1], min(high[1], shape[0]))
    centres = np.stack(np.meshgrid(columns + 0.5, rows + 0.5), axis=-1).reshape(-1, 2)
    if len(centres):
        inside[rows[:, None], columns] = points_in_poly(centres, ring).reshape(len(rows), len(columns))
    return inside


Filled = dict[tuple[int, int], NDArray[np.bool_]]
"""(label, slice) → the pixels (row, column) that rings enclose."""


def _compare_filled(what: str, filled: Filled, findings: Findings) -> None:
    """Raises ResultError unless what is filled is each structure's mask, slice by slice, and nothing else."""
    for structure in findings.present:
        for index in np.flatnonzero(findings.areas[:, structure.label]).tolist():
            found = filled.pop((structure.label, index), None)
            mask = findings.in_slice(structure, index)
            if found is None or not np.array_equal(found, mask):
                raise _not_read_back(what, f"label {structure.label} in slice {index + 1}", "another shape")
    if filled:
        raise _not_read_back(what, "rings where a structure is", f"{len(filled)} elsewhere")


def _compare(what: str, found: Cloud, expected: Cloud) -> None:
    if found.weight != expected.weight:
        raise _not_read_back(what, f"{expected.weight:.0f} voxels", f"{found.weight:.0f}")
    away_mm = float(np.linalg.norm(found.centre - expected.centre))
    if away_mm > CENTROID_TOLERANCE_MM:
        raise ResultError(
            f"{what}: read back {away_mm:.2f} mm away from where it was found; nothing was stored, please report it"
        )
    extent = 1.0 + float(np.sqrt(max(0.0, np.trace(expected.covariance))))
    if np.abs(found.covariance - expected.covariance).max() > SPREAD_TOLERANCE_MM * extent:
        raise ResultError(f"{what}: read back in another shape than it was found; nothing was stored, please report it")


def _not_read_back(what: str, expected: str, found: str) -> ResultError:
    return ResultError(f"{what}: expected {expected}, read back {found}; nothing was stored, please report it")


def _segment_clouds(segmentation: Dataset) -> dict[int, Cloud]:
    """Segment number → where the file says that its voxels are."""
    geometries = frame_geometries(segmentation)
    affines = np.array([geometry.affine for geometry in geometries])
    if segmentation.SegmentationType == "LABELMAP":
        moments = np.concatenate(
            [moments_by_label(np.ascontiguousarray(frame[None], np.uint8)) for frame in frames_of(segmentation)]
        )
        frames, numbers = np.nonzero(moments[:, :, 0])
        products = _in_patient(moments[frames, numbers], affines[frames])
    else:
        numbers = np.array([geometry.segment for geometry in geometries])
        products = _in_patient(frame_moments(segmentation), affines)
    return {int(number): Cloud.of(products[numbers == number].sum(axis=0)) for number in np.unique(numbers)}


def _expected_clouds(findings: Findings, segmentation: Dataset) -> dict[int, Cloud]:
    """Label → where the mask's voxels are; with FRACTIONAL, weighted by their probability."""
    labels = findings.mask
    if segmentation.SegmentationType == "FRACTIONAL":
        maximum = int(segmentation.MaximumFractionalValue)
        return {
            structure.label: Cloud.of(
                _sums_of(_weighted_moments(findings.probabilities[structure.label], maximum), labels)
            )
            for structure in findings.present
        }
    moments = np.sum([moments_by_label(layer.array) for layer in findings.layers], axis=0)
    return {structure.label: Cloud.of(_sums_of(moments[:, structure.label], labels)) for structure in findings.present}


def _weighted_moments(probability: NDArray[np.float32], maximum: int) -> NDArray[np.float64]:
    """Shape (slices, 6), weights as a file of that maximum keeps them."""
    weights = np.round(np.clip(probability, 0, 1) * np.float32(maximum)).astype(np.float64)
    row, column = np.meshgrid(np.arange(weights.shape[1]), np.arange(weights.shape[2]), indexing="ij")
    products = (np.ones_like(row), row, column, row * row, row * column, column * column)
    return np.stack([(weights * product).sum(axis=(1, 2)) for product in products], axis=1)


def _sums_of(moments: NDArray[np.float64], volume: Volume) -> NDArray[np.float64]:
    """The products' sums (4, 4) of what lies in a volume's slices, from its moments in each: (slices, 6)."""
    affines = np.repeat(volume.affine[None, :3, 1:], len(moments), axis=0)
    affines[:, :, 2] += np.arange(len(moments))[:, None] * volume.affine[:3, 0]
    return np.asarray(_in_patient(moments, affines).sum(axis=0), np.float64)


def _in_patient(moments: NDArray[np.float64], affines: NDArray[np.float64]) -> NDArray[np.float64]:
    """The products' sums of each frame, shape (frames, 4, 4): its moments, shape (frames, 6), carried by its affine
    (row, column, 1) → LPS, shape (frames, 3, 3), into the patient.
    """
    weight, row, column, row_row, row_column, column_column = moments.T
    in_frame = np.array([[row_row, row_column, row], [row_column, column_column, column], [row, column, weight]])
    into_patient = np.zeros((len(moments), 4, 3))
    into_patient[:, :3], into_patient[:, 3, 2] = affines, 1.0
    return np.asarray(into_patient @ in_frame.transpose(2, 0, 1) @ into_patient.transpose(0, 2, 1), np.float64)


@numba.njit(cache=True, parallel=True)
def moments_by_label(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shape (slices, 256, 6): see ``decode.MOMENTS``. ``labels``: (slice, row, column)."""
    found = np.zeros((labels.shape[0], 256, MOMENTS))
    for index in numba.prange(labels.shape[0]):
        for row in range(labels.shape[1]):
            column = 0
            while column < labels.shape[2]:
                label, start = labels[index, row, column], column
                column = end_of_run(labels[index, row], start)
                if label:
                    count = column - start
                    places = count * (start + column - 1) // 2
                    squares = _sum_of_squares(column) - _sum_of_squares(start)
                    found[index, label, 0] += count
                    found[index, label, 1] += row * count
                    found[index, label, 2] += places
                    found[index, label, 3] += row * row * count
                    found[index, label, 4] += row * places
                    found[index, label, 5] += squares
    return found


@numba.njit(cache=True)
def _sum_of_squares(end: int) -> int:
    """Of the whole numbers below ``end``."""
    return (end - 1) * end * (2 * end - 1) // 6

"""Reads back the frames of a multi-frame object by the file's own words, for proof and for pictures.

Nothing here is shared with the encoders: pydicom, and the arithmetic of PS3.3 C.7.6.2.1.1.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels
from pydicom.tag import BaseTag, Tag

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameGeometry:
    """``affine`` (3, 3): (row, column, 1) of a pixel → LPS in mm. ``segment``: the number it shows, 0 for none."""

    affine: NDArray[np.float64]
    segment: int


def frame_geometries(dataset: Dataset) -> list[FrameGeometry]:
    """Where each frame lies, and which segment it shows."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    common = _in_plane(shared, shared) if _PLANE.issubset(shared.dir()) else None
    position_of = _Once(lambda item: _floats(item.ImagePositionPatient))
    segment_of = _Once(lambda item: int(item.ReferencedSegmentNumber))
    found = []
    for groups in _apart(dataset, "PerFrameFunctionalGroupsSequence"):
        has_own = any(tag in groups for tag in _PLANE_TAGS)
        in_plane = _in_plane(groups, shared) if common is None or has_own else common
        position = position_of(groups, _POSITION)
        segment = 0
        if _SEGMENT in groups or _SEGMENT in shared:
            segment = segment_of(groups if _SEGMENT in groups else shared, _SEGMENT)
        found.append(FrameGeometry(affine=np.column_stack([in_plane, position]), segment=segment))
    return found


class _Once(Generic[T]):
    """Reads the first item of a sequence, and what has been read already not again: a segmentation has thousands of
    frames, but as many places as slices. What is the same is told by its bytes.
    """

    def __init__(self, read: Callable[[Dataset], T]) -> None:
        self._read = read
        self._known: dict[bytes, T] = {}

    def __call__(self, groups: Dataset, tag: BaseTag) -> T:
        element: Any = groups.get_item(tag)
        if not isinstance(element, RawDataElement):  # somebody has read it before
            return self._read(groups[tag].value[0])
        encoded: Any = element.value
        if encoded not in self._known:
            self._known[encoded] = self._read(groups[tag].value[0])
        return self._known[encoded]


def _apart(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """A sequence, read without changing the dataset: what is encoded in it stays so, and is written as it is."""
    alone = Dataset()
    alone[keyword] = dataset.get_item(keyword)
    items: Sequence[Dataset] = alone[keyword].value
    return items


_PLANE = {"PlaneOrientationSequence", "PixelMeasuresSequence"}
_PLANE_TAGS = tuple(map(Tag, _PLANE))
_POSITION, _SEGMENT = Tag("PlanePositionSequence"), Tag("SegmentIdentificationSequence")


def _in_plane(groups: Dataset, shared: Dataset) -> NDArray[np.float64]:
    """Shape (3, 2): the way in mm to the next row and to the next column."""
    orientation = _floats(_group("PlaneOrientationSequence", groups, shared).ImageOrientationPatient)
    row_mm, column_mm = _floats(_group("PixelMeasuresSequence", groups, shared).PixelSpacing)
    return np.stack([orientation[3:] * row_mm, orientation[:3] * column_mm], axis=1)


def frames_of(dataset: Dataset) -> Iterator[NDArray[Any]]:
    """Each frame's pixels, (row, column), one at a time."""
    if _is_packed(dataset):
        yield from _unpacked(dataset, range(int(dataset.NumberOfFrames)))
    else:
        yield from _whole_frames(dataset)


def frames_at(dataset: Dataset, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Some frames' pixels, (row, column), by their indices from 0; the others are not decoded."""
    if _is_packed(dataset):
        yield from _unpacked(dataset, indices)
    elif indices:
        yield from iter_pixels(dataset, indices=indices)


def _is_packed(dataset: Dataset) -> bool:
    return dataset.get("BitsAllocated") == 1 and not dataset.file_meta.TransferSyntaxUID.is_compressed


def _unpacked(dataset: Dataset, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    size = dataset.Rows * dataset.Columns
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    for index in indices:
        first, last = index * size // 8, -(-(index + 1) * size // 8)
        bits = np.unpackbits(packed[first:last], bitorder="little")
        start = index * size - first * 8
        yield bits[start : start + size].reshape(dataset.Rows, dataset.Columns)


def _whole_frames(dataset: Dataset) -> Iterator[NDArray[Any]]:
    if "FloatPixelData" in dataset:
        size = dataset.Rows * dataset.Columns
        values = np.frombuffer(dataset.FloatPixelData, "<f4")
        for index in range(int(dataset.NumberOfFrames)):
            yield values[index * size : (index + 1) * size].reshape(dataset.Rows, dataset.Columns)
        return
    yield from iter_pixels(dataset)


MOMENTS = 6
"""Sums over a frame's pixels of weight, w·row, w·column, w·row², w·row·column, w·column²."""


def frame_moments(dataset: Dataset) -> NDArray[np.float64]:
    """The moments of each frame's pixels, shape (frames, 6), of a BINARY or FRACTIONAL segmentation."""
    if dataset.BitsAllocated == 1 and not dataset.file_meta.TransferSyntaxUID.is_compressed:
        packed = np.frombuffer(dataset.PixelData, np.uint8)
        return moments_of_bits(packed, int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns)
    return np.array([_moments(np.ascontiguousarray(frame, np.float64)) for frame in frames_of(dataset)])


@numba.njit(cache=True, parallel=True)
def moments_of_bits(packed: NDArray[np.uint8], frames: int, rows: int, columns: int) -> NDArray[np.float64]:
    size = rows * columns
    found = np.zeros((frames, MOMENTS))
    for frame in numba.prange(frames):
        start, end = frame * size, (frame + 1) * size
        for byte in range(start >> 3, (end + 7) >> 3):
            value = packed[byte]
            if value:
                for offset in range(8):
                    bit = byte * 8 + offset
                    if value >> offset & 1 and start <= bit < end:
                        row, column = divmod(bit - start, columns)
                        found[frame, 0] += 1
                        found[frame, 1] += row
                        found[frame, 2] += column
                        found[frame, 3] += row * row
                        found[frame, 4] += row * column
                        found[frame, 5] += column * column
    return found


@numba.njit(cache=True)
def _moments(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.zeros(MOMENTS)
    for row in range(frame.shape[0]):
        for column in range(frame.shape[1]):
            weight = frame[row, column]
            if weight:
                found += weight * np.array([1, row, column, row * row, row * column, column * column], np.float64)
    return found


def _group(keyword: str, groups: Dataset, shared: Dataset) -> Dataset:
    sequence: Sequence[Dataset] = groups[keyword].value if keyword in groups else shared[keyword].value
    return sequence[0]


def _floats(values: Sequence[object]) -> NDArray[np.float64]:
    return np.array([float(str(value)) for value in values])

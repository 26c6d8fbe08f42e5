"""What stands in the pixels of segmentations, read frame by frame so that a large one fits into memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from coread.dicom_sr.validation.geometry import frames, group, numbers
from coread.dicom_sr.validation.problem import Subject

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
UNREADABLE = (ValueError, IndexError, AttributeError, RuntimeError, NotImplementedError, KeyError)
"""What a decoder raises at broken pixels; another rule says that they are broken."""

Box = tuple[int, int, int, int]
"""First and last row, first and last column."""


@dataclass(frozen=True, kw_only=True)
class FrameContent:
    """How often each value other than 0 stands in a frame, and the box around each."""

    counts: dict[int, int]
    boxes: dict[int, Box]


def content_of(subject: Subject, dataset: Dataset) -> list[FrameContent] | None:
    """For each frame what is in it; None where the pixels cannot be read. Read once for each object."""
    key = id(dataset)
    if key not in subject.contents:
        try:
            subject.contents[key] = [_content(frame) for frame in pixel_frames(dataset)]
        except UNREADABLE:
            subject.contents[key] = None
    found = subject.contents[key]
    return found if isinstance(found, list) else None


def _content(frame: NDArray[np.generic]) -> FrameContent:
    values, counts = np.unique(frame, return_counts=True)
    found = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value}
    return FrameContent(counts=found, boxes={value: _box(frame == value) for value in list(found)[:_BOXES]})


_BOXES = 256
"""Of fractional and label map frames, no more values than a byte has."""


def _box(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def pixel_frames(dataset: Dataset) -> Iterator[NDArray[np.generic]]:
    """Each frame's pixels (row, column). Raises one of ``UNREADABLE``."""
    if dataset.get("BitsAllocated") == 1 and dataset.file_meta.TransferSyntaxUID in NATIVE:
        yield from _frames_of_bits(dataset)
    else:
        yield from iter_pixels(dataset)


def _frames_of_bits(dataset: Dataset) -> Iterator[NDArray[np.generic]]:
    """Frames follow each other bit by bit, without padding (PS3.5 8.1.1)."""
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    size = int(dataset.Rows) * int(dataset.Columns)
    for index in range(int(dataset.get("NumberOfFrames") or 1)):
        start, stop = index * size, (index + 1) * size
        bits = np.unpackbits(packed[start // 8 : -(-stop // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(dataset.Rows, dataset.Columns)


def frame_segment(dataset: Dataset, groups: Dataset) -> int | None:
    """The number of the segment that a frame shows."""
    identification = group("SegmentIdentificationSequence", dataset, groups)
    found = numbers(identification[0].get("ReferencedSegmentNumber")) if identification else ()
    return found[0] if found else None


def frames_of_segment(dataset: Dataset, number: int) -> list[int]:
    """The indices of the frames that show a segment; in a label map, all."""
    if dataset.get("SegmentationType") == "LABELMAP":
        return list(range(len(frames(dataset))))
    return [index for index, groups in enumerate(frames(dataset)) if frame_segment(dataset, groups) == number]

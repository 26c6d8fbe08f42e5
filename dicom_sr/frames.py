"""Frames of a segmentation from a label volume, and their functional groups, as the bytes that the file holds.

highdicom compares, encodes and describes frame by frame in Python, which for 100 segments takes many times as long as
to write the file. Here one pass over the labels sets the bits of all frames, and each frame's functional groups are
put together from parts that are encoded once. The header stays highdicom's (see ``segmentation``).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from coread import codes
from coread.dicom_sr import explicit
from coread.dicom_sr.source import Plane, Source

PER_FRAME = Tag("PerFrameFunctionalGroupsSequence")
REFERENCED_SERIES = Tag("ReferencedSeriesSequence")
OF_EACH_FRAME = (
    "DerivationImageSequence",
    "FrameContentSequence",
    "PlanePositionSequence",
    "SegmentIdentificationSequence",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """``pixels``: all frames one after the other, as PixelData holds them. ``planes`` and ``segments``: for each frame
    the index of its source plane, and its segment's number (None where a frame shows all segments). ``overlap``:
    whether a pixel is in several segments.
    """

    pixels: bytes
    planes: NDArray[np.intp]
    segments: NDArray[np.intp] | None
    overlap: bool = False


def binary_frames(layers: Sequence[NDArray[np.uint8]], numbers: NDArray[np.uint8]) -> Frames:
    """One bit per pixel, the first in the least significant bit (PS3.5 8.1.1); frames follow each other without
    padding. A frame for each segment and slice with foreground, ordered by segment, then slice.

    ``layers``: label volumes (slice, row, column) of one shape, each segment in one of them. ``numbers``: shape (256,),
    label → segment number, 0 for what is left out.
    """
    labels = layers[0]
    shown = np.logical_or.reduce([_present(layer, numbers) for layer in layers])
    segments, planes = np.nonzero(shown)
    offsets = np.full(shown.shape, -1, np.int64)
    offsets[segments, planes] = np.arange(len(planes)) * (labels.shape[1] * labels.shape[2])
    bits = len(planes) * labels.shape[1] * labels.shape[2]
    # Where a frame ends within a byte, neighbouring frames share it: no two slices at once.
    set_bits = _set_bits if (labels.shape[1] * labels.shape[2]) % 8 else _set_bits_in_parallel

    def fill(array: NDArray[np.uint8]) -> None:
        for layer in layers:
            set_bits(layer, numbers, offsets, array)

    pixels = _filled(-(-bits // 8), fill)
    return Frames(pixels=pixels, planes=planes, segments=segments, overlap=_layers_overlap(layers, numbers))


def _layers_overlap(layers: Sequence[NDArray[np.uint8]], numbers: NDArray[np.uint8]) -> bool:
    """Whether segments of different layers share a voxel."""
    return len(layers) > 1 and _any_overlap([numbers[layer] for layer in layers])


def fractional_frames(probabilities: Sequence[NDArray[np.float32]]) -> Frames:
    """One byte per pixel, 255 for certain. A frame for each segment (in the order given, numbered from 1) and slice in
    which the probability is anywhere above half a step.
    """
    quantised = [in_steps(each) for each in probabilities]
    shown = np.array([each.any(axis=(1, 2)) for each in quantised])
    segments, planes = np.nonzero(shown)
    size = probabilities[0][0].size

    def fill(array: NDArray[np.uint8]) -> None:
        for index, (segment, plane) in enumerate(zip(segments, planes, strict=True)):
            array[index * size : (index + 1) * size] = quantised[segment][plane].ravel()

    pixels = _filled(size * len(planes), fill)
    return Frames(pixels=pixels, planes=planes, segments=segments + 1, overlap=_any_overlap(quantised))


def _any_overlap(segments: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether several of them are above 0 in one place."""
    taken = np.zeros(segments[0].shape, bool)
    for segment in segments:
        if (taken & (segment > 0)).any():
            return True
        taken |= segment > 0
    return False


def in_steps(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0 to 1 in steps of 1/255, the nearest."""
    steps: NDArray[np.uint8] = np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)
    return steps


def label_map_frames(labels: NDArray[np.uint8], numbers: NDArray[np.uint8]) -> Frames:
    """One byte per pixel, the segment's number. A frame for each slice with foreground."""
    numbered = numbers[labels]
    planes = np.flatnonzero(numbered.any(axis=(1, 2)))
    size = labels[0].size

    def fill(array: NDArray[np.uint8]) -> None:
        array[: size * len(planes)] = numbered[planes].ravel()

    return Frames(pixels=_filled(size * len(planes), fill), planes=planes, segments=None)


def _filled(size: int, fill: Callable[[NDArray[np.uint8]], None]) -> bytes:
    """Bytes that ``fill`` writes into, of even length, as every value is (PS3.5 7.1.1). Pixels may take as much memory
    as all else together, so there is never a second copy of them.
    """
    buffer = io.BytesIO(bytes(size + size % 2))
    with buffer.getbuffer() as view:
        fill(np.frombuffer(view, np.uint8))
    return buffer.getvalue()  # the buffer's own bytes, since nobody else holds them


@numba.njit(cache=True, parallel=True)
def _present(labels: NDArray[np.uint8], numbers: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether a segment has foreground in a slice: (segment number, slice)."""
    shown = np.zeros((int(numbers.max()) + 1, labels.shape[0]), np.bool_)
    for plane in numba.prange(labels.shape[0]):
        for row in range(labels.shape[1]):
            for column in range(labels.shape[2]):
                label = labels[plane, row, column]
                if label:
                    shown[numbers[label], plane] = True
    shown[0] = False
    return shown


def _set_bits_of(
    labels: NDArray[np.uint8], numbers: NDArray[np.uint8], offsets: NDArray[np.int64], pixels: NDArray[np.uint8]
) -> None:
    columns = labels.shape[2]
    for plane in numba.prange(labels.shape[0]):
        for row in range(labels.shape[1]):
            for column in range(columns):
                label = labels[plane, row, column]
                if label and numbers[label]:
                    bit = offsets[numbers[label], plane] + row * columns + column
                    pixels[bit >> 3] |= np.uint8(1 << (bit & 7))


_set_bits = numba.njit(cache=True)(_set_bits_of)
_set_bits_in_parallel = numba.njit(cache=True, parallel=True)(_set_bits_of)


def write_functional_groups(dataset: Dataset, frames: Frames, planes: Sequence[Plane], *, derivation: Code) -> None:
    """Describe each frame in ``dataset``: source image, dimension indices, position, segment.

    ``derivation``: what was done to the source (CID 7203). The sequence is kept encoded; pydicom reads it when somebody
    asks for it.
    """
    used = np.unique(frames.planes)
    rank = {int(plane): index for index, plane in enumerate(used, start=1)}
    done = explicit.sequence("DerivationCodeSequence", [explicit.code(derivation)])
    of_plane = {plane: _groups_of_plane(planes[plane], done) for plane in rank}
    groups = []
    segments = [None] * len(frames.planes) if frames.segments is None else frames.segments.tolist()
    of_segment = {segment: _group_of_segment(segment) for segment in set(segments)}
    for plane, segment in zip(frames.planes.tolist(), segments, strict=True):
        source, position = of_plane[plane]
        indices = (rank[plane],) if segment is None else (segment, rank[plane])
        content = explicit.numbers("DimensionIndexValues", b"UL", indices)
        groups.append(source + explicit.sequence("FrameContentSequence", [content]) + position + of_segment[segment])
    for keyword in OF_EACH_FRAME:  # what a template of one plane has made common to all
        dataset.SharedFunctionalGroupsSequence[0].pop(keyword, None)
    dataset.NumberOfFrames = len(frames.planes)
    dataset[PER_FRAME] = explicit.as_element(PER_FRAME, groups)


def write_referenced_series(dataset: Dataset, source: Source) -> None:
    """List the source's series with all its instances (PS3.3 C.12.1.2)."""
    listed = []
    for series_instance_uid, images in source.by_series.items():
        instances = explicit.sequence(
            "ReferencedInstanceSequence",
            [
                explicit.text("ReferencedSOPClassUID", b"UI", image.SOPClassUID)
                + explicit.text("ReferencedSOPInstanceUID", b"UI", image.SOPInstanceUID)
                for image in images
            ],
        )
        listed.append(instances + explicit.text("SeriesInstanceUID", b"UI", series_instance_uid))
    dataset[REFERENCED_SERIES] = explicit.as_element(REFERENCED_SERIES, listed)


def _groups_of_plane(plane: Plane, derivation: bytes) -> tuple[bytes, bytes]:
    """DerivationImageSequence and PlanePositionSequence, encoded; ``derivation`` is the encoded code sequence."""
    source = explicit.text("ReferencedSOPClassUID", b"UI", plane.image.SOPClassUID)
    source += explicit.text("ReferencedSOPInstanceUID", b"UI", plane.image.SOPInstanceUID)
    if plane.frame is not None:
        source += explicit.text("ReferencedFrameNumber", b"IS", str(plane.frame))
    source += explicit.text("SpatialLocationsPreserved", b"CS", "YES")
    source += explicit.sequence("PurposeOfReferenceCodeSequence", [explicit.code(codes.IMAGE_PROCESSING)])
    derived = explicit.sequence("SourceImageSequence", [source]) + derivation
    position = explicit.text("ImagePositionPatient", b"DS", "\\".join(plane.position))
    return (
        explicit.sequence("DerivationImageSequence", [derived]),
        explicit.sequence("PlanePositionSequence", [position]),
    )


def _group_of_segment(segment: int | None) -> bytes:
    """SegmentIdentificationSequence, encoded; nothing for a frame that shows all segments."""
    if segment is None:
        return b""
    number = explicit.numbers("ReferencedSegmentNumber", b"US", [segment])
    return explicit.sequence("SegmentIdentificationSequence", [number])

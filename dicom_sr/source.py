"""The images that a result speaks of: one plane after the other, whether each is a file or a frame of one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import DSfloat

from coread.dicom_sr.repair import repaired
from coread.volume import Volume

_FUNCTIONAL_GROUP = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
}
"""Where a multi-frame image keeps what a single-frame image has at the top (PS3.3 C.7.6.16.2)."""

SINGLE_FRAME = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
"""Modality → class of its single-frame images."""

_OF_A_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_OF_MANY_FRAMES = (
    "NumberOfFrames",
    *_GROUPS,
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationType",
)
_OF_AN_INSTANCE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
)


UNREADABLE = (ValueError, TypeError, AttributeError, NotImplementedError, BytesLengthException)
"""What pydicom raises at a value that is not what its VR says, or of a VR that is none."""

COSINE_DECIMALS = 10
"""More than any scanner writes, and fewer than the digits that computing changes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """A single-frame image, or one frame (numbered from 1) of a multi-frame image."""

    image: Dataset
    frame: int | None = None

    def get(self, keyword: str) -> Any:
        """The value that an attribute has in this plane, wherever the image keeps it; None if it has none that can be
        read.
        """
        try:
            if self.frame is not None and keyword in _FUNCTIONAL_GROUP:
                return self._in_groups(_FUNCTIONAL_GROUP[keyword], keyword)
            return self.image.get(keyword)
        except UNREADABLE:
            return None

    def number(self, keyword: str) -> float | None:
        """The first value of an attribute as a finite number; None if it has none."""
        value = self.get(keyword)
        values = list(value) if isinstance(value, MultiValue | list) else [value]
        try:
            number = float(values[0])
        except (TypeError, ValueError, IndexError):
            return None
        return number if math.isfinite(number) else None

    def _in_groups(self, sequence: str, keyword: str) -> Any:
        per_frame = self.image.get("PerFrameFunctionalGroupsSequence") or []
        shared = self.image.get("SharedFunctionalGroupsSequence") or []
        index = (self.frame or 1) - 1
        for groups in (*per_frame[index : index + 1], *shared[:1]):
            items = groups.get(sequence) or []
            if items and keyword in items[0]:
                return items[0].get(keyword)
        return None

    @property
    def position(self) -> tuple[str, str, str]:
        """ImagePositionPatient as decimal strings of legal length."""
        x, y, z = (str(DSfloat(float(value), auto_format=True)) for value in self.get("ImagePositionPatient"))
        return x, y, z

    @property
    def frames(self) -> list[int] | None:
        """The frame as references list it: None for a single-frame image."""
        return None if self.frame is None else [self.frame]


def planes_of(image: Dataset) -> Iterator[Plane]:
    """The planes of an image: itself, or each of its frames."""
    count = frame_count(image)
    if count == 1 and "PerFrameFunctionalGroupsSequence" not in image:
        yield Plane(image=image)
    else:
        for number in range(1, count + 1):
            yield Plane(image=image, frame=number)


def reference_to(image: Dataset) -> Dataset:
    """An item that refers to an instance by class and UID."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def frame_count(image: Dataset) -> int:
    """NumberOfFrames; 1 where it is absent or no number."""
    try:
        return int(image.get("NumberOfFrames") or 1)
    except (ValueError, TypeError):
        return 1


def _cosines(volume: Volume) -> list[DSfloat]:
    """ImageOrientationPatient: along a row, then down a column."""
    _, column, row = volume.unit_vectors()
    return [DSfloat(value, auto_format=True) for value in np.concatenate([row, column]).round(COSINE_DECIMALS) + 0.0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """``planes`` in the order of the findings' slices; ``spacing_mm`` is the measured distance of neighbouring ones
    (None for a single image). It stands for a SpacingBetweenSlices that is absent or wrong, and for a SliceThickness
    that is absent.
    """

    planes: Sequence[Plane]
    spacing_mm: float | None = None
    volume: Volume | None = None
    """The images' values, for objects that show them; its grid is what results lie on."""
    channels: Sequence[tuple[int, int]] | None = None
    """Of a waveform, the multiplex group and channel of each channel that was read, numbered from 1; None: all."""
    remarks: Sequence[str] = ()
    """What a reader of the report must know of what was read and what was not."""
    representatives: Sequence[Plane] = ()
    """Those that stand for all of them where a statement is about all; by default the one in the middle."""
    display: Callable[[int], NDArray[np.uint8]] | None = None
    """A plane as a viewer shows it at first, 0 black to 255 white, where a window does not tell it all."""

    @cached_property
    def standing_for_all(self) -> Sequence[Plane]:
        return self.representatives or [self.planes[len(self.planes) // 2]]

    @cached_property
    def header(self) -> Dataset:
        """The first plane's header with the ordinary mistakes mended, as a single-frame image would have it."""
        first = self.planes[0]
        header = repaired(first.image)
        header.setdefault("Modality", "OT")
        if first.frame is not None:
            for keyword in _OF_MANY_FRAMES:
                header.pop(keyword, None)
            for keyword in _OF_A_PLANE:
                if first.get(keyword) is not None:
                    setattr(header, keyword, first.get(keyword))
        if self.volume is not None and header.get("ImageOrientationPatient"):
            header.ImageOrientationPatient = _cosines(self.volume)
        if self.spacing_mm is not None:
            header.SpacingBetweenSlices = DSfloat(self.spacing_mm, auto_format=True)
            if not header.get("SliceThickness"):
                header.SliceThickness = DSfloat(self.spacing_mm, auto_format=True)
        return header

    @property
    def template(self) -> Dataset:
        """The header as that of a single-frame image, for encoders that take a multi-frame class at its word."""
        if self.planes[0].frame is None:
            return self.header
        single = SINGLE_FRAME.get(str(self.header.get("Modality")), SecondaryCaptureImageStorage)
        own = Dataset()
        own.SOPClassUID = single
        return Dataset({**self.header, **own})

    def image_of(self, plane: Plane) -> Dataset:
        """A header that stands for a plane: the mended one of the first, with what is the plane's own."""
        own = Dataset()
        own.SOPInstanceUID = plane.image.SOPInstanceUID
        own.SeriesInstanceUID = plane.image.SeriesInstanceUID
        if plane.frame is not None:
            own.NumberOfFrames = frame_count(plane.image)
            for keyword in _GROUPS:
                if keyword in plane.image:
                    own[keyword] = plane.image[keyword]
        for keyword in _OF_A_PLANE[:2]:
            value = plane.get(keyword)
            if value not in (None, ""):
                setattr(own, keyword, value)
        return Dataset({**self.header, **own})

    @cached_property
    def indices(self) -> Mapping[tuple[str, int | None], int]:
        """SOPInstanceUID and frame (None for a single-frame image) → which of the planes it is."""
        return {(str(plane.image.SOPInstanceUID), plane.frame): index for index, plane in enumerate(self.planes)}

    @cached_property
    def instances(self) -> list[Dataset]:
        """A header for each image, to be referred to: what identifies it, and its size; the first also has the
        attributes of patient and study.
        """
        found: dict[str, Dataset] = {}
        for plane in self.planes:
            uid = str(plane.image.SOPInstanceUID)
            if uid not in found:
                light = Dataset()
                for keyword in _OF_AN_INSTANCE:
                    if keyword in plane.image:
                        setattr(light, keyword, plane.image.get(keyword))
                found[uid] = light
        first = next(iter(found))
        found[first] = Dataset({**self.header, **found[first]})
        return list(found.values())

    @cached_property
    def by_series(self) -> Mapping[str, list[Dataset]]:
        """SeriesInstanceUID → the instances of that series: slices of one stack may each be in a series of its own."""
        found: dict[str, list[Dataset]] = {}
        for image in self.instances:
            found.setdefault(str(image.SeriesInstanceUID), []).append(image)
        return found

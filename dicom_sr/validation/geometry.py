"""Where images and frames lie, as their headers say: LPS, mm. No rules; what the rules compare."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

POSITION_TOLERANCE_MM = 0.05
"""Decimal strings are rounded; more is another place."""
DIRECTION_TOLERANCE = 1e-3
SPACING_TOLERANCE = 0.01
"""Relative: what rounding to two decimals does to a spacing of a millimetre."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """An image plane: position of the first pixel's centre, (row, column) direction cosines, (row, column) spacing."""

    position: Vector
    orientation: Vector
    spacing: Vector
    rows: int
    columns: int

    @property
    def normal(self) -> Vector:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def pixel_of(self, points: Vector) -> Vector:
        """Points (n, 3) → (n, 3): column, row, mm out of the plane; the first pixel's centre is (0, 0, 0)."""
        away = np.atleast_2d(points) - self.position
        row, column = self.orientation[:3], self.orientation[3:]
        return np.stack([away @ row / self.spacing[1], away @ column / self.spacing[0], away @ self.normal], axis=-1)

    def corners(self) -> Vector:
        """The centres of the four corner pixels (4, 3)."""
        across = self.orientation[:3] * self.spacing[1] * (self.columns - 1)
        down = self.orientation[3:] * self.spacing[0] * (self.rows - 1)
        return np.stack([self.position + i * across + j * down for i in (0, 1) for j in (0, 1)])


@dataclass(frozen=True)
class Reference:
    """An image, or a frame of it, that something was made from."""

    uid: str
    class_uid: str
    frames: tuple[int, ...] = ()


def frames(dataset: Dataset) -> Sequence[Dataset]:
    """The functional groups of each frame."""
    found: Sequence[Dataset] = dataset.get("PerFrameFunctionalGroupsSequence") or []
    return found


def group(keyword: str, dataset: Dataset, groups: Dataset) -> Sequence[Dataset]:
    """A functional group of a frame, its own or that of all frames."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    found: Sequence[Dataset] = groups.get(keyword) or (shared[0].get(keyword) or [] if shared else [])
    return found


def geometry(dataset: Dataset, groups: Dataset) -> tuple[Vector | None, Vector | None, Vector | None]:
    """A frame's ImagePositionPatient, ImageOrientationPatient and PixelSpacing, as far as they are stated."""

    def values(sequence: str, keyword: str) -> Vector | None:
        items = group(sequence, dataset, groups)
        return floats(items[0][keyword].value) if items and items[0].get(keyword) else None

    return (
        values("PlanePositionSequence", "ImagePositionPatient"),
        values("PlaneOrientationSequence", "ImageOrientationPatient"),
        values("PixelMeasuresSequence", "PixelSpacing"),
    )


def plane_of(dataset: Dataset, groups: Dataset) -> Plane | None:
    """A frame's plane, if all of it is stated."""
    return _plane(dataset, *geometry(dataset, groups))


def planes_of_image(image: Dataset) -> dict[int, Plane]:
    """Frame number → plane. A single-frame image is frame 1."""
    found = {}
    if "PerFrameFunctionalGroupsSequence" in image:
        for number, groups in enumerate(frames(image), start=1):
            plane = plane_of(image, groups)
            if plane is not None:
                found[number] = plane
    elif all(image.get(keyword) for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")):
        keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        plane = _plane(image, *(floats(image[keyword].value) for keyword in keywords))
        if plane is not None:
            found[1] = plane
    return found


def _plane(image: Dataset, position: Vector | None, orientation: Vector | None, spacing: Vector | None) -> Plane | None:
    if position is None or orientation is None or spacing is None:
        return None
    if (len(position), len(orientation), len(spacing)) != (3, 6, 2) or not (spacing > 0).all():
        return None
    rows, columns = int(image.get("Rows") or 0), int(image.get("Columns") or 0)
    return Plane(position=position, orientation=orientation, spacing=spacing, rows=rows, columns=columns)


def all_planes(images: Mapping[str, Dataset], frame_of_reference_uid: str) -> list[Plane]:
    """Every plane of the images in one frame of reference."""
    return [
        plane
        for image in images.values()
        if str(image.get("FrameOfReferenceUID")) == frame_of_reference_uid
        for plane in planes_of_image(image).values()
    ]


def outside_mm(points: Vector, planes: Sequence[Plane]) -> float:
    """How far the worst of some points lies outside the box that the planes of a series fill; 0 if all are in it."""
    first = planes[0]
    corners = np.concatenate([each.corners() for each in planes])
    box = first.pixel_of(corners)
    low, high = box.min(axis=0), box.max(axis=0)
    margin = np.array([0.5, 0.5, gap_mm(planes) or 0.0])
    places = first.pixel_of(points)
    away = np.maximum(np.maximum(low - margin - places, places - high - margin), 0.0)
    return float((away * [first.spacing[1], first.spacing[0], 1.0]).sum(axis=1).max())


def gap_mm(planes: Sequence[Plane]) -> float | None:
    """The smallest distance between two neighbouring planes of a series; None if there is but one place."""
    gaps = gaps_mm(np.array([plane.position for plane in planes]), planes[0].normal)
    return float(gaps.min()) if len(gaps) else None


def gaps_mm(positions: Vector, normal: Vector) -> Vector:
    """The distances between neighbouring places along a normal, equal places taken as one."""
    along = np.sort(positions @ normal)
    gaps: Vector = np.diff(along)
    return gaps[gaps > POSITION_TOLERANCE_MM / 5]


def frame_sources(dataset: Dataset) -> Iterator[list[Reference]]:
    """For each frame the images that it was derived from."""
    for groups in frames(dataset):
        yield [
            reference_of(image)
            for derivation in group("DerivationImageSequence", dataset, groups)
            for image in derivation.get("SourceImageSequence") or []
        ]


def reference_of(item: Dataset) -> Reference:
    """What an item of a reference sequence refers to."""
    return Reference(
        str(item.get("ReferencedSOPInstanceUID")),
        str(item.get("ReferencedSOPClassUID")),
        numbers(item.get("ReferencedFrameNumber")),
    )


def numbers(value: object) -> tuple[int, ...]:
    """The integers of an element that may be absent, or have one value or several."""
    if value is None or value == "":
        return ()
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(int(str(each)) for each in values)


def floats(values: object) -> Vector:
    """The numbers of an element of several values, or of one."""
    several = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    return np.array([float(str(value)) for value in several])


def text_of(values: Vector) -> str:
    """Numbers for a message."""
    return "\\".join(f"{value:.4g}" for value in values)

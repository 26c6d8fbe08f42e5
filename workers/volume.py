"""From the images of a series to one regular volume, or the reason why they do not form one.

Nothing is dropped, filled in or evened out: a stack with a missing slice, two images in one place or mixed orientations
is refused, because a volume measured on it would be wrong without anybody seeing it. A stack that a tilted gantry
shifts evenly is read as it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import UID

from coread.dicom_sr.source import Plane, Source, planes_of
from coread.errors import GeometryError, NotDicom
from coread.volume import Volume

SPACING_TOLERANCE = 0.02
"""Relative deviation of a slice step from the median that is still rounding: scanners write positions to 1e-2 or
1e-3 mm, and the thinnest slices in use are about 0.5 mm. A missing slice deviates by 1."""

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of two images' direction cosines that is still rounding (they are written to 1e-6 or so)."""

GRID_TOLERANCE_MM = 0.1
"""Largest distance of an image from its place on the even stack that is still rounding. It must stay below what
``dicom_sr.proof`` accepts."""

DUPLICATE_TOLERANCE_MM = 0.01
"""Two images nearer than this are in the same place."""

Values = Literal["modality", "display"]

GREY = ("MONOCHROME1", "MONOCHROME2")
WHITE = 255.0
"""The brightest value as displayed."""

LARGEST_TILT_DEGREES = 45.0
"""Gantries tilt by 30° at most. More than that is no tilt: the slices' positions are wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceVolume:
    """``volume`` is (slice, row, column), float32, LPS, mm, after the modality transform; ``planes`` in slice order."""

    volume: Volume
    planes: Sequence[Plane]

    @property
    def images(self) -> list[Dataset]:
        """The images that the planes are of, each once."""
        return list({plane.image.SOPInstanceUID: plane.image for plane in self.planes}.values())

    @cached_property
    def as_source(self) -> Source:
        """What results refer to."""
        is_projection = self.volume.frame_of_reference_uid is None
        return Source(
            planes=self.planes,
            spacing_mm=None if is_projection else self.volume.spacing[0],
            volume=self.volume,
            display=self.displayed if is_projection else None,
        )

    def displayed(self, index: int) -> NDArray[np.uint8]:
        """A plane as a viewer shows it at first, (row, column), 0 black to 255 white."""
        plane = self.planes[index]
        (shown,) = _displayed([plane], _pixels([plane], "modality"))
        return np.asarray(np.rint(shown.clip(0, WHITE)), np.uint8)


def build_volume(images: Sequence[Dataset], *, values: Values = "modality") -> SourceVolume:
    """The volume that the images of one series form: single-frame images, or the frames of multi-frame ones.

    ``values``: what a number is, see ``SeriesRequirement.values``. Raises GeometryError if they do not form one regular
    volume, NotDicom if pixels cannot be decoded.
    """
    return stack_of(checked_planes(images), values=values)


def checked_planes(images: Sequence[Dataset]) -> list[Plane]:
    """The planes of the images, each of which may be a slice. Raises what ``build_volume`` does if one may not."""
    _check_identities(images)
    planes = [plane for image in images for plane in planes_of(image)]
    if len(planes) < 2:
        raise GeometryError(f"expected two or more slices, found {len(planes)}; send the whole series")
    for plane in planes:
        _check_plane(plane)
    return planes


def places_of(planes: Sequence[Plane]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the planes lie: LPS in mm, shape (planes, 3), and along their common normal, shape (planes,).

    Raises GeometryError if they have no orientation, size or frame of reference in common.
    """
    orientation = _common_orientation(planes)
    positions = np.array([_numbers(plane, "ImagePositionPatient", 3) for plane in planes])
    return positions, positions @ np.cross(orientation[0], orientation[1])


def stack_of(planes: Sequence[Plane], *, values: Values) -> SourceVolume:
    """The volume that checked planes form. Raises what ``build_volume`` does."""
    orientation = _common_orientation(planes)
    normal = np.cross(orientation[0], orientation[1])
    positions, along_normal = places_of(planes)
    order = np.argsort(along_normal, kind="stable")
    step = _common_step(positions[order], normal)
    ordered = [planes[index] for index in order]
    row_mm, column_mm = _numbers(ordered[0], "PixelSpacing", 2)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = orientation[1] * row_mm
    affine[:3, 2] = orientation[0] * column_mm
    affine[:3, 3] = positions[order[0]]
    volume = Volume(
        array=np.stack(_pixels(ordered, values)),
        affine=affine,
        frame_of_reference_uid=ordered[0].get("FrameOfReferenceUID"),
    )
    return SourceVolume(volume=volume.at_right_angles(), planes=ordered)


def build_projection(images: Sequence[Dataset], *, values: Values = "modality") -> SourceVolume:
    """A radiograph as a volume of one slice; it has no place in the patient, so it lies at the origin.

    Raises GeometryError unless it is one grey image of one frame, NotDicom if its pixels cannot be decoded.
    """
    _check_identities(images)
    planes = [plane for image in images for plane in planes_of(image)]
    if len(planes) != 1:
        raise GeometryError(
            f"expected a series of one image, found {len(planes)}; send each projection as a series of its own"
        )
    (plane,) = planes
    if plane.get("SamplesPerPixel") != 1 or plane.get("PhotometricInterpretation") not in GREY:
        raise GeometryError(
            f"expected a grey image, found another kind in {plane.image.SOPInstanceUID}; send the original series"
        )
    row_mm, column_mm = _projection_spacing(plane)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1.0, row_mm, column_mm, 1.0
    return SourceVolume(volume=Volume(array=np.stack(_pixels(planes, values)), affine=affine), planes=planes)


def _projection_spacing(plane: Plane) -> tuple[float, float]:
    """Mm from one row and column to the next, at the detector if nothing better is known; 1 if nothing is."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            row_mm, column_mm = _numbers(plane, keyword, 2)
        except GeometryError:
            continue
        if row_mm > 0 and column_mm > 0:
            return float(row_mm), float(column_mm)
    return 1.0, 1.0


def _check_identities(images: Sequence[Dataset]) -> None:
    """Raises GeometryError if two images call themselves the same, NotDicom if one is of no known class: results could
    not refer to them.
    """
    seen: set[str] = set()
    for image in images:
        uid = str(image.SOPInstanceUID)
        if not image.get("SOPClassUID") or UID(image.SOPClassUID).is_private:
            raise NotDicom(
                f"expected images of a class of the standard, found {image.get('SOPClassUID') or 'none'} in {uid}; "
                "have the sender convert them"
            )
        if uid in seen:
            raise GeometryError(
                f"expected a SOPInstanceUID of its own for each image, found {uid} twice; keep one file of each image"
            )
        seen.add(uid)


def _check_plane(plane: Plane) -> None:
    uid = plane.image.SOPInstanceUID
    _numbers(plane, "ImagePositionPatient", 3)
    _numbers(plane, "ImageOrientationPatient", 6)
    if (_numbers(plane, "PixelSpacing", 2) <= 0).any():
        raise GeometryError(f"expected a PixelSpacing above 0, found another in {uid}; check the sender")
    if not plane.get("FrameOfReferenceUID"):
        raise GeometryError(f"expected a FrameOfReferenceUID, found none in {uid}; only slices of a volume can be read")
    if plane.get("SamplesPerPixel") != 1 or plane.get("PhotometricInterpretation") != "MONOCHROME2":
        raise GeometryError(
            f"expected grey images (MONOCHROME2), found another kind in {uid}; send the original series"
        )


def _numbers(plane: Plane, keyword: str, count: int) -> NDArray[np.float64]:
    """The values of a tag, shape (count,). Raises GeometryError unless there are as many, all of them numbers."""
    value = plane.get(keyword)
    values = [] if value in (None, "") else value
    try:
        numbers = np.array([float(each) for each in values], dtype=np.float64)
    except (ValueError, TypeError):
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        found = "none" if value in (None, "") else "something else"
        raise GeometryError(
            f"expected {keyword} of {count} numbers in every image, found {found} in {plane.image.SOPInstanceUID}; "
            "only slices of a volume can be read"
        )
    return numbers


def _common_orientation(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """The two direction cosines, shape (2, 3): along a row, down a column."""
    first = planes[0]
    reference = _numbers(first, "ImageOrientationPatient", 6).reshape(2, 3)
    for plane in planes:
        uid = plane.image.SOPInstanceUID
        if plane.get("FrameOfReferenceUID") != first.get("FrameOfReferenceUID"):
            raise GeometryError(f"expected one frame of reference, found two; the second begins with {uid}")
        orientation = _numbers(plane, "ImageOrientationPatient", 6).reshape(2, 3)
        if np.abs(orientation - reference).max() > ORIENTATION_TOLERANCE:
            raise GeometryError(
                f"expected slices of one orientation, found a different one in {uid}; "
                "send the stack as a series of its own"
            )
        if (plane.image.Rows, plane.image.Columns) != (first.image.Rows, first.image.Columns) or not np.allclose(
            _numbers(plane, "PixelSpacing", 2), _numbers(first, "PixelSpacing", 2), rtol=1e-3
        ):
            raise GeometryError(f"expected slices of one size and pixel spacing, found another in {uid}")
    if not np.allclose(reference @ reference.T, np.eye(2), atol=1e-3):
        raise GeometryError(
            "expected perpendicular ImageOrientationPatient of length 1, found another; check the sender"
        )
    unit: NDArray[np.float64] = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    return unit


def _common_step(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The way in mm from each slice to the next, shape (3,); positions sorted along ``normal``."""
    steps = np.diff(positions @ normal)
    if (steps < DUPLICATE_TOLERANCE_MM).any():
        count = int((steps < DUPLICATE_TOLERANCE_MM).sum())
        raise GeometryError(
            f"expected one image per position, found {count} positions that are taken twice (several phases, echoes "
            "or a resent series); send one stack as a series of its own"
        )
    typical = float(np.median(steps))
    uneven = np.abs(steps - typical) > SPACING_TOLERANCE * typical
    if uneven.any():
        where = int(np.argmax(uneven))
        raise GeometryError(
            f"expected slices {typical:.2f} mm apart, found {steps[where]:.2f} mm between slices {where + 1} and "
            f"{where + 2} of {len(positions)}: a slice is missing or the series is mixed; send the whole series again"
        )
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / len(steps)
    away = positions - (positions[0] + np.outer(np.arange(len(positions)), step))
    along = np.abs(away @ normal).max()
    sideways = np.linalg.norm(away - np.outer(away @ normal, normal), axis=1).max()
    if sideways > GRID_TOLERANCE_MM:
        raise GeometryError(
            f"expected slices stacked in a straight line, found some shifted sideways by up to {sideways:.2f} mm "
            "(the patient or the table moved, or stacks are mixed); send one even stack"
        )
    if along > GRID_TOLERANCE_MM:
        raise GeometryError(
            f"expected evenly spaced slices, found some up to {along:.2f} mm from their place; send an even series"
        )
    if step @ normal < np.linalg.norm(step) * np.cos(np.radians(LARGEST_TILT_DEGREES)):
        raise GeometryError(
            f"expected slices stacked at less than {LARGEST_TILT_DEGREES:.0f}° from their normal, found a steeper "
            "stack; check ImagePositionPatient at the sender"
        )
    return step


def _pixels(planes: Sequence[Plane], values: Values) -> list[NDArray[np.float32]]:
    """Each plane's values, (row, column). Each image is decoded once: pydicom keeps what it has decoded."""
    found = [_values(plane, _decoded(plane)) for plane in planes]
    return found if values == "modality" else _displayed(planes, found)


def _decoded(plane: Plane) -> NDArray[np.float32]:
    image = plane.image
    try:
        stored = image.pixel_array
        has_frames = plane.frame is not None and stored.ndim > 2
        pixels = apply_modality_lut(stored[(plane.frame or 1) - 1] if has_frames else stored, image)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError, KeyError, TypeError, OSError) as error:
        raise NotDicom(
            f"expected pixels that can be decoded, found that {image.get('SOPInstanceUID')} cannot "
            f"({type(error).__name__}); send the study again, uncompressed if possible"
        ) from error
    return np.asarray(pixels, dtype=np.float32)


def _values(plane: Plane, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    if plane.frame is None:
        return pixels
    slope, intercept = plane.get("RescaleSlope"), plane.get("RescaleIntercept")
    return pixels * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)


def _displayed(planes: Sequence[Plane], values: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """The values as a viewer shows them at first, 0 (black) to 255 (white): window or VOI LUT, and inverted where the
    lowest value is white (PS3.4 N.2). Without either, from the lowest value of all planes to the highest.
    """
    low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    return [_shown(plane, each, low, high) for plane, each in zip(planes, values, strict=True)]


def _shown(plane: Plane, values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    centre, width = plane.number("WindowCenter"), plane.number("WindowWidth")
    eight_bits = Dataset()
    eight_bits.BitsStored, eight_bits.PixelRepresentation = 8, 0
    eight_bits.PhotometricInterpretation = "MONOCHROME2"
    lut = plane.image.get("VOILUTSequence")
    if lut:
        eight_bits.VOILUTSequence = lut
        white = 2 ** int(lut[0].LUTDescriptor[2]) - 1
        grey = apply_voi(values.astype(np.int64), eight_bits) * (WHITE / white)
    elif centre is not None and width is not None and width >= 1:
        eight_bits.WindowCenter, eight_bits.WindowWidth = centre, width
        eight_bits.VOILUTFunction = plane.get("VOILUTFunction") or "LINEAR"
        grey = apply_windowing(values.astype(np.float64), eight_bits)
    else:
        grey = (values - low) * (WHITE / (high - low) if high > low else 0.0)
    inverted = plane.get("PhotometricInterpretation") == "MONOCHROME1"
    if plane.get("PresentationLUTShape"):
        inverted = plane.get("PresentationLUTShape") == "INVERSE"
    return np.asarray(WHITE - grey if inverted else grey, np.float32)

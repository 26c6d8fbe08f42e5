"""From the images of a series to one regular volume, or the reason why they do not form one.

Nothing is dropped, filled in or evened out: a stack with a missing slice, two images in one place, mixed orientations
or a tilted gantry is refused, because a volume measured on it would be wrong without anybody seeing it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from coread.errors import GeometryError, NotDicom

SPACING_TOLERANCE = 0.02
"""Relative deviation of a slice step from the median that is still rounding: scanners write positions to 1e-2 or
1e-3 mm, and the thinnest slices in use are about 0.5 mm. A missing slice deviates by 1."""

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of two images' direction cosines that is still rounding (they are written to 1e-6 or so)."""

GRID_TOLERANCE_MM = 0.1
"""Largest distance of an image from its place on the regular grid that is still rounding. It must stay below what
``dicom_sr.proof`` accepts. A gantry tilt of 5° shifts each 1 mm step by 0.09 mm, and the shifts add up."""

DUPLICATE_TOLERANCE_MM = 0.01
"""Two images nearer than this are in the same place."""


@dataclass(frozen=True, kw_only=True)
class SourceVolume:
    """``volume`` is (slice, row, column), float32, LPS, mm, after the modality transform; ``images`` in slice order."""

    volume: hd.Volume
    images: Sequence[Dataset]


def build_volume(images: Sequence[Dataset]) -> SourceVolume:
    """The volume that the single-frame images of one series form.

    Raises GeometryError if they do not form one regular volume, NotDicom if pixels cannot be decoded.
    """
    if len(images) < 2:
        raise GeometryError(f"expected two or more slices, found {len(images)}; send the whole series")
    for image in images:
        _check_image(image)
    orientation = _common_orientation(images)
    normal = np.cross(orientation[0], orientation[1])
    positions = np.array([_numbers(image, "ImagePositionPatient", 3) for image in images])
    order = np.argsort(positions @ normal, kind="stable")
    step = _common_step(positions[order], normal)
    ordered = [images[index] for index in order]
    affine = np.eye(4)
    row_mm, column_mm = _numbers(ordered[0], "PixelSpacing", 2)
    affine[:3, 0] = step * normal
    affine[:3, 1] = orientation[1] * row_mm
    affine[:3, 2] = orientation[0] * column_mm
    affine[:3, 3] = positions[order[0]]
    volume = hd.Volume(
        np.stack([_pixels(image) for image in ordered]),
        affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=ordered[0].get("FrameOfReferenceUID"),
    )
    return SourceVolume(volume=volume, images=ordered)


def _check_image(image: Dataset) -> None:
    uid = image.SOPInstanceUID
    if "SharedFunctionalGroupsSequence" in image or int(image.get("NumberOfFrames") or 1) > 1:
        raise GeometryError(
            f"expected single-frame images, found the multi-frame instance {uid}; send the series as single frames"
        )
    _numbers(image, "ImagePositionPatient", 3)
    _numbers(image, "ImageOrientationPatient", 6)
    if (_numbers(image, "PixelSpacing", 2) <= 0).any():
        raise GeometryError(f"expected a PixelSpacing above 0, found another in {uid}; check the sender")
    if not image.get("FrameOfReferenceUID"):
        raise GeometryError(f"expected a FrameOfReferenceUID, found none in {uid}; only slices of a volume can be read")
    if image.get("SamplesPerPixel") != 1 or image.get("PhotometricInterpretation") != "MONOCHROME2":
        raise GeometryError(
            f"expected grey images (MONOCHROME2), found another kind in {uid}; send the original series"
        )


def _numbers(image: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    """The values of a tag, shape (count,). Raises GeometryError unless there are as many, all of them numbers."""
    value = image.get(keyword)
    values = [] if value in (None, "") else value
    try:
        numbers = np.array([float(each) for each in values], dtype=np.float64)
    except (ValueError, TypeError):
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        found = "none" if value in (None, "") else "something else"
        raise GeometryError(
            f"expected {keyword} of {count} numbers in every image, found {found} in {image.SOPInstanceUID}; "
            "only slices of a volume can be read"
        )
    return numbers


def _common_orientation(images: Sequence[Dataset]) -> NDArray[np.float64]:
    """The two direction cosines, shape (2, 3): along a row, down a column."""
    first = images[0]
    reference = _numbers(first, "ImageOrientationPatient", 6).reshape(2, 3)
    for image in images:
        uid = image.SOPInstanceUID
        if image.get("FrameOfReferenceUID") != first.get("FrameOfReferenceUID"):
            raise GeometryError(f"expected one frame of reference, found two; the second begins with {uid}")
        orientation = _numbers(image, "ImageOrientationPatient", 6).reshape(2, 3)
        if np.abs(orientation - reference).max() > ORIENTATION_TOLERANCE:
            raise GeometryError(
                f"expected slices of one orientation, found a different one in {uid}; "
                "send the stack as a series of its own"
            )
        if (image.Rows, image.Columns) != (first.Rows, first.Columns) or not np.allclose(
            _numbers(image, "PixelSpacing", 2), _numbers(first, "PixelSpacing", 2), rtol=1e-3
        ):
            raise GeometryError(f"expected slices of one size and pixel spacing, found another in {uid}")
    if not np.allclose(reference @ reference.T, np.eye(2), atol=1e-3):
        raise GeometryError(
            "expected perpendicular ImageOrientationPatient of length 1, found another; check the sender"
        )
    unit: NDArray[np.float64] = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    return unit


def _common_step(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """The distance between neighbouring slices in mm, positions sorted along ``normal``."""
    distances = positions @ normal
    steps = np.diff(distances)
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
    step = float((distances[-1] - distances[0]) / len(steps))
    grid = positions[0] + np.outer(np.arange(len(positions)) * step, normal)
    away = positions - grid
    along = np.abs(away @ normal).max()
    sideways = np.linalg.norm(away - np.outer(away @ normal, normal), axis=1).max()
    if sideways > GRID_TOLERANCE_MM:
        raise GeometryError(
            f"expected slices stacked at right angles, found some shifted sideways by up to {sideways:.2f} mm "
            "(gantry tilt, or the patient table moved); send a series reformatted without tilt"
        )
    if along > GRID_TOLERANCE_MM:
        raise GeometryError(
            f"expected evenly spaced slices, found some up to {along:.2f} mm from their place; send an even series"
        )
    return step


def _pixels(image: Dataset) -> NDArray[np.float32]:
    try:
        pixels = apply_modality_lut(image.pixel_array, image)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError, KeyError, TypeError, OSError) as error:
        raise NotDicom(
            f"expected pixels that can be decoded, found that {image.get('SOPInstanceUID')} cannot "
            f"({type(error).__name__}); send the study again, uncompressed if possible"
        ) from error
    return np.asarray(pixels, dtype=np.float32)

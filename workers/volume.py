"""From the images of a series to one regular volume, or the reason why they do not form one.

Nothing is dropped, filled in or evened out: a stack with a missing slice, two images in one place or mixed orientations
is refused, because a volume measured on it would be wrong without anybody seeing it. A stack that a tilted gantry
shifts evenly is read as it lies.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import UID

from coread.dicom_sr.source import UNREADABLE, Plane, Source, planes_of
from coread.errors import GeometryError, NotDicom
from coread.volume import Volume
from coread.workers import decoders, walk
from coread.workers.decoders import stored_values, with_offsets
from coread.workers.images import ScannedImage, header_of
from coread.workers.scan import UNPARSABLE
from coread.workers.stack import GREY, WHOLE, Pixels, shifted

NAMED_BY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
"""By what results refer to images."""

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

WHITE = 255.0
"""The brightest value as displayed."""

LARGEST_TILT_DEGREES = 45.0
"""Gantries tilt by 30° at most. More than that is no tilt: the slices' positions are wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceVolume:
    """``volume`` is (slice, row, column), LPS, mm, after the modality transform: whole numbers as they are stored
    (uint8, uint16 or int16) where the transform is exact in them, else float32. ``planes`` in slice order.
    """

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
        (shown,) = _displayed([plane], [np.asarray(_pixels(plane, plane.image), np.float32)])
        return np.asarray(np.rint(shown.clip(0, WHITE)), np.uint8)


def warm_up() -> None:
    """Have what reads and decodes images compiled before the first study waits for it."""
    walk.warm_up()
    decoders.warm_up()


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
    if not _are_plainly_slices(planes):
        for plane in planes:
            _check_plane(plane)
    return planes


def places_of(planes: Sequence[Plane]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the planes lie: LPS in mm, shape (planes, 3), and along their common normal, shape (planes,).

    Raises GeometryError if they have no orientation, size or frame of reference in common.
    """
    return _places(planes, _common_orientation(planes))


def stack_of(planes: Sequence[Plane], *, values: Values) -> SourceVolume:
    """The volume that checked planes form. Raises what ``build_volume`` does."""
    orientation = _common_orientation(planes)
    normal = np.cross(orientation[0], orientation[1])
    positions, along_normal = _places(planes, orientation)
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
        array=_array(ordered, values),
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
    _check_size(plane.image)
    row_mm, column_mm = _projection_spacing(plane)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1.0, row_mm, column_mm, 1.0
    return SourceVolume(volume=Volume(array=_array(planes, values), affine=affine), planes=planes)


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
    """Raises GeometryError if two images call themselves the same, NotDicom if one is of no known class, or if what
    names it is no UID: results could not refer to them.
    """
    seen: set[str] = set()
    for image in images:
        for keyword in NAMED_BY:
            if not _can_be_referred_to(image.get(keyword) or ""):
                raise NotDicom(
                    f"expected one {keyword} of digits and dots in each image, found something else in one; send the "
                    "study again, or have the sender mend it"
                )
        uid = str(image.SOPInstanceUID)
        kind = UID(image.get("SOPClassUID") or "")
        if kind.type != "SOP Class":  # a private one, or none, has no type
            raise NotDicom(
                f"expected images of a class of the standard, found {kind or 'none'} in {uid}; have the sender convert "
                "them"
            )
        if uid in seen:
            raise GeometryError(
                f"expected a SOPInstanceUID of its own for each image, found {uid} twice; keep one file of each image"
            )
        seen.add(uid)


def _can_be_referred_to(uid: object) -> bool:
    """Whether a UID is one text; an odd one is nevertheless what the archive knows the object by."""
    return isinstance(uid, str) and uid.isascii()


def _check_size(image: Dataset) -> None:
    """Raises NotDicom if an image does not say of what size it is."""
    try:
        has_size = isinstance(image.Rows, int) and isinstance(image.Columns, int)
    except UNREADABLE:
        has_size = False
    if not has_size:
        raise NotDicom(
            f"expected Rows and Columns, found none that can be read in {image.SOPInstanceUID}; send the study again"
        )


def _are_plainly_slices(planes: Sequence[Plane]) -> bool:
    """Whether it is seen at a glance that ``_check_plane`` accepts all planes."""
    headers = [header_of(plane.image) for plane in planes]
    return all(
        header is not None
        and len(header.numbers(keyword_dict["ImagePositionPatient"])) == 3
        and len(header.numbers(keyword_dict["ImageOrientationPatient"])) == 6
        and len(spacing := header.numbers(keyword_dict["PixelSpacing"])) == 2
        and min(spacing) > 0
        and header.attributes.get("FrameOfReferenceUID")
        and "Rows" in header.attributes
        and "Columns" in header.attributes
        and header.attributes.get("SamplesPerPixel") == 1
        and header.attributes.get("PhotometricInterpretation") == "MONOCHROME2"
        for header in headers
    )


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
    _check_size(plane.image)


def _numbers(plane: Plane, keyword: str, count: int) -> NDArray[np.float64]:
    """The values of a tag, shape (count,). Raises GeometryError unless there are as many, all of them numbers."""
    header = header_of(plane.image)
    if header is not None and len(scanned := header.numbers(keyword_dict[keyword])) == count:
        return np.array(scanned)
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
    if not _are_plainly_alike(planes):
        for plane in planes:
            _check_alike(plane, first)
    if not np.allclose(reference @ reference.T, np.eye(2), atol=1e-3):
        raise GeometryError(
            "expected perpendicular ImageOrientationPatient of length 1, found another; check the sender"
        )
    unit: NDArray[np.float64] = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    return unit


def _are_plainly_alike(planes: Sequence[Plane]) -> bool:
    """Whether it is seen at a glance that ``_check_alike`` accepts all planes."""
    sizes = [(plane.image.Rows, plane.image.Columns, plane.get("FrameOfReferenceUID")) for plane in planes]
    orientations = _table(planes, "ImageOrientationPatient", 6)
    spacings = _table(planes, "PixelSpacing", 2)
    return (
        all(size == sizes[0] for size in sizes)
        and float(np.abs(orientations - orientations[0]).max()) <= ORIENTATION_TOLERANCE
        and np.allclose(spacings, spacings[0], rtol=1e-3)
    )


def _check_alike(plane: Plane, first: Plane) -> None:
    """Raises GeometryError unless a plane has orientation, size and frame of reference in common with the first."""
    uid = plane.image.SOPInstanceUID
    if plane.get("FrameOfReferenceUID") != first.get("FrameOfReferenceUID"):
        raise GeometryError(f"expected one frame of reference, found two; the second begins with {uid}")
    away = _numbers(plane, "ImageOrientationPatient", 6) - _numbers(first, "ImageOrientationPatient", 6)
    if np.abs(away).max() > ORIENTATION_TOLERANCE:
        raise GeometryError(
            f"expected slices of one orientation, found a different one in {uid}; send the stack as a series of its own"
        )
    if (plane.image.Rows, plane.image.Columns) != (first.image.Rows, first.image.Columns) or not np.allclose(
        _numbers(plane, "PixelSpacing", 2), _numbers(first, "PixelSpacing", 2), rtol=1e-3
    ):
        raise GeometryError(f"expected slices of one size and pixel spacing, found another in {uid}")


def _table(planes: Sequence[Plane], keyword: str, count: int) -> NDArray[np.float64]:
    """The numbers of a tag in all planes, shape (planes, count). Raises what ``_numbers`` does."""
    return np.array([_numbers(plane, keyword, count) for plane in planes])


def _places(
    planes: Sequence[Plane], orientation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    positions = _table(planes, "ImagePositionPatient", 3)
    return positions, positions @ np.cross(orientation[0], orientation[1])


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


def _array(planes: Sequence[Plane], values: Values) -> NDArray[Any]:
    """The planes' values, (slice, row, column): whole numbers of 16 or 8 bits where these are exact, else float32."""
    stacked = _stacked(planes) if values == "modality" else None
    if stacked is not None:
        return stacked
    holders = _holders(planes)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        found = threads.map(_pixels, planes, holders)
        if values == "modality":
            return _joined(found, len(planes))
        return np.stack(_displayed(planes, [np.asarray(each, np.float32) for each in found]))


def _holders(planes: Sequence[Plane]) -> list[Dataset]:
    """For each plane, what its pixels are decoded from: of many frames, each has to be found without the others."""
    found: dict[int, Dataset] = {}
    for image in {id(plane.image): plane.image for plane in planes if plane.frame is not None}.values():
        with _decoding(image):
            found[id(image)] = with_offsets(image)
    return [found.get(id(plane.image), plane.image) for plane in planes]


def _stacked(planes: Sequence[Plane]) -> NDArray[Any] | None:
    """The planes' values where they were read to, if that is one array and they lie there in their order."""
    pixels = [read for plane in planes if (read := _read(plane)) is not None and read.is_exact]
    if len(pixels) < len(planes) or any(each.stack is not pixels[0].stack for each in pixels):
        return None
    first = pixels[0].slot
    if any(each.slot != slot for slot, each in enumerate(pixels, start=first)):
        return None
    return pixels[0].stack[first : first + len(pixels)]


def _read(plane: Plane) -> Pixels | None:
    """A plane's pixels, if they were read with its header."""
    return plane.image.pixels if isinstance(plane.image, ScannedImage) else None


def _joined(planes: Iterable[NDArray[Any]], count: int) -> NDArray[Any]:
    """Arrays (row, column) as one, of their type if it is the same for all, else float32."""
    array: NDArray[Any] | None = None
    for index, plane in enumerate(planes):
        if array is None:
            array = np.empty((count, *plane.shape), plane.dtype)
        elif plane.dtype != array.dtype:
            array = array.astype(np.float32, copy=False)
        array[index] = plane
    if array is None:
        raise ValueError("expected planes, found none")
    return array


def _pixels(plane: Plane, holder: Dataset) -> NDArray[Any]:
    """A plane's values, (row, column): as ``_array`` gives them. Raises NotDicom if they cannot be decoded.

    ``holder``: what they are decoded from, the plane's image or what holds the same pixels.
    """
    pixels = _read(plane)
    if pixels is not None:
        layout = pixels.layout
        return pixels.array if pixels.is_exact else _rescaled(pixels.stored, layout.slope, layout.intercept)
    with _decoding(plane.image):
        return _decoded(plane, holder)


@contextmanager
def _decoding(image: Dataset) -> Iterator[None]:
    """Raises NotDicom for whatever is raised inside the block at pixels that cannot be decoded."""
    try:
        yield
    except (*UNPARSABLE, RuntimeError) as error:
        raise NotDicom(
            f"expected pixels that can be decoded, found that {image.get('SOPInstanceUID')} cannot "
            f"({type(error).__name__}); send the study again, uncompressed if possible"
        ) from error


def _decoded(plane: Plane, holder: Dataset) -> NDArray[Any]:
    image = plane.image
    values = stored_values(holder, None if plane.frame is None else plane.frame - 1)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if image.get("ModalityLUTSequence"):
        values = apply_modality_lut(values, image)
    elif "RescaleSlope" in image and "RescaleIntercept" in image:
        values = _rescaled(values, image.RescaleSlope, image.RescaleIntercept)
    if plane.frame is not None:
        slope, intercept = plane.get("RescaleSlope"), plane.get("RescaleIntercept")
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        whole = _whole(values, slope, intercept)
        if whole is None:
            return np.asarray(values, np.float32) * np.float32(slope) + np.float32(intercept)
        values = whole
    return values if values.dtype in WHOLE else np.asarray(values, np.float32)


def _rescaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """The values after the modality transform: whole numbers if they are exact and fit, else float32."""
    whole = _whole(stored, slope, intercept)
    return np.asarray(stored.astype(np.float64) * slope + intercept, np.float32) if whole is None else whole


def _whole(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any] | None:
    return shifted(stored, intercept) if slope == 1 and stored.dtype in WHOLE else None


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

"""Reads the pixels of a series into one array, in the order in which its slices lie.

The modality transform is applied on the way where whole numbers stay whole numbers, so that the array is what the
volume is made of, and nothing is copied. The order is a guess from what is known before the pixels come: a wrong one
costs a copy and no more, because a volume looks at what each image says.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_dict

from coread.workers.scan import Header, decimals

GREY = ("MONOCHROME1", "MONOCHROME2")
_TYPES: Mapping[tuple[int, int], np.dtype[np.integer]] = {
    (8, 0): np.dtype("<u1"),
    (16, 0): np.dtype("<u2"),
    (16, 1): np.dtype("<i2"),
}
"""(BitsAllocated, PixelRepresentation) → type of the stored values."""
WHOLE = frozenset(_TYPES.values())
"""Types whose numbers float32 holds exactly."""
_NUMBERS = tuple(
    keyword_dict[keyword]
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
)
_PHOTOMETRIC = keyword_dict["PhotometricInterpretation"]
_RESCALE = (keyword_dict["RescaleSlope"], keyword_dict["RescaleIntercept"])
_FRAMES = keyword_dict["NumberOfFrames"]
_UNREAD = tuple(
    keyword_dict[keyword]
    for keyword in (
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "ModalityLUTSequence",
    )
)
"""Elements of images that are left to pydicom."""

Numbers = tuple[float, ...]
Place = tuple[Numbers, Numbers]
"""ImagePositionPatient and ImageOrientationPatient; empty where they are not known."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How native pixels of one grey frame are stored, and what makes them values (PS3.3 C.7.6.3, C.11.1)."""

    rows: int
    columns: int
    stored: np.dtype[np.integer]
    bits_stored: int
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of the pixels, without padding."""
        return self.rows * self.columns * self.stored.itemsize

    @property
    def values(self) -> np.dtype[np.integer]:
        """The type of the values, where they are whole numbers and fit."""
        return _lowered(self.stored, self.intercept)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """The pixels of one image: the slot ``slot`` of ``stack`` (slot, row, column).

    ``added``: what was added to the stored values; then they are the values after the modality transform. None: they
    are the stored ones, because whole numbers of this width do not hold them transformed. ``padding``: what follows
    the pixels.
    """

    stack: NDArray[np.integer]
    slot: int
    layout: Layout
    added: int | None
    padding: bytes

    @property
    def is_exact(self) -> bool:
        """Whether the modality transform has been applied."""
        return self.added is not None

    @property
    def array(self) -> NDArray[np.integer]:
        """(row, column)."""
        array: NDArray[np.integer] = self.stack[self.slot]
        return array

    @property
    def stored(self) -> NDArray[np.integer]:
        """As they stand in the file, (row, column)."""
        if not self.added:
            return self.array.view(self.layout.stored)
        return (self.array.astype(np.int32) - self.added).astype(self.layout.stored)

    def tobytes(self) -> bytes:
        return self.stored.tobytes() + self.padding


def layout_of(header: Header) -> Layout | None:
    """How the pixels of an image are stored; None if it is not in one of the few ways that are read here."""
    if header.pixels_vr is None or any(tag in header.hot for tag in _UNREAD):
        return None
    if _FRAMES in header.hot and header.raw(_FRAMES, "IS").strip() != b"1":
        return None
    layout = _layout(*(header.raw(tag, "US") for tag in _NUMBERS), header.raw(_PHOTOMETRIC, "CS"), _rescale(header))
    if layout is None or header.size - len(header.data) != layout.size + layout.size % 2:
        return None
    return layout


@lru_cache
def _layout(
    rows: bytes,
    columns: bytes,
    samples: bytes,
    bits_allocated: bytes,
    bits_stored: bytes,
    representation: bytes,
    photometric: bytes,
    rescale: tuple[bytes, bytes] | None,
) -> Layout | None:
    """The layout that the values of a header's elements tell."""
    raw = (rows, columns, samples, bits_allocated, bits_stored, representation)
    if any(len(each) != 2 for each in raw):  # bytes of one number
        return None
    rows_, columns_, samples_, allocated, stored_, signed = (int.from_bytes(each, "little") for each in raw)
    stored = _TYPES.get((allocated, signed))
    slope, intercept = ((1.0,), (0.0,)) if rescale is None else map(decimals, rescale)
    is_grey = samples_ == 1 and photometric.rstrip(b"\0 ").decode("latin-1") in GREY
    if stored is None or not is_grey or min(rows_, columns_) < 1 or not 1 <= stored_ <= allocated:
        return None
    if len(slope) != 1 or len(intercept) != 1:
        return None
    return Layout(
        rows=rows_, columns=columns_, stored=stored, bits_stored=stored_, slope=slope[0], intercept=intercept[0]
    )


def _rescale(header: Header) -> tuple[bytes, bytes] | None:
    """RescaleSlope and RescaleIntercept; None if they are not both there: one without the other does nothing."""
    slope, intercept = (header.hot.get(tag) for tag in _RESCALE)
    if slope is None or intercept is None:
        return None
    return header.raw(_RESCALE[0], "DS"), header.raw(_RESCALE[1], "DS")


class Stack:
    """Room for the pixels of a series, made when the first image says how much it needs. For several threads."""

    def __init__(self, places: Sequence[Place]) -> None:
        """``places``: where the images lie, as far as it is known."""
        self._numbers = order_along_normal(places)
        self._array: NDArray[np.integer] | None = None
        self._lock = threading.Lock()

    def slot(self, layout: Layout, index: int) -> tuple[NDArray[np.integer], int]:
        """An array (slot, row, column), and the slot in it for an image: in an array of its own if it is not like the
        first. ``index``: which of ``places`` was the image's.
        """
        shape = (layout.rows, layout.columns)
        with self._lock:
            if self._array is None:
                self._array = np.empty((len(self._numbers), *shape), layout.values)
        if self._array.shape[1:] == shape and self._array.dtype == layout.values:
            return self._array, self._numbers[index]
        return np.empty((1, *shape), layout.values), 0


def bytes_of(stack: NDArray[np.integer], slot: int) -> NDArray[np.uint8]:
    """The memory of a slot, to be read into."""
    room: NDArray[np.uint8] = stack[slot].reshape(-1).view(np.uint8)
    return room


def settled(stack: NDArray[np.integer], slot: int, layout: Layout, padding: bytes) -> Pixels | None:
    """The pixels that were read into a slot, in place made what they mean as far as whole numbers go; None if bits that
    are not to be used hold something.
    """
    array = stack[slot]
    stored = array.view(layout.stored)
    added: int | None = 0
    if layout.bits_stored < 8 * layout.stored.itemsize and not _holds(layout, int(stored.min()), int(stored.max())):
        return None
    if layout.slope != 1:
        added = None
    elif layout.intercept:
        whole = shifted(stored, layout.intercept, out=array)
        added = None if whole is None else int(layout.intercept)
    return Pixels(stack=stack, slot=slot, layout=layout, added=added, padding=padding)


def shifted(
    stored: NDArray[np.integer], intercept: float, *, out: NDArray[np.integer] | None = None
) -> NDArray[np.integer] | None:
    """``stored`` plus ``intercept`` in a type of the same width, signed if that may be below 0; None: it does not fit.

    ``out``: where to put it; may be the memory of ``stored``.
    """
    if not float(intercept).is_integer():
        return None
    if intercept == 0:
        return stored
    values = _lowered(stored.dtype, intercept)
    limits, added = np.iinfo(values), int(intercept)
    if int(stored.min()) + added < limits.min or int(stored.max()) + added > limits.max:
        return None
    # Modulo the width of the type; the sum is right because it fits.
    return np.add(stored.view(values), np.array(added).astype(values), out=out)


def _lowered(stored: np.dtype[np.integer], intercept: float) -> np.dtype[np.integer]:
    return np.dtype("<i2") if stored == np.dtype("<u2") and intercept < 0 else stored


def _holds(layout: Layout, low: int, high: int) -> bool:
    """Whether BitsStored suffice for stored values from ``low`` to ``high``."""
    if layout.stored == np.dtype("<i2"):
        half = 1 << (layout.bits_stored - 1)
        return -half <= low and high < half
    return high < 1 << layout.bits_stored


def order_along_normal(planes: Sequence[tuple[Numbers, Numbers]]) -> list[int]:
    """For each plane, given by ImagePositionPatient and ImageOrientationPatient, its number along their normal; where
    they are not known or not alike, as good as any.
    """
    cosines = next((orientation for _, orientation in planes if len(orientation) == 6), None)
    if cosines is None or any(len(position) != 3 for position, _ in planes):
        return list(range(len(planes)))
    normal = np.cross(cosines[:3], cosines[3:])
    order = np.argsort(np.array([position for position, _ in planes]) @ normal, kind="stable")
    numbers = np.empty(len(planes), np.intp)
    numbers[order] = np.arange(len(planes))
    return [int(number) for number in numbers]

"""Walks over the elements of a DICOM data set without looking at their values: compiled, and without the interpreter's
lock.

Understood are data sets in Little Endian whose elements stand in order (PS3.5 7.1), with sequences in sequences. The
walk never guesses: it says that it met something unusual, and others judge what that is.
"""

import numba
import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

REACHED, INCOMPLETE, UNUSUAL = 0, 1, 2
"""How a walk ends: at an element beyond the last that is looked for, or at the end; beyond the bytes that it was given;
at something that it does not understand."""

ABSENT = -1
"""Where an element begins that is not there."""


def code_of(vr: str) -> int:
    """A value representation as the walk notes it."""
    return int.from_bytes(vr.encode(), "big")


VRS = {0: "", **{code_of(vr): vr for vr in map(str, EXPLICIT_VR_LENGTH_16 | EXPLICIT_VR_LENGTH_32)}}
"""Code → value representation; empty where the file does not say it."""

EXPLICIT = np.zeros(1 << 16, np.uint8)
"""By the code of a VR, how many bytes its length has; 0: it is none."""
EXPLICIT[[code_of(vr) for vr in EXPLICIT_VR_LENGTH_16]] = 2
EXPLICIT[[code_of(vr) for vr in EXPLICIT_VR_LENGTH_32]] = 4
IMPLICIT = np.zeros(0, np.uint8)
"""The same for Implicit VR, where no VR is said."""

_SQ = code_of("SQ")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITERS = 0xFFFE
_DEEPEST = 32
"""Levels of sequences in sequences that are followed."""


@numba.njit(cache=True, nogil=True)
def walk(
    data: NDArray[np.uint8],
    at: int,
    bounds: tuple[int, int],
    wanted: NDArray[np.int64],
    places: NDArray[np.int64],
    vrs: NDArray[np.uint8],
) -> tuple[int, int]:
    """How the walk over the elements from ``at`` on ends, and where: at the first element whose tag is not below
    ``bounds[1]``, or where there are no more.

    ``bounds``: no tag may be below the first. ``wanted``: tags, ascending. ``places``: gets where the value of each of
    them begins, its length in bytes and its VR's code, shape (tags, 3). ``vrs``: EXPLICIT or IMPLICIT.
    """
    last = bounds[0] - 1
    index = 0
    while at < len(data):
        if at + 8 > len(data):
            return INCOMPLETE, at
        tag = _tag(data, at)
        if tag >= bounds[1]:
            return REACHED, at
        if tag <= last:
            return UNUSUAL, at
        end, value, length, vr = _head(data, at, vrs)
        following = value + length
        if end == REACHED and length == _UNDEFINED:
            end, following = _after_sequence(data, value, vr, vrs)
        if end != REACHED:
            return end, at
        while index < len(wanted) and wanted[index] < tag:
            index += 1
        if index < len(wanted) and wanted[index] == tag:
            places[index, 0], places[index, 1], places[index, 2] = value, length, vr
        last, at = tag, following
    return (REACHED if at == len(data) else INCOMPLETE), at


@numba.njit(cache=True, nogil=True)
def _tag(data: NDArray[np.uint8], at: int) -> int:
    return (_short(data, at) << 16) | _short(data, at + 2)


@numba.njit(cache=True, nogil=True)
def _short(data: NDArray[np.uint8], at: int) -> int:
    return np.int64(data[at]) | (np.int64(data[at + 1]) << 8)  # type: ignore[return-value]  # numba: the same


@numba.njit(cache=True, nogil=True)
def _long(data: NDArray[np.uint8], at: int) -> int:
    return _short(data, at) | (_short(data, at + 2) << 16)


@numba.njit(cache=True, nogil=True)
def _head(data: NDArray[np.uint8], at: int, vrs: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """How reading the beginning of an element ends, where its value begins, its length, and its VR's code."""
    if at + 8 > len(data):
        return INCOMPLETE, 0, 0, 0
    if len(vrs) == 0:
        return REACHED, at + 8, _long(data, at + 4), 0
    vr = (_short(data, at + 4) & 0xFF) << 8 | _short(data, at + 4) >> 8
    if vrs[vr] == 0:
        return UNUSUAL, 0, 0, 0
    if vrs[vr] == 2:
        return REACHED, at + 8, _short(data, at + 6), vr
    if at + 12 > len(data):
        return INCOMPLETE, 0, 0, 0
    return REACHED, at + 12, _long(data, at + 8), vr


@numba.njit(cache=True, nogil=True)
def _after_sequence(data: NDArray[np.uint8], at: int, vr: int, vrs: NDArray[np.uint8]) -> tuple[int, int]:
    """How it ends, and where what follows a sequence of undefined length begins; its first item is ``at``."""
    end = _opens(data, at, vr, vrs)
    in_item = np.zeros(_DEEPEST, np.bool_)  # of each level: of a sequence, then of its item, and so on
    depth = 0
    while end == REACHED:
        if at + 8 > len(data):
            return INCOMPLETE, 0
        tag = _tag(data, at)
        if not in_item[depth] or tag >> 16 == _DELIMITERS:
            end, at, step = _item(data, at, in_item[depth])
        else:
            end, value, length, vr = _head(data, at, vrs)
            at, step = value + length, 0
            if end == REACHED and length == _UNDEFINED:
                end, at, step = _opens(data, value, vr, vrs), value, 1
        depth += step
        if depth < 0:
            return end, at
        if depth >= _DEEPEST:
            return UNUSUAL, 0
        if step == 1:
            in_item[depth] = not in_item[depth - 1]
    return end, 0


@numba.njit(cache=True, nogil=True)
def _item(data: NDArray[np.uint8], at: int, in_item: bool) -> tuple[int, int, int]:  # noqa: FBT001  # numba's calls
    """How it ends; where what follows the beginning or the end of an item or of a sequence begins; how many levels
    deeper that is.
    """
    tag, length = _tag(data, at), _long(data, at + 4)
    if tag == _ITEM and not in_item:
        return (REACHED, at + 8, 1) if length == _UNDEFINED else (REACHED, at + 8 + length, 0)
    if tag == (_ITEM_END if in_item else _SEQUENCE_END) and length == 0:
        return REACHED, at + 8, -1
    return UNUSUAL, at, 0


@numba.njit(cache=True, nogil=True)
def _opens(data: NDArray[np.uint8], at: int, vr: int, vrs: NDArray[np.uint8]) -> int:
    """How it ends to look whether what is of undefined length is a sequence, whose first item would be ``at``."""
    if len(vrs) > 0 and vr != _SQ:
        return UNUSUAL
    if at + 8 > len(data):
        return INCOMPLETE
    tag = _tag(data, at)
    return REACHED if tag in (_ITEM, _SEQUENCE_END) else UNUSUAL


def warm_up() -> None:
    """Have it compiled: seconds, once on a machine."""
    element = bytes((8, 0, 5, 0, 2, 0, 0, 0, 0, 0))
    tags, places = np.array([0x00080005], np.int64), np.full((1, 3), ABSENT, np.int64)
    walk(np.frombuffer(element, np.uint8), 0, (0, _ITEM), tags, places, IMPLICIT)

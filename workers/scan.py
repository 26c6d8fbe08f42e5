"""Finds the few values of a DICOM header that every slice of a stack is judged by, without parsing the rest.

pydicom needs half a millisecond for a header, and a stack has hundreds of them. So where the elements lie is found in
compiled code, and a value is converted when somebody asks for it. Whatever is unusual is left to pydicom.
"""

import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)
from pydicom.values import convert_value

from coread.errors import NotDicom
from coread.workers.walk import ABSENT, EXPLICIT, IMPLICIT, INCOMPLETE, REACHED, VRS, walk

UNPARSABLE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    IndexError,
    NotImplementedError,
    OSError,
    struct.error,
    zlib.error,
)
"""What pydicom raises at files that are cut short or damaged."""

IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
"""What every image has."""

PREAMBLE = 128
FIRST_ELEMENT = PREAMBLE + len(b"DICM")
"""Where the first element of a file begins (PS3.10 7.1)."""

NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
SCANNED = NATIVE | {JPEGLSLossless, JPEG2000Lossless, JPEG2000, RLELossless, JPEGLosslessSV1}
"""Transfer syntaxes whose headers are scanned; but for Implicit VR, they are in Explicit VR Little Endian."""

PIXEL_DATA = keyword_dict["PixelData"]


def _tags(*keywords: str) -> NDArray[np.int64]:
    return np.array(sorted(keyword_dict[keyword] for keyword in keywords), np.int64)


_META = _tags("FileMetaInformationGroupLength", "MediaStorageSOPClassUID", "TransferSyntaxUID")
_AT_ONCE = tuple(
    (keyword, keyword_dict[keyword], dictionary_VR(keyword_dict[keyword]))
    for keyword in (
        "SOPClassUID",
        "SOPInstanceUID",
        "Modality",
        "Manufacturer",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
    )
)
"""Keyword, tag and VR."""
_CHARACTER_SET = keyword_dict["SpecificCharacterSet"]
_HOT = _tags(
    "SpecificCharacterSet",
    *(keyword for keyword, _, _ in _AT_ONCE),
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_HOT_TAGS = {int(tag): None for tag in _HOT}
_FIRST_META, _END_OF_META, _FIRST_TAG = 0x00020000, 0x00030000, 0x00080000
_PIXELS = keyword_dict["FloatPixelData"]
"""The first of the elements that hold pixels; at these, pydicom stops where it is to stop before pixels."""
_HOLD_PIXELS = frozenset({_PIXELS, keyword_dict["DoubleFloatPixelData"], PIXEL_DATA})
_HEAD = 12
"""Bytes in front of a value, if it may be long and its VR is said."""

_NUMBERS = frozenset({"FD", "FL", "SL", "SS", "UL", "US"})
_INDEPENDENT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"})
"""Value representations whose values are told without other elements, such as the character set; the latter ones as far
as they are of ASCII, as they are to be.
"""
_TEXTS = frozenset({"CS", "LO", "SH"})
_LAST_OF_ASCII = 0x7E
UNTOLD = object()
_AMBIGUOUS = frozenset(b"\x1b~")
"""Bytes that are other characters in some character sets."""


class Element(NamedTuple):
    """``vr`` is empty where the file does not say it; ``begin``: where in the file the value begins."""

    vr: str
    value: bytes
    begin: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """The bytes of a file up to the value of its native Pixel Data, else up to the element that holds pixels, or to the
    end; and where in them what lies. ``name``: how errors call the file; ``size``: its bytes.
    """

    name: str
    size: int
    data: bytes
    transfer_syntax: UID
    begin: int
    """Where the data set begins, behind the file's meta information."""
    hot: Mapping[int, Sequence[int]]
    """By tag, of those elements that every image is asked for: where the value begins, its length, its VR's code."""
    pixels_vr: str | None
    """Of native Pixel Data, which is then all that follows ``data``. None: there is none."""

    @property
    def is_implicit(self) -> bool:
        return bool(self.transfer_syntax == ImplicitVRLittleEndian)

    def element(self, tag: int) -> Element | None:
        """An element of the data set in front of the pixels; None if it is not there."""
        place = self.hot.get(tag) if tag in _HOT_TAGS else self._place(tag)
        if place is None:
            return None
        begin, length, code = place
        return Element(VRS[code], self.data[begin : begin + length], begin)

    def _place(self, tag: int) -> Sequence[int] | None:
        data, places = np.frombuffer(self.data, np.uint8), np.full((1, 3), ABSENT, np.int64)
        bounds = (_FIRST_TAG, min(tag + 1, _PIXELS))
        walk(data, self.begin, bounds, np.array([tag], np.int64), places, IMPLICIT if self.is_implicit else EXPLICIT)
        found: list[int] = places[0].tolist()
        return None if found[0] == ABSENT else found

    def raw(self, tag: int, vr: str) -> bytes:
        """The bytes of the value of a hot element; none if it is not there, or says that it is of another VR."""
        place = self.hot.get(tag)
        if place is None:
            return b""
        begin, length, code = place
        return self.data[begin : begin + length] if VRS[code] in (vr, "") else b""

    def numbers(self, tag: int) -> tuple[float, ...]:
        """The finite numbers that a decimal string is of; none if it is anything else."""
        return decimals(self.raw(tag, "DS"))

    def value(self, tag: int) -> Any:
        """The value of an element that is there, as pydicom gives it; UNTOLD if only the whole header tells it."""
        element = self.element(tag)
        if element is None:
            raise KeyError(tag)
        vr = element.vr or dictionary_VR(tag)
        value = _told(vr, element.value)
        if value is not None:
            return value
        is_told_alone = vr in _NUMBERS or (vr in _INDEPENDENT and max(element.value, default=0) <= _LAST_OF_ASCII)
        if is_told_alone or (vr in _TEXTS and not element.value):
            return convert_value(vr, raw_element(tag, vr, element.value, element.begin, is_implicit=self.is_implicit))
        return UNTOLD

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Keyword → value, of what is asked of every image and can be told at once."""
        values = ((keyword, _told(vr, self.raw(tag, vr))) for keyword, tag, vr in _AT_ONCE)
        return {keyword: value for keyword, value in values if value is not None}


@lru_cache(maxsize=4096)
def _told(vr: str, value: bytes) -> str | int | None:
    """The value that the bytes of an element stand for, as pydicom gives it, where it is easily told; else None."""
    if not value or b"\\" in value:
        return None
    if vr == "UI":
        return UID(value.decode("latin-1").rstrip("\0 "))
    if vr == "US" and len(value) == 2:
        return int.from_bytes(value, "little")
    if vr in _TEXTS and max(value) <= _LAST_OF_ASCII and _AMBIGUOUS.isdisjoint(value):
        return value.decode("ascii").rstrip("\0 ")
    return None


class Incomplete(Exception):
    """No error: more of the file is needed to find where its header ends."""


def scan(start: bytes, size: int, *, name: str) -> Header | None:
    """The header of a file of ``size`` bytes that begins with ``start``; None if it is one for pydicom to judge.

    Raises Incomplete if it needs more of the file.
    """
    if start[PREAMBLE:FIRST_ELEMENT] != b"DICM":
        return None
    data, meta = np.frombuffer(start, np.uint8), np.full((len(_META), 3), ABSENT, np.int64)
    end, begin = walk(data, FIRST_ELEMENT, (_FIRST_META, _END_OF_META), _META, meta, EXPLICIT)
    syntax = _transfer_syntax(start, meta.tolist(), begin) if _has_ended(end, start, size) else None
    if syntax is None:
        return None
    is_implicit = syntax == ImplicitVRLittleEndian
    if is_implicit and _looks_explicit(start[begin + 4 : begin + 6]):
        return None
    places = np.full((len(_HOT), 3), ABSENT, np.int64)
    end, at = walk(data, begin, (_FIRST_TAG, _PIXELS), _HOT, places, IMPLICIT if is_implicit else EXPLICIT)
    if not _has_ended(end, start, size):
        return None
    hot = {tag: place for tag, place in zip(_HOT_TAGS, places.tolist(), strict=True) if place[0] != ABSENT}
    if not _is_plain(start, at, size, charset=_value(start, hot.get(_CHARACTER_SET))):
        return None
    vr, last = _pixel_data(start, at, is_implicit=is_implicit, size=size) if syntax in NATIVE else (None, at)
    header = Header(name=name, size=size, data=start[:last], transfer_syntax=syntax, begin=begin, hot=hot, pixels_vr=vr)
    return header if all(header.attributes.get(keyword) for keyword in IDENTIFIERS) else None


def _has_ended(end: int, start: bytes, size: int) -> bool:
    """Whether a walk came to its end. Raises Incomplete if it may with more of the file."""
    if end == INCOMPLETE and len(start) < size:
        raise Incomplete
    return end == REACHED


def _transfer_syntax(start: bytes, meta: list[list[int]], begin: int) -> UID | None:
    """The transfer syntax by the file's meta information, which ends at ``begin``; None if that is unusual."""
    if any(at == ABSENT for at, _, _ in meta):
        return None
    group_length, kind, syntax = (start[at : at + length] for at, length, _ in meta)
    if len(group_length) != 4 or int.from_bytes(group_length, "little") != begin - meta[0][0] - 4:
        return None
    found = _told("UI", syntax)
    if not isinstance(found, UID) or found not in SCANNED or _told("UI", kind) == MediaStorageDirectoryStorage:
        return None
    return found


def _value(start: bytes, place: Sequence[int] | None) -> bytes:
    return b"" if place is None else start[place[0] : place[0] + place[1]]


def _is_plain(start: bytes, at: int, size: int, *, charset: bytes) -> bool:
    """Whether the element that begins ``at``, if there is one, holds pixels: else pydicom would go on with what may be
    anything; and whether the character sets are ones of the standard: by others, it may take bytes for any characters.

    Raises Incomplete if it needs more of the file.
    """
    if at < size and at + _HEAD > len(start) and len(start) < size:
        raise Incomplete
    holds_pixels = at + _HEAD <= len(start) and _tag_at(start, at) in _HOLD_PIXELS
    sets = charset.decode("latin-1").rstrip("\0 ").split("\\")
    return (at == size or holds_pixels) and all(each in python_encoding for each in sets)


def _tag_at(start: bytes, at: int) -> int:
    return int.from_bytes(start[at : at + 2], "little") << 16 | int.from_bytes(start[at + 2 : at + 4], "little")


def _looks_explicit(vr: bytes) -> bool:
    """Whether pydicom would take what stands in the place of the VR for one, whatever the transfer syntax says."""
    return len(vr) < 2 or all(0x40 < each < 0x5B for each in vr)


def _pixel_data(start: bytes, at: int, *, is_implicit: bool, size: int) -> tuple[str | None, int]:
    """The VR of the Pixel Data that begins ``at`` and ends with the file, None if there is none such; and where the
    header ends.
    """
    head = start[at : at + _HEAD]
    if len(head) < _HEAD:
        return None, at
    tag = _tag_at(start, at)
    vr, value = ("", at + 8) if is_implicit else (head[4:6].decode("latin-1"), at + 12)
    length = int.from_bytes(head[4:8] if is_implicit else head[8:12], "little")
    if tag != PIXEL_DATA or vr not in ("", "OB", "OW") or value + length != size:
        return None, at
    return vr, value


@lru_cache(maxsize=4096)
def decimals(value: bytes) -> tuple[float, ...]:
    """The finite numbers that a decimal string is of (PS3.5 6.2); none if it is anything else."""
    try:
        numbers = tuple(float(each) for each in value.rstrip(b"\0 ").split(b"\\"))
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def raw_element(tag: int, vr: str, value: bytes, begin: int, *, is_implicit: bool) -> RawDataElement:
    """An element of a file in Little Endian as pydicom keeps it until somebody asks for its value."""
    return RawDataElement(
        tag=BaseTag(tag),
        VR=vr or None,
        length=len(value),
        value=value,
        value_tell=begin,
        is_implicit_VR=is_implicit,
        is_little_endian=True,
    )


def parsed(file: bytes, name: str, *, header_only: bool = False) -> FileDataset:
    """What pydicom makes of a file. Raises NotDicom if it cannot be parsed, or has no identifiers."""
    try:
        dataset = dcmread(io.BytesIO(file), stop_before_pixels=header_only)
        absent = [keyword for keyword in IDENTIFIERS if not dataset.get(keyword)]
    except UNPARSABLE as error:
        raise NotDicom(
            f"expected a DICOM file, found one that cannot be parsed ({type(error).__name__}): {name}; "
            "send or copy the study again"
        ) from error
    if absent:
        raise NotDicom(f"expected {', '.join(absent)}, found none in {name}; the file is cut short or not an image")
    return dataset

"""Elements as the bytes of Explicit VR Little Endian (PS3.5 7.1), for what would be thousands of pydicom objects."""

import struct
from collections.abc import Iterable

from pydicom.dataelem import RawDataElement
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag

_ITEM = struct.Struct("<LL")
_ITEM_TAG = 0xE000FFFE
_LONG = struct.Struct("<HH2sHL")  # tag, VR, reserved, length
_SHORT = struct.Struct("<HH2sH")


def text(keyword: str, vr: bytes, value: str) -> bytes:
    """An element of ASCII text, of even length."""
    tag, content = Tag(keyword), value.encode("ascii")
    content += (b"\0" if vr == b"UI" else b" ") * (len(content) % 2)
    return _SHORT.pack(tag.group, tag.element, vr, len(content)) + content


def numbers(keyword: str, vr: bytes, values: Iterable[int]) -> bytes:
    """An element of unsigned numbers: US or UL."""
    tag, values = Tag(keyword), tuple(values)
    content = struct.pack(f"<{len(values)}{'H' if vr == b'US' else 'L'}", *values)
    return _SHORT.pack(tag.group, tag.element, vr, len(content)) + content


def sequence(keyword: str, items: Iterable[bytes]) -> bytes:
    """A sequence of items of defined length."""
    tag, content = Tag(keyword), items_of(items)
    return _LONG.pack(tag.group, tag.element, b"SQ", 0, len(content)) + content


def items_of(items: Iterable[bytes]) -> bytes:
    """The items of a sequence, one after the other."""
    return b"".join(part for item in items for part in (_ITEM.pack(_ITEM_TAG, len(item)), item))


def code(concept: Code) -> bytes:
    """The item of a code sequence (PS3.3 8.8)."""
    return (
        text("CodeValue", b"SH", concept.value)
        + text("CodingSchemeDesignator", b"SH", concept.scheme_designator)
        + text("CodeMeaning", b"LO", concept.meaning)
    )


def as_element(tag: BaseTag, items: Iterable[bytes]) -> RawDataElement:
    """A sequence for a dataset: it stays encoded until somebody asks for it, and is written as it is."""
    value = items_of(items)
    return RawDataElement(tag, "SQ", len(value), value, 0, is_implicit_VR=False, is_little_endian=True)

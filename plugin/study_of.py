"""Which study a DICOM file is of, read off its header without a DICOM library, and without looking at its pixels.

The hook of each C-STORE asks this of what may be a file of many megabytes, while the sender waits.
"""

import struct
import zlib

STUDY_INSTANCE_UID = 0x0020000D
TRANSFER_SYNTAX_UID = 0x00020010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""Value representations whose lengths have four bytes, after two that are reserved (PS3.5 7.1.2)."""
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
"""Transfer syntaxes of deflated data sets: by themselves, and with JPIP (PS3.5 A.5, A.7, A.9)."""
PREAMBLE = 128
META = 2048
"""Bytes at the beginning that name the transfer syntax, generously."""
LARGEST_HEADER = 4_000_000
"""Bytes that are inflated of a deflated data set."""
MOST_ELEMENTS = 20_000
"""So many are looked at before the file counts as odd."""
DEEPEST = 16


def study_instance_uid_of(content: bytes) -> str | None:
    """The StudyInstanceUID of a file (PS3.10); None if the header cannot be followed so far."""
    try:
        return _study_of(content)
    except (struct.error, zlib.error, _OddError):
        return None


def is_deflated(content: bytes) -> bool:
    """Whether a file may be deflated, so that no UID can be sought for in its bytes."""
    return any(syntax.encode() in content[:META] for syntax in DEFLATED)


class _OddError(Exception):
    """The bytes are not what the standard says."""


def _study_of(content: bytes) -> str:
    if content[PREAMBLE : PREAMBLE + 4] != b"DICM":
        raise _OddError
    meta = _Elements(content, at=PREAMBLE + 4)
    syntax = meta.text_of(TRANSFER_SYNTAX_UID, before=0x00030000)
    start = meta.at
    if syntax in DEFLATED:
        content, start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], LARGEST_HEADER), 0
    order = ">" if syntax == BIG_ENDIAN else "<"
    found = _Elements(content, at=start, order=order, is_implicit=syntax == IMPLICIT)
    study = found.text_of(STUDY_INSTANCE_UID, before=STUDY_INSTANCE_UID + 1)
    if not study or set(study) - set("0123456789."):  # what Orthanc makes of it is not said
        raise _OddError
    return study


class _Elements:
    """Goes from one data element to the next (PS3.5 7.1)."""

    def __init__(self, content: bytes, *, at: int, order: str = "<", is_implicit: bool = False) -> None:
        self.at = at
        self._content, self._is_implicit = content, is_implicit
        self._left = MOST_ELEMENTS
        self._tag, self._short, self._long = (struct.Struct(order + each) for each in ("HH", "H", "I"))

    def text_of(self, wanted: int, *, before: int) -> str:
        """The value of an element without its padding; empty if there is none. Ends at the first tag from ``before``
        on, and at the end of the content.
        """
        text, last = "", -1
        while self.at < len(self._content) and (tag := self._peek()) < before:
            if tag <= last:  # which of two would count is not said
                raise _OddError
            last = tag
            value, length = self._head(is_implicit=self._is_implicit)
            if tag == wanted and length != UNDEFINED:
                text = self._content[value : value + length].decode("ascii", "replace").strip("\0 \t\r\n")
            self._skip(value, length, is_implicit=self._is_implicit, depth=0)
        return text

    def _peek(self) -> int:
        group, element = self._tag.unpack_from(self._content, self.at)
        return int(group) << 16 | int(element)

    def _head(self, *, is_implicit: bool) -> tuple[int, int]:
        """Where the value of the element begins, and its length; that of UN whose content is implicit counts as SQ."""
        self._left -= 1
        if self._left < 0:
            raise _OddError
        at = self.at + 4
        vr = self._content[at : at + 2]
        if is_implicit or self._peek() >> 16 == ITEM >> 16:
            return at + 4, self._long.unpack_from(self._content, at)[0]
        if not (vr.isalpha() and vr.isupper()):
            raise _OddError
        if vr in LONG:
            return at + 8, self._long.unpack_from(self._content, at + 4)[0]
        return at + 4, self._short.unpack_from(self._content, at + 2)[0]

    def _skip(self, value: int, length: int, *, is_implicit: bool, depth: int) -> None:
        if length == UNDEFINED:
            # An element of unknown VR whose length is not defined has items of implicit VR (PS3.5 6.2.2).
            inner = is_implicit or self._content[self.at + 4 : self.at + 6] == b"UN"
            self.at = value
            self._skip_items(is_implicit=inner, depth=depth + 1)
        else:
            self.at = value + length

    def _skip_items(self, *, is_implicit: bool, depth: int) -> None:
        """Go behind a sequence whose length is not defined (PS3.5 7.5)."""
        if depth > DEEPEST:
            raise _OddError
        while (tag := self._peek()) != SEQUENCE_END:
            value, length = self._head(is_implicit=is_implicit)
            if tag != ITEM:
                raise _OddError
            if length != UNDEFINED:
                self.at = value + length
                continue
            self.at = value
            while self._peek() != ITEM_END:
                value, length = self._head(is_implicit=is_implicit)
                self._skip(value, length, is_implicit=is_implicit, depth=depth)
            self.at += 8
        self.at += 8

"""The parts of a multipart body (RFC 2046 5.1), one after the other, from pieces of any size."""

from collections.abc import Iterable, Iterator
from email.message import Message

END = b"\r\n\r\n"
"""Ends the header of a part."""
LONGEST_HEADER = 1 << 16
LONGEST_PART = (1 << 31) - 1
"""Our Orthanc takes no longer file."""


class MultipartError(Exception):
    """The body is not what its header says. The message quotes nothing of it."""


def boundary_of(content_type: str) -> str | None:
    """What separates the parts, by the Content-Type of the answer; None if it has no parts."""
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return None
    boundary = header.get_param("boundary")
    return boundary if isinstance(boundary, str) and boundary else None


def parts_in(pieces: Iterable[bytes], *, boundary: str) -> Iterator[bytes]:
    """The contents of the parts, without their headers. One part at a time is in memory.

    Raises MultipartError if the body ends before its closing delimiter, or is none.
    """
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    body = _Body(pieces)
    body.skip_to(delimiter)
    while not body.is_at(b"--"):
        body.take_until(END, most=LONGEST_HEADER)
        yield body.take_until(delimiter, most=LONGEST_PART)


class _Body:
    """What has come, and was not looked at yet."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning

    def skip_to(self, delimiter: bytes) -> None:
        """Leave out what stands before the first delimiter, and that itself."""
        self.take_until(delimiter, most=LONGEST_HEADER)

    def is_at(self, text: bytes) -> bool:
        """Whether this comes next."""
        while len(self._rest) < len(text):
            self._more()
        return self._rest.startswith(text)

    def take_until(self, mark: bytes, *, most: int) -> bytes:
        """What stands before a mark; the mark is left out."""
        looked_at = 0
        while (found := self._rest.find(mark, looked_at)) < 0:
            looked_at = max(0, len(self._rest) - len(mark) + 1)
            if looked_at > most:
                raise MultipartError(f"a part is longer than {most} bytes, or its end is missing")
            self._more()
        taken = bytes(memoryview(self._rest)[:found])
        del self._rest[: found + len(mark)]
        return taken

    def _more(self) -> None:
        try:
            self._rest += next(self._pieces)
        except StopIteration:
            raise MultipartError("the body ends before its closing delimiter") from None

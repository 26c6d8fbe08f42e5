"""Reads the images of a series from wherever their files lie, their pixels into one array."""

import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag

from coread.errors import NotDicom
from coread.workers.scan import PIXEL_DATA, UNTOLD, Header, Incomplete, parsed, raw_element, scan
from coread.workers.stack import Pixels, Place, Stack, bytes_of, layout_of, settled

FIRST_BYTES = 8192
"""Of a file, in which most headers end; where one does not, more is read, several times as much each time."""
MORE = 8

_FIRST_GROUP, _PIXEL_GROUP = 0x0008, 0x7FE0
_POSITION, _ORIENTATION = keyword_dict["ImagePositionPatient"], keyword_dict["ImageOrientationPatient"]


class Body(Protocol):
    """A file's bytes, read from its beginning to its end."""

    @property
    def size(self) -> int:
        """All of them."""

    def read(self, count: int = -1) -> bytes:
        """The next ``count``, or as many as there are; by default all."""

    def fill(self, room: memoryview) -> None:
        """Put the next into ``room``. Raises an error of Coread's if there are not enough."""


class File:
    """A file on disk as a Body."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = FileIO(path)
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, count: int = -1) -> bytes:
        return self._file.read(count)

    def fill(self, room: memoryview) -> None:
        filled = 0
        while filled < len(room):
            count = self._file.readinto(room[filled:])
            if not count:
                raise NotDicom(
                    f"expected a file of {self.size} bytes, found it cut short while it was read: {self._path}; "
                    "send or copy the study again"
                )
            filled += count


class ScannedImage(FileDataset):
    """An image of which single values can be asked for cheaply. Asked for anything else, it becomes what pydicom makes
    of its file, and is no ScannedImage any more.

    ``pixels``: None if they were not read; then it becomes what pydicom makes of the file without them.
    """

    def __init__(self, header: Header, *, pixels: Pixels | None = None) -> None:
        self.__dict__.update(header.attributes, _header=header, _pixels=pixels)

    @property
    def header(self) -> Header:
        found: Header = self.__dict__["_header"]
        return found

    @property
    def pixels(self) -> Pixels | None:
        found: Pixels | None = self.__dict__["_pixels"]
        return found

    def parse(self) -> None:
        """Become what pydicom makes of the file. Raises NotDicom if it cannot be parsed."""
        header, pixels = self.header, self.pixels
        whole = parsed(header.data, header.name, header_only=True)
        if pixels is not None:
            whole[BaseTag(PIXEL_DATA)] = raw_element(
                PIXEL_DATA, header.pixels_vr or "", pixels.tobytes(), len(header.data), is_implicit=header.is_implicit
            )
        self.__dict__.clear()
        self.__class__ = FileDataset  # type: ignore[assignment]  # all that it had of its own is gone
        self.__dict__.update(whole.__dict__)

    def __getattr__(self, name: str) -> Any:
        if "_header" not in self.__dict__:  # it is being copied
            return super().__getattr__(name)
        tag = _scanned_tag(name)
        if tag is not None and self.header.element(tag) is None:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        value = UNTOLD if tag is None else self.header.value(tag)
        if value is not UNTOLD:
            return value
        self.parse()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_header" in self.__dict__:
            self.parse()
        FileDataset.__setattr__(self, name, value)

    def __contains__(self, name: object) -> bool:
        tag = _scanned_tag(name) if isinstance(name, str) else None
        if tag is not None:
            return self.header.element(tag) is not None
        self.parse()
        return name in self

    def __copy__(self) -> "ScannedImage":
        return ScannedImage(self.header, pixels=self.pixels)

    def __deepcopy__(self, memo: dict[int, Any]) -> FileDataset:
        self.parse()
        return FileDataset.__deepcopy__(self, memo)


def _scanned_tag(keyword: str) -> int | None:
    """The tag of an element that a scan would have come by; None if it is another, or no keyword."""
    tag = keyword_dict.get(keyword)
    return tag if tag is not None and _FIRST_GROUP <= tag >> 16 < _PIXEL_GROUP else None


def scanned(body: Body, name: str, *, start: bytes = b"") -> tuple[Header | None, bytes]:
    """The header of a file, None if it is one for pydicom to judge; and what was read of the file.

    ``start``: what was read before; ``name``: how errors call the file.
    """
    start += body.read(max(FIRST_BYTES - len(start), 0))
    while True:
        try:
            return scan(start, body.size, name=name), start
        except Incomplete:
            more = body.read(len(start) * (MORE - 1))
            if not more:
                return None, start
            start += more


def read_image(body: Body, name: str, stack: Stack, index: int, *, known: Header | None = None) -> Dataset:
    """The image in a file, its pixels in the stack if they are native ones of one grey frame, else as pydicom reads it.

    ``index``: which of the stack's places is the image's; ``known``: the header that the file had before, if it was
    looked at. Raises NotDicom if it cannot be parsed, has no identifiers, or ends early.
    """
    start = body.read(len(known.data)) if known else b""
    if known and start == known.data and body.size == known.size:
        header: Header | None = known
    else:
        header, start = scanned(body, name, start=start)
    layout = layout_of(header) if header else None
    if header is None or layout is None:
        return parsed(start + body.read(), name)
    array, slot = stack.slot(layout, index)
    room, read = bytes_of(array, slot), np.frombuffer(start, np.uint8)[len(header.data) :]
    room[: len(read)] = read[: len(room)]
    body.fill(room[len(read) :].data)
    padding = bytes(read[len(room) :]) or body.read(header.size - len(header.data) - len(room))
    pixels = settled(array, slot, layout, padding)
    if pixels is None:
        return parsed(b"".join((header.data, room.tobytes(), padding)), name)
    return ScannedImage(header, pixels=pixels)


def header_of(image: Dataset) -> Header | None:
    """The header of an image that was scanned and has not been parsed since."""
    return image.header if isinstance(image, ScannedImage) else None


def place_of(header: Header | None) -> Place:
    return (header.numbers(_POSITION), header.numbers(_ORIENTATION)) if header else ((), ())

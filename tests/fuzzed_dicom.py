"""Studies whose files have been harmed: bytes that are others, elements with values that they must not have."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from coread.phantom import Ventricle, short_axis_volume
from coread.volume import Volume
from tests.support import images_of

SLICES = 6
ODD_VALUES = (
    b"",
    b"\x00",
    b"\xff\xff",
    b"nan ",
    b"inf ",
    b"-1",
    b"1e999 ",
    b"\\\\\\\\",
    b"1\\0\\0\\0\\1\\0",
    b"0\\0\\0\\0\\0\\0",
    b"1\\1",
    b"65535 ",
    b"99999999999999999999",
    b"2.25.0 ",
    b"1.2.3\x00",
    b"not a UID ",
    b"00000000",
    b"\xe9\xe8\xff\xfe",
    b"ISO_IR 999",
    b"\x1b$B;3ED",
    b"A" * 300,
)


@dataclass(frozen=True, kw_only=True)
class Harm:
    """One thing that is done to one file."""

    file: int
    kind: str
    place: float
    """Where, as a part of the file or of its elements."""
    value: bytes


HARMS = st.lists(
    st.builds(
        Harm,
        file=st.integers(0, SLICES - 1),
        kind=st.sampled_from(["bytes", "cut", "insert", "length", "value", "absent", "twice", "swap"]),
        place=st.floats(0, 1, exclude_max=True),
        value=st.sampled_from(ODD_VALUES) | st.binary(max_size=24),
    ),
    min_size=1,
    max_size=4,
)


def to_element(tag: int, kind: str, value: bytes = b"", *, files: int = SLICES) -> list[Harm]:
    """A harm to one element of the first files."""
    content = healthy("fuzzed")[0]
    key = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    places = _elements(content)
    (index,) = [number for number, at in enumerate(places) if content[at : at + 4] == key]
    return [Harm(file=file, kind=kind, place=(index + 0.5) / len(places), value=value) for file in range(files)]


@cache
def healthy(name: str) -> tuple[bytes, ...]:
    """The files of a small study that the left-ventricle model would read."""
    whole = short_axis_volume(Ventricle(radius_mm=19.0, length_mm=70.0, wall_mm=9.0))
    small = Volume(array=whole.array[:SLICES], affine=whole.affine)
    return tuple(_written(image) for image in images_of(small, name=name))


def _written(image: Dataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, image, enforce_file_format=True)
    return stream.getvalue()


def harmed(harms: Sequence[Harm], *, name: str = "fuzzed") -> list[bytes]:
    """The study's files after all harms."""
    files = list(healthy(name))
    for harm in harms:
        files[harm.file] = KINDS[harm.kind](files[harm.file], harm)
    return files


def write(files: Sequence[bytes], folder: Path) -> None:
    """The files in a folder, in the place of those that were there."""
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(content)


PREAMBLE = 132
HEADER = 2000
"""Bytes of a file that are about the image; the rest is its pixels, which may be anything."""


def _at(file: bytes, place: float) -> int:
    return PREAMBLE + int(place * max(1, min(len(file), HEADER) - PREAMBLE))


def _bytes(file: bytes, harm: Harm) -> bytes:
    at = _at(file, harm.place)
    return file[:at] + harm.value + file[at + len(harm.value) :]


def _cut(file: bytes, harm: Harm) -> bytes:
    return file[: int(harm.place * len(file))]


def _insert(file: bytes, harm: Harm) -> bytes:
    at = _at(file, harm.place)
    return file[:at] + harm.value + file[at:]


def _length(file: bytes, harm: Harm) -> bytes:
    """The length of an element is another one."""
    places = _elements(file)
    if not places:
        return file
    at = places[int(harm.place * len(places))]
    return file[: at + 6] + (harm.value + b"\xff\xff")[:2] + file[at + 8 :]


def _value(file: bytes, harm: Harm) -> bytes:
    """The value of an element is another one, of its own length."""
    places = _elements(file)
    if not places:
        return file
    at = places[int(harm.place * len(places))]
    old = int.from_bytes(file[at + 6 : at + 8], "little")
    value = harm.value + b" " * (len(harm.value) % 2)
    return file[: at + 6] + len(value).to_bytes(2, "little") + value + file[at + 8 + old :]


def _absent(file: bytes, harm: Harm) -> bytes:
    places = _elements(file)
    if not places:
        return file
    at = places[int(harm.place * len(places))]
    return file[:at] + file[at + 8 + int.from_bytes(file[at + 6 : at + 8], "little") :]


def _twice(file: bytes, harm: Harm) -> bytes:
    places = _elements(file)
    if not places:
        return file
    at = places[int(harm.place * len(places))]
    end = at + 8 + int.from_bytes(file[at + 6 : at + 8], "little")
    return file[:end] + file[at:end] + file[end:]


def _swap(file: bytes, harm: Harm) -> bytes:
    """The VR of an element is another one."""
    places = _elements(file)
    if not places:
        return file
    at = places[int(harm.place * len(places))]
    return file[: at + 4] + (harm.value + b"UN")[:2] + file[at + 6 :]


def _elements(file: bytes) -> list[int]:
    """Where the elements with a short length begin, as far as they can be followed; Explicit VR, Little Endian."""
    places, at = [], PREAMBLE
    while at + 8 <= min(len(file), HEADER):
        vr = file[at + 4 : at + 6]
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OF", b"OD"):
            at += 12 + int.from_bytes(file[at + 8 : at + 12], "little")
        elif vr.isalpha() and vr.isupper():
            places.append(at)
            at += 8 + int.from_bytes(file[at + 6 : at + 8], "little")
        else:
            break
    return places


KINDS: dict[str, Callable[[bytes, Harm], bytes]] = {
    "bytes": _bytes,
    "cut": _cut,
    "insert": _insert,
    "length": _length,
    "value": _value,
    "absent": _absent,
    "twice": _twice,
    "swap": _swap,
}

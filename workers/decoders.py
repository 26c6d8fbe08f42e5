"""Decoders of compressed grey pixels that let go of the interpreter's lock, so that every core decodes.

They are plug-ins of pydicom, which finds the frames and makes of what is decoded what the header says. Where one cannot
decode something that a decoder of pydicom's own may, that is tried.
"""

import struct

import imagecodecs
import numba
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames, parse_basic_offsets
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from coread.dicom_sr.source import frame_count

NAME = "coread"
_FUNCTIONS = {
    JPEGLSLossless: "decode_jpeg_ls",
    JPEGLSNearLossless: "decode_jpeg_ls",
    JPEG2000Lossless: "decode_jpeg_2000",
    JPEG2000: "decode_jpeg_2000",
    JPEGLossless: "decode_jpeg_lossless",
    JPEGLosslessSV1: "decode_jpeg_lossless",
    RLELossless: "decode_rle",
}

_OTHERWISE_DECODED = {JPEG2000Lossless: "", JPEG2000: "", RLELossless: "pydicom"}
"""Where pydicom has a decoder that is not the same library, and its name; none: any. Some decoders of RLE take pixels
of another size than the header's.
"""

DECODER_DEPENDENCIES = dict.fromkeys(_FUNCTIONS, ("imagecodecs",))
"""pydicom asks for it."""

END_OF_IMAGE = b"\xff\xd9"
"""In what is encoded, these bytes never follow each other (ISO 10918-1 B.1.1.5)."""

SOF_3, SOF_55, SOC_SIZ = b"\xff\xc3", b"\xff\xf7", b"\xff\x4f\xff\x51"
"""What begins the header of a frame that is JPEG lossless and JPEG-LS, and a codestream of JPEG 2000."""

MOST_PIXELS = 2**27
"""Of a frame: five times those of a mammogram. A header that claims more would cost the memory that it claims."""

_PIXEL_DESCRIPTION = 0x0028
"""The group that says what the pixels are (PS3.3 C.7.6.3)."""

_RLE_HEADER = struct.Struct("<16I")
_BITS = 8
NO_OPERATION = 128
"""The byte of PackBits that stands for nothing; above it, the next is repeated, below it, the next ones are taken."""


def is_available(uid: UID) -> bool:
    """Whether a transfer syntax can be decoded; pydicom asks for it."""
    return uid in _FUNCTIONS


def stored_values(image: Dataset, frame: int | None) -> NDArray[np.generic]:
    """An image's pixels as they are stored, or those of one of its frames, counted from 0.

    Raises what pydicom raises if they cannot be decoded.
    """
    syntax = image.file_meta.TransferSyntaxUID
    if syntax in _FUNCTIONS and image.Rows * image.Columns > MOST_PIXELS:
        raise ValueError(f"expected at most {MOST_PIXELS} pixels in a frame, found {image.Rows} by {image.Columns}")
    if syntax in _FUNCTIONS and image.get("SamplesPerPixel") == 1:
        try:
            return pixel_array(image, index=frame, decoding_plugin=NAME)
        except RuntimeError:
            if syntax not in _OTHERWISE_DECODED:
                raise
    return pixel_array(image, index=frame, decoding_plugin=_OTHERWISE_DECODED.get(syntax, ""))


def with_offsets(image: Dataset) -> Dataset:
    """What decodes to the same pixels as a multi-frame image, with a table that says where each frame begins.

    Without one (PS3.5 A.4), pydicom looks at all frames to find a single one: minutes for thousands of them. Raises
    what pydicom raises if they cannot be found.
    """
    count = frame_count(image)
    if count < 2 or image.file_meta.TransferSyntaxUID not in _FUNCTIONS or image.get("ExtendedOffsetTable"):
        return image
    if parse_basic_offsets(image.PixelData):
        return image
    found = image.group_dataset(_PIXEL_DESCRIPTION)
    found.file_meta = image.file_meta
    found.PixelData = encapsulate(list(generate_frames(image.PixelData, number_of_frames=count)))
    return found


def decode_jpeg_ls(src: bytes, runner: DecodeRunner) -> bytearray:
    """ISO 14495-1. Raises ValueError if its end is missing: the library may take minutes to see that."""
    _check_end(src)
    _check_size(_size_in_jpeg(src, SOF_55), runner)
    return _frame(imagecodecs.jpegls_decode(src), runner)


def decode_jpeg_2000(src: bytes, runner: DecodeRunner) -> bytearray:
    """ISO 15444-1."""
    _check_size(_size_in_jpeg_2000(src), runner)
    return _frame(imagecodecs.jpeg2k_decode(src, numthreads=1), runner)


def decode_jpeg_lossless(src: bytes, runner: DecodeRunner) -> bytearray:
    """ISO 10918-1, process 14. Raises ValueError if its end is missing: the library would make up the rest."""
    _check_end(src)
    _check_size(_size_in_jpeg(src, SOF_3), runner)
    return _frame(imagecodecs.jpeg8_decode(src), runner)


def decode_rle(src: bytes, runner: DecodeRunner) -> bytearray:
    """PS3.5 Annex G. Raises ValueError unless there are as many bytes as the header says."""
    count, *offsets = _RLE_HEADER.unpack_from(src)
    size, width = runner.rows * runner.columns, runner.bits_allocated // _BITS
    if count != width:
        raise ValueError(f"expected {width} segments, found {count}")
    decoded, data = np.empty(size * width, np.uint8), np.frombuffer(src, np.uint8)
    ends = [*offsets[1:count], len(src)]
    for segment, (begin, end) in enumerate(zip(offsets, ends, strict=False)):
        if not _unpack(data[begin:end], decoded[width - 1 - segment :: width]):
            raise ValueError(f"expected {size} bytes in each segment, found another number")
    return bytearray(decoded)


def _check_end(src: bytes) -> None:
    if not src.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise ValueError("expected the marker of the image's end, found none")


def _size_in_jpeg(src: bytes, frame: bytes) -> tuple[int, int]:
    """Rows and columns by the frame header that a marker begins (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2)."""
    at = 2
    while src[at : at + 2] != frame:
        (length,) = struct.unpack_from(">H", src, at + 2)
        at += 2 + length
    rows, columns = struct.unpack_from(">HH", src, at + 5)
    return rows, columns


def _size_in_jpeg_2000(src: bytes) -> tuple[int, int]:
    """Rows and columns by the codestream's SIZ (ISO 15444-1 A.5.1)."""
    columns, rows, left, above = struct.unpack_from(">IIII", src, src.index(SOC_SIZ) + 8)
    return rows - above, columns - left


def _check_size(stated: tuple[int, int], runner: DecodeRunner) -> None:
    """Raises ValueError if the pixels are not as many as the header says: libraries make room for what is stated before
    they look whether it is there.
    """
    if stated != (runner.rows, runner.columns):
        raise ValueError(f"expected {runner.rows} by {runner.columns} pixels, found {stated}")


def _frame(array: NDArray[np.generic], runner: DecodeRunner) -> bytearray:
    if array.shape != (runner.rows, runner.columns):
        raise ValueError(f"expected {runner.rows} rows and {runner.columns} columns, found {array.shape}")
    runner.set_option("bits_allocated", array.itemsize * _BITS)
    return bytearray(array.tobytes())


@numba.njit(cache=True, nogil=True)
def _unpack(packed: NDArray[np.uint8], out: NDArray[np.uint8]) -> bool:
    """Undo PackBits; whether it gave as many bytes as ``out`` has, but for one of padding."""
    at, filled = 0, 0
    while at < len(packed) - 1 and filled < len(out):
        header = int(packed[at])
        at += 1
        if header > NO_OPERATION:
            count, step = 257 - header, 1
        elif header < NO_OPERATION:
            count, step = header + 1, header + 1
        else:
            continue
        if filled + count > len(out) or at + step > len(packed):
            return False
        out[filled : filled + count] = packed[at : at + step]  # one byte, or as many
        at += step
        filled += count
    return filled == len(out) and at >= len(packed) - 1


def warm_up() -> None:
    """Have it compiled: a second, once on a machine."""
    packed, room = np.frombuffer(b"\0\0", np.uint8), np.empty(4, np.uint8)
    _unpack(packed, room[:1])
    _unpack(packed, room[::2])  # every second byte is another type of array


for _syntax, _function in _FUNCTIONS.items():
    get_decoder(_syntax).add_plugin(NAME, (__name__, _function))

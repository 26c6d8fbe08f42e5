"""Compressed pixels: what other people's programs compress is read as it was, and what cannot be decoded is refused."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import pixel_array, set_pixel_data
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from coread.dicom_files import write_files
from coread.errors import NotDicom
from coread.workers.decoders import NAME, stored_values
from coread.workers.study import studies_in_folder
from coread.workers.volume import SourceVolume, build_volume
from tests.support import enhanced, images_of, program, volume_in_plane

PROGRAMS = {
    "JPEG lossless, first-order prediction": ("dcmcjpeg", "+e1"),
    "JPEG lossless": ("dcmcjpeg", "+el", "+sv", "6"),
    "JPEG-LS": ("dcmcjpls",),
    "RLE": ("dcmcrle",),
}
KINDS = ((np.int16, 16), (np.int16, 12), (np.uint16, 16), (np.uint16, 10), (np.uint8, 8))
SHAPE = (3, 33, 21)


def a_series(dtype: type[np.integer], bits: int) -> list[Dataset]:
    """Slopes and noise over the whole range of the stored values."""
    images = images_of(volume_in_plane("oblique", shape=SHAPE), modality="CT")
    values = np.random.default_rng(bits)
    low = -(2 ** (bits - 1)) if dtype is np.int16 else 0
    for image in images:
        stored = values.integers(0, 2**bits, SHAPE[1:])
        stored[:20] = np.linspace(0, 2**bits - 1, SHAPE[2]).astype(int)
        set_pixel_data(image, (stored + low).astype(dtype), "MONOCHROME2", bits, generate_instance_uid=False)
        image.PixelData += bytes(len(image.PixelData) % 2)
        image.RescaleSlope, image.RescaleIntercept = "1", "-24"
    return images


def loaded(folder: Path) -> SourceVolume:
    (study,) = studies_in_folder(folder)
    (series,) = study.series
    return build_volume(series.load())


@pytest.mark.parametrize("way", PROGRAMS)
@pytest.mark.parametrize(("dtype", "bits"), KINDS)
def test_what_dcmtk_compresses_is_read_as_it_was(way: str, dtype: type[np.integer], bits: int, tmp_path: Path) -> None:
    name, *options = PROGRAMS[way]
    (tmp_path / "compressed").mkdir()
    paths = write_files(a_series(dtype, bits), tmp_path / "native")
    for path in paths:
        to = tmp_path / "compressed" / path.name
        subprocess.run([program(name), *options, str(path), str(to)], check=True)
        assert pydicom.dcmread(to).file_meta.TransferSyntaxUID.is_compressed
    one, other = loaded(tmp_path / "compressed").volume, loaded(tmp_path / "native").volume
    assert one.array.dtype == other.array.dtype
    assert np.array_equal(one.array, other.array)
    assert np.array_equal(one.affine, other.affine)


def encode(image: Dataset, frame: bytes | bytearray, syntax: UID) -> None:
    image.PixelData = encapsulate([bytes(frame)])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = syntax


def in_jpeg_2000(image: Dataset) -> None:
    encode(image, imagecodecs.jpeg2k_encode(image.pixel_array, level=0, reversible=True), JPEG2000Lossless)


@pytest.mark.parametrize(("dtype", "bits"), KINDS)
def test_jpeg_2000_is_read_as_it_was(dtype: type[np.integer], bits: int) -> None:
    expected, images = build_volume(a_series(dtype, bits)).volume, a_series(dtype, bits)
    for image in images:
        in_jpeg_2000(image)
    volume = build_volume(images).volume
    assert volume.array.dtype == expected.array.dtype
    assert np.array_equal(volume.array, expected.array)


def test_frames_are_decoded_one_by_one() -> None:
    images = a_series(np.int16, 12)
    expected, image = build_volume(images).volume, enhanced(images)
    image.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(build_volume([image]).volume.array, expected.array)


def test_of_many_frames_each_is_found_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """pydicom goes over all of them for each one where no table says where it begins: minutes for thousands."""
    images = a_series(np.int16, 12)
    expected, image = build_volume(images).volume, enhanced(images)
    image.compress(RLELossless, generate_instance_uid=False)
    frames = list(generate_frames(image.PixelData, number_of_frames=len(images)))
    image.PixelData = without_table = encapsulate(frames, has_bot=False)
    monkeypatch.setattr("pydicom.encaps.parse_fragments", None)  # which goes over all of them
    monkeypatch.setattr("coread.workers.decoders.generate_frames", lambda *_, **__: iter(frames))
    assert np.array_equal(build_volume([image]).volume.array, expected.array)
    assert image.PixelData == without_table


@pytest.mark.parametrize("fragments", [1, 2])
def test_frames_without_a_table_are_those_that_pydicom_finds(fragments: int) -> None:
    images = a_series(np.int16, 16)
    expected, image = build_volume(images).volume, enhanced(images)
    image.compress(JPEGLSLossless, generate_instance_uid=False)
    frames = list(generate_frames(image.PixelData, number_of_frames=len(images)))
    image.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=False)
    assert np.array_equal(build_volume([image]).volume.array, expected.array)
    image.PixelData = encapsulate(frames[:-1], has_bot=False)
    with pytest.raises(NotDicom, match=str(image.SOPInstanceUID)):
        build_volume([image])


@pytest.mark.filterwarnings("ignore:The number of bytes of compressed pixel data matches")
@settings(max_examples=50, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 300)), min_size=1, max_size=20),
    columns=st.integers(1, 40),
)
def test_rle_is_read_as_pydicom_reads_it(runs: list[tuple[int, int]], columns: int) -> None:
    flat = np.concatenate([np.full(count, value, np.uint16) for value, count in runs])
    rows = -(-flat.size // columns)
    image = a_series(np.uint16, 16)[0]
    set_pixel_data(image, np.resize(flat, (rows, columns)), "MONOCHROME2", 16)
    image.compress(RLELossless)
    assert np.array_equal(pixel_array(image, decoding_plugin=NAME), pixel_array(image, decoding_plugin="pydicom"))


def in_rle(image: Dataset) -> None:
    image.compress(RLELossless, generate_instance_uid=False)


def in_jpeg_ls(image: Dataset) -> None:
    image.compress(JPEGLSLossless, generate_instance_uid=False)


def in_jpeg_lossless(image: Dataset) -> None:
    encode(image, imagecodecs.ljpeg_encode(image.pixel_array.view(np.uint16)), JPEGLosslessSV1)


@pytest.mark.parametrize("left_out", [1, 2, 4, 20, 200])
@pytest.mark.parametrize("compress", [in_rle, in_jpeg_ls, in_jpeg_lossless, in_jpeg_2000])
def test_pixels_that_are_cut_short_are_refused(compress: Callable[[Dataset], None], left_out: int) -> None:
    images = a_series(np.int16, 16)
    for image in images:
        compress(image)
    assert build_volume(images).volume.array.shape == SHAPE
    (frame,) = generate_frames(images[1].PixelData, number_of_frames=1)
    images[1].PixelData = encapsulate([frame.rstrip(b"\0")[:-left_out]])
    with pytest.raises(NotDicom, match=str(images[1].SOPInstanceUID)):
        build_volume(images)


@pytest.mark.parametrize("compress", [in_rle, in_jpeg_ls, in_jpeg_lossless, in_jpeg_2000])
@pytest.mark.parametrize("claimed", [(SHAPE[1], SHAPE[2] + 1), (SHAPE[1] - 1, SHAPE[2]), (65535, 65535)])
def test_other_sizes_than_the_pixels_have_are_refused(
    compress: Callable[[Dataset], None], claimed: tuple[int, int]
) -> None:
    images = a_series(np.int16, 16)
    for image in images:
        compress(image)
        image.Rows, image.Columns = claimed
    with pytest.raises(NotDicom):
        build_volume(images)


def test_colours_are_left_to_pydicom() -> None:
    image = a_series(np.uint8, 8)[0]
    colours = np.arange(3 * SHAPE[1] * SHAPE[2]).reshape(*SHAPE[1:], 3).astype(np.uint8)
    set_pixel_data(image, colours, "RGB", 8)
    image.compress(RLELossless)
    assert np.array_equal(stored_values(image, None), colours)

"""From files to a volume: equal to highdicom's, and what is unusual exactly as pydicom has it."""

import contextlib
import copy
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixels import set_pixel_data
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from coread.dicom_files import write_files
from coread.dicom_sr.source import Plane
from coread.errors import CoreadError, InputError, NotDicom
from coread.workers.images import ScannedImage
from coread.workers.scan import UNTOLD, raw_element
from coread.workers.study import Study, header_in, studies_in_folder
from coread.workers.volume import SourceVolume, build_volume
from tests.support import PLANES, enhanced, images_of, volume_in_plane

SHAPE = (5, 7, 9)
RESCALES = (None, ("1", "0"), ("1", "-1024"), ("1.0", "17"), ("1", "0.5"), ("2.5", "-10"), ("-1", "3"))
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


def load(folder: Path) -> list[Dataset]:
    (study,) = studies_in_folder(folder)
    (series,) = study.series
    return series.load()


def as_pydicom(folder: Path) -> list[Dataset]:
    """What is loaded without a scan."""
    images = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    return sorted(images, key=lambda image: str(image.SOPInstanceUID))


def comes_of(images: Sequence[Dataset]) -> SourceVolume | str:
    """The volume, or what is said instead."""
    try:
        return build_volume(images)
    except CoreadError as error:
        return f"{type(error).__name__}: {error}"


def assert_same(one: SourceVolume | str, other: SourceVolume | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    assert np.array_equal(one.volume.array, other.volume.array)
    assert np.array_equal(one.volume.affine, other.volume.affine)
    assert one.volume.frame_of_reference_uid == other.volume.frame_of_reference_uid
    assert [each.image.SOPInstanceUID for each in one.planes] == [each.image.SOPInstanceUID for each in other.planes]


def a_series(plane: str = "oblique", spacing: tuple[float, float, float] = (5.0, 1.5, 2.25)) -> list[Dataset]:
    return images_of(volume_in_plane(plane, shape=SHAPE, spacing=spacing), modality="CT")


def put(image: Dataset, array: np.ndarray, *, bits: int) -> None:
    """Pixels of as many stored bits as are said."""
    set_pixel_data(image, array, "MONOCHROME2", bits)
    image.PixelData += bytes(len(image.PixelData) % 2)


def in_syntax(images: Sequence[Dataset], syntax: pydicom.uid.UID) -> None:
    for image in images:
        image.file_meta.TransferSyntaxUID = syntax


def items(image: Dataset, *, is_undefined: bool, depth: int = 2) -> Dataset:
    """An item with a sequence in it, and so on; lengths said or not."""
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    item.add_new(0x00091001, "UN", b"private")
    if depth:
        item.PurposeOfReferenceCodeSequence = [items(image, is_undefined=is_undefined, depth=depth - 1), Dataset()]
        item["PurposeOfReferenceCodeSequence"].is_undefined_length = is_undefined
    item.is_undefined_length_sequence_item = is_undefined
    return item


def burden(image: Dataset, *, is_undefined: bool) -> None:
    """What stands in real headers between the values that are looked for."""
    block = image.private_block(0x0029, "COREAD TEST", create=True)
    block.add_new(0x10, "OB", bytes(range(250)) * 40)
    block.add_new(0x11, "SQ", [items(image, is_undefined=is_undefined)])
    image.ReferencedImageSequence = [items(image, is_undefined=is_undefined), items(image, is_undefined=False)]
    image["ReferencedImageSequence"].is_undefined_length = is_undefined
    image.SourceImageSequence = []
    image["SourceImageSequence"].is_undefined_length = is_undefined


@settings(max_examples=60, deadline=None)
@given(
    plane=st.sampled_from(sorted(PLANES)),
    spacing=st.tuples(st.floats(0.5, 10), st.floats(0.2, 3), st.floats(0.2, 3)),
    kind=st.sampled_from([(np.int16, 16), (np.int16, 12), (np.uint16, 16), (np.uint16, 12), (np.uint8, 8)]),
    rescale=st.sampled_from(RESCALES),
    syntax=st.sampled_from(NATIVE),
    burdened=st.sampled_from([None, False, True]),
    seed=st.integers(0, 2**32),
)
def test_the_volume_is_highdicoms(
    plane: str,
    spacing: tuple[float, float, float],
    kind: tuple[type[np.integer], int],
    rescale: tuple[str, str] | None,
    syntax: pydicom.uid.UID,
    burdened: bool | None,
    seed: int,
) -> None:
    images, values = a_series(plane, spacing), np.random.default_rng(seed)
    dtype, bits = kind
    for image in images:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if dtype is np.int16 else (0, 2**bits)
        put(image, values.integers(low, high, SHAPE[1:]).astype(dtype), bits=bits)
        for keyword, value in zip(("RescaleSlope", "RescaleIntercept"), rescale or (None, None), strict=True):
            image.pop(keyword)
            if value is not None:
                setattr(image, keyword, value)
        if burdened is not None:
            burden(image, is_undefined=burdened)
    in_syntax(images, syntax)
    with tempfile.TemporaryDirectory() as folder:
        write_files(random.Random(seed).sample(images, len(images)), Path(folder))
        loaded = load(Path(folder))
        assert all(isinstance(image, ScannedImage) for image in loaded)
        built = build_volume(loaded).volume
        plain = as_pydicom(Path(folder))
        assert_same(build_volume(loaded), build_volume(plain))
    theirs = hd.get_volume_from_series(plain)
    ours = np.linalg.inv(built.affine) @ theirs.affine  # theirs may run along the normal the other way
    assert np.allclose(np.abs(ours[:3, :3]), np.eye(3), atol=1e-4)
    there = theirs.array[::-1] if ours[0, 0] < 0 else theirs.array
    assert np.array_equal(built.array, there.astype(np.float32))
    assert np.allclose(built.affine[:3, 1:3], theirs.affine[:3, 1:3], atol=1e-5)


def test_nothing_is_copied_where_the_values_are_whole_numbers(tmp_path: Path) -> None:
    images = a_series()
    for image in images:
        image.RescaleSlope, image.RescaleIntercept = "1", "-100"
    write_files(random.Random(3).sample(images, len(images)), tmp_path)
    loaded = load(tmp_path)
    built = build_volume(loaded)
    assert built.volume.array.dtype == np.int16
    for index, plane in enumerate(built.planes):
        assert isinstance(plane.image, ScannedImage)
        assert plane.image.pixels is not None
        assert np.shares_memory(built.volume.array[index], plane.image.pixels.array)


def test_values_that_do_not_fit_are_no_whole_numbers_but_right(tmp_path: Path) -> None:
    images = a_series()
    for image in images:
        image.RescaleSlope, image.RescaleIntercept = "1", "-1024"
    put(images[2], np.full(SHAPE[1:], -32000, np.int16), bits=16)
    write_files(images, tmp_path)
    array = build_volume(load(tmp_path)).volume.array
    assert array.dtype == np.float32
    assert array.min() == -33024
    assert_same(build_volume(load(tmp_path)), build_volume(as_pydicom(tmp_path)))


def test_what_is_empty_costs_no_header_to_be_parsed(tmp_path: Path) -> None:
    images = a_series()
    empty_values(images)
    write_files(images, tmp_path)
    for image in load(tmp_path):
        assert image.get("Manufacturer") == ""
        assert Plane(image=image).number("SliceThickness") is None
        assert image.get("InstanceNumber") is None
        assert isinstance(image, ScannedImage)


def test_what_results_say_of_their_source_costs_one_header_to_be_parsed(tmp_path: Path) -> None:
    write_files(a_series(), tmp_path)
    built = build_volume(load(tmp_path))
    source = built.as_source
    assert len(source.instances) == len(source.indices) == SHAPE[0]
    for plane in source.planes:
        assert plane.position
        assert source.image_of(plane).SOPInstanceUID == plane.image.SOPInstanceUID
    assert [isinstance(plane.image, ScannedImage) for plane in source.planes] == [False] + [True] * (SHAPE[0] - 1)


def leave(_images: list[Dataset]) -> None:
    """As it is."""


def fill_unused_bits(images: list[Dataset]) -> None:
    for image in images:
        image.BitsStored, image.HighBit = 12, 11
        image.PixelData = (image.pixel_array | 0x7000).astype(np.int16).tobytes()


def put_overlay_behind_the_pixels(images: list[Dataset]) -> None:
    for image in images:
        image.add_new(0xFFFCFFFC, "OB", bytes(12))  # Data Set Trailing Padding


def map_by_a_table(images: list[Dataset]) -> None:
    for image in images:
        del image.RescaleSlope, image.RescaleIntercept
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [1000, 0, 16], "HU"
        table.add_new("LUTData", "OW", np.arange(2000, 3000, dtype=np.uint16).tobytes())
        image.ModalityLUTSequence = [table]


def one_rescaled_otherwise(images: list[Dataset]) -> None:
    images[1].RescaleSlope, images[1].RescaleIntercept = "0.5", "3"


def one_lowered_otherwise(images: list[Dataset]) -> None:
    images[1].RescaleIntercept = "-1024"


def one_without_intercept(images: list[Dataset]) -> None:
    for image in images:
        image.RescaleIntercept = "-1024"
    del images[1].RescaleIntercept


def one_with_bad_slope(images: list[Dataset]) -> None:
    images[3].RescaleSlope = ""


def one_unsigned(images: list[Dataset]) -> None:
    put(images[2], np.full(SHAPE[1:], 40000, np.uint16), bits=16)


def one_of_eight_bits(images: list[Dataset]) -> None:
    put(images[2], np.arange(SHAPE[1] * SHAPE[2], dtype=np.uint8).reshape(SHAPE[1:]), bits=8)


def thirty_two_bits(images: list[Dataset]) -> None:
    for image in images:
        image.PixelData = (image.pixel_array.astype(np.int32) * 1000).tobytes()
        image.BitsAllocated, image.BitsStored, image.HighBit = 32, 32, 31


def signed_bytes(images: list[Dataset]) -> None:
    for image in images:
        put(image, (image.pixel_array % 100 - 50).astype(np.int8), bits=8)


def colour(images: list[Dataset]) -> None:
    set_pixel_data(images[1], np.zeros((*SHAPE[1:], 3), np.uint8), "RGB", 8)


def white_for_low(images: list[Dataset]) -> None:
    images[1].PhotometricInterpretation = "MONOCHROME1"


def one_frame_each(images: list[Dataset]) -> None:
    for image in images:
        image.NumberOfFrames = 1


def many_frames(images: list[Dataset]) -> None:
    images[:] = [enhanced(images)]


def cut_pixels(images: list[Dataset]) -> None:
    images[3].PixelData = images[3].PixelData[:-10]


def too_many_pixels(images: list[Dataset]) -> None:
    images[3].PixelData += bytes(100)


def no_pixels(images: list[Dataset]) -> None:
    del images[3].PixelData


def wrong_sizes(images: list[Dataset]) -> None:
    images[3].Rows = 3


def no_class(images: list[Dataset]) -> None:
    del images[3].SOPClassUID


def names_in_another_character_set(images: list[Dataset]) -> None:
    for image in images:
        image.SpecificCharacterSet, image.Manufacturer = "ISO_IR 100", "Müller"
        image.SeriesDescription = "Schädel"


def empty_values(images: list[Dataset]) -> None:
    for image in images:
        image.Manufacturer = image.SliceThickness = image.SpacingBetweenSlices = image.AcquisitionDate = ""
        image.InstanceNumber = image.PatientName = ""


def positions_with_blanks(images: list[Dataset]) -> None:
    for image in images:
        image.ImagePositionPatient = [f" {float(x):.3f} " for x in image.ImagePositionPatient]


def position_of_two(images: list[Dataset]) -> None:
    images[2].ImagePositionPatient = [1, 2]


def no_frame(images: list[Dataset]) -> None:
    images[2].FrameOfReferenceUID = ""


def two_frames(images: list[Dataset]) -> None:
    images[2].FrameOfReferenceUID = "1.2.3"


def turned(images: list[Dataset]) -> None:
    images[1].ImageOrientationPatient = [0, 1, 0, 0, 0, 1]


def gap(images: list[Dataset]) -> None:
    del images[2]


def same_place(images: list[Dataset]) -> None:
    images[3].ImagePositionPatient = images[2].ImagePositionPatient


def same_name(images: list[Dataset]) -> None:
    images[3].SOPInstanceUID = images[2].SOPInstanceUID


def other_spacing(images: list[Dataset]) -> None:
    images[3].PixelSpacing = [1, 1]


def no_spacing(images: list[Dataset]) -> None:
    images[3].PixelSpacing = [0, 1]


def leaning(images: list[Dataset]) -> None:
    for index, image in enumerate(images):
        x, y, z = (float(each) for each in image.ImagePositionPatient)
        image.ImagePositionPatient = [x + index * 0.3, y, z]


USUAL = (
    leave,
    one_rescaled_otherwise,
    one_lowered_otherwise,
    one_without_intercept,
    one_unsigned,
    one_of_eight_bits,
    white_for_low,
    one_frame_each,
    names_in_another_character_set,
    positions_with_blanks,
    empty_values,
    position_of_two,
    no_frame,
    two_frames,
    turned,
    gap,
    same_place,
    same_name,
    other_spacing,
    no_spacing,
    leaning,
    no_class,
)
"""What the scan reads by itself; some of it is refused."""
UNUSUAL = (
    fill_unused_bits,
    put_overlay_behind_the_pixels,
    map_by_a_table,
    one_with_bad_slope,
    thirty_two_bits,
    signed_bytes,
    colour,
    many_frames,
    cut_pixels,
    too_many_pixels,
    no_pixels,
    wrong_sizes,
)
"""What the scan leaves to pydicom."""


@pytest.mark.filterwarnings("ignore:The pixel data is .* excess padding:UserWarning")
@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("change", [*USUAL, *UNUSUAL])
def test_whatever_the_series_is_what_comes_of_it_is_what_pydicom_reads(
    change: Callable[[list[Dataset]], None], syntax: pydicom.uid.UID, tmp_path: Path
) -> None:
    images = a_series()
    change(images)
    in_syntax(images, syntax)
    write_files(images, tmp_path)
    loaded = load(tmp_path)
    assert all(isinstance(image, ScannedImage) for image in loaded) == (change in USUAL)
    assert_same(comes_of(loaded), comes_of(as_pydicom(tmp_path)))


def encode(images: Sequence[Dataset], syntax: pydicom.uid.UID, folder: Path) -> None:
    for image in images:
        if syntax == ExplicitVRBigEndian:
            image.PixelData = image.pixel_array.byteswap().tobytes()
            image["PixelData"].VR = "OW"
        elif syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
            image.compress(syntax, generate_instance_uid=False)
        image.file_meta.TransferSyntaxUID = syntax
    for index, image in enumerate(images):
        pydicom.dcmwrite(folder / f"{index}.dcm", image, enforce_file_format=True)


@pytest.mark.filterwarnings("ignore:The number of bytes of compressed pixel data:UserWarning")
@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless])
def test_other_encodings_are_read_as_pydicom_reads_them(syntax: pydicom.uid.UID, tmp_path: Path) -> None:
    expected = build_volume(a_series())
    encode(a_series(), syntax, tmp_path)
    loaded = load(tmp_path)
    assert not any(isinstance(image, ScannedImage) for image in loaded)
    assert_same(build_volume(loaded), expected)
    assert build_volume(loaded).volume.array.dtype == np.int16


def test_an_image_says_what_it_says_when_it_is_parsed(tmp_path: Path) -> None:
    images = a_series()
    for image in images:
        burden(image, is_undefined=True)
        image.Manufacturer = image.SliceThickness = image.AcquisitionDate = image.InstanceNumber = image.StudyID = ""
        image.WindowCenter, image.PatientWeight, image.PatientName = ["40", "50"], "70", "Müller^Jürg"
    write_files(images, tmp_path)
    for scanned, expected in zip(load(tmp_path), as_pydicom(tmp_path), strict=True):
        assert_says_the_same(scanned, expected)


def assert_says_the_same(scanned: Dataset, expected: Dataset) -> None:
    keywords = [element.keyword for element in expected if element.keyword]
    for keyword in [*keywords, "NumberOfFrames", "TriggerTime", "PerFrameFunctionalGroupsSequence"]:
        fresh = copy.copy(scanned)
        assert (keyword in fresh) == (keyword in expected)
        assert fresh.get(keyword) == expected.get(keyword)
        assert type(fresh.get(keyword)) is type(expected.get(keyword))
        assert fresh.get(keyword, 5) == expected.get(keyword, 5)
    assert isinstance(scanned, ScannedImage)
    assert not hasattr(copy.copy(scanned), "NoSuchThing")
    assert copy.deepcopy(copy.copy(scanned)) == expected
    changed = copy.copy(scanned)
    changed.PatientID = "changed"
    assert changed.PatientID == "changed"
    assert type(changed) is FileDataset
    assert scanned == expected
    assert scanned.file_meta == expected.file_meta
    assert scanned.original_encoding == expected.original_encoding
    assert type(scanned) is FileDataset


def elements_of(image: Dataset) -> list[bytes]:
    """Each element of an image as it stands in a file."""
    found = []
    for tag in image.keys():  # noqa: SIM118  # a Dataset gives its elements
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, Dataset({tag: image.get_item(tag)}))
        found.append(buffer.getvalue())
    return found


@pytest.mark.parametrize("tag", [b"\xe1\x7f\x10\x10", b"\xfe\xff\x0d\xe0"])
def test_what_stands_where_pixels_should_hides_nothing(tag: bytes, tmp_path: Path) -> None:
    """pydicom goes on behind it, and what it finds there is what the image says."""
    (image,) = a_series()[:1]
    (path,) = write_files([image], tmp_path)
    whole = path.read_bytes()
    *header, pixels = elements_of(pydicom.dcmread(path))
    series = pydicom.Dataset()
    series.SeriesInstanceUID, series.ImagePositionPatient = "1.2.3", [7, 8, 9]
    strange = tag + b"UL\x04\0\0\0\0\0"
    begin = whole.index(header[0], 132)
    path.write_bytes(whole[:begin] + b"".join([*header, strange, *elements_of(series), pixels]))
    expected = pydicom.dcmread(path, stop_before_pixels=True)
    header_found = header_in(path)
    assert header_found is not None
    assert header_found == expected


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's
@pytest.mark.parametrize("charset", ["GB1\x00", "UTF-16", "ISO_IR 999"])
def test_character_sets_that_are_none_are_left_to_pydicom(charset: str, tmp_path: Path) -> None:
    (image,) = a_series()[:1]
    image.SpecificCharacterSet = "ISO_IR 192"
    (path,) = write_files([image], tmp_path)
    whole = path.read_bytes()
    assert isinstance(header_in(path), ScannedImage)
    path.write_bytes(whole.replace(b"ISO_IR 192", charset.encode().ljust(10)))
    try:
        expected = pydicom.dcmread(path)
    except ValueError:
        with pytest.raises(NotDicom):
            header_in(path)
        return
    found = header_in(path)
    assert found is not None
    assert not isinstance(found, ScannedImage)
    assert found.get("StudyDescription") == expected.get("StudyDescription")


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "GB18030"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, at numbers that are none
def test_numbers_that_are_none_are_read_as_pydicom_reads_them(charset: str, tmp_path: Path) -> None:
    (image,) = a_series()[:1]
    image.SpecificCharacterSet, image.SliceThickness = charset, "5.000000"
    (path,) = write_files([image], tmp_path)
    path.write_bytes(path.read_bytes().replace(b"5.000000", b"5.\xd6\xd60000"))
    (loaded,) = load(tmp_path)
    assert loaded.get("SliceThickness") == pydicom.dcmread(path).get("SliceThickness")


@pytest.mark.parametrize("found", [b"\x28\0\x10\0US\x03\0\x07\0\0", b"\x28\0\x10\0UT\0\0\x02\0\0\0\x07\0", b""])
def test_images_of_no_size_are_refused(found: bytes, tmp_path: Path) -> None:
    for path in write_files(a_series(), tmp_path):
        path.write_bytes(path.read_bytes().replace(b"\x28\0\x10\0US\x02\0\x07\0", found))
    with pytest.raises(NotDicom, match="expected Rows and Columns"):
        build_volume(load(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, at a UID of another type
def test_identifiers_of_another_type_are_refused(tmp_path: Path) -> None:
    for path in write_files(a_series(), tmp_path):
        path.write_bytes(path.read_bytes().replace(b"\x20\0\x0d\0UI", b"\x20\0\x0d\0FD"))
    with pytest.raises(NotDicom, match="BytesLengthException"):
        load(tmp_path)


def test_values_that_cannot_be_read_are_none() -> None:
    plane = Plane(image=a_series()[0])
    plane.image[0x00180050] = raw_element(0x00180050, "US", b"abc", 0, is_implicit=False)
    assert plane.get("SliceThickness") is None


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "FrameOfReferenceUID"])
def test_several_values_where_one_is_to_be_are_no_internal_error(keyword: str) -> None:
    images = a_series()
    for image in images:
        value = image.get(keyword)
        setattr(image, keyword, [value, value])
    with contextlib.suppress(CoreadError):
        build_volume(images)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, at values that are cut
def test_a_file_that_is_cut_anywhere_is_refused_or_read_as_pydicom_reads_it(tmp_path: Path) -> None:
    (folder,) = write_files(a_series()[:1], tmp_path / "whole")
    whole = folder.read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    for end in range(132, len(whole), 7):
        (cut / "0001.dcm").write_bytes(whole[:end])
        try:
            expected = pydicom.dcmread(cut / "0001.dcm")
            assert all(expected.get(each) for each in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
        except Exception:  # noqa: BLE001  # pydicom has no base class of its errors
            with pytest.raises(NotDicom):
                load(cut)
            continue
        (loaded,) = load(cut)
        assert type(loaded) is FileDataset
        assert loaded.keys() == expected.keys()


def test_a_file_that_changed_since_the_folder_was_looked_through_is_read_as_it_is_now(tmp_path: Path) -> None:
    images = a_series()
    paths = write_files(images, tmp_path)
    (study,) = studies_in_folder(tmp_path)
    for image, path in zip(images, paths, strict=True):
        image.RescaleIntercept = "-7"
        image.save_as(path, enforce_file_format=True)
    assert_same(build_volume(study.series[0].load()), build_volume(as_pydicom(tmp_path)))
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    with pytest.raises(NotDicom, match=str(images[2].SOPInstanceUID)):
        build_volume(study.series[0].load())
    paths[2].write_bytes(b"nothing")
    with pytest.raises(InputError):
        build_volume(study.series[0].load())


def test_a_listing_of_files_is_no_image(tmp_path: Path) -> None:
    write_files(a_series(), tmp_path)
    listing = a_series()[0].file_meta
    listing.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    buffer = DicomBytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, listing)
    (tmp_path / "DICOMDIR").write_bytes(buffer.getvalue())
    assert len(load(tmp_path)) == SHAPE[0]


def test_series_of_a_wrong_order_are_put_right(tmp_path: Path) -> None:
    """The order that was seen when the folder was looked through is a guess."""
    images = a_series()
    paths = write_files(images, tmp_path)
    (study,) = studies_in_folder(tmp_path)
    places = [image.ImagePositionPatient for image in images]
    for image, path, place in zip(images, paths, reversed(places), strict=True):
        image.ImagePositionPatient = place
        image.save_as(path, enforce_file_format=True)
    assert_same(build_volume(study.series[0].load()), build_volume(as_pydicom(tmp_path)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, at broken values
def test_real_files_say_what_pydicom_says(real_data: Path) -> None:
    files = [path for path in sorted((real_data / "zoo").rglob("*")) if path.is_file()]
    scanned = {path: image for path in files if isinstance(image := _looked_at(path), ScannedImage)}
    assert len(scanned) > 50
    for path, image in scanned.items():
        expected = pydicom.dcmread(path, stop_before_pixels=True)
        for element in (each for each in expected if each.keyword):
            assert image.header.element(element.tag) is not None
            value = image.header.value(element.tag)
            assert value is UNTOLD or (type(value), value) == (type(element.value), element.value)
        assert image == expected


def _looked_at(path: Path) -> Dataset | None:
    try:
        return header_in(path)
    except NotDicom:
        return None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_series_form_what_they_form_when_pydicom_reads_them(real_data: Path) -> None:
    for folder in sorted({path.parent for path in (real_data / "zoo").rglob("*.dcm")}):
        try:
            studies = studies_in_folder(folder)
        except NotDicom:
            continue
        for series in (series for study in studies for series in study.series):
            uid = series.series_instance_uid
            plain = [image for image in map(pydicom.dcmread, study_files(studies)) if image.SeriesInstanceUID == uid]
            plain.sort(key=lambda image: str(image.SOPInstanceUID))
            loaded = series.load()
            assert [image.SOPInstanceUID for image in loaded] == [image.SOPInstanceUID for image in plain]
            assert_same(comes_of(loaded), comes_of(plain))


def study_files(studies: Sequence[Study]) -> list[Path]:
    return [path for study in studies for path in study.files]

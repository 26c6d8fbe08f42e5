import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from coread.dicom_sr.proof import CENTROID_TOLERANCE_MM
from coread.errors import GeometryError, NotDicom
from coread.workers.volume import GRID_TOLERANCE_MM, build_volume
from tests.support import PLANES, enhanced, images_of, volume_in_plane


@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_is_where_the_images_say(plane: str) -> None:
    volume = volume_in_plane(plane)
    built = build_volume(images_of(volume)).volume
    # Slices may come out in reverse order (they are sorted along the normal), so compare by place in the patient.
    for index in [(0, 0, 0), (5, 0, 0), (0, 19, 0), (0, 0, 13), (2, 7, 11)]:
        place = volume.map_indices_to_reference(np.array([index]))
        found = (np.linalg.inv(built.affine) @ [*place[0], 1])[:3]
        assert np.allclose(found, np.round(found), atol=1e-3)
        assert built.array[tuple(np.round(found).astype(int))] == volume.array[index]
    assert built.spacing == pytest.approx(volume.spacing, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    plane=st.sampled_from(sorted(PLANES)),
    spacing=st.tuples(st.floats(0.4, 10), st.floats(0.2, 3), st.floats(0.2, 3)),
    seed=st.integers(0, 2**32),
)
def test_the_order_of_the_images_does_not_matter(plane: str, spacing: tuple[float, float, float], seed: int) -> None:
    images = images_of(volume_in_plane(plane, spacing=spacing))
    shuffled = random.Random(seed).sample(images, len(images))
    one, other = build_volume(images), build_volume(shuffled)
    assert np.array_equal(one.volume.array, other.volume.array)
    assert np.allclose(one.volume.affine, other.volume.affine)
    assert [image.SOPInstanceUID for image in one.images] == [image.SOPInstanceUID for image in other.images]


def test_the_rescaled_value_of_each_slice_is_taken() -> None:
    images = images_of(volume_in_plane("axial"))
    for index, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = str(index + 1), "-1000"
    array = build_volume(images).volume.array
    expected = volume_in_plane("axial").array
    assert np.array_equal(array, expected * np.arange(1, 7)[:, None, None] - 1000)


def leave_out(images: list[Dataset]) -> None:
    del images[2]


def repeat_position(images: list[Dataset]) -> None:
    images[3].ImagePositionPatient = images[2].ImagePositionPatient


def turn_one(images: list[Dataset]) -> None:
    images[1].ImageOrientationPatient = [0, 1, 0, 0, 0, 1]


def move_one(images: list[Dataset]) -> None:
    x, y, z = images[3].ImagePositionPatient
    images[3].ImagePositionPatient = [x, float(y) + 2.0, z]


def lean(images: list[Dataset]) -> None:
    for index, image in enumerate(images):
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [x, float(y) + 6.0 * index, z]


def other_spacing(images: list[Dataset]) -> None:
    images[1].PixelSpacing = [1.0, 1.0]


def other_frame(images: list[Dataset]) -> None:
    images[1].FrameOfReferenceUID = "1.2.3"


def no_position(images: list[Dataset]) -> None:
    del images[4].ImagePositionPatient


def many_frames(images: list[Dataset]) -> None:
    images[0].NumberOfFrames = 8


def colour(images: list[Dataset]) -> None:
    images[0].PhotometricInterpretation, images[0].SamplesPerPixel = "RGB", 3


def same_name(images: list[Dataset]) -> None:
    images[3].SOPInstanceUID = images[2].SOPInstanceUID


def one_image(images: list[Dataset]) -> None:
    del images[1:]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (leave_out, "expected slices 5.00 mm apart, found 10.00 mm between slices 2 and 3 of 5"),
        (repeat_position, "expected one image per position, found 1"),
        (turn_one, "expected slices of one orientation"),
        (move_one, "shifted sideways by up to 2.00 mm"),
        (lean, "stacked at less than 45°"),
        (other_spacing, "expected slices of one size and pixel spacing"),
        (other_frame, "expected one frame of reference"),
        (no_position, "expected ImagePositionPatient of 3 numbers in every image, found none"),
        (many_frames, "expected ImagePositionPatient of 3 numbers in every image, found none"),
        (colour, "expected grey images"),
        (one_image, "expected two or more slices, found 1"),
        (same_name, "expected a SOPInstanceUID of its own"),
    ],
)
def test_what_is_no_regular_volume_is_refused_with_the_reason(harm: object, said: str) -> None:
    images = images_of(volume_in_plane("axial"))
    assert callable(harm)
    harm(images)
    with pytest.raises(GeometryError) as raised:
        build_volume(images)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", ["1.5"]),
        ("PixelSpacing", ["1.5", "1.5", "1.5"]),
        ("PixelSpacing", ["0", "0"]),
        ("PixelSpacing", ["-1.5", "1.5"]),
        ("PixelSpacing", ["1,5", "1,5"]),
        ("PixelSpacing", ["1.5", ""]),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "1"]),
        ("ImageOrientationPatient", ["a", "b", "c", "d", "e", "f"]),
        ("ImagePositionPatient", ["1", "2"]),
        ("ImagePositionPatient", ["nan", "1", "2"]),
        ("ImagePositionPatient", "here"),
        ("FrameOfReferenceUID", ""),
    ],
)
def test_geometry_that_is_no_geometry_is_refused(keyword: str, value: object) -> None:
    images = images_of(volume_in_plane("axial"))
    for image in images:
        image._dict.pop(image[keyword].tag)
        image.add_new(keyword, "LO", value)  # a type that takes everything, as a careless sender does
    with pytest.raises(GeometryError, match=keyword):
        build_volume(images)


def test_an_evenly_tilted_stack_is_read_as_it_lies() -> None:
    images = images_of(volume_in_plane("axial", shape=(30, 8, 8)))
    for index, image in enumerate(images):
        x, y, z = (float(each) for each in image.ImagePositionPatient)
        image.ImagePositionPatient = [x, y + 2.0 * index, z]
    volume = build_volume(images).volume
    assert volume.tilt_degrees == pytest.approx(np.degrees(np.arctan(2.0 / 5.0)), abs=1e-4)
    assert volume.is_tilted
    assert volume.spacing == pytest.approx((5.0, 1.5, 2.25))
    assert volume.voxel_volume == pytest.approx(5.0 * 1.5 * 2.25)
    places = volume.map_indices_to_reference([(index, 0, 0) for index in range(30)])
    assert np.allclose(places, [[float(each) for each in image.ImagePositionPatient] for image in images])


def test_enhanced_multi_frame_images_are_read_frame_by_frame() -> None:
    single = images_of(volume_in_plane("oblique"))
    expected = build_volume(single)
    built = build_volume([enhanced(random.Random(1).sample(single, len(single)))])
    assert np.array_equal(built.volume.array, expected.volume.array)
    assert np.allclose(built.volume.affine, expected.volume.affine, atol=1e-6)
    assert len({plane.frame for plane in built.planes}) == 6


def test_an_image_that_says_it_has_one_frame_is_read() -> None:
    images = images_of(volume_in_plane("axial"))
    for image in images:
        image.NumberOfFrames = 1
    assert len(build_volume(images).images) == 6


def test_what_the_volume_tolerates_the_proof_accepts() -> None:
    assert GRID_TOLERANCE_MM < CENTROID_TOLERANCE_MM


def test_pixels_that_are_cut_short_are_refused_by_the_images_uid() -> None:
    images = images_of(volume_in_plane("axial"))
    images[2].PixelData = images[2].PixelData[:-100]
    with pytest.raises(NotDicom, match=str(images[2].SOPInstanceUID)):
        build_volume(images)

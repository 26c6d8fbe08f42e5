"""Key images: what is drawn of a result, and where."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.sr.coding import Code

from coread import codes
from coread.dicom_sr.encode import encode_findings
from coread.dicom_sr.heat_map import answer_in_words
from coread.findings import Classification, Findings, Mark, ScalarMap
from coread.models.prediction import Prediction
from coread.objects import ObjectKind
from coread.volume import Volume
from coread.workers import key_images as drawing
from coread.workers.key_images import key_images, masks_in
from coread.workers.pipeline import Part, Picture, Reading
from coread.workers.volume import SourceVolume, build_volume
from tests.support import identity, images_of, measured, volume_in_plane

SHAPE = (5, 60, 44)
SPACING = (5.0, 1.5, 2.25)
BOX = (slice(12, 26), slice(20, 32))
"""Rows and columns of the structure in its largest slice."""
EXACT_PIXELS = 4.0
"""Of the picture: a line is as wide as half of that, and lies within the structure."""


def source_in(plane: str = "oblique") -> SourceVolume:
    return build_volume(images_of(volume_in_plane(plane, shape=SHAPE, spacing=SPACING)))


def labels_in(source: SourceVolume) -> NDArray[np.uint8]:
    """A structure that is largest in slice 2, and a smaller one that is largest in slice 3."""
    array = np.zeros(source.volume.spatial_shape, np.uint8)
    array[1, 14:20, 22:30] = 1
    array[2][BOX] = 1
    array[3, 40:46, 4:12] = 2
    return array


def reading_of(
    source: SourceVolume, findings: Findings, *, kinds: frozenset[ObjectKind] = frozenset({ObjectKind.SEG})
) -> Reading:
    objects = encode_findings(findings, source=source.as_source, identity=identity(), kinds=kinds)
    part = Part(
        source=source, prediction=Prediction(device="cpu"), findings=findings, identity=identity(), objects=objects
    )
    return Reading(parts=(part,), objects=objects, summary={})


def segmented(source: SourceVolume, **more: Any) -> Reading:
    return reading_of(source, measured(labels_in(source), source.volume), **more)


def pixels_of(picture: Picture) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"), np.int16)


def places_of(picture: Picture, colour: tuple[int, int, int], *, above: int, below: int) -> NDArray[np.intp]:
    """(row, column) of the picture's pixels of a colour, without title and legend."""
    pixels = pixels_of(picture)
    inside = pixels[above : len(pixels) - below]
    return np.argwhere((np.abs(inside - np.array(colour)) <= 2).all(axis=-1))


@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("kind", [ObjectKind.SEG, ObjectKind.SEG_LABELMAP_RLE])
def test_the_outline_lies_where_the_mask_is(plane: str, kind: ObjectKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "SHOWN", 1.0)  # the whole slice, so that places are easily told
    source = source_in(plane)
    reading = segmented(source, kinds=frozenset({kind}))
    first = key_images(reading)[0]
    _, row_mm, column_mm = SPACING
    scale = drawing.SIDE / max(SHAPE[1] * row_mm, SHAPE[2] * column_mm)
    line = drawing.TEXT + drawing.MARGIN
    structure = reading.parts[0].findings.present[0]
    found = places_of(first, structure.colour, above=line + drawing.MARGIN, below=line + drawing.MARGIN)
    rows, columns = BOX
    expected = [
        (rows.start * row_mm * scale, rows.stop * row_mm * scale),
        (columns.start * column_mm * scale, columns.stop * column_mm * scale),
    ]
    for axis, (low, high) in enumerate(expected):
        assert found[:, axis].min() == pytest.approx(low, abs=EXACT_PIXELS)
        assert found[:, axis].max() == pytest.approx(high, abs=EXACT_PIXELS)
    middle = [(low + high) / 2 for low, high in expected]
    assert np.abs(found - middle).max(axis=1).min() > 10  # a line, not an area


def test_each_structure_is_shown_where_it_is_largest_and_the_largest_comes_first() -> None:
    captions = [picture.caption for picture in key_images(segmented(source_in()))]
    assert [caption.partition(":")[0] for caption in captions] == ["slice 3 of 5", "slice 4 of 5"]
    assert "largest extent of" in captions[0]


def test_the_slices_of_the_segmentation_are_read_where_its_frames_say_they_lie() -> None:
    source = source_in()
    reading = segmented(source)
    masks = masks_in(reading.objects[0].dataset, source.volume, {1, 3})
    assert {index: sorted(of_slice) for index, of_slice in masks.items()} == {1: [1], 3: [2]}
    assert np.array_equal(masks[3][2], labels_in(source)[3] == 2)


def test_many_structures_give_few_pictures() -> None:
    source = build_volume(images_of(volume_in_plane("axial", shape=(20, 16, 16))))
    array = np.zeros(source.volume.spatial_shape, np.uint8)
    for label in range(1, 19):
        array[label, 4:8, 4:9] = label
    findings = measured(np.where(array > 0, 1, 0).astype(np.uint8), source.volume)
    structures = tuple(
        replace(findings.structures[0], label=label, name=f"Structure {label}", voxels=20 + label)
        for label in range(1, 19)
    )
    many = replace(findings, labels=source.volume.with_array(array), structures=structures)
    pictures = key_images(reading_of(source, many))
    assert len(pictures) == drawing.MOST
    assert pictures[0].caption == "slice 19 of 20: largest extent of Structure 18"


def test_marks_are_drawn_in_their_slices_the_most_probable_first() -> None:
    source = source_in()
    box = np.array([(8.0, 10.0), (20.0, 10.0), (20.0, 22.0), (8.0, 22.0), (8.0, 10.0)])
    nodule = Code("27925004", "SCT", "Nodule")
    marks = tuple(
        Mark(
            name=f"Nodule {number}",
            type=nodule,
            anatomy=None,
            plane=plane,
            outline=outline,
            probability=certain,
            measurements=(),
        )
        for number, (plane, outline, certain) in enumerate([(1, box, 0.6), (3, box, 0.9), (3, box[:1] + 4, None)], 1)
    )
    findings = Findings(marks=marks, grid=source.volume)
    pictures = key_images(reading_of(source, findings, kinds=frozenset({ObjectKind.SR_KEY_FINDINGS})))
    assert [picture.caption for picture in pictures] == ["slice 4 of 5: Nodule 2, Nodule 3", "slice 2 of 5: Nodule 1"]
    for picture in pictures:
        assert len(places_of(picture, drawing.MARK_COLOUR, above=40, below=60)) > 100


def test_of_a_saliency_map_the_highest_slices_are_shown() -> None:
    source = source_in()
    values = np.zeros(SHAPE, np.float32)
    values[1, 10:20, 10:20], values[2, 10:20, 10:20], values[4, 30:40, 10:20] = 0.6, 0.7, 1.0
    answer = Classification(name="Oedema", finding=Code("1", "99T", "Oedema"), value=codes.PRESENT, probability=0.8)
    scalar_map = ScalarMap(
        name="Saliency for Oedema",
        volume=source.volume.with_array(values),
        quantity=codes.SALIENCY,
        unit=codes.NO_UNITS,
        anatomy=codes.ANATOMICAL_STRUCTURE,
        explains=answer,
    )
    part = Part(
        source=source, prediction=Prediction(device="cpu"), findings=Findings(maps=(scalar_map,)), identity=identity()
    )
    pictures = key_images(Reading(parts=(part,), objects=(), summary={}))
    assert [picture.caption.partition(":")[0] for picture in pictures] == ["slice 5 of 5", "slice 3 of 5"]
    assert "“Oedema”" in pictures[0].caption


def test_a_class_that_is_named_by_what_is_absent_is_told_as_question_and_answer() -> None:
    pneumonia = Code("233604007", "SCT", "Pneumonia")
    answer = Classification(name="No pneumonia", finding=pneumonia, value=codes.ABSENT, probability=0.98)
    assert answer_in_words(answer) == "Pneumonia: Absent, probability 0.98"


def test_a_result_without_a_place_has_no_pictures() -> None:
    source = source_in()
    part = Part(source=source, prediction=Prediction(device="cpu"), findings=Findings(), identity=identity())
    assert key_images(Reading(parts=(part,), objects=(), summary={})) == []


def test_a_line_inside_a_ring_leaves_it_on_no_side() -> None:
    ring = np.array([(0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0), (0.0, 0.0)])
    for each in (ring, ring[::-1]):
        moved = each + drawing._inward(each)
        assert ((moved > 0) & (moved < 9)).all()


def test_a_name_that_is_too_long_is_shortened() -> None:
    picture = drawing._lines([("An endless name " * 40, (255, 0, 0))], width=200)
    assert picture.width == 200
    assert (np.asarray(picture)[:, -drawing.MARGIN :] == 0).all()


def test_directions_are_the_patients() -> None:
    volume: Volume = volume_in_plane("sagittal")
    _, down, right = volume.unit_vectors()
    assert (drawing._letter(down), drawing._letter(right)) == ("F", "P")

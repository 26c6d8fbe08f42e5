"""Which image of a cine is of which phase, and which series are parts of one cine."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset

from coread.errors import GeometryError, InputError, NoSuitableSeries
from coread.models.manifest import Manifest, Phases
from coread.workers.phases import Cine, build_stack_or_cine, named_phase
from coread.workers.series import choose
from coread.workers.study import Study
from coread.workers.volume import SourceVolume, build_volume
from tests.cine import (
    CINE_MANIFEST,
    HEIGHTS,
    PHASES,
    beating,
    cine,
    flat,
    in_one_file,
    one_series_for_each_phase,
    one_series_for_each_slice,
    phase_of,
    study_of,
)
from tests.support import MANIFEST

WANTED = Phases.model_validate(PHASES)
MANY = Manifest.model_validate(CINE_MANIFEST)
FEW = (10, 8, 5, 7)


def build(images: Sequence[Dataset]) -> SourceVolume:
    return build_stack_or_cine(images, values="modality", wanted=WANTED)


def built(images: Sequence[Dataset]) -> Cine:
    found = build(images)
    assert isinstance(found, Cine)
    return found


def heights(found: Cine) -> list[int]:
    """How high the cavity is in each phase, by its pixels."""
    return [int((found.stack(number).volume.array > 1000).sum()) // 24 for number in range(len(found.phases))]


# Telling phases apart


def by_position(phases: list[list[Dataset]]) -> None:
    for number, phase in enumerate(phases, start=1):
        for image in phase:
            del image.TriggerTime
            image.TemporalPositionIdentifier = number


def by_number(phases: list[list[Dataset]], *, slice_by_slice: bool = True) -> None:
    for number, phase in enumerate(phases):
        for index, image in enumerate(phase):
            del image.TriggerTime
            image.CardiacNumberOfImages = len(phases)
            if not slice_by_slice:
                image.InstanceNumber = number * len(phase) + index + 1


TELLERS: dict[str, tuple[str, Callable[[list[list[Dataset]]], None]]] = {
    "times": ("TriggerTime", lambda _: None),
    "positions in time": ("TemporalPositionIdentifier", by_position),
    "numbers, slice by slice": ("InstanceNumber", by_number),
    "numbers, phase by phase": ("InstanceNumber", lambda phases: by_number(phases, slice_by_slice=False)),
}


@settings(max_examples=30, deadline=None)
@given(
    teller=st.sampled_from(sorted(TELLERS)),
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_order_of_the_images_does_not_matter(teller: str, shape: list[int], seed: int) -> None:
    keyword, change = TELLERS[teller]
    phases = cine(shape)
    change(phases)
    found = built(random.Random(seed).sample(flat(phases), len(shape) * 6))
    assert found.told_by == keyword
    assert heights(found) == shape
    uids = [{str(plane.image.SOPInstanceUID) for plane in phase.planes} for phase in found.phases]
    assert uids == [{str(image.SOPInstanceUID) for image in phase} for phase in phases]


@settings(max_examples=20, deadline=None)
@given(rates=st.lists(st.floats(0.7, 1.4), min_size=6, max_size=6), delays_ms=st.lists(st.floats(0, 60), min_size=6))
def test_each_slice_may_have_a_heart_rate_and_a_delay_of_its_own(rates: list[float], delays_ms: list[float]) -> None:
    phases = cine(HEIGHTS)
    for number, phase in enumerate(phases):
        for image, rate, delay_ms in zip(phase, rates, delays_ms, strict=False):
            image.TriggerTime = f"{delay_ms + 70 * number / rate:.2f}"
    assert heights(built(flat(phases))) == list(HEIGHTS)


@settings(max_examples=15, deadline=None)
@given(
    keyword=st.sampled_from(
        ["NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase", "TemporalPositionIndex"]
    ),
    seed=st.integers(0, 1000),
)
def test_frames_of_one_file_are_told_apart(keyword: str, seed: int) -> None:
    images = in_one_file([random.Random(seed).sample(phase, len(phase)) for phase in cine(FEW)], keyword)
    found = built(images)
    assert found.told_by == keyword
    assert heights(found) == list(FEW)


def test_the_time_of_a_phase_is_the_median_of_its_slices() -> None:
    phases = cine(FEW)
    for phase in phases:
        phase[0].TriggerTime = float(phase[0].TriggerTime) + 40
    times = [float(np.median([float(image.TriggerTime) for image in phase])) for phase in phases]
    assert [phase.time_ms for phase in built(flat(phases)).phases] == times


def test_one_phase_is_the_volume_that_it_always_was() -> None:
    (images,) = cine(FEW[:1])
    one, other = build(images), build_volume(images)
    assert type(one) is SourceVolume
    assert np.array_equal(one.volume.array, other.volume.array)
    assert np.array_equal(one.volume.affine, other.volume.affine)


@pytest.mark.parametrize(
    ("description", "phase"),
    [
        ("SAX_ED", "end-diastole"),
        ("cine sax ed 10mm", "end-diastole"),
        ("SAX end-diastolic", "end-diastole"),
        ("SAX_ES", "end-systole"),
        ("Kurzachse Endsystole", "end-systole"),
        ("SAX MEDIAL", None),
        ("SAX ED ES", None),
        ("SAX TESLA", None),
        ("", None),
    ],
)
def test_words_of_a_description_name_a_phase(description: str, phase: str | None) -> None:
    found = named_phase(description, WANTED)
    assert (found.name if found else None) == phase


# What is not whole


def without_one(phases: list[list[Dataset]]) -> None:
    del phases[2][3]


def without_one_by_index(phases: list[list[Dataset]]) -> None:
    by_position(phases)
    del phases[2][3]


def twice(phases: list[list[Dataset]]) -> None:
    again = phase_of(beating(8), number=1, phases=4, name="again")[2]
    again.FrameOfReferenceUID, again.SeriesInstanceUID = (
        phases[0][0].FrameOfReferenceUID,
        phases[0][0].SeriesInstanceUID,
    )
    phases[1].append(again)


def twice_by_index(phases: list[list[Dataset]]) -> None:
    twice(phases)
    by_position(phases)


def moved(phases: list[list[Dataset]]) -> None:
    for image in phases[3]:
        along_row = np.array(image.ImageOrientationPatient, float)[:3]
        image.ImagePositionPatient = [f"{x:.6f}" for x in np.array(image.ImagePositionPatient, float) + 2 * along_row]


def other_pixels(phases: list[list[Dataset]]) -> None:
    for image in phases[3]:
        image.PixelSpacing = ["1.5", "1.5"]


def two_echoes(phases: list[list[Dataset]]) -> None:
    for image in phases[1]:
        image.EchoTime = "4.6"


def no_slice_in_any_phase(phases: list[list[Dataset]]) -> None:
    for phase in phases:
        del phase[2]


def untold(phases: list[list[Dataset]]) -> None:
    for image in flat(phases):
        del image.TriggerTime


def told_wrong(phases: list[list[Dataset]]) -> None:
    by_number(phases)
    for image in flat(phases):
        image.CardiacNumberOfImages = 5


def numbered_wrong(phases: list[list[Dataset]]) -> None:
    by_number(phases)
    phases[0][0].InstanceNumber = 999


NOT_WHOLE: dict[str, tuple[Callable[[list[list[Dataset]]], None], str]] = {
    "an image is missing": (without_one, r"expected 4 phases in each place.*TriggerTime, found 3 in slice 3 of 6 \(Im"),
    "an image of an index is missing": (
        without_one_by_index,
        r"found 0 of TemporalPositionIdentifier 3 in slice 3 of 6 \(ImagePositionPatient",
    ),
    "an image is there twice": (twice, r"found two of TriggerTime 7\d(\.\d)? \(phase 2\) in slice 4 of 6"),
    "an index is there twice": (twice_by_index, "found 2 of TemporalPositionIdentifier 2 in slice 4 of 6"),
    "a phase is moved": (moved, "found slice . of phase 4 2.0 mm away from that of phase 1"),
    "a phase has other pixels": (other_pixels, "expected slices of one size and pixel spacing"),
    "two echoes": (two_echoes, "expected one EchoTime in all phases"),
    "a slice is missing in all phases": (no_slice_in_any_phase, "a slice is missing"),
    "nothing tells them apart": (untold, "expected one image per position, found 18 positions that are taken twice"),
    "another number is stated": (told_wrong, "expected one image per position"),
    "numbers do not grow evenly": (numbered_wrong, "expected one image per position"),
}


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_phases_that_are_not_whole_are_refused(case: str) -> None:
    change, reason = NOT_WHOLE[case]
    phases = cine(FEW)
    change(phases)
    with pytest.raises(GeometryError, match=reason):
        build(flat(phases))


def test_several_phases_of_one_slice_are_no_stack() -> None:
    with pytest.raises(GeometryError, match="expected two or more slices, found several images in one place"):
        build([phase[0] for phase in cine(FEW)])


# Series that are parts of one cine


def chosen(images: Sequence[Dataset], *, seed: int = 0) -> tuple[SourceVolume, dict[str, str]]:
    study = study_of(images)
    series = random.Random(seed).sample(list(study.series), len(study.series))
    choice = choose(
        Study(study_instance_uid="1.2", sop_instance_uids=frozenset(), series=series),
        MANY,
    )
    return choice.sources[0], dict(choice.reasons)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (lambda: one_series_for_each_slice(cine(FEW)), "slice"),
        (lambda: one_series_for_each_phase(filled="SAX ED", emptied="SAX ES"), "phase"),
        (lambda: one_series_for_each_phase(filled="SAX", emptied="SAX"), "phase"),
    ],
    ids=["slices", "named phases", "phases by time"],
)
def test_series_of_one_cine_are_read_together_whatever_their_order(
    images: Callable[[], list[Dataset]], kind: str, seed: int
) -> None:
    source, reasons = chosen(images(), seed=seed)
    assert isinstance(source, Cine)
    taken = [reason for reason in reasons.values() if reason.startswith("taken")]
    together = [reason for reason in reasons.values() if f"each is a {kind} of one cine" in reason]
    assert len(taken) == 1
    assert len(together) == len(reasons) - 1
    assert reasons == chosen(images(), seed=seed + 10)[1]


def test_a_slices_series_that_lacks_an_image_is_refused_with_its_place() -> None:
    images = one_series_for_each_slice(cine(FEW))
    lost = next(image for image in images if image.SeriesNumber == 12)
    with pytest.raises(GeometryError, match=r"expected 4 phases in each place.* found 3 in slice 4 of 6"):
        chosen([image for image in images if image is not lost])


def test_a_slice_that_was_taken_again_is_refused_with_its_place() -> None:
    images = one_series_for_each_slice(cine(FEW))
    again = one_series_for_each_slice(cine(FEW, name="again"))
    for image in again:
        image.StudyInstanceUID, image.FrameOfReferenceUID = images[0].StudyInstanceUID, images[0].FrameOfReferenceUID
        image.SeriesInstanceUID += ".1"
        image.TriggerTime = float(image.TriggerTime) + 3.3
    repeated = [image for image in again if image.SeriesNumber == 12]
    with pytest.raises(GeometryError, match=r"expected 4 phases in each place.* found 8 in slice 4 of 6"):
        chosen([*images, *repeated])


@pytest.mark.parametrize("words", [("SAX ED", "SAX ES"), ("SAX", "SAX")])
def test_a_phases_series_that_lacks_a_slice_is_refused_with_its_place(words: tuple[str, str]) -> None:
    images = one_series_for_each_phase(filled=words[0], emptied=words[1])
    late = [image for image in images if float(image.TriggerTime) > 100]
    lost = max(late, key=lambda image: int(image.InstanceNumber))
    with pytest.raises(GeometryError, match=r"in each place.* found [01] in slice 1 of 6"):
        chosen([image for image in images if image is not lost])


def test_stacks_at_the_same_time_are_not_phases() -> None:
    one, other = phase_of(beating(9), number=0, phases=2), phase_of(beating(8), number=1, phases=2)
    for image in other:
        image.SeriesInstanceUID += ".1"
    source, reasons = chosen([*one, *other])
    assert not isinstance(source, Cine)
    assert sorted(reason.split(":")[0] for reason in reasons.values()) == [
        "it fits, but less well",
        "taken as any MR series",
    ]


def test_a_whole_cine_beside_single_phases_is_read() -> None:
    phases = one_series_for_each_phase(filled="SAX ED", emptied="SAX ES")
    whole = flat(cine(FEW, name="whole"))
    for image in whole:
        image.FrameOfReferenceUID = phases[0].FrameOfReferenceUID
    source, reasons = chosen([*phases, *whole])
    assert isinstance(source, Cine)
    assert heights(source) == list(FEW)
    assert sorted(reasons.values())[0] == "it fits, but less well"


def test_two_whole_cines_are_not_put_together() -> None:
    again = flat(cine(FEW[:3], name="again"))
    first = flat(cine(FEW))
    for image in again:
        image.FrameOfReferenceUID = first[0].FrameOfReferenceUID
    source, _ = chosen([*first, *again])
    assert isinstance(source, Cine)
    assert heights(source) == list(FEW)


def test_series_in_other_frames_of_reference_are_not_put_together() -> None:
    images = one_series_for_each_phase(filled="SAX ED", emptied="SAX ES")
    for image in images:
        if image.SeriesDescription == "SAX ES":
            image.FrameOfReferenceUID += ".1"
    assert not isinstance(chosen(images)[0], Cine)


def test_a_slices_series_that_cannot_be_decoded_is_not_left_out() -> None:
    images = one_series_for_each_slice(cine(FEW))
    for image in images:
        if image.SeriesNumber == 15:
            del image.ImagePositionPatient
    with pytest.raises(InputError, match="expected ImagePositionPatient of 3 numbers"):
        chosen(images)


def test_a_model_that_knows_no_phases_refuses_a_cine_as_before() -> None:
    with pytest.raises((GeometryError, NoSuitableSeries), match="expected one image per position"):
        choose(study_of(flat(cine(FEW))), Manifest.model_validate(MANIFEST))


# In the manifest

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "of several series": ({"series": [CINE_MANIFEST["series"], {**MANIFEST["series"]}]}, "only of one series"),
    "of a projection": ({"series": {**CINE_MANIFEST["series"], "projection": True}}, "only of one series"),
    "of no such label": ({"series": {**MANIFEST["series"], "phases": {**PHASES, "label": 3}}}, "speak of label 3"),
    "of boxes": ({"task": "detection"}, "need a segmentation"),
    "under a long title": ({"title": "T" * 40}, "a title of up to 46 characters with a phase's name"),
    "of one name": (
        {"series": {**MANIFEST["series"], "phases": {**PHASES, "emptied": PHASES["filled"]}}},
        "names and words of its own",
    ),
    "that would be no file name": (
        {
            "series": {
                **MANIFEST["series"],
                "phases": {**PHASES, "emptied": {**PHASES["emptied"], "name": "../systole"}},
            }
        },
        "should match pattern",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_phases_that_make_no_sense_are_refused(case: str) -> None:
    change, reason = WRONG[case]
    with pytest.raises(ValidationError, match=reason):
        Manifest.model_validate({**CINE_MANIFEST, **change})

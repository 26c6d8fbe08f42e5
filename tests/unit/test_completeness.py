"""What must hold of the decision whether a study is complete, whatever has arrived."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coread.plugin.completeness import (
    Association,
    Complete,
    SeriesEvidence,
    Stalled,
    StudyEvidence,
    WaitUntil,
    decide,
)
from coread.plugin.stacks import Shape, shape_of
from coread.settings import IntakeSettings
from tests.support import NOW, PLANES

SETTINGS = IntakeSettings(settle_s=1.5, quiet_s=60, stalled_s=600)
SETTLE, FALLBACK = timedelta(seconds=1.5), timedelta(seconds=60)
LONG = timedelta(days=1)
MOMENT = timedelta(milliseconds=1)

counts = st.integers(1, 400)
quiet_times = st.timedeltas(timedelta(0), LONG)
uids = [f"1.2.{number}" for number in range(4)]


@st.composite
def studies(draw: st.DrawFn) -> StudyEvidence:
    series = [
        SeriesEvidence(
            series_instance_uid=uid,
            here=draw(counts),
            shape=draw(st.sampled_from(Shape)),
            stated=draw(st.none() | counts),
            expected=draw(st.none() | counts),
        )
        for uid in draw(st.lists(st.sampled_from(uids), unique=True, max_size=len(uids)))
    ]
    return StudyEvidence(
        series=series,
        last_arrival_at=NOW,
        longest_pause=draw(st.timedeltas(timedelta(0), timedelta(hours=1))),
        last_series=draw(st.none() | st.sampled_from([one.series_instance_uid for one in series] or uids)),
        association=draw(st.sampled_from(Association)),
        stated_at=draw(st.none() | st.just(NOW - SETTLE) | st.just(NOW + SETTLE)),
        asking=draw(st.booleans()),
        not_begun=draw(st.integers(0, 2)),
    )


def stack(shape: Shape = Shape.EVEN, **more: object) -> StudyEvidence:
    """A study of one series, whose association is over."""
    series = SeriesEvidence(series_instance_uid="1.2.3", here=40, shape=shape)
    study = StudyEvidence(
        series=[series],
        last_arrival_at=NOW,
        longest_pause=timedelta(0),
        last_series="1.2.3",
        association=Association.CLOSED,
    )
    return replace(study, **more)  # type: ignore[arg-type]


def after(study: StudyEvidence, quiet: timedelta) -> Complete | WaitUntil | Stalled:
    return decide(study, now=study.last_arrival_at + quiet, settings=SETTINGS)


# What always holds ---------------------------------------------------------------------------------------------------


@given(studies(), st.timedeltas(timedelta(0), SETTLE - MOMENT))
def test_no_study_is_complete_before_it_has_settled(study: StudyEvidence, quiet: timedelta) -> None:
    assert isinstance(after(study, quiet), WaitUntil)


@given(studies(), quiet_times, quiet_times)
def test_more_quiet_never_takes_back_that_a_study_is_complete_or_stalled(
    study: StudyEvidence, quiet: timedelta, more: timedelta
) -> None:
    earlier = after(study, quiet)
    if not isinstance(earlier, WaitUntil):
        assert after(study, quiet + more) == earlier


@given(studies(), st.randoms(use_true_random=False), quiet_times)
def test_the_order_of_the_series_does_not_matter(study: StudyEvidence, random: object, quiet: timedelta) -> None:
    shuffled = list(study.series)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert after(replace(study, series=shuffled), quiet) == after(study, quiet)


@given(studies())
def test_every_study_is_complete_or_stalled_in_the_end(study: StudyEvidence) -> None:
    assert not isinstance(after(study, LONG), WaitUntil)


@given(studies(), quiet_times)
def test_a_study_that_waits_is_decided_or_waits_for_something_else_when_its_time_has_come(
    study: StudyEvidence, quiet: timedelta
) -> None:
    decision = after(study, quiet)
    if isinstance(decision, WaitUntil):
        assert decision.at > study.last_arrival_at + quiet
        assert decision.because
        later = decide(study, now=decision.at, settings=SETTINGS)
        assert not isinstance(later, WaitUntil) or later.at > decision.at


@given(studies())
def test_nothing_is_read_of_which_the_pacs_has_more(study: StudyEvidence) -> None:
    assume(any(series.stated is not None and series.stated > series.here for series in study.series))
    assert isinstance(after(study, LONG), Stalled)


@given(studies(), quiet_times)
def test_a_study_is_stalled_only_because_the_pacs_has_more(study: StudyEvidence, quiet: timedelta) -> None:
    if isinstance(after(study, quiet), Stalled):
        assert any(series.stated is not None and series.stated > series.here for series in study.series)


@given(studies(), st.timedeltas(timedelta(0), FALLBACK - MOMENT))
def test_an_open_association_without_counts_is_waited_for_up_to_the_fallback(
    study: StudyEvidence, quiet: timedelta
) -> None:
    unstated = [replace(series, stated=None) for series in study.series]
    for association in (Association.OPEN, Association.UNKNOWN):
        assert isinstance(after(replace(study, series=unstated, association=association), quiet), WaitUntil)


@given(studies(), quiet_times)
def test_a_longer_pause_never_makes_a_study_complete_sooner(study: StudyEvidence, quiet: timedelta) -> None:
    if isinstance(after(replace(study, longest_pause=study.longest_pause * 2), quiet), Complete):
        assert isinstance(after(study, quiet), Complete)


@given(st.integers(1, 60), st.sampled_from(sorted(PLANES)), st.timedeltas(timedelta(0), FALLBACK - MOMENT))
def test_no_beginning_of_a_series_is_complete_while_its_association_is_open(
    slices: int, plane: str, quiet: timedelta
) -> None:
    images = even_stack(slices, plane=plane)
    series = SeriesEvidence(series_instance_uid="1.2.3", here=slices, shape=shape_of("CT", images))
    assert isinstance(after(stack(series=[series], association=Association.OPEN), quiet), WaitUntil)


# The rules, one by one -----------------------------------------------------------------------------------------------


def test_an_even_stack_whose_association_is_over_is_complete_when_it_has_settled() -> None:
    assert after(stack(), SETTLE) == Complete(
        because="no image is visibly missing, and its sender's association is over"
    )


def test_a_sender_that_paused_is_waited_for_three_times_as_long_but_not_longer_than_the_fallback() -> None:
    study = stack(longest_pause=timedelta(seconds=4))
    assert after(study, SETTLE) == WaitUntil(
        at=NOW + timedelta(seconds=12), because="its sender paused between associations, and may do so again"
    )
    assert isinstance(after(study, timedelta(seconds=12)), Complete)
    assert isinstance(after(stack(longest_pause=LONG), FALLBACK), Complete)


@pytest.mark.parametrize(
    ("more", "because"),
    [
        ({"association": Association.OPEN}, "its sender may still be connected"),
        ({"association": Association.UNKNOWN}, "it is not known whether its sender is still connected"),
        ({"shape": Shape.GAP}, "a slice seems to be missing in series 1.2.3"),
        ({"shape": Shape.BEGUN}, "series 1.2.3 could be the beginning of a stack"),
        ({"not_begun": 2}, "the source PACS lists 2 more series"),
        ({"asking": True}, "the source PACS has not answered yet"),
        ({"last_series": None}, "it is not known which series grew last"),
    ],
)
def test_what_speaks_against_completeness_is_said_and_waited_for(more: Mapping[str, object], because: str) -> None:
    study = stack(**more)  # type: ignore[arg-type]
    assert after(study, SETTLE) == WaitUntil(at=NOW + FALLBACK, because=because)
    assert after(study, FALLBACK) == Complete(because=f"nothing has arrived for 60 s; {because}")


def test_a_scout_before_the_series_that_grew_last_does_not_matter() -> None:
    scout = SeriesEvidence(series_instance_uid="1.2.2", here=1, shape=Shape.BEGUN)
    study = stack()
    assert isinstance(after(replace(study, series=[scout, *study.series]), SETTLE), Complete)


def test_the_headers_count_is_a_hint() -> None:
    few = SeriesEvidence(series_instance_uid="1.2.3", here=2, shape=Shape.BEGUN, expected=2)
    assert isinstance(after(stack(series=[few]), SETTLE), Complete)
    more = replace(few, expected=40)
    assert isinstance(after(stack(series=[more]), SETTLE), WaitUntil)
    assert after(stack(series=[more]), FALLBACK) == Complete(
        because="nothing has arrived for 60 s; the header promises 40 images of series 1.2.3, 2 have arrived"
    )


def test_the_pacs_counts_are_believed_if_they_are_from_after_the_last_arrival() -> None:
    series = SeriesEvidence(series_instance_uid="1.2.3", here=2, shape=Shape.BEGUN, stated=2)
    stated = stack(series=[series], association=Association.OPEN, stated_at=NOW + SETTLE)
    assert after(stated, SETTLE) == Complete(because="every image that the source PACS lists has arrived")
    assert isinstance(after(replace(stated, stated_at=NOW - SETTLE), SETTLE), WaitUntil)
    assert isinstance(after(replace(stated, not_begun=1), SETTLE), WaitUntil)


def test_what_the_pacs_has_more_of_is_waited_for_and_then_stalled() -> None:
    series = SeriesEvidence(series_instance_uid="1.2.3", here=37, shape=Shape.EVEN, stated=40)
    because = "37 of 40 images of series 1.2.3 have arrived"
    study = stack(series=[series], stated_at=NOW + SETTLE)
    assert after(study, FALLBACK) == WaitUntil(at=NOW + timedelta(minutes=10), because=because)
    assert after(study, timedelta(minutes=10)) == Stalled(because=because)


def test_the_reason_stays_short_whatever_number_of_series_there_is() -> None:
    series = [SeriesEvidence(series_instance_uid=f"1.2.{n}", here=9, shape=Shape.GAP) for n in range(10_000)]
    decision = after(stack(series=series), SETTLE)
    assert decision.because.endswith("and 9995 more such reasons")
    assert len(decision.because) < 1000


def test_a_fallback_shorter_than_the_settling_time_counts() -> None:
    settings = IntakeSettings(settle_s=1.5, quiet_s=0.5)
    assert isinstance(decide(stack(), now=NOW + timedelta(seconds=0.5), settings=settings), Complete)


# Stacks --------------------------------------------------------------------------------------------------------------


def even_stack(
    slices: int, *, plane: str = "oblique", step_mm: float = 2.5, start: Sequence[float] = (-31.0, 17.0, 8.5)
) -> list[dict[str, str]]:
    normal, down, along = PLANES[plane]
    orientation = text([*along, *down])
    return [
        {
            "ImagePositionPatient": text([origin + index * step_mm * axis for origin, axis in zip(start, normal)]),  # noqa: B905
            "ImageOrientationPatient": orientation,
        }
        for index in range(slices)
    ]


def text(numbers: Sequence[float]) -> str:
    return "\\".join(f"{number:.6f}" for number in numbers)


planes = st.sampled_from(sorted(PLANES))
steps = st.floats(0.4, 12)
starts = st.lists(st.floats(-900, 900), min_size=3, max_size=3)


@given(st.integers(3, 60), planes, steps, starts, st.integers(1, 4), st.randoms(use_true_random=False))
def test_an_even_stack_is_one_however_it_lies_and_in_whatever_order_it_came(
    slices: int, plane: str, step_mm: float, start: list[float], images: int, random: object
) -> None:
    stack = even_stack(slices, plane=plane, step_mm=step_mm, start=start) * images
    random.shuffle(stack)  # type: ignore[attr-defined]
    assert shape_of("CT", stack) is Shape.EVEN


@given(st.integers(4, 60), planes, steps, st.data())
def test_an_even_stack_without_an_inner_slice_has_a_gap(
    slices: int, plane: str, step_mm: float, data: st.DataObject
) -> None:
    stack = even_stack(slices, plane=plane, step_mm=step_mm)
    del stack[data.draw(st.integers(1, slices - 2))]
    assert shape_of("MR", stack) is Shape.GAP


@given(st.integers(3, 30), planes, st.integers(2, 4), st.data())
def test_a_cine_without_an_image_has_a_gap(slices: int, plane: str, phases: int, data: st.DataObject) -> None:
    stack = even_stack(slices, plane=plane) * phases
    del stack[data.draw(st.integers(0, len(stack) - 1))]
    assert shape_of("MR", stack) is Shape.GAP


@given(st.integers(0, 2), planes, st.integers(1, 4))
def test_one_or_two_places_are_a_beginning(slices: int, plane: str, images: int) -> None:
    assert shape_of("CT", even_stack(slices, plane=plane) * images) in (
        Shape.BEGUN,
        Shape.OTHER if not slices else Shape.BEGUN,
    )


def test_a_stack_that_a_tilted_gantry_shifts_is_even() -> None:
    stack = even_stack(8, plane="axial")
    for index, image in enumerate(stack):
        x, y, z = map(float, image["ImagePositionPatient"].split("\\"))
        image["ImagePositionPatient"] = text([x, y + 0.6 * index, z])
    assert shape_of("CT", stack) is Shape.EVEN


def test_a_localizer_is_complete_in_itself_and_a_hole_in_one_of_its_stacks_is_a_gap() -> None:
    localizer = [*even_stack(3, plane="axial"), *even_stack(3, plane="sagittal"), *even_stack(3, plane="coronal")]
    assert shape_of("MR", localizer) is Shape.OTHER
    scout_and_stack = [*even_stack(1, plane="coronal"), *even_stack(9, plane="axial")]
    del scout_and_stack[4]
    assert shape_of("CT", scout_and_stack) is Shape.GAP


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "US", "ECG", None])
def test_objects_of_other_modalities_are_complete_in_themselves(modality: str | None) -> None:
    assert shape_of(modality, [{}]) is Shape.OTHER


def test_a_multi_frame_object_is_complete_in_itself() -> None:
    assert shape_of("MR", [{"NumberOfFrames": "60"}]) is Shape.OTHER
    assert shape_of("MR", [{"NumberOfFrames": "nonsense"}]) is Shape.BEGUN


@pytest.mark.parametrize("position", ["", "1\\2", "a\\b\\c", f"{math.nan}\\0\\0", "1e999\\0\\0"])
def test_slices_that_do_not_say_where_they_are_could_be_the_beginning_of_anything(position: str) -> None:
    assert shape_of("CT", [{**image, "ImagePositionPatient": position} for image in even_stack(5)]) is Shape.BEGUN


def test_ten_thousand_images_in_as_many_directions_are_no_stack_and_found_so_in_no_time() -> None:
    directions = [text([math.cos(angle), math.sin(angle), 0, 0, 0, 1]) for angle in map(float, range(10_000))]
    images = [{"ImagePositionPatient": "0\\0\\0", "ImageOrientationPatient": each} for each in directions]
    assert shape_of("MR", images) is Shape.OTHER


def test_ten_thousand_images_in_as_many_places_are_looked_at_in_no_time() -> None:
    assert shape_of("CT", even_stack(10_000, step_mm=0.5)) is Shape.EVEN

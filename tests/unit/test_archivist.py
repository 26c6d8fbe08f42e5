"""The archivist's small pure parts: pace, hours, errors, and what may be removed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coread.archive import ArchivedSeries, ArchivedStudy, Arrived
from coread.archive_hours import Hours, seconds_of_day
from coread.archive_run import Run, RunState, RunStudyState, Terms
from coread.archive_table import RunStore, row_without_job
from coread.archivist.run import pseudonyms_of
from coread.archivist.state import Attended
from coread.archivist.throttle import NEAR, held_by, pace_of
from coread.archivist.trouble import AWAY_LONGEST_S, LONGEST_DELAY_S, Course, away_s, course_of, delay_s
from coread.archivist.windup import ended_as
from coread.copies import Bringer, bringer_of, contents_of, is_brought
from coread.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    CoreadError,
    NotInSource,
    SourceBusy,
    SourceUnavailable,
    StudyIncomplete,
)
from coread.job import JobState
from coread.ledger import JobRecord
from coread.objects import Profile
from coread.plugin.holding import Held
from coread.settings import Settings
from coread.settings_sources import DicomwebSource, DimseSource
from tests.support import NOW, a_job

DAY = 24 * 60
ROOM: dict[str, float] = {"free_gb": 100.0, "min_free_gb": 1.0}
MOVED = Bringer(aet="PACS", called_aet="RUNS", is_told_apart=True)


def terms(**more: Any) -> Terms:
    return Terms(**{"source": "pacs", "models": ("m",), "profiles": (Profile.OHIF,), "folder": "/r", **more})


def clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


# Pace -----------------------------------------------------------------------------------------------------------------


@given(begin=st.integers(0, DAY - 1), length=st.integers(1, DAY - 1), minute=st.integers(0, DAY - 1))
def test_a_run_goes_on_within_its_hours_alone_over_midnight_too(begin: int, length: int, minute: int) -> None:
    hours = f"{clock(begin)}-{clock((begin + length) % DAY)}"
    local = datetime(2026, 3, 1) + timedelta(minutes=minute)  # noqa: DTZ001  # by the clock on the wall
    is_within = (minute - begin) % DAY < length
    assert (held_by(terms(hours=hours), local=local, **ROOM) == "") is is_within
    wait_s = Hours.parse(hours).wait_s(local)
    assert (wait_s == 0) is is_within
    then = local + timedelta(seconds=wait_s)
    assert held_by(terms(hours=hours), local=then, **ROOM) == ""
    if wait_s:
        assert seconds_of_day(then) == begin * 60


@given(free=st.floats(0, 1e6), needed=st.floats(0, 1e3))
def test_a_run_leaves_more_room_than_clinical_senders_need(free: float, needed: float) -> None:
    is_held = held_by(terms(), local=NOW, free_gb=free, min_free_gb=needed) != ""
    assert is_held is (needed > 0 and free < NEAR * needed)


@given(per_minute=st.floats(0.001, 1e5), minutes=st.floats(0.01, 1e4))
def test_in_no_time_are_more_begun_than_the_pace_lets(per_minute: float, minutes: float) -> None:
    interval = pace_of(terms(studies_per_minute=per_minute)).interval
    in_that_time = 1 + (timedelta(minutes=minutes) / interval if interval else 0)
    assert in_that_time <= 1 + per_minute * minutes * 1.01 + 1e-3 or interval < timedelta(microseconds=100)


def test_without_a_pace_studies_follow_each_other_at_once() -> None:
    assert pace_of(terms()).interval == timedelta(0)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "has_begun", "course"),
    [
        (ConfigurationError("401"), False, Course.PAUSE),
        (ConfigurationError("unknown AE title"), True, Course.PAUSE),
        (NotInSource("gone"), False, Course.FAIL),
        (SourceUnavailable("away"), False, Course.WAIT),
        (ArchiveUnavailable("away"), False, Course.WAIT),
        (SourceUnavailable("went away"), True, Course.WAIT),
        (SourceBusy("broke off"), True, Course.AGAIN),
        (ArchiveUnavailable("disk full"), True, Course.AGAIN),
        (SourceBusy("out of resources"), False, Course.AGAIN),
        (StudyIncomplete("fewer"), True, Course.AGAIN),
        (RuntimeError("surprise"), False, Course.AGAIN),
    ],
)
def test_what_follows_from_an_error(error: Exception, *, has_begun: bool, course: Course) -> None:
    assert course_of(error, has_begun=has_begun) is course


@given(attempts=st.integers(0, 10_000), first_s=st.floats(0.01, 1e4))
def test_waits_grow_and_have_an_end(attempts: int, first_s: float) -> None:
    waits = [delay_s(attempts + more, first_s=first_s) for more in range(3)]
    assert waits == sorted(waits)
    assert max(waits) <= LONGEST_DELAY_S
    assert delay_s(1, first_s=first_s) == min(first_s, LONGEST_DELAY_S)
    assert away_s(attempts) <= AWAY_LONGEST_S


def test_of_several_lanes_that_meet_the_same_absence_one_counts() -> None:
    run = Attended(a_run(terms()))
    for _ in range(5):
        run.note_away("away", at=NOW)
    assert run.away_until == NOW + timedelta(seconds=away_s(1))
    run.note_away("away", at=run.away_until)
    assert run.away_until - NOW == timedelta(seconds=away_s(1) + away_s(2))
    assert run.waits_for == "away"
    run.note_answer()
    assert run.waits_for == ""


@pytest.mark.parametrize(
    ("due", "reading", "state", "says"),
    [(5, 8, "running", True), (5, 7, "running", False), (0, 1, "running", True), (0, 1, "cancelled", True)],
)
def test_a_run_that_waits_for_deliveries_alone_says_so(due: int, reading: int, state: str, *, says: bool) -> None:
    counts = {RunStudyState.DUE: due, RunStudyState.READING: reading}
    attended = Attended(replace(a_run(terms(in_flight=8)), state=RunState(state), counts=counts))
    assert attended.waits_for == ""
    attended.undelivered = reading
    assert ("not delivered" in attended.waits_for) is says
    attended.run = replace(attended.run, waits_for=attended.waits_for)
    assert attended.run.held_up_by == attended.waits_for
    attended.run = replace(attended.run, ended_at=NOW)
    assert attended.run.held_up_by == ""


# What may be removed --------------------------------------------------------------------------------------------------


def study(*uids: str, copies: str = "first", others: Sequence[str] = ()) -> ArchivedStudy:
    def series(number: str, modality: str, those: Sequence[str]) -> ArchivedSeries:
        return ArchivedSeries(
            orthanc_id=number,
            tags={"Modality": modality},
            instances={f"o{uid}": uid for uid in those},
            copies={f"o{uid}": copies for uid in those},
        )

    return ArchivedStudy(
        orthanc_id="study", study_instance_uid="1", tags={}, series=[series("a", "CT", uids), series("b", "SR", others)]
    )


def arrived(uid: str, **more: Any) -> Arrived:
    values = {"by_dicom": True, "by_rest": False, "aet": "PACS", "called_aet": "RUNS"}
    return Arrived(sop_instance_uid=uid, **{**values, **more})


def brought(
    found: ArchivedStudy, *arrivals: Arrived, before: str | None = None, bringer: Bringer | None = MOVED
) -> bool:
    return is_brought(found, lambda: arrivals, brought=before, bringer=bringer)


def test_what_is_as_it_was_brought_is_the_runs() -> None:
    before = contents_of(study("1.1", "1.2"))
    assert brought(study("1.1", "1.2", others=["9.9"]), before=before, bringer=None)


@pytest.mark.parametrize("now", [study("1.1"), study("1.1", "1.2", "1.3"), study("1.1", "1.2", copies="again")])
def test_what_has_changed_since_is_the_runs_only_if_its_sender_is_told_apart(now: ArchivedStudy) -> None:
    before = contents_of(study("1.1", "1.2"))
    came = [arrived(uid) for uid in ("1.1", "1.2", "1.3")]
    assert brought(now, *came, before=before)
    shared_title = Bringer(aet="PACS", called_aet="RUNS", is_told_apart=False)
    assert not brought(now, *came, before=before, bringer=shared_title)
    assert brought(now, *came, bringer=shared_title)  # not whole yet: nobody else is known to have sent


@pytest.mark.parametrize("odd", [{"aet": "CT_1"}, {"called_aet": "COREAD"}, {"by_dicom": False, "by_rest": True}])
def test_one_instance_of_somebody_elses_makes_it_shared(odd: dict[str, Any]) -> None:
    assert not brought(study("1.1", "1.2"), arrived("1.1"), arrived("1.2", **odd))


def test_a_source_that_the_settings_do_not_have_any_more_brings_nothing() -> None:
    assert not brought(study("1.1"), arrived("1.1"), bringer=None)


def test_results_are_no_reason_to_keep_a_copy_and_what_a_person_said_is() -> None:
    before = contents_of(study("1.1"))
    now = study("1.1", others=["9.1", "9.2"])
    assert contents_of(now, without={"9.1", "9.2"}) == before
    assert contents_of(now, without={"9.1"}) != before


def test_who_brings_follows_from_the_source() -> None:
    move = DimseSource(name="pacs", protocol="dimse", aet="PACS", host="h", move_to="RUNS")
    same = DimseSource(name="same", protocol="dimse", aet="PACS", host="h")
    web = DicomwebSource(name="web", protocol="dicomweb", url="https://h/dicom-web")
    settings = Settings(source=(move, same, web))
    assert bringer_of(settings, "pacs") == MOVED
    assert bringer_of(settings, "same") == Bringer(aet="PACS", called_aet="COREAD", is_told_apart=False)
    assert bringer_of(settings, "web") == Bringer()
    assert bringer_of(settings, "here") is None
    assert bringer_of(settings, "gone") is None
    uploaded = arrived("1.1", by_dicom=False, by_rest=True, aet="", called_aet="")
    assert Bringer().has_sent(uploaded)
    assert not MOVED.has_sent(uploaded)


def test_nothing_is_taken_of_a_study_that_is_being_removed_for_a_limited_time() -> None:
    now = [0.0]
    held = Held(clock=lambda: now[0])
    image = SimpleNamespace(GetInstanceData=lambda: b"...\x00\x0d\x00UI1.2.3...")
    assert not held.refuses(SimpleNamespace())
    held.hold(["1.2.3"], seconds=10)
    held.hold(["1.9"], seconds=10)
    assert held.refuses(image)
    held.hold(["1.2.3"], seconds=0)
    assert not held.refuses(image)
    held.hold(["1.2.3"], seconds=10)
    now[0] = 11.0
    assert not held.refuses(image)


def test_it_is_noted_whether_anybody_else_sends_of_a_study_that_is_being_retrieved() -> None:
    def image(aet: str, uid: str) -> SimpleNamespace:
        return SimpleNamespace(GetInstanceRemoteAet=lambda: aet, GetInstanceData=lambda: f"..{uid}..".encode())

    held = Held()
    for uid in ("1.2.3", "1.2.4", "1.2.5"):
        held.watch(uid, aet="PACS")
    assert not held.refuses(image("PACS", "1.2.3"))
    assert not held.refuses(image("CT_1", "1.2.4"))
    held.watch("1.2.4", aet="PACS")  # as another archivist does after one that died
    assert [held.is_alone(uid) for uid in ("1.2.3", "1.2.4", "1.2.5", "1.2.6")] == [True, False, True, False]
    held.unwatch("1.2.3")
    assert not held.is_alone("1.2.3")


# How it ended ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "ended"),
    [
        (["done", "done"], "done"),
        (["done", "refused"], "done"),
        (["refused", "refused"], "refused"),
        (["done", "failed"], "failed"),
        (["refused", "cancelled"], "failed"),
    ],
)
def test_how_a_study_has_ended_by_its_jobs(states: Sequence[str], ended: str) -> None:
    records = [
        JobRecord(job=a_job(model=f"m{number}"), state=JobState(state), reason="why", attempts=1)
        for number, state in enumerate(states)
    ]
    models = [record.job.model for record in records]
    state, reason = ended_as(records, models=models)
    assert state is RunStudyState(ended)
    assert bool(reason) is (set(states) != {"done"})
    state, reason = ended_as(records, models=[*models, "gone"])
    assert state is RunStudyState.FAILED
    assert "gone: no such model" in reason


def test_every_error_of_ours_has_a_course() -> None:
    def kinds(kind: type[CoreadError]) -> list[type[CoreadError]]:
        return [kind, *(each for one in kind.__subclasses__() for each in kinds(one))]

    assert {course_of(kind.__new__(kind), has_begun=True) for kind in kinds(CoreadError)} == {
        Course.AGAIN,
        Course.FAIL,
        Course.PAUSE,
        Course.WAIT,
    }


def test_a_run_does_not_go_on_under_new_pseudonyms_when_its_key_file_is_gone(tmp_path: Path) -> None:
    run = a_run(terms(key_file=str(tmp_path / "key"), folder=str(tmp_path / "run")))
    with RunStore(tmp_path / "run") as store:
        assert pseudonyms_of(run, store) is not None, "made at first"
        store.write(0, [row_without_job(position=0, study_instance_uid="1.2", state="failed", reason="")])
        assert pseudonyms_of(run, store) is not None
        (tmp_path / "key").rename(tmp_path / "elsewhere")
        with pytest.raises(ConfigurationError, match="put it back"):
            pseudonyms_of(run, store)
    assert not (tmp_path / "key").exists()


def a_run(terms: Terms) -> Run:
    return Run(
        run_id="a",
        name="a",
        state=RunState.RUNNING,
        reason="",
        terms=terms,
        plan_digest="",
        created_at=NOW,
        created_by="",
        ended_at=None,
        studies=1,
    )

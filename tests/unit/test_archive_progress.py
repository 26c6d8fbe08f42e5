"""How far an archive run has come, in figures and words: its rate, its time left, its hours, its failures."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coread.archive_hours import DAY_S, Hours
from coread.archive_progress import (
    MOST_COUNTED,
    SILENT,
    WINDOWS,
    Pace,
    duration,
    is_silent,
    measured_pace,
    pace_of,
    troubles_of,
)
from coread.archive_run import Copy, Run, RunState, RunStudy, RunStudyState
from coread.errors import ConfigurationError
from tests.archive_runs import terms
from tests.support import NOW, uid_of

EVENING = Hours.parse("19:00-07:00")
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def a_run(*, done: int = 0, studies: int = 100, state: RunState = RunState.RUNNING, hours: str | None = None) -> Run:
    return Run(
        run_id="a",
        name="a",
        state=state,
        reason="",
        terms=terms(Path("/out"), hours=hours),
        plan_digest="d",
        created_at=NOW - timedelta(days=1),
        created_by="ada",
        ended_at=None,
        counts={RunStudyState.DONE: done, RunStudyState.DUE: studies - done},
        studies=studies,
    )


def a_study(position: int, reason: str, *, permanent: bool = False) -> RunStudy:
    return RunStudy(
        run_id="a",
        position=position,
        study_instance_uid=uid_of(str(position)),
        state=RunStudyState.FAILED,
        reason=reason,
        is_permanent=permanent,
        attempts=1,
        orthanc_id=None,
        copy=Copy.UNKNOWN,
        stated_instances=None,
        instances=None,
        bytes=None,
        changed_at=NOW,
    )


def test_the_rate_and_the_time_left_follow_from_what_ended_lately() -> None:
    pace = pace_of(a_run(done=40), ended=5, since=NOW - timedelta(minutes=10), at=NOW)
    assert pace == Pace(per_hour=30, left_s=7200)


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.RUNNING])
def test_a_run_that_does_not_go_on_has_no_rate(state: RunState) -> None:
    def ended(run_id: str, *, since: datetime, limit: int) -> int:
        pytest.fail(f"asked for {run_id} since {since}, {limit} at most")

    assert measured_pace(a_run(state=state), ended, at=NOW) == Pace(per_hour=None, left_s=None)


def test_a_run_that_has_just_begun_is_measured_since_then() -> None:
    asked: list[datetime] = []

    def ended(run_id: str, *, since: datetime, limit: int) -> int:
        assert (run_id, limit) == ("a", MOST_COUNTED)
        asked.append(since)
        return 0

    run = a_run()
    assert measured_pace(run, ended, at=run.created_at + timedelta(seconds=5)) == Pace(per_hour=None, left_s=None)
    measured_pace(run, ended, at=NOW)
    assert asked == [run.created_at, NOW - WINDOWS[0]]


def test_a_run_of_which_more_end_than_are_counted_is_measured_over_a_shorter_time() -> None:
    def ended(run_id: str, *, since: datetime, limit: int) -> int:
        assert run_id == "a"
        return min(limit, round((NOW - since).total_seconds() * 100))

    run = replace(a_run(), studies=1_000_000, counts={})
    assert measured_pace(run, ended, at=NOW) == Pace(per_hour=360_000, left_s=10_000)


def test_hours_over_midnight_and_within_a_day_are_told_apart() -> None:
    assert EVENING.wait_s(NOON) == 7 * 3600
    assert EVENING.wait_s(NOON.replace(hour=19)) == 0
    assert EVENING.wait_s(NOON.replace(hour=6, minute=59)) == 0
    assert EVENING.wait_s(NOON.replace(hour=7)) == 12 * 3600
    assert Hours.parse("08:30-24:00").wait_s(NOON) == 0
    assert Hours.parse("08:30-12:00").wait_s(NOON) == 20.5 * 3600


@pytest.mark.parametrize(
    "text", ["", "19-7", "19:00-25:00", "7:00-19:00", "19:00-19:00", "19:00 - 07:00", "24:00-07:00"]
)
def test_hours_that_are_none_are_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected hours"):
        Hours.parse(text)


def test_work_takes_as_long_by_the_clock_as_its_hours_let_it() -> None:
    assert EVENING.clock_s(3600, at=NOON) == 8 * 3600
    assert EVENING.clock_s(3600, at=NOON.replace(hour=20)) == 3600
    assert EVENING.clock_s(12 * 3600, at=NOON.replace(hour=1)) == 24 * 3600
    assert EVENING.clock_s(25 * 3600, at=NOON) == (7 + 48 + 1) * 3600


@given(
    begin=st.integers(0, 1439), length=st.integers(1, 1439), now=st.integers(0, DAY_S - 1), work=st.integers(1, 300_000)
)
def test_work_ends_within_the_hours_and_has_taken_as_many_of_them(begin: int, length: int, now: int, work: int) -> None:
    hours = Hours(begin_s=begin * 60, end_s=(begin + length) * 60 % DAY_S)
    start = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=now)
    took = hours.clock_s(work, at=start)
    last = start + timedelta(seconds=took - 0.5)
    assert hours.wait_s(last) == 0 or took % DAY_S == 0 or work % (length * 60) == 0
    assert took >= work
    assert took <= work + (work // (length * 60) + 2) * DAY_S


def test_reasons_that_differ_in_uids_and_numbers_alone_are_one() -> None:
    studies = [a_study(each, f"the PACS gave {each} of 12 instances of study {uid_of(str(each))}") for each in range(5)]
    studies.append(a_study(9, "the PACS does not know it", permanent=True))
    first, second = troubles_of(studies)
    assert (first.count, first.reason) == (5, "the PACS gave … of 12 instances of study …")
    assert first.first == tuple(uid_of(str(each)) for each in range(3))
    assert (second.count, second.is_permanent, second.reason) == (1, True, "the PACS does not know it")


def test_a_reason_of_one_study_stands_as_it_is() -> None:
    (only,) = troubles_of([a_study(1, "3 of 12 instances of 1.2.3")])
    assert only.reason == "3 of 12 instances of 1.2.3"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "1 min"), (3600, "60 min"), (7200, "2 hours"), (172_799, "48 hours"), (864_000, "10 days")],
)
def test_a_duration_is_told_roughly(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_archivist_that_has_said_nothing_for_a_while_does_not_run() -> None:
    assert is_silent(None, at=NOW)
    assert not is_silent(NOW - SILENT, at=NOW)
    assert is_silent(NOW - 2 * SILENT, at=NOW)

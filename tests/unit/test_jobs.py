"""What becomes of a job follows from the type of the error."""

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from coread.archive import Archive
from coread.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    GeometryError,
    JobOverran,
    LedgerUnavailable,
    ModelError,
    OutOfMemory,
    ResultError,
    SourceGone,
)
from coread.job import JobState
from coread.ledger import ArrivingStudy, JobRecord, Ledger
from coread.models.runner import BundleRunner
from coread.settings import ResultSettings, WorkerSettings
from coread.workers.hold import utc_now
from coread.workers.jobs import JobRunner
from coread.workers.retry import RetryPolicy
from tests.support import a_job

ATTEMPTS = 3
JOB = a_job(created_at=utc_now())


class BrokenArchive:
    """An archive that answers every question about a study with one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def study(self, _orthanc_id: str) -> None:
        raise self.error


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    study = ArrivingStudy(orthanc_id="study", last_change=1, last_arrival_at=utc_now())
    ledger.settle(study, [JOB], present_uids=(), at=utc_now())
    return ledger


def run(ledger: Ledger, error: Exception, *, version: str = "1") -> JobState | None:
    runner = JobRunner(
        archive=cast("Archive", BrokenArchive(error)),
        ledger=ledger,
        models=lambda _name: cast("BundleRunner", SimpleNamespace(model=SimpleNamespace(version=version))),
        settings=WorkerSettings(),
        retries=RetryPolicy(first_delay_s=10, away=ATTEMPTS),
        results=ResultSettings(),
        worker="w",
    )
    ledger.queue_due(at=utc_now() + timedelta(hours=1))
    return runner.run_next()


def record(ledger: Ledger) -> JobRecord:
    found = ledger.job("a")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (GeometryError("a slice is missing"), JobState.REFUSED),
        (SourceGone("it was deleted"), JobState.REFUSED),
        (ModelError("it gave NaN"), JobState.FAILED),
        (ResultError("it reads back otherwise"), JobState.FAILED),
        (ConfigurationError("no such model"), JobState.FAILED),
        (ArchiveUnavailable("no answer"), JobState.WAITING),
        (MemoryError(), JobState.WAITING),
    ],
)
def test_the_state_follows_from_the_type(ledger: Ledger, error: Exception, state: JobState) -> None:
    assert run(ledger, error) is state
    assert record(ledger).state is state
    assert record(ledger).reason


def test_each_further_wait_is_twice_as_long_and_the_last_attempt_is_the_last(ledger: Ledger) -> None:
    for wait_s in (10, 20):
        run(ledger, ArchiveUnavailable("no answer"))
        assert ledger.queue_due(at=utc_now() + timedelta(seconds=wait_s - 2)) == []
        (due,) = ledger.queue_due(at=utc_now() + timedelta(seconds=wait_s))
        assert due.job_id == "a"
    assert run(ledger, ArchiveUnavailable("no answer")) is JobState.FAILED
    assert record(ledger).reason == "no answer (tried 3 times)"


def test_an_unexpected_errors_text_does_not_reach_the_ledger(ledger: Ledger) -> None:
    run(ledger, ValueError("cannot parse Brown^Ophelia"))
    assert "Brown" not in record(ledger).reason
    assert "ValueError" in record(ledger).reason


def test_a_job_for_another_version_of_the_model_is_not_done_and_its_study_is_settled_again(ledger: Ledger) -> None:
    assert run(ledger, AssertionError("not asked"), version="2") is JobState.SUPERSEDED
    assert "expected m 1, found 2" in record(ledger).reason
    assert [study.orthanc_id for study in ledger.arriving()] == ["study"]


def test_a_deleted_study_with_earlier_results_is_refused_and_not_tried_again(ledger: Ledger) -> None:
    ledger.queue_due(at=utc_now())
    ledger.claim(worker="w", at=utc_now(), lease=timedelta(minutes=1))
    ledger.start_storing("a", worker="w", result={"sop_instance_uids": ["9.9"]}, at=utc_now())
    ledger.finish("a", JobState.DONE, worker="w", at=utc_now())
    changed = replace(JOB, job_id="b", fingerprint="other")
    study = ArrivingStudy(orthanc_id="study", last_change=2, last_arrival_at=utc_now())
    ledger.settle(study, [changed], present_uids=("9.9",), at=utc_now())
    assert run(ledger, SourceGone("it was deleted")) is JobState.REFUSED


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ArchiveUnavailable("no answer"), 60),
        (LedgerUnavailable("no answer"), 60),
        (OutOfMemory("8 GB"), 3),
        (ValueError("surprise"), 3),
        (JobOverran("an hour"), 2),
    ],
)
def test_how_often_a_job_is_tried_follows_from_the_type(error: Exception, attempts: int) -> None:
    policy = RetryPolicy(first_delay_s=5)
    assert policy.attempts(error) == attempts
    waits = [policy.delay_s(number) for number in range(1, 1000)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (5, 300)


def test_a_job_that_is_stuck_is_given_up_with_its_worker(ledger: Ledger) -> None:
    left = threading.Event()

    class StuckArchive:
        def study(self, _orthanc_id: str) -> None:
            assert left.wait(30)
            raise ArchiveUnavailable("too late to matter")

    runner = JobRunner(
        archive=cast("Archive", StuckArchive()),
        ledger=ledger,
        models=lambda _name: cast("BundleRunner", SimpleNamespace(model=SimpleNamespace(version="1"))),
        settings=WorkerSettings(time_limit_s=0.2),
        results=ResultSettings(),
        worker="w",
        abandon=left.set,
    )
    ledger.queue_due(at=utc_now())
    runner.run_next()
    assert record(ledger).state is JobState.WAITING
    assert [event.reason for event in ledger.history("a")][-1].startswith("expected an end within 0.2 s")


def test_a_job_that_is_not_published_is_left_alone(ledger: Ledger) -> None:
    run(ledger, GeometryError("a slice is missing"))
    assert run(ledger, AssertionError("not asked")) is None


def test_deaths_of_the_worker_do_not_count_as_attempts_that_broke(ledger: Ledger) -> None:
    for _ in range(ATTEMPTS):
        ledger.queue_due(at=utc_now())
        ledger.claim(worker="dies", at=utc_now(), lease=timedelta(0))
        ledger.reclaim(at=utc_now() + timedelta(seconds=1), attempts=10)
    assert run(ledger, MemoryError()) is JobState.WAITING

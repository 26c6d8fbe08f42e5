"""What becomes of a job follows from the type of the error."""

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
    ModelError,
    ResultError,
    SourceGone,
)
from coread.job import Job, JobState, Priority, fingerprint_of
from coread.ledger import ArrivingStudy, JobRecord, Ledger
from coread.models.runner import BundleRunner
from coread.settings import ResultSettings, WorkerSettings
from coread.workers.jobs import JobRunner, utc_now

ATTEMPTS = 3
JOB = Job(
    job_id="a",
    study_instance_uid="1.2",
    orthanc_id="study",
    model="m",
    model_version="1",
    fingerprint=fingerprint_of(["1.2.3"]),
    priority=Priority.ROUTINE,
    created_at=utc_now(),
)


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


def run(ledger: Ledger, error: Exception, *, version: str = "1", job_id: str = "a") -> JobState | None:
    runner = JobRunner(
        archive=cast("Archive", BrokenArchive(error)),
        ledger=ledger,
        models=lambda _name: cast("BundleRunner", SimpleNamespace(model=SimpleNamespace(version=version))),
        settings=WorkerSettings(attempts=ATTEMPTS, retry_delay_s=10),
        results=ResultSettings(),
        worker="w",
    )
    ledger.mark_queued(job_id, at=utc_now())
    return runner.run(job_id)


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
        assert ledger.due(at=utc_now() + timedelta(seconds=wait_s - 2)) == []
        (due,) = ledger.due(at=utc_now() + timedelta(seconds=wait_s))
        assert due.job_id == "a"
    assert run(ledger, ArchiveUnavailable("no answer")) is JobState.FAILED
    assert record(ledger).reason == "no answer (tried 3 times)"


def test_an_unexpected_errors_text_does_not_reach_the_ledger(ledger: Ledger) -> None:
    run(ledger, ValueError("cannot parse Brown^Ophelia"))
    assert "Brown" not in record(ledger).reason
    assert "ValueError" in record(ledger).reason


def test_a_job_for_another_version_of_the_model_is_not_done(ledger: Ledger) -> None:
    assert run(ledger, AssertionError("not asked"), version="2") is JobState.FAILED
    assert "expected m 1, found 2" in record(ledger).reason


def test_a_deleted_study_with_earlier_results_is_refused_and_not_tried_again(ledger: Ledger) -> None:
    ledger.mark_queued("a", at=utc_now())
    ledger.claim("a", worker="w", at=utc_now(), lease=timedelta(minutes=1))
    ledger.start_storing("a", worker="w", result={"sop_instance_uids": ["9.9"]}, at=utc_now())
    ledger.finish("a", JobState.DONE, worker="w", at=utc_now())
    changed = replace(JOB, job_id="b", fingerprint=fingerprint_of(["1.2.3", "1.2.4"]))
    study = ArrivingStudy(orthanc_id="study", last_change=2, last_arrival_at=utc_now())
    ledger.settle(study, [changed], present_uids=("9.9",), at=utc_now())
    assert run(ledger, SourceGone("it was deleted"), job_id="b") is JobState.REFUSED


def test_a_job_that_is_not_published_is_left_alone(ledger: Ledger) -> None:
    run(ledger, GeometryError("a slice is missing"))
    assert run(ledger, AssertionError("not asked")) is None

from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest

from coread.errors import ConfigurationError
from coread.job import Job, JobState, Priority
from coread.ledger import QUEUE_LEASE, ArrivingStudy, JobRecord, Ledger
from tests.support import NOW

MINUTE = timedelta(minutes=1)


def job(name: str = "a", *, priority: Priority = Priority.ROUTINE, model: str = "m") -> Job:
    return Job(
        job_id=name,
        study_instance_uid="1.2",
        orthanc_id="study",
        model=model,
        model_version="1",
        fingerprint=name,
        priority=priority,
        created_at=NOW,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    return ledger


def arrive(ledger: Ledger, change: int) -> None:
    ledger.note_arrivals({"study": change}, archive_identity="orthanc", last_change=change, at=NOW)


def settle(ledger: Ledger, *jobs: Job, present: set[str] | None = None) -> None:
    arrive(ledger, 1)
    (study,) = ledger.arriving()
    ledger.settle(study, jobs, present_uids=present or set(), at=NOW)


def record(ledger: Ledger, job_id: str = "a") -> JobRecord:
    found = ledger.job(job_id)
    assert found is not None
    return found


def claim(ledger: Ledger, job_id: str = "a", *, worker: str = "w") -> Job | None:
    ledger.mark_queued(job_id, at=NOW)
    return ledger.claim(job_id, worker=worker, at=NOW, lease=MINUTE)


def finish(ledger: Ledger, *, worker: str = "w") -> bool:
    result = {"sop_instance_uids": ["9.9"]}
    return ledger.start_storing("a", worker=worker, result=result, at=NOW) and ledger.finish(
        "a", JobState.DONE, worker=worker, result=result, at=NOW
    )


def test_a_job_is_written_down_with_each_step_of_its_way(ledger: Ledger) -> None:
    settle(ledger, job())
    assert claim(ledger) == job()
    assert finish(ledger)
    states = [event.to_state for event in ledger.history("a")]
    assert states == [JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.STORING, JobState.DONE]
    assert record(ledger).result_uids == {"9.9"}


def test_the_cursor_moves_with_what_it_implies(ledger: Ledger) -> None:
    assert ledger.last_change("orthanc") == 0
    ledger.note_arrivals({"study": 7}, archive_identity="orthanc", last_change=9, at=NOW)
    ledger.note_arrivals({}, archive_identity="orthanc", last_change=12, at=NOW)
    assert ledger.last_change("orthanc") == 12
    assert ledger.last_change("another orthanc") == 0
    assert ledger.arriving() == [ArrivingStudy(orthanc_id="study", last_change=7, last_arrival_at=NOW)]


def test_a_study_that_grows_while_it_is_settled_stays_marked(ledger: Ledger) -> None:
    arrive(ledger, 1)
    (seen,) = ledger.arriving()
    arrive(ledger, 2)
    ledger.settle(seen, [job()], present_uids=(), at=NOW)
    assert [study.last_change for study in ledger.arriving()] == [2]


def test_settling_the_same_study_again_makes_no_second_job(ledger: Ledger) -> None:
    settle(ledger, job())
    settle(ledger, job())
    assert len(ledger.jobs()) == 1
    assert len(ledger.history("a")) == 1


def test_a_changed_study_supersedes_the_job_and_the_worker_that_runs_it_stores_nothing(ledger: Ledger) -> None:
    settle(ledger, job("a"))
    assert claim(ledger)
    settle(ledger, job("b"))
    assert record(ledger, "a").state is JobState.SUPERSEDED
    assert not ledger.start_storing("a", worker="w", result={}, at=NOW)
    assert [due.job_id for due in ledger.due(at=NOW)] == ["b"]


def test_another_models_job_is_not_superseded(ledger: Ledger) -> None:
    settle(ledger, job("a", model="m"), job("b", model="n"))
    assert {each.state for each in ledger.jobs()} == {JobState.WAITING}


def test_a_study_that_changes_back_is_read_again(ledger: Ledger) -> None:
    settle(ledger, job("a"))
    settle(ledger, job("b"))
    settle(ledger, job("a"))
    assert record(ledger, "a").state is JobState.WAITING
    assert record(ledger, "b").state is JobState.SUPERSEDED


def test_a_done_job_whose_results_were_deleted_is_done_again_and_otherwise_not(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    finish(ledger)
    settle(ledger, job(), present={"9.9", "1.1"})
    assert record(ledger).state is JobState.DONE
    settle(ledger, job(), present={"1.1"})
    assert record(ledger).state is JobState.WAITING


def test_a_refused_or_failed_study_that_is_sent_again_is_read_again(ledger: Ledger) -> None:
    for state in (JobState.REFUSED, JobState.FAILED):
        settle(ledger, job())
        claim(ledger)
        assert ledger.finish("a", state, worker="w", reason="because", at=NOW)
        settle(ledger, job())
        assert record(ledger).state is JobState.WAITING


def test_a_person_can_retry_what_has_ended_badly_and_nothing_else(ledger: Ledger) -> None:
    settle(ledger, job())
    assert not ledger.retry("a", at=NOW)
    claim(ledger)
    ledger.finish("a", JobState.FAILED, worker="w", reason="because", at=NOW)
    assert ledger.retry("a", at=NOW)
    assert record(ledger).attempts == 0
    assert not ledger.retry("unknown", at=NOW)


def test_a_cancelled_job_is_not_stored_and_can_be_retried(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    assert ledger.cancel("a", at=NOW)
    assert not ledger.start_storing("a", worker="w", result={}, at=NOW)
    assert ledger.retry("a", at=NOW)
    claim(ledger)
    finish(ledger)
    assert not ledger.cancel("a", at=NOW)


def test_a_job_whose_study_changed_while_it_ran_has_the_study_settled_again(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    assert ledger.start_over(job(), worker="w", reason="it changed", at=NOW)
    assert record(ledger).state is JobState.SUPERSEDED
    assert [study.orthanc_id for study in ledger.arriving()] == ["study"]


def test_what_may_have_been_stored_is_remembered_when_storing_fails(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    ledger.start_storing("a", worker="w", result={"sop_instance_uids": ["9.9"]}, at=NOW)
    ledger.finish("a", JobState.FAILED, worker="w", reason="because", at=NOW)
    assert record(ledger).result_uids == {"9.9"}


def test_only_one_of_many_workers_gets_a_job(ledger: Ledger) -> None:
    settle(ledger, job())
    ledger.mark_queued("a", at=NOW)
    won: list[str] = []

    def try_to_claim(worker: str) -> None:
        if ledger.claim("a", worker=worker, at=NOW, lease=MINUTE):
            won.append(worker)

    threads = [Thread(target=try_to_claim, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_message_that_nobody_takes_is_sent_again(ledger: Ledger) -> None:
    settle(ledger, job())
    ledger.mark_queued("a", at=NOW)
    assert ledger.due(at=NOW) == []
    assert ledger.reclaim(at=NOW + QUEUE_LEASE + MINUTE, attempts=3) == ["a"]
    assert [due.job_id for due in ledger.due(at=NOW + QUEUE_LEASE + MINUTE)] == ["a"]


def test_a_starting_worker_makes_everything_published_due_again(ledger: Ledger) -> None:
    settle(ledger, job())
    ledger.mark_queued("a", at=NOW)
    ledger.requeue(at=NOW)
    assert ledger.reclaim(at=NOW + MINUTE, attempts=3) == ["a"]


def test_a_silent_worker_loses_the_job_and_cannot_finish_it(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger, worker="dead")
    assert ledger.reclaim(at=NOW + 2 * MINUTE, attempts=3) == ["a"]
    assert not ledger.finish("a", JobState.FAILED, worker="dead", reason="because", at=NOW)
    assert claim(ledger, worker="alive")
    assert not ledger.renew("a", worker="dead", at=NOW, lease=MINUTE)
    assert not finish(ledger, worker="dead")
    assert not ledger.finish("a", JobState.FAILED, worker="dead", reason="because", at=NOW)
    assert finish(ledger, worker="alive")


def test_a_renewed_lease_is_not_reclaimed(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    assert ledger.renew("a", worker="w", at=NOW + MINUTE, lease=MINUTE)
    assert ledger.reclaim(at=NOW + MINUTE, attempts=3) == []


def test_a_job_that_kills_its_workers_has_failed_in_the_end(ledger: Ledger) -> None:
    settle(ledger, job())
    for _ in range(3):
        assert claim(ledger)
        ledger.reclaim(at=NOW + 2 * MINUTE, attempts=3)
    assert record(ledger).state is JobState.FAILED
    assert "fell silent 3 times" in record(ledger).reason


def test_a_job_to_be_tried_again_waits_its_time(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    ledger.try_again("a", worker="w", reason="Orthanc is away", at=NOW, not_before=NOW + MINUTE)
    assert ledger.due(at=NOW) == []
    assert [due.job_id for due in ledger.due(at=NOW + MINUTE)] == ["a"]


def test_urgent_jobs_come_first(ledger: Ledger) -> None:
    settle(
        ledger,
        job("a", priority=Priority.BATCH, model="1"),
        job("b", priority=Priority.ROUTINE, model="2"),
        job("c", priority=Priority.STAT, model="3"),
    )
    assert [due.job_id for due in ledger.due(at=NOW)] == ["c", "b", "a"]


def test_what_the_table_forbids_is_never_written(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    assert not ledger.finish("a", JobState.DONE, worker="w", result={}, at=NOW), "done comes after storing only"
    assert record(ledger).state is JobState.RUNNING


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    with pytest.raises(ConfigurationError, match="version None"):
        ledger.check_version()
    ledger.migrate()
    ledger.check_version()


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ledger's URL"):
        Ledger("nonsense")

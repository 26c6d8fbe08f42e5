import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import sqlalchemy as sa

from coread.errors import ConfigurationError, LedgerUnavailable
from coread.job import Job, JobState, Priority
from coread.ledger import ArrivingStudy, JobRecord, Ledger
from coread.ledger.jobs import LEFT_TO_ANOTHER, STORED_BY_THEN, _mark_looked_ahead
from coread.ledger.tables import LOOKED_AHEAD
from tests.support import NOW, a_job

MINUTE = timedelta(minutes=1)


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
    ledger.queue_due(at=NOW)
    job = ledger.claim(worker=worker, at=NOW, lease=MINUTE)
    assert job is None or job.job_id == job_id
    return job


def finish(ledger: Ledger, *, worker: str = "w") -> bool:
    result = {"sop_instance_uids": ["9.9"]}
    return ledger.start_storing("a", worker=worker, result=result, at=NOW) and ledger.finish(
        "a", JobState.DONE, worker=worker, result=result, at=NOW
    )


def test_a_job_is_written_down_with_each_step_of_its_way(ledger: Ledger) -> None:
    settle(ledger, a_job())
    assert claim(ledger) == a_job()
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
    assert ledger.arriving() == [
        ArrivingStudy(orthanc_id="study", last_change=7, last_arrival_at=NOW, first_arrival_at=NOW)
    ]


def test_a_study_that_grows_while_it_is_settled_stays_marked(ledger: Ledger) -> None:
    arrive(ledger, 1)
    (seen,) = ledger.arriving()
    arrive(ledger, 2)
    ledger.settle(seen, [a_job()], present_uids=(), at=NOW)
    assert [study.last_change for study in ledger.arriving()] == [2]


def test_settling_the_same_study_again_makes_no_second_job(ledger: Ledger) -> None:
    settle(ledger, a_job())
    settle(ledger, a_job())
    assert len(ledger.jobs()) == 1
    assert len(ledger.history("a")) == 1


def test_a_changed_study_supersedes_the_job_and_the_worker_that_runs_it_stores_nothing(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    assert claim(ledger)
    settle(ledger, a_job("b"))
    assert record(ledger, "a").state is JobState.SUPERSEDED
    assert not ledger.start_storing("a", worker="w", result={}, at=NOW)
    assert [due.job_id for due in ledger.queue_due(at=NOW)] == ["b"]


def test_another_models_job_is_not_superseded(ledger: Ledger) -> None:
    settle(ledger, a_job("a", model="m"), a_job("b", model="n"))
    assert {each.state for each in ledger.jobs()} == {JobState.WAITING}


def test_a_study_that_changes_back_is_read_again(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    settle(ledger, a_job("b"))
    settle(ledger, a_job("a"))
    assert record(ledger, "a").state is JobState.WAITING
    assert record(ledger, "b").state is JobState.SUPERSEDED


def test_a_done_job_whose_results_were_deleted_is_done_again_and_otherwise_not(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    finish(ledger)
    settle(ledger, a_job(), present={"9.9", "1.1"})
    assert record(ledger).state is JobState.DONE
    settle(ledger, a_job(), present={"1.1"})
    assert record(ledger).state is JobState.WAITING


def test_a_refused_or_failed_study_that_is_sent_again_is_read_again(ledger: Ledger) -> None:
    for state in (JobState.REFUSED, JobState.FAILED):
        settle(ledger, a_job())
        claim(ledger)
        assert ledger.finish("a", state, worker="w", reason="because", at=NOW)
        settle(ledger, a_job())
        assert record(ledger).state is JobState.WAITING


def test_a_person_can_retry_what_has_ended_badly_and_nothing_else(ledger: Ledger) -> None:
    settle(ledger, a_job())
    assert not ledger.retry("a", at=NOW)
    claim(ledger)
    ledger.finish("a", JobState.FAILED, worker="w", reason="because", at=NOW)
    assert ledger.retry("a", at=NOW)
    assert record(ledger).attempts == 0
    assert not ledger.retry("unknown", at=NOW)


def test_a_cancelled_job_is_not_stored_and_can_be_retried(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    assert ledger.cancel("a", at=NOW)
    assert not ledger.start_storing("a", worker="w", result={}, at=NOW)
    assert ledger.retry("a", at=NOW)
    claim(ledger)
    finish(ledger)
    assert not ledger.cancel("a", at=NOW)


def test_a_job_whose_study_changed_while_it_ran_has_the_study_settled_again(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    assert ledger.start_over(a_job(), worker="w", reason="it changed", at=NOW)
    assert record(ledger).state is JobState.SUPERSEDED
    assert [study.orthanc_id for study in ledger.arriving()] == ["study"]


def test_what_may_have_been_stored_is_remembered_when_storing_fails(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    ledger.start_storing("a", worker="w", result={"sop_instance_uids": ["9.9"]}, at=NOW)
    ledger.finish("a", JobState.FAILED, worker="w", reason="because", at=NOW)
    assert record(ledger).result_uids == {"9.9"}


def test_only_one_of_many_workers_gets_a_job(ledger: Ledger) -> None:
    settle(ledger, a_job())
    ledger.queue_due(at=NOW)
    won: list[str] = []

    def try_to_claim(worker: str) -> None:
        if ledger.claim(worker=worker, at=NOW, lease=MINUTE):
            won.append(worker)

    threads = [Thread(target=try_to_claim, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_silent_worker_loses_the_job_and_cannot_finish_it(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger, worker="dead")
    assert ledger.reclaim(at=NOW + 2 * MINUTE, attempts=3) == ["a"]
    assert not ledger.finish("a", JobState.FAILED, worker="dead", reason="because", at=NOW)
    assert claim(ledger, worker="alive")
    assert not ledger.renew("a", worker="dead", at=NOW, lease=MINUTE)
    assert not finish(ledger, worker="dead")
    assert not ledger.finish("a", JobState.FAILED, worker="dead", reason="because", at=NOW)
    assert finish(ledger, worker="alive")


def test_a_renewed_lease_is_not_reclaimed(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    assert ledger.renew("a", worker="w", at=NOW + MINUTE, lease=MINUTE)
    assert ledger.reclaim(at=NOW + MINUTE, attempts=3) == []


def test_a_job_that_kills_its_workers_has_failed_in_the_end(ledger: Ledger) -> None:
    settle(ledger, a_job())
    for _ in range(3):
        assert claim(ledger)
        ledger.reclaim(at=NOW + 2 * MINUTE, attempts=3)
    assert record(ledger).state is JobState.FAILED
    assert "fell silent 3 times" in record(ledger).reason


def test_a_job_to_be_tried_again_waits_its_time(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    ledger.try_again("a", worker="w", reason="Orthanc is away", at=NOW, not_before=NOW + MINUTE)
    assert ledger.queue_due(at=NOW) == []
    assert [due.job_id for due in ledger.queue_due(at=NOW + MINUTE)] == ["a"]


def settle_each(ledger: Ledger, *jobs: Job) -> None:
    """Each in a study of its own."""
    for number, job in enumerate(jobs, start=1):
        ledger.note_arrivals({job.orthanc_id: number}, archive_identity="orthanc", last_change=number, at=NOW)
        (study,) = ledger.arriving()
        ledger.settle(study, [job], present_uids=(), at=NOW)


def queued(ledger: Ledger, count: int, priority: Priority, **more: Any) -> None:
    """So many jobs of a priority, one second older each, published."""
    settle_each(
        ledger,
        *(
            a_job(
                f"{priority}{number:02}{more.get('queue', '')}",
                orthanc_id=f"{priority}{number}{more.get('queue', '')}",
                priority=priority,
                created_at=NOW + timedelta(seconds=number),
                **more,
            )
            for number in range(count)
        ),
    )
    ledger.queue_due(at=NOW)


def take(ledger: Ledger, *, at: datetime = NOW, **more: Any) -> str | None:
    job = ledger.claim(worker="w", at=at, lease=MINUTE, **more)
    return job.job_id if job else None


def test_a_stat_study_is_next_whatever_waits_and_of_equals_the_oldest(ledger: Ledger) -> None:
    queued(ledger, 20, Priority.BATCH)
    queued(ledger, 20, Priority.ROUTINE)
    assert take(ledger) == "routine00"
    queued(ledger, 2, Priority.STAT)
    assert [take(ledger) for _ in range(3)] == ["stat00", "stat01", "routine01"]


def test_batch_work_is_not_starved_and_does_not_starve_the_others(ledger: Ledger) -> None:
    queued(ledger, 20, Priority.BATCH)
    queued(ledger, 20, Priority.ROUTINE)
    patience = timedelta(minutes=5)
    later = [NOW + patience * number / 4 for number in range(1, 13)]
    taken = [take(ledger, at=at, patience=patience) for at in later]
    assert [taken[number] for number in (3, 7, 11)] == ["batch00", "batch01", "batch02"]
    assert len([job for job in taken if job and job.startswith("routine")]) == 9


def test_a_worker_takes_jobs_of_its_queues_only(ledger: Ledger) -> None:
    queued(ledger, 2, Priority.ROUTINE, queue="cpu")
    queued(ledger, 1, Priority.ROUTINE, queue="gpu")
    assert take(ledger, queues=["gpu"]) == "routine00gpu"
    assert take(ledger, queues=["gpu"]) is None
    assert take(ledger, queues=["gpu", "cpu"]) == "routine00cpu"
    assert take(ledger) == "routine01cpu"


def test_a_queue_without_workers_does_not_hold_up_another(ledger: Ledger) -> None:
    settle_each(ledger, *(a_job(f"g{number}", orthanc_id=f"g{number}") for number in range(5)))
    settle_each(ledger, a_job("c", orthanc_id="c", queue="cpu"))
    assert [job.job_id for job in ledger.queue_due(at=NOW, ahead=2)] == ["c", "g0", "g1"]
    assert ledger.queue_due(at=NOW, ahead=2) == []
    take(ledger, queues=["gpu"])
    assert [job.job_id for job in ledger.queue_due(at=NOW, ahead=2)] == ["g2"]


def test_a_person_can_make_a_job_that_waits_more_urgent(ledger: Ledger) -> None:
    queued(ledger, 3, Priority.ROUTINE)
    assert ledger.prioritise("routine02", Priority.STAT, at=NOW)
    assert take(ledger) == "routine02"
    assert not ledger.prioritise("routine02", Priority.BATCH, at=NOW), "it runs already"


def test_a_worker_that_is_cut_off_while_it_stores_leaves_something_to_be_taken_away(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    claim(ledger)
    ledger.start_storing("a", worker="w", result={"sop_instance_uids": ["9.9"]}, at=NOW)
    settle(ledger, a_job("b"))
    assert ledger.outdated(at=NOW) == [], "the worker takes it away itself, if it lives"
    (job,) = ledger.outdated(at=NOW + STORED_BY_THEN)
    assert ledger.outdated_uids(job) == {"9.9"}
    ledger.no_longer_outdated(job.job_id, at=NOW)
    assert ledger.outdated(at=NOW + STORED_BY_THEN) == []


def test_two_patients_with_the_same_study_instance_uid_do_not_supersede_each_other(ledger: Ledger) -> None:
    settle_each(ledger, a_job("a", orthanc_id="one"), a_job("b", orthanc_id="other"))
    assert {record.state for record in ledger.jobs(study_instance_uid="1.2")} == {JobState.WAITING}


def test_a_database_that_is_away_is_an_error_of_ours(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    (tmp_path / "ledger.sqlite").unlink()
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(LedgerUnavailable, match="unable to open"):
        ledger.jobs()


@pytest.mark.parametrize("attempt", range(25))
def test_many_who_open_a_new_database_at_once_wait_for_each_other(tmp_path: Path, attempt: int) -> None:
    path = tmp_path / f"{attempt}.sqlite"
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE not_yet_in_wal_mode (number INTEGER)")
    at_once = Barrier(4)

    def open_it() -> None:
        ledger = Ledger(f"sqlite:///{path}")
        at_once.wait()
        with pytest.raises(ConfigurationError, match="at version None"):
            ledger.check_version()

    with ThreadPoolExecutor(4) as pool:
        for opened in [pool.submit(open_it) for _ in range(4)]:
            opened.result()


def test_what_the_table_forbids_is_never_written(ledger: Ledger) -> None:
    settle(ledger, a_job())
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


def test_results_of_a_model_that_does_not_read_the_changed_study_do_not_stay(ledger: Ledger) -> None:
    settle(ledger, a_job("a", fingerprint="before"))
    claim(ledger)
    assert finish(ledger)
    arrive(ledger, 2)
    (study,) = ledger.arriving()
    ledger.settle(study, [], present_uids=("9.9",), fingerprint="before", at=NOW)
    assert record(ledger).state is JobState.DONE, "the study is as it was"
    arrive(ledger, 3)
    (study,) = ledger.arriving()
    ledger.settle(study, [], present_uids=("9.9",), fingerprint="after", at=NOW)
    assert record(ledger).state is JobState.SUPERSEDED
    (job,) = ledger.outdated(at=NOW)
    assert ledger.outdated_uids(job) == {"9.9"}


def test_what_a_job_stored_in_part_before_it_failed_does_not_stay(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    ledger.start_storing("a", worker="w", result={"sop_instance_uids": ["9.9"]}, at=NOW)
    ledger.finish("a", JobState.FAILED, worker="w", reason="the disk is full", at=NOW)
    (job,) = ledger.outdated(at=NOW)
    assert ledger.outdated_uids(job) == {"9.9"}


def test_a_job_that_has_ended_is_not_reopened_by_the_worker_that_had_it(ledger: Ledger) -> None:
    settle(ledger, a_job())
    claim(ledger)
    assert finish(ledger)
    assert not ledger.try_again("a", worker="w", reason="it took too long", at=NOW, not_before=NOW)
    assert record(ledger).state is JobState.DONE


def test_a_worker_that_notices_late_that_a_study_changed_marks_it_no_more(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    claim(ledger)
    settle(ledger, a_job("b"))
    assert not ledger.start_over(a_job("a"), worker="w", reason="it changed", at=NOW)
    assert ledger.arriving() == []


def test_a_job_that_was_done_while_the_archive_was_listed_is_not_done_again(ledger: Ledger) -> None:
    settle(ledger, a_job())
    done_before = ledger.done_jobs("study")
    claim(ledger)
    assert finish(ledger)
    arrive(ledger, 2)
    (study,) = ledger.arriving()
    ledger.settle(study, [a_job()], present_uids=(), done_before=done_before, at=NOW)
    assert record(ledger).state is JobState.DONE


def test_jobs_for_another_version_of_a_model_are_planned_anew(ledger: Ledger) -> None:
    settle_each(ledger, a_job("old", orthanc_id="one"), a_job("now", orthanc_id="two", model_version="2"))
    assert ledger.replan({"m": "2"}, at=NOW) == ["old"]
    assert [study.orthanc_id for study in ledger.arriving()] == ["one"]
    assert record(ledger, "now").state is JobState.WAITING


def test_a_job_that_waits_takes_over_what_the_routes_say_now(ledger: Ledger) -> None:
    settle(ledger, a_job(queue="dead"))
    settle(ledger, a_job(queue="gpu", destinations=("pacs",)))
    assert (record(ledger).job.queue, record(ledger).job.destinations) == ("gpu", ("pacs",))


def test_a_listing_holds_up_nobody_who_writes(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    with ledger._reading() as reading:
        assert reading.execute(sa.text("SELECT count(*) FROM job")).scalar() == 0
        settle(ledger, a_job())
    assert len(ledger.jobs()) == 1


def published(ledger: Ledger, *jobs: Job) -> None:
    for job in jobs:
        study = ArrivingStudy(orthanc_id=job.orthanc_id, last_change=1, last_arrival_at=NOW)
        ledger.settle(study, [job], present_uids=(), at=NOW)
    ledger.queue_due(at=NOW)


def jobs_named(*names: str, **more: Any) -> list[Job]:
    """Jobs of one study each, made one second after the other."""
    return [
        a_job(name, orthanc_id=name, created_at=NOW + number * timedelta(seconds=1), **more)
        for number, name in enumerate(names)
    ]


def test_who_looks_ahead_sees_what_it_would_get_and_claims_nothing(ledger: Ledger) -> None:
    published(ledger, *jobs_named("a", "b"))
    for _ in range(2):
        ahead = ledger.look_ahead(worker="w", at=NOW)
        assert ahead is not None
        assert ahead.job_id == "a"
    assert record(ledger).state is JobState.QUEUED
    assert record(ledger).attempts == 0
    assert len(ledger.history("a")) == 2
    assert ledger.claim(worker="w", at=NOW, lease=MINUTE) == ahead
    assert ledger.look_ahead(worker="w", queues=["none"], at=NOW) is None


def test_two_workers_look_ahead_to_different_jobs_and_each_gets_its_own(ledger: Ledger) -> None:
    published(ledger, *jobs_named("a", "b", "c"))
    assert [ledger.look_ahead(worker=worker, at=NOW).job_id for worker in "vw"] == ["a", "b"]  # type: ignore[union-attr]
    claimed = [ledger.claim(worker=worker, at=NOW, lease=MINUTE) for worker in "wvv"]
    assert [job and job.job_id for job in claimed] == ["b", "a", "c"]


def test_what_another_worker_looked_ahead_to_is_taken_by_one_with_nothing_else_to_do(ledger: Ledger) -> None:
    published(ledger, *jobs_named("a"))
    assert ledger.look_ahead(worker="busy", at=NOW) is not None
    assert ledger.look_ahead(worker="idle", at=NOW) is None
    assert ledger.claim(worker="idle", at=NOW, lease=MINUTE) is not None
    assert ledger.claim(worker="busy", at=NOW, lease=MINUTE) is None


def test_a_stat_study_is_next_for_whoever_is_free_whoever_looked_ahead_to_it(ledger: Ledger) -> None:
    published(ledger, *jobs_named("a"), *jobs_named("stat", priority=Priority.STAT))
    ahead = ledger.look_ahead(worker="busy", at=NOW)
    claimed = ledger.claim(worker="free", at=NOW, lease=MINUTE)
    assert ahead is not None
    assert ahead == claimed
    assert ahead.job_id == "stat"


def test_a_job_is_not_left_for_long_to_a_worker_that_looked_ahead_to_it(ledger: Ledger) -> None:
    published(ledger, *jobs_named("a", "b", "c"))
    ledger.look_ahead(worker="busy", at=NOW)
    soon, late = NOW + LEFT_TO_ANOTHER / 2, NOW + 2 * LEFT_TO_ANOTHER
    claimed = [ledger.claim(worker="free", at=at, lease=MINUTE) for at in (soon, late)]
    assert [job and job.job_id for job in claimed] == ["b", "a"]


def test_nobody_looks_ahead_to_a_job_that_was_begun_or_that_another_worker_may_have_died_of(ledger: Ledger) -> None:
    published(ledger, *jobs_named("a", "b"))
    ledger.look_ahead(worker="dead", at=NOW)
    much_later = NOW + timedelta(days=1)
    ahead = ledger.look_ahead(worker="w", at=much_later)
    assert ahead is not None
    assert ahead.job_id == "b"
    ledger.claim(worker="w", at=NOW, lease=MINUTE)
    ledger.reclaim(at=much_later, attempts=10)
    ledger.queue_due(at=much_later)
    assert ledger.look_ahead(worker="w", at=much_later) is None


def test_many_workers_at_once_look_ahead_to_a_job_each(ledger: Ledger) -> None:
    names = [f"{number:02}" for number in range(12)]
    published(ledger, *jobs_named(*names))
    seen: list[str] = []

    def look(worker: str) -> None:
        job = ledger.look_ahead(worker=worker, at=NOW)
        seen.append(job.job_id if job else "")

    looking = [Thread(target=look, args=(f"w{number}",)) for number in range(8)]
    for thread in looking:
        thread.start()
    for thread in looking:
        thread.join()
    found = [job_id for job_id in seen if job_id]
    assert len(set(found)) == len(found) > 0


@pytest.mark.parametrize("ledger", ["PostgreSQL"], indirect=True)  # in SQLite, one at a time writes
def test_who_looks_ahead_hides_no_job_from_a_worker_that_is_free_at_this_moment(ledger: Ledger) -> None:
    published(ledger, *jobs_named("a"))
    with ledger._transaction() as looking:
        assert _mark_looked_ahead(looking, "a", worker="busy", at=NOW)
        assert ledger.claim(worker="free", at=NOW, lease=MINUTE) is not None


def test_nothing_stays_noted_of_who_looked_ahead_to_a_job_that_has_ended(ledger: Ledger) -> None:
    """Also if it was noted a moment after the job was claimed."""
    published(ledger, *jobs_named("a"))
    ledger.claim(worker="free", at=NOW, lease=MINUTE)
    with ledger._transaction() as late:
        assert _mark_looked_ahead(late, "a", worker="busy", at=NOW)
    assert ledger.finish("a", JobState.FAILED, worker="free", at=NOW)
    with ledger._reading() as connection:
        assert connection.execute(sa.select(LOOKED_AHEAD)).all() == []

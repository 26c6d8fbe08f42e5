"""What metrics say of a ledger: each row counts once, whoever restarts and in whatever order rows come."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coread.archive_run import RunStudyState
from coread.audit.event import Sender
from coread.errors import CoreadError, GeometryError, NoSuitableSeries, OutOfMemory, SourceGone, TransientError
from coread.job import JobState
from coread.ledger import Ledger, Wait
from coread.ledger.watching import RUNS_TOLD, Counted
from coread.metrics import catalogue
from coread.metrics.exposition import Scene, expose, named
from coread.metrics.tally import EDITION, OLD, SAVE_EVERY, SETTLED_AFTER, Tally, observed
from coread.process_report import ALIVE, FORGOTTEN, Gpu, ProcessKind, ProcessReport, ProcessSeen
from coread.reason_class import ReasonClass, reason_class_of
from coread.review import Verdict
from tests.archive_runs import begin, end
from tests.support import NOW, a_job

LEASE = timedelta(minutes=1)
MODELS = {"m": "1"}


def settle(ledger: Ledger, *job_ids: str, at: datetime = NOW, **more: Any) -> None:
    for job_id in job_ids:
        of_it = {"orthanc_id": f"study {job_id}", "study_instance_uid": f"1.2.{job_id}", "created_at": at, **more}
        ledger.note_arrivals({of_it["orthanc_id"]: 1}, archive_identity="orthanc", last_change=1, at=at)
        (study,) = ledger.arriving()
        ledger.settle(study, [a_job(job_id, **of_it)], present_uids=(), at=at)


def run(
    ledger: Ledger, end: JobState, *, at: datetime, reason_class: ReasonClass = ReasonClass.NONE, worker: str = "w"
) -> str:
    """Have the next job end."""
    ledger.queue_due(at=at)
    job = ledger.claim(worker=worker, at=at, lease=LEASE)
    assert job is not None
    result = {"seconds": {"fetch": 0.3, "infer": 1.5}, "sop_instance_uids": ["1.2.3"]}
    if end is JobState.DONE:
        assert ledger.start_storing(job.job_id, worker=worker, result=result, at=at)
    said: dict[str, Any] = {
        "reason": "because of Ophelia",
        "reason_class": reason_class,
        "at": at + timedelta(seconds=2),
    }
    if end is JobState.WAITING:
        assert ledger.try_again(job.job_id, worker=worker, not_before=at, **said)
    else:
        assert ledger.finish(job.job_id, end, worker=worker, result=result if end is JobState.DONE else None, **said)
    return job.job_id


def told(ledger: Ledger, tally: Tally | None = None, *, at: datetime = NOW, **more: Any) -> dict[str, float]:
    """What is exported: sample with its labels → value."""
    scene = Scene(
        at=at,
        started_at=NOW,
        version="1",
        orthanc="1.10.1",
        models=MODELS,
        totals=tally.totals if tally else {},
        standings=ledger.standings(),
        **more,
    )
    return samples(expose(scene).decode())


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def counted(ledger: Ledger, *steps: datetime) -> Tally:
    tally = Tally(ledger)
    for at in steps or (NOW,):
        tally.step(at=at)
    return tally


def test_a_study_that_goes_through_moves_the_numbers(ledger: Ledger) -> None:
    settle(ledger, "a", "b")
    later = NOW + timedelta(seconds=30)
    found = told(ledger, counted(ledger), at=later)
    assert found["coread_jobs_recorded_total{model=m,priority=routine}"] == 2
    assert found["coread_jobs{model=m,priority=routine,state=waiting}"] == 2
    assert found["coread_queue_jobs{priority=routine,queue=gpu}"] == 2
    assert found["coread_queue_oldest_seconds{priority=routine,queue=gpu}"] == 30
    assert found["coread_queue_oldest_seconds{priority=stat,queue=gpu}"] == 0
    assert found["coread_jobs_ended_total{model=m,priority=routine,state=done}"] == 0
    run(ledger, JobState.DONE, at=later)
    run(ledger, JobState.REFUSED, at=later, reason_class=ReasonClass.GEOMETRY)
    found = told(ledger, counted(ledger), at=later)
    assert found["coread_jobs_ended_total{model=m,priority=routine,state=done}"] == 1
    assert found["coread_jobs_ended_total{model=m,priority=routine,state=refused}"] == 1
    assert found["coread_job_reasons_total{model=m,reason=geometry,state=refused}"] == 1
    assert found["coread_queue_jobs{priority=routine,queue=gpu}"] == 0
    assert found["coread_job_stage_seconds_sum{model=m,stage=infer}"] == 1.5
    assert found["coread_job_stage_seconds_bucket{le=1.0,model=m,stage=infer}"] == 0
    assert found["coread_job_stage_seconds_bucket{le=2.0,model=m,stage=infer}"] == 1
    assert found["coread_job_turnaround_seconds_sum{model=m,priority=routine}"] == 32
    assert found["coread_job_wait_seconds_count{priority=routine}"] == 2


def test_why_jobs_wait_again_and_end_is_told_by_class_and_never_in_words(ledger: Ledger) -> None:
    settle(ledger, "a", "b")
    run(ledger, JobState.WAITING, at=NOW, reason_class=ReasonClass.AWAY)
    run(ledger, JobState.FAILED, at=NOW, reason_class=ReasonClass.UNEXPECTED)
    ledger.queue_due(at=NOW)
    ledger.claim(worker="w", at=NOW, lease=LEASE)
    ledger.reclaim(at=NOW + 2 * LEASE, attempts=10)
    found = told(ledger, counted(ledger))
    assert found["coread_job_attempts_failed_total{model=m,reason=neighbour_away}"] == 1
    assert found["coread_job_attempts_failed_total{model=m,reason=worker_silent}"] == 1
    assert found["coread_job_reasons_total{model=m,reason=unexpected,state=failed}"] == 1
    assert found["coread_jobs{model=m,priority=routine,state=failed}"] == 1
    assert not any("Ophelia" in name for name in found)


def test_counters_go_on_after_a_restart_and_count_no_row_twice(ledger: Ledger) -> None:
    settle(ledger, "a", "b", "c")
    run(ledger, JobState.DONE, at=NOW)
    much_later = NOW + OLD + SAVE_EVERY
    first = counted(ledger, NOW, much_later, much_later + SAVE_EVERY)
    saved = ledger.counted()
    assert saved is not None
    assert saved.marks["job"] > 0, "what is old enough is written down"
    assert counted(ledger, much_later).totals == first.totals
    run(ledger, JobState.DONE, at=much_later)
    found = told(ledger, counted(ledger, much_later))
    assert found["coread_jobs_ended_total{model=m,priority=routine,state=done}"] == 2
    assert found["coread_jobs_recorded_total{model=m,priority=routine}"] == 3


def test_a_row_that_becomes_visible_late_is_counted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL: of two transactions that overlap, the one with the lower number may be the later to end."""
    settle(ledger, "a", "b")
    hidden: list[int] = [1]
    shown = ledger.numbers_after
    monkeypatch.setattr(
        ledger, "numbers_after", lambda *of, limit: [each for each in shown(*of, limit=limit) if each not in hidden]
    )
    tally = counted(ledger, NOW)
    assert told(ledger, tally)["coread_jobs_recorded_total{model=m,priority=routine}"] == 1
    hidden.clear()
    for seconds in (5, 10, 2 * SETTLED_AFTER.total_seconds(), 1000):
        tally.step(at=NOW + timedelta(seconds=seconds))
    assert told(ledger, tally)["coread_jobs_recorded_total{model=m,priority=routine}"] == 2


def test_two_that_count_do_not_count_double(ledger: Ledger) -> None:
    settle(ledger, "a")
    one, other = counted(ledger, NOW), counted(ledger, NOW)
    later = NOW + OLD + SAVE_EVERY
    for at in (later, later + SAVE_EVERY, later + 2 * SAVE_EVERY):
        one.step(at=at)
        other.step(at=at)
    settle(ledger, "b", at=later)
    for tally in (one, other):
        tally.step(at=later + 3 * SAVE_EVERY)
        tally.step(at=later + 4 * SAVE_EVERY)
        assert told(ledger, tally)["coread_jobs_recorded_total{model=m,priority=routine}"] == 2


def test_totals_that_were_counted_in_another_way_are_thrown_away(ledger: Ledger) -> None:
    settle(ledger, "a")
    key = [catalogue.JOBS_RECORDED.name, ["m", "routine"], "", 77]
    assert ledger.note_counted(Counted(edition=EDITION + 1, marks={"job": 99}, totals=[key]), before={})
    found = told(ledger, counted(ledger))
    assert found["coread_jobs_recorded_total{model=m,priority=routine}"] == 1


def test_a_long_ledger_is_counted_in_pieces(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coread.metrics.tally.ROWS_A_STEP", 2)
    settle(ledger, *"abcde")
    tally, behind = Tally(ledger), [True]
    while behind[-1]:
        tally.step(at=NOW)
        behind.append(tally.is_behind)
    assert len(behind) > 3, "not all at once"
    assert told(ledger, tally)["coread_jobs_recorded_total{model=m,priority=routine}"] == 5


def test_a_job_that_runs_anew_waits_since_then(ledger: Ledger) -> None:
    settle(ledger, "a")
    job_id = run(ledger, JobState.FAILED, at=NOW)
    next_week = NOW + timedelta(days=7)
    assert ledger.retry(job_id, at=next_week)
    found = told(ledger, at=next_week + timedelta(seconds=5))
    assert found["coread_queue_oldest_seconds{priority=routine,queue=gpu}"] == 5


def test_studies_that_arrive_wait_and_are_stalled_are_told_apart(ledger: Ledger) -> None:
    for number, (name, wait) in enumerate(
        {
            "arrives": Wait(),
            "waits": Wait(waits_for="the quiet time"),
            "stalled": Wait(waits_for="more", stalled=True),
        }.items(),
        start=1,
    ):
        ledger.note_arrivals({name: number}, archive_identity="orthanc", last_change=number, at=NOW)
        (study,) = (each for each in ledger.arriving() if each.orthanc_id == name)
        ledger.note_wait(study, wait)
    found = told(ledger, at=NOW + timedelta(minutes=1))
    for wait_of in ("arriving", "waiting", "stalled"):
        assert found[f"coread_studies_waiting{{wait={wait_of}}}"] == 1
        assert found[f"coread_studies_waiting_oldest_seconds{{wait={wait_of}}}"] == 60


def test_deliveries_and_reviews_are_counted(ledger: Ledger) -> None:
    settle(ledger, "a", destinations=("pacs", "research"))
    job_id = run(ledger, JobState.DONE, at=NOW)
    assert ledger.review(job_id, verdict=Verdict.REJECTED, who="anna", reader="Doe^Anna", comment="Ophelia", at=NOW)
    (cancelled,) = (each for each in ledger.deliveries() if each.destination == "research")
    assert ledger.cancel_delivery(cancelled.delivery_id, at=NOW)
    found = told(ledger, counted(ledger), at=NOW + timedelta(seconds=9), destinations=("pacs", "quiet"))
    assert found["coread_deliveries{destination=pacs,state=waiting}"] == 1
    assert found["coread_deliveries{destination=quiet,state=waiting}"] == 0
    assert found["coread_delivery_oldest_seconds{destination=pacs}"] == pytest.approx(7, abs=0.1)
    assert found["coread_deliveries_ended_total{destination=research,state=cancelled}"] == 1
    assert found["coread_reviews_total{model=m,source=page,verdict=rejected}"] == 1
    assert found["coread_reviews_total{model=m,source=page,verdict=accepted}"] == 0
    assert found["coread_review_objects{state=asked}"] == 1
    assert not any(word in name for name in found for word in ("Ophelia", "anna", "Doe"))


def test_studies_that_were_received_and_requests_that_were_denied_are_counted(ledger: Ledger) -> None:
    ledger.note_arrivals({"study": 1}, archive_identity="orthanc", last_change=1, at=NOW)
    (study,) = ledger.arriving()
    senders = [Sender(protocol="DicomProtocol", aet="OPHELIA", address="10.0.0.7", sop_classes={})]
    ledger.settle(study, [a_job()], present_uids=(), study_instance_uid="1.2", senders=senders, at=NOW)
    ledger.note_denied(user="ophelia", details={"times": 3}, at=NOW)
    found = told(ledger, counted(ledger))
    assert found["coread_studies_received_total{}"] == 1
    assert found["coread_requests_denied_total{}"] == 3
    assert not any("ophelia" in name.lower() for name in found)


def a_report(name: str = "reader:1", *, host: str = "reader", **more: Any) -> ProcessReport:
    values: dict[str, Any] = {
        "kind": ProcessKind.WORKER,
        "version": "1",
        "started_at": NOW,
        "told_at": NOW,
        "memory_bytes": 5,
        "queues": ("gpu",),
        "models": {"m": {"version": "1", "digest": "ab", "device": "cuda:0", "engine": "torch"}},
        "gpus": (Gpu(name="H200", memory_used_bytes=1, memory_total_bytes=4, utilisation=0.5),),
    }
    return ProcessReport(name=name, host=host, **{**values, **more})


def test_a_worker_is_heard_of_and_missed_and_forgotten(ledger: Ledger) -> None:
    before = time.time()
    ledger.note_alive(a_report(), at=NOW)
    (seen,) = ledger.processes(at=NOW)
    assert seen.report == a_report()
    assert seen.is_alive
    if ledger._engine.dialect.name == "postgresql":
        assert abs(seen.seen_at.timestamp() - before) < 60, "the server's clock counts"
        return
    assert seen.clock_offset_s == 0
    assert [each.is_alive for each in ledger.processes(at=NOW + 2 * ALIVE)] == [False]
    ledger.note_alive(a_report("reader:2"), at=NOW + 2 * FORGOTTEN)
    assert [each.report.name for each in ledger.processes(at=NOW)] == ["reader:2"]
    ledger.forget_process("reader:2")
    assert ledger.processes(at=NOW) == []


def seen(report: ProcessReport, *, is_alive: bool = True) -> ProcessSeen:
    return ProcessSeen(report=report, seen_at=NOW, clock_offset_s=0.25, is_alive=is_alive)


def test_workers_have_labels_that_outlive_them(ledger: Ledger) -> None:
    settle(ledger, "a")
    processes = (
        seen(a_report("reader:7:ab")),
        seen(a_report("reader:9:cd")),
        seen(a_report("reader:1:ef"), is_alive=False),
    )
    found = told(ledger, processes=processes)
    assert found["coread_processes{kind=worker}"] == 2
    assert found["coread_processes{kind=courier}"] == 0
    assert found["coread_queue_workers{queue=gpu}"] == 2
    assert found["coread_gpu_memory_used_bytes{gpu=0 H200,process=reader/worker-1}"] == 1
    assert found["coread_gpu_utilisation_ratio{gpu=0 H200,process=reader/worker-2}"] == 0.5
    assert found["coread_process_clock_offset_seconds{process=reader/worker-1}"] == 0.25
    assert not any("reader:" in name for name in found)
    assert list(named(processes)) == ["reader/worker-1", "reader/worker-2", "reader/worker-3"]


def test_writing_can_be_tried_without_a_trace(ledger: Ledger) -> None:
    assert abs(ledger.check_writing().timestamp() - time.time()) < 60
    assert ledger.counted() is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NoSuitableSeries("x"), ReasonClass.NO_SERIES),
        (GeometryError("x"), ReasonClass.GEOMETRY),
        (SourceGone("x"), ReasonClass.GONE),
        (OutOfMemory("x"), ReasonClass.MEMORY),
        (LookupError("x"), ReasonClass.UNEXPECTED),
    ],
)
def test_the_class_of_a_reason_is_told_by_the_type_of_the_error(error: Exception, reason: ReasonClass) -> None:
    assert reason_class_of(error) is reason


def kinds_of(error: type[CoreadError]) -> Iterable[type[CoreadError]]:
    for kind in error.__subclasses__():
        yield kind
        yield from kinds_of(kind)


def test_no_error_of_ours_is_unexpected_to_those_who_count() -> None:
    of_jobs = [kind for kind in kinds_of(CoreadError) if kind.__name__ not in ("DeliveryRefused", "RequestRefused")]
    ours = [kind for kind in of_jobs if kind.__module__ == "coread.errors"]
    assert [kind for kind in ours if reason_class_of(kind("x")) is ReasonClass.UNEXPECTED] == []
    assert reason_class_of(TransientError("x")) is ReasonClass.TRANSIENT


def test_what_is_no_duration_is_not_observed() -> None:
    for value in (float("nan"), float("inf"), -1.0):
        assert list(observed(catalogue.JOB_WAIT_SECONDS, "stat", value=value)) == []


def test_a_ledger_that_is_away_is_said_and_its_numbers_are_left_out() -> None:
    scene = Scene(at=NOW, started_at=NOW, version="1", orthanc="", models=MODELS)
    found = samples(expose(scene).decode())
    assert found["coread_ledger_up{}"] == 0
    assert "coread_queue_jobs{priority=stat,queue=gpu}" not in found


def test_archive_runs_are_told_until_they_are_over(ledger: Ledger, tmp_path: Path) -> None:
    begin(ledger, tmp_path, run_id="abc1", studies=3)
    begin(ledger, tmp_path, run_id="abc2", name="Ophelia", studies=1)
    end(ledger, "abc1", RunStudyState.FAILED)
    end(ledger, "abc2")
    found = told(ledger, at=datetime.now(UTC) + timedelta(hours=1))
    assert (found["coread_archive_runs{state=running}"], found["coread_archive_runs{state=finished}"]) == (1, 1)
    assert found["coread_archive_studies{run=abc1,state=failed}"] == 1
    assert found["coread_archive_studies{run=abc1,state=due}"] == 2
    assert found["coread_archive_oldest_seconds{}"] >= 3600
    assert not any("abc2" in sample or "Ophelia" in sample for sample in found)


def test_many_archive_runs_give_few_series(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(RUNS_TOLD + 2):
        begin(ledger, tmp_path, run_id=f"abc{number:02d}", studies=1)
    runs = {sample.partition("run=")[2][:5] for sample in told(ledger) if "coread_archive_studies" in sample}
    assert len(runs) == RUNS_TOLD


def test_labels_are_those_of_the_catalogue(ledger: Ledger) -> None:
    settle(ledger, "a", destinations=("pacs",))
    run(ledger, JobState.DONE, at=NOW)
    scene = Scene(
        at=NOW,
        started_at=NOW,
        version="1",
        orthanc="1",
        models=MODELS,
        totals=counted(ledger).totals,
        standings=ledger.standings(),
        processes=(seen(a_report()),),
    )
    for family in text_string_to_metric_families(expose(scene).decode()):
        for sample in family.samples:
            metric = catalogue.BY_NAME.get(family.name) or catalogue.BY_NAME[f"{family.name}_total"]
            assert set(sample.labels) - {"le"} == set(metric.labels), sample

from datetime import timedelta
from typing import Any

from coread.job import JobState
from coread.ledger.jobs import JobRecord
from coread.timeline import devices_of, drawn, rows_of
from tests.support import NOW, a_job


def timed(name: str, *, worker: str = "w", **stages: tuple[float, float]) -> JobRecord:
    """A job whose stages ran from one second to another after NOW."""
    at = {
        stage: [(NOW + timedelta(seconds=second)).isoformat() for second in seconds]
        for stage, seconds in stages.items()
    }
    result: dict[str, Any] = {"stages": at} if stages else {}
    return JobRecord(job=a_job(name), state=JobState.DONE, reason="", attempts=1, worker=worker, result=result)


def test_the_device_is_busy_from_the_first_study_in_the_model_to_the_last() -> None:
    records = [timed("b", fetch=(4, 5), infer=(6, 10), store=(10, 20)), timed("a", fetch=(0, 1), infer=(1, 4))]
    (device,) = devices_of(rows_of(records))
    assert (device.jobs, device.busy_s, device.of_s) == (2, 7.0, 9.0)
    assert device.share == 7 / 9


def test_each_worker_has_a_device_of_its_own_and_what_overlaps_counts_once() -> None:
    records = [timed("a", infer=(0, 4)), timed("b", infer=(2, 6)), timed("c", worker="v", infer=(0, 1))]
    shares = {device.worker: (device.busy_s, device.of_s) for device in devices_of(rows_of(records))}
    assert shares == {"w": (6.0, 6.0), "v": (1.0, 1.0)}


def test_jobs_that_were_not_timed_are_left_out_and_the_others_stand_as_they_were_on_the_device() -> None:
    records = [
        timed("late", infer=(5, 6)),
        timed("waits"),
        timed("refused", fetch=(3, 4)),
        timed("early", infer=(1, 2)),
    ]
    assert [row.job_id for row in rows_of(records)] == ["early", "refused", "late"]


def test_a_row_is_drawn_with_the_stage_that_fills_most_of_each_column() -> None:
    (row,) = rows_of([timed("a", fetch=(1, 2), infer=(2, 4.4), measure=(4.4, 5), encode=(5, 5.5), store=(7, 8))])
    line = drawn(row, begin=NOW, end=NOW + timedelta(seconds=8), columns=8)
    assert line == "·f██me·s"

"""The ledger's archive runs: exact to the study, whatever is interrupted, and apart from all clinical work."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from coread.archive_run import Copy, Run, RunState, RunStudy, RunStudyState, Terms
from coread.audit.event import AuditKind
from coread.delivery import DeliveryState, ObjectState
from coread.errors import ConfigurationError
from coread.job import Job, JobState, Priority
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.archive_runs import KEPT_FOR_RETRY, Pace
from coread.ledger.arrivals import FOR_RUN, mark_arriving
from coread.ledger.run_links import RunLink, count
from coread.ledger.tables import JOB
from coread.objects import Profile
from tests.support import NOW, a_job

MINUTE = timedelta(minutes=1)
ME = "archivist"
TERMS = Terms(source="pacs", models=("m",), profiles=(Profile.OHIF,), folder="/runs/r")
PACE = Pace(in_flight=100, associations=100)
RESULT = {"model": "m", "sop_instance_uids": ["2.25.1"], "sop_class_uids": ["1.2"]}


def start(ledger: Ledger, run_id: str = "r", *, studies: Sequence[str] = ("1.2",), **more: Any) -> None:
    values = {"name": run_id, "terms": TERMS, "plan_digest": run_id, "by": "ada", "at": NOW}
    ledger.start_run(run_id, studies=[(uid, None) for uid in studies], **{**values, **more})
    ledger.attend_runs(archivist=ME, at=NOW, lease=MINUTE)


def take(ledger: Ledger, run_id: str = "r", *, pace: Pace = PACE, at: Any = NOW) -> RunStudy | None:
    return ledger.take_due(run_id, archivist=ME, pace=pace, at=at)


def taken(ledger: Ledger, run_id: str = "r") -> RunStudy:
    study = take(ledger, run_id)
    assert study is not None
    return study


def bring(ledger: Ledger, run_id: str = "r", *, copy: Copy = Copy.OURS, orthanc_id: str = "study") -> RunStudy:
    """The next study of a run is here."""
    study = taken(ledger, run_id)
    ledger.note_copy(study, copy)
    values: dict[str, Any] = {"orthanc_id": orthanc_id, "instances": 3, "size": 9, "brought": "x", "source": "pacs"}
    assert ledger.note_here(study, copy=copy, **values, at=NOW)
    return study


def settle(ledger: Ledger, *jobs: Job, run_id: str = "r", orthanc_id: str = "study", **more: Any) -> None:
    """The intake settles a study for the run alone."""
    study = ArrivingStudy(orthanc_id=orthanc_id, last_change=FOR_RUN, last_arrival_at=NOW)
    link = {"run_id": run_id, "position": 0, "models": ("m",), **more}
    for_runs = [job.job_id for job in jobs]
    ledger.settle(study, jobs, present_uids=(), at=NOW, for_runs=for_runs, links=[RunLink(**link)])


def settle_clinically(ledger: Ledger, *jobs: Job, present: Sequence[str] = ()) -> None:
    study = ArrivingStudy(orthanc_id="study", last_change=7, last_arrival_at=NOW)
    ledger.settle(study, jobs, present_uids=present, at=NOW)


def do(ledger: Ledger, job_id: str, *, end: JobState = JobState.DONE) -> None:
    ledger.queue_due(at=NOW)
    claimed = ledger.claim(worker="w", at=NOW, lease=MINUTE)
    assert claimed is not None
    assert claimed.job_id == job_id
    assert ledger.start_storing(job_id, worker="w", result=RESULT, at=NOW)
    assert ledger.finish(job_id, end, worker="w", result=RESULT, at=NOW)


def end(ledger: Ledger, study: RunStudy, state: RunStudyState = RunStudyState.DONE) -> bool:
    values: dict[str, Any] = {"reason": "", "is_permanent": False, "copy": Copy.REMOVED, "removed": 3}
    return ledger.note_ended(study, state, **values, at=NOW)


def run_of(ledger: Ledger, run_id: str = "r") -> Run:
    found = ledger.run(run_id)
    assert found is not None
    counted = dict.fromkeys(RunStudyState, 0)
    for study in ledger.run_studies(run_id, limit=10_000):
        counted[study.state] += 1
    assert {state: found.count(state) for state in RunStudyState} == counted
    return found


def job_state(ledger: Ledger, job_id: str) -> tuple[JobState, Priority]:
    record = ledger.job(job_id)
    assert record is not None
    return record.state, record.job.priority


# Loading --------------------------------------------------------------------------------------------------------------


def test_a_run_whose_loading_was_interrupted_goes_on_where_it_was(ledger: Ledger) -> None:
    uids = [f"1.2.{number}" for number in range(2500)]

    def breaks_off() -> Any:
        for number, uid in enumerate(uids):
            if number == 1700:
                raise KeyboardInterrupt
            yield uid, number

    values: dict[str, Any] = {"name": "r", "terms": TERMS, "plan_digest": "d", "by": "ada", "at": NOW}
    with pytest.raises(KeyboardInterrupt):
        ledger.start_run("r", studies=breaks_off(), **values)
    assert run_of(ledger).state is RunState.LOADING
    assert ledger.attend_runs(archivist=ME, at=NOW, lease=MINUTE) == []
    for _ in range(2):
        ledger.start_run("r", studies=((uid, number) for number, uid in enumerate(uids)), **values)
    run = run_of(ledger)
    assert (run.state, run.studies, run.count(RunStudyState.DUE)) == (RunState.RUNNING, 2500, 2500)
    found = ledger.run_studies("r", limit=10_000)
    assert [(each.position, each.study_instance_uid, each.stated_instances) for each in found] == [
        (number, uid, number) for number, uid in enumerate(uids)
    ]
    assert [each.kind for each in ledger.audit()] == [AuditKind.RUN_STARTED]


def test_another_plan_does_not_become_part_of_a_run(ledger: Ledger) -> None:
    start(ledger)
    with pytest.raises(ConfigurationError, match="another plan"):
        start(ledger, plan_digest="other")


def test_a_run_of_no_studies_is_over(ledger: Ledger) -> None:
    start(ledger, studies=())
    assert run_of(ledger).state is RunState.FINISHED


# Taking ---------------------------------------------------------------------------------------------------------------


def test_no_more_are_begun_than_the_terms_let(ledger: Ledger) -> None:
    start(ledger, studies=[f"1.{number}" for number in range(9)])
    pace = Pace(in_flight=3, associations=2)
    assert take(ledger, pace=pace)
    first = run_of(ledger)
    assert take(ledger, pace=pace)
    assert take(ledger, pace=pace) is None
    assert first.in_flight == 1
    study = ledger.run_studies("r", states=[RunStudyState.RETRIEVING])[0]
    values: dict[str, Any] = {"orthanc_id": "o", "instances": 3, "size": 9, "brought": "x", "source": "pacs"}
    ledger.note_here(study, copy=Copy.OURS, **values, at=NOW)
    assert take(ledger, pace=pace)
    assert take(ledger, pace=replace(pace, associations=9)) is None
    assert run_of(ledger).in_flight == 3


def test_studies_are_begun_an_interval_apart(ledger: Ledger) -> None:
    start(ledger, studies=["1.1", "1.2"])
    pace = replace(PACE, interval=timedelta(seconds=20))
    assert take(ledger, pace=pace)
    assert take(ledger, pace=pace, at=NOW + timedelta(seconds=19)) is None
    assert take(ledger, pace=pace, at=NOW + timedelta(seconds=20))


def test_one_that_is_tried_again_goes_first_when_it_is_due(ledger: Ledger) -> None:
    start(ledger, studies=["1.1", "1.2", "1.3"])
    study = taken(ledger)
    later = NOW + MINUTE
    ledger.put_off_study(study, reason="busy", not_before=later, counts=True, copy=Copy.UNKNOWN, at=NOW)
    assert taken(ledger).position == 1
    again = take(ledger, at=later)
    assert again is not None
    assert (again.position, again.attempts, again.reason) == (0, 2, "busy")


def test_what_is_not_counted_as_an_attempt_is_none(ledger: Ledger) -> None:
    start(ledger)
    for _ in range(5):
        study = taken(ledger)
        ledger.put_off_study(study, reason="away", not_before=None, counts=False, copy=Copy.UNKNOWN, at=NOW)
    assert taken(ledger).attempts == 1


def test_a_run_is_one_archivists_until_its_lease_has_ended(ledger: Ledger) -> None:
    start(ledger)
    other = "another"
    assert ledger.attend_runs(archivist=other, at=NOW, lease=MINUTE) == []
    assert ledger.take_due("r", archivist=other, pace=PACE, at=NOW) is None
    later = NOW + 2 * MINUTE
    assert [run.run_id for run in ledger.attend_runs(archivist=other, at=later, lease=MINUTE)] == ["r"]
    assert take(ledger, at=later) is None
    assert ledger.take_due("r", archivist=other, pace=PACE, at=later)
    assert ledger.archivist_seen_at() == later


@pytest.mark.parametrize("stop", ["pause_run", "cancel_run"])
def test_of_a_run_that_is_held_no_study_is_begun(ledger: Ledger, stop: str) -> None:
    start(ledger)
    assert getattr(ledger, stop)("r", by="ada", reason="enough", at=NOW)
    assert take(ledger) is None
    assert run_of(ledger).reason == "enough"


def test_a_study_that_another_run_has_brought_is_left_to_it(ledger: Ledger) -> None:
    start(ledger, "first")
    start(ledger, "second")
    bring(ledger, "first")
    second = taken(ledger, "second")
    assert ledger.is_carried_elsewhere(second)
    first = ledger.run_studies("first")[0]
    assert not ledger.is_carried_elsewhere(first)
    end(ledger, first)
    assert not ledger.is_carried_elsewhere(second)


def test_of_two_runs_that_take_a_study_at_once_one_goes_first(ledger: Ledger) -> None:
    start(ledger, "first")
    start(ledger, "second")
    studies = [taken(ledger, "second"), taken(ledger, "first")]
    assert sorted(ledger.is_carried_elsewhere(study) for study in studies) == [False, True]


@pytest.mark.parametrize("copy", [Copy.BEFORE, Copy.SHARED])
def test_what_a_run_finds_that_another_has_left_stays_for_both(ledger: Ledger, copy: Copy) -> None:
    for run_id in ("kept", "first", "second"):
        start(ledger, run_id)
    ledger.note_ended(bring(ledger, "kept"), RunStudyState.DONE, reason="", is_permanent=False, copy=Copy.OURS, at=NOW)
    first = taken(ledger, "first")
    assert ledger.note_copy(first, Copy.OURS)
    ledger.put_off_study(first, reason="away", not_before=None, counts=False, copy=Copy.OURS, at=NOW)
    bring(ledger, "second", copy=copy)
    copies = [ledger.run_studies(run_id)[0].copy for run_id in ("kept", "first", "second")]
    assert copies == [Copy.OURS, Copy.SHARED, copy]


# Reading --------------------------------------------------------------------------------------------------------------


def test_a_study_goes_its_way_and_the_run_is_over_with_the_last(ledger: Ledger) -> None:
    start(ledger)
    study = bring(ledger)
    assert [each.last_change for each in ledger.arriving()] == [FOR_RUN]
    settle(ledger, a_job())
    assert ledger.arriving() == []
    assert run_of(ledger).count(RunStudyState.READING) == 1
    assert job_state(ledger, "a") == (JobState.WAITING, Priority.BATCH)
    assert ledger.read_studies("r", limit=9) == []
    do(ledger, "a")
    ((read, records),) = ledger.read_studies("r", limit=9)
    assert [record.job.job_id for record in records] == ["a"]
    assert ledger.note_collected(read, at=NOW)
    assert not ledger.note_collected(read, at=NOW)
    assert [each.position for each, _ in ledger.collected_studies("r", limit=9)] == [0]
    assert end(ledger, study)
    assert not end(ledger, study)
    run = run_of(ledger)
    assert (run.state, run.ended_at, run.ended) == (RunState.FINISHED, NOW, 1)
    kinds = [each.kind for each in ledger.audit(study_instance_uid="1.2")]
    assert {AuditKind.COPY_RETRIEVED, AuditKind.COPY_REMOVED} <= set(kinds)
    assert AuditKind.RECEIVED not in kinds
    assert AuditKind.RUN_FINISHED in [each.kind for each in ledger.audit()]
    assert ledger.run_jobs("r", limit=9) == [(0, "a")]
    assert ledger.ended_since("r", since=NOW) == 1


def test_a_finding_of_a_run_raises_nothing(ledger: Ledger) -> None:
    start(ledger)
    bring(ledger)
    settle(ledger, a_job())
    do(ledger, "a")
    assert ledger.findings_due() == []


def test_what_is_done_is_not_done_again_for_a_run_though_its_results_are_gone(ledger: Ledger) -> None:
    settle_clinically(ledger, a_job())
    do(ledger, "a")
    start(ledger)
    bring(ledger)
    settle(ledger, a_job())
    assert job_state(ledger, "a") == (JobState.DONE, Priority.ROUTINE)
    assert [len(records) for _, records in ledger.read_studies("r", limit=9)] == [1]


def test_what_the_same_version_has_read_for_other_objects_is_not_read_again(ledger: Ledger) -> None:
    settle_clinically(ledger, a_job("clinical", fingerprint="f", profiles=(Profile.LEGACY,)))
    do(ledger, "clinical")
    start(ledger)
    bring(ledger)
    settle(ledger, a_job("other", fingerprint="f"))
    assert ledger.run_jobs("r", limit=9) == [(0, "clinical")]
    assert ledger.job("other") is None


def test_a_run_of_a_new_version_takes_the_place_of_the_old_result(ledger: Ledger) -> None:
    settle_clinically(ledger, a_job("old", fingerprint="f"))
    do(ledger, "old")
    start(ledger)
    bring(ledger, copy=Copy.BEFORE)
    settle(ledger, a_job("new", fingerprint="f", model_version="2"))
    assert job_state(ledger, "old")[0] is JobState.SUPERSEDED
    assert job_state(ledger, "new") == (JobState.WAITING, Priority.BATCH)


@pytest.mark.parametrize(
    ("state", "is_retry", "runs_again"),
    [
        (JobState.FAILED, False, True),
        (JobState.REFUSED, False, False),
        (JobState.REFUSED, True, True),
        (JobState.DONE, True, False),
    ],
)
def test_what_ended_otherwise_runs_again_for_a_run(
    ledger: Ledger,
    state: JobState,
    is_retry: bool,
    runs_again: bool,
) -> None:
    settle_clinically(ledger, a_job())
    do(ledger, "a", end=state)
    start(ledger)
    bring(ledger)
    settle(ledger, a_job(), is_retry=is_retry)
    assert job_state(ledger, "a")[0] is (JobState.WAITING if runs_again else state)
    if not runs_again:
        return
    assert job_state(ledger, "a")[1] is Priority.BATCH
    do(ledger, "a", end=state)
    settle(ledger, a_job(), is_retry=is_retry, is_first=False)
    assert job_state(ledger, "a")[0] is state  # once in an attempt


def test_a_job_of_a_run_becomes_urgent_when_a_route_wants_it_and_never_less_urgent(ledger: Ledger) -> None:
    start(ledger)
    bring(ledger)
    settle(ledger, a_job(destinations=("research",)))
    settle_clinically(ledger, a_job(priority=Priority.STAT, destinations=("pacs",)))
    assert job_state(ledger, "a")[1] is Priority.STAT
    settle(ledger, a_job())
    assert job_state(ledger, "a")[1] is Priority.STAT
    do(ledger, "a")
    assert [job.job_id for job, _ in ledger.findings_due()] == ["a"]


def test_what_a_run_had_read_is_judged_and_delivered_when_a_route_wants_it(ledger: Ledger) -> None:
    start(ledger)
    bring(ledger)
    settle(ledger, a_job())
    do(ledger, "a")
    settle_clinically(ledger, a_job(destinations=("pacs",)), present=RESULT["sop_instance_uids"])
    assert job_state(ledger, "a")[0] is JobState.DONE
    assert [job.job_id for job, _ in ledger.findings_due()] == ["a"]
    assert [(each.destination, each.state) for each in ledger.deliveries()] == [("pacs", DeliveryState.WAITING)]


def test_a_study_is_not_read_before_its_results_are_delivered(ledger: Ledger) -> None:
    start(ledger)
    bring(ledger)
    settle(ledger, a_job(destinations=("research",)))
    do(ledger, "a")
    assert ledger.read_studies("r", limit=9) == []
    (delivery,) = ledger.deliveries()
    assert ledger.cancel_delivery(delivery.delivery_id, at=NOW)
    assert len(ledger.read_studies("r", limit=9)) == 1


def fail_delivery(ledger: Ledger) -> int:
    """The destination refuses the results for good; the delivery."""
    delivery = ledger.claim_delivery("research", courier="c", at=NOW, lease=MINUTE)
    assert delivery is not None
    (uid,) = delivery.uids(set(ObjectState))
    assert ledger.begin_object(delivery.delivery_id, uid, courier="c")
    ledger.note_object(delivery.delivery_id, uid, ObjectState.REFUSED, reason="no such class")
    state = ledger.put_down(delivery.delivery_id, courier="c", at=NOW, retry_at=NOW, ask_at=NOW)
    assert state is DeliveryState.FAILED
    return delivery.delivery_id


def undelivered(ledger: Ledger, *, copy: Copy = Copy.OURS) -> int:
    """A run's study is read, and the delivery of its results has failed."""
    start(ledger)
    bring(ledger, copy=copy)
    settle(ledger, a_job(destinations=("research",)))
    do(ledger, "a")
    return fail_delivery(ledger)


@pytest.mark.parametrize("wish", ["retry", "cancel"])
def test_a_copy_is_kept_until_a_person_has_seen_to_a_delivery_that_failed(ledger: Ledger, wish: str) -> None:
    delivery_id = undelivered(ledger)
    assert ledger.read_studies("r", limit=9) == []
    assert ledger.note_undelivered("r", removes=True, limit=9) == 1
    (study,) = ledger.run_studies("r")
    assert study.reason == f"delivery {delivery_id} to research has failed; {KEPT_FOR_RETRY}"
    if wish == "cancel":
        assert ledger.cancel_delivery(delivery_id, at=NOW)
    else:
        assert ledger.retry_delivery(delivery_id, at=NOW)
        assert ledger.read_studies("r", limit=9) == []
        assert ledger.note_undelivered("r", removes=True, limit=9) == 1
        assert ledger.run_studies("r")[0].reason == "", "it goes again"
        delivery = ledger.claim_delivery("research", courier="c", at=NOW, lease=MINUTE)
        assert delivery is not None
        assert ledger.begin_object(delivery_id, "2.25.1", courier="c")
        ledger.note_object(delivery_id, "2.25.1", ObjectState.CONFIRMED)
        state = ledger.put_down(delivery_id, courier="c", at=NOW, retry_at=NOW, ask_at=NOW)
        assert state is DeliveryState.CONFIRMED
    assert len(ledger.read_studies("r", limit=9)) == 1
    assert ledger.note_undelivered("r", removes=True, limit=9) == 0


@pytest.mark.parametrize(("copy", "removes"), [(Copy.OURS, False), (Copy.SHARED, True), (Copy.BEFORE, True)])
def test_what_stays_anyway_does_not_wait_for_a_delivery_that_failed(
    ledger: Ledger, copy: Copy, *, removes: bool
) -> None:
    undelivered(ledger, copy=copy)
    assert len(ledger.read_studies("r", limit=9, removes=removes)) == 1
    assert ledger.note_undelivered("r", removes=removes, limit=9) == 0


def test_a_delivery_that_cannot_be_retried_holds_no_copy(ledger: Ledger) -> None:
    undelivered(ledger)
    with ledger._transaction() as connection:
        connection.execute(sa.update(JOB).values(state=JobState.FAILED))  # it ran again, and failed then
    assert len(ledger.read_studies("r", limit=9)) == 1


def test_a_copy_is_not_removed_when_a_delivery_that_was_withdrawn_goes_again(ledger: Ledger) -> None:
    delivery_id = undelivered(ledger)
    assert ledger.cancel_delivery(delivery_id, at=NOW)
    ((study, _),) = ledger.read_studies("r", limit=9)
    assert ledger.note_collected(study, at=NOW)
    ((study, _),) = ledger.collected_studies("r", limit=9)
    assert ledger.is_delivered(study)
    assert ledger.retry_delivery(delivery_id, at=NOW)
    assert not ledger.is_delivered(study)
    assert ledger.collected_studies("r", limit=9) == []
    assert ledger.note_undelivered("r", removes=True, limit=9) == 1
    delivery = ledger.claim_delivery("research", courier="c", at=NOW, lease=MINUTE)
    assert delivery is not None
    assert ledger.begin_object(delivery_id, "2.25.1", courier="c")
    ledger.note_object(delivery_id, "2.25.1", ObjectState.REFUSED, reason="no such class")
    ledger.put_down(delivery_id, courier="c", at=NOW, retry_at=NOW, ask_at=NOW)
    assert ledger.note_undelivered("r", removes=True, limit=9) == 1
    assert KEPT_FOR_RETRY in ledger.run_studies("r")[0].reason, "a person must know what it waits for"


def test_a_study_whose_job_was_superseded_follows_the_one_in_its_place(ledger: Ledger) -> None:
    start(ledger)
    bring(ledger)
    settle(ledger, a_job("old"))
    ledger.replan({"m": "2"}, at=NOW)
    assert ledger.read_studies("r", limit=9) == []
    (wanted,) = ledger.wanted_by_runs("1.2", at=NOW)
    assert (wanted.state, wanted.has_standing_jobs) == (RunStudyState.READING, False)
    settle(ledger, a_job("new", model_version="2"), is_first=False)
    assert ledger.run_jobs("r", limit=9) == [(0, "new")]


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_study_whose_models_are_gone_is_wound_up_without_a_job(ledger: Ledger, *, is_begun: bool) -> None:
    start(ledger)
    bring(ledger)
    if is_begun:
        settle(ledger, a_job())
        ledger.replan({}, at=NOW)
    settle(ledger, are_there=False)
    assert [records for _, records in ledger.read_studies("r", limit=9)] == [[]]


def test_a_study_that_the_intake_has_lost_is_found(ledger: Ledger) -> None:
    start(ledger)
    study = bring(ledger)
    later = NOW + MINUTE
    assert ledger.stuck_studies("r", before=later, limit=9) == []
    ledger.settle(ledger.arriving()[0], [], present_uids=(), at=NOW)
    ((stuck),) = ledger.stuck_studies("r", before=later, limit=9)
    assert stuck.position == study.position
    ledger.have_settled(stuck, at=NOW)
    assert len(ledger.arriving()) == 1
    assert ledger.begin_again(stuck, reason="deleted", at=NOW)
    assert run_of(ledger).count(RunStudyState.DUE) == 1


# Somebody else's ------------------------------------------------------------------------------------------------------


def test_what_was_found_to_be_somebody_elses_stays_so_when_the_study_is_put_back(ledger: Ledger) -> None:
    start(ledger)
    study = taken(ledger)
    ledger.note_copy(study, Copy.OURS)
    ledger.share_copies("1.2")
    ledger.put_off_study(study, reason="away", not_before=None, counts=False, copy=Copy.OURS, at=NOW)
    assert taken(ledger).copy is Copy.SHARED


def test_a_study_that_turns_out_to_be_somebody_elses_too_is_settled_as_ever(ledger: Ledger) -> None:
    start(ledger)
    study = taken(ledger)
    ledger.note_copy(study, Copy.OURS)
    values: dict[str, Any] = {"orthanc_id": "study", "instances": 3, "size": 9, "brought": None, "source": "pacs"}
    assert ledger.note_here(study, copy=Copy.SHARED, **values, at=NOW)
    assert [each.last_change for each in ledger.arriving()] == [0]


def test_an_arrival_that_is_being_written_down_is_not_taken_for_a_runs(ledger: Ledger) -> None:
    start(ledger)
    with meanwhile(ledger, lambda: bring(ledger, copy=Copy.BEFORE)) as connection:
        mark_arriving(connection, "study", change=7, at=NOW)
    assert [each.last_change for each in ledger.arriving()] == [7]


def test_a_run_in_which_something_changes_at_this_moment_stays_attended(ledger: Ledger) -> None:
    start(ledger)
    attended: list[Run] = []
    with meanwhile(
        ledger, lambda: attended.extend(ledger.attend_runs(archivist=ME, at=NOW, lease=MINUTE))
    ) as connection:
        count(connection, "r", {RunStudyState.DUE: 0}, at=NOW)
    assert [run.run_id for run in attended] == ["r"]


@pytest.mark.parametrize("is_open", [True, False])
def test_routes_are_asked_again_where_a_run_takes_the_place_of_what_they_wait_for(
    ledger: Ledger, *, is_open: bool
) -> None:
    settle_clinically(ledger, a_job("old", fingerprint="f", destinations=("pacs",)))
    if not is_open:  # it is done, and on its way to the destination
        do(ledger, "old")
    start(ledger)
    bring(ledger, copy=Copy.BEFORE)
    settle(ledger, a_job("new", fingerprint="f", model_version="2"))
    assert [each.last_change for each in ledger.arriving()] == [0]
    settle_clinically(ledger, a_job("new", fingerprint="f", model_version="2", destinations=("pacs",)))
    do(ledger, "new")
    assert "new" in [job.job_id for job, _ in ledger.findings_due()]
    assert DeliveryState.WAITING in [each.state for each in ledger.deliveries(job_id="new")]


def test_routes_are_not_asked_again_where_all_that_they_wanted_was_delivered(ledger: Ledger) -> None:
    settle_clinically(ledger, a_job("old", fingerprint="f", destinations=("pacs",)))
    do(ledger, "old")
    (delivery,) = ledger.deliveries()
    ledger.cancel_delivery(delivery.delivery_id, at=NOW)
    start(ledger)
    bring(ledger, copy=Copy.BEFORE)
    settle(ledger, a_job("new", fingerprint="f", model_version="2"))
    assert ledger.arriving() == []


@contextmanager
def meanwhile(ledger: Ledger, work: Callable[[], object]) -> Iterator[sa.Connection]:
    """A transaction that ends after somebody else's ``work``, which meets it, has begun."""
    with ThreadPoolExecutor(1) as threads:
        with ledger._transaction() as connection:
            yield connection
            working = threads.submit(work)
            if connection.dialect.name == "postgresql":
                wait_until_held_up(ledger, working)
        working.result()


def wait_until_held_up(ledger: Ledger, working: "Future[object]") -> None:
    query = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    held_up = 0
    while not held_up and not working.done():
        with ledger._reading() as connection:
            held_up = connection.scalar(query) or 0


# Ends -----------------------------------------------------------------------------------------------------------------


def test_failures_are_listed_and_retried(ledger: Ledger) -> None:
    start(ledger, studies=["1.1", "1.2", "1.3"])
    for state in (RunStudyState.FAILED, RunStudyState.REFUSED, RunStudyState.DONE):
        end(ledger, taken(ledger), state)
    assert run_of(ledger).state is RunState.FINISHED
    failed = ledger.run_studies("r", states=[RunStudyState.FAILED, RunStudyState.REFUSED])
    assert [each.position for each in failed] == [0, 1]
    assert ledger.retry_run("r", by="ada", at=NOW) == 1
    run = run_of(ledger)
    assert (run.state, run.ended_at, run.count(RunStudyState.DUE)) == (RunState.RUNNING, None, 1)
    assert ledger.retry_run("r", refused=True, by="ada", at=NOW) == 1
    assert run_of(ledger).count(RunStudyState.DUE) == 2
    taken(ledger)
    (wanted,) = ledger.wanted_by_runs("1.1", at=NOW)
    assert wanted.is_retry


def test_a_cancelled_run_ends_when_what_was_begun_has(ledger: Ledger) -> None:
    start(ledger, studies=[f"1.{number}" for number in range(2200)])
    study = taken(ledger)
    assert ledger.cancel_run("r", by="ada", at=NOW)
    assert [ledger.withdraw_due("r", at=NOW) for _ in range(4)] == [1000, 1000, 199, 0]
    assert run_of(ledger).ended_at is None
    end(ledger, study)
    run = run_of(ledger)
    assert (run.state, run.ended_at, run.count(RunStudyState.CANCELLED)) == (RunState.CANCELLED, NOW, 2199)
    assert ledger.retry_run("r", by="ada", at=NOW) == 0
    assert not ledger.cancel_run("r", by="ada", at=NOW)


@pytest.mark.parametrize("copy", [Copy.OURS, Copy.SHARED])
def test_of_a_cancelled_run_what_stays_anyway_is_not_waited_for(ledger: Ledger, copy: Copy) -> None:
    start(ledger)
    study, later = taken(ledger), NOW + timedelta(hours=6)
    ledger.put_off_study(study, reason="less", not_before=later, counts=True, copy=copy, at=NOW)
    assert ledger.cancel_run("r", by="ada", at=NOW)
    assert (ledger.take_left("r", at=NOW) is not None) is (copy is Copy.SHARED)
    assert (ledger.take_left("r", at=later) is not None) is (copy is Copy.OURS)


def test_the_pace_may_change_while_a_run_goes_on(ledger: Ledger) -> None:
    start(ledger)
    pace: dict[str, Any] = {"hours": "19:00-07:00", "studies_per_minute": 2.5, "associations": 3, "in_flight": 20}
    assert ledger.change_pace("r", **pace, by="ada", at=NOW)
    terms = run_of(ledger).terms
    assert {name: getattr(terms, name) for name in pace} == pace
    assert terms.models == TERMS.models


def test_what_somebody_else_has_sent_of_is_no_copy_of_a_run_any_more(ledger: Ledger) -> None:
    start(ledger)
    bring(ledger)
    assert ledger.brought_by_runs({"study": "1.2", "other": "1.9"}) == {"study": "r"}
    ledger.share_copies("1.2")
    assert ledger.brought_by_runs({"study": "1.2"}) == {}
    assert ledger.run_studies("r")[0].copy is Copy.SHARED


def test_a_run_says_all_about_itself_in_json(ledger: Ledger) -> None:
    start(ledger)
    run = run_of(ledger)
    assert Terms.from_json(run.as_json()["terms"]) == TERMS
    assert run.as_json()["counts"]["due"] == 1
    study = ledger.run_studies("r")[0]
    assert study.as_json()["was_here"] is False

"""Workitems in the ledger and over its operations: one performer for each job, one job for each order."""

import tempfile
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coread.archive import Archive, Reference
from coread.errors import SourceGone
from coread.job import OUTSIDE, Job, JobState, Priority
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.raised import Verdict
from coread.plugin.ups import dataset as dicom
from coread.plugin.ups import rules
from coread.plugin.ups.dataset import BadRequest, Dataset
from coread.plugin.ups.events import FILTERED, GLOBAL, Events
from coread.plugin.ups.matching import query_of
from coread.plugin.ups.store import WorkitemStore
from coread.plugin.ups.worklist import Reply, Worklist
from coread.settings_ups import UpsSettings
from coread.workitem import FINAL, TABLE, Code, Request, WorkitemRefused, WorkitemState, uid_of_job
from tests.support import NOW, a_job

JOB_ID = "0a" * 16
OTHER = "0b" * 16
STUDY = "1.2"
LEASE = timedelta(minutes=1)
MINE, YOURS = "1.1.1", "2.2.2"
ARRIVING = ArrivingStudy(orthanc_id="study", last_change=1, last_arrival_at=NOW)
DONE = {"sop_instance_uids": ["9.1"], "sop_class_uids": ["1.2.840.10008.5.1.4.1.1.66.4"]}


class FakeArchive:
    """An Orthanc with the one study."""

    def __init__(self) -> None:
        self.is_gone = False

    def patient_and_study(self, _orthanc_id: str) -> dict[str, str]:
        if self.is_gone:
            raise SourceGone("deleted")
        return {"PatientName": "DOE^JANE", "PatientID": "P-1", "AccessionNumber": "A-1", "StudyInstanceUID": STUDY}

    def references(self, _orthanc_id: str) -> list[Reference]:
        source = Reference(series_instance_uid="3", sop_class_uid="4", sop_instance_uid="5", is_source=True)
        result = Reference(series_instance_uid="8", sop_class_uid="7", sop_instance_uid="9.1", is_source=False)
        return [source, result]

    def find_studies(self, query: dict[str, str], *, limit: int) -> list[str]:
        assert limit
        return [STUDY] if query.get("PatientID") == "P-1" else []


class Scene:
    """The operations, with a ledger and a file, and a clock that the test moves."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.now: datetime = NOW
        self.ledger = ledger
        self.folder = folder
        self.archive = FakeArchive()
        self.open()

    def open(self) -> None:
        """As a new process would."""
        self.store = WorkitemStore(self.folder / "workitems.sqlite")
        self.events = Events(
            ledger=self.ledger, store=self.store, clock=lambda: self.now, waiters=1, stop=cast("Any", _Stopped())
        )
        self.worklist = Worklist(
            ledger=self.ledger,
            store=self.store,
            events=self.events,
            archive=lambda: cast("Archive", self.archive),
            models=lambda: {"m": "1"},
            settings=UpsSettings(models={"M^99TEST": "m"}, performer_timeout_s=60),
            aet="COREAD",
            clock=lambda: self.now,
        )

    def settle(self, *jobs: Job, for_workitems: Sequence[str] = (), arriving: ArrivingStudy = ARRIVING) -> None:
        self.ledger.settle(arriving, jobs, present_uids=(), done_before=(), at=self.now, for_workitems=for_workitems)

    def state(self, uid: str) -> str:
        (found,) = self.worklist.retrieve(uid).datasets or ()
        return dicom.text_of(found, "ProcedureStepState")

    def change(self, uid: str, state: str, *, transaction_uid: str = MINE) -> Reply:
        wish = dicom.of(ProcedureStepState=state, TransactionUID=transaction_uid)
        return self.worklist.change_state(uid, wish, by="ada")

    def read(self, state: JobState = JobState.DONE) -> Job:
        """A worker takes the next job and ends it."""
        self.ledger.queue_due(at=self.now)
        job = self.ledger.claim(worker="w", at=self.now, lease=LEASE)
        assert job is not None
        if state is JobState.DONE:
            assert self.ledger.start_storing(job.job_id, worker="w", result=DONE, at=self.now)
        assert self.ledger.finish(job.job_id, state, worker="w", result=DONE, at=self.now)
        return job

    def told(self, aet: str, *, after: int = 0) -> list[tuple[str, str]]:
        """UID and state of each state report."""
        self.events.tell_changes()
        events = self.events.fetch(aet, after=after, wait_s=0)["events"]
        return [
            (
                dicom.text_of(each["report"], "AffectedSOPInstanceUID"),
                dicom.text_of(each["report"], "ProcedureStepState"),
            )
            for each in events
        ]


class _Stopped:
    def is_set(self) -> bool:
        return True


@pytest.fixture
def scene(ledger: Ledger, tmp_path: Path) -> Scene:
    return Scene(ledger, tmp_path)


def order(uid: str = "7.7", *, code: str = "M", study: str = STUDY, priority: str = "MEDIUM") -> Dataset:
    return dicom.of(
        SOPInstanceUID=uid,
        ProcedureStepState="SCHEDULED",
        ProcedureStepLabel="Read",
        ScheduledProcedureStepPriority=priority,
        ScheduledProcedureStepStartDateTime="20260101",
        InputReadinessState="READY",
        PatientName="DOE^JANE",
        ScheduledWorkitemCodeSequence=dicom.code(code, "99TEST", "Test"),
        InputInformationSequence=dicom.of(StudyInstanceUID=study),
    )


def performed(transaction_uid: str = MINE) -> Dataset:
    procedure = dicom.of(
        PerformedStationNameCodeSequence=dicom.code("S", "99TEST", "Station"),
        PerformedWorkitemCodeSequence=dicom.code("M", "99TEST", "Test"),
        PerformedProcedureStepStartDateTime="2026",
        PerformedProcedureStepEndDateTime="2026",
        OutputInformationSequence=None,
    )
    return dicom.of(TransactionUID=transaction_uid, UnifiedProcedureStepPerformedProcedureSequence=procedure)


def discontinued(transaction_uid: str = MINE) -> Dataset:
    progress = dicom.of(
        ProcedureStepCancellationDateTime="2026",
        ProcedureStepDiscontinuationReasonCodeSequence=dicom.code("110513", "DCM", "Discontinued"),
    )
    return dicom.of(TransactionUID=transaction_uid, ProcedureStepProgressInformationSequence=progress)


def code_of(call: Any) -> Code:
    with pytest.raises(WorkitemRefused) as refused:
        call()
    return refused.value.code


# A job is a workitem ---------------------------------------------------------------------------------------------


def test_a_job_is_a_workitem_from_its_beginning_to_its_end(scene: Scene) -> None:
    uid = uid_of_job(JOB_ID)
    scene.settle(a_job(JOB_ID, priority=Priority.STAT))
    (found,) = scene.worklist.retrieve(uid).datasets or ()
    assert dicom.text_of(found, "ProcedureStepState") == "SCHEDULED"
    assert dicom.text_of(found, "ScheduledProcedureStepPriority") == "HIGH"
    assert dicom.text_of(found, "PatientName") == "DOE^JANE"
    (study,) = dicom.items_of(found, "InputInformationSequence")
    assert dicom.text_of(study, "StudyInstanceUID") == STUDY
    scene.read()
    (found,) = scene.worklist.retrieve(uid).datasets or ()
    assert dicom.text_of(found, "ProcedureStepState") == "COMPLETED"
    assert rules.missing_for(WorkitemState.COMPLETED, found) == []
    (procedure,) = dicom.items_of(found, rules.PROCEDURE)
    (output,) = dicom.items_of(procedure, "OutputInformationSequence")
    assert dicom.text_of(output, "SeriesInstanceUID") == "8"


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.FAILED])
def test_a_job_that_comes_to_nothing_is_a_canceled_workitem_with_the_reason(scene: Scene, state: JobState) -> None:
    scene.settle(a_job(JOB_ID))
    scene.read(state)
    (found,) = scene.worklist.retrieve(uid_of_job(JOB_ID)).datasets or ()
    assert dicom.text_of(found, "ProcedureStepState") == "CANCELED"
    assert rules.missing_for(WorkitemState.CANCELED, found) == []


def test_a_job_that_runs_again_is_another_workitem(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.read(JobState.FAILED)
    assert scene.ledger.retry(JOB_ID, at=scene.now)
    with pytest.raises(BadRequest) as gone:
        scene.worklist.retrieve(uid_of_job(JOB_ID))
    assert gone.value.status == 410
    assert scene.state(uid_of_job(JOB_ID, 1)) == "SCHEDULED"
    scene.now += timedelta(minutes=1)
    scene.ledger.queue_due(at=scene.now)
    assert scene.ledger.claim(worker="w", at=scene.now, lease=LEASE)
    (found,) = scene.worklist.retrieve(uid_of_job(JOB_ID, 1)).datasets or ()
    (procedure,) = dicom.items_of(found, rules.PROCEDURE)
    assert dicom.values_of(procedure, "PerformedProcedureStepEndDateTime") == []


def test_a_workitem_of_a_study_that_was_deleted_is_answered_without_the_patient(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.archive.is_gone = True
    (found,) = scene.worklist.search(query_of({})).datasets or ()
    assert dicom.values_of(found, "PatientName") == []


def test_the_patient_finds_jobs_and_orders(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    assert len(scene.worklist.search(query_of({"PatientID": "P-1"})).datasets or ()) == 1
    assert scene.worklist.search(query_of({"PatientID": "P-2"})).status == 204


# Claiming --------------------------------------------------------------------------------------------------------


def test_what_an_outside_performer_has_claimed_no_worker_gets(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.change(uid_of_job(JOB_ID), "IN PROGRESS")
    scene.ledger.queue_due(at=scene.now)
    assert scene.ledger.claim(worker="w", at=scene.now, lease=LEASE) is None
    record = scene.ledger.job(JOB_ID)
    assert record is not None
    assert record.worker == f"{OUTSIDE} ada"


def test_what_a_worker_has_claimed_no_outside_performer_gets(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.ledger.queue_due(at=scene.now)
    assert scene.ledger.claim(worker="w", at=scene.now, lease=LEASE)
    assert code_of(lambda: scene.change(uid_of_job(JOB_ID), "IN PROGRESS")) is Code.ALREADY_IN_PROGRESS


def test_a_second_claimer_is_refused_and_cannot_end_what_it_does_not_own(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    uid = uid_of_job(JOB_ID)
    scene.change(uid, "IN PROGRESS")
    assert code_of(lambda: scene.change(uid, "IN PROGRESS", transaction_uid=YOURS)) is Code.ALREADY_IN_PROGRESS
    assert code_of(lambda: scene.change(uid, "COMPLETED", transaction_uid=YOURS)) is Code.WRONG_TRANSACTION_UID
    assert code_of(lambda: scene.worklist.update(uid, performed(YOURS), by="")) is Code.WRONG_TRANSACTION_UID
    assert code_of(lambda: scene.change(uid, "COMPLETED")) is Code.FINAL_STATE_REQUIREMENTS
    scene.worklist.update(uid, performed(), by="")
    scene.change(uid, "COMPLETED")
    assert scene.state(uid) == "COMPLETED"
    assert scene.ledger.history(JOB_ID)[-1].to_state is JobState.DONE


def test_an_update_without_a_transaction_uid_is_told_that_it_is_missing(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    uid = uid_of_job(JOB_ID)
    scene.change(uid, "IN PROGRESS")
    reply = scene.worklist.update(uid, dicom.of(ScheduledProcedureStepPriority="HIGH"), by="")
    assert (reply.status, reply.warning, reply.problem["code"]) == (400, "The Transaction UID is missing.", "C301")


def test_a_performer_may_cancel_what_it_has_claimed(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    uid = uid_of_job(JOB_ID)
    scene.change(uid, "IN PROGRESS")
    scene.worklist.update(uid, discontinued(), by="")
    scene.change(uid, "CANCELED")
    assert scene.state(uid) == "CANCELED"
    assert scene.ledger.retry(JOB_ID, at=scene.now)
    assert scene.read().job_id == JOB_ID


def test_a_performer_that_falls_silent_loses_the_job_to_a_worker(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    uid = uid_of_job(JOB_ID)
    scene.change(uid, "IN PROGRESS")
    scene.now += timedelta(seconds=50)
    scene.worklist.update(uid, dicom.of(TransactionUID=MINE, ProcedureStepLabel="still at it"), by="")
    scene.now += timedelta(seconds=50)
    assert scene.ledger.reclaim(at=scene.now, attempts=10) == []
    scene.now += timedelta(seconds=11)
    assert scene.ledger.reclaim(at=scene.now, attempts=10) == [JOB_ID]
    assert scene.state(uid) == "IN PROGRESS"
    assert code_of(lambda: scene.change(uid, "COMPLETED")) is Code.WRONG_TRANSACTION_UID
    scene.read()
    assert scene.state(uid) == "COMPLETED"


def test_what_a_worker_performed_is_not_said_to_be_the_work_of_a_performer_that_lost_it(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    uid = uid_of_job(JOB_ID)
    scene.change(uid, "IN PROGRESS")
    scene.worklist.update(uid, performed(), by="")
    scene.now += timedelta(seconds=61)
    scene.ledger.reclaim(at=scene.now, attempts=10)
    scene.read()
    (found,) = scene.worklist.retrieve(uid).datasets or ()
    (procedure,) = dicom.items_of(found, "UnifiedProcedureStepPerformedProcedureSequence")
    assert dicom.codes_of(procedure, "PerformedStationNameCodeSequence") == [("COREAD", "99COREAD")]


def claim_and_complete(scene: Scene, job_id: str) -> None:
    """An outside performer does a job."""
    uid = uid_of_job(job_id)
    scene.change(uid, "IN PROGRESS")
    scene.worklist.update(uid, performed(), by="")
    scene.change(uid, "COMPLETED")


def test_what_an_outside_performer_completed_takes_back_no_finding_of_ours(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.read()
    scene.ledger.note_judged(JOB_ID, [Verdict(alert="bleeding", words="Haemorrhage present")], at=scene.now)
    scene.settle(a_job(OTHER, fingerprint="grown"))
    claim_and_complete(scene, OTHER)
    assert scene.ledger.findings_due() == [], "what it found is not known here"
    assert [each.alert for each in scene.ledger.raised(["study"])["study"]] == ["bleeding"]


def test_results_from_before_the_study_changed_are_withdrawn_when_an_outside_performer_reads_it_now(
    scene: Scene,
) -> None:
    scene.settle(a_job(JOB_ID))
    scene.read()
    grown = a_job(OTHER, fingerprint="grown")
    scene.settle(grown)
    claim_and_complete(scene, OTHER)
    assert [job.job_id for job in scene.ledger.outdated(at=scene.now)] == [OTHER]
    assert scene.ledger.outdated_uids(grown) == set(DONE["sop_instance_uids"])


def test_of_a_worker_and_performers_that_come_at_the_same_time_one_gets_the_job(scene: Scene) -> None:
    for number in range(8):
        job_id = f"{number:032x}"
        scene.settle(a_job(job_id, model=f"m{number}"))
        scene.ledger.queue_due(at=scene.now)
        start = threading.Barrier(4)
        won: list[str] = []

        def claim(who: str, uid: str, start: threading.Barrier, won: list[str]) -> None:
            start.wait(10)
            try:
                scene.change(uid, "IN PROGRESS", transaction_uid=who)
            except WorkitemRefused:
                return
            won.append(who)

        def work(start: threading.Barrier, won: list[str]) -> None:
            start.wait(10)
            if scene.ledger.claim(worker="w", at=scene.now, lease=LEASE):
                won.append("w")

        uid = uid_of_job(job_id)
        threads = [threading.Thread(target=claim, args=(who, uid, start, won)) for who in (MINE, YOURS, "3.3.3")]
        threads.append(threading.Thread(target=work, args=(start, won)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == 1
        record = scene.ledger.job(job_id)
        assert record is not None
        assert (record.state, record.attempts) == (JobState.RUNNING, 1)


# Scheduling ------------------------------------------------------------------------------------------------------


def test_an_order_starts_the_job_once_and_follows_it(scene: Scene) -> None:
    scene.worklist.create(order(priority="HIGH"))
    assert scene.ledger.scheduled_models(STUDY) == {"m": ["HIGH"]}
    for _ in range(2):
        scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID])
    assert len(scene.ledger.jobs()) == 1
    assert scene.ledger.jobs()[0].job.priority is Priority.STAT
    assert scene.state("7.7") == "SCHEDULED"
    assert [dicom.text_of(each, "SOPInstanceUID") for each in scene.worklist.search(query_of({})).datasets or ()] == [
        "7.7"
    ]
    scene.read()
    (found,) = scene.worklist.retrieve("7.7").datasets or ()
    assert dicom.text_of(found, "ProcedureStepState") == "COMPLETED"
    assert rules.missing_for(WorkitemState.COMPLETED, found) == []
    assert dicom.text_of(found, "PatientName") == "DOE^JANE"


def test_an_order_that_somebody_else_claimed_meanwhile_starts_no_job(scene: Scene) -> None:
    scene.worklist.create(order())
    scene.change("7.7", "IN PROGRESS")
    scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID])
    assert scene.ledger.jobs() == []
    assert scene.state("7.7") == "IN PROGRESS"


def test_an_order_whose_job_somebody_claims_is_that_performers_with_its_job(scene: Scene) -> None:
    scene.worklist.create(order())
    scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID])
    scene.change("7.7", "IN PROGRESS")
    scene.ledger.queue_due(at=scene.now)
    assert scene.ledger.claim(worker="w", at=scene.now, lease=LEASE) is None
    scene.worklist.update("7.7", performed(), by="")
    scene.change("7.7", "COMPLETED")
    assert [record.state for record in scene.ledger.jobs()] == [JobState.DONE]


def test_an_order_for_what_was_read_already_is_completed_with_what_is_there(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.read()
    scene.worklist.create(order())
    scene.ledger.settle_for_workitem("study", at=scene.now)
    (arriving,) = scene.ledger.arriving()
    scene.ledger.settle(arriving, [a_job(JOB_ID)], present_uids=["9.1"], at=scene.now, for_workitems=[JOB_ID])
    assert scene.state("7.7") == "COMPLETED"
    assert scene.ledger.arriving() == []


def test_an_order_whose_study_changes_follows_the_job_that_takes_the_place(scene: Scene) -> None:
    scene.worklist.create(order())
    scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID])
    scene.settle(a_job(OTHER), for_workitems=[OTHER])
    assert scene.ledger.jobs(states=[JobState.SUPERSEDED])[0].job.job_id == JOB_ID
    assert scene.read().job_id == OTHER
    assert scene.state("7.7") == "COMPLETED"


def test_an_order_that_ended_stays_as_it_ended_when_the_job_runs_again(scene: Scene) -> None:
    scene.worklist.create(order())
    scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID])
    scene.read(JobState.REFUSED)
    assert scene.ledger.retry(JOB_ID, at=scene.now)
    assert scene.state("7.7") == "CANCELED"
    scene.read()
    assert scene.state("7.7") == "CANCELED"
    assert scene.state(uid_of_job(JOB_ID, 1)) == "COMPLETED"


def test_an_order_for_a_study_that_never_comes_waits_and_is_seen(scene: Scene) -> None:
    scene.worklist.create(order(study="5.5"))
    assert [each.uid for each in scene.ledger.workitems_to_start(limit=9)] == ["7.7"]
    found = scene.worklist.search(query_of({"ProcedureStepState": "SCHEDULED"})).datasets or ()
    assert len(found) == 1


def test_an_order_that_a_silent_performer_held_is_started_by_us(scene: Scene) -> None:
    scene.worklist.create(order())
    scene.change("7.7", "IN PROGRESS")
    assert scene.ledger.release_workitems(at=scene.now) == []
    scene.now += timedelta(seconds=61)
    assert scene.ledger.release_workitems(at=scene.now) == ["7.7"]
    assert scene.ledger.scheduled_models(STUDY) == {"m": ["MEDIUM"]}
    scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID])
    scene.read()
    assert scene.state("7.7") == "COMPLETED"


def test_an_order_for_no_model_of_ours_is_offered_to_others(scene: Scene) -> None:
    scene.worklist.create(order(code="X"))
    assert scene.ledger.scheduled_models(STUDY) == {}
    scene.change("7.7", "IN PROGRESS")
    assert scene.state("7.7") == "IN PROGRESS"


def test_a_uid_is_given_once(scene: Scene) -> None:
    scene.worklist.create(order())
    assert code_of(lambda: scene.worklist.create(order())) is Code.DUPLICATE


def test_what_the_ledger_holds_of_an_order_is_nothing_of_the_patient(scene: Scene) -> None:
    scene.worklist.create(order())
    assert "DOE" not in repr(scene.ledger.workitem("7.7"))
    assert "DOE" not in repr(scene.ledger.workitem_changes(limit=9))


# Cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_of_ours_is_cancelled_on_request(scene: Scene, begun: bool) -> None:
    scene.settle(a_job(JOB_ID))
    if begun:
        scene.ledger.queue_due(at=scene.now)
        assert scene.ledger.claim(worker="w", at=scene.now, lease=LEASE)
    assert scene.worklist.request_cancel(uid_of_job(JOB_ID), {}, by="ada").status == 202
    assert scene.state(uid_of_job(JOB_ID)) == "CANCELED"
    again = scene.worklist.request_cancel(uid_of_job(JOB_ID), {}, by="ada")
    assert (again.status, again.warning) == (202, "The UPS is already in the requested state of CANCELED.")


def test_what_is_being_stored_is_not_cancelled(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.ledger.queue_due(at=scene.now)
    assert scene.ledger.claim(worker="w", at=scene.now, lease=LEASE)
    assert scene.ledger.start_storing(JOB_ID, worker="w", result=DONE, at=scene.now)
    refused = code_of(lambda: scene.worklist.request_cancel(uid_of_job(JOB_ID), {}, by=""))
    assert refused is Code.PERFORMER_GOES_ON


def test_an_outside_performer_is_told_that_somebody_wants_to_cancel(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    uid = uid_of_job(JOB_ID)
    scene.change(uid, "IN PROGRESS")
    assert code_of(lambda: scene.worklist.request_cancel(uid, {}, by="")) is Code.PERFORMER_UNREACHABLE
    scene.events.subscribe(uid, "PERFORMER", keys=None)
    scene.worklist.request_cancel(uid, dicom.of(ReasonForCancellation="wrong side"), by="")
    report = scene.events.fetch("PERFORMER", after=1, wait_s=0)["events"][0]["report"]
    assert dicom.values_of(report, "EventTypeID") == [2]
    assert dicom.text_of(report, "ReasonForCancellation") == "wrong side"
    assert scene.state(uid) == "IN PROGRESS"


def test_an_order_that_is_cancelled_takes_nothing_from_a_route_or_from_another_order(scene: Scene) -> None:
    scene.worklist.create(order("7.1"))
    scene.settle(a_job(JOB_ID))
    scene.worklist.request_cancel("7.1", {}, by="")
    assert scene.state("7.1") == "CANCELED"
    seen = [dicom.text_of(each, "SOPInstanceUID") for each in scene.worklist.search(query_of({})).datasets or ()]
    assert sorted(seen) == [uid_of_job(JOB_ID), "7.1"]
    scene.worklist.create(order("7.2"))
    scene.worklist.create(order("7.3"))
    scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID])
    scene.worklist.request_cancel("7.2", {}, by="")
    assert scene.ledger.jobs()[0].state is JobState.WAITING
    scene.worklist.request_cancel("7.3", {}, by="")
    assert scene.ledger.jobs()[0].state is JobState.CANCELLED
    assert [scene.state(uid) for uid in ("7.2", "7.3")] == ["CANCELED", "CANCELED"]


def test_an_order_makes_the_job_of_a_route_more_urgent_and_never_less(scene: Scene) -> None:
    scene.worklist.create(order(priority="LOW"))
    scene.settle(a_job(JOB_ID))
    assert scene.ledger.jobs()[0].job.priority is Priority.ROUTINE
    for asked, priority in (("HIGH", Priority.STAT), ("LOW", Priority.STAT)):
        scene.worklist.update("7.7", dicom.of(ScheduledProcedureStepPriority=asked), by="")
        assert scene.ledger.jobs()[0].job.priority is priority


def test_an_order_for_a_study_that_is_here_lets_other_models_jobs_be(scene: Scene) -> None:
    scene.settle(a_job(OTHER, model="n"))
    scene.read(JobState.REFUSED)
    scene.worklist.create(order())
    scene.ledger.settle_for_workitem("study", at=scene.now)
    (arriving,) = scene.ledger.arriving()
    scene.settle(a_job(JOB_ID), a_job(OTHER, model="n"), for_workitems=[JOB_ID], arriving=arriving)
    states = {record.job.model: record.state for record in scene.ledger.jobs()}
    assert states == {"m": JobState.WAITING, "n": JobState.REFUSED}


def test_an_order_for_a_job_that_failed_has_it_run_again(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID))
    scene.read(JobState.FAILED)
    scene.worklist.create(order())
    scene.ledger.settle_for_workitem("study", at=scene.now)
    (arriving,) = scene.ledger.arriving()
    scene.settle(a_job(JOB_ID), for_workitems=[JOB_ID], arriving=arriving)
    scene.read()
    assert scene.state("7.7") == "COMPLETED"


# Events ----------------------------------------------------------------------------------------------------------


def test_events_are_told_once_in_order_and_survive_a_restart(scene: Scene) -> None:
    scene.events.subscribe(GLOBAL, "WATCHER", keys=None)
    scene.settle(a_job(JOB_ID))
    assert scene.told("WATCHER") == [(uid_of_job(JOB_ID), "SCHEDULED")]
    scene.store.close()
    scene.read()
    scene.open()
    states = [state for _, state in scene.told("WATCHER")]
    assert states == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert scene.told("WATCHER", after=3) == []
    assert scene.ledger.workitem_changes(limit=9) == []


def test_a_change_that_was_told_before_a_crash_is_not_told_again(scene: Scene) -> None:
    scene.events.subscribe(GLOBAL, "WATCHER", keys=None)
    scene.settle(a_job(JOB_ID))
    changes = scene.ledger.workitem_changes(limit=9)
    scene.events._tell(changes[0])
    assert scene.told("WATCHER") == [(uid_of_job(JOB_ID), "SCHEDULED")]


def test_a_subscriber_to_one_workitem_is_told_its_state_at_once_and_of_no_other(scene: Scene) -> None:
    scene.settle(a_job(JOB_ID), a_job(OTHER, model="n"))
    scene.events.subscribe(uid_of_job(JOB_ID), "ONE", keys=None)
    scene.worklist.request_cancel(uid_of_job(OTHER), {}, by="")
    assert scene.told("ONE") == [(uid_of_job(JOB_ID), "SCHEDULED")]


def test_a_state_report_tells_readiness_and_reason_as_they_were_said(scene: Scene) -> None:
    scene.events.subscribe(GLOBAL, "ALL", keys=None)
    wish = {**order(code="OTHER"), **dicom.of(InputReadinessState="INCOMPLETE")}
    scene.worklist.create(wish)
    scene.change("7.7", "IN PROGRESS")
    progress = dicom.of(
        ProcedureStepCancellationDateTime="2026",
        ProcedureStepDiscontinuationReasonCodeSequence=dicom.code("110510", "DCM", "Incorrect side ordered"),
    )
    said = dicom.of(TransactionUID=MINE, ProcedureStepProgressInformationSequence=progress)
    scene.worklist.update("7.7", said, by="")
    scene.change("7.7", "CANCELED")
    reports = [each["report"] for each in scene.events.fetch("ALL", after=0, wait_s=0)["events"]]
    assert dicom.text_of(reports[0], "InputReadinessState") == "INCOMPLETE"
    assert dicom.codes_of(reports[-1], "ProcedureStepDiscontinuationReasonCodeSequence") == [("110510", "DCM")]


def test_a_filter_limits_what_is_told(scene: Scene) -> None:
    scene.events.subscribe(FILTERED, "URGENT", keys={"ScheduledProcedureStepPriority": "HIGH"})
    scene.settle(a_job(JOB_ID), a_job(OTHER, model="n", priority=Priority.STAT))
    assert scene.told("URGENT") == [(uid_of_job(OTHER), "SCHEDULED")]
    with pytest.raises(BadRequest):
        scene.events.subscribe(FILTERED, "URGENT", keys={"PatientID": "x"})


def test_a_suspended_subscriber_is_told_of_what_was_there_and_of_nothing_new(scene: Scene) -> None:
    scene.events.subscribe(GLOBAL, "WATCHER", keys=None)
    scene.settle(a_job(JOB_ID))
    scene.now += timedelta(seconds=1)
    scene.events.suspend(GLOBAL, "WATCHER")
    scene.now += timedelta(seconds=1)
    scene.settle(a_job(OTHER, model="n", created_at=scene.now))
    scene.worklist.request_cancel(uid_of_job(JOB_ID), {}, by="")
    scene.worklist.request_cancel(uid_of_job(OTHER), {}, by="")
    assert {uid for uid, _ in scene.told("WATCHER")} == {uid_of_job(JOB_ID)}


def test_who_unsubscribes_is_told_no_more(scene: Scene) -> None:
    scene.events.subscribe(GLOBAL, "WATCHER", keys=None)
    scene.settle(a_job(JOB_ID), a_job(OTHER, model="n"))
    assert len(scene.told("WATCHER")) == 2
    scene.events.unsubscribe(uid_of_job(JOB_ID), "WATCHER")
    scene.worklist.request_cancel(uid_of_job(JOB_ID), {}, by="")
    assert len(scene.told("WATCHER")) == 2
    scene.events.unsubscribe(GLOBAL, "WATCHER")
    scene.worklist.request_cancel(uid_of_job(OTHER), {}, by="")
    assert len(scene.told("WATCHER")) == 2


def test_who_never_subscribed_has_no_events(scene: Scene) -> None:
    assert code_of(lambda: scene.events.fetch("NOBODY", after=0, wait_s=0)) is Code.NO_SUCH_WORKITEM


def test_old_events_are_forgotten_and_a_subscriber_is_told_how_many_it_missed(scene: Scene) -> None:
    scene.events.subscribe(GLOBAL, "WATCHER", keys=None)
    scene.settle(a_job(JOB_ID))
    scene.events.tell_changes()
    scene.now += timedelta(days=8)
    scene.events.prune()
    found = scene.events.fetch("WATCHER", after=0, wait_s=0)
    assert (found["events"], found["last"], found["missed"]) == ([], 1, 1)


# Any sequence of requests ----------------------------------------------------------------------------------------


class AnyRequests(RuleBasedStateMachine):
    """A workitem and a model of it that is nothing but the standard's table."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        ledger = Ledger("sqlite:///" + str(folder / "ledger.sqlite"))
        ledger.migrate()
        self.scene = Scene(ledger, folder)
        self.expected: WorkitemState | None = None
        self.owner: str | None = None
        self.may_end: set[WorkitemState] = set()

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            self.scene.store.close()
            self.scene.ledger.close()
            self.folder.cleanup()

    def _ask(self, request: Request, call: Any) -> bool:
        result = TABLE[request][self.expected]
        if isinstance(result, Code):
            if result in (Code.WAS_CANCELED,) and request is Request.REQUEST_CANCEL:
                assert call().status == 202
            else:
                assert code_of(call) is result
            return False
        call()
        self.expected = result
        return True

    @rule()
    def create(self) -> None:
        self._ask(Request.CREATE, lambda: self.scene.worklist.create(order(code="X")))

    @rule(who=st.sampled_from([MINE, YOURS]))
    def claim(self, who: str) -> None:
        if self._ask(Request.CLAIM, lambda: self.scene.change("7.7", "IN PROGRESS", transaction_uid=who)):
            self.owner = who

    @rule(who=st.sampled_from([MINE, YOURS]), state=st.sampled_from([WorkitemState.COMPLETED, WorkitemState.CANCELED]))
    def prepare(self, who: str, state: WorkitemState) -> None:
        change = performed(who) if state is WorkitemState.COMPLETED else discontinued(who)
        may_update = (self.expected, self.owner) == (WorkitemState.IN_PROGRESS, who)
        if may_update:
            assert self.scene.worklist.update("7.7", change, by="").status == 200
            self.may_end.add(state)
        elif self.expected in FINAL:
            assert self.scene.worklist.update("7.7", change, by="").status == 400
        else:
            code_of(lambda: self.scene.worklist.update("7.7", change, by=""))

    @rule(who=st.sampled_from([MINE, YOURS]), state=st.sampled_from([WorkitemState.COMPLETED, WorkitemState.CANCELED]))
    def end(self, who: str, state: WorkitemState) -> None:
        is_complete = state is WorkitemState.COMPLETED
        owned, foreign = (
            (Request.COMPLETE, Request.COMPLETE_NOT_OWNED)
            if is_complete
            else (Request.CANCEL, Request.CANCEL_NOT_OWNED)
        )
        request = owned if who == self.owner else foreign

        def call() -> Reply:
            return self.scene.change("7.7", state, transaction_uid=who)

        if self.expected is WorkitemState.IN_PROGRESS and who == self.owner and state not in self.may_end:
            assert code_of(call) is Code.FINAL_STATE_REQUIREMENTS
        else:
            self._ask(request, call)

    @rule()
    def request_cancel(self) -> None:
        def call() -> Reply:
            return self.scene.worklist.request_cancel("7.7", {}, by="")

        if self.expected is WorkitemState.IN_PROGRESS:
            assert code_of(call) is Code.PERFORMER_UNREACHABLE
        else:
            self._ask(Request.REQUEST_CANCEL, call)

    @invariant()
    def is_in_the_state_that_the_table_says(self) -> None:
        if hasattr(self, "scene") and self.expected is not None:
            assert self.scene.state("7.7") == self.expected


TestAnyRequests = AnyRequests.TestCase
TestAnyRequests.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)

"""Each thing that happens is one row of the audit trail, written with it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coread.audit.event import AuditEvent, AuditKind, Sender
from coread.audit.message import AuditSource, message_of
from coread.errors import LedgerUnavailable
from coread.job import Job, JobState, Priority
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger import jobs as jobs_module
from coread.ledger.audit import audit_delivery
from coread.objects import Profile
from tests.support import NOW

MINUTE = timedelta(minutes=1)
MR = "1.2.840.10008.5.1.4.1.1.4"
CT_1 = Sender(protocol="DicomProtocol", aet="CT_1", address="10.0.0.7", sop_classes={MR: 12})
RESULT = {
    "sop_instance_uids": ["2.25.1", "2.25.2"],
    "sop_class_uids": ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"],
    "model_digest": "ab" * 32,
    "device": "cpu",
    "findings": [],
}
INSTANCES = [
    ["1.2.840.10008.5.1.4.1.1.66.4", "2.25.1"],
    ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.2"],
]


def job(name: str = "a") -> Job:
    return Job(
        job_id=name,
        study_instance_uid="1.2",
        orthanc_id="study",
        model="m",
        model_version="1",
        fingerprint=name,
        revision=name,
        profiles=(Profile.OHIF,),
        priority=Priority.ROUTINE,
        created_at=NOW,
    )


def settle(ledger: Ledger, *jobs: Job, senders: Sequence[Sender] = (CT_1,)) -> None:
    study = ArrivingStudy(orthanc_id="study", last_change=1, last_arrival_at=NOW)
    ledger.settle(study, jobs, present_uids=(), study_instance_uid="1.2", senders=senders, at=NOW)


def claim(ledger: Ledger, worker: str = "w:1") -> Job:
    ledger.queue_due(at=NOW)
    found = ledger.claim(worker=worker, at=NOW, lease=MINUTE)
    assert found is not None
    return found


def read(ledger: Ledger, name: str = "a", *, end: JobState = JobState.DONE, reason: str = "") -> None:
    """Do a job to its end."""
    assert claim(ledger).job_id == name
    assert ledger.start_storing(name, worker="w:1", result=RESULT, at=NOW)
    assert ledger.finish(name, end, worker="w:1", reason=reason, result=RESULT, at=NOW)


def rows(ledger: Ledger) -> list[AuditEvent]:
    return ledger.audit()[::-1]


def kinds(ledger: Ledger) -> list[AuditKind]:
    return [row.kind for row in rows(ledger)]


def test_a_study_that_is_read_leaves_one_row_for_each_thing_that_happened(ledger: Ledger) -> None:
    settle(ledger, job())
    read(ledger)
    received, recorded, ran, written = rows(ledger)
    assert received.kind is AuditKind.RECEIVED
    assert (received.who, received.details["address"], received.details["sop_classes"]) == (
        "CT_1",
        "10.0.0.7",
        {MR: 12},
    )
    assert (recorded.kind, recorded.job_id, recorded.details["reason"]) == (
        AuditKind.JOB_RECORDED,
        "a",
        "the study is complete",
    )
    assert (ran.kind, ran.who, ran.details["outcome"], ran.details["attempt"]) == (
        AuditKind.MODEL_RAN,
        "w:1",
        "done",
        1,
    )
    assert ran.details["started_at"] == NOW.isoformat()
    assert (ran.details["model_digest"], ran.details["device"], ran.details["profiles"]) == ("ab" * 32, "cpu", ["ohif"])
    assert (written.kind, written.details["instances"]) == (AuditKind.RESULTS_WRITTEN, INSTANCES)
    assert {row.study_instance_uid for row in rows(ledger)} == {"1.2"}


def test_each_of_several_senders_has_a_row(ledger: Ledger) -> None:
    by_hand = Sender(protocol="RestApi", user="ada", address="10.0.0.8", sop_classes={MR: 1})
    settle(ledger, senders=[CT_1, by_hand])
    assert [(row.who, row.details["again"]) for row in rows(ledger)] == [("CT_1", False), ("ada", False)]
    settle(ledger)
    assert rows(ledger)[-1].details["again"] is True


def test_a_job_that_runs_twice_has_a_row_for_each_end(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    ledger.try_again("a", worker="w:1", reason="Orthanc is away", at=NOW, not_before=NOW)
    claim(ledger, worker="dies:2")
    ledger.reclaim(at=NOW + 2 * MINUTE, attempts=9)
    read(ledger)
    ran = [row for row in rows(ledger) if row.kind is AuditKind.MODEL_RAN]
    assert [(row.who, row.details["attempt"], row.details["outcome"]) for row in ran] == [
        ("w:1", 1, "waiting"),
        ("dies:2", 2, "waiting"),
        ("w:1", 3, "done"),
    ]
    assert [row.details["reason"] for row in ran] == ["Orthanc is away", "its worker fell silent", ""]


def test_what_an_attempt_may_have_stored_before_it_died_is_named(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    ledger.start_storing("a", worker="w:1", result=RESULT, at=NOW)
    ledger.reclaim(at=NOW + 2 * MINUTE, attempts=9)
    assert rows(ledger)[-1].details["may_have_stored"] == ["2.25.1", "2.25.2"]
    claim(ledger)
    ledger.finish("a", JobState.FAILED, worker="w:1", reason="because", at=NOW)
    assert "may_have_stored" not in rows(ledger)[-1].details
    assert "model_digest" not in rows(ledger)[-1].details, "that is of the attempt before"


def test_a_refusal_in_the_middle_of_storing_does_not_claim_that_results_were_written(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger)
    ledger.start_storing("a", worker="w:1", result=RESULT, at=NOW)
    ledger.finish("a", JobState.REFUSED, worker="w:1", reason="the study was deleted", at=NOW)
    assert rows(ledger)[-1].kind is AuditKind.MODEL_RAN
    assert rows(ledger)[-1].details["may_have_stored"] == ["2.25.1", "2.25.2"]


def test_a_report_of_a_refusal_is_written_too(ledger: Ledger) -> None:
    settle(ledger, job())
    read(ledger, end=JobState.REFUSED, reason="a slice is missing")
    assert kinds(ledger)[-2:] == [AuditKind.MODEL_RAN, AuditKind.RESULTS_WRITTEN]
    assert rows(ledger)[-2].details["reason"] == "a slice is missing"


def test_results_of_a_study_that_changed_are_withdrawn_once(ledger: Ledger) -> None:
    settle(ledger, job("a"))
    read(ledger, "a")
    for name in ("b", "c"):
        settle(ledger, job(name))
        claim(ledger)
        ledger.finish(name, JobState.REFUSED, worker="w:1", reason="because", at=NOW)
    withdrawn = [row for row in rows(ledger) if row.kind is AuditKind.RESULTS_WITHDRAWN]
    assert [(row.job_id, row.details["instances"]) for row in withdrawn] == [("a", INSTANCES)]


def test_results_that_are_written_anew_are_withdrawn_anew(ledger: Ledger) -> None:
    for name in ("a", "b", "a", "b"):
        settle(ledger, job(name))
        read(ledger, name)
    withdrawn = [row.job_id for row in rows(ledger) if row.kind is AuditKind.RESULTS_WITHDRAWN]
    assert withdrawn == ["a", "b", "a"]


def test_a_run_that_stored_nothing_has_nothing_withdrawn(ledger: Ledger) -> None:
    for name in ("a", "b"):
        settle(ledger, job(name))
        read(ledger, name)
    settle(ledger, job("a"))
    claim(ledger)
    settle(ledger, job("b"))
    read(ledger, "b")
    assert [row.job_id for row in rows(ledger) if row.kind is AuditKind.RESULTS_WITHDRAWN] == ["a"]


def test_what_the_plugin_withdraws_for_a_worker_that_died_is_told_once(ledger: Ledger) -> None:
    settle(ledger, job("a"))
    read(ledger, "a")
    settle(ledger, job("b"))
    claim(ledger)
    ledger.finish("b", JobState.FAILED, worker="w:1", reason="because", at=NOW)
    assert AuditKind.RESULTS_WITHDRAWN not in kinds(ledger), "nobody has taken them away yet"
    (outdated,) = ledger.outdated(at=NOW)
    for _ in range(2):
        ledger.no_longer_outdated(outdated.job_id, at=NOW)
    assert kinds(ledger).count(AuditKind.RESULTS_WITHDRAWN) == 1


def test_a_worker_that_starts_says_which_models_it_has_loaded(ledger: Ledger) -> None:
    loaded = {"m": {"version": "1", "digest": "ab" * 32, "device": "cpu"}}
    ledger.note_worker_started(worker="reader:1", models=loaded, at=NOW)
    (row,) = rows(ledger)
    assert (row.kind, row.who, row.details["models"]) == (AuditKind.WORKER_STARTED, "reader:1", loaded)


def test_what_a_person_does_bears_the_persons_name(ledger: Ledger) -> None:
    settle(ledger, job())
    ledger.prioritise("a", Priority.STAT, by="ada", at=NOW)
    ledger.cancel("a", by="grace", at=NOW)
    ledger.cancel("a", by="grace", at=NOW)
    ledger.retry("a", by="ada@reader", at=NOW)
    ledger.retry("a", by="ada@reader", at=NOW)
    ledger.retry("unknown", by="ada", at=NOW)
    assert [(row.kind, row.who, row.details["was"], row.details["priority"]) for row in rows(ledger)[2:]] == [
        (AuditKind.PRIORITISED, "ada", "routine", "stat"),
        (AuditKind.CANCELLED, "grace", "waiting", "stat"),
        (AuditKind.RETRIED, "ada@reader", "cancelled", "stat"),
    ]


def test_a_delivery_is_told_in_the_transaction_of_its_caller(ledger: Ledger) -> None:
    told: Any = {"destination": "pacs", "instances": [("1.2.840", "2.25.1")]}
    with ledger._transaction() as connection:
        audit_delivery(connection, AuditKind.DELIVERY_BEGUN, job(), **told, at=NOW)
    (row,) = rows(ledger)
    assert (row.kind, row.job_id, row.study_instance_uid) == (AuditKind.DELIVERY_BEGUN, "a", "1.2")
    assert (row.details["destination"], row.details["instances"]) == ("pacs", [["1.2.840", "2.25.1"]])
    assert '"pacs"' in message_of(row, AuditSource(source_id="COREAD", aet="COREAD", host="reader"))


def test_a_worker_whose_job_was_given_away_writes_no_row(ledger: Ledger) -> None:
    settle(ledger, job())
    claim(ledger, worker="slow:1")
    ledger.reclaim(at=NOW + 2 * MINUTE, attempts=9)
    before = rows(ledger)
    assert not ledger.finish("a", JobState.FAILED, worker="slow:1", reason="late", at=NOW)
    assert rows(ledger) == before


def test_a_transaction_that_is_undone_leaves_no_row(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(ledger, job())
    claim(ledger)
    before = rows(ledger)

    def is_away(*_: object) -> bool:
        raise LedgerUnavailable("in the middle of the transaction")

    monkeypatch.setattr(jobs_module, "_stands_for_results", is_away)
    with pytest.raises(LedgerUnavailable):
        ledger.finish("a", JobState.FAILED, worker="w:1", reason="because", at=NOW)
    assert rows(ledger) == before
    found = ledger.job("a")
    assert found is not None
    assert found.state is JobState.RUNNING


def test_rows_are_found_by_study_job_and_time(ledger: Ledger) -> None:
    ledger.note_started(models={"m": "1"}, at=NOW - MINUTE)
    settle(ledger, job())
    ledger.note_stopped(at=NOW + MINUTE)
    assert [row.kind for row in ledger.audit(study_instance_uid="1.2")] == [AuditKind.JOB_RECORDED, AuditKind.RECEIVED]
    assert [row.kind for row in ledger.audit(job_id="a")] == [AuditKind.JOB_RECORDED]
    assert [row.kind for row in ledger.audit(since=NOW + MINUTE)] == [AuditKind.STOPPED]
    assert [row.kind for row in ledger.audit(limit=1)] == [AuditKind.STOPPED]


def test_a_row_is_the_same_after_a_journey_as_json(ledger: Ledger) -> None:
    settle(ledger, job())
    read(ledger)
    for row in rows(ledger):
        assert AuditEvent.from_json(row.as_json()) == row


def test_what_syslog_has_taken_is_not_sent_again_and_what_comes_late_is(ledger: Ledger) -> None:
    settle(ledger, job())
    first, second = ledger.audit_to_send(limit=10)
    ledger.note_audit_sent([second.audit_id])
    assert ledger.audit_to_send(limit=10) == [first]
    assert len(rows(ledger)) == 2


@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(aet=st.text(max_size=20), user=st.text(max_size=20))
def test_whatever_a_sender_calls_itself_the_row_can_be_written_and_read(ledger: Ledger, aet: str, user: str) -> None:
    settle(ledger, senders=[replace(CT_1, aet=aet, user=user)])
    assert rows(ledger)[-1].kind is AuditKind.RECEIVED

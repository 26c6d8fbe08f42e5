"""What persons say of results is kept in the ledger, for good, and taken over REST."""

import json
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from coread.audit.event import AuditKind
from coread.audit.message import AuditSource, message_of
from coread.cli import coread
from coread.delivery import DeliveryState, ObjectState
from coread.evaluation.reviews import agreement_of, review_report
from coread.evaluation.reviews_page import page_of_reviews
from coread.job import Job, JobState
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.remote import RemoteLedger
from coread.ledger.tables import JOB
from coread.plugin.desk import OPERATIONS
from coread.plugin.gate import Gate
from coread.plugin.reviews import register_reviews, words_that_name
from coread.review import Basis, Review, ReviewSource, ReviewState, Verdict, counting
from coread.workers.clerk import _as_name
from tests.support import NOW, a_job
from tests.unit.test_audit_rest import ADA, Output

MINUTE = timedelta(minutes=1)
REASON = ("111210", "DCM", "Motion blur")
RESULT: dict[str, Any] = {
    "sop_instance_uids": ["2.25.1", "2.25.2"],
    "sop_class_uids": ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"],
    "findings": [{"structure": "cavity", "present": True}],
}
PAIRS = tuple(zip(RESULT["sop_class_uids"], RESULT["sop_instance_uids"], strict=True))


def settle(ledger: Ledger, *jobs: Job, present: Collection[str] = ()) -> None:
    study = ArrivingStudy(orthanc_id="study", last_change=1, last_arrival_at=NOW)
    ledger.settle(study, jobs, present_uids=present, at=NOW)


def read(ledger: Ledger, job: Job, *, result: dict[str, Any] = RESULT, end: JobState = JobState.DONE) -> None:
    """Do a job to its end."""
    ledger.queue_due(at=NOW)
    assert ledger.claim(worker="w", at=NOW, lease=MINUTE) is not None
    assert ledger.start_storing(job.job_id, worker="w", result=result, at=NOW)
    assert ledger.finish(job.job_id, end, worker="w", result=result, at=NOW)


@pytest.fixture
def job(ledger: Ledger) -> Job:
    """A job that is done."""
    job = a_job("a", destinations=("pacs",))
    settle(ledger, job)
    read(ledger, job)
    return job


def say(ledger: Ledger, verdict: Verdict, **more: Any) -> Review:
    reason = {"reason": REASON} if verdict is Verdict.REJECTED else {"reader": "Reader^Rita"}
    found = ledger.review("a", verdict=verdict, who="rita", at=NOW, **{**reason, **more})
    assert found is not None
    return found


def returned(job: Job, uid: str, verdict: Verdict = Verdict.EDITED) -> Review:
    """What an object that came back says, as a clerk tells it."""
    return Review(
        review_id=uid.replace(".", "").zfill(32),
        job_id=job.job_id,
        study_instance_uid=job.study_instance_uid,
        orthanc_id=job.orthanc_id,
        model=job.model,
        model_version=job.model_version,
        verdict=verdict,
        source=ReviewSource.OBJECT,
        at=NOW,
        result_digest="",
        object_uid=uid,
        basis=Basis.TRACKING,
        comparison={"dice": {"cavity": 0.9, "wall": None}, "changes": []},
    )


# Kept -----------------------------------------------------------------------------------------------------------------


def test_a_review_is_recorded_with_what_it_is_of(ledger: Ledger, job: Job) -> None:
    said = say(ledger, Verdict.REJECTED, comment="apex")
    assert ledger.reviews(job_ids=["a"]) == [said] == [ledger.find_review(said.review_id)]
    assert (said.model, said.results, said.reason, said.state) == (job.model, PAIRS, REASON, ReviewState.ASKED)
    assert Review.from_json(json.loads(json.dumps(said.as_json()))) == said


def test_reviews_are_found_by_study_model_and_time(ledger: Ledger, job: Job) -> None:
    said = say(ledger, Verdict.ACCEPTED)
    assert ledger.reviews(study_instance_uid=job.study_instance_uid, model="m", since=NOW) == [said]
    assert ledger.reviews(job_ids=[]) == ledger.reviews(study_instance_uid="9") == ledger.reviews(model="n") == []
    assert ledger.reviews(since=NOW + MINUTE) == []
    assert ledger.done_by_model() == {("m", "1"): 1}


def test_who_says_the_same_twice_has_said_it_once(ledger: Ledger, job: Job) -> None:
    first = say(ledger, Verdict.ACCEPTED)
    assert say(ledger, Verdict.ACCEPTED) == first
    other = say(ledger, Verdict.ACCEPTED, reader="Other^Olga")
    say(ledger, Verdict.REJECTED)
    again = say(ledger, Verdict.ACCEPTED)
    assert again not in (first, other)
    assert len(ledger.reviews(job_ids=[job.job_id])) == 4
    accept = {"verdict": "accept", "name": "Reader^Rita"}
    assert [post(ledger, accept).status for _ in range(2)] == [201, 200]


def test_what_failed_may_be_said_again(ledger: Ledger, job: Job) -> None:
    first = say(ledger, Verdict.ACCEPTED)
    assert ledger.claim_review(clerk="c", at=NOW, lease=MINUTE) is not None
    assert ledger.finish_review(first.review_id, ReviewState.FAILED, clerk="c", reason="gone", at=NOW)
    again = say(ledger, Verdict.ACCEPTED)
    assert [each.state for each in ledger.reviews(job_ids=[job.job_id])] == [ReviewState.ASKED, ReviewState.FAILED]
    assert again.review_id != first.review_id


@pytest.mark.parametrize("end", [JobState.REFUSED, JobState.FAILED])
def test_what_was_not_read_cannot_be_reviewed(ledger: Ledger, end: JobState) -> None:
    job = a_job("a")
    settle(ledger, job)
    assert ledger.review("a", verdict=Verdict.ACCEPTED, at=NOW) is None
    read(ledger, job, end=end)
    assert ledger.review("a", verdict=Verdict.ACCEPTED, at=NOW) is None
    assert ledger.review("b", verdict=Verdict.ACCEPTED, at=NOW) is None


def test_nothing_that_becomes_of_the_job_changes_a_review(ledger: Ledger, job: Job) -> None:
    said = say(ledger, Verdict.ACCEPTED)
    settle(ledger, job)  # its results are gone
    assert ledger.reviews() == [replace(said, of_this_result=False)]
    read(ledger, job)
    assert ledger.reviews() == [said]
    settle(ledger, job)
    read(ledger, job, result={**RESULT, "findings": []})
    assert ledger.reviews() == [replace(said, of_this_result=False)]
    settle(ledger, a_job("b"))
    assert ledger.reviews() == [replace(said, of_this_result=False)]


def test_the_last_review_counts_but_a_report_does_not_take_back_an_edit(ledger: Ledger, job: Job) -> None:
    assert counting([]) is None
    first = say(ledger, Verdict.REJECTED)
    second = say(ledger, Verdict.ACCEPTED)
    assert ledger.reviews() == [second, first]
    assert counting(ledger.reviews()) == second
    edit, report = returned(job, "1.1"), returned(job, "1.2", Verdict.ACCEPTED)
    assert counting([report, edit, second]) == edit
    assert counting([second, report, edit]) == second
    assert counting([report, second]) == report


def test_the_audit_trail_tells_of_a_review_and_not_what_was_typed(ledger: Ledger, job: Job) -> None:
    said = say(ledger, Verdict.REJECTED, comment="typed", reader="Reader^Rita")
    assert ledger.claim_review(clerk="w:1", at=NOW, lease=MINUTE) is not None
    assert ledger.begin_review(said.review_id, clerk="w:1", objects=[("1.2.3", "2.25.9")])
    assert ledger.finish_review(said.review_id, ReviewState.WRITTEN, clerk="w:1", at=NOW)
    rows = [row for row in ledger.audit(job_id=job.job_id) if "review_id" in row.details][::-1]
    assert [(row.kind, row.who) for row in rows] == [
        (AuditKind.REVIEWED, "rita"),
        (AuditKind.REVIEW_WRITTEN, "w:1"),
    ]
    source = AuditSource(source_id="COREAD", aet="COREAD", host="here")
    text = json.dumps([row.as_json() for row in rows]) + "".join(message_of(row, source) for row in rows)
    assert "Motion blur" in text
    assert "typed" not in text
    assert "Reader^Rita" not in text


# Written --------------------------------------------------------------------------------------------------------------


def test_only_one_clerk_writes_a_review(ledger: Ledger, job: Job) -> None:
    assert job.job_id == "a"
    said = say(ledger, Verdict.ACCEPTED)
    task = ledger.claim_review(clerk="one", at=NOW, lease=MINUTE)
    assert task is not None
    assert (task.review, task.attempts) == (said, 1)
    assert ledger.claim_review(clerk="other", at=NOW, lease=MINUTE) is None
    late = NOW + 2 * MINUTE
    again = ledger.claim_review(clerk="other", at=late, lease=MINUTE)
    assert again is not None
    assert again.attempts == 2
    pairs = [("1.2.3", "2.25.9")]
    assert not ledger.renew_review(said.review_id, clerk="one", at=late, lease=MINUTE)
    assert not ledger.begin_review(said.review_id, clerk="one", objects=pairs)
    assert not ledger.finish_review(said.review_id, ReviewState.WRITTEN, clerk="one", at=late)
    assert ledger.renew_review(said.review_id, clerk="other", at=late, lease=MINUTE)
    assert ledger.begin_review(said.review_id, clerk="other", objects=pairs)
    assert ledger.finish_review(said.review_id, ReviewState.WRITTEN, clerk="other", at=late)
    assert not ledger.finish_review(said.review_id, ReviewState.FAILED, clerk="other", at=late)
    (written,) = ledger.reviews()
    assert (written.state, written.sop_instance_uid, written.written_at) == (ReviewState.WRITTEN, "2.25.9", late)
    assert ledger.claim_review(clerk="one", at=late + 2 * MINUTE, lease=MINUTE) is None


def test_a_review_that_is_put_off_is_due_later(ledger: Ledger, job: Job) -> None:
    assert job.job_id == "a"
    said = say(ledger, Verdict.ACCEPTED)
    ledger.claim_review(clerk="c", at=NOW, lease=MINUTE)
    assert ledger.put_off_review(said.review_id, clerk="c", reason="away", at=NOW, not_before=NOW + 5 * MINUTE)
    assert ledger.claim_review(clerk="c", at=NOW + 4 * MINUTE, lease=MINUTE) is None
    assert ledger.claim_review(clerk="c", at=NOW + 5 * MINUTE, lease=MINUTE) is not None


def test_what_is_said_of_another_result_by_now_is_not_begun(ledger: Ledger, job: Job) -> None:
    said = say(ledger, Verdict.ACCEPTED)
    assert ledger.claim_review(clerk="c", at=NOW, lease=MINUTE) is not None
    settle(ledger, job)
    assert not ledger.begin_review(said.review_id, clerk="c", objects=[("1.2.3", "2.25.9")])


# Delivered ------------------------------------------------------------------------------------------------------------


def write(ledger: Ledger, review: Review) -> None:
    """Let a clerk write a review."""
    assert ledger.claim_review(clerk="c", at=NOW, lease=MINUTE) is not None
    assert ledger.begin_review(review.review_id, clerk="c", objects=[("1.2.3", f"2.25.{review.review_id[:4]}")])
    assert ledger.finish_review(review.review_id, ReviewState.WRITTEN, clerk="c", at=NOW)


def states(ledger: Ledger) -> list[tuple[bool, DeliveryState]]:
    """Of the deliveries, the oldest first: whether it is a review's, and its state."""
    return [(bool(each.review_id), each.state) for each in ledger.deliveries()[::-1]]


def test_a_rejection_withdraws_what_was_not_sent_and_nobody_is_told(ledger: Ledger, job: Job) -> None:
    assert states(ledger) == [(False, DeliveryState.WAITING)]
    said = say(ledger, Verdict.REJECTED, stops_delivery=True)
    (delivery,) = ledger.deliveries()
    assert (delivery.state, delivery.reason) == (DeliveryState.CANCELLED, "a person rejected the result: Motion blur")
    write(ledger, said)
    assert states(ledger) == [(False, DeliveryState.CANCELLED)]
    settle(ledger, job)
    read(ledger, job)
    assert states(ledger) == [(False, DeliveryState.CANCELLED)], "the same result is still a rejected one"


def test_a_result_that_says_something_else_than_the_rejected_one_is_delivered(ledger: Ledger, job: Job) -> None:
    say(ledger, Verdict.REJECTED, stops_delivery=True)
    settle(ledger, job)
    read(ledger, job, result={**RESULT, "findings": []})
    assert states(ledger) == [(False, DeliveryState.WAITING)]


def test_without_the_setting_a_rejection_follows_the_result(ledger: Ledger, job: Job) -> None:
    assert job.destinations == ("pacs",)
    write(ledger, say(ledger, Verdict.REJECTED, stops_delivery=False))
    assert states(ledger) == [(False, DeliveryState.WAITING), (True, DeliveryState.WAITING)]
    first = ledger.claim_delivery("pacs", courier="c", at=NOW, lease=MINUTE)
    assert first is not None
    assert not first.review_id
    assert ledger.claim_delivery("pacs", courier="c", at=NOW, lease=MINUTE) is None


def test_what_was_withdrawn_by_a_rejection_goes_out_when_another_accepts(ledger: Ledger, job: Job) -> None:
    assert job.destinations == ("pacs",)
    say(ledger, Verdict.REJECTED, stops_delivery=True)
    say(ledger, Verdict.ACCEPTED)
    assert states(ledger) == [(False, DeliveryState.WAITING)]


def test_what_was_rejected_does_not_go_out_once_it_is_superseded(ledger: Ledger, job: Job) -> None:
    say(ledger, Verdict.REJECTED, stops_delivery=True)
    settle(ledger, a_job("b"))
    ledger.note_returned([("i", "study", "1.2")], at=NOW)
    assert ledger.claim_returned(clerk="c", at=NOW, lease=MINUTE) is not None
    assert ledger.settle_returned("i", [returned(job, "1.2", Verdict.ACCEPTED)], clerk="c", at=NOW)
    assert len(ledger.reviews()) == 2
    assert states(ledger) == [(False, DeliveryState.CANCELLED)]


def test_what_a_person_withdrew_stays_withdrawn_when_another_accepts(ledger: Ledger, job: Job) -> None:
    assert job.destinations == ("pacs",)
    (delivery,) = ledger.deliveries()
    assert ledger.cancel_delivery(delivery.delivery_id, at=NOW)
    say(ledger, Verdict.ACCEPTED)
    assert states(ledger) == [(False, DeliveryState.CANCELLED)]


def test_what_was_said_of_a_delivered_result_is_delivered_though_the_result_ceased_to_stand(
    ledger: Ledger, job: Job
) -> None:
    delivery = ledger.claim_delivery("pacs", courier="c", at=NOW, lease=MINUTE)
    assert delivery is not None
    for each in delivery.objects:
        assert ledger.begin_object(delivery.delivery_id, each.sop_instance_uid, courier="c")
        ledger.note_object(delivery.delivery_id, each.sop_instance_uid, ObjectState.CONFIRMED)
    ledger.put_down(delivery.delivery_id, courier="c", at=NOW, retry_at=NOW, ask_at=NOW)
    write(ledger, say(ledger, Verdict.REJECTED, stops_delivery=True))
    settle(ledger, a_job("b"))
    assert states(ledger) == [(False, DeliveryState.CONFIRMED), (True, DeliveryState.WAITING)]
    assert job.job_id == "a"


# What came back -------------------------------------------------------------------------------------------------------


def test_only_what_may_speak_of_a_result_is_looked_at(ledger: Ledger, job: Job) -> None:
    said = say(ledger, Verdict.REJECTED)
    ledger.claim_review(clerk="c", at=NOW, lease=MINUTE)
    ledger.begin_review(said.review_id, clerk="c", objects=[("1.2.3", "2.25.9")])
    came = [("i1", "study", "2.25.1"), ("i2", "study", "2.25.9"), ("i3", "never read", "1.1"), ("i4", "study", "1.2")]
    assert ledger.note_returned(came, at=NOW) == 1
    assert ledger.note_returned(came, at=NOW) == 1
    found = ledger.claim_returned(clerk="c", at=NOW, lease=MINUTE)
    assert found is not None
    assert (found.instance, found.orthanc_id, found.attempts) == ("i4", "study", 1)
    assert ledger.claim_returned(clerk="d", at=NOW, lease=MINUTE) is None
    assert ledger.put_off_returned("i4", clerk="c", at=NOW, not_before=NOW + MINUTE)
    assert ledger.claim_returned(clerk="d", at=NOW, lease=MINUTE) is None
    assert ledger.claim_returned(clerk="d", at=NOW + MINUTE, lease=MINUTE) is not None
    assert not ledger.settle_returned("i4", [returned(job, "1.2")], clerk="c", at=NOW)
    assert ledger.settle_returned("i4", [returned(job, "1.2")], clerk="d", at=NOW)
    assert ledger.claim_returned(clerk="d", at=NOW + 9 * MINUTE, lease=MINUTE) is None
    assert [each.object_uid for each in ledger.reviews()] == ["1.2", None]


@pytest.mark.parametrize("ledger", ["PostgreSQL"], indirect=True)  # in SQLite, one at a time writes
def test_what_came_back_about_two_jobs_never_holds_both_at_a_time(ledger: Ledger, job: Job) -> None:
    """Who publishes jobs holds several: each would wait for the other."""
    other = a_job("b", model="n")
    settle(ledger, other)
    read(ledger, other)
    ledger.note_returned([("i", "study", "1.2")], at=NOW)
    ledger.claim_returned(clerk="c", at=NOW, lease=MINUTE)
    reviews = [returned(job, "1.2"), returned(other, "1.3")]
    telling = Thread(target=lambda: ledger.settle_returned("i", reviews, clerk="c", at=NOW))
    with ledger._transaction() as publishing:
        publishing.execute(sa.select(JOB.c.job_id).where(JOB.c.job_id == "b").with_for_update())
        telling.start()
        deadline = time.monotonic() + 10
        while not ledger.reviews(job_ids=["a"]) and time.monotonic() < deadline:
            telling.join(0.05)
        assert ledger.reviews(job_ids=["a"])
        assert not ledger.reviews(job_ids=["b"])
    telling.join()
    assert ledger.reviews(job_ids=["b"])
    assert ledger.claim_returned(clerk="d", at=NOW + MINUTE + MINUTE, lease=MINUTE) is None


def test_what_came_back_is_counted_once(ledger: Ledger, job: Job) -> None:
    for _ in range(2):
        ledger.note_returned([("i", "study", "1.2")], at=NOW)
        assert ledger.claim_returned(clerk="c", at=NOW, lease=MINUTE) is not None
        assert ledger.settle_returned("i", [returned(job, "1.2")], clerk="c", at=NOW)
    (review,) = ledger.reviews()
    assert (review.state, review.sop_instance_uid) == (ReviewState.WRITTEN, "1.2")
    assert ledger.claim_review(clerk="c", at=NOW, lease=MINUTE) is None, "nothing is to be written"


# From another machine -------------------------------------------------------------------------------------------------


def test_a_clerk_on_another_machine_does_the_same(ledger: Ledger, job: Job) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        operation = OPERATIONS[request.url.path.rpartition("/")[2]]
        return httpx.Response(200, json={"answer": operation(ledger, json.loads(request.content), NOW)})

    remote = RemoteLedger("http://nowhere", transport=httpx.MockTransport(respond))
    said = say(ledger, Verdict.REJECTED, comment="apex")
    task = remote.claim_review(clerk="c", at=NOW, lease=MINUTE)
    assert task is not None
    assert task.review == said
    assert remote.renew_review(said.review_id, clerk="c", at=NOW, lease=MINUTE)
    assert remote.put_off_review(said.review_id, clerk="c", reason="away", at=NOW, not_before=NOW)
    assert remote.claim_review(clerk="c", at=NOW, lease=MINUTE) is not None
    assert remote.begin_review(said.review_id, clerk="c", objects=[("1.2.3", "2.25.9")])
    assert remote.finish_review(said.review_id, ReviewState.WRITTEN, clerk="c", at=NOW)
    ledger.note_returned([("i", "study", "1.2")], at=NOW)
    found = remote.claim_returned(clerk="c", at=NOW, lease=MINUTE)
    assert found is not None
    assert remote.put_off_returned("i", clerk="c", at=NOW, not_before=NOW)
    assert remote.claim_returned(clerk="c", at=NOW, lease=MINUTE) is not None
    assert remote.settle_returned("i", [returned(job, "1.2")], clerk="c", at=NOW)
    assert remote.reviews(job_ids=["a"], since=NOW) == ledger.reviews()
    assert remote.find_review(said.review_id) == ledger.find_review(said.review_id)
    assert remote.find_review("0" * 32) is None
    assert remote.done_by_model() == {("m", "1"): 1}
    remote.close()


# Over REST ------------------------------------------------------------------------------------------------------------


def ask(ledger: Ledger, path: str, *, body: object = None, groups: tuple[str, ...] = (), **asked: str) -> Output:
    routes: dict[str, Callable[..., None]] = {}
    gate = Gate(SimpleNamespace(RegisterRestCallback=routes.__setitem__), asks_users=True)
    tags = {"PatientName": "Doe^Jane^A", "PatientID": "P-123", "PatientBirthDate": "19500102"}
    register_reviews(gate, ledger, patient_words=lambda _study: words_that_name(tags), stops_delivery=True)
    output = Output()
    method = "GET" if body is None else "POST"
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    routes[path](output, path, method=method, groups=groups, get=asked, body=text, **ADA)
    return output


def post(ledger: Ledger, body: object, job: str = "a") -> Output:
    return ask(ledger, "/coread/jobs/([0-9a-f]+)/review", body=body, groups=(job,))


def test_a_review_is_taken_over_rest(ledger: Ledger, job: Job) -> None:
    accepted = post(ledger, {"verdict": "accept", "name": "Reader^Rita"})
    assert accepted.status == 201
    rejected = post(ledger, {"verdict": "reject", "reason": "111210", "comment": "apex"})
    assert (rejected.status, rejected.body["reason"]["meaning"]) == (201, "Motion blur")
    assert rejected.body["stops_delivery"]
    (listed,) = (ask(ledger, "/coread/jobs/([0-9a-f]+)/reviews", groups=("a",)).body,)
    said = [(each["verdict"], each["counts"], each["who"], each["state"]) for each in listed]
    assert said == [("rejected", True, "ada", "asked"), ("accepted", False, "ada", "asked")]
    assert [each["review_id"] for each in ask(ledger, "/coread/reviews", study=job.study_instance_uid).body] == [
        each["review_id"] for each in listed
    ]
    assert ask(ledger, "/coread/reviews", model="other").body == []
    reasons = ask(ledger, "/coread/rejection-reasons").body
    assert {"code": "111210", "scheme": "DCM"}.items() <= next(
        each for each in reasons if each["meaning"] == "Motion blur"
    ).items()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "expected JSON"),
        ({"verdict": "maybe"}, '"accept" or "reject"'),
        ({"verdict": "accept"}, "the reader's name"),
        ({"verdict": "accept", "name": "A\\B"}, "a name such as"),
        ({"verdict": "accept", "name": "^^"}, "a name such as"),
        ({"verdict": "accept", "name": "A" * 65}, "up to 64"),
        ({"verdict": "accept", "name": "A", "reason": "111210"}, "with a rejection only"),
        ({"verdict": "reject"}, "expected one of 111219"),
        ({"verdict": "reject", "reason": "1"}, "expected one of 111219"),
        ({"verdict": "reject", "reason": "111210", "comment": "x" * 1025}, "up to 1024"),
        ({"verdict": "reject", "reason": "111210", "comment": 1}, "expected texts"),
        ({"verdict": "reject", "reason": "111210", "comment": "Ms DOE moved"}, "does not name the patient"),
        ({"verdict": "reject", "reason": "111210", "comment": "see p-123"}, "does not name the patient"),
        ({"verdict": "reject", "reason": "111210", "comment": "born 02.01.1950"}, "does not name the patient"),
        ({"verdict": "reject", "reason": "111210", "more": "x"}, "the keys comment, name"),
    ],
)
def test_a_review_that_is_not_right_is_answered_with_what_was_expected(
    ledger: Ledger, job: Job, body: object, said: str
) -> None:
    answered = post(ledger, body, job.job_id)
    assert answered.status == 400
    assert said in answered.body["error"]
    assert "Doe" not in answered.body["error"]
    assert ledger.reviews() == []


def test_a_comment_may_hold_parts_of_other_words(ledger: Ledger, job: Job) -> None:
    said = {"verdict": "reject", "reason": "111210", "comment": "the model does not see the janeway lesion"}
    assert post(ledger, said, job.job_id).status == 201


def test_reviews_of_no_job_or_of_one_that_is_not_done_are_refused(ledger: Ledger) -> None:
    accept = {"verdict": "accept", "name": "Reader^Rita"}
    assert post(ledger, accept).status == 404
    assert ask(ledger, "/coread/jobs/([0-9a-f]+)/reviews", groups=("a",)).status == 404
    settle(ledger, a_job("a"))
    waiting = post(ledger, accept)
    assert waiting.status == 409
    assert "is waiting" in waiting.body["error"]
    assert ask(ledger, "/coread/reviews", since="yesterday").status == 400


# In figures -----------------------------------------------------------------------------------------------------------


def test_agreement_is_a_share_of_jobs_with_wilsons_interval(ledger: Ledger, job: Job) -> None:
    say(ledger, Verdict.REJECTED)
    accepted = say(ledger, Verdict.ACCEPTED)
    figures = agreement_of([accepted] * 8 + [returned(job, "1.1")] * 2)
    assert (figures["accepted"], figures["edited"], figures["rejected"], figures["agreement"]) == (8, 2, 0, 0.8)
    assert figures["low"] == pytest.approx(0.4902, abs=1e-4)
    assert figures["high"] == pytest.approx(0.9433, abs=1e-4)
    report = review_report(ledger.reviews(), done=ledger.done_by_model(), by="quarter", at=NOW)
    (model,) = report["models"]
    assert (model["reviewed"], model["accepted"], model["reviewed_again"], model["done"]) == (1, 1, 1, 1)
    assert [each["period"] for each in model["periods"]] == ["2026-Q1"]


def test_the_report_of_reviews_tells_what_was_changed_and_escapes_what_it_shows(job: Job) -> None:
    changed = {"concept": "<b>Volume", "derivation": None, "ours": 10.0, "theirs": 12.5}
    edit = replace(returned(job, "1.1"), comparison={"dice": {"cavity": 0.8, "wall": None}, "changes": [changed]})
    report = review_report([edit], done={}, by="week", at=NOW)
    (model,) = report["models"]
    assert [(each["structure"], each["median"], each["not_compared"]) for each in model["dice"]] == [
        ("cavity", 0.8, 0),
        ("wall", None, 1),
    ]
    assert model["changes"][0]["median_difference"] == 2.5
    page = page_of_reviews(report)
    assert "&lt;b&gt;Volume" in page
    assert "<b>Volume" not in page
    assert "Nothing was reviewed yet" in page_of_reviews(review_report([], done={}, by="month", at=NOW))


def test_the_commands_show_export_and_evaluate_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(f"sqlite:///{tmp_path / 'coread-data' / 'ledger.sqlite'}")
    ledger.migrate()
    settle(ledger, a_job("a"))
    read(ledger, a_job("a"))
    said = say(ledger, Verdict.REJECTED, comment="typed by a person", reader="Reader^Rita")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(coread, ["reviews", *arguments], env={"COLUMNS": "300"})
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "rejected" in run("list")
    assert json.loads(run("list", "--json", "--job", "a"))[0]["review_id"] == said.review_id
    assert "typed by a person" in run("show", said.review_id)
    for exported in (run("export"), run("export", "--format", "csv", "--with-uids")):
        assert said.review_id in exported
        assert "typed" not in exported
        assert "Rita" not in exported
        assert "rita" not in exported
    assert "1.2" not in [row.get("study_instance_uid") for row in json.loads(run("export"))]
    report = json.loads(run("evaluate", "--json", "-o", "figures"))
    assert report["models"][0]["rejected"] == 1
    assert "Motion blur" in (tmp_path / "figures" / "reviews.html").read_text()
    assert CliRunner().invoke(coread, ["reviews", "show", "0"]).exit_code == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou"),
        ("=山田^太郎", "山田^太郎"),
        ("^^=", ""),
        ("A\\B^C", "A B^C"),
    ],
)
def test_a_readers_name_is_the_first_form_of_it_that_says_anything(text: str, name: str) -> None:
    assert _as_name(text) == name

"""Studies that a finding has raised: nothing lost, nobody told twice, and a person's own priority kept."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coread.audit.event import AuditKind
from coread.job import Job, JobState, Priority
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.raised import LABEL, NoticeEvent, Verdict
from coread.review import Verdict as Rating
from tests.support import NOW, a_job

MINUTE = timedelta(minutes=1)
BLEEDING = Verdict(
    alert="bleeding",
    words="Haemorrhage present",
    priority=Priority.STAT,
    label="coread:bleeding",
    channels=["webhook:ris"],
)


RESULT = {"model": "m", "sop_instance_uids": ["2.25.1"], "sop_class_uids": ["1.2"]}


def settle(ledger: Ledger, *jobs: Job, orthanc_id: str = "study") -> None:
    study = ArrivingStudy(orthanc_id=orthanc_id, last_change=1, last_arrival_at=NOW)
    ledger.settle(study, jobs, present_uids=(), at=NOW)


def do(ledger: Ledger, job_id: str, *, end: JobState = JobState.DONE) -> None:
    ledger.queue_due(at=NOW)
    claimed = ledger.claim(worker="w", at=NOW, lease=MINUTE)
    assert claimed is not None
    assert claimed.job_id == job_id
    assert ledger.start_storing(job_id, worker="w", result=RESULT, at=NOW)
    assert ledger.finish(job_id, end, worker="w", result=RESULT, at=NOW)


def judge(ledger: Ledger, *verdicts: Verdict) -> list[str]:
    """Judge all that is due by the same verdicts; the jobs that were judged."""
    due = [job.job_id for job, _result in ledger.findings_due()]
    for job_id in due:
        ledger.note_judged(job_id, verdicts, at=NOW)
    return due


def reject(ledger: Ledger, job_id: str) -> None:
    assert ledger.review(job_id, verdict=Rating.REJECTED, reason=("111210", "DCM", "Motion blur"), at=NOW)


def priorities(ledger: Ledger) -> dict[str, Priority]:
    return {record.job.job_id: record.job.priority for record in ledger.jobs()}


def told(ledger: Ledger, orthanc_id: str = "study") -> list[tuple[str, str, str]]:
    return [(each["channel"], each["event"], each["state"]) for each in ledger.notices(orthanc_id)]


def test_a_job_that_is_done_is_judged_once(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    assert judge(ledger) == []
    do(ledger, "a")
    ((job, result),) = ledger.findings_due()
    assert (job.job_id, result) == ("a", RESULT)
    assert [each.alert for each in ledger.note_judged("a", [BLEEDING], at=NOW)] == ["bleeding"]
    assert ledger.note_judged("a", [BLEEDING], at=NOW) == []
    assert ledger.findings_due() == []
    assert told(ledger) == [(LABEL, "raised", "waiting"), ("webhook:ris", "raised", "waiting")]


@pytest.mark.parametrize("end", [JobState.REFUSED, JobState.FAILED])
def test_a_job_that_found_nothing_is_not_judged(ledger: Ledger, end: JobState) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a", end=end)
    assert ledger.findings_due() == []


def test_the_studys_waiting_jobs_are_raised_and_no_others(ledger: Ledger) -> None:
    waiting = [a_job(f"other{priority}", model=f"m{priority}", priority=priority) for priority in Priority]
    elsewhere = a_job("elsewhere", orthanc_id="another", study_instance_uid="1.3")
    settle(ledger, a_job("a", priority=Priority.STAT, created_at=NOW - MINUTE), *waiting)
    settle(ledger, elsewhere, orthanc_id="another")
    do(ledger, "a")
    judge(ledger, BLEEDING)
    assert priorities(ledger) == {
        "a": Priority.STAT,
        "otherstat": Priority.STAT,
        "otherroutine": Priority.STAT,
        "otherbatch": Priority.STAT,
        "elsewhere": Priority.ROUTINE,
    }
    (raised,) = ledger.raised(["study", "another"])["study"]
    assert (raised.alert, raised.words, raised.job_id) == ("bleeding", "Haemorrhage present", "a")
    assert [row.kind for row in ledger.audit(job_id="a", limit=1)] == [AuditKind.RAISED]


def test_what_is_more_urgent_already_stays_so(ledger: Ledger) -> None:
    settle(
        ledger,
        a_job("a", priority=Priority.STAT, created_at=NOW - MINUTE),
        a_job("b", model="n", priority=Priority.STAT),
    )
    do(ledger, "a")
    judge(ledger, replace(BLEEDING, priority=Priority.ROUTINE))
    assert priorities(ledger)["b"] is Priority.STAT


def test_a_persons_own_priority_is_never_changed(ledger: Ledger) -> None:
    settle(ledger, a_job("a", priority=Priority.STAT), a_job("b", model="n"))
    assert ledger.prioritise("b", Priority.BATCH, by="ada", at=NOW)
    do(ledger, "a")
    judge(ledger, BLEEDING)
    assert priorities(ledger)["b"] is Priority.BATCH, "raised by nothing automatic"
    settle(ledger, a_job("a", priority=Priority.STAT), a_job("c", model="n", fingerprint="grown"))
    assert priorities(ledger)["c"] is Priority.BATCH, "nor is the job that takes its place"
    assert ledger.prioritise("c", Priority.ROUTINE, by="ada", at=NOW), "a person may"
    assert priorities(ledger)["c"] is Priority.ROUTINE


def test_a_persons_priority_outlives_a_new_version_of_the_model(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    assert ledger.prioritise("a", Priority.STAT, by="ada", at=NOW)
    assert ledger.replan({"m": "2"}, at=NOW) == ["a"]
    settle(ledger, a_job("b", model_version="2", priority=Priority.BATCH, created_at=NOW + MINUTE))
    assert priorities(ledger)["b"] is Priority.STAT


def test_a_job_in_hand_is_raised_for_when_it_waits_again(ledger: Ledger) -> None:
    settle(ledger, a_job("a", created_at=NOW - MINUTE), a_job("b", model="n"))
    do(ledger, "a")
    claimed = ledger.claim(worker="w2", at=NOW, lease=MINUTE)
    assert claimed is not None
    judge(ledger, BLEEDING)
    assert ledger.try_again("b", worker="w2", reason="away", at=NOW, not_before=NOW)
    assert priorities(ledger)["b"] is Priority.STAT


def test_a_persons_priority_outlives_that_the_job_runs_again(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    assert ledger.prioritise("a", Priority.STAT, by="ada", at=NOW)
    do(ledger, "a", end=JobState.REFUSED)
    settle(ledger, a_job("a", priority=Priority.BATCH))
    (record,) = ledger.jobs()
    assert (record.state, record.job.priority) == (JobState.WAITING, Priority.STAT)


def test_what_a_raised_study_gets_later_is_raised_too(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a")
    judge(ledger, BLEEDING)
    settle(ledger, a_job("a"), a_job("b", model="n", priority=Priority.BATCH))
    assert priorities(ledger)["b"] is Priority.STAT


def test_a_later_reading_that_finds_it_again_goes_on_and_tells_nobody(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a")
    judge(ledger, BLEEDING)
    before = told(ledger)
    settle(ledger, a_job("b", fingerprint="grown"))
    assert ledger.job("a").state is JobState.SUPERSEDED  # type: ignore[union-attr]
    assert ledger.raised(["study"]), "while it is read again"
    do(ledger, "b")
    judge(ledger, replace(BLEEDING, words="Haemorrhage present, larger"))
    (raised,) = ledger.raised(["study"])["study"]
    assert (raised.job_id, raised.words) == ("b", "Haemorrhage present, larger")
    assert told(ledger) == before


def test_a_later_reading_that_does_not_find_it_ends_it(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a")
    judge(ledger, BLEEDING)
    for channel in (LABEL, "webhook:ris"):
        for notice in ledger.notices_due(channel, at=NOW):
            ledger.note_told(notice.notice_id)
    settle(ledger, a_job("b", fingerprint="grown"))
    do(ledger, "b")
    judge(ledger)
    assert ledger.raised(["study"]) == {}
    (ended,) = ledger.raised_ever("study")
    assert ended.ended_because == "a later reading does not find it"
    assert told(ledger)[2:] == [(LABEL, "ended", "waiting"), ("webhook:ris", "ended", "waiting")]
    (notice,) = ledger.notices_due("webhook:ris", at=NOW)
    assert (notice.event, notice.of.ended_because) == (NoticeEvent.ENDED, "a later reading does not find it")
    assert ledger.job("b").job.priority is Priority.STAT, "nothing is lowered"  # type: ignore[union-attr]


def test_who_was_not_told_is_not_told_of_the_end_either(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a")
    judge(ledger, BLEEDING)
    (notice,) = ledger.notices_due("webhook:ris", at=NOW)
    assert ledger.begin_to_tell(notice.notice_id)
    ledger.note_not_told(notice.notice_id, reason="it hangs", not_before=NOW + MINUTE)
    reject(ledger, "a")
    assert told(ledger) == [
        (LABEL, "raised", "dropped"),
        ("webhook:ris", "raised", "dropped"),
        ("webhook:ris", "ended", "waiting"),
    ], "it may have arrived where an attempt was made"


def test_who_is_being_told_while_it_ends_is_told_of_the_end(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a")
    judge(ledger, BLEEDING)
    (notice,) = ledger.notices_due("webhook:ris", at=NOW)
    assert ledger.begin_to_tell(notice.notice_id)
    reject(ledger, "a")
    ledger.note_told(notice.notice_id)
    assert told(ledger)[1:] == [("webhook:ris", "raised", "dropped"), ("webhook:ris", "ended", "waiting")]
    assert not ledger.begin_to_tell(notice.notice_id)


def test_another_findings_label_stays(ledger: Ledger) -> None:
    settle(ledger, a_job("a", created_at=NOW - MINUTE), a_job("b", model="n"))
    do(ledger, "a")
    judge(ledger, replace(BLEEDING, channels=[]))
    do(ledger, "b")
    judge(ledger, replace(BLEEDING, alert="other", channels=[]))
    for notice in ledger.notices_due(LABEL, at=NOW):
        ledger.note_told(notice.notice_id)
    reject(ledger, "a")
    assert [event for _, event, _ in told(ledger)] == ["raised", "raised"]
    reject(ledger, "b")
    assert [event for _, event, _ in told(ledger)] == ["raised", "raised", "ended"]


def test_a_result_that_is_rejected_before_it_is_judged_raises_nothing(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a")
    reject(ledger, "a")
    assert judge(ledger, BLEEDING) == []


def test_a_reading_that_breaks_changes_nothing(ledger: Ledger) -> None:
    settle(ledger, a_job("a"))
    do(ledger, "a")
    judge(ledger, BLEEDING)
    settle(ledger, a_job("b", fingerprint="grown"))
    do(ledger, "b", end=JobState.FAILED)
    judge(ledger)
    assert [each.alert for each in ledger.raised(["study"])["study"]] == ["bleeding"]


@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wishes=st.lists(st.sampled_from([*Priority, "judged"]), max_size=5),
    wanted=st.sampled_from([Priority.STAT, Priority.ROUTINE]),
)
def test_nothing_automatic_lowers_a_priority_or_touches_a_persons(
    tmp_path: Path, wishes: Sequence[str], wanted: Priority
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    study = uuid.uuid4().hex
    finder, other = (f"{study}{letter}" for letter in "xb")
    settle(
        ledger,
        a_job(finder, orthanc_id=study, priority=Priority.STAT),
        a_job(other, orthanc_id=study, model="n"),
        orthanc_id=study,
    )
    do(ledger, finder)
    said: Priority | None = None
    for wish in wishes:
        before = priority_of(ledger, other)
        if wish == "judged":
            judge(ledger, replace(BLEEDING, priority=wanted))
            assert list(Priority).index(priority_of(ledger, other)) <= list(Priority).index(before)
        else:
            said = Priority(wish)
            ledger.prioritise(other, said, by="ada", at=NOW)
        assert said in (None, priority_of(ledger, other))
    ledger.cancel(other, at=NOW)


def priority_of(ledger: Ledger, job_id: str) -> Priority:
    record = ledger.job(job_id)
    assert record is not None
    return record.job.priority


def test_a_persons_priority_outlives_that_the_study_changes_back_and_forth(ledger: Ledger) -> None:
    small, grown = a_job("a"), a_job("b", fingerprint="grown", created_at=NOW + MINUTE)
    settle(ledger, small)
    settle(ledger, grown)
    settle(ledger, small)
    assert ledger.prioritise("a", Priority.BATCH, by="ada", at=NOW)
    settle(ledger, grown)
    assert priorities(ledger)["b"] is Priority.BATCH, "the latest word on this reading"


def test_a_job_that_a_person_lets_run_again_is_as_urgent_as_its_study(ledger: Ledger) -> None:
    settle(ledger, a_job("a", created_at=NOW - MINUTE), a_job("b", model="n"))
    do(ledger, "a")
    assert ledger.cancel("b", at=NOW)
    judge(ledger, BLEEDING)
    assert ledger.retry("b", at=NOW)
    assert priorities(ledger)["b"] is Priority.STAT


def read_again(ledger: Ledger) -> None:
    """Its results were deleted from the archive: the job runs again, and says the same."""
    settle(ledger, a_job("a"))
    do(ledger, "a")


def test_what_a_person_rejected_raises_nothing_when_it_is_read_again(ledger: Ledger) -> None:
    read_again(ledger)
    judge(ledger, BLEEDING)
    reject(ledger, "a")
    read_again(ledger)
    assert judge(ledger, BLEEDING) == []
    assert ledger.raised(["study"]) == {}


@pytest.mark.parametrize("is_judged_before", [True, False])
def test_what_a_person_accepts_that_was_rejected_is_judged_anew(ledger: Ledger, is_judged_before: bool) -> None:
    read_again(ledger)
    if is_judged_before:
        judge(ledger, BLEEDING)
    reject(ledger, "a")
    ledger.review("a", verdict=Rating.ACCEPTED, reader="Reader^Rita", at=NOW)
    assert judge(ledger, BLEEDING) == ["a"]
    assert [each.alert for each in ledger.raised(["study"])["study"]] == ["bleeding"]
    ledger.review("a", verdict=Rating.ACCEPTED, reader="Other^Reader", at=NOW)
    assert judge(ledger, BLEEDING) == [], "nothing had been rejected meanwhile"

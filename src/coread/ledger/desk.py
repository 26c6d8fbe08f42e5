"""What workers and people ask of the ledger, whether they open its database or ask the plugin over HTTP."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from coread.audit.event import AuditEvent
from coread.job import Job, JobState, Priority
from coread.ledger.jobs import JobEvent, JobRecord
from coread.ledger.reviews import ReturnedObject, ReviewTask
from coread.process_report import ProcessReport, ProcessSeen
from coread.reason_class import ReasonClass
from coread.review import Review, ReviewState


class JobDesk(Protocol):
    """Where jobs are taken, given back and looked up. Each method raises LedgerUnavailable if there is no answer."""

    def check_version(self) -> None: ...

    def close(self) -> None: ...

    # A worker's

    def note_worker_started(self, *, worker: str, models: Mapping[str, Mapping[str, str]], at: datetime) -> None: ...

    def note_alive(self, report: ProcessReport, *, at: datetime) -> None: ...

    def forget_process(self, name: str) -> None: ...

    def claim(self, *, worker: str, queues: Sequence[str] | None, at: datetime, lease: timedelta) -> Job | None: ...

    def look_ahead(self, *, worker: str, queues: Sequence[str] | None, at: datetime) -> Job | None: ...

    def renew(self, job_id: str, *, worker: str, at: datetime, lease: timedelta) -> bool: ...

    def start_storing(self, job_id: str, *, worker: str, result: Mapping[str, Any], at: datetime) -> bool: ...

    def finish(
        self,
        job_id: str,
        state: JobState,
        *,
        worker: str,
        reason: str = "",
        reason_class: ReasonClass = ReasonClass.NONE,
        result: Mapping[str, Any] | None = None,
        at: datetime,
    ) -> bool: ...

    def start_over(self, job: Job, *, worker: str, reason: str, at: datetime) -> bool: ...

    def try_again(
        self,
        job_id: str,
        *,
        worker: str,
        reason: str,
        reason_class: ReasonClass = ReasonClass.NONE,
        at: datetime,
        not_before: datetime,
    ) -> bool: ...

    def outdated_uids(self, job: Job) -> frozenset[str]: ...

    # A clerk's

    def claim_review(self, *, clerk: str, at: datetime, lease: timedelta) -> ReviewTask | None: ...

    def renew_review(self, review_id: str, *, clerk: str, at: datetime, lease: timedelta) -> bool: ...

    def begin_review(self, review_id: str, *, clerk: str, objects: Sequence[tuple[str, str]]) -> bool: ...

    def put_off_review(
        self, review_id: str, *, clerk: str, reason: str, at: datetime, not_before: datetime
    ) -> bool: ...

    def finish_review(
        self, review_id: str, state: ReviewState, *, clerk: str, reason: str = "", at: datetime
    ) -> bool: ...

    def claim_returned(self, *, clerk: str, at: datetime, lease: timedelta) -> ReturnedObject | None: ...

    def put_off_returned(self, instance: str, *, clerk: str, at: datetime, not_before: datetime) -> bool: ...

    def settle_returned(self, instance: str, reviews: Sequence[Review], *, clerk: str, at: datetime) -> bool: ...

    # A person's

    def job(self, job_id: str) -> JobRecord | None: ...

    def jobs(
        self, *, study_instance_uid: str | None = None, states: Collection[JobState] = (), limit: int = 1000
    ) -> list[JobRecord]: ...

    def history(self, job_id: str) -> list[JobEvent]: ...

    def retry(self, job_id: str, *, by: str = "", at: datetime) -> bool: ...

    def cancel(self, job_id: str, *, by: str = "", at: datetime) -> bool: ...

    def prioritise(self, job_id: str, priority: Priority, *, by: str = "", at: datetime) -> bool: ...

    def audit(
        self,
        *,
        study_instance_uid: str | None = None,
        job_id: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> list[AuditEvent]: ...

    def reviews(
        self,
        *,
        job_ids: Collection[str] | None = None,
        study_instance_uid: str | None = None,
        model: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> list[Review]: ...

    def find_review(self, review_id: str) -> Review | None: ...

    def done_by_model(self) -> dict[tuple[str, str], int]: ...

    def processes(self, *, at: datetime) -> list[ProcessSeen]: ...

    def check_writing(self) -> datetime: ...

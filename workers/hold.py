"""What a worker may write down of a job that it has claimed: as long as the job is its own, and nothing after that."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from coread.job import Job, JobState
from coread.ledger.desk import JobDesk
from coread.reason_class import ReasonClass


def utc_now() -> datetime:
    """The clock that workers use."""
    return datetime.now(UTC)


class Hold:
    """A worker's hold on a job, from its claim on. Each method is False if the job is no longer held.

    The ledger knows whose a job is by the worker's name. A worker that was silent for too long, and then claims the
    same job again, has that name both times: the older hold is told by ``lose``.
    """

    def __init__(self, job: Job, *, ledger: JobDesk, worker: str, lease: timedelta) -> None:
        self.job = job
        self._ledger, self._worker, self._lease = ledger, worker, lease
        self._is_lost = False

    def lose(self) -> None:
        """From now on, this hold is none."""
        self._is_lost = True

    def renew(self) -> bool:
        """Prolong the lease."""
        if self._is_lost:
            return False
        return self._ledger.renew(self.job.job_id, worker=self._worker, at=utc_now(), lease=self._lease)

    def start_storing(self, result: Mapping[str, Any]) -> bool:
        """Record what is about to be stored."""
        if self._is_lost:
            return False
        return self._ledger.start_storing(self.job.job_id, worker=self._worker, result=result, at=utc_now())

    def finish(
        self,
        state: JobState,
        *,
        reason: str = "",
        reason_class: ReasonClass = ReasonClass.NONE,
        result: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record how the job ended."""
        if self._is_lost:
            return False
        return self._ledger.finish(
            self.job.job_id,
            state,
            worker=self._worker,
            reason=reason,
            reason_class=reason_class,
            result=result,
            at=utc_now(),
        )

    def start_over(self, reason: str) -> bool:
        """Record that the study is to be settled again."""
        if self._is_lost:
            return False
        return self._ledger.start_over(self.job, worker=self._worker, reason=reason, at=utc_now())

    def try_again(self, reason: str, *, reason_class: ReasonClass = ReasonClass.NONE, wait: timedelta) -> bool:
        """Let the job wait."""
        if self._is_lost:
            return False
        now = utc_now()
        return self._ledger.try_again(
            self.job.job_id,
            worker=self._worker,
            reason=reason,
            reason_class=reason_class,
            at=now,
            not_before=now + wait,
        )

"""The ledger from another machine: over HTTP, by the plugin that keeps it. The plugin's clock counts.

The other half is `coread.plugin.desk`: each method posts its arguments as JSON to ``/coread/ledger/{its name}``.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx

from coread import __version__
from coread.archive import KEPT_OPEN
from coread.audit.event import AuditEvent
from coread.errors import ConfigurationError, LedgerUnavailable
from coread.job import Job, JobState, Priority
from coread.ledger import Ledger
from coread.ledger.desk import JobDesk
from coread.ledger.jobs import JobEvent, JobRecord
from coread.ledger.reviews import ReturnedObject, ReviewTask
from coread.process_report import ProcessReport, ProcessSeen
from coread.reason_class import ReasonClass
from coread.review import Review, ReviewState

TIMEOUT_S = 30.0


def open_desk(url: str, *, login: tuple[str, str] | None = None) -> JobDesk:
    """The ledger at a SQLAlchemy URL, or behind the plugin at an http or https URL."""
    return RemoteLedger(url, login=login) if url.startswith(("http://", "https://")) else Ledger(url)


class RemoteLedger:
    """A ``JobDesk`` over HTTP."""

    def __init__(
        self, url: str, *, login: tuple[str, str] | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(
            base_url=url, auth=login, timeout=TIMEOUT_S, limits=KEPT_OPEN, trust_env=False, transport=transport
        )

    def check_version(self) -> None:
        """Raises ConfigurationError unless plugin and worker are of the same version."""
        answer = self._send("GET", "/coread/health")
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ConfigurationError(
                f"Orthanc answered {answer.status_code}: expected a user that it knows; set orthanc.password to the "
                "same value here and on Orthanc's machine"
            )
        found = self._answer(answer)["version"]
        if found != __version__:
            raise ConfigurationError(f"the plugin is Coread {found}, this is {__version__}; install the same version")

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def note_worker_started(self, *, worker: str, models: Mapping[str, Mapping[str, str]], at: datetime) -> None:  # noqa: ARG002  # the plugin's clock counts
        self._ask("note_worker_started", worker=worker, models={name: dict(model) for name, model in models.items()})

    def note_alive(self, report: ProcessReport, *, at: datetime) -> None:  # noqa: ARG002  # the plugin's clock counts
        self._ask("note_alive", report=report.as_json())

    def forget_process(self, name: str) -> None:
        self._ask("forget_process", name=name)

    def claim(self, *, worker: str, queues: Sequence[str] | None, at: datetime, lease: timedelta) -> Job | None:  # noqa: ARG002  # the plugin's clock counts
        asked = {"worker": worker, "queues": _listed(queues), "lease_s": lease.total_seconds()}
        job = self._ask("claim", **asked, version=__version__)
        return None if job is None else Job.from_json(job)

    def look_ahead(self, *, worker: str, queues: Sequence[str] | None, at: datetime) -> Job | None:  # noqa: ARG002
        job = self._ask("look_ahead", worker=worker, queues=_listed(queues))
        return None if job is None else Job.from_json(job)

    def renew(self, job_id: str, *, worker: str, at: datetime, lease: timedelta) -> bool:  # noqa: ARG002  # as above
        return bool(self._ask("renew", job_id=job_id, worker=worker, lease_s=lease.total_seconds()))

    def start_storing(self, job_id: str, *, worker: str, result: Mapping[str, Any], at: datetime) -> bool:  # noqa: ARG002
        return bool(self._ask("start_storing", job_id=job_id, worker=worker, result=dict(result)))

    def finish(
        self,
        job_id: str,
        state: JobState,
        *,
        worker: str,
        reason: str = "",
        reason_class: ReasonClass = ReasonClass.NONE,
        result: Mapping[str, Any] | None = None,
        at: datetime,  # noqa: ARG002
    ) -> bool:
        why = {"reason": reason, "reason_class": reason_class}
        said = {"state": state, **why, "result": None if result is None else dict(result)}
        return bool(self._ask("finish", job_id=job_id, worker=worker, **said))

    def start_over(self, job: Job, *, worker: str, reason: str, at: datetime) -> bool:  # noqa: ARG002
        return bool(self._ask("start_over", job_id=job.job_id, worker=worker, reason=reason))

    def try_again(
        self,
        job_id: str,
        *,
        worker: str,
        reason: str,
        reason_class: ReasonClass = ReasonClass.NONE,
        at: datetime,
        not_before: datetime,
    ) -> bool:
        why = {"reason": reason, "reason_class": reason_class}
        wait_s = (not_before - at).total_seconds()
        return bool(self._ask("try_again", job_id=job_id, worker=worker, **why, wait_s=wait_s))

    def outdated_uids(self, job: Job) -> frozenset[str]:
        return frozenset(self._ask("outdated_uids", job_id=job.job_id))

    def job(self, job_id: str) -> JobRecord | None:
        record = self._ask("job", job_id=job_id)
        return None if record is None else JobRecord.from_json(record)

    def jobs(
        self, *, study_instance_uid: str | None = None, states: Collection[JobState] = (), limit: int = 1000
    ) -> list[JobRecord]:
        wanted = {"study_instance_uid": study_instance_uid, "states": list(states), "limit": limit}
        return [JobRecord.from_json(record) for record in self._ask("jobs", **wanted)]

    def history(self, job_id: str) -> list[JobEvent]:
        return [JobEvent.from_json(event) for event in self._ask("history", job_id=job_id)]

    def retry(self, job_id: str, *, by: str = "", at: datetime) -> bool:  # noqa: ARG002
        return bool(self._ask("retry", job_id=job_id, by=by))

    def cancel(self, job_id: str, *, by: str = "", at: datetime) -> bool:  # noqa: ARG002
        return bool(self._ask("cancel", job_id=job_id, by=by))

    def prioritise(self, job_id: str, priority: Priority, *, by: str = "", at: datetime) -> bool:  # noqa: ARG002
        return bool(self._ask("prioritise", job_id=job_id, priority=priority, by=by))

    def audit(
        self,
        *,
        study_instance_uid: str | None = None,
        job_id: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> list[AuditEvent]:
        wanted = {
            "study_instance_uid": study_instance_uid,
            "job_id": job_id,
            "since": since and since.isoformat(),
            "limit": limit,
        }
        return [AuditEvent.from_json(event) for event in self._ask("audit", **wanted)]

    def claim_review(self, *, clerk: str, at: datetime, lease: timedelta) -> ReviewTask | None:  # noqa: ARG002
        task = self._ask("claim_review", clerk=clerk, lease_s=lease.total_seconds(), version=__version__)
        return None if task is None else ReviewTask.from_json(task)

    def renew_review(self, review_id: str, *, clerk: str, at: datetime, lease: timedelta) -> bool:  # noqa: ARG002
        return bool(self._ask("renew_review", review_id=review_id, clerk=clerk, lease_s=lease.total_seconds()))

    def begin_review(self, review_id: str, *, clerk: str, objects: Sequence[tuple[str, str]]) -> bool:
        pairs = [list(pair) for pair in objects]
        return bool(self._ask("begin_review", review_id=review_id, clerk=clerk, objects=pairs))

    def put_off_review(self, review_id: str, *, clerk: str, reason: str, at: datetime, not_before: datetime) -> bool:
        wait_s = (not_before - at).total_seconds()
        return bool(self._ask("put_off_review", review_id=review_id, clerk=clerk, reason=reason, wait_s=wait_s))

    def finish_review(
        self,
        review_id: str,
        state: ReviewState,
        *,
        clerk: str,
        reason: str = "",
        at: datetime,  # noqa: ARG002
    ) -> bool:
        return bool(self._ask("finish_review", review_id=review_id, state=state, clerk=clerk, reason=reason))

    def claim_returned(self, *, clerk: str, at: datetime, lease: timedelta) -> ReturnedObject | None:  # noqa: ARG002
        found = self._ask("claim_returned", clerk=clerk, lease_s=lease.total_seconds(), version=__version__)
        return None if found is None else ReturnedObject(**found)

    def put_off_returned(self, instance: str, *, clerk: str, at: datetime, not_before: datetime) -> bool:
        wait_s = (not_before - at).total_seconds()
        return bool(self._ask("put_off_returned", instance=instance, clerk=clerk, wait_s=wait_s))

    def settle_returned(self, instance: str, reviews: Sequence[Review], *, clerk: str, at: datetime) -> bool:  # noqa: ARG002
        said = [review.as_json() for review in reviews]
        return bool(self._ask("settle_returned", instance=instance, reviews=said, clerk=clerk))

    def reviews(
        self,
        *,
        job_ids: Collection[str] | None = None,
        study_instance_uid: str | None = None,
        model: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> list[Review]:
        wanted = {
            "job_ids": None if job_ids is None else list(job_ids),
            "study_instance_uid": study_instance_uid,
            "model": model,
            "since": since and since.isoformat(),
            "limit": limit,
        }
        return [Review.from_json(review) for review in self._ask("reviews", **wanted)]

    def find_review(self, review_id: str) -> Review | None:
        found = self._ask("find_review", review_id=review_id)
        return None if found is None else Review.from_json(found)

    def done_by_model(self) -> dict[tuple[str, str], int]:
        return {(model, version): number for model, version, number in self._ask("done_by_model")}

    def processes(self, *, at: datetime) -> list[ProcessSeen]:  # noqa: ARG002  # the plugin's clock counts
        return [ProcessSeen.from_json(each) for each in self._ask("processes")]

    def check_writing(self) -> datetime:
        return datetime.fromisoformat(self._ask("check_writing"))

    def _ask(self, operation: str, **arguments: Any) -> Any:
        return self._answer(self._send("POST", f"/coread/ledger/{operation}", arguments))["answer"]

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise LedgerUnavailable(f"the plugin does not answer {method} {path}: {error}; is Orthanc up?") from error

    @staticmethod
    def _answer(response: httpx.Response) -> Any:
        try:
            if response.status_code == httpx.codes.CONFLICT:
                raise ConfigurationError(str(response.json().get("error", "")))
            return response.raise_for_status().json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise LedgerUnavailable(
                f"the plugin answered {response.status_code} to {response.request.url.path}; see Orthanc's log"
            ) from error


def _listed(queues: Sequence[str] | None) -> list[str] | None:
    return None if queues is None else list(queues)

"""The plugin's REST routes under ``/coread``: what is read, how it went, and whether the intake lives.

GET /coread/health            200 if the intake runs, 503 if not
GET /coread/jobs              the newest jobs
GET /coread/jobs?study=UID    the jobs of a study
GET /coread/jobs/{job id}     a job with its history and its findings
POST /coread/jobs/{job id}/retry    let a job that has failed, was refused or cancelled run again
POST /coread/jobs/{job id}/cancel   withdraw a job whose results are not being stored yet
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from coread import __version__
from coread.ledger import JobEvent, JobRecord, Ledger


def register_routes(orthanc: Any, ledger: Ledger, *, is_alive: Callable[[], bool]) -> None:
    """Register the routes with Orthanc."""

    def health(output: Any, _url: str, **_request: Any) -> None:
        body = {"version": __version__, "intake": "running" if is_alive() else "stopped"}
        _answer(output, body, status=200 if is_alive() else 503)

    def jobs(output: Any, _url: str, **request: Any) -> None:
        study = request.get("get", {}).get("study")
        _answer(output, [describe(record) for record in ledger.jobs(study_instance_uid=study)])

    def job(output: Any, _url: str, **request: Any) -> None:
        (job_id,) = request["groups"]
        record = ledger.job(job_id)
        if record is None:
            _answer(output, {"error": f"no job {job_id}; GET /coread/jobs lists them"}, status=404)
        else:
            _answer(output, describe(record, history=ledger.history(job_id)))

    def change(output: Any, _url: str, **request: Any) -> None:
        job_id, wish = request["groups"]
        changed = (ledger.retry if wish == "retry" else ledger.cancel)(job_id, at=datetime.now(UTC))
        record = ledger.job(job_id)
        if record is None:
            _answer(output, {"error": f"no job {job_id}; GET /coread/jobs lists them"}, status=404)
        elif changed:
            _answer(output, describe(record))
        else:
            _answer(output, {"error": f"cannot {wish} a job that is {record.state}"}, status=409)

    for path, handler, method in (
        ("/coread/health", health, "GET"),
        ("/coread/jobs", jobs, "GET"),
        ("/coread/jobs/([0-9a-f]+)", job, "GET"),
        ("/coread/jobs/([0-9a-f]+)/(retry|cancel)", change, "POST"),
    ):
        orthanc.RegisterRestCallback(path, _only(method, handler))


def describe(record: JobRecord, *, history: list[JobEvent] | None = None) -> dict[str, Any]:
    """A job as JSON. It holds UIDs, findings and reasons, and nothing that identifies the patient."""
    job = record.job
    described = {
        "job_id": job.job_id,
        "study_instance_uid": job.study_instance_uid,
        "orthanc_id": job.orthanc_id,
        "model": job.model,
        "model_version": job.model_version,
        "priority": job.priority,
        "state": record.state,
        "reason": record.reason,
        "attempts": record.attempts,
        "created_at": job.created_at.isoformat(),
        "result": dict(record.result),
    }
    if history is not None:
        described["history"] = [
            {"at": event.at.isoformat(), "from": event.from_state, "to": event.to_state, "reason": event.reason}
            for event in history
        ]
    return described


def _only(method: str, handler: Callable[..., None]) -> Callable[..., None]:
    def checked(output: Any, url: str, **request: Any) -> None:
        if request["method"] == method:
            handler(output, url, **request)
        else:
            output.SendMethodNotAllowed(method)

    return checked


def _answer(output: Any, body: object, *, status: int = 200) -> None:
    text = json.dumps(body)
    if status == 200:
        output.AnswerBuffer(text, "application/json")
        return
    try:
        output.SendHttpStatus(status, text, len(text))  # Python plugin 4.0
    except TypeError:
        output.SendHttpStatus(status, text.encode())  # 4.2 and later

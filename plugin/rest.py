"""The plugin's REST routes under ``/coread``: what is read, and how it went.

GET /coread/me                who asks, and what they may
GET /coread/jobs              the newest jobs
GET /coread/jobs?study=UID    the jobs of a study; ?state=failed,refused those in a state; ?limit=N so many
GET /coread/jobs/{job id}     a job with its history and its findings
GET /coread/studies           the studies that are not complete, and what each waits for
POST /coread/studies/{orthanc id}/read   have one read as it is, now
GET /coread/audit             the newest rows of the audit trail; ?study=UID, ?job=ID, ?since=TIME, ?limit=N
POST /coread/jobs/{job id}/retry    let a job that has failed, was refused or cancelled run again
POST /coread/jobs/{job id}/cancel   withdraw a job whose results are not being stored yet
POST /coread/jobs/{job id}/priority/{stat|routine|batch}   let a job that no worker has taken be sooner or later
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from coread.job import Job, JobState, Priority
from coread.ledger import ArrivingStudy, JobEvent, JobRecord, Ledger
from coread.plugin.answers import answer, asked_newest, asked_rows
from coread.plugin.explained import (
    OBJECT,
    TEXT,
    TIME,
    WHOLE_NUMBER,
    Listed,
    Record,
    Shape,
    choice,
    explained,
    limit,
    param,
    says,
)
from coread.plugin.gate import Gate, Role

LISTED = 1000
"""How many jobs are listed if nobody says otherwise."""

ROW: Mapping[str, Shape] = {
    "state": choice("where it stands", JobState),
    "reason": TEXT,
    "attempts": WHOLE_NUMBER,
    "silences": WHOLE_NUMBER,
    "worker": {"type": ["string", "null"]},
    "result": OBJECT,
}
JOB = Record(of=(Job,), fields=ROW)
PERSON = Record(fields={"user": TEXT, "name": TEXT, "role": TEXT, "may": Listed(of=TEXT)})
EVENT = Record(fields={"at": TIME, "from": {"type": ["string", "null"]}, "to": TEXT, "reason": TEXT})
JOB_AND_HISTORY = Record(of=(Job,), fields={**ROW, "history": Listed(of=EVENT)}, optional=frozenset({"history"}))
ARRIVING = Record(
    fields={
        "orthanc_id": TEXT,
        "since": TIME,
        "last_arrival_at": TIME,
        "instances": {"type": ["integer", "null"]},
        "waits_until": {"type": ["string", "null"]},
        "because": TEXT,
        "stalled": {"type": "boolean"},
    }
)
NO_JOB = "there is no such job"
OF_STUDY = param("StudyInstanceUID of the study that they are of")
SINCE = param("no older ones than this time, such as 2026-01-31T12:00Z")


def register_routes(gate: Gate, ledger: Ledger) -> None:
    """Register the routes."""

    @explained(
        query={
            "study": OF_STUDY,
            "state": choice("only those in a state", JobState, several=True),
            "limit": limit(LISTED),
        },
        answers={200: says("jobs, the newest first", Listed(of=JOB)), 400: "a state or a limit is none"},
    )
    def jobs(output: Any, _url: str, **request: Any) -> None:
        """The newest jobs: state, reason, model, findings, timings."""
        asked = request["get"]
        try:
            states, limit = asked_rows(asked, JobState, default=LISTED)
        except ValueError as error:
            answer(output, {"error": str(error)}, status=400)
            return
        records = ledger.jobs(study_instance_uid=asked.get("study"), states=states, limit=limit)
        answer(output, [describe(record) for record in records])

    @explained(path={"job": "the job's id"}, answers={200: says("the job", JOB_AND_HISTORY), 404: NO_JOB})
    def job(output: Any, _url: str, **request: Any) -> None:
        """A job with its findings and its history."""
        (job_id,) = request["groups"]
        record = ledger.job(job_id)
        if record is None:
            answer(output, {"error": f"no job {job_id}; GET /coread/jobs lists them"}, status=404)
        else:
            answer(output, describe(record, ledger.history(job_id)))

    @explained(
        query={"study": OF_STUDY, "job": param("a job's id"), "since": SINCE, "limit": limit(LISTED)},
        answers={200: says("rows, the newest first", Listed(of=OBJECT)), 400: "a time or a limit is none"},
    )
    def audit(output: Any, _url: str, **request: Any) -> None:
        """The newest rows of the audit trail."""
        asked = request["get"]
        try:
            since, limit = asked_newest(asked, default=LISTED)
        except ValueError as error:
            answer(output, {"error": str(error)}, status=400)
            return
        events = ledger.audit(study_instance_uid=asked.get("study"), job_id=asked.get("job"), since=since, limit=limit)
        answer(output, [event.as_json() for event in events])

    @explained(answers={200: says("the person", PERSON)})
    def me(output: Any, _url: str, **request: Any) -> None:
        """Who asks, and what they may."""
        person = request["person"]
        answer(output, {"user": person.user, "name": person.name, "role": person.role, "may": person.may})

    gate.route("/coread/me", GET=(Role.READER, me))
    gate.route("/coread/jobs", GET=(Role.READER, jobs))
    gate.route("/coread/audit", GET=(Role.ADMIN, audit))
    gate.route("/coread/jobs/([0-9a-f]+)", GET=(Role.READER, job))
    _register_changes(gate, ledger)
    _register_studies(gate, ledger)


def _register_studies(gate: Gate, ledger: Ledger) -> None:
    """The routes that speak of studies that are arriving."""

    @explained(answers={200: says("studies", Listed(of=ARRIVING))})
    def studies(output: Any, _url: str, **_request: Any) -> None:
        """The studies that are not complete, and what each waits for."""
        answer(output, [describe_arriving(study) for study in ledger.arriving()])

    @explained(
        path={"study": "Orthanc's id of the study"},
        answers={200: says("it will be", OBJECT), 404: "no such study is arriving"},
    )
    def read(output: Any, _url: str, **request: Any) -> None:
        """Have a study that is not complete read as it is, now."""
        (orthanc_id,) = request["groups"]
        if ledger.ask_to_read(orthanc_id, at=datetime.now(UTC)):
            answer(output, {"orthanc_id": orthanc_id, "read": "as it is"})
        else:
            error = f"no study {orthanc_id} is arriving; GET /coread/studies lists those that are"
            answer(output, {"error": error}, status=404)

    gate.route("/coread/studies", GET=(Role.READER, studies))
    gate.route("/coread/studies/([0-9a-f-]+)/read", POST=(Role.ADMIN, read))


def _register_changes(gate: Gate, ledger: Ledger) -> None:
    """The routes by which a person changes what becomes of a job."""

    @explained(
        path={"job": "the job's id", "wish": "what becomes of it"},
        answers={200: says("the job", JOB), 404: NO_JOB, 409: "it is in a state in which this cannot be done"},
    )
    def change(output: Any, _url: str, **request: Any) -> None:
        """Let a job that has failed, was refused or cancelled run again, or withdraw one that is not stored yet."""
        job_id, wish = request["groups"]
        by = request["person"].user
        changed = (ledger.retry if wish == "retry" else ledger.cancel)(job_id, by=by, at=datetime.now(UTC))
        answer_change(output, job_id, wish, changed=changed)

    @explained(
        path={"job": "the job's id", "priority": "how urgent it is"},
        answers={200: says("the job", JOB), 404: NO_JOB, 409: "it is in a state in which this cannot be done"},
    )
    def prioritise(output: Any, _url: str, **request: Any) -> None:
        """Make a job that no worker has taken yet more or less urgent."""
        job_id, priority = request["groups"]
        by = request["person"].user
        changed = ledger.prioritise(job_id, Priority(priority), by=by, at=datetime.now(UTC))
        answer_change(output, job_id, "prioritise", changed=changed)

    def answer_change(output: Any, job_id: str, wish: str, *, changed: bool) -> None:
        record = ledger.job(job_id)
        if record is None:
            answer(output, {"error": f"no job {job_id}; GET /coread/jobs lists them"}, status=404)
        elif changed:
            answer(output, describe(record))
        else:
            answer(output, {"error": f"cannot {wish} a job that is {record.state}"}, status=409)

    gate.route("/coread/jobs/([0-9a-f]+)/(retry|cancel)", POST=(Role.REVIEWER, change))
    gate.route(f"/coread/jobs/([0-9a-f]+)/priority/({'|'.join(Priority)})", POST=(Role.REVIEWER, prioritise))


def describe_arriving(study: ArrivingStudy) -> dict[str, Any]:
    """A study that is not complete as JSON; ``instances`` is null until it has been quiet for a moment."""
    wait = study.wait
    return {
        "orthanc_id": study.orthanc_id,
        "since": (study.first_arrival_at or study.last_arrival_at).isoformat(),
        "last_arrival_at": study.last_arrival_at.isoformat(),
        "instances": wait.instances,
        "waits_until": wait.waits_until and wait.waits_until.isoformat(),
        "because": wait.waits_for or "instances are arriving",
        "stalled": wait.stalled,
    }


def describe(record: JobRecord, history: Sequence[JobEvent] = ()) -> dict[str, Any]:
    """A job as JSON, with its history if that is given."""
    return {**record.as_json(), **({"history": [event.as_json() for event in history]} if history else {})}

"""The plugin's REST routes for archive runs: how far they have come, and what a person changes about them.

GET /coread/archive/runs               all runs, the newest first, each with its counts, rate and time left
POST /coread/archive/runs              begin a run: a line of JSON that says how, then the plan as it stands in its file
GET /coread/archive/runs/{id}          a run
GET /coread/archive/runs/{id}/studies  its studies in the plan's order; ?state=failed,refused, ?after=POSITION, ?limit=N
GET /coread/archive/runs/{id}/reasons  why studies failed or were refused: reasons that are alike, counted
GET /coread/archive/runs/{id}/report   the HTML report, if one was made
POST /coread/archive/runs/{id}/pause|resume|cancel   {"reason": …} of a pause or a cancellation
POST /coread/archive/runs/{id}/retry   what failed is due again; {"refused": true}: what was refused, too
POST /coread/archive/runs/{id}/pace    {"hours", "studies_per_minute", "associations", "in_flight"}, or some of them
"""

import functools
import io
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coread.archive_begin import begin_run
from coread.archive_progress import MOST_LOOKED_AT, Trouble, is_silent, measured_pace, troubles_of
from coread.archive_run import Copy, Run, RunState, RunStudyState
from coread.archive_terms import Pace, Wishes, checked, paced
from coread.audit.event import printable
from coread.errors import ConfigurationError, RequestRefused
from coread.ledger import Ledger
from coread.plugin.answers import answer, asked_rows
from coread.plugin.explained import (
    OBJECT,
    TEXT,
    TIME,
    UID,
    WHOLE_NUMBER,
    Body,
    Listed,
    Record,
    Schema,
    Shape,
    choice,
    explained,
    limit,
    param,
    says,
)
from coread.plugin.gate import Gate, Role
from coread.plugin.headers import report_headers
from coread.plugin.json_input import TooLarge, read_json
from coread.settings import Settings

LISTED = 100
"""How many studies are listed if nobody says otherwise."""
LARGEST = 20_000_000
"""Bytes of a plan over REST, some 100,000 studies: Orthanc holds a body in memory. Larger ones go by the command."""
LONGEST_LINE = 100_000
"""Bytes of a line of a plan."""
DEEPEST = 16
"""Levels of JSON in a line."""
LARGEST_WISH = 10_000
LARGEST_REPORT = 200_000_000
LONGEST_REASON = 200
"""Characters."""
REPORT = Path("report", "report.html")
"""Where `coread archive report` puts it, in the run's folder."""
PATHS = ("folder", "key_file")
"""Of a run's terms: places on the server, which admins are told."""
FORM = 1
"""Of the first line by which a run is begun."""
RUN = "/coread/archive/runs/([0-9a-f]+)"
NOT_RETRIED = (RunState.LOADING, RunState.CANCELLED)
TROUBLES = (RunStudyState.FAILED, RunStudyState.REFUSED)

TRUTH: Schema = {"type": "boolean"}
NUMBER_OR_NONE: Schema = {"type": ["number", "null"]}
TEXT_OR_NONE: Schema = {"type": ["string", "null"]}
WHOLE_OR_NONE: Schema = {"type": ["integer", "null"]}
RUN_ROW: Mapping[str, Shape] = {
    "run_id": TEXT,
    "name": TEXT,
    "state": choice("how it goes on", RunState),
    "reason": param("why it is paused or cancelled"),
    "waits_for": param("why no study is begun just now, or a cancelled run is not over"),
    "terms": param("how it is carried out; `folder` and `key_file` for an admin alone", OBJECT),
    "plan_digest": param("SHA-256 of the plan"),
    "created_at": TIME,
    "created_by": TEXT,
    "ended_at": {**TIME, "type": ["string", "null"]},
    "counts": param("state of a study → how many", {"type": "object", "additionalProperties": WHOLE_NUMBER}),
    "studies": WHOLE_NUMBER,
}
PLAIN_RUN = Record(fields=RUN_ROW)
SEEN: Mapping[str, Shape] = {
    **RUN_ROW,
    "per_hour": param("studies that end in an hour", NUMBER_OR_NONE),
    "left_s": param("seconds until it ends, by the rate and its hours", NUMBER_OR_NONE),
    "report": param("whether there is a report", TRUTH),
}
SILENCE: Mapping[str, Shape] = {"archivist_is_silent": param("whether nobody carries runs out", TRUTH)}
SEEN_RUN = Record(fields={**SEEN, **SILENCE})
STUDY = Record(
    fields={
        "run_id": TEXT,
        "position": param("its place in the plan, from 0 on", WHOLE_NUMBER),
        "study_instance_uid": UID,
        "state": choice("how far it has come", RunStudyState),
        "reason": TEXT,
        "is_permanent": param("whether another attempt would end the same", TRUTH),
        "attempts": WHOLE_NUMBER,
        "orthanc_id": TEXT_OR_NONE,
        "copy": {"type": "string", "enum": [each.value for each in Copy], "description": "whose it is in our Orthanc"},
        "was_here": TRUTH,
        "stated_instances": WHOLE_OR_NONE,
        "instances": WHOLE_OR_NONE,
        "bytes": WHOLE_OR_NONE,
        "changed_at": TIME,
    }
)
REASONS = Record(
    fields={"reasons": Listed(of=Trouble), "looked_at": param("of so many studies", WHOLE_NUMBER)},
)
PATH = {"run": "the run's id"}
NO_RUN = "there is no such run"
NOT_SO = "what the body says is not understood, or is not allowed"
TOO_LATE = "the run is in a state in which this cannot be done"
TOO_LARGE = "the body is too large"

Handler = Callable[..., None]


class NotGranted(RequestRefused):
    """A request is not granted, with the HTTP status that says so."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def register_archive_runs(gate: Gate, ledger: Ledger, *, settings: Settings) -> None:
    """Register the routes."""
    _register_list(gate, ledger, settings)
    _register_looks(gate, ledger)
    _register_changes(gate, ledger)


def described(run: Run, ledger: Ledger, *, at: datetime, role: Role) -> dict[str, Any]:
    """A run as JSON, with its rate, its time left, and whether there is a report, for somebody who has this role."""
    pace = measured_pace(run, ledger.ended_since, at=at)
    told = run.as_json() if role.includes(Role.ADMIN) else without_paths(run)
    return {**told, **pace.as_json(), "report": _report_of(run).is_file()}


def without_paths(run: Run) -> dict[str, Any]:
    """A run as JSON for who need not know where on the server its folder and its key file lie."""
    told = run.as_json()
    paths = [told["terms"].pop(name) for name in PATHS]
    for path in sorted(filter(None, paths), key=len, reverse=True):  # one may lie in the other
        told |= {name: told[name].replace(path, "…") for name in ("reason", "waits_for")}
    return told


def _register_list(gate: Gate, ledger: Ledger, settings: Settings) -> None:
    @explained(answers={200: says("all runs", Record(fields={"runs": Listed(of=Record(fields=SEEN)), **SILENCE}))})
    def runs(output: Any, _url: str, **request: Any) -> None:
        """All archive runs, the newest first, each with its rate and its time left."""
        now = datetime.now(UTC)
        role = request["person"].role
        found = [described(run, ledger, at=now, role=role) for run in ledger.runs()]
        answer(output, {"runs": found, **_archivist(ledger, at=now)})

    @explained(
        body=Body(shape=param("a line of JSON that says how, then the plan's lines"), kinds=("application/x-ndjson",)),
        answers={
            200: says("the run, which is there already", PLAIN_RUN),
            201: says("the run", PLAIN_RUN),
            400: "a line is not understood, or the settings do not know what it names",
            413: "the plan is too large: begin it by `coread archive run`",
        },
    )
    def begin(output: Any, _url: str, **request: Any) -> None:
        """Begin an archive run: a line of JSON that says how, and the plan behind it."""
        by, now = request["person"].user, datetime.now(UTC)
        try:
            wishes, plan = _wishes_and_plan(request.get("body", b""))
            run = _begun(plan, wishes, ledger=ledger, settings=settings, by=by, at=now)
        except NotGranted as error:
            answer(output, {"error": str(error)}, status=error.status)
        except ConfigurationError as error:
            answer(output, {"error": str(error)}, status=400)
        else:
            answer(output, run.as_json(), status=201 if run.created_at == now else 200)

    gate.route("/coread/archive/runs", GET=(Role.READER, runs), POST=(Role.ADMIN, begin))


def _register_looks(gate: Gate, ledger: Ledger) -> None:
    """The routes that only tell of a run."""

    @explained(path=PATH, answers={200: says("it", SEEN_RUN), 404: NO_RUN})
    def one(output: Any, run: Run, **request: Any) -> None:
        """An archive run with its rate and its time left."""
        now = datetime.now(UTC)
        answer(output, {**described(run, ledger, at=now, role=request["person"].role), **_archivist(ledger, at=now)})

    @explained(
        path=PATH,
        query={
            "state": choice("only those in a state", RunStudyState, several=True),
            "after": param("the position of the last study that was given", {"type": "integer", "minimum": -1}),
            "limit": limit(LISTED),
        },
        answers={
            200: says("studies, in the plan's order", Listed(of=STUDY)),
            400: "a state, a position or a limit is none",
            404: NO_RUN,
        },
    )
    def studies(output: Any, run: Run, **request: Any) -> None:
        """The studies of an archive run and where they stand."""
        asked = request["get"]
        states, limit = asked_rows(asked, RunStudyState, default=LISTED)
        found = ledger.run_studies(run.run_id, states=states or None, after=_place(asked), limit=limit)
        answer(output, [study.as_json() for study in found])

    @explained(path=PATH, answers={200: says("reasons that are alike, counted", REASONS), 404: NO_RUN})
    def reasons(output: Any, run: Run, **_request: Any) -> None:
        """Why studies of an archive run failed or were refused."""
        found = ledger.run_studies(run.run_id, states=TROUBLES, limit=MOST_LOOKED_AT)
        answer(output, {"reasons": [each.as_json() for each in troubles_of(found)], "looked_at": len(found)})

    @explained(
        path=PATH,
        answers={
            200: says("the report", TEXT, kind="text/html"),
            404: "there is no such run, or no report was made",
            413: "the report is too large to be sent",
        },
    )
    def report(output: Any, run: Run, **_request: Any) -> None:
        """The report of an archive run, as `coread archive report` has made it."""
        content = _read_report(run)
        for name, value in report_headers().items():
            output.SetHttpHeader(name, value)
        output.AnswerBuffer(content, "text/html; charset=utf-8")

    gate.route(RUN, GET=(Role.READER, _of_run(ledger, one)))
    gate.route(f"{RUN}/studies", GET=(Role.READER, _of_run(ledger, studies)))
    gate.route(f"{RUN}/reasons", GET=(Role.READER, _of_run(ledger, reasons)))
    gate.route(f"{RUN}/report", GET=(Role.READER, _of_run(ledger, report)))


def _register_changes(gate: Gate, ledger: Ledger) -> None:
    """The routes by which a person steers a run."""

    @explained(
        path={**PATH, "wish": "what becomes of it"},
        body=Body(
            shape=Record(fields={"reason": TEXT}, optional=frozenset({"reason"}), closed=True), is_required=False
        ),
        answers={200: says("it", PLAIN_RUN), 400: NOT_SO, 404: NO_RUN, 409: TOO_LATE, 413: TOO_LARGE},
    )
    def change(output: Any, run: Run, **request: Any) -> None:
        """Pause an archive run, let it go on, or cancel it for good."""
        wish = request["groups"][1]
        by, now = request["person"].user, datetime.now(UTC)
        if wish == "resume":
            _said(request, ())
            changed = ledger.resume_run(run.run_id, by=by, at=now)
        else:
            reason = _text(_said(request, {"reason"}).get("reason", ""))
            steer = ledger.pause_run if wish == "pause" else ledger.cancel_run
            changed = steer(run.run_id, by=by, reason=reason, at=now)
        if not changed:
            raise NotGranted(f"cannot {wish} a run that is {run.state}", status=409)
        answer_changed(output, run)

    @explained(
        path=PATH,
        body=Body(
            shape=Record(fields={"refused": TRUTH}, optional=frozenset({"refused"}), closed=True), is_required=False
        ),
        answers={
            200: says("it, and how many studies are due again", Record(fields={**RUN_ROW, "due_again": WHOLE_NUMBER})),
            400: NOT_SO,
            404: NO_RUN,
            409: TOO_LATE,
            413: TOO_LARGE,
        },
    )
    def retry(output: Any, run: Run, **request: Any) -> None:
        """Have what failed in an archive run read again, and by choice what was refused."""
        refused = _said(request, {"refused"}).get("refused", False)
        if not isinstance(refused, bool):
            raise NotGranted("expected true or false as refused")
        if run.state in NOT_RETRIED:
            raise NotGranted(f"cannot retry studies of a run that is {run.state}", status=409)
        due = ledger.retry_run(run.run_id, refused=refused, by=request["person"].user, at=datetime.now(UTC))
        answer_changed(output, run, due_again=due)

    @explained(
        path=PATH,
        body=Body(shape=Pace),
        answers={200: says("it", PLAIN_RUN), 400: NOT_SO, 404: NO_RUN, 409: TOO_LATE, 413: TOO_LARGE},
    )
    def pace(output: Any, run: Run, **request: Any) -> None:
        """Change how fast an archive run goes; what is left out stays, and null takes a limit away."""
        terms = paced(run.terms, _said(request, Pace.model_fields))
        wanted = {name: getattr(terms, name) for name in Pace.model_fields}
        if not ledger.change_pace(run.run_id, **wanted, by=request["person"].user, at=datetime.now(UTC)):
            raise NotGranted(f"cannot change the pace of a run that is {run.state}", status=409)
        answer_changed(output, run)

    def answer_changed(output: Any, run: Run, **more: Any) -> None:
        answer(output, {**(ledger.run(run.run_id) or run).as_json(), **more})

    gate.route(f"{RUN}/(pause|resume|cancel)", POST=(Role.ADMIN, _of_run(ledger, change)))
    gate.route(f"{RUN}/retry", POST=(Role.ADMIN, _of_run(ledger, retry)))
    gate.route(f"{RUN}/pace", POST=(Role.ADMIN, _of_run(ledger, pace)))


def _of_run(ledger: Ledger, handler: Handler) -> Handler:
    """A handler that is given the run which the path names; what it refuses is answered with what was expected."""

    @functools.wraps(handler)
    def handle(output: Any, _url: str, **request: Any) -> None:
        run_id = request["groups"][0]
        run = ledger.run(run_id)
        if run is None:
            answer(output, {"error": f"no run {run_id}; GET /coread/archive/runs lists them"}, status=404)
            return
        try:
            handler(output, run, **request)
        except NotGranted as error:
            answer(output, {"error": str(error)}, status=error.status)
        except (ConfigurationError, ValueError) as error:
            answer(output, {"error": str(error)}, status=400)

    return handle


def _archivist(ledger: Ledger, *, at: datetime) -> dict[str, bool]:
    return {"archivist_is_silent": is_silent(ledger.archivist_seen_at(), at=at)}


def _place(asked: Mapping[str, str]) -> int:
    """The position behind which studies are asked for. Raises ValueError, which says what was expected."""
    text = asked.get("after", "-1")
    if not re.fullmatch(r"-1|[0-9]{1,9}", text):
        raise ValueError("expected as after the position of the last study that was given")
    return int(text)


def _said(request: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The object in the body of a request; empty if there is no body. Raises NotGranted."""
    body = request.get("body") or b"{}"
    try:
        said = read_json(body, largest=LARGEST_WISH)
    except TooLarge as error:
        raise NotGranted(str(error), status=413) from error
    except ValueError as error:
        raise NotGranted(str(error)) from error
    if not isinstance(said, dict) or not said.keys() <= set(keys):
        raise NotGranted(
            f"expected an object with no keys but {', '.join(sorted(keys)) or 'none'}, found something else"
        )
    return said


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_REASON:
        raise NotGranted(f"expected as reason a text of up to {LONGEST_REASON} characters")
    return printable(value.strip())


def _begun(plan: bytes, wishes: Wishes, *, ledger: Ledger, settings: Settings, by: str, at: datetime) -> Run:
    """The run of a plan. Raises ConfigurationError, as `begin_run` does, which does not tell where the plan lay."""
    with tempfile.NamedTemporaryFile(dir=settings.data_folder, prefix="plan-", suffix=".jsonl") as file:
        file.write(plan)
        file.flush()
        try:
            return begin_run(ledger, Path(file.name), wishes=wishes, settings=settings, by=by, at=at)
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace(file.name, "the plan")) from error


def _wishes_and_plan(body: bytes | str) -> tuple[Wishes, bytes]:
    """The first line of a body, checked, and the plan behind it. Raises NotGranted and ConfigurationError."""
    sent = body.encode() if isinstance(body, str) else body
    if len(sent) > LARGEST:
        raise NotGranted(
            f"expected at most {LARGEST} bytes, found {len(sent)}; begin a larger plan with `coread archive run` on "
            "the machine that has the ledger's database",
            status=413,
        )
    first, _, plan = sent.partition(b"\n")
    for number, line in enumerate(io.BytesIO(sent), start=1):
        try:
            read_json(line, largest=LONGEST_LINE, deepest=DEEPEST)
        except ValueError as error:
            raise NotGranted(f"line {number}: {error}") from error
    said = read_json(first) if first else None
    if not isinstance(said, dict) or said.pop("coread_run", None) != FORM:
        raise NotGranted(f'expected as first line an object such as {{"coread_run": {FORM}}}, and the plan behind it')
    return checked(Wishes, said), plan


def _report_of(run: Run) -> Path:
    return Path(run.terms.folder) / REPORT


def _read_report(run: Run) -> bytes:
    """Raises NotGranted if there is none, or it is too large for Orthanc to hold."""
    path = _report_of(run)
    try:
        size = path.stat().st_size
        if size > LARGEST_REPORT:
            raise NotGranted(f"the report has {size} bytes; open {REPORT} in the run's folder itself", status=413)
        return path.read_bytes()
    except OSError as error:
        what = f"no {REPORT} in the run's folder: {error.strerror}; `coread archive report {run.run_id}` makes it"
        raise NotGranted(what, status=404) from error

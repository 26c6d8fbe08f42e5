"""The worklist over HTTP: UPS-RS (PS3.18 chapter 11) beside Orthanc's DICOMweb plugin, and events by long poll.

POST   /dicom-web/workitems                             create
GET    /dicom-web/workitems                             search
GET    /dicom-web/workitems/{uid}                       retrieve
POST   /dicom-web/workitems/{uid}                       update
PUT    /dicom-web/workitems/{uid}/state                 claim, complete, cancel
POST   /dicom-web/workitems/{uid}/cancelrequest         ask for cancellation
POST   /dicom-web/workitems/{uid}/subscribers/{aet}     subscribe; DELETE: unsubscribe
POST   /dicom-web/workitems/{uid}/subscribers/{aet}/suspend
GET    /coread/ups/events/{aet}?after=N&wait=S          the events of a subscriber

Who may look, may retrieve and search. A reviewer may subscribe and ask for cancellation, as for a job. Who decides what
is read, and by whom, must be an admin.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from coread.plugin.answers import answer
from coread.plugin.explained import ANY, DICOM_JSON, JSON, OBJECT, Answer, Body, Listed, Record, explained, param, says
from coread.plugin.gate import Gate, Role
from coread.plugin.headers import data_headers
from coread.plugin.json_input import TooLarge, read_json
from coread.plugin.ups.dataset import UID, BadRequest, Dataset, read_dataset, read_empty_or_dataset
from coread.plugin.ups.events import FILTERED, GLOBAL, Events
from coread.plugin.ups.matching import keys_of, query_of
from coread.plugin.ups.worklist import Reply, Worklist, refusal
from coread.workitem import WorkitemRefused

ROOT = "/dicom-web/workitems"
ANY_UID = "([0-9.]{1,64})"
ANY_AET = "([^/]{1,64})"
AET = re.compile(r"[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
LARGEST_FILTER = 10_000
DATASET = Body(shape=OBJECT, kinds=(DICOM_JSON, JSON))
"""One dataset in the DICOM JSON model (PS3.18 annex F); an array of one is taken as well."""
DATASETS = Listed(of=OBJECT)
NOT_UNDERSTOOD = "it is no dataset that a workitem may have"
NO_WORKITEM = "there is no such workitem"
OTHER_STATE = "the workitem is in a state in which this cannot be done"
TOO_LARGE = "the dataset is too large"
REFUSED_BODIES: Mapping[int, Answer | str] = {413: TOO_LARGE, 415: "the body is not DICOM JSON"}
CHANGED: Mapping[int, Answer | str] = {
    200: says("it was", DATASETS, kind=DICOM_JSON),
    400: NOT_UNDERSTOOD,
    404: NO_WORKITEM,
    409: OTHER_STATE,
    **REFUSED_BODIES,
}
NOT_ACCEPTED = "the client accepts no DICOM JSON"
OF_WORKITEM = {"workitem": "the workitem's UID"}
OF_SUBSCRIBER = {"workitem": "the workitem's UID, or a well-known one for all", "aet": "the subscriber's AE title"}
LAST_NUMBER = 2**62
"""No event has a higher one, nor could SQLite keep it."""


def register_workitems(gate: Gate, worklist: Worklist, events: Events) -> None:
    """Register the routes."""

    @explained(
        body=DATASET,
        answers={
            201: says("it was created; Location says where it is", kind=None),
            400: NOT_UNDERSTOOD,
            409: "there is such a workitem already",
            **REFUSED_BODIES,
        },
    )
    def create(output: Any, _url: str, **request: Any) -> None:
        """Create a workitem (PS3.18 11.4)."""
        _reply(output, lambda: worklist.create(_dataset(request)))

    @explained(
        query={
            "limit": param("how many at most"),
            "offset": param("how many to leave out before"),
            "includefield": param("keywords or tags of further attributes, or `all`"),
            "fuzzymatching": param("is ignored"),
        },
        answers={
            200: says("workitems", DATASETS, kind=DICOM_JSON),
            204: says("there is none", kind=None),
            400: "an attribute is not matched, or a value is none of its kind",
            406: NOT_ACCEPTED,
        },
    )
    def search(output: Any, _url: str, **request: Any) -> None:
        """Search for workitems (PS3.18 11.9).

        Any of the attributes that the conformance statement names is a parameter, too.
        """

        def found() -> Reply:
            _check_accepts(request)
            return worklist.search(query_of(request["get"]))

        _reply(output, found)

    @explained(
        path=OF_WORKITEM,
        answers={
            200: says("the workitem", DATASETS, kind=DICOM_JSON),
            400: "it is no UID",
            404: NO_WORKITEM,
            406: NOT_ACCEPTED,
            410: "an earlier run of a job",
        },
    )
    def retrieve(output: Any, _url: str, **request: Any) -> None:
        """Retrieve a workitem (PS3.18 11.5)."""

        def found() -> Reply:
            _check_accepts(request)
            return worklist.retrieve(_uid(request))

        _reply(output, found)

    @explained(
        path=OF_WORKITEM,
        body=DATASET,
        answers=CHANGED,
    )
    def update(output: Any, _url: str, **request: Any) -> None:
        """Update a workitem (PS3.18 11.6)."""
        _reply(output, lambda: worklist.update(_uid(request), _dataset(request), by=request["person"].user))

    @explained(
        path=OF_WORKITEM,
        body=DATASET,
        answers=CHANGED,
    )
    def change_state(output: Any, _url: str, **request: Any) -> None:
        """Claim, complete or cancel a workitem (PS3.18 11.7)."""
        _reply(output, lambda: worklist.change_state(_uid(request), _dataset(request), by=request["person"].user))

    @explained(
        path=OF_WORKITEM,
        body=Body(shape=OBJECT, kinds=(DICOM_JSON, JSON), is_required=False),
        answers={
            202: says("the performer is told, or nobody performs it and it is cancelled", kind="*/*"),
            400: NOT_UNDERSTOOD,
            404: NO_WORKITEM,
            409: OTHER_STATE,
            **REFUSED_BODIES,
        },
    )
    def cancel(output: Any, _url: str, **request: Any) -> None:
        """Ask the performer of a workitem to cancel it (PS3.18 11.8)."""

        def asked() -> Reply:
            dataset = read_empty_or_dataset(request.get("body", b""), content_type=_content_type(request))
            return worklist.request_cancel(_uid(request), dataset, by=request["person"].user)

        _reply(output, asked)

    gate.route(ROOT, GET=(Role.READER, search), POST=(Role.ADMIN, create))
    gate.route(f"{ROOT}/{ANY_UID}", GET=(Role.READER, retrieve), POST=(Role.ADMIN, update))
    gate.route(f"{ROOT}/{ANY_UID}/state", PUT=(Role.ADMIN, change_state))
    gate.route(f"{ROOT}/{ANY_UID}/cancelrequest", POST=(Role.REVIEWER, cancel))
    _register_subscriptions(gate, events)


def _register_subscriptions(gate: Gate, events: Events) -> None:
    @explained(
        path=OF_SUBSCRIBER,
        body=Body(
            shape=Record(fields={"filter": {"type": "object", "additionalProperties": {"type": "string"}}}),
            is_required=False,
        ),
        answers={
            201: says("the subscriber is told from now on; Location says where", kind=None),
            400: "it is no UID, AE title or filter",
            404: NO_WORKITEM,
            413: "the filter is too large",
            503: "there are too many subscriptions, or a neighbour does not answer",
        },
    )
    def subscribe(output: Any, _url: str, **request: Any) -> None:
        """Have a subscriber told of a workitem, or of all (PS3.18 11.10)."""

        def done() -> Reply:
            aet = _aet(request)
            events.subscribe(_uid(request), aet, keys=_filter(request))
            return Reply(status=201, location=f"/coread/ups/events/{aet}")

        _reply(output, done)

    @explained(
        path=OF_SUBSCRIBER,
        answers={200: says("done", DATASETS, kind=DICOM_JSON), 400: "it is no UID or AE title", 404: NO_WORKITEM},
    )
    def unsubscribe(output: Any, _url: str, **request: Any) -> None:
        """Tell a subscriber no more (PS3.18 11.11)."""

        def done() -> Reply:
            events.unsubscribe(_uid(request), _aet(request))
            return Reply()

        _reply(output, done)

    @explained(
        path={"aet": "the subscriber's AE title"},
        answers={
            200: says("done", DATASETS, kind=DICOM_JSON),
            400: "it is no AE title",
            404: "there is no such subscription",
        },
    )
    def suspend(output: Any, _url: str, **request: Any) -> None:
        """Tell a subscriber of no further workitems (PS3.18 11.12)."""

        def done() -> Reply:
            events.suspend(_uid(request), _aet(request))
            return Reply()

        _reply(output, done)

    gate.route(
        f"{ROOT}/{ANY_UID}/subscribers/{ANY_AET}", POST=(Role.REVIEWER, subscribe), DELETE=(Role.REVIEWER, unsubscribe)
    )
    for target in (GLOBAL, FILTERED):
        gate.route(f"{ROOT}/({re.escape(target)})/subscribers/{ANY_AET}/suspend", POST=(Role.REVIEWER, suspend))
    _register_events(gate, events)


def _register_events(gate: Gate, events: Events) -> None:
    @explained(
        path={"aet": "the subscriber's AE title"},
        query={
            "after": param("only events with a higher number", {"type": "integer", "minimum": 0}),
            "wait": param("how long to wait if there are none, s", {"type": "number", "minimum": 0}),
        },
        answers={200: says("events", ANY), 400: "it is no AE title or number", 404: "there is no such subscriber"},
    )
    def fetch(output: Any, _url: str, **request: Any) -> None:
        """The events of a subscriber."""
        asked = request["get"]
        try:
            after, wait_s = int(asked.get("after", "0")), float(asked.get("wait", "0"))
            aet = _checked_aet(request["groups"][0])
        except (ValueError, BadRequest):
            error = "expected an AE title, and numbers as after (of an event) and wait (s)"
            answer(output, {"error": error}, status=400)
            return
        try:
            answer(
                output, events.fetch(aet, after=min(max(0, after), LAST_NUMBER), wait_s=wait_s if wait_s > 0 else 0.0)
            )
        except WorkitemRefused as refused:
            answer(output, {"error": str(refused)}, status=404)

    gate.route(f"/coread/ups/events/{ANY_AET}", GET=(Role.READER, fetch))


def _reply(output: Any, operation: Callable[[], Reply]) -> None:
    """Answer with what an operation gives, or with why it gave nothing."""
    try:
        reply = operation()
    except BadRequest as error:
        reply = Reply(status=error.status, problem={"error": str(error)})
    except WorkitemRefused as refused:
        reply = refusal(refused)
    _send(output, reply)


def _send(output: Any, reply: Reply) -> None:
    if reply.warning:
        output.SetHttpHeader("Warning", f"299 coread: {reply.warning}")
    if reply.location:
        output.SetHttpHeader("Location", reply.location)
        output.SetHttpHeader("Content-Location", reply.location)
    if reply.status == 200:
        for name, value in data_headers().items():
            output.SetHttpHeader(name, value)
        output.AnswerBuffer(json.dumps(reply.datasets or []), "application/dicom+json")
        return
    output.SetHttpHeader("Content-Type", "application/json")
    if reply.status == 204:
        output.SendHttpStatusCode(reply.status)
    else:
        answer(output, reply.problem, status=reply.status)


def _dataset(request: Mapping[str, Any]) -> Dataset:
    return read_dataset(request.get("body", b""), content_type=_content_type(request))


def _content_type(request: Mapping[str, Any]) -> str:
    return str(request.get("headers", {}).get("content-type", "application/dicom+json"))


def _check_accepts(request: Mapping[str, Any]) -> None:
    """Raises BadRequest if the client takes nothing that we can answer."""
    accepted = str(request.get("headers", {}).get("accept", "")).casefold()
    if accepted and not any(each in accepted for each in ("json", "*/*", "application/*")):
        raise BadRequest("expected a client that accepts application/dicom+json; XML is not spoken here", status=406)


def _uid(request: Mapping[str, Any]) -> str:
    uid = str(request["groups"][0])
    if not UID.fullmatch(uid):
        raise BadRequest("expected a UID in the path: numbers without leading zeros, and dots")
    return uid


def _aet(request: Mapping[str, Any]) -> str:
    return _checked_aet(request["groups"][1])


def _checked_aet(text: str) -> str:
    aet = unquote(text).strip()
    if not AET.fullmatch(aet):
        raise BadRequest("expected an AE title of 1 to 16 characters")
    return aet


def _filter(request: Mapping[str, Any]) -> dict[str, str] | None:
    """The filter in the body of a subscription; None if there is none."""
    body = request.get("body", b"")
    if not body:
        return None
    try:
        found = read_json(body, largest=LARGEST_FILTER)
    except TooLarge as error:
        raise BadRequest(str(error), status=413) from error
    except ValueError as error:
        raise BadRequest('expected {"filter": {KEYWORD: VALUE}} or no body') from error
    keys = found.get("filter") if isinstance(found, dict) else None
    if not isinstance(keys, dict) or not all(isinstance(each, str) for each in keys.values()):
        raise BadRequest('expected {"filter": {KEYWORD: VALUE}} or no body')
    return keys_of(keys)

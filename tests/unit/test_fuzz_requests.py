"""Whatever is sent to the plugin's REST and to the UPS parser, it is answered: no crash, and no mistake of ours (500).

COREAD_FUZZ_EXAMPLES says how long to search. What a search has found stands here as an example.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coread import __version__
from coread.job import JobState
from coread.ledger import Ledger
from coread.plugin.answers import asked_newest, asked_rows
from coread.plugin.deliveries import register_deliveries
from coread.plugin.desk import OPERATIONS, register_desk
from coread.plugin.gate import Gate
from coread.plugin.json_input import read_json
from coread.plugin.raised import register_raised
from coread.plugin.rest import register_routes
from coread.plugin.reviews import KEYS, VERDICTS, register_reviews
from coread.plugin.ups.dataset import KEYWORDS, BadRequest, read_dataset
from coread.plugin.ups.events import FILTERED, GLOBAL, Events
from coread.plugin.ups.matching import query_of
from coread.plugin.ups.rest import register_workitems
from coread.plugin.ups.store import WorkitemStore
from coread.plugin.ups.worklist import Worklist
from coread.plugin.worklist.query import KNOWN, parse_query
from coread.review import REASONS
from coread.settings_ups import UpsSettings
from coread.workitem import uid_of_job
from tests.destinations import do, job_for, settle
from tests.fuzzing import searching
from tests.support import NOW
from tests.unit.test_workitems import FakeArchive, order

MISTAKE = 500
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ODD_NUMBERS = st.sampled_from([0, -1, 2**31, 2**63, 10**400, 1e300, -1e300, float("nan"), float("inf")])
TEXTS = (
    "9999-12-31T23:59:59+00:00 0001-01-01T00:00:00+14:00 2026-01-31 a mine study 1.2 done stat %00 ../.. [] {} 1e999 -1"
)
ODD_TEXTS = st.sampled_from(["", "\x00", "a" * 5000, "\ud800", "٣", "9" * 5000, *TEXTS.split()])
ODD = ODD_NUMBERS | ODD_TEXTS | JSON


class Output:
    """What Orthanc hands to a handler."""

    def __init__(self) -> None:
        self.status = 200

    def SetHttpHeader(self, name: str, value: str) -> None:  # noqa: N802  # Orthanc's name
        assert "\n" not in name + value

    def AnswerBuffer(self, text: str, _kind: str) -> None:  # noqa: N802
        json.loads(text)

    def SendHttpStatusCode(self, status: int) -> None:  # noqa: N802
        self.status = status

    def SendHttpStatus(self, status: int, text: str, _length: int) -> None:  # noqa: N802
        json.loads(text)
        self.status = status


class Rest:
    """The plugin's routes that take something, over a ledger with one job, its delivery, and a workitem."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger.migrate()
        settle(self.ledger, job_for("pacs", "web"))
        do(self.ledger, job_for("pacs", "web"), ("1.1",))
        self.handlers: dict[str, Callable[..., None]] = {}
        gate = Gate(SimpleNamespace(RegisterRestCallback=self.handlers.__setitem__), asks_users=False)
        register_routes(gate, self.ledger)
        register_desk(gate, self.ledger)
        register_deliveries(gate, self.ledger)
        register_raised(gate, self.ledger)
        register_reviews(gate, self.ledger, patient_words=lambda _id: frozenset({"DOE"}), stops_delivery=True)
        self._register_workitems(gate, folder)

    def _register_workitems(self, gate: Gate, folder: Path) -> None:
        events = Events(
            ledger=self.ledger,
            store=(store := WorkitemStore(folder / "workitems.sqlite")),
            clock=lambda: NOW,
            waiters=0,
            stop=threading.Event(),
        )
        worklist = Worklist(
            ledger=self.ledger,
            store=store,
            events=events,
            archive=FakeArchive,  # type: ignore[arg-type]
            models=lambda: {"m": "1"},
            settings=UpsSettings(),
            aet="COREAD",
            clock=lambda: NOW,
        )
        register_workitems(gate, worklist, events)

    def ask(
        self, path: str, *groups: str, method: str = "POST", body: bytes = b"", asked: Mapping[str, str] = {}
    ) -> int:
        output = Output()
        self.handlers[path](
            output, path, method=method, groups=groups, get=asked, body=body, headers={"host": "localhost"}
        )
        return output.status


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    rest = Rest(tmp_path_factory.mktemp("fuzzed"))
    yield rest
    rest.ledger.close()


def refused_with(read: Callable[[], object], kind: type[Exception]) -> str:
    """Why something is refused; empty if it is not."""
    try:
        read()
    except kind as error:
        return str(error) or "no reason"
    return ""


# What is parsed -----------------------------------------------------------------------------------------------------


@searching(100)
@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_body_is_json_or_refused(body: bytes) -> None:
    reason = refused_with(lambda: read_json(body), ValueError)
    assert not reason or reason.startswith("expected")


VALUES = st.lists(ODD, max_size=3)
ATTRIBUTES = st.fixed_dictionaries(
    {}, optional={"vr": st.sampled_from(["SQ", "PN", "CS", "UI", "DS", "LO", "DT", "OB"]) | ODD, "Value": VALUES | ODD}
)
KNOWN_ATTRIBUTES = st.sampled_from(sorted(KEYWORDS.values())).flatmap(
    lambda known: st.tuples(st.just(known[0]), st.fixed_dictionaries({"vr": st.just(known[1]), "Value": VALUES}))
)
DATASETS = st.dictionaries(
    st.sampled_from([tag for tag, _vr in KEYWORDS.values()]) | st.text(max_size=8), ATTRIBUTES | ODD, max_size=4
) | st.lists(KNOWN_ATTRIBUTES, max_size=6).map(dict)


@searching(100)
@given(dataset=DATASETS | st.lists(DATASETS, max_size=2), kind=st.sampled_from(["application/dicom+json", "x", ""]))
def test_a_dataset_is_read_or_refused(dataset: Any, kind: str) -> None:
    refused_with(lambda: read_dataset(json.dumps(dataset).encode(), content_type=kind), BadRequest)


QUERIES = st.dictionaries(st.sampled_from(sorted(KNOWN)) | st.text(max_size=10), ODD_TEXTS | st.text(), max_size=4)


@searching(100)
@given(asked=QUERIES)
def test_a_question_to_the_list_is_understood_or_refused(asked: dict[str, str]) -> None:
    reason = refused_with(lambda: parse_query(asked), ValueError)
    assert not reason or reason.startswith("expected")


@searching(100)
@given(asked=st.dictionaries(st.sampled_from(["limit", "since", "state"]), ODD_TEXTS | st.text(), max_size=3))
def test_what_rows_are_asked_for_is_understood_or_refused(asked: dict[str, str]) -> None:
    for reason in (
        refused_with(lambda: asked_newest(asked, default=1), ValueError),
        refused_with(lambda: asked_rows(asked, JobState, default=1), ValueError),
    ):
        assert not reason or reason.startswith("expected")


@searching(100)
@given(
    asked=st.dictionaries(
        st.sampled_from([*KEYWORDS, "limit", "offset", "includefield", "InputInformationSequence.StudyInstanceUID"])
        | st.text(max_size=10),
        ODD_TEXTS | st.text(),
        max_size=4,
    )
)
def test_a_search_for_workitems_is_understood_or_refused(asked: dict[str, str]) -> None:
    refused_with(lambda: query_of(asked), BadRequest)


# What is done -------------------------------------------------------------------------------------------------------

ARGUMENTS = ["worker", "queues", "lease_s", "job_id", "result", "state", "reason", "wait_s", "since", "limit", "states"]
ARGUMENTS += ["study_instance_uid", "by", "priority", "clerk", "review_id", "objects", "instance", "reviews", "job_ids"]
ARGUMENTS += ["model", "models"]
FITTING = st.sampled_from(["w", "a", ["gpu"], 60, 1.5, None, [], {}, {"sop_instance_uids": ["1.1"]}, "done", "routine"])


@searching(8)
@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@given(arguments=st.fixed_dictionaries(dict.fromkeys(ARGUMENTS, FITTING | ODD)) | ODD)
def test_the_desk_answers_whatever_a_worker_says(rest: Rest, operation: str, arguments: Any) -> None:
    body = json.dumps(arguments).encode()
    assert rest.ask("/coread/ledger/([a-z_]+)", operation, body=body) in (200, 400)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("cancel", {"job_id": 10**400, "by": ""}),
        ("claim", {"worker": "w", "queues": None, "lease_s": 1e300, "version": __version__}),
        ("claim", {"worker": "w", "queues": None, "lease_s": float("nan"), "version": __version__}),
        ("history", {"job_id": {"a": 1}}),
        ("job", {"job_id": ["gpu"]}),
        ("look_ahead", {"worker": "w", "queues": "w"}),
        ("note_worker_started", {"worker": "w", "models": "m"}),
        ("retry", {"job_id": "\x00", "by": ""}),
    ],
)
def test_arguments_that_broke_the_desk_are_refused(rest: Rest, operation: str, arguments: dict[str, Any]) -> None:
    assert rest.ask("/coread/ledger/([a-z_]+)", operation, body=json.dumps(arguments).encode()) == 400


def test_what_no_text_may_hold_is_refused_before_a_database_sees_it(rest: Rest) -> None:
    assert rest.ask("/coread/jobs", method="GET", asked={"study": "%00"}) == 400
    assert rest.ask("/coread/jobs/([0-9a-f]+)/review", "a", body=b'{"verdict": "accept", "comment": "\\u0000"}') == 400
    assert read_json(rb'"\\u0000"') == "\\u0000", "a backslash and some letters are a text"


WORDS = st.sampled_from([*VERDICTS, *REASONS]) | ODD


@searching(100)
@given(said=st.dictionaries(st.sampled_from(sorted(KEYS)), WORDS, max_size=4) | ODD)
def test_a_review_is_taken_or_refused(rest: Rest, said: Any) -> None:
    assert rest.ask("/coread/jobs/([0-9a-f]+)/review", "a", body=json.dumps(said).encode()) in (200, 201, 400, 409)


ROOT = "/dicom-web/workitems"
ITEM = f"{ROOT}/([0-9.]{{1,64}})"
UIDS = st.sampled_from([uid_of_job("a"), "1.2.3", GLOBAL, FILTERED, "1..2", "0" * 64, "."])


@searching(40)
@given(uid=UIDS, dataset=DATASETS, other=DATASETS)
@example(uid="1.2.3", dataset={"00741000": {"vr": ["CS"], "Value": []}}, other={})
def test_a_workitem_is_created_changed_and_cancelled_or_refused(
    rest: Rest, uid: str, dataset: dict[str, Any], other: dict[str, Any]
) -> None:
    whole = json.dumps({**order(), **dataset}).encode()
    part = json.dumps(other).encode()
    answers = [
        rest.ask(ROOT, body=whole),
        rest.ask(ITEM, uid, body=part),
        rest.ask(f"{ITEM}/state", uid, method="PUT", body=part),
        rest.ask(f"{ITEM}/cancelrequest", uid, body=part),
        rest.ask(ITEM, uid, method="GET"),
        rest.ask(ROOT, method="GET"),
    ]
    assert max(answers) < MISTAKE, answers


@searching(40)
@given(
    uid=UIDS,
    aet=st.sampled_from(["RIS", " ", "A" * 17, "%20", "%00", "\u00e9"]) | st.text(min_size=1, max_size=16),
    keys=st.dictionaries(st.sampled_from([*KEYWORDS]) | st.text(max_size=8), ODD, max_size=3) | ODD,
    asked=st.dictionaries(st.sampled_from(["after", "wait"]), ODD_TEXTS, max_size=2),
)
def test_a_subscriber_is_served_or_refused(rest: Rest, uid: str, aet: str, keys: Any, asked: dict[str, str]) -> None:
    path = f"{ITEM}/subscribers/([^/]{{1,64}})"
    answers = [
        rest.ask(path, uid, aet, body=json.dumps({"filter": keys}).encode()),
        rest.ask("/coread/ups/events/([^/]{1,64})", aet, method="GET", asked=asked),
        rest.ask(path, uid, aet, method="DELETE"),
    ]
    assert max(answers) < MISTAKE, answers


@searching(100)
@given(
    path=st.sampled_from(["/coread/jobs", "/coread/audit", "/coread/deliveries", "/coread/reviews"]),
    asked=st.dictionaries(
        st.sampled_from(["study", "job", "state", "since", "limit", "model", "destination"]),
        ODD_TEXTS | st.text(),
        max_size=4,
    ),
)
@example(path="/coread/jobs", asked={"study": "\ud800"})
def test_a_list_is_given_or_refused(rest: Rest, path: str, asked: dict[str, str]) -> None:
    assert rest.ask(path, method="GET", asked=asked) in (200, 400)

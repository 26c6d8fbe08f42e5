"""The worklist's routes: what Orthanc hands over, what is answered, and how many may wait."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from coread.ledger import Ledger
from coread.plugin.gate import Gate
from coread.plugin.ups import dataset as dicom
from coread.plugin.ups.events import GLOBAL, Events
from coread.plugin.ups.rest import register_workitems
from coread.plugin.ups.worklist import Worklist
from coread.workitem import uid_of_job
from tests.support import NOW, a_job
from tests.unit.test_workitems import JOB_ID, Scene, order

ROOT = "/dicom-web/workitems"
ITEM = f"{ROOT}/([0-9.]{{1,64}})"
EVENTS = "/coread/ups/events/([^/]{1,64})"


class Output:
    """What Orthanc 1.10 hands to a handler."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = None
        self.headers: dict[str, str] = {}

    def SetHttpHeader(self, name: str, value: str) -> None:  # noqa: N802  # Orthanc's name
        self.headers[name] = value

    def AnswerBuffer(self, text: str, kind: str) -> None:  # noqa: N802
        self.body, self.headers["Content-Type"] = json.loads(text), kind

    def SendHttpStatusCode(self, status: int) -> None:  # noqa: N802
        self.status = status

    def SendHttpStatus(self, status: int, text: str, _length: int) -> None:  # noqa: N802
        self.status, self.body = status, json.loads(text)


class Rest:
    """The routes, over a ledger with one job."""

    def __init__(self, scene: Scene, events: Events, worklist: Worklist) -> None:
        self.scene, self.events = scene, events
        self.routes: dict[str, Callable[..., None]] = {}
        orthanc = SimpleNamespace(RegisterRestCallback=self.routes.__setitem__)
        register_workitems(Gate(orthanc, asks_users=False), worklist, events)

    def ask(
        self,
        path: str,
        *groups: str,
        method: str = "GET",
        body: bytes = b"",
        asked: Mapping[str, str] = MappingProxyType({}),
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Output:
        output = Output()
        self.routes[path](output, path, method=method, groups=groups, get=asked, body=body, headers=headers)
        return output


@pytest.fixture
def rest(tmp_path: Path) -> Iterator[Rest]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    scene = Scene(ledger, tmp_path)
    scene.settle(a_job(JOB_ID))
    stop = threading.Event()
    events = Events(ledger=ledger, store=scene.store, clock=lambda: NOW, waiters=1, stop=stop)
    yield Rest(scene, events, scene.worklist)
    stop.set()
    scene.store.close()


def test_a_created_workitem_is_answered_with_its_place(rest: Rest) -> None:
    created = rest.ask(
        ROOT, method="POST", body=json.dumps([order()]).encode(), headers={"content-type": "application/json"}
    )
    assert (created.status, created.headers["Location"]) == (201, f"{ROOT}/7.7")
    assert rest.ask(ITEM, "7.7").headers["Cache-Control"] == "no-store"
    again = rest.ask(ROOT, method="POST", body=json.dumps(order()).encode())
    assert (again.status, again.body["code"]) == (409, "0111")
    assert again.headers["Warning"].startswith("299 coread: ")


def test_a_query_is_decoded(rest: Rest) -> None:
    assert len(rest.ask(ROOT, asked={"PatientID": "P%2D1"}).body) == 1
    assert rest.ask(ROOT, asked={"PatientID": "P%2D2"}).status == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"accept": "application/dicom+xml"}, 406), ({"accept": "text/html, */*;q=0.8"}, 200), ({}, 200)],
)
def test_who_takes_xml_alone_is_refused(rest: Rest, headers: dict[str, str], status: int) -> None:
    assert rest.ask(ROOT, headers=headers).status == status


def test_an_error_that_nobody_foresaw_says_nothing_of_the_patient(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("DOE^JANE")

    monkeypatch.setattr(rest.scene.archive, "patient_and_study", broken)
    found = rest.ask(ITEM, uid_of_job(JOB_ID))
    assert found.status == 500
    assert "DOE" not in json.dumps(found.body)


@pytest.mark.parametrize("uid", ["1..2", "01.2", "1", ".", "1.2."])
def test_what_is_no_uid_is_refused(rest: Rest, uid: str) -> None:
    assert rest.ask(ITEM, uid).status == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[]", 400), (b"{", 400), (b'{"filter": 1}', 400), (b'{"filter": {"X": "y"}}', 400), (b"", 201)],
)
def test_a_subscription_is_made_or_refused(rest: Rest, body: bytes, status: int) -> None:
    path = f"{ROOT}/([0-9.]{{1,64}})/subscribers/([^/]{{1,64}})"
    assert rest.ask(path, GLOBAL, "MY%20AET", method="POST", body=body).status == status
    assert rest.ask(path, GLOBAL, "A-TITLE-THAT-IS-TOO-LONG", method="POST").status == 400


@pytest.mark.parametrize("asked", [{"after": "x"}, {"wait": "long"}, {"after": "1e3"}])
def test_events_are_asked_for_with_numbers(rest: Rest, asked: dict[str, str]) -> None:
    assert rest.ask(EVENTS, "WATCHER", asked=asked).status == 400


def test_who_never_subscribed_is_told_so(rest: Rest) -> None:
    assert rest.ask(EVENTS, "NOBODY").status == 404


def test_a_request_waits_for_the_next_event_and_one_too_many_is_answered_at_once(rest: Rest) -> None:
    path = f"{ROOT}/([0-9.]{{1,64}})/subscribers/([^/]{{1,64}})"
    rest.ask(path, GLOBAL, "WATCHER", method="POST")
    found: list[Output] = []
    waiting = threading.Thread(
        target=lambda: found.append(rest.ask(EVENTS, "WATCHER", asked={"after": "0", "wait": "30"}))
    )
    waiting.start()
    while rest.events._waiters._value:
        waiting.join(0.01)
        assert waiting.is_alive()
    assert rest.ask(EVENTS, "WATCHER", asked={"wait": "30"}).body == {
        "events": [],
        "last": 0,
        "missed": 0,
        "waited": False,
    }
    rest.ask(f"{ROOT}/([0-9.]{{1,64}})/cancelrequest", uid_of_job(JOB_ID), method="POST")
    waiting.join(10)
    assert dicom.text_of(found[0].body["events"][0]["report"], "ProcedureStepState") == "CANCELED"


def test_a_number_beyond_all_events_is_answered_with_none(rest: Rest) -> None:
    rest.ask(f"{ROOT}/([0-9.]{{1,64}})/subscribers/([^/]{{1,64}})", GLOBAL, "WATCHER", method="POST")
    assert rest.ask(EVENTS, "WATCHER", asked={"after": "9" * 30}).body["events"] == []


@pytest.mark.parametrize("wait", ["nan", "inf", "-1"])
def test_an_odd_wait_does_not_hold_a_thread_for_long(rest: Rest, wait: str) -> None:
    rest.ask(f"{ROOT}/([0-9.]{{1,64}})/subscribers/([^/]{{1,64}})", GLOBAL, "WATCHER", method="POST")
    rest.ask(f"{ROOT}/([0-9.]{{1,64}})/cancelrequest", uid_of_job(JOB_ID), method="POST")
    assert len(rest.ask(EVENTS, "WATCHER", asked={"wait": wait}).body["events"]) == 1

"""The audit trail over REST and at the command line, and whose names it takes from a request."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from coread.audit.event import AuditKind, parse_time
from coread.audit.person import who_asks
from coread.cli import coread
from coread.job import Priority
from coread.ledger import Ledger
from coread.ledger.remote import RemoteLedger
from coread.plugin.desk import OPERATIONS
from coread.plugin.gate import Gate
from coread.plugin.rest import register_routes
from tests.support import NOW
from tests.unit.test_audit_ledger import job, read, settle

ADA = {"headers": {"authorization": "Basic " + base64.b64encode(b"ada:secret").decode()}}


class Output:
    """What Orthanc hands to a handler."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = None

    def SetHttpHeader(self, _name: str, _value: str) -> None:  # noqa: N802  # Orthanc's name
        pass

    def AnswerBuffer(self, text: str, _kind: str) -> None:  # noqa: N802
        self.body = json.loads(text)

    def SendHttpStatus(self, status: int, text: str, _length: int) -> None:  # noqa: N802
        self.status, self.body = status, json.loads(text)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path / 'coread-data' / 'ledger.sqlite'}")
    ledger.migrate()
    settle(ledger, job())
    return ledger


def ask(
    ledger: Ledger,
    path: str,
    asked: Mapping[str, str] = MappingProxyType({}),
    *,
    method: str = "GET",
    groups: tuple[str, ...] = (),
) -> Output:
    routes: dict[str, Callable[..., None]] = {}
    orthanc = SimpleNamespace(RegisterRestCallback=routes.__setitem__)
    gate = Gate(orthanc, asks_users=True)
    register_routes(gate, ledger)
    output = Output()
    routes[path](output, path, method=method, groups=groups, get=asked, **ADA)
    return output


def listed(ledger: Ledger, **asked: str) -> list[str]:
    """The kinds of the rows that are answered."""
    return [row["kind"] for row in ask(ledger, "/coread/audit", asked).body]


def test_the_trail_is_answered_over_rest(ledger: Ledger) -> None:
    assert listed(ledger) == ["job recorded", "received"]
    assert listed(ledger, job="a") == ["job recorded"]
    assert listed(ledger, limit="1") == ["job recorded"]
    assert listed(ledger, study="9.9") == []
    assert listed(ledger, since=(NOW + timedelta(seconds=1)).isoformat()) == []
    assert len(listed(ledger, since="2026-01-02T04:04:05+01:00")) == 2, "a plus sign means a space"
    assert len(listed(ledger, since="2026-01-02T04%3A04%3A05%2B01%3A00")) == 2, "Orthanc decodes nothing"


@pytest.mark.parametrize("asked", [{"since": "yesterday"}, {"since": "9999-12-31T23:59-23:59"}, {"limit": "many"}])
def test_what_cannot_be_understood_is_answered_400(ledger: Ledger, asked: dict[str, str]) -> None:
    assert ask(ledger, "/coread/audit", asked).status == 400


def test_what_a_person_asks_over_rest_bears_the_users_name(ledger: Ledger) -> None:
    for wish in ("cancel", "retry"):
        ask(ledger, "/coread/jobs/([0-9a-f]+)/(retry|cancel)", method="POST", groups=("a", wish))
    ask(ledger, f"/coread/jobs/([0-9a-f]+)/priority/({'|'.join(Priority)})", method="POST", groups=("a", "stat"))
    told = [(row.kind, row.who) for row in ledger.audit()[:3][::-1]]
    assert told == [(AuditKind.CANCELLED, "ada"), (AuditKind.RETRIED, "ada"), (AuditKind.PRIORITISED, "ada")]


def user_of(request: Mapping[str, Any], *, asks_users: bool) -> str:
    person = Gate(SimpleNamespace(), asks_users=asks_users).person(request["headers"])
    assert person is not None
    return person.user


@pytest.mark.parametrize("header", ["", "Basic", "Basic ÿ", "Basic /w==", "Bearer abc"])
def test_a_request_without_a_user_has_none(header: str) -> None:
    assert user_of({"headers": {"authorization": header}}, asks_users=True) == ""


def test_a_name_that_nobody_has_checked_does_not_count() -> None:
    assert user_of(ADA, asks_users=True) == "ada"
    assert user_of(ADA, asks_users=False) == ""


def test_a_worker_on_another_machine_sees_the_same_trail(ledger: Ledger) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        operation = OPERATIONS[request.url.path.rpartition("/")[2]]
        return httpx.Response(200, json={"answer": operation(ledger, json.loads(request.content), NOW)})

    remote = RemoteLedger("http://nowhere", transport=httpx.MockTransport(respond))
    remote.note_worker_started(worker="gpu:1", models={"m": {"version": "1"}}, at=NOW)
    assert remote.audit(limit=1)[0].who == "gpu:1"
    assert remote.cancel("a", by="ada@elsewhere", at=NOW)
    assert remote.retry("a", by="ada@elsewhere", at=NOW)
    assert remote.prioritise("a", Priority.STAT, by="ada@elsewhere", at=NOW)
    assert remote.audit(since=NOW, limit=3) == ledger.audit(limit=3)
    assert {event.who for event in remote.audit(job_id="a", limit=3)} == {"ada@elsewhere"}
    assert remote.audit(study_instance_uid="9.9") == []
    remote._http.close()


def test_who_asks_at_the_command_line_is_a_login_on_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r".+@.+", who_asks())

    def is_nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", is_nameless)
    assert who_asks().startswith("uid")


def test_a_time_without_a_zone_is_in_utc() -> None:
    assert parse_time("2026-01-02").isoformat() == "2026-01-02T00:00:00+00:00"
    assert parse_time("2026-01-02T03:04+01:00").utcoffset() == timedelta(hours=1)


def test_the_command_lists_the_newest_last_and_says_what_it_leaves_out(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read(ledger)
    result = CliRunner().invoke(coread, ["audit", "list", "--json"])
    assert [row["kind"] for row in json.loads(result.stdout)] == [
        "received",
        "job recorded",
        "model ran",
        "results written",
    ]
    table = CliRunner().invoke(coread, ["audit", "list"])
    assert "CT_1" in table.stdout
    assert "12 instances" in table.stdout
    assert "…" not in table.stdout
    cut = CliRunner().invoke(coread, ["audit", "list", "--limit", "1"])
    assert ("results written" in cut.stdout, "received" in cut.stdout) == (True, False)
    assert "older rows than these 1 are left out" in cut.stderr
    assert CliRunner().invoke(coread, ["audit", "list", "--since", "yesterday"]).exit_code == 2

"""Deliveries over REST and at the command line, where the requests are odd, and who is said to have asked."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from coread.audit.person import who_asks
from coread.cli import coread
from coread.ledger import Ledger
from coread.ledger.tables import DELIVERY
from coread.plugin.deliveries import register_deliveries
from coread.plugin.gate import Gate
from tests.destinations import do, job_for, settle
from tests.unit.test_audit_rest import ADA, Output


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with two deliveries."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'coread-data' / 'ledger.sqlite'}")
    ledger.migrate()
    settle(ledger, job_for("pacs", "web"))
    do(ledger, job_for("pacs", "web"), ("1.1",))
    return ledger


def ask(ledger: Ledger, path: str, *, method: str = "GET", asked: Mapping[str, str] = {}, **more: Any) -> Output:
    handlers: dict[str, Callable[..., None]] = {}
    orthanc = SimpleNamespace(RegisterRestCallback=handlers.__setitem__)
    register_deliveries(Gate(orthanc, asks_users=True), ledger)
    output = Output()
    handlers[path](output, path, method=method, get=asked, **more)
    return output


@pytest.mark.parametrize(("limit", "listed"), [("1", 1), ("0", 1), ("-1", 1), ("100000000000000000000", 2)])
def test_a_limit_is_held_within_what_can_be_answered(ledger: Ledger, limit: str, listed: int) -> None:
    assert len(ask(ledger, "/coread/deliveries", asked={"limit": limit}).body) == listed


def test_a_limit_that_is_no_number_is_named(ledger: Ledger) -> None:
    assert ask(ledger, "/coread/deliveries", asked={"limit": "many"}).status == 400


def test_the_audit_trail_names_the_user_who_changed_a_delivery_over_rest(ledger: Ledger) -> None:
    for wish in ("cancel", "retry"):
        path = "/coread/deliveries/([0-9]{1,9})/(retry|cancel)"
        assert ask(ledger, path, method="POST", groups=("1", wish), **ADA).status == 200
    found = [(row.kind, row.who) for row in ledger.audit(limit=2)]
    assert found == [("delivery retried", "ada"), ("delivery cancelled", "ada")]


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(coread, ["deliveries", *arguments])


def test_the_audit_trail_names_the_user_who_changed_a_delivery_at_the_command_line(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(tmp_path, monkeypatch, "cancel", "1").exit_code == 0
    assert command(tmp_path, monkeypatch, "retry", "1").exit_code == 0
    assert [row.who for row in ledger.audit(limit=2)] == [who_asks()] * 2


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    "arguments", [("show", "1" + "0" * 20), ("list", "--limit", "10001"), ("list", "--limit", "0")]
)
def test_a_number_that_is_too_large_or_too_small_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    assert "is not in the range" in command(tmp_path, monkeypatch, *arguments).output
    assert len(json.loads(command(tmp_path, monkeypatch, "list", "--json").output)) == 2


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (DELIVERY.c.destination == "pacs", "delivery_by_destination"),
        (DELIVERY.c.state == "failed", "delivery_by_state"),
    ],
)
def test_lists_are_read_from_an_index_and_not_sorted(ledger: Ledger, wanted: Any, index: str) -> None:
    query = sa.select(DELIVERY).where(wanted).order_by(DELIVERY.c.opened_at.desc(), DELIVERY.c.delivery_id.desc())
    text = query.limit(100).compile(compile_kwargs={"literal_binds": True})
    with ledger._transaction() as connection:
        plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    assert index in plan
    assert "TEMP B-TREE" not in plan

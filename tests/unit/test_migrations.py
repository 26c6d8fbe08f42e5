"""A ledger of an older version is brought to this one's form with what stands in it; one of a later is refused."""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import alembic.command
import httpx
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from coread.delivery import DeliveryState
from coread.errors import ConfigurationError
from coread.job import JobState
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.database import MIGRATIONS
from coread.ledger.remote import RemoteLedger
from coread.plugin import desk
from coread.workers.duty import Duty
from tests.services import PostgreSQL
from tests.support import NOW, a_job

RESOURCES = Path(__file__).parents[1] / "resources"


def test_studies_that_were_arriving_before_the_first_ledger_was_migrated_still_are(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
        row = {"study": "a", "at": NOW.strftime("%Y-%m-%d %H:%M:%S.%f")}
        connection.execute(sa.text("INSERT INTO arriving_study VALUES (:study, 3, :at)"), row)
    engine.dispose()
    ledger = Ledger(url)
    ledger.migrate()
    assert ledger.arriving() == [ArrivingStudy(orthanc_id="a", last_change=3, last_arrival_at=NOW)]
    ledger.note_arrivals({"a": 4}, archive_identity="orthanc", last_change=4, at=NOW)
    assert [study.first_arrival_at for study in ledger.arriving()] == [NOW]


def test_deliveries_keep_what_they_hold_when_reviews_come_beside_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    ledger = Ledger(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("PRAGMA foreign_keys=ON"))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0007")
        at = NOW.strftime("%Y-%m-%d %H:%M:%S.%f")
        job = {
            **dict.fromkeys(("job_id", "fingerprint", "revision", "orthanc_id", "model", "model_version"), "a"),
            "study_instance_uid": "1.2",
            "profiles": "[]",
            "destinations": "[]",
            "priority": "routine",
            "queue": "gpu",
            "state": "done",
            "reason": "",
            "attempts": 1,
            "silences": 0,
            "created_at": at,
            "not_before": at,
        }
        names = ", ".join(job)
        values = ", ".join(f":{name}" for name in job)
        connection.execute(sa.text(f"INSERT INTO job ({names}) VALUES ({values})"), job)  # noqa: S608  # names of ours
        row = "(7, 'a', 'pacs', '1.2', 'study', 'm', 'sent', 'why', '', 2, NULL, :at, :at, NULL)"
        connection.execute(sa.text(f"INSERT INTO delivery VALUES {row}"), {"at": at})  # noqa: S608  # as above
        connection.execute(sa.text("INSERT INTO delivery_object VALUES (7, '2.25.1', 0, '1.2.3', 'sent', '')"))
        connection.execute(sa.text("INSERT INTO delivery_event VALUES (1, 7, :at, NULL, 'waiting', 'x')"), {"at": at})
        connection.execute(sa.text("INSERT INTO commitment VALUES ('2.25.9', 7, :at)"), {"at": at})
    engine.dispose()
    ledger.migrate()
    ledger.check_version()
    (delivery,) = ledger.deliveries()
    assert (delivery.delivery_id, delivery.attempts, delivery.review_id) == (7, 2, "")
    assert (delivery.state, delivery.opened_at) == (DeliveryState.SENT, NOW)
    assert [each.sop_instance_uid for each in delivery.objects] == ["2.25.1"]
    assert [event.reason for event in ledger.delivery_history(7)] == ["x"]
    said: dict[str, Any] = {"kept": ["2.25.1"], "missing": [], "refused": {}}
    assert ledger.settle_commitment("2.25.9", **said, at=NOW, wait=lambda _attempts: timedelta(0))
    assert [each.state for each in ledger.deliveries()] == [DeliveryState.CONFIRMED]
    ledger.close()


# Every version, on both databases ----------------------------------------------------------------------------------

CONFIG = Config()
CONFIG.set_main_option("script_location", str(MIGRATIONS))
REVISIONS = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()][::-1]
AFTER = NOW + timedelta(hours=1)
STATES = ("waiting", "running", "storing", "done", "failed")
"""Of the jobs that stand in a ledger of an older version."""


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    schema = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(server.url)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    engine.dispose()
    return f"{server.url}?options=-csearch_path%3D{schema}"


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """The database as nobody of ours opens it."""
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


def make_ledger_of(revision: str, engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """Tables as the version had them, with rows in each; what stands in them, by table."""
    with engine.begin() as connection:
        CONFIG.attributes["connection"] = connection
        alembic.command.upgrade(CONFIG, revision)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            if table.name not in ("alembic_version", "queue"):
                connection.execute(sa.insert(table), [row_of(table, n, state) for n, state in enumerate(STATES, 1)])
    return contents(engine)


def row_of(table: sa.Table, number: int, state: str) -> dict[str, Any]:
    """A row with a value in each column, of the job with this number."""
    # What PostgreSQL numbers by itself must be, or else it would give the same numbers once more.
    numbered = [column.name for column in table.primary_key if column.server_default is not None]
    row = {column.name: value_of(column, number) for column in table.columns if column.name not in numbered}
    if table.name == "job":
        under_way = state in ("running", "storing")
        row |= {
            "state": state,
            "queue": "gpu",
            "priority": "routine",
            "lease_until": NOW if under_way else None,
            "worker": "w" if under_way else None,
            "attempts": 1,
            "silences": 0,
            "result": {"sop_instance_uids": [f"2.25.{number}"]} if state in ("storing", "done") else sa.null(),
        }
    row |= {"from_state": "waiting", "to_state": "running"} if "to_state" in row else {}
    row |= {"state": "sent"} if table.name in ("delivery", "delivery_object") else {}
    return {name: value for name, value in row.items() if name in table.columns}


WORDS = {
    "priority": "routine",
    "verdict": "accepted",
    "source": "page",
    "basis": "reference",
    "copy": "ours",
    "review_writing.state": "written",
    "workitem.state": "SCHEDULED",
    "workitem_change.state": "SCHEDULED",
    "archive_run.state": "running",
    "run_study.state": "due",
    "notice.state": "due",
    "notice.event": "raised",
    "audit_event.kind": "job recorded",
    "process.kind": "worker",
}
"""What stands in columns that take only certain words."""
LISTS = ("profiles", "destinations", "results", "objects")


def value_of(column: sa.Column[Any], number: int) -> Any:
    kind = column.type
    if isinstance(kind, sa.JSON) and column.nullable:
        return sa.null()
    if isinstance(kind, sa.JSON):
        return ["ohif"] if column.name == "profiles" else [] if column.name in LISTS else {}
    if isinstance(kind, sa.Boolean):
        return False
    if isinstance(kind, sa.DateTime):
        return NOW
    if isinstance(kind, sa.Integer | sa.Float):
        return 1 if column.name == "cursor_id" and number == 1 else number
    return WORDS.get(f"{column.table.name}.{column.name}", WORDS.get(column.name, str(number)))


def contents(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """Table → its rows, as comparable values."""
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: [
                dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in tables.sorted_tables
            if table.name != "alembic_version"
        }


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_ledger_of_any_earlier_version_keeps_every_row_and_goes_on(
    revision: str, url: str, engine: sa.Engine
) -> None:
    before = make_ledger_of(revision, engine)
    ledger = Ledger(url)
    ledger.migrate()
    ledger.check_version()
    after = contents(engine)
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]] if rows else after[table]
        assert kept == rows, f"rows of {table} are not what they were"
    assert {(record.job.job_id, record.state) for record in ledger.jobs()} == {
        (str(number), state) for number, state in enumerate(STATES, start=1)
    }
    assert {study.orthanc_id for study in ledger.arriving()} == {"1", "2", "3", "4", "5"}
    assert [event.to_state for event in ledger.history("4")] == [JobState.RUNNING]
    assert taken_up(ledger) == {"1", "2", "3"}, "what waited, ran and was stored is done"
    ledger.close()


def taken_up(ledger: Ledger) -> set[str]:
    """Ids of the jobs that workers get once the leases of those who had them are over."""
    ledger.reclaim(at=AFTER, attempts=3)
    ledger.queue_due(at=AFTER)
    taken = set()
    while job := ledger.claim(worker="new", at=AFTER, lease=timedelta(minutes=1)):
        assert ledger.start_storing(job.job_id, worker="new", result={"sop_instance_uids": ["9"]}, at=AFTER)
        assert ledger.finish(job.job_id, JobState.DONE, worker="new", result={"sop_instance_uids": ["9"]}, at=AFTER)
        taken.add(job.job_id)
    return taken


def test_a_ledger_as_this_version_really_wrote_it_is_understood_by_the_next(tmp_path: Path) -> None:
    """Each was dumped from a Coread of that version that had read studies (`python -m tests.ledger_fixture`)."""
    fixtures = sorted(RESOURCES.glob("ledger-*.sql"))
    assert fixtures
    for fixture in fixtures:
        path = tmp_path / f"{fixture.stem}.sqlite"
        with closing(sqlite3.connect(path)) as plain:
            plain.executescript(fixture.read_text(encoding="utf-8"))
        ledger = Ledger(f"sqlite:///{path}")
        ledger.migrate()
        ledger.check_version()
        states = {record.state for record in ledger.jobs()}
        assert states >= {JobState.DONE, JobState.REFUSED, JobState.RUNNING}
        (done,) = ledger.jobs(states=[JobState.DONE])
        assert done.result["findings"]
        assert done.result_uids
        assert [event.to_state for event in ledger.history(done.job.job_id)][-1] is JobState.DONE
        assert {delivery.state for delivery in ledger.deliveries()} == {DeliveryState.WAITING}
        assert [review.verdict for review in ledger.reviews()] == ["accepted"]
        assert len(ledger.audit()) > 4
        (running,) = ledger.jobs(states=[JobState.RUNNING])
        late = running.job.created_at + timedelta(days=1)
        assert running.job.job_id in ledger.reclaim(at=late, attempts=3)
        ledger.close()


# Later than the program -------------------------------------------------------------------------------------------

LATER = "9999"


def bring_to_a_later_form(engine: sa.Engine) -> None:
    """What the migration of a later version would write down."""
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :later"), {"later": LATER})


def test_a_ledger_that_a_later_version_has_migrated_is_refused_and_left_as_it_is(url: str, engine: sa.Engine) -> None:
    ledger = Ledger(url)
    ledger.migrate()
    bring_to_a_later_form(engine)
    for ask in (ledger.migrate, ledger.check_version):
        with pytest.raises(ConfigurationError, match=r"at version 9999, which is later than .* install the version"):
            ask()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == LATER
    ledger.close()


def test_whoever_an_upgrade_has_left_running_takes_nothing(url: str, engine: sa.Engine) -> None:
    ledger = Ledger(url)
    ledger.migrate()
    ledger.note_arrivals({"study": 1}, archive_identity="orthanc", last_change=1, at=NOW)
    (study,) = ledger.arriving()
    ledger.settle(study, [a_job()], present_uids=(), at=NOW)
    ledger.queue_due(at=NOW)
    assert ledger.note_returned([("instance", study.orthanc_id, "1.2.3")], at=NOW) == 1
    bring_to_a_later_form(engine)
    with pytest.raises(ConfigurationError, match="later than this program's"):
        ledger.claim(worker="old", at=NOW, lease=timedelta(minutes=1))
    with pytest.raises(ConfigurationError, match="later than this program's"):
        ledger.claim_delivery("pacs", courier="old", at=NOW, lease=timedelta(minutes=1))
    with pytest.raises(ConfigurationError, match="later than this program's"):
        ledger.attend_runs(archivist="old", at=NOW, lease=timedelta(minutes=1))
    with pytest.raises(ConfigurationError, match="later than this program's"):
        ledger.claim_returned(clerk="old", at=NOW, lease=timedelta(minutes=1))
    record = ledger.job("a")
    assert record is not None
    assert (record.state, record.attempts) == (JobState.QUEUED, 0)
    ledger.close()


@pytest.mark.parametrize("url", ["PostgreSQL"], indirect=True)
def test_who_claims_while_the_ledger_is_migrated_is_waited_for(url: str, engine: sa.Engine) -> None:
    """Else a worker could look at the form, wait for the tables, and take a job of the new one."""
    make_ledger_of(REVISIONS[-2], engine)
    ledger = Ledger(url)
    waits = sa.text("SELECT count(*) FROM pg_locks WHERE relation = 'alembic_version'::regclass AND NOT granted")
    with engine.connect() as watching, ThreadPoolExecutor(1) as plugin:
        with engine.begin() as claiming:
            assert claiming.scalar(sa.text("SELECT version_num FROM alembic_version")) == REVISIONS[-2]
            migrating = plugin.submit(ledger.migrate)
            while not watching.scalar(waits):
                assert not migrating.done(), "it did not wait"
                time.sleep(0.01)
        migrating.result(60)
    ledger.check_version()
    ledger.close()


def test_a_worker_that_is_behind_says_so_and_lives_on(capfd: pytest.CaptureFixture[str]) -> None:
    class Behind:
        def run_next(self) -> None:
            raise ConfigurationError("install the same version")

    duty = Duty(Behind())
    duty.answer()
    assert "install the same version" in "".join(capfd.readouterr())


def test_a_worker_on_another_machine_that_is_behind_the_plugin_gets_no_job(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    said: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        arguments = json.loads(request.content) | {"version": "0.0.1"}
        try:
            answer = desk.OPERATIONS[request.url.path.rpartition("/")[2]](ledger, arguments, NOW)
        except ConfigurationError as error:
            said.append(str(error))
            return httpx.Response(409, json={"error": str(error)})
        return httpx.Response(200, json={"answer": answer})

    remote = RemoteLedger("http://nowhere", transport=httpx.MockTransport(respond))
    minute = timedelta(minutes=1)
    claims: tuple[Callable[[], object], ...] = (
        lambda: remote.claim(worker="old", queues=None, at=NOW, lease=minute),
        lambda: remote.claim_review(clerk="old", at=NOW, lease=minute),
        lambda: remote.claim_returned(clerk="old", at=NOW, lease=minute),
    )
    for claim in claims:
        with pytest.raises(ConfigurationError, match=r"found one of 0\.0\.1; install the same version"):
            claim()
    assert len(said) == 3
    remote.close()
    ledger.close()

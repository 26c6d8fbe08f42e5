"""What the ledger does not keep of workitems, in a file of its own: datasets, subscriptions and events.

A scheduler may write a patient's name into a workitem, and anything into its free texts; so do performers. The ledger
holds no patient data: it may lie on another machine, and much of it goes into logs. So the datasets lie here, beside
Orthanc's own index, which holds the same data of the same patients, and only the plugin opens this file. Datasets are
not made from anything else: the file belongs into the backup together with the ledger.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from coread.errors import LedgerUnavailable
from coread.plugin.ups.dataset import Dataset

BUSY_TIMEOUT_S = 10.0

KEPT_EVENTS = timedelta(days=7)
"""A subscriber that asks for events less often than this misses some."""
MOST_EVENTS = 10_000
"""Of each subscriber; the oldest go first."""
MOST_SUBSCRIPTIONS = 10_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS dataset (uid TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS subscription (
    aet TEXT NOT NULL, target TEXT NOT NULL, is_on INTEGER NOT NULL, since TEXT NOT NULL, suspended_at TEXT, keys TEXT,
    PRIMARY KEY (aet, target)
);
CREATE TABLE IF NOT EXISTS event (
    aet TEXT NOT NULL, number INTEGER NOT NULL, source TEXT NOT NULL, at TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (aet, number)
);
CREATE UNIQUE INDEX IF NOT EXISTS event_once ON event (aet, source);
CREATE INDEX IF NOT EXISTS event_by_age ON event (at);
CREATE TABLE IF NOT EXISTS numbered (aet TEXT PRIMARY KEY, last INTEGER NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """That somebody is told of a workitem, or of all, or of those that fit ``keys``."""

    aet: str
    target: str
    """UID of the workitem, or a well-known one."""
    is_on: bool = True
    """False: of this workitem, in spite of a subscription to all, it is not told."""
    since: datetime
    suspended_at: datetime | None = None
    """Workitems that were created later are not told of."""
    keys: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event report, as a subscriber gets it. ``number`` rises by one with each event of this subscriber's."""

    number: int
    at: datetime
    dataset: Dataset


class WorkitemStore:
    """The file. Safe to share between threads; only one process opens it."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerUnavailable if the file cannot be opened."""
        self._path = path
        self._lock = threading.RLock()
        self.has_news = threading.Condition()
        """Notified when there are new events."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        os.chmod(path, 0o600)  # noqa: PTH101  # one that was copied back may have other rights
        self._connection: sqlite3.Connection | None = None
        with self._transaction() as connection:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # Datasets ----------------------------------------------------------------------------------------------------

    def write(self, uid: str, dataset: Mapping[str, Any]) -> None:
        """Keep a workitem's dataset, in the place of an earlier one."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO dataset VALUES (?, ?)", (uid, json.dumps(dataset)))

    def datasets(self, uids: Sequence[str]) -> dict[str, Dataset]:
        """The datasets that are kept of these workitems."""
        found: dict[str, Dataset] = {}
        with self._transaction() as connection:
            for uid in uids:
                row = connection.execute("SELECT body FROM dataset WHERE uid = ?", (uid,)).fetchone()
                if row is not None:
                    found[uid] = json.loads(row[0])
        return found

    # Subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> bool:
        """Keep a subscription, in the place of an earlier one of the same target; False if there are too many."""
        row = (
            subscription.aet,
            subscription.target,
            subscription.is_on,
            subscription.since.isoformat(),
            subscription.suspended_at and subscription.suspended_at.isoformat(),
            None if subscription.keys is None else json.dumps(dict(subscription.keys)),
        )
        with self._transaction() as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM subscription").fetchone()
            if count >= MOST_SUBSCRIPTIONS:
                return False
            connection.execute("INSERT OR REPLACE INTO subscription VALUES (?, ?, ?, ?, ?, ?)", row)
        return True

    def unsubscribe(self, aet: str, targets: Sequence[str] | None = None) -> None:
        """Forget subscriptions: to these targets, or all."""
        with self._transaction() as connection:
            if targets is None:
                connection.execute("DELETE FROM subscription WHERE aet = ?", (aet,))
            for target in targets or ():
                connection.execute("DELETE FROM subscription WHERE aet = ? AND target = ?", (aet, target))

    def subscriptions(self, *, aet: str | None = None) -> list[Subscription]:
        """All subscriptions, or those of one subscriber."""
        query = "SELECT aet, target, is_on, since, suspended_at, keys FROM subscription"
        with self._transaction() as connection:
            rows = connection.execute(f"{query} WHERE aet = ?", (aet,)) if aet else connection.execute(query)
            return [_subscription_of(row) for row in rows.fetchall()]

    # Events ------------------------------------------------------------------------------------------------------

    def tell(self, aets: Sequence[str], dataset: Dataset, *, source: str, at: datetime) -> None:
        """Number an event for each of these subscribers; one with the same ``source`` was told already."""
        with self._transaction() as connection:
            for aet in aets:
                told = connection.execute("SELECT 1 FROM event WHERE aet = ? AND source = ?", (aet, source)).fetchone()
                if told is None:
                    _insert_event(connection, aet, dataset, source=source, at=at)
        with self.has_news:
            self.has_news.notify_all()

    def events(self, aet: str, *, after: int, limit: int) -> tuple[list[Event], int, int]:
        """The oldest events of a subscriber after a number; numbers of the newest, and of the oldest that is kept."""
        query = "SELECT number, at, body FROM event WHERE aet = ? AND number > ? ORDER BY number LIMIT ?"
        with self._transaction() as connection:
            rows = connection.execute(query, (aet, after, limit)).fetchall()
            numbered = connection.execute("SELECT last FROM numbered WHERE aet = ?", (aet,)).fetchone()
            (oldest,) = connection.execute("SELECT MIN(number) FROM event WHERE aet = ?", (aet,)).fetchone()
        last = numbered[0] if numbered else 0
        events = [
            Event(number=number, at=datetime.fromisoformat(at), dataset=json.loads(body)) for number, at, body in rows
        ]
        return events, last, oldest or last + 1

    def prune(self, *, at: datetime) -> None:
        """Forget events that nobody fetched in time, and those of subscribers with too many."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM event WHERE at < ?", ((at - KEPT_EVENTS).isoformat(),))
            connection.execute(
                "DELETE FROM event WHERE number <= (SELECT last FROM numbered WHERE numbered.aet = event.aet) - ?",
                (MOST_EVENTS,),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing. Raises LedgerUnavailable if the file cannot be read or written."""
        with self._lock:
            try:
                connection = self._opened()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                self.close()
                raise LedgerUnavailable(f"{self._path} cannot be used: {error}; is the disk full?") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._connection = connection
        return self._connection


def _insert_event(connection: sqlite3.Connection, aet: str, dataset: Dataset, *, source: str, at: datetime) -> None:
    connection.execute(
        "INSERT INTO numbered VALUES (?, 1) ON CONFLICT (aet) DO UPDATE SET last = last + 1",
        (aet,),
    )
    (number,) = connection.execute("SELECT last FROM numbered WHERE aet = ?", (aet,)).fetchone()
    row = (aet, number, source, at.isoformat(), json.dumps(dataset))
    connection.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?)", row)


def _subscription_of(row: Sequence[Any]) -> Subscription:
    aet, target, is_on, since, suspended_at, keys = row
    return Subscription(
        aet=aet,
        target=target,
        is_on=bool(is_on),
        since=datetime.fromisoformat(since),
        suspended_at=datetime.fromisoformat(suspended_at) if suspended_at else None,
        keys=None if keys is None else json.loads(keys),
    )

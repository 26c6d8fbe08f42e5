"""Which studies arrive and what each waits for, and how far Orthanc's change log has been taken in."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from coread.ledger.database import Database, upsert
from coread.ledger.tables import ARRIVING, CURSOR

FOR_WORKITEM = -1
"""In the place of a change of Orthanc's log: nothing has arrived, but a workitem asks for a study that is here."""
FOR_RUN = -2
"""The same, but an archive run has retrieved the study, or found it here."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What an arriving study waits for, as it was last looked at."""

    waits_for: str = ""
    """Empty while instances arrive: it has not been looked at."""
    waits_until: datetime | None = None
    stalled: bool = False
    """It waits without end: for missing instances, or for a person."""
    instances: int | None = None
    """How many instances a model may read were there."""
    stated: Mapping[str, int] | None = None
    """What the source PACS says: SeriesInstanceUID → number of instances."""


@dataclass(frozen=True, kw_only=True)
class ArrivingStudy:
    """A study that instances have been added to since its jobs were last settled."""

    orthanc_id: str
    last_change: int
    last_arrival_at: datetime
    first_arrival_at: datetime | None = None
    longest_pause_s: float = 0.0
    """The longest time between two arrivals in which its sender did not keep its association open."""
    last_instance: str | None = None
    """Orthanc id of the instance that arrived last, if known."""
    read_asked_at: datetime | None = None
    """When a person asked to have it read as it is."""
    wait: Wait = field(default_factory=Wait)


class Arrivals(Database):
    """The part of the ledger that the intake writes first."""

    def last_change(self, archive_identity: str) -> int:
        """The number of the last change of Orthanc's log that was taken in; 0 before the first.

        The cursor counts for one database of Orthanc's only: for another one it is 0.
        """
        with self._reading() as connection:
            query = sa.select(CURSOR.c.last_change).where(CURSOR.c.archive_identity == archive_identity)
            return connection.scalar(query) or 0

    def note_arrivals(
        self,
        studies: Mapping[str, int],
        *,
        archive_identity: str,
        last_change: int,
        at: datetime,
        last_instances: Mapping[str, str] = MappingProxyType({}),
        quiet_until: datetime | None = None,
        still_connected: Collection[str] = (),
    ) -> None:
        """Mark ``studies`` (Orthanc id → number of its latest change) as arriving and move the cursor, in one step.

        ``last_instances``: Orthanc ids of study and of its latest instance. ``quiet_until``: the latest time at which
        the whole log had been read, so that no arrival in it is later than that and earlier than these.
        ``still_connected``: the studies whose sender has kept its association open since their last arrival.
        """
        with self._transaction() as connection:
            for orthanc_id, change in studies.items():
                instance = last_instances.get(orthanc_id)
                paused_until = None if orthanc_id in still_connected else quiet_until or at
                _note_arrival(
                    connection, orthanc_id, change=change, instance=instance, at=at, paused_until=paused_until
                )
            _move_cursor(connection, archive_identity, last_change)

    def start_anew(self, studies: Collection[str], *, archive_identity: str, last_change: int, at: datetime) -> None:
        """Mark all studies (Orthanc ids) of an archive that was restored from a backup as arriving: which of their
        results are still there, nobody knows. The cursor is where the archive's log ends.
        """
        with self._transaction() as connection:
            for orthanc_id in studies:
                mark_arriving(connection, orthanc_id, change=0, at=at)
            _move_cursor(connection, archive_identity, last_change)
            connection.execute(sa.update(CURSOR).values(watermark=0))

    def watermark(self, archive_identity: str) -> int:
        """How far Orthanc's database says, as far as is known, that its log was taken in; 0 if it says nothing."""
        with self._reading() as connection:
            query = sa.select(CURSOR.c.watermark).where(CURSOR.c.archive_identity == archive_identity)
            return connection.scalar(query) or 0

    def note_watermark(self, archive_identity: str, change: int) -> None:
        """Record that Orthanc's database says so."""
        with self._transaction() as connection:
            this = CURSOR.c.archive_identity == archive_identity
            connection.execute(sa.update(CURSOR).where(this).values(watermark=change))

    def arriving(self) -> list[ArrivingStudy]:
        """The studies whose jobs are not settled, longest quiet first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(ARRIVING).order_by(ARRIVING.c.last_arrival_at))
            return [_arriving_of(row) for row in rows.mappings()]

    def note_wait(self, study: ArrivingStudy, wait: Wait) -> None:
        """Record what a study waits for; nothing happens if it has changed meanwhile."""
        values = {name: getattr(wait, name) for name in Wait.__dataclass_fields__}
        with self._transaction() as connection:
            connection.execute(sa.update(ARRIVING).where(is_still(study)).values(values))

    def ask_to_read(self, orthanc_id: str, *, at: datetime) -> bool:
        """Record that a person wants an arriving study read as it is; False if there is no such study."""
        with self._transaction() as connection:
            asked = sa.update(ARRIVING).where(ARRIVING.c.orthanc_id == orthanc_id).values(read_asked_at=at)
            return bool(connection.execute(asked).rowcount)


def _move_cursor(connection: sa.Connection, archive_identity: str, last_change: int) -> None:
    """Another archive than before starts without a watermark."""
    known = connection.scalar(sa.select(CURSOR.c.archive_identity))
    values: dict[str, Any] = {"archive_identity": archive_identity, "last_change": last_change}
    if known != archive_identity:
        values["watermark"] = 0
    upsert(connection, CURSOR, {"cursor_id": 1}, values)


def is_still(study: ArrivingStudy) -> sa.ColumnElement[bool]:
    """The study's row, as long as nothing has arrived since it was read."""
    return sa.and_(ARRIVING.c.orthanc_id == study.orthanc_id, ARRIVING.c.last_change == study.last_change)


def mark_arriving(connection: sa.Connection, orthanc_id: str, *, change: int, at: datetime) -> None:
    """Mark a study as arriving: it will be settled, or settled again."""
    upsert(connection, ARRIVING, {"orthanc_id": orthanc_id}, {"last_change": change, "last_arrival_at": at})


def _note_arrival(
    connection: sa.Connection,
    orthanc_id: str,
    *,
    change: int,
    instance: str | None,
    at: datetime,
    paused_until: datetime | None,
) -> None:
    """Mark a study as arriving, and record how it arrives. What it waited for before is over."""
    this = ARRIVING.c.orthanc_id == orthanc_id
    known = connection.execute(sa.select(ARRIVING).where(this)).mappings().one_or_none()
    mark_arriving(connection, orthanc_id, change=change, at=at)
    values: dict[str, Any] = {
        "first_arrival_at": at,
        "last_instance": instance,
        "waits_for": "",
        "waits_until": None,
        "stalled": False,
        "instances": None,
    }
    if known is not None:
        values["first_arrival_at"] = known["first_arrival_at"] or known["last_arrival_at"]
        if paused_until is not None:
            pause_s = (paused_until - known["last_arrival_at"]).total_seconds()
            values["longest_pause_s"] = max(known["longest_pause_s"], pause_s)
    connection.execute(sa.update(ARRIVING).where(this).values(values))


def _arriving_of(row: sa.RowMapping) -> ArrivingStudy:
    values = dict(row)
    wait = Wait(**{name: values.pop(name) for name in Wait.__dataclass_fields__})
    return ArrivingStudy(**values, wait=wait)

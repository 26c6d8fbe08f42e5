"""Which workers and couriers live, and what they say of themselves."""

from datetime import UTC, datetime

import sqlalchemy as sa

from coread.ledger.database import Database, upsert
from coread.ledger.tables import COUNTED, PROCESS
from coread.process_report import ALIVE, FORGOTTEN, ProcessReport, ProcessSeen

NOBODY = 0
"""The row of ``counted`` that is written to see whether anything can be; 1 is the one that counts."""


class Processes(Database):
    """The part of the ledger that says who works."""

    def note_alive(self, report: ProcessReport, *, at: datetime) -> None:
        """Record what a process says of itself. With PostgreSQL, the server's clock counts and not ``at``: processes on
        several machines write there themselves.
        """
        with self._transaction() as connection:
            now = _clock_of(connection) or at
            values = {
                "kind": report.kind,
                "host": report.host,
                "started_at": report.started_at,
                "seen_at": now,
                "clock_offset_s": (report.told_at - now).total_seconds(),
                "facts": report.as_json(),
            }
            upsert(connection, PROCESS, {"name": report.name}, values)
            connection.execute(sa.delete(PROCESS).where(PROCESS.c.seen_at < now - FORGOTTEN))

    def forget_process(self, name: str) -> None:
        """Record that a process has ended in good order."""
        with self._transaction() as connection:
            connection.execute(sa.delete(PROCESS).where(PROCESS.c.name == name))

    def processes(self, *, at: datetime) -> list[ProcessSeen]:
        """Those that were heard of within a day, the longest running first."""
        query = sa.select(PROCESS).order_by(PROCESS.c.started_at, PROCESS.c.name)
        with self._reading() as connection:
            now = _clock_of(connection) or at
            return [
                ProcessSeen(
                    report=ProcessReport.from_json(row["facts"]),
                    seen_at=row["seen_at"],
                    clock_offset_s=row["clock_offset_s"],
                    is_alive=now - row["seen_at"] <= ALIVE,
                )
                for row in connection.execute(query).mappings()
            ]

    def check_writing(self) -> datetime:
        """Write something and take it away again, and say what time it is by the database's clock, or this machine's if
        it has none. Raises LedgerUnavailable if nothing can be written.
        """
        with self._transaction() as connection:
            upsert(connection, COUNTED, {"counted_id": NOBODY}, {"edition": 0, "marks": {}, "totals": []})
        with self._transaction() as connection:
            connection.execute(sa.delete(COUNTED).where(COUNTED.c.counted_id == NOBODY))
            return _clock_of(connection) or datetime.now(UTC)


def _clock_of(connection: sa.Connection) -> datetime | None:
    """What time the database server says it is; None if it is a file."""
    if connection.dialect.name == "sqlite":
        return None
    now: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now

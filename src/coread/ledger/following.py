"""What somebody who keeps a list of studies asks the ledger: which ones have changed, and how their jobs stand.

A row of history that was written is not seen at once by all: of two transactions of PostgreSQL's, the one with the
lower number may be the later to end. So who follows reads the newest rows again for a while (`coread.plugin.worklist`).
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from coread.job import ENDED
from coread.ledger.database import Database
from coread.ledger.jobs import JobRecord, record_of
from coread.ledger.tables import AUDIT, EVENT, JOB


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Numbers of rows, up to which the ledger was followed."""

    event: int = 0
    """Of the jobs' history."""
    audit: int = 0
    """Of the audit trail, which also tells of what changes no state, such as a new priority."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A job and when it ended, if it has."""

    record: JobRecord
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Told:
    """Which studies rows tell of: number of the row → Orthanc id."""

    events: dict[int, str] = field(default_factory=dict)
    audit: dict[int, str] = field(default_factory=dict)


class Following(Database):
    """The part of the ledger for those who follow it."""

    def marks(self) -> Marks:
        """The numbers of the newest rows."""
        with self._reading() as connection:
            return Marks(
                event=connection.scalar(sa.select(sa.func.max(EVENT.c.event_id))) or 0,
                audit=connection.scalar(sa.select(sa.func.max(AUDIT.c.audit_id))) or 0,
            )

    def told_since(self, marks: Marks) -> Told:
        """The rows after ``marks`` that tell of a job."""
        events = sa.select(EVENT.c.event_id, JOB.c.orthanc_id).join(JOB, JOB.c.job_id == EVENT.c.job_id)
        audit = sa.select(AUDIT.c.audit_id, JOB.c.orthanc_id).join(JOB, JOB.c.job_id == AUDIT.c.job_id)
        with self._reading() as connection:
            return Told(
                events={row[0]: row[1] for row in connection.execute(events.where(EVENT.c.event_id > marks.event))},
                audit={row[0]: row[1] for row in connection.execute(audit.where(AUDIT.c.audit_id > marks.audit))},
            )

    def standing(self, orthanc_ids: Collection[str]) -> dict[str, list[Standing]]:
        """How the jobs of studies (Orthanc ids) stand, the newest first; a study without jobs is not in it."""
        jobs = sa.select(JOB).where(JOB.c.orthanc_id.in_(orthanc_ids))
        ended = (
            sa.select(EVENT.c.job_id, sa.func.max(EVENT.c.at))
            .join(JOB, JOB.c.job_id == EVENT.c.job_id)
            .where(JOB.c.orthanc_id.in_(orthanc_ids), EVENT.c.to_state.in_(ENDED))
            .group_by(EVENT.c.job_id)
        )
        found: dict[str, list[Standing]] = {}
        with self._reading() as connection:
            ended_at = {row[0]: row[1] for row in connection.execute(ended)}
            ordered = jobs.order_by(JOB.c.created_at.desc(), JOB.c.job_id)
            for record in map(record_of, connection.execute(ordered).mappings()):
                at = ended_at.get(record.job.job_id) if record.state in ENDED else None
                found.setdefault(record.job.orthanc_id, []).append(Standing(record=record, ended_at=at))
        return found

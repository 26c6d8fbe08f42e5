"""What metrics ask of the ledger: how much stands where now, and which rows are new since they last counted.

What stands now is counted by indexes alone, and of what has ended nothing is counted here: there is more of that every
day. That is counted once, row by row as rows come (`coread.metrics.tally`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from coread.archive_run import RUN_ENDED, RunStudyState
from coread.audit.event import AuditKind
from coread.delivery import DeliveryState
from coread.job import JobState, Priority
from coread.ledger.database import Database, upsert
from coread.ledger.tables import (
    ARCHIVE_RUN,
    ARRIVING,
    AUDIT,
    AUDIT_UNSENT,
    COUNTED,
    DELIVERY,
    DELIVERY_EVENT,
    EVENT,
    JOB,
    NOTICE,
    QUEUE,
    RAISED,
    REVIEW,
    REVIEW_WRITING,
    WORKITEM,
)

OPEN_JOBS = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.STORING, JobState.FAILED)
"""States in which something is still to happen: by itself, or, of what has failed, by a person's hand."""
IN_QUEUE = (JobState.WAITING, JobState.QUEUED)
OPEN_DELIVERIES = (DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.FAILED)
UNDELIVERED = (DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.SENT)

LOOKED_AT = 100
"""Of each queue and priority, the age is looked at of so many jobs that are next. A job that runs anew keeps its place
by when it was first made, and has not waited since then; more of those at a time are not expected."""

RUNS_TOLD = 20
"""Of so many archive runs that are not over, the studies are told of: each is a series of numbers of its own."""

KINDS_COUNTED = (AuditKind.RECEIVED, AuditKind.DENIED)
"""Rows of the audit trail that are counted; the others tell of what is counted elsewhere."""

TOTALS = 1
"""The id of the one row of ``counted``."""


class JobsStanding(NamedTuple):
    """So many jobs of one kind."""

    state: str
    queue: str
    priority: str
    model: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Standings:
    """How much stands where. The oldest of each are told by the moment since which they wait."""

    jobs: Sequence[JobsStanding]
    queues: Collection[str]
    waiting_since: Mapping[tuple[str, str], datetime]
    """(queue, priority) → since when the job that waits longest does."""
    studies: Mapping[str, tuple[int, datetime]]
    """``arriving``, ``waiting`` or ``stalled`` → how many studies, and when the first of them began to arrive."""
    deliveries: Mapping[tuple[str, str], int]
    """(destination, state) → number."""
    undelivered_since: Mapping[str, datetime]
    """Destination → when the oldest was opened of what has not been confirmed."""
    raised: Mapping[str, int]
    """Alert → how many studies it raises now."""
    notices: Mapping[tuple[str, str], int]
    """(channel, state) → number."""
    reviews_to_write: Mapping[str, int]
    """State → number of reviews' objects."""
    workitems: Mapping[str, int]
    audit_unsent: int
    runs: Mapping[str, int]
    """State → number of archive runs."""
    run_studies: Mapping[tuple[str, str], int]
    """(run_id, state of its studies) → number, of the oldest runs that are not over."""
    oldest_run_since: datetime | None
    """When the oldest run was begun that is not over."""


class Followed(NamedTuple):
    """Rows whose numbers grow: which table, and what is read of it."""

    number: sa.Column[Any]
    rows: sa.Select[Any]


FOLLOWED: Mapping[str, Followed] = {
    "job": Followed(
        EVENT.c.event_id,
        sa.select(
            EVENT.c.event_id.label("number"),
            EVENT.c.at,
            EVENT.c.from_state,
            EVENT.c.to_state,
            EVENT.c.reason_class,
            JOB.c.model,
            JOB.c.priority,
            JOB.c.created_at,
            JOB.c.attempts,
            JOB.c.runs,
            JOB.c.worker,
            sa.case((EVENT.c.to_state.in_((JobState.DONE, JobState.REFUSED)), JOB.c.result)).label("result"),
        ).join(JOB, JOB.c.job_id == EVENT.c.job_id),
    ),
    "delivery": Followed(
        DELIVERY_EVENT.c.event_id,
        sa.select(
            DELIVERY_EVENT.c.event_id.label("number"),
            DELIVERY_EVENT.c.at,
            DELIVERY_EVENT.c.from_state,
            DELIVERY_EVENT.c.to_state,
            DELIVERY.c.destination,
            DELIVERY.c.opened_at,
        ).join(DELIVERY, DELIVERY.c.delivery_id == DELIVERY_EVENT.c.delivery_id),
    ),
    "review": Followed(
        REVIEW.c.number,
        sa.select(REVIEW.c.number, REVIEW.c.at, REVIEW.c.model, REVIEW.c.verdict, REVIEW.c.source, REVIEW.c.comparison),
    ),
    "raise": Followed(
        RAISED.c.raise_id,
        sa.select(RAISED.c.raise_id.label("number"), RAISED.c.raised_at.label("at"), RAISED.c.alert, RAISED.c.model),
    ),
    "audit": Followed(
        AUDIT.c.audit_id,
        sa.select(AUDIT.c.audit_id.label("number"), AUDIT.c.at, AUDIT.c.kind, AUDIT.c.details).where(
            AUDIT.c.kind.in_(KINDS_COUNTED)
        ),
    ),
}
"""What is counted row by row. Rows of these tables are only ever added."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What was counted of the rows up to a number. ``edition``: of the way in which it is counted."""

    edition: int
    marks: Mapping[str, int]
    """Name in ``FOLLOWED`` → number of the last row that is counted."""
    totals: Sequence[Any]


class Watching(Database):
    """The part of the ledger for those who watch how it goes."""

    def standings(self) -> Standings:
        """How much stands where now."""
        with self._reading() as connection:
            open_runs = _open_runs(connection)
            queues = connection.scalars(sa.select(QUEUE.c.queue).order_by(QUEUE.c.queue)).all()
            return Standings(
                jobs=_jobs(connection),
                queues=queues,
                waiting_since=_waiting_since(connection, queues),
                studies=_studies(connection),
                deliveries=_counts(connection, DELIVERY.c.destination, DELIVERY.c.state, of=OPEN_DELIVERIES),
                undelivered_since=_undelivered_since(connection),
                raised=_raised(connection),
                notices=_counts(connection, NOTICE.c.channel, NOTICE.c.state),
                reviews_to_write=_count(connection, REVIEW_WRITING.c.state),
                workitems=_count(connection, WORKITEM.c.state),
                audit_unsent=connection.scalar(sa.select(sa.func.count()).select_from(AUDIT_UNSENT)) or 0,
                runs=_count(connection, ARCHIVE_RUN.c.state),
                run_studies={(row["run_id"], state): row[state] for row in open_runs for state in RunStudyState},
                oldest_run_since=open_runs[0]["created_at"] if open_runs else None,
            )

    def numbers_after(self, name: str, mark: int, *, limit: int) -> list[int]:
        """The numbers of the oldest rows after one, of what ``FOLLOWED`` calls so."""
        number = FOLLOWED[name].number
        query = sa.select(number).where(number > mark).order_by(number).limit(limit)
        if name == "audit":
            query = query.where(AUDIT.c.kind.in_(KINDS_COUNTED))
        with self._reading() as connection:
            return list(connection.scalars(query))

    def rows_to_count(self, name: str, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        """The rows with these numbers, each with its ``number``, ``at`` and what is counted of it."""
        followed = FOLLOWED[name]
        with self._reading() as connection:
            found = connection.execute(followed.rows.where(followed.number.in_(numbers)))
            return [dict(row) for row in found.mappings()]

    def counted(self) -> Counted | None:
        """What was counted so far; None if nothing was."""
        query = sa.select(COUNTED.c.edition, COUNTED.c.marks, COUNTED.c.totals).where(COUNTED.c.counted_id == TOTALS)
        with self._reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
            return None if row is None else Counted(**row)

    def note_counted(self, counted: Counted, *, before: Mapping[str, int]) -> bool:
        """Record what was counted; False, and nothing is recorded, if somebody else has counted on from ``before``."""
        values = {"edition": counted.edition, "marks": dict(counted.marks), "totals": list(counted.totals)}
        query = sa.select(COUNTED.c.edition, COUNTED.c.marks).where(COUNTED.c.counted_id == TOTALS)
        with self._transaction() as connection:
            row = connection.execute(query.with_for_update()).one_or_none()
            if row is not None and row.edition == counted.edition and row.marks != dict(before):
                return False
            upsert(connection, COUNTED, {"counted_id": TOTALS}, values)
            return True


def _jobs(connection: sa.Connection) -> list[JobsStanding]:
    place = (JOB.c.state, JOB.c.queue, JOB.c.priority, JOB.c.model)
    query = sa.select(*place, sa.func.count()).where(JOB.c.state.in_(OPEN_JOBS)).group_by(*place)
    return [JobsStanding(*row) for row in connection.execute(query)]


def _waiting_since(connection: sa.Connection, queues: Sequence[str]) -> dict[tuple[str, str], datetime]:
    since: dict[tuple[str, str], datetime] = {}
    for queue in queues:
        for priority in Priority:
            for state in IN_QUEUE:
                next_ones = (
                    sa.select(JOB.c.created_at, JOB.c.not_before, JOB.c.runs)
                    .where(JOB.c.state == state, JOB.c.queue == queue, JOB.c.priority == priority)
                    .order_by(JOB.c.created_at, JOB.c.job_id)
                    .limit(LOOKED_AT)
                )
                for row in connection.execute(next_ones):
                    begun = row.not_before if row.runs else row.created_at
                    since[queue, priority] = min(since.get((queue, priority), begun), begun)
    return since


def _studies(connection: sa.Connection) -> dict[str, tuple[int, datetime]]:
    how = sa.case((ARRIVING.c.stalled, "stalled"), (ARRIVING.c.waits_for == "", "arriving"), else_="waiting")
    since = sa.func.coalesce(
        ARRIVING.c.first_arrival_at, ARRIVING.c.last_arrival_at, type_=ARRIVING.c.last_arrival_at.type
    )
    query = sa.select(how.label("how"), sa.func.count(), sa.func.min(since)).group_by("how")
    return {row[0]: (row[1], row[2]) for row in connection.execute(query)}


def _open_runs(connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """The oldest archive runs that are not over, with the numbers of their studies, which are kept with them."""
    query = sa.select(ARCHIVE_RUN).where(ARCHIVE_RUN.c.state.not_in(RUN_ENDED)).order_by(ARCHIVE_RUN.c.created_at)
    return connection.execute(query.limit(RUNS_TOLD)).mappings().all()


def _undelivered_since(connection: sa.Connection) -> dict[str, datetime]:
    query = sa.select(DELIVERY.c.destination, sa.func.min(DELIVERY.c.opened_at))
    query = query.where(DELIVERY.c.state.in_(UNDELIVERED)).group_by(DELIVERY.c.destination)
    return {row[0]: row[1] for row in connection.execute(query)}


def _raised(connection: sa.Connection) -> dict[str, int]:
    query = sa.select(RAISED.c.alert, sa.func.count()).where(RAISED.c.ended_at.is_(None)).group_by(RAISED.c.alert)
    return {row[0]: row[1] for row in connection.execute(query)}


def _counts(
    connection: sa.Connection, one: sa.Column[Any], other: sa.Column[Any], *, of: Collection[str] | None = None
) -> dict[tuple[str, str], int]:
    query = sa.select(one, other, sa.func.count()).group_by(one, other)
    found = connection.execute(query if of is None else query.where(other.in_(of)))
    return {(row[0], row[1]): row[2] for row in found}


def _count(connection: sa.Connection, column: sa.Column[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(sa.select(column, sa.func.count()).group_by(column))}

"""Studies that a finding has raised, and who is to be told.

A job that is done is noted in the same transaction (``note_finding``), judged once by the plugin (``note_judged``), and
what follows from it stands in the ledger as well until it is done: a crash between any two of these loses nothing.

A raise stands until a later reading by the same model no longer finds what raised the study, or a person rejects the
result. It stands also while the study is read again, or could not be: sooner once too often than once too late.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from coread.audit.event import AuditKind
from coread.job import ENDED, Job, JobState, Priority
from coread.ledger.audit import audit_job
from coread.ledger.database import Database, upsert
from coread.ledger.tables import EVENT, FINDING_DUE, JOB, NOTICE, RAISED, job_of

URGENCY = {priority: place for place, priority in enumerate(Priority)}
"""Less is more urgent."""

LABEL = "label"
"""The channel by which Orthanc is told a label."""


NOTICE_KEPT = ("notice_id", "key", "channel", "attempts", "created_at")


class NoticeEvent(StrEnum):
    """What is told."""

    RAISED = "raised"
    ENDED = "ended"


class NoticeState(StrEnum):
    """Where it stands."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    """It was tried for long enough."""
    DROPPED = "dropped"
    """What was to be told had ended before anybody was told."""


@dataclass(frozen=True, kw_only=True)
class Raised:
    """That a finding has raised a study."""

    raise_id: int
    alert: str
    orthanc_id: str
    study_instance_uid: str
    model: str
    job_id: str
    priority: Priority | None
    label: str | None
    words: str
    """What was found."""
    raised_at: datetime
    ended_at: datetime | None = None
    ended_because: str = ""

    def as_json(self) -> dict[str, Any]:
        """The raise as JSON's types. Nothing in it identifies the patient."""
        return {
            "alert": self.alert,
            "model": self.model,
            "job_id": self.job_id,
            "priority": self.priority,
            "label": self.label,
            "words": self.words,
            "raised_at": self.raised_at.isoformat(),
            "ended_at": self.ended_at and self.ended_at.isoformat(),
            "ended_because": self.ended_because,
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An alert that holds for a job's result, and what is to be done."""

    alert: str
    words: str
    priority: Priority | None = None
    label: str | None = None
    channels: Sequence[str] = ()
    """Who is told; the label is told to Orthanc besides."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that somebody is to be told."""

    notice_id: int
    key: str
    """The same however often it is told."""
    channel: str
    event: NoticeEvent
    attempts: int
    created_at: datetime
    of: Raised


class RaisedStudies(Database):
    """The part of the ledger that says which studies are raised."""

    def findings_due(self, *, limit: int = 100) -> list[tuple[Job, Mapping[str, Any]]]:
        """Jobs that are done and whose findings nobody has judged, with their results; the oldest first."""
        due = sa.select(FINDING_DUE.c.job_id).order_by(FINDING_DUE.c.at, FINDING_DUE.c.job_id).limit(limit)
        with self._reading() as connection:
            # Two queries: of a join, SQLite would look through all jobs there ever were.
            job_ids = list(connection.scalars(due))
            rows = connection.execute(sa.select(JOB).where(JOB.c.job_id.in_(job_ids))).mappings()
            found = {row["job_id"]: (job_of(row), row["result"] or {}) for row in rows}
            return [found[job_id] for job_id in job_ids if job_id in found]

    def note_judged(self, job_id: str, verdicts: Sequence[Verdict], *, at: datetime) -> list[Raised]:
        """Raise the job's study by these verdicts, unless the job was judged already or is no longer done.

        What this model had raised the study for and does not find now ends. What it finds again goes on, and nobody is
        told twice. Returns the new raises.
        """
        with self._transaction() as connection:
            return _judged(connection, job_id, verdicts, at=at)

    def note_nothing_to_raise(self, job_ids: Collection[str], *, at: datetime) -> None:
        """Note that jobs were judged and that no alert holds, all in one transaction: so it is with most of them."""
        with self._transaction() as connection:
            for job_id in job_ids:
                _judged(connection, job_id, [], at=at)

    def raised(self, orthanc_ids: Collection[str]) -> dict[str, list[Raised]]:
        """The raises that stand, by study (Orthanc ids), the first first; of studies that are not raised, nothing."""
        query = sa.select(RAISED).where(RAISED.c.orthanc_id.in_(list(orthanc_ids)), RAISED.c.ended_at.is_(None))
        found: dict[str, list[Raised]] = {}
        with self._reading() as connection:
            for row in connection.execute(query.order_by(RAISED.c.raise_id)).mappings():
                found.setdefault(row["orthanc_id"], []).append(_raised_of(row))
        return found

    def raised_ever(self, orthanc_id: str) -> list[Raised]:
        """All raises of a study, those that ended too, the oldest first."""
        query = sa.select(RAISED).where(RAISED.c.orthanc_id == orthanc_id).order_by(RAISED.c.raise_id)
        with self._reading() as connection:
            return [_raised_of(row) for row in connection.execute(query).mappings()]

    # Telling -----------------------------------------------------------------------------------------------------

    def notices_due(self, channel: str, *, at: datetime, limit: int = 20) -> list[Notice]:
        """What is to be told by a channel now, the oldest first. An end is told after what it ends."""
        query = (
            sa.select(*(NOTICE.c[name] for name in (*NOTICE_KEPT, "event")), RAISED)
            .join(RAISED, RAISED.c.raise_id == NOTICE.c.raise_id)
            .where(NOTICE.c.state == NoticeState.WAITING, NOTICE.c.channel == channel, NOTICE.c.not_before <= at)
            .order_by(NOTICE.c.notice_id)
            .limit(limit)
        )
        with self._reading() as connection:
            return [_notice_of(row) for row in connection.execute(query).mappings()]

    def begin_to_tell(self, notice_id: int) -> bool:
        """Record that somebody is about to be told; False if they are not to be told any more.

        It is written before, because what arrived and was not noted as such must be ended where it ends.
        """
        return self._set_notice(notice_id, attempts=NOTICE.c.attempts + 1)

    def note_told(self, notice_id: int) -> None:
        """Record that somebody was told."""
        self._set_notice(notice_id, state=NoticeState.SENT, reason="")

    def note_not_told(self, notice_id: int, *, reason: str, not_before: datetime | None) -> None:
        """Record that an attempt failed, and when the next is due; None: there is none."""
        state = NoticeState.FAILED if not_before is None else NoticeState.WAITING
        values = {"not_before": not_before} if not_before else {}
        self._set_notice(notice_id, state=state, reason=reason, **values)

    def _set_notice(self, notice_id: int, **values: Any) -> bool:
        """Whether it still waits: what was dropped meanwhile stays dropped."""
        with self._transaction() as connection:
            this = (NOTICE.c.notice_id == notice_id, NOTICE.c.state == NoticeState.WAITING)
            return bool(connection.execute(sa.update(NOTICE).where(*this).values(**values)).rowcount)

    def notices(self, orthanc_id: str) -> list[dict[str, Any]]:
        """Who was, or is to be, told of a study, as JSON's types; the oldest first."""
        query = (
            sa.select(NOTICE, RAISED.c.alert)
            .join(RAISED, RAISED.c.raise_id == NOTICE.c.raise_id)
            .where(RAISED.c.orthanc_id == orthanc_id)
            .order_by(NOTICE.c.notice_id)
        )
        names = ("alert", "channel", "event", "state", "reason", "attempts")
        with self._reading() as connection:
            return [{name: row[name] for name in names} for row in connection.execute(query).mappings()]


# Within other transactions --------------------------------------------------------------------------------------------


def note_finding(connection: sa.Connection, job_id: str, *, at: datetime) -> None:
    """Note that a job is done and that its findings are to be judged."""
    upsert(connection, FINDING_DUE, {"job_id": job_id}, {"at": at})


def end_raises(connection: sa.Connection, job_id: str, *, because: str, at: datetime) -> None:
    """End what a job's result has raised its study for; one that was not judged yet raises nothing any more."""
    connection.execute(sa.delete(FINDING_DUE).where(FINDING_DUE.c.job_id == job_id))
    query = sa.select(RAISED).where(RAISED.c.job_id == job_id, RAISED.c.ended_at.is_(None))
    for row in connection.execute(query).mappings().all():
        _end(connection, _raised_of(row), because=because, at=at)


def priority_of_new(connection: sa.Connection, job: Job) -> tuple[Priority, bool]:
    """The priority that a job is recorded with, and whether a person has set it.

    A person's word on a reading holds for the one that takes its place. Otherwise it is what the routes say, or more
    urgent if the study is raised.
    """
    # That a job was superseded stands behind the event that put another in its place.
    of_job = (EVENT.c.job_id == JOB.c.job_id, EVENT.c.to_state != JobState.SUPERSEDED)
    latest = sa.select(sa.func.max(EVENT.c.event_id)).where(*of_job).scalar_subquery()
    before = sa.select(JOB.c.priority, JOB.c.priority_by_person).where(
        JOB.c.orthanc_id == job.orthanc_id, JOB.c.model == job.model
    )
    known = connection.execute(before.order_by(latest.desc()).limit(1)).one_or_none()
    if known is not None and known.priority_by_person:
        return Priority(known.priority), True
    query = sa.select(RAISED.c.priority).where(RAISED.c.orthanc_id == job.orthanc_id, RAISED.c.ended_at.is_(None))
    wanted = [Priority(priority) for priority in connection.scalars(query) if priority]
    return min([job.priority, *wanted], key=URGENCY.__getitem__), False


# ----------------------------------------------------------------------------------------------------------------------


def _judged(connection: sa.Connection, job_id: str, verdicts: Sequence[Verdict], *, at: datetime) -> list[Raised]:
    if not connection.execute(sa.delete(FINDING_DUE).where(FINDING_DUE.c.job_id == job_id)).rowcount:
        return []
    query = sa.select(JOB).where(JOB.c.job_id == job_id, JOB.c.state == JobState.DONE)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return []
    job = job_of(row)
    standing = {each.alert: each for each in _standing_of_model(connection, job)}
    found = {verdict.alert for verdict in verdicts}
    for alert, each in standing.items():
        if alert not in found:
            _end(connection, each, because="a later reading does not find it", at=at)
    new = []
    for verdict in verdicts:
        if known := standing.get(verdict.alert):
            this = RAISED.c.raise_id == known.raise_id
            connection.execute(sa.update(RAISED).where(this).values(job_id=job_id, words=verdict.words))
        else:
            new.append(_raise(connection, job, verdict, at=at))
    for verdict in verdicts:
        if verdict.priority:
            _raise_jobs(connection, job.orthanc_id, verdict.priority)
    return new


def _standing_of_model(connection: sa.Connection, job: Job) -> list[Raised]:
    query = sa.select(RAISED).where(
        RAISED.c.orthanc_id == job.orthanc_id, RAISED.c.model == job.model, RAISED.c.ended_at.is_(None)
    )
    return [_raised_of(row) for row in connection.execute(query).mappings()]


def _raise(connection: sa.Connection, job: Job, verdict: Verdict, *, at: datetime) -> Raised:
    values: dict[str, Any] = {
        "alert": verdict.alert,
        "orthanc_id": job.orthanc_id,
        "study_instance_uid": job.study_instance_uid,
        "model": job.model,
        "job_id": job.job_id,
        "priority": verdict.priority,
        "label": verdict.label,
        "words": verdict.words,
        "raised_at": at,
    }
    (raise_id,) = connection.execute(sa.insert(RAISED).values(values).returning(RAISED.c.raise_id)).one()
    channels = [*([LABEL] if verdict.label else []), *verdict.channels]
    _tell(connection, raise_id, channels, NoticeEvent.RAISED, key=f"{job.job_id}.{raise_id}", at=at)
    audit_job(connection, AuditKind.RAISED, job, at=at, alert=verdict.alert, reason=verdict.words)
    return Raised(raise_id=raise_id, **values)


def _end(connection: sa.Connection, raised: Raised, *, because: str, at: datetime) -> None:
    """Whoever was told is told of the end, and whoever was not, of neither."""
    this = RAISED.c.raise_id == raised.raise_id
    connection.execute(sa.update(RAISED).where(this).values(ended_at=at, ended_because=because))
    of_this = (NOTICE.c.raise_id == raised.raise_id, NOTICE.c.event == NoticeEvent.RAISED)
    # An attempt may have arrived that nobody has heard of: only what was never tried is surely not known.
    never = (*of_this, NOTICE.c.state == NoticeState.WAITING, NOTICE.c.attempts == 0)
    connection.execute(sa.update(NOTICE).where(*never).values(state=NoticeState.DROPPED, reason=because))
    query = sa.select(NOTICE.c.channel).where(*of_this, NOTICE.c.state != NoticeState.DROPPED)
    channels = [each for each in connection.scalars(query) if each != LABEL or not _others_want(connection, raised)]
    tried = (*of_this, NOTICE.c.state == NoticeState.WAITING)
    connection.execute(sa.update(NOTICE).where(*tried).values(state=NoticeState.DROPPED, reason=because))
    _tell(connection, raised.raise_id, channels, NoticeEvent.ENDED, key=f"{raised.job_id}.{raised.raise_id}", at=at)
    row = connection.execute(sa.select(JOB).where(JOB.c.job_id == raised.job_id)).mappings().one_or_none()
    if row is not None:
        audit_job(connection, AuditKind.RAISE_ENDED, job_of(row), at=at, alert=raised.alert, reason=because)


def _others_want(connection: sa.Connection, raised: Raised) -> bool:
    """Whether another finding wants the same label on the study."""
    query = sa.select(RAISED.c.raise_id).where(
        RAISED.c.orthanc_id == raised.orthanc_id,
        RAISED.c.label == raised.label,
        RAISED.c.raise_id != raised.raise_id,
        RAISED.c.ended_at.is_(None),
    )
    return connection.scalar(query.limit(1)) is not None


def _tell(
    connection: sa.Connection, raise_id: int, channels: Iterable[str], event: NoticeEvent, *, key: str, at: datetime
) -> None:
    for channel in channels:
        values = {
            "key": f"{key}.{event}.{channel}",
            "raise_id": raise_id,
            "channel": channel,
            "event": event,
            "state": NoticeState.WAITING,
            "created_at": at,
            "not_before": at,
        }
        connection.execute(sa.insert(NOTICE).values(values))


def _raise_jobs(connection: sa.Connection, orthanc_id: str, priority: Priority) -> None:
    """Make the study's jobs that are not over as urgent as that, if they are less so and no person has said how urgent.

    One that a worker has in hand may wait again.
    """
    lower = [each for each in Priority if URGENCY[each] > URGENCY[priority]]
    connection.execute(
        sa.update(JOB)
        .where(
            JOB.c.orthanc_id == orthanc_id,
            JOB.c.state.not_in(ENDED),
            JOB.c.priority.in_(lower),
            ~JOB.c.priority_by_person,
            ~JOB.c.only_for_runs,
        )
        .values(priority=priority)
    )


def _raised_of(row: sa.RowMapping) -> Raised:
    values = {name: row[name] for name in Raised.__dataclass_fields__}
    values["priority"] = values["priority"] and Priority(values["priority"])
    return Raised(**values)


def _notice_of(row: sa.RowMapping) -> Notice:
    return Notice(**{name: row[name] for name in NOTICE_KEPT}, event=NoticeEvent(row["event"]), of=_raised_of(row))

"""Workitems: those that others have scheduled, which jobs are done for them, and who performs what.

Of a workitem the ledger keeps its state, its identifiers and the name of the model; what a scheduler wrote besides may
speak of the patient, and is kept elsewhere (`coread.plugin.ups.store`). A job of ours is a workitem without a row
here. Whoever claims one claims the job, in one transaction: either a worker reads it, or the performer does.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from coread.audit.event import AuditKind
from coread.job import OUTSIDE, TRANSITIONS, JobState, Priority
from coread.ledger.arrivals import FOR_WORKITEM, mark_arriving
from coread.ledger.audit import audit_job
from coread.ledger.database import Database, upsert
from coread.ledger.jobs import JobRecord, find_job, is_outside, move_job, record_of
from coread.ledger.tables import ARRIVING, EVENT, JOB, JOB_CLAIM, WORKITEM, WORKITEM_CHANGE
from coread.ledger.workitem_links import OPEN, advance_workitems, is_to_start, is_wanted, note_change
from coread.reason_class import ReasonClass
from coread.workitem import (
    FINAL,
    Code,
    Request,
    WorkitemRefused,
    WorkitemState,
    after,
    job_of_uid,
    priority_from,
    state_of_job,
    uid_of_job,
)

BY_REQUEST = "cancelled on request, over UPS-RS"


@dataclass(frozen=True, kw_only=True)
class Workitem:
    """What the ledger knows of a workitem. ``model``: who of ours is to read the study; None: nobody."""

    uid: str
    state: WorkitemState = WorkitemState.SCHEDULED
    priority: str = "MEDIUM"
    study_instance_uid: str | None = None
    model: str | None = None
    job_id: str | None = None
    """The job that is done for it, as long as it follows it; the last one, once it has ended."""
    created_at: datetime
    changed_at: datetime
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """Of one that has ended: the job's state, reason and result."""


@dataclass(frozen=True, kw_only=True)
class JobTimes:
    """When a job was last begun, and when it ended."""

    begun_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class WorkitemChange:
    """A change of state that subscribers are to be told."""

    change_id: int
    uid: str
    state: WorkitemState
    job_state: JobState | None
    at: datetime


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a request is about: a workitem with a row, a job, or a row that follows a job."""

    workitem: sa.RowMapping | None
    record: JobRecord | None

    @property
    def state(self) -> WorkitemState | None:
        if self.workitem is not None:
            return WorkitemState(self.workitem["state"])
        return None if self.record is None else _state_of(self.record)


class Workitems(Database):
    """The part of the ledger that the worklist's interface asks."""

    # Scheduling --------------------------------------------------------------------------------------------------

    def create_workitem(self, workitem: Workitem, *, write: Callable[[], None], at: datetime) -> None:
        """Record a workitem that somebody scheduled. ``write`` stores what the ledger does not keep.

        Raises WorkitemRefused if its UID is taken.
        """
        with self._transaction() as connection:
            after(Request.CREATE, _target(connection, workitem.uid).state)
            values = {name: getattr(workitem, name) for name in Workitem.__dataclass_fields__}
            connection.execute(sa.insert(WORKITEM).values({**values, "outcome": None}))
            note_change(connection, workitem.uid, workitem.state, None, at=at)
            write()

    def update_workitem(
        self,
        uid: str,
        *,
        transaction_uid: str | None,
        values: Mapping[str, Any],
        write: Callable[[], None],
        lease: timedelta,
        by: str = "",
        at: datetime,
    ) -> None:
        """Change a workitem: ``priority``, ``model``, ``study_instance_uid`` in ``values``, the rest by ``write``.

        Raises WorkitemRefused if there is none, it has ended, or it is in progress under another transaction UID.
        """
        with self._transaction() as connection:
            target = _target(connection, uid, locked=True)
            _check_may_update(connection, target, transaction_uid)
            if target.workitem is not None and values:
                connection.execute(sa.update(WORKITEM).where(WORKITEM.c.uid == uid).values(**values))
            record = target.record
            if record is not None and "priority" in values and record.state in (JobState.WAITING, JobState.QUEUED):
                priority = _new_priority(target, record, values["priority"])
                if priority is not record.job.priority:
                    chosen = {"priority": priority, "priority_by_person": True}  # no finding changes it any more
                    connection.execute(sa.update(JOB).where(JOB.c.job_id == record.job.job_id).values(chosen))
                    audit_job(connection, AuditKind.PRIORITISED, record.job, who=by, at=at, was=record.job.priority)
            if target.state is WorkitemState.IN_PROGRESS:
                _renew(connection, target, until=at + lease)
            write()

    def scheduled_models(self, study_instance_uid: str) -> dict[str, list[str]]:
        """Model → the priorities (PS3.3 C.30.1) at which workitems want it to read a study."""
        query = sa.select(WORKITEM.c.model, WORKITEM.c.priority).where(
            is_wanted(), WORKITEM.c.study_instance_uid == study_instance_uid
        )
        found: dict[str, list[str]] = {}
        with self._reading() as connection:
            for model, priority in connection.execute(query.order_by(WORKITEM.c.created_at)):
                found.setdefault(model, []).append(priority)
        return found

    def workitems_to_start(self, *, limit: int) -> list[Workitem]:
        """Workitems whose model has not begun, the oldest first: the study may be here, or not yet."""
        query = sa.select(WORKITEM).where(is_to_start()).order_by(WORKITEM.c.created_at, WORKITEM.c.uid).limit(limit)
        with self._reading() as connection:
            return [_workitem_of(row) for row in connection.execute(query).mappings()]

    def settle_for_workitem(self, orthanc_id: str, *, at: datetime) -> None:
        """Have a study that is here settled again, as workitems ask for a model that has not read it."""
        with self._transaction() as connection:
            known = connection.scalar(sa.select(ARRIVING.c.orthanc_id).where(ARRIVING.c.orthanc_id == orthanc_id))
            if known is None:
                mark_arriving(connection, orthanc_id, change=FOR_WORKITEM, at=at)

    # Performing --------------------------------------------------------------------------------------------------

    def claim_workitem(self, uid: str, *, transaction_uid: str, performer: str, lease: timedelta, at: datetime) -> None:
        """Give a workitem to an outside performer, and its job with it. Raises WorkitemRefused."""
        with self._transaction() as connection:
            target = _target(connection, uid, locked=True)
            after(Request.CLAIM, target.state)
            if target.record is not None:
                _claim_job(connection, target.record, transaction_uid, performer=performer, until=at + lease, at=at)
                return
            values = {"transaction_uid": transaction_uid, "lease_until": at + lease}
            connection.execute(sa.update(WORKITEM).where(WORKITEM.c.uid == uid).values(values))
            advance_workitems(
                connection, WORKITEM.c.uid == uid, WorkitemState.IN_PROGRESS, None, reason="", result={}, at=at
            )

    def end_workitem(
        self,
        uid: str,
        state: WorkitemState,
        *,
        transaction_uid: str,
        missing: Callable[[], Sequence[str]],
        outputs: Sequence[Mapping[str, Any]] = (),
        at: datetime,
    ) -> None:
        """The performer says that it has completed, or cancelled, what it claimed.

        ``missing``: what the final state requirements lack (PS3.4 Table CC.2.5-3). Raises WorkitemRefused.
        """
        with self._transaction() as connection:
            target = _target(connection, uid, locked=True)
            owned = _is_owned(connection, target, transaction_uid)
            after(_ending(state, owned=owned), target.state)
            if lacking := missing():
                raise WorkitemRefused(
                    Code.FINAL_STATE_REQUIREMENTS,
                    f"expected before {state}: {', '.join(lacking)}; update the workitem first (PS3.4 Table CC.2.5-3)",
                )
            result = {"sop_instance_uids": [], "outputs": [dict(each) for each in outputs]}
            if target.record is not None:
                _end_job(connection, target.record, state, result=result, at=at)
            else:
                advance_workitems(
                    connection,
                    WORKITEM.c.uid == uid,
                    state,
                    None,
                    reason=f"its performer says {state}",
                    result=result,
                    at=at,
                )

    def request_cancel(self, uid: str, *, by: str, may_tell: Callable[[], bool], at: datetime) -> WorkitemState:
        """Cancel what nobody, or one of our workers, performs; otherwise the performer is to be told.

        ``may_tell``: whether somebody listens who may be the performer. Returns the state afterwards; IN PROGRESS: the
        performer decides. Raises WorkitemRefused.
        """
        with self._transaction() as connection:
            target = _target(connection, uid, locked=True)
            state = after(Request.REQUEST_CANCEL, target.state)
            record = target.record
            if record is not None and not is_outside(record) and not _is_wanted_besides(connection, target):
                if JobState.CANCELLED not in TRANSITIONS[record.state]:
                    raise WorkitemRefused(
                        Code.PERFORMER_GOES_ON, "the results are being stored: it is too late to cancel"
                    )
                move_job(
                    connection,
                    record,
                    JobState.CANCELLED,
                    reason=BY_REQUEST,
                    reason_class=ReasonClass.OUTSIDE,
                    at=at,
                    values={"worker": None},
                )
                audit_job(connection, AuditKind.CANCELLED, record.job, who=by, at=at, was=record.state)
                return WorkitemState.CANCELED
            is_claimed = (record is not None and is_outside(record)) or (
                target.workitem is not None and target.workitem["transaction_uid"] is not None
            )
            if target.state is WorkitemState.IN_PROGRESS and is_claimed:
                if not may_tell():
                    raise WorkitemRefused(
                        Code.PERFORMER_UNREACHABLE, "nobody subscribes to this workitem: its performer cannot be told"
                    )
                return state
            # It follows no job any more: that goes on for others.
            connection.execute(sa.update(WORKITEM).where(WORKITEM.c.uid == uid).values(job_id=None))
            advance_workitems(
                connection, WORKITEM.c.uid == uid, WorkitemState.CANCELED, None, reason=BY_REQUEST, result={}, at=at
            )
            return WorkitemState.CANCELED

    def release_workitems(self, *, at: datetime) -> list[str]:
        """Take back what outside performers have claimed, and not spoken of in time, as far as a model of ours can do
        it instead. Jobs are taken back as from a worker. The UIDs.
        """
        query = sa.select(WORKITEM.c.uid).where(
            WORKITEM.c.state == WorkitemState.IN_PROGRESS,
            WORKITEM.c.lease_until < at,
            WORKITEM.c.job_id.is_(None),
            WORKITEM.c.model.is_not(None),
            WORKITEM.c.transaction_uid.is_not(None),
        )
        with self._reading() as connection:
            if connection.scalar(query.limit(1)) is None:
                return []
        with self._transaction() as connection:
            uids = list(connection.scalars(query.with_for_update(skip_locked=True)))
            released = sa.update(WORKITEM).where(WORKITEM.c.uid.in_(uids))
            connection.execute(released.values(transaction_uid=None, lease_until=None))
            return uids

    # Looking -----------------------------------------------------------------------------------------------------

    def workitem(self, uid: str) -> Workitem | None:
        """What somebody scheduled under this UID, or None."""
        with self._reading() as connection:
            row = connection.execute(sa.select(WORKITEM).where(WORKITEM.c.uid == uid)).mappings().one_or_none()
            return None if row is None else _workitem_of(row)

    def workitems(
        self,
        *,
        states: Collection[WorkitemState] = (),
        priority: str | None = None,
        studies: Collection[str] | None = None,
        limit: int,
    ) -> list[Workitem]:
        """What was scheduled, the newest first; in ``states``, with ``priority``, of ``studies`` (UIDs), if given."""
        query = sa.select(WORKITEM).order_by(WORKITEM.c.created_at.desc(), WORKITEM.c.uid).limit(limit)
        if states:
            query = query.where(WORKITEM.c.state.in_(states))
        if priority is not None:
            query = query.where(WORKITEM.c.priority == priority)
        if studies is not None:
            query = query.where(WORKITEM.c.study_instance_uid.in_(studies))
        with self._reading() as connection:
            return [_workitem_of(row) for row in connection.execute(query).mappings()]

    def jobs_as_workitems(
        self,
        *,
        states: Collection[WorkitemState] = (),
        priority: str | None = None,
        studies: Collection[str] | None = None,
        limit: int,
    ) -> list[JobRecord]:
        """The jobs that are workitems of their own, the newest first: those that no scheduled one stands for."""
        stood_for = sa.exists().where(WORKITEM.c.job_id == JOB.c.job_id, WORKITEM.c.run == JOB.c.runs)
        query = sa.select(JOB).where(~stood_for)
        if states:
            query = query.where(sa.or_(*(_is_in(state) for state in states)))
        if priority is not None:
            query = query.where(JOB.c.priority == priority_from(priority))
        if studies is not None:
            query = query.where(JOB.c.study_instance_uid.in_(studies))
        query = query.order_by(JOB.c.created_at.desc(), JOB.c.job_id).limit(limit)
        with self._reading() as connection:
            return [record_of(row) for row in connection.execute(query).mappings()]

    def times_of_jobs(self, job_ids: Collection[str]) -> dict[str, JobTimes]:
        """When jobs were last begun and when they ended."""
        query = sa.select(EVENT.c.job_id, EVENT.c.to_state, sa.func.max(EVENT.c.at))
        query = query.where(EVENT.c.job_id.in_(list(job_ids))).group_by(EVENT.c.job_id, EVENT.c.to_state)
        begun: dict[str, datetime] = {}
        ended: dict[str, datetime] = {}
        with self._reading() as connection:
            for job_id, state, at in connection.execute(query):
                if state == JobState.RUNNING:
                    begun[job_id] = at
                elif state_of_job(JobState(state), attempts=1) in FINAL:
                    ended[job_id] = max(at, ended.get(job_id, at))
        return {each: JobTimes(begun_at=begun.get(each), ended_at=ended.get(each)) for each in job_ids}

    # Telling -----------------------------------------------------------------------------------------------------

    def workitem_changes(self, *, limit: int) -> list[WorkitemChange]:
        """Changes of state that subscribers were not told, the oldest first."""
        query = sa.select(WORKITEM_CHANGE).order_by(WORKITEM_CHANGE.c.change_id).limit(limit)
        with self._reading() as connection:
            return [_change_of(row) for row in connection.execute(query).mappings()]

    def note_changes_told(self, changes: Collection[WorkitemChange]) -> None:
        """Record that they were told."""
        told = WORKITEM_CHANGE.c.change_id.in_([change.change_id for change in changes])
        with self._transaction() as connection:
            connection.execute(sa.delete(WORKITEM_CHANGE).where(told))


def _is_in(state: WorkitemState) -> sa.ColumnElement[bool]:
    """The jobs whose workitem is in a state."""
    waits = JOB.c.state.in_((JobState.WAITING, JobState.QUEUED))
    if state is WorkitemState.SCHEDULED:
        return sa.and_(waits, JOB.c.attempts == 0)
    of_state = [each for each in JobState if state_of_job(each, attempts=1) is state]
    if state is WorkitemState.IN_PROGRESS:
        return sa.or_(sa.and_(waits, JOB.c.attempts > 0), JOB.c.state.in_((JobState.RUNNING, JobState.STORING)))
    return JOB.c.state.in_(of_state)


def _state_of(record: JobRecord) -> WorkitemState:
    return state_of_job(record.state, attempts=record.attempts)


def _target(connection: sa.Connection, uid: str, *, locked: bool = False) -> _Target:
    """What a UID names. The job is locked first, as wherever a job is changed that workitems follow."""
    query = sa.select(WORKITEM).where(WORKITEM.c.uid == uid)
    job_id = connection.scalar(sa.select(WORKITEM.c.job_id).where(WORKITEM.c.uid == uid, WORKITEM.c.state.in_(OPEN)))
    run = job_of_uid(uid)
    record = find_job(connection, job_id or (run.job_id if run else ""), locked=locked)
    row = connection.execute(query.with_for_update() if locked else query).mappings().one_or_none()
    if row is not None:
        follows = record if record is not None and row["job_id"] == record.job.job_id else None
        return _Target(workitem=row, record=follows if row["state"] in OPEN else None)
    is_this_run = record is not None and run is not None and record.runs == run.run
    return _Target(workitem=None, record=record if is_this_run else None)


def _is_owned(connection: sa.Connection, target: _Target, transaction_uid: str | None) -> bool:
    """Whether a transaction UID is the one that the workitem was claimed with."""
    if transaction_uid is None:
        return False
    record = target.record
    if record is None:
        return target.workitem is not None and target.workitem["transaction_uid"] == transaction_uid
    claimed = connection.execute(sa.select(JOB_CLAIM).where(JOB_CLAIM.c.job_id == record.job.job_id)).mappings()
    claim = claimed.one_or_none()
    return (
        claim is not None
        and is_outside(record)
        and (claim["attempts"], claim["transaction_uid"]) == (record.attempts, transaction_uid)
    )


def _check_may_update(connection: sa.Connection, target: _Target, transaction_uid: str | None) -> None:
    """PS3.4 CC.2.6.3: one that has ended never; one in progress by its performer; one that is scheduled by anybody."""
    if target.state is None:
        raise WorkitemRefused(Code.NO_SUCH_WORKITEM, "there is no such workitem")
    if target.state in FINAL:
        raise WorkitemRefused(Code.MAY_NO_LONGER_BE_UPDATED, f"the workitem is {target.state}")
    if target.state is WorkitemState.IN_PROGRESS and not _is_owned(connection, target, transaction_uid):
        raise WorkitemRefused(
            Code.WRONG_TRANSACTION_UID, "expected the Transaction UID that the workitem was claimed with"
        )
    if target.state is WorkitemState.SCHEDULED and transaction_uid is not None:
        raise WorkitemRefused(Code.NOT_IN_PROGRESS, "expected no Transaction UID, as nobody has claimed the workitem")


def _is_wanted_besides(connection: sa.Connection, target: _Target) -> bool:
    """Whether a route, or another workitem, wants the job that a scheduled workitem follows."""
    workitem = target.workitem
    if workitem is None:
        return False
    others = sa.select(WORKITEM.c.uid).where(
        WORKITEM.c.job_id == workitem["job_id"], WORKITEM.c.uid != workitem["uid"], WORKITEM.c.state.in_(OPEN)
    )
    return not workitem["is_cause"] or connection.scalar(others.limit(1)) is not None


def _new_priority(target: _Target, record: JobRecord, asked: str) -> Priority:
    """A job's priority after an update; a workitem that shares it with a route makes it more urgent, never less."""
    priority = priority_from(asked) or record.job.priority
    if target.workitem is None or target.workitem["is_cause"]:
        return priority
    return min(priority, record.job.priority, key=list(Priority).index)


def _ending(state: WorkitemState, *, owned: bool) -> Request:
    if state is WorkitemState.COMPLETED:
        return Request.COMPLETE if owned else Request.COMPLETE_NOT_OWNED
    return Request.CANCEL if owned else Request.CANCEL_NOT_OWNED


def _claim_job(
    connection: sa.Connection,
    record: JobRecord,
    transaction_uid: str,
    *,
    performer: str,
    until: datetime,
    at: datetime,
) -> None:
    """Let a job be an outside performer's, as it would be a worker's."""
    if record.state is JobState.WAITING:
        move_job(connection, record, JobState.QUEUED, reason="", at=at)
        record = find_job(connection, record.job.job_id) or record
    attempts = record.attempts + 1
    values = {"worker": f"{OUTSIDE} {performer}".strip(), "lease_until": until, "attempts": attempts}
    if not move_job(
        connection, record, JobState.RUNNING, reason="an outside performer has claimed it", at=at, values=values
    ):
        raise WorkitemRefused(Code.ALREADY_IN_PROGRESS, "a worker was first")
    audit_job(connection, AuditKind.CLAIMED_OUTSIDE, record.job, who=performer, at=at, was=record.state)
    claim = {"attempts": attempts, "transaction_uid": transaction_uid}
    upsert(connection, JOB_CLAIM, {"job_id": record.job.job_id}, claim)


def _end_job(
    connection: sa.Connection, record: JobRecord, state: WorkitemState, *, result: Mapping[str, Any], at: datetime
) -> None:
    if state is WorkitemState.CANCELED:
        reason = "its outside performer has cancelled it"
        move_job(connection, record, JobState.CANCELLED, reason=reason, reason_class=ReasonClass.OUTSIDE, at=at)
        return
    reason = "its outside performer has completed it"
    move_job(connection, record, JobState.STORING, reason=reason, at=at, values={"result": dict(result)})
    storing = find_job(connection, record.job.job_id)
    if storing is not None:
        move_job(connection, storing, JobState.DONE, reason=reason, reason_class=ReasonClass.OUTSIDE, at=at)


def _renew(connection: sa.Connection, target: _Target, *, until: datetime) -> None:
    """A performer that updates its workitem lives."""
    if target.record is not None:
        this = JOB.c.job_id == target.record.job.job_id
        connection.execute(sa.update(JOB).where(this).values(lease_until=until))
    elif target.workitem is not None:
        this = WORKITEM.c.uid == target.workitem["uid"]
        connection.execute(sa.update(WORKITEM).where(this).values(lease_until=until))


def _workitem_of(row: sa.RowMapping) -> Workitem:
    values = {name: row[name] for name in Workitem.__dataclass_fields__}
    return Workitem(**{**values, "state": WorkitemState(row["state"]), "outcome": row["outcome"] or {}})


def _change_of(row: sa.RowMapping) -> WorkitemChange:
    return WorkitemChange(
        change_id=row["change_id"],
        uid=row["uid"] or uid_of_job(row["job_id"], row["run"]),
        state=WorkitemState(row["state"]),
        job_state=None if row["job_state"] is None else JobState(row["job_state"]),
        at=row["at"],
    )

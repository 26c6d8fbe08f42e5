"""What a change of a job's state means for workitems: those that the job is done for follow it, and each change is
written down to be told to subscribers. Every function is called inside the transaction that changes the job.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from coread.job import Job, JobState
from coread.ledger.tables import WORKITEM, WORKITEM_CHANGE
from coread.workitem import FINAL, WorkitemState, state_of_job

KEPT_OF_A_RESULT = ("sop_instance_uids", "sop_class_uids", "model_version", "outputs")
"""What an ended workitem keeps of the job's result: the job may run again, and then has another one."""

OPEN = [state for state in WorkitemState if state not in FINAL]


def note_job_recorded(connection: sa.Connection, job_id: str, run: int, *, at: datetime) -> None:
    """A job was made, or runs again: a workitem is scheduled."""
    _note(connection, job_id, run, WorkitemState.SCHEDULED, JobState.WAITING, at=at)


def follow_job(
    connection: sa.Connection,
    job_id: str,
    run: int,
    old: JobState,
    new: JobState,
    *,
    attempts: tuple[int, int],
    reason: str,
    result: Mapping[str, Any],
    at: datetime,
) -> None:
    """A job went from a state to another. ``attempts``: how often it was begun, before this change and after."""
    before = state_of_job(old, attempts=attempts[0])
    state = state_of_job(new, attempts=attempts[1])
    if before not in FINAL and state is not before:
        _note(connection, job_id, run, state, new, at=at)
    of_job = (WORKITEM.c.job_id == job_id, WORKITEM.c.state.in_(OPEN))
    if new is JobState.SUPERSEDED:
        # The study is settled again: the job that takes this one's place is linked then.
        connection.execute(sa.update(WORKITEM).where(*of_job).values(job_id=None))
    elif state is not WorkitemState.SCHEDULED:
        advance_workitems(connection, sa.and_(*of_job), state, new, reason=reason, result=result, at=at)


def is_wanted() -> sa.ColumnElement[bool]:
    """Workitems that want a model and are nobody else's, whether or not they follow a job."""
    return sa.and_(
        WORKITEM.c.model.is_not(None),
        WORKITEM.c.study_instance_uid.is_not(None),
        WORKITEM.c.transaction_uid.is_(None),
        WORKITEM.c.state.in_(OPEN),
    )


def is_to_start() -> sa.ColumnElement[bool]:
    """Those that follow no job. One that is IN PROGRESS was begun before."""
    return sa.and_(is_wanted(), WORKITEM.c.job_id.is_(None))


def lock_wanting(connection: sa.Connection, job: Job) -> bool:
    """Whether workitems want what a job does; nobody can claim them before the transaction ends."""
    of_job = (WORKITEM.c.study_instance_uid == job.study_instance_uid, WORKITEM.c.model == job.model)
    return bool(connection.scalars(sa.select(WORKITEM.c.uid).where(is_wanted(), *of_job).with_for_update()).all())


def lock_workitems_to_start(connection: sa.Connection, job: Job) -> list[str]:
    """The priorities of the workitems that want what a job does; nobody can claim them before the transaction ends."""
    return list(connection.scalars(sa.select(WORKITEM.c.priority).where(_wants(job)).with_for_update()))


def link_workitems(
    connection: sa.Connection,
    job: Job,
    state: JobState,
    *,
    run: int,
    is_cause: bool,
    attempts: int,
    reason: str,
    result: Mapping[str, Any],
    at: datetime,
) -> None:
    """Have the workitems that want what a job does follow it from now on; they take over its state.

    ``is_cause``: whether there is a job because of them alone; no route gives it.
    """
    values = {"job_id": job.job_id, "run": run, "is_cause": is_cause}
    connection.execute(sa.update(WORKITEM).where(_wants(job)).values(values))
    now = state_of_job(state, attempts=attempts)
    if now is not WorkitemState.SCHEDULED:
        follows = sa.and_(WORKITEM.c.job_id == job.job_id, WORKITEM.c.state.in_(OPEN))
        advance_workitems(connection, follows, now, state, reason=reason, result=result, at=at)


def _wants(job: Job) -> sa.ColumnElement[bool]:
    return sa.and_(
        is_to_start(), WORKITEM.c.study_instance_uid == job.study_instance_uid, WORKITEM.c.model == job.model
    )


def advance_workitems(
    connection: sa.Connection,
    which: sa.ColumnElement[bool],
    state: WorkitemState,
    job_state: JobState | None,
    *,
    reason: str,
    result: Mapping[str, Any],
    at: datetime,
) -> None:
    """Bring workitems to a state, by way of IN PROGRESS, each step to be told."""
    query = sa.select(WORKITEM.c.uid, WORKITEM.c.state).where(which).with_for_update()
    for uid, before in connection.execute(query).all():
        if before == state:
            continue
        if before == WorkitemState.SCHEDULED and state in FINAL:
            note_change(connection, uid, WorkitemState.IN_PROGRESS, job_state, at=at)
        values: dict[str, Any] = {"state": state, "changed_at": at}
        if state in FINAL:
            kept = {name: result[name] for name in KEPT_OF_A_RESULT if name in result}
            values |= {
                "outcome": {"job_state": job_state, "reason": reason, "result": kept},
                "lease_until": None,
            }
        connection.execute(sa.update(WORKITEM).where(WORKITEM.c.uid == uid).values(values))
        note_change(connection, uid, state, job_state, at=at)


def note_change(
    connection: sa.Connection, uid: str, state: WorkitemState, job_state: JobState | None, *, at: datetime
) -> None:
    """Write down that a workitem has another state, to be told."""
    connection.execute(sa.insert(WORKITEM_CHANGE).values(uid=uid, state=state, job_state=job_state, at=at))


def _note(
    connection: sa.Connection, job_id: str, run: int, state: WorkitemState, job_state: JobState, *, at: datetime
) -> None:
    values = {"job_id": job_id, "run": run, "state": state, "job_state": job_state, "at": at}
    connection.execute(sa.insert(WORKITEM_CHANGE).values(values))

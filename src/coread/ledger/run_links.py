"""What archive runs have to do with the jobs of a study. Every function is called inside another's transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from coread.archive_run import IN_FLIGHT, RUN_ENDED, STUDY_ENDED, Copy, RunState, RunStudyState
from coread.audit.event import AuditKind
from coread.job import Job, JobState
from coread.ledger.audit import write_audit
from coread.ledger.tables import ARCHIVE_RUN, JOB, RUN_JOB, RUN_STUDY


@dataclass(frozen=True, kw_only=True)
class RunLink:
    """A run's study that is being settled, and the models that read it for the run."""

    run_id: str
    position: int
    models: tuple[str, ...]
    is_retry: bool = False
    """Whether a person has asked to try it again: a job that was refused runs again, too."""
    is_first: bool = True
    """Whether its jobs are settled for the first time in this attempt: one that has failed runs again."""
    are_there: bool = True
    """Whether any of the models is installed: else the study ends without a job."""


def standing_instead(connection: sa.Connection, job: Job) -> str | None:
    """The id of a job by which the same version of the model has read, or is to read, the same instances, whatever for:
    nothing is read twice because a run wants other objects of it.
    """
    same = (JOB.c.orthanc_id == job.orthanc_id, JOB.c.model == job.model, JOB.c.model_version == job.model_version)
    query = sa.select(JOB.c.job_id).where(
        *same, JOB.c.fingerprint == job.fingerprint, JOB.c.state != JobState.SUPERSEDED, JOB.c.job_id != job.job_id
    )
    return connection.scalar(query.order_by(JOB.c.created_at.desc()).limit(1))


def link_run(connection: sa.Connection, link: RunLink, jobs: Mapping[str, str], *, at: datetime) -> None:
    """Have a run's study follow the jobs (model → job id) that read it; those that it followed before it does not."""
    job_ids = [jobs[model] for model in link.models if model in jobs]
    this = (RUN_STUDY.c.run_id == link.run_id, RUN_STUDY.c.position == link.position)
    state = connection.scalar(sa.select(RUN_STUDY.c.state).where(*this).with_for_update())
    if state not in (RunStudyState.HERE, RunStudyState.READING) or (link.are_there and not job_ids):
        return
    of_study = (RUN_JOB.c.run_id == link.run_id, RUN_JOB.c.position == link.position)
    known = set(connection.scalars(sa.select(RUN_JOB.c.job_id).where(*of_study)))
    if left := known.difference(job_ids):
        connection.execute(sa.delete(RUN_JOB).where(*of_study, RUN_JOB.c.job_id.in_(left)))
    for job_id in dict.fromkeys(job_ids):
        if job_id not in known:
            row = {"run_id": link.run_id, "position": link.position, "job_id": job_id}
            connection.execute(sa.insert(RUN_JOB).values(row))
    if state == RunStudyState.HERE:
        move_study(connection, link.run_id, link.position, {RunStudyState.HERE}, RunStudyState.READING, at=at)


def move_study(
    connection: sa.Connection,
    run_id: str,
    position: int,
    old: Collection[RunStudyState],
    new: RunStudyState,
    *,
    at: datetime,
    **values: Any,
) -> bool:
    """Change a study's state and what is counted of its run; False if it is in none of the states ``old``."""
    this = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.position == position)
    before = connection.scalar(sa.select(RUN_STUDY.c.state).where(*this).with_for_update())
    if before is None or before not in old:
        return False
    connection.execute(sa.update(RUN_STUDY).where(*this).values(state=new, changed_at=at, **values))
    count(connection, run_id, {RunStudyState(before): -1, new: 1} if before != new else {}, at=at)
    return True


def count(connection: sa.Connection, run_id: str, changes: Mapping[RunStudyState, int], *, at: datetime) -> None:
    """Change what is counted of a run. It is over with its last study."""
    this = ARCHIVE_RUN.c.run_id == run_id
    if changes:
        shifted = {state.value: ARCHIVE_RUN.c[state.value] + by for state, by in changes.items()}
        connection.execute(sa.update(ARCHIVE_RUN).where(this).values(shifted))
    if not STUDY_ENDED.isdisjoint(changes):
        end_if_over(connection, run_id, at=at)


def end_if_over(connection: sa.Connection, run_id: str, *, at: datetime) -> None:
    """Record that a run is over, if it is."""
    row = connection.execute(sa.select(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id)).mappings().one()
    is_loading = row["state"] == RunState.LOADING
    if is_loading or row["ended_at"] is not None or any(row[state.value] for state in {RunStudyState.DUE, *IN_FLIGHT}):
        return
    values: dict[str, Any] = {"ended_at": at, "waits_for": ""}
    if row["state"] not in RUN_ENDED:
        values |= {"state": RunState.FINISHED, "reason": ""}
    connection.execute(sa.update(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id).values(values))
    if row["state"] not in RUN_ENDED:
        counts = {state.value: row[state.value] for state in STUDY_ENDED}
        write_audit(connection, AuditKind.RUN_FINISHED, at=at, details={"run_id": run_id, "counts": counts})


def share_copies(connection: sa.Connection, study_instance_uid: str) -> None:
    """Record that somebody else has sent of a study, or wants it, too: what runs have brought of it stays."""
    ours = (RUN_STUDY.c.study_instance_uid == study_instance_uid, RUN_STUDY.c.copy == Copy.OURS)
    connection.execute(sa.update(RUN_STUDY).where(*ours).values(copy=Copy.SHARED))


def linked_jobs(connection: sa.Connection, run_id: str, positions: Sequence[int]) -> dict[int, list[str]]:
    """Position → ids of the jobs that read that study of a run."""
    query = sa.select(RUN_JOB.c.position, RUN_JOB.c.job_id).where(
        RUN_JOB.c.run_id == run_id, RUN_JOB.c.position.in_(positions)
    )
    found: dict[int, list[str]] = {}
    for position, job_id in connection.execute(query.order_by(RUN_JOB.c.position, RUN_JOB.c.job_id)):
        found.setdefault(position, []).append(job_id)
    return found

"""The jobs: which are due, who does them, how they ended.

A free worker takes the most urgent job that is queued for it, whichever one it was rung for: so a stat study is next,
whatever waits, with any broker. `stat` goes before `routine`, and that before `batch`; of equals, the oldest is first.
Batch work is never starved: once in ``patience`` one of its jobs goes before the routine ones.

A worker that is busy may fetch the study of the job that it would get next (``look_ahead``). That claims nothing: whose
the job becomes is decided when somebody is free. Only among equals, the others leave it to that worker for a while.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from coread.audit.event import AuditKind, Sender
from coread.job import ENDED, LEASED, OUTSIDE, STANDING, TRANSITIONS, Job, JobState, Priority
from coread.ledger.arrivals import FOR_WORKITEM, ArrivingStudy, is_still, mark_arriving
from coread.ledger.audit import audit_job, audit_move, audit_received, audit_withdrawn
from coread.ledger.database import Database, require_this_form, upsert
from coread.ledger.deliveries import is_to_be_delivered, open_deliveries, withdraw_deliveries
from coread.ledger.raised import note_finding, priority_of_new
from coread.ledger.reviews import hold_back_rejected
from coread.ledger.run_links import RunLink, link_run, standing_instead
from coread.ledger.tables import ARRIVING, EVENT, JOB, LOOKED_AHEAD, OUTDATED, QUEUE, job_of
from coread.ledger.workitem_links import (
    follow_job,
    link_workitems,
    lock_wanting,
    lock_workitems_to_start,
    note_job_recorded,
)
from coread.reason_class import ReasonClass
from coread.workitem import priority_from

PUBLISHED_AHEAD = 256
"""How many jobs of one queue and priority are published at a time. More would only fill the broker."""

BATCH_PATIENCE = timedelta(minutes=5)
"""A batch job that has waited this long goes before routine ones, if none of its queue has been taken for as long."""

LEFT_TO_ANOTHER = timedelta(minutes=1)
"""For so long, a job whose study another worker has fetched comes after its equals: longer than most readings take, and
short enough that the oldest is not overtaken for long."""

STORED_BY_THEN = timedelta(minutes=5)
"""A worker whose job is superseded while it stores results has stored them, and taken them away again, or has died."""

FALLEN = frozenset({JobState.SUPERSEDED, JobState.FAILED, JobState.CANCELLED})
"""States of a job whose results, if any were stored, must not stay in the archive."""

SILENT = "its worker fell silent"


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One change of a job's state."""

    at: datetime
    from_state: JobState | None
    to_state: JobState
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The event as JSON's types."""
        return {"at": self.at.isoformat(), "from": self.from_state, "to": self.to_state, "reason": self.reason}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "JobEvent":
        """The event that ``as_json`` gave."""
        before = values["from"]
        return cls(
            at=datetime.fromisoformat(values["at"]),
            from_state=None if before is None else JobState(before),
            to_state=JobState(values["to"]),
            reason=values["reason"],
        )


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job and where it stands. ``result`` is what the worker wrote down: findings, timings, UIDs of the results."""

    job: Job
    state: JobState
    reason: str
    attempts: int
    silences: int = 0
    """How many of the attempts ended because the worker fell silent."""
    worker: str | None = None
    """Who does it, or did it last."""
    result: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 0
    """How often it was made to run again after it had ended."""

    @property
    def result_uids(self) -> frozenset[str]:
        """SOP Instance UIDs of the result objects; empty until they are made."""
        return frozenset(self.result.get("sop_instance_uids", ()))

    def as_json(self) -> dict[str, Any]:
        """The record as JSON's types. It holds UIDs, findings and reasons, and nothing that identifies the patient."""
        return {
            **self.job.as_json(),
            "state": self.state,
            "reason": self.reason,
            "attempts": self.attempts,
            "silences": self.silences,
            "worker": self.worker,
            "result": dict(self.result),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "JobRecord":
        """The record that ``as_json`` gave."""
        return cls(
            job=Job.from_json({name: values[name] for name in Job.__dataclass_fields__}),
            state=JobState(values["state"]),
            reason=values["reason"],
            attempts=values["attempts"],
            silences=values["silences"],
            worker=values["worker"],
            result=values["result"],
        )


class Jobs(Database):
    """The part of the ledger that says what is to be done and what was done."""

    # Recording ---------------------------------------------------------------------------------------------------

    def settle(
        self,
        study: ArrivingStudy,
        jobs: Sequence[Job],
        *,
        present_uids: Collection[str],
        done_before: Collection[str] | None = None,
        fingerprint: str | None = None,
        study_instance_uid: str | None = None,
        senders: Sequence[Sender] = (),
        at: datetime,
        because: str = "the study is complete",
        for_workitems: Collection[str] = (),
        for_runs: Collection[str] = (),
        links: Sequence[RunLink] = (),
    ) -> None:
        """Record the jobs of a complete study and who sent it, and take its arrival mark away.

        A job that is already known is not recorded again. It is reopened if the study has changed back, if it was
        refused or has failed and the study was sent again, or if its results are no longer among ``present_uids`` (the
        SOP Instance UIDs in the archive) and it was done before those were listed (``done_before``: ids of such jobs;
        None: any). Other jobs of the same model on this study are superseded. So are those of models that do not read
        it any more, if the study has changed: its ``fingerprint``, if given, is not theirs. The mark stays if the study
        has changed meanwhile.

        ``for_workitems``: ids of the jobs that no route gives, but workitems; those that nobody wants any more are left
        out. ``for_runs``: ids of the jobs that nobody but archive runs wants. One that is done is not done again for a
        run, nor one of the same model version for other objects. ``links``: the runs' studies that follow the jobs.
        """
        with self._transaction() as connection:
            if study_instance_uid is not None:
                audit_received(connection, study_instance_uid, senders, at=at)
            _lock_jobs(connection, study.orthanc_id)
            jobs = [job for job in jobs if job.job_id not in for_workitems or _is_wanted(connection, job)]
            of_models = {job.model: job.job_id for job in jobs}
            for job in jobs:
                if job.job_id in for_runs:
                    of_models[job.model] = _record_for_runs(connection, job, links, at=at)
                    continue
                may_reopen = done_before is None or job.job_id in done_before
                _record(
                    connection,
                    job,
                    present_uids=present_uids if may_reopen else None,
                    is_sent_again=study.last_change != FOR_WORKITEM,
                    at=at,
                    because=because,
                )
                for other in _others(connection, job):
                    _supersede(connection, other, reason="the study has changed", at=at)
                _link_workitems(connection, job, is_cause=job.job_id in for_workitems, at=at)
            for link in links:
                link_run(connection, link, of_models, at=at)
            if fingerprint is not None:
                _supersede_left_over(connection, study.orthanc_id, jobs, fingerprint=fingerprint, at=at)
            connection.execute(sa.delete(ARRIVING).where(is_still(study)))

    def done_jobs(self, orthanc_id: str) -> frozenset[str]:
        """Ids of the jobs of a study that are done."""
        query = sa.select(JOB.c.job_id).where(JOB.c.orthanc_id == orthanc_id, JOB.c.state == JobState.DONE)
        with self._reading() as connection:
            return frozenset(connection.scalars(query))

    def has_jobs(self, orthanc_id: str) -> bool:
        """Whether a study was ever read, or to be read."""
        with self._reading() as connection:
            return connection.scalar(sa.select(JOB.c.job_id).where(JOB.c.orthanc_id == orthanc_id).limit(1)) is not None

    def replan(self, versions: Mapping[str, str], *, at: datetime) -> list[str]:
        """Have the studies settled again whose jobs wait for a model, or a version of it, that is not in force.

        ``versions``: name → version of those that are. The ids of the jobs, which are superseded.
        """
        with self._transaction() as connection:
            query = sa.select(JOB).where(JOB.c.state.in_((JobState.WAITING, JobState.QUEUED))).with_for_update()
            records = [_record_of(row) for row in connection.execute(query).mappings()]
            stale = [record for record in records if versions.get(record.job.model) != record.job.model_version]
            for record in stale:
                reason = "its model has another version now"
                _supersede(connection, record, reason=reason, reason_class=ReasonClass.MODEL_CHANGED, at=at)
                mark_arriving(connection, record.job.orthanc_id, change=0, at=at)
        return [record.job.job_id for record in stale]

    # Publishing --------------------------------------------------------------------------------------------------

    def reclaim(self, *, at: datetime, attempts: int) -> list[str]:
        """Let the jobs wait again whose worker's lease has ended; those that this has befallen ``attempts`` times have
        failed. Their ids.
        """
        with self._transaction() as connection:
            query = sa.select(JOB).where(JOB.c.state.in_(LEASED), JOB.c.lease_until < at)
            rows = connection.execute(query.with_for_update(skip_locked=True))
            expired = [_record_of(row) for row in rows.mappings()]
            for record in expired:
                silences = record.silences + 1
                state, reason = JobState.WAITING, SILENT
                if silences >= attempts:
                    state, reason = JobState.FAILED, f"{SILENT} {silences} times; see the worker's log"
                values = {"worker": None, "silences": silences}
                _move(connection, record, state, reason=reason, reason_class=ReasonClass.SILENT, at=at, values=values)
        return [record.job.job_id for record in expired]

    def queue_due(self, *, at: datetime, ahead: int = PUBLISHED_AHEAD) -> list[Job]:
        """Record that the jobs that are due are being published, and return them, the most urgent first.

        Of each queue and priority, ``ahead`` jobs at most are published and not yet taken.
        """
        with self._transaction() as connection:
            is_due = (JOB.c.state == JobState.WAITING, JOB.c.not_before <= at)
            if connection.scalar(sa.select(JOB.c.job_id).where(*is_due).limit(1)) is None:
                return []
            queues = connection.scalars(sa.select(QUEUE.c.queue).order_by(QUEUE.c.queue)).all()
            found: list[Job] = []
            for priority in Priority:
                for queue in queues:
                    place = (JOB.c.queue == queue, JOB.c.priority == priority)
                    queued = sa.select(sa.func.count()).where(*place, JOB.c.state == JobState.QUEUED)
                    room = ahead - (connection.scalar(queued) or 0)
                    if room <= 0:
                        continue
                    oldest = sa.select(JOB).where(*place, *is_due).order_by(JOB.c.created_at, JOB.c.job_id).limit(room)
                    records = [_record_of(row) for row in connection.execute(oldest).mappings()]
                    for record in records:
                        _move(connection, record, JobState.QUEUED, reason="", at=at)
                    found += [record.job for record in records]
            return found

    # Doing -------------------------------------------------------------------------------------------------------

    def claim(
        self,
        *,
        worker: str,
        queues: Sequence[str] | None = None,
        at: datetime,
        lease: timedelta,
        patience: timedelta = BATCH_PATIENCE,
    ) -> Job | None:
        """Take the most urgent job of ``queues`` (None: of all) for ``worker``; None if there is none.

        Raises ConfigurationError if the tables were given another form since this program began: a worker that an
        upgrade has left running takes nothing.
        """
        with self._transaction() as connection:
            require_this_form(connection)
            for query in _most_urgent(connection, queues, worker=worker, at=at, patience=patience):
                row = connection.execute(query.with_for_update(of=JOB, skip_locked=True)).mappings().one_or_none()
                if row is None:
                    continue
                record = _record_of(row)
                values = {"worker": worker, "lease_until": at + lease, "attempts": record.attempts + 1}
                if not _move(connection, record, JobState.RUNNING, reason="", at=at, values=values):
                    continue
                if record.job.priority is Priority.BATCH:
                    upsert(connection, QUEUE, {"queue": record.job.queue}, {"batch_claimed_at": at})
                return record.job
            return None

    def look_ahead(
        self,
        *,
        worker: str,
        queues: Sequence[str] | None = None,
        at: datetime,
        patience: timedelta = BATCH_PATIENCE,
    ) -> Job | None:
        """The job that ``claim`` would most likely give this worker now; it stays unclaimed. None if there is none.

        No job that was ever begun, and none that another worker looked ahead to: if fetching a study ends workers, it
        must do so in the course of a claim, where that is counted.
        """
        with self._transaction() as connection:
            is_ours = ~JOB.c.job_id.in_(_looked_ahead_by_others(worker))
            for query in _most_urgent(connection, queues, worker=worker, at=at, patience=patience):
                row = connection.execute(query.where(JOB.c.attempts == 0, is_ours)).mappings().one_or_none()
                if row is None:
                    continue
                job = _record_of(row).job
                # A table of its own: to lock the job's row would hide it from a worker that is free at this moment.
                if _mark_looked_ahead(connection, job.job_id, worker=worker, at=at):
                    return job
            return None

    def renew(self, job_id: str, *, worker: str, at: datetime, lease: timedelta) -> bool:
        """Prolong the worker's lease; False if the job is no longer this worker's."""
        with self._transaction() as connection:
            return bool(
                connection.execute(
                    sa.update(JOB)
                    .where(JOB.c.job_id == job_id, JOB.c.worker == worker, JOB.c.state.in_(LEASED))
                    .values(lease_until=at + lease)
                ).rowcount
            )

    def start_storing(self, job_id: str, *, worker: str, result: Mapping[str, Any], at: datetime) -> bool:
        """Record what is about to be stored; False if the job is no longer this worker's, which then stores nothing."""
        return self._finish(job_id, worker, JobState.STORING, reason="", at=at, values={"result": dict(result)})

    def finish(
        self,
        job_id: str,
        state: JobState,
        *,
        worker: str,
        reason: str = "",
        reason_class: ReasonClass = ReasonClass.NONE,
        result: Mapping[str, Any] | None = None,
        at: datetime,
    ) -> bool:
        """Record how the job ended; False if it is no longer this worker's. Without ``result``, what was recorded of
        it before stays: results may have been stored.
        """
        values = {} if result is None else {"result": dict(result)}
        return self._finish(job_id, worker, state, reason=reason, reason_class=reason_class, at=at, values=values)

    def start_over(self, job: Job, *, worker: str, reason: str, at: datetime) -> bool:
        """Record that the study is not what the job was made for, and that it is to be settled again."""
        with self._transaction() as connection:
            moved = _finish_in(
                connection,
                job.job_id,
                worker,
                JobState.SUPERSEDED,
                reason=reason,
                reason_class=ReasonClass.CHANGED,
                at=at,
                values={},
            )
            if moved:  # otherwise somebody has seen to it already
                mark_arriving(connection, job.orthanc_id, change=0, at=at)
            return moved

    def try_again(
        self,
        job_id: str,
        *,
        worker: str,
        reason: str,
        reason_class: ReasonClass = ReasonClass.NONE,
        at: datetime,
        not_before: datetime,
    ) -> bool:
        """Let the job wait until ``not_before``; False if it is no longer this worker's."""
        values = {"not_before": not_before, "worker": None}
        return self._finish(
            job_id, worker, JobState.WAITING, reason=reason, reason_class=reason_class, at=at, values=values
        )

    def _finish(
        self,
        job_id: str,
        worker: str,
        state: JobState,
        *,
        reason: str,
        reason_class: ReasonClass = ReasonClass.NONE,
        at: datetime,
        values: dict[str, Any],
    ) -> bool:
        with self._transaction() as connection:
            return _finish_in(
                connection, job_id, worker, state, reason=reason, reason_class=reason_class, at=at, values=values
            )

    # By a person's hand ------------------------------------------------------------------------------------------

    def retry(self, job_id: str, *, by: str = "", at: datetime) -> bool:
        """Let a job that has failed, was refused or cancelled wait again; False if it is in another state.

        ``by``: the person who asks for it; empty if that is not known.
        """
        with self._transaction() as connection:
            record = _find(connection, job_id)
            if record is None or record.state not in (JobState.FAILED, JobState.REFUSED, JobState.CANCELLED):
                return False
            if not _reopen(
                connection, record, record.job, reason="a person asked for it", reason_class=ReasonClass.PERSON, at=at
            ):
                return False
            audit_job(connection, AuditKind.RETRIED, record.job, who=by, at=at, was=record.state)
            return True

    def cancel(self, job_id: str, *, by: str = "", at: datetime) -> bool:
        """Withdraw a job whose results are not being stored yet; False if it is too late or already over."""
        with self._transaction() as connection:
            record = _find(connection, job_id)
            if record is None or JobState.CANCELLED not in TRANSITIONS[record.state]:
                return False
            values = {"worker": None}
            if not _move(
                connection,
                record,
                JobState.CANCELLED,
                reason="a person withdrew it",
                reason_class=ReasonClass.PERSON,
                at=at,
                values=values,
            ):
                return False
            audit_job(connection, AuditKind.CANCELLED, record.job, who=by, at=at, was=record.state)
            return True

    def prioritise(self, job_id: str, priority: Priority, *, by: str = "", at: datetime) -> bool:
        """Give a job that no worker has taken yet another priority; False if it is too late. Nothing but a person
        changes it after that.
        """
        with self._transaction() as connection:
            record = _find(connection, job_id)
            changed = connection.execute(
                sa.update(JOB)
                .where(JOB.c.job_id == job_id, JOB.c.state.in_((JobState.WAITING, JobState.QUEUED)))
                .values(priority=priority, priority_by_person=True)
            )
            if record is None or not changed.rowcount:
                return False
            job = replace(record.job, priority=priority)
            audit_job(connection, AuditKind.PRIORITISED, job, who=by, at=at, was=record.job.priority)
            return True

    # Looking -----------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobRecord | None:
        """One job, or None."""
        with self._reading() as connection:
            return _find(connection, job_id)

    def jobs(
        self,
        *,
        study_instance_uid: str | None = None,
        states: Collection[JobState] = (),
        limit: int = 1000,
    ) -> list[JobRecord]:
        """Jobs, the newest first; of one study, or in ``states``, if these are given."""
        query = sa.select(JOB).order_by(JOB.c.created_at.desc(), JOB.c.job_id).limit(limit)
        if study_instance_uid is not None:
            query = query.where(JOB.c.study_instance_uid == study_instance_uid)
        if states:
            query = query.where(JOB.c.state.in_(states))
        with self._reading() as connection:
            return [_record_of(row) for row in connection.execute(query).mappings()]

    def history(self, job_id: str) -> list[JobEvent]:
        """What happened to a job, oldest first."""
        columns = (EVENT.c.at, EVENT.c.from_state, EVENT.c.to_state, EVENT.c.reason)
        query = sa.select(*columns).where(EVENT.c.job_id == job_id).order_by(EVENT.c.event_id)
        with self._reading() as connection:
            return [
                JobEvent(
                    at=at,
                    from_state=None if old is None else JobState(old),
                    to_state=JobState(new),
                    reason=reason,
                )
                for at, old, new, reason in connection.execute(query)
            ]

    # Outdated results --------------------------------------------------------------------------------------------

    def outdated_uids(self, job: Job) -> frozenset[str]:
        """SOP Instance UIDs of what jobs of this job's model stored for its study, or began to store, and that do not
        stand: superseded, failed or withdrawn; this job among them, if it is one of these.
        """
        query = sa.select(JOB).where(_same_reading(JOB, job), JOB.c.state.in_(FALLEN))
        with self._reading() as connection:
            records = [_record_of(row) for row in connection.execute(query).mappings()]
        return frozenset(uid for record in records for uid in record.result_uids)

    def outdated(self, *, at: datetime) -> list[Job]:
        """The jobs whose study may still hold results from before it changed, with no worker left to take them away."""
        query = sa.select(JOB).join(OUTDATED, OUTDATED.c.job_id == JOB.c.job_id).where(OUTDATED.c.not_before <= at)
        with self._reading() as connection:
            return [_record_of(row).job for row in connection.execute(query).mappings()]

    def no_longer_outdated(self, job_id: str, *, at: datetime) -> None:
        """Record that what ``outdated`` told of was taken away."""
        with self._transaction() as connection:
            record = _find(connection, job_id)
            if record is not None:
                audit_withdrawn(connection, record.job, who="", at=at)
            connection.execute(sa.delete(OUTDATED).where(OUTDATED.c.job_id == job_id))


def _record(
    connection: sa.Connection,
    job: Job,
    *,
    present_uids: Collection[str] | None,
    is_sent_again: bool,
    at: datetime,
    because: str,
) -> None:
    upsert(connection, QUEUE, {"queue": job.queue}, {})
    known = _find(connection, job.job_id, locked=True)
    values: dict[str, Any]
    if known is None:
        priority, by_person = priority_of_new(connection, job)
        job = replace(job, priority=priority)
        values = {name: getattr(job, name) for name in Job.__dataclass_fields__} | {"priority_by_person": by_person}
        fresh = {"state": JobState.WAITING, "reason": "", "attempts": 0, "silences": 0, "not_before": at}
        connection.execute(sa.insert(JOB).values(**values, **fresh))
        _write_event(connection, job.job_id, None, JobState.WAITING, reason=because, at=at)
        note_job_recorded(connection, job.job_id, 0, at=at)
        audit_job(connection, AuditKind.JOB_RECORDED, job, at=at, reason=because)
        return
    _adopt(connection, known, job, at=at)
    # The same content in other copies: a sender that sends again has Orthanc write its files again.
    values = {"revision": job.revision}
    reason = ""
    if known.state is JobState.SUPERSEDED:
        reason = "the study has changed back"
    elif known.state in (JobState.REFUSED, JobState.FAILED) and is_sent_again:
        reason = "the study was sent again"
    elif known.state is JobState.DONE and present_uids is not None and not known.result_uids.issubset(present_uids):
        reason = "its results are no longer in the archive"
    if reason or known.state in (JobState.WAITING, JobState.QUEUED):  # routes may say otherwise than before
        values |= {"queue": job.queue, "destinations": list(job.destinations)}
    connection.execute(sa.update(JOB).where(JOB.c.job_id == job.job_id).values(values))
    if reason and _reopen(connection, known, job, reason=reason, at=at):
        audit_job(connection, AuditKind.JOB_RECORDED, known.job, at=at, reason=reason)


def _adopt(connection: sa.Connection, known: JobRecord, job: Job, *, at: datetime) -> None:
    """See to it that a job which only archive runs wanted is done as ``job`` is, which somebody else wants: as urgently
    at least, for the same destinations, and with a look at what it found.
    """
    adopted = sa.update(JOB).where(JOB.c.job_id == job.job_id, JOB.c.only_for_runs)
    if not connection.execute(adopted.values(only_for_runs=False)).rowcount:
        return
    this = JOB.c.job_id == job.job_id
    wanted = replace(known.job, destinations=tuple(dict.fromkeys((*known.job.destinations, *job.destinations))))
    connection.execute(sa.update(JOB).where(this).values(destinations=list(wanted.destinations)))
    priority, by_person = priority_of_new(connection, job)
    if known.state in (JobState.WAITING, JobState.QUEUED):
        is_free = (this, ~JOB.c.priority_by_person)  # a person's word stands
        connection.execute(sa.update(JOB).where(*is_free).values(priority=priority, priority_by_person=by_person))
    if known.state in STANDING:
        open_deliveries(connection, wanted, sorted(known.result_uids), at=at)
    if known.state is JobState.DONE:
        note_finding(connection, job.job_id, at=at)


def _record_for_runs(connection: sa.Connection, job: Job, links: Sequence[RunLink], *, at: datetime) -> str:
    """Record a job that nobody but archive runs wants; the id of the job that does it, which may be there already."""
    upsert(connection, QUEUE, {"queue": job.queue}, {})
    job = replace(job, priority=Priority.BATCH, job_id=standing_instead(connection, job) or job.job_id)
    known = _find(connection, job.job_id, locked=True)
    because = "an archive run asks for it"
    for other in _others(connection, job):
        if _is_waited_for(connection, other):  # the routes say what they want of the job that takes its place
            mark_arriving(connection, job.orthanc_id, change=0, at=at)
        _supersede(connection, other, reason="an archive run has another version read the study", at=at)
    if known is None:
        values = {name: getattr(job, name) for name in Job.__dataclass_fields__} | {"only_for_runs": True}
        fresh = {"state": JobState.WAITING, "reason": "", "attempts": 0, "silences": 0, "not_before": at}
        connection.execute(sa.insert(JOB).values(**values, **fresh, priority_by_person=False, runs=0))
        _write_event(connection, job.job_id, None, JobState.WAITING, reason=because, at=at)
        note_job_recorded(connection, job.job_id, 0, at=at)
        audit_job(connection, AuditKind.JOB_RECORDED, job, at=at, reason=because)
        return job.job_id
    connection.execute(sa.update(JOB).where(JOB.c.job_id == job.job_id).values(revision=job.revision))
    asking = [link for link in links if link.is_first and job.model in link.models]
    again = {JobState.SUPERSEDED}
    if asking:
        again |= {JobState.FAILED, JobState.CANCELLED}
    if any(link.is_retry for link in asking):
        again |= {JobState.REFUSED}
    if known.state in again and _reopen(connection, known, job, reason=because, at=at, for_runs=True):
        audit_job(connection, AuditKind.JOB_RECORDED, known.job, at=at, reason=because)
    return job.job_id


def _is_waited_for(connection: sa.Connection, record: JobRecord) -> bool:
    """Whether somebody else than archive runs waits for a job, or for what it has found."""
    if _is_only_for_runs(connection, record.job.job_id):
        return False
    return record.state not in ENDED or is_to_be_delivered(connection, record.job.job_id)


def _lock_jobs(connection: sa.Connection, orthanc_id: str) -> None:
    """Lock a study's jobs, always in this order and before the workitems that follow them: nobody waits in a circle."""
    if connection.dialect.name == "postgresql":
        of_study = sa.select(JOB.c.job_id).where(JOB.c.orthanc_id == orthanc_id).order_by(JOB.c.job_id)
        connection.execute(of_study.with_for_update())


def _is_wanted(connection: sa.Connection, job: Job) -> bool:
    """Whether a workitem wants a job that no route gives, or it is there already."""
    return _find(connection, job.job_id) is not None or lock_wanting(connection, job)


def _link_workitems(connection: sa.Connection, job: Job, *, is_cause: bool, at: datetime) -> None:
    """Have the workitems that wait for a model to read a study follow the job that does it.

    A job that was cancelled or has failed runs again for them; one that was refused would be so again.
    """
    wanted = [priority_from(each) for each in lock_workitems_to_start(connection, job)]
    record = _find(connection, job.job_id, locked=True) if wanted else None
    if record is None:
        return
    is_to_run = record.state in (JobState.CANCELLED, JobState.FAILED)
    if is_to_run and _reopen(connection, record, job, reason="a workitem asks for it", at=at):
        record = _find(connection, job.job_id) or record
    most_urgent = min([record.job.priority, *filter(None, wanted)], key=list(Priority).index)
    if most_urgent is not record.job.priority and record.state in (JobState.WAITING, JobState.QUEUED):
        is_free = (JOB.c.job_id == job.job_id, ~JOB.c.priority_by_person)  # a person's word stands
        connection.execute(sa.update(JOB).where(*is_free).values(priority=most_urgent))
    link_workitems(
        connection,
        job,
        record.state,
        run=record.runs,
        is_cause=is_cause,
        attempts=record.attempts,
        reason=record.reason,
        result=record.result,
        at=at,
    )


def _same_reading(table: sa.FromClause, job: Job) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.orthanc_id == job.orthanc_id, table.c.model == job.model)


def _others(connection: sa.Connection, job: Job) -> list[JobRecord]:
    query = sa.select(JOB).where(
        _same_reading(JOB, job), JOB.c.job_id != job.job_id, JOB.c.state != JobState.SUPERSEDED
    )
    return [_record_of(row) for row in connection.execute(query.with_for_update()).mappings()]


def _supersede_left_over(
    connection: sa.Connection, orthanc_id: str, jobs: Sequence[Job], *, fingerprint: str, at: datetime
) -> None:
    """See to the jobs of models that read the study before it changed, and do not read it now."""
    planned = [job.model for job in jobs]
    query = sa.select(JOB).where(JOB.c.orthanc_id == orthanc_id, JOB.c.model.not_in(planned))
    for record in map(_record_of, connection.execute(query.with_for_update()).mappings()):
        if record.state is not JobState.SUPERSEDED and record.job.fingerprint != fingerprint:
            _supersede(connection, record, reason="the study has changed, and no route names its model", at=at)
            _note_outdated(connection, record.job.job_id, not_before=at)
        elif record.state is JobState.SUPERSEDED and record.result:
            _note_outdated(connection, record.job.job_id, not_before=at)


def _supersede(
    connection: sa.Connection,
    record: JobRecord,
    *,
    reason: str,
    reason_class: ReasonClass = ReasonClass.CHANGED,
    at: datetime,
) -> None:
    _move(
        connection,
        record,
        JobState.SUPERSEDED,
        reason=reason,
        reason_class=reason_class,
        at=at,
        values={"worker": None},
    )
    if record.state is JobState.STORING:
        _note_outdated(connection, record.job.job_id, not_before=at + STORED_BY_THEN)


def _reopen(
    connection: sa.Connection,
    record: JobRecord,
    job: Job,
    *,
    reason: str,
    reason_class: ReasonClass = ReasonClass.NONE,
    at: datetime,
    for_runs: bool = False,
) -> bool:
    """Let a job that has ended run again. ``job``: as it is planned now; ``for_runs``: nobody but archive runs asks."""
    runs = record.runs + 1
    priority, by_person = (job.priority, False) if for_runs else priority_of_new(connection, job)
    urgency = {"priority": priority, "priority_by_person": by_person}
    values = {"attempts": 0, "silences": 0, "not_before": at, "worker": None, "runs": runs, **urgency}
    if not _move(connection, record, JobState.WAITING, reason=reason, reason_class=reason_class, at=at, values=values):
        return False
    note_job_recorded(connection, record.job.job_id, runs, at=at)
    return True


def _most_urgent(
    connection: sa.Connection, queues: Sequence[str] | None, *, worker: str, at: datetime, patience: timedelta
) -> Iterator[sa.Select[Any]]:
    """Queries for one job each, the most urgent first."""
    query = sa.select(QUEUE).order_by(QUEUE.c.queue)
    known = connection.execute(query if queues is None else query.where(QUEUE.c.queue.in_(queues))).mappings()
    taken_at = {row["queue"]: row["batch_claimed_at"] for row in known}
    owed = [queue for queue, at_last in taken_at.items() if at_last is None or at_last <= at - patience]
    impatient = (JOB.c.created_at <= at - patience, JOB.c.not_before <= at - patience)
    oldest = sa.select(JOB).where(JOB.c.state == JobState.QUEUED).order_by(JOB.c.created_at, JOB.c.job_id).limit(1)
    # Two queries that an index answers, and not one that sorts all that waits.
    others = JOB.c.job_id.in_(_looked_ahead_by_others(worker).where(LOOKED_AHEAD.c.at > at - LEFT_TO_ANOTHER))
    for priority, of, more in (
        (Priority.STAT, list(taken_at), ()),
        (Priority.BATCH, owed, impatient),
        (Priority.ROUTINE, list(taken_at), ()),
        (Priority.BATCH, list(taken_at), ()),
    ):
        if of:
            of_priority = oldest.where(JOB.c.queue.in_(of), JOB.c.priority == priority, *more)
            yield of_priority.where(~others)
            yield of_priority


def _looked_ahead_by_others(worker: str) -> sa.Select[Any]:
    return sa.select(LOOKED_AHEAD.c.job_id).where(LOOKED_AHEAD.c.worker != worker)


def _finish_in(
    connection: sa.Connection,
    job_id: str,
    worker: str,
    state: JobState,
    *,
    reason: str,
    reason_class: ReasonClass,
    at: datetime,
    values: dict[str, Any],
) -> bool:
    query = sa.select(JOB).where(JOB.c.job_id == job_id, JOB.c.worker == worker)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return False
    record = _record_of(row)
    if record.state not in LEASED or state not in TRANSITIONS[record.state]:
        return False
    return _move(connection, record, state, reason=reason, reason_class=reason_class, at=at, values=values)


def _mark_looked_ahead(connection: sa.Connection, job_id: str, *, worker: str, at: datetime) -> bool:
    """Note who was the first to look ahead to a job; whether it is this worker."""
    upsert(connection, LOOKED_AHEAD, {"job_id": job_id}, {}, new={"worker": worker, "at": at})
    first = sa.select(LOOKED_AHEAD.c.worker).where(LOOKED_AHEAD.c.job_id == job_id)
    return bool(connection.scalar(first) == worker)


def _find(connection: sa.Connection, job_id: str, *, locked: bool = False) -> JobRecord | None:
    query = sa.select(JOB).where(JOB.c.job_id == job_id)
    row = connection.execute(query.with_for_update() if locked else query).mappings().one_or_none()
    return None if row is None else _record_of(row)


def _move(
    connection: sa.Connection,
    record: JobRecord,
    state: JobState,
    *,
    reason: str,
    reason_class: ReasonClass = ReasonClass.NONE,
    at: datetime,
    values: Mapping[str, Any] | None = None,
) -> bool:
    """Change the state if the job still is what ``record`` says; False if somebody else was first."""
    if state not in TRANSITIONS[record.state]:
        raise AssertionError(f"a job never goes from {record.state} to {state}")
    changed = connection.execute(
        sa.update(JOB)
        .where(
            JOB.c.job_id == record.job.job_id,
            JOB.c.state == record.state,
            JOB.c.attempts == record.attempts,
        )
        .values(state=state, reason=reason, **(values or {}))
    )
    if changed.rowcount:
        # At each move: who looks ahead locks nothing, and may have noted it just after the job was claimed.
        connection.execute(sa.delete(LOOKED_AHEAD).where(LOOKED_AHEAD.c.job_id == record.job.job_id))
        _write_event(
            connection, record.job.job_id, record.state, state, reason=reason, reason_class=reason_class, at=at
        )
        if record.state in STANDING:
            why = reason if state is JobState.SUPERSEDED else f"the job runs again: {reason}"
            withdraw_deliveries(connection, record.job.job_id, reason=why, at=at)
        is_rejected = False
        if record.state is JobState.STORING and state in STANDING and "result" in (values or {}):
            uids = (values or {})["result"].get("sop_instance_uids", ())
            open_deliveries(connection, record.job, uids, at=at)
            is_rejected = hold_back_rejected(connection, record.job, at=at)
        is_from_outside = state is JobState.DONE and is_outside(record)
        is_looked_at = state is JobState.DONE and not is_rejected and not is_from_outside
        if is_looked_at and not _is_only_for_runs(connection, record.job.job_id):
            note_finding(connection, record.job.job_id, at=at)
        begun = record.result if record.state is JobState.STORING else {}
        final = (values or {}).get("result")
        audit_move(
            connection,
            record.job,
            record.state,
            state,
            worker=record.worker,
            attempt=record.attempts,
            result=final or begun,
            is_final=final is not None,
            reason=reason,
            at=at,
        )
        follow_job(
            connection,
            record.job.job_id,
            record.runs,
            record.state,
            state,
            attempts=(record.attempts, (values or {}).get("attempts", record.attempts)),
            reason=reason,
            result=(values or {}).get("result", record.result),
            at=at,
        )
        # With what an outside performer completes, no worker of ours comes by that would take away what is wrong now.
        ends_without_worker = state in (JobState.FAILED, JobState.CANCELLED) or is_from_outside
        has_begun = bool(record.result) and not is_from_outside
        if ends_without_worker and (has_begun or _stands_for_results(connection, record.job)):
            _note_outdated(connection, record.job.job_id, not_before=at)
    return bool(changed.rowcount)


def _is_only_for_runs(connection: sa.Connection, job_id: str) -> bool:
    return bool(connection.scalar(sa.select(JOB.c.only_for_runs).where(JOB.c.job_id == job_id)))


def is_outside(record: JobRecord) -> bool:
    """Whether somebody else performs, or has performed, a job."""
    return (record.worker or "").startswith(OUTSIDE)


def _stands_for_results(connection: sa.Connection, job: Job) -> bool:
    """Whether the job stands in the place of one with results, which are wrong now."""
    older = sa.select(JOB.c.job_id).where(
        _same_reading(JOB, job), JOB.c.state == JobState.SUPERSEDED, JOB.c.result.is_not(sa.null())
    )
    return connection.scalar(older.limit(1)) is not None


def _note_outdated(connection: sa.Connection, job_id: str, *, not_before: datetime) -> None:
    upsert(connection, OUTDATED, {"job_id": job_id}, {"not_before": not_before})


def _write_event(
    connection: sa.Connection,
    job_id: str,
    old: JobState | None,
    new: JobState,
    *,
    reason: str,
    reason_class: ReasonClass = ReasonClass.NONE,
    at: datetime,
) -> None:
    values = {"reason": reason, "reason_class": reason_class, "at": at}
    connection.execute(sa.insert(EVENT).values(job_id=job_id, from_state=old, to_state=new, **values))


def _record_of(row: sa.RowMapping) -> JobRecord:
    return JobRecord(
        job=job_of(row),
        state=JobState(row["state"]),
        reason=row["reason"],
        attempts=row["attempts"],
        silences=row["silences"],
        worker=row["worker"],
        result=row["result"] or {},
        runs=row["runs"],
    )


find_job, move_job, record_of = _find, _move, _record_of
"""For those who look at jobs, or change them, in transactions of their own."""

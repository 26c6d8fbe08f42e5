"""The ledger: which studies arrive, which jobs are due, what was done. It is the truth; the broker is only a bell.

Every method is one transaction. Methods that change a job's state write only what ``TRANSITIONS`` allows and one row
of history with it. The clock is an argument: callers say what time it is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import alembic.command
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.pool import NullPool

from coread.errors import ConfigurationError
from coread.job import LEASED, TRANSITIONS, Job, JobState, Priority

SQLITE_BUSY_TIMEOUT_S = 30
"""Writers take turns; the longest transaction is a fraction of a second."""

QUEUE_LEASE = timedelta(minutes=10)
"""A published job that no worker takes for this long is published again. A second message does no harm: only one
worker can claim the job."""


class _Instant(sa.TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, so it is put back on reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        return value and (value if value.tzinfo else value.replace(tzinfo=UTC))


_metadata = sa.MetaData()
_cursor = sa.Table(
    "archive_cursor",
    _metadata,
    sa.Column("cursor_id", sa.Integer, primary_key=True),
    sa.Column("archive_identity", sa.String),
    sa.Column("last_change", sa.BigInteger),
)
_arriving = sa.Table(
    "arriving_study",
    _metadata,
    sa.Column("orthanc_id", sa.String, primary_key=True),
    sa.Column("last_change", sa.BigInteger),
    sa.Column("last_arrival_at", _Instant),
)
_job = sa.Table(
    "job",
    _metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("orthanc_id", sa.String),
    sa.Column("model", sa.String),
    sa.Column("model_version", sa.String),
    sa.Column("fingerprint", sa.String),
    sa.Column("priority", sa.String),
    sa.Column("state", sa.String),
    sa.Column("reason", sa.Text),
    sa.Column("attempts", sa.Integer),
    sa.Column("worker", sa.String),
    sa.Column("created_at", _Instant),
    sa.Column("not_before", _Instant),
    sa.Column("lease_until", _Instant),
    sa.Column("result", sa.JSON(none_as_null=True)),
)
_event = sa.Table(
    "job_event",
    _metadata,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String),
    sa.Column("at", _Instant),
    sa.Column("from_state", sa.String),
    sa.Column("to_state", sa.String),
    sa.Column("reason", sa.Text),
)
_URGENCY = sa.case({Priority.STAT: 0, Priority.ROUTINE: 1, Priority.BATCH: 2}, value=_job.c.priority)


@dataclass(frozen=True, kw_only=True)
class ArrivingStudy:
    """A study that instances have been added to since its jobs were last settled."""

    orthanc_id: str
    last_change: int
    last_arrival_at: datetime


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One change of a job's state."""

    at: datetime
    from_state: JobState | None
    to_state: JobState
    reason: str


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job and where it stands. ``result`` is what the worker wrote down: findings, timings, UIDs of the results."""

    job: Job
    state: JobState
    reason: str
    attempts: int
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def result_uids(self) -> frozenset[str]:
        """SOP Instance UIDs of the result objects; empty until they are made."""
        return frozenset(self.result.get("sop_instance_uids", ()))


class Ledger:
    """A connection to the ledger's database. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError if the URL is not one that SQLAlchemy can open."""
        try:
            self._engine = _engine(url)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise ConfigurationError(
                f"the ledger's URL is not usable: {error}; expected for example sqlite:////var/lib/coread/ledger.sqlite"
            ) from error

    def migrate(self) -> None:
        """Bring the database's tables to this version's form. One process does it, before the others start."""
        with self._engine.begin() as connection:
            config = _alembic_config()
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")

    def check_version(self) -> None:
        """Raises ConfigurationError unless the tables have this version's form."""
        with self._engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        expected = ScriptDirectory.from_config(_alembic_config()).get_current_head()
        if found != expected:
            raise ConfigurationError(
                f"the ledger's tables are at version {found}, this program needs {expected}; start the plugin of this "
                "program first (`coread up`, or Orthanc), which migrates them"
            )

    # Arrival -----------------------------------------------------------------------------------------------------

    def last_change(self, archive_identity: str) -> int:
        """The number of the last change of Orthanc's log that was taken in; 0 before the first.

        The cursor counts for one database of Orthanc's only: for another one it is 0.
        """
        with self._engine.connect() as connection:
            query = sa.select(_cursor.c.last_change).where(_cursor.c.archive_identity == archive_identity)
            return connection.scalar(query) or 0

    def note_arrivals(
        self, studies: Mapping[str, int], *, archive_identity: str, last_change: int, at: datetime
    ) -> None:
        """Mark ``studies`` (Orthanc id → number of its latest change) as arriving and move the cursor, in one step."""
        cursor = {"archive_identity": archive_identity, "last_change": last_change}
        with self._engine.begin() as connection:
            for orthanc_id, change in studies.items():
                _mark_arriving(connection, orthanc_id, change=change, at=at)
            if not connection.execute(sa.update(_cursor).values(cursor)).rowcount:
                connection.execute(sa.insert(_cursor).values(cursor_id=1, **cursor))

    def arriving(self) -> list[ArrivingStudy]:
        """The studies whose jobs are not settled, longest quiet first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_arriving).order_by(_arriving.c.last_arrival_at))
            return [ArrivingStudy(**row) for row in rows.mappings()]

    def settle(self, study: ArrivingStudy, jobs: Sequence[Job], *, present_uids: Collection[str], at: datetime) -> None:
        """Record the jobs of a complete study and take its arrival mark away.

        A job that is already known is not recorded again. It is reopened if the study has changed back, if it was
        refused or has failed and the study was sent again, or if its results are no longer among ``present_uids`` (the
        SOP Instance UIDs in the archive). Other jobs of the same model on this study are superseded. The mark stays if
        the study has changed meanwhile.
        """
        with self._engine.begin() as connection:
            for job in jobs:
                self._record(connection, job, present_uids=present_uids, at=at)
                for other in self._others(connection, job):
                    values = {"worker": None}
                    reason = "the study has changed"
                    self._move(connection, other, JobState.SUPERSEDED, reason=reason, at=at, values=values)
            connection.execute(
                sa.delete(_arriving).where(
                    _arriving.c.orthanc_id == study.orthanc_id, _arriving.c.last_change == study.last_change
                )
            )

    def _record(self, connection: sa.Connection, job: Job, *, present_uids: Collection[str], at: datetime) -> None:
        row = connection.execute(sa.select(_job).where(_job.c.job_id == job.job_id)).mappings().one_or_none()
        if row is None:
            values = {name: getattr(job, name) for name in Job.__dataclass_fields__}
            connection.execute(
                sa.insert(_job).values(**values, state=JobState.WAITING, reason="", attempts=0, not_before=at)
            )
            _write_event(connection, job.job_id, None, JobState.WAITING, reason="the study is complete", at=at)
            return
        known = _record_of(row)
        reason = ""
        if known.state is JobState.SUPERSEDED:
            reason = "the study has changed back"
        elif known.state in (JobState.REFUSED, JobState.FAILED):
            reason = "the study was sent again"
        elif known.state is JobState.DONE and not known.result_uids.issubset(present_uids):
            reason = "its results are no longer in the archive"
        if reason:
            self._reopen(connection, known, reason=reason, at=at, orthanc_id=job.orthanc_id)

    def _reopen(
        self, connection: sa.Connection, record: JobRecord, *, reason: str, at: datetime, orthanc_id: str
    ) -> bool:
        values = {"attempts": 0, "not_before": at, "orthanc_id": orthanc_id, "worker": None}
        return self._move(connection, record, JobState.WAITING, reason=reason, at=at, values=values)

    def _others(self, connection: sa.Connection, job: Job) -> list[JobRecord]:
        rows = connection.execute(
            sa.select(_job).where(
                _job.c.study_instance_uid == job.study_instance_uid,
                _job.c.model == job.model,
                _job.c.job_id != job.job_id,
                _job.c.state != JobState.SUPERSEDED,
            )
        )
        return [_record_of(row) for row in rows.mappings()]

    # Publishing --------------------------------------------------------------------------------------------------

    def reclaim(self, *, at: datetime, attempts: int) -> list[str]:
        """Let the jobs wait again whose lease has ended; those tried ``attempts`` times have failed. Their ids."""
        with self._engine.begin() as connection:
            rows = connection.execute(sa.select(_job).where(_job.c.state.in_(LEASED), _job.c.lease_until < at))
            expired = [_record_of(row) for row in rows.mappings()]
            for record in expired:
                state, reason = JobState.WAITING, "its worker fell silent"
                if record.state is JobState.QUEUED:
                    reason = "no worker took it"
                elif record.attempts >= attempts:
                    state = JobState.FAILED
                    reason = f"its worker fell silent {record.attempts} times; see the worker's log"
                self._move(connection, record, state, reason=reason, at=at, values={"worker": None})
        return [record.job.job_id for record in expired]

    def due(self, *, at: datetime) -> list[Job]:
        """The jobs that wait to be published, the most urgent first, then the oldest."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(_job)
                .where(_job.c.state == JobState.WAITING, _job.c.not_before <= at)
                .order_by(_URGENCY, _job.c.created_at, _job.c.job_id)
            )
            return [_record_of(row).job for row in rows.mappings()]

    def mark_queued(self, job_id: str, *, at: datetime) -> bool:
        """Record that the job is being published; False if it no longer waits."""
        with self._engine.begin() as connection:
            record = self._find(connection, job_id, state=JobState.WAITING)
            values = {"lease_until": at + QUEUE_LEASE}
            return record is not None and self._move(
                connection, record, JobState.QUEUED, reason="", at=at, values=values
            )

    def unqueue(self, job_id: str, *, reason: str, at: datetime) -> None:
        """Record that the job could not be published after all."""
        with self._engine.begin() as connection:
            record = self._find(connection, job_id, state=JobState.QUEUED)
            if record is not None:
                self._move(connection, record, JobState.WAITING, reason=reason, at=at)

    def requeue(self, *, at: datetime) -> None:
        """Let the leases of all published jobs end now: a worker that starts cannot know what its broker forgot."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(_job).where(_job.c.state == JobState.QUEUED).values(lease_until=at))

    # Doing -------------------------------------------------------------------------------------------------------

    def claim(self, job_id: str, *, worker: str, at: datetime, lease: timedelta) -> Job | None:
        """Take a published job for ``worker``; None if it is not to be had (done, taken, withdrawn, superseded)."""
        with self._engine.begin() as connection:
            record = self._find(connection, job_id, state=JobState.QUEUED)
            if record is None:
                return None
            values = {"worker": worker, "lease_until": at + lease, "attempts": record.attempts + 1}
            taken = self._move(connection, record, JobState.RUNNING, reason="", at=at, values=values)
            return record.job if taken else None

    def renew(self, job_id: str, *, worker: str, at: datetime, lease: timedelta) -> bool:
        """Prolong the worker's lease; False if the job is no longer this worker's."""
        with self._engine.begin() as connection:
            return bool(
                connection.execute(
                    sa.update(_job)
                    .where(
                        _job.c.job_id == job_id,
                        _job.c.worker == worker,
                        _job.c.state.in_((JobState.RUNNING, JobState.STORING)),
                    )
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
        result: Mapping[str, Any] | None = None,
        at: datetime,
    ) -> bool:
        """Record how the job ended; False if it is no longer this worker's. Without ``result``, what was recorded of
        it before stays: results may have been stored.
        """
        values = {} if result is None else {"result": dict(result)}
        return self._finish(job_id, worker, state, reason=reason, at=at, values=values)

    def start_over(self, job: Job, *, worker: str, reason: str, at: datetime) -> bool:
        """Record that the study is not what the job was made for, and that it is to be settled again."""
        with self._engine.begin() as connection:
            _mark_arriving(connection, job.orthanc_id, change=0, at=at)
            return self._finish_in(connection, job.job_id, worker, JobState.SUPERSEDED, reason=reason, at=at, values={})

    def try_again(self, job_id: str, *, worker: str, reason: str, at: datetime, not_before: datetime) -> bool:
        """Let the job wait until ``not_before``; False if it is no longer this worker's."""
        values = {"not_before": not_before, "worker": None}
        return self._finish(job_id, worker, JobState.WAITING, reason=reason, at=at, values=values)

    def _finish(
        self, job_id: str, worker: str, state: JobState, *, reason: str, at: datetime, values: dict[str, Any]
    ) -> bool:
        with self._engine.begin() as connection:
            return self._finish_in(connection, job_id, worker, state, reason=reason, at=at, values=values)

    def _finish_in(
        self,
        connection: sa.Connection,
        job_id: str,
        worker: str,
        state: JobState,
        *,
        reason: str,
        at: datetime,
        values: dict[str, Any],
    ) -> bool:
        query = sa.select(_job).where(_job.c.job_id == job_id, _job.c.worker == worker)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return False
        record = _record_of(row)
        if state not in TRANSITIONS[record.state]:
            return False
        return self._move(connection, record, state, reason=reason, at=at, values=values)

    # By a person's hand ------------------------------------------------------------------------------------------

    def retry(self, job_id: str, *, at: datetime) -> bool:
        """Let a job that has failed, was refused or cancelled wait again; False if it is in another state."""
        with self._engine.begin() as connection:
            record = self._find(connection, job_id)
            if record is None or record.state not in (JobState.FAILED, JobState.REFUSED, JobState.CANCELLED):
                return False
            return self._reopen(
                connection, record, reason="a person asked for it", at=at, orthanc_id=record.job.orthanc_id
            )

    def cancel(self, job_id: str, *, at: datetime) -> bool:
        """Withdraw a job whose results are not being stored yet; False if it is too late or already over."""
        with self._engine.begin() as connection:
            record = self._find(connection, job_id)
            if record is None or JobState.CANCELLED not in TRANSITIONS[record.state]:
                return False
            values = {"worker": None}
            return self._move(
                connection, record, JobState.CANCELLED, reason="a person withdrew it", at=at, values=values
            )

    # Looking -----------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobRecord | None:
        """One job, or None."""
        with self._engine.connect() as connection:
            return self._find(connection, job_id)

    def jobs(self, *, study_instance_uid: str | None = None, limit: int = 1000) -> list[JobRecord]:
        """Jobs, the newest first."""
        query = sa.select(_job).order_by(_job.c.created_at.desc(), _job.c.job_id).limit(limit)
        if study_instance_uid is not None:
            query = query.where(_job.c.study_instance_uid == study_instance_uid)
        with self._engine.connect() as connection:
            return [_record_of(row) for row in connection.execute(query).mappings()]

    def outdated_uids(self, job: Job) -> frozenset[str]:
        """SOP Instance UIDs of what superseded jobs of this job's model stored for its study, or began to store; this
        job among them, if it is superseded itself.
        """
        query = sa.select(_job).where(
            _job.c.study_instance_uid == job.study_instance_uid,
            _job.c.model == job.model,
            _job.c.state == JobState.SUPERSEDED,
        )
        with self._engine.connect() as connection:
            records = [_record_of(row) for row in connection.execute(query).mappings()]
        return frozenset(uid for record in records for uid in record.result_uids)

    def given_up(self) -> list[Job]:
        """The jobs that failed, or that a person withdrew, and that stand in the place of one with results. These are
        wrong, and perhaps no worker was there to take them away.
        """
        older = _job.alias()
        had_results = sa.exists().where(
            older.c.study_instance_uid == _job.c.study_instance_uid,
            older.c.model == _job.c.model,
            older.c.state == JobState.SUPERSEDED,
            older.c.result.is_not(sa.null()),
        )
        query = sa.select(_job).where(_job.c.state.in_((JobState.FAILED, JobState.CANCELLED)), had_results)
        with self._engine.connect() as connection:
            return [_record_of(row).job for row in connection.execute(query).mappings()]

    def history(self, job_id: str) -> list[JobEvent]:
        """What happened to a job, oldest first."""
        columns = (_event.c.at, _event.c.from_state, _event.c.to_state, _event.c.reason)
        query = sa.select(*columns).where(_event.c.job_id == job_id).order_by(_event.c.event_id)
        with self._engine.connect() as connection:
            return [
                JobEvent(
                    at=at,
                    from_state=None if old is None else JobState(old),
                    to_state=JobState(new),
                    reason=reason,
                )
                for at, old, new, reason in connection.execute(query)
            ]

    # -------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _find(connection: sa.Connection, job_id: str, *, state: JobState | None = None) -> JobRecord | None:
        query = sa.select(_job).where(_job.c.job_id == job_id)
        if state is not None:
            query = query.where(_job.c.state == state)
        row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _record_of(row)

    @staticmethod
    def _move(
        connection: sa.Connection,
        record: JobRecord,
        state: JobState,
        *,
        reason: str,
        at: datetime,
        values: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change the state if the job still is what ``record`` says; False if somebody else was first."""
        if state not in TRANSITIONS[record.state]:
            raise AssertionError(f"a job never goes from {record.state} to {state}")
        changed = connection.execute(
            sa.update(_job)
            .where(
                _job.c.job_id == record.job.job_id,
                _job.c.state == record.state,
                _job.c.attempts == record.attempts,
            )
            .values(state=state, reason=reason, **(values or {}))
        )
        if changed.rowcount:
            _write_event(connection, record.job.job_id, record.state, state, reason=reason, at=at)
        return bool(changed.rowcount)


def _mark_arriving(connection: sa.Connection, orthanc_id: str, *, change: int, at: datetime) -> None:
    mark = {"last_change": change, "last_arrival_at": at}
    if not connection.execute(sa.update(_arriving).where(_arriving.c.orthanc_id == orthanc_id).values(mark)).rowcount:
        connection.execute(sa.insert(_arriving).values(orthanc_id=orthanc_id, **mark))


def _write_event(
    connection: sa.Connection, job_id: str, old: JobState | None, new: JobState, *, reason: str, at: datetime
) -> None:
    connection.execute(sa.insert(_event).values(job_id=job_id, at=at, from_state=old, to_state=new, reason=reason))


def _record_of(row: sa.RowMapping) -> JobRecord:
    values = {name: row[name] for name in Job.__dataclass_fields__}
    values["priority"] = Priority(values["priority"])
    return JobRecord(
        job=Job(**values),
        state=JobState(row["state"]),
        reason=row["reason"],
        attempts=row["attempts"],
        result=row["result"] or {},
    )


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    database = sa.make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_immediately)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says, not at the first write
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: sa.Connection) -> None:
    # Taking the write lock first is what makes "look, then change" safe, and the busy timeout apply.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config

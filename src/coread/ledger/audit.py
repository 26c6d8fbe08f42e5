"""The audit trail's rows: only ever added, each in the transaction of what it tells of, so that neither is without the
other. What the rows may hold says `coread.audit.event`.

Which rows are still to be sent to syslog stands beside them. A cursor would not do: of two transactions of
PostgreSQL's, the one with the lower number may be the later to end, and its row would be passed over.
"""

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from coread import __version__
from coread.audit.event import AuditEvent, AuditKind, Sender, cleaned, printable
from coread.job import LEASED, OUTSIDE, Job, JobState
from coread.ledger.database import Database
from coread.ledger.tables import AUDIT, AUDIT_UNSENT, EVENT, JOB

OF_THE_READING = ("model_digest", "device", "engine", "way", "adapted", "series_instance_uid")
"""What an attempt's row takes over from the job's result, besides what the job itself says."""


class Audit(Database):
    """The part of the ledger that says who did what."""

    def note_started(self, *, models: Mapping[str, str], at: datetime) -> None:
        """Record that the plugin has started, with the models (name → version) that may run."""
        details = {"version": __version__, "host": platform.node(), "models": dict(models)}
        with self._transaction() as connection:
            write_audit(connection, AuditKind.STARTED, at=at, details=details)

    def note_stopped(self, *, at: datetime) -> None:
        """Record that the plugin stops."""
        details = {"version": __version__, "host": platform.node()}
        with self._transaction() as connection:
            write_audit(connection, AuditKind.STOPPED, at=at, details=details)

    def note_worker_started(self, *, worker: str, models: Mapping[str, Mapping[str, str]], at: datetime) -> None:
        """Record that a worker is ready, with the models that it has loaded: name → version, digest, device, engine."""
        details = {"version": __version__, "models": dict(models)}
        with self._transaction() as connection:
            write_audit(connection, AuditKind.WORKER_STARTED, at=at, who=worker, details=details)

    def note_denied(self, *, user: str, details: Mapping[str, Any], at: datetime) -> None:
        """Record that requests of one kind were not let through: method, route, reason, how many times."""
        with self._transaction() as connection:
            write_audit(connection, AuditKind.DENIED, at=at, who=user, details=details)

    def audit(
        self,
        *,
        study_instance_uid: str | None = None,
        job_id: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> list[AuditEvent]:
        """The newest rows, the newest first; of one study, of one job, or not older than ``since``, if given."""
        query = sa.select(AUDIT).order_by(AUDIT.c.audit_id.desc()).limit(limit)
        if study_instance_uid is not None:
            query = query.where(AUDIT.c.study_instance_uid == study_instance_uid)
        if job_id is not None:
            query = query.where(AUDIT.c.job_id == job_id)
        if since is not None:
            # Ordered by time, so that its index is used: the others would be looked through to the first row.
            query = query.where(AUDIT.c.at >= since).order_by(None).order_by(AUDIT.c.at.desc(), AUDIT.c.audit_id.desc())
        with self._transaction() as connection:
            found = [_event_of(row) for row in connection.execute(query).mappings()]
        return sorted(found, key=lambda event: event.audit_id, reverse=True)

    def audit_to_send(self, *, limit: int) -> list[AuditEvent]:
        """The oldest rows that syslog has not taken yet, the oldest first."""
        query = sa.select(AUDIT).join(AUDIT_UNSENT, AUDIT_UNSENT.c.audit_id == AUDIT.c.audit_id)
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(AUDIT_UNSENT.c.audit_id).limit(limit))
            return [_event_of(row) for row in rows.mappings()]

    def note_audit_sent(self, audit_ids: Sequence[int]) -> None:
        """Record that syslog has taken these rows."""
        with self._transaction() as connection:
            connection.execute(sa.delete(AUDIT_UNSENT).where(AUDIT_UNSENT.c.audit_id.in_(audit_ids)))


def write_audit(
    connection: sa.Connection,
    kind: AuditKind,
    *,
    at: datetime,
    study_instance_uid: str | None = None,
    job_id: str | None = None,
    who: str = "",
    details: Mapping[str, Any],
) -> None:
    """Write one row, to be sent."""
    values = {
        "at": at,
        "kind": kind,
        "study_instance_uid": study_instance_uid,
        "job_id": job_id,
        "who": printable(who),
        "details": cleaned(details),
    }
    (audit_id,) = connection.execute(sa.insert(AUDIT).values(values).returning(AUDIT.c.audit_id)).one()
    connection.execute(sa.insert(AUDIT_UNSENT).values(audit_id=audit_id))


def audit_received(
    connection: sa.Connection, study_instance_uid: str, senders: Sequence[Sender], *, at: datetime
) -> None:
    """Record who sent a study that is complete."""
    earlier = sa.select(AUDIT.c.audit_id).where(
        AUDIT.c.study_instance_uid == study_instance_uid, AUDIT.c.kind == AuditKind.RECEIVED
    )
    is_known = connection.scalar(earlier.limit(1)) is not None
    for sender in senders:
        details = {
            "protocol": sender.protocol,
            "aet": sender.aet,
            "address": sender.address,
            "user": sender.user,
            "sop_classes": dict(sender.sop_classes),
            "again": is_known,
        }
        write_audit(
            connection,
            AuditKind.RECEIVED,
            at=at,
            study_instance_uid=study_instance_uid,
            who=sender.name,
            details=details,
        )


def audit_job(
    connection: sa.Connection, kind: AuditKind, job: Job, *, who: str = "", at: datetime, **more: Any
) -> None:
    """Record something that befell a job, with what it is a job of."""
    details = {
        "model": job.model,
        "model_version": job.model_version,
        "profiles": list(job.profiles),
        "destinations": list(job.destinations),
        "priority": job.priority,
        **more,
    }
    write_audit(
        connection,
        kind,
        at=at,
        study_instance_uid=job.study_instance_uid,
        job_id=job.job_id,
        who=who,
        details=details,
    )


def audit_move(
    connection: sa.Connection,
    job: Job,
    old: JobState,
    new: JobState,
    *,
    worker: str | None,
    attempt: int,
    result: Mapping[str, Any],
    is_final: bool,
    reason: str,
    at: datetime,
) -> None:
    """Record what follows from a change of a job's state: that an attempt ended, and what it left behind.

    ``result``: what this attempt wrote down; empty if it did not come so far. ``is_final``: it was written down at the
    end, when everything was stored, and not only before.
    """
    if old not in LEASED or new in LEASED:
        return
    uids = list(result.get("sop_instance_uids", ()))
    is_stored = new is JobState.DONE or (new is JobState.REFUSED and is_final)
    if (worker or "").startswith(OUTSIDE):
        audit_job(connection, AuditKind.PERFORMED_OUTSIDE, job, who=worker or "", at=at, outcome=new, reason=reason)
        return
    audit_job(
        connection,
        AuditKind.MODEL_RAN,
        job,
        who=worker or "",
        at=at,
        attempt=attempt,
        started_at=_claimed_at(connection, job.job_id),
        outcome=new,
        reason=reason,
        **{name: result[name] for name in OF_THE_READING if name in result},
        **({} if is_stored or not uids else {"may_have_stored": uids}),
    )
    if is_stored and uids:
        classes = result.get("sop_class_uids", [""] * len(uids))
        instances = [list(pair) for pair in zip(classes, uids, strict=True)]
        audit_job(connection, AuditKind.RESULTS_WRITTEN, job, who=worker or "", at=at, instances=instances)
    if new in (JobState.DONE, JobState.REFUSED):
        audit_withdrawn(connection, job, who=worker or "", at=at)


def audit_withdrawn(connection: sa.Connection, job: Job, *, who: str, at: datetime) -> None:
    """Record that results of superseded jobs of this job's model and study are gone, each only once."""
    query = sa.select(JOB.c.job_id, JOB.c.model_version, JOB.c.result).where(
        JOB.c.orthanc_id == job.orthanc_id,
        JOB.c.model == job.model,
        JOB.c.state == JobState.SUPERSEDED,
        JOB.c.result.is_not(sa.null()),
    )
    for job_id, model_version, result in connection.execute(query).all():
        uids = result.get("sop_instance_uids", [])
        if not uids or _is_withdrawn(connection, job_id):
            continue
        classes = result.get("sop_class_uids", [""] * len(uids))
        write_audit(
            connection,
            AuditKind.RESULTS_WITHDRAWN,
            at=at,
            study_instance_uid=job.study_instance_uid,
            job_id=job_id,
            who=who,
            details={
                "model": job.model,
                "model_version": model_version,
                "instances": [list(pair) for pair in zip(classes, uids, strict=True)],
            },
        )


def audit_delivery(
    connection: sa.Connection,
    kind: AuditKind,
    job: Job,
    *,
    destination: str,
    instances: Sequence[tuple[str, str]],
    not_confirmed: Sequence[str] = (),
    reason: str = "",
    who: str = "",
    at: datetime,
) -> None:
    """Record what befell a delivery of a job's results (``kind``).

    ``instances``: (SOP Class UID, SOP Instance UID) of each; ``not_confirmed``: SOP Instance UIDs of those that the
    destination has not said that it keeps.
    """
    audit_job(
        connection,
        kind,
        job,
        who=who,
        at=at,
        destination=destination,
        instances=[list(pair) for pair in instances],
        not_confirmed=list(not_confirmed),
        reason=reason,
    )


def _claimed_at(connection: sa.Connection, job_id: str) -> str | None:
    query = sa.select(EVENT.c.at).where(EVENT.c.job_id == job_id, EVENT.c.to_state == JobState.RUNNING)
    at = connection.scalar(query.order_by(EVENT.c.event_id.desc()).limit(1))
    return None if at is None else at.isoformat()


def _is_withdrawn(connection: sa.Connection, job_id: str) -> bool:
    """Whether it was said of a job's results that they are gone, since it last stored any."""
    query = sa.select(AUDIT.c.kind, AUDIT.c.details).where(AUDIT.c.job_id == job_id).order_by(AUDIT.c.audit_id.desc())
    for kind, details in connection.execute(query):
        if kind == AuditKind.RESULTS_WITHDRAWN:
            return True
        if kind == AuditKind.RESULTS_WRITTEN or "may_have_stored" in details:
            return False
    return False


def _event_of(row: sa.RowMapping) -> AuditEvent:
    return AuditEvent(**{**row, "kind": AuditKind(row["kind"])})

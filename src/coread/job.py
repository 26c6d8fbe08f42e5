"""A job: one model on one set of source instances, and the states that it passes through."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    """Recorded, and due to be published to the broker."""
    QUEUED = "queued"
    """Published. If no worker takes it before its lease ends, it is published again."""
    RUNNING = "running"
    """A worker reads the study. If the worker's lease ends, the job waits again."""
    STORING = "storing"
    """The results are being stored in the archive."""
    DONE = "done"
    """The results are in the archive."""
    FAILED = "failed"
    """Something broke, and every attempt is used up, or another attempt would break the same way."""
    REFUSED = "refused"
    """The study does not fit the model: not an error."""
    CANCELLED = "cancelled"
    """A person withdrew it."""
    SUPERSEDED = "superseded"
    """The study changed: a newer job of the same model stands in its place."""


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.SUPERSEDED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.WAITING, JobState.CANCELLED, JobState.SUPERSEDED}),
    JobState.RUNNING: frozenset(
        {
            JobState.STORING,
            JobState.REFUSED,
            JobState.FAILED,
            JobState.WAITING,
            JobState.CANCELLED,
            JobState.SUPERSEDED,
        }
    ),
    JobState.STORING: frozenset(
        {JobState.DONE, JobState.REFUSED, JobState.FAILED, JobState.WAITING, JobState.SUPERSEDED}
    ),
    JobState.DONE: frozenset({JobState.SUPERSEDED, JobState.WAITING}),
    JobState.FAILED: frozenset({JobState.WAITING, JobState.SUPERSEDED}),
    JobState.REFUSED: frozenset({JobState.WAITING, JobState.SUPERSEDED}),
    JobState.CANCELLED: frozenset({JobState.WAITING, JobState.SUPERSEDED}),
    JobState.SUPERSEDED: frozenset({JobState.WAITING}),
}
"""From each state, the states that may follow. Nothing else is ever written to the ledger."""

LEASED = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.STORING})
"""States that somebody holds for a limited time only."""

ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.REFUSED, JobState.CANCELLED, JobState.SUPERSEDED})
"""States in which nothing more happens by itself."""


class Priority(StrEnum):
    """How urgent a job is."""

    STAT = "stat"
    ROUTINE = "routine"
    BATCH = "batch"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker must know to do a job. ``orthanc_id`` is Orthanc's identifier of the study, not a UID."""

    job_id: str
    study_instance_uid: str
    orthanc_id: str
    model: str
    model_version: str
    fingerprint: str
    priority: Priority
    created_at: datetime


def fingerprint_of(sop_instance_uids: Iterable[str]) -> str:
    """A digest of the set of source instances; their order does not matter."""
    return hashlib.sha256("\n".join(sorted(set(sop_instance_uids))).encode()).hexdigest()


def job_id_of(*, study_instance_uid: str, model: str, model_version: str, fingerprint: str) -> str:
    """The job's identity: the same model on the same instances is the same job, whoever asks and however often."""
    identity = "\n".join((study_instance_uid, model, model_version, fingerprint))
    return hashlib.sha256(identity.encode()).hexdigest()[:32]

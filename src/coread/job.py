"""A job: one model on one set of source instances, and the states that it passes through."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from coread.objects import Profile


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    """Recorded. When it is due, workers are rung for."""
    QUEUED = "queued"
    """Workers may take it: they were rung for, and the next one that is free takes the most urgent job."""
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
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.SUPERSEDED}),
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

LEASED = frozenset({JobState.RUNNING, JobState.STORING})
"""States in which a worker holds the job, for a limited time only."""

ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.REFUSED, JobState.CANCELLED, JobState.SUPERSEDED})
"""States in which nothing more happens by itself."""


STANDING = frozenset({JobState.DONE, JobState.REFUSED})
"""States in which a job's results, or the report that says why there are none, are in the archive and stand."""


OUTSIDE = "outside performer"
"""Begins the name of a "worker" that is none of ours: somebody who has claimed the job over UPS-RS."""


class Priority(StrEnum):
    """How urgent a job is, the most urgent first."""

    STAT = "stat"
    ROUTINE = "routine"
    BATCH = "batch"


ANY_QUEUE = "gpu"
"""The queue of a model that the settings assign to none. A worker that is told of no queues takes jobs of all."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker must know to do a job. ``orthanc_id`` is Orthanc's identifier of the study, not a UID."""

    job_id: str
    study_instance_uid: str
    orthanc_id: str
    model: str
    model_version: str
    fingerprint: str
    """What the source instances are, and hold: `fingerprint_of` their UIDs and contents."""
    revision: str
    """Which copies of them Orthanc held when the job was made: tells cheaply that nothing has come since."""
    profiles: tuple[Profile, ...]
    """What the results are written for."""
    destinations: tuple[str, ...] = ()
    """Names of the destinations that the results are delivered to, besides the study in Orthanc."""
    priority: Priority
    queue: str = ANY_QUEUE
    """Which workers may take it."""
    created_at: datetime

    def as_json(self) -> dict[str, Any]:
        """The job as JSON's types."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Job":
        """The job that ``as_json`` gave."""
        return cls(
            **{
                **values,
                "profiles": tuple(map(Profile, values["profiles"])),
                "destinations": tuple(values["destinations"]),
                "priority": Priority(values["priority"]),
                "created_at": datetime.fromisoformat(values["created_at"]),
            }
        )


def fingerprint_of(instances: Iterable[str]) -> str:
    """A digest of a set of instances, each told by its UID, or its UID and content; their order does not matter."""
    return hashlib.sha256("\n".join(sorted(set(instances))).encode()).hexdigest()


def job_id_of(*, study: str, model: str, model_version: str, profiles: Iterable[Profile], fingerprint: str) -> str:
    """The job's identity: the same model on the same instances for the same profiles is the same job, whoever asks and
    however often.

    ``study`` is the study of one patient, Orthanc's id of it: two patients' studies may carry the same UID.
    """
    identity = "\n".join((study, model, model_version, ",".join(sorted(profiles)), fingerprint))
    return hashlib.sha256(identity.encode()).hexdigest()[:32]

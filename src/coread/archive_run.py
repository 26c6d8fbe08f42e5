"""An archive run: a cohort of studies being read, slowly, below everything else, and where each of them stands.

A plan says which studies; the ledger has the run; `coread.archivist` carries it out. Nothing here names a patient:
studies are told by their StudyInstanceUID.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from coread.objects import Profile

HERE = "here"
"""The name of the source that needs no setting: the studies that our Orthanc has already."""


class RunState(StrEnum):
    """Where a run stands."""

    LOADING = "loading"
    """Its studies are being written into the ledger; nothing is read before all of them stand there."""
    RUNNING = "running"
    PAUSED = "paused"
    """No study is begun. What was begun is read to its end."""
    FINISHED = "finished"
    """Every study has ended. A retry lets it run again."""
    CANCELLED = "cancelled"
    """A person has ended it. What was begun is wound up; nothing else is read."""


class RunStudyState(StrEnum):
    """Where a study of a run stands."""

    DUE = "due"
    RETRIEVING = "retrieving"
    """The archivist fetches it. It is not read meanwhile, whatever arrives."""
    HERE = "here"
    """It is whole in our Orthanc; the intake makes jobs of it."""
    READING = "reading"
    """Its jobs are under way."""
    COLLECTED = "collected"
    """Its jobs have ended, and the run's folder has what they found; the copy is to be removed."""
    DONE = "done"
    REFUSED = "refused"
    """No model of the run could read it: an attempt again would end the same."""
    FAILED = "failed"
    CANCELLED = "cancelled"


class Copy(StrEnum):
    """What is known of a run's study in our Orthanc, and so, whether it may be removed."""

    UNKNOWN = ""
    """It was not looked for yet."""
    BEFORE = "before"
    """It was here before the run: it is never removed."""
    OURS = "ours"
    """It was not here: whatever is here now, the run alone has brought."""
    SHARED = "shared"
    """The run has brought it, and somebody else has sent of it, or wants it, too: it is kept for good."""
    REMOVED = "removed"
    """The run has removed what it had brought."""


RUN_ENDED = frozenset({RunState.FINISHED, RunState.CANCELLED})
"""States in which no study is begun any more, unless a person asks for it."""

IN_FLIGHT = frozenset({RunStudyState.RETRIEVING, RunStudyState.HERE, RunStudyState.READING, RunStudyState.COLLECTED})
"""States of a study that may take room on the disk."""

STUDY_ENDED = frozenset({RunStudyState.DONE, RunStudyState.REFUSED, RunStudyState.FAILED, RunStudyState.CANCELLED})
"""States in which nothing more happens by itself."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a run is carried out: from where, by whom, how fast, and where what it finds goes."""

    source: str
    """The name of a `[[source]]` of the settings, or ``here``."""
    models: tuple[str, ...]
    profiles: tuple[Profile, ...]
    """What the results are written for."""
    destinations: tuple[str, ...] = ()
    """Where the results are sent, besides the run's folder."""
    keep_copies: bool = False
    """Whether the studies that the run retrieves stay in our Orthanc, with their results."""
    hours: str | None = None
    """The hours of the day at which studies are begun, local time, such as ``19:00-07:00``; None: at all."""
    studies_per_minute: float | None = None
    """How many are begun at most; None: as many as there is room for."""
    associations: int = 1
    """How many are fetched at once."""
    in_flight: int = 8
    """How many may be anywhere between begun and ended: this bounds the room on the disk."""
    folder: str
    """Absolute path of the folder for rows, pictures, objects and the report."""
    objects: bool = True
    """Whether the result objects are written to the folder."""
    pictures: bool = True
    """Whether the pictures are."""
    key_file: str | None = None
    """The file of the secret by which what is written to the folder is pseudonymised; None: it is not."""

    def as_json(self) -> dict[str, Any]:
        """The terms as JSON's types."""
        return {
            **asdict(self),
            "models": list(self.models),
            "profiles": list(self.profiles),
            "destinations": list(self.destinations),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Terms":
        """The terms that ``as_json`` gave."""
        return cls(
            **{
                **values,
                "models": tuple(values["models"]),
                "profiles": tuple(map(Profile, values["profiles"])),
                "destinations": tuple(values["destinations"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run and where it stands."""

    run_id: str
    name: str
    state: RunState
    reason: str
    """Why it is paused or cancelled, if a reason was given."""
    waits_for: str = ""
    """Why no study is begun just now, or why a cancelled run is not over; empty while it goes on."""
    terms: Terms
    plan_digest: str
    created_at: datetime
    created_by: str
    ended_at: datetime | None
    counts: Mapping[RunStudyState, int] = field(default_factory=dict)
    """How many of its studies are in each state; those in which none is may be left out."""
    studies: int
    """How many it has."""

    def count(self, state: RunStudyState) -> int:
        """How many of its studies are in a state."""
        return self.counts.get(state, 0)

    @property
    def ended(self) -> int:
        """How many of its studies have ended."""
        return sum(map(self.count, STUDY_ENDED))

    @property
    def in_flight(self) -> int:
        """How many of its studies are begun and have not ended."""
        return sum(map(self.count, IN_FLIGHT))

    @property
    def held_up_by(self) -> str:
        """What it waits for, if it may go on by itself; empty if not."""
        goes_on = self.ended_at is None and self.state in (RunState.RUNNING, RunState.CANCELLED)
        return self.waits_for if goes_on else ""

    def as_json(self) -> dict[str, Any]:
        """The run as JSON's types."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            "waits_for": self.waits_for,
            "terms": self.terms.as_json(),
            "plan_digest": self.plan_digest,
            "created_at": self.created_at.isoformat(),
            "created_by": self.created_by,
            "ended_at": self.ended_at and self.ended_at.isoformat(),
            "counts": {state.value: self.count(state) for state in RunStudyState},
            "studies": self.studies,
        }


@dataclass(frozen=True, kw_only=True)
class RunStudy:
    """A study of a run and where it stands."""

    run_id: str
    position: int
    """Its place in the plan, from 0 on."""
    study_instance_uid: str
    state: RunStudyState
    reason: str
    """What was the matter with it, if anything was."""
    is_permanent: bool
    """Of one that has failed or was refused: whether another attempt would end the same."""
    attempts: int
    """How often it was begun to be fetched and that counted."""
    orthanc_id: str | None
    """Orthanc's identifier of it, once it is here."""
    copy: Copy
    stated_instances: int | None
    """How many instances the source says that it has."""
    instances: int | None
    """How many were fetched, or were here."""
    bytes: int | None
    """How many bytes were fetched."""
    changed_at: datetime
    brought: str | None = None
    """A digest of what the run has brought, once it is whole."""

    @property
    def was_here(self) -> bool:
        """Whether our Orthanc had it before: then it is never removed."""
        return self.copy is Copy.BEFORE

    def as_json(self) -> dict[str, Any]:
        """The study as JSON's types. Nothing in it identifies the patient."""
        return {
            "run_id": self.run_id,
            "position": self.position,
            "study_instance_uid": self.study_instance_uid,
            "state": self.state,
            "reason": self.reason,
            "is_permanent": self.is_permanent,
            "attempts": self.attempts,
            "orthanc_id": self.orthanc_id,
            "copy": self.copy,
            "was_here": self.was_here,
            "stated_instances": self.stated_instances,
            "instances": self.instances,
            "bytes": self.bytes,
            "changed_at": self.changed_at.isoformat(),
        }

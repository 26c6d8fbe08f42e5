"""How far an archive run has come, as a person asks: how fast it goes, how long yet, and what was the matter."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from coread.archive_hours import Hours
from coread.archive_run import Run, RunState, RunStudy, RunStudyState

WINDOWS = (timedelta(minutes=10), timedelta(minutes=1), timedelta(seconds=5))
"""What the rate is measured over: the first is long enough for studies of a minute, and short enough to follow what
changes; the others are for runs of which more studies end in it than are counted."""
MOST_COUNTED = 5000
SILENT = timedelta(seconds=60)
"""An archivist that has given no sign of life for so long does not run."""
MOST_LOOKED_AT = 1000
"""Of the studies that failed or were refused, so many are grouped by their reasons."""
UIDS_SHOWN = 3
FEW_HOURS, MANY_HOURS = 2, 48
"""A duration is told in minutes, hours, days."""

_OF_ONE_STUDY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}|[0-9]+(?:\.[0-9]+)*")
"""What differs in a reason from study to study: Orthanc's identifiers, UIDs, numbers."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a run goes."""

    per_hour: float | None
    """Studies that end in an hour, by the last WINDOWS; None if none has, or the run does not go on."""
    left_s: float | None
    """Seconds by the clock until it ends at this rate, its hours respected; None if there is no rate."""

    def as_json(self) -> dict[str, Any]:
        """The pace as JSON's types."""
        return {"per_hour": self.per_hour, "left_s": self.left_s}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A reason that several studies share, but for what is each one's own."""

    state: RunStudyState
    reason: str
    """With an ellipsis for what differs from study to study."""
    is_permanent: bool
    """Whether another attempt would end the same."""
    count: int
    first: tuple[str, ...]
    """StudyInstanceUIDs of the first of them."""

    def as_json(self) -> dict[str, Any]:
        """The trouble as JSON's types."""
        return {**vars(self), "first": list(self.first)}


class EndedSince(Protocol):
    """How many studies of a run have ended since a time, ``limit`` at most (`Ledger.ended_since`)."""

    def __call__(self, run_id: str, *, since: datetime, limit: int) -> int: ...


def measured_pace(run: Run, ended_since: EndedSince, *, at: datetime) -> Pace:
    """How fast a run goes."""
    if run.state is not RunState.RUNNING:
        return Pace(per_hour=None, left_s=None)
    for window in WINDOWS:
        since = max(run.created_at, at - window)
        ended = ended_since(run.run_id, since=since, limit=MOST_COUNTED)
        if ended < MOST_COUNTED:
            break
    return pace_of(run, ended=ended, since=since, at=at)


def pace_of(run: Run, *, ended: int, since: datetime, at: datetime) -> Pace:
    """How fast a run goes of which so many studies have ended since. ``at``: now; its own zone is of no matter."""
    elapsed_s = (at - since).total_seconds()
    if ended == 0 or elapsed_s <= 0:
        return Pace(per_hour=None, left_s=None)
    working_s = (run.studies - run.ended) * elapsed_s / ended
    hours = run.terms.hours
    left_s = Hours.parse(hours).clock_s(working_s, at=at.astimezone()) if hours else working_s
    return Pace(per_hour=3600 * ended / elapsed_s, left_s=left_s)


def troubles_of(studies: Iterable[RunStudy]) -> list[Trouble]:
    """The reasons of studies that failed or were refused, the commonest first."""
    groups: dict[tuple[RunStudyState, bool, str], list[RunStudy]] = {}
    for study in studies:
        key = (study.state, study.is_permanent, _OF_ONE_STUDY.sub("#", study.reason))
        groups.setdefault(key, []).append(study)
    troubles = [
        Trouble(
            state=group[0].state,
            reason=_common([study.reason for study in group]),
            is_permanent=group[0].is_permanent,
            count=len(group),
            first=tuple(study.study_instance_uid for study in group[:UIDS_SHOWN]),
        )
        for group in groups.values()
    ]
    return sorted(troubles, key=lambda trouble: -trouble.count)


def _common(reasons: list[str]) -> str:
    """What reasons that differ in UIDs and numbers alone have in common; what differs is left out."""
    values = zip(*(_OF_ONE_STUDY.findall(reason) for reason in reasons), strict=True)
    shared = iter([each[0] if len(set(each)) == 1 else "…" for each in values])
    return _OF_ONE_STUDY.sub(lambda _found: next(shared), reasons[0])


def duration(seconds: float) -> str:
    """Roughly how long, of what may take weeks."""
    hours = seconds / 3600
    if hours >= MANY_HOURS:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if hours >= FEW_HOURS else f"{max(1, round(seconds / 60))} min"


def is_silent(seen_at: datetime | None, *, at: datetime) -> bool:
    """Whether no archivist runs, by the last sign of life of any."""
    return seen_at is None or at - seen_at > SILENT

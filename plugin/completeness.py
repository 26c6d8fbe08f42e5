"""When a study counts as complete: a pure function of what arrived, what its sender said, and the clock.

Nobody tells Orthanc that a study is complete. So it is decided from evidence: what the source PACS says it has, whether
the images of each series lie like a finished stack, whether the sender is still connected, and how long it has paused
before. Only where that does not suffice, the study waits for a fixed time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coread.plugin.stacks import Shape
from coread.settings import IntakeSettings

PAUSES = 3
"""A sender that has paused for some time may do so again, and longer. For how many times as long it is waited for."""


MOST_REASONS = 5
"""How many reasons are told one by one: a study can have thousands of series."""


class Association(StrEnum):
    """Whether the association that a study's last instance came through is still open."""

    OPEN = "open"
    """It may be: a connection that was there when the instance arrived is still there."""
    CLOSED = "closed"
    """It is not, or there never was one (HTTP)."""
    UNKNOWN = "unknown"
    """The plugin was not running when the instance arrived, or cannot see the connections."""


@dataclass(frozen=True, kw_only=True)
class SeriesEvidence:
    """What is known of a series that instances of have arrived."""

    series_instance_uid: str
    here: int
    """How many instances there are in the archive."""
    shape: Shape
    stated: int | None = None
    """How many the source PACS says there are (NumberOfSeriesRelatedInstances, PS3.4 C.3.4)."""
    expected: int | None = None
    """How many the headers promise. They often count something else, so this is a hint."""


@dataclass(frozen=True, kw_only=True)
class StudyEvidence:
    """What is known of a study, its source series alone."""

    series: Sequence[SeriesEvidence]
    last_arrival_at: datetime
    """When the last instance arrived, or when the plugin started, if that was later."""
    longest_pause: timedelta
    """The longest time between two arrivals so far. A pause in which the association stayed open does not count: it
    says nothing of what comes after the association is over."""
    last_series: str | None
    """SeriesInstanceUID of the series that the last instance belongs to, if known."""
    association: Association
    stated_at: datetime | None = None
    """When the source PACS was asked for what it stated; None if it did not answer or is not known."""
    asking: bool = False
    """Whether the source PACS is being asked."""
    not_begun: int = 0
    """How many series the source PACS lists of which nothing is here."""

    @property
    def instances(self) -> int:
        return sum(series.here for series in self.series)


@dataclass(frozen=True, kw_only=True)
class Complete:
    """The study is to be read."""

    because: str


@dataclass(frozen=True, kw_only=True)
class WaitUntil:
    """The study may become complete at ``at``, if nothing else happens before."""

    at: datetime
    because: str


@dataclass(frozen=True, kw_only=True)
class Stalled:
    """Part of the study is missing and does not come: it is not read until it does, or a person wants it read."""

    because: str


Decision = Complete | WaitUntil | Stalled


def decide(evidence: StudyEvidence, *, now: datetime, settings: IntakeSettings) -> Decision:
    """Whether a study is complete, and if not, until when it waits and for what.

    The source PACS's counts go before everything: a series that has fewer instances here waits, and in the end stalls.
    """
    fallback_at = evidence.last_arrival_at + timedelta(seconds=settings.quiet_s)
    settled_at = min(evidence.last_arrival_at + timedelta(seconds=settings.settle_s), fallback_at)
    if now < settled_at:
        return WaitUntil(at=settled_at, because="instances are arriving")
    if missing := _missing(evidence):
        stalled_at = evidence.last_arrival_at + timedelta(seconds=settings.stalled_s)
        return WaitUntil(at=stalled_at, because=missing) if now < stalled_at else Stalled(because=missing)
    if _is_all_that_the_pacs_has(evidence):
        return Complete(because="every image that the source PACS lists has arrived")
    if doubts := _doubts(evidence):
        if now < fallback_at:
            return WaitUntil(at=fallback_at, because=doubts)
        return Complete(because=f"nothing has arrived for {settings.quiet_s:g} s; {doubts}")
    complete_at = min(max(settled_at, evidence.last_arrival_at + PAUSES * evidence.longest_pause), fallback_at)
    if now < complete_at:
        return WaitUntil(at=complete_at, because="its sender paused between associations, and may do so again")
    return Complete(because="no image is visibly missing, and its sender's association is over")


def _missing(evidence: StudyEvidence) -> str:
    """Which series lack images that the source PACS has."""
    missing = [
        f"{series.here} of {series.stated} images of series {series.series_instance_uid} have arrived"
        for series in _in_order(evidence)
        if series.stated is not None and series.here < series.stated
    ]
    return _said(missing)


def _is_all_that_the_pacs_has(evidence: StudyEvidence) -> bool:
    """The counts must be from after the last arrival: the PACS may have been receiving the study itself."""
    return (
        evidence.stated_at is not None
        and evidence.stated_at >= evidence.last_arrival_at
        and not evidence.not_begun
        and bool(evidence.series)
        and all(series.stated is not None for series in evidence.series)
    )


def _doubts(evidence: StudyEvidence) -> str:
    """What speaks against the study being complete, or leaves it open."""
    doubts = [doubt for series in _in_order(evidence) for doubt in _doubts_of(series, evidence)]
    if evidence.last_series is None:
        doubts.append("it is not known which series grew last")
    if evidence.not_begun:
        doubts.append(f"the source PACS lists {evidence.not_begun} more series")
    if evidence.asking:
        doubts.append("the source PACS has not answered yet")
    if evidence.association is Association.OPEN:
        doubts.append("its sender may still be connected")
    elif evidence.association is Association.UNKNOWN:
        doubts.append("it is not known whether its sender is still connected")
    return _said(doubts)


def _said(reasons: Sequence[str]) -> str:
    """The reasons as a line of text, be they as many as a study's series."""
    more = len(reasons) - MOST_REASONS
    return "; ".join([*reasons[:MOST_REASONS], *([f"and {more} more such reasons"] if more > 0 else [])])


def _doubts_of(series: SeriesEvidence, evidence: StudyEvidence) -> list[str]:
    uid = series.series_instance_uid
    if series.shape is Shape.GAP:
        return [f"a slice seems to be missing in series {uid}"]
    if series.expected is not None and series.here < series.expected:
        return [f"the header promises {series.expected} images of series {uid}, {series.here} have arrived"]
    is_all = series.here in (series.expected, series.stated)
    if series.shape is Shape.BEGUN and uid == evidence.last_series and not is_all:
        return [f"series {uid} could be the beginning of a stack"]
    return []


def _in_order(evidence: StudyEvidence) -> list[SeriesEvidence]:
    return sorted(evidence.series, key=lambda series: series.series_instance_uid)

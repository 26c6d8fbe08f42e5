"""What a run over a cohort is thought to take, and from what that is concluded.

Nothing here is made up: where nothing is known, it says so, and how to find out.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coread.archive_hours import Hours
from coread.cohort.found import BYTES
from coread.cohort.gather import Group
from coread.retrieval.answers import Answer, number_in, values_in
from coread.timeline import Row

PILOT = 20
"""Studies of a pilot: enough to see how long one takes."""
DAY_H = 24.0
LEARNT_FROM = 200
"""Of each modality, so many studies of our own Orthanc tell what is usual."""


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What is usual of a modality, as learnt from our own Orthanc."""

    bytes_per_instance: float
    instances_per_study: float
    studies: int
    """From how many."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a run is to go."""

    workers: int
    studies_per_minute: float | None = None
    hours: str | None = None
    """Of the day, such as ``19:00-07:00``."""

    @property
    def hours_a_day(self) -> float:
        """How many hours of a day studies are begun. Raises ConfigurationError if ``hours`` is not two times of day."""
        return DAY_H if self.hours is None else Hours.parse(self.hours).length_s / 3600


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run is thought to take."""

    studies: int
    instances: int | None
    """Stated by the source; None if it does not say it of each study."""
    bytes: int | None
    """Measured; None if it was not of each study."""
    bytes_estimated: int | None
    """Measured, and for the rest what is usual; None if of some nothing is known."""
    bytes_unknown: int
    """Of how many studies nothing is known."""
    seconds_by_model: Mapping[str, float]
    """Model → how long a study took with it, seconds (median of earlier jobs)."""
    jobs_by_model: Mapping[str, int]
    """From how many jobs that is known."""
    hours: float | None
    """From begin to end; None if nothing is known of a model, or none was named."""
    bounded_by: str
    """What the hours hang on: ``models`` or ``pace``; empty if they are not known."""
    notes: Sequence[str] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """The estimate as JSON's types, without what the plan's header says by itself."""
        return {
            "bytes": self.bytes_estimated,
            "studies_of_unknown_size": self.bytes_unknown,
            "seconds_by_model": dict(self.seconds_by_model),
            "jobs_by_model": dict(self.jobs_by_model),
            "hours": None if self.hours is None else round(self.hours, 2),
            "bounded_by": self.bounded_by,
            "notes": list(self.notes),
        }


def usual_sizes(answers: Iterable[Answer], *, most: int = LEARNT_FROM) -> dict[str, Usual]:
    """What is usual of each modality, from studies that our own Orthanc lists. Those of several modalities count for
    each of them that holds images.
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for answer in answers:
        size, instances = number_in(answer, BYTES), number_in(answer, "NumberOfStudyRelatedInstances")
        for modality in _imaging(tuple(values_in(answer, "ModalitiesInStudy"))):
            if size and instances and len(seen.setdefault(modality, [])) < most:
                seen[modality].append((size, instances))
    return {
        modality: Usual(
            bytes_per_instance=sum(size for size, _ in each) / sum(count for _, count in each),
            instances_per_study=sum(count for _, count in each) / len(each),
            studies=len(each),
        )
        for modality, each in seen.items()
        if each
    }


def seconds_by_model(rows: Iterable[Row], models: Sequence[str]) -> dict[str, list[float]]:
    """Model → how long each of its jobs took, seconds, from the first stage to the last."""
    taken: dict[str, list[float]] = {model: [] for model in models}
    for row in rows:
        if row.model in taken:
            taken[row.model].append((row.end - row.begin).total_seconds())
    return taken


def estimate(
    groups: Sequence[Group],
    *,
    usual: Mapping[str, Usual],
    models: Sequence[str],
    taken_s: Mapping[str, Sequence[float]],
    pace: Pace,
) -> Estimate:
    """What a run over a cohort is thought to take."""
    studies = sum(group.studies for group in groups)
    estimated, unknown = _bytes(groups, usual)
    medians = {model: statistics.median(taken_s[model]) for model in models if taken_s.get(model)}
    hours, bounded_by = _hours(studies, models, medians, pace)
    is_counted = all(group.counted == group.studies for group in groups)
    is_measured = all(group.measured == group.studies for group in groups)
    return Estimate(
        studies=studies,
        instances=sum(group.instances for group in groups) if is_counted else None,
        bytes=sum(group.bytes for group in groups) if is_measured else None,
        bytes_estimated=estimated if not unknown else None,
        bytes_unknown=unknown,
        seconds_by_model=medians,
        jobs_by_model={model: len(taken_s.get(model, ())) for model in models},
        hours=hours,
        bounded_by=bounded_by,
        notes=tuple(_notes(groups, models=models, medians=medians, unknown=unknown)),
    )


def _bytes(groups: Sequence[Group], usual: Mapping[str, Usual]) -> tuple[int, int]:
    """Bytes of the studies of which something is known, and the number of the others."""
    total, unknown = 0.0, 0
    for group in groups:
        total += group.bytes
        known = [usual[modality] for modality in _imaging(group.modalities) if modality in usual]
        if known:
            each = max(known, key=lambda one: one.instances_per_study * one.bytes_per_instance)
            total += group.instances_unmeasured * each.bytes_per_instance
            total += group.unknown * each.instances_per_study * each.bytes_per_instance
        else:
            unknown += group.counted_unmeasured + group.unknown
    return round(total), unknown


def _hours(studies: int, models: Sequence[str], medians: Mapping[str, float], pace: Pace) -> tuple[float | None, str]:
    if not models or len(medians) < len(models):
        return None, ""
    by_models = studies * sum(medians.values()) / pace.workers / 3600
    by_pace = studies / pace.studies_per_minute / 60 if pace.studies_per_minute else 0.0
    slower = max(by_models, by_pace)
    return slower * DAY_H / pace.hours_a_day, "pace" if by_pace > by_models else "models"


def _notes(
    groups: Sequence[Group], *, models: Sequence[str], medians: Mapping[str, float], unknown: int
) -> Iterable[str]:
    if not models:
        yield "no model was named: say --model to learn how long it takes"
    for model in models:
        if model not in medians:
            yield (
                f"nothing is known of how long {model} takes: let it read a pilot (--sample {PILOT}), and plan again"
            )
    if any(group.counted < group.studies for group in groups):
        yield "the source does not say of every study how many instances it has"
    if unknown:
        yield f"the size of {unknown} studies is not known: our Orthanc has none of their modalities to learn from"
    elif any(group.measured < group.studies for group in groups):
        yield "bytes are estimated from what our Orthanc has of the same modalities"
    if medians:
        yield "hours are estimated from earlier jobs; what retrieval takes is not in them"


NOT_IMAGING = frozenset({"SR", "SEG", "KO", "PR", "DOC", "RWV", "REG", "PLAN", "AU", "ANN"})
"""Modalities whose objects are small, or go with images: they say nothing of how large a study is."""


def _imaging(modalities: Sequence[str]) -> tuple[str, ...]:
    return tuple(each for each in modalities if each not in NOT_IMAGING) or tuple(modalities)

"""A problem that a rule found, and what the rules look at."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from pydicom.dataset import Dataset


class Severity(StrEnum):
    """An error makes the object wrong or unusable; a warning makes it worse than it need be."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong, where in the dataset, and by which part of the standard. It quotes no patient's data."""

    rule: str
    where: str
    expected: str
    found: str
    section: str
    severity: Severity = Severity.ERROR


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An object to be judged, with everything that it may speak of: SOP Instance UID → dataset."""

    dataset: Dataset
    results: Mapping[str, Dataset]
    """The objects that are judged together, this one among them."""
    sources: Mapping[str, Dataset]
    """The images that it was made from; empty if they are not at hand."""
    repeated_uids: frozenset[str] = frozenset()
    """SOP Instance UIDs that more than one of the files has."""
    contents: dict[int, object] = field(default_factory=dict)
    """What was learned from an object's pixels, so that they are read once: id of the dataset → content."""

    def instance(self, uid: str) -> Dataset | None:
        """The object with a SOP Instance UID, if it is at hand."""
        return self.sources.get(uid) or self.results.get(uid)


Rule = Callable[[Subject], Iterator[Problem]]


def problems_of(rule: str, section: str) -> Callable[..., Problem]:
    """A maker of problems of one kind: ``where``, ``expected`` and ``found`` are what it still needs."""
    return partial(_problem, rule, section)


def _problem(
    rule: str, section: str, where: str, expected: str, found: str, severity: Severity = Severity.ERROR
) -> Problem:
    return Problem(rule=rule, where=where, expected=expected, found=found, section=section, severity=severity)

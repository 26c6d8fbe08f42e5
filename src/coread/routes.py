"""The grammar of ``[[route]]``: which studies which models read, how urgently, and what becomes of the results.

A condition knows three answers: it holds, it does not, or it cannot be said. What cannot be said is no match, and its
negation is none either: an age that is not known is neither under 18 nor not under 18.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Annotated, Protocol

import regex
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator

from coread.errors import ConfigurationError
from coread.job import Priority
from coread.objects import Profile

REGEX_TIMEOUT_S = 0.05
"""A pattern that has not come to an end by then never will: a header must not hold up the intake."""

IDENTIFYING = frozenset(
    {
        "AdmissionID",
        "BranchOfService",
        "CountryOfResidence",
        "InsurancePlanIdentification",
        "IssuerOfPatientID",
        "MedicalRecordLocator",
        "MilitaryRank",
        "OrderCallbackPhoneNumber",
        "OrderCallbackTelecomInformation",
        "OtherPatientIDs",
        "PatientAddress",
        "PatientBirthDate",
        "PatientBirthDateInAlternativeCalendar",
        "PatientBirthTime",
        "PatientComments",
        "PatientDeathDateInAlternativeCalendar",
        "PatientID",
        "PatientInstitutionResidence",
        "PatientName",
        "PatientReligiousPreference",
        "PatientTelecomInformation",
        "PatientTelephoneNumbers",
        "PersonAddress",
        "PersonTelecomInformation",
        "PersonTelephoneNumbers",
        "ReferringPhysicianAddress",
        "ReferringPhysicianTelephoneNumbers",
        "RegionOfResidence",
        "ResponsibleOrganization",
        "ScheduledPatientInstitutionResidence",
        "ServiceEpisodeID",
    }
)
"""Attributes that say who somebody is; together with every name of a person (VR PN), no route matches them."""

AGE = "PatientAge"

OF_THE_FILE = frozenset({"SourceApplicationEntityTitle", "TransferSyntaxUID"})
"""Attributes of the File Meta Information (group 0002) that a route can match; the others say nothing of a study."""

COMPUTED = frozenset(
    {
        "ModalitiesInStudy",
        "NumberOfSeriesRelatedInstances",
        "NumberOfStudyRelatedInstances",
        "NumberOfStudyRelatedSeries",
        "SOPClassesInStudy",
    }
)
"""Attributes that stand in no header: they are counted over the source series that are there."""

OF_WORKLIST = frozenset(
    {
        "RequestedProcedureCodeSequence",
        "RequestedProcedurePriority",
        "ScheduledProcedureStepDescription",
        "ScheduledProtocolCodeSequence",
    }
)
"""Attributes that are taken from the modality worklist's entry of a study, never from its images; of a code sequence
the values are ``CODE^SCHEME``.
"""

NOT_TEXT = frozenset({"AT", "SQ", "OB", "OD", "OF", "OL", "OV", "OW"})
"""Value representations that hold no value which a condition could look at."""


class Condition(Protocol):
    """What a route asks of an attribute."""

    def holds(self, values: tuple[str, ...], *, numbers: tuple[float, ...] | None = None) -> bool | None:
        """Whether one of the values is as asked for; None: it cannot be said.

        ``values``: none if the attribute is absent or empty. ``numbers``: what counts as its numbers, if those are not
        its values: of PatientAge, the years.
        """
        ...

    def describe(self) -> str:
        """What is asked for, in words."""
        ...


@dataclass(frozen=True)
class Glob:
    """A text with ``*`` and ``?``, case ignored. An absent attribute is the empty text."""

    pattern: str

    @cached_property
    def _matches(self) -> Callable[[str], object]:
        # Square brackets are letters like any other: descriptions are full of them.
        return re.compile(translate(self.pattern.casefold().replace("[", "[[]"))).match

    def holds(self, values: tuple[str, ...], *, numbers: tuple[float, ...] | None = None) -> bool | None:  # noqa: ARG002
        return any(self._matches(text.casefold()) for text in _texts(values))

    def describe(self) -> str:
        return f"`{self.pattern}`" if self.pattern else "absent or empty"


@dataclass(frozen=True)
class Regex:
    """A regular expression that the whole text matches. Raises TimeoutError if it does not come to an end."""

    pattern: str

    @cached_property
    def compiled(self) -> "regex.Pattern[str]":
        """Raises ``regex.error`` if it is not one."""
        return regex.compile(self.pattern)

    def holds(self, values: tuple[str, ...], *, numbers: tuple[float, ...] | None = None) -> bool | None:  # noqa: ARG002
        return any(self.compiled.fullmatch(text, timeout=REGEX_TIMEOUT_S) for text in _texts(values))

    def describe(self) -> str:
        return f"regex `{self.pattern}`"


@dataclass(frozen=True)
class Bounds:
    """A number from ``low`` to ``high``, both included; of PatientAge, years."""

    low: float | None
    high: float | None

    def holds(self, values: tuple[str, ...], *, numbers: tuple[float, ...] | None = None) -> bool | None:
        if numbers is None:
            numbers = tuple(number for number in map(_number, values) if number is not None)
        if not numbers:
            return None
        return any(
            (self.low is None or self.low <= number) and (self.high is None or number <= self.high)
            for number in numbers
        )

    def describe(self) -> str:
        limits = [("at least", self.low), ("at most", self.high)]
        return " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


@dataclass(frozen=True)
class AnyOf:
    """One condition or another."""

    conditions: tuple[Condition, ...]

    def holds(self, values: tuple[str, ...], *, numbers: tuple[float, ...] | None = None) -> bool | None:
        answers = [condition.holds(values, numbers=numbers) for condition in self.conditions]
        if any(answers):
            return True
        return None if None in answers else False

    def describe(self) -> str:
        return " or ".join(condition.describe() for condition in self.conditions)


@dataclass(frozen=True)
class Not:
    """The contrary of a condition."""

    condition: Condition

    def holds(self, values: tuple[str, ...], *, numbers: tuple[float, ...] | None = None) -> bool | None:
        answer = self.condition.holds(values, numbers=numbers)
        return None if answer is None else not answer

    def describe(self) -> str:
        said = self.condition.describe()
        return f"not ({said})" if isinstance(self.condition, AnyOf) else f"not {said}"


def _texts(values: tuple[str, ...]) -> tuple[str, ...]:
    """What a text is compared with: each value, and all of them as they stand in the header."""
    return (*values, "\\".join(values)) if len(values) != 1 else values


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


WHAT_A_CONDITION_IS = (
    'expected a text, a list, { regex = "…" }, { min = …, max = … } or { not = … }; see docs/routing.md'
)


def condition_of(value: object) -> Condition:
    """A condition as it stands in the settings file. Raises ValueError, which says what is wrong with it."""
    if isinstance(value, Glob | Regex | Bounds | AnyOf | Not):
        return value
    if isinstance(value, str):
        return Glob(value)
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("the list is empty, and nothing would match; name what may match, or leave the key out")
        return AnyOf(tuple(condition_of(each) for each in value))
    if isinstance(value, Mapping):
        return _table(value)
    raise ValueError(f"found {type(value).__name__}; {WHAT_A_CONDITION_IS}")


def _table(value: Mapping[str, object]) -> Condition:
    keys = set(value)
    if keys == {"not"}:
        return Not(condition_of(value["not"]))
    if keys == {"regex"}:
        return _regex(value["regex"])
    if keys and keys <= {"min", "max"}:
        return _bounds(value.get("min"), value.get("max"))
    raise ValueError(f"found a table with {', '.join(sorted(keys)) or 'nothing in it'}; {WHAT_A_CONDITION_IS}")


def _regex(pattern: object) -> Regex:
    if not isinstance(pattern, str):
        raise ValueError(f"regex: expected a text, found {type(pattern).__name__}")  # noqa: TRY004  # for pydantic
    condition = Regex(pattern)
    try:
        _ = condition.compiled
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"`{pattern}` is not a regular expression: {error}; correct it") from error
    return condition


def _bounds(lowest: object, highest: object) -> Bounds:
    low, high = _limit(lowest), _limit(highest)
    if low is not None and high is not None and low > high:
        raise ValueError(f"min is {low:g} and max {high:g}, and nothing would match; exchange them")
    return Bounds(low, high)


def _limit(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"min and max: expected numbers, found {type(value).__name__}")  # noqa: TRY004  # for pydantic
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("min and max: expected finite numbers; leave out the one that does not limit")
    return number


Keyword = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$")]
Described = Annotated[
    Condition, PlainValidator(condition_of), PlainSerializer(lambda condition: condition.describe(), return_type=str)
]


class Route(BaseModel):
    """``[[route]]``: which studies which models read."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: Annotated[str, Field(min_length=1)]
    """The route's name, for people."""
    match: dict[Keyword, Described] = Field(default_factory=dict)
    """DICOM keyword → what is asked of it. A route matches a study if one of its series meets every condition; a
    route without a condition matches every study."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the models that read the study."""
    priority: Priority = Priority.ROUTINE
    """`stat`, `routine` or `batch`."""
    profiles: Annotated[tuple[Profile, ...], Field(min_length=1)] | None = None
    """What the results are for, if not for what `results.profiles` says."""
    destinations: tuple[str, ...] = ()
    """Names of the `[[destination]]` entries that the results go to."""

    @field_validator("match")
    @classmethod
    def _identifies_nobody(cls, match: dict[str, Condition]) -> dict[str, Condition]:
        for keyword in match:
            if keyword in IDENTIFYING:
                raise ValueError(_why_not(keyword))
        return match


def check_destinations(routes: Iterable[Route], names: AbstractSet[str]) -> None:
    """Raises ValueError if a route names a destination that is not one of ``names``."""
    for route in routes:
        unknown = sorted(set(route.destinations) - names)
        if unknown:
            known = ", ".join(sorted(names)) or "none"
            raise ValueError(f"route {route.name}: there is no destination {', '.join(unknown)}; there are: {known}")


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """What a DICOM dictionary says of a keyword."""

    group: int
    vr: str


Dictionary = Callable[[str], Attribute | None]
"""Keyword → attribute; None: the dictionary does not know it. Orthanc's inside Orthanc, pydicom's elsewhere."""


def check_keywords(routes: Iterable[Route], dictionary: Dictionary) -> None:
    """Raises ConfigurationError if a route matches a keyword that does not exist, or that no route can match."""
    for route in routes:
        for keyword in route.match:
            reason = _refusal(keyword, dictionary(keyword))
            if reason:
                raise ConfigurationError(f"route {route.name}: {reason}")


def _refusal(keyword: str, attribute: Attribute | None) -> str:
    if keyword in OF_THE_FILE | COMPUTED | OF_WORKLIST:
        return ""
    if attribute is None:
        return (
            f"expected a DICOM keyword, found {keyword}; look it up in PS3.6: capital letters matter, and one that is "
            "newer than Orthanc's dictionary cannot be matched"
        )
    if attribute.vr == "PN":
        return _why_not(keyword)
    if attribute.group <= 0x0007:
        return f"{keyword} stands in no image's header; match something of the study, the series or the image"
    if attribute.vr in NOT_TEXT:
        return f"{keyword} holds no text and no number (VR {attribute.vr}); match an attribute with a text or number"
    return ""


def _why_not(keyword: str) -> str:
    return (
        f"{keyword} cannot be matched: it says who somebody is, and what routes match stands in settings and "
        "explanations; match what was done and where: SourceApplicationEntityTitle, StudyDescription, PatientAge"
    )

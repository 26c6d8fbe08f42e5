"""What routes look at: of each source series of a study the values of the keywords that they name, and no others.

It is the same value whether the study lies in Orthanc or in a folder, so that a route can be tried on files.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType

from coread.patient_age import age_years
from coread.routes import AGE, COMPUTED, OF_WORKLIST, Route

YEN = "\N{YEN SIGN}"

OF_AGE = ("PatientAge", "PatientBirthDate", "StudyDate")
"""What an age is told from. Only the age in years goes into the facts, never the date of birth."""


@dataclass(frozen=True, kw_only=True)
class SeriesFacts:
    """A source series. ``values``: keyword → its values, none if it is absent or empty; ``age_years``: the patient's
    age when the study was made, None if it is not known or no route asks for it.
    """

    series_instance_uid: str
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    age_years: float | None = None


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """A study as routes see it, its series in the order of their UIDs."""

    study_instance_uid: str
    series: tuple[SeriesFacts, ...]


@dataclass(frozen=True, kw_only=True)
class Header:
    """A source series as it was read. ``texts``: keyword → text, several values with a backslash between them.
    ``instances``: how many there are.
    """

    series_instance_uid: str
    texts: Mapping[str, str]
    modality: str
    sop_class_uid: str
    instances: int


def keywords_of(routes: Iterable[Route]) -> frozenset[str]:
    """The keywords that routes name."""
    return frozenset(keyword for route in routes for keyword in route.match)


def keywords_to_read(keywords: AbstractSet[str]) -> frozenset[str]:
    """The keywords whose texts are read of a series, so that the facts can be made."""
    return frozenset(keywords - COMPUTED - OF_WORKLIST).union(OF_AGE if AGE in keywords else ())


def facts_of(
    study_instance_uid: str,
    headers: Sequence[Header],
    keywords: AbstractSet[str],
    *,
    of_worklist: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> StudyFacts:
    """The facts of a study, from what was read of its source series, and what the modality worklist says of it."""
    ordered = sorted(headers, key=lambda header: header.series_instance_uid)
    of_study = {
        "ModalitiesInStudy": tuple(sorted({header.modality for header in headers} - {""})),
        "SOPClassesInStudy": tuple(sorted({header.sop_class_uid for header in headers} - {""})),
        "NumberOfStudyRelatedSeries": (str(len(headers)),),
        "NumberOfStudyRelatedInstances": (str(sum(header.instances for header in headers)),),
        **{keyword: of_worklist.get(keyword, ()) for keyword in OF_WORKLIST},
    }
    return StudyFacts(
        study_instance_uid=study_instance_uid,
        series=tuple(_series(header, of_study, keywords) for header in ordered),
    )


def _series(header: Header, of_study: Mapping[str, tuple[str, ...]], keywords: AbstractSet[str]) -> SeriesFacts:
    computed = {**of_study, "NumberOfSeriesRelatedInstances": (str(header.instances),)}
    stated, born, seen = (header.texts.get(keyword, "") for keyword in OF_AGE)
    return SeriesFacts(
        series_instance_uid=header.series_instance_uid,
        values={
            keyword: computed[keyword] if keyword in computed else _values(header.texts.get(keyword, ""))
            for keyword in sorted(keywords)
        },
        age_years=age_years(stated=stated, born=born, seen=seen) if AGE in keywords else None,
    )


def _values(text: str) -> tuple[str, ...]:
    # Decoded from ISO-IR 14 (Japan), the code of the backslash is a yen sign; it separates values all the same
    # (PS3.5 6.1.2.3).
    values = tuple(value.strip(" \0") for value in text.replace(YEN, "\\").split("\\"))
    return values if any(values) else ()

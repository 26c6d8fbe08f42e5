"""A study that a source lists, and the filters that it passes or not.

A filter knows three answers: it passes, it does not, or the source does not say. What is not said is no match, and is
counted apart: a person may then ask otherwise.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypeVar

from coread.patient_age import age_years
from coread.retrieval.answers import Answer, number_in, values_in
from coread.routes import Glob

STUDY_KEYS = ("StudyInstanceUID", "StudyDate", "ModalitiesInStudy", "StudyDescription", "NumberOfStudyRelatedInstances")
"""What is asked of every study."""
PERSONAL_KEYS = ("PatientSex", "PatientAge", "PatientBirthDate")
"""What is asked besides if age or sex are filtered by. None of it is written down."""
SERIES_KEYS = ("SeriesInstanceUID", "Modality", "BodyPartExamined", "NumberOfSeriesRelatedInstances")
BYTES = "CoreadBytes"
"""The keyword, which is no DICOM keyword, under which our own Orthanc's answers say how large a study is."""
SEXES = ("F", "M", "O")
"""PatientSex (PS3.3 C.7.1.1)."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A study as its source lists it. What the source does not say is None, or empty."""

    study_instance_uid: str
    study_date: str = ""
    modalities: frozenset[str] = frozenset()
    description: str | None = None
    instances: int | None = None
    bytes: int | None = None
    body_parts: frozenset[str] = frozenset()
    age_years: float | None = None
    sex: str = ""

    def with_series(self, series: list[Answer]) -> "Found":
        """The same, with what its series say where the study does not."""
        counts = [number_in(each, "NumberOfSeriesRelatedInstances") for each in series]
        counted = sum(each or 0 for each in counts) if counts and None not in counts else None
        return replace(
            self,
            modalities=self.modalities or _values(series, "Modality"),
            body_parts=_values(series, "BodyPartExamined"),
            instances=counted if self.instances is None else self.instances,
        )


def found_in(answer: Answer) -> Found | None:
    """The study of an answer; None if it is none, for want of a StudyInstanceUID."""
    uid = answer.get("StudyInstanceUID", "").strip()
    if not uid or len(uid) > 64 or not set(uid) <= set("0123456789."):  # PS3.5 9.1
        return None
    date = answer.get("StudyDate", "").replace(".", "").strip()
    return Found(
        study_instance_uid=uid,
        study_date=date if len(date) == len("20260101") and date.isascii() and date.isdigit() else "",
        modalities=frozenset(values_in(answer, "ModalitiesInStudy")),
        description=answer.get("StudyDescription"),
        instances=number_in(answer, "NumberOfStudyRelatedInstances"),
        bytes=number_in(answer, BYTES),
        body_parts=frozenset(values_in(answer, "BodyPartExamined")),
        age_years=age_years(
            stated=answer.get("PatientAge", ""),
            born=answer.get("PatientBirthDate", ""),
            seen=answer.get("StudyDate", ""),
        ),
        sex=answer.get("PatientSex", "").strip().upper(),
    )


def _values(series: list[Answer], keyword: str) -> frozenset[str]:
    return frozenset(value for each in series for value in values_in(each, keyword))


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What the studies of a cohort have in common. None or nothing: whatever."""

    modalities: AbstractSet[str] = frozenset()
    """One of them must be in the study."""
    first_date: str | None = None
    """YYYYMMDD, included."""
    last_date: str | None = None
    description: str | None = None
    """A text with ``*`` and ``?``, case ignored."""
    body_parts: AbstractSet[str] = frozenset()
    """One of its series must be of one of them."""
    min_instances: int | None = None
    max_instances: int | None = None
    min_age_years: float | None = None
    max_age_years: float | None = None
    sex: str | None = None

    @property
    def is_personal(self) -> bool:
        """Whether age or sex must be asked for."""
        return (self.min_age_years, self.max_age_years, self.sex) != (None, None, None)

    def judge(self, study: Found) -> Mapping[str, bool | None]:
        """What each filter that is set says of a study: it passes, it does not, or None: that is not known."""
        said: dict[str, bool | None] = {}
        if self.modalities:
            said["modality"] = _any(study.modalities, self.modalities)
        if self.first_date or self.last_date:
            said["date"] = _between(study.study_date or None, self.first_date, self.last_date)
        if self.description is not None:
            said["description"] = (
                None if study.description is None else Glob(self.description).holds((study.description,))
            )
        if self.sex:
            said["sex"] = study.sex == self.sex if study.sex else None
        if self.min_age_years is not None or self.max_age_years is not None:
            said["age"] = _between(study.age_years, self.min_age_years, self.max_age_years)
        if self.min_instances is not None or self.max_instances is not None:
            said["number of instances"] = _between(study.instances, self.min_instances, self.max_instances)
        if self.body_parts:
            said["body part"] = _any(study.body_parts, self.body_parts)
        return said


IN_SERIES = frozenset({"modality", "body part", "number of instances"})
"""What the series of a study say where the study itself does not."""


def _any(found: AbstractSet[str], wanted: AbstractSet[str]) -> bool | None:
    return bool({each.upper() for each in found} & {each.upper() for each in wanted}) if found else None


Ordered = TypeVar("Ordered", str, float)


def _between(value: Ordered | None, low: Ordered | None, high: Ordered | None) -> bool | None:
    if value is None:
        return None
    return (low is None or low <= value) and (high is None or value <= high)


def left_out_because(study: Found, filters: Filters, *, only: AbstractSet[str] | None = None) -> tuple[str, bool]:
    """Why a study is left out of a cohort, the empty text if it is not; and whether that hangs on its series, which are
    to be asked for then. ``only``: the names of the filters that count, by default all.
    """
    said = {name: answer for name, answer in filters.judge(study).items() if only is None or name in only}
    for name, answer in said.items():
        if answer is False:
            return name, False
    unknown = [name for name, answer in said.items() if answer is None]
    for_good = [name for name in unknown if name not in IN_SERIES]
    if not unknown:
        return "", False
    return f"{(for_good or unknown)[0]} not stated", not for_good

"""Which workitems a query asks for: the keys of PS3.4 Table CC.2.5-3, by the matching of PS3.4 C.2.2.2."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Any

from coread.plugin.ups import dataset as dicom
from coread.plugin.ups.dataset import KEYWORDS, BadRequest
from coread.workitem import PRIORITIES, WorkitemState

RANGES = frozenset(
    {
        "ExpectedCompletionDateTime",
        "PatientBirthDate",
        "PerformedProcedureStepStartDateTime",
        "PerformedProcedureStepEndDateTime",
        "ScheduledProcedureStepModificationDateTime",
        "ScheduledProcedureStepStartDateTime",
    }
)
CODES = frozenset({"CodeValue", "CodingSchemeDesignator", "CodeMeaning", "LongCodeValue"})
KEYS: frozenset[str] = frozenset(
    {
        "AccessionNumber",
        "AdmissionID",
        "InputReadinessState",
        "PatientID",
        "PatientName",
        "PatientSex",
        "IssuerOfPatientID",
        "ProcedureStepLabel",
        "ProcedureStepState",
        "SOPClassUID",
        "SOPInstanceUID",
        "ScheduledProcedureStepPriority",
        "StudyInstanceUID",
        "WorklistLabel",
        *RANGES,
        "InputInformationSequence.StudyInstanceUID",
        "ReferencedRequestSequence.AccessionNumber",
        "ReferencedRequestSequence.RequestedProcedureID",
        "ReferencedRequestSequence.StudyInstanceUID",
        *(
            f"{sequence}.{each}"
            for sequence in (
                "ScheduledStationNameCodeSequence",
                "ScheduledStationClassCodeSequence",
                "ScheduledStationGeographicLocationCodeSequence",
                "ScheduledWorkitemCodeSequence",
            )
            for each in CODES
        ),
    }
)
"""What can be asked for: keywords, those inside sequences after a dot."""
SHORT = {
    "AccessionNumber": "ReferencedRequestSequence.AccessionNumber",
    "StudyInstanceUID": "InputInformationSequence.StudyInstanceUID",
}
"""Keys that stand in a sequence, and are understood without it."""
PATIENT_KEYS = frozenset({"PatientID", "PatientName", "PatientSex", "PatientBirthDate", "IssuerOfPatientID"})

NAME_OF_TAG = {tag: keyword for keyword, (tag, _vr) in KEYWORDS.items()}
MOST_WORKITEMS = 1000
MOST_KEYS = 50
LONGEST_KEY = 256


@dataclass(frozen=True, kw_only=True)
class Query:
    """A search. ``keys``: what is asked of which attribute; ``fields``: attributes to be answered besides the usual."""

    keys: Mapping[str, str] = field(default_factory=dict)
    fields: frozenset[str] = frozenset()
    everything: bool = False
    limit: int = 100
    offset: int = 0

    @property
    def states(self) -> list[WorkitemState]:
        """The states that are asked for; none: any."""
        asked = self.keys.get("ProcedureStepState", "")
        return [WorkitemState(asked)] if asked and asked in list(WorkitemState) else []

    @property
    def priority(self) -> str | None:
        """The Scheduled Procedure Step Priority that is asked for; None: any."""
        return self.keys.get("ScheduledProcedureStepPriority")


def query_of(asked: Mapping[str, str]) -> Query:
    """The query of a request. Raises BadRequest, which says what was expected."""
    if len(asked) > MOST_KEYS:
        raise BadRequest(f"expected at most {MOST_KEYS} query parameters, found more")
    keys = keys_of(
        {
            name: text
            for name, text in asked.items()
            if name not in ("limit", "offset", "includefield", "fuzzymatching", "accept")
        }
    )
    fields = [name for name in asked.get("includefield", "").split(",") if name]
    return Query(
        keys=keys,
        fields=frozenset(_path(name).partition(".")[0] for name in fields if name != "all"),
        everything="all" in fields,
        limit=min(_number(asked.get("limit", "100"), name="limit"), MOST_WORKITEMS),
        offset=_number(asked.get("offset", "0"), name="offset"),
    )


def keys_of(asked: Mapping[str, str]) -> dict[str, str]:
    """Matching keys by keyword. Raises BadRequest if one cannot be matched."""
    keys = {}
    for name, text in asked.items():
        path = _path(name)
        if path not in KEYS:
            raise BadRequest(
                f"expected a key that workitems are found by ({', '.join(sorted(KEYS))}), found another one"
            )
        if len(text) > LONGEST_KEY:
            raise BadRequest(f"{path}: expected at most {LONGEST_KEY} characters, found more")
        if text:
            keys[SHORT.get(path, path)] = text
    _check_value(keys, "ProcedureStepState", list(WorkitemState))
    _check_value(keys, "ScheduledProcedureStepPriority", list(PRIORITIES.values()))
    return keys


def matches(dataset: Mapping[str, Any], keys: Mapping[str, str]) -> bool:
    """Whether a workitem is asked for."""
    return all(_matches(path, values_at(dataset, path), text) for path, text in keys.items())


def values_at(dataset: Mapping[str, Any], path: str) -> list[str]:
    """The values of an attribute, or of the same attribute in every item of a sequence."""
    outer, _, inner = path.partition(".")
    if not inner:
        return [dicom.as_text(value) for value in dicom.values_of(dataset, outer)]
    return [text for item in dicom.items_of(dataset, outer) for text in values_at(item, inner)]


def _matches(path: str, values: Sequence[str], text: str) -> bool:
    keyword = path.rpartition(".")[2]
    if keyword in RANGES and "-" in text[1:-1] + text[:1] + text[-1:]:
        return any(_is_within(value, text) for value in values)
    if keyword in RANGES:
        return any(value.startswith(text) for value in values)
    if keyword.endswith("UID"):
        return any(value in text.split("\\") or value in text.split(",") for value in values)
    if keyword == "PatientName":
        return any(_glob(text.casefold()).match(value.casefold()) for value in values)
    return any(_glob(text).match(value) for value in values)


def _is_within(value: str, text: str) -> bool:
    """Range matching (PS3.4 C.2.2.2.5): a shorter bound stands for all that begins with it."""
    first, _, last = text.partition("-")
    return (not first or value[: len(first)] >= first) and (not last or value[: len(last)] <= last)


@lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern.replace("[", "[[]")))


def _path(name: str) -> str:
    """A key by keywords or by tags, as keywords."""
    return ".".join(NAME_OF_TAG.get(part.upper(), part) for part in name.split("."))


def _number(text: str, *, name: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text):
        raise BadRequest(f"{name}: expected a number from 0 to 999999, found something else")
    return int(text)


def _check_value(keys: Mapping[str, str], path: str, known: Sequence[str]) -> None:
    if path in keys and keys[path] not in known:
        raise BadRequest(f"{path}: expected one of {', '.join(known)}, found something else")

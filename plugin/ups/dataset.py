"""Datasets in the DICOM JSON model (PS3.18 annex F): read with limits, looked into, and built."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from coread.errors import RequestRefused
from coread.plugin.json_input import TooLarge, read_json

Dataset = dict[str, Any]
"""Tag as eight hexadecimal digits in capitals → attribute: ``vr`` and ``Value``."""

DEEPEST = 16
"""Levels of nested sequences; workitems need five."""
MOST_ATTRIBUTES = 10_000

UID = re.compile(r"(?=.{1,64}$)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_TAG = re.compile(r"[0-9A-F]{8}")
_VRS = frozenset(
    "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()  # noqa: SIM905
)
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMBERS = frozenset({"FD", "FL", "SL", "SS", "SV", "UL", "US", "UV", "DS", "IS"})

KEYWORDS: Mapping[str, tuple[str, str]] = {
    "AccessionNumber": ("00080050", "SH"),
    "AdmissionID": ("00380010", "LO"),
    "AdmittingDiagnosesDescription": ("00081080", "LO"),
    "AdmittingDiagnosesCodeSequence": ("00081084", "SQ"),
    "AffectedSOPClassUID": ("00000002", "UI"),
    "AffectedSOPInstanceUID": ("00001000", "UI"),
    "CodeMeaning": ("00080104", "LO"),
    "CodeValue": ("00080100", "SH"),
    "CodingSchemeDesignator": ("00080102", "SH"),
    "CommentsOnTheScheduledProcedureStep": ("00400400", "LT"),
    "ContactDisplayName": ("0074100C", "LO"),
    "ContactURI": ("0074100A", "UR"),
    "DICOMRetrievalSequence": ("0040E021", "SQ"),
    "EventTypeID": ("00001002", "US"),
    "ExpectedCompletionDateTime": ("00404011", "DT"),
    "InputInformationSequence": ("00404021", "SQ"),
    "InputReadinessState": ("00404041", "CS"),
    "IssuerOfAdmissionIDSequence": ("00380014", "SQ"),
    "IssuerOfPatientID": ("00100021", "LO"),
    "LongCodeValue": ("00080119", "UC"),
    "OutputInformationSequence": ("00404033", "SQ"),
    "PatientBirthDate": ("00100030", "DA"),
    "PatientID": ("00100020", "LO"),
    "PatientName": ("00100010", "PN"),
    "PatientSex": ("00100040", "CS"),
    "PerformedProcedureStepDescription": ("00400254", "LO"),
    "PerformedProcedureStepEndDateTime": ("00404051", "DT"),
    "PerformedProcedureStepStartDateTime": ("00404050", "DT"),
    "PerformedProcessingApplicationsCodeSequence": ("00404007", "SQ"),
    "PerformedStationNameCodeSequence": ("00404028", "SQ"),
    "PerformedWorkitemCodeSequence": ("00404019", "SQ"),
    "ProcedureStepCancellationDateTime": ("00404052", "DT"),
    "ProcedureStepDiscontinuationReasonCodeSequence": ("0074100E", "SQ"),
    "ProcedureStepLabel": ("00741204", "LO"),
    "ProcedureStepProgress": ("00741004", "DS"),
    "ProcedureStepProgressDescription": ("00741006", "ST"),
    "ProcedureStepProgressInformationSequence": ("00741002", "SQ"),
    "ProcedureStepState": ("00741000", "CS"),
    "ReasonForCancellation": ("00741238", "LT"),
    "ReferencedRequestSequence": ("0040A370", "SQ"),
    "ReferencedSOPClassUID": ("00081150", "UI"),
    "ReferencedSOPInstanceUID": ("00081155", "UI"),
    "ReferencedSOPSequence": ("00081199", "SQ"),
    "ReplacedProcedureStepSequence": ("00741224", "SQ"),
    "RequestedProcedureID": ("00401001", "SH"),
    "RequestingAE": ("00741236", "AE"),
    "RetrieveAETitle": ("00080054", "AE"),
    "RetrieveURL": ("00081190", "UR"),
    "SOPClassUID": ("00080016", "UI"),
    "SOPInstanceUID": ("00080018", "UI"),
    "ScheduledHumanPerformersSequence": ("00404034", "SQ"),
    "ScheduledProcedureStepModificationDateTime": ("00404010", "DT"),
    "ScheduledProcedureStepPriority": ("00741200", "CS"),
    "ScheduledProcedureStepStartDateTime": ("00404005", "DT"),
    "ScheduledProcessingParametersSequence": ("00741210", "SQ"),
    "ScheduledStationClassCodeSequence": ("00404026", "SQ"),
    "ScheduledStationGeographicLocationCodeSequence": ("00404027", "SQ"),
    "ScheduledStationNameCodeSequence": ("00404025", "SQ"),
    "ScheduledWorkitemCodeSequence": ("00404018", "SQ"),
    "SeriesInstanceUID": ("0020000E", "UI"),
    "SpecificCharacterSet": ("00080005", "CS"),
    "StudyInstanceUID": ("0020000D", "UI"),
    "TransactionUID": ("00081195", "UI"),
    "TypeOfInstances": ("0040E020", "CS"),
    "UnifiedProcedureStepPerformedProcedureSequence": ("00741216", "SQ"),
    "WADORSRetrievalSequence": ("0040E025", "SQ"),
    "WorklistLabel": ("00741202", "LO"),
}
"""Keyword → tag and VR, of what workitems hold."""


class BadRequest(RequestRefused):
    """What was sent cannot be understood, with the HTTP status that says so."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def read_dataset(body: bytes | str, *, content_type: str) -> Dataset:
    """The dataset of a request, alone or as the only item of an array (PS3.18 11.1.3).

    Raises BadRequest, which says what was expected and quotes nothing of what was found.
    """
    _check_media_type(content_type)
    try:
        found = read_json(body, parse_constant=_no_constant)
    except TooLarge as error:
        raise BadRequest(str(error), status=413) from error
    except ValueError as error:
        raise BadRequest("expected JSON (application/dicom+json), found something else") from error
    if isinstance(found, list):
        if len(found) != 1:
            raise BadRequest(f"expected one dataset in the array, found {len(found)}")
        (found,) = found
    _check(found, depth=0, room=[MOST_ATTRIBUTES])
    return {str(tag): _plain(attribute) for tag, attribute in found.items()}


def read_empty_or_dataset(body: bytes | str, *, content_type: str) -> Dataset:
    """The same for a request that may have no body."""
    return read_dataset(body, content_type=content_type) if body else {}


def of(**values: object) -> Dataset:
    """A dataset: keyword → a value, a list of values, or None for an empty attribute."""
    return {KEYWORDS[keyword][0]: _attribute(KEYWORDS[keyword][1], value) for keyword, value in values.items()}


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence; a long code value has an attribute of its own (PS3.3 8.8)."""
    longest_short = 16
    key = "CodeValue" if len(value) <= longest_short else "LongCodeValue"
    return of(**{key: value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})


def when(time: datetime) -> str:
    """A date and time (VR DT), in UTC."""
    return time.strftime("%Y%m%d%H%M%S.%f+0000")


def values_of(dataset: Mapping[str, Any], keyword: str) -> list[Any]:
    """The values of an attribute; none if it is absent or empty."""
    return list(dataset.get(KEYWORDS[keyword][0], {}).get("Value") or [])


def text_of(dataset: Mapping[str, Any], keyword: str) -> str:
    """The first value as a text; empty if there is none."""
    for value in values_of(dataset, keyword):
        return as_text(value)
    return ""


def items_of(dataset: Mapping[str, Any], keyword: str) -> list[Dataset]:
    """The items of a sequence."""
    return [each for each in values_of(dataset, keyword) if isinstance(each, dict)]


def codes_of(dataset: Mapping[str, Any], keyword: str) -> list[tuple[str, str]]:
    """Value and scheme of each code in a sequence."""
    return [
        (text_of(item, "CodeValue") or text_of(item, "LongCodeValue"), text_of(item, "CodingSchemeDesignator"))
        for item in items_of(dataset, keyword)
    ]


def has(dataset: Mapping[str, Any], keyword: str) -> bool:
    """Whether an attribute is there, with a value or without."""
    return KEYWORDS[keyword][0] in dataset


def uid_in(dataset: Mapping[str, Any], keyword: str) -> str | None:
    """The UID in an attribute, None if it has none. Raises BadRequest if it is not one (PS3.5 9.1)."""
    found = text_of(dataset, keyword)
    if found and not UID.fullmatch(found):
        raise BadRequest(f"{keyword}: expected a UID (at most 64 digits and dots), found something else")
    return found or None


def without(dataset: Mapping[str, Any], keywords: Iterable[str]) -> Dataset:
    """The dataset without some attributes."""
    tags = {KEYWORDS[keyword][0] for keyword in keywords}
    return {tag: attribute for tag, attribute in dataset.items() if tag not in tags}


def as_text(value: Any) -> str:
    """A value as text; of a person's name its alphabetic form."""
    if isinstance(value, dict):
        return str(value.get("Alphabetic", ""))
    return "" if value is None else str(value)


def _attribute(vr: str, value: object) -> Dataset:
    if value is None or value == []:
        return {"vr": vr}
    values = list(value) if isinstance(value, list | tuple) else [value]
    if vr == "PN":
        values = [each if isinstance(each, dict) else {"Alphabetic": each} for each in values]
    return {"vr": vr, "Value": values}


def _check_media_type(content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().casefold()
    if media_type not in ("application/dicom+json", "application/json"):
        raise BadRequest("expected application/dicom+json; XML is not understood here", status=415)


def _no_constant(_name: str) -> float:
    raise ValueError("NaN and infinities are no JSON")


def _plain(attribute: Mapping[str, Any]) -> Dataset:
    return {"vr": attribute["vr"], **({"Value": attribute["Value"]} if attribute.get("Value") else {})}


def _check(dataset: Any, *, depth: int, room: list[int]) -> None:
    """Raises BadRequest unless this is a dataset; ``room``: how many attributes there may still be."""
    if not isinstance(dataset, dict):
        raise BadRequest("expected a DICOM JSON dataset: an object with tags as names (PS3.18 F.2)")
    if depth > DEEPEST:
        raise BadRequest(f"expected at most {DEEPEST} levels of sequences, found more", status=413)
    for tag, attribute in dataset.items():
        room[0] -= 1
        if room[0] < 0:
            raise BadRequest(f"expected at most {MOST_ATTRIBUTES} attributes, found more", status=413)
        if not _TAG.fullmatch(tag):
            raise BadRequest("expected tags of eight hexadecimal digits in capitals, such as 00741000")
        _check_attribute(tag, attribute, depth=depth, room=room)


def _check_attribute(tag: str, attribute: Any, *, depth: int, room: list[int]) -> None:
    said = attribute.get("vr") if isinstance(attribute, dict) else None
    if not isinstance(said, str) or said not in _VRS:  # a list, say, cannot be looked up
        raise BadRequest(f'{tag}: expected {{"vr": …, "Value": […]}} with a value representation of PS3.5')
    vr, values = attribute["vr"], attribute.get("Value", [])
    if vr in _BULK or "BulkDataURI" in attribute or "InlineBinary" in attribute:
        raise BadRequest(f"{tag}: workitems hold no bulk data")
    known = _VR_OF_TAG.get(tag)
    if known is not None and vr != known:
        raise BadRequest(f"{tag}: expected the value representation {known}, found {vr}")
    if not isinstance(values, list):
        raise BadRequest(f"{tag}: expected a list as Value")
    for value in values:
        if vr == "SQ":
            _check(value, depth=depth + 1, room=room)
        elif not _fits(vr, value):
            raise BadRequest(f"{tag}: expected values of representation {vr}, found another type")


def _fits(vr: str, value: Any) -> bool:
    if value is None:
        return True
    if vr == "PN":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    if vr in _NUMBERS:
        return isinstance(value, int | float | str) and not isinstance(value, bool)
    return isinstance(value, str)


_VR_OF_TAG = dict(KEYWORDS.values())

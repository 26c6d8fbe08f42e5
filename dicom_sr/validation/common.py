"""Rules for every kind of result: it belongs to the study and the patient of its source, in a series of its own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pydicom.dataset import Dataset

from coread.dicom_sr.validation.codes import CODES
from coread.dicom_sr.validation.elements import ELEMENTS
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

SAME_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID")
SAME_STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
SAME_IF_STATED = ("PatientAge", "PatientSize", "PatientWeight", "StudyDescription", "Laterality")
"""Type 3 attributes and such of the series: a result may leave them out, but not state others."""
SLACK = timedelta(days=1)
"""Clocks of one hospital may be in different zones, or wrong by some hours."""

MODALITIES = {
    "1.2.840.10008.5.1.4.1.1.66.4": ("SEG",),
    "1.2.840.10008.5.1.4.1.1.66.7": ("SEG",),
    "1.2.840.10008.5.1.4.1.1.88.11": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.22": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.33": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.34": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.35": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.59": ("KO",),
    "1.2.840.10008.5.1.4.1.1.11.1": ("PR",),
    "1.2.840.10008.5.1.4.1.1.67": ("RWV",),
    "1.2.840.10008.5.1.4.1.1.481.3": ("RTSTRUCT",),
}
NEEDS_A_SERIES_NUMBER = frozenset(MODALITIES) | {"1.2.840.10008.5.1.4.1.1.30"}

PRESENT_IF_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Type 2 of the Patient and General Study modules."""

_study = problems_of("study", "PS3.3 C.7.2.1")
_series = problems_of("series", "PS3.3 C.7.3.1")
_instance = problems_of("instance", "PS3.5 9")
_attribute = problems_of("attribute", "PS3.3 C.7.1.1, C.7.2.1")
_date = problems_of("date", "PS3.3 C.12.1")


def study_is_the_sources(subject: Subject) -> Iterator[Problem]:
    """Results belong to the study, and to the patient, that they were made from."""
    for source in list(subject.sources.values())[:1]:
        if subject.dataset.get("StudyInstanceUID") != source.get("StudyInstanceUID"):
            expected = f"the source's, {source.get('StudyInstanceUID')}"
            yield _study("StudyInstanceUID", expected, str(subject.dataset.get("StudyInstanceUID")))
        for rule, keywords, section in (
            ("patient", SAME_PATIENT, "PS3.3 C.7.1.1"),
            ("study", SAME_STUDY, "PS3.3 C.7.2.1"),
        ):
            for keyword in keywords:
                value = _text(subject.dataset, keyword)
                if value != _text(source, keyword):
                    # An empty value says less than the source and nothing wrong. Neither value is quoted.
                    severity = Severity.ERROR if value or keyword == "PatientID" else Severity.WARNING
                    found = "another one" if value else "none"
                    yield problems_of(rule, section)(keyword, "the source's value", found, severity)
        for keyword in SAME_IF_STATED:
            value, expected = _text(subject.dataset, keyword), _text(source, keyword)
            if value and expected and value != expected and not _same_number(value, expected):
                yield problems_of("study", "PS3.3 C.7.2.2")(keyword, "the source's value", "another one")


def results_are_of_one_patient(subject: Subject) -> Iterator[Problem]:
    """Objects of one study are of one patient; where the source is at hand, it says which of two is wrong."""
    dataset = subject.dataset
    for other in () if subject.sources else subject.results.values():
        if other.get("StudyInstanceUID") != dataset.get("StudyInstanceUID"):
            continue
        for rule, keywords, section in (
            ("patient", SAME_PATIENT, "PS3.3 C.7.1.1"),
            ("study", SAME_STUDY, "PS3.3 C.7.2.1"),
        ):
            for keyword in keywords:
                values = {_text(each, keyword) for each in (dataset, other)} - {""}
                if len(values) > 1:
                    yield problems_of(rule, section)(keyword, "one value in a study", "another in another of the files")


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).rstrip("^= ")


def _same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def header_is_complete(subject: Subject) -> Iterator[Problem]:
    """What every object must have, empty or not; and the numbers that objects of later years must have."""
    for keyword in PRESENT_IF_EMPTY:
        if keyword not in subject.dataset:
            yield _attribute(keyword, "the attribute, if need be empty", "none")
    if subject.dataset.get("SOPClassUID") in NEEDS_A_SERIES_NUMBER and _text(subject.dataset, "SeriesNumber") == "":
        yield _series("SeriesNumber", "a number", "none")


def series_is_its_own(subject: Subject) -> Iterator[Problem]:
    """An object of another modality cannot share a series, and a SOP Instance UID is used once."""
    dataset = subject.dataset
    for source in subject.sources.values():
        if dataset.get("SeriesInstanceUID") == source.get("SeriesInstanceUID"):
            yield _series("SeriesInstanceUID", "a series of its own", "the source's series")
            break
    if dataset.get("SOPInstanceUID") in subject.sources:
        yield _instance("SOPInstanceUID", "a UID of its own", "a source image's UID")
    if str(dataset.get("SOPInstanceUID")) in subject.repeated_uids:
        yield _instance("SOPInstanceUID", "a UID of its own", "the UID of another of the files")
    for other in subject.results.values():
        same_series = other.get("SeriesInstanceUID") == dataset.get("SeriesInstanceUID")
        if same_series and other.get("Modality") != dataset.get("Modality"):
            found = f"{dataset.get('Modality')} and {other.get('Modality')}"
            yield problems_of("series", "PS3.3 C.7.3.1.1.1")("SeriesInstanceUID", "one modality in a series", found)
        if same_series and other.get("StudyInstanceUID") != dataset.get("StudyInstanceUID"):
            yield _series("SeriesInstanceUID", "a series of one study", "a series of two")


def modality_is_the_classes(subject: Subject) -> Iterator[Problem]:
    """Modality follows from the SOP class."""
    expected = MODALITIES.get(str(subject.dataset.get("SOPClassUID")))
    if expected and subject.dataset.get("Modality") not in expected:
        found = str(subject.dataset.get("Modality", "none"))
        yield problems_of("modality", "PS3.3 C.7.3.1.1.1")("Modality", " or ".join(expected), found)


def dates_are_possible(subject: Subject) -> Iterator[Problem]:
    """Nothing was made before its source, nor tomorrow."""
    acquired = max(
        (moment for each in subject.sources.values() if (moment := _day(each, "AcquisitionDate"))), default=None
    )
    studied = [moment for each in subject.sources.values() if (moment := _day(each, "StudyDate"))]
    earliest = acquired or min(studied, default=None) or _day(subject.dataset, "StudyDate")
    for keyword in (
        "ContentDate",
        "InstanceCreationDate",
        "SeriesDate",
        "PresentationCreationDate",
        "StructureSetDate",
    ):
        day = _day(subject.dataset, keyword)
        if day is None:
            continue
        if earliest and day < earliest - SLACK and keyword != "SeriesDate":
            yield _date(keyword, "a day on or after the source's", "one before")
        if day > datetime.now(UTC) + SLACK:
            yield _date(keyword, "a day that has come", "one in the future", Severity.WARNING)


def _day(dataset: Dataset, keyword: str) -> datetime | None:
    try:
        return datetime.strptime(str(dataset.get(keyword) or ""), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None


COMMON = (
    *ELEMENTS,
    study_is_the_sources,
    results_are_of_one_patient,
    header_is_complete,
    series_is_its_own,
    modality_is_the_classes,
    dates_are_possible,
    *CODES,
)

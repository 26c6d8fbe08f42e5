"""Rules for what documents refer to: it stands in the evidence, once, in its series, and exists."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from coread.dicom_sr.validation.geometry import numbers
from coread.dicom_sr.validation.problem import Problem, Subject, problems_of
from coread.dicom_sr.validation.tree import references_of, walk

CURRENT, OTHER = "CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"
DOCUMENTS = "1.2.840.10008.5.1.4.1.1.88."
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.5", "1.2.840.10008.5.1.4.1.1.66.7")

_reference = problems_of("reference", "PS3.3 C.17.2")
_once = problems_of("reference", "PS3.3 C.17.2.3")


@dataclass(frozen=True)
class Evidence:
    """An instance that a document lists, and where it lists it."""

    sequence: str
    study_uid: str
    series_uid: str
    uid: str
    class_uid: str


def evidence_of(dataset: Dataset) -> Iterator[Evidence]:
    """Every instance in the two evidence sequences."""
    for keyword in (CURRENT, OTHER):
        for study in dataset.get(keyword) or []:
            for series in study.get("ReferencedSeriesSequence") or []:
                for item in series.get("ReferencedSOPSequence") or []:
                    yield Evidence(
                        keyword,
                        str(study.get("StudyInstanceUID")),
                        str(series.get("SeriesInstanceUID")),
                        str(item.get("ReferencedSOPInstanceUID")),
                        str(item.get("ReferencedSOPClassUID")),
                    )


def references_stand_in_the_evidence(subject: Subject) -> Iterator[Problem]:
    """What the content refers to is listed as evidence, and is of the class that is stated."""
    dataset = subject.dataset
    evidence = {each.uid: each for each in evidence_of(dataset)}
    for place, item in walk(dataset):
        for reference in references_of(item):
            uid, class_uid = (str(reference.get(f"ReferencedSOP{part}UID")) for part in ("Instance", "Class"))
            listed, known = evidence.get(uid), subject.instance(uid)
            if listed is None:
                yield _reference(place, "an instance that the evidence lists", uid)
            elif listed.class_uid != class_uid:
                yield _reference(place, f"SOP class {listed.class_uid}, as in the evidence", class_uid)
            elif known is not None and class_uid != known.get("SOPClassUID"):
                yield _reference(place, f"SOP class {known.SOPClassUID}", class_uid)
            yield from _frame_problems(subject, place, reference)
            for other in reference.get("ReferencedSOPSequence") or []:
                if str(other.get("ReferencedSOPInstanceUID")) not in evidence:
                    found = str(other.get("ReferencedSOPInstanceUID"))
                    yield _reference(place, "a presentation that the evidence lists", found)


def _frame_problems(subject: Subject, place: str, reference: Dataset) -> Iterator[Problem]:
    """Frames and segments that are referred to are those of such an object."""
    section = "PS3.3 10.3"
    uid, class_uid = (str(reference.get(f"ReferencedSOP{part}UID")) for part in ("Instance", "Class"))
    known = subject.instance(uid)
    frames, segments = (numbers(reference.get(f"Referenced{part}Number")) for part in ("Frame", "Segment"))
    if segments and class_uid not in SEGMENTATIONS:
        yield problems_of("reference", section)(place, "a segment of a segmentation", f"one of SOP class {class_uid}")
    if known is not None and frames:
        count = int(known.get("NumberOfFrames") or 1)
        beyond = [number for number in frames if not 1 <= number <= count]
        if beyond:
            yield problems_of("reference", section)(place, f"a frame from 1 to {count}", str(beyond[0]))


def evidence_is_listed_once(subject: Subject) -> Iterator[Problem]:
    """Each instance is listed once, of the class that it has, in the series and study that it is in."""
    dataset = subject.dataset
    listed = list(evidence_of(dataset))
    for uid, count in Counter(each.uid for each in listed).items():
        if count > 1:
            yield _once(CURRENT, "each instance once", f"{uid} {count} times")
    for each in listed:
        known = subject.instance(each.uid)
        if each.uid == str(dataset.get("SOPInstanceUID")):
            yield _reference(each.sequence, "other objects", "the document itself")
        elif known is None:
            if is_missed(subject, each.class_uid):
                yield _reference(each.sequence, "objects that are there", f"{each.uid}, which is not")
        else:
            yield from _entry_problems(each, known)
    for study in dataset.get(CURRENT) or []:
        if study.get("StudyInstanceUID") != dataset.get("StudyInstanceUID"):
            yield _reference(CURRENT, "the report's own study", str(study.get("StudyInstanceUID")))


def is_missed(subject: Subject, class_uid: str) -> bool:
    """Whether an object of a class would be here, if it existed: others of its class are."""
    if not subject.sources:
        return False
    others = [each for each in (*subject.sources.values(), *subject.results.values()) if each is not subject.dataset]
    return class_uid in {str(each.get("SOPClassUID")) for each in others}


def _entry_problems(each: Evidence, known: Dataset) -> Iterator[Problem]:
    stated = {
        "SeriesInstanceUID": each.series_uid,
        "SOPClassUID": each.class_uid,
        "StudyInstanceUID": each.study_uid,
    }
    for keyword, value in stated.items():
        if value != str(known.get(keyword)):
            yield _reference(each.sequence, f"{keyword} {known.get(keyword)} of {each.uid}", value)


def predecessors_are_documents(subject: Subject) -> Iterator[Problem]:
    """A predecessor, or an identical document, is another document of the same kind."""
    dataset = subject.dataset
    for keyword in ("PredecessorDocumentsSequence", "IdenticalDocumentsSequence"):
        for study in dataset.get(keyword) or []:
            for series in study.get("ReferencedSeriesSequence") or []:
                for item in series.get("ReferencedSOPSequence") or []:
                    uid, class_uid = (str(item.get(f"ReferencedSOP{part}UID")) for part in ("Instance", "Class"))
                    if uid == str(dataset.get("SOPInstanceUID")):
                        yield _reference(keyword, "another document", "the document itself")
                    if not class_uid.startswith(DOCUMENTS):
                        yield _reference(keyword, "a structured report", f"SOP class {class_uid}")
                    known = subject.instance(uid)
                    if known is not None and class_uid != str(known.get("SOPClassUID")):
                        yield _reference(keyword, f"SOP class {known.get('SOPClassUID')}", class_uid)


EVIDENCE = (references_stand_in_the_evidence, evidence_is_listed_once, predecessors_are_documents)

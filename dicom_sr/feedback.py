"""What a person's objects say of ours: rejected, verified, edited. (Read from what comes back from a PACS or viewer.)

A rejection is a Key Object Selection (IHE IOCM) that refers to our objects; an acceptance or a correction is a VERIFIED
report that names ours as its predecessor or has our Tracking UIDs; an edited segmentation keeps our Tracking UIDs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, KeyObjectSelectionDocumentStorage, SegmentationStorage

from coread import codes

REJECTIONS = {code.value: code for code in (codes.REJECTED_FOR_QUALITY, codes.REJECTED_FOR_PATIENT_SAFETY)}
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, which pydicom 3.0 does not name."""
_REASON = "113011"
"""Document Title Modifier (TID 2010): why it was rejected (CID 7011 and 7012)."""
_TRACKING_UID = "112040"
_GROUP = "125007"


class FeedbackKind(StrEnum):
    """What a person has said."""

    REJECTED = "rejected"
    VERIFIED = "verified"
    EDITED = "edited"


@dataclass(frozen=True, kw_only=True)
class Known:
    """Our own results, by which feedback is matched to a job."""

    by_instance: Mapping[str, str]
    """SOP Instance UID of a result → job id."""
    by_tracking: Mapping[str, str]
    """Tracking UID of a structure → job id."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What one object says of the results of one job. It does not name the person."""

    kind: FeedbackKind
    job_id: str
    sop_instance_uid: str
    """Of the object that says it."""
    results: frozenset[str] = frozenset()
    """SOP Instance UIDs of our objects that it refers to."""
    tracking_uids: frozenset[str] = frozenset()
    """Of our structures that it keeps."""
    reason: Code | None = None
    """Of a rejection, if one is given; else the rejection's title."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A measurement that differs between our report and a person's."""

    tracking_uid: str
    concept: Code
    derivation: str | None
    ours: float | None
    theirs: float | None


def recognise(dataset: Dataset, known: Known) -> list[Feedback]:
    """What an object says of our results, an item for each job that it speaks of; none if it is ours or no feedback."""
    uid = str(dataset.get("SOPInstanceUID", ""))
    if uid in known.by_instance:
        return []
    sop_class = dataset.get("SOPClassUID")
    if sop_class == KeyObjectSelectionDocumentStorage:
        return list(_rejections(dataset, uid, known))
    if sop_class in (SegmentationStorage, LABEL_MAP):
        kept = {str(segment.get("TrackingUID", "")) for segment in dataset.get("SegmentSequence", [])}
        return list(_by_job(FeedbackKind.EDITED, uid, frozenset(), kept, known))
    if dataset.get("Modality") == "SR" and dataset.get("VerificationFlag") == "VERIFIED":
        named = set(_references(dataset.get("PredecessorDocumentsSequence", [])))
        return list(_by_job(FeedbackKind.VERIFIED, uid, named, tracked(dataset), known))
    return []


def changes(ours: Dataset, theirs: Dataset) -> list[Change]:
    """The measurements in which a person's report differs from ours: altered, left out (``theirs`` None) or added."""
    before, after = _measurements(ours), _measurements(theirs)
    return [
        Change(tracking_uid=key[0], concept=key[1], derivation=key[2], ours=before.get(key), theirs=after.get(key))
        for key in sorted({*before, *after}, key=str)
        if before.get(key) != after.get(key)
    ]


def tracked(report: Dataset) -> set[str]:
    """The Tracking UIDs in a report, or in a part of one."""
    return {str(item.get("UID", "")) for item in _items(report) if _concept(item).value == _TRACKING_UID}


def _rejections(dataset: Dataset, uid: str, known: Known) -> Iterator[Feedback]:
    title = REJECTIONS.get(_concept(dataset).value)
    if title is None:
        return
    items = list(_items(dataset))
    named = {reference for item in items for reference in _references(item.get("ReferencedSOPSequence", []))}
    reasons = [_code(item, "ConceptCodeSequence") for item in items if _concept(item).value == _REASON]
    yield from _by_job(FeedbackKind.REJECTED, uid, named, set(), known, reason=reasons[0] if reasons else title)


def _by_job(
    kind: FeedbackKind,
    uid: str,
    named: set[str] | frozenset[str],
    kept: set[str],
    known: Known,
    *,
    reason: Code | None = None,
) -> Iterator[Feedback]:
    jobs = {known.by_instance[each] for each in named if each in known.by_instance}
    jobs = jobs or {known.by_tracking[each] for each in kept if each in known.by_tracking}
    for job_id in sorted(jobs):
        yield Feedback(
            kind=kind,
            job_id=job_id,
            sop_instance_uid=uid,
            results=frozenset(each for each in named if known.by_instance.get(each) == job_id),
            tracking_uids=frozenset(each for each in kept if known.by_tracking.get(each) == job_id),
            reason=reason,
        )


def _measurements(report: Dataset) -> dict[tuple[str, Code, str | None], float]:
    """(Tracking UID, concept, derivation) → value, of all measurement groups."""
    found = {}
    for container in _items(report):
        if _concept(container).value != _GROUP:
            continue
        uid = next(iter(tracked(container)), "")
        for item in container.get("ContentSequence", []):
            for measured in item.get("MeasuredValueSequence", []):
                found[uid, _concept(item), _derivation(item)] = float(measured.NumericValue)
    return found


def _derivation(item: Dataset) -> str | None:
    """The value of the Derivation modifier (121401, DCM)."""
    modifiers = (each for each in item.get("ContentSequence", []) if _concept(each).value == "121401")
    return next((_code(each, "ConceptCodeSequence").value for each in modifiers), None)


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """Every content item below one."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _references(sequence: Iterable[Dataset]) -> Iterator[str]:
    """SOP Instance UIDs in a sequence of references, at any depth."""
    for item in sequence:
        if "ReferencedSOPInstanceUID" in item:
            yield str(item.ReferencedSOPInstanceUID)
        for element in item:
            if element.VR == "SQ":
                yield from _references(element.value)


def _concept(item: Dataset) -> Code:
    return _code(item, "ConceptNameCodeSequence")


def _code(item: Dataset, keyword: str) -> Code:
    """The code in a sequence; empty if there is none."""
    sequence = item.get(keyword) or [Dataset()]
    first = sequence[0]
    return Code(
        str(first.get("CodeValue", "")), str(first.get("CodingSchemeDesignator", "")), str(first.get("CodeMeaning", ""))
    )

"""What a person's objects say of ours: rejected, verified, edited. (Read from what comes back from a PACS or viewer.)

A rejection is a Key Object Selection (IHE IOCM) that refers to our objects; an acceptance or a correction is a VERIFIED
report that names ours as its predecessor or has our Tracking UIDs; an edited segmentation keeps our Tracking UIDs, or
refers to ours. Some viewers write neither. Such a segmentation is taken for an edited one if it shows a structure of a
kind, or of a name, that one of our jobs found in the very series that it was drawn on; that it was not drawn from
nothing, nobody can tell, so it is said by what it was recognised (``basis``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, KeyObjectSelectionDocumentStorage, SegmentationStorage

from coread import codes
from coread.review import Basis

REJECTIONS = {code.value: code for code in (codes.REJECTED_FOR_QUALITY, codes.REJECTED_FOR_PATIENT_SAFETY)}
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, which pydicom 3.0 does not name."""
_REASON = "113011"
"""Document Title Modifier (TID 2010): why it was rejected (CID 7011 and 7012)."""
_TRACKING_UID = "112040"
_GROUP = "125007"
_PERSON_NAME = "121008"
PLACE_TOLERANCE = 0.01
"""Pixels or mm by which an outline may differ that was only written anew."""


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
    found: Sequence["Found"] = ()
    """What the jobs found whose results stand, for segmentations that refer to none of it."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a job found in which series."""

    job_id: str
    series_instance_uid: str
    types: frozenset[tuple[str, str]]
    """Code value and scheme of each structure that is present."""
    names: frozenset[str] = frozenset()
    """What they are called, in small letters. OHIF 3.13 codes each segment that it writes as Tissue, and keeps the
    label."""


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
    basis: Basis = Basis.REFERENCE
    """By what it was recognised."""


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
        named = set(_referred(dataset)) & known.by_instance.keys()
        certain = list(_by_job(FeedbackKind.EDITED, uid, named, kept, known))
        return certain or list(_by_source(dataset, uid, known))
    if dataset.get("Modality") == "SR" and dataset.get("VerificationFlag") == "VERIFIED":
        named = set(_references(dataset.get("PredecessorDocumentsSequence", [])))
        return list(_by_job(FeedbackKind.VERIFIED, uid, named, tracked(dataset), known))
    return []


def changes(ours: Dataset, theirs: Dataset) -> list[Change]:
    """The measurements in which a person's report differs from ours: altered, left out (``theirs`` None) or added. In
    another unit, a number is another measurement.
    """
    before, after = _measurements(ours), _measurements(theirs)
    return [
        Change(
            tracking_uid=key.tracking_uid,
            concept=key.concept,
            derivation=key.derivation,
            ours=before.get(key),
            theirs=after.get(key),
        )
        for key in sorted([*before, *(after.keys() - before.keys())], key=str)
        if before.get(key) != after.get(key)
    ]


def answers_changed(ours: Dataset, theirs: Dataset) -> list[str]:
    """Tracking UIDs of the groups whose coded answers differ between our report and a person's: a class, Present."""
    before, after = _answers(ours), _answers(theirs)
    return sorted(uid for uid in {*before, *after} if before.get(uid, set()) != after.get(uid, set()))


def outlines_changed(ours: Dataset, theirs: Dataset) -> list[str]:
    """Tracking UIDs of our groups that a person's report leaves out, or in which it says otherwise where a finding
    lies. An outline in an image and one in the patient are not compared.
    """
    before, after = _outlines(ours), _outlines(theirs)
    return sorted(uid for uid, outlines in before.items() if uid not in after or not _lie_near(outlines, after[uid]))


def observer_of(dataset: Dataset) -> str:
    """The name of the person that an object names as its verifier, observer or creator; empty if none."""
    for verifier in dataset.get("VerifyingObserverSequence") or []:
        if verifier.get("VerifyingObserverName"):
            return str(verifier.VerifyingObserverName)
    for item in dataset.get("ContentSequence") or []:
        if _concept(item).value == _PERSON_NAME and item.get("PersonName"):
            return str(item.PersonName)
    return str(dataset.get("ContentCreatorName") or "")


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


def _referred(dataset: Dataset) -> Iterator[str]:
    """SOP Instance UIDs that a segmentation names as what it was drawn on or derived from, or as its predecessor."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*shared, *frames):
        for derivation in groups.get("DerivationImageSequence") or []:
            yield from _references(derivation.get("SourceImageSequence") or [])
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence", "ReferencedInstanceSequence"):
        yield from _references(dataset.get(keyword) or [])
    yield from _references(dataset.get("PredecessorDocumentsSequence") or [])


def label_of(segment: Dataset) -> str:
    """A segment's label as it is compared: in small letters, one space between words."""
    return " ".join(str(segment.get("SegmentLabel", "")).split()).casefold()


def _by_source(dataset: Dataset, uid: str, known: Known) -> Iterator[Feedback]:
    """Of a segmentation that says nothing of ours: the one job that found such a structure in the same series."""
    drawn_on = {str(each.get("SeriesInstanceUID", "")) for each in dataset.get("ReferencedSeriesSequence") or []}
    types = {
        (str(code.get("CodeValue", "")), str(code.get("CodingSchemeDesignator", "")))
        for segment in dataset.get("SegmentSequence") or []
        for code in segment.get("SegmentedPropertyTypeCodeSequence") or []
    }
    labels = {label_of(segment) for segment in dataset.get("SegmentSequence") or []}
    jobs = {
        each.job_id
        for each in known.found
        if each.series_instance_uid in drawn_on and (types & each.types or labels & each.names)
    }
    if len(jobs) == 1:
        yield Feedback(kind=FeedbackKind.EDITED, job_id=jobs.pop(), sop_instance_uid=uid, basis=Basis.SOURCE)


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
    basis = Basis.REFERENCE if jobs else Basis.TRACKING
    jobs = jobs or {known.by_tracking[each] for each in kept if each in known.by_tracking}
    for job_id in sorted(jobs):
        yield Feedback(
            kind=kind,
            job_id=job_id,
            sop_instance_uid=uid,
            results=frozenset(each for each in named if known.by_instance.get(each) == job_id),
            tracking_uids=frozenset(each for each in kept if known.by_tracking.get(each) == job_id),
            reason=reason,
            basis=basis,
        )


class _Measured(NamedTuple):
    tracking_uid: str
    concept: Code
    derivation: str | None
    unit: str


def _measurements(report: Dataset) -> dict[_Measured, float]:
    """The values of all measurement groups."""
    found = {}
    for container in _items(report):
        if _concept(container).value != _GROUP:
            continue
        uid = next(iter(tracked(container)), "")
        for item in container.get("ContentSequence", []):
            for measured in item.get("MeasuredValueSequence", []):
                unit = _code(measured, "MeasurementUnitsCodeSequence").value
                found[_Measured(uid, _concept(item), _derivation(item), unit)] = float(measured.NumericValue)
    return found


def _outlines(report: Dataset) -> dict[str, dict[str, list[float]]]:
    """Tracking UID → value type (SCOORD, SCOORD3D) → coordinates, of all measurement groups."""
    found: dict[str, dict[str, list[float]]] = {}
    for container in _items(report):
        if _concept(container).value == _GROUP:
            outlines = found.setdefault(next(iter(tracked(container)), ""), {})
            for item in container.get("ContentSequence", []):
                if "GraphicData" in item:
                    outlines.setdefault(str(item.ValueType), []).extend(map(float, item.GraphicData))
    return found


def _lie_near(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> bool:
    return all(
        len(ours[kind]) == len(theirs[kind])
        and all(abs(a - b) <= PLACE_TOLERANCE for a, b in zip(ours[kind], theirs[kind], strict=True))
        for kind in ours.keys() & theirs.keys()
    )


def _answers(report: Dataset) -> dict[str, set[tuple[str, str]]]:
    """Tracking UID → (concept, answer) of the coded evaluations of its measurement groups."""
    found: dict[str, set[tuple[str, str]]] = {}
    for container in _items(report):
        if _concept(container).value != _GROUP:
            continue
        uid = next(iter(tracked(container)), "")
        for item in container.get("ContentSequence", []):
            if item.get("ValueType") == "CODE" and item.get("RelationshipType") == "CONTAINS":
                answer = _code(item, "ConceptCodeSequence")
                found.setdefault(uid, set()).add((_concept(item).value, answer.value))
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

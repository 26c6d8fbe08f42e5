"""What a person says of a result, as DICOM: the verified successor of a report, and the note that rejects a result.

Everything follows from the review and from our own objects, so that the same review gives the same bytes, whoever
writes it and however often.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import highdicom as hd
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.uid import UID

from coread import codes
from coread.dicom_sr.header import (
    FIRST_SERIES_NUMBER,
    INHERITED,
    SERIES_NUMBERS_PER_MODEL,
    UNICODE,
    for_research,
    in_zone_of,
)
from coread.dicom_sr.identity import derived_uid

KEY_OBJECTS = UID("1.2.840.10008.5.1.4.1.1.88.59")
REPORTS = "1.2.840.10008.5.1.4.1.1.88."
"""How the UIDs of the classes of SR documents begin; that of key objects too."""
PIXELS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
        "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
    }
)
"""Classes of our results that a key object selection refers to as IMAGE; the others are COMPOSITE."""

REJECTIONS_SERIES = SERIES_NUMBERS_PER_MODEL - 1
"""The place of rejection notes in a model's block of series numbers."""

RESEARCH = " (RESEARCH)"
OF_MAKER = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "ContentQualification",
    "ContributingEquipmentSequence",
)
"""What a note says of who made the result that it speaks of."""

NOBODY = "unknown"
"""The observer's name where neither a name nor a user is known: a person it was."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Who said it, and when."""

    review_id: str
    name: str
    """As PN."""
    organization: str
    at: datetime

    def uid(self, *parts: str) -> UID:
        """The UID of a part of what is written for this review."""
        return derived_uid("review", self.review_id, *parts)


@dataclass(frozen=True, kw_only=True)
class ResultReference:
    """An object of the result, to be referred to."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


def is_report(sop_class_uid: str) -> bool:
    """Whether objects of this class are reports, which can be verified."""
    return sop_class_uid.startswith(REPORTS) and sop_class_uid != KEY_OBJECTS


def verified_successor(report: Dataset, signature: Signature) -> Dataset:
    """A report with the same content that names the person who verified it (PS3.3 C.17.2), in a series of its own.

    It is complete and final, since nothing further is to come; the report that it follows stays as it is.
    """
    found = copy.deepcopy(report)
    uid = signature.uid("instance", str(report.SOPInstanceUID))
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = uid
    found.SeriesInstanceUID = signature.uid("series", str(report.SOPInstanceUID))
    found.SeriesDescription = for_research(str(report.get("SeriesDescription", "")).removesuffix(RESEARCH), "verified")
    _date(found, report, signature)
    found.CompletionFlag = "COMPLETE"
    found.PreliminaryFlag = "FINAL"
    found.VerificationFlag = "VERIFIED"
    moment = in_zone_of(report, signature.at)
    observer = Dataset()
    observer.VerifyingOrganization = signature.organization
    observer.VerificationDateTime = moment.strftime("%Y%m%d%H%M%S.%f%z")
    observer.VerifyingObserverName = _whole(signature.name)
    observer.VerifyingObserverIdentificationCodeSequence = DicomSequence([])
    found.VerifyingObserverSequence = DicomSequence([observer])
    found.PredecessorDocumentsSequence = DicomSequence([_reference(report)])
    items = list(found.ContentSequence)
    first = next((place for place, item in enumerate(items) if _is_observer(item)), 0)
    found.ContentSequence = DicomSequence([*items[:first], *_person(signature), *items[first:]])
    return found


def rejection_note(
    objects: Sequence[ResultReference], header: Dataset, reason: Code, signature: Signature, *, comment: str = ""
) -> Dataset:
    """A key object selection (TID 2010) titled Rejected for Quality Reasons that refers to all objects of a result.

    ``header``: of one of them, whose patient, study and maker the note takes over.
    """
    referenced = [_stub(each, header) for each in objects]
    content = hd.ko.KeyObjectSelection(
        document_title=codes.REJECTED_FOR_QUALITY,
        referenced_objects=referenced,
        observer_person_context=_person(signature),
        description=comment or None,
    )
    modifier = hd.sr.CodeContentItem(
        name=codes.DOCUMENT_TITLE_MODIFIER,
        value=reason,
        relationship_type=hd.sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
    content[0].ContentSequence.insert(0, modifier)
    note = hd.ko.KeyObjectSelectionDocument(
        evidence=referenced,
        content=content,
        series_instance_uid=signature.uid("series", "rejection"),
        series_number=_series_number(header),
        sop_instance_uid=signature.uid("instance", "rejection"),
        instance_number=1,
        manufacturer=str(header.get("Manufacturer", "")),
        specific_character_set=UNICODE,
    )
    for item in note.ContentSequence:
        if item.ValueType in ("IMAGE", "COMPOSITE"):
            del item.ConceptNameCodeSequence  # TID 2010 names none
    for keyword in (*INHERITED, *OF_MAKER):
        if keyword in header:
            note[keyword] = copy.deepcopy(header[keyword])
    _date(note, header, signature)
    title = f"AI {header.get('ManufacturerModelName', '')}"
    note.SeriesDescription = for_research(title, "rejected")
    return note


def _date(found: Dataset, of: Dataset, signature: Signature) -> None:
    moment = in_zone_of(of, signature.at)
    for kind in ("InstanceCreation", "Series", "Content"):
        setattr(found, f"{kind}Date", moment.strftime("%Y%m%d"))
        setattr(found, f"{kind}Time", moment.strftime("%H%M%S.%f"))


def _person(signature: Signature) -> hd.sr.ObserverContext:
    """The person as the observer (TID 1002, 1003)."""
    return hd.sr.ObserverContext(
        observer_type=CodedConcept.from_code(codes.PERSON),
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(
            name=_whole(signature.name), organization_name=signature.organization
        ),
    )


def _whole(name: str) -> str:
    """A name as a value of PN: a family name or user alone gets a delimiter, or it would be of the retired form, in
    which nobody knows which part it is (PS3.5 6.2.1.1).
    """
    return name if "^" in name else f"{name}^"


def _is_observer(item: Dataset) -> bool:
    names = item.get("ConceptNameCodeSequence") or []
    return bool(names) and names[0].get("CodeValue") == codes.OBSERVER_TYPE.value


def _reference(report: Dataset) -> Dataset:
    """A report as an item of PredecessorDocumentsSequence (PS3.3 table 10-11, hierarchical)."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = report.SOPClassUID, report.SOPInstanceUID
    series.SeriesInstanceUID = report.SeriesInstanceUID
    series.ReferencedSOPSequence = DicomSequence([instance])
    study.StudyInstanceUID = report.StudyInstanceUID
    study.ReferencedSeriesSequence = DicomSequence([series])
    return study


def _stub(reference: ResultReference, header: Dataset) -> Dataset:
    """What the encoder asks of an object that is referred to: its identifiers, and those of patient and study."""
    stub = Dataset()
    for element in header:
        if element.tag.group in (0x0010, 0x0020) or element.keyword in ("StudyDate", "StudyTime", "AccessionNumber"):
            stub[element.tag] = copy.deepcopy(element)
    stub.ReferringPhysicianName = header.get("ReferringPhysicianName", "")
    stub.SOPClassUID, stub.SOPInstanceUID = UID(reference.sop_class_uid), UID(reference.sop_instance_uid)
    stub.SeriesInstanceUID = UID(reference.series_instance_uid)
    if reference.sop_class_uid in PIXELS:
        stub.Rows = stub.Columns = 1
    return stub


def _series_number(header: Dataset) -> int:
    """The last place of the block of numbers that the model's series have (`header.series_number`)."""
    offset = int(header.get("SeriesNumber") or FIRST_SERIES_NUMBER) - FIRST_SERIES_NUMBER
    return FIRST_SERIES_NUMBER + offset // SERIES_NUMBERS_PER_MODEL * SERIES_NUMBERS_PER_MODEL + REJECTIONS_SERIES

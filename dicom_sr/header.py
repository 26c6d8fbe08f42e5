"""What every result says of itself: its patient and study, its series, its maker; nothing taken from the clock."""

import zlib
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from coread import codes
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.repair import EMPTY_IF_ABSENT
from coread.objects import ObjectKind

FIRST_SERIES_NUMBER = 10_000
SERIES_NUMBERS_PER_MODEL = 20
BLOCKS = 2_000
"""Results sort after the scanner's own series, each model's in a block of its own (as far as 2000 blocks tell models
apart; a number used twice is legal)."""

LONGEST_DESCRIPTION = 64
"""Characters of a LO value (PS3.5 6.2)."""

LONGEST_VALUE = 65_534
"""Bytes of a value whose length Explicit VR states in 16 bits (PS3.5 7.1.2); lengths are even."""

BYTES_OF_FL = 4
"""Of each number of a value of that VR, as outlines in reports and presentation states are."""

UNICODE = "ISO_IR 192"
"""SpecificCharacterSet of every result."""

INHERITED = (
    "StudyDescription",
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "TimezoneOffsetFromUTC",
)
"""What results say of patient and study beside what highdicom copies."""


def series_number(identity: ResultIdentity, kind: ObjectKind) -> int:
    """The number of the series that this kind of object of this model has to itself."""
    block = zlib.crc32(identity.model.encode()) % BLOCKS
    return FIRST_SERIES_NUMBER + block * SERIES_NUMBERS_PER_MODEL + list(ObjectKind).index(kind)


def in_series(identity: ResultIdentity, kind: ObjectKind, *, part: str | None = None) -> dict[str, Any]:
    """What each of highdicom's encoders asks for: a series with one instance, for a kind of object or a part of it."""
    return {
        "series_instance_uid": identity.uid("series", part or kind),
        "series_number": series_number(identity, kind),
        "sop_instance_uid": identity.uid("instance", part or kind),
        "instance_number": 1,
        "manufacturer": identity.manufacturer,
    }


def series_description(identity: ResultIdentity, what: str) -> str:
    """Viewers show it, and not ContentQualification: so it says what the object is not for."""
    return for_research(f"AI {identity.title}", what)


def for_research(title: str, *what: str) -> str:
    """A name that ends in "(RESEARCH)", in 64 characters; where that is too little, the title is cut."""
    end = "".join(f" {word}" for word in (*what, "(RESEARCH)"))
    return title[: LONGEST_DESCRIPTION - len(end)].rstrip() + end


def code_item(code: Code) -> Dataset:
    """A code as the item of a sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def plain(dataset: Dataset) -> Dataset:
    """An encoder's object as a plain dataset, without what the encoder keeps beside it (an index of its frames).

    It counts as one that was read from a file of the encoding in which it will be written, so that pydicom writes
    elements that are encoded already as they are.
    """
    copied = correct_ambiguous_vr(Dataset(dataset), is_little_endian=True)
    copied.file_meta = dataset.file_meta
    copied.SpecificCharacterSet = UNICODE
    copied.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=convert_encodings(UNICODE)
    )
    copied.pop("SourceImageSequence", None)
    return copied


def new_dataset(source: Dataset, identity: ResultIdentity, kind: ObjectKind, *, sop_class_uid: str) -> Dataset:
    """An empty object of the source's patient and study, in a series of its own."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = identity.uid("instance", kind)
    dataset.SpecificCharacterSet = UNICODE
    for keyword in (*sorted(EMPTY_IF_ABSENT), "StudyInstanceUID"):
        setattr(dataset, keyword, source.get(keyword))
    dataset.SeriesInstanceUID = identity.uid("series", kind)
    dataset.SeriesNumber = series_number(identity, kind)
    dataset.InstanceNumber = 1
    return dataset


def make_room(dataset: Dataset, *, longest: int) -> None:
    """Choose an encoding that can hold a value of so many bytes: Explicit VR Little Endian, or where its 16 bits do not
    count that far, Implicit VR, which has 32 (PS3.5 7.1.3). For objects without pixels.
    """
    if longest > LONGEST_VALUE:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def complete_header(dataset: Dataset, source: Dataset, identity: ResultIdentity, *, description: str) -> None:
    """What the encoder leaves out or takes from the clock: the same job must give the same bytes."""
    moment = in_zone_of(source, identity.created_at)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    for part, value in (("Date", date), ("Time", time)):
        for kind in ("InstanceCreation", "Series"):
            setattr(dataset, kind + part, value)
        for kind in ("Content", "PresentationCreation", "StructureSet"):
            if kind + part in dataset:
                setattr(dataset, kind + part, value)
    dataset.SeriesDescription = series_description(identity, description)
    dataset.ContentQualification = "RESEARCH"
    dataset.Manufacturer = identity.manufacturer
    dataset.ManufacturerModelName = identity.model
    dataset.SoftwareVersions = identity.version
    dataset.DeviceSerialNumber = identity.digest[:16]
    for keyword in INHERITED:
        if keyword in source and keyword not in dataset:
            dataset[keyword] = source[keyword]
    contribution = Dataset()
    contribution.PurposeOfReferenceCodeSequence = DicomSequence([code_item(codes.PROCESSING_EQUIPMENT)])
    contribution.Manufacturer = identity.manufacturer
    contribution.ManufacturerModelName = identity.model
    contribution.SoftwareVersions = identity.version
    contribution.DeviceSerialNumber = identity.digest[:16]
    contribution.ContributionDateTime = date + time + moment.strftime("%z")
    contribution.ContributionDescription = (
        f"Model digest sha256:{identity.digest}; job {identity.job_id}. {identity.limits}"
    )
    dataset.ContributingEquipmentSequence = DicomSequence([contribution])


def made_at(dataset: Dataset) -> datetime | None:
    """The moment that ``complete_header`` has written into one of our objects; None if there is none to be read."""
    for item in dataset.get("ContributingEquipmentSequence", []):
        with suppress(ValueError):
            return datetime.strptime(str(item.get("ContributionDateTime", "")), "%Y%m%d%H%M%S.%f%z")
    return None


def say_body_part(dataset: Dataset, source: Dataset) -> None:
    """BodyPartExamined as the source has it; where it has none, an empty Laterality, which then is wanted."""
    body_part = str(source.get("BodyPartExamined") or "")
    if body_part:
        dataset.BodyPartExamined = body_part
    else:
        dataset.Laterality = ""


def pin_dimensions(dataset: Dataset, identity: ResultIdentity, kind: ObjectKind) -> None:
    """The encoder draws the dimension organization's UID at random; the same job must give the same bytes."""
    uid = identity.uid("dimensions", kind)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def in_zone_of(source: Dataset, moment: datetime) -> datetime:
    """The moment in the zone that the study's own times are in, as far as it is stated; else in UTC, because the zone
    of the machine would give the same job other bytes elsewhere.
    """
    # UTC is not stated in TimezoneOffsetFromUTC then: it would speak for the inherited study's date and time, too
    # (PS3.3 C.12.1.1.8). ContributionDateTime names its zone itself.
    try:
        return moment.astimezone(datetime.strptime(str(source.get("TimezoneOffsetFromUTC") or ""), "%z").tzinfo)
    except ValueError:
        return moment.astimezone(UTC)

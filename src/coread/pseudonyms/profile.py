"""An object without what identifies its patient: PS3.15 Annex E, Basic Application Level Confidentiality Profile, with
the options Clean Descriptors, Clean Structured Content, Clean Graphics, and those that the key file chooses.

Stricter than the profile where that costs nothing: every UID that DICOM does not define is replaced, whatever its
attribute; every text that Coread has not written itself is, too, unless it is a code; what no dictionary knows is
removed. An object counts as Coread's own if its UID follows from the job that it names, so that a viewer's edited copy,
which inherits the header, does not. What our own objects say in words is kept: the names of structures, of the model,
and its reasons.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.uid import UID

from coread import MANUFACTURER
from coread.dicom_sr.header import code_item
from coread.dicom_sr.identity import possible_instances
from coread.errors import NotPseudonymised
from coread.pseudonyms.actions import EDITION, Action, action_of
from coread.pseudonyms.dates import dummy_moment, shifted
from coread.pseudonyms.key import Choices, Dates, Key, patient_of
from coread.pseudonyms.key_table import Tie, Tied
from coread.pseudonyms.words import REMOVED, cleaned

TEXTS = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT"})
MOMENTS = frozenset({"DA", "DT", "TM"})
BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW"})

CLASSES = frozenset(
    {"SOPClassUID", "ReferencedSOPClassUID", "RelatedGeneralSOPClassUID", "OriginalSpecializedSOPClassUID"}
    | {"ReferencedSOPClassUIDInFile", "CodingSchemeUID", "ContextUID", "MappingResourceUID", "TransferSyntaxUID"}
    | {"ReferencedTransferSyntaxUIDInFile", "AvailableTransferSyntaxUID", "ContextGroupExtensionCreatorUID"}
)
"""UIDs of kinds of things, and of no thing: they stay."""

CODES = frozenset({"CodeValue", "LongCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"})
STATED = CODES | {
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SequenceName", "ConvolutionKernel"),
    *("ImagedNucleus", "RescaleType", "WindowCenterWidthExplanation", "LUTLabel", "LUTExplanation", "Units"),
    *("SegmentAlgorithmName", "AlgorithmName", "AlgorithmVersion", "ChannelLabel", "FilterType"),
}
"""Texts that say what machine or program made it, and how: they stay in anybody's objects."""

OURS = STATED | {
    *("SeriesDescription", "ContentDescription", "SegmentLabel", "SegmentDescription", "AlgorithmSource", "TrackingID"),
    *("GraphicLayerDescription", "DimensionDescriptionLabel", "TextValue", "DeviceSerialNumber", "ROIName"),
    *("StructureSetLabel", "StructureSetName", "ContributionDescription"),
}
"""Texts that Coread writes itself: they stay in its own objects. The serial number is the digest of the model."""

QUOTING = frozenset(
    {"TextValue", "TrackingID", "SegmentLabel", "SegmentDescription", "GraphicLayerDescription", "ROIName"}
)
"""Those of them that are replaced if they hold a patient's name or number; the others name the model, which may have a
word in common with somebody."""

DATA = frozenset(
    {"PixelData", "FloatPixelData", "DoubleFloatPixelData", "WaveformData", "ICCProfile", "LUTData"}
    | {"RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData"}
    | {"SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData"}
    | {"SegmentedBluePaletteColorLookupTableData", "PointCoordinatesData", "SurfacePoints", "VectorCoordinateData"}
    | {"ExtendedOffsetTable", "ExtendedOffsetTableLengths", "BlendingLookupTableData", "WaveformPaddingValue"}
    | {"ChannelMinimumValue", "ChannelMaximumValue"}
)
"""Bytes that hold samples, their places or their colours."""

CHARACTERISTICS = frozenset({"PatientSex", "PatientAge", "PatientSize", "PatientWeight"} | {"PregnancyStatus"})
"""What is kept of the patient if it is chosen (PS3.15 E.3.5)."""

PATIENT = 0x0010
"""The group of the patient's attributes, whose dates tell of no study."""

OLDEST = 90
"""Years. Who is older is told as as old: there are few of them."""

EMPTIED = frozenset({"PersonIdentificationCodeSequence", "InstitutionCodeSequence", "FlowIdentifierSequence"})
"""Sequences for which there is no other value to give."""

SHOWN = frozenset({"PixelData"})
NO_IMAGES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.30"})
"""Segmentations and parametric maps: their pixels are no images."""

LOCAL_SCHEME = re.compile(r"99.*|L", re.DOTALL)
"""Coding schemes of a site or a maker, whose meanings may be anything (PS3.16 clause 8)."""

BASIC = Code("113100", "DCM", "Basic Application Confidentiality Profile")
OPTIONS = (
    Code("113103", "DCM", "Clean Graphics Option"),
    Code("113104", "DCM", "Clean Structured Content Option"),
    Code("113105", "DCM", "Clean Descriptors Option"),
)
DATES = {
    Dates.SHIFTED: Code("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Dates.KEPT: Code("113106", "DCM", "Retain Longitudinal Temporal Information Full Dates Option"),
}
OF_PATIENT = Code("113108", "DCM", "Retain Patient Characteristics Option")

TEMPORAL = {Dates.SHIFTED: "MODIFIED", Dates.KEPT: "UNMODIFIED", Dates.REMOVED: "REMOVED"}
METHOD = ("Coread", f"PS3.15 E.1 Basic Profile, Table E.1-1 of {EDITION}")
SHORTEST_NAME, SHORTEST_IDENTIFIER = 3, 4
"""Characters, from which on a part of a name or an identifier is sought for in texts."""
IDENTIFIERS = frozenset({"PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "MedicalRecordLocator"})
_JOB = re.compile(r"\bjob ([0-9a-f]{32})\b")


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What the elements of one object are judged by."""

    key: Key
    patient: str
    job_id: str
    """Of our own objects; empty for others'."""
    traces: frozenset[str] = field(repr=False)
    """What names the patient, and so may stand in no text."""

    def text(self, keyword: str, value: str) -> str:
        may_quote = keyword in QUOTING or not (self.job_id or keyword in CODES)
        return cleaned(value, key=self.key, traces=self.traces if may_quote else (), job_id=self.job_id)


def pseudonymised(original: Dataset, key: Key) -> Dataset:
    """The object without what identifies its patient. The original stays as it is.

    Raises NotPseudonymised if it shows pixels of images that nobody has looked at, or is a document of another format.
    """
    _check(original, key)
    patient = _patient_of(original)
    context = _Context(key=key, patient=patient, job_id=job_of(original), traces=_traces(original))
    found = _dataset(original, context)
    found.PatientID = key.patient(patient)
    found.PatientName = f"{found.PatientID}^"
    if found.get("StudyInstanceUID"):
        found.StudyID = key.study(str(original.StudyInstanceUID))
    _say_how(found, key.choices)
    found.preamble = b"\0" * 128
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = original.file_meta.TransferSyntaxUID
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    return found


def job_of(original: Dataset) -> str:
    """The job that an object is a result of, if it is one of Coread's own; else empty."""
    if original.get("Manufacturer") != MANUFACTURER:
        return ""
    for contribution in original.get("ContributingEquipmentSequence") or ():
        match = _JOB.search(str(contribution.get("ContributionDescription") or ""))
        if match and str(original.get("SOPInstanceUID")) in _instances(match[1]):
            return match[1]
    return ""


def ties_of(original: Dataset, key: Key) -> Iterator[Tie]:
    """What leads back from the object that ``pseudonymised`` gives."""
    patient = _patient_of(original)
    yield Tie(pseudonym=key.patient(patient), kind=Tied.PATIENT, original=patient.strip())
    part_of = key.patient(patient)
    for kind, keyword in (
        (Tied.STUDY, "StudyInstanceUID"),
        (Tied.SERIES, "SeriesInstanceUID"),
        (Tied.INSTANCE, "SOPInstanceUID"),
    ):
        uid = str(original.get(keyword) or "")
        if uid:
            yield Tie(pseudonym=key.uid(uid), kind=kind, original=uid, part_of=part_of)
            part_of = key.uid(uid)
    job_id = job_of(original)
    if job_id:
        study = key.uid(str(original.StudyInstanceUID))
        yield Tie(pseudonym=key.job(job_id), kind=Tied.JOB, original=job_id, part_of=study)


@lru_cache(maxsize=64)
def _instances(job_id: str) -> frozenset[str]:
    return possible_instances(job_id)


def _patient_of(original: Dataset) -> str:
    return patient_of(
        str(original.get("PatientID") or ""),
        str(original.get("IssuerOfPatientID") or ""),
        study_instance_uid=str(original.get("StudyInstanceUID") or ""),
    )


def _check(original: Dataset, key: Key) -> None:
    uid = original.get("SOPInstanceUID")
    if "EncapsulatedDocument" in original:
        raise NotPseudonymised(
            f"expected an object whose content DICOM describes, found a document of another format in {uid}; "
            "leave it out"
        )
    shows_images = not SHOWN.isdisjoint(element.keyword for element in original)
    if shows_images and str(original.get("SOPClassUID")) not in NO_IMAGES and not key.choices.images:
        raise NotPseudonymised(
            f"expected no pixels of images, found some in {uid}, and a name may be burned into them; if somebody has "
            "looked and none is, make a key file that takes images"
        )


def _traces(original: Dataset) -> frozenset[str]:
    """The words that name the patient: parts of names (PatientName, PatientBirthName, OtherPatientNames and every other
    PN), and identifiers, those in OtherPatientIDsSequence included. Short ones say nothing by themselves.
    """
    found: set[str] = set()
    for element in [*original, *_other_identifiers(original)]:
        if element.VR == "PN" and element.keyword != "ContentCreatorName":
            names = _values_of(element)
            found |= {part for name in names for part in re.split(r"[\^=\s]+", name) if len(part) >= SHORTEST_NAME}
        elif element.keyword in IDENTIFIERS:
            found |= {value for value in map(str.strip, _values_of(element)) if len(value) >= SHORTEST_IDENTIFIER}
    return frozenset(found)


def _other_identifiers(original: Dataset) -> Iterator[DataElement]:
    """What the items of OtherPatientIDsSequence hold (PS3.3 C.2.3)."""
    for item in original.get("OtherPatientIDsSequence") or ():
        yield from item


def _values_of(element: DataElement) -> list[str]:
    values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    return [str(value or "") for value in values]


def _dataset(original: Dataset, context: _Context) -> Dataset:
    found = Dataset()
    for element in original:
        kept = _element(element, context)
        if kept is not None:
            found.add(kept)
    if LOCAL_SCHEME.fullmatch(str(found.get("CodingSchemeDesignator") or "")) and not context.job_id:
        found.CodeMeaning = REMOVED
    return found


def _element(element: DataElement, context: _Context) -> DataElement | None:
    """What becomes of an element; None if it is removed."""
    vr = str(element.VR)[:2]  # some may be one of two
    if element.tag.is_private or element.tag.element == 0 or vr == "UN" or not dictionary_has_tag(element.tag):
        return None
    if vr == "UI":
        return _with(element, _each(element.value, lambda uid: _uid(element, str(uid), context)))
    action = action_of(element.tag)
    if vr in MOMENTS and element.tag.group != PATIENT:
        return _moment(element, action, context)
    if vr == "SQ":
        return _sequence(element, action, context)
    return _chosen(element, vr, context) or _by(action or _unnamed(element, vr), element)


def _chosen(element: DataElement, vr: str, context: _Context) -> DataElement | None:
    """An element that stays by an option, or because Coread wrote it; None if it is none of these."""
    choices = context.key.choices
    if element.keyword in CHARACTERISTICS and choices.characteristics:
        return _with(element, _no_older(str(element.value or ""))) if element.keyword == "PatientAge" else element
    if vr in TEXTS and element.keyword in (OURS if context.job_id else STATED):
        return _with(element, _each(element.value, lambda text: context.text(element.keyword, str(text))))
    is_program = element.keyword == "ContentCreatorName" and context.job_id
    is_zone = element.keyword == "TimezoneOffsetFromUTC" and choices.dates is Dates.KEPT
    return element if is_program or is_zone else None


def _unnamed(element: DataElement, vr: str) -> Action | None:
    """What is done to what the table does not name: any text may be a name, any bytes a picture."""
    if vr in TEXTS | {"PN"}:
        return Action.DUMMY
    return Action.REMOVE if vr in BYTES and element.keyword not in DATA else None


def _by(action: Action | None, element: DataElement) -> DataElement | None:
    """An element as an action leaves it."""
    if action is None:
        return element
    if action is Action.REMOVE:
        return None
    if action is Action.EMPTY or element.is_empty:
        return _with(element, None)
    return _with(element, _DUMMIES[str(element.VR)[:2]])


_DUMMIES: dict[str, object] = {
    **dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT", "AE", "CS"), REMOVED),
    "PN": f"{REMOVED}^",
    "UR": "http://removed.invalid",
    "AS": "000Y",
    **dict.fromkeys(("OB", "OW"), b"\0\0"),
    **dict.fromkeys(("IS", "DS"), "0"),
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV"), 0),
    **dict.fromkeys(("FL", "FD"), 0.0),
    **{vr: dummy_moment(vr) for vr in sorted(MOMENTS)},
}
"""A value of each kind that says nothing."""

NEEDED = frozenset({"PresentationCreationDate", "PresentationCreationTime", "StudyDate", "StudyTime"})
"""Moments that get another value in any case: the first two must have one (PS3.3 C.11.10), the others are what a
DICOMDIR is made of.
"""


def _moment(element: DataElement, action: Action | None, context: _Context) -> DataElement | None:
    dates, vr = context.key.choices.dates, str(element.VR)
    if dates is Dates.KEPT or element.is_empty:
        return element
    if dates is Dates.SHIFTED:
        days = context.key.shift(context.patient)
        return _with(element, _each(element.value, lambda moment: shifted(str(moment), vr, back=days)))
    if element.keyword in NEEDED or action is None:
        action = Action.DUMMY
    return _by(action, element)


def _sequence(element: DataElement, action: Action | None, context: _Context) -> DataElement | None:
    """A sequence: of what the table would have replaced or leaves alone, the items stay, each cleaned."""
    if action is Action.REMOVE:
        return None
    if action is Action.EMPTY or element.keyword in EMPTIED:
        return _with(element, DicomSequence([]))
    return _with(element, DicomSequence([_dataset(item, context) for item in element.value]))


def _uid(element: DataElement, uid: str, context: _Context) -> UID:
    return UID(uid if element.keyword in CLASSES else context.key.uid(uid))


def _no_older(age: str) -> str:
    """PatientAge, at most 090Y; empty if it is none."""
    if not re.fullmatch(r"[0-9]{3}[DWMY]", age):
        return ""
    return f"{OLDEST:03d}Y" if age.endswith("Y") and int(age[:3]) > OLDEST else age


def _with(element: DataElement, value: object) -> DataElement:
    return DataElement(element.tag, element.VR, value)


def _each(value: Any, change: Callable[[Any], object]) -> object:
    """Each of an element's values, changed; nothing stays nothing."""
    if value is None:
        return None
    return [change(each) for each in value] if isinstance(value, MultiValue | list) else change(value)


def _say_how(found: Dataset, choices: Choices) -> None:
    """What was done, as the profile wants it told (PS3.15 E.1.1). It is the patient's attribute, and so the same in all
    objects of a study.
    """
    done = [BASIC, *OPTIONS]
    done += [DATES[choices.dates]] if choices.dates in DATES else []
    done += [OF_PATIENT] if choices.characteristics else []
    found.PatientIdentityRemoved = "YES"
    found.DeidentificationMethod = list(METHOD)
    found.DeidentificationMethodCodeSequence = DicomSequence([code_item(code) for code in done])
    found.LongitudinalTemporalInformationModified = TEMPORAL[choices.dates]
    if not SHOWN.isdisjoint(element.keyword for element in found) and choices.images and "BurnedInAnnotation" in found:
        found.BurnedInAnnotation = "NO"

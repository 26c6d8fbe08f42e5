"""Rules for every element of every object: its value fits its representation, and the file says what it holds."""

import math
from collections.abc import Iterator
from functools import cache

from pydicom.charset import python_encoding
from pydicom.config import RAISE
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import PersonName, validate_value

from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

_representation = problems_of("representation", "PS3.5 6.2")
_multiplicity = problems_of("representation", "PS3.5 6.4")
_private = problems_of("private", "PS3.5 7.8.1")
_enumerated = problems_of("enumerated value", "PS3.3 5")
_file = problems_of("file", "PS3.10 7.1")
_charset = problems_of("character set", "PS3.3 C.12.1.1.2")

CHECKED_BY_PATTERN = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"})
BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
ONE_TEXT = frozenset({"LT", "ST", "UT", "UR"})

ENUMERATED: dict[str, tuple[str, ...]] = {
    "ApprovalStatus": ("APPROVED", "UNAPPROVED", "REJECTED"),
    "BurnedInAnnotation": ("YES", "NO"),
    "CompletionFlag": ("PARTIAL", "COMPLETE"),
    "ContentQualification": ("PRODUCT", "RESEARCH", "SERVICE"),
    "ContinuityOfContent": ("SEPARATE", "CONTINUOUS"),
    "FrameLaterality": ("R", "L", "U", "B"),
    "ImageLaterality": ("R", "L", "U", "B"),
    "Laterality": ("R", "L"),
    "LossyImageCompression": ("00", "01"),
    "PatientSex": ("M", "F", "O"),
    "PixelRepresentation": ("0", "1"),
    "PreliminaryFlag": ("PRELIMINARY", "FINAL"),
    "PresentationSizeMode": ("SCALE TO FIT", "TRUE SIZE", "MAGNIFY"),
    "RecognizableVisualFeatures": ("YES", "NO"),
    "ROIGenerationAlgorithm": ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"),
    "SegmentAlgorithmType": ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"),
    "SegmentationFractionalType": ("PROBABILITY", "OCCUPANCY"),
    "SegmentationType": ("BINARY", "FRACTIONAL", "LABELMAP"),
    "SegmentsOverlap": ("YES", "UNDEFINED", "NO"),
    "SpatialLocationsPreserved": ("YES", "NO", "REORIENTED_ONLY"),
    "VerificationFlag": ("UNVERIFIED", "VERIFIED"),
}
"""Attributes that can have these values only."""


def values_fit_their_representation(subject: Subject) -> Iterator[Problem]:
    """Each element has its dictionary's VR and VM, and a value of that form; an unreadable one is said, not skipped."""
    for where, dataset in items_of(subject.dataset):
        for tag in list(dataset.keys()):
            try:
                element = dataset[tag]
            except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError):
                yield _representation(f"{where}{tag}", "a value of its VR", "one that cannot be read")
                continue
            yield from _element_problems(f"{where}{element.keyword or element.tag}", element)


def _element_problems(where: str, element: DataElement) -> Iterator[Problem]:
    if element.tag.is_private:
        return
    if not dictionary_has_tag(element.tag):
        yield _multiplicity(where, "an attribute of the standard", "an unknown one", Severity.WARNING)
        return
    wanted = dictionary_VR(element.tag)
    if element.VR not in {*wanted.split(" or "), "UN"}:
        yield _representation(where, f"VR {wanted}", str(element.VR))
        return
    if element.VR == "SQ" or element.VR in BINARY or element.is_empty:
        return
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
    multiplicity = dictionary_VM(element.tag)
    if element.VR not in ONE_TEXT and not fits_multiplicity(len(values), multiplicity):
        yield _multiplicity(where, f"{multiplicity} values", str(len(values)))
    for value in values:
        found = _misfit(str(element.VR), value)
        if found:
            yield _representation(where, f"a value of VR {element.VR}", found)
    allowed = ENUMERATED.get(element.keyword)
    if allowed and any(str(value) not in allowed for value in values if str(value)):
        yield _enumerated(where, " or ".join(allowed), "another value")


def _misfit(vr: str, value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    if vr not in CHECKED_BY_PATTERN:
        return None
    text = str(getattr(value, "original_string", value)) if not isinstance(value, PersonName) else str(value)
    return None if _is_valid(vr, text) else "one that is too long or malformed"


@cache
def _is_valid(vr: str, text: str) -> bool:
    try:
        validate_value(vr, text, RAISE)
    except ValueError:
        return False
    return True


@cache
def fits_multiplicity(count: int, multiplicity: str) -> bool:
    """Whether a number of values is allowed by a VM such as "1", "1-3", "2-n" or "2-2n" (PS3.5 6.4)."""
    low, _, high = multiplicity.partition("-")
    if not high:
        return count == int(low)
    if high == "n":
        return count >= int(low)
    if high.endswith("n"):
        return count >= int(low) and count % int(high[:-1]) == 0
    return int(low) <= count <= int(high)


def items_of(dataset: Dataset, where: str = "") -> Iterator[tuple[str, Dataset]]:
    """The dataset and every sequence item in it, each with its place."""
    yield where, dataset
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError):
            continue  # another rule says that it cannot be read
        if element.VR == "SQ" and element.value:
            for index, item in enumerate(element.value):
                yield from items_of(item, f"{where}{element.keyword or element.tag}[{index}].")


def private_elements_have_creators(subject: Subject) -> Iterator[Problem]:
    """A private element stands in a block that somebody has reserved."""
    for where, dataset in items_of(subject.dataset):
        for tag in list(dataset.keys()):
            if not tag.is_private or tag.is_private_creator:
                continue
            creator = dataset.get((tag.group, tag.element >> 8))
            if creator is None or not str(creator.value or "").strip():
                yield _private(f"{where}{tag}", "the creator of its private block", "none")


def the_file_says_what_it_holds(subject: Subject) -> Iterator[Problem]:
    """The file's own header names the object in it and how it is encoded."""
    meta = getattr(subject.dataset, "file_meta", Dataset())
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        stated, held = meta.get(f"MediaStorage{keyword}"), subject.dataset.get(keyword)
        if str(stated) != str(held):
            yield _file(f"MediaStorage{keyword}", f"the object's {keyword}, {held}", str(stated))
    syntax = meta.get("TransferSyntaxUID")
    if not syntax or not (UID(syntax).is_transfer_syntax or _may_be_newer(UID(syntax))):
        yield _file("TransferSyntaxUID", "a transfer syntax", str(syntax))
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not subject.dataset.get(keyword):
            yield problems_of(keyword[:-3], "PS3.3 C.12.1")(keyword, "a UID", "none")


def _may_be_newer(uid: UID) -> bool:
    """A UID that the dictionary does not know: a transfer syntax of later years, or somebody's own."""
    return uid.is_valid and uid.name == uid and not uid.startswith("1.2.840.10008.5.")


def text_has_a_character_set(subject: Subject) -> Iterator[Problem]:
    """Text beyond ASCII needs the character set that it is written in."""
    dataset = subject.dataset
    stated = dataset.get("SpecificCharacterSet") or []
    terms = [stated] if isinstance(stated, str) else list(stated)
    unknown = [term for term in terms if term and term not in python_encoding]
    if unknown:
        yield _charset("SpecificCharacterSet", "a defined term, such as ISO_IR 192", "an unknown one")
    if any(terms):
        return
    for where, item in items_of(dataset):
        for element in item.values():
            text = element.value if element.VR in {"LO", "LT", "PN", "SH", "ST", "UC", "UT"} else ""
            if text and not (text.isascii() if isinstance(text, bytes) else str(text).isascii()):
                yield _charset(f"{where}{element.tag}", "a SpecificCharacterSet", "none, and text beyond ASCII")
                return


ELEMENTS = (
    the_file_says_what_it_holds,
    values_fit_their_representation,
    private_elements_have_creators,
    text_has_a_character_set,
)

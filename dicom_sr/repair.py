"""Source headers as results may inherit them: the ordinary mistakes of hospital systems mended, text in Unicode.

What is mended, and how, is decided so that a result is valid and never says something wrong: what is illegal or
cannot be decoded is left out, or left empty where the standard wants the attribute. A text that is too long is cut; an
identifier that is too long is left empty, because a cut one may be somebody else's. PatientID and UIDs stay as they
are: by them the archive knows what belongs together.
"""

import copy
import math
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.valuerep import DSfloat, PersonName, validate_value

EMPTY_IF_ABSENT = frozenset(
    {
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "StudyID",
        "AccessionNumber",
    }
)
"""Type 2 attributes of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): present, if need be empty."""

IDENTIFIERS = frozenset({"IssuerOfPatientID", "AccessionNumber", "StudyID"})
"""Never cut."""

UNTOUCHED = frozenset({"PatientID"})
"""Archives file a study under its PatientID, so a result with another one would land elsewhere. UIDs are not touched
for the same reason, however odd they are."""

SEXES = ("", "M", "F", "O")
"""The defined terms of PatientSex (PS3.3 C.7.1.1)."""

LONGEST = {"SH": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10240}
"""Characters that a text may have (PS3.5 6.2); a person's name may have them in each of its representations."""

LONGEST_NUMBER = 16

_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNREADABLE = (
    BytesLengthException,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
)
"""What pydicom raises at a value that it cannot convert."""


def repaired(image: Dataset) -> Dataset:
    """A copy of an image's header (no pixels, no private elements, none that the standard does not name) that results
    can inherit from.

    The image itself stays as it is.
    """
    header = Dataset()
    for tag in sorted(image.keys()):
        if tag.is_private or tag in _PIXELS or not dictionary_has_tag(tag):
            continue
        try:
            element = copy.deepcopy(image[tag])
            if _is_of_its_kind(element):
                header.add(element)
        except _UNREADABLE:
            continue
    header.file_meta = copy.deepcopy(image.file_meta)
    header.set_original_encoding(*image.original_encoding)
    try:
        header.decode()
    except _UNREADABLE:
        _drop_undecodable(header)
    header.SpecificCharacterSet = "ISO_IR 192"
    for element in list(header):
        _mend(header, element)
    for keyword in EMPTY_IF_ABSENT - {element.keyword for element in header}:
        setattr(header, keyword, "")
    if header.PatientSex not in SEXES:
        header.PatientSex = ""
    return header


def _is_of_its_kind(element: DataElement) -> bool:
    """Whether an element has a value representation that its attribute may have, or one text in place of another."""
    allowed = dictionary_VR(element.tag).split(" or ")
    return element.VR in allowed or (element.VR in LONGEST and not LONGEST.keys().isdisjoint(allowed))


def _drop_undecodable(header: Dataset) -> None:
    """Leave out the elements whose text is not in the character set that the header states."""
    for element in list(header):
        alone = Dataset({element.tag: element})
        alone.set_original_encoding(*header.original_encoding)
        try:
            alone.decode()
        except _UNREADABLE:
            del header[element.tag]


def _mend(header: Dataset, element: DataElement) -> None:
    """Cut, empty or leave out a value that its value representation does not allow."""
    if element.VM > 1 and element.VR in LONGEST and dictionary_VM(element.tag) == "1":
        element.value = " ".join(str(value) for value in element.value)  # a backslash was typed into the text
    if element.keyword in UNTOUCHED or element.VR in ("SQ", "UI") or element.is_empty or _is_valid(element):
        if element.VR == "DS" and not element.is_empty:
            element.value = _numbers_of_legal_length(element.value)
        return
    if element.VR in LONGEST and element.keyword not in IDENTIFIERS:
        element.value = _shortened(element.value, element.VR)
        if _is_valid(element):
            return
    if element.keyword in EMPTY_IF_ABSENT:
        element.value = ""
    else:
        del header[element.tag]


def _is_valid(element: DataElement) -> bool:
    values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    if element.VR in ("DS", "IS"):
        wanted = dictionary_VM(element.tag)
        # What could not be converted stayed text.
        are_numbers = all(not isinstance(value, str) and math.isfinite(value) for value in values)
        return are_numbers and (not wanted.isdecimal() or len(values) == int(wanted))
    try:
        for value in values:
            validate_value(element.VR, str(value) if element.VR == "PN" else value, config.RAISE)
    except _UNREADABLE:
        return False
    return True


def _numbers_of_legal_length(value: Any) -> Any:
    """A decimal string may have 16 characters (PS3.5 6.2); some senders write more digits."""
    if isinstance(value, MultiValue | list):
        return [_numbers_of_legal_length(each) for each in value]
    return value if len(str(value)) <= LONGEST_NUMBER else DSfloat(float(value), auto_format=True)


def _shortened(value: object, vr: str) -> object:
    length = LONGEST[vr]
    if isinstance(value, MultiValue | list):
        return [_shortened(each, vr) for each in value]
    if isinstance(value, PersonName):
        return "=".join(group[:length] for group in str(value).split("="))
    return str(value)[:length]

"""Source headers as results may inherit them: ordinary omissions of hospital systems filled in, text in Unicode."""

import copy
from collections.abc import Sequence

from pydicom.dataset import Dataset

EMPTY_IF_ABSENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Type 2 attributes of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): present, if need be empty."""

SEXES = ("", "M", "F", "O")
"""The defined terms of PatientSex (PS3.3 C.7.1.1)."""


def repaired(images: Sequence[Dataset]) -> list[Dataset]:
    """Copies of the headers (no pixels) that results can inherit from; the images themselves stay as they are."""
    return [_repaired(image) for image in images]


def _repaired(image: Dataset) -> Dataset:
    header = copy.deepcopy(Dataset({tag: image.get_item(tag) for tag in set(image.keys()) - _PIXELS}))
    header.file_meta = copy.deepcopy(image.file_meta)
    header.set_original_encoding(*image.original_encoding)
    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"
    for keyword in EMPTY_IF_ABSENT:
        if keyword not in header:
            setattr(header, keyword, "")
    if header.PatientSex not in SEXES:
        header.PatientSex = ""
    return header


_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

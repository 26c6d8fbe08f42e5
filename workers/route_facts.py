"""What routes look at, from DICOM files: the same values that Orthanc would give for the same study."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import BYTES_VR, CUSTOMIZABLE_CHARSET_VR, STR_VR

from coread.archive import is_source
from coread.errors import NotDicom
from coread.routes import Attribute
from coread.study_facts import Header, StudyFacts, facts_of, keywords_to_read
from coread.workers.scan import UNPARSABLE
from coread.workers.study import headers_in, read_header

DIGITS = 17
"""Significant digits of a binary floating-point number, so that it can be read back exactly; Orthanc writes as many."""


def facts_in_files(
    paths: Sequence[Path],
    keywords: AbstractSet[str],
    *,
    source_aet: str | None = None,
    of_worklist: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> list[StudyFacts]:
    """The facts of the studies in files and folders, in the order of their UIDs. Results are left out.

    ``source_aet``: the AE title that would send them, in place of the one that the files state; ``of_worklist``: what
    the modality worklist would say.
    Raises NotDicom as reading a folder does.
    """
    studies: dict[str, dict[str, dict[str, Dataset]]] = {}
    for header in _headers(paths):
        study = studies.setdefault(str(header.StudyInstanceUID), {})
        if is_source(modality=header.get("Modality"), manufacturer=header.get("Manufacturer")):
            study.setdefault(str(header.SeriesInstanceUID), {})[str(header.SOPInstanceUID)] = header
    if not studies:
        raise NotDicom("expected DICOM files, found none; name a file or a folder that holds a study")
    return [
        facts_of(
            uid,
            [_header(instances, keywords, source_aet) for instances in series.values()],
            keywords,
            of_worklist=of_worklist,
        )
        for uid, series in sorted(studies.items())
    ]


def pydicom_dictionary(keyword: str) -> Attribute | None:
    """Pydicom's DICOM dictionary."""
    tag = keyword_dict.get(keyword)
    return None if tag is None else Attribute(group=tag >> 16, vr=dictionary_VR(tag)[:2])  # of "OB or OW", the first


def _headers(paths: Iterable[Path]) -> Iterable[Dataset]:
    for path in paths:
        if path.is_dir():
            yield from (header for _, header in headers_in(path))
        else:
            yield read_header(path)


def _header(instances: dict[str, Dataset], keywords: AbstractSet[str], source_aet: str | None) -> Header:
    first = instances[min(instances)]
    texts = {keyword: _text(first, keyword) for keyword in keywords_to_read(keywords)}
    if source_aet is not None:
        texts["SourceApplicationEntityTitle"] = source_aet
    return Header(
        series_instance_uid=str(first.SeriesInstanceUID),
        texts=texts,
        modality=_text(first, "Modality").strip(),
        sop_class_uid=_text(first, "SOPClassUID").strip("\0 "),
        instances=len(instances),
    )


def _text(header: Dataset, keyword: str) -> str:
    """The value as it stands, legal or not, decoded; several values have a backslash between them."""
    tag = tag_for_keyword(keyword)
    dataset = header.file_meta if tag is not None and tag >> 16 == 0x0002 else header
    if tag is None or tag not in dataset:
        return ""
    element: Any = dataset.get_item(tag)
    vr = element.VR if element.VR not in (None, "UN") else dictionary_VR(tag)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes) and vr in STR_VR:
        return _decoded(element.value, header if vr in CUSTOMIZABLE_CHARSET_VR else None)
    if vr == "SQ" or vr in BYTES_VR:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the header
        try:
            value: object = dataset[tag].value
        except UNPARSABLE:
            return ""  # a number cut short is none
    each = value if isinstance(value, MultiValue | list) else [value]
    return "\\".join(_as_written(one) for one in each)


def _as_written(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return "" if value is None else str(value)


def _decoded(value: bytes, of: Dataset | None) -> str:
    if of is None:
        return value.decode("ascii", errors="replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encodings = convert_encodings(of.get("SpecificCharacterSet") or "ISO_IR 6")
        return decode_bytes(value, encodings, delimiters={ord("\\")})

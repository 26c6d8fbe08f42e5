"""Rules for codes: each is of a scheme in use, exists, has a meaning of its own, and belongs where it stands."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr._cid_dict import cid_concepts, name_for_cid
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping as snomed_mapping

from coread.dicom_sr.validation.elements import items_of
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

RETIRED_SCHEMES = ("SRT", "SNM3", "99SDM", "SNM")
"""SNOMED by its old identifiers: retired since 2017 (PS3.16 8.1)."""
RETIRED_SINCE = "20200101"
"""Objects made before may well have them, as long as they have nothing else: three years to change were enough."""
COMPLETE_SCHEMES = ("DCM",)
"""Schemes of which every code is in the dictionary."""
CHECKED_SCHEMES = ("SCT", "DCM", "LN")

SCHEMES = frozenset(
    # PS3.16 table 8-1 and 8-2, without those that are of one maker (99…).
    [
        "ACR",
        "ASTM-sigpurpose",
        "BARI",
        "BI",
        "C4",
        "C5",
        "CD2",
        "CDT",
        "CPT-4",
        "CPT-5",
        "DC",
        "DCM",
        "DCMUID",
        "DICOM",
        "E5",
        "E6",
        "FMA",
        "FDATEST",
        "HCPCS",
        "HGNC",
        "HL7",
        "HPC",
        "HUGO",
        "I10",
        "I10P",
        "I11",
        "I9",
        "I9C",
        "IBSI",
        "ICD-10-PCS",
        "ICD-O-3",
        "ICDO3",
        "IHE",
        "IHE_PCD",
        "ISO3166_1",
        "ISO3166-1",
        "ISO639_1",
        "ISO639_2",
        "ISO4217",
        "ITIS_TSN",
        "JC8",
        "JJ1017",
        "JJ1017T",
        "JLAC10",
        "LB",
        "LN",
        "L",
        "MAYO",
        "MA",
        "MAYOASRG",
        "MDC",
        "MDNS",
        "MGI",
        "MP",
        "MSH",
        "MVD",
        "NCDR",
        "NCIt",
        "NDC",
        "NEU",
        "NIC",
        "NICIP",
        "NPI",
        "NYUMCCG",
        "PATHLEX",
        "POS",
        "PUBCHEM_CID",
        "RADELEMENT",
        "RADLEX",
        "RFC3066",
        "RFC5646",
        "RO",
        "RXNORM",
        "SCPECG",
        "SCT",
        "SDM",
        "SNM",
        "SNM3",
        "SRT",
        "TA",
        "TAP",
        "UBERON",
        "UCUM",
        "UMLS",
        "UNS",
        "UPC",
        "MIM",
        "RGD",
        "RRID",
        "CAPSULE-BL",
    ]
)

DERIVATION, LATERALITY = "121401", "272741003"
BACKGROUND = ("DCM", "125040")
"""What label maps call what is no segment."""

_code = problems_of("code", "PS3.3 8.8")
_retired = problems_of("code", "PS3.16 8.1")
_group = problems_of("code", "PS3.16 B")

IN_TEMPLATES: Mapping[tuple[str, str], frozenset[str]] = {
    ("SCT", "272518008"): frozenset({"Cardiac Cycle Point"}),
}
"""Meanings by which templates of PS3.16 call concepts, where the dictionaries have SNOMED's full name only."""

MEANS_AN_UNIT = {
    "mm": "millimeter",
    "cm": "centimeter",
    "ml": "milliliter",
    "mL": "milliliter",
    "mm2": "square millimeter",
    "cm2": "square centimeter",
    "g": "gram",
    "kg": "kilogram",
    "s": "second",
    "%": "percent",
    "1": "no units",
    "cm3": "cubic centimeter",
    "mm3": "cubic millimeter",
}


def codes_mean_what_they_say(subject: Subject) -> Iterator[Problem]:
    """Each code is complete, of a known and current scheme, exists, and has a meaning that belongs to it."""
    items = list(coded_items(subject.dataset))
    for where, item in items:
        scheme, value = str(item.get("CodingSchemeDesignator", "")), code_value(item)
        meaning = str(item.get("CodeMeaning", ""))
        if not value or not meaning or not (scheme or "URNCodeValue" in item):
            yield _code(where, "value, scheme and meaning", f"({value}, {scheme}, {meaning!r})")
        elif scheme in RETIRED_SCHEMES:
            yield from _old_snomed_problems(where, scheme, value, meaning)
        elif scheme == "UCUM":
            yield from _unit_problems(where, value, meaning)
        elif scheme in CHECKED_SCHEMES:
            yield from _existence_problems(where, scheme, value)
            yield from _meaning_problem(where, scheme, value, meaning)
        elif not scheme.startswith("99") and scheme not in SCHEMES and not _is_identified(subject.dataset, scheme):
            expected = "a scheme of PS3.16, one that begins with 99, or one that is identified"
            yield problems_of("code", "PS3.16 8.2")(where, expected, scheme)
    yield from _mixed_snomed(subject.dataset, items)


def _existence_problems(where: str, scheme: str, value: str) -> Iterator[Problem]:
    """Codes with a check digit are right or wrong by themselves."""
    if known_meanings(scheme, value):
        return
    if scheme in COMPLETE_SCHEMES:
        yield problems_of("code", "PS3.16 D")(where, f"a code of {scheme}", f"{value}, which is none")
    elif scheme == "SCT" and not is_snomed_identifier(value):
        yield _code(where, "a SNOMED CT identifier, with its check digit", value)
    elif scheme == "LN" and not re.fullmatch(r"(LP|LA)?\d{1,7}-\d", value):
        yield _code(where, "a LOINC number, such as 18087-7", value)


def _meaning_problem(where: str, scheme: str, value: str, meaning: str) -> Iterator[Problem]:
    known = known_meanings(scheme, value)
    if not known or _plain(meaning) in {_plain(each) for each in known}:
        return
    shared = _words(meaning) & {word for each in known for word in _words(each)}
    yield problems_of("code", "PS3.3 8.3")(
        where,
        f"a meaning of ({value}, {scheme}), such as {sorted(known)[0]!r}",
        repr(meaning),
        Severity.WARNING if shared else Severity.ERROR,
    )


def _old_snomed_problems(where: str, scheme: str, value: str, meaning: str) -> Iterator[Problem]:
    """What is wrong even in an old object: a code that never was one, and the meaning of another."""
    current = snomed_mapping["SRT"].get(value)
    if current:
        for problem in _meaning_problem(where, "SCT", current, meaning):
            if problem.severity is Severity.ERROR:  # the old meanings were others, but had some word in common
                yield replace(problem, severity=Severity.WARNING)
    elif scheme == "SRT" and not re.fullmatch(r"[A-Z][A-Z0-9]?-[0-9A-F]{3,7}", value):
        yield _retired(where, "an identifier of SNOMED RT, such as T-62000", value)


def _mixed_snomed(dataset: Dataset, items: list[tuple[str, Dataset]]) -> Iterator[Problem]:
    """Old identifiers are legacy in an old object that has no others, and a mistake elsewhere."""
    old = [where for where, item in items if item.get("CodingSchemeDesignator") in RETIRED_SCHEMES]
    if not old:
        return
    mixed = any(item.get("CodingSchemeDesignator") == "SCT" for _, item in items)
    made = max(str(dataset.get(keyword) or "") for keyword in ("ContentDate", "InstanceCreationDate", "StudyDate"))
    if mixed or made >= RETIRED_SINCE:
        for where in old:
            yield _retired(where, "SNOMED CT (SCT)", "a retired scheme")
    else:
        found = f"a retired scheme in {len(old)} places"
        yield _retired(old[0], "SNOMED CT (SCT)", found, Severity.WARNING)


def _unit_problems(where: str, value: str, meaning: str) -> Iterator[Problem]:
    """A unit may be called many names, but not by the name of another."""
    own = {value.casefold(), *(_plain(each) for each in _names_of_unit(value))}
    others = _units_by_name().get(_plain(meaning) or meaning.casefold(), frozenset())
    is_own = _plain(meaning) in own or meaning.casefold() in own or _in_order(value) in map(_in_order, others)
    if others and not is_own:
        names = sorted(_names_of_unit(value)) or [value]
        yield _code(where, f"a meaning of ({value}, UCUM), such as {names[0]!r}", repr(meaning))
    if re.search(r"\s", re.sub(r"[\[{][^\]}]*[\]}]", "", value)):
        yield _code(where, "a UCUM unit", repr(value))


def _in_order(unit: str) -> str:
    """A unit with its annotations last: {SUVbw}g/ml is g/ml{SUVbw}."""
    return re.sub(r"\{[^}]*\}", "", unit) + "".join(re.findall(r"\{[^}]*\}", unit))


@cache
def _names_of_unit(value: str) -> frozenset[str]:
    own = {MEANS_AN_UNIT[value]} if value in MEANS_AN_UNIT else set()
    return frozenset(own | known_meanings("UCUM", value))


@cache
def _units_by_name() -> dict[str, frozenset[str]]:
    units = {value for entry in _tables("UCUM").values() for value in entry} | set(MEANS_AN_UNIT)
    found: dict[str, set[str]] = {}
    for unit in units:
        for name in {unit.casefold(), *(_plain(each) for each in _names_of_unit(unit))}:
            if name:
                found.setdefault(name, set()).add(unit)
    return {name: frozenset(each) for name, each in found.items()}


def _is_identified(dataset: Dataset, scheme: str) -> bool:
    """Whether the object itself says what a scheme is (PS3.3 C.12.1)."""
    return any(
        item.get("CodingSchemeDesignator") == scheme for item in dataset.get("CodingSchemeIdentificationSequence", [])
    )


def codes_stand_where_they_belong(subject: Subject) -> Iterator[Problem]:
    """A code that names its context group is in it, and well-known places hold codes of their groups."""
    for where, item in coded_items(subject.dataset):
        scheme, value = str(item.get("CodingSchemeDesignator", "")), code_value(item)
        cid = str(item.get("ContextIdentifier") or "")
        if cid.isdigit() and item.get("ContextGroupExtensionFlag") != "Y" and int(cid) in name_for_cid:
            listed = context_groups(scheme, value)
            if known_meanings(scheme, value) and int(cid) not in listed and _is_listed(int(cid)):
                yield _group(where, f"a code of CID {cid}, as it says", f"({value}, {scheme})")
        for place, allowed, name, severity in PLACES:
            if place.search(where) and not _belongs(scheme, value, allowed):
                yield _group(where, name, f"({value}, {scheme})", severity)
    for where, item in items_of(subject.dataset):
        names = item.get("ConceptNameCodeSequence", [])
        concept = code_value(names[0]) if names else ""
        for code in item.get("ConceptCodeSequence", []):
            scheme, value = str(code.get("CodingSchemeDesignator", "")), code_value(code)
            if concept in VALUES_OF_CONCEPT and not _belongs(scheme, value, VALUES_OF_CONCEPT[concept][0]):
                yield _group(f"{where}ConceptCodeSequence", VALUES_OF_CONCEPT[concept][1], f"({value}, {scheme})")


def _belongs(scheme: str, value: str, allowed: re.Pattern[str]) -> bool:
    """Whether a code is in a context group of such a name. What the dictionaries do not list is given the benefit."""
    groups = context_groups(scheme, value)
    return (
        not groups
        or (scheme, value) == BACKGROUND
        or any(allowed.fullmatch(f"{cid} {name_for_cid.get(cid, '')}") for cid in groups)
    )


@cache
def _is_listed(cid: int) -> bool:
    return bool(cid_concepts.get(cid))


_ANATOMY = re.compile(
    r"(?!7150 |74[67]\d |950[12] |9580 )\d+ .*(Anatom|Region|Structure|Arter|Vein|Vessel|Organ|Location|Site|Node"
    r"|Segment|Tissue|Bone|Body|Part|Chamber|Ventricle|Breast|Lung|Chest|Finding|Prostate|Skin|Eye|Retin|Landmark|Position|Reference|Identification).*"
)
_SEGMENT = re.compile(
    _ANATOMY.pattern
    + r"|(?!7150 |950[12] |9580 )\d+ .*(Lesion|Abnormal|Device|Substance|Material|Contrast|Fluid|Neoplasm|Patholog"
    r"|Diagnos|Disorder|Implant|Artifact|Histolog|Target|Physiology|Segmentation).*"
)
PLACES = (
    (
        re.compile(r"SegmentedPropertyCategoryCodeSequence\[\d+\]$"),
        re.compile(r"7150 .*|950[12] .*|9580 .*"),
        "a category of segments (CID 7150)",
        Severity.ERROR,
    ),
    (
        re.compile(r"SegmentedPropertyTypeCodeSequence\[\d+\]$"),
        _SEGMENT,
        "what a segment can be (CID 7151)",
        Severity.ERROR,
    ),
    (
        re.compile(r"AlgorithmFamilyCodeSequence\[\d+\]$"),
        re.compile(r"\d+ .*Algorithm.*"),
        "a family of algorithms (CID 7162)",
        Severity.ERROR,
    ),
    (
        re.compile(r"DerivationCodeSequence\[\d+\]$"),
        re.compile(r"7203 .*|\d+ .*(Derivation|Processing|Analysis|CalculationMethod).*"),
        "how an image was derived (CID 7203)",
        Severity.ERROR,
    ),
    (
        re.compile(r"SourceImageSequence\[\d+\]\.PurposeOfReferenceCodeSequence\[\d+\]$"),
        re.compile(r"7202 .*|\d+ .*Purpose.*"),
        "why a source image is named (CID 7202)",
        Severity.ERROR,
    ),
    (re.compile(r"AnatomicRegionSequence\[\d+\]$"), _ANATOMY, "a place in the body (CID 4)", Severity.ERROR),
    (
        re.compile(r"LateralityCodeSequence\[\d+\]$"),
        re.compile(r"24[0-9] Laterality.*"),
        "a laterality (CID 244)",
        Severity.ERROR,
    ),
)
"""Which codes belong into which sequence, by the names of the context groups that list them."""

VALUES_OF_CONCEPT = {
    DERIVATION: (
        re.compile(r"7464 .*|\d+ .*(Deriv|Statistic|MeasurementModifier|MeasurementType|Min/Max).*"),
        "a derivation (CID 7464)",
    ),
    LATERALITY: (re.compile(r"24[0-9] Laterality.*"), "a laterality (CID 244)"),
    "121005": (re.compile(r"270 .*"), "Person or Device (CID 270)"),
    "121058": (re.compile(r"100 .*|\d+ .*(Procedure|Imaging|Study|Exam).*"), "an imaging procedure (CID 100)"),
    "121139": (re.compile(r"(29|3[03]) .*|\d+ .*Modalit.*"), "a modality (CID 29)"),
    "111000": (re.compile(r"\d+ .*Algorithm.*"), "a family of algorithms (CID 7162)"),
    "363698007": (_ANATOMY, "a place in the body (CID 4)"),
}
"""The same for the values of well-known concepts in a content tree."""


def coded_items(dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Every code item in a dataset, with its place."""
    for where, item in items_of(dataset):
        place = where[:-1]
        if place and (re.search(r"CodeSequence\[\d+\]$", place) or "CodeMeaning" in item):
            yield place, item


def code_value(item: Dataset) -> str:
    """The code in whichever of its three attributes it stands (PS3.3 8.8)."""
    return next(
        (str(item.get(keyword)) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue") if item.get(keyword)), ""
    )


def same_code(one: Dataset, other: Dataset) -> bool:
    """Whether two items mean the same, by whatever generation of SNOMED identifiers."""
    return _current(one) == _current(other)


def _current(item: Dataset) -> tuple[str, str]:
    scheme, value = str(item.get("CodingSchemeDesignator", "")), code_value(item)
    if scheme in RETIRED_SCHEMES and value in snomed_mapping["SRT"]:
        return "SCT", snomed_mapping["SRT"][value]
    return scheme, value


@cache
def known_meanings(scheme: str, value: str) -> frozenset[str]:
    """The meanings that DICOM's dictionaries give a code; empty if they do not list it."""
    in_groups = {entry[value][0] for entry in _tables(scheme).values() if value in entry}
    return frozenset(in_groups | IN_TEMPLATES.get((scheme, value), frozenset()))


@cache
def context_groups(scheme: str, value: str) -> frozenset[int]:
    """The context groups (CID) that list a code."""
    if scheme in RETIRED_SCHEMES and value in snomed_mapping["SRT"]:
        scheme, value = "SCT", snomed_mapping["SRT"][value]
    return frozenset(cid for entry in _tables(scheme).values() if value in entry for cid in entry[value][1])


def is_snomed_identifier(text: str) -> bool:
    """Whether a number has the length and the check digit of a SNOMED CT identifier (Verhoeff's)."""
    if not re.fullmatch(r"[1-9]\d{5,17}", text):
        return False
    check = 0
    for place, digit in enumerate(reversed(text)):
        check = _DIHEDRAL[check][_PERMUTED[place % 8][int(digit)]]
    return check == 0


def _dihedral(a: int, b: int) -> int:
    """The product in the dihedral group of ten elements."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


_DIHEDRAL = [[_dihedral(a, b) for b in range(10)] for a in range(10)]
_PERMUTED = [list(range(10))]
for _ in range(7):
    _PERMUTED.append([_PERMUTED[-1][each] for each in (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)])


def _tables(scheme: str) -> dict[str, dict[str, tuple[str, list[int]]]]:
    tables: Any = concepts.get(scheme, {})
    return tables  # type: ignore[no-any-return]


def _plain(meaning: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"\([^)]*\)\s*$", "", meaning.casefold())).strip()


def _words(meaning: str) -> set[str]:
    return {word[:5] for word in _plain(meaning).split() if len(word) > 2}


CODES = (codes_mean_what_they_say, codes_stand_where_they_belong)

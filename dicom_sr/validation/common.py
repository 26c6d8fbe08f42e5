"""Rules for every kind of result: it belongs to the study and the patient of its source, and its codes are right."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from coread.dicom_sr.validation.problem import Problem, Severity, Subject

SAME_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID")
SAME_STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
RETIRED_SCHEMES = ("SRT", "SNM3", "99SDM", "SNM")
"""SNOMED by its old identifiers: retired since 2017 (PS3.16 8.1)."""
COMPLETE_SCHEMES = ("DCM",)
"""Schemes of which every code is in the dictionary."""
CHECKED_SCHEMES = ("SCT", "DCM", "LN")

MODALITIES = {
    "1.2.840.10008.5.1.4.1.1.66.4": ("SEG",),
    "1.2.840.10008.5.1.4.1.1.66.7": ("SEG",),
    "1.2.840.10008.5.1.4.1.1.88.11": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.22": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.33": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.34": ("SR",),
    "1.2.840.10008.5.1.4.1.1.88.59": ("KO",),
    "1.2.840.10008.5.1.4.1.1.11.1": ("PR",),
    "1.2.840.10008.5.1.4.1.1.67": ("RWV",),
}


def study_is_the_sources(subject: Subject) -> Iterator[Problem]:
    """Results belong to the study, and to the patient, that they were made from."""
    for source in list(subject.sources.values())[:1]:
        if subject.dataset.get("StudyInstanceUID") != source.get("StudyInstanceUID"):
            yield Problem(
                rule="study",
                where="StudyInstanceUID",
                expected=f"the source's, {source.get('StudyInstanceUID')}",
                found=str(subject.dataset.get("StudyInstanceUID")),
                section="PS3.3 C.7.2.1",
            )
        for rule, keywords, section in (
            ("patient", SAME_PATIENT, "PS3.3 C.7.1.1"),
            ("study", SAME_STUDY, "PS3.3 C.7.2.1"),
        ):
            for keyword in keywords:
                value = str(subject.dataset.get(keyword) or "")
                if value != str(source.get(keyword) or ""):
                    # An empty value says less than the source and nothing wrong. Neither value is quoted.
                    yield Problem(
                        rule=rule,
                        where=keyword,
                        expected="the source's value",
                        found="another one" if value else "none",
                        section=section,
                        severity=Severity.ERROR if value or keyword == "PatientID" else Severity.WARNING,
                    )


def series_is_its_own(subject: Subject) -> Iterator[Problem]:
    """An object of another modality cannot share a series, and a SOP Instance UID is used once."""
    dataset = subject.dataset
    for source in subject.sources.values():
        if dataset.get("SeriesInstanceUID") == source.get("SeriesInstanceUID"):
            yield Problem(
                rule="series",
                where="SeriesInstanceUID",
                expected="a series of its own",
                found="the source's series",
                section="PS3.3 C.7.3.1",
            )
            break
    if dataset.get("SOPInstanceUID") in subject.sources:
        yield Problem(
            rule="instance",
            where="SOPInstanceUID",
            expected="a UID of its own",
            found="a source image's UID",
            section="PS3.5 9",
        )
    for other in subject.results.values():
        same_series = other.get("SeriesInstanceUID") == dataset.get("SeriesInstanceUID")
        if same_series and other.get("Modality") != dataset.get("Modality"):
            yield Problem(
                rule="series",
                where="SeriesInstanceUID",
                expected="one modality in a series",
                found=f"{dataset.get('Modality')} and {other.get('Modality')}",
                section="PS3.3 C.7.3.1.1.1",
            )


def modality_is_the_classes(subject: Subject) -> Iterator[Problem]:
    """Modality follows from the SOP class."""
    expected = MODALITIES.get(str(subject.dataset.get("SOPClassUID")))
    if expected and subject.dataset.get("Modality") not in expected:
        yield Problem(
            rule="modality",
            where="Modality",
            expected=" or ".join(expected),
            found=str(subject.dataset.get("Modality", "none")),
            section="PS3.3 C.7.3.1.1.1",
        )


def codes_mean_what_they_say(subject: Subject) -> Iterator[Problem]:
    """Each code is of a current scheme, exists, and has a meaning that belongs to it."""
    for where, item in coded_items(subject.dataset):
        scheme, value = str(item.get("CodingSchemeDesignator", "")), code_value(item)
        meaning = str(item.get("CodeMeaning", ""))
        if not scheme or not value or not meaning:
            yield _code_problem(where, "value, scheme and meaning", f"({value}, {scheme}, {meaning!r})")
        elif scheme in RETIRED_SCHEMES:
            yield _code_problem(where, "SNOMED CT (SCT)", f"the retired scheme {scheme}", section="PS3.16 8.1")
        elif scheme in CHECKED_SCHEMES:
            yield from _meaning_problem(where, scheme, value, meaning)


def _meaning_problem(where: str, scheme: str, value: str, meaning: str) -> Iterator[Problem]:
    known = known_meanings(scheme, value)
    if not known and scheme in COMPLETE_SCHEMES:
        yield _code_problem(where, f"a code of {scheme}", f"{value}, which is none", section="PS3.16 D")
    if not known or _plain(meaning) in {_plain(each) for each in known}:
        return
    shared = _words(meaning) & {word for each in known for word in _words(each)}
    yield _code_problem(
        where,
        f"a meaning of ({value}, {scheme}), such as {sorted(known)[0]!r}",
        repr(meaning),
        severity=Severity.WARNING if shared else Severity.ERROR,
        section="PS3.3 8.3",
    )


def _code_problem(
    where: str, expected: str, found: str, *, severity: Severity = Severity.ERROR, section: str = "PS3.3 8.8"
) -> Problem:
    return Problem(rule="code", where=where, expected=expected, found=found, section=section, severity=severity)


def coded_items(dataset: Dataset, where: str = "") -> Iterator[tuple[str, Dataset]]:
    """Every code item in a dataset, with its place."""
    for element in dataset:
        if element.VR != "SQ":
            continue
        for index, item in enumerate(element.value):
            place = f"{where}{element.keyword or element.tag}[{index}]"
            if element.keyword.endswith("CodeSequence") or "CodeMeaning" in item:
                yield place, item
            yield from coded_items(item, f"{place}.")


def code_value(item: Dataset) -> str:
    """The code in whichever of its three attributes it stands (PS3.3 8.8)."""
    return next(
        (str(item.get(keyword)) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue") if item.get(keyword)), ""
    )


@cache
def known_meanings(scheme: str, value: str) -> frozenset[str]:
    """The meanings that DICOM's dictionaries give a code; empty if they do not list it."""
    return frozenset(entry[value][0] for entry in _tables(scheme).values() if value in entry)


@cache
def context_groups(scheme: str, value: str) -> frozenset[int]:
    """The context groups (CID) that list a code."""
    return frozenset(cid for entry in _tables(scheme).values() if value in entry for cid in entry[value][1])


def _tables(scheme: str) -> dict[str, dict[str, tuple[str, list[int]]]]:
    tables: Any = concepts.get(scheme, {})
    return tables  # type: ignore[no-any-return]


def _plain(meaning: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"\([^)]*\)\s*$", "", meaning.casefold())).strip()


def _words(meaning: str) -> set[str]:
    return {word[:5] for word in _plain(meaning).split() if len(word) > 2}


COMMON = (study_is_the_sources, series_is_its_own, modality_is_the_classes, codes_mean_what_they_say)

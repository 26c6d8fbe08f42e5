"""Rules for structured reports: measurements are named, dimensioned, tracked, and speak of something that is there."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.common import code_value, context_groups
from coread.dicom_sr.validation.problem import Problem, Severity, Subject
from coread.dicom_sr.validation.seg import frame_segment, frames, geometry

MEASUREMENT_REPORTS = ("126000", "126001", "126002", "126003")
"""Titles of TID 1500 documents (CID 7021)."""
GROUP, TRACKING_ID, TRACKING_UID = "125007", "112039", "112040"
OBSERVER_TYPE, PERSON, DEVICE = "121005", "121006", "121007"
PERSON_NAME, DEVICE_UID = "121008", "121012"
PROCEDURE_REPORTED, FINDING = "121058", "121071"
ALGORITHM_NAME, ALGORITHM_VERSION = "111001", "111003"
VOLUME = "118565006"

DIMENSIONS = {
    "length": {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3},
    "area": {"mm2": 1.0, "cm2": 100.0, "m2": 1e6, "um2": 1e-6},
    "volume": {"mm3": 1e-3, "cm3": 1.0, "ml": 1.0, "mL": 1.0, "dm3": 1e3, "l": 1e3, "L": 1e3, "um3": 1e-12, "ul": 1e-3},
    "mass": {"g": 1.0, "kg": 1e3, "mg": 1e-3, "ug": 1e-6},
    "attenuation": {"[hnsf'U]": 1.0},
}
"""UCUM units by dimension, with the factor to mm, mm2, ml, g and HU."""

LARGEST = {"length": 3_000.0, "area": 4e6, "volume": 250_000.0, "mass": 300_000.0, "attenuation": 70_000.0}
"""More than a human body has, in those units."""

DIMENSION_OF_GROUP = {7470: "length", 7471: "area", 7472: "volume"}
DIMENSION_OF_CODE = {"118538004": "mass", "18087-7": "mass", "112031": "attenuation"}

VOLUME_TOLERANCE = 0.02
"""How far a stated volume may be from the referenced segment's voxels: meshes and partial voxels differ by less."""


def document_says_what_it_is(subject: Subject) -> Iterator[Problem]:
    """The root names itself a measurement report, by its template."""
    dataset = subject.dataset
    templates = dataset.get("ContentTemplateSequence", [])
    is_measurement_report = _concept(dataset) in MEASUREMENT_REPORTS
    if not is_measurement_report and _text_of_template(templates) == "1500":
        expected = "the title of a measurement report, such as (126000, DCM)"
        yield _problem("template", "ConceptNameCodeSequence", expected, _concept(dataset) or "none", "PS3.16 CID 7021")
    if not is_measurement_report:
        return
    if not templates or templates[0].get("TemplateIdentifier") != "1500":
        yield _problem(
            "template",
            "ContentTemplateSequence",
            "template 1500 of DCMR",
            _text_of_template(templates),
            "PS3.16 TID 1500",
        )
    if PROCEDURE_REPORTED not in {_concept(item) for item in dataset.get("ContentSequence", [])}:
        yield _problem("procedure", "ContentSequence", "Procedure reported (121058, DCM)", "none", "PS3.16 TID 1500")


def somebody_observed(subject: Subject) -> Iterator[Problem]:
    """The observer is named; software never verifies."""
    items = [item for _, item in walk(subject.dataset)]
    types = {code_value(code) for item in items if _concept(item) == OBSERVER_TYPE for code in _codes(item)}
    concepts = {_concept(item) for item in items}
    if not types and PERSON_NAME not in concepts and _concept(subject.dataset) in MEASUREMENT_REPORTS:
        yield _problem("observer", "ContentSequence", "Observer Type (121005, DCM)", "none", "PS3.16 TID 1002")
    if DEVICE in types and DEVICE_UID not in concepts:
        yield _problem("observer", "ContentSequence", "Device Observer UID (121012, DCM)", "none", "PS3.16 TID 1004")
    verified = subject.dataset.get("VerificationFlag") == "VERIFIED"
    verifiers = subject.dataset.get("VerifyingObserverSequence", [])
    if verified and not (verifiers and verifiers[0].get("VerifyingObserverName")):
        yield _problem("observer", "VerifyingObserverSequence", "the person who verified", "nobody", "PS3.3 C.17.2")
    if verified and types == {DEVICE} and not verifiers:
        yield _problem("observer", "VerificationFlag", "UNVERIFIED for a device", "VERIFIED", "PS3.3 C.17.2")


def groups_are_tracked(subject: Subject) -> Iterator[Problem]:
    """Each measurement group can be followed, says what it found, and by which algorithm."""
    automatic = any(
        code_value(code) == DEVICE
        for _, item in walk(subject.dataset)
        if _concept(item) == OBSERVER_TYPE
        for code in _codes(item)
    )
    seen: set[str] = set()
    for place, group in groups(subject.dataset):
        concepts = {_concept(item): item for item in group.get("ContentSequence", [])}
        for concept, name in ((TRACKING_ID, "Tracking Identifier"), (TRACKING_UID, "Tracking Unique Identifier")):
            if concept not in concepts:
                yield _problem("tracking", place, f"{name} ({concept}, DCM)", "none", "PS3.16 TID 4108")
        uid = str(concepts.get(TRACKING_UID, Dataset()).get("UID", ""))
        if uid and uid in seen:
            yield _problem("tracking", place, "a Tracking UID for each group", f"{uid} again", "PS3.16 TID 4108")
        seen.add(uid)
        if FINDING not in concepts:
            yield _problem("finding", place, "Finding (121071, DCM)", "none", "PS3.16 TID 1419", Severity.WARNING)
        if automatic and not {ALGORITHM_NAME, ALGORITHM_VERSION} <= set(concepts):
            yield _problem("algorithm", place, "the algorithm's name and version", "not both", "PS3.16 TID 4019")


def numbers_have_units_of_their_kind(subject: Subject) -> Iterator[Problem]:
    """A volume is in ml and not in mm, is not negative, and is not larger than a person."""
    for place, item in walk(subject.dataset):
        if item.get("ValueType") != "NUM":
            continue
        values = item.get("MeasuredValueSequence", [])
        if not values:
            if not item.get("NumericValueQualifierCodeSequence"):
                yield _problem("number", place, "a value, or why there is none", "neither", "PS3.3 C.18.1")
            continue
        yield from _number_problems(place, item, values[0])


def _number_problems(place: str, item: Dataset, measured: Dataset) -> Iterator[Problem]:
    unit = next((code_value(code) for code in measured.get("MeasurementUnitsCodeSequence", [])), "")
    schemes = {code.get("CodingSchemeDesignator") for code in measured.get("MeasurementUnitsCodeSequence", [])}
    value = _number(measured.get("NumericValue"))
    if value is None or not math.isfinite(value):
        yield _problem("number", place, "a number", "none", "PS3.3 C.18.1")
        return
    if not unit or schemes != {"UCUM"}:
        found = f"{unit} of {' and '.join(sorted(map(str, schemes)))}" if unit else "none"
        yield _problem("unit", place, "a UCUM unit", found, "PS3.16 CID 82")
        return
    dimension = dimension_of(item)
    if dimension is None:
        return
    factor = DIMENSIONS[dimension].get(unit)
    if factor is None:
        expected = f"a unit of {dimension}, such as {next(iter(DIMENSIONS[dimension]))}"
        yield _problem("unit", place, expected, unit, "PS3.16 CID 7181")
    elif dimension != "attenuation" and value < 0:
        yield _problem("value", place, f"a {dimension} of 0 or more", f"{value:g} {unit}", "PS3.3 C.18.1")
    elif abs(value) * factor > LARGEST[dimension]:
        yield _problem("value", place, f"a {dimension} that fits into a person", f"{value:g} {unit}", "PS3.3 C.18.1")


def references_stand_in_the_evidence(subject: Subject) -> Iterator[Problem]:
    """Every object that the content speaks of is listed, exists, and is of the class that is stated."""
    dataset = subject.dataset
    evidence = dict(_evidence(dataset))
    for place, item in walk(dataset):
        for reference in item.get("ReferencedSOPSequence", []):
            uid, class_uid = str(reference.get("ReferencedSOPInstanceUID")), str(reference.get("ReferencedSOPClassUID"))
            if uid not in evidence:
                yield _reference(place, "an instance that the evidence lists", uid)
            elif evidence[uid] != class_uid:
                yield _reference(place, f"SOP class {evidence[uid]}, as in the evidence", class_uid)
            known = subject.instance(uid)
            if known is not None and str(known.SOPClassUID) != class_uid:
                yield _reference(place, f"SOP class {known.SOPClassUID}", class_uid)
    if subject.sources:
        known_uids = {*subject.sources, *subject.results}
        for uid in sorted(set(evidence) - known_uids):
            yield _reference(
                "CurrentRequestedProcedureEvidenceSequence", "objects that are there", f"{uid}, which is not"
            )
    for study in dataset.get("CurrentRequestedProcedureEvidenceSequence", []):
        if study.get("StudyInstanceUID") != dataset.get("StudyInstanceUID"):
            found = str(study.get("StudyInstanceUID"))
            yield _reference("CurrentRequestedProcedureEvidenceSequence", "the report's own study", found)


def segments_that_are_measured_exist(subject: Subject) -> Iterator[Problem]:
    """A referenced segment exists, has the group's Tracking UID, and the volume that the report states."""
    for place, group in groups(subject.dataset):
        items = group.get("ContentSequence", [])
        tracking = next((str(item.get("UID")) for item in items if _concept(item) == TRACKING_UID), "")
        for reference in (reference for item in items for reference in item.get("ReferencedSOPSequence", [])):
            number = reference.get("ReferencedSegmentNumber")
            segmentation = subject.results.get(str(reference.get("ReferencedSOPInstanceUID")))
            if number is None or segmentation is None:
                continue
            (number,) = {int(each) for each in (number if isinstance(number, Sequence) else [number])} or {0}
            segments = {int(one.SegmentNumber): one for one in segmentation.get("SegmentSequence", [])}
            if number not in segments:
                yield _problem(
                    "segment", place, f"one of the segments {sorted(segments)}", str(number), "PS3.16 TID 1411"
                )
                continue
            stated = str(segments[number].get("TrackingUID", ""))
            if stated and tracking and stated != tracking:
                yield _problem("tracking", place, f"the segment's Tracking UID {stated}", tracking, "PS3.16 TID 1411")
            yield from _volume_problems(place, items, segmentation, number)


def _volume_problems(place: str, items: Sequence[Dataset], segmentation: Dataset, number: int) -> Iterator[Problem]:
    expected_ml = segment_volume_ml(segmentation, number)
    for item in items:
        values = item.get("MeasuredValueSequence", [])
        if _concept(item) != VOLUME or not values or expected_ml is None:
            continue
        measured = values[0]
        unit = next((code_value(code) for code in measured.get("MeasurementUnitsCodeSequence", [])), "")
        value = _number(measured.get("NumericValue"))
        factor = DIMENSIONS["volume"].get(unit)
        if value is None or factor is None:
            continue
        if abs(value * factor - expected_ml) > VOLUME_TOLERANCE * max(expected_ml, 0.01):
            found = f"{value * factor:.4g} ml"
            yield _problem("value", place, f"the segment's volume, {expected_ml:.4g} ml", found, "PS3.16 TID 1411")


def segment_volume_ml(segmentation: Dataset, number: int) -> float | None:
    """The volume of a segment's voxels; None where it cannot be known (not binary, or no geometry)."""
    of_segment = [
        (index, groups)
        for index, groups in enumerate(frames(segmentation))
        if frame_segment(segmentation, groups) == number
    ]
    if segmentation.get("SegmentationType") != "BINARY" or not of_segment or "PixelData" not in segmentation:
        return None
    try:
        pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
        voxels = sum(int(np.count_nonzero(pixels[index])) for index, _ in of_segment)
    except (ValueError, IndexError, AttributeError, RuntimeError, NotImplementedError):
        return None  # another rule says that the pixels are broken
    spacing = geometry(segmentation, of_segment[0][1])[2]
    between = _spacing_between_slices(segmentation)
    if spacing is None or between is None:
        return None
    return voxels * float(spacing[0] * spacing[1]) * between / 1000


def _spacing_between_slices(segmentation: Dataset) -> float | None:
    """The slice spacing that the object states, else the one that its frames' positions show."""
    shared = segmentation.get("SharedFunctionalGroupsSequence", [Dataset()])[0].get("PixelMeasuresSequence", [])
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        if shared and shared[0].get(keyword):
            return float(shared[0][keyword].value)
    return None


def coordinates_are_in_the_sources_frame(subject: Subject) -> Iterator[Problem]:
    """Points in the patient are points of the source's frame of reference, three numbers each."""
    known = {str(one.FrameOfReferenceUID) for one in subject.sources.values() if "FrameOfReferenceUID" in one}
    for place, item in walk(subject.dataset):
        if item.get("ValueType") != "SCOORD3D":
            continue
        found = str(item.get("ReferencedFrameOfReferenceUID"))
        if known and found not in known:
            yield _problem("frame of reference", place, f"the source's, {sorted(known)[0]}", found, "PS3.3 C.18.9")
        numbers = [_number(each) for each in item.get("GraphicData", [])]
        if not numbers or len(numbers) % 3 or any(each is None or not math.isfinite(each) for each in numbers):
            yield _problem("coordinates", place, "three numbers for each point", f"{len(numbers)}", "PS3.3 C.18.9")


def walk(dataset: Dataset, where: str = "") -> Iterator[tuple[str, Dataset]]:
    """Every content item with its place, depth first."""
    for index, item in enumerate(dataset.get("ContentSequence", [])):
        place = f"{where}ContentSequence[{index}]"
        yield place, item
        yield from walk(item, f"{place}.")


def groups(dataset: Dataset) -> list[tuple[str, Dataset]]:
    """The measurement groups, with their places."""
    return [(place, item) for place, item in walk(dataset) if _concept(item) == GROUP]


def dimension_of(item: Dataset) -> str | None:
    """The dimension that a measurement's concept has, where it is known."""
    for code in item.get("ConceptNameCodeSequence", []):
        value, scheme = code_value(code), str(code.get("CodingSchemeDesignator"))
        if value in DIMENSION_OF_CODE:
            return DIMENSION_OF_CODE[value]
        found = {DIMENSION_OF_GROUP[cid] for cid in context_groups(scheme, value) if cid in DIMENSION_OF_GROUP}
        if len(found) == 1:
            return found.pop()
    return None


def _evidence(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in dataset.get(keyword, []):
            for series in study.get("ReferencedSeriesSequence", []):
                for reference in series.get("ReferencedSOPSequence", []):
                    yield str(reference.get("ReferencedSOPInstanceUID")), str(reference.get("ReferencedSOPClassUID"))


def _concept(item: Dataset) -> str:
    return next((code_value(code) for code in item.get("ConceptNameCodeSequence", [])), "")


def _codes(item: Dataset) -> Sequence[Dataset]:
    found: Sequence[Dataset] = item.get("ConceptCodeSequence", [])
    return found


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _text_of_template(templates: Sequence[Dataset]) -> str:
    return str(templates[0].get("TemplateIdentifier")) if templates else "none"


def _reference(where: str, expected: str, found: str) -> Problem:
    return _problem("reference", where, expected, found, "PS3.3 C.17.2")


def _problem(
    rule: str, where: str, expected: str, found: str, section: str, severity: Severity = Severity.ERROR
) -> Problem:
    return Problem(rule=rule, where=where, expected=expected, found=found, section=section, severity=severity)


REPORT = (
    document_says_what_it_is,
    somebody_observed,
    groups_are_tracked,
    numbers_have_units_of_their_kind,
    references_stand_in_the_evidence,
    segments_that_are_measured_exist,
    coordinates_are_in_the_sources_frame,
)

"""Rules for the numbers in reports: a unit of their kind, a possible value, and the value of what they measure."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.codes import code_value, context_groups
from coread.dicom_sr.validation.geometry import Vector, floats, frames, geometry
from coread.dicom_sr.validation.pixels import content_of, frames_of_segment
from coread.dicom_sr.validation.problem import Problem, Subject, problems_of
from coread.dicom_sr.validation.tree import concept_of, walk

VOLUME = "118565006"

DIMENSIONS = {
    "length": {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "nm": 1e-6, "dm": 100.0, "[in_i]": 25.4},
    "area": {"mm2": 1.0, "cm2": 100.0, "m2": 1e6, "um2": 1e-6, "dm2": 1e4},
    "volume": {
        "mm3": 1e-3,
        "cm3": 1.0,
        "ml": 1.0,
        "mL": 1.0,
        "dm3": 1e3,
        "l": 1e3,
        "L": 1e3,
        "um3": 1e-12,
        "ul": 1e-3,
        "uL": 1e-3,
        "dl": 100.0,
        "dL": 100.0,
        "cl": 10.0,
        "cL": 10.0,
        "m3": 1e6,
    },
    "mass": {"g": 1.0, "kg": 1e3, "mg": 1e-3, "ug": 1e-6},
    "attenuation": {"[hnsf'U]": 1.0},
    "angle": {"deg": 1.0, "rad": 180 / math.pi},
    "fraction": {"%": 1.0, "1": 100.0, "{0:1}": 100.0, "{ratio}": 100.0},
}
"""UCUM units by dimension, with the factor to mm, mm2, ml, g, HU, degrees and per cent."""

LARGEST = {
    "length": 3_000.0,
    "area": 4e6,
    "volume": 250_000.0,
    "mass": 300_000.0,
    "attenuation": 70_000.0,
    "angle": 360.0,
    "fraction": 100.0,
}
"""More than a human body has, in those units."""
SIGNED = ("attenuation", "angle")

DIMENSION_OF_GROUP = {7470: "length", 7471: "area", 7472: "volume"}
DIMENSION_OF_CODE = {
    "118538004": "mass",
    "18087-7": "mass",
    "112031": "attenuation",
    "111012": "fraction",
    "111011": "fraction",
    "111013": "fraction",
    "122157": "fraction",
    "111047": "fraction",
}
"""Mass, attenuation; certainty of finding, feature and impression, probability, probability of cancer."""
LARGEST_DIAMETER = frozenset({"81827009", "103340004", "103339001", "131190003", "M-02550", "G-A185", "G-A186"})
"""Diameter, short and long axis, in both generations of SNOMED: none is longer than the segment's box."""

VOLUME_TOLERANCE = 0.02
"""How far a stated volume may be from the referenced segment's voxels: meshes and partial voxels differ by less."""
EQUAL = 1e-4
"""Relative: a decimal string holds fewer digits than a float."""

_number = problems_of("number", "PS3.3 C.18.1")
_unit = problems_of("unit", "PS3.16 CID 7181")
_value = problems_of("value", "PS3.3 C.18.1")


def numbers_have_units_of_their_kind(subject: Subject) -> Iterator[Problem]:
    """A volume is in ml and not in mm, is not negative, and is not larger than a person."""
    for place, item in walk(subject.dataset):
        if item.get("ValueType") != "NUM":
            continue
        values = item.get("MeasuredValueSequence") or []
        if not values:
            if not item.get("NumericValueQualifierCodeSequence"):
                yield _number(place, "a value, or why there is none", "neither")
            continue
        yield from _number_problems(place, item, values[0])


def _number_problems(place: str, item: Dataset, measured: Dataset) -> Iterator[Problem]:
    unit = unit_of(measured)
    schemes = {code.get("CodingSchemeDesignator") for code in measured.get("MeasurementUnitsCodeSequence") or []}
    value = number_of(measured.get("NumericValue"))
    if value is None or not math.isfinite(value):
        yield _number(place, "a number", "none")
        return
    exact = measured.get("FloatingPointValue")
    if exact is not None and not math.isclose(float(exact), value, rel_tol=EQUAL, abs_tol=1e-9):
        yield _number(place, "NumericValue and FloatingPointValue alike", "two numbers")
    if not unit or schemes != {"UCUM"}:
        found = f"{unit} of {' and '.join(sorted(map(str, schemes)))}" if unit else "none"
        yield problems_of("unit", "PS3.16 CID 82")(place, "a UCUM unit", found)
        return
    dimension = dimension_of(item)
    if dimension is None:
        return
    factor = DIMENSIONS[dimension].get(unit)
    if factor is None:
        yield _unit(place, f"a unit of {dimension}, such as {next(iter(DIMENSIONS[dimension]))}", unit)
    elif dimension not in SIGNED and value < 0:
        yield _value(place, f"a {dimension} of 0 or more", f"{value:g} {unit}")
    elif abs(value) * factor > LARGEST[dimension] * (1 + 1e-9):
        wanted = "one of 100 % or less" if dimension == "fraction" else f"a {dimension} that fits into a person"
        yield _value(place, wanted, f"{value:g} {unit}")


def unit_of(measured: Dataset) -> str:
    """The code of a measured value's unit; empty if there is none."""
    return next((code_value(code) for code in measured.get("MeasurementUnitsCodeSequence") or []), "")


def number_of(value: object) -> float | None:
    """A number as a header states it; None if it is none."""
    try:
        return float(str(value))
    except ValueError:
        return None


def dimension_of(item: Dataset) -> str | None:
    """The dimension that a measurement's concept has, where it is known."""
    for code in item.get("ConceptNameCodeSequence") or []:
        value, scheme = code_value(code), str(code.get("CodingSchemeDesignator"))
        if value in DIMENSION_OF_CODE:
            return DIMENSION_OF_CODE[value]
        found = {DIMENSION_OF_GROUP[cid] for cid in context_groups(scheme, value) if cid in DIMENSION_OF_GROUP}
        if len(found) == 1:
            return found.pop()
    return None


def in_its_unit(item: Dataset, dimension: str) -> float | None:
    """A measurement's value in mm, mm2, ml …; None if it has none, or another unit."""
    values = item.get("MeasuredValueSequence") or []
    value = number_of(values[0].get("NumericValue")) if values else None
    factor = DIMENSIONS[dimension].get(unit_of(values[0])) if values else None
    return None if value is None or factor is None else value * factor


def segment_is_measured_right(
    subject: Subject, place: str, items: Sequence[Dataset], segmentation: Dataset, number: int
) -> Iterator[Problem]:
    """A stated volume is that of the segment's voxels, and no diameter is longer than the box around them."""
    volume_ml = segment_volume_ml(subject, segmentation, number)
    longest_mm = segment_diagonal_mm(subject, segmentation, number)
    for item in items:
        stated_ml = in_its_unit(item, "volume") if concept_of(item) in (VOLUME, "G-D705") else None
        if stated_ml is not None and volume_ml is not None and not _is_about(stated_ml, volume_ml):
            expected = f"the segment's volume, {volume_ml:.4g} ml"
            yield problems_of("value", "PS3.16 TID 1411")(place, expected, f"{stated_ml:.4g} ml")
        stated_mm = in_its_unit(item, "length") if concept_of(item) in LARGEST_DIAMETER else None
        if stated_mm is not None and longest_mm is not None and stated_mm > longest_mm * 1.001:
            expected = f"a length within the segment, {longest_mm:.4g} mm"
            yield problems_of("value", "PS3.16 TID 1411")(place, expected, f"{stated_mm:.4g} mm")


def _is_about(stated_ml: float, volume_ml: float) -> bool:
    return abs(stated_ml - volume_ml) <= VOLUME_TOLERANCE * max(volume_ml, 0.01)


def segment_volume_ml(subject: Subject, segmentation: Dataset, number: int) -> float | None:
    """The volume of a segment's voxels; None where it cannot be known (fractional, or no geometry)."""
    contents = content_of(subject, segmentation)
    chosen = frames_of_segment(segmentation, number)
    if (
        contents is None
        or segmentation.get("SegmentationType") == "FRACTIONAL"
        or len(contents) <= max(chosen, default=0)
    ):
        return None
    value = number if segmentation.get("SegmentationType") == "LABELMAP" else 1
    spacing = geometry(segmentation, frames(segmentation)[chosen[0]])[2] if chosen else None
    between = _spacing_between_slices(segmentation)
    if spacing is None or between is None:
        return None
    voxels = sum(contents[index].counts.get(value, 0) for index in chosen)
    return voxels * float(spacing[0] * spacing[1]) * between / 1000


def segment_diagonal_mm(subject: Subject, segmentation: Dataset, number: int) -> float | None:
    """The diagonal of the box around a segment's voxels, their own size included."""
    contents = content_of(subject, segmentation)
    if contents is None or segmentation.get("SegmentationType") == "FRACTIONAL":
        return None
    value = number if segmentation.get("SegmentationType") == "LABELMAP" else 1
    chosen = [
        index
        for index in frames_of_segment(segmentation, number)
        if index < len(contents) and value in contents[index].boxes
    ]
    found = [geometry(segmentation, frames(segmentation)[index]) for index in chosen]
    between = _spacing_between_slices(segmentation)
    positions = [position for position, _, _ in found if position is not None]
    if not found or len(positions) != len(found) or between is None or found[0][1] is None or found[0][2] is None:
        return None
    orientation, spacing = found[0][1], found[0][2]
    boxes = np.array([contents[index].boxes[value] for index in chosen])
    rows = float(boxes[:, 1].max() - boxes[:, 0].min() + 1) * spacing[0]
    columns = float(boxes[:, 3].max() - boxes[:, 2].min() + 1) * spacing[1]
    along = np.array(positions) @ np.cross(orientation[:3], orientation[3:])
    sheared = _shift_in_plane(np.array(positions), orientation)
    return float(np.linalg.norm([rows + sheared[1], columns + sheared[0], np.ptp(along) + between]))


def _shift_in_plane(positions: Vector, orientation: Vector) -> Vector:
    """How far slices are shifted against each other in their plane, as with a tilted gantry."""
    shift: Vector = np.array([np.ptp(positions @ orientation[:3]), np.ptp(positions @ orientation[3:])])
    return shift


def _spacing_between_slices(segmentation: Dataset) -> float | None:
    """The slice spacing that the object states, else its slices' thickness."""
    shared = (segmentation.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    own = frames(segmentation)[0] if frames(segmentation) else Dataset()
    for measures in (*(shared.get("PixelMeasuresSequence") or []), *(own.get("PixelMeasuresSequence") or [])):
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            if measures.get(keyword):
                return float(floats([measures[keyword].value])[0])
    return None


MEASUREMENTS = (numbers_have_units_of_their_kind,)

"""Rules for parametric maps: they lie on their source, and their numbers have a quantity, a unit and a range."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.codes import code_value, context_groups
from coread.dicom_sr.validation.derivation import DERIVED
from coread.dicom_sr.validation.geometry import frames, group
from coread.dicom_sr.validation.multiframe import MULTI_FRAME
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

QUANTITY = "246205007"
"""Concept name of what is mapped: Quantity (SCT), in the old scheme G-C1C6."""
QUANTITIES = (QUANTITY, "G-C1C6")
QUANTITY_GROUPS = frozenset({7180, 218, 84, 83, 4100, 4107, 4108, 4109, 7263, 7277, 7469})

BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64, "PixelData": 16}
NEEDED = (
    *("InstanceNumber", "ContentDate", "ContentTime", "ContentLabel", "ImageType", "Rows", "Columns", "BitsAllocated"),
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "FrameOfReferenceUID"),
    *("RecognizableVisualFeatures", "BurnedInAnnotation", "LossyImageCompression", "NumberOfFrames"),
)
"""Type 1 of the modules of a parametric map (PS3.3 A.75)."""
RANGE_TOLERANCE = 1e-4
"""Relative: the mapped range is written as decimal digits, the values are floats."""

_map = problems_of("map", "PS3.3 C.8.32.2")
_mapping = problems_of("value mapping", "PS3.3 C.7.6.16.2.11")
_values = problems_of("pixels", "PS3.3 C.7.6.24")


def header_is_a_maps(subject: Subject) -> Iterator[Problem]:
    """The attributes that every map has, and those of grey values."""
    dataset = subject.dataset
    for keyword in NEEDED:
        if dataset.get(keyword) in (None, ""):
            yield problems_of("attribute", "PS3.3 A.75")(keyword, "a value", "none")
    if "ContentCreatorName" not in dataset:
        yield problems_of("attribute", "PS3.3 10.9")("ContentCreatorName", "the attribute, if need be empty", "none")
    image_type = list(dataset.get("ImageType") or [])
    if image_type[:2] != ["DERIVED", "PRIMARY"]:
        yield _map("ImageType", "DERIVED, PRIMARY", "others")
    if dataset.get("SamplesPerPixel") != 1 or dataset.get("PhotometricInterpretation") != "MONOCHROME2":
        yield _map("PhotometricInterpretation", "MONOCHROME2 of one sample", "another")
    yield from _bit_problems(dataset)


def _bit_problems(dataset: Dataset) -> Iterator[Problem]:
    for keyword, bits in BITS.items():
        if keyword in dataset and dataset.get("BitsAllocated") != bits:
            yield _map("BitsAllocated", f"{bits} for {keyword}", str(dataset.get("BitsAllocated")))
        if keyword in dataset and keyword != "PixelData":
            for other in ("BitsStored", "HighBit", "PixelRepresentation"):
                if other in dataset:
                    yield _values(other, f"none for {keyword}", "one", Severity.WARNING)


def groups_are_a_maps(subject: Subject) -> Iterator[Problem]:
    """Each frame says where it lies, of what it is, how it was derived, and how its values are to be read."""
    dataset = subject.dataset
    needed = {
        "PixelMeasuresSequence": "PS3.3 C.7.6.16.2.1",
        "PlanePositionSequence": "PS3.3 C.7.6.16.2.3",
        "PlaneOrientationSequence": "PS3.3 C.7.6.16.2.4",
        "FrameContentSequence": "PS3.3 C.7.6.16.2.2",
        "RealWorldValueMappingSequence": "PS3.3 C.7.6.16.2.11",
        "ParametricMapFrameTypeSequence": "PS3.3 C.8.32.3.1",
    }
    for keyword, section in needed.items():
        without = sum(not group(keyword, dataset, groups) for groups in frames(dataset))
        on_slide = keyword.startswith("Plane") and _is_slide(dataset)
        if without and not on_slide:
            yield problems_of("functional groups", section)(keyword, "in every frame", f"{without} frames without")
    if frames(dataset) and not _is_slide(dataset) and not group("FrameAnatomySequence", dataset, frames(dataset)[0]):
        yield problems_of("functional groups", "PS3.3 C.7.6.16.2.8")(
            "FrameAnatomySequence", "the anatomy: some readers crash without", "none", Severity.WARNING
        )


def _is_slide(dataset: Dataset) -> bool:
    return any(group("PlanePositionSlideSequence", dataset, groups) for groups in frames(dataset)[:1])


def values_are_mapped(subject: Subject) -> Iterator[Problem]:
    """The mapping names a quantity and a unit, and its range and slope are possible."""
    seen = 0
    for place, mapping in _mappings(subject.dataset):
        seen += 1
        yield from _mapping_problems(place, mapping)
    if not seen and frames(subject.dataset):
        return  # that the group is missing is said above


def _mappings(dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    holders = [("SharedFunctionalGroupsSequence", dataset.get("SharedFunctionalGroupsSequence") or [])]
    holders.append(("PerFrameFunctionalGroupsSequence", frames(dataset)))
    for name, items in holders:
        for index, groups in enumerate(items):
            for mapping in groups.get("RealWorldValueMappingSequence") or []:
                yield f"{name}[{index}].RealWorldValueMappingSequence", mapping


def _mapping_problems(place: str, mapping: Dataset) -> Iterator[Problem]:
    units: Sequence[Dataset] = mapping.get("MeasurementUnitsCodeSequence") or []
    if len(units) != 1 or units[0].get("CodingSchemeDesignator") != "UCUM":
        found = str(units[0].get("CodingSchemeDesignator")) if units else "none"
        yield _mapping(f"{place}.MeasurementUnitsCodeSequence", "a UCUM unit", found)
    for keyword in ("LUTLabel", "LUTExplanation"):
        if not mapping.get(keyword):
            yield _mapping(f"{place}.{keyword}", "a value", "none")
    slope, intercept = mapping.get("RealWorldValueSlope"), mapping.get("RealWorldValueIntercept")
    if "RealWorldValueLUTData" not in mapping and (slope is None or intercept is None):
        yield _mapping(f"{place}.RealWorldValueSlope", "slope and intercept", "not both")
    if slope is not None and (not np.isfinite(slope) or slope == 0):
        yield _mapping(f"{place}.RealWorldValueSlope", "a number other than 0", str(slope))
    low, high = _range(mapping)
    if low is None or high is None:
        yield _mapping(f"{place}.RealWorldValueFirstValueMapped", "the range that is mapped", "none")
    elif low > high:
        yield _mapping(
            f"{place}.RealWorldValueFirstValueMapped", "a first value below the last", f"{low:g} to {high:g}"
        )
    yield from _quantity_problems(place, mapping)


def _range(mapping: Dataset) -> tuple[float | None, float | None]:
    for kind in ("DoubleFloat", ""):
        prefix = f"{kind}RealWorldValue"
        low, high = mapping.get(f"{prefix}FirstValueMapped"), mapping.get(f"{prefix}LastValueMapped")
        if low is not None and high is not None:
            return float(low), float(high)
    return None, None


def _quantity_problems(place: str, mapping: Dataset) -> Iterator[Problem]:
    quantities = [
        item
        for item in mapping.get("QuantityDefinitionSequence") or []
        if any(code_value(name) in QUANTITIES for name in item.get("ConceptNameCodeSequence") or [])
    ]
    where = f"{place}.QuantityDefinitionSequence"
    if not quantities:
        yield _mapping(where, "what the numbers are: Quantity (246205007, SCT)", "none", Severity.WARNING)
    for item in quantities:
        codes = item.get("ConceptCodeSequence") or []
        if item.get("ValueType") != "CODE" or not codes:
            yield _mapping(where, "a code", "none")
        for code in codes:
            groups = context_groups(str(code.get("CodingSchemeDesignator")), code_value(code))
            if groups and not groups & QUANTITY_GROUPS and groups & NO_QUANTITIES:
                yield problems_of("value mapping", "PS3.16 CID 7180")(where, "a quantity", code_value(code))


NO_QUANTITIES = frozenset({4, 7150, 7151, 7154, 7192, 7203, 240, 270, 7021, 7010})
"""Groups of anatomy, categories, titles and the like: what a number cannot be."""


def values_are_numbers_in_range(subject: Subject) -> Iterator[Problem]:
    """Every value is finite, or the padding value, and inside the range that is said to be mapped."""
    dataset = subject.dataset
    values = _float_values(dataset)
    if values is None:
        return
    padding = dataset.get("FloatPixelPaddingValue", dataset.get("DoubleFloatPixelPaddingValue"))
    if padding is not None:
        values = values[values != padding]
    strange = int(np.count_nonzero(~np.isfinite(values)))
    if strange:
        yield _values("FloatPixelData", "finite numbers", f"{strange} that are not")
    finite = values[np.isfinite(values)]
    ranges = [each for _, mapping in _mappings(dataset) if None not in (each := _range(mapping))]
    if not finite.size or len(ranges) != 1:
        return
    low, high = float(ranges[0][0] or 0), float(ranges[0][1] or 0)
    slack = RANGE_TOLERANCE * max(abs(low), abs(high), high - low)
    if finite.min() < low - slack or finite.max() > high + slack:
        found = f"values from {finite.min():g} to {finite.max():g}"
        yield _mapping("RealWorldValueMappingSequence", f"values from {low:g} to {high:g}, as mapped", found)


def _float_values(dataset: Dataset) -> NDArray[np.floating] | None:
    for keyword, kind in (("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")):
        if keyword in dataset:
            data = dataset[keyword].value
            size = np.dtype(kind).itemsize
            return np.frombuffer(data[: len(data) // size * size], kind)
    return None


PARAMETRIC_MAP = (
    *DERIVED,
    *MULTI_FRAME,
    header_is_a_maps,
    groups_are_a_maps,
    values_are_mapped,
    values_are_numbers_in_range,
)

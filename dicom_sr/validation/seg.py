"""Rules for segmentations: every segment is described, numbered and used, and its pixels are what the header says."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.codes import code_value, context_groups, same_code
from coread.dicom_sr.validation.derivation import DERIVED, LOSSY
from coread.dicom_sr.validation.geometry import frames, geometry, group
from coread.dicom_sr.validation.multiframe import MULTI_FRAME
from coread.dicom_sr.validation.pixels import NATIVE, UNREADABLE, content_of, frame_segment, pixel_frames
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

BY_ALGORITHM = ("AUTOMATIC", "SEMIAUTOMATIC")
LABEL_MAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
TISSUE, ANATOMICAL_STRUCTURE, BODY_SUBSTANCE = "85756007", "91723000", "91720002"
OVERLAPPING_CATEGORIES = ({TISSUE, BODY_SUBSTANCE},)
"""Blood is both, whatever the context groups list."""
CONFUSED_CATEGORIES = ({TISSUE, ANATOMICAL_STRUCTURE},)
"""Programs wrote organs as tissue for years: worse than it need be, and no more."""

TYPES_OF_CATEGORY = {
    7191: TISSUE,
    7192: ANATOMICAL_STRUCTURE,
    7193: "260787004",
    7194: "49755003",
    7195: "246464006",
    7196: "309825002",
    7197: BODY_SUBSTANCE,
    7198: "105590001",
}
"""Context group of types → the category that has them (PS3.16 CID 7150)."""

IMAGE_ATTRIBUTES: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "BINARY": {
        "SamplesPerPixel": (1,),
        "PhotometricInterpretation": ("MONOCHROME2",),
        "PixelRepresentation": (0,),
        "BitsAllocated": (1,),
        "BitsStored": (1,),
        "HighBit": (0,),
    },
    "FRACTIONAL": {
        "SamplesPerPixel": (1,),
        "PhotometricInterpretation": ("MONOCHROME2",),
        "PixelRepresentation": (0,),
        "BitsAllocated": (8,),
        "BitsStored": (8,),
        "HighBit": (7,),
    },
    "LABELMAP": {
        "SamplesPerPixel": (1,),
        "PhotometricInterpretation": ("MONOCHROME2", "PALETTE COLOR"),
        "PixelRepresentation": (0,),
        "BitsAllocated": (8, 16),
        "BitsStored": (8, 16),
        "HighBit": (7, 15),
    },
}
"""What each type of segmentation says of its pixels (PS3.3 C.8.20.2, C.8.20.5)."""

NEEDED = (
    *("InstanceNumber", "ContentDate", "ContentTime", "ContentLabel", "ImageType", "LossyImageCompression"),
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
    *("SegmentSequence", "SegmentationType", "Rows", "Columns", "NumberOfFrames", "DimensionIndexSequence"),
)
"""Type 1 of the modules of a segmentation (PS3.3 A.51)."""

_segment = problems_of("segment", "PS3.3 C.8.20.4")
_pixel = problems_of("pixels", "PS3.3 C.8.20.2")


def header_is_a_segmentations(subject: Subject) -> Iterator[Problem]:
    """The attributes that every segmentation has, and the values that its type has."""
    dataset = subject.dataset
    for keyword in NEEDED:
        if dataset.get(keyword) in (None, "") or (keyword.endswith("Sequence") and not dataset[keyword].value):
            yield problems_of("attribute", "PS3.3 A.51")(keyword, "a value", "none")
    if list(dataset.get("ImageType") or [])[:2] != ["DERIVED", "PRIMARY"]:
        yield _pixel("ImageType", "DERIVED, PRIMARY", "others")
    kind = str(dataset.get("SegmentationType"))
    is_label_map_class = dataset.get("SOPClassUID") == LABEL_MAP_CLASS
    if is_label_map_class != (kind == "LABELMAP"):
        expected = "LABELMAP" if is_label_map_class else "BINARY or FRACTIONAL"
        yield _pixel("SegmentationType", f"{expected}, as the SOP class has it", kind)
    for keyword, allowed in IMAGE_ATTRIBUTES.get(kind, {}).items():
        if dataset.get(keyword) not in allowed:
            expected = f"{' or '.join(map(str, allowed))} for {kind}"
            yield _pixel(keyword, expected, str(dataset.get(keyword)))
    yield from _fraction_problems(dataset, kind)
    if str(dataset.file_meta.get("TransferSyntaxUID")) in LOSSY:
        yield _pixel("TransferSyntaxUID", "a lossless one: labels have no neighbours", "a lossy one")
    if dataset.get("LossyImageCompression") == "01" and kind == "LABELMAP":
        yield _pixel("LossyImageCompression", "00: a label map is not lossy", "01", Severity.WARNING)


def _fraction_problems(dataset: Dataset, kind: str) -> Iterator[Problem]:
    highest = dataset.get("MaximumFractionalValue")
    if kind == "FRACTIONAL":
        if not highest or not 1 <= highest <= 255:
            yield _pixel("MaximumFractionalValue", "from 1 to 255 for FRACTIONAL", str(highest or "none"))
        if not dataset.get("SegmentationFractionalType"):
            yield _pixel("SegmentationFractionalType", "PROBABILITY or OCCUPANCY for FRACTIONAL", "none")
    else:
        for keyword in ("MaximumFractionalValue", "SegmentationFractionalType"):
            if keyword in dataset:
                yield _pixel(keyword, f"none for {kind}", "one")


def segments_are_numbered(subject: Subject) -> Iterator[Problem]:
    """Segments are numbered from 1 (in a label map: differently), and no two share a Tracking UID."""
    segments: Sequence[Dataset] = subject.dataset.get("SegmentSequence", [])
    numbers = [segment.get("SegmentNumber") for segment in segments]
    in_order = numbers == list(range(1, len(numbers) + 1))
    if len(set(numbers)) != len(numbers) or not (in_order or _is_label_map(subject.dataset)):
        yield _segment("SegmentSequence.SegmentNumber", "1, 2, 3 …", str(numbers))
    tracking = Counter(str(segment.TrackingUID) for segment in segments if segment.get("TrackingUID"))
    for uid, count in tracking.items():
        if count > 1:
            yield _segment("SegmentSequence.TrackingUID", "a UID for each segment", f"{uid} {count} times")
    labels = Counter(str(segment.get("SegmentLabel")) for segment in segments)
    if any(count > 1 for count in labels.values()):
        repeated = "one for several segments"
        yield _segment("SegmentSequence.SegmentLabel", "a label for each segment", repeated, Severity.WARNING)


def segments_are_described(subject: Subject) -> Iterator[Problem]:
    """Each segment has a label, coded properties, an algorithm and a means to track it."""
    for index, segment in enumerate(subject.dataset.get("SegmentSequence", [])):
        place = f"SegmentSequence[{index}]"
        if _is_label_map(subject.dataset) and segment.get("SegmentNumber") == 0:
            continue  # the background
        needed = ("SegmentLabel", "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence")
        for keyword in needed:
            if not str(segment.get(keyword) or "").strip():
                yield _segment(f"{place}.{keyword}", "a value", "none")
        yield from _algorithm_problems(place, segment)
        if bool(segment.get("TrackingUID")) != bool(segment.get("TrackingID")):
            yield _segment(f"{place}.TrackingUID", "TrackingID and TrackingUID together", "one of them")
        for keyword in ("TrackingUID", "RecommendedDisplayCIELabValue"):
            if not segment.get(keyword):
                yield _segment(f"{place}.{keyword}", "a value", "none", Severity.WARNING)
        yield from _property_problems(place, segment)


def _algorithm_problems(place: str, segment: Dataset) -> Iterator[Problem]:
    kind = segment.get("SegmentAlgorithmType")
    if kind not in (*BY_ALGORITHM, "MANUAL"):
        expected = ", ".join((*BY_ALGORITHM, "MANUAL"))
        yield _segment(f"{place}.SegmentAlgorithmType", expected, str(kind))
    name, identified = segment.get("SegmentAlgorithmName"), segment.get("SegmentationAlgorithmIdentificationSequence")
    if kind in BY_ALGORITHM and not name:
        yield _segment(f"{place}.SegmentAlgorithmName", "a value", "none")
    if kind == "MANUAL" and (name or identified):
        yield _segment(f"{place}.SegmentAlgorithmType", f"one of {', '.join(BY_ALGORITHM)}", "MANUAL, by an algorithm")
    for item in identified or []:
        for keyword in ("AlgorithmFamilyCodeSequence", "AlgorithmName", "AlgorithmVersion"):
            if not item.get(keyword):
                where = f"{place}.SegmentationAlgorithmIdentificationSequence.{keyword}"
                yield problems_of("segment", "PS3.3 10.16")(where, "a value", "none")


def _property_problems(place: str, segment: Dataset) -> Iterator[Problem]:
    """The type is one of its category, and left is not right."""
    categories = segment.get("SegmentedPropertyCategoryCodeSequence") or []
    types = segment.get("SegmentedPropertyTypeCodeSequence") or []
    for keyword, items in (("Category", categories), ("Type", types)):
        if len(items) > 1:
            yield _segment(f"{place}.SegmentedProperty{keyword}CodeSequence", "one item", str(len(items)))
    for kind in types[:1]:
        groups = context_groups(str(kind.get("CodingSchemeDesignator", "")), code_value(kind))
        expected = {category for cid, category in TYPES_OF_CATEGORY.items() if cid in groups}
        stated = code_value(categories[0]) if categories else ""
        known = {*TYPES_OF_CATEGORY.values()}
        pairs = [{stated, each} for each in expected]
        if not expected or stated not in known or stated in expected or any(p in OVERLAPPING_CATEGORIES for p in pairs):
            continue
        severity = Severity.WARNING if any(pair in CONFUSED_CATEGORIES for pair in pairs) else Severity.ERROR
        where = f"{place}.SegmentedPropertyCategoryCodeSequence"
        wanted = f"the category of {code_value(kind)}, {' or '.join(sorted(expected))}"
        yield problems_of("segment", "PS3.16 CID 7150")(where, wanted, stated, severity)
    sides = set(lateralities_of(segment))
    if {"24028007", "7771000"} <= sides:
        yield _segment(f"{place}", "one laterality", "Left and Right")


def lateralities_of(segment: Dataset) -> Iterator[str]:
    """The SNOMED codes of left and right in the modifiers of a segment's type and region."""
    for sequence, modifiers in (
        ("SegmentedPropertyTypeCodeSequence", "SegmentedPropertyTypeModifierCodeSequence"),
        ("AnatomicRegionSequence", "AnatomicRegionModifierSequence"),
    ):
        for item in segment.get(sequence) or []:
            for modifier in item.get(modifiers) or []:
                if code_value(modifier) in ("24028007", "7771000"):
                    yield code_value(modifier)


def sides_are_the_sources(subject: Subject) -> Iterator[Problem]:
    """A segment of the left is not in an image of the right."""
    imaged = {
        str(source.get("ImageLaterality") or source.get("Laterality") or "") for source in subject.sources.values()
    }
    wrong = {"R": "7771000", "L": "24028007"}
    if len(imaged) != 1 or not (side := imaged.pop()) or side not in wrong:
        return
    for index, segment in enumerate(subject.dataset.get("SegmentSequence", [])):
        if wrong[side] in set(lateralities_of(segment)):
            yield _segment(f"SegmentSequence[{index}]", f"the images' side, {side}", "the other side")
    for groups in [*(subject.dataset.get("SharedFunctionalGroupsSequence") or []), *frames(subject.dataset)]:
        for anatomy in groups.get("FrameAnatomySequence") or []:
            if anatomy.get("FrameLaterality") in {"R", "L"} - {side}:
                yield _segment("FrameAnatomySequence.FrameLaterality", f"the images' side, {side}", "the other side")


def frames_and_segments_agree(subject: Subject) -> Iterator[Problem]:
    """Each frame shows a segment that exists, in a place of its own; each segment is shown."""
    dataset = subject.dataset
    if _is_label_map(dataset):
        yield from _places_taken_twice(dataset, [None] * len(frames(dataset)))
        return
    known = {segment.get("SegmentNumber") for segment in dataset.get("SegmentSequence", [])}
    shown = [frame_segment(dataset, groups) for groups in frames(dataset)]
    for index, number in enumerate(shown):
        if number not in known:
            place = f"PerFrameFunctionalGroupsSequence[{index}].SegmentIdentificationSequence"
            yield _segment(place, f"one of {sorted(known)}", str(number))
    for number in sorted(known - set(shown)):
        yield _segment("SegmentSequence", f"a frame of segment {number}", "none", Severity.WARNING)
    yield from _places_taken_twice(dataset, shown)


def _places_taken_twice(dataset: Dataset, shown: Sequence[int | None]) -> Iterator[Problem]:
    places: Counter[tuple[object, ...]] = Counter()
    for groups, number in zip(frames(dataset), shown, strict=True):
        position = geometry(dataset, groups)[0]
        slide = group("PlanePositionSlideSequence", dataset, groups)
        if position is not None and not slide:
            places[number, *np.round(position, 2)] += 1
    repeated = sum(count > 1 for count in places.values())
    if repeated:
        expected = "one frame of a segment in each place"
        yield _segment("PerFrameFunctionalGroupsSequence", expected, f"{repeated} places taken twice")


def pixels_are_what_the_header_says(subject: Subject) -> Iterator[Problem]:
    """Values are in range, and every segment has some; a map of labels has no label that is not described."""
    dataset = subject.dataset
    contents = content_of(subject, dataset)
    if contents is None:
        if "PixelData" in dataset:
            native = dataset.file_meta.get("TransferSyntaxUID") in NATIVE
            found = "others" if native else "none: no decoder for them here, or they are broken"
            severity = Severity.ERROR if native else Severity.WARNING
            yield _pixel("PixelData", "pixels that can be decoded", found, severity)
        return
    values = {value for content in contents for value in content.counts}
    if dataset.get("SegmentationType") == "FRACTIONAL" and values:
        highest = dataset.get("MaximumFractionalValue") or 255
        if max(values) > highest:
            yield _pixel("PixelData", f"values up to MaximumFractionalValue, {highest}", str(max(values)))
    numbers = {int(segment.SegmentNumber) for segment in dataset.get("SegmentSequence", [])}
    if _is_label_map(dataset):
        padding = dataset.get("PixelPaddingValue")
        unknown = sorted(values - numbers - ({int(padding)} if padding is not None else set()))
        if unknown:
            yield _pixel("PixelData", f"numbers of segments, {sorted(numbers)}", f"{unknown[:5]}")
        empty = sorted(numbers - values - {0})
    else:
        filled = {
            frame_segment(dataset, groups)
            for groups, content in zip(frames(dataset), contents, strict=False)
            if content.counts
        }
        empty = sorted(numbers - filled)
    if empty and contents:
        yield _segment("SegmentSequence", "pixels of each segment", f"none of {empty}", Severity.WARNING)


def overlap_is_as_stated(subject: Subject) -> Iterator[Problem]:
    """Where segments are said not to overlap, no pixel is in two."""
    dataset = subject.dataset
    if dataset.get("SegmentsOverlap") != "NO" or dataset.get("SegmentationType") != "BINARY":
        return
    taken: dict[tuple[object, ...], np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = {}
    try:
        for groups, frame in zip(frames(dataset), pixel_frames(dataset), strict=False):
            position = geometry(dataset, groups)[0]
            if position is None:
                return
            key, mask = tuple(np.round(position, 2)), frame.astype(bool)
            if key in taken and (taken[key] & mask).any():
                yield _segment("SegmentsOverlap", "YES: segments share pixels", "NO")
                return
            taken[key] = taken[key] | mask if key in taken else mask
    except UNREADABLE:
        return  # another rule says that the pixels are broken


def _is_label_map(dataset: Dataset) -> bool:
    return bool(dataset.get("SegmentationType") == "LABELMAP")


def segment_with_number(segmentation: Dataset, number: int) -> Dataset | None:
    """A segment's description."""
    return next((each for each in segmentation.get("SegmentSequence", []) if each.get("SegmentNumber") == number), None)


def is_of_another_segment(segmentation: Dataset, number: int, code: Dataset, keyword: str) -> bool:
    """Whether a code is not that of a segment, but of another one of the same object."""

    def says(segment: Dataset) -> bool:
        return any(same_code(code, item) for item in segment.get(keyword) or [])

    own = segment_with_number(segmentation, number)
    return own is not None and not says(own) and any(says(each) for each in segmentation.get("SegmentSequence", []))


SEGMENTATION = (
    *DERIVED,
    *MULTI_FRAME,
    header_is_a_segmentations,
    segments_are_numbered,
    segments_are_described,
    sides_are_the_sources,
    frames_and_segments_agree,
    pixels_are_what_the_header_says,
    overlap_is_as_stated,
)

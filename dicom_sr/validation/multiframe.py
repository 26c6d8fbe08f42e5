"""Rules for every multi-frame object: frames, functional groups, dimensions and pixels agree with each other."""

from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from coread.dicom_sr.validation.geometry import (
    DIRECTION_TOLERANCE,
    POSITION_TOLERANCE_MM,
    SPACING_TOLERANCE,
    Vector,
    all_planes,
    frames,
    gaps_mm,
    geometry,
    group,
    text_of,
)
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

_pixel = problems_of("pixels", "PS3.3 C.7.6.3")
_group = problems_of("functional groups", "PS3.3 C.7.6.16")
_dimension = problems_of("dimensions", "PS3.3 C.7.6.17")
_geometry = problems_of("geometry", "PS3.3 C.7.6.16.2")

FRAMES = "PerFrameFunctionalGroupsSequence"
SHARED = "SharedFunctionalGroupsSequence"
SEGMENT_NUMBER = 0x0062000B
IMAGE_POSITION = 0x00200032
SLOPE_STEP = 0.02
"""How far a distance may be from a whole number of slices: positions and spacings are rounded."""


def functional_groups_stand_in_one_place(subject: Subject) -> Iterator[Problem]:
    """A functional group is that of all frames or of each, never both; and there is one item for all frames."""
    shared = subject.dataset.get(SHARED) or []
    if len(shared) != 1:
        yield _group(SHARED, "one item", str(len(shared)))
    of_all = {element.keyword for item in shared for element in item if element.VR == "SQ"}
    twice = Counter(
        element.keyword
        for groups in frames(subject.dataset)
        for element in groups
        if element.VR == "SQ" and element.keyword in of_all
    )
    for keyword, count in twice.items():
        yield _group(f"{FRAMES}.{keyword}", "of all frames or of each", f"both, {count} times")
    if "FrameContentSequence" in of_all:
        yield _group(f"{SHARED}.FrameContentSequence", "in each frame's own groups", "among those of all frames")
    used = {element.keyword for groups in frames(subject.dataset) for element in groups if element.VR == "SQ"}
    for keyword in sorted(used):
        without = sum(not groups.get(keyword) for groups in frames(subject.dataset))
        if without and keyword not in MAY_BE_PARTIAL:
            yield _group(f"{FRAMES}.{keyword}", "in every frame, if in any", f"{without} frames without")


MAY_BE_PARTIAL = ("DerivationImageSequence", "ReferencedImageSequence", "CardiacSynchronizationSequence")
"""Groups that say something of some frames only; whether they should is another rule's."""


def pixels_are_as_many_as_frames(subject: Subject) -> Iterator[Problem]:
    """NumberOfFrames, the functional groups and the pixels agree."""
    dataset = subject.dataset
    stated, described = int(dataset.get("NumberOfFrames") or 1), len(frames(dataset))
    if stated != described and dataset.get("DimensionOrganizationType") != "TILED_FULL":
        yield _pixel("NumberOfFrames", f"{described}, as many as functional groups", str(stated))
    kinds = [keyword for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if keyword in dataset]
    if len(kinds) != 1:
        yield _pixel("PixelData", "pixels of one kind", ", ".join(kinds) or "none")
        return
    if dataset.file_meta.get("TransferSyntaxUID") in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        bits = stated * dataset.Rows * dataset.Columns * dataset.get("BitsAllocated", 1)
        expected = (bits * dataset.get("SamplesPerPixel", 1) + 7) // 8
        if len(dataset[kinds[0]].value) != expected + expected % 2:
            yield _pixel(kinds[0], f"{expected + expected % 2} bytes", f"{len(dataset[kinds[0]].value)}")
    allocated, stored, high = (dataset.get(keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit"))
    if stored is not None and allocated is not None and stored > allocated:
        yield _pixel("BitsStored", f"{allocated} or fewer", str(stored))
    if stored is not None and high != stored - 1:
        yield _pixel("HighBit", f"{stored - 1}", str(high))


def dimensions_are_indexed(subject: Subject) -> Iterator[Problem]:
    """Each frame has an index from 1 for each dimension, and no two frames have the same."""
    dataset = subject.dataset
    dimensions: Sequence[Dataset] = dataset.get("DimensionIndexSequence") or []
    rows = [_index_values(groups) for groups in frames(dataset)]
    for index, values in enumerate(rows):
        place = f"{FRAMES}[{index}].FrameContentSequence.DimensionIndexValues"
        if len(values) != len(dimensions):
            yield _dimension(place, "a value for each dimension", f"{len(values)}")
        elif any(value < 1 for value in values):
            yield _dimension(place, "an index from 1", str(min(values)))
    complete = [tuple(values) for values in rows if values and len(values) == len(dimensions)]
    repeated = sum(count - 1 for count in Counter(complete).values() if count > 1)
    if repeated:
        expected = "indices of its own for each frame"
        yield _dimension(f"{FRAMES}.FrameContentSequence", expected, f"{repeated} frames with another's")
    yield from _organization_problems(dataset, dimensions)
    for number, dimension in enumerate(dimensions):
        if complete and len(complete) == len(rows):
            yield from _pointer_problems(dataset, dimension, number, complete)


def _index_values(groups: Dataset) -> list[int]:
    content = groups.get("FrameContentSequence") or []
    values = content[0].get("DimensionIndexValues") if content else []
    if values is None:
        return []
    return [values] if isinstance(values, int) else [int(value) for value in values]


def _organization_problems(dataset: Dataset, dimensions: Sequence[Dataset]) -> Iterator[Problem]:
    listed = {str(item.get("DimensionOrganizationUID")) for item in dataset.get("DimensionOrganizationSequence") or []}
    if dimensions and not listed:
        yield _dimension("DimensionOrganizationSequence", "the organizations of the dimensions", "none")
        return
    for index, dimension in enumerate(dimensions):
        uid = str(dimension.get("DimensionOrganizationUID"))
        if "DimensionOrganizationUID" in dimension and uid not in listed:
            place = f"DimensionIndexSequence[{index}].DimensionOrganizationUID"
            yield _dimension(place, "one that DimensionOrganizationSequence lists", uid)


def _pointer_problems(
    dataset: Dataset, dimension: Dataset, number: int, rows: Sequence[tuple[int, ...]]
) -> Iterator[Problem]:
    """The attribute that is pointed to is there, and each of its values has an index of its own."""
    place = f"DimensionIndexSequence[{number}]"
    pointer, group_pointer = dimension.get("DimensionIndexPointer"), dimension.get("FunctionalGroupPointer")
    if pointer is None:
        yield _dimension(f"{place}.DimensionIndexPointer", "an attribute", "none")
        return
    if dimension.get("DimensionIndexPrivateCreator") or dimension.get("FunctionalGroupPrivateCreator"):
        return
    values = [_value_at(dataset, groups, pointer, group_pointer) for groups in frames(dataset)]
    if all(value is None for value in values):
        yield _dimension(place, "an attribute that the frames have", f"{pointer} in {group_pointer}, which none has")
        return
    if int(pointer) not in (SEGMENT_NUMBER, IMAGE_POSITION):
        return
    pairs = {(row[number], value) for row, value in zip(rows, values, strict=True)}
    nested = {((*row[:number], row[number]), (*row[:number], value)) for row, value in zip(rows, values, strict=True)}
    found = "one index for several values, or several for one"
    if not _is_one_to_one(nested):
        yield _dimension(f"{FRAMES}.FrameContentSequence", f"an index for each value of {pointer}", found)
    elif not _is_one_to_one(pairs):
        # Some programs count the slices of each segment by themselves.
        yield _dimension(
            f"{FRAMES}.FrameContentSequence", f"an index for each value of {pointer}", found, Severity.WARNING
        )
    elif int(pointer) == SEGMENT_NUMBER and not _is_in_order(pairs):
        yield _dimension(place, "indices in the order of the segments", "another order", Severity.WARNING)


def _is_one_to_one(pairs: AbstractSet[tuple[object, object]]) -> bool:
    return len({one for one, _ in pairs}) == len(pairs) == len({other for _, other in pairs})


def _is_in_order(pairs: AbstractSet[tuple[int, object]]) -> bool:
    numbers = [int(str(value)) for _, value in sorted(pairs, key=lambda pair: pair[0])]
    return numbers == sorted(numbers)


def _value_at(dataset: Dataset, groups: Dataset, pointer: BaseTag, group_pointer: BaseTag | None) -> object:
    if group_pointer is None:
        items = group(_keyword(pointer), dataset, groups)
        return str(items[0]) if items else dataset.get(pointer) and str(dataset[pointer].value)
    items = group(_keyword(group_pointer), dataset, groups)
    if not items or pointer not in items[0] or items[0][pointer].is_empty:
        return None
    value = items[0][pointer].value
    if isinstance(value, str | int | float):
        return value
    return tuple(round(float(each), 2) if isinstance(each, float | int) else str(each) for each in value)


def _keyword(tag: BaseTag) -> str:
    return keyword_for_tag(tag)


def frames_state_a_possible_place(subject: Subject) -> Iterator[Problem]:
    """Orientations are two unit vectors at a right angle, spacings are positive, and a place is stated whole."""
    dataset = subject.dataset
    seen: set[tuple[float, ...]] = set()
    for index, groups in enumerate(frames(dataset)):
        place = f"{FRAMES}[{index}]"
        position, orientation, spacing = geometry(dataset, groups)
        stated = [value is not None for value in (position, orientation, spacing)]
        if any(stated[:2]) and not all(stated):
            yield _geometry(place, "position, orientation and spacing together", "not all of them")
        if orientation is not None and tuple(orientation) not in seen:
            seen.add(tuple(orientation))
            yield from _direction_problems(f"{place}.PlaneOrientationSequence", orientation)
        if spacing is not None and tuple(spacing) not in seen:
            seen.add(tuple(spacing))
            if len(spacing) != 2 or not (spacing > 0).all():
                yield _geometry(f"{place}.PixelMeasuresSequence", "two spacings above 0", text_of(spacing))


def _direction_problems(place: str, orientation: Vector) -> Iterator[Problem]:
    if len(orientation) != 6:
        return
    row, column = orientation[:3], orientation[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > DIRECTION_TOLERANCE * 5 or abs(row @ column) > DIRECTION_TOLERANCE * 5:
        yield problems_of("geometry", "PS3.3 C.7.6.2.1.1")(
            place, "two unit vectors at a right angle", text_of(orientation)
        )


def spacings_are_those_of_the_planes(subject: Subject) -> Iterator[Problem]:
    """SpacingBetweenSlices and SliceThickness agree with where the frames, and the source's planes, lie."""
    dataset = subject.dataset
    found = [geometry(dataset, groups) for groups in frames(dataset)]
    positions = [position for position, _, _ in found if position is not None and len(position) == 3]
    orientations = [each for _, each, _ in found if each is not None and len(each) == 6]
    if len(positions) != len(found) or not orientations:
        return
    normal = np.cross(orientations[0][:3], orientations[0][3:])
    gaps = gaps_mm(np.array(positions), normal)
    sources = all_planes(subject.sources, str(dataset.get("FrameOfReferenceUID")))
    source_gaps = gaps_mm(np.array([plane.position for plane in sources]), normal) if sources else np.array([])
    shared = (dataset.get(SHARED) or [Dataset()])[0].get("PixelMeasuresSequence") or [Dataset()]
    between, thickness = (_positive(shared[0], each) for each in ("SpacingBetweenSlices", "SliceThickness"))
    place = f"{SHARED}.PixelMeasuresSequence"
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        if keyword in shared[0] and shared[0].get(keyword) is not None and not _positive(shared[0], keyword):
            yield _geometry(f"{place}.{keyword}", "a length above 0", str(shared[0].get(keyword)))
    if between and not _is_whole(gaps, between):
        yield _geometry(f"{place}.SpacingBetweenSlices", f"{gaps.min():.4g} mm, as the frames lie", f"{between:g} mm")
    elif between and len(source_gaps) and not np.isclose(source_gaps, between, rtol=SPACING_TOLERANCE).any():
        expected = f"{np.median(source_gaps):.4g} mm, as the source's planes lie"
        yield _geometry(f"{place}.SpacingBetweenSlices", expected, f"{between:g} mm")
    if thickness:
        yield from _thickness_problems(subject, place, thickness, between, np.concatenate([gaps, source_gaps]))


def _positive(item: Dataset, keyword: str) -> float | None:
    value = item.get(keyword)
    return float(value) if value not in (None, "") and float(value) > 0 else None


def _is_whole(gaps: Vector, between: float) -> bool:
    """Whether distances are whole numbers of slices: frames without foreground may be left out."""
    ratio = gaps / between
    return bool((np.abs(ratio - np.rint(ratio)) <= np.maximum(SLOPE_STEP, POSITION_TOLERANCE_MM / between)).all()) and (
        not len(gaps) or bool((np.rint(ratio) >= 1).all())
    )


def _thickness_problems(
    subject: Subject, place: str, thickness: float, between: float | None, gaps: Vector
) -> Iterator[Problem]:
    """A thickness is the source's, or the distance of the planes, which some write instead."""
    stated = [float(each.SliceThickness) for each in subject.sources.values() if each.get("SliceThickness")]
    known = [*stated, *([between] if between else []), *gaps.tolist()]
    if stated and not np.isclose(known, thickness, rtol=SPACING_TOLERANCE).any():
        yield _geometry(f"{place}.SliceThickness", f"the source's, {stated[0]:g} mm", f"{thickness:g} mm")


MULTI_FRAME = (
    functional_groups_stand_in_one_place,
    pixels_are_as_many_as_frames,
    dimensions_are_indexed,
    frames_state_a_possible_place,
    spacings_are_those_of_the_planes,
)

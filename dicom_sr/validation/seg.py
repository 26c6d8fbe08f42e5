"""Rules for segmentations: every frame lies where its source lies, and every segment is described and used."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from coread.dicom_sr.validation.problem import Problem, Severity, Subject

POSITION_TOLERANCE_MM = 0.05
"""Decimal strings are rounded; more is another place."""
DIRECTION_TOLERANCE = 1e-3
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
BY_ALGORITHM = ("AUTOMATIC", "SEMIAUTOMATIC")


def frame_of_reference_is_the_sources(subject: Subject) -> Iterator[Problem]:
    """Coordinates mean something only within one frame of reference."""
    expected = {
        str(source.FrameOfReferenceUID) for source in subject.sources.values() if "FrameOfReferenceUID" in source
    }
    found = str(subject.dataset.get("FrameOfReferenceUID"))
    if expected and found not in expected:
        yield Problem(
            rule="frame of reference",
            where="FrameOfReferenceUID",
            expected=f"the source's, {sorted(expected)[0]}",
            found=found,
            section="PS3.3 C.7.4.1",
        )


def sources_are_listed(subject: Subject) -> Iterator[Problem]:
    """The object lists the source series and its instances, and they exist."""
    series: Sequence[Dataset] = subject.dataset.get("ReferencedSeriesSequence", [])
    if not series:
        yield Problem(
            rule="reference",
            where="ReferencedSeriesSequence",
            expected="the source series and its instances",
            found="none",
            section="PS3.3 C.12.1.2",
        )
    if not subject.sources:
        return
    known = {str(source.SeriesInstanceUID) for source in subject.sources.values()}
    for item in series:
        uid = str(item.get("SeriesInstanceUID"))
        if uid not in known:
            yield _reference_problem("ReferencedSeriesSequence", "the source's series", uid)
    for uid in sorted(listed_instances(subject.dataset) - set(subject.sources)):
        yield _reference_problem("ReferencedSeriesSequence", "images of the source", f"{uid}, which is not there")


def frames_name_their_sources(subject: Subject) -> Iterator[Problem]:
    """Each frame names the image that it was derived from."""
    listed = listed_instances(subject.dataset)
    of_frames = frame_sources(subject.dataset)
    for index, references in enumerate(of_frames):
        place = f"PerFrameFunctionalGroupsSequence[{index}].DerivationImageSequence"
        for uid, class_uid in references:
            source = subject.sources.get(uid)
            if subject.sources and source is None:
                yield _reference_problem(place, "an image of the source", f"{uid}, which is not there")
            elif source is not None and class_uid != str(source.SOPClassUID):
                yield _reference_problem(place, f"SOP class {source.SOPClassUID}", class_uid)
            if listed and uid not in listed:
                yield _reference_problem(place, "an instance that ReferencedSeriesSequence lists", uid)
    without = sum(not references for references in of_frames)
    if without:
        # All of them without: legal for a grid of its own, as long as the series is listed. Some: a mistake.
        excused = listed and without == len(of_frames)
        yield Problem(
            rule="reference",
            where="PerFrameFunctionalGroupsSequence.DerivationImageSequence",
            expected="the source image of each frame",
            found=f"{without} frames without",
            section="PS3.3 C.7.6.16.2.6",
            severity=Severity.WARNING if excused else Severity.ERROR,
        )


def frames_lie_on_their_sources(subject: Subject) -> Iterator[Problem]:
    """A frame on the source's grid has its source's position, orientation and spacing."""
    dataset = subject.dataset
    for index, (groups, uids) in enumerate(zip(frames(dataset), frame_sources(dataset), strict=False)):
        sources = [subject.sources[uid] for uid, _ in uids if uid in subject.sources]
        if len(sources) != 1 or "ImagePositionPatient" not in sources[0]:
            continue
        (source,) = sources
        place = f"PerFrameFunctionalGroupsSequence[{index}]"
        yield from _geometry_problems(dataset, groups, source, place)


def _geometry_problems(dataset: Dataset, groups: Dataset, source: Dataset, place: str) -> Iterator[Problem]:
    position, orientation, spacing = geometry(dataset, groups)
    expected_position = _floats(source.ImagePositionPatient)
    expected_orientation = _floats(source.ImageOrientationPatient)
    if position is None or orientation is None or spacing is None:
        yield _geometry_problem(place, "position, orientation and spacing", "not all of them")
        return
    if np.abs(orientation - expected_orientation).max() > DIRECTION_TOLERANCE:
        yield _geometry_problem(f"{place}.PlaneOrientationSequence", _text(expected_orientation), _text(orientation))
        return
    same_grid = (dataset.Rows, dataset.Columns) == (source.Rows, source.Columns)
    away = position - expected_position
    if not same_grid:  # a grid of its own in the source's plane
        normal = np.cross(expected_orientation[:3], expected_orientation[3:])
        away = normal * (away @ normal)
    if np.linalg.norm(away) > POSITION_TOLERANCE_MM:
        found = f"{_text(position)}, {np.linalg.norm(away):.2f} mm away"
        yield _geometry_problem(f"{place}.PlanePositionSequence", _text(expected_position), found)
    if same_grid and not np.allclose(spacing, _floats(source.PixelSpacing), rtol=1e-3):
        yield _geometry_problem(f"{place}.PixelMeasuresSequence", _text(_floats(source.PixelSpacing)), _text(spacing))


def segments_are_numbered(subject: Subject) -> Iterator[Problem]:
    """Segments are numbered from 1 (in a label map: differently), and no two share a Tracking UID."""
    segments: Sequence[Dataset] = subject.dataset.get("SegmentSequence", [])
    numbers = [segment.get("SegmentNumber") for segment in segments]
    in_order = numbers == list(range(1, len(numbers) + 1))
    if len(set(numbers)) != len(numbers) or not (in_order or _is_label_map(subject.dataset)):
        yield _segment_problem("SegmentSequence.SegmentNumber", "1, 2, 3 …", str(numbers))
    tracking = Counter(str(segment.TrackingUID) for segment in segments if segment.get("TrackingUID"))
    for uid, count in tracking.items():
        if count > 1:
            yield _segment_problem("SegmentSequence.TrackingUID", "a UID for each segment", f"{uid} {count} times")


def segments_are_described(subject: Subject) -> Iterator[Problem]:
    """Each segment has a label, coded properties, an algorithm and a means to track it."""
    for index, segment in enumerate(subject.dataset.get("SegmentSequence", [])):
        place = f"SegmentSequence[{index}]"
        if _is_label_map(subject.dataset) and segment.get("SegmentNumber") == 0:
            continue  # the background
        algorithm = segment.get("SegmentAlgorithmType")
        needed = ["SegmentLabel", "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"]
        needed += ["SegmentAlgorithmName"] * (algorithm in BY_ALGORITHM)
        for keyword in needed:
            if not str(segment.get(keyword) or "").strip():
                yield _segment_problem(f"{place}.{keyword}", "a value", "none")
        if algorithm not in (*BY_ALGORITHM, "MANUAL"):
            expected = ", ".join((*BY_ALGORITHM, "MANUAL"))
            yield _segment_problem(f"{place}.SegmentAlgorithmType", expected, str(algorithm))
        if bool(segment.get("TrackingUID")) != bool(segment.get("TrackingID")):
            yield _segment_problem(f"{place}.TrackingUID", "TrackingID and TrackingUID together", "one of them")
        for keyword in ("TrackingUID", "RecommendedDisplayCIELabValue"):
            if not segment.get(keyword):
                yield _segment_problem(f"{place}.{keyword}", "a value", "none", severity=Severity.WARNING)


def frames_and_segments_agree(subject: Subject) -> Iterator[Problem]:
    """Each frame shows a segment that exists, in a place of its own; each segment is shown."""
    dataset = subject.dataset
    if _is_label_map(dataset):
        return
    known = {segment.get("SegmentNumber") for segment in dataset.get("SegmentSequence", [])}
    shown = [frame_segment(dataset, groups) for groups in frames(dataset)]
    for index, number in enumerate(shown):
        if number not in known:
            place = f"PerFrameFunctionalGroupsSequence[{index}].SegmentIdentificationSequence"
            yield _segment_problem(place, f"one of {sorted(known)}", str(number))
    for number in sorted(known - set(shown)):
        yield _segment_problem("SegmentSequence", f"a frame of segment {number}", "none", severity=Severity.WARNING)
    places: Counter[tuple[object, ...]] = Counter()
    for groups, number in zip(frames(dataset), shown, strict=True):
        position = geometry(dataset, groups)[0]
        if position is not None:
            places[number, *np.round(position, 2)] += 1
    repeated = sum(count > 1 for count in places.values())
    if repeated:
        yield _segment_problem(
            "PerFrameFunctionalGroupsSequence", "one frame of a segment in each place", f"{repeated} places taken twice"
        )


def pixels_are_as_many_as_frames(subject: Subject) -> Iterator[Problem]:
    """NumberOfFrames, the functional groups and the pixels agree, and binary means one bit."""
    dataset = subject.dataset
    stated, described = int(dataset.get("NumberOfFrames", 1)), len(frames(dataset))
    if stated != described:
        yield _pixel_problem("NumberOfFrames", f"{described}, as many as functional groups", str(stated))
    if dataset.get("SegmentationType") == "BINARY" and dataset.get("BitsAllocated") != 1:
        yield _pixel_problem("BitsAllocated", "1 for BINARY", str(dataset.get("BitsAllocated")))
    if dataset.get("SegmentationType") == "FRACTIONAL" and not dataset.get("MaximumFractionalValue"):
        yield _pixel_problem("MaximumFractionalValue", "a value for FRACTIONAL", "none")
    if "PixelData" in dataset and dataset.file_meta.TransferSyntaxUID in NATIVE:
        bits = stated * dataset.Rows * dataset.Columns * dataset.get("BitsAllocated", 1)
        expected = (bits + 7) // 8
        if len(dataset.PixelData) != expected + expected % 2:
            yield _pixel_problem("PixelData", f"{expected + expected % 2} bytes", f"{len(dataset.PixelData)}")


def dimensions_are_indexed(subject: Subject) -> Iterator[Problem]:
    """Each frame has a value for each dimension."""
    dataset = subject.dataset
    for index, groups in enumerate(frames(dataset)):
        content = groups.get("FrameContentSequence", [])
        values = content[0].get("DimensionIndexValues", []) if content else []
        values = [values] if isinstance(values, int) else values
        if len(values) != len(dataset.get("DimensionIndexSequence", [])):
            place = f"PerFrameFunctionalGroupsSequence[{index}].FrameContentSequence.DimensionIndexValues"
            yield _pixel_problem(place, "a value for each dimension", f"{len(values)}")


def _is_label_map(dataset: Dataset) -> bool:
    return bool(dataset.get("SegmentationType") == "LABELMAP")


def listed_instances(dataset: Dataset) -> set[str]:
    """SOP Instance UIDs in ReferencedSeriesSequence."""
    return {
        str(item.get("ReferencedSOPInstanceUID"))
        for series in dataset.get("ReferencedSeriesSequence", [])
        for item in series.get("ReferencedInstanceSequence", [])
    }


def frames(dataset: Dataset) -> Sequence[Dataset]:
    """The functional groups of each frame."""
    found: Sequence[Dataset] = dataset.get("PerFrameFunctionalGroupsSequence", [])
    return found


def frame_sources(dataset: Dataset) -> list[list[tuple[str, str]]]:
    """For each frame the (SOP Instance UID, SOP Class UID) of the images that it was derived from."""
    return [
        [
            (str(image.get("ReferencedSOPInstanceUID")), str(image.get("ReferencedSOPClassUID")))
            for derivation in _group("DerivationImageSequence", dataset, groups)
            for image in derivation.get("SourceImageSequence", [])
        ]
        for groups in frames(dataset)
    ]


def frame_segment(dataset: Dataset, groups: Dataset) -> int | None:
    """The number of the segment that a frame shows."""
    identification = _group("SegmentIdentificationSequence", dataset, groups)
    number = identification[0].get("ReferencedSegmentNumber") if identification else None
    return None if number is None else int(number)


Vector = NDArray[np.float64]


def geometry(dataset: Dataset, groups: Dataset) -> tuple[Vector | None, Vector | None, Vector | None]:
    """A frame's ImagePositionPatient, ImageOrientationPatient and PixelSpacing, as far as they are stated."""

    def values(sequence: str, keyword: str) -> Vector | None:
        items = _group(sequence, dataset, groups)
        return _floats(items[0][keyword].value) if items and items[0].get(keyword) else None

    return (
        values("PlanePositionSequence", "ImagePositionPatient"),
        values("PlaneOrientationSequence", "ImageOrientationPatient"),
        values("PixelMeasuresSequence", "PixelSpacing"),
    )


def _group(keyword: str, dataset: Dataset, groups: Dataset) -> Sequence[Dataset]:
    shared = dataset.get("SharedFunctionalGroupsSequence", [])
    found: Sequence[Dataset] = groups.get(keyword) or (shared[0].get(keyword, []) if shared else [])
    return found


def _floats(values: Sequence[object]) -> Vector:
    return np.array([float(str(value)) for value in values])


def _text(values: Vector) -> str:
    return "\\".join(f"{value:.4g}" for value in values)


def _reference_problem(where: str, expected: str, found: str) -> Problem:
    return Problem(rule="reference", where=where, expected=expected, found=found, section="PS3.3 C.7.6.16.2.6")


def _geometry_problem(where: str, expected: str, found: str) -> Problem:
    return Problem(rule="geometry", where=where, expected=expected, found=found, section="PS3.3 C.7.6.16.2")


def _segment_problem(where: str, expected: str, found: str, *, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(
        rule="segment", where=where, expected=expected, found=found, section="PS3.3 C.8.20.4", severity=severity
    )


def _pixel_problem(where: str, expected: str, found: str) -> Problem:
    return Problem(rule="pixels", where=where, expected=expected, found=found, section="PS3.3 C.8.20.2")


SEGMENTATION = (
    frame_of_reference_is_the_sources,
    sources_are_listed,
    frames_name_their_sources,
    frames_lie_on_their_sources,
    segments_are_numbered,
    segments_are_described,
    frames_and_segments_agree,
    pixels_are_as_many_as_frames,
    dimensions_are_indexed,
)

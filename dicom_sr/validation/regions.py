"""Rules for coordinates in reports: shapes have their points, and the points lie where there is an image."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.geometry import (
    Reference,
    Vector,
    all_planes,
    frame_sources,
    frames,
    gap_mm,
    numbers,
    outside_mm,
    plane_of,
    reference_of,
)
from coread.dicom_sr.validation.pixels import Box, content_of, frames_of_segment
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of
from coread.dicom_sr.validation.tree import concept_of, references_of, walk_with_parents

_coordinates = problems_of("coordinates", "PS3.3 C.18.6")
_coordinates_3d = problems_of("coordinates", "PS3.3 C.18.9")
_frame = problems_of("frame of reference", "PS3.3 C.18.9")

POINTS: Mapping[str, tuple[int, int | None]] = {
    "POINT": (1, 1),
    "MULTIPOINT": (1, None),
    "POLYLINE": (2, None),
    "POLYGON": (4, None),
    "CIRCLE": (2, 2),
    "ELLIPSE": (4, 4),
    "ELLIPSOID": (6, 6),
}
"""Graphic type → fewest and most points. A polygon has three corners and the first again."""
TYPES_2D = ("POINT", "MULTIPOINT", "POLYLINE", "CIRCLE", "ELLIPSE")
TYPES_3D = ("POINT", "MULTIPOINT", "POLYLINE", "POLYGON", "ELLIPSE", "ELLIPSOID")
PLANE_TOLERANCE_MM = 0.1
"""How far the corners of a polygon may be from one plane: coordinates are 32-bit floats."""
EDGE_TOLERANCE = 0.01
"""In pixels, beyond the image's edge."""
IMAGE_REGION, TRACKING_UID = "111030", "112040"
OUTLINE_TOLERANCE = 1.5
"""In pixels: how far a smoothed outline may be from the pixels that it goes round."""


def regions_have_their_points(subject: Subject) -> Iterator[Problem]:
    """Coordinates in an image: pairs, as many as the shape has, within the image that they were selected from."""
    for place, parent, item in walk_with_parents(subject.dataset):
        if item.get("ValueType") != "SCOORD":
            continue
        points = points_of(item, 2)
        if points is None:
            yield _coordinates(place, "two finite numbers for each point", f"{len(_data(item))} values")
            continue
        yield from _shape_problems(place, item, points, TYPES_2D)
        images = [each for each in item.get("ContentSequence") or [] if each.get("ValueType") == "IMAGE"]
        by_reference = any("ReferencedContentItemIdentifier" in each for each in item.get("ContentSequence") or [])
        if not images and not by_reference and parent.get("ValueType") != "TCOORD":
            yield _coordinates(place, "the image that they were selected from", "none")
        for image in images:
            yield from _image_problems(subject, place, image, points)


def _data(item: Dataset) -> Sequence[object]:
    value = item.get("GraphicData")
    if value is None:
        return []
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def points_of(item: Dataset, size: int) -> Vector | None:
    """The points of an item (n, size); None if its numbers are none, not finite, or not as many as that needs."""
    try:
        values = [float(str(each)) for each in _data(item)]
    except ValueError:
        return None
    if not values or len(values) % size or not all(math.isfinite(each) for each in values):
        return None
    return np.array(values).reshape(-1, size)


def _shape_problems(place: str, item: Dataset, points: Vector, allowed: Sequence[str]) -> Iterator[Problem]:
    kind = str(item.get("GraphicType", "none"))
    section = "PS3.3 C.18.6.1.2" if allowed is TYPES_2D else "PS3.3 C.18.9.1.2"
    problem = problems_of("coordinates", section)
    if kind not in allowed:
        yield problem(f"{place}.GraphicType", " or ".join(allowed), kind)
        return
    fewest, most = POINTS[kind]
    if len(points) < fewest or (most is not None and len(points) > most):
        wanted = f"{fewest} points" if most == fewest else f"{fewest} points or more"
        yield problem(f"{place}.GraphicData", f"{wanted} for {kind}", str(len(points)))
    elif kind in ("CIRCLE", "POLYLINE") and np.ptp(points, axis=0).max() == 0:
        yield problem(f"{place}.GraphicData", "points in different places", "one place")
    elif kind == "ELLIPSE":
        yield from _ellipse_problems(place, points, section)
    elif kind == "POLYLINE" and concept_of(item) == IMAGE_REGION and len(points) > 2:
        if not np.allclose(points[0], points[-1], atol=EDGE_TOLERANCE):
            yield problems_of("coordinates", "PS3.16 TID 1410")(
                f"{place}.GraphicData", "a closed outline of a region", "an open one"
            )
    elif kind == "POLYGON":
        yield from _polygon_problems(place, points, section)


def _ellipse_problems(place: str, points: Vector, section: str) -> Iterator[Problem]:
    """The first two points are the ends of the major axis, the others of the minor one, at a right angle to it."""
    major, minor = points[1] - points[0], points[3] - points[2]
    lengths = np.linalg.norm(major), np.linalg.norm(minor)
    problem = problems_of("coordinates", section)
    if min(lengths) == 0:
        yield problem(f"{place}.GraphicData", "two axes", "one of no length")
    elif lengths[1] > lengths[0] * 1.01:
        yield problem(f"{place}.GraphicData", "the major axis first", "the minor one", Severity.WARNING)
    elif abs(major @ minor) / (lengths[0] * lengths[1]) > 0.05:
        yield problem(f"{place}.GraphicData", "axes at a right angle", "others")


def _polygon_problems(place: str, points: Vector, section: str) -> Iterator[Problem]:
    problem = problems_of("coordinates", section)
    if not np.allclose(points[0], points[-1], atol=EDGE_TOLERANCE):
        yield problem(f"{place}.GraphicData", "the first point again at the end", "an open polygon")
    away = points - points.mean(axis=0)
    if np.abs(away @ np.linalg.svd(away)[2][2]).max() > PLANE_TOLERANCE_MM:
        yield problem(f"{place}.GraphicData", "points in one plane", "others")


def _image_problems(subject: Subject, place: str, item: Dataset, points: Vector) -> Iterator[Problem]:
    if item.get("RelationshipType") != "SELECTED FROM":
        yield _coordinates(f"{place}.ContentSequence", "SELECTED FROM", str(item.get("RelationshipType", "none")))
    for reference in references_of(item):
        image = subject.instance(str(reference.get("ReferencedSOPInstanceUID")))
        if image is None or not image.get("Rows"):
            continue
        if int(image.get("NumberOfFrames") or 1) > 1 and not numbers(reference.get("ReferencedFrameNumber")):
            yield _coordinates(place, "the frame that the points are in", "none of several", Severity.WARNING)
        columns = int(image.get("TotalPixelMatrixColumns") or image.Columns)
        rows = int(image.get("TotalPixelMatrixRows") or image.Rows)
        size = np.array([columns, rows])
        if (points < -EDGE_TOLERANCE).any() or (points > size + EDGE_TOLERANCE).any():
            worst = points[np.argmax(np.maximum(-points, points - size).max(axis=1))]
            found = f"column {worst[0]:.1f}, row {worst[1]:.1f}"
            yield _coordinates(f"{place}.GraphicData", f"points within {columns} columns and {rows} rows", found)


def outlines_lie_on_their_segments(subject: Subject) -> Iterator[Problem]:
    """An outline that is tracked as a segment is lies on that segment's pixels in the same image.

    That a mask is flipped, or belongs to another slice, shows nowhere else: its header is right.
    """
    for place, parent, item in walk_with_parents(subject.dataset):
        if item.get("GraphicType") not in ("POLYLINE", "POLYGON"):
            continue
        named = [each for each in parent.get("ContentSequence") or [] if concept_of(each) == TRACKING_UID]
        tracking = {str(each.get("UID")) for each in named}
        for segmentation in subject.results.values():
            for segment in segmentation.get("SegmentSequence") or []:
                if str(segment.get("TrackingUID")) in tracking:
                    for points, box in _points_and_boxes(subject, item, segmentation, int(segment.SegmentNumber)):
                        yield from _box_problems(place, points, box)


def _points_and_boxes(
    subject: Subject, item: Dataset, segmentation: Dataset, number: int
) -> Iterator[tuple[Vector, Box]]:
    """An outline in pixels of each frame of a segment that it lies on, and the box around the frame's pixels."""
    contents = content_of(subject, segmentation)
    if contents is None or segmentation.get("SegmentationType") == "FRACTIONAL":
        return
    value = number if segmentation.get("SegmentationType") == "LABELMAP" else 1
    made_from = list(frame_sources(segmentation))
    for index in frames_of_segment(segmentation, number):
        if index < len(contents) and value in contents[index].boxes:
            if item.get("ValueType") == "SCOORD":
                points = _in_image(subject, item, segmentation, made_from[index])
            else:
                points = _in_plane(item, segmentation, frames(segmentation)[index])
            if points is not None:
                yield points, contents[index].boxes[value]


def _in_image(subject: Subject, item: Dataset, segmentation: Dataset, sources: Sequence[Reference]) -> Vector | None:
    """The points of an outline in an image that a frame was made from, if the two have the same grid."""
    made_from = {(each.uid, each.frames) for each in sources}
    for image in item.get("ContentSequence") or []:
        for each in map(reference_of, references_of(image)):
            source = subject.instance(each.uid)
            size = [] if source is None else [(source.get("Rows"), source.get("Columns"))]
            if (each.uid, each.frames) in made_from and size in (
                [],
                [(segmentation.get("Rows"), segmentation.get("Columns"))],
            ):
                return points_of(item, 2)
    return None


def _in_plane(item: Dataset, segmentation: Dataset, groups: Dataset) -> Vector | None:
    """The points of an outline in the patient, in pixels of a frame, if they lie in its plane."""
    points, plane = points_of(item, 3), plane_of(segmentation, groups)
    if points is None or plane is None:
        return None
    if str(item.get("ReferencedFrameOfReferenceUID")) != str(segmentation.get("FrameOfReferenceUID")):
        return None
    places = plane.pixel_of(points)
    return places[:, :2] + 0.5 if np.abs(places[:, 2]).max() <= PLANE_TOLERANCE_MM else None


def _box_problems(place: str, points: Vector, box: Box) -> Iterator[Problem]:
    top, bottom, left, right = box
    low, high = np.array([left, top]) - OUTLINE_TOLERANCE, np.array([right, bottom]) + 1 + OUTLINE_TOLERANCE
    if (points < low).any() or (points > high).any():
        expected = f"an outline in columns {left} to {right + 1}, rows {top} to {bottom + 1}, where its segment is"
        found = f"columns {points[:, 0].min():.1f} to {points[:, 0].max():.1f}, "
        found += f"rows {points[:, 1].min():.1f} to {points[:, 1].max():.1f}"
        yield problems_of("coordinates", "PS3.16 TID 1410")(f"{place}.GraphicData", expected, found)


def coordinates_are_in_the_sources_frame(subject: Subject) -> Iterator[Problem]:
    """Points in the patient are points of the source's frame of reference, three numbers each, within its volume."""
    known = {str(one.FrameOfReferenceUID) for one in subject.sources.values() if one.get("FrameOfReferenceUID")}
    for place, _, item in walk_with_parents(subject.dataset):
        if item.get("ValueType") != "SCOORD3D":
            continue
        found = str(item.get("ReferencedFrameOfReferenceUID"))
        if known and found not in known:
            yield _frame(place, f"the source's, {sorted(known)[0]}", found)
        points = points_of(item, 3)
        if points is None:
            yield _coordinates_3d(place, "three finite numbers for each point", f"{len(_data(item))} values")
            continue
        yield from _shape_problems(place, item, points, TYPES_3D)
        planes = all_planes(subject.sources, found)
        if planes and item.get("GraphicType") not in ("ELLIPSE", "ELLIPSOID"):
            away = outside_mm(points, planes)
            if away > max(*planes[0].spacing, gap_mm(planes) or 0.0):
                yield _coordinates_3d(f"{place}.GraphicData", "points in the images", f"one {away:.1f} mm outside")


REGIONS = (regions_have_their_points, outlines_lie_on_their_segments, coordinates_are_in_the_sources_frame)

"""Rules for what is measured of an outline: its area is the outline's, and nothing in it is longer than it is wide."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset
from scipy.spatial.distance import pdist

from coread.dicom_sr.validation.geometry import Vector, planes_of_image, reference_of
from coread.dicom_sr.validation.measurements import LARGEST_DIAMETER, in_its_unit
from coread.dicom_sr.validation.problem import Problem, Subject, problems_of
from coread.dicom_sr.validation.regions import points_of
from coread.dicom_sr.validation.tree import concept_of, references_of, walk

GROUP, IMAGE_REGION, AREA = "125007", "111030", "42798000"
RELATIVE = 0.02
"""Rounding, and curves instead of corners."""
MOST_POINTS = 2000
"""Of an outline whose diameter is looked at: every pair of points is."""

_value = problems_of("value", "PS3.16 TID 1410")


def outlines_are_measured_right(subject: Subject) -> Iterator[Problem]:
    """A group of one closed outline states that outline's area; programs that count pixels differ by half an edge."""
    for place, group in walk(subject.dataset):
        items = group.get("ContentSequence") or []
        regions = [item for item in items if concept_of(item) == IMAGE_REGION]
        if concept_of(group) != GROUP or len(regions) != 1:
            continue
        points, edge_mm = _outline_mm(subject, regions[0])
        if points is not None:
            yield from _measurement_problems(place, items, points, edge_mm)


def _outline_mm(subject: Subject, region: Dataset) -> tuple[Vector | None, float]:
    """The corners of a closed outline in mm, and how much a pixel may matter."""
    if region.get("GraphicType") not in ("POLYLINE", "POLYGON"):
        return None, 0.0
    if region.get("ValueType") == "SCOORD3D":
        points, edges = points_of(region, 3), [_largest_pixel_mm(each) for each in subject.sources.values()]
        edge_mm = max(edges, default=0.0)
    else:
        points, edge_mm = points_of(region, 2), 0.0
        references = [each for item in region.get("ContentSequence") or [] for each in references_of(item)]
        images = [subject.instance(reference_of(each).uid) for each in references]
        spacings = [plane.spacing for image in images if image for plane in planes_of_image(image).values()]
        if points is not None and spacings:
            points, edge_mm = points * spacings[0][::-1], float(spacings[0].max())
    if points is None or edge_mm == 0.0 or len(points) < 4 or not np.allclose(points[0], points[-1], atol=0.01):
        return None, 0.0
    return points, edge_mm


def _largest_pixel_mm(image: Dataset) -> float:
    planes = planes_of_image(image)
    return float(max((plane.spacing.max() for plane in planes.values()), default=0.0))


def area_of(points: Vector) -> float:
    """The area within a closed, flat outline, in two dimensions or three."""
    away = points - points[0]
    if points.shape[1] == 2:
        away = np.insert(away, 2, 0.0, axis=1)
    return float(np.linalg.norm(np.cross(away[:-1], away[1:]).sum(axis=0))) / 2


def _measurement_problems(place: str, items: Sequence[Dataset], points: Vector, edge_mm: float) -> Iterator[Problem]:
    area_mm2 = area_of(points)
    perimeter_mm = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    longest_mm = float(pdist(points).max()) if len(points) <= MOST_POINTS else perimeter_mm / 2
    for item in items:
        stated_mm2 = in_its_unit(item, "area") if concept_of(item) == AREA else None
        if stated_mm2 is not None and abs(stated_mm2 - area_mm2) > RELATIVE * area_mm2 + perimeter_mm * edge_mm / 2:
            yield _value(place, f"the outline's area, {area_mm2:.4g} mm2", f"{stated_mm2:.4g} mm2")
        stated_mm = in_its_unit(item, "length") if concept_of(item) in LARGEST_DIAMETER else None
        if stated_mm is not None and stated_mm > longest_mm * (1 + RELATIVE) + 2 * edge_mm:
            yield _value(place, f"a length within the outline, {longest_mm:.4g} mm", f"{stated_mm:.4g} mm")


OUTLINES = (outlines_are_measured_right,)

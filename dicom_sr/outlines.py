r"""Outlines of masks, in the plane of one image.

Coordinates are (column, row) in pixels, the outer corner of the first pixel at 0\0 and its centre at 0.5\0.5, as SR
and presentation states count them (PS3.3 C.18.6.1.1 and C.10.5.1.2). An outline runs half-way between the centres of
the pixels inside and those outside: whoever fills it by pixel centres has the mask again, exactly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """A connected part of a mask (pixels that share an edge): its outer ring, and a ring for each hole. Rings are
    closed: the last point is the first. They have a point on each edge between a pixel inside and one outside.
    """

    outer: Points
    holes: tuple[Points, ...]
    pixels: int


def regions_of(mask: NDArray[np.bool_]) -> list[Region]:
    """The connected parts of a mask (row, column), the largest first."""
    parts, _ = ndimage.label(mask)
    found = []
    for index, window in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[window] == index
        corner = (window[0].start, window[1].start)
        rings = sorted(_rings(part, corner), key=_area, reverse=True)
        found.append(Region(outer=rings[0], holes=tuple(rings[1:]), pixels=int(part.sum())))
    return sorted(found, key=lambda region: -region.pixels)


def in_one_ring(region: Region) -> Points:
    """The region as one closed ring of corners: each hole is reached by a channel of no width (PS3.3 C.8.8.6.3,
    "keyhole"), from its leftmost point along the row to the nearest point on the left. Holes are taken from left to
    right, so that this point is always in the ring already, and no channel crosses anything.
    """
    ring = region.outer
    for hole in sorted(region.holes, key=lambda hole: float(hole[:, 0].min())):
        at_hole = int(hole[:, 0].argmin())
        column, row = hole[at_hole]
        on_the_left = np.where((ring[:, 1] == row) & (ring[:, 0] < column), ring[:, 0], -np.inf)
        at_ring = int(on_the_left.argmax())
        there_and_back = np.concatenate([hole[at_hole:-1], hole[: at_hole + 1]])
        ring = np.concatenate([ring[: at_ring + 1], there_and_back, ring[at_ring:]])
    return corners(ring)


def corners(ring: Points) -> Points:
    """The same closed ring without the points along its straight lines: fewer to write, and not one pixel different."""
    after = np.diff(ring, axis=0)
    before = np.roll(after, 1, axis=0)
    kept = ring[:-1][before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return np.concatenate([kept, kept[:1]])


def _rings(part: NDArray[np.bool_], corner: tuple[int, int]) -> list[Points]:
    padded = np.pad(part, 1).astype(np.float64)
    # In the padded part, index 1 is the first pixel, whose centre is at 0.5.
    return [ring[:, ::-1] - 0.5 + (corner[1], corner[0]) for ring in find_contours(padded, 0.5)]


def _area(ring: Points) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2)

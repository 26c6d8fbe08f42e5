"""Whether the images of a series lie like a finished stack, in pure Python on what Orthanc keeps at hand of each.

This decides when to look at a series, not whether it can be read: the workers judge its geometry again, more strictly.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from statistics import median_low

STACKED = frozenset({"CT", "MR", "PT", "NM"})
"""Modalities whose single-frame images are slices of a stack. An object of any other is complete in itself."""

FEWEST_PLACES = 3
"""Two slices are evenly spaced whatever is missing between and around them."""

SPACING_TOLERANCE = 0.25
"""Relative deviation of a step between slices from the usual one that does not look like a hole. A missing slice
deviates by 1; scanners' rounding by less than 0.02."""

SAME_PLACE_MM = 0.01
"""Two images nearer than this along the normal are in one place."""

SAME_DIRECTION = 1e-3
"""Largest difference of two images' direction cosines that is still rounding."""

MOST_STACKS = 50
"""Images in more directions than that are no stacks; comparing each with each would take long."""

Vector = tuple[float, float, float]


class Shape(StrEnum):
    """How the images of a series lie."""

    EVEN = "even"
    """A stack: three or more places, evenly spaced, with equally many images in each."""
    GAP = "gap"
    """A stack in which something is visibly missing: a wider step, or fewer images in one place than in another."""
    BEGUN = "begun"
    """One or two places, or slices that state none: it could be the beginning of anything."""
    OTHER = "other"
    """No stack: each object is complete in itself."""


def shape_of(modality: str | None, images: Sequence[Mapping[str, str]]) -> Shape:
    """The shape of a series, given each image's ImagePositionPatient, ImageOrientationPatient and NumberOfFrames.

    The order of the images does not matter. Of several orientations (localizers, slices across several discs) each is
    looked at for itself: a hole in one is a gap, and otherwise they are no stack.
    """
    if modality not in STACKED or any(_frames(image) > 1 for image in images):
        return Shape.OTHER
    stacks = _by_normal(images)
    if stacks is None:
        return Shape.BEGUN
    if len(stacks) > MOST_STACKS:
        return Shape.OTHER
    shapes = [_shape_along(distances) for distances in stacks]
    if Shape.GAP in shapes:
        return Shape.GAP
    return shapes[0] if len(shapes) == 1 else Shape.OTHER


def _shape_along(distances: Sequence[float]) -> Shape:
    """The shape of a stack, given how far along its normal each image lies, in mm."""
    places = _places(distances)
    if len(places) < FEWEST_PLACES:
        return Shape.BEGUN
    steps = [later - earlier for earlier, later in pairwise(sorted(places))]
    usual = median_low(steps)
    holes = any(abs(step - usual) > SPACING_TOLERANCE * usual for step in steps)
    return Shape.GAP if holes or len(set(places.values())) > 1 else Shape.EVEN


def _places(distances: Sequence[float]) -> Counter[float]:
    """Distance of each place → how many images are there."""
    places: Counter[float] = Counter()
    place = None
    for distance in sorted(distances):
        if place is None or distance - place > SAME_PLACE_MM:
            place = distance
        places[place] += 1
    return places


def _by_normal(images: Sequence[Mapping[str, str]]) -> list[list[float]] | None:
    """For each orientation, how far along its normal each of its images lies; None if an image does not say."""
    stacks: dict[tuple[float, ...], list[float]] = defaultdict(list)
    for image in images:
        position = _numbers(image.get("ImagePositionPatient", ""), 3)
        orientation = _numbers(image.get("ImageOrientationPatient", ""), 6)
        if position is None or orientation is None:
            return None
        known = next((each for each in stacks if _same_direction(each, orientation)), orientation)
        if len(stacks) > MOST_STACKS:
            break
        row, column = known[:3], known[3:]
        stacks[known].append(_dot(position, _cross(row, column)))
    return list(stacks.values())


def _same_direction(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= SAME_DIRECTION for a, b in zip(one, other, strict=True))


def _cross(a: Sequence[float], b: Sequence[float]) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(abs(number) < float("inf") for number in numbers) else None


def _frames(image: Mapping[str, str]) -> int:
    try:
        return int(image.get("NumberOfFrames", "1"))
    except ValueError:
        return 1

"""One pass over a label volume that measures all its structures at once.

A mask for each label costs a pass over the volume each, and the memory of one. Here every slice is read once; what it
holds of each label is summed up in it, and the slices are put together in their order. So the result does not depend
on the number of threads.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

LABELS = 256
"""So many values has a voxel of 8 bits."""

TOLERANCE = 1e-9
"""Relative, of mean and standard deviation to numpy's in float64. Values are summed up less one of their own, so that
what they have in common takes no digits away; 16-bit values are summed up without any rounding in slices of less than
a million pixels."""

COMPILED = frozenset("bBhHiIlLqQfd")
"""Types of numbers, by numpy's letters, that the pass reads as they are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """By label, in arrays of shape (256, …); of label 0, the background, and of what does not occur nothing is said:
    0, NaN, and boxes without extent.
    """

    areas: NDArray[np.int64]
    """Number of pixels by slice and label: (slices, 256)."""
    voxels: NDArray[np.int64]
    mean: NDArray[np.float64]
    """Of the values; NaN without values."""
    standard_deviation: NDArray[np.float64]
    """Of the values, as of a whole population; NaN without values."""
    low: NDArray[np.int64]
    """Lowest index (slice, row, column) in which the label occurs: (256, 3)."""
    high: NDArray[np.int64]
    """The highest such index; where it does not occur, -1."""


def measure(labels: NDArray[np.uint8], values: NDArray[Any] | None = None) -> Measures:
    """Measures of every label in one pass.

    ``labels``, ``values``: (slice, row, column), of one shape; values of any real type. Raises ValueError if the shapes
    differ.
    """
    if values is not None and values.shape != labels.shape:
        raise ValueError(f"expected values of shape {labels.shape}, found {values.shape}")
    counts, means, squares, low, high = _by_slice(labels, None if values is None else _readable(values))
    voxels, mean, square, lowest, highest = _merged(counts, means, squares, low, high)
    told = (voxels > 0) & (values is not None)
    return Measures(
        areas=counts,
        voxels=voxels,
        mean=np.where(told, mean, np.nan),
        standard_deviation=np.where(told, np.sqrt(square / np.maximum(voxels, 1)), np.nan),
        low=lowest,
        high=highest,
    )


def _readable(values: NDArray[Any]) -> NDArray[Any]:
    """The values in a type that the pass is compiled for."""
    if values.dtype.char in COMPILED and values.dtype.isnative:
        return values
    return values.astype(np.float64)


@numba.njit(cache=True, parallel=True, nogil=True)
def _by_slice(
    labels: NDArray[np.uint8], values: NDArray[Any] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int32], NDArray[np.int32]]:
    """By slice and label: number of pixels, mean and sum of squared differences from it, and the rectangle (row,
    column) that they lie in. A run of pixels of one label is summed up in registers.
    """
    slices, rows, columns = labels.shape
    counts = np.zeros((slices, LABELS), np.int64)
    means = np.zeros((slices, LABELS))
    squares = np.zeros((slices, LABELS))
    low = np.empty((slices, LABELS, 2), np.int32)
    high = np.full((slices, LABELS, 2), -1, np.int32)
    for plane in numba.prange(slices):
        origin = np.zeros(LABELS)
        low[plane, :, 0], low[plane, :, 1] = rows, columns
        for row in range(rows):
            column = 0
            while column < columns:
                label, start = labels[plane, row, column], column
                column = end_of_run(labels[plane, row], start)
                if label == 0:
                    continue
                if values is not None:
                    if counts[plane, label] == 0:
                        origin[label] = values[plane, row, start]
                    total, square = _sums(values[plane, row, start:column], origin[label])
                    means[plane, label] += total
                    squares[plane, label] += square
                counts[plane, label] += column - start
                low[plane, label, 0] = min(low[plane, label, 0], row)
                low[plane, label, 1] = min(low[plane, label, 1], start)
                high[plane, label, 0] = row
                high[plane, label, 1] = max(high[plane, label, 1], column - 1)
        for label in range(LABELS):
            if counts[plane, label]:
                away = means[plane, label] / counts[plane, label]
                square = squares[plane, label] - away * means[plane, label]
                squares[plane, label] = 0.0 if square < 0 else square  # NaN stays NaN
                means[plane, label] = origin[label] + away
    return counts, means, squares, low, high


@numba.njit(cache=True, nogil=True)
def end_of_run(labels: NDArray[np.uint8], start: int) -> int:
    """The first pixel of a row, from ``start`` on, that is of another label than that there."""
    end = start + 1
    while end < len(labels) and labels[end] == labels[start]:
        end += 1
    return end


@numba.njit(cache=True, nogil=True)
def _sums(values: NDArray[Any], origin: float) -> tuple[float, float]:
    """Of the values less ``origin``, and of the squares of that."""
    total, square = 0.0, 0.0
    for value in values:
        away = value - origin
        total += away
        square += away * away
    return total, square


@numba.njit(cache=True, nogil=True)
def _merged(
    counts: NDArray[np.int64],
    means: NDArray[np.float64],
    squares: NDArray[np.float64],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The slices put together, in their order. Of two sets: Chan, Golub, LeVeque 1979, equation 2.1."""
    voxels = np.zeros(LABELS, np.int64)
    mean = np.zeros(LABELS)
    square = np.zeros(LABELS)
    lowest = np.zeros((LABELS, 3), np.int64)
    highest = np.full((LABELS, 3), -1, np.int64)
    for plane in range(len(counts)):
        for label in range(LABELS):
            count = counts[plane, label]
            if count == 0:
                continue
            if voxels[label] == 0:
                lowest[label, 0] = plane
                lowest[label, 1:] = low[plane, label]
            together = voxels[label] + count
            away = means[plane, label] - mean[label]
            mean[label] += away * count / together
            square[label] += squares[plane, label] + away * away * voxels[label] * count / together
            voxels[label] = together
            highest[label, 0] = plane
            for axis in range(2):
                lowest[label, axis + 1] = min(lowest[label, axis + 1], low[plane, label, axis])
                highest[label, axis + 1] = max(highest[label, axis + 1], high[plane, label, axis])
    return voxels, mean, square, lowest, highest


@numba.njit(cache=True, nogil=True)
def outermost(
    labels: NDArray[np.uint8], label: int, low: NDArray[np.int64], high: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Voxels among which all corners of a label's convex hull are, whatever affine they are seen through: in each slice
    the corners of the hull in that slice. (slice, row, column), shape (points, 3), by slice.

    ``low``, ``high``: the box that the label lies in, as ``Measures`` says.
    """
    rows = high[1] - low[1] + 1
    found = np.empty((4 * rows * (high[0] - low[0] + 1), 3), np.int64)
    count = 0
    for plane in range(low[0], high[0] + 1):
        for side in (-1, 1):  # the rows' first voxels, then their last ones
            start = count
            for row in range(low[1], high[1] + 1):
                column, end = (low[2], high[2] + 1) if side < 0 else (high[2], low[2] - 1)
                while column != end and labels[plane, row, column] != label:
                    column -= side
                if column == end:
                    continue
                while count - start > 1 and side * _turn(found[count - 2], found[count - 1], row, column) >= 0:
                    count -= 1
                found[count, 0], found[count, 1], found[count, 2] = plane, row, column
                count += 1
    return found[:count]


@numba.njit(cache=True, nogil=True)
def _turn(first: NDArray[np.int64], second: NDArray[np.int64], row: int, column: int) -> np.int64:
    """Above 0 if the way by two points to a third one bends towards higher columns, as the rows go on."""
    turn: np.int64 = (second[1] - first[1]) * (column - first[2]) - (second[2] - first[2]) * (row - first[1])
    return turn


@numba.njit(cache=True, nogil=True)
def largest_distance(points: NDArray[np.float64]) -> float:
    """Of any two of the points, shape (points, 3); 0 of one alone or none."""
    if len(points) == 0:
        return 0.0
    reach = np.empty(len(points))
    centre = np.array([points[:, 0].mean(), points[:, 1].mean(), points[:, 2].mean()])
    for index in range(len(points)):
        reach[index] = np.sqrt(((points[index] - centre) ** 2).sum())
    order = np.argsort(-reach)
    largest = 0.0
    for first in range(len(order)):
        x, y, z = points[order[first]]
        for second in range(first):
            if reach[order[first]] + reach[order[second]] <= largest:
                break  # the rest lie nearer to the centre yet
            dx, dy, dz = points[order[second], 0] - x, points[order[second], 1] - y, points[order[second], 2] - z
            largest = max(largest, np.sqrt(dx * dx + dy * dy + dz * dz))
    return float(largest)

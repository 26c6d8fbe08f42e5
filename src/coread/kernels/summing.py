"""Weighted sums of the scores of overlapping windows, and which class has the largest."""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from coread.kernels.resampling import MOST_CLASSES

NOWHERE = -1
"""The place of sums that nobody has to wait for."""
MAGNITUDE, NOT_FINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
"""Bits of a number in float32: all but the sign, and those of infinity. Those of NaN are a larger whole number."""


class Block(NamedTuple):
    """Some rows of a box of a window. All voxels of a box are reached by the same windows."""

    i: int
    j: int
    k: int
    """Where the box begins in the window."""
    depth: int
    length: int
    """Of the box along j and k."""
    row_from: int
    row_to: int
    """Which rows of the box: row ``r`` is that of ``r // depth`` along i and ``r % depth`` along j."""
    place: int
    """Where their sums are kept, or NOWHERE."""
    voxel: int
    """The first one there."""
    opens: int
    """1 if no window has reached them before."""
    closes: int
    """1 if no further window does."""


def add_weighted(
    scores: NDArray[np.float32],
    weights: NDArray[np.float32],
    blocks: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    sums: NDArray[np.float32],
    out: NDArray[np.uint8],
    corner: tuple[int, int, int],
) -> None:
    """Add ``scores`` (class, i, j, k) of a window times ``weights`` (i, j, k) to what is kept of each block (a row for
    each ``Block``) in ``sums`` (place, class, voxel). Of those that close, the class with the largest sum goes to
    ``out``, the whole image, in which the window begins at ``corner``; the first, if several are. All in C order.

    ``groups``: where in ``blocks`` each group of those begins that lie next to each other, and where the last one ends:
    they are computed together, so that scores are read in the order in which they lie in memory. No two blocks may have
    the same voxels. Raises ValueError if a sum that closes is not finite, or there are more than ``MOST_CLASSES``.
    """
    if len(scores) > MOST_CLASSES:
        raise ValueError(f"expected at most {MOST_CLASSES} classes, found {len(scores)}")
    if not _add(scores, weights, blocks, groups, sums, out, corner):
        raise ValueError("expected finite scores, found NaN or infinity")


@numba.njit(cache=True, parallel=True, nogil=True)
def _add(
    scores: NDArray[np.float32],
    weights: NDArray[np.float32],
    blocks: NDArray[np.int64],
    groups: NDArray[np.int64],
    sums: NDArray[np.float32],
    out: NDArray[np.uint8],
    corner: tuple[int, int, int],
) -> bool:
    of_class, weight_of = scores.reshape((len(scores), -1)), weights.reshape(-1)
    wrong = 0
    for group in numba.prange(len(groups) - 1):
        mine = blocks[groups[group] : groups[group + 1]]
        begins = np.zeros(len(mine) + 1, np.int64)
        for number in range(len(mine)):
            _, _, _, _, length, row_from, row_to, _, _, _, _ = mine[number]
            begins[number + 1] = begins[number] + (row_to - row_from) * length
        weight, new = np.empty(begins[-1], np.float32), np.ones(begins[-1], np.float32)
        highest, best = np.full(begins[-1], -np.inf, np.float32), np.zeros(begins[-1], np.int32)
        for number in range(len(mine)):
            begin, end = begins[number], begins[number + 1]
            _weigh(weight_of, weights.shape, mine[number], new[begin:end], weight[begin:end])  # times 1: as they are
        most = np.int32(0)
        for c in range(len(scores)):
            for number in range(len(mine)):
                _, _, _, _, _, _, _, place, voxel, opens, closes = mine[number]
                begin, end = begins[number], begins[number + 1]
                value = new[begin:end]
                if place == NOWHERE:
                    _weigh(of_class[c], weights.shape, mine[number], weight[begin:end], value)
                else:
                    kept = sums[place, c, voxel : voxel + end - begin]
                    _weigh(of_class[c], weights.shape, mine[number], weight[begin:end], kept if opens else value)
                    if closes:
                        _increase(value, kept)
                    elif not opens:
                        _increase(kept, value)
                if closes:
                    most = max(most, _compare(value, np.int32(c), highest[begin:end], best[begin:end]))
        wrong += bool(most >= NOT_FINITE)
        for number in range(len(mine)):
            i, j, k, depth, length, row_from, row_to, _, _, _, closes = mine[number]
            if closes:
                for row in range(row_from, row_to):
                    begin = begins[number] + (row - row_from) * length
                    x, y = corner[0] + i + row // depth, corner[1] + j + row % depth
                    for z in range(length):
                        out[x, y, corner[2] + k + z] = np.uint8(best[begin + z])
    return wrong == 0


# Each loop has few arrays, so that the compiler can tell quickly that they do not overlap.


@numba.njit(cache=True, nogil=True)
def _weigh(
    values: NDArray[np.float32],
    shape: tuple[int, ...],
    block: NDArray[np.int64],
    weight: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """A block's values times their weights, one after the other. ``values``: a window's as one line; ``shape``: of the
    window.
    """
    i, j, k, depth, length, row_from, row_to, _, _, _, _ = block
    y = row_from % depth  # counted on: to divide for each row takes longer than the row
    begin = ((i + row_from // depth) * shape[1] + j + y) * shape[2] + k
    for row in range(row_to - row_from):
        line, of_row = values[begin : begin + length], slice(row * length, (row + 1) * length)
        by, to = weight[of_row], out[of_row]
        for z in range(length):
            to[z] = line[z] * by[z]
        y += 1
        begin += shape[2]
        if y == depth:
            y = 0
            begin += (shape[1] - depth) * shape[2]


@numba.njit(cache=True, nogil=True)
def _increase(values: NDArray[np.float32], by: NDArray[np.float32]) -> None:
    for z in range(len(values)):
        values[z] += by[z]


@numba.njit(cache=True, nogil=True)
def _compare(
    values: NDArray[np.float32], label: np.int32, highest: NDArray[np.float32], best: NDArray[np.int32]
) -> np.int32:
    """Note the label where a value is higher than what was before. Gives the bits of the largest magnitude, as a whole
    number, since that is found many at a time; ``NOT_FINITE`` or more, unless all are finite.
    """
    bits, most = values.view(np.int32), np.int32(0)
    for z in range(len(values)):
        most = max(most, bits[z] & MAGNITUDE)
        larger = values[z] > highest[z]
        highest[z] = values[z] if larger else highest[z]
        best[z] = label if larger else best[z]
    return most

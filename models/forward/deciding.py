"""The class of each voxel from the scores of overlapping windows, decided as soon as no further window reaches it.

Only what waits for a further window is kept, and for 100 classes that is still most of a worker's memory. So windows
have an order in which little waits, and what waits lies in slots of one size, which are used again and again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from coread.kernels.summing import NOWHERE, Block, add_weighted

SLOT = 1152
"""Voxels whose sums are kept together: rows of 24, 48, 72, 96 and 128 voxels leave no rest."""
ROWS = 112
"""Of a window, computed together: of one class, some kB in a row."""

PLANS_KEPT = 8

Three = tuple[int, int, int]
"""A number for each axis."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """An image, divided into boxes that are each reached by the same windows throughout.

    Windows and boxes are numbered along each axis.
    """

    window: Three
    """Voxels along each axis."""
    starts: tuple[tuple[int, ...], ...]
    """Of each axis, where windows start, ascending. There is a window at each combination."""
    axes: tuple[int, ...]
    """In the order in which the windows take their turns along them, the outermost first."""

    @property
    def slot(self) -> int:
        """Voxels that a slot has room for: of some rows of a box, along the last axis."""
        return max(SLOT, self.window[-1])

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Of each axis, where boxes begin and the last one ends."""
        return tuple(
            tuple(sorted({*starts, *(start + length for start in starts)}))
            for starts, length in zip(self.starts, self.window, strict=True)
        )

    @cached_property
    def order(self) -> tuple[Three, ...]:
        """The windows, in turn. The last two along an axis often share far more than others do, as the last one ends
        where the image does: those two take turns, whatever the other axes.
        """
        turns = [_turns(starts, length) for starts, length in zip(self.starts, self.window, strict=True)]
        along_i, along_j, along_k = (range(len(starts)) for starts in self.starts)
        windows = product(along_i, along_j, along_k)
        return tuple(
            sorted(
                windows,
                key=lambda each: ([turns[axis][each[axis]] for axis in self.axes], [each[axis] for axis in self.axes]),
            )
        )

    def corner(self, window: Three) -> Three:
        """Where a window begins."""
        (i, j, k), (along_i, along_j, along_k) = window, self.starts
        return along_i[i], along_j[j], along_k[k]

    def size(self, box: Three) -> Three:
        """Voxels of a box along each axis."""
        (i, j, k), (along_i, along_j, along_k) = box, self.edges
        return along_i[i + 1] - along_i[i], along_j[j + 1] - along_j[j], along_k[k + 1] - along_k[k]

    def boxes_of(self, axis: int, number: int) -> range:
        """The boxes that a window reaches along an axis."""
        edges, start = self.edges[axis], self.starts[axis][number]
        return range(edges.index(start), edges.index(start + self.window[axis]))

    @cached_property
    def opened(self) -> NDArray[np.int64]:
        """Of each box, the turn of the first window that reaches it."""
        return self._over_windows(np.minimum)

    @cached_property
    def closed(self) -> NDArray[np.int64]:
        """Of each box, the turn of the last window that reaches it."""
        return self._over_windows(np.maximum)

    def slots(self) -> int:
        """How many are in use at once."""
        *others, lengths = [np.diff(edges) for edges in self.edges]
        rows = reduce(np.multiply.outer, others)
        needed = -(-rows[..., None] // (self.slot // lengths))
        change = np.zeros(len(self.order) + 1, np.int64)
        waiting = self.opened < self.closed
        np.add.at(change, self.opened[waiting], needed[waiting])
        np.subtract.at(change, self.closed[waiting] + 1, needed[waiting])
        return int(change.cumsum().max())

    def _over_windows(self, least_or_most: np.ufunc) -> NDArray[np.int64]:
        found = np.empty([len(starts) for starts in self.starts], np.int64)
        for turn, window in enumerate(self.order):
            found[window] = turn
        for axis, starts in enumerate(self.starts):
            reached = [self.boxes_of(axis, number) for number in range(len(starts))]
            of_box = [
                [number for number, boxes in enumerate(reached) if box in boxes]
                for box in range(len(self.edges[axis]) - 1)
            ]
            found = np.stack([least_or_most.reduce(found.take(some, axis), axis=axis) for some in of_box], axis=axis)
        return found


@lru_cache(maxsize=PLANS_KEPT)
def division_of(window: Three, starts: tuple[tuple[int, ...], ...]) -> Division:
    """The one that needs the fewest slots."""
    ways = [Division(window=window, starts=starts, axes=axes) for axes in permutations(range(3))]
    return min(ways, key=Division.slots)


class Deciding:
    """Weighted scores of windows, kept where they wait for others, and the classes that come of them."""

    def __init__(self, division: Division, *, weights: NDArray[np.float32]) -> None:
        """``weights``: how much each voxel of a window counts. Raises ValueError if one does not."""
        if not (weights > 0).all():
            raise ValueError("expected weights above 0, found others")
        self._division, self._weights = division, np.ascontiguousarray(weights)
        self._turn = 0
        self._free = list(range(division.slots()))
        self._places: dict[Three, list[int]] = {}
        """Box → the slots that its sums are kept in."""
        self._sums: NDArray[np.float32] | None = None
        self.classes = np.empty([edges[-1] for edges in division.edges], np.uint8)
        """Of each voxel, once all windows were added."""

    def add(self, scores: NDArray[np.float32]) -> None:
        """``scores``: (class, i, j, k) of the next window of the division's order. Raises as ``add_weighted`` does."""
        division, turn = self._division, self._turn
        if self._sums is None:  # its pages are taken as they are written to
            self._sums = np.empty((len(self._free), len(scores), division.slot), np.float32)
        window = division.order[turn]
        corner = division.corner(window)
        groups = [group for boxes in self._columns(window) for group in self._groups(boxes, corner)]
        ends = np.cumsum([0, *map(len, groups)])
        blocks = np.array([block for group in groups for block in group], np.int64)
        add_weighted(scores, self._weights, blocks, ends, sums=self._sums, out=self.classes, corner=corner)
        for boxes in self._columns(window):
            for box in boxes:
                if division.closed[box] == turn:
                    self._free.extend(self._places.pop(box, []))
        self._turn += 1

    def _columns(self, window: Three) -> Iterator[list[Three]]:
        """The boxes of a window, those together that differ in the last axis only."""
        along_i, along_j, along_k = (self._division.boxes_of(axis, number) for axis, number in enumerate(window))
        for i, j in product(along_i, along_j):
            yield [(i, j, k) for k in along_k]

    def _groups(self, boxes: Sequence[Three], corner: Three) -> Iterator[list[Block]]:
        """What is done with the boxes of a column, some rows of all of them at a time."""
        division = self._division
        lows = [[edges[n] - at for edges, n, at in zip(division.edges, box, corner, strict=True)] for box in boxes]
        (width, depth, _), *_ = sizes = [division.size(box) for box in boxes]
        for box, (*_, length) in zip(boxes, sizes, strict=True):
            if division.opened[box] == self._turn < division.closed[box]:
                self._places[box] = [self._free.pop() for _ in range(0, width * depth, division.slot // length)]
        for first in range(0, width * depth, ROWS):
            group = []
            for box, (i, j, k), (*_, length) in zip(boxes, lows, sizes, strict=True):
                opens, closes = int(division.opened[box] == self._turn), int(division.closed[box] == self._turn)
                places, together = self._places.get(box), division.slot // length
                row, end = first, min(first + ROWS, width * depth)
                while row < end:
                    number, before = divmod(row, together)
                    stop = min(end, row - before + together) if places else end
                    place = places[number] if places else NOWHERE
                    group.append(Block(i, j, k, depth, length, row, stop, place, before * length, opens, closes))
                    row = stop
            yield group


def _turns(starts: Sequence[int], window: int) -> list[int]:
    """When each window along an axis has its turn."""
    pair = len(starts) > 1 and 2 * (starts[-1] - starts[-2]) < window
    return [min(at, len(starts) - 2) if pair else at for at in range(len(starts))]

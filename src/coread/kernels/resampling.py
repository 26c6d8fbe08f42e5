"""Resampling of volumes, and what is measured and scaled on the way, each voxel touched as few times as can be.

Axes: an array's own, whatever they are called by its caller; nothing here knows of patients. Places along an axis are
indices, in voxels, whole numbers being voxel centres; what maps the places of a result to those of its source is given
by the caller. Interpolation is trilinear, with float32 weights, so that a value is within ``TOLERANCE`` of what MONAI
(torch's ``grid_sample``, which interpolates in float64) and SciPy (``ndimage.map_coordinates`` of order 1) give.

Arrays may be views, turned and flipped: they are walked in the order in which they lie in memory.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

TOLERANCE = 4e-7
"""Largest difference from interpolation in float64, in parts of the largest absolute value of the source."""

KINDS = (np.dtype(np.int16), np.dtype(np.uint16), np.dtype(np.uint8), np.dtype(np.float32))
"""Types of voxels that are read as they are; others are converted to float32 first. Each costs a compiled kernel."""

Padding = Literal["border", "zeros"]
"""What lies beyond the outermost voxels' centres: their own values, or 0. As torch's ``grid_sample`` has it."""

Activation = Literal["softmax"]

LINE = 16
"""Float32 numbers in a line of the processor's cache."""
BYTES_OF_LINE = 64

MIXED = np.int16(-1)
"""No label: the corners around a place differ in it."""

MOST_CLASSES = 255


class Axis(NamedTuple):
    """Where each index of a result lies along one axis of the source: between two voxels."""

    low: NDArray[np.int32]
    high: NDArray[np.int32]
    """The same as ``low`` where that counts alone."""
    part: NDArray[np.float32]
    """How far it lies from ``low`` towards ``high``, 0 to 1."""
    gain: NDArray[np.float32]
    """How much of it lies inside, where all beyond is 0: 1, or less."""
    places: NDArray[np.float64]
    """The same in float64, in voxels."""


class Statistics(NamedTuple):
    """Of a volume's voxels, computed in float64."""

    voxels: int
    mean: float
    deviation: float
    """Standard deviation of the population."""
    lowest: float
    highest: float


def axis_of(
    places: NDArray[np.float64], size: int, *, padding: Padding = "border", start: int = 0, whole: int | None = None
) -> Axis:
    """``places``: of each index of the result, along an axis of ``size`` voxels.

    The source may be a part of something larger that is 0 elsewhere: then it begins at ``start`` of ``whole`` voxels,
    and places are those of the whole.
    """
    whole = size if whole is None else whole
    places = np.asarray(places, np.float64)
    if padding == "border":
        places = places.clip(0, whole - 1)
    low = np.floor(places)
    part = places - low
    inside = [
        (weight > 0) & (index >= max(start, 0)) & (index < min(start + size, whole))
        for index, weight in ((low, 1 - part), (low + 1, part))
    ]
    both = inside[0] & inside[1]
    first = np.where(inside[0], low, low + 1) - start
    second = np.where(inside[1], low + 1, low) - start
    neither = ~(inside[0] | inside[1])
    return Axis(
        low=np.where(neither, 0, first).astype(np.int32),
        high=np.where(neither, 0, second).astype(np.int32),
        part=np.where(both, part, 0).astype(np.float32),
        gain=np.where(both, 1, np.where(inside[0], 1 - part, np.where(inside[1], part, 0))).astype(np.float32),
        places=places - start,
    )


class Scale(NamedTuple):
    """What is done to a value: ``minus`` is taken away, the rest multiplied by ``times``, and ``plus`` added, within
    bounds. In this order what is ``minus`` becomes ``plus`` exactly. NaN stays NaN.
    """

    minus: float = 0.0
    times: float = 1.0
    plus: float = 0.0
    lowest: float = -np.inf
    highest: float = np.inf


AS_IT_IS = Scale()
ABOUT = 1e-5
"""Relative to the largest value: so far from a value that counts exactly, others are computed in float64."""


def resample(
    values: NDArray[Any],
    axes: Sequence[Axis],
    *,
    out: NDArray[np.float32] | None = None,
    scale: Scale = AS_IT_IS,
    exact: float | None = None,
) -> NDArray[np.float32]:
    """``values`` (i, j, k) of any real type at the places of ``axes``, one for each of its axes, interpolated
    trilinearly, and scaled.

    ``out``: where to put it, if not into a new array (C order). ``exact``: a value that something hangs on, before it
    is scaled: whether others are above, below or equal is decided in float64, as torch does it (the order of its sums,
    too).
    """
    shape = tuple(len(axis.low) for axis in axes)
    if out is None:
        out = np.empty(shape, np.float32)
    source, order, turned = _as_it_lies(_real(values))
    a, b, c = (_turned(axes[axis], values.shape[axis], flip=turned[axis]) for axis in order)
    flat, begin, strides = _flat(out)
    steps = (strides[order[0]], strides[order[1]], strides[order[2]])
    about = np.float32(0 if exact is None else exact)
    away = np.float32(-1 if exact is None else ABOUT * max(abs(exact), 1.0))
    _resample(source, a, b, c, flat, begin, steps, _tile(steps), _as_single(scale), about, away)
    return out


def resample_oblique(
    values: NDArray[Any],
    matrix: NDArray[np.float64],
    *,
    out: NDArray[np.float32],
    padding: Padding = "border",
    scale: Scale = AS_IT_IS,
) -> NDArray[np.float32]:
    """As ``resample``, where axes of the result run askew through the source. ``matrix`` (4, 4) leads from indices of
    ``out`` to places in ``values``. All is computed in float64.
    """
    source, order, turned = _as_it_lies(_real(values))
    rows = np.array(matrix[:3], np.float64)
    for axis in range(3):
        if turned[axis]:
            rows[axis] = -rows[axis]
            rows[axis, 3] += values.shape[axis] - 1
    rows = np.ascontiguousarray(rows[list(order)])
    flat, begin, strides = _flat(out)
    _resample_oblique(source, rows, flat, begin, strides, out.shape, padding == "border", _as_single(scale))
    return out


def nearest(
    labels: NDArray[np.uint8], indices: Sequence[NDArray[np.int64]], *, out: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """``labels`` (i, j, k) at whole indices, a list for each axis; an index below 0 is beside them, and gives 0."""
    source, order, turned = _as_it_lies(labels)
    wanted = []
    for axis in order:
        index = indices[axis]
        if turned[axis]:
            index = np.where(index < 0, -1, labels.shape[axis] - 1 - index)
        wanted.append(np.ascontiguousarray(index, np.int32))
    a, b, c = wanted
    flat, begin, strides = _flat(out)
    steps = (strides[order[0]], strides[order[1]], strides[order[2]])
    _nearest(source, a, b, c, flat, begin, steps, _tile(steps, BYTES_OF_LINE))
    return out


def nearest_askew(
    labels: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    *,
    out: NDArray[np.uint8],
    padding: Padding = "border",
    start: Sequence[int] = (0, 0, 0),
    whole: Sequence[int] | None = None,
) -> NDArray[np.uint8]:
    """``labels`` (i, j, k) nearest to where ``matrix`` (4, 4) leads from indices of ``out``; halves go to the even one,
    as in torch. ``start``, ``whole``: as ``axis_of`` has them, by axis.
    """
    flat, begin, strides = _flat(out)
    _nearest_askew(
        _writable(np.ascontiguousarray(labels)),
        np.ascontiguousarray(matrix[:3], np.float64),
        np.array([start, labels.shape if whole is None else whole], np.int64),
        flat,
        begin,
        strides,
        out.shape,
        padding == "border",
    )
    return out


def labels_askew(
    scores: NDArray[np.float32],
    matrix: NDArray[np.float64],
    *,
    out: NDArray[np.uint8],
    padding: Padding = "border",
    activation: Activation | None = None,
) -> NDArray[np.uint8]:
    """As ``labels_of_scores``, where axes of the result run askew through the scores. ``matrix`` (4, 4) leads from
    indices of ``out`` to places in ``scores`` (class, i, j, k).
    """
    best = np.empty(scores.shape[1:], np.uint8)
    largest(scores, out=best)
    row_of, count = _numbered(best)
    table = np.empty((count, len(scores)), np.float32)
    of_scores = _flat(scores)
    _collect(row_of, table, activation == "softmax", -1, of_scores, of_scores)
    into, into_begin, into_strides = _flat(out)
    rows = np.ascontiguousarray(matrix[:3], np.float64)
    _write_labels_askew(best, row_of, table, rows, padding == "border", into, into_begin, into_strides, out.shape)
    return out


def largest(scores: NDArray[np.float32], *, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The class with the largest of ``scores`` (class, i, j, k) for each voxel; the first, if several are.

    Raises ValueError if a score is not finite, or there are more classes than ``MOST_CLASSES``.
    """
    if len(scores) > MOST_CLASSES:
        raise ValueError(f"expected at most {MOST_CLASSES} classes, found {len(scores)}")
    flat, begin, strides = _flat(scores)
    into, into_begin, into_strides = _flat(out)
    shape = (scores.shape[0], scores.shape[1], scores.shape[2], scores.shape[3])
    steps = (strides[0], strides[1], strides[2], strides[3])
    to = (into_strides[0], into_strides[1], into_strides[2])
    if not _largest(flat, begin, steps, shape, into, into_begin, to, _tile(to, BYTES_OF_LINE)):
        raise ValueError("expected finite scores, found NaN or infinity")
    return out


class LabelsByParts:
    """Labels on a grid, of scores on another that come part by part along their first axis.

    What is computed is: scores, made probabilities if an ``activation`` is named, interpolated trilinearly, the class
    with the largest; the first, if several are equally large. Where all corners around a place have the same largest
    class, it is that one, whatever their scores: convex combinations keep an order that all of them have. So only what
    lies between different classes is interpolated, and scores never exist at full size.
    """

    def __init__(
        self,
        shape: Sequence[int],
        axes: Sequence[Axis],
        *,
        out: NDArray[np.uint8],
        activation: Activation | None = None,
    ) -> None:
        """``shape``: of all scores, without classes; ``axes``: where each index of ``out`` lies in them; ``out``: where
        labels go, every voxel; 0 where nothing of the scores counts.
        """
        if tuple(len(axis.low) for axis in axes) != out.shape:
            raise ValueError(f"expected places for each index of a result of shape {out.shape}")
        self._axes, self._out, self._softmax = list(axes), out, activation == "softmax"
        self._order = _order_of(out)
        """The scores' axes in the order in which the result lies in memory."""
        self._back = tuple(int(axis) for axis in np.argsort(self._order))
        self._best = np.empty([shape[axis] for axis in self._order], np.uint8)
        self._done = 0
        self._last: NDArray[np.float32] | None = None
        first = self._axes[0]
        self._to_write = first.gain > 0
        out[~self._to_write] = 0

    def add(self, first: int, scores: NDArray[np.float32]) -> None:
        """``scores``: (class, n, j, k), of the planes from ``first`` on. Raises ValueError if they are not the next
        ones, are not finite, or are of too many classes.
        """
        best = self._best.transpose(self._back)  # with the scores' axes
        end = first + scores.shape[1]
        if first != self._done or end > len(best) or scores.shape[2:] != best.shape[1:]:
            raise ValueError(f"expected scores from plane {self._done} on, found {scores.shape} from {first} on")
        largest(scores, out=best[first:end])
        start = first if self._last is None else first - 1
        before = scores[:, :1] if self._last is None else self._last
        self._write(start, end, scores, before)
        self._done = end
        self._last = np.array(scores[:, -1:]) if end < len(best) else None

    def _write(self, start: int, end: int, scores: NDArray[np.float32], before: NDArray[np.float32]) -> None:
        """What lies between the planes ``start``, of which ``before`` has the scores, and ``end``."""
        first = self._axes[0]
        ready = np.flatnonzero(self._to_write & (first.low >= start) & (first.high < end))
        if not len(ready):
            return
        written = slice(int(ready[0]), int(ready[-1]) + 1)
        self._to_write[written] = False
        part = Axis(
            low=first.low[written] - np.int32(start),
            high=first.high[written] - np.int32(start),
            part=first.part[written],
            gain=first.gain[written],
            places=first.places[written],
        )
        best = np.ascontiguousarray(self._best.transpose(self._back)[start:end].transpose(self._order))
        row_of, count = _numbered(best)
        table = np.empty((count, len(scores)), np.float32)
        _collect(
            row_of,
            table,
            self._softmax,
            self._back[0] if scores.shape[1] < end - start else -1,
            self._in_order(scores, shift=scores.shape[1] - (end - start)),
            self._in_order(before, shift=0),
        )
        a, b, c = (part if axis == 0 else self._axes[axis] for axis in self._order)
        into, into_begin, into_strides = _flat(self._out[written].transpose(self._order))
        _write_labels(
            best, row_of, table, a, b, c, into, into_begin, (into_strides[0], into_strides[1], into_strides[2])
        )

    def _in_order(self, scores: NDArray[np.float32], *, shift: int) -> tuple[NDArray[np.float32], int, tuple[int, ...]]:
        """Where scores lie, with the steps along the axes of the result; counted from ``shift`` planes on."""
        flat, begin, strides = _flat(scores)
        i, j, k = (strides[1 + axis] for axis in self._order)
        return flat, begin + shift * strides[1], (strides[0], i, j, k)


def labels_of_scores(
    scores: NDArray[np.float32],
    axes: Sequence[Axis],
    *,
    out: NDArray[np.uint8],
    activation: Activation | None = None,
) -> NDArray[np.uint8]:
    """``LabelsByParts`` of all ``scores`` (class, i, j, k) at once."""
    LabelsByParts(scores.shape[1:], axes, out=out, activation=activation).add(0, scores)
    return out


def statistics(values: NDArray[np.float32], *, nonzero: bool = False) -> Statistics:
    """Of all voxels, or of those that are not 0. The same whatever the number of threads. Of no voxels: NaN."""
    count, mean, squares, lowest, highest = _statistics(np.ascontiguousarray(values).reshape(-1), nonzero)
    deviation = float(np.sqrt(squares / count)) if count else float("nan")
    return Statistics(int(count), float(mean) if count else float("nan"), deviation, float(lowest), float(highest))


def percentiles(values: NDArray[np.float32], wanted: Sequence[float]) -> list[float]:
    """As ``numpy.percentile`` (linear between the two nearest), without sorting. Raises ValueError for no values, or
    any that is not finite.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if not flat.size:
        raise ValueError("expected values to take percentiles of, found none")
    ranks = [each / 100 * (flat.size - 1) for each in wanted]
    needed = sorted({int(rank) for rank in ranks} | {min(int(rank) + 1, flat.size - 1) for rank in ranks})
    found = dict(zip(needed, _order_statistics(flat, needed), strict=True))
    result = []
    for rank in ranks:
        low, high = found[int(rank)], found[min(int(rank) + 1, flat.size - 1)]
        result.append(low + (high - low) * (rank - int(rank)))
    return result


def scale_in_place(values: NDArray[np.float32], scale: Scale, *, nonzero: bool = False) -> None:
    """Scale ``values`` (C order); all, or those that are not 0."""
    _scale(values.reshape(-1), _as_single(scale), nonzero)


def box_above_zero(values: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The box around all values above 0 in (i, j, k): first index, and last plus one, of each axis. None if none is."""
    low, high = _box_above_zero(np.ascontiguousarray(values))
    return None if high[0] == 0 else (low, high)


def _order_statistics(flat: NDArray[np.float32], ranks: Sequence[int]) -> list[float]:
    """The values at these places of the sorted array, ascending: by a histogram, and a sort of a few of its bins."""
    _, mean, _, lowest, highest = _statistics(flat, False)
    if not np.isfinite([mean, lowest, highest]).all():
        raise ValueError("expected finite values, found NaN or infinity")
    if lowest == highest:
        return [float(lowest)] * len(ranks)
    counts = _histogram(flat, np.float32(lowest), np.float32(highest), BINS)
    before = np.concatenate([[0], np.cumsum(counts)])
    found = []
    sorted_bins: dict[int, NDArray[np.float32]] = {}
    for rank in ranks:
        number = int(np.searchsorted(before, rank, side="right")) - 1
        if number not in sorted_bins:
            in_bin = _in_bin(flat, np.float32(lowest), np.float32(highest), BINS, number, int(counts[number]))
            sorted_bins[number] = np.sort(in_bin)
        found.append(float(sorted_bins[number][rank - before[number]]))
    return found


BINS = 1 << 14
"""Of the histogram that percentiles are found by: few enough to stay in the processor's cache."""


def _real(values: NDArray[Any]) -> NDArray[Any]:
    """As a type that kernels are compiled for."""
    if values.dtype.newbyteorder("=") in KINDS:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    return values.astype(np.float32)


def _order_of(view: NDArray[Any]) -> tuple[int, ...]:
    """The axes from the slowest to the fastest in memory."""
    return tuple(sorted(range(view.ndim), key=lambda axis: -abs(view.strides[axis])))


def _as_it_lies(view: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, ...], tuple[bool, ...]]:
    """The array in C order that is behind a view, without a copy where there is one; the view's axes in the order of
    the array's; and which of the view's run backwards.
    """
    order = _order_of(view)
    turned = tuple(step < 0 for step in view.strides)
    straight = view[tuple(slice(None, None, -1) if back else slice(None) for back in turned)].transpose(order)
    return _writable(np.ascontiguousarray(straight)), order, turned


def _turned(axis: Axis, size: int, *, flip: bool) -> Axis:
    """The same places, counted from the other end."""
    if not flip:
        return axis
    return axis._replace(
        low=np.int32(size - 1) - axis.low, high=np.int32(size - 1) - axis.high, places=size - 1 - axis.places
    )


def _as_single(scale: Scale) -> tuple[np.float32, ...]:
    minus, times, plus, lowest, highest = map(np.float32, scale)
    return minus, times, plus, lowest, highest


class _Alias:
    """Lends an array's memory as one that may be written to, for a kernel that does not."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (array.__array_interface__["data"][0], False),
        }


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory: numba compiles a kernel anew for an array that may not be written to."""
    return array if array.flags.writeable else np.asarray(_Alias(array))


def _flat(view: NDArray[Any]) -> tuple[NDArray[Any], int, tuple[int, ...]]:
    """The memory that a view spans as one line, where in it the view's first voxel is, and its steps in voxels: one
    type of argument for a kernel, however the view is turned.
    """
    strides = tuple(step // view.itemsize for step in view.strides)
    spans = [(size - 1) * step for size, step in zip(view.shape, strides, strict=True)]
    straight = view[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in strides)]
    length = sum(abs(span) for span in spans) + 1
    line = np.lib.stride_tricks.as_strided(_writable(straight), shape=(length,), strides=(view.itemsize,))
    return line, -sum(span for span in spans if span < 0), strides


def _tile(strides: Sequence[int], line: int = LINE) -> tuple[int, ...]:
    """How many lines of the first two axes are to be computed together, so that whole lines of the cache are written:
    the axis that is fastest in the result may not be the one that is fastest in the source.
    """
    fastest = min(range(3), key=lambda axis: abs(strides[axis]))
    return (line if fastest == 0 else 1, line if fastest == 1 else 1)


@numba.njit(cache=True, nogil=True, inline="always")
def _in_double(values: NDArray[Any], x: float, y: float, z: float) -> float:
    """Interpolated as torch's ``grid_sample`` does it."""
    sizes = values.shape
    i, j, k = np.int64(np.floor(x)), np.int64(np.floor(y)), np.int64(np.floor(z))
    total = 0.0
    for corner in range(8):
        u, v, w = corner >> 2, corner >> 1 & 1, corner & 1
        inside = 0 <= i + u < sizes[0] and 0 <= j + v < sizes[1] and 0 <= k + w < sizes[2]
        weight = (x - i if u else i + 1 - x) * (y - j if v else j + 1 - y) * (z - k if w else k + 1 - z)
        if inside and weight != 0:
            total += values[i + u, j + v, k + w] * weight
    return total


@numba.njit(cache=True, nogil=True, inline="always")
def _scaled(value: np.float32, scale: tuple[np.float32, ...]) -> np.float32:
    value = (value - scale[0]) * scale[1] + scale[2]
    value = scale[3] if value < scale[3] else value
    return scale[4] if value > scale[4] else value


@numba.njit(cache=True, parallel=True, nogil=True, fastmath={"contract"})
def _resample(
    values: NDArray[Any],
    a: Axis,
    b: Axis,
    c: Axis,
    out: NDArray[np.float32],
    begin: int,
    strides: tuple[int, ...],
    tile: tuple[int, ...],
    scale: tuple[np.float32, ...],
    about: np.float32,
    away: np.float32,
) -> None:
    n0, n1, n2 = len(a.low), len(b.low), len(c.low)
    across = (n1 + tile[1] - 1) // tile[1]
    first = min(c.low.min(), c.high.min())
    last = max(c.low.max(), c.high.max()) + 1
    for number in numba.prange((n0 + tile[0] - 1) // tile[0] * across):
        from0, from1 = number // across * tile[0], number % across * tile[1]
        to0, to1 = min(from0 + tile[0], n0), min(from1 + tile[1], n1)
        row = np.empty(values.shape[2], np.float32)
        lines = np.empty(((to0 - from0) * (to1 - from1), n2), np.float32)
        line = 0
        for i in range(from0, to0):
            for j in range(from1, to1):
                u, v, gain = a.part[i], b.part[j], a.gain[i] * b.gain[j]
                r00, r01 = values[a.low[i], b.low[j]], values[a.low[i], b.high[j]]
                r10, r11 = values[a.high[i], b.low[j]], values[a.high[i], b.high[j]]
                # What is between two equal values is that value: no weights that sum up to 1 but for rounding.
                if u == 0 and v == 0:
                    for k in range(first, last):
                        row[k] = np.float32(r00[k])
                elif u == 0 or v == 0:
                    other, w = (r01, v) if u == 0 else (r10, u)
                    for k in range(first, last):
                        near = np.float32(r00[k])
                        row[k] = near + w * (np.float32(other[k]) - near)
                else:
                    for k in range(first, last):
                        near, far = np.float32(r00[k]), np.float32(r10[k])
                        near += v * (np.float32(r01[k]) - near)
                        far += v * (np.float32(r11[k]) - far)
                        row[k] = near + u * (far - near)
                done = lines[line]
                for k in range(n2):
                    near = row[c.low[k]]
                    done[k] = (near + c.part[k] * (row[c.high[k]] - near)) * (gain * c.gain[k])
                if away >= 0:
                    for k in range(n2):
                        if abs(done[k] - about) <= away:
                            done[k] = np.float32(_in_double(values, a.places[i], b.places[j], c.places[k]))
                for k in range(n2):
                    done[k] = _scaled(done[k], scale)
                line += 1
        base = begin + from0 * strides[0] + from1 * strides[1]
        if tile[0] == 1 and tile[1] == 1:
            for k in range(n2):
                out[base + k * strides[2]] = lines[0, k]
        else:
            step = strides[0] if tile[0] > 1 else strides[1]
            for k in range(n2):
                for line in range(lines.shape[0]):
                    out[base + line * step + k * strides[2]] = lines[line, k]


@numba.njit(cache=True, parallel=True, nogil=True, fastmath={"contract"})
def _resample_oblique(
    values: NDArray[Any],
    rows: NDArray[np.float64],
    out: NDArray[np.float32],
    begin: int,
    strides: tuple[int, ...],
    shape: tuple[int, ...],
    border: bool,
    scale: tuple[np.float32, ...],
) -> None:
    sizes = values.shape
    for number in numba.prange(shape[0] * shape[1]):
        i, j = number // shape[1], number % shape[1]
        at = np.empty(3, np.float64)
        base = begin + i * strides[0] + j * strides[1]
        for k in range(shape[2]):
            for axis in range(3):
                place = rows[axis, 0] * i + rows[axis, 1] * j + rows[axis, 2] * k + rows[axis, 3]
                reach = 0.0 if border else 2.0  # further away is as far as that
                at[axis] = min(max(place, -reach), sizes[axis] - 1.0 + reach)
            value = np.float32(_in_double(values, at[0], at[1], at[2]))
            out[base + k * strides[2]] = _scaled(value, scale)


@numba.njit(cache=True, parallel=True, nogil=True)
def _nearest(
    labels: NDArray[np.uint8],
    a: NDArray[np.int32],
    b: NDArray[np.int32],
    c: NDArray[np.int32],
    out: NDArray[np.uint8],
    begin: int,
    strides: tuple[int, ...],
    tile: tuple[int, ...],
) -> None:
    n0, n1, n2 = len(a), len(b), len(c)
    across = (n1 + tile[1] - 1) // tile[1]
    for number in numba.prange((n0 + tile[0] - 1) // tile[0] * across):
        from0, from1 = number // across * tile[0], number % across * tile[1]
        to0, to1 = min(from0 + tile[0], n0), min(from1 + tile[1], n1)
        lines = np.zeros(((to0 - from0) * (to1 - from1), n2), np.uint8)
        line = 0
        for i in range(from0, to0):
            for j in range(from1, to1):
                if a[i] >= 0 and b[j] >= 0:
                    row = labels[a[i], b[j]]
                    for k in range(n2):
                        if c[k] >= 0:
                            lines[line, k] = row[c[k]]
                line += 1
        base = begin + from0 * strides[0] + from1 * strides[1]
        step = strides[0] if tile[0] > 1 else strides[1]
        for k in range(n2):
            for line in range(lines.shape[0]):
                out[base + line * step + k * strides[2]] = lines[line, k]


@numba.njit(cache=True, parallel=True, nogil=True)
def _nearest_askew(
    labels: NDArray[np.uint8],
    rows: NDArray[np.float64],
    lies: NDArray[np.int64],
    out: NDArray[np.uint8],
    begin: int,
    strides: tuple[int, ...],
    shape: tuple[int, ...],
    border: bool,
) -> None:
    sizes = labels.shape
    for number in numba.prange(shape[0] * shape[1]):
        i, j = number // shape[1], number % shape[1]
        at = np.empty(3, np.int64)
        base = begin + i * strides[0] + j * strides[1]
        for k in range(shape[2]):
            inside = True
            for axis in range(3):
                place = rows[axis, 0] * i + rows[axis, 1] * j + rows[axis, 2] * k + rows[axis, 3]
                last = lies[1, axis] - 1.0
                reach = 0.0 if border else 2.0
                place = np.rint(min(max(place, -reach), last + reach))
                at[axis] = np.int64(place) - lies[0, axis]
                inside &= 0 <= at[axis] < sizes[axis] and 0 <= place <= last
            out[base + k * strides[2]] = labels[at[0], at[1], at[2]] if inside else 0


@numba.njit(cache=True, parallel=True, nogil=True)
def _largest(
    scores: NDArray[np.float32],
    begin: int,
    steps: tuple[int, ...],
    shape: tuple[int, ...],
    out: NDArray[np.uint8],
    into: int,
    strides: tuple[int, ...],
    tile: tuple[int, ...],
) -> bool:
    classes, n0, n1, n2 = shape
    across = (n1 + tile[1] - 1) // tile[1]
    wrong = 0
    for number in numba.prange((n0 + tile[0] - 1) // tile[0] * across):
        from0, from1 = number // across * tile[0], number % across * tile[1]
        to0, to1 = min(from0 + tile[0], n0), min(from1 + tile[1], n1)
        lines = np.empty(((to0 - from0) * (to1 - from1), n2), np.uint8)
        highest = np.empty(n2, np.float32)
        sums = np.zeros(n2, np.float32)
        line = 0
        for i in range(from0, to0):
            for j in range(from1, to1):
                best = lines[line]
                for c in range(classes):
                    base = begin + c * steps[0] + i * steps[1] + j * steps[2]
                    if steps[3] == 1:
                        row = scores[base : base + n2]
                    else:
                        row = scores[base : base + (n2 - 1) * steps[3] + 1 : steps[3]].copy()
                    for k in range(n2):
                        sums[k] += row[k] - row[k]  # 0, or NaN for what is not finite
                    if c == 0:
                        for k in range(n2):
                            highest[k] = row[k]
                            best[k] = 0
                    else:
                        for k in range(n2):
                            larger = row[k] > highest[k]
                            highest[k] = row[k] if larger else highest[k]
                            best[k] = np.uint8(c) if larger else best[k]
                line += 1
        for k in range(n2):
            wrong += sums[k] != 0
        base = into + from0 * strides[0] + from1 * strides[1]
        step = strides[0] if tile[0] > 1 else strides[1]
        for k in range(n2):
            for line in range(lines.shape[0]):
                out[base + line * step + k * strides[2]] = lines[line, k]
    return wrong == 0


@numba.njit(cache=True, parallel=True, nogil=True)
def _numbered(best: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Of each voxel that is a corner between different classes, its number; -1 of others. And how many there are."""
    n0, n1, n2 = best.shape
    numbers = np.empty(best.shape, np.int32)
    counts = np.zeros(n0 + 1, np.int64)
    for i in numba.prange(n0):
        low, high = np.empty(n2, np.uint8), np.empty(n2, np.uint8)
        count = 0
        for j in range(n1):
            low[:] = best[i, j]
            high[:] = best[i, j]
            for x in range(max(i - 1, 0), min(i + 1, n0 - 1) + 1):
                for y in range(max(j - 1, 0), min(j + 1, n1 - 1) + 1):
                    row = best[x, y]
                    for k in range(n2):
                        low[k] = min(low[k], row[k])
                        high[k] = max(high[k], row[k])
            marks = numbers[i, j]
            for k in range(n2):
                before, after = max(k - 1, 0), min(k + 1, n2 - 1)
                lowest = min(min(low[before], low[k]), low[after])
                highest = max(max(high[before], high[k]), high[after])
                differs = lowest != highest
                marks[k] = 0 if differs else -1
                count += differs
        counts[i + 1] = count
    for i in range(n0):
        counts[i + 1] += counts[i]
    for i in numba.prange(n0):
        number = counts[i]
        for j in range(n1):
            for k in range(n2):
                if numbers[i, j, k] == 0:
                    numbers[i, j, k] = number
                    number += 1
    return numbers, int(counts[n0])


@numba.njit(cache=True, parallel=True, nogil=True)
def _collect(
    row_of: NDArray[np.int32],
    table: NDArray[np.float32],
    softmax: bool,
    axis: int,
    now: tuple[NDArray[np.float32], int, tuple[int, ...]],
    before: tuple[NDArray[np.float32], int, tuple[int, ...]],
) -> None:
    """Fill the table: the scores of each numbered voxel, or their softmax. ``axis``: whose first plane's lie in
    ``before``; -1: none.
    """
    scores, begin, steps = now
    earlier, earlier_begin, earlier_steps = before
    classes = table.shape[1]
    for i in numba.prange(row_of.shape[0]):
        for j in range(row_of.shape[1]):
            for k in range(row_of.shape[2]):
                number = row_of[i, j, k]
                if number < 0:
                    continue
                row = table[number]
                if (axis == 0 and i == 0) or (axis == 1 and j == 0) or (axis == 2 and k == 0):
                    base = earlier_begin + i * earlier_steps[1] + j * earlier_steps[2] + k * earlier_steps[3]
                    for c in range(classes):
                        row[c] = earlier[base + c * earlier_steps[0]]
                else:
                    base = begin + i * steps[1] + j * steps[2] + k * steps[3]
                    for c in range(classes):
                        row[c] = scores[base + c * steps[0]]
                if softmax:
                    highest = row[0]
                    for c in range(1, classes):
                        highest = max(highest, row[c])
                    total = np.float32(0)
                    for c in range(classes):
                        row[c] = np.exp(row[c] - highest)
                        total += row[c]
                    for c in range(classes):
                        row[c] /= total


@numba.njit(cache=True, parallel=True, nogil=True, fastmath={"contract"})
def _write_labels(
    best: NDArray[np.uint8],
    row_of: NDArray[np.int32],
    table: NDArray[np.float32],
    a: Axis,
    b: Axis,
    c: Axis,
    out: NDArray[np.uint8],
    begin: int,
    strides: tuple[int, ...],
) -> None:
    n0, n1, n2 = len(a.low), len(b.low), len(c.low)
    width, classes = best.shape[2], table.shape[1]
    for number in numba.prange(n0 * n1):
        i, j = number // n1, number % n1
        base = begin + i * strides[0] + j * strides[1]
        if a.gain[i] == 0 or b.gain[j] == 0:
            for k in range(n2):
                out[base + k * strides[2]] = 0
            continue
        rows = ((a.low[i], b.low[j]), (a.low[i], b.high[j]), (a.high[i], b.low[j]), (a.high[i], b.high[j]))
        one, u, v = np.float32(1), a.part[i], b.part[j]
        weights = ((one - u) * (one - v), (one - u) * v, u * (one - v), u * v)
        same = np.empty(width, np.int16)  # the class of all four rows, or MIXED
        r00, r01 = best[a.low[i], b.low[j]], best[a.low[i], b.high[j]]
        r10, r11 = best[a.high[i], b.low[j]], best[a.high[i], b.high[j]]
        for k in range(width):
            first = r00[k]
            all_same = (r01[k] == first) & (r10[k] == first) & (r11[k] == first)
            same[k] = np.int16(first) if all_same else MIXED
        total = np.empty(classes, np.float32)
        for k in range(n2):
            label = same[c.low[k]]
            if label == MIXED or same[c.high[k]] != label:
                total[:] = 0
                for x in range(4):
                    for y in range(2):
                        weight = weights[x] * (c.part[k] if y else one - c.part[k])
                        if weight > 0:
                            row = table[row_of[rows[x][0], rows[x][1], c.high[k] if y else c.low[k]]]
                            for each in range(classes):
                                total[each] += weight * row[each]
                label = np.int16(0)
                for each in range(1, classes):
                    if total[each] > total[label]:
                        label = np.int16(each)
            if c.gain[k] == 0:
                label = np.int16(0)
            out[base + k * strides[2]] = np.uint8(label)


@numba.njit(cache=True, parallel=True, nogil=True, fastmath={"contract"})
def _write_labels_askew(
    best: NDArray[np.uint8],
    row_of: NDArray[np.int32],
    table: NDArray[np.float32],
    rows: NDArray[np.float64],
    border: bool,
    out: NDArray[np.uint8],
    begin: int,
    strides: tuple[int, ...],
    shape: tuple[int, ...],
) -> None:
    sizes, classes = best.shape, table.shape[1]
    for number in numba.prange(shape[0] * shape[1]):
        i, j = number // shape[1], number % shape[1]
        low, high = np.empty(3, np.int64), np.empty(3, np.int64)
        weights = np.empty((3, 2), np.float64)
        total = np.empty(classes, np.float64)
        base = begin + i * strides[0] + j * strides[1]
        for k in range(shape[2]):
            for axis in range(3):
                place = rows[axis, 0] * i + rows[axis, 1] * j + rows[axis, 2] * k + rows[axis, 3]
                last = sizes[axis] - 1
                reach = 0.0 if border else 2.0
                place = min(max(place, -reach), last + reach)
                below = np.int64(np.floor(place))
                part = place - below
                weights[axis, 0] = 1 - part if 0 <= below <= last else 0.0
                weights[axis, 1] = part if 0 <= below + 1 <= last else 0.0
                low[axis], high[axis] = min(max(below, 0), last), min(max(below + 1, 0), last)
            total[:] = 0
            label, counted, same = np.uint8(0), 0, True
            for corner in range(8):
                x, y, z = corner >> 2, corner >> 1 & 1, corner & 1
                weight = weights[0, x] * weights[1, y] * weights[2, z]
                if weight > 0:
                    found = best[high[0] if x else low[0], high[1] if y else low[1], high[2] if z else low[2]]
                    same &= counted == 0 or found == label
                    label = found if counted == 0 else label
                    counted += 1
            if not same:
                for corner in range(8):
                    x, y, z = corner >> 2, corner >> 1 & 1, corner & 1
                    weight = weights[0, x] * weights[1, y] * weights[2, z]
                    if weight > 0:
                        row = table[
                            row_of[high[0] if x else low[0], high[1] if y else low[1], high[2] if z else low[2]]
                        ]
                        for each in range(classes):
                            total[each] += weight * row[each]
                label = np.uint8(0)
                for each in range(1, classes):
                    if total[each] > total[label]:
                        label = np.uint8(each)
            out[base + k * strides[2]] = label


@numba.njit(cache=True, parallel=True, nogil=True)
def _statistics(flat: NDArray[np.float32], nonzero: bool) -> tuple[int, float, float, float, float]:
    """Count, mean, sum of squared distances from it, least, largest: of blocks of a fixed size, joined in order."""
    size = 1 << 16
    blocks = (len(flat) + size - 1) // size
    found = np.zeros((blocks, 3))
    low, high = np.full(blocks, np.inf, np.float32), np.full(blocks, -np.inf, np.float32)
    for block in numba.prange(blocks):
        part = flat[block * size : (block + 1) * size]
        origin = np.float64(part[0])
        count, total, squares = 0, 0.0, 0.0
        lowest, highest = np.float32(np.inf), np.float32(-np.inf)
        for value in part:
            if nonzero and value == 0:
                continue
            away = value - origin
            count += 1
            total += away
            squares += away * away
            lowest = min(lowest, value)
            highest = max(highest, value)
        found[block, 0] = count
        if count:
            found[block, 1] = origin + total / count
            found[block, 2] = squares - total * total / count
        low[block], high[block] = lowest, highest
    total_count, mean, squares = 0.0, 0.0, 0.0
    for block in range(blocks):
        more = found[block, 0]
        if more:
            away = found[block, 1] - mean
            squares += found[block, 2] + away * away * total_count * more / (total_count + more)
            total_count += more
            mean += away * more / total_count
    return int(total_count), mean, squares, np.float64(low.min()), np.float64(high.max())


@numba.njit(cache=True, parallel=True, nogil=True)
def _histogram(flat: NDArray[np.float32], lowest: np.float32, highest: np.float32, bins: int) -> NDArray[np.int64]:
    blocks = 16
    size = (len(flat) + blocks - 1) // blocks
    counts = np.zeros((blocks, bins), np.int64)
    for block in numba.prange(blocks):
        mine = counts[block]
        for value in flat[block * size : (block + 1) * size]:
            mine[_bin(value, lowest, highest, bins)] += 1
    total = np.zeros(bins, np.int64)
    for block in range(blocks):
        total += counts[block]
    return total


@numba.njit(cache=True, nogil=True)
def _in_bin(
    flat: NDArray[np.float32], lowest: np.float32, highest: np.float32, bins: int, number: int, count: int
) -> NDArray[np.float32]:
    found = np.empty(count, np.float32)
    index = 0
    for value in flat:
        if _bin(value, lowest, highest, bins) == number:
            found[index] = value
            index += 1
    return found


@numba.njit(cache=True, nogil=True, inline="always")
def _bin(value: np.float32, lowest: np.float32, highest: np.float32, bins: int) -> int:
    part = (np.float64(value) - lowest) / (np.float64(highest) - lowest)
    return min(int(part * bins), bins - 1)


@numba.njit(cache=True, parallel=True, nogil=True, fastmath={"contract"})
def _scale(flat: NDArray[np.float32], scale: tuple[np.float32, ...], nonzero: bool) -> None:
    for index in numba.prange(len(flat)):
        value = flat[index]
        if not nonzero or value != 0:
            flat[index] = _scaled(value, scale)


@numba.njit(cache=True, parallel=True, nogil=True)
def _box_above_zero(values: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n0, n1, n2 = values.shape
    lows, highs = np.full((n0, 3), max(n0, n1, n2), np.int64), np.zeros((n0, 3), np.int64)
    for i in numba.prange(n0):
        for j in range(n1):
            row = values[i, j]
            first, last = n2, 0
            for k in range(n2):
                if row[k] > 0:
                    first = k
                    break
            if first == n2:
                continue
            for k in range(n2 - 1, -1, -1):
                if row[k] > 0:
                    last = k + 1
                    break
            lows[i, 0], highs[i, 0] = i, i + 1
            lows[i, 1], highs[i, 1] = min(lows[i, 1], j), j + 1
            lows[i, 2], highs[i, 2] = min(lows[i, 2], first), max(highs[i, 2], last)
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for axis in range(3):
        low[axis], high[axis] = lows[:, axis].min(), highs[:, axis].max()
    return low, high

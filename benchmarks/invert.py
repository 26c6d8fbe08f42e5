"""From scores on the network's grid to labels on the images' own grid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray

from coread.benchmarks.comparison import FLOOR, OURS, Absent, Result, Way, compare
from coread.benchmarks.ct_bundle import BACKGROUND, CERTAIN, postprocessing, preprocessing, scores_are_inverted
from coread.benchmarks.fused_chain import FusedChain
from coread.benchmarks.load import nothing
from coread.benchmarks.resample import grid_of
from coread.benchmarks.samples import Shape, ct_values, labels_of, volume_of
from coread.models.bundle.grid import ModelGrid
from coread.volume import Volume

SAME_LABELS = 0.999


def invert(folder: Path, *, labels: int, shape: Shape, repeats: int) -> Result:  # noqa: ARG001  # nothing is written
    """Few labels: scores are interpolated, then the highest wins. Many: labels are decided where the scores are, since
    nobody can hold them on the images' grid, and brought back.
    """
    on_source = labels_of(labels, shape)
    volume = volume_of(ct_values(on_source))
    said = what_a_network_says(on_source, labels)
    ways: dict[str, Way | Absent]
    if scores_are_inverted(labels):
        fused, plain = _ours(volume, said, labels), _monai(volume, said, labels)
        _check_same(fused(), plain())
        ways = {
            FLOOR: Way(run=nothing(lambda: floor(said, shape)), note="fused trilinear and argmax, all cores"),
            OURS: Way(run=nothing(fused), note="as a recognised bundle runs"),
            "MONAI": Way(run=nothing(plain), note="Invertd, then AsDiscreted"),
            "MONAI, argmax first": Way(
                run=nothing(_monai(volume, said, labels, argmax_first=True)),
                note="AsDiscreted, then Invertd; coarser",
            ),
        }
    else:
        decided = said[None].astype(np.float32)
        fused, plain = _ours(volume, decided, labels), _monai(volume, decided, labels)
        _check_same(fused(), plain())
        ways = {
            FLOOR: Way(run=nothing(lambda: floor(said, shape)), note="nearest, all cores"),
            OURS: Way(run=nothing(fused), note="as a recognised bundle runs"),
            "MONAI": Way(run=nothing(plain), note="Invertd of labels, nearest"),
        }
    return compare(ways, repeats=repeats)


def what_a_network_says(on_source: NDArray[np.uint8], labels: int) -> NDArray[Any]:
    """Of labels on the images' grid, on the network's: few as scores (class, column, row, slice), else as they are."""
    small = np.ascontiguousarray(on_source[np.ix_(*_nearest(on_source.shape))].transpose(2, 1, 0)[::-1, ::-1])  # RAS
    return _scores(small, labels + 1) if scores_are_inverted(labels) else small


def floor(said: NDArray[Any], shape: Shape) -> NDArray[np.uint8]:
    """Labels on the images' grid of what a network says, by the least that anybody could do."""
    return _argmax(said, shape) if said.dtype == np.float32 else _nearest_back(said, shape)


def _nearest(shape: Shape) -> tuple[NDArray[np.intp], ...]:
    """Of each index of the network's grid, the nearest of the images'."""
    return tuple(
        np.rint(np.linspace(0, size - 1, wanted)).astype(np.intp)
        for size, wanted in zip(shape, grid_of(shape), strict=True)
    )


def _scores(labels: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    scores = np.zeros((classes, *labels.shape), np.float32)
    np.put_along_axis(scores, labels[None].astype(np.intp), np.float32(CERTAIN), axis=0)
    scores[0] *= BACKGROUND / CERTAIN
    return scores


def _steps(labels: int) -> list[dict[str, Any]]:
    """The transforms of the postprocessing that matter here; a softmax changes nothing of what is highest."""
    *_, first, last = postprocessing(labels)
    return [first, last] if scores_are_inverted(labels) else [last]


def _ours(volume: Volume, scores: NDArray[np.float32], labels: int) -> Callable[[], Any]:
    chain = FusedChain(_steps(labels))
    data = chain.prepare(volume)
    return lambda: chain.finish(data, torch.from_numpy(scores))


def _check_same(ours: Any, monai: Any) -> None:
    """Raises RuntimeError unless both give the same labels but for a few voxels: else their times say nothing."""
    same = float((np.asarray(ours) == np.asarray(monai)).mean())
    if same < SAME_LABELS:
        raise RuntimeError(f"expected MONAI's labels, found others in {1 - same:.2%} of the voxels")


def _monai(volume: Any, scores: NDArray[np.float32], labels: int, *, argmax_first: bool = False) -> Callable[[], Any]:
    steps = _steps(labels)
    if argmax_first:
        first, last = steps
        steps = [last, {**first, "nearest_interp": True}]
    content = {
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing()},
        "postprocessing": {"_target_": "Compose", "transforms": steps},
    }
    parser = ConfigParser(content)
    before, after = (parser.get_parsed_content(key) for key in content)
    data = before({"image": ModelGrid.of(volume, None, projection=False).tensor(volume)})

    def run() -> Any:
        pred = MetaTensor(torch.from_numpy(scores), meta=data["image"].meta)
        return after({"image": data["image"], "pred": pred})["pred"]

    return run


@numba.njit(cache=True, parallel=True, fastmath=True)
def _argmax(scores: NDArray[np.float32], shape: Shape) -> NDArray[np.uint8]:
    """Of scores (class, column, row, slice), both flipped, the highest at each place of the images' grid."""
    slices, rows, columns = shape
    classes, width, height, depth = scores.shape
    found = np.empty(shape, np.uint8)
    for column in numba.prange(columns):
        x = (columns - 1 - column) * (width - 1) / (columns - 1)
        left = min(int(x), width - 2)
        right_part = np.float32(x - left)
        line = np.empty((classes, depth), np.float32)
        for row in range(rows):
            y = (rows - 1 - row) * (height - 1) / (rows - 1)
            above = min(int(y), height - 2)
            down = np.float32(y - above)
            for each in range(classes):
                for plane in range(depth):
                    first = scores[each, left, above, plane] * (1 - right_part)
                    first += scores[each, left + 1, above, plane] * right_part
                    second = scores[each, left, above + 1, plane] * (1 - right_part)
                    second += scores[each, left + 1, above + 1, plane] * right_part
                    line[each, plane] = first + down * (second - first)
            for plane in range(slices):
                z = plane * (depth - 1) / max(1, slices - 1)
                below = min(int(z), depth - 2)
                part = np.float32(z - below)
                best, label = np.float32(-np.inf), 0
                for each in range(classes):
                    score = line[each, below] + part * (line[each, below + 1] - line[each, below])
                    if score > best:
                        best, label = score, each
                found[plane, row, column] = label
    return found


@numba.njit(cache=True, parallel=True)
def _nearest_back(labels: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Labels (column, row, slice), both flipped, at each place of the images' grid."""
    slices, rows, columns = shape
    width, height, depth = labels.shape
    found = np.empty(shape, np.uint8)
    for plane in numba.prange(slices):
        z = int(plane * (depth - 1) / max(1, slices - 1) + 0.5)
        for row in range(rows):
            y = int((rows - 1 - row) * (height - 1) / (rows - 1) + 0.5)
            for column in range(columns):
                x = int((columns - 1 - column) * (width - 1) / (columns - 1) + 0.5)
                found[plane, row, column] = labels[x, y, z]
    return found

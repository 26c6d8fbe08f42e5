"""From a label volume and the values in memory to measures of each structure."""

from pathlib import Path
from typing import Any

import nibabel
import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from coread.benchmarks.comparison import FLOOR, OURS, Absent, Result, Way, compare, peer
from coread.benchmarks.ct_bundle import MODALITY, manifest_of
from coread.benchmarks.samples import SPACING_MM, Shape, ct_values, labels_of, volume_of
from coread.kernels.measuring import LABELS
from coread.models.manifest import Manifest
from coread.models.prediction import Prediction
from coread.workers.measure import findings_of

TASK = "total_v1"
"""TotalSegmentator's task of 104 classes; of fewer, its list is cut."""


def measure(folder: Path, *, labels: int, shape: Shape, repeats: int) -> Result:  # noqa: ARG001  # nothing is written
    """Volume, mean and standard deviation of each structure; TotalSegmentator gives volume and mean."""
    found = labels_of(labels, shape)
    values = ct_values(found)
    volume = volume_of(values)
    prediction = Prediction(layers=(found,))
    manifest = Manifest.model_validate(manifest_of(labels))
    with_diameter = manifest_of(labels)
    for meaning in with_diameter["labels"].values():
        meaning["measure"].append("diameter")
    longest = Manifest.model_validate(with_diameter)
    ways: dict[str, Way | Absent] = {
        FLOOR: Way(run=lambda: floor(found, values), note="one pass on all cores: number, sum, sum of squares"),
        OURS: Way(run=lambda: _ours(prediction, volume, manifest), note="coded; and bounding boxes, areas by slice"),
        "coread, diameters": Way(
            run=lambda: _ours(prediction, volume, longest), note="and each structure's longest diameter in space"
        ),
        "a mask for each": Way(run=lambda: _masks(found, values, labels), note="numpy"),
        "scipy.ndimage": Way(run=lambda: _ndimage(found, values, labels), note="mean and standard_deviation by label"),
        "TotalSegmentator": peer(
            "totalsegmentator",
            lambda: Way(run=_totalsegmentator(found, values, labels), note="get_basic_statistics: volume, mean"),
        ),
    }
    return compare(ways, repeats=repeats)


def _ours(prediction: Prediction, volume: Any, manifest: Manifest) -> None:
    findings_of(prediction, volume, manifest=manifest, modality=MODALITY)


def floor(labels: NDArray[np.uint8], values: NDArray[np.int16]) -> None:
    """Number, sum and sum of squares of each label's values."""
    sums = _sums(labels, values)
    assert len(sums.sum(axis=0)) == LABELS  # noqa: S101  # somebody looks at it


@numba.njit(cache=True, parallel=True)
def _sums(labels: NDArray[np.uint8], values: NDArray[np.int16]) -> NDArray[np.int64]:
    sums = np.zeros((labels.shape[0], LABELS, 3), np.int64)
    for plane in numba.prange(labels.shape[0]):
        for row in range(labels.shape[1]):
            for column in range(labels.shape[2]):
                label = labels[plane, row, column]
                if label:
                    value = np.int64(values[plane, row, column])
                    sums[plane, label, 0] += 1
                    sums[plane, label, 1] += value
                    sums[plane, label, 2] += value * value
    return sums


def _masks(labels: NDArray[np.uint8], values: NDArray[np.int16], count: int) -> None:
    for label in range(1, count + 1):
        mask = labels == label
        inside = values[mask].astype(np.float64)
        if len(inside):
            _ = mask.sum(), inside.mean(), inside.std()


def _ndimage(labels: NDArray[np.uint8], values: NDArray[np.int16], count: int) -> None:
    index = np.arange(1, count + 1)
    ndimage.mean(values, labels, index)
    ndimage.standard_deviation(values, labels, index)


def _totalsegmentator(labels: NDArray[np.uint8], values: NDArray[np.int16], count: int) -> Any:
    from totalsegmentator.map_to_binary import class_map
    from totalsegmentator.statistics import get_basic_statistics

    # As after its own reading of files: (column, row, slice) in C order.
    segmentation = np.ascontiguousarray(labels.transpose(2, 1, 0))
    image = nibabel.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)), np.diag([*SPACING_MM[::-1], 1.0]))
    names = [name for label, name in class_map[TASK].items() if label <= count]

    def run() -> None:
        get_basic_statistics(segmentation, image, quiet=True, task=TASK, roi_subset=names)

    return run

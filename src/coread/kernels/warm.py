"""All kernels made ready before the first study waits for them."""

import numpy as np

from coread.kernels import measuring, resampling, summing


def warm_up() -> None:
    """Call each kernel with each type that it meets. The first time on a machine this compiles, for a minute; then it
    loads what was compiled.
    """
    axes = [resampling.axis_of(np.array([0.0, 0.5]), 2) for _ in range(3)]
    result = np.zeros((2, 2, 2), np.float32)
    for kind in resampling.KINDS:
        values = np.zeros((2, 2, 2), kind)
        resampling.resample(values, axes, out=result)
        resampling.resample_oblique(values, np.eye(4), out=result)
    labels = np.zeros((2, 2, 2), np.uint8)
    scores = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    scores[0, 0] += 20
    resampling.labels_of_scores(scores, axes, out=labels, activation="softmax")
    resampling.labels_askew(scores, np.eye(4), out=labels)
    resampling.nearest_askew(labels.copy(), np.eye(4), out=labels)
    resampling.nearest(labels.copy(), [np.arange(2)] * 3, out=labels)
    resampling.scale_in_place(result, resampling.AS_IT_IS)
    resampling.percentiles(scores, [50])
    resampling.box_above_zero(result)
    block = summing.Block(0, 0, 0, 2, 2, 0, 4, place=summing.NOWHERE, voxel=0, opens=1, closes=1)
    blocks, groups, sums = np.array([block]), np.array([0, 1]), np.zeros((1, 2, 8), np.float32)
    summing.add_weighted(scores, result, blocks, groups, sums=sums, out=labels, corner=(0, 0, 0))
    for values in (np.zeros((2, 2, 2), np.int16), result):
        measuring.measure(labels, values)
    corners = measuring.outermost(labels, 0, np.zeros(3, np.int64), np.ones(3, np.int64))
    measuring.largest_distance(corners.astype(np.float64))

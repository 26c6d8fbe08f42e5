"""Brings the series of several channels onto one grid."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from coread.volume import Volume

SAME_GRID = 1e-3
"""Voxels by which two grids may differ and still be taken for the same."""


def onto(volume: Volume, grid: Volume) -> Volume:
    """The volume's values at the voxels of another grid in the same frame of reference, linearly interpolated; outside
    of it the lowest value, which is air or background. What lies on that grid already is left as it is.
    """
    to_volume = np.linalg.inv(volume.affine) @ grid.affine
    if volume.array.shape == grid.array.shape and np.abs(_corners(grid, to_volume - np.eye(4))).max() < SAME_GRID:
        return volume
    source = np.asarray(volume.array, np.float32)
    values = affine_transform(
        source, to_volume[:3, :3], offset=to_volume[:3, 3], output_shape=grid.array.shape, order=1, mode="nearest"
    )
    values[_outside(to_volume, volume, grid)] = source.min()
    return grid.with_array(values)


def _outside(to_volume: NDArray[np.float64], volume: Volume, grid: Volume) -> NDArray[np.bool_]:
    """Which voxels of the grid lie beyond the volume's outermost centres, by more than rounding."""
    outside = np.zeros(grid.array.shape, bool)
    axes = [np.arange(size, dtype=np.float64) for size in grid.array.shape]
    for axis, size in enumerate(volume.array.shape):
        steps = to_volume[axis, :3]
        place = np.add.outer(np.add.outer(axes[0] * steps[0], axes[1] * steps[1]), axes[2] * steps[2])
        place += to_volume[axis, 3]
        outside |= (place < -SAME_GRID) | (place > size - 1 + SAME_GRID)
    return outside


def _corners(grid: Volume, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a matrix (4, 4) takes the indices of a grid's corners, shape (3, 8)."""
    ends = np.array(np.meshgrid(*[(0, size - 1) for size in grid.array.shape])).reshape(3, -1)
    return np.asarray((matrix @ np.vstack([ends, np.ones(ends.shape[1])]))[:3], np.float64)

"""Brings the series of several channels onto one grid."""

import numpy as np
from scipy.ndimage import affine_transform

from coread.volume import Volume

SAME_GRID = 1e-3
"""Voxels by which two grids may differ and still be taken for the same."""


def onto(volume: Volume, grid: Volume) -> Volume:
    """The volume's values at the voxels of another grid in the same frame of reference, linearly interpolated; 0
    outside of it. What lies on that grid already is left as it is.
    """
    to_volume = np.linalg.inv(volume.affine) @ grid.affine
    if volume.array.shape == grid.array.shape and np.abs(_corners(grid, to_volume - np.eye(4))).max() < SAME_GRID:
        return volume
    values = affine_transform(
        np.asarray(volume.array, np.float32),
        to_volume[:3, :3],
        offset=to_volume[:3, 3],
        output_shape=grid.array.shape,
        order=1,
        mode="constant",
    )
    return grid.with_array(values)


def _corners(
    grid: Volume, matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Where a matrix (4, 4) takes the indices of a grid's corners, shape (3, 8)."""
    ends = np.array(np.meshgrid(*[(0, size - 1) for size in grid.array.shape])).reshape(3, -1)
    return np.asarray((matrix @ np.vstack([ends, np.ones(ends.shape[1])]))[:3], np.float64)

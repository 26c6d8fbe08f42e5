"""An array with its place in the patient.

highdicom's ``Volume`` demands axes at right angles. A CT with a tilted gantry has none: its slices are shifted against
each other. This one takes any affine, so that such a series is read where it lies instead of being bent straight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coread.kernels.measuring import end_of_run

TILT_DEGREES = 0.5
"""Slices shifted by less are stacked at right angles, as far as anybody can measure."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """``array`` is (slice, row, column); ``affine`` (4, 4) leads from these indices to LPS in mm: PS3.3
    C.7.6.2.1.1.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    frame_of_reference_uid: str | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.affine.shape != (4, 4):
            raise ValueError(
                f"expected an array of 3 axes and an affine of 4 by 4, found {self.array.shape} and {self.affine.shape}"
            )

    @classmethod
    def of(
        cls,
        array: NDArray[Any],
        *,
        directions: ArrayLike,
        spacing: Sequence[float],
        position: Sequence[float] = (0.0, 0.0, 0.0),
        frame_of_reference_uid: str | None = None,
    ) -> "Volume":
        """``directions``: unit vectors, shape (3, 3), of a step to the next slice, row and column; ``spacing``: the
        length of these steps in mm; ``position``: the centre of the first voxel.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(directions, dtype=np.float64).T * np.asarray(spacing)
        affine[:3, 3] = position
        return cls(array=array, affine=affine, frame_of_reference_uid=frame_of_reference_uid)

    def with_array(self, array: NDArray[Any]) -> "Volume":
        """Another array in the same place. Raises ValueError if it has another shape."""
        if array.shape != self.array.shape:
            raise ValueError(f"expected an array of shape {self.array.shape}, found {array.shape}")
        return replace(self, array=array)

    def at_right_angles(self) -> "Volume":
        """The same with rows at right angles to columns, as PS3.3 C.7.6.2.1.1 wants them and headers with rounded
        direction cosines do not have them. Each turns by half of what is amiss; the plane that they lie in stays.
        """
        _, column, row = self.unit_vectors()  # the ways to the next row and to the next column
        amiss = float(row @ column)
        turned = np.stack([column - amiss / 2 * row, row - amiss / 2 * column])
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        affine = self.affine.copy()
        affine[:3, 1:3] = turned.T * self.spacing[1:]
        return replace(self, affine=affine)

    def centred_at(self, centre: Sequence[float]) -> "Volume":
        """The same, moved so that its centre lies in a point."""
        affine = self.affine.copy()
        affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.array(self.array.shape) - 1) / 2)
        return replace(self, affine=affine)

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Numbers of slices, rows, columns."""
        slices, rows, columns = self.array.shape
        return slices, rows, columns

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm from one slice, row, column to the next. Between slices: at right angles to them, whatever the tilt."""
        slice_mm = abs(float(self.affine[:3, 0] @ self.normal))
        return slice_mm, float(np.linalg.norm(self.affine[:3, 1])), float(np.linalg.norm(self.affine[:3, 2]))

    @property
    def normal(self) -> NDArray[np.float64]:
        """The unit vector at right angles to the slices (the cross product of along a row and down a column)."""
        normal = np.cross(self.affine[:3, 2], self.affine[:3, 1])
        return normal / np.linalg.norm(normal)

    @property
    def voxel_volume(self) -> float:
        """mm³."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def tilt_degrees(self) -> float:
        """The angle between the line through the slices' first voxels and the slices' normal."""
        step = self.affine[:3, 0]
        sideways = float(np.linalg.norm(np.cross(step, self.normal)))
        return float(np.degrees(np.arctan2(sideways, abs(float(step @ self.normal)))))

    @property
    def is_tilted(self) -> bool:
        return self.tilt_degrees > TILT_DEGREES

    def unit_vectors(self) -> NDArray[np.float64]:
        """Shape (3, 3): the directions of a step to the next slice, row and column."""
        steps = self.affine[:3, :3].T
        return np.asarray(steps / np.linalg.norm(steps, axis=1, keepdims=True), np.float64)

    def map_indices_to_reference(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Places in LPS, mm, shape (points, 3), of indices (slice, row, column), shape (points, 3)."""
        matrix, origin = self.affine[:3, :3], self.affine[:3, 3]
        return np.asarray(np.asarray(indices) @ matrix.T + origin, np.float64)


@numba.njit(cache=True, parallel=True)
def count_by_slice(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Number of pixels by slice and label, shape (slices, 256). ``labels``: (slice, row, column)."""
    counts = np.zeros((labels.shape[0], 256), np.int64)
    for index in numba.prange(labels.shape[0]):
        for row in range(labels.shape[1]):
            column = 0
            while column < labels.shape[2]:
                start, column = column, end_of_run(labels[index, row], column)
                counts[index, labels[index, row, start]] += column - start
    return counts

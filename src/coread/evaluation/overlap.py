"""How well a mask agrees with the true one: overlap, distance of the surfaces."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from coread.volume import Volume

Mask = NDArray[np.bool_]


def dice(found: Mask, truth: Mask) -> float:
    """Twice what both have, divided by the sum of what each has (Dice 1945). Of two empty masks undefined: nan."""
    both = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(found & truth)) / both if both else np.nan


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """In mm, in patient space."""

    mean: float
    """From each voxel of either surface to the nearest one of the other, on average."""
    hausdorff_95: float
    """The distance that 95 % of a surface's voxels keep to the other surface, of the two surfaces the larger."""


def surface_distances(found: Mask, truth: Mask, volume: Volume) -> SurfaceDistances | None:
    """Between the surfaces of two masks (slice, row, column) on the grid of ``volume``, whatever its spacing and tilt.
    None if one of them is empty.

    A surface are the voxels of a mask of which one of the six neighbours is not in it, as in MONAI's metrics.
    """
    if not found.any() or not truth.any():
        return None
    ours, theirs = _surface(found, volume), _surface(truth, volume)
    to_theirs, to_ours = KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0]
    return SurfaceDistances(
        mean=float(np.concatenate([to_theirs, to_ours]).mean()),
        hausdorff_95=max(float(np.percentile(to_theirs, 95)), float(np.percentile(to_ours, 95))),
    )


def _surface(mask: Mask, volume: Volume) -> NDArray[np.float64]:
    """Centres of the surface's voxels in LPS, mm, shape (voxels, 3)."""
    inside = np.argwhere(mask)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    window = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    surface = mask[window] & ~binary_erosion(mask[window])
    return volume.map_indices_to_reference(np.argwhere(surface) + low)

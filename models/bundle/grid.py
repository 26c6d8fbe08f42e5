"""Between our volumes and MONAI's tensors: order of axes, LPS and RAS, the orientation that a model was trained with.

DICOM's patient coordinates are LPS, MONAI's are RAS: x and y change sign. Here, and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel import orientations
from numpy.typing import NDArray

from coread.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TO_COLUMN_ROW_SLICE = [2, 1, 0, 3]
"""Volumes are kept as (slice, row, column); MONAI's readers give (column, row, slice), as NIfTI does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelGrid:
    """The axes in which a model gets a volume: (column, row, slice), turned and flipped to its orientation if it has
    one. No voxel is interpolated.
    """

    affine: NDArray[np.float64]
    """(4, 4), the model's indices → RAS, mm."""
    shape: tuple[int, ...]
    from_column_row_slice: NDArray[np.float64]
    """Shape (3, 2), as ``nibabel.orientations`` has it."""
    projection: bool

    @classmethod
    def of(cls, volume: Volume, orientation: str | None, *, projection: bool) -> "ModelGrid":
        """``orientation``: axis directions such as "RAS"; None: as the volume lies."""
        affine = LPS_TO_RAS @ volume.affine[:, _TO_COLUMN_ROW_SLICE]
        shape = tuple(reversed(volume.spatial_shape))
        turn = orientations.axcodes2ornt("RAS")
        if orientation is not None and not projection:
            wanted = orientations.axcodes2ornt(tuple(orientation))
            turn = orientations.ornt_transform(orientations.io_orientation(affine), wanted)
            affine = affine @ orientations.inv_ornt_aff(turn, shape)
            shape = tuple(shape[int(axis)] for axis in np.argsort(turn[:, 0]))
        return cls(
            affine=affine, shape=shape[:2] if projection else shape, from_column_row_slice=turn, projection=projection
        )

    def tensor(self, volume: Volume, *, colours: bool = False) -> MetaTensor:
        """The volume as a loader of files would give it; float32. ``colours``: a projection as three equal channels,
        last.
        """
        return self.image(volume, colours=colours).tensor()

    def image(self, volume: Volume, *, colours: bool = False) -> "GridImage":
        """The volume as a loader of files would give it, but for its voxels, which stay where they are."""
        array = volume.array.transpose(2, 1, 0)
        channel_dim: float = float("nan")
        if self.projection:
            array = array[:, :, 0]
            if colours:
                array, channel_dim = np.repeat(array[..., None], 3, axis=-1), -1
        else:
            array = orientations.apply_orientation(array, self.from_column_row_slice)
        # Rounded as NIfTI files hold it: sizes after resampling hang on the last digits, and a model gets the same
        # volume here as from the files that it was made with.
        affine = self.affine.astype(np.float32).astype(np.float64)
        meta = {
            "original_channel_dim": channel_dim,
            "spatial_shape": np.array(self.shape),
            "space": "RAS",
            "filename_or_obj": "volume",
        }
        return GridImage(view=array, affine=affine, meta=meta)

    def back(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """An array on this grid as (slice, row, column)."""
        if self.projection:
            return array.T[None]
        turned = np.argsort(self.from_column_row_slice[:, 0])
        undo = np.column_stack([turned, self.from_column_row_slice[turned, 1]])
        return np.asarray(orientations.apply_orientation(array, undo).transpose(2, 1, 0))

    def indices_back(self, ras: NDArray[np.float64], volume: Volume) -> NDArray[np.float64]:
        """Indices (slice, row, column) of places in RAS, mm, shape (points, 3)."""
        lps = ras * np.array([-1.0, -1.0, 1.0])
        inverse = np.linalg.inv(volume.affine)
        return np.asarray(lps @ inverse[:3, :3].T + inverse[:3, 3], np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class GridImage:
    """An image on a model's grid that is not copied before it has to be."""

    view: NDArray[Any]
    """A view of the volume's own array, of any real type, its axes as the model has them. Not to be written to."""
    affine: NDArray[np.float64]
    """Its indices → RAS, mm."""
    meta: Mapping[str, Any]
    """What MONAI asks for besides."""

    def tensor(self) -> MetaTensor:
        """Its own copy, in float32."""
        return self._as_tensor(torch.from_numpy(np.array(self.view, np.float32, order="C")))

    def stand_in(self) -> MetaTensor:
        """The same but for its voxels: zeros that take no memory."""
        return self._as_tensor(torch.zeros(1).expand(self.view.shape))

    def _as_tensor(self, values: torch.Tensor) -> MetaTensor:
        affine = torch.from_numpy(self.affine.copy())
        return MetaTensor(values, affine=affine, meta={**self.meta, "original_affine": affine.clone()})

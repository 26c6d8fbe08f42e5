"""From the images' own grid to the network's: turned to RAS, 1.5 mm, values scaled to 0 to 1."""

from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, ScaleIntensityRange, Spacing
from numpy.typing import NDArray
from scipy import ndimage

from coread.benchmarks.comparison import FLOOR, OURS, Absent, Result, Way, compare, peer
from coread.benchmarks.ct_bundle import HIGHEST, LOWEST, SPACING_MM, postprocessing
from coread.benchmarks.fused_chain import FusedChain
from coread.benchmarks.load import ORGANS, nothing
from coread.benchmarks.samples import SPACING_MM as SOURCE_MM
from coread.benchmarks.samples import Shape, ct_values, labels_of, volume_of
from coread.models.bundle.grid import ModelGrid
from coread.volume import Volume

SAME_INPUT = 1e-4
"""Of what the network sees, which is 0 to 1."""


def resample(folder: Path, *, shape: Shape, repeats: int) -> Result:  # noqa: ARG001  # nothing is written
    """Trilinear. ``folder`` stays empty."""
    values = ct_values(labels_of(ORGANS, shape))
    volume = volume_of(values)
    fused = FusedChain(postprocessing(ORGANS))
    _check_same(fused.prepare(volume)["image"].numpy(), _monai(volume).numpy())
    ways: dict[str, Way | Absent] = {
        FLOOR: Way(run=nothing(lambda: floor(values)), note="one fused pass from int16 on all cores"),
        OURS: Way(run=nothing(lambda: fused.prepare(volume)), note="as a recognised bundle runs"),
        "MONAI": Way(run=nothing(lambda: _monai(volume)), note="Orientation, Spacing (float64), ScaleIntensityRange"),
        "MONAI float32": Way(run=nothing(lambda: _monai(volume, dtype=np.float32)), note="Spacing in float32"),
        "MONAI lazy": Way(run=nothing(lambda: _monai(volume, lazy=True)), note="Compose(lazy=True)"),
        "torch": Way(run=nothing(lambda: _torch(values)), note="interpolate; another grid by up to half a voxel"),
        "SimpleITK": peer("SimpleITK", lambda: Way(run=nothing(lambda: _simpleitk(values)), note="Resample, clip")),
        "scipy, order 3": Way(run=nothing(lambda: _scipy(values)), note="zoom, as TotalSegmentator resamples"),
    }
    return compare(ways, repeats=repeats)


def _check_same(ours: NDArray[np.float32], monai: NDArray[np.float32]) -> None:
    """Raises RuntimeError unless the network would see the same: else the times say nothing."""
    apart = float(np.abs(ours - monai).max()) if ours.shape == monai.shape else np.inf
    if apart > SAME_INPUT:
        raise RuntimeError(f"expected what MONAI gives, found another by up to {apart:g}")


def grid_of(shape: Shape) -> Shape:
    """The network's grid, as MONAI's Spacing has it."""
    slices, rows, columns = (
        round((size - 1) * spacing / SPACING_MM + 1) for size, spacing in zip(shape, SOURCE_MM, strict=True)
    )
    return slices, rows, columns


def floor(values: NDArray[np.int16]) -> NDArray[np.float32]:
    """The least that anybody could do who knew beforehand how the images lie."""
    return _trilinear(values, grid_of(values.shape), np.array(SOURCE_MM) / SPACING_MM, LOWEST, HIGHEST - LOWEST)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _trilinear(
    values: NDArray[np.int16], shape: Shape, scale: NDArray[np.float64], low: float, extent: float
) -> NDArray[np.float32]:
    """Each voxel from the eight around its place, clipped and scaled: (column, row, slice), both flipped."""
    slices, rows, columns = shape
    found = np.empty((columns, rows, slices), np.float32)
    lines = np.empty((slices, values.shape[1], values.shape[2]), np.float32)
    for plane in numba.prange(slices):
        place = min(plane / scale[0], values.shape[0] - 1.0)
        below = min(int(place), values.shape[0] - 2)
        part = np.float32(place - below)
        for row in range(values.shape[1]):
            for column in range(values.shape[2]):
                first = np.float32(values[below, row, column])
                lines[plane, row, column] = first + part * (np.float32(values[below + 1, row, column]) - first)
    for column in numba.prange(columns):
        place = min(column / scale[2], values.shape[2] - 1.0)
        left = min(int(place), values.shape[2] - 2)
        part = np.float32(place - left)
        for row in range(rows):
            height = min(row / scale[1], values.shape[1] - 1.0)
            above = min(int(height), values.shape[1] - 2)
            down = np.float32(height - above)
            for plane in range(slices):
                first = lines[plane, above, left] * (1 - part) + lines[plane, above, left + 1] * part
                second = lines[plane, above + 1, left] * (1 - part) + lines[plane, above + 1, left + 1] * part
                value = (first + down * (second - first) - np.float32(low)) / np.float32(extent)
                found[columns - 1 - column, rows - 1 - row, plane] = min(max(value, np.float32(0)), np.float32(1))
    return found


def _monai(volume: Volume, *, dtype: Any = np.float64, lazy: bool = False) -> MetaTensor:
    tensor = ModelGrid.of(volume, None, projection=False).tensor(volume)[None]
    return monai_preprocessing(dtype=dtype, lazy=lazy)(tensor)  # type: ignore[no-any-return]


def monai_preprocessing(*, dtype: Any = np.float64, lazy: bool = False) -> Compose:
    """As the bundle of ``ct_bundle`` has it, after loading."""
    return Compose(
        [
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=[SPACING_MM] * 3, mode="bilinear", dtype=dtype),
            ScaleIntensityRange(a_min=LOWEST, a_max=HIGHEST, b_min=0.0, b_max=1.0, clip=True),
        ],
        lazy=lazy,
    )


def _torch(values: NDArray[np.int16]) -> torch.Tensor:
    image = torch.from_numpy(values.astype(np.float32))[None, None]
    slices, rows, columns = grid_of(values.shape)
    found = torch.nn.functional.interpolate(image, size=(slices, rows, columns), mode="trilinear", align_corners=True)
    return found.sub_(LOWEST).div_(HIGHEST - LOWEST).clamp_(0, 1)


def _simpleitk(values: NDArray[np.int16]) -> NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813  # as everybody calls it

    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SOURCE_MM[::-1])
    size = list(grid_of(values.shape))[::-1]
    spacing, transform = [SPACING_MM] * 3, sitk.Transform()
    found = sitk.Resample(
        image,
        size,
        transform,
        sitk.sitkLinear,
        image.GetOrigin(),
        spacing,
        image.GetDirection(),
        LOWEST,
        sitk.sitkFloat32,
    )
    return np.asarray(
        sitk.GetArrayFromImage(sitk.Clamp((found - LOWEST) / (HIGHEST - LOWEST), sitk.sitkFloat32, 0.0, 1.0))
    )


def _scipy(values: NDArray[np.int16]) -> NDArray[np.float32]:
    factors = [wanted / size for wanted, size in zip(grid_of(values.shape), values.shape, strict=True)]
    found = ndimage.zoom(values.astype(np.float32), factors, order=3)
    return np.clip((found - LOWEST) / (HIGHEST - LOWEST), 0, 1)  # type: ignore[no-any-return]

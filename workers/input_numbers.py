"""What a model was given to read, in a few numbers: from these, drift of scanners and protocols is seen later, when the
images are gone. None of them says who the patient is.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from coread.volume import Volume
from coread.waveform import Waveform
from coread.workers.volume import SourceVolume
from coread.workers.waveform import SourceWaveform

QUANTILES: Mapping[str, float] = {
    "p01": 0.01,
    "p05": 0.05,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "p99": 0.99,
}
SPREAD = ("mean", "sd", *QUANTILES)
OF_VOLUMES = (
    "slices",
    "rows",
    "columns",
    "slice_spacing_mm",
    "row_spacing_mm",
    "column_spacing_mm",
    *(f"intensity_{name}" for name in SPREAD),
)
OF_ECGS = ("leads", "sampling_rate_hz", "duration_s", *(f"amplitude_{name}_mv" for name in SPREAD))
NAMES = (*OF_VOLUMES, *OF_ECGS)
"""All that there may be."""
ALONG_AN_AXIS = (48, 48, 48)
"""So many slices, rows and columns of a volume are looked at: 110,000 voxels place a quantile within half a percent."""
DIGITS = 6
"""That count: the last bits of another processor make no other result."""


def input_numbers(source: SourceVolume | SourceWaveform) -> dict[str, float]:
    """Of a volume or radiograph: ``intensity_…`` after the modality transform (as displayed, where the model reads it
    so), sizes, and distances in mm. Of an ECG: ``amplitude_…_mv`` over all leads as recorded, rate and length.

    Of a cine, the phase that was read first; of several series, the first.
    """
    if isinstance(source, SourceWaveform):
        return _of_waveform(source.recorded)
    return _of_volume(source.volume)


def _of_volume(volume: Volume) -> dict[str, float]:
    slices, rows, columns = volume.spatial_shape
    slice_mm, row_mm, column_mm = volume.spacing
    geometry = {
        "slices": slices,
        "rows": rows,
        "columns": columns,
        **({"slice_spacing_mm": slice_mm} if slices > 1 else {}),  # a radiograph's is made up
        "row_spacing_mm": row_mm,
        "column_spacing_mm": column_mm,
    }
    spread = {f"intensity_{name}": value for name, value in _spread(_sample(volume.array)).items()}
    return {name: _rounded(value) for name, value in {**geometry, **spread}.items()}


def _of_waveform(waveform: Waveform) -> dict[str, float]:
    facts = {
        "leads": len(waveform.leads),
        "sampling_rate_hz": waveform.sampling_rate_hz,
        "duration_s": waveform.duration_s,
    }
    spread = {f"amplitude_{name}_mv": value for name, value in _spread(waveform.samples).items()}
    return {name: _rounded(value) for name, value in {**facts, **spread}.items()}


def _sample(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Voxels on an even grid, always the same ones."""
    steps = tuple(
        slice(step // 2, None, step)
        for length, most in zip(array.shape, ALONG_AN_AXIS, strict=True)
        for step in (-(-length // most),)
    )
    return array[steps]


def _spread(values: NDArray[np.generic]) -> dict[str, float]:
    numbers = np.asarray(values, np.float64).ravel()
    numbers = numbers[np.isfinite(numbers)]  # images of floating point numbers may hold others
    if not numbers.size:
        return {}
    quantiles = np.quantile(numbers, list(QUANTILES.values()))
    return {
        "mean": float(numbers.mean()),
        "sd": float(numbers.std()),
        **dict(zip(QUANTILES, map(float, quantiles), strict=True)),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

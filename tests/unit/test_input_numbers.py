"""The numbers that a job writes down of what its model was given to read."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from coread.leads import TWELVE_LEADS
from coread.volume import Volume
from coread.waveform import Waveform
from coread.workers.input_numbers import OF_ECGS, OF_VOLUMES, input_numbers
from coread.workers.volume import SourceVolume
from coread.workers.waveform import SourceWaveform


def a_source(array: NDArray[Any]) -> SourceVolume:
    volume = Volume.of(array, directions=np.eye(3), spacing=(2.5, 0.7, 0.8))
    return SourceVolume(volume=volume, planes=[])


def test_a_small_volume_is_told_exactly() -> None:
    array = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)
    said = input_numbers(a_source(array))
    assert tuple(said) == OF_VOLUMES
    assert (said["slices"], said["rows"], said["columns"]) == (5, 4, 3)
    assert (said["slice_spacing_mm"], said["row_spacing_mm"], said["column_spacing_mm"]) == (2.5, 0.7, 0.8)
    assert said["intensity_mean"] == 29.5
    assert said["intensity_sd"] == pytest.approx(array.std(), rel=1e-5)
    assert (said["intensity_p05"], said["intensity_p50"]) == (2.95, 29.5)


def test_a_large_volume_is_told_from_some_of_its_voxels_within_a_percent() -> None:
    array = np.random.default_rng(0).normal(100, 20, (120, 200, 170)).astype(np.float32)
    said = input_numbers(a_source(array))
    assert said["intensity_mean"] == pytest.approx(array.mean(), abs=0.2)
    for name, share in (("p01", 1), ("p25", 25), ("p99", 99)):
        assert said[f"intensity_{name}"] == pytest.approx(np.percentile(array, share), abs=0.6)
    assert said == input_numbers(a_source(array))


def test_a_radiograph_has_no_distance_between_slices() -> None:
    assert "slice_spacing_mm" not in input_numbers(a_source(np.zeros((1, 4, 3), np.uint16)))


def test_what_is_no_number_does_not_count() -> None:
    array = np.array([[[1.0, np.nan, 3.0, np.inf]]], np.float32)
    assert input_numbers(a_source(array))["intensity_mean"] == 2.0
    assert "intensity_mean" not in input_numbers(a_source(np.full((1, 1, 2), np.nan, np.float32)))


def test_an_ecg_is_told_in_millivolts_as_recorded() -> None:
    samples = np.tile(np.linspace(-1, 1, 500, dtype=np.float32), (12, 1))
    recorded = Waveform(samples=samples, leads=TWELVE_LEADS, sampling_rate_hz=250)
    source = SourceWaveform(waveform=recorded.at(100), recorded=recorded, instance=Dataset(), channels=None)
    said = input_numbers(source)
    assert tuple(said) == OF_ECGS
    assert (said["leads"], said["sampling_rate_hz"], said["duration_s"]) == (12, 250, 2)
    assert said["amplitude_p95_mv"] == pytest.approx(0.9, abs=0.01)

"""One pass gives what numpy gives label by label, in whatever type the values come."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import pdist

from coread.kernels.measuring import TOLERANCE, largest_distance, measure, outermost

SHAPE = (7, 33, 41)
OBLIQUE = np.array([[0.3, 1.9, -0.4], [2.1, -0.2, 0.5], [0.1, 0.6, 1.4]])


def some_labels(seed: int, *, count: int = 104) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blocks of a label each, with holes and stray voxels; some labels nowhere."""
    random = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    for label in random.permutation(np.arange(1, count + 1)):
        low = random.integers(0, np.array(SHAPE) - 2)
        high = low + random.integers(1, (5, 15, 15))
        labels[tuple(slice(*each) for each in zip(low, high, strict=True))] = label
    labels[random.random(SHAPE) < 0.1] = 0
    labels[random.random(SHAPE) < 0.01] = 255
    return labels


@pytest.mark.parametrize("dtype", ["b", "B", "h", "H", "i", "I", "q", "e", "f", "d", ">i2", ">f4", "?"])
def test_each_label_has_the_measures_that_numpy_gives_of_its_mask(dtype: str) -> None:
    labels = some_labels(1)
    values = np.random.default_rng(2).normal(60, 30, SHAPE).clip(0, 120).astype(dtype)
    measures = measure(labels, values)
    assert np.array_equal(measures.voxels[1:], np.bincount(labels.ravel(), minlength=256)[1:])
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        inside = values[mask].astype(np.float64)
        assert measures.mean[label] == pytest.approx(inside.mean(), rel=TOLERANCE)
        assert measures.standard_deviation[label] == pytest.approx(inside.std(), rel=TOLERANCE)
        where = np.argwhere(mask)
        assert np.array_equal(measures.low[label], where.min(axis=0))
        assert np.array_equal(measures.high[label], where.max(axis=0))
        assert np.array_equal(measures.areas[:, label], mask.sum(axis=(1, 2)))


def test_a_large_offset_takes_no_digits_away() -> None:
    labels = some_labels(3, count=5)
    values = np.random.default_rng(4).normal(0, 1e-3, SHAPE) + 1e6
    measures = measure(labels, values)
    for label in np.unique(labels[labels > 0]):
        inside = values[labels == label]
        two_passes = np.sqrt(((inside - inside.mean()) ** 2).mean())
        assert measures.standard_deviation[label] == pytest.approx(two_passes, rel=1e-6)


def test_the_extremes_of_16_bits_are_summed_up_exactly() -> None:
    labels = np.ones((3, 64, 64), np.uint8)
    values = np.where(np.arange(labels.size).reshape(labels.shape) % 2, 32767, -32768).astype(np.int16)
    measures = measure(labels, values)
    assert measures.mean[1] == -0.5
    assert measures.standard_deviation[1] == 32767.5


def test_what_does_not_occur_has_no_measures() -> None:
    measures = measure(np.zeros(SHAPE, np.uint8), np.ones(SHAPE))
    assert not measures.voxels.any()
    assert np.isnan(measures.mean).all()
    assert (measures.high == -1).all()


def test_without_values_there_are_sizes_and_places_only() -> None:
    labels = some_labels(5)
    with_values, without = measure(labels, np.ones(SHAPE)), measure(labels)
    assert np.array_equal(with_values.voxels, without.voxels)
    assert np.array_equal(with_values.high, without.high)
    assert np.isnan(without.mean).all()


def test_an_array_in_another_order_has_the_same_measures() -> None:
    labels, values = some_labels(6), np.random.default_rng(7).normal(size=SHAPE)
    other = measure(np.asfortranarray(labels), np.asfortranarray(values))
    assert np.array_equal(measure(labels, values).mean, other.mean, equal_nan=True)


def test_values_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected values of shape"):
        measure(np.zeros(SHAPE, np.uint8), np.zeros((7, 33, 40)))


def test_one_thread_gives_the_same_bits_as_two() -> None:
    program = (
        "import numpy as np\nfrom coread.kernels.measuring import measure\n"
        "random = np.random.default_rng(1)\nlabels = random.integers(0, 9, (9, 50, 60)).astype(np.uint8)\n"
        "found = measure(labels, random.normal(100, 1, labels.shape))\n"
        "print(found.mean.tobytes().hex(), found.standard_deviation.tobytes().hex())"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NUMBA_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    ]
    assert said[0] == said[1]


@settings(max_examples=200, deadline=None)
@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)),
    background=st.sampled_from([0, 3]),
)
def test_the_outermost_voxels_hold_the_farthest_two(mask: np.ndarray[Any, np.dtype[np.bool_]], background: int) -> None:
    labels = np.where(mask, 2, background).astype(np.uint8)
    points = np.argwhere(mask) @ OBLIQUE.T
    measures = measure(labels)
    corners = outermost(labels, 2, measures.low[2], measures.high[2]) @ OBLIQUE.T
    expected = float(pdist(points).max()) if len(points) > 1 else 0.0
    assert largest_distance(corners) == pytest.approx(expected, abs=1e-9)


def test_few_voxels_of_a_body_are_outermost() -> None:
    places = np.indices((41, 41, 41)) - 20
    ball = ((places**2).sum(axis=0) <= 400).astype(np.uint8)
    measures = measure(ball)
    corners = outermost(ball, 1, measures.low[1], measures.high[1])
    assert len(corners) < len(np.argwhere(ball)) / 25
    assert largest_distance(corners.astype(np.float64)) == 40


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_no_number_makes_no_deviation_of_nothing(bad: float) -> None:
    values = np.arange(8.0).reshape(2, 2, 2)
    values[1, 0, 1] = bad
    assert np.isnan(measure(np.ones((2, 2, 2), np.uint8), values).standard_deviation[1])

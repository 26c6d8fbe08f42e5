"""The kernels give what MONAI and SciPy give, however arrays lie in memory and however small they are."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from numpy.typing import NDArray
from scipy import ndimage

from coread.kernels import resampling
from coread.kernels.resampling import MOST_CLASSES, TOLERANCE, LabelsByParts, Scale, axis_of, labels_of_scores, resample

KINDS = ["int16", "uint16", "uint8", "float32", "float64", "int32", ">i2"]


def rng_of(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def volume(rng: np.random.Generator, shape: Any, kind: str = "int16") -> NDArray[Any]:
    return np.asarray(rng.integers(0 if kind.startswith("u") else -200, 200, shape).astype(kind))


def turned(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A view with its axes in another order, some of them backwards."""
    steps = tuple(slice(None, None, int(step)) for step in rng.choice([-1, 1], 3))
    return array.transpose(rng.permutation(3))[steps]


def somewhere(rng: np.random.Generator, shape: Any, sizes: Any) -> list[NDArray[np.float64]]:
    """Places along each axis: finer or coarser, forwards or backwards, partly beyond the ends."""
    found = []
    for size, length in zip(shape, sizes, strict=True):
        step = rng.choice([-1, 1]) * rng.uniform(0.2, 3)
        begin = rng.uniform(-2, 2) + (size if step < 0 else 0)
        found.append(step * np.arange(length) + begin)
    return found


def by_scipy(values: NDArray[Any], places: Any, padding: str = "border") -> NDArray[np.float64]:
    grid = np.meshgrid(*places, indexing="ij")
    if padding == "border":
        inside = [each.clip(0, size - 1) for each, size in zip(grid, values.shape, strict=True)]
        return np.asarray(ndimage.map_coordinates(values.astype(np.float64), inside, order=1, mode="nearest"))
    around = np.pad(values.astype(np.float64), 2)
    return np.asarray(ndimage.map_coordinates(around, [each + 2 for each in grid], order=1, mode="constant"))


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("kind", KINDS)
def test_interpolation_is_scipys(kind: str, padding: Any) -> None:
    for trial in range(8):
        rng = rng_of(1, trial, KINDS.index(kind))
        values = turned(volume(rng, rng.integers(1, 12, 3), kind), rng)
        sizes = rng.integers(1, 40, 3)
        places = somewhere(rng, values.shape, sizes)
        expected = by_scipy(values, places, padding)
        axes = [axis_of(each, size, padding=padding) for each, size in zip(places, values.shape, strict=True)]
        out = turned(np.empty(sizes, np.float32), rng)
        out = out if out.shape == expected.shape else np.empty(expected.shape, np.float32)
        resample(values, axes, out=out)
        most = max(float(np.abs(values.astype(np.float64)).max()), 1e-9)
        assert np.abs(out - expected).max() <= TOLERANCE * most
        askew = resampling.resample_oblique(
            values, matrix_of(places), out=np.empty(expected.shape, np.float32), padding=padding
        )
        assert np.abs(askew - expected).max() <= TOLERANCE * most


def matrix_of(places: Any) -> NDArray[np.float64]:
    matrix = np.eye(4)
    for axis, each in enumerate(places):
        matrix[axis, axis] = each[1] - each[0] if len(each) > 1 else 1
        matrix[axis, 3] = each[0]
    return matrix


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("shape", [(9, 14, 11), (1, 8, 8), (2, 1, 5), (1, 1, 1), (40, 2, 3)])
def test_an_oblique_grid_is_monais(shape: tuple[int, int, int], padding: Any) -> None:
    rng = rng_of(2, *shape)
    values = volume(rng, shape)
    turn = ndimage_rotation(rng)
    to_source = np.eye(4)
    to_source[:3, :3] = turn @ np.diag(rng.uniform(0.4, 2, 3))
    to_source[:3, 3] = rng.uniform(-3, 3, 3)
    size = (8, 13, 7)
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.eye(4, dtype=torch.float64))
    monai = SpatialResample(mode="bilinear", padding_mode=padding)(
        tensor, dst_affine=torch.from_numpy(to_source), spatial_size=size
    )
    found = resampling.resample_oblique(values, to_source, out=np.empty(size, np.float32), padding=padding)
    assert np.abs(found - monai[0].numpy()).max() <= TOLERANCE * 200


def ndimage_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(rotation)


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("shape", [(9, 14, 11), (1, 8, 8), (2, 1, 5), (1, 1, 1)])
def test_labels_on_an_oblique_grid_are_those_of_monais_scores(shape: tuple[int, int, int], padding: Any) -> None:
    rng = rng_of(21, *shape)
    scores = ndimage.gaussian_filter(rng.normal(0, 9, (4, *shape)), (0, 1, 1, 1)).astype(np.float32)
    back = np.eye(4)
    back[:3, :3] = ndimage_rotation(rng) @ np.diag(rng.uniform(0.3, 1.5, 3))
    back[:3, 3] = rng.uniform(-2, 2, 3)
    size = (12, 13, 14)

    def monai(values: NDArray[np.float32], mode: str) -> NDArray[np.float32]:
        tensor = MetaTensor(torch.from_numpy(values), affine=torch.eye(4, dtype=torch.float64))
        resample_ = SpatialResample(mode=mode, padding_mode=padding)
        return np.asarray(resample_(tensor, dst_affine=torch.from_numpy(back), spatial_size=size).numpy())

    soft = torch.softmax(torch.from_numpy(scores), dim=0).numpy()
    found = resampling.labels_askew(scores, back, out=np.empty(size, np.uint8), padding=padding, activation="softmax")
    assert (found != monai(soft, "bilinear").argmax(axis=0)).mean() <= 1e-3
    best = scores.argmax(axis=0).astype(np.uint8)
    nearest = resampling.nearest_askew(best, back, out=np.empty(size, np.uint8), padding=padding)
    assert np.array_equal(nearest, monai(best[None].astype(np.float32), "nearest")[0])


def test_values_are_scaled_and_clipped_on_the_way_and_nan_stays() -> None:
    values = np.array([[[-1000.0, 0.0, 500.0, 2000.0, np.nan]]], np.float32)
    axes = [axis_of(np.arange(size, dtype=np.float64), size) for size in values.shape]
    found = resample(values, axes, scale=Scale(minus=-500.0, times=0.001, lowest=0.0, highest=1.0))
    assert np.allclose(found, [[[0.0, 0.5, 1.0, 1.0, np.nan]]], equal_nan=True)


def test_what_lies_between_equal_values_is_that_value() -> None:
    """Air at the lower bound of a range must not become a little more than nothing."""
    values = np.full((7, 9, 8), -1024, np.int16)
    axes = [axis_of(np.linspace(0, size - 1, 40), size) for size in values.shape]
    found = resample(values, axes, scale=Scale(minus=-1024, times=1 / 2072))
    assert not found.any()


def test_where_something_hangs_on_a_value_it_is_met_as_torch_meets_it() -> None:
    rng = rng_of(31)
    values = rng.integers(-3, 4, (14, 13, 12)).astype(np.int16)
    places = [np.linspace(0.5, 10.5, 6), np.linspace(0.25, 11.25, 12), np.linspace(0.5, 10.5, 11)]
    axes = [axis_of(each, size) for each, size in zip(places, values.shape, strict=True)]
    found = resample(values, axes, exact=1.0)
    expected = by_scipy(values, places).astype(np.float32)
    assert np.array_equal(found == 1, expected == 1)
    assert (expected == 1).any()


def test_memory_that_may_not_be_written_to_is_read() -> None:
    values = volume(rng_of(3), (3, 4, 5))
    values.flags.writeable = False
    axes = [axis_of(np.arange(size, dtype=np.float64), size) for size in values.shape]
    compiled = len(resampling._resample.signatures)
    assert np.array_equal(resample(values, axes), values)
    assert len(resampling._resample.signatures) <= compiled + 1


def largest_by_scipy(scores: NDArray[np.float32], places: Any, *, softmax: bool) -> NDArray[np.int64]:
    values = scores.astype(np.float64)
    if softmax:
        values = np.exp(values - values.max(axis=0))
        values /= values.sum(axis=0)
    return np.asarray(np.stack([by_scipy(each, places) for each in values]).argmax(axis=0))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_labels_are_those_of_scores_interpolated_by_scipy_whole_or_in_parts(softmax: bool, smooth: bool) -> None:
    different = voxels = 0
    for trial in range(25):
        rng = rng_of(4, trial, softmax, smooth)
        shape, sizes, classes = rng.integers(1, 10, 3), rng.integers(1, 24, 3), int(rng.integers(1, 7))
        scores = rng.normal(0, 2, (classes, *shape)).astype(np.float32)
        if smooth:
            scores = ndimage.gaussian_filter(scores, (0, 1.5, 1.5, 1.5)) * 10
        places = somewhere(rng, shape, sizes)
        axes = [axis_of(each, int(size)) for each, size in zip(places, shape, strict=True)]
        order = rng.permutation(3)
        whole = np.full(sizes[order], 99, np.uint8).transpose(np.argsort(order))
        labels_of_scores(scores, axes, out=whole, activation="softmax" if softmax else None)
        parted = np.full(sizes, 98, np.uint8)
        by_parts = LabelsByParts(shape.tolist(), axes, out=parted, activation="softmax" if softmax else None)
        cuts = [0, *sorted(set(rng.integers(1, shape[0] + 1, 3).tolist()) - {int(shape[0])}), int(shape[0])]
        for first, end in itertools.pairwise(cuts):
            by_parts.add(first, scores[:, first:end])
        expected = largest_by_scipy(scores, places, softmax=softmax)
        assert np.array_equal(whole, parted)
        different += int((whole != expected).sum())
        voxels += expected.size
    assert different <= 1e-5 * voxels  # two classes may be equally large but for rounding


def test_beyond_a_part_of_something_larger_there_is_nothing() -> None:
    """Scores of a box that was cut out of 12 voxels a side: around it all are 0, which is class 0."""
    rng = rng_of(5)
    box = rng.normal(0, 2, (3, 5, 6, 4)).astype(np.float32)
    whole = np.zeros((3, 12, 12, 12), np.float32)
    whole[:, 3:8, 4:10, 7:11] = box
    places = [np.linspace(-1, 12, 37), np.linspace(12, -1, 29), np.linspace(-1, 12, 31)]
    inside = [
        axis_of(each, size, start=start, whole=12)
        for each, size, start in zip(places, box.shape[1:], (3, 4, 7), strict=True)
    ]
    found = labels_of_scores(box, inside, out=np.full((37, 29, 31), 9, np.uint8))
    assert np.array_equal(found, largest_by_scipy(whole, places, softmax=False))
    assert np.allclose(resample(box[1], inside), by_scipy(whole[1], places), atol=1e-5)


def test_of_equally_large_scores_the_first_class_holds() -> None:
    scores = np.ones((3, 2, 2, 2), np.float32)
    axes = [axis_of(np.linspace(0, 1, 5), 2)] * 3
    assert not labels_of_scores(scores, axes, out=np.full((5, 5, 5), 7, np.uint8)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    scores = np.zeros((2, 3, 3, 3), np.float32)
    scores[1, 2, 1, 0] = bad
    with pytest.raises(ValueError, match="expected finite scores, found NaN or infinity"):
        labels_of_scores(scores, [axis_of(np.arange(3.0), 3)] * 3, out=np.empty((3, 3, 3), np.uint8))


def test_what_are_not_the_next_planes_is_refused() -> None:
    parts = LabelsByParts((4, 2, 2), [axis_of(np.arange(4.0), 4), *[axis_of(np.arange(2.0), 2)] * 2], out=labels())
    parts.add(0, np.zeros((2, 2, 2, 2), np.float32))
    with pytest.raises(ValueError, match="expected scores from plane 2 on"):
        parts.add(3, np.zeros((2, 1, 2, 2), np.float32))
    with pytest.raises(ValueError, match=f"expected at most {MOST_CLASSES} classes, found 256"):
        parts.add(2, np.zeros((256, 2, 2, 2), np.float32))


def labels() -> NDArray[np.uint8]:
    return np.empty((4, 2, 2), np.uint8)


def test_the_nearest_label_is_taken_and_none_from_beside() -> None:
    rng = rng_of(6)
    for _ in range(10):
        values = turned(volume(rng, rng.integers(1, 7, 3), "uint8"), rng)
        indices = [rng.integers(-1, size, 9) for size in values.shape]
        expected = np.pad(values, [(0, 1)] * 3)[np.ix_(*indices)]  # -1 is the last: the padding
        found = resampling.nearest(values, indices, out=np.empty((9, 9, 9), np.uint8).transpose(2, 0, 1))
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("size", [1, 2, 1000, 200_001])
def test_statistics_are_numpys(size: int, nonzero: bool) -> None:
    values = rng_of(7, size).normal(1000, 3, size).astype(np.float32)
    values[::3] = 0
    kept = values[values != 0] if nonzero else values
    found = resampling.statistics(values, nonzero=nonzero)
    assert found.voxels == len(kept)
    if len(kept):
        exact = kept.astype(np.float64)
        assert np.allclose(found[1:], (exact.mean(), exact.std(), kept.min(), kept.max()), rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 5000, 300_000])
def test_percentiles_are_numpys(size: int) -> None:
    wanted = [0, 0.5, 1, 33, 50, 99, 99.5, 100]
    for values in (
        rng_of(8, size).normal(0, 3, size),
        rng_of(9, size).integers(0, 3, size),  # most values are equal
        rng_of(10, size).standard_cauchy(size),  # and some are far away
    ):
        single = values.astype(np.float32)
        assert np.allclose(resampling.percentiles(single, wanted), np.percentile(single.astype(np.float64), wanted))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_percentiles_of_what_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        resampling.percentiles(np.array([1, bad, 2], np.float32), [50])
    with pytest.raises(ValueError, match="found none"):
        resampling.percentiles(np.empty(0, np.float32), [50])


def test_the_box_around_what_is_above_zero() -> None:
    rng = rng_of(11)
    for _ in range(20):
        values = (rng.random(rng.integers(1, 8, 3)) > rng.uniform(0.5, 1)).astype(np.float32) - 0.5
        found = resampling.box_above_zero(values)
        places = np.argwhere(values > 0)
        if not len(places):
            assert found is None
        else:
            assert found is not None
            assert np.array_equal(found, (places.min(axis=0), places.max(axis=0) + 1))


def test_scaling_in_place_leaves_zeros_if_asked_to() -> None:
    values = np.array([0.0, 1.0, 2.0, np.nan], np.float32)
    resampling.scale_in_place(values, Scale(times=2.0, plus=1.0, highest=4.0), nonzero=True)
    assert np.allclose(values, [0.0, 3.0, 4.0, np.nan], equal_nan=True)

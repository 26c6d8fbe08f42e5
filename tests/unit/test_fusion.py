"""What runs by Coread's kernels gives what MONAI's transforms give, and leaves behind what they leave behind; what is
not recognised, class and arguments, runs as it stands.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms as monai
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from scipy import ndimage

from coread.errors import ModelError
from coread.models.bundle.fused import FusedPreprocessing, Skipped
from coread.models.bundle.fusion import Fusion, fuse, fuse_window
from coread.models.bundle.fusion_check import on_boundary
from coread.models.bundle.grid import ModelGrid
from coread.models.bundle.in_memory import Feed, Keepd, TakeImaged
from coread.volume import Volume
from tests.support import PLANES, volume_in_plane

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

Chain = Sequence[Callable[[], Any]]
CLOSE = 1e-5
"""Of the image's range: float32, rounded in another order."""


def smooth(plane: str, shape: tuple[int, int, int] = (14, 26, 22), kind: str = "int16", seed: int = 3) -> Volume:
    """A volume with structures of several voxels, and air around them."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, shape), 1.5)
    values = np.rint(values / values.std() * 300)
    values[:, :3] = values[:, :, -2:] = values[0] = 0
    return volume_in_plane(plane, shape=shape, array=values.astype(kind))


def chain_of(feed: Feed, parts: Chain) -> monai.Compose:
    return monai.Compose([TakeImaged("image", feed), *(part() for part in parts)])


class Both:
    """A chain, and the postprocessing after it, through MONAI and fused."""

    def __init__(self, parts: Chain, after: Callable[[monai.Compose], list[Any]] = lambda _: [], channels: int = 1):
        self.feeds = [Feed([None] * channels), Feed([None] * channels)]
        self.chains = [chain_of(feed, parts) for feed in self.feeds]
        self.posts = [monai.Compose(after(chain)) for chain in self.chains]
        self.fusion = fuse(self.chains[1], self.posts[1])

    def images(self, *volumes: Volume, orientation: str | None = None) -> list[dict[str, Any]]:
        grid = ModelGrid.of(volumes[0], orientation, projection=False)
        found = []
        for feed, chain in zip(self.feeds, self.chains, strict=True):
            feed.start([grid.image(each) for each in volumes], {})
            found.append(dict(chain({"image": None})))
        return found

    def results(self, images: Sequence[dict[str, Any]], scores: torch.Tensor) -> list[dict[str, Any]]:
        return [dict(post({**image, "pred": scores.clone()})) for post, image in zip(self.posts, images, strict=True)]


def same_values(one: Any, other: Any) -> bool:
    """Whether two records of what was done are the same, numbers within rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_values(one[key], other[key]) for key in one if key != "id")
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_values, one, other))
    if isinstance(one, np.ndarray | torch.Tensor | float):
        return bool(np.allclose(np.asarray(one), np.asarray(other), atol=1e-9, equal_nan=True))
    return bool(one == other)


def assert_same(plain: dict[str, Any], fused: dict[str, Any], key: str = "image", few: float = 0.0) -> None:
    """``few``: share of the voxels that may differ."""
    expected, found = plain[key], fused[key]
    assert isinstance(found, MetaTensor)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    span = CLOSE * float(expected.max() - expected.min() or 1.0)
    away = (found.as_tensor() - expected.as_tensor()).abs() > span
    assert float(away.float().mean()) <= few
    assert np.allclose(found.affine, expected.affine, atol=1e-9)
    assert same_values(dict(found.meta), dict(expected.meta))
    assert same_values(found.applied_operations, expected.applied_operations)
    others = {name for name in plain if name != key}
    assert others == {name for name in fused if name != key}
    assert all(same_values(plain[name], fused[name]) for name in others if not isinstance(plain[name], torch.Tensor))


def first() -> Any:
    return monai.EnsureChannelFirstd("image")


def turn(codes: str = "RAS") -> Any:
    return monai.Orientationd("image", axcodes=codes, labels=None)


def space(*pixdim: float, **more: Any) -> Any:
    return monai.Spacingd("image", pixdim=pixdim, mode="bilinear", **more)


def window(**more: Any) -> Any:
    return monai.ScaleIntensityRanged("image", a_min=-500, a_max=700, b_min=0, b_max=1, clip=True, **more)


def foreground(**more: Any) -> Any:
    return monai.CropForegroundd("image", source_key="image", **{"allow_smaller": True, **more})


def percentiles(**more: Any) -> Any:
    return monai.ScaleIntensityRangePercentilesd(
        "image", **{"lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True, **more}
    )


CHAINS: dict[str, Chain] = {
    "turned": [first, turn],
    "turned another way": [first, lambda: turn("SPL")],
    "resampled": [first, lambda: space(1.5, 1.2, 2.5)],
    "as it is": [first, lambda: space(-1, -1, -1), window],
    "one axis": [first, lambda: space(2.1, 2.1, -1)],
    "zeros beyond": [first, turn, lambda: space(1.3, 1.3, 1.3, padding_mode="zeros")],
    "corners aligned": [first, turn, lambda: space(1.3, 1.9, 3.1, align_corners=True)],
    "along the patient": [first, lambda: space(2, 2, 2, diagonal=True), window],
    "extent kept": [first, turn, lambda: space(1.7, 1.7, 1.7, scale_extent=True)],
    "float32": [first, turn, lambda: space(1.7, 1.7, 1.7, dtype=np.float32)],
    "CT": [first, turn, lambda: space(1.5, 1.5, 1.5), window, foreground],
    "CT without clip": [
        first,
        turn,
        lambda: space(1.5, 1.5, 1.5),
        lambda: monai.ScaleIntensityRanged("image", a_min=-500, a_max=700),
        lambda: foreground(margin=2, allow_smaller=False, k_divisible=4),
        lambda: monai.EnsureTyped("image"),
    ],
    "whole body": [
        lambda: monai.EnsureTyped("image"),
        first,
        turn,
        lambda: space(2, 2, 2),
        lambda: monai.NormalizeIntensityd("image", nonzero=True),
        lambda: monai.ScaleIntensityd("image", minv=-1.0, maxv=1.0),
    ],
    "MR": [first, turn, lambda: space(1.1, 1.1, 1.1), lambda: monai.NormalizeIntensityd("image"), lambda: divisible(8)],
    "padded before the scale": [
        first,
        turn,
        lambda: space(2, 2, 2),
        lambda: monai.SpatialPadd("image", spatial_size=(40, 10, 60), method="end"),
        window,
    ],
    "cut and padded": [
        first,
        lambda: space(1.8, 1.8, -1),
        lambda: monai.ResizeWithPadOrCropd("image", spatial_size=(40, 12, -1)),
        percentiles,
    ],
    "the middle": [
        first,
        turn,
        lambda: monai.CenterSpatialCropd("image", roi_size=(10, -1, 9)),
        lambda: percentiles(lower=0.5, upper=99.5, b_min=None, b_max=None, clip=False),
        lambda: monai.CastToTyped("image", dtype=np.float32),
        lambda: monai.SpatialPadd("image", spatial_size=(21, 30, 12)),
    ],
    "scaled only": [first, lambda: monai.ScaleIntensityd("image")],
    "in a chain of its own": [first, lambda: monai.Compose([turn(), monai.Compose([space(1.4, 1.4, 2.2)])]), window],
}


def divisible(k: int) -> Any:
    return monai.DivisiblePadd("image", k=k)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_gives_what_monai_gives_and_leaves_behind_what_it_leaves(name: str, plane: str) -> None:
    both = Both(CHAINS[name])
    plain, fused = both.images(smooth(plane))
    # Whether an interpolated value is 0 exactly hangs on rounding, and MONAI scales what is not.
    assert_same(plain, fused, few=1e-3 if name == "whole body" else 0.0)
    assert both.fusion.run.other_case == ""
    assert both.fusion.is_complete
    assert isinstance(both.chains[1].transforms[0], FusedPreprocessing)
    assert len(both.chains[1].transforms) == len(both.chains[0].transforms)


@pytest.mark.parametrize("kind", ["int16", "uint16", "uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("orientation", [None, "LPS", "SAR"])
def test_any_type_of_voxel_and_any_orientation_that_the_manifest_names(kind: str, orientation: str | None) -> None:
    volume = smooth("oblique", kind="int16")
    volume = volume.with_array(np.abs(volume.array % 200).astype(kind))
    volume.array.flags.writeable = False
    plain, fused = Both(CHAINS["CT"]).images(volume, orientation=orientation)
    assert_same(plain, fused)


@pytest.mark.parametrize("shape", [(1, 20, 18), (2, 9, 9), (7, 1, 8), (1, 1, 5), (40, 6, 5)])
def test_axes_of_one_or_two_voxels(shape: tuple[int, int, int]) -> None:
    for name in ("CT", "MR", "cut and padded", "zeros beyond", "corners aligned"):
        values = np.random.default_rng(5).integers(1, 400, shape).astype(np.int16)
        both = Both(CHAINS[name])
        plain, fused = both.images(volume_in_plane("axial", shape=shape, array=values))
        assert_same(plain, fused)


@pytest.mark.parametrize("channel_wise", [False, True])
def test_several_channels(channel_wise: bool) -> None:
    parts: Chain = [
        lambda: monai.Spacingd("image", pixdim=(1.5, 1.5, 1.5), mode="bilinear"),
        lambda: monai.NormalizeIntensityd("image", nonzero=True, channel_wise=channel_wise),
        lambda: monai.ScaleIntensityd("image", channel_wise=channel_wise),
        lambda: percentiles(channel_wise=channel_wise),
        foreground,
    ]
    both = Both(parts, channels=3)
    plain, fused = both.images(*(smooth("coronal", seed=seed) for seed in range(3)))
    assert both.fusion.run.other_case == ""
    assert_same(plain, fused, few=1e-3)


def scores_for(image: MetaTensor, classes: int = 4, seed: int = 8) -> MetaTensor:
    """As of a network: structures of several voxels."""
    size = tuple(image.shape[1:])
    noise = np.random.default_rng(seed).normal(0, 1, (classes, *size))
    return MetaTensor(torch.from_numpy((ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5)) * 40).astype(np.float32)))


def softmax() -> Any:
    return monai.Activationsd("pred", softmax=True)


def invert(chain: Any, *, nearest: bool = False, **more: Any) -> Any:
    return monai.Invertd("pred", transform=chain, orig_keys="image", nearest_interp=nearest, **more)


def argmax() -> Any:
    return monai.AsDiscreted("pred", argmax=True)


AFTER: dict[str, Callable[[Any], list[Any]]] = {
    "softmax, back, largest": lambda chain: [softmax(), invert(chain), argmax()],
    "back, largest": lambda chain: [invert(chain), argmax()],
    "softmax, largest, back": lambda chain: [softmax(), argmax(), invert(chain, nearest=True)],
    "largest, back": lambda chain: [argmax(), invert(chain, nearest=True)],
    "back to the nearest, largest": lambda chain: [softmax(), invert(chain, nearest=True), argmax()],
    "typed between": lambda chain: [softmax(), monai.EnsureTyped("pred"), invert(chain), argmax()],
    "then saved": lambda chain: [softmax(), invert(chain), argmax(), Keepd("pred", Feed([None]))],
    "probabilities": lambda chain: [softmax(), invert(chain)],
    "threshold": lambda chain: [
        monai.Activationsd("pred", sigmoid=True),
        invert(chain),
        monai.AsDiscreted("pred", threshold=0.5),
    ],
    "copied and weighed": lambda chain: [
        softmax(),
        invert(chain),
        monai.CopyItemsd("pred", names="probability"),
        monai.Lambdad("pred", func=lambda pred: pred * torch.tensor([1.0, 0.7, 1.0, 1.2]).view(-1, 1, 1, 1)),
        argmax(),
    ],
    "largest component, back": lambda chain: [
        softmax(),
        argmax(),
        monai.KeepLargestConnectedComponentd("pred", applied_labels=[1, 2], is_onehot=False),
        invert(chain, nearest=True),
    ],
}
INVERTED = (
    "CT",
    "MR",
    "cut and padded",
    "the middle",
    "along the patient",
    "zeros beyond",
    "corners aligned",
    "as it is",
    "turned",
)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("name", INVERTED)
def test_what_the_network_gave_comes_back_as_monai_brings_it(name: str, plane: str) -> None:
    for after, make in AFTER.items():
        both = Both(CHAINS[name], make)
        images = both.images(smooth(plane))
        plain, fused = both.results(images, scores_for(images[0]["image"]))
        assert both.fusion.run.other_case == "", after
        for key in ("pred", "probability"):
            if key not in plain:
                continue
            expected, found = plain[key], fused[key]
            assert found.shape == expected.shape, after
            assert np.allclose(found.affine, expected.affine, atol=1e-6)
            assert same_values(found.applied_operations, expected.applied_operations)
            if after == "probabilities" or key == "probability":
                assert np.allclose(found.numpy(), expected.numpy(), atol=2e-5), after
            else:
                by_nearest = "nearest" in after or "largest, back" in after or "component, back" in after
                assert_same_labels(found.numpy(), expected.numpy(), both if by_nearest else None)


def assert_same_labels(found: Any, expected: Any, by_nearest: Both | None = None) -> None:
    """But for a few on boundaries, or right between two voxels, where rounding decides which is the nearest."""
    differing = found != expected
    assert differing.mean() <= (1e-2 if by_nearest else 2e-4)
    for labels, wrong in zip(expected, differing, strict=True):
        assert on_boundary(labels.astype(np.uint8))[wrong].all()
    if by_nearest is not None and differing.any():
        placement = by_nearest.fusion.run.placement
        assert placement is not None
        places = np.argwhere(differing[0]) @ placement.back[:3, :3].T + placement.back[:3, 3]
        assert (np.abs(places - np.floor(places) - 0.5).min(axis=1) < 1e-12).all()


def test_labels_stay_float_for_transforms_that_are_not_known_and_are_bytes_for_the_end() -> None:
    for more, kind in (([], torch.uint8), ([monai.Lambdad("pred", func=lambda x: x - 1)], torch.float32)):

        def after(chain: Any, more: Any = more) -> list[Any]:
            return [softmax(), invert(chain), argmax(), *more]

        both = Both(CHAINS["CT"], after)
        images = both.images(smooth("axial"))
        plain, fused = both.results(images, scores_for(images[0]["image"]))
        assert fused["pred"].dtype == kind
        assert np.array_equal(plain["pred"].numpy(), fused["pred"].numpy())


def test_monais_own_inversion_undoes_what_was_fused() -> None:
    """An Invertd that is not recognised finds all that it needs."""
    for name in CHAINS:
        both = Both(CHAINS[name], lambda chain: [invert(chain, post_func=lambda x: x * 2)])
        images = both.images(smooth("oblique"))
        assert not both.fusion.postprocessing
        plain, fused = both.results(images, scores_for(images[0]["image"]))
        assert np.allclose(plain["pred"].numpy(), fused["pred"].numpy(), atol=1e-5)


class Subclass(monai.ScaleIntensityRanged):
    """One that may do anything."""


ALTERED: dict[str, tuple[Callable[[], Any], str]] = {
    "another selection": (lambda: foreground(select_fn=lambda x: x > 0.5), "its `select_fn` is"),
    "a channel of the foreground": (lambda: foreground(channel_indices=[0]), "its `channel_indices` is"),
    "other padding of the foreground": (lambda: foreground(mode="edge"), "its `mode` is"),
    "a value of padding": (lambda: monai.SpatialPadd("image", spatial_size=30, constant_values=2), "its `kwargs` is"),
    "reflection": (lambda: monai.DivisiblePadd("image", k=16, mode="reflect"), "its `mode` is"),
    "a lambda": (lambda: monai.Lambdad("image", func=lambda x: x * 2), "it is none of those that are known"),
    "a subclass": (lambda: Subclass("image", a_min=0, a_max=9), "it is none of those that are known"),
    "chance": (lambda: monai.RandScaleIntensityd("image", factors=0.0), "it is none of those that are known"),
    "several keys": (lambda: monai.ScaleIntensityd(["image", "label"], allow_missing_keys=True), "it is for image"),
    "another type": (lambda: monai.ScaleIntensityd("image", dtype=np.float64), "its `dtype` is"),
    "a factor": (lambda: monai.ScaleIntensityd("image", minv=None, maxv=None, factor=0.5), "it scales by a factor"),
    "numbers of its own": (
        lambda: monai.NormalizeIntensityd("image", np.array(0.1), np.array(2.0)),
        "numbers of its own",
    ),
    "a second resampling": (lambda: space(3, 3, 3), "it turns or resamples what was already cut or scaled"),
    "lazy": (lambda: monai.SpatialPadd("image", spatial_size=30, lazy=True), "it is lazy"),
    "relative percentiles": (lambda: percentiles(relative=True), "its `relative` is"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_what_is_not_recognised_runs_as_it_stands_and_so_does_all_after_it(name: str) -> None:
    make, why = ALTERED[name]
    both = Both([first, turn, lambda: space(2, 2, 2), window, make, foreground], AFTER["softmax, back, largest"])
    if name != "lazy":  # of which MONAI itself, called one by one, makes no image
        images = both.images(smooth("sagittal"))
        assert_same(images[0], images[1])
        plain, fused = both.results(images, scores_for(images[0]["image"]))
        assert np.array_equal(plain["pred"].numpy(), fused["pred"].numpy())
    assert not both.fusion.is_complete
    assert not both.fusion.postprocessing
    assert why in both.fusion.not_fused[0]
    assert both.fusion.not_fused[1] == "inversion not fused: not all of the preprocessing is"
    kinds = [type(each) for each in both.chains[1].transforms]
    assert kinds[:5] == [FusedPreprocessing, Skipped, Skipped, Skipped, Skipped]
    assert kinds[6] is monai.CropForegroundd


@pytest.mark.parametrize(
    ("space_of", "why"),
    [
        (lambda: space(2, 2, 2, recompute_affine=True), "its `recompute_affine` is True"),
        (lambda: monai.Spacingd("image", pixdim=2.0, mode="nearest"), "its `mode` is ['nearest']"),
        (lambda: monai.Spacingd("image", pixdim=2.0, mode=["nearest"]), "its `mode` is ['nearest']"),
        (lambda: space(2, 2, 2, padding_mode="reflection"), "its `padding_mode` is reflection"),
    ],
)
def test_resampling_with_unusual_arguments_is_left_to_monai(space_of: Callable[[], Any], why: str) -> None:
    both = Both([first, turn, space_of, window])
    plain, fused = both.images(smooth("axial"))
    assert_same(plain, fused)
    assert why in both.fusion.not_fused[0]


NOT_BACK: dict[str, tuple[Callable[[Any], list[Any]], str]] = {
    "another chain": (
        lambda _: [invert(monai.Compose([turn()])), argmax()],
        "it undoes something else than the preprocessing",
    ),
    "twice": (lambda chain: [invert(chain), invert(chain)], "there are several"),
    "a function after it": (lambda chain: [invert(chain, post_func=torch.sigmoid)], "a `post_func`"),
}


@pytest.mark.parametrize("name", NOT_BACK)
def test_an_inversion_that_is_not_recognised_runs_as_it_stands(name: str) -> None:
    make, why = NOT_BACK[name]
    both = Both(CHAINS["CT"], make)
    assert not both.fusion.postprocessing
    assert why in both.fusion.not_fused[0]


@pytest.mark.parametrize(
    "decision",
    [
        lambda: monai.AsDiscreted("pred", argmax=True, to_onehot=4),
        lambda: monai.AsDiscreted("pred", argmax=True, threshold=0.5),
        lambda: monai.AsDiscreted("pred", argmax=True, rounding="torchrounding"),
        lambda: monai.AsDiscreted("pred", argmax=True, dim=0, keepdim=True),
        lambda: monai.Lambdad("pred", func=lambda x: x.argmax(dim=0, keepdim=True)),
    ],
)
def test_a_decision_that_is_not_recognised_gets_interpolated_scores(decision: Callable[[], Any]) -> None:
    both = Both(CHAINS["CT"], lambda chain: [softmax(), invert(chain), decision()])
    assert both.fusion.postprocessing == ("Invertd",)
    images = both.images(smooth("coronal"))
    plain, fused = both.results(images, scores_for(images[0]["image"]))
    assert_same_labels(fused["pred"].numpy(), plain["pred"].numpy())


def test_where_a_case_is_another_than_expected_the_transforms_themselves_run() -> None:
    flat = smooth("axial").with_array(np.full((14, 26, 22), 7, np.int16))
    parts: Chain = [first, turn, lambda: space(2, 2, 2), lambda: monai.ScaleIntensityd("image")]
    both = Both(parts, AFTER["softmax, back, largest"])
    images = both.images(flat)
    assert both.fusion.run.other_case == "the image is the same everywhere, or not of numbers"
    assert_same(images[0], images[1])
    plain, fused = both.results(images, scores_for(images[0]["image"]))
    assert np.array_equal(plain["pred"].numpy(), fused["pred"].numpy())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_what_monai_makes_of_them(bad: float) -> None:
    both = Both(CHAINS["CT"], AFTER["softmax, back, largest"])
    images = both.images(smooth("axial"))
    scores = scores_for(images[0]["image"])
    scores[1, 3, 3, 3] = bad
    plain, fused = both.results(images, scores)
    assert both.fusion.run.other_case == "expected finite scores, found NaN or infinity"
    assert np.array_equal(plain["pred"].numpy(), fused["pred"].numpy())


def test_a_run_does_not_know_the_one_before() -> None:
    """An image that is another case must not be put where the one before lay."""
    both = Both([first, turn, lambda: space(2, 2, 2), lambda: monai.ScaleIntensityd("image")], AFTER["probabilities"])
    for volume in (
        smooth("axial"),
        smooth("axial").with_array(np.zeros((14, 26, 22))),
        smooth("sagittal", (9, 30, 11)),
    ):
        images = both.images(volume)
        plain, fused = both.results(images, scores_for(images[0]["image"]))
        assert np.allclose(plain["pred"].numpy(), fused["pred"].numpy(), atol=2e-5)
        assert tuple(fused["pred"].shape[1:]) == tuple(reversed(volume.spatial_shape))


def test_the_source_is_not_written_to_and_stays_the_callers() -> None:
    volume = smooth("axial", kind="float32")
    before = volume.array.copy()
    both = Both([first, lambda: monai.ScaleIntensityd("image"), lambda: divisible(16)])
    _, fused = both.images(volume)
    fused["image"][:] = -1
    assert np.array_equal(volume.array, before)


def test_nothing_is_replaced_where_there_is_nothing_to_be_won() -> None:
    both = Both([first, lambda: monai.EnsureTyped("image")])
    assert both.fusion.not_fused == ("preprocessing not fused: there is nothing to be won",)
    assert type(both.chains[1].transforms[0]) is TakeImaged
    assert Fusion().sentences() == []


def test_a_chain_that_stands_in_two_places_does_in_the_other_one_what_it_always_did() -> None:
    feeds = [Feed([None]), Feed([None])]
    found = []
    for feed in feeds:
        scaled = monai.Compose([monai.ScaleIntensityd("image", minv=0, maxv=5)])
        chain = monai.Compose(
            [TakeImaged("image", feed), first(), scaled, monai.Lambdad("image", func=lambda x: x**2), scaled]
        )
        if feed is feeds[1]:
            assert fuse(chain, monai.Compose([])).preprocessing == ("EnsureChannelFirstd", "ScaleIntensityd")
        feed.start([ModelGrid.of(smooth("axial"), None, projection=False).image(smooth("axial"))], {})
        found.append(chain({"image": None}))
    assert_same(*found)


def test_an_inversion_of_a_part_of_the_preprocessing_still_undoes_it() -> None:
    found = []
    for fused in (False, True):
        feed = Feed([None])
        spatial = monai.Compose([turn(), space(2, 2, 2)])
        chain = monai.Compose([TakeImaged("image", feed), first(), spatial])
        post = monai.Compose([invert(spatial), argmax()])
        if fused:
            fuse(chain, post)
        feed.start([ModelGrid.of(smooth("axial"), None, projection=False).image(smooth("axial"))], {})
        image = chain({"image": None})
        found.append(post({**image, "pred": scores_for(image["image"])}))
    assert_same(found[0], found[1], key="pred")


@pytest.mark.parametrize("dtype", [np.float64, torch.float64, np.float32, torch.float32, None])
@pytest.mark.parametrize("after", ["softmax, back, largest", "largest, back", "probabilities"])
def test_resampling_in_a_type_of_torchs_or_in_float32(dtype: Any, after: str) -> None:
    """Which plane is beyond the edge of what was cut, and which of two voxels is the nearest, is the same."""
    parts: Chain = [
        first,
        lambda: space(1.0, 1.5, 2.0, dtype=dtype, padding_mode="zeros"),
        lambda: monai.CenterSpatialCropd("image", roi_size=(9, 9, 4)),
    ]
    both = Both(parts, AFTER[after])
    assert "Spacingd" in both.fusion.preprocessing
    images = both.images(smooth("axial", (8, 17, 24)))
    plain, fused = both.results(images, scores_for(images[0]["image"]))
    in_double = dtype in (np.float64, torch.float64)
    assert in_double or both.fusion.run.other_case.startswith("the way back is gone in float32")
    assert np.allclose(plain["pred"].numpy(), fused["pred"].numpy(), atol=2e-5)


def test_a_loader_of_a_type_of_torchs_is_known() -> None:
    chain = monai.Compose([TakeImaged("image", Feed([None]), dtype=torch.float32), first(), window()])
    assert fuse(chain, monai.Compose([])).is_complete


class Mirroring(SupervisedEvaluator):
    """One that makes something of what its inferer gives."""

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        output = super()._iteration(engine, batchdata)
        output["pred"] = (output["pred"] + torch.flip(engine.inferer(output["image"], engine.network), (2,))) / 2
        return output


def evaluator_of(kind: type[SupervisedEvaluator], **more: Any) -> tuple[Any, Fusion]:
    feed = Feed([None])
    chain = chain_of(feed, CHAINS["CT"])
    post = monai.Compose([softmax(), invert(chain), argmax()])
    evaluator = kind(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{}], chain), batch_size=1),
        network=torch.nn.Conv3d(1, 3, 3, padding=1),
        inferer=SlidingWindowInferer((8, 8, 8), 1, 0.25),
        postprocessing=post,
        **more,
    )
    return evaluator, fuse(chain, post)


def test_an_evaluator_that_makes_something_of_scores_gets_scores() -> None:
    usual, fusion = evaluator_of(SupervisedEvaluator)
    fuse_window(usual, fusion)
    assert fusion.by_parts
    for of_its_own in (
        evaluator_of(Mirroring),
        evaluator_of(SupervisedEvaluator, iteration_update=lambda _engine, batch: batch),
    ):
        inferer = of_its_own[0].inferer
        fuse_window(*of_its_own)
        assert of_its_own[0].inferer is inferer
        assert not of_its_own[1].by_parts
        assert of_its_own[1].not_fused == ("scores are kept as a whole: the evaluator is of a kind of its own",)


def by_parts(after: str) -> tuple[Both, Any, dict[str, Any], Any]:
    both = Both(CHAINS["CT"], AFTER[after])
    image = both.images(smooth("axial"))[1]
    assert both.fusion.labels is not None
    assert both.fusion.run.placement is not None
    return both, both.fusion.labels.in_parts(both.fusion.run.placement), image, scores_for(image["image"]).numpy()


@pytest.mark.parametrize("after", ["softmax, back, largest", "largest, back"])
def test_labels_are_made_of_all_planes_of_the_networks_grid_in_their_order_or_not_at_all(after: str) -> None:
    _, parts, _, scores = by_parts(after)
    with pytest.raises(ValueError, match="expected scores on a grid"):
        parts.add(0, scores[..., :-1])
    with pytest.raises(ValueError, match="expected scores on a grid"):
        parts.add(1, scores[:, 1:])
    parts.add(0, scores[:, :2])
    with pytest.raises(ValueError, match="found 2"):
        parts.labels()
    with pytest.raises(ValueError, match="expected scores on a grid"):
        parts.add(2, scores)
    parts.add(2, scores[:, 2:])
    assert parts.labels().any()


def test_labels_that_somebody_touched_before_the_postprocessing_are_no_result() -> None:
    both, parts, image, scores = by_parts("softmax, back, largest")
    parts.add(0, scores)
    labels = parts.labels()
    assert both.fusion.run.placement is not None
    both.fusion.run.placement.labels = labels
    assert np.array_equal(both.posts[1]({**image, "pred": torch.from_numpy(labels)[None]})["pred"][0], labels)
    with pytest.raises((ModelError, RuntimeError)) as caught:
        both.posts[1]({**image, "pred": torch.from_numpy(labels.copy())[None]})
    assert "hand on what its inferer gives" in f"{caught.value} {caught.value.__cause__}"

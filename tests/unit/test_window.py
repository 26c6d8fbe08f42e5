"""Our sliding window gives what MONAI's gives, whole, in slabs, or the largest only."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer
from numpy.typing import NDArray
from torch import nn

from coread.models.forward.deciding import division_of
from coread.models.forward.window import SAME_SCORES, OtherOutput, SlidingWindow, plan_of

CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((23, 17, 31), {"roi_size": (8, 8, 8), "overlap": 0.5, "mode": "gaussian"}),
    ((23, 17, 31), {"roi_size": (8, 16, 4), "overlap": (0.25, 0.6, 0.0), "sw_batch_size": 3}),
    ((24, 16, 8), {"roi_size": (8, 8, 8), "overlap": 0.25, "mode": "gaussian", "sw_batch_size": 5}),
    ((5, 20, 6), {"roi_size": (8, 8, 8), "overlap": 0.3, "mode": "gaussian", "cval": 2.0}),
    ((5, 5, 5), {"roi_size": 8, "mode": "gaussian", "padding_mode": "replicate"}),
    ((6, 20, 7), {"roi_size": (8, 8, 8), "padding_mode": "reflect", "overlap": 0.9}),
    ((20, 9, 11), {"roi_size": (6, -1, 0), "overlap": 0.5, "mode": "gaussian", "sigma_scale": (0.2, 0.1, 0.3)}),
    ((19, 13, 12), {"roi_size": [8, 8, 8], "mode": "gaussian", "cache_roi_weight_map": True}),
    ((19, 13, 12), {"roi_size": (8, 8, 8), "buffer_steps": 2, "cpu_thresh": 10, "device": "cpu"}),
    ((30, 21), {"roi_size": (7, 9), "overlap": 0.5, "mode": "gaussian", "sw_batch_size": 4}),
    ((40,), {"roi_size": (9,), "overlap": 0.4}),
]


class Network(nn.Module):
    """Looks at neighbours and at the whole window, so that each window has something to say of its own."""

    def __init__(self, axes: int, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        self.layer = convolution(2, channels, 3, padding=1)
        self.calls: list[int] = []
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(image))
        return torch.as_tensor(self.layer(image)) + image.mean(dim=tuple(range(1, image.ndim)), keepdim=True)


def _image(size: tuple[int, ...], *, batch: int = 1) -> torch.Tensor:
    return torch.randn((batch, 2, *size), generator=torch.Generator().manual_seed(1))


def _ours(**arguments: Any) -> SlidingWindow:
    ours = SlidingWindow.of(SlidingWindowInferer(**arguments))
    assert ours is not None
    return ours


def _monai(image: torch.Tensor, network: nn.Module, **arguments: Any) -> Any:
    return SlidingWindowInferer(**arguments)(image, network)


def _agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= SAME_SCORES * float(theirs.abs().max())


@pytest.mark.parametrize(("size", "arguments"), CASES)
@torch.no_grad()
def test_scores_are_those_of_monai(size: tuple[int, ...], arguments: dict[str, Any]) -> None:
    network, image = Network(len(size)), _image(size, batch=2)
    _agree(_ours(**arguments)(image, network), _monai(image, network, **arguments))


@pytest.mark.parametrize(("size", "arguments"), CASES)
@torch.no_grad()
def test_slabs_are_the_whole_in_order_and_once(size: tuple[int, ...], arguments: dict[str, Any]) -> None:
    network, image = Network(len(size)), _image(size)
    whole = torch.full((3, *size), torch.nan)
    reached = 0
    for index, scores in _ours(**arguments).slabs(image, network):
        assert index == reached
        assert scores.shape[2:] == size[1:]
        whole[:, index : index + scores.shape[1]] = scores
        reached += scores.shape[1]
    assert reached == size[0]
    _agree(whole[None], _monai(image, network, **arguments))


def _largest(size: tuple[int, ...], arguments: dict[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Ours and MONAI's."""
    network, image = Network(3, channels=7), _image(size)
    theirs = _monai(image, network, **arguments)[0].argmax(0)
    return _ours(**arguments).largest(image, network), theirs.numpy().astype(np.uint8)


@pytest.mark.parametrize(("size", "arguments"), [case for case in CASES if len(case[0]) == 3])
@torch.no_grad()
def test_the_largest_are_those_of_monai(size: tuple[int, ...], arguments: dict[str, Any]) -> None:
    ours, theirs = _largest(size, arguments)
    np.testing.assert_array_equal(ours, theirs)


@torch.no_grad()
def test_the_largest_of_any_size_are_those_of_monai() -> None:
    chance = np.random.default_rng(12)
    for _ in range(40):
        arguments: dict[str, Any] = {
            "roi_size": chance.integers(2, 20, 3).tolist(),
            "overlap": chance.uniform(0, 0.9, 3).tolist(),
            "mode": "gaussian",
            "sw_batch_size": int(chance.integers(1, 4)),
        }
        ours, theirs = _largest(tuple(chance.integers(1, 24, 3).tolist()), arguments)
        np.testing.assert_array_equal(ours, theirs)


@torch.no_grad()
def test_air_between_other_windows_does_not_mix_up_their_order() -> None:
    image = _image((40, 12, 12))
    image[:, :, 8:24] = 0
    network, arguments = Network(3, channels=7), {"roi_size": (8, 8, 8), "sw_batch_size": 4, "mode": "gaussian"}
    theirs = _monai(image, network, **arguments)[0].argmax(0).numpy()
    np.testing.assert_array_equal(_ours(**arguments).largest(image, network), theirs)


@torch.no_grad()
def test_scores_that_are_no_numbers_are_refused() -> None:
    image = _image((20, 12, 12))
    image[0, 0, 13, 5, 5] = torch.inf
    with pytest.raises(ValueError, match="finite"):
        _ours(roi_size=(8, 8, 8), mode="gaussian").largest(image, Network(3))


@torch.no_grad()
def test_windows_of_which_a_voxel_does_not_count_are_left_to_others() -> None:
    weights = torch.ones(8, 8, 8)
    weights[0] = 0
    ours = _ours(roi_size=(8, 8, 8))
    ours.roi_weight_map = weights
    with pytest.raises(ValueError, match="weights"):
        ours.largest(_image((20, 12, 12)), Network(3))


def test_few_scores_wait_for_others_however_the_last_windows_lie() -> None:
    """Of 105 structures at 1.5 mm, all scores of half the image would be too many."""
    for size in ((256, 256, 300), (250, 262, 214), (243, 243, 243), (300, 220, 400)):
        plan = plan_of(size, (96, 96, 96), 0.25)
        division = division_of((96, 96, 96), plan.starts)
        cross_section = np.prod(sorted(size)[:2])
        assert division.slots() * division.slot < 48 * cross_section


@torch.no_grad()
def test_scores_lie_where_the_image_does() -> None:
    image = MetaTensor(_image((20, 9, 11)), meta={"filename_or_obj": "here"})
    arguments: dict[str, Any] = {"roi_size": (8, 8, 8)}
    ours, theirs = _ours(**arguments)(image, Network(3)), _monai(image, Network(3), **arguments)
    assert isinstance(ours, MetaTensor)
    assert torch.equal(ours.affine, theirs.affine)
    assert ours.meta.keys() == theirs.meta.keys()
    _agree(ours.as_tensor(), theirs.as_tensor())


@torch.no_grad()
def test_a_window_that_is_the_same_everywhere_is_answered_once() -> None:
    image = torch.zeros(1, 2, 64, 8, 8)
    image[..., 8:16, :, :] = _image((8, 8, 8))
    arguments: dict[str, Any] = {"roi_size": (8, 8, 8), "overlap": 0.0, "sw_batch_size": 2}
    network = Network(3)
    _agree(_ours(**arguments)(image, network), _monai(image, Network(3), **arguments))
    assert sum(network.calls) == 2
    network.train()  # chance may be part of its answers
    network.calls.clear()
    _ours(**arguments)(image, network)
    assert sum(network.calls) == 8


@torch.no_grad()
def test_air_is_skipped_only_where_the_package_says_what_it_is() -> None:
    image = _image((64, 8, 8)).clamp(-1, 1) * 0.1
    image[..., 8:16, :, :] += 5
    arguments: dict[str, Any] = {"roi_size": (8, 8, 8), "overlap": 0.5, "sw_batch_size": 2}
    skipping = SlidingWindow.of(SlidingWindowInferer(**arguments), air_at_most=0.1)
    network, all_read = Network(3), Network(3)
    assert skipping is not None
    skipped, read = skipping(image, network), _ours(**arguments)(image, all_read)
    assert sum(all_read.calls) == 15
    assert sum(network.calls) == 4  # three windows touch what is no air
    _agree(skipped[..., 8:16, :, :], read[..., 8:16, :, :])
    assert torch.equal(skipped[..., 48:52, :, :], skipped[..., 40:44, :, :])  # all air has the same answer
    assert not torch.equal(read[..., 48:52, :, :], read[..., 40:44, :, :])


@torch.no_grad()
def test_what_is_not_known_is_left_to_monai() -> None:
    class Pooled(Network):
        def forward(self, image: torch.Tensor) -> Any:
            return nn.functional.avg_pool3d(super().forward(image), 2)

    class Two(Network):
        def forward(self, image: torch.Tensor) -> Any:
            return super().forward(image), 2 * super().forward(image)

    arguments: dict[str, Any] = {"roi_size": (8, 8, 8), "overlap": 0.5, "mode": "gaussian"}
    image = _image((16, 16, 16))
    ours = _ours(**arguments)
    assert torch.equal(ours(image, Pooled(3)), _monai(image, Pooled(3), **arguments))
    assert torch.equal(ours(image, Two(3))[1], _monai(image, Two(3), **arguments)[1])
    with pytest.raises(OtherOutput, match="one tensor"):
        next(iter(_ours(**arguments).slabs(image, Pooled(3))))
    double = image.double()
    network = Network(3).double()
    assert torch.equal(_ours(**arguments)(double, network), _monai(double, network, **arguments))
    with pytest.raises(ValueError, match="float32"):
        next(iter(_ours(**arguments).slabs(double, network)))
    with pytest.raises(ValueError, match="dimensions"):
        _ours(roi_size=(8, 8))(image, network)


def test_inferers_of_other_classes_are_left_alone() -> None:
    class Own(SlidingWindowInferer):
        pass

    assert SlidingWindow.of(Own(roi_size=8)) is None
    assert SlidingWindow.of(SliceInferer(roi_size=(8, 8))) is None
    assert SlidingWindow.of(SlidingWindowInferer(roi_size=8, with_coord=True)) is None
    assert SlidingWindow.of(object()) is None

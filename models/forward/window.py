"""Sliding windows as MONAI's ``SlidingWindowInferer`` takes them, without what it does in vain.

The windows and their weights are planned once for a size of image, scores are added up in place, and they can be had
part by part as they become final: of 100 structures, the scores of a whole CT do not fit into a worker's memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.inferers.utils import _get_scan_interval
from monai.utils import (
    BlendMode,
    PytorchPadMode,
    convert_to_dst_type,
    ensure_tuple_rep,
    fall_back_tuple,
    look_up_option,
)
from numpy.typing import NDArray
from torch.nn import functional

from coread.kernels.resampling import largest
from coread.models.forward.deciding import Deciding, division_of

Network = Callable[..., Any]

_Waiting = tuple[tuple[int, ...], torch.Tensor, tuple[float, ...] | None]
"""A window's first voxel, what is seen in it, and the value that it has everywhere, if so."""

SAME_SCORES = 1e-5
"""How far a score may be from MONAI's, in parts of the largest: the same float32 sums, rounded in another order."""

VOLUME = 3
"""Axes."""

PLANS_KEPT = 8
"""Sizes of images of which the plan is kept."""


class OtherOutput(TypeError):
    """The network gives something else than one tensor of scores for each voxel of a window."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the windows of an image of one size lie."""

    window: tuple[int, ...]
    """Voxels along each axis."""
    image: tuple[int, ...]
    """Size of the image, filled up to a window where it is smaller."""
    padding: tuple[int, ...]
    """What it is filled up with, as ``torch.nn.functional.pad`` takes it: the last axis first, before and after."""
    starts: tuple[tuple[int, ...], ...]
    """Of each axis, where windows start, ascending. There is a window at each combination."""

    def inside(self, size: Sequence[int]) -> tuple[slice, ...]:
        """Where the image itself, of ``size``, lies in what was filled up."""
        return _box(self.padding[-2::-2], size)


@lru_cache(maxsize=PLANS_KEPT)
def plan_of(size: tuple[int, ...], roi_size: Sequence[int] | int, overlap: Sequence[float] | float) -> Plan:
    """The windows that MONAI takes of an image of ``size``."""
    window = tuple(int(each) for each in fall_back_tuple(roi_size, size))
    image = tuple(max(pair) for pair in zip(size, window, strict=True))
    missing = [whole - there for whole, there in zip(image, size, strict=True)]
    padding = tuple(part for each in reversed(missing) for part in (each // 2, each - each // 2))
    step = _get_scan_interval(image, window, len(size), ensure_tuple_rep(overlap, len(size)))
    corners = [tuple(int(each.start) for each in place) for place in dense_patch_slices(image, window, step)]
    starts = tuple(tuple(sorted(set(axis))) for axis in zip(*corners, strict=True))
    return Plan(window=window, image=image, padding=padding, starts=starts)


class SlidingWindow(SlidingWindowInferer):
    """In the place of MONAI's: the same scores within ``SAME_SCORES`` of the largest, sooner and with less memory.

    What it does not know (several outputs, another resolution, conditions, other types than float32) it leaves to
    MONAI's. A window in which every voxel is the same, such as the air around a patient, is answered once.
    """

    air_at_most: float | None = None
    """A window with nothing above this value, in what the network sees, is air: it is answered as one that is filled
    with this value. None: only windows that are the same everywhere are answered once, which changes nothing."""
    _is_foreign = False

    @classmethod
    def of(cls, inferer: object, *, air_at_most: float | None = None) -> "SlidingWindow | None":
        """One with the same arguments; None if the inferer is of another class, MONAI's own subclasses included, or has
        an argument that is left to MONAI.
        """
        if type(inferer) is not SlidingWindowInferer or inferer.with_coord:
            return None
        made = cls.__new__(cls)
        vars(made).update(vars(inferer))
        made.air_at_most = air_at_most
        return made

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        """As MONAI's: the scores, (batch, channel, …), for ``inputs`` (batch, channel, …)."""
        if args or kwargs or self._is_foreign or not self.takes(inputs):
            return super().__call__(inputs, network, *args, **kwargs)
        try:
            several = [self._scores(each[None], network) for each in _plain(inputs)]
        except OtherOutput:
            self._is_foreign = True
            return super().__call__(inputs, network)
        scores = several[0] if len(several) == 1 else torch.cat(several)  # of one image, they are not copied
        like = MetaTensor([]).copy_meta_from(inputs, copy_attr=False) if isinstance(inputs, MetaTensor) else inputs
        return convert_to_dst_type(scores, like, device=scores.device)[0]

    def takes(self, inputs: torch.Tensor) -> bool:
        """Whether such inputs are not left to MONAI's."""
        axes = inputs.ndim - 2
        fits = not isinstance(self.roi_size, Sequence) or len(self.roi_size) == axes
        overlaps = ensure_tuple_rep(self.overlap, axes) if fits and axes > 0 else (-1.0,)
        return inputs.dtype == torch.float32 and all(0 <= each < 1 for each in overlaps)

    def slabs(self, inputs: torch.Tensor, network: Network) -> Iterator[tuple[int, torch.Tensor]]:
        """The scores part by part, as soon as no further window touches them.

        ``inputs``: one image, (1, channel, …), float32. Gives (index along the first spatial axis, scores of the n
        planes from there on: (channel, n, …)), in order, each plane once. A part is a view that the next ones write
        over: copy what is to be kept. There are never more scores than one window reaches along the first axis.

        Raises ValueError for inputs that are left to MONAI's (``takes``), OtherOutput before the first part if the
        network gives something else than one tensor of scores: then only a call of the whole will do.
        """
        plan = self._checked(inputs)
        first, *others = plan.inside(inputs.shape[2:])
        total = _Sum(plan, planes=plan.window[0], weights=self._weights(plan, inputs), device=self._device(inputs))
        answers = self._answers(_plain(inputs), network, plan)
        ends = (*plan.starts[0][1:], plan.image[0])
        for start, end in zip(plan.starts[0], ends, strict=True):
            for corner, scores in answers.of((start, *rest) for rest in product(*plan.starts[1:])):
                total.add(corner, scores)
                del scores  # before the network gives others
            for index, part in total.finished(max(start, first.start), min(end, first.stop)):
                yield index - first.start, part[:, :, *others]
            total.forget(start, end)

    def largest(self, inputs: torch.Tensor, network: Network) -> NDArray[np.uint8]:
        """The channel with the largest score of each voxel, (i, j, k); the first, if several are.

        ``inputs``, and what is raised: as ``slabs`` has it; also ValueError if scores are not finite, or of too many
        channels, or windows' weights not all above 0.
        """
        plan = self._checked(inputs)
        inside = plan.inside(inputs.shape[2:])
        weights = self._weights(plan, inputs)
        if self._device(inputs).type != "cpu":  # all scores of each window would have to be copied from there
            classes = np.empty(inputs.shape[2:], np.uint8)
            for first, scores in self.slabs(inputs, network):
                largest(scores.cpu().numpy(), out=classes[first : first + scores.shape[1]])
            return classes
        if len(plan.window) != VOLUME:
            raise ValueError(f"expected a volume, found {len(plan.window)} axes")
        i, j, k = plan.window
        division = division_of((i, j, k), plan.starts)
        counts = np.ones(plan.window, np.float32) if weights is None else weights.numpy()
        deciding = Deciding(division, weights=counts)
        for _, scores in self._answers(_plain(inputs), network, plan).of(map(division.corner, division.order)):
            deciding.add(scores.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy())
            del scores  # before the network gives others
        return deciding.classes[inside]

    def _checked(self, inputs: torch.Tensor) -> Plan:
        """The plan for one image. Raises ValueError for what is left to MONAI's."""
        if len(inputs) != 1 or not self.takes(inputs):
            raise ValueError(f"expected one image in float32, found a batch of {len(inputs)} in {inputs.dtype}")
        return self._plan(inputs)

    def _scores(self, image: torch.Tensor, network: Network) -> torch.Tensor:
        """All of them, (1, channel, …), of one image."""
        plan = self._plan(image)
        total = _Sum(plan, planes=plan.image[0], weights=self._weights(plan, image), device=self._device(image))
        for corner, scores in self._answers(image, network, plan).of(product(*plan.starts)):
            total.add(corner, scores)
            del scores  # before the network gives others
        ((_, whole),) = total.finished(0, plan.image[0])
        return whole[None, :, *plan.inside(image.shape[2:])]

    def _plan(self, inputs: torch.Tensor) -> Plan:
        return plan_of(tuple(inputs.shape[2:]), _hashable(self.roi_size), _hashable(self.overlap))

    def _weights(self, plan: Plan, inputs: torch.Tensor) -> torch.Tensor | None:
        """How much each voxel of a window counts; None: all the same."""
        device = self._device(inputs)
        given = self.roi_weight_map
        if given is not None and tuple(given.shape) == plan.window:
            return given.to(device=device, dtype=torch.float32)
        if self.mode == BlendMode.CONSTANT:
            return None
        return _gaussian(plan.window, _hashable(self.sigma_scale), device)

    def _device(self, inputs: torch.Tensor) -> torch.device:
        """Where scores are added up."""
        large = self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh
        return torch.device(self.device or ("cpu" if large else inputs.device))

    def _answers(self, image: torch.Tensor, network: Network, plan: Plan) -> "_Answers":
        if any(plan.padding):
            mode = look_up_option(self.padding_mode, PytorchPadMode).value
            image = functional.pad(image, plan.padding, mode=mode, value=self.cval)
        return _Answers(
            image=image,
            network=network,
            window=plan.window,
            batch_size=1 if getattr(network, "takes_one", False) else self.sw_batch_size,
            device=torch.device(self.sw_device or image.device),
            air_at_most=self.air_at_most,
        )


@dataclass(kw_only=True)
class _Answers:
    """What a network says to the windows of an image."""

    image: torch.Tensor
    """(1, channel, …), filled up."""
    network: Network
    window: tuple[int, ...]
    batch_size: int
    device: torch.device
    air_at_most: float | None
    _of_equal: dict[tuple[float, ...], torch.Tensor] = field(default_factory=dict)
    """Value of each channel → the answer to a window that has it everywhere; the last such only."""

    def of(self, corners: Iterable[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """Each window's first voxel, and its scores (channel, …), in order. Raises OtherOutput."""
        waiting: list[_Waiting] = []
        for corner in corners:
            seen = self.image[:, :, *_box(corner, self.window)]
            waiting.append((corner, seen, self._same_everywhere(seen)))
            if sum(value is None for *_, value in waiting) == self.batch_size:
                yield from self._told(waiting)
                waiting = []
        yield from self._told(waiting)

    def _same_everywhere(self, seen: torch.Tensor) -> tuple[float, ...] | None:
        """The value of each channel that a window has everywhere, or counts as having; None: it differs."""
        if getattr(self.network, "training", False):  # chance may be part of the answer
            return None
        if self.air_at_most is not None and bool(seen.max() <= self.air_at_most):
            return (self.air_at_most,) * seen.shape[1]
        if self.image.is_cuda:  # a GPU would have to be waited for, at each window
            return None
        first: Any = (0,) * len(self.window)
        corner = seen[0, :, *first]
        if not torch.equal(seen, corner.view(1, -1, *(1,) * len(self.window)).expand_as(seen)):
            return None
        return tuple(corner.tolist())

    def _of_value(self, value: tuple[float, ...], *, like: torch.Tensor) -> torch.Tensor:
        if value not in self._of_equal:
            filled = torch.tensor(value, dtype=like.dtype, device=like.device).view(1, -1, *(1,) * len(self.window))
            self._of_equal = {value: self._ask(filled.expand_as(like).contiguous())[0].clone()}
        return self._of_equal[value]

    def _told(self, waiting: Sequence[_Waiting]) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        unlike = [seen for _, seen, value in waiting if value is None]
        answers = iter(self._ask(torch.cat(unlike)) if unlike else ())
        for corner, seen, value in waiting:
            yield corner, next(answers) if value is None else self._of_value(value, like=seen)

    def _ask(self, windows: torch.Tensor) -> torch.Tensor:
        scores = self.network(windows.to(self.device))
        if (
            not isinstance(scores, torch.Tensor)
            or tuple(scores.shape[2:]) != self.window
            or len(scores) != len(windows)
        ):
            raise OtherOutput(f"expected one tensor with scores for each voxel, found {type(scores).__name__}")
        return scores.as_tensor() if isinstance(scores, MetaTensor) else scores


class _Sum:
    """Weighted scores, added up in place, of as many planes at a time as there is room for: plane ``i`` of the image
    lies at ``i % planes``.
    """

    def __init__(self, plan: Plan, *, planes: int, weights: torch.Tensor | None, device: torch.device) -> None:
        self._plan, self._planes, self._weights, self._device = plan, planes, weights, device
        self._total: torch.Tensor | None = None
        self._count = torch.zeros((1, planes, *plan.image[1:]), device=device)

    def add(self, corner: tuple[int, ...], scores: torch.Tensor) -> None:
        """``scores``: (channel, …) of the window from ``corner`` on."""
        if self._total is None:
            self._total = torch.zeros((len(scores), *self._count.shape[1:]), device=self._device)
        scores = scores.to(device=self._device, dtype=torch.float32)
        others = _box(corner[1:], self._plan.window[1:])
        for planes, of_window in self._where(corner[0], corner[0] + self._plan.window[0]):
            place = (slice(None), planes, *others)
            if self._weights is None:
                self._total[place].add_(scores[:, of_window])
                self._count[place].add_(1)
            else:
                weights = self._weights[None, of_window]
                self._total[place].addcmul_(scores[:, of_window], weights)
                self._count[place].add_(weights)

    def finished(self, start: int, end: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The mean scores of these planes, (channel, n, …), in one or two parts. They are no sums any more then."""
        assert self._total is not None  # noqa: S101  # something was added
        for planes, part in self._where(start, end):
            yield start + part.start, self._total[:, planes].div_(self._count[:, planes])

    def forget(self, start: int, end: int) -> None:
        """Make room."""
        assert self._total is not None  # noqa: S101  # something was added
        for planes, _ in self._where(start, end):
            self._total[:, planes].zero_()
            self._count[:, planes].zero_()

    def _where(self, start: int, end: int) -> Iterator[tuple[slice, slice]]:
        """Where these planes lie here, and which part of them each is."""
        done = start
        while done < end:
            low = done % self._planes
            length = min(end - done, self._planes - low)
            yield slice(low, low + length), slice(done - start, done - start + length)
            done += length


@lru_cache(maxsize=PLANS_KEPT)
def _gaussian(window: tuple[int, ...], sigma_scale: Sequence[float] | float, device: torch.device) -> torch.Tensor:
    return compute_importance_map(window, mode=BlendMode.GAUSSIAN, sigma_scale=sigma_scale, device=device)


def _box(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(low, low + length) for low, length in zip(corner, size, strict=True))


def _plain(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value

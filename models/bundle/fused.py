"""A bundle's transforms, run by Coread's kernels in place of MONAI's: what the places of a recognised chain are filled
with.

MONAI itself says what each transform does to the grid: it is asked with a stand-in that has no voxels, lazily, so that
sizes and affines are its own to the last digit. What is done to voxels is done by ``coread.kernels.resampling``. What
comes out carries all that MONAI's transforms leave behind, so that others may follow, and can be undone by them.

Where a case turns out to be one that the kernels were not made for, the transforms themselves run, as if nothing had
been replaced.
"""

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL
from monai.inferers import Inferer
from monai.networks.layers import AffineTransform
from monai.networks.utils import to_norm_affine
from monai.transforms import CropForeground, InvertibleTransform, MapTransform, Transform
from monai.transforms.utils import compute_divisible_spatial_size
from monai.transforms.utils_pytorch_numpy_unification import allclose
from monai.utils import LazyAttr, TraceKeys
from numpy.typing import NDArray
from torch.nn import functional

from coread.errors import ModelError
from coread.kernels.resampling import (
    AS_IT_IS,
    Activation,
    Axis,
    LabelsByParts,
    Padding,
    Scale,
    axis_of,
    box_above_zero,
    labels_askew,
    largest,
    nearest,
    nearest_askew,
    percentiles,
    resample,
    resample_oblique,
    scale_in_place,
    statistics,
)
from coread.models.bundle.in_memory import TakeImaged
from coread.models.forward.window import OtherOutput, SlidingWindow

ALIGNED_VOXELS = 3e-4
"""An axis that leaves another by no more than this from end to end runs along it: headers have rounded directions."""

PLANES_AT_ONCE = 16
"""So many are made labels together: it takes memory for a part of their scores again."""
SAME_PLACE = 1e-9
"""Voxels."""
SAME_VALUE = 1e-5
"""Relative: values that differ by less differ by rounding only."""

Box = tuple[tuple[int, int], ...]
"""Along each axis, first index and last plus one."""


class OtherCase(Exception):  # no error: the transforms themselves run
    """A case that the kernels were not made for; why, in words."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A recognised transform."""

    transform: Any


class Nothing(Step):
    """It changes neither voxels nor grid."""


class ChannelFirst(Step):
    """It says which axis is the channels', which is known."""


class Turn(Step):
    """Axes change places and directions."""


@dataclass(frozen=True, kw_only=True)
class Space(Step):
    """Trilinear resampling."""

    padding: Padding
    align_corners: bool
    in_single: bool
    """Whether MONAI computes places in float32."""


class CropOrPad(Step):
    """Planes are cut off, or zeros added."""


class Foreground(Step):
    """All around what is above 0 is cut off."""


@dataclass(frozen=True, kw_only=True)
class Range(Step):
    """A linear scale."""

    scale: Scale


@dataclass(frozen=True, kw_only=True)
class Percentiles(Step):
    """A linear scale between two percentiles."""

    wanted: tuple[float, float]
    onto: tuple[float, float] | None
    clip: bool
    channel_wise: bool


@dataclass(frozen=True, kw_only=True)
class LeastToLargest(Step):
    """A linear scale between the least and the largest value."""

    onto: tuple[float, float]
    channel_wise: bool


@dataclass(frozen=True, kw_only=True)
class Normalise(Step):
    """Mean 0 and deviation 1."""

    nonzero: bool
    channel_wise: bool


@dataclass(frozen=True, kw_only=True)
class ToDevice(Step):
    """Onto the device that the bundle runs on."""

    device: torch.device


@dataclass(frozen=True, kw_only=True, eq=False)
class Spaced:
    """How MONAI resampled, in the numbers that it has for the way back: which of two voxels is the nearest where one
    lies right between them hangs on the last digit.
    """

    there: NDArray[np.float64]
    """(4, 4), from indices after to indices before resampling."""
    back: NDArray[np.float64]
    """(4, 4), from indices before to indices after resampling."""
    align_corners: bool
    in_single: bool
    """Whether it was done in float32."""
    sizes: tuple[int, ...]
    """Before."""
    to_image: NDArray[np.float64]
    """(4, 4), from indices before to the image's: turned, in whole steps."""


@dataclass(kw_only=True, eq=False)
class Placement:
    """How what the network sees in a run lies in the image that came in."""

    shape: tuple[int, ...]
    """Of the image, in the model's axes."""
    memory: tuple[int, ...]
    """These axes from the slowest to the fastest in the image's memory."""
    affine: torch.Tensor
    """Of the image."""
    whole: tuple[int, ...]
    """Size after resampling, before anything was cut off or added."""
    to_image: NDArray[np.float64]
    """(4, 4), from indices after resampling to the image's."""
    padding: Padding
    spaced: Spaced | None = None
    """How it was resampled, if it was."""
    start: tuple[int, ...] = (0, 0, 0)
    """Where in ``whole`` the network's grid begins; below 0 where zeros were added."""
    size: tuple[int, ...] = (0, 0, 0)
    """Of the network's grid."""
    alive: Box = ((0, 0), (0, 0), (0, 0))
    """What of ``whole`` was never cut off; all else is 0 when the way is gone back."""
    labels: NDArray[np.uint8] | None = None
    """On the image's grid, if they are there before the postprocessing begins."""

    @property
    def axes(self) -> tuple[int, ...] | None:
        """For each axis after resampling, the image's that it runs along; None if any runs askew."""
        matrix = self.to_image[:3, :3]
        along = np.abs(matrix).argmax(axis=0)
        if sorted(along) != [0, 1, 2]:
            return None
        askew = np.abs(matrix) * np.array(self.whole)
        askew[along, range(3)] = 0
        return tuple(int(axis) for axis in along) if askew.sum(axis=1).max() <= ALIGNED_VOXELS else None

    def places(self, axis: int) -> tuple[int, NDArray[np.float64]]:
        """For an axis of the resampled grid: the image's axis, and where in it each index lies."""
        along = self._along()[axis]
        others = [other for other in range(3) if other != axis]
        middle = sum(self.to_image[along, other] * (self.whole[other] - 1) / 2 for other in others)
        return along, self.to_image[along, axis] * np.arange(self.whole[axis]) + self.to_image[along, 3] + middle

    def places_back(self, axis: int) -> tuple[int, NDArray[np.float64]]:
        """For an axis of the resampled grid: the image's axis, and where each index of that lies in it."""
        along = self._along()[axis]
        back = np.linalg.inv(self.to_image)
        others = [other for other in range(3) if other != along]
        middle = sum(back[axis, other] * (self.shape[other] - 1) / 2 for other in others)
        return along, back[axis, along] * np.arange(self.shape[along]) + back[axis, 3] + middle

    def places_by_torch(self, axis: int) -> NDArray[np.float64]:
        """The same as ``places`` to the last digit of torch's, that has them from -1 to 1."""
        along, places = self.places(axis)
        if self.spaced is None or self.spaced.align_corners:
            return places
        # By the axes as they were resampled; the image's may run the other way.
        before = self._before(along)
        size = self.spaced.sizes[before]
        found = _places_by_torch(self.spaced.there[before], axis, size, self.whole[axis])
        return size - 1 - found if self.spaced.to_image[along, before] < 0 else found

    def places_back_by_torch(self, axis: int) -> NDArray[np.float64]:
        """The same as ``places_back``, likewise."""
        along, places = self.places_back(axis)
        if self.spaced is None or self.spaced.align_corners:
            return places
        before = self._before(along)
        found = _places_by_torch(self.spaced.back[axis], before, self.whole[axis], self.spaced.sizes[before])
        return found[::-1] if self.spaced.to_image[along, before] < 0 else found

    def _before(self, along: int) -> int:
        """The axis before resampling that runs along an axis of the image."""
        assert self.spaced is not None  # noqa: S101  # it was resampled
        return int(np.abs(self.spaced.to_image[along, :3]).argmax())

    def check_edges(self) -> None:
        """Raises OtherCase where something was cut off right on a voxel, and an axis is askew by rounding: then that
        decides what lies beyond the edge.
        """
        if self.is_uncut or not self.is_askew:
            return
        back = np.abs(np.linalg.inv(self.to_image)[:3, :3]) * np.array(self.shape)
        for axis, (low, high) in enumerate(self.alive):
            away = 2 * (back[axis].sum() - back[axis].max()) + SAME_PLACE
            _, places = self.places_back(axis)
            edges = [edge for edge in (low - 1, high) if 0 <= edge < self.whole[axis]]
            if any(np.abs(places - edge).min() <= away for edge in edges):
                raise OtherCase("the grid runs a little askew through the image, and is cut right on a voxel")

    def check_single(self, *, by_nearest: bool) -> None:
        """Raises OtherCase where MONAI goes back in float32, and rounding decides which of two voxels is the nearest,
        or what lies beyond an edge.
        """
        hangs = by_nearest or not self.is_uncut or self.padding == "zeros"
        if self.spaced is not None and self.spaced.in_single and hangs:
            raise OtherCase("the way back is gone in float32, and rounding decides what lies at an edge")

    @property
    def is_askew(self) -> bool:
        """Whether an axis leaves another at all, if by rounding only."""
        matrix = np.abs(self.to_image[:3, :3])
        return bool((np.sort(matrix, axis=1)[:, :2] > 0).any())

    def _along(self) -> tuple[int, ...]:
        axes = self.axes
        if axes is None:
            raise OtherCase("the grid runs askew through the image")
        return axes

    def move(self, shift: Sequence[int], size: Sequence[int]) -> None:
        """Note that planes were cut off (above 0) or added (below) at the beginning of each axis, and what is left."""
        self.start = tuple(old + by for old, by in zip(self.start, shift, strict=True))
        self.size = tuple(size)
        self.alive = tuple(
            (max(low, begin), min(high, begin + length))
            for (low, high), begin, length in zip(self.alive, self.start, self.size, strict=True)
        )
        if any(low >= high for low, high in self.alive):
            raise OtherCase("nothing of the image is left")

    @property
    def is_complete(self) -> bool:
        """Whether no zeros were added."""
        return all(
            (low, high) == (begin, begin + length)
            for (low, high), begin, length in zip(self.alive, self.start, self.size, strict=True)
        )

    @property
    def is_uncut(self) -> bool:
        """Whether nothing was cut off."""
        return self.alive == tuple((0, size) for size in self.whole)

    def check_whole(self) -> None:
        """Raises OtherCase if anything was cut off."""
        if not self.is_uncut:
            raise OtherCase("the grid runs askew through the image, and is cut")

    def inside(self) -> tuple[slice, ...]:
        """Where in the network's grid that lies which was never cut off."""
        return tuple(
            slice(low - begin, high - begin) for (low, high), begin in zip(self.alive, self.start, strict=True)
        )

    def tables(self) -> list[Axis]:
        """Where each index of the image lies in what ``inside`` is of the scores, by axis of these.

        Raises OtherCase as ``check_edges`` does.
        """
        self.check_edges()
        tables = []
        for axis, (low, high) in enumerate(self.alive):
            _, places = self.places_back(axis)
            if self.spaced is None:
                places = np.rint(places)
            elif not self.is_uncut:  # rounding decides what lies beyond the edge
                places = self.places_back_by_torch(axis)
            tables.append(axis_of(places, high - low, padding=self.padding, start=low, whole=self.whole[axis]))
        return tables

    def nearest(self) -> list[NDArray[np.int64]]:
        """The index nearest to each of the image's, in what ``inside`` is; -1 where there is nothing."""
        found = []
        for axis, (low, high) in enumerate(self.alive):
            if self.spaced is None:
                index = np.rint(self.places_back(axis)[1]).astype(np.int64)
            else:
                along = self._along()[axis]
                before = self._before(along)
                index = _nearest_by_torch(self.spaced, axis, before, self.whole[axis], self.padding)
                if self.spaced.to_image[along, before] < 0:  # the image's indices run the other way
                    index = index[::-1]
            found.append(np.where((index >= low) & (index < high), index - low, -1))
        return found

    @property
    def back(self) -> NDArray[np.float64]:
        """(4, 4), from the image's indices to those after resampling. As MONAI goes it, where it resampled."""
        if self.spaced is None:
            return np.asarray(np.linalg.inv(self.to_image), np.float64)
        turned_back = np.rint(np.linalg.inv(self.spaced.to_image))
        return np.asarray(self.spaced.back @ turned_back)

    @property
    def has_ties(self) -> bool:
        """Whether a place may lie so near the middle of two voxels that what an axis is askew, if by rounding only,
        decides which is the nearest.
        """
        if self.spaced is None or self.axes is None:
            return self.axes is None
        back = np.abs(self.spaced.back[:3, :3])
        askew = back * np.array(self.spaced.sizes)
        askew[range(3), back.argmax(axis=1)] = 0
        for axis, away in enumerate(askew.sum(axis=1)):
            places = self.places_back(axis)[1]
            if away > 0 and np.abs(places - np.floor(places) - 0.5).min() <= 2 * away:
                return True
        return False

    def empty(self, channels: int, kind: Any) -> NDArray[Any]:
        """An array (channel, …) in the image's axes that lies in memory as the image does."""
        array = np.empty((channels, *(self.shape[axis] for axis in self.memory)), kind)
        return array.transpose(0, *(1 + int(axis) for axis in np.argsort(self.memory)))

    def in_order(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array in the image's axes as a view in those of the resampled grid."""
        first = array.ndim - 3
        return array.transpose([*range(first), *(first + axis for axis in self._along())])


def _places_by_torch(row: NDArray[np.float64], axis: int, size: int, new: int) -> NDArray[np.float64]:
    """Where each of ``new`` indices along an axis lies among ``size``: by a row of a matrix, as torch computes it."""
    affine = torch.eye(4, dtype=torch.float64)[None].clone()
    affine[0, 0, 0], affine[0, 0, 3] = float(row[axis]), float(row[3])
    theta = to_norm_affine(affine, src_size=(size, 1, 1), dst_size=(new, 1, 1), align_corners=False)
    theta = theta[:, [2, 1, 0, 3]][:, :, [2, 1, 0, 3]]
    grid = functional.affine_grid(theta[:, :3], [1, 1, new, 1, 1], align_corners=False)[0, :, 0, 0, 2]
    return np.asarray((((grid + 1) * size - 1) / 2).numpy(), np.float64)


def _nearest_by_torch(spaced: Spaced, axis: int, before: int, size: int, padding: Padding) -> NDArray[np.int64]:
    """Of each index along the axis ``before`` resampling, the nearest along ``axis`` after it, of ``size``, as torch
    finds it, with its rounding; -1 for none.
    """
    theta = torch.eye(4, dtype=torch.float64)
    theta[0, 0], theta[0, 3] = float(spaced.back[axis, before]), float(spaced.back[axis, 3])
    ramp = torch.arange(1, size + 1, dtype=torch.float64).view(1, 1, size, 1, 1)
    transform = AffineTransform(normalized=False, mode="nearest", padding_mode=padding, align_corners=False)
    taken = transform(ramp, theta=theta, spatial_size=(spaced.sizes[before], 1, 1))
    return np.asarray(taken.view(-1).round().numpy(), np.int64) - 1


class Skipped(Transform):
    """Where a transform stood that another place does the work of."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, data: Any) -> Any:
        return data


class _InPlaceOf(MapTransform, InvertibleTransform):
    """Transforms that are kept, to run themselves and to be undone."""

    def __init__(self, transforms: Sequence[Any], key: Hashable) -> None:
        self.transforms: list[Any] = []  # whose own leave to miss keys is not touched here
        MapTransform.__init__(self, key)
        self.transforms = list(transforms)

    @property
    def allow_missing_keys(self) -> bool:
        return all(each.allow_missing_keys for each in self.transforms if isinstance(each, MapTransform))

    @allow_missing_keys.setter
    def allow_missing_keys(self, allow: bool) -> None:
        for each in self.transforms:
            if isinstance(each, MapTransform):
                each.allow_missing_keys = allow

    def themselves(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """As if nothing had been replaced."""
        for transform in self.transforms:
            data = transform(data)
        return dict(data)

    def inverse(self, data: Any) -> Any:
        """As if nothing had been replaced."""
        for transform in reversed(self.transforms):
            if isinstance(transform, InvertibleTransform):
                data = transform.inverse(data)
        return data


@dataclass(kw_only=True, eq=False)
class Run:
    """What the fused parts of a bundle know of the run that they are in."""

    placement: Placement | None = None
    other_case: str = ""
    """Why the transforms themselves ran, if they did."""

    def start(self) -> None:
        """Forget the one before."""
        self.placement, self.other_case = None, ""


class FusedPreprocessing(_InPlaceOf):
    """From the loader on, what a recognised chain does to the image under one key."""

    def __init__(self, take: TakeImaged, steps: Sequence[Step], run: Run) -> None:
        super().__init__([take, *(step.transform for step in steps)], take.keys[0])
        self._take, self._steps, self._run = take, list(steps), run

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self._run.start()
        try:
            work = _begun(self._take, data, exact=_exact_value(self._steps))
            for step in self._steps:
                work.do(step)
            image = work.image()
        except OtherCase as reason:
            self._run.other_case = str(reason)
            return self.themselves(data)
        self._run.placement = work.placement
        return {**work.data, self.keys[0]: image}


def _exact_value(steps: Sequence[Step]) -> float | None:
    """Of the resampled image, the value that decides what is foreground, or counts as nothing; None if nothing hangs
    on one.
    """
    scale = AS_IT_IS
    for step in steps:
        if isinstance(step, Foreground) or (isinstance(step, Normalise) and step.nonzero):
            return scale.minus - scale.plus / scale.times  # what becomes 0
        if isinstance(step, Range) and scale == AS_IT_IS:
            scale = step.scale
        elif isinstance(step, Range | Percentiles | LeastToLargest | Normalise):
            return None  # what becomes 0 is a matter of rounding in MONAI, too
    return None


def _begun(take: TakeImaged, data: Mapping[Hashable, Any], *, exact: float | None) -> "_Work":
    """What the loader finds. Raises OtherCase if it finds nothing."""
    found = take.stand_in(data)
    if found is None:
        raise OtherCase("there is no image")
    loaded, views = found
    return _Work(key=take.keys[0], data=loaded, views=views, exact=exact)


@dataclass(kw_only=True, eq=False)
class _Work:
    """An image on its way through a chain of steps."""

    key: Hashable
    data: dict[Hashable, Any]
    """As the transforms have it, with a stand-in for the image."""
    views: Sequence[NDArray[Any]]
    """Of each channel, the voxels as they came in."""
    voxels: NDArray[np.float32] | None = None
    """(channel, …), once something needs them."""
    placement: Placement | None = None
    to_image: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    space: Space | None = None
    spaced: Spaced | None = None
    device: torch.device | None = None
    affine: torch.Tensor | None = None
    """Of the image, before anything was done to it."""
    exact: float | None = None
    """A value that something hangs on: whether it is foreground, or nothing."""

    def do(self, step: Step) -> None:
        """Raises OtherCase."""
        if isinstance(step, ChannelFirst | Nothing):
            self.data = step.transform(self.data)
        elif isinstance(step, ToDevice):
            self.device = step.device
        elif isinstance(step, Turn | Space):
            self._turn_or_space(step)
        elif isinstance(step, CropOrPad):
            self._crop_or_pad(step)
        elif isinstance(step, Foreground):
            self._crop_foreground(step)
        elif isinstance(step, Range) and self.voxels is None and self._place().is_complete:
            self._voxels(step.scale)
        else:
            _scaled(self._voxels(), step)

    def image(self) -> MetaTensor:
        """What has become of it. Raises OtherCase."""
        voxels = self._voxels()
        stand = self._stand
        image = MetaTensor(torch.from_numpy(voxels), meta=stand.meta, applied_operations=stand.applied_operations)
        return image if self.device is None else MetaTensor(image.to(self.device))

    @property
    def _stand(self) -> MetaTensor:
        return self.data[self.key]  # type: ignore[no-any-return]

    def _turn_or_space(self, step: Step) -> None:
        self._check_axes()
        sizes = tuple(self._stand.shape[1:])
        operation = self._asked(step.transform)
        matrix = operation[LazyAttr.AFFINE].numpy()
        changed = True
        if isinstance(step, Space):
            changed = not _is_unchanged(operation, sizes)
            if changed and step.align_corners and 1 in (*sizes, *operation[LazyAttr.SHAPE]):
                raise OtherCase("an axis of one voxel has no corners to align")
        if not changed:
            operation[LazyAttr.SHAPE] = sizes
        else:
            before, self.to_image = self.to_image, self.to_image @ matrix
            if isinstance(step, Space):
                self.space = step
        self._settle(operation, matrix if changed else None)
        if changed and isinstance(step, Space):
            source = operation[TraceKeys.EXTRA_INFO]["src_affine"].numpy()
            back = np.linalg.solve(self._stand.affine.numpy(), source)
            self.spaced = Spaced(
                there=matrix,
                back=back,
                align_corners=step.align_corners,
                in_single=step.in_single,
                sizes=sizes,
                to_image=before,
            )
        elif self.spaced is not None:
            raise OtherCase("the image is turned after it was resampled")

    def _check_axes(self) -> None:
        """Raises OtherCase for what is no volume with channels."""
        stand = self._stand
        if stand.ndim != 4 or len(stand) != len(self.views) or any(each.ndim != 3 for each in self.views):
            raise OtherCase("the image is no volume of three axes")
        if self.affine is None:
            self.affine = stand.affine.clone()

    def _place(self) -> Placement:
        """Where the resampled grid lies: from here on, nothing is turned or resampled any more."""
        if self.placement is None:
            self._check_axes()
            sizes = tuple(self._stand.shape[1:])
            assert self.affine is not None  # noqa: S101  # the axes were checked
            self.placement = Placement(
                shape=self.views[0].shape,
                memory=tuple(sorted(range(3), key=lambda axis: -abs(self.views[0].strides[axis]))),
                affine=self.affine,
                whole=sizes,
                to_image=self.to_image,
                padding=self.space.padding if self.space else "border",
                spaced=self.spaced,
                size=sizes,
                alive=tuple((0, size) for size in sizes),
            )
        return self.placement

    def _crop_or_pad(self, step: Step) -> None:
        self._place()
        self._move(self._asked(step.transform))

    def _crop_foreground(self, step: Step) -> None:
        voxels, transform = self._voxels(), step.transform
        low, high = _foreground(voxels, transform.cropper)
        corners = {transform.start_coord_key: low, transform.end_coord_key: high}
        self.data.update({key: value for key, value in corners.items() if key is not None})
        cropped = transform.cropper.crop_pad(
            img=_bare(self._stand), box_start=low, box_end=high, mode="constant", lazy=True
        )
        self._move(cropped.pending_operations[-1])

    def _move(self, operation: dict[str, Any]) -> None:
        matrix = operation[LazyAttr.AFFINE].numpy()
        shift = [round(each) for each in matrix[:3, 3]]
        size = operation[LazyAttr.SHAPE]
        self._place().move(shift, size)
        if self.voxels is not None:
            self.voxels = _moved(self.voxels, shift, size)
        self._settle(operation, matrix)

    def _voxels(self, scale: Scale = AS_IT_IS) -> NDArray[np.float32]:
        """Resampled, once, and scaled."""
        if self.voxels is None:
            placement = self._place()
            shape = (len(self.views), *placement.size)
            voxels = np.empty(shape, np.float32) if placement.is_complete else np.zeros(shape, np.float32)
            for view, channel in zip(self.views, voxels, strict=True):
                _resampled(view, placement, out=channel[placement.inside()], scale=scale, exact=self.exact)
            self.voxels = voxels
        return self.voxels

    def _asked(self, transform: Any) -> dict[str, Any]:
        """What a transform says that it would do to the grid."""
        stand = transform({self.key: _bare(self._stand)}, lazy=True)[self.key]
        if len(stand.pending_operations) != 1:
            raise OtherCase(f"{type(transform).__name__} does not say what it does")
        return stand.pending_operations[0]  # type: ignore[no-any-return]

    def _settle(self, operation: dict[str, Any], matrix: NDArray[np.float64] | None) -> None:
        """Let the stand-in be what the transform would have made of it."""
        old = self._stand
        size = tuple(int(each) for each in operation[LazyAttr.SHAPE])
        stand = MetaTensor(
            torch.zeros(1).expand(len(old), *size),
            meta=old.meta,
            applied_operations=[*old.applied_operations, _done(operation)],
        )
        if matrix is not None:
            stand.affine = old.affine @ torch.from_numpy(matrix).to(torch.float64)
        self.data[self.key] = stand


def _bare(stand: MetaTensor) -> MetaTensor:
    """The stand-in without what was done to it."""
    return MetaTensor(stand.as_tensor(), meta=deepcopy(stand.meta))


def _done(operation: Mapping[Any, Any]) -> dict[Any, Any]:
    """What a transform says of what it would do, as it says it of what it has done."""
    lazy = (LazyAttr.SHAPE, LazyAttr.AFFINE)
    done = {
        key: _done(value) if isinstance(value, dict) else value for key, value in operation.items() if key not in lazy
    }
    if TraceKeys.LAZY in done:
        done[TraceKeys.LAZY] = False
    return done


def _is_unchanged(operation: Mapping[Any, Any], sizes: Sequence[int]) -> bool:
    """Whether MONAI leaves an image as it is that it was asked to resample: for less, it does not."""
    xform = operation[LazyAttr.AFFINE]
    source = operation[TraceKeys.EXTRA_INFO]["src_affine"]
    if tuple(operation[LazyAttr.SHAPE]) != tuple(sizes):
        return False
    return bool(
        allclose(source, source @ xform, atol=AFFINE_TOL) or allclose(xform, np.eye(len(xform)), atol=AFFINE_TOL)
    )


def _resampled(
    view: NDArray[Any], placement: Placement, *, out: NDArray[np.float32], scale: Scale, exact: float | None
) -> None:
    """Fill ``out``, which is what ``alive`` is of the resampled grid."""
    if placement.axes is None or (exact is not None and placement.is_askew):
        matrix = placement.to_image.copy()
        matrix[:3, 3] += matrix[:3, :3] @ [low for low, _ in placement.alive]
        resample_oblique(view, matrix, out=out, padding=placement.padding, scale=scale)
        return
    tables = []
    for axis, (low, high) in enumerate(placement.alive):
        along, places = placement.places(axis)
        if placement.spaced is None:
            places = np.rint(places)
        elif exact is not None:
            places = placement.places_by_torch(axis)
        tables.append(axis_of(places[low:high], view.shape[along], padding=placement.padding))
    resample(placement.in_order(view), tables, out=out, scale=scale, exact=exact)


def _moved(voxels: NDArray[np.float32], shift: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
    """With planes cut off (above 0) or zeros added (below) at the beginning of each axis."""
    ends = [min(old, by + new) for old, by, new in zip(voxels.shape[1:], shift, size, strict=True)]
    taken = tuple(slice(max(by, 0), end) for by, end in zip(shift, ends, strict=True))
    into = tuple(slice(each.start - by, each.stop - by) for each, by in zip(taken, shift, strict=True))
    moved = np.zeros((len(voxels), *size), np.float32)
    moved[(slice(None), *into)] = voxels[(slice(None), *taken)]
    return moved


def _foreground(voxels: NDArray[np.float32], cropper: CropForeground) -> tuple[NDArray[Any], NDArray[Any]]:
    """The box that MONAI's CropForeground finds (``generate_spatial_bounding_box`` and what it makes of it)."""
    boxes = [box for box in map(box_above_zero, voxels) if box is not None]
    if not boxes:
        raise OtherCase("there is no foreground")
    margin = np.broadcast_to(cropper.margin, 3)
    low = np.min([low for low, _ in boxes], axis=0) - margin
    high = np.max([high for _, high in boxes], axis=0) + margin
    if cropper.allow_smaller:
        low, high = np.maximum(low, 0), np.minimum(high, voxels.shape[1:])
    low, high = low.astype(np.int16), high.astype(np.int16)
    size = np.asarray(compute_divisible_spatial_size((high - low).tolist(), k=cropper.k_divisible))
    low = low - np.floor_divide(size - (high - low), 2)
    return low, low + size


def _scaled(voxels: NDArray[np.float32], step: Step) -> None:
    """Scale in place. Raises OtherCase for values that have no scale."""
    if isinstance(step, Range):
        scale_in_place(voxels, step.scale)
        return
    assert isinstance(step, Percentiles | LeastToLargest | Normalise)  # noqa: S101  # there are no others
    for part in voxels if step.channel_wise else [voxels]:
        if isinstance(step, Percentiles):
            _scale_percentiles(part, step)
        elif isinstance(step, LeastToLargest):
            _scale_least_to_largest(part, step)
        else:
            _normalise(part, step)


def _are_same(low: float, high: float) -> bool:
    """Whether two values differ by no more than rounding: then a scale between them would be one of rounding."""
    return high - low <= SAME_VALUE * max(abs(low), abs(high))


def _scale_percentiles(part: NDArray[np.float32], step: Percentiles) -> None:
    try:
        low, high = percentiles(part, step.wanted)
    except ValueError as error:
        raise OtherCase(str(error)) from error
    if _are_same(low, high):
        raise OtherCase("two percentiles are the same")
    least, largest_value = step.onto or (0.0, 1.0)
    lowest, highest = (least, largest_value) if step.clip else (-np.inf, np.inf)
    times = (largest_value - least) / (high - low)
    scale_in_place(part, Scale(minus=low, times=times, plus=least, lowest=lowest, highest=highest))


def _scale_least_to_largest(part: NDArray[np.float32], step: LeastToLargest) -> None:
    found = statistics(part)
    if not np.isfinite([found.mean, found.lowest, found.highest]).all() or _are_same(found.lowest, found.highest):
        raise OtherCase("the image is the same everywhere, or not of numbers")
    least, largest_value = step.onto
    times = (largest_value - least) / (found.highest - found.lowest)
    scale_in_place(part, Scale(minus=found.lowest, times=times, plus=least))


def _normalise(part: NDArray[np.float32], step: Normalise) -> None:
    found = statistics(part, nonzero=step.nonzero)
    if not found.voxels:  # all are 0, and stay
        return
    if not np.isfinite([found.mean, found.deviation]).all() or _are_same(found.lowest, found.highest):
        raise OtherCase("the image is the same everywhere, or not of numbers")
    scale_in_place(part, Scale(minus=found.mean, times=1 / found.deviation), nonzero=step.nonzero)


class FusedInversion(_InPlaceOf):
    """In the place of an Invertd: what the network gave, on the image's grid: scores interpolated, or whole numbers
    taken from the nearest voxel.
    """

    def __init__(self, invert: Any, run: Run, *, by_nearest: bool) -> None:
        super().__init__([invert], invert.keys[0])
        self._invert, self._run, self._by_nearest = invert, run, by_nearest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        try:
            scores, placement = _scores_of(data, self._invert, self._run, first=self._invert)
            placement.check_single(by_nearest=self._by_nearest)
            values = scores[(slice(None), *placement.inside())]
            back = _nearest_of(values, placement) if self._by_nearest else _interpolated(values, placement)
        except OtherCase as reason:
            self._run.other_case = str(reason)
            return self.themselves(data)
        return _inverted(data, back, placement, self._invert)


class FusedLabels(_InPlaceOf):
    """In the place of an inversion and a choice of the largest, in either order, and of an activation before them:
    labels on the image's grid.
    """

    def __init__(
        self,
        transforms: Sequence[Any],
        invert: Any,
        run: Run,
        *,
        activation: Activation | None,
        by_nearest: bool,
        as_float: bool,
    ) -> None:
        """``as_float``: as MONAI gives labels, for transforms of which it is not known what they make of uint8."""
        super().__init__(transforms, invert.keys[0])
        self._invert, self._run, self._as_float = invert, run, as_float
        self.activation, self.by_nearest = activation, by_nearest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        try:
            labels, placement = self._labels(data)
        except OtherCase as reason:
            self._run.other_case = str(reason)
            return self.themselves(data)
        values = labels.astype(np.float32) if self._as_float else labels
        return _inverted(data, values[None], placement, self._invert)

    def _labels(self, data: Mapping[Hashable, Any]) -> tuple[NDArray[np.uint8], Placement]:
        """In the image's axes. Raises OtherCase."""
        placement = self._run.placement
        if placement is not None and placement.labels is not None:
            _check_untouched(data.get(self.keys[0]), placement.labels)
            return placement.labels, placement
        scores, placement = _scores_of(data, self._invert, self._run, first=self.transforms[0])
        try:
            if placement.axes is None and not self.by_nearest:
                return self._askew(scores, placement), placement
            parts = self.in_parts(placement)
            parts.add(0, scores)
        except ValueError as error:  # they are not finite, or of too many classes
            raise OtherCase(str(error)) from error
        return parts.labels(), placement

    def _askew(self, scores: NDArray[np.float32], placement: Placement) -> NDArray[np.uint8]:
        placement.check_whole()
        placement.check_single(by_nearest=False)
        (out,) = placement.empty(1, np.uint8)
        values = scores[(slice(None), *placement.inside())]
        return labels_askew(values, placement.back, out=out, padding=placement.padding, activation=self.activation)

    def in_parts(self, placement: Placement) -> "Parts":
        """To be given scores. Raises OtherCase if the grid lies askew, or as ``check_single`` does."""
        placement.check_single(by_nearest=self.by_nearest)
        return Parts(placement, activation=self.activation, by_nearest=self.by_nearest)


class Parts:
    """Labels on the image's grid, of scores that come in parts along the first axis of the network's."""

    def __init__(self, placement: Placement, *, activation: Activation | None, by_nearest: bool) -> None:
        """Raises OtherCase if the grids lie askew and scores are interpolated."""
        self._out: NDArray[np.uint8] = placement.empty(1, np.uint8)[0]
        self._placement, self._inside = placement, placement.inside()
        self._done = 0
        sizes = [each.stop - each.start for each in self._inside]
        self._best = np.empty(sizes, np.uint8) if by_nearest else None
        if not by_nearest:
            into = placement.in_order(self._out)
            self._parts = LabelsByParts(sizes, placement.tables(), out=into, activation=activation)

    def add(self, first: int, scores: NDArray[np.float32]) -> None:
        """``scores``: (class, n, j, k), of the planes from ``first`` on. Raises ValueError if these are not the next
        ones of the network's grid, or scores are not numbers.
        """
        size = self._placement.size
        if first != self._done or first + scores.shape[1] > size[0] or tuple(scores.shape[2:]) != size[1:]:
            raise ValueError(
                f"expected scores on a grid of {size} from plane {self._done} on, found {scores.shape} from {first} on"
            )
        self._done += scores.shape[1]
        planes, *others = self._inside
        low, high = max(first, planes.start), min(first + scores.shape[1], planes.stop)
        if low >= high:
            return
        alive = scores[(slice(None), slice(low - first, high - first), *others)]
        begin = low - planes.start
        if self._best is None:
            self._parts.add(begin, alive)
        else:
            largest(alive, out=self._best[begin : begin + high - low])

    def decided(self, classes: NDArray[np.uint8]) -> None:
        """In the place of all scores, where labels are brought back by the nearest voxel: the class of each voxel.

        Raises ValueError if these are not those of the network's grid.
        """
        if classes.shape != self._placement.size:
            raise ValueError(f"expected classes on a grid of {self._placement.size}, found {classes.shape}")
        self._best, self._done = classes[self._inside], len(classes)

    def labels(self) -> NDArray[np.uint8]:
        """In the image's axes, once all parts were there. Raises ValueError before."""
        if self._done != self._placement.size[0]:
            raise ValueError(f"expected scores of {self._placement.size[0]} planes, found {self._done}")
        if self._best is not None:
            _write_nearest(self._best, self._placement, out=self._out)
        return np.asarray(self._out)


class LabellingWindow(Inferer):
    """A sliding window whose scores become labels as soon as they are final, so that they never exist as a whole."""

    def __init__(self, window: SlidingWindow, labels: FusedLabels, run: Run) -> None:
        super().__init__()
        self.window, self._labels, self._run = window, labels, run

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The labels, (1, 1, …) on the image's grid; scores as the window gives them, where that cannot be."""
        placement = self._run.placement
        usual = isinstance(inputs, MetaTensor) and len(inputs) == 1 and not args and not kwargs
        if placement is None or not usual or not self.window.takes(inputs):
            return self.window(inputs, network, *args, **kwargs)
        try:
            parts = self._labels.in_parts(placement)
            if self._labels.by_nearest:
                parts.decided(self.window.largest(inputs, network))
            else:
                for first, scores in self.window.slabs(inputs, network):
                    for planes in range(0, scores.shape[1], PLANES_AT_ONCE):
                        parts.add(first + planes, scores[:, planes : planes + PLANES_AT_ONCE].cpu().numpy())
        except (OtherCase, OtherOutput, ValueError) as reason:
            self._run.other_case = str(reason)
            return self.window(inputs, network)
        placement.labels = parts.labels()
        return torch.from_numpy(placement.labels)[None, None]


def _check_untouched(given: Any, labels: NDArray[np.uint8]) -> None:
    """Raises ModelError unless the evaluator handed on the very labels that its inferer gave it for scores."""
    if not isinstance(given, torch.Tensor) or given.data_ptr() != torch.from_numpy(labels).data_ptr():
        raise ModelError(
            "expected the bundle's evaluator to hand on what its inferer gives, found that it makes something else of "
            "it; nothing is reported"
        )


def _scores_of(
    data: Mapping[Hashable, Any], invert: Any, run: Run, *, first: Any
) -> tuple[NDArray[np.float32], Placement]:
    """What the network gave, and how it lies in the image. ``first``: the transform that takes it. Raises OtherCase."""
    scores, placement = data.get(invert.keys[0]), run.placement
    if placement is None:
        raise OtherCase(run.other_case or "the preprocessing ran by itself")
    if not isinstance(data.get(invert.orig_keys[0]), MetaTensor):
        raise OtherCase("the image is gone")
    if not isinstance(scores, torch.Tensor) or scores.dtype != torch.float32 or scores.ndim != 4:
        raise OtherCase("the network did not give scores in float32")
    if first is invert and not isinstance(scores, MetaTensor):  # which it leaves as it is, where others make it one
        raise OtherCase("what the network gave does not say where it lies")
    if tuple(scores.shape[1:]) != placement.size:
        raise OtherCase("the network gave scores on another grid than it saw")
    plain = scores.as_tensor() if isinstance(scores, MetaTensor) else scores
    return plain.detach().cpu().numpy(), placement


def _interpolated(values: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    out = placement.empty(len(values), np.float32)
    if placement.axes is None:
        placement.check_whole()
        for each, into in zip(values, out, strict=True):
            resample_oblique(each, placement.back, out=into, padding=placement.padding)
        return out
    tables = placement.tables()
    for each, into in zip(values, placement.in_order(out), strict=True):
        resample(each, tables, out=into)
    return out


def _nearest_of(values: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.uint8)
    if not np.array_equal(whole, values):
        raise OtherCase("the network's output has other values than whole numbers up to 255")
    out = placement.empty(len(values), np.uint8)
    for each, into in zip(whole, out, strict=True):
        _write_nearest(each, placement, out=into)
    return out.astype(np.float32)


def _write_nearest(labels: NDArray[np.uint8], placement: Placement, *, out: NDArray[np.uint8]) -> None:
    """``labels``: of what is ``inside``; ``out``: in the image's axes."""
    if placement.has_ties:
        start = [low for low, _ in placement.alive]
        nearest_askew(labels, placement.back, out=out, padding=placement.padding, start=start, whole=placement.whole)
    else:
        nearest(labels, placement.nearest(), out=placement.in_order(out))


def _inverted(
    data: Mapping[Hashable, Any], values: NDArray[Any], placement: Placement, invert: Any
) -> dict[Hashable, Any]:
    """The data as an Invertd leaves them."""
    (key,), (image_key,) = invert.keys, invert.orig_keys
    meta = {**deepcopy(dict(data[image_key].meta)), "affine": placement.affine.clone()}
    result = MetaTensor(torch.from_numpy(values), meta=meta)
    changed: dict[Hashable, Any] = {**data, key: result}
    if (invert.orig_meta_keys[0] or f"{image_key}_{invert.meta_key_postfix[0]}") in data:
        changed[invert.meta_keys[0] or f"{key}_{invert.meta_key_postfix[0]}"] = None
    return changed

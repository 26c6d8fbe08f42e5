"""Which of a bundle's transforms are run by Coread's kernels: those that are recognised, class and arguments, and no
others.

A chain is looked at once it is built. The longest beginning of the preprocessing that is known is replaced in place,
and in the postprocessing what turns scores back onto the image. What is not known, be it subclassed, random, of several
keys, or of an argument that is not listed here, runs through MONAI as it stands; so does all after it.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai import transforms as monai
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.transforms.utils import is_positive
from monai.utils import get_equivalent_dtype

from coread.kernels.resampling import Scale
from coread.models.bundle.fused import (
    ChannelFirst,
    CropOrPad,
    Foreground,
    FusedInversion,
    FusedLabels,
    FusedPreprocessing,
    LabellingWindow,
    LeastToLargest,
    Normalise,
    Nothing,
    Percentiles,
    Range,
    Run,
    Skipped,
    Space,
    Step,
    ToDevice,
    Turn,
)
from coread.models.bundle.in_memory import Keepd, TakeImaged
from coread.models.forward.window import SlidingWindow

OWN_LISTENERS = 1
"""Handlers of ours that are called between the network and the postprocessing, and look at no scores."""


class Unknown(Exception):  # no error: the transform runs as it is
    """Why a transform is not recognised, in words."""


@dataclass(kw_only=True, eq=False)
class Fusion:
    """What of a bundle runs fused, and what does not, and why."""

    preprocessing: tuple[str, ...] = ()
    """Names of the transforms that run as one."""
    postprocessing: tuple[str, ...] = ()
    by_parts: bool = False
    """Whether labels are made of scores while they come, so that these never exist as a whole."""
    not_fused: tuple[str, ...] = ()
    """Why the rest runs through MONAI, a sentence each."""
    run: Run = field(default_factory=Run)
    key: Hashable | None = None
    """Under which the image is."""
    is_complete: bool = False
    """Whether all of the preprocessing runs fused."""
    labels: FusedLabels | None = None
    """What makes labels of the network's scores, if nothing else does anything with them before."""

    @property
    def is_any(self) -> bool:
        return bool(self.preprocessing or self.postprocessing)

    def sentences(self) -> list[str]:
        """For people."""
        said = []
        if self.preprocessing:
            said.append(f"preprocessing fused: {', '.join(self.preprocessing)}")
        if self.postprocessing:
            kept = "; scores are never kept as a whole" if self.by_parts else ""
            said.append(f"postprocessing fused: {', '.join(self.postprocessing)}{kept}")
        return [*said, *self.not_fused]


@dataclass(kw_only=True, eq=False)
class _Place:
    """A transform, and the list that it stands in."""

    owner: Any
    index: int

    @property
    def transform(self) -> Any:
        return self.owner.transforms[self.index]

    def fill(self, transform: Any) -> None:
        """Put another in its place."""
        changed = list(self.owner.transforms)
        changed[self.index] = transform
        self.owner.transforms = changed


def fuse(preprocessing: Any, postprocessing: Any, *, explained: bool = False) -> Fusion:
    """Replace what is recognised in a bundle's chains, as they are built. ``explained``: somebody will look into how
    the network came to its answer, so its scores stay as they are.

    Afterwards, ``fuse_window`` may take the inferer.
    """
    fusion = Fusion()
    reasons: list[str] = []
    if explained:
        return Fusion(not_fused=("the model explains its answers (saliency), for which its transforms are kept",))
    try:
        _fuse_preprocessing(_places(preprocessing), fusion, reasons)
        if fusion.preprocessing:
            _fuse_postprocessing(_places(postprocessing), preprocessing, fusion)
    except Unknown as reason:
        reasons.append(str(reason))
    fusion.not_fused = tuple(reasons)
    return fusion


def fuse_window(evaluator: Any, fusion: Fusion) -> None:
    """Have an evaluator's sliding window give labels, part by part, where all that is made of its scores is labels."""
    inferer = evaluator.inferer
    window = inferer if type(inferer) is SlidingWindow else SlidingWindow.of(inferer)
    if fusion.labels is None or window is None:
        return
    if not _asks_once(evaluator):
        fusion.not_fused = (*fusion.not_fused, "scores are kept as a whole: the evaluator is of a kind of its own")
        return
    if len(evaluator._event_handlers.get(IterationEvents.FORWARD_COMPLETED, ())) > OWN_LISTENERS:  # noqa: SLF001
        fusion.not_fused = (*fusion.not_fused, "scores are kept as a whole: a handler of the bundle looks at them")
        return
    evaluator.inferer = LabellingWindow(window, fusion.labels, fusion.run)
    fusion.by_parts = True


def _asks_once(evaluator: Any) -> bool:
    """Whether an evaluator is known to ask its inferer once, and to do nothing with the scores but hand them on."""
    iteration = getattr(evaluator._process_function, "__func__", None)  # noqa: SLF001  # ignite does not tell
    return type(evaluator) is SupervisedEvaluator and iteration is SupervisedEvaluator._iteration  # noqa: SLF001


def _places(chain: Any) -> list[_Place]:
    """Every transform of a chain, those of chains in it too. Raises Unknown if one does more than call them.

    Chains in it become its own: the same one may stand in another place, where it must do what it always did.
    """
    if type(chain) is not monai.Compose:
        raise Unknown(f"not fused: expected a Compose, found {type(chain).__name__}")
    usual = monai.Compose([])
    for name in ("map_items", "unpack_items", "log_stats", "_lazy", "overrides"):
        if getattr(chain, name, None) != getattr(usual, name, None):
            raise Unknown(f"not fused: a Compose with `{name.strip('_')}` of its own")
    found = []
    for index, transform in enumerate(chain.transforms):
        place = _Place(owner=chain, index=index)
        if isinstance(transform, monai.Compose):
            place.fill(copy(transform))
            found += _places(place.transform)
        else:
            found.append(place)
    return found


def _fuse_preprocessing(places: Sequence[_Place], fusion: Fusion, reasons: list[str]) -> None:
    if not places or type(places[0].transform) is not TakeImaged:
        raise Unknown("preprocessing not fused: it does not begin by loading one image")
    take = places[0].transform
    if len(take.keys) != 1 or (take.dtype is not None and not _is_float32(take.dtype)):
        raise Unknown("preprocessing not fused: it loads several images, or not in float32")
    steps: list[Step] = []
    for place in places[1:]:
        try:
            steps.append(_recognised(place.transform, take.keys[0], steps))
        except Unknown as reason:
            reasons.append(f"preprocessing not fused from {type(place.transform).__name__} on: {reason}")
            break
    if all(isinstance(step, Nothing | ChannelFirst | ToDevice) for step in steps):
        raise Unknown("preprocessing not fused: there is nothing to be won")
    fusion.is_complete = len(steps) == len(places) - 1
    fusion.key = take.keys[0]
    fusion.preprocessing = tuple(type(step.transform).__name__ for step in steps)
    transforms = [place.transform for place in places]
    places[0].fill(FusedPreprocessing(take, steps, fusion.run))
    for place, transform in list(zip(places, transforms, strict=True))[1 : len(steps) + 1]:
        place.fill(Skipped(transform))


def _recognised(transform: Any, key: Hashable, before: Sequence[Step]) -> Step:
    """The step that a transform is. Raises Unknown."""
    make = _STEPS.get(type(transform))
    if make is None:
        raise Unknown("it is none of those that are known")
    _check_key(transform, key)
    if getattr(transform, "lazy", False):
        raise Unknown("it is lazy")
    step = make(transform)
    if isinstance(step, Turn | Space) and not all(
        isinstance(each, Nothing | ChannelFirst | Turn | Space | ToDevice) for each in before
    ):
        raise Unknown("it turns or resamples what was already cut or scaled")
    if isinstance(step, Space) and any(isinstance(each, Space) for each in before):
        raise Unknown("it resamples a second time")
    return step


def _check_key(transform: Any, key: Hashable) -> None:
    if tuple(transform.keys) != (key,):
        raise Unknown(f"it is for {', '.join(map(str, transform.keys))}, not for {key} alone")


def _expect(transform: Any, **wanted: Any) -> None:
    """Raises Unknown unless each of these arguments has the one value that is known."""
    for name, value in wanted.items():
        found = getattr(transform, name)
        found = list(found) if isinstance(value, list) else found
        if found != value:
            raise Unknown(f"its `{name}` is {found}")


def _channel_first(transform: Any) -> Step:
    _expect_type(transform.adjuster, monai.EnsureChannelFirst)
    return ChannelFirst(transform=transform)


def _ensure_type(transform: Any) -> Step:
    converter = transform.converter
    _expect_type(converter, monai.EnsureType)
    _expect(converter, data_type="tensor", track_meta=True, dtype=None)
    if transform.dtype[0] is not None and not _is_float32(transform.dtype[0]):
        raise Unknown(f"its `dtype` is {transform.dtype[0]}")
    if converter.device is not None:
        return ToDevice(transform=transform, device=torch.device(converter.device))
    return Nothing(transform=transform)


def _cast(transform: Any) -> Step:
    _expect_type(transform.converter, monai.CastToType)
    if not _is_float32(transform.dtype[0]):
        raise Unknown(f"its `dtype` is {transform.dtype[0]}")
    return Nothing(transform=transform)


def _turn(transform: Any) -> Step:
    _expect_type(transform.ornt_transform, monai.Orientation)
    return Turn(transform=transform)


def _space(transform: Any) -> Step:
    spacing = transform.spacing_transform
    _expect_type(spacing, monai.Spacing)
    _expect_type(spacing.sp_resample, monai.SpatialResample)
    _expect(spacing, recompute_affine=False)
    _expect(transform, mode=["bilinear"])
    padding = str(getattr(transform.padding_mode[0], "value", transform.padding_mode[0]))
    if padding not in ("border", "zeros"):
        raise Unknown(f"its `padding_mode` is {padding}")
    wanted = transform.dtype[0]  # none: as the image, which is in float32
    in_single = wanted is None or _is_float32(wanted)
    if not in_single and get_equivalent_dtype(wanted, torch.Tensor) is not torch.float64:
        raise Unknown(f"its `dtype` is {wanted}")
    return Space(
        transform=transform,
        padding=padding,  # type: ignore[arg-type]
        align_corners=bool(transform.align_corners[0]),
        in_single=in_single,
    )


def _pad(transform: Any) -> Step:
    padder = transform.padder
    _expect_type(padder, monai.SpatialPad, monai.DivisiblePad, monai.ResizeWithPadOrCrop)
    if type(padder) is monai.ResizeWithPadOrCrop:
        _expect_type(padder.cropper, monai.CenterSpatialCrop)
        _expect_type(padder.padder, monai.SpatialPad)
        padder = padder.padder
    _expect(transform, mode=["constant"])
    _expect(padder, kwargs={})
    return CropOrPad(transform=transform)


def _crop(transform: Any) -> Step:
    _expect_type(transform.cropper, monai.CenterSpatialCrop)
    return CropOrPad(transform=transform)


def _crop_foreground(transform: Any) -> Step:
    cropper = transform.cropper
    _expect_type(cropper, monai.CropForeground)
    _expect(cropper, select_fn=is_positive, channel_indices=None)
    _expect_type(cropper.padder, monai.Pad)
    _expect(cropper.padder, kwargs={})
    _expect(transform, mode=["constant"], source_key=transform.keys[0])
    return Foreground(transform=transform)


def _range(transform: Any) -> Step:
    scaler = transform.scaler
    _expect_type(scaler, monai.ScaleIntensityRange)
    _check_float32(scaler)
    onto = _onto(scaler.b_min, scaler.b_max, clip=scaler.clip)
    width = float(scaler.a_max) - float(scaler.a_min)
    if width == 0:
        raise Unknown("its range is empty")
    low, high = onto or (0.0, 1.0)
    lowest, highest = onto if scaler.clip and onto else (-np.inf, np.inf)
    scale = Scale(minus=float(scaler.a_min), times=(high - low) / width, plus=low, lowest=lowest, highest=highest)
    if scale.times == 0:
        raise Unknown("its range is empty")
    return Range(transform=transform, scale=scale)


def _percentiles(transform: Any) -> Step:
    scaler = transform.scaler
    _expect_type(scaler, monai.ScaleIntensityRangePercentiles)
    _check_float32(scaler)
    _expect(scaler, relative=False)
    return Percentiles(
        transform=transform,
        wanted=(float(scaler.lower), float(scaler.upper)),
        onto=_onto(scaler.b_min, scaler.b_max, clip=scaler.clip),
        clip=bool(scaler.clip),
        channel_wise=bool(scaler.channel_wise),
    )


def _least_to_largest(transform: Any) -> Step:
    scaler = transform.scaler
    _expect_type(scaler, monai.ScaleIntensity)
    _check_float32(scaler)
    onto = _onto(scaler.minv, scaler.maxv, clip=False)
    if onto is None:
        raise Unknown("it scales by a factor")
    return LeastToLargest(transform=transform, onto=onto, channel_wise=bool(scaler.channel_wise))


def _normalise(transform: Any) -> Step:
    normalizer = transform.normalizer
    _expect_type(normalizer, monai.NormalizeIntensity)
    _check_float32(normalizer)
    if normalizer.subtrahend is not None or normalizer.divisor is not None:
        raise Unknown("it subtracts or divides by numbers of its own")
    return Normalise(transform=transform, nonzero=bool(normalizer.nonzero), channel_wise=bool(normalizer.channel_wise))


def _onto(low: float | None, high: float | None, *, clip: bool) -> tuple[float, float] | None:
    if (low is None) != (high is None) or (clip and low is None):
        raise Unknown("it has one bound only")
    return None if low is None or high is None else (float(low), float(high))


def _check_float32(scaler: Any) -> None:
    if not _is_float32(scaler.dtype):
        raise Unknown(f"its `dtype` is {scaler.dtype}")


def _is_float32(dtype: Any) -> bool:
    return dtype is torch.float32 or (not isinstance(dtype, torch.dtype | None) and np.dtype(dtype) == np.float32)


def _expect_type(part: Any, *wanted: type) -> None:
    if type(part) not in wanted:
        raise Unknown(f"there is a {type(part).__name__} in it")


_STEPS: Mapping[type, Callable[[Any], Step]] = {
    monai.EnsureChannelFirstd: _channel_first,
    monai.EnsureTyped: _ensure_type,
    monai.CastToTyped: _cast,
    monai.Orientationd: _turn,
    monai.Spacingd: _space,
    monai.SpatialPadd: _pad,
    monai.DivisiblePadd: _pad,
    monai.ResizeWithPadOrCropd: _pad,
    monai.CenterSpatialCropd: _crop,
    monai.CropForegroundd: _crop_foreground,
    monai.ScaleIntensityRanged: _range,
    monai.ScaleIntensityRangePercentilesd: _percentiles,
    monai.ScaleIntensityd: _least_to_largest,
    monai.NormalizeIntensityd: _normalise,
}
"""Class → what makes a step of a transform of exactly this class, or raises Unknown."""


def _fuse_postprocessing(places: Sequence[_Place], preprocessing: Any, fusion: Fusion) -> None:
    inversions = [place for place in places if type(place.transform) is monai.Invertd]
    if not inversions:
        return
    if not fusion.is_complete:
        raise Unknown("inversion not fused: not all of the preprocessing is")
    if len(inversions) > 1:
        raise Unknown("inversion not fused: there are several")
    invert = inversions[0].transform
    _check_inversion(invert, preprocessing, fusion.key)
    key = invert.keys[0]
    together = [place for place in places if not _is_nothing(place.transform, key)]
    middle = together.index(inversions[0])
    first, last = _run_of_labels(together, middle, key)
    by_nearest = bool(invert.nearest_interp[0])
    if last == first or not any(_is_largest(place.transform, key) for place in together[first : last + 1]):
        fusion.postprocessing = ("Invertd",)
        together[middle].fill(FusedInversion(invert, fusion.run, by_nearest=by_nearest))
        return
    transforms = [place.transform for place in together[first : last + 1]]
    labels = FusedLabels(
        transforms,
        invert,
        fusion.run,
        activation="softmax" if any(_is_softmax(each, key) for each in transforms) else None,
        by_nearest=by_nearest,
        as_float=not all(type(place.transform) is Keepd for place in together[last + 1 :]),
    )
    fusion.postprocessing = tuple(type(each).__name__ for each in transforms)
    fusion.labels = labels if first == 0 and together[0] is places[0] else None
    for place, transform in zip(together[first : last + 1], transforms, strict=True):
        place.fill(Skipped(transform))
    together[first].fill(labels)


def _check_inversion(invert: Any, preprocessing: Any, key: Hashable | None) -> None:
    """Raises Unknown unless the inversion undoes this very preprocessing, of one key, and nothing more."""
    if invert.transform is not preprocessing:
        raise Unknown("inversion not fused: it undoes something else than the preprocessing")
    if len(invert.keys) != 1 or tuple(invert.orig_keys) != (key,):
        raise Unknown("inversion not fused: it is for several keys, or for another image")
    if invert.device[0] is not None or invert.post_func[0] is not None:
        raise Unknown("inversion not fused: it has a `device` or a `post_func`")


def _run_of_labels(places: Sequence[_Place], middle: int, key: Hashable) -> tuple[int, int]:
    """First and last of the transforms around an inversion that make labels of scores."""
    first = last = middle
    if middle + 1 < len(places) and _is_largest(places[middle + 1].transform, key):
        last += 1
    elif places[middle].transform.nearest_interp[0] and middle and _is_largest(places[middle - 1].transform, key):
        first -= 1
    if (first, last) != (middle, middle) and first and _is_softmax(places[first - 1].transform, key):
        first -= 1
    return first, last


def _is_nothing(transform: Any, key: Hashable) -> bool:
    try:
        _check_key(transform, key)
        return type(transform) is monai.EnsureTyped and type(_ensure_type(transform)) is Nothing
    except (Unknown, AttributeError):
        return False


def _is_softmax(transform: Any, key: Hashable) -> bool:
    return (
        type(transform) is monai.Activationsd
        and tuple(transform.keys) == (key,)
        and tuple(transform.softmax) == (True,)
        and tuple(transform.sigmoid) == (False,)
        and tuple(transform.other) == (None,)
        and type(transform.converter) is monai.Activations
        and transform.converter.kwargs == {}
    )


def _is_largest(transform: Any, key: Hashable) -> bool:
    return (
        type(transform) is monai.AsDiscreted
        and tuple(transform.keys) == (key,)
        and tuple(transform.argmax) == (True,)
        and list(transform.to_onehot) == [None]
        and list(transform.threshold) == [None]
        and tuple(transform.rounding) == (None,)
        and type(transform.converter) is monai.AsDiscrete
        and transform.converter.kwargs == {}
    )

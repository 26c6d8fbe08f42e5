"""Does a bundle give the same, fused and not? Asked of the bundle itself, on an image of its own kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from coread.models.bundle.reader import BundleReader
from coread.models.bundle.trust import NO_TRUST, Trust
from coread.models.manifest import Manifest
from coread.models.prediction import Prediction
from coread.volume import Volume

SAME_LABELS = 0.9999
"""Share of voxels that must get the same label."""
SAME_INPUT = 1e-3
"""By no more may what the network sees differ, in parts of its range; but for ``FEW`` of the voxels, where MONAI itself
goes by rounding: whether an interpolated value is 0 exactly.
"""
FEW = 1e-4
SAME_PROBABILITY = 1e-3
SAME_PLACE = 0.1
"""Voxels by which a box's corner or a landmark may differ."""


@dataclass(frozen=True, kw_only=True)
class FusionVerdict:
    """How a bundle's answers compare, fused and through MONAI."""

    agrees: bool
    """Whether it may run fused."""
    why: str
    """In words: what agreed, or what did not."""
    fused: tuple[str, ...] = ()
    """What runs fused, what not and why, a sentence each."""
    same_labels: float | None = None
    """Share of voxels with the same label, 0 to 1; None where the bundle labels none."""
    on_boundaries: bool | None = None
    """Whether all others lie next to a voxel that MONAI's way labels otherwise."""
    input_difference: float | None = None
    """Largest difference of what the network sees, in parts of its range."""
    same_input: float | None = None
    """Share of its voxels that differ by no more than ``SAME_INPUT``."""
    probability_difference: float | None = None


def check_fusion(
    folder: Path,
    manifest: Manifest,
    channels: Sequence[Volume],
    *,
    device: torch.device,
    trust: Trust = NO_TRUST,
    check: Callable[[], object] = lambda: None,
) -> FusionVerdict:
    """Run a bundle both ways on ``channels``, one volume for each series of its manifest.

    Raises what ``BundleReader`` raises where the bundle fails in either way.
    """
    fused_reader = _Watching(folder, manifest, device=device, trust=trust, check=check, fuse=True)
    said = tuple(fused_reader.fusion.sentences())
    if not fused_reader.fusion.is_any:
        fused_reader.close()
        return FusionVerdict(agrees=False, why="nothing of it can be fused", fused=said)
    fused = fused_reader.predict(channels)
    other_case = fused_reader.fusion.run.other_case
    fused_reader.close()
    if other_case:
        return FusionVerdict(agrees=False, why=f"on this image it does not run fused: {other_case}", fused=said)
    reader = _Watching(folder, manifest, device=device, trust=trust, check=check)
    plain = reader.predict(channels)
    reader.close()
    return compared(fused, plain, inputs=(fused_reader.seen, reader.seen), fused=said)


class _Watching(BundleReader):
    """One that keeps what the network saw."""

    seen: NDArray[np.float32] | None = None

    def _run(self, tensors: Any) -> Any:
        raw, *others = super()._run(tensors)
        if isinstance(raw.image, torch.Tensor):
            self.seen = raw.image.detach().float().cpu().numpy()
        return raw, *others


def compared(
    one: Prediction,
    other: Prediction,
    *,
    inputs: tuple[NDArray[np.float32] | None, NDArray[np.float32] | None] = (None, None),
    fused: tuple[str, ...] = (),
) -> FusionVerdict:
    """The verdict on two answers, the ``other`` being MONAI's, and on what the network saw for them."""
    same, boundaries = _same_labels(one, other)
    difference, same_input = _input_difference(*inputs)
    probability = _probability_difference(one, other)
    wrong = []
    if same is None and one.layers:
        wrong.append("labels lie in another number of layers")
    if same is not None and same < SAME_LABELS:
        wrong.append(f"{1 - same:.2%} of the voxels get another label")
    if boundaries is False:
        wrong.append("a label differs away from every boundary")
    if same_input is not None and same_input < 1 - FEW:
        wrong.append(f"the network sees an image that differs by {difference:.2g} of its range")
    if probability > SAME_PROBABILITY and (same is None or boundaries is False):
        wrong.append(f"a probability differs by {probability:.2g}")
    if one.chosen != other.chosen or not _same_numbers(one, other):
        wrong.append("the answers differ")
    return FusionVerdict(
        agrees=not wrong,
        why="; ".join(wrong) or "both ways give the same",
        fused=fused,
        same_labels=same,
        on_boundaries=boundaries,
        input_difference=difference,
        same_input=same_input,
        probability_difference=probability,
    )


def _same_labels(one: Prediction, other: Prediction) -> tuple[float | None, bool | None]:
    if not other.layers or len(one.layers) != len(other.layers):
        return None, None
    differing = [a != b for a, b in zip(one.layers, other.layers, strict=True)]
    share = 1 - sum(int(each.sum()) for each in differing) / sum(each.size for each in differing)
    beside = all(
        not each.any() or bool(on_boundary(labels)[each].all())
        for each, labels in zip(differing, other.layers, strict=True)
    )
    return share, beside


def on_boundary(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which voxels have one of another label among their 26 neighbours."""
    return np.asarray(ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3))


def _input_difference(
    one: NDArray[np.float32] | None, other: NDArray[np.float32] | None
) -> tuple[float | None, float | None]:
    """The largest difference, and the share of voxels that are the same."""
    if one is None or other is None:
        return None, None
    if one.shape != other.shape:
        return float("inf"), 0.0
    away = np.abs(one - other) / (float(other.max() - other.min()) or 1.0)
    return float(away.max()), float((away <= SAME_INPUT).mean())


def _probability_difference(one: Prediction, other: Prediction) -> float:
    pairs = [(one.probabilities[key], other.probabilities[key]) for key in other.probabilities]
    return max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)


def _same_numbers(one: Prediction, other: Prediction) -> bool:
    pairs = [(one.classes.get(key), each) for key, each in other.classes.items()]
    pairs += [(one.numbers.get(key), each) for key, each in other.numbers.items()]
    close = all(
        a == b or (a is not None and b is not None and np.isclose(a, b, rtol=1e-3, atol=1e-3)) for a, b in pairs
    )
    return close and _same_places(one, other)


def _same_places(one: Prediction, other: Prediction) -> bool:
    """Whether boxes and landmarks are the same, in their order, and lie in the same places but for rounding."""
    if len(one.boxes) != len(other.boxes) or len(one.points) != len(other.points):
        return False
    boxes, points = zip(one.boxes, other.boxes, strict=True), zip(one.points, other.points, strict=True)
    return all(
        a.label == b.label
        and np.allclose([*a.low, *a.high], [*b.low, *b.high], rtol=0, atol=SAME_PLACE)
        and abs(a.probability - b.probability) <= SAME_PROBABILITY
        for a, b in boxes
    ) and all(a.label == b.label and np.allclose(a.place, b.place, rtol=0, atol=SAME_PLACE) for a, b in points)

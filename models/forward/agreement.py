"""Whether an engine answers as torch does."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from coread.models.forward.engines import Precision

if TYPE_CHECKING:
    import torch

SAME_WITHIN: Mapping[Precision, float] = {"f32": 1e-3, "f16": 2e-2, "bf16": 2e-2}
"""How far a score may be from torch's, in parts of the range of torch's scores for that input. Float32 sums in another
order differ by about 1e-6 to 1e-4; bfloat16 has three significant digits, and a deep network loses one of them."""
SAME_CHOICE: Mapping[Precision, float] = {"f32": 0.9999, "f16": 0.999, "bf16": 0.999}
"""At least this part of the places must have the highest score in the same channel."""


class Agreement(BaseModel):
    """How near an engine's answers come to torch's; of several inputs, the worst."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deviation: float
    """Largest difference of a score, in parts of the range of torch's scores."""
    same_choice: float
    """Part of the places (voxels, or cases) with the highest score in the same channel."""

    def reason_against(self, precision: Precision) -> str:
        """Why the engine must not be used; nothing if it may."""
        allowed, needed = SAME_WITHIN[precision], SAME_CHOICE[precision]
        if not self.deviation <= allowed:  # also of a deviation that is no number
            return f"expected scores within {allowed:g} of torch's range, found {self.deviation:.2g}"
        if self.same_choice < needed:
            return f"expected the same class in {needed:.2%} of the places, found {self.same_choice:.3%}"
        return ""


def agreement(told: "torch.Tensor", by_torch: "torch.Tensor") -> Agreement:
    """Of answers (case, channel, …)."""
    if told.shape != by_torch.shape:
        return Agreement(deviation=float("inf"), same_choice=0)
    span = float(by_torch.max() - by_torch.min()) or float(by_torch.abs().max()) or 1.0
    deviation = float((told - by_torch).abs().max()) / span
    same = (told.argmax(1) == by_torch.argmax(1)).float().mean() if told.ndim > 1 and told.shape[1] > 1 else 1.0
    return Agreement(deviation=deviation, same_choice=float(same))


def worst(found: list[Agreement]) -> Agreement:
    """Of several inputs."""
    return Agreement(
        deviation=max((each.deviation for each in found), key=lambda value: (value != value, value)),
        same_choice=min(each.same_choice for each in found),
    )

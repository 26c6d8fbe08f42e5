"""A network run by torch itself, in a way that is quicker than as it comes."""

from collections.abc import Mapping
from typing import cast

import torch
from monai.data import MetaTensor
from torch import nn

CHANNELS_LAST: Mapping[int, torch.memory_format] = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Axes of a batch of images → the layout in memory in which a voxel's channels lie side by side."""

ROUNDED: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "f16": torch.float16}


class TorchNetwork(nn.Module):
    """In the place of a torch network: the same call, the same weights. Always answers in float32."""

    def __init__(
        self, network: nn.Module, *, precision: str = "f32", is_tuned: bool = True, is_compiled: bool = False
    ) -> None:
        """``network``: it is kept. ``is_tuned``: its weights are laid out anew, in place. ``is_compiled``: by
        torch.compile, which needs a C++ compiler (on a GPU, Triton) at the first call of each size.
        """
        super().__init__()
        self._layouts = CHANNELS_LAST if is_tuned else {}
        for layout in {self._layouts[each.ndim] for each in network.parameters() if each.ndim in self._layouts}:
            network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's own types leave it out
        self.network = network
        self._run = cast("nn.Module", torch.compile(network, dynamic=False)) if is_compiled else network
        self._rounded = ROUNDED.get(precision)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        if plain.ndim in self._layouts:
            plain = plain.contiguous(memory_format=self._layouts[plain.ndim])
        # Also where the bundle rounds by itself: what was compared is what runs.
        rounding = torch.autocast(plain.device.type, self._rounded, enabled=self._rounded is not None)
        with torch.no_grad(), rounding:
            answer: torch.Tensor = self._run(plain)
        answer = answer.float().contiguous()
        return MetaTensor(answer).copy_meta_from(image) if isinstance(image, MetaTensor) else answer

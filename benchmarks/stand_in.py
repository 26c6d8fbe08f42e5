"""Networks that take as long as real ones do, in the place of the one that takes no time."""

import time

import torch
from monai.networks.nets import UNet

CHANNELS = (16, 32, 64, 128, 256)
SIDE = 96
"""Voxels: the window of the usual CT UNet."""


class Waits(torch.nn.Module):
    """Gives its input back after a while in which the processor is free, as it is while a GPU computes."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The image as it is."""
        time.sleep(self.seconds)  # which lets go of the interpreter's lock
        return image


class Computes(torch.nn.Module):
    """Gives its input back after the usual CT UNet has run over some windows of noise on the processor."""

    def __init__(self, windows: int) -> None:
        super().__init__()
        self.windows = windows
        network = UNet(3, 1, 2, channels=CHANNELS, strides=(2, 2, 2, 2), num_res_units=2).eval()
        self._run = [network]  # in a list, since a network that is seen has to have its weights loaded
        self._noise = torch.rand(1, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The image as it is."""
        for _ in range(self.windows):
            self._run[0](self._noise)
        return image

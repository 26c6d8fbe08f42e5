"""The network of the ECG model: convolutions find waves, a recurrent layer reads them in their order."""

from collections.abc import Sequence

import torch
from monai.networks.blocks import ResidualUnit
from torch import Tensor, nn


class ConvolutionalRecurrentEnsemble(nn.Module):
    """Several networks of the same form, each trained on another part of the people; the answer is their mean.

    All convolutions lie in ``features``, so that one layer holds what the whole ensemble saw.
    """

    def __init__(
        self,
        *,
        members: int,
        leads: int,
        classes: int,
        channels: Sequence[int],
        kernel_size: int,
        hidden: int,
        dropout: float,
    ) -> None:
        """``channels``: of each residual unit; each halves the sampling rate. ``hidden``: of the recurrent layer, in
        each direction.
        """
        super().__init__()
        self.features = SideBySide(
            convolutions(leads=leads, channels=channels, kernel_size=kernel_size, dropout=dropout)
            for _ in range(members)
        )
        self.readers = nn.ModuleList(Reader(channels[-1], hidden=hidden, classes=classes) for _ in range(members))

    def member(self, number: int) -> nn.Sequential:
        """One of the networks, from 0, with the same weights: what it learns, the ensemble knows."""
        return nn.Sequential(self.features[number], self.readers[number])

    def forward(self, leads: Tensor) -> Tensor:
        """(case, lead, sample) in mV → logits (case, class)."""
        found = self.features(leads).chunk(len(self.readers), dim=1)
        answers = [reader(features) for reader, features in zip(self.readers, found, strict=True)]
        return torch.stack(answers).mean(dim=0)


class SideBySide(nn.ModuleList):
    """Modules that get the same input, their outputs one after the other along the channels."""

    def forward(self, leads: Tensor) -> Tensor:
        """(case, lead, sample) → (case, channel of all, step)."""
        return torch.cat([module(leads) for module in self], dim=1)


class Reader(nn.Module):
    """A bidirectional LSTM (Hochreiter and Schmidhuber 1997); the mean and the maximum over time of what it says."""

    def __init__(self, channels: int, *, hidden: int, classes: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.answer = nn.Linear(4 * hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        """(case, channel, step) → logits (case, class)."""
        said, _ = self.recurrent(features.transpose(1, 2))
        summary = torch.cat([said.mean(dim=1), said.amax(dim=1)], dim=1)
        logits: Tensor = self.answer(self.dropout(summary))
        return logits


def convolutions(*, leads: int, channels: Sequence[int], kernel_size: int, dropout: float) -> nn.Sequential:
    """Residual units along time, (case, lead, sample) → (case, channel, step)."""
    before = (leads, *channels)
    return nn.Sequential(
        *(
            ResidualUnit(
                spatial_dims=1,
                in_channels=into,
                out_channels=out,
                strides=2,
                kernel_size=kernel_size,
                subunits=2,
                act="relu",
                norm="batch",
                dropout=dropout,
            )
            for into, out in zip(before, channels, strict=False)
        )
    )

"""An ECG as the tensor that a bundle's loader would give for it."""

import torch
from monai.data import MetaTensor

from coread.waveform import Waveform


def tensor_of(waveform: Waveform) -> MetaTensor:
    """(lead, sample), float32, mV. Leads are channels, and they come first already."""
    return MetaTensor(
        torch.from_numpy(waveform.samples.copy()),
        meta={"original_channel_dim": 0, "filename_or_obj": "waveform"},
    )

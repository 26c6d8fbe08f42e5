"""Runs an installed model on volumes, or an ECG, in memory, and keeps it warm.

A bundle of configuration alone runs in this process; one with Python of its own in a process of its own.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from coread.errors import ConfigurationError
from coread.models.bundle.isolation import IsolatedReader, has_python
from coread.models.bundle.reader import BundleReader
from coread.models.bundle.trust import Trust
from coread.models.catalogue import InstalledModel
from coread.models.prediction import Prediction
from coread.volume import Volume
from coread.waveform import Waveform


class BundleRunner:
    """A model, built once and kept warm. Not safe to share between threads."""

    def __init__(self, model: InstalledModel, *, device: torch.device) -> None:
        """Raises ModelError if it cannot be built, ConfigurationError if it may not run, or not on this machine."""
        wanted = model.manifest.resources.device
        self.model = model
        self.device = device if wanted == "auto" else choose_device(wanted)
        approval = model.approval()  # before anything of it runs: it raises for what was not approved
        self.digest = approval.digest if approval else model.digest()
        reader = IsolatedReader if approval and has_python(model.folder) else BundleReader
        trust = Trust(unsafe_weights=approval.unsafe_weights, torchscript=approval.torchscript) if approval else Trust()
        self._reader = reader(model.folder, model.manifest, device=self.device, trust=trust, check=model.approval)

    def predict(self, channels: Sequence[Volume] | Waveform) -> Prediction:
        """What the model gives for ``channels``, one for each series of its manifest, all on one grid; or for an ECG.

        Raises ModelError if the bundle fails, or gives anything but what its manifest says; OutOfMemory if it needs
        more memory than there is; ConfigurationError if somebody has taken the approval back.
        """
        self.model.check_still_approved(self.digest)
        return self._reader.predict(channels)

    @property
    def networks(self) -> Sequence[torch.nn.Module]:
        """What answers; nothing of a bundle that runs in a process of its own."""
        return self._reader.networks

    def close(self) -> None:
        """Give back memory, temporary files and processes."""
        self._reader.close()


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on. Raises ConfigurationError if a GPU is demanded and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("a GPU is demanded (device = cuda), but torch finds none; set it to auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

"""Runs an installed model on volumes, or an ECG, in memory, and keeps it warm.

A bundle of configuration alone runs in this process; one with Python of its own in a process of its own.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from coread.errors import ConfigurationError
from coread.models.bundle.fusion import Fusion
from coread.models.bundle.isolation import IsolatedReader, has_python
from coread.models.bundle.reader import BundleReader
from coread.models.bundle.trust import Trust
from coread.models.catalogue import InstalledModel
from coread.models.prediction import Prediction
from coread.models.prepared import NotPrepared, Prepared, cpu_name, load
from coread.volume import Volume
from coread.waveform import Waveform


class BundleRunner:
    """A model, built once and kept warm. Not safe to share between threads."""

    def __init__(self, model: InstalledModel, *, device: torch.device, prepared: Path | None = None) -> None:
        """``prepared``: the folder of what models were prepared for; None: torch runs the network as it comes.

        Raises ModelError if it cannot be built, ConfigurationError if it may not run, or not on this machine.
        """
        wanted = model.manifest.resources.device
        self.model = model
        self.device = device if wanted == "auto" else choose_device(wanted)
        approval = model.approval()  # before anything of it runs: it raises for what was not approved
        self.digest = approval.digest if approval else model.digest()
        self.is_isolated = bool(approval) and has_python(model.folder)
        """Whether it runs in a process of its own."""
        self.trust = trust = (
            Trust(unsafe_weights=approval.unsafe_weights, torchscript=approval.torchscript) if approval else Trust()
        )
        self._reader: BundleReader | IsolatedReader
        if self.is_isolated:
            self._reader = IsolatedReader(
                model.folder, model.manifest, device=self.device, trust=trust, check=model.approval
            )
            self.fusion = Fusion(not_fused=("not fused: the bundle runs in a process of its own",))
        else:
            found = None if prepared is None else self._prepared(prepared)
            self._reader = BundleReader(
                model.folder,
                model.manifest,
                device=self.device,
                trust=trust,
                check=model.approval,
                fuse=self._fuses(found),
                prepared=found,
            )
            self.fusion = self._reader.fusion

    def predict(self, channels: Sequence[Volume] | Waveform) -> Prediction:
        """What the model gives for ``channels``, one for each series of its manifest, all on one grid; or for an ECG.

        Raises ModelError if the bundle fails, or gives anything but what its manifest says; OutOfMemory if it needs
        more memory than there is; ConfigurationError if somebody has taken the approval back.
        """
        self.model.check_still_approved(self.digest)
        return self._reader.predict(channels)

    def _fuses(self, found: Prepared | None) -> bool:
        """As was found out here; of the models that Coread ships, its own tests prove that it changes nothing."""
        if found is not None and found.record.fusion is not None:
            return found.record.fusion.agrees
        return self.model.allowed is None

    def _prepared(self, home: Path) -> Prepared | None:
        try:
            return load(home, self.model.name, digest=self.digest, device=processor_name(self.device))
        except NotPrepared as reason:
            logging.getLogger(__name__).info(
                "%s: torch runs the network, because %s; `coread models prepare %s` looks for something quicker",
                *(self.model.name, reason, self.model.name),
            )
            return None

    @property
    def engine(self) -> str:
        """By what the network runs: "openvino 2026.4.1 f32"."""
        return self._reader.engine

    @property
    def rounds(self) -> bool:
        """Whether the bundle itself asks for 16 bits, and gets them here."""
        return self._reader.rounds

    @property
    def has_one_size(self) -> bool:
        """Whether the network is known to see windows of one size, whatever the image's."""
        return self._reader.has_one_size

    @property
    def networks(self) -> Sequence[torch.nn.Module]:
        """What answers; nothing of a bundle that runs in a process of its own."""
        return self._reader.networks

    @property
    def held_bytes(self) -> int:
        """What it takes up between two studies: parameters and buffers, or what an engine was given of them; of a
        process of its own, all of it.
        """
        return self._reader.process_bytes + sum(map(_held_by, self.networks))

    def close(self) -> None:
        """Give back memory, temporary files and processes."""
        self._reader.close()


def _held_by(network: torch.nn.Module) -> int:
    tensors = (*network.parameters(), *network.buffers())
    return int(getattr(network, "held_bytes", 0)) + sum(each.nbytes for each in tensors)


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on. Raises ConfigurationError if a GPU is demanded and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("a GPU is demanded (device = cuda), but torch finds none; set it to auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def processor_name(device: torch.device) -> str:
    """What the processor is called that does the work."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()

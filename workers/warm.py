"""The models that a worker keeps ready, within a budget of memory: the one not used for longest is unloaded first."""

import gc
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from coread.errors import ConfigurationError
from coread.logs import logger
from coread.models.catalogue import InstalledModel, find_model, installed_models
from coread.models.runner import BundleRunner, choose_device
from coread.settings import Settings

MEGABYTE, GIGABYTE = 10**6, 10**9

SHARE = 0.25
"""Of the memory that there is, for models that wait for their next study; the rest is for those that are read."""

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a container may use: a number of bytes, or "max"."""


@dataclass(frozen=True, kw_only=True)
class _Warm:
    runner: BundleRunner
    size: int
    """Bytes."""


class WarmModels:
    """Name → model, built when it is first asked for and kept as long as there is room.

    Whoever asks for a model is done with the one asked for before: so none that is in use is unloaded. Only
    ``installed`` and ``loaded`` are safe to use from another thread.
    """

    def __init__(
        self,
        build: Callable[[InstalledModel], BundleRunner],
        installed: Callable[[str], InstalledModel],
        *,
        budget: int,
    ) -> None:
        """``budget``: bytes for all models together. One that needs more is kept alone."""
        self._build, self.installed, self._budget = build, installed, budget
        self._warm: OrderedDict[str, _Warm] = OrderedDict()
        self._sizes: dict[str, int] = {}
        """What each model needed that was ever loaded."""
        self._digests: dict[str, str] = {}
        """Of its files, when it was loaded first."""
        self.loaded: Mapping[str, Mapping[str, str]] = {}
        """Name → version, digest, device and engine of the models that are loaded. Any thread may look: it is never
        changed, but replaced.
        """

    def __call__(self, name: str) -> BundleRunner:
        """Raises ConfigurationError if there is no such model, it may not run, or its files are not those that were
        loaded first; ModelError if it cannot be built.
        """
        if name not in self._warm:
            model = self.installed(name)
            self._make_room(self._sizes.get(name, 0))
            runner = self._build(model)
            if self._digests.setdefault(name, runner.digest) != runner.digest:
                runner.close()
                raise ConfigurationError(
                    f"{name}: expected the files that this worker loaded first, found others, which would answer "
                    "in the name of the older version; start the worker again"
                )
            size = self._sizes[name] = runner.held_bytes
            self._make_room(size)
            self._warm[name] = _Warm(runner=runner, size=size)
            self._note_loaded()
            needs_mb, all_mb = (round(each / MEGABYTE) for each in (size, self._held))
            logger().info("model loaded", model=name, needs_mb=needs_mb, all_mb=all_mb, kept=len(self._warm))
        self._warm.move_to_end(name)
        return self._warm[name].runner

    @property
    def names(self) -> list[str]:
        """Of the models that are loaded, the one not used for longest first."""
        return list(self._warm)

    def _note_loaded(self) -> None:
        self.loaded = {name: said_of(each.runner) for name, each in self._warm.items()}

    @property
    def _held(self) -> int:
        return sum(each.size for each in self._warm.values())

    def _make_room(self, size: int) -> None:
        before = len(self._warm)
        while self._warm and self._held + size > self._budget:
            name, oldest = self._warm.popitem(last=False)
            oldest.runner.close()
            logger().info("model unloaded", model=name, freed_mb=round(oldest.size / MEGABYTE))
            del oldest
        if len(self._warm) < before:
            self._note_loaded()
            gc.collect()  # an evaluator and its handlers refer to each other
            torch.cuda.empty_cache()


def said_of(runner: BundleRunner) -> dict[str, str]:
    """What is told of a model that is loaded."""
    return {
        "version": runner.model.version,
        "digest": runner.digest,
        "device": str(runner.device),
        "engine": runner.engine,
    }


def warm_models(settings: Settings, models: Mapping[str, InstalledModel]) -> WarmModels:
    """The models on the device that the settings want. One that is not among ``models`` may have been added since."""
    device = choose_device(settings.worker.device)
    wanted = settings.worker.model_memory_gb

    def installed(name: str) -> InstalledModel:
        return find_model(name, models if name in models else installed_models(settings))

    return WarmModels(
        lambda model: BundleRunner(model, device=device, prepared=settings.prepared_home),
        installed,
        budget=int(SHARE * _memory(device)) if wanted is None else int(wanted * GIGABYTE),
    )


def _memory(device: torch.device) -> int:
    """Bytes of the GPU; or of this machine, or container."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text(encoding="ascii").strip() if CGROUP_LIMIT.exists() else ""
    return min(machine, int(limit)) if limit.isdecimal() else machine

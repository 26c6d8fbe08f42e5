"""A bundle on a device, from volumes to a prediction: with less memory, or on the CPU, where it must be."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from monai.data import MetaTensor

from coread.errors import ConfigurationError, OutOfMemory
from coread.models.bundle.engine import BundleEngine, RawOutput
from coread.models.bundle.grid import ModelGrid
from coread.models.bundle.outputs import interpret, interpret_waveform
from coread.models.bundle.saliency import explained
from coread.models.bundle.trust import NO_TRUST, Trust
from coread.models.bundle.waveform_tensor import tensor_of
from coread.models.manifest import Manifest, TaskKind
from coread.models.metadata import find_metadata
from coread.models.prediction import Prediction
from coread.models.tasks import inputs_of, task_of
from coread.volume import Volume
from coread.waveform import Waveform


class BundleReader:
    """A bundle, built and kept warm. Not safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: torch.device,
        trust: Trust = NO_TRUST,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Raises ModelError if the bundle cannot be built, ConfigurationError if the manifest does not fit it."""
        self._folder, self._manifest, self._trust, self._check = folder, manifest, trust, check
        metadata = find_metadata(folder)
        self._channels = next((each.get("num_channels") for each in inputs_of(metadata).values()), None)
        self.task = chosen_task(manifest, task_of(metadata))
        self._check_channels()
        if manifest.series[0].projection and self.task not in (TaskKind.CLASSIFICATION, TaskKind.REGRESSION):
            raise ConfigurationError(
                f"{manifest.name}: expected a stack of slices for {self.task}, found `projection: true` in "
                "coread.yaml; of single images, only classes and numbers are reported"
            )
        self._engine = self._on(device)
        if manifest.series[0].waveform and self._engine.way == "files":
            raise ConfigurationError(
                f"{manifest.name}: expected the bundle to load the waveform by LoadImaged, found that it opens "
                "files by means of its own; only images are written into files for it"
            )

    def predict(self, channels: Sequence[Volume] | Waveform) -> Prediction:
        """What the bundle gives for ``channels``, one for each series of the manifest on one grid; or for an ECG.

        Raises ModelError if it fails, or gives anything but what the manifest says; OutOfMemory if it needs more
        memory than there is, whatever is tried.
        """
        if isinstance(channels, Waveform):
            raw, device, done = self._run([tensor_of(channels)])
            answer = interpret_waveform(raw, self._engine, self.task)
            if raw.looked is not None:
                answer = explained(answer, raw.looked, self._manifest, None)
            return replace(answer, device=device, way=self._engine.way, adapted=(*self._engine.adapted, *done))
        projection = self._manifest.series[0].projection
        grid = ModelGrid.of(channels[0], self._manifest.orientation, projection=projection)
        tensors = [grid.tensor(each, colours=projection and self._channels == 3) for each in channels]
        raw, device, done = self._run(tensors)
        prediction = interpret(raw, self._engine, grid, channels[0], self.task)
        if raw.looked is not None:
            prediction = explained(prediction, raw.looked, self._manifest, grid)
        return replace(prediction, device=device, way=self._engine.way, adapted=(*self._engine.adapted, *done))

    @property
    def networks(self) -> Sequence[torch.nn.Module]:
        """What answers, warm."""
        return self._engine.networks

    def close(self) -> None:
        """Give back memory and temporary files."""
        self._engine.close()

    def _on(self, device: torch.device) -> BundleEngine:
        return BundleEngine(
            folder=self._folder, manifest=self._manifest, device=device, trust=self._trust, check=self._check
        )

    def _run(self, tensors: Sequence[MetaTensor]) -> tuple[RawOutput, str, tuple[str, ...]]:
        """What came out, on which device, and what had to be done: out of memory, one window at a time is tried, then
        the CPU.
        """
        raw, reason = _attempt(self._engine, tensors)
        if raw is None and self._engine.use_less_memory():
            self._engine.note(f"less_memory: one window at a time, because {reason}")
            raw, reason = _attempt(self._engine, tensors)
        if raw is not None:
            return raw, str(self._engine.device), ()
        if self._engine.device.type != "cpu" and self._manifest.resources.cpu_if_out_of_memory:
            on_cpu = self._on(torch.device("cpu"))
            try:
                return on_cpu.run(tensors), "cpu", (f"less_memory: on the CPU, because {reason}",)
            finally:
                on_cpu.close()
        raise OutOfMemory(reason)

    def _check_channels(self) -> None:
        """Raises ConfigurationError if the manifest names another number of series than the bundle has channels."""
        named, wanted = len(self._manifest.series), self._channels
        waveform = self._manifest.series[0].waveform
        if waveform:
            if isinstance(wanted, int) and wanted != len(waveform.leads):
                raise ConfigurationError(
                    f"{self._manifest.name}: expected a lead in coread.yaml for each of the {wanted} channels of the "
                    f"bundle, found {len(waveform.leads)}; list them in the order of the channels"
                )
            return
        one_image = self._manifest.series[0].projection and wanted == 3
        keyed = any(series.key for series in self._manifest.series)
        if isinstance(wanted, int) and named != wanted and not one_image and not keyed:
            raise ConfigurationError(
                f"{self._manifest.name}: expected a series in coread.yaml for each of the {wanted} channels of the "
                f"bundle, found {named}; list them in the order of the channels"
            )


def _attempt(engine: BundleEngine, tensors: Sequence[MetaTensor]) -> tuple[RawOutput | None, str]:
    """The output; or None and why the memory did not do. What the failed run held is let go of on the way back."""
    try:
        return engine.run(tensors), ""
    except OutOfMemory as error:
        return None, str(error)


def chosen_task(manifest: Manifest, by_metadata: TaskKind | None) -> TaskKind:
    """What the model does: as the manifest says, else as its tables and the bundle's metadata do."""
    if manifest.task:
        return manifest.task
    if manifest.classes:
        return TaskKind.CLASSIFICATION
    if manifest.numbers:
        return TaskKind.REGRESSION
    return by_metadata if by_metadata in (TaskKind.DETECTION, TaskKind.LANDMARKS) else TaskKind.SEGMENTATION

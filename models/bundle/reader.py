"""A bundle on a device, from volumes to a prediction: with less memory, or on the CPU, where it must be."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from coread.errors import ConfigurationError, ModelError, OutOfMemory
from coread.models.bundle.engine import BundleEngine, RawOutput
from coread.models.bundle.fusion import Fusion
from coread.models.bundle.grid import ModelGrid
from coread.models.bundle.in_memory import Channel
from coread.models.bundle.outputs import interpret, interpret_waveform
from coread.models.bundle.saliency import explained
from coread.models.bundle.trust import NO_TRUST, Trust
from coread.models.bundle.waveform_tensor import tensor_of
from coread.models.manifest import Manifest, TaskKind
from coread.models.metadata import find_metadata
from coread.models.prediction import Prediction
from coread.models.prepared import Prepared
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
        fuse: bool = False,
        prepared: Prepared | None = None,
    ) -> None:
        """``fuse``: whether what is recognised of the bundle's transforms runs by Coread's kernels. ``prepared``: for
        this device.

        Raises ModelError if the bundle cannot be built, ConfigurationError if the manifest does not fit it.
        """
        self._folder, self._manifest, self._trust, self._check = folder, manifest, trust, check
        self._fuse = fuse
        metadata = find_metadata(folder)
        self._channels = next((each.get("num_channels") for each in inputs_of(metadata).values()), None)
        self.task = chosen_task(manifest, task_of(metadata))
        self._check_channels()
        if manifest.series[0].projection and self.task not in (TaskKind.CLASSIFICATION, TaskKind.REGRESSION):
            raise ConfigurationError(
                f"{manifest.name}: expected a stack of slices for {self.task}, found `projection: true` in "
                "coread.yaml; of single images, only classes and numbers are reported"
            )
        self._engine = self._on(device, prepared)
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
            raw, engine, done = self._run([tensor_of(channels)])
            answer = interpret_waveform(raw, self._engine, self.task)
            if raw.looked is not None:
                answer = explained(answer, raw.looked, self._manifest, None)
            return self._said(answer, engine, done)
        projection = self._manifest.series[0].projection
        grid = ModelGrid.of(channels[0], self._manifest.orientation, projection=projection)
        images = [grid.image(each, colours=projection and self._channels == 3) for each in channels]
        raw, engine, done = self._run(images)
        prediction = interpret(raw, self._engine, grid, channels[0], self.task)
        if raw.looked is not None:
            prediction = explained(prediction, raw.looked, self._manifest, grid)
        return self._said(prediction, engine, done)

    def _said(self, prediction: Prediction, engine: BundleEngine, done: Sequence[str]) -> Prediction:
        """With how it came about."""
        return replace(
            prediction,
            device=str(engine.device),
            engine=engine.engine,
            way=self._engine.way,
            adapted=(*self._engine.adapted, *done),
        )

    @property
    def engine(self) -> str:
        """By what the network runs."""
        return self._engine.engine

    @property
    def rounds(self) -> bool:
        """Whether the bundle itself asks for 16 bits, and gets them here."""
        return self._engine.rounds

    @property
    def has_one_size(self) -> bool:
        """Whether the network sees windows of one size, whatever the image's."""
        return self._engine.has_one_size

    @property
    def networks(self) -> Sequence[torch.nn.Module]:
        """What answers, warm."""
        return self._engine.networks

    @property
    def fusion(self) -> Fusion:
        """What of the bundle's transforms runs by Coread's kernels, and what does not, and why."""
        return self._engine.fusion

    @property
    def process_bytes(self) -> int:
        """It has no process of its own."""
        return 0

    def close(self) -> None:
        """Give back memory and temporary files."""
        self._engine.close()

    def _on(self, device: torch.device, prepared: Prepared | None = None) -> BundleEngine:
        return BundleEngine(
            folder=self._folder,
            manifest=self._manifest,
            device=device,
            trust=self._trust,
            check=self._check,
            fuse=self._fuse,
            prepared=prepared,
        )

    def _run(self, tensors: Sequence[Channel]) -> tuple[RawOutput, BundleEngine, tuple[str, ...]]:
        """What came out, of which engine, and what had to be done: out of memory, one window at a time is tried, then
        the CPU.
        """
        try:
            raw, reason = _attempt(self._engine, tensors)
            if raw is None and self._engine.use_less_memory():
                self._engine.note(f"less_memory: one window at a time, because {reason}")
                raw, reason = _attempt(self._engine, tensors)
        except ModelError as error:
            if self._engine.prepared is None:
                raise
            return self._by_torch(tensors, error)
        if raw is not None:
            return raw, self._engine, ()
        if self._engine.device.type != "cpu" and self._manifest.resources.cpu_if_out_of_memory:
            on_cpu = self._on(torch.device("cpu"))
            try:
                return on_cpu.run(tensors), on_cpu, (f"less_memory: on the CPU, because {reason}",)
            finally:
                on_cpu.close()
        raise OutOfMemory(reason)

    def _by_torch(
        self, tensors: Sequence[Channel], error: ModelError
    ) -> tuple[RawOutput, BundleEngine, tuple[str, ...]]:
        """The same as the bundle builds it, for images of a kind that the engine was not tried with."""
        as_it_comes = self._on(self._engine.device)
        try:
            done = f"engine: torch ran the network, because {self._engine.engine} failed: {error}"
            return as_it_comes.run(tensors), as_it_comes, (done,)
        finally:
            as_it_comes.close()

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


def _attempt(engine: BundleEngine, tensors: Sequence[Channel]) -> tuple[RawOutput | None, str]:
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

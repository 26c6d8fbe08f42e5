"""Builds a bundle's evaluator from its rewritten configuration, and runs it on volumes in memory."""

import logging
import re
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import ErrorDuringImport
from typing import Any

import monai
import nibabel
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose

from coread.errors import ConfigurationError, CoreadError, ModelError, OutOfMemory
from coread.models.bundle.adapters import Place, adapt_configuration, adapt_transforms, today
from coread.models.bundle.configuration import (
    CHECKPOINT_LOADER,
    Configuration,
    components_of,
    find_configuration,
    name_of,
    read_configuration,
    rewrite,
    run_compiled,
)
from coread.models.bundle.fused import LabellingWindow
from coread.models.bundle.fusion import Fusion, fuse, fuse_window
from coread.models.bundle.grid import GridImage
from coread.models.bundle.in_memory import Channel, Feed
from coread.models.bundle.saliency import Call, Looked, check_layer, watched
from coread.models.bundle.trust import NO_TRUST, Trust
from coread.models.forward.engines import EAGER, network_of
from coread.models.forward.window import SlidingWindow
from coread.models.manifest import Manifest
from coread.models.metadata import find_metadata
from coread.models.prepared import Prepared
from coread.models.tasks import inputs_of
from coread.scratch import new_folder

REFERENCE_KEYS = ("label", "gt", "reference")
"""What data sets call what a model is compared with."""

_CANNOT_LOCATE = re.compile(r"Cannot locate class or function path: '([^']+)'")
_NEEDED = re.compile(r"[Tt]ried to allocate ([\d.]+ ?\w+)")
_AXES = re.compile(r"input\.dim\(\) = (\d+) is not equal to len\(dims\) = (\d+)")
_CPU_OUT_OF_MEMORY = "DefaultCPUAllocator"


@dataclass(kw_only=True)
class RawOutput:
    """What a run gave, before anybody says what it means."""

    output: Mapping[str, Any]
    """Key → what the bundle's postprocessing left there, of the one case."""
    saved: Mapping[str, Any]
    """Key → what it would have saved."""
    captured: Sequence[Any]
    image: Any
    """What the network saw: the preprocessed image, (channel, …)."""
    looked: Looked | None = None
    """What is needed to explain the answer, if the manifest asks for it."""


@dataclass(kw_only=True)
class BundleEngine:
    """A bundle, built once and kept warm. Not safe to share between threads."""

    folder: Path
    manifest: Manifest
    device: torch.device
    trust: Trust = NO_TRUST
    check: Callable[[], object] = lambda: None
    """Called before anything of the bundle is read to be run; raises if it is not what was approved."""
    adapted: list[str] = field(default_factory=list)
    """What was adapted, a sentence each."""
    fuse: bool = False
    """Whether what is recognised of its transforms runs by Coread's kernels."""
    way: str = "memory"
    """How volumes get in: `memory`, or `files` if the bundle insists."""
    box_keys: Mapping[str, str] = field(default_factory=dict)
    prepared: Prepared | None = None
    """By what the network is to run instead of torch as it comes."""
    engine: str = EAGER.label
    """By what it runs."""
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of each class in the configuration → its arguments there (the last one's, if there are several)."""

    def __post_init__(self) -> None:
        """Raises ModelError if the bundle cannot be built."""
        self._one_window = self._narrowed = False
        self.fusion = Fusion(not_fused=("fusion is off",))
        self._loaded: set[int] = set()
        self._sums: list[torch.Tensor] = []
        """Of each answer of an engine that runs in torch's place: finite if all of its numbers are."""
        self.metadata = find_metadata(self.folder)
        self._output_folder, self._cleanup = private_folder(self)
        self._feed = Feed([series.key for series in self.manifest.series], image_keys=list(inputs_of(self.metadata)))
        self._evaluator: Any = self._build()

    def run(self, channels: Sequence[Channel]) -> RawOutput:
        """Run the bundle on one case; ``channels``: one volume for each channel, all on one grid.

        Raises ModelError if the bundle fails, OutOfMemory if it needs more memory than there is.
        """
        # An evaluator that has failed goes on with its half-finished run when it is asked again, and then gives back
        # what it gave for the volume before. So one that fails is thrown away, and an old output is never at hand.
        evaluator, self._evaluator = self._evaluator or self._build(), None
        evaluator.state.output = None
        self._sums.clear()
        try:
            networks = _networks(evaluator) if self.manifest.saliency else ()
            with self._files(channels) as item, self._today(), watched(networks) as calls:
                self._feed.start(channels, {**self.manifest.prompt, **item})
                evaluator.run()
                raw = self._raw_output(evaluator, calls)
        except Exception as error:  # a bundle is foreign code: whatever it raises, this job has failed
            raise self._explained(error, "failed") from error
        finally:
            self._feed.clear()
            self.fusion.run.placement = None  # with it the labels, which would be kept until the next study
        if self.fusion.run.other_case:
            logging.getLogger(__name__).info(
                "%s: not run fused this time: %s", self.manifest.name, self.fusion.run.other_case
            )
        self._evaluator = evaluator
        evaluator.state.output = evaluator.state.batch = None
        self._check_answers()
        return raw

    def use_less_memory(self) -> bool:
        """From now on let the sliding window take one window at a time; False if that makes no difference."""
        if self._one_window:
            return False
        self._one_window = True
        self._evaluator = self._evaluator or self._build()
        return self._narrowed

    def note(self, what: str) -> None:
        """Record once what had to be done for the bundle to run."""
        if what not in self.adapted:
            self.adapted.append(what)
            logging.getLogger(__name__).info("%s: %s", self.manifest.name, what)

    @property
    def has_one_size(self) -> bool:
        """Whether the network sees windows of one size, whatever the image's."""
        inferer = getattr(self._evaluator, "inferer", None)
        inferer = inferer.window if isinstance(inferer, LabellingWindow) else inferer
        if not isinstance(inferer, SlidingWindowInferer):
            return False
        sizes = inferer.roi_size if isinstance(inferer.roi_size, Sequence) else (inferer.roi_size,)
        return min(sizes) > 0

    @property
    def rounds(self) -> bool:
        """Whether the bundle itself asks for 16 bits, which it gets on a GPU."""
        return self._rounds(self._evaluator)

    def _rounds(self, evaluator: Any) -> bool:
        return self.device.type == "cuda" and bool(getattr(evaluator, "amp", False))

    @property
    def networks(self) -> Sequence[torch.nn.Module]:
        """What answers, warm."""
        return list(_networks(self._evaluator)) if self._evaluator else []

    def close(self) -> None:
        """Give back memory and temporary files."""
        self._evaluator = None
        self._cleanup()

    def _build(self) -> Any:
        """The evaluator, with its weights loaded."""
        self.check()
        self._loaded.clear()
        self._feed.loaded.clear()
        try:
            path = find_configuration(self.folder)
            content = read_configuration(path, self.manifest.overrides)
            place = Place(bundle_root=self.folder, device=self.device)
            for what in adapt_configuration(content, place):
                self.note(what)
            compiled = self._compiled()
            if compiled:
                run_compiled(content, compiled)
            configuration = rewrite(content, self._feed, bundle_root=self.folder, output_folder=self._output_folder)
            self.way = "memory" if configuration.loads else "files"
            self.box_keys = configuration.box_keys
            self.components = components_of(configuration.content)
            with self._today():
                evaluator = self._built(configuration)
        except CoreadError:
            raise
        except Exception as error:  # a bundle is foreign code: whatever it raises, the model cannot be used
            raise self._explained(error, "cannot be built") from error
        return evaluator

    def _compiled(self) -> Path | None:
        """The compiled network that runs in the place of the configured one: the only one, where it has no weights."""
        if not self.trust.torchscript or any(self.folder.rglob("*.pt")) or any(self.folder.rglob("*.pth")):
            return None
        found = sorted(self.folder.rglob("*.ts"))
        return found[0] if len(found) == 1 else None

    def _built(self, configuration: Configuration) -> Any:
        content = {**configuration.content, "coread_first": configuration.first}
        content["coread_weights"] = configuration.checkpoint_loaders
        parser = ConfigParser(content)
        evaluator = parser.get_parsed_content(configuration.evaluator)
        if self.device.type == "cpu":
            evaluator.amp = False  # half precision is for GPUs
        evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, _forget_references)
        if self._one_window:
            self._narrowed = _narrow(evaluator)
        built = [part for part in parser.ref_resolver.resolved_content.values() if isinstance(part, Compose)]
        for part in (evaluator.data_loader.dataset.transform, *built):
            for what in adapt_transforms(part, REFERENCE_KEYS):
                self.note(what)
        self._take_windows(evaluator)
        if self.fuse:
            self.fusion = self._fused(parser, evaluator, configuration.evaluator)
        for index in range(len(configuration.first)):
            parser.get_parsed_content(f"coread_first#{index}")
        if self.fuse:
            fuse_window(evaluator, self.fusion)  # now that nobody adds a handler any more that looks at scores
        self._load_weights(parser, content, evaluator)
        if self.manifest.saliency:
            check_layer(_networks(evaluator), self.manifest.saliency, self.manifest.name)
        self._take_engine(evaluator)
        return evaluator

    def _take_windows(self, evaluator: Any) -> None:
        """Sliding windows by our own means. Raises ConfigurationError if air is to be left out where there are none."""
        air_at_most = self.manifest.speed.air_at_most
        windows = SlidingWindow.of(getattr(evaluator, "inferer", None), air_at_most=air_at_most)
        if windows is not None:
            evaluator.inferer = windows
        elif air_at_most is not None:
            raise ConfigurationError(
                f"{self.manifest.name}: expected a bundle with a SlidingWindowInferer, because coread.yaml says "
                "`speed.air_at_most`, found another inferer; delete the key"
            )

    def _take_engine(self, evaluator: Any) -> None:
        """The network by the engine that it was prepared for."""
        self.engine = EAGER.model_copy(update={"precision": "f16"} if self._rounds(evaluator) else {}).label
        if self.prepared is None or self.prepared.record.forward.engine == EAGER or self.manifest.saliency:
            return  # what is explained is asked again with gradients, which only torch has
        engine = self.prepared.record.forward.engine
        network = getattr(evaluator, "network", None)
        if network is None:
            self.note(f"engine: torch runs the network, not {engine.label}, because the evaluator itself has none")
            return
        try:
            evaluator.network = network_of(engine, network, self.prepared.converted())
        except Exception as error:  # noqa: BLE001  # whatever a library raises when something has changed under the record
            self.note(f"engine: {engine.label} cannot run the network ({_one_line(str(error))}); torch does")
        else:
            evaluator.network.register_forward_hook(self._note_answer)
            self.engine = engine.label

    def _note_answer(self, _network: object, _inputs: object, answer: torch.Tensor) -> None:
        plain = answer.as_tensor() if isinstance(answer, MetaTensor) else answer
        self._sums.append(plain.sum(dtype=torch.float32))  # looked at when all is done: nobody waits for a GPU

    def _check_answers(self) -> None:
        """Raises ModelError if an engine gave what is no number: the class with the highest score would be any."""
        sums, self._sums = self._sums, []
        if sums and not torch.stack(sums).isfinite().all():
            raise ModelError(f"{self.manifest.name}: expected finite scores of {self.engine}, found NaN or infinity")

    def _fused(self, parser: ConfigParser, evaluator: Any, name: str) -> Fusion:
        """Replace what is recognised in the bundle as it is built. ``name``: the evaluator's, in the configuration."""
        if "postprocessing" not in parser[name]:
            return Fusion(not_fused=("not fused: the evaluator has no `postprocessing`",))
        postprocessing = parser.get_parsed_content(f"{name}#postprocessing")
        return fuse(evaluator.data_loader.dataset.transform, postprocessing, explained=bool(self.manifest.saliency))

    def _load_weights(self, parser: ConfigParser, content: Mapping[str, Any], evaluator: Any) -> None:
        """Run the handlers that load weights, and where none does, a loader that stands for itself.

        Raises ModelError if the network has weights and nothing loads them.
        """
        ids = [f"coread_weights#{index}" for index in range(len(content["coread_weights"]))]
        if not self._loaded:
            components = {key: each for key, each in content.items() if isinstance(each, dict)}
            ids += [key for key, each in components.items() if name_of(each) == CHECKPOINT_LOADER]
        for load in map(parser.get_parsed_content, ids):
            if load is not None:  # None: the bundle has switched it off, for want of a file
                load(evaluator)
        weights = {id(each) for network in _networks(evaluator) for each in network.parameters()}
        missing = len(weights - self._loaded)
        if missing:
            found = (
                "none" if missing == len(weights) else f"that {missing} of {len(weights)} tensors are left as they were"
            )
            raise ModelError(
                f"the bundle {self.manifest.name}: expected its configuration to load the network's weights, found "
                f"{found}; put the weights where the configuration looks for them"
            )

    @contextmanager
    def _today(self) -> Iterator[None]:
        """Run the bundle with today's libraries as it expects them, and notice whether weights are loaded."""

        def loaded(network: torch.nn.Module, missing: Collection[str]) -> None:
            self._loaded |= {id(each) for name, each in network.named_parameters() if name not in missing}

        with today(self.device, trust=self.trust, acted=self.note, loaded=loaded):
            yield

    @contextmanager
    def _files(self, channels: Sequence[Channel]) -> Iterator[Mapping[str, Any]]:
        """Key → file of each input, for a bundle that opens files by means of its own; nothing for others."""
        if self.way == "memory":
            yield {}
            return
        folder, remove = new_folder()
        try:
            keys = [series.key or (list(inputs_of(self.metadata)) or ["image"])[0] for series in self.manifest.series]
            files: dict[str, list[str]] = {}
            for number, (key, channel) in enumerate(zip(keys, channels, strict=True)):
                path = folder / f"channel{number}.nii.gz"
                tensor = channel.tensor() if isinstance(channel, GridImage) else channel
                nibabel.Nifti1Image(tensor.numpy(), tensor.affine.numpy()).to_filename(path)
                files.setdefault(key, []).append(str(path))
            yield {key: each[0] if len(each) == 1 else each for key, each in files.items()}
        finally:
            remove()

    def _raw_output(self, evaluator: Any, calls: Sequence[Call]) -> RawOutput:
        output, batch = evaluator.state.output, evaluator.state.batch
        key, image = _image_of(output, batch)
        looked = Looked(calls=calls, image=image, image_key=key, preprocessing=evaluator.data_loader.dataset.transform)
        return RawOutput(
            output=_first(output),
            saved=dict(self._feed.saved),
            captured=list(self._feed.captured),
            image=image,
            looked=looked if self.manifest.saliency else None,
        )

    def _explained(self, error: Exception, happened: str) -> CoreadError:
        """The error in one sentence: what a bundle's code says is wrapped in more of the same, and may quote data."""
        cause = _first_cause(error)
        if isinstance(cause, CoreadError):
            return cause
        name = f"the bundle {self.manifest.name}"
        text = str(cause)
        if isinstance(cause, MemoryError | torch.OutOfMemoryError) or _CPU_OUT_OF_MEMORY in text:
            needed = _NEEDED.search(text)
            size = f" (it asked for {needed[1]} more)" if needed else ""
            return OutOfMemory(f"{name} ran out of memory on {self.device.type}{size}; give the worker more")
        for link in _causes(error):
            missing = _CANNOT_LOCATE.search(str(link))
            if missing:
                return ModelError(
                    f"{name} {happened}: it uses {missing[1]}, which is neither in MONAI {monai.__version__} nor among "
                    "the installed packages; install what it needs, or bring the bundle up to date"
                )
        if isinstance(cause, ModuleNotFoundError) or type(cause).__name__ == "OptionalImportError":
            told = _one_line(text.partition("\n\n")[0]).rstrip(".")  # after that, MONAI gives general advice
            return ModelError(f"{name} {happened}: it needs a package that is not installed ({told}); install it")
        axes = _AXES.search(text)
        if axes:
            return ModelError(
                f"{name} {happened}: it wants images of {axes[2]} axes, found {axes[1]}; images over time are not read"
            )
        if re.search(r"expected input\[.*\] to have \d+ channels", text):
            return ModelError(
                f"{name} {happened}: {_one_line(text)}; name as many series in coread.yaml as its input has channels"
            )
        return ModelError(f"{name} {happened}: {type(cause).__name__}: {_one_line(text)}")


def _networks(evaluator: Any) -> Iterator[torch.nn.Module]:
    """The networks that an evaluator and its inferer hold, by themselves or in lists."""
    for owner in (evaluator, getattr(evaluator, "inferer", None)):
        for value in vars(owner).values() if hasattr(owner, "__dict__") else ():
            several = (
                value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
            )
            yield from (each for each in several if isinstance(each, torch.nn.Module))


def _forget_references(engine: Engine) -> None:
    """An evaluator notes that there is no label; transforms take the note for one."""
    output: Any = engine.state.output
    if isinstance(output, dict):
        for key in [key for key, value in output.items() if value is None]:
            del output[key]


def _narrow(evaluator: Any) -> bool:
    """Let sliding windows be taken one by one; whether any were not."""
    inferer = getattr(evaluator, "inferer", None)
    narrowed = False
    for owner in (inferer, getattr(getattr(inferer, "detector", None), "inferer", None)):
        if owner is not None and getattr(owner, "sw_batch_size", 1) > 1:
            owner.sw_batch_size = 1
            narrowed = True
    return narrowed


def private_folder(owner: object) -> tuple[Path, Callable[[], object]]:
    """A folder that is deleted when its owner is gone, or by a call of the second."""
    folder, remove = new_folder()
    return folder, weakref.finalize(owner, remove)


def _first(output: Any) -> Mapping[str, Any]:
    """The output of the one case, whether it was taken out of its batch or not."""
    if isinstance(output, Mapping):
        return output
    if isinstance(output, Sequence) and output and isinstance(output[0], Mapping):
        return output[0]
    return {"pred": output}


def _image_of(output: Any, batch: Any) -> tuple[str | None, Any]:
    """What the network saw, (channel, …), wherever it was left, and its name there if it has one; None if it cannot be
    found.
    """
    for owner in (batch, output):
        each = owner[0] if isinstance(owner, Sequence) and not isinstance(owner, str) and owner else owner
        images: Mapping[Any, Any] = _images(each) if isinstance(each, Mapping) else {None: each}
        for key, image in images.items():
            if len(images) == 1 and isinstance(image, MetaTensor):
                return key, image[0] if owner is batch and isinstance(batch, Mapping) else image
    return None, None


def _images(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is called an image, else what carries a place in the patient and is no prediction."""
    if "image" in case:
        return {"image": case["image"]}
    return {key: value for key, value in case.items() if isinstance(value, MetaTensor) and key != "pred"}


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.value if isinstance(link, ErrorDuringImport) else link.__cause__


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong first: MONAI wraps exceptions in others that say only that something went wrong."""
    *_, first = _causes(error)
    return first


LONGEST_QUOTE = 200


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_QUOTE]

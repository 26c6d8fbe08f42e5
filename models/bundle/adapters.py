"""What bundles written for older MONAI, torch and numpy need today, in small named steps that are logged when they act.

An adapter never changes what a bundle computes: it says the same in words that today's libraries understand. What can
only be guessed is left alone, and fails with its own message.
"""

import importlib.util
import inspect
import pickle
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.apps.detection.networks import retinanet_network
from monai.networks.blocks import backbone_fpn_utils
from monai.transforms import AsDiscreted, Compose, Invertd, MapTransform
from torch import nn

from coread.errors import ModelError
from coread.models.bundle.configuration import name_of, targets
from coread.models.bundle.trust import Trust

REMOVED_ARGUMENTS: Mapping[str, Mapping[str, str | None]] = {
    "SwinUNETR": {"img_size": None},
    "ViT": {"pos_embed": "proj_type"},
    "ViTAutoEnc": {"pos_embed": "proj_type"},
    "UNETR": {"pos_embed": "proj_type"},
    "UNet": {"dimensions": "spatial_dims"},
    "BasicUNet": {"dimensions": "spatial_dims"},
    "AttentionUnet": {"dimensions": "spatial_dims"},
    "AsDiscreted": {"n_classes": "to_onehot", "num_classes": "to_onehot", "logit_thresh": "threshold"},
    "AsDiscrete": {"n_classes": "to_onehot", "num_classes": "to_onehot", "logit_thresh": "threshold"},
}
"""Class → argument that MONAI took away → its name today; None: it had no influence on the result any more."""

WHERE_METADATA_WERE = ("meta_keys", "meta_key_postfix")
"""Arguments that many transforms had before images carried their metadata with them."""

RENAMED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "AddChanneld": ("EnsureChannelFirstd", {"channel_dim": "no_channel"}),
    "AddChannel": ("EnsureChannelFirst", {"channel_dim": "no_channel"}),
    "AsChannelFirstd": ("EnsureChannelFirstd", {"channel_dim": -1}),
    "AsChannelFirst": ("EnsureChannelFirst", {"channel_dim": -1}),
    "SplitChanneld": ("SplitDimd", {"dim": 0}),
}
"""Class that MONAI took away → what does the same, and with which arguments."""

NUMPY_NAMES = {
    "product": "prod",
    "cumproduct": "cumprod",
    "alltrue": "all",
    "sometrue": "any",
    "row_stack": "vstack",
    "float_": "float64",
    "Inf": "inf",
    "NaN": "nan",
    "infty": "inf",
    "trapz": "trapezoid",
    "in1d": "isin",
    "bool8": "bool_",
    "int0": "intp",
}
"""Name that numpy 2 took away → its name today."""

DIFFERENT_IF_DOWNLOADED: Mapping[str, Mapping[str, Any]] = {
    "inception_v3": {"transform_input": True},
    "googlenet": {"transform_input": True, "aux_logits": False},
}
"""Network of torchvision → arguments of which it has other defaults when it starts from downloaded weights."""

_NUMPY_NAME = re.compile(rf"\b(np|numpy)\.({'|'.join(NUMPY_NAMES)})\b")
_CUDA_DEVICE = re.compile(r"""torch\.device\(\s*(['"])cuda(:\d+)?\1\s*\)""")
_MAP_TO_CUDA = re.compile(r"""map_location\s*=\s*(['"])cuda(:\d+)?\1""")
_CUDA = re.compile(r"^cuda(:\d+)?$")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a bundle runs."""

    bundle_root: Path
    device: torch.device


Loaded = Callable[[nn.Module, Collection[str]], None]
"""Told of a network that has got weights, and of the names of those that it has not got."""

Adapter = Callable[[dict[str, Any], Place], Iterator[str]]
"""Changes the configuration in place; yields a sentence for each change."""


def removed_arguments(content: dict[str, Any], _place: Place) -> Iterator[str]:
    """Arguments that a class no longer has."""
    for component in targets(content):
        for old, new in REMOVED_ARGUMENTS.get(name_of(component), {}).items():
            if old in component:
                value = component.pop(old)
                if new:
                    component.setdefault(new, value)
                yield f"{name_of(component)} has no {old} any more" + (f"; it is {new} now" if new else "")
        transform = getattr(monai.transforms, name_of(component), None)
        known = inspect.signature(transform).parameters if inspect.isclass(transform) else component
        for old in WHERE_METADATA_WERE:
            if old in component and old not in known:
                del component[old]
                yield f"{name_of(component)} has no {old} any more"


def renamed_classes(content: dict[str, Any], _place: Place) -> Iterator[str]:
    """Classes under their names of today."""
    for component in targets(content):
        old = name_of(component)
        if old in RENAMED:
            component["_target_"], arguments = RENAMED[old]
            component.update({key: value for key, value in arguments.items() if key not in component})
            yield f"{old} is {component['_target_']} now"


def numpy_names(content: dict[str, Any], _place: Place) -> Iterator[str]:
    """Names in expressions that numpy 2 no longer has."""

    def renamed(text: str) -> str:
        return _NUMPY_NAME.sub(lambda match: f"{match[1]}.{NUMPY_NAMES[match[2]]}", text)

    if _change_expressions(content, renamed):
        yield "names that numpy 2 took away are replaced"


def devices(content: dict[str, Any], place: Place) -> Iterator[str]:
    """A GPU that is demanded although the bundle is to run on the CPU."""
    if place.device.type == "cuda":
        return

    def on_cpu(text: str) -> str:
        return _MAP_TO_CUDA.sub("map_location='cpu'", _CUDA_DEVICE.sub("torch.device('cpu')", text))

    changed = _change_expressions(content, on_cpu)
    for owner in _mappings(content):
        for key, value in owner.items():
            if isinstance(value, str) and _CUDA.match(value):
                owner[key] = "cpu"
                changed = True
    if changed:
        yield "a GPU that is named in the configuration is the CPU here"


def paths_of_another_machine(content: dict[str, Any], place: Place) -> Iterator[str]:
    """Absolute paths that do not exist, to a file that lies in the bundle."""
    for owner in _mappings(content):
        for key, value in owner.items():
            if isinstance(value, str) and value.startswith("/") and not Path(value).exists():
                found = list(place.bundle_root.rglob(Path(value).name)) if Path(value).suffix else []
                if len(found) == 1:
                    owner[key] = str(found[0])
                    yield f"{key} is a path of another machine; the bundle's own {Path(value).name} is taken"


def downloads(content: dict[str, Any], _place: Place) -> Iterator[str]:
    """Weights that would be fetched from the internet, to be overwritten by the bundle's own."""
    for component in targets(content):
        network = getattr(monai.networks.nets, name_of(component), None)
        known = inspect.signature(network).parameters if inspect.isclass(network) else {}
        for argument in ("pretrained", "pretrained_backbone"):
            default = known[argument].default if argument in known else None
            if component.get(argument, default) is True:
                component[argument] = False
                for other, value in DIFFERENT_IF_DOWNLOADED.get(component.get("model_name", ""), {}).items():
                    component.setdefault(other, value)
                yield f"{name_of(component)} starts from the bundle's weights, not from a download"


ON_CONFIGURATION: Sequence[Adapter] = (
    removed_arguments,
    renamed_classes,
    numpy_names,
    devices,
    paths_of_another_machine,
    downloads,
)


def adapt_configuration(content: dict[str, Any], place: Place) -> list[str]:
    """Apply every adapter; a sentence for each change."""
    return [f"{adapter.__name__}: {what}" for adapter in ON_CONFIGURATION for what in adapter(content, place)]


def adapt_transforms(transform: Any, references: Sequence[str]) -> list[str]:
    """Adapt transforms once they are built.

    A reference (a label) that there is only in training may be missing. Classes are not interpolated: an Invertd after
    a decision takes the nearest voxel's.
    """
    changed = []
    decided: set[Any] = set()
    for each in _flat(transform):
        if not isinstance(each, MapTransform):
            continue
        if not each.allow_missing_keys and (len(each.keys) > 1 or set(each.keys) & set(references)):
            each.allow_missing_keys = True
        if isinstance(each, AsDiscreted):
            chosen = zip(each.keys, each.argmax, each.threshold, strict=True)
            decided |= {key for key, argmax, threshold in chosen if argmax or threshold is not None}
        if isinstance(each, Invertd) and not all(
            nearest for key, nearest in zip(each.keys, each.nearest_interp, strict=True) if key in decided
        ):
            each.nearest_interp = tuple(
                nearest or key in decided for key, nearest in zip(each.keys, each.nearest_interp, strict=True)
            )
            changed.append("nearest_classes: Invertd would interpolate between classes; it takes the nearest")
    return changed


class IntermediateLayers(nn.ModuleDict):
    """A network's children up to the last one that is asked for; gives the outputs of those that are.

    Stands in for torchvision's IntermediateLayerGetter, all that MONAI's RetinaNet wants of torchvision.
    """

    def __init__(self, model: nn.Module, return_layers: Mapping[str, str]) -> None:
        """``return_layers``: name of a child → name of its output. Raises ValueError if one is no child."""
        names = [name for name, _ in model.named_children()]
        absent = set(return_layers) - set(names)
        if absent:
            raise ValueError(f"expected layers of the network, found {', '.join(sorted(absent))}")
        last = max(names.index(name) for name in return_layers)
        super().__init__(dict(list(model.named_children())[: last + 1]))
        self.return_layers = dict(return_layers)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Name of the output → output."""
        found = {}
        for name, child in self.items():
            x = child(x)
            if name in self.return_layers:
                found[self.return_layers[name]] = x
        return found


@contextmanager
def today(device: torch.device, *, trust: Trust, acted: Callable[[str], None], loaded: Loaded) -> Iterator[None]:
    """Old habits that only show when a bundle is built: numpy pickles in checkpoints, torchvision's layer getter, a
    look for a GPU that is not to be used.

    ``trust``: without it, weights may hold nothing but tensors and numbers, whatever the bundle says. ``acted``
    is told what was adapted, ``loaded`` when weights get into a network, and by which names some are missing.
    """
    with ExitStack() as stack:
        stack.enter_context(_replaced(nn.Module, "load_state_dict", _noticed_state(loaded)))
        stack.enter_context(_replaced(torch.jit, "load", _compiled_loader(trust, loaded)))
        stack.enter_context(_replaced(torch, "load", _safe_loader(device, trust, acted)))
        if device.type == "cpu" and torch.cuda.is_available():
            stack.enter_context(_replaced(torch.cuda, "is_available", lambda: False))
        if importlib.util.find_spec("torchvision") is None:
            layers = types.SimpleNamespace(_utils=types.SimpleNamespace(IntermediateLayerGetter=IntermediateLayers))
            stack.enter_context(_replaced(backbone_fpn_utils, "torchvision_models", layers))
            stack.enter_context(_replaced(retinanet_network, "_validate_trainable_layers", _trainable_layers))
        yield


def _safe_loader(device: torch.device, trust: Trust, acted: Callable[[str], None]) -> Callable[..., Any]:
    """In the place of torch.load: onto the device that is used, and no more than the trust allows."""
    load = torch.load

    def load_safely(*arguments: Any, **named: Any) -> Any:
        named["weights_only"] = not trust.unsafe_weights
        named.setdefault("map_location", device)
        if device.type == "cpu":
            named["map_location"] = device
        try:
            return load(*arguments, **named)
        except pickle.UnpicklingError as error:
            if "numpy" not in str(error):
                raise
            acted("numpy_checkpoints: the checkpoint holds numpy arrays, which are taken as such")
            with torch.serialization.safe_globals(_numpy_globals()):
                return load(*arguments, **named)

    return load_safely


def _compiled_loader(trust: Trust, loaded: Loaded) -> Callable[..., Any]:
    """In the place of torch.jit.load."""
    load: Callable[..., Any] = torch.jit.load

    def load_if_trusted(*arguments: Any, **named: Any) -> Any:
        if not trust.torchscript:
            raise ModelError("expected no compiled network, found TorchScript; approve the bundle with --torchscript")
        network = load(*arguments, **named)
        loaded(network, ())
        return network

    return load_if_trusted


def _noticed_state(loaded: Loaded) -> Callable[..., Any]:
    """In the place of a module's load_state_dict."""
    load: Callable[..., Any] = nn.Module.load_state_dict

    def load_state(network: nn.Module, *arguments: Any, **named: Any) -> Any:
        incompatible = load(network, *arguments, **named)
        loaded(network, frozenset(getattr(incompatible, "missing_keys", ())))
        return incompatible

    return load_state


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _trainable_layers(pretrained: bool, wanted: int | None, *, max_value: int, default_value: int) -> int:  # noqa: FBT001  # as it is called
    """How many layers may be trained; of no matter when nothing is."""
    if not pretrained:
        return max_value
    return default_value if wanted is None else wanted


def restore_numpy_names(programs: Iterable[str]) -> list[str]:
    """Give numpy the names back that it took away and that these programs use: for the Python code of bundles, in a
    process of their own.
    """
    used = {match[2] for program in programs for match in _NUMPY_NAME.finditer(program)}
    restored = sorted(name for name in used if not hasattr(np, name))
    for name in restored:
        setattr(np, name, getattr(np, NUMPY_NAMES[name]))
    return restored


def _numpy_globals() -> list[Any]:
    """What a pickled numpy array of numbers consists of."""
    multiarray = importlib.import_module("numpy._core.multiarray")
    kinds = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32")
    dtypes = [type(np.dtype(kind)) for kind in (*kinds, "float64")]
    rebuild, scalar = multiarray._reconstruct, multiarray.scalar  # noqa: SLF001  # by these names it stands in pickles
    old = [(rebuild, "numpy.core.multiarray._reconstruct"), (scalar, "numpy.core.multiarray.scalar")]
    return [rebuild, scalar, *old, np.ndarray, np.dtype, *dtypes]


def _mappings(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _mappings(value)


def _change_expressions(node: Any, change: Callable[[str], str]) -> bool:
    """Change every expression (a string that begins with ``$``) in place; whether any was."""
    changed = False
    places: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(places):
        if isinstance(value, str) and value.startswith("$"):
            new = change(value)
            changed |= new != value
            node[key] = new
        else:
            changed |= _change_expressions(value, change)
    return changed


def _flat(transform: Any) -> Iterator[Any]:
    if isinstance(transform, Compose):
        for each in transform.transforms:
            yield from _flat(each)
    elif isinstance(transform, list | tuple):
        for each in transform:
            yield from _flat(each)
    elif transform is not None:
        yield transform

"""A bundle's inference configuration: found, read, and rewritten where it loads and saves files.

Nothing is assumed of the names in it: the evaluator is what has a ``val_data_loader``; the rest is found from there.
Places in lists stay as they are, so that references to them (``@postprocessing#transforms#2``) still hold.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from coread.errors import ModelError
from coread.models.bundle.in_memory import Feed
from coread.models.metadata import configurations_in, read_mapping

LOADERS = dict.fromkeys(("LoadImaged", "LoadImageD", "LoadImageDict"), "TakeImaged") | {"LoadImage": "TakeImage"}
SAVERS = {
    **dict.fromkeys(
        (f"{name}{end}" for name in ("SaveImage", "SaveClassification") for end in ("d", "D", "Dict")), "Keepd"
    ),
    "SaveImage": "Keep",
}
CHECKPOINT_LOADER = "CheckpointLoader"
LOGS_ONLY = frozenset(
    {
        "StatsHandler",
        "TensorBoardStatsHandler",
        "TensorBoardImageHandler",
        "MetricsSaver",
        "CheckpointSaver",
        "MLFlowHandler",
        "ClearMLStatsHandler",
        "ClearMLImageHandler",
        "ProgressBar",
        "GarbageCollector",
    }
)
"""Handlers that write what nobody here reads."""

METRICS = ("key_val_metric", "additional_metrics", "metric_cmp_fn")
"""Parts of an evaluator that compare with a reference; there is none."""

FEED = "coread_feed"
_HERE = "coread.models.bundle.in_memory"
_MACRO = re.compile(r"^%(.+?\.(?:json|ya?ml))(.*)$", re.IGNORECASE)
_REFERENCE = re.compile(r"^\$?@([\w#:]+)$")


@dataclass(kw_only=True)
class Configuration:
    """A rewritten configuration, ready to be built."""

    content: dict[str, Any]
    evaluator: str
    """The evaluator's id."""
    checkpoint_loaders: list[dict[str, Any]] = field(default_factory=list)
    """Handlers that load weights when a run starts; they are run once instead."""
    first: list[str] = field(default_factory=list)
    """Expressions that the bundle has run before the evaluator does."""
    loads: bool = False
    """Whether a loader was replaced; if not, the bundle opens files by means of its own."""
    box_keys: Mapping[str, str] = field(default_factory=dict)
    """What a saver of detections calls `box`, `label` and `label_scores`."""
    data: dict[str, Any] = field(default_factory=dict)
    """The data set's own part of ``content``."""


def find_configuration(folder: Path) -> Path:
    """The inference configuration in a bundle. Raises ModelError if there is none, or none can be preferred."""
    contents = {path: read_mapping(path) for path in configurations_in(folder)}
    found = [path for path, content in contents.items() if _evaluators(content)]
    ranked = sorted(found, key=lambda path: (_rank(path.stem), len(path.name), str(path)))
    if not ranked:
        programs = [path.name for path in contents if _rank(path.stem) == 0]
        raise ModelError(
            f"expected a configuration for inference (with an evaluator that has a val_data_loader) in {folder}, found "
            + (
                f"none in {', '.join(programs)}; a bundle that runs a program of its own instead is not run"
                if programs
                else "none; is it a MONAI bundle?"
            )
        )
    return ranked[0]


def read_configuration(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as data, its macros resolved; nothing of it is built or evaluated.

    ``overrides``: id → value, as `monai.bundle run --id value` takes them.
    """
    parser = ConfigParser(_with_whole_paths(read_mapping(path), path))
    if overrides:
        parser.update(dict(overrides))
    parser.resolve_macro_and_relative_ids()
    content = parser.get()
    if not isinstance(content, dict):
        raise ModelError(f"expected a mapping in {path.name}, found another kind of configuration")
    return content


def rewrite(content: dict[str, Any], feed: Feed, *, bundle_root: Path, output_folder: Path) -> Configuration:
    """The configuration with memory in the place of files. Raises ModelError if it cannot be told where data enter."""
    (evaluator,) = _evaluators(content)[:1] or [""]
    if not evaluator:
        raise ModelError("expected an evaluator with a val_data_loader in the configuration, found none")
    configuration = Configuration(content=content, evaluator=evaluator)
    configuration.first = _expressions_before_run(content, evaluator)
    configuration.content = content = _replaced(content, configuration)
    _feed_into(configuration, feed)
    for key in METRICS:
        content[evaluator].pop(key, None)
    content[FEED] = feed
    content["bundle_root"] = str(bundle_root)
    content["output_dir"] = str(output_folder)
    return configuration


def run_compiled(content: dict[str, Any], network: Path) -> None:
    """Let the evaluator run a compiled network (TorchScript) in place of the one that the configuration builds."""
    loaded = f"$torch.jit.load({str(network)!r}, map_location=torch.device('cpu'))"
    for evaluator in _evaluators(content):
        content[evaluator]["network"] = loaded
    for component in list(targets(content)):
        if name_of(component) == CHECKPOINT_LOADER:  # the weights are in it
            component.clear()
            component["_target_"] = f"{_HERE}.Nothing"


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every component (a mapping with ``_target_``) in a configuration."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def components_of(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of each class in a configuration → its arguments there (the last one's, if there are several). What is
    switched off is left out; MONAI's other names for a dictionary transform (``D``, ``Dict``) count as the first.
    """
    return {
        re.sub(r"(D|Dict)$", "d", name_of(each)): each
        for each in targets(dict(content))
        if each.get("_disabled_") is not True
    }


def name_of(component: Mapping[str, Any]) -> str:
    """The class's name without its module."""
    return str(component.get("_target_", "")).rpartition(".")[2]


def _with_whole_paths(node: Any, path: Path) -> Any:
    """The configuration with macros that name another file of the bundle by its whole path: MONAI would look for it in
    whatever folder the worker happens to be.
    """
    if isinstance(node, dict):
        return {key: _with_whole_paths(value, path) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_whole_paths(value, path) for value in node]
    match = _MACRO.match(node) if isinstance(node, str) else None
    if not match or Path(match[1]).is_absolute():
        return node
    found = [folder / match[1] for folder in path.parents if (folder / match[1]).is_file()]
    return f"%{found[0]}{match[2]}" if found else node


def _evaluators(content: Mapping[str, Any]) -> list[str]:
    return [key for key, value in content.items() if isinstance(value, dict) and "val_data_loader" in value]


def _rank(stem: str) -> int:
    """Plain inference goes before its variants, and before configurations made for other purposes."""
    for rank, word in enumerate(("infer", "predict", "test", "eval")):
        if word in stem.lower():
            return rank
    return 9 if "train" in stem.lower() else 4


def _expressions_before_run(content: Mapping[str, Any], evaluator: str) -> list[str]:
    """What the bundle evaluates before ``@evaluator.run()``: its `initialize`, and what stands before it in the list
    that runs it.
    """
    lists = {
        key: [str(item) for item in ([value] if isinstance(value, str) else value)]
        for key, value in content.items()
        if isinstance(value, str | list) and key != "imports"
    }
    runs = f"@{evaluator}.run("
    loaders = [key for key, value in content.items() if isinstance(value, dict) and name_of(value) == CHECKPOINT_LOADER]
    first = []
    for key, items in lists.items():
        expressions = all(item.startswith("$") for item in items)
        if key == "initialize" or (expressions and any(f"@{loader}(" in item for item in items for loader in loaders)):
            first += [item for item in items if runs not in item]
    for items in lists.values():
        if any(runs in item for item in items):
            first += [
                item for item in items[: next(i for i, item in enumerate(items) if runs in item)] if item not in first
            ]
            break
    return first


def _replaced(node: Any, configuration: Configuration, *, in_list: bool = False) -> Any:
    """The configuration with loaders, savers and handlers that write replaced, each in its place."""
    if isinstance(node, list):
        return [_replaced(item, configuration, in_list=True) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _replaced(value, configuration) for key, value in node.items()}
    name = name_of(node)
    if name in LOADERS:
        configuration.loads = True
        return {**node, "_target_": f"{_HERE}.{LOADERS[name]}", "feed": f"@{FEED}"}
    if name in SAVERS:
        return {**node, "_target_": f"{_HERE}.{SAVERS[name]}", "feed": f"@{FEED}"}
    if name == CHECKPOINT_LOADER and in_list:
        configuration.checkpoint_loaders.append(node)
        return {"_target_": f"{_HERE}.Nothing"}
    if name in LOGS_ONLY:
        return {"_target_": f"{_HERE}.Nothing"}
    if name.endswith("Saver") and ("output_transform" in node or "batch_transform" in node):
        configuration.box_keys = {
            kind: node[f"pred_{short}_key"]
            for kind, short in (("box", "box"), ("label", "label"), ("label_scores", "score"))
            if f"pred_{short}_key" in node
        }
        kept = {"output_transform": node["output_transform"]} if "output_transform" in node else {}
        return {"_target_": f"{_HERE}.Capture", "feed": f"@{FEED}", **kept}
    if name.endswith(("Saverd", "SaverD", "SaverDict")) and "keys" in node:
        return {"_target_": f"{_HERE}.Keepd", "keys": node["keys"], "feed": f"@{FEED}"}
    return node


def _feed_into(configuration: Configuration, feed: Feed) -> None:
    """Let the evaluator's data set hold one item, made anew for each run. Raises ModelError if it cannot be found."""
    content = configuration.content
    loader = _followed(content, content[configuration.evaluator]["val_data_loader"])
    data = _followed(content, loader.get("dataset")) if isinstance(loader, dict) else None
    if not isinstance(loader, dict) or not isinstance(data, dict) or "transform" not in data:
        raise ModelError(
            "expected the evaluator's val_data_loader to be a data loader of a data set with a `transform`, found "
            "another construction; nothing can be fed into it"
        )
    _keep_only(data, {"_target_": "Dataset", "data": feed}, ("transform",))
    # One process and one study: workers of a worker may not be, and a cache would give the study before.
    one = {"_target_": "DataLoader", "batch_size": 1, "num_workers": 0, "shuffle": False}
    _keep_only(loader, one, ("dataset", "collate_fn"))
    configuration.data = data


def _keep_only(component: dict[str, Any], new: Mapping[str, Any], kept: Sequence[str]) -> None:
    old = {key: component[key] for key in kept if key in component}
    component.clear()
    component.update(new, **old)


def _followed(content: Mapping[str, Any], node: Any) -> Any:
    """What a reference leads to, through as many references as there are."""
    for _ in range(20):
        match = _REFERENCE.match(node.strip()) if isinstance(node, str) else None
        if not match:
            return node
        node = content
        for part in re.split(r"#|::", match.group(1)):
            try:
                node = node[int(part)] if isinstance(node, list) else node[part]
            except (KeyError, IndexError, ValueError, TypeError):
                return None
    return None

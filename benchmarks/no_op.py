"""A model that takes no time, so that what is measured is everything around it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from coread.models.allowlist import digest_of, files_of
from coread.models.catalogue import State, allow_list, packages
from coread.settings import Settings

NAME = "benchmark_no_op"
THRESHOLD = 100
"""Voxels above it are the one structure that it finds."""

_MANIFEST: dict[str, Any] = {
    "name": NAME,
    "title": "No-op",
    "limits": "For benchmarks only.",
    "series": {
        "described_as": "any MR series",
        "must": {"Modality": ["MR"]},
        "slices": [2, 500],
        "slice_spacing_mm": [0.1, 20],
        "pixel_spacing_mm": [0.1, 20],
    },
    "labels": {
        1: {
            "name": "Bright",
            "category": ["SCT", "91720002", "Body Substance"],
            "type": ["SCT", "87612001", "Blood"],
            "colour": [200, 80, 60],
            "measure": ["volume"],
        },
    },
}
_INFERENCE: dict[str, Any] = {
    "bundle_root": ".",
    "device": "$torch.device('cpu')",
    "network_def": {"_target_": "torch.nn.Identity"},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
        ],
    },
    "dataset": {"_target_": "Dataset", "data": [], "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: (x > {THRESHOLD}) * 1"},
            {"_target_": "SaveImaged", "keys": "pred"},
        ],
    },
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network_def",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
    },
}


def write_no_op_model(folder: Path) -> None:
    """Write the bundle into a folder of its own in ``folder``, for ``models.folders`` of the settings."""
    bundle = folder / NAME
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "inference.json").write_text(
        json.dumps({"imports": ["$import torch"], **_INFERENCE}), encoding="utf-8"
    )
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"version": "1.0.0"}), encoding="utf-8")
    (bundle / "coread.yaml").write_text(yaml.safe_dump(_MANIFEST), encoding="utf-8")


def approve(name: str, settings: Settings) -> None:
    """Put a model on the installation's list of approved ones."""
    for package in packages(settings):
        if package.model and package.model.name == name and package.state is not State.SHIPPED:
            files = files_of(package.model.folder)
            allow_list(settings).allow(name, digest_of(files), files=files, at=datetime.now(UTC))

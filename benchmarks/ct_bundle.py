"""A model of CT with real pre- and postprocessing whose network tells the organs of ``samples`` from their values.

It costs next to nothing, so that what is measured is everything around the network; or it costs what the usual CT UNet
does, which it runs besides.
"""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.networks.nets import UNet

from coread.benchmarks.samples import FIRST_ORGAN, STEP

NAME = "benchmark_ct"
MODALITY = "CT"
SPACING_MM = 1.5
"""Of the volumes that the network sees."""
LOWEST, HIGHEST = -1000.0, 5000.0
"""Values that become 0 and 1."""
WINDOW = (96, 96, 96)
OVERLAP = 0.25
FLAT = 11.0
"""What is steeper from voxel to voxel is the rim of something: background, since a value between two organs' is that of
a third. Noise differs by so much in one of 10,000 pairs of an organ's voxels."""
CERTAIN, BACKGROUND = 10.0, 8.0
"""The score of what a voxel is, organ or background; all others have 0. They differ, so that halfway between the two
there is no draw, which every way of interpolating would decide otherwise."""
NEXT_TO_NOTHING = 1e-9
"""So much of the UNet's random scores is added, that it has to be run."""
LAST_INVERTED = 20
"""With more labels the scores of a CT on its own grid fit into nobody's memory all at once (33 GB for 104): there
labels are decided on the network's grid, and brought back. No softmax goes before: it would double the 8 GB there."""


class ByValue(torch.nn.Module):
    """Scores of the organs, told by the value alone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """CERTAIN for what a voxel is, 0 for all else."""
        scores = torch.zeros((len(image), self.classes, *image.shape[2:]))
        index = labels_by_value(image, self.classes)
        return scores.scatter_(1, index, score_of(index))


class CtUNet(torch.nn.Module):
    """The same scores, after the usual CT UNet (16 to 256 channels) has run for nothing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.unet = ct_unet(classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The UNet's scores, of which next to nothing is left beside those by value."""
        scores: torch.Tensor = NEXT_TO_NOTHING * self.unet(image)
        index = labels_by_value(image, scores.shape[1])
        return scores.scatter_add_(1, index, score_of(index))


def score_of(labels: torch.Tensor) -> torch.Tensor:
    """The score of the label that a voxel has."""
    return torch.where(labels > 0, CERTAIN, BACKGROUND)


def labels_by_value(image: torch.Tensor, classes: int) -> torch.Tensor:
    """The label of each voxel, 0 where there is no organ, or the rim of one: int64, shape (N, 1, i, j, k)."""
    values = image.as_subclass(torch.Tensor) * (HIGHEST - LOWEST) + LOWEST
    labels = torch.round((values - FIRST_ORGAN) / STEP) + 1
    known = (labels >= 1) & (labels < classes)
    for axis in (2, 3, 4):
        even = (torch.diff(values, dim=axis).abs() <= FLAT).to(torch.uint8)
        before, after = [0] * 6, [0] * 6
        before[2 * (4 - axis)], after[2 * (4 - axis) + 1] = 1, 1
        known = known & (torch.nn.functional.pad(even, before, value=1) > 0)
        known = known & (torch.nn.functional.pad(even, after, value=1) > 0)
    return torch.where(known, labels, 0.0).long()


def ct_unet(classes: int) -> UNet:
    """The network whose forward pass others are measured by: random weights, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=classes,
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            num_res_units=2,
            norm="batch",
        ).eval()


def scores_are_inverted(labels: int) -> bool:
    """Whether scores are brought back to the images' grid before labels are decided."""
    return labels <= LAST_INVERTED


def manifest_of(labels: int) -> dict[str, Any]:
    """The manifest's content."""
    return {
        "name": NAME,
        "title": "Benchmark CT",
        "limits": "For benchmarks only.",
        "series": {
            "described_as": "any CT series",
            "must": {"Modality": [MODALITY]},
            "slices": [2, 5000],
            "slice_spacing_mm": [0.5, 2.5],
            "pixel_spacing_mm": [0.3, 1.2],
        },
        "labels": {
            label: {
                "name": f"Structure {label}",
                "category": ["SCT", "91723000", "Anatomical Structure"],
                "type": ["SCT", "10200004", "Liver"],
                "colour": [40 + label, 200 - label, 120],
                "measure": ["volume", "intensity"],
            }
            for label in range(1, labels + 1)
        },
    }


def write_ct_model(folder: Path, labels: int, *, with_unet: bool) -> Path:
    """Write the bundle into a folder of its own in ``folder``; returns that."""
    bundle = folder / NAME
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    network = (CtUNet if with_unet else ByValue)(labels + 1)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    inference = json.dumps(_inference(type(network), labels))
    (bundle / "configs" / "inference.json").write_text(inference, encoding="utf-8")
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"version": "1.0.0"}), encoding="utf-8")
    (bundle / "coread.yaml").write_text(yaml.safe_dump(manifest_of(labels)), encoding="utf-8")
    return bundle


def preprocessing() -> list[dict[str, Any]]:
    """The transforms after loading, as a configuration has them."""
    return [
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [SPACING_MM] * 3, "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": LOWEST,
            "a_max": HIGHEST,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
    ]


def postprocessing(labels: int) -> list[dict[str, Any]]:
    """The transforms that make labels on the images' grid of scores."""
    decide = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": not scores_are_inverted(labels),
        "to_tensor": True,
    }
    softmax = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
    return [softmax, invert, decide] if scores_are_inverted(labels) else [decide, invert]


def inferer() -> dict[str, Any]:
    """How windows are taken."""
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": WINDOW,
        "sw_batch_size": 1,
        "overlap": OVERLAP,
        "mode": "gaussian",
    }


def _inference(network: type[torch.nn.Module], labels: int) -> dict[str, Any]:
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": f"{network.__module__}.{network.__name__}", "classes": labels + 1},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "LoadImaged", "keys": "image"}, *preprocessing()],
        },
        "dataset": {"_target_": "Dataset", "data": [], "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": inferer(),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [*postprocessing(labels), {"_target_": "SaveImaged", "keys": "pred"}],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
    }

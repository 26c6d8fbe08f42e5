"""Train the left-ventricle network on the patients of the ``train`` split.

The network, the pixel spacing, the field of view and the intensity scaling are read from the bundle's own inference
configuration, so that training and inference cannot drift apart.
"""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotate90d,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from monai.utils import set_determinism
from rich.progress import Progress

from coread.models.left_ventricle_sax.train.data import Case

BUNDLE = Path(__file__).parents[1]
HELD_OUT_PATIENTS = 4
"""Patients of the train split that choose the epoch; they are never trained on."""
BATCH = 16
LEARNING_RATE = 2e-3
EVALUATE_EVERY = 3
BOTH = ("image", "label")


def grid_transform(parser: ConfigParser) -> Compose:
    """The inference preprocessing, applied to image and label alike (label by nearest neighbour)."""
    roi: list[int] = [*parser["roi_size"], -1]
    return Compose(
        [
            Spacingd(BOTH, pixdim=parser["pixdim"], mode=("bilinear", "nearest")),
            ResizeWithPadOrCropd(BOTH, spatial_size=roi),
            ScaleIntensityRangePercentilesd("image", lower=1, upper=99, b_min=0.0, b_max=1.0, clip=True),
        ]
    )


def augmentation() -> Compose:
    """What a slice may look like elsewhere: any of the eight orientations, another size, place, contrast, coil."""
    return Compose(
        [
            RandFlipd(BOTH, prob=0.5, spatial_axis=0),
            RandFlipd(BOTH, prob=0.5, spatial_axis=1),
            RandRotate90d(BOTH, prob=0.5),
            RandAffined(
                BOTH,
                prob=0.9,
                rotate_range=0.5,
                shear_range=0.1,
                translate_range=(12, 12),
                scale_range=(0.25, 0.25),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.7)),
            RandBiasFieldd("image", prob=0.3, coeff_range=(0.0, 0.2)),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0)),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )


def volume_tensors(case: Case) -> dict[str, MetaTensor]:
    """Image and label as (channel, column, row, slice), the storage order that the runner feeds the bundle."""
    affine = torch.diag(torch.tensor([*reversed(case.spacing_mm), 1.0], dtype=torch.float64))
    return {
        name: MetaTensor(torch.from_numpy(array.transpose(2, 1, 0)[None].astype(np.float32)), affine=affine)
        for name, array in (("image", case.image), ("label", case.label))
    }


def slices_of(cases: Iterable[Case], transform: Compose) -> list[dict[str, torch.Tensor]]:
    """Every slice of every case on the network's grid, as (channel, column, row)."""
    items = []
    for case in cases:
        volume: Any = transform(volume_tensors(case))
        for index in range(volume["image"].shape[-1]):
            items.append({name: volume[name].as_tensor()[..., index].clone() for name in BOTH})  # noqa: PERF401
    return items


def foreground_dice(network: torch.nn.Module, slices: list[dict[str, torch.Tensor]], device: torch.device) -> float:
    """Mean over myocardium and cavity of the Dice of all slices taken together."""
    network.eval()
    images = torch.stack([item["image"] for item in slices]).to(device)
    truth = torch.stack([item["label"][0] for item in slices]).to(device)
    with torch.inference_mode():
        predicted = network(images).argmax(1)
    scores = []
    for label in (1, 2):
        p, t = predicted == label, truth == label
        scores.append(2 * (p & t).sum().item() / max(1, (p.sum() + t.sum()).item()))
    return float(np.mean(scores))


def train(cases: list[Case], *, weights: Path, epochs: int, seed: int) -> float:
    """Write the weights of the epoch that is best on the held-out patients; returns that Dice."""
    set_determinism(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    transform = grid_transform(parser)
    training = [case for case in cases if case.split == "train"]
    random.Random(seed).shuffle(training)  # noqa: S311  # a split, not a secret
    held_out = slices_of(training[:HELD_OUT_PATIENTS], transform)
    slices = slices_of(training[HELD_OUT_PATIENTS:], transform)
    network: torch.nn.Module = parser.get_parsed_content("network_def").to(device)
    loader = DataLoader(Dataset(slices, augmentation()), batch_size=BATCH, shuffle=True, drop_last=True)
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * len(loader))
    best = 0.0
    with Progress() as progress:
        task = progress.add_task("training", total=epochs)
        for epoch in range(1, epochs + 1):
            network.train()
            for batch in loader:
                optimizer.zero_grad()
                loss(network(batch["image"].to(device)), batch["label"].to(device)).backward()
                optimizer.step()
                schedule.step()
            if epoch % EVALUATE_EVERY == 0:
                dice = foreground_dice(network, held_out, device)
                if dice > best:
                    best = dice
                    torch.save(network.state_dict(), weights)
                progress.update(task, description=f"held-out Dice {dice:.3f}, best {best:.3f}")
            progress.advance(task)
    return best

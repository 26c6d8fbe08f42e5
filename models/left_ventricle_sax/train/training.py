"""Train the left-ventricle network on the patients of the ``train`` split.

The network, the pixel spacing, the field of view and the intensity scaling are read from the bundle's own inference
configuration, so that training and inference cannot drift apart.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    ResizeWithPadOrCropd,
    Spacingd,
)
from torch import Tensor, nn

from coread.models.left_ventricle_sax.train.data import CAVITY, MYOCARDIUM, Case, aligned, misalignment
from coread.models.training import Plan, Trained, device, fit, hold_out, prepare

BUNDLE = Path(__file__).parents[1]
HELD_OUT = 1 / 7
"""Part of the patients of the train split that choose the epoch; they are never trained on."""
BATCH = 16
CLASSES = 3
PLAN = Plan(epochs=150, learning_rate=3e-3, averaged_over=100, test_every=5, patience=60)
SMALLER, LARGER = 0.8, 1.25
"""How much a heart is shrunk or blown up."""
BOTH = ("image", "label")


def augmentation(parser: ConfigParser, spacing_mm: float) -> Compose:
    """What a slice may look like elsewhere: turned any way, another size, place, contrast, coil.

    From the pixels of the file (``spacing_mm``) to the network's grid in one interpolation; the labels' edges become
    soft, which tells the network how much of a pixel is wall.
    """
    ratio = parser["pixdim"][0] / spacing_mm
    scales = (ratio * SMALLER - 1, ratio * LARGER - 1)
    return Compose(
        [
            RandFlipd(BOTH, prob=0.5, spatial_axis=0),
            RandAffined(
                BOTH,
                prob=1.0,
                spatial_size=parser["roi_size"],
                rotate_range=np.pi,
                shear_range=0.1,
                translate_range=(11, 11),
                scale_range=(scales, scales),
                mode="bilinear",
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.7, gamma=(0.6, 1.7)),
            RandBiasFieldd("image", prob=0.3, coeff_range=(0.0, 0.2)),
            RandScaleIntensityd("image", factors=0.15, prob=0.5),
            RandGaussianSmoothd("image", prob=0.3, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0)),
            RandGaussianNoised("image", prob=0.4, std=0.05),
        ]
    )


def volume_tensors(case: Case) -> dict[str, MetaTensor]:
    """Image and label as (channel, column, row, slice), the storage order that the runner feeds the bundle."""
    affine = torch.diag(torch.tensor([*reversed(case.spacing_mm), 1.0], dtype=torch.float64))
    return {
        name: MetaTensor(torch.from_numpy(array.transpose(2, 1, 0)[None].astype(np.float32)), affine=affine)
        for name, array in (("image", case.image), ("label", case.label))
    }


def on_grid(parser: ConfigParser) -> Compose:
    """The inference preprocessing, applied to image and label alike (label by nearest neighbour)."""
    roi: list[int] = [*parser["roi_size"], -1]
    return Compose(
        [
            Spacingd(BOTH, pixdim=parser["pixdim"], mode=("bilinear", "nearest")),
            ResizeWithPadOrCropd(BOTH, spatial_size=roi),
            parser.get_parsed_content("intensity"),
        ]
    )


def slices_of(cases: Iterable[Case], transform: Any) -> list[dict[str, Tensor]]:
    """Every slice of every case after the transform, as (channel, column, row)."""
    items = []
    for case in cases:
        volume = transform(volume_tensors(case))
        for index in range(volume["image"].shape[-1]):
            items.append({name: volume[name].as_tensor()[..., index].clone() for name in BOTH})  # noqa: PERF401
    return items


def one_hot(item: dict[str, Tensor]) -> dict[str, Tensor]:
    """The label as a channel for each class."""
    classes = torch.nn.functional.one_hot(item["label"][0].long(), CLASSES).permute(2, 0, 1)
    return {"image": item["image"], "label": classes.float()}


def foreground_dice(network: nn.Module, slices: list[dict[str, Tensor]], where: torch.device) -> float:
    """Mean over myocardium and cavity of the Dice of all slices taken together."""
    predicted = network(torch.stack([item["image"] for item in slices]).to(where)).argmax(1).cpu()
    truth = torch.stack([item["label"][0] for item in slices])
    scores = []
    for label in (MYOCARDIUM, CAVITY):
        p, t = predicted == label, truth == label
        scores.append(2 * (p & t).sum().item() / max(1, (p.sum() + t.sum()).item()))
    return float(np.mean(scores))


def train(cases: Sequence[Case], weights: Path, plan: Plan) -> Trained:
    """Write the weights of the epoch with the best Dice of the patients held out."""
    parser = prepare(plan, BUNDLE)
    where = device()
    offset = misalignment(cases)
    learnt, held_out = hold_out(
        [aligned(case, offset) for case in cases], of=lambda case: case.patient, part=HELD_OUT, seed=plan.seed
    )
    testing = slices_of(held_out, on_grid(parser))
    slices = [one_hot(item) for item in slices_of(learnt, parser.get_parsed_content("intensity"))]
    spacing_mm = float(np.median([case.spacing_mm[1:] for case in learnt]))
    network: nn.Module = parser.get_parsed_content("network_def").to(where, memory_format=torch.channels_last)
    loader = DataLoader(
        Dataset(slices, augmentation(parser, spacing_mm)),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        collate_fn=list_data_collate,
    )
    loss = DiceCELoss(softmax=True, include_background=False, batch=True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            label = batch["label"].as_tensor()
            label[:, 0] = 1 - label[:, 1:].sum(dim=1)  # beyond the picture's edge is background
            yield batch["image"].as_tensor().contiguous(memory_format=torch.channels_last), label

    best = fit(
        network,
        batches=batches,
        steps=len(loader),
        loss=loss,
        score=lambda average: foreground_dice(average, testing, where),
        plan=plan,
        weights=weights,
    )
    return Trained(score=best)

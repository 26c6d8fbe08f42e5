"""Train the hippocampus network on the people of the ``train`` split.

The network is read from the bundle's own inference configuration, so that training and inference cannot drift apart.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    ResizeWithPadOrCropd,
)
from torch import Tensor, nn

from coread.models.hippocampus_t1.train.data import ANTERIOR, POSTERIOR, Case
from coread.models.training import Plan, Trained, device, fit, hold_out, prepare

BUNDLE = Path(__file__).parents[1]
SIZE = (40, 56, 40)
"""Voxels that the network sees in training; nearly all crops fit into it."""
BATCH = 4
HELD_OUT = 1 / 8
PLAN = Plan(epochs=70, learning_rate=2e-3, patience=24)
BOTH = ("image", "label")


def augmentation() -> Compose:
    """What a crop may look like elsewhere: the other side, turned, another size, place, contrast.

    Some lie back to front: crops are often stored without their true direction, and the network has to tell head from
    tail by their form.
    """
    return Compose(
        [
            RandFlipd(BOTH, prob=0.5, spatial_axis=0),
            RandFlipd(BOTH, prob=0.2, spatial_axis=1),
            RandAffined(
                BOTH,
                prob=0.8,
                rotate_range=(0.25, 0.25, 0.25),
                scale_range=(0.15, 0.15, 0.15),
                translate_range=(3, 3, 3),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=0.2, std=0.1),
            RandGaussianSmoothd("image", prob=0.15),
            RandScaleIntensityd("image", factors=0.25, prob=0.3),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )


def tensors(case: Case) -> dict[str, MetaTensor]:
    """Image and label as (channel, x, y, z)."""
    return {
        name: MetaTensor(torch.from_numpy(array[None].astype("float32")), affine=torch.eye(4, dtype=torch.float64))
        for name, array in (("image", case.image), ("label", case.label))
    }


def mean_dice(network: nn.Module, cases: list[dict[str, Any]], where: torch.device) -> float:
    """Mean over crops and both parts."""
    total = 0.0
    for case in cases:
        found = network(case["image"].as_tensor()[None].to(where)).argmax(1)[0].cpu()
        truth = case["label"].as_tensor()[0]
        for label in (ANTERIOR, POSTERIOR):
            both = ((found == label) & (truth == label)).sum()
            total += float(2 * both / ((found == label).sum() + (truth == label).sum()))
    return total / (2 * len(cases))


def train(cases: Sequence[Case], weights: Path, plan: Plan) -> Trained:
    """Write the weights of the epoch with the best mean Dice of the people held out."""
    parser = prepare(plan, BUNDLE)
    where = device()
    normalized: Any = parser.get_parsed_content("normalization")
    fitted = ResizeWithPadOrCropd(BOTH, spatial_size=SIZE)
    learnt, held_out = hold_out(cases, of=lambda case: case.person, part=HELD_OUT, seed=plan.seed)
    training = [fitted(normalized(tensors(case))) for case in learnt]
    testing: list[Any] = [fitted(normalized(tensors(case))) for case in held_out]
    network: nn.Module = parser.get_parsed_content("network_def").to(where, memory_format=torch.channels_last_3d)
    loader = DataLoader(
        Dataset(training, augmentation()), batch_size=BATCH, shuffle=True, drop_last=True, collate_fn=list_data_collate
    )
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            image = batch["image"].as_tensor().contiguous(memory_format=torch.channels_last_3d)
            yield image, batch["label"].as_tensor()

    best = fit(
        network,
        batches=batches,
        steps=len(loader),
        loss=loss,
        score=lambda average: mean_dice(average, testing, where),
        plan=plan,
        weights=weights,
    )
    return Trained(score=best)

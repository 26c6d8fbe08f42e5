"""Train the chest X-ray network on the children of the ``train`` split.

The network and the preparation of the picture are read from the bundle's own inference configuration, so that training
and inference cannot drift apart.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ArrayDataset, DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffine,
    RandCoarseDropout,
    RandFlip,
    RandGaussianNoise,
    RandGaussianSmooth,
)
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from coread.models.chest_xray_pneumonia.train.data import NORMAL, Case
from coread.models.training import Plan, Trained, device, fit, hold_out, prepare, temperature_of

BUNDLE = Path(__file__).parents[1]
BATCH = 32
HELD_OUT = 1 / 8
LABEL_SMOOTHING = 0.05
PLAN = Plan(epochs=40, learning_rate=2e-3, weight_decay=2e-2, patience=14, averaged_over=200, test_every=1)


def augmentation() -> Compose:
    """What a radiograph may look like elsewhere: turned, cut otherwise, brighter, softer, with something on it."""
    return Compose(
        [
            RandFlip(prob=0.3, spatial_axis=0),
            RandAffine(
                prob=0.9,
                rotate_range=0.2,
                shear_range=(0.1, 0.1),
                translate_range=(14, 14),
                scale_range=(0.15, 0.15),
                padding_mode="border",
            ),
            RandAdjustContrast(prob=0.5, gamma=(0.7, 1.5), retain_stats=True),
            RandGaussianSmooth(prob=0.2, sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2)),
            RandGaussianNoise(prob=0.3, std=0.1),
            RandCoarseDropout(holes=2, max_holes=4, spatial_size=16, max_spatial_size=40, fill_value=0.0, prob=0.4),
        ]
    )


def tensor_of(case: Case) -> MetaTensor:
    """(column, row), as the runner feeds the bundle."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(case.image.T, dtype=np.float32)))


def prepared(cases: Sequence[Case], transform: Any) -> list[Tensor]:
    """Each picture as the network gets it: (channel, column, row)."""
    return [transform({"image": tensor_of(case)[None]})["image"].as_tensor() for case in cases]


def logits_of(network: nn.Module, pictures: Sequence[Tensor], where: torch.device) -> Tensor:
    """The network's outputs, (picture, class)."""
    batches = (torch.stack(list(pictures[start : start + 64])) for start in range(0, len(pictures), 64))
    return torch.cat([network(batch.to(where)).cpu() for batch in batches])


def quality(logits: Tensor, labels: Tensor) -> float:
    """Mean of two areas under ROC curves: pneumonia against normal, and bacterial against viral."""
    chances = logits.softmax(1).numpy()
    ill = (labels != NORMAL).numpy()
    kinds = chances[ill, 1] / chances[ill, 1:].sum(axis=1)
    of_ill = float(roc_auc_score(ill, 1 - chances[:, NORMAL]))
    of_kind = float(roc_auc_score(labels.numpy()[ill] == 1, kinds))
    return (of_ill + of_kind) / 2


def train(cases: Sequence[Case], weights: Path, plan: Plan) -> Trained:
    """Write the weights of the epoch with the best quality on the children held out, and calibrate it there."""
    parser = prepare(plan, BUNDLE)
    where = device()
    transform = parser.get_parsed_content("preparation")
    learnt, held_out = hold_out(cases, of=lambda case: case.person, part=HELD_OUT, seed=plan.seed)
    training, testing = prepared(learnt, transform), prepared(held_out, transform)
    labels = torch.tensor([case.label for case in held_out])
    network: nn.Module = parser.get_parsed_content("network_def").to(where, memory_format=torch.channels_last)
    data = ArrayDataset(training, augmentation(), labels=[case.label for case in learnt])
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    loss = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for pictures, answers in loader:
            yield torch.as_tensor(pictures).contiguous(memory_format=torch.channels_last), answers

    best = fit(
        network,
        batches=batches,
        steps=len(loader),
        loss=loss,
        score=lambda average: quality(logits_of(average, testing, where), labels),
        plan=plan,
        weights=weights,
    )
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    with torch.inference_mode():
        said = logits_of(network, testing, where)
    return Trained(score=best, temperature=temperature_of(said, labels))

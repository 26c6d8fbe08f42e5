"""What the trainings of the shipped models have in common: the loop, the average of the weights, early stopping."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

LARGEST_GRADIENT = 5.0
"""Norm from which on a step's gradient is scaled down: one odd batch must not throw the network off."""

WARM_UP = 0.1
"""Part of the steps in which the learning rate rises."""

Case = TypeVar("Case")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train."""

    epochs: int
    learning_rate: float
    weight_decay: float = 1e-3
    averaged_over: int = 100
    """Steps that the weights are averaged over, exponentially: what is tested and kept is the average."""
    test_every: int = 2
    """Epochs."""
    patience: int = 30
    """Epochs without a better score after which training stops."""
    seed: int = 2026


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a training, besides the weights."""

    score: float
    """On those held out."""
    temperature: float | None = None
    """What calibrates a classifier's probabilities there."""


def device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(plan: Plan, bundle: Path) -> ConfigParser:
    """Fix every seed, and read the bundle's own inference configuration: training and inference cannot drift apart."""
    set_determinism(plan.seed)
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    return parser


def hold_out(
    cases: Sequence[Case], *, of: Callable[[Case], str], part: float, seed: int
) -> tuple[list[Case], list[Case]]:
    """The cases to train on, and those of about this part of the people (``of``: whose a case is), who choose the
    epoch.
    """
    people = sorted({of(case) for case in cases})
    random.Random(seed).shuffle(people)  # noqa: S311  # a split, not a secret
    held_out = set(people[: max(1, round(part * len(people)))])
    return [case for case in cases if of(case) not in held_out], [case for case in cases if of(case) in held_out]


def fit(
    network: nn.Module,
    *,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    score: Callable[[nn.Module], float],
    plan: Plan,
    weights: Path,
) -> float:
    """Train, and write the averaged weights of the epoch with the highest score; returns that score.

    ``batches``: one epoch of (input, target), augmented anew at each call, ``steps`` of them. ``score``: of the network
    on those held out. AdamW with one cycle of the learning rate (Smith and Topin 2017); bfloat16 where the loss is not
    computed. Raises ValueError if no epoch has a score.
    """
    where = next(network.parameters()).device
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / plan.averaged_over), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.learning_rate, total_steps=plan.epochs * steps, pct_start=WARM_UP
    )
    best, best_epoch = -1.0, 0
    with Progress() as progress:
        task = progress.add_task("training", total=plan.epochs)
        for epoch in range(1, plan.epochs + 1):
            network.train()
            for inputs, targets in batches():
                optimizer.zero_grad()
                with torch.autocast(where.type, torch.bfloat16):
                    outputs = network(inputs.to(where))
                loss(outputs.float(), targets.to(where)).backward()
                nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
                optimizer.step()
                schedule.step()
                average.update_parameters(network)
            progress.advance(task)
            if epoch % plan.test_every and epoch != plan.epochs:
                continue
            average.eval()
            with torch.inference_mode():
                scored = score(average.module)
            if scored > best:
                best, best_epoch = scored, epoch
                torch.save(average.module.state_dict(), weights)
            progress.update(task, description=f"held out {scored:.4f}, best {best:.4f} in epoch {best_epoch}")
            if epoch - best_epoch >= plan.patience:
                break
    if best_epoch == 0:
        raise ValueError("expected a score that is a number, found none in any epoch; no weights were written")
    return best


def temperature_of(logits: Tensor, labels: Tensor) -> float:
    """What to divide logits (case, class) by for the probabilities to be calibrated (Guo et al., ICML 2017)."""
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=100, line_search_fn="strong_wolfe")
    doubles = logits.detach().double().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(doubles / logarithm.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(logarithm.detach().exp())

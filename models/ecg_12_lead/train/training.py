"""Train the ECG network on the people of the ``train`` split.

The network is read from the bundle's own inference configuration, so that training and inference cannot drift apart.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from coread.models.ecg_12_lead.train.data import NOT_NORMAL, SAMPLING_RATE_HZ, Case
from coread.models.training import Plan, Trained, device, fit, prepare, temperature_of

BUNDLE = Path(__file__).parents[1]
BATCH = 32
LABEL_SMOOTHING = 0.1
PLAN = Plan(epochs=60, learning_rate=2e-3, weight_decay=3e-2, patience=60, averaged_over=50)

SHIFT_S = 1.0
"""How far a record is moved in time, around its ends."""
SCALE = 0.3
"""How far the voltage of a record and of each lead deviates, relative."""
NOISE_MV = 0.03
WANDER_MV = 0.15
WANDER_HZ = (0.1, 0.6)
LOST_LEAD = 0.1
"""How often a lead is lost."""
MIXED = 0.4
"""How two records are mixed: Beta(0.4, 0.4), so mostly one of them shows (Zhang et al., mixup, ICLR 2018)."""
CLASSES = 2


def augmented(leads: Tensor, generator: torch.Generator) -> Tensor:
    """(case, lead, sample) as it may come from elsewhere: another moment, voltage, noise, a wandering baseline, a lead
    lost.
    """

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator) - 1

    cases, count, samples = leads.shape
    farthest = int(SHIFT_S * SAMPLING_RATE_HZ)
    moved = torch.stack(
        [case.roll(int(shift), dims=-1) for case, shift in zip(leads, farthest * uniform(cases), strict=True)]
    )
    scaled = moved * (SCALE * uniform(cases, 1, 1)).exp() * (SCALE / 3 * uniform(cases, count, 1)).exp()
    times = torch.arange(samples) / SAMPLING_RATE_HZ
    low, high = WANDER_HZ
    rates = low + (high - low) * torch.rand((cases, count, 1), generator=generator)
    wander = WANDER_MV * uniform(cases, count, 1) * torch.sin(2 * torch.pi * (rates * times + uniform(cases, count, 1)))
    noise = NOISE_MV * torch.rand((cases, 1, 1), generator=generator) * torch.randn(leads.shape, generator=generator)
    kept = torch.rand((cases, count, 1), generator=generator) > LOST_LEAD
    return (scaled + wander + noise) * kept


def mixed(leads: Tensor, answers: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each record with another one of the batch over it, and what share each answer has: (case, class)."""
    share = float(np.random.default_rng(int(torch.randint(2**31, (), generator=generator))).beta(MIXED, MIXED))
    others = torch.randperm(len(answers), generator=generator)
    known = nn.functional.one_hot(answers, CLASSES).float()
    return share * leads + (1 - share) * leads[others], share * known + (1 - share) * known[others]


def labels_of(cases: Sequence[Case]) -> Tensor:
    """(case,), int64."""
    return torch.tensor([case.label for case in cases])


def stacked(cases: Sequence[Case]) -> Tensor:
    """(case, lead, sample), mV."""
    return torch.stack([torch.from_numpy(case.leads) for case in cases])


def train(cases: Sequence[Case], weights: Path, plan: Plan) -> Trained:
    """Train each member of the ensemble with another part of the people held out, whose area under the ROC curve
    chooses its epoch. What the members say of those whom they did not learn from calibrates the probabilities.
    """
    parser = prepare(plan, BUNDLE)
    ensemble = parser.get_parsed_content("network_def").to(device())
    certain = [case for case in cases if not case.is_mixed]
    said, labels, areas = [], [], []
    for number, (learnt, held_out) in enumerate(parts(certain, len(ensemble.readers), plan.seed)):
        member = ensemble.member(number)
        areas.append(_train_member(member, learnt, held_out, plan))
        with torch.inference_mode():
            said.append(member(stacked(held_out).to(device())).cpu())
        labels.append(labels_of(held_out))
    torch.save(ensemble.state_dict(), weights)
    temperature = temperature_of(torch.cat(said), torch.cat(labels))
    return Trained(score=sum(areas) / len(areas), temperature=temperature)


def parts(cases: Sequence[Case], count: int, seed: int) -> Iterator[tuple[list[Case], list[Case]]]:
    """Those to learn from and those held out, each person held out once, normal and other people spread evenly."""
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    people, labels = [case.person for case in cases], [case.label for case in cases]
    for learnt, held_out in folds.split(people, labels, people):
        yield [cases[index] for index in learnt], [cases[index] for index in held_out]


def _train_member(member: nn.Module, learnt: Sequence[Case], held_out: Sequence[Case], plan: Plan) -> float:
    """Train, and leave the weights of the best epoch in the member; returns its area."""
    leads, answers, tested, truth = stacked(learnt), labels_of(learnt), stacked(held_out), labels_of(held_out)
    balance = len(answers) / (2 * torch.bincount(answers).float())
    loss = nn.CrossEntropyLoss(weight=balance.to(device()), label_smoothing=LABEL_SMOOTHING)
    generator = torch.Generator().manual_seed(plan.seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(learnt), generator=generator)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            yield mixed(augmented(leads[chosen], generator), answers[chosen], generator)

    def area(average: nn.Module) -> float:
        chances = average(tested.to(device())).softmax(1)[:, NOT_NORMAL].cpu()
        return float(roc_auc_score(truth == NOT_NORMAL, chances))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "member.pt"
        best = fit(member, batches=batches, steps=len(learnt) // BATCH, loss=loss, score=area, plan=plan, weights=path)
        member.load_state_dict(torch.load(path, weights_only=True))
    member.eval()
    return best

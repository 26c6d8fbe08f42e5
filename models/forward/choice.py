"""Which engine runs a network soonest, of those that answer as torch does on inputs of this model's own."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from monai.data import MetaTensor
from monai.networks.utils import eval_mode
from torch import nn

from coread.models.forward.agreement import Agreement, agreement, worst
from coread.models.forward.engines import EAGER, Engine, Library, Precision, candidates, network_of
from coread.models.forward.torch_engine import TorchNetwork

FEWEST_ROUNDS, MOST_ROUNDS, LONG_ENOUGH_S = 3, 20, 3.0
"""Each engine is timed so often, in turn, until that has taken long enough. The shortest time counts: whatever else the
machine does only adds to it."""
WORTH_IT = 1.1
"""So many times sooner than torch as it comes must an engine be to be taken."""
LARGER = ((32, 64), (1, 3), (2, 6), (4, 12), (8, 24))
"""Voxels by which the first and the last axis of an input grow, to try a network with other sizes. The first pair is
for a network that halves its input a few times, and takes multiples only. One that takes any size may go another way
where a half does not come out even, at each of its depths; what is converted knows only the way that it was shown."""
MANY_VOXELS = 32**3
"""From so large a window on, windows are taken one by one: together they are no sooner, and need more memory."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of an engine."""

    label: str
    ratio: float | None
    """How many times sooner than torch as it comes."""
    reason: str
    """Why it is not used; nothing if it could be."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine that is to run a network."""

    engine: Engine
    ratio: float
    agreement: Agreement
    converted: bytes
    """What it runs, if it is not the network itself."""
    tried: tuple[Tried, ...]


class OtherCall(ValueError):
    """The network does not take one tensor and give one tensor."""


def choose(
    network: nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    has_one_size: bool,
    may_round: bool,
    as_it_comes: Precision = "f32",
) -> Choice:
    """Try every engine that is installed.

    ``inputs``: some that the network gets, (batch, channel, …), on the device that it runs on. ``has_one_size``:
    whether all that it will get has the size of these. ``may_round``: whether numbers of 16 bits are allowed.
    ``as_it_comes``: what the bundle itself has torch multiply in; whatever it is, answers are compared with float32.
    Raises OtherCall for a network that only torch can run.
    """
    with eval_mode(network):
        samples = [each.as_tensor() if isinstance(each, MetaTensor) else each for each in inputs]
        shape, samples = _shape(network, samples, has_one_size=has_one_size)
        by_torch = [_answer(network, sample) for sample in samples]
        device = samples[0].device.type
        usable: dict[Engine, tuple[nn.Module, Agreement, bytes]] = {}
        refused: list[Tried] = []
        for engine in candidates(device, has_one_size=has_one_size, may_round=may_round):
            try:
                converted = _converted(engine, network, samples[0], shape)
                runs = network_of(engine, network if engine.has_file else copy.deepcopy(network), converted)
                agrees = _agreement(runs, samples, by_torch)
            except Exception as error:  # noqa: BLE001  # whatever a library raises for a network that it cannot take
                refused.append(Tried(label=engine.label, ratio=None, reason=_first_line(error)))
                continue
            reason = agrees.reason_against(engine.precision)
            if reason:
                refused.append(Tried(label=engine.label, ratio=None, reason=reason))
            else:
                usable[engine] = runs, agrees, converted
        eager = TorchNetwork(network, precision=as_it_comes, is_tuned=False)
        seconds = _seconds({EAGER: eager, **{engine: runs for engine, (runs, _, _) in usable.items()}}, samples[0])
    ratios = {engine: seconds[EAGER] / each for engine, each in seconds.items()}
    tried = [*refused, *(Tried(label=each.label, ratio=ratios[each], reason="") for each in usable)]
    best = max(ratios, key=lambda engine: ratios[engine])
    if best not in usable or ratios[best] < WORTH_IT:
        exact = Agreement(deviation=0, same_choice=1)
        return Choice(engine=EAGER, ratio=1, agreement=exact, converted=b"", tried=tuple(tried))
    _, agrees, converted = usable[best]
    return Choice(engine=best, ratio=ratios[best], agreement=agrees, converted=converted, tried=tuple(tried))


def _shape(
    network: nn.Module, samples: list[torch.Tensor], *, has_one_size: bool
) -> tuple[list[int], list[torch.Tensor]]:
    """The shape to convert for, -1 where any size may come; and the samples, with some of sizes that may come.

    Raises OtherCall if it cannot be tried how the network takes other sizes.
    """
    first = samples[0]
    two = torch.cat([first[:1], first[:1].flip(-1)])
    channels, *size = first.shape[1:]
    if has_one_size and all(each.shape[1:] == first.shape[1:] for each in samples):
        together = torch.Size(size).numel() < MANY_VOXELS
        return [-1 if together else 1, channels, *size], [*samples, two]
    others = [_grown(_grown(first, -1, last), 2, before) for before, last in LARGER]
    taken = [each for each in others if _takes(network, each)]
    if not taken:
        raise OtherCall("the network takes no image of another size than this one, as far as was tried")
    return [-1, channels, *(-1 for _ in size)], [*samples, two, *taken]


def _takes(network: nn.Module, sample: torch.Tensor) -> bool:
    try:
        network(sample)
    except Exception:  # noqa: BLE001  # networks say in words of their own what sizes they take
        return False
    return True


def _grown(sample: torch.Tensor, axis: int, by: int) -> torch.Tensor:
    """Begun again from its start: what is added looks like the rest."""
    size = sample.shape[axis]
    return sample.index_select(axis, torch.arange(size + by, device=sample.device) % size)


def _answer(network: nn.Module, sample: torch.Tensor) -> torch.Tensor:
    answer = network(sample)
    if not isinstance(answer, torch.Tensor) or answer.ndim < 2 or len(answer) != len(sample):
        raise OtherCall(f"the network gives no tensor with an answer for each case ({type(answer).__name__})")
    return answer.clone()


def _converted(engine: Engine, network: nn.Module, example: torch.Tensor, shape: Sequence[int]) -> bytes:
    """What the engine runs. Example: of a batch of one where the engine takes no other."""
    example = example[:1] if shape[0] == 1 else example
    if engine.library is Library.OPENVINO:
        from coread.models.forward import openvino_engine

        return openvino_engine.converted(network, example, shape=shape, precision=engine.precision)
    if engine.library is Library.ONNXRUNTIME:
        from coread.models.forward import onnx_engine

        return onnx_engine.converted(network, example, shape=shape)
    return b""


def _agreement(runs: nn.Module, samples: Sequence[torch.Tensor], by_torch: Sequence[torch.Tensor]) -> Agreement:
    pairs = zip(samples, by_torch, strict=True)
    return worst([agreement(cast("torch.Tensor", runs(sample)), answer) for sample, answer in pairs])


def _seconds(runs: dict[Engine, nn.Module], sample: torch.Tensor) -> dict[Engine, float]:
    """The shortest time of each."""
    shortest = dict.fromkeys(runs, float("inf"))
    begun = time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() - begun > LONG_ENOUGH_S:
            break
        for engine, network in runs.items():
            started = time.perf_counter()
            network(sample)
            if sample.is_cuda:
                torch.cuda.synchronize()
            shortest[engine] = min(shortest[engine], time.perf_counter() - started)
    return shortest


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]

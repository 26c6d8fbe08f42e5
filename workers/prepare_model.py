"""`coread models prepare`: find out once on a machine how a model runs soonest without another answer, and keep it."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import torch

from coread.errors import ModelError
from coread.models.bundle.fusion_check import FusionVerdict, check_fusion
from coread.models.catalogue import find_model, installed_models
from coread.models.forward.agreement import Agreement
from coread.models.forward.choice import OtherCall, choose
from coread.models.forward.engines import EAGER
from coread.models.prediction import Prediction
from coread.models.prepared import Attempt, Forward, FusedChain, Record, save, sha256_of, versions
from coread.models.runner import BundleRunner, choose_device, processor_name
from coread.settings import Settings
from coread.volume import Volume
from coread.waveform import Waveform
from coread.workers.rehearsal import rehearse

MOST_INPUTS = 3
"""So many of what the network sees in a dry run are compared."""


def prepare_model(name: str, settings: Settings, *, at: datetime) -> Record:
    """Try the engines on what the network sees of a study made to the manifest, and write down which is to be used.

    Raises what building the model and reading a study raise.
    """
    model = find_model(name, installed_models(settings))
    runner = _Listening(model, device=choose_device(settings.worker.device))
    try:
        forward, converted = _forward(runner)
        record = Record(
            model=name,
            digest=runner.digest,
            versions=versions(),
            device=processor_name(runner.device),
            at=at,
            forward=forward,
            fusion=_fusion(runner),
        )
    finally:
        runner.close()
    save(settings.prepared_home, record, converted)
    for attempt in forward.tried:
        if attempt.reason:
            logging.getLogger(__name__).info("%s: %s is not used: %s", name, attempt.label, attempt.reason)
    return record


class _Listening(BundleRunner):
    """One that keeps what it was last given to read."""

    heard: Sequence[Volume] | Waveform = ()

    def predict(self, channels: Sequence[Volume] | Waveform) -> Prediction:
        self.heard = channels
        return super().predict(channels)


def _fusion(runner: _Listening) -> FusedChain | None:
    """Whether the transforms give the same by Coread's kernels, on what was read just now."""
    if runner.is_isolated or isinstance(runner.heard, Waveform) or not runner.heard:
        return None
    try:
        verdict = check_fusion(
            runner.model.folder,
            runner.model.manifest,
            runner.heard,
            device=runner.device,
            trust=runner.trust,
            check=runner.model.approval,
        )
    except ModelError as error:
        verdict = FusionVerdict(agrees=False, why=str(error))
    return FusedChain(
        agrees=verdict.agrees,
        reason=verdict.why,
        fused=verdict.fused,
        same_labels=verdict.same_labels,
        input_difference=verdict.input_difference,
    )


def _forward(runner: BundleRunner) -> tuple[Forward, bytes]:
    """By what the network is to run, and what was converted for that."""
    manifest = runner.model.manifest
    networks = runner.networks
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    with _watched(networks[0] if len(networks) == 1 else None, seen):
        rehearse(runner)
    reason = _reason_for_torch(runner, seen)
    if reason:
        return _as_it_comes(reason), b""
    try:
        choice = choose(
            networks[0],
            [inputs[0] for inputs, _ in seen],
            has_one_size=runner.has_one_size,
            may_round=manifest.speed.half_precision or runner.rounds,
            as_it_comes="f16" if runner.rounds else "f32",
        )
    except OtherCall as error:
        return _as_it_comes(str(error)), b""
    forward = Forward(
        engine=choice.engine,
        ratio=choice.ratio,
        agreement=choice.agreement,
        sha256=sha256_of(choice.converted) if choice.converted else None,
        tried=tuple(Attempt(label=each.label, ratio=each.ratio, reason=each.reason) for each in choice.tried),
    )
    return forward, choice.converted


def _as_it_comes(reason: str) -> Forward:
    return Forward(engine=EAGER, ratio=1, agreement=Agreement(deviation=0, same_choice=1), reason=reason)


def _reason_for_torch(runner: BundleRunner, seen: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> str:
    """Why no other engine can be tried; nothing if some can."""
    if runner.is_isolated:
        return "the bundle has Python code of its own, and runs in a process of its own"
    if runner.model.manifest.saliency:
        return "the model explains itself (saliency), for which only torch has the gradients"
    if len(runner.networks) != 1:
        return f"the bundle has {len(runner.networks)} networks"
    if not seen:
        return "the network was not seen to answer"
    if any(len(inputs) != 1 or options for inputs, options in seen):
        return "the network takes something else than one image"
    if any(not isinstance(each, torch.Tensor) or each.dtype != torch.float32 for (each,), _ in seen):
        return "the network takes something else than an image in float32"
    return ""


@contextmanager
def _watched(network: torch.nn.Module | None, seen: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Iterator[None]:
    """What a network is called with; of tensors, copies."""

    def note(_network: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if len(seen) < MOST_INPUTS:
            kept = tuple(each.clone() if isinstance(each, torch.Tensor) else each for each in inputs)
            seen.append((kept, options))

    handle = network.register_forward_pre_hook(note, with_kwargs=True) if network is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()

"""Where a classifier looked: Grad-CAM (Selvaraju et al., ICCV 2017) as MONAI computes it, on the network that answered
and on the very tensor that it answered for.

A map says where the network looked, not where disease is. It must never cost a result: whatever goes wrong here is said
as the reason why there is no map, and leaves the prediction and the network as they were.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.transforms.utils import allow_missing_keys_mode, convert_applied_interp_mode
from monai.visualize import GradCAM, GradCAMpp
from monai.visualize.class_activation_maps import ModelWithHooks
from numpy.typing import NDArray
from torch import nn

from coread.errors import ConfigurationError
from coread.models.bundle.grid import ModelGrid
from coread.models.manifest import Manifest, Saliency
from coread.models.prediction import Prediction

METHODS = {"gradcam": GradCAM, "gradcam++": GradCAMpp}

FLAT = 1e-4
"""Relative: values that differ by less differ by rounding only, so such a map says nothing."""
SAME_ANSWER = 0.02
"""Relative to the largest output: by less, half precision and another order of sums change an answer."""
SAME_PLACE_VOXELS = 0.05
"""A map that came back further away than this from the input's place did not come back."""
SURE = 1e-6
"""Probabilities nearer to each other than this have no order."""
CANNOT_BE_UNDONE = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)
MOST_CALLS = 2
"""Of a network in one run: with two, it is known that the image was read in parts."""
MOST_NAMES = 12
"""Layers that an error names."""


class NoMap(Exception):  # no error: the reading stays as it is
    """Why there is no map, in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """A network, what it was given in a run, and what it answered."""

    network: nn.Module
    inputs: tuple[Any, ...]
    answer: Any


def check_layer(networks: Iterable[nn.Module], saliency: Saliency, name: str) -> None:
    """Raises ConfigurationError unless every network of the bundle ``name`` has the layer."""
    for network in networks:
        if isinstance(network, torch.jit.ScriptModule):
            raise ConfigurationError(
                f"{name}: expected a network whose layers can be looked into for `saliency` in coread.yaml, found a "
                "compiled one; take `saliency` out"
            )
        layers = [layer for layer, _ in network.named_modules() if layer]
        if saliency.layer not in layers:
            near = difflib.get_close_matches(saliency.layer, layers, n=MOST_NAMES, cutoff=0.4)
            shown = near or layers[:MOST_NAMES]
            more = f" and {len(layers) - len(shown)} more" if len(layers) > len(shown) else ""
            raise ConfigurationError(
                f"{name}: expected a layer of the network under `saliency` in coread.yaml, found {saliency.layer}; "
                f"there are {', '.join(shown)}{more}"
            )


@contextmanager
def watched(networks: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Note what each network is given and answers, for as long as this lasts."""
    calls: list[Call] = []

    def note(network: nn.Module, inputs: tuple[Any, ...], options: Mapping[str, Any], answer: Any) -> None:
        if sum(call.network is network for call in calls) < MOST_CALLS:
            calls.append(Call(network=network, inputs=(*inputs, *options.values()), answer=answer))

    once = {id(network): network for network in networks}.values()
    handles = [network.register_forward_hook(note, with_kwargs=True) for network in once]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked:
    """What a run leaves behind to be explained."""

    calls: Sequence[Call]
    image: Any
    """What the network saw, (channel, …), with its place."""
    image_key: str | None
    """Its name in the bundle's data."""
    preprocessing: Any
    """What made it of the input."""


def explained(prediction: Prediction, looked: Looked, manifest: Manifest, grid: ModelGrid | None) -> Prediction:
    """The prediction with a map for each class that it says holds, or the reason why there is none.

    ``grid``: of the images; None of an ECG, which has one axis, time.
    """
    saliency = manifest.saliency
    if saliency is None:
        return prediction
    maps: dict[int, NDArray[np.float32]] = {}
    unexplained: dict[int, str] = {}
    for key in held(prediction, manifest):
        if saliency.of is not None and key not in saliency.of:
            unexplained[key] = "coread.yaml leaves this answer out under `saliency`"
            continue
        try:
            maps[key] = _map(key, prediction, looked, manifest, grid)
        except NoMap as reason:
            unexplained[key] = str(reason)
        except Exception as error:  # noqa: BLE001  # a network is foreign code, and an explanation never costs a result
            unexplained[key] = _reason(error)
    return replace(prediction, saliency=maps, unexplained=unexplained)


def held(prediction: Prediction, manifest: Manifest) -> list[int]:
    """The classes that a prediction says hold: the chosen one, whatever it means, or each that is present."""
    if prediction.chosen is not None:
        return [prediction.chosen]
    return [
        key
        for key, probability in prediction.classes.items()
        if probability is not None and probability >= manifest.threshold_of(key)
    ]


def _map(
    key: int, prediction: Prediction, looked: Looked, manifest: Manifest, grid: ModelGrid | None
) -> NDArray[np.float32]:
    assert manifest.saliency is not None  # noqa: S101  # the caller has looked
    calls = _whole_calls(looked.calls)
    _check_answers(calls, prediction, manifest)
    maps = [class_map(call, key, manifest.saliency) for call in calls]
    shape = maps[0].shape
    if any(each.shape != shape for each in maps):
        raise NoMap("the bundle's networks do not see the same grid")
    together = scaled(np.mean([scaled(each) for each in maps], axis=0, dtype=np.float32))
    if grid is None or together.ndim == 1:  # over time: the samples that the network saw, as they are
        return together
    return scaled(_on_input(together, looked, grid))


def _whole_calls(calls: Sequence[Call]) -> list[Call]:
    """One for each network, of one image as a whole."""
    if not calls:
        raise NoMap("no network of the bundle was seen to answer")
    for call in calls:
        if sum(each.network is call.network for each in calls) > 1:
            raise NoMap("the network read the image in parts (windows)")
        image = call.inputs[0]
        if len(call.inputs) != 1 or not isinstance(image, torch.Tensor) or image.ndim < 3 or len(image) != 1:
            raise NoMap("the network takes something else than one image")
    return list(calls)


def _check_answers(calls: Sequence[Call], prediction: Prediction, manifest: Manifest) -> None:
    """Raises NoMap unless the network's outputs are the classes of the manifest: in their order, the larger the more
    probable. Of several networks, one may be outvoted.
    """
    keys = sorted(manifest.classes)
    for call in calls:
        answer = call.answer
        if not isinstance(answer, torch.Tensor) or answer.ndim != 2 or answer.shape[1] <= keys[-1]:
            raise NoMap("the network does not give an output for each class")
    outputs = [call.answer[0].detach().float().cpu().numpy()[keys] for call in calls]
    told = [prediction.classes[key] for key in keys]
    if prediction.chosen is not None:
        agree = any(keys[int(each.argmax())] == prediction.chosen for each in outputs)
    else:
        agree = True
    if None not in told and len(calls) == 1:
        probabilities = np.array(told, np.float64)
        ahead = probabilities[:, None] - probabilities > SURE
        agree &= bool((outputs[0][:, None] >= outputs[0])[ahead].all())
    if not agree:
        raise NoMap("the network's outputs are not the classes in the order of coread.yaml")


def class_map(call: Call, key: int, saliency: Saliency) -> NDArray[np.float32]:
    """How much each place of what a network saw mattered to a class, from 0, on the network's grid.

    The network is asked again, with gradients; raises NoMap if it then answers otherwise.
    """
    image = call.inputs[0].detach()
    image = (image.as_tensor() if isinstance(image, MetaTensor) else image).float()
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in call.network.modules())
    with (
        _left_as_it_was(call.network),
        _seen_by_monai(call.network, saliency.layer) as seen,
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent),  # it cannot go back in time
        watched([call.network]) as again,
    ):
        cam = METHODS[saliency.method](cast("nn.Module", seen), saliency.layer, postprocessing=lambda found: found)
        # The network may write into what it is given, which it may not do with a tensor that nothing computed.
        found = cam(image.clone().requires_grad_().clone(), class_idx=key)[0, 0].detach().cpu().numpy()
    before, after = (each.detach().float() for each in (call.answer, again[0].answer))
    if not torch.allclose(before, after, rtol=0, atol=SAME_ANSWER * float(before.abs().max())):
        raise NoMap("the network answers otherwise when it is asked again")
    return np.asarray(found, np.float32)


@contextmanager
def _seen_by_monai(network: nn.Module, layer: str) -> Iterator[ModelWithHooks]:
    """The network as MONAI's class activation maps take it, with a hook that is taken away again: MONAI's own stay."""
    seen = ModelWithHooks(network, layer)
    seen.register_forward = seen.register_backward = True

    def note(_layer: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        seen.activations[layer] = output
        output.register_hook(lambda gradient: seen.gradients.update({layer: gradient}))
        return output.clone()  # what comes after may write into it

    handle = network.get_submodule(layer).register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
        seen.activations.clear()  # these and the graph hold each other, which no collector of garbage sees
        seen.gradients.clear()
        seen.score = None


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Have a backward run touch no weight, and put back what it and MONAI change."""
    modules = list(network.modules())
    modes = [module.training for module in modules]
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    try:
        for weight in weights:
            weight.requires_grad = False
        yield
    finally:
        for weight in weights:
            weight.requires_grad = True
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def scaled(found: NDArray[np.floating]) -> NDArray[np.float32]:
    """From 0 to 1, its own maximum. Raises NoMap if it is the same everywhere: then it says nothing."""
    highest = float(found.max())
    if not np.isfinite(found).all():
        raise NoMap("the map is not finite")
    if highest <= 0:
        raise NoMap("the map is zero everywhere: nothing in the layer speaks for the class")
    if highest - float(found.min()) <= FLAT * highest:
        raise NoMap("the map is the same everywhere")
    return np.asarray(found / highest, np.float32).clip(0, 1)


def _on_input(found: NDArray[np.float32], looked: Looked, grid: ModelGrid) -> NDArray[np.float32]:
    """A map on the network's grid as (slice, row, column) of the input: the bundle's preprocessing undone, linearly
    interpolated. What the bundle had cut away is 0: the network did not see it.
    """
    image, undo = looked.image, looked.preprocessing
    if not isinstance(image, MetaTensor) or not isinstance(undo, InvertibleTransform):
        raise NoMap("the bundle takes the image's place away, so the map cannot be put back")
    if tuple(image.shape[1:]) != found.shape:
        raise NoMap("the network saw another grid than the preprocessed image's")
    with torch.no_grad():
        tensor = MetaTensor(torch.from_numpy(found)[None], meta=dict(image.meta))
        tensor.applied_operations = convert_applied_interp_mode(image.applied_operations, mode="bilinear")
        back = _undone(tensor, undo, looked.image_key)
    if not isinstance(back, MetaTensor) or tuple(back.shape) != (1, *grid.shape):
        raise NoMap("the bundle's preprocessing cannot be undone")
    to_input = np.linalg.inv(grid.affine) @ back.affine.cpu().numpy()
    last = np.array(np.meshgrid(*[(0, size - 1) for size in (*grid.shape, 1)[:3]])).reshape(3, -1)
    away = (to_input @ np.vstack([last, np.ones(last.shape[1])]))[:3] - last
    if back.applied_operations or np.abs(away).max() > SAME_PLACE_VOXELS:
        raise NoMap("the bundle's preprocessing cannot be undone: the map does not come back to where the input lies")
    return np.ascontiguousarray(grid.back(back[0].numpy()), np.float32)


def _undone(tensor: MetaTensor, preprocessing: Any, key: str | None) -> Any:
    """What a transform made, as it was before. Raises NoMap if it cannot be undone."""
    try:
        if key is None:
            return preprocessing.inverse(tensor)
        with allow_missing_keys_mode(preprocessing):
            return preprocessing.inverse({key: tensor})[key]
    except CANNOT_BE_UNDONE as error:
        raise NoMap(f"the bundle's preprocessing cannot be undone ({type(error).__name__})") from error


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # what went wrong first: MONAI wraps it in others
        error = error.__cause__
    text = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
        return "there was not enough memory"
    return f"{type(error).__name__}: {text}"

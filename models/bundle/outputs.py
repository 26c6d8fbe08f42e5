"""What a bundle's run gave, as a prediction on the input's grid; or the reason why it is none.

Nothing is mended here: a value that the manifest does not know, a number that is none, or a mask on another grid fails
the job.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from numpy.typing import NDArray

from coread.errors import ModelError
from coread.models.bundle.engine import BundleEngine, RawOutput
from coread.models.bundle.grid import ModelGrid
from coread.models.manifest import Manifest, TaskKind
from coread.models.prediction import Box, Point, Prediction
from coread.volume import Volume, count_by_slice

PROBABILITY_TOLERANCE = 1e-3
"""Interpolation and rounding may leave 0 to 1 by this much."""

DEFAULT_BOX_THRESHOLD = 0.5
SAME_PLACE_VOXELS = 1e-3
"""Nearer than this, two grids are the same."""
COVERED_VOXELS = 0.75
"""So far may the input reach beyond the centres of a result's outermost voxels: resampling rounds by half of one."""
ALONG_AXIS = 1e-2
"""Part of a step that may lead sideways for an axis to count as one of the patient's."""


def interpret(raw: RawOutput, engine: BundleEngine, grid: ModelGrid, volume: Volume, task: TaskKind) -> Prediction:
    """The prediction for ``volume``. Raises ModelError if the output is not what the manifest says it is."""
    reader = {
        TaskKind.SEGMENTATION: _segmentation,
        TaskKind.CLASSIFICATION: _classification,
        TaskKind.DETECTION: _detection,
        TaskKind.LANDMARKS: _landmarks,
        TaskKind.REGRESSION: _regression,
    }[task]
    with _taken_for(task, engine):
        return reader(raw, engine, grid, volume)


def interpret_waveform(raw: RawOutput, engine: BundleEngine, task: TaskKind) -> Prediction:
    """The prediction for an ECG: classes or numbers, which have no place. Raises ModelError as ``interpret`` does."""
    reader = {TaskKind.CLASSIFICATION: _classification, TaskKind.REGRESSION: _regression}[task]
    with _taken_for(task, engine):
        return reader(raw, engine, None, None)


@contextmanager
def _taken_for(task: TaskKind, engine: BundleEngine) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        raise ModelError(
            f"{engine.manifest.name}: expected the output of a {task} model, found one that cannot be taken for it "
            f"({type(error).__name__}: {error})"
        ) from error


def _segmentation(raw: RawOutput, engine: BundleEngine, grid: ModelGrid, _volume: Volume) -> Prediction:
    manifest = engine.manifest
    on_grid = _on_grid(_result(raw, _key_of_result(raw)), grid, raw, engine)
    probabilities = {}
    if manifest.probabilities is not None:
        told = _on_grid(_result(raw, manifest.probabilities), grid, raw, engine)
        probabilities = _probabilities(told, grid, manifest)
    if len(on_grid) == 1:
        layers = [_labels(on_grid[0], manifest)]
    else:
        layers, soft = _channels(on_grid, manifest)
        probabilities = probabilities or {
            label: _contiguous(grid.back(each), np.float32) for label, each in soft.items()
        }
    return Prediction(
        layers=tuple(_contiguous(grid.back(layer), np.uint8) for layer in layers), probabilities=probabilities
    )


def _labels(values: NDArray[Any], manifest: Manifest) -> NDArray[np.uint8]:
    """One channel of labels. Raises ModelError unless each value is 0 or a label of the manifest."""
    if 0 in manifest.labels:
        raise ModelError(
            f"{manifest.name}: expected a channel for each structure, since coread.yaml gives number 0 a meaning, "
            "found one channel of labels, in which 0 is the background; number the labels as the model writes them"
        )
    if manifest.threshold is not None and len(manifest.labels) == 1:
        _check_probabilities(values, manifest)
        (label,) = manifest.labels
        return np.where(values >= manifest.threshold, np.uint8(label), np.uint8(0))
    known = np.zeros(256, bool)
    known[[0, *manifest.labels]] = True
    if values.dtype == np.uint8:
        counts = count_by_slice(np.ascontiguousarray(values.T)).sum(axis=0)
        if not counts[~known].any():
            return values
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.uint8)
    wrong = (whole != values) | ~known[whole]
    if wrong.any():
        others = np.unique(values[wrong])
        raise ModelError(
            f"{manifest.name}: expected only the labels {sorted({0, *manifest.labels})} of coread.yaml, found "
            f"{len(others)} others, such as {others[0]:g}"
        )
    return whole


def _channels(
    values: NDArray[Any], manifest: Manifest
) -> tuple[list[NDArray[np.uint8]], dict[int, NDArray[np.float32]]]:
    """A channel for each structure: label volumes in which no two structures overlap, and what was decided from.

    A structure's label is its channel's number, or one more if channel 0 is a structure too.
    """
    highest = max(manifest.labels)
    if highest >= len(values):
        raise ModelError(f"{manifest.name}: expected a channel of number {highest}, found {len(values)} channels")
    layers: list[NDArray[np.uint8]] = []
    soft = {}
    for channel in sorted(manifest.labels):
        label = manifest.value_of(channel)
        each = values[channel]
        if manifest.threshold is not None:
            _check_probabilities(each, manifest)
            soft[label] = np.asarray(each, np.float32).clip(0, 1)
            mask = each >= manifest.threshold
        else:
            mask = each > 0
            if not ((each == 0) | (each == 1)).all():
                raise ModelError(
                    f"{manifest.name}: expected 0 and 1 in each channel, found {float(each.min()):g} to "
                    f"{float(each.max()):g}; say in coread.yaml from which `threshold` on a voxel counts"
                )
        free = next((layer for layer in layers if not layer[mask].any()), None)
        if free is None:
            free = np.zeros(mask.shape, np.uint8)
            layers.append(free)
        free[mask] = label
    return layers, soft


def _probabilities(values: NDArray[Any], grid: ModelGrid, manifest: Manifest) -> dict[int, NDArray[np.float32]]:
    """Label → probability. Raises ModelError unless there is a channel for each label, of values from 0 to 1."""
    needed = max(manifest.labels) + 1
    if len(values) < needed:
        raise ModelError(f"{manifest.name}: expected probabilities of {needed} or more channels, found {len(values)}")
    _check_probabilities(values, manifest)
    return {
        manifest.value_of(key): _contiguous(grid.back(values[key]), np.float32).clip(0, 1) for key in manifest.labels
    }


def _classification(raw: RawOutput, engine: BundleEngine, _grid: object, _volume: object) -> Prediction:
    manifest = engine.manifest
    values = _vector(_answer(raw, manifest.probabilities), manifest)
    highest = max(manifest.classes)
    if len(values) == 1 and highest > 0:
        if values[0] not in manifest.classes:
            raise ModelError(f"{manifest.name}: expected the number of a class, found {values[0]:g}")
        return Prediction(classes=dict.fromkeys(manifest.classes), chosen=int(values[0]))
    if highest >= len(values):
        raise ModelError(f"{manifest.name}: expected {highest + 1} or more classes, found {len(values)}")
    if not manifest.exclusive:
        _check_probabilities(values, manifest)
        calibrated = _calibrated_each(values, manifest.temperature)
        return Prediction(classes={key: float(calibrated[key]) for key in manifest.classes})
    decided = np.isin(values, (0, 1)).all()
    if decided and values.sum() != 1:
        raise ModelError(
            f"{manifest.name}: expected one class that holds, found {int(values.sum())}; say `exclusive: false` in "
            "coread.yaml if several or none may"
        )
    if decided:
        chosen = int(values.argmax())
        told: dict[int, float | None] = dict.fromkeys(manifest.classes)
    else:
        _check_probabilities(values, manifest)
        if abs(float(values.sum()) - 1) > PROBABILITY_TOLERANCE * len(values):
            raise ModelError(
                f"{manifest.name}: expected probabilities that sum to 1, found {float(values.sum()):g}; say "
                "`exclusive: false` in coread.yaml if several or none of the classes may hold"
            )
        calibrated = _calibrated_together(values, manifest.temperature)
        chosen = int(calibrated.argmax())
        told = {key: float(calibrated[key]) for key in manifest.classes}
    if chosen not in manifest.classes:
        raise ModelError(f"{manifest.name}: expected a class of coread.yaml, found number {chosen}")
    return Prediction(classes=told, chosen=chosen)


def _detection(raw: RawOutput, engine: BundleEngine, grid: ModelGrid, volume: Volume) -> Prediction:
    manifest = engine.manifest
    names = {"box": "box", "label": "label", "label_scores": "label_scores", **engine.box_keys}
    boxed = next((each for each in [*raw.captured, raw.output.get("pred"), raw.output] if _has(each, names)), None)
    if boxed is None:
        raise ModelError(f"{manifest.name}: expected boxes under the keys {', '.join(names.values())}, found none")
    boxes = _array(boxed[names["box"]]).reshape(-1, 6)
    labels = _array(boxed[names["label"]]).reshape(-1)
    scores = _array(boxed[names["label_scores"]]).reshape(-1)
    if not len(boxes) == len(labels) == len(scores):
        raise ModelError(
            f"{manifest.name}: expected as many boxes as labels and scores, found {len(boxes)}, {len(labels)} and "
            f"{len(scores)}"
        )
    _check_finite(boxes, manifest)
    _check_probabilities(scores, manifest)
    unknown = sorted({int(label) for label in labels} - set(manifest.labels))
    if unknown:
        raise ModelError(f"{manifest.name}: expected boxes of the labels {sorted(manifest.labels)}, found {unknown[0]}")
    threshold = manifest.threshold or DEFAULT_BOX_THRESHOLD
    corners = _corners(boxes[scores >= threshold], raw, engine, grid, volume)
    kept = zip(corners, labels[scores >= threshold], scores[scores >= threshold], strict=True)
    found = tuple(
        Box(label=int(label), probability=float(score), low=places.min(axis=0), high=places.max(axis=0))
        for places, label, score in kept
    )
    last = np.array(volume.spatial_shape) - 1
    if any((box.high < 0).any() or (box.low > last).any() for box in found):
        raise ModelError(
            f"{manifest.name}: expected boxes inside the images, found one outside; say in coread.yaml under "
            "`boxes` how the model writes them"
        )
    return Prediction(boxes=found)


def _corners(
    boxes: NDArray[np.float64], raw: RawOutput, engine: BundleEngine, grid: ModelGrid, volume: Volume
) -> list[NDArray[np.float64]]:
    """Two opposite corners of each box, (2, 3), as indices (slice, row, column) of ``volume``."""
    said, components = engine.manifest.boxes, engine.components
    to_world = components.get("AffineBoxToWorldCoordinated")
    mode = said.mode or components.get("ConvertBoxModed", {}).get("dst_mode", "xyzxyz")
    space = said.space or ("image" if to_world is None else "LPS" if to_world.get("affine_lps_to_ras") else "RAS")
    if mode == "cccwhd":
        boxes = np.concatenate([boxes[:, :3] - boxes[:, 3:] / 2, boxes[:, :3] + boxes[:, 3:] / 2], axis=1)
    elif mode != "xyzxyz":
        raise ModelError(
            f"{engine.manifest.name}: expected boxes as xyzxyz or cccwhd, found {mode}; say it in coread.yaml"
        )
    seen = _seen_affine(raw, engine.manifest)
    half = (0.5, 0.5, 0.5) if said.edges else (0.0, 0.0, 0.0)
    found = []
    for box in boxes:
        ends = box.reshape(2, 3)
        if space == "image":
            ras = (ends - half) @ seen[:3, :3].T + seen[:3, 3]
        else:
            _check_axes(seen, engine.manifest)
            ras = ends * (np.array([-1.0, -1.0, 1.0]) if space == "LPS" else 1.0) - np.array(half) @ seen[:3, :3].T
        found.append(grid.indices_back(ras, volume))
    return found


def _check_axes(affine: NDArray[np.float64], manifest: Manifest) -> None:
    """Raises ModelError if a box along the patient's axes is none along the volume's: its size would be another."""
    steps = np.abs(affine[:3, :3])
    if (np.sort(steps, axis=0)[:2] > ALONG_AXIS * steps.max(axis=0)).any():
        raise ModelError(
            f"{manifest.name}: expected slices along the patient's axes, because the model gives its boxes in the "
            "patient's coordinates, found oblique ones"
        )


def _landmarks(raw: RawOutput, engine: BundleEngine, grid: ModelGrid, volume: Volume) -> Prediction:
    manifest = engine.manifest
    values = _array(_answer(raw, None))
    _check_finite(values, manifest)
    count = max(manifest.labels) + 1
    if count == 3 and manifest.points is None:
        raise ModelError(
            f"{manifest.name}: expected to know whether each landmark is a row or a column of the output, found 3 by 3 "
            "numbers; say `points: rows` or `points: columns` in coread.yaml"
        )
    if manifest.points != "rows" and values.shape[-2:] == (3, count) and values.size == 3 * count:
        values = values.reshape(3, count).T
    elif values.shape[-2:] == (count, 3) and values.size == 3 * count:
        values = values.reshape(count, 3)
    else:
        raise ModelError(
            f"{manifest.name}: expected three coordinates of {count} landmarks, found an output of shape {values.shape}"
        )
    seen = _seen_affine(raw, manifest)
    places = grid.indices_back(values @ seen[:3, :3].T + seen[:3, 3], volume)
    beyond = np.maximum(-0.5 - places, places - (np.array(volume.spatial_shape) - 0.5)).max(axis=1)
    outside = [manifest.labels[key].name for key in sorted(manifest.labels) if beyond[key] > 0]
    if outside:
        raise ModelError(
            f"{manifest.name}: expected landmarks inside the images, found {outside[0]} outside; nothing is reported"
        )
    return Prediction(points=tuple(Point(label=key, place=places[key]) for key in sorted(manifest.labels)))


def _regression(raw: RawOutput, engine: BundleEngine, _grid: object, _volume: object) -> Prediction:
    manifest = engine.manifest
    values = _vector(_answer(raw, None), manifest)
    numbers = {}
    for key, meaning in manifest.numbers.items():
        if key >= len(values):
            raise ModelError(f"{manifest.name}: expected a number in place {key}, found {len(values)} numbers")
        number = float(values[key])
        low, high = meaning.plausible or (-np.inf, np.inf)
        if not low <= number <= high:
            raise ModelError(
                f"{manifest.name}: expected {meaning.name} from {low:g} to {high:g}, found {number:g}; none is said"
            )
        numbers[key] = number
    return Prediction(numbers=numbers)


def _key_of_result(raw: RawOutput) -> str:
    """Under which key the mask is: what the bundle would have saved, else what the evaluator calls a prediction."""
    if not raw.saved or "pred" in raw.saved:
        return "pred"
    if len(raw.saved) > 1:
        raise ModelError(f"expected one result to be saved, found {', '.join(sorted(raw.saved))}")
    return next(iter(raw.saved))


def _result(raw: RawOutput, key: str) -> Any:
    found = raw.saved.get(key, raw.output.get(key))
    if found is None:
        there = ", ".join(sorted(map(str, raw.output))) or "nothing"
        raise ModelError(f"expected an output {key}, found {there}")
    return found


def _answer(raw: RawOutput, key: str | None) -> Any:
    """The output that is no image: under a key, as the bundle's handler would have written it, or as predicted."""
    if key is not None:
        return _result(raw, key)
    return raw.captured[0] if raw.captured else _result(raw, _key_of_result(raw))


def _on_grid(result: Any, grid: ModelGrid, raw: RawOutput, engine: BundleEngine) -> NDArray[Any]:
    """A result as (channel, …) on the input's grid. One that the bundle left elsewhere is taken there by the nearest
    voxel, as MONAI's saver does.
    """
    manifest = engine.manifest
    tensor = _tensor(result)
    if tensor.ndim == len(grid.shape):
        tensor = tensor[None]
    elif tensor.ndim == len(grid.shape) + 2 and len(tensor) == 1:  # the batch of one
        tensor = tensor[0]
    if not isinstance(tensor, MetaTensor) and not _lies_as_given(grid, raw, engine):
        raise ModelError(
            f"{manifest.name}: expected a result that says where it lies, or an input that was not moved, found "
            "neither; put an Invertd before the transform that takes the result's place (its affine) away"
        )
    if isinstance(tensor, MetaTensor) and not grid.projection and tensor.ndim == len(grid.shape) + 1:
        to_result = np.linalg.inv(tensor.affine.cpu().numpy()) @ grid.affine
        last = np.array(np.meshgrid(*[(0, size - 1) for size in grid.shape])).reshape(3, -1)
        corners = (to_result @ np.vstack([last, np.ones(last.shape[1])]))[:3].T
        moved = tuple(tensor.shape[1:]) != grid.shape or np.abs(corners - last.T).max() > SAME_PLACE_VOXELS
        beyond = np.maximum(-corners, corners - (np.array(tensor.shape[1:]) - 1)).max()
        if moved and beyond > COVERED_VOXELS:
            found = (
                f"one that says it lies {beyond:.1f} voxels beside it; the bundle loses its input's place (affine)"
                if tuple(tensor.shape[1:]) == grid.shape
                else f"one that ends {beyond:.1f} voxels before it; the bundle cuts its input and does not put the "
                "result back (Invertd)"
            )
            raise ModelError(f"{manifest.name}: expected a result that covers the whole input, found {found}")
        if moved:
            tensor = SpatialResample(mode="nearest", padding_mode="border", align_corners=False)(
                tensor, dst_affine=torch.from_numpy(grid.affine), spatial_size=grid.shape
            )
    if tensor.ndim != len(grid.shape) + 1 or tuple(tensor.shape[1:]) != grid.shape:
        raise ModelError(
            f"{manifest.name}: expected a result of shape {grid.shape} for each channel, as the input has, found "
            f"{tuple(tensor.shape)}"
        )
    values = tensor.detach().cpu().numpy()
    _check_finite(values, manifest)
    return values


def _lies_as_given(grid: ModelGrid, raw: RawOutput, engine: BundleEngine) -> bool:
    """Whether what does not say where it lies can only lie as the input does: the network saw the input where it was,
    or the bundle has put the result back.
    """
    if "Invertd" in engine.components:
        return True
    seen = raw.image
    return (
        isinstance(seen, MetaTensor)
        and tuple(seen.shape[1:]) == grid.shape
        and np.allclose(seen.affine.cpu().numpy(), grid.affine, atol=SAME_PLACE_VOXELS)
    )


def _seen_affine(raw: RawOutput, manifest: Manifest) -> NDArray[np.float64]:
    """Indices of what the network saw → RAS, mm. Raises ModelError if it is not known."""
    if not isinstance(raw.image, MetaTensor):
        raise ModelError(
            f"{manifest.name}: expected an image that says where it lies, found one that does not; the bundle takes "
            "its place (its affine) away before the network, so nothing found in it can be placed"
        )
    return raw.image.affine.cpu().numpy().astype(np.float64)


def _tensor(result: Any) -> torch.Tensor:
    """A result as a tensor of numbers that numpy knows."""
    while isinstance(result, list | tuple) and len(result) == 1:
        result = result[0]
    tensor = result if isinstance(result, torch.Tensor) else torch.as_tensor(np.asarray(result))
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _vector(result: Any, manifest: Manifest) -> NDArray[np.float64]:
    values = np.squeeze(_array(result))
    if values.ndim > 1:
        raise ModelError(f"{manifest.name}: expected a list of numbers, found an output of shape {values.shape}")
    values = values.reshape(-1)
    _check_finite(values, manifest)
    return values


def _array(result: Any) -> NDArray[np.float64]:
    return np.asarray(_tensor(result).detach().cpu().numpy(), dtype=np.float64)


def _has(found: Any, names: Mapping[str, str]) -> bool:
    return isinstance(found, Mapping) and all(name in found for name in names.values())


def _check_finite(values: NDArray[Any], manifest: Manifest) -> None:
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise ModelError(f"{manifest.name}: expected numbers in the result, found NaN or infinity")


def _check_probabilities(values: NDArray[Any], manifest: Manifest) -> None:
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    if not -PROBABILITY_TOLERANCE <= low <= high <= 1 + PROBABILITY_TOLERANCE:
        raise ModelError(f"{manifest.name}: expected probabilities from 0 to 1, found {low:g} to {high:g}")


def _calibrated_each(values: NDArray[np.float64], temperature: float | None) -> NDArray[np.float64]:
    """Independent probabilities with their logits divided by the temperature."""
    values = values.clip(0, 1)
    if temperature is None:
        return values
    with np.errstate(divide="ignore"):
        return np.asarray(1 / (1 + np.exp(-(np.log(values) - np.log1p(-values)) / temperature)))


def _calibrated_together(values: NDArray[np.float64], temperature: float | None) -> NDArray[np.float64]:
    """Probabilities of classes that exclude each other, with their logits divided by the temperature."""
    values = values.clip(0, 1)
    powered = values if temperature is None else values ** (1 / temperature)
    return np.asarray(powered / powered.sum())


def _contiguous(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=dtype)

"""Runs a MONAI bundle on a volume in memory.

The bundle's own inference configuration runs: its preprocessing, network, inferer and postprocessing. Only what
touches files is replaced, in the configuration before anything of it is built: the loading of images becomes the
volume that is handed over, and the saving of results becomes the result that is handed back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray

from coread.errors import ConfigurationError, ModelError, OutOfMemory
from coread.models.catalogue import InstalledModel
from coread.volume import Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TO_COLUMN_ROW_SLICE = (2, 1, 0)
"""Volumes are kept as (slice, row, column); MONAI's readers give (column, row, slice), as NIfTI does."""

_LOADERS = ("LoadImaged", "LoadImageD", "LoadImageDict", "LoadImage")
_SAVERS = ("SaveImaged", "SaveImageD", "SaveImageDict", "SaveImage")
PROBABILITY_TOLERANCE = 1e-3
"""Interpolation and rounding may leave 0 to 1 by this much."""

_CHECKPOINT_LOADER = "CheckpointLoader"


def to_meta_tensor(volume: Volume) -> MetaTensor:
    """The volume as MONAI takes it: (column, row, slice), float32, affine from indices to RAS in mm.

    DICOM's patient coordinates are LPS, MONAI's are RAS: x and y change sign. This is the only place where they do.
    """
    turned = volume.array.transpose(_TO_COLUMN_ROW_SLICE)
    tensor = torch.from_numpy(np.ascontiguousarray(turned, dtype=np.float32))
    affine = torch.from_numpy(_LPS_TO_RAS @ volume.affine[:, (*_TO_COLUMN_ROW_SLICE, 3)])
    return MetaTensor(
        tensor,
        affine=affine,
        meta={
            "original_affine": affine.clone(),
            "original_channel_dim": float("nan"),
            "spatial_shape": np.array(tensor.shape),
            "space": "RAS",
            "filename_or_obj": "volume",
        },
    )


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on. Raises ConfigurationError if a GPU is demanded and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "the settings demand a GPU (worker.device = cuda), but torch finds none; set it to auto or cpu"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a bundle gave for a volume, on the volume's own grid: (slice, row, column)."""

    labels: NDArray[np.uint8]
    probabilities: Mapping[int, NDArray[np.float32]]
    """Label → probability of each voxel, 0 to 1; empty if the manifest names no output for it."""


class _OneVolume:
    """The bundle's list of cases: always one, whichever volume is in it. (The evaluator asks for the length once.)"""

    def __init__(self) -> None:
        self.case: dict[str, MetaTensor] = {}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, MetaTensor]:
        if index != 0:
            raise IndexError(index)
        return self.case

    def __deepcopy__(self, _memo: object) -> "_OneVolume":
        return self  # the configuration parser copies what it is given; the volume must be the same one


class BundleRunner:
    """A bundle, built once and kept warm. Not safe to share between threads."""

    def __init__(self, model: InstalledModel, *, device: torch.device) -> None:
        """Build the bundle's evaluator and load its weights. Raises ModelError if it cannot be built."""
        self.model = model
        self.device = device
        self.digest = model.digest()
        self._input = _OneVolume()
        self._evaluator: Any = self._build()

    def _build(self) -> Any:
        """The bundle's evaluator, with its weights loaded."""
        model = self.model
        parser = ConfigParser()
        try:
            parser.read_config(_config_file(model.folder))
            raw = _without_files(parser.config)
            checkpoints = _take_checkpoint_loaders(raw)
            raw.update(bundle_root=str(model.folder), device=self.device, checkpoint_loaders=checkpoints)
            raw["dataset"]["data"] = self._input
            parser = ConfigParser(raw)
            evaluator = parser.get_parsed_content("evaluator")
            for load in parser.get_parsed_content("checkpoint_loaders"):
                load(evaluator)
        except Exception as error:  # a bundle is foreign code: whatever it raises, the model cannot be used
            cause = _first_cause(error)
            raise ModelError(
                f"the bundle {model.name} {model.version} cannot be loaded: {type(cause).__name__}: {cause}"
            ) from error
        return evaluator

    def segment(self, volume: Volume) -> NDArray[np.uint8]:
        """Labels on the volume's own grid: see ``predict``."""
        return self.predict(volume).labels

    def predict(self, volume: Volume) -> Prediction:
        """Labels, and probabilities if the manifest names them, on the volume's own grid.

        Raises ModelError if the bundle fails, or gives anything but known labels on that grid.
        """
        # An evaluator that has failed goes on with its half-finished run when it is asked again, and then gives back
        # what it gave for the volume before. So one that fails is thrown away, and an old output is never at hand.
        evaluator, self._evaluator = self._evaluator or self._build(), None
        evaluator.state.output = None
        self._input.case = {"image": to_meta_tensor(volume)}
        try:
            evaluator.run()
            output = evaluator.state.output[0]
            labels = output["pred"].detach().cpu().numpy()
            key = self.model.manifest.probabilities
            probabilities = None if key is None else output[key].detach().cpu().numpy()
        except Exception as error:  # a bundle is foreign code: whatever it raises, this job has failed
            cause = _first_cause(error)
            if isinstance(cause, MemoryError | torch.OutOfMemoryError):
                raise OutOfMemory(f"the bundle {self.model.name} {self.model.version} ran out of memory") from error
            raise ModelError(
                f"the bundle {self.model.name} {self.model.version} failed: {type(cause).__name__}; the log says where"
            ) from error
        finally:
            self._input.case = {}
        self._evaluator = evaluator
        evaluator.state.output = None
        return Prediction(
            labels=self._checked(labels, volume),
            probabilities={} if probabilities is None else self._by_label(probabilities, volume),
        )

    def _by_label(self, output: NDArray[Any], volume: Volume) -> dict[int, NDArray[np.float32]]:
        """Label → probability. Raises ModelError unless there is a channel for each label, of values from 0 to 1."""
        expected = (max(self.model.manifest.labels) + 1, *reversed(volume.spatial_shape))
        low, high = float(output.min()), float(output.max())
        if output.ndim != len(expected) or output.shape[0] < expected[0] or output.shape[1:] != expected[1:]:
            raise ModelError(f"{self.model.name}: expected probabilities of shape {expected}, found {output.shape}")
        if not -PROBABILITY_TOLERANCE <= low <= high <= 1 + PROBABILITY_TOLERANCE:
            raise ModelError(f"{self.model.name}: expected probabilities from 0 to 1, found {low:g} to {high:g}")
        return {
            label: np.ascontiguousarray(output[label].transpose(_TO_COLUMN_ROW_SLICE), dtype=np.float32).clip(0, 1)
            for label in self.model.manifest.labels
        }

    def _checked(self, output: NDArray[Any], volume: Volume) -> NDArray[np.uint8]:
        columns_rows_slices = tuple(reversed(volume.spatial_shape))
        if output.shape != (1, *columns_rows_slices):
            raise ModelError(
                f"{self.model.name}: expected one channel of labels of shape {columns_rows_slices}, "
                f"found {output.shape}"
            )
        found = np.unique(output)
        known = {0, *self.model.manifest.labels}
        unknown = [value for value in found.tolist() if value not in known]
        if unknown:
            raise ModelError(
                f"{self.model.name}: expected only the labels {sorted(known)} of its manifest, "
                f"found {len(unknown)} others, such as {unknown[0]:g}"
            )
        return np.ascontiguousarray(output[0].transpose(_TO_COLUMN_ROW_SLICE), dtype=np.uint8)


def _config_file(folder: Path) -> Path:
    for suffix in ("json", "yaml", "yml"):
        path = folder / "configs" / f"inference.{suffix}"
        if path.is_file():
            return path
    raise FileNotFoundError(f"expected configs/inference.json or .yaml in {folder}, found neither")


def _without_files(raw: Any) -> Any:
    """The configuration without the transforms that read and write image files."""
    if isinstance(raw, Mapping):
        return {key: _without_files(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_without_files(item) for item in raw if _target(item) not in (*_LOADERS, *_SAVERS)]
    return raw


def _take_checkpoint_loaders(raw: dict[str, Any]) -> list[Any]:
    """Take the handlers that load weights out of the configuration: they run once here, not before every volume."""
    taken = []
    for key in ("handlers", "val_handlers"):
        for owner in (raw, raw.get("evaluator", {})):
            if isinstance(owner.get(key), list):
                taken += [item for item in owner[key] if _target(item) == _CHECKPOINT_LOADER]
                owner[key] = [item for item in owner[key] if _target(item) != _CHECKPOINT_LOADER]
    return taken


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong first: MONAI wraps exceptions in others that say only that something went wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _target(item: Any) -> str:
    return str(item.get("_target_", "")).rpartition(".")[2] if isinstance(item, Mapping) else ""

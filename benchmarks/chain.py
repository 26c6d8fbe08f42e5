"""From files on disk to the segmentation's and the report's files on disk, with everything around the network."""

import gc
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray

from coread import codes
from coread.allocation import give_back_freed_memory
from coread.benchmarks.chain_floor import chain_floor
from coread.benchmarks.comparison import FLOOR, OURS, Result, Row
from coread.benchmarks.ct_bundle import (
    NAME,
    ByValue,
    CtUNet,
    inferer,
    manifest_of,
    postprocessing,
    preprocessing,
    write_ct_model,
)
from coread.benchmarks.load import monai_loader
from coread.benchmarks.no_op import approve
from coread.benchmarks.processes import Done, Lap, WayInProcess
from coread.benchmarks.samples import Shape, files_in, volume_of, write_ct
from coread.benchmarks.seg_write import highdicom_segmentation
from coread.benchmarks.sr_write import every_image_report
from coread.codes import HOUNSFIELD_UNIT as HOUNSFIELD
from coread.codes import MILLILITER
from coread.errors import ConfigurationError
from coread.findings import Findings, Measurement
from coread.models.catalogue import installed_models
from coread.models.manifest import Manifest
from coread.objects import Profile
from coread.settings import load_settings
from coread.workers.measure import sought
from coread.workers.pipeline import read_study
from coread.workers.study import studies_in_folder
from coread.workers.warm import warm_models

STRAIGHT = "MONAI + highdicom"
PROFILE = Profile.SLICER
"""Its objects are a segmentation and a measurement report."""
SAME_VOXELS = 0.01
"""Part of a structure's voxels that two ways may differ by: interpolation rounds differently at its rim."""


def chain(folder: Path, *, labels: int, shape: Shape, repeats: int, with_forward: bool) -> Result:
    """Each way in a process of its own, in turn. What the network takes is taken out of the time, and told in the note;
    with the forward pass, the time is whole, and the note says how much everything else adds to it; then there is no
    floor, since nobody knows a network's.

    Raises RuntimeError if the ways do not find the same.
    """
    series = write_ct(folder / "series", labels, shape=shape)
    model = write_ct_model(folder / "models", labels, with_unet=with_forward)
    both = {"series": series, "output": folder}
    with ExitStack() as processes:
        ways = {
            OURS: WayInProcess(ours, settings_file=approved(folder), **both),
            STRAIGHT: WayInProcess(straight, bundle=model, labels=labels, with_unet=with_forward, **both),
        }
        if not with_forward:
            ways[FLOOR] = WayInProcess(chain_floor, labels=labels, shape=shape, **both)
        for way in ways.values():
            processes.enter_context(way)
        peaks = {}
        first = {}
        left_out = []
        for name, way in list(ways.items()):
            try:
                first[name], peaks[name] = way.run_for_memory()
            except RuntimeError as error:
                if name == OURS:
                    raise
                left_out.append(f"{name}: {error}")
                del ways[name]
        _check_same(first)
        laps: dict[str, list[Lap]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                laps[name].append(way.run())
    rows = [_row(name, laps, peaks[name], with_forward=with_forward) for name in ways]
    return Result(rows=rows, left_out=tuple(left_out))


def _row(name: str, laps: Mapping[str, Sequence[Lap]], peak_mb: float, *, with_forward: bool) -> Row:
    def median(of: str) -> float:
        return statistics.median(lap.seconds if with_forward else lap.around_s for lap in laps[of])

    network_s = statistics.median(lap.network_s for lap in laps[name])
    around_s = statistics.median(lap.around_s for lap in laps[name])
    note = f"and {network_s:.2f} s in the network"
    if name == FLOOR:
        note = "the floors of the stages; what the network says is at hand"
    elif with_forward:
        note = f"{network_s:.2f} s in the network, all else adds {100 * around_s / network_s:.0f} % to it"
    return Row(
        name=name,
        seconds=median(name),
        to_floor=median(name) / median(FLOOR) if FLOOR in laps else None,
        to_coread=median(name) / median(OURS),
        peak_mb=peak_mb,
        file_mb=None,
        note=note,
    )


def _check_same(laps: Mapping[str, Lap]) -> None:
    """Raises RuntimeError unless all ways that say what they find find the same structures, of nearly the same size."""
    (name, first), *others = ((name, lap) for name, lap in laps.items() if lap.found is not None)
    for other, lap in others:
        one, two = first.found or {}, lap.found or {}
        apart = [label for label in one if abs(one[label] - two.get(label, 0)) > 1 + SAME_VOXELS * one[label]]
        if set(one) != set(two) or apart:
            raise RuntimeError(f"expected the same structures by {name} and {other}, found others: {apart or two}")


def approved(folder: Path) -> Path:
    """A settings file of an installation that has the model in ``folder/models``, may use it, and has prepared it.

    Raises ConfigurationError if it cannot be prepared.
    """
    settings_file = folder / "coread.toml"
    settings_file.write_text('data_folder = "data"\n[models]\nfolders = ["models"]\n', encoding="utf-8")
    approve(NAME, load_settings(settings_file))
    command = [sys.executable, "-m", "coread", "--config", str(settings_file), "models", "prepare", NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(f"expected the benchmark's model to be prepared, found: {done.stderr[-500:]}")
    return settings_file


class Clock:
    """Seconds that networks have run since it was made."""

    def __init__(self, networks: Iterable[torch.nn.Module]) -> None:
        self.seconds = self._started = 0.0
        for network in networks:
            network.register_forward_pre_hook(self._start)
            network.register_forward_hook(self._stop)

    def _start(self, *_called: object) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_called: object) -> None:
        self.seconds += time.perf_counter() - self._started


def ours(*, series: Path, output: Path, settings_file: Path) -> Callable[[], Done]:
    """As a worker does, without the archive around it."""
    gc.freeze()  # the libraries, as coread.collection has it
    settings = load_settings(settings_file)
    runner = warm_models(settings, installed_models(settings))(NAME)
    clock = Clock(runner.networks)

    def run() -> Done:
        before = clock.seconds
        (study,) = studies_in_folder(series)
        reading = read_study(study, runner, job_id=uuid.uuid4().hex, created_at=datetime.now(UTC), profiles=[PROFILE])
        for result in reading.objects:
            (output / f"coread-{result.kind}.dcm").write_bytes(result.file())
        found = {each.label: each.voxels for each in reading.findings.present}
        del study, reading
        give_back_freed_memory()
        return Done(network_s=clock.seconds - before, found=found)

    return run


def straight(*, series: Path, output: Path, bundle: Path, labels: int, with_unet: bool) -> Callable[[], Done]:
    """As most people put it together: MONAI's transforms, a mask for each label, highdicom's objects."""
    content = {"preprocessing": {"_target_": "Compose", "transforms": preprocessing()}}
    content["postprocessing"] = {"_target_": "Compose", "transforms": postprocessing(labels)}
    parser = ConfigParser({**content, "inferer": inferer()})
    before, after, window = (parser.get_parsed_content(key) for key in ("preprocessing", "postprocessing", "inferer"))
    load = monai_loader()
    network = _network(labels, bundle, with_unet=with_unet)
    clock = Clock([network])

    def run() -> Done:
        started = clock.seconds
        loaded = load({"image": str(series)})
        values = np.asarray(loaded["image"]).transpose(2, 1, 0)
        data = before(loaded)
        with torch.inference_mode():
            data["pred"] = window(data["image"][None], network)[0]
        found = np.asarray(after(data)["pred"][0]).astype(np.uint8).transpose(2, 1, 0)
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files_in(series)]
        findings = _measured(found, values, headers, labels)
        segmentation = highdicom_segmentation(findings, headers, "BINARY")
        segmentation.save_as(output / "straight-seg.dcm")
        every_image_report(findings, headers, segmentation).save_as(output / "straight-sr.dcm")
        return Done(network_s=clock.seconds - started, found={each.label: each.voxels for each in findings.present})

    return run


def _network(labels: int, bundle: Path, *, with_unet: bool) -> torch.nn.Module:
    network = (CtUNet if with_unet else ByValue)(labels + 1)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network.eval()


def _measured(
    found: NDArray[np.uint8], values: NDArray[Any], headers: Sequence[pydicom.Dataset], labels: int
) -> Findings:
    """A mask for each label."""
    row_mm, column_mm = map(float, headers[0].PixelSpacing)
    slice_mm = abs(float(headers[1].ImagePositionPatient[2]) - float(headers[0].ImagePositionPatient[2]))
    structures = []
    for structure in sought(Manifest.model_validate(manifest_of(labels))):
        mask = found == structure.label
        inside = values[mask].astype(np.float64)
        if not len(inside):
            continue
        said = (
            Measurement(concept=codes.VOLUME, value=mask.sum() * row_mm * column_mm * slice_mm / 1000, unit=MILLILITER),
            Measurement(concept=codes.ATTENUATION, value=inside.mean(), unit=HOUNSFIELD, derivation=codes.MEAN),
            Measurement(
                concept=codes.ATTENUATION, value=inside.std(), unit=HOUNSFIELD, derivation=codes.STANDARD_DEVIATION
            ),
        )
        structures.append(replace(structure, voxels=len(inside), measurements=said))
    return Findings(labels=volume_of(found), structures=tuple(structures))

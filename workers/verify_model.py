"""Checks and times an installed model on a study that is made to its manifest."""

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.bundle import verify_metadata, verify_net_in_out

from coread.dicom_sr.validation.problem import Severity
from coread.dicom_sr.validation.run import validate_files
from coread.errors import CoreadError, ModelError
from coread.model_store import find_package
from coread.models.bundle.adapters import today
from coread.models.bundle.configuration import find_configuration, read_configuration
from coread.models.bundle.isolation import has_python
from coread.models.bundle.trust import NO_TRUST
from coread.models.catalogue import USABLE, InstalledModel, find_model, installed_models
from coread.models.metadata import METADATA_SCHEMA, metadata_file
from coread.models.runner import BundleRunner, choose_device
from coread.settings import Settings
from coread.workers.rehearsal import Rehearsal, rehearse
from coread.workers.volume import SourceVolume
from coread.workers.waveform import SourceWaveform

CPU = torch.device("cpu")

Verdict = Literal["ok", "note", "failed"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    verdict: Verdict
    what: str
    found: str


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a model takes."""

    device: str
    engine: str
    size: str
    """Of what it read: voxels, or samples."""
    build_s: float
    stages_s: Mapping[str, float]
    """Median of each stage."""


def verify_model(name: str, settings: Settings) -> list[Check]:
    """Approval, metadata, network, and a dry run with all its results validated. What depends on a thing that failed is
    left out.

    Raises ConfigurationError if there is no such model.
    """
    package = find_package(name, settings)
    if package.model is None or package.state not in USABLE:
        return [Check(verdict="failed", what="approved, and its manifest in order", found=package.reason)]
    _quiet()
    checks = list(_on_paper(package.model))
    if all(check.verdict != "failed" for check in checks):
        checks += _in_practice(package.model, settings)
    return checks


def time_model(name: str, settings: Settings, *, repeats: int) -> Timing:
    """Build a model and let it read a study ``repeats`` times. Raises what reading a study raises."""
    model = find_model(name, installed_models(settings))
    started = time.perf_counter()
    runner = BundleRunner(model, device=choose_device(settings.worker.device), prepared=settings.prepared_home)
    build_s = time.perf_counter() - started
    try:
        runs = [rehearse(runner) for _ in range(repeats)]
    finally:
        runner.close()
    seconds = [run.reading.summary["seconds"] for run in runs]
    return Timing(
        device=str(runner.device),
        engine=runner.engine,
        size=_size(runs[0].reading.source),
        build_s=build_s,
        stages_s={stage: statistics.median(each[stage] for each in seconds) for stage in seconds[0]},
    )


def _size(source: SourceVolume | SourceWaveform) -> str:
    if isinstance(source, SourceWaveform):
        return f"{source.waveform.samples.size:,} samples"
    return f"{int(np.prod(source.volume.spatial_shape)):,} voxels"


def _quiet() -> None:
    """MONAI's checks say on the terminal what they were given."""
    for name in ("monai.bundle.scripts", "monai.apps"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _on_paper(model: InstalledModel) -> Iterator[Check]:
    try:
        digest = model.digest()
    except CoreadError as error:
        yield Check(verdict="failed", what="every file is as it was approved", found=str(error))
        return
    yield Check(verdict="ok", what="every file is as it was approved", found=f"digest {digest[:16]}")
    path = metadata_file(model.folder)
    if path is not None:
        try:
            verify_metadata(meta_file=str(path), filepath=str(METADATA_SCHEMA))
        except Exception as error:  # noqa: BLE001  # MONAI raises what its schema library does
            # The zoo's own bundles leave out some of what the specification wants.
            yield Check(verdict="note", what="metadata by the specification", found=_first_line(error))
        else:
            yield Check(verdict="ok", what="metadata by the specification", found="complete")


def _in_practice(model: InstalledModel, settings: Settings) -> Iterator[Check]:
    yield from _network(model)
    try:
        runner = BundleRunner(model, device=choose_device(settings.worker.device))
    except CoreadError as error:
        yield Check(verdict="failed", what="builds", found=str(error))
        return
    try:
        yield Check(verdict="ok", what="builds", found=f"on {runner.device}")
        run = rehearse(runner)
    except CoreadError as error:
        yield Check(verdict="failed", what="reads a study made to its manifest", found=str(error))
        return
    finally:
        runner.close()
    summary = run.reading.summary
    for what in summary["adapted"]:
        yield Check(verdict="note", what="had to be adapted", found=what)
    how = f"{len(run.reading.objects)} objects; volumes by {summary['way']}; {summary['seconds']['infer']:.2f} s"
    yield Check(verdict="ok", what="reads a study made to its manifest", found=how)
    yield _results(run)


def _network(model: InstalledModel) -> Iterator[Check]:
    """MONAI's own check that the network takes and gives what the metadata say."""
    what = "network as the metadata say"
    if model.allowed and has_python(model.folder):
        yield Check(verdict="note", what=what, found="not checked: the bundle's own code would run in this process")
        return
    try:
        configuration = find_configuration(model.folder)
    except ModelError as error:
        yield Check(verdict="failed", what=what, found=str(error))
        return
    if "network_def" not in read_configuration(configuration, {}):
        yield Check(verdict="note", what=what, found="not checked: there is no network_def")
        return
    try:
        with today(CPU, trust=NO_TRUST, acted=lambda _what: None, loaded=lambda _network, _missing: None):
            verify_net_in_out(
                net_id="network_def",
                meta_file=str(metadata_file(model.folder)),
                config_file=str(configuration),
                device="cpu",
                p=1,
                n=1,
                any=32,
            )
    except Exception as error:  # noqa: BLE001  # a bundle is foreign code
        yield Check(verdict="note", what=what, found=_first_line(error))
    else:
        yield Check(verdict="ok", what=what, found="takes and gives what they say")


def _results(run: Rehearsal) -> Check:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, result in enumerate(run.reading.objects):
            paths.append(Path(folder) / f"{number}-{result.kind}.dcm")
            paths[-1].write_bytes(result.file())
        judgements = validate_files(paths, source=None) if paths else []
    wrong = [judgement for judgement in judgements if judgement.has_errors]
    if wrong:
        problem = next(each for each in wrong[0].problems if each.severity is Severity.ERROR)
        return Check(
            verdict="failed", what="results are valid DICOM", found=f"{wrong[0].file.name}: {problem.expected}"
        )
    kinds = ", ".join(sorted(str(result.kind) for result in run.reading.objects)) or "nothing to say"
    return Check(verdict="ok", what="results are valid DICOM", found=kinds)


def _first_line(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first, *_ = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {first}"

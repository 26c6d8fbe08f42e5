"""How busy the device is while a worker does the studies that wait for it: all of Coread, with overlap and without."""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydicom.dataset import Dataset

from coread.benchmarks.no_op import NAME, THRESHOLD, approve, write_no_op_model
from coread.dicom_files import series_of, write_files
from coread.errors import ArchiveUnavailable
from coread.job import ENDED, JobState
from coread.ledger import Ledger
from coread.orthanc_process import child_environment, free_port
from coread.settings import load_settings
from coread.supervisor import Supervisor
from coread.timeline import Row, devices_of, rows_of
from coread.volume import Volume

Shape = tuple[int, int, int]
END_TIMEOUT_S = 1800.0

SETTINGS = """
data_folder = "data"
[orthanc]
http_port = {http_port}
dicom_port = {dicom_port}
[intake]
quiet_s = 2
poll_s = 0.1
[worker]
processes = 0
overlap = {overlap}
[models]
folders = ["models"]
[[route]]
name = "all"
models = ["{model}"]
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is read, and by what."""

    network: Mapping[str, Any]
    """As in a bundle's configuration."""
    studies: int = 20
    shape: Shape = (60, 512, 512)
    """Slices, rows, columns."""


def waiting(seconds: float, **more: Any) -> Load:
    """A network as on a GPU: the processor is free meanwhile."""
    return Load(network={"_target_": "coread.benchmarks.stand_in.Waits", "seconds": seconds}, **more)


def computing(windows: int, **more: Any) -> Load:
    """A network on the processor: a CT UNet over so many windows of 96³."""
    return Load(network={"_target_": "coread.benchmarks.stand_in.Computes", "windows": windows}, **more)


SMALL = waiting(0.5, studies=4, shape=(5, 24, 20))
"""Enough to see that it runs."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of the time between the first study in the model and the last, how much the model was at work."""

    way: str
    share: float
    per_study_s: float
    """From one study's begin in the model to the next one's, on average."""


def overlap(folder: Path, load: Load, *, repeats: int = 1) -> list[Share]:
    """Both ways in turn, medians. Raises ArchiveUnavailable if a study was not read."""
    ways = {"one study at a time": False, "overlapped": True}
    found: dict[str, list[Share]] = {way: [] for way in ways}
    for number in range(repeats):
        for way, is_overlapped in ways.items():
            rows = timed(folder / f"{way} {number}", load, is_overlapped=is_overlapped)
            (device,) = devices_of(rows)
            found[way].append(Share(way=way, share=device.share, per_study_s=device.of_s / device.jobs))
    return [
        Share(
            way=way,
            share=statistics.median(each.share for each in shares),
            per_study_s=statistics.median(each.per_study_s for each in shares),
        )
        for way, shares in found.items()
    ]


def timed(folder: Path, load: Load, *, is_overlapped: bool) -> list[Row]:
    """When each stage of each study ran that waited for one worker. Raises ArchiveUnavailable if one was not read."""
    settings_file = _settings_file(folder, load, is_overlapped=is_overlapped)
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        ledger = Ledger(running.settings.ledger_url)
        with httpx.Client(base_url=running.http_url, timeout=60, trust_env=False) as http:
            for number in range(load.studies):
                for file in write_files(_study(number, load.shape), folder / "sent"):
                    http.post("/instances", content=file.read_bytes()).raise_for_status()
                    file.unlink()
        _wait(running, ledger, load.studies, {JobState.QUEUED})
        with _worker(settings_file, folder / "worker.log"):
            _wait(running, ledger, load.studies, ENDED)
        records = ledger.jobs(limit=load.studies)
        done = sum(record.state is JobState.DONE for record in records)
        if done != load.studies:
            raise ArchiveUnavailable(f"expected {load.studies} studies to be read, found {done}; see {folder}")
        return rows_of(records)


def _settings_file(folder: Path, load: Load, *, is_overlapped: bool) -> Path:
    folder.mkdir(parents=True)
    write_no_op_model(folder / "models")
    configuration = folder / "models" / NAME / "configs" / "inference.json"
    content = json.loads(configuration.read_text(encoding="utf-8"))
    configuration.write_text(json.dumps({**content, "network_def": load.network}), encoding="utf-8")
    file = folder / "coread.toml"
    ports = {"http_port": free_port(), "dicom_port": free_port()}
    said = SETTINGS.format(**ports, overlap=str(is_overlapped).lower(), model=NAME)
    file.write_text(said, encoding="utf-8")
    approve(NAME, load_settings(file))
    return file


def _wait(running: Supervisor, ledger: Ledger, studies: int, states: "set[JobState] | frozenset[JobState]") -> None:
    deadline = time.monotonic() + END_TIMEOUT_S

    def reached() -> bool:
        found = [record.state for record in ledger.jobs(limit=studies)]
        return time.monotonic() > deadline or (len(found) >= studies and set(found) <= states)

    running.watch(reached, pause_s=0.2)


@contextlib.contextmanager
def _worker(settings_file: Path, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "coread", "worker"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=child_environment(settings_file), stdout=file, stderr=file)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _study(number: int, shape: Shape) -> Sequence[Dataset]:
    values = np.random.default_rng(number).integers(0, THRESHOLD, shape).astype(np.int16)
    inside = tuple(slice(size // 4, size // 2) for size in shape)
    values[inside] += THRESHOLD
    volume = Volume.of(values, directions=np.eye(3)[::-1], spacing=(3.0, 0.8, 0.8))
    return series_of(
        volume,
        modality="MR",
        name=f"benchmark overlap {number}",
        patient_id="BENCHMARK",
        patient_name="BENCHMARK^GENERATED",
        study_description="generated",
        series_description="generated",
        body_part="ABDOMEN",
    )

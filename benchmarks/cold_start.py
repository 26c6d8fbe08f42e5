"""How long a worker takes from its start until it is ready for jobs, beside the libraries that every model needs."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coread.errors import ConfigurationError
from coread.ledger import Ledger
from coread.orthanc_process import child_environment
from coread.settings import load_settings

READY = '"event": "worker ready"'
FLOOR = "floor"
SETTINGS = 'data_folder = "data"\n'
"""The default routes."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A way to start: the medians of its seconds and of the memory that it held then."""

    way: str
    seconds: float
    to_floor: float
    held_mb: float


def cold_start(folder: Path, *, repeats: int) -> list[Start]:
    """In turn: a worker until it says that it is ready, and Python until it has loaded torch and MONAI.

    Neither Orthanc nor a broker runs: a worker with files for a broker and SQLite for a ledger needs none to be ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings_file = folder / "coread.toml"
    settings_file.write_text(SETTINGS, encoding="utf-8")
    Ledger(load_settings(settings_file).ledger_url).migrate()
    ways: Mapping[str, Callable[[], tuple[float, float]]] = {
        FLOOR: lambda: _until("loaded", ["-c", "import torch, monai; print('loaded', flush=True); input()"], None),
        "coread worker": lambda: _until(READY, ["-m", "coread", "worker"], settings_file),
    }
    for way in ways.values():
        way()  # to warm up: files of modules and kernels are in the system's memory then
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    seconds = {name: statistics.median(each for each, _ in measured) for name, measured in found.items()}
    return [
        Start(
            way=name,
            seconds=seconds[name],
            to_floor=seconds[name] / seconds[FLOOR],
            held_mb=statistics.median(each for _, each in measured),
        )
        for name, measured in found.items()
    ]


def _until(said: str, arguments: list[str], settings_file: Path | None) -> tuple[float, float]:
    """Seconds until a Python process has said something, and the MiB that it held then."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=child_environment(settings_file),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if said in line:
                seconds = time.perf_counter() - started
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                process.terminate()
                process.communicate()
                return seconds, int(status.partition("VmRSS:")[2].split()[0]) / 1024
    raise ConfigurationError(f"expected {said}, found an end: {''.join(lines)[-1000:]}")

"""Runs the ways to do one thing in turn, so that what else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way: the median of its wall times, its ratio to the floor's, and the memory it needed at its peak."""

    name: str
    seconds: float
    to_floor: float
    peak_mb: float | None
    file_mb: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to do it. ``run`` returns the file it wrote, if any; ``note`` says what else its time holds."""

    run: Callable[[], Path | None]
    note: str = ""
    in_process: bool = True
    """Whether its memory is this process's."""


def compare(ways: Mapping[str, Way], *, floor: str, repeats: int) -> list[Row]:
    """Each way once to warm up and for its memory, then ``repeats`` interleaved rounds."""
    peaks: dict[str, float | None] = {}
    sizes: dict[str, float | None] = {}
    for name, way in ways.items():
        way.run()
        _remove(way.run())
        peaks[name], path = _peak_mb(way.run)
        sizes[name] = path.stat().st_size / MEBIBYTE if path else None
        _remove(path)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            path = way.run()
            seconds[name].append(time.perf_counter() - started)
            _remove(path)  # to overwrite a file costs more than to write a new one
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return [
        Row(
            name=name,
            seconds=medians[name],
            to_floor=medians[name] / medians[floor],
            peak_mb=peaks[name] if way.in_process else None,
            file_mb=sizes[name],
            note=way.note,
        )
        for name, way in ways.items()
    ]


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _peak_mb(run: Callable[[], Path | None]) -> tuple[float, Path | None]:
    """How much more memory the process had at its peak than before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew: proc(5)
    before = _status_mb("VmRSS")
    path = run()
    return _status_mb("VmHWM") - before, path


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))

"""Runs the ways to do one thing in turn, so that what else the machine does falls on all of them alike."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1024 * 1024


SLOW_S = 5.0
"""A way that takes longer is warmed up once only, and measured in fewer rounds."""
ROUNDS_OF_SLOW = 3

OURS, FLOOR = "coread", "floor"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way: the ratio of its median wall time to the floor's and to ours, the median, and the memory at its peak."""

    name: str
    seconds: float
    to_floor: float | None
    to_coread: float | None
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


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A way that is not installed, and how to install it."""

    install: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """The ways that were measured, and those that were not."""

    rows: list[Row]
    left_out: tuple[str, ...] = ()
    """A sentence each: what it is, and how to install it."""


def peer(module: str, way: Callable[[], Way]) -> Way | Absent:
    """The way of a peer, if its module is installed."""
    if importlib.util.find_spec(module) is None:
        return Absent(install=INSTALL.get(module, "pip install 'coread[bench]'"))
    return way()


INSTALL = {"totalsegmentator": "pip install --no-deps TotalSegmentator tqdm"}
"""All else is in the extra; of this one only the statistics are used, which need hardly any of its dependencies."""


def compare(ways: Mapping[str, Way | Absent], *, repeats: int) -> Result:
    """Each way once or more to warm up and for its memory, then ``repeats`` interleaved rounds. Ratios are to the ways
    that are called FLOOR and OURS.
    """
    there = {name: way for name, way in ways.items() if isinstance(way, Way)}
    peaks: dict[str, float | None] = {}
    sizes: dict[str, float | None] = {}
    rounds: dict[str, int] = {}
    for name, way in there.items():
        started = time.perf_counter()
        peaks[name], path = _peak_mb(way.run)
        is_slow = time.perf_counter() - started > SLOW_S
        if not is_slow:
            way.run()  # now it is warm: what is compiled or loaded once counts for nobody's memory
            peaks[name], path = _peak_mb(way.run)
        rounds[name] = min(repeats, ROUNDS_OF_SLOW) if is_slow else repeats
        sizes[name] = path.stat().st_size / MEBIBYTE if path else None
        _remove(path)
    seconds: dict[str, list[float]] = {name: [] for name in there}
    for number in range(repeats):
        for name, way in there.items():
            if number < rounds[name]:
                started = time.perf_counter()
                path = way.run()
                seconds[name].append(time.perf_counter() - started)
                _remove(path)  # to overwrite a file costs more than to write a new one
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    rows = [
        Row(
            name=name,
            seconds=medians[name],
            to_floor=_ratio(medians[name], medians.get(FLOOR)),
            to_coread=_ratio(medians[name], medians.get(OURS)),
            peak_mb=peaks[name] if way.in_process else None,
            file_mb=sizes[name],
            note=way.note,
        )
        for name, way in there.items()
    ]
    return Result(rows=rows, left_out=left_out_of(ways))


def left_out_of(ways: Mapping[str, Way | Absent]) -> tuple[str, ...]:
    """Of each way that is not installed, how to install it."""
    return tuple(f"{name}: not installed ({way.install})" for name, way in ways.items() if isinstance(way, Absent))


def _ratio(seconds: float, to: float | None) -> float | None:
    return None if to is None else seconds / to


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _peak_mb(run: Callable[[], Path | None]) -> tuple[float, Path | None]:
    """How much more memory the process had at its peak than before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew: proc(5)
    before = status_mb("VmRSS")
    path = run()
    return status_mb("VmHWM") - before, path


def status_mb(key: str) -> float:
    """A line of what the kernel says of this process: VmRSS, or VmHWM, its highest so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))

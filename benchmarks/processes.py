"""Ways that run each in a process of its own, kept warm, and in turn: so the memory of each can be told."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coread.benchmarks.comparison import status_mb

RESERVE = 2 * 1024**3
"""Bytes that are left to all others."""


@dataclass(frozen=True, kw_only=True)
class Lap:
    """One run. ``network_s``: how much of the time the network took; ``found``: number of voxels by label."""

    seconds: float
    network_s: float = 0.0
    found: Mapping[int, int] | None = None

    @property
    def around_s(self) -> float:
        """What everything around the network took."""
        return self.seconds - self.network_s


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a run says of itself."""

    network_s: float = 0.0
    found: Mapping[int, int] | None = None


Make = Callable[..., Callable[[], Done]]
"""Prepares a way, in its process."""


class WayInProcess:
    """A way in a process of its own, while a ``with`` block lasts."""

    def __init__(self, make: Make, **arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def run(self) -> Lap:
        """Run it once. Raises RuntimeError if it fails."""
        lap, _ = self._asked()
        return lap

    def run_for_memory(self) -> tuple[Lap, float]:
        """Run it once; and how much memory the process had at its peak so far, in MB, with all that it imports."""
        return self._asked()

    def _asked(self) -> tuple[Lap, float]:
        self._here.send(None)
        while not self._here.poll(1):
            if not self._process.is_alive():
                raise RuntimeError(f"the way ended with status {self._process.exitcode}; was the memory too small?")
        lap, peak_mb, failure = self._here.recv()
        if failure:
            raise RuntimeError(failure)
        return lap, peak_mb


def _keep_within_memory() -> None:
    """From now on let this process fail by itself where it wants more memory than there is: else the kernel might end
    somebody else's.
    """
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    resource.setrlimit(resource.RLIMIT_DATA, (available - RESERVE, resource.RLIM_INFINITY))


def _serve(connection: "Connection[Any, Any]", make: Make, arguments: Mapping[str, Any]) -> None:
    run = None
    _keep_within_memory()
    while True:
        connection.recv()
        try:
            run = run or make(**arguments)
            started = time.perf_counter()
            done = run()
            lap = Lap(seconds=time.perf_counter() - started, network_s=done.network_s, found=done.found)
            connection.send((lap, status_mb("VmHWM"), ""))
        except Exception as error:  # noqa: BLE001  # it goes on in the process that asked
            connection.send((None, 0.0, f"{type(error).__name__}: {error}"))

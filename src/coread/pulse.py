"""Tells the ledger every few seconds that a process lives, and how it is."""

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from coread import __version__
from coread.errors import LedgerUnavailable
from coread.logs import logger
from coread.process_report import TOLD_EVERY_S, Gpu, ProcessKind, ProcessReport

STATM = Path("/proc/self/statm")
"""The kernel's word on this process's memory, in pages; the second number is what it holds (proc(5))."""

GOODBYE_S = 3.0
"""A process that ends waits no longer for a ledger that hangs; it is missed a minute later then."""


class Registry(Protocol):
    """What is told: the ledger, or the plugin that speaks for it."""

    def note_alive(self, report: ProcessReport, *, at: datetime) -> None: ...

    def forget_process(self, name: str) -> None: ...


class Pulse(AbstractContextManager[None]):
    """Tells inside the block, in a thread of its own; at its end, that the process is gone.

    Nothing waits for it and nothing depends on it: a ledger that is away is told nothing.
    """

    def __init__(
        self,
        ledger: Registry,
        *,
        name: str,
        kind: ProcessKind,
        queues: Sequence[str] = (),
        models: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
        gpus: Callable[[], Sequence[Gpu]] = tuple,
        every_s: float = TOLD_EVERY_S,
    ) -> None:
        self._ledger, self._name, self._kind = ledger, name, kind
        self._queues, self._models, self._gpus = tuple(queues), models, gpus
        self._every_s = every_s
        self._started_at = datetime.now(UTC)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coread-pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(GOODBYE_S)

    def report(self) -> ProcessReport:
        """How this process is now."""
        return ProcessReport(
            name=self._name,
            kind=self._kind,
            host=socket.gethostname(),
            version=__version__,
            started_at=self._started_at,
            told_at=datetime.now(UTC),
            memory_bytes=held_bytes(),
            queues=self._queues,
            models=self._models(),
            gpus=self._gpus(),
        )

    def _run(self) -> None:
        while True:
            try:
                self._ledger.note_alive(self.report(), at=datetime.now(UTC))
            except LedgerUnavailable as error:
                logger().debug("not told how this process is", reason=str(error))
            except Exception:  # noqa: BLE001  # a process that works must not look dead, or die, because of this
                logger().exception("not told how this process is")
            if self._over.wait(self._every_s):
                break
        try:
            self._ledger.forget_process(self._name)
        except LedgerUnavailable as error:
            logger().warning("that this process ends is not told", reason=str(error))


def held_bytes() -> int:
    """What this process holds of the machine's memory."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

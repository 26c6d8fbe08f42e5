"""Keeps alive what is held for a limited time only, from a thread of its own."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

from coread.logs import logger

HEARTBEATS_PER_LEASE = 4


class Lease:
    """Renews a lease of ``length`` in good time while the block runs; for ``limit_s`` at most.

    When that time is over, ``overrun`` is called, in that thread, and the lease is left to end.
    """

    def __init__(
        self,
        renew: Callable[[], object],
        *,
        length: timedelta,
        limit_s: float = float("inf"),
        overrun: Callable[[], None] = lambda: None,
    ) -> None:
        self._renew, self._every_s = renew, length.total_seconds() / HEARTBEATS_PER_LEASE
        self._limit_s, self._overrun = limit_s, overrun
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="coread-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        deadline = time.monotonic() + self._limit_s
        while not self._over.wait(min(self._every_s, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                self._overrun()
                return
            try:
                self._renew()
            except Exception:  # noqa: BLE001  # the next beat makes up for it; without the thread the lease ends
                logger().exception("lease not renewed")

"""Notices that an Orthanc hangs: its process runs and has answered before, and does not answer any more.

Whoever runs the process kills it then. Nothing is lost by that: what Orthanc has taken is on the disk and in its index,
and the sender keeps what it has not.
"""

import threading
import time
from collections.abc import Callable

import httpx

from coread.settings import Settings

HUNG = "process runs and does not answer; killed"
"""What is said in the log of whoever kills it."""
MISSES = 12
"""So many questions in a row must have no answer, besides the time: a machine that was suspended has missed one."""
SHORTEST_TIMEOUT_S = 1.0


def pause_of(silent_s: float) -> float:
    """Seconds between two questions, and as many for an answer, so that ``MISSES`` take no more than ``silent_s``."""
    return silent_s / MISSES / 2


class Watchdog:
    """Asks, in a thread, whether one process lives, from its start to its end."""

    def __init__(
        self, answers: Callable[[], bool], *, silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``answers``: asks once. ``silent_s``: without an answer for so long, the process hangs; 0: it never does."""
        self._answers, self._silent_s, self._clock = answers, silent_s, clock
        self._pause_s = pause_of(silent_s)
        self._stop = threading.Event()
        self._answered_at: float | None = None
        self._missed = 0
        self._thread = threading.Thread(target=self._run, name="coread-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        if self._pause_s > 0:
            self._thread.start()

    def stop(self) -> None:
        """Ask no more: the process has ended or is to end. Nobody waits for the thread, which may await an answer."""
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        """Whether it asks no more."""
        return self._stop.is_set()

    @property
    def is_hung(self) -> bool:
        """Whether the process hangs. One that has never answered starts yet: a large index takes its time."""
        if self._answered_at is None or self._missed < MISSES or self.is_stopped:
            return False
        return self._clock() - self._answered_at >= self._silent_s

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            self.note(answered=self._answers())

    def note(self, *, answered: bool) -> None:
        """Take down one answer, or that there was none."""
        if answered:
            self._answered_at, self._missed = self._clock(), 0
        else:
            self._missed += 1


def watchdog_of(settings: Settings) -> Watchdog:
    """The watchdog of the Orthanc that is started on this machine with these settings.

    Whatever the plugin answers is an answer, "not alive", too: a restart would only interrupt an intake that has much
    to do. Orthanc itself turns away who gives no password, so the question gives it.
    """
    silent_s = settings.orthanc.restart_silent_s
    url = f"http://127.0.0.1:{settings.orthanc.http_port}/coread/health/live"
    client = httpx.Client(
        auth=settings.orthanc_login,
        headers={"Connection": "close"},  # of Orthanc's threads none is kept for it
        timeout=max(pause_of(silent_s), SHORTEST_TIMEOUT_S),
        trust_env=False,
        verify=False,  # noqa: S501  # there is no TLS here, so certificates need not be read
    )

    def answers() -> bool:
        try:
            client.get(url)
        except httpx.TransportError:
            return False
        return True

    return Watchdog(answers, silent_s=silent_s)

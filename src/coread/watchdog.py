"""Notices that an Orthanc hangs: its process runs and has answered before, and does not answer any more.

Whoever runs the process kills it then. Nothing is lost by that: what Orthanc has taken is on the disk and in its index,
and the sender keeps what it has not.
"""

import threading
from collections.abc import Callable

import httpx

from coread.settings import Settings

MISSES = 12
"""So many questions in a row must stay without an answer. A machine that was suspended has missed one."""
SHORTEST_TIMEOUT_S = 1.0


def pause_of(silent_s: float) -> float:
    """Seconds between two questions, and as many for an answer, so that ``MISSES`` take ``silent_s``."""
    return silent_s / MISSES / 2


class Watchdog:
    """Asks, in a thread, whether one process lives, from its start to its end."""

    def __init__(self, lives: Callable[[], bool], *, silent_s: float) -> None:
        """``lives``: asks once. ``silent_s``: without an answer for so long, the process hangs; 0: it never does."""
        self._lives = lives
        self._pause_s = pause_of(silent_s)
        self._stop = threading.Event()
        self._has_lived = False
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
    def is_hung(self) -> bool:
        """Whether the process hangs. One that has never answered starts yet: a large index takes its time."""
        return self._has_lived and self._missed >= MISSES and not self._stop.is_set()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            self.note(lives=self._lives())

    def note(self, *, lives: bool) -> None:
        """Take down one answer, or that there was none."""
        self._missed = 0 if lives else self._missed + 1
        self._has_lived |= lives


def watchdog_of(settings: Settings) -> Watchdog:
    """The watchdog of the Orthanc that is started on this machine with these settings."""
    silent_s = settings.orthanc.restart_silent_s
    timeout_s = max(pause_of(silent_s), SHORTEST_TIMEOUT_S)
    url = f"http://127.0.0.1:{settings.orthanc.http_port}/coread/health/live"

    def lives() -> bool:
        try:
            answer = httpx.get(url, auth=settings.orthanc_login, timeout=timeout_s, trust_env=False)
        except httpx.TransportError:
            return False
        return not answer.is_server_error  # 503: the intake does not live. Whoever refuses us does.

    return Watchdog(lives, silent_s=silent_s)

"""``coread up``: Orthanc with the plugin, workers and the courier, started, restarted if need be, and stopped."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

import httpx

from coread.errors import ConfigurationError
from coread.ledger import Ledger
from coread.logs import logger
from coread.models.catalogue import check_routes, installed_models
from coread.orthanc_process import (
    child_environment,
    die_with_parent,
    find_orthanc,
    free_port,
    lock_data_folder,
    write_configuration,
)
from coread.routes import check_keywords
from coread.settings import Settings
from coread.watchdog import HUNG, Watchdog, watchdog_of
from coread.workers.route_facts import pydicom_dictionary

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
"""A worker ends the job in hand first; after this it is killed, and the job is taken up at the next start."""
LONGEST_BACK_OFF_S = 30.0
STABLE_AFTER_S = 60.0
"""A process that lived this long is restarted at once; one that dies sooner waits longer each time."""
EXIT_CONFIGURATION = 2
"""The exit status by which a child says that restarting it is of no use."""
GPUS = Path("/proc/driver/nvidia/gpus")
"""Has an entry for each of NVIDIA's GPUs, and can be counted without loading CUDA."""


@dataclass
class Child:
    """One supervised process and its log."""

    name: str
    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    watched_by: Callable[[], Watchdog] | None = None
    """Makes what notices that the process hangs, anew at each start."""
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    has_proved_itself: bool = False
    """Whether it ever lived for STABLE_AFTER_S."""
    _output: IO[bytes] | None = field(default=None, repr=False)
    _watchdog: Watchdog | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process in a session of its own, so that a Ctrl-C reaches only the supervisor."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._output = self._output or self.log.open("ab")
        self.process = subprocess.Popen(
            self.command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.started_at = time.monotonic()
        if self.watched_by is not None:
            self._watchdog = self.watched_by()
            self._watchdog.start()

    def stop(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        self._stop_watchdog()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                logger().warning("process does not stop; killed", process=self.name)
                self.process.kill()
                self.process.wait()
        if self._output is not None:
            self._output.close()
            self._output = None

    def revive(self) -> None:
        """Restart the process if it has ended, or hangs. Raises ConfigurationError if that is of no use.

        A process that has proved itself meets a settings file that was broken since: it comes back when that is
        mended, and the others go on with the settings that they have.
        """
        if self.process is None:
            return
        if self.process.poll() is None:
            if self._watchdog is not None and self._watchdog.is_hung:
                logger().error(HUNG, process=self.name)
                self._stop_watchdog()
                self.process.kill()  # it is found dead as soon as it is: one that waits for a disk takes its time
            return
        self._stop_watchdog()
        now = time.monotonic()
        if self.restart_at <= self.started_at:  # just found dead
            status = self.process.returncode
            self.has_proved_itself |= now - self.started_at > STABLE_AFTER_S
            if status == EXIT_CONFIGURATION and not self.has_proved_itself:
                raise ConfigurationError(f"{self.name} cannot run; the reason stands at the end of {self.log}")
            self.failures = 0 if now - self.started_at > STABLE_AFTER_S else self.failures + 1
            wait_s = min(LONGEST_BACK_OFF_S, 2.0 ** (self.failures - 1)) if self.failures else 0.0
            self.restart_at = now + wait_s
            logger().warning("process ended; restarting", process=self.name, status=status, wait_s=wait_s)
        if now >= self.restart_at:
            self.start()

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()


class Supervisor:
    """Everything on this machine, as a context manager: running inside the block, stopped after it."""

    def __init__(self, settings: Settings, *, settings_file: Path | None) -> None:
        """Choose the ports. Raises ConfigurationError if a route's model or Orthanc is not installed, or a route
        matches what is no keyword.
        """
        check_routes(settings, installed_models(settings))
        check_keywords(settings.route, pydicom_dictionary)
        chosen = {"http_port": settings.orthanc.http_port or free_port()}
        chosen["dicom_port"] = settings.orthanc.dicom_port or free_port()
        self.settings = settings.model_copy(update={"orthanc": settings.orthanc.model_copy(update=chosen)})
        self._executable = find_orthanc(settings)
        self._environment = child_environment(settings_file)
        for key, port in chosen.items():
            self._environment[f"COREAD_ORTHANC__{key.upper()}"] = str(port)
        self._children: list[Child] = []
        self._lock: IO[str] | None = None

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.orthanc.http_port}"

    @property
    def page_url(self) -> str:
        """Where the worklist's page is."""
        return f"{self.http_url}/coread/ui"

    def __enter__(self) -> Self:
        self._lock = lock_data_folder(self.settings.data_folder)
        try:
            for port in (self.settings.orthanc.http_port, self.settings.orthanc.dicom_port):
                _require_free(port)
            if self.settings.delivery.port:
                _require_free(self.settings.delivery.port)
            Ledger(self.settings.ledger_url).migrate()
            command = [self._executable, str(write_configuration(self.settings))]
            self._start("orthanc", command, watched_by=partial(watchdog_of, self.settings))
            self._wait_until_ready()
            for number, environment in enumerate(_workers(self.settings), start=1):
                name = "worker" if number == 1 else f"worker-{number}"
                self._start(name, [sys.executable, "-m", "coread", "worker"], environment)
            if self.settings.destination:
                self._start("courier", [sys.executable, "-m", "coread", "courier"])
            if not self.settings.ledger_url.startswith(("http:", "https:")):
                self._start("archivist", [sys.executable, "-m", "coread", "archivist"])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def watch(self, until: Callable[[], bool], *, pause_s: float = 0.5) -> None:
        """Restart what dies or hangs, until ``until`` says stop."""
        while not until():
            for child in self._children:
                child.revive()
            time.sleep(pause_s)

    def _start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] = MappingProxyType({}),
        *,
        watched_by: Callable[[], Watchdog] | None = None,
    ) -> None:
        child = Child(
            name=name,
            command=command,
            log=self.settings.log_folder / f"{name}.log",
            environment={**self._environment, **environment},
            watched_by=watched_by,
        )
        self._children.append(child)
        child.start()

    def _stop(self) -> None:
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        if self._lock is not None:
            self._lock.close()

    def _wait_until_ready(self) -> None:
        (orthanc,) = self._children
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if orthanc.process is None or orthanc.process.poll() is not None:
                break
            try:
                login = self.settings.orthanc_login
                if httpx.get(f"{self.http_url}/coread/health", auth=login, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.1)
        raise ConfigurationError(
            f"Orthanc did not start within {START_TIMEOUT_S:g} s; the reason stands at the end of {orthanc.log}"
        )


def _workers(settings: Settings) -> list[dict[str, str]]:
    """The environment of each worker that is started: with several GPUs, each has one of its own."""
    gpus = len(list(GPUS.glob("*"))) if settings.worker.device != "cpu" else 0
    wanted = settings.worker.processes
    count = max(1, gpus) if wanted == "auto" else wanted
    return [{"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus > 1 else {} for number in range(count)]


def run_until_stopped(
    settings: Settings, *, settings_file: Path | None, announce: Callable[[Supervisor], None]
) -> None:
    """``coread up``: run until SIGINT or SIGTERM, then stop everything."""
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: asked.append(received))
    with Supervisor(settings, settings_file=settings_file) as running:
        announce(running)
        running.watch(lambda: bool(asked))


def _require_free(port: int) -> None:
    """Raises ConfigurationError if a program listens on the port: its answers would be taken for our Orthanc's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} is taken by another program, such as Debian's own Orthanc service or another Coread; "
                "stop it, or set orthanc.http_port, orthanc.dicom_port or delivery.port to another port"
            ) from error

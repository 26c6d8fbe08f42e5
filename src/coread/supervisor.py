"""``coread up``: Orthanc with the plugin and a worker, started together, restarted if one dies, stopped together."""

import ctypes
import fcntl
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import IO, Self

import httpx

from coread.errors import ConfigurationError
from coread.ledger import Ledger
from coread.logs import logger
from coread.models.catalogue import check_routes, installed_models
from coread.orthanc_process import child_environment, free_port, write_configuration
from coread.settings import Settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
"""A worker ends the job in hand first; after this it is killed, and the job is taken up at the next start."""
LONGEST_BACK_OFF_S = 30.0
STABLE_AFTER_S = 60.0
"""A process that lived this long is restarted at once; one that dies sooner waits longer each time."""
EXIT_CONFIGURATION = 2
"""The exit status by which a child says that restarting it is of no use."""
PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One supervised process and its log."""

    name: str
    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    _output: IO[bytes] | None = field(default=None, repr=False)

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
            preexec_fn=_die_with_parent,
        )
        self.started_at = time.monotonic()

    def stop(self) -> None:
        """Ask the process to end, and kill it if it does not."""
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
        """Restart the process if it has ended. Raises ConfigurationError if that is of no use."""
        if self.process is None or self.process.poll() is None:
            return
        now = time.monotonic()
        if self.restart_at <= self.started_at:  # just found dead
            status = self.process.returncode
            if status == EXIT_CONFIGURATION:
                raise ConfigurationError(f"{self.name} cannot run; the reason stands at the end of {self.log}")
            self.failures = 0 if now - self.started_at > STABLE_AFTER_S else self.failures + 1
            wait_s = min(LONGEST_BACK_OFF_S, 2.0 ** (self.failures - 1)) if self.failures else 0.0
            self.restart_at = now + wait_s
            logger().warning("process ended; restarting", process=self.name, status=status, wait_s=wait_s)
        if now >= self.restart_at:
            self.start()


class Supervisor:
    """Everything on this machine, as a context manager: running inside the block, stopped after it."""

    def __init__(self, settings: Settings, *, settings_file: Path | None) -> None:
        """Choose the ports. Raises ConfigurationError if a route's model or Orthanc is not installed."""
        check_routes(settings, installed_models(settings))
        chosen = {"http_port": settings.orthanc.http_port or free_port()}
        chosen["dicom_port"] = settings.orthanc.dicom_port or free_port()
        self.settings = settings.model_copy(update={"orthanc": settings.orthanc.model_copy(update=chosen)})
        self._executable = which(settings.orthanc.executable)
        if self._executable is None:
            raise ConfigurationError(
                f"expected Orthanc as {settings.orthanc.executable} on the PATH, found none; install Debian's orthanc"
            )
        self._environment = child_environment(settings_file)
        for key, port in chosen.items():
            self._environment[f"COREAD_ORTHANC__{key.upper()}"] = str(port)
        self._children: list[Child] = []
        self._lock: IO[str] | None = None

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.orthanc.http_port}"

    def __enter__(self) -> Self:
        self._lock = _lock(self.settings.data_folder)
        try:
            for port in (self.settings.orthanc.http_port, self.settings.orthanc.dicom_port):
                _require_free(port)
            Ledger(self.settings.ledger_url).migrate()
            self._start("orthanc", [str(self._executable), str(write_configuration(self.settings))])
            self._wait_until_ready()
            self._start("worker", [sys.executable, "-m", "coread", "worker"])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def watch(self, until: Callable[[], bool], *, pause_s: float = 0.5) -> None:
        """Restart what dies, until ``until`` says stop."""
        while not until():
            for child in self._children:
                child.revive()
            time.sleep(pause_s)

    def _start(self, name: str, command: Sequence[str]) -> None:
        log = self.settings.log_folder / f"{name}.log"
        child = Child(name=name, command=command, log=log, environment=self._environment)
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
                if httpx.get(f"{self.http_url}/coread/health", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.1)
        raise ConfigurationError(
            f"Orthanc did not start within {START_TIMEOUT_S:g} s; the reason stands at the end of {orthanc.log}"
        )


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


def _lock(data_folder: Path) -> IO[str]:
    data_folder.mkdir(parents=True, exist_ok=True)
    lock = (data_folder / "up.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigurationError(
            f"another `coread up` runs in {data_folder}; stop it, or set another data_folder"
        ) from error
    return lock


def _require_free(port: int) -> None:
    """Raises ConfigurationError if a program listens on the port: its answers would be taken for our Orthanc's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} is taken by another program, such as Debian's own Orthanc service or another Coread; "
                "stop it, or set orthanc.http_port and orthanc.dicom_port to other ports, or to 0"
            ) from error


def _die_with_parent() -> None:
    # If the supervisor is killed, its children must not stay behind and hold the ports.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

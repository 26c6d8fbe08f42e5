"""Databases and brokers of other people, real ones: each on a free port, with its data in a folder of its own, as a
child that dies with the test.

A service is a context manager. `kill` ends it and all that it started as a power cut would, `restart` starts it again
on the same data and port. Start and restart it from a thread that lives as long as the test: the kernel ends a child
with the thread that started it.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psycopg
import redis

from coread.orthanc_process import free_port
from tests.support import program

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
PR_SET_PDEATHSIG = 1
POSTGRESQL_FOLDERS = Path("/usr/lib/postgresql")
"""Debian keeps the server's programs of each version here, and off the PATH."""
RABBITMQ_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's own ``rabbitmq-server`` on the PATH becomes another user and moves to a folder of the system."""


class Service(ABC):
    """A server that listens on ``port`` of the loopback interface while the block runs."""

    user: str | None = None
    """Who it runs as; None: who the test runs as."""

    def __init__(self) -> None:
        self.port = free_port()
        self.kills = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary = tempfile.TemporaryDirectory(prefix=f"coread-{type(self).__name__.lower()}-")
        # Not pytest's own folder: nobody but root may look into that one, and some servers refuse to be root.
        self.folder = Path(self._temporary.name)
        self._log: IO[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, as the settings have it."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The program in the foreground, with its arguments."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it does its work."""

    def _prepare(self) -> None:
        """What is done once, before its first start."""
        return

    def _environment(self) -> Mapping[str, str]:
        return {}

    def __enter__(self) -> Self:
        try:
            self._log = (self.folder / "log.txt").open("ab")
            if self.user is not None:
                shutil.chown(self.folder, self.user)
            self._prepare()
            self.restart()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and do not wait until it answers. Nothing happens if it runs."""
        if not self.is_running:
            self._process = self._popen(self._command())

    def restart(self) -> None:
        """Start it, and wait until it answers."""
        self.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self.is_running, f"{type(self).__name__} ended at its start:\n{self.log()}"
            assert time.monotonic() < deadline, f"{type(self).__name__} does not answer:\n{self.log()}"
            time.sleep(POLL_S)

    def kill(self) -> None:
        """kill -9, of it and of every process that it started."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()
            self.kills += 1

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-4000:]

    def _popen(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **self._environment()},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            **_as_user(self.user),
        )

    def _clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._stop(self._process)
        if self._log is not None:
            self._log.close()
        self._temporary.cleanup()

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        tree = process_tree(process.pid)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        for pid in tree:
            _kill(pid)
        process.wait()


class PostgreSQL(Service):
    """PostgreSQL with one database, which anybody on this machine may use."""

    # It refuses to be root.
    user = "postgres" if os.geteuid() == 0 else None

    def __init__(self) -> None:
        super().__init__()
        self._data = self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://coread@127.0.0.1:{self.port}/postgres"

    def _prepare(self) -> None:
        command = [_postgresql("initdb"), "-D", str(self._data), "-U", "coread", "--auth=trust", "--no-sync"]
        made = self._popen([*command, "--encoding=UTF8", "--locale=C"]).wait(START_TIMEOUT_S)
        assert made == 0, self.log()

    def _command(self) -> Sequence[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "32MB"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [_postgresql("postgres"), "-D", str(self._data), "-p", str(self.port), *options]

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


class Redis(Service):
    """Redis without persistence: what it held is gone when it is killed."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> Sequence[str]:
        words = f"--bind 127.0.0.1 --port {self.port} --appendonly no"
        return [program("redis-server"), *words.split(), "--save", "", "--dir", str(self.folder)]

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=2, socket_connect_timeout=2) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


class RabbitMQ(Service):
    """RabbitMQ with a node name, a name server of Erlang's (epmd) and a cookie of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._epmd_port, self._node_port = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def _prepare(self) -> None:
        (self.folder / "plugins").write_text("[].")
        # Otherwise the first node starts one that outlives everything.
        command = [program("epmd"), "-address", "127.0.0.1", "-port", str(self._epmd_port)]
        self._epmd = self._popen(command)

    def _command(self) -> Sequence[str]:
        asked = program("rabbitmq-server")
        return [str(RABBITMQ_PROGRAM) if RABBITMQ_PROGRAM.exists() else asked]

    def _environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "1",  # the shell becomes the server, so that the server is our child
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_NODENAME": f"coread-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._node_port),
        }

    def _answers(self) -> bool:
        # The protocol's greeting (AMQP 0-9-1, section 4.2.2): a server that is ready answers it with Connection.Start.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def _clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()  # a clean end takes longer than the test
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        super()._clean_up()


def process_tree(pid: int) -> list[int]:
    """A process and its descendants, ancestors first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            children.setdefault(parent, []).append(int(entry.name))
    tree = [pid]
    for each in tree:
        tree += children.get(each, [])
    return tree


def kill_tree(pid: int) -> None:
    """kill -9 of a process and its descendants. Stopped first, so that none starts another meanwhile."""
    for each in process_tree(pid):
        _kill(each, signal.SIGSTOP)
    for each in reversed(process_tree(pid)):
        _kill(each)


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _postgresql(name: str) -> str:
    """The newest version's program. Missing: as ``program``."""
    found = sorted(POSTGRESQL_FOLDERS.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(found[-1]) if found else program(name)


def _as_user(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

"""The deployment of ``docker/``, built and started with podman where no registry and no outside network is needed.

All containers share one network namespace that has a loopback interface and nothing else, instead of a network of their
own: podman may not be allowed to make one. The names of the services are answered by a name server at the address where
Docker has its own. The compose file is taken as it is; what differs stands in an override beside it.
"""

import contextlib
import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
BASE = "localhost/debian:bookworm-slim"
"""Made by ``container-base``, which is not part of Coread, where no registry can be reached."""
TOOL = ROOT.parent / "shared" / "tools" / "container-base"
TORCH_INDEX = "https://pypi.org/simple"
"""Here only names and versions come from it: the wheel itself lies in a folder that pip is told of."""
TARGETS = ("orthanc", "worker", "postgresql", "redis", "proxy", "prometheus")
NAME_SERVER = "127.0.0.11"
CLONE_NEWNET = 0x40000000
HEALTHY_S = 300.0
LOOK_AGAIN_S = 0.5

CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"""


def skip_without_podman() -> None:
    """Skip, with the reason, where images cannot be built and run."""
    for name in ("podman", "runc", "ip"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root may make a network namespace")
    if not TOOL.exists():
        pytest.skip(f"{TOOL} is not there: it builds where no registry can be reached")
    if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode != 0:
        pytest.skip(f"podman has no image {BASE}; {TOOL} makes it")


def build_images(*, version: str) -> None:
    """Build what the compose file would build. Layers that are there already are taken."""
    for target in TARGETS:
        arguments = {"BASE": BASE, "TORCH_INDEX": TORCH_INDEX, "VERSION": version}
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        command = ["build", "--format", "docker", "--layers", "--file", str(DOCKER / "Dockerfile"), "--target", target]
        done = subprocess.run(
            ["nice", str(TOOL), *command, *given, "--tag", f"localhost/coread/{target}:{version}", str(ROOT)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a network namespace with nothing but a loopback interface."""
    name = f"coread-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with Path("/proc/thread-self/ns/net").open("rb") as before, Path(f"/run/netns/{name}").open("rb") as ours:
            _enter(ours.fileno())
            try:
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                with name_server():
                    yield
            finally:
                _enter(before.fileno())
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def name_server() -> Iterator[None]:
    """Answers every name with 127.0.0.1 (RFC 1035), as Docker's answers the services' names with their addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((NAME_SERVER, 53))
        thread = threading.Thread(target=_answer_names, args=(server,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            _wake(server)
            thread.join()


def _wake(server: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"", server.getsockname())


def _answer_names(server: socket.socket) -> None:
    while query := server.recvfrom(512):
        asked, client = query
        if not asked:
            return
        end = asked.index(b"\0", 12) + 5
        (kind,) = struct.unpack("!H", asked[end - 4 : end - 2])
        is_address = kind == 1
        head = asked[:2] + struct.pack("!5H", 0x8180, 1, int(is_address), 0, 0)
        record = struct.pack("!HHHIH4B", 0xC00C, 1, 1, 1, 4, 127, 0, 0, 1) if is_address else b""
        server.sendto(head + asked[12:end] + record, client)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A copy of ``docker/`` in ``folder``, as a project of its own."""

    folder: Path
    project: str
    version: str

    def prepare(self, *arguments: str) -> None:
        """What a person does once."""
        subprocess.run([str(self.folder / "prepare"), *arguments], check=True, capture_output=True, cwd="/")

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def up(self, services: Sequence[str], *, scale: Mapping[str, int] | None = None) -> None:
        """Start services, each when those before it are healthy, as compose does where podman can wait for health."""
        for service in services:
            count = (scale or {}).get(service, 1)
            self._compose("up", "--detach", "--no-build", "--no-deps", "--scale", f"{service}={count}", service)
            started = self.containers(service)
            assert len(started) == count, f"expected {count} of {service}, found {started}"
            for name in started:
                self.wait_until_healthy(name)

    def down(self) -> None:
        """Stop and remove all containers; volumes stay."""
        self._compose("down")
        for each in self._listed():  # podman-compose forgets those that were added by --scale
            self.podman("rm", "--force", "--volumes", "--time", "60", each["Id"])

    def containers(self, service: str) -> list[str]:
        """The names of a service's containers."""
        return [each["Names"][0] for each in self._listed() if each["Labels"]["com.docker.compose.service"] == service]

    def wait_until_healthy(self, name: str) -> None:
        """Until the image's own health check says so; it runs by itself only where there is systemd."""
        deadline = time.monotonic() + HEALTHY_S
        while self.podman("healthcheck", "run", name, check=False).returncode != 0:
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{self.logs(name)}"
            time.sleep(LOOK_AGAIN_S)

    def logs(self, name: str) -> str:
        done = self.podman("logs", "--tail", "60", name, check=False)
        return done.stdout + done.stderr

    def whole_log(self, name: str) -> str:
        done = self.podman("logs", name)
        return done.stdout + done.stderr

    def podman(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            ["podman", *arguments], env=self._environment(), capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"podman {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done

    def remove(self) -> None:
        """Everything that was started, with its volumes."""
        for each in self._listed():
            self.podman("rm", "--force", "--volumes", "--time", "5", each["Id"], check=False)
        listed = self.podman("volume", "ls", "--quiet", "--filter", f"name={self.project}_").stdout.split()
        for volume in listed:
            self.podman("volume", "rm", "--force", volume, check=False)

    def _listed(self) -> list[dict[str, Any]]:
        by_project = f"label=com.docker.compose.project={self.project}"
        found: list[dict[str, Any]] = json.loads(
            self.podman("ps", "--all", "--filter", by_project, "--format", "json").stdout
        )
        return found

    def _compose(self, *arguments: str) -> None:
        files = ["--file", str(self.folder / "compose.yaml"), "--file", str(self.folder / "override.yaml")]
        options = ["--in-pod", "false", "--profile", "metrics", "--profile", "rabbitmq", "-p", self.project]
        done = subprocess.run(
            [sys.executable, "-m", "podman_compose", *options, *files, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "COREAD_VERSION": self.version,
        }


@contextmanager
def deployment(folder: Path, *, version: str) -> Iterator[Deployment]:
    """A deployment with nothing started yet; removed afterwards."""
    for name in ("compose.yaml", "coread.toml", "prepare"):
        shutil.copy(DOCKER / name, folder / name)
    for name in ("prometheus", "grafana"):
        shutil.copytree(DOCKER / name, folder / name)
    (folder / "containers.conf").write_text(CONFIGURATION)
    (folder / "override.yaml").write_text(_override(folder / "compose.yaml"))
    running = Deployment(folder=folder, project=f"coread-test-{os.getpid()}", version=version)
    try:
        yield running
    finally:
        with contextlib.suppress(AssertionError):
            running.remove()


def _override(compose: Path) -> str:
    """One network namespace for all."""
    services = yaml.safe_load(compose.read_text())["services"]
    lines = ["services:"]
    for name, service in services.items():
        lines += [f"  {name}:", "    network_mode: host", f"    dns: [{NAME_SERVER}]"]
        lines += [f"    {key}: !reset null" for key in ("networks", "ports") if key in service]
    return "\n".join(lines) + "\n"

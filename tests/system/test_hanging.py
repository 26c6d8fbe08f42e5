"""An Orthanc that hangs is killed and started again, by itself, and goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from coread.orthanc_process import child_environment, free_port
from coread.phantom import short_axis_volume
from coread.settings import load_settings
from coread.supervisor import Supervisor
from coread.watchdog import HUNG
from tests.services import process_tree
from tests.support import images_of, program
from tests.system.conftest import SETTINGS, System

SILENT_S = 3.0
SOON_S = 60.0


def settings_in(folder: Path) -> Path:
    file = folder / "coread.toml"
    file.write_text(
        SETTINGS.replace("http_port = 0", f"http_port = {free_port()}\nrestart_silent_s = {SILENT_S}").replace(
            "dicom_port = 0", f"dicom_port = {free_port()}"
        )
    )
    return file


def test_it_is_started_again_and_reads_on(tmp_path: Path) -> None:
    program("Orthanc")
    file = settings_in(tmp_path)
    with Supervisor(load_settings(file), settings_file=file) as running:
        system = System(running, tmp_path)
        first = system.process("orthanc").pid
        until = time.monotonic() + 2 * SILENT_S
        running.watch(lambda: time.monotonic() > until)
        assert system.process("orthanc").pid == first, "one that answers is left alone"
        os.kill(first, signal.SIGSTOP)
        system.wait(lambda: system.process("orthanc").pid != first)
        system.wait(lambda: httpx.get(f"{running.http_url}/coread/health/live", trust_env=False).is_success)
        study = system.send(images_of(short_axis_volume(), name="after"))
        assert system.job(study)["state"] == "done"
        system.archive.__exit__(None, None, None)


@pytest.fixture
def container(tmp_path: Path) -> Iterator["Container"]:
    program("Orthanc")
    running = Container(tmp_path)
    yield running
    running.end()


class Container:
    """`coread orthanc`, in a process group of its own, as a terminal or container has it."""

    def __init__(self, folder: Path) -> None:
        file, self._log = settings_in(folder), folder / "log"
        port = load_settings(file).orthanc.http_port
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "coread", "--config", str(file), "orthanc"],
                stdout=log,
                stderr=log,
                env=child_environment(None),
                start_new_session=True,
            )
        deadline = time.monotonic() + SOON_S
        while not answers(f"http://127.0.0.1:{port}/coread/health/live"):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)
        time.sleep(SILENT_S)  # its watchdog knows that it lives
        _, self.orthanc = process_tree(self.process.pid)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        for pid in process_tree(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.parametrize(("harm", "status"), [(signal.SIGSTOP, 1), (signal.SIGKILL, 137)])
def test_a_container_learns_that_it_is_to_start_again(container: Container, harm: signal.Signals, status: int) -> None:
    """SIGSTOP: it hangs. SIGKILL: the machine has no memory left."""
    os.kill(container.orthanc, harm)
    assert container.process.wait(SOON_S) == status
    assert not Path(f"/proc/{container.orthanc}").exists()
    assert (HUNG in container.log) == (harm is signal.SIGSTOP)


@pytest.mark.parametrize("said", [signal.SIGINT, signal.SIGTERM])
def test_who_is_told_to_end_ends_in_order(container: Container, said: signal.Signals) -> None:
    """Ctrl-C goes to the whole group, and people press it twice."""
    os.killpg(container.process.pid, signal.SIGHUP)
    os.killpg(container.process.pid, said)
    time.sleep(0.5)
    os.killpg(container.process.pid, said)
    assert container.process.wait(SOON_S) == 0
    assert not Path(f"/proc/{container.orthanc}").exists()
    assert "Orthanc has stopped" in container.log
    assert HUNG not in container.log


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).is_success
    except httpx.TransportError:
        return False

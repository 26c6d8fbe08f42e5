"""An Orthanc that hangs is killed and started again, by itself, and goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from coread.orthanc_process import child_environment, free_port
from coread.phantom import short_axis_volume
from coread.settings import load_settings
from coread.supervisor import Supervisor
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


@pytest.mark.parametrize(("harm", "status"), [(signal.SIGSTOP, 1), (signal.SIGTERM, 0), (signal.SIGKILL, 137)])
def test_a_container_learns_that_it_is_to_start_again(tmp_path: Path, harm: signal.Signals, status: int) -> None:
    """SIGSTOP: it hangs. SIGTERM: the container is stopped. SIGKILL: the machine has no memory left."""
    program("Orthanc")
    file = settings_in(tmp_path)
    settings = load_settings(file)
    command = [sys.executable, "-m", "coread", "--config", str(file), "orthanc"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=child_environment(None)) as container,
    ):
        try:
            url = f"http://127.0.0.1:{settings.orthanc.http_port}/coread/health/live"
            deadline = time.monotonic() + SOON_S
            while not answers(url):
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
            time.sleep(SILENT_S)  # it is known to have lived
            _, orthanc = process_tree(container.pid)
            os.kill(container.pid if harm is signal.SIGTERM else orthanc, harm)
            assert container.wait(SOON_S) == status
        finally:
            container.kill()
    assert not Path(f"/proc/{orthanc}").exists()
    assert ("does not answer; killed" in (tmp_path / "log").read_text()) == (harm is signal.SIGSTOP)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).is_success
    except httpx.TransportError:
        return False

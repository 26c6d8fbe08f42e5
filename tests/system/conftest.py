import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset

from coread.archive import Archive
from coread.dicom_files import write_files
from coread.send import c_store
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.support import program

ENDED = ("done", "failed", "refused", "cancelled", "superseded")
QUIET_S = 1.0
TIMEOUT_S = 90.0

SETTINGS = f"""
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
[intake]
quiet_s = {QUIET_S}
poll_s = 0.1
[worker]
lease_s = 4
retry_delay_s = 0.5
"""


class System:
    """A running Coread: Orthanc with the plugin, and a worker, on ports of their own."""

    def __init__(self, running: Supervisor, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self.archive = Archive(running.http_url)
        self._sent = 0

    def send(self, images: Sequence[Dataset]) -> str:
        """Send images by C-STORE; returns their StudyInstanceUID."""
        self._sent += 1
        files = write_files(list(images), self.folder / f"sent{self._sent}")
        c_store(files, host="127.0.0.1", port=self.running.settings.orthanc.dicom_port, called_aet="COREAD")
        return str(images[0].StudyInstanceUID)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What ``condition`` gives, once it is true; meanwhile dead processes are restarted."""
        deadline = time.monotonic() + TIMEOUT_S
        found: list[Any] = []

        def holds() -> bool:
            try:
                found[:] = [condition()]
            except httpx.TransportError:
                return False
            assert time.monotonic() < deadline, f"timed out; last seen: {found}; logs:\n{self.logs()[-4000:]}"
            return bool(found[0])

        self.running.watch(holds, pause_s=0.1)
        return found[0]

    def jobs(self, study_instance_uid: str) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"{self.running.http_url}/coread/jobs", params={"study": study_instance_uid}, trust_env=False
        )
        jobs: list[dict[str, Any]] = answer.json()
        return jobs

    def job(self, study_instance_uid: str) -> dict[str, Any]:
        """The study's one job, once it has ended."""

        def ended() -> dict[str, Any] | None:
            jobs = self.jobs(study_instance_uid)
            return jobs[0] if len(jobs) == 1 and jobs[0]["state"] in ENDED else None

        found: dict[str, Any] = self.wait(ended)
        return found

    def results(self, job: dict[str, Any]) -> dict[str, bytes]:
        """The job's result objects in Orthanc, SOP Instance UID → file."""
        files = {}
        for uid in job["result"]["sop_instance_uids"]:
            orthanc_id = self.archive.find_instance(uid)
            assert orthanc_id is not None
            (files[uid],) = self.archive.files([orthanc_id])
        return files

    def process(self, name: str) -> Any:
        (child,) = (child for child in self.running._children if child.name == name)
        return child.process

    def kill(self, name: str) -> None:
        """kill -9, as a power cut would."""
        process = self.process(name)
        process.kill()
        process.wait()

    def logs(self) -> str:
        folder = self.running.settings.log_folder
        return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log")))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    program("Orthanc")
    folder = tmp_path_factory.mktemp("system")
    settings_file = folder / "coread.toml"
    settings_file.write_text(SETTINGS)
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        system = System(running, folder)
        with system.archive:
            yield system

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
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
from tests.services import process_tree
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
        self.login = running.settings.orthanc_login
        self.archive = Archive(running.http_url, auth=self.login)
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
        url = f"{self.running.http_url}/coread/jobs"
        answer = httpx.get(url, params={"study": study_instance_uid}, auth=self.login, trust_env=False)
        jobs: list[dict[str, Any]] = answer.json()
        return jobs

    def arriving(self) -> list[dict[str, Any]]:
        """The studies that are not settled."""
        answer = httpx.get(f"{self.running.http_url}/coread/studies", auth=self.login, trust_env=False)
        studies: list[dict[str, Any]] = answer.json()
        return studies

    def job(self, study_instance_uid: str) -> dict[str, Any]:
        """The study's one job, once it has ended. One that was made of a part of the study, because the sender was held
        up, does not count.
        """

        def ended() -> dict[str, Any] | None:
            jobs = self.jobs(study_instance_uid)
            standing = [job for job in jobs if job["state"] != "superseded"]
            if not standing and self.arriving():
                return None
            found = standing or jobs
            return found[0] if len(found) == 1 and found[0]["state"] in ENDED else None

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

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Inside the block, a process and what it started do nothing.

        They are stopped outside of any transaction of the ledger: one that holds its lock would hold up everybody.
        """
        pids = process_tree(self.process(name).pid)
        ledger = self.running.settings.ledger_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(ledger, isolation_level=None, timeout=TIMEOUT_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            connection.execute("ROLLBACK")
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):  # it was killed meanwhile
                    os.kill(pid, signal.SIGCONT)

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

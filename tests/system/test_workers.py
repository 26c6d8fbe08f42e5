"""Workers beside the one that `coread up` starts: on other machines, for some queues, under load."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from coread.archive import Archive
from coread.cli import coread
from coread.dicom_files import write_files
from coread.job import Job, JobState, Priority
from coread.ledger import Ledger
from coread.send import c_store
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.services import Redis, process_tree
from tests.support import program
from tests.system.conftest import SETTINGS, TIMEOUT_S
from tests.system.test_main_job import phantom_images

PASSWORD = "a secret of this test"
ROUTES = """
processes = 0
[models]
queues = {{ left_ventricle_sax = "cpu" }}
[broker]
url = "{broker}"
[[route]]
name = "urgent"
match = {{ StudyDescription = "*stroke*" }}
models = ["left_ventricle_sax"]
priority = "stat"
[[route]]
name = "everything"
models = ["left_ventricle_sax"]
"""


class Site:
    """A Coread without workers that answers whoever knows the password, and what a worker elsewhere needs to know."""

    def __init__(self, running: Supervisor, folder: Path, broker: Redis) -> None:
        self.running = running
        self.folder = folder
        self.broker = broker
        self.ledger = Ledger(running.settings.ledger_url)

    def send(self, name: str, **words: Any) -> str:
        images = phantom_images(name)
        for image in images:
            image.StudyDescription = words.get("study_description", "heart")
        files = write_files(images, self.folder / name)
        c_store(files, host="127.0.0.1", port=self.running.settings.orthanc.dicom_port, called_aet="COREAD")
        return str(images[0].StudyInstanceUID)

    def start_worker(self, *, password: str = PASSWORD) -> subprocess.Popen[bytes]:
        """A worker with settings and files of its own: it knows where Orthanc and the broker are, and the password."""
        far = self.folder / "another machine"
        far.mkdir(exist_ok=True)
        (far / "coread.toml").write_text(
            f'data_folder = "far data"\n[orthanc]\nurl = "{self.running.http_url}"\n'
            f'[ledger]\nurl = "{self.running.http_url}"\n[worker]\nlease_s = 4\n' + "\n"
            f'[models]\nqueues = {{ left_ventricle_sax = "cpu" }}\n[broker]\nurl = "{self.broker.url}"\n'
        )
        command = [sys.executable, "-m", "coread", "--config", "coread.toml", "worker", "--queues", "cpu"]
        environment = {**os.environ, "COREAD_ORTHANC__PASSWORD": password}
        with (far / "worker.log").open("ab") as log:
            return subprocess.Popen(command, cwd=far, env=environment, stdout=log, stderr=log)

    def wait(self, study: str, *states: JobState) -> Job:
        """The study's one job, once it is in one of these states."""
        found: list[Any] = []
        deadline = time.monotonic() + TIMEOUT_S

        def reached() -> bool:
            found[:] = self.ledger.jobs(study_instance_uid=study)
            log = self.folder / "another machine" / "worker.log"
            assert time.monotonic() < deadline, f"{found}; {log.read_text()[-2000:] if log.exists() else ''}"
            return len(found) == 1 and found[0].state in states

        self.running.watch(reached, pause_s=0.1)
        job: Job = found[0].job
        return job


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    program("Orthanc")
    folder = tmp_path_factory.mktemp("site")
    with Redis() as broker:
        settings_file = folder / "coread.toml"
        settings_file.write_text(SETTINGS + ROUTES.format(broker=broker.url))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COREAD_ORTHANC__PASSWORD", PASSWORD)
            running = Supervisor(load_settings(settings_file), settings_file=settings_file)
        with running:
            yield Site(running, folder, broker)


def end(worker: "subprocess.Popen[bytes]") -> None:
    worker.terminate()
    assert worker.wait(60) == 0


def test_a_worker_without_the_password_gets_nothing_and_says_what_to_do(site: Site) -> None:
    worker = site.start_worker(password="wrong")  # noqa: S106  # it is wrong
    assert worker.wait(60) == 2
    said = (site.folder / "another machine" / "worker.log").read_text()
    assert "set orthanc.password to the same value" in said
    assert httpx.get(f"{site.running.http_url}/coread/jobs", trust_env=False).status_code == 401
    assert "wrong" not in said


def test_a_worker_elsewhere_needs_http_and_the_broker_alone_and_takes_the_urgent_study_first(site: Site) -> None:
    routine = [site.send(f"routine {number}") for number in range(3)]
    for study in routine:
        site.wait(study, JobState.QUEUED)
    stat = site.send("urgent", study_description="suspected stroke")
    assert site.wait(stat, JobState.QUEUED).priority is Priority.STAT
    worker = site.start_worker()
    try:
        jobs = [site.wait(study, JobState.DONE) for study in (stat, *routine)]
    finally:
        end(worker)
    started = {
        job.job_id: next(e.at for e in site.ledger.history(job.job_id) if e.to_state is JobState.RUNNING)
        for job in jobs
    }
    assert sorted(started, key=started.__getitem__) == [job.job_id for job in jobs]
    assert sorted(path.name for path in (site.folder / "another machine").rglob("*") if path.is_file()) == [
        "coread.toml",
        "worker.log",
    ]
    with Archive(site.running.http_url, auth=("coread", PASSWORD)) as archive:
        modalities = sorted(series.tags["Modality"] for series in archive.study(jobs[0].orthanc_id).series)
    assert modalities == ["MR", "SEG", "SR", "SR"]


def test_a_worker_elsewhere_that_dies_loses_nothing(site: Site) -> None:
    worker = site.start_worker()
    study = site.send("the worker elsewhere dies")
    try:
        site.wait(study, JobState.QUEUED, JobState.RUNNING, JobState.STORING, JobState.DONE)
    finally:
        for pid in process_tree(worker.pid):
            os.kill(pid, signal.SIGKILL)
        worker.wait()
    other = site.start_worker()
    try:
        site.wait(study, JobState.DONE)
    finally:
        end(other)


def test_the_command_shows_and_changes_jobs_over_http(site: Site, tmp_path: Path) -> None:
    study = site.send("by hand")
    job = site.wait(study, JobState.QUEUED)
    (tmp_path / "coread.toml").write_text(f'[ledger]\nurl = "{site.running.http_url}"\n')

    def say(*words: str) -> tuple[int, str]:
        result = CliRunner(env={"COREAD_ORTHANC__PASSWORD": PASSWORD}).invoke(
            coread, ["--config", str(tmp_path / "coread.toml"), "jobs", *words]
        )
        return result.exit_code, result.output

    assert job.job_id in say("list", "--state", "queued")[1]
    assert say("prioritise", "batch", job.job_id)[0] == 0
    assert "batch, cpu" in say("show", job.job_id)[1]
    assert say("cancel", job.job_id)[0] == 0
    assert "a person withdrew it" in say("show", job.job_id)[1]
    assert say("cancel", job.job_id)[0] == 1
    assert say("retry", job.job_id)[0] == 0
    assert say("show", "f" * 32)[0] == 2
    assert say("cancel", job.job_id)[0] == 0

"""Whole Coread carries out archive runs: each study is read once, whatever is killed, and leaves nothing behind."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset

from coread.archive_run import Copy, Run, RunState, RunStudyState, Terms
from coread.archive_table import RunStore
from coread.dicom_files import write_files
from coread.job import JobState, Priority
from coread.ledger import Ledger
from coread.objects import Profile
from coread.orthanc_process import free_port
from coread.phantom import short_axis_volume
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.destinations import OrthancServer, orthanc_server
from tests.support import images_of, program, volume_in_plane
from tests.system.conftest import SETTINGS, System

MODEL = "left_ventricle_sax"
OURS = "COREAD-RUN"
SOURCES = """
[archivist]
retry_delay_s = 0.5
[[source]]
name = "pacs"
protocol = "dimse"
aet = "ORTHANC"
host = "127.0.0.1"
port = {dicom_port}
move_to = "COREAD-RUN"
[[source]]
name = "getting"
protocol = "dimse"
aet = "ORTHANC"
host = "127.0.0.1"
port = {dicom_port}
retrieve = "get"
[[source]]
name = "vna"
protocol = "dicomweb"
url = "{url}/dicom-web"
[[source]]
name = "nobody"
protocol = "dimse"
aet = "NOBODY"
host = "127.0.0.1"
port = 1
"""


def readable(name: str) -> list[Dataset]:
    """A study that the model reads."""
    return images_of(short_axis_volume(), name=name)


def unfit(name: str) -> list[Dataset]:
    """A study that it refuses."""
    return images_of(volume_in_plane("axial", shape=(3, 20, 14)), name=name, series_description="localizer")


@dataclass
class Scene:
    """A running Coread, and an archive that has studies."""

    system: System
    source: OrthancServer
    ledger: Ledger
    folder: Path

    def archive(self, images: Sequence[Dataset]) -> str:
        """Put a study into the archive; its StudyInstanceUID."""
        uid = str(images[0].StudyInstanceUID)
        files = write_files(list(images), self.folder / "archived" / uid)
        with httpx.Client(base_url=self.source.url, trust_env=False) as http:
            for file in files:
                http.post("/instances", content=file.read_bytes()).raise_for_status()
        return uid

    def begin(self, run_id: str, studies: Sequence[str], **more: Any) -> Terms:
        """Have studies read."""
        values = {
            "source": "pacs",
            "models": (MODEL,),
            "profiles": (Profile.OHIF,),
            "folder": str(self.folder / run_id),
            "associations": 2,
        }
        terms = Terms(**{**values, **more})
        self.ledger.start_run(
            run_id,
            name=run_id,
            terms=terms,
            plan_digest=run_id,
            studies=[(uid, None) for uid in studies],
            by="test",
            at=datetime.now(UTC),
        )
        return terms

    def run(self, run_id: str) -> Run:
        run = self.ledger.run(run_id)
        assert run is not None
        return run

    def finished(self, run_id: str) -> Run:
        """The run, once it is over."""
        self.system.wait(lambda: self.run(run_id).state is RunState.FINISHED)
        return self.run(run_id)

    def wait_for_ended(self, run_id: str, studies: int) -> None:
        """Until so many studies have ended, or the run is over."""
        self.system.wait(lambda: (run := self.run(run_id)).ended >= studies or run.state is RunState.FINISHED)

    def kill_archivist(self) -> None:
        """kill -9, and start it again at once."""
        self.system.kill("archivist")
        (child,) = (child for child in self.system.running._children if child.name == "archivist")
        child.start()

    def here(self) -> set[str]:
        """StudyInstanceUIDs of what is in our Orthanc."""
        archive = self.system.archive
        return {archive.study(each).study_instance_uid for each in archive.all_studies()}


@contextmanager
def scene_in(folder: Path) -> Iterator[Scene]:
    program("Orthanc")
    port = free_port()
    lets_us = dict.fromkeys(("DicomAlwaysAllowFind", "DicomAlwaysAllowGet", "DicomAlwaysAllowMove"), True)
    known = {"coread": [OURS, "127.0.0.1", port]}
    with orthanc_server(folder / "source", DicomModalities=known, **lets_us) as source:
        settings_file = folder / "coread.toml"
        text = SETTINGS.replace("dicom_port = 0", f"dicom_port = {port}")
        settings_file.write_text(text + SOURCES.format(dicom_port=source.dicom_port, url=source.url))
        with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
            system = System(running, folder)
            ledger = Ledger(running.settings.ledger_url)
            with system.archive:
                yield Scene(system, source, ledger, folder)
            ledger.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_in(tmp_path_factory.mktemp("runs")) as scene:
        yield scene


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_reads_each_study_once_and_leaves_nothing(scene: Scene) -> None:
    fit = [scene.archive(readable(f"fit{number}")) for number in range(4)]
    odd = [scene.archive(unfit(f"odd{number}")) for number in range(5)]
    missing = "1.2.3.4.5"
    studies = [*fit[:2], *odd, missing, *fit[2:]]
    scene.begin("killed", studies)
    chance = random.Random(4711)
    for _ in range(3):
        scene.wait_for_ended("killed", scene.run("killed").ended + chance.randint(1, 2))
        scene.kill_archivist()
    run = scene.finished("killed")
    assert (run.count(RunStudyState.DONE), run.count(RunStudyState.REFUSED), run.count(RunStudyState.FAILED)) == (
        4,
        5,
        1,
    )
    (failed,) = scene.ledger.run_studies("killed", states=[RunStudyState.FAILED])
    assert (failed.study_instance_uid, failed.is_permanent) == (missing, True)
    jobs = [scene.ledger.job(job_id) for _, job_id in scene.ledger.run_jobs("killed", limit=100)]
    assert len(jobs) == 9
    for job in jobs:
        assert job is not None
        assert job.job.priority is Priority.BATCH
        assert (job.runs, job.attempts) == (0, 1)
    assert len(scene.ledger.jobs()) == 9  # the route names the same model, and has read nothing
    assert scene.here() == set()
    with RunStore.existing(scene.folder / "killed") as store:
        rows = list(store.rows())
        assert [row.position for row in rows] == list(range(10))
        assert all(store.pictures(row) for row in rows if row.state == JobState.DONE)
    objects = sorted((scene.folder / "killed" / "objects").glob("*/*.dcm"))
    assert {path.parent.name for path in objects} == set(fit)
    copies = {study.copy for study in scene.ledger.run_studies("killed")}
    assert copies == {Copy.REMOVED, Copy.UNKNOWN}


def test_what_was_here_is_read_where_it_is_once_and_stays(scene: Scene) -> None:
    images = unfit("here before")
    uid = scene.archive(images)
    scene.system.send(images)
    before = scene.system.job(uid)
    scene.begin("here", [uid])
    run = scene.finished("here")
    assert run.count(RunStudyState.REFUSED) == 1
    (study,) = scene.ledger.run_studies("here")
    assert study.copy is Copy.BEFORE
    assert [job["job_id"] for job in scene.system.jobs(uid)] == [before["job_id"]]
    assert scene.system.job(uid)["priority"] == Priority.ROUTINE
    assert scene.here() == {uid}
    scene.system.archive.delete_study(str(study.orthanc_id))


def test_a_copy_that_somebody_else_sends_is_read_as_ever_and_kept(scene: Scene) -> None:
    images = unfit("sent besides")
    uid = scene.archive(images)
    scene.begin("kept", [uid], source="getting", keep_copies=True)
    scene.finished("kept")
    (job,) = scene.system.jobs(uid)
    assert (job["state"], job["priority"]) == ("refused", Priority.BATCH)
    (study,) = scene.ledger.run_studies("kept")
    assert study.copy is Copy.OURS
    assert [row.kind for row in scene.ledger.audit(study_instance_uid=uid) if row.kind == "received"] == []
    scene.system.send(images)
    scene.system.wait(lambda: scene.ledger.run_studies("kept")[0].copy is Copy.SHARED)

    def is_read() -> bool:
        return any((job["state"], job["priority"]) == ("refused", Priority.ROUTINE) for job in scene.system.jobs(uid))

    scene.system.wait(is_read)
    assert scene.here() == {uid}


def test_who_sends_of_a_study_that_is_watched_outlives_a_kill_of_orthanc(scene: Scene) -> None:
    system = scene.system
    joined, alone = unfit("watched and joined"), str(unfit("watched alone")[0].StudyInstanceUID)
    uid = str(joined[0].StudyInstanceUID)
    for study in (uid, alone):
        system.archive.watch(study, aet="PACS")
    system.send(joined)
    for _ in range(2):
        assert [system.archive.was_alone(study) for study in (uid, alone)] == [False, True]
        system.kill("orthanc")
        system.wait(lambda: httpx.get(f"{system.running.http_url}/system", auth=system.login).is_success)
    for study in (uid, alone):
        system.archive.unwatch(study)
    system.archive.delete_study(*system.archive.studies_with(uid))


def test_a_run_whose_source_is_away_waits_and_no_attempt_is_used_up(scene: Scene) -> None:
    uid = scene.archive(unfit("away"))
    scene.begin("away", [uid], source="nobody")
    scene.system.wait(lambda: scene.run("away").waits_for)
    (study,) = scene.ledger.run_studies("away")
    assert (scene.run("away").state, study.attempts) == (RunState.RUNNING, 0)
    assert scene.ledger.cancel_run("away", by="test", at=datetime.now(UTC))
    scene.system.wait(lambda: scene.run("away").ended_at)
    assert scene.run("away").count(RunStudyState.CANCELLED) == 1


def test_a_run_of_a_model_that_is_not_there_is_paused_with_the_reason(scene: Scene) -> None:
    uid = scene.archive(unfit("no model"))
    scene.begin("paused", [uid], models=("nothing",))
    scene.system.wait(lambda: scene.run("paused").state is RunState.PAUSED)
    assert "nothing" in scene.run("paused").reason
    assert scene.ledger.cancel_run("paused", by="test", at=datetime.now(UTC))

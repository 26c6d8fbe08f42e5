"""An archive run over real studies is killed again and again, wherever it is: each study is read once and counted once.

`COREAD_ARCHIVE_STUDIES` sets how many studies are in the archive (60), `COREAD_FAULT_SEED` the moments of the kills.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from coread.archive_run import Copy, Run, RunState, RunStudyState
from coread.archive_table import RunStore
from coread.dicom_files import write_files
from coread.job import JobState, Priority
from coread.ledger import JobRecord, Ledger
from coread.models.runner import BundleRunner
from coread.orthanc_process import child_environment
from coread.workers.pipeline import read_study
from coread.workers.study import studies_in_folder
from tests.faults.trial import KNOWN_LEAKS
from tests.real_studies import RealStudy, real_studies
from tests.services import kill_tree
from tests.system.test_archive_runs import MODEL, Scene, scene_in

STUDIES = int(os.environ.get("COREAD_ARCHIVE_STUDIES", "60"))
SEED = int(os.environ.get("COREAD_FAULT_SEED", "20261"))
LANES = 2
"""Studies that are retrieved at once."""
ORTHANC = "orthanc"
PARTS = ("archivist", "worker", ORTHANC)
EVERYTHING = "everything"
KILLS = (*PARTS, EVERYTHING)
"""What is killed at least once; the fifth is drawn."""
LATEST = 0.8
"""The share of the studies that have ended at the last kill, at most."""
LATER_S = 2.0
IN_RETRIEVAL, AIM_S = 0.7, 10.0
"""So many of the kills wait for a study that is being retrieved, so long at most."""
COMPARED = 12
"""Results that are compared with those of a calm reading, byte by byte."""
STUDY_S = 10.0
"""So long a study may take, whatever else this machine does."""
ENDS = {JobState.DONE, JobState.REFUSED}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + STUDY_S * STUDIES), *KNOWN_LEAKS]


@dataclass
class Killed:
    """A run that is followed by the command, while what carries it out is killed."""

    scene: Scene
    run_id: str
    command: Sequence[object]
    rng: random.Random
    timeline: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def run(self) -> Run:
        """The run, once it is over."""
        follows = self._follow()
        try:
            for share, part in zip(self._moments(), self._order(), strict=True):
                run = self._reached(share * STUDIES, is_retrieving=self.rng.random() < IN_RETRIEVAL)
                assert run.state is RunState.RUNNING, "it was over too soon to be killed"
                at_hand = {state.value: run.count(state) for state in RunStudyState if run.count(state)}
                self._kill(part, follows)
                self.timeline.append(f"{time.monotonic() - self._began:7.1f} s  {part} killed, {at_hand}")
                if follows.poll() is not None:
                    follows = self._follow()
            self._until(lambda: self._now().state is RunState.FINISHED)
            self.timeline.append(f"{time.monotonic() - self._began:7.1f} s  finished")
            assert follows.wait(60) == 0
        finally:
            follows.kill()
            follows.wait()
        return self._now()

    def _moments(self) -> list[float]:
        """Shares of the studies that have ended, each in a part of the run of its own."""
        count = len(KILLS) + 1
        return [LATEST * (number + self.rng.random()) / count for number in range(count)]

    def _order(self) -> list[str]:
        order = [*KILLS, self.rng.choice(KILLS)]
        self.rng.shuffle(order)
        return order

    def _follow(self) -> "subprocess.Popen[bytes]":
        """As a person does it: the same command again goes on with the same run."""
        return coread(self.scene, *self.command)

    def _kill(self, part: str, follows: "subprocess.Popen[bytes]") -> None:
        """kill -9, of everything as a power cut does."""
        parts = PARTS if part == EVERYTHING else (part,)
        for child in self.scene.system.running._children:
            if child.name in parts and child.process is not None and child.process.poll() is None:
                kill_tree(child.process.pid)
        if part == EVERYTHING:
            follows.kill()
            follows.wait()

    def _reached(self, ended: float, *, is_retrieving: bool) -> Run:
        """The run, some moments after so many studies had ended; while one is retrieved, if that is wanted."""
        self._until(lambda: self._now().ended >= ended)
        at = time.monotonic() + self.rng.uniform(0, LATER_S)
        self._until(lambda: time.monotonic() > at)
        at = time.monotonic() + (AIM_S if is_retrieving else 0)
        self._until(lambda: bool(self._now().count(RunStudyState.RETRIEVING)) or time.monotonic() > at, pause_s=0.002)
        return self._now()

    def _now(self) -> Run:
        return self.scene.run(self.run_id)

    def _until(self, condition: Callable[[], bool], *, pause_s: float = 0.05) -> None:
        deadline = time.monotonic() + STUDY_S * STUDIES + 300

        def holds() -> bool:
            assert time.monotonic() < deadline, f"{self._now()}\n{self.timeline}\n{self.scene.system.logs()[-6000:]}"
            return condition()

        self.scene.system.running.watch(holds, pause_s=pause_s)


@dataclass(frozen=True, kw_only=True)
class Archived:
    """A Coread, and an archive that holds real studies."""

    scene: Scene
    studies: Mapping[str, RealStudy]
    """By StudyInstanceUID."""


@pytest.fixture
def archived(real_data: Path, tmp_path: Path) -> Iterator[Archived]:
    with scene_in(tmp_path) as scene:
        studies = {}
        with httpx.Client(base_url=scene.source.url, trust_env=False) as http:
            for study in real_studies(real_data, STUDIES):
                studies[study.uid] = study
                for file in write_files(study.images, tmp_path / "archived"):
                    http.post("/instances", content=file.read_bytes()).raise_for_status()
                    file.unlink()
        yield Archived(scene=scene, studies=studies)


@pytest.mark.parametrize(("source", "by"), [("pacs", "C-FIND and C-MOVE"), ("vna", "QIDO-RS and WADO-RS")])
def test_each_study_of_an_archive_is_read_once_whatever_is_killed(
    archived: Archived, left_ventricle: BundleRunner, say: Callable[[object], None], source: str, by: str
) -> None:
    scene, studies = archived.scene, archived.studies
    rng = random.Random(f"{SEED} {source}")
    plan = scene.folder / "hearts.plan"
    planned = coread(scene, "archive", "plan", "-o", plan, "--source", source, "--modality", "MR", "--model", MODEL)
    assert planned.wait(300) == 0
    folder = scene.folder / "out"
    command = ("archive", "run", plan, "--folder", folder, "--associations", LANES, "--in-flight", 16, "--no-pictures")
    begun = coread(scene, *command, "--detach")
    assert begun.wait(120) == 0
    (run_id,) = (run.run_id for run in scene.ledger.runs())
    killed = Killed(scene, run_id, command, rng)
    run = killed.run()
    jobs = jobs_of(scene.ledger, run_id)
    say(told(by, killed, run, jobs, scene.ledger))
    assert not complaints(scene, run, jobs, studies, folder)
    done = sorted(uid for uid, record in jobs.items() if record.state is JobState.DONE)
    compared = rng.sample(done, min(COMPARED, len(done)))
    for uid in compared:
        assert objects_in(folder, uid) == calm(studies[uid], jobs[uid], left_ventricle, scene.folder / "calm" / uid)


def coread(scene: Scene, *arguments: object) -> "subprocess.Popen[bytes]":
    """The command, with what it says beside the logs."""
    environment = {
        **child_environment(scene.folder / "coread.toml"),
        "COREAD_ORTHANC__HTTP_PORT": str(scene.system.running.settings.orthanc.http_port),
    }
    with (scene.system.running.settings.log_folder / "command.log").open("ab") as log:
        command = [sys.executable, "-m", "coread", *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def jobs_of(ledger: Ledger, run_id: str) -> dict[str, JobRecord]:
    """StudyInstanceUID → the job that read it."""
    found: dict[str, JobRecord] = {}
    for position, job_id in ledger.run_jobs(run_id, limit=10 * STUDIES):
        study, record = ledger.run_study(run_id, position), ledger.job(job_id)
        assert study is not None
        assert record is not None
        assert found.setdefault(study.study_instance_uid, record) is record, "a study has two jobs"
    return found


def complaints(
    scene: Scene,
    run: Run,
    jobs: Mapping[str, JobRecord],
    studies: Mapping[str, RealStudy],
    folder: Path,
) -> list[str]:
    """What is wrong."""
    expected = {uid: JobState.DONE if study.is_read else JobState.REFUSED for uid, study in studies.items()}
    rows = scene.ledger.run_studies(run.run_id, limit=10 * STUDIES)
    counted = Counter(row.state for row in rows)
    with RunStore.existing(folder) as store:
        kept = list(store.rows())
    named = {uid: record.result_uids if record.state is JobState.DONE else set() for uid, record in jobs.items()}
    all_jobs = scene.ledger.jobs(limit=10 * STUDIES)
    received = [event for event in scene.ledger.audit(limit=10_000) if event.kind == "received"]
    claims = {
        "the run has each study once": sorted(row.study_instance_uid for row in rows) == sorted(studies),
        "the counters are right": {state: number for state, number in run.counts.items() if number} == counted,
        "the studies ended as they must": {row.study_instance_uid: row.state.value for row in rows}
        == {uid: state.value for uid, state in expected.items()},
        "each study has one job, and nobody else has one": {job.job.job_id for job in jobs.values()}
        == {job.job.job_id for job in all_jobs},
        "the jobs ended as they must": {uid: record.state for uid, record in jobs.items()} == expected,
        "each job ended once": all(ends(scene.ledger, record) == [record.state] for record in jobs.values()),
        "each job is a run's": all(record.job.priority is Priority.BATCH for record in jobs.values()),
        "the copies are the run's, and removed": {row.copy for row in rows} == {Copy.REMOVED},
        "our Orthanc has nothing left": not left_in(scene),
        "nothing counts as received": not received,
        "each study has one row": sorted(row.study_instance_uid for row in kept) == sorted(studies),
        "the rows say what the jobs say": {row.study_instance_uid: row.state for row in kept} == expected,
        "the objects are what the jobs wrote": {uid: objects_in(folder, uid).keys() for uid in studies} == named,
        "nothing else is in the folder": not list(folder.glob("objects/*/.*"))
        and {path.name for path in folder.glob("objects/*")} <= studies.keys(),
    }
    return [f"not so: {claim}" for claim, is_so in claims.items() if not is_so]


def left_in(scene: Scene) -> set[str]:
    """The StudyInstanceUIDs of the studies in our Orthanc."""
    found = httpx.get(
        f"{scene.system.running.http_url}/studies", params={"expand": ""}, auth=scene.system.login, trust_env=False
    )
    return {study["MainDicomTags"]["StudyInstanceUID"] for study in found.json()}


def ends(ledger: Ledger, record: JobRecord) -> list[JobState]:
    """The ends that a job came to, of which there must be one."""
    return [event.to_state for event in ledger.history(record.job.job_id) if event.to_state in ENDS]


def objects_in(folder: Path, study: str) -> dict[str, bytes]:
    """SOP Instance UID → file."""
    return {path.stem: path.read_bytes() for path in (folder / "objects" / study).glob("*.dcm")}


def calm(study: RealStudy, record: JobRecord, runner: BundleRunner, folder: Path) -> dict[str, bytes]:
    """SOP Instance UID → file of what the job writes where nothing dies."""
    write_files(study.images, folder)
    (found,) = studies_in_folder(folder)
    objects = read_study(found, runner, job_id=record.job.job_id, created_at=record.job.created_at).objects
    return {str(each.dataset.SOPInstanceUID): each.file() for each in objects}


def told(by: str, killed: Killed, run: Run, jobs: Mapping[str, JobRecord], ledger: Ledger) -> str:
    """What came of it, in words."""
    begun = sum(event.to_state is JobState.RUNNING for job in jobs.values() for event in ledger.history(job.job.job_id))
    attempts = Counter(row.attempts for row in ledger.run_studies(run.run_id, limit=10 * STUDIES))
    counts = {state.value: number for state, number in run.counts.items() if number}
    lines = [f"{by}, {run.studies} studies, seed {SEED}:", *(f"  {line}" for line in killed.timeline)]
    return "\n".join([*lines, f"  {counts}; {len(jobs)} jobs, {begun} readings begun, attempts {dict(attempts)}"])

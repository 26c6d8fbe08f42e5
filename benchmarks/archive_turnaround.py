"""What an archive run costs clinical work: from C-STORE to the result in Orthanc, while nothing else is read and while
a run goes on, in turn.

The run reads with the same model as the clinical study, in the same worker, so that a study that comes meanwhile has to
wait for the job in hand. More than that is what the run costs.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from pydicom.dataset import Dataset

from coread.archive_run import RUN_ENDED, Run, RunStudyState, Terms
from coread.benchmarks.intake import orthanc, url_of
from coread.dicom_files import series_of, write_files
from coread.errors import ArchiveUnavailable
from coread.job import ENDED, JobState
from coread.ledger import JobRecord, Ledger
from coread.objects import Profile
from coread.orthanc_process import free_port
from coread.phantom import short_axis_volume
from coread.send import c_store
from coread.settings import Settings, load_settings
from coread.supervisor import Supervisor
from coread.volume import Volume

MODEL = "left_ventricle_sax"
OURS = "COREAD-RUN"
IDLE = "no run"
SOURCES = {"a run by C-MOVE": "move", "a run by DICOMweb": "web"}
"""What goes on → the run's source."""
PER_ROUND = 25
"""Studies that are in the archive for each round: more than are read in one."""
LOOK_S = 0.02
TIMEOUT_S = 300.0
UNDER_WAY = (RunStudyState.RETRIEVING, RunStudyState.HERE, RunStudyState.READING, RunStudyState.COLLECTED)
BY = "benchmark"

SETTINGS = """
data_folder = "data"
[orthanc]
http_port = {http_port}
dicom_port = {dicom_port}
[worker]
processes = 1
[[route]]
name = "all"
models = ["{model}"]
[[source]]
name = "move"
protocol = "dimse"
aet = "{source_aet}"
host = "127.0.0.1"
port = {source_port}
move_to = "{ours}"
[[source]]
name = "web"
protocol = "dicomweb"
url = "{source_url}/dicom-web"
"""
KNOWN = """
[[pacs]]
name = "{name}"
aet = "{aet}"
host = "127.0.0.1"
port = {port}
"""


@dataclass(frozen=True, kw_only=True)
class Turnaround:
    """How long clinical studies took, in seconds: medians."""

    what: str
    ratio: float
    """To ``no run``, after one running job of the run is taken off: 1.2 at most is what is wanted."""
    strict: float
    """The same, with a job that takes no longer than the clinical study's own where there is no run."""
    seconds: float
    """From the begin of the C-STORE to the result in Orthanc."""
    slowest: float
    job: float
    """Of the run's jobs, from claimed to stored."""
    sent: float
    """Of ``seconds``: the C-STORE."""
    settled: float
    """Until the study was found complete, and its job made."""
    waited: float
    """Until a worker took the job."""
    read: float
    """Until its results were stored."""
    studies: int
    per_minute: float
    """Studies of the run that ended meanwhile."""


@dataclass(frozen=True, kw_only=True)
class _Times:
    sent: float
    settled: float
    waited: float
    read: float

    @property
    def total(self) -> float:
        return self.sent + self.settled + self.waited + self.read


@dataclass(kw_only=True)
class _Seen:
    """What was measured of one way."""

    times: list[_Times] = field(default_factory=list)
    jobs: list[float] = field(default_factory=list)
    ended: int = 0
    seconds: float = 0.0


def archive_turnaround(folder: Path, *, studies: int) -> list[Turnaround]:
    """So many clinical studies in each situation, in interleaved rounds, after one to warm up. Raises
    ArchiveUnavailable if a study is not read, or the run is over too soon.
    """
    rng = np.random.default_rng(1)
    volume = short_axis_volume()
    with _started(folder, volume, studies=PER_ROUND * (studies + 1)) as bench:
        seen = {what: _Seen() for what in (IDLE, *SOURCES)}
        for number in range(studies + 1):
            found = {} if number == 0 else seen
            bench.measure_idle(found.get(IDLE), _images(volume, f"{IDLE} {number}"))
            for what, source in SOURCES.items():
                bench.measure_busy(found.get(what), _images(volume, f"{what} {number}"), run_id=source, rng=rng)
    return [_summary(what, each, idle=seen[IDLE]) for what, each in seen.items()]


@dataclass(kw_only=True)
class _Bench:
    running: Supervisor
    ledger: Ledger
    folder: Path

    def measure_idle(self, seen: _Seen | None, images: Sequence[Dataset]) -> None:
        """While no run goes on."""
        times = self._send(images)
        if seen is not None:
            seen.times.append(times)

    def measure_busy(
        self, seen: _Seen | None, images: Sequence[Dataset], *, run_id: str, rng: np.random.Generator
    ) -> None:
        """While a run goes on, at any moment of one of its jobs."""
        before = self._run(run_id).ended
        self.ledger.resume_run(run_id, by=BY, at=_now())
        began = time.monotonic()
        self._until(lambda: self._run(run_id).ended > before + 1 and bool(self.ledger.jobs(states=[JobState.RUNNING])))
        at = time.monotonic() + rng.uniform(0, 1) * _job_s(self._run_jobs(run_id))
        self._until(lambda: time.monotonic() > at)
        times = self._send(images)
        seconds, ended = time.monotonic() - began, self._run(run_id).ended - before
        self.ledger.pause_run(run_id, by=BY, at=_now())
        run = self._run(run_id)
        if run.state in RUN_ENDED or not run.count(RunStudyState.DUE):
            raise ArchiveUnavailable(f"expected a run that goes on, found one that is {run.state}: too few studies")
        self._until(lambda: not any(self._run(run_id).count(state) for state in UNDER_WAY))
        if seen is not None:
            seen.times.append(times)
            seen.ended += ended
            seen.seconds += seconds
            seen.jobs = self._run_jobs(run_id)

    def _send(self, images: Sequence[Dataset]) -> _Times:
        uid = str(images[0].StudyInstanceUID)
        files = write_files(images, self.folder / "sent" / uid)
        settings = self.running.settings
        began = _now()
        c_store(files, host="127.0.0.1", port=settings.orthanc.dicom_port, called_aet=settings.orthanc.aet)
        sent = _now()
        record = self._ended(uid)
        at = {event.to_state: event.at for event in self.ledger.history(record.job.job_id)}
        if record.state is not JobState.DONE:
            raise ArchiveUnavailable(f"expected the study to be read, found {record.state}: {record.reason}")
        settled, claimed, done = (at[state] for state in (JobState.WAITING, JobState.RUNNING, JobState.DONE))
        steps = [began, sent, settled, claimed, done]
        spans = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(steps)]
        return _Times(sent=spans[0], settled=spans[1], waited=spans[2], read=spans[3])

    def _ended(self, uid: str) -> JobRecord:
        def found() -> list[JobRecord]:
            return [each for each in self.ledger.jobs(study_instance_uid=uid) if each.state in ENDED]

        self._until(lambda: bool(found()))
        return found()[0]

    def _run(self, run_id: str) -> Run:
        run = self.ledger.run(run_id)
        if run is None:
            raise ArchiveUnavailable(f"expected the run {run_id} in the ledger, found none")
        return run

    def _run_jobs(self, run_id: str) -> list[float]:
        """Seconds that the run's jobs took."""
        jobs = self.ledger.run_jobs(run_id, limit=100_000)
        histories = ({event.to_state: event.at for event in self.ledger.history(job_id)} for _, job_id in jobs)
        done = (at for at in histories if JobState.DONE in at)
        return [(at[JobState.DONE] - at[JobState.RUNNING]).total_seconds() for at in done]

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S

        def holds() -> bool:
            if time.monotonic() > deadline:
                raise ArchiveUnavailable(f"no end within {TIMEOUT_S:g} s; see {self.running.settings.log_folder}")
            return condition()

        self.running.watch(holds, pause_s=LOOK_S)


@contextmanager
def _started(folder: Path, volume: Volume, *, studies: int) -> Iterator[_Bench]:
    """Coread, and an archive with so many studies for each run; the runs have begun, and are paused."""
    ports = {"http_port": free_port(), "dicom_port": free_port()}
    known = "".join(
        KNOWN.format(name=f"coread{number}", aet=aet, port=ports["dicom_port"])
        for number, aet in enumerate((OURS, Settings().orthanc.aet))
    )
    with ExitStack() as stack:
        archive = stack.enter_context(orthanc(folder / "archive", plugin=False, more=known))
        settings_file = folder / "coread.toml"
        settings_file.write_text(
            SETTINGS.format(
                **ports,
                model=MODEL,
                source_aet=archive.orthanc.aet,
                source_port=archive.orthanc.dicom_port,
                source_url=url_of(archive),
                ours=OURS,
            ),
            encoding="utf-8",
        )
        uids = {source: list(_fill(archive, volume, source, studies)) for source in SOURCES.values()}
        running = stack.enter_context(Supervisor(load_settings(settings_file), settings_file=settings_file))
        ledger = Ledger(running.settings.ledger_url)
        stack.callback(ledger.close)
        for source, found in uids.items():
            terms = Terms(source=source, models=(MODEL,), profiles=(Profile.OHIF,), folder=str(folder / "out" / source))
            cohort = [(uid, None) for uid in found]
            ledger.start_run(source, name=source, terms=terms, plan_digest=source, studies=cohort, by=BY, at=_now())
            ledger.pause_run(source, by=BY, at=_now())
        yield _Bench(running=running, ledger=ledger, folder=folder)


def _fill(archive: Settings, volume: Volume, source: str, studies: int) -> Iterator[str]:
    """Put so many studies into the archive; their StudyInstanceUIDs."""
    with httpx.Client(base_url=url_of(archive), timeout=60, trust_env=False) as http:
        for number in range(studies):
            images = _images(volume, f"archived {source} {number}")
            for file in write_files(images, archive.data_folder / "sent"):
                http.post("/instances", content=file.read_bytes()).raise_for_status()
                file.unlink()
            yield str(images[0].StudyInstanceUID)


def _images(volume: Volume, name: str) -> list[Dataset]:
    """The phantom, with noise of its own."""
    noise = np.random.default_rng(list(name.encode())).normal(0, 4, volume.array.shape)
    return series_of(
        volume.with_array(np.clip(volume.array + noise, 0, None)),
        modality="MR",
        name=f"benchmark turnaround {name}",
        patient_id="BENCHMARK",
        patient_name="BENCHMARK^GENERATED",
        study_description="generated",
        series_description="cine SAX ED",
        body_part="HEART",
    )


def _summary(what: str, seen: _Seen, *, idle: _Seen) -> Turnaround:
    job = _job_s(seen.jobs)
    alone = _median(idle, lambda times: times.read) if seen is not idle else 0.0
    total, idle_s = (_median(each, lambda times: times.total) for each in (seen, idle))
    return Turnaround(
        what=what,
        ratio=(total - job) / idle_s,
        strict=(total - alone) / idle_s,
        seconds=total,
        slowest=max(times.total for times in seen.times),
        job=job,
        sent=_median(seen, lambda times: times.sent),
        settled=_median(seen, lambda times: times.settled),
        waited=_median(seen, lambda times: times.waited),
        read=_median(seen, lambda times: times.read),
        studies=len(seen.times),
        per_minute=60 * seen.ended / seen.seconds if seen.seconds else 0.0,
    )


def _median(seen: _Seen, of: Callable[[_Times], float]) -> float:
    return statistics.median(map(of, seen.times))


def _job_s(jobs: Sequence[float]) -> float:
    return statistics.median(jobs) if jobs else 0.0


def _now() -> datetime:
    return datetime.now(UTC)

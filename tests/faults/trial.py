"""A Coread to be maltreated: started as `coread up` starts it, with studies on their way into it."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from coread.archive import Archive
from coread.errors import ArchiveUnavailable, LedgerUnavailable
from coread.job import ENDED, JobState
from coread.ledger import JobRecord, Ledger
from coread.models.catalogue import State, installed_models, packages
from coread.models.runner import BundleRunner, choose_device
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.faults.cases import MODEL, Pacs, write_cases, write_model
from tests.faults.harm import Fault, Harm
from tests.faults.verdict import complaints, standing
from tests.services import Service, kill_tree, process_tree
from tests.support import approve

SETTLE_S = 180.0
"""After the last fault everything must have ended within this time; else something hangs."""
CALM_S = 4.0
"""So long nothing must change any more: more than a study's quiet time and a few looks of the intake."""
LONGEST_BACK_OFF_S = 2.0
"""As a service manager has it. With the supervisor's own, all would be down most of the time."""
REPORT_VARIABLE = "COREAD_FAULT_REPORT"
LOOK_S = 1.0
AIM_S = 8.0
"""So long a kill of a worker waits for a job in its hand."""

KNOWN_LEAKS = (
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # pynetdicom's, at a refused connection
    pytest.mark.filterwarnings("ignore:<psycopg.Connection:ResourceWarning"),  # of a ledger that is let go
)

SETTINGS = """
data_folder = "{data}"
[orthanc]
http_port = 0
dicom_port = 0
[intake]
quiet_s = 1.5
poll_s = 0.2
min_free_gb = 0.02
[worker]
lease_s = 4
retry_delay_s = 0.5
device = "cpu"
[models]
folders = ["{models}"]
[[route]]
name = "all"
models = ["{model}"]
"""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a trial came to."""

    configuration: str
    seed: int
    studies: int
    done: int
    refused: int
    seconds_of_faults: float
    seconds_to_settle: float
    faults: dict[str, int]
    objects_sent_again: int
    jobs: int
    superseded: int
    executions: int
    publishes: int
    complaints: list[str]
    timeline: list[tuple[float, str]]

    def __str__(self) -> str:
        struck = ", ".join(f"{name} {count} times" for name, count in sorted(self.faults.items()))
        return "\n".join(
            [
                f"{self.configuration}, seed {self.seed}:",
                *(f"  {seconds:7.2f} s  {what}" for seconds, what in self.timeline),
                (
                    f"  {self.studies} studies: {self.done} done, {self.refused} refused; struck in "
                    f"{self.seconds_of_faults:g} s: {struck}; {self.jobs} jobs ({self.superseded} superseded), "
                    f"{self.executions} executions, {self.publishes} publishes, {self.objects_sent_again} objects sent "
                    f"again; all had ended after {self.seconds_to_settle:g} s more"
                ),
                *(f"  WRONG {each}" for each in self.complaints),
            ]
        )


class Trial:
    """A Coread that runs inside the block, the studies for it, and its ledger as an onlooker sees it."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        studies: int,
        seed: int,
        data: Path | None = None,
        database: Service | None = None,
        broker: Service | None = None,
    ) -> None:
        self.name, self.seed, self.folder = name, seed, folder
        self.database, self.broker = database, broker
        self.rng = random.Random(seed)
        self._aim_until: float | None = None
        self.cases = write_cases(folder / "sent", studies, seed=seed)
        write_model(folder / "models")
        settings_file = folder / "coread.toml"
        text = SETTINGS.format(data=data or folder / "data", models=folder / "models", model=MODEL)
        if database:
            text += f'[ledger]\nurl = "{database.url}"\n'
        if broker:
            text += f'[broker]\nurl = "{broker.url}"\n'
        settings_file.write_text(text)
        settings = load_settings(settings_file)
        for package in packages(settings):
            if package.model and package.state is not State.SHIPPED:
                approve(package.model, settings)
        self.runner = BundleRunner(installed_models(settings)[MODEL], device=choose_device("cpu"))
        self.running = Supervisor(settings, settings_file=settings_file)
        self.settings = self.running.settings
        self.ledger = Ledger(self.settings.ledger_url)
        self.archive = Archive(self.running.http_url)

    def __enter__(self) -> Self:
        self.running.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running.__exit__(kind, error, trace)
        self.archive.__exit__(kind, error, trace)
        self.ledger.close()

    # What can be struck ------------------------------------------------------------------------------------------

    def kills(self, *, orthanc_s: float, worker_s: float, broker_s: float, database_s: float) -> list[Fault]:
        """kill -9 of each part, about so often. Orthanc and the worker are restarted by Coread itself."""
        faults = [
            Fault(name="orthanc", every_s=orthanc_s, strike=lambda: self._kill_child("orthanc")),
            Fault(name="worker", every_s=worker_s, strike=self._kill_worker),
        ]
        if self.broker:
            faults.append(service_fault("broker", self.broker, every_s=broker_s, away_s=(0.0, 4.0)))
        else:
            faults.append(Fault(name="broker", every_s=broker_s, strike=self._lose_messages))
        if self.database:
            faults.append(service_fault("database", self.database, every_s=database_s, away_s=(1.0, 6.0)))
        return faults

    def _kill_child(self, name: str) -> str:
        pids = self._pids(name)
        for pid in pids:
            kill_tree(pid)
        return f"{name} killed" if pids else ""

    def _kill_worker(self) -> str:
        """Half of the times when a job is in hand; sometimes one of its processes only."""
        if self._aim_until is None:
            self._aim_until = time.monotonic() + self.rng.choice((0.0, AIM_S))
        if time.monotonic() < self._aim_until and not self._job_in_hand():
            return ""
        self._aim_until = None
        tree = [pid for root in self._pids("worker") for pid in process_tree(root)]
        if len(tree) > 1 and self.rng.random() < 0.5:
            kill_tree(self.rng.choice(tree[1:]))
            return "a worker's process killed"
        return self._kill_child("worker")

    def _job_in_hand(self) -> bool:
        return any(record.state in (JobState.RUNNING, JobState.STORING) for record in self._jobs())

    def _lose_messages(self) -> str:
        """What a broker that is killed does to what it holds: the files in the data folder are gone."""
        lost = 0
        for path in (self.settings.data_folder / "broker").rglob("*"):
            if path.is_file():
                path.unlink(missing_ok=True)
                lost += 1
        return f"{lost} messages lost" if lost else ""

    def _pids(self, name: str) -> list[int]:
        children = [child.process for child in self.running._children if child.name.startswith(name)]
        return [process.pid for process in children if process is not None and process.poll() is None]

    # The course of it --------------------------------------------------------------------------------------------

    def run(self, faults: Sequence[Fault], *, seconds: float, sending_s: float | None = None) -> Summary:
        """Send the studies while ``faults`` strike for ``seconds``, then wait until all has ended; what came of it."""
        pacs = Pacs(self.cases, self.settings.orthanc.dicom_port, sending_s or seconds, self.seed)
        harm = Harm(faults, self.rng)
        harm.start()
        pacs.start()
        started = time.monotonic()

        def over() -> bool:
            harm.step()
            return time.monotonic() - started > seconds

        try:
            self.running.watch(over, pause_s=0.02)
            harm.stop()
            calm_from = time.monotonic()
            self._settle(pacs)
            settled_s = time.monotonic() - calm_from
        finally:
            harm.stop()
            pacs.stop()
        summary = self._summary(harm, pacs, seconds=seconds, settled_s=settled_s)
        _save(summary)
        return summary

    def _settle(self, pacs: Pacs) -> None:
        """Until everything is sent and has ended, and then nothing changes for a while; or time is up."""
        deadline = time.monotonic() + SETTLE_S
        seen: object = None
        since = time.monotonic()

        def ended() -> bool:
            nonlocal seen, since
            now = time.monotonic()
            looked, seen = seen, self._state() if pacs.is_done else None
            if seen is None or seen != looked:
                since = now
            return now - since > CALM_S or now > deadline

        self.running.watch(ended, pause_s=LOOK_S)

    def _state(self) -> object:
        """Where all jobs stand; None while one has not ended, or nobody can say."""
        jobs = self._jobs()
        studies = {record.job.study_instance_uid for record in jobs}
        if len(studies) < len(self.cases) or any(record.state not in ENDED for record in jobs):
            return None
        try:
            return sorted((record.job.job_id, record.state) for record in jobs), self.archive.last_change()
        except ArchiveUnavailable:
            return None

    def _jobs(self) -> list[JobRecord]:
        try:
            return self.ledger.jobs(limit=100_000)
        except LedgerUnavailable:
            return []  # its database is away

    def _summary(self, harm: Harm, pacs: Pacs, *, seconds: float, settled_s: float) -> Summary:
        jobs = self.ledger.jobs(limit=100_000)
        events = Counter(event.to_state for record in jobs for event in self.ledger.history(record.job.job_id))
        states = Counter(record.state for record in standing(jobs))
        wrong = complaints(
            self.cases,
            ledger=self.ledger,
            archive=self.archive,
            runner=self.runner,
            studies=self.archived_studies(),
        )
        if settled_s > SETTLE_S:
            wrong.insert(0, f"not everything had ended {SETTLE_S:g} s after the last fault")
        return Summary(
            configuration=self.name,
            seed=self.seed,
            studies=len(self.cases),
            done=states[JobState.DONE],
            refused=states[JobState.REFUSED],
            seconds_of_faults=seconds,
            seconds_to_settle=round(settled_s, 1),
            faults=dict(harm.counts),
            objects_sent_again=pacs.refused,
            jobs=len(jobs),
            superseded=len(jobs) - len(standing(jobs)),
            executions=events[JobState.RUNNING],
            publishes=events[JobState.QUEUED],
            complaints=wrong,
            timeline=harm.timeline,
        )

    def archived_studies(self) -> list[str]:
        """Orthanc's ids of all studies that it has."""
        return [str(each) for each in self.archive._get("/studies").json()]

    def logs(self) -> str:
        """The last lines of every part's log."""
        paths = sorted(self.settings.log_folder.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in paths)


def service_fault(name: str, service: Service, *, every_s: float, away_s: tuple[float, float]) -> Fault:
    """kill -9 of a service, which is back after a time out of the range ``away_s``."""

    def strike() -> str:
        if not service.is_running:
            return ""
        service.kill()
        return f"{name} killed"

    return Fault(name=name, every_s=every_s, strike=strike, mend=service.restart, away_s=away_s)


def _save(summary: Summary) -> None:
    """Beside the summaries of other configurations, in the file that COREAD_FAULT_REPORT names."""
    if REPORT_VARIABLE in os.environ:
        path = Path(os.environ[REPORT_VARIABLE])
        known = json.loads(path.read_text()) if path.exists() else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**known, summary.configuration: asdict(summary)}, indent=1) + "\n")

"""A simulated archive run: the real lanes, winding up and ledger, in a world of which the rest is simulated."""

import contextlib
import math
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any, Self, cast

from coread.archive import Archive, ArchivedSeries, ArchivedStudy
from coread.archive_run import RunStudyState
from coread.archive_table import RunStore
from coread.archivist.collect import Collector
from coread.archivist.lane import POLL_S, Lane
from coread.archivist.run import ATTEND_S, LEASE, STUCK_S
from coread.archivist.state import Attended
from coread.archivist.windup import WindUp
from coread.benchmarks.archive_clock import Bell, Clock
from coread.benchmarks.archive_outcome import STORE_S, Outcome, Scenario, Spent
from coread.benchmarks.comparison import status_mb
from coread.copies import Bringer
from coread.errors import CoreadError, SourceGone, StudyIncomplete
from coread.job import Job, JobState, Priority
from coread.lease import HEARTBEATS_PER_LEASE
from coread.ledger import Ledger
from coread.ledger.run_links import RunLink
from coread.objects import Profile
from coread.retrieval import Retrieved, Retriever
from coread.settings import ArchivistSettings, Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
BEGIN = START + timedelta(days=30)
MODEL, VERSION = "simulated", "1.0.0"
USER = "simulated"
ARCHIVIST = "simulated"
LOOK_EVERY_S = 10.0
"""How often a worker with nothing to do looks into the ledger (`coread.workers.duty`)."""
BYTES = 150_000_000
RESULT: Mapping[str, Any] = {
    "sop_class_uids": ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"],
    "findings": [
        {
            "structure": f"structure {number}",
            "code": ["78961009", "SCT", "Spleen"],
            "present": True,
            "measurements": [{"name": "Volume", "value": 173.25, "unit": "ml", "code": ["118565006", "SCT", "Volume"]}],
        }
        for number in range(5)
    ],
    "seconds": {"fetch": 1.5, "load": 0.9, "model": 55.2, "write": 0.7},
    "pictures": [],
}
"""What a worker writes down of a job."""


class _Stop(Event):
    """What the archivist's threads wait by."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.wait(timeout or 0.0)
        return self.is_set()


class _TimedLedger:
    """The ledger, with a note of how long each call took. The clock goes on by as much."""

    def __init__(self, ledger: Ledger, clock: Clock, *, takes_time: bool) -> None:
        self._ledger, self._clock, self._takes_time = ledger, clock, takes_time
        self.spent: dict[str, Spent] = defaultdict(Spent)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._ledger, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started, busy = time.perf_counter(), time.thread_time()
            try:
                return method(*arguments, **named)
            finally:
                seconds = time.perf_counter() - started
                self.spent[name].add(seconds, processor_s=time.thread_time() - busy)
                if self._takes_time:
                    self._clock.take(seconds)

        self.__dict__[name] = timed
        return timed


class _Orthanc:
    """What the archivist asks of an archive. It holds what was retrieved and not removed."""

    def __init__(self, instances: int) -> None:
        self._studies: dict[str, str] = {}
        numbers = range(instances)
        self._series = ArchivedSeries(
            orthanc_id="series",
            tags={"Modality": "CT", "SeriesInstanceUID": "2.25.1"},
            instances={f"instance {number}": f"2.25.1.{number}" for number in numbers},
            copies={f"instance {number}": f"file {number}" for number in numbers},
        )
        self.most = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def take_in(self, study_instance_uid: str) -> None:
        self._studies[f"study {study_instance_uid}"] = study_instance_uid
        self.most = max(self.most, len(self._studies))

    def studies_with(self, study_instance_uid: str) -> list[str]:
        orthanc_id = f"study {study_instance_uid}"
        return [orthanc_id] if orthanc_id in self._studies else []

    def study(self, orthanc_id: str) -> ArchivedStudy:
        if orthanc_id not in self._studies:
            raise SourceGone("expected the study, found none")
        uid = self._studies[orthanc_id]
        return ArchivedStudy(orthanc_id=orthanc_id, study_instance_uid=uid, tags={}, series=[self._series])

    def header(self, _instance: str) -> dict[str, str]:
        return {"StudyDate": "20200102", "Modality": "CT", "Manufacturer": "Maker", "PatientSex": "F"}

    def size_of(self, _orthanc_id: str) -> tuple[int, int]:
        return len(self._series.instances), BYTES

    def arrivals(self, _orthanc_id: str) -> list[Any]:
        return []

    def watch(self, _study_instance_uid: str, *, aet: str) -> None:
        pass

    def was_alone(self, _study_instance_uid: str) -> bool:
        return True

    @contextlib.contextmanager
    def held(self, _study_instance_uids: object) -> Iterator[None]:
        yield

    def unwatch(self, _study_instance_uid: str) -> None:
        pass

    def delete_study(self, orthanc_id: str) -> None:
        self._studies.pop(orthanc_id, None)


class _Source:
    """An archive elsewhere, one association of it."""

    def __init__(self, clock: Clock, orthanc: _Orthanc, scenario: Scenario, chance: random.Random) -> None:
        self._clock, self._orthanc, self._scenario, self._chance = clock, orthanc, scenario, chance

    def stated(self, _study_instance_uid: str) -> int:
        return self._scenario.instances

    def retrieve(self, study_instance_uid: str) -> Retrieved:
        self._clock.wait(_about(self._scenario.retrieve_s, self._chance))
        if self._chance.random() < self._scenario.incomplete:
            raise StudyIncomplete("expected 300 instances, found 299")
        self._orthanc.take_in(study_instance_uid)
        return Retrieved(instances=self._scenario.instances, bytes=BYTES)

    def abort(self) -> None:
        pass


def _about(mean: float, chance: random.Random) -> float:
    """A lognormal time with this mean: most a little less, some far more."""
    sigma = 0.5
    return chance.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) if mean > 0 else 0.0


class Simulation:
    """A run from where it stands to its end."""

    def __init__(self, ledger: Ledger, folder: Path, run_id: str, scenario: Scenario) -> None:
        found = ledger.run(run_id)
        if found is None:
            raise ValueError(f"expected a run {run_id} in the ledger, found none")
        self._attended = Attended(found)
        self._clock = Clock(BEGIN)
        self._timed = _TimedLedger(ledger, self._clock, takes_time=scenario.takes_time)
        self._ledger = cast(Ledger, self._timed)
        self._scenario, self._run_id, self._folder = scenario, run_id, folder
        self._chance = random.Random(scenario.seed)  # noqa: S311  # times, and no secrets
        self._orthanc = _Orthanc(scenario.instances)
        self._stop = _Stop(self._clock)
        self._bell = Bell(self._clock)
        self._parts: dict[str, Spent] = defaultdict(Spent)
        self._settings = Settings()
        of_each = scenario.retrieve_s / scenario.associations + scenario.model_s / scenario.workers
        self._latest_s = 100_000 + 10 * scenario.simulate * of_each
        """When something must be wrong."""

    def run(self, *, load_s: float) -> Outcome:
        """Raises what breaks."""
        started = time.perf_counter()
        self._attend()
        with RunStore(self._folder) as store:
            for _ in range(self._scenario.associations):
                self._clock.begin(self._lane(store).run)
            self._clock.begin(lambda: self._wind_up(store))
            self._clock.begin(lambda: self._every(ATTEND_S, self._attend, "archivist's leases"))
            self._clock.begin(lambda: self._every(self._settings.intake.poll_s, self._settle, "intake"))
            self._clock.begin(lambda: self._every(1.0, self._judge, "alerts"))
            for number in range(self._scenario.workers):
                self._clock.begin(lambda number=number: self._work(f"worker {number}"))  # type: ignore[misc]
            self._clock.run()
        after = self._ledger.run(self._run_id)
        if after is None or after.ended_at is None:
            raise ValueError(f"expected that run {self._run_id} is over, found {after and after.state}")
        return Outcome(
            scenario=self._scenario,
            states={state.value: after.count(state) for state in RunStudyState if after.count(state)},
            simulated_s=(after.ended_at - BEGIN).total_seconds(),
            wall_s=time.perf_counter() - started,
            load_s=load_s,
            peak_mb=status_mb("VmHWM"),
            most_in_flight=self._orthanc.most,
            operations=dict(self._timed.spent),
            parts=dict(self._parts),
        )

    def _every(self, seconds: float, do: Callable[[], None], part: str) -> None:
        while True:
            self._as(part, do)
            self._clock.wait(seconds)

    def _as(self, part: str, do: Callable[[], Any]) -> Any:
        """What ``do`` gives. It must not wait."""
        started, busy = time.perf_counter(), time.thread_time()
        try:
            return do()
        finally:
            self._parts[part].add(time.perf_counter() - started, processor_s=time.thread_time() - busy)

    # The archivist -----------------------------------------------------------------------------------------------

    def _attend(self) -> None:
        runs = self._ledger.attend_runs(archivist=ARCHIVIST, at=self._clock.now(), lease=LEASE)
        mine = [run for run in runs if run.run_id == self._run_id]
        if self._clock.seconds > self._latest_s:
            raise CoreadError(
                f"expected that the run ends within {self._latest_s:.0f} simulated seconds, found that it goes on"
            )
        if mine:
            self._attended.run = mine[0]
        else:
            self._stop.set()
            self._clock.end()

    def _lane(self, store: RunStore) -> Lane:
        @contextlib.contextmanager
        def open_source() -> Iterator[Retriever]:
            yield _Source(self._clock, self._orthanc, self._scenario, self._chance)

        return Lane(
            self._attended,
            ledger=self._ledger,
            connect=lambda: cast(Archive, self._orthanc),
            open_source=open_source,
            bringer=Bringer(user=USER),
            store=store,
            pseudonyms=None,
            settings=ArchivistSettings(),
            archivist=ARCHIVIST,
            stop=self._stop,
            clock=self._clock.now,
        )

    def _wind_up(self, store: RunStore) -> None:
        archive = cast(Archive, self._orthanc)
        collector = Collector(archive=archive, store=store, terms=self._attended.run.terms, pseudonyms=None)
        wind_up = WindUp(
            self._attended,
            ledger=self._ledger,
            archive=archive,
            collector=collector,
            bringer=Bringer(user=USER),
            clock=self._clock.now,
        )
        looked_at = self._clock.seconds
        while True:
            had_something = self._as("winding up", wind_up.step)
            if self._clock.seconds - looked_at > STUCK_S:
                looked_at = self._clock.seconds
                self._as("winding up", wind_up.see_to_stuck)
            self._clock.wait(0.0 if had_something else POLL_S)

    # The plugin --------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """What the intake asks of the ledger in one round, for studies that runs have brought."""
        now = self._clock.now()
        for arriving in self._ledger.arriving():
            uid = arriving.orthanc_id.removeprefix("study ")
            wanted = self._ledger.wanted_by_runs(uid, at=now)
            links = [
                RunLink(run_id=each.run_id, position=each.position, models=each.terms.models)
                for each in wanted
                if each.state in (RunStudyState.HERE, RunStudyState.READING)
            ]
            job = job_of(uid, at=now)
            self._ledger.settle(arriving, [job], present_uids=(), at=now, for_runs=[job.job_id], links=links)
        self._ledger.reclaim(at=now, attempts=self._settings.worker.attempts)
        for _ in self._ledger.queue_due(at=now):
            self._bell.ring()
        self._ledger.outdated(at=now)

    def _judge(self) -> None:
        """What the alerts ask of the ledger where nothing is to be raised."""
        due = [job.job_id for job, _ in self._ledger.findings_due()]
        if due:
            self._ledger.note_nothing_to_raise(due, at=self._clock.now())

    # A worker ----------------------------------------------------------------------------------------------------

    def _work(self, worker: str) -> None:
        length = timedelta(seconds=self._settings.worker.lease_s)
        renewed_s = length.total_seconds() / HEARTBEATS_PER_LEASE
        while True:
            job = self._as("workers", lambda: self._ledger.claim(worker=worker, at=self._clock.now(), lease=length))
            if job is None:
                self._bell.wait(LOOK_EVERY_S)
                continue
            left = _about(self._scenario.model_s, self._chance)
            while left > renewed_s:
                self._clock.wait(renewed_s)
                left -= renewed_s
                self._as("workers", lambda: self._renew(job, worker, length))  # noqa: B023  # called at once
            self._clock.wait(left)
            if self._chance.random() < self._scenario.refused:
                self._as("workers", lambda: self._finish(job, worker, JobState.REFUSED))  # noqa: B023
                continue
            self._as("workers", lambda: self._begin_to_store(job, worker))  # noqa: B023
            self._clock.wait(STORE_S)
            self._as("workers", lambda: self._finish(job, worker, JobState.DONE))  # noqa: B023

    def _renew(self, job: Job, worker: str, length: timedelta) -> None:
        self._ledger.renew(job.job_id, worker=worker, at=self._clock.now(), lease=length)

    def _begin_to_store(self, job: Job, worker: str) -> None:
        result = {**RESULT, "sop_instance_uids": [f"2.25.{job.job_id.encode().hex()}.{each}"[:64] for each in (1, 2)]}
        self._ledger.start_storing(job.job_id, worker=worker, result=result, at=self._clock.now())
        self._ledger.outdated_uids(job)

    def _finish(self, job: Job, worker: str, state: JobState) -> None:
        reason = "" if state is JobState.DONE else "expected a CT with contrast, found one without"
        # If the machine stood still for longer than a lease, the job is another worker's by now, and not this one's.
        self._ledger.finish(job.job_id, state, worker=worker, reason=reason, at=self._clock.now())


def job_of(study_instance_uid: str, *, at: datetime) -> Job:
    """The job of a simulated study."""
    key = uuid.uuid5(uuid.NAMESPACE_OID, study_instance_uid).hex
    return Job(
        job_id=key,
        study_instance_uid=study_instance_uid,
        orthanc_id=f"study {study_instance_uid}",
        model=MODEL,
        model_version=VERSION,
        fingerprint=key * 2,
        revision=key * 2,
        profiles=(Profile.OHIF,),
        priority=Priority.BATCH,
        created_at=at,
    )


def uid_of(run_id: str, position: int) -> str:
    """The StudyInstanceUID of a study of a run."""
    return f"2.25.{1 if run_id == 'cohort' else 2}{position:012}"

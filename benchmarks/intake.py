"""What the intake costs: C-STORE with and without the plugin, studies per hour, and the ledger as it grows.

Each compares ways in one run and in interleaved rounds; read the ratios.
"""

import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa
from pydicom.dataset import Dataset

from coread.benchmarks.no_op import NAME, THRESHOLD, approve, write_no_op_model
from coread.benchmarks.samples import SHAPE, SPACING_MM
from coread.dicom_files import series_of, write_files
from coread.errors import ArchiveUnavailable, ConfigurationError
from coread.job import ENDED, Job, JobState, Priority
from coread.ledger import Ledger
from coread.objects import Profile
from coread.orthanc_process import child_environment, free_port, orthanc_configuration
from coread.settings import Settings, load_settings
from coread.supervisor import Supervisor
from coread.volume import Volume

STORESCU = "storescu"
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 900.0
WORKERS = (1, 2)
MOST_STARTS = 3
"""Rounds in which everything is started anew; each takes a minute."""
LEASE = timedelta(minutes=1)
LISTED = 100
"""How many of the newest jobs are listed, as a page would."""
STATES: Mapping[JobState, float] = {
    JobState.DONE: 0.85,
    JobState.WAITING: 0.1,
    JobState.REFUSED: 0.03,
    JobState.FAILED: 0.01,
    JobState.SUPERSEDED: 0.01,
}
"""What an older ledger holds after an outage: most is done, a tenth waits."""
EVENTS = (None, JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.STORING, JobState.DONE)
AT_ONCE = 5000
"""Rows in one statement."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    slices: int = SHAPE[0]
    studies: int = 60
    few_jobs: int = 1_000
    many_jobs: int = 100_000


SMALL = Scale(slices=10, studies=4, few_jobs=100, many_jobs=1_000)
"""Enough to see that it runs."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One thing done in two ways: the ratio of the second's median to the first's, and both medians."""

    what: str
    ratio: float
    first: float
    second: float
    unit: str
    note: str = ""


def intake(folder: Path, *, repeats: int, scale: Scale, databases: Sequence[str]) -> dict[str, list[Comparison]]:
    """All three. ``databases``: SQLAlchemy URLs of databases that the ledger is measured in, beside SQLite; each gets
    two schemas, which are dropped in the end.
    """
    found = {
        "C-STORE, without and with the plugin": [
            c_store_cost(folder / "c-store", repeats=repeats, slices=scale.slices)
        ],
        "studies per hour, no-op model": [throughput(folder / "throughput", repeats=repeats, studies=scale.studies)],
    }
    urls = {"SQLite": f"sqlite:///{folder}/", **{sa.make_url(url).get_backend_name(): url for url in databases}}
    for name, url in urls.items():
        title = f"ledger in {name}, {scale.few_jobs} and {scale.many_jobs} jobs"
        found[title] = ledger_growth(url, repeats=repeats, few=scale.few_jobs, many=scale.many_jobs)
    return found


def medians_of(ways: Mapping[str, Callable[[], float]], *, repeats: int) -> dict[str, float]:
    """Each way once to warm up, then ``repeats`` interleaved rounds. A way returns what it measured of itself."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            measured[name].append(way())
    return {name: statistics.median(each) for name, each in measured.items()}


# C-STORE -------------------------------------------------------------------------------------------------------------


def c_store_cost(folder: Path, *, repeats: int, slices: int) -> Comparison:
    """Seconds to send one CT study to two Orthancs that run side by side, one of them without the plugin.

    The study is deleted after each round, so that every round stores.
    """
    program = shutil.which(STORESCU)
    if program is None:
        raise ConfigurationError(f"expected {STORESCU} on the PATH, found none; install Debian's dcmtk")
    sent = write_files(_ct_study(slices), folder / "sent")
    with orthanc(folder / "plain", plugin=False) as plain, orthanc(folder / "coread", plugin=True) as with_plugin:

        def send(settings: Settings) -> float:
            port = str(settings.orthanc.dicom_port)
            command = [program, "-aec", settings.orthanc.aet, "127.0.0.1", port, *map(str, sent)]
            started = time.perf_counter()
            done = subprocess.run(
                command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - started
            _delete_studies(settings, instances=len(sent), said=done.stderr)
            return seconds

        medians = medians_of({"without": lambda: send(plain), "with": lambda: send(with_plugin)}, repeats=repeats)
    return _compared(
        f"{slices} slices of {SHAPE[1]} by {SHAPE[2]}", medians, unit="s", note="storescu, one association"
    )


def _ct_study(slices: int) -> list[Dataset]:
    pixels = np.random.default_rng(1).integers(-1000, 1000, (slices, *SHAPE[1:]), dtype=np.int16)
    return series_of(
        Volume.of(pixels, directions=np.eye(3)[::-1], spacing=SPACING_MM), modality="CT", **_words("c-store")
    )


def _words(name: str) -> dict[str, str]:
    return {
        "name": f"benchmark {name}",
        "patient_id": "BENCHMARK",
        "patient_name": "BENCHMARK^GENERATED",
        "study_description": "generated",
        "series_description": "generated",
        "body_part": "ABDOMEN",
    }


@contextlib.contextmanager
def orthanc(folder: Path, *, plugin: bool, more: str = "") -> Iterator[Settings]:
    """An Orthanc as `coread up` configures it; without ``plugin``, Orthanc's own Python plugin is left out, too.
    ``more``: of its settings file.
    """
    folder.mkdir(parents=True)
    settings_file = folder / "coread.toml"
    ports = f"http_port = {free_port()}\ndicom_port = {free_port()}\n"
    settings_file.write_text(f'data_folder = "data"\n[orthanc]\n{ports}{more}', encoding="utf-8")
    settings = load_settings(settings_file)
    configuration = orthanc_configuration(settings)
    if not plugin:
        del configuration["PythonScript"]
        configuration["Plugins"] = [path for path in _paths(configuration["Plugins"]) if "Python" not in path]
    (settings.data_folder / "orthanc").mkdir(parents=True)
    (folder / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    command = [settings.orthanc.executable, str(folder / "orthanc.json")]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=child_environment(settings_file), stdout=log, stderr=log)
        try:
            _wait_for(url_of(settings), process, folder / "log.txt")
            yield settings
        finally:
            process.terminate()
            process.wait()


def _paths(value: object) -> list[str]:
    return [str(path) for path in value] if isinstance(value, list) else []


def url_of(settings: Settings) -> str:
    return f"http://127.0.0.1:{settings.orthanc.http_port}"


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/system", trust_env=False).raise_for_status()
            return
        time.sleep(0.1)
    raise ArchiveUnavailable(f"Orthanc did not start: {log.read_text(encoding='utf-8')[-500:]}")


def _delete_studies(settings: Settings, *, instances: int, said: str) -> None:
    """Raises ArchiveUnavailable if fewer instances than ``instances`` had been stored."""
    with httpx.Client(base_url=url_of(settings), timeout=60, trust_env=False) as http:
        stored = http.get("/statistics").json()["CountInstances"]
        if stored != instances:
            raise ArchiveUnavailable(f"expected {instances} instances in Orthanc, found {stored}: {said[-500:]}")
        for study in http.get("/studies").json():
            http.delete(f"/studies/{study}").raise_for_status()


# Throughput ----------------------------------------------------------------------------------------------------------


def throughput(folder: Path, *, repeats: int, studies: int) -> Comparison:
    """Studies per hour with one worker and with two, from the first job's start to the last job's end."""
    measured: dict[str, list[float]] = {f"{count} workers": [] for count in WORKERS}
    for _ in range(min(repeats, MOST_STARTS)):  # each round starts everything anew: there is nothing to warm up
        for count in WORKERS:
            per_hour = _studies_per_hour(folder / uuid.uuid4().hex, count, studies=studies)
            measured[f"{count} workers"].append(per_hour)
    medians = {name: statistics.median(each) for name, each in measured.items()}
    return _compared(
        f"{studies} studies of 5 slices, 1 and 2 workers", medians, unit="/h", note="everything on this machine"
    )


def _studies_per_hour(folder: Path, workers: int, *, studies: int) -> float:
    folder.mkdir(parents=True)
    write_no_op_model(folder / "models")
    settings_file = folder / "coread.toml"
    settings_file.write_text(
        'data_folder = "data"\n[orthanc]\nhttp_port = 0\ndicom_port = 0\n[intake]\nquiet_s = 2\npoll_s = 0.1\n'
        f"[worker]\nprocesses = {workers}\n"
        f'[models]\nfolders = ["models"]\n[[route]]\nname = "all"\nmodels = ["{NAME}"]\n',
        encoding="utf-8",
    )
    approve(NAME, load_settings(settings_file))
    files = [
        file for number in range(studies) for file in write_files(_mr_study(number), folder / "sent" / str(number))
    ]
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        ledger = Ledger(running.settings.ledger_url)
        with httpx.Client(base_url=running.http_url, timeout=60, trust_env=False) as http:
            for file in files:
                http.post("/instances", content=file.read_bytes()).raise_for_status()
        deadline = time.monotonic() + END_TIMEOUT_S

        def ended() -> bool:
            states = [record.state for record in ledger.jobs(limit=10 * studies)]
            return time.monotonic() > deadline or (len(states) >= studies and set(states) <= ENDED)

        running.watch(ended, pause_s=0.5)
        records = ledger.jobs(limit=10 * studies)
        done = [record.job.job_id for record in records if record.state is JobState.DONE]
        if len(done) != studies:
            raise ArchiveUnavailable(f"expected {studies} studies to be read, found {len(done)}")
        events = [event for job_id in done for event in ledger.history(job_id)]
    began = min(event.at for event in events if event.to_state is JobState.RUNNING)
    over = max(event.at for event in events if event.to_state is JobState.DONE)
    return 3600 * studies / (over - began).total_seconds()


def _mr_study(number: int) -> list[Dataset]:
    array = np.random.default_rng(number).integers(0, THRESHOLD, (5, 24, 20)).astype(np.int16)
    array[1:4, 6:14, 6:14] += THRESHOLD
    volume = Volume.of(array, directions=np.eye(3)[::-1], spacing=(5.0, 1.5, 1.5))
    return series_of(volume, modality="MR", **_words(f"throughput {number}"))


# The ledger ----------------------------------------------------------------------------------------------------------


def ledger_growth(url: str, *, repeats: int, few: int, many: int) -> list[Comparison]:
    """Seconds of each of the ledger's operations where it holds few jobs and where it holds many."""
    repeats = max(repeats, 5)
    with _filled(url, few) as small, _filled(url, many) as large:
        rounds = [
            (_operations(small, number), _operations(large, number))
            for number in range(repeats + 1)  # the first is to warm up
        ][1:]
    return [
        _compared(
            name,
            {
                "few": statistics.median(each[0][name] for each in rounds),
                "many": statistics.median(each[1][name] for each in rounds),
            },
            unit="s",
        )
        for name in rounds[0][0]
    ]


def _operations(ledger: Ledger, number: int) -> dict[str, float]:
    """What one study costs on its way through, operation by operation, in seconds."""
    now = datetime.now(UTC)
    job = _job(f"new {number}", at=now)
    worker = f"worker {number}"
    result = {"sop_instance_uids": [f"2.25.{number}"]}
    seconds: dict[str, float] = {}

    def timed(name: str, do: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        answer = do()
        seconds[name] = time.perf_counter() - started
        return answer

    arrived = {job.orthanc_id: number + 1}
    timed(
        "note_arrivals",
        lambda: ledger.note_arrivals(arrived, archive_identity="benchmark", last_change=number + 1, at=now),
    )
    (arriving,) = timed("arriving", ledger.arriving)
    timed("settle", lambda: ledger.settle(arriving, [job], present_uids=(), at=now))
    timed("outdated", lambda: ledger.outdated(at=now))
    timed("reclaim", lambda: ledger.reclaim(at=now, attempts=10))
    timed("queue_due", lambda: ledger.queue_due(at=now))
    taken = timed("claim", lambda: ledger.claim(worker=worker, at=now, lease=LEASE)).job_id  # the oldest
    timed("renew", lambda: ledger.renew(taken, worker=worker, at=now, lease=LEASE))
    timed("start_storing", lambda: ledger.start_storing(taken, worker=worker, result=result, at=now))
    timed("outdated_uids", lambda: ledger.outdated_uids(job))
    ended = timed("finish", lambda: ledger.finish(taken, JobState.DONE, worker=worker, result=result, at=now))
    if not ended:
        raise RuntimeError("the job was not to be had: what was measured is not what it is called")
    timed(f"list {LISTED} jobs", lambda: ledger.jobs(limit=LISTED))
    timed("list a study's jobs", lambda: ledger.jobs(study_instance_uid=job.study_instance_uid))
    timed("history", lambda: ledger.history(job.job_id))
    return seconds


def _job(name: str, *, at: datetime) -> Job:
    key = uuid.uuid5(uuid.NAMESPACE_OID, name)
    return Job(
        job_id=key.hex,
        study_instance_uid=f"2.25.{key.int}",
        orthanc_id=f"study {key.hex}",
        model=NAME,
        model_version="1.0.0",
        fingerprint=key.hex,
        revision=key.hex,
        profiles=(Profile.OHIF,),
        priority=Priority.ROUTINE,
        created_at=at,
    )


@contextlib.contextmanager
def _filled(url: str, count: int) -> Iterator[Ledger]:
    """A ledger of its own with so many jobs."""
    name = f"coread_bench_{uuid.uuid4().hex[:8]}"
    with _room(sa.make_url(url), name) as place:
        ledger = Ledger(place)
        ledger.migrate()
        engine = sa.create_engine(place)
        try:
            _fill(ledger, engine, count)
            yield ledger
        finally:
            engine.dispose()
            ledger.close()


@contextlib.contextmanager
def _room(url: sa.URL, name: str) -> Iterator[str]:
    """A file, or a schema in a database that there is."""
    if url.get_backend_name() == "sqlite":
        yield f"sqlite:///{Path(str(url.database)) / name}.sqlite"
        return
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(name))
        yield url.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))
    finally:
        engine.dispose()


def _fill(ledger: Ledger, engine: sa.Engine, count: int) -> None:
    """One job is recorded as the intake does it; the others are copies of its row, with another identity and state."""
    then = datetime.now(UTC) - timedelta(days=30)
    first = _job("first", at=then)
    ledger.note_arrivals({first.orthanc_id: 1}, archive_identity="benchmark", last_change=1, at=then)
    (arriving,) = ledger.arriving()
    ledger.settle(arriving, [first], present_uids=(), at=then)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    jobs, events = metadata.tables["job"], metadata.tables["job_event"]
    with engine.begin() as connection:
        row = dict(connection.execute(sa.select(jobs)).mappings().one())
        event = dict(connection.execute(sa.select(events)).mappings().one())
        del event["event_id"]
        states = np.random.default_rng(1).choice(list(STATES), count - 1, p=list(STATES.values()))
        for start in range(0, count - 1, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count - 1))
            copies = [
                {**row, **_identity_of(_job(f"old {number}", at=then + timedelta(seconds=number))), "state": state}
                for number, state in zip(numbers, map(str, states[start : start + AT_ONCE]), strict=False)
            ]
            connection.execute(sa.insert(jobs), copies)
            connection.execute(
                sa.insert(events),
                [
                    {**event, "job_id": copy["job_id"], "from_state": old, "to_state": new}
                    for copy in copies
                    for old, new in itertools.pairwise(EVENTS)
                ],
            )


def _identity_of(job: Job) -> dict[str, object]:
    names = ("job_id", "study_instance_uid", "orthanc_id", "fingerprint", "revision", "created_at")
    return {name: getattr(job, name) for name in names}


def _compared(what: str, medians: Mapping[str, float], *, unit: str, note: str = "") -> Comparison:
    first, second = medians.values()
    return Comparison(what=what, ratio=second / first, first=first, second=second, unit=unit, note=note)

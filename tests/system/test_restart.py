"""Workers are restarted one after the other while studies are read, gently and not: each study is read exactly once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from coread.job import ENDED, JobState
from coread.ledger import JobRecord, Ledger
from coread.models.catalogue import State, packages
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.faults.cases import MODEL, Pacs, write_cases, write_model
from tests.faults.trial import KNOWN_LEAKS
from tests.services import kill_tree
from tests.support import approve, program
from tests.system.conftest import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), *KNOWN_LEAKS]

STUDIES, SENDING_S = 20, 25.0
SLOW_S = 1.0
"""So long the model takes, so that a restart finds a job in hand."""
STOPPED_S = 30.0
SETTINGS = """
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
[intake]
quiet_s = 1.0
poll_s = 0.1
min_free_gb = 0.02
[worker]
processes = 2
lease_s = 4
retry_delay_s = 0.5
device = "cpu"
[models]
folders = ["{models}"]
[[route]]
name = "all"
models = ["{model}"]
"""


@contextmanager
def coread(folder: Path) -> Iterator[System]:
    """A Coread with two workers, whose model takes its time."""
    bundle = write_model(folder / "models")
    inference = bundle / "configs" / "inference.json"
    slow = inference.read_text().replace("$lambda x: (x >", f"$lambda x: __import__('time').sleep({SLOW_S}) or (x >", 1)
    assert "sleep" in slow
    inference.write_text(slow)
    file = folder / "coread.toml"
    file.write_text(SETTINGS.format(models=folder / "models", model=MODEL), encoding="utf-8")
    settings = load_settings(file)
    for package in packages(settings):
        if package.model and package.state is not State.SHIPPED:
            approve(package.model, settings)
    with Supervisor(settings, settings_file=file) as running:
        system = System(running, folder)
        with system.archive:
            yield system


def test_workers_that_are_restarted_one_by_one_read_each_study_once(tmp_path: Path) -> None:
    program("Orthanc")
    with coread(tmp_path) as system:
        ledger = Ledger(system.running.settings.ledger_url)
        cases = write_cases(tmp_path / "sent", STUDIES, seed=7)
        pacs = Pacs(cases, system.running.settings.orthanc.dicom_port, SENDING_S, seed=7)
        pacs.start()
        for name in ("worker", "worker-2"):
            held = system.wait(partial(job_of, system, ledger, name))
            began = time.monotonic()
            system.process(name).send_signal(signal.SIGTERM)
            system.process(name).wait(STOPPED_S)
            assert time.monotonic() - began < STOPPED_S
            record = ledger.job(held.job.job_id)
            assert record is not None
            assert record.state in ENDED, "told to stop, it ends its job first"
            assert record.attempts == 1
            system.wait(partial(is_back, system, name))
        held = system.wait(partial(job_of, system, ledger, "worker"))
        kill_tree(system.process("worker").pid)
        system.wait(lambda: pacs.is_done)
        pacs.stop()

        def ended() -> list[JobRecord]:
            records = ledger.jobs(limit=1000)
            is_over = len(records) >= STUDIES and all(record.state in ENDED for record in records)
            return records if is_over and not ledger.arriving() else []

        records = [record for record in system.wait(ended) if record.state is not JobState.SUPERSEDED]
        assert sorted(record.state for record in records) == sorted(case.end for case in cases)
        for record in records:
            ends = [event.to_state for event in ledger.history(record.job.job_id) if event.to_state in ENDED]
            assert len(ends) == 1, "read once"
            study = system.archive.study(record.job.orthanc_id)
            assert set(study.others.values()) == record.result_uids
        (killed,) = (record for record in records if record.job.job_id == held.job.job_id)
        assert killed.attempts == 2, "what was in hand of the one that was killed is done by another"
        ledger.close()


def is_back(system: System, name: str) -> bool:
    """Whether a process that has ended was started again."""
    return bool(system.process(name).poll() is None)


def job_of(system: System, ledger: Ledger, name: str) -> JobRecord | None:
    """What a worker is reading now."""
    pid = system.process(name).pid
    running = ledger.jobs(states=[JobState.RUNNING])
    return next((each for each in running if f":{pid}:" in (each.worker or "")), None)

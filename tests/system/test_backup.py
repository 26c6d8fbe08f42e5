"""A backup is taken while studies arrive; whatever of it is put back, everything catches up.

What was put back may be the ledger alone, Orthanc alone, or both. Each study is read, its results are those that it
had, byte for byte, and nobody gets an object that differs from one with the same UID that he has already.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coread.job import ENDED
from coread.ledger import JobRecord, Ledger
from coread.models.catalogue import State, packages
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.destinations import Scp
from tests.faults.cases import MODEL, Case, Pacs, write_cases, write_model
from tests.faults.trial import KNOWN_LEAKS
from tests.faults.verdict import standing
from tests.support import approve, program
from tests.system.conftest import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), *KNOWN_LEAKS]

BEFORE, MEANWHILE, AFTER = 6, 6, 4
"""How many studies are sent before, while and after the backup is taken."""
SENDING_S = 10.0
SETTINGS = """
data_folder = "{data}"
[orthanc]
http_port = 0
dicom_port = 0
[intake]
quiet_s = 1.0
poll_s = 0.1
min_free_gb = 0.02
[worker]
lease_s = 4
retry_delay_s = 0.5
device = "cpu"
[models]
folders = ["{models}"]
[delivery]
retry_delay_s = 0.5
lease_s = 2
[[destination]]
name = "pacs"
protocol = "dimse"
host = "127.0.0.1"
port = {pacs}
aet = "AWKWARD"
storage_commitment = false
[[route]]
name = "all"
models = ["{model}"]
destinations = ["pacs"]
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A Coread whose data folder is put back in several ways, its studies, and the PACS that its results go to."""

    folder: Path
    cases: list[Case]
    pacs: Scp
    results: dict[str, bytes]
    """SOP Instance UID → file, of all results before anything was put back."""

    @property
    def backup(self) -> Path:
        return self.folder / "backup"


@contextmanager
def coread(folder: Path, data: str, *, pacs: Scp) -> Iterator[System]:
    """A Coread that runs on a data folder below ``folder``."""
    file = folder / f"{data}.toml"
    file.write_text(
        SETTINGS.format(data=folder / data, models=folder / "models", pacs=pacs.port, model=MODEL), encoding="utf-8"
    )
    settings = load_settings(file)
    for package in packages(settings):
        if package.model and package.state is not State.SHIPPED:
            approve(package.model, settings)
    with Supervisor(settings, settings_file=file) as running:
        system = System(running, folder)
        with system.archive:
            yield system


def back_up(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "coread", "--config", str(folder / "data.toml"), "backup", "--json"]
    done = subprocess.run([*command, str(folder / "backup")], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def send(system: System, cases: list[Case], *, seconds: float) -> Pacs:
    pacs = Pacs(cases, system.running.settings.orthanc.dicom_port, seconds, seed=5)
    pacs.start()
    return pacs


def send_all(system: System, cases: list[Case], *, seconds: float) -> None:
    pacs = send(system, cases, seconds=seconds)
    system.wait(lambda: pacs.is_done)
    pacs.stop()


def read(system: System, cases: list[Case]) -> list[JobRecord]:
    """The standing job of each study, once all have ended and their results are delivered."""
    ledger = Ledger(system.running.settings.ledger_url)

    def ended() -> list[JobRecord]:
        records = standing(ledger.jobs(limit=1000))
        waiting = [each for each in ledger.deliveries() if each.state in ("waiting", "sending", "sent")]
        is_over = len(records) == len(cases) and all(each.state in ENDED for each in records)
        return records if is_over and not waiting and not ledger.arriving() else []

    found: list[JobRecord] = system.wait(ended)
    ledger.close()
    return found


def results_in(system: System, cases: list[Case]) -> dict[str, bytes]:
    """Everything in Orthanc that nobody sent, SOP Instance UID → file."""
    sent = {uid for case in cases for uid in case.sop_instance_uids}
    found = {}
    for study in system.archive.all_studies():
        for series in system.archive.study(study).series:
            for instance, uid in series.instances.items():
                if uid not in sent:
                    (found[uid],) = system.archive.files([instance])
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    program("Orthanc")
    folder = tmp_path_factory.mktemp("site")
    write_model(folder / "models")
    cases = write_cases(folder / "sent", BEFORE + MEANWHILE + AFTER, seed=5)
    with Scp() as pacs:
        with coread(folder, "data", pacs=pacs) as system:
            send_all(system, cases[:BEFORE], seconds=1.0)
            read(system, cases[:BEFORE])
            sending = send(system, cases[BEFORE:-AFTER], seconds=SENDING_S)
            said = back_up(folder)
            assert said["parts"][0] == "data/ledger.sqlite"
            system.wait(lambda: sending.is_done)
            sending.stop()
            send_all(system, cases[-AFTER:], seconds=1.0)
            records = read(system, cases)
            assert sorted(record.state for record in records) == sorted(case.end for case in cases)
            results = results_in(system, cases)
            assert results.keys() == {uid for record in records for uid in record.result_uids}
        assert jobs_in(folder / "backup" / "data") < len(cases), "nothing came after the backup"
        yield Site(folder=folder, cases=cases, pacs=pacs, results=results)


def jobs_in(data: Path) -> int:
    ledger = Ledger(f"sqlite:///{data / 'ledger.sqlite'}")
    ledger.check_version()
    count = len(standing(ledger.jobs(limit=1000)))  # a study whose images came with a long pause has had two
    ledger.close()
    return count


def is_as_it_was(site: Site, system: System, cases: list[Case]) -> None:
    records = read(system, cases)
    assert sorted(record.state for record in records) == sorted(case.end for case in cases)
    ours = results_in(system, cases)
    assert ours.keys() == {uid for record in records for uid in record.result_uids}
    assert ours.keys() == site.results.keys()
    assert [uid for uid, file in ours.items() if file != site.results[uid]] == []
    sent: dict[str, set[bytes]] = {}
    for uid, dataset in site.pacs.received:
        sent.setdefault(uid, set()).add(dataset)
    assert {uid: len(contents) for uid, contents in sent.items() if len(contents) > 1} == {}, "two contents of one UID"
    ledger = Ledger(system.running.settings.ledger_url)
    assert ledger.reviews() == [], "our own results were taken for what a person has said"
    ledger.close()


def test_an_older_ledger_beside_a_newer_orthanc_catches_up_by_itself(site: Site) -> None:
    data = site.folder / "older-ledger"
    shutil.copytree(site.folder / "data", data)
    for path in data.glob("ledger.sqlite*"):
        path.unlink()
    shutil.copy(site.backup / "data" / "ledger.sqlite", data)
    with coread(site.folder, data.name, pacs=site.pacs) as system:
        is_as_it_was(site, system, site.cases)


def test_an_older_orthanc_beside_a_newer_ledger_gets_its_results_back_and_the_rest_is_sent_again(site: Site) -> None:
    data = site.folder / "older-orthanc"
    shutil.copytree(site.folder / "data", data)
    shutil.rmtree(data / "orthanc")
    shutil.copytree(site.backup / "data" / "orthanc", data / "orthanc")
    with coread(site.folder, data.name, pacs=site.pacs) as system:
        send_all(system, site.cases, seconds=1.0)
        system.wait(lambda: len(results_in(system, site.cases)) == len(site.results))
        is_as_it_was(site, system, site.cases)
        assert "an older one: all studies are looked at again" in system.logs()


def test_both_put_back_go_on_from_the_backup(site: Site) -> None:
    data = site.folder / "both"
    shutil.copytree(site.backup / "data", data)
    known = jobs_in(data)
    with coread(site.folder, data.name, pacs=site.pacs) as system:
        before = len(site.pacs.received)
        send_all(system, site.cases, seconds=1.0)
        records = read(system, site.cases)
        assert sorted(record.state for record in records) == sorted(case.end for case in site.cases)
        assert results_in(system, site.cases).keys() == site.results.keys(), "the same objects, if from another time"
        assert known <= len(records)
        assert len(site.pacs.received) > before


def test_a_backup_is_brought_up_to_date_and_keeps_nothing_that_is_gone(site: Site) -> None:
    stray = site.backup / "data" / "orthanc" / "00" / "00" / "00000000-0000-0000-0000-000000000000"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.touch()
    said = back_up(site.folder)
    assert not stray.exists()
    assert jobs_in(site.backup / "data") == len(site.cases)
    files = [path for path in (site.backup / "data" / "orthanc").rglob("*") if path.is_file() and path.name != "index"]
    assert len(files) == said["images"]
    assert json.loads((site.backup / "backup.json").read_text())["ended_at"]

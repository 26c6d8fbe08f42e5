"""What a hospital's IT sees of a Coread that runs: numbers, health, and what the doctor says of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coread.metrics import catalogue
from coread.metrics.catalogue import Kind
from coread.orthanc_process import child_environment, free_port
from coread.phantom import short_axis_volume
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.support import images_of, program, volume_in_plane
from tests.system.conftest import System

PROMETHEUS = ("prometheus", "prometheus-secret")
READER = ("ruth", "ruth-secret")
PASSWORDS = {"COREAD_ORTHANC__PASSWORD": "coread-secret"}

NAME, PATIENT_ID, ACCESSION = "PLANTED^OPHELIA", "PLANTED-4711", "PLANTED-ACC"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A Coread with people, a PACS and a destination: both are its own Orthanc, and no route leads there."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("watched")
    dicom_port, settings_file = free_port(), folder / "coread.toml"
    settings_file.write_text(f"""
data_folder = "data"
[orthanc]
http_port = {free_port()}
dicom_port = {dicom_port}
password = "coread-secret"
[access.users.prometheus]
role = "monitor"
password = "prometheus-secret"
[access.users.ruth]
password = "ruth-secret"
[intake]
quiet_s = 1.0
poll_s = 0.1
[[pacs]]
name = "main"
aet = "COREAD"
host = "127.0.0.1"
port = {dicom_port}
[[destination]]
name = "archive"
protocol = "dimse"
host = "127.0.0.1"
port = {dicom_port}
aet = "COREAD"
storage_commitment = false
""")
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        system = System(running, folder)
        with system.archive:
            yield system


def get(system: System, path: str, login: tuple[str, str] | None = PROMETHEUS) -> httpx.Response:
    return httpx.get(f"{system.running.http_url}{path}", auth=login, trust_env=False, timeout=30)


def scraped(system: System) -> dict[str, float]:
    """Sample, with its labels → value."""
    answer = get(system, "/coread/metrics")
    assert answer.is_success
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def command(system: System, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "coread", "--config", str(system.folder / "coread.toml"), *words],
        capture_output=True,
        text=True,
        env={**child_environment(None), "COLUMNS": "250"},
        timeout=120,
        check=False,
    )


DONE = "coread_jobs_ended_total{model=left_ventricle_sax,priority=routine,state=done}"
REFUSED = "coread_jobs_ended_total{model=left_ventricle_sax,priority=routine,state=refused}"


def planted(name: str, **more: Any) -> list[Any]:
    images = images_of(more.pop("volume"), name=name, patient_name=NAME, patient_id=PATIENT_ID, **more)
    for image in images:
        image.AccessionNumber = ACCESSION
    return images


def test_the_numbers_move_as_a_study_goes_through_and_name_nobody(system: System) -> None:
    before = scraped(system)
    assert before[DONE] == before[REFUSED] == 0
    good = planted("numbers", volume=short_axis_volume())
    unfit = planted("unfit", volume=volume_in_plane("axial"), series_description="localizer")
    jobs = [system.job(system.send(images)) for images in (good, unfit)]
    assert [job["state"] for job in jobs] == ["done", "refused"]
    system.wait(lambda: scraped(system)[DONE] == scraped(system)[REFUSED] == 1)
    found = scraped(system)
    assert found["coread_studies_received_total{}"] >= 2
    assert found["coread_job_stage_seconds_count{model=left_ventricle_sax,stage=infer}"] == 1
    assert found["coread_job_turnaround_seconds_count{model=left_ventricle_sax,priority=routine}"] == 1
    assert sum(value for name, value in found.items() if name.startswith("coread_job_reasons_total")) == 1
    assert found["coread_queue_jobs{priority=routine,queue=gpu}"] == 0
    assert found["coread_ready{}"] == found["coread_ledger_up{}"] == found["coread_broker_up{}"] == 1
    assert found["coread_disk_free_bytes{}"] > found["coread_disk_needed_bytes{}"] == 1e9
    assert found["process_resident_memory_bytes{}"] > 1e7
    text = get(system, "/coread/metrics").text
    uids = [image.SOPInstanceUID for image in (*good, *unfit)] + [job["orthanc_id"] for job in jobs]
    uids += [uid for job in jobs for uid in job["result"]["sop_instance_uids"]] + [job["job_id"] for job in jobs]
    secrets = [NAME, "OPHELIA", PATIENT_ID, ACCESSION, good[0].StudyInstanceUID, good[0].SeriesInstanceUID, *uids]
    assert [secret for secret in secrets if str(secret) in text] == []


def test_worker_and_courier_are_seen_with_what_they_have_loaded(system: System) -> None:
    def seen() -> bool:
        found = scraped(system)
        return found["coread_processes{kind=worker}"] == found["coread_processes{kind=courier}"] == 1

    system.wait(seen)
    found = scraped(system)
    assert found["coread_queue_workers{queue=gpu}"] == 1
    (model,) = (name for name in found if name.startswith("coread_worker_model_info"))
    assert "device=cpu" in model or "device=cuda" in model
    assert "model=left_ventricle_sax" in model


def test_counters_survive_a_kill_of_orthanc(system: System) -> None:
    system.job(system.send(planted("survives", volume=volume_in_plane("coronal"), series_description="localizer")))
    system.wait(lambda: scraped(system)[REFUSED] >= 1)
    before = scraped(system)
    system.kill("orthanc")
    system.wait(lambda: get(system, "/coread/health/ready").is_success)
    system.wait(lambda: scraped(system)[REFUSED] >= before[REFUSED])
    after = scraped(system)
    counters = {metric.name for metric in catalogue.METRICS if metric.kind is Kind.COUNTER}
    assert [name for name in before if name.partition("{")[0] in counters and after[name] < before[name]] == []
    assert after["coread_start_time_seconds{}"] > before["coread_start_time_seconds{}"]


def test_who_watches_learns_that_all_is_well_and_nothing_of_a_study(system: System) -> None:
    for path in ("/coread/health", "/coread/health/live", "/coread/health/ready"):
        assert get(system, path).json() == {"status": "ok"}
        assert get(system, path, None).status_code == 401
    for path in ("/coread/jobs", "/coread/studies", "/coread/me", "/studies", "/dicom-web/studies", "/coread/ui"):
        assert get(system, path).status_code == 403, path
    said = get(system, "/coread/health", READER).json()
    assert (said["live"], said["ready"], said["intake"], said["problems"]) == (True, True, "running", [])
    assert get(system, "/coread/metrics", READER).is_success


def test_every_exported_name_is_of_the_catalogue_and_the_other_way_round(system: System) -> None:
    text = get(system, "/coread/metrics").text
    exported = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert exported == {*catalogue.BY_NAME, *catalogue.OF_ORTHANC}


def test_a_container_can_ask_whether_it_is_well(system: System) -> None:
    system.wait(lambda: scraped(system)["coread_processes{kind=worker}"] == 1)
    system.wait(lambda: scraped(system)["coread_processes{kind=courier}"] == 1)
    system.wait(lambda: scraped(system)["coread_processes{kind=archivist}"] == 1)
    for what in ("live", "ready", "worker", "courier", "archivist"):
        done = command(system, "health", what)
        assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout + done.stderr


def test_the_doctor_asks_everybody_and_says_what_was_expected_and_found(system: System) -> None:
    system.wait(lambda: scraped(system)["coread_processes{kind=courier}"] == 1)
    done = command(system, "doctor", "--running", "--json")
    checks = {check["what"]: check for check in json.loads(done.stdout)}
    wrong = {what: check for what, check in checks.items() if check["verdict"] in ("wrong", "missing")}
    assert wrong == {}, done.stderr
    assert done.returncode == 0
    asked = ("Orthanc runs", "plugin", "DICOMweb", "pacs main", "destination archive", "broker", "ledger", "courier")
    assert {checks[what]["verdict"] for what in asked} == {"ok"}
    assert checks["workers of queue gpu"]["found"] == "1 alive"
    assert checks["clock of the ledger"]["verdict"] == "ok"
    assert any(what.endswith(": left_ventricle_sax") and "worker on" in what for what in checks)
    assert checks["settings: destination archive"]["verdict"] == "optional", "no route leads there"
    assert "settings: orthanc.password" not in checks


def test_the_doctor_says_what_is_wrong_with_what_does_not_run(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "coread.toml").write_text(
        f'data_folder = "data"\n[orthanc]\nhttp_port = {port}\ndicom_port = {free_port()}\n'
    )
    system = System.__new__(System)
    system.folder = tmp_path
    done = command(system, "doctor", "--running")
    assert done.returncode == 1, done.stdout
    assert "Orthanc runs" in done.stdout
    assert "no answer" in done.stdout
    unwell = command(system, "health", "ready")
    assert unwell.returncode == 1
    assert unwell.stdout.startswith("not ok")

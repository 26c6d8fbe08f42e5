"""Whole Coread with a PACS: a study goes in, its results arrive there, once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from coread.orthanc_process import free_port
from coread.phantom import short_axis_volume
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.destinations import OrthancServer, orthanc_server
from tests.support import images_of, program
from tests.system.conftest import SETTINGS, System

DESTINATIONS = """
[delivery]
port = {port}
retry_delay_s = 0.5
lease_s = 2
[[destination]]
name = "pacs"
protocol = "dimse"
host = "127.0.0.1"
port = {pacs}
aet = "PACS"
[[destination]]
name = "nowhere"
protocol = "stow"
url = "http://127.0.0.1:1/dicom-web"
[[route]]
name = "everything"
models = ["left_ventricle_sax"]
destinations = ["pacs", "nowhere"]
"""


class Delivering:
    """A running Coread and the PACS that its results go to."""

    def __init__(self, system: System, pacs: OrthancServer, settings_file: Path) -> None:
        self.system, self.pacs = system, pacs
        self._settings_file = settings_file

    def deliveries(self, study: str) -> dict[str, dict[str, Any]]:
        """Destination → the delivery of a study's results to it."""
        url = f"{self.system.running.http_url}/coread/deliveries"
        found = httpx.get(url, params={"study": study}, trust_env=False).json()
        return {each["destination"]: each for each in found}

    def post(self, path: str) -> int:
        return httpx.post(f"{self.system.running.http_url}/coread/{path}", trust_env=False).status_code

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coread", "--config", str(self._settings_file), "deliveries", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def delivering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivering]:
    program("Orthanc")
    folder, port = tmp_path_factory.mktemp("delivering"), free_port()
    with orthanc_server(folder / "pacs", DicomModalities={"us": ["COREAD-OUT", "127.0.0.1", port]}) as pacs:
        settings_file = folder / "coread.toml"
        settings_file.write_text(SETTINGS + DESTINATIONS.format(port=port, pacs=pacs.dicom_port))
        with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
            system = System(running, folder)
            with system.archive:
                yield Delivering(system, pacs, settings_file)


def test_results_arrive_at_the_pacs_and_a_person_sees_what_does_not(delivering: Delivering) -> None:
    system = delivering.system
    study = system.send(images_of(short_axis_volume(), name="delivery"))
    job = system.job(study)
    assert job["state"] == "done"
    system.wait(lambda: delivering.deliveries(study)["pacs"]["state"] == "confirmed")
    ours = {uid: dcmread(BytesIO(file)) for uid, file in system.results(job).items()}
    theirs = {uid: dcmread(BytesIO(file)) for uid, file in delivering.pacs.files().items()}
    assert theirs == ours

    stuck = delivering.deliveries(study)["nowhere"]
    number = stuck["delivery_id"]
    assert stuck["state"] in ("waiting", "sending")
    assert delivering.post(f"deliveries/{number}/cancel") == 200
    assert delivering.post(f"deliveries/{number}/cancel") == 409
    assert delivering.post("deliveries/4711/retry") == 404
    shown = json.loads(delivering.command("show", str(number), "--json").stdout)
    assert shown["history"][-1]["to"] == "cancelled"
    assert delivering.command("retry", str(number)).returncode == 0
    listed = json.loads(delivering.command("list", "--json", "--destination", "nowhere").stdout)
    assert [each["state"] in ("waiting", "sending") for each in listed] == [True]
    assert delivering.command("cancel", str(delivering.deliveries(study)["pacs"]["delivery_id"])).returncode == 1
    assert delivering.command("show", "4711").returncode == 2


def test_a_late_image_brings_new_results_to_the_pacs_and_the_old_ones_stay(delivering: Delivering) -> None:
    system = delivering.system
    images = images_of(short_axis_volume(), name="late")
    study = system.send(images[:-1])
    before = system.job(study)
    system.wait(lambda: delivering.deliveries(study)["pacs"]["state"] == "confirmed")
    system.kill("courier")
    system.send(images[-1:])

    def newer() -> dict[str, Any] | None:
        done = [job for job in system.jobs(study) if job["state"] == "done" and job["job_id"] != before["job_id"]]
        return done[0] if done else None

    after = system.wait(newer)
    uids = {*before["result"]["sop_instance_uids"], *after["result"]["sop_instance_uids"]}
    system.wait(lambda: uids <= set(delivering.pacs.files()))


def test_what_persons_say_of_a_result_follows_it_and_what_they_send_back_is_recognised(delivering: Delivering) -> None:
    system = delivering.system
    study = system.send(images_of(short_axis_volume(), name="reviewed"))
    job = system.job(study)
    path = f"{system.running.http_url}/coread/jobs/{job['job_id']}"

    def reviews() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{path}/reviews", trust_env=False).json()
        return found

    names_the_patient = {"verdict": "reject", "reason": "111219", "comment": "ask Patient Test"}
    assert httpx.post(f"{path}/review", json=names_the_patient, trust_env=False).status_code == 400
    answered = httpx.post(f"{path}/review", json={"verdict": "accept", "name": "Reader^Rita"}, trust_env=False)
    assert (answered.status_code, answered.json()["state"]) == (201, "asked"), answered.text
    (written,) = system.wait(lambda: [each for each in reviews() if each["state"] == "written"])
    signed = {uid for _, uid in written["objects"]}
    system.wait(lambda: {*signed, *job["result"]["sop_instance_uids"]} <= set(delivering.pacs.files()))
    report = dcmread(BytesIO(delivering.pacs.files()[written["sop_instance_uid"]]))
    assert (report.VerificationFlag, report.VerifyingObserverSequence[0].VerifyingObserverName) == (
        "VERIFIED",
        "Reader^Rita",
    )

    edited = next(
        each for each in map(dcmread, map(BytesIO, system.results(job).values())) if each.get("Modality") == "SEG"
    )
    edited.SOPInstanceUID = edited.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    edited.SeriesInstanceUID = generate_uid()
    file = BytesIO()
    edited.save_as(file, enforce_file_format=True)
    system.archive.store(file.getvalue())
    latest = system.wait(lambda: [each for each in reviews() if each["verdict"] == "edited"])[0]
    assert (latest["object_uid"], latest["counts"]) == (edited.SOPInstanceUID, True)
    assert set(latest["comparison"]["dice"].values()) == {1.0}
    assert len(reviews()) == 2
    assert [each["job_id"] for each in system.jobs(study)] == [job["job_id"]]
    assert system.jobs(study)[0]["state"] == "done"

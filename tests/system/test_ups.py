"""The worklist's interface (UPS-RS), with dicomweb-client, a real Orthanc and a real worker."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from click.testing import CliRunner
from pydicom.dataset import Dataset

from coread.cli import coread
from coread.phantom import short_axis_volume
from coread.settings import load_settings
from coread.supervisor import Supervisor
from coread.workitem import uid_of_job
from tests.support import images_of, program, uid_of
from tests.system.conftest import SETTINGS, System
from tests.system.test_main_job import phantom_images
from tests.worklist_client import WorklistClient, code, new_workitem, performed
from tests.worklist_server import AET, WorklistServer, entry

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88"
MODEL = "left_ventricle_sax"
NO_ROUTE = """
[ups]
models = { "LV^99TEST" = "left_ventricle_sax" }
[[route]]
name = "what is called so"
match = { StudyDescription = "by a route" }
models = ["left_ventricle_sax"]
[[route]]
name = "what was ordered so"
match = { RequestedProcedureCodeSequence = "HEART^99TEST" }
models = ["left_ventricle_sax"]
"""


@pytest.fixture(scope="module")
def ris() -> Iterator[WorklistServer]:
    server = WorklistServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, ris: WorklistServer) -> Iterator[System]:
    """A Coread that reads what workitems schedule, and what the modality worklist says was ordered so."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("worklist")
    settings_file = folder / "coread.toml"
    worklist = f'[[worklist]]\nname = "ris"\naet = "{AET}"\nhost = "127.0.0.1"\nport = {ris.port}\n'
    settings_file.write_text(SETTINGS + NO_ROUTE + worklist)
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        system = System(running, folder)
        with system.archive:
            yield system


@pytest.fixture
def client(system: System) -> WorklistClient:
    return WorklistClient(f"{system.running.http_url}/dicom-web")


def refused(call: Callable[[], Any]) -> requests.Response:
    """How a request was refused."""
    with pytest.raises(requests.HTTPError) as error:
        call()
    assert error.value.response is not None
    return error.value.response


def events_if_up(client: WorklistClient, aet: str) -> dict[str, Any] | None:
    try:
        return client.events(aet)
    except requests.ConnectionError:
        return None


def with_transaction(change: Dataset, transaction_uid: str) -> Dataset:
    change.TransactionUID = transaction_uid
    return change


def test_a_workitem_lives_from_its_creation_to_its_end(client: WorklistClient) -> None:
    uid = client.create_workitem(new_workitem(study_instance_uid=uid_of("nobody's")))
    assert [str(each.SOPInstanceUID) for each in client.search_for_workitems(PatientID="SECRET-*")] == [uid]
    assert client.search_for_workitems(PatientID="SECRET-*", ProcedureStepState="COMPLETED") == []

    client.change_state(uid, "IN PROGRESS", transaction_uid="1.2.3")
    second = refused(lambda: client.change_state(uid, "IN PROGRESS", transaction_uid="4.5.6"))
    assert (second.status_code, second.json()["code"]) == (409, "C302")
    assert "inconsistent with the state" in second.headers["Warning"]
    assert "TransactionUID" not in client.retrieve_workitem(uid)

    stranger = refused(lambda: client.update_workitem(uid, with_transaction(performed(), "4.5.6")))
    assert (stranger.status_code, stranger.json()["code"]) == (400, "C301")
    early = refused(lambda: client.change_state(uid, "COMPLETED", transaction_uid="1.2.3"))
    assert (early.status_code, early.json()["code"]) == (409, "C304")
    client.update_workitem(uid, with_transaction(performed(), "1.2.3"))
    client.change_state(uid, "COMPLETED", transaction_uid="1.2.3")

    found = client.retrieve_workitem(uid)
    assert found.ProcedureStepState == "COMPLETED"
    assert str(found.PatientName) == "Scheduled^Patient"
    (procedure,) = found.UnifiedProcedureStepPerformedProcedureSequence
    assert procedure.PerformedProcedureStepEndDateTime == "20260101120500"
    again = client.change_state(uid, "COMPLETED", transaction_uid="1.2.3")
    assert "already in the requested state of COMPLETED" in again.headers["Warning"]


def test_a_schedulers_workitem_starts_the_job_when_the_study_comes_and_ends_with_its_outputs(
    system: System, client: WorklistClient
) -> None:
    images = phantom_images("scheduled")
    study = str(images[0].StudyInstanceUID)
    uid = client.create_workitem(new_workitem(study_instance_uid=study, workitem_code=code("LV"), priority="HIGH"))
    client.subscribe(uid, "WATCHER")
    assert system.send(images) == study
    job = system.job(study)
    assert (job["state"], job["priority"]) == ("done", "stat")
    system.wait(lambda: client.retrieve_workitem(uid).ProcedureStepState == "COMPLETED")
    (procedure,) = client.retrieve_workitem(uid).UnifiedProcedureStepPerformedProcedureSequence
    outputs = {
        str(instance.ReferencedSOPClassUID): str(instance.ReferencedSOPInstanceUID)
        for output in procedure.OutputInformationSequence
        for instance in output.ReferencedSOPSequence
    }
    assert SEG in outputs
    assert any(each.startswith(SR) for each in outputs)
    assert all(system.archive.find_instance(each) for each in outputs.values())

    def told() -> list[str]:
        return [each["report"]["00741000"]["Value"][0] for each in client.events("WATCHER")["events"]]

    system.wait(lambda: "COMPLETED" in told())  # the plugin tells it a moment after it is so
    assert told() == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]


def test_a_workitem_for_a_study_that_is_here_already_starts_its_job(system: System, client: WorklistClient) -> None:
    study = system.send(phantom_images("here before"))
    system.wait(lambda: not system.arriving())
    assert system.jobs(study) == []
    uid = client.create_workitem(new_workitem(study_instance_uid=study, workitem_code=code(MODEL, "99COREAD")))
    assert system.job(study)["state"] == "done"
    assert client.retrieve_workitem(uid).ProcedureStepState == "COMPLETED"


def test_events_come_in_order_over_a_restart_of_orthanc(system: System, client: WorklistClient) -> None:
    uid = client.create_workitem(new_workitem(study_instance_uid=uid_of("watched")))
    client.subscribe(uid, "PATIENT-ONE")
    client.change_state(uid, "IN PROGRESS", transaction_uid="1.2.3")
    first = client.events("PATIENT-ONE")
    system.kill("orthanc")
    system.wait(lambda: events_if_up(client, "PATIENT-ONE") == first)
    client.update_workitem(uid, with_transaction(performed(), "1.2.3"))
    client.change_state(uid, "COMPLETED", transaction_uid="1.2.3")
    later = client.events("PATIENT-ONE", after=first["last"], wait_s=20)
    events = [*first["events"], *later["events"]]
    assert [each["number"] for each in events] == [1, 2, 3]
    states = [each["report"]["00741000"]["Value"][0] for each in events]
    assert states == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert client.events("PATIENT-ONE", after=3, wait_s=0.2)["events"] == []


def test_a_job_that_an_outside_performer_has_claimed_is_read_by_no_worker(
    system: System, client: WorklistClient
) -> None:
    with system.stopped("worker"):  # nobody of ours takes the job first
        study = system.send(images_of_a_route("claimed"))
        (job,) = system.wait(lambda: system.jobs(study))
        uid = uid_of_job(job["job_id"])
        client.change_state(uid, "IN PROGRESS", transaction_uid="1.2.3")
    assert system.jobs(study)[0]["worker"].startswith("outside performer")
    found = client.retrieve_workitem(uid)
    assert (str(found.PatientID), found.ProcedureStepState) == ("TEST-1", "IN PROGRESS")
    client.update_workitem(uid, with_transaction(performed(), "1.2.3"))
    client.change_state(uid, "COMPLETED", transaction_uid="1.2.3")
    assert [each["state"] for each in system.jobs(study)] == ["done"]
    assert system.jobs(study)[0]["attempts"] == 1


def images_of_a_route(name: str) -> list[Dataset]:
    return images_of(short_axis_volume(), name=name, study_description="by a route")


def test_what_was_ordered_decides_who_reads_a_study_and_how_soon(system: System, ris: WorklistServer) -> None:
    images, others = phantom_images("ordered"), phantom_images("ordered for another patient")
    ris.entries = [
        entry(
            patient_id=patient,
            study_instance_uid=str(study[0].StudyInstanceUID),
            accession_number=accession_number,
            procedure=code("HEART"),
            priority="HIGH",
        )
        for patient, study, accession_number in (("TEST-1", images, ""), ("TEST-2", others, "ACC-2"))
    ]
    for image in others:
        image.AccessionNumber = "ACC-2"
    of_another_patient = system.send(others)
    study = system.send(images)
    job = system.job(study)
    assert (job["state"], job["priority"]) == ("done", "stat")
    history = httpx.get(f"{system.running.http_url}/coread/jobs/{job['job_id']}").json()["history"]
    assert "the modality worklist ris has it with priority HIGH" in history[0]["reason"]
    system.wait(lambda: not system.arriving())
    assert system.jobs(of_another_patient) == []
    arguments = ["--config", str(system.folder / "coread.toml"), "routes", "test"]
    port = {"COREAD_ORTHANC__HTTP_PORT": str(system.running.settings.orthanc.http_port)}
    said = CliRunner(env=port).invoke(coread, [*arguments, study]).output
    assert "the modality worklist ris has it with priority HIGH" in said
    assert "yes what was ordered so" in said
    assert f"{MODEL} reads it: stat" in said


def test_a_worklist_that_is_away_holds_up_no_study(system: System, ris: WorklistServer) -> None:
    ris.stop()
    job = system.job(system.send(images_of_a_route("without a worklist")))
    history = httpx.get(f"{system.running.http_url}/coread/jobs/{job['job_id']}").json()["history"]
    assert "the modality worklist ris did not answer" in history[0]["reason"]


def test_nothing_of_a_workitems_patient_is_in_logs_or_the_ledger(system: System, client: WorklistClient) -> None:
    client.create_workitem(new_workitem(study_instance_uid=uid_of("of a patient")))
    ledger = b"".join(path.read_bytes() for path in Path(system.running.settings.data_folder).glob("ledger.sqlite*"))
    assert b"SECRET-17" not in ledger
    assert "SECRET-17" not in system.logs()


def test_the_documented_order_is_understood(client: WorklistClient) -> None:
    page = (Path(__file__).parents[2] / "docs" / "ups.md").read_text(encoding="utf-8")
    body = page.partition("-d '")[2].partition("'\n")[0]
    answer = requests.post(
        client.workitems_url, data=body, headers={"Content-Type": "application/dicom+json"}, timeout=9
    )
    assert answer.status_code == 201, answer.text
    assert answer.headers["Warning"] == "299 coread: The Workitem was created with modifications."
    uid = answer.headers["Location"].rpartition("/")[2]
    assert client.retrieve_workitem(uid).ProcedureStepLabel == "Left ventricle"


def test_what_cannot_be_understood_is_refused_with_what_was_expected(client: WorklistClient) -> None:
    xml = requests.post(
        client.workitems_url, data=b"<x/>", headers={"Content-Type": "application/dicom+xml"}, timeout=9
    )
    assert xml.status_code == 415
    odd = requests.post(client.workitems_url, data=b"[", headers={"Content-Type": "application/dicom+json"}, timeout=9)
    assert (odd.status_code, odd.json()["error"][:13]) == (400, "expected JSON")
    assert refused(lambda: client.retrieve_workitem("1.2.3")).status_code == 404
    assert refused(lambda: client.search_for_workitems(Colour="red")).status_code == 400

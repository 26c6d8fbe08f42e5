"""The main job, through a real Orthanc and a real worker: C-STORE in, SEG and SR back in the same study."""

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom.dataset import Dataset

from coread.cli import coread
from coread.dicom_files import write_files
from coread.job import JobState
from coread.ledger import Ledger
from coread.ledger.jobs import SILENT
from coread.models.runner import BundleRunner
from coread.phantom import short_axis_volume, write_unfit_study
from coread.plugin.worklist.start import INDEX_NAME
from coread.workers.folder import analyze_studies
from coread.workers.study import studies_in_folder
from tests.support import images_of, output_of, texts
from tests.system.conftest import System

FACTS = ("structure", "code", "present", "measurements")


def phantom_images(name: str, *, patient_name: str = "TEST^PATIENT", patient_id: str = "TEST-1") -> list[Dataset]:
    return images_of(short_axis_volume(), name=name, patient_name=patient_name, patient_id=patient_id)


@pytest.fixture(scope="module")
def done(system: System) -> dict[str, Any]:
    """A phantom that was sent, and its job."""
    job = system.job(system.send(phantom_images("main")))
    assert job["state"] == "done", job["reason"]
    return job


def descriptions(system: System, orthanc_id: str) -> list[str]:
    """What the study's series are called."""
    series = system.archive.study(orthanc_id).series
    files = (system.archive.files([next(iter(one.instances))]) for one in series)
    return sorted(str(pydicom.dcmread(io.BytesIO(next(iter(each)))).SeriesDescription) for each in files)


def test_a_segmentation_and_a_report_come_back_into_the_study(system: System, done: dict[str, Any]) -> None:
    study = system.archive.study(done["orthanc_id"])
    modalities = sorted(series.tags["Modality"] for series in study.series)
    assert modalities == ["MR", "SEG", "SR", "SR"]
    present = {uid for series in study.series for uid in series.instances.values()}
    assert set(done["result"]["sop_instance_uids"]) <= present


def test_other_peoples_tools_accept_what_came_back(system: System, done: dict[str, Any], tmp_path: Path) -> None:
    for uid, file in system.results(done).items():
        path = tmp_path / uid
        path.write_bytes(file)
        status, said = output_of("dciodvfy", "-new", path)
        assert status == 0, said
        if pydicom.dcmread(path).Modality == "SR":
            assert output_of("dsrdump", path)[0] == 0
            said = output_of("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "sr.json")[1]
            assert not any(line.startswith("E:") for line in said.splitlines())


def test_our_own_results_start_no_job(system: System, done: dict[str, Any]) -> None:
    # The results arrived before this study, so once it is read, they have been looked at, too.
    assert system.job(system.send(phantom_images("later")))["state"] == "done"
    history = httpx.get(f"{system.running.http_url}/coread/jobs/{done['job_id']}", trust_env=False).json()["history"]
    assert [event["to"] for event in history] == ["waiting", "queued", "running", "storing", "done"]
    assert len(system.jobs(done["study_instance_uid"])) == 1


def test_a_folder_gives_the_same_as_the_plugin(
    system: System, done: dict[str, Any], left_ventricle: BundleRunner, tmp_path: Path
) -> None:
    write_files(phantom_images("main"), tmp_path / "in")
    (outcome,) = analyze_studies(
        studies_in_folder(tmp_path / "in"), ["left_ventricle_sax"], warm=lambda _: left_ventricle, output=tmp_path
    )
    assert outcome.reading is not None
    for theirs, ours in zip(done["result"]["findings"], outcome.reading.summary["findings"], strict=True):
        assert [theirs[fact] for fact in FACTS[:3]] == [ours["structure"], list(ours["code"]), ours["present"]]
        assert [each["value"] for each in theirs["measurements"]] == [each["value"] for each in ours["measurements"]]
    in_orthanc = [pydicom.dcmread(io.BytesIO(file)) for file in system.results(done).values()]
    for stored, result in zip(in_orthanc, outcome.reading.objects, strict=True):
        assert stored.SOPClassUID == result.dataset.SOPClassUID
        assert stored.SOPInstanceUID != result.dataset.SOPInstanceUID, "two objects must not share a UID"
        if "PixelData" in stored:
            assert np.array_equal(stored.pixel_array, result.dataset.pixel_array)
    assert {path.name for path in outcome.files} == {"SEG.dcm", "SR.dcm", "SR-KEY.dcm", "summary.json", "montage.png"}


def test_a_study_that_no_model_fits_is_refused_with_the_reason_and_the_next_goes_through(
    system: System, tmp_path: Path
) -> None:
    unfit = [pydicom.dcmread(path) for path in write_unfit_study(tmp_path)]
    job = system.job(system.send(unfit))
    assert job["state"] == "refused"
    assert "expected a short-axis cardiac MR series" in job["reason"]
    assert "found CT" in job["reason"]
    assert system.job(system.send(phantom_images("next")))["state"] == "done"


def test_a_result_that_became_wrong_does_not_stay_when_the_new_reading_is_refused(system: System) -> None:
    images = phantom_images("became wrong")
    first = system.job(study := system.send(images[:6]))
    assert first["state"] == "done"
    system.send([images[8]])
    system.wait(lambda: sorted(job["state"] for job in system.jobs(study)) == ["refused", "superseded"])
    assert descriptions(system, first["orthanc_id"]) == ["AI Left ventricle not evaluated (RESEARCH)", "cine SAX"]


def test_a_missing_slice_is_refused_and_when_it_comes_the_study_is_read(system: System) -> None:
    images = phantom_images("late slice")
    study = system.send(images[:4] + images[5:])
    job = system.job(study)
    assert job["state"] == "refused"
    assert "a slice is missing" in job["reason"]
    assert descriptions(system, job["orthanc_id"]) == ["AI Left ventricle not evaluated (RESEARCH)", "cine SAX"]
    (report,) = (pydicom.dcmread(io.BytesIO(file)) for file in system.results(job).values())
    assert job["reason"] in texts(report)
    system.send([images[4]])
    system.wait(lambda: sorted(job["state"] for job in system.jobs(study)) == ["done", "superseded"])
    assert "AI Left ventricle not evaluated (RESEARCH)" not in descriptions(system, job["orthanc_id"])


def test_a_late_slice_replaces_the_result(system: System) -> None:
    images = phantom_images("grows")
    first = system.job(study := system.send(images[:-1]))
    assert first["state"] == "done"
    system.send([images[-1]])
    system.wait(lambda: sorted(job["state"] for job in system.jobs(study)) == ["done", "superseded"])
    (second,) = (job for job in system.jobs(study) if job["state"] == "done")
    present = {uid for series in system.archive.study(second["orthanc_id"]).series for uid in series.instances.values()}
    assert set(second["result"]["sop_instance_uids"]) <= present
    assert not set(first["result"]["sop_instance_uids"]) & present


def test_a_study_that_was_deleted_and_is_sent_again_is_read_again(system: System) -> None:
    images = phantom_images("deleted")
    first = system.job(study := system.send(images))
    assert httpx.delete(f"{system.running.http_url}/studies/{first['orthanc_id']}", trust_env=False).is_success
    system.send(images)
    job = system.wait(
        lambda: next(
            (
                job
                for job in system.jobs(study)
                if job["attempts"] > 0
                and job["state"] == "done"
                and system.archive.find_instance(job["result"]["sop_instance_uids"][0])
            ),
            None,
        )
    )
    assert len(system.results(job)) == 3


def test_pixels_that_cannot_be_decoded_are_refused_and_the_next_study_goes_through(system: System) -> None:
    images = phantom_images("cut")
    images[3].PixelData = images[3].PixelData[:1000]
    job = system.job(system.send(images))
    assert job["state"] == "refused"
    assert str(images[3].SOPInstanceUID) in job["reason"]
    assert system.job(system.send(phantom_images("after the cut")))["state"] == "done"


def test_no_log_line_and_no_ledger_row_holds_the_patient(system: System) -> None:
    words = {"patient_name": "UNIQUENAME^SECRET", "patient_id": "UNIQUEID77"}
    assert system.job(system.send(phantom_images("private", **words)))["state"] == "done"
    broken = phantom_images("private and broken", **words)
    del broken[2]
    assert system.job(system.send(broken))["state"] == "refused"
    said = system.logs().encode() + b"".join(
        path.read_bytes()
        for path in system.running.settings.data_folder.rglob("*")
        if path.is_file()
        and "orthanc" not in path.relative_to(system.running.settings.data_folder).parts
        and not path.name.startswith(INDEX_NAME)  # the list of studies may name them: it lies beside Orthanc's own
    )
    assert b"study complete" in said
    for word in ("UNIQUENAME", "UNIQUEID77"):
        assert word.encode() not in said


def test_orthanc_killed_between_arrival_and_completeness_loses_nothing(system: System) -> None:
    study = system.send(phantom_images("orthanc dies"))
    system.kill("orthanc")
    assert Ledger(system.running.settings.ledger_url).jobs(study_instance_uid=study) == []
    assert system.job(study)["state"] == "done"


def test_a_killed_worker_is_restarted_and_the_study_is_read(system: System) -> None:
    system.kill("worker")
    assert system.job(system.send(phantom_images("worker dies")))["state"] == "done"


def test_a_message_that_the_broker_loses_is_sent_again(system: System) -> None:
    queue = system.running.settings.data_folder / "broker" / "queue"
    with system.stopped("worker"):  # it takes nothing
        study = system.send(phantom_images("message lost"))
        system.wait(lambda: [job["state"] for job in system.jobs(study)] == ["queued"])
        for message in queue.iterdir():
            message.unlink()
        system.kill("worker")
    assert system.job(study)["state"] == "done"


def test_a_worker_killed_in_the_middle_gives_its_job_to_the_next(system: System) -> None:
    ledger = Ledger(system.running.settings.ledger_url)
    with ExitStack() as orthanc_stopped:
        with system.stopped("worker"):
            study = system.send(phantom_images("killed in the middle"))
            (job,) = system.wait(lambda: [job for job in system.jobs(study) if job["state"] == "queued"])
            orthanc_stopped.enter_context(system.stopped("orthanc"))  # the worker will wait for the images
        system.wait(lambda: [one.state for one in ledger.jobs(study_instance_uid=study)] == [JobState.RUNNING])
        system.kill("worker")
    assert system.job(study)["state"] == "done"
    assert SILENT in [event.reason for event in ledger.history(job["job_id"])]
    assert len(system.results(system.job(study))) == 3


def test_the_rest_routes_answer(system: System, done: dict[str, Any]) -> None:
    root = f"{system.running.http_url}/coread"
    assert httpx.get(f"{root}/health", trust_env=False).json()["intake"] == "running"
    job = httpx.get(f"{root}/jobs/{done['job_id']}", trust_env=False).json()
    assert [event["to"] for event in job["history"]] == ["waiting", "queued", "running", "storing", "done"]
    assert httpx.get(f"{root}/jobs/{'0' * 32}", trust_env=False).status_code == 404
    assert httpx.post(f"{root}/jobs", trust_env=False).status_code == 405
    assert httpx.post(f"{root}/jobs/{done['job_id']}/retry", trust_env=False).status_code == 409
    assert httpx.post(f"{root}/jobs/{done['job_id']}/cancel", trust_env=False).status_code == 409
    assert httpx.post(f"{root}/jobs/{'0' * 32}/retry", trust_env=False).status_code == 404


def test_the_key_images_are_kept_with_the_result_and_served(system: System, done: dict[str, Any]) -> None:
    pictures = done["result"]["pictures"]
    assert [picture["attachment"] for picture in pictures] == [str(4720 + n) for n in range(len(pictures))] != []
    assert "draw" in done["result"]["seconds"]
    for number in range(1, len(pictures) + 1):
        url = f"{system.running.http_url}/coread/jobs/{done['job_id']}/pictures/{number}"
        answer = httpx.get(url, trust_env=False)
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).size[0] > 300
        known = httpx.get(url, headers={"If-None-Match": answer.headers["etag"]}, trust_env=False)
        assert (known.status_code, known.content) == (304, b"")


def test_ohif_that_is_not_installed_is_said_to_be_with_what_to_do(system: System) -> None:
    answer = httpx.get(f"{system.running.http_url}/ohif/viewer", trust_env=False)
    assert (answer.status_code, "`coread viewer install`" in answer.text) == (404, True)


def test_a_refused_job_runs_again_when_a_person_asks_for_it(system: System) -> None:
    images = phantom_images("asked for again")
    del images[4]
    job = system.job(system.send(images))
    url = f"{system.running.http_url}/coread/jobs/{job['job_id']}"
    assert httpx.post(f"{url}/retry", trust_env=False).json()["state"] == "waiting"
    states = ["waiting", "queued", "running", "storing", "refused"]
    system.wait(lambda: [event["to"] for event in httpx.get(url, trust_env=False).json()["history"]] == states * 2)


def test_the_command_line_reads_the_same_folder(tmp_path: Path) -> None:
    write_files(phantom_images("by hand"), tmp_path / "in")
    result = CliRunner().invoke(coread, ["analyze", str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Left ventricular cavity" in result.output

"""What senders do that they should not: each ends in a stated state, and the next study is read."""

import copy
import io
import json
import os
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless

from coread.dicom_files import write_files
from coread.dicom_sr.identity import derived_uid
from coread.job import ENDED, JobState
from coread.ledger import Ledger
from coread.models.runner import BundleRunner
from coread.phantom import Ventricle, short_axis_volume
from coread.settings import load_settings
from coread.supervisor import Supervisor
from coread.workers.pipeline import read_study
from coread.workers.study import studies_in_folder
from tests.services import process_tree
from tests.support import images_of, program
from tests.system.conftest import SETTINGS, System

SMALLER = Ventricle(radius_mm=19.0, length_mm=70.0, wall_mm=9.0)
TRIES = 20
"""How often a worker may be quicker than a test that waits for a moment."""
CLAIMED = 65535
"""The largest number of rows or columns that a header can state (PS3.3 C.7.6.3, US)."""
ROOM_MB = 600.0
"""What reading a refused study may add to the worker's memory; 65535 by 65535 pixels would take 8 GB and more."""


def phantom(name: str, ventricle: Ventricle | None = None) -> list[Dataset]:
    volume = short_axis_volume(ventricle) if ventricle else short_axis_volume()
    return images_of(volume, name=name)


def assert_the_next_is_read(system: System, name: str) -> None:
    """A good study goes through. What arrived before it has been looked at by then."""
    job = system.job(system.send(phantom(f"after {name}")))
    assert job["state"] == "done", job["reason"]


def states(system: System, study: str) -> list[str]:
    return sorted(job["state"] for job in system.jobs(study))


def uids_in_archive(system: System, orthanc_id: str) -> set[str]:
    return {uid for series in system.archive.study(orthanc_id).series for uid in series.instances.values()}


def test_the_same_study_sent_twice_is_read_once(system: System) -> None:
    images = phantom("sent twice")
    job = system.job(study := system.send(images))
    before = system.results(job)
    system.send(images)
    assert_the_next_is_read(system, "sent twice")
    assert [one["job_id"] for one in system.jobs(study)] == [job["job_id"]]
    history = Ledger(system.running.settings.ledger_url).history(job["job_id"])
    assert [event.to_state for event in history].count(JobState.DONE) == 1
    assert system.results(job) == before


def test_a_study_whose_pixels_were_replaced_under_its_uids_is_read_again(
    system: System, left_ventricle: BundleRunner, tmp_path: Path
) -> None:
    first = system.job(study := system.send(phantom("replaced")))
    before = system.results(first)
    replaced = phantom("replaced", SMALLER)
    system.send(replaced)
    assert_the_next_is_read(system, "replaced")
    (stored,) = system.archive.files([str(system.archive.find_instance(replaced[4].SOPInstanceUID))])
    assert pydicom.dcmread(io.BytesIO(stored)).PixelData == replaced[4].PixelData

    def read_anew() -> dict[str, Any] | None:
        standing = [job for job in system.jobs(study) if job["state"] not in ("superseded",)]
        new = [job for job in standing if job["state"] == "done" and job["job_id"] != first["job_id"]]
        return new[0] if len(standing) == len(new) == 1 else None

    job = system.wait(read_anew)
    found = system.results(job)
    assert not before.keys() & uids_in_archive(system, job["orthanc_id"]), "the old result is still there"
    for index, image in enumerate(replaced):
        image.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    (sent,) = studies_in_folder(tmp_path)
    created_at = Ledger(system.running.settings.ledger_url).job(job["job_id"]).job.created_at  # type: ignore[union-attr]
    calm = read_study(sent, left_ventricle, job_id=job["job_id"], created_at=created_at)
    assert found == {str(each.dataset.SOPInstanceUID): each.file() for each in calm.objects}


def test_two_patients_under_one_study_uid_do_not_cost_the_first_its_result(system: System) -> None:
    first = system.job(study := system.send(phantom("two patients")))
    assert first["state"] == "done"
    other = phantom("the other patient", SMALLER)
    for image in other:
        image.StudyInstanceUID, image.PatientID, image.PatientName = study, "TEST-2", "TEST^OTHER"
    system.send(other)
    assert_the_next_is_read(system, "two patients")
    system.wait(lambda: len(system.jobs(study)) == 2 and all(job["state"] in ENDED for job in system.jobs(study)))
    assert states(system, study) == ["done", "refused"]
    (refused,) = (job for job in system.jobs(study) if job["state"] == "refused")
    assert refused["job_id"] != first["job_id"]
    assert "patient" in refused["reason"]
    assert ";" in refused["reason"], "what to do is missing"
    assert set(first["result"]["sop_instance_uids"]) <= uids_in_archive(system, first["orthanc_id"])


@pytest.mark.parametrize("moment", ["running", "storing"])
def test_a_study_deleted_while_it_is_read_leaves_nothing_behind(system: System, moment: str) -> None:
    job = next(job for number in range(TRIES) if (job := deleted_at(system, moment, name=f"{moment} {number}")))
    assert_the_next_is_read(system, f"deleted while {moment}")
    assert job["state"] in ("refused", "cancelled", "superseded"), job["state"]
    assert job["reason"]
    left = httpx.get(f"{system.running.http_url}/studies/{job['orthanc_id']}", trust_env=False)
    assert left.status_code == httpx.codes.NOT_FOUND, "results stand where the study was"


def deleted_at(system: System, moment: str, *, name: str) -> dict[str, Any] | None:
    """The job of a study that was deleted in this state; None if the worker was too quick."""
    ledger = Ledger(system.running.settings.ledger_url)
    study = system.send(phantom(f"deleted while {name}"))

    def now() -> str:
        return str(next((one.state for one in ledger.jobs(study_instance_uid=study)), ""))

    deadline = time.monotonic() + 60
    while now() not in (moment, *ENDED):
        assert time.monotonic() < deadline, "the job does not start"
    with system.stopped("worker"):
        if now() != moment:
            return None
        (job,) = system.jobs(study)
        assert httpx.delete(f"{system.running.http_url}/studies/{job['orthanc_id']}", trust_env=False).is_success
    return system.job(study)


# A header that claims more than there is -----------------------------------------------------------------------------


def native(images: Sequence[Dataset]) -> None:
    for image in images:
        image.Rows = image.Columns = CLAIMED


def jpeg_2000(images: Sequence[Dataset]) -> None:
    """The codestream's SIZ (ISO/IEC 15444-1, A.5.1) claims it, too: image and tile are that large."""
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.pixel_array.astype(np.uint16)).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
        stream = bytearray(buffer.getvalue())
        assert stream[2:4] == b"\xff\x51"
        struct.pack_into(">II", stream, 8, CLAIMED, CLAIMED)
        struct.pack_into(">II", stream, 24, CLAIMED, CLAIMED)
        _encapsulated(image, bytes(stream), JPEG2000Lossless)


def jpeg_ls(images: Sequence[Dataset]) -> None:
    """The frame header (ISO/IEC 14495-1, C.2.2) claims it, too."""
    for image in images:
        image.compress(JPEGLSLossless, generate_instance_uid=False)
        stream = bytearray(next(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1)))
        start = stream.index(b"\xff\xf7")
        struct.pack_into(">HH", stream, start + 5, CLAIMED, CLAIMED)
        _encapsulated(image, bytes(stream), JPEGLSLossless)


def _encapsulated(image: Dataset, stream: bytes, syntax: UID) -> None:
    image.Rows = image.Columns = CLAIMED
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = encapsulate([stream])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True


@pytest.mark.parametrize(
    "claim", [native, *(pytest.param(claim, marks=pytest.mark.slow) for claim in (jpeg_2000, jpeg_ls))]
)
def test_an_image_that_claims_65535_by_65535_pixels_is_refused_without_room_for_it(
    system: System, claim: Callable[[Sequence[Dataset]], None]
) -> None:
    assert_the_next_is_read(system, f"before {claim.__name__}")  # the model is warm
    before = {pid: memory_mb(pid, "VmHWM") for pid in process_tree(system.process("worker").pid)}
    images = phantom(f"claims too much, {claim.__name__}")
    claim(images)
    job = system.job(system.send(images))
    after = {pid: memory_mb(pid, "VmHWM") for pid in process_tree(system.process("worker").pid)}
    assert job["state"] == "refused", job["reason"]
    assert job["attempts"] == 1
    assert before.keys() == after.keys(), "the worker died of it"
    assert max(after[pid] - before[pid] for pid in before) < ROOM_MB
    assert_the_next_is_read(system, claim.__name__)


def memory_mb(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


# Much at once ----------------------------------------------------------------------------------------------------


MANY = 10_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_tiny_series_in_one_study_end_and_the_next_is_read(
    system: System, say: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.system.conftest.TIMEOUT_S", 1200.0)
    pids = {name: system.process(name).pid for name in ("orthanc", "worker")}
    image = phantom("tiny series")[0]
    image.Rows = image.Columns = 8
    image.PixelData = image.PixelData[:128]
    folder = system.folder / "tiny series"
    write_files([tiny(image, number) for number in range(MANY)], folder)
    started = time.monotonic()
    port = system.running.settings.orthanc.dicom_port
    # Not pynetdicom: now and then it loses an answer, once in some thousands.
    command = [program("storescu"), "+sd", "-aec", "COREAD", "127.0.0.1", str(port), str(folder)]
    sender = subprocess.run(
        command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, text=True, check=False
    )
    assert sender.returncode == 0, sender.stderr
    sent = time.monotonic()
    job = system.wait(lambda: last_job(system, str(image.StudyInstanceUID)))
    ended = time.monotonic()
    assert job["state"] in ("refused", "done")
    assert job["reason"] or job["state"] == "done"
    assert_the_next_is_read(system, "tiny series")
    peaks = {name: round(memory_mb(pid, "VmHWM")) for name, pid in pids.items() if Path(f"/proc/{pid}").exists()}
    say(f"{MANY} series: sent in {sent - started:.0f} s, ended {ended - sent:.0f} s later; MB at the peak: {peaks}")


def last_job(system: System, study: str) -> dict[str, Any] | None:
    """The job of the whole study, once it has ended. A sender that pauses gets a job for each pause."""
    (orthanc_id,) = {job["orthanc_id"] for job in system.jobs(study)} or {""}
    standing = [job for job in system.jobs(study) if job["state"] != "superseded"]
    whole = orthanc_id and len(system.archive.study(orthanc_id).sources) == MANY
    return standing[0] if whole and len(standing) == 1 and standing[0]["state"] in ENDED else None


def tiny(image: Dataset, number: int) -> Dataset:
    """The image in a series of its own."""
    one = copy.deepcopy(image)
    one.SeriesInstanceUID = derived_uid("tiny series", str(number))
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derived_uid("tiny instance", str(number))
    return one


# Everything that was collected -----------------------------------------------------------------------------------

ALL_MODELS = """
[[route]]
name = "all"
models = ["left_ventricle_sax", "hippocampus_t1", "chest_xray_pneumonia", "ecg_12_lead"]
"""


@pytest.fixture
def with_all_models(tmp_path: Path) -> Iterator[System]:
    program("Orthanc")
    settings_file = tmp_path / "coread.toml"
    settings_file.write_text(SETTINGS + ALL_MODELS)
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        system = System(running, tmp_path)
        with system.archive:
            yield system


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everything_in_the_zoo_is_read_or_refused_with_a_reason(
    with_all_models: System, real_data: Path, say: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.system.conftest.TIMEOUT_S", 1200.0)
    system = with_all_models
    files = sorted(path for path in (real_data / "zoo").rglob("*") if path.is_file() and path.suffix != ".csv")
    pids = {name: system.process(name).pid for name in ("orthanc", "worker")}
    refused_by_orthanc = [path for path in files if not stored(system, path.read_bytes())]
    archived = httpx.get(f"{system.running.http_url}/studies", trust_env=False).json()
    readable = {study.study_instance_uid for study in map(system.archive.study, archived) if study.sources}
    assert_the_next_is_read_by_name(system)

    def all_ended() -> bool:
        jobs = ledger_jobs(system)
        known = {job["study_instance_uid"] for job in jobs} | unreadable(system).keys()
        return readable <= known and all(job["state"] in ENDED for job in jobs)

    system.wait(all_ended)
    jobs = ledger_jobs(system)
    waiting = unreadable(system)
    unexplained = [job for job in jobs if job["state"] not in ("done", "superseded") and not job["reason"]]
    broken = [job for job in jobs if job["state"] not in ("done", "refused", "superseded")]
    say(
        "\n".join(
            [
                f"{len(files)} files, {len(readable)} studies, jobs: {dict(Counter(job['state'] for job in jobs))}",
                "Orthanc does not take: " + ", ".join(str(path.relative_to(real_data)) for path in refused_by_orthanc),
                *(f"{job['model']} {job['state']}: {job['reason']}" for job in broken),
                *(f"no job of {uid}: {because}" for uid, because in waiting.items()),
            ]
        )
    )
    assert not broken, [(job["study_instance_uid"], job["model"], job["state"], job["reason"]) for job in broken]
    assert not unexplained
    assert all("expected UIDs" in because for because in waiting.values()), waiting
    assert pids == {name: system.process(name).pid for name in pids}, "a process died of it"


def unreadable(system: System) -> dict[str, str]:
    """Why the studies that no job can be made of wait for a person, by what they have for a StudyInstanceUID."""
    waiting = httpx.get(f"{system.running.http_url}/coread/studies", trust_env=False, timeout=60).json()
    stalled = {one["orthanc_id"]: one["because"] for one in waiting if one["stalled"]}
    return {system.archive.study(study).study_instance_uid: because for study, because in stalled.items()}


def stored(system: System, file: bytes) -> bool:
    """Whether Orthanc takes a file. It answers 404 to some that it cannot parse."""
    answer = httpx.post(f"{system.running.http_url}/instances", content=file, trust_env=False, timeout=60)
    return answer.is_success


def assert_the_next_is_read_by_name(system: System) -> None:
    study = system.send(phantom("after the zoo"))
    system.wait(
        lambda: [job["state"] for job in system.jobs(study) if job["model"] == "left_ventricle_sax"] == ["done"]
    )


def ledger_jobs(system: System) -> list[dict[str, Any]]:
    answer = httpx.get(f"{system.running.http_url}/coread/jobs", trust_env=False, timeout=60)
    jobs: list[dict[str, Any]] = json.loads(answer.text)
    return jobs

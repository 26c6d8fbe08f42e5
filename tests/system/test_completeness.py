"""When studies count as complete, at default settings: real Orthanc, real senders, and a PACS that can be asked."""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from coread.association import prepare
from coread.orthanc_process import free_port
from coread.settings import IntakeSettings, load_settings
from coread.supervisor import Supervisor
from tests.support import images_of, program, volume_in_plane
from tests.system.conftest import System

SLICES = 6
PACS_AET = "THE-PACS"
SETTLE_S = IntakeSettings().settle_s


def ct(name: str, slices: int = SLICES) -> list[Dataset]:
    """A small CT series, evenly spaced. The default model refuses it, which is all the same here."""
    volume = volume_in_plane("oblique", shape=(slices, 12, 10), spacing=(2.5, 0.9, 0.7))
    return images_of(volume, modality="CT", name=f"completeness: {name}")


class Pacs:
    """A C-FIND SCP that states how many images the series of a study have."""

    def __init__(self) -> None:
        self.states: dict[str, list[Dataset]] = {}
        """StudyInstanceUID → answers."""
        self.port = free_port()
        entity = AE(ae_title=PACS_AET)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_FIND, self._find)]
        )

    def state(self, images: Sequence[Dataset]) -> None:
        answer = Dataset()
        answer.QueryRetrieveLevel, answer.Modality = "SERIES", images[0].Modality
        answer.StudyInstanceUID, answer.SeriesInstanceUID = images[0].StudyInstanceUID, images[0].SeriesInstanceUID
        answer.NumberOfSeriesRelatedInstances = len(images)
        self.states.setdefault(images[0].StudyInstanceUID, []).append(answer)

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        for answer in self.states.get(event.identifier.StudyInstanceUID, []):
            yield 0xFF00, answer


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    yield pacs
    pacs.stop()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, pacs: Pacs) -> Iterator[System]:
    """A Coread with default settings of the intake, but for the time after which a study is stalled."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("patient")
    settings_file = folder / "coread.toml"
    settings_file.write_text(
        f"""
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
[intake]
stalled_s = 2
[[pacs]]
name = "pacs"
aet = "{PACS_AET}"
host = "127.0.0.1"
port = {pacs.port}
"""
    )
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        system = System(running, folder)
        with system.archive:
            yield system


class Sender:
    """An association that images are sent through one by one, as a context manager."""

    def __init__(self, system: System, *, aet: str = "MODALITY") -> None:
        entity = AE(ae_title=aet)
        entity.add_requested_context(CTImageStorage)
        port = system.running.settings.orthanc.dicom_port
        self._association = entity.associate(
            "127.0.0.1", port, ae_title="COREAD", evt_handlers=[(evt.EVT_CONN_OPEN, prepare)]
        )
        assert self._association.is_established

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._association.release()

    def send(self, images: Sequence[Dataset]) -> datetime:
        """Send them; when the last one was stored."""
        for image in images:
            assert self._association.send_c_store(image).Status == 0
        return datetime.now().astimezone()


def events(system: System, study_instance_uid: str) -> list[dict[str, Any]]:
    """The history of the study's one job, once it has ended."""
    job = system.job(study_instance_uid)
    url = f"{system.running.http_url}/coread/jobs/{job['job_id']}"
    history: list[dict[str, Any]] = httpx.get(url, trust_env=False).json()["history"]
    return history


def arriving(system: System, images: Sequence[Dataset]) -> dict[str, Any] | None:
    """What ``GET /coread/studies`` says of a study."""
    orthanc_id = orthanc_id_of(system, images)
    studies = httpx.get(f"{system.running.http_url}/coread/studies", trust_env=False).json()
    return next((study for study in studies if study["orthanc_id"] == orthanc_id), None)


def orthanc_id_of(system: System, images: Sequence[Dataset]) -> str:
    url = f"{system.running.http_url}/tools/lookup"
    found = httpx.post(url, content=images[0].StudyInstanceUID.encode(), trust_env=False).json()
    return str(found[0]["ID"])


def instances_of(system: System, job: dict[str, Any]) -> int:
    return sum(len(series.instances) for series in system.archive.study(job["orthanc_id"]).sources)


def test_a_complete_evenly_spaced_series_is_read_at_once(patient: System, capsys: pytest.CaptureFixture[str]) -> None:
    images = ct("the worker is there", 3)
    with Sender(patient) as sender:
        sender.send(images)
    patient.job(images[0].StudyInstanceUID)
    images = ct("at once", 40)
    with Sender(patient) as sender:
        sent_at = sender.send(images)
    history = events(patient, images[0].StudyInstanceUID)
    started_at = next(datetime.fromisoformat(event["at"]) for event in history if event["to"] == "running")
    with capsys.disabled():
        sys.stdout.write(f" {(started_at - sent_at).total_seconds():.2f} s from the last instance to the job's start ")
    assert sent_at < started_at
    assert "no image is visibly missing" in history[0]["reason"]


def test_a_sender_that_pauses_at_any_slice_starts_no_job_before_it_has_finished(patient: System) -> None:
    def pausing_at(index: int) -> tuple[list[Dataset], datetime]:
        images = ct(f"pauses at {index}")
        with Sender(patient) as sender:
            sender.send(images[:index])
            time.sleep(3 * SETTLE_S)  # the pause itself: what is tested is that nothing happens in it
            sender.send(images[index:-1])
            assert patient.jobs(images[0].StudyInstanceUID) == []
            return images, sender.send(images[-1:])

    with ThreadPoolExecutor(SLICES) as senders:
        sent = list(senders.map(pausing_at, range(1, SLICES)))
    for images, sent_at in sent:
        history = events(patient, images[0].StudyInstanceUID)
        assert datetime.fromisoformat(history[0]["at"]) > sent_at


def test_a_late_slice_supersedes(patient: System) -> None:
    images = ct("late slice")
    with Sender(patient) as sender:
        sender.send(images[:-1])
    study = str(images[0].StudyInstanceUID)
    patient.job(study)
    with Sender(patient) as sender:
        sender.send(images[-1:])
    patient.wait(lambda: sorted(job["state"] for job in patient.jobs(study)) == ["refused", "superseded"])


def test_a_study_that_comes_over_http_is_read_at_once(patient: System, tmp_path: Path) -> None:
    images = ct("over HTTP")
    for index, image in enumerate(images):
        path = tmp_path / f"{index}.dcm"
        image.save_as(path, enforce_file_format=True)
        patient.archive.store(path.read_bytes())
    history = events(patient, images[0].StudyInstanceUID)
    assert "no image is visibly missing" in history[0]["reason"]


def test_what_the_pacs_still_has_is_waited_for_and_visible_and_read_once_when_it_comes(
    patient: System, pacs: Pacs
) -> None:
    images = ct("stalled", 5)
    pacs.state(images)
    with Sender(patient, aet=PACS_AET) as sender:
        sender.send(images[:3])
    waits = patient.wait(lambda: (study := arriving(patient, images)) and study["stalled"] and study)
    assert waits["because"] == f"3 of 5 images of series {images[0].SeriesInstanceUID} have arrived"
    assert waits["instances"] == 3
    study = str(images[0].StudyInstanceUID)
    assert patient.jobs(study) == []
    with Sender(patient, aet=PACS_AET) as sender:
        sender.send(images[3:])
    history = events(patient, study)
    assert history[0]["reason"] == "every image that the source PACS lists has arrived"
    assert arriving(patient, images) is None


def test_what_the_pacs_states_counts_even_while_its_association_is_open(patient: System, pacs: Pacs) -> None:
    images = ct("stated", 2)
    pacs.state(images)
    with Sender(patient, aet=PACS_AET) as sender:
        sender.send(images)
        assert events(patient, images[0].StudyInstanceUID)[0]["reason"].startswith("every image that the source PACS")


def test_a_stalled_study_is_read_as_it_is_when_a_person_asks_for_it(patient: System, pacs: Pacs) -> None:
    images = ct("asked for", 4)
    pacs.state(images)
    with Sender(patient, aet=PACS_AET) as sender:
        sender.send(images[:3])
    patient.wait(lambda: (study := arriving(patient, images)) and study["stalled"])
    root = f"{patient.running.http_url}/coread/studies"
    answer = httpx.post(f"{root}/{orthanc_id_of(patient, images)}/read", trust_env=False)
    assert answer.status_code == 200
    assert events(patient, images[0].StudyInstanceUID)[0]["reason"] == "a person asked to have it read as it is"
    assert httpx.post(f"{root}/0000/read", trust_env=False).status_code == 404


def test_a_stalled_study_is_still_stalled_after_orthanc_was_killed(patient: System, pacs: Pacs) -> None:
    images = ct("killed", 4)
    pacs.state(images)
    with Sender(patient, aet=PACS_AET) as sender:
        sender.send(images[:3])
    patient.wait(lambda: (study := arriving(patient, images)) and study["stalled"])
    del pacs.states[images[0].StudyInstanceUID]  # the PACS does not say it a second time
    patient.kill("orthanc")
    assert patient.wait(lambda: (study := arriving(patient, images)) and study["stalled"])
    with Sender(patient, aet=PACS_AET) as sender:
        sender.send(images[3:])
    assert instances_of(patient, patient.job(str(images[0].StudyInstanceUID))) == 4

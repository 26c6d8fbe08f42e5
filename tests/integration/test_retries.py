"""What stands in the study when a job was begun more than once, or given up: a real Orthanc, and what it still has."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from pydicom.dataset import Dataset

from coread.archive import Archive, ArchivedStudy
from coread.dicom_sr.encode import ResultObject, encode_findings
from coread.dicom_sr.identity import PHASES
from coread.errors import ArchiveUnavailable, SourceGone
from coread.job import Job, JobState, fingerprint_of
from coread.ledger import ArrivingStudy, Ledger
from coread.models.runner import BundleRunner
from coread.plugin.service import Sweeper
from coread.settings import ResultSettings, WorkerSettings
from coread.workers import jobs as jobs_module
from coread.workers.hold import utc_now
from coread.workers.jobs import JobRunner
from coread.workers.pipeline import Picture, Reading
from coread.workers.retry import RetryPolicy
from coread.workers.volume import SourceVolume, build_volume
from tests.integration.test_result_objects import findings_in
from tests.orthanc_alone import plain_orthanc
from tests.support import a_job, identity, images_of, volume_in_plane

ATTEMPTS = 2


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Orthanc without plugins."""
    with plain_orthanc(tmp_path_factory.mktemp("orthanc")) as url:
        yield url


def file_of(image: Dataset) -> bytes:
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


class WatchedArchive(Archive):
    """An archive that can break off, and that remembers what was asked of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.stores_left: int | None = None
        self.is_away = False
        self.stored: list[str] = []
        self.deleted: list[str] = []
        self.studies_asked_for = 0

    def store(self, file: bytes) -> str:
        if self.stores_left is not None:
            if not self.stores_left:
                raise ArchiveUnavailable("the worker's machine stops here")
            self.stores_left -= 1
        orthanc_id = super().store(file)
        self.stored.append(orthanc_id)
        return orthanc_id

    def study(self, orthanc_id: str) -> ArchivedStudy:
        self.studies_asked_for += 1
        if self.is_away:
            raise ArchiveUnavailable("no answer")
        return super().study(orthanc_id)

    def delete_instance(self, orthanc_id: str) -> None:
        self.deleted.append(orthanc_id)
        super().delete_instance(orthanc_id)


class Scene:
    """A study in Orthanc, its ledger, and a worker whose model finds what the test says."""

    def __init__(self, url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, name: str) -> None:
        self.archive = WatchedArchive(url)
        self.ledger = ledger
        self.images = images_of(volume_in_plane("oblique"), name=name)
        for image in self.images:
            orthanc_id = self.archive.store(file_of(image))
        self.orthanc_id = self.archive.studies_of_sources([orthanc_id])[orthanc_id]
        self.archive.stored.clear()
        self.changes = 0
        self._monkeypatch = monkeypatch

    def settle(self, images: Sequence[Dataset]) -> Job:
        """The job of the study as it is with these images: it waits, others of the study are superseded."""
        fingerprint = fingerprint_of(str(image.SOPInstanceUID) for image in images)
        job = a_job(
            fingerprint[:32],
            study_instance_uid=str(images[0].StudyInstanceUID),
            orthanc_id=self.orthanc_id,
            revision=self.archive.study(self.orthanc_id).revision,
            created_at=utc_now(),
        )
        self.changes += 1
        arriving = ArrivingStudy(orthanc_id=self.orthanc_id, last_change=self.changes, last_arrival_at=utc_now())
        self.ledger.settle(arriving, [job], present_uids=self.present, at=utc_now())
        return job

    def result_objects(self, job: Job, *labels: int, phase: str = "") -> tuple[ResultObject, ...]:
        """What a model that finds these structures gives for the job, or for a phase of a cine."""
        source: SourceVolume = build_volume(self.images)
        findings = findings_in(source, *labels)
        of_job = replace(identity(job.job_id), created_at=job.created_at, phase=phase)
        return encode_findings(findings, source=source.as_source, identity=of_job)

    def run(self, job: Job, *, finds: Sequence[ResultObject] = (), breaks: Exception | None = None) -> JobState | None:
        """One attempt at the job."""

        def infer(*_arguments: object) -> object:
            if breaks is not None:
                raise breaks
            return object()

        def report(*_arguments: object, **_more: object) -> Reading:
            uids = [str(result.dataset.SOPInstanceUID) for result in finds]
            return Reading(parts=(), objects=tuple(finds), summary={"sop_instance_uids": uids, "seconds": {}})

        self._monkeypatch.setattr(jobs_module, "fetch", lambda *_arguments: object())
        self._monkeypatch.setattr(jobs_module, "infer", infer)
        self._monkeypatch.setattr(jobs_module, "report", report)
        runner = JobRunner(
            archive=self.archive,
            ledger=self.ledger,
            models=lambda _name: cast(
                "BundleRunner", SimpleNamespace(model=SimpleNamespace(version="1", manifest=None))
            ),
            settings=WorkerSettings(),
            retries=RetryPolicy(first_delay_s=1, away=ATTEMPTS, broke=ATTEMPTS),
            results=ResultSettings(),
            worker="w",
        )
        assert self.ledger.queue_due(at=utc_now() + timedelta(hours=1)) == [job]
        return runner.run_next()

    def state_of(self, job: Job) -> JobState:
        record = self.ledger.job(job.job_id)
        assert record is not None
        return record.state

    def read_before_the_study_changed(self) -> Job:
        """A job that stored its results, and the one that stands in its place since a slice came: that one is given."""
        *some, _ = self.images
        late = self.archive.find_instance(str(self.images[-1].SOPInstanceUID))
        assert late is not None
        self.archive.delete_instance(late)
        before = self.settle(some)
        assert self.run(before, finds=self.result_objects(before, 1, 2)) is JobState.DONE
        assert len(self.results) == 3
        self.archive.store(file_of(self.images[-1]))
        job = self.settle(self.images)
        assert self.state_of(before) is JobState.SUPERSEDED
        return job

    @property
    def present(self) -> set[str]:
        study = self.archive.study(self.orthanc_id)
        return {uid for series in study.series for uid in series.instances.values()}

    @property
    def results(self) -> set[str]:
        """SOP Instance UIDs of what is in the study beside the images."""
        return self.present - {str(image.SOPInstanceUID) for image in self.images}

    def assert_holds(self, objects: Sequence[ResultObject]) -> None:
        """The study has its images, these objects to the last byte, and nothing else."""
        expected = {str(result.dataset.SOPInstanceUID): result.file() for result in objects}
        assert self.results == set(expected)
        assert len(self.present) == len(self.images) + len(expected)
        for uid, file in expected.items():
            orthanc_id = self.archive.find_instance(uid)
            assert orthanc_id is not None
            assert list(self.archive.files([orthanc_id])) == [file]


@pytest.fixture
def scene(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Scene]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    scene = Scene(url, ledger, monkeypatch, name=request.node.name)
    with scene.archive:
        yield scene


# Begun more than once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [(1,), (2,), ()])
def test_objects_of_two_attempts_never_stand_side_by_side(scene: Scene, labels: tuple[int, ...]) -> None:
    job = scene.settle(scene.images)
    scene.archive.stores_left = 1
    first = scene.result_objects(job, 1, 2)
    assert scene.run(job, finds=first) is JobState.WAITING
    scene.assert_holds(first[:1])
    scene.archive.stores_left = None
    second = scene.result_objects(job, *labels)
    assert scene.run(job, finds=second) is JobState.DONE
    scene.assert_holds(second)


def test_what_is_the_same_again_is_neither_deleted_nor_stored_again(scene: Scene) -> None:
    job = scene.settle(scene.images)
    scene.archive.stores_left = 2
    objects = scene.result_objects(job, 1, 2)
    scene.run(job, finds=objects)
    scene.archive.stores_left = None
    assert scene.run(job, finds=scene.result_objects(job, 1, 2)) is JobState.DONE
    assert scene.archive.deleted == []
    assert len(scene.archive.stored) == len(objects) == len(set(scene.archive.stored))
    scene.assert_holds(objects)


def test_an_attempt_that_stops_before_it_stores_leaves_nothing_of_the_one_before(scene: Scene) -> None:
    job = scene.settle(scene.images)
    scene.archive.stores_left = 2
    scene.run(job, finds=scene.result_objects(job, 1, 2))
    scene.archive.stores_left = 0
    second = scene.result_objects(job, 2)
    assert scene.run(job, finds=second) is JobState.FAILED
    scene.assert_holds([])
    scene.archive.stores_left = None
    scene.ledger.retry(job.job_id, at=utc_now())
    assert scene.run(job, finds=second) is JobState.DONE
    scene.assert_holds(second)


def test_objects_of_phases_never_stand_beside_those_of_an_attempt_without(scene: Scene) -> None:
    job = scene.settle(scene.images)
    first = [result for phase in PHASES for result in scene.result_objects(job, 1, 2, phase=phase)]
    scene.archive.stores_left = 5
    assert scene.run(job, finds=first) is JobState.WAITING
    scene.assert_holds(first[:5])
    scene.archive.stores_left = None
    second = scene.result_objects(job, 1)
    assert scene.run(job, finds=second) is JobState.DONE
    scene.assert_holds(second)


def test_results_of_another_model_are_left_alone(scene: Scene) -> None:
    job = scene.settle(scene.images)
    theirs = scene.result_objects(replace(job, job_id="f" * 32), 1)
    for result in theirs:
        scene.archive.store(result.file())
    scene.archive.stores_left = 1
    scene.run(job, finds=scene.result_objects(job, 1, 2))
    scene.archive.stores_left = None
    ours = scene.result_objects(job, 2)
    assert scene.run(job, finds=ours) is JobState.DONE
    scene.assert_holds([*theirs, *ours])


# Given up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("the bundle breaks"), ArchiveUnavailable("it answers 500")])
def test_a_job_whose_attempts_are_used_up_leaves_no_result_from_before_the_study_changed(
    scene: Scene, error: Exception
) -> None:
    job = scene.read_before_the_study_changed()
    assert [scene.run(job, breaks=error) for _ in range(ATTEMPTS)] == [JobState.WAITING, JobState.FAILED]
    scene.assert_holds([])


def test_an_orthanc_that_does_not_answer_keeps_no_job_from_failing_and_is_swept_later(scene: Scene) -> None:
    job = scene.read_before_the_study_changed()
    sweeper = Sweeper(archive=scene.archive, ledger=scene.ledger, clock=utc_now)
    scene.archive.is_away = True
    assert [scene.run(job) for _ in range(ATTEMPTS)] == [JobState.WAITING, JobState.FAILED]
    sweeper.step()
    scene.archive.is_away = False
    assert len(scene.results) == 3
    sweeper.step()
    scene.assert_holds([])


def test_a_job_of_which_workers_died_leaves_no_result_from_before_the_study_changed(scene: Scene) -> None:
    job = scene.read_before_the_study_changed()
    sweeper = Sweeper(archive=scene.archive, ledger=scene.ledger, clock=lambda: utc_now() + timedelta(hours=1))
    now, lease = utc_now(), timedelta(minutes=1)
    for _ in range(ATTEMPTS):
        scene.ledger.queue_due(at=now)
        assert scene.ledger.claim(worker="dies", at=now, lease=lease) is not None
        sweeper.step()
        assert len(scene.results) == 3, "the job may still give something better"
        scene.ledger.reclaim(at=now + 2 * lease, attempts=ATTEMPTS)
    assert scene.state_of(job) is JobState.FAILED
    sweeper.step()
    scene.assert_holds([])


def test_a_job_that_a_person_withdrew_leaves_no_result_from_before_the_study_changed(scene: Scene) -> None:
    job = scene.read_before_the_study_changed()
    assert scene.ledger.cancel(job.job_id, at=utc_now())
    Sweeper(archive=scene.archive, ledger=scene.ledger, clock=utc_now).step()
    scene.assert_holds([])


def test_orthanc_is_asked_once_about_a_job_that_was_given_up_and_again_if_it_is_given_up_again(scene: Scene) -> None:
    job = scene.read_before_the_study_changed()
    sweeper = Sweeper(archive=scene.archive, ledger=scene.ledger, clock=utc_now)
    for _ in range(2):
        assert scene.ledger.cancel(job.job_id, at=utc_now())
        asked_before = scene.archive.studies_asked_for
        for _ in range(3):
            sweeper.step()
        assert scene.archive.studies_asked_for == asked_before + 1
        assert scene.ledger.retry(job.job_id, at=utc_now())
        sweeper.step()


def test_a_job_that_is_superseded_while_it_stores_leaves_nothing_and_writes_over_nothing(scene: Scene) -> None:
    before = scene.settle(scene.images)
    objects = scene.result_objects(before, 1, 2)
    settled: list[Job] = []
    store = scene.archive.store

    def store_and_settle(file: bytes) -> str:
        orthanc_id = store(file)
        if not settled:
            settled.append(scene.settle(scene.images[:-1]))
        return orthanc_id

    scene.archive.store = store_and_settle  # type: ignore[method-assign]
    assert scene.run(before, finds=objects) is JobState.SUPERSEDED
    assert scene.state_of(before) is JobState.SUPERSEDED
    assert len(scene.archive.stored) == 1, "nothing more is stored once it is known"
    scene.assert_holds([])


# Pictures -----------------------------------------------------------------------------------------------------------

DRAWN = [Picture(caption="slice 1 of 6", png=b"one"), Picture(caption="slice 2 of 6", png=b"two")]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "key_images", lambda _reading: list(DRAWN))


def pictures_of(scene: Scene, job: Job) -> list[dict[str, str]]:
    record = scene.ledger.job(job.job_id)
    assert record is not None
    pictures: list[dict[str, str]] = record.result["pictures"]
    return pictures


def kept(scene: Scene, pictures: list[dict[str, str]]) -> list[bytes]:
    return [scene.archive.attachment(each["instance"], int(each["attachment"])) for each in pictures]


@pytest.mark.usefixtures("drawn")
def test_pictures_are_kept_with_the_first_object_and_go_with_it(scene: Scene) -> None:
    job = scene.settle(scene.images)
    objects = scene.result_objects(job, 1, 2)
    assert scene.run(job, finds=objects) is JobState.DONE
    pictures = pictures_of(scene, job)
    first = scene.archive.find_instance(str(objects[0].dataset.SOPInstanceUID))
    assert [(each["caption"], each["instance"], each["attachment"]) for each in pictures] == [
        ("slice 1 of 6", first, "4720"),
        ("slice 2 of 6", first, "4721"),
    ]
    assert kept(scene, pictures) == [b"one", b"two"]
    scene.assert_holds(objects)
    scene.archive.delete_instance(pictures[0]["instance"])
    with pytest.raises(SourceGone):
        kept(scene, pictures)


@pytest.mark.usefixtures("drawn")
def test_a_second_attempt_keeps_its_own_pictures_with_objects_that_are_there_already(scene: Scene) -> None:
    job = scene.settle(scene.images)
    scene.archive.stores_left = 2
    scene.run(job, finds=scene.result_objects(job, 1, 2))
    scene.archive.stores_left = None
    assert scene.run(job, finds=scene.result_objects(job, 1, 2)) is JobState.DONE
    assert scene.archive.deleted == []
    assert kept(scene, pictures_of(scene, job)) == [b"one", b"two"]


@pytest.mark.usefixtures("drawn")
def test_pictures_that_cannot_be_kept_cost_no_result(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise ArchiveUnavailable("Orthanc answered 413")

    monkeypatch.setattr(scene.archive, "attach", refuse)
    job = scene.settle(scene.images)
    objects = scene.result_objects(job, 1, 2)
    assert scene.run(job, finds=objects) is JobState.DONE
    assert pictures_of(scene, job) == []
    scene.assert_holds(objects)


@pytest.mark.usefixtures("drawn")
def test_pictures_that_cannot_be_drawn_cost_no_result(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(_reading: object) -> list[Picture]:
        raise ValueError("cannot draw Brown^Ophelia")

    monkeypatch.setattr(jobs_module, "key_images", break_down)
    job = scene.settle(scene.images)
    assert scene.run(job, finds=scene.result_objects(job, 1, 2)) is JobState.DONE
    assert pictures_of(scene, job) == []


@pytest.mark.usefixtures("drawn")
def test_a_result_without_objects_has_no_pictures(scene: Scene) -> None:
    job = scene.settle(scene.images)
    assert scene.run(job) is JobState.DONE
    assert pictures_of(scene, job) == []

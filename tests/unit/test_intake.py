from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from coread.archive import Archive, ArchivedSeries, ArchivedStudy, Change
from coread.errors import ArchiveUnavailable, BrokerUnavailable, SourceGone
from coread.job import Job, JobState
from coread.ledger import Ledger
from coread.plugin import intake as intake_module
from coread.plugin.intake import Intake
from coread.settings import IntakeSettings, Route, Settings
from tests.support import NOW

QUIET = timedelta(seconds=10)


class FakeArchive:
    """An Orthanc in memory: instances by study, and the change log that they leave."""

    def __init__(self) -> None:
        self.log: list[Change] = []
        self.studies: dict[str, dict[str, str]] = {}
        self.unavailable: set[str] = set()
        self.pages = 0
        self.newest = 0

    def arrive(self, study: str, instance: str) -> None:
        self.studies.setdefault(study, {})[f"{study}/{instance}"] = f"uid.{study}.{instance}"
        self.newest += 1
        number = self.newest
        self.log.append(Change(number=number, kind="NewInstance", orthanc_id=f"{study}/{instance}"))

    def delete(self, study: str) -> None:
        """As Orthanc does: the study's lines leave the log, their numbers are not used again."""
        del self.studies[study]
        self.log = [change for change in self.log if not change.orthanc_id.startswith(f"{study}/")]

    def last_change(self) -> int:
        return self.log[-1].number if self.log else 0

    def changes(self, *, since: int, limit: int) -> tuple[list[Change], int]:
        self.pages += 1
        page = [change for change in self.log if change.number > since][:limit]
        return page, page[-1].number if page else since

    def study_of_source(self, orthanc_id: str) -> str | None:
        study = orthanc_id.partition("/")[0]
        return study if study in self.studies else None

    def study(self, orthanc_id: str) -> ArchivedStudy:
        if orthanc_id in self.unavailable:
            raise ArchiveUnavailable("it answers 500")
        if orthanc_id not in self.studies:
            raise SourceGone("deleted")
        series = ArchivedSeries(orthanc_id="s", tags={"Modality": "MR"}, instances=self.studies[orthanc_id])
        return ArchivedStudy(orthanc_id=orthanc_id, study_instance_uid=f"uid.{orthanc_id}", tags={}, series=[series])


class Scene:
    """An intake with everything around it in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.archive = FakeArchive()
        self.archive_identity = "first"
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger.migrate()
        self.now: datetime = NOW
        self.published: list[str] = []
        self.publish: Callable[[Job], None] = lambda job: self.published.append(job.job_id)

    def step(self) -> None:
        """A step of an intake that has just started: it remembers nothing but the ledger."""
        Intake(
            archive=cast("Archive", self.archive),
            archive_identity=self.archive_identity,
            ledger=self.ledger,
            settings=Settings(
                intake=IntakeSettings(quiet_s=QUIET.total_seconds()), route=(Route(name="all", models=("m",)),)
            ),
            model_versions={"m": "1"},
            publish=lambda job: self.publish(job),
            clock=lambda: self.now,
        ).step()

    def pass_time(self, by: timedelta = QUIET) -> None:
        self.now += by


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_study_is_published_once_it_is_quiet_and_only_once(scene: Scene) -> None:
    scene.archive.arrive("a", "1")
    scene.step()
    assert scene.published == []
    scene.pass_time()
    for _ in range(3):
        scene.step()
    assert len(scene.published) == 1


def test_each_instance_starts_the_quiet_time_anew(scene: Scene) -> None:
    for instance in ("1", "2", "3"):
        scene.archive.arrive("a", instance)
        scene.step()
        scene.pass_time(QUIET * 0.9)
    scene.step()
    assert scene.published == []
    scene.pass_time(QUIET * 0.1)
    scene.step()
    assert len(scene.published) == 1


def test_a_late_instance_makes_a_new_job_that_supersedes_the_old(scene: Scene) -> None:
    scene.archive.arrive("a", "1")
    for instance in ("2", "3"):
        scene.step()
        scene.pass_time()
        scene.step()
        scene.archive.arrive("a", instance)
    states = [record.state for record in scene.ledger.jobs()]
    assert sorted(states) == [JobState.QUEUED, JobState.SUPERSEDED]


def test_the_log_is_read_page_by_page(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "CHANGES_PER_PAGE", 10)
    for number in range(35):
        scene.archive.arrive(f"study{number % 3}", str(number))
    scene.step()
    assert scene.archive.pages == 5  # the last one is empty
    assert len(scene.ledger.arriving()) == 3


def test_a_replaced_archive_is_read_from_the_beginning(scene: Scene) -> None:
    for number in range(5):
        scene.archive.arrive("a", str(number))
    scene.step()
    scene.archive, scene.archive_identity = FakeArchive(), "second"
    for number in range(9):
        scene.archive.arrive(f"b{number}", "1")
    scene.step()
    assert {f"b{number}" for number in range(9)} <= {study.orthanc_id for study in scene.ledger.arriving()}
    assert scene.ledger.last_change("second") == 9


def test_deleting_the_newest_study_does_not_have_the_others_looked_at_again(scene: Scene) -> None:
    scene.archive.arrive("old", "1")
    scene.archive.arrive("new", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    scene.archive.delete("new")
    scene.step()
    assert scene.ledger.arriving() == []
    scene.archive.arrive("newer", "1")
    scene.step()
    assert [study.orthanc_id for study in scene.ledger.arriving()] == ["newer"]


def test_a_log_that_was_emptied_does_not_stop_the_intake(scene: Scene) -> None:
    scene.archive.arrive("a", "1")
    scene.archive.log.clear()
    scene.step()
    scene.archive.arrive("b", "1")
    scene.step()
    assert [study.orthanc_id for study in scene.ledger.arriving()] == ["b"]


def test_a_study_that_was_deleted_is_forgotten(scene: Scene) -> None:
    scene.archive.arrive("a", "1")
    scene.step()
    scene.archive.studies.clear()
    scene.pass_time()
    scene.step()
    assert scene.ledger.arriving() == []
    assert scene.ledger.jobs() == []


def test_a_study_that_cannot_be_shown_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.archive.arrive("bad", "1")
    scene.archive.arrive("good", "1")
    scene.archive.unavailable.add("bad")
    scene.step()
    scene.pass_time()
    scene.step()
    assert [record.job.orthanc_id for record in scene.ledger.jobs()] == ["good"]
    scene.archive.unavailable.clear()
    scene.step()
    assert sorted(record.job.orthanc_id for record in scene.ledger.jobs()) == ["bad", "good"]


def test_a_broker_that_is_away_loses_nothing(scene: Scene) -> None:
    def away(_job: Job) -> None:
        raise BrokerUnavailable("it does not take messages")

    works, scene.publish = scene.publish, away
    scene.archive.arrive("a", "1")
    scene.step()
    scene.pass_time()
    with pytest.raises(BrokerUnavailable):
        scene.step()
    assert [record.state for record in scene.ledger.jobs()] == [JobState.WAITING]
    scene.publish = works
    scene.step()
    assert len(scene.published) == 1

import copy
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from coread.archive import Archive, ArchivedSeries, ArchivedStudy, Arrived, Change, Origin
from coread.archive_run import Copy, RunStudy, Terms
from coread.audit.event import Sender
from coread.copies import Bringer, contents_of
from coread.errors import ArchiveUnavailable, BrokerUnavailable, SourceGone
from coread.job import JobState, Priority
from coread.ledger import Ledger
from coread.ledger.archive_runs import Pace
from coread.objects import Profile
from coread.plugin import intake as intake_module
from coread.plugin.connections import Associations
from coread.plugin.evidence import EvidenceGatherer
from coread.plugin.intake import ASK_ORDER_AGAIN, ASKS_WORKLIST, GROWING, RETRIEVES, Intake
from coread.plugin.orders import PATIENCE, Orders
from coread.plugin.planning import Planner
from coread.plugin.route_table import RoutesInForce
from coread.plugin.stated import StatedCounts
from coread.plugin.watermark import Watermark
from coread.routes import Route
from coread.settings import IntakeSettings, Settings
from coread.settings_worklist import WorklistSettings
from coread.study_facts import keywords_of
from tests.support import NOW, uid_of

QUIET = timedelta(seconds=10)
ROUTES = (Route(name="all", models=("m",)),)


class FakeArchive:
    """An Orthanc in memory: instances by study, and the change log that they leave."""

    def __init__(self) -> None:
        self.log: list[Change] = []
        self.studies: dict[str, dict[str, str]] = {}
        self.unavailable: set[str] = set()
        self.broken: set[str] = set()
        self.pages = 0
        self.newest = 0
        self.watermark = 0
        self.contents: dict[str, str] = {}
        self.uids: dict[str, str] = {}
        """StudyInstanceUIDs that are not what they should be."""
        self.on_listing: Callable[[], None] = lambda: None
        self.senders_of: dict[str, str] = {}
        """Who sent an instance, if not the run's source."""
        self.listed = 0
        """How often a study was asked for."""

    def arrive(self, study: str, instance: str) -> None:
        self.studies.setdefault(study, {})[f"{study}/{instance}"] = f"uid.{study}.{instance}"
        self.newest += 1
        number = self.newest
        self.log.append(Change(number=number, kind="NewInstance", orthanc_id=f"{study}/{instance}"))

    def delete(self, study: str) -> None:
        """As Orthanc does: the study's lines leave the log, their numbers are not used again."""
        del self.studies[study]
        self.log = [change for change in self.log if not change.orthanc_id.startswith(f"{study}/")]

    def all_studies(self) -> list[str]:
        listed = sorted(self.studies)
        self.on_listing()
        return listed

    def last_change(self) -> int:
        return self.log[-1].number if self.log else 0

    def changes(self, *, since: int, limit: int) -> tuple[list[Change], int]:
        self.pages += 1
        page = [change for change in self.log if change.number > since][:limit]
        return page, page[-1].number if page else since

    def studies_of_sources(self, orthanc_ids: list[str]) -> dict[str, str]:
        studies = {each: each.partition("/")[0] for each in orthanc_ids}
        return {each: study for each, study in studies.items() if study in self.studies}

    def speaking_objects(self, _orthanc_ids: list[str]) -> list[tuple[str, str, str]]:
        return []

    def digests(self, orthanc_ids: Iterable[str]) -> dict[str, str]:
        return {each: self.contents.get(each, "as sent first") for each in orthanc_ids}

    def senders(self, _study: ArchivedStudy) -> list[Sender]:
        return []

    def patient_and_study(self, orthanc_id: str) -> dict[str, str]:
        return {"PatientID": orthanc_id, "StudyInstanceUID": uid_of(orthanc_id)}

    def origin(self, orthanc_id: str) -> Origin:
        assert any(orthanc_id in instances for instances in self.studies.values())
        return Origin(by_dicom=True, aet="SENDER", ip="192.0.2.7")

    def arrivals(self, orthanc_id: str) -> list[Arrived]:
        return [
            Arrived(
                sop_instance_uid=uid,
                by_dicom=True,
                by_rest=False,
                aet=self.senders_of.get(instance, "PACS"),
                called_aet="RUNS",
            )
            for instance, uid in self.studies[orthanc_id].items()
        ]

    def study(self, orthanc_id: str) -> ArchivedStudy:
        self.listed += 1
        if orthanc_id in self.broken:
            raise KeyError("MainDicomTags")
        if orthanc_id in self.unavailable:
            raise ArchiveUnavailable("it answers 500")
        if orthanc_id not in self.studies:
            raise SourceGone("deleted")
        tags = {"Modality": "MR", "SeriesInstanceUID": "1.2"}
        return ArchivedStudy(
            orthanc_id=orthanc_id,
            study_instance_uid=self.uids.get(orthanc_id, uid_of(orthanc_id)),
            tags={"StudyDescription": orthanc_id},
            series=[ArchivedSeries(orthanc_id="s", tags=tags, instances=self.studies[orthanc_id])],
        )


class Scene:
    """An intake with everything around it in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.archive = FakeArchive()
        self.archive_identity = "first"
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger.migrate()
        self.now: datetime = NOW
        self.quiet = QUIET
        self.published: list[str] = []
        self.routes: tuple[Route, ...] = ROUTES
        self.orders: Orders | None = None
        self.ring: Callable[[str, str], None] = lambda _queue, job_id: self.published.append(job_id)

    def step(self) -> None:
        """A step of an intake that has just started: it remembers nothing but the ledger."""
        self.intake().step()

    def intake(self) -> Intake:
        """An intake that has just started."""
        archive = cast("Archive", self.archive)
        settings = Settings(intake=IntakeSettings(quiet_s=self.quiet.total_seconds()))
        return Intake(
            archive=archive,
            archive_identity=self.archive_identity,
            ledger=self.ledger,
            evidence=EvidenceGatherer(
                archive=archive,
                associations=Associations(read=lambda: frozenset()),
                stated=StatedCounts(find=lambda _pacs, _study: {}, pacs=(), clock=lambda: self.now),
                watching_since=NOW,
            ),
            watermark=Watermark(
                read=lambda: self.archive.watermark,
                write=lambda change: setattr(self.archive, "watermark", change),
                ledger=self.ledger,
                archive_identity=self.archive_identity,
            ),
            planner=Planner(archive=archive, settings=settings, routes=self.in_force),
            settings=settings,
            ring=lambda queue, job_id: self.ring(queue, job_id),
            clock=lambda: self.now,
            orders=self.orders,
            bringers=lambda _source: Bringer(aet="PACS", called_aet="RUNS", is_told_apart=True),
        )

    def in_force(self) -> RoutesInForce:
        return RoutesInForce(routes=self.routes, model_versions={"m": "1"}, keywords=keywords_of(self.routes))

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


@pytest.mark.parametrize("steps_before", range(0, 12, 3))
def test_a_study_waits_a_second_longer_at_most_while_others_send_without_end(scene: Scene, steps_before: int) -> None:
    scene.quiet = timedelta(seconds=1.5)
    tick = timedelta(seconds=0.1)
    intake = scene.intake()

    def others_go_on() -> None:
        scene.archive.arrive("other", str(scene.archive.newest))
        intake.step()
        scene.pass_time(tick)

    for _ in range(20 + steps_before):
        others_go_on()
    scene.archive.arrive("a", "1")
    began, pages = scene.now, scene.archive.pages
    while not scene.published and scene.now - began < QUIET:
        others_go_on()
    assert scene.quiet <= scene.now - began <= scene.quiet + GROWING + 2 * tick
    assert scene.archive.pages - pages <= 2 * 4  # each time the log is read, the last page is empty


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


def test_a_study_whose_route_cannot_be_decided_waits_until_the_route_is_mended(scene: Scene) -> None:
    slow = {"StudyDescription": {"regex": "(a|b|ab)*(a|b|ab)*(a|b|ab)*[cd]"}}
    scene.routes = (Route.model_validate({"name": "slow", "match": slow, "models": ["m"]}),)
    scene.archive.arrive("ab" * 400, "1")
    scene.archive.arrive("short", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    assert scene.ledger.jobs() == []
    assert len(scene.ledger.arriving()) == 1, "the other one was settled"
    scene.routes = ROUTES
    scene.step()
    assert len(scene.published) == 1


def test_a_broker_that_is_away_loses_nothing(scene: Scene) -> None:
    def away(_queue: str, _job_id: str) -> None:
        raise BrokerUnavailable("it does not take messages")

    works, scene.ring = scene.ring, away
    scene.archive.arrive("a", "1")
    scene.step()
    scene.pass_time()
    with pytest.raises(BrokerUnavailable):
        scene.step()
    assert [record.state for record in scene.ledger.jobs()] == [JobState.QUEUED], "a worker that looks finds it"
    scene.ring = works
    scene.archive.arrive("b", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    assert len(scene.published) == 1


def test_an_instance_that_changed_under_its_uid_has_the_study_read_again_and_the_same_again_has_not(
    scene: Scene,
) -> None:
    for content, jobs in (("first", 1), ("first", 1), ("second", 2)):
        scene.archive.contents["a/1"] = content
        scene.archive.arrive("a", "1")
        scene.step()
        scene.pass_time()
        scene.step()
        assert len(scene.ledger.jobs()) == jobs
    assert sorted(record.state for record in scene.ledger.jobs()) == [JobState.QUEUED, JobState.SUPERSEDED]


def test_a_restored_archive_has_every_study_looked_at_again(scene: Scene) -> None:
    scene.archive.arrive("a", "1")
    scene.archive.arrive("b", "1")
    scene.step()
    backup = copy.deepcopy(scene.archive)
    scene.archive.arrive("c", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    assert scene.ledger.arriving() == []
    scene.archive = backup
    scene.step()
    assert [study.orthanc_id for study in scene.ledger.arriving()] == ["a", "b"]
    scene.archive.arrive("d", "1")  # under a number that was used for another instance
    scene.step()
    assert {study.orthanc_id for study in scene.ledger.arriving()} == {"a", "b", "d"}
    scene.pass_time()
    scene.step()
    scene.step()
    assert scene.ledger.arriving() == []


def test_a_restart_without_a_restored_archive_looks_at_nothing_again(scene: Scene) -> None:
    scene.archive.arrive("a", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    scene.archive.delete("a")
    for _ in range(3):
        scene.step()
        assert scene.ledger.arriving() == []


def test_a_study_that_breaks_the_intake_holds_up_no_other_and_says_so(scene: Scene) -> None:
    scene.archive.arrive("bad", "1")
    scene.archive.arrive("good", "1")
    scene.archive.broken.add("bad")
    scene.step()
    scene.pass_time()
    scene.step()
    assert [record.job.orthanc_id for record in scene.ledger.jobs()] == ["good"]
    assert len(scene.published) == 1
    assert [study.wait.waits_for for study in scene.ledger.arriving()] == [
        "unexpected KeyError; Orthanc's log says where"
    ]


@pytest.mark.parametrize("uid", ["1." * 33, "BROWN^OPHELIA", ""])
def test_a_study_whose_uid_is_none_is_not_read_and_its_uid_not_told(scene: Scene, uid: str) -> None:
    scene.archive.uids["a"] = uid
    scene.archive.arrive("a", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    (study,) = scene.ledger.arriving()
    assert study.wait.stalled
    assert study.wait.waits_for.startswith("expected UIDs of at most 64 digits and dots")
    assert not uid or uid not in study.wait.waits_for
    assert scene.ledger.jobs() == []


def test_a_study_that_arrives_while_a_restored_archive_is_looked_through_is_not_missed(scene: Scene) -> None:
    scene.archive.arrive("a", "1")
    scene.step()
    scene.archive.watermark = 0
    scene.archive.on_listing = lambda: scene.archive.arrive("meanwhile", "1")
    scene.step()
    assert {study.orthanc_id for study in scene.ledger.arriving()} == {"a", "meanwhile"}


def test_a_study_that_only_the_worklists_word_has_read_waits_until_the_worklist_is_back(scene: Scene) -> None:
    ris = WorklistSettings(name="ris", aet="RIS", host="ris.example")
    is_away = True

    def find(_worklist: WorklistSettings, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        if is_away:
            raise ArchiveUnavailable("no association")
        return [{"PatientID": query["PatientID"], "RequestedProcedurePriority": "HIGH"}]

    urgent = {"name": "urgent", "match": {"RequestedProcedurePriority": "HIGH"}, "models": ["m"]}
    scene.routes = (Route.model_validate(urgent),)
    scene.orders = Orders(find=find, worklists=[ris], clock=lambda: scene.now)
    scene.archive.arrive("a", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    scene.orders.answer_all()
    scene.step()
    (study,) = scene.ledger.arriving()
    assert study.wait.stalled
    assert "the modality worklist ris did not answer" in study.wait.waits_for
    is_away = False
    scene.pass_time(ASK_ORDER_AGAIN)
    scene.step()
    scene.orders.answer_all()
    scene.step()
    assert scene.ledger.arriving() == []
    assert [record.job.priority for record in scene.ledger.jobs()] == [Priority.STAT]


def test_a_study_waits_for_the_worklist_for_a_moment_and_holds_up_no_other(scene: Scene) -> None:
    ris = WorklistSettings(name="ris", aet="RIS", host="ris.example")

    def find(_worklist: WorklistSettings, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"PatientID": query["PatientID"], "RequestedProcedurePriority": "HIGH"}]

    scene.orders = Orders(find=find, worklists=[ris], clock=lambda: scene.now)
    scene.archive.arrive("a", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    assert [study.wait.waits_for for study in scene.ledger.arriving()] == [ASKS_WORKLIST]
    scene.orders.answer_all()
    scene.archive.arrive("b", "1")
    scene.step()
    assert [record.job.priority for record in scene.ledger.jobs()] == [Priority.STAT]
    scene.pass_time()
    scene.step()
    scene.pass_time(PATIENCE)
    scene.step()
    assert scene.ledger.arriving() == []
    said = [scene.ledger.history(record.job.job_id)[0].reason for record in scene.ledger.jobs()]
    assert [each.rpartition("; ")[2] for each in said] == [
        "the modality worklist did not answer within 15 s",
        "the modality worklist ris has it with priority HIGH",
    ]


def looked_for(scene: Scene, *, models: tuple[str, ...] = ("m",)) -> RunStudy:
    """A run's study, which the run has begun to look for."""
    terms = Terms(source="pacs", models=models, profiles=(Profile.OHIF,), folder="/r")
    values: dict[str, Any] = {"name": "r", "terms": terms, "plan_digest": "d", "by": "ada", "at": scene.now}
    scene.ledger.start_run("r", studies=[(uid_of("a"), None)], **values)
    scene.ledger.attend_runs(archivist="x", at=scene.now, lease=timedelta(hours=1))
    study = scene.ledger.take_due("r", archivist="x", pace=Pace(in_flight=1, associations=1), at=scene.now)
    assert study is not None
    return study


def found_here(scene: Scene, study: RunStudy) -> None:
    values: dict[str, Any] = {"orthanc_id": "a", "instances": 1, "size": None, "brought": None, "source": "pacs"}
    assert scene.ledger.note_here(study, copy=Copy.BEFORE, **values, at=scene.now)


def test_what_somebody_sends_does_not_wait_for_a_run_that_asks_its_source_for_the_study(scene: Scene) -> None:
    looked_for(scene)
    scene.archive.senders_of["a/1"] = "CT_1"
    scene.archive.arrive("a", "1")
    scene.step()
    scene.pass_time()
    scene.step()
    assert len(scene.published) == 1


def test_what_a_run_retrieves_is_looked_at_when_something_of_it_has_come_and_at_no_other_step(scene: Scene) -> None:
    study = looked_for(scene)
    assert scene.ledger.note_copy(study, Copy.OURS)
    intake = scene.intake()
    for instance in ("1", "2"):
        scene.archive.arrive("a", instance)
        intake.step()
        scene.pass_time()
        intake.step()
        listed = scene.archive.listed
        for _ in range(5):
            scene.pass_time()
            intake.step()
        assert scene.archive.listed == listed
    assert [each.wait.waits_for for each in scene.ledger.arriving()] == [RETRIEVES]
    scene.archive.senders_of["a/1"] = "CT_1"  # it is sent again, by somebody else
    scene.archive.arrive("a", "1")
    intake.step()
    scene.pass_time()
    intake.step()
    assert scene.ledger.run_studies("r")[0].copy is Copy.SHARED
    assert len(scene.published) == 1


@pytest.mark.parametrize("is_asked", [False, True])
def test_what_a_run_retrieves_is_seen_to_at_once_when_it_ends_or_a_person_asks(scene: Scene, *, is_asked: bool) -> None:
    study = looked_for(scene)
    assert scene.ledger.note_copy(study, Copy.OURS)
    intake = scene.intake()
    scene.archive.arrive("a", "1")
    intake.step()
    for _ in range(2):
        scene.pass_time()
        intake.step()
    assert scene.published == []
    if is_asked:
        assert scene.ledger.ask_to_read("a", at=scene.now)
    else:
        brought = contents_of(scene.archive.study("a"))
        values: dict[str, Any] = {"orthanc_id": "a", "instances": 1, "size": 9, "brought": brought, "source": "pacs"}
        assert scene.ledger.note_here(study, copy=Copy.OURS, **values, at=scene.now)
    intake.step()
    assert len(scene.published) == 1
    assert scene.ledger.run_studies("r")[0].copy is (Copy.SHARED if is_asked else Copy.OURS)


def test_a_study_that_a_run_has_found_and_a_person_asks_to_have_read_is_read_by_the_routes(scene: Scene) -> None:
    study = looked_for(scene, models=("gone",))
    scene.archive.arrive("a", "1")
    scene.archive.log.clear()  # taken in long ago
    found_here(scene, study)
    assert scene.ledger.ask_to_read("a", at=scene.now)
    scene.step()
    assert len(scene.published) == 1


@pytest.mark.parametrize("has_arrived", [False, True])
def test_a_study_of_a_run_whose_model_is_gone_is_wound_up(scene: Scene, *, has_arrived: bool) -> None:
    scene.routes = ()
    study = looked_for(scene, models=("gone",))
    scene.archive.arrive("a", "1")
    if has_arrived:
        scene.step()
        scene.pass_time()
    else:
        scene.archive.log.clear()
    found_here(scene, study)
    scene.step()
    assert [records for _, records in scene.ledger.read_studies("r", limit=9)] == [[]]

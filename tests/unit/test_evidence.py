"""What the intake gathers of a study before it decides: from an archive in memory, with the connections in hand."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from coread.archive import Archive, ArchivedSeries, ArchivedStudy, Change, Origin
from coread.audit.event import Sender
from coread.errors import ArchiveUnavailable, SourceGone
from coread.job import Job, fingerprint_of
from coread.ledger import Ledger
from coread.plugin.connections import Associations, Connection
from coread.plugin.evidence import EvidenceGatherer
from coread.plugin.intake import Intake
from coread.plugin.planning import Planner
from coread.plugin.route_table import RoutesInForce
from coread.plugin.stated import StatedCounts
from coread.plugin.watermark import Watermark
from coread.routes import Route
from coread.settings import IntakeSettings, PacsSettings, Settings
from tests.support import NOW, uid_of

SETTLE, FALLBACK, STALLED = timedelta(seconds=1.5), timedelta(seconds=60), timedelta(minutes=10)
CONNECTION = Connection(remote=ip_address("192.0.2.7"), remote_port=1001)
PACS = PacsSettings(name="main", aet="PACS1", host="192.0.2.7")
IN_FORCE = RoutesInForce(routes=(Route(name="all", models=("m",)),), model_versions={"m": "1"}, keywords=frozenset())
ORIENTATION = "1\\0\\0\\0\\1\\0"


class FakeArchive:
    """An Orthanc with CT studies of one series each, whose slices lie where their numbers say."""

    def __init__(self) -> None:
        self.slices: dict[str, list[int]] = {}
        self.log: list[Change] = []
        self.looked_at: list[str] = []
        self.forgets_origins = False
        self.after_looking: list[Callable[[], None]] = []

    def arrive(self, study: str, *slices: int) -> None:
        for number in slices:
            self.slices.setdefault(study, []).append(number)
            self.log.append(Change(number=len(self.log) + 1, kind="NewInstance", orthanc_id=f"{study}/{number}"))

    def last_change(self) -> int:
        return len(self.log)

    def changes(self, *, since: int, limit: int) -> tuple[list[Change], int]:
        page = self.log[since : since + limit]
        return page, since + len(page)

    def studies_of_sources(self, orthanc_ids: Sequence[str]) -> dict[str, str]:
        return {each: each.partition("/")[0] for each in orthanc_ids}

    def speaking_objects(self, _orthanc_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        return []

    def digests(self, orthanc_ids: Iterable[str]) -> dict[str, str]:
        return dict.fromkeys(orthanc_ids, "content")

    def senders(self, _study: ArchivedStudy) -> list[Sender]:
        return []

    def origin(self, orthanc_id: str) -> Origin:
        if self.forgets_origins:
            raise ArchiveUnavailable("it answers 500")
        if orthanc_id.partition("/")[0] not in self.slices:
            raise SourceGone("deleted")
        return Origin(by_dicom=True, aet="PACS1", ip="192.0.2.7")

    def study(self, orthanc_id: str) -> ArchivedStudy:
        if orthanc_id not in self.slices:
            raise SourceGone("deleted")
        self.looked_at.append(orthanc_id)
        slices = self.slices[orthanc_id]
        tags = {
            f"{orthanc_id}/{z}": {"ImagePositionPatient": f"0\\0\\{z}", "ImageOrientationPatient": ORIENTATION}
            for z in slices
        }
        series = ArchivedSeries(
            orthanc_id="series",
            tags={"Modality": "CT", "SeriesInstanceUID": uid_of(f"{orthanc_id} 1")},
            instances={key: f"uid.{key}" for key in tags},
            instance_tags=tags,
        )
        if self.after_looking:
            self.after_looking.pop()()
        return ArchivedStudy(orthanc_id=orthanc_id, study_instance_uid=uid_of(orthanc_id), tags={}, series=[series])


class Scene:
    """An intake that runs on, with what is around it in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.archive = FakeArchive()
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger.migrate()
        self.now: datetime = NOW
        self.connections: frozenset[Connection] = frozenset()
        self.stated: dict[str, int] = {}
        self.pacs: tuple[PacsSettings, ...] = ()
        self.published: list[Job] = []
        self.start()

    def start(self) -> None:
        """Start the plugin, as after a restart: it knows nothing but the ledger."""
        archive = cast("Archive", self.archive)
        settings = Settings(intake=IntakeSettings())
        self._stated = StatedCounts(find=lambda _pacs, _uid: self.stated, pacs=self.pacs, clock=lambda: self.now)
        self._intake = Intake(
            archive=archive,
            archive_identity="archive",
            ledger=self.ledger,
            evidence=EvidenceGatherer(
                archive=archive,
                associations=Associations(read=lambda: self.connections),
                stated=self._stated,
                watching_since=self.now,
            ),
            watermark=Watermark(
                read=lambda: 10**9, write=lambda _change: None, ledger=self.ledger, archive_identity="archive"
            ),
            planner=Planner(archive=archive, settings=settings, routes=lambda: IN_FORCE),
            settings=settings,
            ring=self._ring,
            clock=lambda: self.now,
        )
        self._intake.step()

    def _ring(self, _queue: str, job_id: str) -> None:
        record = self.ledger.job(job_id)
        assert record is not None
        self.published.append(record.job)

    def step(self, passed: timedelta = timedelta(seconds=0.25)) -> None:
        """Time passes, then the intake takes a step, and the PACS answers what it was asked."""
        self.now += passed
        self._intake.step()
        self._stated.answer_all()

    def steps(self, over: timedelta) -> None:
        """The intake at its usual pace, for some time."""
        for _ in range(round(over / timedelta(seconds=0.25))):
            self.step()

    def waits_for(self) -> str:
        (study,) = self.ledger.arriving()
        return study.wait.waits_for


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_study_whose_sender_hangs_up_is_read_when_it_has_settled(scene: Scene) -> None:
    scene.connections = frozenset({CONNECTION})
    scene.archive.arrive("a", 1, 2, 3)
    scene.steps(5 * SETTLE)
    assert scene.waits_for() == "its sender may still be connected"
    scene.archive.arrive("a", 4)
    scene.steps(SETTLE)
    scene.connections = frozenset()
    scene.step()
    scene.step()
    assert len(scene.published) == 1
    assert scene.ledger.arriving() == []
    assert scene.ledger.history(scene.published[0].job_id)[0].reason.startswith("no image is visibly missing")


def test_a_study_that_waits_is_fetched_once_and_again_when_it_grows(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2)
    scene.steps(FALLBACK / 2)
    assert scene.archive.looked_at == ["a"]
    scene.archive.arrive("a", 4)
    scene.steps(FALLBACK / 2)
    assert scene.archive.looked_at == ["a", "a"]


def test_a_study_that_is_still_arriving_is_not_fetched(scene: Scene) -> None:
    for number in range(10):
        scene.archive.arrive("a", number)
        scene.steps(SETTLE * 0.9)
    assert scene.archive.looked_at == []


def test_pauses_between_associations_are_waited_for_three_times_as_long(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.archive.arrive("a", number)
        scene.steps(timedelta(seconds=4))
    assert scene.waits_for() == "its sender paused between associations, and may do so again"
    assert scene.published == []
    scene.steps(timedelta(seconds=9))
    assert len(scene.published) == 1


def test_after_a_restart_what_arrived_before_waits_for_the_fixed_time(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2, 3)
    scene.step()
    scene.archive.arrive("b", 1, 2, 3)  # Orthanc is killed before the plugin has seen it
    scene.start()
    scene.steps(FALLBACK - SETTLE)
    assert scene.published == []
    assert {study.wait.waits_for for study in scene.ledger.arriving()} == {
        "it is not known whether its sender is still connected"
    }
    scene.steps(2 * SETTLE)
    assert len(scene.published) == 2


def test_while_the_plugin_was_not_running_was_no_quiet(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2, 3)
    scene.step()
    scene.now += 10 * FALLBACK
    scene.start()
    scene.steps(FALLBACK - SETTLE)
    assert scene.published == []
    scene.steps(2 * SETTLE)
    assert len(scene.published) == 1


def test_what_arrives_after_a_restart_is_read_as_soon_as_ever(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2)
    scene.start()
    scene.archive.arrive("a", 3)
    scene.steps(2 * SETTLE)
    assert len(scene.published) == 1


def test_what_the_pacs_has_more_of_stalls_also_over_a_restart_in_which_it_forgets(scene: Scene) -> None:
    scene.pacs, scene.stated = (PACS,), {uid_of("a 1"): 5}
    scene.start()
    scene.archive.arrive("a", 1, 2, 3)
    scene.steps(2 * SETTLE)
    assert scene.waits_for() == f"3 of 5 images of series {uid_of('a 1')} have arrived"
    scene.step(STALLED)
    assert [study.wait.stalled for study in scene.ledger.arriving()] == [True]
    scene.stated = {}
    scene.start()
    scene.step(STALLED)
    scene.step()
    assert [study.wait.stalled for study in scene.ledger.arriving()] == [True]
    assert scene.published == []


def test_a_pacs_that_has_no_more_after_all_ends_the_wait(scene: Scene) -> None:
    scene.pacs, scene.stated = (PACS,), {uid_of("a 1"): 5}
    scene.start()
    scene.archive.arrive("a", 1, 2, 3)
    scene.steps(2 * SETTLE)
    scene.step(STALLED)
    assert [study.wait.stalled for study in scene.ledger.arriving()] == [True]
    scene.stated = {uid_of("a 1"): 3}
    scene.step(STALLED)
    scene.step()
    assert len(scene.published) == 1


def test_a_person_can_have_a_study_read_as_it_is(scene: Scene) -> None:
    scene.archive.arrive("a", 1)
    scene.steps(timedelta(seconds=0.5))
    assert scene.ledger.ask_to_read("a", at=scene.now)
    scene.step()
    assert len(scene.published) == 1
    assert not scene.ledger.ask_to_read("a", at=scene.now)


def test_no_job_is_made_of_a_study_that_has_grown_since_it_was_looked_at(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2, 3)
    scene.archive.after_looking = [lambda: scene.archive.arrive("a", 4)]
    scene.steps(FALLBACK)
    (job,) = scene.published
    assert job.fingerprint == fingerprint_of(f"uid.a/{number} content" for number in (1, 2, 3, 4))


def test_a_study_that_has_shrunk_since_it_was_looked_at_is_looked_at_again(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2, 3, 4)
    scene.archive.after_looking = [lambda: scene.archive.slices["a"].remove(1)]  # the change log does not say so
    scene.steps(2 * SETTLE)
    (job,) = scene.published
    assert job.fingerprint == fingerprint_of(f"uid.a/{number} content" for number in (2, 3, 4))


def test_an_arrival_whose_sender_orthanc_cannot_tell_is_taken_in_later(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2, 3)
    scene.steps(timedelta(seconds=0.5))
    scene.connections = frozenset({CONNECTION})
    scene.archive.arrive("a", 4)
    scene.archive.forgets_origins = True
    scene.step()
    with pytest.raises(ArchiveUnavailable):
        scene.step()
    assert scene.ledger.last_change("archive") == 3
    scene.archive.forgets_origins = False
    scene.steps(5 * SETTLE)
    assert scene.waits_for() == "its sender may still be connected"


def test_the_longest_pause_is_no_longer_than_the_time_without_an_arrival(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2, 3)
    scene.step()
    scene.archive.arrive("a", 4)
    scene.step(timedelta(seconds=20))  # the intake was held up, not the sender
    (study,) = scene.ledger.arriving()
    assert study.longest_pause_s <= 0.25


def test_a_log_that_grows_is_read_once_a_second_and_at_once_when_it_has_stopped(scene: Scene) -> None:
    asked: list[int] = []
    changes = scene.archive.changes

    def counted(*, since: int, limit: int) -> tuple[list[Change], int]:
        asked.append(since)
        return changes(since=since, limit=limit)

    scene.archive.changes = counted  # type: ignore[method-assign]
    for number in range(40):  # for ten seconds
        scene.archive.arrive("a", number)
        scene.step()
    read_while_it_grew = len(asked)
    assert read_while_it_grew <= 2 * 10
    last = scene.now
    scene.step()
    assert len(asked) > read_while_it_grew
    assert scene.ledger.arriving()[0].last_arrival_at == last, "it arrived when it was first seen, not when it was read"


def test_nothing_is_settled_while_part_of_the_log_is_unread(scene: Scene) -> None:
    scene.archive.arrive("a", 1, 2, 3)
    scene.steps(SETTLE)
    scene.archive.arrive("a", 4)
    scene.step()
    assert scene.published == [], "the fourth slice has come, and nobody has looked"
    scene.steps(FALLBACK)
    (job,) = scene.published
    assert job.fingerprint == fingerprint_of(f"uid.a/{number} content" for number in (1, 2, 3, 4))

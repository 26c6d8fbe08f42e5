"""A lane retrieves a study, and whatever happens meanwhile, nothing of somebody else's is removed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coread.archive import Archive, ArchivedSeries, ArchivedStudy, Arrived
from coread.archive_run import Copy, RunStudy, RunStudyState
from coread.archive_table import RunStore
from coread.archivist.lane import Lane
from coread.archivist.state import Attended
from coread.copies import Bringer
from coread.errors import SourceUnavailable, StudyIncomplete
from coread.ledger import Ledger
from coread.plugin.holding import Held
from coread.retrieval import Retrieved
from coread.settings import ArchivistSettings
from tests.archive_runs import ARCHIVIST, begin, run_of
from tests.support import NOW, uid_of

UID = uid_of("abc1 0")
BRINGER = Bringer(aet="PACS", called_aet="RUNS", is_told_apart=True)


class FakeOrthanc:
    """An Orthanc in memory with one study, and the plugin's eye on who sends."""

    def __init__(self) -> None:
        self.instances: dict[str, Arrived] = {}
        self.held_now = Held()

    def arrive(self, number: str, *, aet: str = "PACS", called: str = "RUNS", by_dicom: bool = True) -> None:
        image = SimpleNamespace(GetInstanceRemoteAet=lambda: aet, GetInstanceData=lambda: UID.encode())
        assert not (by_dicom and self.held_now.refuses(image))
        self.instances[number] = Arrived(
            sop_instance_uid=number, by_dicom=by_dicom, by_rest=not by_dicom, aet=aet, called_aet=called
        )

    def restart(self) -> None:
        self.held_now = Held()

    def studies_with(self, _uid: str) -> list[str]:
        return ["study"] if self.instances else []

    def size_of(self, _orthanc_id: str) -> tuple[int, int]:
        return len(self.instances), 9

    def study(self, _orthanc_id: str) -> ArchivedStudy:
        uids = {f"o{number}": number for number in self.instances}
        series = ArchivedSeries(orthanc_id="s", tags={"Modality": "MR"}, instances=uids)
        return ArchivedStudy(orthanc_id="study", study_instance_uid=UID, tags={}, series=[series])

    def arrivals(self, _orthanc_id: str) -> list[Arrived]:
        return list(self.instances.values())

    def delete_study(self, _orthanc_id: str) -> None:
        self.instances.clear()

    @contextmanager
    def held(self, _uids: Sequence[str]) -> Iterator[None]:
        yield

    def watch(self, uid: str, *, aet: str) -> None:
        self.held_now.watch(uid, aet=aet)

    def was_alone(self, uid: str) -> bool:
        return self.held_now.is_alone(uid)

    def unwatch(self, uid: str) -> None:
        self.held_now.unwatch(uid)


class Scene:
    """A run of one study of two images, and a lane."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger, self.orthanc = ledger, FakeOrthanc()
        begin(ledger, folder, studies=1, source="pacs")
        self.run = Attended(run_of(ledger, "abc1"))
        self.lane = Lane(
            self.run,
            ledger=ledger,
            connect=lambda: cast("Archive", self.orthanc),
            open_source=lambda: nullcontext(cast("Any", None)),
            bringer=BRINGER,
            store=RunStore(folder),
            pseudonyms=None,
            settings=ArchivistSettings(attempts=2, retry_delay_s=0.001),
            archivist=ARCHIVIST,
            stop=threading.Event(),
        )
        self.lane._archive = cast("Archive", self.orthanc)

    def attempt(self, *during: Callable[[], object]) -> RunStudy:
        """An attempt in which these happen, the last of which may break it off; where the study is then."""

        def retrieve(_uid: str) -> Retrieved:
            for each in during:
                each()
            return Retrieved(instances=2, bytes=9)

        self.run.note_answer()
        self.run.away_until = NOW
        retriever = SimpleNamespace(stated=lambda _uid: 2, retrieve=retrieve)
        while self.study.state is RunStudyState.DUE:
            self.lane.step(cast("Any", retriever))
            if self.study.attempts or self.study.reason:
                break
        return self.study

    @property
    def study(self) -> RunStudy:
        found = self.ledger.run_study("abc1", 0)
        assert found is not None
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    yield Scene(ledger, tmp_path / "run")
    ledger.close()


def breaks_off(error: Exception) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


AWAY, LESS = SourceUnavailable("away"), StudyIncomplete("less")


def test_what_a_run_has_brought_is_its_copy(scene: Scene) -> None:
    come = scene.orthanc.arrive
    found = scene.attempt(lambda: come("1"), lambda: come("2"))
    assert (found.state, found.copy) == (RunStudyState.HERE, Copy.OURS)


def test_what_was_not_whole_is_removed(scene: Scene) -> None:
    found = scene.attempt(lambda: scene.orthanc.arrive("1"), breaks_off(LESS))
    assert (found.state, found.copy, found.attempts) == (RunStudyState.DUE, Copy.UNKNOWN, 1)
    assert scene.orthanc.instances == {}


def test_what_somebody_sent_before_orthanc_was_restarted_is_not_forgotten(scene: Scene) -> None:
    orthanc = scene.orthanc
    scene.attempt(
        lambda: orthanc.arrive("1", aet="CT_1", called="COREAD"), lambda: orthanc.arrive("1"), breaks_off(AWAY)
    )
    orthanc.restart()
    found = scene.attempt(lambda: orthanc.arrive("2"))
    assert (found.state, found.copy) == (RunStudyState.HERE, Copy.SHARED)
    assert [each.last_change for each in scene.ledger.arriving()] == [0]


def test_what_came_between_the_look_and_the_watch_is_written_down(scene: Scene) -> None:
    orthanc = scene.orthanc
    watch = orthanc.watch

    def comes_first(uid: str, *, aet: str) -> None:
        orthanc.arrive("1", aet="CT_1", called="COREAD")
        watch(uid, aet=aet)

    orthanc.watch = comes_first  # type: ignore[method-assign]
    written = []
    scene.attempt(lambda: written.append(scene.study.copy), breaks_off(AWAY))
    assert written == [Copy.SHARED]


def test_what_the_intake_has_found_to_be_wanted_is_not_removed_as_a_part(scene: Scene) -> None:
    scene.attempt(lambda: scene.orthanc.arrive("1"), lambda: scene.ledger.share_copies(UID), breaks_off(LESS))
    assert scene.study.copy is Copy.SHARED
    assert list(scene.orthanc.instances) == ["1"]


def test_what_the_routes_have_not_seen_of_a_part_that_is_kept_they_see(scene: Scene) -> None:
    orthanc = scene.orthanc
    scene.attempt(
        lambda: orthanc.arrive("1", aet="CT_1", called="COREAD"), lambda: orthanc.arrive("1"), breaks_off(LESS)
    )
    assert scene.study.copy is Copy.SHARED
    assert [each.last_change for each in scene.ledger.arriving()] == [0]


def test_a_study_that_is_whole_and_somebody_elses_is_not_retrieved_over_it(scene: Scene) -> None:
    orthanc = scene.orthanc
    scene.attempt(lambda: orthanc.arrive("1"), lambda: scene.ledger.share_copies(UID), breaks_off(AWAY))
    orthanc.arrive("2", aet="CT_1", called="COREAD")
    found = scene.attempt(lambda: orthanc.instances.clear())
    assert (found.state, found.copy) == (RunStudyState.HERE, Copy.SHARED)
    assert len(orthanc.instances) == 2

"""How studies of a run are wound up when something is odd with one of them, or the run is cancelled."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coread.archive import Archive
from coread.archive_run import Copy, RunState, RunStudyState
from coread.archive_table import RunStore
from coread.archivist.run import DEATHS, Conductor
from coread.archivist.state import Attended
from coread.archivist.windup import WindUp
from coread.delivery import DeliveryState, ObjectState
from coread.errors import ArchiveUnavailable, CoreadError, NotDicom
from coread.job import JobState
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.arrivals import FOR_RUN
from coread.ledger.run_links import RunLink
from coread.settings import Settings
from coread.settings_sources import DimseSource
from tests.archive_runs import ARCHIVIST, MODELS, begin, run_of, take
from tests.destinations import do
from tests.support import NOW, a_job
from tests.unit.test_lane import AWAY, BRINGER, UID, Scene, breaks_off


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    yield ledger
    ledger.close()


LATER = timedelta(days=36500)
"""After NOW, whatever the clock on the wall says."""


@pytest.fixture
def scene(ledger: Ledger, tmp_path: Path) -> Scene:
    return Scene(ledger, tmp_path / "run")


def wound_up_by(scene: Scene, run: Attended) -> WindUp:
    """What winds the run up, without its folder."""
    return WindUp(
        run,
        ledger=scene.ledger,
        archive=cast("Archive", scene.orthanc),
        collector=cast("Any", SimpleNamespace(collect=lambda *_: None)),
        bringer=BRINGER,
        clock=lambda: NOW + LATER,
    )


def read(ledger: Ledger, run_id: str) -> None:
    """The next study of a run was here, and was read."""
    study = take(ledger, run_id)
    values: dict[str, Any] = {"orthanc_id": "study", "instances": 3, "size": None, "brought": None, "source": "here"}
    ledger.note_here(study, copy=Copy.BEFORE, **values, at=NOW)
    job = a_job(model=MODELS[0])
    link = RunLink(run_id=run_id, position=study.position, models=MODELS)
    arriving = ArrivingStudy(orthanc_id="study", last_change=FOR_RUN, last_arrival_at=NOW)
    ledger.settle(arriving, [job], present_uids=(), at=NOW, for_runs=[job.job_id], links=[link])
    assert ledger.cancel(job.job_id, at=NOW)


@pytest.mark.parametrize("error", [NotDicom("an odd result"), RuntimeError("surprise")])
def test_one_odd_result_does_not_hold_up_the_run(ledger: Ledger, tmp_path: Path, error: Exception) -> None:
    begin(ledger, tmp_path, studies=1)
    read(ledger, "abc1")

    def collect(*_: object) -> None:
        raise error

    wind_up = WindUp(
        Attended(run_of(ledger, "abc1")),
        ledger=ledger,
        archive=cast("Any", SimpleNamespace(held=lambda _uids: nullcontext())),
        collector=cast("Any", SimpleNamespace(collect=collect)),
        bringer=None,
        clock=lambda: NOW,
    )
    assert wind_up.step()
    (study,) = ledger.run_studies("abc1")
    assert study.state is RunStudyState.FAILED
    assert ("an odd result" in study.reason) is isinstance(error, CoreadError)
    assert ledger.jobs(states=[JobState.CANCELLED])


# Results that are not delivered ---------------------------------------------------------------------------------------


def undelivered(scene: Scene) -> int:
    """The run's study is read, and the destination refuses the results for good; the delivery."""
    orthanc, ledger = scene.orthanc, scene.ledger
    scene.attempt(lambda: orthanc.arrive("1"), lambda: orthanc.arrive("2"))
    job = a_job(model=MODELS[0], destinations=("research",))
    link = RunLink(run_id="abc1", position=0, models=MODELS)
    arriving = ArrivingStudy(orthanc_id="study", last_change=FOR_RUN, last_arrival_at=NOW)
    ledger.settle(arriving, [job], present_uids=(), at=NOW, for_runs=[job.job_id], links=[link])
    do(ledger, job, ["9.1"])
    delivery = ledger.claim_delivery("research", courier="c", at=NOW, lease=LATER)
    assert delivery is not None
    assert ledger.begin_object(delivery.delivery_id, "9.1", courier="c")
    ledger.note_object(delivery.delivery_id, "9.1", ObjectState.REFUSED, reason="no such class")
    state = ledger.put_down(delivery.delivery_id, courier="c", at=NOW, retry_at=NOW, ask_at=NOW)
    assert state is DeliveryState.FAILED
    return delivery.delivery_id


def test_what_could_not_be_delivered_is_there_to_be_retried_and_the_run_says_that_it_waits(scene: Scene) -> None:
    delivery_id = undelivered(scene)
    attended = Attended(run_of(scene.ledger, "abc1"))
    wind_up = wound_up_by(scene, attended)
    assert not wind_up.step()
    wind_up.see_to_stuck()
    assert "not delivered" in attended.waits_for
    assert f"delivery {delivery_id} to research" in scene.study.reason
    assert len(scene.orthanc.instances) == 2
    assert scene.ledger.cancel_delivery(delivery_id, at=NOW)
    assert wind_up.step()
    assert (scene.study.state, scene.study.copy) == (RunStudyState.DONE, Copy.REMOVED)
    assert scene.orthanc.instances == {}


def test_a_delivery_that_goes_again_at_the_last_moment_finds_the_copy(scene: Scene) -> None:
    delivery_id = undelivered(scene)
    assert scene.ledger.cancel_delivery(delivery_id, at=NOW)
    wind_up = wound_up_by(scene, Attended(run_of(scene.ledger, "abc1")))
    ((study, records),) = scene.ledger.read_studies("abc1", limit=9)
    assert scene.ledger.note_collected(study, at=NOW)
    assert scene.ledger.retry_delivery(delivery_id, at=NOW)
    wind_up._remove(study, records)  # it was listed before
    assert not wind_up.step()
    assert (scene.study.state, len(scene.orthanc.instances)) == (RunStudyState.COLLECTED, 2)
    assert scene.ledger.cancel_delivery(delivery_id, at=NOW)
    assert wind_up.step()
    assert scene.orthanc.instances == {}


# A run that is cancelled ----------------------------------------------------------------------------------------------


def cancelled(scene: Scene) -> WindUp:
    """The run, cancelled, is wound up by this."""
    assert scene.ledger.cancel_run("abc1", by="ada", at=NOW)
    return wound_up_by(scene, Attended(run_of(scene.ledger, "abc1")))


def is_over(scene: Scene, *, copy: Copy) -> bool:
    """Whether the run has ended, with its study, and nobody is watched any more."""
    run = run_of(scene.ledger, "abc1")
    is_watched = scene.orthanc.held_now.is_alone(UID)
    assert run.state is RunState.CANCELLED
    found = (scene.study.state, scene.study.copy, run.ended_at is not None, is_watched)
    return found == (RunStudyState.CANCELLED, copy, True, False)


def test_what_came_of_a_study_goes_when_its_run_is_cancelled(scene: Scene) -> None:
    scene.attempt(lambda: scene.orthanc.arrive("1"), breaks_off(AWAY))
    assert scene.study.copy is Copy.OURS
    wind_up = cancelled(scene)
    assert wind_up.step()
    assert scene.orthanc.instances == {}
    assert is_over(scene, copy=Copy.UNKNOWN)
    assert not wind_up.step()


def test_what_somebody_else_sent_of_it_too_stays_when_its_run_is_cancelled(scene: Scene) -> None:
    orthanc = scene.orthanc
    scene.attempt(
        lambda: orthanc.arrive("1", aet="CT_1", called="COREAD"), lambda: orthanc.arrive("1"), breaks_off(AWAY)
    )
    assert cancelled(scene).step()
    assert list(orthanc.instances) == ["1"]
    assert is_over(scene, copy=Copy.SHARED)
    assert [each.last_change for each in scene.ledger.arriving()] == [0], "the routes see it"


def test_what_may_be_somebody_elses_stays_when_its_run_is_cancelled(scene: Scene) -> None:
    scene.attempt(lambda: scene.orthanc.arrive("1"), breaks_off(AWAY))
    scene.orthanc.restart()
    assert cancelled(scene).step()
    assert list(scene.orthanc.instances) == ["1"]
    assert is_over(scene, copy=Copy.SHARED)


def test_what_another_run_is_at_is_left_to_it_when_a_run_is_cancelled(scene: Scene) -> None:
    scene.attempt(lambda: scene.orthanc.arrive("1"), breaks_off(AWAY))
    again = {"name": "again", "plan_digest": "abc2", "studies": [(UID, 2)], "by": "ada", "at": NOW}
    terms = run_of(scene.ledger, "abc1").terms
    scene.ledger.start_run("abc2", terms=terms, **again)  # type: ignore[arg-type]
    scene.ledger.attend_runs(archivist=ARCHIVIST, at=NOW, lease=LATER)
    other = take(scene.ledger, "abc2")
    assert cancelled(scene).step()
    assert list(scene.orthanc.instances) == ["1"]
    assert (scene.study.state, scene.study.copy) == (RunStudyState.CANCELLED, Copy.UNKNOWN)
    assert scene.orthanc.held_now.is_alone(UID), "the other run may need the watch"
    assert scene.ledger.run_study("abc2", other.position) == other


def test_it_goes_on_where_orthanc_was_away_when_its_run_is_cancelled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.attempt(lambda: scene.orthanc.arrive("1"), breaks_off(AWAY))
    wind_up = cancelled(scene)

    def is_away(_orthanc_id: str) -> None:
        raise ArchiveUnavailable("away")

    with monkeypatch.context() as away:
        away.setattr(scene.orthanc, "delete_study", is_away)
        for _ in range(2):
            with pytest.raises(ArchiveUnavailable):
                wind_up.step()
    assert wind_up.step()
    assert scene.orthanc.instances == {}
    assert is_over(scene, copy=Copy.UNKNOWN)


def test_a_copy_is_not_removed_after_a_look_that_took_too_long(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.attempt(lambda: scene.orthanc.arrive("1"), breaks_off(AWAY))
    wind_up = cancelled(scene)
    with monkeypatch.context() as slow:
        slow.setattr("coread.archivist.removal.LOOK_S", -1.0)
        with pytest.raises(ArchiveUnavailable, match="took"):
            wind_up.step()
    assert list(scene.orthanc.instances) == ["1"]
    assert wind_up.step()
    assert scene.orthanc.instances == {}


def killed_in_retrieval(scene: Scene, tmp_path: Path) -> Conductor:
    """The archivist that takes over from one that was killed while it retrieved a study, of which a part has come."""
    study = take(scene.ledger, "abc1")
    scene.ledger.note_copy(study, Copy.OURS)
    scene.orthanc.watch(UID, aet="PACS")
    scene.orthanc.arrive("1")
    source = DimseSource(name="pacs", protocol="dimse", aet="PACS", host="h", move_to="RUNS")
    settings = Settings(source=(source,), data_folder=tmp_path)
    return Conductor(run_of(scene.ledger, "abc1"), settings=settings, ledger=scene.ledger, archivist=ARCHIVIST)


def test_what_an_archivist_had_begun_that_was_killed_goes_when_its_run_is_cancelled(
    scene: Scene, tmp_path: Path
) -> None:
    conductor = killed_in_retrieval(scene, tmp_path)
    wind_up = cancelled(scene)
    with RunStore(tmp_path / "run") as store:
        conductor._take_over(store, None, cast("Archive", scene.orthanc))
    assert wind_up.step()
    assert scene.orthanc.instances == {}
    assert is_over(scene, copy=Copy.UNKNOWN)


def test_what_came_of_a_study_of_which_archivists_die_goes_with_the_last_of_them(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = killed_in_retrieval(scene, tmp_path)
    monkeypatch.setattr("coread.archivist.run.DEATHS", 0)
    assert DEATHS > 0
    with RunStore(tmp_path / "run") as store:
        conductor._take_over(store, None, cast("Archive", scene.orthanc))
    assert (scene.study.state, scene.study.copy) == (RunStudyState.FAILED, Copy.UNKNOWN)
    assert scene.orthanc.instances == {}
    assert not scene.orthanc.held_now.is_alone(UID)

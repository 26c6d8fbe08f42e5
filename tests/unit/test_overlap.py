"""What runs beside what, in which order, and what becomes of jobs when something goes wrong in one of the threads."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coread.archive import Archive
from coread.errors import ArchiveUnavailable, GeometryError, LedgerUnavailable, ModelError, SourceGone
from coread.job import Job, JobState, Priority
from coread.ledger import ArrivingStudy, Ledger
from coread.models.runner import BundleRunner
from coread.settings import ResultSettings, WorkerSettings
from coread.workers import jobs as jobs_module
from coread.workers.hold import utc_now
from coread.workers.jobs import Ahead, JobRunner
from coread.workers.overlap import Overlap, Scout
from coread.workers.pipeline import Reading
from coread.workers.retry import RetryPolicy
from tests.support import a_job

SOON_S = 30.0
FETCH, INFER, FINISH = "fetch", "infer", "finish"


@dataclass
class Diary:
    """What each stage of each job did, and where it is to wait or to break."""

    entries: list[tuple[str, str, str]] = field(default_factory=list)
    """(begin or end, stage, study), in their order."""
    errors: dict[tuple[str, str], list[BaseException]] = field(default_factory=dict)
    """(stage, study) → what it raises, one each time."""
    gates: dict[tuple[str, str], threading.Event] = field(default_factory=dict)
    in_memory: dict[str, list[weakref.ref[Any]]] = field(default_factory=dict)
    """Study → what was fetched of it."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def gate(self, stage: str, study: str) -> threading.Event:
        """Hold a stage up until the event is set."""
        return self.gates.setdefault((stage, study), threading.Event())

    @contextmanager
    def stage(self, stage: str, study: str) -> Iterator[None]:
        self.note("begin", stage, study)
        if (stage, study) in self.gates:
            assert self.gates[stage, study].wait(SOON_S)
        try:
            if self.errors.get((stage, study)):
                raise self.errors[stage, study].pop(0)
            yield
        finally:
            self.note("end", stage, study)

    def note(self, *entry: str) -> None:
        with self._changed:
            self.entries.append(cast("tuple[str, str, str]", entry))
            self._changed.notify_all()

    def wait_for(self, *entry: str, times: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.entries.count(cast("Any", entry)) >= times, SOON_S), self.entries

    def holds(self, study: str) -> bool:
        gc.collect()
        return any(fetched() is not None for fetched in self.in_memory[study])

    def most_at_once(self, stage: str) -> int:
        most = now = 0
        for what, of, _ in self.entries:
            now += (of == stage) * (1 if what == "begin" else -1)
            most = max(most, now)
        return most


class Fetched:
    """What was fetched of a study, in the place of all that the stages hand on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.others: dict[str, str] = {}


class Archived:
    """An archive of studies that never change; storing is of no matter."""

    def study(self, orthanc_id: str) -> Any:
        return SimpleNamespace(orthanc_id=orthanc_id, revision=a_job().revision, sources=[1], series=[], others={})

    patients: tuple[str, ...] = ("one",)
    """Who has a study of this UID."""

    def studies_with(self, _uid: str) -> list[str]:
        return list(self.patients)


@dataclass
class Scene:
    """A worker whose stages are written down."""

    ledger: Ledger
    diary: Diary
    overlap: Overlap
    jobs: JobRunner
    scout: Scout
    archive: Archived
    manifest: dict[str, Any]
    """What the model's manifest is to whoever looks ahead; the model in use has None."""

    def add(self, *names: str, priority: Priority = Priority.ROUTINE, **more: Any) -> list[Job]:
        """Jobs that wait for a worker."""
        added = []
        for name in names:
            at = more.pop("created_at", utc_now())
            job = a_job(name, orthanc_id=name, priority=priority, created_at=at, **more)
            study = ArrivingStudy(orthanc_id=name, last_change=1, last_arrival_at=at)
            self.ledger.settle(study, [job], present_uids=(), at=at)
            added.append(job)
        self.publish()
        return added

    def publish(self) -> None:
        self.ledger.queue_due(at=utc_now() + timedelta(hours=2))

    def state(self, name: str) -> JobState:
        found = self.ledger.job(name)
        assert found is not None
        return found.state

    def run_all(self) -> list[str]:
        """The jobs that were begun, in their order."""
        begun = []
        while (job := self.overlap.run_next()) is not None:
            begun.append(job.job_id)
        self.overlap._behind.wait()
        return begun


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    diary = Diary()

    def study_of(job: Job, _archive: Archive) -> Any:
        study = Fetched(job.job_id)
        diary.in_memory.setdefault(job.job_id, []).append(weakref.ref(study))
        return study

    def fetch(study: Any, _manifest: object) -> Any:
        with diary.stage(FETCH, study.name):
            return study

    def infer(study: Any, _runner: object) -> Any:
        with diary.stage(INFER, study.name):
            return study

    def report(study: Any, _runner: object, **_more: object) -> Reading:
        with diary.stage(FINISH, study.name):
            return Reading(parts=(), objects=(), summary={"seconds": {}, "sop_instance_uids": []})

    for name, step in (("study_of", study_of), ("fetch", fetch), ("infer", infer), ("report", report)):
        monkeypatch.setattr(jobs_module, name, step)
    archive = Archived()
    jobs = JobRunner(
        archive=cast("Archive", archive),
        ledger=ledger,
        models=lambda _name: cast("BundleRunner", SimpleNamespace(model=SimpleNamespace(version="1", manifest=None))),
        settings=WorkerSettings(),
        results=ResultSettings(say_not_evaluated=False),
        retries=RetryPolicy(first_delay_s=1),
        worker="w",
    )

    def fetch_ahead(job: Job) -> Ahead:
        study = study_of(job, cast("Archive", None))
        return Ahead(job=job, manifest=manifest["ahead"], study=study, fetched=fetch(study, None))

    manifest: dict[str, Any] = {"ahead": None}
    scout = Scout(lambda: ledger.look_ahead(worker="w", at=utc_now()), fetch_ahead, look_every_s=0.01)
    with Overlap(jobs, scout) as overlap:
        yield Scene(ledger, diary, overlap, jobs, scout, archive, manifest)


def in_thread(do: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=do)
    thread.start()
    return thread


def test_while_a_study_is_in_the_model_the_next_is_fetched_and_the_last_is_finished(scene: Scene) -> None:
    scene.add("a", "b", "c")
    finishing, inferring = scene.diary.gate(FINISH, "a"), scene.diary.gate(INFER, "b")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("begin", FINISH, "a")
    scene.diary.wait_for("begin", INFER, "b")
    scene.diary.wait_for("end", FETCH, "c")
    finishing.set()
    scene.diary.wait_for("end", FINISH, "a")
    assert ("end", INFER, "b") not in scene.diary.entries
    inferring.set()
    working.join()
    assert [scene.state(name) for name in "abc"] == [JobState.DONE] * 3


def test_every_study_is_read_once_one_at_a_time_in_the_model_and_results_are_stored_in_order(scene: Scene) -> None:
    names = [f"{number:02}" for number in range(30)]
    scene.add(*names)
    assert scene.run_all() == names
    for stage in (FETCH, INFER, FINISH):
        ended = [study for what, of, study in scene.diary.entries if (what, of) == ("end", stage)]
        assert ended == names
        assert scene.diary.most_at_once(stage) == 1
    assert {scene.state(name) for name in names} == {JobState.DONE}


def test_no_more_than_one_study_is_fetched_ahead_and_one_is_behind(scene: Scene) -> None:
    scene.add("a", "b", "c", "d")
    finishing = scene.diary.gate(FINISH, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "c")
    scene.diary.wait_for("end", INFER, "b")
    assert ("begin", FETCH, "d") not in scene.diary.entries
    assert ("begin", FINISH, "b") not in scene.diary.entries
    finishing.set()
    working.join()


def test_nothing_is_kept_of_a_study_that_is_done_or_will_not_be_needed(scene: Scene) -> None:
    scene.add("a", "b", "c", "d")
    inferring = scene.diary.gate(INFER, "b")
    scene.diary.errors[FINISH, "a"] = [ModelError("it reads back otherwise")]
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "c")
    scene.overlap._behind.wait()
    assert not scene.diary.holds("a")
    assert scene.diary.holds("b")
    assert scene.diary.holds("c")
    scene.ledger.cancel("c", at=utc_now())
    scene.diary.wait_for("end", FETCH, "d")
    assert not scene.diary.holds("c")
    inferring.set()
    working.join()
    assert not any(map(scene.diary.holds, "abcd"))


def test_an_urgent_study_is_next_although_another_one_is_at_hand(scene: Scene) -> None:
    scene.add("a", "b")
    inferring = scene.diary.gate(INFER, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    scene.add("stat", priority=Priority.STAT)
    scene.diary.wait_for("end", FETCH, "stat")
    inferring.set()
    working.join()
    infers = [study for what, stage, study in scene.diary.entries if (what, stage) == ("begin", INFER)]
    assert infers == ["a", "stat", "b"]


def test_a_study_that_is_only_fetched_may_be_claimed_by_a_worker_that_is_free(scene: Scene) -> None:
    scene.add("a", "b")
    inferring = scene.diary.gate(INFER, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    taken = scene.ledger.claim(worker="idle", at=utc_now(), lease=timedelta(minutes=1))
    assert taken is not None
    assert taken.job_id == "b"
    inferring.set()
    working.join()
    assert ("begin", INFER, "b") not in scene.diary.entries


def test_a_study_that_was_sent_again_since_it_was_fetched_is_fetched_anew(scene: Scene) -> None:
    (_, second) = scene.add("a", "b")
    inferring = scene.diary.gate(INFER, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    study = ArrivingStudy(orthanc_id="b", last_change=2, last_arrival_at=utc_now())
    scene.ledger.settle(study, [replace(second, revision="other copies")], present_uids=(), at=utc_now())
    scene.diary.wait_for("end", FETCH, "b", times=2)
    inferring.set()
    working.join()


def test_a_study_that_was_fetched_for_another_manifest_than_the_models_in_use_is_fetched_anew(scene: Scene) -> None:
    scene.add("a", "b")
    scene.manifest["ahead"] = "changed on the disk"
    inferring = scene.diary.gate(INFER, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    inferring.set()
    working.join()
    assert scene.diary.entries.count(("end", FETCH, "b")) == 2
    assert scene.state("b") is JobState.DONE


def test_another_patients_study_that_came_since_a_study_was_fetched_ahead_is_noticed(scene: Scene) -> None:
    scene.add("a", "b")
    inferring = scene.diary.gate(INFER, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    scene.archive.patients = ("one", "other")
    inferring.set()
    working.join()
    assert ("begin", INFER, "b") not in scene.diary.entries
    assert scene.state("b") is JobState.REFUSED


@pytest.mark.parametrize(
    ("stage", "error", "state"),
    [
        (FETCH, GeometryError("a slice is missing"), JobState.REFUSED),
        (FETCH, SourceGone("it was deleted"), JobState.REFUSED),
        (INFER, GeometryError("it reaches the edge"), JobState.REFUSED),
        (INFER, ModelError("it gave NaN"), JobState.FAILED),
        (INFER, MemoryError(), JobState.WAITING),
        (FINISH, ModelError("it reads back otherwise"), JobState.FAILED),
        (FINISH, ArchiveUnavailable("no answer"), JobState.WAITING),
        (FINISH, ValueError("surprise"), JobState.WAITING),
    ],
)
def test_a_job_ends_as_it_would_alone_and_the_others_go_on(
    scene: Scene, stage: str, error: Exception, state: JobState
) -> None:
    scene.add("a", "b", "c")
    scene.diary.errors[stage, "b"] = [error, error]  # fetching is tried once more when the job is claimed
    assert scene.run_all() == ["a", "b", "c"]
    assert [scene.state(name) for name in "abc"] == [JobState.DONE, state, JobState.DONE]


@pytest.mark.parametrize("stage", [FETCH, FINISH])
def test_no_thread_ends_by_what_is_raised_in_it(scene: Scene, stage: str) -> None:
    """Code of others may call sys.exit(), and some panics are no Exception."""
    scene.add("a", "b", "c")
    inferring = scene.diary.gate(INFER, "a")
    scene.diary.errors[stage, "b"] = [SystemExit(1)]
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    inferring.set()
    working.join(SOON_S)
    assert not working.is_alive()
    assert scene.state("c") is JobState.DONE


def test_what_goes_wrong_ahead_of_the_claim_is_held_against_no_job(scene: Scene) -> None:
    scene.add("a", "b")
    scene.diary.errors[FETCH, "b"] = [ArchiveUnavailable("no answer")]
    inferring = scene.diary.gate(INFER, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    inferring.set()
    working.join()
    assert scene.state("b") is JobState.DONE
    record = scene.ledger.job("b")
    assert record is not None
    assert record.attempts == 1


def test_a_job_that_was_begun_before_is_done_alone(scene: Scene) -> None:
    scene.add("a", "b", "c")
    scene.diary.errors[INFER, "b"] = [MemoryError()]
    assert scene.run_all() == ["a", "b", "c"]
    scene.publish()
    scene.add("d", "e")
    assert scene.run_all() == ["b", "d", "e"]
    second = len(scene.diary.entries) - 1 - scene.diary.entries[::-1].index(("begin", INFER, "b"))
    assert scene.diary.entries[second - 2 : second + 4] == [
        ("begin", FETCH, "b"),
        ("end", FETCH, "b"),
        ("begin", INFER, "b"),
        ("end", INFER, "b"),
        ("begin", FINISH, "b"),
        ("end", FINISH, "b"),
    ]


def test_what_is_being_fetched_ahead_is_waited_for_before_a_job_is_done_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.add("a")
    fetching, wait_for = scene.diary.gate(FETCH, "a"), scene.scout._changed.wait_for
    scene.scout.go()
    scene.diary.wait_for("begin", FETCH, "a")
    alone = threading.current_thread()

    def waited_for(*condition: Any) -> object:
        if threading.current_thread() is alone:
            fetching.set()
        return wait_for(*condition)

    monkeypatch.setattr(scene.scout._changed, "wait_for", waited_for)
    scene.scout.pause()
    scene.scout.forget()
    assert ("end", FETCH, "a") in scene.diary.entries
    assert not scene.diary.holds("a")


def test_a_job_claimed_anew_waits_for_its_older_attempt_which_writes_nothing_down_any_more(scene: Scene) -> None:
    scene.add("a")
    finishing = scene.diary.gate(FINISH, "a")
    assert scene.overlap.run_next() is not None
    scene.diary.wait_for("begin", FINISH, "a")
    older = scene.overlap._behind._job
    assert older is not None
    assert scene.ledger.reclaim(at=utc_now() + timedelta(hours=1), attempts=10) == ["a"]
    scene.publish()
    working = in_thread(scene.run_all)
    while not older.hold._is_lost:
        assert working.is_alive()
    assert ("begin", FETCH, "a") not in scene.diary.entries[2:]
    finishing.set()
    working.join()
    assert scene.state("a") is JobState.DONE
    assert [stage for what, stage, _ in scene.diary.entries if what == "end"] == [FETCH, INFER, FINISH] * 2
    assert [event.to_state for event in scene.ledger.history("a")].count(JobState.STORING) == 1


def test_a_ledger_that_is_away_while_a_job_is_finished_leaves_the_job_and_does_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.add("a", "b")
    start = scene.ledger.start_storing

    def away_once(job_id: str, **more: Any) -> bool:
        if job_id == "a":
            raise LedgerUnavailable("no answer")
        return start(job_id, **more)

    monkeypatch.setattr(scene.ledger, "start_storing", away_once)
    assert scene.run_all() == ["a", "b"]
    assert [scene.state(name) for name in "ab"] == [JobState.RUNNING, JobState.DONE]


def test_a_ledger_that_is_away_ends_no_looking_ahead(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.add("a", "b")
    look, troubles = scene.ledger.look_ahead, [LedgerUnavailable("no answer"), ValueError("surprise")]

    def away_at_first(**more: Any) -> Job | None:
        if troubles:
            raise troubles.pop()
        return look(**more)

    monkeypatch.setattr(scene.ledger, "look_ahead", away_at_first)
    inferring = scene.diary.gate(INFER, "a")
    working = in_thread(scene.run_all)
    scene.diary.wait_for("end", FETCH, "b")
    inferring.set()
    working.join()
    assert not troubles


def test_at_the_end_of_the_block_the_jobs_in_hand_have_ended(scene: Scene) -> None:
    scene.add("a", "b")
    finishing = scene.diary.gate(FINISH, "a")
    assert scene.overlap.run_next() is not None
    ending = in_thread(lambda: scene.overlap.__exit__(None, None, None))
    assert scene.state("a") is JobState.RUNNING
    finishing.set()
    ending.join()
    assert scene.state("a") is JobState.DONE
    assert scene.state("b") is JobState.QUEUED

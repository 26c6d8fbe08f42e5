"""One study is in the model while the next one is fetched and the last one is written and stored.

Three studies at most are in memory: one ahead, one in the model or just out of it, one behind. The model is used by the
thread that calls ``run_next`` alone; one thread fetches and one finishes, each one study at a time.

Nothing is claimed ahead: the ledger is asked for the most urgent job when the model is free, as if nothing had been
fetched. If that is the job whose study is at hand, no time is lost; else its study is fetched then. So a `stat` study
is next whatever was fetched, a free worker never leaves a study to a busy one that has only fetched it, and what breaks
while a study is fetched ahead is held against no job.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from coread.archive import Archive
from coread.errors import CoreadError, LedgerUnavailable
from coread.job import Job
from coread.ledger.desk import JobDesk
from coread.logs import logger
from coread.models.catalogue import InstalledModel
from coread.workers.hold import utc_now
from coread.workers.jobs import Ahead, InHand, JobRunner, check_version, study_of, words_of
from coread.workers.pipeline import fetch

LOOK_EVERY_S = 1.0
"""How often a worker whose model is busy looks whether another study is next by now."""

FetchAhead = Callable[[Job], Ahead]


class Overlap:
    """Does jobs inside the block, one at a time in the model; at its end, the last one's results are stored first."""

    def __init__(self, runner: JobRunner, scout: "Scout") -> None:
        self._runner = runner
        self._scout = scout
        self._behind = Behind(runner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scout.end()
        self._behind.end()

    def run_next(self) -> Job | None:
        """Do the most urgent job up to the model's answer, and have the rest done. None if there is none to be had.

        Raises LedgerUnavailable if the ledger cannot be asked.
        """
        self._scout.pause()
        job = self._runner.claim()
        if job is None:
            return None
        self._behind.lose(job.job.job_id)
        if self._runner.was_begun_before(job):
            # Whatever broke it may break it again, or it needs more memory than there is beside others.
            self._scout.forget()
            self._behind.wait()
            self._runner.run(job)
            return job.job
        if self._runner.fetch(job, self._scout.take(job.job)) is None:
            self._scout.go()
            if self._runner.infer(job) is None:
                self._behind.put(job)
        return job.job


class Scout:
    """Fetches the study that is probably next, in a thread of its own, while it is told to."""

    def __init__(
        self,
        look: Callable[[], Job | None],
        fetch_ahead: FetchAhead,
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """``look``: which job is next; it may raise LedgerUnavailable. ``fetch_ahead`` may raise anything."""
        self._look, self._fetch, self._look_every_s = look, fetch_ahead, look_every_s
        self._changed = threading.Condition()
        self._is_busy = self._is_over = False
        """Whether the model is busy, which is when to look; whether to look no more."""
        self._job: Job | None = None
        """The job looked ahead to; its study is at hand, or being fetched, or could not be."""
        self._is_fetching = False
        self._at_hand: Ahead | None = None
        # A daemon: what it does may be cut off at any time, and must not hold up the end of the process.
        threading.Thread(target=self._run, name="coread-ahead", daemon=True).start()

    def go(self) -> None:
        """The model is busy: see to the next study."""
        with self._changed:
            self._is_busy = True
            self._changed.notify_all()

    def pause(self) -> None:
        """Look no further for now. What is being fetched is fetched to its end."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()

    def take(self, job: Job) -> Ahead | None:
        """The job's study if it is at hand, or once it is if it is being fetched; None if it was not fetched."""
        with self._changed:
            if self._job is None or not _same_study(self._job, job):
                return None
            self._changed.wait_for(lambda: not self._is_fetching)
            found, self._at_hand, self._job = self._at_hand, None, None
            return found

    def forget(self) -> None:
        """Let go of what was fetched, and of what is being fetched, as soon as it is."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_fetching)
            self._job = self._at_hand = None

    def end(self) -> None:
        """Look no more, and let go of what was fetched."""
        with self._changed:
            self._is_over = True
            self._job = self._at_hand = None
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_busy or self._is_over)
                if self._is_over:
                    return
                job = self._found()
            if job is not None:
                self._get(job)
            with self._changed:
                self._changed.wait_for(lambda: not self._is_busy or self._is_over, self._look_every_s)

    def _found(self) -> Job | None:
        """The job that is next, if it is another than before. Nobody claims it meanwhile without being seen to."""
        try:
            job = self._look()
        except LedgerUnavailable:
            return None  # whoever claims the next job will notice
        except Exception:  # noqa: BLE001  # without this thread there is only no looking ahead
            logger().exception("not looked ahead")
            return None
        if job is None:
            self._job = self._at_hand = None
        elif self._job is None or not _same_study(self._job, job):
            self._job, self._at_hand, self._is_fetching = job, None, True
            return job
        return None

    def _get(self, job: Job) -> None:
        fetched = None
        with structlog.contextvars.bound_contextvars(**words_of(job)):
            try:
                fetched = self._fetch(job)
            except CoreadError as error:
                logger().info("study not fetched ahead", reason=str(error))
            except BaseException:  # noqa: BLE001  # it is fetched again when the job is claimed, where the error counts
                if not self._is_over:
                    logger().exception("study not fetched ahead")
        with self._changed:
            self._is_fetching = False
            if self._job is job:
                self._at_hand = fetched
            self._changed.notify_all()


class Behind:
    """Finishes jobs that the model is done with, in a thread of its own, one at a time and in their order."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self._changed = threading.Condition()
        self._job: InHand | None = None
        self._is_over = False
        threading.Thread(target=self._run, name="coread-behind", daemon=True).start()

    def put(self, job: InHand) -> None:
        """Have a job finished, as soon as the one before it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._job is None)
            self._job = job
            self._changed.notify_all()

    def wait(self) -> None:
        """Until nothing is in hand."""
        with self._changed:
            self._changed.wait_for(lambda: self._job is None)

    def lose(self, job_id: str) -> None:
        """The job was claimed anew: its older attempt writes nothing down any more, and ends before this returns."""
        with self._changed:
            if self._job is not None and self._job.job.job_id == job_id:
                self._job.hold.lose()
                self._changed.wait_for(lambda: self._job is None)

    def end(self) -> None:
        """Once nothing is in hand, take nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._job is None)
            self._is_over = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or self._is_over)
                job = self._job
            if job is None:
                return
            self._finish(job)
            del job
            with self._changed:
                self._job = None
                self._changed.notify_all()

    def _finish(self, job: InHand) -> None:
        try:
            self._runner.finish(job)
        except LedgerUnavailable as error:
            logger().warning("job left", reason=str(error), **words_of(job.job))
        except BaseException:  # noqa: BLE001  # without this thread, no other job would end, nor the process
            logger().exception("job left", **words_of(job.job))


def scout_of(
    *,
    archive: Archive,
    ledger: JobDesk,
    installed: Callable[[str], InstalledModel],
    worker: str,
    queues: tuple[str, ...] | None,
) -> Scout:
    """A scout that looks into the ledger and fetches from the archive."""

    def look() -> Job | None:
        return ledger.look_ahead(worker=worker, queues=queues, at=utc_now())

    def fetch_ahead(job: Job) -> Ahead:
        model = installed(job.model)
        check_version(job, model)
        study = study_of(job, archive)
        return Ahead(job=job, manifest=model.manifest, study=study, fetched=fetch(study, model.manifest))

    return Scout(look, fetch_ahead)


def _same_study(one: Job, other: Job) -> bool:
    """Whether they are read from the same copies of the same images, by the same model."""
    return (one.job_id, one.revision) == (other.job_id, other.revision)

"""Does one job: claim it, read the study, store the results, write down how it ended.

Everything here may happen twice, or stop anywhere: only one worker holds a job at a time, the results of a job always
have the same UIDs, and what is not finished is taken up again when the lease runs out. A job is done in three stages,
``fetch``, ``infer`` and ``finish``, each of which may end it; they may run in different threads, one after the other.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import structlog

from coread.allocation import give_back_freed_memory
from coread.archive import Archive, instances_with, withdraw
from coread.dicom_sr.encode import ResultObject
from coread.dicom_sr.header import made_at
from coread.dicom_sr.identity import possible_instances
from coread.errors import (
    ArchiveUnavailable,
    ContestedStudy,
    CoreadError,
    InputError,
    JobOverran,
    LedgerUnavailable,
    SourceGone,
    StudyChanged,
    TransientError,
)
from coread.job import Job, JobState
from coread.lease import Lease
from coread.ledger.desk import JobDesk
from coread.logs import logger
from coread.models.catalogue import InstalledModel
from coread.models.manifest import Manifest
from coread.models.runner import BundleRunner
from coread.reason_class import ReasonClass, reason_class_of
from coread.settings import ResultSettings, WorkerSettings
from coread.workers.hold import Hold, utc_now
from coread.workers.key_images import key_images
from coread.workers.pipeline import (
    Fetched,
    Inferred,
    Picture,
    Reading,
    Refusal,
    explain_refusal,
    fetch,
    infer,
    report,
)
from coread.workers.retry import RetryPolicy
from coread.workers.scan import parsed
from coread.workers.stopwatch import Stopwatch
from coread.workers.study import Study, study_in_archive

OVERRAN = 70
"""The exit status of a worker that was stuck in a job (EX_SOFTWARE of sysexits.h)."""


FIRST_PICTURE = 4720
"""Orthanc's numbers of our pictures among the attachments of an instance: from this one on."""

TELLING_S = 30.0
"""How long the ledger may take to note that a job overran; if it takes longer, the job's lease ends by itself."""


def abandon() -> None:
    """End this process at once: no thread of Python's can be stopped from outside."""
    os._exit(OVERRAN)


_Left = TypeVar("_Left")


class Why(NamedTuple):
    """Why a job ended: in words, and as what is counted."""

    reason: str = ""
    reason_class: ReasonClass = ReasonClass.NONE

    @classmethod
    def of(cls, error: CoreadError) -> "Why":
        """The reason that an error states."""
        return cls(str(error), reason_class_of(error))


class _GivenAwayError(Exception):
    """The job is no longer this worker's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ahead:
    """A study that was fetched before its job was claimed."""

    job: Job
    manifest: Manifest
    """Of the model that it was fetched for."""
    study: Study
    fetched: Fetched


@dataclass(kw_only=True, eq=False)
class InHand:
    """A job that this worker has claimed, from stage to stage. What a stage was given is let go of when it is over."""

    hold: Hold
    lease: Lease
    runner: BundleRunner | None = None
    study: Study | None = None
    """With its series' headers: what is needed to say why it was refused."""
    fetched: Fetched | None = None
    inferred: Inferred | None = None
    reading: Reading | None = None
    state: JobState | None = None
    """How it stands now that this worker is done with it; None: it is not."""

    @property
    def job(self) -> Job:
        return self.hold.job

    def let_go(self) -> None:
        """End the heartbeat, and keep nothing of the study."""
        self.lease.__exit__(None, None, None)
        self.runner = self.study = self.fetched = self.inferred = self.reading = None
        give_back_freed_memory()


def study_of(job: Job, archive: Archive) -> Study:
    """The study that a job was made for. Raises StudyChanged if it is not the same any more, ContestedStudy if it is of
    two patients.
    """
    study = study_in_archive(archive, job.orthanc_id)
    if study.revision != job.revision:
        raise StudyChanged("the study is not what it was when the job was made; it will be read as it is now")
    check_patient(job, archive)
    return study


def check_patient(job: Job, archive: Archive) -> None:
    """Raises ContestedStudy if the job's study is of two patients."""
    patients = len(archive.studies_with(job.study_instance_uid))
    if patients > 1:
        raise ContestedStudy(
            f"expected one patient's study with this StudyInstanceUID, found {patients}, and a result could get to "
            "the wrong patient; delete the study that is wrong from Orthanc, then let this job run again"
        )


def check_version(job: Job, model: InstalledModel) -> None:
    """Raises StudyChanged if this worker has another version of the job's model."""
    if model.version != job.model_version:
        raise StudyChanged(
            f"expected {job.model} {job.model_version}, found {model.version} on this worker; the study is "
            "settled again, for the version that the plugin has. Bring plugin and workers to the same version"
        )


def stored_before(job: Job, others: Mapping[str, str]) -> dict[str, str]:
    """Those of a study's other instances (Orthanc id → UID) that can only be this job's results."""
    ours = {instance: uid for instance, uid in others.items() if uid.startswith("2.25.")}
    possible = possible_instances(job.job_id) if ours else frozenset()  # seldom: to derive them takes milliseconds
    return {instance: uid for instance, uid in ours.items() if uid in possible}


def words_of(job: Job) -> Mapping[str, str]:
    """What stands on each line of the log that is about a job."""
    return {"job_id": job.job_id, "study_instance_uid": job.study_instance_uid}


class JobRunner:
    """A worker's means of doing jobs: the models it keeps warm, the archive, the ledger."""

    def __init__(
        self,
        *,
        archive: Archive,
        ledger: JobDesk,
        models: Callable[[str], BundleRunner],
        settings: WorkerSettings,
        results: ResultSettings,
        worker: str,
        retries: RetryPolicy | None = None,
        abandon: Callable[[], None] = abandon,
    ) -> None:
        self._archive = archive
        self._ledger = ledger
        self._models = models
        self._settings = settings
        self._results = results
        self._worker = worker
        self._retries = retries or RetryPolicy(first_delay_s=settings.retry_delay_s)
        self._abandon = abandon

    def run_next(self) -> JobState | None:
        """Do the most urgent job of this worker's queues. Returns how it stands now; None if there is none to be had.

        Raises LedgerUnavailable if the ledger cannot be asked.
        """
        job = self.claim()
        return None if job is None else self.run(job)

    def claim(self) -> InHand | None:
        """Take the most urgent job of this worker's queues, and hold it until it ends. None if there is none."""
        length = timedelta(seconds=self._settings.lease_s)
        job = self._ledger.claim(worker=self._worker, queues=self._settings.queues, at=utc_now(), lease=length)
        if job is None:
            return None
        hold = Hold(job, ledger=self._ledger, worker=self._worker, lease=length)
        with structlog.contextvars.bound_contextvars(**words_of(job)):
            lease = Lease(
                hold.renew, length=length, limit_s=self._settings.time_limit_s, overrun=lambda: self._overrun(hold)
            )
            return InHand(hold=hold, lease=lease.__enter__())

    def was_begun_before(self, job: InHand) -> bool:
        """Whether this is not the first attempt at it. Raises LedgerUnavailable, and then the job is left."""
        try:
            record = self._ledger.job(job.job.job_id)
        except BaseException:
            job.let_go()
            raise
        return record is None or record.attempts > 1

    def run(self, job: InHand) -> JobState:
        """Do a job from its beginning to its end."""
        state = self.fetch(job) or self.infer(job) or self.finish(job)
        if state is None:
            raise AssertionError("a job that is finished has a state")
        return state

    def fetch(self, job: InHand, ahead: Ahead | None = None) -> JobState | None:
        """Get the model, and the study unless it was fetched before. Returns how the job ended; None: it goes on."""
        return self._stage(job, lambda: self._fetch(job, ahead))

    def infer(self, job: InHand) -> JobState | None:
        """Have the model look; for one job at a time. Returns how the job ended; None: it goes on."""
        return self._stage(job, lambda: self._unless_refused(job, _infer))

    def finish(self, job: InHand) -> JobState | None:
        """Measure, encode and store. Returns how the job ended."""
        return self._stage(job, lambda: self._finish(job))

    def _overrun(self, hold: Hold) -> None:
        error = JobOverran(
            f"expected an end within {self._settings.time_limit_s:g} s (worker.time_limit_s), found none; "
            "the worker was started anew"
        )
        # In a thread of its own: a ledger that hangs must not keep a stuck worker alive.
        telling = threading.Thread(target=self._try_again, args=(hold, error), name="coread-overrun", daemon=True)
        telling.start()
        telling.join(TELLING_S)
        self._abandon()

    def _stage(self, job: InHand, do: Callable[[], JobState | None]) -> JobState | None:
        with structlog.contextvars.bound_contextvars(**words_of(job.job)):
            try:
                job.state = self._ended(job.hold, do)
            except BaseException:
                job.let_go()
                raise
            if job.state is not None:
                job.let_go()
            return job.state

    def _ended(self, hold: Hold, do: Callable[[], JobState | None]) -> JobState | None:
        try:
            return self._refused_or_failed(hold, do)
        except StudyChanged as error:
            hold.start_over(str(error))
            logger().info("study changed; it will be settled again")
            return JobState.SUPERSEDED
        except _GivenAwayError:
            logger().info("job was given away while it ran")
            withdraw(self._archive, hold.job.orthanc_id, self._ledger.outdated_uids(hold.job))  # what was stored so far
            return JobState.SUPERSEDED
        except LedgerUnavailable:
            raise  # nothing can be written down; the job waits again when its lease has ended
        except Exception as error:  # noqa: BLE001  # here a job ends: whatever it was, the worker goes on with the next
            if not isinstance(error, TransientError):
                logger().exception("job broke")
            return self._try_again(hold, error)

    def _refused_or_failed(self, hold: Hold, do: Callable[[], JobState | None]) -> JobState | None:
        try:
            return do()
        except (TransientError, StudyChanged, _GivenAwayError):
            raise
        except InputError as error:
            return self._end(hold, JobState.REFUSED, Why.of(error))
        except CoreadError as error:
            logger().exception("job failed")
            return self._end(hold, JobState.FAILED, Why.of(error))

    def _fetch(self, job: InHand, ahead: Ahead | None) -> JobState | None:
        runner = job.runner = self._models(job.job.model)
        check_version(job.job, runner.model)
        if ahead is not None and ahead.manifest == runner.model.manifest:
            check_patient(job.job, self._archive)  # the other one may have come since the study was fetched
            job.study, job.fetched = ahead.study, ahead.fetched
            return None
        job.study = study_of(job.job, self._archive)
        return self._unless_refused(job, _fetch)

    def _finish(self, job: InHand) -> JobState:
        said_at = self._made_at(job.job, _present(job.study))
        refused = self._unless_refused(job, lambda job: _report(job, said_at=said_at))
        return refused or self._store(job.hold, _present(job.reading), end=JobState.DONE, why=Why())

    def _made_at(self, job: Job, study: Study) -> datetime:
        """When the job's results are to say that they were made: what stands in the archive already has said so.

        That is another time than the job's own only where the ledger was restored from a backup, and the job was done
        in between: then it is done once more, and its objects, which others may have, must be the same again.
        """
        for instance in stored_before(job, study.others):
            with suppress(InputError):
                said = made_at(parsed(next(self._archive.files([instance])), instance, header_only=True))
                if said is not None:
                    return said
        return job.created_at

    def _unless_refused(self, job: InHand, step: Callable[[InHand], None]) -> JobState | None:
        try:
            step(job)
        except SourceGone:
            raise
        except InputError as error:
            return self._refuse(job.hold, _present(job.study), _present(job.runner), error)
        return None

    def _refuse(self, hold: Hold, study: Study, runner: BundleRunner, error: InputError) -> JobState:
        """End as refused; in the study itself too, if somebody may expect a reading of it."""
        if self._results.say_not_evaluated:
            try:
                said_at = self._made_at(hold.job, study)
                refusal = explain_refusal(study, runner, error, job_id=hold.job.job_id, created_at=said_at)
            except Exception:  # noqa: BLE001  # the study was refused because something is wrong with it
                logger().exception("that the study was not evaluated could not be written as a report")
            else:
                return self._store(hold, refusal, end=JobState.REFUSED, why=Why.of(error))
        return self._end(hold, JobState.REFUSED, Why.of(error))

    def _store(self, hold: Hold, reading: Reading | Refusal, *, end: JobState, why: Why) -> JobState:
        job = hold.job
        study = self._archive.study(job.orthanc_id)
        if study.revision != job.revision:
            raise StudyChanged("the study changed while it was read; it will be read as it is now")
        record = self._ledger.job(job.job_id)
        # A ledger that was restored from a backup does not know what was stored since.
        was_begun_before = bool(record and record.result) or bool(stored_before(job, study.others))
        if not hold.start_storing(reading.summary):
            logger().info("job was withdrawn while it ran; nothing stored")
            return JobState.SUPERSEDED
        watch = Stopwatch(reading.summary["seconds"], reading.summary.setdefault("stages", {}))
        with watch.stage("store"):
            _check(hold)
            kept = self._withdraw_other_attempts(job, reading.objects) if was_begun_before else frozenset()
            stored = {}
            for result in reading.objects:
                if result.dataset.SOPInstanceUID not in kept:
                    _check(hold)
                    stored[str(result.dataset.SOPInstanceUID)] = self._archive.store(result.file())
            reading.summary["pictures"] = self._attach(hold, reading, stored)
            self._check_still_there(job, reading.objects)
        return self._end(hold, end, why, reading.summary)

    def _attach(self, hold: Hold, reading: Reading | Refusal, stored: Mapping[str, str]) -> list[dict[str, str]]:
        """Keep the pictures with the first of the objects, so that they are there as long as it is. Returns where they
        are, as JSON: none if there is anything the matter, for no result may be lost over a picture.

        ``stored``: SOP Instance UID → Orthanc id of those that were not there before.
        """
        if not reading.pictures or not reading.objects:
            return []
        first = str(reading.objects[0].dataset.SOPInstanceUID)
        attached = []
        try:
            instance = stored.get(first) or self._archive.find_instance(first)
            for number, picture in enumerate(reading.pictures if instance else (), start=FIRST_PICTURE):
                _check(hold)
                self._archive.attach(str(instance), number, picture.png)
                attached.append({"caption": picture.caption, "instance": str(instance), "attachment": str(number)})
        except (ArchiveUnavailable, SourceGone) as error:
            logger().warning("pictures not stored", reason=str(error))
            return []
        return attached

    def _check_still_there(self, job: Job, objects: Sequence[ResultObject]) -> None:
        """Results alone would make a study anew that somebody deleted. Raises SourceGone if they did."""
        if objects and not self._archive.study(job.orthanc_id).sources:
            withdraw(self._archive, job.orthanc_id, {str(result.dataset.SOPInstanceUID) for result in objects})
            raise SourceGone("the study was deleted while its results were stored; send it again to have it read")

    def _withdraw_other_attempts(self, job: Job, objects: Sequence[ResultObject]) -> frozenset[str]:
        """Take away what an earlier attempt at this job stored, all but what is the same now; the UIDs of what stays.

        Attempts may differ, as a GPU's mask does from a CPU's, and one may have given objects that the other does not.
        """
        new = {str(result.dataset.SOPInstanceUID): result for result in objects}
        kept = set()
        for orthanc_id, uid in instances_with(self._archive, job.orthanc_id, possible_instances(job.job_id)).items():
            if uid in new and next(self._archive.files([orthanc_id])) == new[uid].file():
                kept.add(uid)
            else:
                self._archive.delete_instance(orthanc_id)
        return frozenset(kept)

    def _end(self, hold: Hold, state: JobState, why: Why, summary: Mapping[str, Any] | None = None) -> JobState:
        job = hold.job
        if summary is None:  # whatever an earlier attempt at it stored does not stand
            record = self._ledger.job(job.job_id)
            if record and record.result:
                _check(hold)
                self._withdraw_other_attempts(job, ())
        # What was stored before the study changed is wrong, whether or not this job has something better.
        withdraw(self._archive, job.orthanc_id, self._ledger.outdated_uids(job))
        return self._write_end(hold, state, why, summary)

    def _write_end(self, hold: Hold, state: JobState, why: Why, summary: Mapping[str, Any] | None = None) -> JobState:
        if not hold.finish(state, reason=why.reason, reason_class=why.reason_class, result=summary):
            logger().info("job was given away while it ran", would_be=state)
            return JobState.SUPERSEDED
        logger().info(
            "job ended", state=state, reason=why.reason, model=hold.job.model, seconds=summary and summary["seconds"]
        )
        return state

    def _try_again(self, hold: Hold, error: Exception) -> JobState:
        record = self._ledger.job(hold.job.job_id)
        attempts = record.attempts - record.silences if record else 0
        is_ours = isinstance(error, CoreadError)
        reason = str(error) if is_ours else f"unexpected {type(error).__name__}; the worker's log says where"
        if attempts >= self._retries.attempts(error):
            why = Why(f"{reason} (tried {attempts} times)", reason_class_of(error))
            try:
                return self._end(hold, JobState.FAILED, why)
            except Exception:  # noqa: BLE001  # here a job ends; the plugin withdraws what could not be withdrawn here
                logger().exception("results from before the study changed are not withdrawn yet")
                return self._write_end(hold, JobState.FAILED, why)
        wait_s = self._retries.delay_s(attempts)
        hold.try_again(reason, reason_class=reason_class_of(error), wait=timedelta(seconds=wait_s))
        logger().warning("job will be tried again", reason=reason, attempts=attempts, wait_s=wait_s)
        return JobState.WAITING


def _check(hold: Hold) -> None:
    """A worker that slept too long must not write over what another has stored. Raises _GivenAwayError if so."""
    if not hold.renew():
        raise _GivenAwayError


def _present(part: _Left | None) -> _Left:
    """What the stage before has left."""
    if part is None:
        raise AssertionError("the stages of a job come one after the other")
    return part


def _fetch(job: InHand) -> None:
    job.fetched = fetch(_present(job.study), _present(job.runner).model.manifest)


def _infer(job: InHand) -> None:
    fetched, job.fetched = _present(job.fetched), None
    job.inferred = infer(fetched, _present(job.runner))


def _report(job: InHand, *, said_at: datetime) -> None:
    inferred, job.inferred = _present(job.inferred), None
    reading = report(
        inferred,
        _present(job.runner),
        job_id=job.job.job_id,
        created_at=said_at,
        profiles=job.job.profiles,
    )
    pictures = _pictures(reading)
    job.reading = replace(reading, parts=(), cycle=None, pictures=pictures)  # masks and images are needed no more


def _pictures(reading: Reading) -> tuple[Picture, ...]:
    """The key images; none if they cannot be drawn, which is no reason to lose the result."""
    with Stopwatch(reading.summary["seconds"], reading.summary.setdefault("stages", {})).stage("draw"):
        try:
            return tuple(key_images(reading))
        except Exception:  # noqa: BLE001  # whatever it was, the result stands without its pictures
            logger().exception("pictures not drawn")
            return ()

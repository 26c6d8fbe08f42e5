"""Does one job: claim it, read the study, store the results, write down how it ended.

Everything here may happen twice, or stop anywhere: only one worker holds a job at a time, the results of a job always
have the same UIDs, and what is not finished is taken up again when the lease runs out.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import structlog

from coread.archive import Archive, instances_with, withdraw
from coread.dicom_sr.encode import ResultObject
from coread.dicom_sr.identity import possible_instances
from coread.errors import ConfigurationError, CoreadError, InputError, SourceGone, StudyChanged, TransientError
from coread.job import Job, JobState, fingerprint_of
from coread.ledger import Ledger
from coread.logs import logger
from coread.models.runner import BundleRunner
from coread.settings import ResultSettings, WorkerSettings
from coread.workers.pipeline import Reading, Refusal, Stopwatch, explain_refusal, read_study
from coread.workers.study import Study, study_in_archive

HEARTBEATS_PER_LEASE = 4
LONGEST_DELAY_S = 300.0


def utc_now() -> datetime:
    """The clock that workers use."""
    return datetime.now(UTC)


class Lease:
    """Keeps a job's lease alive, from a thread of its own, while the block runs."""

    def __init__(self, ledger: Ledger, job_id: str, *, worker: str, length: timedelta) -> None:
        self._ledger, self._job_id, self._worker, self._length = ledger, job_id, worker, length
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="coread-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._length.total_seconds() / HEARTBEATS_PER_LEASE):
            try:
                self._ledger.renew(self._job_id, worker=self._worker, at=utc_now(), lease=self._length)
            except Exception:  # noqa: BLE001  # the next beat makes up for it; without the thread the job is given away
                logger().exception("lease not renewed")


class JobRunner:
    """A worker's means of doing jobs: the models it keeps warm, the archive, the ledger."""

    def __init__(
        self,
        *,
        archive: Archive,
        ledger: Ledger,
        models: Callable[[str], BundleRunner],
        settings: WorkerSettings,
        results: ResultSettings,
        worker: str,
    ) -> None:
        self._archive = archive
        self._ledger = ledger
        self._models = models
        self._settings = settings
        self._results = results
        self._worker = worker

    def run(self, job_id: str) -> JobState | None:
        """Do the job. Returns how it stands now; None if it was not to be had."""
        lease = timedelta(seconds=self._settings.lease_s)
        job = self._ledger.claim(job_id, worker=self._worker, at=utc_now(), lease=lease)
        if job is None:
            logger().info("job is not to be had", job_id=job_id)
            return None
        with (
            structlog.contextvars.bound_contextvars(job_id=job_id, study_instance_uid=job.study_instance_uid),
            Lease(self._ledger, job_id, worker=self._worker, length=lease),
        ):
            return self._run(job)

    def _run(self, job: Job) -> JobState:
        try:
            return self._read_and_store(job)
        except StudyChanged as error:
            self._ledger.start_over(job, worker=self._worker, reason=str(error), at=utc_now())
            logger().info("study changed; it will be settled again")
            return JobState.SUPERSEDED
        except TransientError as error:
            return self._try_again(job, str(error))
        except Exception as error:  # noqa: BLE001  # here a job ends: whatever it was, the worker goes on with the next
            logger().exception("job broke")
            return self._try_again(job, f"unexpected {type(error).__name__}; the worker's log says where")

    def _read_and_store(self, job: Job) -> JobState:
        try:
            runner = self._runner(job)
            study = self._study(job)
            try:
                reading = read_study(
                    study,
                    runner,
                    job_id=job.job_id,
                    created_at=job.created_at,
                    profiles=self._results.profiles,
                )
            except SourceGone:
                raise
            except InputError as error:
                return self._refuse(job, study, runner, error)
            return self._store(job, reading, end=JobState.DONE)
        except (TransientError, StudyChanged):
            raise
        except InputError as error:
            return self._end(job, JobState.REFUSED, str(error))
        except CoreadError as error:
            logger().exception("job failed")
            return self._end(job, JobState.FAILED, str(error))

    def _runner(self, job: Job) -> BundleRunner:
        runner = self._models(job.model)
        if runner.model.version != job.model_version:
            raise ConfigurationError(
                f"expected {job.model} {job.model_version}, found {runner.model.version} on this worker; "
                "bring plugin and workers to the same version, then POST to /coread/jobs/{job id}/retry"
            )
        return runner

    def _study(self, job: Job) -> Study:
        study = study_in_archive(self._archive, job.orthanc_id)
        if fingerprint_of(study.sop_instance_uids) != job.fingerprint:
            raise StudyChanged("the study is not what it was when the job was made; it will be read as it is now")
        return study

    def _refuse(self, job: Job, study: Study, runner: BundleRunner, error: InputError) -> JobState:
        """End as refused; in the study itself too, if somebody may expect a reading of it."""
        if self._results.say_not_evaluated:
            try:
                refusal = explain_refusal(study, runner, error, job_id=job.job_id, created_at=job.created_at)
            except Exception:  # noqa: BLE001  # the study was refused because something is wrong with it
                logger().exception("that the study was not evaluated could not be written as a report")
            else:
                return self._store(job, refusal, end=JobState.REFUSED, reason=str(error))
        return self._end(job, JobState.REFUSED, str(error))

    def _store(self, job: Job, reading: Reading | Refusal, *, end: JobState, reason: str = "") -> JobState:
        record = self._ledger.job(job.job_id)
        was_begun_before = bool(record and record.result)
        if not self._ledger.start_storing(job.job_id, worker=self._worker, result=reading.summary, at=utc_now()):
            logger().info("job was withdrawn while it ran; nothing stored")
            return JobState.SUPERSEDED
        watch = Stopwatch(reading.summary["seconds"])
        with watch.stage("store"):
            kept = self._withdraw_other_attempts(job, reading.objects) if was_begun_before else frozenset()
            for result in reading.objects:
                if result.dataset.SOPInstanceUID not in kept:
                    self._archive.store(result.file())
        return self._end(job, end, reason, reading.summary)

    def _withdraw_other_attempts(self, job: Job, objects: Sequence[ResultObject]) -> frozenset[str]:
        """Take away what an earlier attempt at this job stored, all but what is the same now; the UIDs of what stays.

        Attempts may differ, as a GPU's mask does from a CPU's, and their objects have the same UIDs: Orthanc would keep
        the first of each, and so objects of two attempts side by side.
        """
        new = {str(result.dataset.SOPInstanceUID): result for result in objects}
        kept = set()
        for orthanc_id, uid in instances_with(self._archive, job.orthanc_id, possible_instances(job.job_id)).items():
            if uid in new and next(self._archive.files([orthanc_id])) == new[uid].file():
                kept.add(uid)
            else:
                self._archive.delete_instance(orthanc_id)
        return frozenset(kept)

    def _end(self, job: Job, state: JobState, reason: str, summary: Mapping[str, Any] | None = None) -> JobState:
        # What was stored before the study changed is wrong, whether or not this job has something better.
        withdraw(self._archive, job.orthanc_id, self._ledger.outdated_uids(job))
        return self._finish(job, state, reason, summary)

    def _finish(self, job: Job, state: JobState, reason: str, summary: Mapping[str, Any] | None = None) -> JobState:
        ended = self._ledger.finish(job.job_id, state, worker=self._worker, reason=reason, result=summary, at=utc_now())
        if not ended:
            logger().info("job was given away while it ran", would_be=state)
            return JobState.SUPERSEDED
        logger().info("job ended", state=state, reason=reason, model=job.model, seconds=summary and summary["seconds"])
        return state

    def _try_again(self, job: Job, reason: str) -> JobState:
        record = self._ledger.job(job.job_id)
        attempts = record.attempts if record else 0
        if attempts >= self._settings.attempts:
            text = f"{reason} (tried {attempts} times)"
            try:
                return self._end(job, JobState.FAILED, text)
            except Exception:  # noqa: BLE001  # here a job ends; the plugin withdraws what could not be withdrawn here
                logger().exception("results from before the study changed are not withdrawn yet")
                return self._finish(job, JobState.FAILED, text)
        wait_s = min(LONGEST_DELAY_S, self._settings.retry_delay_s * 2 ** max(0, attempts - 1))
        now = utc_now()
        not_before = now + timedelta(seconds=wait_s)
        self._ledger.try_again(job.job_id, worker=self._worker, reason=reason, at=now, not_before=not_before)
        logger().warning("job will be tried again", reason=reason, attempts=attempts, wait_s=wait_s)
        return JobState.WAITING

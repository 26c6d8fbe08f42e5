"""From Orthanc's change log to published jobs, in three steps that may each be repeated at any time.

Nothing is remembered between steps but what stands in the ledger, so that a process killed anywhere goes on where it
was. Orthanc's StableStudy event is not used: a restart loses it, while the change log survives.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from coread.archive import Archive, ArchivedStudy
from coread.errors import CoreadError, SourceGone, TransientError
from coread.job import Job, fingerprint_of, job_id_of
from coread.ledger import ArrivingStudy, Ledger
from coread.logs import logger
from coread.plugin.completeness import is_complete
from coread.plugin.routing import models_for
from coread.settings import Settings

CHANGES_PER_PAGE = 500


class Intake:
    """The plugin's work, a step at a time. The archive, the ledger, the publisher and the clock are given to it."""

    def __init__(
        self,
        *,
        archive: Archive,
        archive_identity: str,
        ledger: Ledger,
        settings: Settings,
        model_versions: Mapping[str, str],
        publish: Callable[[Job], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._archive = archive
        self._archive_identity = archive_identity
        self._ledger = ledger
        self._settings = settings
        self._model_versions = model_versions
        self._publish = publish
        self._clock = clock

    def step(self) -> None:
        """Take in what arrived, make jobs of the studies that are complete, publish what is due."""
        self.take_in_changes()
        self.settle_complete_studies()
        self.publish_due_jobs()

    def take_in_changes(self) -> None:
        """Mark the studies that instances were added to, page by page; each page moves the cursor with it."""
        # The log can end before the cursor: lines go with the studies that are deleted, and a restored database has
        # fewer. Numbers are not used again in the first case and are in the second; going back to the end serves both.
        since = min(self._ledger.last_change(self._archive_identity), self._archive.last_change())
        while True:
            changes, since = self._archive.changes(since=since, limit=CHANGES_PER_PAGE)
            if not changes:
                return
            studies: dict[str, int] = {}
            for change in changes:
                if change.kind == "NewInstance":
                    study = self._archive.study_of_source(change.orthanc_id)
                    if study is not None:
                        studies[study] = change.number
            self._ledger.note_arrivals(
                studies, archive_identity=self._archive_identity, last_change=since, at=self._clock()
            )

    def settle_complete_studies(self) -> None:
        """Record the jobs of each study that is complete."""
        quiet = timedelta(seconds=self._settings.intake.quiet_s)
        for study in self._ledger.arriving():
            if not is_complete(last_arrival_at=study.last_arrival_at, now=self._clock(), quiet=quiet):
                continue
            try:
                self._settle(study)
            except TransientError as error:  # one study that Orthanc cannot show must not hold up the others
                logger().warning("study not settled yet", orthanc_id=study.orthanc_id, reason=str(error))

    def _settle(self, arriving: ArrivingStudy) -> None:
        now = self._clock()
        try:
            study = self._archive.study(arriving.orthanc_id)
        except SourceGone:
            self._ledger.settle(arriving, [], present_uids=(), at=now)
            return
        jobs = self._jobs_of(study, now)
        present = {uid for series in study.series for uid in series.instances.values()}
        self._ledger.settle(arriving, jobs, present_uids=present, at=now)
        log = logger().bind(study_instance_uid=study.study_instance_uid)
        log.info("study complete", jobs=[job.job_id for job in jobs], models=[job.model for job in jobs])

    def _jobs_of(self, study: ArchivedStudy, now: datetime) -> list[Job]:
        uids = [uid for series in study.sources for uid in series.instances.values()]
        fingerprint = fingerprint_of(uids)
        return [
            Job(
                job_id=job_id_of(
                    study_instance_uid=study.study_instance_uid,
                    model=model,
                    model_version=self._model_versions[model],
                    fingerprint=fingerprint,
                ),
                study_instance_uid=study.study_instance_uid,
                orthanc_id=study.orthanc_id,
                model=model,
                model_version=self._model_versions[model],
                fingerprint=fingerprint,
                priority=priority,
                created_at=now,
            )
            for model, priority in models_for(study, self._settings.route).items()
        ]

    def publish_due_jobs(self) -> None:
        """Ring for the workers. A message that cannot be sent leaves its job due."""
        self._ledger.reclaim(at=self._clock(), attempts=self._settings.worker.attempts)
        for job in self._ledger.due(at=self._clock()):
            if not self._ledger.mark_queued(job.job_id, at=self._clock()):
                continue
            try:
                self._publish(job)
            except CoreadError as error:
                self._ledger.unqueue(job.job_id, reason=str(error), at=self._clock())
                raise

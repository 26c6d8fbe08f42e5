"""From Orthanc's change log to published jobs, in three steps that may each be repeated at any time.

Nothing is remembered between steps but what stands in the ledger, so that a process killed anywhere goes on where it
was. Orthanc's StableStudy event is not used: a restart loses it, while the change log survives.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from coread.archive import Archive, ArchivedStudy, Origin
from coread.archive_run import Copy, RunStudyState
from coread.copies import Bringers, has_same_sources, is_brought
from coread.errors import ConfigurationError, InputError, SourceGone, StudyChanged, TransientError
from coread.ledger import ArrivingStudy, Ledger, Wait, Wanted
from coread.ledger.arrivals import FOR_RUN, FOR_WORKITEM
from coread.logs import logger
from coread.plugin.completeness import Complete, Decision, Stalled, StudyEvidence, WaitUntil, decide
from coread.plugin.evidence import EvidenceGatherer, origin_of
from coread.plugin.orders import Orders
from coread.plugin.planning import Plan, Planner
from coread.plugin.watermark import Watermark
from coread.settings import Settings

CHANGES_PER_PAGE = 500

PAGES_PER_STEP = 20
SETTLING_S = 1.0
"""A step does a part of much work, so that what is due is published meanwhile, and the disk looked at."""

GROWING = timedelta(seconds=1)
"""A log that grows is read so often; one that has stopped growing, or that a study waits for, at once."""

ASKS_WORKLIST = "the modality worklist is asked what was ordered"

RETRIEVES = "an archive run retrieves it"

LOOK_AGAIN = timedelta(seconds=2)
"""After this, a study is looked at again that Orthanc could not show, or that a route could not be applied to."""
ASK_ORDER_AGAIN = timedelta(seconds=30)
"""The same for one that nobody reads unless the modality worklist, which is away, says so."""
LOOK_SELDOM = timedelta(minutes=5)
"""The same for one that a person must see to."""


class Intake:
    """The plugin's work, a step at a time. The archive, the ledger, the bell and the clock are given to it.

    ``ring(queue, job_id)`` calls a worker of the queue; it raises BrokerUnavailable if the broker takes no message.
    """

    def __init__(
        self,
        *,
        archive: Archive,
        archive_identity: str,
        ledger: Ledger,
        evidence: EvidenceGatherer,
        planner: Planner,
        watermark: Watermark,
        settings: Settings,
        ring: Callable[[str, str], None],
        clock: Callable[[], datetime],
        orders: Orders | None = None,
        bringers: Bringers = lambda _source: None,
    ) -> None:
        self._archive = archive
        self._archive_identity = archive_identity
        self._ledger = ledger
        self._evidence = evidence
        self._planner = planner
        self._watermark = watermark
        self._orders = orders or Orders(find=lambda _worklist, _query: [], worklists=(), clock=clock)
        self._bringers = bringers
        self._has_runs = False
        """Whether there is any archive run: most often there is none, and then nothing more is asked."""
        self._retrieved: dict[str, object] = {}
        """Studies (Orthanc id) that runs retrieve, as they were when all that is here was found to be the runs'."""
        self._has_looked_back = False
        self._settings = settings
        self._ring = ring
        self._clock = clock
        self._before_start: int | None = None
        """The number up to which the log may have been written before this intake was there to see the senders."""
        self._newest: int | None = None
        """The number of the log's newest line when it was last looked at."""
        self._grew_at = clock()
        """When the log was last seen to have grown."""
        self._log_read_at: datetime | None = None
        """When the log was last begun to be read."""
        self._read_at: datetime | None = None
        """When the log was last read to its end."""
        self._look_again_at: dict[str, datetime] = {}
        """When to look again at a study that something was the matter with."""
        self._pause_ends_at: datetime | None = None
        """When the first of the studies that images still come of will have had none for long enough."""

    def step(self) -> None:
        """Take in what arrived, make jobs of the studies that are complete, publish what is due."""
        self.take_in_studies()
        self.publish_due_jobs()

    def take_in_studies(self) -> None:
        """Take in what arrived, and make jobs of the studies that are complete."""
        if not self._has_looked_back:
            self.look_back()
            self._has_looked_back = True
        if self.take_in_changes():  # else more of a study that seems complete may stand in what was not read
            self.settle_complete_studies()

    def look_back(self) -> None:
        """Look at every study again if Orthanc's database was restored from a backup while the plugin was away."""
        if self._watermark.shows_an_older_database():
            newest = self._archive.last_change()  # before the studies are listed: what comes meanwhile is in the log
            studies = self._archive.all_studies()
            logger().warning("Orthanc's database is an older one: all studies are looked at again", count=len(studies))
            self._ledger.start_anew(
                studies, archive_identity=self._archive_identity, last_change=newest, at=self._clock()
            )

    def take_in_changes(self) -> bool:
        """Mark the studies that instances were added to, page by page; each page moves the cursor with it.

        Returns whether the log was read to its end.
        """
        # Before the log is read, so that what a connection that is closed by now brought stands in it.
        associations = self._evidence.associations
        associations.look()
        # The log can end before the cursor: lines go with the studies that are deleted.
        newest = self._archive.last_change()
        if self._is_put_off_while_it_grows(newest):
            return False
        since = min(self._ledger.last_change(self._archive_identity), newest)
        if self._before_start is None:
            self._before_start = newest
        started_at = self._clock()
        for _ in range(PAGES_PER_STEP):
            changes, since = self._archive.changes(since=since, limit=CHANGES_PER_PAGE)
            if not changes:
                associations.note_end_of_log()
                self._read_at = started_at
                self._watermark.raise_to(since, at=started_at)
                return True
            arrived = {change.orthanc_id: change.number for change in changes if change.kind == "NewInstance"}
            studies: dict[str, int] = {}
            instances: dict[str, str] = {}
            sources = self._archive.studies_of_sources(list(arrived))
            others = [each for each in arrived if each not in sources]
            for instance, study in sources.items():
                if arrived[instance] > studies.get(study, -1):
                    studies[study], instances[study] = arrived[instance], instance
            # Before the cursor moves: if Orthanc fails here, the page is read again.
            if others:
                self._ledger.note_returned(self._archive.speaking_objects(others), at=started_at)
            associations.note_arrivals(self._witnessed(studies, instances))
            self._ledger.note_arrivals(
                studies,
                archive_identity=self._archive_identity,
                last_change=since,
                at=self._grew_at,
                last_instances=instances,
                quiet_until=self._read_at,
                still_connected={study for study in studies if associations.was_open(study)},
            )
        return False

    def _is_put_off_while_it_grows(self, newest: int) -> bool:
        """Whether the log is still growing, and may for a moment more: to read it meanwhile would slow the sender down.
        While others send without end, as an archive run does, a study that may be complete by now does not wait for it.

        When it was last seen to have grown is remembered: then the last of it arrived, whenever it is read.
        """
        now = self._clock()
        has_grown = newest != self._newest
        if has_grown:
            self._newest, self._grew_at = newest, now
        is_waited_for = self._pause_ends_at is not None and now >= self._pause_ends_at
        if not has_grown or is_waited_for or self._log_read_at is None or now - self._log_read_at >= GROWING:
            self._log_read_at = now
            return False
        return True

    def _witnessed(self, studies: Mapping[str, int], instances: Mapping[str, str]) -> dict[str, Origin]:
        """Where the last instances came from, of the studies that this intake saw arrive."""
        before = self._before_start or 0
        return {
            study: origin_of(self._archive, instances[study]) for study, number in studies.items() if number > before
        }

    def settle_complete_studies(self) -> None:
        """Record the jobs of each study that is complete, and of each other one what it waits for."""
        arriving = self._ledger.arriving()
        present = {study.orthanc_id for study in arriving}
        self._evidence.forget_all_but(present)
        self._orders.forget_all_but(present)
        self._retrieved = {study: seen for study, seen in self._retrieved.items() if study in present}
        self._look_again_at = {study: at for study, at in self._look_again_at.items() if study in present}
        self._has_runs = self._has_runs or (bool(arriving) and self._ledger.has_runs())
        still = {study.orthanc_id: self._end_of_pause(study) for study in arriving if self._is_arriving_still(study)}
        self._pause_ends_at = min(still.values(), default=None)
        enough_at = time.monotonic() + SETTLING_S
        for study in arriving:
            if self._is_put_off(study) or study.orthanc_id in still:
                continue
            if time.monotonic() > enough_at:
                return  # the next step goes on: meanwhile, jobs are published
            try:
                self._look_at(study)
            except SourceGone:
                self._ledger.settle(study, [], present_uids=(), at=self._clock())
            except (TransientError, StudyChanged, ConfigurationError) as error:
                self._put_off(study, str(error), by=LOOK_AGAIN)
            except InputError as error:
                self._put_off(study, str(error), by=LOOK_SELDOM, stalled=True)
            except Exception as error:  # noqa: BLE001  # one study, whatever is the matter, must not hold up the others
                logger().exception("study broke the intake", orthanc_id=study.orthanc_id)
                self._put_off(study, f"unexpected {type(error).__name__}; Orthanc's log says where", by=LOOK_SELDOM)

    def _put_off(self, study: ArrivingStudy, reason: str, *, by: timedelta, stalled: bool = False) -> None:
        """Look at a study again in a while, and say why, once."""
        self._look_again_at[study.orthanc_id] = self._clock() + by
        wait = replace(study.wait, waits_for=reason, waits_until=None, stalled=stalled)
        if wait != study.wait:
            self._ledger.note_wait(study, wait)
            logger().warning("study not settled yet", orthanc_id=study.orthanc_id, reason=reason)

    def _is_put_off(self, study: ArrivingStudy) -> bool:
        return self._clock() < self._look_again_at.get(study.orthanc_id, study.last_arrival_at)

    def _is_arriving_still(self, study: ArrivingStudy) -> bool:
        """Whether it would be in vain to look at it."""
        if study.last_change == FOR_RUN or study.read_asked_at is not None:
            return False
        return self._clock() < self._end_of_pause(study)

    def _end_of_pause(self, study: ArrivingStudy) -> datetime:
        """When it may be complete, if no more of it comes."""
        intake = self._settings.intake
        return study.last_arrival_at + timedelta(seconds=min(intake.settle_s, intake.quiet_s))

    def _look_at(self, study: ArrivingStudy) -> None:
        evidence = self._evidence.of(study)
        wanted: Sequence[Wanted] = ()
        if self._has_runs:
            uid = self._evidence.study_instance_uid(study.orthanc_id)
            wanted = self._ledger.wanted_by_runs(uid, at=self._clock())
            if wanted and self._is_seen_to_for_runs(study, wanted):
                return
        decision = decide(evidence, now=self._clock(), settings=self._settings.intake)
        if study.read_asked_at is not None:
            decision = Complete(because="a person asked to have it read as it is")
        if isinstance(decision, Complete):
            self._settle(study, evidence, because=decision.because, wanted=_to_read(wanted))
        else:
            self._note_wait(study, _wait(evidence, decision))

    def _is_seen_to_for_runs(self, arriving: ArrivingStudy, wanted: Sequence[Wanted]) -> bool:
        """Whether a study is here for archive runs alone, for which it is settled; the others are settled as ever."""
        if arriving.last_change == FOR_RUN and arriving.read_asked_at is None:
            self._settle_for_runs(arriving, self._archive.study(arriving.orthanc_id), _to_read(wanted))
            return True
        copies = [each for each in wanted if each.copy is Copy.OURS]
        if not copies:
            # A run that has only begun to look for it has brought nothing: what it may bring is looked at as its own.
            looking = [each for each in wanted if each.copy is Copy.UNKNOWN and each.state is RunStudyState.RETRIEVING]
            study = self._archive.study(arriving.orthanc_id) if looking else None
            its_own = [each for each in looking if study is not None and self._is_brought(study, each)]
            return self._waits_for_retrieval(arriving, its_own)
        is_asked_for = arriving.read_asked_at is not None or arriving.last_change == FOR_WORKITEM
        # Each image that comes, or comes again, is a line of the log: without one, it would be listed in vain.
        seen = arriving.last_change, [(each.run_id, each.position, each.copy, each.brought) for each in wanted]
        is_as_it_was = not is_asked_for and self._retrieved.get(arriving.orthanc_id) == seen
        if is_as_it_was and self._waits_for_retrieval(arriving, copies):
            return True
        study = self._archive.study(arriving.orthanc_id)
        if is_asked_for or not all(self._is_brought(study, each) for each in copies):
            self._ledger.share_copies(study.study_instance_uid)
            logger().info("what a run has brought is kept", study_instance_uid=study.study_instance_uid)
            return False
        if self._waits_for_retrieval(arriving, copies):
            self._retrieved[arriving.orthanc_id] = seen
            return True
        is_known = all(each.has_standing_jobs for each in _to_read(wanted))
        same = all(each.brought is not None and has_same_sources(study, each.brought) for each in copies)
        self._settle_for_runs(arriving, study, () if is_known and same else _to_read(wanted))
        return True

    def _waits_for_retrieval(self, arriving: ArrivingStudy, wanted: Sequence[Wanted]) -> bool:
        """Whether a run retrieves the study just now; it is looked at again at the next step."""
        if not any(each.state is RunStudyState.RETRIEVING and each.is_attended for each in wanted):
            return False
        self._note_wait(arriving, replace(arriving.wait, waits_for=RETRIEVES, waits_until=None, stalled=False))
        return True

    def _is_brought(self, study: ArchivedStudy, wanted: Wanted) -> bool:
        return is_brought(
            study,
            lambda: self._archive.arrivals(study.orthanc_id),
            brought=wanted.brought,
            bringer=self._bringers(wanted.terms.source),
        )

    def _settle_for_runs(self, arriving: ArrivingStudy, study: ArchivedStudy, wanted: Sequence[Wanted]) -> None:
        now = self._clock()
        plan = self._planner.plan_for_runs(study, at=now, wanted=wanted) if wanted else Plan()
        self._ledger.settle(arriving, plan.jobs, present_uids=(), at=now, for_runs=plan.for_runs, links=plan.links)
        if wanted:
            log = logger().bind(study_instance_uid=study.study_instance_uid)
            log.info("study settled for archive runs", jobs=[job.job_id for job in plan.jobs])

    def _note_wait(self, study: ArrivingStudy, wait: Wait) -> None:
        if wait != study.wait:
            self._ledger.note_wait(study, wait)
            log = logger().bind(orthanc_id=study.orthanc_id, instances=wait.instances)
            (log.warning if wait.stalled else log.info)("study waits", reason=wait.waits_for)

    def _settle(
        self, arriving: ArrivingStudy, evidence: StudyEvidence, *, because: str, wanted: Sequence[Wanted] = ()
    ) -> None:
        now = self._clock()
        done_before = self._ledger.done_jobs(arriving.orthanc_id)  # what is done after this may have stored after that
        order = self._orders.of(arriving.orthanc_id, lambda: self._archive.patient_and_study(arriving.orthanc_id))
        if order is None:
            self._note_wait(arriving, replace(_wait(evidence, Complete(because="")), waits_for=ASKS_WORKLIST))
            return
        study = self._archive.study(arriving.orthanc_id)
        if sum(len(series.instances) for series in study.sources) != evidence.instances:
            self._evidence.forget(arriving.orthanc_id)  # it has changed since it was looked at
            return
        plan = self._planner.plan(study, at=now, order=order, wanted=wanted)
        if plan.hangs_on_order and arriving.read_asked_at is None:
            self._orders.forget(arriving.orthanc_id)
            reason = f"{order.said}, and no route has the study read without it; it is asked again"
            self._put_off(arriving, reason, by=ASK_ORDER_AGAIN, stalled=True)
            return
        jobs = plan.jobs
        fingerprint = next((job.fingerprint for job in jobs), None)
        if fingerprint is None and self._ledger.has_jobs(arriving.orthanc_id):
            fingerprint = self._planner.fingerprint(study)
        present = {uid for series in study.series for uid in series.instances.values()}
        self._ledger.settle(
            arriving,
            jobs,
            present_uids=present,
            done_before=done_before,
            fingerprint=fingerprint,
            study_instance_uid=study.study_instance_uid,
            senders=self._archive.senders(study),
            at=now,
            because=f"{because}; {order.said}" if order.said else because,
            for_workitems=plan.for_workitems,
            for_runs=plan.for_runs,
            links=plan.links,
        )
        self._orders.forget(arriving.orthanc_id)
        log = logger().bind(study_instance_uid=study.study_instance_uid)
        log.info(
            "study complete",
            because=because,
            jobs=[job.job_id for job in jobs],
            models=[job.model for job in jobs],
        )

    def publish_due_jobs(self) -> None:
        """Ring for the workers. One that hears no bell takes the job a few seconds later, when it looks by itself."""
        now = self._clock()
        self._ledger.reclaim(at=now, attempts=self._settings.worker.attempts)
        for job in self._ledger.queue_due(at=now):
            self._ring(job.queue, job.job_id)


def _to_read(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those of the runs that have the study whole, and read it now."""
    return [each for each in wanted if each.state in (RunStudyState.HERE, RunStudyState.READING)]


def _wait(evidence: StudyEvidence, decision: Decision) -> Wait:
    """What the ledger says of a study that is not complete."""
    return Wait(
        waits_for=decision.because,
        waits_until=decision.at if isinstance(decision, WaitUntil) else None,
        stalled=isinstance(decision, Stalled),
        instances=evidence.instances,
        stated={series.series_instance_uid: series.stated for series in evidence.series if series.stated is not None}
        or None,
    )

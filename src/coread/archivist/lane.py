"""One way to a run's source: takes studies that are due, one after the other, and has them in our Orthanc, whole."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from coread.archive import Archive, ArchivedStudy
from coread.archive_run import Copy, RunState, RunStudy, RunStudyState
from coread.archive_table import RunStore, row_without_job
from coread.archivist.removal import clear_away, unwatch
from coread.archivist.state import Attended
from coread.archivist.throttle import pace_of
from coread.archivist.trouble import Course, course_of, delay_s
from coread.copies import Bringer, contents_of, is_brought
from coread.errors import ContestedStudy, CoreadError, LedgerUnavailable, StudyIncomplete, TransientError
from coread.ledger import Ledger
from coread.logs import logger
from coread.pseudonyms import Pseudonyms
from coread.retrieval import Retrieved, Retriever
from coread.settings import ArchivistSettings

POLL_S = 0.5
BACK_OFF_S = 2.0
"""The wait after a step that failed because the ledger was away."""
ELSEWHERE = timedelta(seconds=10)
"""After this, a study is looked at again that another run has brought and not removed yet."""
STOPPED = "the archivist was stopped while it was retrieved"


class Lane:
    """A thread's work. The clock, Orthanc, the ledger and the way to the source are given to it."""

    def __init__(
        self,
        run: Attended,
        *,
        ledger: Ledger,
        connect: Callable[[], Archive],
        open_source: Callable[[], AbstractContextManager[Retriever]],
        bringer: Bringer | None,
        store: RunStore,
        pseudonyms: Pseudonyms | None,
        settings: ArchivistSettings,
        archivist: str,
        stop: threading.Event,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._connect = connect
        self._open_source = open_source
        self._bringer = bringer
        self._store = store
        self._pseudonyms = pseudonyms
        self._settings = settings
        self._archivist = archivist
        self._stop = stop
        self._clock = clock
        self._retriever: Retriever | None = None

    def run(self) -> None:
        """Retrieve until told to stop."""
        with structlog.contextvars.bound_contextvars(run_id=self._run.run.run_id):
            while not self._stop.is_set():
                try:
                    with self._connect() as self._archive, self._open_source() as self._retriever:
                        self._serve(self._retriever)
                except TransientError as error:
                    logger().warning("retrieval waits", reason=str(error))
                except Exception:  # noqa: BLE001  # the thread must outlive every surprise: the run goes on
                    logger().exception("retrieval step failed")
                self._stop.wait(BACK_OFF_S)

    def abort(self) -> None:
        """Break off what is being retrieved, from another thread: it is put back."""
        if self._retriever is not None:
            self._retriever.abort()

    def _serve(self, retriever: Retriever) -> None:
        while not self._stop.is_set():
            self._stop.wait(self.step(retriever))

    def step(self, retriever: Retriever) -> float:
        """Retrieve the next study that is due, if there is one. The wait before the next step, in seconds.

        Raises LedgerUnavailable; a study that was taken is put back or noted as soon as the ledger is there again.
        """
        run = self._run.run
        is_held = self._run.held_by or self._run.away_until > self._clock()
        if run.state is not RunState.RUNNING or is_held or not run.count(RunStudyState.DUE):
            return POLL_S
        pace = pace_of(run.terms)
        study = self._ledger.take_due(run.run_id, archivist=self._archivist, pace=pace, at=self._clock())
        if study is None:
            return min(POLL_S, max(0.01, pace.interval.total_seconds() / 2)) if pace.interval else POLL_S
        with structlog.contextvars.bound_contextvars(study_instance_uid=study.study_instance_uid):
            self._carry(study, retriever)
        return 0.0

    def _carry(self, study: RunStudy, retriever: Retriever) -> None:
        progress = _Progress(copy=study.copy)
        trouble: Exception | None = None
        try:
            self._have_here(study, retriever, progress)
        except Exception as error:  # noqa: BLE001  # whatever it was, the lane goes on with the next
            trouble = error
        if trouble is None:
            self._run.note_answer()
        else:
            self._see_to_at_last(study, trouble, progress)

    def _see_to_at_last(self, study: RunStudy, trouble: Exception, progress: "_Progress") -> None:
        """Write down what has become of a study, however long the ledger, Orthanc or the folder's disk is away. If we
        are stopped before that, the next archivist finds it as one that nobody retrieves.
        """
        while True:
            try:
                self._see_to(study, trouble, progress)
            except Exception as error:  # noqa: BLE001  # nobody else would do it
                logger().warning("what became of a study is not written down yet", reason=str(error))
                if self._stop.wait(BACK_OFF_S):
                    return
            else:
                return

    # Having it here ----------------------------------------------------------------------------------------------

    def _have_here(self, study: RunStudy, retriever: Retriever, progress: "_Progress") -> None:
        if self._ledger.is_carried_elsewhere(study):
            later = self._clock() + ELSEWHERE
            reason = "another run has brought it, and is not done with it"
            self._put_back(study, reason, counts=False, copy=study.copy, not_before=later)
            return
        uid = study.study_instance_uid
        orthanc_id = self._find(uid)
        stated = retriever.stated(uid)
        whole = None if orthanc_id is None else self._whole(orthanc_id, stated)
        if study.copy in (Copy.OURS, Copy.SHARED) and orthanc_id is not None and whole:
            self._note_here(study, orthanc_id, whole, study.copy)  # an archivist that died had come so far
            return
        if study.copy not in (Copy.OURS, Copy.SHARED):
            if orthanc_id is not None and whole:
                progress.copy = Copy.BEFORE
                self._note_here(study, orthanc_id, whole, Copy.BEFORE)
                return
            progress.copy = Copy.OURS if orthanc_id is None else Copy.SHARED
            if not self._ledger.note_copy(study, progress.copy):
                return
        if progress.copy is Copy.OURS:
            progress.copy = self._watched(study, orthanc_id)
        progress.has_begun = True
        retrieved = retriever.retrieve(uid)
        orthanc_id = self._find(uid)
        if orthanc_id is None:
            raise StudyIncomplete("the source says that it has sent the study, and nothing of it is in our Orthanc")
        self._note_here(study, orthanc_id, retrieved, progress.copy)

    def _watched(self, study: RunStudy, orthanc_id: str | None) -> Copy:
        """Have it noted from now on who else sends of a study; whose it is so far. ``orthanc_id``: what is here of it,
        which an earlier attempt has brought.
        """
        uid = study.study_instance_uid
        # While nobody watched, as before a restart of Orthanc, somebody else may have sent of it.
        was_watched = orthanc_id is None or self._archive.was_alone(uid)
        self._archive.watch(uid, aet=(self._bringer.aet if self._bringer else None) or "")
        came = self._find(uid) if orthanc_id is None else None  # between the look and the watch
        is_late = came is not None and study.copy is Copy.OURS and self._is_brought(self._archive.study(came))
        if was_watched and (came is None or is_late):
            return Copy.OURS
        self._leave(study, list(filter(None, [orthanc_id, came])))
        return Copy.SHARED

    def _leave(self, study: RunStudy, orthanc_ids: Sequence[str]) -> None:
        self._ledger.leave_copies(study.study_instance_uid, orthanc_ids, at=self._clock())

    def _find(self, study_instance_uid: str) -> str | None:
        found = self._archive.studies_with(study_instance_uid)
        if len(found) > 1:
            raise ContestedStudy(
                f"expected one patient's study with this StudyInstanceUID in our Orthanc, found {len(found)}; delete "
                "the one that is wrong, then retry the run"
            )
        return found[0] if found else None

    def _whole(self, orthanc_id: str, stated: int | None) -> Retrieved | None:
        instances, size = self._archive.size_of(orthanc_id)
        return Retrieved(instances=instances, bytes=size) if stated is None or instances >= stated else None

    def _is_brought(self, study: ArchivedStudy) -> bool:
        arrivals = partial(self._archive.arrivals, study.orthanc_id)
        return is_brought(study, arrivals, brought=None, bringer=self._bringer)

    def _note_here(self, study: RunStudy, orthanc_id: str, retrieved: Retrieved, copy: Copy) -> None:
        brought = None
        if copy is Copy.OURS:
            found = self._archive.study(orthanc_id)
            brought = contents_of(found)
            if not self._archive.was_alone(study.study_instance_uid) or not self._is_brought(found):
                copy, brought = Copy.SHARED, None
        is_noted = self._ledger.note_here(
            study,
            copy=copy,
            orthanc_id=orthanc_id,
            instances=retrieved.instances,
            size=retrieved.bytes if copy is not Copy.BEFORE else None,
            brought=brought,
            source=self._run.run.terms.source,
            at=self._clock(),
        )
        if copy is not Copy.BEFORE:
            unwatch(study, self._archive)
        logger().info("study is here", instances=retrieved.instances, copy=copy, noted=is_noted)

    # What did not come -------------------------------------------------------------------------------------------

    def _see_to(self, study: RunStudy, error: Exception, progress: "_Progress") -> None:
        reason = str(error)
        if not isinstance(error, CoreadError):
            logger().exception("retrieval broke", exc_info=error)
            reason = f"unexpected {type(error).__name__}; the archivist's log says where"
        course = course_of(error, has_begun=progress.has_begun)
        if isinstance(error, LedgerUnavailable):
            self._put_back(study, reason, counts=False, copy=progress.copy)  # what is here stays, and is looked at
            return
        if self._stop.is_set():
            course, reason = Course.WAIT, STOPPED
        if course is Course.WAIT:
            if not self._stop.is_set():
                self._run.note_away(reason, at=self._clock())
                logger().warning("run waits", reason=reason)
            self._put_back(study, reason, counts=False, copy=progress.copy)
            return
        if course is Course.PAUSE:
            self._put_back(study, reason, counts=False, copy=progress.copy)
            self._ledger.pause_run(study.run_id, by=self._archivist, reason=reason, at=self._clock())
            logger().error("run paused", reason=reason)
            return
        copy = clear_away(
            study,
            progress.copy,
            ledger=self._ledger,
            archive=self._archive,
            bringer=self._bringer,
            at=self._clock(),
        )
        if course is Course.AGAIN and study.attempts < self._settings.attempts:
            delay = timedelta(seconds=delay_s(study.attempts, first_s=self._settings.retry_delay_s))
            self._put_back(study, reason, counts=True, copy=copy, not_before=self._clock() + delay)
            unwatch(study, self._archive)
            logger().warning("study is tried again", reason=reason, wait_s=delay.total_seconds())
            return
        fail(
            study,
            reason if course is Course.FAIL else f"{reason} (tried {study.attempts} times)",
            is_permanent=course is Course.FAIL,
            copy=copy,
            ledger=self._ledger,
            store=self._store,
            pseudonyms=self._pseudonyms,
            at=self._clock(),
        )
        unwatch(study, self._archive)

    def _put_back(
        self, study: RunStudy, reason: str, *, counts: bool, copy: Copy, not_before: datetime | None = None
    ) -> None:
        self._ledger.put_off_study(
            study, reason=reason, not_before=not_before, counts=counts, copy=copy, at=self._clock()
        )


class _Progress:
    """How far a study has come."""

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        self.has_begun = False


def fail(
    study: RunStudy,
    reason: str,
    *,
    is_permanent: bool,
    copy: Copy,
    ledger: Ledger,
    store: RunStore,
    pseudonyms: Pseudonyms | None,
    at: datetime,
) -> None:
    """Record that a study could not be had: in the run's folder first, so that its table has every study."""
    row = row_without_job(
        position=study.position,
        study_instance_uid=study.study_instance_uid,
        state=RunStudyState.FAILED,
        reason=reason,
    )
    store.write(study.position, [pseudonyms.row(row, patient_id="") if pseudonyms else row])
    ledger.note_ended(study, RunStudyState.FAILED, reason=reason, is_permanent=is_permanent, copy=copy, at=at)
    logger().warning("study failed", reason=reason, permanent=is_permanent)

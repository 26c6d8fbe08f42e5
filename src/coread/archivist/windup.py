"""The end of each study of a run: what was found is kept, what was brought is removed."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from coread.archive import HELD_S, Archive
from coread.archive_run import Copy, RunState, RunStudy, RunStudyState
from coread.archivist.collect import Collector
from coread.archivist.removal import clear_away, remove_copy, unwatch
from coread.archivist.state import Attended
from coread.copies import Bringer
from coread.errors import ConfigurationError, CoreadError, TransientError
from coread.job import JobState
from coread.ledger import JobRecord, Ledger
from coread.logs import logger

SOME = 50
"""Studies that are looked at in one step."""
AT_ONCE = 10
"""Copies that are removed together: nothing of them is taken meanwhile."""
NOT_THERE = "no such model was in force when the study was to be read; install it, then retry the run"
STUCK = timedelta(seconds=60)
"""After this, a study for which nothing happens is looked at again."""


class WindUp:
    """Brings the studies of one run to their ends. One thread calls ``step``."""

    def __init__(
        self,
        run: Attended,
        *,
        ledger: Ledger,
        archive: Archive,
        collector: Collector,
        bringer: Bringer | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._archive = archive
        self._collector = collector
        self._bringer = bringer
        self._clock = clock
        self._left: RunStudy | None = None
        """What a cancelled run had begun, and what came of it is being removed."""

    def step(self) -> bool:
        """Go on with what is due; whether there was anything.

        Raises TransientError if a neighbour is away, OSError if the folder cannot be written.
        """
        run_id = self._run.run.run_id
        read = self._ledger.read_studies(run_id, limit=SOME, removes=self._removes)
        for study, records in read:
            try:
                self._collector.collect(study, records)
            except (TransientError, ConfigurationError, OSError):
                raise
            except Exception as error:  # noqa: BLE001  # one odd result must not hold up the run
                logger().exception("what was found is not kept", study_instance_uid=study.study_instance_uid)
                unexpected = f"unexpected {type(error).__name__}; the archivist's log says where"
                self._give_up(study, records, str(error) if isinstance(error, CoreadError) else unexpected)
                continue
            if self._is_to_remove(study):
                self._ledger.note_collected(study, at=self._clock())
            else:
                self._end(study, records, copy=study.copy)
        left = self._ledger.collected_studies(run_id, limit=AT_ONCE)
        if left:
            with self._archive.held([study.study_instance_uid for study, _ in left]):
                until = self._clock() + timedelta(seconds=HELD_S / 2)
                for study, records in left:
                    if self._clock() > until:
                        break  # the others are not held for much longer
                    self._remove(study, records)
        is_cancelled = self._run.run.state is RunState.CANCELLED
        return bool(read or left) or (is_cancelled and self._withdraw())

    def _withdraw(self) -> bool:
        """Withdraw what a cancelled run has not begun, then what it had begun in vain; whether there was anything."""
        run_id = self._run.run.run_id
        if self._ledger.withdraw_due(run_id, at=self._clock()):
            return True
        # If this breaks off, it goes on here; if the archivist ends, the study is put back, and taken again.
        study = self._left = self._left or self._ledger.take_left(run_id, at=self._clock())
        if study is None:
            return False
        self._clear_left(study)
        self._left = None
        return True

    def _clear_left(self, study: RunStudy) -> None:
        if self._ledger.is_under_way_elsewhere(study):  # another run sees to what is here, and to the watch
            self._note_withdrawn(study, Copy.UNKNOWN)
            return
        copy = clear_away(
            study, study.copy, ledger=self._ledger, archive=self._archive, bringer=self._bringer, at=self._clock()
        )
        self._note_withdrawn(study, copy)
        unwatch(study, self._archive)
        logger().info("study withdrawn", study_instance_uid=study.study_instance_uid, copy=copy)

    def _note_withdrawn(self, study: RunStudy, copy: Copy) -> None:
        reason = "what came of it is kept: somebody else has sent of it, or wants it" if copy is Copy.SHARED else ""
        cancelled = RunStudyState.CANCELLED
        self._ledger.note_ended(study, cancelled, reason=reason, is_permanent=False, copy=copy, at=self._clock())

    def see_to_stuck(self) -> None:
        """Take up again what nobody else would: what the intake has lost, and what is gone from our Orthanc. Look what
        waits for a person because of a delivery.
        """
        run_id = self._run.run.run_id
        limit = max(self._run.run.terms.in_flight, self._run.run.in_flight)  # the terms may have become stricter
        self._run.undelivered = self._ledger.note_undelivered(run_id, removes=self._removes, limit=limit)
        for study in self._ledger.stuck_studies(run_id, before=self._clock() - STUCK, limit=SOME):
            if study.orthanc_id is None or not self._archive.studies_with(study.study_instance_uid):
                reason = "it was deleted from our Orthanc before it was read"
                self._ledger.begin_again(study, reason=reason, at=self._clock())
                logger().warning("study is retrieved again", study_instance_uid=study.study_instance_uid)
            else:
                self._ledger.have_settled(study, at=self._clock())

    @property
    def _removes(self) -> bool:
        return not self._run.run.terms.keep_copies

    def _is_to_remove(self, study: RunStudy) -> bool:
        return study.copy is Copy.OURS and self._removes

    def _give_up(self, study: RunStudy, records: Sequence[JobRecord], reason: str) -> None:
        with self._archive.held([study.study_instance_uid]):
            self._remove(study, records, trouble=f"what was found could not be kept: {reason}")

    def _remove(self, study: RunStudy, records: Sequence[JobRecord], *, trouble: str = "") -> None:
        now = self._ledger.run_study(study.run_id, study.position) or study
        if not self._is_to_remove(now) or now.orthanc_id is None:
            self._end(study, records, copy=now.copy, trouble=trouble)
            return
        if not self._ledger.is_delivered(now):
            return  # a later step goes on, when that has ended
        results = {uid for record in records for uid in record.result_uids}
        results |= {uid for record in records for uid in self._ledger.outdated_uids(record.job)}
        copy, instances = remove_copy(
            self._archive, now.orthanc_id, brought=now.brought, results=results, bringer=self._bringer
        )
        if copy is Copy.SHARED:
            logger().info("copy kept: somebody else has sent of it", study_instance_uid=study.study_instance_uid)
        self._end(study, records, copy=copy, removed=instances, trouble=trouble)

    def _end(
        self,
        study: RunStudy,
        records: Sequence[JobRecord],
        *,
        copy: Copy,
        removed: int | None = None,
        trouble: str = "",
    ) -> None:
        models = self._run.run.terms.models
        state, reason = (RunStudyState.FAILED, trouble) if trouble else ended_as(records, models=models)
        if copy is Copy.SHARED:
            reason = "; ".join(filter(None, [reason, "the copy is kept: somebody else has sent of it, or wants it"]))
        is_permanent = state is RunStudyState.REFUSED
        self._ledger.note_ended(
            study, state, reason=reason, is_permanent=is_permanent, copy=copy, removed=removed, at=self._clock()
        )
        logger().info("study ended", study_instance_uid=study.study_instance_uid, state=state, copy=copy)


def ended_as(records: Sequence[JobRecord], *, models: Collection[str]) -> tuple[RunStudyState, str]:
    """How a study has ended, by its jobs, and why, if not well: any that failed counts most, then any that is done.
    ``models``: who was to read it; one without a job was not there.
    """
    states = [record.state for record in records]
    read_by = {record.job.model for record in records}
    missing = [f"{model}: {NOT_THERE}" for model in models if model not in read_by]
    if missing or JobState.FAILED in states or JobState.CANCELLED in states:
        failed = _reasons(records, {JobState.FAILED, JobState.CANCELLED})
        return RunStudyState.FAILED, "; ".join(filter(None, [failed, *missing]))
    if JobState.DONE in states:
        return RunStudyState.DONE, _reasons(records, {JobState.REFUSED})
    return RunStudyState.REFUSED, _reasons(records, {JobState.REFUSED})


def _reasons(records: Sequence[JobRecord], states: set[JobState]) -> str:
    return "; ".join(f"{each.job.model}: {each.reason}" for each in records if each.state in states)

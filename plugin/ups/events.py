"""Event reports (PS3.4 CC.2.4) for subscribers, who fetch them: Orthanc cannot hold a WebSocket.

Changes of state are written down by whoever changes a job, in the same transaction; this turns them into reports, once
each and in their order. So a restart of anything loses none.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from coread.job import JobState
from coread.ledger import Ledger, WorkitemChange
from coread.plugin.ups import dataset as dicom
from coread.plugin.ups import rules, view
from coread.plugin.ups.dataset import BadRequest, Dataset
from coread.plugin.ups.matching import matches
from coread.plugin.ups.store import Event, Subscription, WorkitemStore
from coread.workitem import PRIORITIES, Code, WorkitemRefused, WorkitemState, job_of_uid, state_of_job

UPS_EVENT = "1.2.840.10008.5.1.4.34.6.4"
GLOBAL = "1.2.840.10008.5.1.4.34.5"
"""UPS Global Subscription SOP Instance: all workitems."""
FILTERED = "1.2.840.10008.5.1.4.34.5.1"
"""UPS Filtered Global Subscription SOP Instance: those that fit."""

STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT = 1, 2, 3
"""Event Type IDs (PS3.4 Table CC.2.4-1)."""

CHANGES_AT_A_TIME = 500
EVENTS_AT_A_TIME = 500
LONGEST_WAIT_S = 30.0
LOOK_AGAIN_S = 1.0

FILTERS = frozenset(
    {
        "InputInformationSequence.StudyInstanceUID",
        "ScheduledProcedureStepPriority",
        "ScheduledWorkitemCodeSequence.CodeValue",
        "ScheduledWorkitemCodeSequence.CodingSchemeDesignator",
        "ScheduledWorkitemCodeSequence.LongCodeValue",
        "WorklistLabel",
    }
)
"""What a filtered subscription may ask for: what does not change while a workitem is performed."""


class Events:
    """Tells subscribers."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: WorkitemStore,
        clock: Callable[[], datetime],
        waiters: int,
        stop: threading.Event,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._waiters = threading.BoundedSemaphore(max(1, waiters))
        self._may_wait = waiters > 0
        self._stop = stop
        self._telling = threading.Lock()

    # Subscribing -------------------------------------------------------------------------------------------------

    def subscribe(self, target: str, aet: str, *, keys: Mapping[str, str] | None) -> None:
        """Have a subscriber told of a workitem, or of all, or of those that fit ``keys``.

        Of one workitem its state is told at once (PS3.4 CC.2.3.3).
        """
        now = self._clock()
        if target == FILTERED and not keys:
            raise BadRequest('expected {"filter": {KEYWORD: VALUE}} as body: a query string of a POST is not seen here')
        if keys and not set(keys) <= FILTERS:
            raise BadRequest(f"expected filters of {', '.join(sorted(FILTERS))}, found another one")
        self.tell_changes()
        state = None if target in (GLOBAL, FILTERED) else self._state_of(target)
        if target in (GLOBAL, FILTERED):
            self._store.unsubscribe(aet, [each.target for each in self._store.subscriptions(aet=aet) if not each.is_on])
        if not self._store.subscribe(Subscription(aet=aet, target=target, since=now, keys=keys)):
            raise BadRequest("there are too many subscriptions; unsubscribe from some", status=503)
        if state is not None:
            report = self._state_report(target, *state)
            self._store.tell([aet], report, source=f"initial {target} {now.isoformat()}", at=now)

    def unsubscribe(self, target: str, aet: str) -> None:
        """Tell a subscriber no more: of one workitem, or of anything."""
        if target in (GLOBAL, FILTERED):
            self._store.unsubscribe(aet)
            return
        targets = {each.target for each in self._store.subscriptions(aet=aet)}
        if targets & {GLOBAL, FILTERED}:
            self._store.subscribe(Subscription(aet=aet, target=target, is_on=False, since=self._clock()))
        else:
            self._store.unsubscribe(aet, [target])

    def suspend(self, target: str, aet: str) -> None:
        """Subscribe somebody to no further workitems. Raises WorkitemRefused if there is no such subscription."""
        self.tell_changes()
        for each in self._store.subscriptions(aet=aet):
            if each.target == target:
                suspended = Subscription(
                    aet=aet, target=target, since=each.since, suspended_at=self._clock(), keys=each.keys
                )
                self._store.subscribe(suspended)
                return
        raise WorkitemRefused(Code.NO_SUCH_WORKITEM, f"{aet} has no such subscription")

    def has_subscribers(self, uid: str) -> bool:
        """Whether anybody is told of a workitem."""
        return bool(self._subscribers(uid, is_new=False))

    # Telling -----------------------------------------------------------------------------------------------------

    def tell_changes(self) -> None:
        """Report the changes of state that the ledger has written down since."""
        with self._telling:
            while changes := self._ledger.workitem_changes(limit=CHANGES_AT_A_TIME):
                for change in changes:
                    self._tell(change)
                self._ledger.note_changes_told(changes)

    def tell_progress(self, uid: str, change: Mapping[str, Any]) -> None:
        """Report what a performer says of its progress."""
        tag = dicom.KEYWORDS[rules.PROGRESS][0]
        self._tell_now(uid, {**_report(uid, PROGRESS_REPORT), tag: change[tag]})

    def tell_cancel_request(self, uid: str, dataset: Mapping[str, Any]) -> None:
        """Report that somebody wants a workitem cancelled."""
        said = (
            "ReasonForCancellation",
            "ProcedureStepDiscontinuationReasonCodeSequence",
            "ContactURI",
            "RequestingAE",
            "ContactDisplayName",
        )
        tags = [dicom.KEYWORDS[keyword][0] for keyword in said]
        self._tell_now(uid, {**_report(uid, CANCEL_REQUESTED), **{tag: dataset[tag] for tag in tags if tag in dataset}})

    def prune(self) -> None:
        """Forget what nobody has fetched for long."""
        self._store.prune(at=self._clock())

    def fetch(self, aet: str, *, after: int, wait_s: float) -> dict[str, Any]:
        """The events of a subscriber after a number; if there are none, those that come within ``wait_s``.

        Raises WorkitemRefused if it never subscribed.
        """
        events, last, oldest = self._store.events(aet, after=after, limit=EVENTS_AT_A_TIME)
        if not last and not self._store.subscriptions(aet=aet):
            raise WorkitemRefused(Code.NO_SUCH_WORKITEM, f"{aet} has not subscribed to anything")
        waited = bool(events) or wait_s <= 0
        if not waited and self._may_wait and self._waiters.acquire(blocking=False):
            try:
                events, last, oldest = self._wait_for_events(aet, after=after, wait_s=min(wait_s, LONGEST_WAIT_S))
                waited = True
            finally:
                self._waiters.release()
        return {
            "events": [{"number": each.number, "at": each.at.isoformat(), "report": each.dataset} for each in events],
            "last": last,
            "missed": max(0, oldest - after - 1),
            "waited": waited,
        }

    def _wait_for_events(self, aet: str, *, after: int, wait_s: float) -> tuple[list[Event], int, int]:
        rounds = max(1, round(wait_s / LOOK_AGAIN_S))
        found = self._store.events(aet, after=after, limit=EVENTS_AT_A_TIME)
        for _ in range(rounds):
            if found[0] or self._stop.is_set():
                break
            with self._store.has_news:
                self._store.has_news.wait(wait_s / rounds)
            found = self._store.events(aet, after=after, limit=EVENTS_AT_A_TIME)
        return found

    def _tell_now(self, uid: str, report: Dataset) -> None:
        self.tell_changes()
        now = self._clock()
        self._store.tell(self._subscribers(uid, is_new=False), report, source=f"{uid} {now.isoformat()}", at=now)

    def _tell(self, change: WorkitemChange) -> None:
        aets = self._subscribers(change.uid, is_new=change.state is WorkitemState.SCHEDULED)
        if aets:
            report = self._state_report(change.uid, change.state, change)
            self._store.tell(aets, report, source=f"{change.change_id} {change.at.isoformat()}", at=change.at)

    def _subscribers(self, uid: str, *, is_new: bool) -> list[str]:
        """Who is told of a workitem."""
        of_aet: dict[str, dict[str, Subscription]] = {}
        for each in self._store.subscriptions():
            of_aet.setdefault(each.aet, {})[each.target] = each
        return sorted(aet for aet, targets in of_aet.items() if self._is_told(uid, targets, is_new=is_new))

    def _is_told(self, uid: str, targets: Mapping[str, Subscription], *, is_new: bool) -> bool:
        if uid in targets:
            return targets[uid].is_on
        return any(
            self._is_covered(uid, each, is_new=is_new) for each in targets.values() if each.target in (GLOBAL, FILTERED)
        )

    def _is_covered(self, uid: str, subscription: Subscription, *, is_new: bool) -> bool:
        if subscription.suspended_at is not None:
            created_at = self._created_at(uid)
            if is_new or created_at is None or created_at > subscription.suspended_at:
                return False
        return subscription.keys is None or matches(self._light(uid), subscription.keys)

    def _created_at(self, uid: str) -> datetime | None:
        if (workitem := self._ledger.workitem(uid)) is not None:
            return workitem.created_at
        run = job_of_uid(uid)
        record = self._ledger.job(run.job_id) if run else None
        return record.job.created_at if record else None

    def _light(self, uid: str) -> Dataset:
        """What a filter looks at."""
        if (workitem := self._ledger.workitem(uid)) is not None:
            written = self._store.datasets([uid]).get(uid, {})
            return {**written, **dicom.of(ScheduledProcedureStepPriority=workitem.priority)}
        run = job_of_uid(uid)
        record = self._ledger.job(run.job_id) if run else None
        if record is None:
            return {}
        return dicom.of(
            ScheduledProcedureStepPriority=PRIORITIES[record.job.priority],
            WorklistLabel="Coread",
            ScheduledWorkitemCodeSequence=view.code_of_model(record.job.model),
            InputInformationSequence=dicom.of(StudyInstanceUID=record.job.study_instance_uid),
        )

    def _state_report(self, uid: str, state: WorkitemState, change: WorkitemChange | None) -> Dataset:
        """UPS State Report. What a scheduler said of the input, and a performer of its reason, is told as they did."""
        written = self._store.datasets([uid]).get(uid, {})
        readiness = dicom.text_of(written, "InputReadinessState") or "READY"
        report = {
            **_report(uid, STATE_REPORT),
            **dicom.of(InputReadinessState=readiness, ProcedureStepState=state.value),
        }
        if state is WorkitemState.CANCELED and change is not None:
            report |= dicom.of(ProcedureStepDiscontinuationReasonCodeSequence=_reasons(written, change.job_state))
        return report

    def _state_of(self, uid: str) -> tuple[WorkitemState, None]:
        """Raises WorkitemRefused if there is no such workitem."""
        if (workitem := self._ledger.workitem(uid)) is not None:
            return workitem.state, None
        run = job_of_uid(uid)
        record = self._ledger.job(run.job_id) if run else None
        if record is None or run is None or run.run != record.runs:
            raise WorkitemRefused(Code.NO_SUCH_WORKITEM, "there is no such workitem")
        return state_of_job(record.state, attempts=record.attempts), None


def _report(uid: str, event_type: int) -> Dataset:
    return dicom.of(AffectedSOPClassUID=UPS_EVENT, AffectedSOPInstanceUID=uid, EventTypeID=event_type)


def _reasons(written: Mapping[str, Any], job_state: JobState | None) -> list[Dataset]:
    """Why a workitem was cancelled. ``job_state``: of the job that it was of, None if there was none."""
    if job_state in (None, JobState.CANCELLED):
        for progress in dicom.items_of(written, rules.PROGRESS):
            if said := dicom.items_of(progress, "ProcedureStepDiscontinuationReasonCodeSequence"):
                return said
    value, meaning = view.DISCONTINUED.get(job_state, view.UNSPECIFIED) if job_state else view.UNSPECIFIED
    return [dicom.code(value, "DCM", meaning)]

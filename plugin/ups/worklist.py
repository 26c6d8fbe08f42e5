"""The worklist's operations (PS3.18 chapter 11), whatever carries them: what each answers, and what it changes.

Workitems are what schedulers have created and, one for each, the jobs of ours. The ledger says in which state they are
and who performs them; what belongs to the patient comes from Orthanc at the moment of the answer.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from coread.archive import Archive, Reference
from coread.errors import ArchiveUnavailable, SourceGone
from coread.ledger import JobRecord, Ledger, Workitem
from coread.ledger.workitems import JobTimes
from coread.plugin.ups import dataset as dicom
from coread.plugin.ups import rules, view
from coread.plugin.ups.dataset import BadRequest, Dataset
from coread.plugin.ups.events import Events
from coread.plugin.ups.matching import PATIENT_KEYS, Query, matches
from coread.plugin.ups.store import WorkitemStore
from coread.settings_ups import UpsSettings
from coread.workitem import UID_ROOT, Code, WorkitemRefused, WorkitemState, job_of_uid, uid_of_job

SCANNED = 5_000
"""Workitems that a query looks at, the newest; by state and study, it finds older ones, too."""

CALLS = 8
CALL_TIMEOUT_S = 10.0
"""So many requests at a time may ask Orthanc, of whose HTTP threads each then holds two; one more waits so long."""

FOUND_BY_THE_LEDGER = frozenset(
    {"ProcedureStepState", "ScheduledProcedureStepPriority", "InputInformationSequence.StudyInstanceUID"}
)
"""Keys that the ledger's own queries match, so that nothing else need be looked at."""

ADDITIONAL = "There are additional results that can be requested"
CREATED_MODIFIED = "The Workitem was created with modifications."

STATUS: Mapping[Code, tuple[int, str]] = {
    Code.DUPLICATE: (409, "The Workitem already exists."),
    Code.NO_SUCH_WORKITEM: (404, "There is no such Workitem."),
    Code.MAY_NO_LONGER_BE_UPDATED: (409, "The submitted request is inconsistent with the state of the UPS Instance."),
    Code.WRONG_TRANSACTION_UID: (400, "The Transaction UID is incorrect."),
    Code.ALREADY_IN_PROGRESS: (409, "The submitted request is inconsistent with the state of the UPS Instance."),
    Code.ONLY_CREATED_AS_SCHEDULED: (
        409,
        "The submitted request is inconsistent with the state of the UPS Instance.",
    ),
    Code.FINAL_STATE_REQUIREMENTS: (409, "The submitted request is inconsistent with the state of the UPS Instance."),
    Code.NOT_CREATED_AS_SCHEDULED: (400, "The submitted request is inconsistent with the state of the UPS Instance."),
    Code.NOT_IN_PROGRESS: (409, "The target URI did not reference a claimed Workitem."),
    Code.ALREADY_COMPLETED: (409, "The UPS is already COMPLETED."),
    Code.PERFORMER_UNREACHABLE: (409, "The performer cannot be contacted."),
    Code.PERFORMER_GOES_ON: (409, "Performer chooses not to cancel."),
    Code.WAS_CANCELED: (200, "The UPS is already in the requested state of CANCELED."),
    Code.WAS_COMPLETED: (200, "The UPS is already in the requested state of COMPLETED."),
}
"""DICOM's status → the one of HTTP, and the text of the Warning header (PS3.18 11.4.3 to 11.8.3)."""

MISSING_TRANSACTION_UID = "The Transaction UID is missing."
UPDATE_INCONSISTENT = "The submitted request is inconsistent with the current state of the Workitem."


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is answered. ``datasets``: None if there is no payload."""

    status: int = 200
    datasets: Sequence[Dataset] | None = None
    warning: str | None = None
    location: str | None = None
    problem: Mapping[str, str] = field(default_factory=dict)
    """What was wrong, for people."""


class Worklist:
    """The operations. Each raises BadRequest, WorkitemRefused, or a TransientError if a neighbour is away."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: WorkitemStore,
        events: Events,
        archive: Callable[[], Archive],
        models: Callable[[], Mapping[str, str]],
        settings: UpsSettings,
        aet: str,
        clock: Callable[[], datetime],
    ) -> None:
        """``models``: name → version of those that may run; ``aet``: Orthanc's AE title."""
        self._ledger = ledger
        self._store = store
        self._events = events
        self._archive = archive
        self._models = models
        self._settings = settings
        self._aet = aet
        self._clock = clock
        self._calls = threading.BoundedSemaphore(CALLS)
        self._changing = threading.Lock()
        """Datasets are read, changed and written by one request at a time."""

    # Create, retrieve, search ------------------------------------------------------------------------------------

    def create(self, dataset: Dataset) -> Reply:
        """Record a workitem. Its UID is in the dataset; a workitem without one is given one."""
        uid = (
            dicom.uid_in(dataset, "SOPInstanceUID")
            or dicom.uid_in(dataset, "AffectedSOPInstanceUID")
            or f"{UID_ROOT}.{uuid.uuid4().int}"
        )
        kept, is_changed = rules.checked_new(dataset)
        now = self._clock()
        workitem = Workitem(
            uid=uid,
            priority=dicom.text_of(kept, "ScheduledProcedureStepPriority"),
            study_instance_uid=rules.study_of(kept),
            model=self._model_of(kept),
            created_at=now,
            changed_at=now,
        )
        self._ledger.create_workitem(workitem, write=lambda: self._store.write(uid, kept), at=now)
        self._events.tell_changes()
        return Reply(
            status=201, location=f"/dicom-web/workitems/{uid}", warning=CREATED_MODIFIED if is_changed else None
        )

    def retrieve(self, uid: str) -> Reply:
        """A workitem with all that it holds, but for the Transaction UID."""
        workitem, record = self._find(uid)
        return Reply(datasets=self._views([(workitem, record)], whole=True))

    def search(self, query: Query) -> Reply:
        """The workitems that fit, the newest first."""
        studies = self._studies(query)
        simple = set(query.keys) <= FOUND_BY_THE_LEDGER
        limit = min(SCANNED, query.offset + query.limit + 1) if simple else SCANNED
        scheduled = self._scheduled(query, studies, limit=limit)
        jobs = self._jobs(query, studies, limit=limit)
        found = sorted([*scheduled, *jobs], key=lambda each: each.created_at, reverse=True)
        page = found[query.offset : query.offset + query.limit]
        return Reply(
            status=200 if page else 204,
            datasets=self._rows(page, query) or None,
            warning=ADDITIONAL if len(found) > query.offset + len(page) else None,
        )

    # Update, state, cancellation ---------------------------------------------------------------------------------

    def update(self, uid: str, dataset: Dataset, *, by: str) -> Reply:
        """Change what a workitem says. One that has ended is answered 400 (PS3.18 11.6.2)."""
        try:
            return self._update(uid, dataset, by=by)
        except WorkitemRefused as refused:
            if refused.code is Code.WRONG_TRANSACTION_UID and not dicom.values_of(dataset, "TransactionUID"):
                return refusal(refused, MISSING_TRANSACTION_UID)
            if refused.code is not Code.MAY_NO_LONGER_BE_UPDATED:
                raise
            return replace(refusal(refused, UPDATE_INCONSISTENT), status=400)

    def _update(self, uid: str, dataset: Dataset, *, by: str) -> Reply:
        transaction_uid = dicom.uid_in(dataset, "TransactionUID")
        change = rules.checked_change(dataset)
        with self._changing:
            workitem, _record = self._find(uid)
            before = self._store.datasets([uid]).get(uid, {})
            after = {**before, **change}
            if workitem is None:
                _check_of_job(change, is_claimed=transaction_uid is not None)
            self._ledger.update_workitem(
                uid,
                transaction_uid=transaction_uid,
                values=self._projection(workitem, after) if workitem else _priority_in(change),
                write=lambda: self._store.write(uid, after),
                lease=self._lease,
                by=by,
                at=self._clock(),
            )
        if dicom.has(change, rules.PROGRESS):
            self._events.tell_progress(uid, change)
        return Reply()

    def change_state(self, uid: str, dataset: Dataset, *, by: str) -> Reply:
        """Claim, complete or cancel."""
        asked = dicom.text_of(dataset, "ProcedureStepState")
        if asked not in list(WorkitemState):
            raise BadRequest(f"ProcedureStepState: expected one of {', '.join(WorkitemState)}, found something else")
        state = WorkitemState(asked)
        self._find(uid)
        if state is WorkitemState.SCHEDULED:
            raise WorkitemRefused(Code.ONLY_CREATED_AS_SCHEDULED, "a workitem is SCHEDULED only when it is created")
        transaction_uid = dicom.uid_in(dataset, "TransactionUID")
        if transaction_uid is None:
            return refusal(
                WorkitemRefused(Code.WRONG_TRANSACTION_UID, "expected a Transaction UID"), MISSING_TRANSACTION_UID
            )
        try:
            if state is WorkitemState.IN_PROGRESS:
                self._ledger.claim_workitem(
                    uid, transaction_uid=transaction_uid, performer=by, lease=self._lease, at=self._clock()
                )
            else:
                self._end(uid, state, transaction_uid)
        finally:
            self._events.tell_changes()
        return Reply()

    def request_cancel(self, uid: str, dataset: Dataset, *, by: str) -> Reply:
        """Have a workitem cancelled: by us if nobody else performs it, else by its performer, who is told."""
        self._find(uid)
        told: list[bool] = []

        def may_tell() -> bool:
            told.append(self._events.has_subscribers(uid))
            return told[-1]

        try:
            self._ledger.request_cancel(uid, by=by, may_tell=may_tell, at=self._clock())
        except WorkitemRefused as refused:
            if refused.code is not Code.WAS_CANCELED:
                raise
            return Reply(status=202, warning=STATUS[refused.code][1])
        if told:
            self._events.tell_cancel_request(uid, dataset)
        self._events.tell_changes()
        return Reply(status=202)

    # Within ------------------------------------------------------------------------------------------------------

    @property
    def _lease(self) -> timedelta:
        return timedelta(seconds=self._settings.performer_timeout_s)

    def _end(self, uid: str, state: WorkitemState, transaction_uid: str) -> None:
        with self._changing:
            dataset = self._store.datasets([uid]).get(uid, {})
            self._ledger.end_workitem(
                uid,
                state,
                transaction_uid=transaction_uid,
                missing=lambda: rules.missing_for(state, dataset),
                outputs=rules.outputs_in(dataset) if state is WorkitemState.COMPLETED else (),
                at=self._clock(),
            )

    def _model_of(self, dataset: Mapping[str, Any]) -> str | None:
        """The model that a workitem is for; None: none of ours. Raises BadRequest if it has no single study."""
        known = self._models()
        for value, scheme in dicom.codes_of(dataset, "ScheduledWorkitemCodeSequence"):
            model = self._settings.models.get(f"{value}^{scheme}") or (value if scheme == view.SCHEME else None)
            if model not in known:
                continue
            if rules.study_of(dataset) is None:
                raise BadRequest(
                    "expected one StudyInstanceUID in the Input Information Sequence, or in the Referenced Request "
                    "Sequence, for a workitem that a model is to do"
                )
            return model
        return None

    def _projection(self, workitem: Workitem, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """What the ledger keeps of a changed workitem. Raises WorkitemRefused if its job was begun for another one."""
        what = {"model": self._model_of(dataset), "study_instance_uid": rules.study_of(dataset)}
        is_other = (workitem.model, workitem.study_instance_uid) != tuple(what.values())
        if is_other and workitem.job_id is not None:
            raise WorkitemRefused(
                Code.MAY_NO_LONGER_BE_UPDATED,
                "its job exists: what is to be done, and with which study, stays as it is",
            )
        return {**what, "priority": dicom.text_of(dataset, "ScheduledProcedureStepPriority")}

    def _find(self, uid: str) -> tuple[Workitem | None, JobRecord | None]:
        """A scheduled workitem with its job, if there is one; or a job. Raises WorkitemRefused if there is neither."""
        workitem = self._ledger.workitem(uid)
        if workitem is not None:
            return workitem, self._ledger.job(workitem.job_id) if workitem.job_id else None
        run = job_of_uid(uid)
        record = self._ledger.job(run.job_id) if run else None
        if run is None or record is None or run.run > record.runs:
            raise WorkitemRefused(
                Code.NO_SUCH_WORKITEM, "there is no such workitem; GET /dicom-web/workitems lists them"
            )
        if run.run < record.runs:
            raise BadRequest("this run of the job has ended, and the job has run again since", status=410)
        return None, record

    def _views(self, found: "Sequence[tuple[Workitem | None, JobRecord | None]]", *, whole: bool) -> list[Dataset]:
        """Workitems as they are answered; the instances are named only if ``whole``."""
        uids = [_uid_of(workitem, record) for workitem, record in found]
        written = self._store.datasets(uids)
        times = self._ledger.times_of_jobs([record.job.job_id for _, record in found if record])
        return [
            self._view(
                workitem,
                record,
                times=times[record.job.job_id] if record else JobTimes(),
                written=written.get(uid, {}),
                references=self._references(record) if whole and record else None,
            )
            for uid, (workitem, record) in zip(uids, found, strict=True)
        ]

    def _view(
        self,
        workitem: Workitem | None,
        record: JobRecord | None,
        *,
        times: JobTimes,
        written: Dataset,
        references: Sequence[Reference] | None,
    ) -> Dataset:
        if workitem is not None:
            return view.of_scheduled(
                workitem, written, record=record, times=times, aet=self._aet, references=references
            )
        if record is None:
            raise AssertionError("a workitem is a scheduled one or a job")
        about = self._about(record.job.orthanc_id)
        return view.of_job(record, times, aet=self._aet, about=about, references=references, performer=written)

    def _scheduled(self, query: Query, studies: Sequence[str] | None, *, limit: int) -> "list[_Found]":
        of_studies = studies if "InputInformationSequence.StudyInstanceUID" in query.keys else None
        workitems = self._ledger.workitems(
            states=query.states, priority=query.priority, studies=of_studies, limit=limit
        )
        written = self._store.datasets([each.uid for each in workitems])
        found = []
        for each in workitems:
            dataset = view.of_scheduled(
                each, written.get(each.uid, {}), record=None, times=JobTimes(), aet=self._aet, references=None
            )
            if matches(dataset, query.keys):
                found.append(_Found(created_at=each.created_at, workitem=each))
        return found

    def _jobs(self, query: Query, studies: Sequence[str] | None, *, limit: int) -> "list[_Found]":
        records = self._ledger.jobs_as_workitems(
            states=query.states, priority=query.priority, studies=studies, limit=limit
        )
        times = self._ledger.times_of_jobs([each.job.job_id for each in records])
        answered_by_orthanc = {*PATIENT_KEYS, "ReferencedRequestSequence.AccessionNumber"}
        keys = {path: text for path, text in query.keys.items() if path not in answered_by_orthanc}
        found = []
        for each in records:
            dataset = view.of_job(each, times[each.job.job_id], aet=self._aet, about={}, references=None, performer={})
            if matches(dataset, keys):
                found.append(_Found(created_at=each.job.created_at, record=each))
        return found

    def _rows(self, page: "Sequence[_Found]", query: Query) -> list[Dataset]:
        """Workitems as a search answers them: what they performed only if that is asked for."""
        whole = query.everything or rules.PROCEDURE in query.fields
        followed = {each.workitem.job_id for each in page if each.workitem and each.workitem.job_id}
        jobs = {job_id: self._ledger.job(job_id) for job_id in followed}
        found = [
            (each.workitem, jobs.get(each.workitem.job_id or "") if each.workitem else each.record) for each in page
        ]
        rows = self._views(found, whole=whole)
        return rows if whole else [dicom.without(row, (rules.PROCEDURE,)) for row in rows]

    def _studies(self, query: Query) -> list[str] | None:
        """StudyInstanceUIDs that a query is limited to, of those in Orthanc if it names the patient; None: any."""
        asked = {keyword: query.keys[keyword] for keyword in PATIENT_KEYS if keyword in query.keys}
        if accession := query.keys.get("ReferencedRequestSequence.AccessionNumber"):
            asked["AccessionNumber"] = accession
        uids = query.keys.get("InputInformationSequence.StudyInstanceUID")
        if not asked:
            return None if uids is None else uids.replace("\\", ",").split(",")
        if uids:
            asked["StudyInstanceUID"] = uids.replace(",", "\\")
        with self._asking():
            return self._archive().find_studies(asked, limit=SCANNED)

    def _about(self, orthanc_id: str) -> dict[str, str]:
        """What Orthanc says of a study and its patient; nothing, if it is gone."""
        try:
            with self._asking():
                return self._archive().patient_and_study(orthanc_id)
        except SourceGone:
            return {}

    def _references(self, record: JobRecord) -> list[Reference]:
        try:
            with self._asking():
                return self._archive().references(record.job.orthanc_id)
        except SourceGone:
            return []

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """While Orthanc is asked, by a request that holds one of its threads already."""
        if not self._calls.acquire(timeout=CALL_TIMEOUT_S):
            raise ArchiveUnavailable("too many requests ask for workitems at the same time; try again")
        try:
            yield
        finally:
            self._calls.release()


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a search found: a scheduled workitem or a job."""

    created_at: datetime
    workitem: Workitem | None = None
    record: JobRecord | None = None


def _uid_of(workitem: Workitem | None, record: JobRecord | None) -> str:
    if workitem is not None:
        return workitem.uid
    return uid_of_job(record.job.job_id, record.runs) if record else ""


def refusal(refused: WorkitemRefused, warning: str | None = None) -> Reply:
    """The answer to a request that the state table does not allow."""
    status, text = STATUS[refused.code]
    return Reply(status=status, warning=warning or text, problem={"error": str(refused), "code": refused.code.value})


def _check_of_job(change: Mapping[str, Any], *, is_claimed: bool) -> None:
    """Raises BadRequest for an update of a job that nobody has claimed, of anything but its priority."""
    priority = dicom.KEYWORDS["ScheduledProcedureStepPriority"][0]
    if not is_claimed and set(change) - {priority}:
        raise BadRequest("of a job that nobody has claimed, only ScheduledProcedureStepPriority can be updated")


def _priority_in(change: Mapping[str, Any]) -> dict[str, Any]:
    priority = dicom.text_of(change, "ScheduledProcedureStepPriority")
    return {"priority": priority} if priority else {}

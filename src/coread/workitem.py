"""Workitems (Unified Procedure Steps, PS3.4 annex CC): their states, what may happen in each, how jobs map to them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from coread.errors import RequestRefused
from coread.job import JobState, Priority

UID_ROOT = "2.25"
"""UIDs that are made of 128 bits (PS3.5 B.2)."""

_OF_A_JOB = re.compile(r"2\.25\.(0|[1-9][0-9]{0,38})(?:\.([1-9][0-9]{0,8}))?")
_BITS = 128


class WorkitemState(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


FINAL = frozenset({WorkitemState.COMPLETED, WorkitemState.CANCELED})


class Request(StrEnum):
    """What may befall a workitem: the rows of Table CC.1.1-2. *Owned*: with the Transaction UID that it was claimed
    with; of a claim, with any.
    """

    CREATE = "create"
    CLAIM = "claim"
    CLAIM_WITHOUT_UID = "claim without a Transaction UID"
    SCHEDULE = "change to SCHEDULED"
    COMPLETE = "complete"
    COMPLETE_NOT_OWNED = "complete, not owned"
    REQUEST_CANCEL = "request cancellation"
    CANCEL = "cancel"
    CANCEL_NOT_OWNED = "cancel, not owned"


class Code(StrEnum):
    """The answers of Table CC.2.1-2 and CC.2.2-2, as DICOM's status codes."""

    MAY_NO_LONGER_BE_UPDATED = "C300"
    WRONG_TRANSACTION_UID = "C301"
    ALREADY_IN_PROGRESS = "C302"
    ONLY_CREATED_AS_SCHEDULED = "C303"
    FINAL_STATE_REQUIREMENTS = "C304"
    NO_SUCH_WORKITEM = "C307"
    NOT_CREATED_AS_SCHEDULED = "C309"
    NOT_IN_PROGRESS = "C310"
    ALREADY_COMPLETED = "C311"
    PERFORMER_UNREACHABLE = "C312"
    PERFORMER_GOES_ON = "C313"
    DUPLICATE = "0111"
    WAS_CANCELED = "B304"
    WAS_COMPLETED = "B306"


S, I, C, X = WorkitemState  # noqa: E741  # the columns of the table
TABLE: Mapping[Request, Mapping[WorkitemState | None, WorkitemState | Code]] = {
    Request.CREATE: {
        None: S, S: Code.DUPLICATE, I: Code.DUPLICATE, C: Code.DUPLICATE, X: Code.DUPLICATE,
    },
    Request.CLAIM: {
        None: Code.NO_SUCH_WORKITEM,
        S: I,
        I: Code.ALREADY_IN_PROGRESS,
        C: Code.MAY_NO_LONGER_BE_UPDATED,
        X: Code.MAY_NO_LONGER_BE_UPDATED,
    },
    Request.CLAIM_WITHOUT_UID: {
        None: Code.NO_SUCH_WORKITEM,
        S: Code.WRONG_TRANSACTION_UID,
        I: Code.WRONG_TRANSACTION_UID,
        C: Code.WRONG_TRANSACTION_UID,
        X: Code.WRONG_TRANSACTION_UID,
    },
    Request.SCHEDULE: {
        None: Code.NO_SUCH_WORKITEM,
        S: Code.ONLY_CREATED_AS_SCHEDULED,
        I: Code.ONLY_CREATED_AS_SCHEDULED,
        C: Code.ONLY_CREATED_AS_SCHEDULED,
        X: Code.ONLY_CREATED_AS_SCHEDULED,
    },
    Request.COMPLETE: {
        None: Code.NO_SUCH_WORKITEM,
        S: Code.NOT_IN_PROGRESS,
        I: C,
        C: Code.WAS_COMPLETED,
        X: Code.MAY_NO_LONGER_BE_UPDATED,
    },
    Request.COMPLETE_NOT_OWNED: {
        None: Code.NO_SUCH_WORKITEM,
        S: Code.WRONG_TRANSACTION_UID,
        I: Code.WRONG_TRANSACTION_UID,
        C: Code.WRONG_TRANSACTION_UID,
        X: Code.WRONG_TRANSACTION_UID,
    },
    Request.REQUEST_CANCEL: {
        None: Code.NO_SUCH_WORKITEM,
        S: X,  # by way of IN PROGRESS
        I: I,  # the performer is told, and decides
        C: Code.ALREADY_COMPLETED,
        X: Code.WAS_CANCELED,
    },
    Request.CANCEL: {
        None: Code.NO_SUCH_WORKITEM,
        S: Code.NOT_IN_PROGRESS,
        I: X,
        C: Code.MAY_NO_LONGER_BE_UPDATED,
        X: Code.WAS_CANCELED,
    },
    Request.CANCEL_NOT_OWNED: {
        None: Code.NO_SUCH_WORKITEM,
        S: Code.WRONG_TRANSACTION_UID,
        I: Code.WRONG_TRANSACTION_UID,
        C: Code.WRONG_TRANSACTION_UID,
        X: Code.WRONG_TRANSACTION_UID,
    },
}  # fmt: skip
"""Table CC.1.1-2: request → state of the workitem (None: there is none) → the state that follows, or the answer.
Whether the final state requirements are met (Table CC.2.5-3) is looked at where the table says COMPLETED or CANCELED.
"""


class WorkitemRefused(RequestRefused):
    """A request that the table does not allow, with the code that says why."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def after(request: Request, state: WorkitemState | None) -> WorkitemState:
    """The state that follows. Raises WorkitemRefused with the table's code if the request is not allowed."""
    result = TABLE[request][state]
    if isinstance(result, Code):
        raise WorkitemRefused(result, f"cannot {request} a workitem that is {state or 'not there'}")
    return result


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """A run of a job: a workitem that has ended stays ended, so a job that runs again is another workitem."""

    job_id: str
    run: int = 0


def uid_of_job(job_id: str, run: int = 0) -> str:
    """The workitem of a job's run: the job's id as a number."""
    uid = f"{UID_ROOT}.{int(job_id, 16)}"
    return f"{uid}.{run}" if run else uid


def job_of_uid(uid: str) -> JobRun | None:
    """The run that a UID is the workitem of; None if it has not the form of one."""
    found = _OF_A_JOB.fullmatch(uid)
    if found is None or int(found[1]) >> _BITS:
        return None
    return JobRun(job_id=f"{int(found[1]):032x}", run=int(found[2] or 0))


def state_of_job(state: JobState, *, attempts: int) -> WorkitemState:
    """The state of the workitem of a job. Once it was begun it is IN PROGRESS, even while it waits to be tried again:
    the standard knows no way back.
    """
    if state in (JobState.WAITING, JobState.QUEUED):
        return WorkitemState.IN_PROGRESS if attempts else WorkitemState.SCHEDULED
    if state in (JobState.RUNNING, JobState.STORING):
        return WorkitemState.IN_PROGRESS
    return WorkitemState.COMPLETED if state is JobState.DONE else WorkitemState.CANCELED


PRIORITIES: Mapping[Priority, str] = {Priority.STAT: "HIGH", Priority.ROUTINE: "MEDIUM", Priority.BATCH: "LOW"}
"""A job's priority as Scheduled Procedure Step Priority (0074,1200)."""


def priority_from(text: str) -> Priority | None:
    """The job's priority for a Scheduled Procedure Step Priority; None if it is none."""
    return next((priority for priority, name in PRIORITIES.items() if name == text), None)

"""What became of a job, in the words of somebody who reads studies and not logs; and what that person can do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from coread.job import TRANSITIONS, JobState
from coread.ledger import JobRecord
from coread.ledger.jobs import SILENT, is_outside

RETRIED = frozenset({JobState.FAILED, JobState.REFUSED, JobState.CANCELLED})
NOT_TAKEN = frozenset({JobState.WAITING, JobState.QUEUED})


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A state, explained."""

    what: str
    """One sentence."""
    do: str = ""
    """What a person can do about it; empty if there is nothing to do."""


_BY_STATE: Mapping[JobState, Explanation] = {
    JobState.WAITING: Explanation(what="The reading waits for its turn."),
    JobState.QUEUED: Explanation(what="The reading is next for a worker that is free."),
    JobState.RUNNING: Explanation(what="The model is reading the study."),
    JobState.STORING: Explanation(what="The model has read the study; its results are being stored."),
    JobState.DONE: Explanation(what="The model has read the study; its results are in the archive."),
    JobState.REFUSED: Explanation(
        what="The model did not evaluate the study: it is not what the model was made for.",
        do="Read the study without it. If images are missing or wrong, send the study again: it is then read anew.",
    ),
    JobState.FAILED: Explanation(
        what="The reading broke down: the study has no result of this model.",
        do="Retry it once. If it fails again, tell whoever looks after Coread; the reason below helps them.",
    ),
    JobState.CANCELLED: Explanation(
        what="A person withdrew the reading.", do="Retry it to have the study read after all."
    ),
    JobState.SUPERSEDED: Explanation(what="The study has changed since: this reading does not count any more."),
}
_OUTSIDE: Mapping[JobState, Explanation] = {
    JobState.RUNNING: Explanation(what="Another system has taken the study to read it; no worker of Coread's does."),
    JobState.DONE: Explanation(
        what="Another system has read the study: Coread has neither seen nor checked its results.",
        do="Look for them where that system puts its results.",
    ),
}
_SILENT = Explanation(
    what="The reading broke down: the worker that did it fell silent, again and again.",
    do="Tell whoever looks after Coread: a worker ran out of memory or was stopped. Retry when that is mended.",
)
_TRIED_AGAIN = Explanation(what="A first attempt did not succeed; the reading is tried again by itself.")


def explain(record: JobRecord) -> Explanation:
    """What became of a job, and what to do."""
    if record.state is JobState.FAILED and record.reason.startswith(SILENT):
        return _SILENT
    if record.state in NOT_TAKEN and record.attempts:
        return _TRIED_AGAIN
    if is_outside(record) and record.state in _OUTSIDE:
        return _OUTSIDE[record.state]
    return _BY_STATE[record.state]


def explanation_of(record: JobRecord) -> dict[str, str]:
    """The same as JSON's types."""
    return asdict(explain(record))


def may(record: JobRecord) -> dict[str, bool]:
    """What can be done with a job as it stands, by whoever has the role for it."""
    return {
        "retry": record.state in RETRIED,
        "cancel": JobState.CANCELLED in TRANSITIONS[record.state],
        "prioritise": record.state in NOT_TAKEN,
        "review": record.state is JobState.DONE and bool(record.result.get("sop_instance_uids")),
    }

"""The ledger for workers on other machines: ``POST /coread/ledger/{operation}`` with arguments as JSON.

The other half of `coread.ledger.remote`. The clock is this machine's, so that leases do not depend on others'.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from coread import __version__
from coread.audit.event import printable
from coread.errors import ConfigurationError
from coread.job import JobState, Priority
from coread.ledger import Ledger
from coread.plugin.answers import answer
from coread.plugin.explained import ANY, OBJECT, Body, Record, explained, says
from coread.plugin.gate import Gate, Role
from coread.plugin.json_input import read_json
from coread.process_report import ProcessReport
from coread.reason_class import ReasonClass
from coread.review import Review, ReviewState

Arguments = Mapping[str, Any]

LARGEST = 100_000_000
"""Bytes: what a model found in a study is told whole."""
LONGEST_S = 1e7
"""Of a lease or a wait: months."""


def register_desk(gate: Gate, ledger: Ledger) -> None:
    """Register the route."""

    @explained(
        path={"operation": "which operation of the ledger"},
        body=Body(shape=OBJECT),
        answers={
            200: says("what the operation gives", Record(fields={"answer": ANY})),
            400: "there is no such operation, or it takes other arguments",
            409: "the worker is of another version than the plugin, and gets nothing to do",
        },
    )
    def operate(output: Any, _url: str, **request: Any) -> None:
        """What a worker on another machine asks of the ledger; for workers of the same version only."""
        (name,) = request["groups"]
        try:
            operation = OPERATIONS[name]
            arguments = read_json(request["body"], largest=LARGEST)
            _check(arguments)
            given = operation(ledger, arguments, datetime.now(UTC))
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            what = f"cannot do {name} with these arguments ({type(error).__name__}); plugin and worker must be equal"
            answer(output, {"error": what}, status=400)
        except ConfigurationError as error:
            answer(output, {"error": str(error)}, status=409)
        else:
            answer(output, {"answer": given})

    gate.route("/coread/ledger/([a-z_]+)", POST=(Role.ADMIN, operate))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_S


def _or_none(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


_TEXTS = ("by", "clerk", "instance", "priority", "reason", "review_id", "state", "version", "worker")
KINDS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(_TEXTS, _is_text),
    **dict.fromkeys(("job_id", "model", "since", "study_instance_uid"), _or_none(_is_text)),
    **dict.fromkeys(("job_ids", "queues"), _or_none(_is_list_of_texts)),
    **dict.fromkeys(("lease_s", "wait_s"), _is_duration),
    "models": lambda value: isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()),
    "objects": lambda value: isinstance(value, list) and all(map(_is_list_of_texts, value)),
    "result": _or_none(lambda value: isinstance(value, dict)),
    "reviews": lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
    "states": _is_list_of_texts,
}
"""Name of an argument → whether a value is of its kind. One of another would break in the middle of a statement."""


def _check(arguments: Any) -> None:
    """Raises TypeError if an argument is not of its kind."""
    if not all(KINDS[name](value) for name, value in arguments.items() if name in KINDS):
        raise TypeError("an argument is of another kind than it must be")


def _check_version(arguments: Arguments) -> None:
    """At each claim: a worker that was there before the plugin was upgraded has asked for its version long ago."""
    if arguments["version"] != __version__:
        raise ConfigurationError(
            f"expected a worker of Coread {__version__}, as the plugin is, found one of "
            f"{printable(arguments['version'])}; install the same version on the worker's machine, and start it again"
        )


def _claim(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    _check_version(arguments)
    lease = timedelta(seconds=arguments["lease_s"])
    job = ledger.claim(worker=arguments["worker"], queues=arguments["queues"], at=now, lease=lease)
    return None if job is None else job.as_json()


def _look_ahead(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    job = ledger.look_ahead(worker=arguments["worker"], queues=arguments["queues"], at=now)
    return None if job is None else job.as_json()


def _renew(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    lease = timedelta(seconds=arguments["lease_s"])
    return ledger.renew(arguments["job_id"], worker=arguments["worker"], at=now, lease=lease)


def _start_storing(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    result = arguments["result"]
    return ledger.start_storing(arguments["job_id"], worker=arguments["worker"], result=result, at=now)


def _finish(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    return ledger.finish(
        arguments["job_id"],
        JobState(arguments["state"]),
        worker=arguments["worker"],
        reason=arguments["reason"],
        reason_class=ReasonClass(arguments["reason_class"]),
        result=arguments["result"],
        at=now,
    )


def _start_over(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    record = ledger.job(arguments["job_id"])
    said = {"worker": arguments["worker"], "reason": arguments["reason"]}
    return record is not None and ledger.start_over(record.job, **said, at=now)


def _try_again(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    return ledger.try_again(
        arguments["job_id"],
        worker=arguments["worker"],
        reason=arguments["reason"],
        reason_class=ReasonClass(arguments["reason_class"]),
        at=now,
        not_before=now + timedelta(seconds=arguments["wait_s"]),
    )


def _outdated_uids(ledger: Ledger, arguments: Arguments, _now: datetime) -> Any:
    record = ledger.job(arguments["job_id"])
    return sorted(ledger.outdated_uids(record.job)) if record else []


def _job(ledger: Ledger, arguments: Arguments, _now: datetime) -> Any:
    record = ledger.job(arguments["job_id"])
    return None if record is None else record.as_json()


def _audit(ledger: Ledger, arguments: Arguments, _now: datetime) -> Any:
    since = arguments["since"]
    found = ledger.audit(
        study_instance_uid=arguments["study_instance_uid"],
        job_id=arguments["job_id"],
        since=None if since is None else datetime.fromisoformat(since),
        limit=int(arguments["limit"]),
    )
    return [event.as_json() for event in found]


def _jobs(ledger: Ledger, arguments: Arguments, _now: datetime) -> Any:
    states = [JobState(state) for state in arguments["states"]]
    found = ledger.jobs(
        study_instance_uid=arguments["study_instance_uid"], states=states, limit=int(arguments["limit"])
    )
    return [record.as_json() for record in found]


def _claim_review(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    _check_version(arguments)
    lease = timedelta(seconds=arguments["lease_s"])
    task = ledger.claim_review(clerk=arguments["clerk"], at=now, lease=lease)
    return None if task is None else task.as_json()


def _claim_returned(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    _check_version(arguments)
    lease = timedelta(seconds=arguments["lease_s"])
    found = ledger.claim_returned(clerk=arguments["clerk"], at=now, lease=lease)
    return None if found is None else found.as_json()


def _finish_review(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    said = {"clerk": arguments["clerk"], "reason": arguments["reason"]}
    return ledger.finish_review(arguments["review_id"], ReviewState(arguments["state"]), **said, at=now)


def _put_off_review(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    said = {"clerk": arguments["clerk"], "reason": arguments["reason"]}
    not_before = now + timedelta(seconds=arguments["wait_s"])
    return ledger.put_off_review(arguments["review_id"], **said, at=now, not_before=not_before)


def _settle_returned(ledger: Ledger, arguments: Arguments, now: datetime) -> Any:
    reviews = [Review.from_json(review) for review in arguments["reviews"]]
    return ledger.settle_returned(arguments["instance"], reviews, clerk=arguments["clerk"], at=now)


def _reviews(ledger: Ledger, arguments: Arguments, _now: datetime) -> Any:
    since = arguments["since"]
    found = ledger.reviews(
        job_ids=arguments["job_ids"],
        study_instance_uid=arguments["study_instance_uid"],
        model=arguments["model"],
        since=None if since is None else datetime.fromisoformat(since),
        limit=int(arguments["limit"]),
    )
    return [review.as_json() for review in found]


def _find_review(ledger: Ledger, arguments: Arguments, _now: datetime) -> Any:
    found = ledger.find_review(arguments["review_id"])
    return None if found is None else found.as_json()


OPERATIONS: Mapping[str, Callable[[Ledger, Arguments, datetime], Any]] = {
    "note_worker_started": lambda ledger, arguments, now: ledger.note_worker_started(
        worker=arguments["worker"], models=arguments["models"], at=now
    ),
    "note_alive": lambda ledger, arguments, now: ledger.note_alive(
        ProcessReport.from_json(arguments["report"]), at=now
    ),
    "forget_process": lambda ledger, arguments, _now: ledger.forget_process(arguments["name"]),
    "processes": lambda ledger, _arguments, now: [each.as_json() for each in ledger.processes(at=now)],
    "check_writing": lambda ledger, _arguments, _now: ledger.check_writing().isoformat(),
    "claim": _claim,
    "look_ahead": _look_ahead,
    "renew": _renew,
    "start_storing": _start_storing,
    "finish": _finish,
    "start_over": _start_over,
    "try_again": _try_again,
    "outdated_uids": _outdated_uids,
    "job": _job,
    "jobs": _jobs,
    "history": lambda ledger, arguments, _now: [event.as_json() for event in ledger.history(arguments["job_id"])],
    "audit": _audit,
    "retry": lambda ledger, arguments, now: ledger.retry(arguments["job_id"], by=arguments["by"], at=now),
    "cancel": lambda ledger, arguments, now: ledger.cancel(arguments["job_id"], by=arguments["by"], at=now),
    "prioritise": lambda ledger, arguments, now: ledger.prioritise(
        arguments["job_id"], Priority(arguments["priority"]), by=arguments["by"], at=now
    ),
    "claim_review": _claim_review,
    "renew_review": lambda ledger, arguments, now: ledger.renew_review(
        arguments["review_id"], clerk=arguments["clerk"], at=now, lease=timedelta(seconds=arguments["lease_s"])
    ),
    "begin_review": lambda ledger, arguments, _now: ledger.begin_review(
        arguments["review_id"], clerk=arguments["clerk"], objects=[(one, uid) for one, uid in arguments["objects"]]
    ),
    "put_off_review": _put_off_review,
    "finish_review": _finish_review,
    "claim_returned": _claim_returned,
    "put_off_returned": lambda ledger, arguments, now: ledger.put_off_returned(
        arguments["instance"],
        clerk=arguments["clerk"],
        at=now,
        not_before=now + timedelta(seconds=arguments["wait_s"]),
    ),
    "settle_returned": _settle_returned,
    "reviews": _reviews,
    "find_review": _find_review,
    "done_by_model": lambda ledger, _arguments, _now: [
        [model, version, number] for (model, version), number in ledger.done_by_model().items()
    ],
}
"""What may be asked, each as (ledger, arguments, now) → JSON."""

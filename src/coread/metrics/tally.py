"""Counters that survive: what the ledger's rows tell, each counted once, for as long as there is a ledger.

Counters in memory would begin at nothing with each restart, and lose what happened between two scrapes; to count the
ledger's rows anew for each scrape would take longer every day. So rows are counted as they come, and the totals stand
in the ledger together with the number of the last row that is in them.

A row with a lower number may become visible after one with a higher one, since transactions of PostgreSQL's overlap. So
the newest rows are only ever counted on top, and join the stored totals when nothing can come before them any more.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from coread.delivery import DeliveryState
from coread.job import ENDED, LEASED, OUTSIDE, JobState
from coread.ledger.watching import FOLLOWED, Counted, Watching
from coread.metrics import catalogue
from coread.metrics.catalogue import Kind, Metric
from coread.reason_class import ReasonClass

EDITION = 1
"""Of the way in which rows are counted. Totals of another one are thrown away, and all is counted anew."""

AT_A_TIME = 1000
"""Rows that are read at once."""

ROWS_A_STEP = 5000
"""A ledger from before there were metrics is counted in pieces, so that nobody waits for it."""

SETTLED_AFTER = timedelta(minutes=2)
"""When a row has been seen for so long, no transaction runs any more that could bring one with a lower number: none may
take longer than half a minute (`STATEMENT_TIMEOUT_S`) by much."""
OLD = timedelta(minutes=10)
"""A row of that age need not have been seen; the margin is for clocks of different machines."""

SAVE_EVERY = timedelta(minutes=1)

SUM = "sum"
"""The part of a histogram that is no bucket."""

Key = tuple[str, tuple[str, ...], str]
"""Name of the metric, values of its labels, and of a histogram which part: the number of a bucket, or ``SUM``."""
Counts = Counter[Key]


def one(metric: Metric, *labels: str, number: float = 1) -> Iterator[tuple[Key, float]]:
    """What adds a number to a counter."""
    yield (metric.name, labels, ""), number


def observed(metric: Metric, *labels: str, value: float) -> Iterator[tuple[Key, float]]:
    """What adds a value to a histogram; nothing if it is no number that can be one."""
    if not (math.isfinite(value) and value >= 0):
        return
    bucket = next((number for number, bound in enumerate(metric.buckets) if value <= bound), len(metric.buckets))
    yield (metric.name, labels, str(bucket)), 1
    yield (metric.name, labels, SUM), value


def of_job(row: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """What a row of the jobs' history counts for."""
    state, before = JobState(row["to_state"]), row["from_state"]
    model, priority = row["model"], row["priority"]
    reason = row["reason_class"] or ReasonClass.NONE
    is_outside = (row["worker"] or "").startswith(OUTSIDE)
    since_made_s = (row["at"] - row["created_at"]).total_seconds()
    if before is None:
        yield from one(catalogue.JOBS_RECORDED, model, priority)
    if state is JobState.WAITING and before in LEASED:
        yield from one(catalogue.ATTEMPTS_FAILED, model, reason)
    if state in ENDED:
        yield from one(catalogue.JOBS_ENDED, model, priority, state)
    if state in ENDED and reason != ReasonClass.NONE:
        yield from one(catalogue.JOB_REASONS, model, state, reason)
    if row["runs"] or is_outside:
        return  # it has waited from another moment on than that at which it was made, or somebody else has timed it
    if state is JobState.RUNNING and row["attempts"] == 1:
        yield from observed(catalogue.JOB_WAIT_SECONDS, priority, value=since_made_s)
    if state is JobState.DONE:
        yield from observed(catalogue.TURNAROUND_SECONDS, model, priority, value=since_made_s)
        yield from _stages(model, (row["result"] or {}).get("seconds"))


def _stages(model: str, seconds: Any) -> Iterator[tuple[Key, float]]:
    for stage in catalogue.STAGES:
        took_s = seconds.get(stage) if isinstance(seconds, dict) else None
        if isinstance(took_s, int | float):
            yield from observed(catalogue.STAGE_SECONDS, model, stage, value=took_s)


def of_delivery(row: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """What a row of the deliveries' history counts for."""
    state = DeliveryState(row["to_state"])
    if state in (DeliveryState.CONFIRMED, DeliveryState.FAILED, DeliveryState.CANCELLED):
        yield from one(catalogue.DELIVERIES_ENDED, row["destination"], state)
    if state is DeliveryState.CONFIRMED:
        took_s = (row["at"] - row["opened_at"]).total_seconds()
        yield from observed(catalogue.DELIVERY_SECONDS, row["destination"], value=took_s)


def of_review(row: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """What a review counts for."""
    yield from one(catalogue.REVIEWS, row["model"], row["verdict"], row["source"])
    dice = (row["comparison"] or {}).get("dice", {})
    for value in dice.values() if isinstance(dice, dict) else ():
        if isinstance(value, int | float):
            yield from observed(catalogue.REVIEW_DICE, row["model"], value=value)


def of_raise(row: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """What a finding that raised its study counts for."""
    yield from one(catalogue.RAISES, row["alert"], row["model"])


def of_audit(row: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """What a row of the audit trail counts for."""
    if row["kind"] == "received":
        yield from one(catalogue.STUDIES_RECEIVED)
    else:
        yield from one(catalogue.REQUESTS_DENIED, number=int(row["details"].get("times", 1)))


COUNTING: Mapping[str, Callable[[Mapping[str, Any]], Iterator[tuple[Key, float]]]] = {
    "job": of_job,
    "delivery": of_delivery,
    "review": of_review,
    "raise": of_raise,
    "audit": of_audit,
}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row that is counted on top of the totals."""

    at: datetime
    seen_at: datetime
    counts: Counts

    def is_settled(self, now: datetime) -> bool:
        return now - self.seen_at >= SETTLED_AFTER or now - self.at >= OLD


@dataclass
class _Strand:
    """The rows of one table: up to ``mark`` they are in the totals, beyond it in ``newest``."""

    mark: int = 0
    newest: dict[int, _Row] = field(default_factory=dict)


class Tally:
    """Counts rows of the ledger. ``step`` is for one thread; what it has found may be asked from any."""

    def __init__(self, ledger: Watching) -> None:
        self._ledger = ledger
        self._strands: dict[str, _Strand] = {}
        self._settled: Counts = Counter()
        self._saved_marks: dict[str, int] = {}
        self._saved_at: datetime | None = None
        self.totals: Mapping[Key, float] = {}
        """What was counted, until the last step."""
        self.is_behind = True
        """Whether there are older rows that are not counted yet."""

    def step(self, *, at: datetime) -> None:
        """Count what is new. Raises LedgerUnavailable."""
        if not self._strands:
            self._take_up(at)
        is_behind = [self._follow(name, at=at) for name in FOLLOWED]
        for strand in self._strands.values():
            self._settle(strand, now=at)
        if not self._save(at):
            return
        counts = Counter(self._settled)
        for strand in self._strands.values():
            for row in strand.newest.values():
                counts.update(row.counts)
        self.totals, self.is_behind = counts, any(is_behind)

    def _take_up(self, at: datetime) -> None:
        """Go on from what was counted before."""
        before = self._ledger.counted()
        known = before if before is not None and before.edition == EDITION else None
        self._saved_marks = dict(known.marks) if known else {}
        self._settled = Counter({_key(each): each[3] for each in known.totals} if known else {})
        self._strands = {name: _Strand(mark=self._saved_marks.get(name, 0)) for name in FOLLOWED}
        self._saved_at = at

    def _follow(self, name: str, *, at: datetime) -> bool:
        """Read what is new of one table; whether there may be more."""
        strand = self._strands[name]
        limit = len(strand.newest) + ROWS_A_STEP
        numbers = self._ledger.numbers_after(name, strand.mark, limit=limit)
        new = [number for number in numbers if number not in strand.newest]
        for start in range(0, len(new), AT_A_TIME):
            for row in self._ledger.rows_to_count(name, new[start : start + AT_A_TIME]):
                counts: Counts = Counter()
                for key, number in COUNTING[name](row):
                    counts[key] += number  # type: ignore[assignment]  # typeshed: whole numbers; seconds are not
                strand.newest[row["number"]] = _Row(at=row["at"], seen_at=at, counts=counts)
        return len(numbers) == limit

    def _settle(self, strand: _Strand, *, now: datetime) -> None:
        """Move into the totals what nothing can come before any more."""
        for number in sorted(strand.newest):
            if not strand.newest[number].is_settled(now):
                return
            self._settled.update(strand.newest.pop(number).counts)
            strand.mark = number

    def _save(self, at: datetime) -> bool:
        """Write the totals down now and then: what is lost of them is counted again. False if somebody else has."""
        marks = {name: strand.mark for name, strand in self._strands.items()}
        if marks == self._saved_marks or (self._saved_at is not None and at - self._saved_at < SAVE_EVERY):
            return True
        totals = [[name, list(labels), part, number] for (name, labels, part), number in self._settled.items()]
        counted = Counted(edition=EDITION, marks=marks, totals=totals)
        if self._ledger.note_counted(counted, before=self._saved_marks):
            self._saved_marks, self._saved_at = marks, at
            return True
        self._strands = {}  # another plugin counts, too; the next step goes on from its totals
        return False


def _key(saved: Sequence[Any]) -> Key:
    name, labels, part, _number = saved
    return name, tuple(labels), part


def cumulated(
    metric: Metric, counts: Mapping[Key, float]
) -> Iterator[tuple[tuple[str, ...], list[tuple[str, float]], float]]:
    """A histogram as Prometheus wants it: values of the labels, (upper bound, number up to it) …, and the sum."""
    if metric.kind is not Kind.HISTOGRAM:
        raise ValueError(f"expected a histogram, found {metric.name}")
    of_labels: dict[tuple[str, ...], dict[str, float]] = {}
    for (name, labels, part), number in counts.items():
        if name == metric.name:
            of_labels.setdefault(labels, {})[part] = number
    bounds = [*map(str, metric.buckets), "+Inf"]
    for labels, parts in sorted(of_labels.items()):
        running, buckets = 0.0, []
        for number, bound in enumerate(bounds):
            running += parts.get(str(number), 0)
            buckets.append((bound, running))
        yield labels, buckets, parts.get(SUM, 0.0)

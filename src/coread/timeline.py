"""When each stage of which job ran, and how busy the device was: from what workers wrote into their results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from coread.ledger.jobs import JobRecord

ON_DEVICE = "infer"
"""The stage that needs the device."""

LETTERS: Mapping[str, str] = {"fetch": "f", ON_DEVICE: "█", "measure": "m", "encode": "e", "draw": "d", "store": "s"}
"""How a stage is drawn."""
NOTHING = "·"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stage of a job."""

    stage: str
    begin: datetime
    end: datetime

    def as_json(self) -> dict[str, str]:
        """The span as JSON's types."""
        return {"stage": self.stage, "begin": self.begin.isoformat(), "end": self.end.isoformat()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A job on the timeline. Holds nothing of the patient, nor of the study."""

    job_id: str
    worker: str
    model: str
    spans: Sequence[Span]

    @property
    def begin(self) -> datetime:
        return min(span.begin for span in self.spans)

    @property
    def end(self) -> datetime:
        return max(span.end for span in self.spans)

    @property
    def on_device(self) -> Sequence[Span]:
        return [span for span in self.spans if span.stage == ON_DEVICE]

    def as_json(self) -> dict[str, Any]:
        """The row as JSON's types."""
        spans = [span.as_json() for span in self.spans]
        return {"job_id": self.job_id, "worker": self.worker, "model": self.model, "stages": spans}


@dataclass(frozen=True, kw_only=True)
class Device:
    """How much of the time a worker's device was busy, from when it first was until it last was."""

    worker: str
    jobs: int
    busy_s: float
    of_s: float

    @property
    def share(self) -> float:
        return self.busy_s / self.of_s if self.of_s else 1.0

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON's types."""
        return {
            "worker": self.worker,
            "jobs": self.jobs,
            "busy_s": round(self.busy_s, 3),
            "of_s": round(self.of_s, 3),
            "share": round(self.share, 4),
        }


def rows_of(records: Iterable[JobRecord]) -> list[Row]:
    """The jobs that were timed, the one that was first on the device first."""
    rows = []
    for record in records:
        stages: Mapping[str, Sequence[str]] = record.result.get("stages", {})
        spans = [
            Span(stage=stage, begin=datetime.fromisoformat(begin), end=datetime.fromisoformat(end))
            for stage, (begin, end) in stages.items()
        ]
        if spans:
            job = record.job
            rows.append(Row(job_id=job.job_id, worker=record.worker or "", model=job.model, spans=spans))
    return sorted(rows, key=lambda row: min((span.begin for span in row.on_device), default=row.begin))


def devices_of(rows: Iterable[Row]) -> list[Device]:
    """For each worker, how busy its device was with these jobs. What overlaps counts once."""
    spans: dict[str, list[Span]] = {}
    for row in rows:
        spans.setdefault(row.worker, []).extend(row.on_device)
    return [_device(worker, found) for worker, found in sorted(spans.items()) if found]


def _device(worker: str, spans: Sequence[Span]) -> Device:
    ordered = sorted(spans, key=lambda span: span.begin)
    busy, until = timedelta(0), ordered[0].begin
    for span in ordered:
        busy += max(timedelta(0), span.end - max(span.begin, until))
        until = max(until, span.end)
    of = until - ordered[0].begin
    return Device(worker=worker, jobs=len(spans), busy_s=busy.total_seconds(), of_s=of.total_seconds())


def drawn(row: Row, *, begin: datetime, end: datetime, columns: int) -> str:
    """The row as a line of letters from one moment to another: in each column, the stage that fills most of it."""
    step = (end - begin) / columns
    return "".join(_letter(row, begin + number * step, begin + (number + 1) * step) for number in range(columns))


def _letter(row: Row, begin: datetime, end: datetime) -> str:
    filled = {span.stage: min(span.end, end) - max(span.begin, begin) for span in row.spans}
    stage = max(filled, key=lambda each: filled[each])
    return LETTERS.get(stage, "?") if filled[stage] > timedelta(0) else NOTHING

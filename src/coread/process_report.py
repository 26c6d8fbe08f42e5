"""What a worker, courier or archivist tells of itself every few seconds, so that it can be watched from one place.

It goes into the ledger, by the way on which jobs come: so a fleet of workers needs no open ports, no list of targets,
and no further password, and a worker that is gone is known by its silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

TOLD_EVERY_S = 15.0
"""How often a process tells of itself."""

ALIVE = timedelta(seconds=60)
"""Who was heard of this long ago, or later, lives: three words may be lost."""

FORGOTTEN = timedelta(days=1)
"""Who was not heard of for so long is forgotten."""


class ProcessKind(StrEnum):
    """What a process does."""

    WORKER = "worker"
    COURIER = "courier"
    ARCHIVIST = "archivist"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A graphics processor that a worker uses, and how full and busy it is, whoever uses it."""

    name: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilisation: float | None = None
    """Share of the last moments in which it was busy, 0 to 1; None if the driver does not say."""


@dataclass(frozen=True, kw_only=True)
class ProcessReport:
    """A process as it describes itself."""

    name: str
    """Of this one process: another one never has the same."""
    kind: ProcessKind
    host: str
    version: str
    started_at: datetime
    told_at: datetime
    """By its own clock."""
    memory_bytes: int = 0
    """What it holds of the machine's memory."""
    queues: tuple[str, ...] = ()
    """Of a worker: the queues that it takes jobs from."""
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of a worker: name → version, digest, device and engine of each model that it has loaded."""
    gpus: Sequence[Gpu] = ()

    def as_json(self) -> dict[str, Any]:
        """The report as JSON's types."""
        times = {"started_at": self.started_at.isoformat(), "told_at": self.told_at.isoformat()}
        return {**asdict(self), **times}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The report that ``as_json`` gave."""
        return cls(
            **{
                **values,
                "kind": ProcessKind(values["kind"]),
                "started_at": datetime.fromisoformat(values["started_at"]),
                "told_at": datetime.fromisoformat(values["told_at"]),
                "queues": tuple(values["queues"]),
                "gpus": tuple(Gpu(**gpu) for gpu in values["gpus"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class ProcessSeen:
    """A process and when it was last heard of."""

    report: ProcessReport
    seen_at: datetime
    """By the ledger's clock."""
    clock_offset_s: float
    """By how much its clock is ahead of the ledger's; it takes the time in which its word travels for lag."""
    is_alive: bool

    def as_json(self) -> dict[str, Any]:
        """The process as JSON's types."""
        return {**asdict(self), "report": self.report.as_json(), "seen_at": self.seen_at.isoformat()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The process that ``as_json`` gave."""
        report = ProcessReport.from_json(values["report"])
        return cls(**{**values, "report": report, "seen_at": datetime.fromisoformat(values["seen_at"])})

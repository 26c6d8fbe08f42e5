"""An archive run of a million studies without a hospital: the real archivist and the real ledger, with a simulated
source, simulated models and a simulated clock; and what would be the limit.

What runs as it stands: the archivist's lanes (`coread.archivist.lane`) with their throttle, its winding up with the
run's store, and every transaction of the ledger that intake, workers, alerts and archivist make for a study, and those
that they make while there is nothing to do. What is simulated: how long the source takes, how long a model takes, and
Orthanc. Each transaction really happens, and the clock goes on by as long as it took: so the ledger is one place at
which all stand in line, as SQLite is; PostgreSQL lets them through side by side.
"""

import logging
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog

from coread.archive_run import Terms
from coread.benchmarks.archive_fill import fill, place_of
from coread.benchmarks.archive_outcome import Outcome, Scenario, Spent
from coread.benchmarks.archive_world import MODEL, START, Simulation, uid_of
from coread.ledger import Ledger
from coread.objects import Profile


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One of the ledger's operations, in a small cohort and in the large one."""

    name: str
    ratio: float
    """Of its time where the cohort is large to that where it is small."""
    processor_ratio: float
    """The same of this process's processor: what else the machine does is left out, and so is a database server."""
    small_ms: float
    large_ms: float
    for_each_study: float
    """How often it was called."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cohort that is small and one that is large, each simulated in a process of its own."""

    database: str
    small: Outcome
    large: Outcome

    @property
    def operations(self) -> list[Operation]:
        """What both asked of the ledger, the costliest first."""
        both = sorted(self.small.operations.keys() & self.large.operations.keys())
        rows = [
            _operation(name, self.small.operations[name], self.large, of=self.large.operations[name]) for name in both
        ]
        return sorted(rows, key=lambda row: -row.large_ms * row.for_each_study)

    def as_json(self) -> dict[str, Any]:
        """All of it, ratios first."""
        limits = self.large.limits()
        return {
            "ratios": {
                "the ledger's time for each study": self.large.ledger_ms / self.small.ledger_ms,
                "its processor time for each study": self.large.processor_ms / self.small.processor_ms,
                "peak memory": self.large.peak_mb / self.small.peak_mb,
                "limit": min(limits, key=limits.__getitem__),
                "of each part to the limit": {part: rate / min(limits.values()) for part, rate in limits.items()},
            },
            "database": self.database,
            "operations": [asdict(row) for row in self.operations],
            "small": _as_json(self.small),
            "large": _as_json(self.large),
        }


def _operation(name: str, small: Spent, large: Outcome, *, of: Spent) -> Operation:
    each, each_small = of.seconds / of.times, small.seconds / small.times
    return Operation(
        name=name,
        ratio=each / each_small,
        processor_ratio=(of.processor_s / of.times) / (small.processor_s / small.times),
        small_ms=1000 * each_small,
        large_ms=1000 * each,
        for_each_study=of.times / large.scenario.simulate,
    )


def _as_json(outcome: Outcome) -> dict[str, Any]:
    names = ("per_hour", "ledger_ms", "processor_ms", "overhead_ms", "polling")
    return {**{name: getattr(outcome, name) for name in names}, "limits": outcome.limits(), **asdict(outcome)}


def archive_sim(url: str, folder: Path, scenario: Scenario, *, against: int | None = None) -> Comparison:
    """The scenario, and the same with a cohort of ``against`` studies (by default as many as are simulated).

    ``url``: SQLAlchemy's of a database; each cohort gets a file in ``folder`` or a schema of its own, which is dropped
    in the end.
    """
    size = min(scenario.studies, against or scenario.simulate)
    small = replace(scenario, studies=size, simulate=min(scenario.simulate, size))
    outcomes = [in_its_own_process(url, folder / name, each) for name, each in (("small", small), ("large", scenario))]
    return Comparison(database=sa.make_url(url).get_backend_name(), small=outcomes[0], large=outcomes[1])


def in_its_own_process(url: str, folder: Path, scenario: Scenario) -> Outcome:
    """A simulation in a new process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_alone, url, folder, scenario).result()


def _alone(url: str, folder: Path, scenario: Scenario) -> Outcome:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    return simulate(url, folder, scenario)


def simulate(url: str, folder: Path, scenario: Scenario) -> Outcome:
    """Carry a run out. The cohort is recorded as `coread archive run` does it; all but the last ``scenario.simulate``
    of its studies then stand as done, with the rows of a study that was.
    """
    folder.mkdir(parents=True)
    with place_of(sa.make_url(url), folder) as place:
        ledger = Ledger(place)
        ledger.migrate()
        try:
            _simulate_one(ledger, folder / "first", scenario)
            started = time.perf_counter()
            _start(ledger, "cohort", scenario.studies, folder=folder / "cohort", scenario=scenario)
            load_s = time.perf_counter() - started
            fill(place, scenario.studies - scenario.simulate)
            return Simulation(ledger, folder / "cohort", "cohort", scenario).run(load_s=load_s)
        finally:
            ledger.close()


def _simulate_one(ledger: Ledger, folder: Path, scenario: Scenario) -> None:
    """A run of one study, whose rows are what those of others look like afterwards."""
    one = replace(scenario, studies=1, simulate=1, workers=1, refused=0.0, incomplete=0.0)
    _start(ledger, "first", 1, folder=folder, scenario=one)
    Simulation(ledger, folder, "first", one).run(load_s=0.0)


def _start(ledger: Ledger, run_id: str, studies: int, *, folder: Path, scenario: Scenario) -> None:
    terms = Terms(
        source="simulated",
        models=(MODEL,),
        profiles=(Profile.OHIF,),
        associations=scenario.associations,
        in_flight=scenario.in_flight,
        folder=str(folder),
        objects=False,
        pictures=False,
        key_file=None,
    )
    planned = ((uid_of(run_id, position), scenario.instances) for position in range(studies))
    ledger.start_run(run_id, name=run_id, terms=terms, plan_digest="0" * 64, studies=planned, by="", at=START)

"""What a simulated archive run is given, and what comes of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

STORE_S = 0.3
"""Simulated: to store results in Orthanc."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is simulated. Times are means of lognormal distributions."""

    studies: int = 1_000_000
    """In the cohort."""
    simulate: int = 2_000
    """The last so many of them; the others stand in the ledger as done."""
    workers: int = 200
    associations: int = 8
    in_flight: int = 600
    retrieve_s: float = 5.0
    model_s: float = 60.0
    instances: int = 300
    refused: float = 0.05
    """Share of studies that the model refuses."""
    incomplete: float = 0.01
    """Share of retrievals that come to less than was stated."""
    seed: int = 1
    takes_time: bool = True
    """Whether the clock goes on by as long as the ledger takes; without, the same comes out each time."""


TAKERS = frozenset({"take_due", "claim"})
"""What is asked once for each study, and while there is nothing to take."""
POLLS_OF_WINDING_UP = ("read_studies", "collected_studies", "stuck_studies")
POLLS = frozenset(
    {"attend_runs", "arriving", "queue_due", "reclaim", "outdated", "findings_due", "run", *POLLS_OF_WINDING_UP}
)
"""What is asked from time to time, however many studies there are."""
OF_LANES = ("take_due", "is_carried_elsewhere", "note_copy", "note_here")
OF_WINDING_UP = ("note_collected", "run_study", "outdated_uids", "note_ended")
OF_WORKERS = ("claim", "renew", "start_storing", "outdated_uids", "finish")
OF_INTAKE = ("wanted_by_runs", "settle")


@dataclass(kw_only=True)
class Spent:
    """How often something was done, and how long it took, in seconds."""

    times: int = 0
    seconds: float = 0.0
    processor_s: float = 0.0
    """Of this process's processor: what else the machine does does not count, nor does a database server's."""

    def add(self, seconds: float, *, processor_s: float) -> None:
        """Once more."""
        self.times += 1
        self.seconds += seconds
        self.processor_s += processor_s


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a simulation."""

    scenario: Scenario
    states: Mapping[str, int]
    """State → how many studies of the cohort ended in it."""
    simulated_s: float
    """By the simulated clock, from the first study to the last."""
    wall_s: float
    load_s: float
    """To write the cohort into the ledger."""
    peak_mb: float
    most_in_flight: int
    operations: Mapping[str, Spent]
    """The ledger's, by name."""
    parts: Mapping[str, Spent]
    """Who had turns: real time of each, the ledger's in it included."""

    @property
    def per_hour(self) -> float:
        """Studies that ended in an hour of simulated time."""
        return 3600 * self.scenario.simulate / self.simulated_s

    @property
    def polling(self) -> float:
        """Share of the simulated time in which the ledger answered those who ask whether there is something to do."""
        of_takers = sum(max(0, self.operations[name].times - self.begun) * self._each_s(name) for name in TAKERS)
        return (sum(self._seconds(POLLS)) + of_takers) / self.simulated_s

    @property
    def begun(self) -> int:
        """How often a study was retrieved, or a job claimed: about once for each study."""
        return self.scenario.simulate

    @property
    def ledger_ms(self) -> float:
        """Of the ledger, for each study, without polling."""
        own = self._seconds(name for name in self.operations if name not in POLLS | TAKERS)
        return 1000 * (sum(own) / self.scenario.simulate + sum(map(self._each_s, TAKERS)))

    @property
    def processor_ms(self) -> float:
        """The same of this process's processor: on a busy machine, it says more. A database server's is not in it."""
        times = {
            name: min(each.times, self.begun) if name in TAKERS else each.times for name, each in self._own.items()
        }
        spent = sum(each.processor_s / each.times * times[name] for name, each in self._own.items())
        return 1000 * spent / self.scenario.simulate

    @property
    def _own(self) -> Mapping[str, Spent]:
        return {name: each for name, each in self.operations.items() if name not in POLLS}

    @property
    def overhead_ms(self) -> float:
        """For each study, all but retrieval and model: the ledger, and what the archivist does besides."""
        of_ledger = sum(self._seconds(OF_WINDING_UP))
        besides = self.parts["winding up"].seconds - of_ledger - sum(self._seconds(POLLS_OF_WINDING_UP))
        return self.ledger_ms + 1000 * max(0.0, besides) / self.scenario.simulate

    def limits(self) -> dict[str, float]:
        """Part → how many studies it could do in an hour if nothing else held it up."""
        of = self.scenario
        lane = sum(map(self._each_s, OF_LANES))
        worker = sum(map(self._each_s, OF_WORKERS))
        winding_up = self.parts["winding up"].seconds - sum(self._seconds(POLLS_OF_WINDING_UP))
        intake = sum(self._seconds(OF_INTAKE))
        return {
            "source": 3600 * of.associations / (of.retrieve_s / (1 - of.incomplete) + lane),
            "workers": 3600 * of.workers / (of.model_s + STORE_S + worker),
            "ledger, one at a time": 3600 * 1000 * max(0.0, 1 - self.polling) / self.ledger_ms,
            "archivist's winding up": 3600 * of.simulate / winding_up,
            "intake": 3600 * of.simulate / intake,
        }

    def _each_s(self, name: str) -> float:
        spent = self.operations.get(name, Spent())
        return spent.seconds / spent.times if spent.times else 0.0

    def _seconds(self, names: Iterable[str]) -> Iterator[float]:
        return (self.operations[name].seconds for name in names if name in self.operations)

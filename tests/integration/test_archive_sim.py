"""The simulator of archive runs: the real archivist and ledger come to an end in it, and its figures are true."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from coread.benchmarks.archive_clock import Bell, Clock
from coread.benchmarks.archive_outcome import Scenario
from coread.benchmarks.archive_sim import archive_sim, simulate
from coread.cli import coread
from coread.errors import CoreadError
from tests.support import NOW

FEW = Scenario(
    studies=20,
    simulate=12,
    workers=4,
    associations=2,
    in_flight=4,
    retrieve_s=2.0,
    model_s=6.0,
    instances=3,
    takes_time=False,
)


@pytest.fixture(autouse=True)
def quietly() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


def test_who_waits_goes_on_in_the_order_of_the_clock() -> None:
    clock, said = Clock(NOW), []

    def process(name: str, seconds: float) -> None:
        for _ in range(2):
            clock.wait(seconds)
            said.append((name, clock.now() - NOW))
        if name == "slow":
            clock.end()

    clock.begin(lambda: process("slow", 5))
    clock.begin(lambda: process("quick", 2))
    clock.run()
    assert said == [
        ("quick", timedelta(seconds=2)),
        ("quick", timedelta(seconds=4)),
        ("slow", timedelta(seconds=5)),
        ("slow", timedelta(seconds=10)),
    ]


def test_a_bell_wakes_the_one_that_has_waited_longest_and_nobody_twice() -> None:
    clock, woken = Clock(NOW), []
    bell = Bell(clock)

    def sleeper(name: str) -> None:
        bell.wait(60)
        woken.append((name, clock.seconds))
        if len(woken) == 3:
            clock.end()

    def ringer() -> None:
        clock.wait(1)
        bell.ring()
        clock.wait(1)
        bell.ring()

    for name in ("first", "second", "third"):
        clock.begin(lambda name=name: sleeper(name))  # type: ignore[misc]
    clock.begin(ringer)
    clock.run()
    assert woken == [("first", 1.0), ("second", 2.0), ("third", 60.0)]


def test_a_simulation_in_which_nobody_waits_is_an_error() -> None:
    with pytest.raises(CoreadError, match="nobody waits"):
        Clock(NOW).run()


def test_every_study_of_the_cohort_ends_and_the_disk_is_bounded(tmp_path: Path) -> None:
    found = simulate("sqlite://", tmp_path / "run", replace(FEW, incomplete=0.2))
    assert sum(found.states.values()) == 20
    assert set(found.states) <= {"done", "refused"}
    assert found.states["done"] >= 8, "eight stood there as done"
    assert found.most_in_flight <= 4
    assert found.operations["note_ended"].times == 12
    assert found.operations["put_off_study"].times >= 1, "some came incomplete, and were fetched again"
    assert found.operations["finish"].times == 12, "nothing is read twice"


@pytest.mark.slow
def test_a_lane_asks_for_work_twice_a_second_at_most_while_there_is_none(tmp_path: Path) -> None:
    found = simulate("sqlite://", tmp_path / "run", replace(FEW, workers=1, model_s=10.0))
    asked = found.operations["take_due"].times
    assert asked <= 24 + 2 * FEW.associations * (found.simulated_s + 1)


@pytest.mark.slow
def test_the_same_scenario_comes_out_the_same(tmp_path: Path) -> None:
    first, again = (simulate("sqlite://", tmp_path / name, FEW) for name in ("a", "b"))
    assert (first.simulated_s, first.states, first.most_in_flight) == (
        again.simulated_s,
        again.states,
        again.most_in_flight,
    )
    assert first.limits()["source"] > 0


@pytest.mark.slow
def test_what_is_short_is_the_limit(tmp_path: Path) -> None:
    few_workers = simulate("sqlite://", tmp_path / "a", replace(FEW, workers=1, model_s=60.0, retrieve_s=0.5))
    slow_source = simulate("sqlite://", tmp_path / "b", replace(FEW, retrieve_s=60.0, model_s=1.0))
    for found, limit in ((few_workers, "workers"), (slow_source, "source")):
        rates = found.limits()
        assert min(rates, key=rates.__getitem__) == limit
        assert found.per_hour == pytest.approx(rates[limit], rel=0.5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cohort(tmp_path: Path) -> None:
    many = Scenario(studies=1500, simulate=1500, retrieve_s=0.5, model_s=2.0, workers=20, takes_time=False)
    found = archive_sim("sqlite://", tmp_path, many, against=150)
    assert found.large.states["done"] + found.large.states["refused"] == 1500
    assert found.large.peak_mb / found.small.peak_mb < 1.1


@pytest.mark.slow
def test_the_command_says_ratios_first() -> None:
    run = CliRunner().invoke(coread, ["bench", "archive-sim", "--small", "--workers", "4", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.output)
    assert next(iter(found)) == "ratios"
    assert found["ratios"]["limit"] in found["large"]["limits"]
    assert found["large"]["scenario"]["studies"] == 100

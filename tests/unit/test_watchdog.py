"""A process that hangs is told from one that starts, is slow, or was suspended."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from coread.supervisor import Child
from coread.watchdog import MISSES, Watchdog

SOON_S = 20.0
SILENT_S = 120.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(answers: Sequence[bool] = (), *, every_s: float = SILENT_S / MISSES) -> Watchdog:
    """A watchdog that was told these answers, one after the other."""
    clock = Clock()
    watchdog = Watchdog(lambda: True, silent_s=SILENT_S, clock=clock)
    for answered in answers:
        clock.now += every_s
        watchdog.note(answered=answered)
    return watchdog


@pytest.mark.parametrize(
    ("answers", "is_hung"),
    [
        ([], False),
        ([False] * 10 * MISSES, False),  # it starts
        ([True] + [False] * (MISSES - 1), False),
        ([True] + [False] * MISSES, True),
        ([False] * 5 * MISSES + [True] + [False] * MISSES, True),
        (([True] + [False] * (MISSES - 1)) * 3, False),  # it is slow
        ([True] + [False] * MISSES + [True], False),
    ],
)
def test_who_has_answered_and_then_does_not_for_long_hangs(answers: list[bool], is_hung: bool) -> None:
    assert told(answers).is_hung == is_hung


def test_both_the_time_must_have_passed_and_the_questions_been_asked() -> None:
    assert not told([True] + [False] * 2 * MISSES, every_s=1.0).is_hung, "refused at once, time and again"
    assert not told([True, False], every_s=10 * SILENT_S).is_hung, "the machine was suspended"


def test_who_was_told_to_end_may_take_his_time() -> None:
    watchdog = told([True] + [False] * MISSES)
    watchdog.stop()
    assert not watchdog.is_hung


@pytest.mark.parametrize("silent_s", [0.0, 0.05])
def test_it_asks_by_itself_unless_it_is_not_to(silent_s: float) -> None:
    answers = iter([True] + [False] * 10_000)
    watchdog = Watchdog(lambda: next(answers), silent_s=silent_s)
    watchdog.start()
    deadline = time.monotonic() + (SOON_S if silent_s else 0.3)
    while not watchdog.is_hung and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watchdog.is_hung == (silent_s > 0)
    watchdog.stop()


def test_a_process_that_hangs_is_killed_and_its_successor_is_watched_anew(tmp_path: Path) -> None:
    watchdogs: list[Watchdog] = []

    def watched_by() -> Watchdog:
        watchdogs.append(told())
        return watchdogs[-1]

    command = ["sh", "-c", "trap '' TERM; exec sleep 1000"]
    child = Child(
        name="orthanc", command=command, log=tmp_path / "log", environment=dict(os.environ), watched_by=watched_by
    )
    child.start()
    try:
        first = child.process
        child.revive()
        assert child.process is first, "it does not hang"
        watchdogs[0]._answered_at, watchdogs[0]._missed = -SILENT_S, MISSES
        child.revive()
        assert first is not None
        assert first.wait(SOON_S) < 0, "killed"
        deadline = time.monotonic() + SOON_S
        while child.process is first and time.monotonic() < deadline:
            child.revive()
            time.sleep(0.05)
        assert child.process is not first
        assert len(watchdogs) == 2
        child.revive()
        assert child.process is not None
        assert child.process.poll() is None, "nothing is known of the new one yet"
    finally:
        if child.process is not None:
            child.process.kill()
        child.stop()

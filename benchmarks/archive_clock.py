"""A clock that runs as fast as there is something to do: who waits costs nothing, and the time jumps to who is next.

The processes are greenlets, so that what they call may wait anywhere inside: real code, which waits for a network in
the middle of things, runs as it is.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import greenlet

from coread.errors import CoreadError


@dataclass(eq=False)
class Turn:
    """When a process goes on."""

    process: greenlet.greenlet
    is_over: bool = False


class Clock:
    """The simulated time, and whose turn it is. One process runs at a time, until it waits."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self.seconds = 0.0
        """Since the start."""
        self._turns: list[tuple[float, int, Turn]] = []
        self._order = itertools.count()
        self._loop = greenlet.getcurrent()
        self._is_over = False

    def now(self) -> datetime:
        """The time of day."""
        return self._start + timedelta(seconds=self.seconds)

    def begin(self, work: Callable[[], None]) -> None:
        """Begin a process."""
        self._turn_of(Turn(greenlet.greenlet(work, parent=self._loop)), at=self.seconds)

    def wait(self, seconds: float) -> None:
        """Let the others have their turns for so long."""
        self.turn_after(seconds)
        self.rest()

    def turn_after(self, seconds: float) -> Turn:
        """The turn of the process that runs, after so long."""
        turn = Turn(greenlet.getcurrent())
        self._turn_of(turn, at=self.seconds + max(0.0, seconds))
        return turn

    def rest(self) -> None:
        """Let the others have their turns until one of this process comes."""
        self._loop.switch()

    def wake(self, turn: Turn) -> None:
        """Have a turn now that would come later."""
        turn.is_over = True
        self._turn_of(Turn(turn.process), at=self.seconds)

    def take(self, seconds: float) -> None:
        """Let time go by in which nobody has a turn."""
        self.seconds += seconds

    def end(self) -> None:
        """Let nobody have a turn any more."""
        self._is_over = True

    def run(self) -> None:
        """Have turns taken until the end. Raises what a process raises, CoreadError if nobody waits for anything."""
        while not self._is_over:
            if not self._turns:
                raise CoreadError("expected that something goes on, found a simulation in which nobody waits for it")
            at, _, turn = heapq.heappop(self._turns)
            if not turn.is_over:
                turn.is_over = True
                self.seconds = max(self.seconds, at)
                turn.process.switch()

    def _turn_of(self, turn: Turn, *, at: float) -> None:
        heapq.heappush(self._turns, (at, next(self._order), turn))


class Bell:
    """Wakes one that waits for it, the one that has waited longest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[Turn] = deque()

    def ring(self) -> None:
        """Wake one, if anybody waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.is_over:
                self._clock.wake(turn)
                return

    def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so long."""
        turn = self._clock.turn_after(seconds)
        self._waiting.append(turn)
        self._clock.rest()

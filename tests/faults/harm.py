"""What is done to a running Coread, at moments that a seed decides."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Fault:
    """Something that happens again and again: about every ``every_s`` seconds, ``strike`` does it.

    ``strike`` gives what it did, or nothing if there was nothing to strike; then it is tried again soon. What it broke
    and nobody else mends, ``mend`` mends ``away_s`` later.
    """

    name: str
    every_s: float
    strike: Callable[[], str]
    mend: Callable[[], None] | None = None
    away_s: tuple[float, float] = (0.0, 0.0)
    _due: float = 0.0
    _mend_at: float | None = None

    def start(self, now: float, rng: random.Random) -> None:
        self._due = now + self._pause_s(rng)

    def step(self, now: float, rng: random.Random) -> str:
        """Strike or mend, if it is time; what was done."""
        if self._mend_at is not None:
            if now < self._mend_at:
                return ""
            self.make_good()
            self._due = now + self._pause_s(rng)
            return f"{self.name} is back"
        if now < self._due:
            return ""
        done = self.strike()
        self._due = now + (self._pause_s(rng) if done else AGAIN_S)
        if done and self.mend is not None:
            self._mend_at = now + rng.uniform(*self.away_s)
        return done

    def make_good(self) -> None:
        """Mend at once what is broken."""
        if self._mend_at is not None and self.mend is not None:
            self.mend()
        self._mend_at = None

    def _pause_s(self, rng: random.Random) -> float:
        return rng.uniform(0.4, 1.6) * self.every_s


AGAIN_S = 0.05


@dataclass
class Harm:
    """All faults together, and when each of them struck."""

    faults: Sequence[Fault]
    rng: random.Random
    timeline: list[tuple[float, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _started: float = 0.0

    def start(self) -> None:
        self._started = time.monotonic()
        for fault in self.faults:
            fault.start(self._started, self.rng)

    def step(self) -> None:
        """To be called often, from one thread."""
        for fault in self.faults:
            now = time.monotonic()
            done = fault.step(now, self.rng)
            if done:
                self.timeline.append((round(now - self._started, 2), done))
                if not done.endswith("is back"):
                    self.counts[fault.name] += 1

    def stop(self) -> None:
        for fault in self.faults:
            fault.make_good()

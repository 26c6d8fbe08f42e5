"""How long each stage of a job took, and when: from this, a timeline of several jobs is drawn."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta


@dataclass
class Stopwatch:
    """Seconds by stage, and when each began and ended, in the order of the stages. Both are of JSON's types."""

    seconds: dict[str, float] = field(default_factory=dict)
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Begin and end in UTC, ISO 8601. The end is the begin and the seconds: a clock that is set changes no length."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, also if it fails."""
        began, started = datetime.now(UTC), time.perf_counter()
        try:
            yield
        finally:
            took_s = time.perf_counter() - started
            self.seconds[name] = round(took_s, 4)
            self.stages[name] = [each.isoformat() for each in (began, began + timedelta(seconds=took_s))]

"""What the threads of one run have in common."""

import threading
from datetime import datetime, timedelta

from coread.archive_run import Run, RunState, RunStudyState
from coread.archivist.trouble import away_s

NEVER = datetime.fromisoformat("0001-01-02T00:00:00+00:00")


class Attended:
    """A run that this archivist is at, as it was last looked at, and what holds it up."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.held_by = ""
        """Why no study may be begun now, by the terms."""
        self.troubled_by = ""
        """What keeps studies from being wound up."""
        self.away_until = NEVER
        """Until when a neighbour is left alone that does not answer."""
        self.away_because = ""
        self.undelivered = 0
        """How many studies waited for deliveries when it was last looked."""
        self._away_times = 0
        self._lock = threading.Lock()

    @property
    def waits_for(self) -> str:
        """Why nothing is begun, in words; empty while it goes on. Of a run that is cancelled, why it is not over."""
        if self.run.state is RunState.CANCELLED:
            return self.troubled_by or self._waits_for_deliveries
        if self.run.state is not RunState.RUNNING:
            return ""
        return self.troubled_by or self.held_by or self.away_because or self._waits_for_deliveries

    @property
    def _waits_for_deliveries(self) -> str:
        """That there is room for no other study, or none is left, because of deliveries that have not ended."""
        run = self.run
        if not self.undelivered or self.undelivered < run.in_flight:
            return ""
        if run.count(RunStudyState.DUE) and run.in_flight < run.terms.in_flight:
            return ""
        return (
            f"the results of all {self.undelivered} studies under way are not delivered; see to the destination, and "
            "retry or cancel the deliveries that have failed"
        )

    def note_away(self, reason: str, *, at: datetime) -> None:
        """Leave a neighbour alone for a while, longer each time."""
        with self._lock:
            if at >= self.away_until:  # of several lanes that meet the same absence, one counts
                self._away_times += 1
                self.away_until = at + timedelta(seconds=away_s(self._away_times))
            self.away_because = reason

    def note_answer(self) -> None:
        """The neighbours answer."""
        with self._lock:
            self._away_times = 0
            self.away_because = ""

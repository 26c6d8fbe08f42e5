"""When a study counts as complete: a pure function of what arrived and the clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class Complete:
    """The study can be read now."""

    because: str


@dataclass(frozen=True, kw_only=True)
class WaitUntil:
    """The study may still grow; look again then."""

    moment: datetime


def decide(*, last_arrival_at: datetime, now: datetime, quiet: timedelta) -> Complete | WaitUntil:
    """Complete once nothing has arrived for ``quiet``. If that was too early, the late instance makes a new job."""
    moment = last_arrival_at + quiet
    if now < moment:
        return WaitUntil(moment=moment)
    return Complete(because=f"no instance has arrived for {quiet.total_seconds():g} s")

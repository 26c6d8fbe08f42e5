"""When a study counts as complete: a pure function of what arrived and the clock."""

from datetime import datetime, timedelta


def is_complete(*, last_arrival_at: datetime, now: datetime, quiet: timedelta) -> bool:
    """Complete once nothing has arrived for ``quiet``. If that was too early, the late instance makes a new job."""
    return now - last_arrival_at >= quiet

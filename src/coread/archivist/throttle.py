"""When a run may begin studies, and how many: pure functions of its terms, the clock and the disk."""

from datetime import datetime, timedelta

from coread.archive_hours import Hours
from coread.archive_run import Terms
from coread.ledger.archive_runs import Pace

NEAR = 2.0
"""Runs leave this many times as much room on the disk as makes Orthanc refuse what clinical senders have."""


def pace_of(terms: Terms) -> Pace:
    """How many studies may be begun."""
    per_minute = terms.studies_per_minute
    interval = timedelta(0) if per_minute is None else timedelta(minutes=1) / per_minute
    return Pace(in_flight=terms.in_flight, associations=terms.associations, interval=interval)


def held_by(terms: Terms, *, local: datetime, free_gb: float, min_free_gb: float) -> str:
    """Why no study may be begun now, in words; empty if one may. ``local``: by the clock on the wall.

    Raises ConfigurationError if the hours cannot be understood.
    """
    if terms.hours is not None and Hours.parse(terms.hours).wait_s(local) > 0:
        return f"outside its hours {terms.hours}, until {terms.hours.partition('-')[0]}"
    if min_free_gb > 0 and free_gb < NEAR * min_free_gb:
        return (
            f"less than {NEAR * min_free_gb:g} GB free on the data folder's disk; it goes on when there is room "
            "(intake.min_free_gb)"
        )
    return ""

"""Dates and times moved back, all of a patient's by as much, so that what lies between them stays."""

import re
from datetime import date, timedelta

DUMMIES = {"DA": "19000101", "TM": "0000", "DT": "190001010000"}
_DATE = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})")
_TIME = re.compile(r"([0-9]{2}):?([0-9]{2})?")


def dummy_moment(vr: str) -> str:
    """A DA, TM or DT that says nothing."""
    return DUMMIES[vr]


def shifted(moment: str, vr: str, *, back: timedelta) -> str:
    """A DA, TM or DT (PS3.5 6.2) earlier by whole days; times stay, to the minute, because one to the microsecond is
    as good as a name, and without a zone. Empty if it is none, or names no day.
    """
    moment = moment.strip()
    if vr == "TM":
        return _minute(moment)
    match = _DATE.match(moment)
    if match is None:
        return ""
    try:
        day = date(*map(int, match.groups())) - back
    except (ValueError, OverflowError):
        return ""
    # four digits, also of years before 1000
    earlier = f"{day.year:04d}{day.month:02d}{day.day:02d}"
    return earlier if vr == "DA" else earlier + _minute(moment[match.end() :])


def _minute(time: str) -> str:
    match = _TIME.match(time)
    return "".join(part or "" for part in match.groups()) if match else ""

"""The hours of the day at which an archive run begins studies, such as ``19:00-07:00``."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from coread.errors import ConfigurationError

DAY_S = 86_400
_FORM = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")


@dataclass(frozen=True, kw_only=True)
class Hours:
    """From when to when, in seconds after midnight; over midnight if the end is not after the beginning."""

    begin_s: int
    end_s: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The hours that a person has written. Raises ConfigurationError if they are of another form."""
        if not _FORM.fullmatch(text):
            raise ConfigurationError("expected hours such as 19:00-07:00, local time, found something else")
        begin, end = (60 * (60 * int(part[:2]) + int(part[3:])) for part in text.split("-"))
        if begin == end:
            raise ConfigurationError("expected hours that begin and end at different times; leave them out for all day")
        return cls(begin_s=begin, end_s=end)

    @property
    def length_s(self) -> int:
        """How long they are."""
        return (self.end_s - self.begin_s) % DAY_S or DAY_S

    def wait_s(self, at: datetime) -> float:
        """Seconds until they begin, from a local time on; 0 while they last. A change of the clock is not foreseen."""
        since = (seconds_of_day(at) - self.begin_s) % DAY_S
        return 0.0 if since < self.length_s else DAY_S - since

    def clock_s(self, working_s: float, *, at: datetime) -> float:
        """How long it takes by the clock, from a local time on, to do so many seconds' work within these hours."""
        wait_s = self.wait_s(at)
        if wait_s == 0.0:
            today_s = self.length_s - (seconds_of_day(at) - self.begin_s) % DAY_S
            if working_s <= today_s:
                return working_s
            working_s -= today_s
            wait_s = today_s + DAY_S - self.length_s
        days, rest_s = divmod(working_s, self.length_s)
        return wait_s + days * DAY_S + rest_s


def seconds_of_day(at: datetime) -> float:
    """Seconds after midnight, by the clock on the wall."""
    return at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6

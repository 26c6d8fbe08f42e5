"""Asking a PACS for a long time in parts, because it may give no more than so many answers at once.

Some say that there are more (a status of the C-FIND); many stop in silence. So a count that could be such a limit is
looked into: if the halves of the time have more together than the whole, the whole was cut off.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta

from coread.errors import SourceRefuses
from coread.retrieval.answers import Answer, AnswersLimited

LEAST_LIMIT = 50
"""No PACS is known that gives less."""
DAY_S = 86_400
SHORTEST_S = 60
"""Of less than this a PACS is not asked apart."""
FIRST_DAY = date(1970, 1, 1)
"""No study in DICOM is older; one with an older date is found by naming that."""


@dataclass(frozen=True, kw_only=True)
class Period:
    """Days, both included; of one day, a part: from a second on, and up to another, both included."""

    first: date
    last: date
    begin_s: int = 0
    end_s: int = DAY_S - 1

    @property
    def keys(self) -> Mapping[str, str]:
        """The keys that match it (PS3.4 C.2.2.2.5)."""
        first, last = f"{self.first:%Y%m%d}", f"{self.last:%Y%m%d}"
        days = {"StudyDate": first if first == last else f"{first}-{last}"}
        if (self.begin_s, self.end_s) == (0, DAY_S - 1):
            return days
        return {**days, "StudyTime": f"{_clock(self.begin_s)}-{_clock(self.end_s)}"}

    def halves(self) -> "tuple[Period, Period] | None":
        """Two parts that make it up; None if it is too short."""
        if self.first < self.last:
            middle = self.first + (self.last - self.first) // 2
            return replace(self, last=middle), replace(self, first=middle + timedelta(days=1))
        if self.end_s - self.begin_s < SHORTEST_S:
            return None
        half = (self.begin_s + self.end_s) // 2
        return replace(self, end_s=half), replace(self, begin_s=half + 1)


def _clock(second: int) -> str:
    return f"{second // 3600:02}{second // 60 % 60:02}{second % 60:02}"


Ask = Callable[[Mapping[str, str]], Iterator[Answer]]
"""Keys of a period, which may be none → the studies."""


class Search:
    """A search over a period, and what it has shown of its source. An answer may come more than once."""

    def __init__(self, ask: Ask, *, today: date) -> None:
        self._ask, self._today = ask, today
        self.limit: int | None = None
        """How many answers the source gives at most, if it has shown that."""
        self.queries = 0

    def studies(self, period: Period | None) -> Iterator[Answer]:
        """The studies of a period; None: of any time. Raises SourceRefuses if there are more within a minute than the
        source gives at once.
        """
        count, is_cut = yield from self._asked({} if period is None else period.keys)
        if not is_cut and count < LEAST_LIMIT:
            return
        whole = period or Period(first=FIRST_DAY, last=self._today + timedelta(days=1))
        yield from self._look_into(whole, count, is_cut=is_cut)

    def _look_into(self, period: Period, count: int, *, is_cut: bool) -> Iterator[Answer]:
        halves = period.halves()
        if halves is None:
            if is_cut or count == self.limit:
                raise SourceRefuses(
                    f"the source gives {count} studies at most, and has more within one minute of {period.first}; "
                    "narrow the query by another key"
                )
            return
        asked = []
        for half in halves:
            found = yield from self._asked(half.keys)
            asked.append((half, *found))
        if is_cut or sum(number for _, number, _ in asked) > count:
            self.limit = count
        for half, number, half_is_cut in asked:
            if half_is_cut or number == count or self._may_be_limit(number):  # one with all of them shows nothing yet
                yield from self._look_into(half, number, is_cut=half_is_cut)

    def _may_be_limit(self, count: int) -> bool:
        if self.limit is not None:
            return count >= self.limit
        return count >= LEAST_LIMIT and (count % LEAST_LIMIT == 0 or count & (count - 1) == 0)

    def _asked(self, keys: Mapping[str, str]) -> Generator[Answer, None, tuple[int, bool]]:
        """How many answers there were, and whether the source said that there are more."""
        self.queries += 1
        count = 0
        try:
            for answer in self._ask(keys):
                count += 1
                yield answer
        except AnswersLimited:
            return count, True
        return count, False

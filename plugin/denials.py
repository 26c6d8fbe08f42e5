"""Requests that were not let through, on their way into the audit trail: counted, so that nobody can flood it."""

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from coread.ledger import Ledger
from coread.logs import logger

EVERY = timedelta(minutes=1)
"""The same refusal makes one row in this time at most."""
KINDS = 50
"""So many kinds of refusal make a row each in that time; what goes beyond makes one together."""


@dataclass(frozen=True, kw_only=True)
class Denial:
    """A request that was not let through."""

    user: str
    """Who signed in; empty if nobody is asked or named."""
    method: str
    path: str
    """The route, or what was asked for."""
    reason: str


OTHERS = Denial(user="", method="", path="", reason="many kinds of requests at once were not let through")


class Denials:
    """Counts refusals of the same kind, and writes a row for each kind at most once in a while."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[Denial] = Counter()
        self._written_at: dict[Denial, datetime] = {}

    def note(self, denial: Denial) -> None:
        """Take one up; nothing is written yet, for the request waits."""
        denial = replace(denial, path=place_of(denial.path))
        with self._lock:
            is_new = denial not in self._counts and denial not in self._written_at
            if is_new and len(self._counts.keys() | self._written_at.keys()) >= KINDS:
                denial = OTHERS
            self._counts[denial] += 1
        if denial not in self._written_at:
            logger().warning(
                "request not let through",
                method=denial.method,
                route=denial.path,
                reason=denial.reason,
            )

    def step(self) -> None:
        """Write what is due. Raises LedgerUnavailable; what is not written then is written later."""
        now = self._clock()
        with self._lock:
            self._written_at = {each: at for each, at in self._written_at.items() if now - at < EVERY}
            due = {each: count for each, count in self._counts.items() if each not in self._written_at}
        for denial, count in due.items():
            self._ledger.note_denied(
                user=denial.user,
                details={"method": denial.method, "route": denial.path, "reason": denial.reason, "times": count},
                at=now,
            )
            with self._lock:
                self._counts.subtract({denial: count})
                self._counts = +self._counts
                self._written_at[denial] = now


def place_of(path: str) -> str:
    """What of a path says what was asked for, and not of whom: Orthanc's words, and a star for what else it holds."""
    return "/".join(part if re.fullmatch(r"[a-z-]{0,30}", part) else "*" for part in path.split("/")[:7])

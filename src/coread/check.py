"""One thing that `coread doctor` has looked at."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What is to be thought of it."""

    OK = "ok"
    OPTIONAL = "optional"
    """Worth a look; everything works all the same."""
    MISSING = "missing"
    """Something is not installed, or the settings cannot be used: Coread does not start, or does not do its work."""
    WRONG = "wrong"
    """Something is the matter with what runs."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at: what was expected and found and, if they differ, what to do."""

    what: str
    verdict: Verdict
    found: str
    expected: str = ""
    remedy: str = ""

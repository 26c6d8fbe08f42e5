"""How often a job is tried, and how long it waits: decided by the kind of error, as data."""

from dataclasses import dataclass

from coread.errors import ArchiveUnavailable, BrokerUnavailable, JobOverran, LedgerUnavailable

LONGEST_DELAY_S = 300.0
"""A neighbour that has come back is noticed within this time."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Attempts by kind of error. A study that meets different errors is counted by the one it met last."""

    first_delay_s: float
    """The wait after the first attempt; it doubles with each further one, up to five minutes."""
    away: int = 60
    """A neighbour does not answer: a weekend's maintenance of some hours must not fail the studies of that time."""
    broke: int = 3
    """Something unexpected, or not enough memory: it may have been the study before."""
    overran: int = 2
    """The time limit: a study that takes too long twice will take too long again."""

    def attempts(self, error: BaseException) -> int:
        """How often a job that meets this error is tried in all."""
        if isinstance(error, ArchiveUnavailable | LedgerUnavailable | BrokerUnavailable):
            return self.away
        return self.overran if isinstance(error, JobOverran) else self.broke

    def delay_s(self, attempts: int) -> float:
        """The wait after so many attempts, in seconds."""
        return min(LONGEST_DELAY_S, self.first_delay_s * 2.0 ** min(30, max(0, attempts - 1)))

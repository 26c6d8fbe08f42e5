"""What becomes of a study that could not be retrieved: decided by the kind of error, and by where it was met."""

from enum import StrEnum

from coread.errors import ArchiveUnavailable, ConfigurationError, InputError, SourceUnavailable

LONGEST_DELAY_S = 6 * 3600.0
GROWS = 4.0
"""Each wait is so many times as long as the one before: half a minute, two minutes, eight, half an hour, two hours."""
AWAY_LONGEST_S = 60.0
"""A source that is back is noticed within this time."""


class Course(StrEnum):
    """What follows from an error."""

    AGAIN = "again"
    """This study is tried again later; the others go on."""
    FAIL = "fail"
    """It will not come, however often it is tried."""
    WAIT = "wait"
    """A neighbour is away, for all studies alike: the run waits, and no attempt is counted."""
    PAUSE = "pause"
    """No study can come before a person has changed something: the run is paused."""


def course_of(error: BaseException, *, has_begun: bool) -> Course:
    """What follows from an error. ``has_begun``: the source had answered for this study, and was retrieving it.

    That our Orthanc fails in the middle may be because of the study, each time: that counts. If it was away, the next
    study is met by its absence. A source that breaks off in the middle is busy (SourceBusy), and that counts as well.
    """
    if isinstance(error, ConfigurationError):
        return Course.PAUSE
    if isinstance(error, InputError):
        return Course.FAIL
    if isinstance(error, SourceUnavailable) or (isinstance(error, ArchiveUnavailable) and not has_begun):
        return Course.WAIT
    return Course.AGAIN


def delay_s(attempts: int, *, first_s: float) -> float:
    """The wait after so many attempts, in seconds."""
    return min(LONGEST_DELAY_S, first_s * GROWS ** min(20, max(0, attempts - 1)))


def away_s(times: int) -> float:
    """How long a neighbour is left alone that was found away so many times in a row, in seconds."""
    return min(AWAY_LONGEST_S, 2.0 ** min(10, max(0, times)))

"""What every way of retrieving a study has in common."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """What there is of a study in our Orthanc once it was retrieved."""

    instances: int
    """How many instances, as counted there."""
    bytes: int
    """Bytes of their files."""


class Retriever(Protocol):
    """An open way to one source. It is used by one thread; ``abort`` alone may be called by another.

    A connection that the source has ended meanwhile is made anew. Raises a TransientError for what may pass, an
    InputError for what will not, and a ConfigurationError where a person must change something before any study can
    come from there. SourceUnavailable is what concerns all studies alike; what breaks off with one study is
    SourceBusy, since that study may be the cause.
    """

    def stated(self, study_instance_uid: str) -> int | None:
        """How many instances the source says that it has of a study; None: it does not say.

        Raises NotInSource if it has no such study, SourceUnavailable or SourceBusy if it cannot be asked now.
        """
        ...

    def retrieve(self, study_instance_uid: str) -> Retrieved:
        """Have a study in our Orthanc, whole as the source states it. It may be repeated; what is there is overwritten.

        Raises NotInSource if the source does not have it, SourceRefuses if it will not come, SourceUnavailable or
        SourceBusy if it does not now, or breaks off, StudyIncomplete if less has come than was stated,
        ArchiveUnavailable if our Orthanc does not take it, as with a full disk.
        """
        ...

    def abort(self) -> None:
        """Break off what is under way, from another thread: ``retrieve`` raises SourceUnavailable soon."""
        ...

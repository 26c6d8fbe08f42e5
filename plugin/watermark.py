"""Notices that Orthanc's database is an older one than before: somebody restored a backup.

How far Orthanc's change log was taken in stands in the ledger. From time to time it is also written into Orthanc's own
database, as a property of ours. If that says less than what the ledger remembers to have written there, the database
has gone back in time.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from coread.ledger import Ledger

PROPERTY = 4712
"""The number of our property in Orthanc's database; numbers from 1024 are left to plugins."""
EVERY = timedelta(seconds=10)
"""So often it is written at most. What Orthanc stored since then, a restored backup may lack unnoticed."""


class Watermark:
    """The mark in Orthanc's database, and what the ledger knows of it."""

    def __init__(
        self, *, read: Callable[[], int], write: Callable[[int], None], ledger: Ledger, archive_identity: str
    ) -> None:
        self._read = read
        self._write = write
        self._ledger = ledger
        self._archive_identity = archive_identity
        self._raised_to: int | None = None
        """What the ledger says: only this writes it, once the database has been found not to be an older one."""
        self._written_at: datetime | None = None

    def shows_an_older_database(self) -> bool:
        """Whether the database lacks a mark that was written into it."""
        return self._read() < self._ledger.watermark(self._archive_identity)

    def raise_to(self, change: int, *, at: datetime) -> None:
        """Write that the log was taken in up to ``change``, unless that was done a moment ago."""
        if self._raised_to is None:
            self._raised_to = self._ledger.watermark(self._archive_identity)
        is_recent = self._written_at is not None and at - self._written_at < EVERY
        if is_recent or change <= self._raised_to:
            return
        self._write(change)  # first: if we are killed between the two, the database is ahead, which means nothing
        self._ledger.note_watermark(self._archive_identity, change)
        self._raised_to, self._written_at = change, at


def watermark_in(orthanc: Any, ledger: Ledger, archive_identity: str) -> Watermark:
    """The mark in the database of the Orthanc that the plugin runs in."""
    return Watermark(
        read=lambda: int(orthanc.GetGlobalProperty(PROPERTY, "0")),
        write=lambda change: orthanc.SetGlobalProperty(PROPERTY, str(change)),
        ledger=ledger,
        archive_identity=archive_identity,
    )

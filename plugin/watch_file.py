"""Who has sent of the studies that archive runs retrieve, on disk, so that a restart of Orthanc forgets nothing of it.

What is not known counts as somebody else's: a file that is missing, harmed or old costs a copy that is kept, and never
an image.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from coread.logs import logger

LONGEST = timedelta(hours=1)
"""What was begun to be watched longer ago is not believed after a restart: Orthanc may have run without us since, or
the file may come from a backup.
"""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A study that is being retrieved."""

    study: str
    """StudyInstanceUID."""
    aet: str
    """Title of the source, whose images are not somebody else's."""
    since: datetime
    is_joined: bool = False
    """Whether somebody else has sent of it."""


class WatchFile:
    """A file that holds all watches, readable by its owner alone."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime]) -> None:
        self._path, self._clock = path, clock

    def read(self) -> list[Watch]:
        """The watches that a plugin before this one had; none if they cannot be told for certain."""
        try:
            rows = json.loads(self._path.read_bytes())
            watches = [Watch(**{**row, "since": datetime.fromisoformat(row["since"])}) for row in rows]
            now = self._clock()
            return [each for each in watches if timedelta(0) <= now - each.since <= LONGEST]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger().warning("watches are not known after the restart", error=type(error).__name__)
            return []

    def write(self, watches: Iterable[Watch]) -> None:
        """Write them down: on the disk when this returns. Where that cannot be, no file is left that says otherwise.

        Raises OSError if that cannot be either.
        """
        rows = [{**asdict(each), "since": each.since.isoformat()} for each in watches]
        try:
            partial = self._path.with_name(f".{self._path.name}.part")
            descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(rows).encode())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError as error:
            logger().warning("watches are not written down", reason=error.strerror)
            self._path.unlink(missing_ok=True)
        self._sync_folder()

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

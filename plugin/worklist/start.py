"""Puts the worklist together: its index, the thread that follows, and the routes."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from coread.archive import Archive
from coread.errors import TransientError
from coread.ledger import Ledger
from coread.logs import logger
from coread.plugin.gate import Gate
from coread.plugin.pages import register_page
from coread.plugin.worklist.follow import Follower
from coread.plugin.worklist.index import Index
from coread.plugin.worklist.joined import Joined, standard_parts
from coread.plugin.worklist.rest import register_worklist
from coread.settings import Settings

INDEX_NAME = "worklist.sqlite"
PAUSE_S = 1.0
BACK_OFF_S = 3.0


class StudyList:
    """The worklist of an Orthanc."""

    def __init__(
        self, settings: Settings, ledger: Ledger, *, connect: Callable[[], Archive], joined: Joined | None = None
    ) -> None:
        """``connect``: makes a connection to Orthanc, which answers once it has started."""
        self._ledger = ledger
        self._connect = cache(connect)
        self._joined = joined or standard_parts(settings, ledger)
        self._index = Index(settings.data_folder / INDEX_NAME)
        self._follower: Follower | None = None
        self._problem: str | None = None

    def register(self, gate: Gate) -> None:
        """Register the page and its routes."""
        register_page(gate)
        register_worklist(
            gate,
            index=self._index,
            ledger=self._ledger,
            archive=self._connect,
            left=lambda: self._follower.left if self._follower else None,
            problem=lambda: self._problem,
            joined=self._joined,
        )

    def note_change(self, orthanc: Any, change: int, level: int, resource: str) -> None:
        """Hear of what befell something in Orthanc."""
        is_study = level == orthanc.ResourceType.STUDY
        if change == orthanc.ChangeType.DELETED and is_study and self._follower is not None:
            self._follower.note_deleted(resource)

    def start(self, archive_identity: str, *, stop: threading.Event) -> None:
        """Follow Orthanc and the ledger in a thread, until it is time to stop."""
        self._follower = Follower(
            archive=self._connect(),
            archive_identity=archive_identity,
            ledger=self._ledger,
            index=self._index,
            clock=lambda: datetime.now(UTC),
            joined=self._joined,
        )
        threading.Thread(target=self._run, args=(self._follower, stop), name="coread-list", daemon=True).start()

    def _run(self, follower: Follower, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                follower.step()
            except TransientError as error:
                self._problem = str(error)
                logger().warning("worklist waits", reason=self._problem)
            except Exception as error:  # noqa: BLE001  # the list must not stand still for good because of one surprise
                # Without its values: a statement's may name the patient.
                self._problem = f"unexpected {type(error).__name__}; the list may be out of date"
                logger().error("worklist step failed", kind=type(error).__name__)
            else:
                self._problem = None
            stop.wait(BACK_OFF_S if self._problem else (0 if follower.left else PAUSE_S))

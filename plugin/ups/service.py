"""Workitems inside the plugin: the parts put together, the routes registered, and what is done from time to time."""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache

from coread.archive import Archive
from coread.ledger import Ledger
from coread.logs import logger
from coread.plugin.gate import Gate
from coread.plugin.ups.events import Events
from coread.plugin.ups.rest import register_workitems
from coread.plugin.ups.store import WorkitemStore
from coread.plugin.ups.worklist import Worklist
from coread.settings import Settings

STORE = "workitems.sqlite"
"""In the data folder."""

STARTED_AT_A_TIME = 200
"""Workitems that are looked at in a step, the oldest first."""
SOONEST, LATEST = timedelta(seconds=2), timedelta(minutes=5)
"""When Orthanc is asked again for the study of a workitem: each time after twice as long. A study that arrives is
settled in any case; this is for one that was there before the workitem.
"""
PRUNED_EVERY = timedelta(hours=1)


class WorkitemService:
    """What is done for workitems without being asked."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        events: Events,
        models: Callable[[], Mapping[str, str]],
        clock: Callable[[], datetime],
    ) -> None:
        """``models``: name → version of those that may run."""
        self._ledger = ledger
        self._models = models
        self._events = events
        self._clock = clock
        self._look_again: dict[str, tuple[datetime, timedelta]] = {}
        self._prune_at = clock()

    def stepper(self, archive: Archive) -> Callable[[], None]:
        """The periodic step of the intake's thread."""
        return lambda: self.step(archive)

    def step(self, archive: Archive) -> None:
        """Start what is scheduled for studies that are here, take back what performers let go, report, forget."""
        self._ledger.release_workitems(at=self._clock())
        self.start_scheduled(archive)
        self._events.tell_changes()
        if self._clock() >= self._prune_at:
            self._events.prune()
            self._prune_at = self._clock() + PRUNED_EVERY

    def start_scheduled(self, archive: Archive) -> None:
        """Have the studies settled again that workitems schedule a model for, and that are here and settled already."""
        now = self._clock()
        known = self._models()
        waiting = [each for each in self._ledger.workitems_to_start(limit=STARTED_AT_A_TIME) if each.model in known]
        uids = {workitem.uid for workitem in waiting}
        self._look_again = {uid: when for uid, when in self._look_again.items() if uid in uids}
        for workitem in waiting:
            at, pause = self._look_again.get(workitem.uid, (now, SOONEST))
            if now < at:
                continue
            self._look_again[workitem.uid] = (now + pause, min(2 * pause, LATEST))
            studies = archive.studies_with(workitem.study_instance_uid or "")
            if len(studies) == 1:
                self._ledger.settle_for_workitem(studies[0], at=now)
            elif studies:
                logger().warning(
                    "two patients' studies carry the UID that a workitem names: it is not started", uid=workitem.uid
                )


def start_ups(
    gate: Gate,
    ledger: Ledger,
    *,
    settings: Settings,
    connect: Callable[[], Archive],
    models: Callable[[], Mapping[str, str]],
    aet: str,
    stop: threading.Event,
) -> WorkitemService:
    """Open the file of the workitems and register the routes, unless the settings say otherwise."""
    store = WorkitemStore(settings.data_folder / STORE)
    events = Events(ledger=ledger, store=store, clock=_utc_now, waiters=settings.ups.waiters, stop=stop)
    if settings.ups.enabled:
        worklist = Worklist(
            ledger=ledger,
            store=store,
            events=events,
            archive=cache(connect),
            models=models,
            settings=settings.ups,
            aet=aet,
            clock=_utc_now,
        )
        register_workitems(gate, worklist, events)
    return WorkitemService(ledger=ledger, events=events, models=models, clock=_utc_now)


def _utc_now() -> datetime:
    return datetime.now(UTC)

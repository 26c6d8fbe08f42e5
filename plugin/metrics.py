"""Looks at the ledger and the broker every few seconds, and answers metrics and health with what it saw.

A thread of its own asks, and requests are answered from memory: so a database that hangs holds up none of Orthanc's
HTTP threads, and who asks often costs nothing.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import ProcessCollector

from coread import __version__
from coread.access import Role
from coread.errors import TransientError
from coread.ledger import Ledger
from coread.ledger.watching import IN_QUEUE, Standings
from coread.logs import logger
from coread.metrics.exposition import CONTENT_TYPE, Disk, Scene, expose, workers_of
from coread.metrics.tally import Tally
from coread.plugin.disk import BYTES_PER_GB, DiskWatch
from coread.plugin.explained import TEXT, explained, says
from coread.plugin.gate import Gate
from coread.plugin.headers import data_headers
from coread.plugin.health import Health, Rounds, found_by
from coread.process_report import ProcessSeen

LOOK_EVERY_S, LOOK_AT_LEAST_EVERY_S = 5.0, 30.0
COST_AT_MOST = 0.05
"""The share of the time that looking may take: where the ledger holds a million jobs, it is looked at less often."""
LET_IN_S = 0.05
"""The pause between two steps while an old ledger is counted, in which others get the interpreter."""
BROKER_EVERY_S = 15.0
STALE_S = 90.0
"""What was seen longer ago is not told as if it were so now: the ledger hangs."""
IDLE_AFTER = timedelta(seconds=60)
"""Workers need some time to start. Jobs that have waited for longer where no worker takes them are a problem."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What was seen of the ledger at one moment."""

    standings: Standings | None = None
    processes: tuple[ProcessSeen, ...] = ()
    query_s: float = 0.0
    at_s: float = field(default_factory=time.monotonic)

    @property
    def is_fresh(self) -> bool:
        return self.standings is not None and time.monotonic() - self.at_s < STALE_S


class Monitor:
    """What is known of how Coread goes, refreshed by ``run`` in a thread of its own."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        data_folder: Path,
        disk: DiskWatch,
        min_free_gb: float,
        destinations: tuple[str, ...],
        sends_audit: bool,
        models: Callable[[], Mapping[str, str]],
        rounds: Rounds,
        is_alive: Callable[[], bool],
        settings_problem: Callable[[], str | None],
        try_broker: Callable[[], None],
        orthanc_version: Callable[[], str],
    ) -> None:
        """``try_broker`` raises TransientError if the broker takes no connection. ``models``: name → version."""
        self._ledger, self._clock = ledger, clock
        self._tally = Tally(ledger)
        self._data_folder, self._disk, self._min_free_gb = data_folder, disk, min_free_gb
        self._destinations, self._sends_audit, self._models = destinations, sends_audit, models
        self._rounds, self._is_alive, self._settings_problem = rounds, is_alive, settings_problem
        self._try_broker, self._ask_version = try_broker, orthanc_version
        self._orthanc = ""
        self._started_at = clock()
        self._sight = Sight()
        self._is_broker_up: bool | None = None
        self._broker_tried_s = -BROKER_EVERY_S
        self._told: set[tuple[str, type[Exception]]] = set()
        """What was logged of each step, and has not gone well since."""
        self._lock = threading.Lock()
        self._process = ProcessCollector(registry=None)

    # Looking -----------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Look again and again until told to stop."""
        while not stop.is_set():
            self.step()
            stop.wait(self._pause_s)

    @property
    def _pause_s(self) -> float:
        if not self._sight.is_fresh:
            return LOOK_EVERY_S
        if self._tally.is_behind:
            return LET_IN_S
        return min(LOOK_AT_LEAST_EVERY_S, max(LOOK_EVERY_S, self._sight.query_s / COST_AT_MOST))

    def step(self) -> None:
        """Look once: at each thing on its own, whatever is the matter with another."""
        for look in (self._see_ledger, self._see_broker, self._see_orthanc):
            try:
                look()
            except Exception as error:  # noqa: BLE001  # without the thread nobody would be told of anything any more
                self._tell_once(look.__name__, error)
            else:
                self._told = {(where, kind) for where, kind in self._told if where != look.__name__}

    def _tell_once(self, where: str, error: Exception) -> None:
        """Log what was met, but not every few seconds: only what was not met since it last went well there."""
        met = (where, type(error))
        if met not in self._told:
            self._told.add(met)
            logger().error("not all that is watched was seen", step=where.strip("_"), exc_info=error)

    def _see_ledger(self) -> None:
        began = time.monotonic()
        try:
            standings, processes = self._ledger.standings(), tuple(self._ledger.processes(at=self._clock()))
            self._sight = Sight(standings=standings, processes=processes, query_s=time.monotonic() - began)
            self._tally.step(at=self._clock())
        except TransientError:
            self._sight = Sight()

    def _see_broker(self) -> None:
        if time.monotonic() - self._broker_tried_s < BROKER_EVERY_S:
            return
        is_up: bool | None = None  # not known, if something else is met
        try:
            self._try_broker()
            is_up = True
        except TransientError:
            is_up = False
        finally:
            self._is_broker_up, self._broker_tried_s = is_up, time.monotonic()

    def _see_orthanc(self) -> None:
        if self._orthanc:
            return
        with suppress(TransientError):
            self._orthanc = self._ask_version()

    # Telling -----------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """How the plugin is."""
        sight = self._sight
        return found_by(
            self._rounds,
            is_alive=self._is_alive(),
            is_ledger_up=sight.is_fresh,
            is_broker_up=self._is_broker_up is not False,
            is_disk_short=self._disk.is_short,
            idle_queues=_idle_queues(sight, at=self._clock()),
            settings_problem=self._settings_problem(),
        )

    def text(self) -> bytes:
        """All metrics."""
        sight, health = self._sight, self.health()
        room = shutil.disk_usage(self._data_folder)
        scene = Scene(
            at=self._clock(),
            started_at=self._started_at,
            version=__version__,
            orthanc=self._orthanc,
            models=self._models(),
            destinations=self._destinations,
            totals=self._tally.totals,
            is_behind=self._tally.is_behind,
            standings=sight.standings if sight.is_fresh else None,
            query_s=sight.query_s,
            processes=sight.processes,
            is_broker_up=self._is_broker_up,
            is_intake_up=health.is_live and self._rounds.has_begun,
            is_ready=health.is_ready,
            are_settings_in_force=self._settings_problem() is None,
            disk=Disk(free=room.free, size=room.total, needed=int(self._min_free_gb * BYTES_PER_GB)),
            stores_refused=self._disk.refused,
            sends_audit=self._sends_audit,
        )
        with self._lock:  # what looks at the process is not made for several threads
            return expose(scene, self._process)

    def register(self, gate: Gate) -> None:
        """Register GET /coread/metrics."""

        @explained(answers={200: says("numbers, none of which is of a patient", TEXT, kind=CONTENT_TYPE)})
        def metrics(output: Any, _url: str, **_request: Any) -> None:
            """Metrics in Prometheus' text form."""
            for name, value in data_headers().items():
                output.SetHttpHeader(name, value)
            output.AnswerBuffer(self.text(), CONTENT_TYPE)

        gate.route("/coread/metrics", GET=(Role.MONITOR, metrics))


def _idle_queues(sight: Sight, *, at: datetime) -> tuple[str, ...]:
    """The queues where jobs wait, and that no worker alive takes from."""
    if sight.standings is None:
        return ()
    waiting = {
        queue
        for (queue, _priority), since in sight.standings.waiting_since.items()
        if at - since > IDLE_AFTER and not workers_of(queue, sight.processes)
    }
    stand = {each.queue for each in sight.standings.jobs if each.state in IN_QUEUE}
    return tuple(sorted(waiting & stand))

"""``coread archivist``: looks after the runs of the ledger, each with its lanes and its winding up."""

import fcntl
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO

import structlog

from coread.archive import Archive
from coread.archive_run import Run, RunState
from coread.archive_table import RunStore
from coread.archivist.collect import Collector
from coread.archivist.lane import POLL_S, STOPPED, Lane, fail
from coread.archivist.removal import clear_away, unwatch
from coread.archivist.state import Attended
from coread.archivist.throttle import held_by
from coread.archivist.windup import WindUp
from coread.copies import bringer_of
from coread.courier.run import leave, open_deliveries_ledger
from coread.errors import ConfigurationError, LedgerUnavailable, TransientError
from coread.ledger import Ledger
from coread.logs import logger
from coread.models.catalogue import find_model, installed_models
from coread.process_report import ProcessKind
from coread.pseudonyms import Pseudonyms
from coread.pulse import Pulse
from coread.retrieval import open_source
from coread.settings import Settings
from coread.settings_sources import find_source

ATTEND_S = 2.0
"""How often runs are looked for, and the leases prolonged."""
IDLE_S = 10.0
"""The same while there is no run: a sign of life."""
LEASE = timedelta(seconds=30)
STOP_TIMEOUT_S = 10.0
STUCK_S = 30.0
"""How often studies are looked for that nobody sees to."""
BYTES_PER_GB = 1e9
DEATHS = 3
"""A study that so many times as many archivists have died of as it is tried otherwise has failed."""
AFTER_A_DEATH = timedelta(seconds=5)
"""What an archivist was retrieving when it died is retrieved again after this: the source may still be sending it."""
NICENESS = 5
"""Above that of whoever starts an archivist: clinical work goes first at the processor, too. Not more, since an
archivist that waits for the processor in a transaction has others wait for the ledger."""


def run_archivist(settings: Settings) -> None:
    """Carry runs out until SIGTERM or SIGINT, in a process of its own: it is made nicer."""
    os.nice(NICENESS)
    ledger = open_deliveries_ledger(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _received, _frame: stop.set())
    with _alone(settings.data_folder, stop=stop) as name:
        if stop.is_set():
            return
        archivist = Archivist(settings, ledger, name=name, stop=stop)
        process = f"{socket.gethostname()[:32]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        with Pulse(ledger, name=process, kind=ProcessKind.ARCHIVIST):
            logger().info("archivist ready", archivist=name)
            archivist.run()
        if archivist.held:
            logger().warning("a source does not let go; its study is taken up at the next start")
            leave()


@contextmanager
def _alone(data_folder: Path, *, stop: threading.Event) -> Iterator[str]:
    """The name of this data folder's archivist. Whoever holds it may take over what one before it, which died, held.

    While there is another, it is waited for: one that was told to end may take some seconds.
    """
    data_folder.mkdir(parents=True, exist_ok=True)
    with (data_folder / "archivist.lock").open("w") as lock:
        is_told = False
        while not _is_locked(lock):
            if not is_told:
                logger().warning("another archivist runs here; this one waits for its end", folder=str(data_folder))
                is_told = True
            if stop.wait(ATTEND_S):
                break
        yield f"{socket.gethostname()}:{data_folder.absolute()}"[:200]


def _is_locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Archivist:
    """Attends runs. ``run`` is the process's main thread."""

    def __init__(self, settings: Settings, ledger: Ledger, *, name: str, stop: threading.Event) -> None:
        self._settings, self._ledger, self._name, self._stop = settings, ledger, name, stop
        self._conductors: dict[str, Conductor] = {}
        self._attended_at = float("-inf")

    @property
    def held(self) -> bool:
        """Whether threads still run after the end."""
        return any(conductor.is_alive for conductor in self._conductors.values())

    def run(self) -> None:
        """Attend runs until told to stop."""
        while not self._stop.is_set():
            try:
                self.step()
            except (LedgerUnavailable, ConfigurationError) as error:  # the latter: an upgrade has left it behind
                logger().warning("runs not looked after", reason=str(error))
            self._stop.wait(ATTEND_S)
        for conductor in self._conductors.values():
            conductor.end()
        deadline = datetime.now(UTC) + timedelta(seconds=STOP_TIMEOUT_S)
        for conductor in self._conductors.values():
            conductor.join((deadline - datetime.now(UTC)).total_seconds())
        if not self.held:
            try:
                self._ledger.leave_runs(archivist=self._name)
            except LedgerUnavailable as error:
                logger().warning("runs not left", reason=str(error))

    def step(self) -> None:
        """Attend the runs that nobody else attends, and let go of those that are over. Raises LedgerUnavailable."""
        runs = {run.run_id: run for run in self._ledger.attend_runs(archivist=self._name, at=_now(), lease=LEASE)}
        for run_id in self._conductors.keys() - runs.keys():
            self._conductors.pop(run_id).end()
        for run_id, run in runs.items():
            conductor = self._conductors.get(run_id)
            if conductor is None:
                conductor = self._conductors[run_id] = Conductor(
                    run, settings=self._settings, ledger=self._ledger, archivist=self._name
                )
                conductor.start()
            conductor.tell(run)


class Conductor:
    """One run: a thread that winds studies up, and lanes that retrieve them."""

    def __init__(self, run: Run, *, settings: Settings, ledger: Ledger, archivist: str) -> None:
        self._attended = Attended(run)
        self._settings, self._ledger, self._archivist = settings, ledger, archivist
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lanes: list[Lane] = []
        self._said = run.waits_for
        self._is_checked = False
        """Whether the run's models and source are there, since it last ran."""
        self._stuck_at = _now()

    @property
    def is_alive(self) -> bool:
        """Whether a thread of it still runs."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin."""
        self._thread(self._run, "wind-up")

    def tell(self, run: Run) -> None:
        """Hear how the run stands now."""
        self._attended.run = run

    def end(self) -> None:
        """Break off."""
        self._stop.set()
        for lane in self._lanes:
            lane.abort()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _thread(self, work: Callable[[], None], name: str) -> None:
        # Daemon threads: one that a source holds must not keep the process from ending.
        run_id = self._attended.run.run_id
        thread = threading.Thread(target=work, name=f"coread-{name}-{run_id}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        with structlog.contextvars.bound_contextvars(run_id=self._attended.run.run_id):
            while not self._stop.is_set():
                self._guarded(self._conduct)
                self._stop.wait(ATTEND_S)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ConfigurationError as error:
            self._pause(str(error))
        except (TransientError, OSError) as error:
            reason = _words(error, self._attended.run)
            logger().warning("run waits", reason=reason)
            self._attended.troubled_by = reason
            self._say()
        except Exception as error:  # noqa: BLE001  # the thread must outlive every surprise: the run goes on
            logger().exception("run step failed")
            self._attended.troubled_by = f"unexpected {type(error).__name__}; the archivist's log says where"
            self._say()
        else:
            self._attended.troubled_by = ""

    def _pause(self, reason: str) -> None:
        self._is_checked = False
        try:
            run_id = self._attended.run.run_id
            if self._ledger.pause_run(run_id, by=self._archivist, reason=reason, at=_now()):
                logger().error("run paused", reason=reason)
        except LedgerUnavailable as error:
            logger().warning("run not paused yet", reason=str(error))

    def _conduct(self) -> None:
        """Open what the run needs, and wind up until told to stop."""
        run, settings = self._attended.run, self._settings
        with ExitStack() as opened:
            store = opened.enter_context(RunStore(Path(run.terms.folder)))
            store.describe(run.as_json())
            pseudonyms = pseudonyms_of(run, store)
            archive = opened.enter_context(self._connect())
            wind_up = WindUp(
                self._attended,
                ledger=self._ledger,
                archive=archive,
                collector=Collector(archive=archive, store=store, terms=run.terms, pseudonyms=pseudonyms),
                bringer=bringer_of(settings, run.terms.source),
                clock=_now,
            )
            self._take_over(store, pseudonyms, archive)
            while not self._stop.is_set():
                self._guarded(partial(self._step, wind_up, store, pseudonyms))
                self._stop.wait(ATTEND_S if self._attended.troubled_by else POLL_S)
            for thread in self._threads:  # they write to the folder, too
                if thread is not threading.current_thread():
                    thread.join(STOP_TIMEOUT_S)
            ended = self._ledger.run(run.run_id)
            if ended is not None:
                store.describe(ended.as_json())

    def _step(self, wind_up: WindUp, store: RunStore, pseudonyms: Pseudonyms | None) -> None:
        while not self._stop.is_set():
            run = self._attended.run
            if run.state is RunState.RUNNING:
                self._look_at_terms(run)
                self._add_lanes(run, store, pseudonyms)
            else:
                self._is_checked = False
            self._say()
            if _now() >= self._stuck_at:
                self._is_checked = False  # a model may be gone since
                wind_up.see_to_stuck()
                self._stuck_at = _now() + timedelta(seconds=STUCK_S)
            if not wind_up.step():
                return

    def _look_at_terms(self, run: Run) -> None:
        """Raises ConfigurationError if the run cannot go on before a person has changed something."""
        if not self._is_checked:
            find_source(run.terms.source, self._settings.source)
            models = installed_models(self._settings)
            for name in run.terms.models:
                find_model(name, models)
            self._is_checked = True
        self._attended.held_by = held_by(
            run.terms,
            local=datetime.now().astimezone(),
            free_gb=shutil.disk_usage(self._settings.data_folder).free / BYTES_PER_GB,
            min_free_gb=self._settings.intake.min_free_gb,
        )

    def _add_lanes(self, run: Run, store: RunStore, pseudonyms: Pseudonyms | None) -> None:
        while len(self._lanes) < run.terms.associations:
            source = find_source(run.terms.source, self._settings.source)
            lane = Lane(
                self._attended,
                ledger=self._ledger,
                connect=self._connect,
                open_source=partial(open_source, source, self._settings),
                bringer=bringer_of(self._settings, run.terms.source),
                store=store,
                pseudonyms=pseudonyms,
                settings=self._settings.archivist,
                archivist=self._archivist,
                stop=self._stop,
            )
            self._lanes.append(lane)
            self._thread(lane.run, "lane")

    def _connect(self) -> Archive:
        return Archive(self._settings.orthanc_url, auth=self._settings.orthanc_login)

    def _say(self) -> None:
        """Have the ledger say why nothing is begun just now."""
        run, waits_for = self._attended.run, self._attended.waits_for
        if waits_for != self._said or (waits_for and waits_for != run.waits_for):
            try:
                self._ledger.note_waits(run.run_id, waits_for=waits_for)
                self._said = waits_for
            except LedgerUnavailable as error:
                logger().warning("what the run waits for is not told yet", reason=str(error))

    def _take_over(self, store: RunStore, pseudonyms: Pseudonyms | None, archive: Archive) -> None:
        """Put back what an archivist was retrieving that died. It counts: it may have died of it."""
        if self._lanes:
            return
        bringer = bringer_of(self._settings, self._attended.run.terms.source)
        for study in self._ledger.orphans(self._attended.run.run_id):
            if study.attempts >= DEATHS * self._settings.archivist.attempts:
                reason = f"the archivist ended {study.attempts} times while it was retrieved; see the archivist's log"
                copy = clear_away(study, study.copy, ledger=self._ledger, archive=archive, bringer=bringer, at=_now())
                fail(
                    study,
                    reason,
                    is_permanent=False,
                    copy=copy,
                    ledger=self._ledger,
                    store=store,
                    pseudonyms=pseudonyms,
                    at=_now(),
                )
                unwatch(study, archive)
                continue
            not_before = _now() + AFTER_A_DEATH
            self._ledger.put_off_study(
                study, reason=STOPPED, not_before=not_before, counts=True, copy=study.copy, at=_now()
            )
            logger().warning("study is retrieved again", study_instance_uid=study.study_instance_uid)


def pseudonyms_of(run: Run, store: RunStore) -> Pseudonyms | None:
    """The pseudonyms under which what a run finds is written. Raises ConfigurationError if their key file is gone: with
    a new one, the rest of the run would not match what there is, and nobody would know.
    """
    if run.terms.key_file is None:
        return None
    key_file = Path(run.terms.key_file)
    if not key_file.exists() and next(store.rows(), None) is not None:
        raise ConfigurationError(
            f"expected the key file {key_file} by which the rows so far are pseudonymised, found none; put it back "
            "with its table, and resume the run"
        )
    return Pseudonyms(key_file)


def _words(error: Exception, run: Run) -> str:
    if isinstance(error, OSError):
        return f"the folder {run.terms.folder} cannot be written: {error.strerror}; see to it, the run goes on then"
    return str(error)


def _now() -> datetime:
    return datetime.now(UTC)

"""The plugin's life inside Orthanc: its parts put together, the REST routes, and the start and stop of its threads.

Calls back into Orthanc go over HTTP, never through ``orthanc.RestApi*``, which holds the interpreter lock while it
waits. Of the hooks that run inside a C-STORE one is used, which looks at a flag (`coread.plugin.disk`).

Orthanc calls that hook with a lock in its hand, and waits for the interpreter lock; some services of its module take
the same lock, and hold the interpreter lock while they wait. Asked for while an image arrives, such a service stops
Orthanc for good. All are used before Orthanc takes images: those that register something, and the one that makes a
token.
"""

import json
import platform
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from coread.archive import IDENTITY_PROPERTY, Archive, withdraw
from coread.audit.message import AuditSource
from coread.audit.sender import AuditSender
from coread.audit.syslog import send
from coread.broker import bell, make_app, try_broker
from coread.copies import bringer_of
from coread.errors import ConfigurationError, SourceGone, TransientError
from coread.ledger import Ledger
from coread.logs import configure_logs, logger
from coread.plugin.alerting import Judge, channels_of
from coread.plugin.archive_runs import register_archive_runs
from coread.plugin.connections import Associations, read_accepted, read_connections
from coread.plugin.deliveries import register_deliveries
from coread.plugin.denials import Denials
from coread.plugin.desk import register_desk
from coread.plugin.disk import DiskWatch
from coread.plugin.evidence import EvidenceGatherer
from coread.plugin.facts import dictionary_of
from coread.plugin.gate import Gate
from coread.plugin.health import Rounds, register_health
from coread.plugin.holding import Held
from coread.plugin.intake import Intake
from coread.plugin.metrics import Monitor
from coread.plugin.ohif import register_ohif
from coread.plugin.openapi import register_openapi
from coread.plugin.orders import Orders, find_entries
from coread.plugin.pictures import register_pictures
from coread.plugin.planning import Planner
from coread.plugin.raised import register_raised
from coread.plugin.rest import register_routes
from coread.plugin.reviews import register_reviews, words_that_name
from coread.plugin.route_table import RouteTable
from coread.plugin.stated import StatedCounts, find_counts
from coread.plugin.ups.service import start_ups
from coread.plugin.watch_file import WatchFile
from coread.plugin.watermark import watermark_in
from coread.plugin.worklist.start import StudyList
from coread.settings import Settings, settings_file

BACK_OFF_S = 2.0
"""The wait after a step that failed because a neighbour was away."""
STOP_TIMEOUT_S = 10.0
SWITCH_S = 0.0002
"""How soon a thread lets another one in. The hook of each C-STORE waits for that, and Python's own 5 ms is more than a
C-STORE takes.
"""


def start(orthanc: Any) -> None:
    """Read the settings and register with Orthanc. A mistake in them raises, and Orthanc then stops with the reason."""
    configure_logs()
    sys.setswitchinterval(SWITCH_S)
    Service(orthanc, RouteTable(settings_file(), dictionary=dictionary_of(orthanc))).register()


class Service:
    """The plugin's parts, what Orthanc calls of them, and the threads that they run in.

    Orthanc starts when all is registered, and answers HTTP only then. So what asks it waits for its word.
    """

    def __init__(self, orthanc: Any, table: RouteTable) -> None:
        """Raises ConfigurationError if Orthanc's configuration and the settings do not go together."""
        self._orthanc = orthanc
        self._table = table
        self._settings = settings = table.settings
        self._configuration: Mapping[str, Any] = json.loads(orthanc.GetConfiguration())
        self._aet = str(self._configuration.get("DicomAet", "ORTHANC"))
        self._stop = threading.Event()
        self._ledger = ledger = Ledger(settings.ledger_url)
        self._disk = DiskWatch(settings.data_folder, min_free_gb=settings.intake.min_free_gb)
        self._held = Held(file=WatchFile(settings.data_folder / "watched.json", clock=_utc_now))
        self._denials = Denials(ledger, clock=_utc_now)
        self._token = str(orthanc.GenerateRestApiAuthorizationToken())
        """A value of the Authorization header by which the plugin may ask Orthanc anything; the only one (above)."""
        self._gate = _gate(orthanc, settings, self._configuration, token=self._token, denials=self._denials)
        self._channels = channels_of(settings, ledger=ledger, clock=_utc_now, connect=self._connect)
        self._study_list = StudyList(settings, ledger, connect=self._connect)
        # A daemon thread, because Orthanc would wait for any other one without limit.
        self._intake = threading.Thread(target=self._run, name="coread-intake", daemon=True)
        self._rounds = Rounds()
        self._monitor = self._watching()
        self._auditing = _audit_thread(settings, ledger, aet=self._aet, stop=self._stop)

    @property
    def gate(self) -> Gate:
        """Where the routes are registered."""
        return self._gate

    def register(self) -> None:
        """Have Orthanc tell of its life, ask about images and requests, and pass on those that are ours."""
        self._orthanc.RegisterOnChangeCallback(self._on_change)
        self._disk.register(self._orthanc, refuses=self._held.refuses)
        self._gate.guard_everything()
        self._register_routes()

    def _register_routes(self) -> None:
        gate, ledger, settings = self._gate, self._ledger, self._settings
        register_routes(gate, ledger)
        register_health(gate, health=self._monitor.health, settings_problem=lambda: self._table.problem)
        self._monitor.register(gate)
        register_desk(gate, ledger)
        register_deliveries(gate, ledger)
        register_raised(gate, ledger)
        register_archive_runs(gate, ledger, settings=settings)
        self._held.register(gate)
        self._study_list.register(gate)
        register_pictures(gate, ledger, connect=self._connect)
        register_ohif(gate, settings.viewer_home)
        register_openapi(gate)
        self._workitems = start_ups(
            gate,
            ledger,
            settings=settings,
            connect=self._connect,
            models=lambda: self._table.in_force.model_versions,
            aet=self._aet,
            stop=self._stop,
        )
        register_reviews(
            gate,
            ledger,
            patient_words=partial(_patient_words, self._connect),
            stops_delivery=settings.review.stop_delivery_on_reject,
        )

    # Orthanc's life ----------------------------------------------------------------------------------------------

    def _on_change(self, change: int, level: int, resource: str) -> None:
        self._study_list.note_change(self._orthanc, change, level, resource)
        if change == self._orthanc.ChangeType.ORTHANC_STARTED:
            self._intake.start()
            if self._auditing is not None:
                self._auditing.start()
        elif change == self._orthanc.ChangeType.ORTHANC_STOPPED:
            self._end()

    def _end(self) -> None:
        self._stop.set()
        self._intake.join(STOP_TIMEOUT_S)
        try:
            self._ledger.note_stopped(at=_utc_now())
        except TransientError as error:
            logger().warning("that Coread stops is not in the audit trail", reason=str(error))

    # The intake's thread -----------------------------------------------------------------------------------------

    def _connect(self) -> Archive:
        """A client of this Orthanc, let in by the plugin's own token."""
        return Archive(f"http://127.0.0.1:{self._configuration.get('HttpPort', 8042)}", token=self._token)

    def _run(self) -> None:
        """The thread's work: start the others, and then take one step after the other."""
        stop = self._stop
        with self._connect() as archive, self._connect() as pacs_asker, self._connect() as orders_asker:
            stated = StatedCounts(find=partial(find_counts, pacs_asker), pacs=self._settings.pacs, clock=_utc_now)
            orders = Orders(find=partial(find_entries, orders_asker), worklists=self._settings.worklist, clock=_utc_now)
            _start_thread("coread-pacs", stated.serve, stop)
            _start_thread("coread-orders", orders.serve, stop)
            steps = _prepared(lambda: self._steps(archive, stated, orders), stop=stop, rounds=self._rounds)
            _start_thread("coread-monitor", self._monitor.run, stop)
            for channel in self._channels:
                _start_thread(f"coread-{channel.name}", channel.run, stop)
            self._study_list.start(_identity_of_database(self._orthanc), stop=stop)
            _repeat(steps, stop=stop, pause_s=self._settings.intake.poll_s, rounds=self._rounds)

    def _steps(self, archive: Archive, stated: StatedCounts, orders: Orders) -> list[Callable[[], None]]:
        """What is done in turn. Raises LedgerUnavailable; Orthanc takes images meanwhile all the same."""
        ledger = self._ledger
        self._begin()
        intake = self._intake_of(archive, stated, orders)
        judge = Judge(ledger=ledger, alerts=self._settings.alert, clock=_utc_now, channels=self._channels)
        sweeper = Sweeper(archive=archive, ledger=ledger, clock=_utc_now)
        return [
            self._disk.step,
            self._table.refresh,
            intake.take_in_studies,
            intake.publish_due_jobs,
            sweeper.step,
            self._denials.step,
            judge.step,
            self._workitems.stepper(archive),
        ]

    def _watching(self) -> Monitor:
        settings = self._settings

        def orthanc_version() -> str:
            with self._connect() as archive:
                return archive.version()

        return Monitor(
            self._ledger,
            clock=_utc_now,
            data_folder=settings.data_folder,
            disk=self._disk,
            min_free_gb=settings.intake.min_free_gb,
            destinations=tuple(destination.name for destination in settings.destination),
            sends_audit=settings.audit.address is not None,
            models=lambda: self._table.in_force.model_versions,
            rounds=self._rounds,
            is_alive=self._intake.is_alive,
            settings_problem=lambda: self._table.problem,
            try_broker=lambda: try_broker(make_app(settings)),
            orthanc_version=orthanc_version,
        )

    def _begin(self) -> None:
        """Bring the ledger's tables up to date, and tell it what may run from now on."""
        models = self._table.in_force.model_versions
        self._ledger.migrate()
        self._ledger.note_started(models=models, at=_utc_now())
        self._ledger.replan(models, at=_utc_now())

    def _intake_of(self, archive: Archive, stated: StatedCounts, orders: Orders) -> Intake:
        ledger, settings = self._ledger, self._settings
        dicom_port = int(self._configuration.get("DicomPort", 4242))
        associations = Associations(read=partial(read_connections, dicom_port), accepted=read_accepted)
        identity = _identity_of_database(self._orthanc)
        return Intake(
            archive=archive,
            archive_identity=identity,
            ledger=ledger,
            evidence=EvidenceGatherer(
                archive=archive, associations=associations, stated=stated, watching_since=_utc_now()
            ),
            watermark=watermark_in(self._orthanc, ledger, identity),
            planner=Planner(
                archive=archive,
                settings=settings,
                routes=lambda: self._table.in_force,
                scheduled=ledger.scheduled_models,
            ),
            settings=settings,
            ring=bell(make_app(settings)),
            clock=_utc_now,
            orders=orders,
            bringers=partial(bringer_of, settings),
        )


def _start_thread(name: str, work: Callable[[threading.Event], None], stop: threading.Event) -> None:
    """A daemon thread, so that one that hangs holds up nobody, Orthanc's end neither."""
    threading.Thread(target=work, args=(stop,), name=name, daemon=True).start()


def _gate(orthanc: Any, settings: Settings, configuration: Mapping[str, Any], *, token: str, denials: Denials) -> Gate:
    """Raises ConfigurationError if people are to be told apart, and Orthanc does not ask who they are."""
    asks_users = bool(configuration.get("AuthenticationEnabled", configuration.get("RemoteAccessAllowed", False)))
    if settings.access.uses_roles and not asks_users:
        raise ConfigurationError(
            "access tells people apart, and Orthanc asks nobody who they are; expected AuthenticationEnabled true and "
            "RegisteredUsers in Orthanc's configuration"
        )
    ours = {socket.gethostname(), urlsplit(settings.orthanc_url).hostname or ""} - {""}
    return Gate(
        orthanc,
        asks_users=asks_users,
        access=settings.access,
        hosts=ours,
        tokens={token},
        note_denial=denials.note,
    )


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _patient_words(connect: Callable[[], Archive], orthanc_id: str) -> frozenset[str]:
    """Words that would name a study's patient; none if it is gone."""
    try:
        with connect() as archive:
            return words_that_name(archive.patient_and_study(orthanc_id))
    except SourceGone:
        return frozenset()


def _audit_thread(settings: Settings, ledger: Ledger, *, aet: str, stop: threading.Event) -> threading.Thread | None:
    """The thread that sends audit messages, not started yet; None if none are to be sent."""
    address = settings.audit.address
    if address is None:
        return None
    credentials = settings.audit.credentials()
    sender = AuditSender(
        ledger=ledger,
        source=AuditSource(
            source_id=settings.audit.source or aet,
            site=settings.audit.site,
            aet=aet,
            host=platform.node(),
        ),
        send=lambda messages: send(messages, address, credentials=credentials),
    )
    return threading.Thread(target=sender.run, args=(stop,), name="coread-audit", daemon=True)


def _identity_of_database(orthanc: Any) -> str:
    """What tells this database of Orthanc's from any other: a name that we give it once, kept in it."""
    identity = str(orthanc.GetGlobalProperty(IDENTITY_PROPERTY, ""))
    if not identity:
        identity = uuid.uuid4().hex
        orthanc.SetGlobalProperty(IDENTITY_PROPERTY, identity)
    return identity


class Sweeper:
    """Takes away results from before a study changed, where no worker is left to do it.

    A worker does it when a job ends. But it may have died of the job, or Orthanc may not have answered it at the last
    attempt. It runs in the intake's thread, which alone lets a superseded job run again.
    """

    def __init__(self, *, archive: Archive, ledger: Ledger, clock: Callable[[], datetime]) -> None:
        self._archive = archive
        self._ledger = ledger
        self._clock = clock

    def step(self) -> None:
        """See to what the ledger tells of; what Orthanc does not answer for stays noted."""
        for job in self._ledger.outdated(at=self._clock()):
            try:
                withdraw(self._archive, job.orthanc_id, self._ledger.outdated_uids(job))
                self._ledger.no_longer_outdated(job.job_id, at=self._clock())
            except Exception as error:  # noqa: BLE001  # one study, whatever is the matter, must not hold up the others
                logger().warning("outdated results not withdrawn yet", job_id=job.job_id, exc_info=error)


def _prepared(
    prepare: Callable[[], list[Callable[[], None]]], *, stop: threading.Event, rounds: Rounds
) -> list[Callable[[], None]]:
    """What ``prepare`` gives, as soon as it can; nothing if it is time to stop before."""
    parts: list[Callable[[], None]] = []

    def try_it() -> None:
        parts.extend(prepare())

    while not parts and not stop.is_set():
        if failure := _failure_of(try_it):
            rounds.note((failure,))
            stop.wait(BACK_OFF_S)
    rounds.has_begun = bool(parts)
    return parts


def _repeat(parts: Sequence[Callable[[], None]], *, stop: threading.Event, pause_s: float, rounds: Rounds) -> None:
    """Each part on its own: what one of them meets must not keep the others from their work."""
    while not stop.is_set():
        failures = tuple(failure for failure in map(_failure_of, parts) if failure)
        rounds.note(failures)
        stop.wait(BACK_OFF_S if failures else pause_s)


def _failure_of(part: Callable[[], None]) -> str:
    """Do it, and say what it has met that kept it; nothing if all went well."""
    try:
        part()
    except (TransientError, ConfigurationError) as error:
        logger().warning("intake waits", reason=str(error))
        return str(error)
    except Exception as error:  # noqa: BLE001  # the thread must outlive every surprise: a dead intake loses studies
        logger().exception("intake step failed")
        return f"unexpected {type(error).__name__}; Orthanc's log says where"
    return ""

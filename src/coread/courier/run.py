"""``coread courier``: a thread for each destination, so that one that hangs holds up none of the others."""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime

from coread.archive import Archive
from coread.courier.commitments import Commitments
from coread.courier.dimse import open_dimse
from coread.courier.lane import BACK_OFF_S, Lane, OpenTransport
from coread.courier.stow import open_stow
from coread.courier.transport import Parcel, Transport
from coread.delivery import Delivery, DeliveryState
from coread.errors import ConfigurationError, LedgerUnavailable
from coread.ledger import Ledger
from coread.logs import logger
from coread.process_report import ProcessKind
from coread.pulse import Pulse
from coread.settings import Destination, DimseDestination, Settings

RECLAIM_S = 2.0
"""How often deliveries are looked for whose courier has died."""
STOP_TIMEOUT_S = 10.0
"""The object in hand is sent to its end; what takes longer is taken up at the next start."""


def open_deliveries_ledger(settings: Settings) -> Ledger:
    """The ledger's database. Raises ConfigurationError if the settings name Orthanc's plugin in its place."""
    if settings.ledger_url.startswith(("http:", "https:")):
        raise ConfigurationError(
            "deliveries need the ledger's database, found the URL of a plugin as ledger.url; run this on the machine "
            "that has the database, or where it can be reached"
        )
    ledger = Ledger(settings.ledger_url)
    ledger.check_version()
    return ledger


def run_courier(settings: Settings) -> None:
    """Deliver until SIGTERM or SIGINT. Raises ConfigurationError if there is nowhere to deliver to."""
    if not settings.destination:
        raise ConfigurationError("there are no destinations; describe one under [[destination]] in the settings")
    ledger = open_deliveries_ledger(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _received, _frame: stop.set())
    running = Courier(settings, ledger, stop=stop)
    name = f"{socket.gethostname()[:32]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    with running, Pulse(ledger, name=name, kind=ProcessKind.COURIER):
        _warn_of_unknown(settings, ledger)
        logger().info("courier ready", destinations=[each.name for each in settings.destination])
        while not stop.wait(RECLAIM_S):
            try:
                reclaimed = ledger.reclaim_deliveries(at=datetime.now(UTC))
            except LedgerUnavailable as error:
                logger().warning("deliveries not looked after", reason=str(error))
                stop.wait(BACK_OFF_S)
            else:
                if reclaimed:
                    logger().warning("deliveries taken up again", delivery_ids=reclaimed)
    if held := running.held:
        logger().warning("a destination does not let go; its delivery is taken up at the next start", destinations=held)
        leave()


def leave() -> None:
    """End this process at once: the DICOM library's threads would keep it until the destination answers."""
    logging.shutdown()
    os._exit(0)


class Courier(AbstractContextManager[None]):
    """A thread for each destination, running inside the block."""

    def __init__(self, settings: Settings, ledger: Ledger, *, stop: threading.Event) -> None:
        self._settings, self._ledger, self._stop = settings, ledger, stop
        delivery = settings.delivery
        self._commitments = Commitments(
            ledger,
            aet=delivery.aet,
            port=delivery.port,
            timeout_s=delivery.timeout_s,
            retry_delay_s=delivery.retry_delay_s,
        )
        self._threads: dict[str, threading.Thread] = {}
        self._open = ExitStack()

    @property
    def held(self) -> list[str]:
        """The destinations whose thread still runs."""
        return [name for name, thread in self._threads.items() if thread.is_alive()]

    def __enter__(self) -> None:
        self._open.enter_context(self._commitments)
        name = f"{socket.gethostname()}:{os.getpid()}"
        for destination in self._settings.destination:
            lane = Lane(
                destination.name,
                ledger=self._ledger,
                archive=self._open.enter_context(
                    Archive(self._settings.orthanc_url, auth=self._settings.orthanc_login)
                ),
                open_transport=transport_to(destination, self._settings, self._commitments),
                settings=self._settings.delivery,
                courier=name,
                stop=self._stop,
            )
            # Daemon threads: one that a destination holds must not keep the process from ending.
            thread = threading.Thread(target=lane.run, name=f"coread-lane-{destination.name}", daemon=True)
            self._threads[destination.name] = thread
            thread.start()

    def __exit__(self, *_exit: object) -> None:
        self._stop.set()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        self._open.close()


def transport_to(destination: Destination, settings: Settings, commitments: Commitments) -> OpenTransport:
    """How a destination is reached. Raises ConfigurationError if it speaks TLS, and our certificate cannot be used."""
    tls = settings.dicom_tls.client_context() if isinstance(destination, DimseDestination) and destination.tls else None

    def open_transport(delivery: Delivery, parcels: Sequence[Parcel]) -> AbstractContextManager[Transport]:
        if isinstance(destination, DimseDestination):
            return open_dimse(
                destination,
                settings.delivery,
                parcels=parcels,
                commitments=commitments,
                delivery_id=delivery.delivery_id,
                tls=tls,
            )
        return open_stow(destination, settings.delivery)

    return open_transport


def _warn_of_unknown(settings: Settings, ledger: Ledger) -> None:
    known = {destination.name for destination in settings.destination}
    waiting = ledger.deliveries(states=(DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.SENT))
    if unknown := {delivery.destination for delivery in waiting} - known:
        logger().warning("deliveries wait for destinations that the settings do not name", destinations=sorted(unknown))

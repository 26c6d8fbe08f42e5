"""One destination's deliveries, one after the other: claim, fetch, send, ask, write down.

Everything here may stop anywhere. What was begun is in the ledger before the first byte goes out, so that after a
death the destination is asked what it has before anything is sent again.
"""

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from coread.archive import Archive
from coread.courier.transport import Parcel, Reference, Transport, parcel_of
from coread.delivery import UNSURE, Delivery, DeliveryState, ObjectState
from coread.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    CoreadError,
    DeliveryRefused,
    DestinationBusy,
    DestinationSilent,
    DestinationUnavailable,
    LedgerUnavailable,
    SourceGone,
    TransientError,
)
from coread.lease import Lease
from coread.ledger import Ledger
from coread.logs import logger
from coread.settings import DeliverySettings
from coread.workers.retry import RetryPolicy

POLL_S = 0.5
"""How often the ledger is asked for deliveries that are due."""
BACK_OFF_S = 2.0
"""The wait after a step that failed because the ledger was away."""

LONGEST_SILENCE_S = 4 * 3600.0
"""A destination that never says whether it keeps what it took is asked at least this often, in seconds."""
NOT_SETTLED = UNSURE | {ObjectState.WAITING}
"""Objects for which there is something to do."""

OpenTransport = Callable[[Delivery, Sequence[Parcel]], AbstractContextManager[Transport]]
"""(delivery, the objects that may have to be sent) → an open way to the destination."""


class _TakenAwayError(Exception):
    """The delivery is no longer this courier's: it was withdrawn, or its lease has ended."""


class Lane:
    """The deliveries to one destination. The clock, the archive and the way to the destination are given to it."""

    def __init__(
        self,
        destination: str,
        *,
        ledger: Ledger,
        archive: Archive,
        open_transport: OpenTransport,
        settings: DeliverySettings,
        courier: str,
        stop: threading.Event,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._destination = destination
        self._ledger = ledger
        self._archive = archive
        self._open = open_transport
        self._settings = settings
        self._courier = courier
        self._stop = stop
        self._clock = clock
        self._retries = RetryPolicy(first_delay_s=settings.retry_delay_s)
        self._closed = 0

    def run(self) -> None:
        """Deliver until told to stop."""
        with structlog.contextvars.bound_contextvars(destination=self._destination):
            while not self._stop.is_set():
                try:
                    wait_s = self.step()
                except (TransientError, ConfigurationError) as error:  # the latter: an upgrade has left it behind
                    logger().warning("deliveries wait", reason=str(error))
                    wait_s = BACK_OFF_S
                except Exception:  # noqa: BLE001  # the thread must outlive every surprise: what it carries waits for it
                    logger().exception("delivery step failed")
                    wait_s = BACK_OFF_S
                self._stop.wait(wait_s)

    def step(self) -> float:
        """Carry the next delivery that is due, if there is one. The wait before the next step, in seconds.

        Raises LedgerUnavailable; the delivery in hand is then taken up when its lease has ended.
        """
        lease = timedelta(seconds=self._settings.lease_s)
        delivery = self._ledger.claim_delivery(self._destination, courier=self._courier, at=self._clock(), lease=lease)
        if delivery is None:
            return POLL_S
        with (
            structlog.contextvars.bound_contextvars(
                delivery_id=delivery.delivery_id,
                job_id=delivery.job_id,
                study_instance_uid=delivery.study_instance_uid,
            ),
            Lease(lambda: self._renew(delivery, lease), length=lease),
        ):
            return self._carry(delivery)

    def _renew(self, delivery: Delivery, lease: timedelta) -> None:
        self._ledger.renew_delivery(delivery.delivery_id, courier=self._courier, at=self._clock(), lease=lease)

    def _carry(self, delivery: Delivery) -> float:
        try:
            with ExitStack() as files:
                parcels = self._fetch(delivery, files)
                delivery = self._now(delivery)
                if delivery.uids(NOT_SETTLED):
                    with self._open(delivery, list(parcels.values())) as transport:
                        self._hand_over(delivery, transport, parcels)
        except _TakenAwayError:
            logger().info("delivery was withdrawn while it was being sent")
        except DeliveryRefused as error:  # none of the objects is wanted
            self._refuse(delivery, delivery.uids({ObjectState.WAITING, ObjectState.BEGUN}), reason=str(error))
            self._put_down(delivery)
        except (DestinationUnavailable, DestinationSilent, ArchiveUnavailable) as error:
            self._put_down(delivery, trouble=str(error))
            # Whatever else waits for it would fare no better.
            self._closed += 1
            return self._retries.delay_s(self._closed)
        except LedgerUnavailable:
            raise  # nothing can be written down; the delivery waits again when its lease has ended
        except TransientError as error:
            self._put_down(delivery, trouble=str(error))
        except Exception as error:  # noqa: BLE001  # whatever it was, the lane goes on with the next
            logger().exception("delivery broke")
            text = str(error) if isinstance(error, CoreadError) else f"unexpected {type(error).__name__}"
            self._put_down(delivery, trouble=f"{text}; the courier's log says where")
        else:
            self._put_down(delivery)
        self._closed = 0
        return 0.0

    def _hand_over(self, delivery: Delivery, transport: Transport, parcels: Mapping[str, Parcel]) -> None:
        if delivery.uids(UNSURE):
            delivery = self._ask(delivery, transport)
        if delivery.uids({ObjectState.BEGUN}):
            raise DestinationBusy("the destination has not said yet which objects it has; nothing is sent meanwhile")
        for uid in delivery.uids({ObjectState.WAITING}):
            if self._stop.is_set():
                return
            if uid in parcels:  # or else it was only asked for, and is gone from the archive
                self._send(delivery, transport, parcels[uid])
        now = self._now(delivery)
        if now.uids({ObjectState.SENT}) and now.uids({ObjectState.SENT}) != delivery.uids({ObjectState.SENT}):
            self._ask(now, transport)

    def _send(self, delivery: Delivery, transport: Transport, parcel: Parcel) -> None:
        uid = parcel.reference.sop_instance_uid
        if not self._ledger.begin_object(
            delivery.delivery_id, uid, sop_class_uid=parcel.reference.sop_class_uid, courier=self._courier
        ):
            raise _TakenAwayError
        try:
            state, reason = transport.send(parcel), ""
        except DeliveryRefused as error:
            state, reason = ObjectState.REFUSED, str(error)
        except DestinationSilent:
            raise  # it stays begun
        except TransientError:
            self._ledger.note_object(delivery.delivery_id, uid, ObjectState.WAITING)
            raise
        self._ledger.note_object(delivery.delivery_id, uid, state, reason=reason)
        logger().info("object handed over", sop_instance_uid=uid, state=state, reason=reason)

    def _ask(self, delivery: Delivery, transport: Transport) -> Delivery:
        """Ask for what may be there; what the ledger knows afterwards."""
        objects = {
            Reference(sop_class_uid=each.sop_class_uid, sop_instance_uid=each.sop_instance_uid): each.state
            for each in delivery.objects
            if each.state in UNSURE
        }
        for uid, state in transport.ask(objects).items():
            self._ledger.note_object(delivery.delivery_id, uid, state)
        return self._now(delivery)

    def _fetch(self, delivery: Delivery, files: ExitStack) -> dict[str, Parcel]:
        """The objects that may have to be sent, as files. One that is no longer there is given up; the others go.

        Where everything was sent and the destination is only to be asked, nothing is fetched. The files have no name in
        any folder, so that a courier that is killed leaves no patient's data behind; they go when ``files`` closes.
        """
        must = delivery.uids({ObjectState.WAITING})
        may = delivery.uids(UNSURE) if must or delivery.uids({ObjectState.BEGUN}) else []
        parcels = {}
        for uid in (*must, *may):
            content = self._file(uid)
            if content is None:
                if uid in must:
                    gone = f"the result {uid} is no longer in the archive; let the job run again"
                    self._refuse(delivery, [uid], reason=gone)
                continue
            file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack closes it
            file.write(content)
            file.flush()
            parcels[uid] = parcel_of(Path(f"/proc/self/fd/{file.fileno()}"))
        return parcels

    def _file(self, uid: str) -> bytes | None:
        orthanc_id = self._archive.find_instance(uid)
        if orthanc_id is None:
            return None
        try:
            return next(self._archive.files([orthanc_id]))
        except SourceGone:  # in between
            return None

    def _refuse(self, delivery: Delivery, uids: Sequence[str], *, reason: str) -> None:
        """Give objects up, each by way of being begun: an object never goes from waiting to its end at once."""
        for uid in uids:
            begins = self._ledger.begin_object(delivery.delivery_id, uid, courier=self._courier)
            if begins or uid in delivery.uids({ObjectState.BEGUN}):  # or else it is another courier's by now
                self._ledger.note_object(delivery.delivery_id, uid, ObjectState.REFUSED, reason=reason)

    def _now(self, delivery: Delivery) -> Delivery:
        found = self._ledger.delivery(delivery.delivery_id)
        if found is None or found.courier != self._courier:
            raise _TakenAwayError
        return found

    def _ask_again_s(self, attempts: int) -> float:
        """How long an answer may take; longer each time, for one that never comes."""
        first = self._settings.commitment_timeout_s
        return max(first, min(LONGEST_SILENCE_S, first * 2.0 ** min(30, max(0, attempts - 1))))

    def _put_down(self, delivery: Delivery, *, trouble: str = "") -> None:
        now = self._clock()
        state = self._ledger.put_down(
            delivery.delivery_id,
            courier=self._courier,
            trouble=trouble,
            at=now,
            retry_at=now + timedelta(seconds=self._retries.delay_s(delivery.attempts)),
            ask_at=now + timedelta(seconds=self._ask_again_s(delivery.attempts)),
        )
        _log_end(state, trouble)


def _log_end(state: DeliveryState | None, reason: str) -> None:
    if state is None:
        logger().info("delivery was withdrawn while it was being sent")
    else:
        logger().info("delivery put down", state=state, reason=reason)

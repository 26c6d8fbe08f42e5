"""Storage commitment: asking a destination whether it keeps objects, and hearing its answer (PS3.4 Annex J).

The answer, an N-EVENT-REPORT, comes when the destination likes: in the association in which it was asked, or in one
that it opens to our port, hours later. So it is written to the ledger by whoever hears it, and nobody depends on
having waited for it.
"""

import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from coread.courier.transport import Reference
from coread.errors import ConfigurationError, DestinationBusy, DestinationSilent, LedgerUnavailable
from coread.ledger import Ledger
from coread.logs import logger
from coread.workers.retry import RetryPolicy

SUCCESS, PROCESSING_FAILURE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0115
LISTEN_STEP_S = 0.1
"""How soon it is noticed that a destination has ended the association in which it might have answered."""
REQUEST = 1
"""Action Type ID of a storage commitment request (PS3.4 J.3.2)."""
NO_SUCH_INSTANCE = 0x0112
FINAL = frozenset({0x0119, 0x0122})
"""Failure Reasons (PS3.3 C.14.1.1) by which a destination refuses for good: class-instance conflict, SOP class not
supported. After others (processing failure, resource limitation, duplicate transaction) it is asked again."""


class Commitments:
    """Requests for storage commitment and their answers; as a context manager, it listens for them on our port."""

    def __init__(self, ledger: Ledger, *, aet: str, port: int, timeout_s: float, retry_delay_s: float) -> None:
        """``port`` 0: destinations answer in the association in which they were asked, or never."""
        self._ledger = ledger
        self._aet, self._port, self._timeout_s = aet, port, timeout_s
        self._retries = RetryPolicy(first_delay_s=retry_delay_s)
        self._heard: dict[str, threading.Event] = {}
        self._server: Any = None

    @property
    def is_listening(self) -> bool:
        """Whether a destination may answer after the association in which it was asked."""
        return self._port != 0

    @property
    def handlers(self) -> list[Any]:
        """What an association needs to hear answers."""
        return [(evt.EVT_N_EVENT_REPORT, self._hear)]

    def __enter__(self) -> Self:
        if self.is_listening:
            entity = AE(ae_title=self._aet)
            entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self._timeout_s
            # The destination opens the association, and is the SCP in it all the same (PS3.4 J.3.3, PS3.7 D.3.3.4).
            entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
            entity.add_supported_context(Verification)
            try:
                self._server = entity.start_server(("", self._port), block=False, evt_handlers=self.handlers)
            except OSError as error:
                raise ConfigurationError(
                    f"port {self._port} (delivery.port) cannot be listened on: {error.strerror}; choose another one"
                ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()

    def ask(
        self, association: Association, delivery_id: int, references: Collection[Reference], *, wait_s: float
    ) -> None:
        """Ask whether these objects are kept (N-ACTION, PS3.4 J.3.2), and give the answer ``wait_s`` to come, as
        long as the association lasts.

        Raises DestinationBusy if the destination does not take the request, DestinationSilent if it does not answer.
        """
        transaction_uid = str(generate_uid(prefix=None))
        request = Dataset()
        request.TransactionUID = transaction_uid
        request.ReferencedSOPSequence = [_item(reference) for reference in references]
        heard = self._heard[transaction_uid] = threading.Event()
        try:
            self._ledger.note_commitment_asked(delivery_id, transaction_uid, at=datetime.now(UTC))
            try:
                status, _ = association.send_n_action(
                    request, REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
                )
            except ValueError as error:
                raise DestinationBusy(
                    "expected the destination to offer storage commitment, found that it does not; have it switched on "
                    "there, or set storage_commitment = false for it"
                ) from error
            except RuntimeError as error:
                raise DestinationSilent("the association ended before storage commitment could be asked for") from error
            if "Status" not in status:
                raise DestinationSilent("the destination does not answer a request for storage commitment")
            if status.Status != SUCCESS:
                raise DestinationBusy(
                    f"expected status 0000H for a request for storage commitment, found {status.Status:04X}H"
                )
            deadline = time.monotonic() + wait_s
            while association.is_established and time.monotonic() < deadline and not heard.wait(LISTEN_STEP_S):
                pass
        finally:
            del self._heard[transaction_uid]

    def _hear(self, event: Any) -> tuple[int, None]:
        """An N-EVENT-REPORT (PS3.4 J.3.3): write it to the ledger, and say so."""
        now = datetime.now(UTC)
        try:
            report = event.event_information
            transaction_uid = str(report.TransactionUID)
            kept = {str(item.ReferencedSOPInstanceUID) for item in report.get("ReferencedSOPSequence", ())}
            failed = {
                str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
                for item in report.get("FailedSOPSequence", ())
            }
        except (AttributeError, TypeError, ValueError):
            logger().warning("a report of storage commitment cannot be read")
            return INVALID_ARGUMENT, None
        try:
            known = self._ledger.settle_commitment(
                transaction_uid,
                kept=kept,
                missing={uid for uid, reason in failed.items() if reason == NO_SUCH_INSTANCE},
                refused={
                    uid: f"the destination does not commit itself to {uid}: Failure Reason {reason:04X}H"
                    for uid, reason in failed.items()
                    if reason in FINAL
                },
                at=now,
                wait=lambda attempts: timedelta(seconds=self._retries.delay_s(attempts)),
            )
        except LedgerUnavailable as error:
            logger().warning("a report of storage commitment is not noted", reason=str(error))
            return PROCESSING_FAILURE, None
        if (waiting := self._heard.get(transaction_uid)) is not None:
            waiting.set()
        if not known:
            logger().warning("a report of storage commitment that nobody waits for", transaction_uid=transaction_uid)
        return SUCCESS, None


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item

"""Sends the audit trail's rows to syslog, each until it was taken, in their order.

It runs in a thread of its own inside the plugin: that process alone is always there, wherever workers are, and a syslog
server that hangs holds up nobody but this thread. Nothing is remembered between steps but what stands in the ledger.
A crash between sending and noting sends the rows of that step again, under the same sequence numbers.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from coread.audit.event import AuditEvent
from coread.audit.message import SUCCESS, AuditSource, bare_message_of, message_of, outcome_of
from coread.audit.syslog import NOTICE, WARNING, syslog_message
from coread.errors import CoreadError
from coread.logs import logger

AT_A_TIME = 50
"""Rows of one step, and so at most what a crash repeats."""
PAUSE_S = 1.0
"""The wait when there is nothing to send."""
LONGEST_WAIT_S = 60.0
"""The wait after a failure doubles up to this."""


class AuditRows(Protocol):
    """The part of the ledger that the sender needs."""

    def audit_to_send(self, *, limit: int) -> list[AuditEvent]: ...

    def note_audit_sent(self, audit_ids: Sequence[int]) -> None: ...


class AuditSender:
    """``send`` takes finished messages, and raises if they were not all taken."""

    def __init__(self, *, ledger: AuditRows, source: AuditSource, send: Callable[[Sequence[bytes]], None]) -> None:
        self._ledger = ledger
        self._source = source
        self._send = send

    def step(self) -> int:
        """Send the oldest rows; how many. Raises SyslogUnavailable, or LedgerUnavailable."""
        events = self._ledger.audit_to_send(limit=AT_A_TIME)
        if events:
            self._send([self._message(event) for event in events])
            self._ledger.note_audit_sent([event.audit_id for event in events])
        return len(events)

    def run(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set."""
        wait_s, failures = 0.0, 0
        while not stop.wait(wait_s):
            try:
                wait_s = 0.0 if self.step() else PAUSE_S
            except Exception as error:  # noqa: BLE001  # the thread must outlive every surprise
                failures += 1
                wait_s = min(LONGEST_WAIT_S, PAUSE_S * 2.0 ** (failures - 1))
                if isinstance(error, CoreadError):
                    logger().warning("audit messages wait", reason=str(error), wait_s=wait_s)
                else:
                    logger().exception("audit messages not sent", wait_s=wait_s)
            else:
                failures = 0

    def _message(self, event: AuditEvent) -> bytes:
        try:
            text, severity = message_of(event, self._source), NOTICE if outcome_of(event) == SUCCESS else WARNING
        except Exception:  # noqa: BLE001  # a row that cannot be told must not hold up all that come after it
            logger().exception("an audit row is sent without its details", audit_id=event.audit_id)
            text, severity = bare_message_of(event, self._source), WARNING
        return syslog_message(text, at=event.at, host=self._source.host, sequence=event.audit_id, severity=severity)

"""What each association that we ask for has in common, whoever is at its other end."""

import socket
import threading
from collections.abc import Sequence
from ssl import SSLContext
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association

CONNECT_TIMEOUT_S = 10.0
"""How long an address may take to answer at all."""
RELEASE_TIMEOUT_S = 10.0
"""How long a server may take to end an association. By then it has nothing of ours to do any more."""
LOOK_AGAIN_S = 0.05
"""How soon it is noticed that an association's thread has ended."""


def entity_of(title: str, *, timeout_s: float) -> AE:
    """We, under an application entity title. ``timeout_s``: how long the other side may say nothing."""
    entity = AE(ae_title=title)
    entity.connection_timeout = min(CONNECT_TIMEOUT_S, timeout_s)
    entity.acse_timeout = entity.dimse_timeout = timeout_s
    entity.network_timeout = 2 * timeout_s  # we may wait for an answer without a word
    return entity


def associate(
    entity: AE,
    *,
    host: str,
    port: int,
    aet: str,
    timeout_s: float,
    handlers: Sequence[Any] = (),
    roles: Sequence[Any] = (),
    tls: SSLContext | None = None,
) -> Association:
    """Ask for an association, which may not be established in the end: ``rejection`` says why. Raises OSError if the
    address cannot be reached.
    """
    timeout_ms = int(timeout_s * 1000)

    def opened(event: Any) -> None:
        prepare(event)
        # A server that is gone without a word must not hold a thread that writes to it.
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    return entity.associate(
        host,
        port,
        ae_title=aet,
        ext_neg=list(roles),
        tls_args=(tls, host) if tls else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, opened), *handlers],
    )


def rejection(association: Association) -> str:
    """Why an association was rejected, in the standard's words (PS3.8 9.3.4)."""
    answer = association.acceptor.primitive
    return f"{answer.result_str}, {answer.reason_str}" if answer else "no reason"


def release(association: Association, *, timeout_s: float) -> None:
    """End an association, if it still is one."""
    if association.is_established:
        association.acse_timeout = min(RELEASE_TIMEOUT_S, timeout_s)
        association.release()


def prepare(event: Any) -> None:
    """A handler of pynetdicom's EVT_CONN_OPEN for associations that we open (PS3.7 D.1)."""
    # Without this, each small message waits for the acknowledgement of the one before.
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    event.assoc._reactor_checkpoint = Checkpoint(event.assoc)  # noqa: SLF001  # there is no other way to it


class Checkpoint(threading.Event):
    """Where an association's own thread waits while somebody else uses the association; `clear` stops it there.

    pynetdicom's own event only asks the thread to stop, and looks at a flag that may still say "stopped" from before.
    Then the thread goes on for a round, and if the peer answers quickly, takes the answer that the other one waits for:
    "Received unexpected C-STORE service message", and a time-out. With this one, `clear` returns when it has stopped.
    """

    def __init__(self, thread: threading.Thread) -> None:
        super().__init__()
        self._thread = thread
        self._changed = threading.Condition()
        self._is_open = True
        self._has_stopped = False

    def is_set(self) -> bool:
        """Whether the thread may go on."""
        return self._is_open

    def set(self) -> None:
        """Let the thread go on."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Stop the thread. Returns when it waits, or has ended; at once if it is the thread itself that asks."""
        with self._changed:
            self._is_open = False
            while not (self._is_open or self._has_stopped) and self._runs_elsewhere():
                self._changed.wait(LOOK_AGAIN_S)

    def wait(self, timeout: float | None = None) -> bool:
        """What the thread calls in each of its rounds."""
        with self._changed:
            self._has_stopped = not self._is_open
            self._changed.notify_all()
            is_open = self._changed.wait_for(self.is_set, timeout)
            self._has_stopped = False
            return is_open

    def _runs_elsewhere(self) -> bool:
        return self._thread.is_alive() and self._thread is not threading.current_thread()

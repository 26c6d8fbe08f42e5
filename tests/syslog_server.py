"""A syslog server to send to: TCP or TLS, each message framed by its length (RFC 5425 4.3)."""

import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


def unframed(received: bytes) -> list[bytes]:
    """The messages of one connection."""
    messages = []
    while received:
        length, _, rest = received.partition(b" ")
        messages.append(rest[: int(length)])
        assert len(messages[-1]) == int(length), "the last message was cut"
        received = rest[int(length) :]
    return messages


class SyslogServer:
    """Runs inside the block. ``behave`` gets each connection; by default it takes everything and ends in order."""

    def __init__(
        self,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        behave: Callable[["SyslogServer", socket.socket], None] | None = None,
    ) -> None:
        self.messages: list[bytes] = []
        self.connections = 0
        self.refused: list[Exception] = []
        self._tls = tls
        self._behave = behave or SyslogServer.take
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def take(self, connection: socket.socket) -> None:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        self.messages += unframed(received)
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with self._tls.wrap_socket(connection, server_side=True) if self._tls else connection as ready:
                    self._behave(self, ready)
            except OSError as refused:
                self.refused.append(refused)
                connection.close()

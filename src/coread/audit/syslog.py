"""Syslog as PS3.15 A.6 and A.7 want it: RFC 5424 over TLS (RFC 5425), TCP framed alike, UDP (RFC 5426), or a file.

The standard library's handler speaks RFC 3164 and does not say whether anything arrived. Syslog has no acknowledgement,
so this is how we know: we end the connection in order and wait for the other end to do so, too. A server that has died
or has left something unread answers with a reset instead.
"""

import os
import re
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coread.errors import ConfigurationError, SyslogUnavailable

TIMEOUT_S = 10.0
"""For connecting, and for each step after it."""
PORTS = {"udp": 514, "tcp": 514, "tls": 6514}
"""The ports that are meant if none is named; those of RFC 5426 and RFC 5425, and what servers listen on by TCP."""

SECURITY = 10
"""Facility: security or authorization messages."""
NOTICE, WARNING = 5, 4
"""Severities that PS3.15 A.6 names."""
MESSAGE_ID = "DICOM+RFC3881"
BYTE_ORDER_MARK = "\ufeff"
"""Says that what follows is UTF-8 (RFC 5424, 6.4)."""


@dataclass(frozen=True, kw_only=True)
class SyslogAddress:
    """Where messages go: a server by ``udp``, ``tcp`` or ``tls``, or a ``file``."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""


def parse_address(text: str) -> SyslogAddress:
    """The address of ``udp://host:514``, ``tcp://host``, ``tls://host:6514`` or ``file:/path``. Raises ValueError."""
    if file := re.fullmatch(r"file:(?://)?(/.+)", text):
        return SyslogAddress(scheme="file", path=file[1])
    server = re.fullmatch(r"(udp|tcp|tls)://(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+))(?::([0-9]{1,5}))?", text)
    port = int(server[4] or PORTS[server[1]]) if server else 0
    if server is None or not 0 < port <= 65535:
        raise ValueError(f"expected udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT or file:/PATH, found {text!r}")
    return SyslogAddress(scheme=server[1], host=server[2] or server[3], port=port)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a TLS connection is made with. Without ``ca_file``, the system's certificate authorities count."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


def syslog_message(text: str, *, at: datetime, host: str, sequence: int, severity: int) -> bytes:
    """A message of RFC 5424; ``at`` is in UTC, ``sequence`` tells a message from its repetition."""
    name = re.sub(r"[^\x21-\x7e]", "-", host)[:255] or "-"
    stamp = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    priority = SECURITY * 8 + severity
    header = f'<{priority}>1 {stamp} {name} Coread {os.getpid()} {MESSAGE_ID} [meta sequenceId="{sequence}"] '
    return (header + BYTE_ORDER_MARK + text).encode()


def send(
    messages: Sequence[bytes], to: SyslogAddress, *, credentials: Credentials, timeout_s: float = TIMEOUT_S
) -> None:
    """Send messages in their order. When it returns, they were taken: by UDP, they have only left.

    Raises SyslogUnavailable if they were not, or not all of them; ConfigurationError if the credentials cannot be read.
    """
    try:
        if to.scheme == "file":
            _append(messages, Path(to.path))
        elif to.scheme == "udp":
            _send_datagrams(messages, to)
        else:
            tls = _tls(credentials) if to.scheme == "tls" else None
            _send_stream(messages, to, tls=tls, timeout_s=timeout_s)
    except OSError as error:
        where = to.path or f"{to.scheme}://{to.host}:{to.port}"
        raise SyslogUnavailable(f"expected {where} to take audit messages, found: {error}; they are kept") from error


def _append(messages: Iterable[bytes], path: Path) -> None:
    """A line each; on the disk when it returns."""
    with path.open("a+b") as file:
        if file.tell():  # a line that a crash has cut stands alone
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(b"".join(message + b"\n" for message in messages))
        file.flush()
        os.fsync(file.fileno())


def _send_datagrams(messages: Iterable[bytes], to: SyslogAddress) -> None:
    (family, kind, _, _, address), *_ = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_DGRAM)
    with socket.socket(family, kind) as udp:
        for message in messages:
            udp.sendto(message, address)


def _send_stream(messages: Iterable[bytes], to: SyslogAddress, *, tls: ssl.SSLContext | None, timeout_s: float) -> None:
    framed = b"".join(b"%d %s" % (len(message), message) for message in messages)  # octet counting, RFC 5425 4.3
    with socket.create_connection((to.host, to.port), timeout=timeout_s) as plain:
        if tls is None:
            plain.sendall(framed)
            plain.shutdown(socket.SHUT_WR)
            _await_end(plain, timeout_s=timeout_s)
            return
        with tls.wrap_socket(plain, server_hostname=to.host) as secured:
            secured.sendall(framed)
            try:
                # close_notify, and the server's in answer (RFC 5425 4.4).
                with secured.unwrap() as rest:
                    rest.shutdown(socket.SHUT_WR)
            except ssl.SSLEOFError:
                return  # it has ended without a word, but has read everything: or it had reset the connection


def _await_end(connection: socket.socket, *, timeout_s: float) -> None:
    """Wait until the other end closes, too. Raises TimeoutError, or ConnectionResetError if it has not read all."""
    deadline = time.monotonic() + timeout_s
    while connection.recv(4096):
        if time.monotonic() > deadline:
            raise TimeoutError("it does not end the connection")


def _tls(credentials: Credentials) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=credentials.ca_file)
        if credentials.certificate_file:
            context.load_cert_chain(credentials.certificate_file, credentials.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the files of [audit] for TLS cannot be used: {error}; expected certificates and a key in PEM"
        ) from error
    return context

"""Rows of a real ledger on their way to real receivers."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trustme

from coread.audit.event import AuditEvent
from coread.audit.message import AuditSource
from coread.audit.sender import AT_A_TIME, AuditSender
from coread.audit.syslog import Credentials, parse_address, send, syslog_message
from coread.errors import ConfigurationError, SyslogUnavailable
from coread.ledger import Ledger
from tests.support import NOW
from tests.syslog_server import SyslogServer

SOURCE = AuditSource(source_id="COREAD", aet="COREAD", host="reader")
NO_CREDENTIALS = Credentials()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def credentials(authority: trustme.CA, tmp_path: Path) -> Credentials:
    """What a client has that trusts the authority and is known by it."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("reader.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    return Credentials(ca_file=tmp_path / "ca.pem", certificate_file=tmp_path / "own.pem")


def server_tls(authority: trustme.CA, *, name: str = "127.0.0.1", asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if asks:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def record(ledger: Ledger, number: int) -> list[int]:
    """Write rows; their ids."""
    for _ in range(number):
        ledger.note_stopped(at=NOW)
    return [event.audit_id for event in ledger.audit(limit=number)][::-1]


def sender(ledger: Ledger, to: str, *, credentials: Credentials = NO_CREDENTIALS, timeout_s: float = 5) -> AuditSender:
    carry = partial(send, to=parse_address(to), credentials=credentials, timeout_s=timeout_s)
    return AuditSender(ledger=ledger, source=SOURCE, send=carry)


def numbers(messages: list[bytes]) -> list[int]:
    """The ids of the rows that messages are of."""
    return [int(message.partition(b'sequenceId="')[2].partition(b'"')[0]) for message in messages]


def test_by_tcp_every_row_arrives_once_and_in_order(ledger: Ledger) -> None:
    ids = record(ledger, AT_A_TIME + 10)
    with SyslogServer() as server:
        sending = sender(ledger, f"tcp://127.0.0.1:{server.port}")
        assert [sending.step(), sending.step(), sending.step()] == [AT_A_TIME, 10, 0]
    assert numbers(server.messages) == ids
    assert server.messages[0].startswith(b"<85>1 2026-01-02T03:04:05.678901Z reader Coread ")
    assert b' DICOM+RFC3881 [meta sequenceId="1"] \xef\xbb\xbf<?xml version="1.0"' in server.messages[0]


def test_a_row_that_cannot_be_told_holds_up_none_of_the_others(ledger: Ledger) -> None:
    ledger.note_worker_started(worker="gpu:1", models={"m": {}}, at=NOW)
    record(ledger, 2)
    with SyslogServer() as server:
        assert sender(ledger, f"tcp://127.0.0.1:{server.port}").step() == 3
    assert [b"Application Start" in message for message in server.messages] == [True, False, False]
    assert server.messages[0].startswith(b"<84>1 ")


def test_by_tls_a_server_with_a_certificate_of_ours_takes_them(
    ledger: Ledger, authority: trustme.CA, credentials: Credentials
) -> None:
    ids = record(ledger, 3)
    with SyslogServer(tls=server_tls(authority, asks=True)) as server:
        assert sender(ledger, f"tls://127.0.0.1:{server.port}", credentials=credentials).step() == 3
    assert numbers(server.messages) == ids
    assert server.refused == []


def test_a_tls_server_that_closes_without_a_word_has_read_everything(
    ledger: Ledger, authority: trustme.CA, credentials: Credentials
) -> None:
    def take_and_close(server: SyslogServer, connection: socket.socket) -> None:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        server.messages.append(received)

    record(ledger, 3)
    with SyslogServer(tls=server_tls(authority), behave=take_and_close) as server:
        assert sender(ledger, f"tls://127.0.0.1:{server.port}", credentials=credentials).step() == 3
    assert len(server.messages) == 1


def test_a_server_that_is_not_who_it_should_be_gets_nothing(
    ledger: Ledger, authority: trustme.CA, credentials: Credentials
) -> None:
    record(ledger, 3)
    with (
        SyslogServer(tls=server_tls(authority, name="elsewhere.example")) as server,
        pytest.raises(SyslogUnavailable, match="certificate verify failed"),
    ):
        sender(ledger, f"tls://127.0.0.1:{server.port}", credentials=credentials).step()
    assert server.messages == []


def test_credentials_that_cannot_be_read_are_named(ledger: Ledger, tmp_path: Path) -> None:
    record(ledger, 1)
    with pytest.raises(ConfigurationError, match="expected certificates"):
        sender(ledger, "tls://127.0.0.1:1", credentials=Credentials(ca_file=tmp_path / "none.pem")).step()


def test_by_udp_each_message_is_a_datagram(ledger: Ledger) -> None:
    ids = record(ledger, 3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        sender(ledger, f"udp://127.0.0.1:{receiver.getsockname()[1]}").step()
        assert numbers([receiver.recv(65536) for _ in range(3)]) == ids


def test_into_a_file_each_message_is_a_line_even_after_one_that_was_cut(ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_bytes(b"<85>1 a message that a power cut has")
    ids = record(ledger, 2)
    sending = sender(ledger, f"file:{file}")
    sending.step()
    more = record(ledger, 1)
    sending.step()
    assert numbers(file.read_bytes().splitlines()[1:]) == ids + more


def test_what_is_recorded_while_the_server_is_away_arrives_when_it_is_back(ledger: Ledger) -> None:
    with SyslogServer() as server:
        sending = sender(ledger, f"tcp://127.0.0.1:{server.port}")
        ids = record(ledger, 2)
        sending.step()
    for _ in range(3):
        ids += record(ledger, 2)
        with pytest.raises(SyslogUnavailable, match="they are kept"):
            sending.step()
    with SyslogServer(port=server.port) as back:
        sending.step()
    assert numbers(server.messages + back.messages) == ids


def hang_up(_server: SyslogServer, connection: socket.socket) -> None:
    """Die with what has come unread, as a process that is killed."""
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_what_a_dying_server_has_not_read_is_sent_again(ledger: Ledger) -> None:
    ids = record(ledger, 5)
    with SyslogServer(behave=hang_up) as server:
        sending = sender(ledger, f"tcp://127.0.0.1:{server.port}")
        with pytest.raises(SyslogUnavailable):
            sending.step()
    with SyslogServer(port=server.port) as back:
        sending.step()
    assert numbers(back.messages) == ids


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_a_server_that_hangs_is_given_up_and_has_taken_nothing(
    ledger: Ledger, scheme: str, authority: trustme.CA, credentials: Credentials
) -> None:
    over = threading.Event()

    def hang(_server: SyslogServer, _connection: socket.socket) -> None:
        over.wait()

    ids = record(ledger, 1)
    tls = server_tls(authority) if scheme == "tls" else None
    with SyslogServer(behave=hang, tls=tls) as server:
        to = f"{scheme}://127.0.0.1:{server.port}"
        with pytest.raises(SyslogUnavailable, match="timed out"):
            sender(ledger, to, credentials=credentials, timeout_s=0.3).step()
        over.set()
    assert [event.audit_id for event in ledger.audit_to_send(limit=10)] == ids


def test_a_crash_between_sending_and_noting_repeats_messages_and_loses_none(ledger: Ledger) -> None:
    class Crash(Exception):
        pass

    class Crashing:
        """The ledger of a process that ends as soon as it has sent."""

        audit_to_send: Callable[..., list[AuditEvent]] = staticmethod(ledger.audit_to_send)

        def note_audit_sent(self, _audit_ids: object) -> None:
            raise Crash

    ids = record(ledger, 3)
    with SyslogServer() as server:
        carry = partial(send, to=parse_address(f"tcp://127.0.0.1:{server.port}"), credentials=NO_CREDENTIALS)
        with pytest.raises(Crash):
            AuditSender(ledger=Crashing(), source=SOURCE, send=carry).step()
        AuditSender(ledger=ledger, source=SOURCE, send=carry).step()
    assert numbers(server.messages) == ids * 2, "a receiver knows them by their sequence numbers"
    assert ledger.audit_to_send(limit=1) == []


def test_the_thread_goes_on_when_the_server_comes_back_and_stops_when_told(ledger: Ledger) -> None:
    ids = record(ledger, 2)
    stop, tried = threading.Event(), threading.Event()

    with SyslogServer() as gone:
        port = gone.port

    def carry(messages: list[bytes]) -> None:
        try:
            send(messages, parse_address(f"tcp://127.0.0.1:{port}"), credentials=NO_CREDENTIALS)
        finally:
            tried.set()

    sending = AuditSender(ledger=ledger, source=SOURCE, send=carry)  # type: ignore[arg-type]
    thread = threading.Thread(target=sending.run, args=(stop,))
    thread.start()
    assert tried.wait(10)
    taken = threading.Event()

    def take(server: SyslogServer, connection: socket.socket) -> None:
        server.take(connection)
        taken.set()

    with SyslogServer(port=port, behave=take) as back:
        assert taken.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert numbers(back.messages) == ids


@pytest.mark.parametrize(
    "text",
    ["host:514", "udp://", "http://host", "udp://host:0", "udp://host:99999", "file:relative", "tls://a b:1", ""],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected udp://HOST:PORT"):
        parse_address(text)


def test_addresses_are_understood() -> None:
    assert (parse_address("udp://log").port, parse_address("tls://log").port) == (514, 6514)
    assert parse_address("tcp://[::1]:1514").host == "::1"
    assert parse_address("file:///var/log/a.log") == parse_address("file:/var/log/a.log")


def test_a_host_without_a_name_that_syslog_allows_still_has_one() -> None:
    assert b"Z - Coread" in syslog_message("", at=NOW, host="", sequence=1, severity=5)
    assert b"Z a-b Coread" in syslog_message("", at=NOW, host="a b", sequence=1, severity=5)

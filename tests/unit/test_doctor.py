"""What the doctor says of settings that do not go together, of certificates, clocks and workers."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme

from coread import __version__
from coread.check import Verdict
from coread.doctor_running import _offset, _worker, _workers, certificate_check, servers_with_tls
from coread.process_report import ProcessSeen
from coread.settings import Settings
from coread.settings_doubts import doubts, is_here
from tests.support import NOW
from tests.unit.test_metrics import a_report

PACS = {"name": "pacs", "protocol": "dimse", "host": "pacs", "port": 104, "aet": "PACS"}
WEB = {"name": "web", "protocol": "stow", "url": "http://pacs.example/dicom-web"}
PAGER = {"name": "pager", "url": "http://pager.example/coread", "secret": "a secret of many characters"}
VNA = {"name": "vna", "protocol": "dicomweb", "url": "http://vna.example/dicom-web"}
ARCHIVE = {"name": "archive", "protocol": "dimse", "host": "archive", "aet": "ARCHIVE"}
SCANNER = {"name": "mr", "host": "mr", "aet": "MR1"}
ROUTE = {"name": "all", "models": ["left_ventricle_sax"]}


def test_the_default_settings_go_together() -> None:
    (check,) = doubts(Settings())
    assert check.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("values", "what", "verdict"),
    [
        ({"orthanc": {"http_port": 4242}}, "ports", Verdict.WRONG),
        ({"destination": [PACS], "delivery": {"aet": "COREAD", "port": 4}}, "delivery.aet", Verdict.WRONG),
        ({"destination": [PACS]}, "delivery.port", Verdict.OPTIONAL),
        ({"destination": [PACS], "delivery": {"port": 4}}, "destination pacs", Verdict.OPTIONAL),
        ({"destination": [WEB]}, "destination web", Verdict.OPTIONAL),
        ({"orthanc": {"url": "https://orthanc.example"}}, "ledger.url", Verdict.WRONG),
        ({"orthanc": {"url": "https://orthanc.example"}}, "broker.url", Verdict.OPTIONAL),
        ({"ledger": {"url": "http://orthanc.example"}}, "ledger.url", Verdict.OPTIONAL),
        ({"broker": {"url": "redis://:secret@broker.example"}}, "broker.url", Verdict.OPTIONAL),
        ({"orthanc": {"remote_access": True, "password": "x"}}, "orthanc.remote_access", Verdict.OPTIONAL),
        ({"orthanc": {"password": "short"}}, "orthanc.password", Verdict.OPTIONAL),
        ({"intake": {"quiet_s": 1, "settle_s": 2}}, "intake.quiet_s", Verdict.OPTIONAL),
        ({"models": {"queues": {"nobody": "cpu"}}}, "models.queues", Verdict.OPTIONAL),
        ({"worker": {"queues": ["typo"]}}, "worker.queues", Verdict.WRONG),
        ({"intake": {"min_free_gb": 0}}, "intake.min_free_gb", Verdict.OPTIONAL),
        ({"source": [VNA]}, "source vna", Verdict.OPTIONAL),
        ({"webhook": [PAGER]}, "webhook pager", Verdict.OPTIONAL),
        (
            {"notify": {"smtp_host": "mail", "smtp_security": "none", "sender": "a@b.example"}},
            "notify.smtp_security",
            Verdict.OPTIONAL,
        ),
        ({"source": [ARCHIVE], "sender": [SCANNER]}, "source archive", Verdict.WRONG),
        (
            {"orthanc": {"password": "long enough it is"}, "access": {"users": {"vera": {"role": "reviewer"}}}},
            "access.users.vera",
            Verdict.OPTIONAL,
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(values: dict[str, Any], what: str, verdict: Verdict) -> None:
    found = [check for check in doubts(Settings.model_validate(values)) if check.what == f"settings: {what}"]
    assert {check.verdict for check in found} >= {verdict}
    assert all(check.expected and check.found and check.remedy for check in found)
    assert not any("secret" in check.found for check in found)


def test_a_queue_that_these_workers_do_not_serve_is_named() -> None:
    models = {"queues": {"left_ventricle_sax": "cpu"}}
    values = {"models": models, "worker": {"queues": ["gpu"]}, "route": [ROUTE]}
    assert ["take nothing from cpu" in check.found for check in doubts(Settings.model_validate(values))] == [True]


@pytest.mark.parametrize(
    ("host", "here"), [("localhost", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.7", False), ("pacs", False)]
)
def test_this_machine_is_known_by_its_loopback_names(host: str, here: bool) -> None:
    assert is_here(host) is here


def test_servers_with_tls_are_found_in_all_settings() -> None:
    settings = Settings.model_validate(
        {
            "orthanc": {"url": "https://orthanc.example"},
            "ledger": {"url": "https://orthanc.example:8443"},
            "destination": [PACS, {**WEB, "url": "https://pacs.example/dicom-web"}],
            "webhook": [{"name": "hook", "url": "https://hook.example/x", "secret": "0123456789abcdef"}],
            "audit": {"syslog": "tls://syslog.example"},
        }
    )
    assert servers_with_tls(settings) == {
        ("orthanc.example", 443): "orthanc.url",
        ("orthanc.example", 8443): "ledger.url",
        ("pacs.example", 443): "destination web",
        ("hook.example", 443): "webhook hook",
        ("syslog.example", 6514): "audit.syslog",
    }


@contextmanager
def tls_server(authority: trustme.CA, *, days: int) -> Iterator[int]:
    """A server on localhost whose certificate ends in so many days; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    now = datetime.now(UTC)
    certificate = authority.issue_cert(
        "localhost", not_before=now - timedelta(days=60), not_after=now + timedelta(days=days)
    )
    certificate.configure_cert(context)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listening.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)
        except OSError:
            return  # who does not trust us hangs up

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()
        thread.join(10)


@pytest.mark.parametrize(
    ("days", "is_trusted", "verdict"),
    [(200, True, Verdict.OK), (10, True, Verdict.OPTIONAL), (-1, True, Verdict.WRONG), (200, False, Verdict.WRONG)],
)
def test_a_certificate_that_ends_or_is_not_trusted_is_said(days: int, is_trusted: bool, verdict: Verdict) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    if is_trusted:
        authority.configure_trust(context)
    with tls_server(authority, days=days) as port:
        check = certificate_check("orthanc.url", "localhost", port, context)
    assert check.verdict is verdict, check
    assert bool(check.remedy) is (verdict is not Verdict.OK)


def test_a_server_without_tls_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    check = certificate_check("orthanc.url", "127.0.0.1", port, ssl.create_default_context())
    assert check.verdict is Verdict.WRONG
    assert "no TLS connection" in check.found


@pytest.mark.parametrize(
    ("ahead_s", "verdict"),
    [(0.5, Verdict.OK), (-1.9, Verdict.OK), (-5.0, Verdict.OPTIONAL), (600.0, Verdict.WRONG)],
)
def test_clocks_that_differ_are_worth_a_look_and_those_that_disagree_are_wrong(
    ahead_s: float, verdict: Verdict
) -> None:
    assert _offset("clock", ahead_s).verdict is verdict


def seen(*, is_alive: bool = True, offset_s: float = 0.0, **more: Any) -> ProcessSeen:
    values = {"version": __version__, **more}
    return ProcessSeen(report=a_report(**values), seen_at=NOW, clock_offset_s=offset_s, is_alive=is_alive)


def test_a_worker_with_other_model_files_than_are_approved_is_wrong() -> None:
    assert [check.verdict for check in _worker(seen(), approved={"m": "ab"})] == [Verdict.OK]
    for approved in ({"m": "cd"}, {}):
        assert [check.verdict for check in _worker(seen(), approved=approved)] == [Verdict.WRONG]


def test_a_worker_that_is_silent_or_of_another_version_or_time_is_said() -> None:
    (silent,) = _worker(seen(is_alive=False), approved={})
    assert silent.verdict is Verdict.OPTIONAL
    found = {check.what: check for check in _worker(seen(version="0.0.9", offset_s=40.0), approved={"m": "ab"})}
    assert found["worker on reader"].found == "0.0.9"
    assert found["the worker on reader"].verdict is Verdict.WRONG


def test_a_queue_without_a_worker_is_wrong() -> None:
    settings = Settings.model_validate({"models": {"queues": {"left_ventricle_sax": "cpu"}}})
    found = {check.what: check.verdict for check in _workers([seen(queues=("gpu",), models={})], settings)}
    assert found == {"workers of queue cpu": Verdict.WRONG, "workers of queue gpu": Verdict.OK}

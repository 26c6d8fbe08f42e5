"""Who is told of a raised study: a real webhook, a real mail server, a real Orthanc, and a plugin that is killed."""

import email
import email.policy
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from click.testing import CliRunner

from coread.archive import LABELS_METADATA, Archive
from coread.cli import coread
from coread.errors import NotTold
from coread.job import Job, JobState, Priority
from coread.ledger import ArrivingStudy, Ledger
from coread.ledger.raised import Notice, NoticeEvent, NoticeState, Raised
from coread.models.catalogue import installed_models
from coread.orthanc_process import free_port
from coread.plugin.alerting import Channel, Judge, channels_of, mail, post, put_label
from coread.settings import Settings, load_settings
from coread.settings_alerts import NotifySettings, WebhookSettings
from coread.supervisor import Supervisor
from tests.orthanc_alone import plain_orthanc
from tests.support import NOW, a_job, program

SECRET = "0123456789abcdef"
RESULT = {
    "model": "left_ventricle_sax",
    "findings": [],
    "classes": [],
    "marks": [],
    "numbers": [
        {
            "name": "Left ventricular ejection fraction by MR",
            "code": ["8811-2", "LN", "Left ventricular ejection fraction by MR", None],
            "value": 21.4,
            "unit": "%",
        }
    ],
}
ALERT = {
    "name": "weak-heart",
    "model": "left_ventricle_sax",
    "when": {"number": "8811-2", "less_than": 35, "unit": "%"},
    "priority": "stat",
    "webhooks": ["ris"],
}
WORDS = "Left ventricular ejection fraction by MR 21.4 %"


class Receiver:
    """A webhook's receiver. ``statuses``: what it answers, the last one from then on. ``leads_to``: another's URL."""

    def __init__(
        self, statuses: Sequence[int] = (204,), *, port: int = 0, hangs: bool = False, leads_to: str = ""
    ) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self._statuses = list(statuses)
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.received.append((dict(self.headers), body))
                if hangs:
                    outer.let_go.wait()
                status = outer._statuses.pop(0) if len(outer._statuses) > 1 else outer._statuses[0]
                self.send_response(status)
                if leads_to:
                    self.send_header("Location", leads_to)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/coread"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _headers, body in self.received]


def raised(**more: Any) -> Raised:
    values: dict[str, Any] = {
        "raise_id": 1,
        "alert": "weak-heart",
        "orthanc_id": "study",
        "study_instance_uid": "1.2",
        "model": "m",
        "job_id": "a",
        "priority": Priority.STAT,
        "label": "coread:weak-heart",
        "words": WORDS,
        "raised_at": NOW,
    }
    return Raised(**{**values, **more})


def notice(of: Raised | None = None, *, event: NoticeEvent = NoticeEvent.RAISED) -> Notice:
    return Notice(
        notice_id=1, key="a.1", channel="webhook:ris", event=event, attempts=0, created_at=NOW, of=of or raised()
    )


def webhook(url: str) -> WebhookSettings:
    return WebhookSettings.model_validate({"name": "ris", "url": url, "secret": SECRET})


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Webhooks -------------------------------------------------------------------------------------------------------------


def test_a_webhook_is_told_what_was_found_with_a_signature_that_it_can_check() -> None:
    settings = NotifySettings(link="https://coread.example/#{orthanc_id}")
    with Receiver() as receiver:
        post(notice(), webhook=webhook(receiver.url), settings=settings, clock=lambda: NOW)
    ((headers, body),) = receiver.received
    assert json.loads(body) == {
        "id": "a.1",
        "event": "raised",
        "alert": "weak-heart",
        "finding": WORDS,
        "model": "m",
        "job_id": "a",
        "study_instance_uid": "1.2",
        "orthanc_id": "study",
        "raised_at": NOW.isoformat(),
        "ended_at": None,
        "ended_because": "",
        "link": "https://coread.example/#study",
        "notice": "RESEARCH. Not for diagnosis.",
    }
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == "a.1"
    at, signature = (part.partition("=")[2] for part in headers["Coread-Signature"].split(","))
    assert int(at) == int(NOW.timestamp())
    assert signature == hmac.new(SECRET.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()


def test_a_webhook_cannot_send_its_message_elsewhere() -> None:
    with (
        Receiver() as elsewhere,
        Receiver([307], leads_to=elsewhere.url) as receiver,
        pytest.raises(NotTold, match="307"),
    ):
        post(notice(), webhook=webhook(receiver.url), settings=NotifySettings(), clock=lambda: NOW)
    assert len(receiver.received) == 1
    assert elsewhere.received == []


@pytest.mark.parametrize("status", [301, 400, 500])
def test_any_answer_but_success_is_tried_again(status: int) -> None:
    with Receiver([status]) as receiver, pytest.raises(NotTold, match=str(status)):
        post(notice(), webhook=webhook(receiver.url), settings=NotifySettings(), clock=lambda: NOW)


def test_a_webhook_that_is_away_or_hangs_is_tried_again() -> None:
    away = webhook(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(NotTold, match="does not answer"):
        post(notice(), webhook=away, settings=NotifySettings(), clock=lambda: NOW)
    with Receiver(hangs=True) as receiver, pytest.raises(NotTold, match="ReadTimeout"):
        post(notice(), webhook=webhook(receiver.url), settings=NotifySettings(timeout_s=0.2), clock=lambda: NOW)


# E-mail ---------------------------------------------------------------------------------------------------------------


class Mailbox:
    """Keeps what a mail server is handed."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802  # the library's
        self.envelopes.append(envelope)
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield box, controller.port
    controller.stop()


def test_an_email_has_the_finding_and_a_link_and_nothing_of_the_patient(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    settings = NotifySettings(
        smtp_host="127.0.0.1",
        smtp_port=port,
        smtp_security="none",
        sender="coread@h.example",
        link="https://c/{orthanc_id}",
    )
    mail(notice(), to="ward@h.example", settings=settings)
    mail(notice(), to="ward@h.example", settings=settings)
    ended = raised(ended_at=NOW, ended_because="a later reading does not find it")
    mail(notice(ended, event=NoticeEvent.ENDED), to="ward@h.example", settings=settings)
    first, again, last = (
        email.message_from_bytes(each.original_content or b"", policy=email.policy.default) for each in box.envelopes
    )
    assert (box.envelopes[0].mail_from, box.envelopes[0].rcpt_tos) == ("coread@h.example", ["ward@h.example"])
    assert first["Subject"] == "Coread: weak-heart"
    assert first.get_content().splitlines() == [
        "A finding has raised a study.",
        "",
        f"Finding: {WORDS}",
        "Model: m",
        "Study: https://c/study",
        "",
        "RESEARCH. Not for diagnosis.",
    ]
    assert first["Message-ID"] == again["Message-ID"], "it is known again"
    assert last["Subject"] == "Coread: weak-heart (ended)"
    assert "raised no longer: a later reading does not find it." in last.get_content()


def test_a_password_is_said_to_the_mail_server_only_when_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    said: list[LoginPassword] = []

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: LoginPassword) -> AuthResult:
        said.append(data)
        return AuthResult(success=True)

    box = Mailbox()
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=free_port(),
        tls_context=context,
        require_starttls=True,
        authenticator=check,
        auth_required=True,
    )
    controller.start()
    try:
        settings = NotifySettings.model_validate(
            {
                "smtp_host": "127.0.0.1",
                "smtp_port": controller.port,
                "sender": "coread@h.example",
                "smtp_user": "coread",
                "smtp_password": "secret",
            }
        )
        with pytest.raises(NotTold, match="SSLCertVerificationError"):
            mail(notice(), to="ward@h.example", settings=settings)
        assert said == [], "not to a server that anybody may be"
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        mail(notice(), to="ward@h.example", settings=settings)
    finally:
        controller.stop()
    assert [(each.login, each.password) for each in said] == [(b"coread", b"secret")]
    assert len(box.envelopes) == 1


def test_a_mail_server_that_is_away_is_tried_again() -> None:
    settings = NotifySettings(smtp_host="127.0.0.1", smtp_port=free_port(), sender="coread@h.example")
    with pytest.raises(NotTold, match="ConnectionRefusedError"):
        mail(notice(), to="ward@h.example", settings=settings)


# Labels ---------------------------------------------------------------------------------------------------------------


def test_an_orthanc_without_labels_keeps_them_as_metadata(tmp_path: Path, phantom_folder: Path) -> None:
    with plain_orthanc(tmp_path) as url, httpx.Client(base_url=url, trust_env=False) as http:
        image = next(iter(sorted(phantom_folder.rglob("*.dcm"))))
        study = http.post("/instances", content=image.read_bytes()).json()["ParentStudy"]
        path = f"/studies/{study}/metadata/{LABELS_METADATA}"
        assert http.get("/system").json().get("HasLabels", False) is False

        def tell(label: str, event: NoticeEvent) -> None:
            of = raised(orthanc_id=study, label=label)
            put_label(notice(of, event=event), connect=lambda: Archive(url))

        for label in ("coread:a", "coread:b", "coread:a"):
            tell(label, NoticeEvent.RAISED)
        assert http.get(path).text == "coread:b,coread:a"
        tell("coread:b", NoticeEvent.ENDED)
        assert http.get(path).text == "coread:a"
        tell("coread:a", NoticeEvent.ENDED)
        assert http.get(path).status_code == 404
        tell("coread:a", NoticeEvent.ENDED)
        put_label(notice(raised(orthanc_id="gone")), connect=lambda: Archive(url))


# The outbox -----------------------------------------------------------------------------------------------------------


def settings_of(url: str, **more: Any) -> Settings:
    return Settings.model_validate(
        {
            "alert": [{**ALERT, **more}],
            "webhook": [{"name": "ris", "url": url, "secret": SECRET}],
            "notify": {"retry_delay_s": 1, "give_up_s": 100},
        }
    )


def finish(ledger: Ledger, job: Job, *, at: datetime = NOW) -> None:
    """Do a job as a worker would, to its end."""
    study = ArrivingStudy(orthanc_id=job.orthanc_id, last_change=1, last_arrival_at=at)
    ledger.settle(study, [job], present_uids=(), at=at)
    ledger.queue_due(at=at)
    claimed = ledger.claim(worker="w", at=at, lease=timedelta(minutes=5))
    assert claimed is not None
    assert ledger.start_storing(job.job_id, worker="w", result=RESULT, at=at)
    assert ledger.finish(job.job_id, JobState.DONE, worker="w", result=RESULT, at=at)


def never() -> Archive:
    raise AssertionError("no label is wanted")


def test_what_did_not_arrive_is_told_again_later_each_time_until_it_is_given_up(ledger: Ledger) -> None:
    now = [NOW]
    with Receiver([500, 503, 204]) as receiver:
        settings = settings_of(receiver.url)
        (channel,) = channels_of(settings, ledger=ledger, clock=lambda: now[0], connect=never)
        finish(ledger, a_job("a", model="left_ventricle_sax"))
        Judge(ledger=ledger, alerts=settings.alert, clock=lambda: now[0]).step()
        for wait_s, attempts in ((0, 1), (0.9, 1), (0.2, 2), (1.8, 2), (0.3, 3), (1000, 3)):
            now[0] += timedelta(seconds=wait_s)
            channel.step()
            assert len(receiver.received) == attempts
    (told,) = ledger.notices("study")
    assert (told["state"], told["attempts"]) == (NoticeState.SENT, 3)
    assert {message["id"] for message in receiver.messages} == {receiver.messages[0]["id"]}


def test_what_never_arrives_is_given_up(ledger: Ledger) -> None:
    now = [NOW]
    settings = settings_of(f"http://127.0.0.1:{free_port()}")
    (channel,) = channels_of(settings, ledger=ledger, clock=lambda: now[0], connect=never)
    finish(ledger, a_job("a", model="left_ventricle_sax"))
    Judge(ledger=ledger, alerts=settings.alert, clock=lambda: now[0]).step()
    for _ in range(10):
        channel.step()
        now[0] += timedelta(seconds=60)
    (told,) = ledger.notices("study")
    assert (told["state"], told["attempts"]) == (NoticeState.FAILED, 3)
    assert "does not answer" in told["reason"]


def test_a_webhook_that_hangs_holds_up_no_other(ledger: Ledger) -> None:
    stop = threading.Event()
    with Receiver(hangs=True) as hanging, Receiver() as quick:
        settings = Settings.model_validate(
            {
                "alert": [{**ALERT, "webhooks": ["slow", "ris"]}],
                "webhook": [
                    {"name": "slow", "url": hanging.url, "secret": SECRET},
                    {"name": "ris", "url": quick.url, "secret": SECRET},
                ],
            }
        )
        channels = channels_of(settings, ledger=ledger, clock=lambda: NOW, connect=never)
        threads = [threading.Thread(target=channel.run, args=(stop,), daemon=True) for channel in channels]
        for thread in threads:
            thread.start()
        judge = Judge(ledger=ledger, alerts=settings.alert, clock=lambda: NOW, channels=channels)
        for number in range(3):
            job = a_job(f"a{number}", model="left_ventricle_sax", orthanc_id=f"study{number}")
            finish(ledger, job)
            judge.step()
        until(lambda: len(quick.received) == 3 and hanging.received)
        assert len(hanging.received) == 1
        stop.set()
        hanging.let_go.set()
        for channel in channels:
            channel.ring()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_a_result_that_cannot_be_understood_holds_up_nobody(ledger: Ledger) -> None:
    odd = a_job("odd", model="left_ventricle_sax", orthanc_id="odd")
    study = ArrivingStudy(orthanc_id="odd", last_change=1, last_arrival_at=NOW)
    ledger.settle(study, [odd], present_uids=(), at=NOW)
    ledger.queue_due(at=NOW)
    ledger.claim(worker="w", at=NOW, lease=timedelta(minutes=5))
    broken = {"model": "left_ventricle_sax", "numbers": [{"name": "x"}]}
    ledger.start_storing("odd", worker="w", result=broken, at=NOW)
    ledger.finish("odd", JobState.DONE, worker="w", result=broken, at=NOW)
    finish(ledger, a_job("a", model="left_ventricle_sax"))
    settings = settings_of("http://127.0.0.1:1")
    Judge(ledger=ledger, alerts=settings.alert, clock=lambda: NOW).step()
    assert ledger.findings_due() == []
    assert list(ledger.raised(["odd", "study"])) == ["study"]


def test_a_channel_outlives_a_surprise(ledger: Ledger) -> None:
    stop, seen = threading.Event(), threading.Event()

    def break_down(_notice: Notice) -> None:
        seen.set()
        raise RuntimeError("a surprise")

    channel = Channel("webhook:ris", break_down, ledger=ledger, settings=NotifySettings(), clock=lambda: NOW)
    finish(ledger, a_job("a", model="left_ventricle_sax"))
    Judge(ledger=ledger, alerts=settings_of("http://x").alert, clock=lambda: NOW).step()
    thread = threading.Thread(target=channel.run, args=(stop,), daemon=True)
    for _ in range(2):
        seen.clear()
        if not thread.is_alive():
            thread.start()
        channel.ring()
        assert seen.wait(30)
    stop.set()
    channel.ring()
    thread.join(30)
    assert not thread.is_alive()


# The whole plugin -----------------------------------------------------------------------------------------------------

WHOLE = """
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
[intake]
poll_s = 0.1
[worker]
processes = 0
[[alert]]
name = "weak-heart"
model = "left_ventricle_sax"
when = {{ number = "8811-2", less_than = 35, unit = "%" }}
priority = "stat"
webhooks = ["ris"]
[[webhook]]
name = "ris"
url = "{url}"
secret = "{secret}"
[notify]
retry_delay_s = 0.2
"""


def test_no_alert_is_lost_where_orthanc_is_killed_between_a_job_and_its_alert(tmp_path: Path) -> None:
    program("Orthanc")
    port = free_port()
    (tmp_path / "coread.toml").write_text(WHOLE.format(url=f"http://127.0.0.1:{port}", secret=SECRET))
    settings = load_settings(tmp_path / "coread.toml")
    version = installed_models(settings)["left_ventricle_sax"].version
    jobs = [
        a_job(f"{number}{'0' * 31}", model="left_ventricle_sax", model_version=version, orthanc_id=f"study{number}")
        for number in range(3)
    ]
    ledger = Ledger(settings.ledger_url)
    with Supervisor(settings, settings_file=tmp_path / "coread.toml") as running:
        (orthanc,) = (child.process for child in running._children if child.name == "orthanc")
        assert orthanc is not None
        orthanc.kill()
        orthanc.wait()
        finish(ledger, jobs[0], at=datetime.now(UTC))  # a worker ends it while nobody judges
        running.watch(lambda: bool(ledger.notices("study0")), pause_s=0.05)
        (orthanc,) = (child.process for child in running._children if child.name == "orthanc")
        assert orthanc is not None
        orthanc.kill()  # judged, and nobody told: the receiver is away
        orthanc.wait()
        finish(ledger, jobs[1], at=datetime.now(UTC))
        with Receiver(port=port) as receiver:
            running.watch(lambda: len(receiver.received) >= 2, pause_s=0.05)
            finish(ledger, jobs[2], at=datetime.now(UTC))
            running.watch(lambda: [each["state"] for each in ledger.notices("study2")] == ["sent"])
            assert sorted(message["orthanc_id"] for message in receiver.messages) == ["study0", "study1", "study2"]
        answer = httpx.get(f"{running.http_url}/coread/studies/0/raised", trust_env=False)
        assert answer.json() == {"orthanc_id": "0", "raised": [], "notices": []}
    ledger.close()


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_why_a_result_raises_its_study_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coread.toml").write_text(WHOLE.format(url="http://ris", secret=SECRET))
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    weak = CliRunner().invoke(coread, ["alerts", "test", "--json", "result.json"])
    assert weak.output.splitlines() == [
        "weak-heart: raises the study",
        f"  yes: {WORDS}",
        "  priority stat",
        "  webhook ris",
    ]
    assert weak.exit_code == 0
    strong = {**RESULT, "numbers": [{**RESULT["numbers"][0], "value": 60.0}]}  # type: ignore[dict-item]
    ledger = Ledger(load_settings().ledger_url)
    ledger.migrate()
    study = ArrivingStudy(orthanc_id="study", last_change=1, last_arrival_at=NOW)
    ledger.settle(study, [a_job("a", model="left_ventricle_sax")], present_uids=(), at=NOW)
    ledger.queue_due(at=NOW)
    assert CliRunner().invoke(coread, ["alerts", "test", "a"]).exit_code == 1
    ledger.claim(worker="w", at=NOW, lease=timedelta(minutes=5))
    ledger.start_storing("a", worker="w", result=strong, at=NOW)
    found = CliRunner().invoke(coread, ["alerts", "test", "a"])
    assert "found Left ventricular ejection fraction by MR 60 %" in found.output
    assert found.exit_code == 1
    listed = CliRunner().invoke(coread, ["alerts", "list"]).output.splitlines()
    assert listed == [
        "weak-heart: left_ventricle_sax: number 8811-2 less than 35 %",
        "  priority stat",
        "  webhook ris",
    ]
    assert SECRET not in CliRunner().invoke(coread, ["alerts", "list", "--json"]).output

"""Raises studies by what models found, and tells who is to be told, each channel in a thread of its own.

A finding is judged in the intake's thread, which the ledger alone can hold up. A webhook that hangs holds up only
itself.
"""

import smtplib
import ssl
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

import httpx

from coread.alerts import holds, words_of
from coread.archive import Archive
from coread.errors import CoreadError, NotTold, TransientError
from coread.ledger import Ledger
from coread.ledger.raised import LABEL, Notice, NoticeEvent, Verdict
from coread.logs import logger
from coread.notices import email_of, request_of
from coread.settings import Settings
from coread.settings_alerts import AlertSettings, NotifySettings, WebhookSettings

WEBHOOK, EMAIL = "webhook:", "email:"
"""How the names of channels begin."""
LONGEST_WAIT = timedelta(minutes=10)
"""Between two attempts."""
LOOK_EVERY_S = 5.0
"""How often a channel looks for what is due, where nobody tells it."""

Tell = Callable[[Notice], None]
"""Tells somebody. Raises NotTold, or another TransientError, if it did not arrive."""


class Channel:
    """Tells one receiver what it is to be told, and tries again until it has arrived or is given up."""

    def __init__(
        self,
        name: str,
        tell: Tell,
        *,
        ledger: Ledger,
        settings: NotifySettings,
        clock: Callable[[], datetime],
    ) -> None:
        self.name = name
        self._tell = tell
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._bell = threading.Event()

    def ring(self) -> None:
        """Have it look now."""
        self._bell.set()

    def run(self, stop: threading.Event) -> None:
        """Until it is time to stop."""
        while not stop.is_set():
            self._bell.clear()
            try:
                self.step()
            except TransientError as error:
                logger().warning("nobody told", channel=self.name, reason=str(error))
            except Exception:  # noqa: BLE001  # the thread must outlive every surprise
                logger().exception("nobody told", channel=self.name)
            self._bell.wait(LOOK_EVERY_S)

    def step(self) -> None:
        """Tell what is due, the oldest first. Raises LedgerUnavailable."""
        for notice in self._ledger.notices_due(self.name, at=self._clock()):
            if not self._ledger.begin_to_tell(notice.notice_id):
                continue
            try:
                self._tell(notice)
            except CoreadError as error:
                self._put_off(notice, str(error))
            else:
                self._ledger.note_told(notice.notice_id)

    def _put_off(self, notice: Notice, reason: str) -> None:
        now = self._clock()
        wait = min(LONGEST_WAIT, timedelta(seconds=self._settings.retry_delay_s * 2 ** min(notice.attempts, 20)))
        is_over = now + wait > notice.created_at + timedelta(seconds=self._settings.give_up_s)
        self._ledger.note_not_told(notice.notice_id, reason=reason, not_before=None if is_over else now + wait)
        said = logger().error if is_over else logger().warning
        said("not told", channel=self.name, notice=notice.key, reason=reason, given_up=is_over)


class Judge:
    """Judges the findings of the jobs that are done, each once."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        alerts: Sequence[AlertSettings],
        clock: Callable[[], datetime],
        channels: Sequence[Channel] = (),
    ) -> None:
        """``channels``: those that are woken when somebody is to be told."""
        self._ledger = ledger
        self._alerts = alerts
        self._clock = clock
        self._channels = channels

    def step(self) -> None:
        """Judge what is due. One whose result cannot be understood raises nothing, and holds up nobody."""
        nothing: list[str] = []
        for job, result in self._ledger.findings_due():
            verdicts: list[Verdict] = []
            for alert in self._alerts:
                try:
                    if holds(alert, result):
                        verdicts.append(verdict_of(alert, words_of(alert, result)))
                except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                    logger().exception("finding not judged", job_id=job.job_id, alert=alert.name, exc_info=error)
            if verdicts:
                for raised in self._ledger.note_judged(job.job_id, verdicts, at=self._clock()):
                    logger().info("study raised", job_id=job.job_id, alert=raised.alert)
                self._ring()
            else:
                nothing.append(job.job_id)
        if nothing:
            self._ledger.note_nothing_to_raise(nothing, at=self._clock())
            self._ring()

    def _ring(self) -> None:
        for channel in self._channels:
            channel.ring()


def verdict_of(alert: AlertSettings, words: str) -> Verdict:
    """What an alert that holds does."""
    channels = [*(WEBHOOK + name for name in alert.webhooks), *(EMAIL + address for address in alert.email)]
    return Verdict(
        alert=alert.name,
        words=words,
        priority=alert.priority,
        label=alert.label,
        channels=list(dict.fromkeys(channels)),
    )


def channels_of(
    settings: Settings, *, ledger: Ledger, clock: Callable[[], datetime], connect: Callable[[], Archive]
) -> list[Channel]:
    """A channel for each receiver that an alert names, and one for Orthanc's labels."""
    tellers: dict[str, Tell] = {}
    for webhook in settings.webhook:
        tellers[WEBHOOK + webhook.name] = partial(post, webhook=webhook, settings=settings.notify, clock=clock)
    for address in dict.fromkeys(address for alert in settings.alert for address in alert.email):
        tellers[EMAIL + address] = partial(mail, to=address, settings=settings.notify)
    if any(alert.label for alert in settings.alert):
        tellers[LABEL] = partial(put_label, connect=connect)
    return [Channel(name, tell, ledger=ledger, settings=settings.notify, clock=clock) for name, tell in tellers.items()]


def post(notice: Notice, *, webhook: WebhookSettings, settings: NotifySettings, clock: Callable[[], datetime]) -> None:
    """Post a notice to a webhook. Raises NotTold unless the answer is 2xx."""
    body, headers = request_of(
        notice,
        secret=webhook.secret.get_secret_value(),
        link=settings.link,
        at_s=int(clock().timestamp()),
    )
    try:
        with httpx.Client(timeout=settings.timeout_s, trust_env=False, follow_redirects=False) as http:
            answer = http.post(webhook.url, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotTold(f"webhook {webhook.name} does not answer: {type(error).__name__}; is it running?") from error
    if not answer.is_success:
        raise NotTold(f"webhook {webhook.name}: expected an answer of 2xx, found {answer.status_code}")


def mail(notice: Notice, *, to: str, settings: NotifySettings) -> None:
    """Send a notice by e-mail. Raises NotTold if the mail server does not take it."""
    email = email_of(notice, sender=str(settings.sender), to=to, link=settings.link)
    host, port = str(settings.smtp_host), settings.smtp_port
    context = ssl.create_default_context()
    try:
        with (
            smtplib.SMTP_SSL(host, port, timeout=settings.timeout_s, context=context)
            if settings.smtp_security == "tls"
            else smtplib.SMTP(host, port, timeout=settings.timeout_s)
        ) as server:
            if settings.smtp_security == "starttls":
                server.starttls(context=context)
            if settings.smtp_user and settings.smtp_password:
                server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
            server.send_message(email)
    except (OSError, smtplib.SMTPException) as error:
        said = f" {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
        raise NotTold(f"the mail server did not take an e-mail: {type(error).__name__}{said}") from error


def put_label(notice: Notice, *, connect: Callable[[], Archive]) -> None:
    """Give a study its label in Orthanc, or take it away. A study that is gone has none."""
    if notice.of.label is None:
        return
    with connect() as archive:
        archive.set_label(notice.of.orthanc_id, notice.of.label, is_on=notice.event is NoticeEvent.RAISED)

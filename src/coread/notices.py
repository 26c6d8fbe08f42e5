"""What a webhook or a person is told of a raised study: pure functions of the notice and the settings.

Nothing of it identifies the patient: identifiers of study and job, the alert's name, and the finding in the model's
words.
"""

import hashlib
import hmac
import json
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

from coread.ledger.raised import Notice, NoticeEvent

SIGNATURE = "Coread-Signature"
IDEMPOTENCY_KEY = "Idempotency-Key"


def message_of(notice: Notice, *, link: str | None) -> dict[str, Any]:
    """What a webhook is told. ``link``: the address of a study's page, with placeholders."""
    raised = notice.of
    return {
        "id": notice.key,
        "event": notice.event,
        "alert": raised.alert,
        "finding": raised.words,
        "model": raised.model,
        "job_id": raised.job_id,
        "study_instance_uid": raised.study_instance_uid,
        "orthanc_id": raised.orthanc_id,
        "raised_at": raised.raised_at.isoformat(),
        "ended_at": raised.ended_at and raised.ended_at.isoformat(),
        "ended_because": raised.ended_because,
        "link": link_to(notice, link),
        "notice": "RESEARCH. Not for diagnosis.",
    }


def link_to(notice: Notice, link: str | None) -> str | None:
    """The address of the study's page."""
    if link is None:
        return None
    link = link.replace("{orthanc_id}", quote(notice.of.orthanc_id, safe=""))
    return link.replace("{StudyInstanceUID}", quote(notice.of.study_instance_uid, safe=""))


def signed(body: bytes, *, secret: str, at_s: int) -> str:
    """The value of the header ``Coread-Signature``: the time (s since 1970) and HMAC-SHA256 of time, dot and body.

    The time is signed too, so that a receiver can refuse a message that somebody recorded and sends again.
    """
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def request_of(notice: Notice, *, secret: str, link: str | None, at_s: int) -> tuple[bytes, dict[str, str]]:
    """Body and headers of what a webhook is posted."""
    body = json.dumps(message_of(notice, link=link), ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/json",
        IDEMPOTENCY_KEY: notice.key,
        SIGNATURE: signed(body, secret=secret, at_s=at_s),
    }
    return body, headers


def email_of(notice: Notice, *, sender: str, to: str, link: str | None) -> EmailMessage:
    """The e-mail to one person. Sent twice it has the same Message-ID, by which mail programs know it again."""
    raised = notice.of
    is_end = notice.event is NoticeEvent.ENDED
    said = f"The study is raised no longer: {raised.ended_because}." if is_end else "A finding has raised a study."
    email = EmailMessage()
    email["Subject"] = f"Coread: {raised.alert}{' (ended)' if is_end else ''}"
    email["From"] = Address(addr_spec=sender)
    email["To"] = Address(addr_spec=to)
    email["Date"] = format_datetime((raised.ended_at if is_end else None) or raised.raised_at)
    digest = hashlib.sha256(f"{notice.key}".encode()).hexdigest()[:32]
    email["Message-ID"] = f"<{digest}@{sender.partition('@')[2]}>"
    email["Auto-Submitted"] = "auto-generated"
    where = link_to(notice, link) or f"StudyInstanceUID {raised.study_instance_uid}"
    lines = [said, "", f"Finding: {raised.words}", f"Model: {raised.model}", f"Study: {where}"]
    email.set_content("\n".join([*lines, "", "RESEARCH. Not for diagnosis."]) + "\n")
    return email

"""One notice of a result that presses: what it says, and how it is sent.

The rule: unless the site has it otherwise it names no patient, only the study; nothing waits for a server longer than
`_SECONDS`, and what goes wrong is told by its kind, never with an address or a secret in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

import httpx

from orthanc_plugin.ledger.outbox import Notice
from orthanc_plugin.working.notice_settings import NoticeSettings

_SECONDS = 10.0
_PATIENT = ("patient_name", "patient_id", "patient_birth_date", "accession_number")
_NOTE = "Research software, not a medical device. AI result, not verified."


class NotTaken(Exception):
    """A notice was not taken; the message says why in a few words."""


def notice_id(archive: str, study_instance_uid: str, priority: str) -> str:
    """The identifier of a notice: the same for each try, and for each way."""
    return hashlib.sha256(f"{archive}/{study_instance_uid}/{priority}".encode()).hexdigest()[:32]


def content_of(notice: Notice, task: Mapping[str, Any], settings: NoticeSettings) -> dict[str, Any]:
    """What is told, as the webhook gives it (docs/notifications.md: a contract with other programs)."""
    study = notice.study_instance_uid
    earlier = f"earlier answer: {task['lowered_from']}" if task["lowered_from"] else ""
    content: dict[str, Any] = {
        "id": notice.id,
        "event": "study_priority",
        "priority": notice.priority,
        "why": "; ".join(filter(None, (task["priority_reason"], earlier))),
        "study_instance_uid": study,
        "received_at": task["received_at"],
        "answered_at": task["completed_at"],
        "url": f"{settings.node_url.rstrip('/')}/hilum/studies/{study}",
        "note": _NOTE,
    }
    if settings.notify_with_patient:
        content["patient"] = {name: task[name] for name in _PATIENT}
    return content


def send(notice: Notice, content: Mapping[str, Any], settings: NoticeSettings, now: float) -> None:
    """Send a notice by its way.

    Raises
    ------
    NotTaken
    """
    if notice.way == "webhook":
        _post(content, settings, now)
    else:
        _mail(content, settings)


def signature(secret: str, body: bytes, now: float) -> str:
    """``t=SECONDS,v1=HMAC`` where HMAC is SHA-256 over ``SECONDS.BODY``, in hexadecimal."""
    moment = f"{now:.0f}"
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def _post(content: Mapping[str, Any], settings: NoticeSettings, now: float) -> None:
    body = json.dumps(content, ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Hilum-Id": str(content["id"]),
        "X-Hilum-Signature": signature(settings.webhook_secret, body, now),
    }
    try:
        answer = httpx.post(settings.webhook_url, content=body, headers=headers, timeout=_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NotTaken(type(error).__name__) from None
    if not answer.is_success:
        raise NotTaken(f"HTTP {answer.status_code}")


def _mail(content: Mapping[str, Any], settings: NoticeSettings) -> None:
    message = EmailMessage()
    message["From"], message["To"] = settings.email_from, ", ".join(settings.email_to)
    message["Subject"] = f"Hilum: {content['priority']} result"
    message["Message-ID"] = f"<{content['id']}@hilum.invalid>"
    patient = [f"{name.replace('_', ' ')}: {value}" for name, value in content.get("patient", {}).items() if value]
    said = f"{content['priority'].capitalize()}: {content['why']}"
    message.set_content("\n".join([said, *patient, "", content["url"], "", _NOTE, ""]))
    try:
        with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=_SECONDS) as server:
            server.starttls(context=ssl.create_default_context())
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password)
            server.send_message(message)
    except smtplib.SMTPResponseException as error:
        raise NotTaken(f"SMTP {error.smtp_code}") from None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise NotTaken(type(error).__name__) from None

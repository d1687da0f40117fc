"""Whom to tell of critical results, and how: the file ``notifications.toml`` of a site. Without it nobody is told.

The rule: a value that cannot be used is named in the log and on the admin page, and stops no reading. The file holds
passwords, so it is apart from ``hilum.toml`` and no backup takes it along.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class NoticesUnusable(Exception):
    """The file cannot be used; the message names the value and what is allowed, never a secret."""


@dataclass(frozen=True)
class NoticeSettings:
    """What a site can set about notices.

    Parameters
    ----------
    webhook_url
        Gets a POST for each; empty: no webhook.
    webhook_secret
        By which the POST is signed.
    email_to, email_from
        Addresses; nobody: no e-mail.
    smtp_host, smtp_port, smtp_user, smtp_password
        A server that speaks STARTTLS; it is not spoken to without.
    node_url
        What a link begins with, e.g. ``https://hilum.example``.
    notify_with_patient
        Whether a notice names the patient.
    notify_urgent
        Whether urgent results are told as well as critical ones.
    """

    webhook_url: str = field(default="", repr=False)  # it may hold a token
    webhook_secret: str = field(default="", repr=False)
    email_to: tuple[str, ...] = ()
    email_from: str = ""
    smtp_host: str = ""
    smtp_port: int = 587
    smtp_user: str = ""
    smtp_password: str = field(default="", repr=False)
    node_url: str = ""
    notify_with_patient: bool = False
    notify_urgent: bool = False

    @property
    def ways(self) -> tuple[str, ...]:
        """By which to tell."""
        return (*["webhook"] * bool(self.webhook_url), *["email"] * bool(self.email_to))


def load_notice_settings(file: Path) -> NoticeSettings:
    """Read the file; without one nobody is told.

    Raises
    ------
    NoticesUnusable
    """
    try:
        given = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return NoticeSettings()
    except (OSError, ValueError) as error:
        raise NoticesUnusable(f"{file.name} cannot be read ({type(error).__name__})") from error
    values: dict[str, Any] = {}
    known = {f.name: f.default for f in fields(NoticeSettings)}
    for name, value in given.items():
        if name not in known:
            raise NoticesUnusable(f"{file.name}: unknown setting {name}; known are {', '.join(known)}")
        if type(value) is not (list if isinstance(known[name], tuple) else type(known[name])):
            raise NoticesUnusable(f"{file.name}: {name} is of another kind: see docs/notifications.md")
        values[name] = tuple(value) if isinstance(value, list) else value
    return _checked(NoticeSettings(**values), file)


def _checked(settings: NoticeSettings, file: Path) -> NoticeSettings:
    def refuse(what: str) -> Any:
        raise NoticesUnusable(f"{file.name}: {what}")

    if settings.webhook_url and urlsplit(settings.webhook_url).scheme not in ("https", "http"):
        refuse("webhook_url is an address that begins with https:// (or http://, within one machine)")
    if settings.webhook_url and len(settings.webhook_secret) < 16:
        refuse("webhook_secret has at least 16 characters")
    addresses = (*settings.email_to, settings.email_from) if settings.email_to else ()
    if not all(isinstance(a, str) and a.count("@") == 1 and a.isprintable() and " " not in a for a in addresses):
        refuse("email_to is a list of addresses, and email_from is one")
    if settings.email_to and (not settings.smtp_host or not 1 <= settings.smtp_port <= 65535):
        refuse("email_to needs smtp_host, and an smtp_port from 1 to 65535")
    return settings

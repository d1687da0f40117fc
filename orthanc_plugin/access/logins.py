"""Who somebody is, by a session or by a name and a password; the one place where a password is accepted.

The rule: wrong passwords are counted before they are checked, and the node's own accounts are never locked out, for
their passwords cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from orthanc_plugin.access.accounts import Account, Accounts, OwnAccount
from orthanc_plugin.access.attempts import Attempts
from orthanc_plugin.access.passwords import LONGEST, TooBusy, is_password
from orthanc_plugin.access.sessions import Sessions
from orthanc_plugin.access.shared_sessions import SharedSessions

_MOST_REMEMBERED = 256


@dataclass(frozen=True)
class Refused:
    """A name and a password that were not accepted.

    Parameters
    ----------
    known
        The account's name; empty where there is none, for what was typed may be a password.
    wait_seconds
        0 when the password was wrong; otherwise it was not looked at, and may be tried again so much later.
    """

    known: str
    wait_seconds: float = 0.0


class Logins:
    """Accounts and sessions of a node."""

    def __init__(self, accounts: Accounts, sessions: Sessions | SharedSessions, attempts: Attempts) -> None:
        self._accounts, self._sessions, self._attempts = accounts, sessions, attempts
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def by_password(self, name: str, password: str, now: float, *, address: str = "") -> Account | Refused:
        """Check a name and a password.

        A right password of a program is remembered, as a keyed digest, so that only its first request pays for argon2;
        it is forgotten with the stamp of the account.
        """
        account = self._accounts.find(name)
        if account is not None and (isinstance(account, OwnAccount) and account.is_password(password)):
            return account
        mark = self._mark(account, password) if account is not None and len(password) <= LONGEST else None
        with self._lock:
            if account is not None and mark in self._remembered:
                return account
        known = account.name if account is not None else ""
        if wait := self._attempts.begin(name, address, now):
            return Refused(known, wait)
        try:
            right = account.is_password(password) if account is not None else is_password(None, password)
        except TooBusy:
            self._attempts.give_back(name, address, now)
            return Refused(known, 5.0)
        if account is None or not right:
            return Refused(known)
        self._attempts.succeeded(name, address, now)
        if mark is not None:
            with self._lock:
                self._remembered[mark] = None
                while len(self._remembered) > _MOST_REMEMBERED:
                    self._remembered.popitem(last=False)
        return account

    def by_session(self, token: str, now: float, *, used: bool = True) -> Account | None:
        """Whose session this is; None when it has ended, or the account changed since."""
        if (session := self._sessions.find(token, now, used=used)) is None:
            return None
        account = self._accounts.find(session.name)
        if account is None or not hmac.compare_digest(account.stamp, session.stamp):
            self._sessions.end(token)
            return None
        return account

    def is_own(self, name: str) -> bool:
        """Whether a name is that of one of the node's own accounts."""
        return isinstance(self._accounts.find(name), OwnAccount)

    def begin(self, account: Account, now: float) -> str:
        """Begin a session; returns its token."""
        return self._sessions.begin(account, now)

    def end(self, token: str) -> None:
        """End a session."""
        self._sessions.end(token)

    def _mark(self, account: Account, password: str) -> bytes:
        said = f"{account.name}\0{account.stamp}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, said, hashlib.sha256)

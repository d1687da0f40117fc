"""Passwords of people: hashed by argon2id (RFC 9106), and made where nobody wants to think of one.

The rule: a password is in memory while it is checked, and nowhere else; whoever does not exist costs as much to check
as somebody who does.
"""

from __future__ import annotations

import secrets
import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

SHORTEST, LONGEST = 12, 256  # characters
# 64 MiB and two passes: 104 ms on one core of 2.6 GHz, the second choice of RFC 9106 4 with one pass less
_HASHER = PasswordHasher(time_cost=2, memory_cost=64 * 1024, parallelism=1)
_AT_ONCE = threading.BoundedSemaphore(2)  # so that log-ins take 128 MiB and two cores at most
_WAIT_SECONDS = 5.0


class PasswordRefused(Exception):
    """A password that cannot be taken; the message says why."""


class TooBusy(Exception):
    """Too many passwords are being checked at this moment."""


def hash_password(password: str) -> str:
    """The argon2id hash of a new password, with its parameters and salt.

    Raises
    ------
    PasswordRefused
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise PasswordRefused(f"a password has {SHORTEST} to {LONGEST} characters")
    if len(set(password)) < 5:
        raise PasswordRefused("a password has at least five different characters")
    return _HASHER.hash(_normal(password))


def is_password(hashed: str | None, password: str) -> bool:
    """Whether a password is the one that was hashed; for None the answer is no, after the same work.

    Raises
    ------
    TooBusy
    """
    if len(password) > LONGEST:
        return False
    if not _AT_ONCE.acquire(timeout=_WAIT_SECONDS):
        raise TooBusy
    try:
        _HASHER.verify(hashed or _nobody(), _normal(password))
    except (VerificationError, ValueError):  # wrong; a hash that is none, or text that is none
        return False
    finally:
        _AT_ONCE.release()
    return hashed is not None


def make_password() -> str:
    """A password of 100 bits that can be read out: five groups of four letters and digits."""
    letters = "abcdefghijkmnpqrstuvwxyz23456789"  # none of which looks like another
    return "-".join("".join(secrets.choice(letters) for _ in range(4)) for _ in range(5))


def _normal(password: str) -> str:
    # keyboards differ in how they compose an umlaut
    return unicodedata.normalize("NFKC", password)


_made: list[str] = []


def _nobody() -> str:
    if not _made:
        _made.append(_HASHER.hash(secrets.token_urlsafe()))
    return _made[0]

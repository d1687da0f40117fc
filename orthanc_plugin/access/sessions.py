"""Sessions of people who logged in at the page: kept in memory, with a copy in SQLite that a restart begins with.

The rule: the file holds digests, so that whoever reads it cannot use what is in it; a session belongs to one stamp of
its account and ends with it, and a disk that cannot be written to costs the restart, not the log-in.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import sqlite3
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from orthanc_plugin.access.accounts import Account

MOST_OF_ONE, MOST = 20, 2000  # sessions; the oldest makes room
_NOTED_SECONDS = 60.0  # how exactly the file knows when a session was used last
log = logging.getLogger("hilum.sessions")


@dataclass(frozen=True)
class Session:
    """Somebody logged in, since when, and when they did something last (seconds since the epoch)."""

    digest: str
    name: str
    stamp: str
    opened_at: float
    used_at: float


@dataclass(frozen=True)
class Lifetime:
    """Seconds after which a session ends: after it began, and after it was used last."""

    longest: float
    idle: float

    def is_over(self, session: Session, now: float) -> bool:
        """Whether it has ended; a clock that was set back must not make a session last."""
        age, idle = now - session.opened_at, now - session.used_at
        return age > self.longest or idle > self.idle or min(age, idle) < -_NOTED_SECONDS * 5


class Sessions:
    """Who is logged in.

    Parameters
    ----------
    longest_seconds, idle_seconds
        A session ends so long after it began, and after it was used last.
    """

    def __init__(self, file: Path, *, longest_seconds: float, idle_seconds: float) -> None:
        self._lifetime = Lifetime(longest_seconds, idle_seconds)
        self._lock = threading.Lock()
        self._noted: dict[str, float] = {}
        self._db = _opened(file)
        self._open = {session.digest: session for session in self._kept()}

    def begin(self, account: Account, now: float) -> str:
        """Log somebody in; returns the token that their cookie holds."""
        token = secrets.token_urlsafe(32)
        session = Session(digest_of(token), account.name, account.stamp, now, now)
        with self._lock:
            for old in [s for s in self._open.values() if self._lifetime.is_over(s, now)] + self._surplus(account.name):
                self._end(old.digest)
            self._open[session.digest] = session
            self._note(session)
        return token

    def find(self, token: str, now: float, *, used: bool = True) -> Session | None:
        """The session of a token; None when it has ended.

        Parameters
        ----------
        used
            Whether a person does something; a page that refreshes itself does not keep a session alive.
        """
        digest = digest_of(token)
        with self._lock:
            session = self._open.get(digest)
            if session is None:
                return None
            if self._lifetime.is_over(session, now):
                self._end(digest)
                return None
            if used:
                session = self._open[digest] = replace(session, used_at=now)
                if now - self._noted.get(digest, 0.0) > _NOTED_SECONDS:
                    self._note(session)
            return session

    def end(self, token: str) -> None:
        """Log out."""
        with self._lock:
            self._end(digest_of(token))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _surplus(self, name: str) -> list[Session]:
        oldest = sorted(self._open.values(), key=lambda session: session.used_at)
        theirs = [session for session in oldest if session.name == name]
        return theirs[: max(0, len(theirs) + 1 - MOST_OF_ONE)] + oldest[: max(0, len(oldest) + 1 - MOST)]

    def _end(self, digest: str) -> None:
        if self._open.pop(digest, None) is not None:
            self._noted.pop(digest, None)
            self._write("DELETE FROM sessions WHERE digest = ?", (digest,))

    def _note(self, session: Session) -> None:
        self._noted[session.digest] = session.used_at
        self._write(
            "INSERT INTO sessions (digest, name, stamp, opened_at, used_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at",
            (session.digest, session.name, session.stamp, session.opened_at, session.used_at),
        )

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error:
            log.exception("sessions cannot be written; they are in memory until this ends")

    def _kept(self) -> list[Session]:
        try:
            rows = self._db.execute("SELECT digest, name, stamp, opened_at, used_at FROM sessions").fetchall()
        except sqlite3.Error:
            log.exception("sessions cannot be read; everybody has to log in again")
            return []
        return [Session(*row) for row in rows]


def _opened(file: Path) -> sqlite3.Connection:
    """The file, made anew where it is damaged; one in memory where it cannot be used."""
    for last in (False, True):
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)
            db = sqlite3.connect(file, timeout=1.0, isolation_level=None, check_same_thread=False)
            _create(db)
        except sqlite3.OperationalError:
            break  # locked, full, or not to be written: what it holds may be good
        except sqlite3.DatabaseError:
            if not last:
                file.unlink(missing_ok=True)
        except OSError:
            break
        else:
            return db
    log.error("the file of sessions cannot be used; they are kept in memory")
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _create(db)
    return db


def _create(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE IF NOT EXISTS sessions (digest TEXT PRIMARY KEY, name TEXT NOT NULL, stamp TEXT NOT NULL,"
        " opened_at REAL NOT NULL, used_at REAL NOT NULL)"
    )


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()

"""Sessions that several servers share: whoever logs in at one is known at all, and logged out at all.

The rule: they lie in the ledger's PostgreSQL as digests, and a server asks for one again after a second. While the
database is away, whoever is logged in stays so at the servers that know them, and a log-in counts at that server alone.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection, text

from orthanc_plugin.access.accounts import Account
from orthanc_plugin.access.sessions import MOST, MOST_OF_ONE, Lifetime, Session, digest_of
from orthanc_plugin.ledger.database import Ledger, LedgerError
from orthanc_plugin.ledger.ownership import load_archive_id
from orthanc_plugin.ledger.side_tables import SideTables
from orthanc_plugin.settings import Settings

_TABLE = """
    CREATE TABLE IF NOT EXISTS sessions (
        digest TEXT PRIMARY KEY, name TEXT NOT NULL, stamp TEXT NOT NULL,
        opened_at DOUBLE PRECISION NOT NULL, used_at DOUBLE PRECISION NOT NULL
    )
"""
_FRESH_SECONDS = 1.0  # in which what was asked is not asked again
_AWAY_SECONDS = 3.0  # in which a database that did not answer is not asked again
_NOTED_SECONDS = 60.0  # how exactly the database knows when a session was used last
log = logging.getLogger("hilum.sessions")


@dataclass(frozen=True)
class _Known:
    """A session as this server knows it: when it was asked for, whether the database has it, and what that knows."""

    session: Session
    asked_at: float
    is_kept: bool
    noted_at: float


def cookie_of(settings: Settings) -> str:
    """The name of the session's cookie: one for all servers of an archive, for archives may share a machine."""
    try:
        archive = load_archive_id(settings.archive_id_file)
    except LedgerError:  # the disk can only be read: images are taken all the same
        archive = str(settings.http_port)
    return f"hilum_{hashlib.sha256(archive.encode()).hexdigest()[:8]}"


class SharedSessions:
    """Who is logged in, for all servers of a ledger; as ``Sessions``.

    Parameters
    ----------
    longest_seconds, idle_seconds
        A session ends so long after it began, and after it was used last.
    met
        Called with a name when this server hears of a session that began at another.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        longest_seconds: float,
        idle_seconds: float,
        met: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._tables = SideTables(ledger, [_TABLE])
        self._lifetime = Lifetime(longest_seconds, idle_seconds)
        self._noted_seconds = min(_NOTED_SECONDS, idle_seconds / 4)
        self._met = met
        self._known: dict[str, _Known] = {}
        self._ended: set[str] = set()  # here, and not yet in the database
        self._away_until = float("-inf")
        self._lock = threading.Lock()

    def begin(self, account: Account, now: float) -> str:
        """Log somebody in; returns the token that their cookie holds."""
        token = secrets.token_urlsafe(32)
        session = Session(digest_of(token), account.name, account.stamp, now, now)
        self._keep(session, self._insert(session, now))
        return token

    def find(self, token: str, now: float, *, used: bool = True) -> Session | None:
        """The session of a token; None when it has ended.

        Parameters
        ----------
        used
            Whether a person does something; a page that refreshes itself does not keep a session alive.
        """
        digest = digest_of(token)
        if digest in self._ended:
            self._delete(digest)
            return None
        known = self._known.get(digest)
        if known is None or time.monotonic() - known.asked_at > _FRESH_SECONDS:
            known = self._ask(digest, known, now)
        if known is None:
            return None
        if self._lifetime.is_over(known.session, now):
            self.end(token)
            return None
        if used:
            known = self._use(known, now)
        return known.session

    def end(self, token: str) -> None:
        """Log out, at every server."""
        digest = digest_of(token)
        with self._lock:
            self._known.pop(digest, None)
            self._ended.add(digest)
        self._delete(digest)

    def close(self) -> None:
        """Nothing is open that is not the ledger's."""

    def _ask(self, digest: str, known: _Known | None, now: float) -> _Known | None:
        """What the database says of a session; what is known where it does not answer."""
        if time.monotonic() < self._away_until:
            return known
        try:
            with self._tables.read() as db:
                row = db.execute(
                    text("SELECT digest, name, stamp, opened_at, used_at FROM sessions WHERE digest = :digest"),
                    {"digest": digest},
                ).one_or_none()
        except LedgerError as error:
            self._is_away(error)
            return known
        if row is not None:
            found = Session(*row)
            if known is None:
                self._met(found.name)
            last = max(found.used_at, known.session.used_at if known else found.used_at)
            return self._keep(replace(found, used_at=last), True, noted_at=found.used_at)
        if known is not None and not known.is_kept:  # it began while the database was away
            return self._keep(known.session, self._insert(known.session, now))
        with self._lock:
            self._known.pop(digest, None)
        return None

    def _use(self, known: _Known, now: float) -> _Known:
        session = replace(known.session, used_at=now)
        noted_at = known.noted_at
        if known.is_kept and now - noted_at > self._noted_seconds:
            noted_at = now
            used = text("UPDATE sessions SET used_at = :now WHERE digest = :digest AND used_at < :now")
            self._write(lambda db: db.execute(used, {"digest": session.digest, "now": now}))
        return self._keep(session, known.is_kept, asked_at=known.asked_at, noted_at=noted_at)

    def _insert(self, session: Session, now: float) -> bool:
        """Write a new session, and make room for it: what is over goes, then the oldest."""

        def insert(db: Connection) -> None:
            db.execute(
                text(
                    "INSERT INTO sessions (digest, name, stamp, opened_at, used_at)"
                    " VALUES (:digest, :name, :stamp, :opened_at, :used_at) ON CONFLICT (digest) DO NOTHING"
                ),
                vars(session),
            )
            over = text("DELETE FROM sessions WHERE opened_at < :begun OR used_at < :idle")
            db.execute(over, {"begun": now - self._lifetime.longest, "idle": now - self._lifetime.idle})
            theirs = text(
                "DELETE FROM sessions WHERE name = :name AND digest NOT IN"
                " (SELECT digest FROM sessions WHERE name = :name ORDER BY used_at DESC, digest LIMIT :most)"
            )
            db.execute(theirs, {"name": session.name, "most": MOST_OF_ONE})
            everybody = text(
                "DELETE FROM sessions WHERE digest NOT IN"
                " (SELECT digest FROM sessions ORDER BY used_at DESC, digest LIMIT :most)"
            )
            db.execute(everybody, {"most": MOST})

        return self._write(insert)

    def _delete(self, digest: str) -> None:
        gone = text("DELETE FROM sessions WHERE digest = :digest")
        if self._write(lambda db: db.execute(gone, {"digest": digest})):
            with self._lock:
                self._ended.discard(digest)

    def _keep(
        self, session: Session, is_kept: bool, *, asked_at: float | None = None, noted_at: float | None = None
    ) -> _Known:
        known = _Known(
            session,
            time.monotonic() if asked_at is None else asked_at,
            is_kept,
            session.used_at if noted_at is None else noted_at,
        )
        with self._lock:
            if session.digest not in self._ended:
                self._known[session.digest] = known
            while len(self._known) > 2 * MOST:
                del self._known[next(iter(self._known))]
        return known

    def _write(self, change: Callable[[Connection], object]) -> bool:
        """Change the table; False where the database does not answer, or did not a moment ago."""
        if time.monotonic() < self._away_until:
            return False
        try:
            with self._tables.write() as db:
                change(db)
        except LedgerError as error:
            self._is_away(error)
            return False
        return True

    def _is_away(self, error: LedgerError) -> None:
        if self._away_until == float("-inf"):
            log.warning("sessions are known to this server alone: %s", error)
        self._away_until = time.monotonic() + _AWAY_SECONDS

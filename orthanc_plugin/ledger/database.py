"""The ledger's database: opened, migrated, and used one transaction at a time; SQLite or PostgreSQL.

The rule: whatever the database says leaves here as one of three errors, none of which carries a row or a parameter::

    LedgerError
    |-- LedgerUnavailable   busy, full, read-only or away: the same call may work later
    |-- LedgerUnusable      missing, damaged, newer, or another archive's: a person must act, the message says how
    '-- StatementRejected   the statement itself was wrong: a defect of Hilum

Connections are checked when they are taken, so that a server that was restarted, or a file that was put in place of
another, is used again without restarting the node.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from orthanc_plugin.ledger.schema import MIGRATIONS, SCHEMA_VERSION, Migration

_BUSY_SECONDS = 10.0
# libpq: a server that vanished without a word (pulled plug) is noticed within about 15 s
_POSTGRESQL_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "hilum",
    "options": f"-c lock_timeout={_BUSY_SECONDS}s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s",
    "prepare_threshold": None,  # a connection pooler such as PgBouncer may stand between
}
_MIGRATION_LOCK = 0x48494C55  # PostgreSQL advisory lock, any number that is ours: "HILU"

# https://www.sqlite.org/rescode.html (second word of the name)
_SQLITE_LATER = {"BUSY", "LOCKED", "FULL", "READONLY", "IOERR", "CANTOPEN", "NOMEM", "PROTOCOL", "PERM", "INTERRUPT"}
_SQLITE_DAMAGED = {"CORRUPT", "NOTADB"}
# PostgreSQL, appendix A: connection, transaction rollback, resources, operator intervention, system, lock, read-only
_SQLSTATE_LATER = ("08", "40", "53", "57", "58", "55P03", "25006", "25P03")
_SQLSTATE_DAMAGED = ("XX001", "XX002")
_SQLSTATE_NO_LEDGER = ("42P01", "42703")
_SQLSTATE_FORBIDDEN = ("42501", "28", "3D000", "3F000")


class LedgerError(Exception):
    """The ledger did not do what it was asked; the transaction left no trace in it."""


class LedgerUnavailable(LedgerError):
    """The ledger is busy, full, read-only or away; the same call may work later."""


class LedgerUnusable(LedgerError):
    """The ledger is missing, damaged, of a newer Hilum or of another archive; the message says what to do."""


class StatementRejected(LedgerError):
    """The database found a statement of ours wrong: a defect of Hilum, not of the ledger."""


@dataclass(frozen=True)
class Ledger:
    """A database that holds the tasks of one archive. `open_ledger` makes it; threads may share it.

    Parameters
    ----------
    url
        Where it is; its password is not printed.
    engine
        SQLAlchemy's pool of connections.
    """

    url: URL
    engine: Engine

    @property
    def path(self) -> Path | None:
        """The file of a SQLite ledger; None on PostgreSQL."""
        return Path(str(self.url.database)) if self.url.drivername == "sqlite" else None

    @property
    def name(self) -> str:
        """What messages call it: the file, or the server and database."""
        port = f":{self.url.port}" if self.url.port else ""
        where = f"{self.url.host or 'local socket'}{port}/{self.url.database}"
        return str(self.path) if self.path else f"PostgreSQL {where}"

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that changes the ledger: committed at the end, undone by any exception.

        Raises
        ------
        LedgerUnavailable
        LedgerUnusable
        """
        # taken at once: a read that turns into a write later can find itself outdated and fail as busy
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only looks; on SQLite it sees one state of the ledger and blocks no writer.

        Raises
        ------
        LedgerUnavailable
        LedgerUnusable
        """
        with self._transaction("BEGIN") as db:
            yield db

    def close(self) -> None:
        """Close the connections that nobody uses now."""
        self.engine.dispose()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        try:
            with self.engine.connect() as db, db.begin():
                if self.path is not None:
                    db.exec_driver_sql(begin)
                yield db
        except (DBAPIError, PoolTimeout) as error:
            raise _translated(self, error) from None  # the original quotes rows


def open_ledger(where: str | Path) -> Ledger:
    """Name a ledger; nothing is connected to or made before it is used (see `migrate`).

    Parameters
    ----------
    where
        The file of a SQLite ledger, or ``sqlite:///...``, ``postgresql://...`` or ``postgresql+psycopg://...``.

    Raises
    ------
    LedgerUnusable
        When it is no such address.
    """
    if isinstance(where, Path):
        return _open_sqlite(where.absolute())
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        raise LedgerUnusable("ledger_url is no database address: write postgresql://user@host/database") from None
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        url = url.set(drivername="postgresql+psycopg")
        # site settings in the address win over ours
        chosen = {key: value for key, value in _POSTGRESQL_CONNECTION.items() if key not in url.query}
        engine = create_engine(
            url,
            connect_args=chosen,
            pool_pre_ping=True,
            pool_size=4,
            max_overflow=28,
            pool_timeout=_BUSY_SECONDS,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
        )
        return Ledger(url, engine)
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return _open_sqlite(Path(url.database).absolute())
    raise LedgerUnusable(f"ledger_url names {url.drivername}: a ledger is a SQLite file or a PostgreSQL database")


def _open_sqlite(path: Path) -> Ledger:
    address = f"{path.as_uri()}?mode=rw"  # never makes a file: an empty one would look like a ledger without studies

    def connect() -> sqlite3.Connection:
        # isolation_level None: the transaction is ours to begin (see Ledger.write)
        return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, creator=connect, poolclass=QueuePool, max_overflow=-1, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        # in WAL mode NORMAL loses no consistency, and at a power cut at most what Orthanc still knows
        connection.execute("PRAGMA synchronous = NORMAL")
        record.info["file"] = _identity(path)

    @event.listens_for(engine, "checkout")
    def _on_checkout(_connection: Any, record: Any, _proxy: Any) -> None:
        # a file that was restored or moved away would otherwise be written to where nobody looks any more
        if record.info.get("file") != _identity(path):
            raise DisconnectionError

    return Ledger(url, engine)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def migrate(ledger: Ledger, to: int = SCHEMA_VERSION) -> int:
    """Make the ledger if there is none, and bring it to a schema, forward or back, with all its rows.

    A SQLite file is copied to ``<file>.v<schema>.bak`` before it is changed. All steps are one transaction.

    Parameters
    ----------
    to
        1 to `SCHEMA_VERSION`; an earlier one lets an earlier Hilum use the ledger.

    Returns
    -------
    int
        The schema that was found; 0 for a new ledger.

    Raises
    ------
    LedgerUnusable
        When the ledger is of a newer Hilum, damaged, or holds something else.
    LedgerUnavailable
    """
    if ledger.path is not None:
        prepare_file(ledger, ledger.path)
    found = schema_of(ledger)
    _check(ledger, found)
    if found == to:
        return found
    with ledger.write() as db:
        if ledger.path is None:
            db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            db.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a step takes the longer, the more studies there are
        found = _version(db)  # another process may have been quicker
        _check(ledger, found)
        if found == 0 and (foreign := _foreign_tables(db)):
            raise LedgerUnusable(f"{ledger.name} holds other tables ({', '.join(foreign)}): name one of its own")
        if found not in (0, to) and ledger.path is not None:
            _copy(ledger, ledger.path, ledger.path.with_name(f"{ledger.path.name}.v{found}.bak"))
        bytewise, clustered = ("", "WITHOUT ROWID") if ledger.path is not None else ('COLLATE "C"', "")
        for statement in _statements(MIGRATIONS, found, to):
            db.exec_driver_sql(statement.replace("{bytewise}", bytewise).replace("{clustered}", clustered))
        _set_version(db, to)
    return found


def schema_of(ledger: Ledger) -> int:
    """The schema that a ledger has now; 0 where there is none. Nothing is made or changed.

    Raises
    ------
    LedgerUnavailable
    LedgerUnusable
    """
    with ledger.read() as db:
        return _version(db)


def _statements(migrations: tuple[Migration, ...], found: int, to: int) -> list[str]:
    if found < to:
        return [statement for m in migrations if found < m.version <= to for statement in m.up]
    return [statement for m in reversed(migrations) if to < m.version <= found for statement in m.down]


def _check(ledger: Ledger, found: int) -> None:
    if found > SCHEMA_VERSION:
        raise LedgerUnusable(f"{ledger.name} has schema {found}, this Hilum knows {SCHEMA_VERSION}: update Hilum")


def _version(db: Connection) -> int:
    if db.dialect.name == "sqlite":
        return int(db.exec_driver_sql("PRAGMA user_version").scalar_one())
    if not inspect(db).has_table("schema_version"):
        return 0
    return int(db.exec_driver_sql("SELECT version FROM schema_version").scalar_one())


def _set_version(db: Connection, version: int) -> None:
    if db.dialect.name == "sqlite":
        db.exec_driver_sql(f"PRAGMA user_version = {version}")
        return
    db.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    db.exec_driver_sql("DELETE FROM schema_version")
    db.execute(text("INSERT INTO schema_version VALUES (:version)"), {"version": version})


def _foreign_tables(db: Connection) -> list[str]:
    """Tables that stand in the way of a new ledger; a PostgreSQL database may hold others beside ours."""
    tables = set(inspect(db).get_table_names())
    return sorted(tables if db.dialect.name == "sqlite" else tables & {"tasks", "workers", "facts"})


def prepare_file(ledger: Ledger, path: Path) -> None:
    """See to it that there is a SQLite file, for its owner alone, and that reading it waits for no write.

    Worker and plugin may both do so at the same time.

    Raises
    ------
    LedgerUnavailable, LedgerUnusable
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # one after the other: of two connections that begin such a log at once, SQLite refuses one without waiting
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not path.exists():
                # what SQLite kept beside a file that was moved away or deleted makes the new one unreadable
                for kept in ("-wal", "-shm"):
                    path.with_name(path.name + kept).unlink(missing_ok=True)
                path.touch(mode=0o600)
            _check(ledger, schema_of(ledger))
            with ledger.engine.connect() as db:
                db.exec_driver_sql("PRAGMA journal_mode = WAL")
        finally:
            os.close(folder)
    except OSError as error:
        raise LedgerUnavailable(f"{ledger.name} cannot be made: {error.strerror}") from error
    except DBAPIError as error:
        raise _translated(ledger, error) from None


def _copy(ledger: Ledger, path: Path, target: Path) -> None:
    """Copy a SQLite file while it is in use; the copy appears complete or not at all."""
    partial = target.with_name(f"{target.name}.part")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        read_only = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        with closing(read_only) as source, closing(sqlite3.connect(partial)) as copy:
            source.backup(copy)
        partial.replace(target)
    except (OSError, sqlite3.Error) as error:
        raise LedgerUnavailable(f"{ledger.name} cannot be copied to {target.name}, so it is left as it is") from error


def _translated(ledger: Ledger, error: DBAPIError | PoolTimeout) -> LedgerError:
    if isinstance(error, PoolTimeout):
        return LedgerUnavailable(f"{ledger.name}: every connection is in use; trying again")
    cause = error.orig
    return _of_sqlite(ledger.path, cause) if ledger.path is not None else _of_postgresql(ledger, error)


def _of_sqlite(path: Path, cause: BaseException | None) -> LedgerError:
    code = str(getattr(cause, "sqlite_errorname", ""))
    kind = "".join(code.split("_")[1:2])
    if kind == "CANTOPEN" and _is_missing(path):
        return LedgerUnusable(f"there is no ledger at {path}: restore a backup, or start the node to rebuild it")
    if kind in _SQLITE_DAMAGED:
        return LedgerUnusable(f"{path} is damaged or no ledger ({code}): restore a backup, or move it away and start")
    if kind in _SQLITE_LATER:
        return LedgerUnavailable(f"{path} cannot be used now ({code}); trying again")
    if str(cause).startswith(("no such table", "no such column", "table tasks has no column")):
        return LedgerUnusable(f"{path} is no ledger of this version of Hilum: start the node to bring it up to date")
    return StatementRejected(f"{path}: {type(cause).__name__} {code}")


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # it may be there: the folder cannot be looked into
    return False


def _of_postgresql(ledger: Ledger, error: DBAPIError) -> LedgerError:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state.startswith(_SQLSTATE_NO_LEDGER):
        return LedgerUnusable(f"{ledger.name} is no ledger of this version of Hilum: start the node to prepare it")
    if state.startswith(_SQLSTATE_DAMAGED):
        return LedgerUnusable(f"{ledger.name} is damaged ({state}): restore a backup")
    if state.startswith(_SQLSTATE_FORBIDDEN) or (not state and "password" in str(error.orig)):
        code = f" ({state})" if state else ""
        return LedgerUnusable(f"{ledger.name} refuses user or password, or is not there{code}: correct ledger_url")
    if state.startswith(_SQLSTATE_LATER):
        return LedgerUnavailable(f"{ledger.name} cannot be used now ({state}); trying again")
    if not state and type(error.orig).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout"):
        return LedgerUnavailable(f"{ledger.name} does not answer, or refuses the address in ledger_url; trying again")
    return StatementRejected(f"{ledger.name}: {type(error.orig).__name__} {state}")

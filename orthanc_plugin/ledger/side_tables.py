"""Tables beside the tasks, for what servers and workers of one archive share: sessions, notices, small files.

The rule: they lie in the ledger's database and are no part of its schema: whoever uses one makes it, and an earlier
Hilum passes them over. A statement means the same on SQLite and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, text

from orthanc_plugin.ledger.database import Ledger, prepare_file

_LOCK = 0x48494C54  # PostgreSQL advisory lock, any number that is ours


class SideTables:
    """Some tables, made before they are first used.

    Parameters
    ----------
    ledger
        The database; a SQLite file is made where there is none.
    statements
        ``CREATE TABLE IF NOT EXISTS ...`` and the like.
    """

    def __init__(self, ledger: Ledger, statements: Sequence[str]) -> None:
        self.ledger, self._statements, self._made = ledger, statements, False

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that changes them.

        Raises
        ------
        LedgerUnavailable, LedgerUnusable
        """
        self._make()
        with self.ledger.write() as db:
            yield db

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only looks.

        Raises
        ------
        LedgerUnavailable, LedgerUnusable
        """
        self._make()
        with self.ledger.read() as db:
            yield db

    def _make(self) -> None:
        if self._made:
            return
        if self.ledger.path is not None:
            prepare_file(self.ledger, self.ledger.path)
        with self.ledger.write() as db:
            if self.ledger.path is None:  # two that make a table at once would stand in each other's way
                db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            for statement in self._statements:
                db.exec_driver_sql(statement)
        self._made = True

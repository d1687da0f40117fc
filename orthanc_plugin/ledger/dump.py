"""The ledger as lines of JSON that either database can be filled from.

The rule: a dump is one moment of the ledger, whatever is written to it meanwhile. The first line says of which schema
it is; each other line is one row. What only describes the running node (its workers, how far reconciliation has come)
is left out, and so is what is derived from tasks (``derived``): it is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, inspect, text

from orthanc_plugin.ledger.database import Ledger, LedgerUnusable, migrate
from orthanc_plugin.ledger.derived import derive_missing
from orthanc_plugin.ledger.notes import PLACE
from orthanc_plugin.ledger.schema import SCHEMA_VERSION

# With what their rows are ordered by, and since which schema.
_TABLES = {
    "tasks": ("study_instance_uid", 1),
    "facts": ("name", 2),
    "reading_marks": ("study_instance_uid, number", 4),
    "saved_filters": ("owner, name", 4),
    "mark_acts": ("person", 5),
    "counters": ("name, labels", 7),
    "deliveries": ("destination, study_instance_uid", 8),
    "archive_runs": ("number", 9),
}
_DERIVED_AT_ONCE = 5000
_ROWS_AT_ONCE = 500


def dump(ledger: Ledger) -> Iterator[str]:
    """The lines of a ledger, without line ends.

    Raises
    ------
    LedgerError
    """
    with ledger.read() as db:
        if db.dialect.name == "postgresql":  # SQLite's transactions see one moment anyway
            db.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield json.dumps({"ledger": 1, "schema": _schema(db)})
        for table, key in _tables(_schema(db)).items():
            rows = db.execution_options(stream_results=True).execute(
                text(f"SELECT * FROM {table} ORDER BY {key}")  # noqa: S608  (both are named above)
            )
            for row in rows.mappings():
                if (table, row.get("name")) != ("facts", PLACE):
                    yield json.dumps({"table": table, "row": dict(row)}, separators=(",", ":"))


def load(ledger: Ledger, lines: Iterable[str]) -> dict[str, int]:
    """Fill a ledger that has no tasks, and bring it to the schema of this Hilum; how many rows each table got.

    Raises
    ------
    LedgerUnusable
        When the ledger has tasks already, or the dump is damaged or of a newer Hilum.
    LedgerUnavailable
    """
    given = iter(lines)
    try:
        schema = int(json.loads(next(given))["schema"])
    except (StopIteration, ValueError, LookupError, TypeError):
        raise LedgerUnusable("this is no dump of a ledger, or it is damaged") from None
    if schema > SCHEMA_VERSION:
        raise LedgerUnusable(f"the dump has schema {schema}, this Hilum knows {SCHEMA_VERSION}: update Hilum")
    require_empty(ledger)
    migrate(ledger, to=schema)
    loaded = dict.fromkeys(_TABLES, 0)
    with ledger.write() as db:
        for table in _tables(schema):  # a node that looked at its new ledger left a fact or two
            db.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        columns = {table: {c["name"] for c in inspect(db).get_columns(table)} for table in _tables(schema)}
        while several := list(islice(given, _ROWS_AT_ONCE)):
            for line in several:
                table, row = _parsed(line, columns)
                names = sorted(row)
                values = ", ".join(f":{name}" for name in names)
                db.execute(
                    text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"),  # noqa: S608  (see _parsed)
                    row,
                )
                loaded[table] += 1
        if "search_words" in columns["tasks"]:
            db.execute(text("UPDATE tasks SET search_words = NULL"))
    migrate(ledger)
    some = 1
    while some:
        with ledger.write() as db:
            some = derive_missing(db, _DERIVED_AT_ONCE)
    return loaded


def require_empty(ledger: Ledger) -> None:
    """Make sure that a ledger can be filled.

    Raises
    ------
    LedgerUnusable
        When it has tasks.
    LedgerUnavailable
    """
    migrate(ledger)
    with ledger.read() as db:
        if db.exec_driver_sql("SELECT 1 FROM tasks LIMIT 1").scalar() is not None:
            raise LedgerUnusable(f"{ledger.name} has tasks already: name an empty database in ledger_url")


def _parsed(line: str, columns: dict[str, set[str]]) -> tuple[str, dict[str, Any]]:
    """Table and row of a line, both of names that the database has."""
    try:
        given = json.loads(line)
        table, row = given["table"], dict(given["row"])
    except (ValueError, LookupError, TypeError):
        raise LedgerUnusable("a line of the dump is damaged") from None
    if table not in columns or not row or not columns[table].issuperset(row):
        raise LedgerUnusable(f"the dump names a table or column that its schema lacks: {table!s:.40}")
    return table, row


def _tables(schema: int) -> dict[str, str]:
    """Those of `_TABLES` that a schema has; a later one may have left others behind."""
    return {table: key for table, (key, since) in _TABLES.items() if schema >= since}


def _schema(db: Connection) -> int:
    question = "PRAGMA user_version" if db.dialect.name == "sqlite" else "SELECT version FROM schema_version"
    return int(db.exec_driver_sql(question).scalar_one())

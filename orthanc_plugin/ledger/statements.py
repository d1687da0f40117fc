"""How a statement that changes a task is run on either database.

The rule: the SQL stands where it is used; only three words in braces are filled in here, and no value ever is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, CursorResult, text

from orthanc_plugin.ledger.task_states import Urgency

# Seconds by which an urgency goes before or after its turn (see Urgency); {shift} in SQL.
SHIFT_SECONDS = {Urgency.STAT: -3600.0, Urgency.ROUTINE: 0.0, Urgency.BACKGROUND: 900.0, Urgency.ARCHIVE: 0.0}
_SHIFT = "(CASE tasks.urgency " + " ".join(f"WHEN {u:d} THEN {s}" for u, s in SHIFT_SECONDS.items()) + " END)"


def run(db: Connection, sql: str, **values: Any) -> CursorResult[Any]:
    """Run one statement with ``:name`` parameters.

    Parameters
    ----------
    sql
        ``{shift}`` stands for the seconds that the row's urgency adds to its `due_order`, ``{skip_locked}`` for passing
        over rows that another writer has in hand, ``{locked}`` for waiting for them and keeping others out: only
        PostgreSQL has several writers at once.
    """
    several = db.dialect.name == "postgresql"
    statement = sql.replace("{shift}", _SHIFT).replace("{skip_locked}", "FOR UPDATE SKIP LOCKED" if several else "")
    statement = statement.replace("{locked}", "FOR UPDATE" if several else "")
    return db.execute(_cached_text(statement), {name: _storable(value) for name, value in values.items()})


def run_many(db: Connection, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run one statement with ``:name`` parameters for each row; none, and nothing is run."""
    if rows:
        db.execute(_cached_text(sql), [{name: _storable(value) for name, value in row.items()} for row in rows])


_cached_text = cache(text)  # halves the time of an `enqueue`, which a C-STORE waits for


def _storable(value: Any) -> Any:
    """Text without what a database refuses: NUL (PostgreSQL), and halves of a character from broken encodings."""
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8") if type(value) is str else value


def result_of(stored: str) -> dict[str, Any]:
    """What the column ``result`` holds; nothing where it is damaged, so that one row does not stop the others.

    Doing the study again (reconciliation, ``./hilum reread``) writes it anew.
    """
    result = _parsed(stored)
    return result if isinstance(result, dict) else {}


def is_damaged(stored: str) -> bool:
    """Whether the column ``result`` holds something that was never written to it."""
    return not isinstance(_parsed(stored), dict)


def _parsed(stored: str) -> Any:
    try:
        return json.loads(stored)
    except ValueError:
        return None

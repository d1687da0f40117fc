"""Cursors: after which study a page of the worklist begins, or before which it ends.

The rule: a cursor names no patient, for cursors stand in addresses.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.filters import FilterInvalid
from orthanc_plugin.ledger.statements import run

READING_KEYS = 3  # of the reading order (``reading_order``)
_NAMES_PATIENTS = "patient"  # the sort whose keys are in no cursor


@dataclass(frozen=True)
class Cursor:
    """The study at the edge of a page, by its keys in the order of the pages, and the moment of the first page."""

    now: float
    keys: tuple[Any, ...]
    uid: str


def token(sort: str, now: float, keys: tuple[Any, ...], uid: str) -> str:
    """A cursor as it stands in an address."""
    told = json.dumps([sort, now, [] if sort.endswith(_NAMES_PATIENTS) else keys, uid], separators=(",", ":"))
    return base64.urlsafe_b64encode(told.encode()).decode().rstrip("=")


def read_cursor(db: Connection, given: str, sort: str, width: int) -> Cursor:
    """The cursor that `token` made.

    Parameters
    ----------
    width
        How many keys the order has.

    Raises
    ------
    FilterInvalid
    """
    try:
        told = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
        named, now, keys, uid = told
        cursor = Cursor(float(now), tuple(keys), str(uid))
    except (ValueError, TypeError):
        raise FilterInvalid("this is no cursor of a page: begin with the first page") from None
    if named != sort:
        raise FilterInvalid("the cursor belongs to another order: begin with the first page")
    if sort.endswith(_NAMES_PATIENTS):
        sql = "SELECT coalesce(search_words, '') FROM tasks WHERE study_instance_uid = :uid"
        return replace(cursor, keys=(run(db, sql, uid=cursor.uid).scalar() or "",))
    if len(cursor.keys) != width or not all(isinstance(key, str | int | float) for key in cursor.keys):
        raise FilterInvalid("this is no cursor of a page: begin with the first page")
    return cursor

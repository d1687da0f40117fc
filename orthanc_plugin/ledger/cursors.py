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
class Found:
    """A study and what it is ordered by."""

    uid: str
    keys: tuple[Any, ...]


@dataclass(frozen=True)
class Cursor:
    """The edge of a page.

    Parameters
    ----------
    now
        The moment of the first page.
    place
        The study after which the next page begins, or before which the page before ends.
    passed
        Studies that fit on the pages before this edge, as far as they are known.
    """

    now: float
    place: Found
    passed: int


def token(sort: str, cursor: Cursor) -> str:
    """A cursor as it stands in an address."""
    keys = [] if sort.endswith(_NAMES_PATIENTS) else cursor.place.keys
    told = json.dumps([sort, cursor.now, keys, cursor.place.uid, cursor.passed], separators=(",", ":"))
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
        named, now, keys, uid, passed = told
        cursor = Cursor(float(now), Found(str(uid), tuple(keys)), int(passed))
    except (ValueError, TypeError, OverflowError):
        raise FilterInvalid("this is no cursor of a page: begin with the first page") from None
    if named != sort:
        raise FilterInvalid("the cursor belongs to another order: begin with the first page")
    if sort.endswith(_NAMES_PATIENTS):
        sql = "SELECT coalesce(search_words, '') FROM tasks WHERE study_instance_uid = :uid"
        words = run(db, sql, uid=cursor.place.uid).scalar() or ""
        return replace(cursor, place=Found(cursor.place.uid, (words,)))
    if len(keys) != width or not all(isinstance(key, str | int | float) for key in keys):
        raise FilterInvalid("this is no cursor of a page: begin with the first page")
    return cursor

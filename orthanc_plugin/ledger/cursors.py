"""Cursors: after which study a page of the worklist begins, or before which it ends.

The rule: a cursor names no patient, for cursors stand in addresses; and whoever writes an address may write anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.filters import FilterInvalid
from orthanc_plugin.ledger.statements import run

_LONGEST = 1000  # characters; that of a study with the longest of UIDs has 250
_LARGEST = 1e15  # of its numbers
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


def read_cursor(db: Connection, given: str, sort: str, kinds: Sequence[type]) -> Cursor:
    """The cursor that `token` made.

    Parameters
    ----------
    kinds
        Of the order's keys: text or numbers.

    Raises
    ------
    FilterInvalid
    """
    try:
        told = base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)) if len(given) <= _LONGEST else b""
        # reading JSON goes down once for each bracket, for which the threads of Orthanc's web server have little room
        if told.count(b"[") > 2 or b"{" in told:
            raise ValueError
        named, now, keys, uid, passed = json.loads(told)
        cursor = Cursor(float(now), Found(str(uid), tuple(keys)), int(passed))
        if not (_is(now, float) and 0 <= cursor.passed < _LARGEST):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise FilterInvalid("this is no cursor of a page: begin with the first page") from None
    if named != sort:
        raise FilterInvalid("the cursor belongs to another order: begin with the first page")
    if sort.endswith(_NAMES_PATIENTS):
        sql = "SELECT coalesce(search_words, '') FROM tasks WHERE study_instance_uid = :uid"
        words = run(db, sql, uid=cursor.place.uid).scalar() or ""
        return replace(cursor, place=Found(cursor.place.uid, (words,)))
    if len(keys) != len(kinds) or not all(map(_is, keys, kinds)):
        raise FilterInvalid("this is no cursor of a page: begin with the first page")
    return cursor


def _is(key: object, kind: type) -> bool:
    if kind is str:
        return isinstance(key, str)
    return isinstance(key, int | float) and not isinstance(key, bool) and abs(key) < _LARGEST

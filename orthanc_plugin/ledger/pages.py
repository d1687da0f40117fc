"""Pages of the worklist: the studies that fit a filter, in the reading order or by a column.

The rule: a page costs the same however many studies there are, and says so where it could not look at all of them
(``question``).

Pages are led on from by a cursor: a study that keeps its place is met once on the way through all pages, whatever
happens to others. A cursor names the moment of the first page, so that nothing becomes overdue between two pages.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, bindparam, text

from orthanc_plugin.ledger.derived import is_complete
from orthanc_plugin.ledger.filters import PRIORITIES, Filter, FilterInvalid, conditions
from orthanc_plugin.ledger.patients import named
from orthanc_plugin.ledger.question import Count, Cursor, Effort, Found, Question
from orthanc_plugin.ledger.reading_order import Order, Stream, WaitingLimits, order_at, place_of
from orthanc_plugin.ledger.statements import result_of, run

PAGE = 50
MOST_ROWS = 500  # of one page
_FURTHEST = 10_000  # studies that a page may lie behind the first without a cursor


@dataclass(frozen=True)
class Page:
    """Some studies of the worklist.

    Parameters
    ----------
    rows
        Tasks, with ``result`` parsed, and three more: ``group`` (`Group` in lower case), ``due_at`` (when its waiting
        limit ends, or ended) and ``changed`` (an image or another answer came after it was read). A claim that has run
        out is left out.
    count
        On all pages.
    next
        Cursor of the next page; empty on the last.
    complete
        False where the search ended before the page was full, for it had passed very many studies: these are the first
        that fit, there may be more, and the next page goes on from there.
    searchable
        Whether every study is found by its words and findings; False for some minutes after an update or a restore.
    """

    rows: list[dict[str, Any]]
    count: Count
    next: str
    searchable: bool
    complete: bool = True


def _column(*columns: str, holds: Sequence[str] = ()) -> Order:
    key = ", ".join(f":key_{n}" for n in range(len(columns)))
    stream = Stream(
        "status <> 'removed'", columns, (*columns, "study_instance_uid"), f"({', '.join(columns)}) >= ({key})"
    )
    return Order(columns, ((stream,),), holds=frozenset(holds))


# By which a page may be sorted; with "-" before the name the other way round. Each has its index.
SORTS = {
    "received": _column("received_at"),
    "patient": _column("coalesce(search_words, '')"),
    "study_date": _column("study_date", "study_time", holds=("study_date", "search_words")),
    "status": _column("status", "received_at", holds=("status",)),
    "priority": _column("3 - priority_rank", "received_at"),
}
_NAMES_PATIENTS = "patient"  # the sort whose keys are in no cursor, for cursors stand in addresses


def page(
    db: Connection,
    wanted: Filter = Filter(),  # noqa: B008  (it is frozen)
    *,
    now: float,
    limits: WaitingLimits = WaitingLimits(),  # noqa: B008
    sort: str = "",
    user: str = "",
    after: str = "",
    offset: int = 0,
    limit: int = PAGE,
    effort: Effort = Effort(),  # noqa: B008
) -> Page:
    """A page of the studies that meet a filter.

    Parameters
    ----------
    now
        Seconds since 1970.
    sort
        Empty: the reading order; else one of `SORTS`, with ``-`` before it descending.
    user
        Who asks: whose list ``mine`` is.
    after
        `Page.next` of the page before, with the same filter and sort; empty: the first.
    offset
        Studies to pass over from there: for a page that is asked for by its number.

    Raises
    ------
    FilterInvalid
    """
    if not 1 <= limit <= MOST_ROWS:
        raise FilterInvalid(f"a page has 1 to {MOST_ROWS} studies")
    if not 0 <= offset <= _FURTHEST:
        raise FilterInvalid(
            f"page numbers lead to the first {_FURTHEST} studies: go on from the page before, or filter"
        )
    cursor = _cursor(db, after, sort) if after else None
    at = cursor.now if cursor else now
    asked = conditions(wanted.checked(), user, now)
    answer = Question(db, asked, _order(sort, wanted, at, limits), cursor, offset, limit).answer(effort)
    shown = answer.found[:limit]
    rows = _rows(db, [f.uid for f in shown])
    last = shown[-1] if len(answer.found) > limit else answer.ended_at
    passed = answer.count.number if answer.ended_at else offset + len(shown) + (cursor.passed if cursor else 0)
    more = "" if last is None else _token(Cursor(at, last, passed), sort)
    listing = [listed(row, now, limits) for row in rows]
    return Page(listing, answer.count, more, is_complete(db), answer.ended_at is None)


def _order(sort: str, wanted: Filter, now: float, limits: WaitingLimits) -> Order:
    if not sort:
        ranks = [rank for rank, name in enumerate(PRIORITIES) if not wanted.priority or name in wanted.priority]
        return order_at(now, limits, ranks=ranks, read=wanted.read)
    order = SORTS.get(sort.removeprefix("-"))
    if order is None:
        raise FilterInvalid(f"sort is one of {', '.join(SORTS)}, with - before it the other way round")
    if not sort.startswith("-"):
        return order
    ((stream,),) = order.segments
    turned = replace(stream, order=tuple(f"{c} DESC" for c in stream.order), beyond=stream.beyond.replace(">=", "<="))
    return replace(order, segments=((turned,),), descending=True)


def _token(cursor: Cursor, sort: str) -> str:
    keys = [] if sort.endswith(_NAMES_PATIENTS) else cursor.last.keys
    told = json.dumps([sort, cursor.now, keys, cursor.last.uid, cursor.passed], separators=(",", ":"))
    return base64.urlsafe_b64encode(told.encode()).decode().rstrip("=")


def _cursor(db: Connection, token: str, sort: str) -> Cursor:
    try:
        told = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        named, now, keys, uid, passed = told
        cursor = Cursor(float(now), Found(str(uid), tuple(keys)), int(passed))
    except (ValueError, TypeError):
        raise FilterInvalid("this is no cursor of a page: begin with the first page") from None
    if named != sort:
        raise FilterInvalid("the cursor belongs to another order: begin with the first page")
    if sort.endswith(_NAMES_PATIENTS):
        sql = "SELECT coalesce(search_words, '') FROM tasks WHERE study_instance_uid = :uid"
        cursor = replace(cursor, last=Found(uid, (run(db, sql, uid=uid).scalar() or "",)))
    elif len(keys) != (len(SORTS[sort.removeprefix("-")].keys) if sort else 3) or not all(
        isinstance(key, str | int | float) for key in keys
    ):
        raise FilterInvalid("this is no cursor of a page: begin with the first page")
    return cursor


def _rows(db: Connection, uids: list[str]) -> list[dict[str, Any]]:
    if not uids:
        return []
    question = text("SELECT * FROM tasks WHERE study_instance_uid IN :uids").bindparams(
        bindparam("uids", expanding=True)
    )
    rows = {row["study_instance_uid"]: row for row in db.execute(question, {"uids": uids}).mappings()}
    return [{**rows[uid], "result": result_of(rows[uid]["result"])} for uid in uids if uid in rows]


def listed(row: dict[str, Any], now: float, limits: WaitingLimits) -> dict[str, Any]:
    """A task as `Page.rows` has it."""
    rank, received_at, read_at = row["priority_rank"], row["received_at"], row["read_at"]
    changed = read_at is not None and (
        row["answer_version"] != row["read_version"] or row["last_instance_at"] > read_at
    )
    return {
        **named(row),
        "group": place_of(rank, received_at, read_at, now=now, limits=limits).group.name.lower(),
        "due_at": received_at + limits.of_rank(rank),
        "changed": changed,
        "claimed_by": row["claimed_by"] if row["claimed_until"] > now else "",
    }

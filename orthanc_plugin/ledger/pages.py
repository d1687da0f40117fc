"""Pages of the worklist: the studies that fit a filter, in the reading order or by a column.

The rule: a page costs the same however many studies there are, and says so where it could not look at all of them
(``question``).

Pages are led on from by a cursor: a study that keeps its place is met once on the way through all pages, whatever
happens to others. A cursor names the moment of the first page, so that nothing becomes overdue between two pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text

from orthanc_plugin.ledger.cursors import Cursor, read_cursor, token
from orthanc_plugin.ledger.derived import is_complete
from orthanc_plugin.ledger.filters import PRIORITIES, Filter, FilterInvalid, conditions
from orthanc_plugin.ledger.patients import named
from orthanc_plugin.ledger.question import Count, Effort, Question
from orthanc_plugin.ledger.reading_order import Order, Stream, WaitingLimits, order_at, place_of
from orthanc_plugin.ledger.statements import result_of

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
    next, previous
        Cursors of the next page, to be asked for by `after`, and of the one before, by `before`; empty on the last and
        on the first, and both where nothing fits any more.
    complete
        False where the search ended before the page was full, for it had passed very many studies: these are the
        nearest that fit, there may be more, and the next page (or the one before, where that was asked for) goes on
        from there.
    searchable
        Whether every study is found by its words and findings; False for some minutes after an update or a restore.
    """

    rows: list[dict[str, Any]]
    count: Count
    next: str
    previous: str
    searchable: bool
    complete: bool = True


def _column(*columns: str, holds: Sequence[str] = ()) -> Order:
    key = ", ".join(f":key_{n}" for n in range(len(columns)))
    stream = Stream(
        "status <> 'removed'", columns, (*columns, "study_instance_uid"), f"({', '.join(columns)}) >= ({key})"
    )
    return Order(columns, ((stream,),), holds=frozenset(holds))


_TEXTS = frozenset({"study_date", "study_time", "status"})  # keys that are no numbers

# By which a page may be sorted; with "-" before the name the other way round. Each has its index.
SORTS = {
    "received": _column("received_at"),
    "patient": _column("coalesce(search_words, '')"),
    "study_date": _column("study_date", "study_time", holds=("study_date", "search_words")),
    "status": _column("status", "received_at", holds=("status",)),
    "priority": _column("3 - priority_rank", "received_at"),
    "findings": _column("present", "undetermined", "received_at"),
}


def page(
    db: Connection,
    wanted: Filter = Filter(),  # noqa: B008  (it is frozen)
    *,
    now: float,
    limits: WaitingLimits = WaitingLimits(),  # noqa: B008
    sort: str = "",
    user: str = "",
    after: str = "",
    before: str = "",
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
    before
        `Page.previous` of the page after, instead; where no whole page lies before it, this is the first page.
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
    if before and (after or offset):
        raise FilterInvalid("ask for a page by one of before, after and its number")
    cursor = read_cursor(db, after or before, sort, _kinds(sort)) if after or before else None
    at = cursor.now if cursor else now
    back = bool(before)
    asked, order = conditions(wanted.checked(), user, now), _order(sort, wanted, at, limits)
    answer = Question(db, asked, order.turned() if back else order, cursor, offset, limit, back).answer(effort)
    shown = answer.found[:limit]
    onward = shown[-1] if len(answer.found) > limit else answer.ended_at
    if back and onward is None:  # fewer than a page: the first one, with what came after them
        return page(db, wanted, now=now, limits=limits, sort=sort, user=user, limit=limit, effort=effort)
    behind = (shown[0] if shown else answer.ended_at) if cursor or offset else None
    first, last = (onward, behind) if back else (behind, onward)
    passed = cursor.passed if cursor else 0
    if not back:
        passed = answer.count.number if answer.ended_at else passed + offset + len(shown)
    listing = [listed(row, now, limits) for row in _rows(db, [f.uid for f in (shown[::-1] if back else shown)])]
    return Page(
        listing,
        answer.count,
        token(sort, Cursor(at, last, passed)) if last else "",
        token(sort, Cursor(at, first, max(0, passed - len(shown)))) if first else "",
        is_complete(db),
        answer.ended_at is None,
    )


def _order(sort: str, wanted: Filter, now: float, limits: WaitingLimits) -> Order:
    if not sort:
        ranks = [rank for rank, name in enumerate(PRIORITIES) if not wanted.priority or name in wanted.priority]
        return order_at(now, limits, ranks=ranks, read=wanted.read)
    order = SORTS.get(sort.removeprefix("-"))
    if order is None:
        raise FilterInvalid(f"sort is one of {', '.join(SORTS)}, with - before it the other way round")
    return order.turned() if sort.startswith("-") else order


def _kinds(sort: str) -> tuple[type, ...]:
    """Of the keys of a sort."""
    order = SORTS.get(sort.removeprefix("-"))
    if order is None:
        return (float, float, float)  # of `Place`
    return tuple(str if key in _TEXTS else float for key in order.keys)


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

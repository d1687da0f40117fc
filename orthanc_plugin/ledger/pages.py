"""Pages of the worklist: the studies that fit a filter, in the reading order or by a column.

The rule: a page costs the same however many studies there are. A condition that few studies meet is asked for those
studies, which are then put in order (gathered); where all conditions are met by many, the order is followed until a
page is full (walked). Which way is decided by counting up to a limit, not by a planner's guess. A walk that meets too
few is given up, and what the rarest condition has is gathered, however much that is.

Pages are led on from by a cursor: a study that keeps its place is met once on the way through all pages, whatever
happens to others. A cursor names the moment of the first page, so that nothing becomes overdue between two pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text

from orthanc_plugin.ledger.cursors import READING_KEYS, Cursor, read_cursor, token
from orthanc_plugin.ledger.derived import is_complete
from orthanc_plugin.ledger.filters import PRIORITIES, Condition, Filter, FilterInvalid, Range, conditions
from orthanc_plugin.ledger.reading_order import Order, Stream, WaitingLimits, order_at, place_of
from orthanc_plugin.ledger.statements import result_of, run

PAGE = 50
MOST_ROWS = 500  # of one page
_FURTHEST = 10_000  # studies that a page may lie behind the first without a cursor
_COUNTED = 1000  # beyond, a number of studies is told as "1000+"
_SAMPLE = 1000  # studies of a condition that are looked at to tell how many meet the others as well
_FEW = 100  # studies: no condition needs to be rarer


@dataclass(frozen=True)
class Effort:
    """Where one way of finding a page becomes slower than the other, in studies.

    Parameters
    ----------
    gathered
        That are put in order at most, if there is another way.
    walked
        Of each range that are looked at before a walk is given up.
    gathered_of_several
        The same where several conditions are on more than the order's columns: they leave less to be put in order.
    """

    gathered: int = 5000
    walked: int = 40_000
    gathered_of_several: int = 15_000


@dataclass(frozen=True)
class Count:
    """A number of studies; `exact` is False where there may be more."""

    number: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.number}{'' if self.exact else '+'}"


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
        on the first.
    searchable
        Whether every study is found by its words and findings; False for some minutes after an update or a restore.
    """

    rows: list[dict[str, Any]]
    count: Count
    next: str
    previous: str
    searchable: bool


@dataclass(frozen=True)
class _Found:
    uid: str
    keys: tuple[Any, ...]


def _by_keys(found: _Found) -> tuple[Any, ...]:
    return found.keys


def _column(*columns: str) -> Order:
    key = ", ".join(f":key_{n}" for n in range(len(columns)))
    stream = Stream(
        "status <> 'removed'", columns, (*columns, "study_instance_uid"), f"({', '.join(columns)}) >= ({key})"
    )
    return Order(columns, ((stream,),))


# By which a page may be sorted; with "-" before the name the other way round. Each has its index.
SORTS = {
    "received": _column("received_at"),
    "patient": _column("coalesce(search_words, '')"),
    "study_date": _column("study_date", "study_time"),
    "status": _column("status", "received_at"),
    "priority": _column("3 - priority_rank", "received_at"),
}
_ALL = Range("SELECT study_instance_uid FROM tasks WHERE status <> 'removed'", "received_at")


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
    effort: Effort = Effort(),
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
    width = len(SORTS[sort.removeprefix("-")].keys) if sort.removeprefix("-") in SORTS else READING_KEYS
    cursor = read_cursor(db, after or before, sort, width) if after or before else None
    at = cursor.now if cursor else now
    asked, order = conditions(wanted.checked(), user, now), _order(sort, wanted, at, limits)
    question = _Question(db, asked, order.turned() if before else order, cursor, offset, limit + 1)
    found, count = question.answer(effort)
    if before and len(found) <= limit:
        return page(db, wanted, now=now, limits=limits, sort=sort, user=user, limit=limit, effort=effort)
    shown = found[:limit][::-1] if before else found[:limit]
    more = bool(shown) and (bool(before) or len(found) > limit)
    return Page(
        [listed(row, now, limits) for row in _rows(db, [f.uid for f in shown])],
        count,
        token(sort, at, shown[-1].keys, shown[-1].uid) if more else "",
        token(sort, at, shown[0].keys, shown[0].uid) if shown and (cursor or offset) else "",
        is_complete(db),
    )


def _order(sort: str, wanted: Filter, now: float, limits: WaitingLimits) -> Order:
    if not sort:
        ranks = [rank for rank, name in enumerate(PRIORITIES) if not wanted.priority or name in wanted.priority]
        return order_at(now, limits, ranks=ranks, read=wanted.read)
    order = SORTS.get(sort.removeprefix("-"))
    if order is None:
        raise FilterInvalid(f"sort is one of {', '.join(SORTS)}, with - before it the other way round")
    if not sort.startswith("-"):
        return order
    return order.turned()


@dataclass(frozen=True)
class _Question:
    """What one page is asked for: both ways to answer it."""

    db: Connection
    asked: list[Condition]
    order: Order
    cursor: Cursor | None
    offset: int
    limit: int

    def answer(self, effort: Effort) -> tuple[list[_Found], Count]:
        if not self.asked:
            return self._walk(None) or [], self._capped((_ALL,), {}, _COUNTED)
        looked_up = [condition for condition in self.asked if not condition.column]
        most = effort.gathered if len(looked_up) < 2 else effort.gathered_of_several
        rarest, met = self._rarest(most)
        if met > most and (found := self._walk(effort.walked)) is not None:
            return found, self._at_least(rarest, len(found))
        return self._gather(rarest)

    def _rarest(self, most: int) -> tuple[Condition, int]:
        """The condition that the fewest studies meet, and how many, counted to just beyond `most`."""
        rarest, fewest = self.asked[0], most + 2
        for condition in self.asked:
            met = self._capped(condition.ranges, condition.values, min(most + 1, fewest)).number
            if met < fewest:
                rarest, fewest = condition, met
            if fewest <= _FEW:
                break
        return rarest, fewest

    def _capped(self, ranges: Sequence[Range], values: dict[str, Any], most: int) -> Count:
        number = 0
        for one in ranges:
            sql = f"SELECT count(*) FROM ({_limited(one)}) AS c"
            number += int(run(self.db, sql, **values, most=most + 1 - number).scalar_one())
            if number > most:
                return Count(most, False)
        return Count(number, True)

    def _walk(self, most: int | None) -> list[_Found] | None:
        """Follow the order; None when a range had to be left before the page was full."""
        wanted = self.offset + self.limit
        found: list[_Found] = []
        for segment in self.order.segments:
            merged: list[_Found] = []
            missing = wanted - len(found)
            for stream in segment:
                if self.cursor and self.order.is_before(stream.group, self.cursor.keys[0]):
                    continue
                # what comes after those that are already enough is not looked for
                until = merged[missing - 1].keys[1] if len(merged) >= missing else None
                part = self._follow(stream, missing, most, until)
                if part is None:
                    return None
                merged = sorted(merged + part, key=_by_keys, reverse=self.order.descending) if merged else part
            found += merged[:missing]
            if len(found) >= wanted:
                break
        return found[self.offset : wanted]

    def _follow(self, stream: Stream, wanted: int, most: int | None, until: float | None) -> list[_Found] | None:
        where, values = stream.where, {**self._values(), **stream.values}
        if self.cursor and stream.group in (None, self.cursor.keys[0]):
            where += f" AND {stream.beyond} AND {self._is_after(stream.keys)}"
            values |= self._place()
        if until is not None:
            where += f" AND {stream.until}"
            values["until"] = until
        keys = ", ".join(f"{key} AS key_{n}" for n, key in enumerate(stream.keys))
        columns = "".join(f", {column}" for column in self._columns())
        ranged = f"FROM tasks WHERE {where} ORDER BY {', '.join(stream.order)}"
        chosen = f"SELECT study_instance_uid, {keys}{columns} {ranged}"
        if most is None:
            rows = run(self.db, f"{chosen} LIMIT :wanted", **values, wanted=wanted).all()
        else:
            sql = f"SELECT * FROM ({chosen} LIMIT :most) AS t {_where(self.asked, '', *self._columns())} LIMIT :wanted"
            rows = run(self.db, sql, **values, most=most, wanted=wanted).all()
            if len(rows) < wanted:
                further = f"SELECT 1 {ranged} LIMIT 1 OFFSET :most"
                if run(self.db, further, **values, most=most).scalar() is not None:
                    return None
        width = len(stream.keys)
        return [_Found(row[0], tuple(row[1 : 1 + width])) for row in rows]

    def _gather(self, leading: Condition) -> tuple[list[_Found], Count]:
        """Put what one condition finds, and what meets the others too, in order."""
        keys = ", ".join(f"{key} AS key_{n}" for n, key in enumerate(self.order.keys))
        names = [*(f"key_{n}" for n in range(len(self.order.keys))), "study_instance_uid"]
        direction = " DESC" if self.order.descending else ""
        placed = f"WITH {self._met(leading, leading.finds, keys)}"
        after = f"WHERE {self._is_after(names[:-1])}" if self.cursor else ""
        ordered = ", ".join(f"{name}{direction}" for name in names)
        sql = f"""
            {placed} SELECT {", ".join(names)}, (SELECT count(*) FROM met) AS total FROM met {after}
            ORDER BY {ordered} LIMIT :limit OFFSET :offset
        """
        given = {**self._values(), **self._place(), "limit": self.limit, "offset": self.offset}
        rows = run(self.db, sql, **given).all()
        if rows or not (self.cursor or self.offset):
            total = rows[0].total if rows else 0
        else:
            total = run(self.db, f"{placed} SELECT count(*) FROM met", **self._values()).scalar_one()
        count = Count(min(int(total), _COUNTED), int(total) <= _COUNTED)
        return [_Found(row.study_instance_uid, tuple(row[: len(self.order.keys)])) for row in rows], count

    def _at_least(self, rarest: Condition, found: int) -> Count:
        """How many studies meet all conditions, where each is met by many: what a sample shows, or the page."""
        if len(self.asked) == 1:
            return Count(_COUNTED, False)
        sql = f"WITH {self._met(rarest, _limited(rarest.ranges[0]), '1 AS one')} SELECT count(*) FROM met"
        number = int(run(self.db, sql, **self._values(), most=_SAMPLE).scalar_one())
        return Count(min(max(number, self.offset + found), _COUNTED), False)

    def _met(self, leading: Condition, finds: str, keys: str) -> str:
        """A table ``met`` of those that one condition finds and that meet the others; rows are looked up last."""
        columns = "".join(f", {column}" for column in self._columns())
        others = [condition for condition in self.asked if condition is not leading]
        return f"""
            listed AS MATERIALIZED (SELECT study_instance_uid FROM ({finds}) AS f),
            found AS MATERIALIZED (SELECT DISTINCT t.study_instance_uid AS uid FROM listed AS t {_where(others, "")}),
            looked_at AS MATERIALIZED (
                SELECT study_instance_uid, {keys}{columns} FROM found CROSS JOIN tasks
                WHERE study_instance_uid = uid AND status <> 'removed'
            ),
            met AS MATERIALIZED (SELECT * FROM looked_at AS t {_where(others, *self._columns())})
        """

    def _columns(self) -> list[str]:
        """Of tasks, that the conditions look at."""
        return sorted({condition.column for condition in self.asked} - {""})

    def _values(self) -> dict[str, Any]:
        met = {name: value for condition in self.asked for name, value in condition.values.items()}
        return {**self.order.values, **met}

    def _is_after(self, keys: Sequence[str]) -> str:
        than = ", ".join(f":key_{n}" for n in range(len(keys)))
        sign = "<" if self.order.descending else ">"
        return f"({', '.join(keys)}, study_instance_uid) {sign} ({than}, :key_uid)"

    def _place(self) -> dict[str, Any]:
        if self.cursor is None:
            return {}
        return {**{f"key_{n}": key for n, key in enumerate(self.cursor.keys)}, "key_uid": self.cursor.uid}


def _where(asked: Sequence[Condition], *columns: str) -> str:
    """The conditions on these columns of ``t``; with an empty name those on nothing but its UID."""
    holds = [condition.holds for condition in asked if condition.column in columns]
    return f"WHERE {' AND '.join(holds)}" if holds else ""


def _limited(one: Range) -> str:
    """The first ``:most`` studies of a range."""
    return f"{one.finds} {f'ORDER BY {one.along}' if one.along else ''} LIMIT :most"


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
        **row,
        "group": place_of(rank, received_at, read_at, now=now, limits=limits).group.name.lower(),
        "due_at": received_at + limits.of_rank(rank),
        "changed": changed,
        "claimed_by": row["claimed_by"] if row["claimed_until"] > now else "",
    }

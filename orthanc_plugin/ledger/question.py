"""How the studies of one page are found: in an order, after a place, and meeting conditions.

The rule: a page costs the same however many studies there are, and never lacks one without saying so.

- What few studies meet is asked for those, which are then put in order (gathered).
- What many meet is looked for along the order (walked), in indexes that hold what most conditions look at. Which way is
  decided by counting up to a limit, not by a planner's guess.
- A walk that has passed very many studies ends there. What it found is the nearest to where it began; the answer says
  that it is not complete, and goes on from that place when it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping

from orthanc_plugin.ledger.cursors import Cursor, Found
from orthanc_plugin.ledger.filters import Condition, Range
from orthanc_plugin.ledger.reading_order import Order, Stream
from orthanc_plugin.ledger.statements import run

_COUNTED = 1000  # beyond, a number of studies is told as "1000+"
_FEW = 100  # studies: no condition needs to be rarer


@dataclass(frozen=True)
class Effort:
    """What one page may cost, in studies.

    Parameters
    ----------
    gathered
        That are put in order at most.
    gathered_of_several
        The same where further conditions are looked at before any row: they leave less to be put in order.
    tried
        That a walk passes before what can be gathered of several is.
    walked
        That a walk along each range of an index passes before it ends.
    walked_by_row
        The same where each study's row has to be read.
    """

    gathered: int = 3000
    gathered_of_several: int = 25_000
    tried: int = 1000
    walked: int = 20_000
    walked_by_row: int = 5000


@dataclass(frozen=True)
class Count:
    """A number of studies; `exact` is False where there may be more."""

    number: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.number}{'' if self.exact else '+'}"


@dataclass(frozen=True)
class Answer:
    """What was found.

    Parameters
    ----------
    ended_at
        Where the search ended before the page was full and the order at its end; None: it did not.
    """

    found: list[Found]
    count: Count
    ended_at: Found | None = None


@dataclass(frozen=True)
class Question:
    """What one page is asked for.

    Parameters
    ----------
    offset
        Studies to pass over.
    limit
        Studies that a page has.
    back
        Whether the order was turned: the cursor is where the page ends, and the nearest before it are looked for.
    """

    db: Connection
    asked: list[Condition]
    order: Order
    cursor: Cursor | None
    offset: int
    limit: int
    back: bool = False

    def answer(self, effort: Effort) -> Answer:
        """The studies of the page and one more, if there is one."""
        open_ = self._open
        if not open_:
            walked = self._walk(None)
            return replace(walked, count=self._count_all())
        rarest, met = self._rarest(effort.gathered_of_several)
        most = effort.gathered_of_several if self._before_rows(rarest) else effort.gathered
        if met <= min(most, effort.gathered):
            return self._gather(rarest)
        by_row = not {condition.column for condition in open_} <= {"", *self.order.holds}
        further = effort.walked_by_row if by_row else effort.walked
        walked = self._walk(min(effort.tried, further) if met <= most else further)
        if walked.ended_at is not None and met <= most:
            return self._gather(rarest)
        if len(self.asked) == 1:  # counted already, and with more than that
            return replace(walked, count=Count(_COUNTED, False))
        return walked

    # --- which way

    @property
    def _open(self) -> list[Condition]:
        """The conditions that the order itself does not see to."""
        return [condition for condition in self.asked if condition.column not in self.order.sees_to]

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

    def _before_rows(self, leading: Condition) -> list[Condition]:
        """The other conditions that are looked at without the rows of what one condition finds."""
        known = {"", *leading.columns}
        return [condition for condition in self.asked if condition is not leading and condition.column in known]

    def _count_all(self) -> Count:
        """How many studies the order has."""
        number = 0
        for stream in (stream for segment in self.order.segments for stream in segment):
            ranged = f"SELECT 1 FROM tasks WHERE {stream.where} ORDER BY {', '.join(stream.order)} LIMIT :most"
            values = {**self.order.values, **stream.values, "most": _COUNTED + 1 - number}
            number += int(run(self.db, f"SELECT count(*) FROM ({ranged}) AS c", **values).scalar_one())
            if number > _COUNTED:
                return Count(_COUNTED, False)
        return Count(number, True)

    def _capped(self, ranges: Sequence[Range], values: dict[str, Any], most: int) -> Count:
        number = 0
        for one in ranges:
            sql = f"SELECT count(*) FROM ({_limited(one)}) AS c"
            number += int(run(self.db, sql, **values, most=most + 1 - number).scalar_one())
            if number > most:
                return Count(most, False)
        return Count(number, True)

    # --- along the order

    def _walk(self, most: int | None) -> Answer:
        """Follow the order until there is a page, and one more, or until a range was followed for `most` studies."""
        wanted = self.offset + self.limit + 1
        found: list[Found] = []
        end: Found | None = None
        nearest = max if self.order.descending else min
        for segment in self.order.segments:
            merged: list[Found] = []
            missing = wanted - len(found)
            for stream in segment:
                if self.cursor and self.order.is_before(stream.group, self.cursor.place.keys[0]):
                    continue
                # what comes after those that are already enough, or after the end, is not looked for
                edge = merged[missing - 1] if len(merged) >= missing else end
                part, its_end = self._follow(stream, missing, most, edge)
                # no two ranges of a segment have equal keys; within one the database's order of UIDs holds
                merged = sorted(merged + part, key=_by_keys, reverse=self.order.descending) if merged else part
                end = nearest((e for e in (end, its_end) if e), key=_by_keys, default=None)
            if end is not None and len(segment) > 1:
                merged = [f for f in merged if nearest(f.keys, end.keys) == f.keys]
            found += merged[:missing]
            if len(found) >= wanted or end is not None:
                break
        if len(found) >= wanted:
            end = None
        before = self.cursor.passed if self.cursor else 0
        exact = end is None and len(found) < wanted
        count = Count(before if self.back else before + min(len(found), wanted - 1), exact)
        return Answer(found[self.offset : wanted], count, end)

    def _follow(
        self, stream: Stream, wanted: int, most: int | None, edge: Found | None
    ) -> tuple[list[Found], Found | None]:
        """What one range has; and where it was left, if that was before `wanted` were found and before its end."""
        where, values = stream.where, {**self._values(), **stream.values}
        if self.cursor and stream.group in (None, self.cursor.place.keys[0]):
            where += f" AND {stream.beyond} AND {self._is_after(stream.keys)}"
            values |= self._place()
        if edge is not None:
            where += f" AND {stream.until}"
            values["until"] = edge.keys[1]
        keys = ", ".join(f"{key} AS key_{n}" for n, key in enumerate(stream.keys))
        names = sorted({condition.column for condition in self._open} - {""})
        columns = "".join(f", {name}" for name in names)
        ranged = f"FROM tasks WHERE {where} ORDER BY {', '.join(stream.order)}"
        chosen = f"SELECT study_instance_uid, {keys}{columns} {ranged}"
        if most is None:
            return self._all(run(self.db, f"{chosen} LIMIT :wanted", **values, wanted=wanted).mappings()), None
        # each as a value: PostgreSQL makes a join of what is looked up elsewhere, and the rows would lose their order
        met = " AND ".join(f"({condition.holds}) IS TRUE" for condition in self._open)
        sql = f"SELECT * FROM ({chosen} LIMIT :most) AS t WHERE {met} LIMIT :wanted"
        found = self._all(run(self.db, sql, **values, most=most, wanted=wanted).mappings())
        if len(found) >= wanted:
            return found, None
        last = f"SELECT study_instance_uid, {keys} {ranged} LIMIT 2 OFFSET :most"
        ends = self._all(run(self.db, last, **values, most=most - 1).mappings())
        return found, ends[0] if len(ends) == 2 else None

    def _all(self, rows: Iterable[RowMapping]) -> list[Found]:
        width = range(len(self.order.keys))
        return [Found(row["study_instance_uid"], tuple(row[f"key_{n}"] for n in width)) for row in rows]

    # --- from what the rarest condition has

    def _gather(self, leading: Condition) -> Answer:
        """Put what one condition finds, and what meets the others too, in order."""
        keys = ", ".join(f"{key} AS key_{n}" for n, key in enumerate(self.order.keys))
        names = [*(f"key_{n}" for n in range(len(self.order.keys))), "study_instance_uid"]
        direction = " DESC" if self.order.descending else ""
        placed = f"WITH {self._met(leading, keys)}"
        after = f"WHERE {self._is_after(names[:-1])}" if self.cursor else ""
        ordered = ", ".join(f"{name}{direction}" for name in names)
        sql = f"""
            {placed} SELECT {", ".join(names)}, (SELECT count(*) FROM met) AS total FROM met {after}
            ORDER BY {ordered} LIMIT :limit OFFSET :offset
        """
        given = {**self._values(), **self._place(), "limit": self.limit + 1, "offset": self.offset}
        rows = run(self.db, sql, **given).mappings().all()
        if rows or not (self.cursor or self.offset):
            total = rows[0]["total"] if rows else 0
        else:
            total = run(self.db, f"{placed} SELECT count(*) FROM met", **self._values()).scalar_one()
        return Answer(self._all(rows), Count(min(int(total), _COUNTED), int(total) <= _COUNTED))

    def _met(self, leading: Condition, keys: str) -> str:
        """A table ``met`` of those that one condition finds and that meet the others; rows are looked up last."""
        first = self._before_rows(leading)
        last = [condition for condition in self.asked if condition is not leading and condition not in first]
        columns = "".join(f", {name}" for name in sorted({condition.column for condition in last}))
        told = ", ".join(("study_instance_uid", *leading.columns))
        return f"""
            listed AS MATERIALIZED (SELECT {told} FROM ({leading.finds}) AS f),
            found AS MATERIALIZED (SELECT DISTINCT t.study_instance_uid AS uid FROM listed AS t {_where(first)}),
            looked_at AS MATERIALIZED (
                SELECT study_instance_uid, {keys}{columns} FROM found CROSS JOIN tasks
                WHERE study_instance_uid = uid AND status <> 'removed'
            ),
            met AS MATERIALIZED (SELECT * FROM looked_at AS t {_where(last)})
        """

    # --- parts of questions

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
        place = self.cursor.place
        return {**{f"key_{n}": key for n, key in enumerate(place.keys)}, "key_uid": place.uid}


def _by_keys(found: Found) -> tuple[Any, ...]:
    return found.keys


def _where(asked: Sequence[Condition]) -> str:
    """The conditions on a row ``t`` that has their columns."""
    return f"WHERE {' AND '.join(condition.holds for condition in asked)}" if asked else ""


def _limited(one: Range) -> str:
    """The first ``:most`` studies of a range."""
    return f"{one.finds} {f'ORDER BY {one.along}' if one.along else ''} LIMIT :most"

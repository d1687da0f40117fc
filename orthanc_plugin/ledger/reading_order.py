"""In which order people read: the one place that says so, in words, as a function and as SQL.

The rule: the AI can raise a study and never lower one, and none waits for ever. Unread studies first, in groups:

1. critical, the oldest first;
2. every other study past its waiting limit, the one longest past it first;
3. urgent within its limit, the oldest first;
4. routine, and what the AI did not or could not look at, the oldest first: it never stands below what the AI called
   routine.

Then what was read, the latest first, and of what was read at once the more urgent. Priorities are those of
``models/triage.py``; a study waits from when its first image came until somebody marks it as read; one that is no
longer in Orthanc is not shown.

`place_of` is this order for one study. `order_at` is the same as ranges of indexes: which studies are in group 2
changes with time alone, so that no column can hold it. A test holds them against each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

_TIES = (0, 0, 2, 1)  # by priority_rank: see Place
_SLACK_SECONDS = 1.0  # by which an index range is wider than what is meant: sums of seconds are rounded


class Group(IntEnum):
    """What stands above what."""

    CRITICAL = 1
    OVERDUE = 2
    URGENT = 3
    ROUTINE = 4
    READ = 5


@dataclass(frozen=True)
class WaitingLimits:
    """Seconds that a study of each priority may wait for a person; why these: ``docs/triage.md``."""

    critical: float = 900.0
    urgent: float = 3600.0
    routine: float = 14_400.0

    @classmethod
    def of_minutes(cls, minutes: Sequence[float]) -> WaitingLimits:
        """From the setting `waiting_limits_minutes`."""
        critical, urgent, routine = minutes
        return cls(60 * critical, 60 * urgent, 60 * routine)

    def of_rank(self, priority_rank: int) -> float:
        """The limit of a `priority_rank`; what the AI has not looked at waits no longer than routine."""
        return (self.critical, self.urgent, self.routine, self.routine)[priority_rank]


@dataclass(frozen=True, order=True)
class Place:
    """Where a study stands; the smaller goes first, and of equal ones the smaller Study Instance UID.

    Parameters
    ----------
    seconds
        When it came, or when its limit ended (group 2), or when it was read, negative (group 5).
    tie
        Between studies of several priorities in one group at the same moment: what the AI did not look at goes before
        what it called routine, and of what was read the more urgent goes first. It is another for each priority.
    """

    group: Group
    seconds: float
    tie: int = 0


def place_of(
    priority_rank: int, received_at: float, read_at: float | None, *, now: float, limits: WaitingLimits
) -> Place:
    """Where a study stands at a moment; times in seconds since 1970."""
    if read_at is not None:
        return Place(Group.READ, -read_at, priority_rank)
    if priority_rank == 0:
        return Place(Group.CRITICAL, received_at)
    due_at = received_at + limits.of_rank(priority_rank)
    if due_at <= now:
        return Place(Group.OVERDUE, due_at, _TIES[priority_rank])
    return Place(Group.URGENT if priority_rank == 1 else Group.ROUTINE, received_at, _TIES[priority_rank])


@dataclass(frozen=True)
class Stream:
    """Studies of one range of an index, in its order.

    Parameters
    ----------
    where
        The range.
    keys
        What the studies are ordered by, before their UID; the merged order of all streams is by them.
    order
        The same as columns of the index; without the group, which is the same for all.
    beyond
        A range of the index that holds what comes after a cursor, whose keys are ``:key_0``, ``:key_1`` ...; it may be
        wider, for what is exact follows from `keys`.
    until
        A range of the index that holds what comes before a place, whose seconds are ``:until``; as wide as that.
    group
        The first of the keys; None where there is none.
    """

    where: str
    keys: tuple[str, ...]
    order: tuple[str, ...]
    beyond: str = ""
    until: str = ""
    group: Group | None = None
    values: dict[str, Any] = field(default_factory=dict)

    def turned(self) -> Stream:
        """The same studies the other way round."""
        order = tuple(c.removesuffix(" DESC") if c.endswith(" DESC") else f"{c} DESC" for c in self.order)
        return replace(self, order=order, beyond=_turned(self.beyond), until=_turned(self.until))


_OPPOSITES = {">=": "<=", "<=": ">=", "- :slack": "+ :slack", "+ :slack": "- :slack"}


def _turned(condition: str) -> str:
    return re.sub("|".join(map(re.escape, _OPPOSITES)), lambda found: _OPPOSITES[found[0]], condition)


@dataclass(frozen=True)
class Order:
    """An order of studies, in both ways in which a page is found.

    Parameters
    ----------
    keys
        Of any study; with `values`.
    segments
        One after the other; what is in several streams of a segment, the longest first, is to be merged.
    sees_to
        Columns of conditions that all of its studies meet.
    holds
        Columns of conditions that stand in its indexes.
    """

    keys: tuple[str, ...]
    segments: tuple[tuple[Stream, ...], ...]
    descending: bool = False
    sees_to: frozenset[str] = frozenset()
    holds: frozenset[str] = frozenset()
    values: dict[str, Any] = field(default_factory=dict)

    def turned(self) -> Order:
        """The other way round."""
        segments = tuple(tuple(stream.turned() for stream in segment) for segment in reversed(self.segments))
        return replace(self, segments=segments, descending=not self.descending)

    def is_before(self, group: Group | None, place: Group) -> bool:
        """Whether all of a group comes before a place in another one."""
        return group is not None and (group > place if self.descending else group < place)


_LIMIT = "CASE priority_rank WHEN 0 THEN :critical WHEN 1 THEN :urgent ELSE :routine END"
_IS_OVERDUE = f"priority_rank > 0 AND received_at + {_LIMIT} <= :now"
_KEYS = (
    f"CASE WHEN read_at IS NOT NULL THEN 5 WHEN {_IS_OVERDUE} THEN 2 "
    "WHEN priority_rank = 0 THEN 1 WHEN priority_rank = 1 THEN 3 ELSE 4 END",
    f"CASE WHEN read_at IS NOT NULL THEN -read_at WHEN {_IS_OVERDUE} THEN received_at + {_LIMIT} ELSE received_at END",
    f"CASE WHEN read_at IS NOT NULL THEN priority_rank WHEN priority_rank = 2 THEN {_TIES[2]} "
    f"WHEN priority_rank = 3 THEN {_TIES[3]} ELSE 0 END",
)


def order_at(now: float, limits: WaitingLimits, *, ranks: Sequence[int] = (0, 1, 2, 3), read: bool | None) -> Order:
    """The reading order at a moment.

    Parameters
    ----------
    now
        Seconds since 1970.
    ranks
        Of the priorities that are wanted; each is a range of its own.
    read
        Whether only what was read is wanted, or only what was not; None: both.
    """
    # most studies are routine: where enough of them are found, no other stream is followed further than that
    wanted = [rank for rank in (2, 1, 3, 0) if rank in ranks]
    unread = wanted if read is not True else []
    segments = (
        tuple(_unread(Group.CRITICAL, rank, 0.0, now) for rank in unread if rank == 0),
        tuple(_unread(Group.OVERDUE, rank, limits.of_rank(rank), now) for rank in unread if rank > 0),
        tuple(_unread(Group.URGENT, rank, limits.urgent, now) for rank in unread if rank == 1),
        tuple(_unread(Group.ROUTINE, rank, limits.routine, now) for rank in unread if rank > 1),
        tuple(_read(rank) for rank in wanted) if read is not False else (),
    )
    values = {"critical": limits.critical, "urgent": limits.urgent, "routine": limits.routine, "now": now}
    return Order(_KEYS, segments, sees_to=_SEES_TO, holds=_HOLDS, values=values)


_SEES_TO = frozenset({"priority_rank", "read_at"})
_HOLDS = frozenset({"status", "study_date", "search_words"})  # in tasks_unread and tasks_read


def _read(rank: int) -> Stream:
    """Studies of one priority that were read."""
    return Stream(
        f"priority_rank = {rank:d} AND read_at IS NOT NULL AND status <> 'removed'",
        (f"{Group.READ:d}", "-read_at", f"{rank:d}"),
        ("read_at DESC", "study_instance_uid"),
        "read_at <= -:key_1",
        "read_at >= -:until",
        Group.READ,
    )


def _unread(group: Group, rank: int, limit: float, now: float) -> Stream:
    """Unread studies of one priority in one group."""
    where = f"priority_rank = {rank:d} AND read_at IS NULL AND status <> 'removed'"
    seconds, beyond, until = "received_at", "received_at >= :key_1", "received_at <= :until"
    edge = now - limit
    if group is Group.OVERDUE:
        where += " AND received_at <= :edge AND received_at + :limit <= :now"
        seconds, beyond = "received_at + :limit", "received_at >= :key_1 - :limit - :slack"
        until = "received_at <= :until - :limit + :slack"
        edge += _SLACK_SECONDS
    elif group is not Group.CRITICAL:
        where += " AND received_at >= :edge AND received_at + :limit > :now"
        edge -= _SLACK_SECONDS
    values = {"edge": edge, "limit": limit, "now": now, "slack": _SLACK_SECONDS}
    keys = (f"{group:d}", seconds, f"{_TIES[rank]:d}")
    return Stream(where, keys, ("received_at", "study_instance_uid"), beyond, until, group, values)

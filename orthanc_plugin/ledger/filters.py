"""Which studies somebody wants to see: conditions that can be combined, the filters that everybody has, and saved ones.

The rule: what comes from outside is checked here, and each condition says how it is found by an index of its own, so
that whichever is rarest can lead (``pages``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.derived import asked_words
from orthanc_plugin.ledger.statements import run
from orthanc_plugin.ledger.task_states import TaskStatus

PRIORITIES = ("critical", "urgent", "routine", "none")  # by their rank (``models.findings.Priority``)
_STATUSES = tuple(status.value for status in TaskStatus if status is not TaskStatus.REMOVED)
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_DATE = re.compile(r"[0-9]{8}", re.ASCII)  # DA (PS3.5 6.2)
_LONGEST_TEXT = 200
_MOST_WORDS = 8
_MOST_SAVED = 50  # filters of one person
_HIGHEST = "\U0010ffff"  # after every character of a word


class FilterInvalid(ValueError):
    """A condition that is unknown or says nothing; the message tells which are known, and repeats no text of a search.

    It is a `ValueError`, for it is always a mistake in a request.
    """


@dataclass(frozen=True)
class Filter:
    """What all studies on a page have in common; empty: no such condition.

    Parameters
    ----------
    text
        Beginnings of words of the patient's name, the patient ID or the accession number; each must be there.
    status, priority
        One of these.
    present, undetermined
        Keys of findings; each must be so in at least one image, and of no other more telling.
    read
        Whether a person has read it.
    mine
        Assigned to whoever asks, or in their hands.
    claimed_by, assigned_to
        Names of people.
    study_from, study_until
        Study Date, ``YYYYMMDD``, both inclusive.
    reason
        Code of why it was not processed, or failed.
    """

    text: str = field(default="", repr=False)
    status: tuple[str, ...] = ()
    priority: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    undetermined: tuple[str, ...] = ()
    read: bool | None = None
    mine: bool = False
    claimed_by: str = ""
    assigned_to: str = ""
    study_from: str = ""
    study_until: str = ""
    reason: str = ""

    @classmethod
    def from_fields(cls, given: Mapping[str, str]) -> Filter:
        """From the fields of a form: several values are parted by commas; ``read`` and ``mine`` are ``yes`` or ``no``.

        Raises
        ------
        FilterInvalid
        """
        names = [f.name for f in fields(cls)]
        if unknown := sorted(set(given) - set(names)):
            raise FilterInvalid(f"unknown condition {unknown[0][:40]!r}; known are {', '.join(names)}")
        values: dict[str, Any] = {name: value.strip() for name, value in given.items() if value.strip()}
        for name in ("status", "priority", "present", "undetermined"):
            if name in values:
                values[name] = tuple(dict.fromkeys(v.strip() for v in values[name].split(",") if v.strip()))
        for name in ("read", "mine"):
            if name in values:
                if values[name] not in ("yes", "no"):
                    raise FilterInvalid(f"{name} is yes or no")
                values[name] = values[name] == "yes"
        for name in ("study_from", "study_until"):
            if name in values:
                values[name] = values[name].replace("-", "")  # as browsers send dates
        return cls(**values).checked()

    def to_fields(self) -> dict[str, str]:
        """What `from_fields` takes."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) not in ((), "", None)}
        if not self.mine:
            del told["mine"]
        return {name: _told(value) for name, value in told.items()}

    def checked(self) -> Filter:
        """Itself, when every condition can be met.

        Raises
        ------
        FilterInvalid
        """
        for name, known in (("status", _STATUSES), ("priority", PRIORITIES)):
            if set(getattr(self, name)) - set(known):
                raise FilterInvalid(f"{name} is one or more of {', '.join(known)}")
        for name, codes in (("present", self.present), ("undetermined", self.undetermined)):
            if len(codes) > _MOST_WORDS or not all(map(_CODE.fullmatch, codes)):
                raise FilterInvalid(
                    f"{name} names findings by their keys, such as pleural_other; {_MOST_WORDS} at most"
                )
        if self.reason and not _CODE.fullmatch(self.reason):
            raise FilterInvalid("reason is a code, such as view_conflict")
        for name in ("study_from", "study_until"):
            if getattr(self, name) and not _is_date(getattr(self, name)):
                raise FilterInvalid(f"{name} is a date that there is: YYYYMMDD")
        if self.study_from and self.study_until and self.study_from > self.study_until:
            raise FilterInvalid("study_from is not after study_until")
        if len(self.text) > _LONGEST_TEXT or len(asked_words(self.text)) > _MOST_WORDS:
            raise FilterInvalid(f"search for {_MOST_WORDS} words at most")
        return self


def _is_date(value: str) -> bool:
    try:
        return bool(_DATE.fullmatch(value) and datetime.strptime(value, "%Y%m%d"))
    except ValueError:
        return False


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Range:
    """Studies of one range of an index.

    Parameters
    ----------
    finds
        A question that gives their UIDs, perhaps some twice, or removed ones.
    along
        A column of the index, by whose order no planner prefers to read the table.
    columns
        Of tasks, that it gives as well, for they stand in its index.
    """

    finds: str
    along: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Condition:
    """One condition in SQL.

    Parameters
    ----------
    holds
        For a row ``t`` that has `study_instance_uid`, and `column` if that is not empty.
    column
        Of tasks: the one that it looks at; empty where the study is looked up instead.
    ranges
        Where its studies are found.
    """

    holds: str
    column: str
    ranges: tuple[Range, ...]
    values: dict[str, Any]

    @property
    def finds(self) -> str:
        """A question that gives the UIDs of its studies, perhaps some twice, or removed ones."""
        return " UNION ALL ".join(one.finds for one in self.ranges)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is known of each of them without reading its row."""
        return self.ranges[0].columns


def conditions(wanted: Filter, user: str, now: float) -> list[Condition]:
    """What a filter asks for, what is told soonest first; each condition has parameters of its own.

    Parameters
    ----------
    user
        Whose list `mine` is.
    now
        When claims must not have run out.
    """
    found = []
    if wanted.status:
        found.append(_one_of("status", wanted.status, ""))
    if wanted.priority:
        ranks = [PRIORITIES.index(priority) for priority in wanted.priority]
        found.append(_one_of("priority_rank", ranks, "3 - "))
    if wanted.read is not None:
        is_read = f"read_at IS {'NOT ' if wanted.read else ''}NULL"
        along = f"priority_rank, {'read_at DESC' if wanted.read else 'received_at'}"
        found.append(Condition(is_read, "read_at", (_of_tasks(f"{is_read} AND status <> 'removed'", along),), {}))
    if wanted.assigned_to:
        found.append(
            _of_row("assigned_to = :assigned", "assigned_to <> ''", "assigned_to", assigned=wanted.assigned_to)
        )
    if wanted.claimed_by:
        held = "claimed_by = :claimer AND claimed_until > :at"
        found.append(_of_row(held, "claimed_by <> ''", "claimed_by", claimer=wanted.claimed_by, at=now))
    if wanted.mine:
        found.append(_mine(user, now))
    if wanted.reason:
        found.append(_of_row("reason = :reason", "reason IS NOT NULL", "reason", reason=wanted.reason))
    words = asked_words(wanted.text)
    found += [_word(number, word) for number, word in enumerate(words)]
    if wanted.text.strip() and not words:  # neither a letter nor a digit: no study has such a word
        found.append(Condition("1 = 0", "", (Range("SELECT study_instance_uid FROM tasks WHERE 1 = 0", ""),), {}))
    for state, keys in (("present", wanted.present), ("undetermined", wanted.undetermined)):
        found += [_finding(number, key, state) for number, key in enumerate(keys)]
    if wanted.study_from or wanted.study_until:
        found.append(_dated(wanted.study_from or "0", wanted.study_until or "9"))
    return found


def _one_of(column: str, values: Sequence[Any], of: str) -> Condition:
    """That a column has one of some values; its index is of the column with `of` before it, and `received_at`."""
    named = {f"{column}_{number}": value for number, value in enumerate(values)}
    ranges = [_of_tasks(f"{of}{column} = {of}:{name} AND status <> 'removed'", "received_at") for name in named]
    return Condition(f"{column} IN ({', '.join(f':{name}' for name in named)})", column, tuple(ranges), named)


def _of_row(holds: str, indexed: str, along: str, **values: Any) -> Condition:
    """That something holds of a study's row; `indexed` is what its partial index is made for."""
    return Condition(_has("tasks", holds), "", (_of_tasks(f"{holds} AND {indexed}", along),), values)


def _mine(user: str, now: float) -> Condition:
    theirs = (
        _of_tasks("assigned_to = :me AND assigned_to <> ''", "assigned_to"),
        _of_tasks("claimed_by = :me AND claimed_by <> '' AND claimed_until > :at", "claimed_by"),
    )
    mine = "(assigned_to = :me OR (claimed_by = :me AND claimed_until > :at))"
    return Condition(_has("tasks", mine), "", theirs, {"me": user, "at": now})


def _word(number: int, word: str) -> Condition:
    low, high, like = f"word_{number}", f"word_{number}_end", f"word_{number}_like"
    within = f"term >= :{low} AND term < :{high}"
    which = Range(
        f"SELECT study_instance_uid, search_words FROM search_terms WHERE {within}", "term", ("search_words",)
    )
    # words are letters and digits: nothing in them means anything to LIKE
    holds = f"' ' || search_words LIKE :{like}"
    return Condition(holds, "search_words", (which,), {low: word, high: word + _HIGHEST, like: f"% {word}%"})


def _dated(first: str, last: str) -> Condition:
    between = "study_date >= :date_from AND study_date <= :date_until"
    which = Range(
        f"SELECT study_instance_uid, search_words FROM tasks WHERE {between} AND status <> 'removed'",
        "study_date",
        ("search_words",),
    )
    return Condition(between, "study_date", (which,), {"date_from": first, "date_until": last})


def _finding(number: int, key: str, state: str) -> Condition:
    name = f"{state}_{number}"
    is_so = f"key = :{name} AND state = '{state}'"
    which = Range(f"SELECT study_instance_uid FROM study_findings WHERE {is_so}", "study_instance_uid")
    return Condition(_has("study_findings", is_so), "", (which,), {name: key})


def _of_tasks(where: str, along: str) -> Range:
    return Range(f"SELECT study_instance_uid FROM tasks WHERE {where}", along)


def _has(table: str, where: str) -> str:
    return f"EXISTS (SELECT 1 FROM {table} WHERE study_instance_uid = t.study_instance_uid AND {where})"


@dataclass(frozen=True)
class NamedFilter:
    """A filter with its name, and how its studies are sorted (see ``pages``; empty: in the reading order)."""

    name: str
    filter: Filter
    sort: str = ""


# What everybody has; `name` is also the key of its words on the page.
NAMED = (
    NamedFilter("unread_critical", Filter(read=False, priority=("critical",))),
    NamedFilter("unread", Filter(read=False)),
    NamedFilter("my_list", Filter(read=False, mine=True)),
    NamedFilter("failed", Filter(status=("quarantined",)), "-received"),
    NamedFilter("not_processed", Filter(status=("not_processed",)), "-received"),
)


def save_filter(db: Connection, owner: str, saved: NamedFilter) -> None:
    """Keep a filter of one person under its name, in place of the one before.

    Raises
    ------
    FilterInvalid
    """
    name = saved.name.strip()
    if not 1 <= len(name) <= 60 or name in {shared.name for shared in NAMED}:
        raise FilterInvalid("give the filter a name of 1 to 60 characters that no other has")
    kept = {filter.name for filter in saved_filters(db, owner)}
    if name not in kept and len(kept) >= _MOST_SAVED:
        raise FilterInvalid(f"{_MOST_SAVED} filters are saved already: delete one")
    run(
        db,
        """
        INSERT INTO saved_filters (owner, name, fields) VALUES (:owner, :name, :fields)
        ON CONFLICT (owner, name) DO UPDATE SET fields = excluded.fields
        """,
        owner=owner,
        name=name,
        fields=json.dumps({"filter": saved.filter.checked().to_fields(), "sort": saved.sort}),
    )


def saved_filters(db: Connection, owner: str) -> list[NamedFilter]:
    """The filters of one person, by name; one that this Hilum cannot use is left out."""
    rows = run(db, "SELECT name, fields FROM saved_filters WHERE owner = :owner ORDER BY name", owner=owner)
    found = []
    for row in rows:
        kept = json.loads(row.fields)
        try:
            found.append(NamedFilter(row.name, Filter.from_fields(kept["filter"]), kept["sort"]))
        except FilterInvalid:
            continue
    return found


def delete_filter(db: Connection, owner: str, name: str) -> bool:
    """Forget a filter of one person; False when there was none of this name."""
    return (
        run(db, "DELETE FROM saved_filters WHERE owner = :owner AND name = :name", owner=owner, name=name).rowcount > 0
    )

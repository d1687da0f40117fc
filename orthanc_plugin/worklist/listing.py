"""One page of the worklist beside its rows: what was asked for, what people think of it, how it looks. Pure, no I/O.

The rule: a filter in force is told in words, with how many studies it leaves, and one click from none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from models.names import in_words, within_sentence
from orthanc_plugin.worklist.rows import ReadingState, WorklistRow

SOON = 0.75  # of its limit: from there on a study's waiting is shown as pressing
STATUS_WORDS = {
    "queued": "Queued",
    "running": "Reading",
    "answered": "Answered, waits for further images",
    "done": "Done",
    "not_processed": "Not processed",
    "quarantined": "Failed",
}
# Filters that everybody has: their words, and the key that follows "g"
NAMED_WORDS = {
    "all": ("All", "a"),
    "unread": ("Unread", "u"),
    "unread_critical": ("Unread critical", "c"),
    "my_list": ("My list", "m"),
    "failed": ("Failed", "f"),
    "not_processed": ("Not processed", "n"),
}
SORT_WORDS = {
    "received": "by time received",
    "patient": "by patient",
    "study_date": "by study date",
    "status": "by status",
    "priority": "by priority",
    "findings": "by number of findings",
}
_MOST_FIRST = ("received", "study_date", "findings")  # columns that a click sorts the latest, or the most, first


@dataclass(frozen=True)
class Waiting:
    """How long a study has waited for a person, against the limit of its priority.

    Parameters
    ----------
    state
        ``within``, ``soon`` or ``over``.
    share
        Of the limit, in percent, 0 to 100.
    waited, told
        In words: ``12 min`` and ``of 15 min``, or ``40 min over``.
    """

    state: str
    share: int
    waited: str
    told: str


def waiting(row: WorklistRow, now: float) -> Waiting:
    """How long it has waited, as of the last full minute: what is shown stays the same until the next one, and a page
    in which nothing happens needs no new rows. That a limit is passed is shown at once.
    """
    limit, clock = row.reading.due_at - row.received_at, now - now % 60
    seconds = max(0.0, clock - row.received_at)
    if now >= row.reading.due_at:
        return Waiting("over", 100, minutes(seconds), f"{minutes(clock - row.reading.due_at)} over")
    share = min(99, math.floor(100 * seconds / limit))
    return Waiting("soon" if share >= 100 * SOON else "within", share, minutes(seconds), f"of {minutes(limit)}")


def minutes(seconds: float) -> str:
    """A duration as ``< 1 min``, ``12 min``, ``3 h 05`` or ``2 d 4 h``."""
    whole = max(0, math.floor(seconds / 60))
    if whole == 0:
        return "< 1 min"
    if whole < 60:
        return f"{whole} min"
    if whole < 24 * 60:
        return f"{whole // 60} h" + (f" {whole % 60:02d}" if whole % 60 else "")
    days, hours = divmod(whole // 60, 24)
    return f"{days} d" + (f" {hours} h" if hours else "")


@dataclass(frozen=True)
class Opinion:
    """What somebody said: of a finding (`agrees`), or as a note (`finding` empty)."""

    by: str
    at: float
    finding: str = ""
    agrees: bool = True
    words: str = field(default="", repr=False)


@dataclass(frozen=True)
class Choice:
    """A filter that is one click away."""

    name: str
    words: str
    fields: Mapping[str, str]
    in_force: bool
    key: str = ""
    saved: bool = False

    @property
    def url(self) -> str:
        """Where it is; what searches for words has none, for addresses are kept in logs."""
        return "/hilum/" + (f"?{urlencode(self.fields)}" if self.fields else "")


@dataclass(frozen=True)
class Look:
    """How somebody wants the page to look and sound; an empty theme is dark, for reading rooms are."""

    theme: str = ""
    size: str = ""
    sound: str = ""
    notices: str = ""
    window: str = ""
    keys: str = ""

    @classmethod
    def of_cookie(cls, value: str) -> Look:
        """From what `to_cookie` made; whatever else stands there counts as nothing."""
        pairs = (pair.partition(":") for pair in value.split("."))
        given = {name: chosen for name, _, chosen in pairs if chosen in LOOKS.get(name, ())}
        return cls(**given)

    def to_cookie(self) -> str:
        """What a browser keeps: nothing of a patient or a person."""
        return ".".join(f"{name}:{chosen}" for name, chosen in vars(self).items() if chosen)


LOOKS = {
    "theme": ("light", "system"),
    "size": ("big",),
    "sound": ("on",),
    "notices": ("on",),
    "window": ("second",),
    "keys": ("off",),
}


@dataclass(frozen=True)
class Listing:
    """What a page of the worklist is made from.

    Parameters
    ----------
    count
        Of the studies that fit, e.g. ``142`` or ``1000+``.
    next, previous
        Cursors of the next page and of the one before; empty on the last, and on the first.
    after, before
        The cursor that this page was asked for by, if any.
    complete
        False where the search ended before the page was full: there may be more that fit beyond it.
    asked
        Fields of the filter in force.
    critical
        Study Instance UIDs of critical studies that nobody has read, whatever the filter: those that came last.
    critical_number
        How many there are.
    opinions
        What people said, by study.
    people
        Whom a study can be assigned to; told with the whole page only.
    said
        What came of the last action, and whether it was refused.
    """

    rows: tuple[WorklistRow, ...]
    count: str
    next: str = ""
    previous: str = ""
    after: str = ""
    before: str = ""
    asked: Mapping[str, str] = field(default_factory=dict, repr=False)
    sort: str = ""
    searchable: bool = True
    complete: bool = True
    critical: tuple[str, ...] = ()
    critical_number: int = 0
    choices: tuple[Choice, ...] = ()
    opinions: Mapping[str, tuple[Opinion, ...]] = field(default_factory=dict)
    visitor: tuple[str, str] = ("", "")
    may_mark: bool = False
    people: tuple[str, ...] = ()
    look: Look = Look()
    said: tuple[str, bool] = ("", False)

    @property
    def here(self) -> dict[str, str]:
        """The fields that lead to this page."""
        own = {"sort": self.sort, "after": self.after, "before": self.before}
        return {**self.asked, **{name: value for name, value in own.items() if value}}

    @property
    def next_up(self) -> str:
        """The study to read next: the first that nobody has read, nor has in hand; only in the reading order."""
        if self.sort or self.previous:
            return ""
        unread = (row for row in self.rows if row.reading.read_at is None)
        return next((r.study_instance_uid for r in unread if r.reading.claimed_by in ("", self.visitor[0])), "")

    def opinions_of(self, row: WorklistRow, finding: str) -> list[Opinion]:
        """What people think of one finding of a study; for an empty one their notes."""
        return [o for o in self.opinions.get(row.study_instance_uid, ()) if o.finding == finding]

    def is_mine(self, reading: ReadingState) -> bool:
        """Whether whoever looks has the study in hand."""
        return bool(reading.claimed_by) and reading.claimed_by == self.visitor[0]

    @property
    def in_words(self) -> str:
        """The filter in force, e.g. ``unread, critical, pneumothorax present``; empty: none."""
        return ", ".join(_words_of(name, value) for name, value in self.asked.items())

    def turned(self, column: str) -> str:
        """How a click on a column's head sorts: by it, then the other way round, then in the reading order."""
        first, second = (f"-{column}", column) if column in _MOST_FIRST else (column, f"-{column}")
        return {first: second, second: ""}.get(self.sort, first)


def _words_of(name: str, value: str) -> str:
    listed = value.split(",")
    if name == "status":
        return " or ".join(STATUS_WORDS.get(v, v).lower() for v in listed)
    if name in ("present", "undetermined"):
        return " and ".join(f"{within_sentence(v)} {name}" for v in listed)
    day = f"{value[:4]}-{value[4:6]}-{value[6:]}"
    return {
        "text": f"“{value}”",
        "priority": " or ".join("not rated" if v == "none" else v for v in listed),
        "read": "read" if value == "yes" else "unread",
        "mine": "on your list",
        "claimed_by": f"in hand of {value}",
        "assigned_to": f"assigned to {value}",
        "study_from": f"from {day}",
        "study_until": f"until {day}",
        "reason": f"reason {in_words(value).lower()}",
    }.get(name, f"{name} {value}")

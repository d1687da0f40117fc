"""Every address below ``/hilum``: who may use it, by which methods, and what is recorded of it.

The rule: what does not stand here does not exist (``routes`` answers 404), and the guard asks this table. The table of
docs/security.md is made from it, and a test holds it to that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from orthanc_plugin.access.roles import ROLES_OF_PEOPLE, Action, may

_PART = re.compile(r"<[a-z]+>")


@dataclass(frozen=True)
class Address:
    """One address, or several of a kind.

    Parameters
    ----------
    methods
        Of HTTP, that it understands.
    path
        Below ``/hilum/``; ``<study>`` stands for any one part.
    action
        What it takes (``access.roles``); None: everybody may, without a log-in.
    recorded
        As in the audit log; empty: not at all.
    what
        What it is, in words.
    """

    methods: tuple[str, ...]
    path: str
    action: Action | None
    recorded: str
    what: str

    @property
    def roles(self) -> tuple[str, ...]:
        """The people who may use it; empty: everybody, without a log-in."""
        return tuple(role.value for role in ROLES_OF_PEOPLE if may(role, self.action)) if self.action else ()


ADDRESSES = (
    Address(("GET", "POST"), "", Action.VIEW_WORKLIST, "view_worklist", "the worklist; by POST a search by words"),
    Address(("GET", "POST"), "rows", Action.VIEW_WORKLIST, "view_worklist", "its rows, which it asks for anew"),
    Address(("GET",), "thumbnails/<report>", Action.VIEW_WORKLIST, "", "the small picture in a row"),
    Address(("POST",), "mark", Action.MARK, "mark", "claims, read and unread, agreement, notes, assigning, undo"),
    Address(("POST",), "filters", Action.VIEW_WORKLIST, "filters", "keep or forget a filter of one's own"),
    Address(("POST",), "look", Action.VIEW_WORKLIST, "", "dark, light, big type, sound: a cookie"),
    Address(("GET",), "studies/<study>", Action.VIEW_STUDY, "view_study", "the page of a study"),
    Address(("GET",), "studies/<study>/images/<report>/<layer>", Action.VIEW_STUDY, "view_study", "its pictures"),
    Address(("GET",), "studies/<study>/rendered/<image>", Action.VIEW_STUDY, "view_study", "an image not read"),
    Address(("GET",), "studies/<study>/documents/<report>", Action.VIEW_STUDY, "view_study", "the tree of a report"),
    Address(("GET",), "admin", Action.ADMINISTER, "view_admin", "the admin page: node, quarantine, users, audit log"),
    Address(("GET",), "admin/models/<name>/<version>/<file>", Action.ADMINISTER, "", "the card of a model"),
    Address(
        ("POST",), "admin/elsewhere", Action.ADMINISTER, "read_elsewhere", "mark all before a day as read elsewhere"
    ),
    Address(("GET",), "metrics", Action.VIEW_METRICS, "", "numbers for Prometheus; no patient, no study"),
    Address(("GET",), "api/status", Action.VIEW_STATUS, "", "how the node is; no patient"),
    Address(("GET",), "api/visitor", Action.VIEW_WORKLIST, "", "who asks, and what they may do"),
    Address(("GET", "POST"), "api/worklist", Action.VIEW_WORKLIST, "view_worklist", "the worklist for programs"),
    Address(("GET",), "api/images", Action.VIEW_WORKLIST, "view_worklist", "images, and what became of them"),
    Address(("POST",), "api/priorities", Action.VIEW_WORKLIST, "view_worklist", "priorities, for OHIF's study list"),
    Address(("POST",), "api/retry", Action.RETRY, "retry", "have studies in quarantine tried again"),
    Address(("POST",), "api/reread", Action.RETRY, "reread", "have a study read once more"),
    Address(("GET", "POST"), "login", None, "log_in", "the page to log in"),
    Address(("GET", "POST"), "logout", None, "log_out", "log out (POST)"),
    Address(("GET",), "static/<file>", None, "", "style sheets and scripts"),
)


def address_of(path: str) -> Address | None:
    """The address that a path such as ``/hilum/studies/1.2.3`` is of; None: there is none."""
    name = path.removeprefix("/hilum").strip("/")
    return next((address for address, pattern in _patterns() if pattern.fullmatch(name)), None)


def in_words() -> Iterator[str]:
    """The rows of a table in Markdown, one for each address."""
    for address in ADDRESSES:
        roles = ", ".join(address.roles) or "everybody, without a log-in"
        recorded = f"`{address.recorded}`" if address.recorded else "-"
        yield f"| `{'`, `'.join(address.methods)}` | `/hilum/{address.path}` | {roles} | {recorded} | {address.what} |"


@cache
def _patterns() -> tuple[tuple[Address, re.Pattern[str]], ...]:
    return tuple((address, _pattern(address.path)) for address in ADDRESSES)


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("[^/]+".join(re.escape(part) for part in _PART.split(path)))

"""Marking all studies that were received before a day as read elsewhere, and taking that back: for admins.

The rule: how many of each priority it would be is shown before, and is what is done, or nothing is; in steps, so that
nothing else waits for the ledger, and for some seconds at most, after which it can be gone on with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from sqlalchemy import Connection

from orthanc_plugin.hosting.messages import NOT_STORED, TEXT, Request, Response
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.hosting.telling import told
from orthanc_plugin.ledger.elsewhere import Act, acts, mark_elsewhere, take_back_act, unread_before

_STEP = 200  # studies in one transaction
_BREATH_SECONDS = 0.02  # in which others may write
_SECONDS = 8.0  # of one request
_AUDIT_SECONDS = 1.0


@dataclass(frozen=True)
class Elsewhere:
    """What the admin page shows of it.

    Parameters
    ----------
    before
        The day that was asked for, as ``2026-11-20``; empty when none was, or it is none.
    unread
        How many studies would be marked, by priority.
    """

    before: str
    unread: dict[str, int]
    acts: tuple[Act, ...]

    @property
    def number(self) -> int:
        """Of all priorities."""
        return sum(self.unread.values())

    @property
    def counted(self) -> str:
        """What was shown, e.g. ``critical:1,routine:4``."""
        return _counted(self.unread)


def asked_for(request: Request, db: Connection, now: float) -> Elsewhere:
    """What the address of the admin page asks for (``before=2026-11-20``)."""
    day = request.query.get("before", "")
    seconds = _seconds(day)
    if seconds is None:
        return Elsewhere("", {}, tuple(acts(db)))
    return Elsewhere(day, unread_before(db, seconds, request.visitor.who.name, now=now), tuple(acts(db)))


def change(request: Request, site: Site, now: float) -> Response:
    """Answer a form: ``do=mark`` with the day and what was counted, or ``do=take_back`` with the act."""
    form = {name: values[-1] for name, values in request.form().items()}
    if form.get("do") == "take_back":
        return _take_back(form.get("made_at", ""), request, site, now)
    day, user = form.get("before", ""), request.visitor.who.name
    seconds = _seconds(day)
    if form.get("do") != "mark" or seconds is None:
        return told(request, 400, "Give a day that has begun.", "As the admin page asks for it.")
    with site.ledger.read() as db:
        unread = unread_before(db, seconds, user, now=now)
    number = sum(unread.values())
    if form.get("counted") != _counted(unread):
        others = "" if form.get("number") != str(number) else " of other priorities"
        return told(request, 409, f"It would be {number} studies{others} now.", "Nothing was marked: count them again.")
    act = Act(now, user, seconds)
    marked = _in_steps(site, lambda db: mark_elsewhere(db, act, now=now, most=_STEP))
    return _done(request, site, f"{marked} studies received before {day}", day if marked < number else "")


def _take_back(made_at: str, request: Request, site: Site, now: float) -> Response:
    with site.ledger.read() as db:
        act = next((act for act in acts(db) if str(act.made_at) == made_at), None)
    if act is None:
        return told(request, 404, "This is no longer known.", "Mark single studies as unread on the worklist.")
    user, place = request.visitor.who.name, ""

    def step(db: Connection) -> int:
        nonlocal place
        place = take_back_act(db, act, user, now=now, after=place, most=_STEP)
        return int(bool(place))

    _in_steps(site, step)
    return _done(request, site, f"taken back, of {act.number} studies", "")


def _in_steps(site: Site, step: Callable[[Connection], int]) -> int:
    """Take steps until one gives 0 or the time is over; the sum of what they gave."""
    total, until = 0, time.monotonic() + _SECONDS
    while time.monotonic() < until:
        with site.ledger.write() as db:
            came = step(db)
        if not came:
            break
        total += came
        time.sleep(_BREATH_SECONDS)
    return total


def _done(request: Request, site: Site, detail: str, day: str) -> Response:
    site.audit.record("read_elsewhere", request.visitor.who, detail=detail, wait_seconds=_AUDIT_SECONDS)
    query = f"?{urlencode({'before': day})}" if day else ""
    return Response(303, TEXT, b"", {**NOT_STORED, "Location": f"/hilum/admin{query}#elsewhere"})


def _counted(unread: dict[str, int]) -> str:
    return ",".join(f"{priority}:{number}" for priority, number in unread.items())


def _seconds(day: str) -> float | None:
    """When a day begins here; None when it is none, or has not begun."""
    try:
        begins = datetime.strptime(day, "%Y-%m-%d").astimezone().timestamp()
    except (ValueError, OverflowError):
        return None
    return begins if begins <= time.time() else None

"""The worklist page: from what somebody asked for to what it shows.

The rule: what may name a patient comes in the body of a POST alone, for addresses are kept in logs; and a filter that
cannot be used is told, not silently left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy import Connection

from orthanc_plugin.access.roles import Action
from orthanc_plugin.hosting.messages import HTML, PAGE_HEADERS, Request, Response, cookie_of
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger.filters import NAMED, Filter, FilterInvalid, saved_filters
from orthanc_plugin.ledger.mark_history import judgements, written_notes
from orthanc_plugin.ledger.marks import MarkKind
from orthanc_plugin.ledger.pages import MOST_ROWS, PAGE, Page
from orthanc_plugin.ledger.pages import page as ledger_page
from orthanc_plugin.ledger.reading_order import WaitingLimits
from orthanc_plugin.ledger.views import unread_critical
from orthanc_plugin.worklist import page, rows
from orthanc_plugin.worklist.listing import NAMED_WORDS, Choice, Listing, Look, Opinion

LOOK_COOKIE = "hilum_look"
_PAGING = ("sort", "after", "before", "limit", "page")
_MOST_CRITICAL = 100  # of the latest, by which a browser tells what is new


def fields_of(request: Request) -> dict[str, str]:
    """What the address or the form asks for; what is empty asks for nothing."""
    given = request.given()
    for name in ("present", "undetermined"):  # as people write it
        if name in given:
            given[name] = given[name].strip().lower().replace(" ", "_")
    return {name: value.strip() for name, value in given.items() if value.strip()}


def address(fields: Mapping[str, str], study: str = "") -> str:
    """Where a page is, and a study on it."""
    told = {name: value for name, value in fields.items() if name != "text"}
    return "/hilum/" + (f"?{urlencode(told)}" if told else "") + (f"#study-{quote(study)}" if study else "")


def ledger_page_of(
    site: Site, db: Connection, now: float, given: Mapping[str, str], *, user: str, most: int = MOST_ROWS
) -> Page:
    """The page that `sort`, `limit`, `page`, `after`, `before` and the fields of a filter ask for.

    Raises
    ------
    FilterInvalid
    """
    asked = dict(given)
    paging = {name: asked.pop(name, "") for name in _PAGING}
    numbers = {name: paging[name] or default for name, default in (("limit", str(most)), ("page", "1"))}
    if not all(number.isascii() and number.isdecimal() and len(number) < 7 for number in numbers.values()):
        raise FilterInvalid("limit and page are whole numbers from 1")
    limit = int(numbers["limit"])
    return ledger_page(
        db,
        Filter.from_fields(asked),
        now=now,
        limits=_limits(site),
        sort=paging["sort"],
        user=user,
        after=paging["after"],
        before=paging["before"],
        offset=(int(numbers["page"]) - 1) * limit,
        limit=limit,
    )


def listing(
    request: Request,
    site: Site,
    db: Connection,
    fields: Mapping[str, str],
    now: float,
    *,
    said: tuple[str, bool] = ("", False),
    whole: bool = True,
) -> Listing:
    """What the page shows; a filter that cannot be used is told, and none is in force.

    Parameters
    ----------
    whole
        Whether it is more than the rows: then also who a study can be assigned to.
    """
    user = request.visitor.who.name
    try:
        found = ledger_page_of(site, db, now, fields, user=user, most=PAGE)
    except FilterInvalid as error:
        fields, said = {}, (f"{error}. No filter is in force: this is the whole list.", True)
        found = ledger_page_of(site, db, now, fields, user=user, most=PAGE)
    asked = {name: value for name, value in fields.items() if name not in _PAGING}
    edges = fields.keys() & {"after", "before"}
    if edges and not found.rows and found.complete:  # all of it was read meanwhile, or a search went on to nothing
        said = said if said[0] else ("Nothing further fits: this is the first page.", False)
        fields = {name: value for name, value in fields.items() if name not in edges}
        found = ledger_page_of(site, db, now, fields, user=user, most=PAGE)
    sort = fields.get("sort", "")
    critical = unread_critical(db, _MOST_CRITICAL)
    listed = tuple(rows.worklist_row(task) for task in found.rows)
    return Listing(
        rows=listed,
        count=str(found.count),
        next=found.next,
        previous=found.previous,
        after=fields.get("after", ""),
        before=fields.get("before", "") if found.previous else "",
        asked=Filter.from_fields(asked).to_fields(),
        sort=sort,
        searchable=found.searchable,
        complete=found.complete,
        critical=critical.latest,
        critical_number=critical.number,
        choices=_choices(db, user, Filter.from_fields(asked), sort),
        opinions=_opinions(db, [row.study_instance_uid for row in listed if row.marks]),
        visitor=(user, request.visitor.who.role),
        may_mark=request.visitor.may(Action.MARK),
        people=readers(site, user) if whole else (),
        look=look_of(request),
        said=said,
    )


def without_ledger(request: Request) -> Listing:
    """What is known when the ledger cannot be asked: who looks."""
    who = request.visitor.who
    return Listing((), "", visitor=(who.name, who.role), look=look_of(request))


def rows_unless_seen(request: Request, listed: Listing, status: dict[str, Any], now: float) -> Response:
    """The rows, or 304 where they are what the browser has already."""
    tag = f'"{page.seen_as(listed, status, now)}"'
    headers = {**PAGE_HEADERS, "ETag": tag}
    if request.has(tag):
        return Response(304, HTML, b"", headers)
    return Response(200, HTML, page.render_rows(listed, status, now).encode(), headers)


def look_of(request: Request) -> Look:
    """How this browser wants the page."""
    return Look.of_cookie(cookie_of(request.headers, LOOK_COOKIE))


def _limits(site: Site) -> WaitingLimits:
    return WaitingLimits.of_minutes(site.settings.waiting_limits_minutes)


def _choices(db: Connection, user: str, wanted: Filter, sort: str) -> tuple[Choice, ...]:
    shared = [("all", Filter(), "")] + [(named.name, named.filter, named.sort) for named in NAMED]
    found = [
        Choice(name, NAMED_WORDS[name][0], _with_sort(filter_, by), wanted == filter_, NAMED_WORDS[name][1])
        for name, filter_, by in shared
    ]
    own = [
        Choice(own.name, own.name, _with_sort(own.filter, own.sort), (wanted, sort) == (own.filter, own.sort), "", True)
        for own in saved_filters(db, user)
    ]
    return (*found, *own)


def _with_sort(wanted: Filter, sort: str) -> dict[str, str]:
    return {**wanted.to_fields(), **({"sort": sort} if sort else {})}


def _opinions(db: Connection, uids: list[str]) -> dict[str, tuple[Opinion, ...]]:
    said = judgements(db, uids)
    notes = written_notes(db, uids)
    return {
        uid: tuple(
            Opinion(mark.made_by, mark.made_at, mark.finding, mark.kind is not MarkKind.DISAGREE, mark.note)
            for mark in (*said.get(uid, ()), *notes.get(uid, ()))
        )
        for uid in uids
    }


def readers(site: Site, user: str) -> tuple[str, ...]:
    """Who a study can be assigned to."""
    users = site.users().items()
    return tuple(sorted({user} | {name for name, account in users if account.role.value in ("radiologist", "admin")}))

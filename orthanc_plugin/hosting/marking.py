"""What people do from the worklist: marks of reading, saved filters, and how the page looks.

The rule: each change is answered in words; what is refused says by whom and what to do, and is in the audit log too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs

from sqlalchemy import Connection

from models.names import in_words
from orthanc_plugin.hosting.messages import NOT_STORED, TEXT, Request, Response
from orthanc_plugin.hosting.reading_page import LOOK_COOKIE, address, look_of
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger import mark_history, marks
from orthanc_plugin.ledger.filters import Filter, FilterInvalid, NamedFilter, delete_filter, save_filter
from orthanc_plugin.ledger.mark_refusals import MarkRefused
from orthanc_plugin.ledger.marks import Mark, MarkKind
from orthanc_plugin.worklist.listing import LOOKS

_AUDIT_SECONDS = 1.0
_MOST_STUDIES = 500  # marked at once
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
_LOOK_SECONDS = 365 * 24 * 3600
_SAID = {
    MarkKind.CLAIM: "in your hands",
    MarkKind.RELEASE: "released",
    MarkKind.READ: "marked as read",
    MarkKind.UNREAD: "marked as unread",
    MarkKind.ASSIGN: "assigned",
    MarkKind.AGREE: "agreed",
    MarkKind.DISAGREE: "disagreed",
    MarkKind.NOTE: "noted",
    MarkKind.UNDO: "taken back",
}


@dataclass(frozen=True)
class Done:
    """What came of it, in words; `study` is the one that it was about, if it was one."""

    said: str
    refused: bool = False
    study: str = ""

    def to_json(self) -> dict[str, object]:
        """As the page's script reads it."""
        return {"said": self.said, "refused": self.refused}


def mark(request: Request, site: Site, now: float) -> Done:
    """Do to one or more studies what a form says (`do`), and record it."""
    form, user = _form(request), request.visitor.who.name
    studies = list(dict.fromkeys(form.get("study", ())))
    given = {name: values[-1] for name, values in form.items()}
    kind, _, finding = given.get("do", "").partition(":")
    if kind == "undo":
        return _undo(request, site, now, studies[0] if studies else "")
    if not studies or len(studies) > _MOST_STUDIES or not all(map(_UID.fullmatch, studies)):
        return Done("Choose a study first.", refused=True)
    do = _doing(kind, finding, given, site, user=user, now=now, alone=len(studies) == 1)
    if do is None:
        return Done("The page asked for something unknown: load it again.", refused=True)
    with site.ledger.write() as db:
        marks.keep_claims(db, user, now=now, seconds=_claim_seconds(site))
        came = marks.in_bulk(studies, lambda uid: do(db, uid))
    refused = {refusal.study_instance_uid for refusal in came.refused}
    for uid in studies:
        _record(request, site, kind, uid, "refused" if uid in refused else "done", last=uid == studies[-1])
    said = _SAID[MarkKind(_KINDS[kind])] + (f": {in_words(finding)}" if finding else "")
    if len(studies) == 1:
        return Done(str(came.refused[0]) if refused else f"Study {said}.", bool(refused), studies[0])
    told = f"{len(studies) - len(refused)} of {len(studies)} studies {said}."
    reasons = sorted({str(refusal) for refusal in came.refused})
    return Done(" ".join([told, *(f"Refused: {reason}." for reason in reasons)]), bool(refused))


_KINDS = {"mine": "assign", "nobody": "assign"} | {
    kind: kind for kind in ("claim", "release", "read", "unread", "assign", "agree", "disagree", "note")
}


def _doing(
    kind: str, finding: str, given: Mapping[str, str], site: Site, *, user: str, now: float, alone: bool
) -> Callable[[Connection, str], Mark | None] | None:
    """What a word of the form does to one study; None when the word is unknown."""
    seconds, comment = _claim_seconds(site), given.get("comment", "").strip()
    seen = given.get("seen", "") if alone else ""
    version = int(seen) if seen.isdecimal() and len(seen) < 9 else None
    to = {"mine": user, "nobody": ""}.get(kind, given.get("to", "").strip())
    if kind == "assign" and to not in {"", user, *site.users()}:
        return None
    known: dict[str, Callable[[Connection, str], Mark | None]] = {
        "claim": lambda db, uid: marks.claim(db, uid, user, now=now, seconds=seconds),
        "release": lambda db, uid: marks.release(db, uid, user, now=now),
        "read": lambda db, uid: marks.mark_read(db, uid, user, now=now, seen_version=version),
        "unread": lambda db, uid: marks.mark_unread(db, uid, user, now=now),
        "agree": lambda db, uid: marks.judge(db, uid, user, finding, agrees=True, now=now, comment=comment),
        "disagree": lambda db, uid: marks.judge(db, uid, user, finding, agrees=False, now=now, comment=comment),
        "note": lambda db, uid: marks.add_note(db, uid, user, comment, now=now),
    }
    assigned = {name: lambda db, uid: marks.assign(db, uid, user, to, now=now) for name in ("mine", "nobody", "assign")}
    return {**known, **assigned}.get(kind)


def _undo(request: Request, site: Site, now: float, study: str) -> Done:
    user = request.visitor.who.name
    try:
        with site.ledger.write() as db:
            made = mark_history.undo(db, user, now=now, claim_seconds=_claim_seconds(site), study_instance_uid=study)
            (undone,) = (m for m in mark_history.history(db, made.study_instance_uid) if m.number == made.undoes)
    except MarkRefused as refusal:
        _record(request, site, "undo", refusal.study_instance_uid, "refused", last=True)
        return Done(f"{str(refusal)[0].upper()}{str(refusal)[1:]}.", refused=True, study=refusal.study_instance_uid)
    _record(request, site, "undo", made.study_instance_uid, "done", last=True)
    return Done(f"Taken back: study {_SAID[undone.kind]}.", study=made.study_instance_uid)


def change_filters(request: Request, site: Site) -> Done:
    """Save the filter in force under a name, or forget one of one's own."""
    form, user = _form(request), request.visitor.who.name
    name = form.get("name", [""])[-1].strip()
    with site.ledger.write() as db:
        if form.get("do") == ["forget"]:
            return Done("The filter is forgotten." if delete_filter(db, user, name) else "There is no such filter.")
        asked = back_of(request)
        sort = asked.pop("sort", "")
        asked = {name: value for name, value in asked.items() if name not in ("after", "before")}
        try:
            save_filter(db, user, NamedFilter(name, Filter.from_fields(asked), sort))
        except FilterInvalid as error:
            return Done(f"{error}.", refused=True)
    return Done("The filter is saved.")


def keep_look(request: Request) -> Response:
    """Have the browser keep how the page looks: a form field for each thing, empty for what the system says."""
    form = _form(request)
    chosen = {name: form[name][-1] for name in LOOKS if name in form}
    known = {name: value for name, value in chosen.items() if value == "" or value in LOOKS[name]}
    value = replace(look_of(request), **known).to_cookie()
    kept = f"{LOOK_COOKIE}={value}; Path=/hilum; Max-Age={_LOOK_SECONDS}; HttpOnly; SameSite=Lax"
    headers = {**NOT_STORED, "Set-Cookie": kept, "Location": address(back_of(request))}
    return Response(303 if "text/html" in request.headers.get("accept", "") else 200, TEXT, b"", headers)


def back_of(request: Request) -> dict[str, str]:
    """The list that a form was on: the fields that lead there."""
    return {name: values[-1] for name, values in parse_qs(_form(request).get("back", [""])[-1]).items()}


def study_page_of(request: Request) -> str:
    """The study on whose own page a form was; empty when it was on the list."""
    form = _form(request)
    return form["study"][0] if form.get("page") == ["study"] and form.get("study") else ""


def _form(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)


def _claim_seconds(site: Site) -> float:
    return 60 * site.settings.claim_minutes


def _record(request: Request, site: Site, kind: str, study: str, outcome: str, *, last: bool) -> None:
    """Into the audit log; the request waits for the last of its entries, which the others precede."""
    wait = _AUDIT_SECONDS if last else 0.0
    site.audit.record("mark", request.visitor.who, study, outcome=outcome, detail=kind, wait_seconds=wait)

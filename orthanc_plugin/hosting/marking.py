"""What people do from the worklist: marks of reading, saved filters, and how the page looks.

The rule: each change is answered in words; what is refused says by whom and what to do, and is in the audit log too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qs

from sqlalchemy import Connection

from models.names import in_words
from orthanc_plugin.access.audit import Who
from orthanc_plugin.access.roles import Role
from orthanc_plugin.hosting.messages import NOT_STORED, TEXT, Request, Response
from orthanc_plugin.hosting.reading_page import LOOK_COOKIE, address, look_of, readers
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger import judging, mark_history, marks
from orthanc_plugin.ledger.filters import Filter, FilterInvalid, NamedFilter, delete_filter, save_filter
from orthanc_plugin.ledger.mark_refusals import AnswerChanged, MarkRefused, NotEvaluated
from orthanc_plugin.ledger.marks import Bulk, Mark, MarkKind, Seen
from orthanc_plugin.worklist.listing import LOOKS

_AUDIT_SECONDS = 1.0
NOT_RECORDED = "not in the audit log yet"
_MOST_STUDIES = 500  # marked at once
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
_SEEN = re.compile(r"(?:([0-9.]{1,64}):)?([0-9]{1,8}):(critical|urgent|routine|none)", re.ASCII)
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
    """What came of it.

    Parameters
    ----------
    said
        In words.
    study
        The one that it was about, if it was one.
    status
        Of the answer (RFC 9110).
    studies
        Those that were changed.
    problem
        What is wrong although it was done; empty: nothing.
    """

    said: str
    refused: bool = False
    study: str = ""
    status: int = 200
    studies: tuple[str, ...] = ()
    problem: str = ""

    def to_json(self) -> dict[str, object]:
        """As the page's script reads it."""
        told = {"said": self.said, "refused": self.refused, "study_instance_uids": list(self.studies)}
        return told | ({"problem": self.problem} if self.problem else {})


def _refused(said: str, study: str = "", *, status: int = 409) -> Done:
    return Done(said, True, study, status)


def mark(request: Request, site: Site, now: float) -> Done:
    """Do to one or more studies what a form says (`do`), and record it."""
    form, user = _form(request), request.visitor.who.name
    studies = list(dict.fromkeys(form.get("study", ())))
    given = {name: values[-1] for name, values in form.items()}
    kind, _, finding = given.get("do", "").partition(":")
    if kind == "undo":
        return _undo(request, site, now, studies[0] if studies else "")
    if not studies or len(studies) > _MOST_STUDIES or not all(map(_UID.fullmatch, studies)):
        return _refused("Choose a study first.")
    seen = _seen(form.get("seen", ()), studies)
    if seen is None:
        return _refused("The page said wrongly which answers were looked at (seen): load it again.", status=400)
    do = _doing(kind, finding, given, site, who=request.visitor.who, now=now, seen=seen)
    if do is None and kind == "assign":
        return _refused("Assign it to somebody who reads: a radiologist or an admin.")
    if do is None:
        return _refused("The page asked for something unknown: load it again.")
    with site.ledger.write() as db:
        marks.begin_act(db, user)
        came = marks.in_bulk(studies, lambda uid: do(db, uid))
        for made in came.done:
            marks.keep_claim(db, made.study_instance_uid, user, now=now, seconds=_claim_seconds(site))
    written = _record(request, site, kind, came, studies)
    done = _done(came, studies, _SAID[MarkKind(_KINDS[kind])] + (f": {in_words(finding)}" if finding else ""))
    return done if written else _unrecorded(done)


def _done(came: Bulk, studies: Sequence[str], said: str) -> Done:
    """What came of doing something, `said`, to these studies; why some are left."""
    refused = {refusal.study_instance_uid for refusal in came.refused}
    if len(studies) == 1 and refused:
        refusal = came.refused[0]
        return _refused(str(refusal), studies[0], status=400 if isinstance(refusal, NotEvaluated) else 409)
    changed = tuple(uid for uid in studies if uid not in refused)
    if len(studies) == 1:
        return Done(f"Study {said}.", study=studies[0], studies=changed)
    told = f"{len(changed)} of {len(studies)} studies {said}."
    told = " ".join([told, *(f"{reason}." for reason in _reasons(came))])
    return Done(told, bool(refused), status=409 if refused else 200, studies=changed)


_KINDS = {"mine": "assign", "nobody": "assign"} | {
    kind: kind for kind in ("claim", "release", "read", "unread", "assign", "agree", "disagree", "note")
}


def _doing(
    kind: str, finding: str, given: Mapping[str, str], site: Site, *, who: Who, now: float, seen: Mapping[str, Seen]
) -> Callable[[Connection, str], Mark | None] | None:
    """What a word of the form does to one study; None when the word is unknown."""
    user, is_admin = who.name, who.role == Role.ADMIN
    seconds, comment, report = _claim_seconds(site), given.get("comment", "").strip(), given.get("report", "")
    to = {"mine": user, "nobody": ""}.get(kind, given.get("to", "").strip())
    if kind == "assign" and to not in {"", *readers(site, user)}:
        return None

    def judged(db: Connection, uid: str) -> Mark:
        said, version = kind == "agree", seen[uid].version if uid in seen else None
        return judging.judge(
            db, uid, user, finding, agrees=said, now=now, comment=comment, report=report, seen_version=version
        )

    known: dict[str, Callable[[Connection, str], Mark | None]] = {
        "claim": lambda db, uid: marks.claim(db, uid, user, now=now, seconds=seconds),
        "release": lambda db, uid: marks.release(db, uid, user, now=now, of_anybody=is_admin),
        "read": lambda db, uid: _mark_read(db, uid, user, now, seen.get(uid)),
        "unread": lambda db, uid: marks.mark_unread(db, uid, user, now=now),
        "agree": judged,
        "disagree": judged,
        "note": lambda db, uid: judging.add_note(db, uid, user, comment, now=now),
    }
    assigned = {name: lambda db, uid: marks.assign(db, uid, user, to, now=now) for name in ("mine", "nobody", "assign")}
    return {**known, **assigned}.get(kind)


def _seen(given: Sequence[str], studies: Sequence[str]) -> dict[str, Seen] | None:
    """What was looked at of each study: ``UID:VERSION:PRIORITY``, or ``VERSION:PRIORITY`` alone of the only one.

    None: what is given cannot be so. What is empty says nothing; a list names those that were not chosen as well.
    """
    seen: dict[str, Seen] = {}
    for value in filter(None, given):
        found = _SEEN.fullmatch(value)
        if found is None or (found[1] is None and len(studies) != 1):
            return None
        looked_at = Seen(int(found[2]), found[3])
        if seen.setdefault(found[1] or studies[0], looked_at) != looked_at:
            return None
    return seen


def _mark_read(db: Connection, uid: str, user: str, now: float, seen: Seen | None) -> Mark:
    """Who does not say which answer they looked at can have read a study that has none, and no other."""
    try:
        return marks.mark_read(db, uid, user, now=now, seen=seen or Seen())
    except AnswerChanged:
        if seen is not None:
            raise
        raise AnswerChanged(uid, "the AI has answered: say which answer was looked at (seen)") from None


def _undo(request: Request, site: Site, now: float, study: str) -> Done:
    user = request.visitor.who.name
    try:
        with site.ledger.write() as db:
            came = mark_history.undo(db, user, now=now, claim_seconds=_claim_seconds(site), study_instance_uid=study)
            made = [mark for made in came.done for mark in mark_history.history(db, made.study_instance_uid)]
    except MarkRefused as refusal:
        came, made = Bulk((), (refusal,)), []
    undone = {(mark.study_instance_uid, mark.undoes) for mark in came.done}
    said = sorted({_told(mark) for mark in made if (mark.study_instance_uid, mark.number) in undone})
    changed = tuple(mark.study_instance_uid for mark in came.done)
    left = [refusal.study_instance_uid for refusal in came.refused]
    written = _record(request, site, "undo", came, [*changed, *left])
    reasons = _reasons(came, alone=not changed and len(left) == 1)
    if not changed:
        return _refused(f"{reasons[0][0].upper()}{reasons[0][1:]}.", left[0])
    several = len(changed) + len(left) > 1
    told = f"{len(changed)} of {len(changed) + len(left)} studies" if several else "study"
    words = " ".join([f"Taken back: {told} {', '.join(said)}.", *(f"{reason}." for reason in reasons)])
    done = Done(words, bool(left), "" if several else changed[0], 409 if left else 200, changed)
    return done if written else _unrecorded(done)


def _told(mark: Mark) -> str:
    return _SAID[mark.kind] + (f": {in_words(mark.finding)}" if mark.finding else "")


def _reasons(came: Bulk, *, alone: bool = False) -> list[str]:
    """Why something was refused, with how many studies each reason is of."""
    counted = Counter(str(refusal) for refusal in came.refused)
    return [reason if alone else f"{number} refused: {reason}" for reason, number in sorted(counted.items())]


def change_filters(request: Request, site: Site) -> Done:
    """Save the filter in force under a name, or forget one of one's own; its name may be a patient's: not recorded."""
    kind = "forget" if _form(request).get("do") == ["forget"] else "save"
    done = _forget_filter(request, site) if kind == "forget" else _save_filter(request, site)
    outcome = "refused" if done.refused else "done"
    written = site.audit.record(
        "filters", request.visitor.who, outcome=outcome, detail=kind, wait_seconds=_AUDIT_SECONDS
    )
    return done if written else _unrecorded(done)


def _forget_filter(request: Request, site: Site) -> Done:
    with site.ledger.write() as db:
        known = delete_filter(db, request.visitor.who.name, _filter_name(request))
    return Done("The filter is forgotten.") if known else _refused("There is no such filter.")


def _save_filter(request: Request, site: Site) -> Done:
    asked = back_of(request)
    sort = asked.pop("sort", "")
    asked = {name: value for name, value in asked.items() if name not in ("after", "before")}
    try:
        wanted = NamedFilter(_filter_name(request), Filter.from_fields(asked), sort)
        with site.ledger.write() as db:
            save_filter(db, request.visitor.who.name, wanted)
    except FilterInvalid as error:
        return _refused(f"{error}.")
    return Done("The filter is saved.")


def _filter_name(request: Request) -> str:
    return _form(request).get("name", [""])[-1].strip()


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
    return request.form(blank=True)


def _claim_seconds(site: Site) -> float:
    return 60 * site.settings.claim_minutes


def _record(request: Request, site: Site, kind: str, came: Bulk, studies: Sequence[str]) -> bool:
    """Into the audit log; the request waits for the last of its entries, which the others precede.

    False when the disk does not have them all yet.
    """
    refused = {refusal.study_instance_uid for refusal in came.refused}
    made = {mark.study_instance_uid: mark for mark in came.done}
    written = True
    for uid in studies:
        outcome, wait = "refused" if uid in refused else "done", _AUDIT_SECONDS if uid == studies[-1] else 0.0
        detail = _detail(kind, made.get(uid))
        written &= site.audit.record(
            "mark", request.visitor.who, uid, outcome=outcome, detail=detail, wait_seconds=wait
        )
    return written


def _detail(kind: str, made: Mark | None) -> str:
    """What was done; of what was refused its kind alone, for the rest is as somebody typed it."""
    if made is not None and made.kind is MarkKind.ASSIGN:
        return f"assign to {made.note or 'nobody'}"
    return f"{kind} {made.finding}" if made is not None and made.finding else kind


def _unrecorded(done: Done) -> Done:
    """Done, and the audit log does not have it."""
    return replace(done, said=f"{done.said} It is not in the audit log yet.", problem=NOT_RECORDED)

"""What the node answers under ``/hilum/``: functions from a request to a response, without Orthanc.

The rule: an answer never shows a stack trace, every page says that the results are the AI's, not verified, and nothing
is changed on behalf of another site.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection

from orthanc_plugin.access.roles import Action
from orthanc_plugin.hosting import admin_page, elsewhere, health, marking, metrics, reading_page, retrying, study_page
from orthanc_plugin.hosting.addresses import address_of
from orthanc_plugin.hosting.bundle_files import evaluated
from orthanc_plugin.hosting.guard import action_of
from orthanc_plugin.hosting.messages import (
    HTML,
    NOT_STORED,
    PAGE_HEADERS,
    TEXT,
    UID,
    FormRefused,
    Request,
    Response,
    is_ours,
    picture,
)
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.hosting.telling import told
from orthanc_plugin.ledger import tasks, views
from orthanc_plugin.ledger.database import LedgerError
from orthanc_plugin.ledger.delivery_views import Undelivered, undelivered
from orthanc_plugin.ledger.filters import FilterInvalid
from orthanc_plugin.ledger.notes import ALL_COMPARED, LAST_RECONCILIATION, ORPHANS, workers_seen
from orthanc_plugin.ledger.ownership import LedgerOfAnotherArchive
from orthanc_plugin.ledger.pages import MOST_ROWS
from orthanc_plugin.ledger.pages import page as ledger_page
from orthanc_plugin.ledger.tasks import TaskStatus
from orthanc_plugin.trust import seconds_left
from orthanc_plugin.worklist import page, rows

_STATIC = Path(page.__file__).with_name("static")
_MIME = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_NO_PICTURE = Response(404, TEXT, b"There is no picture of this result.\n", NOT_STORED)
_MOST_PRIORITIES = 500  # at once
_NO_TEXT = b"Send what you search for as POST: an address is kept in logs.\n"
_NOT_OURS = b"Only the worklist itself may ask for this, or a program that sends the header X-Requested-With.\n"


def respond(request: Request, site: Site) -> Response:
    """Answer a request below ``/hilum``; when the ledger cannot be asked, with what is wrong."""
    name, address = request.path.removeprefix("/hilum").strip("/"), address_of(request.path)
    if name.startswith("static/"):
        return _static(name.removeprefix("static/"))
    if (action := action_of(request.method, request.path)) is None or not request.visitor.may(action):
        return Response(403, TEXT, b"Your role does not allow this.\n", NOT_STORED)
    if address is None:
        return told(request, 404, "There is no such page.", "The worklist is at /hilum/.")
    if request.method not in address.methods:
        methods = ", ".join(address.methods)
        return Response(405, TEXT, f"Only {methods} is understood here.\n".encode(), {**NOT_STORED, "Allow": methods})
    if name == "api/visitor":
        allowed = [action for action in Action if request.visitor.may(action)]
        return _json({"name": request.visitor.who.name, "role": request.visitor.role, "may": allowed})
    return _with_ledger(name, request, site)


def _with_ledger(name: str, request: Request, site: Site) -> Response:
    now, (blocked, _) = time.time(), site.intake()
    if isinstance(blocked, LedgerOfAnotherArchive):  # its studies are nobody's here to see or to change
        return _without_ledger(name, request, site, blocked, now)
    try:
        if name in ("api/retry", "api/reread", "admin/elsewhere", "mark", "filters", "look"):
            return _change(name, request, site, now)
        if name in ("", "rows"):
            _record_view_of_list(name, request, site)
            return _worklist_page(name, request, site, now)
        with site.ledger.read() as db:
            return _answer(name, request, site, db, now)
    except FormRefused as refusal:
        return told(request, refusal.status, str(refusal))
    except LedgerError as error:
        return _without_ledger(name, request, site, error, now)


def _answer(name: str, request: Request, site: Site, db: Connection, now: float) -> Response:
    if name in ("api/status", "metrics"):
        watched = name == "metrics"
        status = _status(site, db, now, whole=not watched)
        return metrics.respond(site, db, status, now) if watched else _json(status)
    if name == "api/images":
        _record_view_of_list(name, request, site)
        return _images(db, request.query)
    if name.startswith("thumbnails/"):
        report, study = name.removeprefix("thumbnails/"), request.query.get("study_instance_uid", "")
        content = site.fetch_thumbnail(report) if _is_report_of(db, report, study) else None
        return _NO_PICTURE if content is None else picture(request, content, report)
    if name.startswith("studies/"):
        return study_page.respond(name.removeprefix("studies/"), request, site, db, now)
    if name.startswith("admin"):
        below = name.removeprefix("admin").strip("/")
        return admin_page.respond(below, request, site, db, lambda: _status(site, db, now))
    _record_view_of_list(name, request, site)
    return _priorities(request, db) if name == "api/priorities" else _worklist(request, site, db, now)


def _priorities(request: Request, db: Connection) -> Response:
    """Priority, status and whether it was read, of the studies that a form names; those that there are."""
    wanted = list(dict.fromkeys(request.form().get("study_instance_uid", ())))
    if len(wanted) > _MOST_PRIORITIES or not all(map(UID.fullmatch, wanted)):
        return Response(400, TEXT, f"Give {_MOST_PRIORITIES} UIDs at most.\n".encode(), NOT_STORED)
    return _json({"studies": views.priorities(db, wanted), "research_only": rows.DISCLAIMER})


def _worklist_page(
    name: str, request: Request, site: Site, now: float, *, said: tuple[str, bool] = ("", False)
) -> Response:
    """The page, or its rows alone; after an action also what came of it."""
    fields = reading_page.fields_of(request)
    if said[0]:
        fields = marking.back_of(request)
    elif request.method == "GET" and "text" in fields:
        return Response(400, TEXT, _NO_TEXT, NOT_STORED)
    elif request.method == "POST" and name == "" and "text" not in fields:
        return Response(303, TEXT, b"", {**NOT_STORED, "Location": reading_page.address(fields)})
    with site.ledger.read() as db:
        listed = reading_page.listing(request, site, db, fields, now, said=said, whole=name == "")
        status = _status(site, db, now, whole=False)
    if name == "rows":
        return reading_page.rows_unless_seen(request, listed, status, now)
    code = (409 if said[0] else 400) if listed.said[1] else 200
    return replace(_html(page.render_page(listed, status, now)), status=code)


def _change(name: str, request: Request, site: Site, now: float) -> Response:
    """What people do with studies, saved filters and the look of the page, in forms of ours."""
    if not is_ours(request.headers):
        return Response(403, TEXT, _NOT_OURS, NOT_STORED)
    if name in ("api/retry", "api/reread"):
        return (retrying.retry if name == "api/retry" else retrying.reread)(request, site, now)
    if name == "admin/elsewhere":
        return elsewhere.change(request, site, now)
    if name == "look":
        return marking.keep_look(request)
    return _mark(name, request, site, now)


def _mark(name: str, request: Request, site: Site, now: float) -> Response:
    done = marking.mark(request, site, now) if name == "mark" else marking.change_filters(request, site)
    if "text/html" not in request.headers.get("accept", ""):
        return replace(_json(done.to_json()), status=done.status)
    if name == "mark" and (study := marking.study_page_of(request)):
        return _back_to_study(study, done, request, site, now)
    back = marking.back_of(request)
    if done.refused or done.problem or "text" in back:
        told = (done.said, done.refused)
        return replace(_worklist_page("", request, site, now, said=told), status=done.status)
    return Response(303, TEXT, b"", {**NOT_STORED, "Location": reading_page.address(back, done.study)})


def _back_to_study(study: str, done: marking.Done, request: Request, site: Site, now: float) -> Response:
    """The page of the study that the form was on; after a refusal with what was said."""
    if not (done.refused or done.problem):
        return Response(303, TEXT, b"", {**NOT_STORED, "Location": f"/hilum/studies/{quote(study)}"})
    with site.ledger.read() as db:
        return replace(study_page.respond(study, request, site, db, now, said=done.said), status=done.status)


def _worklist(request: Request, site: Site, db: Connection, now: float) -> Response:
    """A page of the worklist; what may name a patient comes in the body, for addresses are kept in logs."""
    given = request.given()
    if request.method != "POST" and "text" in given:
        return Response(400, TEXT, _NO_TEXT, NOT_STORED)
    try:
        found = reading_page.ledger_page_of(site, db, now, given, user=request.visitor.who.name)
    except FilterInvalid as error:
        return Response(400, TEXT, f"{error}\n".encode(), NOT_STORED)
    if found.rows and (given.keys() & {"after", "before"} or given.get("page", "1") != "1"):
        first, last = (found.rows[place]["study_instance_uid"] for place in (0, -1))
        words = f"{len(found.rows)} further studies, {first} to {last}"
        site.audit.record_view("view_worklist", request.visitor.who, detail=words)
    listed = [rows.to_json(rows.worklist_row(task)) for task in found.rows]
    return _json(
        {
            "rows": listed,
            "count": found.count.number,
            "count_is_exact": found.count.exact,
            "next": found.next or None,
            "previous": found.previous or None,
            "searchable": found.searchable,
            "complete": found.complete,
            "research_only": rows.DISCLAIMER,
        }
    )


def _without_ledger(name: str, request: Request, site: Site, error: LedgerError, now: float) -> Response:
    status = _status(site, None, now, error)
    if name == "api/status":
        return _json(status)
    if name == "metrics":
        return metrics.respond(site, None, status, now)
    if name == "":
        return _html(page.render_page(reading_page.without_ledger(request), status, now, ledger=False))
    if name == "rows":  # a page that is open keeps its rows, and shows this above them
        return Response(503, HTML, page.render_problems(status).encode(), dict(PAGE_HEADERS))
    if name.startswith("api/"):
        return _json({"problems": status["problems"]}, 503)
    known = [f"{status['disk_free_mb']} MB are free on the disk."] if name == "admin" else []
    what = "This page cannot be shown without the ledger, which does not answer."
    return told(request, 503, what, *known, "Images are kept meanwhile; try again.", problems=status["problems"])


def _status(
    site: Site, db: Connection | None, now: float, error: LedgerError | None = None, *, whole: bool = True
) -> dict[str, Any]:
    """How the node is; without `db` as far as that is known without the ledger.

    Parameters
    ----------
    whole
        Whether each study is counted, which takes longer the more there are; the worklist needs those in quarantine.
    """
    silent = health.WORKER_SILENT_SECONDS
    models = tasks.ready_models(db, now=now, silent_seconds=silent) if db else None
    workers = workers_seen(db, now=now, silent_seconds=silent) if db else []
    if db is None:
        studies = {}
    elif whole:
        studies = tasks.count_by_status(db)
    else:
        studies = {TaskStatus.QUARANTINED: views.count_quarantined(db)}
    oldest = tasks.oldest_waiting(db, now) if db else None
    blocked, unrecorded = site.intake()
    found = health.problems(
        health.Vitals(
            ledger_error=error or blocked,
            free_mb=site.free_space.free_mb(),
            read_only=site.free_space.read_only(),
            reserve_mb=site.free_space.reserve_mb,
            worker_seen=bool(workers),
            worker_problem=next((w["problem"] for w in workers if w["problem"]), ""),
            running_seconds=time.monotonic() - site.started_at,
            complete=db is None or tasks.get_fact(db, ALL_COMPARED) is not None,
            unrecorded=unrecorded,
            quarantined=studies.get(tasks.TaskStatus.QUARANTINED, 0),
            oldest_waiting_seconds=oldest,
            orphans=len(json.loads(tasks.get_fact(db, ORPHANS) or "[]")) if db else 0,
            clock_jump_seconds=site.clock.jump_seconds(),
            audit_error=(site.audit.problem or ("", 0))[0],
            audit_waiting=(site.audit.problem or ("", 0))[1],
            collected=site.collected(),
            undelivered=_undelivered(site, db, now) if db else (),
            entrance_error=site.entrance(),
            certificate_seconds=seconds_left(site.settings, time.time()),
        )
    )
    reconciled = tasks.get_fact(db, LAST_RECONCILIATION) if db else None
    return {
        "state": health.state(found, models),
        "version": site.version,
        "models": models or {},
        "evaluated": None if models is None else sorted(evaluated(site.settings, models)),
        "studies": studies,
        "problems": [problem.to_json() for problem in found],
        "oldest_waiting_seconds": oldest,
        "disk_free_mb": site.free_space.free_mb(),
        "last_reconciliation": None if reconciled is None else float(reconciled),
        "ae_title": site.settings.ae_title,
        "dicom_port": site.settings.dicom_port,
    }


def _undelivered(site: Site, db: Connection, now: float) -> tuple[Undelivered, ...]:
    names = [one.name for one in site.settings.owed_to]
    return tuple(undelivered(db, names, before=now - health.UNDELIVERED_SECONDS))


def _record_view_of_list(name: str, request: Request, site: Site) -> None:
    """Each load of the page; what refreshes itself, once in a while."""
    if name == "":
        site.audit.forget_view("view_worklist", request.visitor.who)
    site.audit.record_view("view_worklist", request.visitor.who)


def _html(page: str) -> Response:
    return Response(200, HTML, page.encode(), dict(PAGE_HEADERS))


def _images(db: Connection, query: Mapping[str, str]) -> Response:
    try:
        study = query.get("study_instance_uid")
        listed = _latest(db) if study is None else tasks.of_study(db, study)
        found = rows.matching_images(listed, query)
    except ValueError as error:
        return Response(400, TEXT, f"{error}\n".encode(), NOT_STORED)
    return _json({"images": found, "research_only": rows.DISCLAIMER})


def _latest(db: Connection) -> list[dict[str, Any]]:
    """The studies that came last."""
    return ledger_page(db, now=time.time(), sort="-received", limit=MOST_ROWS).rows


def _is_report_of(db: Connection, report: str, study: str) -> bool:
    """Whether the ledger names this measurement report among the results of the study."""
    if not UID.fullmatch(report):
        return False
    images = [image for task in tasks.of_study(db, study) for image in task["result"].get("images", [])]
    return any(image.get("measurement_report") == report for image in images)


def _static(name: str) -> Response:
    own, vendored = _STATIC / Path(name).name, _STATIC / "vendor" / Path(name).name
    file = vendored if vendored.is_file() else own
    if Path(name).name != name or file.suffix not in _MIME or not file.is_file():
        return Response(404, TEXT, b"There is no such file.\n", NOT_STORED)
    # the name of a vendored file has its version
    kept = "max-age=31536000, immutable" if file is vendored else "no-cache"
    headers = {"Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
    return Response(200, _MIME[file.suffix], file.read_bytes(), headers)


def _json(value: object, status: int = 200) -> Response:
    return Response(status, "application/json", json.dumps(value).encode(), NOT_STORED)

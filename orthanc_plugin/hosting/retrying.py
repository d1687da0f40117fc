"""Having studies in quarantine tried again, one, those that were selected, or all; and having one read once more.

The rule: asked for by a form of ours or by a program that says so, and in the audit log before it is answered.
"""

from __future__ import annotations

import json
from urllib.parse import parse_qs, quote

from orthanc_plugin.hosting.messages import NOT_STORED, TEXT, UID, Request, Response
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.views import of_study

# a change waits so long for the disk to have its entry in the audit log
_AUDIT_SECONDS = 1.0
_MOST = 500  # studies in one request


def retry(request: Request, site: Site, now: float) -> Response:
    """Answer a POST whose form names studies (``study_instance_uid``), or says ``all=yes``."""
    fields = parse_qs(request.body.decode("utf-8", "replace"))
    studies = list(dict.fromkeys(fields.get("study_instance_uid", ())))
    everything = fields.get("all") == ["yes"]
    if len(studies) > _MOST or not all(map(UID.fullmatch, studies)) or not (studies or everything):
        return Response(400, TEXT, b"Give study_instance_uid=<UID>, or all=yes.\n", NOT_STORED)
    wanted: list[str | None] = [None] if everything else [*studies]
    with site.ledger.write() as db:
        retried = [tasks.retry(db, study, now=now) for study in wanted]
    if any(retried):
        site.wake()
    for study, number in zip(wanted, retried, strict=True):
        written = site.audit.record(
            "retry",
            request.visitor.who,
            study or "",
            outcome="done" if number else "nothing to do",
            detail="" if study else f"all: {number}",
            wait_seconds=_AUDIT_SECONDS if study == wanted[-1] else 0.0,
        )
    if "text/html" in request.headers.get("accept", ""):
        return Response(303, TEXT, b"", {**NOT_STORED, "Location": _place(fields, studies)})
    # a person is told by the page that they come back to
    told = {"retried": sum(retried)} | ({} if written else {"problem": "not in the audit log yet"})
    return Response(200, "application/json", json.dumps(told).encode(), NOT_STORED)


def reread(request: Request, site: Site, now: float) -> Response:
    """Have a study read once more with the models that are active now; what differs supersedes the earlier result."""
    fields = parse_qs(request.body.decode("utf-8", "replace"))
    studies = fields.get("study_instance_uid", [])
    if len(studies) != 1 or not UID.fullmatch(studies[0]):
        return Response(400, TEXT, b"Give study_instance_uid=<UID>.\n", NOT_STORED)
    with site.ledger.write() as db:
        known = any(task["status"] != "removed" for task in of_study(db, studies[0]))
        queued = known and tasks.request_again(db, studies[0], now=now)
    if queued:
        site.wake()
    outcome = "done" if queued else "nothing to do"
    site.audit.record("reread", request.visitor.who, studies[0], outcome=outcome, wait_seconds=_AUDIT_SECONDS)
    if "text/html" in request.headers.get("accept", ""):
        return Response(303, TEXT, b"", {**NOT_STORED, "Location": _place(fields, studies)})
    return Response(200, "application/json", json.dumps({"queued": int(queued)}).encode(), NOT_STORED)


def _place(fields: dict[str, list[str]], studies: list[str]) -> str:
    """The page that the form was on."""
    if fields.get("page") == ["admin"]:
        return "/hilum/admin"
    one = quote(studies[0]) if len(studies) == 1 and fields.get("all") != ["yes"] else ""
    if fields.get("page") == ["study"] and one:
        return f"/hilum/studies/{one}"
    return f"/hilum/#study-{one}" if one else "/hilum/"

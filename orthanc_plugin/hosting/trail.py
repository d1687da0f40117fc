"""What the filter of HTTP requests writes into the audit log: who opened, searched, changed or was refused what.

The rule: a request leads to one entry, and what is looked at for a while to one in a quarter of an hour; of an address
no more is kept than the kind of thing that it names, and the study.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from orthanc_plugin.access.audit import Audit
from orthanc_plugin.access.roles import Action
from orthanc_plugin.hosting.guard import Refusal, Visit, is_worker
from orthanc_plugin.hosting.messages import Request

StudyOf = Callable[[str, str], str]

_OF_STUDY = re.compile(r"/(?:dicom-web|hilum)/studies/([0-9.]{1,64})(/.*)?", re.DOTALL | re.ASCII)
_OF_ORTHANC = re.compile(r"/(studies|series|instances)/([0-9a-f-]{44})(/.*)?", re.DOTALL | re.ASCII)
_STUDY_IN_QUERY = ("StudyInstanceUID", "0020000D", "studyUID")
# of Orthanc's own: about the server, and its pages
_WITHOUT_PATIENTS = frozenset(
    ("app", "system", "statistics", "plugins", "changes", "tools", "jobs", "peers", "modalities", "favicon.ico")
)
# questions that are sent by POST
_QUESTIONS = ("/tools/find", "/tools/lookup", "/tools/count-resources")
_WORD = re.compile(r"[a-z-]{1,24}", re.ASCII)


def record_visit(audit: Audit, request: Request, visit: Visit, study_of: StudyOf) -> None:
    """Record what the filter decided, unless a page of ours records it itself.

    Parameters
    ----------
    study_of
        The Study Instance UID of a resource of Orthanc, by its level (``series``) and Orthanc's name for it; empty when
        there is none.
    """
    if is_worker(visit):
        return
    if visit.refusal is not None:
        _record_refusal(audit, visit)
    elif visit.action in (Action.VIEW_STUDY, Action.STORE):
        _record_dicomweb(audit, request, visit)
    elif visit.action is Action.ORTHANC:
        _record_orthanc(audit, request, visit, study_of)


def _record_refusal(audit: Audit, visit: Visit) -> None:
    who = visit.visitor.who
    if visit.refusal in (Refusal.WRONG_PASSWORD, Refusal.TOO_MANY):
        who = replace(who, name=visit.known)
        audit.record_view("log_in", who, outcome="refused", detail=f"by a program: {visit.refusal}")
    elif visit.refusal is not Refusal.LOG_IN:
        audit.record_view(str(visit.action or "change"), who, outcome="refused", detail=str(visit.refusal))


def _record_dicomweb(audit: Audit, request: Request, visit: Visit) -> None:
    who = visit.visitor.who
    if request.path.startswith("/ohif"):
        return  # its files; the study itself comes by DICOMweb
    found = _OF_STUDY.fullmatch(request.path)
    study = found[1] if found else _asked_for(request.query)
    if request.method != "GET":
        audit.record("store", who, study, detail=request.method)
    elif study:
        audit.record_view("view_study", who, study)
    else:
        audit.record_view("search", who)


def _record_orthanc(audit: Audit, request: Request, visit: Visit, study_of: StudyOf) -> None:
    who, kind = visit.visitor.who, request.path.split("/")[1]
    question = request.path.rstrip("/") in _QUESTIONS
    if request.method == "GET" and kind in _WITHOUT_PATIENTS:
        return
    found = _OF_ORTHANC.fullmatch(request.path)
    study = study_of(found[1], found[2]) if found else ""
    named = kind if _WORD.fullmatch(kind) else "other"
    if request.method != "GET" and not question:
        audit.record("orthanc", who, study, detail=f"{request.method} {named}")
    elif study:
        audit.record_view("view_study", who, study)
    else:
        audit.record_view("search", who, detail=f"Orthanc: {named}")


def _asked_for(query: Mapping[str, str]) -> str:
    values = (query.get(name, "") for name in _STUDY_IN_QUERY)
    return next((value for value in values if value and re.fullmatch(r"[0-9.]{1,64}", value)), "")

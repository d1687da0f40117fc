"""What the filter of HTTP requests writes into the audit log: who opened, searched, changed or was refused what.

The rule: a request leads to one entry, and what is looked at for a while to one in a quarter of an hour; of an address
no more is kept than the kind of thing that it names, and the study.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from orthanc_plugin.access.audit import Audit
from orthanc_plugin.access.roles import Action
from orthanc_plugin.hosting.guard import Refusal, Visit, is_worker
from orthanc_plugin.hosting.messages import Request

StudiesIn = Callable[[str, str], Sequence[str]]

_OF_STUDY = re.compile(r"/(?:dicom-web|hilum)/studies/([0-9.]{1,64})(/.*)?", re.DOTALL | re.ASCII)
_OF_ORTHANC = re.compile(r"/(patients|studies|series|instances)/([0-9a-f-]{44})(/.*)?", re.DOTALL | re.ASCII)
_STUDY_IN_QUERY = ("studyinstanceuid", "0020000d")  # Orthanc takes a tag in either case
_WADO = "/wado"
# several UIDs of a question (PS3.18 8.3.4.1; Orthanc takes either), and how many of them are looked at
_BETWEEN, _MOST_STUDIES = re.compile(r"[,\\]"), 100
# of Orthanc's own: about the server, and its pages
_WITHOUT_PATIENTS = frozenset(
    ("app", "system", "statistics", "plugins", "changes", "tools", "jobs", "peers", "modalities", "favicon.ico")
)
# and what of its tools gives away whole studies, whichever the request names in its body
_GIVEN_AWAY = ("/tools/create-archive", "/tools/create-media", "/tools/create-media-extended", "/tools/bulk-content")
# questions that are sent by POST
_QUESTIONS = ("/tools/find", "/tools/lookup", "/tools/count-resources")
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
_WORD = re.compile(r"[a-z-]{1,24}", re.ASCII)


def tells_its_study(request: Request, of_instance: Callable[[str], str]) -> bool:
    """Whether a request by WADO-URI names the study that its object is of; PS3.18 9.1 requires that it does.

    Orthanc gives the object whatever study is named, so that the log would have another study, or none.

    Parameters
    ----------
    of_instance
        The Study Instance UID of a SOP Instance UID; empty when it is not there.
    """
    if request.path != _WADO or request.method != "GET":
        return True
    study, instance = request.query.get("studyUID", ""), request.query.get("objectUID", "")
    return bool(_UID.fullmatch(study) and _UID.fullmatch(instance)) and of_instance(instance) == study


def record_visit(audit: Audit, request: Request, visit: Visit, studies_in: StudiesIn) -> None:
    """Record what the filter decided, unless a page of ours records it itself.

    Parameters
    ----------
    studies_in
        The Study Instance UIDs of a resource of Orthanc, by its level (``series``) and Orthanc's name for it: several
        of a patient, none when it is not there.
    """
    if is_worker(visit):
        return
    if visit.refusal is not None:
        _record_refusal(audit, visit)
    elif visit.action in (Action.VIEW_STUDY, Action.STORE):
        _record_dicomweb(audit, request, visit)
    elif visit.action is Action.ORTHANC:
        _record_orthanc(audit, request, visit, studies_in)


def record_unnamed(audit: Audit, visit: Visit) -> None:
    """Record that a request by WADO-URI was refused, for it did not name its study."""
    told = "WADO-URI: studyUID is missing, or not the object's"
    audit.record_view(str(Action.VIEW_STUDY), visit.visitor.who, outcome="refused", detail=told)


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
    studies = studies_of(request)
    if request.method != "GET":
        for study in studies or [""]:
            audit.record("store", who, study, detail=request.method)
    elif studies:
        for study in studies:
            audit.record_view("view_study", who, study)
    else:
        audit.record_view("search", who)


def _record_orthanc(audit: Audit, request: Request, visit: Visit, studies_in: StudiesIn) -> None:
    who, path = visit.visitor.who, request.path.rstrip("/")
    _, kind, *further = path.split("/")
    if request.method == "GET" and kind in _WITHOUT_PATIENTS and path not in _GIVEN_AWAY:
        return
    found = _OF_ORTHANC.fullmatch(request.path)
    studies = studies_in(found[1], found[2]) if found else ()
    words = (kind, *further[:1]) if kind == "tools" else (kind,)
    named = "/".join(words) if all(map(_WORD.fullmatch, words)) else "other"
    if path in _GIVEN_AWAY or (request.method != "GET" and path not in _QUESTIONS):
        for study in studies or [""]:
            audit.record("orthanc", who, study, detail=f"{request.method} {named}")
    elif studies:
        for study in studies:
            audit.record_view("view_study", who, study)
    else:
        audit.record_view("search", who, detail=f"Orthanc: {named}")


def studies_of(request: Request) -> list[str]:
    """The studies that an address below ``/dicom-web``, ``/hilum`` or ``/wado`` names; each of a list."""
    if found := _OF_STUDY.fullmatch(request.path):
        return [found[1]]
    query = request.query if request.path == _WADO else {name.lower(): uids for name, uids in request.query.items()}
    names = ("studyUID",) if request.path == _WADO else _STUDY_IN_QUERY
    values = [uid for name in names for uid in _BETWEEN.split(query.get(name, ""))]
    return [uid for uid in dict.fromkeys(values) if _UID.fullmatch(uid)][:_MOST_STUDIES]

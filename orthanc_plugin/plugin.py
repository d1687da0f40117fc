"""Orthanc's entry point: the only module that imports `orthanc`. It registers callbacks and adapts routes.

The rule: nothing raised here may reach Orthanc. An exception at import aborts the server, and one in a callback is
lost in its log; both are translated. Inference runs in another process (``supervisor``). Only a setting that cannot be
used stops the start; a ledger that cannot be used does not (``arrivals``).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus

import orthanc

from dicom_sr.ownership import ACCOMPANYING_MODALITIES, is_own_result
from orthanc_plugin import __version__
from orthanc_plugin.access.accounts import Accounts
from orthanc_plugin.access.attempts import Attempts
from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.audit_sending import AuditSending
from orthanc_plugin.access.logins import Logins
from orthanc_plugin.access.roles import Action
from orthanc_plugin.access.sessions import Sessions
from orthanc_plugin.access.shared_sessions import SharedSessions, cookie_of
from orthanc_plugin.archive import attachments
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.failpoints import reach
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting import login, routes
from orthanc_plugin.hosting.arrivals import Arrivals
from orthanc_plugin.hosting.entrance import Entrance
from orthanc_plugin.hosting.guard import Guard, answers_itself, is_encrypted, is_worker
from orthanc_plugin.hosting.headers import with_security
from orthanc_plugin.hosting.health import ClockWatch
from orthanc_plugin.hosting.held import HeldByOrthanc
from orthanc_plugin.hosting.in_hand import InHand
from orthanc_plugin.hosting.kept_references import gives_back
from orthanc_plugin.hosting.messages import Request, Response
from orthanc_plugin.hosting.proxied import proxy_of
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.hosting.trail import record_unnamed, record_visit, studies_of, tells_its_study
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.ledger.shared_files import ACTIVE_MODELS, USERS, keep_in_step
from orthanc_plugin.ledger.task_states import Arrival, text_of
from orthanc_plugin.logs import start_logging
from orthanc_plugin.settings import Settings, load_settings
from orthanc_plugin.viewer.serving import load_site
from orthanc_plugin.working.supervisor import Supervisor, worker_python

# PS3.4 table B.2-1: Refused, Out of Resources; a sender keeps the image and tries again
_STORED, _OUT_OF_RESOURCES = 0x0000, 0xA700
_LONGEST_VALUE = 256  # a PN has three groups of 64 characters

start_logging()
log = logging.getLogger("hilum.plugin")
SETTINGS: Settings = load_settings()
SUPERVISOR = Supervisor(worker_python(), SETTINGS.logs / "worker.log")
VIEWER = load_site(SETTINGS.viewer)
LEDGER = open_ledger(SETTINGS.ledger_address)
ARRIVALS = Arrivals(LEDGER, SETTINGS.archive_id_file, SUPERVISOR.wake)
IN_HAND = InHand(LEDGER, seconds=60 * SETTINGS.claim_minutes)
FREE_SPACE = FreeSpace((SETTINGS.storage, SETTINGS.home), SETTINGS.reserve_mb)
AUDIT = Audit(SETTINGS.audit, longest=SETTINGS.audit_mb * 1_000_000)
AUDIT_SENDING = AuditSending(SETTINGS.audit, SETTINGS.collector)
LIFETIME = {"longest_seconds": SETTINGS.session_hours * 3600, "idle_seconds": SETTINGS.session_idle_minutes * 60}
# on PostgreSQL there may be other servers of this archive
SESSIONS = (
    SharedSessions(LEDGER, **LIFETIME, met=lambda name: AUDIT.forget_views(Who(name)))
    if SETTINGS.ledger_url
    else Sessions(SETTINGS.sessions, **LIFETIME)
)
LOGINS = Logins(Accounts(SETTINGS.credentials, SETTINGS.users), SESSIONS, Attempts())
GUARD = Guard(LOGINS, cookie=cookie_of(SETTINGS), proxy=proxy_of(SETTINGS))
LOGIN_PAGE = login.LoginPage(LOGINS, GUARD, AUDIT, proxy_logout=SETTINGS.proxy_logout)
ENTRANCE = Entrance(SETTINGS)
load_credentials(SETTINGS.credentials)  # the first start makes them; without them nobody could be let in


def on_stored_instance(dicom: Any, _instance_id: str) -> None:
    """Put the study into the ledger; this runs before the C-STORE response, so the ledger is all it touches."""
    try:
        reach("instance_stored")
        # half the time of GetInstanceSimplifiedJson: no private or unknown element, no long value
        content = dicom.GetInstanceAdvancedJson(
            orthanc.DicomToJsonFormat.HUMAN, orthanc.DicomToJsonFlags.NONE, _LONGEST_VALUE
        )
        tags = json.loads(content)
        modality, made_by = (
            text_of(tags, "Modality"),
            (text_of(tags, "Manufacturer"), text_of(tags, "ManufacturerModelName")),
        )
        if modality in ACCOMPANYING_MODALITIES or is_own_result(modality, *made_by):
            return
        ARRIVALS.record(Arrival.from_tags(tags))
    except Exception:  # the image is stored whatever happens here; reconciliation finds it
        log.exception("a stored instance could not be put into the ledger")


def on_change(change: int, _level: int, _resource: str) -> None:
    """Start the worker with the server, unless workers run elsewhere, and end it with the server."""
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        if SETTINGS.workers:
            SUPERVISOR.start()
        if SETTINGS.https != "off" and not SETTINGS.cluster_file.exists():  # there it is a member of its own
            ENTRANCE.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        ENTRANCE.stop()
        SUPERVISOR.stop()
        ARRIVALS.stop()
        IN_HAND.stop()
        AUDIT.stop()
        AUDIT_SENDING.stop()


def status_of_incoming(_dicom: Any) -> int:
    """The answer to a C-STORE request before anything is stored: refused while the reserve is needed for results."""
    return _OUT_OF_RESOURCES if FREE_SPACE.refuses() else _STORED


def allow_http(uri: str, **request: Any) -> bool:
    """Let in whom ``guard`` lets in; refuse uploads (403) as `status_of_incoming` does, but never the worker's."""
    try:
        asked = _request(uri, request, method=_METHODS[request["method"]])
        visit = GUARD.decide_first(asked)
        if visit.refusal is None and not tells_its_study(asked, study_of_instance):
            record_unnamed(AUDIT, visit)
            return False
        record_visit(AUDIT, asked, visit, studies_in)
        if visit.refusal is not None:
            return answers_itself(asked.path)  # its route says so, and how to log in
        if visit.action is Action.VIEW_STUDY and not is_worker(visit):
            IN_HAND.looked_at(visit.visitor.who.name, studies_of(asked), time.time())
        upload = asked.path == "/instances" or asked.path.startswith("/dicom-web/studies")
        return not (upload and asked.method == "POST" and FREE_SPACE.refuses()) or is_worker(visit)
    except Exception:  # this is the only door: it stays shut
        log.exception("a request could not be judged, and was refused")
        return False


def answer_root(output: Any, uri: str, **_request: Any) -> None:
    """``/`` leads to the worklist."""
    _send(output, Response(303, "text/plain", b"", {"Location": login.HOME}), _headers(_request))


def answer_hilum(output: Any, uri: str, **request: Any) -> None:
    """Everything below ``/hilum``."""
    _answer(output, uri, request, _respond, ("GET", "POST"))


def answer_viewer(output: Any, uri: str, **request: Any) -> None:
    """Everything below ``/ohif``: the files of the viewer."""
    _answer(output, uri, request, _viewer_file, ("GET",))


def _answer(
    output: Any,
    uri: str,
    request: dict[str, Any],
    respond: Callable[[Request], Response],
    methods: tuple[str, ...],
) -> None:
    """Have the guard decide, and the page made, and send it."""
    if request["method"] not in methods:
        output.SendMethodNotAllowed(", ".join(methods))
        return
    try:
        asked = _request(uri, request, method=request["method"])
        visit = GUARD.decide(asked)
        if visit.refusal is not None:
            response = login.refuse(asked, visit)
        else:
            response = respond(replace(asked, visitor=visit.visitor))
    except Exception:
        log.exception("a page could not be made")
        response = Response(500, "text/plain; charset=utf-8", b"This page failed; see the node's log.\n")
    _send(output, response, _headers(request))


def _respond(request: Request) -> Response:
    if request.path in (login.LOGIN, login.LOGOUT):
        return LOGIN_PAGE.respond(request)
    return routes.respond(request, SITE)


def _viewer_file(request: Request) -> Response:
    headers = request.headers
    try:
        found = VIEWER.respond(request.path, headers.get("accept-encoding", ""), headers.get("if-none-match"))
    except OSError:
        log.exception("a viewer file could not be read")
        said = b"The viewer's files cannot be read; run ./hilum up again.\n"
        return Response(500, "text/plain", said)
    return Response(found.status, found.mime, found.body, dict(found.headers))


def called(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback for requests as this plugin wants it: that of Debian 13 (5.0) keeps nothing that could be given back.

    One of its functions tells it from that of Debian 12 (4.0), where its version cannot be asked for.
    """
    return callback if hasattr(orthanc, "SetCurrentThreadName") else gives_back(callback)


def fetch_thumbnail(sop_instance_uid: str) -> bytes | None:
    """The thumbnail that Orthanc keeps with a measurement report; None when there is none, or the report is gone."""
    try:
        instance = orthanc.LookupInstance(sop_instance_uid)
        content: bytes = orthanc.RestApiGet(f"/instances/{instance}/attachments/{attachments.THUMBNAIL}/data")
    except orthanc.OrthancException:
        return None
    return content


@lru_cache(maxsize=2000)
def study_of(level: str, resource: str) -> str:
    """The Study Instance UID of a resource of Orthanc; empty when it is not there."""
    path = f"/studies/{resource}" if level == "studies" else f"/{level}/{resource}/study"
    try:
        return str(json.loads(orthanc.RestApiGet(path))["MainDicomTags"]["StudyInstanceUID"])
    except (orthanc.OrthancException, ValueError, KeyError):
        return ""


def studies_in(level: str, resource: str) -> list[str]:
    """The Study Instance UIDs of a resource of Orthanc: several of a patient, none when it is not there."""
    if level != "patients":
        return [uid for uid in (study_of(level, resource),) if uid]
    try:
        studies = json.loads(orthanc.RestApiGet(f"/patients/{resource}/studies"))
        return [str(study["MainDicomTags"]["StudyInstanceUID"]) for study in studies]
    except (orthanc.OrthancException, ValueError, KeyError):
        return []


def study_of_instance(sop_instance_uid: str) -> str:
    """The Study Instance UID of an instance; empty when it is not there: one look into Orthanc's index."""
    try:
        return study_of("instances", orthanc.LookupInstance(sop_instance_uid))
    except orthanc.OrthancException:
        return ""


def _request(uri: str, request: dict[str, Any], *, method: str) -> Request:
    path = uri.rstrip("/") or "/"  # Orthanc does so for a route, and not for the filter
    # it decodes paths and leaves queries as they came
    query = {unquote_plus(name): unquote_plus(value) for name, value in (request.get("get") or {}).items()}
    body, address = request.get("body") or b"", request.get("ip", "")
    return Request(path, method, query, _headers(request), body, address=address)


def _headers(request: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in request.get("headers", {}).items()}


def _send(output: Any, response: Response, asked: Mapping[str, str]) -> None:
    status, mime, body = response.status, response.mime, response.body
    for name, value in with_security(response.headers, encrypted=is_encrypted(asked)).items():
        output.SetHttpHeader(name, value)
    if status == 200:
        output.AnswerBuffer(body, mime)
    elif status == 405:  # Orthanc has a call of its own for this one
        output.SendMethodNotAllowed(response.headers["Allow"])
    elif not body:
        output.SendHttpStatusCode(status)
    else:
        output.SetHttpHeader("Content-Type", mime)
        try:
            output.SendHttpStatus(status, body.decode("utf-8"), len(body))
        except TypeError:  # orthanc-python 5 of Debian 13 counts by itself
            output.SendHttpStatus(status, body)


_METHODS = {
    orthanc.HttpMethod.GET: "GET",
    orthanc.HttpMethod.POST: "POST",
    orthanc.HttpMethod.PUT: "PUT",
    orthanc.HttpMethod.DELETE: "DELETE",
}
SITE = Site(
    settings=SETTINGS,
    ledger=LEDGER,
    version=__version__,
    fetch_thumbnail=fetch_thumbnail,
    intake=lambda: (ARRIVALS.error, ARRIVALS.waiting),
    wake=SUPERVISOR.wake,
    free_space=FREE_SPACE,
    clock=ClockWatch(),
    started_at=time.monotonic(),
    audit=AUDIT,
    held=HeldByOrthanc(orthanc, attachments.LAYERS),
    received=lambda: ARRIVALS.received,
    entrance=lambda: ENTRANCE.problem,
    collected=lambda: AUDIT_SENDING.standing,
)
AUDIT.start()
AUDIT_SENDING.start()
SHARED = (SETTINGS, LEDGER, (USERS, ACTIVE_MODELS), threading.Event())
threading.Thread(target=keep_in_step, args=SHARED, name="shared files", daemon=True).start()
IN_HAND.start()
ARRIVALS.start()
orthanc.RegisterOnStoredInstanceCallback(on_stored_instance)
orthanc.RegisterIncomingCStoreInstanceFilter(status_of_incoming)
orthanc.RegisterIncomingHttpRequestFilter(called(allow_http))
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/", called(answer_root))
orthanc.RegisterRestCallback("/hilum(/.*)?", called(answer_hilum))
orthanc.RegisterRestCallback("/ohif(/.*)?", called(answer_viewer))

"""Orthanc's entry point: the only module that imports `orthanc`. It registers callbacks and adapts routes.

The rule: nothing raised here may reach Orthanc. An exception at import aborts the server, and one in a callback is
lost in its log; both are translated. Inference runs in another process (``supervisor``). Only a setting that cannot be
used stops the start; a ledger that cannot be used does not (``arrivals``).
"""

from __future__ import annotations

import base64
import json
import logging
import time
from typing import Any

import orthanc

from dicom_sr.ownership import ACCOMPANYING_MODALITIES, is_own_result
from orthanc_plugin import __version__
from orthanc_plugin.archive import attachments
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.failpoints import reach
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting import routes
from orthanc_plugin.hosting.arrivals import Arrivals
from orthanc_plugin.hosting.health import ClockWatch
from orthanc_plugin.hosting.kept_references import gives_back
from orthanc_plugin.ledger.database import open_ledger
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
FREE_SPACE = FreeSpace((SETTINGS.storage, SETTINGS.home), SETTINGS.reserve_mb)


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
    """Start the worker with the server, and end it with the server."""
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        SUPERVISOR.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        SUPERVISOR.stop()
        ARRIVALS.stop()


def status_of_incoming(_dicom: Any) -> int:
    """The answer to a C-STORE request before anything is stored: refused while the reserve is needed for results."""
    return _OUT_OF_RESOURCES if FREE_SPACE.refuses() else _STORED


@gives_back
def allow_http(uri: str, **request: Any) -> bool:
    """Refuse uploads (403) as `status_of_incoming` does, but never what the worker stores."""
    upload = uri.rstrip("/") == "/instances" or uri.startswith("/dicom-web/studies")
    if not upload or request["method"] != orthanc.HttpMethod.POST:
        return True
    return not FREE_SPACE.refuses() or _headers(request).get("authorization") == WORKER_AUTHORIZATION


@gives_back
def answer_hilum(output: Any, uri: str, **request: Any) -> None:
    """Everything below ``/hilum``."""
    method = request["method"]
    if method not in ("GET", "POST") or (method == "POST" and not uri.startswith("/hilum/api/")):
        output.SendMethodNotAllowed("GET")
        return
    try:
        asked = routes.Request(uri, method, request.get("get") or {}, _headers(request), request.get("body") or b"")
        response = routes.respond(asked, SITE)
    except Exception:
        log.exception("a page could not be made")
        response = routes.Response(500, "text/plain; charset=utf-8", b"This page failed; see the node's log.\n")
    _send(output, response.status, response.mime, response.headers, response.body)


@gives_back
def answer_viewer(output: Any, uri: str, **request: Any) -> None:
    """Everything below ``/ohif``: the files of the viewer."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    headers = _headers(request)
    try:
        answer = VIEWER.respond(uri, headers.get("accept-encoding", ""), headers.get("if-none-match"))
    except OSError:
        log.exception("a viewer file could not be read")
        _send(output, 500, "text/plain", {}, b"The viewer's files cannot be read; run ./hilum up again.\n")
        return
    _send(output, answer.status, answer.mime, dict(answer.headers), answer.body)


def fetch_thumbnail(sop_instance_uid: str) -> bytes | None:
    """The thumbnail that Orthanc keeps with a measurement report; None when there is none, or the report is gone."""
    try:
        instance = orthanc.LookupInstance(sop_instance_uid)
        content: bytes = orthanc.RestApiGet(f"/instances/{instance}/attachments/{attachments.THUMBNAIL}/data")
    except orthanc.OrthancException:
        return None
    return content


def _worker_authorization() -> str:
    """The Authorization header of what the worker sends (RFC 7617)."""
    accounts = load_credentials(SETTINGS.credentials)
    pair = f"{accounts.worker_user}:{accounts.worker_password}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


def _headers(request: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in request.get("headers", {}).items()}


def _send(output: Any, status: int, mime: str, headers: dict[str, str], body: bytes) -> None:
    for name, value in headers.items():
        output.SetHttpHeader(name, value)
    if status == 200:
        output.AnswerBuffer(body, mime)
    elif status == 405:  # Orthanc has a call of its own for this one
        output.SendMethodNotAllowed(headers["Allow"])
    elif not body:
        output.SendHttpStatusCode(status)
    else:
        output.SetHttpHeader("Content-Type", mime)
        output.SendHttpStatus(status, body.decode("utf-8"), len(body))


WORKER_AUTHORIZATION = _worker_authorization()
SITE = routes.Site(
    settings=SETTINGS,
    ledger=LEDGER,
    version=__version__,
    fetch_thumbnail=fetch_thumbnail,
    intake=lambda: (ARRIVALS.error, ARRIVALS.waiting),
    wake=SUPERVISOR.wake,
    free_space=FREE_SPACE,
    clock=ClockWatch(),
    started_at=time.monotonic(),
)
ARRIVALS.start()
orthanc.RegisterOnStoredInstanceCallback(on_stored_instance)
orthanc.RegisterIncomingCStoreInstanceFilter(status_of_incoming)
orthanc.RegisterIncomingHttpRequestFilter(allow_http)
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/hilum(/.*)?", answer_hilum)
orthanc.RegisterRestCallback("/ohif(/.*)?", answer_viewer)

"""Orthanc's entry point: the only module that imports `orthanc`. It registers callbacks and adapts routes.

The rule: nothing raised here may reach Orthanc. An exception at import aborts the server, and one in a callback is
lost in its log; both are translated. Inference runs in another process (``supervisor``).
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from typing import Any

import orthanc

from dicom_sr.ownership import ACCOMPANYING_MODALITIES, is_own_result
from orthanc_plugin import __version__, routes, tasks
from orthanc_plugin.logs import start_logging
from orthanc_plugin.settings import Settings, load_settings
from orthanc_plugin.supervisor import Supervisor, worker_python
from orthanc_plugin.viewer.serving import load_site
from orthanc_plugin.worklist.rows import THUMBNAIL_ATTACHMENT

start_logging()
log = logging.getLogger("hilum.plugin")
SETTINGS: Settings = load_settings()
SUPERVISOR = Supervisor(worker_python(), SETTINGS.logs / "worker.log")
SITE = load_site(SETTINGS.viewer)


def on_stored_instance(dicom: Any, _instance_id: str) -> None:
    """Put the study into the ledger; this runs before the C-STORE response, so the ledger is all it touches."""
    try:
        tags = json.loads(dicom.GetInstanceSimplifiedJson())
        modality, made_by = _text(tags, "Modality"), (_text(tags, "Manufacturer"), _text(tags, "ManufacturerModelName"))
        if modality in ACCOMPANYING_MODALITIES or is_own_result(modality, *made_by):
            return
        arrival = tasks.Arrival(
            study_instance_uid=_text(tags, "StudyInstanceUID"),
            patient_name=_text(tags, "PatientName"),
            patient_id=_text(tags, "PatientID"),
            patient_birth_date=_text(tags, "PatientBirthDate"),
            patient_sex=_text(tags, "PatientSex"),
            accession_number=_text(tags, "AccessionNumber"),
            study_date=_text(tags, "StudyDate"),
            study_time=_text(tags, "StudyTime"),
            study_description=_text(tags, "StudyDescription"),
        )
        with tasks.connect(SETTINGS.ledger) as db:
            tasks.enqueue(db, arrival, now=time.time(), quiet_seconds=SETTINGS.quiet_seconds)
        SUPERVISOR.wake()
    except Exception:  # the image is stored whatever happens to the ledger
        log.exception("a stored instance could not be put into the ledger")


def on_change(change: int, _level: int, _resource: str) -> None:
    """Start the worker with the server, and end it with the server."""
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        SUPERVISOR.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        SUPERVISOR.stop()


def answer_hilum(output: Any, uri: str, **request: Any) -> None:
    """Everything below ``/hilum``."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    try:
        response = routes.respond(
            uri,
            SETTINGS,
            fetch_thumbnail,
            version=__version__,
            query=request.get("get") or {},
            if_none_match=_headers(request).get("if-none-match"),
        )
    except sqlite3.Error:
        log.exception("the ledger did not answer")
        response = routes.Response(503, "text/plain; charset=utf-8", b"The ledger does not answer; try again.\n")
    except Exception:
        log.exception("a page could not be made")
        response = routes.Response(500, "text/plain; charset=utf-8", b"This page failed; see the node's log.\n")
    _send(output, response.status, response.mime, response.headers, response.body)


def answer_viewer(output: Any, uri: str, **request: Any) -> None:
    """Everything below ``/ohif``: the files of the viewer."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    headers = _headers(request)
    try:
        answer = SITE.respond(uri, headers.get("accept-encoding", ""), headers.get("if-none-match"))
    except OSError:
        log.exception("a viewer file could not be read")
        _send(output, 500, "text/plain", {}, b"The viewer's files cannot be read; run ./hilum up again.\n")
        return
    _send(output, answer.status, answer.mime, dict(answer.headers), answer.body)


def fetch_thumbnail(sop_instance_uid: str) -> bytes | None:
    """The thumbnail that Orthanc keeps with a measurement report; None when there is none, or the report is gone."""
    try:
        instance = orthanc.LookupInstance(sop_instance_uid)
        content: bytes = orthanc.RestApiGet(f"/instances/{instance}/attachments/{THUMBNAIL_ATTACHMENT}/data")
    except orthanc.OrthancException:
        return None
    return content


def _headers(request: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in request.get("headers", {}).items()}


def _send(output: Any, status: int, mime: str, headers: dict[str, str], body: bytes) -> None:
    for name, value in headers.items():
        output.SetHttpHeader(name, value)
    if status == 200:
        output.AnswerBuffer(body, mime)
    elif not body:
        output.SendHttpStatusCode(status)
    else:
        output.SetHttpHeader("Content-Type", mime)
        output.SendHttpStatus(status, body.decode("utf-8"), len(body))


def _text(tags: dict[str, Any], keyword: str) -> str:
    value = tags.get(keyword)
    return value.strip() if isinstance(value, str) else ""


tasks.create(SETTINGS.ledger)
with tasks.connect(SETTINGS.ledger) as _db:
    tasks.forget_workers(_db)
orthanc.RegisterOnStoredInstanceCallback(on_stored_instance)
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/hilum(/.*)?", answer_hilum)
orthanc.RegisterRestCallback("/ohif(/.*)?", answer_viewer)

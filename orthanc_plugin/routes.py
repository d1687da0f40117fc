"""What the node answers under ``/hilum/``: pure functions from a request to a response, without Orthanc.

The rule: an answer never shows a stack trace, and every page says that the results are the AI's, not reviewed.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orthanc_plugin import tasks
from orthanc_plugin.settings import Settings
from orthanc_plugin.worklist import page, rows

_STATIC = Path(__file__).parent / "worklist" / "static"
_MIME = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_WORKER_SILENT_SECONDS = 15.0
# PS3.5 9.1
_UID = re.compile(r"(?=.{1,64}$)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*", re.ASCII)
# A result never changes under its UID, but its study may be deleted: a browser asks again after so many seconds.
_THUMBNAIL_SECONDS = 3600
_NOT_STORED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS = {
    **_NOT_STORED,
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'self'",
}


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    mime: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def respond(
    path: str,
    settings: Settings,
    fetch_thumbnail: Callable[[str], bytes | None],
    *,
    version: str,
    query: Mapping[str, str] | None = None,
    if_none_match: str | None = None,
) -> Response:
    """Answer a GET below ``/hilum``.

    Parameters
    ----------
    path
        Without the query, e.g. ``/hilum/api/worklist``.
    fetch_thumbnail
        Gives the JPEG that Orthanc keeps with the instance of a SOP Instance UID; None when there is none.
    query
        Conditions of ``/hilum/api/images``; the study of a thumbnail.
    if_none_match
        Value of this request header.
    """
    name = path.removeprefix("/hilum").strip("/")
    if name.startswith("static/"):
        return _static(name.removeprefix("static/"))
    now = time.time()
    with tasks.connect(settings.ledger) as db:
        if name == "api/status":
            return _json(_status(db, settings, version, now))
        if name == "api/images":
            return _images(db, query or {})
        if name.startswith("thumbnails/"):
            report, study = name.removeprefix("thumbnails/"), (query or {}).get("study_instance_uid", "")
            known = _is_report_of(db, report, study)
            return _thumbnail(report, fetch_thumbnail(report) if known else None, if_none_match)
        if name in ("", "rows", "api/worklist"):
            listed = [rows.worklist_row(task) for task in tasks.reading_order(db)]
            return _worklist(name, listed, _status(db, settings, version, now), now)
    body = b"There is no such page. The worklist is at /hilum/\n"
    return Response(404, "text/plain; charset=utf-8", body, _NOT_STORED)


def _worklist(name: str, listed: list[rows.WorklistRow], status: dict[str, object], now: float) -> Response:
    if name == "api/worklist":
        return _json({"rows": [rows.to_json(row) for row in listed], "research_only": rows.DISCLAIMER})
    html = page.render_rows(listed, status, now) if name == "rows" else page.render_page(listed, status, now)
    return Response(200, "text/html; charset=utf-8", html.encode(), dict(_PAGE_HEADERS))


def _status(db: sqlite3.Connection, settings: Settings, version: str, now: float) -> dict[str, object]:
    models = tasks.ready_models(db, now=now, silent_seconds=_WORKER_SILENT_SECONDS)
    return {
        "state": "starting" if models is None else "ready",
        "version": version,
        "models": models or {},
        "studies": tasks.count_by_status(db),
        "ae_title": settings.ae_title,
        "dicom_port": settings.dicom_port,
    }


def _images(db: sqlite3.Connection, query: Mapping[str, str]) -> Response:
    try:
        study = query.get("study_instance_uid")
        listed = tasks.reading_order(db) if study is None else tasks.of_study(db, study)
        found = rows.matching_images(listed, query)
    except ValueError as error:
        return Response(400, "text/plain; charset=utf-8", f"{error}\n".encode())
    return _json({"images": found, "research_only": rows.DISCLAIMER})


def _is_report_of(db: sqlite3.Connection, report: str, study: str) -> bool:
    """Whether the ledger names this measurement report among the results of the study."""
    if not _UID.fullmatch(report):
        return False
    images = [image for task in tasks.of_study(db, study) for image in task["result"].get("images", [])]
    return any(image.get("measurement_report") == report for image in images)


def _thumbnail(report: str, picture: bytes | None, if_none_match: str | None) -> Response:
    if picture is None:
        return Response(404, "text/plain; charset=utf-8", b"There is no picture of this result.\n", _NOT_STORED)
    tag = f'"{report}"'
    headers = {
        "Cache-Control": f"private, max-age={_THUMBNAIL_SECONDS}",
        "ETag": tag,
        "X-Content-Type-Options": "nosniff",
    }
    given = {value.strip().removeprefix("W/") for value in (if_none_match or "").split(",")}
    return Response(304, "image/jpeg", b"", headers) if tag in given else Response(200, "image/jpeg", picture, headers)


def _static(name: str) -> Response:
    file = _STATIC / Path(name).name
    if Path(name).name != name or file.suffix not in _MIME or not file.is_file():
        return Response(404, "text/plain; charset=utf-8", b"There is no such file.\n")
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(200, _MIME[file.suffix], file.read_bytes(), headers)


def _json(value: object) -> Response:
    return Response(200, "application/json", json.dumps(value).encode(), _NOT_STORED)

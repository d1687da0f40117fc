"""The pages below ``/hilum`` on a real ledger, with guard and log-in, behind a plain HTTP server in place of Orthanc.

What Orthanc adds is tested with the real one (``test_first_light``, ``test_log_in``); here a test decides what the
ledger holds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from PIL import Image, ImageDraw

from orthanc_plugin.access.accounts import Accounts, add_user
from orthanc_plugin.access.attempts import Attempts
from orthanc_plugin.access.audit import Audit
from orthanc_plugin.access.logins import Logins
from orthanc_plugin.access.roles import Role
from orthanc_plugin.access.sessions import Sessions
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting import health, login, routes
from orthanc_plugin.hosting.guard import Guard
from orthanc_plugin.hosting.held import Place
from orthanc_plugin.hosting.messages import Request, Response
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.notes import ALL_COMPARED
from orthanc_plugin.ledger.tasks import Arrival, Failure, Outcome, TaskStatus
from orthanc_plugin.settings import load_settings

PASSWORD = "correct horse battery"
PEOPLE = {"ann": Role.RADIOLOGIST, "ben": Role.RADIOLOGIST, "tom": Role.TECHNOLOGIST}
_RANKS = {"critical": 0, "urgent": 1, "routine": 2, "none": 3}


@dataclass(frozen=True)
class Pages:
    """A running server."""

    url: str
    site: Site
    pictures: dict[str, bytes] = field(default_factory=dict)
    ahead: list[float] = field(default_factory=lambda: [0.0])  # seconds that the clock of log-ins is put forward

    @property
    def ledger(self) -> Ledger:
        return self.site.ledger


class NothingHeld:
    """Stands for an Orthanc that holds nothing."""

    def layer(self, _uid: str, _name: str) -> None:
        return None

    def document(self, _uid: str) -> None:
        return None

    def rendered(self, _uid: str) -> None:
        return None

    def place(self, _uid: str) -> Place | None:
        return None


@contextmanager
def serve(home: Path) -> Iterator[Pages]:
    settings = load_settings({"HILUM_HOME": str(home)})
    home.mkdir(parents=True, exist_ok=True)
    ledger = open_ledger(settings.ledger_address)
    migrate(ledger)
    with ledger.write() as db:
        tasks.set_fact(db, ALL_COMPARED, "1")
    load_credentials(settings.credentials)
    _record_model(settings.own_models, "pneumothorax", "2.0.0")
    for name, role in PEOPLE.items():
        add_user(settings.users, name, role, PASSWORD, taken=frozenset())
    audit = Audit(settings.audit, longest=1_000_000)
    audit.start()
    logins = Logins(
        Accounts(settings.credentials, settings.users),
        Sessions(settings.sessions, longest_seconds=12 * 3600, idle_seconds=3600),
        Attempts(),
    )
    ahead = [0.0]
    guard = Guard(logins, cookie="hilum_test", clock=lambda: time.time() + ahead[0])
    entrance = login.LoginPage(logins, guard, audit, clock=lambda: time.time() + ahead[0])
    pictures: dict[str, bytes] = {}
    site = Site(
        settings=settings, ledger=ledger, version="0", intake=lambda: (None, 0),
        fetch_thumbnail=lambda uid: pictures.get(uid) or _picture(uid),
        wake=lambda: None, free_space=FreeSpace([home], 0), clock=health.ClockWatch(),
        started_at=time.monotonic(), audit=audit, held=NothingHeld(),
    )  # fmt: skip

    def answer(request: Request) -> Response:
        if ledger.path is not None and ledger.path.exists():  # or the page tells that no worker is heard of
            with ledger.write() as db:
                models = {"chest_findings": "2.1.0", "pneumothorax": "2.0.0"}
                tasks.report_worker(db, "w", "ready", models, now=time.time())
        visit = guard.decide(request)
        if visit.refusal is not None:
            return login.refuse(request, visit)
        asked = replace(request, visitor=visit.visitor)
        return entrance.respond(asked) if asked.path in (login.LOGIN, login.LOGOUT) else routes.respond(asked, site)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            path = unquote(parts.path).rstrip("/") or "/"
            said = answer(Request(path, self.command, dict(parse_qsl(parts.query)), headers, body, address="127.0.0.1"))
            self.send_response(said.status)
            for name, value in {
                "Content-Type": said.mime,
                **said.headers,
                "Content-Length": str(len(said.body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Pages(f"http://127.0.0.1:{server.server_port}", site, pictures, ahead)
    finally:
        server.shutdown()
        server.server_close()
        audit.stop()
        ledger.close()


def finding(
    key: str, state: str = "present", probability: float | None = 0.9, side: str | None = None
) -> dict[str, Any]:
    reason = "evidence" if state == "not_evaluated" else None
    return {"key": key, "state": state, "probability": probability, "threshold": 0.5, "laterality": side, "regions": [],
            "reason": reason}  # fmt: skip


def add_study(
    pages: Pages,
    uid: str,
    priority: str = "routine",
    why: str = "Nothing found among the evaluated findings",
    *findings: dict[str, Any],
    minutes_ago: float = 5.0,
    status: TaskStatus = TaskStatus.DONE,
    cautions: tuple[str, ...] = (),
    picture: bytes = b"",
    images: int = 1,
    **patient: str,
) -> str:
    """Put a study into the ledger as arrival and worker do."""
    came = time.time() - 60 * minutes_ago
    told = {"patient_name": f"Doe^{uid}", "patient_id": f"P{uid[-3:]}", "patient_sex": "F", "patient_age": "055Y",
            "accession_number": f"A{uid[-4:]}", "study_date": "20261122", "study_time": "031500",
            "study_description": "Chest PA", "referring_physician": "Welby^Marcus", **patient}  # fmt: skip
    with pages.ledger.write() as db:
        tasks.enqueue(db, Arrival(uid, **told), now=came)
        if status is TaskStatus.QUEUED:
            return uid
        claimed = tasks.claim(db, "w", now=came + 1e-3, lease_seconds=9e9, abandoned_limit=3)
        assert claimed is not None
        assert claimed.study_instance_uid == uid, claimed.study_instance_uid
        if status is TaskStatus.RUNNING:
            return uid
        if status is TaskStatus.QUARANTINED:
            failure = Failure("reader_died", "the process died", "orthanc_plugin/reading/study.py:12 read")
            tasks.fail(db, claimed, failure, now=came + 1, retry_at=None, counted=True)
            return uid
        if status is TaskStatus.NOT_PROCESSED:
            image = {"sop_instance_uid": f"{uid}.1", "status": "not_processed", "reason": "view",
                     "message": "the view is not frontal ('lateral')",
                     "evidence": [{"source": "ViewPosition", "says": "LL"}]}  # fmt: skip
            outcome = Outcome(
                status, "none", _RANKS["none"], {"version": 1, "images": [image]}, "view", image["message"]
            )
        else:
            rest = [finding(key, "absent", 0.04) for key in ("fracture", "hernia", "mass")]
            rest += [finding(key, "not_evaluated", None) for key in ("emphysema", "fibrosis", "nodule")]
            image = {
                "sop_instance_uid": f"{uid}.1", "status": "done", "view": "PA", "reason": None, "priority": priority,
                "models": {"chest_findings": "2.1.0", "lung_fields": "1.3.0"}, "cautions": list(cautions),
                "findings": [*findings, *rest], "measurement_report": f"2.25.{abs(hash(uid))}", "thumbnail": True,
                "evidence": [{"source": "ViewPosition", "says": "PA"}, {"source": "pixels", "says": "frontal"}],
            }  # fmt: skip
            several = [{**image, "sop_instance_uid": f"{uid}.{number}"} for number in range(1, images + 1)]
            outcome = Outcome(status, priority, _RANKS[priority], {"version": 1, "images": several}, None, why)
        tasks.answer(db, claimed, outcome, now=came + 20, conclude_at=None)
    if picture:
        pages.pictures[f"2.25.{abs(hash(uid))}"] = picture
    return uid


def _picture(uid: str) -> bytes:
    """A small gray chest, drawn from the UID."""
    picture = Image.new("RGB", (128, 128), (18, 18, 18))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((18, 14, 110, 126), fill=(120, 120, 120))
    draw.ellipse((26, 24, 58, 108), fill=(40, 40, 40))
    draw.ellipse((70, 24, 102, 108), fill=(40, 40, 40))
    if int(uid[-1]) % 2:
        draw.ellipse((74, 50, 98, 80), fill=(190, 90, 40))
    content = BytesIO()
    picture.save(content, "JPEG")
    return content.getvalue()


def _record_model(folder: Path, name: str, version: str) -> None:
    """A bundle of the site's own that evaluates the finding of its name."""
    configs = folder / name / version / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"hilum": {"findings": {name: {"evaluated": True}}}}), "utf-8")
    (folder / "registry.toml").write_text(f'[{name}."{version}"]\n', "utf-8")

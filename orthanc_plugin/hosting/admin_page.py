"""The admin page: how the node is and what to do, its queue, quarantine, throughput, models, users and audit log.

The rule: it names no patient, and is answered within milliseconds however many studies there are; what cannot be asked
is told as unknown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.access.audit_reading import last_log_ins, latest
from orthanc_plugin.hosting.bundle_files import BundleFiles, find, recorded
from orthanc_plugin.hosting.elsewhere import asked_for
from orthanc_plugin.hosting.health import WORKER_SILENT_SECONDS
from orthanc_plugin.hosting.messages import HTML, PAGE_HEADERS, Request, Response
from orthanc_plugin.hosting.reading_page import look_of
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.hosting.telling import told
from orthanc_plugin.ledger.counters import counted
from orthanc_plugin.ledger.database import LedgerError
from orthanc_plugin.ledger.deliveries import DELIVERY, TAKEN
from orthanc_plugin.ledger.delivery_views import standings, troubled
from orthanc_plugin.ledger.figures import last_day, quarantined, refused_by_reason
from orthanc_plugin.ledger.notes import LAST_BACKUP, get_fact, workers_seen
from orthanc_plugin.ledger.outbox import Notice, Outbox
from orthanc_plugin.worklist import admin_view
from orthanc_plugin.worklist.admin_view import AdminPage, Model, Neighbour, User

_MOST_QUARANTINED = 50
_MOST_UNDELIVERED = 20
_AUDIT_LINES = 20
# A card brings its own style and plots, and may run nothing.
_CARD_HEADERS = PAGE_HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}


def respond(name: str, request: Request, site: Site, db: Connection, status: Callable[[], dict[str, Any]]) -> Response:
    """Answer ``/hilum/admin`` and, below it, the cards of the models (``models/NAME/VERSION/card.html``).

    Parameters
    ----------
    status
        Gives what ``GET /hilum/api/status`` tells.
    """
    if name == "":
        site.audit.record_view("view_admin", request.visitor.who)
        page = admin_view.render_admin(_page(request, site, db, status()), look_of(request))
        return Response(200, HTML, page.encode(), dict(PAGE_HEADERS))
    parts = name.split("/")
    bundle = find(site.settings, parts[1], parts[2]) if len(parts) == 4 and parts[0] == "models" else None
    found = bundle.page(parts[3]) if bundle else None
    if found is None:
        return told(request, 404, "There is no such card.", "The admin page at /hilum/admin lists the models.")
    return Response(200, found[0], found[1], dict(_CARD_HEADERS))


def _page(request: Request, site: Site, db: Connection, status: dict[str, Any]) -> AdminPage:
    now = time.time()
    backup = get_fact(db, LAST_BACKUP)
    log_ins, since = last_log_ins(site.settings.audit)
    return AdminPage(
        visitor=(request.visitor.who.name, request.visitor.who.role),
        status=status,
        hours=tuple(last_day(db, now)),
        refused=refused_by_reason(db),
        quarantined=tuple(quarantined(db, _MOST_QUARANTINED)),
        workers=tuple(workers_seen(db, now=now, silent_seconds=4 * WORKER_SILENT_SECONDS)),
        models=tuple(_models(site, status)),
        users=tuple(_users(site, log_ins)),
        last_backup=float(backup) if backup else None,
        log_ins_since=since,
        audit=tuple(reversed(latest(site.settings.audit, most=_AUDIT_LINES))),
        untold=tuple(_untold(site)),
        destinations=tuple(_destinations(site, db)),
        undelivered=tuple(troubled(db, _MOST_UNDELIVERED)),
        elsewhere=asked_for(request, db, now),
        reserve_mb=site.free_space.reserve_mb,
    )


def _untold(site: Site) -> list[Notice]:
    outbox = Outbox(site.ledger, site.settings.outbox)
    try:
        return outbox.troubled()
    except LedgerError:
        return []
    finally:
        outbox.close_file()


def _destinations(site: Site, db: Connection) -> list[Neighbour]:
    """Those that are set, and those that something is owed to all the same."""
    stand = {one.destination: one for one in standings(db)}
    done = {
        count.labels[0]: count.number for count in counted(db) if count.name == DELIVERY and count.labels[1] == TAKEN
    }
    protocols = {one.name: one.protocol for one in site.settings.owed_to}
    return [
        Neighbour(
            name,
            protocols.get(name, ""),
            done.get(name, 0),
            stand[name].owed if name in stand else 0,
            stand[name].refused if name in stand else 0,
            stand[name].oldest if name in stand else None,
            stand[name].error if name in stand else "",
        )
        for name in dict.fromkeys([*protocols, *stand])
    ]


def _models(site: Site, status: dict[str, Any]) -> list[Model]:
    """The recorded bundles: what a ready worker runs, what runs in shadow, and what only lies here."""
    shadows = _shadows(site)
    listed = []
    for bundle in recorded(site.settings):
        is_active = status["models"].get(bundle.name) == bundle.version
        is_shadow = any(name == bundle.name and version in ("", bundle.version) for name, version in shadows)
        state = "active" if is_active else "shadow" if is_shadow else ""
        listed.append(Model(bundle.name, bundle.version, state, _digest(bundle), bundle.shipped, bundle.has_card))
    order = {"active": 0, "shadow": 1, "": 2}
    return sorted(listed, key=lambda model: (order[model.state], model.name, model.version))


def _digest(bundle: BundleFiles) -> str:
    """Of the weights, or of the metadata where there are none."""
    return str(next(iter(bundle.digests.values()), ""))


def _shadows(site: Site) -> list[tuple[str, str]]:
    """What runs in shadow, as the file of the choice says (``models.activation``)."""
    try:
        chosen = json.loads(site.settings.active_models.read_text("utf-8"))
        return [(str(name), str(version)) for name, version in chosen["shadow"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _users(site: Site, log_ins: dict[str, float]) -> list[User]:
    return [User(name, str(account.role), log_ins.get(name)) for name, account in sorted(site.users().items())]

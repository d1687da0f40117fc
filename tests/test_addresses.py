"""Every address below /hilum stands in one table, which the documentation shows; nothing else is answered."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orthanc_plugin.access import audit_files
from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.roles import ALLOWED, Action, Role
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting import health, routes
from orthanc_plugin.hosting.addresses import ADDRESSES, Address, address_of, in_words
from orthanc_plugin.hosting.guard import Visit, action_of
from orthanc_plugin.hosting.messages import Request, Response, Visitor
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.hosting.trail import record_visit
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import migrate, open_ledger
from orthanc_plugin.ledger.tasks import Arrival
from orthanc_plugin.settings import REPOSITORY, load_settings

# what makes a request of an address do something
BODIES = {"mark": "study=1.2.3&do=claim", "api/retry": "all=yes", "api/reread": "study_instance_uid=1.2.3",
          "admin/elsewhere": "do=mark&before=2026-01-01&number=1&counted=none:1"}  # fmt: skip
ANSWERED_ELSEWHERE = ("login", "logout")  # by the log-in page


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = load_settings({"HILUM_HOME": str(tmp_path / "home")})
    ledger = open_ledger(settings.ledger_address)
    migrate(ledger)
    with ledger.write() as db:
        tasks.enqueue(db, Arrival("1.2.3"), now=1.0)
    audit = Audit(settings.audit, longest=1_000_000)
    audit.start()
    nothing: Any = SimpleNamespace(
        layer=lambda *_: None, document=lambda *_: None, rendered=lambda *_: None, place=lambda *_: None
    )
    yield Site(
        settings=settings, ledger=ledger, version="0", fetch_thumbnail=lambda _uid: None, intake=lambda: (None, 0),
        wake=lambda: None, free_space=FreeSpace([tmp_path], 0), clock=health.ClockWatch(),
        started_at=time.monotonic(), audit=audit, held=nothing,
    )  # fmt: skip
    audit.stop()
    ledger.close()


def ask(site: Site, address: Address, method: str, role: Role | None) -> Response:
    """Ask as the filter and the route of the plugin do."""
    path = f"/hilum/{address.path}".replace("<study>", "1.2.3").rstrip("/")
    path = re.sub("<[a-z]+>", "1.9", path)
    visitor = Visitor(role, Who("anna", str(role), "127.0.0.1"))
    body = BODIES.get(address.path, "").encode()
    headers = {"x-requested-with": "test", "accept": "text/html"}
    request = Request(path, method, headers=headers, body=body, visitor=visitor)
    record_visit(site.audit, request, Visit(visitor, action_of(method, path)), lambda *_: "")
    return routes.respond(request, site)


HERE = [address for address in ADDRESSES if address.path not in ANSWERED_ELSEWHERE]


def by_path(address: Address) -> str:
    return address.path or "worklist"


@pytest.mark.parametrize("address", HERE, ids=by_path)
def test_an_address_is_answered_to_those_who_may_and_by_its_methods_alone(site: Site, address: Address) -> None:
    for method in ("GET", "POST"):
        for role in Role:
            answer = ask(site, address, method, role)
            assert b"There is no such page" not in answer.body
            if address.action is not None and address.action not in ALLOWED[role]:
                assert answer.status == 403
            else:
                assert (answer.status == 405) is (method not in address.methods and address.action is not None)
    if address.action is not None:
        assert ask(site, address, address.methods[0], None).status == 403


@pytest.mark.parametrize("address", [a for a in HERE if a.recorded], ids=by_path)
def test_what_is_said_to_be_recorded_is(site: Site, address: Address) -> None:
    ask(site, address, address.methods[-1], Role.ADMIN)
    site.audit.stop()
    assert address.recorded in {entry["action"] for entry in audit_files.read(site.settings.audit)}


@pytest.mark.parametrize("name", ["x", "admin/x", "studies", "studies/1.2.3/x", "api", "api/x", "loginx", "mark/1"])
def test_whatever_does_not_stand_in_the_table_does_not_exist(site: Site, name: str) -> None:
    assert address_of(f"/hilum/{name}") is None
    assert action_of("GET", f"/hilum/{name}") is Action.VIEW_WORKLIST, "nobody is told without a log-in"
    visitor = Visitor(Role.ADMIN, Who("anna", "admin", ""))
    assert routes.respond(Request(f"/hilum/{name}", visitor=visitor), site).status == 404


def test_the_documentation_shows_the_table() -> None:
    document = (REPOSITORY / "docs" / "security.md").read_text("utf-8")
    shown = [line for line in document.splitlines() if re.match(r"\| `(GET|POST)", line)]
    assert shown == list(in_words()), "\n".join(["docs/security.md wants:", *in_words()])

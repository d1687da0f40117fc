"""What the node answers under /hilum/, from a real ledger, without Orthanc."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from orthanc_plugin.access import audit_files
from orthanc_plugin.access.accounts import add_user
from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.roles import Role
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting import health, routes
from orthanc_plugin.hosting.held import Place
from orthanc_plugin.hosting.messages import Request, Response, Visitor
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger import marks, tasks
from orthanc_plugin.ledger.database import LedgerUnavailable, migrate, open_ledger
from orthanc_plugin.ledger.filters import saved_filters
from orthanc_plugin.ledger.flagging import Flag, flag
from orthanc_plugin.ledger.mark_history import history
from orthanc_plugin.ledger.notes import ALL_COMPARED, LAST_RECONCILIATION
from orthanc_plugin.ledger.ownership import LedgerOfAnotherArchive
from orthanc_plugin.ledger.tasks import Arrival, Failure, Outcome, TaskStatus
from orthanc_plugin.settings import load_settings

PICTURED: dict[str, Any] = {
    "sop_instance_uid": "1.2.3.1", "status": "done", "view": "PA", "reason": None, "models": {"m": "1"},
    "cautions": [], "findings": [], "evidence": [], "measurement_report": "2.25.7", "priority": "urgent",
    "thumbnail": True,
}  # fmt: skip
REFUSED = {"sop_instance_uid": "1.2.3.2", "status": "not_processed", "reason": "view", "message": "not read"}
FORM = {"host": "node:8042", "origin": "http://node:8042", "sec-fetch-site": "same-origin", "accept": "text/html,*/*"}


@dataclass
class Attachments:
    """Pictures by UID, and what was asked for."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def fetch(self, uid: str) -> bytes | None:
        self.asked.append(uid)
        return self.pictures.get(uid)

    def layer(self, _uid: str, _name: str) -> bytes | None:
        return None

    def document(self, _uid: str) -> dict[str, Any] | None:
        return None

    def rendered(self, _uid: str) -> bytes | None:
        return None

    def place(self, _uid: str) -> Place | None:
        return None


@pytest.fixture
def woken() -> list[bool]:
    return []


@pytest.fixture
def kept() -> Attachments:
    return Attachments({"2.25.7": b"jpeg", "2.25.8": b"foreign", "1.2.3.1": b"foreign"})


@pytest.fixture
def site(tmp_path: Path, kept: Attachments, woken: list[bool]) -> Iterator[Site]:
    """A ledger that names one result, 2.25.7 of study 1.2.3; study 1.2.4 is in quarantine, study 1.2.5 waits."""
    settings = load_settings({"HILUM_HOME": str(tmp_path / "home")})
    ledger = open_ledger(settings.ledger_address)
    migrate(ledger)
    with ledger.write() as db:
        for uid in ("1.2.3", "1.2.4"):
            tasks.enqueue(db, Arrival(uid), now=1.0)
            claimed = tasks.claim(db, "w", now=2.0, lease_seconds=60, abandoned_limit=3)
            assert claimed is not None
            if uid == "1.2.3":
                result = {"version": 1, "images": [PICTURED, REFUSED], "history": []}
                tasks.answer(db, claimed, Outcome(TaskStatus.DONE, "urgent", 1, result), now=3.0, conclude_at=None)
            else:
                failure = Failure("reader_died", "the process died", "study.py:1 read")
                tasks.fail(db, claimed, failure, now=3.0, retry_at=None, counted=True)
        tasks.enqueue(db, Arrival("1.2.5"), now=4.0)
        tasks.report_worker(db, "w", "ready", {"m": "1"}, now=time.time())
    audit = Audit(settings.audit, longest=1_000_000)
    audit.start()
    yield Site(
        settings=settings,
        ledger=ledger,
        version="0",
        fetch_thumbnail=kept.fetch,
        intake=lambda: (None, 0),
        wake=lambda: woken.append(True),
        free_space=FreeSpace([tmp_path], 0),
        clock=health.ClockWatch(),
        started_at=time.monotonic(),
        audit=audit,
        held=kept,
    )
    audit.stop()
    ledger.close()


def asked(path: str, method: str = "GET", *, role: Role | None = Role.RADIOLOGIST, **given: Any) -> Request:
    return Request(path, method, visitor=Visitor(role, Who("anna", str(role), "127.0.0.1")), **given)


def recorded(site: Site) -> list[tuple[str, str, str, str]]:
    """What the audit log holds, as who, action, study and outcome."""
    site.audit.stop()
    found = audit_files.read(site.settings.audit)
    return [(entry["who"], entry["action"], entry["study"], entry["outcome"]) for entry in found]


def thumbnail(site: Site, report: str, study: str, seen: str | None = None) -> Response:
    headers = {} if seen is None else {"if-none-match": seen}
    query = {"study_instance_uid": study}
    return routes.respond(asked(f"/hilum/thumbnails/{report}", query=query, headers=headers), site)


def retry(site: Site, body: str, **changes: Any) -> Response:
    sent = asked("/hilum/api/retry", "POST", headers={"x-requested-with": "test"}, body=body.encode())
    return routes.respond(replace(sent, **changes), site)


def test_a_ledger_of_another_archive_shows_no_patient_and_is_not_changed(site: Site) -> None:
    other = replace(site, intake=lambda: (LedgerOfAnotherArchive("it belongs to another archive"), 0))
    for path in ("/hilum/", "/hilum/rows", "/hilum/api/worklist", "/hilum/api/images", "/hilum/api/status"):
        answer = routes.respond(asked(path), other)
        assert b"1.2.3" not in answer.body
        assert b"another archive" in answer.body
    before = states(site)
    assert retry(other, "all=yes").status == 503
    assert states(site) == before


def states(site: Site) -> dict[str, int]:
    with site.ledger.read() as db:
        return {name: count for name, count in tasks.count_by_status(db).items() if count}


def test_a_thumbnail_is_served_privately_and_once(site: Site) -> None:
    first = thumbnail(site, "2.25.7", "1.2.3")
    assert (first.status, first.mime, first.body) == (200, "image/jpeg", b"jpeg")
    assert first.headers["Cache-Control"].startswith("private, max-age=")
    again = thumbnail(site, "2.25.7", "1.2.3", f'"other", {first.headers["ETag"]}')
    assert (again.status, again.body, again.headers) == (304, b"", first.headers)
    assert thumbnail(site, "2.25.7", "1.2.3", '"other"').status == 200


@pytest.mark.parametrize(
    ("report", "study"),
    [
        ("2.25.8", "1.2.3"),
        ("2.25.7", "1.2.4"),
        ("2.25.7", "1.2.6"),
        ("2.25.7", ""),
        ("", "1.2.3"),
        ("1.2.3.1", "1.2.3"),
        ("2.25.7/../../instances", "1.2.3"),
        ("2.25.07", "1.2.3"),
        ("2.25.7\n", "1.2.3"),
        ("2" * 65, "1.2.3"),
    ],
)
def test_only_results_that_the_ledger_names_are_asked_for(
    site: Site, kept: Attachments, report: str, study: str
) -> None:
    answer = thumbnail(site, report, study)
    assert (answer.status, kept.asked) == (404, [])
    assert answer.headers["Cache-Control"] == "no-store"
    assert b"foreign" not in answer.body


def test_a_result_whose_picture_is_gone_is_answered_calmly(site: Site, kept: Attachments) -> None:
    kept.pictures.clear()
    answer = thumbnail(site, "2.25.7", "1.2.3", '"2.25.7"')
    assert (answer.status, answer.body) == (404, b"There is no picture of this result.\n")


def test_the_interface_names_the_address_that_serves_the_picture(site: Site) -> None:
    listed = json.loads(routes.respond(asked("/hilum/api/worklist"), site).body)["rows"]
    (url,) = [entry["thumbnail"] for row in listed for entry in row["images"] if entry["thumbnail"]]
    path, _, query = url.partition("?")
    assert routes.respond(asked(path, query=dict([query.split("=")])), site).body == b"jpeg"


def worklist(site: Site, **query: str) -> dict[str, Any]:
    answer = routes.respond(asked("/hilum/api/worklist", query=query), site)
    assert answer.status == 200, answer.body
    told: dict[str, Any] = json.loads(answer.body)
    return told


def test_a_program_asks_for_a_part_of_the_worklist(site: Site) -> None:
    def uids(told: dict[str, Any]) -> list[str]:
        return [row["study_instance_uid"] for row in told["rows"]]

    whole = worklist(site)
    assert (len(whole["rows"]), whole["count"], whole["count_is_exact"], whole["next"]) == (3, 3, True, None)
    first = worklist(site, limit="2")
    second = worklist(site, limit="2", after=first["next"])
    assert uids(first) + uids(second) == uids(whole)
    assert uids(worklist(site, limit="2", page="2")) == uids(second)
    assert uids(worklist(site, status="quarantined")) == uids(worklist(site, reason="reader_died")) == ["1.2.4"]
    assert uids(worklist(site, sort="-received")) == ["1.2.5", "1.2.4", "1.2.3"]
    assert uids(worklist(site, priority="urgent", read="no")) == ["1.2.3"]


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "x"}, {"page": "0"}, {"limit": "501"}, {"after": "x"}, {"sort": "colour"},
              {"colour": "red"}, {"status": "lost"}, {"text": "Doe"}, {"page": "9999999999"}, {"limit": "٣"}],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_told_so_without_repeating_a_search(
    site: Site, query: dict[str, str]
) -> None:
    answer = routes.respond(asked("/hilum/api/worklist", query=query), site)
    assert answer.status == 400
    assert b"Doe" not in answer.body


def test_a_search_comes_in_the_body(site: Site) -> None:
    with site.ledger.write() as db:
        tasks.enqueue(db, Arrival("1.2.6", "Müller^Ann"), now=5.0)
    search = asked("/hilum/api/worklist", "POST", body=b"text=m%C3%BCll+ann&limit=5")
    told = json.loads(routes.respond(search, site).body)
    assert [row["study_instance_uid"] for row in told["rows"]] == ["1.2.6"]


def test_a_program_has_one_study_tried_again(site: Site, woken: list[bool]) -> None:
    answer = retry(site, "study_instance_uid=1.2.4")
    assert (answer.status, json.loads(answer.body), woken) == (200, {"retried": 1}, [True])
    assert states(site) == {"done": 1, "queued": 2}
    assert json.loads(retry(site, "study_instance_uid=1.2.4").body) == {"retried": 0}


def test_the_form_of_the_page_leads_back_to_the_row(site: Site) -> None:
    answer = retry(site, "study_instance_uid=1.2.4", headers=FORM)
    assert (answer.status, answer.headers["Location"]) == (303, "/hilum/#study-1.2.4")
    assert states(site) == {"done": 1, "queued": 2}


def test_all_are_tried_again_only_when_that_is_said(site: Site) -> None:
    assert retry(site, "").status == retry(site, "study_instance_uid=").status == 400
    assert retry(site, "study_instance_uid=<b>&all=yes").status == 400
    assert states(site)["quarantined"] == 1
    assert json.loads(retry(site, "all=yes").body) == {"retried": 1}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://other.example", "host": "node:8042"},
        {"origin": "null", "host": "node:8042"},
        {"origin": "http://node:9000", "host": "node:8042"},
        {"origin": "http://other.example", "host": "node:8042", "x-requested-with": "x"},
        {**FORM, "sec-fetch-site": "cross-site"},
        {**FORM, "sec-fetch-site": "same-site"},
        {**FORM, "sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "x-requested-with": "x"},
    ],
)
def test_no_other_site_can_have_anything_tried_again(site: Site, headers: dict[str, str]) -> None:
    assert retry(site, "study_instance_uid=1.2.4", headers=headers).status == 403
    assert retry(site, "all=yes", headers=headers).status == 403
    assert states(site)["quarantined"] == 1


def test_following_a_link_changes_nothing(site: Site) -> None:
    answer = retry(site, "study_instance_uid=1.2.4", method="GET")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert states(site)["quarantined"] == 1


def test_the_status_tells_what_is_wrong_and_what_waits(site: Site) -> None:
    with site.ledger.write() as db:
        tasks.set_fact(db, LAST_RECONCILIATION, "123.5")
        tasks.set_fact(db, ALL_COMPARED, "123.5")
    status = json.loads(routes.respond(asked("/hilum/api/status"), site).body)
    assert [problem["code"] for problem in status["problems"]] == ["quarantined", "waiting_long"]
    assert (status["state"], status["models"], status["last_reconciliation"]) == ("ready", {"m": "1"}, 123.5)
    assert status["oldest_waiting_seconds"] > 1e9
    assert status["disk_free_mb"] > 0


def test_a_worklist_that_is_still_being_rebuilt_says_so(site: Site) -> None:
    status = json.loads(routes.respond(asked("/hilum/api/status"), site).body)
    assert [problem["code"] for problem in status["problems"]] == ["quarantined", "waiting_long", "comparing"]


def test_a_worker_that_cannot_load_its_models_is_named(site: Site) -> None:
    with site.ledger.write() as db:
        tasks.report_worker(db, "w", "starting", {}, now=time.time(), problem="models_unusable")
    status = json.loads(routes.respond(asked("/hilum/api/status"), site).body)
    assert (status["state"], status["problems"][0]["code"]) == ("impaired", "models_unusable")


def test_without_its_ledger_the_node_still_says_how_it_is(site: Site) -> None:
    assert site.ledger.path is not None
    site.ledger.path.unlink()
    status = routes.respond(asked("/hilum/api/status"), site)
    assert (status.status, json.loads(status.body)["problems"][0]["code"]) == (200, "ledger_unusable")
    whole, part = routes.respond(asked("/hilum/"), site), routes.respond(asked("/hilum/rows"), site)
    assert (whole.status, part.status) == (200, 503)
    assert b"problem-ledger_unusable" in whole.body
    assert b"problem-ledger_unusable" in part.body
    assert b"<table" not in part.body
    assert routes.respond(asked("/hilum/api/worklist"), site).status == 503
    assert retry(site, "all=yes").status == 503
    assert thumbnail(site, "2.25.7", "1.2.3").status == 503
    for path, role in (("/hilum/admin", Role.ADMIN), ("/hilum/studies/1.2.3", Role.RADIOLOGIST)):
        page = routes.respond(asked(path, role=role, headers={"accept": "text/html"}), site)
        assert (page.status, page.mime) == (503, "text/html; charset=utf-8")
        for words in (b"cannot be shown without the ledger", b"problem-ledger_unusable", b"not a medical device"):
            assert words in page.body
        assert f'href="{path}">Load this page again'.encode() in page.body


def test_what_there_is_not_is_told_by_a_page_or_in_a_line(site: Site) -> None:
    for path in ("/hilum/nothing", "/hilum/studies/9.9"):
        person = routes.respond(asked(path, headers={"accept": "text/html"}), site)
        assert (person.status, person.mime.partition(";")[0]) == (404, "text/html")
        assert b"not a medical device" in person.body
        assert routes.respond(asked(path), site).mime.startswith("text/plain")


def test_priorities_are_told_for_named_studies_alone(site: Site) -> None:
    def told(body: str, **changes: Any) -> Response:
        return routes.respond(asked("/hilum/api/priorities", "POST", body=body.encode(), **changes), site)

    known = json.loads(told("study_instance_uid=1.2.3&study_instance_uid=9.9").body)["studies"]
    assert known == {"1.2.3": {"priority": "urgent", "status": "done", "is_read": False}}
    assert told("study_instance_uid=%27").status == 400
    assert told("study_instance_uid=1&" * 501).status == 200, "the same one is one"
    assert told("&".join(f"study_instance_uid=1.{n}" for n in range(501))).status == 400
    assert told("study_instance_uid=1.2.3", role=Role.WORKER).status == 403


def test_a_plugin_that_cannot_write_says_so_even_when_the_ledger_can_be_read(site: Site) -> None:
    blocked = replace(site, intake=lambda: (LedgerUnavailable("the disk is full"), 3))
    status = json.loads(routes.respond(asked("/hilum/api/status"), blocked).body)
    assert (status["state"], status["problems"][0]["code"]) == ("impaired", "ledger_unavailable")
    assert "3 studies wait" in status["problems"][0]["what_to_do"]


@pytest.mark.parametrize(
    ("role", "path", "allowed"),
    [
        (role, path, role is not None and (path, role) not in (("/hilum", Role.WORKER), ("/hilum", Role.MONITOR)))
        for role in (None, *Role)
        for path in ("/hilum/api/status", "/hilum")
    ],
)
def test_pages_ask_the_table_of_roles(site: Site, role: Role | None, path: str, allowed: bool) -> None:
    assert (routes.respond(asked(path, role=role), site).status == 200) is allowed


def test_a_page_tells_who_is_logged_in_and_lets_them_out(site: Site) -> None:
    whole = routes.respond(asked("/hilum"), site).body.decode()
    assert "<bdi>anna</bdi>, radiologist" in whole
    assert '<form class="visitor" method="post" action="/hilum/logout">' in whole
    told = json.loads(routes.respond(asked("/hilum/api/visitor"), site).body)
    assert (told["name"], told["role"]) == ("anna", "radiologist")
    assert "mark" in told["may"]
    assert "orthanc" not in told["may"]


def test_each_load_of_the_page_is_recorded_and_its_refreshes_are_not(site: Site) -> None:
    for path in ("/hilum", "/hilum/rows", "/hilum/rows", "/hilum/api/worklist", "/hilum", "/hilum/rows"):
        routes.respond(asked(path), site)
    assert recorded(site) == [("anna", "view_worklist", "", "done")] * 2


def test_refreshes_without_the_page_are_recorded_as_well(site: Site) -> None:
    for path in ("/hilum/rows", "/hilum/rows", "/hilum/api/images", "/hilum/api/worklist"):
        routes.respond(asked(path), site)
    assert recorded(site) == [("anna", "view_worklist", "", "done")]


def test_a_change_is_in_the_audit_log_when_it_is_answered(site: Site) -> None:
    retry(site, "study_instance_uid=1.2.4")
    found = [(e["who"], e["action"], e["study"], e["outcome"]) for e in audit_files.read(site.settings.audit)]
    assert found == [("anna", "retry", "1.2.4", "done")]


def test_a_change_that_cannot_be_recorded_says_so(site: Site) -> None:
    site.settings.audit.mkdir(parents=True, exist_ok=True)
    (site.settings.audit / "000001.log").mkdir()  # a disk that takes nothing
    assert json.loads(retry(site, "study_instance_uid=1.2.4").body) == {
        "retried": 1,
        "problem": "not in the audit log yet",
    }
    status = json.loads(routes.respond(asked("/hilum/api/status"), site).body)
    assert "audit_unwritten" in [problem["code"] for problem in status["problems"]]
    (site.settings.audit / "000001.log").rmdir()
    deadline = time.monotonic() + 10
    while site.audit.problem and time.monotonic() < deadline:
        time.sleep(0.05)
    assert recorded(site) == [("anna", "retry", "1.2.4", "done")], "kept, and written when it could be"


def mark(site: Site, body: str, role: Role = Role.RADIOLOGIST, **headers: str) -> Response:
    given = headers or {"x-requested-with": "test"}
    return routes.respond(asked("/hilum/mark", "POST", role=role, headers=given, body=body.encode()), site)


def test_a_mark_is_answered_in_words_and_recorded_without_what_was_written(site: Site) -> None:
    answer = mark(site, "study=1.2.3&do=note&comment=secret+words")
    assert (answer.status, json.loads(answer.body)) == (
        200, {"said": "Study noted.", "refused": False, "study_instance_uids": ["1.2.3"]},
    )  # fmt: skip
    refused = mark(site, "study=1.2.3&do=unread")
    assert (refused.status, json.loads(refused.body)["refused"]) == (409, True)
    assert mark(site, "study=<b>&do=read").status == mark(site, "study=1.2.3&do=anything").status == 409
    assert mark(site, "study=1.2.3&do=assign&to=nobody+of+ours").status == 409
    assert recorded(site) == [("anna", "mark", "1.2.3", "done"), ("anna", "mark", "1.2.3", "refused")]
    assert "secret" not in "".join(file.read_text() for file in site.settings.audit.iterdir())


def answer(site: Site, uid: str, version: int, *images: dict[str, Any]) -> None:
    with site.ledger.write() as db:
        tasks.enqueue(db, Arrival(uid), now=5.0)
        claimed = tasks.claim(db, "w", now=1e9, lease_seconds=60, abandoned_limit=3)
        while claimed is not None and claimed.study_instance_uid != uid:
            claimed = tasks.claim(db, "w", now=1e9, lease_seconds=60, abandoned_limit=3)
        assert claimed is not None
        result = {"version": version, "images": list(images), "history": []}
        tasks.answer(db, claimed, Outcome(TaskStatus.DONE, "urgent", 1, result), now=6.0, conclude_at=None)


def details(site: Site) -> list[str]:
    site.audit.stop()
    return [entry["detail"] for entry in audit_files.read(site.settings.audit)]


def read_by(site: Site) -> dict[str, str]:
    page = json.loads(routes.respond(asked("/hilum/api/worklist"), site).body)
    return {row["study_instance_uid"]: row["read_by"] for row in page["rows"] if row["read_at"]}


def test_of_several_studies_those_are_read_whose_answer_was_looked_at(site: Site) -> None:
    for uid, version in (("1.2.6", 1), ("1.2.7", 2), ("1.2.8", 1)):
        answer(site, uid, version, PICTURED)
    body = "do=read&study=1.2.6&study=1.2.7&study=1.2.8&study=1.2.5&seen=1.2.6:1:urgent&seen=1.2.7:1:urgent"
    body += "&seen=1.2.3:1:urgent&seen="
    told = json.loads((marked := mark(site, body)).body)
    assert (marked.status, told["study_instance_uids"]) == (409, ["1.2.6", "1.2.5"])
    assert told["said"].startswith("2 of 4 studies marked as read. 1 refused: the AI has answered anew")
    assert "1 refused: the AI has answered: say which answer was looked at (seen)." in told["said"]
    assert read_by(site) == {"1.2.6": "anna", "1.2.5": "anna"}


@pytest.mark.parametrize(
    "seen",
    ["x", "1", "-1:urgent", "1.2.3:urgent", "1.2.3:1.5:urgent", ":1:urgent", f"{9 * 10**29}:urgent", "<b>:1:urgent",
     "1.2.3:1:high", "1.2.3:1:urgent&seen=1.2.3:1:routine", "1.2.3:1:urgent&seen=1.2.3:2:urgent"],
)  # fmt: skip
def test_what_was_looked_at_is_never_passed_over(site: Site, seen: str) -> None:
    for also in ("", "&study=1.2.5"):
        assert mark(site, f"study=1.2.3&do=read&seen={seen}{also}").status == 400
    for other in ("", "&seen=2:urgent", "&seen=1:routine"):
        assert mark(site, f"study=1.2.3&do=read{other}").status == 409
    assert mark(site, "study=1.2.3&study=1.2.5&do=read&seen=1:urgent").status == 400, "of which one?"
    assert read_by(site) == {}
    assert mark(site, "study=1.2.3&do=read&seen=1:urgent").status == 200


def test_a_study_that_is_raised_before_its_answer_is_not_read_by_who_did_not_see_it(site: Site) -> None:
    with site.ledger.write() as db:
        claimed = tasks.claim(db, "w", now=5.0, lease_seconds=1e12, abandoned_limit=3)
        assert claimed is not None
        flag(db, claimed, Flag("critical", 0, "Pneumothorax 91 %"), now=6.0)
    for seen in ("", "&seen=0:none"):
        assert mark(site, f"study=1.2.5&do=read{seen}").status == 409
    for path in ("/hilum/", "/hilum/studies/1.2.5"):
        page = routes.respond(asked(path), site).body.decode()
        assert "Pneumothorax 91 % (first answer)" in page
        assert 'name="seen" value="0:critical"' in page
    assert mark(site, "study=1.2.5&do=read&seen=0:critical").status == 200


def test_a_mark_prolongs_the_claim_of_its_study_alone(site: Site) -> None:
    for uid in ("1.2.3", "1.2.5"):
        assert mark(site, f"study={uid}&do=claim").status == 200

    def until() -> list[float]:
        with site.ledger.read() as db:
            return [tasks.of_study(db, uid)[0]["claimed_until"] for uid in ("1.2.3", "1.2.5")]

    before = until()
    assert mark(site, "study=1.2.3&do=note&comment=hm").status == 200
    assert (until()[0] > before[0], until()[1] == before[1]) == (True, True)


def test_an_admin_alone_releases_what_another_has_in_hand(site: Site) -> None:
    with site.ledger.write() as db:
        marks.claim(db, "1.2.3", "ben", now=time.time(), seconds=900)
    title = 'title="Take it out of the hands of ben"'
    assert title not in routes.respond(asked("/hilum/"), site).body.decode()
    assert mark(site, "study=1.2.3&do=release").status == 409
    assert title in routes.respond(asked("/hilum/", role=Role.ADMIN), site).body.decode()
    assert mark(site, "study=1.2.3&do=release", Role.ADMIN).status == 200
    with site.ledger.read() as db:
        assert tasks.of_study(db, "1.2.3")[0]["claimed_by"] == ""


def elsewhere(site: Site, **form: str) -> Response:
    body, today = urlencode(form).encode(), time.strftime("%Y-%m-%d")
    path, query = ("/hilum/admin/elsewhere", {}) if form else ("/hilum/admin", {"before": today})
    given = {"x-requested-with": "t"}
    request = asked(path, "POST" if form else "GET", query=query, role=Role.ADMIN, headers=given, body=body)
    return routes.respond(request, site)


def test_as_many_studies_of_other_priorities_are_not_those_that_were_counted(site: Site) -> None:
    shown = elsewhere(site).body.decode()
    counted = re.search(r'name="counted" value="([^"]*)"', shown)
    assert counted is not None
    assert counted[1] == "urgent:1,none:2"
    form = {"do": "mark", "before": time.strftime("%Y-%m-%d"), "number": "3", "counted": counted[1]}
    answer(site, "1.2.5", 1, PICTURED)
    refused = elsewhere(site, **form)
    assert (refused.status, read_by(site)) == (409, {})
    assert b"3 studies of other priorities now" in refused.body
    assert elsewhere(site, **{**form, "counted": "urgent:2,none:1"}).status == 303
    assert len(read_by(site)) == 3


def finding(key: str, state: str) -> dict[str, Any]:
    told = {"threshold": 0.5, "laterality": None, "regions": [], "reason": None, "probability": 0.5}
    return {"key": key, "state": state, **told}


def test_a_judgement_is_of_the_result_that_was_looked_at(site: Site) -> None:
    first = {**PICTURED, "findings": [finding("effusion", "present"), finding("edema", "not_evaluated")]}
    second = {**first, "sop_instance_uid": "1.2.3.3", "measurement_report": "2.25.8"}
    second["findings"] = [finding("effusion", "absent"), finding("edema", "absent")]
    answer(site, "1.2.6", 3, first, second)
    for said, status in (
        ("agree:effusion&seen=2:urgent", 409), ("agree:effusion&seen=3:urgent&report=2.25.99", 409),
        ("agree:zzz&seen=3:urgent", 400), ("agree:edema&seen=3:urgent&report=2.25.7", 400),
        ("agree:effusion&seen=x", 400), ("disagree:effusion&seen=3:urgent&report=2.25.8&comment=hm", 200),
        ("disagree:edema&seen=3:urgent", 200),
        ("assign&to=anna", 200),
    ):  # fmt: skip
        assert mark(site, f"study=1.2.6&do={said}").status == status, said
    with site.ledger.read() as db:
        made = [(m.kind.value, m.finding, m.report, m.version) for m in history(db, "1.2.6")]
    assert made == [
        ("disagree", "effusion", "2.25.8", 3), ("disagree", "edema", "2.25.8", 3), ("assign", "", "", 3),
    ]  # fmt: skip
    page = routes.respond(asked("/hilum/studies/1.2.6"), site).body.decode()
    for report in ("2.25.7", "2.25.8"):
        assert f'<input type="hidden" name="report" value="{report}">' in page
    assert [d for d in details(site) if d] == [
        *["agree"] * 4, "disagree effusion", "disagree edema", "assign to anna",
    ]  # fmt: skip


def test_an_act_on_several_studies_is_taken_back_whole_and_told(site: Site) -> None:
    assert mark(site, "do=note&study=1.2.3&comment=hm").status == 200
    assert mark(site, "do=read&study=1.2.3&study=1.2.4&study=1.2.5&seen=1.2.3:1:urgent").status == 200
    told = json.loads(mark(site, "do=undo").body)
    assert told["said"] == "Taken back: 3 of 3 studies marked as read."
    assert told["study_instance_uids"] == ["1.2.3", "1.2.4", "1.2.5"]
    told = json.loads(mark(site, "do=undo").body)
    assert (told["said"], told["study_instance_uids"]) == ("Taken back: study noted.", ["1.2.3"])
    nothing = json.loads((answered := mark(site, "do=undo")).body)
    assert (answered.status, nothing["said"]) == (409, "There is no mark of yours to take back.")


def test_a_study_is_assigned_to_who_reads_alone(site: Site) -> None:
    for name, role in (("tom", Role.TECHNOLOGIST), ("rita", Role.RADIOLOGIST)):
        add_user(site.settings.users, name, role, "correct horse battery", taken=frozenset())
    refused = mark(site, "study=1.2.3&do=assign&to=tom")
    assert (refused.status, b"somebody who reads" in refused.body) == (409, True)
    assert mark(site, "study=1.2.3&do=assign&to=rita").status == 200


def post(site: Site, path: str, body: bytes) -> Response:
    return routes.respond(asked(path, "POST", headers={"x-requested-with": "t"}, body=body), site)


@pytest.mark.parametrize("path", ["mark", "filters", "look", "rows", "api/worklist", "api/priorities", "api/reread"])
def test_a_form_that_nobody_needs_is_refused_at_once(site: Site, path: str) -> None:
    began = time.perf_counter()
    assert post(site, f"/hilum/{path}", b"study=" + b"1" * 20_000_000).status == 413
    assert post(site, f"/hilum/{path}", b"&".join([b"a=1"] * 60_000)).status == 400
    assert time.perf_counter() - began < 1


def test_fields_that_are_no_form_are_refused_instead_of_being_passed_over(site: Site) -> None:
    headers = {"x-requested-with": "t", "content-type": "application/json; charset=utf-8"}
    for path in ("api/worklist", "api/priorities", "mark"):
        said = routes.respond(asked(f"/hilum/{path}", "POST", headers=headers, body=b'{"text": "x"}'), site)
        assert (said.status, b"sent as a form" in said.body) == (415, True)


def test_no_nul_is_kept(site: Site) -> None:
    assert mark(site, "study=1.2.3&do=note&comment=a%00b").status == 200
    assert mark(site, "study=1.2.3&do=note&comment=%00").status == 409
    assert post(site, "/hilum/filters", b"name=night%00&do=save&back=read%3Dno").status == 200
    assert post(site, "/hilum/filters", b"name=%00&do=save&back=read%3Dno").status == 409
    with site.ledger.read() as db:
        assert history(db, "1.2.3")[-1].note == "ab"
        assert [saved.name for saved in saved_filters(db, "anna")] == ["night"]


@pytest.mark.parametrize("query", [{"study_from": "20260231"}, {"study_until": "99999999"},
                                   {"study_from": "20260102", "study_until": "20260101"}])  # fmt: skip
def test_a_search_by_a_date_that_there_is_not_is_refused_in_words(site: Site, query: dict[str, str]) -> None:
    answered = routes.respond(asked("/hilum/api/worklist", query=query), site)
    assert (answered.status, answered.body[:6]) == (400, b"study_")
    assert b"No filter is in force" in routes.respond(asked("/hilum", query=query), site).body


def test_filters_and_further_pages_are_recorded_without_what_they_say(site: Site) -> None:
    assert post(site, "/hilum/filters", b"name=mrs+doe&do=save&back=text%3Ddoe").status == 200
    assert post(site, "/hilum/filters", b"name=mrs+doe&do=forget").status == 200
    for page in ("1", "2"):
        routes.respond(asked("/hilum/api/worklist", query={"limit": "1", "page": page}), site)
    second = json.loads(routes.respond(asked("/hilum/api/worklist", query={"limit": "1", "page": "2"}), site).body)
    uid = second["rows"][0]["study_instance_uid"]
    assert details(site) == ["save", "forget", "", f"1 further studies, {uid} to {uid}"]


def test_a_mark_that_the_audit_log_lacks_says_so(site: Site) -> None:
    site.settings.audit.mkdir(parents=True, exist_ok=True)
    (site.settings.audit / "000001.log").mkdir()  # stands where the file belongs
    told = json.loads(mark(site, "study=1.2.3&do=claim").body)
    assert (told["refused"], told["problem"]) == (False, "not in the audit log yet")
    assert told["said"] == "Study in your hands. It is not in the audit log yet."
    page = mark(site, "study=1.2.3&do=release&page=study", **FORM)
    assert (page.status, b"It is not in the audit log yet." in page.body) == (200, True)
    again = asked("/hilum/api/reread", "POST", headers={"x-requested-with": "t"}, body=b"study_instance_uid=1.2.3")
    assert json.loads(routes.respond(again, site).body) == {"queued": 1, "problem": "not in the audit log yet"}
    assert b"not in the audit log" in routes.respond(asked("/hilum/studies/1.2.3"), site).body
    (site.settings.audit / "000001.log").rmdir()


def test_only_who_reads_may_mark_and_no_other_site_can(site: Site) -> None:
    assert mark(site, "study=1.2.3&do=read", role=Role.TECHNOLOGIST).status == 403
    assert mark(site, "study=1.2.3&do=read", origin="http://other.example", host="node:8042").status == 403
    assert routes.respond(asked("/hilum/mark", query={"study": "1.2.3", "do": "read"}), site).status == 405


def test_rows_that_have_not_changed_are_not_sent_again(site: Site) -> None:
    first = routes.respond(asked("/hilum/rows"), site)
    seen = {"if-none-match": first.headers["ETag"]}
    assert routes.respond(asked("/hilum/rows", headers=seen), site).status in (200, 304)  # a minute may have ended
    assert mark(site, "study=1.2.3&do=claim").status == 200
    assert routes.respond(asked("/hilum/rows", headers=seen), site).status == 200


def test_what_is_searched_for_stands_in_no_address(site: Site) -> None:
    assert routes.respond(asked("/hilum", query={"text": "doe"}), site).status == 400
    by_form = routes.respond(asked("/hilum", "POST", body=b"text=doe&read=no"), site)
    assert (by_form.status, "Location" in by_form.headers) == (200, False)
    led = routes.respond(asked("/hilum", "POST", body=b"text=&read=no"), site)
    assert (led.status, led.headers["Location"]) == (303, "/hilum/?read=no")

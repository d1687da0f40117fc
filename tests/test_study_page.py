"""The page of a study, its pictures and documents, from a real ledger, without Orthanc."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.access import audit_files
from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.audit_reading import last_log_ins, latest
from orthanc_plugin.access.roles import Action, Role, may
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting import health, routes
from orthanc_plugin.hosting.guard import action_of
from orthanc_plugin.hosting.held import HeldByOrthanc, Place
from orthanc_plugin.hosting.messages import Request, Response, Visitor
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger import judging, tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.patients import studies_of_patient
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus
from orthanc_plugin.settings import load_settings
from orthanc_plugin.worklist.content_tree import content_tree, runs, sections

HOSTILE = "<script>alert(1)</script>^\u05d3\u05d5\u05d3\u202e"


def finding(key: str, state: str, probability: float | None, **more: Any) -> dict[str, Any]:
    plain = {"threshold": 0.5, "laterality": None, "regions": [], "reason": None}
    return {"key": key, "state": state, "probability": probability, **plain, **more}


READ: dict[str, Any] = {
    "sop_instance_uid": "1.2.3.1", "status": "done", "view": "PA", "reason": None, "cautions": ["ap_view"],
    "models": {"lung_opacity": "0.1.0", "chest_findings": "0.1.0"}, "evidence": [], "measurement_report": "2.25.7",
    "priority": "urgent", "priority_reason": "Lung opacity 59 %", "thumbnail": True, "rows": 512, "columns": 400,
    "layers": ["picture", "heat_map"], "maps": ["lung_opacity"], "segments": [], "criteria": [], "measurements": [],
    "findings": [
        finding("lung_opacity", "present", 0.585, regions=[[96.0, 147.2, 140.8, 249.6, "lung_opacity", 0.585]]),
        finding("effusion", "absent", 0.02),
        finding("pneumothorax", "not_evaluated", None, threshold=None, reason="evidence"),
    ],
}  # fmt: skip
REFUSED = {
    "sop_instance_uid": "1.2.3.2", "status": "not_processed", "reason": "view", "message": "a lateral", "evidence": [],
}  # fmt: skip


def code(meaning: str) -> list[dict[str, str]]:
    return [{"0008,0100": "1", "0008,0102": "DCM", "0008,0104": meaning}]


def item(kind: str, name: str, *children: dict[str, Any], **value: Any) -> dict[str, Any]:
    return {"0040,a010": "CONTAINS", "0040,a040": kind, "0040,a043": code(name), "0040,a730": list(children), **value}


def text_item(name: str, text: str) -> dict[str, Any]:
    return item("TEXT", name, **{"0040,a160": text})


DOCUMENTS: dict[str, dict[str, Any]] = {
    "2.25.9": item(
        "CONTAINER", "X-Ray Report", item("CONTAINER", "Findings", text_item("Findings", "An <b>opacity</b>."))
    ),
    "2.25.7": item(
        "CONTAINER", "Imaging Measurement Report",
        item("CODE", "Model run", text_item("Algorithm Name", "lung_opacity"), text_item("Algorithm Version", "0.1.0"),
             text_item("Algorithm Parameters", "weights sha256:abc"),
             text_item("Algorithm Parameters", "precision=int8"), **{"0040,a168": code("Succeeded")}),
        item("NUM", "Area", **{"0040,a300": [{"0040,a30a": "12.5", "0040,08ea": [{"0008,0100": "cm2"}]}]}),
    ),
}  # fmt: skip


@dataclass
class HeldInMemory:
    """Stands for Orthanc."""

    layers: dict[tuple[str, str], bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    can_render: bool = True

    def layer(self, sop_instance_uid: str, name: str) -> bytes | None:
        self.asked.append(sop_instance_uid)
        return self.layers.get((sop_instance_uid, name))

    def document(self, sop_instance_uid: str) -> dict[str, Any] | None:
        self.asked.append(sop_instance_uid)
        return DOCUMENTS.get(sop_instance_uid)

    def rendered(self, sop_instance_uid: str) -> bytes | None:
        self.asked.append(sop_instance_uid)
        return b"\x89PNG" + sop_instance_uid.encode()

    def place(self, sop_instance_uid: str) -> Place | None:
        return Place("1.2.3.0", 5.0, self.can_render)


def enqueue(ledger: Ledger, uid: str, *, name: str = HOSTILE, born: str = "19600101", date: str = "20260101") -> None:
    arrival = Arrival(uid, patient_name=name, patient_id="P/7 a", patient_birth_date=born, study_date=date)
    with ledger.write() as db:
        tasks.enqueue(db, arrival, now=1.0)


def answer(ledger: Ledger, images: list[dict[str, Any]], **more: Any) -> None:
    result = {"version": 1, "images": images, "history": [], "preliminary_report": "2.25.9", **more}
    with ledger.write() as db:
        claimed = tasks.claim(db, "w", now=2.0, lease_seconds=60, abandoned_limit=3)
        assert claimed is not None
        tasks.answer(db, claimed, Outcome(TaskStatus.DONE, "urgent", 1, result), now=3.0, conclude_at=None)


@pytest.fixture
def held() -> HeldInMemory:
    return HeldInMemory({("2.25.7", "picture"): b"\xff\xd8jpeg", ("2.25.7", "heat_map"): b"\x89PNGpng"})


@pytest.fixture
def site(tmp_path: Path, held: HeldInMemory) -> Iterator[Site]:
    """Study 1.2.3 was read; 1.2.4 is of the same person, 1.2.5 of another under the same ID."""
    settings = load_settings({"HILUM_HOME": str(tmp_path / "home")})
    ledger = open_ledger(settings.ledger_address)
    migrate(ledger)
    enqueue(ledger, "1.2.3")
    answer(ledger, [READ, REFUSED], started_at=2.5)
    enqueue(ledger, "1.2.4", date="20250101")
    enqueue(ledger, "1.2.5", name="Other^Person", born="19990101", date="20240101")
    audit = Audit(settings.audit, longest=1_000_000)
    audit.start()
    yield Site(
        settings=settings,
        ledger=ledger,
        version="0",
        fetch_thumbnail=lambda _uid: None,
        intake=lambda: (None, 0),
        wake=lambda: None,
        free_space=FreeSpace([tmp_path], 0),
        clock=health.ClockWatch(),
        started_at=time.monotonic(),
        audit=audit,
        held=held,
    )
    audit.stop()
    ledger.close()


def get(site: Site, path: str, *, role: Role = Role.RADIOLOGIST, **headers: str) -> Response:
    visitor = Visitor(role, Who("anna", str(role), "127.0.0.1"))
    return routes.respond(Request(f"/hilum/studies/{path}", visitor=visitor, headers=headers), site)


def page(site: Site, study: str = "1.2.3", *, role: Role = Role.RADIOLOGIST) -> str:
    response = get(site, study, role=role)
    assert response.status == 200
    return response.body.decode()


def test_the_page_shows_picture_marks_evidence_report_and_what_was_not_looked_at(site: Site) -> None:
    shown = page(site)
    assert "/hilum/studies/1.2.3/images/2.25.7/picture" in shown
    assert 'viewBox="0 0 400 512.0"' in shown
    assert '<rect x="96.0" y="147.2" width="140.8" height="249.6"' in shown
    assert "58 %" in shown or "59 %" in shown
    assert "434 images of patients not learnt from" in shown, "on what the probability was calibrated"
    assert 'Pneumothorax <span class="note">(the evidence for it does not carry)' in shown
    assert "An &lt;b&gt;opacity&lt;/b&gt;." in shown
    assert "not a medical device" in shown
    assert "reading started" in shown


def test_an_image_that_was_not_read_is_rendered_by_orthanc_or_not_at_all(site: Site, held: HeldInMemory) -> None:
    address = "/hilum/studies/1.2.3/rendered/1.2.3.2"
    assert address in page(site)
    assert get(site, "1.2.3/rendered/1.2.3.2").body == b"\x89PNG1.2.3.2"
    held.can_render = False
    shown = page(site)
    assert address not in shown
    assert "No picture is kept of this image" in shown


# as the first versions kept an image that was read
BEFORE = {
    "sop_instance_uid": "1.2.6.1", "rows": 512, "columns": 400, "view": "PA", "models": {"chest_findings": "0.0.1"},
    "failures": {}, "segments": [], "measurements": [], "priority": "urgent", "priority_reason": "Lung opacity 59 %",
    "cautions": [], "status": "done", "reason": None, "evidence": "ViewPosition is PA", "pixel_gate": None,
    "segmentation": None, "measurement_report": "2.25.8",
    "findings": [{"key": "lung_opacity", "state": "present", "probability": 0.59, "threshold": 0.5, "laterality": None,
                  "regions": [[96.0, 115.0, 140.8, 195.0, "lung_opacity", 0.6]], "reason": None}],
}  # fmt: skip


def test_a_result_of_an_earlier_version_shows_what_there_is_says_what_is_not_and_can_be_made_again(
    site: Site, held: HeldInMemory
) -> None:
    with site.ledger.write() as db:
        tasks.enqueue(db, Arrival("1.2.6"), now=0.5)
    answer(site.ledger, [BEFORE], preliminary_report=None)
    shown = page(site, "1.2.6", role=Role.TECHNOLOGIST)
    assert "/hilum/studies/1.2.6/rendered/1.2.6.1" in shown
    for words in ("kept no picture, outlines or heat map", "Read it again", "Lung opacity", "59 %", "There is none."):
        assert words in shown
    held.can_render = False
    assert "No picture of it can be shown here." in page(site, "1.2.6")
    assert "Read it again" not in page(site, "1.2.3"), "it has its picture; the other image was not read"
    assert reread(site, "1.2.6").headers["Location"] == "/hilum/studies/1.2.6"
    with site.ledger.read() as db:
        assert [task["status"] for task in tasks.of_study(db, "1.2.6")] == ["queued"]
    assert "It is being read again." in page(site, "1.2.6")
    assert "Read it again" not in page(site, "1.2.6")
    assert reread(site, "9.9", accept="application/json").body == b'{"queued": 0}'
    assert reread(site, "1.2.6", sec_fetch_site="cross-site").status == 403
    site.audit.stop()
    told = [(e["study"], e["outcome"]) for e in audit_files.read(site.settings.audit) if e["action"] == "reread"]
    assert told == [("1.2.6", "done"), ("9.9", "nothing to do")]


def reread(site: Site, study: str, **headers: str) -> Response:
    sent = {"sec-fetch-site": "same-origin", "accept": "text/html"} | {
        n.replace("_", "-"): v for n, v in headers.items()
    }
    visitor = Visitor(Role.TECHNOLOGIST, Who("tom", "technologist", "127.0.0.1"))
    body = f"page=study&study_instance_uid={study}".encode()
    return routes.respond(Request("/hilum/api/reread", "POST", headers=sent, body=body, visitor=visitor), site)


def test_a_hostile_name_stays_text(site: Site) -> None:
    shown = page(site)
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "style=" not in shown, "the content security policy forbids it"


def test_other_studies_are_listed_with_what_speaks_against_their_being_the_same_persons(site: Site) -> None:
    shown = page(site)
    same, other = shown.index("/hilum/studies/1.2.4"), shown.index("/hilum/studies/1.2.5")
    assert same < other, "the latest first"
    assert "same name and birth date" in shown[same:other]
    assert "another name and another birth date: <bdi>Other, Person" in shown[other:]
    assert '/hilum/studies/1.2.3"' not in shown[shown.index("Other studies") :]


def test_priors_are_those_of_the_very_same_id(ledger: Ledger) -> None:
    for number, patient in enumerate(("A-1", "A 1", "A1", "a-1", "", "-")):
        with ledger.write() as db:
            tasks.enqueue(db, Arrival(f"1.2.{number}", patient_id=patient), now=1.0)
    with ledger.read() as db:
        assert [task["study_instance_uid"] for task in studies_of_patient(db, "A-1")] == ["1.2.0"]
        assert studies_of_patient(db, "") == studies_of_patient(db, "-") == []


@pytest.mark.parametrize(
    "path",
    [
        "9.9", "1.2.3/images/2.25.8/picture", "1.2.4/images/2.25.7/picture", "1.2.3/images/1.2.3.1/picture",
        "1.2.3/rendered/2.25.7", "1.2.4/rendered/1.2.3.2", "1.2.3/rendered/", "1.2.3/documents/1.2.3.1",
        "1.2.4/documents/2.25.7", "1.2.3/other", "1.2.3/images/../documents/2.25.7", "%",
    ],
)  # fmt: skip
def test_orthanc_is_asked_only_for_what_the_ledger_names_of_this_study(
    site: Site, held: HeldInMemory, path: str
) -> None:
    assert get(site, path).status == 404
    assert held.asked == []


def test_a_picture_is_kept_by_the_browser_of_its_reader_alone(site: Site) -> None:
    first = get(site, "1.2.3/images/2.25.7/heat_map")
    assert (first.status, first.mime, first.body) == (200, "image/png", b"\x89PNGpng")
    assert first.headers["Cache-Control"].startswith("private")
    again = get(site, "1.2.3/images/2.25.7/heat_map", **{"if-none-match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert get(site, "1.2.3/images/2.25.7/outlines").status == 404


def test_the_content_tree_is_shown_as_it_is(site: Site) -> None:
    shown = get(site, "1.2.3/documents/2.25.7").body.decode()
    assert "<b>Area</b>: <bdi>12.5 cm2</bdi>" in shown
    (run,) = runs(content_tree(DOCUMENTS["2.25.7"]))
    assert (run.name, run.version, run.outcome, run.precision, run.weights, run.config) == (
        "lung_opacity", "0.1.0", "Succeeded", "in 8-bit integers", "abc", "",
    )  # fmt: skip
    assert "<b>lung_opacity 0.1.0</b> succeeded in 8-bit integers" in page(site)
    plain = content_tree(item("CODE", "Model run", text_item("Algorithm Parameters", "weights sha256:abc")))
    assert [run.precision for run in runs(plain)] == [""], "float32 goes without saying"
    (section,) = sections(content_tree(DOCUMENTS["2.25.9"]))
    assert (section.heading, section.sentences) == ("Findings", ("An <b>opacity</b>.",))


def test_marks_and_notes_are_told_and_only_to_whom_may_make_them_offered(site: Site) -> None:
    with site.ledger.write() as db:
        judging.add_note(db, "1.2.3", "bert", "<i>look again</i>", now=6.0)
        judging.judge(db, "1.2.3", "bert", "lung_opacity", agrees=False, now=7.0, comment="scar")
    for role, offered in ((Role.RADIOLOGIST, True), (Role.TECHNOLOGIST, False)):
        shown = page(site, role=role)
        assert "&lt;i&gt;look again&lt;/i&gt;" in shown
        assert "disagreed with the AI about lung opacity" in shown
        assert ('value="agree:lung_opacity"' in shown) is offered


def test_who_opened_a_study_is_shown_to_admins_alone(site: Site) -> None:
    site.audit.record("view_study", Who("bert", "radiologist"), "1.2.3", wait_seconds=5)
    site.audit.record("view_study", Who("carl", "radiologist"), "1.2.31", wait_seconds=5)
    assert "<bdi>bert</bdi> opened" in page(site, role=Role.ADMIN)
    assert "carl" not in page(site, role=Role.ADMIN)
    assert "bert" not in page(site, role=Role.RADIOLOGIST)


def test_the_latest_of_the_audit_log_goes_over_several_files(tmp_path: Path) -> None:
    for number in range(30):
        audit_files.append(tmp_path, [{"study": f"1.{number % 3}", "action": "x", "at": number}], longest=600)
    assert len(audit_files.files_of(tmp_path)) > 2
    assert [entry["at"] for entry in latest(tmp_path, most=4, study="1.2")] == [20, 23, 26, 29]


def test_the_last_log_in_of_everybody_is_found_as_far_back_as_the_log_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entry(second: int, who: str, action: str = "log_in", outcome: str = "done") -> dict[str, Any]:
        at = datetime.fromtimestamp(second, UTC).isoformat()
        return {"time": at, "who": who, "action": action, "outcome": outcome, "study": ""}

    entries = [entry(100, "ann"), entry(200, "ben"), entry(300, "ann"), entry(400, "ben", outcome="refused")]
    audit_files.append(tmp_path, entries + [entry(500 + n, "ann", "view_worklist") for n in range(900)], longest=9e6)
    assert last_log_ins(tmp_path) == ({"ann": 300.0, "ben": 200.0}, None)
    monkeypatch.setattr("orthanc_plugin.access.audit_reading._BYTES", 20_000)
    seen, since = last_log_ins(tmp_path)
    assert seen == {}
    assert since is not None
    assert since > 500


def test_a_study_that_waits_has_a_page(site: Site) -> None:
    assert "Not read yet" in page(site, "1.2.4")


def test_the_page_is_for_who_may_see_studies(site: Site) -> None:
    assert action_of("GET", "/hilum/studies/1.2.3/images/2.25.7/picture") is Action.VIEW_STUDY
    assert (
        action_of("GET", "/hilum/admin") is action_of("GET", "/hilum/admin/models/x/1/card.html") is Action.ADMINISTER
    )
    assert not may(Role.RADIOLOGIST, Action.ADMINISTER)
    nobody = routes.respond(Request("/hilum/studies/1.2.3"), site)
    assert nobody.status == 403


class _Host:
    """The module ``orthanc``, with one instance of JPEG 2000."""

    class OrthancException(Exception):
        pass

    def LookupInstance(self, uid: str) -> str:  # noqa: N802
        if uid != "1.2":
            raise self.OrthancException
        return "abc"

    def RestApiGet(self, path: str) -> bytes:  # noqa: N802
        known = {
            "/instances/abc/series": b'{"MainDicomTags": {"SeriesInstanceUID": "1.9"}}',
            "/instances/abc/metadata?expand": (
                b'{"TransferSyntax": "1.2.840.10008.1.2.4.90", "ReceptionDate": "19700101T000010"}'
            ),
            "/instances/abc/attachments/1026/data": b"jpeg",
        }  # fmt: skip
        if path not in known:
            raise self.OrthancException
        return known[path]


def test_what_orthanc_does_not_hold_is_nothing() -> None:
    held = HeldByOrthanc(_Host(), {"picture": 1026})
    assert held.place("1.2") == Place("1.9", 10.0, rendered=False)
    assert held.layer("1.2", "picture") == b"jpeg"
    assert held.place("1.3") is held.layer("1.3", "picture") is held.layer("1.2", "dicom") is None
    assert held.document("1.2") is None

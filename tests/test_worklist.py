"""Rows and page of the reading worklist: pure functions from the ledger's rows."""

from __future__ import annotations

from typing import Any

import pytest

from models.findings import Caution
from orthanc_plugin.worklist import page, rows

READY = {"state": "ready", "version": "0", "studies": {"done": 1}, "ae_title": "HILUM", "dicom_port": 4242}


def finding(key: str, state: str, probability: float | None, laterality: str | None = None) -> dict[str, Any]:
    return {"key": key, "state": state, "probability": probability, "laterality": laterality, "regions": []}


def task(*images: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "study_instance_uid": "1.2.3", "status": "done", "priority": "urgent", "reason": None, "message": "why",
        "received_at": 100.0, "completed_at": 101.0, "patient_name": "Doe^Jane", "patient_id": "7",
        "patient_birth_date": "19700101", "patient_sex": "F", "accession_number": "A", "study_date": "20260102",
        "study_time": "030405", "study_description": "Chest", "result": {"images": list(images)}, **changes,
    }  # fmt: skip


def image(*findings: dict[str, Any]) -> dict[str, Any]:
    return {
        "sop_instance_uid": "1.2.3.1", "status": "done", "view": "PA", "reason": None, "models": {"m": "1"},
        "cautions": ["ap_view"], "findings": list(findings), "evidence": [{"source": "ViewPosition", "says": "PA"}],
    }  # fmt: skip


def refused(reason: str) -> dict[str, Any]:
    evidence = [{"source": "ViewPosition", "says": "LL"}, {"source": "pixels", "says": "lateral, score 0.01"}]
    return {"sop_instance_uid": "1.2.3.2", "status": "not_processed", "reason": reason, "message": "not read",
            "evidence": evidence}  # fmt: skip


def test_a_study_shows_the_most_telling_of_its_images_and_never_a_mean() -> None:
    first = image(finding("effusion", "absent", 0.1), finding("edema", "undetermined", 0.4))
    second = image(finding("effusion", "present", 0.8, "left"), finding("edema", "not_evaluated", None))
    row = rows.worklist_row(task(first, second, refused("view")))
    found = {f.key: (f.state, f.probability) for f in row.findings}
    assert found == {"effusion": ("present", 0.8), "edema": ("undetermined", 0.4)}
    assert [(line.reason, line.message) for line in row.refused] == [("view", "not read")]


def test_a_study_without_an_answer_has_no_findings() -> None:
    assert rows.worklist_row(task(status="queued", result={})).findings == ()


def test_the_interface_keeps_its_names() -> None:
    row = rows.to_json(rows.worklist_row(task(image(finding("effusion", "present", 0.8)))))
    assert {"study_instance_uid", "status", "priority", "findings", "reason", "received_at", "completed_at",
            "ohif_url"} <= set(row)  # fmt: skip
    assert row["ohif_url"] == "/ohif/viewer?StudyInstanceUIDs=1.2.3"
    assert row["findings"][0] == {
        "key": "effusion",
        "state": "present",
        "probability": 0.8,
        "laterality": None,
        "regions": 0,
    }


def test_the_page_says_what_it_is_and_shows_why() -> None:
    listed = [rows.worklist_row(task(image(finding("lung_opacity", "present", 0.87, "left"))))]
    html = page.render_page(listed, READY, now=200.0)
    for text in ("not a medical device", "AI, not reviewed", "Doe, Jane", "Lung opacity 87 % left", "2026-01-02 03:04",
                 "AP view", "Urgent", "why"):  # fmt: skip
        assert text in html, text
    assert page.render_rows(listed, READY, now=200.0) in html


def test_hostile_text_stays_text() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    listed = [rows.worklist_row(task(patient_name=hostile, patient_id=hostile, study_description=hostile))]
    assert "<img src=x" not in page.render_page(listed, READY, now=200.0)


def test_without_a_worker_the_page_says_so() -> None:
    assert "No worker is ready" in page.render_page([], {**READY, "state": "starting"}, now=0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe", "Doe"),
        ("=山田^太郎", "山田, 太郎"),
        ("", ""),
        ("Doe^Jane^M^Dr", "Doe, Jane M"),
    ],
)
def test_names_are_shown_as_people_write_them(name: str, shown: str) -> None:
    assert page.person_name(name) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(-1, "0 s"), (59, "59 s"), (60, "1 min"), (3600 * 3 + 300, "3 h 05")])
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert page.waited(seconds) == shown


def test_images_are_found_by_what_decided_on_them() -> None:
    listed = [task(image(finding("effusion", "absent", 0.1)), refused("view"))]

    def found(**wanted: str) -> list[str]:
        return [entry["sop_instance_uid"] for entry in rows.matching_images(listed, wanted)]

    assert found() == ["1.2.3.1", "1.2.3.2"]
    assert found(reason="view") == found(evidence="pixels") == found(status="not_processed") == ["1.2.3.2"]
    assert found(view="PA") == found(caution="ap_view") == ["1.2.3.1"]
    assert found(evidence="ViewPosition", study_instance_uid="1.2.3") == ["1.2.3.1", "1.2.3.2"]
    with pytest.raises(ValueError, match="known are"):
        found(patient_name="Doe")


def test_answers_of_the_first_version_are_still_shown() -> None:
    old = image(finding("effusion", "present", 0.8))
    old["evidence"] = "ViewPosition PA"
    bare = {"sop_instance_uid": "1", "status": "not_processed", "reason": "view", "message": "not read"}
    row = rows.worklist_row(task(old, bare))
    assert [line.evidence for line in row.images] == [(), ()]
    assert rows.matching_images([task(old, bare)], {"reason": "view"})
    assert "2 images, 1 not read" in page.render_rows([row], READY, 200.0)


def test_the_page_lists_each_image_with_its_evidence() -> None:
    listed = [rows.worklist_row(task(image(finding("effusion", "absent", 0.1)), refused("view")))]
    html = page.render_rows(listed, READY, 200.0)
    assert "2 images, 1 not read" in html
    assert "<code>view</code> not read" in html
    assert "pixels <b>lateral, score 0.01</b>" in html


def test_every_caution_has_words_for_people() -> None:
    assert {caution.value for caution in Caution} == set(page._CAUTIONS)

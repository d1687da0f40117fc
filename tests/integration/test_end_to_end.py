"""The whole way with real parts: C-STORE, Orthanc, plugin, worker, models, results, worklist."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from running_node import Node

from dicom_sr.conformance.check import check, check_together
from models.phantom import Pathology, chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.demo import real_radiograph
from orthanc_plugin.commands.modality import Exposure

pytestmark = pytest.mark.node

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def phantom(patient: int = 1, **how: object) -> Dataset:
    """A new synthetic radiograph each time, so that tests never share a study."""
    return modality.radiograph(chest(patient).pixels, Exposure(seed=uuid.uuid4().hex, **how))  # type: ignore[arg-type]


def send(node: Node, *instances: Dataset) -> None:
    outcomes = list(modality.send(instances, "127.0.0.1", node.settings.dicom_port, node.settings.ae_title))
    assert all(outcome.accepted for outcome in outcomes), outcomes


def results(node: Node, study_instance_uid: str) -> tuple[int, int]:
    """Number of measurement reports and of SEG instances that QIDO-RS finds."""
    return len(node.measurement_reports(study_instance_uid)), len(node.series(study_instance_uid, "SEG"))


def assert_answered(node: Node, ds: Dataset) -> None:
    row = node.wait_for(str(ds.StudyInstanceUID))
    assert row["status"] == "done", row
    assert results(node, str(ds.StudyInstanceUID)) == (1, 1)


@pytest.mark.parametrize(
    "how",
    [
        {"modality": "CR", "bits_stored": 12},
        {"modality": "CR", "bits_stored": 16, "monochrome1": True, "view": "AP"},
        {"modality": "DX", "bits_stored": 8},
        {"modality": "DX", "bits_stored": 16, "monochrome1": True},
    ],
    ids=lambda how: "-".join(str(v) for v in how.values()),
)
def test_a_radiograph_comes_back_as_report_and_segmentation(hilum_node: Node, how: dict[str, object]) -> None:
    ds = phantom(**how)
    send(hilum_node, ds)
    assert_answered(hilum_node, ds)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
    ids=lambda uid: uid.name,
)
def test_the_answer_does_not_depend_on_the_transfer_syntax(hilum_node: Node, syntax: str) -> None:
    plain, coded = phantom(), phantom()
    if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        modality.encode_as(coded, syntax)
    else:
        coded.file_meta.TransferSyntaxUID = syntax
    send(hilum_node, plain)
    send(hilum_node, coded)
    rows = [hilum_node.wait_for(str(ds.StudyInstanceUID)) for ds in (plain, coded)]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert rows[0]["findings"] == rows[1]["findings"]


@pytest.mark.cluster
def test_the_same_study_sent_three_times_has_one_report_and_one_segmentation(hilum_node: Node) -> None:
    ds = phantom()
    for _ in range(3):
        send(hilum_node, ds)
        hilum_node.wait_for(str(ds.StudyInstanceUID))
    time.sleep(2 * hilum_node.settings.quiet_seconds)
    assert_answered(hilum_node, ds)


def test_storing_our_own_results_starts_no_new_task(hilum_node: Node) -> None:
    ds = phantom()
    send(hilum_node, ds)
    study = str(ds.StudyInstanceUID)
    hilum_node.wait(lambda: hilum_node.preliminary_reports(study), "the report of the study: its last pass")
    time.sleep(1.0)  # its last pass is noted
    first = hilum_node.wait_for(study)["completed_at"]
    time.sleep(2.0)
    assert hilum_node.wait_for(study)["completed_at"] == first


@pytest.mark.cluster
def test_each_frontal_of_a_study_gets_its_own_results_and_a_late_one_too(hilum_node: Node) -> None:
    study = uuid.uuid4().hex
    first, late = phantom(study=study), phantom(2, study=study, modality="CR")
    send(hilum_node, first)
    assert_answered(hilum_node, first)
    send(hilum_node, late)
    hilum_node.wait(lambda: results(hilum_node, str(first.StudyInstanceUID)) == (2, 2), "two reports")
    assert hilum_node.wait_for(str(first.StudyInstanceUID))["views"] == ["PA", "PA"]


def test_a_lateral_and_a_ct_are_refused_by_name_and_the_next_study_works(hilum_node: Node) -> None:
    lateral, ct = phantom(view="LL"), phantom()
    ct.SOPClassUID = ct.file_meta.MediaStorageSOPClassUID = CT_IMAGE_STORAGE
    ct.Modality = "CT"
    send(hilum_node, lateral, ct)
    for ds, reason in ((lateral, "view"), (ct, "modality")):
        row = hilum_node.wait_for(str(ds.StudyInstanceUID))
        assert (row["status"], row["reason"], row["priority"]) == ("not_processed", reason, "none")
        assert row["findings"] == []
        assert results(hilum_node, str(ds.StudyInstanceUID)) == (0, 0)
    healthy = phantom()
    send(hilum_node, healthy)
    assert_answered(hilum_node, healthy)


def test_missing_short_and_senseless_pixels_get_a_reason(hilum_node: Node) -> None:
    without, short, empty = phantom(), phantom(), phantom()
    del without.PixelData
    short.PixelData = short.PixelData[:1000]
    empty.PixelData = bytes(len(empty.PixelData))
    send(hilum_node, without, short, empty)
    for ds in (without, short, empty):
        row = hilum_node.wait_for(str(ds.StudyInstanceUID))
        assert (row["status"], row["reason"]) == ("not_processed", "unreadable_pixels"), row


def test_a_picture_without_a_chest_is_refused(hilum_node: Node) -> None:
    noise = np.random.default_rng(0).random((512, 512))
    ds = modality.radiograph(noise, Exposure(seed=uuid.uuid4().hex))
    send(hilum_node, ds)
    row = hilum_node.wait_for(str(ds.StudyInstanceUID))
    assert (row["status"], row["reason"]) == ("not_processed", "view_conflict")


def test_a_truncated_file_is_answered_with_an_error_or_a_reason(hilum_node: Node, tmp_path: Path) -> None:
    """Dcmtk refuses to send it; our sender sends what is left of it, and the worklist says why it is not read."""
    ds = phantom()
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    path = tmp_path / "truncated.dcm"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2 // 2 * 2])
    outcome = next(
        modality.send_files([path], "127.0.0.1", hilum_node.settings.dicom_port, hilum_node.settings.ae_title)
    )
    if outcome.accepted:
        row = hilum_node.wait_for(str(ds.StudyInstanceUID))
        assert (row["status"], row["reason"]) == ("not_processed", "unreadable_pixels")
    else:
        assert outcome.error
    healthy = phantom()
    send(hilum_node, healthy)
    assert_answered(hilum_node, healthy)


def test_dcmtk_s_storescu_is_served(hilum_node: Node, tmp_path: Path) -> None:
    ds = phantom()
    dcmwrite(tmp_path / "image.dcm", ds, enforce_file_format=True)
    command = [
        str(shutil.which("storescu")),
        "127.0.0.1",
        str(hilum_node.settings.dicom_port),
        str(tmp_path / "image.dcm"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert_answered(hilum_node, ds)


def test_the_stored_results_are_valid_dicom_and_made_of_the_image(hilum_node: Node, tmp_path: Path) -> None:
    ds = modality.radiograph(
        chest(3, pathologies=[Pathology("lung_opacity", right=False, size=0.8)]).pixels,
        Exposure(seed=uuid.uuid4().hex, patient_name="Фантом^Hilum"),
    )
    send(hilum_node, ds)
    assert_answered(hilum_node, ds)
    stored = [o for o in hilum_node.objects(str(ds.StudyInstanceUID)) if o.Modality != ds.Modality]
    assert sorted(o.Modality for o in stored if o.Modality != "OT") == ["SEG", "SR", "SR"]
    for result in stored:
        path = tmp_path / f"{result.SOPInstanceUID}.dcm"
        result.save_as(path)
        assert str(result.PatientName) == "Фантом^Hilum"
        assert result.StudyInstanceUID == ds.StudyInstanceUID
        assert result.SeriesDescription.startswith("AI Hilum")
        verified = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert not [line for line in verified.stderr.splitlines() if line.startswith("Error")], verified.stderr
        assert check(result) == []
        if result.Modality == "SEG":
            assert (result.Rows, result.Columns) == (ds.Rows, ds.Columns)
    assert check_together([ds, *stored]) == []


def test_the_worklist_page_shows_hostile_names_as_text(hilum_node: Node) -> None:
    ds = phantom(patient_name="<script>alert(1)</script>^Bobby")
    send(hilum_node, ds)
    hilum_node.wait_for(str(ds.StudyInstanceUID))
    html = hilum_node.http.get("/hilum/?sort=-received").text
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.cluster
def test_a_patient_is_found_by_the_words_of_a_search_and_never_through_an_address(hilum_node: Node) -> None:
    ds = phantom(patient_name="Łódzki^Zoë=山田^太郎", patient_id=uuid.uuid4().hex)
    ds.ReferringPhysicianName, ds.PatientAge = "Sender^Ann", "055Y"
    send(hilum_node, ds)
    hilum_node.wait_for(str(ds.StudyInstanceUID))
    for words in ("lodzki zoe", "山", ds.PatientID[:20]):
        found = hilum_node.http.post("/hilum/api/worklist", data={"text": words, "read": "no"}).json()["rows"]
        row = next(row for row in found if row["study_instance_uid"] == ds.StudyInstanceUID)
        assert (row["referring_physician"], row["patient_age"], row["read_at"]) == ("Sender^Ann", "055Y", None)
    assert hilum_node.http.get("/hilum/api/worklist", params={"text": "lodzki"}).status_code == 400


def test_unknown_pages_and_methods_are_refused_politely(hilum_node: Node) -> None:
    assert hilum_node.http.get("/hilum/nothing").status_code == 404
    assert hilum_node.http.post("/hilum/api/status").status_code == 405
    assert hilum_node.http.get("/hilum/static/..%2F..%2Fplugin.py").status_code == 404


@pytest.mark.cluster
def test_no_log_names_a_patient(hilum_node: Node) -> None:
    marker = f"CANARY{uuid.uuid4().hex[:8]}"
    good, bad = phantom(patient_name=f"{marker}^A", patient_id=marker), phantom(patient_name=marker, view="LL")
    good.AccessionNumber = marker
    bad.StudyDescription = marker
    odd, refused = phantom(patient_name=f"{marker}^B"), phantom(patient_name=marker, patient_id=marker)
    odd.PatientAge = odd.PatientOrientation = marker[:16]
    del refused.StudyInstanceUID
    send(hilum_node, good, bad, odd)
    for ds in (good, bad, odd):
        hilum_node.wait_for(str(ds.StudyInstanceUID))
    (outcome,) = modality.send([refused], "127.0.0.1", hilum_node.settings.dicom_port, "HILUM")
    assert not outcome.accepted, "Orthanc refuses it and says so in its log"
    time.sleep(0.5)
    assert "(withheld)" in "".join(log.read_text() for log in hilum_node.settings.logs.glob("orthanc*.log"))
    for path in (
        "/dicom-web/studies",
        "/dicom-web/instances",
        "/patients",
        f"/tools/{marker}",
        f"/{marker}",
        "/hilum/",
    ):
        hilum_node.http.get(path, params={"PatientName": marker, "StudyInstanceUID": marker})
    time.sleep(0.5)
    assert '"search"' in "".join(log.read_text() for log in hilum_node.settings.audit.iterdir())
    for log in (*hilum_node.settings.logs.iterdir(), *hilum_node.settings.audit.iterdir()):
        assert marker not in log.read_text(errors="replace"), log.name


@pytest.mark.shared
def test_real_chest_radiographs_end_as_done_or_with_a_reason(hilum_node: Node, shared_data: Path) -> None:
    pictures = sorted((shared_data / "nih_chestxray14" / "images").iterdir())[:: 1303 // 10][:10]
    wrapped = [real_radiograph(path, uuid.uuid4().hex, variant) for variant, path in enumerate(pictures)]
    awkward = []
    for name in ("siim_cr_jpeg_monochrome2.dcm", "nih_dx_secondary_capture.dcm"):
        ds = dcmread(shared_data / "dicom" / name)
        ds.StudyInstanceUID = f"2.25.{uuid.uuid4().int}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{uuid.uuid4().int}"
        awkward.append(ds)
    send(hilum_node, *wrapped, *awkward)
    done = 0
    for ds in (*wrapped, *awkward):
        row = hilum_node.wait_for(str(ds.StudyInstanceUID))
        assert row["status"] == "done" or (row["status"] == "not_processed" and row["reason"]), row
        if row["status"] == "done":
            done += 1
            assert results(hilum_node, str(ds.StudyInstanceUID)) == (1, 1)
    assert done >= 10  # nine of ten wrapped ones, and the one whose header tells the view

"""Results that follow one another: a later image, other models, the same run again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite
from rich.console import Console
from running_node import Node, start_node

from dicom_sr.predecessor import current
from dicom_sr.reader import is_measurement_report, read_result, read_study
from dicom_sr.references import predecessors_of
from models.phantom import chest
from orthanc_plugin.cli import main
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.commands.show import show
from orthanc_plugin.credentials import load_credentials

pytestmark = pytest.mark.node
ALL = "pixel_gate lung_fields chest_findings lung_opacity covid_appearance"


@contextmanager
def node_with(home: Path, bundles: str, **settings: str) -> Iterator[Node]:
    """A node on these data with these models."""
    configured, _ = start_node(home, bundles=bundles, **settings)
    try:
        credentials = load_credentials(configured.credentials)
        with node.http(configured, credentials) as http:
            yield Node(configured, credentials, http)
    finally:
        node.stop(configured)


def phantom(patient: int, study: str, **how: object) -> Dataset:
    return modality.radiograph(chest(patient).pixels, Exposure(seed=uuid.uuid4().hex, study=study, **how))  # type: ignore[arg-type]


def send(running: Node, ds: Dataset) -> None:
    (outcome,) = modality.send([ds], "127.0.0.1", running.settings.dicom_port, running.settings.ae_title)
    assert outcome.accepted


def ours(running: Node, uid: str) -> dict[str, bytes]:
    """SOP Instance UID to the bytes of each result of a study."""
    found = {}
    for ds in running.objects(uid):
        if ds.get("Manufacturer") == "Hilum" and ds.Modality != "DX":
            buffer = BytesIO()
            dcmwrite(buffer, ds, enforce_file_format=True)
            found[str(ds.SOPInstanceUID)] = buffer.getvalue()
    return found


def reread(running: Node, uid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = running.wait_for(uid)["completed_at"]
    monkeypatch.setenv("HILUM_HOME", str(running.settings.home))
    assert main(["reread", uid]) == 0
    running.wait(lambda: (running.row(uid) or {}).get("completed_at") != before, "another answer")
    running.wait_for(uid)


def versions(running: Node, uid: str) -> tuple[list[Dataset], list[Dataset]]:
    """Measurement reports and preliminary reports of a study."""
    documents = [ds for ds in running.objects(uid) if ds.Modality == "SR"]
    return [d for d in documents if is_measurement_report(d)], [d for d in documents if not is_measurement_report(d)]


def models_of(report: Dataset) -> set[str]:
    return {str(item.ManufacturerModelName) for item in report.ContributingEquipmentSequence}


def test_other_models_make_a_new_result_that_names_the_old_one_and_going_back_makes_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = phantom(1, uuid.uuid4().hex)
    uid = str(ds.StudyInstanceUID)
    with node_with(tmp_path, "pixel_gate lung_fields") as running:
        send(running, ds)
        running.wait_for(uid)
        reports, texts = versions(running, uid)
        assert len(reports) == len(texts) == 1
    with node_with(tmp_path, ALL) as running:
        reread(running, uid, monkeypatch)
        reports, texts = versions(running, uid)
        assert len(reports) == len(texts) == 2
        (newest,), (text,) = current(reports), current(texts)
        assert "chest_findings" in models_of(newest)
        (old,) = (r for r in reports if r is not newest)
        assert [one.sop_instance_uid for one in predecessors_of(newest)] == [old.SOPInstanceUID]
        assert newest.SeriesInstanceUID != old.SeriesInstanceUID
        assert len(predecessors_of(text)) == 1
        assert {f.model for f in read_study(running.objects(uid)).findings} - {None} == {
            "chest_findings",
            "lung_opacity",
            "covid_appearance",
        }
    with node_with(tmp_path, "pixel_gate lung_fields") as running:
        reread(running, uid, monkeypatch)
        reports, _ = versions(running, uid)
        (back,) = current(reports)
        assert len(reports) == 3
        assert {one.sop_instance_uid for one in predecessors_of(back)} == {
            r.SOPInstanceUID for r in reports if r is not back
        }, "a link that somebody deletes brings nothing back to life"
        assert models_of(back) == models_of(old)
        said = StringIO()
        assert show(running.settings, [uid], Console(file=said, width=120)) == 0
        assert "4 earlier reports, superseded" in said.getvalue()
        held = ours(running, uid)
        reread(running, uid, monkeypatch)
        assert ours(running, uid) == held, "the same models say the same, so that nothing is added"
        assert running.wait_for(uid)["images"][0]["status"] == "done"


def test_another_precision_makes_a_new_result_that_names_the_old_one_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = phantom(1, uuid.uuid4().hex)
    uid = str(ds.StudyInstanceUID)
    with node_with(tmp_path, "chest_findings lung_opacity", runtime="torch") as running:
        send(running, ds)
        running.wait_for(uid)
        ((old,), _) = versions(running, uid)
    with node_with(tmp_path, "chest_findings lung_opacity", runtime="openvino-int8") as running:
        for _ in range(2):  # the second says the same again
            reread(running, uid, monkeypatch)
            reports, _ = versions(running, uid)
            assert len(reports) == 2
        (now,) = current(reports)
        assert [one.sop_instance_uid for one in predecessors_of(now)] == [old.SOPInstanceUID]
        assert [[run.precision for run in read_result(r).runs] for r in (old, now)] == [["float32"] * 2, ["int8"] * 2]
        said = StringIO()
        assert show(running.settings, [uid], Console(file=said, width=120)) == 0
        assert "answered in 8-bit integers" in said.getvalue()


def test_results_that_were_deleted_are_made_again_byte_by_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = phantom(2, uuid.uuid4().hex)
    uid = str(ds.StudyInstanceUID)
    with node_with(tmp_path, ALL) as running:
        send(running, ds)
        running.wait_for(uid)
        first = ours(running, uid)
        assert len(first) >= 3
        for instance in first:
            (found,) = running.http.post("/tools/lookup", content=instance).json()
            running.http.delete(f"/instances/{found['ID']}").raise_for_status()
        assert ours(running, uid) == {}
        reread(running, uid, monkeypatch)
        assert ours(running, uid) == first


def test_a_late_image_makes_version_two_of_the_study_s_report(tmp_path: Path) -> None:
    study = uuid.uuid4().hex
    first, late = phantom(1, study), phantom(2, study, view="AP")
    lateral = phantom(3, study, view="LL")
    uid = str(first.StudyInstanceUID)
    with node_with(tmp_path, ALL, outputs="preliminary_report presentation_state heat_map key_objects") as running:
        send(running, first)
        running.wait_for(uid)
        (before,) = versions(running, uid)[1]
        send(running, late)
        send(running, lateral)
        running.wait(lambda: len(running.wait_for(uid)["images"]) == 3, "the late images")
        reports, texts = versions(running, uid)
        assert len(reports) == 2
        assert sorted(int(r.InstanceNumber) for r in reports) == [1, 2]
        assert all(predecessors_of(r) == () for r in reports), "each image keeps its own first report"
        (text,) = current(texts)
        named = {one.sop_instance_uid for one in predecessors_of(text)}
        assert before.SOPInstanceUID in named
        assert named | {text.SOPInstanceUID} == {t.SOPInstanceUID for t in texts}, "the newest names all before it"
        assert sorted(int(t.InstanceNumber) for t in texts) == list(range(1, len(texts) + 1))
        found = read_study(running.objects(uid))
        assert [i.sop_instance_uid for i in found.images] == [first.SOPInstanceUID, late.SOPInstanceUID]
        assert found.unread == ("view",)
        assert any(ds.Modality == "PR" for ds in running.objects(uid))


def test_a_study_that_is_no_longer_read_keeps_no_result_that_speaks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = phantom(3, uuid.uuid4().hex)
    ds.PatientAge = "030Y"
    uid = str(ds.StudyInstanceUID)
    with node_with(tmp_path, ALL) as running:
        send(running, ds)
        assert running.wait_for(uid)["status"] == "done"
    with node_with(tmp_path, ALL, minimum_age="40") as running:
        reread(running, uid, monkeypatch)
        row = running.wait_for(uid)
        assert (row["status"], row["reason"], row["priority"]) == ("not_processed", "age", "none")
        found = read_study(running.objects(uid))
        assert [image.withdrawn for image in found.images] == [True]
        assert found.unread == ("age",)
    with node_with(tmp_path, ALL) as running:
        reread(running, uid, monkeypatch)
        assert running.wait_for(uid)["status"] == "done"
        assert not read_study(running.objects(uid)).images[0].withdrawn

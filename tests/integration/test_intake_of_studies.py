"""What a node makes of studies as they come: several images, copies, late ones, turned ones, silent headers."""

from __future__ import annotations

import uuid
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from running_node import Node

from dicom_sr.reader import is_measurement_report
from dicom_sr.references import evidence_of
from models.hanging import Hanging, hanging_of
from models.phantom import chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure

pytestmark = pytest.mark.node

FIRST, SECOND = chest(1), chest(2)


def image(pixels: Any = FIRST.pixels, **how: object) -> Dataset:
    return modality.radiograph(np.ascontiguousarray(pixels), Exposure(seed=uuid.uuid4().hex, **how))  # type: ignore[arg-type]


def send(node: Node, *instances: Dataset) -> dict[str, Any]:
    outcomes = list(modality.send(instances, "127.0.0.1", node.settings.dicom_port, node.settings.ae_title))
    assert all(outcome.accepted for outcome in outcomes), outcomes
    uid = str(instances[0].StudyInstanceUID)
    wanted = {str(ds.SOPInstanceUID) for ds in instances}

    def answered() -> Any:
        row = node.wait_for(uid)
        return row if wanted <= {line["sop_instance_uid"] for line in row["images"]} else None

    return dict(node.wait(answered, f"every image of {uid} to be answered"))


def fates(row: dict[str, Any]) -> dict[str, str]:
    return {line["sop_instance_uid"]: line["reason"] or line["status"] for line in row["images"]}


def counts(node: Node, ds: Dataset) -> tuple[int, int]:
    uid = str(ds.StudyInstanceUID)
    return len(node.measurement_reports(uid)), len(node.series(uid, "SEG"))


def test_an_exposure_sent_twice_is_read_once(hilum_node: Node) -> None:
    study = uuid.uuid4().hex
    original, copy = image(study=study), image(study=study)
    derived = image(FIRST.pixels**0.6, study=study)
    derived.ImageType = ["DERIVED", "PRIMARY"]
    derived.AcquisitionTime = copy.AcquisitionTime = original.AcquisitionTime
    row = send(hilum_node, original, derived, copy)
    found = fates(row)
    # of two that are alike in all but their name the first is read, if a worker looked before the second came
    assert sorted(found[str(ds.SOPInstanceUID)] for ds in (original, copy)) == ["copy", "done"]
    assert found[str(derived.SOPInstanceUID)] == "copy"
    assert row["status"] == "done"
    assert counts(hilum_node, original) == (1, 1)
    words = {line["message"] for line in row["images"] if line["reason"] == "copy"}
    assert len(words) == 2, "a duplicate and another processing are told apart"


def test_what_was_read_stays_read_when_its_original_comes_later(hilum_node: Node) -> None:
    study = uuid.uuid4().hex
    original, derived = image(study=study), image(FIRST.pixels**0.6, study=study)
    derived.ImageType = ["DERIVED", "PRIMARY"]
    derived.AcquisitionTime = original.AcquisitionTime
    send(hilum_node, derived)
    row = send(hilum_node, original)
    assert fates(row) == {str(derived.SOPInstanceUID): "done", str(original.SOPInstanceUID): "copy"}
    assert counts(hilum_node, original) == (1, 1)


def test_a_lateral_is_listed_beside_the_frontal(hilum_node: Node) -> None:
    study = uuid.uuid4().hex
    frontal, lateral = image(study=study), image(SECOND.pixels, study=study, view="LL")
    row = send(hilum_node, frontal, lateral)
    assert row["status"] == "done"
    assert fates(row) == {str(frontal.SOPInstanceUID): "done", str(lateral.SOPInstanceUID): "view"}
    assert row["views"] == ["PA"]


def test_a_late_image_makes_a_new_version_of_the_study_s_answer(hilum_node: Node) -> None:
    study = uuid.uuid4().hex
    first = image(study=study)
    assert send(hilum_node, first)["version"] == 1
    assert send(hilum_node, first)["version"] == 1, "the same image again changes nothing"
    row = send(hilum_node, image(SECOND.pixels, study=study))
    assert (row["version"], len(row["images"]), row["views"]) == (2, 2, ["PA", "PA"])
    assert counts(hilum_node, first) == (2, 2)


@pytest.mark.parametrize("orientation", [["R", "F"], ["L", "H"], ["F", "L"], ["H", "R"]], ids="".join)
def test_an_image_stored_turned_is_read_and_outlined_where_its_pixels_are(
    hilum_node: Node, orientation: list[str]
) -> None:
    hanging = hanging_of(orientation)
    assert isinstance(hanging, Hanging)
    ds = image(hanging.undo(FIRST.pixels))
    ds.PatientOrientation = orientation
    row = send(hilum_node, ds)
    assert row["status"] == "done", row
    (listed,) = hilum_node.series(str(ds.StudyInstanceUID), "SEG")
    (orthanc_id,) = (
        i["ID"] for i in hilum_node.http.post("/tools/lookup", content=listed["00080018"]["Value"][0]).json()
    )
    stored = dcmread(BytesIO(hilum_node.http.get(f"/instances/{orthanc_id}/file").content))
    labels = [str(segment.SegmentLabel).lower() for segment in stored.SegmentSequence]
    frames = stored.pixel_array.reshape(-1, ds.Rows, ds.Columns) > 0
    right = frames[next(i for i, label in enumerate(labels) if "right" in label)]
    truth = hanging.undo(FIRST.masks["lung_right"])
    assert 2 * (right & truth).sum() / (right.sum() + truth.sum()) > 0.9


def test_pixels_turned_against_the_header_are_refused_and_said_so(hilum_node: Node) -> None:
    ds = image(np.rot90(FIRST.pixels))
    row = send(hilum_node, ds)
    assert (row["status"], row["reason"]) == ("not_processed", "orientation")
    assert counts(hilum_node, ds) == (0, 0)


def test_a_silent_header_is_read_by_its_pixels(hilum_node: Node) -> None:
    ds = image(modality="CR")
    ds.ViewPosition = ds.SeriesDescription = ds.StudyDescription = ds.BodyPartExamined = ""
    del ds.PatientOrientation
    row = send(hilum_node, ds)
    assert (row["status"], row["views"]) == ("done", ["FRONTAL"])
    assert "view_from_pixels" in row["cautions"]
    assert row["images"][0]["evidence"][-1]["source"] == "pixels"


def test_decisions_can_be_asked_for(hilum_node: Node) -> None:
    study = uuid.uuid4().hex
    row = send(hilum_node, image(study=study), image(SECOND.pixels, study=study, view="LL"))
    uid = row["study_instance_uid"]

    def asked(**conditions: str) -> list[dict[str, Any]]:
        answer = hilum_node.http.get("/hilum/api/images", params={"study_instance_uid": uid, **conditions})
        return list(answer.raise_for_status().json()["images"])

    assert [entry["reason"] for entry in asked(reason="view")] == ["view"]
    assert [entry["view"] for entry in asked(evidence="pixels")] == ["PA"]
    assert len(asked()) == 2
    assert hilum_node.http.get("/hilum/api/images", params={"nonsense": "1"}).status_code == 400


def test_a_huge_header_costs_no_memory_and_no_worker(hilum_node: Node) -> None:
    ds = image()
    ds.Rows = ds.Columns = 40_000
    row = send(hilum_node, ds)
    assert (row["status"], row["reason"]) == ("not_processed", "unreadable_pixels")
    assert send(hilum_node, image())["status"] == "done"


@pytest.mark.parametrize("pixels", [SECOND.pixels, FIRST.pixels], ids=["two pictures", "one picture"])
def test_two_patients_under_one_study_uid_keep_their_results_apart_and_share_no_report(
    hilum_node: Node, pixels: Any
) -> None:
    study = uuid.uuid4().hex
    one, other = image(study=study, patient_id="ONE"), image(pixels, study=study, patient_id="OTHER")
    row = send(hilum_node, one, other)
    assert (row["status"], row["reason"]) == ("done", "several_patients")
    assert row["message"].startswith("Images of 2 patients share this Study Instance UID")
    assert (row["patient_name"], row["patient_id"]) == ("Several patients", "")
    objects = hilum_node.objects(str(one.StudyInstanceUID))
    reports = [ds for ds in objects if is_measurement_report(ds)]
    about = {reference.sop_instance_uid: ds.PatientID for ds in reports for reference in evidence_of(ds)}
    assert (about[one.SOPInstanceUID], about[other.SOPInstanceUID]) == ("ONE", "OTHER")
    assert len(reports) == len([ds for ds in objects if ds.Modality == "SR"]), "no preliminary report mixes patients"

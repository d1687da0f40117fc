"""The report and the segmentation, from awkward sources, before readers that others wrote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import UID

from dicom_sr import identity
from dicom_sr.codes import finding_table
from dicom_sr.identity import device_uid
from dicom_sr.ownership import MANUFACTURER, is_own_result
from dicom_sr.predecessor import current
from dicom_sr.references import reference_to
from dicom_sr.results import EncodingFailed, Results, encode_results
from models.findings import (
    Caution,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Line,
    Measurement,
    ModelIdentity,
    ModelRun,
    Precision,
    Priority,
    Region,
    SegmentMask,
    View,
)
from models.phantom import chest
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.settings import REPOSITORY

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LUNGS = ModelIdentity("lung_fields", "0.1.0", "a" * 64, "b" * 64)
SCORES = ModelIdentity("chest_findings", "0.1.0", "c" * 64, "d" * 64)
PHANTOM = chest(1, rows=300, columns=260)


def source(**how: object) -> Dataset:
    return radiograph(PHANTOM.pixels, Exposure(seed="source", **how))  # type: ignore[arg-type]


def findings_for(ds: Dataset) -> ImageFindings:
    """One finding in each state, a box, three segments and a ratio."""
    return ImageFindings(
        study_instance_uid=str(ds.StudyInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        rows=300,
        columns=260,
        view=View.PA,
        runs=(ModelRun(LUNGS), ModelRun(SCORES)),
        findings=(
            Finding(
                "lung_opacity",
                FindingState.PRESENT,
                0.87,
                0.6,
                Laterality.LEFT,
                (Region(150.5, 120, 60, 70.25, 0.87, Laterality.LEFT), Region(40, 50, 20, 20, 0.61, Laterality.RIGHT)),
                model="chest_findings",
            ),
            Finding("effusion", FindingState.ABSENT, 0.04, 0.5, model="chest_findings"),
            Finding("edema", FindingState.UNDETERMINED, 0.31, 0.5, model="chest_findings"),
            Finding("pneumothorax", FindingState.NOT_EVALUATED, reason="evidence", model="chest_findings"),
            Finding("mass", FindingState.NOT_EVALUATED, reason="model_failed", model="chest_findings"),
        ),
        segments=tuple(SegmentMask(k, PHANTOM.masks[k], "lung_fields") for k in ("lung_right", "lung_left", "heart")),
        measurements=(
            Measurement(
                "cardiothoracic_ratio",
                0.53,
                "1",
                "lung_fields",
                (Line(80.5, 200.5, 180.0, 200.5), Line(40.0, 180.5, 229.0, 180.5)),
                Caution.AP_VIEW,
            ),
        ),
        priority=Priority.URGENT,
        priority_reason="Lung opacity 87 %, left",
        cautions=(Caution.AGE_UNKNOWN,),
    )


def encoded(ds: Dataset) -> Results:
    return encode_results(ds, findings_for(ds), CREATED)


def file_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def stripped(ds: Dataset) -> None:
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
                    "AccessionNumber", "StudyDescription", "PatientOrientation", "ImagerPixelSpacing",
                    "ReferringPhysicianName", "BodyPartExamined", "SpecificCharacterSet"):  # fmt: skip
        delattr(ds, keyword)


def named(charset: str | list[str], name: bytes | str) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        ds.SpecificCharacterSet = charset
        ds.PatientName = name

    return change


def undeclared(ds: Dataset) -> None:
    del ds.SpecificCharacterSet
    ds.PatientName = "Ренуар^Ж".encode()


def rewritten(ds: Dataset, change: Callable[[Dataset], None]) -> Dataset:
    """The source after the change, as it would be read from a file."""
    change(ds)
    return dcmread(BytesIO(file_bytes(ds)))


def long_uids(ds: Dataset) -> None:
    ds.StudyInstanceUID = "1.2.840." + "1" * 56
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.840." + "2" * 56


def secondary_capture(ds: Dataset) -> None:
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    ds.ConversionType = "WSD"


AWKWARD: dict[str, tuple[dict[str, object], Callable[[Dataset], None]]] = {
    "CR": ({"modality": "CR"}, lambda _: None),
    "DX": ({}, lambda _: None),
    "MONOCHROME1": ({"monochrome1": True}, lambda _: None),
    "8 bits": ({"bits_stored": 8}, lambda _: None),
    "AP": ({"view": "AP"}, lambda _: None),
    "stripped header": ({"modality": "CR"}, stripped),
    "long UIDs": ({}, long_uids),
    "secondary capture": ({}, secondary_capture),
    "Cyrillic": ({}, named("ISO_IR 144", "Иванов^Иван")),
    "Latin-1": ({}, named("ISO_IR 100", "Müller^Jörg")),
    "Japanese": ({}, named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")),
    "Korean": ({}, named(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동")),
    "undeclared UTF-8": ({}, undeclared),
}


@pytest.mark.parametrize("case", AWKWARD)
def test_results_of_awkward_sources_are_valid_and_keep_the_patient(case: str, tmp_path: Path) -> None:
    how, change = AWKWARD[case]
    ds = rewritten(source(**how), change)
    made = encoded(ds)
    assert made.segmentation is not None
    for name, result in (("sr", made.measurement_report), ("seg", made.segmentation)):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(file_bytes(result))
        verified = subprocess.run(
            ["dciodvfy", str(path)], capture_output=True, text=True, check=False, errors="replace"
        )
        assert not [line for line in verified.stderr.splitlines() if line.startswith("Error")], verified.stderr
        read = dcmread(path)
        expected = "Ренуар^Ж" if case == "undeclared UTF-8" else str(ds.get("PatientName", ""))
        assert str(read.PatientName) == expected
        assert read.get("PatientID", "") == (ds.get("PatientID") or "")
        assert read.StudyInstanceUID == ds.StudyInstanceUID
        assert not read.SeriesDescription.startswith("Chest")
        for element in read.iterall():
            if element.VR == "UI" and isinstance(element.value, str) and element.value:
                assert UID(element.value).is_valid, element
    dumped = subprocess.run(["dsrdump", str(tmp_path / "sr.dcm")], capture_output=True, text=True, check=True)
    assert "Lung opacity 87 %" in dumped.stdout


def groups(report: Dataset) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    """The groups that highdicom finds in a report, in their order."""
    read = hd.sr.srread(BytesIO(file_bytes(report))).content
    return [*read.get_image_measurement_groups(), *read.get_planar_roi_measurement_groups()]


def states(report: Dataset) -> dict[str, str]:
    """Key of each finding to meaning of its state, as highdicom reads them."""
    return {
        group.tracking_identifier: evaluation.value.meaning
        for group in groups(report)
        for evaluation in group.get_qualitative_evaluations()[:1]
        if group.tracking_identifier in finding_table()
    }


def evaluations(report: Dataset) -> list[tuple[str, str]]:
    """Names and values of the codes in the Qualitative Evaluations container."""
    (container,) = (i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "C0034375")
    return [
        (i.ConceptNameCodeSequence[0].CodeMeaning, i.ConceptCodeSequence[0].CodeMeaning)
        for i in container.ContentSequence
        if i.ValueType == "CODE"
    ]


def test_absent_undetermined_not_evaluated_and_failed_are_four_different_things() -> None:
    found = states(encoded(source()).measurement_report)
    assert found == {
        "lung_opacity": "Present",
        "effusion": "Absent",
        "edema": "Undetermined",
        "pneumothorax": "Not evaluated",
        "mass": "Analysis failed",
    }


def test_a_finding_carries_its_probability_and_the_threshold_that_decided() -> None:
    values = {
        group.tracking_identifier: [measurement.value for measurement in group.get_measurements()]
        for group in groups(encoded(source()).measurement_report)
    }
    assert values["lung_opacity"] == [87.0, 60.0]
    assert values["effusion"] == [4.0, 50.0]
    assert values["pneumothorax"] == []


def test_what_holds_for_the_run_stands_with_the_qualitative_evaluations() -> None:
    found = evaluations(encoded(source()).measurement_report)
    assert found[:2] == [
        ("CAD Processing and Findings Summary", "All algorithms succeeded; with findings"),
        ("Priority", "ACR Category 2 Actionable Finding"),
    ]
    assert ("Caution", "Age unknown") in found
    assert found.count(("Model run", "Succeeded")) == 2


def test_the_ratio_comes_with_its_two_diameters_as_lines() -> None:
    found = {
        (group.tracking_identifier, m.name.meaning): (m.value, m.unit.value, lines_of(m))
        for group in groups(encoded(source()).measurement_report)
        for m in group.get_measurements()
        if m.name.meaning in ("Diameter", "Cardiothoracic ratio")
    }
    cardiac, thoracic = [80.5, 200.5, 180.0, 200.5], [40.0, 180.5, 229.0, 180.5]
    assert found["cardiothoracic_ratio", "Cardiothoracic ratio"] == (0.53, "1", [cardiac, thoracic])
    report = encoded(source()).measurement_report
    labels = [
        str(item.TextValue)
        for group in report.ContentSequence[-2].ContentSequence
        for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Comment"
    ]
    spacing = float(source().ImagerPixelSpacing[1])
    assert f"Cardiac diameter {99.5 * spacing:.0f} mm" in labels
    assert f"Thoracic diameter {189 * spacing:.0f} mm" in labels


def lines_of(measurement: hd.sr.Measurement) -> list[list[float]]:
    return [list(i.GraphicData) for i in measurement[0].ContentSequence if i.ValueType == "SCOORD"]


def test_diameters_are_in_pixels_where_the_image_does_not_tell_its_spacing() -> None:
    ds = source()
    del ds.ImagerPixelSpacing
    units = {m.unit.value for g in groups(encoded(ds).measurement_report) for m in g.get_measurements()}
    assert "{pixels}" in units
    assert "mm" not in units


def test_report_and_segmentation_share_their_tracking_identifiers() -> None:
    made = encoded(source())
    assert made.segmentation is not None
    tracked = {g.tracking_identifier: g.tracking_uid for g in groups(made.measurement_report)}
    frames = {
        g.tracking_identifier: int(g.referenced_segmentation_frame.referenced_frame_numbers[0])
        for g in groups(made.measurement_report)
        if g.tracking_identifier in ("lung_right", "lung_left", "heart")
    }
    for item in made.segmentation.SegmentSequence:
        assert tracked[item.TrackingID] == item.TrackingUID
        assert frames[item.TrackingID] == item.SegmentNumber
    assert len(set(tracked.values())) == len(tracked)


def test_a_finding_that_a_segment_shows_refers_to_it() -> None:
    ds = source()
    mask = SegmentMask("pneumothorax", PHANTOM.masks["lung_left"], "chest_findings")
    found = Finding("pneumothorax", FindingState.PRESENT, 0.9, 0.5, Laterality.LEFT, model="chest_findings")
    made = encode_results(ds, replace(findings_for(ds), findings=(found,), segments=(mask,)), CREATED)
    (group,) = hd.sr.srread(BytesIO(file_bytes(made.measurement_report))).content.get_planar_roi_measurement_groups()
    assert made.segmentation is not None
    assert group.referenced_segmentation_frame.referenced_sop_instance_uid == made.segmentation.SOPInstanceUID
    assert group.tracking_uid == made.segmentation.SegmentSequence[0].TrackingUID
    values = {m.name.meaning: m.value for m in group.get_measurements()}
    spacing = float(ds.ImagerPixelSpacing[0]) * float(ds.ImagerPixelSpacing[1])
    assert values["Certainty of Finding"] == 90.0
    assert values["Area"] == pytest.approx(mask.mask.sum() * spacing)


def test_what_has_coordinates_comes_first_for_viewers_open_a_report_at_its_first_group() -> None:
    report = encoded(source()).measurement_report
    placed = [
        any(child.ValueType == "SCOORD" for item in group.ContentSequence for child in item.get("ContentSequence", ()))
        for group in report.ContentSequence[-2].ContentSequence
    ]
    assert placed == sorted(placed, reverse=True)
    assert placed.count(True) == 5


def test_a_report_names_what_it_replaces_and_has_an_identity_of_its_own() -> None:
    ds = source()
    first = encoded(ds).measurement_report
    before = reference_to(first)
    second = encode_results(ds, findings_for(ds), CREATED, number=2, predecessors=[before]).measurement_report
    third = encode_results(
        ds, findings_for(ds), CREATED, number=3, predecessors=[replace(before, sop_instance_uid=second.SOPInstanceUID)]
    ).measurement_report
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, third.SOPInstanceUID}) == 3
    assert current([third, first, second]) == [third]
    reference = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Replaced report"


def test_the_requests_of_the_image_are_named() -> None:
    ds = source()
    request = Dataset()
    request.RequestedProcedureID, request.RequestedProcedureDescription = "RP1", "Chest PA"
    ds.RequestAttributesSequence = [request]
    (named_request,) = encoded(ds).measurement_report.ReferencedRequestSequence
    assert named_request.RequestedProcedureID == "RP1"
    assert named_request.StudyInstanceUID == ds.StudyInstanceUID


def test_times_are_told_in_the_time_zone_of_the_image() -> None:
    ds = source()
    ds.TimezoneOffsetFromUTC = "+0530"
    for result in (encoded(ds).measurement_report, encoded(ds).segmentation):
        assert result is not None
        assert (result.TimezoneOffsetFromUTC, result.ContentTime) == ("+0530", "083405")


def test_a_negative_finding_never_appears_as_a_finding_item() -> None:
    report = encoded(source()).measurement_report
    values = {
        e.value[0].CodeMeaning
        for item in report.iterall()
        if item.VR == "SQ" and item.keyword == "ContentSequence"
        for child in item.value
        if child.get("ConceptNameCodeSequence") and child.ConceptNameCodeSequence[0].CodeValue == "121071"
        for e in [child["ConceptCodeSequence"]]
    }
    assert values == {"Opacity"}


def test_highdicom_reads_the_boxes_back() -> None:
    boxes = [g for g in groups(encoded(source()).measurement_report) if "Rectangle" in g.tracking_identifier]
    assert [group.get_measurements()[0].value for group in boxes] == [87.0, 61.0]
    left, top, right, bottom = 150.5, 120.0, 210.5, 190.25
    corners = [left, top, right, top, right, bottom, left, bottom, left, top]
    assert lines_of(boxes[0].get_measurements()[0]) == [corners]


def test_highdicom_reads_every_segment_back_pixel_by_pixel() -> None:
    ds = source()
    seg = hd.seg.segread(BytesIO(file_bytes(encoded(ds).segmentation)))  # type: ignore[arg-type]
    frames = np.atleast_3d(seg.pixel_array).reshape(-1, 300, 260)
    for number, key in enumerate(("lung_right", "lung_left", "heart"), start=1):
        described = seg.get_segment_description(number)
        assert described.tracking_id == key
        assert np.array_equal(frames[number - 1].astype(bool), PHANTOM.masks[key])
    modifiers = [
        i.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning
        for i in seg.SegmentSequence[:2]
    ]
    assert modifiers == ["Right", "Left"]


def test_without_segments_there_is_a_report_and_no_segmentation() -> None:
    ds = source()
    made = encode_results(ds, replace(findings_for(ds), segments=()), CREATED)
    assert made.segmentation is None
    assert states(made.measurement_report)["effusion"] == "Absent"


def test_a_run_in_which_every_model_failed_says_so() -> None:
    ds = source()
    failed = replace(
        findings_for(ds),
        runs=(ModelRun(LUNGS, "model_failed"), ModelRun(SCORES, "model_failed")),
        findings=(Finding("effusion", FindingState.NOT_EVALUATED, reason="model_failed", model="chest_findings"),),
        segments=(),
        measurements=(),
        priority=Priority.NONE,
    )
    report = encode_results(ds, failed, CREATED).measurement_report
    assert states(report) == {"effusion": "Analysis failed"}
    found = evaluations(report)
    assert found[0] == ("CAD Processing and Findings Summary", "No algorithms succeeded; without findings")
    assert found[1] == ("Priority", "No opinion")
    assert found.count(("Model run", "Analysis failed")) == 2


_TWICE = """
import sys
sys.path[:0] = [{repository!r}, {tests!r}]
import hashlib
from test_measurement_report import encoded, file_bytes, source
made = encoded(source())
print(hashlib.sha256(file_bytes(made.measurement_report) + file_bytes(made.segmentation)).hexdigest())
"""


def test_two_processes_make_the_same_bytes() -> None:
    code = _TWICE.format(repository=str(REPOSITORY), tests=str(REPOSITORY / "tests"))
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1
    assert len(runs.pop().strip()) == 64


def identities(findings: ImageFindings) -> set[str]:
    report, segmentation = identity.image_result(findings, "SR"), identity.image_result(findings, "SEG")
    return {report.series, report.instance, segmentation.series, segmentation.instance}


def test_identifiers_follow_the_models_and_nothing_of_the_patient() -> None:
    ds = source()
    findings = findings_for(ds)
    uids = identities(findings)
    renamed = source(patient_name="Somebody^Else", patient_id="OTHER")
    assert identities(findings_for(renamed)) == uids
    newer = replace(LUNGS, weights_digest="e" * 64)
    assert identities(replace(findings, runs=(ModelRun(newer), ModelRun(SCORES)))).isdisjoint(uids)
    assert identities(replace(findings, runs=(ModelRun(LUNGS, "model_failed"), ModelRun(SCORES)))).isdisjoint(uids)
    assert device_uid(ModelRun(newer)) != device_uid(ModelRun(LUNGS))


def parameters(report: Dataset) -> list[list[str]]:
    """What stands with each run."""
    section = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "C0034375")
    runs = [i for i in section.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "MODELRUN"]
    return [
        [i.TextValue for i in run.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "111002"] for run in runs
    ]


def test_another_precision_is_another_algorithm_and_float32_goes_without_saying() -> None:
    ds = source()
    findings = findings_for(ds)
    plain = [["weights sha256:" + "a" * 64, "config sha256:" + "b" * 64],
             ["weights sha256:" + "c" * 64, "config sha256:" + "d" * 64]]  # fmt: skip
    assert parameters(encoded(ds).measurement_report) == plain
    seen, devices = set(identities(findings)), {device_uid(run) for run in findings.runs}
    # as it was before results named precisions
    assert device_uid(ModelRun(LUNGS)) == "2.25.34762259851630649322377321412498662719"
    for precision in (Precision.BFLOAT16, Precision.INT8):
        lowered = replace(findings, runs=(ModelRun(LUNGS), ModelRun(SCORES, None, precision)))
        assert seen.isdisjoint(identities(lowered))
        seen |= identities(lowered)
        report = encode_results(ds, lowered, CREATED).measurement_report
        assert parameters(report) == [plain[0], [*plain[1], f"precision={precision.value}"]]
        contributed = [str(item.DeviceUID) for item in report.ContributingEquipmentSequence]
        assert contributed == [device_uid(run) for run in lowered.runs]
        assert contributed[0] in devices, "a run in float32 is of the algorithm that it was"
        assert contributed[1] not in devices
        devices.add(contributed[1])


def test_our_own_results_are_recognised_and_a_modality_s_are_not() -> None:
    made = encoded(source())
    for result in (made.measurement_report, made.segmentation):
        assert result is not None
        assert is_own_result(result.Modality, result.Manufacturer)
    assert not is_own_result("DX", MANUFACTURER)
    assert not is_own_result("SR", "Another vendor")


def test_what_cannot_be_encoded_is_named() -> None:
    ds = source()
    unknown = replace(findings_for(ds), findings=(Finding("unheard_of", FindingState.ABSENT, 0.1, 0.5),))
    with pytest.raises(EncodingFailed, match=str(ds.SOPInstanceUID)):
        encode_results(ds, unknown, CREATED)


def verhoeff_holds(number: str) -> bool:
    """The check digit of a SNOMED CT identifier."""
    d = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5], [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
         [3, 4, 0, 1, 2, 8, 9, 5, 6, 7], [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
         [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3], [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
         [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]]  # fmt: skip
    p = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    for _ in range(6):
        p.append([p[-1][p[1][i]] for i in range(10)])
    check = 0
    for i, digit in enumerate(reversed(number)):
        check = d[check][p[i % 8][int(digit)]]
    return check == 0


def test_every_snomed_code_has_its_check_digit() -> None:
    from dicom_sr import codes

    fixed = [v for v in vars(codes).values() if isinstance(v, codes.Code)]
    tables = [c for t in (codes.STATES, codes.SIDES, codes.PRIORITIES) for c in t.values()]
    rows = [c for f in finding_table().values() for c in (f.finding, f.site, f.category, f.type) if c]
    checked = [c for c in (*fixed, *tables, *rows) if c.scheme_designator == "SCT"]
    assert len(checked) > 40
    assert [c for c in checked if not verhoeff_holds(c.value)] == []
    assert not verhoeff_holds("36118009")
    assert all(len(c.value) <= 16 for c in (*fixed, *tables, *rows))  # Code Value is SH


def test_encoding_needs_no_model_library() -> None:
    code = "import sys, dicom_sr.results; sys.exit(bool({'torch', 'monai', 'openvino'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)})

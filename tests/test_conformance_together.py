"""The checker on objects that belong together, and on objects of others."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from broken_results import (
    Change,
    coded,
    drop,
    empty_outline,
    find,
    first_evidence,
    measured,
    misclassed,
    move,
    number,
    precise,
    read,
    said,
    scaled_diameters,
    segment,
    set_value,
    unit,
    unsaid,
    with_predecessor,
)
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import generate_uid
from test_measurement_report import CREATED, PHANTOM, encoded, file_bytes, findings_for, source

from dicom_sr.conformance.check import check, check_together, frame_areas
from dicom_sr.evidence import evidence
from dicom_sr.references import reference_to
from dicom_sr.report.wording import load_wording
from dicom_sr.results import encode_results
from dicom_sr.text_report import encode_text_report
from models.findings import Finding, FindingState, ModelIdentity, ModelRun, Precision, Priority
from models.study import StudyFindings
from orthanc_plugin.commands.modality import Exposure, radiograph

# Objects are broken here on purpose, and pydicom says so.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def together(*changes: tuple[str, Change]) -> set[str]:
    objects = {kind: read(kind) for kind in ("image", "SR", "SEG")}
    for kind, change in changes:
        change(objects[kind])
    return {v.rule for v in check_together(list(objects.values()))}


def boundless(ds: Dataset) -> None:
    """No image library, and a box far outside of the image."""
    drop(ds, "111028")
    find(ds, "111030").GraphicData = [1.0, 1.0, 9000.0, 1.0, 9000.0, 2.0, 1.0, 2.0, 1.0, 1.0]


def other_series_in_evidence(ds: Dataset) -> None:
    first_evidence(ds).SeriesInstanceUID = "2.25.3"


def other_segment(ds: Dataset) -> None:
    reference = find(ds, "121214").ReferencedSOPSequence[0]
    reference.pop("ReferencedFrameNumber", None)
    reference.ReferencedSegmentNumber = 9


def other_frame(ds: Dataset) -> None:
    reference = find(ds, "121214").ReferencedSOPSequence[0]
    reference.pop("ReferencedSegmentNumber", None)
    reference.ReferencedFrameNumber = 99


def same_series(ds: Dataset) -> None:
    ds.SeriesInstanceUID = read("SR").SeriesInstanceUID


TOGETHER: dict[str, tuple[str, str, Change]] = {
    "another tracking UID": ("SEG", "PS3.3 C.8.20.2", lambda d: setattr(segment(d), "TrackingUID", "2.25.2")),
    "a segment that does not exist": ("SR", "PS3.3 10.8", other_segment),
    "a frame that does not exist": ("SR", "PS3.3 10.8", other_frame),
    "an image in another series": ("SR", "PS3.3 C.17.2.3", other_series_in_evidence),
    "an image of another class": (
        "SR", "PS3.3 10.8", misclassed),
    "a box outside of the image": ("SR", "PS3.3 C.18.6.1.2", boundless),
    "another patient": ("SR", "AIR 6.5.3", lambda d: setattr(d, "PatientID", "OTHER")),
    "one SOP Instance UID for two": (
        "SEG", "PS3.5 9", lambda d: setattr(d, "SOPInstanceUID", read("image").SOPInstanceUID)),
    "a precision that the segments do not have": ("SR", "Hilum identity", lambda d: precise(d, "int8")),
    "a precision that the report does not have": ("SEG", "Hilum identity", lambda d: setattr(
        segment(d).SegmentationAlgorithmIdentificationSequence[0], "AlgorithmParameters", "precision=int8")),
    "one series for two modalities": ("SEG", "PS3.3 C.7.3.1", same_series),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_objects_that_disagree_are_reported(name: str) -> None:
    kind, expected, change = TOGETHER[name]
    assert expected in together((kind, change))


def test_report_and_segments_of_lowered_precision_agree() -> None:
    ds = source()
    findings = findings_for(ds)
    for precision in Precision:
        runs = tuple(replace(run, precision=precision) for run in findings.runs)
        results = encode_results(ds, replace(findings, runs=runs), CREATED)
        assert results.segmentation is not None
        for one in (results.measurement_report, results.segmentation):
            assert check(one) == []
        assert check_together([ds, results.measurement_report, results.segmentation]) == []


def test_a_box_lies_within_what_the_segmentation_tells_of_the_image() -> None:
    report = read("SR")
    boundless(report)
    assert "PS3.3 C.18.6.1.2" not in {v.rule for v in check_together([report])}
    assert "PS3.3 C.18.6.1.2" in {v.rule for v in check_together([report, read("SEG")])}


def successor(ds: Dataset, version: str, predecessor: Dataset | None) -> Dataset:
    findings = findings_for(ds)
    newer = ModelIdentity("chest_findings", version, "e" * 64, "f" * 64)
    findings = replace(findings, runs=(findings.runs[0], ModelRun(newer)), segments=())
    replaced = predecessor and reference_to(predecessor)
    return encode_results(ds, findings, CREATED, predecessors=[replaced] if replaced else []).measurement_report


WORDS: dict[str, Change] = {
    "another state": lambda d: said(d, "no pleural effusion (4 %)", "pleural effusion (4 %)"),
    "another degree": lambda d: said(
        d, "A lung opacity on the left is likely", "A lung opacity on the left is possible"
    ),
    "another count": lambda d: said(d, "2 of 5", "1 of 5"),
    "another ratio": lambda d: said(d, "0.53", "0.35"),
    "a finding of its own": lambda d: said(d, "Pleura: ", "Pleura: Tension pneumothorax. "),
    "no disclaimer": lambda d: said(d, "not a medical device", "a medical device"),
    "a sentence too few": lambda d: unsaid(d, "59776-5"),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_report_in_words_says_what_the_findings_hold(name: str) -> None:
    text = read("TEXT")
    WORDS[name](text)
    assert check(text) == []
    assert {v.rule for v in check_together([read("SR"), text])} == {"Hilum words"}
    assert check_together([text]) == [], "without its measurement reports nobody can tell"


def test_the_words_may_be_those_of_any_language_and_of_the_site(tmp_path: Path) -> None:
    ds = source()
    findings = findings_for(ds)
    study = StudyFindings(findings.study_instance_uid, (findings,), ("view",))
    report = encoded(ds).measurement_report
    site = tmp_path / "report.en.toml"
    site.write_text('[impression]\nnothing_present = "All is well, says the machine"\n[findings.lung_opacity]\n'
                    'subject = "a shadow"\n')  # fmt: skip
    own = load_wording("en", site)
    for wording in (load_wording("de"), own):
        text = encode_text_report([evidence(ds, findings)], study, [report], CREATED, wording=wording)
        assert check_together([report, text], wordings=[own]) == []
    assert {v.rule for v in check_together([report, text])} == {"Hilum words"}


def test_an_area_and_a_diameter_are_those_of_the_pixels() -> None:
    for kind, change in (
        ("SEG", empty_outline),
        ("SR", lambda d: number(d, "heart", "42798000", "999")),
        ("SR", scaled_diameters),
    ):
        objects = {one: read(one) for one in ("SR", "SEG")}
        change(objects[kind])
        assert check(objects[kind]) == []
        found = check_together(list(objects.values()))
        assert {v.rule for v in found} == {"Hilum report"}, found
        if kind == "SEG":
            assert len(found) == 3
    segmentation = read("SEG")
    counted = {str(segmentation.SOPInstanceUID): frame_areas(segmentation)}
    del segmentation.PixelData
    report = read("SR")
    assert check_together([report, segmentation], areas=counted) == []
    assert len(check_together([report, segmentation], areas={uid: (7, 7, 7) for uid in counted})) == 3


def test_codes_that_are_copied_are_the_matter_of_the_site() -> None:
    ds = source()
    code = coded("THORAX", "99HILUM", "Thorax")
    code.CodingSchemeVersion = "9"
    ds.ProcedureCodeSequence = [code]
    made = encoded(ds)
    assert check(made.measurement_report) == []
    assert made.segmentation is not None
    assert check(made.segmentation) == []


def test_a_chain_of_versions_is_right_and_a_fork_and_a_circle_are_not() -> None:
    ds = source()
    first = successor(ds, "0.1.0", None)
    second = successor(ds, "0.2.0", first)
    third = successor(ds, "0.3.0", second)
    assert check(third) == []
    assert check_together([ds, first, second, third]) == []
    third.PredecessorDocumentsSequence[0].ReferencedSeriesSequence.extend(
        second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    )
    assert check_together([ds, first, second, third]) == [], "it may name all that it replaces"
    assert check_together([ds, first, third]) == [], "and one of them may be gone"
    fork = successor(ds, "0.4.0", first)
    assert [v.rule for v in check_together([first, second, fork])] == ["Hilum identity"]
    assert [v.rule for v in check_together([first, fork, successor(ds, "0.5.0", None)])] == ["Hilum identity"]
    elsewhere = deepcopy(fork)
    elsewhere.StudyInstanceUID = "2.25.5"
    elsewhere.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "2.25.5"
    assert "speak for" not in str(check_together([first, second, elsewhere])), "each study has its own"
    circle = deepcopy(first)
    circle.PredecessorDocumentsSequence = deepcopy(third.PredecessorDocumentsSequence)
    document = circle.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    document.SeriesInstanceUID = third.SeriesInstanceUID
    document.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = third.SOPInstanceUID
    found = check_together([circle, second, third])
    assert len(found) == 3
    assert all("by itself" in v.message for v in found)


def test_two_reports_of_one_study_that_do_not_know_each_other_are_a_fork() -> None:
    report, other = read("TEXT"), read("TEXT")
    other.SOPInstanceUID = "2.25.12"
    (violation,) = check_together([report, other])
    assert "2 documents speak for study" in violation.message
    with_predecessor(other, ("121360", "DCM", "Replaced report"), report.SOPInstanceUID)
    other.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID = report.SeriesInstanceUID
    assert check_together([report, other]) == []


def test_what_is_valid_is_not_refused() -> None:
    """Nothing found at all; two laterals, unread for one reason; a procedure as the site coded it, years ago."""
    ds = source()
    ds.ProcedureCodeSequence = [coded("P5-00002", "SRT", "Röntgen Thorax")]
    findings = findings_for(ds)
    absent = (Finding("effusion", FindingState.ABSENT, 0.04, 0.5, model="chest_findings"),)
    nothing = Finding("no_finding", FindingState.PRESENT, 0.9, 0.5, model="chest_findings")
    findings = replace(findings, findings=(nothing, *absent), priority=Priority.ROUTINE, priority_reason="Nothing")
    report = encode_results(ds, findings, CREATED).measurement_report
    study = StudyFindings(findings.study_instance_uid, (findings,), ("view", "view"))
    header = evidence(ds, findings)
    text = encode_text_report([header], study, [report], CREATED, wording=load_wording("en"))
    assert report.ProcedureCodeSequence[0].CodingSchemeDesignator == "SRT"
    assert check(report) == []
    assert check(text) == []


# --- objects of others


def others_report() -> Dataset:
    """A measurement report as highdicom makes it, by a person, with a region and a measurement."""
    ds = source()
    image = hd.sr.SourceImageForRegion(ds.SOPClassUID, ds.SOPInstanceUID)
    square = np.array([[10.0, 10.0], [50.0, 10.0], [50.0, 50.0], [10.0, 50.0], [10.0, 10.0]])
    observer = hd.sr.ObserverContext(
        observer_type=dictionary.DCM.Person,
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name="Doe^Jane"),
    )
    group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, square, image),
        tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier="nodule 1"),
        finding_category=hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
        finding_type=hd.sr.CodedConcept("27925004", "SCT", "Nodule"),
        finding_sites=[hd.sr.FindingSite(hd.sr.CodedConcept("39607008", "SCT", "Lung"))],
        measurements=[hd.sr.Measurement(dictionary.SCT.Diameter, 12.5, dictionary.UCUM.Millimeter)],
        algorithm_id=hd.sr.AlgorithmIdentification("by hand", "1"),
    )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_person_context=observer),
        procedure_reported=hd.sr.CodedConcept("399208008", "SCT", "Plain chest X-ray"),
        imaging_measurements=[group],
        referenced_images=[ds],
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[ds],
        content=report[0],
        series_number=3,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Another vendor",
        is_complete=True,
        is_final=True,
        is_verified=True,
        verifying_observer_name="Doe^Jane",
        verifying_organization="A hospital",
    )


def test_a_report_of_others_is_judged_by_the_standard_alone() -> None:
    report = dcmread(BytesIO(file_bytes(others_report())))
    assert check(report) == []
    set_value(find(report, "363698007"), "39607009", "SCT", "Lung")
    move(report, "112040", "CONTAINS")
    assert {v.rule for v in check(report)} == {"SNOMED CT identifier", "PS3.16 TID 1410 row 3"}


def test_key_objects_of_others_may_be_named_source_and_nothing_else() -> None:
    ds = source()
    content = hd.ko.KeyObjectSelection(document_title=dictionary.DCM.OfInterest, referenced_objects=[ds])
    selected = hd.ko.KeyObjectSelectionDocument(
        evidence=[ds],
        content=content,
        series_instance_uid=generate_uid(),
        series_number=3,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Another vendor",
    )
    read_again = dcmread(BytesIO(file_bytes(selected)))
    assert check(read_again) == []
    item = find(read_again, "260753009")
    item.ConceptNameCodeSequence = [coded("121112", "DCM", "Source of Measurement")]
    assert {v.rule for v in check(read_again)} == {"PS3.16 TID 2010 row 8"}


def test_a_length_below_nothing_and_a_unit_with_blanks_are_wrong_in_reports_of_others_too() -> None:
    report = dcmread(BytesIO(file_bytes(others_report())))
    measured(find(report, "81827009")).NumericValue = "-3"
    del measured(find(report, "81827009"))["FloatingPointValue"]
    assert {v.rule for v in check(report)} == {"PS3.16 CID 7470"}
    report = dcmread(BytesIO(file_bytes(others_report())))
    unit(find(report, "81827009"), "milli meters", "millimeter")
    assert {v.rule for v in check(report)} == {"UCUM 2.1"}


@pytest.mark.parametrize("name", ["reportsi.dcm", "test-SR.dcm", "CT_small.dcm", "liver_1frame.dcm", "badVR.dcm"])
def test_objects_of_others_are_judged_and_never_held_to_our_identity(name: str) -> None:
    path = get_testdata_file(name)
    assert path is not None
    found = check(dcmread(str(path)))
    assert not [v for v in found if v.rule.startswith(("AIR", "Hilum"))]


def test_two_frontals_share_their_series_and_agree() -> None:
    objects = []
    for seed in ("one", "two"):
        ds = radiograph(PHANTOM.pixels, Exposure(seed="source"))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[seed])
        made = encoded(ds)
        assert check(made.measurement_report) == []
        objects += [ds, made.measurement_report, made.segmentation]
    assert check_together(objects) == []

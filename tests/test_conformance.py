"""The checker: our own objects keep every rule, and each rule reports what breaks it, and that alone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import generate_uid
from test_measurement_report import CREATED, PHANTOM, encoded, file_bytes, findings_for, source

from dicom_sr.conformance.check import Violation, check, check_together
from dicom_sr.conformance.coding import verhoeff_holds
from dicom_sr.evidence import evidence
from dicom_sr.heat_map import encode_heat_map
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.predecessor import Predecessor
from dicom_sr.presentation_state import encode_presentation_state
from dicom_sr.report.wording import load_wording
from dicom_sr.results import encode_results
from dicom_sr.text_report import encode_text_report
from models.findings import ModelIdentity, ModelRun, SaliencyMap, StudyFindings
from orthanc_plugin.modality import Exposure, radiograph
from orthanc_plugin.verify import verify_files

# Objects are broken here on purpose, and pydicom says so.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

KINDS = ("SR", "SEG", "TEXT", "KO", "PR", "SC")
Change = Callable[[Dataset], None]


@cache
def files() -> dict[str, bytes]:
    """One object of each kind that we write, as a file, and the radiograph that they are about."""
    ds = source()
    maps = (SaliencyMap("lung_opacity", np.eye(8, dtype=np.float32), "chest_findings"),)
    findings = replace(findings_for(ds), saliency=maps)
    study = StudyFindings(findings.study_instance_uid, (findings,))
    header, made = evidence(ds, findings), encoded(ds)
    reports = [made.measurement_report]
    gray = np.full((300, 260), 0.5, dtype=np.float32)
    objects = {
        "image": ds,
        "SR": made.measurement_report,
        "SEG": made.segmentation,
        "TEXT": encode_text_report([header], study, reports, CREATED, wording=load_wording("en")),
        "KO": encode_key_objects([header], study, reports, CREATED, number=1),
        "PR": encode_presentation_state(header, findings, CREATED, number=1),
        "SC": encode_heat_map(header, findings, gray, CREATED, number=1),
    }
    return {kind: file_bytes(made) for kind, made in objects.items() if made is not None}


def read(kind: str) -> Dataset:
    return dcmread(BytesIO(files()[kind]))


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def nodes(ds: Dataset) -> Iterator[tuple[Dataset, Dataset]]:
    """Each content item with its parent, in document order."""
    for item in ds.get("ContentSequence", ()):
        yield ds, item
        yield from nodes(item)


def name_of(item: Dataset) -> str:
    named = item.get("ConceptNameCodeSequence")
    return str(named[0].CodeValue) if named else ""


def find(ds: Dataset, name: str, value_type: str = "") -> Dataset:
    """The first content item with this concept name."""
    found = (i for _, i in nodes(ds) if name_of(i) == name and value_type in ("", i.ValueType))
    return next(found)


def group_of(ds: Dataset, key: str) -> Dataset:
    """The measurement group with this tracking identifier."""
    return next(p for p, i in nodes(ds) if name_of(i) == "112039" and key in i.TextValue)


def state_of(group: Dataset) -> Dataset:
    """The CODE that tells the state of a finding."""
    return next(
        i for i in group.ContentSequence if i.ValueType == "CODE" and i.RelationshipType == "CONTAINS"
        and name_of(i) not in ("121071", "CAUTION", "REASON")
    )  # fmt: skip


def drop(ds: Dataset, *names: str) -> None:
    """Remove every content item with one of these concept names."""
    for parent in [ds, *(i for _, i in nodes(ds))]:
        if "ContentSequence" in parent:
            parent.ContentSequence = [i for i in parent.ContentSequence if name_of(i) not in names]


def add(parent: Dataset, relationship: str, value_type: str, name: Dataset, **values: object) -> None:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = relationship, value_type, [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    parent.ContentSequence = [*parent.ContentSequence, item]


def unchecked(ds: Dataset, keyword: str, value: object) -> None:
    """Set a value that pydicom would refuse."""
    with pydicom.config.disable_value_validation():
        setattr(ds, keyword, value)


def set_value(item: Dataset, *code: str) -> None:
    item.ConceptCodeSequence = [coded(*code)]


def measured(item: Dataset) -> Dataset:
    return item.MeasuredValueSequence[0]


def first_evidence(ds: Dataset) -> Dataset:
    return ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]


def reworded(ds: Dataset, name: str, *code: str) -> None:
    set_value(find(ds, name, "CODE"), *code)


def move(ds: Dataset, name: str, relationship: str) -> None:
    find(ds, name).RelationshipType = relationship


def repeat(ds: Dataset, name: str) -> None:
    parent, item = next((p, i) for p, i in nodes(ds) if name_of(i) == name)
    parent.ContentSequence = [*parent.ContentSequence, deepcopy(item)]


def equip(ds: Dataset, keyword: str) -> None:
    delattr(ds.ContributingEquipmentSequence[0], keyword)


def every(ds: Dataset, name: str, change: Change) -> None:
    for _, item in nodes(ds):
        if name_of(item) == name:
            change(item)


def with_predecessor(ds: Dataset, purpose: tuple[str, str, str], instance: str) -> None:
    study, series, document = Dataset(), Dataset(), Dataset()
    document.ReferencedSOPClassUID, document.ReferencedSOPInstanceUID = ds.SOPClassUID, instance
    document.PurposeOfReferenceCodeSequence = [coded(*purpose)]
    series.SeriesInstanceUID, series.ReferencedSOPSequence = "2.25.7", [document]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, [series]
    ds.PredecessorDocumentsSequence = [study]


def present_but_unfound(ds: Dataset) -> None:
    group = group_of(ds, "lung_opacity")
    group.ContentSequence = [i for i in group.ContentSequence if name_of(i) != "121071"]


def absent_but_found(ds: Dataset) -> None:
    add(group_of(ds, "effusion"), "CONTAINS", "CODE", coded("121071", "DCM", "Finding"),
        ConceptCodeSequence=[coded("60046008", "SCT", "Pleural effusion")])  # fmt: skip


def two_states(ds: Dataset) -> None:
    add(group_of(ds, "effusion"), "CONTAINS", "CODE", coded("19242006", "SCT", "Pulmonary edema"),
        ConceptCodeSequence=[coded("272519000", "SCT", "Absent")])  # fmt: skip


def reasonless(ds: Dataset) -> None:
    group = group_of(ds, "pneumothorax")
    group.ContentSequence = [i for i in group.ContentSequence if name_of(i) != "REASON"]


def certain_without_evaluation(ds: Dataset) -> None:
    certainty = deepcopy(find(group_of(ds, "effusion"), "111012"))
    group_of(ds, "pneumothorax").ContentSequence.append(certainty)


def same_tracking(ds: Dataset) -> None:
    uids = [i for _, i in nodes(ds) if name_of(i) == "112040"]
    uids[1].UID = uids[0].UID


def both_frame_and_segment(ds: Dataset) -> None:
    reference = find(ds, "121214").ReferencedSOPSequence[0]
    reference.ReferencedFrameNumber = reference.ReferencedSegmentNumber = 1


def segment_for_frame(ds: Dataset) -> None:
    find(ds, "121214").ConceptNameCodeSequence = [coded("121191", "DCM", "Referenced Segment")]


def region_beside_segment(ds: Dataset) -> None:
    group = next(p for p, i in nodes(ds) if name_of(i) == "121214")
    region = deepcopy(find(ds, "111030", "SCOORD"))
    region.RelationshipType = "CONTAINS"
    group.ContentSequence = [*group.ContentSequence, region]


def unsourced(ds: Dataset) -> None:
    group = next(p for p, i in nodes(ds) if name_of(i) == "121214")
    group.ContentSequence = [i for i in group.ContentSequence if name_of(i) != "121233"]


def unselected(ds: Dataset) -> None:
    del find(ds, "111030", "SCOORD").ContentSequence


def unlisted(ds: Dataset) -> None:
    find(ds, "260753009", "IMAGE").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.4"


def misclassed(ds: Dataset) -> None:
    reference = find(ds, "260753009", "IMAGE").ReferencedSOPSequence[0]
    reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


def listed_twice(ds: Dataset) -> None:
    series = first_evidence(ds)
    series.ReferencedSOPSequence = [*series.ReferencedSOPSequence, deepcopy(series.ReferencedSOPSequence[0])]


def pointing_nowhere(ds: Dataset) -> None:
    number = next(i for _, i in nodes(ds) if name_of(i) == "CTR")
    item = Dataset()
    item.RelationshipType, item.ReferencedContentItemIdentifier = "INFERRED FROM", [1, 99]
    number.ContentSequence = [*number.ContentSequence, item]


def emptied(ds: Dataset) -> None:
    drop(ds, "126010", "C0034375")


def hidden_in_a_section(ds: Dataset) -> None:
    add(ds, "CONTAINS", "CONTAINER", coded("121070", "DCM", "Findings"), ContinuityOfContent="SEPARATE")


def code_item(ds: Dataset) -> Dataset:
    """The code of a finding's site, which no template fixes."""
    return find(ds, "363698007").ConceptCodeSequence[0]


def private_code(ds: Dataset) -> Dataset:
    return find(ds, "CTR").ConceptNameCodeSequence[0]


def unidentified(ds: Dataset) -> None:
    kept = [i for i in ds.CodingSchemeIdentificationSequence if i.CodingSchemeDesignator != "99HILUM"]
    ds.CodingSchemeIdentificationSequence = kept


def scheme(ds: Dataset, designator: str) -> Dataset:
    return next(i for i in ds.CodingSchemeIdentificationSequence if i.CodingSchemeDesignator == designator)


def authored(ds: Dataset) -> None:
    author = Dataset()
    author.ObserverType, author.PersonName = "PSN", "Doe^Jane"
    ds.AuthorObserverSequence = [author]


def verified(ds: Dataset) -> None:
    ds.VerifyingObserverSequence = [Dataset()]


def other_group_template(ds: Dataset) -> None:
    group_of(ds, "effusion").ContentTemplateSequence[0].TemplateIdentifier = "1502"


SCOORD = "111030"
REPORT: dict[str, tuple[str, Change]] = {
    # templates
    "a title of another context group": (
        "PS3.16 TID 1500 row 1",
        lambda d: setattr(d, "ConceptNameCodeSequence", [coded("113000", "DCM", "Of Interest")])),
    "neither measurements nor evaluations": ("PS3.16 TID 1500 row 6 | PS3.16 CID 6047", emptied),
    "a procedure with the wrong relationship": (
        "PS3.16 TID 1500 row 4", lambda d: move(d, "121058", "CONTAINS")),
    "a group of no such template": ("PS3.16 TID 1500 row 9", other_group_template),
    "two tracking identifiers": ("PS3.16 TID 1501 row 2", lambda d: repeat(d, "112039")),
    "a finding as text": (
        "PS3.16 TID 1501 row 3b",
        lambda d: (setattr(find(d, "121071"), "ValueType", "TEXT"), setattr(find(d, "121071"), "TextValue", "x"))),
    "a tracking UID that is contained": ("PS3.16 TID 1501 row 3", lambda d: move(d, "112040", "CONTAINS")),
    "a side that is none": (
        "PS3.16 TID 1501 row 7", lambda d: reworded(d, "272741003", "399033003", "SCT", "frontal")),
    "an algorithm without version": ("PS3.16 TID 4019 row 2", lambda d: drop(d, "111003")),
    "a segment where a frame is due": ("PS3.16 TID 1410 row 5 | PS3.16 TID 1410 row 8", segment_for_frame),
    "a region beside a segment": ("PS3.16 TID 1410 row 5", region_beside_segment),
    "a segment without source image": ("PS3.16 TID 1410 row 8", unsourced),
    "a language with the wrong relationship": ("PS3.16 TID 1204 row 1", lambda d: move(d, "121049", "CONTAINS")),
    "an observer without UID": ("PS3.16 TID 1004 row 1", lambda d: drop(d, "121012")),
    "a modality that is none": (
        "PS3.16 TID 1602 row 1", lambda d: reworded(d, "121139", "113000", "DCM", "Of Interest")),
    "rows in millimeters": (
        "PS3.16 TID 1602 row 11",
        lambda d: setattr(measured(find(d, "110910")), "MeasurementUnitsCodeSequence", [coded("mm", "UCUM", "mm")])),
    "a view that is none": ("PS3.16 CID 4010", lambda d: reworded(d, "111031", "80891009", "SCT", "Heart")),
    "a summary that is none": ("PS3.16 CID 6047", lambda d: reworded(d, "111017", "113000", "DCM", "Of Interest")),
    "a summary that contradicts": (
        "PS3.16 CID 6047",
        lambda d: reworded(d, "111017", "111241", "DCM", "All algorithms succeeded; without findings")),
    "no summary": ("PS3.16 CID 6047", lambda d: drop(d, "111017")),
    "a priority that is none": (
        "PS3.16 CID 7035", lambda d: reworded(d, "260870009", "RID12", "RADLEX", "Diagnostic quality")),
    # relationships and values
    "coordinates that a number contains": ("PS3.3 A.35.13.3.1.2", lambda d: move(d, SCOORD, "CONTAINS")),
    "an unknown value type": (
        "PS3.3 C.17.3.2.1 | PS3.3 A.35.13.3.1.2",
        lambda d: setattr(find(d, "121073"), "ValueType", "FREETEXT")),
    "a text without text": ("PS3.3 C.17.3", lambda d: setattr(find(d, "121073"), "TextValue", "")),
    "a reference to no item": ("PS3.3 C.17.3.2.5 | PS3.3 A.35.13.3.1.2", pointing_nowhere),
    "coordinates of no image": ("PS3.16 TID 320 row 4 | PS3.3 C.18.6", unselected),
    "a point outside the image": (
        "PS3.3 C.18.6.1.2", lambda d: setattr(find(d, SCOORD), "GraphicData", [1.0, 1.0, 261.0, 2.0])),
    "half a point": ("PS3.3 C.18.6.1.2", lambda d: setattr(find(d, SCOORD), "GraphicData", [1.0, 1.0, 2.0])),
    "an ellipse of two points": ("PS3.3 C.18.6.1.2", lambda d: (
        setattr(find(d, SCOORD), "GraphicType", "ELLIPSE"),
        setattr(find(d, SCOORD), "GraphicData", [1.0, 1.0, 2.0, 2.0]))),
    "an unknown graphic": ("PS3.3 C.18.6.1.2", lambda d: setattr(find(d, SCOORD), "GraphicType", "BOX")),
    "a unit that is no unit": (
        "PS3.3 C.18.1",
        lambda d: setattr(
            measured(find(d, "CTR")), "MeasurementUnitsCodeSequence", [coded("111030", "DCM", "Image Region")])),
    "two numbers that disagree": (
        "PS3.3 C.18.1", lambda d: setattr(measured(find(d, "CTR")), "FloatingPointValue", 0.75)),
    "a number without value": ("PS3.3 C.18.1", lambda d: setattr(find(d, "CTR"), "MeasuredValueSequence", [])),
    "a certainty of 187 %": (
        "PS3.16 D 111012", lambda d: setattr(measured(find(d, "111012")), "NumericValue", "187")),
    "a number of 20 characters": (
        "PS3.5 6.2", lambda d: unchecked(measured(find(d, "111012")), "NumericValue", "87.000000000000000001")),
    # references
    "a reference that is no evidence": ("PS3.3 C.17.2.3", unlisted),
    "a reference of another class": ("PS3.3 C.17.2.3", misclassed),
    "evidence that is there twice": ("PS3.3 C.17.2.3", listed_twice),
    "evidence without series": ("PS3.3 C.17.2.3", lambda d: delattr(first_evidence(d), "SeriesInstanceUID")),
    "frame and segment at once": ("PS3.3 10.3", both_frame_and_segment),
    "its own predecessor": (
        "PS3.3 C.17.2", lambda d: with_predecessor(d, ("121360", "DCM", "Replaced report"), d.SOPInstanceUID)),
    "a predecessor for no purpose": (
        "PS3.16 CID 7009", lambda d: with_predecessor(d, ("113000", "DCM", "Of Interest"), "2.25.8")),
    # states
    "absent, and a finding": ("Hilum states", absent_but_found),
    "present, and no finding": ("Hilum states", present_but_unfound),
    "two states": ("Hilum states", two_states),
    "not evaluated, nobody knows why": ("Hilum states", reasonless),
    "not evaluated, and certain": ("Hilum states", certain_without_evaluation),
    "absent at 99 %": (
        "Hilum states", lambda d: setattr(measured(find(group_of(d, "effusion"), "111012")), "NumericValue", "99")),
    "a state that is none": (
        "PS3.16 CID 240", lambda d: set_value(state_of(group_of(d, "effusion")), "80891009", "SCT", "Heart")),
    "two groups with one tracking UID": ("Hilum identity", same_tracking),
    "a group without tracking UID": ("AIR 6.5.3", lambda d: drop(group_of(d, "edema"), "112040")),
    "the same caution twice": ("Hilum identity", lambda d: repeat(d, "CAUTION")),
    # codes
    "a SNOMED CT code that was invented": (
        "SNOMED CT identifier", lambda d: setattr(code_item(d), "CodeValue", "39607009")),
    "a SNOMED CT code that is too short": (
        "SNOMED CT identifier", lambda d: setattr(code_item(d), "CodeValue", "39607")),
    "a SNOMED CT description": (
        "SNOMED CT identifier", lambda d: setattr(code_item(d), "CodeValue", "900000000000013")),
    "a retired designator": (
        "PS3.16 8.1.1 | PS3.3 C.12.1", lambda d: setattr(code_item(d), "CodingSchemeDesignator", "SRT")),
    "a code of 17 characters": ("PS3.3 8.8 | PS3.5 6.2", lambda d: unchecked(private_code(d), "CodeValue", "A" * 17)),
    "two code values": ("PS3.3 8.8", lambda d: setattr(code_item(d), "URNCodeValue", "urn:lex:us")),
    "a code without scheme": ("PS3.3 8.2", lambda d: delattr(code_item(d), "CodingSchemeDesignator")),
    "a code without meaning": ("PS3.3 8.3", lambda d: setattr(code_item(d), "CodeMeaning", "")),
    "a meaning of its own": ("PS3.3 8.3", lambda d: setattr(code_item(d), "CodeMeaning", "Liver")),
    "a scheme that nobody identifies": ("PS3.3 C.12.1", unidentified),
    "a scheme that nobody answers for": (
        "PS3.3 C.12.1", lambda d: delattr(scheme(d, "99HILUM"), "CodingSchemeResponsibleOrganization")),
    "a private code without version": ("PS3.3 8.2", lambda d: delattr(private_code(d), "CodingSchemeVersion")),
    "a scheme with another's UID": ("PS3.16 8", lambda d: setattr(scheme(d, "SCT"), "CodingSchemeUID", "2.25.9")),
    # header
    "a UID with a leading zero": ("PS3.5 9.1", lambda d: setattr(d, "SOPInstanceUID", "2.25.01")),
    "a UID of 65 characters": ("PS3.5 9.1", lambda d: unchecked(d, "SOPInstanceUID", "2.25." + "1" * 60)),
    "a tracking UID with letters": ("PS3.5 9.1", lambda d: unchecked(find(d, "112040"), "UID", "2.25.x")),
    "no SOP Instance UID": ("PS3.3 C.12.1", lambda d: delattr(d, "SOPInstanceUID")),
    "the 30th of February": ("PS3.5 6.2", lambda d: setattr(d, "ContentDate", "20260230")),
    "a time with colons": ("PS3.5 6.2", lambda d: unchecked(d, "ContentTime", "03:04:05")),
    "two study dates": ("PS3.6 6 | PS3.5 6.2", lambda d: unchecked(d, "StudyDate", ["20260101", "2026-01-02"])),
    "a time zone of 25 hours": ("PS3.3 C.12.1.1.8", lambda d: setattr(d, "TimezoneOffsetFromUTC", "+2500")),
    "another character set": ("Hilum identity", lambda d: setattr(d, "SpecificCharacterSet", "ISO_IR 100")),
    "a character set that is none": (
        "PS3.3 C.12.1.1.2 | PS3.5 6.2 | Hilum identity", lambda d: setattr(d, "SpecificCharacterSet", "UTF-8")),
    "a verified report": ("AIR 6.5.3.1", lambda d: setattr(d, "VerificationFlag", "VERIFIED")),
    "a final report": ("AIR 6.5.3.1", lambda d: setattr(d, "PreliminaryFlag", "FINAL")),
    "a partial report": ("AIR 6.5.3.1", lambda d: setattr(d, "CompletionFlag", "PARTIAL")),
    "somebody who verified it": ("AIR 6.5.3.1", verified),
    "a person as author": ("AIR 6.5.3.1", authored),
    "an operator": ("AIR 6.5.3.1", lambda d: setattr(d, "OperatorsName", "Doe^Jane")),
    "a person as observer": ("AIR 6.5.3.1", lambda d: add(
        d, "HAS OBS CONTEXT", "PNAME", coded("121008", "DCM", "Person Observer Name"), PersonName="Doe^Jane")),
    "no device as observer": (
        "AIR 6.5.3.1", lambda d: every(d, "121005", lambda i: set_value(i, "121006", "DCM", "Person"))),
    "an observer that did not contribute": (
        "AIR 6.5.3.1", lambda d: setattr(find(d, "121012"), "UID", "2.25.5")),
    "an algorithm that did not contribute": (
        "AIR 6.5.3.1", lambda d: setattr(find(d, "111003"), "TextValue", "9.9.9")),
    "no procedure": ("AIR 6.5.3.1", lambda d: drop(d, "121058")),
    "equipment without version": ("AIR 6.5.3.1", lambda d: equip(d, "SoftwareVersions")),
    "equipment without Device UID": ("AIR 6.5.3.1", lambda d: equip(d, "DeviceUID")),
    "equipment without manufacturer": ("AIR 6.5.3.1 | PS3.3 C.12.1", lambda d: equip(d, "Manufacturer")),
    "no equipment": ("AIR 6.5.3.1", lambda d: delattr(d, "ContributingEquipmentSequence")),
    "the series of a modality": ("Hilum identity", lambda d: setattr(d, "SeriesNumber", 1)),
    "a description without AI": ("Hilum identity", lambda d: setattr(d, "SeriesDescription", "Chest")),
}  # fmt: skip


def segment(ds: Dataset, n: int = 0) -> Dataset:
    return ds.SegmentSequence[n]


def frames(ds: Dataset) -> Sequence:
    return ds.PerFrameFunctionalGroupsSequence


def graphic(ds: Dataset) -> Dataset:
    return ds.GraphicAnnotationSequence[0].GraphicObjectSequence[0]


def one_colour(ds: Dataset) -> None:
    segment(ds, 1).RecommendedDisplayCIELabValue = list(segment(ds).RecommendedDisplayCIELabValue)


def foreign_frame(ds: Dataset) -> None:
    frames(ds)[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def side_swapped(ds: Dataset) -> None:
    kind = segment(ds).SegmentedPropertyTypeCodeSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence = [coded("7771000", "SCT", "Left")]


def key_with_purpose(ds: Dataset) -> None:
    image = next(i for _, i in nodes(ds) if i.ValueType == "IMAGE")
    image.ConceptNameCodeSequence = [coded("121112", "DCM", "Source of Measurement")]


def unlisted_series(ds: Dataset) -> None:
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "2.25.6"


def unseen_evidence(ds: Dataset) -> None:
    extra = deepcopy(first_evidence(ds).ReferencedSOPSequence[0])
    extra.ReferencedSOPInstanceUID = "2.25.11"
    first_evidence(ds).ReferencedSOPSequence = [*first_evidence(ds).ReferencedSOPSequence, extra]


OTHERS: dict[str, tuple[str, str, Change]] = {
    "segments out of order": (
        "SEG", "PS3.3 C.8.20.2 | PS3.3 C.8.20.3.1", lambda d: setattr(segment(d), "SegmentNumber", 7)),
    "a segment without label": ("SEG", "PS3.3 C.8.20.2", lambda d: delattr(segment(d), "SegmentLabel")),
    "a segment without category": (
        "SEG", "PS3.3 C.8.20.2", lambda d: delattr(segment(d), "SegmentedPropertyCategoryCodeSequence")),
    "a segment without algorithm": ("SEG", "PS3.3 C.8.20.2", lambda d: delattr(segment(d), "SegmentAlgorithmName")),
    "an algorithm nobody identifies": (
        "SEG", "PS3.3 10.16", lambda d: delattr(segment(d), "SegmentationAlgorithmIdentificationSequence")),
    "a tracking UID alone": ("SEG", "PS3.3 C.8.20.2", lambda d: delattr(segment(d), "TrackingID")),
    "a lung on the other side": ("SEG", "PS3.16 CID 244", side_swapped),
    "two segments in one colour": ("SEG", "Hilum identity", one_colour),
    "a colour of two values": (
        "SEG", "PS3.3 C.10.7.1.1", lambda d: setattr(segment(d), "RecommendedDisplayCIELabValue", [1, 2])),
    "no colour": ("SEG", "Hilum identity", lambda d: delattr(segment(d), "RecommendedDisplayCIELabValue")),
    "a frame of no segment": ("SEG", "PS3.3 C.8.20.3.1", foreign_frame),
    "a frame too many": ("SEG", "PS3.3 C.7.6.16", lambda d: setattr(d, "NumberOfFrames", 7)),
    "a source that is not listed": ("SEG", "PS3.3 C.12.2", unlisted_series),
    "a creator of the segments": ("SEG", "AIR 6.5.3.1", lambda d: setattr(d, "ContentCreatorName", "Doe^Jane")),
    "text titled as a measurement report": ("TEXT", "PS3.16 TID 2000 row 1", lambda d: setattr(
        d, "ConceptNameCodeSequence", [coded("126000", "DCM", "Imaging Measurement Report")])),
    "text without language": ("TEXT", "PS3.16 TID 2000 row 3", lambda d: drop(d, "121049")),
    "an empty section": ("TEXT", "PS3.16 TID 2000 row 8", hidden_in_a_section),
    "text without sections": ("TEXT", "PS3.16 TID 2000 row 6", lambda d: setattr(
        d, "ContentSequence", [i for i in d.ContentSequence if i.ValueType != "CONTAINER"])),
    "a number in a text report": ("TEXT", "PS3.3 A.35.1.3.1.2", lambda d: add(
        d, "CONTAINS", "NUM", coded("111012", "DCM", "Certainty of Finding"),
        NumericValueQualifierCodeSequence=[coded("114010", "DCM", "Value unknown")])),
    "a key object with a purpose": ("KO", "PS3.16 TID 2010 row 8", key_with_purpose),
    "a key object title that is none": ("KO", "PS3.16 TID 2010 row 1", lambda d: setattr(
        d, "ConceptNameCodeSequence", [coded("121070", "DCM", "Findings")])),
    "key objects without objects": ("KO", "PS3.16 TID 2010 row 8 | PS3.3 C.17.6.2.1", lambda d: setattr(
        d, "ContentSequence", [i for i in d.ContentSequence if i.ValueType not in ("IMAGE", "COMPOSITE")])),
    "evidence that is no key object": ("KO", "PS3.3 C.17.6.2.1", unseen_evidence),
    "marks on no layer": ("PR", "PS3.3 C.10.5", lambda d: setattr(d.GraphicAnnotationSequence[0], "GraphicLayer", "X")),
    "marks on another image": ("PR", "PS3.3 C.10.5", lambda d: setattr(
        d.GraphicAnnotationSequence[0].ReferencedImageSequence[0], "ReferencedSOPInstanceUID", "2.25.6")),
    "marks that miscount their points": (
        "PR", "PS3.3 C.10.5.1.2", lambda d: setattr(graphic(d), "NumberOfGraphicPoints", 9)),
    "marks over no area": ("PR", "PS3.3 C.10.4", lambda d: delattr(d, "DisplayedAreaSelectionSequence")),
    "a state for no image": (
        "PR", "PS3.3 C.11.11 | PS3.3 C.10.5", lambda d: delattr(d, "ReferencedSeriesSequence")),
    "a picture that hides its writing": ("SC", "PS3.3 C.7.6.1", lambda d: setattr(d, "BurnedInAnnotation", "NO")),
    "a picture of nothing": ("SC", "PS3.3 C.7.6.1", lambda d: delattr(d, "SourceImageSequence")),
    "a picture that claims to be original": (
        "SC", "PS3.3 C.7.6.1.1.2", lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY"])),
}  # fmt: skip


@cache
def unchanged(kind: str) -> list[Violation]:
    return check(read(kind))


def rules(kind: str, change: Change) -> tuple[set[str], list[str]]:
    """The rules that a change breaks, and everything that is reported of it."""
    changed = read(kind)
    change(changed)
    after = [v for v in check(changed) if v not in unchanged(kind)]
    return {v.rule for v in after}, [str(v) for v in after]


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_keeps_every_rule(kind: str) -> None:
    assert unchanged(kind) == []


def test_what_we_write_agrees_with_each_other() -> None:
    assert check_together([read(kind) for kind in ("image", *KINDS)]) == []


@pytest.mark.parametrize("name", REPORT)
def test_a_report_that_breaks_a_rule_is_reported(name: str) -> None:
    expected, change = REPORT[name]
    assert rules("SR", change)[0] == set(expected.split(" | ")), rules("SR", change)[1]


@pytest.mark.parametrize("name", OTHERS)
def test_an_object_that_breaks_a_rule_is_reported(name: str) -> None:
    kind, expected, change = OTHERS[name]
    assert rules(kind, change)[0] == set(expected.split(" | ")), rules(kind, change)[1]


def test_a_violation_names_the_place_as_dsrdump_numbers_it(tmp_path: Path) -> None:
    ds = read("SR")
    ds.ContentSequence[0].RelationshipType = "CONTAINS"
    (violation,) = check(ds)
    assert violation.where == "1.1"
    ds = read("SR")
    site = find(ds, "363698007")
    set_value(site, "39607009", "SCT", "Lung")
    (violation,) = check(ds)
    assert violation.where.startswith("ContentSequence[")


# --- objects that belong together


def together(*changes: tuple[str, Change]) -> set[str]:
    objects = {kind: read(kind) for kind in ("image", "SR", "SEG")}
    for kind, change in changes:
        change(objects[kind])
    return {v.rule for v in check_together(list(objects.values()))}


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
    "another patient": ("SR", "AIR 6.5.3", lambda d: setattr(d, "PatientID", "OTHER")),
    "one SOP Instance UID for two": (
        "SEG", "PS3.5 9", lambda d: setattr(d, "SOPInstanceUID", read("image").SOPInstanceUID)),
    "one series for two modalities": ("SEG", "PS3.3 C.7.3.1", same_series),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_objects_that_disagree_are_reported(name: str) -> None:
    kind, expected, change = TOGETHER[name]
    assert expected in together((kind, change))


def successor(ds: Dataset, version: str, predecessor: Dataset | None) -> Dataset:
    findings = findings_for(ds)
    newer = ModelIdentity("chest_findings", version, "e" * 64, "f" * 64)
    findings = replace(findings, runs=(findings.runs[0], ModelRun(newer)), segments=())
    replaced = predecessor and Predecessor(
        str(predecessor.SeriesInstanceUID), str(predecessor.SOPClassUID), str(predecessor.SOPInstanceUID)
    )
    return encode_results(ds, findings, CREATED, predecessors=[replaced] if replaced else []).measurement_report


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
    circle = deepcopy(first)
    circle.PredecessorDocumentsSequence = deepcopy(third.PredecessorDocumentsSequence)
    document = circle.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    document.SeriesInstanceUID = third.SeriesInstanceUID
    document.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = third.SOPInstanceUID
    found = check_together([circle, second, third])
    assert len(found) == 3
    assert all("by itself" in v.message for v in found)


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


@pytest.mark.parametrize("name", ["reportsi.dcm", "test-SR.dcm", "CT_small.dcm", "liver_1frame.dcm", "badVR.dcm"])
def test_objects_of_others_are_judged_and_never_held_to_our_identity(name: str) -> None:
    path = get_testdata_file(name)
    assert path is not None
    found = check(dcmread(str(path)))
    assert not [v for v in found if v.rule.startswith(("AIR", "Hilum"))]


# --- broken objects


def damaged(rng: random.Random, ds: Dataset) -> None:
    """Change one random element, somewhere, into something else."""
    here = ds
    while True:
        if not len(here):
            return
        element = here[rng.choice(list(here.keys()))]
        if isinstance(element.value, Sequence) and len(element.value) and rng.random() < 0.8:
            here = rng.choice(list(element.value))
            continue
        break
    how = rng.randrange(6)
    if how == 0:
        del here[element.tag]
    elif how == 1:
        here.add_new(element.tag, "LO", "nonsense")
    elif how == 2:
        here.add_new(element.tag, "SQ", [])
    elif how == 3:
        here.add_new(element.tag, "SQ", [Dataset()])
    elif how == 4:
        here.add_new(element.tag, "OB", b"\xff\x00\xfe")
    else:
        here.add_new(element.tag, "IS", rng.choice([None, "-1", "99999999"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_object_is_reported_and_never_raises(kind: str) -> None:
    rng = random.Random(kind)  # noqa: S311
    for _ in range(60):
        with pydicom.config.disable_value_validation():
            ds = read(kind)
            for _ in range(rng.randrange(1, 6)):
                damaged(rng, ds)
            check_together([ds, *([read("SR")] if kind == "SEG" else [])])
            check(ds)


@pytest.mark.parametrize("kind", ["SR", "TEXT", "PR"])
def test_a_file_with_wrong_bytes_never_raises(kind: str) -> None:
    rng = random.Random(kind)  # noqa: S311
    content = files()[kind]
    for _ in range(60):
        broken = bytearray(content[: rng.randrange(400, len(content))])
        for _ in range(rng.randrange(1, 30)):
            broken[rng.randrange(150, len(broken))] = rng.randrange(256)
        try:
            ds = dcmread(BytesIO(bytes(broken)), force=True)
        except Exception:  # noqa: BLE001, S112  (what pydicom does not read is no matter of the checker)
            continue
        check(ds)


def test_an_empty_object_and_a_deep_one_are_reported() -> None:
    assert {v.where for v in check(Dataset())} >= {"SOPClassUID", "SOPInstanceUID"}
    deep = leaf = read("TEXT")
    for _ in range(100):
        item = Dataset()
        item.RelationshipType, item.ValueType, item.ContinuityOfContent = "CONTAINS", "CONTAINER", "SEPARATE"
        item.ConceptNameCodeSequence = [coded("121070", "DCM", "Findings")]
        leaf.ContentSequence = [*leaf.get("ContentSequence", ()), item]
        leaf = item
    assert "PS3.5 7.5" in {v.rule for v in check(deep)}


def test_the_check_digit_of_snomed_ct_is_verhoeff_s() -> None:
    assert all(verhoeff_holds(v) for v in ("39607008", "80891009", "52101004", "272519000", "260753009"))
    digits = "39607008"
    for place in range(len(digits)):
        for digit in set("0123456789") - {digits[place]}:
            assert not verhoeff_holds(digits[:place] + digit + digits[place + 1 :])


def test_two_frontals_share_their_series_and_agree() -> None:
    objects = []
    for seed in ("one", "two"):
        ds = radiograph(PHANTOM.pixels, Exposure(seed="source"))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[seed])
        made = encoded(ds)
        assert check(made.measurement_report) == []
        objects += [ds, made.measurement_report, made.segmentation]
    assert check_together(objects) == []


# --- the command


def written(folder: Path, *kinds: str) -> Path:
    for kind in kinds:
        (folder / f"{kind}.dcm").write_bytes(files()[kind])
    return folder


def test_verify_judges_every_file_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (written(tmp_path, "image", "SR", "TEXT") / "notes.txt").write_text("no DICOM")
    assert verify_files([tmp_path], as_json=False) == 0
    assert "3 objects, 2 of ours: no violation." in capsys.readouterr().out


def test_verify_names_rule_and_place_and_nothing_of_the_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ds = read("SR")
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Geheim^Name", "GEHEIM-7", "19990231"
    ds.OperatorsName = "Geheim^Auch"
    unchecked(ds, "PatientSex", "GEHEIM")
    ds.save_as(tmp_path / "SR.dcm")
    assert verify_files([tmp_path / "SR.dcm"], as_json=False) == 1
    said = capsys.readouterr().out
    assert "AIR 6.5.3.1 at OperatorsName" in said
    assert "PS3.5 6.2 at PatientBirthDate" in said
    if shutil.which("dciodvfy"):
        assert "dciodvfy: " in said
    assert "geheim" not in said.lower()


def test_verify_as_json_is_one_object_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = read("SR")
    ds.SeriesDescription = "Chest"
    ds.save_as(tmp_path / "SR.dcm")
    assert verify_files([tmp_path], as_json=True) == 1
    one, between = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert one["path"].endswith("SR.dcm")
    assert one["ours"]
    assert [v["rule"] for v in one["violations"]] == ["Hilum identity"]
    assert between["path"] is None
    assert between["violations"] == []


def test_verify_judges_files_by_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = read("SR")
    ds.PatientID = "OTHER"
    ds.save_as(written(tmp_path, "image") / "SR.dcm")
    assert verify_files([tmp_path], as_json=False) == 1
    assert "between the files: AIR 6.5.3 at PatientID" in capsys.readouterr().out


def test_verify_fails_where_there_is_nothing_to_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no DICOM")
    assert verify_files([text], as_json=False) == 1
    assert "not a DICOM file" in capsys.readouterr().out
    assert verify_files([tmp_path / "absent.dcm"], as_json=False) == 1
    assert "no such file" in capsys.readouterr().err

"""The checker: our own objects keep every rule, and each rule reports what breaks it, and that alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from broken_results import (
    KINDS,
    LENGTH,
    RECTANGLE,
    Change,
    absent_but_found,
    add,
    authored,
    both_frame_and_segment,
    boxes_on_the_right,
    certain_without_evaluation,
    code_item,
    coded,
    drop,
    emptied,
    equip,
    evaluation,
    every,
    failed_run,
    find,
    first_evidence,
    foreign_frame,
    graphic,
    group_of,
    hidden_in_a_section,
    infer,
    key_with_purpose,
    listed_twice,
    looping,
    measured,
    misclassed,
    move,
    number,
    one_colour,
    one_segment,
    other_group_template,
    other_lines,
    other_side,
    other_site,
    pointing_nowhere,
    positions_of,
    precise,
    present_and_absent,
    present_but_unfound,
    priority,
    private,
    private_code,
    read,
    reason_why_not,
    reasonless,
    region_beside_segment,
    repeat,
    reshaped,
    reworded,
    said,
    same_tracking,
    scheme,
    second_certainty,
    segment,
    segment_for_frame,
    set_value,
    side_swapped,
    state_of,
    stateless,
    two_states,
    unchecked,
    unidentified,
    unit,
    unlisted,
    unlisted_series,
    unseen_evidence,
    unselected,
    unsourced,
    verified,
    with_predecessor,
    without_evaluations,
    without_group,
)

from dicom_sr.conformance.check import Violation, check, check_together

# Objects are broken here on purpose, and pydicom says so.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SCOORD = "111030"
REPORT: dict[str, tuple[str, Change]] = {
    # templates
    "a title of another context group": (
        "PS3.16 TID 1500 row 1",
        lambda d: setattr(d, "ConceptNameCodeSequence", [coded("113000", "DCM", "Of Interest")])),
    "neither measurements nor evaluations": ("PS3.16 TID 1500 row 6 | PS3.16 CID 6047 | Hilum report", emptied),
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
        "PS3.16 TID 1602 row 11 | Hilum units",
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
    # contradictions
    "present and absent": ("Hilum states", present_and_absent),
    "a finding without state": ("Hilum states", stateless),
    "the state of another finding": (
        "Hilum states", lambda d: setattr(find(group_of(d, "edema"), "112039"), "TextValue", "hernia")),
    "a group of nothing that we find": (
        "Hilum identity", lambda d: setattr(find(group_of(d, "edema"), "112039"), "TextValue", "edemma")),
    "a measurement without its number": ("Hilum report", lambda d: drop(group_of(d, "cardiothoracic_ratio"), "CTR")),
    "no size of the image": ("Hilum report", lambda d: drop(d, "110910")),
    "no image library": ("Hilum report", lambda d: drop(d, "111028")),
    "no priority": ("Hilum report", lambda d: without_evaluations(d, "260870009")),
    "no impression": ("Hilum report", lambda d: without_evaluations(d, "121073")),
    "no runs": ("Hilum report", lambda d: without_evaluations(d, "MODELRUN")),
    "one run too few": ("AIR 6.5.3.1", lambda d: d.ContentSequence[-1].ContentSequence.pop(2)),
    "a failed run, and all succeeded": ("PS3.16 CID 6047", failed_run),
    "failed runs, and all succeeded": (
        "PS3.16 CID 6047 | Hilum states", lambda d: (failed_run(d), failed_run(d, "chest_findings"))),
    "runs that succeeded, and none did": ("PS3.16 CID 6047", lambda d: reworded(
        d, "111017", "111245", "DCM", "No algorithms succeeded; without findings")),
    "runs that succeeded, and some did": ("PS3.16 CID 6047", lambda d: reworded(
        d, "111017", "111244", "DCM", "Not all algorithms succeeded; with findings")),
    "a run that failed for no reason": ("PS3.16 CID 6047 | Hilum report", lambda d: setattr(
        evaluation(d, "MODELRUN"), "ConceptCodeSequence", [private("FAILED", "Analysis failed")])),
    "a run with another outcome": ("Hilum report", lambda d: setattr(
        evaluation(d, "MODELRUN"), "ConceptCodeSequence", [private("ROUTINE", "Read in its turn")])),
    "a precision that nobody has": ("Hilum identity", lambda d: precise(d, "int3")),
    "a precision that goes without saying": ("Hilum identity", lambda d: precise(d, "float32")),
    "a run in two precisions": ("Hilum identity", lambda d: (precise(d, "int8"), precise(d, "bfloat16"))),
    "a ratio that its diameters do not give": (
        "Hilum report", lambda d: number(d, "cardiothoracic_ratio", "CTR", "0.6")),
    "a diameter that the ratio does not give": ("Hilum report", lambda d: number(d, LENGTH, "81827009", "200")),
    "a ratio of other lines": ("Hilum report", other_lines),
    "no opinion, and a finding": (
        "Hilum report", lambda d: priority(d, "NOPRIORITY", "99HILUM", "No opinion")),
    "read in its turn, and an opacity": (
        "Hilum report", lambda d: priority(d, "ROUTINE", "99HILUM", "Read in its turn")),
    "critical, and an opacity": (
        "Hilum report", lambda d: priority(d, "RID49480", "RADLEX", "ACR Category 1 Actionable Finding")),
    "present, and a reason why not": ("Hilum states", lambda d: reason_why_not(d, "lung_opacity")),
    "absent, and a reason why not": ("Hilum states", lambda d: reason_why_not(d, "effusion")),
    "undetermined, and a reason why not": ("Hilum states", lambda d: reason_why_not(d, "edema")),
    "evaluated without threshold": ("Hilum states", lambda d: drop(group_of(d, "effusion"), "THRESHOLD")),
    "evaluated with two certainties": ("Hilum states", second_certainty),
    "boxes on the other side": ("Hilum report", boxes_on_the_right),
    "a box that is not closed": ("Hilum report", lambda d: reshaped(d, [9.0, 9.0, 50.0, 9.0, 50.0, 60.0, 9.0, 60.0])),
    "a box without area": ("Hilum report", lambda d: reshaped(d, [9.0, 9.0] * 5)),
    "a box askew": (
        "Hilum report", lambda d: reshaped(d, [9.0, 9.0, 50.0, 19.0, 50.0, 60.0, 9.0, 50.0, 9.0, 9.0])),
    "an effusion of the heart": ("Hilum codes", lambda d: other_site(d, "effusion")),
    "a box around an opacity of the heart": ("Hilum codes", lambda d: other_site(d, RECTANGLE)),
    "a finding without site": ("Hilum codes", lambda d: drop(group_of(d, "effusion"), "363698007")),
    "an impression of another side": ("Hilum words", lambda d: said(d, "on the left: likely", "on the right: likely")),
    "an impression of another probability": ("Hilum words", lambda d: said(d, "(87 %)", "(78 %)")),
    "an impression that says more": (
        "Hilum words", lambda d: said(d, "AI result", "No pneumothorax. AI result")),
    "a finding that the impression counts is missing": ("Hilum words", lambda d: without_group(d, "effusion")),
    "a lung on the other side": (
        "PS3.16 CID 244", lambda d: other_side(d, "lung_right", coded("7771000", "SCT", "Left"))),
    "a heart on a side": ("PS3.16 CID 244", lambda d: other_side(d, "heart", coded("7771000", "SCT", "Left"))),
    # units and codes
    "a certainty of 0.87": ("Hilum units", lambda d: unit(find(d, "111012"), "1", "no units")),
    "a threshold of 0.6": ("Hilum units", lambda d: unit(find(d, "THRESHOLD"), "1", "no units")),
    "a diameter in %": ("Hilum units", lambda d: unit(find(d, "81827009"), "%", "Percent")),
    "a unit that nobody has": ("Hilum units", lambda d: unit(find(d, "42798000"), "blobs2", "square blobs")),
    "a unit that is not written as one": (
        "UCUM 2.1 | Hilum units", lambda d: unit(find(d, "42798000"), "square mm", "square mm")),
    "a negative area": ("PS3.16 CID 7471 | Hilum units", lambda d: setattr(
        measured(find(d, "42798000")), "NumericValue", "-4")),
    "a negative ratio": ("Hilum units", lambda d: setattr(measured(find(d, "CTR")), "NumericValue", "-0.5")),
    "a private code with another meaning": ("PS3.3 8.3", lambda d: setattr(
        private_code(d), "CodeMeaning", "Width of the heart")),
    "a code of RadLex with another meaning": ("PS3.3 8.3", lambda d: setattr(
        evaluation(d, "260870009").ConceptCodeSequence[0], "CodeMeaning", "ACR Category 3 Actionable Finding")),
    "a private code that we do not have": ("Hilum codes", lambda d: setattr(
        evaluation(d, "CAUTION").ConceptCodeSequence[0], "CodeValue", "FULLMOON")),
    # references of one item to another
    "an item inferred from itself": (
        "PS3.3 A.35.13.3.1.2", lambda d: infer(d, positions_of(d, "NUM")[2], positions_of(d, "NUM")[2])),
    "an item inferred from what holds it": (
        "PS3.3 A.35.13.3.1.2", lambda d: infer(d, positions_of(d, "NUM")[2], positions_of(d, "NUM")[2][:-1])),
    "two items inferred from each other": ("PS3.3 A.35.13.3.1.2", looping),
    # codes
    "a SNOMED CT code that was invented": (
        "SNOMED CT identifier", lambda d: setattr(code_item(d), "CodeValue", "39607009")),
    "a SNOMED CT code that is too short": (
        "SNOMED CT identifier", lambda d: setattr(code_item(d), "CodeValue", "39607")),
    "a SNOMED CT description": (
        "SNOMED CT identifier", lambda d: setattr(code_item(d), "CodeValue", "900000000000013")),
    "a retired designator": (
        "PS3.16 8.1.1 | PS3.3 C.12.1", lambda d: setattr(code_item(d), "CodingSchemeDesignator", "SRT")),
    "a code of 17 characters": (
        "PS3.3 8.8 | PS3.5 6.2 | Hilum codes | Hilum report",
        lambda d: unchecked(private_code(d), "CodeValue", "A" * 17)),
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
    "an operator of the equipment": ("AIR 6.5.3.1", lambda d: setattr(
        d.ContributingEquipmentSequence[0], "OperatorsName", "Doe^Jane")),
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
    "frames of one segment alone": ("SEG", "Hilum identity", one_segment),
    "a frame too many": ("SEG", "PS3.3 C.7.6.16", lambda d: setattr(d, "NumberOfFrames", 7)),
    "a source that is not listed": ("SEG", "PS3.3 C.12.2", unlisted_series),
    "a creator of the segments": ("SEG", "AIR 6.5.3.1", lambda d: setattr(d, "ContentCreatorName", "Doe^Jane")),
    "text titled as a measurement report": ("TEXT", "PS3.16 TID 2000 row 1", lambda d: setattr(
        d, "ConceptNameCodeSequence", [coded("126000", "DCM", "Imaging Measurement Report")])),
    "a spleen that is a lung": ("SEG", "Hilum identity", lambda d: setattr(segment(d), "SegmentLabel", "Spleen")),
    "a heart coded as a lung": ("SEG", "Hilum codes", lambda d: setattr(
        segment(d, 2), "SegmentedPropertyTypeCodeSequence", [coded("39607008", "SCT", "Lung")])),
    "an outline of nothing that we find": (
        "SEG", "Hilum identity", lambda d: setattr(segment(d, 2), "TrackingID", "spleen")),
    "text without language": ("TEXT", "PS3.16 TID 2000 row 3", lambda d: drop(d, "121049")),
    "an empty section": ("TEXT", "PS3.16 TID 2000 row 8", hidden_in_a_section),
    "a title that is none": ("TEXT", "PS3.16 CID 7000", lambda d: setattr(
        d, "ConceptNameCodeSequence", [coded("121070", "DCM", "Findings")])),
    "text without impression": ("TEXT", "Hilum report", lambda d: drop(d, "19005-8")),
    "text without findings": ("TEXT", "Hilum report", lambda d: drop(d, "59776-5")),
    "a line that viewers list as positive": ("TEXT", "Hilum states", lambda d: every(
        d, "59776-5", lambda i: i.ValueType == "TEXT" and setattr(
            i, "ConceptNameCodeSequence", [coded("121071", "DCM", "Finding")]))),
    "text without sections": ("TEXT", "PS3.16 TID 2000 row 6 | Hilum report", lambda d: setattr(
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

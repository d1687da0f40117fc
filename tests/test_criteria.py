"""The criteria of a derived finding, from the models through every result and back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from broken_results import coded, find, group_of, measured, move, name_of, nodes, set_value
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from rich.console import Console
from shipped_criteria import IDENTITY, derive
from test_measurement_report import CREATED, file_bytes, findings_for, source, states

from dicom_sr import codes
from dicom_sr.conformance.check import check, check_together
from dicom_sr.evidence import evidence
from dicom_sr.reader import read_result
from dicom_sr.report.wording import LANGUAGES, load_wording
from dicom_sr.results import encode_results
from dicom_sr.text_report import encode_text_report
from models.appearance import CLASSES
from models.findings import BoolMask, FindingState, ImageFindings, Laterality, ModelRun, Priority, Region
from models.opacities import lung_fields
from models.study import StudyFindings
from models.triage import prioritise
from orthanc_plugin.commands.show import show_objects

PRESENT, UNDETERMINED, ABSENT, NOT_EVALUATED = FindingState
LOW_RIGHT, LOW_LEFT = Region(40, 190, 20, 40, 0.61, Laterality.RIGHT), Region(205, 190, 20, 40, 0.87, Laterality.LEFT)


def appearing(ds: Dataset, *boxes: Region, mask: BoolMask | None = None, **changed: FindingState) -> ImageFindings:
    """Findings of an image with these opacities, and the appearance that is derived from them."""
    plain = findings_for(ds)
    known = {finding.key: finding for finding in plain.findings}
    sides = {box.laterality for box in boxes}
    side = Laterality.BILATERAL if len(sides) > 1 else next(iter(sides), None)
    known["lung_opacity"] = replace(known["lung_opacity"], laterality=side, regions=boxes)
    if not boxes:
        known["lung_opacity"] = replace(known["lung_opacity"], state=ABSENT, probability=0.12)
    probability = {PRESENT: 0.9, UNDETERMINED: 0.45, ABSENT: 0.1}
    for key, state in {"edema": ABSENT, **changed}.items():
        known[key] = replace(known["effusion"], key=key, state=state, probability=probability[state])
    found = derive(known.values(), lung_fields(plain.segments), mask)
    everything = (*known.values(), *found.findings(IDENTITY.name))
    runs = (*plain.runs, ModelRun(IDENTITY))
    return prioritise(replace(plain, findings=everything, runs=runs, criteria=found.criteria))


def report_of(findings: ImageFindings, ds: Dataset) -> Dataset:
    """The measurement report, as it is read from its file."""
    return dcmread(BytesIO(file_bytes(encode_results(ds, findings, CREATED).measurement_report)))


CASES: dict[str, dict[str, FindingState]] = {
    "typical": {},
    "typical or atypical": {"edema": UNDETERMINED},
    "atypical": {"effusion": PRESENT},
    "consolidation that is no lobe": {"consolidation": PRESENT},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("boxes", [(LOW_RIGHT, LOW_LEFT), (LOW_LEFT,), ()], ids=["both lungs", "one lung", "none"])
def test_every_criterion_comes_back_and_every_checker_accepts_it(
    case: str, boxes: tuple[Region, ...], tmp_path: Path
) -> None:
    ds = source()
    findings = appearing(ds, *boxes, **CASES[case])
    report = report_of(findings, ds)
    read = read_result(report)
    assert read.criteria == findings.criteria
    assert len(read.criteria) == len(codes.CRITERIA)
    assert read.findings == findings.findings
    path = tmp_path / "sr.dcm"
    path.write_bytes(file_bytes(report))
    assert check(report) == []
    verified = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, errors="replace")
    assert not [line for line in verified.stderr.splitlines() if line.startswith("Error")], verified.stderr
    dumped = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, check=True).stdout
    assert dumped.count("Criterion: ") == len(codes.CRITERIA)


@settings(max_examples=12, deadline=None)
@given(
    changed=st.dictionaries(
        st.sampled_from(["effusion", "nodule", "mass", "lung_lesion", "consolidation", "infiltration", "pneumonia"]),
        st.sampled_from([PRESENT, UNDETERMINED, ABSENT]),
    ),
    boxes=st.sets(st.sampled_from([LOW_RIGHT, LOW_LEFT, replace(LOW_RIGHT, y=60), replace(LOW_LEFT, x=160.5)])),
    outlined=st.booleans(),
)
def test_whatever_is_derived_is_read_back_and_does_not_contradict_itself(
    changed: dict[str, FindingState], boxes: set[Region], outlined: bool
) -> None:
    ds = source()
    mask = np.zeros((300, 260), np.bool_)
    for box in boxes if outlined else ():
        mask[int(box.y) : int(box.y + 20), int(box.x) : int(box.x + 20)] = True
    findings = appearing(ds, *sorted(boxes, key=lambda b: b.x), mask=mask if mask.any() else None, **changed)
    report = report_of(findings, ds)
    assert read_result(report).criteria == findings.criteria
    assert check(report) == []


def test_criteria_are_no_findings_of_their_own() -> None:
    ds = source()
    found = states(report_of(appearing(ds, LOW_RIGHT, LOW_LEFT), ds))
    assert {key: state for key, state in found.items() if key in CLASSES} == {
        "covid_typical": "Present",
        "covid_indeterminate": "Absent",
        "covid_atypical": "Not evaluated",
        "covid_negative": "Absent",
    }
    assert found.keys() == {f.key for f in appearing(ds, LOW_RIGHT, LOW_LEFT).findings}
    outcomes = {(code.value, code.scheme_designator) for code in codes.OUTCOMES.values()}
    assert not outcomes & {(code.value, code.scheme_designator) for code in codes.STATES.values()}


def test_a_withdrawn_result_has_no_criteria() -> None:
    ds = source()
    findings = appearing(ds, LOW_RIGHT, LOW_LEFT)
    gone = findings.withdraw("age")
    assert findings.criteria
    assert not gone.criteria
    assert check(report_of(gone, ds)) == []


# What the checker finds


def criterion(ds: Dataset, key: str) -> Dataset:
    return find(ds, codes.CRITERIA[key].value, "CODE")


def unknown(ds: Dataset) -> None:
    criterion(ds, "peripheral").ConceptNameCodeSequence = [coded("FINDING", "99HILUM", "Something else")]


def twice(ds: Dataset) -> None:
    state = next(p for p, i in nodes(ds) if i is criterion(ds, "peripheral"))
    state.ContentSequence = [*state.ContentSequence, deepcopy(criterion(ds, "peripheral"))]


def other_outcome(ds: Dataset) -> None:
    set_value(criterion(ds, "peripheral"), "52101004", "SCT", "Present")


def contradicted(ds: Dataset) -> None:
    set_value(criterion(ds, "peripheral"), "CRITNOTMET", "99HILUM", "Criterion not met")


def smaller(ds: Dataset) -> None:
    measured(find(criterion(ds, "multifocal"), codes.CRITERION_VALUE.value)).NumericValue = "1"


def other_unit(ds: Dataset) -> None:
    limit = find(criterion(ds, "multifocal"), "ATLEAST")
    measured(limit).MeasurementUnitsCodeSequence = [coded("{lungs}", "UCUM", "lungs")]


def unheard_unit(ds: Dataset) -> None:
    for item in criterion(ds, "multifocal").ContentSequence:
        measured(item).MeasurementUnitsCodeSequence = [coded("mm", "UCUM", "millimeter")]


def two_thresholds(ds: Dataset) -> None:
    item = criterion(ds, "multifocal")
    item.ContentSequence = [*item.ContentSequence, deepcopy(find(item, "ATLEAST"))]


def reasonless(ds: Dataset) -> None:
    item = criterion(ds, "cavity")
    item.ContentSequence = [i for i in item.ContentSequence if name_of(i) != "REASON"]


def none_met(ds: Dataset) -> None:
    state = next(p for p, i in nodes(ds) if i is criterion(ds, "peripheral"))
    state.ContentSequence = [i for i in state.ContentSequence if i.ConceptCodeSequence[0].CodeValue != "CRITMET"]


def with_certainty(ds: Dataset) -> None:
    group = group_of(ds, "covid_typical")
    group.ContentSequence = [*group.ContentSequence, deepcopy(find(group_of(ds, "lung_opacity"), "111012"))]


def without_criteria(ds: Dataset) -> None:
    del next(p for p, i in nodes(ds) if i is criterion(ds, "peripheral")).ContentSequence


def wrong_way(ds: Dataset) -> None:
    move(ds, codes.CRITERIA["peripheral"].value, "SELECTED FROM")


BROKEN: list[tuple[Callable[[Dataset], None], str, str]] = [
    (unknown, "Hilum criteria", "no criterion of ours"),
    (twice, "Hilum criteria", "there twice"),
    (other_outcome, "Hilum criteria", "not what can become of a criterion"),
    (contradicted, "Hilum criteria", "contradicts a value of 1 where >= 0.5 is asked for"),
    (smaller, "Hilum criteria", "contradicts a value of 1 where >= 2 is asked for"),
    (other_unit, "Hilum criteria", "with a threshold in {lungs}"),
    (unheard_unit, "Hilum units", "in "),
    (two_thresholds, "Hilum criteria", "two thresholds"),
    (reasonless, "Hilum criteria", "no reason given"),
    (none_met, "Hilum criteria", "none of its criteria is met"),
    (with_certainty, "Hilum states", "a certainty without evaluation or beside criteria"),
    (without_criteria, "Hilum states", "evaluated without certainty and criteria"),
    (wrong_way, "PS3.3", "SELECTED FROM"),
]


@pytest.mark.parametrize(("change", "rule", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_the_checker_names_what_is_wrong_with_a_criterion(
    change: Callable[[Dataset], None], rule: str, words: str
) -> None:
    ds = source()
    report = report_of(appearing(ds, LOW_RIGHT, LOW_LEFT), ds)
    change(report)
    found = check(report)
    assert [v for v in found if v.rule.startswith(rule) and words in str(v)], found


def test_a_priority_that_only_a_derived_finding_would_give_is_wrong() -> None:
    ds = source()
    findings = appearing(ds, nodule=PRESENT)
    report = report_of(findings, ds)
    assert "covid_atypical" in {finding.key for finding in findings.present}
    assert check(report) == []
    raised = report_of(replace(findings, priority=Priority.URGENT), ds)
    assert "the priority is urgent, the findings make it routine" in str(check(raised))


# What people read


def test_a_person_is_shown_every_criterion_with_its_numbers() -> None:
    ds = source()
    made = encode_results(ds, appearing(ds, LOW_RIGHT, LOW_LEFT, edema=UNDETERMINED), CREATED)
    out = StringIO()
    show_objects([made.measurement_report], Console(file=out, width=140))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    for expected in (
        "Peripheral COVID-19: typical met 1 >= 0.5",
        "Unilateral COVID-19: indeterminate not met 2 <= 1",
        "Edema COVID-19: atypical undetermined 45 % >= 50 %",
        "No opacity COVID-19: negative not met 87 % < 60 %",
        "Cavity COVID-19: atypical not evaluated no model",
    ):
        assert expected in lines, expected
    assert sum(" COVID-19: " in line for line in lines) == len(codes.CRITERIA)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_preliminary_report_is_borne_out_by_the_measurement_report(language: str) -> None:
    ds = source()
    findings = appearing(ds, LOW_RIGHT, LOW_LEFT)
    made = encode_results(ds, findings, CREATED)
    study = StudyFindings(findings.study_instance_uid, (findings,))
    wording = load_wording(language)
    text = encode_text_report([evidence(ds, findings)], study, [made.measurement_report], CREATED, wording=wording)
    assert check_together([made.measurement_report, text]) == []
    said = [item for _, item in nodes(text) if item.ValueType == "TEXT"]
    assert any(wording["confidence.derived"] in item.TextValue for item in said)
    met, *_ = (item for item in said if wording["criteria.names.peripheral"] in item.TextValue)
    met.TextValue = met.TextValue.replace("(2; ", "(3; ", 1)
    assert {v.rule for v in check_together([made.measurement_report, text])} == {"Hilum words"}

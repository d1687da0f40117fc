"""The machine-readable result: a Comprehensive 3D SR after TID 1500 (PS3.16), one for each image.

The rule: present, absent, undetermined, not evaluated and failed are five different things, and each finding that the
models know is in the report with one of them. A negative finding never appears as a (121071, DCM, Finding) item, for
viewers list those as positives.

Image-level results stand in the Qualitative Evaluations container, each with its probability and threshold below it:
a measurement group without coordinates would blank the viewport of OHIF. Groups are kept for boxes.
"""

from __future__ import annotations

from datetime import datetime

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.content import (
    CONTAINS,
    HAS_ACQ_CONTEXT,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    HAS_PROPERTIES,
    INFERRED_FROM,
    box,
    code,
    container,
    image,
    number,
    text,
    uid,
)
from dicom_sr.equipment import contributing_equipment, equipment_version, freeze_times, series_description
from dicom_sr.identity import device_uid, result_uids, tracking_uid
from dicom_sr.ownership import MANUFACTURER
from models.findings import Finding, FindingState, ImageFindings, Laterality, ModelIdentity, Priority, Region, View

SERIES_NUMBER = 9001
DISCLAIMER = "AI result, not verified. Research software, not a medical device."

# OHIF turns a group into a locked, labelled box when its tracking identifier names the tool that draws it.
_OHIF_BOX = "Cornerstone3DTools@^0.1.0:RectangleROI"
_VIEWS = {
    View.PA: Code("272479007", "SCT", "postero-anterior"),
    View.AP: Code("399348003", "SCT", "antero-posterior"),
    View.FRONTAL: Code("399033003", "SCT", "frontal"),
}


def encode_measurement_report(
    evidence: Dataset, findings: ImageFindings, segmentation: Dataset | None, created: datetime
) -> Dataset:
    """Encode what the models say about one image.

    Parameters
    ----------
    evidence
        From ``dicom_sr.evidence``.
    segmentation
        The Segmentation of the same run, to be referred to; None when there is none.
    created
        Becomes every date and time of the object.
    """
    uids = result_uids(findings)
    report = hd.sr.Comprehensive3DSR(
        evidence=[evidence, *([segmentation] if segmentation is not None else [])],
        content=_root(evidence, findings, segmentation),
        series_instance_uid=uids.measurement_report_series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.measurement_report,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SeriesDescription = series_description(findings, "findings")
    report.ManufacturerModelName = "Hilum"
    report.SoftwareVersions = equipment_version(findings)
    report.DeviceSerialNumber = "1"
    report.ContributingEquipmentSequence = contributing_equipment(findings, created)
    if "StudyDescription" in evidence:
        report.StudyDescription = evidence.StudyDescription
    freeze_times(report, created)
    encoded: Dataset = report
    return encoded


def impression(findings: ImageFindings) -> str:
    """The result in a few sentences: what was found, what was not evaluated, and what this is."""
    sentences = []
    if all(run.failure for run in findings.runs):
        sentences.append("The analysis failed; nothing was evaluated.")
    else:
        found = [_in_words(f) for f in findings.present]
        grey = [_in_words(f) for f in findings.findings if f.state is FindingState.UNDETERMINED]
        sentences.append(f"Found: {', '.join(found)}." if found else "None of the evaluated findings was found.")
        if grey:
            sentences.append(f"Undetermined: {', '.join(grey)}.")
    for m in findings.measurements:
        caution = " (to be read with care)" if m.caution else ""
        sentences.append(f"{m.key.replace('_', ' ').capitalize()}: {m.value:.2f}{caution}.")
    unseen = [_name(f) for f in findings.findings if f.state is FindingState.NOT_EVALUATED]
    if unseen:
        sentences.append(f"Not evaluated: {', '.join(unseen)}.")
    return " ".join([*sentences, DISCLAIMER])


def _root(evidence: Dataset, findings: ImageFindings, segmentation: Dataset | None) -> Dataset:
    """TID 1500, in the order of its rows."""
    groups = [
        _box_group(evidence, findings, finding, region, ordinal)
        for finding in findings.findings
        for ordinal, region in enumerate(finding.regions)
    ]
    return container(
        None,
        codes.IMAGING_MEASUREMENT_REPORT,
        [
            code(HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH),
            *_observer(findings),
            code(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, codes.PLAIN_CHEST_RADIOGRAPHY),
            _image_library(evidence, findings),
            container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups),
            container(CONTAINS, codes.QUALITATIVE_EVALUATIONS, _evaluations(findings, segmentation)),
        ],
        template="1500",
    )


def _observer(findings: ImageFindings) -> list[Dataset]:
    """TID 1001 with TID 1004: the device is the first model; every model is named with its results."""
    items = [code(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE)]
    if findings.runs:
        items.append(uid(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_UID, device_uid(findings.runs[0].model)))
    return [
        *items,
        text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_NAME, "Hilum"),
        text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MANUFACTURER, MANUFACTURER),
        text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MODEL_NAME, "+".join(r.model.name for r in findings.runs)),
    ]


def _image_library(evidence: Dataset, findings: ImageFindings) -> Dataset:
    """TID 1600, with the view that was read."""
    modality = {"CR": "Computed Radiography", "DX": "Digital Radiography"}.get(evidence.Modality)
    group = [image(CONTAINS, codes.SOURCE_IMAGE, evidence)]
    described = [code(HAS_ACQ_CONTEXT, codes.IMAGE_VIEW, _VIEWS[findings.view])]
    if modality:
        described.insert(0, code(HAS_ACQ_CONTEXT, codes.MODALITY, Code(evidence.Modality, "DCM", modality)))
    group[0].ContentSequence = described
    return container(CONTAINS, codes.IMAGE_LIBRARY, [container(CONTAINS, codes.IMAGE_LIBRARY_GROUP, group)])


def _box_group(evidence: Dataset, findings: ImageFindings, finding: Finding, region: Region, ordinal: int) -> Dataset:
    """TID 1501 for one box, as OHIF shows it: the certainty is inferred from the region."""
    corners = (region.x, region.y, region.x + region.width, region.y + region.height)
    place = box(INFERRED_FROM, codes.IMAGE_REGION, corners, evidence)
    return container(
        CONTAINS,
        codes.MEASUREMENT_GROUP,
        [
            text(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, _OHIF_BOX),
            uid(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, tracking_uid(findings, finding.key, ordinal)),
            code(CONTAINS, codes.FINDING, codes.finding_codes(finding.key).finding),
            *_site(finding.key, region.laterality),
            *_algorithm(_model_of(finding, findings)),
            number(CONTAINS, codes.CERTAINTY, 100 * region.score, codes.PERCENT, [place]),
            text(CONTAINS, codes.COMMENT, f"{_name(finding)} {100 * region.score:.0f} %"),
        ],
        template="1501",
    )


def _evaluations(findings: ImageFindings, segmentation: Dataset | None) -> list[Dataset]:
    """Everything that holds for the image as a whole."""
    answered = [run for run in findings.runs if not run.failure]
    summary = codes.RUN_SUMMARIES[len(answered) == len(findings.runs), bool(findings.present)]
    items = [code(CONTAINS, codes.RUN_SUMMARY, summary if answered else codes.NO_ALGORITHM_SUCCEEDED)]
    if findings.priority is not Priority.NONE:
        reason = [text(HAS_PROPERTIES, codes.REASON, findings.priority_reason)] if findings.priority_reason else []
        items.append(code(CONTAINS, codes.PRIORITY, codes.PRIORITIES[findings.priority], reason))
    items.extend(_state(finding, findings) for finding in findings.findings)
    for m in findings.measurements:
        caution = [text(HAS_PROPERTIES, codes.CAUTION, m.caution)] if m.caution else []
        items.append(number(CONTAINS, codes.MEASUREMENTS[m.key], m.value, codes.NO_UNITS, caution))
    items.extend(text(CONTAINS, codes.CAUTION, caution) for caution in findings.cautions)
    items.append(text(CONTAINS, codes.IMPRESSION, impression(findings)))
    if segmentation is not None:
        items.append(image(CONTAINS, codes.REFERENCED_SEGMENT, segmentation))
    return items


def _state(finding: Finding, findings: ImageFindings) -> Dataset:
    """One finding: its name, its state, and below it how sure, from when on, where and by whom."""
    failed = finding.reason == "model_failed"
    value = codes.FAILED if failed else codes.STATES[finding.state]
    below = []
    if finding.probability is not None:
        below.append(number(HAS_PROPERTIES, codes.CERTAINTY, 100 * finding.probability, codes.PERCENT))
    if finding.threshold is not None:
        below.append(number(HAS_PROPERTIES, codes.THRESHOLD, 100 * finding.threshold, codes.PERCENT))
    if finding.reason is not None:
        below.append(text(HAS_PROPERTIES, codes.REASON, finding.reason))
    below.extend(_site(finding.key, finding.laterality))
    below.extend(_algorithm(_model_of(finding, findings)))
    return code(CONTAINS, codes.finding_codes(finding.key).finding, value, below)


def _site(key: str, laterality: Laterality | None) -> list[Dataset]:
    """Finding Site, with the side when the model gave one."""
    coded = codes.finding_codes(key)
    side = [code(HAS_CONCEPT_MOD, codes.LATERALITY, codes.SIDES[laterality])] if laterality and coded.paired else []
    return [code(HAS_CONCEPT_MOD, codes.FINDING_SITE, coded.site, side)]


def _algorithm(model: ModelIdentity | None) -> list[Dataset]:
    """TID 4019; the digests say exactly which weights and which contract."""
    if model is None:
        return []
    return [
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_NAME, model.name),
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_VERSION, model.version),
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, f"weights sha256:{model.weights_digest}"),
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, f"config sha256:{model.config_digest}"),
    ]


def _model_of(finding: Finding, findings: ImageFindings) -> ModelIdentity | None:
    return next((run.model for run in findings.runs if run.model.name == finding.model), None)


def _name(finding: Finding) -> str:
    return finding.key.replace("_", " ").capitalize()


def _in_words(finding: Finding) -> str:
    words = f"{_name(finding).lower()} {100 * (finding.probability or 0):.0f} %"
    return f"{words} ({finding.laterality.value})" if finding.laterality else words

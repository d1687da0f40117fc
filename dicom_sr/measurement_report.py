"""The machine-readable result: a Comprehensive 3D SR after TID 1500 (PS3.16), one for each image.

The rule: present, absent, undetermined, not evaluated and failed are five different things, and each finding that the
models know is in the report with one of them.

Findings, boxes and measurements are measurement groups (``dicom_sr.measurement_groups``). What holds for the run as a
whole stands in the Qualitative Evaluations container: its status, the priority and why, the models, the cautions, the
impression.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from dicom_sr import codes, identity
from dicom_sr.content import (
    CONTAINS,
    HAS_ACQ_CONTEXT,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    HAS_PROPERTIES,
    code,
    container,
    image,
    number,
    text,
    uid,
)
from dicom_sr.document import document
from dicom_sr.equipment import complete
from dicom_sr.measurement_groups import algorithm_items, measurement_groups
from dicom_sr.ownership import MANUFACTURER
from dicom_sr.parameters import parameters
from dicom_sr.predecessor import latest
from dicom_sr.references import Reference
from dicom_sr.report.sentences import impression_text
from dicom_sr.report.wording import Wording, load_wording
from models.findings import OF_ABSENCE, ImageFindings, ModelRun, View

SERIES_NUMBER = 9001

VIEWS = {
    View.PA: Code("272479007", "SCT", "postero-anterior"),
    View.AP: Code("399348003", "SCT", "antero-posterior"),
    View.FRONTAL: Code("399033003", "SCT", "frontal"),
}


def encode_measurement_report(
    evidence: Dataset,
    findings: ImageFindings,
    segmentation: Dataset | None,
    created: datetime,
    *,
    number: int = 1,
    predecessors: Sequence[Reference] = (),
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
    number
        Instance Number.
    predecessors
        The report on the same image that this one replaces, then those that it replaced.
    """
    uids = identity.image_result(findings, "SR", latest(predecessors))
    report = document(
        [evidence, *([segmentation] if segmentation is not None else [])],
        uids,
        _root(evidence, findings, segmentation),
        sop_class_uid=Comprehensive3DSRStorage,
        series_number=SERIES_NUMBER,
        number=number,
        predecessors=predecessors,
    )
    return complete(report, evidence, findings, created, "findings")


def observer_items(findings: ImageFindings) -> list[Dataset]:
    """TID 1001 with TID 1004: one device observer for each model that was asked."""
    return [
        item
        for run in findings.runs
        for item in (
            code(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE),
            uid(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_UID, identity.device_uid(run)),
            text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_NAME, "Hilum"),
            text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MANUFACTURER, MANUFACTURER),
            text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MODEL_NAME, run.model.name),
        )
    ]


def _root(evidence: Dataset, findings: ImageFindings, segmentation: Dataset | None) -> Dataset:
    """TID 1500, in the order of its rows."""
    return container(
        None,
        codes.IMAGING_MEASUREMENT_REPORT,
        [
            code(HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH),
            *observer_items(findings),
            code(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, codes.PLAIN_CHEST_RADIOGRAPHY),
            _image_library(evidence, findings),
            container(CONTAINS, codes.IMAGING_MEASUREMENTS, measurement_groups(evidence, findings, segmentation)),
            container(CONTAINS, codes.QUALITATIVE_EVALUATIONS, _evaluations(findings)),
        ],
        template="1500",
    )


def _image_library(evidence: Dataset, findings: ImageFindings) -> Dataset:
    """TID 1600, with the view that was read and the size of the pixel matrix, to which all coordinates refer."""
    modality = {"CR": "Computed Radiography", "DX": "Digital Radiography"}.get(evidence.Modality)
    source = image(CONTAINS, codes.SOURCE_IMAGE, evidence)
    source.ContentSequence = [
        *([code(HAS_ACQ_CONTEXT, codes.MODALITY, Code(evidence.Modality, "DCM", modality))] if modality else []),
        code(HAS_ACQ_CONTEXT, codes.IMAGE_VIEW, VIEWS[findings.view]),
        number(HAS_ACQ_CONTEXT, codes.PIXEL_DATA_ROWS, findings.rows, codes.PIXELS),
        number(HAS_ACQ_CONTEXT, codes.PIXEL_DATA_COLUMNS, findings.columns, codes.PIXELS),
    ]
    return container(CONTAINS, codes.IMAGE_LIBRARY, [container(CONTAINS, codes.IMAGE_LIBRARY_GROUP, [source])])


def _evaluations(findings: ImageFindings) -> list[Dataset]:
    """What holds for the run as a whole."""
    answered = [run for run in findings.runs if not run.failure]
    found = any(finding.key not in OF_ABSENCE for finding in findings.present)
    summary = codes.RUN_SUMMARIES[len(answered) == len(findings.runs), found]
    items = [code(CONTAINS, codes.RUN_SUMMARY, summary if answered else codes.NO_ALGORITHM_SUCCEEDED)]
    reason = [text(HAS_PROPERTIES, codes.REASON, findings.priority_reason)] if findings.priority_reason else []
    items.append(code(CONTAINS, codes.PRIORITY, codes.PRIORITIES[findings.priority], reason))
    items.extend(_run(run) for run in findings.runs)
    items.extend([text(CONTAINS, codes.ROUTE, findings.route)] if findings.route else [])
    items.extend(code(CONTAINS, codes.CAUTION, codes.CAUTIONS[caution]) for caution in findings.cautions)
    items.append(text(CONTAINS, codes.IMPRESSION, impression_text(findings, _english())))
    return items


def _run(run: ModelRun) -> Dataset:
    """One model that was asked: whether it answered, and exactly which it was."""
    return code(
        CONTAINS,
        codes.MODEL_RUN,
        codes.FAILED if run.failure else codes.SUCCEEDED,
        [
            *([code(HAS_PROPERTIES, codes.REASON, codes.REASONS[run.failure])] if run.failure else []),
            *algorithm_items(run.model),
            *(text(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, one) for one in parameters(run)),
        ],
    )


@cache
def _english() -> Wording:
    return load_wording("en")

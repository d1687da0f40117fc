"""The measurement groups of the report: boxes, diameters, findings and outlined structures (TID 1501, TID 1410).

The rule: what has coordinates comes first, for viewers open a report at its first group. A finding has a
(121071, DCM, Finding) item only where it is present, for viewers list that item as a positive. The state of a derived
finding is inferred from its criteria (PS3.3 C.17.3.2.4, INFERRED FROM), and each of these from a number.
"""

from __future__ import annotations

from math import hypot

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    HAS_PROPERTIES,
    INFERRED_FROM,
    code,
    container,
    image,
    number,
    polyline,
    text,
    uid,
)
from dicom_sr.identity import tracking_uid
from models.findings import (
    Criterion,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Line,
    Measurement,
    ModelIdentity,
    Region,
    SegmentMask,
    percent,
)
from models.names import in_words

# Viewers built on Cornerstone turn a group into a locked, labelled drawing when its tracking identifier names the tool.
BOX = "Cornerstone3DTools@^0.1.0:RectangleROI"
LINE = "Cornerstone3DTools@^0.1.0:Length"
# The lines of a measurement, in their order: what they measure and where.
DIAMETERS = {"cardiothoracic_ratio": (("Cardiac diameter", codes.HEART), ("Thoracic diameter", codes.CHEST))}

# How long a side of a radiograph can be, in mm: detectors measure 130 to 430, stitched pictures up to 1200, and what is
# cut to the lungs of a small child has 50 left. 430 mm whose spacing is written in centimetres come to less.
_SMALLEST, _LARGEST = 50.0, 1500.0


def measurement_groups(evidence: Dataset, findings: ImageFindings, segmentation: Dataset | None) -> list[Dataset]:
    """Every group of the report, in the order in which viewers had best meet them."""
    outlines = {} if segmentation is None else _outlines(evidence, findings, segmentation)
    known = {finding.key for finding in findings.findings}
    return [
        *(_box(evidence, findings, f, r, n) for f in findings.findings for n, r in enumerate(f.regions)),
        *(_diameter(evidence, findings, m, n) for m in findings.measurements for n in range(len(m.lines))),
        *(_measurement(evidence, findings, m) for m in findings.measurements),
        *(_finding(evidence, findings, f, outlines.get(f.key)) for f in findings.findings),
        *(_structure(findings, s, outlines[s.key]) for s in findings.segments if s.key not in known),
    ]


def label(finding: Finding, probability: float | None) -> str:
    """What stands beside a box: ``Lung opacity 87 %``."""
    name = in_words(finding.key)
    return name if probability is None else f"{name} {percent(probability)} %"


def site_items(site: Code, side: Laterality | None) -> list[Dataset]:
    """Finding Site, with the side when it has one (TID 1501 row 8 ff.)."""
    modifier = [code(HAS_CONCEPT_MOD, codes.LATERALITY, codes.SIDES[side])] if side else []
    return [code(HAS_CONCEPT_MOD, codes.FINDING_SITE, site, modifier)]


def algorithm_items(model: ModelIdentity) -> list[Dataset]:
    """TID 4019: name and version; weights, contract and precision stand once, with the run."""
    return [
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_NAME, model.name),
        text(HAS_CONCEPT_MOD, codes.ALGORITHM_VERSION, model.version),
    ]


def spacing(evidence: Dataset) -> tuple[float, float] | None:
    """Distance of rows and of columns in mm; at the detector where the image tells no other.

    None if unknown, or if the image could not be of that size: then nothing is said in millimetres.
    """
    values = evidence.get("PixelSpacing") or evidence.get("ImagerPixelSpacing")
    if not values or len(values) != 2:
        return None
    rows, columns = float(values[0]), float(values[1])
    sides = rows * evidence.Rows, columns * evidence.Columns
    return (rows, columns) if all(_SMALLEST <= side <= _LARGEST for side in sides) else None


def _box(evidence: Dataset, findings: ImageFindings, finding: Finding, region: Region, ordinal: int) -> Dataset:
    left, top, right, bottom = region.x, region.y, region.x + region.width, region.y + region.height
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    place = polyline(INFERRED_FROM, codes.IMAGE_REGION, corners, evidence)
    coded = codes.finding_codes(finding.key)
    return _group(
        BOX,
        tracking_uid(findings, finding.key, f"box/{ordinal}"),
        [
            code(CONTAINS, codes.FINDING, coded.finding),
            *site_items(coded.site, region.laterality if coded.paired else None),
            *_algorithm(finding.model, findings),
            number(CONTAINS, codes.CERTAINTY, 100 * region.score, codes.PERCENT, [place]),
            text(CONTAINS, codes.COMMENT, label(finding, region.score)),
        ],
    )


def _diameter(evidence: Dataset, findings: ImageFindings, measurement: Measurement, ordinal: int) -> Dataset:
    name, site = DIAMETERS[measurement.key][ordinal]
    line, distances = measurement.lines[ordinal], spacing(evidence)
    rows, columns = distances or (1.0, 1.0)
    length = hypot((line.x1 - line.x0) * columns, (line.y1 - line.y0) * rows)
    unit = codes.MILLIMETER if distances else codes.PIXELS
    return _group(
        LINE,
        tracking_uid(findings, measurement.key, f"line/{ordinal}"),
        [
            *site_items(site, None),
            *_algorithm(measurement.model, findings),
            number(CONTAINS, codes.DIAMETER, length, unit, [_line(line, evidence)]),
            text(CONTAINS, codes.COMMENT, f"{name} {length:.0f} {'mm' if distances else 'pixels'}"),
        ],
    )


def _measurement(evidence: Dataset, findings: ImageFindings, measurement: Measurement) -> Dataset:
    lines = [_line(line, evidence) for line in measurement.lines]
    caution = measurement.caution
    return _group(
        measurement.key,
        tracking_uid(findings, measurement.key),
        [
            *site_items(codes.CHEST, None),
            *_algorithm(measurement.model, findings),
            image(CONTAINS, codes.SOURCE_IMAGE, evidence),
            number(CONTAINS, codes.MEASUREMENTS[measurement.key], measurement.value, codes.NO_UNITS, lines),
            *([code(CONTAINS, codes.CAUTION, codes.CAUTIONS[caution])] if caution else []),
        ],
    )


def _finding(evidence: Dataset, findings: ImageFindings, finding: Finding, outline: list[Dataset] | None) -> Dataset:
    """One finding, whatever its state: how sure and from which probability on, or by which criteria; where, by whom."""
    coded = codes.finding_codes(finding.key)
    value = codes.FAILED if finding.reason == "model_failed" else codes.STATES[finding.state]
    present = finding.state is FindingState.PRESENT
    probability, threshold = finding.probability, finding.threshold
    return _group(
        finding.key,
        tracking_uid(findings, finding.key, "segment" if outline else ""),
        [
            *([code(CONTAINS, codes.FINDING, coded.finding)] if present else []),
            *site_items(coded.site, finding.laterality if coded.paired else None),
            *_algorithm(finding.model, findings),
            *(outline or [image(CONTAINS, codes.SOURCE_IMAGE, evidence)]),
            *([] if probability is None else [number(CONTAINS, codes.CERTAINTY, 100 * probability, codes.PERCENT)]),
            *([] if threshold is None else [number(CONTAINS, codes.THRESHOLD, 100 * threshold, codes.PERCENT)]),
            code(
                CONTAINS,
                coded.finding,
                value,
                [_criterion(c) for c in findings.criteria if c.speaks_for == finding.key],
            ),
            *([code(CONTAINS, codes.REASON, codes.REASONS[finding.reason])] if finding.reason else []),
        ],
        template="1410" if outline else "1501",
    )


def _criterion(criterion: Criterion) -> Dataset:
    """One criterion: what became of it, inferred from what was measured, and its threshold."""
    value, threshold, reason = criterion.value, criterion.threshold, criterion.reason
    unit = codes.CRITERION_UNITS[criterion.unit]
    return code(
        INFERRED_FROM,
        codes.CRITERIA[criterion.key],
        codes.OUTCOMES[criterion.state],
        [
            *([] if value is None else [number(INFERRED_FROM, codes.CRITERION_VALUE, value, unit)]),
            *([] if threshold is None else [number(HAS_PROPERTIES, codes.SENSES[criterion.sense], threshold, unit)]),
            *([code(HAS_PROPERTIES, codes.REASON, codes.CRITERION_REASONS[reason])] if reason else []),
        ],
    )


def _structure(findings: ImageFindings, segment: SegmentMask, outline: list[Dataset]) -> Dataset:
    coded = codes.finding_codes(segment.key)
    return _group(
        segment.key,
        tracking_uid(findings, segment.key, "segment"),
        [
            *site_items(coded.site, codes.side_of(segment.key)),
            *_algorithm(segment.model, findings),
            *outline,
        ],
        template="1410",
    )


def _outlines(evidence: Dataset, findings: ImageFindings, segmentation: Dataset) -> dict[str, list[Dataset]]:
    """Key of each segment to what a group says of it (TID 1410): its frame, the image it was drawn on, its area.

    The Segmentation has one frame for each segment, in this order.
    """
    distances = spacing(evidence)
    rows, columns = distances or (1.0, 1.0)
    unit = codes.SQUARE_MILLIMETER if distances else codes.PIXELS
    return {
        segment.key: [
            image(CONTAINS, codes.REFERENCED_SEGMENTATION_FRAME, segmentation, n),
            image(CONTAINS, codes.SOURCE_IMAGE_FOR_SEGMENTATION, evidence),
            number(CONTAINS, codes.AREA, np.count_nonzero(segment.mask) * rows * columns, unit),
        ]
        for n, segment in enumerate(findings.segments, start=1)
    }


def _line(line: Line, evidence: Dataset) -> Dataset:
    return polyline(INFERRED_FROM, codes.IMAGE_REGION, [(line.x0, line.y0), (line.x1, line.y1)], evidence)


def _algorithm(name: str | None, findings: ImageFindings) -> list[Dataset]:
    return [item for run in findings.runs if run.model.name == name for item in algorithm_items(run.model)]


def _group(identifier: str, identifier_uid: str, items: list[Dataset], template: str = "1501") -> Dataset:
    tracked = [
        text(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, identifier),
        uid(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, identifier_uid),
    ]
    return container(CONTAINS, codes.MEASUREMENT_GROUP, [*tracked, *items], template)

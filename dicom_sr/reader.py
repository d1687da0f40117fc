"""From a measurement report and its Segmentation back to the findings that they were made from.

The rule: ``read_result(encode(findings)) == findings``, for everything but the saliency maps, which no report carries.
Only our own reports can be read so; another's has no model runs and no thresholds.

::

    NotOurResult    an object that Hilum did not write, or that is damaged; the message names it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.measurement_groups import BOX
from dicom_sr.measurement_report import VIEWS
from dicom_sr.ownership import MANUFACTURER, MODEL_NAME
from dicom_sr.parameters import digests_of, precision_of
from dicom_sr.predecessor import current
from dicom_sr.references import evidence_of
from models.findings import (
    SHARE,
    Caution,
    Criterion,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Line,
    Measurement,
    ModelIdentity,
    ModelRun,
    Region,
    SegmentMask,
    Sense,
)
from models.study import StudyFindings

_Key = TypeVar("_Key")
_DECIMALS = 6  # findings give probabilities as finely as this; a report gives them in percent


class NotOurResult(ValueError):
    """The object cannot be read as a result of Hilum."""


def is_ours(ds: Dataset) -> bool:
    """Whether Hilum wrote an object."""
    return bool(ds.get("Manufacturer") == MANUFACTURER and ds.get("ManufacturerModelName") == MODEL_NAME)


def is_measurement_report(ds: Dataset) -> bool:
    """Whether an object is a TID 1500 report of ours."""
    title = ds.get("ConceptNameCodeSequence")
    return bool(is_ours(ds) and title and title[0].get("CodeValue") == codes.IMAGING_MEASUREMENT_REPORT.value)


def is_preliminary_report(ds: Dataset) -> bool:
    """Whether an object is a report of ours in sentences."""
    return is_ours(ds) and ds.get("Modality") == "SR" and not is_measurement_report(ds)


def read_result(report: Dataset, segmentation: Dataset | None = None) -> ImageFindings:
    """The findings of one image.

    Parameters
    ----------
    segmentation
        The one that the report refers to; without it the findings have no segments.

    Raises
    ------
    NotOurResult
    """
    if not is_measurement_report(report):
        raise NotOurResult(f"{report.get('SOPInstanceUID', 'an object')} is no measurement report of Hilum")
    try:
        return _image_findings(report, segmentation)
    except (AttributeError, KeyError, IndexError, StopIteration, TypeError, ValueError) as error:
        why = str(error) if isinstance(error, ValueError) else "it was changed or damaged"
        message = f"{report.get('SOPInstanceUID')} cannot be read: {why}"
        raise NotOurResult(message) from error


def read_study(objects: Iterable[Dataset]) -> StudyFindings:
    """The findings of a study from all objects of ours in it; what was superseded is left aside.

    Raises
    ------
    NotOurResult
        When there is no measurement report among them, or two that speak for one image.
    """
    listed = [ds for ds in objects if is_ours(ds)]
    reports = current(ds for ds in listed if is_measurement_report(ds))
    if not reports:
        raise NotOurResult("there is no measurement report of Hilum among these objects")
    segmentations = {str(ds.SOPInstanceUID): ds for ds in listed if ds.get("Modality") == "SEG"}
    documents = current(ds for ds in listed if is_preliminary_report(ds))
    images = tuple(
        read_result(report, _first_of(segmentations, report))
        for report in sorted(reports, key=lambda ds: (instance_number(ds), ds.SOPInstanceUID))
    )
    twice = Counter(image.sop_instance_uid for image in images).most_common(1)[0]
    if twice[1] > 1:
        raise NotOurResult(f"{twice[1]} current results speak for image {twice[0]}; ./hilum reread makes one of them")
    codes_of_unread = [i for ds in documents[-1:] for i in _everywhere(ds) if _is(i, codes.NOT_READ)]
    try:
        unread = tuple([_coded(item, codes.UNREAD) for item in codes_of_unread])
    except StopIteration as error:
        raise NotOurResult(f"{documents[-1].SOPInstanceUID} holds a code that this version does not know") from error
    return StudyFindings(str(reports[0].StudyInstanceUID), images, unread)


def instance_number(ds: Dataset) -> int:
    """Instance Number; 0 where there is none."""
    try:
        return int(ds.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        return 0


def _first_of(segmentations: Mapping[str, Dataset], report: Dataset) -> Dataset | None:
    """The Segmentation that a report refers to, if it is at hand."""
    referred = (one.sop_instance_uid for one in evidence_of(report))
    return next((segmentations[uid] for uid in referred if uid in segmentations), None)


def _image_findings(report: Dataset, segmentation: Dataset | None) -> ImageFindings:
    parts = (codes.IMAGE_LIBRARY, codes.IMAGING_MEASUREMENTS, codes.QUALITATIVE_EVALUATIONS)
    library, measurements, evaluations = [next(_named(report, name)) for name in parts]
    source = next(_named(next(_named(library, codes.IMAGE_LIBRARY_GROUP)), codes.SOURCE_IMAGE))
    reference = source.ReferencedSOPSequence[0]
    groups = list(_named(measurements, codes.MEASUREMENT_GROUP))
    priority = next(_named(evaluations, codes.PRIORITY))
    return ImageFindings(
        study_instance_uid=str(report.StudyInstanceUID),
        sop_class_uid=str(reference.ReferencedSOPClassUID),
        sop_instance_uid=str(reference.ReferencedSOPInstanceUID),
        rows=_whole(source, codes.PIXEL_DATA_ROWS),
        columns=_whole(source, codes.PIXEL_DATA_COLUMNS),
        view=_coded(next(_named(source, codes.IMAGE_VIEW)), VIEWS),
        runs=tuple(_run(item) for item in _named(evaluations, codes.MODEL_RUN)),
        findings=_findings(groups),
        segments=() if segmentation is None else tuple(_segments(segmentation)),
        measurements=tuple(_measurements(groups)),
        priority=_coded(priority, codes.PRIORITIES),
        priority_reason=_text(priority, codes.REASON) or "",
        cautions=tuple(_coded(item, codes.CAUTIONS) for item in _named(evaluations, codes.CAUTION)),
        criteria=tuple(_criteria(groups)),
        route=_text(evaluations, codes.ROUTE) or "",
    )


def _run(item: Dataset) -> ModelRun:
    said = [str(parameter.TextValue) for parameter in _named(item, codes.ALGORITHM_PARAMETERS)]
    digests = digests_of(said)
    identity = ModelIdentity(
        _text(item, codes.ALGORITHM_NAME) or "",
        _text(item, codes.ALGORITHM_VERSION) or "",
        digests["weights"],
        digests["config"],
    )
    failure = next((_coded(r, codes.REASONS) for r in _named(item, codes.REASON)), None)
    return ModelRun(identity, failure, precision_of(said))


def _findings(groups: list[Dataset]) -> tuple[Finding, ...]:
    boxes = [group for group in groups if _text(group, codes.TRACKING_IDENTIFIER) == BOX]
    found = []
    for group, key, state in _states(groups):
        concept = codes.finding_codes(key).finding
        mine = [box for box in boxes if _coded_as(next(_named(box, codes.FINDING)), concept)]
        found.append(_finding(group, key, state, tuple(_region(box) for box in mine)))
    return tuple(found)


def _states(groups: list[Dataset]) -> Iterator[tuple[Dataset, str, Dataset]]:
    """The group of each finding, its key and the item that tells its state."""
    table = codes.finding_table()
    for group in groups:
        key = _text(group, codes.TRACKING_IDENTIFIER)
        state = next(_named(group, table[key].finding), None) if key in table else None
        if key is not None and state is not None:  # no box, line, measurement, nor a structure that is no finding
            yield group, key, state


def _criteria(groups: list[Dataset]) -> Iterator[Criterion]:
    for _, speaks_for, state in _states(groups):
        for item in state.get("ContentSequence") or ():
            value = next(_named(item, codes.CRITERION_VALUE), None)
            limits = ((sense, limit) for sense, name in codes.SENSES.items() for limit in _named(item, name))
            sense, limit = next(limits, (Sense.AT_LEAST, None))
            measured = limit if value is None else value
            yield Criterion(
                next(key for key, name in codes.CRITERIA.items() if _is(item, name)),
                speaks_for,
                _coded(item, codes.OUTCOMES),
                None if value is None else _value(value),
                None if limit is None else _value(limit),
                sense,
                SHARE if measured is None else _unit(measured),
                next((_coded(reason, codes.CRITERION_REASONS) for reason in _named(item, codes.REASON)), None),
            )


def _finding(group: Dataset, key: str, state: Dataset, regions: tuple[Region, ...]) -> Finding:
    failed = _coded_as(state, codes.FAILED)
    return Finding(
        key,
        FindingState.NOT_EVALUATED if failed else _coded(state, codes.STATES),
        probability=_fraction(group, codes.CERTAINTY),
        threshold=_fraction(group, codes.THRESHOLD),
        laterality=_side(group),
        regions=regions,
        reason=next((_coded(item, codes.REASONS) for item in _named(group, codes.REASON)), None),
        model=_text(group, codes.ALGORITHM_NAME),
    )


def _region(group: Dataset) -> Region:
    certainty = next(_named(group, codes.CERTAINTY))
    left, top, _, _, right, bottom = (float(v) for v in _points(certainty)[0][:6])
    return Region(left, top, right - left, bottom - top, _fraction(group, codes.CERTAINTY) or 0.0, _side(group))


def _measurements(groups: list[Dataset]) -> Iterator[Measurement]:
    for group in groups:
        key = _text(group, codes.TRACKING_IDENTIFIER)
        if key not in codes.MEASUREMENTS:
            continue
        item = next(_named(group, codes.MEASUREMENTS[key]))
        cautions: list[Caution] = [_coded(caution, codes.CAUTIONS) for caution in _named(group, codes.CAUTION)]
        yield Measurement(
            key,
            _value(item),
            _unit(item),
            str(_text(group, codes.ALGORITHM_NAME)),
            tuple(Line(*(float(v) for v in points)) for points in _points(item)),
            cautions[0] if cautions else None,
        )


def _segments(segmentation: Dataset) -> Iterator[SegmentMask]:
    rows, columns = int(segmentation.Rows), int(segmentation.Columns)
    frames = int(segmentation.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    masks = bits[: frames * rows * columns].reshape(frames, rows, columns).astype(bool)
    for described, mask in zip(segmentation.SegmentSequence, masks, strict=True):
        algorithm = described.SegmentationAlgorithmIdentificationSequence[0]
        yield SegmentMask(str(described.TrackingID), mask, str(algorithm.AlgorithmName))


# --- content items ---------------------------------------------------------------------------------------------------
def _named(item: Dataset, name: Code) -> Iterator[Dataset]:
    """The children of an item with this concept name."""
    return (child for child in item.get("ContentSequence") or () if _is(child, name))


def _everywhere(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or ():
        yield child
        yield from _everywhere(child)


def _is(item: Dataset, name: Code) -> bool:
    concept = item.get("ConceptNameCodeSequence")
    return bool(concept) and _same(concept[0], name)


def _same(coded: Dataset, code: Code) -> bool:
    return bool(coded.CodeValue == code.value and coded.CodingSchemeDesignator == code.scheme_designator)


def _coded_as(item: Dataset, code: Code) -> bool:
    return _same(item.ConceptCodeSequence[0], code)


def _coded(item: Dataset, table: Mapping[_Key, Code]) -> _Key:
    return next(key for key, code in table.items() if _coded_as(item, code))


def _text(item: Dataset, name: Code) -> str | None:
    return next((str(child.TextValue) for child in _named(item, name)), None)


def _value(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def _unit(item: Dataset) -> str:
    return str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)


def _number(item: Dataset, name: Code) -> float | None:
    return next((_value(child) for child in _named(item, name)), None)


def _whole(item: Dataset, name: Code) -> int:
    value = _number(item, name)
    if value is None:
        raise ValueError("made by an older version of Hilum; ./hilum reread makes it anew")
    return int(value)


def _fraction(group: Dataset, name: Code) -> float | None:
    percent = _number(group, name)
    return None if percent is None else round(percent / 100, _DECIMALS)


def _points(number: Dataset) -> list[list[float]]:
    return [list(child.GraphicData) for child in _named(number, codes.IMAGE_REGION)]


def _side(group: Dataset) -> Laterality | None:
    sites = _named(group, codes.FINDING_SITE)
    return next((_coded(side, codes.SIDES) for site in sites for side in _named(site, codes.LATERALITY)), None)

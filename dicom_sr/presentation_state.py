"""The marks as a Grayscale Softcopy Presentation State (PS3.3 A.33.1): boxes, diameters and labels over the image.

The rule: the image looks as it does without us. A presentation state replaces everything that the image says about its
own display, absent steps being identities (PS3.4 N.2.1), so that rescale, window, polarity and shutter are repeated
here as the image has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.multival import MultiValue
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage
from pydicom.valuerep import DSfloat

from dicom_sr.codes import CAUTIONS
from dicom_sr.equipment import complete, dataset
from dicom_sr.identity import image_result
from dicom_sr.measurement_groups import label
from dicom_sr.result_object import image_reference, result_object
from models.findings import ImageFindings, Measurement
from models.names import in_words

SERIES_NUMBER = 9005
LAYER = "AI"
DISCLAIMER = "AI, not verified, not for diagnosis"

_COLOUR = (58000, 26000, 54000)  # CIELab as 16 bits (PS3.3 C.10.7.1.1): a light yellow-green, seen on gray
_SHUTTER = (
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter",
)  # fmt: skip
Points = Sequence[tuple[float, float]]


def encode_presentation_state(
    evidence: Dataset, findings: ImageFindings, created: datetime, *, number: int, predecessor_uid: str = ""
) -> Dataset:
    """Encode the boxes and the lines of an image as marks that viewers draw over it.

    Parameters
    ----------
    evidence
        From ``dicom_sr.evidence``; it carries what the image says about its display.
    created
        Becomes every date and time of the object.
    number
        Instance Number.
    predecessor_uid
        SOP Instance UID of the measurement report that its report replaces.
    """
    ds = result_object(
        evidence,
        image_result(findings, "PR", predecessor_uid),
        sop_class_uid=GrayscaleSoftcopyPresentationStateStorage,
        modality="PR",
        series_number=SERIES_NUMBER,
        number=number,
    )
    ds.BodyPartExamined = "CHEST"
    ds.ContentLabel = "AI_RESULT"
    ds.ContentDescription = DISCLAIMER
    ds.ContentCreatorName = ""
    ds.ReferencedSeriesSequence = [
        dataset(SeriesInstanceUID=evidence.SeriesInstanceUID, ReferencedImageSequence=[image_reference(evidence)])
    ]
    ds.GraphicLayerSequence = [
        dataset(
            GraphicLayer=LAYER,
            GraphicLayerOrder=1,
            GraphicLayerRecommendedDisplayCIELabValue=list(_COLOUR),
            GraphicLayerDescription=DISCLAIMER,
        )
    ]
    ds.GraphicAnnotationSequence = [_annotation(evidence, findings)]
    ds.DisplayedAreaSelectionSequence = [_displayed_area(evidence)]
    _add_display(ds, evidence)
    complete(ds, evidence, findings, created, "marks")
    ds.PresentationCreationDate, ds.PresentationCreationTime = ds.ContentDate, ds.ContentTime
    del ds.ContentDate, ds.ContentTime  # a presentation state has the others in their place (PS3.3 C.11.10)
    return ds


def _annotation(evidence: Dataset, findings: ImageFindings) -> Dataset:
    """Graphic Annotation (PS3.3 C.10.5): all marks in one layer, and what they are."""
    graphics, texts = [], [_note(DISCLAIMER)]
    for points, words in _marks(findings):
        graphics.append(
            dataset(
                GraphicAnnotationUnits="PIXEL",
                GraphicDimensions=2,
                NumberOfGraphicPoints=len(points),
                GraphicData=[coordinate for point in points for coordinate in point],
                GraphicType="POLYLINE",
                GraphicFilled="N",
            )
        )
        if words:
            texts.append(_label(words, points[0]))
    annotation = dataset(
        ReferencedImageSequence=[image_reference(evidence)], GraphicLayer=LAYER, TextObjectSequence=texts
    )
    if graphics:
        annotation.GraphicObjectSequence = graphics
    return annotation


def _marks(findings: ImageFindings) -> Iterator[tuple[Points, str]]:
    """Each line to draw, in stored pixels, with what stands at its first point."""
    for finding in findings.findings:
        for region in finding.regions:
            left, top, right, bottom = region.x, region.y, region.x + region.width, region.y + region.height
            corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
            yield corners, label(finding, region.score)
    for measurement in findings.measurements:
        for number, line in enumerate(measurement.lines):
            yield ((line.x0, line.y0), (line.x1, line.y1)), "" if number else _measured(measurement)


def _measured(measurement: Measurement) -> str:
    """``Cardiothoracic ratio 0.53``, and what limits it."""
    words = f"{in_words(measurement.key)} {measurement.value:.2f}"
    return f"{words} ({CAUTIONS[measurement.caution].meaning})" if measurement.caution else words


def _label(words: str, at: tuple[float, float]) -> Dataset:
    return dataset(
        AnchorPointAnnotationUnits="PIXEL",
        UnformattedTextValue=words,
        AnchorPoint=list(at),
        AnchorPointVisibility="N",
    )


def _note(words: str) -> Dataset:
    """A line of text at the lower edge of the displayed area."""
    return dataset(
        BoundingBoxAnnotationUnits="DISPLAY",
        UnformattedTextValue=words,
        BoundingBoxTopLeftHandCorner=[0.02, 0.94],
        BoundingBoxBottomRightHandCorner=[0.98, 0.98],
        BoundingBoxTextHorizontalJustification="LEFT",
    )


def _displayed_area(evidence: Dataset) -> Dataset:
    """The whole image, fitted, in its true proportions (PS3.3 C.10.4)."""
    area = dataset(
        DisplayedAreaTopLeftHandCorner=[1, 1],
        DisplayedAreaBottomRightHandCorner=[evidence.Columns, evidence.Rows],
        PresentationSizeMode="SCALE TO FIT",
    )
    # a ratio even where the image tells millimetres: it is all that fitting needs, and claims no size
    area.PresentationPixelAspectRatio = list(_aspect(evidence))
    return area


def _aspect(evidence: Dataset) -> tuple[int, int]:
    """Height and width of a pixel as integers, taken from where the models take it: the ratio first, then spacing."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        pair = evidence.get(keyword)
        if pair and len(pair) == 2 and min(float(value) for value in pair) > 0:
            ratio = Fraction(float(pair[0]) / float(pair[1])).limit_denominator(1000)
            return ratio.numerator, ratio.denominator
    return 1, 1


def _add_display(ds: Dataset, evidence: Dataset) -> None:
    """Repeat what the image says about its display (PS3.3 C.11.1, C.11.8, C.11.6, C.7.6.11)."""
    if (table := _first_table(evidence, "ModalityLUTSequence")) is not None:
        table.ModalityLUTType = table.get("ModalityLUTType") or "US"
        ds.ModalityLUTSequence = [table]
    elif evidence.get("RescaleSlope") is not None or evidence.get("RescaleIntercept") is not None:
        ds.RescaleIntercept = _decimal(evidence.get("RescaleIntercept") or 0)
        slope = evidence.get("RescaleSlope")
        ds.RescaleSlope = _decimal(1 if slope is None else slope)
        ds.RescaleType = evidence.get("RescaleType") or "US"
    if (voi := _voi(evidence)) is not None:
        ds.SoftcopyVOILUTSequence = [voi]
    # The polarity is said here alone: Photometric Interpretation does not count any more (PS3.4 N.2.1.4).
    inverse = _term(evidence, "PhotometricInterpretation") == "MONOCHROME1"
    inverse |= _term(evidence, "PresentationLUTShape") == "INVERSE"
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    if evidence.get("ShutterShape"):
        for keyword in _SHUTTER:
            if keyword in evidence:
                ds[keyword] = evidence[keyword]
        ds.ShutterPresentationValue = 0  # black


def _voi(evidence: Dataset) -> Dataset | None:
    """The look-up table or window that comes first, as the models apply it."""
    if (table := _first_table(evidence, "VOILUTSequence")) is not None:
        return dataset(VOILUTSequence=[_of_full_depth(table)])
    center, width = _first(evidence.get("WindowCenter")), _first(evidence.get("WindowWidth"))
    if center is None or width is None:
        return None
    voi = dataset(WindowCenter=_decimal(center), WindowWidth=_decimal(width))
    if function := _term(evidence, "VOILUTFunction"):
        voi.VOILUTFunction = function
    return voi


def _first_table(evidence: Dataset, keyword: str) -> Dataset | None:
    for item in evidence.get(keyword) or ():
        if item.get("LUTDescriptor") is not None and item.get("LUTData") is not None:
            table: Dataset = deepcopy(item)
            return table
        break
    return None


def _of_full_depth(table: Dataset) -> Dataset:
    """A VOI LUT with entries of 8 or 16 bits, the depths that validators grant a presentation state; images have 12."""
    count, first, bits = table.LUTDescriptor
    if bits in (8, 16):
        return table
    data = table.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data, np.int64) % 2**16
    scaled = np.clip(np.rint(entries * (65535 / (2**bits - 1))), 0, 65535).astype("<u2")
    table.LUTDescriptor = [count, first, 16]
    table["LUTData"] = DataElement(table["LUTData"].tag, "OW", scaled.tobytes())
    return table


def _first(value: Any) -> Any:
    """The first of several values, e.g. of alternative windows; None when there is none."""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    return None if value == "" else value


def _term(evidence: Dataset, keyword: str) -> str:
    return str(evidence.get(keyword) or "").strip().upper()


def _decimal(value: float | str) -> DSfloat:
    """A number in the 16 characters that DS has; sources exceed them."""
    return DSfloat(float(value), auto_format=True)

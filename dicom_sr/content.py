"""Content items of a Structured Report (PS3.3 C.17.3), one small function for each value type."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import format_number_as_ds

from dicom_sr.codes import SOURCE_OF_MEASUREMENT
from dicom_sr.equipment import coded, dataset

CONTAINS, HAS_PROPERTIES = "CONTAINS", "HAS PROPERTIES"
HAS_CONCEPT_MOD, HAS_OBS_CONTEXT, HAS_ACQ_CONTEXT = "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS ACQ CONTEXT"
INFERRED_FROM, SELECTED_FROM = "INFERRED FROM", "SELECTED FROM"


def container(
    relationship: str | None, name: Code, children: Sequence[Dataset], template: str | None = None
) -> Dataset:
    """A CONTAINER; `template` is the TID whose root it is."""
    item = _item(relationship, "CONTAINER", name, children)
    item.ContinuityOfContent = "SEPARATE"
    if template is not None:
        item.ContentTemplateSequence = [dataset(MappingResource="DCMR", TemplateIdentifier=template)]
    return item


def code(relationship: str, name: Code, value: Code, children: Sequence[Dataset] = ()) -> Dataset:
    """A CODE."""
    item = _item(relationship, "CODE", name, children)
    item.ConceptCodeSequence = [coded(value)]
    return item


def text(relationship: str, name: Code, value: str, children: Sequence[Dataset] = ()) -> Dataset:
    """A TEXT."""
    item = _item(relationship, "TEXT", name, children)
    item.TextValue = value
    return item


def uid(relationship: str, name: Code, value: str) -> Dataset:
    """A UIDREF."""
    item = _item(relationship, "UIDREF", name, ())
    item.UID = value
    return item


def number(relationship: str, name: Code, value: float, unit: Code, children: Sequence[Dataset] = ()) -> Dataset:
    """A NUM; the value is rounded to six decimals, which is how finely findings are given."""
    item = _item(relationship, "NUM", name, children)
    measured = dataset(MeasurementUnitsCodeSequence=[coded(unit)], NumericValue=_decimal(value))
    item.MeasuredValueSequence = [measured]
    return item


def image(relationship: str, name: Code, evidence: Dataset, frame: int | None = None) -> Dataset:
    """An IMAGE: a reference to the instance, or to one frame of it, counted from 1."""
    item = _item(relationship, "IMAGE", name, ())
    reference = dataset(ReferencedSOPClassUID=evidence.SOPClassUID, ReferencedSOPInstanceUID=evidence.SOPInstanceUID)
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    item.ReferencedSOPSequence = [reference]
    return item


def polyline(relationship: str, name: Code, points: Sequence[tuple[float, float]], evidence: Dataset) -> Dataset:
    """An SCOORD of straight lines between points (column, row) of the image; closed when the first is the last.

    Parameters
    ----------
    points
        In stored pixels (PS3.3 C.18.6.1.1: the top left corner of the top left pixel is 0\\0).
    """
    item = _item(relationship, "SCOORD", name, [image(SELECTED_FROM, SOURCE_OF_MEASUREMENT, evidence)])
    item.GraphicType = "POLYLINE"
    item.GraphicData = [coordinate for point in points for coordinate in point]
    return item


def _decimal(value: float) -> str:
    """A Decimal String (PS3.5 6.2) of at most six decimals."""
    short = f"{value:.6f}".rstrip("0").rstrip(".")
    return short if len(short) <= 16 else str(format_number_as_ds(round(value, 6)))


def _item(relationship: str | None, value_type: str, name: Code, children: Sequence[Dataset]) -> Dataset:
    item = dataset(ValueType=value_type)
    if relationship is not None:
        item.RelationshipType = relationship
    item.ConceptNameCodeSequence = [coded(name)]
    if children:
        item.ContentSequence = list(children)
    return item

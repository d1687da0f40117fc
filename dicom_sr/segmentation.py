"""The Segmentation object (PS3.3 A.51): every mask that the models made, at the size of the image.

The rule: a segment is a mask of a model, pixel by pixel, never a drawing; and it carries the model's name, the codes of
what it is, and the side.
"""

from __future__ import annotations

from datetime import datetime

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr.codes import AI_FAMILY, finding_codes
from dicom_sr.equipment import contributing_equipment, dataset, equipment_version, freeze_times, series_description
from dicom_sr.identity import derived_uid, result_uids, tracking_uid
from dicom_sr.ownership import MANUFACTURER
from models.findings import ImageFindings, Laterality, ModelIdentity, SegmentMask

SERIES_NUMBER = 9002

# CIELab colours that stay apart from each other on a grey image, also for the colour-blind.
_COLOURS: dict[str, tuple[float, float, float]] = {
    "lung_right": (70.0, -30.0, -25.0),
    "lung_left": (75.0, -45.0, 25.0),
    "heart": (60.0, 60.0, 35.0),
    "lung_opacity": (80.0, 10.0, 75.0),
    "pneumothorax": (60.0, 75.0, -40.0),
}
_OTHER_COLOUR = (75.0, 0.0, 60.0)
_SIDE_OF_KEY = {"_right": Laterality.RIGHT, "_left": Laterality.LEFT}
_LATERALITY_MODIFIERS = {
    Laterality.RIGHT: Code("24028007", "SCT", "Right"),
    Laterality.LEFT: Code("7771000", "SCT", "Left"),
}


def encode_segmentation(evidence: Dataset, findings: ImageFindings, created: datetime, *, number: int = 1) -> Dataset:
    """Encode every segment of an image as one BINARY Segmentation.

    Parameters
    ----------
    evidence
        From ``dicom_sr.evidence``.
    findings
        With at least one segment; masks of shape (rows, columns).
    created
        Becomes every date and time of the object, so that encoding again gives the same bytes.
    """
    uids = result_uids(findings)
    models = {run.model.name: run.model for run in findings.runs}
    described = [_describe(n, s, models[s.model], findings) for n, s in enumerate(findings.segments, start=1)]
    # Shape (frames, rows, columns, segments): one frame of each segment, empty ones too, or viewers wait for ever.
    pixels = np.stack([s.mask for s in findings.segments], axis=-1)[None].astype(np.uint8)
    seg = hd.seg.Segmentation(
        source_images=[evidence],
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=uids.segmentation_series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.segmentation,
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="Hilum",
        software_versions=equipment_version(findings),
        device_serial_number="1",
        content_label="AI_SEGMENTS",
        content_description="Structures outlined by AI, not verified",
        omit_empty_frames=False,
    )
    _lay_in_a_plane(seg, evidence)
    seg.SpecificCharacterSet = "ISO_IR 192"
    seg.SeriesDescription = series_description(findings, "segments")
    seg.PatientOrientation = list(evidence.PatientOrientation)
    seg.BodyPartExamined = "CHEST"
    if "StudyDescription" in evidence:
        seg.StudyDescription = evidence.StudyDescription
    seg.ContributingEquipmentSequence = contributing_equipment(findings, created)
    organisation = derived_uid("dimensions", uids.segmentation)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organisation
    freeze_times(seg, created)
    encoded: Dataset = seg
    return encoded


def _lay_in_a_plane(seg: Dataset, evidence: Dataset) -> None:
    """A projection has no plane; viewers overlay a segmentation only if it names one. A display convention, no more."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence = [dataset(ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])]
    shared.PixelMeasuresSequence = [dataset(PixelSpacing=list(_spacing(evidence)), SliceThickness=1.0)]


def _spacing(evidence: Dataset) -> tuple[float, float]:
    """Row and column spacing in mm; 1 where the image does not tell, for the attribute may not be empty."""
    spacing = evidence.get("PixelSpacing") or evidence.get("ImagerPixelSpacing") or (1.0, 1.0)
    return float(spacing[0]), float(spacing[1])


def _describe(
    number: int, segment: SegmentMask, model: ModelIdentity, findings: ImageFindings
) -> hd.seg.SegmentDescription:
    codes = finding_codes(segment.key)
    if codes.category is None or codes.type is None:
        raise KeyError(f"{segment.key} has no segment codes in codes.csv")
    lightness, a, b = _COLOURS.get(segment.key, _OTHER_COLOUR)
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.key.replace("_", " ").capitalize(),
        segmented_property_category=codes.category,
        segmented_property_type=codes.type,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model.name, version=model.version, family=AI_FAMILY, source=MANUFACTURER
        ),
        tracking_uid=tracking_uid(findings, segment.key, "segment"),
        tracking_id=segment.key,
        display_color=hd.color.CIELabColor(lightness, a, b),
    )
    side = next((side for ending, side in _SIDE_OF_KEY.items() if segment.key.endswith(ending)), None)
    if side is not None:
        modifier = hd.sr.CodedConcept.from_code(_LATERALITY_MODIFIERS[side])
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return described

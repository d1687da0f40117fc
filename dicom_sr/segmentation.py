"""The Segmentation object (PS3.3 A.51): every mask that the models made, at the size of the image.

The rule: a segment is a mask of a model, pixel by pixel, never a drawing; and it carries the model's name, the codes of
what it is, and the side. Frame n shows segment n, also where that is empty: the report refers to frames, and viewers
wait for ever for one that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage
from pydicom.valuerep import DSfloat

from dicom_sr.codes import AI_FAMILY, SIDES, finding_codes, side_of
from dicom_sr.equipment import coded, complete, dataset
from dicom_sr.identity import derived_uid, image_result, tracking_uid
from dicom_sr.measurement_groups import spacing
from dicom_sr.ownership import MANUFACTURER
from dicom_sr.parameters import lowered
from dicom_sr.result_object import add_origin, result_object, source_image
from models.findings import BoolMask, ImageFindings, Laterality, ModelRun, SegmentMask

SERIES_NUMBER = 9002

# CIELab of every key that can be outlined. Any two are 9 apart at least, and 20 among the first five, as most people
# see them and as those see them who lack the red or the green cones; none is near to gray, as the image is.
COLOURS: dict[str, tuple[int, int, int]] = {
    "lung_right": (70, -30, -25),
    "lung_left": (75, -45, 25),
    "heart": (60, 60, 35),
    "lung_opacity": (80, 10, 75),
    "pneumothorax": (50, 30, -75),
    "effusion": (95, -30, 50),
    "consolidation": (50, 0, -45),
    "nodule": (55, 60, 65),
    "mass": (70, -5, -45),
    "atelectasis": (75, 10, 55),
    "fracture": (95, -25, 25),
    "pneumonia": (60, 10, -60),
    "edema": (95, -20, 90),
    "support_devices": (55, -50, 30),
    "tuberculosis": (95, -15, 70),
    "fibrosis": (50, 25, -25),
    "emphysema": (55, -50, 55),
    "infiltration": (60, -15, -35),
    "pleural_thickening": (85, -30, 40),
    "pleural_other": (80, 20, -30),
    "lung_lesion": (70, 5, 70),
    "calcification": (70, 30, 30),
    "pneumoperitoneum": (90, -20, 60),
    "hernia": (50, 20, 35),
    "cardiomegaly": (65, 20, 50),
    "enlarged_cardiomediastinum": (60, 0, -50),
    "mediastinal_widening": (50, 10, -55),
    "covid_typical": (50, 20, -65),
    "covid_indeterminate": (95, -25, 35),
    "covid_atypical": (65, -50, 30),
    "lung": (85, -30, 50),
}
# CID 7203
_SEGMENTATION = Code("113076", "DCM", "Segmentation")


def encode_segmentation(
    evidence: Dataset, findings: ImageFindings, created: datetime, *, number: int = 1, predecessor_uid: str = ""
) -> Dataset:
    """Encode every segment of an image as one BINARY Segmentation.

    Parameters
    ----------
    evidence
        From ``dicom_sr.evidence``.
    findings
        With at least one segment; masks of shape (rows, columns).
    created
        Becomes every date and time of the object, so that encoding again gives the same bytes.
    number
        Instance Number, from 1.
    predecessor_uid
        SOP Instance UID of the measurement report that its report replaces.

    Raises
    ------
    KeyError
        When ``codes.csv`` does not say how to outline a segment, or its model is none of the findings' runs.
    ValueError
        When a mask has another size than the image, or there is none.
    """
    masks = _stacked(findings)
    runs = {run.model.name: run for run in findings.runs}
    ds = result_object(
        evidence,
        image_result(findings, "SEG", predecessor_uid),
        sop_class_uid=SegmentationStorage,
        modality="SEG",
        series_number=SERIES_NUMBER,
        number=number,
    )
    ds.BodyPartExamined = "CHEST"
    ds.PatientOrientation = list(evidence.PatientOrientation)
    ds.ContentLabel = "AI_SEGMENTS"
    ds.ContentDescription = "Structures outlined by AI, not verified"
    ds.ContentCreatorName = ""
    ds.SegmentSequence = [
        _segment(n, segment, runs[segment.model], findings) for n, segment in enumerate(findings.segments, start=1)
    ]
    _add_frames(ds, evidence, len(masks))
    ds.ImageType, ds.LossyImageCompression = ["DERIVED", "PRIMARY"], "00"
    add_origin(ds, evidence)
    _add_pixels(ds, masks)
    return complete(ds, evidence, findings, created, "segments")


def _stacked(findings: ImageFindings) -> BoolMask:
    """The masks as one array of shape (frames, rows, columns)."""
    expected = (findings.rows, findings.columns)
    for segment in findings.segments:
        if segment.mask.shape != expected:
            raise ValueError(f"the mask of {segment.key} is {segment.mask.shape}, its image is {expected}")
    return np.stack([segment.mask for segment in findings.segments]).astype(np.bool_, copy=False)


def _segment(number: int, segment: SegmentMask, run: ModelRun, findings: ImageFindings) -> Dataset:
    """One item of the Segment Sequence (PS3.3 C.8.20.4); its Tracking UID is that of its group in the report."""
    codes, model = finding_codes(segment.key), run.model
    if codes.category is None or codes.type is None:
        raise KeyError(f"{segment.key} has no segment codes in codes.csv")
    what = coded(codes.type)
    if side := _side(segment.key, findings):
        what.SegmentedPropertyTypeModifierCodeSequence = [coded(SIDES[side])]
    algorithm = dataset(
        AlgorithmFamilyCodeSequence=[coded(AI_FAMILY)],
        AlgorithmName=model.name,
        AlgorithmVersion=model.version,
        AlgorithmSource=MANUFACTURER,
    )
    for parameter in lowered(run):
        algorithm.AlgorithmParameters = parameter
    return dataset(
        SegmentNumber=number,
        SegmentLabel=label(segment.key),
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName=model.name,
        SegmentationAlgorithmIdentificationSequence=[algorithm],
        SegmentedPropertyCategoryCodeSequence=[coded(codes.category)],
        SegmentedPropertyTypeCodeSequence=[what],
        RecommendedDisplayCIELabValue=_sixteen_bits(COLOURS[segment.key]),
        TrackingID=segment.key,
        TrackingUID=tracking_uid(findings, segment.key, "segment"),
    )


def label(key: str) -> str:
    """What viewers call a segment: ``Right lung``, ``Lung opacity``."""
    side = side_of(key)
    name = key.removesuffix(f"_{side}").replace("_", " ")
    return f"{side} {name}".capitalize() if side else name.capitalize()


def _side(key: str, findings: ImageFindings) -> Laterality | None:
    """The side that the key of a structure names, or that the finding of the same key has."""
    finding = next((f for f in findings.findings if f.key == key), None)
    if finding is not None and finding_codes(key).paired:
        return finding.laterality
    return side_of(key)


def _sixteen_bits(colour: tuple[int, int, int]) -> list[int]:
    """CIELab as PS3.3 C.10.7.1.1 scales it: L* from 0 to 100, a* and b* from -128 to 127."""
    lightness, a, b = colour
    return [lightness * 65535 // 100, (a + 128) * 257, (b + 128) * 257]


def _add_frames(ds: Dataset, evidence: Dataset, frames: int) -> None:
    """Multi-frame Functional Groups and Dimension modules (PS3.3 C.7.6.16, C.7.6.17): one frame of each segment.

    A projection has no plane, and viewers overlay a segmentation only if it names one: a display convention, no more.
    Pixels of unknown size are said to be of 1 mm, for the attribute may not be empty.
    """
    organisation = derived_uid("dimensions", ds.SOPInstanceUID)
    ds.DimensionOrganizationSequence = [dataset(DimensionOrganizationUID=organisation)]
    ds.DimensionIndexSequence = [
        dataset(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=Tag("ReferencedSegmentNumber"),
            FunctionalGroupPointer=Tag("SegmentIdentificationSequence"),
            DimensionDescriptionLabel="Referenced Segment Number",
        )
    ]
    distances = [DSfloat(d, auto_format=True) for d in spacing(evidence) or (1.0, 1.0)]
    ds.SharedFunctionalGroupsSequence = [
        dataset(
            PlaneOrientationSequence=[dataset(ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])],
            PixelMeasuresSequence=[dataset(PixelSpacing=distances, SliceThickness=1.0)],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        dataset(
            DerivationImageSequence=[_derivation(evidence)],
            FrameContentSequence=[dataset(DimensionIndexValues=n)],
            SegmentIdentificationSequence=[dataset(ReferencedSegmentNumber=n)],
        )
        for n in range(1, frames + 1)
    ]


def _derivation(evidence: Dataset) -> Dataset:
    """From which image a frame was made (PS3.3 C.7.6.16.2.6)."""
    source = source_image(evidence)
    source.SpatialLocationsPreserved = "YES"
    return dataset(SourceImageSequence=[source], DerivationCodeSequence=[coded(_SEGMENTATION)])


def _add_pixels(ds: Dataset, masks: BoolMask) -> None:
    """Segmentation Image module (PS3.3 C.8.20.2): one bit for each pixel."""
    ds.SegmentationType = "BINARY"
    ds.SegmentsOverlap = "YES" if _overlap(masks) else "NO"
    ds.NumberOfFrames, ds.Rows, ds.Columns = masks.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    # The first pixel is the lowest bit; a frame begins where the one before it ends, be it within a byte (PS3.5 8.1.1).
    data = np.packbits(masks, bitorder="little").tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def _overlap(masks: BoolMask) -> bool:
    """Whether a pixel belongs to more than one segment."""
    covered: Sequence[npt.NDArray[np.uint8]] = [np.packbits(mask) for mask in masks]
    seen = np.zeros_like(covered[0])
    for bits in covered:
        if (seen & bits).any():
            return True
        seen |= bits
    return False

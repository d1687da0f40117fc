"""The heat maps as a Secondary Capture (PS3.3 A.8): a colour picture that the plainest viewer shows.

The rule: the picture itself says what it is, "AI, not for diagnosis", with the findings and the models, and nothing of
the patient. It adds to the measurement report and never replaces it (IHE AIR).

It is stored uncompressed. A picture of 1024 pixels has about 3 MB then, a fifth of its radiograph; JPEG would have a
tenth of that, but not every archive and viewer accepts it, and this object exists for those that accept little.
"""

from __future__ import annotations

from datetime import datetime

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_sr.equipment import coded, complete, dataset
from dicom_sr.identity import image_result
from dicom_sr.measurement_groups import label
from dicom_sr.overlay_picture import Picture, paint
from dicom_sr.result_object import image_reference, result_object
from models.findings import Finding, FloatMap, ImageFindings

SERIES_NUMBER = 9003
LONGEST = 1024  # pixels
DISCLAIMER = "AI, not for diagnosis"

# CID 7202
_SOURCE_OF_PROCESSING = Code("121322", "DCM", "Source image for image processing operation")


def encode_heat_map(
    evidence: Dataset, findings: ImageFindings, gray: FloatMap, created: datetime, *, number: int
) -> Dataset:
    """Encode the heat maps of an image as one picture.

    Parameters
    ----------
    evidence
        From ``dicom_sr.evidence``.
    gray
        The radiograph as displayed, float32 of shape (rows, columns), 0 to 1, with square pixels, not turned.
    created
        Becomes every date and time of the object.
    number
        Instance Number.
    """
    ds = result_object(
        evidence,
        image_result(findings, "SC"),
        sop_class_uid=SecondaryCaptureImageStorage,
        modality="OT",
        series_number=SERIES_NUMBER,
        number=number,
    )
    ds.ConversionType = "WSD"
    ds.BodyPartExamined = "CHEST"
    ds.PatientOrientation = list(evidence.PatientOrientation)
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER", "HEAT_MAP"]
    ds.BurnedInAnnotation = "YES"
    ds.ImageComments = DISCLAIMER
    _add_origin(ds, evidence, findings)
    _add_pixels(ds, paint(gray, findings.saliency, longest=LONGEST, caption=caption(findings)))
    complete(ds, evidence, findings, created, "heat map")
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    return ds


def caption(findings: ImageFindings) -> list[str]:
    """What is written below the picture, line by line."""
    mapped = {one.key for one in findings.saliency}
    shown = "; ".join(_in_words(f) for f in findings.present if f.key in mapped)
    others = "; ".join(_in_words(f) for f in findings.present if f.key not in mapped)
    return [
        f"{DISCLAIMER}. Not verified; research software.",
        f"Where the AI looked, purple weak, yellow strong: {shown}." if shown else "No heat map.",
        *([f"Found, without a map: {others}."] if others else []),
        _models(findings),
    ]


def _in_words(finding: Finding) -> str:
    words = label(finding, finding.probability)
    return f"{words}, {finding.laterality.value}" if finding.laterality else words


def _models(findings: ImageFindings) -> str:
    """Name and version of the models whose maps are shown, else of all that were asked."""
    names = {one.model for one in findings.saliency} or {run.model.name for run in findings.runs}
    return "; ".join(f"{run.model.name} {run.model.version}" for run in findings.runs if run.model.name in names)


def _add_origin(ds: Dataset, evidence: Dataset, findings: ImageFindings) -> None:
    """What the picture was made of (PS3.3 C.7.6.1, C.12.2); what was lossy once is so for ever (C.7.6.1.1.5)."""
    source = image_reference(evidence)
    source.PurposeOfReferenceCodeSequence = [coded(_SOURCE_OF_PROCESSING)]
    ds.SourceImageSequence = [source]
    series = dataset(
        SeriesInstanceUID=evidence.SeriesInstanceUID, ReferencedInstanceSequence=[image_reference(evidence)]
    )
    ds.ReferencedSeriesSequence = [series]
    ds.DerivationDescription = " ".join(["Heat map over the resampled image.", *caption(findings)])[:1024]
    if evidence.get("LossyImageCompression") == "01":
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if evidence.get(keyword):
                ds[keyword] = evidence[keyword]


def _add_pixels(ds: Dataset, picture: Picture) -> None:
    """Image Pixel module (PS3.3 C.7.6.3): RGB, colour by pixel."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = picture.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"

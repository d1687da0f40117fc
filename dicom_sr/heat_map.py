"""The heat maps as a Secondary Capture (PS3.3 A.8): a colour picture that the plainest viewer shows.

The rule: the picture itself says what it is, "AI, not for diagnosis", with the findings and the models, and nothing of
the patient. It adds to the measurement report and never replaces it (IHE AIR).

It is stored uncompressed. A picture of 1024 pixels has about 3 MB then, a fifth of its radiograph; JPEG would have a
tenth of that, but not every archive and viewer accepts it, and this object exists for those that accept little.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_sr.codes import side_of
from dicom_sr.equipment import complete
from dicom_sr.identity import image_result
from dicom_sr.measurement_groups import label
from dicom_sr.overlay_picture import SEEN, Picture, paint
from dicom_sr.result_object import add_origin, result_object, source_image
from models.findings import OF_ABSENCE, BoolMask, Finding, FloatMap, ImageFindings, Laterality, SaliencyMap

SERIES_NUMBER = 9003
LONGEST = 1024  # pixels
DISCLAIMER = "AI, not for diagnosis"


def encode_heat_map(
    evidence: Dataset,
    findings: ImageFindings,
    gray: FloatMap,
    created: datetime,
    *,
    number: int,
    predecessor_uid: str = "",
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
    predecessor_uid
        SOP Instance UID of the measurement report that its report replaces.
    """
    ds = result_object(
        evidence,
        image_result(findings, "SC", predecessor_uid),
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
    ds.SourceImageSequence = [source_image(evidence)]
    ds.DerivationDescription = " ".join(["Heat map over the resampled image.", *caption(findings)])[:1024]
    add_origin(ds, evidence)
    _add_pixels(ds, paint(gray, findings.saliency, longest=LONGEST, caption=caption(findings)))
    complete(ds, evidence, findings, created, "heat map")
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    return ds


def caption(findings: ImageFindings) -> list[str]:
    """What is written below the picture, line by line."""
    mapped = {one.key: one for one in findings.saliency}
    found = [finding for finding in findings.present if finding.key not in OF_ABSENCE]
    shown = "; ".join(_in_words(f, _lit(mapped[f.key], findings)) for f in found if f.key in mapped)
    others = "; ".join(_in_words(f, _sides(f)) for f in found if f.key not in mapped)
    return [
        f"{DISCLAIMER}. Not verified; research software.",
        f"Where the AI looked, purple weak, yellow strong: {shown}." if shown else "No heat map.",
        *([f"Found, without a map: {others}."] if others else []),
        _models(findings),
    ]


def _in_words(finding: Finding, lit: set[Laterality]) -> str:
    """The side is named only where it is what the picture shows."""
    words, side = label(finding, finding.probability), finding.laterality
    return f"{words}, {side.value}" if side and lit == _sides(finding) else words


def _sides(finding: Finding) -> set[Laterality]:
    both = {Laterality.RIGHT, Laterality.LEFT}
    return both if finding.laterality is Laterality.BILATERAL else {side for side in both if side is finding.laterality}


def _lit(heat: SaliencyMap, findings: ImageFindings) -> set[Laterality]:
    """The sides whose lung the map lights; none where there are no lungs to tell."""
    sides = ((side_of(segment.key), segment.mask) for segment in findings.segments)
    return {side for side, mask in sides if side is not None and _lights(heat.values, mask)}


def _lights(heat: FloatMap, mask: BoolMask) -> bool:
    """Whether a map is seen within a structure; both cover the same image."""
    rows, columns = (
        ((np.arange(cells) + 0.5) * pixels / cells).astype(int)
        for cells, pixels in zip(heat.shape, mask.shape, strict=True)
    )
    return bool((heat[mask[np.ix_(rows, columns)]] >= SEEN).any())


def _models(findings: ImageFindings) -> str:
    """Name and version of the models whose maps are shown, else of all that were asked."""
    names = {one.model for one in findings.saliency} or {run.model.name for run in findings.runs}
    return "; ".join(f"{run.model.name} {run.model.version}" for run in findings.runs if run.model.name in names)


def _add_pixels(ds: Dataset, picture: Picture) -> None:
    """Image Pixel module (PS3.3 C.7.6.3): RGB, colour by pixel."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = picture.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"

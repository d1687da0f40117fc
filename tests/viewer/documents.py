"""What may lie beside report and Segmentation: our other objects, made by ``dicom_sr``, and reports of other makers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from studies import CREATED, document

from dicom_sr import codes
from dicom_sr.content import CONTAINS, HAS_OBS_CONTEXT, code, container, number, text, uid
from dicom_sr.equipment import dataset
from dicom_sr.evidence import evidence
from dicom_sr.heat_map import encode_heat_map
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.presentation_state import encode_presentation_state
from dicom_sr.report.wording import load_wording
from dicom_sr.text_report import encode_text_report
from models.findings import ImageFindings, SaliencyMap
from models.study import StudyFindings

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


def text_report(image: Dataset, said: ImageFindings, report: Dataset) -> Dataset:
    """The preliminary report of the study."""
    together = StudyFindings(said.study_instance_uid, (said,))
    return encode_text_report([evidence(image, said)], together, [report], CREATED, wording=load_wording("en"))


def heat_map(image: Dataset, said: ImageFindings) -> Dataset:
    """Where the model looked for the opacity, as a secondary capture."""
    y, x = np.mgrid[:60, :50]
    values = np.exp(-(((x - 34) / 8) ** 2) - ((y - 37) / 8) ** 2).astype(np.float32)
    mapped = replace(said, saliency=(SaliencyMap(said.findings[0].key, values, said.runs[0].model.name),))
    gray = (image.pixel_array / 4095).astype(np.float32)
    return encode_heat_map(evidence(image, said), mapped, gray, CREATED, number=1)


def key_objects(image: Dataset, said: ImageFindings, report: Dataset) -> Dataset:
    """The image that presses."""
    selected = encode_key_objects(
        [evidence(image, said)], StudyFindings(said.study_instance_uid, (said,)), [report], CREATED, number=1
    )
    assert selected is not None
    return selected


def presentation_state(image: Dataset, said: ImageFindings) -> Dataset:
    """Boxes and lines as marks of a Grayscale Softcopy Presentation State."""
    return encode_presentation_state(evidence(image, said), said, CREATED, number=1)


def foreign_measurements(image: Dataset, *, tracked: bool = True) -> Dataset:
    """A TID 1500 report of another maker without any coordinates; older products write groups without tracking."""
    tracking = [
        text(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, "Heart size"),
        uid(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, generate_uid()),
    ]
    items = [
        code(CONTAINS, codes.FINDING, Code("8186001", "SCT", "Cardiomegaly")),
        number(CONTAINS, codes.CERTAINTY, 63.0, codes.PERCENT),
    ]
    group = container(CONTAINS, codes.MEASUREMENT_GROUP, [*(tracking if tracked else []), *items], "1501")
    measurements = container(CONTAINS, codes.IMAGING_MEASUREMENTS, [group])
    ds = document(image.StudyInstanceUID, generate_uid(), "SR", 20)
    ds.update(container(None, codes.IMAGING_MEASUREMENT_REPORT, [measurements], template="1500"))
    ds.SOPClassUID = COMPREHENSIVE_SR
    ds.SeriesDescription = "Other maker" if tracked else "Older product"
    reference = dataset(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    series = dataset(SeriesInstanceUID=image.SeriesInstanceUID, ReferencedSOPSequence=[reference])
    study = dataset(StudyInstanceUID=image.StudyInstanceUID, ReferencedSeriesSequence=[series])
    ds.CurrentRequestedProcedureEvidenceSequence = [study]
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    return ds

"""Studies for the browser: simple chest pictures as CR, DX and CT, and results encoded by ``dicom_sr`` itself."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from dicom_sr.references import reference_to
from dicom_sr.results import Results, encode_results
from models.findings import (
    Caution,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Line,
    Measurement,
    ModelIdentity,
    ModelRun,
    Priority,
    Region,
    SegmentMask,
    View,
)

CR_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ROWS, COLUMNS = 600, 500
CREATED = datetime(2026, 1, 2, 3, 4, 5)

Box = tuple[int, int, int, int]  # x, y, width, height
OPACITY: Box = (300, 330, 90, 80)
DIAMETERS = (Line(205.0, 470.0, 335.0, 470.0), Line(72.0, 480.0, 424.0, 480.0))


@dataclass(frozen=True)
class Study:
    """The objects of one study, images first."""

    uid: str
    objects: tuple[Dataset, ...]


def study(*objects: Dataset) -> Study:
    """The study that the first object belongs to."""
    return Study(objects[0].StudyInstanceUID, objects)


def lung_masks(shift: int = 0) -> dict[str, npt.NDArray[np.bool_]]:
    """Two ellipses, boolean (ROWS, COLUMNS); the patient's right lung is on the left of the picture."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    right = ((x - 150 - shift) / 80) ** 2 + ((y - 300) / 190) ** 2 < 1
    left = ((x - 350 - shift) / 75) ** 2 + ((y - 290) / 180) ** 2 < 1
    return {"lung_right": right, "lung_left": left}


def radiograph(  # every argument is an attribute that a case varies
    study_uid: str,
    *,
    modality: str = "DX",
    monochrome1: bool = False,
    series_uid: str | None = None,
    number: int = 1,
    shift: int = 0,
    opacity: Box = OPACITY,
    view: str = "PA",
    pixel_spacing: tuple[float, float] | None = None,
) -> Dataset:
    """A picture with bright mediastinum, dark lungs and one bright opacity; a lateral has one wide dark field."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    picture = 2600.0 - 900 * np.abs(x - COLUMNS / 2) / COLUMNS + 300 * y / ROWS
    if view == "LL":
        picture[((x - 250) / 170) ** 2 + ((y - 290) / 220) ** 2 < 1] = 1100
    else:
        for mask in lung_masks(shift).values():
            picture[mask] = 900 + 120 * np.sin(y[mask] / 14)
        left, top, width, height = opacity
        picture[top : top + height, left : left + width] += 900
    picture += np.random.default_rng(number).normal(0, 25, picture.shape)
    stored = np.clip(4095 - picture if monochrome1 else picture, 0, 4095).astype(np.uint16)

    ds = _image(study_uid, series_uid or generate_uid(), modality, number, stored)
    ds.SOPClassUID = DX_STORAGE if modality == "DX" else CR_STORAGE
    ds.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
    ds.ViewPosition, ds.BodyPartExamined, ds.PatientOrientation = view, "CHEST", ["L", "F"]
    ds.ImagerPixelSpacing = list(pixel_spacing or (0.7, 0.7))
    if pixel_spacing:
        ds.PixelSpacing = list(pixel_spacing)
    ds.WindowCenter, ds.WindowWidth = 2000, 3600
    if modality == "DX":
        ds.PresentationIntentType, ds.PresentationLUTShape = (
            "FOR PRESENTATION",
            "INVERSE" if monochrome1 else "IDENTITY",
        )
    return ds


def ct_slices(study_uid: str, count: int = 3) -> tuple[Dataset, ...]:
    """A few axial slices of a disc."""
    series_uid, frame_of_reference = generate_uid(), generate_uid()
    slices = []
    for n in range(count):
        y, x = np.mgrid[:256, :256]
        disc = np.where((x - 128) ** 2 + (y - 128) ** 2 < (80 + 10 * n) ** 2, 900 + x, 0).astype(np.uint16)
        ds = _image(study_uid, series_uid, "CT", 5, disc)
        ds.SOPClassUID, ds.PhotometricInterpretation = CT_STORAGE, "MONOCHROME2"
        ds.InstanceNumber, ds.FrameOfReferenceUID = n + 1, frame_of_reference
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 5.0 * n], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1.0, 1.0], 5.0
        ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
        ds.WindowCenter, ds.WindowWidth = 40, 400
        slices.append(ds)
    return tuple(slices)


def findings(
    image: Dataset,
    *,
    key: str = "lung_opacity",
    boxes: tuple[Box, ...] = (OPACITY,),
    shift: int = 0,
    version: str = "1.0.0",
    segmented: bool = True,
    measured: bool = False,
    failed: bool = False,
) -> ImageFindings:
    """What a model says: one finding with its boxes (none: nothing is present), others absent or not evaluated."""
    model = ModelIdentity("chest_findings", version, "ab" * 32, "cd" * 32)
    regions = tuple(Region(*map(float, box), score=0.91, laterality=Laterality.LEFT) for box in boxes)
    said = ImageFindings(
        study_instance_uid=image.StudyInstanceUID,
        sop_class_uid=image.SOPClassUID,
        sop_instance_uid=image.SOPInstanceUID,
        rows=image.Rows,
        columns=image.Columns,
        view=View.PA,
        runs=(ModelRun(model),),
        findings=(
            Finding(key, FindingState.PRESENT, 0.91, 0.5, Laterality.LEFT, regions, model=model.name)
            if boxes
            else Finding(key, FindingState.ABSENT, 0.11, 0.5, model=model.name),
            Finding("effusion", FindingState.ABSENT, 0.04, 0.5, model=model.name),
            Finding("consolidation", FindingState.UNDETERMINED, 0.42, 0.5, model=model.name),
            Finding("pneumothorax", FindingState.NOT_EVALUATED, reason="evidence", model=model.name),
        ),
        segments=tuple(SegmentMask(k, m, model.name) for k, m in lung_masks(shift).items()) if segmented else (),
        measurements=(
            (Measurement("cardiothoracic_ratio", 0.3693, "1", model.name, DIAMETERS, Caution.AP_VIEW),)
            if measured
            else ()
        ),
        priority=Priority.URGENT if boxes else Priority.ROUTINE,
        priority_reason="Opacity 91 %" if boxes else "",
    )
    if not failed:
        return said
    unknown = tuple(
        Finding(f.key, FindingState.NOT_EVALUATED, reason="model_failed", model=model.name) for f in said.findings
    )
    failure = (ModelRun(model, failure="model_failed"),)
    bare = replace(said, runs=failure, findings=unknown, segments=(), measurements=())
    return replace(bare, priority=Priority.NONE, priority_reason="")


def encode(
    image: Dataset, said: ImageFindings, *, created: datetime = CREATED, replaces: Dataset | None = None
) -> tuple[Dataset, ...]:
    """The report and the Segmentation, if there is one, as the node would store them."""
    before = replaces and reference_to(replaces)
    encoded: Results = encode_results(image, said, created, predecessors=[before] if before else [])
    return tuple(ds for ds in (encoded.measurement_report, encoded.segmentation) if ds is not None)


def part10(ds: Dataset) -> bytes:
    """The object as a file."""
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _image(study_uid: str, series_uid: str, modality: str, number: int, pixels: npt.NDArray[np.uint16]) -> Dataset:
    ds = document(study_uid, series_uid, modality, number)
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()
    return ds


def document(study_uid: str, series_uid: str, modality: str, number: int) -> Dataset:
    """An object without content: patient, study and series."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study_uid, series_uid, generate_uid()
    # A patient of its own for each study, or OHIF lists the studies of all tests beside each other.
    ds.PatientName, ds.PatientID = "Browser^Test", f"VIEWER-{study_uid[-12:]}"
    ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber, ds.StudyID = "19600101", "F", "A1", "1"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20260102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "030000"
    ds.StudyDescription = "Chest"
    ds.SeriesDescription = f"{modality} {number}"
    ds.ReferringPhysicianName, ds.Manufacturer = "", "Test"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, number, number
    return ds

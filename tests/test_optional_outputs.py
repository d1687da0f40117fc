"""Heat map, presentation state and key objects: valid from awkward sources, and right where they point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import UID
from test_measurement_report import AWKWARD, CREATED, PHANTOM, file_bytes, findings_for, rewritten, source

from dicom_sr import identity
from dicom_sr.evidence import evidence
from dicom_sr.heat_map import encode_heat_map
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.ownership import is_own_result
from dicom_sr.presentation_state import encode_presentation_state
from dicom_sr.results import encode_results
from models.findings import Caution, ImageFindings, Line, Measurement, Priority, SaliencyMap
from models.phantom import chest
from models.rendering import render
from models.study import StudyFindings
from orthanc_plugin.settings import REPOSITORY

KINDS = ("SC", "PR", "KO")
# of the patient; the left lung lies at the right of the picture
HOT_ROW, HOT_COLUMN = 150, 180


def full_findings(ds: Dataset) -> ImageFindings:
    """With a map, boxes and the two diameters."""
    down, across = np.mgrid[:75, :65]
    heat = np.exp(-((across * 4 + 2 - HOT_COLUMN) ** 2 + (down * 4 + 2 - HOT_ROW) ** 2) / 800).astype(np.float32)
    lines = (Line(80.5, 200, 180.25, 200), Line(20, 230, 240, 230.0625))
    return replace(
        findings_for(ds),
        saliency=(SaliencyMap("lung_opacity", heat, "chest_findings"),),
        measurements=(Measurement("cardiothoracic_ratio", 0.453, "1", "lung_fields", lines, Caution.AP_VIEW),),
    )


def optional_outputs(ds: Dataset) -> dict[str, Dataset]:
    findings = full_findings(ds)
    light = evidence(ds, findings)
    made = encode_results(ds, findings, CREATED)
    study = StudyFindings(findings.study_instance_uid, (findings,))
    selected = encode_key_objects([light], study, [made.measurement_report], CREATED, number=1)
    assert selected is not None
    gray = np.asarray(PHANTOM.pixels, np.float32)
    return {
        "SC": encode_heat_map(light, findings, gray, CREATED, number=1),
        "PR": encode_presentation_state(light, findings, CREATED, number=1),
        "KO": selected,
    }


def errors(path: Path) -> list[str]:
    """What dciodvfy finds wrong."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, errors="replace")
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def stored(ds: Dataset, path: Path) -> Path:
    path.write_bytes(file_bytes(ds))
    return path


def non_square(ds: Dataset) -> None:
    ds.ImagerPixelSpacing = ["0.3", "0.15"]


def with_shutter(ds: Dataset) -> None:
    ds.ShutterShape = "RECTANGULAR"
    ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge = "10", "250"
    ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge = "10", "290"


def lossy(ds: Dataset) -> None:
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_15444_1"
    ds.LossyImageCompressionRatio = "12.5"


def with_time_zone(ds: Dataset) -> None:
    ds.TimezoneOffsetFromUTC = "+0900"


MORE = {
    "non-square pixels": ({}, non_square),
    "shutter": ({}, with_shutter),
    "lossy": ({"modality": "CR"}, lossy),
    "time zone": ({}, with_time_zone),
}


@pytest.mark.parametrize("case", [*AWKWARD, *MORE])
def test_optional_outputs_of_awkward_sources_are_valid_and_keep_the_patient(case: str, tmp_path: Path) -> None:
    how, change = (AWKWARD | MORE)[case]
    ds = rewritten(source(**how), change)
    made, again = optional_outputs(ds), optional_outputs(ds)
    for kind in KINDS:
        assert file_bytes(made[kind]) == file_bytes(again[kind])
        path = stored(made[kind], tmp_path / f"{kind}.dcm")
        assert errors(path) == []
        read = dcmread(path)
        assert str(read.PatientName) == ("Ренуар^Ж" if case == "undeclared UTF-8" else str(ds.get("PatientName", "")))
        for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID", "AccessionNumber"):
            assert (read.get(keyword) or "") == (ds.get(keyword) or ""), keyword
        assert read.StudyInstanceUID == ds.StudyInstanceUID
        assert read.get("StudyDescription") == ds.get("StudyDescription")
        assert read.SpecificCharacterSet == "ISO_IR 192"
        assert is_own_result(read.Modality, read.Manufacturer)
        assert [i.ManufacturerModelName for i in read.ContributingEquipmentSequence] == [
            "lung_fields",
            "chest_findings",
        ]
        assert read.SeriesDescription.startswith("AI Hilum 0.1.0 ")
        dates = {str(e.value) for e in read if e.VR == "DA" and e.keyword != "StudyDate" and "Birth" not in e.keyword}
        assert dates == {"20260102"}
        times = {str(e.value) for e in read if e.VR == "TM" and e.keyword != "StudyTime"}
        assert times == {"120405" if case == "time zone" else "030405"}
        for element in read.iterall():
            if element.VR == "UI" and isinstance(element.value, str) and element.value:
                assert UID(element.value).is_valid, element


_TWICE = """
import sys
sys.path[:0] = [{repository!r}, {tests!r}]
import hashlib
from test_optional_outputs import KINDS, file_bytes, optional_outputs, source
made = optional_outputs(source())
print(hashlib.sha256(b"".join(file_bytes(made[kind]) for kind in KINDS)).hexdigest())
"""


def test_two_processes_make_the_same_optional_outputs() -> None:
    code = _TWICE.format(repository=str(REPOSITORY), tests=str(REPOSITORY / "tests"))
    seeded = [{"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"} for seed in ("1", "2")]
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        for env in seeded
    }
    assert len(runs) == 1
    assert len(runs.pop().strip()) == 64


def test_their_identity_is_known_before_they_are_made_and_each_has_its_series() -> None:
    ds = source()
    findings, made = full_findings(ds), optional_outputs(ds)
    expected = {kind: identity.image_result(findings, kind) for kind in ("SC", "PR")}
    reports = [identity.image_result(findings, "SR").instance]
    expected["KO"] = identity.study_result(StudyFindings(findings.study_instance_uid, (findings,)), "KO", reports)
    for kind in KINDS:
        assert made[kind].SOPInstanceUID == expected[kind].instance
        assert made[kind].SeriesInstanceUID == expected[kind].series
        assert made[kind].file_meta.MediaStorageSOPInstanceUID == expected[kind].instance
    assert [int(made[kind].SeriesNumber) for kind in KINDS] == [9003, 9005, 9006]
    assert [made[kind].Modality for kind in KINDS] == ["OT", "PR", "KO"]


# --- heat map


def test_the_heat_map_is_hottest_where_the_map_is_and_gray_elsewhere(tmp_path: Path) -> None:
    ds = source()
    made = dcmread(stored(optional_outputs(ds)["SC"], tmp_path / "sc.dcm"))
    picture = made.pixel_array
    assert picture.shape == (made.Rows, made.Columns, 3)
    assert picture.shape[1] == 320  # the caption is wider than this small phantom
    image = picture[:300, :260].astype(np.int64)
    colour = np.ptp(image, axis=-1)
    hot = image[..., 1] - image[..., 2]  # green over blue: rises from purple to yellow
    row, column = np.unravel_index(int(hot.argmax()), hot.shape)
    assert abs(row - HOT_ROW) < 12
    assert abs(column - HOT_COLUMN) < 12
    assert colour[:, :100].max() == 0  # the other lung
    assert np.abs(image[:, :100, 0] - 255 * np.asarray(PHANTOM.pixels)[:, :100]).max() <= 1
    band = picture[300:]
    assert np.median(band) < 30
    assert band.max() > 150


def test_the_heat_map_says_what_it_is_and_of_which_image() -> None:
    ds = source()
    made = optional_outputs(ds)["SC"]
    assert made.BurnedInAnnotation == "YES"
    assert made.ImageComments == "AI, not for diagnosis"
    assert list(made.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert list(made.PatientOrientation) == list(ds.PatientOrientation)
    (origin,) = made.SourceImageSequence
    assert (origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert origin.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == ds.SeriesInstanceUID
    for told in ("AI, not for diagnosis", "Lung opacity 87 %, left", "chest_findings 0.1.0"):
        assert told in made.DerivationDescription
    assert "lung_fields" not in made.DerivationDescription  # its maps are not shown
    assert "PixelSpacing" not in made


def test_nothing_of_the_patient_enters_the_picture() -> None:
    pictures = {optional_outputs(source(patient_name=name, patient_id=name))["SC"].PixelData for name in ("A^B", "C")}
    assert len(pictures) == 1


def test_a_lossy_source_makes_a_lossy_heat_map() -> None:
    made = optional_outputs(rewritten(source(), lossy))["SC"]
    assert (made.LossyImageCompression, made.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert float(made.LossyImageCompressionRatio) == 12.5
    assert "LossyImageCompressionRatio" not in optional_outputs(source())["SC"]


def test_a_finding_without_a_map_is_named_as_such(tmp_path: Path) -> None:
    ds = source()
    findings = replace(full_findings(ds), saliency=())
    made = encode_heat_map(evidence(ds, findings), findings, np.zeros((300, 260), np.float32), CREATED, number=2)
    assert "No heat map. Found, without a map: Lung opacity 87 %, left." in made.DerivationDescription
    assert int(made.InstanceNumber) == 2
    assert np.ptp(made.pixel_array.astype(int), axis=-1).max() == 0
    assert errors(stored(made, tmp_path / "sc.dcm")) == []


@pytest.mark.parametrize("shape", [(16, 16), (20, 3000), (3000, 20), (2500, 3000)])
def test_a_heat_map_of_any_shape_is_valid(shape: tuple[int, int], tmp_path: Path) -> None:
    ds = source()
    findings = full_findings(ds)
    made = encode_heat_map(evidence(ds, findings), findings, np.full(shape, 0.5, np.float32), CREATED, number=1)
    assert max(made.Rows, made.Columns) <= 1024
    assert len(made.PixelData) % 2 == 0
    assert errors(stored(made, tmp_path / "sc.dcm")) == []


# --- presentation state


def test_the_marks_lie_where_the_findings_say(tmp_path: Path) -> None:
    ds = source()
    made = dcmread(stored(optional_outputs(ds)["PR"], tmp_path / "pr.dcm"))
    (annotation,) = made.GraphicAnnotationSequence
    assert annotation.GraphicLayer == made.GraphicLayerSequence[0].GraphicLayer == "AI"
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID
    drawn = [list(graphic.GraphicData) for graphic in annotation.GraphicObjectSequence]
    assert drawn == [
        [150.5, 120.0, 210.5, 120.0, 210.5, 190.25, 150.5, 190.25, 150.5, 120.0],
        [40.0, 50.0, 60.0, 50.0, 60.0, 70.0, 40.0, 70.0, 40.0, 50.0],
        [80.5, 200.0, 180.25, 200.0],
        [20.0, 230.0, 240.0, 230.0625],
    ]
    for graphic in annotation.GraphicObjectSequence:
        assert (graphic.GraphicType, graphic.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
        assert graphic.NumberOfGraphicPoints * 2 == len(graphic.GraphicData)
    texts = {text.UnformattedTextValue: text for text in annotation.TextObjectSequence}
    assert list(texts["Lung opacity 87 %"].AnchorPoint) == [150.5, 120.0]
    assert list(texts["Lung opacity 61 %"].AnchorPoint) == [40.0, 50.0]
    ratio = "Cardiothoracic ratio 0.45 (AP view: the heart looks larger)"
    assert list(texts[ratio].AnchorPoint) == [80.5, 200.0]
    assert "AI, not verified, not for diagnosis" in texts
    assert len(texts) == 4
    assert made.ContentLabel == "AI_RESULT"
    (series,) = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == ds.SeriesInstanceUID


def test_without_marks_the_presentation_state_says_only_what_it_is(tmp_path: Path) -> None:
    ds = source()
    findings = replace(full_findings(ds), findings=(), measurements=())
    made = encode_presentation_state(evidence(ds, findings), findings, CREATED, number=1)
    (annotation,) = made.GraphicAnnotationSequence
    assert "GraphicObjectSequence" not in annotation
    (text,) = annotation.TextObjectSequence
    assert "not verified" in text.UnformattedTextValue
    assert errors(stored(made, tmp_path / "pr.dcm")) == []


def test_the_whole_image_is_shown_in_its_true_proportions() -> None:
    square = optional_outputs(source())["PR"].DisplayedAreaSelectionSequence[0]
    assert list(square.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(square.DisplayedAreaBottomRightHandCorner) == [260, 300]
    assert list(square.PresentationPixelAspectRatio) == [1, 1]
    tall = optional_outputs(rewritten(source(), non_square))["PR"].DisplayedAreaSelectionSequence[0]
    assert list(tall.PresentationPixelAspectRatio) == [2, 1]

    def told(ds: Dataset) -> None:
        del ds.ImagerPixelSpacing
        ds.PixelAspectRatio = ["3", "4"]

    assert list(
        optional_outputs(rewritten(source(), told))["PR"].DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio
    ) == [3, 4]


def table(descriptor: list[int], entries: np.ndarray) -> Dataset:
    item = Dataset()
    item.add(DataElement(0x00283002, "US", descriptor))
    item.add(DataElement(0x00283006, "OW", entries.astype("<u2").tobytes()))
    return item


def narrow_window(ds: Dataset) -> None:
    ds.WindowCenter, ds.WindowWidth = ["1500", "2048"], ["1200", "4096"]


def negative_slope(ds: Dataset) -> None:
    ds.RescaleSlope, ds.RescaleIntercept = "-1", "4095"
    ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"


def slope_of_too_many_digits(ds: Dataset) -> None:
    ds.RescaleSlope = "0.5000000000000001"
    ds["RescaleSlope"].value.original_string = "0.50000000000000010"
    ds.WindowCenter, ds.WindowWidth = "800", "900"


def voi_table(ds: Dataset) -> None:
    del ds.WindowCenter, ds.WindowWidth
    ds.VOILUTSequence = Sequence([table([4096, 0, 12], 4095 * np.linspace(0, 1, 4096) ** 2)])


def modality_table(ds: Dataset) -> None:
    del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType
    item = table([4096, 0, 16], 65535 * np.linspace(0, 1, 4096) ** 0.5)
    item.ModalityLUTType = "US"
    ds.ModalityLUTSequence = Sequence([item])
    ds.WindowCenter, ds.WindowWidth = "40000", "40000"


def no_window(ds: Dataset) -> None:
    del ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType


DISPLAYS: dict[str, tuple[dict[str, object], Callable[[Dataset], None]]] = {
    "MONOCHROME2": ({}, lambda _: None),
    "MONOCHROME1": ({"monochrome1": True}, lambda _: None),
    "first of two windows": ({}, narrow_window),
    "negative slope and MONOCHROME1": ({}, negative_slope),
    "slope of too many digits": ({"modality": "CR"}, slope_of_too_many_digits),
    "VOI LUT": ({}, voi_table),
    "modality LUT": ({"modality": "CR"}, modality_table),
    "no window": ({"modality": "CR"}, no_window),
    "8 bits": ({"bits_stored": 8}, lambda _: None),
}


@pytest.mark.parametrize("case", DISPLAYS)
def test_dcmtk_shows_the_image_under_the_presentation_state_as_the_models_see_it(case: str, tmp_path: Path) -> None:
    how, change = DISPLAYS[case]
    ds = source(**how)
    change(ds)
    image = stored(ds, tmp_path / "image.dcm")
    state = stored(optional_outputs(dcmread(image))["PR"], tmp_path / "pr.dcm")
    assert errors(state) == []
    picture = tmp_path / "shown.pgm"
    done = subprocess.run(
        ["dcmp2pgm", "-p", str(state), str(image), str(picture)], capture_output=True, text=True, check=True
    )
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("E:", "W:"))]
    shown = np.asarray(Image.open(picture), np.float64) / 255
    expected = render(dcmread(image)).pixels
    assert shown.shape == expected.shape
    low, high = shown.min(), shown.max()
    assert np.abs((shown - low) / (high - low) - expected).max() < 0.02


def test_the_shutter_of_the_image_stays_closed(tmp_path: Path) -> None:
    made = optional_outputs(rewritten(source(), with_shutter))["PR"]
    assert (made.ShutterShape, int(made.ShutterRightVerticalEdge), made.ShutterPresentationValue) == (
        "RECTANGULAR",
        250,
        0,
    )
    assert "ShutterShape" not in optional_outputs(source())["PR"]
    assert errors(stored(made, tmp_path / "pr.dcm")) == []


# --- key objects


def two_images() -> tuple[list[Dataset], StudyFindings, list[Dataset]]:
    """A study with a pressing and a routine image, each with its report."""
    pressing, routine = source(study="one"), radiograph_of_the_same_study()
    images = (
        replace(full_findings(pressing), priority=Priority.CRITICAL, priority_reason="Pneumothorax 93 %, right"),
        replace(full_findings(routine), priority=Priority.ROUTINE),
    )
    reports = [
        encode_results(ds, one, CREATED).measurement_report for ds, one in zip((pressing, routine), images, strict=True)
    ]
    lights = [evidence(ds, one) for ds, one in zip((pressing, routine), images, strict=True)]
    return lights, StudyFindings(images[0].study_instance_uid, images), reports


def radiograph_of_the_same_study() -> Dataset:
    from orthanc_plugin.commands.modality import Exposure, radiograph

    return radiograph(chest(2, rows=300, columns=260).pixels, Exposure(seed="second", study="one"))


def test_only_the_pressing_images_are_selected_with_what_was_made_of_them(tmp_path: Path) -> None:
    lights, study, reports = two_images()
    made = encode_key_objects(lights, study, reports, CREATED, number=1)
    assert made is not None
    path = stored(made, tmp_path / "ko.dcm")
    assert errors(path) == []
    listed = {
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: i.ValueType
        for i in made.ContentSequence
        if "ReferencedSOPSequence" in i
    }
    segmentation = identity.image_result(study.images[0], "SEG").instance
    assert listed == {
        study.images[0].sop_instance_uid: "IMAGE",
        reports[0].SOPInstanceUID: "COMPOSITE",
        segmentation: "IMAGE",
    }
    # its evidence is complete, and in the series in which each object is
    series = {
        sop.ReferencedSOPInstanceUID: one.SeriesInstanceUID
        for one in made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for sop in one.ReferencedSOPSequence
    }
    assert series == {
        study.images[0].sop_instance_uid: lights[0].SeriesInstanceUID,
        reports[0].SOPInstanceUID: reports[0].SeriesInstanceUID,
        segmentation: identity.image_result(study.images[0], "SEG").series,
    }
    read = hd.ko.KeyObjectSelectionDocument.from_dataset(dcmread(path))
    assert len(read.content.get_references()) == 3
    dumped = subprocess.run(["dsrdump", "+Pl", str(path)], capture_output=True, text=True, check=True)
    assert "Of Interest" in dumped.stdout
    assert "Image 1 of 2 (PA) is critical: Pneumothorax 93 %, right." in dumped.stdout
    assert "selected by AI, not verified" in dumped.stdout
    assert dumped.stdout.count("contains IMAGE") + dumped.stdout.count("contains COMPOSITE") == 3


def test_nothing_is_selected_where_nothing_presses() -> None:
    lights, study, reports = two_images()
    for priority in (Priority.ROUTINE, Priority.NONE):
        calm = replace(study, images=tuple(replace(image, priority=priority) for image in study.images))
        assert encode_key_objects(lights, calm, reports, CREATED, number=1) is None


def test_an_urgent_image_is_selected_even_without_a_report(tmp_path: Path) -> None:
    lights, study, _ = two_images()
    made = encode_key_objects(lights, study, [], CREATED, number=1)
    assert made is not None
    assert [i.ValueType for i in made.ContentSequence if "ReferencedSOPSequence" in i] == ["IMAGE"]
    assert errors(stored(made, tmp_path / "ko.dcm")) == []

"""Copies that leave the archive name nobody, belong together, and say what the originals say."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.uid import EncapsulatedPDFStorage
from rich.console import Console
from running_node import Node
from test_measurement_report import CREATED, findings_for, source

from dicom_sr.content import CONTAINS, text
from dicom_sr.measurement_report import codes
from dicom_sr.reader import is_measurement_report, read_study
from dicom_sr.results import encode_results
from models.phantom import Pathology, chest
from orthanc_plugin.access import audit_files
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.deidentification import NotCopied, Pseudonyms, deidentified
from orthanc_plugin.commands.deidentify import deidentify
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.settings import Settings

MARKER = "QUETZALCOATL"
MARKED_UID, MARKED_DATE, MARKED_TIME, MARKED_NUMBER = "1.2.840.73819465028.7", "19370819", "113755.73819", "73819465"
SITE = Pseudonyms(b"a key of the site's, 32 bytes ..")
_VALUES = {"UI": MARKED_UID, "DA": MARKED_DATE, "TM": MARKED_TIME, "DT": f"{MARKED_DATE}{MARKED_TIME}",
           "AS": "073Y", "DS": MARKED_NUMBER, "IS": MARKED_NUMBER, "UR": f"http://{MARKER}.org"}  # fmt: skip
_TEXT = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
# A number alone, a way to compress, what the file itself is made of: set by us or no text.
_OWN = {0x00020003, 0x0040A730, 0x00080018, 0x0020000D}


def marked() -> tuple[Dataset, list[str]]:
    """A radiograph with the marker in every attribute of the table that can hold it, and within one that can not."""
    ds, within, named = source(), Dataset(), []
    for tags in (getattr(table, name) for name in dir(table) if name.endswith("_TAGS")):
        for tag in (tag for tag in tags if len(tag) == 2):
            try:
                vr = dictionary_VR(tag).split(" or ")[0]
            except KeyError:  # retired beyond what pydicom knows
                vr = "LO"
            value = MARKER if vr in _TEXT else _VALUES.get(vr)
            number = tag[0] << 16 | tag[1]
            if value is None or number in _OWN or tag[0] <= 2:
                continue
            for place in (ds, within):
                place.add(DataElement(number, vr, value))
            named.append(f"{number:08x}")
    ds.AnatomicRegionSequence = [within]
    block = ds.private_block(0x0011, MARKER, create=True)
    block.add_new(0x01, "LO", MARKER)
    ds.add_new(0x60003000, "OW", MARKER.encode())
    ds.add_new(0x60024000, "LT", MARKER)
    return ds, named


def bytes_of(ds: Dataset) -> bytes:
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def told(file: bytes) -> list[str]:
    """Which marks a file holds."""
    marks = (MARKER, MARKED_UID, MARKED_DATE, MARKED_TIME, MARKED_NUMBER)
    return [mark for mark in marks if mark.encode() in file or mark.encode("utf-16-le") in file]


def test_nothing_that_the_table_names_stays_at_any_depth() -> None:
    ds, named = marked()
    assert len(named) > 500
    assert len(told(bytes_of(ds))) == 5
    before, pixels = ds.to_json(), ds.PixelData
    copy = deidentified(ds, SITE)
    assert told(bytes_of(copy)) == []
    assert copy.PixelData == pixels
    assert ds.to_json() == before, "the original is not touched"
    assert (copy.PatientIdentityRemoved, copy.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert [code.CodeValue for code in copy.DeidentificationMethodCodeSequence] == ["113100"]


def test_a_patient_has_one_pseudonym_and_only_with_the_key() -> None:
    first, second = source(), source()
    second.StudyInstanceUID, second.SOPInstanceUID = "1.2.3.4", "1.2.3.5"
    one, two = deidentified(first, SITE), deidentified(second, SITE)
    assert one.PatientID == two.PatientID == one.PatientName != first.PatientID
    assert one.StudyInstanceUID != two.StudyInstanceUID
    assert deidentified(first, SITE).SOPInstanceUID == one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID
    assert deidentified(first, Pseudonyms(b"another key of 16")).PatientID != one.PatientID
    second.IssuerOfPatientID = "another hospital"
    assert deidentified(second, SITE).PatientID != one.PatientID
    first.PatientID = second.PatientID = ""
    assert deidentified(first, SITE).PatientID != deidentified(second, SITE).PatientID


def test_a_report_says_what_it_said_without_what_people_wrote() -> None:
    ds = source()
    findings = findings_for(ds)
    results = encode_results(ds, findings, CREATED)
    report, segmentation = results.measurement_report, results.segmentation
    assert segmentation is not None
    report.ContentSequence.append(text(CONTAINS, codes.ROUTE, MARKER))
    written = Dataset()
    written.ValueType, written.RelationshipType, written.PersonName = "PNAME", "HAS OBS CONTEXT", MARKER
    report.ContentSequence[0].ContentSequence = [written]
    assert told(bytes_of(report)) == [MARKER]
    copies = [deidentified(each, SITE) for each in (report, segmentation)]
    assert [told(bytes_of(copy)) for copy in copies] == [[], []]
    (read,) = read_study(copies).images
    assert read.sop_instance_uid == deidentified(ds, SITE).SOPInstanceUID
    assert [(f.key, f.state, f.probability) for f in read.findings] == [
        (f.key, f.state, f.probability) for f in findings.findings
    ]
    assert len(read.segments) == len(findings.segments) > 0
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(read.segments, findings.segments, strict=True))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_copies_are_valid_dicom(tmp_path: Path) -> None:
    results = encode_results(source(), findings_for(source()), CREATED)
    image = radiograph(chest(1).pixels, Exposure())
    for number, original in enumerate((image, results.measurement_report, results.segmentation)):
        assert original is not None
        deidentified(original, SITE).save_as(tmp_path / str(number), enforce_file_format=True)
        told = subprocess.run(["dciodvfy", tmp_path / str(number)], capture_output=True, text=True, check=False).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == []


def test_what_cannot_be_known_to_name_nobody_is_not_copied() -> None:
    ds = source()
    ds.BurnedInAnnotation = "YES"
    with pytest.raises(NotCopied, match="burned into"):
        deidentified(ds, SITE)
    ds = source()
    ds.SOPClassUID = EncapsulatedPDFStorage
    with pytest.raises(NotCopied, match="are not copied"):
        deidentified(ds, SITE)


@pytest.mark.node
def test_a_study_of_the_node_is_copied_with_its_results_and_recorded(hilum_node: Node, tmp_path: Path) -> None:
    settings = hilum_node.settings
    drawn = chest(5, pathologies=(Pathology("lung_opacity", size=0.8, height=0.6),))
    ds = radiograph(drawn.pixels, Exposure(seed="deidentified"))
    ds.PatientName, ds.PatientID, ds.AccessionNumber = f"{MARKER}^A", MARKER, MARKER
    ds.StudyDescription, ds.StudyDate, ds.StudyTime = f"Chest {MARKER}", MARKED_DATE, MARKED_TIME
    where = "127.0.0.1", settings.dicom_port, settings.ae_title, modality.caller_of(settings)
    assert all(outcome.accepted for outcome in modality.send([ds], *where))
    study = ds.StudyInstanceUID
    assert hilum_node.wait_for(study)["status"] == "done"
    out = StringIO()
    assert deidentify(settings, tmp_path / "out", [study], Console(file=out, width=200)) == 0
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    copies = [dcmread(file) for file in files]
    assert sorted(copy.Modality for copy in copies) == ["DX", "SEG", "SR"]
    assert {file.parent.parent.name for file in files} == {copy.PatientID for copy in copies}
    for file in files:
        assert told(file.read_bytes()) == [], file
        for uid in (study, ds.SeriesInstanceUID, ds.SOPInstanceUID):
            assert uid.encode() not in file.read_bytes()
    originals = hilum_node.objects(study)
    (then,), (now,) = read_study(originals).images, read_study(copies).images
    assert [(f.key, f.state, f.probability) for f in now.findings] == [
        (f.key, f.state, f.probability) for f in then.findings
    ]
    assert len([each for each in originals if is_measurement_report(each)]) == 1
    assert "Nobody has looked at their pixels" in out.getvalue()
    assert "left out: neither a radiograph nor a current SR or SEG of Hilum" in out.getvalue()
    assert MARKER not in out.getvalue()
    entries = [entry for entry in audit_files.read(settings.audit) if entry.get("action") == "deidentify"]
    assert [entry["study"] for entry in entries] == [study]
    assert settings.deidentification_key.stat().st_mode & 0o077 == 0
    assert deidentify(settings, tmp_path / "out", ["1.2.3"], Console(file=out)) == 1


def test_a_node_that_does_not_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="start the node first"):
        deidentify(Settings(home=tmp_path, http_port=1), tmp_path / "out", ["1.2.3"], Console(file=StringIO()))

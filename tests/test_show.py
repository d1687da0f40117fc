"""What `./hilum show` prints of results, from files and from a node."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from broken_results import files
from pydicom import dcmread
from rich.console import Console
from test_measurement_report import CREATED, file_bytes, findings_for, source

from dicom_sr.evidence import evidence
from dicom_sr.references import reference_to
from dicom_sr.report.wording import load_wording
from dicom_sr.results import encode_results
from dicom_sr.text_report import encode_text_report
from models.findings import Precision
from models.study import StudyFindings
from orthanc_plugin.commands.show import show
from orthanc_plugin.settings import Settings


def printed(names: list[str], home: Path) -> tuple[int, str]:
    out = StringIO()
    code = show(Settings(home=home), names, Console(file=out, width=110))
    return code, out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two versions of a study's results, as files."""
    ds = source()
    findings = findings_for(ds)
    first = encode_results(ds, findings, CREATED)
    old = first.measurement_report
    before = reference_to(old)
    second = encode_results(ds, findings, CREATED, number=2, predecessors=[before])
    study = StudyFindings(findings.study_instance_uid, (findings,), ("view",))
    text = encode_text_report(
        [evidence(ds, findings)], study, [second.measurement_report], CREATED, wording=load_wording("en")
    )
    for result in (old, first.segmentation, second.measurement_report, second.segmentation, text):
        assert result is not None
        (tmp_path / f"{result.SOPInstanceUID}.dcm").write_bytes(file_bytes(result))
    (tmp_path / "notes.txt").write_text("no DICOM")
    return tmp_path


def test_a_folder_is_read_as_a_person_would(folder: Path) -> None:
    code, text = printed([str(folder)], folder)
    assert code == 0
    for words in (
        "PA view, 260 x 300 pixels",
        "Priority urgent: Lung opacity 87 %, left",
        "chest_findings 0.1.0 answered",
        "Cardiothoracic ratio 0.53 (ap view)",
        "Outlined: lung right",
        "Cautions: age unknown",
        "A lung opacity on the left is likely (87 %).",
        "1 earlier report, superseded",
        "not a medical device",
    ):
        assert words in text, words
    states = {line.split("  ")[0].strip(): line for line in text.splitlines() if "  " in line}
    assert "absent" in states["Effusion"]
    assert "4.0 %" in states["Effusion"]
    assert "model failed" in states["Mass"]
    assert "evidence" in states["Pneumothorax"]


def test_a_precision_is_told_in_words_unless_it_is_float32(folder: Path) -> None:
    _, text = printed([str(folder)], folder)
    assert "answered (weights" in text
    for file in folder.glob("*.dcm"):
        file.unlink()
    ds = source()
    findings = findings_for(ds)
    first, second = findings.runs
    runs = (replace(first, precision=Precision.INT8), replace(second, precision=Precision.BFLOAT16))
    report = encode_results(ds, replace(findings, runs=runs), CREATED).measurement_report
    (folder / "report.dcm").write_bytes(file_bytes(report))
    _, text = printed([str(folder)], folder)
    assert "lung_fields 0.1.0 answered in 8-bit integers (weights aaaaaaaaaaaa)" in text
    assert "chest_findings 0.1.0 answered in bfloat16 (weights cccccccccccc)" in text


def test_nothing_of_the_patient_is_printed(folder: Path) -> None:
    ds = source()
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "Nemo^Ulla", "P-4711", "A-815"
    results = encode_results(ds, findings_for(ds), CREATED)
    for file in folder.glob("*.dcm"):
        file.unlink()
    (folder / "report.dcm").write_bytes(file_bytes(results.measurement_report))
    _, text = printed([str(folder)], folder)
    assert "Lung opacity" in text
    for value in ("Nemo", "Ulla", "P-4711", "A-815"):
        assert value not in text


def test_what_holds_no_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image.dcm"
    image.write_bytes(file_bytes(source()))
    assert printed([str(image)], tmp_path)[0] == 1
    assert "no report of Hilum" in capsys.readouterr().err
    assert printed(["no/such/file"], tmp_path)[0] == 1
    assert "neither a file nor a Study Instance UID" in capsys.readouterr().err


@pytest.mark.timeout(20)
def test_what_cannot_be_shown_is_refused_with_a_reason_and_nothing_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path / "pipe"), "/dev/zero", "/nonexistent", "1.2.03", "long" * 99):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert printed([name], tmp_path)[0] == 1
        said = capsys.readouterr().err
        assert said.startswith(f"hilum: {name}: ")
        assert len(said.splitlines()) == 1
    assert printed([str(folder)], folder)[0] == 0, "a pipe in a folder is passed by"
    for file in folder.glob("*.dcm"):
        ds = dcmread(file)
        del ds.StudyInstanceUID
        ds.save_as(file)
    assert printed([str(folder)], folder)[0] == 1
    assert "changed or damaged (no StudyInstanceUID)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["SR", "TEXT"])
def test_a_file_that_was_cut_off_is_never_shown_as_if_it_were_whole(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, path = files()[kind], tmp_path / "cut.dcm"
    path.write_bytes(content)
    assert printed([str(path)], tmp_path)[0] == 0
    lengths = [*range(400, len(content), max(1, len(content) // 60)), len(content) - 2, len(content) - 1]
    for length in lengths:
        path.write_bytes(content[:length])
        assert printed([str(path)], tmp_path)[0] == 1, length
        assert capsys.readouterr().err.startswith(f"hilum: {path}: "), length
    assert "damaged" in printed_error(path, tmp_path, capsys)


def printed_error(path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    printed([str(path)], home)
    return capsys.readouterr().err

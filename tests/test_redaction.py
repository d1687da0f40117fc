"""What identifies a patient is withheld from Orthanc's log."""

from __future__ import annotations

from pathlib import Path

from orthanc_plugin.redaction import copy_lines, redact


def test_identifying_values_are_withheld_and_uids_stay() -> None:
    line = "E DicomMap.cpp:1015] missing: PatientID=Doe, Jane 7, StudyInstanceUID=1.2.3, AccessionNumber=A 1"
    assert redact(line) == (
        "E DicomMap.cpp:1015] missing: PatientID=(withheld), StudyInstanceUID=1.2.3, AccessionNumber=(withheld)"
    )


def test_other_lines_are_kept_as_they_are() -> None:
    assert redact("W main.cpp:921] Orthanc has started") == "W main.cpp:921] Orthanc has started"


def test_lines_reach_the_file_one_by_one(tmp_path: Path) -> None:
    copy_lines(iter(["one\n", "PatientName: Doe\n"]), tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text() == "one\nPatientName=(withheld)\n"

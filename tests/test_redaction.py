"""What identifies a patient is withheld from Orthanc's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from orthanc_plugin import redaction
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


def test_a_log_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_FILE_BYTES", 1000)
    monkeypatch.setattr(redaction, "_OLDER_FILES", 2)
    copy_lines((f"line {number}\n" for number in range(1000)), tmp_path / "a.log")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.log", "a.log.1", "a.log.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert files[0].read_text().endswith("line 999\n")

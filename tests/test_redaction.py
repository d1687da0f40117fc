"""What identifies a patient is withheld from Orthanc's log, whose lines are JSON objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orthanc_plugin.redaction import as_json, copy_lines, redact


def test_identifying_values_are_withheld_and_uids_stay() -> None:
    line = "E DicomMap.cpp:1015] missing: PatientID=Doe, Jane 7, StudyInstanceUID=1.2.3, AccessionNumber=A 1"
    assert redact(line) == (
        "E DicomMap.cpp:1015] missing: PatientID=(withheld), StudyInstanceUID=1.2.3, AccessionNumber=(withheld)"
    )


def test_what_was_asked_for_and_is_not_there_is_withheld_unless_it_is_a_uid() -> None:
    line = "Accessing an inexistent item: Accessing an inexistent study with WADO-RS: "
    assert redact(f"{line}Quetzalcoatl^A") == f"{line}(withheld)"
    assert redact(f"{line}1.2.840.99") == f"{line}1.2.840.99"


def test_other_lines_are_kept_as_they_are() -> None:
    assert redact("W main.cpp:921] Orthanc has started") == "W main.cpp:921] Orthanc has started"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "W1122 18:35:35.123456 main.cpp:921] Orthanc has started",
            {"level": "warning", "part": "orthanc", "event": "Orthanc has started", "source": "main.cpp:921"},
        ),
        (
            "E1122 18:35:35.123456             DICOM-1 Dicom.cpp:15] missing: PatientID=Doe, StudyInstanceUID=1.2",
            {"level": "error", "part": "orthanc", "event": "missing: PatientID=(withheld), StudyInstanceUID=1.2",
             "source": "Dicom.cpp:15", "thread": "DICOM-1"},
        ),
        ("Segmentation fault", {"level": "info", "part": "output", "event": "Segmentation fault"}),
        ("{}", {"level": "info", "part": "output", "event": "{}"}),
    ],
)  # fmt: skip
def test_each_line_becomes_one_object(line: str, told: dict[str, str]) -> None:
    assert json.loads(as_json(line, 1_700_000_000.25)) == {"time": "2023-11-14T22:13:20.250Z", **told}


def test_what_the_plugin_writes_keeps_its_fields() -> None:
    line = {"time": "t", "level": "info", "event": "kept; PatientName: Doe^Jane", "study_instance_uid": "1.2"}
    assert json.loads(as_json(json.dumps(line), 0.0)) == {**line, "event": "kept; PatientName=(withheld)"}


def test_lines_reach_the_file_one_by_one(tmp_path: Path) -> None:
    copy_lines(iter(["one\n", "PatientName: Doe\n", "\n"]), tmp_path / "a.log", longest=1000, files=2)
    events = [json.loads(line)["event"] for line in (tmp_path / "a.log").read_text().splitlines()]
    assert events == ["one", "PatientName=(withheld)"]


def test_a_log_does_not_grow_without_end_and_loses_no_line_that_is_kept(tmp_path: Path) -> None:
    copy_lines((f"line {number}\n" for number in range(1000)), tmp_path / "a.log", longest=10_000, files=3)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.log", "a.log.1", "a.log.2"]
    assert all(file.stat().st_size <= 10_000 for file in files)
    kept = [json.loads(line)["event"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert kept == [f"line {number}" for number in range(1000 - len(kept), 1000)]
    assert len(kept) > 200

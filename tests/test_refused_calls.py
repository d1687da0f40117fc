"""DICOM associations that Orthanc refused, counted from what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orthanc_plugin.redaction import copy_lines
from orthanc_plugin.refused_calls import RefusedCalls, read_refused_calls, refusal_in

LINES = {
    "W1122 21:44:24.790000 CommandDispatcher.cpp:617] Rejected association for remote AET NOBODY on IP "
    "10.0.0.1": "unknown_ae",
    "W1122 21:44:24.961000 DICOM-0 CommandDispatcher.cpp:602] Rejected association, because of a bad called AET in "
    "the request (OTHER)": "called_ae",
    "E1122 21:44:25.030000 CommandDispatcher.cpp:284] Receiving Association failed: TLS error: peer did not return a "
    "certificate": "tls",
    "E1122 21:44:25.030000 CommandDispatcher.cpp:284] Receiving Association failed: Peer aborted": "other",
    "W1122 21:44:25.030000 main.cpp:921] Orthanc has started": None,
}


@pytest.mark.parametrize(("line", "reason"), LINES.items())
def test_a_refusal_is_known_by_what_orthanc_writes(line: str, reason: str | None) -> None:
    assert refusal_in(line) == reason


def test_each_line_of_the_log_is_counted_once_and_names_nobody(tmp_path: Path) -> None:
    file = tmp_path / "refused-calls.json"
    nothing = {"called_ae": 0, "unknown_ae": 0, "tls": 0, "other": 0}
    assert read_refused_calls(file) == nothing
    counts = RefusedCalls(file)
    assert json.loads(file.read_text()) == nothing, "from the beginning"
    copy_lines([f"{line}\n" for line in LINES] * 2, tmp_path / "log", longest=10_000, files=2, calls=counts)
    assert read_refused_calls(file) == {"called_ae": 2, "unknown_ae": 2, "tls": 2, "other": 2}
    assert "NOBODY" not in file.read_text()
    file.write_text("{")
    assert read_refused_calls(file) == nothing

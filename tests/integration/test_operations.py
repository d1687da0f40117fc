"""The doctor at a node that runs, its log files, and a worker that was rotated under."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from running_node import Node, start_node

from models.phantom import chest
from orthanc_plugin import cli
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.log_files import rotate
from orthanc_plugin.settings import Settings

pytestmark = pytest.mark.node

MARKER = "Quetzalcoatl"


def examine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, dict[str, Any]], str]:
    for name in [name for name in os.environ if name.startswith("HILUM_") and name != "HILUM_VIEWER"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HILUM_HOME", str(settings.home))
    monkeypatch.setenv("HILUM_HTTP_PORT", str(settings.http_port))
    monkeypatch.setenv("HILUM_DICOM_PORT", str(settings.dicom_port))
    capsys.readouterr()
    code = cli.main(["doctor", "--json"])
    said = capsys.readouterr().out
    return code, {check["name"]: check for check in json.loads(said)["checks"]}, said


def send(settings: Settings) -> str:
    image = modality.radiograph(chest(4).pixels, Exposure(seed=uuid.uuid4().hex))
    image.PatientName, image.PatientID = f"{MARKER}^One", MARKER
    assert all(o.accepted for o in modality.send([image], "127.0.0.1", settings.dicom_port, settings.ae_title))
    return str(image.StudyInstanceUID)


def lines_of(logs: Path) -> list[str]:
    return [line for file in logs.iterdir() for line in file.read_text().splitlines()]


def test_the_doctor_finds_a_running_node_well_and_notices_when_its_worker_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _process = start_node(tmp_path / "home")
    try:
        with node.http(settings, credentials := load_credentials(settings.credentials)) as client:
            running = Node(settings, credentials, client)
            running.wait_for(send(settings))
            code, found, said = examine(settings, monkeypatch, capsys)
            well = ("node", "http_port", "dicom_port", "status", "ledger", "archive", "worker", "last_study", "queue",
                    "bundle", "runtime", "permissions", "orthanc")  # fmt: skip
            assert {name: found[name]["state"] for name in well} == dict.fromkeys(well, "well")
            assert code == 0
            assert "chest_findings" in found["runtime"]["text"]
            assert found["worker"]["text"].startswith("1 ready")
            assert MARKER not in said
            assert credentials.password not in said
            _rotate_under(running)
        # a worker that cannot load its models says so
        with running_without_models(settings):
            deadline = time.monotonic() + 60
            while (found := examine(settings, monkeypatch, capsys)[1])["worker"]["state"] != "wrong":
                assert time.monotonic() < deadline, found["worker"]
                time.sleep(1)
    finally:
        node.stop(settings)
    code, found, _ = examine(settings, monkeypatch, capsys)
    assert (code, found["node"]["state"], found["worker"]["state"]) == (0, "warning", "unknown")


def _rotate_under(running: Node) -> None:
    """Every log line is a JSON object; what is written after a rotation is in the new file, and nothing is lost."""
    logs = running.settings.logs
    before = lines_of(logs)
    assert len(before) > 5
    assert rotate(logs / "worker.log", longest=1, files=5)
    study = send(running.settings)
    running.wait_for(study)
    after = lines_of(logs)
    assert not set(before) - set(after)
    assert study in (logs / "worker.log").read_text(), "what is new is in the new file"
    assert study not in (logs / "worker.log.1").read_text()
    for line in after:
        told = json.loads(line)
        assert {"time", "level", "part", "event"} <= told.keys(), line
        assert MARKER.lower() not in line.lower()
    assert {json.loads(line)["part"] for line in (logs / "orthanc.log").read_text().splitlines()} >= {"orthanc"}


class running_without_models:  # noqa: N801  (read as a sentence)
    """A node whose active models are not those that were recorded, as long as the block lasts."""

    def __init__(self, settings: Settings) -> None:
        self.file = settings.active_models

    def __enter__(self) -> None:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text('{"format": 1, "active": {"lung_fields": "9.9.9"}, "shadow": []}')

    def __exit__(self, *_: object) -> None:
        self.file.unlink()

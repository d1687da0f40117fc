"""``./hilum predict`` and the command line, as a person or a program calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmwrite

from models.inference import NIH_FINDINGS
from models.phantom import chest
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.settings import REPOSITORY


def hilum(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HILUM_HOME": str(home)}
    command = [sys.executable, "-m", "orthanc_plugin.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_predict_answers_one_line_for_each_file_whatever_it_holds(tmp_path: Path) -> None:
    phantom = chest(1, rows=700, columns=600)
    inputs = tmp_path / "in"
    inputs.mkdir()
    Image.fromarray((phantom.pixels * 255).astype(np.uint8)).save(inputs / "a.png")
    dcmwrite(inputs / "b.dcm", radiograph(phantom.pixels, Exposure(seed="b")), enforce_file_format=True)
    dcmwrite(inputs / "c.dcm", radiograph(phantom.pixels, Exposure(seed="c", view="LL")), enforce_file_format=True)
    (inputs / "d.txt").write_text("no image")
    done = hilum("predict", str(inputs), "--json", "--masks", str(tmp_path / "masks"), home=tmp_path)
    assert done.returncode == 0, done.stderr
    picture, dicom, lateral, text = (json.loads(line) for line in done.stdout.splitlines())
    for answer in (picture, dicom):
        assert answer["status"] == "done"
        assert set(NIH_FINDINGS) <= {f["key"] for f in answer["findings"]}
        for finding in answer["findings"]:
            evaluated = finding["state"] != "not_evaluated"
            derived = finding["key"].startswith("covid_")  # a class has no probability
            assert (finding["probability"] is not None) == (evaluated and not derived)
        assert answer["criteria"]
        for criterion in answer["criteria"]:
            assert criterion["met"] in (True, False, None)
            assert criterion["speaks_for"].startswith("covid_")
        for x, y, width, height, key, score in answer["regions"]:
            assert 0 <= x < x + width <= 600
            assert 0 <= y < y + height <= 700
            assert key in {f["key"] for f in answer["findings"] if f["state"] == "present"}
            assert 0 <= score <= 1
        assert 0.2 < answer["measurements"]["cardiothoracic_ratio"] < 0.8
        assert answer["models"]["lung_fields"]
        assert answer["precisions"].keys() == answer["models"].keys()
        assert set(answer["precisions"].values()) <= {"float32", "bfloat16", "int8"}
    assert (lateral["status"], lateral["reason"]) == ("not_processed", "view")
    assert (text["status"], text["reason"]) == ("not_processed", "unreadable_header")
    for key in ("lung_right", "lung_left"):
        mask = np.asarray(Image.open(tmp_path / "masks" / f"a__{key}.png")) > 127
        truth = phantom.masks[key]
        assert mask.shape == (700, 600)
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85


def test_predict_names_a_missing_path(tmp_path: Path) -> None:
    done = hilum("predict", str(tmp_path / "nothing.dcm"), home=tmp_path)
    assert done.returncode == 1
    assert "no such file" in done.stderr


def test_status_of_a_node_that_is_not_there_is_stopped(tmp_path: Path) -> None:
    done = hilum("status", "--json", home=tmp_path)
    assert done.returncode == 1
    status = json.loads(done.stdout)
    assert status["state"] == "stopped"
    assert {"http_url", "dicom_port", "ae_title", "user", "password", "home"} <= set(status)


@pytest.mark.parametrize("arguments", [("status", "--json"), ("demo",)])
def test_a_bad_setting_is_one_sentence_and_no_stack_trace(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "hilum.toml").write_text("http_port = 'eighty'")
    done = hilum(*arguments, home=tmp_path)
    assert done.returncode == 1
    assert "http_port" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_explains_every_command(tmp_path: Path) -> None:
    done = hilum("--help", home=tmp_path)
    assert done.returncode == 0
    for command in ("up", "down", "status", "demo", "send", "predict", "train", "test", "check"):
        assert f"./hilum {command}" in done.stdout


def test_send_reports_what_is_no_dicom_and_where_no_node_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no image")
    dcmwrite(tmp_path / "b.dcm", radiograph(chest(1, rows=64, columns=64).pixels, Exposure()), enforce_file_format=True)
    done = hilum("send", str(tmp_path), home=tmp_path)
    assert done.returncode == 1
    assert "not a DICOM file" in done.stderr
    assert "is the node up" in done.stderr

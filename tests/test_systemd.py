"""./hilum systemd: a unit that systemd takes, for this checkout and these settings."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orthanc_plugin import cli
from orthanc_plugin.commands.systemd import unit
from orthanc_plugin.settings import REPOSITORY, load_settings


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def unit_of(home: Path, **environment: str) -> str:
    given = {"HILUM_HOME": str(home), **environment}
    return unit(load_settings(given), given, user="hilum")


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    # of somebody who is there, or systemd names them; a folder with a space and a percent sign is quoted
    (tmp_path / "a home 100%").mkdir()
    given = {"HILUM_HOME": str(tmp_path / "a home 100%")}
    file = tmp_path / "hilum.service"
    file.write_text(unit(load_settings(given), given, user="root"))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"more is open than was meant:\n{done.stdout[-2000:]}"


def test_the_unit_runs_this_checkout_as_it_is_set(tmp_path: Path) -> None:
    service = parsed(unit_of(tmp_path / "home"))["Service"]
    assert service["ExecStart"] == f"{REPOSITORY}/hilum up"
    assert (service["User"], service["WorkingDirectory"]) == ("hilum", str(REPOSITORY))
    assert service["ReadWritePaths"].split()[0] == str(tmp_path / "home")
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")
    assert "\nEnvironment=HILUM_HOME=" in unit_of(tmp_path / "home")


def test_it_holds_no_password_and_no_more_rights_than_the_ports_need(tmp_path: Path) -> None:
    url = "postgresql://me:s3cret@db/hilum"
    text = unit_of(tmp_path, HILUM_LEDGER_URL=url)
    assert "s3cret" not in text
    assert parsed(text)["Service"]["CapabilityBoundingSet"] == ""
    (tmp_path / "hilum.toml").write_text("dicom_port = 104\n")
    service = parsed(unit_of(tmp_path))["Service"]
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"


def test_the_command_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    assert cli.main(["systemd"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ExecStart=.*/hilum up$", printed, re.MULTILINE)
    assert os.environ["HILUM_HOME"] in printed

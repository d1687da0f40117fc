"""./hilum reprocess: what is asked, what is refused, and what is told of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from test_reprocessing import latest, read_all, store

from orthanc_plugin import cli
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.settings import load_settings


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger of five studies."""
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    made = open_ledger(load_settings().ledger_address)
    migrate(made)
    for number, date in enumerate(("20240101", "20240201", "20240301", "20250101", "")):
        store(made, f"1.{number}", date)
    return made


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(["reprocess", *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(say(capsys, "--status", "--json")[1])
    return found


def test_a_run_is_begun_told_stopped_and_gone_on_with(archive: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, "--status") == (0, "There was no run yet.\n")
    code, said = say(capsys, "--since", "2024-01-15", "--until", "20241231", "--dry-run")
    assert (code, said) == (0, "2 studies would be read again. 1 have no Study Date and are left out.\n")
    assert say(capsys, "--since", "2024-01-15", "--until", "20241231")[0] == 0
    assert told(capsys)["state"] == "running"
    assert say(capsys, "--stop")[1].startswith("The run is stopped")
    assert say(capsys, "--stop")[1] == "No run is under way.\n"
    assert read_all(archive, time.time()) == []
    assert say(capsys, "--since", "20240115", "--until", "20241231")[0] == 0
    assert read_all(archive, time.time()) == ["1.1", "1.2"]
    found = told(capsys)
    assert (found["number"], found["taken"], found["passed"], found["total"], found["is_over"]) == (1, 2, 2, 2, True)
    code, said = say(capsys, "--status")
    assert "Run       1, done, since" in said
    assert "since 20240115 until 20241231" in said
    assert "2 again, 0 under way" in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "give --since DATE"),
        (["--since", "soon"], "give a day, as 2026-01-31"),
        (["--since", "2024-02-30"], "give a day"),
        (["--since", "2024-01-02", "--until", "2024-01-01"], "--until is before --since"),
        (["--since", "2024-01-01", "--limit", "0"], "--limit"),
        (["--since", "2024-01-01", "--model", "lung_fields"], "give NAME@VERSION"),
        (["--since", "2024-01-01", "--model", "lung_fields@99"], "is not active, so nothing would be read with it"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    archive: Ledger, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    code, said = say(capsys, *arguments)
    assert (code, why in said) == (1, True), said
    assert say(capsys, "--status")[1] == "There was no run yet.\n"


def test_a_model_that_is_active_can_be_named(archive: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    from models.bundle import load_bundle
    from orthanc_plugin.settings import REPOSITORY

    version = load_bundle(REPOSITORY / "models" / "lung_fields").identity.version
    code, _ = say(capsys, "--since", "2024-01-01", "--model", f"lung_fields@{version}", "--limit", "3")
    assert code == 0
    assert (latest(archive).wanted.model, latest(archive).wanted.most) == (f"lung_fields@{version}", 3)
    code, said = say(capsys, "--since", "2020-01-01")
    assert (code, "./hilum reprocess --status, --stop" in said) == (1, True)

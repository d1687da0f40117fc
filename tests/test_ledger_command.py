"""./hilum ledger: the schema, and the way to an earlier Hilum and back, with every row."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orthanc_plugin import cli
from orthanc_plugin.commands import node
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.counters import Count, add, counted
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger, schema_of
from orthanc_plugin.ledger.schema import SCHEMA_VERSION
from orthanc_plugin.ledger.tasks import Arrival


@pytest.fixture
def home(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose ledger, on either database, has a study and a number in it."""
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    if ledger.path is None:
        monkeypatch.setenv("HILUM_LEDGER_URL", ledger.url.render_as_string(hide_password=False))
    with ledger.write() as db:
        tasks.enqueue(db, Arrival("1.2.3"), now=time.time())
        add(db, [Count("images_read", number=5)])
    return tmp_path


def test_it_goes_back_and_forth_with_every_row(home: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ledger"]) == 0
    assert f"schema {SCHEMA_VERSION}; this Hilum uses {SCHEMA_VERSION}" in capsys.readouterr().out
    assert cli.main(["ledger", "--to", str(SCHEMA_VERSION - 2)]) == 0
    assert schema_of(ledger) == SCHEMA_VERSION - 2
    assert cli.main(["ledger", "--to", str(SCHEMA_VERSION)]) == 0
    with ledger.read() as db:
        assert counted(db) == [Count("images_read", number=5)]
        assert len(tasks.of_study(db, "1.2.3")) == 1


def test_mistakes_end_with_a_sentence_and_change_nothing(
    home: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, SCHEMA_VERSION + 1):
        assert cli.main(["ledger", "--to", str(number)]) == 1
        assert "knows the schemas 1 to" in capsys.readouterr().err
    monkeypatch.setattr(node, "running_pid", lambda _settings: os.getpid())
    assert cli.main(["ledger", "--to", "1"]) == 1
    assert "./hilum down first" in capsys.readouterr().err
    assert schema_of(ledger) == SCHEMA_VERSION


def test_where_there_is_no_ledger_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    assert cli.main(["ledger", "--to", "1"]) == 1
    assert "there is no ledger" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    made = open_ledger(tmp_path / "ledger.sqlite")
    migrate(made)
    assert cli.main(["ledger"]) == 0
    made.close()

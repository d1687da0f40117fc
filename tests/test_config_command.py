"""./hilum config: every setting with where it comes from, and every mistake with its line."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin import cli
from orthanc_plugin.commands.survey import survey
from orthanc_plugin.settings import Settings, SettingsInvalid, load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("HILUM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = cli.main(["config", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_all_mistakes_are_told_at_once_each_with_its_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["# a comment: http_port = 1", "http_port = 99999", 'ae_titel = "X"', "", "workers = 2", "[tls]", "a = 1"]
    (home / "hilum.toml").write_text("\n".join(lines))
    monkeypatch.setenv("HILUM_RUNTIME", "abacus")
    monkeypatch.setenv("HILUM_WORKRES", "3")
    assert cli.main(["config", "check"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("hilum: HILUM_RUNTIME: runtime = 'abacus': give one of auto, torch")
    assert said[1] == "hilum: hilum.toml, line 2: http_port = 99999: give a whole number from 1 to 65535"
    assert said[2] == "hilum: hilum.toml, line 3: unknown setting 'ae_titel': did you mean 'ae_title'?"
    assert said[3].startswith("hilum: hilum.toml, line 6: unknown setting 'tls'; known are ae_title, attempts")
    assert said[4].startswith("hilum: HILUM_WORKRES: no setting has this name, so it is passed over")
    assert len(said) == 5
    with pytest.raises(SettingsInvalid):
        load_settings()


def test_settings_that_contradict_each_other_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "hilum.toml").write_text('executor = "ray"\n')
    assert cli.main(["config", "check"]) == 1
    assert 'hilum: executor: executor = "ray": no cluster is started here' in capsys.readouterr().err
    (home / "hilum.toml").write_text('executor = "ray"\nray_address = "auto"\n')
    assert cli.main(["config", "check"]) == 0


def test_what_is_no_toml_is_told_with_its_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "hilum.toml").write_text('ae_title = "A"\nhttp_port = = 3\n')
    assert cli.main(["config", "check"]) == 1
    assert "hilum.toml, line 2: this is no valid TOML" in capsys.readouterr().err
    (home / "hilum.toml").write_bytes(b"ae_title = \xff\xfe")
    assert cli.main(["config", "check"]) == 1


def test_every_setting_is_shown_with_value_default_origin_and_what_it_is_for(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "hilum.toml").write_text('\n"http_port" = 9000\nquiet_seconds = 2\nworkers = 3\n')
    monkeypatch.setenv("HILUM_WORKERS", "4")
    code, found = told(capsys, "show")
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert (code, found["usable"], found["mistakes"]) == (0, True, [])
    assert set(settings) == {f.name for f in fields(Settings)} - {"home"}
    assert all(setting["what"] for setting in settings.values())
    picked = {name: (settings[name]["value"], settings[name]["default"], settings[name]["origin"]) for name in
              ("http_port", "quiet_seconds", "workers", "ae_title", "outputs")}  # fmt: skip
    assert picked == {
        "http_port": (9000, 8042, "hilum.toml, line 2"),
        "quiet_seconds": (2.0, 5.0, "hilum.toml, line 3"),
        "workers": (4, 1, "HILUM_WORKERS"),
        "ae_title": ("HILUM", "HILUM", "default"),
        "outputs": (["preliminary_report", "heat_map"], ["preliminary_report", "heat_map"], "default"),
    }
    loaded = load_settings()
    for name, setting in settings.items():
        value = getattr(loaded, name)
        assert setting["value"] == (list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path)
                                    else value)  # fmt: skip
    assert cli.main(["config", "show"]) == 0
    assert "hilum.toml, line 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "url", ["postgresql://me:s3cret@db.host:5433/hilum", "postgresql://db.host/hilum?user=me&password=s3cret"]
)
def test_a_password_is_never_shown(home: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    (home / "hilum.toml").write_text(f'ledger_url = "{url}"\n')
    for arguments in (["config", "show"], ["config", "show", "--json"], ["config", "check"]):
        assert cli.main(arguments) == 0
        said = capsys.readouterr()
        assert "s3cret" not in said.out + said.err
    (home / "hilum.toml").write_text('ledger_url = "mysql://me:s3cret@db/hilum"\n')
    assert cli.main(["config", "check"]) == 1
    assert "s3cret" not in capsys.readouterr().err


def test_what_comes_by_a_file_is_looked_at_and_its_password_is_not_shown(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = home / "secret"
    secret.write_text("postgresql://me:s3cret@db/index\n")
    monkeypatch.setenv("HILUM_INDEX_URL_FILE", str(secret))
    code, found = told(capsys, "show")
    (index,) = [setting for setting in found["settings"] if setting["name"] == "index_url"]
    assert (code, index["origin"], found["mistakes"]) == (0, "HILUM_INDEX_URL_FILE", [])
    assert index["value"] == "postgresql://me:(withheld)@db/index"
    secret.unlink()
    assert cli.main(["config", "check"]) == 1
    assert "HILUM_INDEX_URL_FILE" in capsys.readouterr().err


def test_other_files_of_the_site_are_looked_at(home: Path) -> None:
    (home / "notifications.toml").write_text('webhook_url = "ftp://x"\n')
    (home / "report.en.toml").write_text('[nonsense]\nkey = "value"\n')
    (home / "hilum.toml").write_text('bundles = ["lung_fields", "crystal_ball"]\nhttp_port = 4242\n')
    found = survey({"HILUM_HOME": str(home)})
    texts = " ".join(f"{mistake.where}: {mistake.text}" for mistake in found.mistakes)
    for word in ("webhook_url", "nonsense", "crystal_ball", "both are 4242"):
        assert word in texts
    assert not found.is_usable
    (home / "report.en.toml").unlink()
    (home / "hilum.toml").unlink()
    assert survey({"HILUM_HOME": str(home)}).is_usable, "a notice that cannot be sent stops no reading"


def test_a_site_without_a_file_is_well(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "check"]) == 0
    assert "all is well, 0 of" in capsys.readouterr().out
    assert not list(home.iterdir()), "nothing is made"


def test_what_it_takes_for_wrong_is_what_stops_the_start(home: Path) -> None:
    """One judge: `survey` and `load_settings` agree on every value."""
    for line in ("workers = 0", "workers = 2", "outputs = []", 'outputs = ["x"]', "bundles = []", "log_files = 1",
                 'children = "caution"', "waiting_limits_minutes = [3, 2, 1]"):  # fmt: skip
        (home / "hilum.toml").write_text(line)
        tomllib.loads(line)
        try:
            load_settings()
            stops = False
        except SettingsInvalid:
            stops = True
        assert survey({"HILUM_HOME": str(home)}).is_usable is not stops, line

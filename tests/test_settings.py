"""Settings: validated at the start, and documented."""

from __future__ import annotations

import stat
from dataclasses import fields
from pathlib import Path

import pytest

from orthanc_plugin.commands import node
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, Settings, SettingsInvalid, load_settings


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "hilum.toml").write_text('http_port = 9000\nae_title = "FROMFILE"\nbundles = ["lung_fields"]\n')
    settings = load_settings({"HILUM_HOME": str(tmp_path), "HILUM_HTTP_PORT": "9001"})
    assert (settings.http_port, settings.ae_title, settings.dicom_port) == (9001, "FROMFILE", 4242)
    assert settings.bundles == ("lung_fields",)


@pytest.mark.parametrize(
    "line",
    ["http_port = 0", "http_port = 70000", 'http_port = "x"', "http_port = 1.5", "http_port = true", "colour = 1",
     'ae_title = ""', 'ae_title = "SEVENTEEN LETTERS"', "bundles = []", "lease_seconds = 0", "= nonsense",
     'outputs = ["pdf"]', "outputs = [1]", 'report_language = "fr"', 'expected_views = ["oblique"]', "workers = -1",
     'orthanc_url = "ftp://h"', 'orthanc_url = "https://u:p@h"', 'orthanc_url = "https://h/path"', "orthanc_url = 1",
     'index_url = "mysql://h/d"',
     'ledger_url = "mysql://h/d"', 'ledger_url = "ledger.sqlite"', "ledger_url = 1", "memory_mb = 10",
     "reserve_mb = -1", "deadline_hours = 0", "waiting_limits_minutes = [15, 60]", "waiting_limits_minutes = 15",
     "waiting_limits_minutes = [60, 15, 480]", 'waiting_limits_minutes = [1, 2, "x"]', "claim_minutes = 0",
     'executor = "threads"', 'executor = "ray"', 'ray_address = "head"', "ray_address = 1", "ray_cpus = 0",
     "ray_actors_least = 0", "ray_studies = 0", "ray_actors_least = 5", "ray_gpus = -1"],
)  # fmt: skip
def test_a_bad_value_stops_the_start_and_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "hilum.toml").write_text(line)
    with pytest.raises(SettingsInvalid):
        load_settings({"HILUM_HOME": str(tmp_path)})


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_ledger_is_a_file_or_a_server_and_its_password_is_not_shown(scheme: str, tmp_path: Path) -> None:
    home = {"HILUM_HOME": str(tmp_path)}
    assert load_settings(home).ledger_address == f"sqlite:///{tmp_path}/ledger.sqlite"
    settings = load_settings({**home, "HILUM_LEDGER_URL": f"{scheme}://u:secret@db/hilum"})
    assert settings.ledger_address == "postgresql+psycopg://u:secret@db/hilum"
    assert "secret" not in repr(settings)
    with pytest.raises(SettingsInvalid) as refused:
        load_settings({**home, "HILUM_LEDGER_URL": "mysql://u:secret@db/hilum"})
    assert "secret" not in str(refused.value)


def test_a_secret_may_come_by_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "ledger-url"
    secret.write_text("postgresql://u:secret@db/hilum\n")
    given = {"HILUM_HOME": str(tmp_path), "HILUM_LEDGER_URL_FILE": str(secret)}
    assert load_settings(given).ledger_url == "postgresql://u:secret@db/hilum"
    with pytest.raises(SettingsInvalid, match="both set"):
        load_settings({**given, "HILUM_LEDGER_URL": "postgresql://u:other@db/hilum"})
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load_settings({**given, "HILUM_LEDGER_URL_FILE": str(tmp_path / "missing")})
    secret.write_text("mysql://u:secret@db/hilum\n")
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(given)
    assert "secret" not in str(refused.value)


def test_orthanc_is_given_the_settings_of_who_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "port").write_text("9001\n")
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    monkeypatch.setenv("HILUM_HTTP_PORT_FILE", str(tmp_path / "port"))
    monkeypatch.setenv("HILUM_WORKERS", "0")
    settings = load_settings()
    assert (settings.http_port, settings.workers) == (9001, 0)
    assert load_settings(node.orthanc_environment(settings)) == settings


def test_a_worker_finds_orthanc_on_this_machine_or_where_it_is_told(tmp_path: Path) -> None:
    home = {"HILUM_HOME": str(tmp_path), "HILUM_HTTP_PORT": "9001"}
    assert load_settings(home).orthanc_address == "http://127.0.0.1:9001"
    for url in ("https://pacs.example:8443", "http://10.0.0.1", "https://[::1]:8443"):
        assert load_settings({**home, "HILUM_ORTHANC_URL": f"{url}/"}).orthanc_address == url


def test_a_cluster_is_named_and_never_started(tmp_path: Path) -> None:
    home = {"HILUM_HOME": str(tmp_path), "HILUM_EXECUTOR": "ray"}
    with pytest.raises(SettingsInvalid, match="ray start --head"):
        load_settings(home)
    for address in ("10.0.0.1:6379", "head.example:6379", "[::1]:6379", "auto"):
        settings = load_settings({**home, "HILUM_RAY_ADDRESS": address, "HILUM_RAY_GPUS": "0.25"})
        assert (settings.executor, settings.ray_address, settings.ray_gpus) == ("ray", address, 0.25)
    with pytest.raises(SettingsInvalid, match="ray_actors_most = 4 is less"):
        load_settings({"HILUM_HOME": str(tmp_path), "HILUM_RAY_ACTORS_LEAST": "5"})


def test_expected_views_may_be_named(tmp_path: Path) -> None:
    settings = load_settings({"HILUM_HOME": str(tmp_path), "HILUM_EXPECTED_VIEWS": "frontal, lateral"})
    assert settings.expected_views == ("frontal", "lateral")


def test_waiting_limits_are_three_numbers(tmp_path: Path) -> None:
    assert load_settings({"HILUM_HOME": str(tmp_path)}).waiting_limits_minutes == (15.0, 60.0, 240.0)
    given = load_settings({"HILUM_HOME": str(tmp_path), "HILUM_WAITING_LIMITS_MINUTES": "5, 30,240"})
    assert given.waiting_limits_minutes == (5.0, 30.0, 240.0)
    (tmp_path / "hilum.toml").write_text("waiting_limits_minutes = [10, 20, 30.5]\n")
    assert load_settings({"HILUM_HOME": str(tmp_path)}).waiting_limits_minutes == (10.0, 20.0, 30.5)


def test_outputs_may_be_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "hilum.toml").write_text('outputs = []\nreport_language = "de"\n')
    settings = load_settings({"HILUM_HOME": str(tmp_path)})
    assert (settings.outputs, settings.site_wording) == ((), None)


def test_sentences_of_a_site_that_cannot_be_used_stop_the_start_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "report.en.toml").write_text('[nonsense]\nkey = "value"\n')
    settings = load_settings({"HILUM_HOME": str(tmp_path)})
    assert settings.site_wording == tmp_path / "report.en.toml"
    with pytest.raises(node.NodeFailed, match="nonsense"):
        node.start(settings)


def test_every_setting_is_documented() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    for name in {f.name for f in fields(Settings)} - {"home"}:
        assert f"`{name}`" in readme, f"{name} is missing from the README's table of settings"


def test_passwords_are_random_kept_and_private(tmp_path: Path) -> None:
    first, other = load_credentials(tmp_path / "a.json"), load_credentials(tmp_path / "b.json")
    assert first == load_credentials(tmp_path / "a.json")
    assert first.password != other.password
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600
    assert first.password not in repr(first)
    (tmp_path / "a.json").chmod(0o644)
    with pytest.raises(PermissionError, match="others"):
        load_credentials(tmp_path / "a.json")

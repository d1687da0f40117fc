"""./hilum doctor on nodes that do not run: what it finds, what it says to do, and that it changes nothing."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer
from running_node import free_port

from orthanc_plugin import cli
from orthanc_plugin.commands.checks import ground, software
from orthanc_plugin.commands.checks.check import State
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import migrate, open_ledger
from orthanc_plugin.ledger.notes import ARCHIVE, LAST_BACKUP
from orthanc_plugin.ledger.schema import SCHEMA_VERSION
from orthanc_plugin.ledger.tasks import Arrival, Failure, Outcome, TaskStatus
from orthanc_plugin.settings import REPOSITORY, load_settings

MARKER = "Quetzalcoatl"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, on ports that nobody has."""
    for name in [name for name in os.environ if name.startswith("HILUM_") and name != "HILUM_VIEWER"]:
        monkeypatch.delenv(name)
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    monkeypatch.setenv("HILUM_HOME", str(made))
    monkeypatch.setenv("HILUM_HTTP_PORT", str(free_port()))
    monkeypatch.setenv("HILUM_DICOM_PORT", str(free_port()))
    return made


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[dict[str, Any]]], str]:
    """Exit code, the checks by name, and everything that was said."""
    code = cli.main(["doctor", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    states = [check["state"] for check in found["checks"]]
    assert found["state"] == max(states, key=list(State).index)
    assert code == (1 if "wrong" in states else 0)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for check in found["checks"]:
        by_name.setdefault(check["name"], []).append(check)
        assert check["what_to_do"] or check["state"] in ("well", "unknown"), check
    return code, by_name, said.out + said.err


def test_a_new_node_is_well_though_it_was_never_started(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, _ = examine(capsys)
    assert code == 0
    well = ("hilum", "python", "orthanc", "orthanc_plugins", "settings", "disk", "sync", "permissions", "logs",
            "http_port", "dicom_port", "ledger", "bundle")  # fmt: skip
    assert {name: found[name][0]["state"] for name in well} == dict.fromkeys(well, "well")
    assert [bundle["state"] for bundle in found["bundle"]] == ["well"] * 5
    assert found["node"][0]["state"] == "warning"
    assert list(home.iterdir()) == [], "it changes nothing"


def test_without_usable_settings_it_says_which_and_looks_at_the_rest(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "hilum.toml").write_text("workers = 65\ncolour = 3\n")
    code, found, _ = examine(capsys)
    assert code == 1
    assert [check["text"].partition(":")[0] for check in found["settings"]] == [
        "hilum.toml, line 1",
        "hilum.toml, line 2",
    ]
    assert found["orthanc_plugins"][0]["state"] == "well"


def test_a_port_that_another_has_is_told_with_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(os.environ["HILUM_DICOM_PORT"])))
        other.listen()
        code, found, _ = examine(capsys)
    assert (code, found["dicom_port"][0]["state"], found["http_port"][0]["state"]) == (1, "wrong", "well")
    assert "set dicom_port to a free port" in found["dicom_port"][0]["text"]
    assert os.environ["HILUM_DICOM_PORT"] in found["dicom_port"][0]["what_to_do"]


def test_passwords_that_others_can_read_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    credentials = load_credentials(home / "credentials.json")
    (home / "credentials.json").chmod(0o644)
    code, found, said = examine(capsys)
    assert (code, found["permissions"][0]["state"]) == (1, "wrong")
    assert found["permissions"][0]["what_to_do"].startswith(f"chmod 600 {home}/credentials.json")
    assert credentials.password not in said


def test_a_home_that_others_can_look_into_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_settings().storage.mkdir(mode=0o755)
    home.chmod(0o755)
    _, found, _ = examine(capsys)
    assert found["permissions"][0]["what_to_do"] == f"chmod 700 {home} {home}/orthanc"


def test_a_disk_without_room_or_that_is_slow_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "hilum.toml").write_text("reserve_mb = 10000000\n")
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (time.sleep(0.06), real(descriptor))[1])
    code, found, _ = examine(capsys)
    assert (code, found["disk"][0]["state"], found["sync"][0]["state"]) == (1, "wrong", "warning")


def test_packages_that_are_not_those_of_the_lock_are_named(tmp_path: Path) -> None:
    assert software.check_packages(REPOSITORY / "requirements.lock").state is State.WELL
    (tmp_path / "lock").write_text("numpy==0.0.1\nno-such-package==1.0\n")
    found = software.check_packages(tmp_path / "lock")
    assert found.state is State.WRONG
    assert "numpy" in found.text
    assert "no-such-package missing instead of 1.0" in found.text


def test_a_clock_that_nobody_keeps_right_is_told() -> None:
    assert ground._clock().state in (State.WELL, State.WARNING, State.UNKNOWN)


def live(ledger: Any, *, backup: float | None = None) -> None:
    """A study that was answered, one in quarantine and one that waits for long."""
    now = time.time()
    with ledger.write() as db:
        for number in range(3):
            tasks.enqueue(db, Arrival(f"1.2.{number}", patient_name=MARKER), now=now - 5000 + number)
        for given in (Outcome(TaskStatus.DONE, "none", 3, {"images": []}), None):
            task = tasks.claim(db, "w", now=now - 4000, lease_seconds=30.0, abandoned_limit=3)
            assert task is not None
            if given:
                tasks.answer(db, task, given, now=now - 4000, conclude_at=None)
            else:
                failure = Failure("time_limit", MARKER)
                tasks.fail(db, task, failure, now=now - 4000, retry_at=None, counted=True)
        if backup:
            tasks.set_fact(db, LAST_BACKUP, repr(backup))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_the_ledger_holds_is_told(
    kind: str, home: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        (home / "hilum.toml").write_text(f'ledger_url = "{server.new_database()}"\n')
    ledger = open_ledger(load_settings().ledger_address)
    migrate(ledger)
    live(ledger, backup=time.time() - 9 * 86_400)
    code, found, said = examine(capsys)
    assert code == 0
    assert f"schema {SCHEMA_VERSION}" in found["ledger"][0]["text"]
    assert "an hour" in found["last_study"][0]["text"] or "67 minutes ago" in found["last_study"][0]["text"]
    states = {name: found[name][0]["state"] for name in ("queue", "quarantine", "backup", "worker")}
    assert states == {"queue": "warning", "quarantine": "warning", "backup": "warning", "worker": "unknown"}
    assert ("database_clock" in found) is (kind == "postgresql")
    assert MARKER not in said
    assert "1.2.0" not in said
    ledger.close()


def test_a_ledger_of_another_schema_archive_or_a_damaged_one_is_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings()
    ledger = open_ledger(settings.ledger_address)
    migrate(ledger)
    settings.archive_id_file.write_text("ours\n")
    with ledger.write() as db:
        tasks.set_fact(db, ARCHIVE, "theirs")
    code, found, _ = examine(capsys)
    assert (code, found["archive"][0]["state"]) == (1, "wrong")
    migrate(ledger, SCHEMA_VERSION - 1)
    code, found, _ = examine(capsys)
    assert (code, found["ledger"][0]["state"]) == (0, "warning")
    with ledger.write() as db:
        assert db.exec_driver_sql("PRAGMA user_version").scalar() == SCHEMA_VERSION - 1, "it changes nothing"
        db.exec_driver_sql("PRAGMA user_version = 99")
    code, found, _ = examine(capsys)
    assert (code, found["ledger"][0]["what_to_do"]) == (1, "update Hilum")
    ledger.close()
    settings.ledger.write_bytes(b"this is no database, but it is long enough" * 100)
    code, found, _ = examine(capsys)
    assert (code, found["ledger"][0]["state"]) == (1, "wrong")


def test_a_bundle_that_is_not_as_it_was_recorded_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "hilum.toml").write_text('bundles = ["lung_fields"]\n')
    assert cli.main(["models", "add", str(REPOSITORY / "models" / "lung_fields"), "--name", "ours"]) == 0
    assert cli.main(["models", "activate", "ours"]) == 0
    capsys.readouterr()
    code, found, _ = examine(capsys)
    assert (code, len(found["bundle"])) == (0, 2)
    (weights,) = (home / "models").rglob("model.pt")
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, found, _ = examine(capsys)
    assert (code, found["bundle"][-1]["state"]) == (1, "wrong")
    assert "models rollback" in found["bundle"][-1]["text"]


def test_what_the_worker_said_of_its_runtimes_is_told_across_rotated_files(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = load_settings().logs
    logs.mkdir()
    for number, runtime in ((2, "torch"), (1, "openvino")):
        line = {"event": "networks run", "model": "lung_fields", "runtime": runtime}
        (logs / f"worker.log.{number}").write_text(json.dumps(line) + "\n{broken networks run\n")
    (logs / "worker.log").write_text(json.dumps({"event": "networks run", "model": "gate", "runtime": "torch"}) + "\n")
    _, found, _ = examine(capsys)
    assert found["runtime"][0]["text"].startswith("lung_fields by openvino, gate by torch")


def test_a_check_that_fails_itself_is_told_and_the_others_are_made(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: object) -> None:
        raise RuntimeError("by the test")

    monkeypatch.setattr(ground, "_sync", fail)
    code, found, _ = examine(capsys)
    assert (code, found["machine"][0]["text"]) == (1, "this could not be looked at: RuntimeError")
    assert "ledger" in found


def test_people_read_lines(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "-> ./hilum up --detach" in said
    assert said.rstrip().endswith(".")

"""./hilum users and ./hilum audit, as somebody types them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from orthanc_plugin import cli
from orthanc_plugin.access.accounts import Accounts, read_users
from orthanc_plugin.access.roles import Role
from orthanc_plugin.credentials import load_credentials

PASSWORD = "correct horse battery"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_password_is_read_and_never_an_argument(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, f"{PASSWORD}\n")
    assert cli.main(["users", "add", "anna", "--role", "radiologist"]) == 0
    assert read_users(home / "users.json")["anna"].is_password(PASSWORD)
    assert PASSWORD not in capsys.readouterr().out
    for arguments in (["users", "add", "tim", PASSWORD, "--role", "admin"], ["users", "password", "anna", PASSWORD]):
        with pytest.raises(SystemExit):
            cli.main(arguments)


def test_a_made_password_is_shown_once_and_works(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["users", "add", "anna", "--role", "admin", "--generate"]) == 0
    made = capsys.readouterr().out.partition("Password")[2].split()[0]
    assert read_users(home / "users.json")["anna"].is_password(made)
    assert made not in "".join(path.read_text() for path in (home / "audit").glob("*.log"))


def test_mistakes_end_with_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "short\n")
    mistakes = {
        ("users", "add", "anna", "--role", "admin"): "12 to 256",
        ("users", "add", "a b", "--role", "admin", "--generate"): "letters, digits",
        ("users", "add", "hilum", "--role", "admin", "--generate"): "already",
        ("users", "remove", "nobody"): "no user",
        ("users", "role", "hilum", "radiologist"): "own account",
        ("users", "remove", "hilum-worker"): "own account",
        ("audit", "show", "--since", "yesterday"): "--since",
    }
    for arguments, said in mistakes.items():
        assert cli.main(list(arguments)) == 1
        told = capsys.readouterr()
        assert said in told.err, arguments
        assert "Password" not in told.out, "a password is shown only when it is somebody's"
    assert read_users(home / "users.json") == {}


def test_the_first_admin_gets_a_new_password_of_the_nodes_own_making(home: Path) -> None:
    old = load_credentials(home / "credentials.json")
    assert cli.main(["users", "password", "hilum"]) == 0
    new = load_credentials(home / "credentials.json")
    assert new.password != old.password
    assert len(new.password) >= 24
    found = Accounts(home / "credentials.json", home / "users.json").find("hilum")
    assert found is not None
    assert found.role is Role.ADMIN
    assert found.is_password(new.password)


def test_users_are_listed_without_their_hashes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["users", "add", "anna", "--role", "technologist", "--generate"])
    capsys.readouterr()
    assert cli.main(["users", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "hilum", "role": "admin"},
        {"name": "anna", "role": "technologist"},
    ]
    assert cli.main(["users", "list"]) == 0
    assert "argon2" not in capsys.readouterr().out


def test_the_log_is_shown_narrowed_and_verified(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("anna", "tim"):
        cli.main(["users", "add", name, "--role", "admin", "--generate"])
    capsys.readouterr()
    for narrowed, count in (([], 2), (["--since", "1h"], 2), (["--since", "2999-01-01"], 0), (["--study", "1.2"], 0),
                            (["--user", "nobody"], 0)):  # fmt: skip
        assert cli.main(["audit", "show", *narrowed]) == 0
        assert len(capsys.readouterr().out.splitlines()) == count, narrowed
    assert cli.main(["audit", "verify"]) == 0
    file = home / "audit" / "000001.log"
    file.write_bytes(file.read_bytes().replace(b'"anna"', b'"hans"'))
    assert cli.main(["audit", "verify"]) == 1
    assert "000001.log, line 2" in capsys.readouterr().err

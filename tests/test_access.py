"""Accounts, passwords, attempts, sessions and roles, from real files and without Orthanc."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orthanc_plugin.access import accounts as accounts_module
from orthanc_plugin.access.accounts import (
    Accounts,
    AccountsUnusable,
    add_user,
    read_users,
    remove_user,
    renew_own_password,
    set_password,
    set_role,
)
from orthanc_plugin.access.attempts import OF_A_NAME, OF_ALL, Attempts
from orthanc_plugin.access.logins import Logins, Refused
from orthanc_plugin.access.passwords import PasswordRefused, hash_password, is_password, make_password
from orthanc_plugin.access.roles import ALLOWED, Action, Role, may
from orthanc_plugin.access.sessions import Sessions
from orthanc_plugin.credentials import load_credentials

RIGHT = "correct horse battery"
NOBODY: frozenset[str] = frozenset()
HOUR = 3600.0


@dataclass
class House:
    """The files of a node with one user, anna."""

    home: Path
    attempts: Attempts = field(default_factory=Attempts)

    @property
    def users(self) -> Path:
        return self.home / "users.json"

    @property
    def credentials(self) -> Path:
        return self.home / "credentials.json"

    def logins(self) -> Logins:
        sessions = Sessions(self.home / "sessions.sqlite", longest_seconds=12 * HOUR, idle_seconds=HOUR)
        return Logins(Accounts(self.credentials, self.users), sessions, self.attempts)


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    load_credentials(made.credentials)
    add_user(made.users, "Anna", Role.RADIOLOGIST, RIGHT, taken=NOBODY)
    return made


def logged_in(logins: Logins, now: float = 0.0) -> str:
    found = logins.by_password("anna", RIGHT, now)
    assert not isinstance(found, Refused)
    return logins.begin(found, now)


def refused(logins: Logins, name: str, password: str, now: float = 0.0) -> Refused:
    found = logins.by_password(name, password, now)
    assert isinstance(found, Refused)
    return found


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", [None, *Role])
def test_the_table_of_roles_is_what_was_agreed(role: Role | None, action: Action) -> None:
    reading = {Action.VIEW_STATUS, Action.VIEW_WORKLIST, Action.VIEW_STUDY, Action.RETRY}
    agreed = {
        None: set(),
        Role.TECHNOLOGIST: reading,
        Role.RADIOLOGIST: reading | {Action.MARK},
        Role.ADMIN: set(Action),
        Role.MONITOR: {Action.VIEW_STATUS, Action.VIEW_METRICS},
        Role.WORKER: {Action.VIEW_STATUS, Action.VIEW_STUDY, Action.STORE, Action.ORTHANC},
    }
    assert may(role, action) is (action in agreed[role])
    assert set(ALLOWED) == set(Role)


def test_a_password_is_kept_as_an_argon2id_hash_that_costs_time(house: House) -> None:
    assert RIGHT not in house.users.read_text()
    assert "$argon2id$" in house.users.read_text()
    assert house.users.stat().st_mode & 0o777 == 0o600
    hashed = hash_password(RIGHT)
    began = time.perf_counter()
    assert is_password(hashed, RIGHT)
    right = time.perf_counter() - began
    began = time.perf_counter()
    assert not is_password(None, RIGHT)  # makes its own hash the first time
    assert not is_password(None, RIGHT)
    nobody = time.perf_counter() - began
    assert 0.02 < right < 2
    assert nobody > 0.5 * right, "who does not exist is found out by the clock"


@pytest.mark.parametrize("password", ["short", "x" * 257, "aaaaaaaaaaaaaaaa", ""])
def test_a_weak_password_is_refused(house: House, password: str) -> None:
    with pytest.raises(PasswordRefused):
        add_user(house.users, "tim", Role.TECHNOLOGIST, password, taken=NOBODY)
    assert "tim" not in read_users(house.users)


def test_keyboards_that_compose_an_umlaut_differently_type_the_same_password() -> None:
    assert is_password(hash_password("Über den Wolken"), "U\u0308ber den Wolken")


def test_made_passwords_are_long_and_differ() -> None:
    made = {make_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) == 24 for password in made)


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a:b", "a\r\nSet-Cookie: x=1", "ann\u0430", "<b>", "../x", "x" * 65, "-x", "a\x00", "hilum"],
)
def test_a_name_that_could_be_misread_is_not_given(house: House, name: str) -> None:
    with pytest.raises(AccountsUnusable):
        add_user(house.users, name, Role.ADMIN, RIGHT, taken=frozenset({"hilum", "hilum-worker"}))
    assert set(read_users(house.users)) == {"anna"}


def test_a_name_is_given_once_whatever_its_case(house: House) -> None:
    with pytest.raises(AccountsUnusable, match="already"):
        add_user(house.users, "ANNA", Role.ADMIN, RIGHT, taken=NOBODY)
    assert not isinstance(house.logins().by_password(" aNNa ", RIGHT, 0.0), Refused)


def test_changes_of_several_processes_are_all_kept(house: House) -> None:
    code = (
        "import sys; from pathlib import Path; from orthanc_plugin.access.accounts import add_user, Role;"
        "[add_user(Path(sys.argv[1]), f'{sys.argv[2]}{i}', Role.ADMIN, 'correct horse battery', taken=frozenset())"
        " for i in range(4)]"
    )
    begun = [subprocess.Popen([sys.executable, "-c", code, str(house.users), name]) for name in "xyz"]
    assert [process.wait(60) for process in begun] == [0, 0, 0]
    assert len(read_users(house.users)) == 13
    assert {path.name for path in house.home.iterdir()} == {".users.json.lock", "credentials.json", "users.json"}


def test_a_file_open_to_others_lets_nobody_of_it_in(house: House) -> None:
    logins = house.logins()
    token = logged_in(logins)
    house.users.chmod(0o644)
    assert refused(logins, "anna", RIGHT) == Refused("")
    assert logins.by_session(token, 1.0) is None
    with pytest.raises(AccountsUnusable, match="chmod"):
        read_users(house.users)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"users": [{"name": "anna"}]}',
        '{"users": [{"name":"w","role":"worker","hashed":"","stamp":""}]}',
    ],
)
def test_a_damaged_file_lets_nobody_of_it_in_and_the_node_goes_on(house: House, content: str) -> None:
    logins, own = house.logins(), load_credentials(house.credentials)
    house.users.write_text(content)
    assert refused(logins, "anna", RIGHT) == Refused("")
    assert not isinstance(logins.by_password(own.user, own.password, 0.0), Refused)


def test_the_nodes_own_accounts_are_never_locked_out(house: House) -> None:
    logins, own = house.logins(), load_credentials(house.credentials)
    for _ in range(200):
        refused(logins, own.user, "wrong")
        refused(logins, own.worker_user, "wrong")
    for name, password, role in (
        (own.user, own.password, Role.ADMIN),
        (own.worker_user, own.worker_password, Role.WORKER),
    ):
        found = logins.by_password(name, password, 0.0)
        assert not isinstance(found, Refused)
        assert found.role is role


def test_a_renewed_password_of_the_first_admin_ends_the_old_one(house: House) -> None:
    logins, old = house.logins(), load_credentials(house.credentials)
    account = logins.by_password(old.user, old.password, 0.0)
    assert not isinstance(account, Refused)
    token = logins.begin(account, 0.0)
    renew_own_password(house.credentials)
    new = load_credentials(house.credentials)
    assert (new.worker_password, new.password != old.password) == (old.worker_password, True)
    refused(logins, old.user, old.password)
    assert logins.by_session(token, 1.0) is None
    assert not isinstance(logins.by_password(new.user, new.password, 0.0), Refused)


def test_wrong_passwords_of_one_name_are_slowed_down_and_forgiven(house: House) -> None:
    logins = house.logins()
    for _ in range(OF_A_NAME.failures):
        assert refused(logins, "anna", "wrong password") == Refused("anna")
    wait = refused(logins, "anna", RIGHT).wait_seconds
    assert 0 < wait <= OF_A_NAME.seconds, "even the right one is not looked at"
    assert not isinstance(logins.by_password("anna", RIGHT, wait + 0.1), Refused)


def test_a_name_that_does_not_exist_is_slowed_down_alike(house: House) -> None:
    logins = house.logins()
    waits = [
        [refused(logins, name, "wrong password").wait_seconds > 0 for _ in range(OF_A_NAME.failures + 1)]
        for name in ("anna", "nobody")
    ]
    assert waits[0] == waits[1]


def test_one_name_does_not_lock_out_another(house: House) -> None:
    logins = house.logins()
    for _ in range(20):
        refused(logins, "tim", "wrong password")
    assert not isinstance(logins.by_password("anna", RIGHT, 0.0), Refused)


def test_wrong_passwords_of_all_names_are_slowed_down_and_forgiven() -> None:
    attempts = Attempts()
    for i in range(OF_ALL.failures):
        assert attempts.begin(f"name{i}", f"10.0.{i}.1", 0.0) == 0
    wait = attempts.begin("anna", "10.1.1.1", 0.0)
    assert 0 < wait <= OF_ALL.seconds
    assert attempts.begin("anna", "10.1.1.1", wait) == 0, "no hospital waits longer than this for its next try"
    assert attempts.begin("anna", "10.1.1.1", -1000.0) > 0, "a clock that is set back changes nothing"


def test_steady_wrong_passwords_from_one_address_keep_nobody_out_elsewhere(house: House) -> None:
    attempts = Attempts()
    for tick in range(6000):  # ten a second, for anna and for invented names
        attempts.begin("anna", "6.6.6.6", tick / 10)
        attempts.begin(f"name{tick}", "6.6.6.6", tick / 10)
    assert attempts.begin("anna", "6.6.6.6", 600.0) > 0
    assert attempts.begin("anna", "10.1.1.1", 600.0) == 0
    house.attempts = attempts
    right = house.logins().by_password("anna", RIGHT, 600.0, address="10.1.1.2")
    assert not isinstance(right, Refused)


def test_who_has_logged_in_from_an_address_gets_their_turn_whatever_happens_elsewhere() -> None:
    attempts = Attempts()
    assert attempts.begin("anna", "10.1.1.1", 0.0) == 0
    attempts.succeeded("anna", "10.1.1.1", 0.0)
    for i in range(OF_ALL.failures):
        attempts.begin(f"name{i}", f"6.6.{i}.6", 1.0)
    assert attempts.begin("anna", "10.1.1.2", 1.0) > 0, "all together have used up what there is"
    for _ in range(OF_A_NAME.failures):
        assert attempts.begin("Anna ", "10.1.1.1", 1.0) == 0
    assert attempts.begin("anna", "10.1.1.1", 1.0) > 0, "who is known there guesses no faster"


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    attempts = Attempts()
    for i in range(OF_A_NAME.failures):
        assert attempts.begin("anna", f"2001:db8::{i:x}", 0.0) == 0
    assert attempts.begin("anna", "2001:db8::ffff", 0.0) > 0
    assert attempts.begin("anna", "2001:db8:0:1::1", 0.0) == 0


def test_right_passwords_use_nothing_up(house: House) -> None:
    logins = house.logins()
    for _ in range(OF_A_NAME.failures * 3):
        assert not isinstance(logins.by_password("anna", RIGHT, 0.0), Refused)


def test_a_program_pays_for_its_password_once(house: House) -> None:
    logins = house.logins()
    logins.by_password("anna", RIGHT, 0.0)
    began = time.perf_counter()
    for _ in range(50):
        assert not isinstance(logins.by_password("anna", RIGHT, 0.0), Refused)
    assert time.perf_counter() - began < 0.5, "50 hashes would take seconds"
    set_password(house.users, "anna", "another long password")
    assert refused(logins, "anna", RIGHT) == Refused("anna"), "what was remembered is forgotten"


def test_a_session_ends_when_nobody_uses_it(house: House) -> None:
    logins = house.logins()
    token = logged_in(logins, 0.0)
    assert logins.by_session(token, 0.9 * HOUR) is not None
    assert logins.by_session(token, 1.8 * HOUR, used=False) is not None, "looked at, and not prolonged"
    assert logins.by_session(token, 1.95 * HOUR) is None
    assert logins.by_session(token, 1.0 * HOUR) is None, "an ended session stays ended"


def test_a_session_ends_after_a_shift_however_much_it_is_used(house: House) -> None:
    logins = house.logins()
    token = logged_in(logins, 0.0)
    assert all(logins.by_session(token, step * 0.5 * HOUR) for step in range(1, 25))
    assert logins.by_session(token, 12.01 * HOUR) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda house: remove_user(house.users, "anna"),
        lambda house: set_role(house.users, "anna", Role.TECHNOLOGIST),
        lambda house: set_password(house.users, "anna", "another long password"),
        lambda house: house.users.unlink(),
    ],
)
def test_a_session_ends_with_what_it_was_opened_for(house: House, change) -> None:  # type: ignore[no-untyped-def]
    logins = house.logins()
    token = logged_in(logins)
    assert logins.by_session(token, 1.0) is not None
    change(house)
    assert logins.by_session(token, 2.0) is None
    add = not house.users.exists() or "anna" not in read_users(house.users)
    if add:
        add_user(house.users, "anna", Role.RADIOLOGIST, RIGHT, taken=NOBODY)
    assert house.logins().by_session(token, 3.0) is None, "the same name is not the same account"


def test_sessions_outlive_a_restart_and_a_log_out_does_too(house: House) -> None:
    logins = house.logins()
    kept, ended = logged_in(logins), logged_in(logins)
    logins.end(ended)
    again = house.logins()
    assert again.by_session(kept, 1.0) is not None
    assert again.by_session(ended, 1.0) is None
    file = house.home / "sessions.sqlite"
    assert file.stat().st_mode & 0o777 == 0o600
    assert kept.encode() not in file.read_bytes(), "who reads the file could be anybody in it"


def test_a_damaged_file_of_sessions_costs_a_log_in_and_no_more(house: House) -> None:
    file = house.home / "sessions.sqlite"
    file.write_bytes(b"no database at all, " * 400)
    logins = house.logins()
    token = logged_in(logins)
    assert logins.by_session(token, 1.0) is not None
    assert house.logins().by_session(token, 1.0) is not None, "it was made anew"


def test_sessions_that_cannot_be_written_are_kept_in_memory(house: House) -> None:
    (house.home / "sessions.sqlite").mkdir()
    logins = house.logins()
    assert logins.by_session(logged_in(logins), 1.0) is not None


def test_a_locked_file_of_sessions_delays_nobody_for_long(house: House) -> None:
    logins = house.logins()
    other = sqlite3.connect(house.home / "sessions.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    token = logged_in(logins)
    assert logins.by_session(token, 1.0) is not None
    assert time.monotonic() - began < 5
    other.close()


def test_somebody_has_so_many_sessions_and_no_more(house: House) -> None:
    logins = house.logins()
    tokens = [logged_in(logins, float(n)) for n in range(25)]
    assert [logins.by_session(token, 30.0) is not None for token in tokens] == [False] * 5 + [True] * 20


def test_a_token_that_was_made_up_opens_nothing(house: House) -> None:
    logins = house.logins()
    token = logged_in(logins)
    for guess in ("", token[:-1], token + "x", token.swapcase(), "\udcff", "x" * 100_000, "' OR 1=1 --"):
        assert logins.by_session(guess, 1.0) is None


def test_users_are_replaced_as_a_whole(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads(house.users.read_text())

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(accounts_module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        set_role(house.users, "anna", Role.ADMIN)
    assert json.loads(house.users.read_text()) == before
    assert {path.name for path in house.home.iterdir()} == {".users.json.lock", "credentials.json", "users.json"}

"""Accounts and the choice of models, shared by servers and workers that have nothing in common but a PostgreSQL."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from postgres_server import PostgresServer

from orthanc_plugin import cli
from orthanc_plugin.access.accounts import add_user, read_users
from orthanc_plugin.access.roles import Role
from orthanc_plugin.ledger.database import LedgerError, LedgerUnavailable, open_ledger
from orthanc_plugin.ledger.shared_files import (
    ACTIVE_MODELS,
    USERS,
    ChangedElsewhere,
    SharedFiles,
    changing,
    keep_in_step,
)
from orthanc_plugin.settings import Settings, load_settings

PASSWORD = "correct horse battery"
NOBODY: frozenset[str] = frozenset()


@pytest.fixture
def homes(tmp_path: Path, postgres: PostgresServer) -> list[Settings]:
    """Two servers of one archive, and one of another that was given the same database."""
    url = postgres.new_database()
    made = []
    for name, archive in (("a", "one"), ("b", "one"), ("other", "two")):
        settings = load_settings({"HILUM_HOME": str(tmp_path / name), "HILUM_LEDGER_URL": url})
        settings.home.mkdir()
        settings.archive_id_file.write_text(archive)
        made.append(settings)
    return made


@contextmanager
def following(*homes: Settings) -> Iterator[None]:
    """As plugin and worker do."""
    stop, ledgers = threading.Event(), [open_ledger(home.ledger_address) for home in homes]
    threads = [
        threading.Thread(target=keep_in_step, args=(home, ledger, (USERS, ACTIVE_MODELS), stop))
        for home, ledger in zip(homes, ledgers, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for ledger in ledgers:
            ledger.close()


def until(question: object, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not question():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def users(home: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setenv("HILUM_HOME", str(home.home))
    monkeypatch.setenv("HILUM_LEDGER_URL", home.ledger_url)
    return cli.main(["users", *words])


def test_whom_one_server_adds_the_other_knows_and_another_archive_does_not(
    homes: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, other = homes
    add_user(a.users, "before", Role.TECHNOLOGIST, PASSWORD, taken=NOBODY)  # of a time when there was one server
    with following(a, b, other):
        until(lambda: read_users(b.users).keys() == {"before"})
        assert users(b, monkeypatch, "add", "anna", "--role", "radiologist", "--generate") == 0
        until(lambda: read_users(a.users).keys() == {"before", "anna"})
        assert read_users(a.users) == read_users(b.users)
        assert a.users.stat().st_mode & 0o777 == 0o600
        assert users(a, monkeypatch, "role", "anna", "technologist") == 0
        until(lambda: read_users(b.users)["anna"].role is Role.TECHNOLOGIST)
        assert users(b, monkeypatch, "remove", "anna") == 0
        until(lambda: read_users(a.users).keys() == {"before"})
        assert read_users(other.users) == {}


def test_a_choice_of_models_reaches_a_worker_elsewhere(homes: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    server, worker, _ = homes
    monkeypatch.setenv("HILUM_HOME", str(server.home))
    monkeypatch.setenv("HILUM_LEDGER_URL", server.ledger_url)
    with following(worker):
        assert cli.main(["models", "activate", "pneumothorax", "--shadow"]) == 0
        until(worker.active_models.exists)
        assert worker.active_models.read_bytes() == server.active_models.read_bytes()
        assert json.loads(worker.active_models.read_text())["shadow"][0][0] == "pneumothorax"
        assert cli.main(["models", "rollback"]) == 0
        until(lambda: worker.active_models.read_bytes() == server.active_models.read_bytes())


def test_of_two_changes_at_once_one_is_refused_and_leaves_nothing(homes: list[Settings]) -> None:
    a, b, _ = homes
    with changing(a, USERS):
        add_user(a.users, "first", Role.ADMIN, PASSWORD, taken=NOBODY)

    def be_late() -> None:
        with changing(a, USERS):
            add_user(a.users, "late", Role.ADMIN, PASSWORD, taken=NOBODY)
            with changing(b, USERS):
                add_user(b.users, "quick", Role.ADMIN, PASSWORD, taken=NOBODY)

    with pytest.raises(ChangedElsewhere, match="another server"):
        be_late()
    assert read_users(a.users).keys() == {"first"}
    with changing(a, USERS):
        assert read_users(a.users).keys() == {"first", "quick"}


def test_without_its_database_what_is_shared_can_be_read_and_not_changed(
    homes: list[Settings], postgres: PostgresServer
) -> None:
    a, b, _ = homes
    with changing(a, USERS):
        add_user(a.users, "anna", Role.ADMIN, PASSWORD, taken=NOBODY)
    postgres.kill()
    try:
        with following(b), pytest.raises(LedgerUnavailable), changing(a, USERS):
            raise AssertionError("this is not reached")
        assert read_users(a.users).keys() == {"anna"}
        assert read_users(b.users) == {}
    finally:
        postgres.start()
    with following(b):
        until(lambda: read_users(b.users).keys() == {"anna"})


def test_a_change_that_fails_leaves_file_and_database_as_they_were(homes: list[Settings]) -> None:
    a, b, _ = homes

    def fail() -> None:
        with changing(a, USERS):
            add_user(a.users, "anna", Role.ADMIN, PASSWORD, taken=NOBODY)
            raise LedgerError("on purpose")

    with pytest.raises(LedgerError, match="on purpose"):
        fail()
    assert not a.users.exists()
    ledger = open_ledger(b.ledger_address)
    SharedFiles(ledger, "one", {USERS: b.users}).bring_in_step()
    ledger.close()
    assert not b.users.exists()


def test_a_ledger_that_is_a_file_shares_nothing(tmp_path: Path) -> None:
    alone = load_settings({"HILUM_HOME": str(tmp_path)})
    with changing(alone, USERS):
        add_user(alone.users, "anna", Role.ADMIN, PASSWORD, taken=NOBODY)
    assert read_users(alone.users).keys() == {"anna"}
    assert not alone.ledger.exists()

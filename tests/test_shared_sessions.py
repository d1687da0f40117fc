"""Sessions that several servers share, on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from postgres_server import PostgresServer

from orthanc_plugin.access import shared_sessions
from orthanc_plugin.access.accounts import Account
from orthanc_plugin.access.roles import Role
from orthanc_plugin.access.shared_sessions import SharedSessions, cookie_of
from orthanc_plugin.ledger.database import Ledger, open_ledger
from orthanc_plugin.settings import load_settings

HOUR = 3600.0
ANNA = Account("anna", Role.RADIOLOGIST, "hashed", "stamp")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sessions, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(shared_sessions, "_AWAY_SECONDS", 0.0)


def server(ledger: Ledger, idle: float = HOUR) -> SharedSessions:
    return SharedSessions(ledger, longest_seconds=12 * HOUR, idle_seconds=idle)


def test_who_logs_in_at_one_server_is_known_at_the_other_and_logged_out_at_both(ledger: Ledger) -> None:
    a, b = server(ledger), server(ledger)
    token = a.begin(ANNA, 0.0)
    found = b.find(token, 1.0)
    assert found is not None
    assert (found.name, found.stamp) == ("anna", "stamp")
    b.end(token)
    assert a.find(token, 2.0) is None
    assert b.find(token, 2.0) is None
    assert server(ledger).find(token, 2.0) is None


def test_a_server_is_told_once_of_a_session_that_began_elsewhere(ledger: Ledger) -> None:
    met: list[str] = []
    a = server(ledger)
    b = SharedSessions(ledger, longest_seconds=HOUR, idle_seconds=HOUR, met=met.append)
    token = a.begin(ANNA, 0.0)
    b.begin(ANNA, 0.0)
    assert met == []
    for now in (1.0, 2.0, 3.0):
        assert b.find(token, now) is not None
    assert met == ["anna"]


def test_what_is_done_at_one_server_keeps_a_session_alive_at_the_other(ledger: Ledger) -> None:
    a, b = server(ledger, idle=100.0), server(ledger, idle=100.0)
    token = a.begin(ANNA, 0.0)
    for now in range(0, 400, 40):
        assert a.find(token, float(now)) is not None
    assert b.find(token, 450.0, used=False) is not None, "it was used 90 s ago, at the other one"
    assert b.find(token, 470.0, used=False) is None
    assert a.find(token, 470.0) is None


def test_sessions_end_with_age_and_the_oldest_make_room(ledger: Ledger) -> None:
    a, b = server(ledger), server(ledger)
    tokens = [a.begin(ANNA, float(n)) for n in range(25)]
    assert [b.find(token, 30.0, used=False) is not None for token in tokens] == [False] * 5 + [True] * 20
    assert [a.find(token, 30.0, used=False) is not None for token in tokens] == [False] * 5 + [True] * 20
    assert a.find(tokens[-1], 13 * HOUR) is None


def test_a_token_that_was_made_up_opens_nothing_and_none_lies_in_the_database(ledger: Ledger) -> None:
    a = server(ledger)
    token = a.begin(ANNA, 0.0)
    for guess in ("", token[:-1], token + "x", token.swapcase(), "\udcff", "x" * 100_000, "' OR 1=1 --"):
        assert a.find(guess, 1.0) is None
    with ledger.read() as db:
        kept = db.exec_driver_sql("SELECT * FROM sessions").all()
    assert len(kept) == 1
    assert token not in str(kept)


def test_while_the_database_is_away_sessions_go_on_where_they_are_known(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    a, b = server(ledger), server(ledger)
    before = a.begin(ANNA, 0.0)
    postgres.kill()
    try:
        assert a.find(before, 1.0) is not None
        assert b.find(before, 1.0) is None, "it never heard of it"
        meanwhile, left = a.begin(ANNA, 2.0), a.begin(ANNA, 2.0)
        assert a.find(meanwhile, 3.0) is not None
        a.end(left)
        a.end(before)
        assert a.find(left, 3.0) is None
        assert a.find(before, 3.0) is None
    finally:
        postgres.start()
    assert a.find(meanwhile, 4.0) is not None
    assert b.find(meanwhile, 5.0) is not None, "the first request that finds the database again writes it"
    assert a.find(before, 5.0) is None
    assert b.find(before, 6.0) is None, "and a log-out of before as well"
    ledger.close()


def test_servers_of_one_archive_have_one_cookie_and_archives_of_a_machine_each_their_own(tmp_path: Path) -> None:
    names = []
    for home, port in (("one", "8042"), ("one", "8043"), ("two", "8042")):
        names.append(cookie_of(load_settings({"HILUM_HOME": str(tmp_path / home), "HILUM_HTTP_PORT": port})))
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("hilum_") and name.replace("_", "").isalnum() for name in names)

"""The ledger's database: schemas, transactions, and every way to fail, on real SQLite files and a real PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from sqlalchemy import Connection, event, text

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import (
    Ledger,
    LedgerError,
    LedgerUnavailable,
    LedgerUnusable,
    StatementRejected,
    migrate,
    open_ledger,
)
from orthanc_plugin.ledger.notes import belong_to, get_fact, set_fact
from orthanc_plugin.ledger.pages import page
from orthanc_plugin.ledger.schema import SCHEMA_VERSION
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus

FIRST_SCHEMA = Path(__file__).parent / "ledger_v1.sql"
SECRET = "Secret^Patient"


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    migrate(ledger)
    yield ledger
    ledger.close()


@pytest.fixture
def first_schema(tmp_path: Path) -> Path:
    """The file of a node that ran the first version."""
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(FIRST_SCHEMA.read_text("utf-8"))
    db.close()
    return path


def note(ledger: Ledger, value: str = "x") -> None:
    with ledger.write() as db:
        set_fact(db, "note", value)


def noted(ledger: Ledger) -> str | None:
    with ledger.read() as db:
        return get_fact(db, "note")


def overwrite(db: Connection) -> list[str]:
    """Writes, and finds nothing."""
    set_fact(db, "note", "undone")
    return []


def rows_of(path: Path) -> list[dict[str, object]]:
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in db.execute("SELECT * FROM tasks ORDER BY study_instance_uid")]
    finally:
        db.close()


# --- transactions


def test_what_is_written_is_there_and_a_failed_transaction_leaves_no_trace(ledger: Ledger) -> None:
    note(ledger, "kept")
    with pytest.raises(ZeroDivisionError), ledger.write() as db:
        set_fact(db, "note", str(1 / len(overwrite(db))))
    assert noted(ledger) == "kept"


def test_writers_wait_for_each_other_and_no_increment_is_lost(ledger: Ledger) -> None:
    note(ledger, "0")

    def add(_: int) -> None:
        with ledger.write() as db:
            db.execute(text("UPDATE facts SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE name = 'note'"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    assert noted(ledger) == "100"


def test_a_reader_is_not_held_up_by_a_writer(ledger: Ledger) -> None:
    note(ledger, "before")
    with ledger.write() as db:
        set_fact(db, "note", "after")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(noted, ledger).result(timeout=2) == "before"


def test_many_migrations_at_once_make_one_ledger(tmp_path: Path, postgres: PostgresServer) -> None:
    files: list[str | Path] = [tmp_path / f"{n}.sqlite" for n in range(5)]
    for where in (*files, *(postgres.new_database() for _ in range(5))):
        start = threading.Barrier(6)

        def go(where: str | Path = where, start: threading.Barrier = start) -> int:
            mine = open_ledger(where)
            start.wait()
            found = migrate(mine)
            mine.close()
            return found

        with ThreadPoolExecutor(6) as pool:
            found = [f.result() for f in [pool.submit(go) for _ in range(6)]]
        assert found.count(0) == 1
        assert set(found) == {0, SCHEMA_VERSION}


# --- schemas


def test_a_ledger_of_the_first_version_comes_forward_with_its_rows(first_schema: Path) -> None:
    before = rows_of(first_schema)
    ledger = open_ledger(first_schema)
    assert migrate(ledger) == 1
    assert migrate(ledger) == SCHEMA_VERSION
    after = rows_of(first_schema)
    assert len(before) == len(after) == 6
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in new.items() if k in old and k != "status"} == {
            k: v for k, v in old.items() if k != "status"
        }
    assert [r["status"] for r in after] == ["done", "not_processed", "quarantined", "queued", "running", "queued"]
    assert [r["due_order"] for r in after] == [None, None, None, 1060.0, None, 1050.5]
    assert [r["answered_generation"] for r in after] == [1, 1, 0, 0, 0, 0]
    ledger.close()


def test_it_goes_back_with_its_rows_and_the_first_version_reads_it(first_schema: Path) -> None:
    before = rows_of(first_schema)
    ledger = open_ledger(first_schema)
    migrate(ledger)
    assert migrate(ledger, 1) == SCHEMA_VERSION
    assert rows_of(first_schema) == before
    ledger.close()
    with sqlite3.connect(first_schema) as db:
        schema = {name: columns(db, name) for name in ("tasks", "workers")}
        indexes = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOTNULL")}
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()
    with sqlite3.connect(":memory:") as db:
        db.executescript(FIRST_SCHEMA.read_text("utf-8"))
        assert schema == {name: columns(db, name) for name in ("tasks", "workers")}
    db.close()
    assert indexes == {"tasks_claimable", "tasks_leased", "tasks_reading_order"}


def statuses(db: Connection) -> dict[str, str]:
    rows = db.execute(text("SELECT study_instance_uid, status FROM tasks"))
    return {row.study_instance_uid: row.status for row in rows}


def columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def test_states_that_the_first_version_does_not_know_become_ones_that_it_does(ledger: Ledger) -> None:
    states = ("queued", "running", "answered", "done", "not_processed", "quarantined", "removed")
    with ledger.write() as db:
        for state in states:
            db.execute(
                text(
                    "INSERT INTO tasks (study_instance_uid, status, generation, not_before, received_at,"
                    " last_instance_at) VALUES (:uid, :uid, 1, 1, 1, 1)"
                ),
                {"uid": state},
            )
    migrate(ledger, 1)
    with ledger.read() as db:
        back = statuses(db)
    assert back == {
        **{state: state for state in ("queued", "running", "done", "not_processed")},
        "answered": "queued",
        "quarantined": "failed",
        "removed": "not_processed",
    }
    migrate(ledger)
    with ledger.read() as db:
        again = statuses(db)
    assert again == {**{state: state for state in states}, "answered": "queued"}


def test_the_file_is_copied_before_it_is_changed(first_schema: Path) -> None:
    before = rows_of(first_schema)
    ledger = open_ledger(first_schema)
    migrate(ledger)
    copy = first_schema.with_name("ledger.sqlite.v1.bak")
    assert rows_of(copy) == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(p.name for p in first_schema.parent.glob("*.part")) == []
    ledger.close()


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(first_schema: Path) -> None:
    with sqlite3.connect(first_schema) as db:
        db.execute("CREATE TABLE facts (taken TEXT)")  # stands in the way of the last step
    db.close()
    before = rows_of(first_schema)
    ledger = open_ledger(first_schema)
    with pytest.raises(LedgerError):
        migrate(ledger)
    ledger.close()
    assert rows_of(first_schema) == before
    with sqlite3.connect(first_schema) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    with ledger.write() as db:
        sqlite = db.dialect.name == "sqlite"
        db.exec_driver_sql("PRAGMA user_version = 99" if sqlite else "UPDATE schema_version SET version = 99")
    with pytest.raises(LedgerUnusable, match="update Hilum"):
        migrate(ledger)


def test_a_database_that_holds_something_else_is_refused_and_left_alone(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    path = tmp_path / "index"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE Resources (internalId INTEGER)")
    foreign.close()
    with pytest.raises(LedgerUnusable, match="Resources"):
        migrate(open_ledger(path))
    taken = open_ledger(postgres.new_database())
    with taken.write() as db:
        db.exec_driver_sql("CREATE TABLE tasks (id INTEGER)")
    with pytest.raises(LedgerUnusable, match="tasks"):
        migrate(taken)
    taken.close()


def test_a_ledger_is_bound_to_one_archive(ledger: Ledger) -> None:
    for _ in range(2):
        with ledger.write() as db:
            belong_to(db, "archive-1")
    with pytest.raises(LedgerUnusable, match="another archive"), ledger.write() as db:
        belong_to(db, "archive-2")


def test_the_file_is_readable_by_its_owner_alone(sqlite: Ledger) -> None:
    note(sqlite)
    assert sqlite.path is not None
    for path in sqlite.path.parent.glob("ledger.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


@pytest.mark.parametrize("where", ["mysql://u:pw-secret@h/d", "sqlite://", "sqlite:///:memory:", "nonsense pw-secret"])
def test_an_address_of_something_else_is_refused_without_printing_it(where: str) -> None:
    with pytest.raises(LedgerUnusable) as refused:
        open_ledger(where)
    assert "pw-secret" not in "".join(traceback.format_exception(refused.value))


def test_a_password_is_not_printed() -> None:
    ledger = open_ledger("postgresql://hilum:pw-secret@127.0.0.1:1/ledger")
    with pytest.raises(LedgerUnavailable) as failed, ledger.read():
        pass
    assert "pw-secret" not in repr(ledger) + ledger.name + "".join(traceback.format_exception(failed.value))


# --- failures, and that the same ledger works again afterwards


def test_no_error_quotes_a_row(ledger: Ledger) -> None:
    insert = (
        "INSERT INTO tasks (study_instance_uid, status, generation, not_before, received_at, last_instance_at,"
        " patient_name) VALUES ('1.2', 'queued', :generation, 1, 1, 1, :name)"
    )
    with ledger.write() as db:
        db.execute(text(insert), {"generation": 1, "name": SECRET})
    for generation in (1, None):  # a row that is there; a value that must not be missing
        with pytest.raises(StatementRejected) as failed, ledger.write() as db:
            db.execute(text(insert), {"generation": generation, "name": SECRET})
        assert SECRET not in "".join(traceback.format_exception(failed.value))
    with pytest.raises(StatementRejected) as failed, ledger.write() as db:
        db.exec_driver_sql(f"SELECT nothing_of_this_name('{SECRET}')")
    assert SECRET not in "".join(traceback.format_exception(failed.value))


def test_a_database_without_a_ledger_says_what_to_do(tmp_path: Path, postgres: PostgresServer) -> None:
    (tmp_path / "empty.sqlite").touch()
    for where in (tmp_path / "absent.sqlite", tmp_path / "empty.sqlite", postgres.new_database()):
        ledger = open_ledger(where)
        with pytest.raises(LedgerUnusable, match="start the node"):
            note(ledger)
        ledger.close()
    assert not (tmp_path / "absent.sqlite").exists()


def test_a_lost_file_is_noticed_and_a_new_ledger_used_without_a_restart(sqlite: Ledger) -> None:
    note(sqlite, "lost")
    assert sqlite.path is not None
    for path in list(sqlite.path.parent.glob("ledger.sqlite*")):
        path.unlink()
    with pytest.raises(LedgerUnusable, match="there is no ledger"):
        note(sqlite)
    assert migrate(sqlite) == 0
    assert noted(sqlite) is None
    note(sqlite, "new")
    assert noted(open_ledger(sqlite.path)) == "new"


def test_a_damaged_file_is_refused_and_a_good_one_in_its_place_is_used(sqlite: Ledger) -> None:
    note(sqlite, "good")
    sqlite.close()  # the last connection folds the write-ahead log into the file
    assert sqlite.path is not None
    good = sqlite.path.read_bytes()
    damaged = sqlite.path.with_name("damaged")
    for content in (b"this is a note to nobody in particular" * 40, good[:100] + b"\xa5" * (len(good) - 100)):
        damaged.write_bytes(content)
        damaged.replace(sqlite.path)
        with pytest.raises(LedgerUnusable, match="restore a backup"):
            note(sqlite)
        sqlite.close()
    damaged.write_bytes(good)
    damaged.replace(sqlite.path)
    assert noted(sqlite) == "good"
    note(sqlite, "again")


def test_a_full_disk_is_said_and_passes(sqlite: Ledger) -> None:
    limit = 1_000_000

    @event.listens_for(sqlite.engine, "checkout")
    def _limit(connection: object, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit}")  # type: ignore[attr-defined]

    note(sqlite, "before")
    limit = 1  # SQLite takes it as: no page more than there are
    with pytest.raises(LedgerUnavailable, match="FULL"):
        note(sqlite, "x" * 100_000)
    assert noted(sqlite) == "before"
    limit = 1_000_000
    note(sqlite, "after")
    assert noted(sqlite) == "after"


def test_a_file_system_that_runs_full_is_said_and_passes(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("no small file system can be mounted here")
    try:
        ledger = open_ledger(mounted / "ledger.sqlite")
        migrate(ledger)
        note(ledger, "before")
        filler = mounted / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(b"x" * 2_000_000)
        with pytest.raises(LedgerUnavailable):
            note(ledger, "x" * 1_000_000)
        filler.unlink()
        note(ledger, "after")
        assert noted(ledger) == "after"
        with ledger.read() as db:
            assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        ledger.close()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
def test_a_read_only_file_is_said_and_passes(tmp_path: Path) -> None:
    # only this folder is reached by the other user: those above it belong to root
    home = Path("/tmp") / f"hilum-read-only-{os.getpid()}"
    home.mkdir()
    ledger = open_ledger(home / "ledger.sqlite")
    try:
        migrate(ledger)
        note(ledger, "before")
        keeper = sqlite3.connect(home / "ledger.sqlite")  # the log and its index stay while somebody has it open
        keeper.execute("SELECT count(*) FROM facts").fetchall()
        ledger.close()
        for path in home.iterdir():
            path.chmod(0o644)
        os.seteuid(65534)
        try:
            with pytest.raises(LedgerUnavailable, match="READONLY"):
                note(ledger, "refused")
        finally:
            os.seteuid(0)
        ledger.close()
        note(ledger, "after")
        assert noted(ledger) == "after"
        keeper.close()
    finally:
        ledger.close()
        for path in home.iterdir():
            path.unlink()
        home.rmdir()


def test_a_ledger_that_another_process_holds_is_waited_for_and_then_given_up(
    sqlite: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orthanc_plugin.ledger.database._BUSY_SECONDS", 0.2)
    assert sqlite.path is not None
    hurried = open_ledger(sqlite.path)
    with sqlite.write() as db:
        set_fact(db, "note", "held")
        with pytest.raises(LedgerUnavailable, match="BUSY"):
            note(hurried)
    note(hurried, "later")
    assert noted(sqlite) == "later"
    hurried.close()


def test_a_server_that_dies_in_the_middle_undoes_the_transaction_and_is_used_again(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    note(ledger, "before")
    for end in (postgres.kill, postgres.stop):
        with pytest.raises(LedgerUnavailable), ledger.write() as db:
            _ = overwrite(db) or end()
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            note(ledger)
        postgres.start()
        assert noted(ledger) == "before"
    note(ledger, "after")
    assert noted(ledger) == "after"
    ledger.close()


def test_connections_that_went_stale_unused_are_replaced_without_an_error(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    note(ledger, "kept")
    postgres.stop()
    postgres.start()
    assert noted(ledger) == "kept"
    ledger.close()


@pytest.mark.parametrize("code", ["53100", "53300", "40P01", "40001", "57014", "58030", "55P03"])
def test_what_the_server_says_of_its_own_state_is_transient(postgres: PostgresServer, code: str) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    with ledger.write() as db:
        db.exec_driver_sql(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 'no: {SECRET}' USING ERRCODE = '{code}'; END $$"
        )
        db.exec_driver_sql("CREATE TRIGGER refuse BEFORE INSERT ON facts EXECUTE FUNCTION refuse()")
    with pytest.raises(LedgerUnavailable, match=code) as failed:
        note(ledger)
    assert SECRET not in "".join(traceback.format_exception(failed.value))
    with ledger.write() as db:
        db.exec_driver_sql("DROP TRIGGER refuse ON facts")
    note(ledger, "after")
    assert noted(ledger) == "after"
    ledger.close()


def test_a_server_that_only_reads_is_transient(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    read_only = f"ALTER DATABASE {ledger.url.database} SET default_transaction_read_only = "
    with ledger.write() as db:
        db.exec_driver_sql(f"{read_only} on")
    ledger.close()
    with pytest.raises(LedgerUnavailable, match="25006"):
        note(ledger)
    with ledger.write() as db:
        db.exec_driver_sql("SET TRANSACTION READ WRITE")
        db.exec_driver_sql(f"{read_only} off")
    ledger.close()
    note(ledger, "after")
    assert noted(ledger) == "after"
    ledger.close()


def test_a_migration_may_take_longer_than_any_other_statement(postgres: PostgresServer) -> None:
    address = postgres.new_database()
    ledger = open_ledger(address)
    migrate(ledger)
    found = {"key": "edema", "state": "present", "probability": 0.9}
    with ledger.write() as db:
        outcome = Outcome(TaskStatus.DONE, "urgent", 1, {"version": 1, "images": [{"findings": [found]}]})
        tasks.adopt(db, Arrival("1.2"), outcome, now=1.0)
    migrate(ledger, 5)
    with ledger.write() as db:
        db.exec_driver_sql(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(3); RETURN NEW; END $$"
        )
        db.exec_driver_sql("CREATE TRIGGER linger BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION linger()")
    ledger.close()
    hurried = open_ledger(f"{address}{'&' if '?' in address else '?'}options=-c%20statement_timeout%3D2s")
    with pytest.raises(LedgerUnavailable, match="57014"), hurried.write() as db:
        db.exec_driver_sql("UPDATE tasks SET message = 'too long'")
    assert migrate(hurried) == 5
    with hurried.read() as db:
        assert tasks.of_study(db, "1.2")[0]["present"] == 1
    hurried.close()


def test_what_stays_of_a_ledger_that_was_deleted_does_not_spoil_the_next(tmp_path: Path) -> None:
    """Whoever deletes or moves the file of a node that runs leaves what SQLite keeps beside it."""
    path = tmp_path / "ledger.sqlite"
    ledger, other = open_ledger(path), open_ledger(path)
    migrate(ledger)
    note(ledger, "before")
    note(other, "before")
    path.unlink()
    assert (tmp_path / "ledger.sqlite-wal").stat().st_size > 0
    migrate(other)
    note(other, "after")
    migrate(ledger)
    assert noted(ledger) == "after"
    ledger.close()
    other.close()


def test_a_row_whose_result_is_damaged_stops_no_other(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    migrate(ledger)
    with ledger.write() as db:
        for uid in ("1.2.3", "1.2.4"):
            tasks.enqueue(db, Arrival(uid), now=1.0)
        db.exec_driver_sql("UPDATE tasks SET result = '{\"images\": [' WHERE study_instance_uid = '1.2.3'")
        assert [row["result"] for row in page(db, now=3.0).rows] == [{}, {}]
        claimed = [tasks.claim(db, "w", now=2.0, lease_seconds=60, abandoned_limit=3) for _ in range(2)]
    assert [task.study_instance_uid for task in claimed if task] == ["1.2.3", "1.2.4"]
    ledger.close()


def test_a_wrong_password_is_told_so(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    rules = postgres._folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    with ledger.write() as db:
        db.exec_driver_sql("DO $$ BEGIN CREATE ROLE locked LOGIN PASSWORD 'right'; "
                           "EXCEPTION WHEN duplicate_object THEN NULL; END $$")  # fmt: skip
    try:
        rules.write_text(f"local all locked scram-sha-256\n{before}")
        with ledger.write() as db:
            db.exec_driver_sql("SELECT pg_reload_conf()")
        time.sleep(0.5)
        for given in ("locked:wrong@", "locked@"):
            other = open_ledger(ledger.url.render_as_string(hide_password=False).replace("hilum@", given))
            with pytest.raises(LedgerUnusable, match="refuses user or password") as told:
                note(other)
            assert "wrong" not in str(told.value)
            other.close()
    finally:
        rules.write_text(before)
        with ledger.write() as db:
            db.exec_driver_sql("SELECT pg_reload_conf()")
        ledger.close()


def test_a_user_without_rights_is_told_so(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    with ledger.write() as db:
        db.exec_driver_sql("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    guest = open_ledger(str(ledger.url).replace("hilum@", "guest@"))
    with pytest.raises(LedgerUnusable, match="refuses user or password"):
        note(guest)
    guest.close()
    ledger.close()

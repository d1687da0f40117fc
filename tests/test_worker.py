"""The worker: whatever dies, hangs or is away, each study ends in one state, and the others do not wait for it.

The ledger is a real one; only the reading process is `faulty_reader`, which fails as a study's name says.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_reader import COMMAND, SECRET
from postgres_server import binaries, postgres_server
from sqlalchemy import text
from test_reading_process import gone, task

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, LedgerError, migrate, open_ledger
from orthanc_plugin.ledger.tasks import TRANSITIONS, Arrival, Failure, TaskStatus
from orthanc_plugin.settings import REPOSITORY, Settings
from orthanc_plugin.working import seat
from orthanc_plugin.working.retry_policy import OUTAGES, next_try, pause_seconds
from orthanc_plugin.working.supervisor import new_worker_id
from orthanc_plugin.working.worker import Worker

# Every change of state, as the database itself saw it.
_WITNESS = (
    "CREATE TABLE seen (study TEXT, before TEXT, after TEXT)",
    """
    CREATE TRIGGER beginning AFTER INSERT ON tasks
    BEGIN INSERT INTO seen VALUES (new.study_instance_uid, NULL, new.status); END
    """,
    """
    CREATE TRIGGER witness AFTER UPDATE OF status ON tasks WHEN old.status <> new.status
    BEGIN INSERT INTO seen VALUES (new.study_instance_uid, old.status, new.status); END
    """,
)


class Site:
    """A ledger, its settings, and workers on it."""

    def __init__(self, home: Path, **settings: Any) -> None:
        usual: dict[str, Any] = {"lease_seconds": 2.0, "study_seconds": 2.0, "memory_mb": 300, "attempts": 2}
        self.settings = Settings(home=home, **{**usual, **settings})
        self.ledger: Ledger = open_ledger(self.settings.ledger_address)
        migrate(self.ledger)
        if self.ledger.path is not None:
            with self.ledger.write() as db:
                for statement in _WITNESS:
                    db.execute(text(statement))

    def send(self, *studies: str) -> None:
        with self.ledger.write() as db:
            for study in studies:
                tasks.enqueue(db, Arrival(study), now=time.time())

    def row(self, study: str) -> dict[str, Any]:
        with self.ledger.read() as db:
            return dict(
                db.execute(text("SELECT * FROM tasks WHERE study_instance_uid = :s"), {"s": study}).one()._mapping
            )

    def worker(self) -> dict[str, Any]:
        with self.ledger.read() as db:
            found = db.execute(text("SELECT * FROM workers")).one_or_none()
        return {} if found is None else dict(found._mapping)

    def seen(self, study: str) -> list[str]:
        """The states that a study went through."""
        with self.ledger.read() as db:
            rows = db.execute(
                text("SELECT before, after FROM seen WHERE study = :s ORDER BY rowid"), {"s": study}
            ).all()
        for before, after in rows[1:]:
            assert TaskStatus(after) in TRANSITIONS[TaskStatus(before)]
        return [after for _, after in rows]

    def wait(self, question: Callable[[], Any], seconds: float = 20.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := question():
                return answer
            time.sleep(0.02)
        with self.ledger.read() as db:
            raise AssertionError([dict(row._mapping) for row in db.execute(text("SELECT * FROM tasks"))])

    def wait_for(self, study: str, *states: str, seconds: float = 20.0) -> dict[str, Any]:
        wanted = states or ("done", "quarantined")
        return dict(self.wait(lambda: (row := self.row(study))["status"] in wanted and row, seconds))

    @contextmanager
    def at_work(self) -> Iterator[Worker]:
        running = Worker(self.settings, "here", COMMAND)
        running.start()
        try:
            yield running
        finally:
            running.stop()
            assert not any(thread.is_alive() for thread in running._threads)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where reading processes find what they are to do, and note what they did."""
    monkeypatch.setenv("FAULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def site(folder: Path) -> Site:
    return Site(folder / "home")


def attempts(folder: Path, study: str) -> list[int]:
    """The processes that were given a study."""
    lines = (folder / "attempts").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[0] == study]


def test_a_study_is_read_once_and_recorded(site: Site, folder: Path) -> None:
    site.send("ok.1")
    with site.at_work():
        row = site.wait_for("ok.1")
        reported = site.wait(lambda: (w := site.worker()).get("state") == "ready" and w)
    assert (row["status"], row["message"], row["content"], row["attempts"]) == ("done", "nothing found", "c", 0)
    assert reported["models"] == '{"lungs": "1.0"}'
    assert reported["problem"] == ""
    assert len(attempts(folder, "ok.1")) == 1
    assert site.seen("ok.1") == ["queued", "running", "done"]


@pytest.mark.parametrize(
    ("study", "reason"),
    [
        ("crash", "reader_died"),
        ("exit", "reader_died"),
        ("garbage", "reader_died"),
        ("hog", "out_of_memory"),
        ("defect", "internal_error"),
        ("unstorable", "internal_error"),
    ],
)
def test_a_study_that_fails_each_time_is_quarantined_and_the_next_is_read(
    site: Site, folder: Path, study: str, reason: str
) -> None:
    site.send(study)
    with site.at_work():
        row = site.wait_for(study)
        site.send("ok.1")
        assert site.wait_for("ok.1")["status"] == "done"
    assert (row["status"], row["reason"], row["attempts"]) == ("quarantined", reason, 2)
    assert len(attempts(folder, study)) == 2
    assert site.seen(study) == ["queued", "running", "queued", "running", "quarantined"]
    assert bool(row["trace"]) == (study in ("crash", "hog", "defect"))
    assert SECRET not in str(row)


def test_a_study_that_failed_once_is_read_at_the_second_attempt(site: Site, folder: Path) -> None:
    site.send("away.1")
    with site.at_work():
        site.wait(lambda: site.row("away.1")["failures"] == 1)
        (folder / "back").touch()
        row = site.wait_for("away.1")
    assert (row["status"], row["failures"], row["trace"]) == ("done", 0, None)


def test_what_the_study_cannot_help_is_not_counted_and_is_named_while_it_lasts(site: Site, folder: Path) -> None:
    site.send("away.1")
    with site.at_work():
        row = site.wait(lambda: (r := site.row("away.1"))["failures"] >= 2 and r)
        assert row["attempts"] == 0
        assert row["reason"] == "orthanc_unavailable"
        site.wait(lambda: site.worker()["problem"] == "orthanc_unavailable")
        (folder / "back").touch()
        assert site.wait_for("away.1")["status"] == "done"
        site.wait(lambda: site.worker()["problem"] == "")
    assert len(set(attempts(folder, "away.1"))) == 1  # the models stayed in memory


def test_when_an_outage_is_over_what_waits_because_of_it_goes_on_at_once(site: Site, folder: Path) -> None:
    site.send("away.1")
    with site.at_work():
        site.wait(lambda: site.row("away.1")["failures"] >= 2)
        with site.ledger.write() as db:  # after a long outage
            db.execute(text("UPDATE tasks SET not_before = not_before + 600, due_order = due_order + 600"))
        site.send("away.2")
        site.wait(lambda: site.row("away.2")["failures"] >= 1)
        (folder / "back").touch()
        assert site.wait_for("away.2")["status"] == "done"
        assert site.wait_for("away.1")["status"] == "done"


def test_studies_that_fail_alone_do_not_come_again_after_each_that_does_not(site: Site, folder: Path) -> None:
    """What looks like an outage may be theirs: only once within the longest pause is it taken for over."""
    poison = ("away.1", "away.2")
    site.send(*poison)
    with site.at_work():
        for failures in (1, 2):
            site.wait(lambda f=failures: all(site.row(study)["failures"] >= f for study in poison))
            with site.ledger.write() as db:
                db.execute(text("UPDATE tasks SET not_before = not_before + 600, due_order = due_order + 600"))
            for number in range(3):
                site.send(f"ok.{failures}.{number}")
                assert site.wait_for(f"ok.{failures}.{number}")["status"] == "done"
        assert all(site.row(study)["not_before"] > time.time() + 300 for study in poison)


def test_a_new_worker_does_not_wait_for_the_end_of_a_pause(site: Site, folder: Path) -> None:
    site.send("away.1")
    with site.at_work():
        site.wait(lambda: site.row("away.1")["failures"] >= 1)
    with site.ledger.write() as db:
        db.execute(text("UPDATE tasks SET not_before = not_before + 600, due_order = due_order + 600"))
    (folder / "back").touch()
    with site.at_work():
        assert site.wait_for("away.1")["status"] == "done"


def test_with_two_readers_a_poison_study_delays_the_others_by_nothing(folder: Path) -> None:
    site = Site(folder / "home", workers=2, study_seconds=6.0)
    with site.at_work():
        site.wait(lambda: site.worker().get("state") == "ready")
        site.send("hang")
        site.wait_for("hang", "running")
        site.send(*(f"ok.{number}" for number in range(30)))
        for number in range(30):
            assert site.wait_for(f"ok.{number}", seconds=5.0)["status"] == "done"
        assert site.row("hang")["status"] == "running"
        row = site.wait_for("hang", "queued", seconds=10.0)
    assert (row["reason"], row["attempts"], row["abandoned"]) == ("time_limit", 1, 0)
    assert row["trace"].splitlines()[-1].startswith("tests/faulty_reader.py:")


def test_a_reader_that_crashes_all_the_time_delays_nobody(folder: Path) -> None:
    site = Site(folder / "home", workers=2, attempts=100)
    with site.at_work():
        site.wait(lambda: site.worker().get("state") == "ready")
        site.send("crash", *(f"slow.0.05{number}" for number in range(20)))
        for number in range(20):
            site.wait_for(f"slow.0.05{number}", "done", seconds=10.0)


def test_a_long_study_keeps_its_lease_and_is_read_once(folder: Path) -> None:
    site = Site(folder / "home", study_seconds=20.0)
    site.send("slow.4")
    with site.at_work(), site.at_work():
        assert site.wait_for("slow.4")["abandoned"] == 0
    assert len(attempts(folder, "slow.4")) == 1
    assert site.seen("slow.4") == ["queued", "running", "done"]


def test_an_image_that_comes_meanwhile_has_the_study_read_again(site: Site, folder: Path) -> None:
    site.send("slow.1")
    with site.at_work():
        site.wait_for("slow.1", "running")
        site.send("slow.1")
        site.wait_for("slow.1", "done")
    assert site.seen("slow.1") == ["queued", "running", "queued", "running", "done"]


def test_a_study_that_another_worker_took_over_is_dropped_at_once(folder: Path) -> None:
    site = Site(folder / "home", study_seconds=60.0, lease_seconds=8.0)
    site.send("slow.30")
    with site.at_work():
        (pid,) = site.wait(lambda: (folder / "attempts").exists() and attempts(folder, "slow.30"))
        with site.ledger.write() as db:
            db.execute(text("UPDATE tasks SET fence = fence + 1"))
        assert gone(pid, 5.0)
        site.send("ok.1")
        site.wait_for("ok.1", "done")
        assert site.row("slow.30")["status"] == "running"


def test_what_was_read_while_the_ledger_was_away_is_recorded_when_it_is_back(site: Site, folder: Path) -> None:
    home, aside = site.settings.home, folder / "aside"
    site.send("slow.1")
    with site.at_work() as running:
        site.wait_for("slow.1", "running")
        home.rename(aside)
        home.touch()  # so that nobody makes another ledger there
        with pytest.raises(LedgerError):
            site.row("slow.1")
        site.wait(lambda: not running._usable.is_set())
        time.sleep(3.0)  # longer than the lease
        (folder / "link").symlink_to(aside)
        (folder / "link").replace(home)  # in one step: the node makes a folder wherever it finds none
        assert site.wait_for("slow.1")["status"] == "done"
        site.send("ok.1")
        assert site.wait_for("ok.1", seconds=5.0)["status"] == "done"
    assert len(attempts(folder, "slow.1")) == 1


def test_a_worker_that_starts_before_its_ledger_waits_for_it(site: Site, folder: Path) -> None:
    home, aside = site.settings.home, folder / "aside"
    site.send("ok.1")
    home.rename(aside)
    home.touch()
    with site.at_work() as running:
        site.wait(lambda: running._told)
        (folder / "link").symlink_to(aside)
        (folder / "link").replace(home)  # in one step: the node makes a folder wherever it finds none
        assert site.wait_for("ok.1")["status"] == "done"


def test_a_ledger_of_another_archive_is_left_alone(site: Site) -> None:
    with site.ledger.write() as db:
        tasks.set_fact(db, "archive", "somewhere else")
    site.send("ok.1")
    with site.at_work() as running:
        site.wait(lambda: "another archive" in running._told)
        time.sleep(1.0)
        assert site.row("ok.1")["status"] == "queued"
        with site.ledger.write() as db:
            db.execute(text("DELETE FROM facts WHERE name = 'archive'"))
        assert site.wait_for("ok.1")["status"] == "done"


@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server is installed")
def test_a_database_server_that_dies_costs_nothing_but_time(folder: Path) -> None:
    with postgres_server() as server:
        site = Site(folder / "home", ledger_url=server.new_database(), workers=2)
        with site.at_work():
            site.send("slow.1")
            site.wait_for("slow.1", "running")
            server.kill()
            time.sleep(2.0)
            server.start()
            assert site.wait_for("slow.1")["status"] == "done"
            site.send("ok.1")
            assert site.wait_for("ok.1")["status"] == "done"
    assert len(attempts(folder, "slow.1")) == 1


@pytest.mark.parametrize(("what", "problem"), [("broken", "models_unusable"), ("dying", "reader_dies")])
def test_what_keeps_a_reading_process_from_starting_is_named_and_tried_again_until_it_does(
    site: Site, folder: Path, what: str, problem: str
) -> None:
    (folder / what).touch()
    site.send("ok.1")
    with site.at_work():
        reported = site.wait(lambda: (w := site.worker()).get("problem") and w)
        assert (reported["problem"], reported["state"]) == (problem, "starting")
        time.sleep(1.0)
        row = site.row("ok.1")
        assert (row["status"], row["fence"]) == ("queued", 0)  # nobody claims what nobody can read
        (folder / what).unlink()
        assert site.wait_for("ok.1")["status"] == "done"
        site.wait(lambda: site.worker()["problem"] == "")


def test_a_reading_process_that_dies_with_nothing_to_do_is_replaced(site: Site, folder: Path) -> None:
    with site.at_work():
        site.send("ok.1")
        site.wait_for("ok.1")
        (first,) = attempts(folder, "ok.1")
        os.kill(first, signal.SIGKILL)
        site.send("ok.2")
        row = site.wait_for("ok.2")
    assert (row["status"], row["failures"]) == ("done", 0)
    assert attempts(folder, "ok.2") != [first]


_BY_ITSELF = """
import sys
sys.path[:0] = [{repository!r}, {tests!r}]
import faulty_reader
from orthanc_plugin.working.worker_process import main
sys.exit(main(faulty_reader.COMMAND))
"""


@contextmanager
def worker_process(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as the plugin starts it."""
    code = _BY_ITSELF.format(repository=str(REPOSITORY), tests=str(Path(__file__).parent))
    settings = {"HOME": site.settings.home, "STUDY_SECONDS": 60, "LEASE_SECONDS": 2, "MEMORY_MB": 512}
    environment = {**os.environ, **{f"HILUM_{name}": str(value) for name, value in settings.items()}}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]


def test_a_worker_takes_at_once_what_a_dead_one_of_its_name_had_in_hand_and_nothing_else(
    folder: Path,
) -> None:
    site = Site(folder / "home", lease_seconds=60.0)
    site.send("ok.1", "ok.2")
    for holder in ("here", "elsewhere"):
        with site.ledger.write() as db:
            assert tasks.claim(db, holder, now=time.time(), lease_seconds=60.0, abandoned_limit=20)
    with site.at_work():
        assert site.wait_for("ok.1")["status"] == "done"
        assert (site.row("ok.2")["status"], site.row("ok.2")["holder"]) == ("running", "elsewhere")


def test_a_killed_worker_leaves_no_process_behind_and_its_study_to_the_next(site: Site, folder: Path) -> None:
    site.send("parent")
    with worker_process(site) as process:
        child = int(site.wait(lambda: (folder / "child").exists() and (folder / "child").read_text()))
        process.kill()
        process.wait()
        assert gone(attempts(folder, "parent")[0])
        assert gone(child)
    killed_at = time.monotonic()
    with site.at_work():
        row = site.wait(lambda: (r := site.row("parent"))["fence"] == 2 and r)
        assert time.monotonic() - killed_at < site.settings.lease_seconds + 5.0
    assert (row["abandoned"], row["attempts"]) == (1, 0)


def end_the_pipe(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()


@pytest.mark.parametrize("end", [end_the_pipe, terminate])
def test_a_worker_that_is_to_end_finishes_what_it_has_in_hand(
    site: Site, end: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    site.send("slow.2", "ok.1")
    with worker_process(site) as process:
        site.wait_for("slow.2", "running")
        end(process)
        assert process.wait(10.0) == 0
    assert site.row("slow.2")["status"] == "done"
    assert site.row("ok.1")["status"] in ("queued", "done")


def test_what_it_cannot_finish_is_given_back_with_nothing_counted(site: Site, folder: Path) -> None:
    site.send("slow.30")
    with worker_process(site) as process:
        (pid,) = site.wait(lambda: (folder / "attempts").exists() and attempts(folder, "slow.30"))
        started = time.monotonic()
        terminate(process)
        assert process.wait(10.0) == 0  # the supervisor kills after ten
        assert time.monotonic() - started > 7.0
    assert gone(pid)
    row = site.row("slow.30")
    assert (row["status"], row["attempts"], row["failures"], row["abandoned"]) == ("queued", 0, 0, 0)
    assert site.seen("slow.30") == ["queued", "running", "queued"]


def test_an_idle_worker_ends_at_once(site: Site) -> None:
    with worker_process(site) as process:
        site.wait(lambda: site.worker().get("state") == "ready")
        started = time.monotonic()
        terminate(process)
        assert process.wait(10.0) == 0
        assert time.monotonic() - started < 2.0


def test_a_byte_from_the_plugin_wakes_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "POLL_SECONDS", 60.0)
    site = Site(folder / "home")
    with site.at_work() as running:
        site.wait(lambda: site.worker().get("state") == "ready")
        time.sleep(0.3)
        site.send("ok.1")
        running.rang.set()
        site.wait_for("ok.1", "done", seconds=2.0)


def settings() -> Settings:
    return Settings(home=Path("/nowhere"), attempts=3, deadline_hours=1.0)


def test_a_study_s_own_failures_are_counted_and_the_last_one_is_final() -> None:
    crash = Failure("reader_died", "it died")
    for failures in (0, 1):
        then = next_try(task("1", attempts=failures, failures=failures), crash, settings(), now=100.0)
        assert then.counted
        assert then.at is not None
        assert 0.8 * 2**failures <= then.at - 100.0 <= 1.2 * 2**failures
    assert next_try(task("1", attempts=2, failures=2), crash, settings(), now=100.0).at is None


@pytest.mark.parametrize("reason", sorted(OUTAGES))
def test_an_outage_is_waited_for_until_the_deadline(reason: str) -> None:
    outage, tired = Failure(reason, "away", "x.py:1 f"), task("1", attempts=2, failures=500, first_failed_at=1000.0)
    then = next_try(tired, outage, settings(), now=1000.0 + 3600.0)
    assert (then.counted, then.failure) == (False, outage)
    assert then.at is not None
    assert 4600.0 + 40.0 <= then.at <= 4600.0 + 60.0
    late = next_try(tired, outage, settings(), now=1000.0 + 3601.0)
    assert (late.at, late.counted) == (None, False)
    assert late.failure == replace(outage, reason="deadline", message="away; given up after 1 hours")
    assert next_try(replace(tired, first_failed_at=None), outage, settings(), now=9e9).at is not None
    assert next_try(tired, outage, settings(), now=0.0).at is not None  # the clock was put back


def test_pauses_double_and_stay_below_a_minute() -> None:
    for failures in range(1, 5000, 7):
        assert 0.8 * min(2.0 ** min(failures, 9) / 2, 50.0) <= pause_seconds(failures, 1.0) <= 60.0
    assert len({pause_seconds(3, 1.0) for _ in range(20)}) > 10  # so that many that failed together come apart


def test_workers_of_one_machine_have_names_of_their_own(site: Site) -> None:
    with worker_process(site):
        site.wait(lambda: site.worker().get("state"))
        name = str(site.worker()["worker_id"])
    assert name.startswith(f"{socket.gethostname()}-")
    assert name != new_worker_id() != new_worker_id()

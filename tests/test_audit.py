"""The audit log: the chain of its lines, what tampering shows, several writers, and a disk that takes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orthanc_plugin import cli
from orthanc_plugin.access import audit_chain, audit_files
from orthanc_plugin.access.audit import VIEW_SECONDS, Audit, Who

ANNA = Who("anna", "radiologist", "127.0.0.1")
LONG = 1_000_000


def entries(count: int) -> list[dict[str, str]]:
    return [{"who": "anna", "action": f"view {n}"} for n in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of four lines and one of one."""
    made = tmp_path / "audit"
    for entry in entries(13):
        audit_files.append(made, [entry], longest=480)
    assert [len(path.read_bytes().splitlines()) for path in audit_files.files_of(made)] == [4, 4, 4, 1]
    return made


def faults(folder: Path) -> tuple[str, ...]:
    return audit_chain.verify(folder).faults


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True)


def test_the_chain_goes_from_file_to_file(folder: Path) -> None:
    found = audit_chain.verify(folder)
    assert (found.lines, found.end.number, found.faults) == (13, 13, ())
    assert [entry["action"] for entry in audit_files.read(folder)] == [f"view {n}" for n in range(13)]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


def change_a_line(folder: Path) -> None:
    file = folder / "000002.log"
    file.write_bytes(file.read_bytes().replace(b"view 5", b"view 6"))


def remove_a_line(folder: Path) -> None:
    file = folder / "000002.log"
    file.write_bytes(b"".join(line for n, line in enumerate(lines(file)) if n != 2))


def remove_the_first_line(folder: Path) -> None:
    file = folder / "000001.log"
    file.write_bytes(b"".join(lines(file)[1:]))


def remove_the_last_line(folder: Path) -> None:
    (folder / "000004.log").write_bytes(b"")


def change_the_last_line(folder: Path) -> None:
    file = folder / "000004.log"
    file.write_bytes(file.read_bytes().replace(b"anna", b"hans"))


def swap_two_lines(folder: Path) -> None:
    file = folder / "000003.log"
    found = lines(file)
    file.write_bytes(b"".join([found[1], found[0], *found[2:]]))


def repeat_a_line(folder: Path) -> None:
    file = folder / "000003.log"
    found = lines(file)
    file.write_bytes(b"".join([found[0], *found]))


def remove_a_file(folder: Path) -> None:
    (folder / "000002.log").unlink()


def remove_the_first_file(folder: Path) -> None:
    (folder / "000001.log").unlink()


def remove_the_last_file(folder: Path) -> None:
    (folder / "000004.log").unlink()


def remove_all_files(folder: Path) -> None:
    for file in audit_files.files_of(folder):
        file.unlink()


def remove_the_head(folder: Path) -> None:
    (folder / "head").unlink()


def add_a_line(folder: Path) -> None:
    with (folder / "000004.log").open("ab") as file:
        file.write(json.dumps({"n": 14, "previous": "0" * 64, "who": "hans"}).encode() + b"\n")


def cut_the_last_line(folder: Path) -> None:
    """As a crash would leave it; but the file that names the last line has this one, and it comes after."""
    file = folder / "000004.log"
    file.write_bytes(file.read_bytes()[:-9])


def cut_a_line(folder: Path) -> None:
    file = folder / "000002.log"
    file.write_bytes(file.read_bytes()[:-9])


def insert_a_line(folder: Path) -> None:
    """One that follows the line before it; the one after it does not follow this one."""
    file = folder / "000002.log"
    found = lines(file)
    before = hashlib.sha256(found[0].rstrip(b"\n")).hexdigest()
    made = json.dumps({"n": json.loads(found[1])["n"], "previous": before, "who": "hans"}).encode() + b"\n"
    file.write_bytes(b"".join([found[0], made, *found[1:]]))


def take_a_file_of_another_node(folder: Path) -> None:
    other = folder.with_name("other")
    for entry in entries(13):
        audit_files.append(other, [entry], longest=480)
    (folder / "000001.log").write_bytes((other / "000001.log").read_bytes())


def take_all_but_the_head_of_another_node(folder: Path) -> None:
    take_a_file_of_another_node(folder)
    for name in ("start", "000001.log", "000002.log", "000003.log", "000004.log"):
        (folder / name).write_bytes((folder.with_name("other") / name).read_bytes())


def remove_the_start(folder: Path) -> None:
    (folder / "start").unlink()


def write_garbage(folder: Path) -> None:
    file = folder / "000003.log"
    file.write_bytes(file.read_bytes()[:-40] + b"\x00\xff" * 20)


TAMPERINGS = [
    change_a_line, remove_a_line, remove_the_first_line, remove_the_last_line, change_the_last_line, swap_two_lines,
    repeat_a_line, remove_a_file, remove_the_first_file, remove_the_last_file, remove_all_files, remove_the_head,
    add_a_line, write_garbage, cut_the_last_line, cut_a_line, insert_a_line, take_a_file_of_another_node,
    take_all_but_the_head_of_another_node, remove_the_start,
]  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_whatever_is_changed_or_taken_away_is_noticed(folder: Path, tamper: Callable[[Path], None]) -> None:
    tamper(folder)
    assert faults(folder)


@pytest.mark.parametrize("tamper", [t for t in TAMPERINGS if t is not remove_the_head])
def test_what_is_written_afterwards_does_not_hide_it(folder: Path, tamper: Callable[[Path], None]) -> None:
    tamper(folder)
    for entry in entries(6):
        audit_files.append(folder, [entry], longest=480)
    assert faults(folder)
    assert [entry.get("action") for entry in audit_files.read(folder)][-6:] == [f"view {n}" for n in range(6)]


def test_a_line_that_a_dying_machine_did_not_finish_is_cut_off(folder: Path) -> None:
    with (folder / "000004.log").open("ab") as file:
        file.write(b'{"n": 14, "previo')
    found = audit_chain.verify(folder)
    assert (found.lines, found.faults) == (13, ()), "nobody forged it"
    assert "000004.log, line 2: it was never finished" in found.notes[0]
    audit_files.append(folder, entries(1), longest=480)
    assert faults(folder) == ()


def test_each_installation_has_a_start_of_its_own_and_one_of_before_is_good(folder: Path, tmp_path: Path) -> None:
    audit_files.append(tmp_path / "other", entries(1), longest=480)
    assert (tmp_path / "other" / "start").read_text() != (folder / "start").read_text()
    # a log from before there were starts: its first line follows nothing
    old = tmp_path / "old"
    old.mkdir()
    line = json.dumps({"n": 1, "previous": "0" * 64, "who": "anna"}).encode()
    (old / "000001.log").write_bytes(line + b"\n")
    (old / "head").write_text(f"1 {hashlib.sha256(line).hexdigest()}\n")
    audit_files.append(old, entries(1), longest=480)
    assert audit_chain.verify(old).lines == 2
    assert faults(old) == ()


def test_the_newest_files_can_be_followed_alone(folder: Path) -> None:
    change_a_line(folder)
    assert audit_chain.verify(folder, newest=2).faults == ()
    assert audit_chain.verify(folder, newest=2).lines == 5
    assert audit_chain.verify(folder, newest=3).faults
    change_the_last_line(folder)
    assert audit_chain.verify(folder, newest=1).faults


def test_lines_that_the_head_does_not_know_yet_are_good(folder: Path) -> None:
    """The machine stopped between the line and the head."""
    before = (folder / "head").read_bytes()
    audit_files.append(folder, entries(1), longest=480)
    (folder / "head").write_bytes(before)
    assert faults(folder) == ()
    audit_files.append(folder, entries(1), longest=480)
    assert faults(folder) == ()


def test_several_processes_make_one_chain(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orthanc_plugin.access import audit_files;"
        "[audit_files.append(Path(sys.argv[1]), [{'who': sys.argv[2], 'i': i}], longest=4000) for i in range(100)]"
    )
    begun = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "audit"), name]) for name in "abc"]
    assert [process.wait(120) for process in begun] == [0, 0, 0]
    found = audit_chain.verify(tmp_path / "audit")
    assert (found.lines, found.faults) == (300, ())
    assert len(audit_files.files_of(tmp_path / "audit")) > 5


def test_what_is_recorded_is_written_soon_and_has_no_time_but_utc(tmp_path: Path) -> None:
    audit = Audit(tmp_path, longest=LONG, clock=lambda: 1_700_000_000.1239)
    audit.start()
    assert audit.record("retry", ANNA, "1.2.3", wait_seconds=5)
    (entry,) = audit_files.read(tmp_path)
    assert entry == {
        "n": 1, "previous": (tmp_path / "start").read_text().strip(),
        "time": "2023-11-14T22:13:20.123Z", "who": "anna", "role": "radiologist",
        "address": "127.0.0.1", "action": "retry", "study": "1.2.3", "outcome": "done", "detail": "",
    }  # fmt: skip
    audit.stop()


@pytest.mark.parametrize("study", ["Mustermann^Max", "1.2.3\n", "1" * 65, "../../etc/passwd", "PAT-1"])
def test_what_is_no_uid_is_not_written(tmp_path: Path, study: str) -> None:
    audit = Audit(tmp_path, longest=LONG)
    audit.start()
    audit.record("view_study", ANNA, study, wait_seconds=5)
    audit.stop()
    (entry,) = audit_files.read(tmp_path)
    assert entry["study"] == ""
    assert study.strip() not in (tmp_path / "000001.log").read_text()


def test_a_hostile_name_stays_within_its_line(tmp_path: Path) -> None:
    audit = Audit(tmp_path, longest=LONG)
    audit.start()
    name = 'x"}\n{"n": 9, "who": "hans\u2028\x00'
    audit.record("log_in", Who(name), wait_seconds=5)
    audit.stop()
    (entry,) = audit_files.read(tmp_path)
    assert entry["who"] == name
    assert len((tmp_path / "000001.log").read_bytes().splitlines()) == 1
    assert audit_chain.verify(tmp_path).faults == ()


def test_one_entry_stands_for_what_somebody_goes_on_looking_at(tmp_path: Path) -> None:
    now = [0.0]
    audit = Audit(tmp_path, longest=LONG, clock=lambda: now[0])
    audit.start()
    for at in (0.0, 1.0, VIEW_SECONDS - 1, VIEW_SECONDS + 1):
        now[0] = at
        audit.record_view("view_study", ANNA, "1.2.3")
    audit.record_view("view_study", ANNA, "1.2.4")
    audit.record_view("view_study", Who("hans"), "1.2.3")
    audit.forget_views(ANNA)
    audit.record_view("view_study", ANNA, "1.2.3")
    audit.stop()
    found = [(entry["who"], entry["study"]) for entry in audit_files.read(tmp_path)]
    assert found == [("anna", "1.2.3")] * 2 + [("anna", "1.2.4"), ("hans", "1.2.3"), ("anna", "1.2.3")]


def test_a_disk_that_takes_nothing_delays_nobody_and_loses_nothing(tmp_path: Path) -> None:
    blocker = tmp_path / "audit"
    blocker.write_text("a file where the folder should be")
    audit = Audit(blocker, longest=LONG)
    audit.start()
    began = time.monotonic()
    for n in range(1000):
        audit.record("view_study", ANNA, f"1.2.{n}")
    assert time.monotonic() - began < 1
    assert audit.record("retry", ANNA, wait_seconds=0.2) is False, "a change is told"
    assert audit.problem is not None
    assert audit.problem[1] == 1001
    blocker.unlink()
    assert audit.record("retry", ANNA, wait_seconds=10) is True
    assert audit.problem is None
    audit.stop()
    found = audit_chain.verify(blocker)
    assert (found.lines, found.faults) == (1002, ())


def test_a_batch_that_did_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """On a real full disk: a file system of 64 kB."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        folder = small / "audit"
        written = 0
        with contextlib.suppress(OSError):
            while written < 10_000:
                audit_files.append(folder, entries(20), longest=LONG)
                written += 20
        found = audit_chain.verify(folder)
        assert (found.lines, found.faults) == (written, ())
        assert 100 < written < 10_000
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_entries_that_found_no_room_leave_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orthanc_plugin.access.audit._MOST_WAITING", 3)
    audit = Audit(tmp_path, longest=LONG)
    for n in range(5):
        audit.record("view_study", ANNA, f"1.2.{n}")
    audit.start()
    audit.stop()
    actions = [(entry["action"], entry["detail"]) for entry in audit_files.read(tmp_path)]
    assert actions[-1] == ("audit_gap", "2 entries could not be kept")
    assert len(actions) == 4


# -- the oldest files go


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a home, four lines a file, an hour from line to line."""
    for name in [name for name in os.environ if name.startswith("HILUM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    for hour in range(13):
        entry = {"time": f"2026-01-31T{hour:02d}:00:00.000Z", "who": "anna", "action": "view_study"}
        audit_files.append(tmp_path / "audit", [entry], longest=600)
    assert [len(lines(path)) for path in audit_files.files_of(tmp_path / "audit")] == [4, 4, 4, 1]
    return tmp_path / "audit"


def names(folder: Path) -> list[str]:
    return [file.name for file in audit_files.files_of(folder)]


def remove(before: str) -> int:
    return cli.main(["audit", "remove", "--before", before])


def test_files_that_were_removed_leave_a_chain_that_can_be_followed(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remove("2026-01-31T07:00:00+00:00") == 0
    assert names(old) == ["000002.log", "000003.log", "000004.log"], "the second holds an entry of just then"
    assert cli.main(["audit", "verify"]) == 0
    assert "entries 1 to 4 were removed, as a later entry says" in capsys.readouterr().out
    assert list(audit_files.read(old))[-1]["action"] == "audit_removed"
    assert remove("2027-01-01") == 0
    assert names(old) == ["000004.log"], "the newest stays"
    assert audit_chain.verify(old).faults == ()
    change_the_last_line(old)
    assert faults(old)
    assert cli.main(["audit", "verify"]) == 1


def test_files_that_are_gone_without_a_word_are_missing(old: Path) -> None:
    assert remove("2026-01-31T07:00:00+00:00") == 0
    (old / "000002.log").unlink()
    assert "file 000002.log is missing, and no entry tells of its removal" in faults(old)[0]
    first = audit_files.Place(8, "0" * 64)
    audit_files.append(old, [{"action": "audit_removed", "detail": audit_chain.removal(first)}], longest=9000)
    assert faults(old), "and a word that does not fit says nothing"


def test_a_removal_that_did_not_come_to_its_end_is_no_fault(old: Path) -> None:
    last = audit_chain.last_of(old / "000003.log")
    audit_files.append(old, [{"action": "audit_removed", "detail": audit_chain.removal(last)}], longest=9000)
    assert faults(old) == ()
    for name in ("000001.log", "000002.log", "000003.log"):
        (old / name).unlink()
        assert faults(old) == ()


def test_nothing_is_removed_from_a_log_that_is_not_whole_or_is_owed(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old.parent / "hilum.toml").write_text('[collector]\nhost = "127.0.0.1"\n')
    (old / "sent").write_text("6 000002.log 300\n")
    assert remove("2027-01-01") == 0
    assert names(old)[0] == "000002.log", "what the collector has not taken stays"
    change_a_line(old)
    file = old / "000003.log"
    file.write_bytes(file.read_bytes().replace(b"anna", b"hans"))
    capsys.readouterr()
    assert remove("2027-01-01") == 1
    assert "the audit log is not whole" in capsys.readouterr().err
    assert names(old)[0] == "000002.log"


def test_what_is_exported_is_what_the_collector_gets(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "export", "--since", "2026-01-31T11:00:00+00:00"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert all(one.startswith('<?xml version="1.0" encoding="UTF-8"?><AuditMessage>') for one in told)

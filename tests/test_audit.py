"""The audit log: the chain of its lines, what tampering shows, several writers, and a disk that takes nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orthanc_plugin.access import audit_files
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
    return audit_files.verify(folder).faults


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True)


def test_the_chain_goes_from_file_to_file(folder: Path) -> None:
    found = audit_files.verify(folder)
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


def write_garbage(folder: Path) -> None:
    file = folder / "000003.log"
    file.write_bytes(file.read_bytes()[:-40] + b"\x00\xff" * 20)


TAMPERINGS = [
    change_a_line, remove_a_line, remove_the_first_line, remove_the_last_line, change_the_last_line, swap_two_lines,
    repeat_a_line, remove_a_file, remove_the_first_file, remove_the_last_file, remove_all_files, remove_the_head,
    add_a_line, write_garbage,
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
    assert "never finished" in faults(folder)[0]
    audit_files.append(folder, entries(1), longest=480)
    assert faults(folder) == ()


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
    found = audit_files.verify(tmp_path / "audit")
    assert (found.lines, found.faults) == (300, ())
    assert len(audit_files.files_of(tmp_path / "audit")) > 5


def test_what_is_recorded_is_written_soon_and_has_no_time_but_utc(tmp_path: Path) -> None:
    audit = Audit(tmp_path, longest=LONG, clock=lambda: 1_700_000_000.1239)
    audit.start()
    assert audit.record("retry", ANNA, "1.2.3", wait_seconds=5)
    (entry,) = audit_files.read(tmp_path)
    assert entry == {
        "n": 1, "previous": "0" * 64, "time": "2023-11-14T22:13:20.123Z", "who": "anna", "role": "radiologist",
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
    assert audit_files.verify(tmp_path).faults == ()


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
    found = audit_files.verify(blocker)
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
        found = audit_files.verify(folder)
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

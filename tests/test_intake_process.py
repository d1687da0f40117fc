"""The process that takes instances in: what goes wrong over there stays there, and the next image is read normally.

Some faults cannot be had from a file at will. Then the process finds a ``sitecustomize`` on its path which makes the
same parser fail in the way that the content asks for; nothing on this side of the connection is replaced.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import fields
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmwrite

from models.intake import Intake, NotTakenIn, take_in
from models.phantom import chest
from models.refusal import Refusal
from models.selection import Policy
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.reading import intake_process
from orthanc_plugin.reading.intake_process import KEPT, IntakeProcess, IsolationFailed
from orthanc_plugin.settings import REPOSITORY

_FAULTS = """
    import ctypes, os, signal, time
    import models.intake

    real = models.intake.take_in

    def take_in(content, policy):
        fault, _, where = content.partition(b":")
        if fault == b"crash":
            ctypes.string_at(0)
        if fault == b"crash once" and not os.path.exists(where):
            open(where, "w").close()
            ctypes.string_at(0)
        if fault == b"killed" or (fault == b"killed once" and not os.path.exists(where)):
            open(where or os.devnull, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == b"compute":
            while True:
                pass
        if fault == b"wait":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
            time.sleep(1000)
        if fault == b"memory":
            kept = []
            while True:
                kept.append(bytes(2**26))
        if fault == b"abort":
            os.abort()
        if fault == b"exit":
            os._exit(0)
        if fault == b"defect":
            raise KeyError("a mistake of ours")
        return real(b"" if fault.endswith(b" once") else content, policy)

    models.intake.take_in = take_in
"""


def file_of(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


PIXELS = chest(3, rows=160, columns=140).pixels


def plain(**how: object) -> Dataset:
    return radiograph(PIXELS, Exposure(seed="isolation", **how))  # type: ignore[arg-type]


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IntakeProcess]:
    """A process that fails on demand, and has two seconds for each image."""
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(_FAULTS))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    with IntakeProcess(2.0) as process:
        yield process


def pid_of(process: IntakeProcess) -> int:
    assert process._process is not None
    return process._process.pid


def assert_reads(process: IntakeProcess) -> None:
    """An ordinary radiograph comes back exactly as it is read in this process."""
    content = file_of(plain())
    found, wanted = process.take_in(content, Policy()), take_in(content, Policy())
    assert isinstance(found, Intake)
    assert np.array_equal(found.image.pixels, wanted.image.pixels)
    for field in fields(wanted.key):
        assert np.array_equal(getattr(found.key, field.name), getattr(wanted.key, field.name))
    assert found.selection == wanted.selection
    assert found.header.SOPInstanceUID == wanted.header.SOPInstanceUID
    assert "PixelData" not in found.header


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends, or is a zombie that waits for its parent, within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_many_images_pass_one_process_without_descriptors_or_memory_left_behind() -> None:
    with IntakeProcess(30.0) as process:
        assert_reads(process)
        pid, mailbox = pid_of(process), process._mailbox.descriptor
        for side in (150, 400, 131):
            pixels = np.resize(PIXELS, (side, side + 7))
            taken = process.take_in(file_of(radiograph(pixels, Exposure(seed=str(side)))), Policy())
            assert taken.image.shape == pixels.shape
            assert os.fstat(mailbox).st_size < 10**6
        large = file_of(radiograph(np.resize(PIXELS, (6000, 6000)), Exposure(seed="large")))
        if len(large) <= KEPT:
            pytest.fail("it is not large enough to be given back")
        process.take_in(large, Policy())
        assert os.fstat(mailbox).st_size < KEPT  # what one large file took is given back
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(20):
            process.take_in(file_of(plain()), Policy())
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
        assert pid_of(process) == pid
    assert gone(pid)


def test_what_came_back_is_not_changed_by_the_next_image() -> None:
    with IntakeProcess(30.0) as process:
        first = process.take_in(file_of(plain()), Policy())
        kept = first.image.pixels.copy()
        process.take_in(file_of(radiograph(1 - PIXELS, Exposure(seed="b"))), Policy())
        assert np.array_equal(first.image.pixels, kept)


def test_closing_gives_every_descriptor_back() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    process = IntakeProcess(30.0)
    assert_reads(process)
    process.close()
    del process
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_a_refusal_comes_back_with_its_code_and_evidence_and_ends_nothing() -> None:
    with IntakeProcess(30.0) as process:
        assert_reads(process)
        pid = pid_of(process)
        with pytest.raises(NotTakenIn) as refused:
            process.take_in(file_of(plain(view="LL")), Policy())
        assert refused.value.code is Refusal.VIEW
        assert [e.source for e in refused.value.evidence][-1] == "ViewCodeSequence"
        assert refused.value.sop_instance_uid == plain().SOPInstanceUID
        assert_reads(process)
        assert pid_of(process) == pid


@pytest.mark.parametrize("fault", [b"compute", b"wait"])
def test_an_image_that_takes_too_long_is_refused_in_time_and_the_next_is_read(
    faulty: IntakeProcess, caplog: pytest.LogCaptureFixture, fault: bytes
) -> None:
    assert_reads(faulty)
    first = pid_of(faulty)
    with pytest.raises(NotTakenIn, match="longer than 2 s") as refused:
        faulty.take_in(fault, Policy())
    assert refused.value.code is Refusal.UNREADABLE_PIXELS
    # one that computes is not tried twice; one that waits might have met a machine that stood still
    assert sum("longer than 2 s" in one.message for one in caplog.records) == (1 if fault == b"compute" else 2)
    assert gone(first)
    assert_reads(faulty)


def test_a_real_file_that_takes_too_long_is_refused() -> None:
    """An integer string of eleven characters whose value has a hundred million digits."""
    ds = plain()
    ds.add_new(0x00200013, "LO", "1E100000000")
    content = file_of(ds).replace(b"\x20\x00\x13\x00LO", b"\x20\x00\x13\x00IS")
    with IntakeProcess(1.5) as process:
        started = time.monotonic()
        with pytest.raises(NotTakenIn) as refused:
            process.take_in(content, Policy())
        assert refused.value.code in (Refusal.UNREADABLE_PIXELS, Refusal.UNREADABLE_HEADER)
        assert time.monotonic() - started < 8.0
        assert_reads(process)


def test_a_crash_is_a_refusal_and_the_next_image_is_read(
    faulty: IntakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    assert_reads(faulty)
    first = pid_of(faulty)
    with caplog.at_level(logging.WARNING), pytest.raises(NotTakenIn, match="ended the process") as refused:
        faulty.take_in(b"crash", Policy())
    assert refused.value.code is Refusal.UNREADABLE_PIXELS
    assert sum("ended the process" in message for message in caplog.messages) == 2
    assert gone(first)
    assert_reads(faulty)


def test_a_crash_that_does_not_happen_again_costs_nothing_but_time(faulty: IntakeProcess, tmp_path: Path) -> None:
    with pytest.raises(NotTakenIn) as refused:  # what is read at the second try is no DICOM
        faulty.take_in(b"crash once:" + str(tmp_path / "crashed").encode(), Policy())
    assert refused.value.code is Refusal.UNREADABLE_HEADER


def test_memory_without_end_is_refused_by_the_process_itself(faulty: IntakeProcess) -> None:
    faulty._seconds = 60.0
    assert_reads(faulty)
    with pytest.raises(NotTakenIn) as refused:
        faulty.take_in(b"memory", Policy())
    assert refused.value.code is Refusal.UNREADABLE_PIXELS
    assert_reads(faulty)


def test_a_defect_of_the_parser_is_a_refusal(faulty: IntakeProcess) -> None:
    with pytest.raises(NotTakenIn, match="ended the process"):
        faulty.take_in(b"defect", Policy())
    assert_reads(faulty)


def test_a_process_that_was_killed_between_two_images_is_started_again() -> None:
    with IntakeProcess(30.0) as process:
        assert_reads(process)
        os.kill(pid_of(process), signal.SIGKILL)
        assert_reads(process)


def test_an_image_is_not_refused_because_somebody_kills_the_process(faulty: IntakeProcess, tmp_path: Path) -> None:
    with pytest.raises(IsolationFailed, match="was killed"):
        faulty.take_in(b"killed", Policy())
    with pytest.raises(NotTakenIn) as refused:  # what is read at the second try is no DICOM
        faulty.take_in(b"killed once:" + str(tmp_path / "killed").encode(), Policy())
    assert refused.value.code is Refusal.UNREADABLE_HEADER
    assert_reads(faulty)


@pytest.mark.parametrize("fault", [b"abort", b"exit"])
def test_whatever_else_ends_the_process_twice_is_held_against_the_image(faulty: IntakeProcess, fault: bytes) -> None:
    with pytest.raises(NotTakenIn, match="ended the process") as refused:
        faulty.take_in(fault, Policy())
    assert refused.value.code is Refusal.UNREADABLE_PIXELS
    assert_reads(faulty)


def test_who_ends_a_whole_group_does_not_mean_the_intake() -> None:
    with IntakeProcess(30.0) as process:
        assert_reads(process)
        pid = pid_of(process)
        for kind in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, kind)
        assert_reads(process)
        assert pid_of(process) == pid


def test_no_memory_image_of_a_crashed_process_is_written(faulty: IntakeProcess) -> None:
    assert_reads(faulty)
    limits = Path(f"/proc/{pid_of(faulty)}/limits").read_text()
    rows = {line[:25].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max address space"] == [str(intake_process.MEMORY_LIMIT)] * 2


def test_values_of_a_header_do_not_reach_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    ds = plain()
    ds.add_new(0x00100040, "LO", "secret?name")  # Patient's Sex, which pydicom warns of
    content = file_of(ds).replace(b"\x10\x00\x40\x00LO", b"\x10\x00\x40\x00CS")
    with IntakeProcess(30.0) as process:
        process.take_in(content, Policy())
    out, err = capfd.readouterr()
    assert "secret" not in out + err


_WORKER = """
    import sys, time
    from pathlib import Path
    from models.selection import Policy
    from orthanc_plugin.reading.intake_process import IntakeProcess

    process = IntakeProcess(float(sys.argv[2]))
    process.start()
    print(process._process.pid, flush=True)
    if sys.argv[1]:
        process.take_in(sys.argv[1].encode(), Policy())
    time.sleep(600)
"""


@pytest.mark.parametrize(("fault", "within"), [("", 3.0), ("compute", 6.0), ("wait", 6.0)])
def test_a_killed_worker_leaves_no_process_behind(tmp_path: Path, fault: str, within: float) -> None:
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(_FAULTS))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WORKER), fault, "3"],
        env=environment, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True,
    )  # fmt: skip
    try:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        time.sleep(0.5)  # it is busy now
        assert not gone(child, 0.1)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()  # type: ignore[union-attr]
    assert gone(child, within)


def test_a_process_that_does_not_start_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    process = IntakeProcess(30.0)
    with pytest.raises(IsolationFailed):
        process.take_in(file_of(plain()), Policy())
    monkeypatch.delenv("PYTHONPATH")
    assert_reads(process)
    process.close()
    del process
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_a_missing_program_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    with IntakeProcess(30.0) as process:
        monkeypatch.setattr(intake_process.sys, "executable", "/nowhere/python")
        with pytest.raises(IsolationFailed):
            process.take_in(file_of(plain()), Policy())
        monkeypatch.undo()
        assert_reads(process)

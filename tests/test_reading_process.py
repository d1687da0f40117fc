"""The reading process: what a study does to it comes back as a coded failure, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_reader import COMMAND, SECRET

from orthanc_plugin import child_process
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.fork_server import ForkServer
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome, TaskStatus, Urgency
from orthanc_plugin.settings import REPOSITORY
from orthanc_plugin.working import reading_process
from orthanc_plugin.working.reader import Abandoned, NotReady
from orthanc_plugin.working.reading_process import ReadingProcess

MEMORY_MB = 300
_HELLO = (
    "import os, sys; from orthanc_plugin.fork_server import fork_children;"
    "os.write(fork_children(int(sys.argv[1]))[0], b'hello\\n')"
)


def task(name: str, **fields: Any) -> InferenceTask:
    usual: dict[str, Any] = {
        "study_instance_uid": name, "fence": 7, "generation": 1, "attempts": 0, "failures": 0, "first_failed_at": None,
        "result": {}, "conclude": False, "received_at": 1.0, "last_instance_at": 2.0, "urgency": Urgency.ROUTINE,
    }  # fmt: skip
    return InferenceTask(**{**usual, **fields})


def wanted() -> bool:
    return False


def gone(pid: int, seconds: float = 3.0) -> bool:
    """Whether a process ends, or waits as a zombie for its parent, within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[ForkServer]:
    with ForkServer(COMMAND) as server:
        yield server


@pytest.fixture
def reader(server: ForkServer) -> Iterator[ReadingProcess]:
    with ReadingProcess(MEMORY_MB, wanted, server) as process:
        yield process


def failure(answer: Outcome | Failure) -> Failure:
    assert isinstance(answer, Failure)
    assert SECRET not in repr(answer)
    return answer


def test_a_study_is_flagged_before_it_is_answered(reader: ReadingProcess) -> None:
    told: list[Flag] = []
    answer = reader.read(task("flagged"), 5.0, wanted, told.append)
    assert isinstance(answer, Outcome)
    assert told == [Flag("critical", 0, "Pneumothorax 91 %")]
    assert isinstance(reader.read(task("ok"), 5.0, wanted, told.append), Outcome)
    assert len(told) == 1
    assert reader.lives()


def test_a_study_stays_flagged_when_its_reader_dies(reader: ReadingProcess) -> None:
    told: list[Flag] = []
    assert failure(reader.read(task("dies flagged"), 5.0, wanted, told.append)).reason == "reader_died"
    assert [flag.priority for flag in told] == ["critical"]


def test_studies_pass_one_process_and_come_back_as_they_were_answered(reader: ReadingProcess) -> None:
    assert reader.versions == {"lungs": "1.0"}
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for fence in range(20):
        answer = reader.read(task("ok", fence=fence, urgency=Urgency.STAT, result={"ü": [1.5, None]}), 5.0, wanted)
        assert answer == Outcome(
            TaskStatus.DONE, "none", 3, {"images": [{"by": reader.pid}]}, message="nothing found", content="c"
        )
        assert type(answer.status) is TaskStatus  # type: ignore[union-attr]
    assert reader.lives()
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208


@pytest.mark.parametrize(
    ("name", "message"),
    [("crash", "ended by SIGSEGV"), ("killed", "ended by SIGKILL"), ("exit", "ended with code 3")],
)
def test_a_process_that_dies_of_a_study_costs_that_attempt(reader: ReadingProcess, name: str, message: str) -> None:
    failed = failure(reader.read(task(name), 5.0, wanted))
    assert (failed.reason, message in failed.message) == ("reader_died", True)
    assert not reader.lives()
    assert gone(reader.pid, 0.1)


def test_a_crash_tells_where_it_happened(reader: ReadingProcess) -> None:
    trace = failure(reader.read(task("crash"), 5.0, wanted)).trace.splitlines()
    assert trace[-2].startswith("tests/faulty_reader.py:")  # the innermost call is last
    assert trace[-1].endswith(" string_at")


def test_a_hang_in_native_code_ends_at_the_time_limit_and_tells_where(reader: ReadingProcess) -> None:
    started = time.monotonic()
    failed = failure(reader.read(task("hang"), 0.5, wanted))
    assert time.monotonic() - started < 1.6
    assert (failed.reason, failed.message) == ("time_limit", "the study took longer than 0.5 s")
    assert failed.trace.splitlines()[-1].startswith("tests/faulty_reader.py:")
    assert not reader.lives()


def test_a_process_that_is_stopped_ends_at_the_time_limit_all_the_same(reader: ReadingProcess) -> None:
    os.kill(reader.pid, signal.SIGSTOP)
    assert failure(reader.read(task("ok"), 0.5, wanted)).reason == "time_limit"
    assert gone(reader.pid, 0.1)


def test_memory_without_end_is_stopped_at_the_limit(reader: ReadingProcess) -> None:
    failed = failure(reader.read(task("hog"), 30.0, wanted))
    assert (failed.reason, failed.message) == ("out_of_memory", "the study took more than 300 MiB of memory")
    assert failed.trace
    assert not reader.lives()


def test_a_process_that_got_no_memory_is_not_used_again(reader: ReadingProcess) -> None:
    assert failure(reader.read(task("exhausted"), 5.0, wanted)).reason == "out_of_memory"
    assert not reader.lives()


@pytest.mark.parametrize(("name", "error"), [("defect", "KeyError"), ("untold", "TypeError")])
def test_a_defect_is_told_without_values_and_the_process_goes_on(
    reader: ReadingProcess, capfd: pytest.CaptureFixture[str], name: str, error: str
) -> None:
    failed = failure(reader.read(task(name), 5.0, wanted))
    assert failed.reason == "internal_error"
    assert error in failed.message
    assert failed.trace
    assert f"{REPOSITORY}/" not in failed.trace
    assert isinstance(reader.read(task("ok"), 5.0, wanted), Outcome)
    assert SECRET not in capfd.readouterr().err


def test_what_is_expected_to_fail_is_no_defect(reader: ReadingProcess) -> None:
    failed = failure(reader.read(task("away"), 5.0, wanted))
    assert (failed.reason, failed.message) == ("orthanc_unavailable", "Orthanc did not answer")
    assert reader.lives()


@pytest.mark.parametrize("name", ["garbage", "foreign", "endless"])
def test_what_is_no_answer_ends_the_process(reader: ReadingProcess, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(reading_process, "_LONGEST_ANSWER", 2**22)
    monkeypatch.setattr("orthanc_plugin.child_process._ENDING_SECONDS", 0.2)
    assert failure(reader.read(task(name), 10.0, wanted)).reason == "reader_died"
    assert not reader.lives()


def test_a_process_that_says_more_than_it_was_asked_gets_no_further_study(reader: ReadingProcess) -> None:
    reader.read(task("twice"), 5.0, wanted)
    time.sleep(0.2)
    answer = reader.read(task("ok", fence=8), 5.0, wanted) if reader.lives() else None
    assert answer is None or failure(answer).reason == "reader_died"
    assert not reader.lives()


def test_an_answer_that_nobody_wants_any_more_ends_the_process_and_what_it_started(
    reader: ReadingProcess, folder: Path
) -> None:
    child = folder / "child"
    with pytest.raises(Abandoned):
        reader.read(task("parent"), 60.0, child.exists)
    assert not reader.lives()
    assert gone(int(child.read_text()))


def test_a_process_that_died_before_it_had_the_study_is_no_fault_of_the_study(reader: ReadingProcess) -> None:
    os.kill(reader.pid, signal.SIGKILL)
    assert gone(reader.pid)
    assert not reader.lives()
    with pytest.raises(NotReady):
        reader.read(task("ok"), 5.0, wanted)


def test_who_ends_a_whole_group_does_not_mean_the_reading_process(reader: ReadingProcess) -> None:
    for kind in (signal.SIGTERM, signal.SIGINT):
        os.kill(reader.pid, kind)
    assert isinstance(reader.read(task("ok"), 5.0, wanted), Outcome)


def test_it_leaves_no_memory_image_and_goes_first_when_memory_is_short(reader: ReadingProcess) -> None:
    limits = Path(f"/proc/{reader.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6] == ["0"] * 2
    assert int(Path(f"/proc/{reader.pid}/oom_score_adj").read_text()) >= 500


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((sys.executable, "-c", "import os; os._exit(4)"), "ended with code 4 before it was ready"),
        ((sys.executable, "-c", _HELLO), "did not say"),
        (("/nowhere/python",), "no process can be started"),
    ],
)
def test_a_process_that_does_not_start_says_why_and_leaves_nothing_behind(command: tuple[str, ...], why: str) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(NotReady, match=why):
        ReadingProcess(MEMORY_MB, wanted, ForkServer(command))
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_a_broken_bundle_is_named(folder: Path, server: ForkServer) -> None:
    (folder / "broken").touch()
    with pytest.raises(NotReady, match="bundle lungs: its weights are damaged"):
        ReadingProcess(MEMORY_MB, wanted, server)


@pytest.mark.parametrize("where", ["stuck", "slow to import"])
def test_starting_can_be_abandoned_and_takes_no_longer_than_allowed(
    folder: Path, server: ForkServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (folder / where).touch()
    with pytest.raises(Abandoned):
        ReadingProcess(MEMORY_MB, lambda: True, server)
    monkeypatch.setattr(reading_process, "_START_SECONDS", 0.3)
    with pytest.raises(NotReady, match=r"longer than 0\.3 s"):
        ReadingProcess(MEMORY_MB, wanted, server)


def test_it_ends_with_the_thread_that_made_it(server: ForkServer) -> None:
    made: list[ReadingProcess] = []
    thread = threading.Thread(target=lambda: made.append(ReadingProcess(MEMORY_MB, wanted, server)))
    thread.start()
    thread.join()
    assert gone(made[0].pid)
    made[0].close()


def test_the_next_process_imports_nothing(server: ForkServer) -> None:
    pids, servers = set(), set()
    for _ in range(3):
        with ReadingProcess(MEMORY_MB, wanted, server) as process:
            failure(process.read(task("killed"), 5.0, wanted))
            pids.add(process.pid)
        servers.add(server.pid)
    assert len(pids) == 3
    assert len(servers) == 1
    assert servers != {None}


def test_a_process_that_cannot_be_held_is_not_left_behind(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor of a process does not arrive where this one may open no more."""
    received = socket.recv_fds

    def without_descriptors(channel: socket.socket, size: int, most: int) -> Any:
        data, descriptors, flags, address = received(channel, size, most)
        for descriptor in descriptors:
            os.close(descriptor)
        return data, [], flags, address

    with monkeypatch.context() as patch:
        patch.setattr(socket, "recv_fds", without_descriptors)
        with pytest.raises(NotReady):
            ReadingProcess(MEMORY_MB, wanted, server)
    for _ in range(2):
        with ReadingProcess(MEMORY_MB, wanted, server) as process:
            answer = process.read(task("ok"), 5.0, wanted)
            assert isinstance(answer, Outcome)
            assert answer.result["images"][0]["by"] == process.pid


def test_a_server_that_does_not_answer_any_more_is_replaced(server: ForkServer) -> None:
    with ReadingProcess(MEMORY_MB, wanted, server) as process:
        os.kill(server.pid or 0, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        started = time.monotonic()
        assert gone(process.pid)
        assert not process.lives()
        assert time.monotonic() - started < 4.0
    with ReadingProcess(MEMORY_MB, wanted, server) as process:
        assert isinstance(process.read(task("ok"), 5.0, wanted), Outcome)


def test_waiting_for_a_processor_is_not_held_against_a_process(
    reader: ReadingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    monkeypatch.setattr(child_process, "_queued_seconds", lambda _pid: 0.75 * (time.monotonic() - started))
    assert isinstance(reader.read(task("slow.1.0"), 0.5, wanted), Outcome)
    monkeypatch.setattr(child_process, "_queued_seconds", lambda _pid: 2.0 * (time.monotonic() - started))
    monkeypatch.setattr(child_process.Patience, "STRETCH", 2.0)
    assert failure(reader.read(task("slow.30"), 0.5, wanted)).reason == "time_limit"


def test_the_time_in_which_a_process_waits_for_a_processor_is_known() -> None:
    command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    try:
        time.sleep(1.5)
        assert child_process._queued_seconds(processes[0].pid) > 0.2
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_server_that_is_killed_takes_its_process_along_and_another_is_started(server: ForkServer) -> None:
    with ReadingProcess(MEMORY_MB, wanted, server) as process:
        os.kill(server.pid or 0, signal.SIGKILL)
        assert gone(process.pid)
        failed = failure(process.read(task("ok"), 5.0, wanted)) if process.lives() else None
        assert failed is None
    with ReadingProcess(MEMORY_MB, wanted, server) as process:
        assert isinstance(process.read(task("ok"), 5.0, wanted), Outcome)


_LOADED = "import {module}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"


@pytest.mark.parametrize("module", ["orthanc_plugin.working.worker_process", "orthanc_plugin.working.reading_loop"])
def test_the_worker_loads_nothing_heavy(module: str) -> None:
    command = [sys.executable, "-c", _LOADED.format(module=module)]
    loaded = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "monai", "highdicom", "numpy", "pydicom", "orthanc"} & set(loaded)


def test_the_real_one_loads_the_models_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    load_credentials(tmp_path / "credentials.json")  # the plugin's first start makes them; a worker makes up none
    started = time.monotonic()
    with ForkServer(reading_process.COMMAND) as server, ReadingProcess(4096, wanted, server) as process:
        record_property("seconds until ready", round(time.monotonic() - started, 1))
        record_property("MiB", process._resident() // 2**20)
        assert set(process.versions) >= {"lung_fields", "chest_findings"}
        # nothing listens on this port, so the first question to Orthanc fails
        assert failure(process.read(task("1.2.3"), 30.0, wanted)).reason == "orthanc_unavailable"
        assert process.lives()


def test_the_real_one_names_a_bundle_that_it_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    monkeypatch.setenv("HILUM_BUNDLES", "nowhere")
    with ForkServer(reading_process.COMMAND) as server, pytest.raises(NotReady, match="no bundle 'nowhere'"):
        ReadingProcess(4096, wanted, server)

"""Finds the processes of one node, also those whose parent has died, and says what each is.

The rule: a process belongs to a node when its environment names the node's folder; no other is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

ROLES = ("orthanc", "worker", "fork_server", "reader", "intake", "ray_driver", "actor")
_PROGRAMS = {
    b"orthanc_plugin.working.worker_process": "worker",
    b"orthanc_plugin.working.reading_loop": "reader",
    b"orthanc_plugin.reading.intake_process": "intake",
    b"orthanc_plugin.working.ray_driver": "ray_driver",
}
_ACTOR = b"ray::ReadingActor"  # a name that it gave itself, over its environment


def processes(home: Path) -> dict[str, list[int]]:
    """The pids of a node's processes for each of `ROLES`."""
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    belongs = f"HILUM_HOME={home}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            role = next((_PROGRAMS[word] for word in words if word in _PROGRAMS), "")
            if not role and words[0].rpartition(b"/")[2] == b"Orthanc":
                role = "orthanc"
            environment = entry / "environ"
            if words[0].startswith(_ACTOR):
                role, environment = "actor", Path(f"/proc/{_parent(int(entry.name))}/environ")
            if role and belongs in environment.read_bytes().split(b"\0"):
                found[role].append(int(entry.name))
        except OSError:  # it has ended
            continue
    loops = found["reader"]
    found["reader"] = [pid for pid in loops if _parent(pid) in loops]
    found["fork_server"] = [pid for pid in loops if pid not in found["reader"]]
    return found


def _parent(pid: int) -> int:
    """The process that started this one (proc(5), stat); 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill(pid: int) -> bool:
    """End a process at once; False when it was gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_all(home: Path) -> None:
    """End every process of a node."""
    for pids in processes(home).values():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def resident_mb(pid: int) -> float:
    """MB of memory that a process holds (proc(5), statm); 0 when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

"""What the node stands on: disks, permissions, the clock, its log files."""

from __future__ import annotations

import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from orthanc_plugin.commands.checks.check import Check, unknown, warning, well, wrong
from orthanc_plugin.commands.cluster.control import members
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.settings import Settings

_SYNCS, _SYNC_BYTES = 11, 65_536
_SLOW_SYNC_MS = 50.0  # each image is synced before it is acknowledged: more than this, and modalities feel it
_UNSYNCHRONISED = 5  # adjtimex(2): TIME_ERROR
_TIMEX_BYTES = 1024  # more than struct timex has
_PRIVATE_FILES = (
    "credentials.json",
    "users.json",
    "sessions.sqlite",
    "notifications.toml",
    "ledger.sqlite",
    "outbox.sqlite",
    "tls/ca.key",
    "tls/server.key",
)
_SECRETS = ("credentials.json", "users.json", "notifications.toml", "ca.key", "server.key")
_PRIVATE_FOLDERS = ("", "orthanc", "log", "audit", "shadow", "tls", "tls/clients", "entrance")


def check_ground(settings: Settings) -> Iterator[Check]:
    """Everything about the machine."""
    yield _disk(settings)
    yield _sync(_existing(settings.storage))
    yield _permissions(settings)
    yield _clock()
    yield _logs(settings)


def _disk(settings: Settings) -> Check:
    folders = {_existing(settings.storage), _existing(settings.home)}
    space = FreeSpace(sorted(folders), settings.reserve_mb)
    free, reserve = space.free_mb(), settings.reserve_mb
    if space.read_only():
        return wrong(
            "disk", "it can only be read", "see why (often it has errors; dmesg), and mount it for writing again"
        )
    if free < reserve:
        return wrong("disk", f"{free} MB are free, and new images are refused below {reserve}", _FREE)
    if free < 4 * reserve:
        return warning("disk", f"{free} MB are free; below {reserve} new images are refused", _FREE)
    return well("disk", f"{free} MB are free, {reserve} of them are kept for results")


_FREE = "free space, or move HILUM_HOME to a larger disk: Hilum deletes nothing by itself (docs/operations.md)"


def _sync(folder: Path) -> Check:
    """How long the disk takes to have something for good, which each C-STORE waits for."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(_SYNCS):
                file.write(os.urandom(_SYNC_BYTES))
                began = time.perf_counter()
                file.flush()
                os.fsync(file.fileno())
                times.append((time.perf_counter() - began) * 1000)
    except OSError as error:
        return wrong("sync", f"nothing can be written in {folder} ({error.strerror})", "see its owner, mode and mount")
    median = statistics.median(times)
    told = f"{median:.1f} ms to have 64 kB on the disk for good (longest {max(times):.0f} ms)"
    if median > _SLOW_SYNC_MS:
        return warning(
            "sync", told, "each image waits for it: put HILUM_HOME on a faster disk, or look what else uses this one"
        )
    return well("sync", told)


def _permissions(settings: Settings) -> Check:
    home = settings.home
    if not home.exists():
        return well("permissions", f"{home} is not there yet; it is made at the first start")
    open_files = [home / name for name in _PRIVATE_FILES if _mode(home / name) & 0o077]
    open_folders = [home / name for name in _PRIVATE_FOLDERS if _mode(home / name) & 0o077]
    others = [
        path for path in (home, settings.storage, settings.logs) if path.exists() and not os.access(path, os.W_OK)
    ]
    if others:
        return wrong(
            "permissions", f"{others[0]} cannot be written by this user", "chown -R it, or run Hilum as its owner"
        )
    secrets = [file for file in open_files if file.name in _SECRETS]
    if secrets:
        anew = "have it made anew" if secrets[0].suffix == ".key" else "change the passwords in it"
        advice = f"chmod 600 {secrets[0]}, and {anew}"
        return wrong("permissions", f"{secrets[0].name} can be read by others of this machine", advice)
    if open_folders and open_folders[0] == home and (len(open_folders) > 1 or open_files):
        advice = f"chmod 700 {home} {' '.join(str(folder) for folder in open_folders[1:])}".strip()
        return warning("permissions", f"others of this machine can look into {home}", advice)
    return well("permissions", f"{home} and its passwords are this user's alone")


def _clock() -> Check:
    """Whether the kernel says that a time service keeps its clock right (adjtimex(2))."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return unknown("clock", "the kernel does not tell whether it is kept right", "timedatectl tells")
    if state == _UNSYNCHRONISED:
        advice = "run a time service (NTP, chrony): leases and waiting times go by the clock, and machines must agree"
        return warning("clock", "no time service keeps it right", advice)
    return well("clock", f"it is kept right; {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")


def _logs(settings: Settings) -> Check:
    files = [f for f in settings.logs.glob("*") if f.is_file()] if settings.logs.exists() else []
    size = sum(file.stat().st_size for file in files) / 1e6
    kinds = 2 + 2 * len(members(settings, ask=False))  # of a cluster each member has one more, and Orthanc two
    most = float(kinds * settings.log_mb * settings.log_files)
    told = f"{len(files)} files, {size:.1f} MB; at most {most:.0f} MB are kept"
    if size > 1.5 * most + 1:
        advice = "what is named neither worker, orthanc nor cluster there is not rotated: remove it"
        return warning("logs", told, advice)
    return well("logs", told)


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0

"""A small file system for the node, which can be filled to its last byte. It needs root and the right to mount.

The rule: when it cannot be had, that is said, and the run goes on without this fault.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_CHUNKS = (1 << 20, 1 << 16, 1 << 12)


class SmallDisk:
    """A tmpfs over an empty folder; it costs as much memory as it holds files.

    Parameters
    ----------
    mebibytes
        Its size; 0: the folder stays as it is.
    """

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self._folder, self._filler = folder, folder / "filler"
        self.why_not = "" if mebibytes else "not asked for"
        if self.why_not:
            return
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, check=False) if os.geteuid() == 0 else None
        if done is None or done.returncode != 0:
            self.why_not = "no right to mount a small file system"

    def fill(self, leave: int) -> None:
        """Take all space but `leave` bytes."""
        with self._filler.open("ab") as file:
            for chunk in _CHUNKS:
                while self._free() - chunk >= leave:
                    try:
                        os.posix_fallocate(file.fileno(), file.tell(), chunk)
                    except OSError:  # another process was quicker: the disk is full
                        break
                    file.seek(0, os.SEEK_END)

    def empty(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Forget the file system with all it holds."""
        if not self.why_not:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=False, capture_output=True)

    def _free(self) -> int:
        status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

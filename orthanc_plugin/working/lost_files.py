"""Gives Orthanc back the images whose files it wrote and whose entries in its index a power cut took.

Orthanc flushes each file to the disk before it acknowledges a C-STORE (``SyncStorageArea``), but its index only now
and then (SQLite in WAL mode, synchronous NORMAL): after a power cut the last half minute may be missing from it, while
the files lie in the storage area and nobody knows of them.

The rule: an image is lost when Orthanc does not know it and its file lies there, in two looks a minute apart; so no
file is met on its way into Orthanc, or out of it, and reading goes first. Looked at is what was written since a worker
last noted that all files are known. Results of ours are made again by reconciliation.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from dicom_sr.ownership import is_own_result
from orthanc_plugin.archive.client import OrthancClient, OrthancFailed, ResultRefused
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger
from orthanc_plugin.ledger.notes import FILES_KNOWN

log = logging.getLogger("hilum.lost_files")

AT_REST_SECONDS = 60.0  # between two looks; and Linux writes back what has been dirty for 30 s
_WITHOUT_A_NOTE_SECONDS = 86_400.0  # that is looked back when the ledger is new
_TRIES = 5  # after which a file at which Orthanc fails is left where it is
_HEADER = ("Modality", "Manufacturer", "ManufacturerModelName", "Rows", "PixelData")


class LostFiles:
    """What a worker looks for after its start.

    Parameters
    ----------
    storage
        Orthanc's storage area; as long as there is none, nothing is noted.
    """

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._looked_at: float | None = None  # by the clock that never jumps
        self._unknown: list[Path] | None = None  # at the first look; none left: all files are known
        self._tries = 0

    def take_back(self, ledger: Ledger, orthanc: OrthancClient, *, now: float, elapsed: float) -> int:
        """Look for them when it is time; returns how many images were given back to Orthanc.

        Parameters
        ----------
        now, elapsed
            Seconds since 1970, and by a clock that never jumps.

        Raises
        ------
        LedgerError
        OrthancUnavailable
            The next call looks at the same files again.
        """
        if self._looked_at is None:
            self._looked_at = elapsed  # nothing yet, but when the worker began
        given = 0
        if self._unknown is None or self._unknown:
            if elapsed - self._looked_at < AT_REST_SECONDS or not _folders(self._storage):
                return 0
            if self._unknown is None:
                self._unknown = [
                    file for file in _files(self._storage, _since(ledger, now)) if _is_unknown(file, orthanc)
                ]
                self._looked_at = elapsed
            else:
                given, failed = _give_all_back(self._unknown, orthanc)
                self._tries += 1
                self._unknown = failed if self._tries < _TRIES else []
            if self._unknown:
                return 0
        # until then nothing is noted: should the worker die before that, the next one looks
        with ledger.write() as db:
            tasks.set_fact(db, FILES_KNOWN, repr(now - AT_REST_SECONDS))
        if given:
            log.warning("Orthanc's index had lost images whose files are there: given back", extra={"images": given})
        return given


def _since(ledger: Ledger, now: float) -> float:
    """When all files were known, a day ago at most where nothing says so; seconds since 1970."""
    with ledger.read() as db:
        known = tasks.get_fact(db, FILES_KNOWN)
    # a note from the future was made before the clock was put back
    return float(known) if known and float(known) <= now else now - _WITHOUT_A_NOTE_SECONDS


def _files(storage: Path, since: float) -> Iterator[Path]:
    """Files of the storage area, ``ab/cd/abcd...``, that were written since, in seconds since 1970."""
    for folder in (second for first in _folders(storage) for second in _folders(first)):
        try:
            if folder.stat().st_mtime >= since:  # no older than its newest file
                yield from (file for file in list(folder.iterdir()) if _was_written_since(file, since))
        except OSError:  # Orthanc removes what is empty
            continue


def _was_written_since(file: Path, since: float) -> bool:
    try:
        return file.stat().st_mtime >= since
    except OSError:  # it is gone
        return False


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if len(entry.name) == 2 and entry.is_dir()]
    except OSError:
        return []


def _is_unknown(file: Path, orthanc: OrthancClient) -> bool:
    uid = _sop_instance_uid(file)
    return bool(uid) and not orthanc.has_instances([uid]) and _is_whole_image(file)


def _sop_instance_uid(file: Path) -> str:
    """From the File Meta Information (PS3.10, 7.1) alone; empty for what is no DICOM file, such as a thumbnail."""
    try:
        with file.open("rb") as content:
            head = content.read(1024)
    except OSError:  # it is gone
        return ""
    at = 132
    while head[128:132] == b"DICM" and at + 12 <= len(head):
        group, element, vr, length = struct.unpack_from("<HH2sH", head, at)
        at += 8
        if vr in (b"OB", b"UN"):
            (length,) = struct.unpack_from("<I", head, at)
            at += 4
        if (group, element) == (0x0002, 0x0003):
            return head[at : at + length].decode("ascii", "replace").rstrip("\0 ")
        at += length
    return ""


def _is_whole_image(file: Path) -> bool:
    """Whether this is an image with its pixels, or whatever else a modality sent, and no result of ours."""
    from pydicom import dcmread  # a worker does without, unless something was lost

    try:
        ds = dcmread(file, defer_size=1024, specific_tags=list(_HEADER))
    except Exception as error:  # noqa: BLE001  a power cut also tears files: whatever can be wrong with one
        log.warning("a file that Orthanc's index does not know cannot be read: %s", type(error).__name__)
        return False
    made_by = (ds.get("Manufacturer", ""), ds.get("ManufacturerModelName", ""))
    return ("Rows" not in ds or "PixelData" in ds) and not is_own_result(ds.get("Modality", ""), *made_by)


def _give_all_back(files: Sequence[Path], orthanc: OrthancClient) -> tuple[int, list[Path]]:
    """How many images Orthanc took in, and the files at which it failed."""
    given, failed = 0, []
    for file in files:
        try:
            given += _give_back(file, orthanc)
        except OrthancFailed as error:
            log.error("a file that Orthanc's index has lost is not given back yet: %s", error)
            failed.append(file)
    return given, failed


def _give_back(file: Path, orthanc: OrthancClient) -> bool:
    """Whether Orthanc took the image in; then its lost file is of no more use."""
    if not _is_unknown(file, orthanc):
        return False
    try:
        orthanc.store(file.read_bytes())
        file.unlink()
    except (OSError, ResultRefused) as error:  # whether the disk cannot, or Orthanc will not: it stays so
        log.error("a file that Orthanc's index has lost cannot be given back: %s", type(error).__name__)
        return False
    return True

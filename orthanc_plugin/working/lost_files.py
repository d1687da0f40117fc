"""Gives Orthanc back the images whose files it wrote and whose entries in its index a power cut took.

Orthanc flushes each file to the disk before it acknowledges a C-STORE (``SyncStorageArea``), but its index only now
and then (SQLite in WAL mode, synchronous NORMAL): after a power cut the last half minute may be missing from it, while
the files lie in the storage area and nobody knows of them.

The rule: only what came before this worker began is looked at, from a minute before a worker last noted that it
lives; and not before a minute is over, so that no file is met on its way into Orthanc and reading goes first. Given
back is an image that Orthanc does not know and whose file stays although it does not; results of ours are made again
by reconciliation.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from dicom_sr.ownership import is_own_result
from orthanc_plugin.archive.client import OrthancClient, ResultRefused
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger
from orthanc_plugin.ledger.notes import FILES_KNOWN

log = logging.getLogger("hilum.lost_files")

AT_REST_SECONDS = 60.0  # Linux writes back what has been dirty for 30 s
_WITHOUT_A_NOTE_SECONDS = 86_400.0  # that is looked back when the ledger is new
_DELETION_SECONDS = 2.0  # in which Orthanc removes the file of an image that it has just forgotten
_HEADER = ("Modality", "Manufacturer", "ManufacturerModelName", "Rows", "PixelData")


class LostFiles:
    """What a worker looks for once, a minute after its start.

    Parameters
    ----------
    storage
        Orthanc's storage area; where it is not a folder here, there is nothing to look at.
    """

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._since: float | None = None
        self._began, self._done = 0.0, False

    def take_back(self, ledger: Ledger, orthanc: OrthancClient, *, now: float, stop: threading.Event) -> int:
        """Look for them when it is time; returns how many images were given back to Orthanc.

        Parameters
        ----------
        now
            Seconds since 1970.

        Raises
        ------
        LedgerError
        OrthancUnavailable
            The next call looks at the same files again.
        """
        if self._since is None:
            with ledger.read() as db:
                known = tasks.get_fact(db, FILES_KNOWN)
            self._since = float(known) if known else now - _WITHOUT_A_NOTE_SECONDS
            self._began = now
        given = 0
        if not self._done:
            if now - self._began < AT_REST_SECONDS:
                return 0
            unknown = [file for file in _files(self._storage, self._since, self._began) if _is_unknown(file, orthanc)]
            if stop.wait(_DELETION_SECONDS if unknown else 0):
                return 0
            given = sum(_give_back(file, orthanc) for file in unknown)
            self._done = True
        # until it has looked, a worker notes nothing: should it die before that, the next one looks
        with ledger.write() as db:
            tasks.set_fact(db, FILES_KNOWN, repr(now - AT_REST_SECONDS))
        if given:
            log.warning("Orthanc's index had lost images whose files are there: given back", extra={"images": given})
        return given


def _files(storage: Path, since: float, until: float) -> Iterator[Path]:
    """Files of the storage area, ``ab/cd/abcd...``, that were written between, in seconds since 1970."""
    for folder in (second for first in _folders(storage) for second in _folders(first)):
        try:
            if folder.stat().st_mtime >= since:  # no older than its newest file
                yield from [file for file in folder.iterdir() if since <= file.stat().st_mtime <= until]
        except OSError:  # Orthanc removes what is empty
            continue


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
    from pydicom.errors import InvalidDicomError

    try:
        ds = dcmread(file, defer_size=1024, specific_tags=list(_HEADER))
    except (OSError, InvalidDicomError, EOFError, ValueError, KeyError):
        return False
    made_by = (ds.get("Manufacturer", ""), ds.get("ManufacturerModelName", ""))
    return ("Rows" not in ds or "PixelData" in ds) and not is_own_result(ds.get("Modality", ""), *made_by)


def _give_back(file: Path, orthanc: OrthancClient) -> bool:
    """Whether Orthanc took the image in; then its lost file is of no more use."""
    if not _is_unknown(file, orthanc):
        return False
    try:
        with file.open("rb") as content:
            orthanc.upload(content)
        file.unlink()
    except (OSError, ResultRefused) as error:
        log.error("a file that Orthanc's index has lost cannot be given back: %s", type(error).__name__)
        return False
    return True

"""Tells SQLite how Orthanc's index is spread, so that a UID is found as fast in a large archive as in a small one.

Orthanc never has its index analysed. Without statistics SQLite takes the index of attributes for the best and looks
through all UIDs of a level: with 7,500 studies 8 ms instead of 0.07 ms, five times for each lookup, and ever more.

The rule: Orthanc's tables are Orthanc's. Only SQLite's own table of statistics is written, while nobody has the file
open; they describe a large archive, whatever the size of this one, for it will grow before the next start.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing
from pathlib import Path

log = logging.getLogger("hilum.index")

# https://www.sqlite.org/fileformat2.html#stat1tab: rows, and of these how many are alike in the first columns
_STATISTICS = (
    ("DicomIdentifiers", "DicomIdentifiersIndexValues", "1000000 2"),
    ("DicomIdentifiers", "DicomIdentifiersIndex1", "1000000 2"),
    ("DicomIdentifiers", "DicomIdentifiersIndex2", "1000000 200000 200000"),
    ("DicomIdentifiers", "sqlite_autoindex_DicomIdentifiers_1", "1000000 2 2 1"),
)
_MAKING_SECONDS = 20.0


def describe(storage: Path) -> None:
    """Write the statistics into the index in this folder; Orthanc makes an index first where there is none.

    An index that cannot be described is left as it is: it only is slow.
    """
    index = storage / "index"
    try:
        if not index.exists():
            _make(storage)
        with closing(sqlite3.connect(index, timeout=1.0)) as db, db:
            db.execute("PRAGMA analysis_limit = 1")
            db.execute("ANALYZE DicomIdentifiers")  # makes the table of statistics
            db.execute("DELETE FROM sqlite_stat1 WHERE tbl = 'DicomIdentifiers'")
            db.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", _STATISTICS)
    except (sqlite3.Error, OSError) as error:
        log.warning("Orthanc's index cannot be described (%s): lookups slow down as the archive grows", error)


def _make(storage: Path) -> None:
    """Have Orthanc make an empty index, which it does at its start."""
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "orthanc.json"
        given = {"HttpServerEnabled": False, "DicomServerEnabled": False, "Plugins": []}
        folders = {"StorageDirectory": str(storage), "IndexDirectory": str(storage)}
        configuration.write_text(json.dumps(given | folders))
        with subprocess.Popen(
            ["Orthanc", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            guard = threading.Timer(_MAKING_SECONDS, process.kill)
            guard.start()
            for line in process.stderr or ():
                if b"Orthanc has started" in line:
                    process.terminate()
            guard.cancel()

"""Which archive a ledger belongs to: a random name, kept beside the images and in the ledger.

The rule: a ledger is used by the archive that it was made for, and by no other; two nodes that were given the same
database by mistake would each call the other's studies deleted.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from orthanc_plugin.ledger.database import Ledger, LedgerUnavailable, LedgerUnusable
from orthanc_plugin.ledger.notes import ARCHIVE, belong_to, get_fact
from orthanc_plugin.made_once import make_once


class LedgerOfAnotherArchive(LedgerUnusable):
    """The ledger's tasks are about the images of another Orthanc; the message says what to do."""


def load_archive_id(file: Path) -> str:
    """The name of this archive (``Settings.archive_id_file``), made at the first call.

    Raises
    ------
    LedgerUnavailable
        When the file can be neither read nor made.
    """
    try:
        make_once(file, secrets.token_hex(16) + "\n")
        name = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerUnavailable(
            f"{file} can be neither read nor made ({type(error).__name__}); trying again"
        ) from error
    if not name:
        raise LedgerUnavailable(f"{file} is empty: delete it, or restore it from a backup; trying again")
    return name


def require_archive(ledger: Ledger, file: Path) -> None:
    """Make sure that the ledger is this archive's; a new one becomes it.

    Parameters
    ----------
    file
        ``Settings.archive_id_file``.

    Raises
    ------
    LedgerOfAnotherArchive
    LedgerUnavailable, LedgerUnusable
    """
    archive = load_archive_id(file)
    with ledger.read() as db:
        owner = get_fact(db, ARCHIVE)
    if owner == archive:
        return
    with ledger.write() as db:
        try:
            belong_to(db, archive)
        except LedgerUnusable as error:
            raise LedgerOfAnotherArchive(
                f"{ledger.name} belongs to another archive: give this node a ledger_url of its own, "
                f"or, if it is the same archive in a new folder, write {get_fact(db, ARCHIVE)} into {file}"
            ) from error

"""Has studies read again that somebody names: with other models, or after they failed.

The rule: the ledger is told, and the workers do it; a study that it does not know is named.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.settings import Settings


def reread(settings: Settings, studies: Sequence[str]) -> int:
    """Queue studies once more; returns the exit code."""
    unknown = 0
    with open_ledger(settings.ledger_address).write() as db:
        for uid in studies:
            if not tasks.request_again(db, uid, now=time.time()):
                print(f"hilum: {uid}: the ledger knows no such study", file=sys.stderr)
                unknown += 1
    print(f"{len(studies) - unknown} of {len(studies)} studies queued.")
    return 1 if unknown else 0


def retry(settings: Settings, studies: Sequence[str], *, everything: bool) -> int:
    """Have quarantined studies tried again; returns the exit code.

    Raises
    ------
    NodeFailed
        When it is not said which.
    """
    if bool(studies) == everything:
        raise NodeFailed("give Study Instance UIDs, or --all")
    now = time.time()
    with open_ledger(settings.ledger_address).write() as db:
        if everything:
            print(f"{tasks.retry(db, None, now=now)} studies queued.")
            return 0
        refused = [uid for uid in studies if not tasks.retry(db, uid, now=now)]
    for uid in refused:
        print(f"hilum: {uid}: no such study is in quarantine", file=sys.stderr)
    print(f"{len(studies) - len(refused)} of {len(studies)} studies queued.")
    return 1 if refused else 0

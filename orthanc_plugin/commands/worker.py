"""Runs a worker by itself, for an Orthanc that starts none: in a container of its own, or on another machine.

The rule: it is watched and started again as the one beside the plugin is, by the same supervisor. What it has to share
with the node is the ledger, the worker's account and the name of the archive; where one is missing it does not start.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.credentials import load_worker_account
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.ledger.notes import workers_seen
from orthanc_plugin.logs import start_logging
from orthanc_plugin.settings import Settings
from orthanc_plugin.working.supervisor import Supervisor, of_this_machine, worker_python

_SILENT_SECONDS = 15.0  # it reports every five
_ENDINGS = {signal.SIGTERM, signal.SIGINT}


def run(settings: Settings, log_file: Path | None = None) -> int:
    """Keep a worker alive until this process is told to end.

    Parameters
    ----------
    log_file
        Where the worker's log goes; None: to this process's standard error.

    Raises
    ------
    NodeFailed
        When something is missing without which it could not read.
    """
    _require(settings)
    start_logging()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)  # before any thread is there: only this one waits for them
    supervisor = Supervisor(worker_python(), log_file)
    supervisor.start()
    signal.sigwait(_ENDINGS)
    supervisor.stop()
    return 0


def check(settings: Settings) -> int:
    """Tell whether a worker of this machine is ready; returns the exit code of the command.

    Raises
    ------
    LedgerError
    """
    ledger = open_ledger(settings.ledger_address)
    try:
        with ledger.read() as db:
            seen = workers_seen(db, now=time.time(), silent_seconds=_SILENT_SECONDS)
    finally:
        ledger.close()
    own = [worker for worker in seen if of_this_machine(worker["worker_id"])]
    for worker in own:
        print(f"{worker['worker_id']}  {worker['state']}  {worker['problem']}".rstrip())
    if not own:
        print("No worker of this machine is heard of.")
    return 0 if any(worker["state"] == "ready" and not worker["problem"] for worker in own) else 1


def _require(settings: Settings) -> None:
    if settings.workers == 0:
        raise NodeFailed("workers = 0: nothing would be read; set it for this worker to the studies read at a time")
    try:
        load_worker_account(settings.credentials)
    except OSError as error:
        raise NodeFailed(
            f"no account to speak to Orthanc ({error}): copy worker_user and worker_password from the node's "
            f"credentials.json into {settings.credentials}, readable by its owner alone"
        ) from error
    if not settings.archive_id_file.exists():
        raise NodeFailed(
            f"{settings.archive_id_file} is missing: copy the node's, which says that this ledger is its own"
        )

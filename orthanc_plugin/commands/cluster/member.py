"""Becomes one member of a cluster of this machine: ``python -m orthanc_plugin.commands.cluster.member orthanc-1``.

The rule: it notes its process number, waits for what it needs, and ends with whoever keeps it alive; whatever is to be
known (passwords, addresses) is read from ``HILUM_HOME`` and stands in no argument.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from orthanc_plugin.commands import node
from orthanc_plugin.commands import worker as apart
from orthanc_plugin.commands.cluster import database, ray_node
from orthanc_plugin.commands.cluster.plan import Plan, folder_of, load_plan
from orthanc_plugin.commands.cluster.programs import entrance_file
from orthanc_plugin.hosting.entrance import Entrance
from orthanc_plugin.logs import start_logging
from orthanc_plugin.settings import Settings, load_settings

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PAUSE_SECONDS = 0.2


def main(name: str) -> int:
    """Become this member; returns only what the end of a worker, of a node of Ray or of HTTPS is."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # for PostgreSQL see `server_command`
    settings = load_settings()
    plan = load_plan(settings)
    node.note_process(note_of(settings, name), os.getpid())
    if name == "postgresql":
        _become(database.server_command(settings, plan), dict(os.environ))
    if name == "entrance":
        _become(["haproxy", "-db", "-f", str(entrance_file(settings))], dict(os.environ))
    if name == "https":
        start_logging()
        Entrance(settings).keep_alive()
        return 1
    if name.startswith("ray"):
        ray_node.make_folder(settings)
        while name != ray_node.HEAD and not node.listens(plan.ray_port):
            time.sleep(_PAUSE_SECONDS)
        return ray_node.run(settings, plan, name)
    while not database.answers(plan):
        time.sleep(_PAUSE_SECONDS)
    if name.startswith("orthanc"):
        _become_orthanc(settings, plan, name)
    while plan.ray_nodes and not node.listens(plan.ray_port):
        time.sleep(_PAUSE_SECONDS)
    return apart.run(settings, settings.logs / "worker.log")


def note_of(settings: Settings, name: str) -> Path:
    """The file that says which process a member is."""
    return folder_of(settings) / f"{name}.json"


def _become_orthanc(settings: Settings, plan: Plan, name: str) -> None:
    own = plan.of_orthanc(settings, name)
    configuration = folder_of(settings) / f"{name}.orthanc.json"
    node.write_private(configuration, json.dumps(node.orthanc_configuration(own), indent=1))
    with node.redacted_log(settings, f"{name}.log") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # the workers are members of their own
    environment = {k: v for k, v in node.orthanc_environment(own).items() if k != "HILUM_WORKERS_FILE"}
    _become(["Orthanc", str(configuration)], {**environment, "HILUM_WORKERS": "0"})


def _become(command: list[str], environment: dict[str, str]) -> None:
    os.execvpe(command[0], command, environment)  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

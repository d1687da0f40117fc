"""The Ray nodes of a cluster of this machine, the first of which is the head; they share its processors.

The rule: Ray asks nobody for a password, so it listens to this machine alone, and its folder is its owner's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orthanc_plugin.commands.cluster.plan import Plan
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.settings import Settings
from orthanc_plugin.working.ray_driver import environment_of

if TYPE_CHECKING:
    from ray._private.node import Node

log = logging.getLogger("hilum.cluster")

HEAD = "ray-1"
_OBJECTS = 80 * 2**20  # bytes, the least that Ray takes: studies do not pass through it
_WATCH_SECONDS = 0.5
_RAYS = "r"  # Ray opens the folder that it is given to everybody (0777): it is given one within ours
_SESSIONS_KEPT = 3  # folders with what the latest heads and their actors logged


def require_ray() -> None:
    """Make sure that Ray is here.

    Raises
    ------
    NodeFailed
    """
    if importlib.util.find_spec("ray") is None:
        raise NodeFailed("Ray is not installed: ./hilum up --cluster installs it; --ray 0 does without it")


def folder(settings: Settings) -> Path:
    """Where Ray keeps its sockets and logs: a path in HILUM_HOME may be longer than a socket's may be."""
    of_home = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"hilum-ray-{os.geteuid()}-{of_home}"


def make_folder(settings: Settings) -> None:
    """Make that folder, and leave the latest sessions in it.

    Raises
    ------
    NodeFailed
        When it is somebody else's.
    """
    own = folder(settings)
    own.mkdir(mode=0o700, exist_ok=True)
    if own.is_symlink() or own.stat().st_uid != os.geteuid():
        raise NodeFailed(f"{own} is somebody else's: Ray would write there; remove it, or set TMPDIR")
    own.chmod(0o700)
    sessions = sorted((each for each in (own / _RAYS).glob("session_2*") if each.is_dir()), key=lambda each: each.name)
    for old in sessions[:-_SESSIONS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def run(settings: Settings, plan: Plan, name: str) -> int:
    """Be a node until a process of it ends, which is said by the exit code; on SIGTERM all of them end."""
    share = max(1, (os.cpu_count() or 1) // plan.ray_nodes)
    return watch(begin(folder(settings) / _RAYS, plan.ray_address, processors=share, head=name == HEAD))


def begin(place: Path, address: str, *, processors: int, head: bool) -> Node:
    """Start the processes of a node; they end with this one.

    ``ray start`` would do the same, but lets no second node join on loopback.

    Parameters
    ----------
    place
        The cluster's folder.
    address
        Of the head, ``127.0.0.1:port``.
    processors
        How many actors may share.
    """
    os.environ |= {**environment_of(address), **os.environ}
    import ray  # noqa: F401  (reads the environment)
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    own = {"gcs_server_port": int(address.rpartition(":")[2])} if head else {"gcs_address": address}
    return Node(
        RayParams(
            **own,
            node_ip_address="127.0.0.1",
            temp_dir=str(place),
            num_cpus=processors,
            object_store_memory=_OBJECTS,
            min_worker_port=0,
            max_worker_port=0,
            include_dashboard=False,
            include_log_monitor=False,
        ),
        head=head,
        shutdown_at_exit=True,
        spawn_reaper=True,
    )


def watch(node: Node) -> int:
    """Wait until a process of a node ends, and end the others."""
    while not (ended := node.dead_processes()):
        time.sleep(_WATCH_SECONDS)
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    log.error("%s has ended, so this node of Ray ends", ended[0][0])
    return 1

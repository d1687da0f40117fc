"""A real Ray cluster of several nodes on this machine, for tests: on loopback, in a folder of its own, small."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.running_node import free_port

MISSING = "ray is not installed: ./hilum test installs what requirements-ray.lock names, where it can be had"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=MISSING)

_OBJECTS = 80 * 2**20  # bytes, the least that Ray takes; studies do not pass through it
_RECONNECT_SECONDS = "2"  # for which a node looks for a head that has gone, 60 by default


class RayCluster:
    """A head without processors, so that actors are on the other nodes, each of which has one."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder, self._port = folder, free_port()
        self._cluster: Any = None
        self.nodes: list[Any] = []
        self.start(nodes)

    @property
    def address(self) -> str:
        """What a worker is told."""
        return f"127.0.0.1:{self._port}"

    def start(self, nodes: int) -> None:
        """The head, at the same address as before, and nodes."""
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._cluster.add_node(gcs_server_port=self._port, num_cpus=0, include_dashboard=False, **self._usual())
        self.nodes = [self._cluster.add_node(num_cpus=1, **self._usual()) for _ in range(nodes)]

    def _usual(self) -> dict[str, Any]:
        return {"node_ip_address": "127.0.0.1", "object_store_memory": _OBJECTS, "temp_dir": str(self._folder)}

    def add_node(self) -> None:
        """One more node with one processor."""
        self.nodes.append(self._cluster.add_node(num_cpus=1, **self._usual()))

    def kill_node_of(self, pid: int) -> None:
        """Kill the node on which a process runs, as if its machine lost power."""
        (node,) = [node for node in self.nodes if raylet_of(node) == parent(pid)]
        self.nodes.remove(node)
        os.kill(pid, 9)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """Kill the head; the other nodes end by themselves, for they have nobody to belong to."""
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def stop(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        if self._cluster.head_node is not None:
            self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        self.nodes = []


def raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def ray_cluster(nodes: int = 2) -> Iterator[RayCluster]:
    """A running cluster."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))  # the names of its sockets have little room
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", _RECONNECT_SECONDS)
        cluster = RayCluster(folder, nodes)
        try:
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)

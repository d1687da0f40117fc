"""A real Ray cluster of several nodes on this machine, for tests: on loopback, in a folder of its own, small.

Each node is a process of its own: Ray ends whoever spoke to a head that is gone, and that must not be pytest.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.running_node import free_port

MISSING = "ray is not installed: ./hilum test installs what requirements-ray.lock names, where it can be had"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=MISSING)

_RECONNECT_SECONDS = "2"  # for which a node looks for a head that has gone
_NODE = """
import sys
from pathlib import Path
from orthanc_plugin.commands.cluster import ray_node

place, address, processors, kind = sys.argv[1:]
node = ray_node.begin(Path(place), address, processors=int(processors), head=kind == "head")
print("up", flush=True)
sys.exit(ray_node.watch(node))
"""


class RayNode:
    """A process that has those of a node as its children."""

    def __init__(self, folder: Path, address: str, processors: int, kind: str) -> None:
        command = [sys.executable, "-c", _NODE, str(folder), address, str(processors), kind]
        with (folder / "nodes.log").open("ab") as said:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
        assert self._process.stdout is not None
        if b"up" not in self._process.stdout.readline():
            self.kill()
            raise RuntimeError(f"no node of Ray: {(folder / 'nodes.log').read_text()[-2000:]}")

    @property
    def raylet(self) -> int:
        """Whose children the actors are."""
        (found,) = (child for child in self._children() if Path(f"/proc/{child}/comm").read_text() == "raylet\n")
        return found

    def kill(self) -> None:
        """Kill all of it, as if its machine lost power."""
        for pid in (*self._children(), self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._process.wait()

    def _children(self) -> list[int]:
        with suppress(OSError):
            return [
                int(pid)
                for pid in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            ]
        return []


class RayCluster:
    """A head without processors, so that actors are on the other nodes, each of which has one."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[RayNode] = []
        self.start(nodes)

    def start(self, nodes: int) -> None:
        """The head, at the same address as before, and nodes."""
        self._head = RayNode(self._folder, self.address, 0, "head")
        for _ in range(nodes):
            self.add_node()

    def add_node(self) -> None:
        """One more node with one processor."""
        self.nodes.append(RayNode(self._folder, self.address, 1, "node"))

    def kill_node_of(self, pid: int) -> None:
        """Kill the node on which a process runs, as if its machine lost power."""
        (node,) = [node for node in self.nodes if node.raylet == parent(pid)]
        self.nodes.remove(node)
        os.kill(pid, 9)
        node.kill()

    def kill_head(self) -> None:
        """Kill the head; the other nodes end by themselves, for they have nobody to belong to."""
        self._head.kill()

    def stop(self) -> None:
        """End everything."""
        for node in (*self.nodes, self._head):
            node.kill()
        self.nodes = []


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def ray_cluster(nodes: int = 2) -> Iterator[RayCluster]:
    """A running cluster."""
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))  # the names of its sockets have little room
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", _RECONNECT_SECONDS)
        cluster = RayCluster(folder, nodes)
        try:
            yield cluster
        finally:
            cluster.stop()
            until = time.monotonic() + 20  # what the nodes had begun ends soon after them, and writes until then
            while folder.exists() and time.monotonic() < until:
                shutil.rmtree(folder, ignore_errors=True)
                time.sleep(0.2)

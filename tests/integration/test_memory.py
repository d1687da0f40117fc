"""Orthanc does not grow with the requests that it answers."""

from pathlib import Path

from running_node import Node

from tests.faults import victims

REQUESTS = 3000


def _private_mb(pid: int) -> float:
    """Memory that is the process's alone, in MB (proc(5), RssAnon)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def test_requests_leave_nothing_behind(hilum_node: Node) -> None:
    """Debian 12's Python plugin keeps each header of a request, twice for a page of ours, unless it is given back."""
    orthancs = victims.processes(hilum_node.settings.home)["orthanc"]
    header = {"X-Of-A-Request": "x" * 4000}

    def ask(times: int) -> None:
        for _ in range(times):
            hilum_node.http.get("/hilum/static/worklist.js", headers=header).raise_for_status()

    ask(300)
    before = sum(map(_private_mb, orthancs))
    ask(REQUESTS)
    assert sum(map(_private_mb, orthancs)) - before < 0.25 * 2 * REQUESTS * 4000 / 2**20

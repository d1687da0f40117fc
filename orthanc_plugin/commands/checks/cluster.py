"""The Ray cluster that reads, where the site has one: its package, whether it answers, and whether there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from orthanc_plugin.commands.checks.check import Check, unknown, warning, well, wrong
from orthanc_plugin.commands.checks.software import check_packages
from orthanc_plugin.settings import REPOSITORY, Settings
from orthanc_plugin.working.ray_driver import environment_of

_SECONDS = 40.0  # Ray looks for a head for about 20
_LOCK = REPOSITORY / "requirements-ray.lock"
_ADVICE = "ray status on the head tells more; docs/ray.md"
# In a process of its own: Ray ends the one that cannot reach it.
_ASK = """
import json, logging, sys
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
alive = [node for node in ray.nodes() if node["Alive"]]
print(json.dumps({"machines": len({node["NodeManagerAddress"] for node in alive}), "nodes": len(alive),
                  "all": ray.cluster_resources(), "free": ray.available_resources()}))
"""


def check_cluster(settings: Settings) -> Iterator[Check]:
    """Nothing where processes of this machine read."""
    if settings.executor != "ray":
        return
    packages = check_packages(_LOCK)
    yield Check("ray_packages", packages.state, packages.text, packages.what_to_do)
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _ASK, settings.ray_address],
            capture_output=True, text=True, timeout=_SECONDS, check=False,
            env={**environment_of(settings.ray_address), **os.environ},
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        told = "does not answer, or runs another version of Ray or Python"
        yield wrong("ray", f"the cluster at ray_address = {settings.ray_address} {told}", _ADVICE)
        return
    yield _room(settings, found)
    if found["machines"] > 1 and not settings.orthanc_url:
        advice = "set orthanc_url to https://HOST of the proxy before Orthanc, and start the worker again"
        yield warning("ray_orthanc", "actors on other machines look for Orthanc on their own", advice)


def _room(settings: Settings, found: dict[str, Any]) -> Check:
    """Whether the least actors have room; those that this worker has hold theirs already."""
    told = f"{found['nodes']} nodes on {found['machines']} machines"
    wanted = {"CPU": settings.ray_cpus, "GPU": settings.ray_gpus}
    least = settings.ray_actors_least
    for kind, each in wanted.items():
        there, free = found["all"].get(kind, 0.0), found["free"].get(kind, 0.0)
        told += f", {free:g} of {there:g} {kind} free" if there or each else ""
        if each * least > there:
            return wrong("ray", f"{told}: {least} actors of {each:g} {kind} have no room", "see ray_cpus and ray_gpus")
    return (
        well("ray", f"{told}; {least} to {settings.ray_actors_most} actors") if found["nodes"] else unknown("ray", told)
    )

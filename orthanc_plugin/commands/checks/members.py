"""The members of a cluster of this machine: that each serves."""

from __future__ import annotations

from collections.abc import Iterator

from orthanc_plugin.commands import node
from orthanc_plugin.commands.checks.check import Check, warning, well, wrong
from orthanc_plugin.commands.cluster import control
from orthanc_plugin.commands.cluster.plan import is_cluster
from orthanc_plugin.settings import Settings


def check_members(settings: Settings) -> Iterator[Check]:
    """Nothing for a node of one Orthanc; for a cluster that is stopped, that it is one."""
    if not is_cluster(settings):
        return
    members = control.members(settings)
    if not members:
        advice = "restore it from a copy; the passwords of the databases are in it"
        yield wrong("members", f"{settings.cluster_file} is damaged", advice)
        return
    names = ", ".join(member.name for member in members)
    if node.running_pid(settings) is None:
        yield well("members", f"a cluster, which does not run now: {names}")
        return
    away = [member.name for member in members if not member.serves]
    if not away:
        yield well("members", f"each serves: {names}")
    elif len({name.partition("-")[0] for name in away} & {"postgresql", "entrance"}):
        yield wrong("members", f"not serving: {', '.join(away)}", f"see {settings.logs}/cluster-{away[0]}.log")
    else:
        yield warning("members", f"not serving: {', '.join(away)}", f"see {settings.logs}/cluster-{away[0]}.log")

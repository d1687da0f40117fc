"""What a cluster of this machine consists of: its members, their ports, its database's password.

The rule: it stands in one file, ``cluster.toml`` in ``HILUM_HOME``, which makes that folder a cluster's for good; the
settings read the addresses of databases and Ray from there, so that every command of ``./hilum`` speaks to them.
"""

from __future__ import annotations

import json
import secrets
import socket
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from orthanc_plugin.commands.node import write_private
from orthanc_plugin.settings import Settings

ORTHANCS = 2
RAY_NODES = 2
_HTTP, _DATABASE, _RAY = 8042, 5433, 6379  # ports of the first cluster of a machine
_PORTS = range(1024, 65_536)
_HOST = "127.0.0.1"
_USER = "hilum"
LEDGER, INDEX = "ledger", "index"  # databases
_HEAD = "# Made by ./hilum up --cluster, for this machine. It holds the database's password: keep it to yourself.\n"


@dataclass(frozen=True)
class Plan:
    """What runs, and where it listens.

    Parameters
    ----------
    orthancs
        HTTP and DICOM port of each Orthanc; people and modalities come by the entrance, at the ports of the settings.
    workers
        Processes of ``./hilum worker``.
    ray_nodes
        Nodes of Ray, of which the first is the head; with 0, workers read in processes of their own.
    ray_port
        Of the head.
    https
        Whether one nginx speaks TLS to other machines (`Settings.https`).
    """

    database_port: int
    orthancs: tuple[tuple[int, int], ...]
    workers: int
    ray_nodes: int
    ray_port: int
    password: str = field(repr=False)
    https: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """The names of what runs, in the order in which it is started."""
        orthancs = (f"orthanc-{number + 1}" for number in range(len(self.orthancs)))
        ray = (f"ray-{number + 1}" for number in range(self.ray_nodes))
        workers = (f"worker-{number + 1}" for number in range(self.workers))
        return ("postgresql", *orthancs, *ray, *workers, "entrance", *(["https"] if self.https else []))

    @property
    def ray_address(self) -> str:
        """Of the head, as settings take it; empty where there is none."""
        return f"{_HOST}:{self.ray_port}" if self.ray_nodes else ""

    def url(self, database: str) -> str:
        """The address of a database, as settings take it."""
        return f"postgresql://{_USER}:{self.password}@{_HOST}:{self.database_port}/{database}"

    def of_orthanc(self, settings: Settings, name: str) -> Settings:
        """The settings of one Orthanc: its own ports, and no worker beside it."""
        http_port, dicom_port = self.orthancs[int(name.rpartition("-")[2]) - 1]
        return replace(settings, http_port=http_port, dicom_port=dicom_port, workers=0)


def is_cluster(settings: Settings) -> bool:
    """Whether this home is a cluster's."""
    return settings.cluster_file.exists()


def folder_of(settings: Settings) -> Path:
    """Where configurations and process numbers of the members are."""
    return settings.home / "cluster"


def load_plan(settings: Settings) -> Plan:
    """The plan of this home's cluster.

    Raises
    ------
    OSError, KeyError, ValueError
        When there is none, or it is damaged.
    """
    content = tomllib.loads(settings.cluster_file.read_text("utf-8"))
    given, password = content["cluster"], urlsplit(content["ledger_url"]).password
    orthancs = tuple((int(http), int(dicom)) for http, dicom in given["orthancs"])
    database_port, workers, ray_nodes, ray_port = (
        int(given[name]) for name in ("database_port", "workers", "ray_nodes", "ray_port")
    )
    return Plan(database_port, orthancs, workers, ray_nodes, ray_port, str(password), given.get("https", False))


def make_plan(settings: Settings, workers: int | None, ray_nodes: int | None) -> Plan:
    """The plan of the next start: what was planned before, with ports that are free now.

    Parameters
    ----------
    workers, ray_nodes
        None: as many as before; at first, as many as there are Orthancs, and two.
    """
    before = load_plan(settings) if is_cluster(settings) else None
    taken = {settings.http_port, settings.dicom_port, *([settings.https_port] if settings.https != "off" else [])}

    def free(wanted: int) -> int:
        while wanted in taken or not _is_free(wanted):
            wanted = _in_range(wanted + 1)
        taken.add(wanted)
        return wanted

    # as far from those of the first cluster as the entrance is, so that two which start at once do not want the same
    apart = settings.http_port - _HTTP
    first = _in_range(settings.http_port + 1), _in_range(settings.dicom_port + 1)
    wanted = before.orthancs if before else [first] * ORTHANCS
    orthancs = tuple((free(http), free(dicom)) for http, dicom in wanted)
    if ray_nodes is None:
        ray_nodes = before.ray_nodes if before else RAY_NODES
    return Plan(
        free(before.database_port if before else _in_range(_DATABASE + apart)),
        orthancs,
        workers or (before.workers if before else ORTHANCS),
        ray_nodes,
        free(before.ray_port if before else _in_range(_RAY + apart)),
        before.password if before else secrets.token_urlsafe(24),
        settings.https != "off",
    )


def keep_plan(settings: Settings, plan: Plan) -> None:
    """Write a plan, at once and for its owner alone."""
    given = {"ledger_url": plan.url(LEDGER), "index_url": plan.url(INDEX)}
    if plan.ray_nodes:
        given |= {"executor": "ray", "ray_address": plan.ray_address}
    table = {
        "database_port": plan.database_port,
        "orthancs": [list(ports) for ports in plan.orthancs],
        "workers": plan.workers,
        "ray_nodes": plan.ray_nodes,
        "ray_port": plan.ray_port,
        "https": plan.https,
    }
    # numbers, truth values, lists of numbers and words without quotation marks are written alike in JSON and TOML
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in given.items()]
    lines += ["\n[cluster]\n", *(f"{name} = {json.dumps(value)}\n" for name, value in table.items())]
    write_private(settings.cluster_file, _HEAD + "".join(lines))


def _in_range(port: int) -> int:
    return _PORTS[(port - _PORTS.start) % len(_PORTS)]


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104  (Orthanc listens there; this only asks whether it can)
        except OSError:
            return False
    return True

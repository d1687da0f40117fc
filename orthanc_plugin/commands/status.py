"""How a node is, as ``./hilum up`` and ``./hilum status`` print it."""

from __future__ import annotations

import json
import time

from orthanc_plugin.commands.cluster import control as cluster
from orthanc_plugin.commands.node import NodeStatus
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import Settings


def tell(settings: Settings, found: NodeStatus, *, as_json: bool) -> int:
    """Print how the node is; exit code 0 only when it is ready."""
    credentials = load_credentials(settings.credentials) if settings.credentials.exists() else None
    if as_json:
        described = {
            "state": found.state,
            "http_url": settings.http_url,
            "dicom_port": settings.dicom_port,
            "ae_title": settings.ae_title,
            "user": credentials.user if credentials else None,
            "password": credentials.password if credentials else None,
            "home": str(settings.home),
            "models": found.details.get("models", {}),
            "studies": found.details.get("studies", {}),
            "problems": found.problems,
            "oldest_waiting_seconds": found.details.get("oldest_waiting_seconds"),
            "disk_free_mb": found.details.get("disk_free_mb"),
            "last_reconciliation": found.details.get("last_reconciliation"),
            "members": {m.name: {"pid": m.pid, "serves": m.serves} for m in cluster.members(settings)},
        }
        print(json.dumps(described))
    else:
        print(f"State      {found.state}")
        if found.state != "stopped":
            print_addresses(settings)
        for name, version in found.details.get("models", {}).items():
            print(f"Model      {name} {version}")
        for name, count in found.details.get("studies", {}).items():
            if count:
                print(f"Studies    {count} {name.replace('_', ' ')}")
        if (oldest := found.details.get("oldest_waiting_seconds")) is not None:
            print(f"Waiting    {oldest:.0f} s, the oldest study")
        if (free := found.details.get("disk_free_mb")) is not None:
            print(f"Disk       {free} MB free, {settings.reserve_mb} MB kept for results")
        if (compared := found.details.get("last_reconciliation")) is not None:
            print(f"Compared   with Orthanc {max(0.0, time.time() - compared):.0f} s ago")
        print_problems(found)
    return 0 if found.state == "ready" else 1


def print_addresses(settings: Settings) -> None:
    """Where people, modalities and viewers find the node, and what it consists of."""
    print(f"Worklist   {settings.http_url}/hilum/")
    print(f"OHIF       {settings.http_url}/ohif/")
    print(f"DICOM      AE title {settings.ae_title}, port {settings.dicom_port}")
    print(f"User       hilum, password in {settings.credentials}")
    print("Research software, not a medical device.")
    for member in cluster.members(settings):
        serves = "serves" if member.serves else "does not serve"
        print(f"Member     {member.name}: {serves}" + (f", process {member.pid}" if member.pid else ""))


def print_problems(found: NodeStatus) -> None:
    """What is wrong with it, and what to do."""
    for problem in found.problems:
        print(f"Problem    {problem['text']}\n           {problem['what_to_do']} [{problem['code']}]")

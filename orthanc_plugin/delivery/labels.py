"""Labels of a study in our own Orthanc (1.12 and later), from its row in the ledger.

The rule: of all labels, only those that the site has named as ours are set or taken away; an Orthanc that has none is
left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.delivery.outgoing import Parcel
from orthanc_plugin.integration import Labels


def send(orthanc: OrthancClient, parcel: Parcel, labels: Labels) -> None:
    """Give a study its labels, under whatever Patient ID it came.

    Raises
    ------
    OrthancUnavailable
    """
    if not has_labels(orthanc):
        return
    wanted = labels_of(parcel.task, labels)
    for study in orthanc.studies(parcel.study_instance_uid):
        there = set(orthanc.ask("GET", f"/studies/{study}/labels") or ())
        for label in sorted(wanted - there):
            orthanc.ask("PUT", f"/studies/{study}/labels/{label}", "")
        for label in sorted((there & set(labels.all)) - wanted):
            orthanc.ask("DELETE", f"/studies/{study}/labels/{label}")


def has_labels(orthanc: OrthancClient) -> bool:
    """Whether this Orthanc has labels; 1.10.1 of Debian 12 has none."""
    return bool((orthanc.ask("GET", "/system") or {}).get("HasLabels"))


def labels_of(task: Mapping[str, Any], labels: Labels) -> set[str]:
    """Those that a study has now."""
    if task["status"] == "not_processed":
        return set(filter(None, [labels.refused]))
    pressing = {"critical": labels.critical, "urgent": labels.urgent}.get(task["priority"], "")
    return set(filter(None, [pressing, labels.read]))

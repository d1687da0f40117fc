"""The dashboard for Grafana and the rules for Prometheus, as tests read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from orthanc_plugin.hosting.metric_table import METRICS, Kind
from orthanc_plugin.settings import REPOSITORY

FOLDER = REPOSITORY / "docker" / "grafana"
DASHBOARD, RULES = FOLDER / "hilum.json", FOLDER / "alerts.yml"
_PARTS = ("_bucket", "_sum", "_count")


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text("utf-8")))


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Title of the panel and expression, as Grafana sends it when every node is chosen."""
    for panel in panels():
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            yield panel["title"], filled


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    return set(re.findall(r"\b(hilum_[a-z_]+)", expression))


def series_names() -> set[str]:
    """Every name under which Prometheus keeps a number of ours."""
    plain = {metric.name for metric in METRICS if metric.kind is not Kind.HISTOGRAM}
    return plain | {m.name + part for m in METRICS if m.kind is Kind.HISTOGRAM for part in _PARTS}


def labels_of(name: str) -> set[str]:
    """The labels that a series has, with those that Prometheus adds."""
    for metric in METRICS:
        if name == metric.name or (metric.kind is Kind.HISTOGRAM and name.removeprefix(metric.name) in _PARTS):
            return {*metric.labels, "instance", "job", *(["le"] if name.endswith("_bucket") else [])}
    raise KeyError(name)

"""The dashboard for Grafana and the alerts: whole, and about metrics that there are."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from dashboard import RULES, dashboard, expressions, labels_of, names_in, panels, series_names

from orthanc_plugin.hosting.metric_table import METRICS, Kind


def test_each_panel_has_its_place_a_title_and_something_to_show() -> None:
    taken: set[tuple[int, int]] = set()
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for panel in every:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["type"] in ("stat", "timeseries", "table")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
    assert {variable["name"] for variable in dashboard()["templating"]["list"]} == {"datasource", "instance"}
    assert "not a medical device" in dashboard()["description"]


def test_each_expression_asks_for_metrics_and_labels_that_there_are() -> None:
    for title, expression in expressions():
        assert names_in(expression), title
        assert names_in(expression) <= series_names(), title
        for name, given in re.findall(r"(hilum_[a-z_]+)\{([^}]*)\}", expression):
            asked = set(re.findall(r"([a-z_]+)\s*=?[=~!]", given))
            assert asked <= labels_of(name), f"{title}: {name} has no {asked - labels_of(name)}"
        assert re.search(r"hilum_[a-z_]+\{instance=~", expression), f"{title} is not of the chosen nodes"


def test_what_is_documented_is_shown_somewhere() -> None:
    shown = set().union(*(names_in(expression) for _, expression in expressions()))
    for metric in METRICS:
        names = {metric.name, *(metric.name + part for part in ("_bucket", "_sum", "_count"))}
        assert names & shown, f"no panel shows {metric.name}"
    assert any(metric.kind is Kind.HISTOGRAM for metric in METRICS)


def test_the_alerts_are_about_metrics_that_there_are_and_say_what_to_do() -> None:
    text = RULES.read_text("utf-8")
    assert names_in(text) <= series_names()
    alerts = text.split("- alert: ")[1:]
    assert len(alerts) >= 6
    for alert in alerts:
        assert "what_to_do:" in alert, alert
        assert "summary:" in alert, alert


def test_prometheus_takes_the_rules() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (Debian: apt install prometheus)")
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

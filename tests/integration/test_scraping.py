"""A real Prometheus scrapes a real node as a monitor, and every panel and alert can be evaluated."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dashboard import RULES, expressions, names_in
from prometheus_client.parser import text_string_to_metric_families
from running_node import Node, add_user, free_port, remove_user

from models.phantom import chest
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure

pytestmark = pytest.mark.node

NAME, PASSWORD = "prometheus", "a long password of a program"
MARKER = "Quetzalcoatl"
# a number of these need not be there: nothing failed, nobody made a backup, nothing is given to others, and Prometheus
# has just begun
MAY_BE_EMPTY = {"Last backup", "Failed attempts in an hour", "Problems now", "Owed", "Longest owed"}
CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: hilum
    metrics_path: /hilum/metrics
    basic_auth: {{username: {name}, password_file: "{password}"}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@pytest.fixture(scope="module")
def watched(hilum_node: Node) -> Iterator[Node]:
    """The node with an account for Prometheus, a study that was read and one that was refused."""
    add_user(hilum_node.settings, NAME, Role.MONITOR, PASSWORD)
    try:
        for modality_code in ("DX", "CT"):
            image = modality.radiograph(chest(4).pixels, Exposure(seed=uuid.uuid4().hex))
            image.PatientName, image.PatientID, image.Modality = f"{MARKER}^One", MARKER, modality_code
            sent = modality.send([image], "127.0.0.1", hilum_node.settings.dicom_port, hilum_node.settings.ae_title)
            assert all(outcome.accepted for outcome in sent)
            expected = "done" if modality_code == "DX" else "not_processed"
            assert hilum_node.wait_for(str(image.StudyInstanceUID))["status"] == expected
        yield hilum_node
    finally:
        remove_user(hilum_node.settings, NAME)


@pytest.fixture(scope="module")
def prometheus(watched: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes the node each second."""
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus here (Debian: apt install prometheus)")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (folder / "password").write_text(PASSWORD)
    configuration = CONFIGURATION.format(
        rules=RULES, name=NAME, password=folder / "password", port=watched.settings.http_port
    )
    (folder / "prometheus.yml").write_text(configuration)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_until(lambda: len(values(client, "count_over_time(hilum_info[1m]) > 2")) == 1, folder / "log")
            yield client
    finally:
        process.terminate()
        process.wait(20)


def wait_until(question: Any, log: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if question():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"Prometheus does not scrape:\n{log.read_text()[-3000:]}")


def values(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/query", params={"query": expression})
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, f"{expression}: {answer.text}"
    return list(answer.json()["data"]["result"])


def rules_of(client: httpx.Client) -> list[dict[str, Any]]:
    groups = client.get("/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_a_monitor_sees_the_metrics_and_nothing_with_a_patient(watched: Node) -> None:
    with httpx.Client(base_url=watched.settings.http_url, trust_env=False, auth=(NAME, PASSWORD)) as client:
        answer = client.get("/hilum/metrics")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert MARKER.lower() not in answer.text.lower()
        assert "1.2.826" not in answer.text
        assert "2.25." not in answer.text
        found = {(s.name, *sorted(s.labels.values())) for f in text_string_to_metric_families(answer.text)
                 for s in f.samples if s.value > 0}  # fmt: skip
        assert ("hilum_images_refused_total", "modality") in found
        assert ("hilum_latency_seconds_count", "report") in found
        assert ("hilum_workers", "ready") in found
        assert ("hilum_worker_starts_total",) in found
        assert any(name[0] == "hilum_findings_total" and "lung_opacity" in name for name in found)
        for path in ("/hilum/", "/hilum/api/worklist", "/dicom-web/studies", "/instances", "/ohif/", "/hilum/admin"):
            assert client.get(path).status_code == 403, path
    with httpx.Client(base_url=watched.settings.http_url, trust_env=False) as stranger:
        assert stranger.get("/hilum/metrics").status_code == 401


def test_every_panel_and_alert_is_evaluated_by_prometheus(prometheus: httpx.Client) -> None:
    empty = set()
    for title, expression in expressions():
        found = values(prometheus, expression)
        assert found or title in MAY_BE_EMPTY or "increase(" in expression or "rate(" in expression, title
        empty |= {title} if not found else set()
    assert len(empty) < 12, empty
    assert len(rules_of(prometheus)) >= 6
    wait_until(lambda: all(rule["health"] == "ok" for rule in rules_of(prometheus)), Path("/dev/null"), 10.0)
    firing = {r["name"] for r in rules_of(prometheus) if r["state"] == "firing"}
    assert not firing & {"HilumDown", "HilumStopped", "HilumNoWorker"}


def test_prometheus_holds_what_the_node_tells(prometheus: httpx.Client, watched: Node) -> None:
    studies = watched.http.get("/hilum/api/status").json()["studies"]
    (queued,) = values(prometheus, 'hilum_studies{status="queued"}')
    assert float(queued["value"][1]) == studies["queued"]
    held = {series["metric"]["__name__"] for series in values(prometheus, '{__name__=~"hilum_.*"}')}
    assert names_in(" ".join(held)) >= {
        "hilum_findings_total",
        "hilum_finding_probability_bucket",
        "hilum_ledger_bytes",
    }

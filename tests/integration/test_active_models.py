"""Other models on a node that runs: the next study is read with them, and no study is lost."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from other_versions import edit, other_version
from pydicom import Dataset
from running_node import Node, start_node

from dicom_sr.reader import is_measurement_report
from models.activation import Activation
from models.phantom import chest
from orthanc_plugin.cli import main
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.reading.active_models import registry_of

pytestmark = pytest.mark.node
Hilum = Callable[..., str]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    settings, _ = start_node(tmp_path / "home")
    credentials = load_credentials(settings.credentials)
    try:
        with node.http(settings, credentials) as http:
            yield Node(settings, credentials, http)
    finally:
        node.stop(settings)


@pytest.fixture
def hilum(running: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hilum:
    """Run ``./hilum models`` of this node, and give what it printed."""
    monkeypatch.setenv("HILUM_HOME", str(running.settings.home))

    def run(*arguments: object, fails: bool = False) -> str:
        capsys.readouterr()
        assert main(["models", *map(str, arguments)]) == (1 if fails else 0)
        printed = capsys.readouterr()
        return printed.err if fails else printed.out

    return run


def send(running: Node, patient: int = 1) -> str:
    ds = modality.radiograph(chest(patient).pixels, Exposure(seed=uuid.uuid4().hex, study=uuid.uuid4().hex))
    (outcome,) = modality.send([ds], "127.0.0.1", running.settings.dicom_port, running.settings.ae_title)
    assert outcome.accepted
    return str(ds.StudyInstanceUID)


def report(running: Node, uid: str) -> Dataset:
    """The one measurement report of a study."""
    (found,) = [ds for ds in running.objects(uid) if ds.Modality == "SR" and is_measurement_report(ds)]
    return found


def versions(running: Node, uid: str) -> dict[str, str]:
    """What the report of a study says it was read with."""
    equipment = report(running, uid).ContributingEquipmentSequence
    return {str(item.ManufacturerModelName): str(item.SoftwareVersions).split("+")[0] for item in equipment}


def status(running: Node) -> dict[str, Any]:
    return dict(running.http.get("/hilum/api/status").json())


def problems(running: Node) -> set[str]:
    return {problem["code"] for problem in status(running)["problems"]}


def test_the_next_study_is_read_with_what_was_activated_and_none_is_lost(
    running: Node, hilum: Hilum, tmp_path: Path
) -> None:
    first = send(running)
    running.wait_for(first)
    hilum("add", other_version(tmp_path, "chest_findings", "0.2.0"))
    during = [send(running, number) for number in (2, 3)]
    hilum("activate", "chest_findings", "0.2.0")
    during += [send(running, number) for number in (4, 5)]
    rows = [running.wait_for(uid, 120) for uid in during]
    assert {row["status"] for row in rows} == {"done"}
    read_with = [versions(running, uid)["chest_findings"] for uid in during]
    assert read_with == sorted(read_with), "first the old one, then the new one"
    assert read_with[-1] == "0.2.0"
    assert versions(running, first)["chest_findings"] == "0.1.0"
    assert "attempt failed" not in running.settings.logs.joinpath("worker.log").read_text()
    running.wait(lambda: status(running)["models"].get("chest_findings") == "0.2.0", "the status to name the version")

    # the active one is damaged while the node starts anew: nothing is read with it, and going back mends that
    folder = running.settings.own_models / "chest_findings" / "0.2.0"
    edit(folder, lambda m: m["hilum"]["findings"]["effusion"].update(threshold_present=0.99))
    activation = Activation(running.settings.active_models)
    activation.choose(activation.choice.watch(registry_of(running.settings).find("lung_fields", "0.1.0")))
    running.wait(lambda: "models_unusable" in problems(running), "the problem to be told", 120)
    waiting = send(running, 6)
    assert "0.2.0: configs/metadata.json" in running.settings.logs.joinpath("worker.log").read_text()
    assert "configs/metadata.json has SHA-256" in hilum("activate", "chest_findings", "0.2.0", fails=True)
    assert "chest_findings 0.1.0" in hilum("rollback")
    assert running.wait_for(waiting, 120)["status"] == "done"
    assert versions(running, waiting)["chest_findings"] == "0.1.0"
    assert "models_unusable" not in problems(running)


def test_a_shadow_records_and_publishes_nothing(running: Node, hilum: Hilum, tmp_path: Path) -> None:
    hilum("add", other_version(tmp_path, "chest_findings", "0.7.7"))
    hilum("activate", "chest_findings", "0.7.7", "--shadow")
    studies = [send(running, number) for number in (1, 2)]
    rows = [running.wait_for(uid, 120) for uid in studies]
    file = running.settings.shadow_records / "chest_findings-0.7.7.jsonl"
    uids = [report(running, uid).CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID for uid in studies]
    running.wait(lambda: file.exists() and len(file.read_text().splitlines()) == 2, "both to be recorded")
    recorded = [json.loads(line) for line in file.read_text().splitlines()]
    assert [said["study_instance_uid"] for said in recorded] == uids == studies
    assert all(said["active"]["models"]["chest_findings"] == "0.1.0" for said in recorded)
    assert "0.7.7" not in json.dumps(rows)
    assert "0.7.7" not in json.dumps(status(running))
    assert not any("0.7.7" in str(ds) for uid in studies for ds in running.objects(uid))
    (described,) = json.loads(hilum("show", "chest_findings", "0.7.7", "--json"))
    assert described["shadow"]["images"] == 2
    compared = [one for one in described["shadow"]["findings"] if one["compared"]]
    assert len(compared) >= 2
    assert all(one["agreed"] == one["compared"] == 2 for one in compared), "it has the same weights"
    assert "in shadow   2 images, 0 failed" in hilum("show", "chest_findings", "0.7.7")

"""Bundles in shadow: they are run when nothing else waits, recorded, and cost nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loaded_models import load_models
from other_versions import SHIPPED, other_version

from models.bundle import load_bundle
from models.findings import ImageFindings, View
from models.inference import ImageIdentity, Models
from models.phantom import Pathology, chest
from models.rendering import RenderedImage
from orthanc_plugin.commands.shadow_report import Agreement, compare
from orthanc_plugin.reading import shadow as shadows
from orthanc_plugin.reading.shadow import Shadow, Shadows, record

NAMES = ["pixel_gate", "lung_fields", "chest_findings"]
IMAGE = RenderedImage(chest(3, pathologies=[Pathology("lung_opacity", right=False, size=0.8, height=0.75)]).pixels)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(SHIPPED, NAMES, threads=1)


@pytest.fixture(scope="module")
def found(models: Models) -> ImageFindings:
    return models.predict(IMAGE, ImageIdentity("1.2", "1.3", "1.4", View.PA))


def lines(folder: Path, name: str, version: str = "0.1.0") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}-{version}.jsonl").read_text().splitlines()]


def test_a_shadow_of_the_same_weights_agrees_with_what_is_active(found: ImageFindings, tmp_path: Path) -> None:
    loaded = [Shadow.of(load_bundle(SHIPPED / name), threads=1) for name in ("chest_findings", "lung_fields")]
    beside = Shadows(loaded, tmp_path)
    beside.remember(IMAGE, found)
    assert beside.work()
    assert not beside.work()
    (said,) = lines(tmp_path, "chest_findings")
    bundle = loaded[0].bundle
    assert (said["study_instance_uid"], said["sop_instance_uid"], said["failure"]) == ("1.2", "1.4", None)
    assert said["weights_digest"] == bundle.identity.weights_digest
    assert said["config_digest"] == bundle.identity.config_digest, "that of the contract as it is"
    assert 0 < said["seconds"] < 60
    for finding in found.findings:
        if finding.model == "chest_findings" and finding.probability is not None:
            assert said["findings"][finding.key]["probability"] == pytest.approx(finding.probability, abs=1e-5)
            assert said["findings"][finding.key]["state"] == finding.state.value
    evaluated = {c.key: c.evaluated for c in bundle.contract.findings}
    assert {key: one["evaluated"] for key, one in said["findings"].items()} == evaluated
    assert all(one["probability"] is not None for one in said["findings"].values()), "also of what is not evaluated"
    report = compare(tmp_path, "chest_findings", "0.1.0")
    assert {a.key for a in report.findings if a.compared} == {key for key, asked in evaluated.items() if asked}
    assert all(a.agreed == a.compared and (a.difference or 0.0) < 1e-4 for a in report.findings)
    (lungs,) = lines(tmp_path, "lung_fields")
    assert lungs["measurements"]["cardiothoracic_ratio"] == found.measurements[0].value
    assert compare(tmp_path, "lung_fields", "0.1.0").measurements == {"cardiothoracic_ratio": (0.0, 1)}


def test_the_shipped_pneumothorax_bundle_says_in_shadow_what_no_report_would(
    found: ImageFindings, tmp_path: Path
) -> None:
    bundle = load_bundle(SHIPPED / "pneumothorax")
    assert not any(finding.evaluated for finding in bundle.contract.findings), "its evidence does not carry it"
    beside = Shadows([Shadow.of(bundle, threads=1)], tmp_path)
    for drawn in ([], [Pathology("pneumothorax", size=0.7)]):
        beside.remember(RenderedImage(chest(3, rows=1024, columns=1024, pathologies=drawn).pixels), found)
        assert beside.work()
    said = [line["findings"]["pneumothorax"] for line in lines(tmp_path, "pneumothorax")]
    assert [one["evaluated"] for one in said] == [False, False]
    assert said[1]["probability"] > said[0]["probability"] + 0.1
    assert all(f.model != "pneumothorax" for f in found.findings)


def test_a_gate_in_shadow_says_what_it_sees(found: ImageFindings, tmp_path: Path) -> None:
    beside = Shadows([Shadow.of(load_bundle(SHIPPED / "pixel_gate"), threads=1)], tmp_path)
    beside.remember(IMAGE, found)
    beside.work()
    assert lines(tmp_path, "pixel_gate")[0]["gate"]["shows"] == "frontal"


def test_nothing_of_the_patient_is_recorded_and_only_the_owner_can_read_it(
    found: ImageFindings, tmp_path: Path
) -> None:
    beside = Shadows([Shadow.of(load_bundle(SHIPPED / "lung_fields"), threads=1)], tmp_path / "shadow")
    beside.remember(IMAGE, found)
    beside.work()
    (said,) = lines(tmp_path / "shadow", "lung_fields")
    assert set(said) == {
        "time", "study_instance_uid", "sop_instance_uid", "weights_digest", "config_digest", "seconds", "failure",
        "findings", "measurements", "active",
    }  # fmt: skip
    assert (tmp_path / "shadow").stat().st_mode & 0o077 == 0
    assert (tmp_path / "shadow" / "lung_fields-0.1.0.jsonl").stat().st_mode & 0o077 == 0


def test_a_shadow_that_fails_costs_nothing_and_is_recorded(
    found: ImageFindings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def too_many(metadata: dict[str, Any]) -> None:
        metadata["hilum"]["findings"]["effusion"]["output"] = 99

    bad = Shadow.of(load_bundle(other_version(tmp_path, "chest_findings", "0.2.0", too_many)), threads=1)
    good = Shadow.of(load_bundle(SHIPPED / "lung_fields"), threads=1)
    beside = Shadows([bad, good], tmp_path / "shadow")
    beside.remember(IMAGE, found)
    assert beside.work()
    assert lines(tmp_path / "shadow", "chest_findings", "0.2.0")[0]["failure"] == "model_failed"
    assert lines(tmp_path / "shadow", "lung_fields")
    report = compare(tmp_path / "shadow", "chest_findings", "0.2.0")
    assert (report.images, report.failed, report.findings) == (1, 1, ())
    (tmp_path / "file").write_text("")
    unwritable = Shadows([good], tmp_path / "file")
    unwritable.remember(IMAGE, found)
    with caplog.at_level(logging.ERROR):
        assert unwritable.work(), "not even a disk that cannot be written stops the reading"
    assert "a shadow failed" in caplog.text


def test_a_node_that_is_never_idle_keeps_the_latest_images_only(
    found: ImageFindings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(Shadow, "say", lambda _, __, read: seen.append(read.sop_instance_uid) or {})
    beside = Shadows([Shadow.of(load_bundle(SHIPPED / "lung_fields"), threads=1)], tmp_path)
    for number in range(20):
        beside.remember(IMAGE, replace(found, sop_instance_uid=str(number)))
    while beside.work():
        pass
    assert seen == [str(number) for number in range(12, 20)]
    nobody = Shadows()
    nobody.remember(IMAGE, found)
    assert not nobody.work(), "without shadows no image is kept"


def test_the_records_of_a_shadow_do_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "LARGEST_FILE", 1000)
    for number in range(100):
        record(tmp_path, "a", "1", {"sop_instance_uid": str(number), "x": "y" * 50})
    assert {file.name for file in tmp_path.iterdir()} == {"a-1.jsonl", "a-1.jsonl.1"}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2200
    kept = [json.loads(line) for name in ("a-1.jsonl.1", "a-1.jsonl") for line in (tmp_path / name).open()]
    numbers = [int(one["sop_instance_uid"]) for one in kept]
    assert numbers == list(range(numbers[0], 100)), "the latest, without a gap"


def said(uid: str, mine: tuple[str, float], active: tuple[str, float | None], **how: Any) -> dict[str, Any]:
    return {
        "sop_instance_uid": uid, "failure": None, "seconds": 1.0, "measurements": {},
        "findings": {"effusion": {"state": mine[0], "probability": mine[1], "evaluated": True}},
        "active": {"findings": {"effusion": {"state": active[0], "probability": active[1]}}, "measurements": {}},
        **how,
    }  # fmt: skip


def test_agreement_is_counted_by_hand(tmp_path: Path) -> None:
    for one in (
        said("1", ("absent", 0.9), ("present", 0.1)),  # read again below: this one does not count
        said("1", ("present", 0.9), ("present", 0.8)),
        said("2", ("present", 0.7), ("absent", 0.2)),
        said("3", ("absent", 0.1), ("not_evaluated", None)),
        said("4", ("absent", 0.1), ("absent", 0.1), failure="model_failed", seconds=3.0),
    ):
        record(tmp_path, "a", "1", one)
    with (tmp_path / "a-1.jsonl").open("a") as file:
        file.write('{"cut off by a full di')
    report = compare(tmp_path, "a", "1")
    assert (report.images, report.failed, report.seconds) == (4, 1, 1.5)
    assert report.findings == (Agreement("effusion", 3, 2, 2, 1, pytest.approx(0.3)),)  # type: ignore[arg-type]
    assert compare(tmp_path, "nobody", "1").images == 0

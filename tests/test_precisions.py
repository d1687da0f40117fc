"""Lower precisions are taken where the bundle's evidence lets them be, and only from the files that were measured."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_versions import SHIPPED

from dicom_sr.conformance.check import check_together
from dicom_sr.reader import read_result
from dicom_sr.results import encode_results
from models import runtime as runtimes
from models.bundle import Bundle, BundleInvalid, load_bundle
from models.findings import Precision, View
from models.forward import torch_forward
from models.hanging import AS_STORED
from models.inference import ImageIdentity, assemble
from models.kept import answer_kept, keep, keep_answer, key_of, machine_of
from models.phantom import Pathology, chest
from models.precisions import BESIDE, STATEMENT
from models.probe import probe
from models.registry import Registry
from models.rendering import RenderedImage, render
from models.runtime import Running, Runtime, engine_of, groups_of
from models.translation import openvino_forward
from orthanc_plugin.commands.modality import Exposure, radiograph

NAMES = ("pixel_gate", "lung_fields", "chest_findings", "lung_opacity")
BF16, INT8 = Runtime.OPENVINO_BF16, Runtime.OPENVINO_INT8
IDENTITY = ImageIdentity("1.2", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3", View.PA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the pixel gate, which may be run in integers."""
    made = tmp_path / "models" / "pixel_gate"
    shutil.copytree(SHIPPED / "pixel_gate", made)
    return made


def state(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / STATEMENT
    said = json.loads(file.read_text("utf-8"))
    change(said)
    file.write_text(json.dumps(said), "utf-8")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def offered(bundle: Bundle) -> set[Runtime]:
    return set(runtimes._candidates(Runtime.AUTO, [bundle]))


def answers_as_torch(bundle: Bundle, asked: Runtime, kept: Path, *, within: float = 1e-3) -> Runtime:
    """Which runtime answers; it says what torch says."""
    assert bundle.network is not None
    engine, picture = engine_of([bundle], Running(asked, 1, kept)), probe(bundle)
    assert engine.run(picture)["logits"] == pytest.approx(torch_forward(bundle.network)(picture)["logits"], abs=within)
    return engine.runtime


@pytest.mark.parametrize("name", NAMES)
def test_each_default_bundle_says_what_was_measured_of_its_weights(name: str) -> None:
    bundle = load_bundle(SHIPPED / name)
    said = json.loads((SHIPPED / name / STATEMENT).read_text("utf-8"))
    assert said["weights_sha256"] == bundle.identity.weights_digest, f"./hilum train quantise {name}"
    assert said["config_sha256"] == bundle.identity.config_digest, f"./hilum train quantise {name}"
    assert set(bundle.precisions.by_runtime) == {BF16, INT8}
    card = (SHIPPED / name / "docs" / "README.md").read_text("utf-8")
    for runtime, entry in said["precisions"].items():
        held = [figure["held"] for figure in entry["figures"]]
        assert entry["accepted"] == (False not in held), "what loses something is not accepted"
        assert True in held, "a limit was looked at"
        assert f"`{runtime}` {'may be' if entry['accepted'] else 'is not'} taken unasked." in card


def test_networks_that_begin_alike_are_one_in_integers_as_well(tmp_path: Path) -> None:
    bundles = [load_bundle(SHIPPED / name) for name in NAMES[2:]]
    if runtimes._quantised(bundles) is None:
        pytest.skip("their evidence does not let them be run in integers")
    engine, picture = engine_of(bundles, Running(INT8, 1, tmp_path)), probe(bundles[0])
    assert engine.runtime is INT8
    for number, bundle in enumerate(bundles):
        assert bundle.network is not None
        said, answer = torch_forward(bundle.network)(picture), engine.part(number)(picture)
        assert set(said) == set(answer)
        allowed = bundle.precisions.by_runtime[INT8].tolerances
        assert {name: apart <= allowed[name] for name, apart in runtimes.differences(said, answer).items()} == (
            dict.fromkeys(said, True)
        )
    assert runtimes._quantised(bundles[:1]) is None, "alone, it is not of these weights"


def test_by_auto_and_by_integers_a_study_is_called_as_by_torch(tmp_path: Path) -> None:
    """The radiographs that the demo sends."""
    bundles = [load_bundle(SHIPPED / name) for name in NAMES]
    right = assemble(bundles, threads=1)
    others = [assemble(bundles, threads=1, running=Running(r, 1, tmp_path)) for r in (Runtime.AUTO, BF16, INT8)]
    shown: list[list[Pathology]] = [
        [], [Pathology("pneumothorax", right=True, size=0.9)],
        [Pathology("lung_opacity", right=False, size=0.8, height=0.75)],
    ]  # fmt: skip
    for seed, pathologies in enumerate(shown, start=1):
        image = RenderedImage(chest(seed, pathologies=pathologies).pixels)
        looked, found = right.look(image, children=False), right.predict(image, IDENTITY)
        assert looked is not None
        for other in others:
            seen, answer = other.look(image, children=False), other.predict(image, IDENTITY)
            assert seen is not None
            assert (looked.shows, looked.accepted) == (seen.shows, seen.accepted)
            assert [(f.key, f.state) for f in found.findings] == [(f.key, f.state) for f in answer.findings]
            for a, b in zip(found.segments, answer.segments, strict=True):
                assert 2 * np.sum(a.mask & b.mask) / (a.mask.sum() + b.mask.sum()) > 0.95


def test_one_radiograph_in_two_precisions_has_two_results_that_say_which(tmp_path: Path) -> None:
    ds = radiograph(chest(1).pixels, Exposure(seed="precisions"))
    identity = ImageIdentity(str(ds.StudyInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID), View.PA)
    bundles = [load_bundle(SHIPPED / name) for name in (*NAMES, "covid_appearance")]
    image, created = render(ds, AS_STORED), datetime(2026, 1, 2, tzinfo=UTC)
    reports = []
    for runtime in (Runtime.TORCH, Runtime.OPENVINO, INT8):
        models = assemble(bundles, threads=1, running=Running(runtime, 1, tmp_path))
        findings = models.predict(image, identity)
        # each says what the engine computes in that answers it, also where several networks are one
        expected = {}
        for group in groups_of(bundles[:4]):
            engine = engine_of([bundles[number] for number in group], Running(runtime, 1, tmp_path))
            precision = Precision.INT8 if engine.runtime is INT8 else Precision.FLOAT32
            expected |= dict.fromkeys(engine.names, precision)
        expected["covid_appearance"] = Precision.FLOAT32
        assert models.precisions == expected
        assert {run.model.name: run.precision for run in findings.runs}.items() <= expected.items()
        if runtime is INT8:
            assert expected["pixel_gate"] is Precision.INT8
        results = encode_results(ds, findings, created)
        assert results.segmentation is not None
        read = read_result(results.measurement_report, results.segmentation)
        assert read.runs == findings.runs
        assert check_together([ds, results.measurement_report, results.segmentation]) == []
        reports.append(results.measurement_report)
    by_torch, by_openvino, in_integers = (str(report.SOPInstanceUID) for report in reports)
    assert by_torch == by_openvino, "in float32 as well"
    assert in_integers != by_torch


def test_a_processor_without_bfloat16_is_not_said_to_have_computed_in_it(folder: Path, tmp_path: Path) -> None:
    import openvino as ov

    bundle = load_bundle(folder)
    assert bundle.network is not None
    runner = openvino_forward(lambda: bundle.network, probe(bundle), precision="bf16", threads=1, kept=None)
    able = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert runner.precision is (Precision.BFLOAT16 if able else Precision.FLOAT32)


def test_what_the_evidence_accepts_is_offered_and_nothing_else(folder: Path) -> None:
    assert {Runtime.OPENVINO, BF16, INT8} <= offered(load_bundle(folder))
    state(folder, lambda said: said["precisions"][INT8].update(accepted=False))
    assert INT8 not in offered(load_bundle(folder))
    assert BF16 in offered(load_bundle(folder))
    (folder / STATEMENT).unlink()
    assert not {BF16, INT8} & offered(load_bundle(folder))


def test_integers_can_be_asked_for_by_name(folder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(folder)
    assert (
        answers_as_torch(bundle, INT8, tmp_path, within=bundle.precisions.by_runtime[INT8].tolerances["logits"]) is INT8
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: flip(folder / "models/int8.bin"), "not those that were measured"),
        (lambda folder: flip(folder / "models/int8.xml"), "not those that were measured"),
        (lambda folder: (folder / "models/int8.bin").unlink(), "not those that were measured"),
        (lambda folder: state(folder, lambda said: said.update(weights_sha256="0" * 64)), "of other weights"),
        (lambda folder: state(folder, lambda said: said.update(config_sha256="0" * 64)), "another contract"),
        (lambda folder: (folder / STATEMENT).write_text("{", "utf-8"), "cannot be used"),
        *(
            (
                lambda folder, bad=bad: state(folder, lambda s: s["precisions"][INT8].update(tolerances=bad)),
                "cannot be used",
            )
            for bad in ("wide", {}, {"logits": "wide"}, {"logits": -1.0}, {"logits": float("inf")}, 0.5)
        ),
    ],
)
def test_what_is_damaged_or_of_other_weights_is_not_used_and_the_answer_is_right(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(folder)
    with caplog.at_level(logging.WARNING):
        bundle = load_bundle(folder)
    assert told in caplog.text
    assert INT8 not in bundle.precisions.by_runtime
    assert INT8 not in offered(bundle)
    assert answers_as_torch(bundle, INT8, tmp_path) is Runtime.OPENVINO


def test_what_says_something_else_than_was_ever_seen_is_not_taken(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state(folder, lambda said: said["precisions"][INT8].update(tolerances={"logits": 1e-6}))
    assert answers_as_torch(load_bundle(folder), INT8, tmp_path) is Runtime.TORCH
    assert "says something else" in caplog.text


def test_a_choice_that_holds_no_longer_is_made_anew_at_the_next_start(folder: Path, tmp_path: Path) -> None:
    """As on another machine, which computes integers otherwise."""
    state(folder, lambda said: said["precisions"][INT8].update(tolerances={"logits": 1e-6}))
    bundle, running = load_bundle(folder), Running(Runtime.AUTO, 1, tmp_path)
    keep(tmp_path / f"{key_of([bundle])}.{machine_of(1)}.runtime", b"openvino-int8")
    assert engine_of([bundle], running).runtime is Runtime.TORCH
    assert engine_of([bundle], running).runtime in {Runtime.OPENVINO, BF16}


def test_each_output_has_to_be_as_near_as_it_was_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Maps lie further apart in half precision than logits may."""
    bundle = load_bundle(SHIPPED / "chest_findings")
    allowed = bundle.precisions.by_runtime[BF16].tolerances
    assert allowed["logits"] < 0.5 < allowed["maps"]
    running, picture = Running(BF16, 1, tmp_path), probe(bundle)
    assert engine_of([bundle], running).runtime is BF16
    (file,) = tmp_path.glob("*.answer")
    said = answer_kept(file, picture)
    assert said is not None
    keep_answer(file, picture, {**said, "logits": said["logits"] + np.float32(0.5)})
    assert engine_of([bundle], running).runtime is Runtime.TORCH
    assert "says something else" in caplog.text


@pytest.mark.parametrize("file", BESIDE)
def test_one_changed_byte_beside_the_weights_is_refused_like_one_in_them(
    folder: Path, tmp_path: Path, file: str
) -> None:
    registry = Registry(folder.parent, tmp_path / "own")
    (pinned,) = registry.pin()
    assert set(BESIDE) <= set(pinned.digests)
    assert registry.shipped("pixel_gate").load().precisions.by_runtime.keys() == {BF16, INT8}
    flip(folder / file)
    with pytest.raises(BundleInvalid, match=rf"pixel_gate.*{file} has SHA-256"):
        registry.shipped("pixel_gate").load()
    (folder / file).unlink()
    with pytest.raises(BundleInvalid, match=f"{file} is missing"):
        registry.shipped("pixel_gate").load()


def test_what_lies_beside_the_weights_and_was_not_recorded_is_refused(folder: Path, tmp_path: Path) -> None:
    statement = (folder / STATEMENT).read_bytes()
    for file in BESIDE:
        (folder / file).unlink()
    registry = Registry(folder.parent, tmp_path / "own")
    registry.pin()
    assert not registry.shipped("pixel_gate").load().precisions.by_runtime
    (folder / STATEMENT).write_bytes(statement)
    with pytest.raises(BundleInvalid, match="record it anew"):
        registry.shipped("pixel_gate").load()


@pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="nncf, with which networks are quantised, is not installed"
)
def test_a_bundle_is_quantised_measured_and_told_in_its_card(folder: Path, tmp_path: Path) -> None:
    from training.precision_evidence import Change, Trial
    from training.quantise import write_precisions

    pictures = [probe(load_bundle(folder))]
    for held in (True, False):
        change = Change("a figure", 1, 0.5, 0.5, limit="a limit", held=held)
        trial = Trial(pictures, [], lambda before, after, change=change: [change])  # type: ignore[misc]
        accepted = write_precisions([folder], tmp_path, seed=7, trials=[trial])
        assert accepted == {BF16: held, INT8: held}
        assert (folder / "models" / "int8.bin").exists() is held
        assert (INT8 in offered(load_bundle(folder))) is held
        card = (folder / "docs" / "README.md").read_text("utf-8")
        assert card.count("| a figure | 1 | 0.5000 | 0.5000 | +0.0000 | a limit |") == 2
        assert card.count("Numbers at half and quarter precision") == 1
    assert answers_as_torch(load_bundle(folder), INT8, tmp_path) is Runtime.OPENVINO


def test_the_limits_are_documented_as_they_are() -> None:
    from training import precision_evidence as limits

    told = (SHIPPED.parent / "docs" / "bundles.md").read_text("utf-8")
    for row in (
        f"its change, drawn by patient in pairs, lies above {limits.LEAST_AUROC:g} beyond doubt |",
        f"| calls that go from present to absent or back | {100 * limits.MOST_OPPOSED:g} % |",
        f"| calls that change at all | {100 * limits.MOST_CHANGED:g} % |",
        f"| hottest cell in a radiologist's box | its change lies above {limits.LEAST_POINTING:g} beyond doubt |",
        f"| Dice with what people drew | {limits.LEAST_DICE:g} |",
        f"| Dice with the outline in float32, on a collection that was never trained on | {limits.LEAST_ALIKE:g} |",
        f"| error of the cardiothoracic ratio | + {limits.MOST_RATIO:g} |",
        f"| change of the cardiothoracic ratio, on that collection | {limits.MOST_MOVED:g}, mean |",
        f"| pictures that are refused and were not, or the other way round | {100 * limits.MOST_REFUSED:g} % |",
    ):
        assert row in told


def test_a_precision_that_loses_something_is_not_held_and_one_that_loses_nothing_is() -> None:
    from training.data import FindingRecord
    from training.precision_evidence import _of_finding

    finding = next(f for f in load_bundle(SHIPPED / "lung_opacity").contract.findings if f.evaluated)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200).astype(float)
    records = [
        FindingRecord(Path(), str(n), "", "", {finding.key: t}, {}, {finding.key: [(0.0, 0.0, 256.0, 256.0)]})
        for n, t in enumerate(truth)
    ]
    spots = rng.random((200, 1, 20, 20)).astype(np.float32)
    spots[:, :, 3, 3] = 2.0  # in the box
    logits = 6 * truth - 3 + rng.normal(size=200)
    was = [{"logits": np.array([logit]), "maps": spot} for logit, spot in zip(logits, spots, strict=True)]
    assert all(change.held is not False for change in _of_finding(finding, records, was, was))
    assert any(
        change.figure.endswith("hottest cell lies in a box") for change in _of_finding(finding, records, was, was)
    )
    worse = [{"logits": -one["logits"], "maps": one["maps"][:, ::-1]} for one in was]
    held = {change.figure: change.held for change in _of_finding(finding, records, was, worse)}
    assert list(held.values()).count(False) == 4, held

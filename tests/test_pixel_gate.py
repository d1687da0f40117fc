"""The pixel gate: how its answer is read, and what its bundle does on pictures it has never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from loaded_models import load_models

from models.bundle import BundleInvalid, load_bundle
from models.inference import Models
from models.networks import GateNet
from models.phantom import Pathology, chest
from models.pixel_gate import CLASSES, MIRRORED, GateContract, interpret
from models.refusal import ImageRefused
from models.rendering import RenderedImage, render_picture
from orthanc_plugin.settings import REPOSITORY
from training.gate_samples import MADE, make
from training.turning import turn

BUNDLES = REPOSITORY / "models"
CONTRACT = GateContract(tuple(CLASSES), slope=1.0, intercept=0.0, threshold=0.5)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(BUNDLES, ["pixel_gate"], threads=1)


def accepts(models: Models, pixels: npt.NDArray[Any], *, children: bool = False) -> bool:
    answer = models.look(RenderedImage(np.ascontiguousarray(pixels, np.float32)), children=children)
    assert answer is not None
    return answer.accepted


def logits(**scores: float) -> npt.NDArray[np.float32]:
    return np.array([scores.get(name, -4.0) for name in CLASSES], np.float32)


def test_the_score_is_what_frontal_has_over_all_others() -> None:
    answer = interpret(logits(frontal=3.0), CONTRACT)
    share = np.exp(3) / (np.exp(3) + 8 * np.exp(-4))
    assert answer.score == pytest.approx(share, abs=1e-6)
    assert (answer.shows, answer.accepted) == ("frontal", True)
    assert interpret(logits(lateral=3.0), CONTRACT).shows == "lateral"


def test_a_picture_that_hardly_passes_is_doubtful() -> None:
    lenient = GateContract(tuple(CLASSES), slope=1.0, intercept=0.0, threshold=0.1)
    answer = interpret(logits(frontal=0.0, mirrored=1.5), lenient)
    assert (answer.shows, answer.accepted, answer.doubtful) == ("mirrored", True, True)
    assert not interpret(logits(frontal=1.5, mirrored=0.0), lenient).doubtful


def test_children_count_only_where_the_site_reads_them() -> None:
    child = logits(child=5.0, frontal=1.0)
    assert not interpret(child, CONTRACT).accepted
    assert interpret(child, CONTRACT, children=True).accepted


def test_a_picture_and_its_mirror_image_get_mirrored_answers() -> None:
    torch.manual_seed(0)
    network = GateNet(MIRRORED).eval()
    picture = torch.rand(2, 1, 96, 96)
    with torch.inference_mode():
        seen, mirrored = network(picture), network(picture.flip(-1))
    assert torch.allclose(seen[:, list(MIRRORED)], mirrored, atol=1e-5)
    assert not torch.allclose(seen, mirrored, atol=1e-5)


def test_a_gate_that_tells_other_classes_is_not_run(tmp_path: Path) -> None:
    bundle = tmp_path / "pixel_gate"
    for file in ("configs/metadata.json", "configs/inference.json", "models/model.pt"):
        (bundle / file).parent.mkdir(parents=True, exist_ok=True)
        (bundle / file).write_bytes((BUNDLES / "pixel_gate" / file).read_bytes())
    load_bundle(bundle)
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    metadata["hilum"]["gate"]["classes"] = ["cat", "dog"]
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(BundleInvalid, match="cat, dog"):
        load_bundle(bundle)


def test_two_gates_are_one_too_many(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(BUNDLES / "pixel_gate")
    with pytest.raises(BundleInvalid, match="two pixel gates"):
        load_models(tmp_path, ["one", "two"], threads=1)


def test_computed_chests_pass(models: Models) -> None:
    """Patients that the training did not compute, ill and well."""
    for seed in range(6):
        ill = [Pathology("pneumothorax", right=seed % 2 == 0, size=0.6)] if seed % 3 == 0 else []
        assert accepts(models, chest(seed, rows=600, columns=500, pathologies=ill).pixels), seed


@pytest.mark.parametrize("name", ["turned_left", "turned_right", "upside_down", "inverted"])
def test_a_computed_chest_in_any_other_position_is_refused(models: Models, name: str) -> None:
    torch.manual_seed(0)
    for seed in range(3):
        turned = turn(torch.from_numpy(chest(seed, rows=500, columns=500).pixels), name).numpy()
        answer = models.look(RenderedImage(np.ascontiguousarray(turned)), children=False)
        assert answer is not None
        assert not answer.accepted
        assert answer.shows == name


@pytest.mark.parametrize("kind", MADE)
def test_what_is_no_chest_is_refused(models: Models, kind: str) -> None:
    torch.manual_seed(1)
    upright = torch.from_numpy(chest(5, rows=320, columns=320).pixels)
    passed = sum(accepts(models, make(upright, kind).clamp(0, 1).numpy()) for _ in range(5))
    assert passed <= (1 if kind in ("half", "magnified", "limb") else 0)


def test_the_bundle_s_evidence_carries_what_the_node_promises() -> None:
    """Held-out groups: at most 1 % of the adults refused, at least 95 % of what is to be refused."""
    metadata = json.loads((BUNDLES / "pixel_gate" / "configs" / "metadata.json").read_text())
    figures = {name: figure["value"] for name, figure in metadata["hilum"]["figures"].items()}
    assert figures["held-out adults, all collections"] <= 0.01
    wanted = [name for name in figures if name.startswith(("held-out child", "held-out mirrored", "held-out turned",
                                                            "held-out upside", "held-out inverted"))]  # fmt: skip
    assert len(wanted) >= 6
    assert {name: figures[name] for name in wanted if figures[name] < 0.95} == {}


@pytest.mark.shared
def test_an_unseen_hospital_s_adults_pass_and_are_refused_when_turned(models: Models, shared_data: Path) -> None:
    """No picture of this hospital, and no copy of one, taught or calibrated the gate."""
    pictures = [render_picture(p).pixels for p in sorted((shared_data / "hannover_covid" / "images").iterdir())[::3]]
    assert sum(not accepts(models, p) for p in pictures) <= 0.02 * len(pictures)
    torch.manual_seed(0)
    for name in ("mirrored", "turned_left", "turned_right", "upside_down", "inverted"):
        refused = sum(not accepts(models, turn(torch.from_numpy(p), name).numpy()) for p in pictures)
        assert refused >= 0.95 * len(pictures), name


@pytest.mark.shared
def test_hips_and_tibias_are_refused(models: Models, shared_data: Path) -> None:
    from pydicom import dcmread

    from models.rendering import render

    looked = 0
    for path in sorted((shared_data / "dicom").glob("RG*.dcm")):
        try:
            image = render(dcmread(path))
        except ImageRefused:
            continue
        looked += 1
        answer = models.look(image, children=False)
        assert answer is not None
        assert not answer.accepted, path.name
    assert looked >= 4

"""Bundles of finished runs: they load, answer as what was judged, and their cards say what made them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pytest
import torch
import toys
from conftest import Finished
from torch import nn

from models.boxes import boxes_of
from models.bundle import BundleInvalid, load_bundle
from models.contracts import BoxContract, ClassContract, MaskContract
from models.findings import FindingState, View
from models.forward import torch_forward
from models.inference import ImageIdentity, Models, assemble
from models.phantom import chest
from models.rendering import RenderedImage
from training import packaging
from training.judging.classification import columns
from training.judging.judgement import UNLABELLED, judge
from training.labels import Outputs
from training.packaging import PackagingRefused, check_packaging, export, package, shipped
from training.recipe import load_recipe, recipe_names
from training.run import Places, train
from training.tasks.retina import turned

Finish = Callable[[str], Finished]
RECIPES = [name for name in recipe_names() if load_recipe(name).task.kind not in UNLABELLED]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_becomes_a_bundle_that_loads(name: str, finished: Finish) -> None:
    run = finished(name)
    assert run.packaged.bundle == run.folder
    bundle = load_bundle(run.folder)
    assert bundle.identity.name == name
    assert bundle.contract.input_size == 64
    assert [f.key for f in bundle.contract.findings] == list(run.recipe.data.findings)
    kinds = {"masks": MaskContract, "boxes": BoxContract, "classes": ClassContract, "scores": NoneType}
    assert type(bundle.contract.reading) is kinds[bundle.contract.interpreter]
    output = torch_forward(bundle.network)(np.zeros((1, 1, 64, 64), np.float32))
    assert all(np.isfinite(values).all() for values in output.values())
    if bundle.contract.interpreter == "scores":
        assert len(output["logits"]) == len(output["maps"]) == len(bundle.contract.findings)
    stored = torch.load(run.folder / "models" / "model.pt", weights_only=True)
    assert all(v.dtype == torch.float16 for v in stored.values() if v.is_floating_point())


@pytest.mark.parametrize("name", RECIPES)
def test_a_card_says_what_made_the_model_and_what_it_is_not(name: str, finished: Finish) -> None:
    run = finished(name)
    text, page = ((run.folder / "docs" / file).read_text("utf-8") for file in ("README.md", "card.html"))
    told = json.loads((run.folder / "configs" / "metadata.json").read_text("utf-8"))
    provenance = told["hilum"]["provenance"]
    for said in (text, page):
        assert "not a medical device" in said
        assert run.recipe.digest in said
        assert f"./hilum train {name}" in said
        for table in run.judgement.tables[1:]:
            assert table.caption in said
    assert run.recipe.published is not None
    assert run.recipe.published.differences in text
    assert provenance["seed"] == 7
    assert len(provenance["data_sha256"]) == 64
    assert set(provenance["versions"]) == {"torch", "monai", "numpy"}
    assert provenance["half_precision_changes_probabilities_by"] < packaging.MOST_CHANGED
    assert any("random weights" in note for note in told["hilum"]["notes"])
    assert "Not a medical device" in told["intended_use"]
    assert set(run.recipe.evaluation.report) <= set(told["hilum"]["figures"])
    for picture in (run.folder / "docs").glob("*.png"):
        assert f"({picture.name})" in text
        assert f'src="{picture.name}"' in page
    assert str(run.folder.parent) not in text + page + json.dumps(told)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("siim_acr_unet_resnet34", {"masks": {"threshold": 1.5, "least_area": 3}}),
        ("covid19_detector", {"boxes": {"head": "heat"}}),
        ("covid19_study_resnet18", {"classes": {"temperature": 0.0}}),
    ],
)
def test_a_section_that_cannot_be_followed_makes_the_bundle_invalid(
    name: str, change: dict[str, Any], finished: Finish, tmp_path: Path
) -> None:
    shutil.copytree(finished(name).folder / "configs", tmp_path / name / "configs")
    shutil.copytree(finished(name).folder / "models", tmp_path / name / "models")
    path = tmp_path / name / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    before = load_bundle(tmp_path / name).identity.config_digest
    section = next(iter(change))
    content["hilum"][section] |= {"temperature": 9.0} if section == "classes" else {"least_area": 7, "limit": 3}
    content["hilum"][section] = {k: v for k, v in content["hilum"][section].items() if k in _FIELDS[section]}
    path.write_text(json.dumps(content))
    assert load_bundle(tmp_path / name).identity.config_digest != before
    content["hilum"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(BundleInvalid, match=name):
        load_bundle(tmp_path / name)


_FIELDS = {
    "masks": MaskContract.__dataclass_fields__, "boxes": BoxContract.__dataclass_fields__,
    "classes": ClassContract.__dataclass_fields__,
}  # fmt: skip


@pytest.mark.parametrize("name", ["nih_densenet121", "ai619_vit_s_dino", "chexpert_densenet121"])
def test_the_node_runs_a_bundle_of_findings(name: str, finished: Finish) -> None:
    bundle = load_bundle(finished(name).folder)
    image = RenderedImage(chest(1, rows=512, columns=480).pixels)
    identity = ImageIdentity("1.2.3", "1.2.3.4", "1.2.3.4.5", View.PA)
    found = Models((bundle,), (torch_forward(bundle.network),)).predict(image, identity)
    assert [(run.model.name, run.failure) for run in found.runs if run.model.name == name] == [(name, None)]
    ours = {f.key: f for f in found.findings if f.key in finished(name).recipe.data.findings}
    assert set(ours) == set(finished(name).recipe.data.findings)
    assert {f.model for f in ours.values()} == {name}
    # a network of one epoch on a dozen images carries nothing
    assert {(f.state, f.reason) for f in ours.values()} == {(FindingState.NOT_EVALUATED, "evidence")}


@pytest.mark.parametrize("name", ["radiographs_mae", "radiographs_dino"])
def test_weights_to_start_from_have_a_card_and_are_no_model(name: str, finished: Finish) -> None:
    run = finished(name)
    assert run.packaged.bundle is None
    assert "tell nothing about a radiograph" in (run.folder / "docs" / "README.md").read_text("utf-8")
    assert not (run.folder / "configs").exists()


def test_what_is_packaged_says_what_was_judged_mirrored_and_with_three_outputs_made_one(finished: Finish) -> None:
    run = finished("chexpert_densenet121")
    recipe = replace(run.recipe, evaluation=replace(run.recipe.evaluation, mirror=True))
    task: Any = run.trained.task
    pictures = torch.from_numpy(run.trained.pictures.values(task.material.val))
    with torch.inference_mode():
        before = task.module(pictures)["logits"], task.module(pictures.flip(-1))["logits"]
        judged = task.outputs.logits((before[0] + before[1]) / 2)
        network, definition = shipped(run.trained, recipe)
        ours = network(pictures)
    assert definition["_target_"] == "models.networks.Mirrored"
    assert ours["logits"].shape == judged.shape == (len(pictures), 14)
    assert torch.allclose(ours["logits"], judged, atol=1e-4)
    assert torch.allclose(ours["maps"].mean((2, 3)), judged, atol=1e-4)
    assert columns(Outputs.of(run.recipe.data)).shape == (14, 18)


def test_masks_of_a_mirrored_network_lie_as_the_picture_does(finished: Finish) -> None:
    run = finished("siim_acr_unet_resnet34")
    network, _ = shipped(run.trained, run.recipe)
    one, _ = shipped(run.trained, replace(run.recipe, evaluation=replace(run.recipe.evaluation, mirror=False)))
    picture = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        both = network(picture)
        wanted = (one(picture)["masks"] + one(picture.flip(-1))["masks"].flip(-1)) / 2
    assert torch.allclose(both["masks"], wanted, atol=1e-5)
    assert both["empty"].shape == (1, 1)


def test_boxes_of_a_packaged_retinanet_are_those_of_monai_s_detector(finished: Finish) -> None:
    run = finished("covid19_retinanet")
    task: Any = run.trained.task
    network, _ = shipped(run.trained, run.recipe)
    pictures = torch.from_numpy(run.trained.pictures.values(task.val))
    reading = replace(task.reading, least_score=0.0)
    task._retina.set_box_selector_parameters(score_thresh=0.0, nms_thresh=reading.overlap, detections_per_img=20)
    task._retina.training = False
    with torch.inference_mode():
        theirs = task._retina(pictures)
        ours = torch_forward(network)
        for i, told in enumerate(theirs):
            boxes = boxes_of(ours(pictures[i : i + 1].numpy()), reading)
            assert len(boxes) == len(told["labels_scores"]) == reading.limit
            assert np.allclose(boxes.scores, told["labels_scores"], atol=1e-5)
            assert np.allclose(boxes.corners, turned(told["boxes"]), atol=1e-3)
            judged = task.boxes(task.tell(pictures[i : i + 1]), 1)[0]
            assert len(judged) == (boxes.scores >= task.reading.least_score).sum()


def test_weights_that_half_precision_cannot_hold_are_refused(finished: Finish, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished("covid19_study_resnet18")
    network, _ = shipped(run.trained, run.recipe)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d) and part.bias is not None:
                part.bias += 3.0
    with pytest.raises(PackagingRefused, match="half precision changes a probability by"):
        packaging._ask_again(run.folder, network, run.trained)


def test_what_cannot_be_packaged_is_told_before_training() -> None:
    recipe = load_recipe("nih_densenet121")
    with pytest.raises(PackagingRefused, match="whole radiographs"):
        check_packaging(replace(recipe, picture=replace(recipe.picture, lungs="crop")))
    lungs = replace(load_recipe("siim_acr_unet_resnet34"), data=replace(recipe.data, findings=("lung_left",)))
    with pytest.raises(PackagingRefused, match="train lung_fields"):
        check_packaging(lungs)
    for name in recipe_names():
        check_packaging(load_recipe(name))


def test_an_efficientnet_of_monai_is_trained_and_packaged_and_the_node_runs_it(tmp_path: Path) -> None:
    network = {
        "_target_": "monai.networks.nets.EfficientNetBN", "model_name": "efficientnet-b0", "pretrained": False,
        "spatial_dims": 2, "in_channels": 1, "num_classes": 1,
    }  # fmt: skip
    recipe = toys.recipe(
        "classification", network=network, split={"official": False, "val": 0.25, "test": 0.25},
        schedule={"epochs": 1, "batch": 12},
    )  # fmt: skip
    trained = train(recipe, Places(tmp_path, tmp_path / "run"), data=toys.data_set(tmp_path / "toys"))
    judgement = judge(trained, recipe, 3)
    assert judgement.sanity is not None
    assert judgement.sanity.method == "grad_cam"
    package(trained, judgement, recipe, tmp_path / "toy", run=tmp_path / "run", command="./hilum train toy")
    bundle = load_bundle(tmp_path / "toy")
    identity = ImageIdentity("1.2.3", "1.2.3.4", "1.2.3.4.5", View.PA)
    told = assemble([bundle], threads=1).predict(RenderedImage(chest(1, rows=512, columns=480).pixels), identity)
    assert told.runs[0].failure is None
    assert {finding.model for finding in told.findings if finding.key == "mass"} == {"toy"}


def test_three_outputs_behind_a_smooth_maximum_cannot_be_made_one(finished: Finish) -> None:
    run = finished("nih_wang2017")
    network, definition = shipped(
        run.trained, replace(run.recipe, evaluation=replace(run.recipe.evaluation, mirror=False))
    )
    with pytest.raises(PackagingRefused, match="pooling"):
        packaging._folded(network, definition, np.ones((14, 18)))


@pytest.mark.parametrize("name", ["covid19_retinanet", "siim_acr_unet_resnet34"])
def test_a_packaged_network_can_be_exported(name: str, finished: Finish, tmp_path: Path) -> None:
    run = finished(name)
    network, _ = shipped(run.trained, run.recipe)
    told = export(network, tmp_path, 64, ["openvino"])
    assert "greatest difference" in told["openvino"]
    assert (tmp_path / "model.xml").exists()

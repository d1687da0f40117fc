"""The recipes that come with Hilum: each can be followed on its data set's own format; and what a wrong one is told."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toys
from samples import write_sample

from training import run
from training.data import DataMissing
from training.labels import Outputs
from training.readers.catalogue import READERS
from training.readers.records import DataSet
from training.recipe import FOLDER, DataPart, Recipe, load_recipe, parse_recipe, recipe_names
from training.run import Places, divide, read, train
from training.tables import RecipeInvalid
from training.tasks.common import build_network, load_start

PUBLISHED_SYSTEMS = {
    "nih_densenet121", "nih_wang2017", "ai619_vit_s_dino", "chexpert_densenet121", "siim_acr_unet_densenet121",
    "siim_acr_unet_resnet34", "covid19_study_resnet18", "covid19_detector",
}  # fmt: skip
# What makes a recipe's network small enough for a test, and nothing else of it.
SMALLER: dict[str, dict[str, Any]] = {
    "nih_densenet121": {"trunk": "resnet18"},
    "nih_wang2017": {"trunk": "resnet18", "transition": 16},
    "ai619_vit_s_dino": {"size": "tiny", "picture": 64},
    "chexpert_densenet121": {"trunk": "resnet18"},
    "siim_acr_unet_densenet121": {"encoder": "resnet34", "widths": [16, 8, 8, 8]},
    "siim_acr_unet_resnet34": {"widths": [16, 8, 8, 8]},
    "covid19_detector": {"trunk": "squeezenet", "width": 16},
    "radiographs_mae": {"size": "tiny", "picture": 64},
    "radiographs_dino": {"size": "tiny", "picture": 64},
}
SMALLER_TASK: dict[str, dict[str, Any]] = {
    "radiographs_mae": {"width": 32, "depth": 1, "heads": 2},
    "radiographs_dino": {"outputs": 64, "local_side": 32, "local_parts": 1},
    "covid19_retinanet": {"anchor": 8.0},
}


def small(name: str) -> Recipe:
    """A recipe for 64 px, one epoch and pairs of pictures."""
    recipe = load_recipe(name)
    network = {**recipe.network, **SMALLER.get(name, {})}
    if name == "covid19_retinanet":
        network["feature_extractor"] = {**network["feature_extractor"], "depth": 18, "width": 16}
    options = {**recipe.task.options, **SMALLER_TASK.get(name, {})}
    return replace(
        recipe,
        network=network,
        task=replace(recipe.task, options=options),
        picture=replace(recipe.picture, size=64),
        augmentation=replace(recipe.augmentation, crop=48 if recipe.augmentation.crop else 0),
        schedule=replace(recipe.schedule, epochs=1, batch=2),
        split=replace(recipe.split, val=0.25, test=0.15),
    )


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("downloads")
    return {name: write_sample(name, folder / name) for name in ("nih", "chexpert", "siim_acr", "covid19")}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_an_epoch_on_its_data_set(name: str, downloads: dict[str, Path], tmp_path: Path) -> None:
    recipe = small(name)
    done = train(recipe, Places(downloads[recipe.data.set], tmp_path / "run"))
    figures = done.outcome.history[0]
    assert math.isfinite(figures["train_loss"])
    assert set(figures) >= set(done.task.figures)
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert said["recipe"]["name"] == name
    assert said["recipe_sha256"] == recipe.digest
    assert len(said["data_sha256"]) == 64
    assert said["records"]["train"] > 0
    assert any("random weights" in note for note in said["notes"])
    chosen = {r.patient for r in done.pictures.records}
    assert not chosen & {r.patient for r in done.test}


# Readers without a recipe of ours: one that fits, and what it is to find there.
OTHERS = {
    "rsna": ("covid19_detector", ("lung_opacity",), {}),
    "masks": ("siim_acr_unet_resnet34", ("lung_right", "lung_left"), {"outputs": 2}),
    "plain": ("nih_densenet121", ("pneumothorax",), {"outputs": 1}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_reader_trains_an_epoch_as_well(name: str, tmp_path: Path) -> None:
    like, findings, network = OTHERS[name]
    recipe = small(like)
    recipe = replace(
        recipe,
        data=DataPart(name, findings),
        network={**recipe.network, **network},
        split=replace(recipe.split, official=False, val=0.3, test=0.1),
        evaluation=replace(recipe.evaluation, watch="loss"),
    )
    done = train(recipe, Places(write_sample(name, tmp_path / name), tmp_path / "run"))
    assert math.isfinite(done.outcome.history[0]["train_loss"])


def test_every_reader_is_trained_by_one_of_these_tests() -> None:
    assert {load_recipe(recipe).data.set for recipe in recipe_names()} | set(OTHERS) == set(READERS)


def test_all_published_systems_have_a_recipe_with_their_figures_and_source() -> None:
    assert set(recipe_names()) >= PUBLISHED_SYSTEMS
    for name in recipe_names():
        published = load_recipe(name).published
        assert published is not None, name
        assert published.source, name
        assert published.differences, name
    assert all(load_recipe(n).published.figures for n in PUBLISHED_SYSTEMS - {"ai619_vit_s_dino"})  # type: ignore[union-attr]


@pytest.mark.parametrize("name", recipe_names())
def test_the_network_of_a_recipe_has_as_many_outputs_as_its_findings_need(name: str) -> None:
    recipe = load_recipe(name)
    count = {**recipe.network}.get("outputs", recipe.network.get("classes", recipe.network.get("num_classes")))
    if recipe.task.kind == "classification":
        assert count == Outputs.of(recipe.data).count
    elif recipe.task.kind not in ("mae", "dino"):
        assert count == len(recipe.data.findings)
    if recipe.start.into:
        build_network(recipe.network, 0).get_submodule(recipe.start.into)


def test_a_recipe_says_what_it_starts_from_and_a_missing_file_is_told(tmp_path: Path) -> None:
    recipe = small("covid19_study_resnet18")
    with pytest.raises(DataMissing, match=r"resnet18-f37072fd\.pth is not there"):
        load_start(build_network(recipe.network, 0), recipe.start, tmp_path)


def table(**parts: Any) -> dict[str, Any]:
    made = tomllib.loads((FOLDER / "siim_acr_unet_resnet34.toml").read_text("utf-8"))
    for name, part in parts.items():
        made[name] = made.get(name, {}) | part if isinstance(part, dict) else part
    return made


def test_the_recipe_that_is_broken_below_is_in_order() -> None:
    assert parse_recipe(table()).loss.options == {"bce_weight": 2.7, "dice_weight": 0.9}


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"colour": "blue"}, "the recipe has no key 'colour'; it has name, about, data"),
        ({"loss": {"gamma": 2.0}}, r"\[loss\] has no key 'gamma'; it has bce_weight, dice_weight"),
        ({"loss": {"kind": "hinge"}}, r"\[loss\] kind is 'hinge'; known are dice, bce_dice, lovasz_hinge, bce_lovasz"),
        ({"data": {"set": "mimic"}}, r"\[data\] set is 'mimic'; known are nih, chexpert, siim_acr"),
        ({"data": {"options": {"speed": 1}}}, r"\[data.options\] has no key 'speed'"),
        ({"data": {"uncertain": {"pneumothorax": "maybe"}}}, "pneumothorax is 'maybe'; known are ones, zeros, ignore"),
        ({"data": {"findings": "pneumothorax"}}, "findings is no list"),
        ({"schedule": {"epochs": 2.5}}, "epochs is 2.5, expected a whole number"),
        ({"schedule": {"epochs": True}}, "epochs is True, expected a whole number"),
        ({"schedule": {"epochs": 0}}, r"\[schedule\] epochs is 0; it lies between 1 and"),
        ({"schedule": {"shape": "triangle"}}, "known are constant, cosine, one_cycle, plateau"),
        ({"picture": {"lungs": "left"}}, "known are whole, crop, mask"),
        ({"sampler": {"kind": "shuffled"}}, r"\[sampler\] has no key 'first'; it has none"),
        ({"task": {"kind": "report"}}, r"\[task\] kind is 'report'"),
        ({"task": {"threshold": "high"}}, "threshold is 'high', expected a number"),
        ({"evaluation": {"watch": "ap50"}}, r"\[evaluation\] watch is 'ap50'; known are dice, loss"),
        ({"evaluation": {"report": ["beauty"]}}, "report is 'beauty'; known are auroc"),
        ({"augmentation": {"mixup": 0.2}}, "mixup has a meaning for classification and appearance alone"),
        ({"network": {"encoder": "$__import__('os')"}}, "may hold no expression"),
        ({"network": {"_target_": "os.system"}}, "_target_ is os.system; networks come from monai.networks."),
        ({"published": {"figures": {}, "source": 3}}, "source is 3, expected a text"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_told_where_and_what_is_known(parts: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeInvalid, match=told):
        parse_recipe(table(**parts))


def test_a_part_that_is_missing_is_named() -> None:
    made = table()
    del made["schedule"]["rate"]
    with pytest.raises(RecipeInvalid, match=r"\[schedule\] lacks rate"):
        parse_recipe(made)


def test_the_file_is_named_and_an_unknown_recipe_tells_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = 'x'\nwhat = 1\n")
    with pytest.raises(RecipeInvalid, match=r"mine\.toml: the recipe has no key 'what'"):
        load_recipe(path)
    path.write_text("name = ")
    with pytest.raises(RecipeInvalid, match=r"mine\.toml: no TOML"):
        load_recipe(path)
    with pytest.raises(RecipeInvalid, match=r"there is no recipe nihh.*nih_densenet121"):
        load_recipe("nihh")


def test_a_network_that_cannot_be_built_is_told() -> None:
    with pytest.raises(RecipeInvalid, match=r"EncoderUNet cannot be built: encoder 'vgg' is none of"):
        build_network({"_target_": "models.networks.EncoderUNet", "encoder": "vgg"}, 0)


def test_the_digest_follows_what_decides_on_the_run() -> None:
    first = parse_recipe(table())
    assert parse_recipe(table(name="other", about="else")).digest == first.digest
    assert parse_recipe(table(schedule={"rate": 2e-4})).digest != first.digest


def test_views_and_official_splits_are_those_of_the_recipe(downloads: dict[str, Path]) -> None:
    recipe = load_recipe("chexpert_densenet121")
    data = read(recipe, downloads["chexpert"])
    assert {r.view for r in data.records} <= {"PA", "AP"}
    parts = divide(data, recipe, 0)
    assert {r.split for r in parts["val"]} == {"val"}
    dealt = divide(data, replace(recipe, split=replace(recipe.split, official=False, val=0.3)), 0)
    assert {r.image for r in dealt["val"]} != {r.image for r in parts["val"]}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="nowhere is not there"):
        read(load_recipe("nih_densenet121"), tmp_path / "nowhere")


def test_a_run_without_anyone_to_choose_by_does_not_begin(tmp_path: Path) -> None:
    data = toys.data_set(tmp_path / "toys", count=4)
    alone = DataSet("plain", tuple(replace(r, split="train") for r in data.records), data.findings)
    recipe = toys.recipe("classification", split={"val": 0.0, "test": 0.0})
    with pytest.raises(run.TrainingStopped, match="0 to choose by"):
        train(recipe, Places(tmp_path, tmp_path / "run"), data=alone)

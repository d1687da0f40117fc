"""Every task on toys: it learns, it resumes to the bit, and its parts do what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from toys import same

from models.networks import HeatDetector, VisionTransformer, decode
from training.augmentation import Augmentation, augment
from training.labels import Outputs, label_matrix, settle
from training.readers.records import UNCERTAIN, DataSet, Record
from training.recipe import DataPart
from training.run import Places, Trained, train
from training.sampling import OVERSAMPLING_NOTE
from training.tasks.appearance import mix_studies, pool
from training.tasks.boxes import centre_maps, move_boxes
from training.tasks.common import build_network, freeze_norms, load_start
from training.tasks.mae import patches_of
from training.tasks.segmentation import random_crop
from training.tasks.views import random_parts

# Epochs and rates with which the tiny networks learn the toys.
ENOUGH = {
    "classification": (12, 1e-2), "segmentation": (12, 1e-2), "detection": (8, 2e-3), "appearance": (12, 1e-2),
    "mae": (4, 1e-3), "dino": (3, 3e-4),
}  # fmt: skip
RETINA: dict[str, Any] = {
    "network": {
        "_target_": "monai.apps.detection.networks.retinanet_network.RetinaNet", "spatial_dims": 2, "num_classes": 1,
        "num_anchors": 3, "size_divisible": 32,
        "feature_extractor": {"_target_": "models.networks.PyramidFeatures", "depth": 18, "width": 16},
    },
    "task": {"head": "retina", "anchor": 12.0, "levels": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return toys.data_set(tmp_path_factory.mktemp("toys"))


def follow(kind: str, given: DataSet, folder: Path, *, until: int | None = None, **parts: Any) -> Trained:
    return train(toys.recipe(kind, **parts), Places(folder, folder / "run"), data=given, resume=True, until=until)


@pytest.mark.parametrize("kind", sorted(ENOUGH))
def test_every_task_learns_the_toys(kind: str, data: DataSet, tmp_path: Path) -> None:
    epochs, rate = ENOUGH[kind]
    done = follow(kind, data, tmp_path, schedule={"epochs": epochs, "rate": rate, "average": 0.5})
    history = done.outcome.history
    falls = 0.95 if kind in ("mae", "dino") else 0.8
    assert history[-1]["train_loss"] < falls * history[0]["train_loss"]
    if kind != "dino":  # whose loss compares networks that both change
        # of the few toys on which is validated; the last epoch need not be the best of them
        assert min(one["loss"] for one in history[1:]) < history[0]["loss"]
    shipped = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    assert same(shipped, done.task.shipped.state_dict())
    if kind in ("mae", "dino"):
        VisionTransformer("tiny", channels=1, picture=64).load_state_dict(shipped)


@pytest.mark.parametrize("kind", sorted(ENOUGH))
def test_every_task_resumes_to_the_bit(kind: str, data: DataSet, tmp_path: Path) -> None:
    parts = {} if kind in ("mae", "dino") else {"sampler": {"kind": "oversampled"}}
    whole = follow(kind, data, tmp_path / "whole", **parts)
    follow(kind, data, tmp_path / "parts", until=1, **parts)
    resumed = follow(kind, data, tmp_path / "parts", **parts)
    assert resumed.outcome == whole.outcome
    assert same(whole.task.module.state_dict(), resumed.task.module.state_dict())


@pytest.mark.parametrize("kind", sorted(ENOUGH))
def test_a_step_in_half_precision_hardly_differs(kind: str, data: DataSet, tmp_path: Path) -> None:
    task = follow(kind, data, tmp_path, until=1, schedule={"epochs": 1}).task
    task.set_training()
    batch, losses = task.load(task.order(0, np.random.default_rng(0))[:4]), []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(task.losses(batch, torch.device("cpu"))["loss"])
    assert losses[1].dtype == torch.float32
    losses[1].backward()  # type: ignore[no-untyped-call]
    # a teacher's temperature of 0.04 magnifies what rounding leaves
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.15 if kind == "dino" else 0.05)


def test_the_networks_of_monai_detect_as_well(data: DataSet, tmp_path: Path) -> None:
    done = follow("detection", data, tmp_path, **RETINA)
    first, last = done.outcome.history
    assert last["train_loss"] < first["train_loss"]
    assert set(last) >= {"train_classification", "train_box_regression", "ap50"}


def test_a_network_with_deep_levels_and_an_empty_head_learns_all_of_them(data: DataSet, tmp_path: Path) -> None:
    network = {"_target_": "models.networks.EncoderUNet", "encoder": "resnet34", "widths": [16, 8, 8, 8],
               "deep_supervision": True, "empty_head": True}  # fmt: skip
    table = {
        "network": network, "loss": {"kind": "bce_lovasz"}, "augmentation": {"crop": 48, "elastic": 0.01},
        "start": {"frozen_norms": ["encoder"]}, "sampler": {"kind": "falling_share"}, "schedule": {"epochs": 1},
        "task": {"empty_threshold": 0.4, "least_area": 10}, "evaluation": {"mirror": True},
    }  # fmt: skip
    recipe = toys.recipe("segmentation", **table)
    network_before = build_network(recipe.network, 7).state_dict()
    done = train(recipe, Places(tmp_path, tmp_path / "run"), data=data)
    assert done.outcome.history[0]["train_empty"] > 0
    after = done.task.module.state_dict()
    frozen = [k for k in after if "bn" in k and k.startswith("encoder.")]
    assert frozen
    assert same({k: network_before[k] for k in frozen}, {k: after[k] for k in frozen})
    assert not torch.equal(after["empty.weight"], network_before["empty.weight"])


def test_oversampling_is_told_on_the_card(data: DataSet, tmp_path: Path) -> None:
    done = follow("classification", data, tmp_path, until=1, sampler={"kind": "oversampled"})
    assert OVERSAMPLING_NOTE in done.task.notes
    assert "miscalibrat" in OVERSAMPLING_NOTE or "no probabilities" in OVERSAMPLING_NOTE


@pytest.mark.parametrize("kind", ["weighted_bce", "weighted_bce_batch", "focal", "asymmetric", "distilled"])
def test_every_label_loss_trains(kind: str, data: DataSet, tmp_path: Path) -> None:
    soft = tuple(replace(r, soft={"mass": 0.9 * r.labels["mass"] + 0.05}) for r in data.records)
    done = follow("classification", replace(data, records=soft), tmp_path, loss={"kind": kind},
                  augmentation={"mixup": 0.4}, schedule={"epochs": 1}, evaluation={"mirror": True})  # fmt: skip
    assert math.isfinite(done.outcome.history[0]["train_loss"])


def test_three_outputs_make_one_logit_where_uncertain_is_a_class(data: DataSet, tmp_path: Path) -> None:
    doubtful = tuple(
        replace(r, labels={**r.labels, "edema": UNCERTAIN if i % 3 == 1 else r.labels["edema"]})
        for i, r in enumerate(data.records)
    )
    part = {"findings": ["mass", "edema"], "uncertain": {"edema": "multiclass"}}
    network = {"out_channels": 4}
    done = follow("classification", replace(data, records=doubtful), tmp_path, data=part, network=network, until=1)
    assert done.outcome.history[0]["train_loss"] > 0
    outputs = Outputs((False, True))
    assert outputs.count == 4
    logits = outputs.logits(torch.tensor([[0.5, 1.0, 2.0, 3.0]]))
    assert logits.tolist() == [[0.5, 2.0]]


def test_labels_become_what_the_recipe_makes_of_them() -> None:
    records = tuple(
        Record(Path(f"{i}.png"), f"p{i}", f"s{i}", "x", labels=labels)
        for i, labels in enumerate([{"mass": 1.0, "edema": UNCERTAIN}, {"mass": UNCERTAIN, "nodule": 0.0}, {}])
    )
    data = DataSet("plain", records, ("mass", "nodule", "edema"))
    part = DataPart("plain", ("mass", "nodule", "edema", "both"), uncertain={"mass": "ones", "edema": "multiclass"},
                    unmentioned="ignore", merged={"both": ("mass", "nodule")})  # fmt: skip
    matrix = label_matrix(settle(data, part, 0).records, part)
    nan = math.nan
    expected = [[1, nan, -1, 1], [1, 0, nan, 1], [nan, nan, nan, nan]]
    assert np.array_equal(matrix, np.array(expected, np.float32), equal_nan=True)
    part = replace(part, uncertain={"mass": "ignore", "edema": "smooth_ones"}, unmentioned="zeros")
    matrix = label_matrix(settle(data, part, 0).records, part)
    assert 0.55 <= matrix[0, 2] <= 0.85
    matrix[0, 2] = 0.7
    expected = [[1, 0, 0.7, 1], [nan, 0, 0, nan], [0, 0, 0, 0]]
    assert np.array_equal(matrix, np.array(expected, np.float32), equal_nan=True)


def test_attention_weighs_images_and_one_image_is_its_own_study() -> None:
    outputs = torch.tensor([[1.0, 0.0, 0.0], [3.0, 2.0, math.log(3)], [5.0, 7.0, -4.0]])
    study = torch.tensor([0, 0, 1])
    assert pool(outputs[:, :2], study, 2, 2).tolist() == [[2.0, 1.0], [5.0, 7.0]]
    weighted = pool(outputs, study, 2, 2)
    assert torch.allclose(weighted, torch.tensor([[0.25 * 1 + 0.75 * 3, 0.75 * 2], [5.0, 7.0]]))


def test_studies_are_mixed_as_wholes() -> None:
    torch.manual_seed(0)
    pictures = torch.arange(3.0).reshape(3, 1, 1, 1)
    mixed, targets = mix_studies(pictures, torch.tensor([0, 0, 1]), torch.eye(2), 0.4)
    share = targets[0, 0].item()
    if torch.equal(mixed, pictures):
        assert share == 1.0
    else:
        assert mixed.flatten()[:2].tolist() == pytest.approx([(1 - share) * 2, share + (1 - share) * 2])
    assert torch.allclose(targets.sum(1), torch.ones(2))


@pytest.mark.parametrize("seed", range(4))
def test_boxes_move_with_their_pictures(seed: int) -> None:
    torch.manual_seed(seed)
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 30:50, 40:70] = 1
    how = Augmentation(degrees=0.0, log_scale=0.3, shift=0.1, flip=0.5, border=0.0)
    _, moved, matrix = augment(mask.clone(), mask.clone(), how)
    box, kept = move_boxes(torch.tensor([[40.0, 30.0, 70.0, 50.0]]), matrix[0], 96)
    rows, columns = torch.nonzero(moved[0, 0] > 0.5, as_tuple=True)
    seen = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
    assert kept.all()
    assert (box[0] - seen).abs().max() < 1.5


def test_a_box_of_which_little_is_left_is_gone() -> None:
    shift = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.0]])
    boxes, kept = move_boxes(torch.tensor([[0.0, 20.0, 50.0, 40.0], [60.0, 20.0, 90.0, 40.0]]), shift, 96)
    assert kept.tolist() == [False, True]
    assert boxes[1].tolist() == pytest.approx([16.8, 20.0, 46.8, 40.0])


def test_what_centre_maps_say_is_decoded_to_the_same_boxes() -> None:
    boxes = [[torch.tensor([[10.0, 20.0, 42.0, 60.0], [70.5, 66.0, 90.0, 80.25]])], [torch.zeros(0, 4)]]
    maps = centre_maps(boxes, 96, 12)
    told = {"heat": torch.logit(maps["heat"].clamp(1e-6, 1 - 1e-6)), "size": maps["size"],
            "offset": torch.logit(maps["offset"].clamp(1e-6, 1 - 1e-6))}  # fmt: skip
    first, second = decode(told, threshold=0.9)
    corners = torch.cat((first.boxes[:, :2], first.boxes[:, :2] + first.boxes[:, 2:]), 1)
    assert torch.allclose(corners[corners[:, 0].argsort()], boxes[0][0], atol=1e-2)
    assert len(second.boxes) == 0
    assert maps["centres"].sum() == 2
    shapes = {k: v.shape for k, v in HeatDetector(trunk="squeezenet")(torch.zeros(2, 1, 96, 96)).items()}
    assert shapes == {k: maps[k].shape for k in shapes}


def test_patches_and_parts_are_those_of_the_picture() -> None:
    picture = torch.arange(64.0).reshape(1, 1, 8, 8)
    patches = patches_of(picture, 4)
    assert patches[0, 1].tolist() == picture[0, 0, :4, 4:].flatten().tolist()
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).reshape(1, 1, 1, 64).expand(40, 1, 64, 64)
    parts = random_parts(ramp, 32, 0.1, 0.2)
    width = (parts[:, 0, 0, -1] - parts[:, 0, 0, 0]).abs()
    assert parts.shape == (40, 1, 32, 32)
    assert ((width > 0.2) & (width < 0.55)).all()
    assert torch.equal(*random_crop(ramp, ramp, 16))


def test_weights_to_start_from_fit_by_name_and_shape(tmp_path: Path) -> None:
    network = build_network(toys.NETWORKS["classification"], 0)
    colours = build_network(toys.NETWORKS["classification"] | {"in_channels": 3, "out_channels": 9}, 1)
    torch.save({f"module.{k}": v for k, v in colours.state_dict().items()}, tmp_path / "start.pth")
    start = replace(toys.recipe("classification").start, weights="start.pth", prefix="module.")
    note = load_start(network, start, tmp_path)
    assert "without class_layers.out" in note
    mine, theirs = network.state_dict(), colours.state_dict()
    assert torch.equal(mine["features.conv0.weight"], theirs["features.conv0.weight"].sum(1, keepdim=True))
    assert torch.equal(mine["features.norm5.weight"], theirs["features.norm5.weight"])
    assert load_start(network, start, None) == "Started from random weights, not from start.pth."
    with pytest.raises(ValueError, match=r"nothing in start\.pth fits"):
        load_start(network, replace(start, prefix=""), tmp_path)


def test_frozen_norms_are_those_named() -> None:
    network = build_network(toys.NETWORKS["segmentation"], 0).train()
    freeze_norms(network, ())
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.training for m in norms)
    freeze_norms(network, ("model",))
    assert not any(m.training or m.weight.requires_grad for m in norms)

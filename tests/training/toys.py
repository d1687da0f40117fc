"""Toy radiographs with something on them that can be learnt in seconds: a bright disc on a computed chest."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from models.phantom import chest
from training.pictures import PictureOptions, Pictures, prepare
from training.readers.records import Box, DataSet, Record
from training.readers.run_lengths import encode
from training.recipe import Recipe, parse_recipe

SIDE = 128  # pixels of the files
CLASSES = ("covid_negative", "covid_typical", "covid_indeterminate", "covid_atypical")


@functools.cache
def base() -> npt.NDArray[np.float32]:
    """A chest, as small as a file may be."""
    image = Image.fromarray((chest(3, rows=512, columns=512).pixels * 255).astype(np.uint8))
    return np.asarray(image.resize((SIDE, SIDE)), np.float32) / 255


def data_set(folder: Path, count: int = 24, seed: int = 0) -> DataSet:
    """`count` patients, every other with a disc; labels, boxes, masks and a class of the study say so."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    down, across = np.mgrid[:SIDE, :SIDE]
    records = []
    for i in range(count):
        there = i % 2 == 1
        x, y, radius = rng.integers(30, 98), rng.integers(30, 98), rng.integers(14, 20)
        disc = ((across + 0.5 - x) ** 2 + (down + 0.5 - y) ** 2 <= radius**2) & there
        pixels = np.where(disc, 1.0, 0.55 * base()) + rng.normal(0, 0.02, (SIDE, SIDE))
        path = folder / f"{i:03d}.png"
        Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(path)
        box = (Box(float(x - radius), float(y - radius), 2.0 * radius, 2.0 * radius),) if there else ()
        shown = CLASSES[1 if there else 0]
        records.append(
            Record(
                path, f"patient{i}", f"study{i}", "toy", view="PA",
                labels={"mass": float(there), "edema": float(i % 3 == 0), **{c: float(c == shown) for c in CLASSES}},
                boxes={"mass": box}, masks={"mass": (encode(disc),) if there else ()},
                split="val" if i % 4 in (2, 3) else "train", row=f"toy.csv, row {i + 2}",
            )
        )  # fmt: skip
    return DataSet("plain", tuple(records), ("mass", "edema", *CLASSES))


def pictures(data: DataSet, *, masks: tuple[str, ...] = (), size: int = 64) -> Pictures:
    """The toys, rendered."""
    return prepare(data.records, PictureOptions(size), masks=masks)


NETWORKS: dict[str, dict[str, Any]] = {
    "classification": {
        "_target_": "monai.networks.nets.DenseNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 1,
        "init_features": 8, "growth_rate": 4, "block_config": [2, 2, 2], "bn_size": 2,
    },
    "segmentation": {
        "_target_": "monai.networks.nets.UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 1,
        "channels": [8, 16, 16], "strides": [2, 2], "norm": "batch",
    },
    "detection": {"_target_": "models.networks.HeatDetector", "classes": 1, "trunk": "squeezenet", "width": 16},
    "mae": {"_target_": "models.networks.VisionTransformer", "size": "tiny", "patch": 16, "channels": 1, "picture": 64},
}  # fmt: skip
NETWORKS["appearance"] = NETWORKS["classification"] | {"out_channels": 4}
NETWORKS["dino"] = NETWORKS["mae"]
LOSSES = {
    "classification": {"kind": "bce"},
    "segmentation": {"kind": "bce_dice"},
    "appearance": {"kind": "cross_entropy"},
}
WATCHED = {"classification": "auroc", "segmentation": "dice", "detection": "ap50", "appearance": "accuracy"}
OPTIONS: dict[str, dict[str, Any]] = {
    "mae": {"width": 32, "depth": 1, "heads": 2},
    "dino": {"outputs": 64, "hidden": 64, "bottleneck": 32, "local_parts": 2, "local_side": 32},
}


def recipe(kind: str, **parts: Any) -> Recipe:
    """A recipe that trains a tiny network on the toys; `parts` replace or extend its tables."""
    table: dict[str, Any] = {
        "name": f"toy_{kind}",
        "about": "A disc",
        "data": {"set": "plain", "findings": list(CLASSES) if kind == "appearance" else ["mass"]},
        "split": {"val": 0.1, "test": 0.0},
        "picture": {"size": 64},
        "network": NETWORKS[kind],
        "task": {"kind": kind, **OPTIONS.get(kind, {})},
        "augmentation": {"degrees": 5.0, "log_scale": 0.05, "shift": 0.05, "border": 0.0, "noise": 0.02},
        "schedule": {"epochs": 2, "batch": 6, "rate": 3e-3, "shape": "constant", "average": 0.9},
        "evaluation": {"watch": WATCHED.get(kind, "loss")},
    }
    if kind in LOSSES:
        table["loss"] = LOSSES[kind]
    if kind in ("mae", "dino"):
        table["data"] = {"set": "plain"}
    for name, part in parts.items():
        whole = "_target_" in part or "kind" in part
        table[name] = part if whole else table.get(name, {}) | part
    return parse_recipe(table)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two states are the same to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)

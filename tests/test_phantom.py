"""Computed radiographs: their physics, their truth, and that a network trained on real ones finds their lungs."""

from __future__ import annotations

import numpy as np
import pytest

from models.bundle import load_bundle
from models.findings import View
from models.forward import torch_forward
from models.phantom import Pathology, chest
from models.rendering import RenderedImage, network_input
from models.structures import interpret
from orthanc_plugin.settings import REPOSITORY


def test_the_same_seed_gives_the_same_patient_and_another_seed_another() -> None:
    assert np.array_equal(chest(5).pixels, chest(5).pixels)
    assert not np.array_equal(chest(5).pixels, chest(6).pixels)


def test_any_size_can_be_computed() -> None:
    phantom = chest(1, rows=300, columns=250)
    assert phantom.pixels.shape == (300, 250)
    assert all(mask.shape == (300, 250) for mask in phantom.masks.values())
    assert 0 <= phantom.pixels.min() < phantom.pixels.max() <= 1


def test_air_is_dark_and_the_heart_is_bright() -> None:
    phantom = chest(2)
    lungs = phantom.masks["lung_right"] | phantom.masks["lung_left"]
    heart = phantom.masks["heart"]
    assert phantom.pixels[lungs & ~heart].mean() < phantom.pixels[heart].mean() - 0.1


def test_right_is_the_patient_s_right() -> None:
    phantom = chest(3, pathologies=[Pathology("pneumothorax", right=True, size=0.8)])
    columns = {key: np.flatnonzero(mask.any(0)).mean() for key, mask in phantom.masks.items()}
    assert columns["lung_right"] < columns["lung_left"]
    assert columns["pneumothorax"] < 512
    assert not (phantom.masks["lung_right"] & phantom.masks["lung_left"]).any()


@pytest.mark.parametrize(("kind", "darker"), [("pneumothorax", True), ("lung_opacity", False), ("effusion", False)])
def test_a_pathology_changes_its_own_place_as_physics_asks(kind: str, darker: bool) -> None:
    healthy, ill = chest(4), chest(4, pathologies=[Pathology(kind, right=True, size=0.7)])
    place = ill.masks[kind]
    assert place.any()
    assert (ill.pixels[place].mean() < healthy.pixels[place].mean()) == darker
    assert not place[:, 512 + 40 :].any()


def test_a_large_heart_has_a_large_ratio() -> None:
    assert chest(4, heart=1.45).cardiothoracic_ratio > chest(4).cardiothoracic_ratio + 0.08


def test_a_network_trained_on_real_radiographs_finds_its_lungs() -> None:
    bundle = load_bundle(REPOSITORY / "models" / "lung_fields")
    forward, dice = torch_forward(bundle.network), []
    for seed in range(12):
        phantom = chest(seed)
        picture, frame = network_input(RenderedImage(phantom.pixels), bundle.contract.input_size)
        scores = 1 / (1 + np.exp(-forward(picture[None, None])["logits"]))
        segments, _ = interpret(scores, frame, bundle.contract.segments, View.PA, "lung_fields")
        found = {s.key: s.mask for s in segments}
        ours, truth = (m["lung_right"] | m["lung_left"] for m in (found, phantom.masks))
        dice.append(2 * (ours & truth).sum() / (ours.sum() + truth.sum()))
    assert min(dice) >= 0.9, dice

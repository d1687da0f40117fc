"""The parts of training that decide whether its figures can be believed: splits, masks, losses, wrong pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.plausibility import FEATURES
from models.rendering import RenderedImage, network_input
from orthanc_plugin.settings import REPOSITORY
from training.augmentation import Augmentation, augment
from training.averaging import MovingAverage
from training.data import data_digest, network_mask, read_structures, split_patients, split_sides
from training.lung_evidence import Outliner, TrainingFailed, fit_plausibility
from training.lung_fields import segmentation_loss
from training.metrics.intervals import mean_interval
from training.metrics.overlap import dice
from training.negatives import KINDS, spoil, spoil_as


def test_a_patient_never_changes_folds_when_others_join() -> None:
    before = split_patients([str(i) for i in range(100)], 5, seed=7)
    after = split_patients([str(i) for i in range(300)], 5, seed=7)
    assert all(after[patient] == fold for patient, fold in before.items())
    assert set(after.values()) == set(range(5))
    assert before != split_patients([str(i) for i in range(100)], 5, seed=8)


def test_the_lung_on_the_left_of_the_picture_is_the_patient_s_right() -> None:
    lungs = np.zeros((50, 60), np.bool_)
    lungs[10:40, 5:20], lungs[10:40, 35:55], lungs[0:2, 58:60] = True, True, True
    right, left = split_sides(lungs)
    assert np.flatnonzero(right.any(0)).max() == 19
    assert np.flatnonzero(left.any(0)).min() == 35
    assert not left[0, 59]
    with pytest.raises(ValueError, match="one connected part"):
        split_sides(np.ones((50, 60), np.bool_))


def test_a_mask_lies_over_the_picture_as_the_network_sees_it(tmp_path: Path) -> None:
    mask = np.zeros((300, 600), np.uint8)
    mask[100:200, 300:500] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture, frame = network_input(RenderedImage((mask / 255).astype(np.float32)), 256)
    assert dice(network_mask(tmp_path / "mask.png", frame), picture > 0.5) > 0.99


def test_a_structure_that_nobody_drew_teaches_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 16, 16, requires_grad=True)
    drawn = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    segmentation_loss(logits, torch.ones(2, 3, 16, 16), drawn).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad[0, 2].any()
    assert logits.grad[1, 2].any()


def test_picture_and_mask_are_moved_alike() -> None:
    torch.manual_seed(0)
    square = torch.zeros(16, 1, 64, 64)
    square[:, :, 20:44, 24:40] = 1.0
    still_toned = Augmentation(
        degrees=20, log_scale=0.2, shift=0.1, log_gamma=0, contrast=0, brightness=0, noise=0, border=0
    )
    pictures, masks, _ = augment(square, square, still_toned)
    assert not torch.equal(masks, square)
    for picture, mask in zip(pictures, masks, strict=True):
        assert dice((picture > 0.6).numpy(), (mask > 0.6).numpy()) > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_picture_has_the_form_of_a_right_one_but_another_content(kind: str) -> None:
    torch.manual_seed(0)
    upright = torch.linspace(0, 1, 128)[:, None].expand(128, 128) * torch.linspace(0.2, 1, 128)
    wrong = spoil_as(upright, kind)
    assert wrong.shape == upright.shape
    assert 0 <= float(wrong.min()) <= float(wrong.max()) <= 1
    assert torch.isfinite(wrong).all()
    assert (wrong - upright).abs().mean() > 0.03


def test_wrong_pictures_repeat_with_the_seed() -> None:
    chests = torch.rand(12, 1, 64, 64)
    torch.manual_seed(5)
    first = spoil(chests)
    torch.manual_seed(5)
    assert torch.equal(first, spoil(chests))


def test_the_average_of_weights_forgets_its_start() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 100.0)
    average = MovingAverage(network, 0.9)
    torch.nn.init.constant_(network.weight, 1.0)
    for _ in range(200):
        average.update()
    assert float(average.state["weight"]) == pytest.approx(1.0, abs=0.01)


def test_an_interval_is_wider_when_few_patients_gave_many_images() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 10)
    alone = mean_interval(values, [str(i) for i in range(100)])
    together = mean_interval(values, [str(i // 10) for i in range(100)])
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_the_digest_of_the_data_changes_with_a_byte_and_not_with_the_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(b"one")
    first, second = data_digest([tmp_path / "a/x.png"]), data_digest([tmp_path / "b/x.png"])
    assert first == second
    (tmp_path / "b" / "x.png").write_bytes(b"two")
    assert data_digest([tmp_path / "b/x.png"]) != first


def test_a_network_that_outlines_no_lungs_is_not_shipped() -> None:
    class Blank(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((1, 3, *x.shape[-2:]), -5.0)

    pictures = list(np.zeros((len(FEATURES), 64, 64), np.float32))
    with pytest.raises(TrainingFailed, match="more epochs"):
        fit_plausibility(Outliner(Blank()), pictures)


def test_missing_data_is_named_by_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", "lung_fields", "--data", str(tmp_path), "--out", str(tmp_path / "b")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 1
    assert "masks.csv is not there" in done.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.shared
def test_the_same_picture_in_two_folders_is_one_record_of_one_patient(shared_data: Path) -> None:
    records = read_structures(shared_data)
    names = [record.image.name for record in records]
    assert len(names) == len(set(names)) == 383
    assert sum("lung_fields" in record.masks for record in records) == 345
    assert sum("heart" in record.masks for record in records) == 83

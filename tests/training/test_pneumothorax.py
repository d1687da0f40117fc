"""Drawn pneumothoraces, and the network that learns from them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.findings import BoolMask
from models.networks import LiteUNet
from models.phantom import chest
from models.resampling import resize
from training.data import FindingRecord
from training.pneumothorax import KEY, VIEWS, Lessons, answer, fit, loss_of, split
from training.synthetic_pneumothorax import Strengths, draw_distractor, draw_pneumothorax

SIZE = 224
LARGE = Strengths(collapse=(0.5, 0.5), line=(0.05, 0.05), darker=(0.02, 0.02), vessels_left=(0.0, 0.0))


@pytest.fixture(scope="module")
def picture() -> npt.NDArray[np.float32]:
    pixels = chest(5).pixels.astype(np.float32)
    return resize(pixels / pixels.max(), SIZE, SIZE)


@pytest.fixture(scope="module", params=["right", "left"])
def lung(request: pytest.FixtureRequest) -> BoolMask:
    """Of the patient: the right one lies on the left of the picture."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    centre = 0.3 if request.param == "right" else 0.7
    return np.asarray(((rows - 0.5) / 0.32) ** 2 + ((columns - centre) / 0.15) ** 2 < 1)


def test_the_air_lies_in_the_lung_at_its_apex_and_chest_wall_and_nowhere_at_its_base(
    picture: npt.NDArray[np.float32], lung: BoolMask
) -> None:
    changed, air = draw_pneumothorax(picture, lung, np.random.default_rng(1), LARGE)
    assert air.any()
    assert not (air & ~lung).any()
    rows, columns = np.nonzero(lung)
    apex, base = rows < np.quantile(rows, 0.1), rows > np.quantile(rows, 0.97)
    assert air[rows[apex], columns[apex]].mean() > 0.8
    assert air[rows[base], columns[base]].mean() < 0.35
    middle = np.abs(np.nonzero(air)[1] - SIZE / 2).mean()
    assert middle > np.abs(columns - SIZE / 2).mean(), "it lies at the chest wall, not at the mediastinum"
    assert np.array_equal(changed[~lung], picture[~lung]), "nothing else changes"


def test_what_the_lung_leaves_has_no_vessels_and_keeps_its_ribs(lung: BoolMask) -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    ribs = 0.2 * ((rows // 14) % 2)
    vessels = 0.2 * (np.abs(columns % 16 - 8) < 2)
    changed, air = draw_pneumothorax(
        np.asarray(0.3 + ribs + vessels, np.float32), lung, np.random.default_rng(1), LARGE
    )
    inner = air & (np.roll(air, 6, 1) & np.roll(air, -6, 1) & np.roll(air, 6, 0) & np.roll(air, -6, 0))
    at, beside = inner & (vessels > 0), inner & (vessels == 0)
    assert abs(changed[at].mean() - changed[beside].mean()) < 0.4 * 0.2
    on, between = inner & (ribs > 0), inner & (ribs == 0)
    assert changed[on].mean() - changed[between].mean() > 0.12


def test_drawings_differ_repeat_with_their_seed_and_stay_pictures(
    picture: npt.NDArray[np.float32], lung: BoolMask
) -> None:
    one, two, other = (draw_pneumothorax(picture, lung, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one[0], two[0])
    assert not np.array_equal(one[1], other[1])
    for drawn in (one[0], draw_distractor(picture, lung, np.random.default_rng(3))):
        assert drawn.dtype == np.float32
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        assert not np.array_equal(drawn, picture)


def test_every_patient_who_ever_had_one_is_judged_on_and_nobody_else_than_the_third() -> None:
    records = [
        FindingRecord(Path(f"{i}-{n}.png"), f"p{i}", "s", "PA", {KEY: float(i < 5 and n == 0)}, {}, {})
        for i in range(90)
        for n in range(2)
    ]
    learnt, tested = split(records, seed=7)
    assert not {r.patient for r in learnt} & {r.patient for r in tested}
    assert all(r.labels[KEY] == 0 for r in learnt)
    assert {f"p{i}" for i in range(5)} <= {r.patient for r in tested}
    assert 0.2 < len(tested) / len(records) < 0.5


def test_what_is_learnt_is_what_is_answered_a_quarter_of_the_side_wide() -> None:
    network = LiteUNet(width=4).eval()
    x = torch.rand(1, 1, 64, 96)
    with torch.inference_mode():
        fine = network.trunk.fine(x)
        learnt, answered = network.learn(fine, network.trunk.coarser(fine)), network(x)["masks"]
    assert (learnt.shape, answered.shape) == ((1, 1, 16, 24), (1, 1, 64, 96))
    torch.testing.assert_close(torch.nn.functional.interpolate(learnt, scale_factor=4, mode="bilinear"), answered)


def test_the_loss_falls_towards_the_drawn_air() -> None:
    air = torch.zeros(2, 8, 8)
    air[0, :4] = 1.0
    right, wrong = 8 * (2 * air - 1), -8 * (2 * air - 1)
    assert loss_of(right, air) < 0.01 < loss_of(torch.zeros_like(air), air) < loss_of(wrong, air)
    assert loss_of(torch.full_like(air, -8.0), torch.zeros_like(air)) < 0.01  # none is there


def test_training_finds_what_is_drawn_and_leaves_the_first_layers_alone() -> None:
    rng, count, side = np.random.default_rng(1), 16 * VIEWS, 64
    network = LiteUNet(width=8)
    air = np.zeros((count, side // 4, side // 4), np.float16)
    air[::2, :8] = 1.0
    shape = (count, side // 4, side // 4)
    fine = rng.normal(0, 0.1, (count, network.trunk.FINE, *shape[1:])) + air[:, None]
    low = rng.normal(0, 0.1, (count, network.trunk.LOW, side // 8, side // 8))
    kept, moved = (_weight(network, block).clone() for block in (4, 5))
    lessons = Lessons(fine.astype(np.float16), low.astype(np.float16), air)
    fit(network, lessons, epochs=40, seed=1)
    assert torch.equal(_weight(network, 4), kept)
    assert not torch.equal(_weight(network, 5), moved)
    with torch.inference_mode():
        logits = network.learn(*(torch.from_numpy(x.astype(np.float32)) for x in (lessons.fine, lessons.low)))[:, 0]
    inside = torch.from_numpy(air.astype(np.float32)) > 0
    assert logits[inside].mean() > logits[~inside].mean() + 1


def test_answers_come_in_the_size_of_the_picture() -> None:
    answered = list(answer(LiteUNet(width=4).eval(), np.zeros((9, 64, 64), np.float16)))
    assert [one.shape for one in answered] == [(8, 1, 64, 64), (1, 1, 64, 64)]


def _weight(network: Any, block: int) -> torch.Tensor:
    return torch.as_tensor(network.trunk.state_dict()[f"blocks.{block}.project.weight"])

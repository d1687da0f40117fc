"""The centre detector: maps that fit the picture, boxes out of maps, and that it learns where squares lie."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.bundle import load_bundle, write_bundle
from models.networks import HeatDetector, decode
from models.networks.heat_detector import STRIDE


def maps_with(peaks: dict[tuple[int, int], float], *, rows: int = 8, columns: int = 10) -> dict[str, Tensor]:
    """One class; boxes of two by four cells whose centres lie in the middle of their cells."""
    heat = torch.full((1, 1, rows, columns), -10.0)
    for (row, column), logit in peaks.items():
        heat[0, 0, row, column] = logit
    size = torch.tensor([2.0, 4.0]).log().reshape(1, 2, 1, 1).expand(1, 2, rows, columns)
    return {"heat": heat, "size": size, "offset": torch.zeros(1, 2, rows, columns)}


@pytest.mark.parametrize("trunk", ["squeezenet", "resnet18"])
def test_a_cell_of_the_maps_is_eight_pixels(trunk: str) -> None:
    network = HeatDetector(2, trunk, width=16).eval()
    with torch.inference_mode():
        maps = network(torch.rand(1, 1, 96, 160))
    assert maps["heat"].shape == (1, 2, 12, 20)
    assert maps["size"].shape == maps["offset"].shape == (1, 2, 12, 20)


@pytest.mark.parametrize("trunk", ["squeezenet", "resnet18"])
def test_a_cell_looks_at_the_pixels_beneath_it(trunk: str) -> None:
    """The cell that reacts most to a pixel is the one that lies over it."""
    torch.manual_seed(0)
    network = HeatDetector(1, trunk, width=16).eval()
    features = network.trunk
    picture = torch.full((1, 1, 128, 128), 0.5, requires_grad=True)
    fine = features(picture)[-3]
    (gradient,) = torch.autograd.grad(fine[0, :, 8, 8].sum(), picture)
    weight = gradient[0, 0].abs()
    rows = (weight.sum(1) * torch.arange(128)).sum() / weight.sum()
    columns = (weight.sum(0) * torch.arange(128)).sum() / weight.sum()
    assert abs(rows - 67.5) < 8
    assert abs(columns - 67.5) < 8


def test_a_peak_becomes_a_box_of_its_size_around_its_centre() -> None:
    (found,) = decode(maps_with({(3, 5): 2.0}))
    assert found.boxes.tolist() == [pytest.approx([(5.5 - 1) * STRIDE, (3.5 - 2) * STRIDE, 2 * STRIDE, 4 * STRIDE])]
    assert found.scores.tolist() == [pytest.approx(torch.tensor(2.0).sigmoid().item())]
    assert found.classes.tolist() == [0]


def test_of_neighbours_only_the_highest_is_told_and_the_most_certain_comes_first() -> None:
    (found,) = decode(maps_with({(3, 5): 2.0, (3, 6): 1.0, (4, 4): 1.5, (6, 8): 3.0}))
    assert [round(float(x + w / 2)) for x, _, w, _ in found.boxes] == [round(8.5 * STRIDE), round(5.5 * STRIDE)]
    assert found.scores[0] > found.scores[1]


def test_a_box_ends_where_the_picture_ends() -> None:
    (found,) = decode(maps_with({(0, 0): 2.0, (7, 9): 1.0}))
    first, last = found.boxes.tolist()
    assert first == pytest.approx([0, 0, 1.5 * STRIDE, 2.5 * STRIDE])
    assert last[0] + last[2] == pytest.approx(10 * STRIDE)
    assert last[1] + last[3] == pytest.approx(8 * STRIDE)


def test_the_threshold_and_the_limit_are_kept() -> None:
    maps = maps_with({(1, 1): 0.0, (1, 5): 1.0, (5, 5): 2.0})
    assert len(decode(maps, threshold=0.6)[0].scores) == 2
    assert len(decode(maps, limit=1)[0].scores) == 1
    assert decode(maps, threshold=0.99)[0].boxes.shape == (0, 4)


def test_classes_and_pictures_are_kept_apart() -> None:
    one, two = maps_with({(1, 1): 1.0}), maps_with({(4, 4): 2.0})
    heat = torch.cat((one["heat"], two["heat"]), 1)
    both = {key: torch.cat((one[key], two[key])) for key in ("size", "offset")}
    first, second = decode({"heat": torch.cat((heat, heat.flip(1))), **both})
    assert first.classes.tolist() == [1, 0]
    assert second.classes.tolist() == [0, 1]


def test_an_untrained_detector_tells_finite_boxes_and_is_sure_of_none() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        (found,) = decode(HeatDetector(width=16).eval()(torch.rand(1, 1, 64, 64)), threshold=0.0)
    assert torch.isfinite(found.boxes).all()
    assert (found.scores < 0.2).all()


def test_a_trunk_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="'vgg' is none of squeezenet, resnet18"):
        HeatDetector(trunk="vgg")


def test_it_learns_where_a_bright_square_lies() -> None:
    torch.manual_seed(0)
    network = HeatDetector(1, "resnet18", width=16)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    pictures, boxes = 0.2 * torch.rand(4, 1, 64, 64), []
    heat, size, offset = torch.zeros(4, 1, 8, 8), torch.zeros(4, 2, 8, 8), torch.zeros(4, 2, 8, 8)
    for i in range(4):
        x, y, side = 4 + 11 * i, 38 - 9 * i, 16 + 4 * (i % 2)
        pictures[i, 0, y : y + side, x : x + side] += 0.7
        boxes.append((x, y, side, side))
        cx, cy = (x + side / 2) / STRIDE, (y + side / 2) / STRIDE
        heat[i, 0, int(cy), int(cx)] = 1.0
        size[i, :, int(cy), int(cx)] = math.log(side / STRIDE)
        offset[i, :, int(cy), int(cx)] = torch.tensor((cx % 1, cy % 1))
    for _ in range(40):
        optimiser.zero_grad()
        maps = network(pictures)
        loss = functional.binary_cross_entropy_with_logits(maps["heat"], heat, pos_weight=torch.tensor(20.0))
        loss = loss + ((maps["size"] - size).abs() * heat).sum() / 4
        loss = loss + ((maps["offset"].sigmoid() - offset).abs() * heat).sum() / 4
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        found = decode(network(pictures), limit=1)
    for detections, box in zip(found, boxes, strict=True):
        assert detections.scores[0] > 0.5
        assert detections.boxes[0].tolist() == pytest.approx(box, abs=4)


def test_a_bundle_may_hold_one(tmp_path: Path) -> None:
    network_def = {"_target_": "models.networks.HeatDetector", "classes": 1, "trunk": "squeezenet", "width": 16}
    metadata = {"version": "1.0.0", "hilum": {"interpreter": "scores", "input_size": 64}}
    write_bundle(tmp_path / "b", HeatDetector(1, "squeezenet", 16), {"network_def": network_def}, metadata)
    assert set(load_bundle(tmp_path / "b").network(torch.rand(1, 1, 64, 64))) == {"heat", "size", "offset"}

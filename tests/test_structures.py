"""From scores to outlines, the cardiothoracic ratio, and the refusal of what are no lungs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from models.bundle import load_bundle
from models.findings import View
from models.forward import torch_forward
from models.phantom import chest
from models.plausibility import FEATURES, Plausibility, describe
from models.refusal import ImageRefused, Refusal
from models.rendering import Frame, RenderedImage, network_input, render_picture
from models.structures import cardiothoracic_ratio, check_likeness, check_lungs, clean, interpret
from orthanc_plugin.settings import REPOSITORY

SIZE = 200
KEYS = ("lung_right", "lung_left", "heart")


def ellipse(x: float, y: float, width: float, height: float) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return ((columns - x) / (width / 2)) ** 2 + ((rows - y) / (height / 2)) ** 2 <= 1


RIGHT, LEFT = ellipse(60, 95, 50, 120), ellipse(142, 95, 50, 120)
HEART = ellipse(105, 125, 60, 50)


def as_scores(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    return np.where(mask, np.float32(0.98), np.float32(0.01))


def frame(rows: int = SIZE, columns: int = SIZE) -> Frame:
    return network_input(RenderedImage(np.zeros((rows, columns), np.float32)), SIZE)[1]


def test_the_largest_part_is_kept_and_its_holes_are_filled() -> None:
    spotted = (RIGHT & ~ellipse(60, 95, 10, 10)) | ellipse(180, 20, 20, 20)
    assert np.array_equal(clean(as_scores(spotted)) >= 0.5, RIGHT)


def test_nothing_above_the_threshold_is_an_empty_outline() -> None:
    assert not clean(np.full((SIZE, SIZE), 0.4, np.float32)).any()


def test_outlines_come_back_at_the_size_of_the_stored_image_with_the_patient_s_right_on_the_left() -> None:
    scores = np.stack([as_scores(mask) for mask in (RIGHT, LEFT, HEART)])
    segments, measurements = interpret(scores, frame(800, 600), KEYS, View.PA, "lung_fields")
    masks = {segment.key: segment.mask for segment in segments}
    assert set(masks) == set(KEYS)
    assert all(mask.shape == (800, 600) for mask in masks.values())
    assert np.flatnonzero(masks["lung_right"].any(0)).mean() < 300 < np.flatnonzero(masks["lung_left"].any(0)).mean()
    assert len(measurements) == 1


def test_the_ratio_is_cardiac_over_thoracic_diameter_and_its_lines_show_both() -> None:
    found = cardiothoracic_ratio(RIGHT, LEFT, HEART, View.PA, "lung_fields")
    assert found is not None
    cardiac, thoracic = found.lines
    assert (cardiac.x0, cardiac.x1) == pytest.approx((75, 135), abs=1)
    assert (thoracic.x0, thoracic.x1) == pytest.approx((35, 167), abs=1)
    assert found.value == pytest.approx(60 / 132, abs=0.01)
    assert (found.unit, found.caution) == ("1", None)
    assert cardiac.y0 == cardiac.y1
    assert 100 < cardiac.y0 < 150


def test_great_vessels_do_not_widen_the_heart() -> None:
    with_vessels = HEART | ellipse(105, 40, 80, 40) | ellipse(105, 80, 20, 80)
    alone, together = (cardiothoracic_ratio(RIGHT, LEFT, h, View.PA, "lung_fields") for h in (HEART, with_vessels))
    assert alone is not None
    assert together is not None
    assert together.value == pytest.approx(alone.value, abs=0.01)


@pytest.mark.parametrize(("view", "caution"), [(View.AP, "ap_view"), (View.FRONTAL, "view_unknown"), (View.PA, None)])
def test_the_ratio_carries_a_caution_unless_the_view_is_posteroanterior(view: View, caution: str | None) -> None:
    found = cardiothoracic_ratio(RIGHT, LEFT, HEART, view, "lung_fields")
    assert found is not None
    assert found.caution == caution


def test_there_is_no_ratio_where_a_lung_is_cut_off_by_the_edge() -> None:
    assert cardiothoracic_ratio(ellipse(20, 95, 50, 120), LEFT, HEART, View.PA, "lung_fields") is None


@pytest.mark.parametrize(
    "heart", [np.zeros((SIZE, SIZE), np.bool_), ellipse(105, 125, 8, 8), ellipse(20, 125, 40, 50)], ids=len
)
def test_a_heart_that_does_not_hold_is_left_out_with_its_ratio(heart: npt.NDArray[np.bool_]) -> None:
    scores = np.stack([as_scores(mask) for mask in (RIGHT, LEFT, heart)])
    segments, measurements = interpret(scores, frame(), KEYS, View.PA, "lung_fields")
    assert [segment.key for segment in segments] == ["lung_right", "lung_left"]
    assert measurements == ()


@pytest.mark.parametrize(
    ("right", "left", "problem"),
    [
        (np.zeros((SIZE, SIZE), np.bool_), LEFT, "size"),
        (np.ones((SIZE, SIZE), np.bool_), LEFT, "size"),
        (ellipse(60, 95, 28, 28), ellipse(142, 95, 90, 190), "inequality"),
        (LEFT, RIGHT, "position"),
        (ellipse(90, 40, 60, 60), ellipse(120, 160, 60, 60), "position"),
    ],
)
def test_what_cannot_be_two_lungs_is_refused(
    right: npt.NDArray[np.bool_], left: npt.NDArray[np.bool_], problem: str
) -> None:
    check_lungs(as_scores(RIGHT), as_scores(LEFT))
    with pytest.raises(ImageRefused, match=problem) as caught:
        check_lungs(as_scores(right), as_scores(left))
    assert caught.value.code is Refusal.LUNGS_NOT_FOUND


def shipped_plausibility() -> Plausibility:
    plausibility = load_bundle(REPOSITORY / "models" / "lung_fields").contract.plausibility
    assert plausibility is not None
    return plausibility


def test_true_outlines_of_computed_chests_are_like_lungs_and_those_of_a_lying_chest_are_not() -> None:
    plausibility = shipped_plausibility()
    for seed in range(4):
        phantom = chest(seed, rows=512, columns=512)
        picture = network_input(RenderedImage(phantom.pixels), 256)[0]
        right, left = (
            np.where(phantom.masks[key][::2, ::2], np.float32(0.97), np.float32(0.0))
            for key in ("lung_right", "lung_left")
        )
        check_likeness(picture, right, left, plausibility)
        with pytest.raises(ImageRefused, match="unlike lungs") as caught:
            check_likeness(*(np.rot90(field).copy() for field in (picture, left, right)), plausibility)
        assert caught.value.code is Refusal.LUNGS_NOT_FOUND
        assert any(feature in str(caught.value) for feature in FEATURES)
        upright, inverted = describe(picture, right, left), describe(1 - picture, right, left)
        assert plausibility.distance(inverted) > plausibility.distance(upright)
        assert plausibility.oddest(inverted) == "darkness"


@pytest.mark.shared
def test_lungs_and_ratio_of_held_out_patients_are_those_that_readers_drew(shared_data: Path) -> None:
    from training.data import network_mask, read_structures, split_patients
    from training.metrics.overlap import dice

    path = REPOSITORY / "models" / "lung_fields"
    seed = json.loads((path / "configs" / "metadata.json").read_text())["hilum"]["provenance"]["seed"]
    bundle, records = load_bundle(path), read_structures(shared_data)
    folds = split_patients([record.patient for record in records], 5, seed)
    forward, overlaps, errors = torch_forward(bundle.network), [], []
    for record in (r for r in records if folds[r.patient] == 0):
        picture, at = network_input(render_picture(record.image), bundle.contract.input_size)
        scores = 1 / (1 + np.exp(-forward(picture[None, None])["logits"]))
        right, left, heart = (clean(field) >= 0.5 for field in scores.astype(np.float32))
        truth = {key: network_mask(file, at) for key, file in record.masks.items()}
        if "lung_fields" in truth:
            overlaps.append(dice(right | left, truth["lung_fields"]))
        if {"lung_right", "lung_left", "heart"} <= set(truth):
            ours = cardiothoracic_ratio(right, left, heart, View.PA, "")
            theirs = cardiothoracic_ratio(truth["lung_right"], truth["lung_left"], truth["heart"], View.PA, "")
            if ours and theirs:
                errors.append(abs(ours.value - theirs.value))
    assert len(overlaps) >= 40
    assert np.mean(overlaps) >= 0.946  # what two readers of the same pictures agree to
    assert len(errors) >= 8
    assert np.mean(errors) <= 0.04

"""Losses against hand-computed cases, their definitions and other libraries; and what they make of unknown labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training import losses
from training.losses import (
    LABEL_LOSSES,
    asymmetric,
    bce,
    bce_dice,
    centre_l1,
    data_set_weights,
    dice,
    distilled,
    focal,
    heat_focal,
    label_loss,
    lovasz_hinge,
    of_classes,
    uncertain_classes,
    weighted_bce_batch,
)
from training.readers.records import UNCERTAIN

NAN = math.nan


def drawn(seed: int = 0, shape: tuple[int, ...] = (6, 3)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator)
    return logits, (torch.rand(shape, generator=generator) < 0.4).float()


def test_the_batch_weights_are_those_of_wang_2017() -> None:
    logits, targets = torch.tensor([[0.5], [-1.0], [2.0], [0.0]]), torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    positives, negatives, both = 1, 3, 4
    f = [1 / (1 + math.exp(-x)) for x in (0.5, -1.0, 2.0, 0.0)]
    published = both / positives * -math.log(f[0]) + both / negatives * sum(-math.log(1 - p) for p in f[1:])
    assert weighted_bce_batch(logits, targets).item() == pytest.approx(published / both, rel=1e-5)


def test_the_batch_counts_all_findings_together_unless_told_otherwise() -> None:
    logits, targets = drawn(1)
    together = weighted_bce_batch(logits.reshape(-1, 1), targets.reshape(-1, 1))
    assert torch.allclose(weighted_bce_batch(logits, targets), together)
    each = torch.stack([weighted_bce_batch(logits[:, i : i + 1], targets[:, i : i + 1]) for i in range(3)]).mean()
    assert torch.allclose(weighted_bce_batch(logits, targets, per_finding=True), each)


def test_a_batch_without_positives_has_the_negatives_alone() -> None:
    logits = torch.tensor([[0.3], [-0.2]])
    loss = weighted_bce_batch(logits, torch.zeros(2, 1))
    assert loss.item() == pytest.approx(functional.softplus(logits).mean().item(), rel=1e-5)


def test_the_data_set_form_counts_once_per_finding() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, NAN], [0.0, 0.0]])
    positive, negative = data_set_weights(targets)
    assert positive.tolist() == [4.0, 1.0]
    assert negative.tolist() == pytest.approx([4 / 3, 1.0])
    loss = label_loss("weighted_bce", {}, targets)(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx((4.0 + 1.0) * math.log(2) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", sorted(LABEL_LOSSES))
def test_an_unknown_label_costs_nothing_and_teaches_nothing(kind: str) -> None:
    logits, targets = drawn(2)
    targets[0], targets[1:] = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, NAN])
    soft = torch.where(torch.isnan(targets), targets, torch.full_like(targets, 0.7))

    def loss(of: Tensor) -> Tensor:
        return distilled(of, targets, soft) if kind == "distilled" else label_loss(kind, {}, targets)(of, targets)

    asked = logits.clone().requires_grad_()
    loss(asked).backward()  # type: ignore[no-untyped-call]
    assert asked.grad is not None
    assert asked.grad[1:, 2].abs().sum() == 0
    assert asked.grad[0].abs().min() > 0
    changed = logits.clone()
    changed[1:, 2] += 5
    assert torch.equal(loss(logits), loss(changed))
    assert torch.isfinite(label_loss("bce", {}, targets)(logits, torch.full_like(targets, NAN)))


def test_focal_and_asymmetric_without_focus_are_cross_entropy() -> None:
    logits, targets = drawn(3)
    plain = functional.binary_cross_entropy_with_logits(logits, targets)
    assert torch.allclose(focal(logits, targets, gamma=0.0), plain, atol=1e-6)
    assert torch.allclose(asymmetric(logits, targets, gamma_positive=0, gamma_negative=0, margin=0), plain, atol=1e-6)


def test_the_asymmetric_loss_is_that_of_ridnik_2021() -> None:
    p = 0.3
    logit = torch.tensor([[math.log(p / (1 - p))]])
    negative = -((p - 0.05) ** 4) * math.log(1 - (p - 0.05))
    assert asymmetric(logit, torch.zeros(1, 1)).item() == pytest.approx(negative, rel=1e-4)
    assert asymmetric(logit, torch.ones(1, 1)).item() == pytest.approx(-math.log(p), rel=1e-4)
    assert asymmetric(torch.tensor([[-4.0]]), torch.zeros(1, 1)).item() == 0  # below the margin


def test_smoothing_moves_both_answers_towards_the_middle() -> None:
    logits, targets = drawn(4)
    by_hand = functional.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    assert torch.allclose(bce(logits, targets, smoothing=0.2), by_hand)


def test_uncertain_is_a_class_of_its_own_and_left_out_of_the_probability() -> None:
    logits = torch.tensor([[[0.2, 1.5, -0.3]]])
    softmax = torch.softmax(logits[0, 0], 0)
    for label, place in ((0.0, 0), (UNCERTAIN, 1), (1.0, 2)):
        loss = uncertain_classes(logits, torch.tensor([[label]]))
        assert loss.item() == pytest.approx(-math.log(softmax[place]), rel=1e-5)
    assert uncertain_classes(logits, torch.tensor([[NAN]])).item() == 0
    probability = torch.sigmoid(of_classes(logits)).item()
    assert probability == pytest.approx((softmax[2] / (softmax[0] + softmax[2])).item(), rel=1e-5)


def test_a_student_who_agrees_with_the_teacher_has_nothing_to_learn() -> None:
    logits, targets = drawn(5)
    asked = logits.clone().requires_grad_()
    distilled(asked, targets, torch.sigmoid(logits), temperature=3.0, share=1.0).backward()  # type: ignore[no-untyped-call]
    assert asked.grad is not None
    assert asked.grad.abs().max() < 1e-6
    labels_alone = distilled(logits, targets, torch.full_like(targets, 0.5), share=0.0)
    assert torch.allclose(labels_alone, bce(logits, targets))


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2] = 1
    logits = torch.where(torch.arange(16).reshape(1, 1, 4, 4) < 8, 50.0, -50.0)
    assert dice(logits, masks).item() == pytest.approx(1 - (2 * 4 + 1) / (8 + 8 + 1), rel=1e-5)
    assert dice(torch.full((1, 1, 4, 4), -50.0), torch.zeros(1, 1, 4, 4)).item() == pytest.approx(0, abs=1e-5)


def test_the_mask_loss_of_siim_acr_s_fourth_place_is_2_7_and_0_9() -> None:
    logits, masks = drawn(6, (2, 1, 8, 8))
    by_hand = 2.7 * functional.binary_cross_entropy_with_logits(logits, masks) + 0.9 * dice(logits, masks)
    assert torch.allclose(bce_dice(logits, masks, bce_weight=2.7, dice_weight=0.9), by_hand)


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_is_the_jaccard_loss_where_every_error_is_whole(seed: int) -> None:
    """Berman et al. 2018, section 2.2: at the corners of the cube the extension equals the set function."""
    _, masks = drawn(seed, (1, 1, 5, 5))
    wrong = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed + 100)) < 0.3
    logits = torch.where(wrong, 0.0, 2 * masks - 1)  # hinge errors of 1 and of 0
    found = torch.where(wrong, 1 - masks, masks).bool()
    truth = masks.bool()
    jaccard = (found & truth).sum() / (found | truth).sum()
    assert lovasz_hinge(logits, masks).item() == pytest.approx(1 - jaccard.item(), abs=1e-6)


def test_lovasz_has_its_least_value_where_all_margins_are_kept() -> None:
    _, masks = drawn(7, (2, 1, 6, 6))
    assert lovasz_hinge(3 * (2 * masks - 1), masks).item() == 0
    assert lovasz_hinge(torch.full((1, 1, 3, 3), -2.0), torch.zeros(1, 1, 3, 3)).item() == 0


def test_the_centre_loss_is_that_of_objects_as_points() -> None:
    heat = torch.zeros(1, 1, 1, 3)
    heat[0, 0, 0] = torch.tensor([1.0, 0.6, 0.0])
    logits = torch.tensor([[[[0.4, -0.7, -2.0]]]])
    p = torch.sigmoid(logits)[0, 0, 0].tolist()
    by_hand = (1 - p[0]) ** 2 * math.log(p[0])
    by_hand += 0.4**4 * p[1] ** 2 * math.log(1 - p[1]) + p[2] ** 2 * math.log(1 - p[2])
    assert heat_focal(logits, heat).item() == pytest.approx(-by_hand, rel=1e-5)
    assert torch.isfinite(heat_focal(logits, torch.zeros_like(heat)))


def test_sizes_are_judged_at_centres_alone() -> None:
    wanted, centres = torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
    centres[0, 0, 1, 0] = 1
    found = torch.full((1, 2, 2, 2), 9.0)
    found[0, :, 1, 0] = torch.tensor([0.5, -0.25])
    assert centre_l1(found, wanted, centres).item() == pytest.approx(0.75)


def test_every_loss_of_a_recipe_has_options_by_name_alone() -> None:
    assert set(LABEL_LOSSES) >= {"bce", "weighted_bce", "weighted_bce_batch", "focal", "asymmetric", "distilled"}
    assert np.isfinite(losses.mask_loss("bce_lovasz", {"lovasz_weight": 0.5})(*drawn(8, (1, 1, 4, 4))).item())

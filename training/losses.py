"""What a network is told to make small: losses for labels, masks and boxes.

The rule: a label that nobody gave is NaN and costs nothing; every other value is a probability from 0 to 1.

Losses for labels take logits and targets of shape (n, findings); `label_loss` finds them by the name that recipes use.
Losses for masks take logits and masks of shape (n, structures, h, w); `mask_loss` finds those.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor
from torch.nn import functional

from training.readers.records import UNCERTAIN

Loss = Callable[[Tensor, Tensor], Tensor]

_SMALL = 1e-8


def bce(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy, the mean over the labels that are known.

    Parameters
    ----------
    smoothing
        Share of the label that is spread over both answers (Szegedy et al., CVPR 2016): 1 becomes 1 - smoothing / 2.
    """
    known, truth = _known(targets)
    truth = truth * (1 - smoothing) + smoothing / 2
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def weighted_bce_batch(logits: Tensor, targets: Tensor, *, per_finding: bool = False) -> Tensor:
    """Positives and negatives of a batch weighted (P + N) / P and (P + N) / N (W-CEL of Wang et al., CVPR 2017).

    P and N count the labels of the batch, all findings together as in the paper. The sum is divided by P + N, so that
    the learning rate does not depend on the size of the batch; a batch without positives has the negatives' term alone.

    Parameters
    ----------
    per_finding
        Count each finding for itself.
    """
    known, truth = _known(targets)
    over = 0 if per_finding else (0, 1)
    positive, negative = known * truth, known * (1 - truth)
    entropy = positive * functional.softplus(-logits) / positive.sum(over).clamp(min=_SMALL)
    entropy = entropy + negative * functional.softplus(logits) / negative.sum(over).clamp(min=_SMALL)
    return entropy.sum() / (logits.shape[1] if per_finding else 1)


def weighted_bce(logits: Tensor, targets: Tensor, *, positive: Tensor, negative: Tensor) -> Tensor:
    """The same with each finding's weights counted once over the data set (Rajpurkar et al., PLoS Medicine 2018).

    Parameters
    ----------
    positive, negative
        Shape (findings,), from `data_set_weights`.
    """
    known, truth = _known(targets)
    each = positive * truth * functional.softplus(-logits) + negative * (1 - truth) * functional.softplus(logits)
    return (each * known).sum() / known.sum().clamp(min=1)


def data_set_weights(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (P + N) / P and (P + N) / N of each finding over all targets (n, findings); 1 for what does not occur."""
    known, truth = _known(targets)
    count, positive = known.sum(0), (known * truth).sum(0)
    negative = count - positive
    one = torch.ones_like(count)
    return (
        torch.where(positive > 0, count / positive.clamp(min=_SMALL), one),
        torch.where(negative > 0, count / negative.clamp(min=_SMALL), one),
    )


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) by MONAI, over the labels that are known."""
    known, truth = _known(targets)
    # MONAI means the absence of a weighting by alpha = None
    each: Tensor = FocalLoss(gamma=gamma, alpha=alpha, reduction="none")(logits, truth)
    return (each * known).sum() / known.sum().clamp(min=1)


def asymmetric(
    logits: Tensor, targets: Tensor, *, gamma_positive: float = 0.0, gamma_negative: float = 4.0, margin: float = 0.05
) -> Tensor:
    """Asymmetric loss (Ridnik et al., ICCV 2021): easy negatives count less, very easy ones nothing.

    Parameters
    ----------
    margin
        Subtracted from the probability of negatives.
    """
    known, truth = _known(targets)
    probability = torch.sigmoid(logits)
    shifted = (probability - margin).clamp(min=0)
    positive = (1 - probability) ** gamma_positive * functional.logsigmoid(logits)
    negative = shifted**gamma_negative * torch.log((1 - shifted).clamp(min=_SMALL))
    return -((truth * positive + (1 - truth) * negative) * known).sum() / known.sum().clamp(min=1)


def distilled(logits: Tensor, targets: Tensor, soft: Tensor, *, temperature: float = 2.0, share: float = 0.5) -> Tensor:
    """Cross-entropy with a teacher's softened probabilities (Hinton et al., 2015), and with the labels.

    Parameters
    ----------
    soft
        The teacher's probabilities (n, findings); NaN where it gave none.
    temperature
        By which the logits of teacher and student are divided; the loss is multiplied by its square.
    share
        Of the teacher in the whole.
    """
    known, teacher = _known(soft)
    cooled = torch.sigmoid(torch.logit(teacher, eps=1e-5) / temperature)
    each = functional.binary_cross_entropy_with_logits(logits / temperature, cooled, reduction="none")
    taught = temperature**2 * (each * known).sum() / known.sum().clamp(min=1)
    return share * taught + (1 - share) * bce(logits, targets)


def uncertain_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """U-MultiClass (Irvin et al., AAAI 2019): absent, uncertain and present are three classes.

    Parameters
    ----------
    logits
        Shape (n, findings, 3), in that order; `of_classes` makes one logit of them.
    labels
        Shape (n, findings): 0, `UNCERTAIN`, 1 or NaN.
    """
    known = ~torch.isnan(labels)
    classes = torch.where(labels == UNCERTAIN, 1, torch.where(labels > 0.5, 2, 0))
    each = functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def of_classes(logits: Tensor) -> Tensor:
    """From (n, findings, 3) to one logit each: its sigmoid is p(present) / (p(present) + p(absent))."""
    return logits[..., 2] - logits[..., 0]


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice loss of each image and structure by MONAI; 1 is added above and below, so that empty masks count."""
    loss: Tensor = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(logits, masks)
    return loss


def bce_dice(logits: Tensor, masks: Tensor, *, bce_weight: float = 1.0, dice_weight: float = 1.0) -> Tensor:
    """Cross-entropy of the pixels and soft Dice; 2.7 and 0.9 in the fourth place of SIIM-ACR 2019."""
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    return bce_weight * entropy + dice_weight * dice(logits, masks)


def lovasz_hinge(logits: Tensor, masks: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss on hinge errors (Berman et al., CVPR 2018), mean over images."""
    signs = 2 * masks - 1
    errors = (1 - logits * signs).flatten(2)
    errors, order = errors.sort(dim=2, descending=True)
    truth = masks.flatten(2).gather(2, order)
    total = truth.sum(2, keepdim=True)
    left, united = total - truth.cumsum(2), total + (1 - truth).cumsum(2)
    jaccard = 1 - left / united
    gradient = torch.cat((jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]), 2)
    return (functional.relu(errors) * gradient).sum(2).mean()


def bce_lovasz(logits: Tensor, masks: Tensor, *, bce_weight: float = 1.0, lovasz_weight: float = 1.0) -> Tensor:
    """Cross-entropy of the pixels and the Lovász hinge."""
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    return bce_weight * entropy + lovasz_weight * lovasz_hinge(logits, masks)


def heat_focal(logits: Tensor, heat: Tensor, *, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Penalty-reduced focal loss of centre maps (Zhou et al., Objects as Points, 2019), by the number of objects.

    Parameters
    ----------
    heat
        Shape (n, classes, h, w): 1 at centres, Gaussian slopes around them, 0 elsewhere.
    """
    centres = (heat == 1).to(logits.dtype)
    probability = torch.sigmoid(logits)
    positive = centres * (1 - probability) ** alpha * functional.logsigmoid(logits)
    negative = (1 - centres) * (1 - heat) ** beta * probability**alpha * functional.logsigmoid(-logits)
    return -(positive + negative).sum() / centres.sum().clamp(min=1)


def centre_l1(predicted: Tensor, wanted: Tensor, centres: Tensor) -> Tensor:
    """Mean distance of what is predicted at the centres (sizes, offsets); shapes (n, 2, h, w) and (n, 1, h, w)."""
    return ((predicted - wanted).abs() * centres).sum() / centres.sum().clamp(min=1)


LABEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "weighted_bce_batch": weighted_bce_batch,
    "weighted_bce": weighted_bce,
    "focal": focal,
    "asymmetric": asymmetric,
    "distilled": distilled,
}
MASK_LOSSES: dict[str, Callable[..., Tensor]] = {
    "dice": dice,
    "bce_dice": bce_dice,
    "lovasz_hinge": lovasz_hinge,
    "bce_lovasz": bce_lovasz,
}


def label_loss(kind: str, options: dict[str, Any], targets: Tensor) -> Loss:
    """A loss for labels by its name.

    Parameters
    ----------
    targets
        Those of the whole training set (n, findings), for ``weighted_bce``.
    """
    if kind == "weighted_bce":
        positive, negative = data_set_weights(targets)

        def weighted(logits: Tensor, batch: Tensor) -> Tensor:
            on = logits.device
            return weighted_bce(logits, batch, positive=positive.to(on), negative=negative.to(on))

        return weighted
    return partial(LABEL_LOSSES[kind], **options)


def mask_loss(kind: str, options: dict[str, Any]) -> Loss:
    """A loss for masks by its name."""
    return partial(MASK_LOSSES[kind], **options)


def _known(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Where a label is known (1 or 0), and the labels with 0 elsewhere."""
    known = ~torch.isnan(targets)
    return known.to(targets.dtype), torch.nan_to_num(targets, nan=0.0)

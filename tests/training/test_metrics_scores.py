"""AUROC, AUPRC and F1: by hand, against scikit-learn, and on what they must refuse."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from training.metrics.answers import Answers, PatientsShared
from training.metrics.f1 import best_f1_threshold, f1_table
from training.metrics.intervals import BOOTSTRAP_SAMPLES, Interval, TooFew, Undefined
from training.metrics.scores import auprc, auroc, mean_auroc

PEOPLE = [str(i) for i in range(10_000)]


def random_scores(seed: int, images: int = 200, levels: int = 12) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, scores with many ties, and patients with up to five images."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(images) < 0.2).astype(float)
    return truth, rng.integers(0, levels, images) + 2 * truth, [str(i) for i in rng.integers(0, images // 2, images)]


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    truth, scores = [0, 0, 1, 1, 0], [0.1, 0.4, 0.4, 0.8, 0.9]
    # 0.4 beats 0.1, ties with 0.4, loses to 0.9; 0.8 beats 0.1 and 0.4, loses to 0.9: 3.5 of 6
    assert auroc(truth, scores, PEOPLE[:5]).value == pytest.approx(3.5 / 6)


def test_auprc_sums_precision_over_steps_of_recall() -> None:
    truth, scores = [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]
    assert auprc(truth, scores, PEOPLE[:4]).value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_both_areas_are_scikit_learn_s_also_where_scores_tie(seed: int) -> None:
    truth, scores, patients = random_scores(seed)
    assert auroc(truth, scores, patients).value == pytest.approx(roc_auc_score(truth, scores))
    assert auprc(truth, scores, patients).value == pytest.approx(average_precision_score(truth, scores))


@pytest.mark.parametrize(("ours", "theirs"), [(auroc, roc_auc_score), (auprc, average_precision_score)])
def test_the_interval_is_that_of_a_plain_loop_over_drawn_patients(ours, theirs) -> None:  # type: ignore[no-untyped-def]
    truth, scores, patients = random_scores(11, images=60)
    names, index = np.unique(patients, return_inverse=True)
    rng, draws = np.random.default_rng(5), []
    while len(draws) < BOOTSTRAP_SAMPLES:
        chosen = np.concatenate([np.flatnonzero(index == i) for i in rng.integers(0, len(names), len(names))])
        if 0 < truth[chosen].sum() < len(chosen):
            draws.append(theirs(truth[chosen], scores[chosen]))
    found = ours(truth, scores, patients, seed=5)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, (2.5, 97.5))))


def test_a_thousand_draws_of_ten_thousand_images_take_seconds() -> None:
    truth, scores, _ = random_scores(0, images=10_000, levels=5000)
    began = time.process_time()
    auroc(truth, scores, [str(i // 3) for i in range(10_000)])
    assert time.process_time() - began < 15


def test_the_mean_auroc_takes_each_finding_on_the_images_labelled_for_it() -> None:
    rng = np.random.default_rng(2)
    truth, scores = (rng.random((300, 3)) < 0.3).astype(float), rng.normal(size=(300, 3))
    scores += truth
    truth[:100, 1] = np.nan
    found = mean_auroc(Answers(("a", "b", "c"), truth, scores, tuple(PEOPLE[:300])))
    each = [roc_auc_score(truth[k, i], scores[k, i]) for i in range(3) for k in [~np.isnan(truth[:, i])]]
    assert found.value == pytest.approx(np.mean(each))
    assert found.high - found.low < 0.12  # three findings vary less than one


@pytest.mark.parametrize("figure", [auroc, auprc])
def test_one_class_alone_has_no_area(figure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Undefined, match="positives and negatives"):
        figure(np.ones(5), np.arange(5), PEOPLE[:5])
    with pytest.raises(ValueError, match="uncertain"):
        figure([0, 1, -1], [1, 2, 3], PEOPLE[:3])
    with pytest.raises(ValueError, match="not finite"):
        figure([0, 1, 1], [1, 2, np.nan], PEOPLE[:3])
    with pytest.raises(ValueError, match="shape"):
        figure([0, 1, 1], [1, 2], PEOPLE[:3])


def test_the_f1_threshold_is_the_best_of_all() -> None:
    assert best_f1_threshold([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9]) == pytest.approx(0.3)  # F1 0.8, at 0.9 alone 0.67
    for seed in range(5):
        truth, scores, _ = random_scores(seed)
        best = max(f1_score(truth, scores >= level) for level in np.unique(scores))
        assert f1_score(truth, scores >= best_f1_threshold(truth, scores)) == pytest.approx(best)


def split(seed: int) -> tuple[Answers, Answers]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((400, 3)) < (0.3, 0.2, 0.1)).astype(float)
    scores = rng.normal(size=(400, 3)) + 1.5 * truth
    findings = ("effusion", "mass", "hernia")
    return (
        Answers(findings, truth[:200], scores[:200], tuple(PEOPLE[:200])),
        Answers(findings, truth[200:], scores[200:], tuple(PEOPLE[200:400])),
    )


def test_f1_of_each_finding_and_both_means_are_scikit_learn_s_at_thresholds_of_validation() -> None:
    validation, test = split(0)
    table = f1_table(validation, test)
    assert table.thresholds == {
        name: best_f1_threshold(validation.truth[:, i], validation.scores[:, i]) for i, name in enumerate(test.findings)
    }
    called = test.scores >= list(table.thresholds.values())
    for average, figure in (("macro", table.macro), ("micro", table.micro)):
        assert isinstance(figure, Interval)
        assert figure.value == pytest.approx(f1_score(test.truth, called, average=average))
        assert figure.low < figure.value < figure.high
    each = f1_score(test.truth, called, average=None)
    assert [f.value for f in table.findings.values() if isinstance(f, Interval)] == pytest.approx(list(each))


def test_f1_cannot_be_had_on_the_patients_who_chose_the_threshold() -> None:
    validation, _ = split(0)
    with pytest.raises(PatientsShared):
        f1_table(validation, validation)


def test_a_finding_without_positives_has_no_f1_and_does_not_count_in_the_mean() -> None:
    validation, test = split(1)
    validation.truth[:, 1], test.truth[:, 2] = 0, 0
    table = f1_table(validation, test)
    assert isinstance(table.findings["mass"], TooFew)
    assert "validation" in table.findings["mass"].reason
    assert table.findings["hernia"] == TooFew("no positive in test")
    assert isinstance(table.findings["effusion"], Interval)
    assert isinstance(table.macro, Interval)
    assert table.macro.value == pytest.approx(table.findings["effusion"].value)
    validation.truth[:] = 0
    assert isinstance(f1_table(validation, test).macro, TooFew)


def test_f1_leaves_out_images_on_which_nobody_looked() -> None:
    validation, test = split(2)
    test.truth[:50] = np.nan
    table = f1_table(validation, test)
    called = test.scores[50:] >= list(table.thresholds.values())
    assert isinstance(table.macro, Interval)
    assert table.macro.value == pytest.approx(f1_score(test.truth[50:], called, average="macro"))

"""Intervals by patient: against published ones, against a plain loop, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from training.metrics.answers import Answers, PatientsShared, keep_apart
from training.metrics.detection import Detections, average_precision, mean_average_precision
from training.metrics.f1 import f1_table
from training.metrics.intervals import (
    BOOTSTRAP_SAMPLES,
    Interval,
    TooFew,
    Undefined,
    attempt,
    bootstrap,
    mean_interval,
    share_interval,
    wilson,
)
from training.metrics.scores import auprc, auroc, mean_auroc


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_s_interval_is_that_of_newcombe_s_table(hits: int, trials: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 1998, table I, method 3."""
    interval = wilson(hits / trials, trials)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_with_one_image_a_patient_a_share_has_wilson_s_interval() -> None:
    called = [True] * 15 + [False] * 133
    assert share_interval(called, [str(i) for i in range(148)]) == wilson(15 / 148, 148)


def test_images_that_repeat_their_patient_count_once() -> None:
    called = np.repeat([True] * 6 + [False] * 14, 5)
    patients = [str(i // 5) for i in range(100)]
    repeated, single = share_interval(called, patients), wilson(0.3, 20)
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high), abs=0.01)


def test_a_share_of_all_keeps_its_doubt_and_counts_patients() -> None:
    assert share_interval([True] * 40, [str(i // 2) for i in range(40)]) == wilson(1.0, 20)
    assert share_interval([True] * 40, ["one"] * 40) == wilson(1.0, 1)


def test_nineteen_of_twenty_intervals_of_clustered_shares_hold_the_truth() -> None:
    rng, held, held_by_images = np.random.default_rng(1), 0, 0
    for _ in range(600):
        chance = rng.beta(0.6, 1.4, 60)  # each patient's own; 0.3 on average
        sizes = rng.integers(1, 8, 60)
        patients = np.repeat(np.arange(60), sizes).astype(str)
        called = rng.random(sizes.sum()) < np.repeat(chance, sizes)
        found, naive = share_interval(called, patients), wilson(float(called.mean()), len(called))  # type: ignore[arg-type]
        held += found.low <= 0.3 <= found.high
        held_by_images += naive.low <= 0.3 <= naive.high
    assert 0.92 <= held / 600 <= 0.98
    assert held_by_images / 600 < 0.88


def test_the_bootstrap_is_a_plain_loop_that_draws_patients() -> None:
    rng = np.random.default_rng(3)
    values, owners = rng.normal(size=50), rng.integers(0, 17, 50)
    names, loop, means = np.unique(owners.astype(str)), np.random.default_rng(8), []
    for _ in range(BOOTSTRAP_SAMPLES):
        drawn = names[loop.integers(0, len(names), len(names))]
        means.append(np.concatenate([values[owners.astype(str) == name] for name in drawn]).mean())
    found = mean_interval(values, [str(i) for i in owners], seed=8)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert found.value == pytest.approx(values.mean())


def test_a_mean_s_interval_is_that_of_the_normal_distribution_when_there_are_many() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    found = mean_interval(values, [str(i) for i in range(2000)])
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_draws_that_do_not_define_a_figure_are_drawn_anew_until_too_many_fail() -> None:
    patients = [str(i) for i in range(40)]
    rare = bootstrap(lambda w: np.where(w[:, 0] > 0, 1.0, np.nan), patients)  # 63 % of the draws hold a patient
    assert (rare.value, rare.low, rare.high) == (1.0, 1.0, 1.0)
    with pytest.raises(Undefined, match="draws of patients"):
        bootstrap(lambda w: np.where(w[:, :4].prod(1) * (w[:, 4:8].sum(1) == 4) > 0, 1.0, np.nan), patients)


def test_a_perfect_figure_is_not_certain() -> None:
    """Wilson's lower bound of k of k is 1 / (1 + 1.96^2 / k), here by hand for 4 and for 3 trials."""
    patients = [str(i) for i in range(10)]
    truth, scores = np.arange(10) >= 6, np.arange(10.0)
    for figure in (auroc(truth, scores, patients), auprc(truth, scores, patients)):
        assert (figure.value, figure.high) == (1.0, 1.0)
        assert figure.low == pytest.approx(0.5101, abs=1e-4)  # four positives, six negatives: four pairs
    wrong = auroc(truth, -scores, patients)
    assert (wrong.value, wrong.low, wrong.high) == (0.0, 0.0, pytest.approx(0.4899, abs=1e-4))
    shared = auroc(truth, scores, [*patients[:9], "8"])  # two of the positives are one patient's
    assert shared.low == pytest.approx(0.4385, abs=1e-4)
    assert mean_interval(np.ones(10), patients, shares=True) == wilson(1.0, 10)
    answers = [Answers(("mass",), truth[:, None].astype(float), scores[:, None], [p + part for p in patients])
               for part in "ab"]  # fmt: skip
    table = f1_table(answers[0], answers[1])
    assert table.findings["mass"] == table.macro == wilson(1.0, 4)
    assert mean_auroc(answers[0]).low == pytest.approx(0.5101, abs=1e-4)
    box = np.array([[0.0, 0, 10, 10]])
    boxes = [box if i < 4 else np.zeros((0, 4)) for i in range(10)]
    found = [Detections(each, np.full(len(each), 0.9)) for each in boxes]
    assert average_precision(found, boxes, patients) == wilson(1.0, 4)
    assert mean_average_precision({"mass": found}, {"mass": boxes}, patients).mean == wilson(1.0, 4)


def test_a_figure_of_another_range_may_be_one_or_none() -> None:
    assert mean_interval(np.ones(10), [str(i) for i in range(10)]) == Interval(1.0, 1.0, 1.0)


def test_an_area_below_the_bound_of_a_perfect_one_hardly_ever_looks_perfect() -> None:
    """Two normal distributions, eight against eight, as far apart as the lower bound says."""
    low = auroc(np.arange(16) < 8, -np.arange(16.0), [str(i) for i in range(16)]).low
    assert 0.6 < low < 0.8
    scores = np.random.default_rng(5).normal(size=(20_000, 16))
    scores[:, :8] += np.sqrt(2) * norm.ppf(low)
    assert 0 < (scores[:, :8].min(1) > scores[:, 8:].max(1)).mean() < 0.025


def test_what_the_data_do_not_define_is_said_and_never_nan() -> None:
    with pytest.raises(Undefined, match="two patients"):
        mean_interval(np.ones(3), ["one"] * 3)
    with pytest.raises(Undefined, match="no images"):
        share_interval([], [])
    with pytest.raises(ValueError, match="not finite"):
        mean_interval(np.array([1.0, np.nan]), ["a", "b"])
    with pytest.raises(ValueError, match="patients of 1"):
        share_interval([True, False], ["a"])
    shown = attempt(lambda: mean_interval(np.ones(1), ["one"]))
    assert isinstance(shown, TooFew)
    assert str(shown) == "too few"
    assert "two patients" in shown.reason


def test_a_patient_in_validation_and_test_is_refused() -> None:
    def answers(*patients: str, findings: tuple[str, ...] = ("mass",)) -> Answers:
        return Answers(findings, np.ones((len(patients), 1)), np.zeros((len(patients), 1)), patients)

    keep_apart(answers("a", "b"), answers("c"))
    with pytest.raises(PatientsShared, match="1 patients"):
        keep_apart(answers("a", "b"), answers("b", "c"))
    with pytest.raises(ValueError, match="findings differ"):
        keep_apart(answers("a"), answers("b", findings=("nodule",)))


def test_labels_that_are_neither_0_nor_1_nor_unknown_are_refused() -> None:
    with pytest.raises(ValueError, match="uncertain"):
        Answers(("mass",), np.array([[-1.0]]), np.zeros((1, 1)), ("a",))
    with pytest.raises(ValueError, match="not finite"):
        Answers(("mass",), np.ones((1, 1)), np.full((1, 1), np.nan), ("a",))
    with pytest.raises(ValueError, match="expected"):
        Answers(("mass", "nodule"), np.ones((1, 1)), np.zeros((1, 1)), ("a",))

"""Calibration: by hand, against scikit-learn, and by the conditions that define an optimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from training.metrics.calibration import brier, calibration_error, isotonic, platt, reliability, temperature
from training.metrics.intervals import Undefined, wilson


def sample(seed: int, images: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose log-odds are known."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, images)
    return (rng.random(images) < expit(logits)).astype(float), logits


def test_the_error_of_two_bins_by_hand() -> None:
    truth, probabilities = [0, 1, 1, 1], [0.1, 0.3, 0.6, 0.8]
    # bins {0.1, 0.3}: observed 0.5, said 0.2; {0.6, 0.8}: observed 1, said 0.7
    assert calibration_error(truth, probabilities, bins=2) == pytest.approx(0.3)
    low, high = reliability(truth, probabilities, ["a", "b", "c", "d"], bins=2)
    assert (low.predicted, high.predicted) == pytest.approx((0.2, 0.7))
    assert (low.observed, high.observed) == (wilson(0.5, 2), wilson(1.0, 2))
    assert (low.images, high.images) == (2, 2)


def test_the_order_of_images_does_not_change_the_error() -> None:
    probabilities = np.repeat([0.2, 0.5], 50)
    truth = np.concatenate((np.arange(50) < 10, np.arange(50) < 25))  # right on average, positives first
    assert calibration_error(truth, probabilities) == pytest.approx(0)
    assert len(reliability(truth, probabilities, [str(i) for i in range(100)])) == 2
    assert calibration_error(np.ones(5), np.ones(5)) == 0


def test_bins_hold_equal_counts_when_nothing_ties() -> None:
    truth, logits = sample(0, 105)
    bins = reliability(truth, expit(logits), [str(i) for i in range(105)], bins=10)
    assert [one.images for one in bins] == [11] * 5 + [10] * 5
    assert [one.predicted for one in bins] == sorted(one.predicted for one in bins)


def test_the_brier_score_is_scikit_learn_s_and_has_an_interval() -> None:
    truth, logits = sample(1)
    found = brier(truth, expit(logits), [str(i // 2) for i in range(1000)])
    assert found.value == pytest.approx(brier_score_loss(truth, expit(logits)))
    assert found.low < found.value < found.high


def test_platt_scaling_finds_the_line_that_made_the_labels() -> None:
    truth, logits = sample(2, 20_000)
    slope, intercept = platt(truth, logits / 0.5 + 3)  # undone by 0.5 and -1.5
    assert (slope, intercept) == pytest.approx((0.5, -1.5), abs=0.06)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_a_sigmoid_is_the_one_that_was_put_on(true: float) -> None:
    truth, logits = sample(3, 20_000)
    assert temperature(truth, logits * true) == pytest.approx(true, rel=0.05)


def test_the_temperature_of_a_softmax_meets_the_condition_of_least_loss() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(500, 4)) * 3
    truth = np.array([rng.choice(4, p=softmax(row / 2)) for row in logits])
    found = temperature(truth, logits)
    # where the derivative of the log loss vanishes, the expected logit is that of the true class
    expected = (softmax(logits / found, axis=1) * logits).sum(1).mean()
    assert expected == pytest.approx(logits[np.arange(500), truth].mean(), abs=1e-4)
    assert found == pytest.approx(2, rel=0.2)


def test_a_temperature_that_does_not_exist_is_not_invented() -> None:
    with pytest.raises(Undefined, match="two classes"):
        temperature([1, 1], [0.3, 0.4])
    with pytest.raises(Undefined, match="separate"):
        temperature([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="whole numbers"):
        temperature([0, 2], [0.3, 0.4])
    with pytest.raises(ValueError, match="not finite"):
        temperature([0, 1], [0.3, np.inf])


def test_isotonic_calibration_pools_what_is_out_of_order() -> None:
    found = isotonic([0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0])
    assert found([1.0, 2.0, 3.0, 4.0]) == pytest.approx([0, 0.5, 0.5, 1])
    assert found([-9.0, 3.5, 9.0]) == pytest.approx([0, 0.75, 1])


def test_isotonic_calibration_is_scikit_learn_s_and_mends_what_is_crooked() -> None:
    truth, logits = sample(5, 4000)
    crooked = expit(logits) ** 3
    found = isotonic(truth[:2000], crooked[:2000])
    reference = IsotonicRegression(out_of_bounds="clip").fit(crooked[:2000], truth[:2000])
    assert found(crooked) == pytest.approx(reference.predict(crooked))
    assert calibration_error(truth[2000:], crooked[2000:]) > 0.1
    assert calibration_error(truth[2000:], found(crooked[2000:])) < 0.05


def test_what_is_no_probability_or_knows_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        calibration_error([0, 1], [0.1, 1.2])
    with pytest.raises(ValueError, match="from 0 to 1"):
        brier([0, 1], [0.1, np.nan], ["a", "b"])
    with pytest.raises(Undefined):
        calibration_error([], [])
    for fit in (platt, isotonic):
        with pytest.raises(Undefined, match="positives and negatives"):
            fit([1, 1], [0.1, 0.2])

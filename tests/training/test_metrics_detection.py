"""Average precision of PASCAL VOC2010: by hand, and against an implementation that shares no line with ours."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.detection import (
    Detections,
    average_precision,
    match,
    mean_average_precision,
)
from training.metrics.intervals import BOOTSTRAP_SAMPLES, Interval, TooFew, Undefined, wilson
from training.metrics.overlap import as_boxes

HERE, THERE, NOWHERE = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]
PEOPLE = ["a", "b", "c", "d"]
NOTHING = Detections(as_boxes([]), np.array([]))


def found(*boxes: tuple[list[float], float]) -> Detections:
    return Detections(as_boxes([box for box, _ in boxes]), np.array([confidence for _, confidence in boxes]))


def voc2010(detections: list[tuple[float, int, tuple[int, ...]]], truths: list[list[tuple[int, ...]]]) -> float:
    """By the words of the development kit, on sets of inclusive pixels: slow, without arrays.

    `detections` are confidence, image, and box (xmin, ymin, xmax, ymax, pixels counted inclusively).
    """

    def pixels(box: tuple[int, ...]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)}

    total, taken, hits, points = sum(map(len, truths)), set(), 0, []
    for rank, (_, image, box) in enumerate(sorted(detections, key=lambda d: -d[0]), start=1):
        overlaps = [len(pixels(box) & pixels(t)) / len(pixels(box) | pixels(t)) for t in truths[image]]
        best = overlaps.index(max(overlaps)) if overlaps else -1
        if overlaps and overlaps[best] > 0.5 and (image, best) not in taken:
            taken.add((image, best))
            hits += 1
        points.append((hits, hits / rank))
    # recall takes steps of one over the total: at each, the best precision at this recall or beyond
    return sum(max((p for h, p in points if h >= step), default=0.0) for step in range(1, total + 1)) / total


def test_average_precision_by_hand() -> None:
    answers = [found((HERE, 0.9), (NOWHERE, 0.8)), found((HERE, 0.7)), NOTHING]
    truths = [as_boxes([HERE]), as_boxes([HERE]), as_boxes([HERE])]
    # hit, miss, hit of 3: precision 1 up to recall 1/3, 2/3 up to recall 2/3, nothing beyond
    assert average_precision(answers, truths, PEOPLE[:3]).value == pytest.approx((1 + 2 / 3) / 3)


def test_a_dip_of_precision_is_levelled_by_what_lies_beyond() -> None:
    answers = [found((NOWHERE, 0.9), (HERE, 0.8), (THERE, 0.7)), NOTHING]
    truths = [as_boxes([HERE, THERE]), as_boxes([])]
    # precision 0, 1/2, 2/3: interpolated 2/3 everywhere; not interpolated it would be (1/2 + 2/3) / 2
    assert average_precision(answers, truths, PEOPLE[:2]).value == pytest.approx(2 / 3)


def test_a_second_box_on_the_same_truth_is_a_false_positive() -> None:
    answers = [found((HERE, 0.9), (HERE, 0.8), (THERE, 0.7)), NOTHING]
    truths = [as_boxes([HERE, THERE]), as_boxes([])]
    assert match(answers, truths).hits.tolist() == [True, False, True]
    assert average_precision(answers, truths, PEOPLE[:2]).value == pytest.approx((1 + 2 / 3) / 2)


def test_a_box_whose_best_truth_is_taken_does_not_turn_to_the_next() -> None:
    """Unlike in COCO: it overlaps both by more than half, and the surer box has taken the better one."""
    truths = [as_boxes([[0, 0, 10, 10], [0, 0, 10, 14]])]
    answers = [found(([0, 0, 10, 10], 0.9), ([0, 0, 10, 11], 0.8))]
    assert match(answers, truths).hits.tolist() == [True, False]


def test_an_overlap_of_one_half_is_not_more_than_one_half() -> None:
    truths = [as_boxes([[0, 0, 10, 10]])]
    assert match([found(([0, 0, 10, 5], 1.0))], truths).hits.tolist() == [False]
    assert match([found(([0, 0, 10, 5.01], 1.0))], truths).hits.tolist() == [True]


def random_images(seed: int) -> tuple[list[Detections], list[np.ndarray], float]:
    rng = np.random.default_rng(seed)
    truths: list[list[tuple[int, ...]]] = []
    flat: list[tuple[float, int, tuple[int, ...]]] = []
    for image in range(8):
        starts = rng.integers(0, 12, (rng.integers(0, 4), 2))
        truths.append([(x, y, x + int(rng.integers(3, 9)), y + int(rng.integers(3, 9))) for x, y in starts.tolist()])
        for box in [*truths[-1], *truths[-1], (5, 5, 9, 9)]:
            moved = np.array(box) + rng.integers(-1, 3, 4) * (rng.random(4) < 0.5)
            moved[2:] = np.maximum(moved[2:], moved[:2])
            flat.append((float(rng.integers(0, 10)), image, tuple(moved.tolist())))
    inclusive = np.array([0, 0, 1, 1])
    answers = [
        Detections(
            as_boxes([np.array(box) + inclusive for _, i, box in flat if i == image]),
            np.array([c for c, i, _ in flat if i == image]),
        )
        for image in range(8)
    ]
    return answers, [as_boxes([np.array(b) + inclusive for b in boxes]) for boxes in truths], voc2010(flat, truths)


@pytest.mark.parametrize("seed", range(40))
def test_average_precision_is_that_of_a_plain_implementation(seed: int) -> None:
    answers, truths, expected = random_images(seed)
    ours = average_precision(answers, truths, [str(i) for i in range(8)])
    assert ours.value == pytest.approx(expected)
    assert 0 < expected < 1


def test_the_interval_is_that_of_a_loop_that_draws_images() -> None:
    answers, truths, _ = random_images(7)
    people, rng, draws = ["a", "a", "b", "c", "d", "d", "e", "f"], np.random.default_rng(0), []
    names = np.unique(people)
    while len(draws) < BOOTSTRAP_SAMPLES:
        chosen = [
            i for n in rng.integers(0, len(names), len(names)) for i in np.flatnonzero(np.array(people) == names[n])
        ]
        if sum(len(truths[i]) for i in chosen):
            copies = [str(k) for k in range(len(chosen))]
            draws.append(_value([answers[i] for i in chosen], [truths[i] for i in chosen], copies))
    found = average_precision(answers, truths, people)
    # equal confidences of different images lie in another order in the loop
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, (2.5, 97.5))), abs=0.02)


def _value(answers: list[Detections], truths: list[np.ndarray], people: list[str]) -> float:
    matches = match(answers, truths)
    steps, hits = int(matches.truths.sum()), np.cumsum(matches.hits)
    precision = hits / np.arange(1, len(hits) + 1)
    return sum(precision[hits >= step].max(initial=0) for step in range(1, steps + 1)) / steps


def test_the_mean_is_over_classes_and_needs_all_of_them() -> None:
    answers = {"opacity": [found((HERE, 0.9)), NOTHING], "none": [NOTHING, NOTHING]}
    truths = {
        "opacity": [as_boxes([HERE]), as_boxes([])],
        "none": [as_boxes([]), as_boxes([[0, 0, 1, 1]])],
    }
    figures = mean_average_precision(answers, truths, ["a", "b"])
    assert isinstance(figures.mean, Interval)
    assert figures.mean.value == pytest.approx(0.5)
    without = mean_average_precision(answers, {**truths, "none": [as_boxes([]), as_boxes([])]}, ["a", "b"])
    assert isinstance(without.classes["none"], TooFew)
    assert without.mean == TooFew("no figure for none")
    assert isinstance(without.classes["opacity"], Interval)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Undefined, match="nothing is to be found"):
        average_precision([NOTHING, NOTHING], [as_boxes([]), as_boxes([])], ["a", "b"])
    with pytest.raises(ValueError, match="2 images, truth of 1"):
        match([NOTHING, NOTHING], [as_boxes([])])
    with pytest.raises(ValueError, match="confidences"):
        Detections(as_boxes([HERE]), np.array([np.nan]))
    assert average_precision([NOTHING, NOTHING], [as_boxes([HERE])] * 2, ["a", "b"]) == wilson(0.0, 2)

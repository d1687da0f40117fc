"""Submissions to SIIM-FISABIO-RSNA: the format as published, and the score by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.metrics.detection import Detections
from training.metrics.intervals import Interval, TooFew
from training.metrics.overlap import as_boxes
from training.metrics.submission import (
    Prediction,
    SubmissionInvalid,
    image_row,
    parse,
    read,
    score,
    study_row,
    text,
    write,
)

NOTHING = Detections(as_boxes([]), np.array([]))
TWO = Detections(as_boxes([[789.28836, 582.43035, 1815.94498, 2499.73327], [10, 20, 30, 40]]), np.array([0.9, 0.25]))


def test_rows_are_written_as_the_challenge_asks() -> None:
    assert text(study_row({"negative": 1.0})) == "negative 1 0 0 1 1"
    assert text(study_row({"typical": 0.7, "negative": 0.05})) == "negative 0.05 0 0 1 1 typical 0.7 0 0 1 1"
    assert text(image_row(NOTHING)) == "none 1 0 0 1 1"
    assert text(image_row(NOTHING, none=0.8)) == "none 0.8 0 0 1 1"
    assert text(image_row(TWO, none=0.1)) == (
        "opacity 0.9 789.28836 582.43035 1815.945 2499.7333 opacity 0.25 10 20 30 40 none 0.1 0 0 1 1"
    )


def test_a_label_of_the_training_set_is_a_row_too() -> None:
    """As in train_image_level.csv: the truth has confidence 1."""
    row = parse(
        "opacity 1 789.28836 582.43035 1815.94498 2499.73327 opacity 1 2245.91208 591.20528 3340.5737 2352.75472"
    )
    assert [item.label for item in row] == ["opacity", "opacity"]
    assert row[1].box == (2245.91208, 591.20528, 3340.5737, 2352.75472)
    assert parse("none 1 0 0 1 1") == (Prediction("none", 1.0),)


def test_a_submission_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = {
        "00188a671292_study": study_row({"negative": 0.125, "typical": 0.5, "indeterminate": 0.25, "atypical": 1e-7}),
        "a29c5a68b07b_image": image_row(Detections(as_boxes([[1, 2, 3.5, 4]]), np.array([0.75])), none=0.25),
    }
    write(tmp_path / "submission.csv", rows)
    first, second, *_ = (tmp_path / "submission.csv").read_text().splitlines()
    assert first == "id,PredictionString"
    assert second.startswith("00188a671292_study,negative 0.125 0 0 1 1 typical 0.5")
    assert read(tmp_path / "submission.csv") == rows


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("x_image,", "0 fields"),
        ("x_image,opacity 1 0 0 1", "5 fields"),
        ("x_image,opacities 1 0 0 1 1", "unknown label 'opacities'"),
        ("x_image,opacity one 0 0 1 1", "could not convert"),
        ("x_image,opacity nan 0 0 1 1", "confidence nan"),
        ("x_image,opacity 1 5 0 1 1", "ends before it begins"),
        ("x_image,typical 1 0 0 1 1", "typical is not among"),
        ("x_study,opacity 1 0 0 1 1", "opacity is not among"),
        ("x,none 1 0 0 1 1", "neither in _study nor in _image"),
        ("y_image,none 1 0 0 1 1\ny_image,none 1 0 0 1 1", "line 3: y_image comes twice"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path: Path, row: str, why: str) -> None:
    (tmp_path / "submission.csv").write_text(f"id,PredictionString\n{row}\n")
    with pytest.raises(SubmissionInvalid, match=r"line \d") as raised:
        read(tmp_path / "submission.csv")
    assert why in str(raised.value)


def test_other_columns_and_empty_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text("Id,PredictionString\n")
    with pytest.raises(SubmissionInvalid, match="columns"):
        read(tmp_path / "submission.csv")
    with pytest.raises(SubmissionInvalid, match="empty row"):
        write(tmp_path / "other.csv", {"x_study": ()})


# A truth with every class: four studies of one image each.
TRUTH = {
    "n_study": parse("negative 1 0 0 1 1"),
    "t_study": parse("typical 1 0 0 1 1"),
    "i_study": parse("indeterminate 1 0 0 1 1"),
    "a_study": parse("atypical 1 0 0 1 1"),
    "n_image": parse("none 1 0 0 1 1"),
    "t_image": parse("opacity 1 100 100 200 300 opacity 1 300 100 400 300"),
    "i_image": parse("opacity 1 50 50 150 150"),
    "a_image": parse("none 1 0 0 1 1"),
}
PATIENTS = {key: key[0] for key in TRUTH}


def many(rows: dict[str, tuple[Prediction, ...]]) -> dict[str, tuple[Prediction, ...]]:
    return {f"{copy}{key}": row for copy in range(10) for key, row in rows.items()}


def test_the_truth_itself_scores_one() -> None:
    figures = score(many(TRUTH), many(TRUTH), {key: key[:2] for key in many(TRUTH)})
    assert isinstance(figures.mean, Interval)
    assert figures.mean.value == 1
    assert list(figures.classes) == ["negative", "typical", "indeterminate", "atypical", "opacity", "none"]


def test_six_classes_are_scored_by_hand() -> None:
    answers = {
        "n_study": parse("negative 0.6 0 0 1 1 typical 0.4 0 0 1 1"),
        "t_study": parse("negative 0.7 0 0 1 1 typical 0.3 0 0 1 1"),  # negative: miss, hit; typical: miss, hit
        "i_study": parse("indeterminate 0.9 0 0 1 1"),  # right
        "a_study": parse("negative 0.1 0 0 1 1"),  # atypical was not said
        "n_image": parse("none 0.9 0 0 1 1"),
        "t_image": parse("opacity 0.8 100 100 200 300 none 0.2 0 0 1 1"),  # one of two boxes
        "i_image": parse("opacity 0.9 400 400 500 500"),  # beside it
        "a_image": parse("none 0.1 0 0 1 1"),
    }
    figures = score(answers, TRUTH, PATIENTS)
    expected = {
        "negative": 1 / 2,
        "typical": 1 / 2,
        "indeterminate": 1.0,
        "atypical": 0.0,
        "opacity": 1 / 2 / 3,  # miss, hit: precision 1/2 up to recall 1/3
        "none": 1 / 2 * 1 + 1 / 2 * 2 / 3,  # hit, miss, hit
    }
    assert {key: figure.value for key, figure in figures.classes.items() if isinstance(figure, Interval)} == (
        pytest.approx(expected)
    )
    assert all(isinstance(figure, Interval) for figure in figures.classes.values())
    # of four patients, few draws hold all six classes: the mean has no interval, and says so
    assert isinstance(figures.mean, TooFew)


def test_the_mean_is_that_of_the_six_and_has_an_interval_when_patients_suffice() -> None:
    answers = {**TRUTH, "a_study": parse("negative 0.1 0 0 1 1"), "a_image": parse("opacity 0.1 0 0 9 9")}
    figures = score(many(answers), many(TRUTH), {key: key[:2] for key in many(TRUTH)})
    # atypical 0; one of two pictures without opacities said so; the stray boxes come last
    assert isinstance(figures.mean, Interval)
    assert figures.mean.value == pytest.approx((1 + 1 + 1 + 0 + 1 + 0.5) / 6)
    assert figures.mean.low < figures.mean.value < figures.mean.high


def test_every_row_must_be_answered() -> None:
    with pytest.raises(SubmissionInvalid, match="1 rows are missing, such as a_image"):
        score({key: row for key, row in TRUTH.items() if key != "a_image"}, TRUTH, PATIENTS)
    with pytest.raises(SubmissionInvalid, match="1 rows are unknown, such as z_image"):
        score({**TRUTH, "z_image": parse("none 1 0 0 1 1")}, TRUTH, PATIENTS)

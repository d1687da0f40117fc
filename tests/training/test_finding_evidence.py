"""What a finding needs to be reported, by made-up answers whose worth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from training.data import NIH_COLUMNS, FindingRecord
from training.evidence import CELLS, FOLDS, LEAST_AUROC, OUTPUTS, RANDOM_SOURCE, Samples, mean_of_eight, weigh
from training.metrics.scores import auroc

IMAGES = 600
EFFUSION = OUTPUTS.index("effusion")


def samples(seed: int, *, told_apart: bool) -> tuple[Samples, npt.NDArray[np.float64]]:
    """One patient each from two sources, and answers: what is there, or only where the picture comes from."""
    rng = np.random.default_rng(seed)
    drawn = np.arange(IMAGES) % 2 == 0
    truth = (rng.random((IMAGES, len(OUTPUTS))) < np.where(drawn, 0.12, 0.65)[:, None]).astype(np.float32)
    within = 2.5 * truth if not told_apart else 4.0 * (~drawn[:, None]) * np.ones_like(truth)
    records = [
        FindingRecord(Path(f"{i}.png"), f"p{i}", RANDOM_SOURCE if one else "picked", "PA", {}, {}, {})
        for i, one in enumerate(drawn)
    ]
    made = Samples(
        records, np.arange(IMAGES) // 2 % FOLDS, truth, np.full_like(truth, np.nan),
        torch.zeros(1, IMAGES, CELLS, CELLS), rng.normal(size=(IMAGES, 4)) + 0.5 * truth[:, EFFUSION : EFFUSION + 1],
    )  # fmt: skip
    return made, within.astype(float) + rng.normal(size=truth.shape)


def test_a_finding_that_is_seen_within_each_source_is_reported() -> None:
    made, logits = samples(1, told_apart=False)
    evidence, _, _ = weigh(made, logits, EFFUSION)
    assert evidence.carries
    assert evidence.within_source is not None
    assert evidence.within_source.value > LEAST_AUROC


def test_a_network_that_only_tells_sources_apart_reports_nothing() -> None:
    """Its AUROC over all is high; the regression on view and source does not say so where it is a little better."""
    made, logits = samples(2, told_apart=True)
    evidence, _, _ = weigh(made, logits, EFFUSION)
    assert evidence.auroc.low >= LEAST_AUROC
    assert evidence.within_source is not None
    assert evidence.within_source.value < 0.6
    assert not replace(evidence, shortcut=0.5).carries
    assert replace(evidence, shortcut=0.5, within_source=None).carries


def test_the_floor_is_a_regression_on_features_of_the_same_folds() -> None:
    made, logits = samples(3, told_apart=False)
    evidence, truth, _ = weigh(made, logits, EFFUSION)
    assert evidence.floor is not None
    assert evidence.beyond_floor is not None
    assert 0.6 < evidence.floor < evidence.auroc.value
    assert evidence.beyond_floor.value == pytest.approx(evidence.auroc.value - evidence.floor, abs=1e-9)
    assert evidence.beyond_floor.low > 0
    nothing = replace(made, frozen=np.zeros((IMAGES, 1)))
    assert weigh(nothing, logits, EFFUSION)[0].floor == pytest.approx(0.5, abs=0.06)
    assert len(truth) == IMAGES


def test_the_mean_of_eight_is_that_of_the_most_frequent_and_of_labelled_pictures_only() -> None:
    made, logits = samples(4, told_apart=False)
    made.truth[:, :6] *= (np.arange(IMAGES) % 3 == 0)[:, None]  # six of fourteen are rare
    made.truth[-5:, :-1] = np.nan
    found, beyond = mean_of_eight(made, logits)
    known: Any = ~np.isnan(made.truth[:, 0])
    patients = [patient for patient, one in zip(made.patients, known, strict=True) if one]
    singly = [auroc(made.truth[known, i], logits[known, i], patients).value for i in range(6, len(NIH_COLUMNS))]
    assert found.value == pytest.approx(np.mean(singly))
    assert 0 < beyond.low < beyond.value < found.value

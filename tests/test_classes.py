"""Reading exclusive classes: shares that add up, and one class at most."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.bundle import FindingContract
from models.classes import interpret
from models.contracts import ClassContract
from models.findings import Finding, FindingState

KEYS = ("covid_negative", "covid_typical", "covid_indeterminate", "covid_atypical")
CONTRACT = [
    FindingContract(key, i, evaluated=True, threshold_absent=0.1, threshold_present=0.35) for i, key in enumerate(KEYS)
]


def read(*logits: float, temperature: float = 1.0, contract: list[FindingContract] = CONTRACT) -> dict[str, Finding]:
    given = np.array(logits, np.float32)
    found = interpret(given, contract=contract, reading=ClassContract(temperature), model="classifier")
    return {finding.key: finding for finding in found}


def test_probabilities_add_up_to_one_and_are_warmed() -> None:
    cold, warm = read(0.0, 3.0, 1.0, 0.0), read(0.0, 3.0, 1.0, 0.0, temperature=3.0)
    for found in (cold, warm):
        assert sum(f.probability or 0.0 for f in found.values()) == pytest.approx(1.0, abs=1e-5)
    shares = np.exp(np.array([0.0, 1.0, 1 / 3, 0.0]))
    assert warm["covid_typical"].probability == pytest.approx(shares[1] / shares.sum(), abs=1e-6)
    assert (cold["covid_typical"].probability or 0) > (warm["covid_typical"].probability or 0)
    assert cold["covid_typical"] == Finding(
        "covid_typical", FindingState.PRESENT, cold["covid_typical"].probability, 0.35, model="classifier"
    )


def test_of_two_classes_above_their_thresholds_the_less_probable_is_left_open() -> None:
    states = {key: f.state for key, f in read(0.0, 3.0, 2.9, 0.0).items()}
    assert states["covid_typical"] is FindingState.PRESENT
    assert states["covid_indeterminate"] is FindingState.UNDETERMINED
    assert states["covid_negative"] is states["covid_atypical"] is FindingState.ABSENT


def test_where_no_class_is_sure_none_is_present() -> None:
    assert {f.state for f in read(0.0, 0.1, 0.0, 0.0).values()} == {FindingState.UNDETERMINED}


def test_the_weight_of_an_image_is_no_class() -> None:
    assert read(0.0, 3.0, 1.0, 0.0, 99.0) == read(0.0, 3.0, 1.0, 0.0)


def test_a_class_that_the_evidence_does_not_carry_says_nothing_and_gives_way_to_none() -> None:
    unproven = [replace(c, evaluated=c.key != "covid_typical") for c in CONTRACT]
    found = read(0.0, 3.0, 2.9, 0.0, contract=unproven)
    assert (found["covid_typical"].state, found["covid_typical"].reason) == (FindingState.NOT_EVALUATED, "evidence")
    assert found["covid_indeterminate"].state is FindingState.UNDETERMINED
    assert found["covid_indeterminate"].probability == read(0.0, 3.0, 2.9, 0.0)["covid_indeterminate"].probability

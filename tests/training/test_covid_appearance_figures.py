"""How often each appearance occurs: counted by hand, and no patient counted twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.appearance import AppearanceClass
from models.bundle import load_bundle
from models.findings import Criterion, Finding, FindingState, Region
from training.covid_appearance import Outcome, card, figures, findings_of, label_of
from training.metrics.intervals import wilson

TYPICAL, ATYPICAL, NEGATIVE = AppearanceClass.TYPICAL, AppearanceClass.ATYPICAL, AppearanceClass.NEGATIVE
NAMES = ("typical", "indeterminate", "atypical", "negative", "undetermined", "not evaluated")
BUNDLE = Path(__file__).resolve().parents[2] / "models" / "covid_appearance"


def test_a_class_is_the_finding_that_is_present_or_none() -> None:
    present, open_, absent = FindingState.PRESENT, FindingState.UNDETERMINED, FindingState.ABSENT
    for states, label in (
        ((present, absent, absent, absent), TYPICAL),
        ((open_, absent, open_, absent), AppearanceClass.UNDETERMINED),
        ((FindingState.NOT_EVALUATED,) * 4, AppearanceClass.NOT_EVALUATED),
    ):
        keys = ("covid_typical", "covid_indeterminate", "covid_atypical", "covid_negative")
        found = [Finding(key, state) for key, state in zip(keys, states, strict=True)]
        assert label_of([Finding("effusion", present), *found]) == label


def test_shares_are_of_the_pictures_that_were_read_with_intervals_by_patient() -> None:
    outcomes = [Outcome("x", str(n), TYPICAL if n < 3 else NEGATIVE) for n in range(10)]
    shares = figures([*outcomes, Outcome("x", "10", "refused"), Outcome("y", "1", ATYPICAL)])
    assert shares["x: typical"] == wilson(0.3, 10)
    assert shares["x: refused"].value == pytest.approx(1 / 11)
    assert shares["y: atypical"].value == 1.0
    assert sum(shares[f"x: {name}"].value for name in NAMES) == pytest.approx(1.0)
    twice = [Outcome("x", "one", TYPICAL)] * 2 + [Outcome("x", "two", NEGATIVE)]
    assert figures(twice)["x: typical"].high - figures(twice)["x: typical"].low >= (
        wilson(2 / 3, 3).high - wilson(2 / 3, 3).low
    )


def test_what_people_said_becomes_findings_and_what_they_did_not_say_does_not() -> None:
    box = Region(1, 2, 3, 4, 1.0)
    found = {finding.key: finding for finding in findings_of({"lung_opacity": 1.0, "effusion": 0.0}, (box,))}
    assert set(found) == {"lung_opacity", "effusion"}
    assert (found["lung_opacity"].state, found["lung_opacity"].regions) == (FindingState.PRESENT, (box,))
    assert (found["effusion"].state, found["effusion"].regions) == (FindingState.ABSENT, ())


def test_the_card_claims_no_accuracy_and_gives_the_contract_s_numbers() -> None:
    contract = load_bundle(BUNDLE).contract.criteria
    assert contract is not None
    line = Criterion("multifocal", "covid_typical", FindingState.PRESENT, 2, 2)
    made = card([Outcome("x", str(n), TYPICAL, (line,)) for n in range(4)], contract, "1.0.0", {}, [])
    assert "there is no figure of accuracy" in made.data
    assert any("lobar 0.25" in note for note in made.notes)
    assert made.rows[0][:3] == ("x", "4", "100 % (51 to 100)")
    assert made.tables[-1].rows[0] == ("multifocal", "100 / 0 / 0")


def test_the_shipped_figures_are_those_of_the_shipped_card() -> None:
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text("utf-8"))["hilum"]
    text = (BUNDLE / "docs" / "README.md").read_text("utf-8")
    for source, count in metadata["provenance"]["images"].items():
        refused = metadata["figures"][f"{source}: refused"]["value"]
        assert f"| {source} | {round(count * (1 - refused))} |" in text
    assert "Litmanovich" in text

"""The reading priority and its reason: nobody is told that nothing was found by a model that did not look."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shipped_criteria import IDENTITY, derive

from models.findings import Finding, FindingState, ImageFindings, Laterality, ModelIdentity, ModelRun, Priority, View
from models.study import StudyFindings
from models.triage import prioritise

LUNGS = ModelRun(ModelIdentity("lung_fields", "0.1.0", "a" * 64, "b" * 64))
SCORES = ModelRun(ModelIdentity("chest_findings", "0.2.0", "c" * 64, "d" * 64))
NO_LUNGS, NO_SCORES = ModelRun(LUNGS.model, "model_failed"), ModelRun(SCORES.model, "model_failed")
PNEUMOTHORAX = Finding("pneumothorax", FindingState.PRESENT, 0.91, 0.5, Laterality.RIGHT)
CARDIOMEGALY = Finding("cardiomegaly", FindingState.PRESENT, 0.6, 0.5)
NO_FINDING = Finding("no_finding", FindingState.PRESENT, 0.94, 0.5)
NO_EFFUSION = Finding("effusion", FindingState.ABSENT, 0.04, 0.5)
OPEN = Finding("edema", FindingState.UNDETERMINED, 0.4, 0.5)
UNSEEN = Finding("mass", FindingState.NOT_EVALUATED, reason="evidence")


def image(*findings: Finding, runs: tuple[ModelRun, ...] = (LUNGS, SCORES)) -> ImageFindings:
    return prioritise(ImageFindings("1.2", "1.3", "1.4", 300, 260, View.PA, runs, findings))


@pytest.mark.parametrize(
    ("found", "runs", "priority", "reason"),
    [
        ((NO_EFFUSION, UNSEEN), (LUNGS, SCORES), "routine", "Nothing found among the evaluated findings"),
        ((OPEN, UNSEEN), (LUNGS, SCORES), "routine", "Nothing called present, 1 undetermined"),
        ((NO_EFFUSION,), (NO_LUNGS, SCORES), "routine",
         "Nothing found among the evaluated findings; lung fields model failed"),
        ((UNSEEN,), (LUNGS,), "none", "No finding was evaluated"),
        ((), (LUNGS,), "none", "No finding was evaluated"),
        ((), (), "none", "No finding was evaluated"),
        ((UNSEEN,), (LUNGS, NO_SCORES), "none", "No finding was evaluated; chest findings model failed"),
        ((UNSEEN,), (NO_LUNGS, NO_SCORES), "none", "No model answered"),
        ((CARDIOMEGALY, PNEUMOTHORAX, NO_EFFUSION), (LUNGS, SCORES), "critical", "Pneumothorax 91 %, right"),
        ((PNEUMOTHORAX,), (NO_LUNGS, SCORES), "critical", "Pneumothorax 91 %, right; lung fields model failed"),
        ((NO_FINDING, NO_EFFUSION), (LUNGS, SCORES), "routine", "Nothing found among the evaluated findings"),
        ((NO_FINDING, CARDIOMEGALY), (LUNGS, SCORES), "routine", "Cardiomegaly 60 %"),
    ],
)  # fmt: skip
def test_the_reason_says_what_was_found_and_who_did_not_answer(
    found: tuple[Finding, ...], runs: tuple[ModelRun, ...], priority: str, reason: str
) -> None:
    judged = image(*found, runs=runs)
    assert (judged.priority, judged.priority_reason) == (Priority(priority), reason)


def appears(*findings: Finding) -> ImageFindings:
    """With the appearance for COVID-19 that the findings have, where the lungs were not found."""
    derived = derive(findings, None)
    assert derived.reason != "no_model"
    one = ImageFindings(
        "1.2", "1.3", "1.4", 300, 260, View.PA, (SCORES,), (*findings, *derived.findings(IDENTITY.name))
    )
    return prioritise(replace(one, criteria=derived.criteria))


def test_a_derived_appearance_raises_nothing_that_its_findings_do_not_raise() -> None:
    nodule = Finding("nodule", FindingState.PRESENT, 0.8, 0.5)
    no_opacity = Finding("lung_opacity", FindingState.ABSENT, 0.1, 0.5)
    judged = appears(nodule, no_opacity)
    assert "covid_atypical" in {finding.key for finding in judged.present}
    assert Finding("covid_atypical", FindingState.PRESENT).urgency is Priority.URGENT  # a classifier's would raise it
    assert (judged.priority, judged.priority_reason) == (Priority.ROUTINE, "Nodule 80 %")
    assert judged.leading == nodule
    pressing = appears(Finding("effusion", FindingState.PRESENT, 0.6, 0.5), no_opacity)
    assert (pressing.priority, pressing.priority_reason) == (Priority.URGENT, "Effusion 60 %")


def test_classes_that_an_undetermined_opacity_leaves_open_are_not_counted_beside_it() -> None:
    judged = appears(Finding("lung_opacity", FindingState.UNDETERMINED, 0.4, 0.5))
    assert sum(finding.state is FindingState.UNDETERMINED for finding in judged.findings) > 1
    assert judged.priority_reason == "Nothing called present, 1 undetermined"


def test_a_study_s_reason_does_not_speak_for_an_image_of_which_nothing_is_known() -> None:
    calm, blind, alarming = image(NO_EFFUSION), image(UNSEEN, runs=(LUNGS, NO_SCORES)), image(PNEUMOTHORAX)
    nothing = "Nothing found among the evaluated findings"
    for images, reason in (
        ((calm, calm), nothing),
        ((blind, calm), f"{nothing}; no finding evaluated on 1 of 2 images"),
        ((calm, alarming, blind), "Pneumothorax 91 %, right; no finding evaluated on 1 of 3 images"),
        ((calm, calm.withdraw("age")), f"{nothing}; no finding evaluated on 1 of 2 images"),
        ((blind, blind), blind.priority_reason),
    ):
        assert StudyFindings("1.2", images).priority_reason == reason


def test_of_equally_pressing_images_the_surest_finding_leads() -> None:
    weak = image(Finding("effusion", FindingState.PRESENT, 0.69, 0.5))
    sure = image(Finding("effusion", FindingState.PRESENT, 0.84, 0.5))
    assert StudyFindings("1.2", (weak, sure)).priority_reason == "Effusion 84 %"

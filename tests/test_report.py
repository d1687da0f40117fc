"""The sentences of the preliminary report: each as it is written out in ``tests/report``, and what they state."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_parsing import Judged, NotUnderstood, Stated, parse_findings, parse_impression
from shipped_criteria import IDENTITY, derive

from dicom_sr import codes
from dicom_sr.report import wording as wording_module
from dicom_sr.report.sentences import Report, compose, impression_text
from dicom_sr.report.statements import REGIONS
from dicom_sr.report.wording import LANGUAGES, Wording, WordingInvalid, load_wording
from models.appearance import CLASSES
from models.findings import (
    OF_ABSENCE,
    OPACITIES,
    PROBABILITY,
    Caution,
    Criterion,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Measurement,
    ModelIdentity,
    ModelRun,
    Priority,
    Region,
    Sense,
    View,
)
from models.names import in_words
from models.opacities import LungFields
from models.refusal import Refusal
from models.study import StudyFindings
from models.triage import prioritise

LUNGS = ModelIdentity("lung_fields", "0.1.0", "a" * 64, "b" * 64)
SCORES = ModelIdentity("chest_findings", "0.2.0", "c" * 64, "d" * 64)
KEYS = tuple(key for keys in REGIONS.values() for key in keys)
PRESENT, UNDETERMINED, ABSENT, NOT_EVALUATED = FindingState
RIGHT, LEFT, BILATERAL = Laterality


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311


def image(*findings: Finding, number: int = 1, view: View = View.PA, **more: Any) -> ImageFindings:
    """An image as the worker hands it over: with the priority that its findings give it."""
    more.setdefault("runs", (ModelRun(LUNGS), ModelRun(SCORES)))
    uid = f"1.2.3.{number}"
    return prioritise(
        ImageFindings("1.2.3", "1.2.840.10008.5.1.4.1.1.1", uid, 300, 260, view, findings=findings, **more)
    )


def study(*images: ImageFindings, unread: tuple[str, ...] = ()) -> StudyFindings:
    return StudyFindings("1.2.3", images, unread)


def present(key: str, probability: float | None, side: Laterality | None = None) -> Finding:
    return Finding(key, PRESENT, probability, 0.5, side)


def absent(key: str, probability: float, side: Laterality | None = None) -> Finding:
    return Finding(key, ABSENT, probability, 0.5, side)


def unseen(key: str, reason: str | None) -> Finding:
    return Finding(key, NOT_EVALUATED, reason=reason)


def ratio(value: float, caution: Caution | None = None) -> tuple[Measurement, ...]:
    return (Measurement("cardiothoracic_ratio", value, "1", "lung_fields", caution=caution),)


def all_keys(state: FindingState, side: Laterality) -> StudyFindings:
    """Every finding in one state, on one side, with probabilities from 52 % to 98 %, or from 2 % on."""
    low = 52 if state is PRESENT else 2
    step = 46 / (len(KEYS) - 1)
    return study(image(*(Finding(k, state, (low + step * n) / 100, 0.5, side) for n, k in enumerate(KEYS))))


def derived(*boxes: Region, number: int = 1, **states: FindingState) -> ImageFindings:
    """An image with these opacities, on square lungs, and the appearance that its findings have by the criteria."""
    blank = np.zeros((100, 100), np.bool_)
    right, left = blank.copy(), blank.copy()
    right[10:90, 10:40], left[10:90, 60:90] = True, True
    states = {"lung_opacity": PRESENT if boxes else ABSENT, **dict.fromkeys(LOOKED_FOR, ABSENT), **states}
    given = {PRESENT: 0.8, UNDETERMINED: 0.45, ABSENT: 0.034}
    findings = tuple(
        Finding(key, state, given[state], 0.5, regions=boxes if key == "lung_opacity" else ())
        for key, state in states.items()
    )
    found = derive(findings, LungFields(right, left))
    runs = (ModelRun(LUNGS), ModelRun(SCORES), ModelRun(IDENTITY))
    return image(*findings, *found.findings(IDENTITY.name), number=number, runs=runs, criteria=found.criteria)


LOOKED_FOR = ("pneumothorax", "effusion", "edema", "nodule", "mass", "consolidation")
LOW_RIGHT, LOW_LEFT = Region(12, 60, 8, 20, 0.8), Region(80, 60, 8, 20, 0.7)
FAILED = (ModelRun(LUNGS, "model_failed"), ModelRun(SCORES, "model_failed"))
CASES: dict[str, StudyFindings] = {
    "everything present on the right": all_keys(PRESENT, RIGHT),
    "everything undetermined on the left": all_keys(UNDETERMINED, LEFT),
    "everything absent on both sides": all_keys(ABSENT, BILATERAL),
    "nothing evaluated, for twelve reasons": study(
        image(*(unseen(k, (*codes.REASONS, None)[n % 12]) for n, k in enumerate(KEYS)))
    ),
    "an image is no longer read": study(
        image(absent("effusion", 0.04), present("pneumothorax", 0.9)).withdraw("age"),
        image(absent("effusion", 0.03), number=2, view=View.AP),
        unread=("age",),
    ),
    "no image is read any more": study(image(present("pneumothorax", 0.9)).withdraw("view"), unread=("view",)),
    "one image, no side": study(image(present("pneumothorax", 0.905), absent("effusion", 0.04))),
    "nothing present": study(image(absent("effusion", 0.004), absent("mass", 0.3), unseen("fracture", "evidence"))),
    "no probability": study(image(present("effusion", None, LEFT), Finding("mass", ABSENT))),
    "probabilities at the ends of the scale": study(
        image(
            present("effusion", 0.999, BILATERAL),
            present("mass", 0.9),
            present("nodule", 0.7),
            present("fracture", 0.69),
        )
    ),
    "COVID-19, typical": study(image(present("covid_typical", 0.93), absent("covid_negative", 0.02))),
    "COVID-19, negative": study(image(absent("covid_typical", 0.03), present("covid_negative", 0.94))),
    "COVID-19, typical by criteria": study(derived(LOW_RIGHT, LOW_LEFT)),
    "COVID-19, negative by criteria": study(derived()),
    "COVID-19, atypical by criteria without an opacity": study(derived(nodule=PRESENT, pneumothorax=UNDETERMINED)),
    "COVID-19, typical, atypical not ruled out": study(derived(LOW_RIGHT, LOW_LEFT, edema=UNDETERMINED)),
    "COVID-19, no criterion where the opacity is open": study(derived(lung_opacity=UNDETERMINED)),
    "COVID-19, two images differ by criteria": study(
        derived(LOW_RIGHT, replace(LOW_RIGHT, x=20), consolidation=PRESENT), derived(effusion=PRESENT, number=2)
    ),
    "COVID-19, a share that is hardly too small": study(
        derived(Region(10, 10, 30, 80, 0.8), Region(60, 40, 1, 8, 0.8))
    ),
    "only the class no finding": study(image(absent("mass", 0.03), present("no_finding", 0.94))),
    "two images agree": study(
        image(present("effusion", 0.72, LEFT), absent("mass", 0.1)),
        image(present("effusion", 0.81, LEFT), absent("mass", 0.2), number=2, view=View.AP),
    ),
    "images differ": study(
        image(
            present("pneumothorax", 0.91, RIGHT),
            absent("mass", 0.1),
            unseen("fracture", "view"),
            Finding("edema", UNDETERMINED, 0.4, 0.5, LEFT),
            absent("calcification", 0.2, LEFT),
            present("consolidation", 0.6, RIGHT),
        ),
        image(
            absent("pneumothorax", 0.2),
            unseen("mass", "model_failed"),
            unseen("fracture", "model_failed"),
            absent("edema", 0.1),
            absent("calcification", 0.1, RIGHT),
            Finding("consolidation", UNDETERMINED, 0.4, 0.5, RIGHT),
            number=2,
            view=View.AP,
        ),
        image(
            present("pneumothorax", 0.72, LEFT),
            Finding("mass", UNDETERMINED, 0.4, 0.5, RIGHT),
            absent("nodule", 0.3),
            unseen("hernia", "view"),
            number=3,
            view=View.FRONTAL,
        ),
    ),
    "two images differ in probability": study(
        image(
            present("effusion", 0.91, LEFT),
            present("consolidation", 0.85),
            Finding("edema", UNDETERMINED, 0.242, 0.5),
            absent("mass", 0.004),
            unseen("hernia", "evidence"),
            unseen("fracture", "evidence"),
        ),
        image(
            present("effusion", 0.89, LEFT),
            present("consolidation", 0.72),
            Finding("edema", UNDETERMINED, 0.088, 0.5),
            absent("mass", 0.2),
            unseen("hernia", "evidence"),
            unseen("fracture", "evidence"),
            number=2,
        ),
    ),
    "ratios": study(
        image(measurements=ratio(0.524)),
        image(number=2, view=View.AP, measurements=ratio(0.615, Caution.AP_VIEW), cautions=(Caution.AP_VIEW,)),
    ),
    "every caution": study(image(absent("mass", 0.1), cautions=tuple(Caution))),
    "every refusal": study(image(absent("mass", 0.1)), unread=(*Refusal, "view", "copy", "view")),
    "a model failed on one of two": study(
        image(absent("mass", 0.1), cautions=(Caution.BEDSIDE,)),
        image(unseen("mass", "model_failed"), number=2, runs=(ModelRun(LUNGS), ModelRun(SCORES, "model_failed"))),
    ),
    "the model of findings failed": study(
        image(unseen("effusion", "model_failed"), runs=(ModelRun(LUNGS), ModelRun(SCORES, "model_failed")))
    ),
    "the model of lungs failed": study(
        image(present("mass", 0.8), absent("effusion", 0.1), runs=(ModelRun(LUNGS, "model_failed"), ModelRun(SCORES)))
    ),
    "every model failed": study(image(unseen("effusion", "model_failed"), runs=FAILED)),
    "no model": study(image(runs=())),
    "no image": study(unread=("view",)),
}


def written_out(language: str) -> dict[str, list[str]]:
    """The expected lines of each case, from ``tests/report``."""
    text = (Path(__file__).parent / "report" / f"{language}.txt").read_text("utf-8")
    cases = re.split(r"^# (.+)$", text, flags=re.MULTILINE)[1:]
    return {name: body.strip().splitlines() for name, body in zip(cases[::2], cases[1::2], strict=True)}


def lines(report: Report) -> list[str]:
    return [
        *("TECHNIQUE", *(f"{s.region}: {s.text}" for s in report.technique)),
        *("FINDINGS", *(f"{s.region}: {s.text}" for s in report.findings)),
        *("IMPRESSION", *(s.text for s in report.impression)),
    ]


def texts(report: Report) -> str:
    return "\n".join(s.text for s in (*report.technique, *report.findings, *report.impression))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", CASES)
def test_every_sentence_is_as_written_out(case: str, language: str) -> None:
    assert lines(compose(CASES[case], load_wording(language))) == written_out(language)[case]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_cases_need_every_entry_of_the_table(language: str) -> None:
    used: set[str] = set()

    class Recorder(dict[str, str]):
        def __getitem__(self, name: str) -> str:
            used.add(name)
            return super().__getitem__(name)

        def get(self, name: str, default: Any = None) -> Any:
            used.add(name)
            return super().get(name, default)

    wording = load_wording(language)
    recorder = Recorder(wording.entries)
    for case in CASES.values():
        compose(case, Wording(language, wording.digest, recorder))
    unused = set(wording.entries) - used
    assert unused <= {f"regions.{region}" for region in REGIONS}  # the encoder's
    assert set(written_out(language)) == set(CASES)


# What is said is what is so


def random_study(chance: random.Random) -> StudyFindings:
    """Any findings, states, sides, probabilities and reasons, on up to three images."""
    keys = chance.sample(KEYS, chance.randint(0, len(KEYS)))
    images = []
    for number in range(1, chance.choice((1, 1, 2, 3)) + 1):
        found = tuple(random_finding(key, chance) for key in keys if chance.random() < 0.9)
        measured = ratio(chance.uniform(0.3, 0.8), chance.choice((None, *Caution))) if chance.random() < 0.5 else ()
        runs = tuple(ModelRun(m, chance.choice((None, None, "model_failed"))) for m in (LUNGS, SCORES))
        cautions = tuple(chance.sample(list(Caution), chance.randint(0, 3)))
        view = chance.choice(list(View))
        criteria: tuple[Criterion, ...] = ()
        if chance.random() < 0.5:
            criteria = tuple(random_criterion(c, chance) for c in derive([], None).criteria)
            found = tuple(replace(f, probability=None) if f.key in CLASSES else f for f in found)
        more: dict[str, Any] = {"runs": runs, "cautions": cautions, "criteria": criteria}
        one = image(*found, number=number, view=view, measurements=measured, **more)
        images.append(one.withdraw("view") if chance.random() < 0.1 else one)
    unread = tuple(chance.choice(list(Refusal)) for _ in range(chance.randint(0, 3)))
    return study(*images, unread=unread)


def random_finding(key: str, chance: random.Random) -> Finding:
    state = chance.choice(list(FindingState))
    side = chance.choice((None, *Laterality))
    if state is NOT_EVALUATED:
        return Finding(key, state, laterality=side, reason=chance.choice((None, *codes.REASONS)))
    return Finding(key, state, chance.choice((None, chance.random(), chance.random())), 0.5, side)


def random_criterion(criterion: Criterion, chance: random.Random) -> Criterion:
    """The same criterion with any outcome and any numbers, some of which hardly differ."""
    threshold = chance.choice((None, 0.5, round(chance.uniform(0.01, 0.99), 6)))
    reason = chance.choice((None, *codes.CRITERION_REASONS))
    return replace(
        criterion,
        state=chance.choice(list(FindingState)),
        value=chance.choice((None, threshold, chance.random(), threshold and round(threshold - 1e-6, 6))),
        threshold=threshold,
        sense=chance.choice(list(Sense)),
        unit=OPACITIES if reason == "not_solitary" else chance.choice(list(codes.CRITERION_UNITS)),
        reason=reason,
    )


def structured(found: StudyFindings) -> dict[tuple[str, int], tuple[FindingState, Laterality | None, str]]:
    """State, side and reason by finding and image; sides where the finding's site has them."""
    return {
        (f.key, number): (
            f.state,
            f.laterality if codes.finding_codes(f.key).paired and f.state is not NOT_EVALUATED else None,
            (f.reason or "unstated") if f.state is NOT_EVALUATED else "",
        )
        for number, one in enumerate(found.images, start=1)
        for f in one.findings
    }


def in_per_cent(said: Stated, found: StudyFindings) -> tuple[tuple[str, ...], str | None]:
    """The percentages and the degree that the structured findings give for a statement."""
    numbers = said.images or range(1, len(found.images) + 1)
    given = [
        f.probability
        for number in numbers
        for f in found.images[number - 1].findings
        if f.key == said.key and f.probability is not None
    ]
    if said.state is PRESENT:
        degrees = {
            "highly_likely" if whole >= 90 else "likely" if whole >= 70 else "possible"
            for whole in (round(100 * p) for p in given or [0.0])
        }
        if all(said.key in found.images[number - 1].derived for number in numbers):
            degrees = {"derived"}
        (degree,) = degrees  # images of one statement are of one degree
    else:
        degree = None
    shown = ["<1" if p < 0.005 else ">99" if round(100 * p) == 100 else str(round(100 * p)) for p in sorted(given)]
    return tuple(dict.fromkeys((shown[0], shown[-1]) if shown else ())), degree


def readable(found: StudyFindings) -> dict[tuple[str, int], tuple[FindingState, Laterality | None, str]]:
    """As `structured`, without the images that were withdrawn: about them the text says that and no more."""
    return {(key, n): what for (key, n), what in structured(found).items() if not found.images[n - 1].withdrawn}


def said_by_image(said: tuple[Stated, ...], found: StudyFindings) -> Iterator[tuple[tuple[str, int], Any]]:
    for one in said:
        for number in one.images or range(1, len(found.images) + 1):
            yield (one.key, number), (one.state, one.side, one.why)


@pytest.mark.parametrize("language", LANGUAGES)
def test_findings_state_exactly_the_structured_findings(language: str) -> None:
    wording, chance = load_wording(language), seeded(20200401)
    for _ in range(300):
        found = random_study(chance)
        said = parse_findings([s.text for s in compose(found, wording).findings], wording)
        by_image = list(said_by_image(said.findings, found))
        assert len(by_image) == len(dict(by_image))
        assert dict(by_image) == readable(found)
        assert said.withdrawn == tuple(n for n, one in enumerate(found.images, start=1) if one.withdrawn)
        for one in said.findings:
            assert (one.percent, one.confidence) == in_per_cent(one, found)
        measured = [(m.key, m.value, m.caution) for m in said.measurements]
        assert measured == [(m.key, float(f"{m.value:.2f}"), m.caution) for i in found.images for m in i.measurements]
        assert_judged(said.criteria, found, wording)


def assert_judged(said: tuple[Judged, ...], found: StudyFindings, wording: Wording) -> None:
    """The text tells every criterion where one of them speaks for an appearance, and its numbers tell the same."""
    expected = {
        (criterion.key, number): criterion
        for number, one in enumerate(found.images, start=1)
        for criterion in one.criteria
        if any(c.met and c.speaks_for != "covid_negative" and c.reason != "no_opacity" for c in one.criteria)
        and criterion.reason != "no_opacity"
    }
    told = {(one.key, number): one for one in said for number in one.images or range(1, len(found.images) + 1)}
    assert told.keys() == expected.keys()
    assert len(said) == len(told)
    for key, one in told.items():
        criterion = expected[key]
        assert one.state is criterion.state
        if criterion.value is None or criterion.threshold is None:
            assert (one.sense, one.value, one.threshold) == ("", "", "")
            continue
        assert Sense[one.sense.upper()] is criterion.sense
        assert one.value.endswith(" %") == one.threshold.endswith(" %") == (criterion.unit == PROBABILITY)
        value, threshold = (as_number(text, wording) for text in (one.value, one.threshold))
        assert threshold == pytest.approx(criterion.threshold, abs=5e-6)
        assert value == pytest.approx(criterion.value, abs=0.0051)
        if criterion.state in (PRESENT, ABSENT):
            holds = criterion.sense.holds(criterion.value, criterion.threshold)
            assert criterion.sense.holds(value, threshold) == holds, (one, criterion)


def as_number(text: str, wording: Wording) -> float:
    """What is printed; ``<1 %`` as half of that."""
    number = float(text.split(maxsplit=1)[0].lstrip("<>").replace(wording["decimal"], "."))
    number += {"<": -0.5, ">": 0.5}.get(text[0], 0.0)
    return number / 100 if text.endswith(" %") else number


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_finding_stands_in_one_sentence_of_its_region(language: str) -> None:
    wording, chance = load_wording(language), seeded(7)
    for _ in range(100):
        found = random_study(chance)
        stands: list[tuple[str, str]] = []
        for sentence in compose(found, wording).findings:
            said = parse_findings([sentence.text], wording)
            stands.extend((key, sentence.region) for key in {one.key for one in said.findings})
        assert sorted(stands) == sorted(
            (key, region) for region, keys in REGIONS.items() for key in keys if key in {k for k, _ in readable(found)}
        )


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_impression_states_nothing_beyond_the_structured_findings(language: str) -> None:
    wording, chance = load_wording(language), seeded(11)
    seen: set[str] = set()
    for _ in range(600):
        found = random_study(chance)
        said = parse_impression([s.text for s in compose(found, wording).impression], wording)
        seen.update(said.remarks)
        known = readable(found)
        for one in said.findings:
            state = one.state or PRESENT  # the leading finding of a priority
            told = [known[one.key, n][:2] for n in one.images] or [
                v[:2] for (key, _), v in known.items() if key == one.key
            ]
            assert (state, one.side) in told
            if one.state is PRESENT:
                assert (one.percent, one.confidence) == in_per_cent(one, found)
            if one.state is UNDETERMINED:
                where = [n for (key, n), what in known.items() if key == one.key and what[:2] == (state, one.side)]
                given = [f for n in where for f in found.images[n - 1].findings if f.key == one.key]
                assert one.percent in {
                    in_per_cent(replace(one, images=tuple(chosen)), found)[0]
                    for chosen in (
                        [n for n, f in zip(where, given, strict=True) if (f.probability is None) == none]
                        for none in (False, True)
                    )
                }
        most = {
            f.key: f.state for f in replace(found, images=tuple(i for i in found.images if not i.withdrawn)).findings
        }
        evaluated = any(state is not NOT_EVALUATED for state in most.values())
        positive = {key for key, state in most.items() if state is PRESENT}
        unseen = sum(state is NOT_EVALUATED for state in most.values())
        assert said.unseen == ((unseen, len(most)) if unseen and evaluated else None)
        expected = {key for key, state in most.items() if state in (PRESENT, UNDETERMINED)} - (
            {"no_finding"} & positive
        )
        expected -= {"covid_negative"} if positive - OF_ABSENCE else set(CLASSES)
        assert {one.key for one in said.findings if one.state} == (expected if evaluated else set())
        assert ("impression.nothing_present" in said.remarks) == (evaluated and not positive - OF_ABSENCE)
        assert ("impression.critical" in said.remarks) == (found.leading.priority is Priority.CRITICAL)
        assert ("impression.urgent" in said.remarks) == (found.leading.priority is Priority.URGENT)
        if {"impression.critical", "impression.urgent"} & set(said.remarks):
            assert in_words(said.findings[0].key) in found.leading.priority_reason
        runs = [run for one in found.images if not one.withdrawn for run in one.runs]
        all_failed = bool(runs) and all(run.failure for run in runs)
        assert said.withdrawn == tuple(n for n, one in enumerate(found.images, start=1) if one.withdrawn)
        assert ("impression.failed" in said.remarks) == (not evaluated and all_failed)
        assert ("impression.nothing_evaluated" in said.remarks) == (not evaluated and not all_failed)
    assert len(seen) == 10, seen


NORMAL = {
    "nothing": derived(),
    "an opacity that cannot be determined": derived(lung_opacity=UNDETERMINED),
    "everything undetermined": all_keys(UNDETERMINED, LEFT).images[0],
    "a classifier's negative": image(absent("covid_typical", 0.03), present("covid_negative", 0.94)),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", NORMAL)
def test_the_impression_of_a_study_in_which_nothing_is_present_does_not_speak_of_covid(
    case: str, language: str
) -> None:
    said = compose(study(NORMAL[case]), load_wording(language))
    assert not [sentence.text for sentence in said.impression if "COVID" in sentence.text]
    assert "COVID" in " ".join(sentence.text for sentence in said.findings)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_class_negative_stays_out_of_the_impression_beside_other_findings(language: str) -> None:
    one = derived()
    said = compose(study(replace(one, findings=(*one.findings, present("cardiomegaly", 0.8)))), load_wording(language))
    assert not [sentence.text for sentence in said.impression if "COVID" in sentence.text]
    open_ = derived(lung_opacity=UNDETERMINED)
    said = compose(study(replace(open_, findings=(*open_.findings, present("mass", 0.8)))), load_wording(language))
    assert sum("COVID" in sentence.text for sentence in said.impression) == 2, "what is possible, and what is excluded"
    assert load_wording(language)["findings.covid_negative.name"] not in texts(replace(said, technique=(), findings=()))


def test_a_text_that_was_changed_is_not_understood() -> None:
    wording = load_wording("en")
    whole = [s.text for s in compose(CASES["images differ"], wording).findings]
    assert parse_findings(whole, wording).findings
    for was, becomes in (
        (" is highly likely", " is certain"),
        ("no lung nodule", "no lung tumour"),
        ("(91 %)", "91 %"),
    ):
        changed = [text.replace(was, becomes) for text in whole]
        assert changed != whole
        with pytest.raises(NotUnderstood):
            parse_findings(changed, wording)
    with pytest.raises(NotUnderstood, match="heart is enlarged"):
        parse_findings([*whole, "The heart is enlarged."], wording)
    with pytest.raises(NotUnderstood):
        parse_findings([f"{whole[-1][:-1]}; image 2 (AP): there is a tumour."], wording)


# Rules of language


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", CASES)
def test_no_result_is_ever_called_normal_or_certain(case: str, language: str) -> None:
    said = texts(compose(CASES[case], load_wording(language))).lower()
    assert not re.search(r"\b(normal|unremarkable|healthy|unauffällig|gesund|certain|sicher|diagnosis of)\b", said)
    assert not re.search(r"\((0|100) %\)", said)


@pytest.mark.parametrize(("language", "words"), [("en", "enlarge|cardiomegaly"), ("de", "vergrößer|kardiomegalie")])
def test_a_large_ratio_is_not_called_an_enlarged_heart(language: str, words: str) -> None:
    found = study(image(absent("mass", 0.1), measurements=ratio(0.71)))
    assert not re.search(words, texts(compose(found, load_wording(language))).lower())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_impression_of_an_image_is_one_paragraph_with_its_disclaimer(language: str) -> None:
    wording = load_wording(language)
    one = CASES["one image, no side"].images[0]
    said = impression_text(one, wording)
    assert said == impression_text(study(one), wording)
    assert "\n" not in said
    assert said.endswith(wording["disclaimer"])
    assert said.startswith("Priority critical" if language == "en" else "Priorität kritisch")


def test_no_finding_is_named_for_a_priority_that_it_does_not_give() -> None:
    one = replace(image(present("effusion", 0.8)), priority=Priority.CRITICAL)
    said = compose(study(one), load_wording("de")).impression[0].text
    assert said == "Priorität kritisch, innerhalb von Minuten zu befunden."


def test_composing_takes_less_than_two_milliseconds() -> None:
    wording, found = load_wording("en"), random_study(seeded(3))
    took = []
    for _ in range(30):
        start = time.perf_counter()
        compose(found, wording)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.002


# The table


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_table_has_every_word_that_findings_can_need(language: str) -> None:
    wording = load_wording(language)
    assert set(wording.table("cautions")) == set(Caution)
    assert set(wording.table("unread")) == set(Refusal)
    assert set(wording.table("why_not_evaluated")) == {*codes.REASONS, "unstated"}
    assert set(wording.table("sides")) == {*Laterality, "neither"}
    assert set(wording.table("views")) == set(View)
    assert set(wording.table("regions")) == set(REGIONS)
    assert set(wording.table("measurements")) == set(codes.MEASUREMENTS)
    assert set(wording.table("criteria.names")) == set(codes.CRITERIA) == {c.key for c in derive([], None).criteria}
    assert set(wording.table("criteria.senses")) == {sense.name.lower() for sense in Sense}
    named = {name.partition(".")[0] for name in wording.table("findings")}
    assert named == set(KEYS) == set(codes.finding_table()) - {"lung", "lung_right", "lung_left", "heart"}


def test_languages_have_digests_of_their_own_that_stay() -> None:
    assert load_wording("en").digest == load_wording("en").digest != load_wording("de").digest
    with pytest.raises(WordingInvalid, match=r"'fr'.*de, en"):
        load_wording("fr")


def test_a_site_words_single_entries_differently(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[findings.effusion]\nname = "Erguss"\nsubject = "ein Erguss"\nnone = "keinen Erguss"\n', "utf-8")
    wording = load_wording("de", site)
    found = study(image(present("effusion", 0.8, LEFT), absent("mass", 0.1)))
    report = compose(found, wording)
    assert report.findings[1].text == "Ein Erguss links ist wahrscheinlich (80 %)."
    assert report.findings[0].text == "Das Modell erkennt keine Raumforderung der Lunge (10 %)."
    assert wording.digest != load_wording("de").digest
    said = parse_findings([s.text for s in report.findings], wording)
    assert dict(said_by_image(said.findings, found)) == structured(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[findings.tumour]\nname = "tumour"', r"site\.toml: there is no entry findings\.tumour\.name; allowed here: "),
        ('[sides]\nup = "above"', r"there is no entry sides\.up; allowed here: sides\.right, sides\.left"),
        ('[states]\npresent = "{subject} is {confidence}"', r"states\.present has .* allowed, once each: .*\{side\}"),
        ('[states]\nabsent = "{list}{where}{where}"', r"allowed, once each: \{list\}, \{where\}"),
        ('[sides]\nleft = "{side}"', r"sides\.left has \{side\}; allowed, once each: no placeholder"),
        ('[sides]\nleft = "{0}"', r"sides\.left: \{0\} is not a plain placeholder; allowed: no placeholder"),
        ('[pieces]\nwhere = "on {images!r}"', r"pieces\.where: .*allowed: \{images\}"),
        ('[pieces]\nwhere = "on {images"', r"pieces\.where: .*allowed: \{images\}"),
        ('[sides]\nleft = ""', r"sides\.left is not one line"),
        ('[sides]\nleft = "left\\nright"', r"sides\.left is not one line"),
        ("[sides]\nleft = 1", r"sides\.left is not a text"),
        ('[sides]\nleft = "On the right"', r"sides\.left and sides\.right say the same"),
        ('[findings.mass]\nname = "lung nodule"', r"findings\.nodule\.name and findings\.mass\.name say the same"),
        ('decimal = "1"', r"site\.toml: decimal is '1'; allowed: \. or ,"),
        (
            '[findings.mass]\nnone = "Lung mass"',
            r"findings\.mass\.none and findings\.mass\.name say the same, .*change one",
        ),
        ('[findings.mass]\nnone = "fracture"', r"findings\.fracture\.name and findings\.mass\.none say the same"),
        (
            '[findings.mass]\nsubject = "a fracture"',
            r"findings\.fracture\.subject and findings\.mass\.subject say the same",
        ),
        ('[findings.mass]\nname = "mass on the left"', r"findings\.mass\.name has the words of sides\.left; name the"),
        ('[findings.mass]\nname = "mass, any"', r"findings\.mass\.name has ', ', which separates findings in a list"),
        ('[findings.mass]\nname = "mass and tumour"', r"findings\.mass\.name has ' and ', which separates"),
        (
            '[impression]\ncritical = "Priority urgent, to be read within hours{reason}"',
            r"impression\.urgent and .*critical",
        ),
        ('[sides]\nleft = "likely"', r"sides\.left and confidence\.likely say the same"),
        (
            '[elsewhere]\nundetermined = "{images}: not evaluated{side}{probability}"',
            r"states\.not_evaluated has the words of elsewhere\.undetermined, 'not evaluated'; change one of them, so "
            r"that what is undetermined is told from what is not evaluated",
        ),
        ('[impression]\nundetermined = "Not seen by the model: {list}"', r"has the words of elsewhere\.absent"),
        (
            '[states]\nundetermined = "{subject}{side} is possible{probability}{where}"',
            r"confidence\.possible, 'possible'",
        ),
        (
            '[states]\npresent = "{subject}{side} cannot be determined: {confidence}{probability}{where}"',
            r"told from what",
        ),
        (
            '[criteria.names]\nperipheral = "outer and upper"',
            r"criteria\.names\.peripheral has ' and ', which separates",
        ),
        (
            '[criteria.senses]\nless_than = "({value}; at most {threshold})"',
            r"less_than and .*at_most say the same",
        ),
        (
            '[criteria]\nabsent = "Cannot be determined{where}: {list}"',
            r"'cannot be determined'; change one of them, so that what is undetermined is told from what is absent",
        ),
        ("[sides", r"site\.toml: not a TOML file"),
    ],
)
def test_a_site_s_file_that_would_spoil_a_sentence_is_refused(text: str, message: str, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(text, "utf-8")
    with pytest.raises(WordingInvalid, match=message):
        load_wording("en", site)


def test_a_missing_file_and_a_missing_entry_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WordingInvalid, match=r"nowhere\.toml: cannot be read"):
        load_wording("en", tmp_path / "nowhere.toml")
    for language in LANGUAGES:
        shutil.copy(Path(wording_module.__file__).parent / f"{language}.toml", tmp_path)
    german = (tmp_path / "de.toml").read_text("utf-8")
    (tmp_path / "de.toml").write_text(german.replace('left = "links"\n', ""), "utf-8")
    monkeypatch.setattr(wording_module, "_TABLES", tmp_path)
    with pytest.raises(WordingInvalid, match=r"de\.toml: sides\.left is missing"):
        load_wording("de")

"""Every named input ends as a radiographer would expect, and ``docs/intake.md`` says what happens."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from intake.case import READ, Case
from intake.cases import all_cases
from intake.running import Answer, Runner, runner
from intake.table import DOCUMENT, document, rows, title, unexpected

from models.refusal import Refusal

pytestmark = pytest.mark.filterwarnings("ignore")  # the headers are odd on purpose

CASES = all_cases()


@pytest.fixture(scope="module")
def node() -> Iterator[Runner]:
    with runner() as started:
        yield started


@pytest.fixture(scope="module")
def answers(node: Runner) -> dict[str, Answer]:
    """What became of each case so far; each is run once."""
    return {}


def answer_of(case: Case, node: Runner, answers: dict[str, Answer]) -> Answer:
    if title(case) not in answers:
        answers[title(case)] = node.run(case)
    return answers[title(case)]


def parameters() -> list[object]:
    return [pytest.param(case, id=title(case), marks=[pytest.mark.shared] * case.needs_shared) for case in CASES]


@pytest.mark.parametrize("case", parameters())
def test_an_input_ends_as_a_radiographer_would_expect(
    case: Case, node: Runner, answers: dict[str, Answer], request: pytest.FixtureRequest
) -> None:
    if case.needs_shared:
        request.getfixturevalue("shared_data")  # skips where there is none
    assert not unexpected(case, answer_of(case, node, answers))


def test_every_input_has_a_name_of_its_own() -> None:
    assert len({title(case) for case in CASES}) == len(CASES) >= 80


def test_every_way_to_end_but_one_is_met_by_an_input() -> None:
    met = {word for case in CASES for word in case.expected}
    # without a pixel gate no site reads at all what the header leaves open; see tests/test_selection.py
    assert {code.value for code in Refusal} - met <= {Refusal.VIEW_UNKNOWN, Refusal.LUNGS_NOT_FOUND, Refusal.ROUTING}
    assert READ in met


def test_the_document_explains_every_code() -> None:
    text = DOCUMENT.read_text("utf-8")
    for code in Refusal:
        assert f"| `{code}` | {code.meaning} |" in text


def test_the_document_names_every_input_and_nothing_else() -> None:
    """Also where the real radiographs are absent: their rows are held against the names alone."""
    sections = re.split(r"^### ", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)[1:]
    for section in sections:
        heading, lines = section.splitlines()[0], [line for line in section.splitlines() if line.startswith("| ")][1:]
        cases = [case for case in CASES if f"{case.group[0].upper()}{case.group[1:]}" == heading]
        assert cases, f"docs/intake.md has a section that no case belongs to: {heading}"
        assert len(lines) == sum(len(case.expected) for case in cases)
    assert len(sections) == len({case.group for case in CASES})


def test_the_document_says_what_the_code_does(node: Runner, answers: dict[str, Answer]) -> None:
    lines = set(DOCUMENT.read_text("utf-8").splitlines())
    stale = [
        row
        for case in CASES
        if not case.needs_shared
        for row in rows(case, answer_of(case, node, answers))
        if row not in lines
    ]
    assert not stale, "docs/intake.md is not what the code does: run ./hilum intake-table --write"


def test_the_document_is_made_of_its_answers_alone(node: Runner, answers: dict[str, Answer]) -> None:
    """The text around the tables is the command's: nobody edited it by hand."""
    kept = [case for case in CASES if not case.needs_shared]
    known = {title(case): answer_of(case, node, answers) for case in kept}
    placeholders = {title(case): Answer((), 1) for case in CASES if case.needs_shared}
    fresh = document({**known, **placeholders}).split("## How an image is chosen")[1].split("### ")[0]
    assert fresh in DOCUMENT.read_text("utf-8")

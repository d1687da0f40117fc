"""``python -m tests.intake.table [--write]``: runs every named input and makes ``docs/intake.md`` of what became of it.

The rule: the document says what happened, not what should have; ``tests/test_intake_cases.py`` holds both together.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.refusal import Refusal
from orthanc_plugin.settings import REPOSITORY

from .case import PASSED_OVER, READ, Case
from .cases import all_cases
from .real import DATA
from .running import Answer, runner

DOCUMENT = REPOSITORY / "docs" / "intake.md"
_SHARED_MARK = " \\*"

_INTRODUCTION = """\
# Which images are read, and which are refused with a reason

{cases} named inputs that a node in a hospital meets, each a study of real DICOM bytes, and what Hilum makes of them:
{read} files are read, {refused} are refused with a code, {passed} are objects beside images and passed over. Made by
`./hilum intake-table`, which sends every input through the node's own flow (`orthanc_plugin/reading/study.py`: the
isolated intake process, selection, rendering, the pixel gate, the models, the study logic, the encoding of results); a
test holds this document against the code. Most pictures are computed chests; inputs marked \\* are made from real
radiographs that are not part of this repository.

**Research software, not a medical device. Not for diagnosis.**

## How an image is chosen

The evidence is taken in this order; the first decisive piece wins, and all that was looked at is kept with the answer.

| | evidence | source | what it decides |
|---|---|---|---|
| 1 | SOP Class UID, Modality | PS3.4 B.5, PS3.3 C.7.3.1.1.1 | CR, DX for presentation and RG \
are looked at; a secondary capture only when its modality is one of these or the chest is named |
| 2 | Presentation Intent Type, Image Type, Series Description | PS3.3 C.8.11.1.1.1, C.7.6.1.1.2 | FOR PROCESSING, \
localizers and vendors' post-processing are refused |
| 3 | Number of Frames | PS3.3 C.7.6.6 | one frame only |
| 4 | View Code Sequence | PS3.3 C.8.11.5, PS3.16 CID 4010 | frontal or not; retired SNOMED RT codes are known |
| 5 | View Position | PS3.3 C.8.1.1, C.8.11.5 | frontal or not; padded, in lower case, several words |
| 6 | Patient Orientation | PS3.3 C.7.6.1.1.1 | a lateral view; how a frontal one is turned to hang |
| 7 | Series Description, Protocol Name, Study Description | PS3.3 C.7.3.1, C.7.2.1 | frontal or not, in several \
languages; "PA and lateral" tells nothing of one image |
| 8 | descriptions, Body Part Examined | PS3.3 C.7.3.1 | another body part in words refuses; Body Part \
Examined alone is often wrong and asks for a look at the pixels |
| 9 | Patient's Age, Patient's Birth Date | PS3.3 C.7.2.2, C.7.1.1, PS3.5 6.2 (AS) | younger than the site's minimum \
age |
| 10 | Pixel Data | PS3.5 8 and Annex A, PS3.3 C.7.6.3, C.11.1, C.11.2 | must decode completely and be shown as the \
header says |
| 11 | the pixel gate | `models/pixel_gate/docs/README.md` | tells the view where the header is silent; refuses what \
contradicts the header |
| 12 | the other images of the study | PS3.3 C.7.6.1 (Irradiation Event UID, acquisition times) | one exposure is read \
once |

## What the codes mean

| code | meaning |
|---|---|
{codes}

## The inputs

"Decided" names the evidence that was looked at for a read image, and why a refused one was refused, with the last piece
of evidence in brackets. Cautions limit a result; their meaning is told in the worklist.

{tables}"""


def run_all(cases: Iterable[Case], progress: Progress | None = None) -> dict[str, Answer]:
    """What becomes of each case, by `title`."""
    chosen = list(cases)
    bar = progress.add_task("inputs", total=len(chosen)) if progress else None
    answers = {}
    with runner() as node:
        for case in chosen:
            answers[title(case)] = node.run(case)
            if progress and bar is not None:
                progress.advance(bar)
    return answers


def title(case: Case) -> str:
    """Group and name: one for each case."""
    return f"{case.group}: {case.name}"


def rows(case: Case, answer: Answer) -> list[str]:
    """The lines of the table for one case: one for each of its files."""
    lines = []
    for number, fate in enumerate(answer.fates, start=1):
        several = f", file {number} of {len(answer.fates)}" if len(answer.fates) > 1 else ""
        late = ", late" if number > len(answer.fates) - case.late else ""
        outcome = fate.outcome if fate.outcome in (READ, PASSED_OVER) else "refused"
        code = f"`{fate.outcome}`" if outcome == "refused" else ""
        cautions = ", ".join(f"`{caution}`" for caution in fate.cautions)
        mark = _SHARED_MARK if case.needs_shared else ""
        cells = (_cell(f"{case.name}{several}{late}") + mark, outcome, code, _cell(fate.decided), cautions)
        lines.append(f"| {' | '.join(cells)} |".replace("  |", " |"))
    return lines


def document(answers: Mapping[str, Answer]) -> str:
    """The whole of ``docs/intake.md``."""
    cases = all_cases()
    outcomes = [fate.outcome for answer in answers.values() for fate in answer.fates]
    read, passed = outcomes.count(READ), outcomes.count(PASSED_OVER)
    tables = []
    for group in dict.fromkeys(case.group for case in cases):
        head = [f"### {group[0].upper()}{group[1:]}", "", "| input | outcome | code | decided | cautions |"]
        lines = [row for case in cases if case.group == group for row in rows(case, answers[title(case)])]
        tables.append("\n".join([*head, "|---|---|---|---|---|", *lines]) + "\n")
    return _INTRODUCTION.format(
        cases=len(cases),
        read=read,
        refused=len(outcomes) - read - passed,
        passed=passed,
        codes="\n".join(f"| `{code}` | {code.meaning} |" for code in Refusal),
        tables="\n".join(tables),
    )


def unexpected(case: Case, answer: Answer) -> str:
    """How an answer differs from what the case ought to come to; empty when it does not."""
    outcomes = tuple(fate.outcome for fate in answer.fates)
    if outcomes != tuple(str(word) for word in case.expected):
        told = "; ".join(f"{fate.outcome} ({fate.decided})" for fate in answer.fates)
        return f"expected {', '.join(case.expected)}; came to {told}"
    if missing := case.cautions - {caution for fate in answer.fates for caution in fate.cautions}:
        return f"without the caution {', '.join(sorted(missing))}"
    version = 2 if case.late else 1
    return f"version {answer.version} of the answer instead of {version}" if answer.version != version else ""


def main() -> int:
    """Run all cases, say which end otherwise than they ought to, and with ``--write`` make the document."""
    parser = argparse.ArgumentParser(prog="intake-table", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/intake.md")
    write = parser.parse_args().write
    console = Console(stderr=True)
    if not DATA.is_dir() or os.environ.get("HILUM_WITHOUT_SHARED"):
        console.print("the real radiographs of ../shared/data are absent: the table would lack their rows")
        return 2
    warnings.simplefilter("ignore")  # the headers are odd on purpose
    logging.disable(logging.WARNING)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                   console=console)  # fmt: skip
    with bar:
        answers = run_all(all_cases(), bar)
    faults = {title(case): why for case in all_cases() if (why := unexpected(case, answers[title(case)]))}
    for name, why in faults.items():
        console.print(f"{name}: {why}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(answers)} inputs, {len(faults)} of them end otherwise than they ought to")
    if write:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document(answers), "utf-8")
        console.print(f"written: {DOCUMENT.relative_to(REPOSITORY)}")
    return 1 if faults else 0


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())

"""What a study states about each finding, image by image: the ground that sentences are made from and checked against.

The rule: images that say the same (state, side, degree of confidence and, where it was not evaluated, why) are one
statement with the range of their probabilities; nothing is averaged, and an image that says something else keeps a
statement of its own. About an image that was withdrawn nothing is stated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dicom_sr.codes import finding_codes
from models.findings import Finding, FindingState, Laterality
from models.study import StudyFindings

# Of a finding that is present, by its probability in whole per cent as the report prints it.
HIGHLY_LIKELY, LIKELY = 90, 70
# Regions and their findings, in the order of the report.
REGIONS: dict[str, tuple[str, ...]] = {
    "lungs": (
        "lung_opacity", "consolidation", "infiltration", "atelectasis", "mass", "nodule", "lung_lesion",
        "calcification", "edema", "emphysema", "fibrosis", "pneumonia", "tuberculosis", "covid_typical",
        "covid_indeterminate", "covid_atypical", "covid_negative",
    ),
    "pleura": ("pneumothorax", "effusion", "pleural_thickening", "pleural_other"),
    "heart": ("cardiomegaly", "enlarged_cardiomediastinum", "mediastinal_widening"),
    "bones": ("fracture",),
    "devices": ("support_devices",),
    "other": ("pneumoperitoneum", "hernia", "no_finding"),
}  # fmt: skip
# Entry of ``sides`` for what is absent on both.
NEITHER = "neither"
# The most telling first.
STATES = tuple(FindingState)
# What images must have alike to make one statement: state, side, degree, why, and whether there is a probability.
_Alike = tuple[FindingState, Laterality | None, str, str, bool]


@dataclass(frozen=True)
class Statement:
    """What one or more images say alike about one finding.

    Parameters
    ----------
    key
        Of the finding.
    side
        None also for a finding whose site has no sides.
    probability, lowest
        The highest and the lowest of these images, 0 to 1.
    degree
        How sure it is that it is present, as an entry of ``confidence``; empty for the other states.
    why
        Why it was not evaluated, as an entry of ``why_not_evaluated``; empty for the other states.
    images
        Positions in the study, from 0.
    """

    key: str
    state: FindingState
    side: Laterality | None
    probability: float | None
    degree: str
    why: str
    images: tuple[int, ...]
    lowest: float | None = None


def statements(study: StudyFindings) -> dict[str, tuple[Statement, ...]]:
    """What the images say about each finding, the most telling first; one statement where they agree."""
    alike: dict[str, dict[_Alike, list[tuple[int, Finding]]]] = {}
    for position, image in enumerate(study.images):
        for finding in () if image.withdrawn else image.findings:
            evaluated, given = finding.state is not FindingState.NOT_EVALUATED, finding.probability
            side = finding.laterality if evaluated and finding_codes(finding.key).paired else None
            degree = ""
            if finding.state is FindingState.PRESENT:
                degree = "derived" if finding.key in image.derived else confidence(given)
            why = "" if evaluated else finding.reason or "unstated"
            what = finding.state, side, degree, why, given is None
            alike.setdefault(finding.key, {}).setdefault(what, []).append((position, finding))
    return {key: tuple(sorted(_merged(key, what), key=telling)) for key, what in alike.items()}


def can_be_stated(key: str, *, outlined: bool = False) -> bool:
    """Whether results have codes and words for a finding, and for an outline of it."""
    stated = any(key in keys for keys in REGIONS.values())
    return stated and (not outlined or finding_codes(key).category is not None)


def confidence(probability: float | None) -> str:
    """The degree, as an entry of ``confidence``, for what is present; the lowest where there is no probability."""
    percent = round(100 * (probability or 0.0))
    return "highly_likely" if percent >= HIGHLY_LIKELY else "likely" if percent >= LIKELY else "possible"


def _merged(key: str, alike: dict[_Alike, list[tuple[int, Finding]]]) -> Iterable[Statement]:
    for (state, side, degree, why, _), findings in alike.items():
        given = [f.probability for _, f in findings if f.probability is not None and not why]
        images = tuple(dict.fromkeys(position for position, _ in findings))
        yield Statement(key, state, side, max(given, default=None), degree, why, images, min(given, default=None))


def telling(statement: Statement) -> tuple[int, float, tuple[int, ...]]:
    """Sorts statements: by state, the most telling first; then the more probable, then the earlier image."""
    return STATES.index(statement.state), -(statement.probability or 0.0), statement.images

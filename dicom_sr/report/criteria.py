"""The criteria of a derived finding in sentences: those that are met, those that are not, and the others.

The rule: at most three sentences for an image, and none where nothing speaks for an appearance; every criterion stands
in one of them with its number and its threshold, so finely that they bear out what is said of it. Left out are those
that cannot be met for want of an opacity, which is a criterion itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from dicom_sr.report.wording import Wording, listed
from models.findings import OF_ABSENCE, PROBABILITY, Criterion, FindingState, ImageFindings, percent

# Digits behind the point: of a probability in per cent, and of any other number.
_PERCENT, _SHARE, _FINEST = 0, 2, 6
# The states of one sentence.
_SENTENCES = (
    (FindingState.PRESENT,),
    (FindingState.ABSENT,),
    (FindingState.UNDETERMINED, FindingState.NOT_EVALUATED),
)


def criteria_sentences(image: ImageFindings, wording: Wording, where: str) -> Iterator[str]:
    """The sentences of one image, without period.

    Parameters
    ----------
    where
        The image, with a space before it; empty where it need not be named.
    """
    shown = [criterion for criterion in image.criteria if criterion.reason != "no_opacity"]
    if not any(criterion.met and criterion.speaks_for not in OF_ABSENCE for criterion in shown):
        return
    for states in _SENTENCES:
        clauses = [
            wording[f"criteria.{state}"].format_map({"list": listed(items, wording), "where": where})
            for state in states
            if (items := [_named(criterion, wording) for criterion in shown if criterion.state is state])
        ]
        if clauses:
            yield "; ".join(clauses)


def _named(criterion: Criterion, wording: Wording) -> str:
    """``share of opacity in the outer lung half (0.78; at least 0.5)``."""
    name, value, threshold = wording[f"criteria.names.{criterion.key}"], criterion.value, criterion.threshold
    if value is None or threshold is None:
        return name
    if criterion.unit == PROBABILITY:
        digits = _digits(100 * value, 100 * threshold, _PERCENT)
        given = f"{100 * value:.{digits}f}" if digits else percent(value)
        said, asked = f"{given} %", f"{100 * threshold:.6g} %"
    else:
        digits = _digits(value, threshold, _SHARE)
        said, asked = f"{round(value, digits):.7g}", f"{threshold:.7g}"
    said, asked = (number.replace(".", wording["decimal"]) for number in (said, asked))
    if criterion.reason == "not_solitary":
        said = wording["criteria.places"].format_map({"value": said})
    sense = wording[f"criteria.senses.{criterion.sense.name.lower()}"].format_map({"value": said, "threshold": asked})
    return f"{name} {sense}"


def _digits(value: float, threshold: float, fewest: int) -> int:
    """How many digits it takes to see on which side of the threshold a value lies."""
    for digits in range(fewest, _FINEST):
        shown = round(value, digits)
        if (shown > threshold) == (value > threshold) and (shown < threshold) == (value < threshold):
            return digits
    return _FINEST

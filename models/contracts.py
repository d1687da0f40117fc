"""What is to be known to read masks, boxes and exclusive classes: the sections of a bundle's contract of these names.

The rule: what a training run judged is what is done here; a section that cannot be followed makes its bundle invalid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SECTIONS = ("masks", "boxes", "classes")


@dataclass(frozen=True)
class MaskContract:
    """What becomes the mask of a finding, from the output ``masks`` (n, findings, size, size): logits of pixels.

    A network that returns one tensor returns these.

    Parameters
    ----------
    threshold
        Probability from which a pixel belongs to the mask.
    least_area
        Pixels of the network's picture below which a mask is emptied.
    score
        From what a finding's logit is taken. ``empty``: it is minus the output of that name. ``area``: it is that of
        the `least_area`-th highest pixel (the highest for 0), at which the mask would just not be emptied.
    empty_threshold
        Probability of being empty (sigmoid of ``empty``) above which a mask is emptied.
    """

    threshold: float
    least_area: int
    score: str = "area"
    empty_threshold: float = 1.0

    def check(self, _: Sequence[str]) -> None:
        """Raise ValueError when it cannot be followed."""
        if self.score not in ("area", "empty") or not 0.0 < self.threshold < 1.0 or self.least_area < 0:
            raise ValueError(f"{self} cannot be followed")


@dataclass(frozen=True)
class BoxContract:
    """What becomes a box of a finding; the finding's logit is that of its surest box's confidence.

    Parameters
    ----------
    head
        ``heat``: outputs of ``models.networks.HeatDetector``, read by its ``decode``. ``anchors``: those of
        ``models.networks.AnchorBoxes``; of two boxes of a finding that overlap too much the less sure one is dropped.
    least_score
        Confidence, 0 to 1, from which a box is one.
    none_score
        Confidence that stands for that of the surest box where there is none; no confidence counts for less, or for
        more than 1 less this.
    limit
        Boxes on a picture at most, the surest.
    draw_from
        Finding to the confidence from which a box is drawn.
    overlap
        Intersection over union above which two boxes are one (``anchors``).
    """

    head: str
    least_score: float
    none_score: float
    limit: int
    draw_from: Mapping[str, float]
    overlap: float = 0.3

    def check(self, keys: Sequence[str]) -> None:
        """Raise ValueError when it cannot be followed."""
        if self.head not in ("heat", "anchors") or not 0.0 <= self.least_score < 1.0 or self.limit < 1:
            raise ValueError(f"{self} cannot be followed")
        if not 0.0 < self.none_score < 0.5 or set(keys) - set(self.draw_from):
            raise ValueError(f"{self} does not say from where on a box is drawn for each of {', '.join(keys)}")


@dataclass(frozen=True)
class ClassContract:
    """How exclusive classes are told: a finding's probability is its share in softmax(logits / temperature).

    Only as many logits as there are findings are classes; one more weighs the images of a study and is not read. Slope
    and intercept of the findings are not used. One class at most is called present: the most probable one.
    """

    temperature: float

    def check(self, _: Sequence[str]) -> None:
        """Raise ValueError when it cannot be followed."""
        if not self.temperature > 0.0:
            raise ValueError(f"temperature {self.temperature!r} is not above 0")


def read_section(
    section: Mapping[str, Any], name: str, keys: Sequence[str]
) -> MaskContract | BoxContract | ClassContract:
    """The section of an interpreter.

    Parameters
    ----------
    section
        The contract, as JSON has it.
    name
        One of `SECTIONS`.
    keys
        Of the findings.

    Raises
    ------
    KeyError, TypeError, ValueError
        When it is not there, is of another form, or cannot be followed.
    """
    kinds = {"masks": MaskContract, "boxes": BoxContract, "classes": ClassContract}
    made: MaskContract | BoxContract | ClassContract = kinds[name](**section[name])
    made.check(keys)
    return made

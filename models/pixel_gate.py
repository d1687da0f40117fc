"""Whether the pixels show an upright frontal chest radiograph of an adult: the last word after the header's evidence.

The rule: the gate can refuse what the header accepts, and tell a view where the header is silent; it never turns a
picture round, for the side of the heart proves nothing (situs inversus). numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

FRONTAL = "frontal"
CHILD = "child"
OTHER = "other"
# What a picture can be, in the order of the network's outputs, and what its mirror image is.
CLASSES = {
    FRONTAL: "mirrored",
    "mirrored": FRONTAL,
    CHILD: CHILD,
    "turned_left": "turned_right",
    "turned_right": "turned_left",
    "upside_down": "upside_down",
    "inverted": "inverted",
    "lateral": "lateral",
    OTHER: OTHER,
}
MIRRORED = tuple(list(CLASSES).index(mirror) for mirror in CLASSES.values())


@dataclass(frozen=True)
class GateContract:
    """How the outputs of the gate's network are read.

    Parameters
    ----------
    classes
        `CLASSES`, in the order of the outputs.
    slope, intercept
        Calibration of the score (Platt, 1999).
    threshold
        Score below which a picture is refused.
    """

    classes: tuple[str, ...]
    slope: float
    intercept: float
    threshold: float


@dataclass(frozen=True)
class GateAnswer:
    """What the pixels show.

    Parameters
    ----------
    score
        0 to 1: calibrated probability of an upright, unmirrored frontal chest radiograph of an adult.
    shows
        The most probable class; ``other`` when none but `FRONTAL` has half of the probability.
    accepted
        Whether the score reaches the threshold.
    doubtful
        Whether it does although something else is more probable.
    """

    score: float
    shows: str
    accepted: bool
    doubtful: bool = False


def interpret(logits: FloatArray, contract: GateContract, *, children: bool = False) -> GateAnswer:
    """Read the outputs for one picture.

    Parameters
    ----------
    logits
        Shape (classes,).
    children
        Whether the site has children read: then their chests count as frontal ones.
    """
    evidence = margin(logits, contract.classes, children=children)
    score = float(1.0 / (1.0 + np.exp(-np.clip(contract.slope * evidence + contract.intercept, -30.0, 30.0))))
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    shows = contract.classes[int(np.argmax(logits))]
    wanted = shows == FRONTAL or (children and shows == CHILD)
    accepted = score >= contract.threshold
    if (not wanted and float(shares.max()) < 0.5) or (shows == CHILD and children and not accepted):
        shows = OTHER  # no single word fits
    return GateAnswer(score, shows, accepted, doubtful=accepted and not wanted)


def margin(logits: FloatArray, classes: tuple[str, ...], *, children: bool = False) -> float:
    """Log-odds of a frontal chest against everything else: the logit of its share of the softmax."""
    wanted = np.array([name == FRONTAL or (children and name == CHILD) for name in classes])
    values = logits.astype(np.float64)
    return float(np.logaddexp.reduce(values[wanted]) - np.logaddexp.reduce(values[~wanted]))

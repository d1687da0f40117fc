"""From exclusive classes (interpreter ``classes``) to findings of which one at most is called present.

The rule: the probabilities of the classes add up to 1, as judged (``training.judging.appearance``); a class is called
present where its probability reaches its threshold and no other class is more probable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from models.bundle import FindingContract
from models.calls import called
from models.contracts import ClassContract
from models.findings import Finding, FindingState


def interpret(
    logits: npt.NDArray[np.float32], *, contract: Sequence[FindingContract], reading: ClassContract, model: str
) -> tuple[Finding, ...]:
    """Read the logits for one image, of shape (classes,) or (classes + 1,): a finding for each of `contract`."""
    shares = probabilities(logits[: len(contract)].astype(np.float64), reading.temperature)
    surest = int(shares.argmax())
    found = (called(round(float(shares[c.output]), 6), c, model) for c in contract)
    return tuple(
        replace(finding, state=FindingState.UNDETERMINED)
        if finding.state is FindingState.PRESENT and c.output != surest
        else finding
        for c, finding in zip(contract, found, strict=True)
    )


def probabilities(logits: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Shares of the classes, of the shape of the logits (..., classes); they add up to 1."""
    return np.asarray(softmax(logits / temperature, axis=-1))

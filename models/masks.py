"""From the outlines of a network (interpreter ``masks``) to findings with state, probability, side and mask.

The rule: a mask is shown only of a finding that is called present, by a network whose outlines were shown to lie on it;
what is judged (``training.judging.segmentation``) and what is shown are both made by `outlined` and `image_logits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from models.bundle import FindingContract
from models.calls import calibrate, called, sigmoid
from models.contracts import MaskContract
from models.findings import MIDLINE, BoolMask, Finding, FindingState, SegmentMask
from models.places import midline, side_of_mask
from models.rendering import Frame

FloatArray = npt.NDArray[np.float32]
# Outputs of a network for one picture, by name: ``masks`` (findings, size, size), and ``empty`` (findings,) if it has
# such a head. A bare tensor is called ``logits``.
Outputs = Mapping[str, FloatArray]


def interpret(
    output: Outputs,
    frame: Frame,
    *,
    contract: Sequence[FindingContract],
    reading: MaskContract,
    segments: Sequence[SegmentMask],
    model: str,
) -> tuple[tuple[Finding, ...], tuple[SegmentMask, ...]]:
    """Read the outputs for one image.

    Parameters
    ----------
    segments
        Lungs of the same image, in stored pixels, to tell sides; may be empty.

    Returns
    -------
    findings
        One for each of `contract`.
    segments
        One for each finding that is called present and has pixels.
    """
    middle = midline(segments, frame)
    logits, masks = image_logits(output, reading), outlined(output, reading)
    findings, shown = [], []
    for c in contract:
        finding = called(calibrate(float(logits[c.output]), c), c, model)
        if finding.state is FindingState.PRESENT and c.localises and masks[c.output].any():
            stored = frame.mask_to_stored(sigmoid(_fields(output)[c.output]).astype(np.float32), reading.threshold)
            if stored.any():
                side = None if c.key in MIDLINE else side_of_mask(masks[c.output], middle)
                finding = replace(finding, laterality=side)
                shown.append(SegmentMask(c.key, stored, model))
        findings.append(finding)
    return tuple(findings), tuple(shown)


def outlined(output: Outputs, reading: MaskContract) -> BoolMask:
    """Masks in the network's picture, shape (findings, size, size); those that the contract empties are empty."""
    masks: BoolMask = sigmoid(_fields(output)) >= reading.threshold
    kept = masks.sum(axis=(1, 2)) >= reading.least_area
    if reading.score == "empty":
        kept &= sigmoid(output["empty"]) <= reading.empty_threshold
    return np.asarray(masks & kept[:, None, None])


def image_logits(output: Outputs, reading: MaskContract) -> FloatArray:
    """Scores of the image, shape (findings,), before calibration; see ``MaskContract.score``."""
    if reading.score == "empty":
        return -output["empty"]
    pixels = _fields(output).reshape(len(_fields(output)), -1)
    rank = min(max(1, reading.least_area), pixels.shape[1])
    return np.asarray(np.partition(pixels, -rank, axis=1)[:, -rank])


def _fields(output: Outputs) -> FloatArray:
    return output["masks"] if "masks" in output else output["logits"]

"""From the outputs of ``chest_findings`` to findings with state, probability, regions and side. numpy and scipy only.

The rule: a finding that the evidence does not carry is not evaluated, whatever its score; and a box is drawn, or a heat
map shown, only from a map that was shown to point at the finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.bundle import FindingContract
from models.findings import MIDLINE, BoolMask, Finding, FindingState, Laterality, Region, SaliencyMap, SegmentMask
from models.rendering import Frame, on_grid, resize

FloatArray = npt.NDArray[np.float32]

# A box encloses where the map reaches this share of the way from its median to its peak.
_BOX_LEVEL = 0.5
_MOST_BOXES = 3
_SMALLEST_BOX = 0.002  # share of the picture
# A second box must reach this share of the first one's peak.
_SECOND_PEAK = 0.6
# Heat maps are given with this long side, in cells: finer than any map is, and far smaller than an image.
_SALIENCY_SIDE = 128


def interpret(
    logits: FloatArray,
    maps: FloatArray,
    frame: Frame,
    *,
    contract: Sequence[FindingContract],
    segments: Sequence[SegmentMask],
    model: str,
) -> tuple[tuple[Finding, ...], tuple[SaliencyMap, ...]]:
    """Read the outputs for one image.

    Parameters
    ----------
    logits, maps
        Shapes (outputs,) and (outputs, h, w).
    segments
        Lungs of the same image, in stored pixels, to tell sides; may be empty.

    Returns
    -------
    findings
        One for each of `contract`.
    saliency
        One for each finding that has regions, from the array in which they were drawn.
    """
    midline = _midline(segments, frame)
    findings, saliency = [], []
    for c in contract:
        finding = _finding(c, float(logits[c.output]), model)
        if finding.state is FindingState.PRESENT and c.localises and finding.probability is not None:
            # four times finer, the contours of a map stop being stairs
            heat = resize(maps[c.output], maps.shape[1] * 4, maps.shape[2] * 4)
            regions = _regions(heat, finding.probability, frame, None if c.key in MIDLINE else midline)
            finding = replace(finding, regions=regions, laterality=_side(regions))
            if regions:
                saliency.append(SaliencyMap(c.key, _saliency(heat, frame), model))
        findings.append(finding)
    return tuple(findings), tuple(saliency)


def state_of(probability: float, contract: FindingContract) -> FindingState:
    """Present from the upper threshold, absent below the lower one, undetermined between them."""
    if probability >= round(contract.threshold_present, 6):  # as finely as both are given
        return FindingState.PRESENT
    return FindingState.ABSENT if probability < contract.threshold_absent else FindingState.UNDETERMINED


def calibrate(logit: float, contract: FindingContract) -> float:
    """From a logit to a probability (Platt scaling), as finely as findings give it."""
    return round(float(1.0 / (1.0 + np.exp(-np.clip(contract.slope * logit + contract.intercept, -30.0, 30.0)))), 6)


def relative(heat: FloatArray) -> FloatArray:
    """A map from 0 at its median, and below, to 1 at its peak; all 0 when it is flat."""
    peak, ground = float(heat.max()), float(np.median(heat))
    if peak <= ground:
        return np.zeros_like(heat)
    share: FloatArray = np.clip((heat - ground) / (peak - ground), 0.0, 1.0).astype(np.float32)
    return share


def boxes_of(heat: FloatArray, probability: float) -> list[tuple[float, float, float, float, float]]:
    """Boxes (x, y, width, height, score), in pixels of the map, around the hot parts; the hottest first."""
    share = relative(heat)
    parts, _ = ndimage.label(share >= _BOX_LEVEL)
    boxes = []
    for part, place in enumerate(ndimage.find_objects(parts), start=1):
        strength = float(share[place][parts[place] == part].max())
        rows, columns = place
        width, height = columns.stop - columns.start, rows.stop - rows.start
        if strength >= _SECOND_PEAK and width * height >= _SMALLEST_BOX * heat.size:
            score = round(probability * strength, 6)
            boxes.append((float(columns.start), float(rows.start), float(width), float(height), score))
    return sorted(boxes, key=lambda box: -box[4])[:_MOST_BOXES]


def _finding(contract: FindingContract, logit: float, model: str) -> Finding:
    if not contract.evaluated:
        return Finding(contract.key, FindingState.NOT_EVALUATED, reason="evidence", model=model)
    probability = calibrate(logit, contract)
    state, threshold = state_of(probability, contract), round(contract.threshold_present, 6)
    return Finding(contract.key, state, probability=probability, threshold=threshold, model=model)


def _regions(heat: FloatArray, probability: float, frame: Frame, midline: float | None) -> tuple[Region, ...]:
    # the map's cells cover the picture evenly
    cell = frame.size / heat.shape[0]
    regions = []
    for x, y, width, height, score in boxes_of(heat, probability):
        left, top, w, h = frame.box_to_stored(x * cell, y * cell, width * cell, height * cell)
        right, bottom, left, top = on_grid(left + w), on_grid(top + h), on_grid(left), on_grid(top)
        if right > left and bottom > top:
            side = None if midline is None else _half((x + width / 2) * cell, midline)
            regions.append(Region(left, top, right - left, bottom - top, score, side))
    return tuple(regions)


def _half(x: float, midline: float) -> Laterality:
    return Laterality.RIGHT if x < midline else Laterality.LEFT


def _saliency(heat: FloatArray, frame: Frame) -> FloatArray:
    """The same map over the stored image; its strongest place within the image is 1."""
    values = frame.map_to_stored(relative(heat), _SALIENCY_SIDE)
    values /= values.max()  # a region reaches into the image, so that something is hot there
    return values


def _side(regions: tuple[Region, ...]) -> Laterality | None:
    sides = {region.laterality for region in regions}
    if not sides or None in sides:
        return None
    return sides.pop() if len(sides) == 1 else Laterality.BILATERAL


def _midline(segments: Sequence[SegmentMask], frame: Frame) -> float:
    """Column of the network's picture half-way between the two lungs, or the middle of the image."""
    masks: dict[str, BoolMask] = {s.key: frame.hanging.apply(s.mask) for s in segments}
    if "lung_right" in masks and "lung_left" in masks:
        centres = [float(np.flatnonzero(masks[key].any(axis=0)).mean()) for key in ("lung_right", "lung_left")]
        return frame.left + (sum(centres) / 2 + 0.5) * frame.width / int(masks["lung_right"].shape[1])
    return frame.left + frame.width / 2

"""From logits and maps (interpreter ``scores``) to findings with state, probability, regions and side.

The rule: a box is drawn, or a heat map shown, only from a map that was shown to point at the finding; a network without
maps locates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.bundle import FindingContract
from models.calls import calibrate, called
from models.findings import MIDLINE, BoolMask, Finding, FindingState, Region, SaliencyMap, SegmentMask
from models.places import cut_to_lungs, midline, region_of, together
from models.rendering import Frame
from models.resampling import resize

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
    maps: FloatArray | None,
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
        Shapes (outputs,) and (outputs, h, w); None where the network has no maps.
    segments
        Lungs of the same image, in stored pixels, to tell sides and to cut boxes; may be empty.

    Returns
    -------
    findings
        One for each of `contract`.
    saliency
        One for each finding that has regions, from the array in which they were drawn.
    """
    middle = midline(segments, frame)
    findings, saliency = [], []
    for c in contract:
        probability = calibrate(float(logits[c.output]), c)
        finding = called(probability, c, model)
        if finding.state is FindingState.PRESENT and c.localises and maps is not None:
            # four times finer, the contours of a map stop being stairs
            heat = resize(maps[c.output], maps.shape[1] * 4, maps.shape[2] * 4)
            regions = _regions(heat, probability, frame, None if c.key in MIDLINE else middle)
            if c.within_lungs:
                cut = (cut_to_lungs(region, segments) for region in regions)
                regions = tuple(region for region in cut if region is not None)
            finding = replace(finding, regions=regions, laterality=together(r.laterality for r in regions))
            if regions:
                saliency.append(SaliencyMap(c.key, _saliency(heat, frame), model))
        findings.append(finding)
    return tuple(findings), tuple(saliency)


def outlines(
    findings: Sequence[Finding],
    maps: FloatArray,
    frame: Frame,
    *,
    contract: Sequence[FindingContract],
    segments: Sequence[SegmentMask],
    model: str,
) -> tuple[SegmentMask, ...]:
    """What of the lungs each finding takes up that is called present: one segment for each that has pixels.

    Parameters
    ----------
    findings
        From `interpret`, one for each of `contract`.
    maps
        Shape (outputs, h, w).
    segments
        Without both lungs there is nothing to outline in.
    """
    lungs = [s.mask for s in segments if s.key in ("lung_right", "lung_left")]
    if len(lungs) != 2:
        return ()
    shown = []
    for c, finding in zip(contract, findings, strict=True):
        if c.outline_from is not None and finding.state is FindingState.PRESENT:
            mask = outline(maps[c.output], frame, c.outline_from, np.logical_or(*lungs))
            if mask.any():
                shown.append(SegmentMask(c.key, mask, model))
    return tuple(shown)


def outline(heat: FloatArray, frame: Frame, least: float, lungs: BoolMask) -> BoolMask:
    """Where a map reaches `least` within the lungs: shape (rows, columns) of the stored image, as `lungs`."""
    return np.asarray(frame.mask_to_stored(resize(heat, frame.size, frame.size), least) & lungs)


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


def _regions(heat: FloatArray, probability: float, frame: Frame, middle: float | None) -> tuple[Region, ...]:
    # the map's cells cover the picture evenly
    cell = frame.size / heat.shape[0]
    found = (
        region_of((x * cell, y * cell, width * cell, height * cell), frame, score, middle)
        for x, y, width, height, score in boxes_of(heat, probability)
    )
    return tuple(region for region in found if region is not None)


def _saliency(heat: FloatArray, frame: Frame) -> FloatArray:
    """The same map over the stored image; its strongest place within the image is 1."""
    values = frame.map_to_stored(relative(heat), _SALIENCY_SIDE)
    values /= values.max()  # a region reaches into the image, so that something is hot there
    return values

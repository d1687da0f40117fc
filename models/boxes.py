"""From the boxes of a detector (interpreter ``boxes``) to findings with state, probability, regions and side.

The rule: the score of an image is that of its surest box; and a box is drawn only of a finding that is called present,
by a detector that was shown to point at it. What is judged (``training.judging.detection``) and what is said are both
made by `boxes_of`, `within` and `image_logit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import FindingContract
from models.calls import calibrate, called, sigmoid
from models.contracts import BoxContract
from models.findings import MIDLINE, Finding, FindingState, SegmentMask
from models.places import midline, region_of, together
from models.rendering import Frame

FloatArray = npt.NDArray[np.float32]
Outputs = Mapping[str, FloatArray]  # of a network for one picture, by name

_MOST_CANDIDATES = 1000  # anchors of one kind, the surest, among which neighbours are looked for


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes on one picture, the surest first.

    Parameters
    ----------
    corners
        Shape (k, 4): x0, y0, x1, y1 in pixels of the network's picture; each has an area.
    scores
        Shape (k,): confidences, 0 to 1.
    kinds
        Shape (k,): the output that each belongs to.
    """

    corners: FloatArray
    scores: FloatArray
    kinds: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Boxes:
        """Those at some places, or where a mask (k,) says so."""
        return Boxes(self.corners[chosen], self.scores[chosen], self.kinds[chosen])

    def of(self, kind: int) -> Boxes:
        """Those of one output."""
        return self.only(self.kinds == kind)


def prepare(threads: int) -> None:
    """Import what tells boxes from outputs, before there is a patient who waits for it."""
    import torch
    from monai.data import box_utils  # noqa: F401

    from models import networks  # noqa: F401

    torch.set_num_threads(threads)


def interpret(
    output: Outputs,
    frame: Frame,
    *,
    contract: Sequence[FindingContract],
    reading: BoxContract,
    segments: Sequence[SegmentMask],
    model: str,
) -> tuple[Finding, ...]:
    """Read the outputs for one image: a finding for each of `contract`.

    The score of a region is the probability that its finding would have if that box were the surest.

    Parameters
    ----------
    segments
        Lungs of the same image, in stored pixels, to tell sides; may be empty.
    """
    middle = midline(segments, frame)
    boxes = within(boxes_of(output, reading), frame)
    findings = []
    for c in contract:
        mine = boxes.of(c.output)
        finding = called(calibrate(image_logit(mine.scores, reading.none_score), c), c, model)
        if finding.state is FindingState.PRESENT and c.localises:
            drawn = mine.only(mine.scores >= reading.draw_from[c.key])
            found = (
                region_of(
                    (float(x0), float(y0), float(x1 - x0), float(y1 - y0)),
                    frame,
                    calibrate(image_logit(drawn.scores[i : i + 1], reading.none_score), c),
                    None if c.key in MIDLINE else middle,
                )
                for i, (x0, y0, x1, y1) in enumerate(drawn.corners)
            )
            regions = tuple(region for region in found if region is not None)
            finding = replace(finding, regions=regions, laterality=together(r.laterality for r in regions))
        findings.append(finding)
    return tuple(findings)


def boxes_of(output: Outputs, reading: BoxContract) -> Boxes:
    """The boxes that a detector tells on one picture: at least as sure as ``least_score``, and ``limit`` at most."""
    return _peaks(output, reading) if reading.head == "heat" else _unlike(output, reading)


def within(boxes: Boxes, frame: Frame) -> Boxes:
    """Without those that lie in the black beside the image."""
    sizes = [frame.box_to_stored(x0, y0, x1 - x0, y1 - y0)[2:] for x0, y0, x1, y1 in boxes.corners.astype(float)]
    return boxes.only(np.array([width > 0 and height > 0 for width, height in sizes], np.bool_))


def image_logit(scores: npt.NDArray[np.floating[Any]], none_score: float) -> float:
    """Logit of the confidence of the surest box, of which there may be none; see ``BoxContract.none_score``."""
    surest = min(max(float(scores.max(initial=0.0)), none_score), 1.0 - none_score)
    return float(np.log(surest / (1.0 - surest)))


def _peaks(output: Outputs, reading: BoxContract) -> Boxes:
    """Of ``models.networks.HeatDetector``."""
    import torch

    from models.networks import decode

    maps = {name: torch.from_numpy(np.ascontiguousarray(values))[None] for name, values in output.items()}
    (found,) = decode(maps, threshold=reading.least_score, limit=reading.limit)
    corners = torch.cat((found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]), 1).numpy()
    return Boxes(corners, found.scores.numpy(), found.classes.numpy()).only(_solid(corners))


def _unlike(output: Outputs, reading: BoxContract) -> Boxes:
    """Of ``models.networks.AnchorBoxes``: of boxes of one kind that overlap too much the surest."""
    from monai.data.box_utils import non_max_suppression

    scores, parts = sigmoid(output["logits"]).astype(np.float32), []
    solid = _solid(output["boxes"])
    for kind in range(scores.shape[1]):
        sure = np.flatnonzero(solid & (scores[:, kind] >= reading.least_score))
        sure = sure[np.argsort(-scores[sure, kind], kind="stable")][:_MOST_CANDIDATES]
        candidates = Boxes(output["boxes"][sure], scores[sure, kind], np.full(len(sure), kind, np.int64))
        kept = non_max_suppression(candidates.corners, candidates.scores, reading.overlap, reading.limit)
        parts.append(candidates.only(np.asarray(kept, np.int64)))
    every = Boxes(
        np.concatenate([p.corners for p in parts]),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.kinds for p in parts]),
    )
    return every.only(np.argsort(-every.scores, kind="stable")[: reading.limit])


def _solid(corners: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray((corners[:, 2:] > corners[:, :2]).all(axis=1))

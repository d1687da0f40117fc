"""MONAI's RetinaNet (Lin et al., ICCV 2017) with adaptive sample selection (Zhang et al., CVPR 2020).

The rule: nothing of torchvision is needed; MONAI's own matcher, anchors, coder and selector do the work.

MONAI's boxes begin with the row: (y0, x0, y1, x1) in our words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.losses import FocalLoss
from torch import Tensor, nn

from models.networks import AnchorBoxes

SHAPES = ((1.0, 1.0), (0.7, 1.4), (1.4, 0.7))  # height and width of anchors, in units of their size


class Detector(RetinaNetDetector):  # type: ignore[misc, unused-ignore]
    """Losses and boxes of a RetinaNet.

    MONAI asks first whether its matcher is one of torchvision's; here it is always MONAI's.
    """

    def compute_anchor_matched_idxs(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]], num_anchor_locs_per_level: Sequence[int]
    ) -> list[Tensor]:
        """The box that each anchor of a picture stands for; -1 for none."""
        found = []
        for mine, target in zip(anchors, targets, strict=True):
            boxes = target[self.target_box_key].to(mine.device)
            if len(boxes):
                _, matched = self.proposal_matcher(boxes, mine, num_anchor_locs_per_level, self.num_anchors_per_loc)
            else:
                matched = torch.full((len(mine),), -1, dtype=torch.int64, device=mine.device)
            found.append(matched)
        return found


def detector(network: nn.Module, anchor: float, levels: int) -> Detector:
    """Wrap a RetinaNet of MONAI for its losses.

    Parameters
    ----------
    anchor
        Side of the smallest anchors, in pixels of the picture; each level doubles it.
    levels
        Of the pyramid.
    """
    anchors = AnchorGeneratorWithAnchorShape(
        feature_map_scales=[2**level for level in range(levels)],
        base_anchor_shapes=[[anchor * height, anchor * width] for height, width in SHAPES],
    )
    made = Detector(network, anchors)
    made.set_atss_matcher(num_candidates=4, center_in_gt=False)
    made.set_cls_loss(FocalLoss(reduction="mean", gamma=2.0))
    return made


def with_boxes(network: nn.Module, picture: int, anchor: float, levels: int) -> AnchorBoxes:
    """The same network as the node runs it, giving boxes; `picture` is the side of its pictures in pixels."""
    return AnchorBoxes(network, picture, anchor, levels, SHAPES)


def turned(boxes: Tensor) -> Tensor:
    """Boxes (k, 4) with rows and columns exchanged: to MONAI's order, and back."""
    return boxes[:, [1, 0, 3, 2]]

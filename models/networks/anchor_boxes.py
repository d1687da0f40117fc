"""A RetinaNet of MONAI that gives boxes instead of distances from anchors.

The rule: what is learnt is MONAI's network key for key; anchors follow from the size of the picture and are no weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from torch import Tensor, nn

_FINEST = 8  # pixels of the picture for each cell of the finest level
_LARGEST_LOG = math.log(1000 / 16)  # of a box's side over its anchor's, as in MONAI


class AnchorBoxes(nn.Module):
    """Boxes and their scores, one for each anchor; neighbours are for the reader to suppress."""

    def __init__(
        self, network: nn.Module, picture: int, anchor: float, levels: int, shapes: Sequence[Sequence[float]]
    ) -> None:
        """Wrap a network.

        Parameters
        ----------
        network
            ``RetinaNet`` of MONAI, whose features are a list.
        picture
            Side of the picture, in pixels: a multiple of 32.
        anchor
            Side of the smallest anchors, in pixels; each level doubles it.
        levels
            Of the pyramid, the finest at an 8th of the side.
        shapes
            Height and width of the anchors, in units of their side.
        """
        super().__init__()
        self.network: Any = network
        self.picture = picture
        made = AnchorGeneratorWithAnchorShape(
            feature_map_scales=[2**level for level in range(levels)],
            base_anchor_shapes=[[anchor * height, anchor * width] for height, width in shapes],
        )
        cells = [-(-picture // (_FINEST * 2**level)) for level in range(levels)]
        grids = [torch.zeros(1, 1, side, side) for side in cells]
        anchors = made(torch.zeros(1, 1, picture, picture), grids)[0]
        self.sizes = nn.Buffer(anchors[:, 2:] - anchors[:, :2], persistent=False)
        self.centres = nn.Buffer(anchors[:, :2] + self.sizes / 2, persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From gray values 0 to 1 (n, 1, picture, picture) to boxes.

        Returns
        -------
        dict
            ``boxes`` (n, anchors, 4): x0, y0, x1, y1 in pixels of the picture, within it. ``logits``
            (n, anchors, classes).
        """
        # MONAI's heads look for infinities behind each level, which no exported graph can
        net = self.network
        features = net.feature_extractor(x)
        classes = [net.classification_head.cls_logits(net.classification_head.conv(level)) for level in features]
        distances = [net.regression_head.bbox_reg(net.regression_head.conv(level)) for level in features]
        each = len(self.sizes) // sum(level.shape[-2] * level.shape[-1] for level in classes)
        # as MONAI's BoxCoder decodes: its boxes begin with the row, ours with the column
        moved, grown = _rows(distances, each).split(2, dim=-1)  # type: ignore[no-untyped-call]
        centres = moved * self.sizes + self.centres
        halves = grown.clamp(max=_LARGEST_LOG).exp() * self.sizes / 2
        boxes = torch.cat(((centres - halves).flip(-1), (centres + halves).flip(-1)), -1).clamp(0, self.picture)
        return {"boxes": boxes, "logits": _rows(classes, each)}


def _rows(levels: list[Tensor], each: int) -> Tensor:
    """Levels (n, anchors x values, h, w) as (n, cells x anchors, values), in the order of the anchors."""
    rows = []
    for level in levels:
        count, channels, height, width = level.shape
        parts = level.reshape(count, each, channels // each, height, width).permute(0, 3, 4, 1, 2)
        rows.append(parts.reshape(count, height * width * each, channels // each))
    return torch.cat(rows, 1)

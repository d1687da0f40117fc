"""A light detector: boxes as peaks of a heat map (Zhou et al., Objects as Points, 2019).

The rule: a box is where its centre is; there are no anchors and no suppression of neighbours other than that a peak is
the highest of its 3 x 3 cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.trunks import ResNetFeatures, SqueezeNetFeatures

STRIDE = 8  # pixels of the picture for each cell of the maps
# Channels of a trunk's features at an 8th, a 16th, a 32nd of the picture's side.
TRUNKS = {"squeezenet": SqueezeNetFeatures.CHANNELS, "resnet18": ResNetFeatures.CHANNELS[-3:]}
# The share of cells that hold a centre, so that training starts calm (Lin et al., RetinaNet, 2017).
_PRIOR_LOGIT = -4.6
# A box is at most e^6 = 403 cells wide: what an untrained map says must stay finite.
_LARGEST_LOG = 6.0


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes on one picture, the most certain first.

    Parameters
    ----------
    boxes
        Shape (k, 4): left, top, width, height in pixels of the network's picture, within it.
    scores
        Shape (k,), 0 to 1.
    classes
        Shape (k,), counted from 0.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


class HeatDetector(nn.Module):
    """Heat map of centres, sizes and offsets, from features at three scales that are added up from the coarsest."""

    def __init__(self, classes: int = 1, trunk: str = "squeezenet", width: int = 64) -> None:
        """A new network with random weights.

        Parameters
        ----------
        classes
            Kinds of boxes.
        trunk
            ``squeezenet`` (ImageNet weights load into ``trunk.trunk``) or ``resnet18``.
        width
            Channels of the joined features.

        Raises
        ------
        ValueError
            When there is no such trunk.
        """
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"trunk {trunk!r} is none of {', '.join(TRUNKS)}")
        self.trunk: nn.Module = SqueezeNetFeatures() if trunk == "squeezenet" else ResNetFeatures(18)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
            for channels in TRUNKS[trunk]
        )
        self.joined = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.heat, self.size, self.offset = (_head(width, outputs) for outputs in (classes, 2, 2))
        last = self.heat[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None  # noqa: S101, PT018  Sequential does not tell
        nn.init.constant_(last.bias, _PRIOR_LOGIT)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From gray values 0 to 1 to maps of cells of `STRIDE` pixels.

        Parameters
        ----------
        x
            Shape (n, 1, h, w), h and w multiples of 32.

        Returns
        -------
        dict
            ``heat`` (n, classes, h / 8, w / 8): logits that a centre lies in the cell. ``size`` (n, 2, ...): logarithm
            of width and height in cells. ``offset`` (n, 2, ...): logits of where in the cell, across and down.
        """
        features = self.trunk(x)[-3:]
        sides = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        joined = sides[-1]
        for fine in reversed(sides[:-1]):
            joined = fine + functional.interpolate(joined, size=tuple(fine.shape[-2:]), mode="nearest")
        joined = self.joined(functional.relu(joined))
        return {"heat": self.heat(joined), "size": self.size(joined), "offset": self.offset(joined)}


def decode(maps: dict[str, Tensor], *, threshold: float = 0.05, limit: int = 20) -> list[Detections]:
    """Boxes from the maps of `HeatDetector`.

    Parameters
    ----------
    threshold
        Least score, 0 to 1.
    limit
        At most so many boxes for each picture.

    Returns
    -------
    list
        One for each picture.
    """
    heat = maps["heat"]
    count, classes, rows, columns = heat.shape
    peaks = heat.masked_fill(heat < functional.max_pool2d(heat, 3, 1, padding=1), -torch.inf)
    logits, places = peaks.flatten(1).topk(min(limit, classes * rows * columns))
    kinds, cells = places // (rows * columns), places % (rows * columns)
    sizes = maps["size"].clamp(max=_LARGEST_LOG).exp().flatten(2)
    offsets = maps["offset"].sigmoid().flatten(2)
    limits = torch.tensor((columns, rows), dtype=heat.dtype, device=heat.device) * STRIDE
    found = []
    for i in range(count):
        kept = logits[i].sigmoid() >= threshold
        cell = cells[i][kept]
        corner = torch.stack((cell % columns, cell // columns), 1)
        centre = (corner + offsets[i, :, cell].T) * STRIDE
        half = sizes[i, :, cell].T * STRIDE / 2
        first, last = (centre - half).clamp(min=0.0), torch.minimum(centre + half, limits)
        found.append(Detections(torch.cat((first, last - first), 1), logits[i][kept].sigmoid(), kinds[i][kept]))
    return found


def _head(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, outputs, 1))

"""What a picture shows, before anything is looked for on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.squeezenet import SqueezeNetTrunk


class GateNet(nn.Module):
    """What a picture shows, for the pixel gate: a trunk, where things lie in 5 x 5 parts, and one logit for each class.

    Every picture is seen as it is and mirrored; the second answer is read with left and right exchanged (`mirrored`)
    and both are averaged, so that the answer about a picture and about its mirror image always agree.
    """

    PARTS = 5

    def __init__(self, mirrored: Sequence[int], hidden: int = 64) -> None:
        """`mirrored` gives for each class the class of its mirror image."""
        super().__init__()
        self.mirrored = list(mirrored)
        self.trunk = SqueezeNetTrunk()
        self.reduce = nn.Conv2d(512, hidden, 1)
        self.dropout = nn.Dropout(0.4)
        self.classes = nn.Linear(hidden * self.PARTS**2, len(self.mirrored))

    def look(self, x: Tensor) -> Tensor:
        """From pictures (n, 1, h, w), 0 to 1, to logits (n, classes), seen as they are."""
        features = functional.relu(self.reduce(self.trunk(x)))
        parts = functional.adaptive_avg_pool2d(features, self.PARTS).flatten(1)
        logits: Tensor = self.classes(self.dropout(parts))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """From pictures (n, 1, h, w), 0 to 1, to logits (n, classes)."""
        both = self.look(torch.cat((x, x.flip(-1))))
        return (both[: x.shape[0]] + both[x.shape[0] :, self.mirrored]) / 2

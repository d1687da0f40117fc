"""Learns findings and opacities together, for boxes teach findings and labels teach opacities; two networks ship."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks import EfficientNetLite, FindingsNet, OpacityHead, OpacityNet


class FindingsLearner(nn.Module):
    """One trunk under the heads of `FindingsNet` and `OpacityNet`.

    Parameters
    ----------
    findings
        How many.
    cells
        Of the side of the opacity map.
    """

    def __init__(self, findings: int, cells: int, hidden: int = 64) -> None:
        super().__init__()
        self.trunk = EfficientNetLite()
        self.findings = nn.Conv2d(self.trunk.MIDDLE + self.trunk.TOP, findings, 1)
        self.reduce = nn.Conv2d(self.trunk.TOP, 2 * hidden, 1)
        self.opacity = OpacityHead(self.trunk.MIDDLE + 2 * hidden, hidden, cells)
        self.dropout = nn.Dropout(0.3)

    def forward(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """From what ``trunk.low`` gives: logits (n, findings + 1), opacity last, and its map (n, h / 16, w / 16)."""
        middle, top = self.trunk.high(low)
        features = functional.interpolate(functional.relu6(self.reduce(top)), scale_factor=2, mode="bilinear")
        opacity_logit, opacity_map = self.opacity(torch.cat((middle, features), 1))
        # enlarging a map keeps its mean, so pooling first gives the same logits
        pooled = torch.cat((middle.mean((2, 3)), top.mean((2, 3))), 1)
        logits = self.findings(self.dropout(pooled)[:, :, None, None])[:, :, 0, 0]
        return torch.cat((logits, opacity_logit[:, None]), 1), opacity_map

    def parts(self) -> tuple[FindingsNet, OpacityNet]:
        """The two networks that ship, ready to answer."""
        findings, opacity = FindingsNet(self.findings.out_channels), OpacityNet(len(self.opacity.place))
        state = self.state_dict()
        for part in (findings, opacity):
            part.load_state_dict({key: state[key] for key in part.state_dict()})
            part.eval()
        return findings, opacity

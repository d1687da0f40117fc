"""Networks whose trunks begin alike, run as one: what they begin with is worked out once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.findings import FindingsNet, OpacityNet

_SHARING = (FindingsNet, OpacityNet)


class Together(nn.Module):
    """Several networks that `begin_alike`, with one beginning; the outputs of the second are named ``1.logits``."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        known = [part for part in parts if isinstance(part, _SHARING)]
        self._low, self._after = known[0].trunk.low, [part.after for part in known]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From (n, 1, h, w), 0 to 1, to what each part gives."""
        low = self._low(x)
        return {
            f"{number}.{name}": value for number, after in enumerate(self._after) for name, value in after(low).items()
        }


def begin_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether the first layers of two networks are the same, value by value."""
    if not isinstance(one, _SHARING) or not isinstance(other, _SHARING):
        return False
    mine, theirs = (network.trunk.beginning() for network in (one, other))
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))

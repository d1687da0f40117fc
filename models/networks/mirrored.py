"""A second look at the mirrored picture (test-time augmentation), as a network of its own.

The rule: what was judged with two looks is run with two looks; sides that are told must not be mirrored.
"""

from __future__ import annotations

from torch import Tensor, nn


class Mirrored(nn.Module):
    """The mean of what a network says of a picture and of its mirror image; maps and masks are mirrored back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """From pictures (n, channels, h, w) to what the network returns; an output of four axes has places."""
        ours, theirs = self.network(x), self.network(x.flip(-1))
        if isinstance(ours, Tensor):
            return _mean(ours, theirs)
        return {name: _mean(value, theirs[name]) for name, value in ours.items()}


def _mean(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours + (theirs.flip(-1) if theirs.ndim == 4 else theirs)) / 2

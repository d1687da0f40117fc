"""Exponential moving average of weights: what is evaluated and shipped (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class MovingAverage:
    """Averages the state of a network; call `update` after each step."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay, self._steps = network, decay, 0
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def update(self) -> None:
        """Take in the present state; the first steps count more, so that the start is forgotten."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 20))
        for name, value in self._network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)  # what stays the same stays exactly so
            else:
                self.state[name].copy_(value)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"state": self.state, "steps": self._steps}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        self._steps = saved["steps"]
        for name, value in saved["state"].items():
            self.state[name].copy_(value)

"""Trains a network further whose trunk has learnt to see elsewhere: the trunk slowly, what is new on it fast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.networks import EfficientNetLite
from training.averaging import MovingAverage

_LONGEST_GRADIENT = 5.0
_WARMING_UP = 0.2  # share of the steps


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of one cycle (Smith and Topin, 2018), AdamW's decay, and that of the average of weights."""

    trunk: float
    head: float
    weight_decay: float
    average: float


class FineTuning:
    """The steps of a network with a `trunk`, whose first layers stay as they are.

    Parameters
    ----------
    network
        Brought into training mode; its other parameters are new.
    steps
        How many there will be.
    """

    def __init__(self, network: nn.Module, rates: Rates, steps: int) -> None:
        trunk: EfficientNetLite = network.get_submodule("trunk")  # type: ignore[assignment]
        for part in (trunk.stem, *trunk.blocks[: trunk.LOW_BLOCKS]):
            part.requires_grad_(False)
        network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast
        own = [p for name, p in network.named_parameters() if not name.startswith("trunk.")]
        groups: list[dict[str, list[nn.Parameter]]] = [
            {"params": [p for p in trunk.parameters() if p.requires_grad]},
            {"params": own},
        ]
        self._network, self._average = network, MovingAverage(network, rates.average)
        self._optimiser = torch.optim.AdamW(groups, weight_decay=rates.weight_decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, [rates.trunk, rates.head], total_steps=steps, pct_start=_WARMING_UP
        )

    def step(self, loss: Tensor) -> None:
        """Go one step down the gradient of a loss."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), _LONGEST_GRADIENT)
        self._optimiser.step()
        self._schedule.step()
        self._average.update()

    def finish(self) -> None:
        """Leave the moving average of the weights in the network, ready to answer."""
        self._network.load_state_dict(self._average.state)
        self._network.eval()

"""Self-supervision by masked patches: what is hidden is drawn from what is seen (He et al., CVPR 2022).

The rule: the trunk sees the visible patches alone; a decoder that is thrown away afterwards draws the hidden ones, each
standardised by its own mean and deviation.

MONAI's ``MaskedAutoEncoderViT`` has other names and positions than DINO's networks: its trunk would not load there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from torch import Tensor, nn
from torch.nn import functional

from models.networks import VisionTransformer
from models.networks.vision_transformer import Block
from training.tables import fill
from training.tasks.common import Material, answers
from training.tasks.views import Unlabelled, random_parts, standardised, trunk_of

FIGURES = {"loss": False}
LOSSES: dict[str, Any] = {}


@dataclass(frozen=True)
class Options:
    """The task's own settings; the defaults are the paper's, with a decoder of half its width.

    Parameters
    ----------
    hidden
        Share of the patches that is hidden.
    width, depth, heads
        Of the decoder.
    smallest
        Least share of the picture's area that is looked at in training.
    """

    hidden: float = 0.75
    width: int = 256
    depth: int = 4
    heads: int = 8
    smallest: float = 0.4


class MaskedAutoencoder(nn.Module):
    """A trunk and the decoder that draws what it did not see."""

    def __init__(self, trunk: VisionTransformer, side: int, options: Options) -> None:
        super().__init__()
        grid = side // trunk.patch
        self.trunk, self.hidden, self.patch = trunk, options.hidden, trunk.patch
        self.into = nn.Linear(trunk.width, options.width)
        self.missing = nn.Parameter(torch.zeros(1, 1, options.width))
        places = build_sincos_position_embedding([grid, grid], options.width, spatial_dims=2).detach()
        self.places = nn.Buffer(torch.cat((torch.zeros(1, 1, options.width), places), 1))
        self.blocks = nn.Sequential(
            *(Block(options.width, options.heads, drop_path=0.0) for _ in range(options.depth)),
            nn.LayerNorm(options.width),
        )
        self.draw = nn.Linear(options.width, trunk.patch**2)
        nn.init.normal_(self.missing, std=0.02)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """From pictures (n, 1, h, w), 0 to 1, to patches (n, patches, pixels) and which were hidden (n, patches)."""
        tokens = self.trunk.embed(standardised(pictures, self.trunk))
        count, patches = len(tokens), tokens.shape[1] - 1
        seen = max(1, round((1 - self.hidden) * patches))
        order = torch.rand(count, patches).argsort(1).to(tokens.device)  # drawn on the CPU, as all that is random
        visible = order[:, :seen]
        index = visible[..., None].expand(-1, -1, tokens.shape[2])
        read = torch.cat((tokens[:, :1], tokens[:, 1:].gather(1, index)), 1)
        for block in self.trunk.blocks:
            read = block(read)
        read = self.into(self.trunk.norm(read))
        whole = self.missing.to(read.dtype).repeat(count, patches, 1)
        whole = whole.scatter(1, visible[..., None].expand(-1, -1, read.shape[2]), read[:, 1:])
        drawn = self.draw(self.blocks(torch.cat((read[:, :1], whole), 1) + self.places))[:, 1:]
        hidden = torch.ones(count, patches, dtype=torch.bool, device=tokens.device).scatter(1, visible, value=False)
        return drawn, hidden

    def loss(self, pictures: Tensor) -> Tensor:
        """Mean squared error of the hidden patches, each standardised."""
        drawn, hidden = self(pictures)
        wanted = patches_of(pictures, self.patch)
        wanted = (wanted - wanted.mean(2, keepdim=True)) / (wanted.var(2, keepdim=True) + 1e-6).sqrt()
        each = (drawn.float() - wanted).square().mean(2)
        loss: Tensor = (each * hidden).sum() / hidden.sum()
        return loss


def patches_of(pictures: Tensor, patch: int) -> Tensor:
    """Patches (n, patches, pixels) of pictures (n, 1, h, w), row by row."""
    patches: Tensor = functional.unfold(pictures, patch, stride=patch).transpose(1, 2)
    return patches


class MaskedPatches(Unlabelled):
    """Learns to draw what is hidden; what is shipped is the trunk."""

    figures = FIGURES

    def __init__(self, material: Material, network: nn.Module) -> None:
        options = fill(Options, material.recipe.task.options, "[task]")
        self.trunk, self.options = trunk_of(network), options
        super().__init__(material, MaskedAutoencoder(self.trunk, material.recipe.picture.size, options))

    @property
    def shipped(self) -> nn.Module:
        """The trunk."""
        return self.trunk

    def losses(self, batch: Tensor, device: torch.device) -> dict[str, Tensor]:
        """The error on random parts of the pictures."""
        pictures = random_parts(batch.to(device), self.pictures.size, self.options.smallest, 1.0)
        return {"loss": self.module.loss(pictures)}  # type: ignore[operator]

    def validate(self, device: torch.device) -> dict[str, float]:
        """The error on whole pictures, with the same patches hidden each time."""
        losses, size = [], self.recipe.schedule.batch
        rows = self.material.val
        for part, pictures, _ in answers(_nothing, self.pictures, rows, device=device, batch=size, what="judging"):
            losses.append(len(part) * float(self.module.loss(pictures)))  # type: ignore[operator]
        return {"loss": float(np.sum(losses)) / len(rows) if len(rows) else float("nan")}


def _nothing(pictures: Tensor) -> None:
    """`answers` gives pictures; the loss needs the network itself."""


def build(material: Material, network: nn.Module) -> MaskedPatches:
    """The task."""
    return MaskedPatches(material, network)

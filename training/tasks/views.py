"""What self-supervision shares: unlabelled pictures, standardised as the vision transformers expect them.

The rule: the trunk is ``models.networks.VisionTransformer``, so that its weights are those of DINO's layout and load
into ``TransformerClassifier`` by the recipe's ``[start]``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks import VisionTransformer
from models.networks.vision_transformer import IMAGENET_DEVIATION, IMAGENET_MEAN
from training.sampling import IntArray
from training.tables import RecipeInvalid
from training.tasks.common import PictureTask, in_single


class Unlabelled(PictureTask):
    """Loads pictures alone, each once an epoch."""

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """All rows of the training part."""
        return rng.permutation(self.material.train)

    def load(self, items: IntArray) -> Tensor:
        """Pictures of rows (n, 1, h, w)."""
        return torch.from_numpy(self.pictures.values(items))


def trunk_of(network: nn.Module) -> VisionTransformer:
    """The network as a trunk.

    Raises
    ------
    RecipeInvalid
        When it is another one.
    """
    if not isinstance(network, VisionTransformer):
        raise RecipeInvalid("[network] of mae and dino is models.networks.VisionTransformer")
    return network


def standardised(pictures: Tensor, trunk: VisionTransformer) -> Tensor:
    """Gray values 0 to 1 (n, 1, h, w) in as many channels as the trunk takes, with ImageNet's mean and deviation."""
    channels = trunk.patch_embed.proj.in_channels
    mean = pictures.new_tensor(IMAGENET_MEAN[:channels]).reshape(1, -1, 1, 1)
    deviation = pictures.new_tensor(IMAGENET_DEVIATION[:channels]).reshape(1, -1, 1, 1)
    return (pictures - mean) / deviation


def random_parts(pictures: Tensor, side: int, smallest: float, largest: float) -> Tensor:
    """A random part of each picture, half of them mirrored, as large as `side` (Szegedy et al., CVPR 2015).

    Parameters
    ----------
    smallest, largest
        Share of the picture's area; the proportions of a part are 3 : 4 to 4 : 3.
    """
    count = len(pictures)
    area = smallest + (largest - smallest) * torch.rand(count)
    aspect = torch.exp((2 * torch.rand(count) - 1) * 0.2877)
    width, height = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    x, y = (2 * torch.rand(count) - 1) * (1 - width), (2 * torch.rand(count) - 1) * (1 - height)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    nothing = torch.zeros(count)
    matrix = torch.stack((torch.stack((width * mirror, nothing, x), 1), torch.stack((nothing, height, y), 1)), 1)
    with in_single(pictures):
        grid = functional.affine_grid(matrix.to(pictures.device), [count, 1, side, side], align_corners=False)
        parts: Tensor = functional.grid_sample(pictures, grid, align_corners=False, padding_mode="border")
    return parts

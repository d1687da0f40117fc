"""Vision transformers in the state_dict layout of DINO, and a classifier on top of one.

The rule: what facebookresearch/dino publishes loads with ``strict=True`` and gives the same numbers, at every picture
size (Dosovitskiy et al., ICLR 2021; Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Width and heads of the published sizes; each has twelve blocks.
SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
DEPTH = 12
# ImageNet's, with which every published checkpoint was trained (red, green, blue).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class PatchEmbedding(nn.Module):
    """One token for each square of a picture."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, h / patch * w / patch, width), row by row."""
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class Attention(nn.Module):
    """Self-attention of several heads (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, tokens, width) to the same shape."""
        query, key, value = self._split(x)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, x: Tensor) -> Tensor:
        """How much each token looks at each other: (n, heads, tokens, tokens), rows sum to 1."""
        query, key, _ = self._split(x)
        return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, tokens, width = x.shape
        parts = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]


class Mlp(nn.Module):
    """Two layers on each token by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, tokens, width) to the same shape."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each with its norm before it and a way around it."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        """`drop_path` is how often, 0 to 1, a way is left out of a sample in training (Huang et al., 2016)."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """From (n, tokens, width) to the same shape."""
        x = x + self._sometimes(self.attn(self.norm1(x)))
        return x + self._sometimes(self.mlp(self.norm2(x)))

    def _sometimes(self, way: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return way
        keep = torch.rand(way.shape[0], 1, 1, device=way.device) >= self.drop_path
        return way * keep / (1.0 - self.drop_path)


class VisionTransformer(nn.Module):
    """A trunk: from a picture to tokens. Its keys are those of ``vit_tiny``, ``vit_small`` and ``vit_base`` of DINO."""

    def __init__(
        self, size: str = "small", patch: int = 16, channels: int = 3, picture: int = 224, drop_path: float = 0.0
    ) -> None:
        """A new trunk with random weights.

        Parameters
        ----------
        size
            ``tiny``, ``small`` or ``base``.
        patch
            Side of a token's square, in pixels: 16 or 8.
        picture
            Side of the picture, in pixels, that positions are learnt for; others are interpolated from it.
        drop_path
            Of the last block; it rises linearly from 0.

        Raises
        ------
        ValueError
            When there is no such size.
        """
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size {size!r} is none of {', '.join(SIZES)}")
        self.width, heads = SIZES[size]
        self.patch = patch
        self.patch_embed = PatchEmbedding(patch, channels, self.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (picture // patch) ** 2 + 1, self.width))
        self.blocks = nn.ModuleList(Block(self.width, heads, drop_path * i / (DEPTH - 1)) for i in range(DEPTH))
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        for part in [self.pos_embed, self.cls_token, *(m.weight for m in self.modules() if isinstance(m, nn.Linear))]:
            nn.init.trunc_normal_(part, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def embed(self, x: Tensor) -> Tensor:
        """From pictures (n, channels, h, w), standardised, to tokens with positions; the first is the class token."""
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)), 1)
        return tokens + self.positions(rows, columns)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Positional embeddings (1, 1 + rows * columns, width) of a grid of tokens, bicubic between the learnt ones."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, side, side, self.width).permute(0, 3, 1, 2)
        # Published so: a tenth is added lest rounding lose a row, and the grid is scaled by just that factor.
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = functional.interpolate(grid, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
        return torch.cat((self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)), 1)

    def tokens(self, x: Tensor) -> Tensor:
        """From pictures (n, channels, h, w), standardised, to (n, 1 + h / patch * w / patch, width), normed."""
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def forward(self, x: Tensor) -> Tensor:
        """From pictures (n, channels, h, w), standardised, to the class token (n, width)."""
        return self.tokens(x)[:, 0]

    def attention(self, x: Tensor) -> Tensor:
        """Where the class token looks in the last block: (n, heads, h / patch, w / patch)."""
        tokens = self.embed(x)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = self.blocks[-1]
        assert isinstance(last, Block)  # noqa: S101  ModuleList does not tell
        looks = last.attn.weights(last.norm1(tokens))[:, :, 0, 1:]
        return looks.reshape(*looks.shape[:2], x.shape[-2] // self.patch, x.shape[-1] // self.patch)


class TransformerClassifier(nn.Module):
    """Findings from a vision transformer, each with the map that decided.

    The head sees the class token and the mean of the patch tokens, as DINO's linear evaluation does. Being linear, it
    can be applied to each patch by itself: the logit of a finding is the mean of its map.
    """

    def __init__(
        self, outputs: int, size: str = "small", patch: int = 16, picture: int = 224, drop_path: float = 0.0
    ) -> None:
        """`outputs` findings; the rest as in `VisionTransformer`."""
        super().__init__()
        self.backbone = VisionTransformer(size, patch, 3, picture, drop_path)
        self.head = nn.Linear(2 * self.backbone.width, outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From gray values 0 to 1 (n, 1, h, w) to ``logits`` (n, outputs) and ``maps`` (n, outputs, h / p, w / p)."""
        mean = torch.tensor(IMAGENET_MEAN, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1)
        deviation = torch.tensor(IMAGENET_DEVIATION, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1)
        tokens = self.backbone.tokens((x - mean) / deviation)
        of_class, of_patch = self.head.weight.chunk(2, 1)
        scores = functional.linear(tokens[:, 1:], of_patch)
        scores = scores + functional.linear(tokens[:, :1], of_class, self.head.bias)
        rows, columns = x.shape[-2] // self.backbone.patch, x.shape[-1] // self.backbone.patch
        maps = scores.transpose(1, 2).reshape(x.shape[0], -1, rows, columns)
        return {"logits": scores.mean(1), "maps": maps}

"""U-Nets whose encoder is a network that was trained to classify (Ronneberger et al., 2015; Iglovikov et al., 2018).

The rule: a mask has the size of the picture, whatever that is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unet import TwoConv
from torch import Tensor, nn
from torch.nn import functional

from models.networks.trunks import DenseNetFeatures, ResNetFeatures

ENCODERS = {"densenet121": DenseNetFeatures.CHANNELS, "resnet34": ResNetFeatures.CHANNELS}


class EncoderUNet(nn.Module):
    """Masks at the picture's size from an encoder's features.

    With an empty-mask head it also says whether there is anything to outline at all, as the fourth place of the
    SIIM-ACR pneumothorax challenge (2019) did; with deep supervision each level of the decoder outlines by itself.
    """

    def __init__(
        self,
        outputs: int = 1,
        encoder: str = "densenet121",
        widths: Sequence[int] = (256, 128, 64, 32),
        dropout: float = 0.0,
        *,
        deep_supervision: bool = False,
        empty_head: bool = False,
        channels: int = 1,
        mean: float = 0.5,
        deviation: float = 0.25,
    ) -> None:
        """A new network with random weights.

        Parameters
        ----------
        outputs
            Masks.
        encoder
            ``densenet121`` or ``resnet34``.
        widths
            Channels of the decoder at a 16th, an 8th, a quarter and half of the picture's side.
        dropout
            Share of the decoder's features, 0 to 1, that is left out in training.
        mean, deviation
            What standardises the gray values 0 to 1 as the encoder's weights expect it; 0.5 and 1 / 2048 for those of
            TorchXRayVision.

        Raises
        ------
        ValueError
            When there is no such encoder, or not one width for each level.
        """
        super().__init__()
        if encoder not in ENCODERS:
            raise ValueError(f"encoder {encoder!r} is none of {', '.join(ENCODERS)}")
        taken = ENCODERS[encoder]
        if len(widths) != len(taken) - 1:
            raise ValueError(f"{len(widths)} widths are given, {len(taken) - 1} levels want one each")
        self.mean, self.deviation = mean, deviation
        self.encoder: nn.Module = (
            DenseNetFeatures(channels) if encoder == "densenet121" else ResNetFeatures(34, channels)
        )
        inputs = zip((taken[-1], *widths), reversed(taken[:-1]), widths, strict=False)
        self.decoder = nn.ModuleList(
            TwoConv(2, low + skip, width, act="relu", norm="batch", bias=False, dropout=dropout)
            for low, skip, width in inputs
        )
        self.masks = nn.Conv2d(widths[-1], outputs, 3, padding=1)
        self.deep = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in widths[:-1] if deep_supervision)
        self.empty = nn.Linear(taken[-1], outputs) if empty_head else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """From gray values 0 to 1 to logits.

        Parameters
        ----------
        x
            Shape (n, channels, h, w), h and w at least 32 pixels.

        Returns
        -------
        dict
            ``masks`` (n, outputs, h, w). With an empty-mask head ``empty`` (n, outputs): that the mask has no pixel.
            In training with deep supervision ``deep``: a list of (n, outputs, h, w), the coarsest first.
        """
        *skips, low = self.encoder((x - self.mean) / self.deviation)
        features, levels = low, []
        for level, skip in zip(self.decoder, reversed(skips), strict=True):
            features = level(torch.cat((skip, _enlarge(features, skip.shape[-2:])), 1))
            levels.append(features)
        size = x.shape[-2:]
        found: dict[str, Tensor | list[Tensor]] = {"masks": _enlarge(self.masks(features), size)}
        if self.empty is not None:
            found["empty"] = self.empty(self.dropout(low.mean((2, 3))))
        if self.training and self.deep:
            found["deep"] = [_enlarge(head(f), size) for head, f in zip(self.deep, levels, strict=False)]
        return found


def _enlarge(features: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)

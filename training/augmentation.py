"""What a radiograph may look like without being another one: random changes of a batch by torch's generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the random changes.

    Parameters
    ----------
    degrees
        Largest rotation.
    log_scale
        Natural logarithm of the largest zoom.
    shift
        Largest shift, as a share of the picture.
    log_aspect
        Natural logarithm of the largest change of proportions; a third of `log_scale` if not given.
    flip
        Share of pictures mirrored; 0 where sides are learnt.
    log_gamma, contrast, brightness, noise
        Largest change of that kind of gray values 0 to 1; of noise, its standard deviation.
    border
        Share of pictures with a collimator edge or white border on one side.
    elastic
        Standard deviation of a smooth displacement, as a share of the picture (Simard et al., ICDAR 2003).
    """

    degrees: float
    log_scale: float
    shift: float
    flip: float = 0.0
    log_gamma: float = 0.7
    contrast: float = 0.4
    brightness: float = 0.15
    noise: float = 0.06
    border: float = 0.25
    log_aspect: float | None = None
    elastic: float = 0.0


def augment(pictures: Tensor, masks: Tensor, how: Augmentation) -> tuple[Tensor, Tensor, Tensor]:
    """Change pictures (n, 1, h, w) and masks (n, k, h, w) alike.

    Returns
    -------
    pictures, masks
        Changed copies.
    grid
        The affine matrices that were applied, shape (n, 2, 3).

    Notes
    -----
    Numbers are drawn on the CPU, so that a GPU changes pictures alike; only the noise is drawn where the pictures lie.
    """
    count = len(pictures)
    matrix = _random_affine(count, how).to(pictures.device)
    bent = torch.randn(count, 2, 6, 6) * 2 * how.elastic if how.elastic else None
    grid = _grid(matrix, bent, pictures.shape[-2:])
    pictures = functional.grid_sample(pictures, grid, align_corners=False)
    if masks.shape[-2:] != pictures.shape[-2:]:
        grid = _grid(matrix, bent, masks.shape[-2:])
    masks = functional.grid_sample(masks, grid, align_corners=False)
    pictures = change_tones(pictures.clamp(0, 1), how)
    for i in torch.nonzero(torch.rand(count) < how.border).flatten().tolist():
        _cover_edge(pictures[i], masks[i])
    return pictures.clamp(0, 1), masks, matrix


def _grid(matrix: Tensor, bent: Tensor | None, size: torch.Size) -> Tensor:
    """Where each pixel of a picture of `size` comes from: shape (n, h, w, 2)."""
    grid = functional.affine_grid(matrix, [len(matrix), 1, *size], align_corners=False)
    if bent is None:
        return grid
    smooth = functional.interpolate(bent.to(matrix.device), tuple(size), mode="bicubic", align_corners=True)
    return grid + smooth.permute(0, 2, 3, 1)


def _random_affine(count: int, how: Augmentation) -> Tensor:
    angle = _symmetric(count) * math.radians(how.degrees)
    log_aspect = how.log_scale / 3 if how.log_aspect is None else how.log_aspect
    scale, aspect = torch.exp(_symmetric(count) * how.log_scale), torch.exp(_symmetric(count) * log_aspect)
    mirror = torch.where(torch.rand(count) < how.flip, -1.0, 1.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    first = torch.stack((cosine * scale * aspect * mirror, -sine * scale, _symmetric(count) * how.shift), -1)
    second = torch.stack((sine * scale * mirror, cosine * scale / aspect, _symmetric(count) * how.shift), -1)
    return torch.stack((first, second), 1)


def change_tones(pictures: Tensor, how: Augmentation) -> Tensor:
    """Change the grays of pictures (n, 1, h, w), 0 to 1; they may leave that range."""
    shape, on = (len(pictures), 1, 1, 1), pictures.device
    pictures = pictures ** torch.exp(_symmetric(*shape) * how.log_gamma).to(on)
    gain = torch.exp(_symmetric(*shape) * how.contrast).to(on)
    pictures = (pictures - 0.5) * gain + 0.5 + (_symmetric(*shape) * how.brightness).to(on)
    shading = (torch.randn(len(pictures), 1, 4, 4) * 0.1).to(on)
    shading = functional.interpolate(shading, pictures.shape[-2:], mode="bicubic")
    pictures = pictures + shading * (torch.rand(*shape) < 0.5).to(on)
    blurred = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.where((torch.rand(*shape) < 0.3).to(on), blurred, pictures)
    return pictures + torch.randn_like(pictures) * torch.rand(*shape).to(on) * how.noise


def _cover_edge(picture: Tensor, masks: Tensor) -> None:
    """Black (a collimator) or white over one side of a picture (1, h, w), in place; nothing can be seen there."""
    turns = int(torch.randint(4, ()))
    share = float(torch.rand(())) * 0.14
    tone = float(torch.rand(()) < 0.3)
    for plane, value in ((picture, tone), (masks, 0.0)):
        turned = torch.rot90(plane, turns, (-2, -1))
        turned[:, : max(1, int(share * turned.shape[-2]))] = value
        plane.copy_(torch.rot90(turned, -turns, (-2, -1)))


def _symmetric(*shape: int) -> Tensor:
    """Uniform between -1 and 1."""
    return 2 * torch.rand(*shape) - 1

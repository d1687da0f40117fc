"""Where a network looks: maps by MONAI, boxes around what is hot, and whether maps depend on what was learnt.

The rule: a map that looks the same after the weights were made random explains nothing (Adebayo et al., NeurIPS 2018),
and nothing is drawn from it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.visualize import CAM, GradCAM, GradCAMpp
from scipy import ndimage
from scipy.stats import spearmanr
from torch import Tensor, nn

from training.metrics.intervals import FloatArray
from training.tasks.common import named

# ``own``: the maps that the network itself returns, of which its logits are the means or smooth maxima.
METHOD_NAMES = {"own": "the network's own maps", "cam": "CAM", "grad_cam": "Grad-CAM", "grad_cam_pp": "Grad-CAM++"}
# Of 255, after stretching a map to all of them: both levels give boxes (Wang et al., CVPR 2017).
LEVELS = (60, 180)
# Mean rank correlation that is left when the weights are random; for independent maps it is 0, for equal ones 1.
MOST_ALIKE = 0.5


class NoMaps(Exception):
    """A network of which this method makes no maps; the message says why."""


@dataclass(frozen=True)
class Sanity:
    """Maps of a trained network beside those of the same network with random weights.

    Parameters
    ----------
    correlation
        Mean of Spearman's rank correlation over pictures and networks, -1 to 1.
    each
        Mean of each random network.
    """

    method: str
    finding: str
    correlation: float
    each: tuple[float, ...]
    pictures: int

    @property
    def passes(self) -> bool:
        """Whether the maps change with the weights."""
        return self.correlation < MOST_ALIKE


def method_of(network: nn.Module, picture: Tensor) -> str:
    """The method that fits a network: its own maps if it has them, Grad-CAM else.

    Parameters
    ----------
    picture
        Shape (1, 1, h, w).
    """
    with torch.inference_mode():
        return "own" if "maps" in named(network(picture), "logits") else "grad_cam"


def saliency(
    network: nn.Module, pictures: Tensor, weights: FloatArray, *, method: str = "own", layer: str = ""
) -> FloatArray:
    """Maps of one finding, higher where the network looks.

    Parameters
    ----------
    network
        In evaluation mode.
    pictures
        Shape (n, 1, h, w).
    weights
        Shape (outputs,): the finding's logit is this sum of the outputs, mostly 1 for one and 0 for the others.
    method
        One of `METHOD_NAMES`.
    layer
        Name of the module whose activations are weighed; the last one that has places if empty.

    Returns
    -------
    array
        Shape (n, h', w'), of the layer's resolution.

    Raises
    ------
    NoMaps
        When the network has none of that kind.
    """
    if method == "own":
        with torch.inference_mode():
            found = named(network(pictures), "logits")
        if "maps" not in found:
            raise NoMaps("the network returns no maps")
        return np.asarray(np.einsum("nohw,o->nhw", found["maps"].cpu().numpy(), weights), np.float64)
    told = _Told(copy.deepcopy(network), weights)  # MONAI leaves its hooks behind
    layer = f"network.{layer}" if layer else _last_layer(told, pictures[:1])
    one_by_one = [pictures[i : i + 1].clone().requires_grad_() for i in range(len(pictures))]
    with torch.enable_grad():
        if method == "cam":
            maker: Any = CAM(told, layer, told.classify)
            maps = [maker.compute_map(x, class_idx=[0]) for x in one_by_one]
            _check_cam(told, one_by_one[0], maps[0])
        else:
            maker = {"grad_cam": GradCAM, "grad_cam_pp": GradCAMpp}[method](told, layer)
            maps = [maker.compute_map(x, class_idx=0) for x in one_by_one]
    return np.asarray(torch.cat(maps)[:, 0].detach().cpu().numpy(), np.float64)


def boxes_of(heat: FloatArray, side: int, levels: Sequence[int] = LEVELS) -> FloatArray:
    """Boxes around the isolated hot parts of a map at each level (Wang et al., CVPR 2017).

    Parameters
    ----------
    heat
        Shape (rows, columns), covering a picture of `side` x `side` pixels evenly.

    Returns
    -------
    array
        Shape (k, 4): x0, y0, x1, y1 in pixels of the picture; none around a map that is level.
    """
    low, high = float(heat.min()), float(heat.max())
    if high <= low:
        return np.empty((0, 4))
    share = 255 * (heat - low) / (high - low)
    down, across = side / heat.shape[0], side / heat.shape[1]
    boxes = []
    for level in levels:
        parts, _ = ndimage.label(share >= level)
        for rows, columns in ndimage.find_objects(parts):
            boxes.append((columns.start * across, rows.start * down, columns.stop * across, rows.stop * down))
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def enlarged(maps: FloatArray, side: int) -> FloatArray:
    """Maps (n, h, w) at `side` x `side` cells, bilinearly."""
    tensor = torch.from_numpy(np.ascontiguousarray(maps))[:, None]
    large = nn.functional.interpolate(tensor, (side, side), mode="bilinear", align_corners=False)
    return np.asarray(large[:, 0].numpy())


def sanity_check(
    network: nn.Module,
    scrambled: Sequence[nn.Module],
    pictures: Tensor,
    weights: FloatArray,
    *,
    method: str,
    finding: str = "",
) -> Sanity:
    """How alike the maps of a trained network and of networks with random weights are.

    Parameters
    ----------
    scrambled
        Networks of the same class whose weights were never trained: several, for one may agree by chance.

    Raises
    ------
    NoMaps
    """
    ours = saliency(network, pictures, weights, method=method)
    each = []
    for other in scrambled:
        theirs = saliency(other.eval(), pictures, weights, method=method)
        each.append(float(np.mean([rank_correlation(a, b) for a, b in zip(ours, theirs, strict=True)])))
    return Sanity(method, finding, float(np.mean(each)), tuple(each), len(pictures))


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Spearman's of two maps of one shape; of level ones 1 if both are and 0 if one is."""
    level = [float(np.ptp(values)) == 0 for values in (first, second)]
    if any(level):
        return float(all(level))
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


class _Told(nn.Module):
    """A network that tells one logit, shape (n, 1): what MONAI's methods ask for."""

    def __init__(self, network: nn.Module, weights: FloatArray) -> None:
        super().__init__()
        self.network = network
        self.weights = nn.Buffer(torch.from_numpy(np.asarray(weights, np.float32))[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """The logit."""
        logits: Tensor = named(self.network(x), "logits")["logits"]
        return logits @ self.weights.to(logits.device)

    def classify(self, _: nn.Module) -> Any:
        """The last linear layer, applied to features (n, channels), as one logit."""
        linear = [part for part in self.network.modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise NoMaps("class activation maps take a linear last layer; use Grad-CAM")
        return lambda features: linear[-1](features) @ self.weights


def _last_layer(told: _Told, picture: Tensor) -> str:
    """The last module without parts whose output has places; one that is used twice has two gradients, and is none."""
    seen: list[str] = []
    hooks = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _input: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
                seen.append(name)

        return hook

    for name, part in told.named_modules():
        if not list(part.children()):
            hooks.append(part.register_forward_hook(note(name)))
    with torch.no_grad():
        told(picture)
    for hook in hooks:
        hook.remove()
    once = [name for name in seen if seen.count(name) == 1]
    if not once:
        raise NoMaps("no layer of the network has places")
    return once[-1]


def _check_cam(told: _Told, picture: Tensor, heat: Tensor) -> None:
    """A class activation map is one only if the logit is its mean: if nothing but the mean lies behind the layer."""
    with torch.no_grad():
        logit = float(told(picture)[0, 0])
    if abs(float(heat.detach().mean()) - logit) > 1e-3 * max(1.0, abs(logit)):
        raise NoMaps("the logit is not the mean of this layer's map; use Grad-CAM")

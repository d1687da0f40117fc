"""Random weights of a published network, the same on every machine, and the numbers that its authors' code gave."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import phantom

SEED = 20261
# Of random weights: more, and what adds up over residual blocks explodes.
GAIN, RESNET_GAIN = 1.4, 0.75
FOLDER = Path(__file__).with_name("golden")
FloatArray = npt.NDArray[np.float32]


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int, gain: float = GAIN) -> dict[str, Tensor]:
    """Weights that neither vanish nor explode over a hundred layers; each key has a generator of its own."""
    return {key: torch.from_numpy(_values(key, shape, seed, gain)) for key, shape in shapes.items()}


def random_pictures(seed: int, shape: tuple[int, ...], low: float, high: float) -> FloatArray:
    """Noise on light and dark squares of 16 pixels: pictures whose features differ; sides are divisible by 16."""
    rng = np.random.default_rng(seed)
    squares = rng.uniform(0, 1, (*shape[:-2], shape[-2] // 16, shape[-1] // 16)).repeat(16, -1).repeat(16, -2)
    contrast = rng.uniform(0.2, 1.0, (shape[0], *(1,) * (len(shape) - 1)))
    gray = 0.5 + contrast * (0.7 * squares + 0.3 * rng.uniform(0, 1, shape) - 0.5)
    return (low + (high - low) * gray).astype(np.float32)


def eight_bit(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """A phantom as an 8-bit picture that uses all its grays."""
    pixels = phantom.chest(3, rows=rows, columns=columns).pixels
    low, high = pixels.min(), pixels.max()
    gray: npt.NDArray[np.uint8] = np.round(255 * (pixels - low) / (high - low)).astype(np.uint8)
    return gray


def sampled(picture: FloatArray) -> FloatArray:
    """Every sixteenth row and column, and the last."""
    places = [*range(0, picture.shape[-1], 16), picture.shape[-1] - 1]
    return picture[..., places, :][..., places].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Golden:
    """What a published implementation is and said: its keys and shapes, and its outputs on `random_pictures`."""

    shapes: dict[str, tuple[int, ...]]
    outputs: dict[str, FloatArray]

    @classmethod
    def read(cls, name: str) -> Golden:
        with np.load(FOLDER / f"{name}.npz") as file:
            shapes = {
                str(key): tuple(int(n) for n in str(shape).split("x") if n)
                for key, shape in zip(file["keys"], file["shapes"], strict=True)
            }
            return cls(shapes, {key: file[key] for key in file.files if key not in ("keys", "shapes")})

    def write(self, name: str) -> None:
        keys = np.array(list(self.shapes))
        shapes = np.array(["x".join(str(n) for n in shape) for shape in self.shapes.values()])
        np.savez_compressed(FOLDER / f"{name}.npz", keys=keys, shapes=shapes, **self.outputs)


def _values(key: str, shape: tuple[int, ...], seed: int, gain: float) -> npt.NDArray[np.float32 | np.int64]:
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if key.endswith("num_batches_tracked"):
        return np.ones(shape, np.int64)
    if key.endswith("running_var"):
        # the first layer sees gray values up to 1024
        first = key.endswith(("norm0.running_var", "model.bn1.running_var")) or key == "bn1.running_var"
        return (rng.uniform(0.5, 1.5, shape) * (3e5 if first else 1.0)).astype(np.float32)
    if len(shape) >= 2 and not key.endswith(("pos_embed", "cls_token")):
        return (rng.normal(0, gain, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    if key.endswith("weight"):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    return rng.normal(0, 0.1, shape).astype(np.float32)

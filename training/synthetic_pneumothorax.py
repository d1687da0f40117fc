"""Draws a pneumothorax into a radiograph without one: air between the chest wall and a lung that has drawn back.

The rule: what is drawn follows anatomy, not a texture. The lung shrinks towards its base and hilum, most at the apex,
and takes its vessels with it; what it leaves has no vessels, but ribs and grain as before, and is a little darker; a
thin bright line, the visceral pleura, parts both and fades here and there. The same line without the air (a skin fold,
a tube, a scapula) is drawn as a distractor, so that a line alone teaches nothing.

After the signs in O'Connor and Morgan, BMJ 2005;330:1493 (upright films; a deep sulcus of supine ones is not drawn).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.findings import BoolMask

FloatArray = npt.NDArray[np.float32]

# In shares of the picture's side.
_VESSEL_WIDTH, _GRAIN_WIDTH = 0.016, 0.0022
_LINE_WIDTH = (0.0015, 0.0035)


@dataclass(frozen=True)
class Strengths:
    """Ranges from which each picture draws, uniformly.

    Parameters
    ----------
    collapse
        Share by which the lung's apex draws back; small ones are the usual ones, so it is squared.
    line, darker, denser
        Gray values 0 to 1 by which the line and the lung grow brighter and the air darker; lung and air by collapse.
    vessels_left
        Share of the vessels' contrast that stays in the air (ribs and soft tissue have some of their width).
    """

    collapse: tuple[float, float] = (0.05, 0.6)
    line: tuple[float, float] = (0.01, 0.07)
    darker: tuple[float, float] = (0.0, 0.08)
    denser: tuple[float, float] = (0.0, 0.15)
    vessels_left: tuple[float, float] = (0.0, 0.3)


def draw_pneumothorax(
    picture: FloatArray, lung: BoolMask, rng: np.random.Generator, how: Strengths | None = None
) -> tuple[FloatArray, BoolMask]:
    """Let one lung draw back.

    Parameters
    ----------
    picture
        Shape (size, size), gray values 0 to 1, as a network sees it.
    lung
        Outline of one lung, same shape; not empty.

    Returns
    -------
    picture
        A changed copy.
    air
        Where the pneumothorax is; empty where the lung is too small to draw back.
    """
    how = how or Strengths()
    size = len(picture)
    low, high = how.collapse
    collapse = low + (high - low) * rng.random() ** 2
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    anchor = _anchor(lung, size)
    shrink = _shrink(lung, rows, columns, collapse, rng)
    # where the tissue that is now here was before: further from the hilum
    before = [centre + (at - centre) / shrink for centre, at in zip(anchor, (rows, columns), strict=True)]
    inside = ndimage.map_coordinates(lung.astype(np.float32), before, order=1, mode="nearest") >= 0.5
    drawn_back = lung & inside
    air = ndimage.binary_opening(lung & ~inside, iterations=max(1, size // 256))
    if not air.any():
        return picture.copy(), air
    changed = picture.copy()
    moved = ndimage.map_coordinates(picture, before, order=1, mode="nearest")
    changed[drawn_back] = moved[drawn_back] + _between(how.denser, rng) * collapse
    empty = _without_vessels(picture, _between(how.vessels_left, rng)) - _between(how.darker, rng) * (0.3 + collapse)
    soft = ndimage.gaussian_filter(air.astype(np.float32), 0.003 * size) * lung
    changed = changed * (1 - soft) + empty * soft
    changed += _line(drawn_back, air, rng, _between(how.line, rng)) * lung
    return np.clip(changed, 0.0, 1.0).astype(np.float32), air


def draw_distractor(picture: FloatArray, lungs: BoolMask, rng: np.random.Generator) -> FloatArray:
    """A line across a lung that is none of the pleura: a skin fold, a border of the scapula, a tube."""
    size = len(picture)
    rows, columns = np.nonzero(lungs)
    at = rng.integers(len(rows))
    radius = size * rng.uniform(0.2, 1.5)
    angle = rng.uniform(0, 2 * np.pi)
    centre = rows[at] + radius * np.sin(angle), columns[at] + radius * np.cos(angle)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    distance = np.hypot(y - centre[0], x - centre[1]) - radius
    near = np.hypot(y - rows[at], x - columns[at]) < size * rng.uniform(0.08, 0.25)
    width = size * rng.uniform(*_LINE_WIDTH)
    drawn = np.exp(-0.5 * (distance / width) ** 2)
    if rng.random() < 0.4:  # a fold: an edge, not a line
        drawn = 0.7 / (1 + np.exp(-distance / (1.5 * width))) * np.exp(-np.abs(distance) / (0.05 * size))
    drawn *= ndimage.gaussian_filter(near.astype(np.float32), 0.01 * size)
    return np.asarray(np.clip(picture + rng.uniform(0.03, 0.12) * drawn, 0.0, 1.0), np.float32)


def _anchor(lung: BoolMask, size: int) -> tuple[float, float]:
    """What the lung stays at: its base, and its side that looks to the middle of the picture."""
    rows, columns = np.nonzero(lung)
    at_hilum = columns[np.abs(rows - (rows.min() + rows.max()) / 2) < 0.05 * size]
    lies_left = columns.mean() < size / 2
    return float(rows.max()), float(at_hilum.max() if lies_left else at_hilum.min())


def _shrink(
    lung: BoolMask, rows: FloatArray, columns: FloatArray, collapse: float, rng: np.random.Generator
) -> FloatArray:
    """The factor by which the lung shrinks towards its anchor at each place: most at the apex, unevenly."""
    top, bottom = np.flatnonzero(lung.any(1))[[0, -1]]
    height = np.clip((bottom - rows) / max(1, bottom - top), 0.0, 1.0)  # 1 at the apex
    apical = rng.uniform(0.0, 1.0)
    share = (1 - apical) * (0.35 + 0.65 * height) + apical * height**1.5
    waves = ndimage.zoom(rng.normal(0, 1, (5, 5)), np.array(rows.shape) / 5, order=3)
    return np.asarray(np.clip(1 - collapse * share * (1 + 0.15 * waves), 0.3, 1.0), np.float32)


def _without_vessels(picture: FloatArray, left: float) -> FloatArray:
    """Without what is bright and as narrow as vessels; ribs are wider, and grain is finer."""
    size = len(picture)
    fine = ndimage.gaussian_filter(picture, _GRAIN_WIDTH * size)
    wide = max(3, round(_VESSEL_WIDTH * size))
    reach = np.hypot(*np.mgrid[-wide // 2 : wide // 2 + 1, -wide // 2 : wide // 2 + 1]) <= wide / 2
    opened = ndimage.gaussian_filter(ndimage.grey_opening(fine, footprint=reach), _GRAIN_WIDTH * size)
    return np.asarray(opened + left * (fine - opened) + (picture - fine), np.float32)


def _line(drawn_back: BoolMask, air: BoolMask, rng: np.random.Generator, strength: float) -> FloatArray:
    """The visceral pleura: where lung and air meet, in parts."""
    size = len(air)
    edge = drawn_back & ndimage.binary_dilation(air, iterations=max(1, size // 160))
    distance = ndimage.distance_transform_edt(~edge).astype(np.float32)
    visible = ndimage.zoom(rng.normal(0.6, 0.5, (6, 6)), np.array(air.shape) / 6, order=1).clip(0, 1)
    return np.asarray(
        strength * visible * np.exp(-0.5 * (distance / (size * rng.uniform(*_LINE_WIDTH))) ** 2), np.float32
    )


def _between(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    return float(rng.uniform(*bounds))

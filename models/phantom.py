"""Chest radiographs computed from geometry, with the truth known: for tests and the demo, never for training.

The rule: the picture is a projection. Each tissue is a map of path lengths in cm; the detector sees Beer-Lambert
attenuation of their sum, scatter and quantum noise, and shows the logarithm, as a digital radiograph does. The truth
masks are those maps' outlines and are never adjusted to what a network finds.

Lungs are outlined as `training.data` has them: the whole aerated field, also behind the heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import CubicSpline, PchipInterpolator

FloatImage = npt.NDArray[np.float32]
BoolImage = npt.NDArray[np.bool_]
Points = Sequence[tuple[float, float]]

# Linear attenuation at the mean energy of a 110 kV beam, 1/cm (NIST XCOM at 60 keV, soft tissue and cortical bone).
_SOFT, _BONE = 0.205, 0.55
_AIR_IN_LUNG = 0.72  # share of an inflated lung that is air
_PHOTONS = 9000.0  # per pixel of 0.4 mm behind 10 cm of soft tissue
_SCATTER = 0.35  # scattered over primary after the grid
_GRID = 640  # geometry is drawn on this square and enlarged

# Right lung of the patient (left in the picture), in units of half the picture: apex, chest wall, angle, dome, spine.
_LUNG = (
    (-0.30, -0.74), (-0.45, -0.66), (-0.58, -0.46), (-0.68, -0.18), (-0.74, 0.12), (-0.77, 0.38), (-0.775, 0.50),
    (-0.66, 0.42), (-0.50, 0.335), (-0.34, 0.345), (-0.18, 0.42), (-0.135, 0.40), (-0.12, 0.10), (-0.12, -0.25),
    (-0.15, -0.55), (-0.20, -0.71),
)  # fmt: skip
# Half the width of the body at a height: neck, shoulders cut off by the detector's edge, chest, belly.
_SILHOUETTE = (
    (-1.01, 0.27), (-0.90, 0.30), (-0.82, 0.48), (-0.72, 0.92), (-0.60, 1.12), (-0.40, 1.16), (-0.15, 1.02),
    (0.15, 0.95), (0.55, 0.94), (1.01, 0.97),
)  # fmt: skip
_HEART = (
    (-0.05, -0.42), (0.06, -0.44), (0.145, -0.38), (0.15, -0.28), (0.13, -0.20), (0.16, -0.10), (0.26, 0.05),
    (0.38, 0.22), (0.43, 0.36), (0.36, 0.45), (0.15, 0.47), (-0.08, 0.44), (-0.19, 0.36), (-0.22, 0.20),
    (-0.18, 0.05), (-0.12, -0.10), (-0.11, -0.25),
)  # fmt: skip


@dataclass(frozen=True)
class Pathology:
    """What is wrong with a phantom, and where.

    Parameters
    ----------
    kind
        ``pneumothorax``, ``lung_opacity``, ``effusion`` or ``nodule``.
    right
        On the patient's right, which is on the left of the picture.
    size
        0 to 1, from hardly visible to very large.
    height
        Of an opacity or nodule: 0 at the apex, 1 at the base.
    """

    kind: str
    right: bool = True
    size: float = 0.5
    height: float = 0.7


@dataclass(frozen=True, eq=False)
class Phantom:
    """A computed radiograph and its truth.

    Parameters
    ----------
    pixels
        Shape (rows, columns), 0 to 1, dense structures bright.
    masks
        ``lung_right``, ``lung_left``, ``heart`` and each pathology's kind.
    cardiothoracic_ratio
        From the outlines of heart and lungs.
    """

    pixels: FloatImage
    masks: dict[str, BoolImage] = field(repr=False)
    cardiothoracic_ratio: float


def chest(
    seed: int, *, rows: int = 1024, columns: int = 1024, heart: float = 1.0, pathologies: Sequence[Pathology] = ()
) -> Phantom:
    """Compute a frontal chest radiograph of a patient that the seed describes.

    Parameters
    ----------
    heart
        Width of the heart relative to a normal one; 1.4 is a large heart.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : _GRID * 1j, -1 : 1 : _GRID * 1j].astype(np.float32)
    body = _Body.draw(rng, heart)
    lungs = {side: _filled(body.lung(side)) for side in ("right", "left")}
    heart_mask = _filled(body.heart)
    air, truth = _lung_air(lungs, heart_mask, rng)
    soft = _soft_tissue(x, y, body, rng)
    for pathology in pathologies:
        air, soft, truth[pathology.kind] = _with(pathology, air, soft, lungs, rng)
    airways = _stroke([(0.0, -1.0), (0.01, -0.62), (0.0, -0.36)], 0.035) * 1.5
    airways += _stroke([(0.0, -0.38), (-0.14, -0.24)], 0.022) + _stroke([(0.0, -0.38), (0.16, -0.20)], 0.02)
    bone = _bones(x, y, body, rng)
    path = _SOFT * np.clip(soft - air - airways - _stomach(x, y, body), 0.2, None) + _BONE * bone
    pixels = _expose(path, rows, columns, rng)
    masks = {"lung_right": lungs["right"], "lung_left": lungs["left"], "heart": heart_mask, **truth}
    enlarged = {key: _enlarge(mask.astype(np.float32), rows, columns) >= 0.5 for key, mask in masks.items()}
    thorax = np.flatnonzero((lungs["right"] | lungs["left"]).any(0))
    width = np.flatnonzero(heart_mask.any(0))
    return Phantom(pixels, enlarged, float(np.ptp(width) / np.ptp(thorax)))


@dataclass(frozen=True)
class _Body:
    """Anatomy of one patient: how the standard outlines are stretched and shifted."""

    width: float
    height: float
    lift: float
    tilt: float
    breadth: float
    female: bool
    wiggle: tuple[float, ...]
    heart_width: float

    @classmethod
    def draw(cls, rng: np.random.Generator, heart: float) -> _Body:
        return cls(
            width=rng.uniform(0.90, 1.05),
            height=rng.uniform(0.88, 1.06),
            lift=rng.uniform(-0.04, 0.06),
            tilt=rng.uniform(-0.03, 0.03),
            breadth=rng.uniform(0.94, 1.06),
            female=bool(rng.random() < 0.5),
            wiggle=tuple(rng.normal(0, 0.008, 2 * len(_LUNG))),
            heart_width=heart * rng.uniform(0.92, 1.08),
        )

    def place(self, points: Points, mirror: float = 1.0) -> list[tuple[float, float]]:
        """Points of the standard patient, moved to this one's."""
        return [
            (mirror * px * self.width + self.tilt * py, (py + 0.1) * self.height - 0.1 + self.lift) for px, py in points
        ]

    def lung(self, side: str) -> list[tuple[float, float]]:
        moved = [(px + self.wiggle[2 * i], py + self.wiggle[2 * i + 1]) for i, (px, py) in enumerate(_LUNG)]
        if side == "right":  # the liver lifts the right dome
            moved = [(px, py - 0.05 if 5 < i < 12 and py > 0.3 else py) for i, (px, py) in enumerate(moved)]
            return self.place(moved)
        return self.place(moved, mirror=-1.0)

    @property
    def heart(self) -> list[tuple[float, float]]:
        return self.place([(0.03 + (px - 0.03) * (self.heart_width if py > -0.2 else 1.0), py) for px, py in _HEART])


def _lung_air(
    lungs: dict[str, BoolImage], heart: BoolImage, rng: np.random.Generator
) -> tuple[FloatImage, dict[str, BoolImage]]:
    """Air in the lungs along each ray, in cm, thinned by vessels and by the heart in front of them."""
    air = np.zeros((_GRID, _GRID), np.float32)
    for mask in lungs.values():
        depth = ndimage.distance_transform_edt(mask) / (_GRID * 0.17)
        air += (19.0 * _AIR_IN_LUNG * np.sqrt(1 - (1 - np.clip(depth, 0, 1)) ** 2)).astype(np.float32)
    inside = ndimage.distance_transform_edt(heart) / (_GRID * 0.10)
    covered = np.sqrt(1 - (1 - np.clip(inside, 0, 1)) ** 2)
    air *= 1 - 0.72 * ndimage.gaussian_filter(covered, 2.0)
    both = lungs["right"] | lungs["left"]
    vessels = _vessels(rng) * both
    texture = ndimage.gaussian_filter(rng.normal(size=air.shape), 3.0) * 2.2 + ndimage.gaussian_filter(
        rng.normal(size=air.shape), 1.0
    )
    air -= vessels + np.where(both, 0.45 * texture, 0.0)
    return np.clip(air, 0, None).astype(np.float32), {}


def _vessels(rng: np.random.Generator) -> FloatImage:
    """Blood in cm: trees that leave each hilum, fork and grow thin towards the chest wall."""
    total = np.zeros((_GRID, _GRID), np.float32)
    branches: list[tuple[float, float, float, float]] = []
    for side in (-1, 1):
        for _ in range(13):
            direction = rng.uniform(-1.35, 1.35) if rng.random() < 0.8 else rng.uniform(0.6, 1.4)
            branches.append((side * 0.17, rng.uniform(-0.22, -0.02), side * direction, rng.uniform(0.010, 0.017)))
        total += 4.0 * np.exp(-(((_grid_x() - side * 0.17) / 0.07) ** 2) - ((_grid_y() + 0.12) / 0.13) ** 2)
    lines: dict[int, list[list[tuple[float, float]]]] = {}
    while branches:
        px, py, angle, radius = branches.pop()
        outward = 1.0 if px > 0 else -1.0
        trail = [(px, py)]
        for _ in range(int(rng.integers(5, 9))):
            angle += rng.normal(0, 0.10)
            px += 0.028 * outward * np.cos(angle)
            py += 0.028 * np.sin(angle) * outward
            trail.append((px, py))
        lines.setdefault(max(1, round(radius * _GRID)), []).append(trail)
        if radius > 0.0022:
            for turn in (-1, 1):
                branches.append((px, py, angle + turn * rng.uniform(0.15, 0.5), radius * rng.uniform(0.6, 0.75)))
    for thickness, trails in lines.items():
        layer = Image.new("L", (_GRID, _GRID))
        pen = ImageDraw.Draw(layer)
        for trail in trails:
            pen.line([_pixel(p) for p in trail], fill=255, width=max(1, thickness // 2), joint="curve")
        drawn = np.asarray(layer, np.float32) / 255
        total += ndimage.gaussian_filter(drawn, 0.8 + thickness / 8) * (0.30 + 0.16 * thickness)
    return total


def _soft_tissue(x: FloatImage, y: FloatImage, body: _Body, rng: np.random.Generator) -> FloatImage:
    """Soft tissue along each ray as if the lungs held none of their air, in cm."""
    half = body.breadth * PchipInterpolator(*zip(*_SILHOUETTE, strict=True))(y[:, :1])
    thickness = np.interp(y[:, :1], (-1.0, -0.7, 0.0, 1.0), (10.0, 15.0, 19.5, 23.0))
    torso = thickness * np.sqrt(np.clip(1 - (np.abs(x) / half) ** 3, 0, 1))
    abdomen = 3.5 / (1 + np.exp(-(y - 0.55 * body.height) / 0.06)) * np.exp(-((x / 0.8) ** 4))
    spine = 2.2 * np.exp(-((x / 0.11) ** 2))
    soft = torso + abdomen + spine
    if body.female:
        for side in (-1, 1):
            radius = np.hypot((x - side * 0.43) / 0.36, (y - 0.22) / 0.32)
            soft = soft + 3.2 * np.sqrt(np.clip(1 - radius**2, 0, 1)) * (0.6 + 0.4 * np.clip((y + 0.1) / 0.5, 0, 1))
    uneven = ndimage.gaussian_filter(rng.normal(size=x.shape), 18.0) * 18.0
    return _single(soft * (1 + 0.015 * uneven))


def _bones(x: FloatImage, y: FloatImage, body: _Body, rng: np.random.Generator) -> FloatImage:
    """Bone along each ray in cm: spine, ribs, clavicles and shoulder blades."""
    bone = np.zeros_like(x)
    centre = body.tilt * y
    vertebra = 0.72 + 0.28 * np.cos(2 * np.pi * (y + rng.uniform(0, 1)) / 0.135)
    bone += 0.75 * np.exp(-(((x - centre) / 0.08) ** 4)) * (0.7 + 0.3 * vertebra)
    bone += 0.35 * np.exp(-(((np.abs(x - centre) - 0.055) / 0.014) ** 2)) * (vertebra > 0.75)
    for side in (-1.0, 1.0):
        for number in range(1, 11):
            top = -0.80 + 0.125 * number
            reach = float(np.interp(number, (1, 3, 6, 10), (0.40, 0.62, 0.80, 0.84)))
            posterior = [
                (0.09, top),
                (0.30 * reach / 0.7, top - 0.035),
                (0.75 * reach, top + 0.07),
                (reach, top + 0.20),
            ]
            bone += _rib(body.place([(side * px, py) for px, py in posterior]), 0.034, 0.95)
            if number < 8:
                anterior = [(reach, top + 0.20), (0.78 * reach, top + 0.36), (0.45 * reach, top + 0.47)]
                bone += _rib(body.place([(side * px, py) for px, py in anterior]), 0.038, 0.50)
        clavicle = [(0.07, -0.60), (0.25, -0.66), (0.45, -0.73), (0.72, -0.76)]
        bone += _rib(body.place([(side * px, py) for px, py in clavicle]), 0.040, 1.5)
        blade = [(0.66, -0.66), (0.74, -0.40), (0.80, -0.10), (0.86, 0.02)]
        bone += _rib(body.place([(side * px, py) for px, py in blade]), 0.030, 0.7)
        head = np.hypot((x - side * 0.99 * body.breadth) / 0.14, (y + 0.60) / 0.15)
        bone += 1.6 * np.sqrt(np.clip(1 - head**2, 0, 1))
    return _single(ndimage.gaussian_filter(bone, 0.7))


def _rib(points: Points, width: float, thickness: float) -> FloatImage:
    """A tube of bone: its rim is cortex and absorbs more than its middle."""
    outer, inner = _stroke(points, width), _stroke(points, width * 0.62)
    return _single(thickness * (outer - 0.55 * inner))


def _stomach(x: FloatImage, y: FloatImage, body: _Body) -> FloatImage:
    """The gas bubble under the left dome (right in the picture), in cm of air."""
    radius = np.hypot((x - 0.42 * body.width) / 0.15, (y - (0.55 * body.height + body.lift)) / 0.075)
    return _single(3.5 * np.sqrt(np.clip(1 - radius**2, 0, 1)))


def _with(
    pathology: Pathology, air: FloatImage, soft: FloatImage, lungs: dict[str, BoolImage], rng: np.random.Generator
) -> tuple[FloatImage, FloatImage, BoolImage]:
    """Air, soft tissue and the truth mask after something went wrong."""
    lung = lungs["right" if pathology.right else "left"]
    rows, columns = np.flatnonzero(lung.any(1)), np.flatnonzero(lung.any(0))
    top, tall, wide = rows[0], np.ptp(rows), np.ptp(columns)
    if pathology.kind == "pneumothorax":
        # The lung shrinks towards its hilum: what is left is the same outline, smaller; around it is only air.
        inner = columns[-1] if pathology.right else columns[0]
        scale = 1 - 0.30 * pathology.size
        hilum = np.array([top + 0.95 * tall, inner])
        still = ndimage.affine_transform(lung.astype(np.float32), [1 / scale] * 2, hilum - hilum / scale, order=1)
        still = ndimage.gaussian_filter(still, 1.2) * lung
        depth = ndimage.distance_transform_edt(lung) / (_GRID * 0.17)
        filled = 19.0 * 0.92 * np.sqrt(1 - (1 - np.clip(depth, 0, 1)) ** 2)
        pleura = np.exp(-(((still - 0.5) / 0.22) ** 2)) * lung
        air = (1 - still) * filled * lung + still * air * (0.97 - 0.12 * pathology.size) + np.where(lung, 0, air)
        return (air - 0.9 * pleura).astype(np.float32), soft, lung & (still < 0.5)
    if pathology.kind == "effusion":
        level = rows[-1] - (0.10 + 0.40 * pathology.size) * tall
        _, column = np.mgrid[:_GRID, :_GRID]
        from_wall = np.abs(column - (columns[0] if pathology.right else columns[-1])) / wide
        fluid = lung & (np.mgrid[:_GRID, :_GRID][0] > level + 0.22 * tall * (1.0 - np.exp(-4.0 * from_wall)) ** 2)
        veil = ndimage.gaussian_filter(fluid.astype(np.float32), 4.0) * lung
        return (air * (1 - 0.93 * veil)).astype(np.float32), soft, fluid
    middle = columns[0] + wide * (0.45 if pathology.right else 0.55), top + pathology.height * tall
    radius = _GRID * ((0.012 + 0.02 * pathology.size) if pathology.kind == "nodule" else 0.05 + 0.09 * pathology.size)
    distance = np.hypot(np.mgrid[:_GRID, :_GRID][1] - middle[0], np.mgrid[:_GRID, :_GRID][0] - middle[1]) / radius
    if pathology.kind == "nodule":
        lump = lung & (distance < 1)
        return air, soft + 2 * 0.02 * radius * np.sqrt(np.clip(1 - distance**2, 0, 1)) * lung, lump
    cloud = distance + 0.9 * ndimage.gaussian_filter(rng.normal(size=lung.shape), radius / 4) * radius / 4
    density = np.clip(1.25 - cloud, 0, 1) * lung
    return (air * (1 - 0.85 * density)).astype(np.float32), soft, (density > 0.35) & lung


def _expose(path: FloatImage, rows: int, columns: int, rng: np.random.Generator) -> FloatImage:
    """From attenuation to a picture: primary and scattered photons, noise, logarithm, a mild edge enhancement."""
    primary = np.exp(-path)
    scattered = _SCATTER * ndimage.gaussian_filter(primary, _GRID * 0.06)
    image = _enlarge((primary + scattered).astype(np.float32), rows, columns)
    photons = _PHOTONS * np.exp(10 * _SOFT)
    counted = image + rng.normal(size=image.shape).astype(np.float32) * np.sqrt(np.maximum(image, 1e-6) / photons)
    dense = -np.log(np.maximum(counted, 1e-5))
    dense += 0.45 * (dense - ndimage.gaussian_filter(dense, max(rows, columns) / 100))
    low, high = np.percentile(dense, (1.0, 99.3))
    return _single(np.clip((dense - low) / (high - low), 0, 1) ** 0.9)


def _filled(points: Points) -> BoolImage:
    """Inside of a smooth closed curve through the points."""
    closed = np.array([*points, points[0]])
    curve = CubicSpline(np.arange(len(closed)), closed, bc_type="periodic")(np.linspace(0, len(closed) - 1, 400))
    layer = Image.new("L", (_GRID * 2, _GRID * 2))
    ImageDraw.Draw(layer).polygon([(2 * px, 2 * py) for px, py in map(_pixel, curve)], fill=255)
    return np.asarray(layer.resize((_GRID, _GRID), Image.Resampling.BOX)) > 127


def _stroke(points: Points, width: float) -> FloatImage:
    """A soft band of width `width` along a smooth open curve; 0 to 1."""
    given = np.array(points)
    curve = CubicSpline(np.arange(len(given)), given)(np.linspace(0, len(given) - 1, 60))
    layer = Image.new("L", (_GRID * 2, _GRID * 2))
    pixels = [(2 * px, 2 * py) for px, py in map(_pixel, curve)]
    ImageDraw.Draw(layer).line(pixels, fill=255, width=max(1, round(width * _GRID)), joint="curve")
    return _single(np.asarray(layer.resize((_GRID, _GRID), Image.Resampling.BOX)) / 255)


def _pixel(point: tuple[float, float]) -> tuple[float, float]:
    return (point[0] + 1) / 2 * _GRID, (point[1] + 1) / 2 * _GRID


def _enlarge(image: FloatImage, rows: int, columns: int) -> FloatImage:
    return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC), np.float32)


def _single(array: npt.NDArray[Any]) -> FloatImage:
    return np.asarray(array, dtype=np.float32)


def _grid_x() -> FloatImage:
    return np.broadcast_to(np.linspace(-1, 1, _GRID, dtype=np.float32), (_GRID, _GRID))


def _grid_y() -> FloatImage:
    return _grid_x().T

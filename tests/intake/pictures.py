"""Pictures that radiographs and other things consist of, 0 to 1, dense structures bright; each computed once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.data import get_testdata_file
from scipy import ndimage

from models.phantom import Pathology, chest

Picture = npt.NDArray[Any]

SIDE = 400


@cache
def frontal(seed: int = 1, *, rows: int = SIDE, columns: int = SIDE) -> Picture:
    """A computed frontal chest of an adult."""
    return _fixed(chest(seed, rows=rows, columns=columns).pixels)


@cache
def ill(kind: str, *, heart: float = 1.0) -> Picture:
    """A computed chest with a large finding of `kind`, and a heart so many times as wide as a normal one."""
    pathologies = (Pathology(kind, right=True, size=1.0),) if kind else ()
    return _fixed(chest(1, rows=SIDE, columns=SIDE, heart=heart, pathologies=pathologies).pixels)


@cache
def hip() -> Picture:
    """A computed hip: half a pelvis with its socket, the head, neck and shaft of the femur, and the thigh."""
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    thigh = 0.45 * np.sqrt(np.clip(1 - ((x - 0.52) / (0.46 - 0.06 * y)) ** 2, 0, 1))
    head = _ball(x - 0.45, y - 0.42, 0.115)
    shaft = _tube(x - 0.66 - 0.03 * y, 0.075) * (y > 0.52) * 0.9
    neck = _tube((x - 0.45) * 0.62 - (y - 0.42) * 0.62 + 0.02, 0.05) * (x > 0.45) * (x < 0.70) * (y < 0.62)
    trochanter = _ball(x - 0.70, y - 0.50, 0.09)
    ilium = 0.8 * (((x - 0.26) / 0.24) ** 2 + ((y - 0.14) / 0.24) ** 2 < 1)
    socket = 0.6 * ((np.hypot(x - 0.45, y - 0.42) < 0.165) & (x < 0.47) & (np.hypot(x - 0.45, y - 0.42) > 0.125))
    ischium = _tube(np.hypot(x - 0.27, y - 0.70) - 0.10, 0.05)
    bone = np.maximum.reduce([head, shaft, neck, trochanter, ilium, socket, ischium])
    noise = np.random.default_rng(3).normal(0, 0.01, x.shape)
    return _fixed(np.clip(thigh + 0.5 * ndimage.gaussian_filter(bone, 2.0) + noise, 0, 1))


@cache
def page() -> Picture:
    """A printed report."""
    sheet = Image.new("L", (SIDE, SIDE), 255)
    pen = ImageDraw.Draw(sheet)
    for line in range(22):
        words = " ".join(["finding", "compared", "unchanged", "left", "right", "basal", "heart", "size"][line % 5 :])
        pen.text((24, 20 + 16 * line), words, fill=0)
    return _fixed(np.asarray(sheet, np.float32) / 255)


@cache
def noise() -> Picture:
    """What a detector without exposure shows."""
    return _fixed(np.clip(np.random.default_rng(5).normal(0.5, 0.15, (SIDE, SIDE)), 0, 1))


@cache
def wedge() -> Picture:
    """A step wedge with line pairs, as quality control exposes it."""
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    steps = np.floor(x * 12) / 12
    lines = 0.5 + 0.4 * np.sign(np.sin(2 * np.pi * (4 + 40 * y) * x))
    grain = np.random.default_rng(7).normal(0, 0.01, x.shape)
    return _fixed(np.clip(np.where(y < 0.55, steps, lines) + grain, 0, 1))


@cache
def photograph() -> Picture:
    """A portrait that comes with matplotlib."""
    with Image.open(Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        return _fixed(np.asarray(picture.convert("L"), np.float32) / 255)


@cache
def ct_slice() -> Picture:
    """An axial section that comes with pydicom, enlarged."""
    ds = dcmread(str(get_testdata_file("CT_small.dcm")))
    values = ds.pixel_array.astype(np.float32)
    low, high = np.percentile(values, (1, 99))
    small = Image.fromarray(np.clip((values - low) / (high - low), 0, 1))
    return _fixed(np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 1))


def from_file(path: Path) -> Picture:
    """A real picture, gray, 0 to 1."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), np.float32) / 255


def framed(picture: Picture, margin: int, value: float) -> Picture:
    """With a margin of one gray value around it, as a collimator or an export leaves it."""
    return np.pad(picture, margin, constant_values=value)


def processed(picture: Picture) -> Picture:
    """The same exposure processed anew: edges enhanced, another gradation."""
    sharper = picture + 0.5 * (picture - ndimage.gaussian_filter(picture, 4.0))
    return np.clip(sharper, 0, 1) ** 0.8


def _ball(x: Picture, y: Picture, radius: float) -> Picture:
    return np.sqrt(np.clip(1 - (x**2 + y**2) / radius**2, 0, 1))


def _tube(across: Picture, radius: float) -> Picture:
    """A hollow bone: cortex outside, marrow inside."""
    outer = np.sqrt(np.clip(1 - (across / radius) ** 2, 0, 1))
    return outer - 0.4 * np.sqrt(np.clip(1 - (across / (0.6 * radius)) ** 2, 0, 1))


def _fixed(picture: Picture) -> Picture:
    """Read-only, for it is shared by many cases."""
    single = np.ascontiguousarray(picture, np.float32)
    single.setflags(write=False)
    return single

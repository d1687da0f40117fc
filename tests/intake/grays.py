"""Inputs that differ in how gray values are stored and shown: PS3.3 C.7.6.3, C.11.1, C.11.2."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom import Dataset

from models.refusal import Refusal
from orthanc_plugin.commands.modality import Exposure

from .case import READ, Group, Maker, instance, stored, written
from .pictures import Picture, framed, frontal


def gray_scale() -> Group:
    """Inversions, depths, signs, look-up tables, windows, padding, overlays."""
    group = Group("gray scale")
    group.add("MONOCHROME1", READ, stored(None, Exposure(modality="CR", monochrome1=True)))
    group.add("MONOCHROME1, DX, LUT shape INVERSE", READ, stored(None, Exposure(modality="DX", monochrome1=True)))
    inverse = stored(1 - frontal(), PresentationLUTShape="INVERSE")
    group.add("MONOCHROME2 with LUT shape INVERSE", READ, inverse)
    group.add("dense structures dark, MONOCHROME2", Refusal.INVERTED, stored(1 - frontal()))
    inverted = stored(1 - frontal(), Exposure(modality="CR", monochrome1=True))
    group.add("dense structures bright, MONOCHROME1", Refusal.INVERTED, inverted)
    for bits in (8, 10, 12, 14, 15, 16):
        group.add(f"{bits} bits stored", READ, stored(None, Exposure(modality="CR", bits_stored=bits)))
    group.add("signed, 12 bits", READ, _signed(12))
    group.add("signed, 16 bits", READ, _signed(16))
    falling = stored(1 - frontal(), RescaleSlope="-1", RescaleIntercept="4095")
    group.add("Rescale Slope -1", READ, falling)
    group.add("Modality LUT", READ, _modality_lut)
    group.add("VOI LUT", READ, _voi_lut)
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        shown = stored(VOILUTFunction=function, WindowCenter="2000", WindowWidth="2800")
        group.add(f"window, {function}", READ, shown)
    group.add("two windows", READ, stored(WindowCenter=["2048", "1500"], WindowWidth=["4096", "2000"]))
    group.add("no window", READ, stored(WindowCenter=None, WindowWidth=None))
    group.add("window of no width", Refusal.UNREADABLE_HEADER, stored(WindowWidth="0"))
    faraway = stored(WindowCenter="60000", WindowWidth="10")
    group.add("window that shows one gray", Refusal.UNREADABLE_PIXELS, faraway)
    for name, value in (("black", 0), ("white", 4095)):
        around = stored(_with_padding(value / 4095), PixelPaddingValue=value)
        group.add(f"padding stored {name}", READ, around)
    group.add("overlay in the unused high bits", READ, _embedded_overlay)
    group.add("overlay beside the pixels", READ, _overlay)
    group.add("eight gray levels", Refusal.QUALITY, stored(np.floor(frontal() * 7.99) / 8))
    return group


def _with_padding(value: float) -> Picture:
    inner = np.clip(frontal(), 2 / 4095, 4093 / 4095)  # the padding's value occurs nowhere else
    return framed(inner, 40, value)


def _signed(bits: int) -> Maker:
    def made(seed: str) -> list[bytes]:
        ds = instance(seed, None, Exposure(modality="CR", bits_stored=bits))
        half = 2 ** (bits - 1)
        values = np.frombuffer(ds.PixelData, "<u2").astype(np.int32) - half
        ds.PixelData, ds.PixelRepresentation = values.astype("<i2").tobytes(), 1
        ds.RescaleIntercept = str(half)
        return [written(ds)]

    return made


def _table(values: Picture, first: int, **attributes: Any) -> Dataset:
    """A look-up table of 16 bits (PS3.3 C.11.1.1.1)."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, 16])
    item.add_new("LUTData", "OW", np.round(values * 65535).astype("<u2").tobytes())
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _modality_lut(seed: str) -> list[bytes]:
    """Stored as square roots; the table squares them."""
    ds = instance(seed, np.sqrt(frontal()), WindowCenter="32768", WindowWidth="65536")
    del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType
    ds.ModalityLUTSequence = [_table(np.linspace(0, 1, 4096) ** 2, 0, ModalityLUTType="US")]
    return [written(ds)]


def _voi_lut(seed: str) -> list[bytes]:
    curve = 1 / (1 + np.exp(-6 * (np.linspace(0, 1, 4096) - 0.45)))
    return [written(instance(seed, WindowCenter=None, WindowWidth=None, VOILUTSequence=[_table(curve, 0)]))]


def _embedded_overlay(seed: str) -> list[bytes]:
    """An "R" in bit 12, as older modalities store it (PS3.3 2004 C.9.2)."""
    ds = instance(seed)
    values = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).copy()
    values[20:60, 20:30] |= 1 << 12
    ds.PixelData = values.tobytes()
    ds.add_new(0x60000010, "US", ds.Rows)
    ds.add_new(0x60000011, "US", ds.Columns)
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 12)
    return [written(ds)]


def _overlay(seed: str) -> list[bytes]:
    ds = instance(seed)
    bits = np.zeros((ds.Rows, ds.Columns), np.uint8)
    bits[20:60, 20:30] = 1
    ds.add_new(0x60000010, "US", ds.Rows)
    ds.add_new(0x60000011, "US", ds.Columns)
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60003000, "OW", np.packbits(bits, bitorder="little").tobytes())
    return [written(ds)]

"""Inputs made from the real radiographs of ``../shared/data``."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from models.refusal import Refusal
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.settings import REPOSITORY

from .case import READ, Group, instance, written
from .pictures import from_file

DATA = REPOSITORY.parent / "shared" / "data"

# Files and what a radiologist sees on them; the hip and the tibia come with headers that say so.
_DICOM = {
    "siim_cr_jpeg_monochrome2.dcm": READ,
    "nih_dx_secondary_capture.dcm": READ,
    "RG2_J2KI.dcm": Refusal.BODY_PART,
    "RG2_JLSL.dcm": Refusal.BODY_PART,
    "RG2_JPLY.dcm": Refusal.BODY_PART,
    "RG3_J2KR.dcm": Refusal.BODY_PART,
    "RG3_JLSN.dcm": Refusal.BODY_PART,
    "RG3_RLE.dcm": Refusal.BODY_PART,
}
# NIH files by number, spread over both sources; all of adults.
_FRONTALS = {
    "CR": ("PA", Exposure(modality="CR")),
    "DX": ("PA", Exposure(modality="DX")),
    "CR, MONOCHROME1, 16 bits": ("PA", Exposure(modality="CR", monochrome1=True, bits_stored=16)),
    "CR ": ("AP", Exposure(modality="CR", view="AP")),
    "DX ": ("AP", Exposure(modality="DX", view="AP")),
    "CR without any view": ("AP", Exposure(modality="CR")),
}


def real_files() -> Group:
    """DICOM files as they were found."""
    group = Group("real DICOM files", needs_shared=True)
    for name, fate in _DICOM.items():
        group.add(name, fate, partial(_as_found, name))
    return group


def real_pictures() -> Group:
    """Real pictures, wrapped with headers that are right or wrong about them."""
    group = Group("real pictures with made headers", needs_shared=True)
    for number, (words, (view, exposure)) in enumerate(_FRONTALS.items()):
        hidden = ("ViewPosition", "PatientOrientation", "SeriesDescription") if "without" in words else ()
        made = partial(_adult, view, number, exposure, hidden)
        group.add(f"NIH {view} of an adult as {words.strip()}", READ, made)
    group.add("NIH PA and AP in one study", (READ, READ), _two_adults)
    for number in range(4):
        group.add(f"child {number + 1} with an adult's header", Refusal.AGE, partial(_child, number, "045Y"))
    group.add("child with a child's header", Refusal.AGE, partial(_child, 0, "004Y"))
    for number in range(4):
        made = partial(_from_view_gate, "lateral", number)
        group.add(f"lateral {number + 1} with a PA header", Refusal.VIEW_CONFLICT, made)
    for number in range(4):
        made = partial(_from_view_gate, "ct_slice", number)
        group.add(f"CT figure {number + 1} with a PA header", Refusal.VIEW_CONFLICT, made)
    for side, columns in (("left", slice(None, -102)), ("right", slice(102, None))):
        cut = partial(_part, columns)
        group.add(f"NIH PA without the fifth on the patient's {side}", READ, cut, "lungs_cut_off")
    for way, turned in (("mirrored", "[:, ::-1]"), ("turned a quarter", "T"), ("upside down", "[::-1, ::-1]")):
        group.add(f"NIH PA {way}, the header says L\\F", Refusal.ORIENTATION, partial(_turned, turned))
    group.add("NIH PA inverted against the header", Refusal.INVERTED, partial(_turned, "1 - p"))
    return group


def _as_found(name: str, _seed: str) -> list[bytes]:
    return [(DATA / "dicom" / name).read_bytes()]


def _rows(folder: str) -> list[dict[str, str]]:
    with (DATA / folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _nih(view: str, number: int) -> Path:
    """One of the NIH pictures of adults, spread over the table."""
    chosen = [r for r in _rows("nih_chestxray14") if r["view"] == view and float(r["age"] or 0) >= 18]
    return DATA / "nih_chestxray14" / "images" / chosen[number * len(chosen) // 8]["file"]


def _adult(view: str, number: int, exposure: Exposure, hidden: tuple[str, ...], seed: str) -> list[bytes]:
    return [written(instance(seed, from_file(_nih(view, number)), exposure, **dict.fromkeys(hidden)))]


def _two_adults(seed: str) -> list[bytes]:
    ap = Exposure(modality="CR", view="AP")
    pictures = from_file(_nih("PA", 6)), from_file(_nih("AP", 6))
    return [written(instance(f"{seed}#0", pictures[0])), written(instance(f"{seed}#1", pictures[1], ap))]


def _child(number: int, age: str, seed: str) -> list[bytes]:
    chosen = [r for r in _rows("paediatric_pneumonia") if "covid" not in r["label"].lower()]
    file = chosen[number * len(chosen) // 5]["file"]
    return [written(instance(seed, from_file(DATA / "paediatric_pneumonia" / "images" / file), PatientAge=age))]


def _from_view_gate(group: str, number: int, seed: str) -> list[bytes]:
    chosen = [r for r in _rows("view_gate") if r["group"] == group]
    return [written(instance(seed, from_file(DATA / "view_gate" / chosen[number * len(chosen) // 4]["file"])))]


def _part(columns: slice, seed: str) -> list[bytes]:
    return [written(instance(seed, from_file(_nih("PA", 3))[:, columns]))]


def _turned(way: str, seed: str) -> list[bytes]:
    picture = from_file(_nih("PA", 7))
    turned = {"[:, ::-1]": picture[:, ::-1], "T": picture.T[:, ::-1], "[::-1, ::-1]": picture[::-1, ::-1]}
    return [written(instance(seed, turned.get(way, 1 - picture)))]

"""Studies of several images: copies, repeated exposures, further views, an image that comes late."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.uid import UID, generate_uid

from models.refusal import Refusal

from .case import READ, Group, Maker, instance, written
from .pictures import Picture, frontal, noise, processed

_LATERAL = {"ViewPosition": "LL", "PatientOrientation": ["A", "F"], "SeriesDescription": "Chest LL"}
_DERIVED = {"ImageType": ["DERIVED", "PRIMARY"], "SeriesDescription": "Chest PA processed"}

Part = tuple[Picture, dict[str, Any]]


def study(*parts: Part) -> Maker:
    """A study of several CR images, each in a series of its own, of one time of acquisition unless told otherwise."""

    def made(seed: str) -> list[bytes]:
        files = []
        for number, (pixels, attributes) in enumerate(parts):
            usual = {"InstanceNumber": str(number + 1), "AcquisitionTime": "030405"}
            files.append(written(instance(f"{seed}#{number}", pixels, **{**usual, **attributes})))
        return files

    return made


def _event(text: str) -> str:
    return str(generate_uid(prefix=None, entropy_srcs=[text]))


def studies() -> Group:
    """What a study holds beside one frontal radiograph."""
    group = Group("studies")
    first, second = frontal(6), frontal(7)
    ap = {"ViewPosition": "AP", "SeriesDescription": "Chest AP"}
    group.add(
        "two frontals, PA and AP", (READ, READ), study((first, {}), (second, {**ap, "AcquisitionTime": "031500"}))
    )
    group.add(
        "five frontals, more than wait in memory",
        (READ,) * 5,
        study(*((frontal(6 + n), {"AcquisitionTime": f"0{n}0000"}) for n in range(5))),
    )
    group.add("the same image twice, other UIDs", (READ, Refusal.COPY), study((first, {}), (first, {})))
    group.add("a copy processed anew, DERIVED", (READ, Refusal.COPY), study((first, {}), (processed(first), _DERIVED)))
    group.add(
        "a copy processed anew that comes first: the original is read",
        (Refusal.COPY, READ),
        study((processed(first), _DERIVED), (first, {})),
    )
    windowed = {"WindowCenter": "1800", "WindowWidth": "2600"}
    group.add("a copy with another window", (READ, Refusal.COPY), study((first, {}), (first, windowed)))
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    group.add("a copy stored MONOCHROME1", (READ, Refusal.COPY), study((first, {}), (1 - first, inverse)))
    mirrored = study((first, {}), (first[:, ::-1], {"PatientOrientation": ["R", "F"]}))
    group.add("a copy stored mirrored, and the header says so", (READ, Refusal.COPY), mirrored)
    repeated = np.clip(np.roll(first, 2, axis=1) + 0.02 * (noise() - 0.5), 0, 1)
    group.add(
        "an exposure repeated two minutes later: another exposure",
        (READ, READ),
        study((first, {"AcquisitionTime": "030400"}), (repeated, {"AcquisitionTime": "030600"})),
    )
    group.add(
        "two irradiation events at one time: two exposures",
        (READ, READ),
        study((first, {"IrradiationEventUID": _event("one")}), (repeated, {"IrradiationEventUID": _event("two")})),
    )
    group.add("PA and lateral", (READ, Refusal.VIEW), study((first, {}), (second, _LATERAL)))
    group.add(
        "only laterals",
        (Refusal.VIEW, Refusal.VIEW),
        study((first, _LATERAL), (second, {**_LATERAL, "ViewPosition": "RL"})),
    )
    suppressed = {"ImageType": ["DERIVED", "PRIMARY", "BONE_SUPPRESSED"]}
    group.add(
        "radiograph and its bone suppressed picture",
        (READ, Refusal.INTENT),
        study((first, {}), (processed(first), suppressed)),
    )
    ct = {"Modality": "CT", "SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.2")}
    group.add("radiograph and a CT", (READ, Refusal.MODALITY), study((first, {}), (second, ct)))
    group.add("radiograph and a broken one", (READ, Refusal.UNREADABLE_PIXELS), _with_broken)
    group.add("a late second frontal", (READ, READ), study((first, {}), (second, ap)), late=1)
    group.add("a late lateral", (READ, Refusal.VIEW), study((first, {}), (second, _LATERAL)), late=1)
    group.add("a late copy", (READ, Refusal.COPY), study((first, {}), (processed(first), _DERIVED)), late=1)
    group.add("a late frontal after a lateral", (Refusal.VIEW, READ), study((first, _LATERAL), (second, {})), late=1)
    return group


def _with_broken(seed: str) -> list[bytes]:
    broken = instance(f"{seed}#1", frontal(7))
    broken.PixelData = broken.PixelData[:1000]
    return [written(instance(f"{seed}#0", frontal(6))), written(broken)]

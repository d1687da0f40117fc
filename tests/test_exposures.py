"""One exposure is read once, however often and however processed it was sent; two exposures are two."""

from __future__ import annotations

import csv
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from scipy import ndimage

from models.exposures import COPY_AT_THE_SAME_TIME, ExposureKey, exposure_key, likeness, relation
from models.hanging import Hanging
from models.phantom import chest
from models.rendering import render, render_picture
from orthanc_plugin.commands.modality import Exposure, radiograph

PHANTOM = chest(1, rows=480, columns=400).pixels


def image(pixels: Any = PHANTOM, **changes: object) -> Dataset:
    ds = radiograph(pixels, Exposure(seed="exposure"))
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def key(ds: Dataset) -> ExposureKey:
    return exposure_key(ds, render(ds))


ORIGINAL = key(image())


def sharpened() -> Any:
    return np.clip(PHANTOM + 1.5 * (PHANTOM - ndimage.gaussian_filter(PHANTOM, 3)), 0, 1).astype(np.float32)


def test_the_same_image_twice_is_a_duplicate() -> None:
    assert relation(ORIGINAL, key(image(SOPInstanceUID="2.25.7"))) == "the same pixels"


@pytest.mark.parametrize(
    "copy",
    [
        image(PHANTOM**0.6, ImageType=["DERIVED", "PRIMARY"]),
        image(sharpened(), ImageType=["DERIVED", "PRIMARY"]),
        image(WindowCenter="1500", WindowWidth="900", Rows=480, PixelData=image(PHANTOM**1.3).PixelData),
        image(PHANTOM[::2, ::2]),
    ],
    ids=["another gray curve", "edge enhanced", "another window", "half the matrix"],
)
def test_another_processing_of_an_exposure_is_recognised(copy: Dataset) -> None:
    assert relation(ORIGINAL, key(copy)) == "the same exposure"


@pytest.mark.parametrize(
    "other",
    [
        image(PHANTOM**1.1, AcquisitionTime="030411"),
        image(PHANTOM**1.1, AcquisitionTime=""),
        image(chest(3, rows=480, columns=400, heart=1.4).pixels),
    ],
    ids=["seven seconds later", "time of one unknown", "another patient"],
)
def test_another_exposure_is_no_copy(other: Dataset) -> None:
    assert relation(ORIGINAL, key(other)) is None


def test_the_same_pixels_with_another_orientation_are_read_again() -> None:
    ds = image()
    corrected = exposure_key(ds, render(ds, Hanging(flip_columns=True)))
    assert relation(ORIGINAL, corrected) is None


def test_irradiation_events_outweigh_likeness() -> None:
    first = key(image(IrradiationEventUID="2.25.1"))
    again = image(PHANTOM**1.2, IrradiationEventUID="2.25.1", AcquisitionTime="")
    assert relation(first, key(again)) == "the same exposure"
    assert relation(first, key(image(PHANTOM**1.2, IrradiationEventUID="2.25.2"))) is None


@pytest.mark.shared
def test_different_exposures_of_one_patient_never_look_like_copies(shared_data: Path) -> None:
    """The margin of both limits, on pairs of follow-up radiographs; one pair of the collection is a true duplicate."""
    folder = shared_data / "nih_chestxray14"
    by_patient: dict[str, list[str]] = defaultdict(list)
    with (folder / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            by_patient[row["patient_id"]].append(row["file"])
    followed = [files[:4] for files in by_patient.values() if len(files) > 1]
    blank = image()
    found = []
    for files in followed:
        keys = [exposure_key(blank, render_picture(folder / "images" / name)) for name in files]
        found += [likeness(a, b) for a, b in combinations(keys, 2)]
    assert len(found) > 200
    assert sum(value > 0.9999 for value in found) <= 1
    assert max(value for value in found if value <= 0.9999) < COPY_AT_THE_SAME_TIME - 0.03

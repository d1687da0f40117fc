"""Small studies with a known fate: which of their images must be read, and which must be refused with which code.

The rule: number and seed make a study, so that a run can be repeated; what is expected is known before it is sent.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from models.phantom import chest
from orthanc_plugin.commands.modality import Exposure, radiograph

PIXELS = 128  # rows and columns: a file of 18 KB, which the models read in a tenth of a second
# Views of the images of one study; TR is a transverse CT image.
PATTERNS = (("PA",), ("AP",), ("PA", "AP"), ("PA", "LL"), ("PA", "AP", "LL"), ("LL",), ("TR",), ("PA", "TR"))
_WEIGHTS = (4, 3, 2, 3, 1, 1, 1, 1)
_REFUSED_AS = {"LL": "view", "TR": "modality"}


@dataclass(frozen=True)
class Study:
    """What is sent, and what must become of it.

    Parameters
    ----------
    images
        To be sent, in this order.
    readable
        SOP Instance UIDs of the images that must have one current result each.
    refused
        Codes that the others must have, one for each.
    """

    study_instance_uid: str
    images: tuple[Dataset, ...]
    readable: frozenset[str]
    refused: tuple[str, ...]


def make_study(run: str, number: int, *, size: int = PIXELS, views: tuple[str, ...] = ()) -> Study:
    """The study of this number in a run of this name; the same arguments give the same study.

    Parameters
    ----------
    views
        Empty: one of `PATTERNS`, by chance.
    """
    name = f"{run}/{number}"
    rng = random.Random(name)  # noqa: S311
    views = views or rng.choices(PATTERNS, _WEIGHTS)[0]
    images = tuple(_image(name, number, index, view, size) for index, view in enumerate(views))
    readable = [str(ds.SOPInstanceUID) for ds, view in zip(images, views, strict=True) if view not in _REFUSED_AS]
    refused = tuple(sorted(_REFUSED_AS[view] for view in views if view in _REFUSED_AS))
    return Study(str(images[0].StudyInstanceUID), images, frozenset(readable), refused)


def _image(study: str, number: int, index: int, view: str, size: int) -> Dataset:
    seed = f"{study}/{index}"
    noise = np.random.default_rng([number, index, *study.encode()]).normal(0, 0.01, (size, size))
    exposure = Exposure(
        view="PA" if view == "TR" else view,
        bits_stored=8,
        seed=seed,
        study=study,
        patient_name=f"Faults^{number}",
        patient_id=f"FAULTS-{number}",
    )
    ds = radiograph(np.clip(_picture(number % 2, size) + noise, 0, 1), exposure)
    # minutes apart: no image may pass for a copy of another
    ds.AcquisitionTime = f"{number % 24:02d}{10 + 7 * index:02d}{number % 60:02d}"
    ds.InstanceNumber = str(index + 1)
    if view == "TR":
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.Modality = "CT"
    return ds


@cache
def _picture(seed: int, size: int) -> npt.NDArray[Any]:
    pixels: npt.NDArray[Any] = chest(seed + 1).pixels
    rows, columns = (np.linspace(0, length - 1, size).astype(int) for length in pixels.shape)
    return np.asarray(pixels[np.ix_(rows, columns)])

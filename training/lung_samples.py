"""The drawn radiographs as ``lung_fields`` sees them, each with what was drawn on it.

The rule: a structure that nobody drew is marked as such and teaches nothing; it is not an absent one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data import BoolArray, StructureRecord, network_mask, network_pictures, split_sides

HalfArray = npt.NDArray[np.float16]

SEGMENTS = ("lung_right", "lung_left", "heart")
INPUT_SIZE = 256


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures as the network sees them.

    Parameters
    ----------
    pictures
        Shape (n, size, size), 0 to 1.
    masks, drawn
        Shape (n, 3, size, size), in the order of `SEGMENTS`, and which of them somebody drew: shape (n, 3).
    main_reader
        Whether the lungs are those of ``lung_masks``: shape (n,).
    second
        Number of a picture to the lungs that a second reader drew on it, shape (size, size).
    """

    pictures: HalfArray
    masks: BoolArray
    drawn: BoolArray
    patients: list[str]
    main_reader: BoolArray
    second: dict[int, BoolArray]


def load_samples(records: list[StructureRecord], what: str = "rendering") -> Samples:
    """Render every record as the network will see it, with its masks; a record without any is no frontal chest."""
    pictures, frames = network_pictures([r.image for r in records], INPUT_SIZE, what)
    masks = np.zeros((len(records), len(SEGMENTS), INPUT_SIZE, INPUT_SIZE), np.bool_)
    drawn = np.zeros((len(records), len(SEGMENTS)), np.bool_)
    main_reader = np.array(["lung_fields" in record.masks for record in records])
    second = {}
    for i, (record, frame) in enumerate(zip(records, frames, strict=True)):
        found = {key: network_mask(path, frame) for key, path in record.masks.items()}
        if "lung_fields" in found:
            masks[i, :2] = split_sides(found["lung_fields"])
            drawn[i, :2] = True
            if "lung_right" in found and "lung_left" in found:
                second[i] = found["lung_right"] | found["lung_left"]
        for channel, key in enumerate(SEGMENTS):
            if key in found and not drawn[i, channel]:
                masks[i, channel], drawn[i, channel] = found[key], True
    return Samples(pictures, masks, drawn, [r.patient for r in records], main_reader, second)

"""Studies to be read, each of one radiograph made in code and of a patient of its own.

The rule: pictures are few, for making one takes seconds; identifiers are new each time, so that nothing is known yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from models.phantom import Pathology, chest
from models.resampling import resize
from orthanc_plugin.commands.modality import Exposure, radiograph

ROWS, COLUMNS = 3000, 2500  # of a detector of 43 x 35 cm
_PATIENTS: tuple[tuple[Pathology, ...], ...] = (
    (),
    (Pathology("lung_opacity", size=0.8, height=0.6),),
    (Pathology("effusion", right=False, size=0.7),),
)
_DRAWN = 1024  # rows of the picture that is enlarged
_NOISE = 0.004  # of a gray value, at full size


@dataclass(frozen=True)
class Pictures:
    """Instances of which studies are made, as many as there are kinds of patients."""

    templates: tuple[Dataset, ...]

    @classmethod
    def of_size(cls, rows: int = ROWS, columns: int = COLUMNS, *, kinds: int = len(_PATIENTS)) -> Pictures:
        """Radiographs of 12 bits, uncompressed."""
        return cls(
            tuple(
                radiograph(_enlarged(number, rows, columns, found), Exposure(seed=f"picture {number}"))
                for number, found in enumerate(_PATIENTS[:kinds])
            )
        )

    def study(self, run: str, number: int) -> Dataset:
        """The only instance of a study; the same run and number give the same one."""
        named = radiograph(np.zeros((1, 1)), Exposure(seed=f"{run}/{number}"))
        ds = deepcopy(self.templates[number % len(self.templates)])
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AcquisitionTime"):
            setattr(ds, keyword, named[keyword].value)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.PatientID = f"BENCH-{run}-{number}"[:64]
        return ds


def _enlarged(seed: int, rows: int, columns: int, found: Sequence[Pathology]) -> npt.NDArray[np.float32]:
    """A phantom at full size: its finest details are those of `_DRAWN` rows, its noise is that of each pixel."""
    drawn = chest(seed, rows=min(_DRAWN, rows), columns=min(_DRAWN * columns // rows, columns), pathologies=found)
    noise = np.random.default_rng(seed).normal(0.0, _NOISE, (rows, columns)).astype(np.float32)
    pixels: npt.NDArray[np.float32] = np.clip(resize(drawn.pixels, rows, columns) + noise, 0.0, 1.0)
    return pixels

"""How a stored image is turned so that it hangs as radiologists read it, and the way back to stored pixels.

The rule: only the header turns an image (Patient Orientation, PS3.3 C.7.6.1.1.1). What a picture seems to show never
does: a heart on the right may be a mirrored picture or a patient with situs inversus.

A frontal radiograph hangs with the patient's right on the viewer's left: Patient Orientation ``L\\F``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class Hanging:
    """One of the eight ways in which an image can lie; applied in this order.

    Parameters
    ----------
    transpose
        Exchange rows and columns.
    flip_rows, flip_columns
        Then put the last row first; put the last column first.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def as_stored(self) -> bool:
        """Whether nothing is to be turned."""
        return not (self.transpose or self.flip_rows or self.flip_columns)

    def apply(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """From the stored matrix (rows, columns) to the hung one; a view of the same memory."""
        hung = stored.T if self.transpose else stored
        return self._flip(hung)

    def undo(self, hung: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """From the hung matrix back to the stored one; a view of the same memory."""
        flipped = self._flip(hung)
        return flipped.T if self.transpose else flipped

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the hung image, from those of the stored one."""
        return (columns, rows) if self.transpose else (rows, columns)

    def point_to_stored(self, x: float, y: float, rows: int, columns: int) -> tuple[float, float]:
        """From a point (x to the right, y down, in pixels) of the hung image to the stored one of (rows, columns)."""
        hung_rows, hung_columns = self.size(rows, columns)
        x = hung_columns - x if self.flip_columns else x
        y = hung_rows - y if self.flip_rows else y
        return (y, x) if self.transpose else (x, y)

    def _flip(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = array[::-1] if self.flip_rows else array
        return array[:, ::-1] if self.flip_columns else array


AS_STORED = Hanging()


def hanging_of(orientation: Sequence[str]) -> Hanging | None:
    """How a frontal image is to be turned, from Patient Orientation.

    Parameters
    ----------
    orientation
        Directions of the rows (to the right) and of the columns (downwards); only the first letter of each counts.

    Returns
    -------
    Hanging or None
        None when the value does not describe a frontal view: it is absent, lateral, or contradicts itself.
    """
    letters = "".join(direction.strip().upper()[:1] for direction in orientation)
    if len(letters) != 2 or len(orientation) != 2:
        return None
    across, down = letters[0], letters[1]
    if across in "LR" and down in "FH":
        return Hanging(flip_columns=across == "R", flip_rows=down == "H")
    if across in "FH" and down in "LR":
        # rows run along the body: exchanged with the columns, they run down it
        return Hanging(transpose=True, flip_columns=down == "R", flip_rows=across == "H")
    return None


def is_lateral(orientation: Sequence[str]) -> bool:
    """Whether Patient Orientation says that the image was taken from the side."""
    letters = {direction.strip().upper()[:1] for direction in orientation}
    return bool(letters & {"A", "P"})

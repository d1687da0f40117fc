"""What a named input is, and how its bytes are made.

The rule: `expected` is what a radiographer or a radiologist would expect of a node that reads frontal chest
radiographs of adults. It is never adapted to what the node happens to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmwrite

from orthanc_plugin.commands.modality import Exposure, radiograph

from .pictures import Picture, frontal

READ = "read"
PASSED_OVER = "passed over"  # an object that accompanies images and is not listed

# From the case's name, which makes the UIDs, to the files of one study in the order in which they arrive.
Maker = Callable[[str], list[bytes]]


@dataclass(frozen=True)
class Case:
    """One named input.

    Parameters
    ----------
    expected
        For each file: `READ`, `PASSED_OVER`, or the code of a refusal.
    needs_shared
        Whether it is made from the real radiographs of ``../shared/data``.
    cautions
        What a result must say about what limits it.
    late
        So many files, the last ones, arrive when the study has its answer already.
    """

    name: str
    group: str
    expected: tuple[str, ...]
    made: Maker
    needs_shared: bool = False
    cautions: frozenset[str] = frozenset()
    late: int = 0

    def files(self) -> list[bytes]:
        """The bytes of its instances."""
        return self.made(self.name)


class Group:
    """Collects the cases of one group."""

    def __init__(self, name: str, *, needs_shared: bool = False) -> None:
        self.name, self.needs_shared = name, needs_shared
        self.cases: list[Case] = []

    def add(self, name: str, expected: str | tuple[str, ...], made: Maker, *cautions: str, late: int = 0) -> None:
        """Add one case; `expected` is one word where the study is one file."""
        each = (expected,) if isinstance(expected, str) else expected
        self.cases.append(Case(name, self.name, each, made, self.needs_shared, frozenset(cautions), late))


def instance(
    seed: str, pixels: Picture | None = None, exposure: Exposure | None = None, /, **attributes: Any
) -> Dataset:
    """A complete instance of a computed frontal chest, or of `pixels`, with some attributes changed.

    Parameters
    ----------
    seed
        Makes its UIDs; what follows the last ``#`` tells the instances of one study apart.
    exposure
        How it is stored; CR, PA, 12 bits unless given.
    attributes
        By keyword; None takes an attribute away.
    """
    given = exposure or Exposure(modality="CR")
    full = Exposure(**{**vars(given), "seed": f"intake/{seed}", "study": f"intake/{seed.partition('#')[0]}"})
    ds = radiograph(frontal() if pixels is None else pixels, full)
    for keyword, value in attributes.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    return ds


def written(ds: Dataset) -> bytes:
    """The file (PS3.10) of an instance, faults included."""
    buffer = BytesIO()
    little_endian = ds.file_meta.TransferSyntaxUID.is_private or None  # pydicom does not know them
    dcmwrite(
        buffer, ds, enforce_file_format=True, implicit_vr=False if little_endian else None, little_endian=little_endian
    )
    return buffer.getvalue()


def stored(pixels: Picture | None = None, exposure: Exposure | None = None, /, **attributes: Any) -> Maker:
    """A study of one instance; see `instance`."""
    return lambda seed: [written(instance(seed, pixels, exposure, **attributes))]


def silent(pixels: Picture | None = None, exposure: Exposure | None = None, /, **attributes: Any) -> Maker:
    """As `stored`, but nothing tells the view or the body part unless `attributes` do."""
    nothing = {
        "ViewPosition": None,
        "PatientOrientation": None,
        "SeriesDescription": None,
        "StudyDescription": None,
        "BodyPartExamined": None,
        "ViewCodeSequence": None,
    }
    return stored(pixels, exposure, **{**nothing, **attributes})

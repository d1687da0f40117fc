"""The data sets that can be read, by the names that recipes give them.

The rule: whoever trains, explores or evaluates reads through here, so that every command knows the same data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from training.data import DataMissing
from training.readers import chexpert, covid19, masks, nih, plain, rsna, siim_acr
from training.readers.records import DataSet

READERS: Mapping[str, Callable[..., DataSet]] = MappingProxyType(
    {module.NAME: module.read for module in (nih, chexpert, siim_acr, covid19, rsna, masks, plain)}
)

_TABLES_TELL_ALL = {module.NAME for module in (nih, chexpert, covid19, rsna)}


def read_data_set(name: str, folder: Path, *, need_images: bool = True) -> DataSet:
    """Read a data set as it was downloaded.

    Parameters
    ----------
    name
        One of `READERS`.
    folder
        Where the download was unpacked; of ``plain``, the table or its folder.
    need_images
        Whether a row whose image is not there is left out. Where the tables leave to the images' headers what they say
        of a patient, it always is.

    Raises
    ------
    DataMissing
        When `folder` is not there, or not that data set; the message says what was expected.
    ValueError
        When no reader has that name.
    """
    if name not in READERS:
        raise ValueError(f"no reader is called {name!r}: {', '.join(READERS)}")
    if not folder.exists():
        raise DataMissing(f"{folder} is not there: unpack the data set {name} and name its folder")
    return READERS[name](folder, need_images=need_images) if name in _TABLES_TELL_ALL else READERS[name](folder)

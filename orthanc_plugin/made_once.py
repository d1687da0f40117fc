"""Files of a node that whoever needs them first makes: its name, its passwords."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile


def make_once(file: Path, text: str) -> None:
    """Write a file that only its owner may read, unless it is there.

    The first of several callers wins, in this process or another, and nobody ever sees half a file.

    Raises
    ------
    OSError
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, prefix=f"{file.name}.") as draft:
        draft.write(text)
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, file)

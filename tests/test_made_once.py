"""A file that several may need first is made once, whole, and for its owner only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.ownership import load_archive_id

_CALLERS = 8


@pytest.mark.parametrize("load", [load_archive_id, load_credentials])
def test_whoever_asks_while_it_is_made_gets_what_stays(load: Callable[[Path], object], tmp_path: Path) -> None:
    for turn in range(50):
        file, together = tmp_path / str(turn) / "made", Barrier(_CALLERS)

        def ask(file: Path = file, together: Barrier = together) -> object:
            together.wait()
            return load(file)

        with ThreadPoolExecutor(_CALLERS) as pool:
            answers = {asked.result() for asked in [pool.submit(ask) for _ in range(_CALLERS)]}
        assert answers == {load(file)}
        assert [entry.name for entry in file.parent.iterdir()] == ["made"]
        assert file.stat().st_mode & 0o777 == 0o600

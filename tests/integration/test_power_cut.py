"""A power cut takes the newest entries of Orthanc's index; the files are there, and their images come back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from running_node import free_port

from models.phantom import chest
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.commands.plain_orthanc import plain_orthanc
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.notes import FILES_KNOWN
from orthanc_plugin.settings import Settings
from orthanc_plugin.working import lost_files
from orthanc_plugin.working.lost_files import LostFiles
from orthanc_plugin.working.rounds import keep_reconciled

PIXELS = chest(1).pixels[:64, :64]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", http_port=free_port())


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(tmp_path / "ledger.sqlite")
    migrate(made)
    yield made
    made.close()


def test_an_image_that_the_index_lost_is_given_back_as_it_was(settings: Settings, ledger: Ledger) -> None:
    known, lost = _image("known"), _image("lost")
    result = _image("result")
    result.Modality, result.Manufacturer, result.ManufacturerModelName = "SR", "Hilum", "Hilum"
    with plain_orthanc(settings) as orthanc:
        orthanc.store(known)
        index = _index(settings)
        orthanc.store(result)
        name = orthanc.store(lost)
        content = orthanc.fetch(name).content
    _cut(settings, index)
    with plain_orthanc(settings) as orthanc:
        assert not orthanc.has_instances([lost.SOPInstanceUID])
        before = _files(settings)
        _was_alive(ledger, 200)
        files, stop, now = LostFiles(settings.storage), threading.Event(), time.time()
        assert files.take_back(ledger, orthanc, now=now, stop=stop) == 0, "reading goes first"
        files = LostFiles(settings.storage)  # a worker that died before it looked
        assert files.take_back(ledger, orthanc, now=now, stop=stop) == 0
        assert files.take_back(ledger, orthanc, now=now + 61, stop=stop) == 1
        assert orthanc.fetch(name).content == content
        assert len(orthanc.instance_ids()) == 2, "results of ours are made again, not given back"
        assert len(_files(settings)) == len(before), "the lost file makes room for the one that is known"
        again = LostFiles(settings.storage)
        assert [again.take_back(ledger, orthanc, now=now + later, stop=stop) for later in (0, 61)] == [0, 0]


def test_a_file_on_its_way_into_orthanc_is_left_alone(settings: Settings, ledger: Ledger) -> None:
    with plain_orthanc(settings) as orthanc:
        orthanc.store(_image("known"))
        index = _index(settings)
        orthanc.store(_image("coming"))
    _cut(settings, index, ago=20)
    with plain_orthanc(settings) as orthanc:
        _was_alive(ledger, 200)
        files, stop, now = LostFiles(settings.storage), threading.Event(), time.time()
        assert files.take_back(ledger, orthanc, now=now, stop=stop) == 0
        assert files.take_back(ledger, orthanc, now=now + 61, stop=stop) == 1, "it has been there for a minute"
        orthanc.store(_image("later"))
        assert files.take_back(ledger, orthanc, now=now + 300, stop=stop) == 0, "nothing is lost in a running node"


def test_a_node_looks_for_them_by_itself(settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_files, "AT_REST_SECONDS", 1.0)
    lost = _image("lost")
    with plain_orthanc(settings) as orthanc:
        orthanc.store(_image("known"))
        index = _index(settings)
        orthanc.store(lost)
    _cut(settings, index)
    _was_alive(ledger, 200)
    stop, site = threading.Event(), replace(settings, reconcile_seconds=0.2)
    with plain_orthanc(settings) as orthanc:
        rounds = threading.Thread(target=keep_reconciled, args=[site, ledger, lambda: None, stop])
        rounds.start()
        try:
            end = time.monotonic() + 30
            while not orthanc.has_instances([lost.SOPInstanceUID]):
                assert time.monotonic() < end, "nobody gave it back"
                time.sleep(0.1)
        finally:
            stop.set()
            rounds.join()


def _image(seed: str) -> Dataset:
    return radiograph(PIXELS, Exposure(seed=seed, study=seed, patient_name="Cut^Power", patient_id=seed))


def _index(settings: Settings) -> dict[str, bytes]:
    """Orthanc's index as the disk has it at this moment; Orthanc holds it exclusively, so its files are copied."""
    time.sleep(0.2)
    return {name: (settings.storage / name).read_bytes() for name in ("index", "index-wal")}


def _cut(settings: Settings, index: dict[str, bytes], ago: float = 120) -> None:
    """Put back an earlier index; the files were written so many seconds ago."""
    (settings.storage / "index-shm").unlink(missing_ok=True)
    for name, content in index.items():
        (settings.storage / name).write_bytes(content)
    then = time.time() - ago
    for file in _files(settings):
        os.utime(file, (then, then))


def _files(settings: Settings) -> list[Path]:
    return [file for file in settings.storage.glob("??/??/*") if file.is_file()]


def _was_alive(ledger: Ledger, ago: float) -> None:
    with ledger.write() as db:
        tasks.set_fact(db, FILES_KNOWN, repr(time.time() - ago))

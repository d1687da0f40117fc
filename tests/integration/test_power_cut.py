"""A power cut takes the newest entries of Orthanc's index; the files are there, and their images come back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian
from running_node import free_port

from dicom_sr.file_format import file_of
from models.phantom import chest
from orthanc_plugin.archive.client import OrthancClient, OrthancFailed
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
        orthanc.store(file_of(known))
        index = _index(settings)
        orthanc.store(file_of(result))
        name = orthanc.store(file_of(lost))
        content = orthanc.fetch(name).content
    _cut(settings, index)
    with plain_orthanc(settings) as orthanc:
        assert not orthanc.has_instances([lost.SOPInstanceUID])
        before = _files(settings)
        _was_alive(ledger, 200)
        for _ in range(2):  # the first worker dies before it looked
            assert _looks(settings, ledger, orthanc, at=(0, 61)) == [0, 0], "reading goes first, then it has to stay so"
        assert _looks(settings, ledger, orthanc, at=(0, 61, 122)) == [0, 0, 1]
        assert orthanc.fetch(name).content == content
        assert len(orthanc.instance_ids()) == 2, "results of ours are made again, not given back"
        assert len(_files(settings)) == len(before), "the lost file makes room for the one that is known"
        assert _looks(settings, ledger, orthanc, at=(0, 61, 122)) == [0, 0, 0]


def test_a_file_on_its_way_into_orthanc_is_left_alone(settings: Settings, ledger: Ledger) -> None:
    coming = _image("coming")
    with plain_orthanc(settings) as orthanc:
        orthanc.store(file_of(_image("known")))
        index = _index(settings)
        orthanc.store(file_of(coming))
    _cut(settings, index)
    with plain_orthanc(settings) as orthanc:
        files = LostFiles(settings.storage)
        assert [files.take_back(ledger, orthanc, now=time.time(), elapsed=at) for at in (0, 61)] == [0, 0]
        orthanc.store(file_of(coming))
        assert files.take_back(ledger, orthanc, now=time.time(), elapsed=122) == 0
        assert len(orthanc.instance_ids()) == 2


@pytest.mark.parametrize("clock", [-31_536_000.0, -300.0, 300.0], ids=["a year behind", "behind", "ahead"])
def test_a_clock_that_is_wrong_after_the_start_hides_nothing(settings: Settings, ledger: Ledger, clock: float) -> None:
    _lose_one(settings)
    _was_alive(ledger, 200)
    with plain_orthanc(settings) as orthanc:
        assert _looks(settings, ledger, orthanc, at=(0, 61, 122), clock=clock) == [0, 0, 1]


def test_a_storage_area_that_is_not_mounted_yet_is_looked_at_when_it_is(settings: Settings, ledger: Ledger) -> None:
    _lose_one(settings)
    _was_alive(ledger, 200)
    with plain_orthanc(settings) as orthanc:
        files = LostFiles(settings.storage.with_name("mount"))
        assert [files.take_back(ledger, orthanc, now=time.time(), elapsed=at) for at in (0, 61, 122)] == [0, 0, 0]
        settings.storage.with_name("mount").symlink_to(settings.storage)
        assert [files.take_back(ledger, orthanc, now=time.time(), elapsed=at) for at in (183, 244)] == [0, 1]


def test_a_torn_file_is_passed_over_and_the_others_come_back(settings: Settings, ledger: Ledger) -> None:
    _lose_one(settings)
    deflated, whole = BytesIO(), _files(settings)[0]
    ds = dcmread(whole)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(deflated)
    for name, content in (("00" * 18, deflated.getvalue()), ("01" * 18, whole.read_bytes())):
        whole.with_name(name).write_bytes(content[:700])
    _was_alive(ledger, 200)
    with plain_orthanc(settings) as orthanc:
        assert _looks(settings, ledger, orthanc, at=(0, 61, 122)) == [0, 0, 1]


def test_what_orthanc_fails_at_is_tried_again_and_left_in_the_end(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lose_one(settings)
    _was_alive(ledger, 200)
    before, store, answer = _note(ledger), OrthancClient.store, httpx.Response(500)
    failures = [OrthancFailed("accident", request=httpx.Request("POST", "/"), response=answer)] * 3

    def fail_first(self: OrthancClient, file: bytes) -> str:
        if failures:
            raise failures.pop()
        return store(self, file)

    monkeypatch.setattr(OrthancClient, "store", fail_first)
    with plain_orthanc(settings) as orthanc:
        files = LostFiles(settings.storage)
        at = iter(range(0, 1000, 61))
        assert [files.take_back(ledger, orthanc, now=time.time(), elapsed=next(at)) for _ in range(5)] == [0] * 5
        assert _note(ledger) == before, "should the worker die now, the next one looks"
        assert files.take_back(ledger, orthanc, now=time.time(), elapsed=next(at)) == 1
        assert _note(ledger) > before


def test_a_node_looks_for_them_by_itself(settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_files, "AT_REST_SECONDS", 1.0)
    lost = _image("lost")
    with plain_orthanc(settings) as orthanc:
        orthanc.store(file_of(_image("known")))
        index = _index(settings)
        orthanc.store(file_of(lost))
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


def _lose_one(settings: Settings) -> None:
    """Let a power cut take one image from the index of a new archive that holds two."""
    with plain_orthanc(settings) as orthanc:
        orthanc.store(file_of(_image("known")))
        index = _index(settings)
        orthanc.store(file_of(_image("lost")))
    _cut(settings, index)


def _looks(
    settings: Settings, ledger: Ledger, orthanc: OrthancClient, *, at: Sequence[float], clock: float = 0.0
) -> list[int]:
    """What a new worker gives back, so many seconds after its start, by a clock that is so much ahead."""
    files, now = LostFiles(settings.storage), time.time() + clock
    return [files.take_back(ledger, orthanc, now=now + after, elapsed=after) for after in at]


def _note(ledger: Ledger) -> float:
    with ledger.read() as db:
        return float(tasks.get_fact(db, FILES_KNOWN) or 0)


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

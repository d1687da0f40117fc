"""Orthanc's index is described to SQLite, so that a UID is found in a large archive."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from running_node import free_port

from dicom_sr.file_format import file_of
from models.phantom import chest
from orthanc_plugin.commands import orthanc_index
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.commands.plain_orthanc import plain_orthanc
from orthanc_plugin.settings import Settings

# what Orthanc 1.10 asks for a UID, at the level of a study
LOOKUP = """
    SELECT studies.publicId FROM Resources AS studies
    INNER JOIN DicomIdentifiers AS t0 ON t0.id = studies.internalId
    AND t0.tagGroup = 32 AND t0.tagElement = 13 AND t0.value = ? WHERE studies.resourceType = 1
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home", http_port=free_port())
    settings.storage.mkdir(parents=True)
    return settings


def plan(settings: Settings) -> str:
    """How SQLite looks for a study."""
    with closing(sqlite3.connect(settings.storage / "index")) as db:
        return " ".join(str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {LOOKUP}", ["1.2.3"]))


def test_a_uid_is_looked_up_by_its_value_from_the_first_image_on(settings: Settings) -> None:
    orthanc_index.describe(settings.storage)
    assert "DicomIdentifiersIndexValues" in plan(settings)
    image = radiograph(chest(1).pixels[:64, :64], Exposure(seed="one", study="one"))
    with plain_orthanc(settings) as orthanc:
        orthanc.store(file_of(image))
        assert orthanc.has_instances([image.SOPInstanceUID])
    assert "DicomIdentifiersIndexValues" in plan(settings)


def test_an_index_that_orthanc_made_before_is_described_and_keeps_what_it_holds(settings: Settings) -> None:
    image = radiograph(chest(1).pixels[:64, :64], Exposure(seed="one", study="one"))
    with plain_orthanc(settings) as orthanc:
        orthanc.store(file_of(image))
    assert "DicomIdentifiersIndexValues" not in plan(settings)
    for _start in range(2):
        orthanc_index.describe(settings.storage)
        assert "DicomIdentifiersIndexValues" in plan(settings)
    with plain_orthanc(settings) as orthanc:
        assert orthanc.has_instances([image.SOPInstanceUID])


def test_an_index_in_use_or_damaged_stops_nothing(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with plain_orthanc(settings):
        orthanc_index.describe(settings.storage)
    assert "slow down" in caplog.text
    (settings.storage / "index").write_bytes(b"no database" * 100)
    caplog.clear()
    orthanc_index.describe(settings.storage)
    assert "slow down" in caplog.text
    assert (settings.storage / "index").read_bytes() == b"no database" * 100

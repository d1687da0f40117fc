"""The harness sees what it looks for: an image or a result that is gone, and one that speaks twice."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from dicom_sr.file_format import file_of
from dicom_sr.reader import is_measurement_report, is_preliminary_report
from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import send
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.views import of_study
from tests.faults.broken_node import BrokenNode, broken_node
from tests.faults.counting import Fate, Found, look_at
from tests.faults.studies import Study, make_study

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def quiet_node() -> Iterator[BrokenNode]:
    """A node that compares itself with Orthanc so seldom that what a test breaks stays broken."""
    with broken_node(reconcile_seconds="3600") as broken:
        broken.start()
        broken.wait_until_ready(120)
        yield broken


def answered(broken: BrokenNode, *views: str) -> Study:
    study = make_study(uuid.uuid4().hex, 0, views=views)
    outcomes = send(study.images, "127.0.0.1", broken.settings.dicom_port, broken.settings.ae_title)
    assert all(outcome.accepted for outcome in outcomes)
    end = time.monotonic() + 60
    while True:
        with broken.ledger.read() as db:
            (row,) = of_study(db, study.study_instance_uid)
        if row["status"] in ("done", "not_processed"):
            return study
        assert time.monotonic() < end, broken.last_words()
        time.sleep(0.1)


def seen(broken: BrokenNode, study: Study) -> Found:
    with broken.orthanc() as orthanc:
        return look_at(study, orthanc, broken.ledger)


def held(broken: BrokenNode, study: Study) -> dict[str, Dataset]:
    """Orthanc's name and content of each instance of a study."""
    with broken.orthanc() as orthanc:
        series = orthanc.series_of_study(study.study_instance_uid)
        names = [name for one in series for name in one.instances]
        return {name: dcmread(BytesIO(orthanc.fetch(name).content)) for name in names}


def delete(broken: BrokenNode, name: str) -> None:
    with node.http(broken.direct, load_credentials(broken.settings.credentials)) as client:
        client.delete(f"/instances/{name}").raise_for_status()


@pytest.mark.parametrize(
    ("views", "fate"),
    [(("PA", "AP", "LL"), Fate.ANSWERED), (("PA", "TR"), Fate.ANSWERED), (("LL",), Fate.REFUSED)],
)
def test_a_study_with_all_that_was_promised_is_well(quiet_node: BrokenNode, views: tuple[str, ...], fate: Fate) -> None:
    found = seen(quiet_node, answered(quiet_node, *views))
    assert (found.fate, found.why) == (fate, "")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("image", "was acknowledged and is not in Orthanc"),
        ("measurement report", "results for 0 of 1 readable images"),
        ("Segmentation", "a Segmentation is missing"),
        ("preliminary report", "0 preliminary reports"),
    ],
)
def test_what_is_gone_makes_the_study_a_lost_one(quiet_node: BrokenNode, what: str, why: str) -> None:
    study = answered(quiet_node, "PA")
    is_it = {
        "image": lambda ds: ds.Modality == "DX",
        "measurement report": is_measurement_report,
        "Segmentation": lambda ds: ds.Modality == "SEG",
        "preliminary report": is_preliminary_report,
    }[what]
    (name,) = (name for name, ds in held(quiet_node, study).items() if is_it(ds))
    delete(quiet_node, name)
    found = seen(quiet_node, study)
    assert found.fate is Fate.LOST
    assert why in found.why


@pytest.mark.parametrize("is_it", [is_measurement_report, is_preliminary_report])
def test_two_documents_that_speak_at_once_are_a_duplicate(quiet_node: BrokenNode, is_it: object) -> None:
    study = answered(quiet_node, "PA")
    (document,) = (ds for ds in held(quiet_node, study).values() if is_it(ds))  # type: ignore[operator]
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    with quiet_node.orthanc() as orthanc:
        orthanc.store(file_of(document))
    assert seen(quiet_node, study).fate is Fate.DUPLICATE


def test_an_image_that_the_worklist_does_not_know_is_lost(quiet_node: BrokenNode) -> None:
    study = answered(quiet_node, "LL")
    unknown = make_study(uuid.uuid4().hex, 0, views=("LL",))
    assert seen(quiet_node, unknown).fate is Fate.LOST
    assert seen(quiet_node, study).fate is Fate.REFUSED

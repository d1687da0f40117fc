"""All our objects through archives that others wrote: stored, found and moved back, they are what they were."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from awkward_sources import SOURCES, file_bytes, findings_for, from_file, results_for
from pydicom import Dataset, dcmread
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)
from running_node import Node, free_port

from orthanc_plugin.commands import modality

pytestmark = pytest.mark.node

BACK = "HILUM_BACK"  # where archives move what they are asked for
OUR_SOP_CLASSES = {
    Comprehensive3DSRStorage,
    BasicTextSRStorage,
    SegmentationStorage,
    SecondaryCaptureImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
}


@dataclass(frozen=True)
class Receiver:
    """A Storage SCP and what it was sent, by SOP Instance UID."""

    port: int
    received: dict[str, Dataset]


@dataclass(frozen=True)
class Archive:
    """An archive that others wrote."""

    ae_title: str
    port: int


@contextmanager
def receiver() -> Iterator[Receiver]:
    received: dict[str, Dataset] = {}

    def take(event: Any) -> int:
        ds = event.dataset
        received[str(ds.SOPInstanceUID)] = ds
        return 0x0000

    ae = AE(ae_title=BACK)
    for context in AllStoragePresentationContexts:  # explicit alone: an implicit syntax forgets value representations
        ae.add_supported_context(context.abstract_syntax, ExplicitVRLittleEndian)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    assert server is not None
    try:
        yield Receiver(int(server.server_address[1]), received)
    finally:
        server.shutdown()


@contextmanager
def plain_orthanc(home: Path, back: Receiver) -> Iterator[Archive]:
    """Orthanc as its package has it, without any plugin."""
    http_port, dicom_port = free_port(), free_port()
    configuration = {
        "Name": "Plain",
        "StorageDirectory": str(home),
        "IndexDirectory": str(home),
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": dicom_port,
        "DicomAet": "PLAIN",
        "DefaultEncoding": "Utf8",  # of its answers to C-FIND; what it stores stays as it came
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"back": [BACK, "127.0.0.1", back.port]},
        "Plugins": [],
        "SaveJobs": False,
    }
    (home / "orthanc.json").write_text(json.dumps(configuration))
    with running(["Orthanc", str(home / "orthanc.json")], home, dicom_port):
        assert httpx.get(f"http://127.0.0.1:{http_port}/plugins", trust_env=False).json() in ([], ["explorer.js"])
        yield Archive("PLAIN", dicom_port)


@contextmanager
def dcmqrscp(home: Path, back: Receiver) -> Iterator[Archive]:
    """The archive of the DICOM toolkit."""
    port, storage = free_port(), home / "storage"
    storage.mkdir()
    (home / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 65536\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nback = ({BACK}, localhost, {back.port})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQRSCP {storage} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with running(["dcmqrscp", "--convert-to-utf8", "-c", str(home / "dcmqrscp.cfg")], home, port):
        yield Archive("QRSCP", port)


@contextmanager
def running(command: list[str], home: Path, port: int) -> Iterator[None]:
    """A process of ours, from the moment that it listens."""
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not listens(port):
            assert process.poll() is None, (home / "log.txt").read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


ARCHIVES: dict[str, Callable[[Path, Receiver], Any]] = {"plain Orthanc": plain_orthanc, "dcmqrscp": dcmqrscp}


@pytest.fixture(scope="module")
def study(hilum_node: Node) -> dict[str, Dataset]:
    """Everything that our node holds of one study: the image, what the worker made of it, and one of each kind."""
    ds = SOURCES["five components and three groups"]()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, keyword, generate_uid())
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    (outcome,) = modality.send([ds], "127.0.0.1", hilum_node.settings.dicom_port, hilum_node.settings.ae_title)
    assert outcome.accepted, outcome
    assert hilum_node.wait_for(str(ds.StudyInstanceUID))["status"] == "done"
    for result in results_for(ds, findings_for(ds)).values():
        hilum_node.http.post("/instances", content=file_bytes(result)).raise_for_status()
    objects = hilum_node.objects(str(ds.StudyInstanceUID))
    assert {o.SOPClassUID for o in objects} == {*OUR_SOP_CLASSES, ds.SOPClassUID}
    return {str(o.SOPInstanceUID): o for o in objects}


@pytest.fixture(scope="module")
def back() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


@pytest.fixture(scope="module", params=ARCHIVES)
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, back: Receiver) -> Iterator[Any]:
    with ARCHIVES[request.param](tmp_path_factory.mktemp("archive"), back) as one:
        yield one


@pytest.fixture(scope="module")
def stored(archive: Archive, hilum_node: Node, study: dict[str, Dataset]) -> Archive:
    """The archive once our node's Orthanc has sent it the whole study."""
    target = {"AET": archive.ae_title, "Host": "127.0.0.1", "Port": archive.port}
    here = {"Cookie": "the-same=orthanc"}  # of a cluster: by it the entrance chooses, and others do not know the target
    hilum_node.http.put(f"/modalities/{archive.ae_title}", json=target, headers=here).raise_for_status()
    (found,) = hilum_node.http.post("/tools/lookup", content=uid_of(study)).json()
    job = {"Resources": [found["ID"]], "Synchronous": True}
    answer = (
        hilum_node.http.post(f"/modalities/{archive.ae_title}/store", json=job, headers=here).raise_for_status().json()
    )
    assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (len(study), 0)
    return archive


def uid_of(study: dict[str, Dataset]) -> str:
    return str(next(iter(study.values())).StudyInstanceUID)


@contextmanager
def associated(archive: Archive, *models: str) -> Iterator[Any]:
    ae = AE(ae_title=BACK)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    for model in models:
        ae.add_requested_context(model)
    association = ae.associate("127.0.0.1", archive.port, ae_title=archive.ae_title)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def find(archive: Archive, level: str, **keys: str) -> list[Dataset]:
    """C-FIND with the keys given; those that are empty are asked for."""
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    patient = level == "PATIENT"
    model = PatientRootQueryRetrieveInformationModelFind if patient else StudyRootQueryRetrieveInformationModelFind
    with associated(archive, model) as association:
        answers = list(association.send_c_find(query, model))
    assert answers[-1][0].Status == 0x0000
    return [identifier for _status, identifier in answers if identifier is not None]


@pytest.mark.parametrize("sop_class", sorted(OUR_SOP_CLASSES), ids=lambda uid: uid.name)
def test_an_archive_accepts_a_presentation_context_for_each_of_our_sop_classes(
    archive: Archive, sop_class: str
) -> None:
    association = AE(ae_title=BACK).associate(
        "127.0.0.1",
        archive.port,
        contexts=[build_context(sop_class, [ExplicitVRLittleEndian])],
        ae_title=archive.ae_title,
    )
    assert association.is_established
    assert [context.abstract_syntax for context in association.accepted_contexts] == [sop_class]
    association.release()


def test_the_patient_and_the_study_are_found(stored: Archive, study: dict[str, Dataset]) -> None:
    one = next(iter(study.values()))
    (patient,) = find(stored, "PATIENT", PatientID=one.PatientID, PatientName="")
    assert patient.PatientName == one.PatientName
    (found,) = find(stored, "STUDY", StudyInstanceUID=uid_of(study), PatientName="", AccessionNumber="")
    assert (found.PatientName, found.AccessionNumber) == (one.PatientName, one.AccessionNumber)


def test_every_series_and_every_instance_is_found(stored: Archive, study: dict[str, Dataset]) -> None:
    series = {str(ds.SeriesInstanceUID): ds for ds in study.values()}
    keys = {"StudyInstanceUID": uid_of(study)}
    found = find(stored, "SERIES", **keys, SeriesInstanceUID="", Modality="", SeriesNumber="")
    assert {str(ds.SeriesInstanceUID): (ds.Modality, ds.SeriesNumber) for ds in found} == {
        uid: (ds.Modality, ds.SeriesNumber) for uid, ds in series.items()
    }
    instances = [
        instance
        for uid in series
        for instance in find(stored, "IMAGE", **keys, SeriesInstanceUID=uid, SOPInstanceUID="", InstanceNumber="")
    ]
    assert {str(ds.SOPInstanceUID): ds.InstanceNumber for ds in instances} == {
        uid: ds.InstanceNumber for uid, ds in study.items()
    }


def test_what_is_moved_back_is_identical(stored: Archive, study: dict[str, Dataset], back: Receiver) -> None:
    back.received.clear()
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", uid_of(study)
    with associated(stored, StudyRootQueryRetrieveInformationModelMove) as association:
        *_pending, (status, _) = association.send_c_move(query, BACK, StudyRootQueryRetrieveInformationModelMove)
    assert status.Status == 0x0000
    assert back.received.keys() == study.keys()
    for uid, ds in study.items():
        assert_identical(back.received[uid], ds)


def assert_identical(moved: Dataset, ds: Dataset) -> None:
    """Element by element, the file's own head (group 0002) left aside."""
    differing = [
        tag
        for tag in moved.keys() | ds.keys()
        if tag not in moved or tag not in ds or (moved[tag].VR, moved[tag].value) != (ds[tag].VR, ds[tag].value)
    ]
    assert differing == [], f"{ds.SOPClassUID.name}: {differing}"
    assert moved == ds
    assert moved.get("PixelData") == ds.get("PixelData")


def test_an_object_that_was_changed_on_the_way_would_be_noticed(study: dict[str, Dataset]) -> None:
    for ds in study.values():
        changed = from_file(file_bytes(ds))
        assert_identical(changed, ds)
        changed.InstanceNumber = 99
        with pytest.raises(AssertionError, match="0020"):
            assert_identical(changed, ds)


def test_dcmtk_s_storescu_and_our_own_sender_store_every_kind_in_dcmqrscp(
    study: dict[str, Dataset], back: Receiver, tmp_path: Path
) -> None:
    """With no more presentation contexts than the objects need."""
    files = [tmp_path / f"{number}.dcm" for number in range(len(study))]
    for path, ds in zip(files, study.values(), strict=True):
        path.write_bytes(file_bytes(ds))
    home = tmp_path / "archive"
    home.mkdir()
    with dcmqrscp(home, back) as archive:
        command = ["storescu", "-R", "-aec", archive.ae_title, "127.0.0.1", str(archive.port), *map(str, files)]
        sent = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (sent.returncode, sent.stderr) == (0, "")
        outcomes = list(modality.send_files(files, "127.0.0.1", archive.port, archive.ae_title))
        assert [outcome.error for outcome in outcomes if not outcome.accepted] == []
    held = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, (home / "storage").glob("*_*"))}  # and its index.dat
    assert held.keys() == study.keys()
    for uid, ds in study.items():
        assert_identical(held[uid], ds)

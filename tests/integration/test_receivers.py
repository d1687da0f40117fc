"""Deliveries from a real Orthanc to receivers that refuse, are slow, end in the middle or know nobody; and whoever
delivers is killed at every step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import build_context
from receivers import Other, Pacs, closed_port, pacs, plain_orthanc, ris

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.delivery import purging, storing, stow
from orthanc_plugin.delivery.failures import DeliveryFailed, ReceiverAway, Refused, TakenLater
from orthanc_plugin.delivery.outgoing import Parcel
from orthanc_plugin.integration import OBJECTS, Destination, Retention
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.counters import counted
from orthanc_plugin.ledger.database import migrate, open_ledger
from orthanc_plugin.ledger.deliveries import PURGED, forget, owe
from orthanc_plugin.ledger.delivery_views import standings
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus
from orthanc_plugin.settings import REPOSITORY, Settings

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]
RESULTS = (Comprehensive3DSRStorage, SegmentationStorage, BasicTextSRStorage)
MODALITIES = {Comprehensive3DSRStorage: "SR", SegmentationStorage: "SEG", BasicTextSRStorage: "SR"}


@dataclass(frozen=True)
class Held:
    """A study in Orthanc: an image and three results of ours."""

    study: str
    files: dict[str, bytes]
    image: str

    @property
    def results(self) -> set[str]:
        return set(self.files) - {self.image}


def made(study: str, sop_class: str, own: bool) -> tuple[str, bytes]:
    """An instance; its data set is what the transport has to leave as it is."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, generate_uid()
    ds.PatientID, ds.PatientName = "P1", "Secret^Name"
    ds.Modality = MODALITIES.get(sop_class, "DX")
    ds.Manufacturer, ds.ManufacturerModelName = ("Hilum", "Hilum") if own else ("Maker", "Room")
    inner = Dataset()
    inner.CodeValue = "1"
    ds.ConceptNameCodeSequence = [inner]
    ds["ConceptNameCodeSequence"].is_undefined_length = True  # which a library that encodes anew would change
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, ds.SOPInstanceUID
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return str(ds.SOPInstanceUID), file.getvalue()


def data_set_of(file: bytes) -> bytes:
    length = int.from_bytes(file[140:144], "little")
    return file[144 + length :]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Other, int]]:
    """Our own Orthanc, and the port of the one PACS that it knows and may ask to commit."""
    port = closed_port()
    known = {"pacs": {"AET": "PACS", "Host": "127.0.0.1", "Port": port, "AllowNEventReport": True}}
    with plain_orthanc(tmp_path_factory.mktemp("archive") / "orthanc", DicomModalities=known) as orthanc:
        yield orthanc, port


@pytest.fixture
def held(archive: tuple[Other, int]) -> Held:
    study = generate_uid()
    made_ones = [made(study, DigitalXRayImageStorageForPresentation, False), *(made(study, r, True) for r in RESULTS)]
    for _, file in made_ones:
        archive[0].http.post("/instances", content=file).raise_for_status()
    return Held(study, dict(made_ones), made_ones[0][0])


@pytest.fixture
def orthanc(archive: tuple[Other, int]) -> Iterator[OrthancClient]:
    own = archive[0]
    with OrthancClient(f"http://127.0.0.1:{own.http_port}", own.user, own.password) as client:
        yield client


def parcel(held: Held, receiver: Pacs | Destination, taken: dict[str, Any] | None = None) -> Parcel:
    to = receiver if isinstance(receiver, Destination) else to_pacs(receiver.port)
    return Parcel(held.study, to, {}, {} if taken is None else taken, lambda: None)


def to_pacs(port: int, **how: Any) -> Destination:
    return Destination("pacs", "dicom", "127.0.0.1", port, "PACS", **how)


# --- C-STORE --------------------------------------------------------------------------------------------------------
def test_every_result_goes_out_byte_for_byte_and_an_image_only_where_it_is_asked_for(
    held: Held, orthanc: OrthancClient
) -> None:
    with pacs() as receiver:
        it = parcel(held, receiver)
        storing.send(orthanc, it, "HILUM")
        assert receiver.data_sets == {uid: data_set_of(held.files[uid]) for uid in held.results}
        assert set(it.taken["objects"]) == held.results
        storing.send(orthanc, it, "HILUM")
        assert set(receiver.came.values()) == {1}
        everything = replace(it, destination=to_pacs(receiver.port, objects=(*OBJECTS, "images")))
        storing.send(orthanc, everything, "HILUM")
        assert receiver.data_sets == {uid: data_set_of(file) for uid, file in held.files.items()}


def test_a_refused_object_costs_the_others_nothing_and_is_no_reason_to_try_again(
    held: Held, orthanc: OrthancClient
) -> None:
    with pacs(answer=lambda sop_class: 0xA900 if sop_class == SegmentationStorage else 0x0000) as receiver:
        it = parcel(held, receiver)
        with pytest.raises(Refused, match="1 of 3 objects: status 0xA900"):
            storing.send(orthanc, it, "HILUM")
        assert len(receiver.data_sets) == len(it.taken["objects"]) == 2


def test_a_receiver_without_room_is_tried_again_and_gets_the_rest_alone(held: Held, orthanc: OrthancClient) -> None:
    with pacs() as receiver:
        answers = iter([0x0000, 0xA700])
        receiver.answer = lambda _sop_class: next(answers, 0x0000)
        it = parcel(held, receiver)
        with pytest.raises(TakenLater, match="0xA700"):
            storing.send(orthanc, it, "HILUM")
        assert len(it.taken["objects"]) == 1
        storing.send(orthanc, it, "HILUM")
        assert set(receiver.data_sets) == held.results
        assert set(receiver.came.values()) == {1}


def test_a_receiver_that_ends_in_the_middle_keeps_what_it_took(held: Held, orthanc: OrthancClient) -> None:
    with pacs() as receiver:

        def vanish(_sop_class: str) -> int:
            if receiver.came:
                raise SystemExit  # it answers nothing more
            return 0x0000

        receiver.answer = vanish
        it = parcel(held, receiver)
        with pytest.raises(DeliveryFailed):
            storing.send(orthanc, it, "HILUM")
        assert len(it.taken["objects"]) == 1
        receiver.answer = lambda _sop_class: 0x0000
        storing.send(orthanc, it, "HILUM")
        assert set(receiver.came) == held.results


def test_one_that_is_slow_is_waited_for_and_one_that_never_answers_is_not(
    held: Held, orthanc: OrthancClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[float] = []
    with pacs() as receiver:
        receiver.answer = lambda _sop_class: time.sleep(0.5) or 0x0000  # type: ignore[func-returns-value]
        storing.send(orthanc, replace(parcel(held, receiver), keep=lambda: kept.append(time.monotonic())), "HILUM")
        assert len(kept) == 3, "the claim is kept while it takes its time"
        monkeypatch.setattr(storing, "_ANSWER_SECONDS", 1.0)
        receiver.answer = lambda _sop_class: time.sleep(3) or 0x0000  # type: ignore[func-returns-value]
        with pytest.raises(ReceiverAway):
            storing.send(orthanc, parcel(held, receiver), "HILUM")


def test_a_receiver_of_implicit_little_endian_alone_gets_that(held: Held, orthanc: OrthancClient) -> None:
    with pacs(contexts=[build_context(sop_class, ImplicitVRLittleEndian) for sop_class in RESULTS]) as receiver:
        storing.send(orthanc, parcel(held, receiver), "HILUM")
        assert set(receiver.data_sets) == held.results
        assert not set(receiver.data_sets.values()) & {data_set_of(file) for file in held.files.values()}


def test_what_a_receiver_does_not_take_at_all_is_named(held: Held, orthanc: OrthancClient) -> None:
    with pacs(contexts=[build_context(SegmentationStorage)]) as receiver:
        with pytest.raises(Refused, match="2 of 3 objects: it does not take the SOP class"):
            storing.send(orthanc, parcel(held, receiver), "HILUM")
        assert len(receiver.data_sets) == 1
    with pacs(strict=True) as receiver, pytest.raises(ReceiverAway, match="rejects the association"):
        storing.send(orthanc, parcel(held, receiver), "HILUM")
    with pytest.raises(ReceiverAway, match="cannot be reached"):
        storing.send(orthanc, parcel(held, to_pacs(closed_port())), "HILUM")


def test_the_doctor_asks_by_c_echo() -> None:
    with pacs() as receiver:
        storing.echo(to_pacs(receiver.port), "HILUM")
    with pacs(strict=True) as receiver, pytest.raises(ReceiverAway):
        storing.echo(to_pacs(receiver.port), "HILUM")


# --- STOW-RS ----------------------------------------------------------------------------------------------------------
def test_stow_goes_out_byte_for_byte_and_again_without_harm(held: Held, orthanc: OrthancClient, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("let me in\n")
    with plain_orthanc(tmp_path / "other") as other:
        to = Destination("web", "stow", url=other.dicom_web, user="hilum", password_file=str(tmp_path / "password"))
        it = parcel(held, to)
        stow.send(orthanc, it)
        assert other.files() == {uid: held.files[uid] for uid in held.results}
        stow.send(orthanc, parcel(held, to))  # as after a death in between
        assert len(other.files()) == 3
        (tmp_path / "password").write_text("wrong\n")
        with pytest.raises(ReceiverAway, match=r"HTTP 40[13]"):
            stow.send(orthanc, parcel(held, to))
        (tmp_path / "password").unlink()
        with pytest.raises(ReceiverAway, match="cannot be read"):
            stow.send(orthanc, parcel(held, to))
    with pytest.raises(ReceiverAway, match="cannot be reached"):
        stow.send(orthanc, parcel(held, Destination("web", "stow", url=f"http://127.0.0.1:{closed_port()}/x")))


# --- killed at every step ----------------------------------------------------------------------------
DELIVER = """
import sys, json, threading, time
from pathlib import Path
from orthanc_plugin.delivery.keeping import Way
from orthanc_plugin.integration import read_table
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.ledger.delivery_views import standings
from orthanc_plugin.settings import Settings

home, port, tables, seconds = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), float(sys.argv[4])
settings = Settings(home, http_port=port, destinations=read_table("destinations", tables))
ledger, stop = open_ledger(settings.ledger_address), threading.Event()
for one in settings.destinations:
    threading.Thread(target=Way(settings, ledger, "w", one, stop).run, daemon=True).start()
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(0.2)
    with ledger.read() as db:
        if not standings(db):
            break
stop.set()
"""


@pytest.fixture
def site(tmp_path: Path, archive: tuple[Other, int], held: Held) -> Settings:
    """A home whose ledger has answered the study."""
    own = archive[0]
    account = tmp_path / "credentials.json"
    account.touch(mode=0o600)
    account.write_text(json.dumps({"worker_user": own.user, "worker_password": own.password}))
    settings = Settings(tmp_path, http_port=own.http_port)
    ledger = open_ledger(settings.ledger_address)
    migrate(ledger)
    image = {"sop_instance_uid": held.image, "findings": [], "status": "done"}
    outcome = Outcome(TaskStatus.DONE, "urgent", 1, {"images": [image]}, message="why")
    with ledger.write() as db:
        tasks.enqueue(db, Arrival(held.study, patient_name="Secret^Name"), now=time.time() - 100)
        task = tasks.claim(db, "w", now=time.time(), lease_seconds=30, abandoned_limit=3)
        assert task is not None
        tasks.answer(db, task, outcome, now=time.time(), conclude_at=None)
        owe(db, held.study, outcome, [to_pacs(1), Destination("ris", "hl7")], now=time.time())
    return settings


def deliver(settings: Settings, tables: list[dict[str, Any]], failpoints: str = "", seconds: float = 30.0) -> int:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HILUM_FAILPOINTS": failpoints}
    command = [sys.executable, "-c", DELIVER, str(settings.home), str(settings.http_port), json.dumps(tables)]
    return subprocess.run([*command, str(seconds)], env=environment, check=False, timeout=seconds + 60).returncode


def owed(settings: Settings) -> list[str]:
    with open_ledger(settings.ledger_address).read() as db:
        return [one.destination for one in standings(db)]


@pytest.mark.parametrize(
    "point", ["delivery_claimed", "object_taken", "commitment_asked", "delivery_taken", "delivery_struck_off"]
)
def test_who_delivers_may_die_at_any_step(point: str, site: Settings, held: Held, archive: tuple[Other, int]) -> None:
    own, port = archive
    with pacs(port, report_to=own.dicom_port) as receiver, ris() as told:
        tables = [
            {"name": "pacs", "protocol": "dicom", "host": "127.0.0.1", "port": port, "ae_title": "PACS",
             "commitment": True},
            {"name": "ris", "protocol": "hl7", "host": "127.0.0.1", "port": told.port},
        ]  # fmt: skip
        assert deliver(site, tables, f"{point}:1") == -signal.SIGKILL
        for _ in range(3):  # the other destination may have been hit first
            if deliver(site, tables, "") == 0 and not owed(site):
                break
        assert owed(site) == []
        assert receiver.data_sets == {uid: data_set_of(held.files[uid]) for uid in held.results}
        assert max(receiver.came.values()) <= 2, "what was taken and not written down came once more"
        assert len(set(told.messages)) == 1
        assert len(told.messages) <= 2
        assert receiver.asked, "it committed"


# --- deleting what is kept elsewhere ----------------------------------------------------------------------------------
def kept_by(own: Other, port: int, keeps: Callable[[str], bool], site: Settings) -> tuple[int, Pacs]:
    settings = replace(
        site, destinations=(to_pacs(port, commitment=True),), retention=Retention(1, "pacs", unread=True)
    )
    ledger = open_ledger(settings.ledger_address)
    with pacs(port, report_to=own.dicom_port, keeps=keeps) as receiver:
        with ledger.write() as db:
            forget(db, "ris")
        deliver(site, [{"name": "pacs", "protocol": "dicom", "host": "127.0.0.1", "port": port, "ae_title": "PACS"}])
        purging.purge(settings, ledger, time.time() + 2 * 86_400, (0.0, ""), threading.Event())
        with ledger.read() as db:
            gone = sum(count.number for count in counted(db) if count.name == PURGED)
        return gone, receiver


def test_a_study_is_deleted_when_all_of_it_is_kept_and_not_before(
    site: Settings, held: Held, archive: tuple[Other, int]
) -> None:
    own, port = archive
    gone, receiver = kept_by(own, port, lambda uid: uid != held.image, site)
    assert gone == 0, "the PACS lacks the image"
    assert receiver.asked
    assert set(held.files) <= set(own.files())
    gone, _ = kept_by(own, port, lambda _uid: True, site)
    assert gone == 1
    assert not set(held.files) & set(own.files())


def test_an_image_that_comes_meanwhile_stays(site: Settings, held: Held, archive: tuple[Other, int]) -> None:
    own, port = archive
    late, file = made(held.study, DigitalXRayImageStorageForPresentation, False)

    def keeps(uid: str) -> bool:
        if uid == held.image:  # while it answers
            own.http.post("/instances", content=file).raise_for_status()
        return True

    gone, _ = kept_by(own, port, keeps, site)
    assert gone == 1
    assert set(own.files()) & {late, *held.files} == {late}


def test_a_pacs_that_never_answers_has_nothing_deleted(
    site: Settings, held: Held, archive: tuple[Other, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, port = archive
    monkeypatch.setattr(purging, "_ANSWER_SECONDS", 2.0)
    silent = replace(own, dicom_port=0)
    gone, receiver = kept_by(silent, port, lambda _uid: True, site)
    assert (gone, bool(receiver.asked)) == (0, True)
    assert set(held.files) <= set(own.files())

"""Orthanc and the ledger compared: what was missed, deleted, left over, and a ledger that is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from running_node import Node, free_port, start_node

from dicom_sr.file_format import file_of
from models.phantom import chest
from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.archive.kept_answer import keep_answer
from orthanc_plugin.archive.study_content import content_digest
from orthanc_plugin.commands import node as node_module
from orthanc_plugin.commands.modality import Exposure, radiograph, send
from orthanc_plugin.commands.plain_orthanc import plain_orthanc
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.notes import ALL_COMPARED, ORPHANS, PLACE
from orthanc_plugin.ledger.statements import run
from orthanc_plugin.ledger.tasks import Arrival, Failure, Outcome, TaskStatus, Urgency
from orthanc_plugin.settings import Settings
from orthanc_plugin.working import reconciliation
from orthanc_plugin.working.reconciliation import Report, reconcile

NOW = 2_000_000_000.0
PIXELS = chest(1).pixels[:64, :64]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), http_port=free_port())


@pytest.fixture(scope="module")
def running(settings: Settings) -> Iterator[OrthancClient]:
    with plain_orthanc(settings) as orthanc:
        yield orthanc


@pytest.fixture
def orthanc(running: OrthancClient) -> OrthancClient:
    """A real Orthanc that holds nothing."""
    for study in running.study_ids():
        running._request("DELETE", f"/studies/{study}")
    return running


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(tmp_path / "ledger.sqlite")
    migrate(made)
    yield made
    made.close()


def image(study: str, *, seed: str = "") -> Dataset:
    made = radiograph(PIXELS, Exposure(seed=seed or study, study=study))
    made.PatientName, made.PatientSex, made.StudyDescription = "Muster^Müller", "F", "Thorax p.a."
    made.SpecificCharacterSet = "ISO_IR 192"
    return made


def result(source: Dataset, number: int) -> Dataset:
    """A document as ours are told from others: by modality and maker."""
    made = Dataset()
    made.file_meta = source.file_meta.__class__()
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{source.SOPInstanceUID}.{number}"
    made.SeriesInstanceUID, made.StudyInstanceUID = f"{source.SeriesInstanceUID}.{number}", source.StudyInstanceUID
    made.PatientID, made.PatientName = source.PatientID, source.PatientName
    made.Modality, made.Manufacturer, made.ManufacturerModelName = "SR", "Hilum", "Hilum"
    return made


def put(orthanc: OrthancClient, *objects: Dataset) -> None:
    for ds in objects:
        orthanc.store(file_of(ds))


def compare(ledger: Ledger, orthanc: OrthancClient, *, now: float = NOW) -> Report:
    return reconcile(ledger, orthanc, now=now, stop=threading.Event())


def differs(report: Report) -> dict[str, int]:
    """What a report tells but how much was looked at."""
    return {name: value for name, value in asdict(report).items() if value and name not in ("looked_at", "behind")}


def row(ledger: Ledger, uid: str) -> dict[str, Any]:
    with ledger.read() as db:
        (found,) = tasks.of_study(db, uid)
    return found


def answer(ledger: Ledger, orthanc: OrthancClient, *, status: TaskStatus = TaskStatus.DONE, results: int = 2) -> str:
    """Do what a worker does with the study whose turn it is."""
    with ledger.write() as db:
        task = tasks.claim(db, "w", now=NOW, lease_seconds=30, abandoned_limit=20)
    assert task is not None
    uid = task.study_instance_uid
    held = orthanc.series_of_study(uid)
    source = Dataset()
    (first, *_) = sorted(i for s in held for i in s.instances if s.manufacturer != "Hilum")
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientName"):
        setattr(source, name, orthanc.tags(first)[name])
    source.file_meta = image("any").file_meta
    stored = [orthanc.store(file_of(result(source, n))) for n in range(1, results + 1)]
    outcome = Outcome(
        status,
        "urgent" if status is TaskStatus.DONE else "none",
        0 if status is TaskStatus.DONE else 3,
        {"version": 1, "images": [{"sop_instance_uid": source.SOPInstanceUID, "status": status.value}]},
        reason=None if status is TaskStatus.DONE else "age",
        message="Pneumothorax" if status is TaskStatus.DONE else "a child",
        content=content_digest(held, stored),
    )
    keep_answer(orthanc, orthanc.studies(task.study_instance_uid), task, outcome)
    with ledger.write() as db:
        tasks.answer(db, task, outcome, now=NOW, conclude_at=None)
    return uid


def arrive(ledger: Ledger, orthanc: OrthancClient, ds: Dataset, *, now: float = NOW) -> str:
    """Store an image as the plugin does."""
    put(orthanc, ds)
    arrival = Arrival(
        str(ds.StudyInstanceUID), str(ds.PatientName), str(ds.PatientID), str(ds.PatientBirthDate),
        str(ds.PatientSex), str(ds.AccessionNumber), str(ds.StudyDate), str(ds.StudyTime), str(ds.StudyDescription),
        str(ds.get("ReferringPhysicianName", "")), str(ds.get("PatientAge", "")),
    )  # fmt: skip
    with ledger.write() as db:
        tasks.enqueue(db, arrival, now=now)
    return str(ds.StudyInstanceUID)


def test_a_study_whose_row_is_damaged_is_read_again(ledger: Ledger, orthanc: OrthancClient) -> None:
    put(orthanc, image("one"), image("two"))
    compare(ledger, orthanc)
    damaged, whole = answer(ledger, orthanc), answer(ledger, orthanc)
    assert not differs(compare(ledger, orthanc))
    with ledger.write() as db:
        run(db, "UPDATE tasks SET result = '{broken' WHERE study_instance_uid = :uid", uid=damaged)
    assert differs(compare(ledger, orthanc)) == {"changed": 1}
    assert (row(ledger, damaged)["status"], row(ledger, whole)["status"]) == ("queued", "done")
    assert "damaged" in row(ledger, damaged)["message"]
    assert answer(ledger, orthanc) == damaged
    assert not differs(compare(ledger, orthanc))


def test_nothing_differs_after_an_ordinary_day(ledger: Ledger, orthanc: OrthancClient) -> None:
    compare(ledger, orthanc)
    for study in ("a", "b"):
        arrive(ledger, orthanc, image(study))
        answer(ledger, orthanc)
    refused = arrive(ledger, orthanc, image("c"))
    answer(ledger, orthanc, status=TaskStatus.NOT_PROCESSED, results=0)
    waiting = arrive(ledger, orthanc, image("d"))
    for _ in range(3):
        report = compare(ledger, orthanc)
        assert differs(report) == {}
        assert not report.behind
    assert (row(ledger, refused)["status"], row(ledger, waiting)["status"]) == ("not_processed", "queued")


def test_a_study_that_the_ledger_never_heard_of_is_found_in_the_feed_and_read_soon(
    ledger: Ledger, orthanc: OrthancClient
) -> None:
    compare(ledger, orthanc)
    missed = image("missed")
    put(orthanc, missed, image("missed", seed="second"))
    assert compare(ledger, orthanc).missed == 1
    found = row(ledger, str(missed.StudyInstanceUID))
    assert (found["status"], found["urgency"]) == ("queued", Urgency.ROUTINE)
    assert (found["patient_name"], found["patient_sex"]) == ("Muster^Müller", "F")
    assert found["study_description"] == "Thorax p.a."
    assert abs(found["received_at"] - time.time()) < 60, "when it came, not when it was found"
    assert differs(compare(ledger, orthanc)) == {}


def test_a_new_ledger_meets_old_studies_in_the_walk_and_they_delay_nobody(
    ledger: Ledger, orthanc: OrthancClient
) -> None:
    old = image("old")
    put(orthanc, old)
    assert compare(ledger, orthanc).missed == 1
    assert row(ledger, str(old.StudyInstanceUID))["urgency"] == Urgency.BACKGROUND


def test_an_image_that_came_unnoticed_has_its_study_read_again(ledger: Ledger, orthanc: OrthancClient) -> None:
    compare(ledger, orthanc)
    uid = arrive(ledger, orthanc, image("one"))
    answer(ledger, orthanc)
    compare(ledger, orthanc)
    put(orthanc, image("one", seed="late"))
    report = compare(ledger, orthanc)
    assert differs(report) == {"changed": 1}
    found = row(ledger, uid)
    assert (found["status"], found["urgency"]) == ("queued", Urgency.ROUTINE)
    assert "read again" in found["message"]
    answer(ledger, orthanc)
    assert differs(compare(ledger, orthanc)) == {}


def test_an_image_that_comes_while_its_study_is_read_is_no_part_of_the_answer(
    ledger: Ledger, orthanc: OrthancClient
) -> None:
    first = image("race")
    put(orthanc, first)
    looked_at = orthanc.series_of_study(str(first.StudyInstanceUID))
    put(orthanc, image("race", seed="late"))
    now = orthanc.series_of_study(str(first.StudyInstanceUID))
    assert content_digest(looked_at) != content_digest(now)


def test_a_result_that_another_worker_stores_meanwhile_is_no_part_of_the_answer(
    ledger: Ledger, orthanc: OrthancClient
) -> None:
    uid = arrive(ledger, orthanc, image("fork"))
    answer(ledger, orthanc)
    compare(ledger, orthanc)
    orthanc.store(file_of(result(image("fork"), 9)))
    assert differs(compare(ledger, orthanc)) == {"changed": 1}
    assert row(ledger, uid)["status"] == "queued"


def test_a_quarantined_study_is_left_to_a_person_until_it_holds_other_images(
    ledger: Ledger, orthanc: OrthancClient
) -> None:
    def give_up() -> None:
        with ledger.write() as db:
            task = tasks.claim(db, "w", now=NOW + 1000, lease_seconds=30, abandoned_limit=9)
            assert task is not None
            tasks.fail(db, task, Failure("reader_died", "it died"), now=NOW, retry_at=None, counted=True)

    uid = arrive(ledger, orthanc, image("poison"))
    give_up()
    for _ in range(2):
        assert differs(compare(ledger, orthanc)) == {}
        assert row(ledger, uid)["status"] == "quarantined"
    put(orthanc, image("poison", seed="cure"))
    assert differs(compare(ledger, orthanc)) == {"changed": 1}
    assert row(ledger, uid)["status"] == "queued"


def test_results_that_somebody_deleted_come_back(ledger: Ledger, orthanc: OrthancClient) -> None:
    uid = arrive(ledger, orthanc, image("deleted"))
    answer(ledger, orthanc)
    compare(ledger, orthanc)
    held = content_digest(orthanc.series_of_study(uid))
    (series, *_) = [s for s in orthanc.series_of_study(uid) if s.manufacturer == "Hilum"]
    orthanc._request("DELETE", f"/series/{series.orthanc_id}")
    assert differs(compare(ledger, orthanc)) == {"results_gone": 1}
    found = row(ledger, uid)
    assert (found["status"], found["urgency"]) == ("queued", Urgency.BACKGROUND)
    assert found["message"] == "results were deleted from Orthanc; they are made again"
    answer(ledger, orthanc)
    assert content_digest(orthanc.series_of_study(uid)) == held
    assert differs(compare(ledger, orthanc)) == {}


def test_a_deleted_study_leaves_the_worklist_and_comes_back_when_it_is_sent_again_unnoticed(
    ledger: Ledger, orthanc: OrthancClient
) -> None:
    uid = arrive(ledger, orthanc, image("gone"))
    answer(ledger, orthanc)
    arrive(ledger, orthanc, image("stays"))
    (study,) = [s for s in orthanc.study_ids() if orthanc.study_instance_uid(s) == uid]
    orthanc._request("DELETE", f"/studies/{study}")
    assert differs(compare(ledger, orthanc)) == {"removed": 1}
    found = row(ledger, uid)
    assert (found["status"], found["patient_name"], found["result"]) == ("removed", "", {})
    assert differs(compare(ledger, orthanc)) == {}
    put(orthanc, image("gone"))
    assert differs(compare(ledger, orthanc)) == {"missed": 1}
    found = row(ledger, uid)
    assert (found["status"], found["patient_name"]) == ("queued", "Muster^Müller")


def test_an_empty_orthanc_makes_the_worklist_forget_nobody(ledger: Ledger, orthanc: OrthancClient) -> None:
    uid = arrive(ledger, orthanc, image("unmounted"))
    answer(ledger, orthanc)
    for study in orthanc.study_ids():
        orthanc._request("DELETE", f"/studies/{study}")
    assert differs(compare(ledger, orthanc)) == {}
    assert row(ledger, uid)["status"] == "done"


def test_results_without_an_image_are_reported_and_left_alone(ledger: Ledger, orthanc: OrthancClient) -> None:
    source = image("orphan")
    uid = str(source.StudyInstanceUID)
    put(orthanc, result(source, 1))
    assert compare(ledger, orthanc).orphans > 0
    with ledger.read() as db:
        assert tasks.get_fact(db, ORPHANS) == f'["{uid}"]'
        assert tasks.of_study(db, uid) == []
    assert orthanc.series_of_study(uid), "nothing is deleted in Orthanc"


def test_a_picture_of_a_maker_who_bears_our_name_is_no_orphan(ledger: Ledger, orthanc: OrthancClient) -> None:
    ds = image("namesake")
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "OT", "Hilum", "Digitizer 3"
    put(orthanc, ds)
    assert differs(compare(ledger, orthanc)) == {"missed": 1}


def test_documents_of_others_are_no_reason_to_read(ledger: Ledger, orthanc: OrthancClient) -> None:
    uid = arrive(ledger, orthanc, image("reported"))
    answer(ledger, orthanc)
    compare(ledger, orthanc)
    alone, beside = result(image("theirs"), 1), result(image("reported"), 7)
    alone.Manufacturer = beside.Manufacturer = "Another maker"
    put(orthanc, alone, beside)
    assert differs(compare(ledger, orthanc)) == {}
    assert row(ledger, uid)["status"] == "done"


def test_answers_of_a_version_without_digests_are_watched_from_now_on_without_reading_again(
    ledger: Ledger, orthanc: OrthancClient
) -> None:
    uid = arrive(ledger, orthanc, image("earlier"))
    answer(ledger, orthanc)
    with ledger.write() as db:
        db.exec_driver_sql("UPDATE tasks SET content = ''")
    assert differs(compare(ledger, orthanc)) == {}
    found = row(ledger, uid)
    assert (found["status"], found["content"]) == ("done", content_digest(orthanc.series_of_study(uid)))


def test_a_lost_ledger_is_rebuilt_from_orthanc_alone(ledger: Ledger, orthanc: OrthancClient, tmp_path: Path) -> None:
    seconds = float(int(time.time())) - 0.25
    uids = [arrive(ledger, orthanc, image(f"study {n}"), now=seconds + n / 8) for n in range(4)]
    done = {answer(ledger, orthanc) for _ in range(2)}
    refused = {answer(ledger, orthanc, status=TaskStatus.NOT_PROCESSED, results=0)}
    (unread,) = set(uids) - done - refused
    assert differs(compare(ledger, orthanc)) == {}
    before, held = {uid: row(ledger, uid) for uid in uids}, orthanc.instance_ids()
    new = open_ledger(tmp_path / "new.sqlite")
    migrate(new)
    assert differs(compare(new, orthanc)) == {"rebuilt": 3, "missed": 1}
    # what the ledger alone knew: how often it was claimed, and when it was written
    of_the_ledger = {"generation", "claimed_generation", "answered_generation", "fence", "holder", "not_before",
                     "written_at", "due_order", "completed_at", "urgency"}  # fmt: skip
    for uid in done | refused:
        after = row(new, uid)
        assert {k: v for k, v in after.items() if k not in of_the_ledger} == {
            k: v for k, v in before[uid].items() if k not in of_the_ledger
        }
    assert row(new, unread)["status"] == "queued"
    assert abs(row(new, unread)["received_at"] - before[unread]["received_at"]) < 60
    assert orthanc.instance_ids() == held, "nothing is made"
    assert differs(compare(new, orthanc)) == {}
    new.close()


def test_a_kept_answer_counts_only_for_what_it_answered(ledger: Ledger, orthanc: OrthancClient, tmp_path: Path) -> None:
    uid = arrive(ledger, orthanc, image("grown"))
    answer(ledger, orthanc)
    put(orthanc, image("grown", seed="later"))
    damaged = arrive(ledger, orthanc, image("damaged"))
    answer(ledger, orthanc)
    orthanc.keep_with_studies(orthanc.studies(damaged), 1025, b'{"outcome": {"status": "well"}}')
    new = open_ledger(tmp_path / "new.sqlite")
    migrate(new)
    assert differs(compare(new, orthanc)) == {"missed": 2}
    assert {row(new, uid)["status"], row(new, damaged)["status"]} == {"queued"}
    new.close()


def test_a_large_archive_is_walked_in_slices(
    ledger: Ledger, orthanc: OrthancClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(12):
        put(orthanc, image(f"many {n}"))
    monkeypatch.setattr(reconciliation, "_SLICE_SECONDS", (0.02, 0.02, 0.02))
    missed, calls = 0, 0
    while True:
        report = compare(ledger, orthanc)
        missed, calls = missed + report.missed, calls + 1
        assert calls < 100
        with ledger.read() as db:
            assert (tasks.get_fact(db, ALL_COMPARED) is None) == report.behind
        if not report.behind:
            break
    assert (missed, calls > 1) == (12, True)


def test_another_index_under_the_same_ledger_starts_every_walk_anew(ledger: Ledger, orthanc: OrthancClient) -> None:
    compare(ledger, orthanc)
    with ledger.write() as db:
        ahead = replace(reconciliation._Place(10**9, rounds=3), study="ffff", row="9")
        tasks.set_fact(db, PLACE, reconciliation.json.dumps(asdict(ahead)))
    put(orthanc, image("after"))
    assert compare(ledger, orthanc).missed == 1


def test_a_call_ends_when_the_worker_stops(ledger: Ledger, orthanc: OrthancClient) -> None:
    put(orthanc, image("later"))
    stop = threading.Event()
    stop.set()
    report = reconcile(ledger, orthanc, now=NOW, stop=stop)
    assert (report.looked_at, report.behind) == (0, True)
    assert compare(ledger, orthanc).missed == 1


@pytest.mark.node
def test_a_node_whose_ledger_file_is_gone_has_the_same_worklist_after_a_restart_and_makes_nothing_new(
    tmp_path: Path,
) -> None:
    home, site = tmp_path / "home", {"quiet_seconds": "0.5", "reconcile_seconds": "1"}
    with _node(home, **site) as node:
        uids = [_send(node, age) for age in ("050Y", "060Y", "003Y")]
        _send(node, "050Y", study="two images")
        uids.append(_send(node, "050Y", study="two images", seed="the other"))
        before = _settled(node, set(uids))
        with _client(node) as orthanc:
            held = orthanc.instance_ids()
    for file in home.glob("ledger.sqlite*"):
        file.unlink()
    with _node(home, **site) as node:
        after = _settled(node, set(uids))
        with _client(node) as orthanc:
            assert orthanc.instance_ids() == held
        log_of_worker = (home / "log" / "worker.log").read_text()
    assert {status["status"] for status in before.values()} == {"done", "not_processed"}
    assert after == before
    assert log_of_worker.count("study processed") <= 2 * len(uids) + 2, "no image was read for it"
    first_life, _, second_life = log_of_worker.rpartition("models loaded")
    assert "study processed" in first_life
    assert "study processed" not in second_life


@pytest.mark.node
def test_results_that_are_deleted_while_a_node_runs_come_back_byte_by_byte(tmp_path: Path) -> None:
    with _node(tmp_path / "home", quiet_seconds="0.5", reconcile_seconds="1") as node:
        uid = _send(node, "050Y")
        _settled(node, {uid})
        with _client(node) as orthanc:
            before = {name: orthanc.fetch(name).content for name in orthanc.instance_ids()}
            for series in orthanc.series_of_study(uid):
                if series.manufacturer == "Hilum" and series.modality in ("SR", "SEG"):
                    orthanc._request("DELETE", f"/series/{series.orthanc_id}")
            assert len(orthanc.instance_ids()) < len(before)
            node.wait(lambda: orthanc.instance_ids() == sorted(before), "the results")
            assert {name: orthanc.fetch(name).content for name in orthanc.instance_ids()} == before
        assert _settled(node, {uid})[uid]["status"] == "done"


@contextmanager
def _node(home: Path, **site: str) -> Iterator[Node]:
    configured, _ = start_node(home, **site)
    try:
        accounts = load_credentials(configured.credentials)
        with node_module.http(configured, accounts) as http:
            yield Node(configured, accounts, http)
    finally:
        node_module.stop(configured)


def _client(node: Node) -> OrthancClient:
    accounts = node.credentials
    return OrthancClient(node.settings.http_url, accounts.worker_user, accounts.worker_password)


def _send(node: Node, age: str, *, study: str = "", seed: str = "") -> str:
    study = f"{node.settings.home} {study or age}"
    exposure = Exposure(seed=f"{study} {seed}", study=study)
    ds = radiograph(chest(2 if seed else 1).pixels, exposure)
    ds.PatientAge = age
    (sent,) = send([ds], "127.0.0.1", node.settings.dicom_port, node.settings.ae_title)
    assert sent.accepted
    return str(ds.StudyInstanceUID)


def _settled(node: Node, uids: set[str]) -> dict[str, dict[str, Any]]:
    """The rows of the worklist, once each study has its final answer, without what a new answer may change."""

    def answered() -> dict[str, dict[str, Any]] | None:
        rows = {row["study_instance_uid"]: row for row in node.rows()}
        ended = all(uid in rows and rows[uid]["status"] in ("done", "not_processed") for uid in uids)
        return rows if ended else None

    rows: dict[str, dict[str, Any]] = node.wait(answered, "the answers")
    time.sleep(3)  # another look, or more
    assert answered(), "they stay answered"
    return {uid: {name: value for name, value in row.items() if name != "completed_at"} for uid, row in rows.items()}

"""The report of a study before a real Orthanc and the ledger: in one pass, in two, and when images come in between."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from loaded_models import load_models
from pydicom import Dataset, dcmread
from running_node import free_port

from dicom_sr import codes
from dicom_sr.file_format import file_of
from dicom_sr.predecessor import current
from dicom_sr.reader import is_measurement_report, is_ours, is_preliminary_report, read_study
from dicom_sr.report.wording import load_wording
from models.phantom import chest
from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable, ResultRefused, Series
from orthanc_plugin.archive.kept_answer import kept_answer
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.commands.plain_orthanc import plain_orthanc
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.tasks import Arrival, InferenceTask, Outcome, TaskStatus
from orthanc_plugin.reading.intake_process import IntakeProcess
from orthanc_plugin.reading.recent_reports import RecentReports
from orthanc_plugin.reading.study import Reader, process_study
from orthanc_plugin.settings import REPOSITORY, Settings
from orthanc_plugin.working.reconciliation import reconcile

LONG_AGO = 600.0  # seconds; a study is complete long before


class Watched(OrthancClient):
    """A connection that keeps what is asked, and does something else first where a test wants it."""

    def __init__(self, settings: Settings) -> None:
        found = load_credentials(settings.credentials)
        super().__init__(settings.http_url, found.worker_user, found.worker_password)
        self.asked: list[str] = []
        self.listed = 0
        self.at_listing: dict[int, Callable[[], None]] = {}
        self.before_a_report: Callable[[], None] = lambda: None
        self.sent: list[str] = []
        self.refused: dict[str, Exception] = {}

    def series_of_study(self, study_instance_uid: str) -> list[Series]:
        self.listed += 1
        self.at_listing.pop(self.listed, lambda: None)()
        return super().series_of_study(study_instance_uid)

    def store(self, file: bytes) -> str:
        ds = dcmread(BytesIO(file))
        if is_preliminary_report(ds):
            self.before_a_report()
        if str(ds.Modality) in self.refused:
            raise self.refused[str(ds.Modality)]
        self.sent.append(str(ds.Modality))
        return super().store(file)

    def attach(self, instances: Sequence[str], number: int, content: bytes) -> None:
        super().attach(instances, number, content)
        self.sent.append("picture")

    def _request(self, method: str, path: str, *, content: bytes | str | None = None) -> httpx.Response:
        self.asked.append(f"{method} {path}")
        return super()._request(method, path, content=content)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), http_port=free_port(), bundles=("pixel_gate", "lung_fields"))


@pytest.fixture(scope="module")
def reader(settings: Settings) -> Iterator[Reader]:
    models = load_models(REPOSITORY / "models", settings.bundles, threads=1)
    with plain_orthanc(settings) as orthanc, IntakeProcess(settings.intake_seconds) as intake:
        yield Reader(settings, orthanc, models, intake, load_wording("en"))


@pytest.fixture
def orthanc(reader: Reader, settings: Settings) -> Iterator[Watched]:
    with Watched(settings) as client:
        yield client


@dataclass
class Study:
    """A study on its way: what came, and what a worker does with it."""

    ledger: Ledger
    reader: Reader
    orthanc: Watched
    name: str
    came: list[Dataset]

    @property
    def uid(self) -> str:
        return str(self.came[0].StudyInstanceUID)

    def come(self, *, unnoticed: bool = False, patient: str = "") -> None:
        """An image is stored and, unless the node dies just then, put into the ledger."""
        pixels = chest(len(self.came) + 1).pixels
        ds = radiograph(pixels, Exposure(seed=uuid.uuid4().hex, study=self.name))
        ds.PatientID = patient or ds.PatientID
        self.came.append(ds)
        self.orthanc.store(file_of(ds))
        if not unnoticed:
            with self.ledger.write() as db:
                tasks.enqueue(db, Arrival(str(ds.StudyInstanceUID)), now=time.time() - LONG_AGO)

    def claim(self) -> InferenceTask:
        with self.ledger.write() as db:
            task = tasks.claim(db, "w", now=time.time(), lease_seconds=30, abandoned_limit=20)
        assert task is not None
        return task

    def read(self, task: InferenceTask | None = None, recent: RecentReports | None = None) -> Outcome:
        """One pass of a worker; its answer is in the ledger then."""
        task = task or self.claim()
        reader = replace(self.reader, orthanc=self.orthanc, recent=recent or self.reader.recent)
        outcome = process_study(task, reader)
        with self.ledger.write() as db:
            tasks.answer(db, task, outcome, now=time.time(), conclude_at=outcome.conclude_at)
        return outcome

    @property
    def row(self) -> dict[str, Any]:
        with self.ledger.read() as db:
            (found,) = tasks.of_study(db, self.uid)
        return found

    def objects(self) -> list[Dataset]:
        names = [i for series in self.orthanc.series_of_study(self.uid) for i in series.instances]
        return [dcmread(BytesIO(self.orthanc.file(name))) for name in names]

    def files(self) -> dict[str, bytes]:
        return {str(ds.SOPInstanceUID): file_of(ds) for ds in self.objects() if is_ours(ds)}

    def texts(self) -> list[Dataset]:
        return [ds for ds in self.objects() if is_preliminary_report(ds)]

    def is_whole(self) -> bool:
        """Whether each image has one current report, and the study one that speaks of all of them."""
        objects = self.objects()
        reports = current(ds for ds in objects if is_measurement_report(ds))
        (text,) = current(self.texts())
        images = {str(ds.SOPInstanceUID) for ds in self.came}
        read = {image.sop_instance_uid for image in read_study(objects).images}
        assert self.row["result"]["preliminary_report"] == text.SOPInstanceUID
        return len(reports) == len(images) and read == images and all(uid in str(text) for uid in images)

    def differs(self) -> dict[str, int]:
        found = reconcile(self.ledger, self.orthanc, now=time.time(), stop=threading.Event())
        return {name: count for name, count in vars(found).items() if count and name not in ("looked_at", "behind")}

    def delete_results(self) -> None:
        for series in self.orthanc.series_of_study(self.uid):
            if series.manufacturer == "Hilum":
                self.orthanc._request("DELETE", f"/series/{series.orthanc_id}")


@pytest.fixture
def study(tmp_path: Path, reader: Reader, orthanc: Watched) -> Iterator[Study]:
    for other in orthanc.study_ids():
        orthanc._request("DELETE", f"/studies/{other}")
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    migrate(ledger)
    made = Study(ledger, reader, orthanc, uuid.uuid4().hex, [])
    made.differs()  # a new ledger notes where it begins
    made.come()
    orthanc.asked.clear()
    orthanc.listed = 0
    yield made
    ledger.close()


def just_come(task: InferenceTask) -> InferenceTask:
    """The same task of a study that is not complete yet."""
    return replace(task, last_instance_at=time.time())


def due_now(study: Study) -> InferenceTask:
    """Claim a study of which the report is due, as if its time had come."""
    with study.ledger.write() as db:
        db.exec_driver_sql("UPDATE tasks SET not_before = 0, due_order = 0")
    task = study.claim()
    assert task.conclude
    return task


def asked_for(asked: Sequence[str], what: str) -> int:
    return sum(what in request for request in asked)


def test_a_study_that_is_complete_when_it_is_read_is_concluded_in_the_same_pass(study: Study) -> None:
    outcome = study.read()
    assert outcome.conclude_at is None
    assert study.row["status"] == TaskStatus.DONE
    assert study.is_whole()
    kept = kept_answer(study.orthanc, study.uid)
    assert kept is not None
    assert kept.outcome == outcome
    assert study.differs() == {}


def test_one_pass_and_two_make_the_same_objects_and_the_same_answer(study: Study) -> None:
    study.come()
    at_once = study.read()
    made = study.files()
    study.delete_results()
    assert study.files() == {}
    with study.ledger.write() as db:
        assert tasks.request_again(db, study.uid, now=time.time() - LONG_AGO)
    first = study.read(just_come(replace(study.claim(), result={})))
    assert (first.conclude_at is None, first.result["preliminary_report"]) == (False, None)
    second = study.read(due_now(study))
    assert study.files() == made
    for outcome in (at_once, second):
        outcome.result["history"] = outcome.result["started_at"] = None
    assert second == at_once


def test_the_second_pass_asks_for_no_image_and_neither_asks_for_more_than_it_needs(study: Study) -> None:
    first = study.read(just_come(study.claim()))
    asked = list(study.orthanc.asked)
    assert len(asked) == 10, asked
    assert (asked_for(asked, "/tools/lookup"), asked_for(asked, "PUT ")) == (1, 3)
    study.orthanc.asked.clear()
    study.read(due_now(study))
    asked = study.orthanc.asked
    assert len(asked) == 5, asked
    (image,) = (entry["instance"] for entry in first.result["images"])
    assert asked_for(asked, image) == 0


def test_another_process_concludes_with_the_same_bytes(study: Study) -> None:
    study.come()
    study.read(just_come(study.claim()))
    task = due_now(study)
    study.read(task, RecentReports())
    (text,) = study.texts()
    unknown = file_of(text)
    (name,) = study.orthanc.instances(str(text.SOPInstanceUID))
    study.orthanc._request("DELETE", f"/instances/{name}")
    process_study(task, replace(study.reader, orthanc=study.orthanc))
    (text,) = study.texts()
    assert file_of(text) == unknown


def test_a_report_that_was_changed_between_the_passes_says_what_it_says_now(study: Study) -> None:
    study.read(just_come(study.claim()))
    (report,) = (ds for ds in study.objects() if is_measurement_report(ds))
    (name,) = study.orthanc.instances(str(report.SOPInstanceUID))
    study.orthanc._request("DELETE", f"/instances/{name}")
    named = {item.ConceptNameCodeSequence[0].CodeValue: item for item in report.ContentSequence[-1].ContentSequence}
    named[codes.PRIORITY.value].ContentSequence[0].TextValue = "Somebody was here"
    study.orthanc.store(file_of(report))
    study.read(due_now(study))
    assert study.row["message"] == "Somebody was here"


def test_an_image_that_comes_while_others_are_read_is_in_the_only_report(study: Study) -> None:
    study.orthanc.at_listing[2] = study.come
    outcome = study.read()
    assert outcome.conclude_at is not None, "the second look saw it"
    assert (study.row["status"], study.texts()) == (TaskStatus.QUEUED, [])
    study.read()
    assert study.row["status"] == TaskStatus.DONE
    assert len(study.texts()) == 1
    assert study.is_whole()


def test_so_is_one_of_which_the_ledger_was_not_told(study: Study) -> None:
    study.orthanc.at_listing[2] = lambda: study.come(unnoticed=True)
    study.read()
    assert (study.row["status"], study.texts()) == (TaskStatus.ANSWERED, [])
    task = study.claim()
    assert task.conclude, "at once, for its time is past"
    study.read(task)
    assert study.row["status"] == TaskStatus.DONE
    assert len(study.texts()) == 1
    assert study.is_whole()


@pytest.mark.parametrize("unnoticed", [False, True])
def test_an_image_that_comes_after_the_second_look_makes_a_report_that_replaces(
    study: Study, *, unnoticed: bool
) -> None:
    study.orthanc.before_a_report = lambda: _once(study, unnoticed=unnoticed)
    outcome = study.read()
    assert outcome.conclude_at is None
    if unnoticed:
        assert study.row["status"] == TaskStatus.DONE
        assert study.differs() == {"changed": 1}
    assert study.row["status"] == TaskStatus.QUEUED
    study.read()
    if unnoticed:  # found just now, so that more may come
        study.read(due_now(study))
    assert study.row["status"] == TaskStatus.DONE
    assert len(study.texts()) == 2
    assert study.is_whole()
    assert study.differs() == {}


def _once(study: Study, *, unnoticed: bool) -> None:
    study.orthanc.before_a_report = lambda: None
    study.come(unnoticed=unnoticed)


def test_an_image_that_goes_while_it_is_read_is_in_no_report(study: Study) -> None:
    study.come()
    gone = study.came[1]

    def go() -> None:
        (name,) = study.orthanc.instances(str(gone.SOPInstanceUID))
        study.orthanc._request("DELETE", f"/instances/{name}")

    study.orthanc.at_listing[2] = go
    assert study.read().conclude_at is not None
    study.read()
    (text,) = study.texts()
    assert str(gone.SOPInstanceUID) not in str(text)


@pytest.mark.parametrize("when", ["at the second look", "at the report"])
def test_when_orthanc_is_in_the_way_the_images_are_answered_and_the_report_follows(study: Study, when: str) -> None:
    def away() -> None:
        study.orthanc.before_a_report = lambda: None
        raise OrthancUnavailable("away")

    if when == "at the report":
        study.orthanc.before_a_report = away
    else:
        study.orthanc.at_listing[2] = away
    outcome = study.read()
    assert (outcome.status, outcome.conclude_at is None) == (TaskStatus.DONE, False)
    assert (study.row["status"], study.texts()) == (TaskStatus.ANSWERED, [])
    study.orthanc.asked.clear()
    task = study.claim()
    assert task.conclude
    study.read(task)
    assert asked_for(study.orthanc.asked, "/file") == 1, "no image is read again"
    assert study.row["status"] == TaskStatus.DONE
    assert study.is_whole()


def test_images_of_two_patients_have_no_report_in_one_pass_either(study: Study) -> None:
    study.come(patient="ANOTHER")
    outcome = study.read()
    assert (outcome.reason, outcome.conclude_at) == ("several_patients", None)
    assert study.texts() == []
    assert len([ds for ds in study.objects() if is_measurement_report(ds)]) == 2


def test_the_segmentation_goes_first_then_the_report_then_the_pictures(study: Study) -> None:
    study.orthanc.sent.clear()
    study.read(just_come(study.claim()))
    assert study.orthanc.sent == ["SEG", "SR", "picture", "picture", "picture"]


@pytest.mark.parametrize(("kind", "left"), [("SEG", []), ("SR", ["SEG"])])
def test_nothing_follows_what_orthanc_did_not_take_and_a_second_try_makes_it_whole(
    study: Study, kind: str, left: list[str]
) -> None:
    study.orthanc.sent.clear()
    study.orthanc.refused = {kind: OrthancUnavailable("away")}
    task = study.claim()
    with pytest.raises(OrthancUnavailable):
        study.read(task)
    assert study.orthanc.sent == left
    study.orthanc.refused = {}
    study.read(task)
    assert study.orthanc.sent == [*left, *["SEG"] * (not left), "SR", "picture", "picture", "picture", "SR"]
    assert study.is_whole()
    assert study.differs() == {}


@pytest.mark.parametrize("kind", ["SEG", "SR"])
def test_a_result_that_orthanc_refuses_is_the_fate_of_its_image_alone(study: Study, kind: str) -> None:
    study.orthanc.refused = {kind: ResultRefused("HTTP 400")}
    outcome = study.read()
    assert (outcome.status, outcome.reason) == (TaskStatus.NOT_PROCESSED, "unreadable_header")
    assert [ds for ds in study.objects() if is_measurement_report(ds)] == []
    assert study.differs() == {}, "what was stored is part of the answer"


def test_what_was_stored_before_a_death_is_not_stored_again(study: Study) -> None:
    task = study.claim()
    study.read(task)
    before, changes = study.files(), study.orthanc.last_change()
    with study.ledger.write() as db:
        assert tasks.request_again(db, study.uid, now=time.time() - LONG_AGO)
    study.orthanc.asked.clear()
    study.read()
    assert asked_for(study.orthanc.asked, "POST /instances") == 0
    assert study.files() == before
    assert study.orthanc.changes(changes).stored == ()

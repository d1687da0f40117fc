"""The small picture of a result: made by the worker, kept in Orthanc with the report, shown by the worklist."""

from __future__ import annotations

import csv
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import Dataset
from running_node import Node, free_port

from models.findings import OF_ABSENCE, ImageFindings, SaliencyMap, View
from models.phantom import chest
from models.rendering import RenderedImage
from orthanc_plugin.archive import attachments
from orthanc_plugin.archive.client import OrthancClient, ResultRefused
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.demo import real_radiograph
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.reading.study_pictures import Kept, keep_pictures
from orthanc_plugin.reading.thumbnail import make_thumbnail

pytestmark = pytest.mark.node


def send(node: Node, *instances: Dataset) -> None:
    outcomes = list(modality.send(instances, "127.0.0.1", node.settings.dicom_port, node.settings.ae_title))
    assert all(outcome.accepted for outcome in outcomes), outcomes


def read(node: Node, *instances: Dataset) -> dict[str, Any]:
    """The row of a study that was sent and answered."""
    send(node, *instances)
    row = node.wait_for(str(instances[0].StudyInstanceUID))
    assert row["status"] == "done", row
    return row


def phantom(patient: int = 1, **how: object) -> Dataset:
    """A new synthetic radiograph each time, so that tests never share a study."""
    return modality.radiograph(chest(patient).pixels, Exposure(seed=uuid.uuid4().hex, **how))  # type: ignore[arg-type]


def client(node: Node) -> OrthancClient:
    worker = node.credentials
    return OrthancClient(node.settings.http_url, worker.worker_user, worker.worker_password)


def colour_of(node: Node, image: dict[str, Any]) -> npt.NDArray[np.int16]:
    """How far each pixel of the thumbnail is from gray: greatest minus least of red, green and blue."""
    picture = Image.open(BytesIO(node.http.get(image["thumbnail"]).raise_for_status().content))
    return np.ptp(np.asarray(picture.convert("RGB"), np.int16), axis=2)


def report_of(row: dict[str, Any]) -> str:
    """SOP Instance UID of the measurement report of the first image."""
    return str(row["images"][0]["thumbnail"].partition("?")[0].rpartition("/")[2])


def findings_of(ds: Dataset, *saliency: SaliencyMap) -> ImageFindings:
    uids = str(ds.StudyInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID)
    return ImageFindings(*uids, int(ds.Rows), int(ds.Columns), View.PA, (), saliency=saliency)


def test_an_answered_study_has_a_picture_in_its_row(hilum_node: Node) -> None:
    ds = phantom()
    row = read(hilum_node, ds)
    (image,) = row["images"]
    answer = hilum_node.http.get(image["thumbnail"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"].startswith("private")
    picture = Image.open(BytesIO(answer.content))
    assert (picture.format, max(picture.size)) == ("JPEG", 256)
    assert picture.width / picture.height == pytest.approx(ds.Columns / ds.Rows, rel=0.02)
    assert len(answer.content) < 40_000
    assert not picture.getexif()
    assert image["thumbnail"] in hilum_node.http.get("/hilum/?sort=-received").text.replace("&amp;", "&")
    again = hilum_node.http.get(image["thumbnail"], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_radiograph_with_nothing_called_present_is_shown_in_gray(hilum_node: Node) -> None:
    row = read(hilum_node, phantom())
    assert not [f for f in row["findings"] if f["state"] == "present" and f["key"] not in OF_ABSENCE]
    assert colour_of(hilum_node, row["images"][0]).max() <= 3
    assert "Radiograph; nothing called present" in hilum_node.http.get("/hilum/?sort=-received").text


@pytest.mark.shared
def test_what_is_called_present_and_localised_is_shown_in_colour_where_its_boxes_are(
    hilum_node: Node, shared_data: Path
) -> None:
    folder = shared_data / "nih_chestxray14"
    with (folder / "boxes_512.csv").open(encoding="utf-8-sig", newline="") as file:
        names = dict.fromkeys(row["file"] for row in csv.DictReader(file) if row["label"] == "Lung Opacity")
    studies = [real_radiograph(folder / "images" / name, uuid.uuid4().hex, 0) for name in list(names)[:8]]
    send(hilum_node, *studies)
    shown = 0
    for ds in studies:
        row = hilum_node.wait_for(str(ds.StudyInstanceUID))
        if not [f for f in row["findings"] if f["state"] == "present" and f["regions"]]:
            continue
        colour = colour_of(hilum_node, row["images"][0])
        with open_ledger(hilum_node.settings.ledger_address).read() as db:
            (image,) = tasks.of_study(db, str(ds.StudyInstanceUID))[0]["result"]["images"]
        boxed = np.zeros(colour.shape, np.bool_)
        scale = colour.shape[0] / ds.Rows
        for x, y, width, height in (region[:4] for f in image["findings"] for region in f["regions"]):
            boxed[int(y * scale) : int((y + height) * scale), int(x * scale) : int((x + width) * scale)] = True
        assert colour.max() > 60
        assert colour[boxed].mean() > 2 * colour[~boxed].mean()
        shown += 1
    assert shown >= 4


def test_each_image_of_a_study_has_its_own(hilum_node: Node) -> None:
    study = uuid.uuid4().hex
    first, second = phantom(5, study=study), phantom(6, study=study, modality="CR")
    row = read(hilum_node, first, second)
    row = hilum_node.wait(
        lambda: (r := hilum_node.row(row["study_instance_uid"])) and len(r["views"]) == 2 and r, "two"
    )
    urls = [image["thumbnail"] for image in row["images"] if image["status"] == "done"]
    assert len(set(urls)) == 2
    assert len({hilum_node.http.get(url).content for url in urls}) == 2


def test_the_same_study_again_changes_nothing(hilum_node: Node) -> None:
    ds = phantom()
    url = read(hilum_node, ds)["images"][0]["thumbnail"]
    before = hilum_node.http.get(url).content
    with client(hilum_node) as orthanc:
        report = report_of(hilum_node.wait_for(str(ds.StudyInstanceUID)))
        orthanc.attach(orthanc.instances(report), attachments.THUMBNAIL, b"marked")
        send(hilum_node, ds)
        time.sleep(2 * hilum_node.settings.quiet_seconds)
        assert hilum_node.wait_for(str(ds.StudyInstanceUID))["images"][0]["thumbnail"] == url
        assert hilum_node.http.get(url).content == b"marked", "what is there is not made again"
        orthanc.attach(orthanc.instances(report), attachments.THUMBNAIL, before)  # attaching over it is allowed too
    assert hilum_node.http.get(url).content == before


def test_it_goes_with_its_study(hilum_node: Node) -> None:
    ds = phantom()
    url = read(hilum_node, ds)["images"][0]["thumbnail"]
    (study,) = (
        item["ID"]
        for item in hilum_node.http.post("/tools/lookup", content=str(ds.StudyInstanceUID)).json()
        if item["Type"] == "Study"
    )
    hilum_node.http.delete(f"/studies/{study}").raise_for_status()
    answer = hilum_node.http.get(url, headers={"If-None-Match": "*"})
    assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")
    assert "no picture" in answer.text


def test_a_stranger_sees_none_and_a_user_only_those_of_results(hilum_node: Node) -> None:
    ds = phantom()
    url = read(hilum_node, ds)["images"][0]["thumbnail"]
    with httpx.Client(base_url=hilum_node.settings.http_url, trust_env=False) as stranger:
        assert stranger.get(url).status_code == 401
    study = quote(str(ds.StudyInstanceUID))
    with client(hilum_node) as orthanc:
        orthanc.attach(orthanc.instances(str(ds.SOPInstanceUID)), attachments.THUMBNAIL, b"of another program")
    for other in (str(ds.SOPInstanceUID), "1.2.3", ""):
        assert hilum_node.http.get(f"/hilum/thumbnails/{other}?study_instance_uid={study}").status_code == 404, other
    assert hilum_node.http.get(url.partition("?")[0]).status_code == 404, "the study is part of the question"
    assert hilum_node.http.post(url).status_code == 405


def test_many_are_served_at_once_while_studies_arrive(hilum_node: Node) -> None:
    url = read(hilum_node, phantom())["images"][0]["thumbnail"]
    content = hilum_node.http.get(url).content
    late = [phantom() for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        sending = pool.submit(send, hilum_node, *late)
        answers = list(pool.map(lambda _: hilum_node.http.get(url).content, range(80)))
        sending.result()
    assert set(answers) == {content}
    for ds in late:
        assert hilum_node.wait_for(str(ds.StudyInstanceUID))["images"][0]["thumbnail"]


def test_whatever_is_in_its_way_is_told_and_not_raised(hilum_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    ds = phantom()
    report = report_of(read(hilum_node, ds))
    image = RenderedImage(chest(1).pixels)
    sound, without_pixels = findings_of(ds), RenderedImage(np.zeros((0, 0), np.float32))
    with client(hilum_node) as orthanc, caplog.at_level(logging.ERROR, "hilum.pictures"):
        with pytest.raises(ResultRefused, match="no such instance"):
            orthanc.attach([], attachments.THUMBNAIL, b"x")
        assert keep_pictures(orthanc, report, without_pixels, sound).layers == ("picture",), "it has them already"
        assert keep_pictures(orthanc, "1.2.3", image, sound) == Kept()
        assert keep_pictures(orthanc, str(ds.SOPInstanceUID), without_pixels, sound) == Kept()
        assert keep_pictures(orthanc, str(ds.SOPInstanceUID), image, sound) == Kept(True, ("picture",))
        assert orthanc.has_attachment(orthanc.instances(str(ds.SOPInstanceUID)), attachments.THUMBNAIL)
    with OrthancClient(f"http://127.0.0.1:{free_port()}", "a", "b") as nobody:
        assert keep_pictures(nobody, report, image, sound) == Kept()
    with OrthancClient(hilum_node.settings.http_url, "a", "b") as stranger:
        assert keep_pictures(stranger, report, image, sound) == Kept()
    assert [record.getMessage() for record in caplog.records] == ["no pictures"] * 4


def test_the_same_arrays_give_the_same_bytes_and_the_map_shows_where_it_is_hot() -> None:
    ds = modality.radiograph(chest(1).pixels, Exposure(seed="bytes"))
    values = np.zeros((64, 64), np.float32)
    values[40:50, 10:20] = 1.0
    image = RenderedImage(chest(1).pixels)
    plain, heated = findings_of(ds), findings_of(ds, SaliencyMap("lung_opacity", values, "m"))
    assert make_thumbnail(image, heated) == make_thumbnail(image, heated)
    bytes_of = [make_thumbnail(image, findings) for findings in (plain, heated)]
    before, after = (np.asarray(Image.open(BytesIO(content)), np.float32) for content in bytes_of)
    rows, columns = before.shape[:2]
    changed = np.abs(after - before).max(2)
    hot = changed[rows * 42 // 64 : rows * 48 // 64, columns * 12 // 64 : columns * 18 // 64]
    assert hot.mean() > 40
    assert changed[: rows // 2, columns // 2 :].mean() < 2

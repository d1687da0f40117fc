"""The images' entry points on Debian 13: its Orthanc and its Python; skipped without ``--chroot``."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import debian13
import pytest
from debian13 import Chroot
from running_node import Node, free_port

from models.phantom import chest
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, load_settings

pytestmark = [pytest.mark.node, pytest.mark.chroot, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def chroot() -> Chroot:
    """A Debian 13 with what the images install, in ``HILUM_CHROOT`` or in the cache, where it is kept."""
    if why := debian13.can_be_made():
        pytest.skip(why)
    made = Chroot(Path(os.environ.get("HILUM_CHROOT", REPOSITORY / ".cache/debian13")).resolve())
    made.make()
    return made


def volume(folder: Path) -> Path:
    """A folder that only the images' user may read, as a new volume is."""
    folder.mkdir(mode=0o700, parents=True)
    os.chown(folder, debian13.USER, debian13.USER)
    return folder


def wait(question: object, what: str, seconds: float = 300.0) -> None:
    assert callable(question)
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.5)


def send(running: Node) -> str:
    ds = modality.radiograph(chest(1).pixels, Exposure(seed=uuid.uuid4().hex))
    (sent,) = modality.send([ds], "127.0.0.1", running.settings.dicom_port, running.settings.ae_title)
    assert sent.accepted
    return str(ds.StudyInstanceUID)


@pytest.fixture(scope="module")
def single(chroot: Chroot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Server and worker as in the profile ``single``: one volume, and this machine's loopback for their pod."""
    folder = tmp_path_factory.mktemp("single")
    home = volume(folder / "home")
    settings = {f"HILUM_{name}_PORT": str(free_port()) for name in ("HTTP", "DICOM")} | {"HILUM_QUIET_SECONDS": "0.5"}
    with ExitStack() as running:
        running.enter_context(chroot.running("server", home, settings, folder / "server.log"))
        try:
            wait(lambda: chroot.is_healthy("server", home, settings), "the server")
            running.enter_context(chroot.running("worker", home, settings, folder / "worker.log"))
            wait(lambda: chroot.is_healthy("worker", home, settings), "the worker")
        except BaseException:
            for log in (*folder.glob("*.log"), *(home / "log").glob("*")):
                print(f"== {log.name}\n{log.read_text()[-3000:]}")  # noqa: T201
            raise
        known = load_settings({**settings, "HILUM_HOME": str(home)})
        credentials = load_credentials(known.credentials)
        with node.http(known, credentials) as client:
            yield Node(known, credentials, client)


def test_it_is_debian_13_with_its_orthanc_and_its_python(chroot: Chroot, single: Node) -> None:
    assert (chroot.root / "etc/debian_version").read_text().startswith("13")
    assert chroot.said("/srv/server/bin/python3", "--version").startswith("Python 3.13")
    system = single.http.get("/system").json()
    assert system["Version"].startswith("1.12.")
    assert single.http.get("/plugins/python").json()["Version"].startswith("5.")


def test_a_study_sent_by_c_store_gets_a_report_and_a_segmentation(single: Node) -> None:
    study = send(single)
    row = single.wait_for(study, 120)
    assert row["status"] == "done"
    assert (len(single.measurement_reports(study)), len(single.series(study, "SEG"))) == (1, 1)
    assert len(single.preliminary_reports(study)) == 1
    (image,) = row["images"]
    assert single.http.get(image["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_strangers_are_refused_and_pages_are_served(single: Node) -> None:
    import httpx

    for path in ("/system", "/instances", "/dicom-web/studies"):
        assert httpx.get(f"{single.settings.http_url}{path}", trust_env=False).status_code in (401, 403)
    for path in ("/hilum/", "/hilum/admin"):
        assert "not a medical device" in single.http.get(path).text


def test_what_is_written_is_the_volume_alone_and_nobody_elses(single: Node) -> None:
    written = list(single.settings.home.rglob("*"))
    assert {file.stat().st_uid for file in written} == {debian13.USER}
    assert not (single.settings.home / "log" / "worker.log").exists(), "a worker by itself logs to its own output"
    assert not [
        file
        for file in written
        if file.is_file() and file.parent == single.settings.home and file.stat().st_mode & 0o077
    ]

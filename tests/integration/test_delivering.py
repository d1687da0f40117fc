"""A whole node gives its results to a PACS by C-STORE and by STOW-RS, and tells an HL7 receiver."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.filereader import read_preamble
from receivers import Other, Pacs, Ris, pacs, plain_orthanc, ris
from running_node import Node, free_port, start_node

from dicom_sr.reader import read_study
from models.phantom import chest
from orthanc_plugin.cli import main
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.checks.neighbours import check_neighbours
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.ledger.delivery_views import standings

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]


def send(running: Node, name: str, caller: modality.Caller = modality.ANYBODY) -> str:
    exposure = Exposure(seed=name, patient_name=f"{name}^Secret", patient_id=f"ID-{name}")
    ds = modality.radiograph(chest(4, rows=512, columns=512).pixels, exposure)
    where = "127.0.0.1", running.settings.dicom_port, running.settings.ae_title
    (outcome,) = modality.send([ds], *where, caller)
    assert outcome.accepted
    return str(ds.StudyInstanceUID)


def data_set_of(file: bytes) -> bytes:
    """A DICOM file behind its preamble and file meta information."""
    stream = BytesIO(file)
    read_preamble(stream, False)
    meta = dcmread(BytesIO(file), stop_before_pixels=True).file_meta
    return file[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]


def own_files(running: Node, study: str) -> dict[str, bytes]:
    """SOP Instance UID to file, of our results in the node's own Orthanc."""
    found = running.http.post("/tools/lookup", content=study).json()
    files = {}
    for item in found:
        for instance in running.http.get(f"/studies/{item['ID']}/instances").json():
            file = running.http.get(f"/instances/{instance['ID']}/file").content
            if dcmread(BytesIO(file), stop_before_pixels=True).get("Manufacturer") == "Hilum":
                files[str(instance["MainDicomTags"]["SOPInstanceUID"])] = file
    return files


def started(home: Path, tables: str) -> Iterator[Node]:
    settings, _ = start_node(home, tables)
    try:
        credentials = load_credentials(settings.credentials)
        with node.http(settings, credentials) as client:
            yield Node(settings, credentials, client)
    finally:
        node.stop(settings)


def owed_to(running: Node) -> set[str]:
    with open_ledger(running.settings.ledger_address).read() as db:
        return {one.destination for one in standings(db)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Pacs, Other, Ris]]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "password").write_text("let me in\n")
    with pacs() as archive, plain_orthanc(folder / "other") as other, ris() as told:
        tables = f"""
[[destinations]]
name = "pacs"
protocol = "dicom"
host = "127.0.0.1"
port = {archive.port}
ae_title = "PACS"

[[destinations]]
name = "web"
protocol = "stow"
url = "{other.dicom_web}"
user = "hilum"
password_file = "{folder / "password"}"
objects = ["measurement_report", "images"]

[[destinations]]
name = "ris"
protocol = "hl7"
host = "127.0.0.1"
port = {told.port}

[[destinations]]
name = "gone"
protocol = "dicom"
host = "127.0.0.1"
port = {free_port()}
ae_title = "GONE"

[[destinations]]
name = "from-elsewhere"
protocol = "hl7"
host = "127.0.0.1"
port = {free_port()}
calling_ae_titles = ["NOBODY"]
"""
        for running in started(folder / "home", tables):
            yield running, archive, other, told


def until(question: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return answer


def test_each_result_arrives_once_byte_for_byte(site: tuple[Node, Pacs, Other, Ris]) -> None:
    running, archive, other, told = site
    study = send(running, "first")
    running.wait_for(study)
    own = own_files(running, study)
    assert len(own) >= 3, "SR, SEG and the preliminary report"
    until(lambda: set(archive.data_sets) >= set(own))
    assert archive.data_sets == {uid: data_set_of(file) for uid, file in own.items()}
    assert set(archive.came.values()) == {1}
    assert set(archive.callers) == {running.settings.ae_title}

    files = set(until(lambda: len(found := other.files()) == 2 and found).values())
    assert len(files & set(own.values())) == 1, "the measurement report, as it is; the other one is the image"

    (message,) = until(lambda: told.messages)
    lines = {line[:3]: line.split("|") for line in message.split("\r") if line}
    assert (lines["OBR"][25], lines["PID"][5]) == ("P", "first^Secret")
    assert "not reviewed" in message


def test_who_is_away_delays_nobody_and_is_told(site: tuple[Node, Pacs, Other, Ris]) -> None:
    running, archive, _, _ = site
    study = send(running, "second")
    running.wait_for(study)
    until(lambda: set(archive.data_sets) >= set(own_files(running, study)))
    ledger = open_ledger(running.settings.ledger_address)

    def failing() -> Any:
        with ledger.read() as db:
            return [one for one in standings(db) if one.failing]

    (gone,) = until(failing)
    assert (gone.destination, gone.refused) == ("gone", 0)
    assert "cannot be reached" in gone.error
    until(lambda: owed_to(running) == {"gone"})  # nothing is owed where no rule says so
    page = running.http.get("/hilum/admin").text
    assert "Given to others" in page
    assert gone.error in page
    metrics = running.http.get("/hilum/metrics").text
    assert 'hilum_deliveries_failing{destination="gone"} ' in metrics
    assert 'hilum_deliveries_owed{destination="from-elsewhere"} 0.0' in metrics
    assert 'hilum_deliveries_total{destination="pacs",outcome="delivered"}' in metrics


def test_the_doctor_and_the_command_line_tell_who_answers(
    site: tuple[Node, Pacs, Other, Ris], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = site[0]
    monkeypatch.setenv("HILUM_HOME", str(running.settings.home))
    monkeypatch.setenv("HILUM_HTTP_PORT", str(running.settings.http_port))
    found = {check.name: check for check in check_neighbours(running.settings)}
    states = {name.removeprefix("destination_"): str(check.state) for name, check in found.items()}
    assert states == {
        "pacs": "well", "web": "well", "ris": "well", "gone": "warning", "from-elsewhere": "warning",
    }  # fmt: skip
    assert "answers C-ECHO" in found["destination_pacs"].text
    assert main(["deliveries", "list", "--json"]) == 0
    told = {one["destination"]: one for one in json.loads(capsys.readouterr().out)["destinations"]}
    assert (told["gone"]["owed"] > 0, told["pacs"]["owed"]) == (True, 0)
    assert main(["deliveries", "retry", "nobody"]) == 1
    assert "there is no destination 'nobody'" in capsys.readouterr().err
    assert main(["deliveries", "owe", "ris", "--since", "2020-01-01"]) == 0
    assert "0 more studies" in capsys.readouterr().out, "it was told of all of them"
    assert main(["deliveries", "retry", "gone"]) == 0
    assert main(["deliveries", "forget", "gone"]) == 0
    assert main(["deliveries", "list"]) == 0
    assert running.http.get("/hilum/api/status").json()["state"] == "ready"


def test_a_study_that_is_read_again_alike_is_not_delivered_twice(site: tuple[Node, Pacs, Other, Ris]) -> None:
    running, archive, _, told = site
    until(lambda: owed_to(running) <= {"gone"})
    before, messages = archive.came.copy(), len(told.messages)
    study = running.rows()[0]["study_instance_uid"]
    assert running.http.post(
        "/hilum/api/reread", data={"study_instance_uid": study}, headers={"X-Requested-With": "test"}
    ).is_success
    time.sleep(5)
    assert archive.came == before
    assert len(told.messages) == messages


def test_a_rule_decides_which_bundles_read_an_image_and_results_name_it(tmp_path: Path) -> None:
    tables = """
[[routes]]
name = "not-ours"
calling_ae_titles = ["NOTOURS"]
bundles = []

[[routes]]
name = "lungs-alone"
body_part = ["CHEST"]
bundles = ["lung_fields"]
"""
    for running in started(tmp_path / "home", tables):
        study = send(running, "routed")
        row = running.wait_for(study)
        (image,) = row["images"]
        assert {"source": "routes", "says": "lungs-alone"} in image["evidence"]
        (findings,) = read_study(running.objects(study)).images
        assert (findings.route, [run.model.name for run in findings.runs]) == ("lungs-alone", ["lung_fields"])
        assert {finding.reason for finding in findings.findings if finding.key == "lung_opacity"} == {"routing"}
        assert "a rule of the site left its model out" in running.http.get(f"/hilum/studies/{study}").text
        refused = send(running, "not ours", modality.Caller("NOTOURS"))
        row = running.wait_for(refused)
        assert (row["status"], row["reason"]) == ("not_processed", "routing")
        assert "not read, by the site's rule not-ours" in row["message"]
        assert not own_files(running, refused)
        page = running.http.get("/hilum/", headers={"Accept": "text/html"}).text
        assert "rule not-ours" in page

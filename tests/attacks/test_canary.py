"""A patient whose every name, number and word carries a marker goes through a whole node, by every way that there is:
the marker stands in the archive and its ledger, on the pages of who may see it, and nowhere else; and no secret does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fortress import NEIGHBOUR, PROXY_SECRET, Callers, associate, fortress, https, radiograph, store
from notice_servers import Receiver, receiving
from pydicom import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from running_node import Node

from orthanc_plugin.access import accounts
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import modality, node
from tests.faults import victims

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

MARKER = "Quetzalcoatl"
DIGITS = "73819465028"  # where only digits fit
PASSWORD = "correct horse battery"
WEBHOOK_SECRET = "a secret of the webhook"
# what holds patients on purpose; their names are looked at all the same
ARCHIVE = ("orthanc", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm")


def marked(**exposure: object) -> Dataset:
    """A radiograph that names its patient wherever a name, a number or words of one can stand."""
    ds = radiograph(**exposure)
    ds.PatientName, ds.PatientID = f"{MARKER}^Given^Middle", f"ID{MARKER}"
    ds.OtherPatientNames, ds.PatientMotherBirthName = f"Other{MARKER}", f"Mother{MARKER}"
    ds.PatientAddress, ds.PatientTelephoneNumbers = f"{MARKER} Street 1", DIGITS
    ds.PatientComments, ds.AdditionalPatientHistory = f"comment {MARKER}", f"history {MARKER}"
    ds.AccessionNumber, ds.StudyID = f"AC{MARKER}"[:16], f"ST{MARKER}"[:16]
    ds.ReferringPhysicianName, ds.PerformingPhysicianName = f"Dr{MARKER}", f"Op{MARKER}"
    ds.RequestingPhysician, ds.OperatorsName = f"Rq{MARKER}", f"Or{MARKER}"
    ds.StudyDescription, ds.SeriesDescription = f"Study {MARKER}", f"Series {MARKER}"
    ds.ProtocolName, ds.InstitutionName = f"Protocol {MARKER}", f"Hospital {MARKER}"
    ds.PatientBirthName, ds.MilitaryRank = f"Born{MARKER}", f"Rank {MARKER}"[:16]
    block = ds.private_block(0x0011, f"PRIVATE {MARKER}", create=True)
    block.add_new(0x01, "LO", f"private {MARKER}")
    return ds


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, hook: Receiver) -> Iterator[Node]:
    """A node after all that can happen to such a patient; it still runs."""
    with fortress(tmp_path_factory.mktemp("canary") / "home", attempts="1", study_seconds="60") as made:
        accounts.add_user(made.settings.users, "anna", Role.RADIOLOGIST, PASSWORD, taken=frozenset())
        file = made.settings.notifications
        file.write_text(f'webhook_url = "{hook.url}"\nwebhook_secret = "{WEBHOOK_SECRET}"\nnotify_urgent = true\n'
                        'node_url = "https://pacs.example.org"\n')  # fmt: skip
        file.chmod(0o600)
        callers = Callers(made.settings.home)
        studies = send_everything(made, callers)
        ask_everything(made, callers, studies)
        time.sleep(1)  # logs and audit are written by threads
        yield made


def send_everything(made: Node, callers: Callers) -> list[str]:
    """What is read, refused, unreadable, damaged, crashed and refused by Orthanc itself; the studies that there are."""
    caller, sent = callers.neighbour(), []
    lateral, child, damaged, empty = marked(view="LL"), marked(patient_age="003Y"), marked(), marked()
    damaged.PixelData, damaged.Rows = b"\1" * 100, 60_000
    empty.Modality, empty.Rows = "CT", 0
    for ds in (marked(), lateral, child, damaged, empty):
        assert store(made, caller, ds)
        sent.append(str(ds.StudyInstanceUID))
    for uid in sent:
        made.wait_for(uid, 120)
    crashed = marked()
    assert store(made, caller, crashed)
    sent.append(str(crashed.StudyInstanceUID))
    made.wait(lambda: kill_readers(made, signal.SIGSEGV), "a reader", 20)
    made.wait_for(sent[-1], 120)
    nameless = marked()
    del nameless.StudyInstanceUID
    store(made, caller, nameless)  # Orthanc refuses it, and its log names the patient
    again = marked()
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = crashed.SOPInstanceUID
    store(made, caller, again)
    store(made, callers.neighbour("NOBODY"), marked())
    return sent


def kill_readers(made: Node, number: int) -> bool:
    pids = victims.processes(made.settings.home)
    for pid in (*pids["reader"], *pids["intake"]):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return bool(pids["reader"])


def ask_everything(made: Node, callers: Callers, studies: list[str]) -> None:
    """By DICOM, DICOMweb, Orthanc's API and our pages: what there is, what there is not, and what is nonsense."""
    question = Dataset()
    question.QueryRetrieveLevel, question.PatientName, question.StudyInstanceUID = "STUDY", f"{MARKER}*", ""
    entity = callers.neighbour().entity()
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = associate(entity, made, callers.neighbour())
    found = list(association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind))  # type: ignore[attr-defined]
    assert len(found) > 3, "the archive knows the patient"
    association.release()  # type: ignore[attr-defined]
    with https(made) as person:
        origin = str(person.base_url).rstrip("/")
        for name, password in ((MARKER, MARKER), ("anna", MARKER), ("anna", PASSWORD)):
            person.post("/hilum/login", data={"name": name, "password": password}, headers={"Origin": origin})
        seen = person.post("/hilum/", data={"text": MARKER}, headers={"Origin": origin})
        assert MARKER in seen.text, "the pages name the patient to who may see"
        for client in (person, made.http):
            ask(client, studies)


def ask(client: httpx.Client, studies: list[str]) -> None:
    own = {"Origin": str(client.base_url).rstrip("/"), "X-Requested-With": "x"}
    for uid in studies:
        for path in (
            f"/hilum/studies/{uid}",
            f"/dicom-web/studies/{uid}/metadata",
            f"/ohif/viewer?StudyInstanceUIDs={uid}",
        ):
            client.get(path)
    for path in (
        f"/dicom-web/studies?PatientName={MARKER}*", f"/dicom-web/studies?PatientID=ID{MARKER}",
        f"/dicom-web/studies/{MARKER}", f"/dicom-web/studies/{MARKER}/metadata", f"/{MARKER}", f"/hilum/{MARKER}",
        f"/hilum/studies/{MARKER}", f"/hilum/?text={MARKER}", f"/hilum/?sort={MARKER}", f"/hilum/rows?after={MARKER}",
        f"/hilum/thumbnails/1.2?study_instance_uid={MARKER}", f"/hilum/static/{MARKER}.css", f"/ohif/{MARKER}.js",
        f"/hilum/api/images?reason={MARKER}", f"/instances/{MARKER}", f"/wado?requestType=WADO&studyUID={MARKER}",
        f"/hilum/login?next=/hilum/{MARKER}", f"/hilum/admin/models/{MARKER}/1/README.md",
    ):  # fmt: skip
        client.get(path)
    client.post("/tools/find", json={"Level": "Study", "Query": {"PatientName": f"*{MARKER}*"}})
    client.post("/tools/find", content=f'{{"Level": "{MARKER}')
    client.post("/tools/lookup", content=MARKER)
    client.post("/instances", content=MARKER.encode() * 100)
    client.post("/dicom-web/studies", content=MARKER.encode(), headers={"Content-Type": f"multipart/{MARKER}"})
    for path in ("mark", "filters", "look", "api/retry", "api/reread", "api/priorities", "api/worklist"):
        fields = {"study_instance_uid": studies[0], "action": "note", "note": f"note {MARKER}", "text": MARKER,
                  "name": MARKER, "look": MARKER}  # fmt: skip
        client.post(f"/hilum/{path}", data=fields, headers=own)
        client.post(f"/hilum/{path}", content=f'{{"{MARKER}', headers={**own, "Content-Type": "application/json"})


# --- where it is looked for ------------------------------------------------------------------------------------------
def holds(content: bytes) -> bool:
    upper = content.upper()
    return any(word.upper().encode() in upper for word in (MARKER, DIGITS))


def processes(made: Node) -> dict[int, Path]:
    """Every process of the node: Orthanc, what it started, and what writes its log."""
    home, found = str(made.settings.home).encode(), {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                words, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                if home in words or home in environ or "nginx" in words.decode("utf-8", "replace")[:40]:
                    found[int(entry.name)] = entry
    return found


def files_beside_the_archive(made: Node) -> list[Path]:
    home = made.settings.home
    every = [path for path in home.rglob("*") if path.is_file()]
    return [path for path in every if path.relative_to(home).parts[0] not in ARCHIVE]


def test_the_marker_is_in_no_log_and_no_other_file_beside_the_archive(lived: Node) -> None:
    files = files_beside_the_archive(lived)
    assert {"orthanc.log", "worker.log"} <= {file.name for file in files}
    assert any("audit" in file.parts for file in files)
    assert sum(file.stat().st_size for file in files if file.parent.name == "log") > 5000
    for file in files:
        content = file.read_bytes()
        at = content.upper().find(MARKER.upper().encode())
        assert not holds(content), f"{file}: ...{content[max(0, at - 200) : at + 80]!r}"


def test_the_log_tells_what_happened_all_the_same(lived: Node) -> None:
    log = (lived.settings.logs / "orthanc.log").read_text() + (lived.settings.logs / "worker.log").read_text()
    assert "(withheld)" in log, "Orthanc named the patient"
    assert "Rejected association" in log


def test_no_file_and_no_folder_is_named_after_the_patient(lived: Node) -> None:
    for folder in (lived.settings.home, Path(tempfile.gettempdir()), Path("/dev/shm")):
        found = [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]
        assert not [name for name in found if holds(os.fsencode(name))]


def test_the_marker_is_in_no_metric_no_status_and_no_refusal(lived: Node) -> None:
    for path in ("/hilum/metrics", "/hilum/api/status", "/hilum/admin", "/hilum/nothing", f"/hilum/studies/{MARKER}"):
        answer = lived.http.get(path)
        assert answer.content
        assert not holds(answer.content), path
    with https(lived) as stranger:
        for path in ("/hilum/", "/dicom-web/studies", f"/hilum/studies/{MARKER}", "/hilum/login"):
            assert not holds(stranger.get(path).content), path


def test_no_link_of_a_page_carries_it(lived: Node) -> None:
    row = lived.rows()[0]
    for path in ("/hilum/", f"/hilum/studies/{row['study_instance_uid']}"):
        page = lived.http.get(path).text
        assert MARKER in page
        for attribute in ("href=", "src=", "action="):
            for part in page.split(attribute)[1:]:
                assert not holds(part.split('"')[1].encode()), part[:200]


def test_no_process_carries_it_in_its_arguments_or_environment(lived: Node) -> None:
    found = processes(lived)
    assert len(found) >= 5, found
    for pid, entry in found.items():
        with suppress(OSError):
            for name in ("cmdline", "environ", "comm"):
                assert not holds((entry / name).read_bytes()), f"{pid} {name}"


def test_no_process_and_no_log_carries_a_secret(lived: Node) -> None:
    own, tls = lived.credentials, lived.settings.tls
    secrets = [own.password, own.worker_password, PROXY_SECRET, WEBHOOK_SECRET, PASSWORD]
    secrets += [line for file in ("ca.key", "server.key") for line in (tls / file).read_text().splitlines()[1:3]]
    arguments = [(entry / "cmdline") for entry in processes(lived).values()]
    logs = [path for path in files_beside_the_archive(lived) if path.parent.name in ("log", "audit", "entrance")]
    assert len(arguments) >= 5
    for file in (*arguments, *logs):
        with suppress(FileNotFoundError, ProcessLookupError):
            content = file.read_bytes()
            for secret in secrets:
                assert secret.encode() not in content, file


def test_what_is_told_by_webhook_names_nobody(lived: Node, hook: Receiver) -> None:
    for headers, body in hook.got:
        assert not holds(body + repr(headers).encode())
    outbox = lived.settings.outbox
    assert not outbox.exists() or not holds(outbox.read_bytes())


def test_what_was_killed_left_no_image_of_its_memory(lived: Node) -> None:
    cores = [p for p in (*lived.settings.home.rglob("core*"), *Path.cwd().glob("core*")) if p.is_file()]
    assert not [path for path in cores if path.stat().st_size > 100_000]
    for pid in victims.processes(lived.settings.home)["reader"]:
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max core file size        0 " in limits


def test_the_doctor_and_the_command_line_do_not_tell_it(lived: Node) -> None:
    settings = lived.settings
    given = {"HOME": settings.home, "HTTP_PORT": settings.http_port, "DICOM_PORT": settings.dicom_port}
    environment = {**os.environ, **{f"HILUM_{name}": str(value) for name, value in given.items()}}
    for command in (["status"], ["doctor"], ["config", "show"], ["audit", "show"]):
        done = subprocess.run(
            [sys.executable, "-m", "orthanc_plugin.cli", *command],
            env=environment, capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert len(said) > 100, command
        assert not holds(said), command
        for secret in (lived.credentials.worker_password, PROXY_SECRET):
            assert secret.encode() not in said, command


def test_the_patient_is_where_patients_belong(lived: Node) -> None:
    """Else nothing here could have failed."""
    assert holds(lived.http.get("/dicom-web/studies").content)
    assert any(holds(file.read_bytes()) for file in lived.settings.storage.rglob("*") if file.is_file())
    assert NEIGHBOUR in lived.settings.modalities[0]
    assert node.running_pid(lived.settings)
    assert modality.caller_of(lived.settings).ae_title != NEIGHBOUR

"""Log-in, sessions, roles and the audit log on a real Orthanc, by HTTP as programs and browsers send it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from pydicom import Dataset
from running_node import Node, add_user, restart, running_node

from models.phantom import chest
from orthanc_plugin import cli
from orthanc_plugin.access import audit_chain, audit_files
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.cluster.plan import is_cluster
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials

pytestmark = pytest.mark.node

PASSWORD = "correct horse battery"
ROLES = (Role.RADIOLOGIST, Role.TECHNOLOGIST, Role.ADMIN)
BROWSER = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}


@pytest.fixture(scope="module")
def guarded(node_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of its own with a user of each role, for wrong passwords slow everybody down."""
    with running_node(node_kind, tmp_path_factory.mktemp("guarded") / "home") as running:
        for role in ROLES:
            add_user(running.settings, role, role, PASSWORD)
        yield running


@pytest.fixture(scope="module")
def study(guarded: Node) -> Dataset:
    """A study that was read."""
    sent = modality.radiograph(chest(3).pixels, Exposure(seed=uuid.uuid4().hex))
    assert all(
        outcome.accepted
        for outcome in modality.send([sent], "127.0.0.1", guarded.settings.dicom_port, guarded.settings.ae_title)
    )
    assert guarded.wait_for(str(sent.StudyInstanceUID))["status"] == "done"
    return sent


@pytest.fixture
def stranger(guarded: Node) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.settings.http_url, trust_env=False) as client:
        yield client


def log_in(client: httpx.Client, name: str, password: str = PASSWORD, way: str = "") -> httpx.Response:
    origin = str(client.base_url).rstrip("/")
    return client.post(
        "/hilum/login", data={"name": name, "password": password, "next": way}, headers={"Origin": origin}
    )


@contextmanager
def as_person(guarded: Node, name: str, password: str = PASSWORD) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.settings.http_url, trust_env=False) as client:
        assert log_in(client, name, password).status_code == 303
        yield client


def raw(guarded: Node, request: bytes) -> bytes:
    """Bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", guarded.settings.http_port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def entries(guarded: Node) -> list[dict[str, str]]:
    time.sleep(0.3)  # a thread writes them
    return list(audit_files.read(guarded.settings.audit))


def wado_of(guarded: Node, instance: str, study: str = "") -> str:
    """A question by WADO-URI for an instance, under its study or another."""
    tags = guarded.http.get(f"/instances/{instance}/simplified-tags").json()
    query = {"requestType": "WADO", "studyUID": study or tags["StudyInstanceUID"], "contentType": "application/dicom"}
    more = {"seriesUID": tags["SeriesInstanceUID"], "objectUID": tags["SOPInstanceUID"]}
    return urlencode({**query, **more}, safe="/")  # Orthanc takes no escapes here


@pytest.mark.one_orthanc(reason="what a program asks again and again is recorded once by each server")
def test_an_object_is_given_by_wado_uri_under_its_own_study_alone(guarded: Node, study: Dataset) -> None:
    uid = str(study.StudyInstanceUID)
    (found,) = guarded.http.post("/tools/lookup", content=uid).json()
    instance = guarded.http.get(f"/studies/{found['ID']}/instances").json()[0]["ID"]
    right = guarded.http.get(f"/wado?{wado_of(guarded, instance)}")
    assert (right.status_code, b"DICM" in right.content[:200]) == (200, True)
    sop = wado_of(guarded, instance).rpartition("=")[2]
    for query in (wado_of(guarded, instance, "1.2.3"), f"requestType=WADO&objectUID={sop}"):
        assert guarded.http.get(f"/wado?{query}").status_code == 403
    refused = [entry for entry in entries(guarded) if entry["detail"].startswith("WADO-URI")]
    assert [(entry["outcome"], entry["study"]) for entry in refused] == [("refused", "")]


def routes_of(guarded: Node, study: Dataset) -> list[str]:
    uid = str(study.StudyInstanceUID)
    (found,) = guarded.http.post("/tools/lookup", content=uid).json()
    instance = guarded.http.get(f"/studies/{found['ID']}/instances").json()[0]["ID"]
    report = guarded.row(uid)
    assert report is not None
    return [
        "/", "/hilum", "/hilum/", "/hilum/rows", "/hilum/api/worklist", "/hilum/api/images", "/hilum/api/status",
        "/hilum/api/visitor", "/hilum/api/retry", "/hilum/nothing", report["images"][0]["thumbnail"], "/ohif", "/ohif/",
        f"/ohif/viewer?StudyInstanceUIDs={uid}", "/ohif/app-config.js", "/instances", f"/instances/{instance}",
        f"/instances/{instance}/file", f"/instances/{instance}/preview", f"/instances/{instance}/tags", "/studies",
        f"/studies/{found['ID']}", f"/studies/{found['ID']}/archive", "/series", "/patients", "/changes", "/exports",
        "/jobs", "/system", "/statistics", "/plugins", "/plugins/explorer.js", "/modalities", "/peers", "/queries",
        "/tools", "/tools/now", "/tools/metrics", "/tools/metrics-prometheus", "/app/explorer.html", "/app",
        "/dicom-web", "/dicom-web/studies", f"/dicom-web/studies/{uid}", f"/dicom-web/studies/{uid}/metadata",
        f"/dicom-web/studies/{uid}/series", "/dicom-web/series", "/dicom-web/instances", "/dicom-web/servers",
        "/dicom-web/app/client/index.html", f"/wado?requestType=WADO&studyUID={uid}",
        f"/wado?{wado_of(guarded, instance)}", "/webdav", "/webdav/by-dates",
        "/ui/app/", "/osimis-viewer", "/stone-webviewer", "/web-viewer", "/nothing/known", "/favicon.ico",
    ]  # fmt: skip


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "LOCK", "MKCOL", "COPY", "TRACE")


def test_a_stranger_is_refused_on_every_route_by_every_method(
    guarded: Node, study: Dataset, stranger: httpx.Client
) -> None:
    paths = routes_of(guarded, study)
    for path in paths:
        for method in METHODS:
            answer = stranger.request(method, path, headers={"Depth": "1"} if method == "PROPFIND" else {})
            leads_home = answer.status_code == 303 and answer.headers["Location"] == "/hilum/"
            assert answer.status_code in (400, 401, 403, 404, 405, 500, 501) or (path == "/" and leads_home), (
                f"{method} {path}: {answer.status_code}"
            )
            for secret in (str(study.StudyInstanceUID), str(study.PatientName), str(study.PatientID)):
                assert secret.encode() not in answer.content, f"{method} {path}"
            if method == "GET" and path != "/":
                assert answer.status_code in (401, 403), f"{path}: {answer.status_code}"
    allowed = {path: guarded.http.get(path).status_code for path in paths}
    assert sum(status == 200 for status in allowed.values()) > 35, f"the routes are not those of this node: {allowed}"
    assert guarded.row(str(study.StudyInstanceUID)) is not None


@pytest.mark.parametrize(
    "target",
    ["//instances", "/./instances", "/hilum/../instances", "/hilum/login/../../instances", "/%69nstances",
     "/hilum/%2e%2e/instances", "/hilum/static/../../dicom-web/studies", "/hilum/login/..%2f..%2finstances",
     "/instances/", "/instances?x=/hilum/login", "/instances#/hilum/login", "/instances%00/hilum/login",
     "http://127.0.0.1/instances", "/hilum/login;/../../instances", "/hilum\\..\\instances", "/dicom-web//studies",
     "*", "instances", "/hilum/static/%2e%2e/%2e%2e/studies"],
)  # fmt: skip
def test_no_way_of_writing_a_path_leads_around_the_guard(guarded: Node, study: Dataset, target: str) -> None:
    answer = raw(guarded, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 400
    # 502 is an entrance's word for an Orthanc that hung up
    assert status in (400, 401, 403, 404, 502), head
    assert str(study.StudyInstanceUID).encode() not in body
    assert not body.startswith(b"[")


def test_what_python_cannot_read_is_refused(guarded: Node) -> None:
    credentials = guarded.credentials
    assert httpx.get(
        f"{guarded.settings.http_url}/instances", auth=(credentials.user, credentials.password), trust_env=False
    ).is_success
    for header in (b"X: \xff\xfe", b"Cookie: hilum=\xff", b"Authorization: Basic \xff\xff"):
        answer = raw(guarded, b"GET /instances HTTP/1.1\r\nHost: x\r\n" + header + b"\r\nConnection: close\r\n\r\n")
        assert int(answer.split()[1]) in (400, 403, 500), answer[:200]


def test_orthanc_does_not_start_without_its_guard(guarded: Node, tmp_path: Path) -> None:
    script = tmp_path / "plugin.py"
    plugin = (Path(cli.__file__).with_name("plugin.py")).read_text("utf-8")
    script.write_text(
        plugin.replace("orthanc.RegisterIncomingHttpRequestFilter(called(allow_http))", "raise RuntimeError")
    )
    configuration = node.orthanc_configuration(guarded.settings) | {
        "PythonScript": str(script), "HttpPort": 1, "StorageDirectory": str(tmp_path), "IndexDirectory": str(tmp_path),
        "DicomServerEnabled": False,
    }  # fmt: skip
    file = tmp_path / "orthanc.json"
    file.write_text(json.dumps(configuration))
    environment = node.orthanc_environment(guarded.settings) | {"HILUM_HOME": str(tmp_path / "home")}
    ended = subprocess.run(["Orthanc", str(file)], env=environment, capture_output=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert b"RuntimeError" in ended.stderr + ended.stdout


def test_a_person_is_led_to_the_log_in_and_back(guarded: Node, stranger: httpx.Client) -> None:
    wanted = "/ohif/viewer?StudyInstanceUIDs=1.2.3"
    answer = stranger.get(wanted, headers=BROWSER)
    assert answer.status_code == 303
    page = stranger.get(answer.headers["Location"], headers=BROWSER)
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert "not a medical device" in page.text
    assert f'name="next" value="{wanted}"' in page.text
    entered = log_in(stranger, "radiologist", way=wanted)
    assert (entered.status_code, entered.headers["Location"]) == (303, wanted)
    flags = entered.headers["Set-Cookie"].split("; ")[1:]
    assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Lax"]
    assert stranger.get(wanted, headers=BROWSER).status_code == 200


def test_a_program_is_challenged_where_our_routes_answer(stranger: httpx.Client) -> None:
    answer = stranger.get("/hilum/api/worklist")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_viewer_and_dicomweb_take_the_cookie_alone(guarded: Node, study: Dataset) -> None:
    uid = study.StudyInstanceUID
    with as_person(guarded, "radiologist") as person:
        assert person.get("/ohif/").status_code == 200
        assert person.get("/dicom-web/studies").json()
        assert person.get(f"/dicom-web/studies/{uid}/metadata").json()
        frame = f"/dicom-web/studies/{uid}/series/{study.SeriesInstanceUID}/instances/{study.SOPInstanceUID}/frames/1"
        assert person.get(frame).status_code == 200
        assert "<table" in person.get("/hilum/").text
        assert person.get("/hilum/api/visitor").json()["role"] == "radiologist"


@pytest.mark.one_orthanc(reason="a modality that is added by REST is known to the Orthanc that was asked")
def test_roles_hold_on_orthancs_own_routes(guarded: Node, study: Dataset) -> None:
    (found,) = guarded.http.post("/tools/lookup", content=str(study.StudyInstanceUID)).json()
    changes = [
        ("DELETE", f"/studies/{found['ID']}"), ("POST", "/instances"), ("POST", "/dicom-web/studies"),
        ("POST", f"/dicom-web/studies/{study.StudyInstanceUID}"), ("POST", "/tools/reset"), ("PUT", "/modalities/x"),
        ("POST", "/dicom-web/servers/x/stow"), ("POST", "/tools/execute-script"), ("POST", "/tools/find"),
    ]  # fmt: skip
    multipart = {"X-Requested-With": "x", "Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    for name in ("radiologist", "technologist"):
        with as_person(guarded, name) as person:
            for method, path in changes:
                assert person.request(method, path, headers=multipart, content=b"--b--").status_code == 403, path
            assert person.get(f"/studies/{found['ID']}").status_code == 403
            assert person.get(f"/studies/{found['ID']}?_method=DELETE").status_code == 403
            assert person.get("/dicom-web/studies").status_code == 200
            retried = person.post("/hilum/api/retry", data={"all": "yes"}, headers={"X-Requested-With": "x"})
            assert retried.json() == {"retried": 0}
    with as_person(guarded, "admin") as person:
        assert person.get(f"/studies/{found['ID']}").status_code == 200
        assert person.get("/app/explorer.html").status_code == 200
        linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert person.get(f"/studies/{found['ID']}?_method=DELETE", headers=linked).status_code == 403
        assert person.delete(f"/studies/{found['ID']}").status_code == 403, "who says nothing of where it comes from"
        override = {"X-HTTP-Method-Override": "DELETE", "X-Requested-With": "x"}
        assert person.get(f"/studies/{found['ID']}", headers=override).status_code == 403
        assert person.put("/modalities/x", json=["X", "127.0.0.1", 1], headers={"X-Requested-With": "x"}).is_success
        assert person.delete("/modalities/x", headers={"X-Requested-With": "x"}).is_success
    assert guarded.row(str(study.StudyInstanceUID)) is not None


def test_people_may_use_basic_as_well_and_the_worker_has_no_page(guarded: Node, stranger: httpx.Client) -> None:
    assert stranger.get("/dicom-web/studies", auth=("technologist", PASSWORD)).status_code == 200
    assert stranger.get("/instances", auth=("technologist", PASSWORD)).status_code == 403
    worker = guarded.credentials
    assert stranger.get("/instances", auth=(worker.worker_user, worker.worker_password)).status_code == 200
    assert stranger.get("/hilum/api/worklist", auth=(worker.worker_user, worker.worker_password)).status_code == 403
    assert log_in(stranger, worker.worker_user, worker.worker_password).status_code == 403


def test_a_user_who_is_removed_is_out_with_the_next_request(guarded: Node, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"HILUM_HOME": str(guarded.settings.home)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert cli.main(["users", "add", "Visiting.One", "--role", "radiologist", "--generate"]) == 0
        password = capsys.readouterr().out.rpartition("Password")[2].split()[0]
        with as_person(guarded, "visiting.one", password) as person:
            assert person.get("/dicom-web/studies").status_code == 200
            assert cli.main(["users", "role", "visiting.one", "technologist"]) == 0
            assert person.get("/dicom-web/studies").status_code == 403
            assert log_in(person, "visiting.one", password).status_code == 303
            assert person.get("/hilum/api/visitor").json()["role"] == "technologist"
            assert cli.main(["users", "remove", "visiting.one"]) == 0
            assert person.get("/hilum/").status_code == 401
            assert person.get("/dicom-web/studies", auth=("visiting.one", password)).status_code == 403
            assert log_in(person, "visiting.one", password).status_code == 403
        capsys.readouterr()
        assert cli.main(["audit", "show", "--since", "5m", "--json"]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        done = [entry["action"] for entry in told if entry["detail"] == "visiting.one"]
        assert done == ["users add", "users role", "users remove"]
        assert cli.main(["audit", "verify"]) == 0, "the command line and the plugin make one chain"


@pytest.mark.one_orthanc(reason="each server counts wrong passwords by itself")
def test_wrong_passwords_are_slowed_down_and_sessions_go_on(guarded: Node) -> None:
    with as_person(guarded, "radiologist") as person, httpx.Client(base_url=guarded.settings.http_url) as guesser:
        answers = [log_in(guesser, "radiologist", "wrong password") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [403] * 5 + [503] * 2
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 30
        assert person.get("/dicom-web/studies").status_code == 200
        assert guarded.http.get("/instances").status_code == 200
    guarded.wait(lambda: as_one_try(guarded), "the right password to be looked at again", 40)


def as_one_try(guarded: Node) -> bool:
    time.sleep(1)
    with httpx.Client(base_url=guarded.settings.http_url, trust_env=False) as client:
        return log_in(client, "radiologist").status_code == 303


def test_what_was_seen_is_in_the_audit_log_without_a_patient(guarded: Node, study: Dataset) -> None:
    uid = str(study.StudyInstanceUID)
    with as_person(guarded, "radiologist") as person:
        before = len(entries(guarded))
        forwarded = {"X-Forwarded-For": "10.1.2.3"}
        for path in ("/hilum/", "/hilum/rows", "/hilum/rows", f"/dicom-web/studies/{uid}/metadata"):
            assert person.get(path, headers=forwarded).status_code == 200
        for _ in range(3):
            person.get(f"/dicom-web/studies/{uid}/series", params={"PatientName": str(study.PatientName)})
        person.get("/instances")
        person.post("/hilum/logout", headers={"Origin": guarded.settings.http_url})
        assert person.get("/hilum/").status_code == 401
    seen = [(e["who"], e["action"], e["study"], e["address"], e["outcome"]) for e in entries(guarded)[before:]]
    assert seen == [
        ("radiologist", "view_worklist", "", "10.1.2.3", "done"),
        ("radiologist", "view_study", uid, "10.1.2.3", "done"),
        ("radiologist", "view_study", uid, "127.0.0.1", "done"),
        ("radiologist", "orthanc", "", "127.0.0.1", "refused"),
        ("radiologist", "log_out", "", "127.0.0.1", "done"),
    ]
    written = b"".join(file.read_bytes() for file in audit_files.files_of(guarded.settings.audit))
    for secret in (study.PatientName, study.PatientID, PASSWORD, study.get("AccessionNumber") or PASSWORD):
        assert str(secret).encode() not in written
    assert audit_chain.verify(guarded.settings.audit).faults == ()


def test_sessions_and_the_chain_outlive_a_restart(guarded: Node, study: Dataset) -> None:
    with as_person(guarded, "radiologist") as person, as_person(guarded, "admin") as leaving:
        ended = "; ".join(f"{name}={value}" for name, value in leaving.cookies.items())
        assert leaving.get("/dicom-web/studies", headers={"Cookie": ended}).status_code == 200
        leaving.post("/hilum/logout", headers={"Origin": guarded.settings.http_url})
        restart(guarded)
        assert person.get("/dicom-web/studies").status_code == 200
        assert leaving.get("/dicom-web/studies", headers={"Cookie": ended}).status_code == 403
    assert audit_chain.verify(guarded.settings.audit).faults == ()


def test_the_answers_cost_little_more_than_without_a_guard(guarded: Node, study: Dataset) -> None:
    with as_person(guarded, "radiologist") as person:
        person.get("/dicom-web/studies")
        took = []
        for _ in range(200):
            began = time.perf_counter()
            person.get("/hilum/static/login.css")
            took.append(time.perf_counter() - began)
    assert sorted(took)[100] < 0.02, "half of the answers"


def test_files_with_secrets_are_their_owners_alone(guarded: Node) -> None:
    home = guarded.settings.home
    names = ["sessions.sqlite", "orthanc.json"]
    if is_cluster(guarded.settings):
        names = ["cluster.toml", "cluster/orthanc-1.orthanc.json", "cluster/orthanc-2.orthanc.json"]
    private = [home / name for name in ("users.json", "credentials.json", *names)]
    for path in [*private, *(home / "audit").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert PASSWORD.encode() not in b"".join(path.read_bytes() for path in private)
    ours = os.fsencode(load_credentials(guarded.settings.credentials).password)
    assert not [path for path in private if path.name.endswith("orthanc.json") and ours in path.read_bytes()]

"""Attacks on HTTP: through nginx and TLS as from another machine, and on Orthanc as from this one."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from fortress import NAME, NEIGHBOUR, PROXY_SECRET, Callers, command, fortress, https, is_alive, radiograph, store
from running_node import Node

from orthanc_plugin.access import accounts, audit_files
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import node
from orthanc_plugin.hosting.addresses import ADDRESSES
from orthanc_plugin.trust import TlsFiles, read_certificate

pytestmark = pytest.mark.node

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with fortress(tmp_path_factory.mktemp("closed") / "home") as made:
        accounts.add_user(made.settings.users, "anna", Role.RADIOLOGIST, PASSWORD, taken=frozenset())
        made.wait(lambda: answers(made), "HTTPS", 20)
        yield made


@pytest.fixture
def outside(closed: Node) -> Iterator[httpx.Client]:
    """Somebody on another machine; and afterwards the node is as it was."""
    pid = node.running_pid(closed.settings)
    with https(closed) as client:
        yield client
    assert is_alive(closed, Callers(closed.settings.home).neighbour())
    assert node.running_pid(closed.settings) == pid, "Orthanc is the same process"
    assert answers(closed)


def answers(closed: Node) -> bool:
    with https(closed) as client, suppress(httpx.TransportError):
        return client.get("/hilum/login").status_code == 200
    return False


def log_in(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")
    answer = client.post("/hilum/login", data={"name": "anna", "password": PASSWORD}, headers={"Origin": origin})
    assert answer.status_code == 303, answer.text


def encrypted(closed: Node) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=TlsFiles(closed.settings.tls).authority)
    plain = socket.create_connection(("127.0.0.1", closed.settings.https_port), timeout=60)
    return context.wrap_socket(plain, server_hostname="localhost")


def said(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(OSError, ssl.SSLError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


# --- TLS -------------------------------------------------------------------------------------------------------------
def test_http_leaves_this_machine_by_tls_alone(closed: Node, outside: httpx.Client) -> None:
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    for address in [a for a in addresses if "." in a][:1]:
        answer = httpx.get(f"http://{address}:{closed.settings.http_port}/hilum/login", trust_env=False)
        assert answer.status_code == 401, "Orthanc answers to this machine alone"
        assert b"password" not in answer.content
        url = f"https://{address}:{closed.settings.https_port}/hilum/login"
        reached = httpx.get(url, verify=False, trust_env=False)  # noqa: S501  (no name of the certificate's)
        assert reached.status_code == 200
    plain = httpx.get(f"http://127.0.0.1:{closed.settings.https_port}/hilum/login", trust_env=False)
    assert plain.status_code == 400


def test_a_name_that_the_certificate_has_not_is_refused_by_whoever_asks(closed: Node, outside: httpx.Client) -> None:
    context = ssl.create_default_context(cafile=TlsFiles(closed.settings.tls).authority)
    for name, right in ((NAME, True), ("evil.example.org", False)):
        with socket.create_connection(("127.0.0.1", closed.settings.https_port)) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=name):
                    assert right
            except ssl.SSLCertVerificationError:
                assert not right


def test_what_a_browser_is_told_by_tls(closed: Node, outside: httpx.Client) -> None:
    log_in(outside)
    cookie = next(cookie for cookie in outside.cookies.jar if cookie.name.startswith("hilum_"))
    assert cookie.secure
    paths = ["/", "/hilum/login", "/hilum/", "/hilum/nothing", "/hilum/static/worklist.css", "/hilum/api/visitor",
             "/dicom-web/studies", "/instances", "/ohif/"]  # fmt: skip
    for path in paths:
        headers = outside.get(path).headers
        for name in ("strict-transport-security", "x-content-type-options", "referrer-policy", "x-frame-options",
                     "cross-origin-resource-policy"):  # fmt: skip
            assert len(headers.get_list(name)) == 1, (path, name, headers)
        assert headers["strict-transport-security"] == "max-age=31536000"
        kept = headers["cache-control"]
        assert "no-store" in kept or "no-cache" in kept, (path, kept)
        assert "nginx/" not in headers.get("server", "")
        if path.startswith("/hilum") or path == "/":
            policy = headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "frame-ancestors" in policy


def test_in_clear_a_browser_is_told_the_same_but_to_come_back_by_tls(closed: Node, outside: httpx.Client) -> None:
    for path in ("/", "/hilum/login", "/hilum/nothing", "/hilum/static/worklist.css", "/ohif/"):
        headers = closed.http.get(path).headers
        assert "strict-transport-security" not in headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "frame-ancestors" in headers["content-security-policy"]


def test_a_renewed_certificate_is_taken_up_without_a_restart(closed: Node, outside: httpx.Client) -> None:
    def shown() -> str:
        with encrypted(closed) as connection:
            return str(connection.getpeercert(binary_form=True))

    before = shown()
    assert command(closed.settings.home, "renew", names=[]) == 0
    closed.wait(lambda: shown() != before, "the renewed certificate", 15)
    assert NAME in read_certificate(TlsFiles(closed.settings.tls).certificate).names


def test_an_entrance_that_is_killed_is_started_again(closed: Node, outside: httpx.Client) -> None:
    pid = int((closed.settings.entrance / "nginx.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    closed.wait(
        lambda: (closed.settings.entrance / "nginx.pid").read_text() != f"{pid}\n" and answers(closed), "nginx", 40
    )


def test_mutual_tls_lets_in_nobody_without_a_certificate(tmp_path: Path) -> None:
    with fortress(tmp_path / "home", https="mutual", workers="0") as mutual:
        clients = TlsFiles(mutual.settings.tls).clients
        context = ssl.create_default_context(cafile=TlsFiles(mutual.settings.tls).authority)
        url = f"https://localhost:{mutual.settings.https_port}/hilum/login"

        def status() -> int:
            with suppress(httpx.TransportError):
                return httpx.get(url, verify=context, trust_env=False).status_code
            return 0

        mutual.wait(lambda: status() == 400, "HTTPS", 20)
        Callers(mutual.settings.home).of_another_authority(tmp_path)
        context.load_cert_chain(tmp_path / "shown.crt", tmp_path / "shown.key")
        assert status() == 400
        context.load_cert_chain(clients / f"{NEIGHBOUR}.crt", clients / f"{NEIGHBOUR}.key")
        assert status() == 200


# --- without a log-in ------------------------------------------------------------------------------------------------
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "TRACE")
OF_ORTHANC = ("/instances", "/studies", "/patients", "/series", "/changes", "/system", "/tools/find", "/tools/lookup",
              "/tools/execute-script", "/tools/reset", "/tools/shutdown", "/modalities", "/peers", "/plugins", "/jobs",
              "/app/explorer.html", "/dicom-web/studies", "/dicom-web/series", "/dicom-web/instances", "/wado",
              "/dicom-web/servers", "/ohif/", "/ohif/viewer", "/webdav", "/statistics", "/exports")  # fmt: skip


def test_without_a_log_in_every_address_is_refused_by_every_method(closed: Node, outside: httpx.Client) -> None:
    ours = [re.sub("<[a-z]+>", "1.2.3", f"/hilum/{address.path}") for address in ADDRESSES if address.action]
    assert len(ours) > 15
    for path in (*ours, *OF_ORTHANC, "/hilum/nothing", "/nothing"):
        for method in METHODS:
            answer = outside.request(method, path, headers={"Origin": str(outside.base_url)})
            assert answer.status_code in (400, 401, 403, 404, 405, 501), f"{method} {path}: {answer.status_code}"
            if method == "GET":
                assert answer.status_code in (401, 403), f"{path}: {answer.status_code}"


FORGED = [
    {"X-Hilum-User": "anna", "X-Hilum-Groups": "pacs-admins"},
    {"X-Hilum-User": "anna", "X-Hilum-Groups": "pacs-admins", "X-Hilum-Proxy-Secret": "guess"},
    {"X-Hilum-User": "anna", "X-Hilum-Groups": "pacs-admins", "X-Hilum-Proxy-Secret": PROXY_SECRET[:-1]},
    {"X-Hilum-Proxy-Secret": ""},
    {"X-Forwarded-User": "hilum"},
    {"X-Remote-User": "hilum", "Remote-User": "hilum"},
]


@pytest.mark.parametrize("headers", FORGED, ids=str)
def test_forged_headers_of_a_proxy_let_nobody_in(closed: Node, outside: httpx.Client, headers: dict[str, str]) -> None:
    for path in ("/instances", "/dicom-web/studies", "/hilum/", "/hilum/admin", "/hilum/api/visitor"):
        assert outside.get(path, headers=headers).status_code in (401, 403), path


def test_the_proxy_s_headers_let_in_by_their_groups_alone(closed: Node, outside: httpx.Client) -> None:
    def asked(path: str, groups: str) -> int:
        told = {"X-Hilum-Proxy-Secret": PROXY_SECRET, "X-Hilum-User": "Bob@example.org", "X-Hilum-Groups": groups}
        return outside.get(path, headers=told).status_code

    assert [asked("/hilum/", groups) for groups in ("readers", "pacs-admins,x", "others", "")] == [200, 200, 403, 403]
    assert [asked("/instances", groups) for groups in ("readers", "pacs-admins", "others")] == [403, 200, 403]
    assert asked("/dicom-web/studies", "readers") == 200
    time.sleep(0.3)
    entries = list(audit_files.read(closed.settings.audit))
    assert {e["role"] for e in entries if e["who"] == "bob@example.org" and e["outcome"] == "done"} == {
        "radiologist",
        "admin",
    }
    assert any(e["who"] == "bob@example.org" and e["outcome"] == "refused" for e in entries)


def test_passwords_cannot_be_tried_out_through_the_entrance(closed: Node, outside: httpx.Client) -> None:
    origin = str(outside.base_url).rstrip("/")
    answers_ = [
        outside.post("/hilum/login", data={"name": "bert", "password": f"wrong {n}"}, headers={"Origin": origin})
        for n in range(7)
    ]
    assert [answer.status_code for answer in answers_] == [403] * 5 + [503] * 2
    spoofed = outside.post(
        "/hilum/login", data={"name": "bert", "password": "x"},
        headers={"Origin": origin, "X-Forwarded-For": "203.0.113.9"},
    )  # fmt: skip
    assert spoofed.status_code == 503, "nginx says from where it is asked, whatever the request says"


# --- by a page of another site ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, {"Origin": "https://evil.example"},
     {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}, {}, {"Content-Type": "text/plain"},
     {"X-Requested-With": "x", "Origin": "https://evil.example"}, {"X-HTTP-Method-Override": "DELETE"}],
    ids=str,
)  # fmt: skip
def test_another_site_s_page_changes_nothing(closed: Node, outside: httpx.Client, headers: dict[str, str]) -> None:
    log_in(outside)
    for path in ("/hilum/mark", "/hilum/filters", "/hilum/api/retry", "/hilum/api/reread", "/hilum/look"):
        body = {"study_instance_uid": "1.2.3", "action": "claim"}
        assert outside.post(path, data=body, headers=headers).status_code in (403, 405), path
    for method, path in (("POST", "/instances"), ("DELETE", "/studies/x"), ("POST", "/dicom-web/studies")):
        assert outside.request(method, path, headers=headers).status_code == 403, path


# --- ways that lead elsewhere ----------------------------------------------------------------------------------------
LEADING = [
    "/hilum/static/../routes.py", "/hilum/static/..%2f..%2fplugin.py", "/hilum/static/%2e%2e/%2e%2e/plugin.py",
    "/hilum/static/....//....//plugin.py", "/hilum/static//etc/passwd",
    "/hilum/static/vendor/../../page.py", "/hilum/admin/models/../../../README.md",
    "/hilum/admin/models/lung_fields/..%2f..%2f..%2f..%2fetc/passwd",
    "/hilum/admin/models/lung_fields/1.0.0/..%2f..%2fLICENSE", "/hilum/admin/models/..%2f..%2fvar/1/credentials.json",
    "/ohif/..%2f..%2fcredentials.json", "/ohif/../manifest.json",
    "/ohif/%2e%2e/%2e%2e/etc/passwd", "/ohif/manifest.json", "/ohif/complete", "/ohif/....//manifest.json",
    "/ohif/..%5c..%5ccredentials.json", "/hilum/studies/..%2f..%2fx/images/1.2/heat_map",
    "/hilum/thumbnails/..%2f..%2fcredentials.json", "/hilum/studies/1.2.3/documents/..%2f..%2fx",
]  # fmt: skip


@pytest.mark.parametrize("path", LEADING)
@pytest.mark.parametrize("way", ["entrance", "orthanc"])
def test_no_path_leads_to_a_file_that_is_not_offered(closed: Node, outside: httpx.Client, path: str, way: str) -> None:
    own = closed.credentials
    basic = httpx.BasicAuth(own.user, own.password)._auth_header
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {basic}\r\nConnection: close\r\n\r\n".encode()
    if way == "entrance":
        with encrypted(closed) as connection:
            connection.sendall(request)
            answer = said(connection)
    else:
        with socket.create_connection(("127.0.0.1", closed.settings.http_port), timeout=20) as connection:
            connection.sendall(request)
            answer = said(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 400
    assert status in (303, 400, 401, 403, 404) or (status == 200 and b"OHIF" in body and path.startswith("/ohif/")), (
        head
    )
    for secret in (own.password, "import annotations", "root:", "GNU AFFERO", '"assets"'):
        assert secret.encode() not in body, secret


# --- who sends too much, or too slowly -------------------------------------------------------------------------------
def test_a_head_or_a_body_beyond_every_measure_is_refused(closed: Node, outside: httpx.Client) -> None:
    for headers in ({"X": "a" * 100_000}, {"Cookie": "a=" + "b" * 100_000}, {f"X-{n}": "a" * 1000 for n in range(100)}):
        assert outside.get("/hilum/login", headers=headers).status_code in (400, 431, 494)
    with encrypted(closed) as connection:
        with suppress(OSError):  # it is closed in the middle
            connection.sendall(b"GET /hilum/login?" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert said(connection).startswith(b"HTTP/1.1 414")
    with encrypted(closed) as connection:
        connection.sendall(b"POST /instances HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert said(connection).startswith(b"HTTP/1.1 413")
    large = outside.post("/hilum/login", content=b"name=" + b"a" * 1_000_000, headers={"Origin": str(outside.base_url)})
    assert large.status_code in (403, 413)


def test_smuggled_and_broken_requests_are_refused(closed: Node, outside: httpx.Client) -> None:
    head = b"POST /hilum/login HTTP/1.1\r\nHost: localhost\r\n"
    hidden = b"GET /instances HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for request in (
        head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        head + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + hidden,
        b"GET /hilum/login HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /hilum/login\r\n\r\n",
        b"\x16\x03\x01" + secrets.token_bytes(200),
        b"GET http://evil.example/instances HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ):
        with encrypted(closed) as connection:
            connection.settimeout(20)
            connection.sendall(request)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            found = said(connection)
        assert b"[]" not in found.partition(b"\r\n\r\n")[2][:10]
        assert b"ParentStudy" not in found


def test_who_sends_slowly_holds_up_nobody_else(closed: Node, outside: httpx.Client) -> None:
    """150 connections of one address that never end their request, half in the head and half in the body."""
    log_in(outside)
    with ExitStack() as held:
        slow = [held.enter_context(encrypted(closed)) for _ in range(150)]
        for number, connection in enumerate(slow):
            body = b"POST /hilum/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nname="
            connection.sendall(body if number % 2 else b"GET /hilum/login HTTP/1.1\r\nHost: local")
        took = []
        for _ in range(20):
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(b"a")
            began = time.monotonic()
            assert outside.get("/dicom-web/studies").status_code == 200
            took.append(time.monotonic() - began)
        assert max(took) < 3, took
        ds = radiograph()
        assert store(closed, Callers(closed.settings.home).neighbour(), ds)
        closed.wait_for(str(ds.StudyInstanceUID))

"""nginx as docs/security.md shows it, with a provider that a test plays: who is let in, and what a browser claims."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from fortress import PROXY_SECRET
from running_node import Node, free_port, start_node

from orthanc_plugin.commands import node
from orthanc_plugin.commands.authority import issue_to_server, make_authority
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.hosting.entrance import nginx
from orthanc_plugin.settings import REPOSITORY

pytestmark = pytest.mark.node

PEOPLE = {"anna": "pacs-readers,staff", "ivan": "pacs-admins", "eve": "gardeners"}


class Provider(BaseHTTPRequestHandler):
    """As much of oauth2-proxy as nginx asks for: whose cookie it is, and the page to log in."""

    def do_GET(self) -> None:
        name = self.headers.get("Cookie", "").partition("oauth2=")[2]
        if self.path == "/oauth2/auth" and name not in PEOPLE:
            self.send_response(401)
        elif self.path == "/oauth2/auth":
            self.send_response(202)
            self.send_header("X-Auth-Request-Email", f"{name}@example.org")
            self.send_header("X-Auth-Request-Groups", PEOPLE[name])
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, httpx.Client]]:
    """A node behind the documented proxy, and a client of that proxy."""
    folder = tmp_path_factory.mktemp("proxied")
    site = {"workers": "0", "proxy_secret": PROXY_SECRET, "proxy_logout": "/oauth2/sign_out",
            "proxy_groups": "pacs-readers=radiologist pacs-admins=admin"}  # fmt: skip
    settings, _process = start_node(folder / "home", **site)
    try:
        credentials = load_credentials(settings.credentials)
        with node.http(settings, credentials) as client, documented_proxy(folder, settings.http_port) as url:
            certified = httpx.Client(base_url=url, verify=False, trust_env=False)  # noqa: S501  (TLS is tested elsewhere)
            with certified as outside:
                yield Node(settings, credentials, client), outside
    finally:
        node.stop(settings)


@contextmanager
def documented_proxy(folder: Path, http_port: int) -> Iterator[str]:
    program = nginx()
    if program is None:
        pytest.skip("nginx is not installed: apt install nginx-light")
    from datetime import UTC, datetime

    now, port = datetime.now(UTC), free_port()
    issued = issue_to_server(make_authority("A", now), ["localhost"], now)
    (folder / "crt").write_bytes(issued.certificate)
    (folder / "key").write_bytes(issued.key)
    (folder / "secret.conf").write_text(f'proxy_set_header X-Hilum-Proxy-Secret "{PROXY_SECRET}";')
    provider = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    text = (REPOSITORY / "docs" / "security.md").read_text("utf-8")
    (shown,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    for old, new in (
        (
            "listen 443 ssl;",
            f"listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/crt; ssl_certificate_key {folder}/key;",
        ),
        ("/etc/nginx/hilum-secret.conf", f"{folder}/secret.conf"),
        ("127.0.0.1:4180", f"127.0.0.1:{provider.server_port}"),
        ("127.0.0.1:8042", f"127.0.0.1:{http_port}"),
    ):
        assert old in shown, old
        shown = shown.replace(old, new)
    user = "user root root;" if os.geteuid() == 0 else ""
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; {user} pid {folder}/pid; error_log {folder}/error.log; events {{}} http {{ {shown} }}"
    )
    process = subprocess.Popen([program, "-c", str(file), "-p", str(folder)], start_new_session=True)
    try:
        url = f"https://127.0.0.1:{port}"
        for _ in range(100):
            with suppress(httpx.TransportError):
                httpx.get(f"{url}/oauth2/x", verify=False, trust_env=False)  # noqa: S501
                break
        yield url
    finally:
        process.terminate()
        process.wait(10)
        provider.shutdown()
        shutil.rmtree(folder / "proxy_temp", ignore_errors=True)


def asked(outside: httpx.Client, path: str, person: str, **headers: str) -> int:
    cookie = {"Cookie": f"oauth2={person}"} if person else {}
    return outside.get(path, headers={**cookie, **{n.replace("_", "-"): v for n, v in headers.items()}}).status_code


def test_people_are_let_in_by_the_groups_that_their_provider_tells(proxied: tuple[Node, httpx.Client]) -> None:
    _, outside = proxied
    assert [asked(outside, "/hilum/", person) for person in ("anna", "ivan", "eve")] == [200, 200, 403]
    assert [asked(outside, "/instances", person) for person in ("anna", "ivan", "eve")] == [403, 200, 403]
    told = outside.get("/hilum/api/visitor", headers={"Cookie": "oauth2=anna"}).json()
    assert (told["name"], told["role"]) == ("anna@example.org", "radiologist")


def test_who_has_not_logged_in_is_led_to_the_provider_and_sees_nothing(proxied: tuple[Node, httpx.Client]) -> None:
    _, outside = proxied
    answer = outside.get("/dicom-web/studies")
    assert answer.content == b"", "the page of the provider"
    for claimed in ("anna", "nobody"):
        forged = {"X-Hilum-User": claimed, "X-Hilum-Groups": "pacs-admins", "X-Hilum-Proxy-Secret": PROXY_SECRET}
        assert outside.get("/instances", headers=forged).content == b""


def test_what_a_browser_claims_of_itself_does_not_pass_the_proxy(proxied: tuple[Node, httpx.Client]) -> None:
    behind, outside = proxied
    own = behind.credentials
    for person, expected in (("eve", 403), ("anna", 403)):
        claims = {"X_Hilum_User": "ivan", "X_Hilum_Groups": "pacs-admins", "X_Hilum_Proxy_Secret": "x"}
        assert asked(outside, "/instances", person, **claims) == expected
        basic = httpx.BasicAuth(own.user, own.password)._auth_header
        assert asked(outside, "/instances", person, Authorization=basic) == expected


def test_log_out_leads_to_the_provider(proxied: tuple[Node, httpx.Client]) -> None:
    _, outside = proxied
    headers = {"Cookie": "oauth2=anna", "Origin": str(outside.base_url).rstrip("/")}
    answer = outside.post("/hilum/logout", headers=headers)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/oauth2/sign_out")

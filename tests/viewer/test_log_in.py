"""Logging in and out in a real browser, and what a page of another site can do to somebody who is logged in."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import Viewer
from playwright.sync_api import BrowserContext, Page, expect
from running_node import ARTEFACTS, Node, add_user, remove_user, running_node

from models.phantom import chest
from orthanc_plugin.access import audit_files
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import Credentials

pytestmark = [pytest.mark.node, pytest.mark.viewer]

PASSWORD = "correct horse battery"
PEOPLE = {"radiologist": Role.RADIOLOGIST, "admin": Role.ADMIN}


@pytest.fixture(scope="module")
def guarded(node_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(node_kind, tmp_path_factory.mktemp("guarded") / "home") as running:
        for name, role in PEOPLE.items():
            add_user(running.settings, name, role, PASSWORD)
        yield running


@pytest.fixture(scope="module")
def study(guarded: Node) -> str:
    sent = modality.radiograph(chest(5).pixels, Exposure(seed=uuid.uuid4().hex))
    list(modality.send([sent], "127.0.0.1", guarded.settings.dicom_port, guarded.settings.ae_title))
    assert guarded.wait_for(str(sent.StudyInstanceUID))["status"] == "done"
    return str(sent.StudyInstanceUID)


@pytest.fixture
def browser(chromium: Callable[[str, Credentials], Viewer]) -> Callable[[str, Credentials], Viewer]:
    """The one browser of the session: a process has no second one."""
    return chromium


@contextmanager
def window(guarded: Node, browser: Callable[[str, Credentials], Viewer]) -> Iterator[Viewer]:
    """A browser that nobody has logged in with."""
    nobody = Credentials("nobody", "-", "-", "-")
    with browser(guarded.settings.http_url, nobody) as opened:
        yield opened


def log_in(page: Page, name: str = "radiologist", password: str = PASSWORD) -> None:
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def test_a_link_to_a_study_leads_through_the_log_in_to_its_picture(
    guarded: Node, study: str, browser: Callable[[str, Credentials], Viewer]
) -> None:
    with window(guarded, browser) as viewer:
        page = viewer.page
        page.goto(f"{guarded.settings.http_url}/ohif/viewer?StudyInstanceUIDs={study}")
        expect(page).to_have_title("Log in - Hilum")
        expect(page.get_by_label("User name")).to_be_focused()
        expect(page.locator("body")).to_contain_text("not a medical device")
        page.emulate_media(color_scheme="dark")
        viewer.screenshot("log_in_dark")
        page.keyboard.type("radiologist")
        page.keyboard.press("Tab")
        page.keyboard.type("a wrong password")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("The name or the password is wrong")
        page.emulate_media(color_scheme="light")
        viewer.screenshot("log_in_refused")
        viewer.console.clear()
        log_in(page)
        page.wait_for_url(f"**/ohif/viewer?StudyInstanceUIDs={study}")
        viewer.settle()
        assert [pane["picture"] for pane in viewer.panes()] == [True]
        assert viewer.panes()[0]["grays"] > 50
        assert viewer.console == []
        assert viewer.foreign_requests() == []
    opened = [entry for entry in audit_files.read(guarded.settings.audit) if entry["study"] == study]
    assert [(e["who"], e["action"]) for e in opened if e["who"] == "radiologist"] == [("radiologist", "view_study")]


def test_the_log_in_page_works_on_a_phone_without_javascript(guarded: Node, browser: object) -> None:
    with launch_plain(browser, guarded) as context:
        page = context.new_page()
        page.goto(f"{guarded.settings.http_url}/hilum/")
        page.screenshot(path=ARTEFACTS / "log_in_phone.png")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        log_in(page)
        expect(page.locator("header")).to_contain_text("radiologist, radiologist")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("alert")).to_contain_text("You have logged out")


@contextmanager
def launch_plain(browser: object, guarded: Node) -> Iterator[BrowserContext]:
    """A phone whose browser runs no script."""
    with browser(guarded.settings.http_url, Credentials("-", "-", "-", "-")) as viewer:  # type: ignore[operator]
        chromium = viewer.page.context.browser
        context = chromium.new_context(viewport={"width": 360, "height": 740}, java_script_enabled=False)
        try:
            yield context
        finally:
            context.close()


def test_after_log_out_the_way_back_shows_no_patient(
    guarded: Node, study: str, browser: Callable[[str, Credentials], Viewer]
) -> None:
    with window(guarded, browser) as viewer:
        page = viewer.page
        page.goto(f"{guarded.settings.http_url}/hilum/")
        log_in(page)
        row = page.locator(f'[id="study-{study}"]')
        expect(row).to_be_visible()
        viewer.screenshot("logged_in")
        picture = page.locator(".picture img").first.get_attribute("src")
        assert page.evaluate("src => fetch(src).then(a => a.status)", picture) == 200
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("alert")).to_contain_text("You have logged out")
        page.go_back()
        expect(page).to_have_title("Log in - Hilum")
        expect(row).to_have_count(0)
        assert page.context.cookies() == []
        page.goto(f"{guarded.settings.http_url}{picture}")
        assert "image" not in str(page.evaluate("document.contentType"))


def test_the_cookie_is_out_of_reach_of_scripts(guarded: Node, browser: Callable[[str, Credentials], Viewer]) -> None:
    with window(guarded, browser) as viewer:
        viewer.page.goto(f"{guarded.settings.http_url}/hilum/")
        log_in(viewer.page)
        expect(viewer.page.locator("header")).to_contain_text("radiologist")
        assert viewer.page.evaluate("document.cookie") == ""
        (cookie,) = viewer.page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"], cookie["expires"]) == (True, "Lax", "/", -1)


def test_a_screen_that_somebody_left_is_cleared_when_the_session_ends(
    guarded: Node, study: str, browser: Callable[[str, Credentials], Viewer]
) -> None:
    add_user(guarded.settings, "leaving", Role.RADIOLOGIST, PASSWORD)
    with window(guarded, browser) as viewer:
        page = viewer.page
        page.goto(f"{guarded.settings.http_url}/hilum/")
        log_in(page, "leaving")
        expect(page.locator(f'[id="study-{study}"]')).to_be_visible()
        reading = page.context.new_page()
        reading.goto(f"{guarded.settings.http_url}/ohif/viewer?StudyInstanceUIDs={study}")
        reading.wait_for_function("window.hilum?.status() && !window.hilum.status().busy", timeout=90_000)
        remove_user(guarded.settings, "leaving")
        page.bring_to_front()
        expect(page).to_have_title("Logged out - Hilum", timeout=60_000)
        expect(page.get_by_role("alert")).to_contain_text("nothing is announced any more")
        expect(page.locator(f'[id="study-{study}"] .name')).to_be_hidden()
        reading.evaluate(f"() => {{ const x = new XMLHttpRequest(); x.open('GET', '/dicom-web/studies/{study}/series');"
                         " x.send(); }")  # fmt: skip
        expect(reading).to_have_title("Log in - Hilum", timeout=60_000)
        assert f"StudyInstanceUIDs%3D{study}" in reading.url
        page.get_by_role("link", name="Log in again").click()
        expect(page).to_have_title("Log in - Hilum")


ATTACKS = """<!doctype html><title>other</title>
<form id="retry" method="post" action="{node}/hilum/api/retry" target="a"><input name="all" value="yes"></form>
<form id="leave" method="post" action="{node}/hilum/logout" target="b"></form>
<form id="enter" method="post" action="{node}/hilum/login" target="c">
<input name="name" value="admin"><input name="password" value="{password}"></form>
<form id="plain" method="post" action="{node}/tools/reset" enctype="text/plain" target="d"></form>
<iframe name="a"></iframe><iframe name="b"></iframe><iframe name="c"></iframe><iframe name="d"></iframe>
<iframe id="framed" src="{node}/hilum/"></iframe>
<img src="{node}/studies/{study}?_method=DELETE"><img id="picture" src="{node}{picture}">
<script src="{node}/hilum/api/worklist"></script>
<script>
window.tried = (async () => {{
  const tell = (url, how) => fetch(url, how).then(a => a.type === 'opaque' ? 'opaque' : a.status, () => 'blocked');
  const told = [];
  for (const [url, how] of [
    ['/hilum/api/retry', {{ method: 'POST', mode: 'no-cors', body: new URLSearchParams({{ all: 'yes' }}) }}],
    ['/hilum/api/retry', {{ method: 'POST', headers: {{ 'X-Requested-With': 'x' }} }}],
    ['/studies/{study}', {{ method: 'DELETE' }}],
    ['/hilum/api/worklist', {{}}],
    ['/dicom-web/studies', {{ mode: 'cors' }}],
  ]) told.push(await tell('{node}' + url, {{ credentials: 'include', ...how }}));
  for (const form of document.forms) form.submit();
  return told;
}})();
</script>"""


@contextmanager
def other_site(content: str) -> Iterator[str]:
    """Another origin: the same host, another port, so that even a strict cookie would be sent."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def test_a_page_of_another_site_changes_and_sees_nothing(
    guarded: Node, study: str, browser: Callable[[str, Credentials], Viewer]
) -> None:
    (found,) = guarded.http.post("/tools/lookup", content=study).json()
    row = guarded.row(study)
    assert row is not None
    picture = row["images"][0]["thumbnail"]
    with window(guarded, browser) as viewer:
        page = viewer.page
        page.goto(f"{guarded.settings.http_url}/hilum/")
        log_in(page, "admin")
        expect(page.locator("header")).to_contain_text("admin")
        page.wait_for_load_state("networkidle")  # what our own page loads is no answer to the other site
        before = page.context.cookies()
        page.goto("about:blank")  # the worklist asks for nothing any more
        content = ATTACKS.format(node=guarded.settings.http_url, study=found["ID"], picture=picture, password=PASSWORD)
        answered: dict[str, int] = {}
        page.context.on(
            "response", lambda answer: answered.update({f"{answer.request.method} {answer.url}": answer.status})
        )
        with other_site(content) as address:
            page.goto(address)
            told = page.evaluate("window.tried")
            page.wait_for_timeout(1500)
            assert page.evaluate("document.getElementById('picture').naturalWidth") == 0
        assert told == ["blocked"] * 5
        home = guarded.settings.http_url
        sent = {key.replace(home, ""): status for key, status in answered.items() if home in key}
        for request in ("POST /hilum/api/retry", "POST /hilum/logout", "POST /hilum/login", "POST /tools/reset"):
            assert sent[request] == 403, sent
        assert sent[f"GET /studies/{found['ID']}?_method=DELETE"] == sent["GET /hilum/"] == 403
        # anybody may have the icon; what a browser asks before it sends is answered by Orthanc, and not with a yes
        assert {status for key, status in sent.items() if "/hilum/static/" not in key} <= {403, 404, 405}, sent
        assert page.context.cookies() == before, "nobody was logged out, or in as somebody else"
        page.goto(f"{home}/hilum/")
        expect(page.locator(f'[id="study-{study}"]')).to_be_visible()
    recorded = [e for e in audit_files.read(guarded.settings.audit) if e["who"] == "admin" and e["action"] == "retry"]
    assert {entry["outcome"] for entry in recorded} == {"refused"}

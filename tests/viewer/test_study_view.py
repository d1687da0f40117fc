"""A study's own page and the admin page, in a real browser on a real node."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Viewer
from playwright.sync_api import Page, expect
from pydicom.uid import JPEG2000Lossless
from running_node import ARTEFACTS, Node, start_node

from models.phantom import Pathology, chest
from orthanc_plugin.access import accounts, audit_files
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import Credentials, load_credentials

pytestmark = [pytest.mark.node, pytest.mark.viewer]

PASSWORD = "correct horse battery"
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text("utf-8")
HOSTILE = "<script>alert(1)</script>^\u05d3\u05d5\u05d3 \u202eabc"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    settings, _process = start_node(tmp_path_factory.mktemp("study") / "home")
    try:
        for role in (Role.RADIOLOGIST, Role.TECHNOLOGIST, Role.ADMIN):
            accounts.add_user(settings.users, role, role, PASSWORD, taken=frozenset())
        credentials = load_credentials(settings.credentials)
        with node.http(settings, credentials) as client:
            yield Node(settings, credentials, client)
    finally:
        node.stop(settings)


@pytest.fixture(scope="module")
def study(running: Node) -> str:
    """A read one, sent as JPEG 2000, which Orthanc cannot render, with a lateral image that is not read."""
    seed = uuid.uuid4().hex
    opacity = chest(3, pathologies=[Pathology("lung_opacity", right=False, size=0.8, height=0.75)])
    how = {"study": seed, "patient_name": HOSTILE, "patient_id": "P-7"}
    read = modality.radiograph(opacity.pixels, Exposure(seed=f"{seed}/1", **how))
    lateral = modality.radiograph(chest(7).pixels, Exposure(seed=f"{seed}/2", view="LL", **how))
    other = modality.radiograph(chest(8).pixels, Exposure(seed=f"{seed}/3", patient_name="Other^One", patient_id="P-7"))
    for ds in (other, modality.encode_as(read, JPEG2000Lossless), lateral):
        assert all(o.accepted for o in modality.send([ds], "127.0.0.1", running.settings.dicom_port, "HILUM"))
    uid = str(read.StudyInstanceUID)
    running.wait_for(str(other.StudyInstanceUID))
    running.wait(lambda: len((running.row(uid) or {"images": ()})["images"]) == 2, "both images")
    assert running.wait_for(uid)["status"] == "done"
    return uid


@pytest.fixture
def window(running: Node, chromium: Callable[[str, Credentials], Viewer]) -> Iterator[Open]:
    """Opens a page for somebody; an error of a script, or of the content security policy, fails the test."""
    contexts, errors = [], []

    def open_page(
        path: str, user: str = "radiologist", *, scheme: str = "dark", width: int = 1280, **how: object
    ) -> Page:
        context = nobody.page.context.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **how
        )
        contexts.append(context)
        if scheme == "light":  # which is chosen below View; a page is dark by itself
            here = f"{running.settings.http_url}/hilum"
            context.add_cookies([{"name": "hilum_look", "value": "theme:light", "url": here}])
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(f"{running.settings.http_url}{path}")
        page.get_by_label("User name").fill(user)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_load_state("networkidle")
        errors.clear()  # a page to log in is answered 401
        return page

    with chromium(running.settings.http_url, Credentials("nobody", "-", "-", "-")) as nobody:
        yield open_page
        for context in contexts:
            context.close()
    assert errors == []


def without_fault(page: Page, name: str) -> None:
    """Take a picture, and ask axe-core."""
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document)")["violations"]
    assert [(fault["id"], [n["html"] for n in fault["nodes"]]) for fault in found] == []


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 1280), ("dark", 390)])
def test_the_page_of_a_study_is_whole_and_accessible(window: Open, study: str, scheme: str, width: int) -> None:
    page = window(f"/hilum/studies/{study}", scheme=scheme, width=width, bypass_csp=True)
    expect(page.get_by_role("heading", name="Evidence")).to_be_visible()
    expect(page.locator(".disclaimer")).to_contain_text("not a medical device")
    expect(page.locator(".patient b")).to_have_text(re.compile(re.escape("<script>alert(1)</script>")))
    expect(page.locator(".doubt")).to_contain_text("another name")
    assert page.evaluate("document.querySelector('img.plain').naturalWidth") > 500, "the lateral, as Orthanc renders it"
    without_fault(page, f"study_{scheme}_{width}")


def test_marks_are_toggled_and_the_picture_is_windowed_and_zoomed(window: Open, study: str) -> None:
    page = window(f"/hilum/studies/{study}")
    picture = page.locator("svg.picture").first
    assert (
        page.evaluate("async () => (await fetch(document.querySelector('svg.picture image').href.baseVal)).status")
        == 200
    )
    outlines = picture.locator(".outlines")
    page.locator(".t-outlines").first.set_checked(True)
    expect(outlines).to_be_visible()
    page.locator(".t-outlines").first.set_checked(False)
    expect(outlines).to_be_hidden()
    part, before = picture.locator("feFuncR"), picture.screenshot()
    assert float(part.get_attribute("slope")) == pytest.approx(1.2)
    page.get_by_label("Window width").fill("50")
    assert float(part.get_attribute("slope")) == pytest.approx(2.4)
    assert picture.screenshot() != before
    page.get_by_role("button", name="Zoom in").click()
    assert picture.get_attribute("viewBox").split()[2] != "1024"
    expect(page.locator(".z-now")).to_have_text("150 %")
    picture.focus()
    page.keyboard.press("0")
    expect(page.locator(".z-now")).to_have_text("100 %")
    assert float(part.get_attribute("slope")) == pytest.approx(1.2)


def test_without_a_script_the_picture_stands_with_its_marks_to_be_toggled(window: Open, study: str) -> None:
    page = window(f"/hilum/studies/{study}", java_script_enabled=False)
    outlines = page.locator("svg.picture .outlines").first
    page.locator(".t-outlines").first.set_checked(False)
    expect(outlines).to_be_hidden()
    page.locator(".t-outlines").first.set_checked(True)
    expect(outlines).to_be_visible()
    expect(page.locator(".w-width").first).to_be_hidden()
    page.get_by_role("link", name="Content tree of the measurement report").first.click()
    expect(page.get_by_text("Imaging Measurement Report").first).to_be_visible()


def test_a_radiologist_notes_and_marks_on_the_page_and_comes_back_to_it(
    running: Node, window: Open, study: str
) -> None:
    page = window(f"/hilum/studies/{study}")
    page.get_by_label("Note", exact=True).fill("<b>compare</b>")
    page.get_by_role("button", name="Keep as note").click()
    expect(page).to_have_url(re.compile(f"/hilum/studies/{study}$"))
    expect(page.locator(".opinion").first).to_contain_text("<b>compare</b>")
    page.get_by_role("button", name=re.compile("^Disagree:")).first.click()
    expect(page.locator("td .opinion").first).to_contain_text("radiologist disagrees")
    page.get_by_role("button", name="Mark as read").click()
    expect(page.locator(".acts")).to_contain_text("by radiologist")
    page.get_by_role("button", name="Undo my last mark").click()
    expect(page.locator(".acts")).to_contain_text("Not read by a person")
    seen = [e for e in audit_files.read(running.settings.audit) if e["study"] == study and e["who"] == "radiologist"]
    assert {"view_study", "mark"} <= {entry["action"] for entry in seen}


def test_a_technologist_sees_the_study_and_marks_nothing(window: Open, study: str) -> None:
    page = window(f"/hilum/studies/{study}", "technologist")
    expect(page.get_by_role("heading", name="Evidence")).to_be_visible()
    expect(page.get_by_role("button", name="Mark as read")).to_have_count(0)
    address = page.url.partition("/hilum/")[0] + "/hilum/admin"
    assert page.context.request.get(address, headers={"Sec-Fetch-Site": "same-origin"}).status == 403


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 390)])
def test_the_admin_page_is_whole_and_accessible(window: Open, study: str, scheme: str, width: int) -> None:
    page = window("/hilum/admin", "admin", scheme=scheme, width=width, bypass_csp=True)
    expect(page.get_by_role("heading", name="This node is ready")).to_be_visible()
    assert "P-7" not in page.content()
    assert "alert(1)" not in page.content()
    without_fault(page, f"admin_{scheme}_{width}")
    page.get_by_role("link", name=re.compile("Card of chest_findings")).click()
    expect(page.get_by_role("heading", name=re.compile("chest_findings"))).to_be_visible()
    page.wait_for_function("[...document.images].every(image => image.naturalWidth > 0)")  # with its plots

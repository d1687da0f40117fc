"""The worklist page in a real browser: what a radiologist sees, and does by keys, mouse and without a script.

The README's picture of it is made here; ``HILUM_SCREENSHOTS=docs`` writes it there.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import night
import pytest
from browser import Viewer
from page_server import PASSWORD, Pages, add_study, finding, serve
from playwright.sync_api import Error, Page, expect
from running_node import ARTEFACTS

from orthanc_plugin.access import audit_files
from orthanc_plugin.access.accounts import add_user
from orthanc_plugin.access.roles import Role
from orthanc_plugin.credentials import Credentials
from orthanc_plugin.ledger import judging, marks, tasks
from orthanc_plugin.ledger.mark_history import history
from orthanc_plugin.ledger.tasks import TaskStatus
from orthanc_plugin.settings import REPOSITORY

pytestmark = [pytest.mark.viewer]

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text("utf-8")
UID = "1.2.840.99.1."
CRITICAL, URGENT, ROUTINE = f"{UID}101", f"{UID}104", f"{UID}106"
Open = Callable[..., Page]


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    with serve(tmp_path / "home") as running:
        yield running


@pytest.fixture
def window(pages: Pages, chromium: Callable[[str, Credentials], Viewer]) -> Iterator[Open]:
    """Opens the worklist for somebody; a page that wrote an error to its console fails the test."""
    contexts, errors = [], []

    def open_page(user: str = "ann", *, scheme: str = "dark", width: int = 1280, **options: object) -> Page:
        context = nobody.page.context.browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, **options
        )
        contexts.append(context)
        if scheme == "light":  # which is chosen below View; a page is dark by itself
            context.add_cookies([{"name": "hilum_look", "value": "theme:light", "url": f"{pages.url}/hilum"}])
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if "Content Security Policy" in m.text else None)
        page.goto(f"{pages.url}/hilum/")
        page.get_by_label("User name").fill(user)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_title("Reading worklist - Hilum")
        page.wait_for_load_state()
        return page

    with chromium(pages.url, Credentials("nobody", "-", "-", "-")) as nobody:
        yield open_page
        for context in contexts:
            context.close()
    assert errors == []


def fill(pages: Pages) -> None:
    """A night: two critical studies, one of them with ben; one past its limit, and every state."""
    pneumothorax = finding("pneumothorax", "present", 0.91, "right")
    add_study(pages, CRITICAL, "critical", "Pneumothorax 91 %, right", pneumothorax,
              finding("effusion", "undetermined", 0.4), minutes_ago=3, patient_name="Núñez de la Peña^María José",
              cautions=("ap_view", "bedside"))  # fmt: skip
    add_study(pages, f"{UID}102", "critical", "Pneumothorax 77 %, left", finding("pneumothorax"), minutes_ago=13)
    add_study(pages, f"{UID}103", "routine", "Nothing called present, 1 undetermined", finding("edema", "undetermined"),
              minutes_ago=560, patient_name="محمد^عبد الله بن عبد الرحمن")  # fmt: skip
    many = [finding(key) for key in ("lung_opacity", "effusion", "consolidation", "cardiomegaly")]
    add_study(pages, URGENT, "urgent", "Lung opacity 87 %, both sides", *many, minutes_ago=22,
              patient_name="Wolfeschlegelsteinhausenbergerdorff-Featherstonehaugh^Hubert Blaine Adolph",
              study_description="XR CHEST AP PORTABLE SUPINE AFTER CENTRAL LINE PLACEMENT")  # fmt: skip
    for number in range(6, 9):
        add_study(pages, f"{UID}1{number:02d}", minutes_ago=200 + number)
    add_study(pages, f"{UID}120", "none", status=TaskStatus.NOT_PROCESSED, minutes_ago=30)
    add_study(pages, f"{UID}121", "none", status=TaskStatus.QUARANTINED, minutes_ago=44)
    add_study(pages, f"{UID}122", "none", status=TaskStatus.RUNNING, minutes_ago=1)
    add_study(pages, f"{UID}123", "none", status=TaskStatus.QUEUED, minutes_ago=0.5)
    with pages.ledger.write() as db:
        marks.claim(db, f"{UID}102", "ben", now=time.time(), seconds=900)
        marks.mark_read(db, f"{UID}108", "ben", now=time.time())


def row_of(page: Page, uid: str):  # type: ignore[no-untyped-def]
    return page.locator(f'[id="study-{uid}"]')


def require_listed(page: Page, uids: list[str], seconds: float = 10.0) -> None:
    """The list shows these studies in this order; the page that was asked for may still be on its way."""
    shown, end = None, time.monotonic() + seconds
    while shown != uids and time.monotonic() < end:
        with suppress(Error):  # the page was just leaving
            shown = listed(page)
    assert shown == uids


def listed_after(page: Page, before: list[str]) -> list[str]:
    """What a full page lists that comes after another, once it is there."""
    expect(row_of(page, before[0])).to_have_count(0)
    expect(page.locator("tbody.study")).to_have_count(len(before))
    shown = listed(page)
    assert not set(shown) & set(before)
    return shown


def listed(page: Page) -> list[str]:
    return [
        str(uid).removeprefix("study-") for uid in page.eval_on_selector_all("tbody.study", "e => e.map(r => r.id)")
    ]


def require_accessible(page: Page) -> None:
    """No violation of axe-core, WCAG 2.2 AA and its best practices."""
    page.wait_for_load_state()  # its style sheets too
    page.evaluate(AXE)
    found = page.evaluate(
        "() => axe.run(document, {runOnly: ['wcag2a','wcag2aa','wcag21aa','wcag22aa','best-practice']})"
    )
    told = [f"{v['id']}: {n['target']} {n['failureSummary'][:300]}" for v in found["violations"] for n in v["nodes"]]
    assert told == []


def focused_row(page: Page) -> str:
    return str(page.evaluate("document.activeElement.closest('tbody.study')?.id ?? ''")).removeprefix("study-")


def kinds(pages: Pages, uid: str) -> list[tuple[str, str, str, str]]:
    with pages.ledger.read() as db:
        return [(m.made_by, str(m.kind), m.finding, m.note) for m in history(db, uid)]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_night_is_shown_in_the_reading_order_with_why_and_how_long(pages: Pages, window: Open, scheme: str) -> None:
    fill(pages)
    page = window(scheme=scheme)
    assert listed(page)[:4] == [f"{UID}102", CRITICAL, f"{UID}103", URGENT]
    expect(page.locator("tbody.next")).to_have_attribute("id", f"study-{CRITICAL}")
    first = row_of(page, CRITICAL)
    for text in ("Critical", "Pneumothorax 91 %, right", "of 15 min", "Núñez de la Peña, María José", "55 y F", "PA",
                 "Welby, Marcus", "Effusion ?", "AP view", "chest_findings 2.1.0", "Emphysema"):  # fmt: skip
        expect(first).to_contain_text(text)
    expect(row_of(page, f"{UID}103")).to_contain_text(re.compile("5 h (19|20) over"))
    expect(row_of(page, f"{UID}102")).to_contain_text("With ben")
    expect(row_of(page, f"{UID}120")).to_contain_text("the view is not frontal")
    expect(row_of(page, f"{UID}121").get_by_role("button", name="Try again")).to_be_visible()
    expect(first.get_by_text("AI result, not verified", exact=True)).to_be_visible()
    expect(page.locator("thead").get_by_text("AI result, not verified", exact=True)).to_be_visible()
    heights = page.eval_on_selector_all("tbody.study", "e => e.map(r => r.rows[0].offsetHeight)")
    assert all(56 <= height <= 90 for height in heights), heights
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.screenshot(path=ARTEFACTS / f"worklist_{scheme}.png")
    require_accessible(page)
    row_of(page, CRITICAL).locator("details.more summary").click()
    expect(row_of(page, CRITICAL).locator("tr.panel")).to_be_visible()
    require_accessible(page)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    require_accessible(page)


def test_the_readme_shows_a_night_of_computed_patients(pages: Pages, window: Open) -> None:
    night.fill(pages)
    page = window("ann")
    page.set_viewport_size({"width": 1280, "height": 950})
    uid = night.UID
    assert listed(page)[:5] == [f"{uid}{number}" for number in (102, 101, 105, 104, 103)]
    for number, words in (
        (101, ("Critical", "Next", "Pneumothorax 91 %, right")),
        (102, ("With ben",)),
        (103, ("Urgent", "Lung opacity 87 %, left")),
        (105, ("min over",)),
        (107, ("Not processed", "the view is not frontal")),
        (108, ("Failed", "the process died")),
        (109, ("by ben",)),
    ):
        for text in words:
            expect(row_of(page, f"{uid}{number}")).to_contain_text(text)
    page.wait_for_function("[...document.images].every(image => image.naturalWidth > 0)")
    cut = "[...document.querySelectorAll('.how, .c-do button')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(cut) == 0, "neither side nor a button is cut off"
    page.screenshot(path=ARTEFACTS / "worklist.png")
    require_accessible(page)
    if folder := os.environ.get("HILUM_SCREENSHOTS"):
        shutil.copyfile(ARTEFACTS / "worklist.png", REPOSITORY / folder / "worklist.png")


def test_an_admin_marks_what_was_read_elsewhere_after_seeing_how_many_and_takes_it_back(
    pages: Pages, window: Open
) -> None:
    add_user(pages.site.settings.users, "eve", Role.ADMIN, PASSWORD, taken=frozenset())
    for number in range(5):
        add_study(
            pages, f"{UID}5{number:02d}", "critical" if number == 4 else "routine", minutes_ago=30 * 1440 - number
        )
    new = add_study(pages, f"{UID}590", minutes_ago=3)
    assert "An admin can mark all before a day." in window("ann").locator(".inforce").inner_text()
    page = window("eve")
    page.get_by_role("link", name="Mark all before a day").click()
    page.get_by_label("Received before").fill(time.strftime("%Y-%m-%d", time.localtime(time.time() - 86_400)))
    page.get_by_role("button", name="Count them").click()
    part = page.locator("#elsewhere")
    expect(part).to_contain_text("5 unread studies were received before")
    expect(part).to_contain_text("1 critical, 4 routine")
    require_accessible(page)
    add_study(pages, f"{UID}505", minutes_ago=20 * 1440)  # one more than was shown
    page.get_by_role("button", name="Mark these 5 as read elsewhere").click()
    expect(page.get_by_role("heading", name="It would be 6 studies now.")).to_be_visible()
    require_accessible(page)
    page.go_back()
    page.get_by_role("button", name="Count them").click()
    page.get_by_role("button", name="Mark these 6 as read elsewhere").click()
    expect(part).to_contain_text("eve: 6 received before")
    page.screenshot(path=ARTEFACTS / "elsewhere.png", full_page=True)
    page.get_by_role("link", name="Worklist").click()
    expect(row_of(page, f"{UID}500")).to_contain_text("by eve (elsewhere)")
    assert listed(page)[0] == new
    expect(page.locator(".inforce")).not_to_contain_text("read elsewhere")
    page.goto(f"{pages.url}/hilum/admin")
    page.get_by_role("button", name="Take back").click()
    expect(part).to_contain_text("6 taken back")
    expect(page.get_by_role("button", name="Take back")).to_have_count(0)
    assert kinds(pages, f"{UID}504") == [("eve", "read", "", "elsewhere"), ("eve", "undo", "", "")]
    pages.site.audit.stop()
    told = [e["detail"] for e in audit_files.read(pages.site.settings.audit) if e["action"] == "read_elsewhere"]
    assert [words.partition(" received")[0] for words in told] == ["6 studies", "taken back, of 6 studies"]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_an_empty_list_and_an_empty_filter_say_so(window: Open, scheme: str) -> None:
    page = window(scheme=scheme)
    expect(page.locator(".empty")).to_contain_text("No study has arrived yet")
    require_accessible(page)
    page.get_by_role("link", name="Unread critical").click()
    expect(page.locator(".empty")).to_contain_text("No study fits this filter: critical, unread")
    require_accessible(page)
    page.get_by_role("link", name="Show all studies").click()
    expect(page.locator(".empty")).to_contain_text("No study has arrived yet")


@pytest.mark.parametrize("size", ["", "big"])
def test_on_a_phone_studies_are_cards(pages: Pages, window: Open, size: str) -> None:
    fill(pages)
    page = window(width=390)
    if size:
        page.get_by_text("View", exact=True).click()
        with page.expect_response("**/hilum/look"):
            page.get_by_role("button", name="Big type").click()
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-size", "big")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(row_of(page, CRITICAL).get_by_text("AI result, not verified", exact=True)).to_be_visible()
    expect(row_of(page, f"{UID}121").get_by_text("AI result, not verified")).to_have_count(0)
    page.screenshot(path=ARTEFACTS / f"worklist_phone{size}.png")
    require_accessible(page)
    row_of(page, CRITICAL).get_by_role("button", name="Claim").click()
    expect(row_of(page, CRITICAL)).to_contain_text("In your hands")


def test_by_keys_alone_a_study_is_claimed_judged_noted_read_and_taken_back(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    for key in "jjc":
        page.keyboard.press(key)
    assert focused_row(page) == CRITICAL
    expect(row_of(page, CRITICAL)).to_contain_text("In your hands")
    page.keyboard.press("a")
    expect(row_of(page, CRITICAL).locator("a.chip").first).to_contain_text("✓")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+D")
    page.locator("#write textarea").fill("clear of fluid <b>")
    require_accessible(page)
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(row_of(page, CRITICAL).locator("a.chip.undetermined")).to_contain_text("✗")
    page.keyboard.press("n")
    page.locator("#write textarea").fill("drain placed")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator("#said")).to_contain_text("noted")
    assert focused_row(page) == CRITICAL
    page.keyboard.press("r")
    expect(row_of(page, CRITICAL)).to_contain_text("by ann")
    assert focused_row(page) == f"{UID}103", "on to the next"
    page.wait_for_timeout(700)
    page.keyboard.press("u")
    expect(page.locator("#said")).to_contain_text("Taken back: study marked as read")
    expect(row_of(page, CRITICAL)).not_to_contain_text("by ann")
    assert kinds(pages, CRITICAL) == [
        ("ann", "claim", "", ""), ("ann", "agree", "pneumothorax", ""),
        ("ann", "disagree", "effusion", "clear of fluid <b>"), ("ann", "note", "", "drain placed"),
        ("ann", "read", "", ""), ("ann", "undo", "", ""),
    ]  # fmt: skip
    row_of(page, CRITICAL).locator("a.open").focus()
    page.keyboard.press("v")
    expect(row_of(page, CRITICAL).locator("tr.panel")).to_contain_text("drain placed")
    page.keyboard.press("g")
    page.keyboard.press("f")
    expect(page).to_have_url(f"{pages.url}/hilum/?status=quarantined&sort=-received")
    require_listed(page, [f"{UID}121"])
    pages.site.audit.stop()
    told = [(e["who"], e["detail"]) for e in audit_files.read(pages.site.settings.audit) if e["action"] == "mark"]
    assert told == [
        ("ann", what) for what in ("claim", "agree pneumothorax", "disagree effusion", "note", "read", "undo")
    ]


def marked(pages: Pages, *uids: str) -> int:
    return sum(len(kinds(pages, uid)) for uid in uids)


def test_a_held_key_marks_one_study_and_no_study_that_nobody_chose(pages: Pages, window: Open) -> None:
    uids = [add_study(pages, f"{UID}3{number:02d}", minutes_ago=70 - number) for number in range(30)]
    page = window()
    for key in "rcadnx":
        page.keyboard.press(key)
    expect(page.locator("#said")).to_contain_text("Choose a study with j or k first")
    page.wait_for_timeout(1100)
    page.keyboard.press("j")
    for _ in range(30):  # as the keyboard does while it is held
        page.keyboard.down("r")
        page.wait_for_timeout(30)
    page.keyboard.up("r")
    expect(row_of(page, uids[0])).to_contain_text("by ann")
    assert marked(pages, *uids) == 1
    page.wait_for_timeout(700)
    for _ in range(4):
        page.keyboard.down("j")
    page.keyboard.up("j")
    assert focused_row(page) == uids[5]
    page.evaluate("scrollTo({top: document.documentElement.scrollHeight, behavior: 'instant'})")
    page.keyboard.press("r")
    expect(page.locator("#said")).to_contain_text("Choose a study with j or k first")
    page.wait_for_timeout(700)
    page.keyboard.press("k")
    assert row_of(page, uids[4]).evaluate(
        "r => r.getBoundingClientRect().top >= document.querySelector('thead th').getBoundingClientRect().bottom - 1"
    ), "below the head of the table"
    row_of(page, uids[7]).locator("td.c-waiting").click()
    page.keyboard.press("c")
    expect(row_of(page, uids[7])).to_contain_text("In your hands")
    assert marked(pages, *uids) == 2


def test_what_is_typed_as_words_marks_nothing(pages: Pages, window: Open) -> None:
    plain = [add_study(pages, f"{UID}3{number:02d}", minutes_ago=70 - number) for number in range(4)]
    page = window()
    page.keyboard.press("j")
    page.keyboard.press("Shift+D")  # there is no finding, so that no field opens
    page.keyboard.type("nodule unclear, jcard", delay=20)
    expect(page.locator("#said")).to_contain_text("the AI called nothing in this study to disagree with")
    assert marked(pages, *plain) == 0
    expect(page.locator("dialog[open]")).to_have_count(0)
    page.wait_for_timeout(1100)
    page.keyboard.type("rcard", delay=100)
    expect(page.locator("#said")).to_contain_text("That key came too soon")
    expect(row_of(page, plain[0])).to_contain_text("by ann")
    assert marked(pages, *plain) == 1
    page.wait_for_timeout(700)
    page.keyboard.press("c")
    expect(row_of(page, plain[1])).to_contain_text("In your hands")


def test_single_keys_can_be_switched_off_and_stay_so(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    page.get_by_text("View", exact=True).click()
    button = page.get_by_role("button", name="Single keys")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    require_accessible(page)
    page.wait_for_timeout(300)
    page.reload()
    row_of(page, CRITICAL).locator("a.open").focus()
    for key in "jcr?/":
        page.keyboard.press(key)
    assert focused_row(page) == CRITICAL
    expect(page.locator("dialog[open]")).to_have_count(0)
    assert marked(pages, CRITICAL) == 0
    page.locator("#keys").click()
    expect(page.locator("#help")).to_contain_text("switches these keys off in this browser")


def test_enter_opens_the_study_and_a_second_window_follows_the_list(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    page.keyboard.press("j")
    with page.context.expect_page() as opened:
        page.keyboard.press("Shift+Enter")
    viewer = opened.value
    assert viewer.url.endswith(f"/ohif/viewer?StudyInstanceUIDs={UID}102")
    page.get_by_text("View", exact=True).click()
    page.get_by_role("button", name="Second window").click()
    row_of(page, f"{UID}102").locator("a.open").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    viewer.wait_for_url(f"**/ohif/viewer?StudyInstanceUIDs={CRITICAL}")
    assert focused_row(page) == CRITICAL
    in_viewer = page.locator("tbody.shown")
    expect(in_viewer).to_have_attribute("id", f"study-{CRITICAL}")
    expect(in_viewer.get_by_text("In the viewer")).to_be_visible()
    expect(page.locator(".inviewer:visible")).to_have_count(1)
    page.keyboard.press("r")
    viewer.wait_for_url(f"**/ohif/viewer?StudyInstanceUIDs={UID}103")
    assert focused_row(page) == f"{UID}103"
    expect(in_viewer).to_have_attribute("id", f"study-{UID}103")
    row_of(page, URGENT).locator("td.c-waiting").click()
    viewer.wait_for_url(f"**/ohif/viewer?StudyInstanceUIDs={URGENT}")
    page.screenshot(path=ARTEFACTS / "worklist_second_window.png")
    require_accessible(page)
    page.reload()
    page.keyboard.press("j")
    viewer.wait_for_url(f"**/ohif/viewer?StudyInstanceUIDs={UID}102")
    viewer.close()
    expect(in_viewer).to_have_count(0, timeout=5000)
    page.get_by_text("View", exact=True).click()
    page.get_by_role("button", name="Second window").click()
    row_of(page, f"{UID}102").locator("a.open").focus()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/ohif/viewer?StudyInstanceUIDs={UID}102")


def test_a_refresh_keeps_focus_scroll_open_details_selection_and_typed_text(pages: Pages, window: Open) -> None:
    for number in range(60, 0, -1):
        add_study(pages, f"{UID}2{number:02d}", minutes_ago=10 + number)
    page = window()
    page.evaluate("document.body.style.overflowAnchor = 'none'")  # a browser that keeps no place by itself
    row = row_of(page, f"{UID}230")
    row.locator("details.more summary").click()
    row.get_by_role("checkbox").check()
    row.get_by_label("Comment or note").fill("half a sente")
    page.keyboard.press("ArrowLeft")
    page.get_by_label("Search by name").evaluate("e => { e.value = 'typed'; }")
    top = row.evaluate("e => e.getBoundingClientRect().top")
    node, picture = row.evaluate_handle("e => e"), row.locator("img").evaluate_handle("e => e")
    add_study(pages, CRITICAL, "critical", "Pneumothorax 91 %, right", finding("pneumothorax"), minutes_ago=1)
    expect(row_of(page, CRITICAL)).to_have_count(1, timeout=6000)
    expect(page.locator("#announce")).to_have_text("A new critical study: Pneumothorax 91 %, right")
    with pages.ledger.write() as db:
        marks.assign(db, f"{UID}230", "ben", "ben", now=time.time())
        judging.add_note(db, f"{UID}230", "ben", "seen before", now=time.time())
    expect(row).to_contain_text("For ben", timeout=6000)
    expect(row).to_contain_text("seen before", timeout=6000)
    assert node.evaluate("e => e.isConnected"), "only what differs changes"
    assert picture.evaluate("e => e.isConnected")
    assert page.evaluate("document.activeElement.name") == "comment"
    assert focused_row(page) == f"{UID}230"
    assert page.evaluate("[document.activeElement.value, document.activeElement.selectionStart]") == [
        "half a sente",
        11,
    ]
    expect(row.get_by_role("checkbox")).to_be_checked()
    expect(row.locator("tr.panel")).to_be_visible()
    assert abs(row.evaluate("e => e.getBoundingClientRect().top") - top) < 2
    assert page.get_by_label("Search by name").input_value() == "typed"
    page.keyboard.type("n")
    assert row.get_by_label("Comment or note").input_value() == "half a sentne"


def test_a_row_that_moves_keeps_focus_and_typed_text(pages: Pages, window: Open) -> None:
    uids = [add_study(pages, f"{UID}2{number:02d}", minutes_ago=60 - number) for number in range(20)]
    page = window()
    row = row_of(page, uids[5])
    row.locator("details.more summary").click()
    row.get_by_label("Comment or note").fill("half")
    for change, place in ((marks.mark_read, -1), (marks.mark_unread, 5)):
        with pages.ledger.write() as db:
            change(db, uids[5], "ben", now=time.time())
        page.wait_for_function(
            "([uid, at]) => [...document.querySelectorAll('tbody.study')].at(at).id === `study-${uid}`",
            arg=[uids[5], place],
            timeout=6000,
        )
        page.keyboard.type(".")
    assert focused_row(page) == uids[5]
    assert row.get_by_label("Comment or note").input_value() == "half.."
    expect(row).to_be_in_viewport()
    assert listed(page) == uids


def test_a_refresh_puts_no_other_control_below_the_focus(pages: Pages, window: Open) -> None:
    def answer(*findings: tuple[str, float]) -> None:
        found = [finding(key, "present", probability) for key, probability in findings]
        add_study(pages, CRITICAL, "critical", "Pneumothorax", *found, minutes_ago=3)

    answer(("pneumothorax", 0.9), ("effusion", 0.8))
    page = window()
    row = row_of(page, CRITICAL)
    row.locator("[data-finding=effusion]").first.focus()
    answer(("effusion", 0.95), ("pneumothorax", 0.9))
    expect(row.locator("a.chip").first).to_contain_text("Effusion", timeout=6000)
    assert page.evaluate("document.activeElement.dataset.finding") == "effusion"
    answer(("pneumothorax", 0.9))
    expect(row.locator("a.chip")).to_have_count(1, timeout=6000)
    assert page.evaluate("document.activeElement.className") == "open"
    row.get_by_role("button", name="Claim").focus()
    with pages.ledger.write() as db:
        marks.mark_read(db, CRITICAL, "ben", now=time.time())
    expect(row.get_by_role("button", name="Mark unread")).to_be_visible(timeout=6000)
    assert page.evaluate("document.activeElement.className") == "open", "Enter does not mark it as unread"
    assert focused_row(page) == CRITICAL


def test_two_readers_cannot_claim_one_study(pages: Pages, window: Open) -> None:
    fill(pages)
    ann, ben = window("ann"), window("ben")
    for page in (ann, ben):  # each sees the list as it was
        page.route("**/hilum/rows", lambda _route: None)
    row_of(ann, CRITICAL).get_by_role("button", name="Claim").click()
    expect(ann.locator("#said")).to_contain_text("Study in your hands")
    row_of(ben, CRITICAL).get_by_role("button", name="Claim").click()
    expect(ben.locator("#said .stops")).to_contain_text("ann has this study in hand: take another, or ask ann")
    assert kinds(pages, CRITICAL) == [("ann", "claim", "", "")]
    with pages.ledger.write() as db:  # a quarter of an hour later
        tasks.run(db, "UPDATE tasks SET claimed_until = :past WHERE study_instance_uid = :uid", past=1.0, uid=CRITICAL)
    ben.unroute("**/hilum/rows")
    ben.reload()
    row_of(ben, CRITICAL).get_by_role("button", name="Claim").click()
    expect(row_of(ben, CRITICAL)).to_contain_text("In your hands")


def test_without_a_script_everything_works_by_links_and_forms(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window(java_script_enabled=False)
    row = row_of(page, CRITICAL)
    row.get_by_role("button", name="Claim").click()
    expect(row).to_contain_text("In your hands")
    row.locator("details.more summary").click()
    row.get_by_label("Comment or note").fill("seen")
    row.get_by_role("button", name="Disagree: Pneumothorax").click()
    expect(row).to_contain_text("ann disagrees: seen")
    page.get_by_label("Search by name").fill("nunez")
    page.get_by_role("button", name="Search").click()
    require_listed(page, [CRITICAL])
    assert page.url == f"{pages.url}/hilum/", "what is searched for stands in no address"
    expect(page.locator(".filter")).to_have_text("Filter: “nunez”")
    row.get_by_role("button", name="Mark read").click()
    expect(row).to_contain_text("by ann")
    require_listed(page, [CRITICAL])
    page.get_by_role("button", name="Undo").click()
    expect(row).not_to_contain_text("by ann")
    page.get_by_role("link", name="Show all").click()
    row_of(page, ROUTINE).get_by_role("checkbox").check()
    row_of(page, f"{UID}107").get_by_role("checkbox").check()
    page.locator("#bulk").get_by_role("button", name="Mark read").click()
    for uid in (ROUTINE, f"{UID}107"):
        expect(row_of(page, uid)).to_contain_text("by ann")
    page.get_by_role("button", name="Patient").click()
    expect(page.locator("#count")).to_contain_text("sorted by patient")
    page.get_by_text("View", exact=True).click()
    page.get_by_role("button", name="Light").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    expect(page.get_by_role("button", name="Sound")).to_have_count(0)


def test_a_refused_mark_is_told_without_a_script_too(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window(java_script_enabled=False)
    with pages.ledger.write() as db:
        marks.claim(db, CRITICAL, "ben", now=time.time(), seconds=900)
    row_of(page, CRITICAL).get_by_role("button", name="Claim").click()
    expect(page.locator("#said")).to_contain_text("ben has this study in hand")
    assert len(listed(page)) > 5


def test_a_filter_is_in_sight_with_its_count_and_can_be_saved_and_forgotten(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    page.get_by_text("More filters").click()
    page.get_by_label("Finding present").fill("Lung opacity")
    page.locator(".further").get_by_role("button", name="Filter").click()
    expect(page.locator("#count")).to_contain_text("1 study Filter: lung opacity present Show all")
    require_listed(page, [URGENT])
    expect(page.locator(".pressing")).to_have_text("2 critical unread")
    page.get_by_label("Name of the filter").fill("opacities <i>")
    page.get_by_role("button", name="Save filter").click()
    expect(page.get_by_role("link", name="opacities <i>")).to_have_attribute("aria-current", "true")
    require_accessible(page)
    page.get_by_role("link", name="All", exact=True).click()
    expect(page.locator(f'[id="study-{CRITICAL}"]')).to_be_visible()
    page.get_by_role("link", name="opacities <i>").click()
    expect(page.locator("#count")).to_contain_text("1 study Filter: lung opacity present")
    require_listed(page, [URGENT])
    page.get_by_role("button", name="Forget the filter opacities <i>").click()
    expect(page.get_by_role("link", name="opacities <i>")).to_have_count(0)
    page.goto(f"{pages.url}/hilum/?status=nonsense")
    expect(page.locator("#said .stops")).to_contain_text("No filter is in force")


def test_a_search_by_words_is_refreshed_without_them_in_any_address(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.keyboard.press("/")
    page.keyboard.type("wolfe")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text("1 study")
    with page.expect_response("**/hilum/rows") as answered:
        pass
    assert answered.value.status == 200
    row_of(page, URGENT).get_by_role("button", name="Claim").click()
    expect(row_of(page, URGENT)).to_contain_text("In your hands")
    require_listed(page, [URGENT])
    assert not any("wolfe" in address for address in asked)


def test_two_hundred_studies_come_in_pages_and_a_quiet_refresh_costs_nothing(pages: Pages, window: Open) -> None:
    for number in range(200):
        add_study(pages, f"{UID}3{number:03d}", minutes_ago=400 - number)
    page = window()
    expect(page.locator("#count")).to_contain_text("200 studies")
    first = listed(page)
    assert len(first) == 50
    statuses: list[int] = []
    page.on("response", lambda answer: statuses.append(answer.status) if "/hilum/rows" in answer.url else None)
    page.wait_for_timeout(9000)
    assert statuses.count(304) >= 2, statuses
    page.screenshot(path=ARTEFACTS / "worklist_200.png")
    page.get_by_role("button", name="Next page").click()
    second = listed_after(page, first)
    expect(page.locator(".nextup")).to_have_count(0)
    page.keyboard.press("Shift+J")
    third = listed_after(page, second)
    page.get_by_role("button", name="Previous page").click()
    expect(row_of(page, third[0])).to_have_count(0)
    require_listed(page, second)
    page.keyboard.press("Shift+K")
    expect(row_of(page, second[0])).to_have_count(0)
    require_listed(page, first)
    expect(page.get_by_role("button", name="Previous page")).to_have_count(0)
    page.keyboard.press("Shift+K")
    expect(page.locator("#said")).to_have_text("This is the first page.")


def test_values_of_dicom_are_text_wherever_they_stand(pages: Pages, window: Open) -> None:
    hostile = "\"><img src=x onerror=document.title='owned'>'<script>document.title='owned'</script>"
    add_study(pages, CRITICAL, "critical", hostile, finding("pneumothorax"), finding("<b>x", "undetermined"),
              patient_name=hostile, patient_id=hostile, study_description=hostile, referring_physician=hostile,
              patient_sex=hostile, patient_age=hostile, study_date=hostile, study_time=hostile)  # fmt: skip
    page = window()
    page.keyboard.press("j")
    page.keyboard.press("v")
    page.keyboard.press("n")
    expect(page.locator("#write-about")).to_contain_text('"><img src')
    page.keyboard.press("Escape")
    page.wait_for_timeout(2500)
    assert page.title() == "Reading worklist - Hilum"
    assert page.locator("main img").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_trouble_of_the_node_is_a_banner_above_rows_that_stay(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    assert pages.ledger.path is not None
    away = pages.ledger.path.with_suffix(".away")
    pages.ledger.path.rename(away)
    expect(page.locator("#problem-ledger_unusable, #problem-ledger_unavailable")).to_be_visible(timeout=8000)
    assert len(listed(page)) > 5
    page.screenshot(path=ARTEFACTS / "worklist_trouble.png")
    require_accessible(page)
    away.rename(pages.ledger.path)
    expect(page.locator("#problem-quarantined")).to_be_visible(timeout=8000)
    expect(page.locator("main")).not_to_have_class(re.compile("stale"))
    page.route("**/hilum/rows", lambda route: route.abort())
    expect(page.locator("body")).to_have_class("offline", timeout=6000)
    assert len(listed(page)) > 5
    page.unroute("**/hilum/rows")
    expect(page.locator("body")).not_to_have_class(re.compile("offline"), timeout=6000)


def test_a_technologist_sees_the_list_and_no_marks(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window("tom")
    expect(page.get_by_role("button", name="Claim")).to_have_count(0)
    expect(page.get_by_role("checkbox")).to_have_count(0)
    page.keyboard.press("j")
    page.keyboard.press("r")
    expect(page.locator("#said")).to_contain_text("Your role does not allow marks")
    fields = {"do": "read", "study": CRITICAL}
    send = "fields => fetch('/hilum/mark', {method: 'POST', body: new URLSearchParams(fields)}).then(a => a.status)"
    told = page.evaluate(send, fields)
    assert told == 403
    require_accessible(page)


def test_sound_and_notifications_are_opt_in_and_tell_a_new_critical_study_once(pages: Pages, window: Open) -> None:
    add_study(pages, URGENT, "urgent", "Effusion 80 %", finding("effusion"))
    page = window()
    page.evaluate("""() => { window.told = [];
      window.Notification = class { constructor(title, options) { told.push(`${title}: ${options.body}`); } };
      Notification.permission = 'granted'; Notification.requestPermission = () => told.push('asked'); }""")
    add_study(pages, f"{UID}401", "critical", "Pneumothorax 88 %", finding("pneumothorax"), minutes_ago=4)
    expect(row_of(page, f"{UID}401")).to_have_count(1, timeout=6000)
    assert page.evaluate("told") == []
    page.get_by_text("View", exact=True).click()
    page.get_by_role("button", name="Notifications").click()
    page.get_by_role("button", name="Sound").click()
    add_study(pages, f"{UID}402", "critical", "Pneumothorax 88 %", finding("pneumothorax"), minutes_ago=2)
    expect(row_of(page, f"{UID}402")).to_have_count(1, timeout=6000)
    page.wait_for_timeout(4500)
    assert page.evaluate("told") == ["asked", "Hilum: A new critical study"]
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-sound", "on")


def test_who_uses_the_list_stays_logged_in_and_a_session_that_ended_is_told(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    banner = page.get_by_text("You are logged out: nothing is announced any more.")
    with page.expect_response("**/hilum/api/visitor"):
        pages.ahead[0] = 50 * 60
        page.keyboard.press("j")
    pages.ahead[0] = 100 * 60
    with page.expect_response("**/hilum/rows*"):
        pass
    page.wait_for_timeout(500)
    expect(banner).to_be_hidden()
    pages.ahead[0] = 170 * 60  # nobody does anything: the page's own refresh does not count
    expect(banner).to_be_visible(timeout=6000)
    expect(page).to_have_title("Logged out - Hilum")
    expect(row_of(page, CRITICAL).locator("a.name")).to_be_hidden()
    for part in (page.locator("#find"), page.locator(".choices a").first, page.locator("form.visitor")):
        expect(part).to_be_hidden()
    assert "Núñez" not in page.locator("body").aria_snapshot(), "a name is read out neither"
    page.keyboard.press("r")
    expect(page.locator("#said")).to_contain_text("You are logged out: nothing was done")
    page.screenshot(path=ARTEFACTS / "worklist_logged_out.png")
    require_accessible(page)
    page.get_by_role("link", name="Log in again").click()
    page.get_by_label("User name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_title("Reading worklist - Hilum")
    expect(banner).to_be_hidden()


def test_a_sound_that_waits_for_a_gesture_and_a_blocked_notification_say_so(pages: Pages, window: Open) -> None:
    page = window()
    page.context.add_cookies([{"name": "hilum_look", "value": "sound:on.notices:on", "url": f"{pages.url}/hilum"}])
    page.context.add_init_script("""
      class Silent extends EventTarget {
        state = 'suspended'; resume() { this.state = 'running'; return Promise.resolve(); } }
      window.AudioContext = Silent; window.Notification = class { static permission = 'denied'; };""")
    page.reload()
    note = page.locator("#silent")
    expect(note).to_have_text("Sound needs one click or key. Notifications blocked by the browser")
    page.locator("footer").click()
    expect(note).to_have_text("Notifications blocked by the browser")
    page.get_by_text("View", exact=True).click()
    expect(page.get_by_role("button", name="Notifications: blocked by the browser")).to_be_visible()
    require_accessible(page)


def test_of_more_than_a_hundred_unread_critical_studies_a_new_one_is_still_announced(
    pages: Pages, window: Open
) -> None:
    uids = [add_study(pages, f"{UID}7{n:03d}", "critical", f"Mass {n} %", minutes_ago=300 - n) for n in range(104)]
    page = window()
    expect(page.locator(".pressing")).to_have_text("104 critical unread")
    with pages.ledger.write() as db:  # the four that are not among the latest hundred move up, and are not new
        for uid in uids[-3:]:
            marks.mark_read(db, uid, "ben", now=time.time())
    expect(page.locator(".inforce")).to_have_attribute("data-critical", re.compile(re.escape(uids[1])), timeout=6000)
    expect(page.locator("#announce")).to_be_empty()
    add_study(pages, f"{UID}7900", "critical", "Pneumothorax 88 %", finding("pneumothorax"), minutes_ago=1)
    expect(page.locator("#announce")).to_have_text("A new critical study", timeout=6000)
    expect(page.locator(".pressing")).to_have_text("102 critical unread")


def test_a_study_of_two_images_shows_that_there_are_two(pages: Pages, window: Open) -> None:
    found = [finding("lung_opacity", probability=0.87, side="left"), finding("edema", "undetermined", 0.4)]
    uid = add_study(pages, URGENT, "urgent", "Lung opacity 87 %, left", *found, images=2)
    page = window()
    page.goto(f"{pages.url}/hilum/studies/{uid}")
    expect(page.locator(".images b")).to_have_text("2 images")
    expect(page.locator(".images b")).to_be_in_viewport()
    page.get_by_role("link", name="2: PA").click()
    expect(page.get_by_role("heading", name="Image 2 of 2: PA view")).to_be_in_viewport()
    ids = page.eval_on_selector_all("[id]", "e => e.map(x => x.id)")
    assert sorted(set(ids)) == sorted(ids)
    page.screenshot(path=ARTEFACTS / "study_two_images.png")
    require_accessible(page)


def test_a_row_counts_undetermined_findings_in_one_way(pages: Pages, window: Open) -> None:
    open_ = [finding(key, "undetermined", 0.4) for key in ("lung_opacity", "covid_typical", "effusion")]
    uid = add_study(pages, ROUTINE, "routine", "Nothing called present, 1 undetermined", *open_)
    row = row_of(window(), uid)
    expect(row.locator(".why")).to_have_text("Nothing called present, 3 undetermined")
    expect(row.locator(".chips")).to_contain_text("+ 2 undetermined")


@pytest.mark.parametrize("script", [True, False])
def test_a_click_on_findings_shows_the_most_first_then_the_fewest_then_the_reading_order(
    pages: Pages, window: Open, script: bool
) -> None:
    fill(pages)
    page = window(java_script_enabled=script)
    reading = listed(page)
    head = page.get_by_role("columnheader", name="Findings")
    most = [URGENT, CRITICAL, *(f"{UID}{number}" for number in (102, 103, 123, 122, 120, 121, 106, 107, 108))]
    for way, words, wanted in (
        ("descending", "sorted by number of findings, descending", most),
        ("ascending", "sorted by number of findings", most[::-1]),
    ):
        head.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", way)
        expect(page.locator("#count")).to_contain_text(words)
        require_listed(page, wanted)
        if script:
            page.screenshot(path=ARTEFACTS / f"worklist_findings_{way}.png")
            require_accessible(page)
    head.get_by_role("button").click()
    expect(page.locator("#count")).not_to_contain_text("sorted")
    require_listed(page, reading)


def test_the_page_is_dark_until_light_is_chosen(pages: Pages, window: Open) -> None:
    page = window()
    page.emulate_media(color_scheme="light")
    shade = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(shade) == "rgb(14, 18, 22)"
    for words, colour in (
        ("Light", "rgb(243, 245, 248)"),
        ("Dark", "rgb(14, 18, 22)"),
        ("As the system", "rgb(243, 245, 248)"),
    ):
        if not page.get_by_role("button", name=words, exact=True).is_visible():
            page.get_by_text("View", exact=True).click()
        with page.expect_response("**/hilum/look"):
            page.get_by_role("button", name=words, exact=True).click()
        assert page.evaluate(shade) == colour, words
        page.reload()
        assert page.evaluate(shade) == colour, words


def test_undo_tells_whose_mark_it_takes_back(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    row_of(page, CRITICAL).get_by_role("button", name="Mark read").click()
    expect(row_of(page, CRITICAL)).to_contain_text("by ann")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#said")).to_have_text(
        "Taken back: study marked as read. It was Núñez de la Peña, María José, Chest PA."
    )


def test_in_big_type_rows_grow_and_nothing_is_cut(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    page.context.add_cookies([{"name": "hilum_look", "value": "size:big", "url": f"{pages.url}/hilum"}])
    page.reload()
    cut = """() => {
      const parts = ':is(.name, .chip, .of, .how, .why, .sub, .line, .holder, .cautions)';
      return [...document.querySelectorAll(`.studies tr:first-child ${parts}`)]
        .filter(e => e.offsetParent && getComputedStyle(e).display !== 'inline')
        .filter(e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 2)
        .map(e => `${e.className}: ${e.textContent}`); }"""
    assert page.evaluate(cut) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    expect(row_of(page, URGENT).locator(".models")).to_contain_text("chest_findings 2.1.0, lung_fields 1.3.0")
    expect(page.locator(".inviewer:visible")).to_have_count(0)
    page.screenshot(path=ARTEFACTS / "worklist_big.png")
    require_accessible(page)


def test_a_list_of_unread_studies_is_read_down_by_one_key(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    page.keyboard.press("g")
    page.keyboard.press("u")
    expect(page.locator(".filter")).to_have_text("Filter: unread")
    page.wait_for_load_state()
    for key in "jj":
        page.keyboard.press(key)
    order = listed(page)
    assert order[1] == CRITICAL
    for number, uid in enumerate(order[1:4], start=1):
        page.keyboard.press("r")
        expect(row_of(page, uid)).to_have_count(0)
        expect(page.locator("#count")).to_contain_text(f"{len(order) - number} studies")
        page.wait_for_timeout(700)
    assert focused_row(page) == order[4]
    with pages.ledger.write() as db:
        marks.mark_read(db, order[4], "ben", now=time.time())
    expect(row_of(page, order[4])).to_have_count(0, timeout=6000)
    assert focused_row(page) == order[5], "what another read is left behind"


def test_a_comment_goes_with_the_button_beside_it_and_leaves_the_field(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    row = row_of(page, CRITICAL)
    row.locator("details.more summary").click()
    row.get_by_label("Comment or note").fill("small apical")
    row.get_by_role("button", name="Agree: Pneumothorax", exact=True).click()
    expect(row.locator("tr.panel")).to_contain_text("ann agrees: small apical")
    expect(row.get_by_label("Comment or note")).to_have_value("")
    row.get_by_role("button", name="Put on my list").click()
    expect(row).to_contain_text("Assigned to ann")
    page.get_by_role("link", name="My list").click()
    require_listed(page, [CRITICAL])


def test_the_way_back_from_a_study_leads_to_its_row_in_the_list_that_was_left(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    page.goto(f"{pages.url}/hilum/?read=no")
    row_of(page, f"{UID}106").locator("a.open").focus()
    page.goto(f"{pages.url}/hilum/studies/{UID}106")
    page.get_by_role("link", name="Worklist").first.click()
    page.wait_for_url(re.compile(r"/hilum/\?read=no#study-"))
    expect(row_of(page, f"{UID}106").locator("a.open")).to_be_focused()
    page.keyboard.press("k")
    above = listed(page)[listed(page).index(f"{UID}106") - 1]
    expect(row_of(page, above).locator("a.open")).to_be_focused()


def test_what_is_ticked_is_marked_by_keys_and_no_other_row(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window()
    before = marked(pages, *listed(page))
    page.keyboard.press("j")
    page.keyboard.press("b")
    expect(page.locator("#said")).to_contain_text("Tick studies with x first")
    for key in ("j", "x", "j", "x", "j", "r"):
        page.keyboard.press(key)
    expect(page.locator("#said")).to_contain_text("2 studies are ticked")
    page.wait_for_timeout(700)
    page.keyboard.press("b")
    expect(page.locator("#bulk button").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("tbody.mine")).to_have_count(2)
    assert marked(pages, *listed(page)) == before + 2


def test_a_page_whose_user_changed_is_loaded_anew(pages: Pages, window: Open) -> None:
    fill(pages)
    page = window("ann")
    other = page.context.new_page()
    other.goto(f"{pages.url}/hilum/")
    other.get_by_role("button", name="Log out").click()
    other.get_by_label("User name").fill("tom")
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Log in").click()
    expect(page.locator("form.visitor")).to_contain_text("tom, technologist", timeout=10_000)
    expect(page.locator("#bulk")).to_have_count(0)

"""Whatever a person opens in the list of a study: no viewport is ever blank, and no result is swallowed."""

from __future__ import annotations

import numpy as np
import pytest
from browser import Viewer
from checks import assert_diameters, assert_lungs, assert_nothing_is_blank, assert_one_box, assert_study_opens
from documents import foreign_measurements, heat_map, key_objects, presentation_state, text_report
from playwright.sync_api import Page, expect
from pydicom import Dataset
from pydicom.uid import generate_uid
from studies import OPACITY, ct_slices, encode, findings, radiograph, study
from viewer_node import ViewerNode

pytestmark = pytest.mark.viewer

# What this viewer has no viewport for; it says so and leaves the picture alone.
NOT_SHOWN = ("KO", "PR")


def panel(page: Page) -> str:
    """The open list of results, as text."""
    page.locator("#hilum-toggle").click()
    region = page.get_by_role("region", name="AI results of the image")
    expect(region).to_be_visible()
    return region.inner_text()


def test_every_object_of_a_study_can_be_opened_in_turn(viewer_node: ViewerNode, viewer: Viewer) -> None:
    uid = generate_uid()
    image = radiograph(uid, modality="CR")
    lateral = radiograph(uid, modality="CR", number=2, view="LL")
    old = encode(image, findings(image, key="nodule", measured=True))
    said = findings(image, version="2.0.0", measured=True)
    report, segmentation = encode(image, said, replaces=old[0])
    others = (
        text_report(image, said, report),
        heat_map(image, said),
        key_objects(image, said, report),
        presentation_state(image, said),
        foreign_measurements(image),
        foreign_measurements(image, tracked=False),
    )
    uid = viewer_node.store(study(image, lateral, *ct_slices(uid), *old, report, segmentation, *others))
    viewer.open_study(uid)
    entries = {e.inner_text().replace("\n", " "): e for e in viewer.listed().all()}
    assert len(entries) == 13
    for name, entry in entries.items():
        before = viewer.panes()[0]
        entry.dblclick()
        viewer.wait_until(lambda name=name: shows(viewer, name, image, lateral), f"{name} is shown")
        assert_nothing_is_blank(viewer, f"opening {name}")
        pane, beside = viewer.panes()
        assert beside["picture"], "the pane beside it is left alone"
        if name.startswith(NOT_SHOWN):
            assert pane == before, "and so is this one where nothing can be shown"


def shows(viewer: Viewer, name: str, image: Dataset, lateral: Dataset) -> bool:
    """Whether the left pane shows what an entry of the list stands for."""
    viewport, text = viewer.viewports()[0], viewer.panes()[0]["text"]
    if name.startswith(NOT_SHOWN):
        return any("This viewer cannot show objects of this kind." in notice for notice in viewer.notices())
    if "Other maker" in name or "Older product" in name:
        return "Cardiomegaly" in text
    if name.endswith("report S:9004 1"):
        return "X-Ray Report" in text
    if name.startswith(("CT", "OT")):
        return bool(viewport["modality"] == name[:2])
    version = "1.0.0" if "1.0.0" in name else "2.0.0"
    if "findings" in name or "segments" in name:
        ours = [version in segmentation["label"] for segmentation in viewport["segmentations"]]
        return bool(
            viewport["sop_instance_uid"] == image.SOPInstanceUID and ours == [True] and len(viewport["boxes"]) == 1
        )
    shown = lateral if name.startswith("CR CR 2") else image
    return bool(viewport["sop_instance_uid"] == shown.SOPInstanceUID)


@pytest.mark.parametrize("way", ["double click", "drag"])
def test_a_report_that_is_opened_shows_its_radiograph_with_its_boxes_and_masks(
    viewer_node: ViewerNode, viewer: Viewer, way: str
) -> None:
    image = radiograph(generate_uid())
    report, segmentation = encode(image, findings(image))
    slices = ct_slices(image.StudyInstanceUID)
    uid = viewer_node.store(study(image, *slices, report, segmentation))
    viewer.open_study(uid)
    pane = viewer.page.locator('[data-cy="viewport-pane"]').first
    viewer.entry("CT 5").dblclick()
    viewer.page.wait_for_function("() => document.querySelector('#hilum-toggle').hidden")
    entry = viewer.entry("findings")
    entry.dblclick() if way == "double click" else entry.drag_to(pane)
    viewer.page.wait_for_function("() => !document.querySelector('#hilum-toggle').hidden")
    viewer.settle()
    (viewport,) = viewer.viewports()
    assert viewport["sop_instance_uid"] == image.SOPInstanceUID
    assert_one_box(viewer, viewport, "Lung opacity")
    assert_lungs(viewer, viewport, segmentation)
    assert_nothing_is_blank(viewer, way)


def test_the_text_report_is_readable(viewer_node: ViewerNode, viewer: Viewer) -> None:
    image = radiograph(generate_uid())
    said = findings(image)
    report, segmentation = encode(image, said)
    written = text_report(image, said, report)
    uid = viewer_node.store(study(image, report, segmentation, written))
    assert_study_opens(viewer, uid, image, segments=2, boxes=1)
    viewer.entry("report").dblclick()
    pane = viewer.page.locator('[data-cy="viewport-pane"]')
    expect(pane).to_contain_text("Findings")
    viewer.settle()
    text = " ".join(pane.inner_text().split())
    lines = [item.TextValue for part in written.ContentSequence for item in part.get("ContentSequence", ())
             if item.ValueType == "TEXT"]  # fmt: skip
    assert len(lines) > 3
    for line in lines:
        assert " ".join(line.split()) in text
    colours = pane.evaluate(
        "e => [getComputedStyle(e.firstElementChild).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert colours[0] != colours[1]
    viewer.screenshot("viewer_text_report")
    assert_nothing_is_blank(viewer, "opening the text report")


def test_a_study_with_no_finding_shows_its_lungs_and_says_that_nothing_was_found(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid())
    report, segmentation = encode(image, findings(image, boxes=()))
    uid = viewer_node.store(study(image, report, segmentation))
    viewport = assert_study_opens(viewer, uid, image, segments=2, boxes=0)
    assert_lungs(viewer, viewport, segmentation)
    expect(viewer.page.locator("#hilum-toggle")).to_contain_text("no finding present")
    viewer.entry("findings").dblclick()  # no coordinates at all: OHIF alone would show nothing
    viewer.page.wait_for_timeout(500)
    viewer.settle()
    assert_nothing_is_blank(viewer, "opening a report without coordinates")
    assert viewer.viewports()[0]["sop_instance_uid"] == image.SOPInstanceUID


def test_a_failed_run_shows_the_radiograph_and_says_that_it_failed(viewer_node: ViewerNode, viewer: Viewer) -> None:
    image = radiograph(generate_uid())
    (report,) = encode(image, findings(image, failed=True))
    uid = viewer_node.store(study(image, report))
    assert_study_opens(viewer, uid, image)
    expect(viewer.page.locator("#hilum-toggle")).to_contain_text("analysis failed")
    viewer.entry("findings").dblclick()
    viewer.page.wait_for_timeout(500)
    viewer.settle()
    assert_nothing_is_blank(viewer, "opening the report of a failed run")
    text = panel(viewer.page)
    viewer.screenshot("viewer_failed_run")
    assert "No algorithms succeeded" in text
    assert "Failed" in text
    assert "Absent" not in text


def test_results_without_a_place_are_listed_in_words_and_the_list_hides_nothing(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid())
    report, segmentation = encode(image, findings(image, measured=True))
    uid = viewer_node.store(study(image, report, segmentation))
    viewport = assert_study_opens(viewer, uid, image, segments=2, boxes=1)
    toggle = viewer.page.locator("#hilum-toggle")
    assert toggle.get_attribute("aria-expanded") == "false"
    line = "AI: Lung opacity 91 % left \u00b7 1 undetermined \u00b7 1 absent \u00b7 1 not evaluated"
    assert toggle.inner_text().endswith(line)

    toggle.focus()
    viewer.page.keyboard.press("Enter")
    region = viewer.page.get_by_role("region", name="AI results of the image")
    expect(region).to_be_visible()
    sections = {block.split("\n")[0]: block for block in region.locator("section").all_inner_texts()}
    assert "Lung opacity 91 % left" in sections["Present"]
    assert "Consolidation 42 %" in sections["Undetermined"]
    assert "Effusion 4 %" in sections["Absent"]
    assert "Pneumothorax (The model's evidence is too weak for it)" in sections["Not evaluated"]
    assert "Cardiothoracic ratio 0.37" in sections["Measurements"]
    assert "Cardiac diameter 91 mm" in sections["Measurements"]
    assert "ACR Category 2 Actionable Finding: Opacity 91 %" in sections["Priority"]
    assert "AP view: the heart looks larger" in sections["To be read with care"]
    assert "chest_findings 1.0.0" in sections["Made by"]

    list_top = region.bounding_box()
    pane = viewer.page.locator('[data-cy="viewport-pane"]').bounding_box()
    assert list_top is not None
    assert pane is not None
    assert pane["y"] + pane["height"] <= list_top["y"] + 1, "the list covers the radiograph"

    def follows() -> bool:
        drawn = viewer.drawn(viewport["id"], [(OPACITY[0], OPACITY[1])])
        return bool(np.allclose(drawn["boxes"][0]["corners"][0], drawn["places"][0], atol=0.5))

    viewer.wait_until(follows, "the drawings follow the picture to its new size")
    assert_one_box(viewer, viewer.viewports()[0], "Lung opacity")
    assert_diameters(viewer, viewer.viewports()[0])
    viewer.screenshot("viewer_results")

    viewer.page.keyboard.press("Escape")
    expect(region).to_be_hidden()
    assert viewer.page.evaluate("() => document.activeElement.id") == "hilum-toggle"


def test_results_whose_image_is_not_here_are_read_as_text_or_refused_with_a_reason(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid())
    uid = viewer_node.store(study(*encode(image, findings(image))))
    viewer.requests.clear()
    viewer.console.clear()
    viewer.page.goto(f"{viewer.base_url}/ohif/viewer?StudyInstanceUIDs={uid}")
    viewer.entry("findings").dblclick(timeout=60_000)
    expect(viewer.page.locator('[data-cy="viewport-pane"]')).to_contain_text("Lung opacity 91 %")
    viewer.entry("segments").dblclick()
    expect(viewer.page.locator("[data-sonner-toast]")).to_contain_text("is not in the study")
    assert_nothing_is_blank(viewer, "opening results without their image")

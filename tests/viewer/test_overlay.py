"""What a radiologist sees when a deep link is followed, read from the running page of a real Chromium."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from browser import Viewer
from pydicom.uid import generate_uid
from studies import CREATED, Study, ct_slices, radiograph, results
from viewer_node import ViewerNode

pytestmark = pytest.mark.viewer

# Lung colours of dicom_sr, CIELab (70, -30, -25) and (75, -45, 25), as sRGB.
CYAN, GREEN = (0, 189, 216), (102, 205, 137)


def corners(box: tuple[int, int, int, int]) -> list[list[float]]:
    x, y, width, height = box
    return [[x, y], [x + width, y], [x, y + height], [x + width, y + height]]


def assert_one_box(viewport: dict[str, Any], label: str, box: tuple[int, int, int, int]) -> None:
    (drawn,) = viewport["boxes"]
    assert drawn["label"].startswith(label)
    assert drawn["locked"], "an AI box must not be moved by accident"
    assert drawn["visible"]
    assert drawn["corners"] == [pytest.approx(corner, abs=0.01) for corner in corners(box)]


def assert_lungs(viewport: dict[str, Any], shift: int = 0) -> None:
    (segmentation,) = viewport["segmentations"]
    right, left = segmentation["segments"]
    assert (right["label"], left["label"]) == ("Lung right", "Lung left")
    assert right["color"] == pytest.approx(CYAN, abs=2)
    assert left["color"] == pytest.approx(GREEN, abs=2)
    assert right["locked"]
    assert left["locked"]
    # Where lung_masks() put them; the patient's right lung is on the left of the picture.
    assert right["centre"] == pytest.approx([150 + shift, 300], abs=0.5)
    assert left["centre"] == pytest.approx([350 + shift, 290], abs=0.5)


def assert_drawn(viewer: Viewer, viewport: dict[str, Any], shift: int = 0) -> None:
    """On the screen the lung is dark but not blacked out, darker than the mediastinum, and has a coloured outline."""
    mediastinum = viewer.colour(viewport["id"], 250 + shift, 300)
    lung = viewer.colour(viewport["id"], 150 + shift, 250)
    assert sum(mediastinum) > sum(lung) + 60
    assert max(lung) > 15, "the overlay hides the lung"
    # Across the left border of the right lung, in steps finer than the outline.
    border = [viewer.colour(viewport["id"], 70 + shift + dx / 2, 300) for dx in range(-6, 9)]
    bluest = max(border, key=lambda c: c[2] - c[0])
    assert bluest[2] - bluest[0] > 120, f"no cyan outline on the screen: {border}"


def test_the_link_shows_radiograph_overlay_and_locked_boxes_without_a_click(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid(), modality="DX")
    uid = viewer_node.store(Study(image.StudyInstanceUID, (image, *results(image))))
    viewer.open_study(uid)
    viewer.screenshot("viewer_dx")
    shown = viewer.shown()
    (viewport,) = shown["viewports"]
    assert shown["protocol"] == "hilum-radiographs"
    assert viewport["sop_instance_uid"] == image.SOPInstanceUID
    assert_lungs(viewport)
    assert_drawn(viewer, viewport)
    assert_one_box(viewport, "Lung opacity", (300, 330, 90, 80))

    ours = viewer.ours()
    assert ours["problems"] == []
    assert [s["label"] for s in ours["viewports"][0]["segmentations"][0]["segments"]] == ["Lung right", "Lung left"]
    assert [(b["ours"], b["locked"], b["radiograph"]) for b in ours["boxes"]] == [(True, True, image.SOPInstanceUID)]

    note = viewer.page.locator("#hilum-note")
    assert "AI result, not verified" in note.inner_text()
    assert "not a medical device" in note.inner_text()
    assert note.get_by_role("link", name="Worklist").get_attribute("href") == "/hilum/"
    assert note.bounding_box() == {"x": 0, "y": 776, "width": 1280, "height": 24}, "visible, and below the viewer"
    assert viewer.page.locator("dialog, [role=dialog]").count() == 0
    assert viewer.foreign_requests() == []
    assert viewer.console == []


def test_a_monochrome1_radiograph_is_shown_bright_on_dark_with_its_overlay(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid(), modality="CR", monochrome1=True)
    uid = viewer_node.store(Study(image.StudyInstanceUID, (image, *results(image))))
    viewer.open_study(uid)
    viewer.screenshot("viewer_cr_monochrome1")
    (viewport,) = viewer.viewports()
    assert_lungs(viewport)
    assert_drawn(viewer, viewport)
    assert_one_box(viewport, "Lung opacity", (300, 330, 90, 80))


def test_two_frontals_get_their_own_newest_results_and_a_ct_beside_them_none(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    uid, series_uid = generate_uid(), generate_uid()
    first = radiograph(uid, modality="CR", series_uid=series_uid, number=1)
    second = radiograph(uid, modality="CR", series_uid=series_uid, number=2, shift=20, opacity=(100, 200, 60, 60))
    old = results(second, shift=20, key="nodule", box=(100, 200, 60, 60))
    newer = results(
        second, shift=20, key="mass", box=(110, 210, 50, 50), version="2.0.0", created=CREATED + timedelta(days=1)
    )
    viewer_node.store(Study(uid, (first, second, *ct_slices(uid), *results(first), *newer, *old)))
    viewer.open_study(uid)
    viewer.screenshot("viewer_two_frontals")
    left, right = viewer.viewports()
    assert left["sop_instance_uid"] == first.SOPInstanceUID
    assert right["sop_instance_uid"] == second.SOPInstanceUID
    assert_lungs(left)
    assert_lungs(right, shift=20)
    assert_drawn(viewer, left)
    assert_drawn(viewer, right, shift=20)
    assert_one_box(left, "Lung opacity", (300, 330, 90, 80))
    assert_one_box(right, "Mass", (110, 210, 50, 50))
    assert "2.0.0" in right["segmentations"][0]["label"]


def test_studies_without_results_and_of_other_modalities_are_shown_as_they_are(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    bare = radiograph(generate_uid())
    viewer_node.store(Study(bare.StudyInstanceUID, (bare,)))
    viewer.open_study(bare.StudyInstanceUID)
    (viewport,) = viewer.viewports()
    assert viewport["sop_instance_uid"] == bare.SOPInstanceUID
    assert viewport["segmentations"] == viewport["boxes"] == []

    ct_uid = generate_uid()
    viewer_node.store(Study(ct_uid, ct_slices(ct_uid)))
    viewer.open_study(ct_uid)
    viewer.screenshot("viewer_ct")
    shown = viewer.shown()
    assert shown["protocol"] == "default"
    assert shown["viewports"][0]["modality"] == "CT"
    assert viewer.ours()["problems"] == []
    assert viewer.page.locator("#hilum-note").is_visible()
    assert viewer.console == []


def test_a_result_that_cannot_be_drawn_leaves_the_radiograph_and_is_named(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid())
    report, segmentation = results(image)
    del segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence  # OHIF needs it
    viewer_node.store(Study(image.StudyInstanceUID, (image, report, segmentation)))
    viewer.open_study(image.StudyInstanceUID)
    viewer.screenshot("viewer_broken_seg")
    (viewport,) = viewer.viewports()
    assert viewport["sop_instance_uid"] == image.SOPInstanceUID
    assert viewport["segmentations"] == []
    assert max(viewer.colour(viewport["id"], 250, 300)) > 80, "the radiograph is on the screen"
    assert_one_box(viewport, "Lung opacity", (300, 330, 90, 80))
    assert [p["what"] for p in viewer.ours()["problems"]] == ["SEG"]
    assert viewer.page.locator("#hilum-problem").is_visible()

"""What a radiologist sees when a deep link is followed, read from the running page of a real Chromium."""

from __future__ import annotations

from datetime import timedelta

import pytest
from browser import Viewer
from checks import (
    assert_diameters,
    assert_lungs,
    assert_nothing_is_blank,
    assert_one_box,
    assert_radiograph_on_screen,
    assert_study_opens,
)
from pydicom.uid import generate_uid
from studies import CREATED, OPACITY, ct_slices, encode, findings, radiograph, study
from viewer_node import ViewerNode

pytestmark = pytest.mark.viewer


def test_the_link_shows_radiograph_overlay_and_locked_boxes_without_a_click(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid(), modality="DX")
    report, segmentation = encode(image, findings(image, measured=True))
    uid = viewer_node.store(study(image, report, segmentation))
    viewport = assert_study_opens(viewer, uid, image, segments=2, boxes=1)
    viewer.screenshot("viewer_dx")
    assert viewer.shown()["protocol"] == "hilum-radiographs"
    assert_radiograph_on_screen(viewer, viewport)
    assert_lungs(viewer, viewport, segmentation)
    assert_one_box(viewer, viewport, "Lung opacity 91 %")
    assert_diameters(viewer, viewport)

    ours = viewer.ours()
    labels = [segment.SegmentLabel for segment in segmentation.SegmentSequence]
    assert [s["label"] for s in ours["viewports"][0]["segmentations"][0]["segments"]] == labels
    assert ours["viewports"][0]["report"] == report.SOPInstanceUID
    assert all(box["ours"] and box["locked"] and box["radiograph"] == image.SOPInstanceUID for box in ours["boxes"])

    note = viewer.page.locator("#hilum-note")
    assert "AI result, not verified" in note.inner_text()
    assert "not a medical device" in note.inner_text()
    assert note.get_by_role("link", name="Worklist").get_attribute("href").startswith("/hilum/#study-")
    assert note.bounding_box() == {"x": 0, "y": 776, "width": 1280, "height": 24}, "visible, and below the viewer"
    assert viewer.foreign_requests() == []


def test_overlays_keep_their_place_where_pixels_are_not_square(viewer_node: ViewerNode, viewer: Viewer) -> None:
    spacing = (0.5, 0.8)
    image = radiograph(generate_uid(), modality="CR", pixel_spacing=spacing)
    report, segmentation = encode(image, findings(image, measured=True))
    uid = viewer_node.store(study(image, report, segmentation))
    viewport = assert_study_opens(viewer, uid, image, segments=2, boxes=1)
    (x0, y0), (x1, y1) = viewer.drawn(viewport["id"], [(0, 0), (500, 600)])["places"]
    assert (x1 - x0) / (y1 - y0) == pytest.approx(500 * spacing[1] / (600 * spacing[0]), rel=0.01), "as the patient was"
    assert_lungs(viewer, viewport, segmentation)
    assert_one_box(viewer, viewport, "Lung opacity")
    assert_diameters(viewer, viewport)


def test_a_monochrome1_radiograph_and_its_thumbnail_are_shown_bright_on_dark(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid(), modality="CR", monochrome1=True)
    report, segmentation = encode(image, findings(image))
    uid = viewer_node.store(study(image, report, segmentation))
    viewport = assert_study_opens(viewer, uid, image, segments=2, boxes=1)
    assert_radiograph_on_screen(viewer, viewport)
    assert_lungs(viewer, viewport, segmentation)
    assert_one_box(viewer, viewport, "Lung opacity")
    thumbnail = viewer.listed().first.locator("img")
    thumbnail.wait_for()
    viewer.screenshot("viewer_cr_monochrome1")
    mediastinum, lung = thumbnail.evaluate("""img => {
      const canvas = Object.assign(document.createElement('canvas'), { width: 256, height: 256 });
      const context = canvas.getContext('2d');
      context.drawImage(img, 0, 0, 256, 256);
      return [[128, 128], [89, 107]].map(([x, y]) => context.getImageData(x, y, 1, 1).data[0]);
    }""")
    assert mediastinum > lung + 40, "an inverted thumbnail"


def test_two_frontals_and_a_lateral_get_their_own_results_and_a_ct_beside_them_none(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    uid, series_uid = generate_uid(), generate_uid()
    first = radiograph(uid, modality="CR", series_uid=series_uid, number=1)
    second = radiograph(uid, modality="CR", series_uid=series_uid, number=2, shift=20, opacity=(100, 200, 60, 60))
    lateral = radiograph(uid, modality="CR", number=3, view="LL")
    said = findings(second, shift=20, key="mass", boxes=((100, 200, 60, 60),))
    (_, seg_1), (_, seg_2) = results = encode(first, findings(first)), encode(second, said)
    viewer_node.store(study(lateral, first, second, *ct_slices(uid), *results[0], *results[1]))
    viewer.open_study(uid)
    viewer.screenshot("viewer_two_frontals")
    left, right = viewer.viewports()
    assert left["sop_instance_uid"] == first.SOPInstanceUID
    assert right["sop_instance_uid"] == second.SOPInstanceUID
    assert_lungs(viewer, left, seg_1)
    assert_lungs(viewer, right, seg_2, shift=20)
    assert_one_box(viewer, left, "Lung opacity")
    assert_one_box(viewer, right, "Mass", (100, 200, 60, 60))

    viewer.entry("CR 3").dblclick()
    viewer.page.wait_for_function("() => document.querySelector('#hilum-none:not([hidden])')")
    viewer.settle()
    shown = {viewport["sop_instance_uid"]: viewport for viewport in viewer.viewports()}
    assert shown[lateral.SOPInstanceUID]["segmentations"] == shown[lateral.SOPInstanceUID]["boxes"] == []
    assert_nothing_is_blank(viewer, "opening the lateral")


def test_the_newest_of_two_versions_is_told_by_its_predecessor_even_when_dates_say_otherwise(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid())
    old = encode(image, findings(image, key="nodule", version="1.0.0"), created=CREATED + timedelta(days=1))
    current = encode(image, findings(image, version="2.0.0", segmented=False), replaces=old[0])
    assert len(current) == 1, "the newer result has no masks"
    uid = viewer_node.store(study(image, *current, *old))
    viewport = assert_study_opens(viewer, uid, image, segments=0, boxes=1)
    assert_one_box(viewer, viewport, "Lung opacity")
    assert viewer.page.locator("#hilum-superseded").is_hidden()
    assert viewer.listed().count() == 4, "the older ones are listed"


def test_an_older_version_is_shown_when_it_is_opened_and_says_that_it_is_superseded(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid())
    old = encode(image, findings(image, key="nodule", boxes=((110, 210, 50, 50),), version="1.0.0"))
    current = encode(image, findings(image, version="2.0.0"), replaces=old[0])  # the same date
    uid = viewer_node.store(study(image, *current, *old))
    viewport = assert_study_opens(viewer, uid, image, segments=2, boxes=1)
    assert "2.0.0" in viewport["segmentations"][0]["label"]

    superseded = viewer.page.locator("#hilum-superseded")
    for entry in ("AI Hilum 1.0.0 findings", "AI Hilum 1.0.0 segments"):
        viewer.entry(entry).dblclick()
        superseded.wait_for()
        viewer.settle()
        (viewport,) = viewer.viewports()
        assert_one_box(viewer, viewport, "Nodule", (110, 210, 50, 50))
        assert_lungs(viewer, viewport, old[1])
        assert ["1.0.0" in s["label"] for s in viewport["segmentations"]] == [True]
        viewer.screenshot("viewer_superseded")

        superseded.click()
        superseded.wait_for(state="hidden")
        viewer.settle()
        (viewport,) = viewer.viewports()
        assert_one_box(viewer, viewport, "Lung opacity")
        assert ["2.0.0" in s["label"] for s in viewport["segmentations"]] == [True]
    assert_nothing_is_blank(viewer, "going there and back")


def test_without_a_chain_the_later_date_decides(viewer_node: ViewerNode, viewer: Viewer) -> None:
    image = radiograph(generate_uid())
    older = encode(image, findings(image, key="nodule", version="1.0.0"))
    newer = encode(image, findings(image, version="0.9.0"), created=CREATED + timedelta(seconds=1))
    uid = viewer_node.store(study(image, *newer, *older))
    viewport = assert_study_opens(viewer, uid, image, segments=2, boxes=1)
    assert_one_box(viewer, viewport, "Lung opacity")
    assert "0.9.0" in viewport["segmentations"][0]["label"]


def test_studies_without_results_and_of_other_modalities_are_shown_as_they_are(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    bare = radiograph(generate_uid())
    viewer_node.store(study(bare))
    assert_study_opens(viewer, bare.StudyInstanceUID, bare)
    assert viewer.page.locator("#hilum-none").is_visible()

    slices = ct_slices(generate_uid())
    viewer_node.store(study(*slices))
    viewer.open_study(slices[0].StudyInstanceUID)
    shown = viewer.shown()
    assert shown["protocol"] == "default"
    assert shown["viewports"][0]["modality"] == "CT"
    assert viewer.ours()["problems"] == []
    assert viewer.page.locator("#hilum-note").is_visible()
    assert viewer.page.locator("#hilum-none").is_hidden()
    assert viewer.console == []


def test_a_result_that_cannot_be_drawn_leaves_the_radiograph_and_is_named(
    viewer_node: ViewerNode, viewer: Viewer
) -> None:
    image = radiograph(generate_uid())
    report, segmentation = encode(image, findings(image))
    del segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence  # OHIF needs it
    viewer_node.store(study(image, report, segmentation))
    viewer.open_study(image.StudyInstanceUID)
    viewer.screenshot("viewer_broken_seg")
    (viewport,) = viewer.viewports()
    assert viewport["sop_instance_uid"] == image.SOPInstanceUID
    assert viewport["segmentations"] == []
    assert_radiograph_on_screen(viewer, viewport)
    assert_one_box(viewer, viewport, "Lung opacity", OPACITY)
    assert [p["what"] for p in viewer.ours()["problems"]] == ["SEG"]
    assert viewer.page.locator("#hilum-problem").is_visible()

"""The results of every awkward source in the browser: radiograph, masks and boxes are drawn, each in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from awkward_sources import SOURCES, findings_for, results_for
from browser import Viewer
from checks import assert_study_opens
from studies import encode, study
from viewer_node import ViewerNode

pytestmark = pytest.mark.viewer


@pytest.mark.parametrize("name", SOURCES)
def test_the_results_of_an_awkward_source_are_shown(viewer_node: ViewerNode, viewer: Viewer, name: str) -> None:
    image = SOURCES[name]()
    said = findings_for(image)
    results = results_for(image, said)
    stored = study(image, *results.values())
    viewer_node.forget(stored)  # the sources are one exposure, and some keep its UIDs
    uid = viewer_node.store(stored)
    regions = [region for finding in said.findings for region in finding.regions]
    viewport = assert_study_opens(viewer, uid, image, segments=len(said.segments), boxes=len(regions))

    masks = {
        segment.SegmentLabel: said.segments[n].mask for n, segment in enumerate(results["segmentation"].SegmentSequence)
    }
    for segment in viewport["segmentations"][0]["segments"]:
        rows, columns = np.nonzero(masks[segment["label"]])
        assert segment["centre"] == pytest.approx([columns.mean(), rows.mean()], abs=0.1)
    drawn = viewer.drawn(viewport["id"], [p for r in regions for p in ((r.x, r.y), (r.x + r.width, r.y + r.height))])
    wanted = [drawn["places"][n : n + 2] for n in range(0, len(drawn["places"]), 2)]
    on_screen = [box["corners"] for box in drawn["boxes"]]
    assert np.allclose(sorted(on_screen), sorted(wanted), atol=0.5)


@pytest.mark.parametrize("segments", [1, 3])
def test_masks_of_any_size_and_number_are_shown(viewer_node: ViewerNode, viewer: Viewer, segments: int) -> None:
    """Bit-packed frames that do not end with a byte: Orthanc gives none of them alone, OHIF refuses the padding."""
    image = SOURCES["odd number of rows and columns"]()
    said = findings_for(image)
    said = replace(said, segments=said.segments[:segments])
    stored = study(image, *encode(image, said))
    viewer_node.forget(stored)
    viewport = assert_study_opens(viewer, viewer_node.store(stored), image, segments=segments, boxes=2)
    for segment, shown in zip(said.segments, viewport["segmentations"][0]["segments"], strict=True):
        assert shown["pixels"] == segment.mask.sum()

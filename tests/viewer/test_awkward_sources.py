"""The results of every awkward source in the browser: the radiograph is drawn, its masks and boxes are in their places."""

from __future__ import annotations

import numpy as np
import pytest
from awkward_sources import SOURCES, findings_for, results_for
from browser import Viewer
from checks import assert_study_opens
from studies import study
from viewer_node import ViewerNode

pytestmark = pytest.mark.viewer


@pytest.mark.parametrize("name", SOURCES)
def test_the_results_of_an_awkward_source_are_shown(viewer_node: ViewerNode, viewer: Viewer, name: str) -> None:
    image = SOURCES[name]()
    said = findings_for(image)
    results = results_for(image, said)
    uid = viewer_node.store(study(image, *results.values()))
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

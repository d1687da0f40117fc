"""Assertions about what the browser shows, in stored pixels and in colours of the screen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from browser import Viewer
from pydicom import Dataset
from studies import DIAMETERS, OPACITY, Box, lung_masks

AMBER = "rgb(255, 196, 0)"


def corners(box: Box) -> list[list[float]]:
    """As Cornerstone keeps them: top left, top right, bottom left, bottom right."""
    x, y, width, height = box
    return [[x, y], [x + width, y], [x, y + height], [x + width, y + height]]


def stored_srgb(segment: Dataset) -> list[float]:
    """Recommended Display CIELab Value (PS3.3 C.10.7.1.1) of a segment as sRGB, 0 to 255."""
    scaled = segment.RecommendedDisplayCIELabValue
    lightness, a, b = scaled[0] / 655.35, scaled[1] / 257 - 128, scaled[2] / 257 - 128
    y = (lightness + 16) / 116
    relative = np.array(
        [v**3 if v > 6 / 29 else 3 * (6 / 29) ** 2 * (v - 4 / 29) for v in (y + a / 500, y, y - b / 200)]
    )
    xyz = relative * (0.95047, 1.0, 1.08883)
    matrix = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    linear = np.clip(matrix @ xyz, 0, 1)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return [float(v) for v in 255 * encoded]


def assert_one_box(viewer: Viewer, viewport: dict[str, Any], label: str, box: Box = OPACITY) -> None:
    """One locked box with its label, in its place, drawn with a solid line."""
    (kept,) = viewport["boxes"]
    assert kept["label"].startswith(label)
    assert kept["locked"], "an AI box must not be moved by accident"
    assert kept["visible"]
    assert kept["corners"] == [pytest.approx(corner, abs=0.01) for corner in corners(box)]
    x, y, width, height = box
    drawn = viewer.drawn(viewport["id"], [(x, y), (x + width, y + height)])
    (on_screen,) = drawn["boxes"]
    assert on_screen["corners"] == [pytest.approx(place, abs=0.5) for place in drawn["places"]]
    assert (on_screen["stroke"], on_screen["dashes"]) == (AMBER, "")
    assert sum(text.startswith(label) for text in drawn["labels"]) == 1


def assert_diameters(viewer: Viewer, viewport: dict[str, Any]) -> None:
    """Both diameters as locked lines in their places, quieter than a box, with the words of the report."""
    lines = {line["label"].split()[0]: line for line in viewport["lines"]}
    assert sorted(lines) == ["Cardiac", "Thoracic"]
    assert all(line["locked"] for line in lines.values())
    for name, wanted in zip(("Cardiac", "Thoracic"), DIAMETERS, strict=True):
        ends = [pytest.approx([wanted.x0, wanted.y0], abs=0.01), pytest.approx([wanted.x1, wanted.y1], abs=0.01)]
        assert lines[name]["corners"] == ends
    drawn = viewer.drawn(viewport["id"], [p for line in DIAMETERS for p in ((line.x0, line.y0), (line.x1, line.y1))])
    ends_on_screen = [end for line in drawn["lines"] for end in line["ends"]]
    assert ends_on_screen == [pytest.approx(place, abs=0.5) for place in drawn["places"]]
    assert all(line["stroke"] != AMBER and line["width"] < 2 for line in drawn["lines"])
    words = [text for text in drawn["labels"] if "diameter" in text]
    assert sorted(words) == sorted(line["label"] for line in lines.values()), "not a length of the viewer's own"


def assert_lungs(viewer: Viewer, viewport: dict[str, Any], segmentation: Dataset, shift: int = 0) -> None:
    """The SEG with its labels and colours, on the screen where the masks are and nowhere else."""
    (shown,) = viewport["segmentations"]
    masks = lung_masks(shift)
    for segment, stored, mask in zip(shown["segments"], segmentation.SegmentSequence, masks.values(), strict=True):
        assert segment["label"] == stored.SegmentLabel
        assert segment["color"] == pytest.approx(stored_srgb(stored), abs=2)
        assert segment["locked"]
        assert segment["visible"]
        rows, columns = np.nonzero(mask)
        assert segment["centre"] == pytest.approx([columns.mean(), rows.mean()], abs=0.1)
        assert_outlined(viewer, viewport["id"], mask, segment["color"])


def assert_outlined(viewer: Viewer, viewport_id: str, mask: npt.NDArray[np.bool_], colour: list[int]) -> None:
    """The mask has an outline in its colour and a faint tint, the picture beside it stays gray.

    The picture itself is gray, so that every colour on the screen is ours. Points are centres of stored pixels.
    """
    rows, columns = np.nonzero(mask)
    middle = int(rows.mean())
    across = np.nonzero(mask[middle])[0]
    left, right = int(across[0]), int(across[-1])
    top, bottom = int(rows[0]), int(rows[-1])
    column = int(columns.mean())
    steps = np.arange(-4, 5)
    borders = {
        "left": [(left + s, middle) for s in steps],
        "right": [(right + s, middle) for s in steps],
        "top": [(column, top + s) for s in steps],
        "bottom": [(column, bottom + s) for s in steps],
    }
    points = [(x + 0.5, y + 0.5) for line in borders.values() for x, y in line]
    distances = [np.abs(np.subtract(seen, colour)).max() for seen in viewer.colours(viewport_id, points)]
    for name, line in zip(borders, np.reshape(distances, (4, -1)), strict=True):
        # The outline is 2 pixels of the screen; a stored pixel has about one of them.
        assert abs(steps[int(np.argmin(line))]) <= 2, f"outline {steps[int(np.argmin(line))]} pixels off at the {name}"
        assert line.min() < 60, f"no outline of the right colour at the {name}"

    inside = [(x + 0.5, y + 0.5) for x, y in zip(columns[::997], rows[::997], strict=True) if _is_deep(mask, x, y)]
    outside = [(x, middle + 0.5) for x in (left - 9.5, right + 9.5) if 0 < x < mask.shape[1]]
    tinted = [max(c) - min(c) for c in viewer.colours(viewport_id, inside)]
    gray = [max(c) - min(c) for c in viewer.colours(viewport_id, outside)]
    assert np.median(tinted) >= 5, "no tint inside"
    assert max(gray) <= 3, "colour outside of the mask"
    assert min(max(c) for c in viewer.colours(viewport_id, inside)) > 15, "the overlay hides the lung"


def assert_radiograph_on_screen(viewer: Viewer, viewport: dict[str, Any]) -> None:
    """Bright mediastinum, darker lung: the picture of `studies.radiograph` is there, and not inverted."""
    mediastinum, lung = viewer.colours(viewport["id"], [(250, 300), (150, 250)])
    assert sum(mediastinum) > sum(lung) + 60


def assert_nothing_is_blank(viewer: Viewer, context: str) -> None:
    """Every pane shows a picture with many grays, or text; there is no dialog and no error."""
    for pane in viewer.panes():
        assert pane["grays"] > 30 if pane["picture"] else len(pane["text"]) > 20, f"a blank viewport after {context}"
    assert viewer.page.locator("dialog, [role=dialog], [role=alertdialog]").count() == 0, context
    assert viewer.console == [], context
    assert viewer.ours()["problems"] == [], context


def assert_study_opens(
    viewer: Viewer, study_instance_uid: str, image: Dataset, *, segments: int = 0, boxes: int = 0
) -> dict[str, Any]:
    """The deep link of a study shows its radiograph with our results; returns the viewport that does.

    Parameters
    ----------
    image
        The radiograph, whatever it is like.
    segments, boxes
        How many our results have for it.
    """
    viewer.open_study(study_instance_uid)
    shown = {viewport["sop_instance_uid"]: viewport for viewport in viewer.viewports()}
    assert str(image.SOPInstanceUID) in shown, "the radiograph is not hung"
    viewport = shown[str(image.SOPInstanceUID)]
    assert_nothing_is_blank(viewer, "opening the study")
    assert len(viewport["boxes"]) == boxes
    assert all(box["locked"] and box["label"] for box in viewport["boxes"])
    assert len(viewer.drawn(viewport["id"])["boxes"]) == boxes
    for box in viewport["boxes"]:
        assert all(-1 <= x <= image.Columns + 1 and -1 <= y <= image.Rows + 1 for x, y in box["corners"])
    assert sum(len(s["segments"]) for s in viewport["segmentations"]) == segments
    assert all(segment["pixels"] for s in viewport["segmentations"] for segment in s["segments"])
    return viewport


def _is_deep(mask: npt.NDArray[np.bool_], x: int, y: int, margin: int = 8) -> bool:
    return bool(mask[y - margin : y + margin + 1, x - margin : x + margin + 1].all())

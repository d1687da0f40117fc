"""Drives a real headless Chromium and asks the running viewer what it shows.

What a test reads in `Viewer.shown` comes from the services of OHIF and the state of Cornerstone, not from
``window.hilum``: our own account of ourselves is checked against it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, sync_playwright

from orthanc_plugin.credentials import Credentials
from orthanc_plugin.settings import REPOSITORY

ARTEFACTS = REPOSITORY / "tests" / "artefacts"
_FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
# Software rendering on two busy cores; the first picture takes 4 to 7 s when nothing else runs.
_PATIENCE_SECONDS = 90.0

# Each pane shows a rendered picture or, where it has no picture, text.
_RENDERED = """() => {
  const services = window.services;
  if (!services || !window.cornerstone || !window.hilum?.status()) return false;
  const panes = [...document.querySelectorAll('[data-cy="viewport-pane"]')];
  const viewports = [...services.viewportGridService.getState().viewports.keys()];
  return viewports.length > 0 && panes.length === viewports.length && viewports.every((id, n) => {
    const viewport = services.cornerstoneViewportService.getCornerstoneViewport(id);
    if (!panes[n].querySelector('canvas')) return panes[n].innerText.trim().length > 20;
    return viewport?.getImageIds?.().length > 0 && viewport.viewportStatus === 'rendered' && !!viewport.getImageData();
  });
}"""

# Where a stored pixel (column, row; PS3.3 C.18.6.1.1) is on the canvas, by way of the rendered image data, for
# Cornerstone's own imageToWorldCoords is wrong where pixels are not square.
_PLACES = """
  const places = (viewport, points) => {
    const { imageData } = viewport.getImageData();
    return points.map(([x, y]) => viewport.worldToCanvas(imageData.indexToWorld([x - 0.5, y - 0.5, 0])));
  };
"""

_SHOWN = """() => {
  const { viewportGridService, cornerstoneViewportService, segmentationService } = window.services;
  const { annotation } = window.cornerstoneTools;
  const viewports = [...viewportGridService.getState().viewports.keys()].map(id => {
    const viewport = cornerstoneViewportService.getCornerstoneViewport(id);
    const imageId = viewport?.getCurrentImageId?.() ?? null;
    const instance = imageId && window.cornerstone.metaData.get('instance', imageId);
    if (!instance || !viewport.getImageData()) {
      return { id, sop_instance_uid: null, modality: null, segmentations: [], boxes: [], lines: [] };
    }
    const segmentations = segmentationService.getSegmentationRepresentations(id).map(representation => {
      const segmentation = segmentationService.getSegmentation(representation.segmentationId);
      const labelmap = segmentation.representationData.Labelmap;
      // One label map for each layer of segments that overlap.
      const layers = labelmap.imageIds.map(id => window.cornerstone.cache.getImage(id).voxelManager.getScalarData());
      return {
        label: segmentation.label,
        segments: Object.values(segmentation.segments).map(segment => {
          let count = 0, x = 0, y = 0;
          const columns = instance.Columns;
          for (const values of layers) for (let i = 0; i < values.length; i++) {
            if (values[i] !== segment.segmentIndex) continue;
            count += 1; x += i % columns; y += Math.floor(i / columns);
          }
          return { index: segment.segmentIndex, label: segment.label, locked: segment.locked,
            color: [...representation.segments[segment.segmentIndex].color].slice(0, 3),
            visible: representation.segments[segment.segmentIndex].visible,
            pixels: count, centre: count ? [x / count, y / count] : null };
        }),
      };
    });
    // Back from the rendered image data, as a person's eye would read it.
    const { imageData } = viewport.getImageData();
    const stored = point => imageData.worldToIndex(point).slice(0, 2).map(v => v + 0.5);
    const shapes = tool => annotation.state.getAllAnnotations()
      .filter(a => a.metadata.toolName === tool && a.metadata.referencedImageId === imageId)
      .map(a => ({ label: a.data.hilumLabel ?? a.data.label,
        locked: annotation.locking.isAnnotationLocked(a.annotationUID),
        visible: annotation.visibility.isAnnotationVisible(a.annotationUID),
        corners: a.data.handles.points.map(p => [...stored(p)]) }));
    return { id, sop_instance_uid: instance.SOPInstanceUID, modality: instance.Modality,
      inverted: viewport.getProperties?.().invert ?? null, segmentations,
      boxes: shapes('RectangleROI'), lines: shapes('Length') };
  });
  return { protocol: window.services.hangingProtocolService.getActiveProtocol().protocol?.id, viewports };
}"""

# The colours of the screen where stored pixels are drawn: the canvas as a person sees it, overlay included.
_COLOURS = (
    "([id, points]) => {"
    + _PLACES
    + """
  const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport(id);
  const canvas = viewport.getCanvas(), scale = window.devicePixelRatio || 1;
  const { data, width } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return places(viewport, points).map(([left, top]) => {
    const start = 4 * (Math.floor(top * scale) * width + Math.floor(left * scale));
    return [...data.slice(start, start + 3)];
  });
}"""
)

# What is drawn above the canvas, in its coordinates; and where given stored pixels are.
_DRAWN = (
    "([id, points]) => {"
    + _PLACES
    + """
  const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport(id);
  const svg = viewport.element.querySelector('svg.svg-layer');
  const value = (e, name) => Number(e.getAttribute(name));
  return {
    boxes: [...svg.querySelectorAll('rect[data-id]')].map(e => ({ stroke: e.getAttribute('stroke'),
      dashes: e.getAttribute('stroke-dasharray') ?? '', width: value(e, 'stroke-width'),
      corners: [[value(e, 'x'), value(e, 'y')],
        [value(e, 'x') + value(e, 'width'), value(e, 'y') + value(e, 'height')]] })),
    lines: [...svg.querySelectorAll('line[data-id]')].map(e => ({ stroke: e.getAttribute('stroke'),
      width: value(e, 'stroke-width'), ends: [[value(e, 'x1'), value(e, 'y1')], [value(e, 'x2'), value(e, 'y2')]] })),
    labels: [...svg.querySelectorAll('text')].map(e => e.textContent),
    places: places(viewport, points).map(p => [...p]),
  };
}"""
)

_PANES = """() => [...document.querySelectorAll('[data-cy="viewport-pane"]')].map(pane => {
  const canvas = pane.querySelector('canvas.cornerstone-canvas') ?? pane.querySelector('canvas');
  if (!canvas) return { picture: false, text: pane.innerText, grays: 0 };
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4 * 97) seen.add(data[i] * 65536 + data[i + 1] * 256 + data[i + 2]);
  return { picture: true, text: pane.innerText, grays: seen.size };
})"""

# The settled state: what was asked for has been drawn, and nothing is under way.
_SETTLED = "() => { const s = window.hilum?.status(); return !!s && !s.busy; }"


@dataclass
class Viewer:
    """One browser window, and what it did.

    Parameters
    ----------
    requests
        Each request that the window and its workers made, as ``GET http://...``.
    console
        Errors that the page wrote to the console or threw.
    """

    page: Page
    base_url: str
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def open_study(self, study_instance_uid: str) -> None:
        """Follow the deep link and wait until every viewport shows its picture and our results are drawn."""
        self.requests.clear()
        self.console.clear()
        self.page.goto(f"{self.base_url}/ohif/viewer?StudyInstanceUIDs={study_instance_uid}")
        self.settle()

    def settle(self) -> None:
        """Wait until every viewport shows its picture and nothing is under way."""
        self.wait(_RENDERED)
        self.wait(_SETTLED)

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        """Wait until something holds that is asked in Python, then until the window has settled."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
            self.page.wait_for_timeout(100)
        self.settle()

    def wait(self, condition: str, seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait until a JavaScript predicate holds."""
        self.page.wait_for_function(condition, timeout=seconds * 1000)

    def shown(self) -> dict[str, Any]:
        """What each viewport shows, in stored pixels: image, segmentations with their segments, boxes."""
        return dict(self.page.evaluate(_SHOWN))

    def viewports(self) -> list[dict[str, Any]]:
        """The viewports of `shown`, from left to right."""
        return list(self.shown()["viewports"])

    def colours(self, viewport_id: str, points: Sequence[tuple[float, float]]) -> list[tuple[int, int, int]]:
        """Red, green and blue, 0 to 255, on the screen at stored pixels (column, row) of the shown image."""
        return [tuple(c) for c in self.page.evaluate(_COLOURS, [viewport_id, [list(p) for p in points]])]

    def drawn(self, viewport_id: str, points: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
        """Boxes, lines and labels as they are drawn, on the canvas; and where on it given stored pixels are."""
        return dict(self.page.evaluate(_DRAWN, [viewport_id, [list(p) for p in points]]))

    def panes(self) -> list[dict[str, Any]]:
        """Of each pane: whether it has a picture, how many colours a sample of its pixels has, and its text."""
        return list(self.page.evaluate(_PANES))

    def listed(self) -> Locator:
        """The entries of the study's list: pictures and documents."""
        return self.page.locator('[data-cy="study-browser-thumbnail"], [data-cy="study-browser-thumbnail-no-image"]')

    def entry(self, text: str) -> Locator:
        """The one entry of the list that has a text."""
        return self.listed().filter(has_text=text)

    def notices(self) -> list[str]:
        """Short messages of the viewer that are on the screen, and dialogs."""
        boxes = self.page.locator("[data-sonner-toast], dialog, [role=dialog], [role=alertdialog]")
        return boxes.all_inner_texts()

    def ours(self) -> dict[str, Any]:
        """What ``window.hilum`` says of itself."""
        return dict(self.page.evaluate("() => window.hilum.status()"))

    def foreign_requests(self) -> list[str]:
        """Requests to anyone but this node."""
        own = urlsplit(self.base_url).netloc
        return [
            r for r in self.requests if r.split(" ", 1)[1].startswith("http") and urlsplit(r.split()[1]).netloc != own
        ]

    def screenshot(self, name: str) -> Path:
        """Keep a picture of the window as a test artefact."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.page.context.close()


@contextmanager
def launch() -> Iterator[Callable[[str, Credentials], Viewer]]:
    """Start Chromium; yields a function that opens a logged-in window, skips the test where there is no Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        try:
            yield lambda base_url, credentials: _open(browser, base_url, credentials)
        finally:
            browser.close()


def _open(browser: Browser, base_url: str, credentials: Credentials) -> Viewer:
    context = browser.new_context(
        viewport={"width": 1280, "height": 800},
        http_credentials={"username": credentials.user, "password": credentials.password, "origin": base_url},
        ignore_https_errors=base_url.startswith("https:"),  # Chromium has no authority of a test's
    )
    # a node has a log-in page; Orthanc without our plugin, where there is none, asks for the password by itself
    fields = {"name": credentials.user, "password": credentials.password}
    context.request.post(f"{base_url}/hilum/login", form=fields, headers={"Origin": base_url}, max_redirects=0)
    viewer = Viewer(context.new_page(), base_url)

    def record(request: Request) -> None:
        viewer.requests.append(f"{request.method} {request.url}")

    context.on("request", record)
    viewer.page.on("console", lambda m: viewer.console.append(m.text) if m.type == "error" else None)
    viewer.page.on("pageerror", lambda error: viewer.console.append(str(error)))
    return viewer

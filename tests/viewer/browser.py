"""Drives a real headless Chromium and asks the running viewer what it shows.

What a test reads in `Viewer.shown` comes from the services of OHIF and the state of Cornerstone, not from
``window.hilum``: our own account of ourselves is checked against it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

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

_RENDERED = """() => {
  const services = window.services;
  if (!services || !window.cornerstone || !window.hilum?.status()) return false;
  const viewports = [...services.viewportGridService.getState().viewports.keys()];
  return viewports.length > 0 && viewports.every(id => {
    const viewport = services.cornerstoneViewportService.getCornerstoneViewport(id);
    return viewport?.getImageIds?.().length > 0 && viewport.viewportStatus === 'rendered' && !!viewport.getImageData();
  });
}"""

_SHOWN = """() => {
  const { viewportGridService, cornerstoneViewportService, segmentationService } = window.services;
  const { annotation } = window.cornerstoneTools;
  const viewports = [...viewportGridService.getState().viewports.keys()].map(id => {
    const viewport = cornerstoneViewportService.getCornerstoneViewport(id);
    const imageId = viewport.getCurrentImageId?.() ?? null;
    const instance = imageId && window.cornerstone.metaData.get('instance', imageId);
    const segmentations = segmentationService.getSegmentationRepresentations(id).map(representation => {
      const segmentation = segmentationService.getSegmentation(representation.segmentationId);
      const labelmap = segmentation.representationData.Labelmap;
      const values = window.cornerstone.cache.getImage(labelmap.imageIds[0]).voxelManager.getScalarData();
      return {
        label: segmentation.label,
        segments: Object.values(segmentation.segments).map(segment => {
          let count = 0, x = 0, y = 0;
          const columns = instance.Columns;
          for (let i = 0; i < values.length; i++) if (values[i] === segment.segmentIndex) {
            count += 1; x += i % columns; y += Math.floor(i / columns);
          }
          return { index: segment.segmentIndex, label: segment.label, locked: segment.locked,
            color: [...representation.segments[segment.segmentIndex].color].slice(0, 3),
            visible: representation.segments[segment.segmentIndex].visible,
            pixels: count, centre: count ? [x / count, y / count] : null };
        }),
      };
    });
    const boxes = annotation.state.getAllAnnotations()
      .filter(a => a.metadata.toolName === 'RectangleROI' && a.metadata.referencedImageId === imageId)
      .map(a => ({ label: a.data.label, locked: annotation.locking.isAnnotationLocked(a.annotationUID),
        visible: annotation.visibility.isAnnotationVisible(a.annotationUID),
        corners: a.data.handles.points.map(p => [...window.cornerstone.utilities.worldToImageCoords(imageId, p)]) }));
    return { id, sop_instance_uid: instance?.SOPInstanceUID ?? null, modality: instance?.Modality ?? null,
      inverted: viewport.getProperties?.().invert ?? null, segmentations, boxes };
  });
  return { protocol: window.services.hangingProtocolService.getActiveProtocol().protocol?.id, viewports };
}"""

# The colour of the screen where a stored pixel is drawn: the canvas as a person sees it, overlay included.
_COLOUR = """([id, x, y]) => {
  const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport(id);
  const world = window.cornerstone.utilities.imageToWorldCoords(viewport.getCurrentImageId(), [x, y]);
  const canvas = viewport.getCanvas(), scale = window.devicePixelRatio || 1;
  const [left, top] = viewport.worldToCanvas(world);
  const [column, row] = [Math.round(left * scale), Math.round(top * scale)];
  return [...canvas.getContext('2d').getImageData(column, row, 1, 1).data].slice(0, 3);
}"""

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
        self.page.goto(f"{self.base_url}/ohif/viewer?StudyInstanceUIDs={study_instance_uid}")
        self.settle()

    def settle(self) -> None:
        """Wait until every viewport shows its picture and nothing is under way."""
        self.wait(_RENDERED)
        self.wait(_SETTLED)

    def wait(self, condition: str, seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait until a JavaScript predicate holds."""
        self.page.wait_for_function(condition, timeout=seconds * 1000)

    def shown(self) -> dict[str, Any]:
        """What each viewport shows, in stored pixels: image, segmentations with their segments, boxes."""
        return dict(self.page.evaluate(_SHOWN))

    def viewports(self) -> list[dict[str, Any]]:
        """The viewports of `shown`, from left to right."""
        return list(self.shown()["viewports"])

    def colour(self, viewport_id: str, x: float, y: float) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255, on the screen at a stored pixel (column, row) of the shown image."""
        red, green, blue = self.page.evaluate(_COLOUR, [viewport_id, x, y])
        return red, green, blue

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
    )
    viewer = Viewer(context.new_page(), base_url)

    def record(request: Request) -> None:
        viewer.requests.append(f"{request.method} {request.url}")

    context.on("request", record)
    viewer.page.on("console", lambda m: viewer.console.append(m.text) if m.type == "error" else None)
    viewer.page.on("pageerror", lambda error: viewer.console.append(str(error)))
    return viewer

"""Fixtures of the browser tests: a node, a browser, and a window of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from browser import Viewer, launch
from viewer_node import ViewerNode, start_viewer_node

from orthanc_plugin.credentials import Credentials
from orthanc_plugin.settings import load_settings
from orthanc_plugin.viewer.prepare import is_prepared


@pytest.fixture(scope="session")
def viewer_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerNode]:
    """A real Orthanc that serves the viewer, for the session; tests use studies of their own."""
    files = load_settings(os.environ).viewer
    if not is_prepared(files):
        pytest.skip(f"the viewer is not prepared in {files}: python -m orthanc_plugin.viewer.prepare")
    with start_viewer_node(tmp_path_factory.mktemp("viewer"), files) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Callable[[str, Credentials], Viewer]]:
    """Opens pages in one headless Chromium: `chromium(base_url, credentials)`."""
    with launch() as open_viewer:
        yield open_viewer


@pytest.fixture(scope="module")
def viewer(viewer_node: ViewerNode, chromium: Callable[[str, Credentials], Viewer]) -> Iterator[Viewer]:
    """A logged-in browser window at the viewer node; it is closed after its module, for an open one keeps drawing."""
    with chromium(viewer_node.settings.http_url, viewer_node.credentials) as page:
        yield page

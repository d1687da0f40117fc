"""The viewer's files as Orthanc delivers them: what it does to headers, codings and paths on the way."""

from __future__ import annotations

import re

import pytest
from viewer_node import ViewerNode

pytestmark = pytest.mark.viewer


def test_the_main_bundle_arrives_compressed_once_and_is_then_cached(viewer_node: ViewerNode) -> None:
    page = viewer_node.http.get("/ohif/viewer", params={"StudyInstanceUIDs": "1.2.3"})
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    found = re.search(r'src="(/ohif/[^"]*app\.bundle[^"]*)"', page.text)
    assert found is not None
    script = viewer_node.http.get(found[1], headers={"Accept-Encoding": "gzip"})
    assert script.headers["Content-Encoding"] == "gzip"
    assert int(script.headers["Content-Length"]) < 5_000_000 < len(script.content), "decoded once by the client"
    assert script.text.lstrip().startswith(("/", "(", "v", '"')), "JavaScript, not a second layer of gzip"
    assert "immutable" in script.headers["Cache-Control"]

    again = viewer_node.http.get("/ohif/viewer", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_orthanc_keeps_the_security_headers_and_the_refusals(viewer_node: ViewerNode) -> None:
    for path, status in (("/ohif", 200), ("/ohif/app-config.js", 200), ("/ohif/gone.js", 404)):
        answer = viewer_node.http.get(path)
        assert answer.status_code == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
    for path in ("/ohif/%2e%2e/%2e%2e/etc/passwd", "/ohif/..%2f..%2f..%2fetc%2fpasswd", "/ohif/complete"):
        assert b"root:" not in viewer_node.http.get(path).content


def test_the_viewer_is_not_given_to_strangers(viewer_node: ViewerNode) -> None:
    for path in ("/ohif/", "/ohif/app-config.js", "/dicom-web/studies"):
        assert viewer_node.http.get(path, auth=("nobody", "wrong")).status_code == 401

"""Which files of OHIF's published build we use, and how they are changed to live below ``/ohif/``.

The rule: pure functions over names and bytes, and nothing passes silently: a build in which we do not find what we
mean to change is refused, because it would look for its parts at the root of Orthanc and show a blank page.
"""

from __future__ import annotations

import json
import re

BASE = "/ohif/"

# ONNX Runtime (AI-assisted drawing), whole-slide microscopy and the example customizations: 156 of 204 MB, and no
# part of showing a radiograph. The service worker and the OpenID helper pages load scripts of third parties.
_UNUSED_FOLDERS = ("ort/", "dicom-microscopy-viewer/", "customizations/")
_UNUSED_FILES = frozenset(
    {
        "app-config.js",  # ours is served in its place
        "init-service-worker.js",
        "sw.js",
        "silent-refresh.html",
        "google.js",
        "oidc-client.min.js",
        "es6-shim.min.js",
        "polyfill.min.js",
        "_headers",
        "_redirects",
    }
)
_ICONS = frozenset(
    {
        "assets/favicon.ico",
        "assets/favicon-16x16.png",
        "assets/favicon-32x32.png",
        "assets/android-chrome-192x192.png",
        "assets/android-chrome-512x512.png",
    }
)

_PUBLIC_PATH = b'__webpack_require__.p = "/"'
_STYLE_URL = re.compile(rb"url\((['\"]?)/(?!/)")
_TAG = re.compile(r"<(?:link|meta)\b[^>]*>")
_SERVICE_WORKER = re.compile(r'<script\b[^>]*src="/init-service-worker\.js"[^>]*></script>')


class UnknownLayout(Exception):
    """A build of OHIF that is not laid out as the versions that we know."""


def is_used(name: str) -> bool:
    """Whether a file of the build is served; `name` is relative to ``dist/``."""
    if name.startswith(_UNUSED_FOLDERS) or name in _UNUSED_FILES or name.endswith((".map", ".webapp")):
        return False
    if name.startswith("assets/"):
        return name in _ICONS or name.startswith("assets/images/")
    return True


def rebase(name: str, content: bytes, assets: str) -> bytes:
    """Return the file as it has to be below `BASE`.

    Parameters
    ----------
    name
        Relative to ``dist/``.
    assets
        Path below which every file but ``index.html`` is found, e.g. ``/ohif/3.13.2-1a2b3c4d/``.

    Raises
    ------
    UnknownLayout
        When a place that must be changed is not there.
    """
    if name == "index.html":
        return _index(content.decode("utf-8"), assets).encode("utf-8")
    if name == "manifest.json":
        return _web_manifest(content, assets)
    if name.endswith(".css"):
        return _STYLE_URL.sub(rb"url(\1" + assets.encode(), content)
    if name.endswith(".js"):
        # The main bundle and each web worker carry a copy of webpack's loader.
        return content.replace(_PUBLIC_PATH, b'__webpack_require__.p = "' + assets.encode() + b'"')
    return content


def check_rebased(files_with_public_path: int, has_index: bool) -> None:
    """Refuse a build whose loaders were not found.

    Parameters
    ----------
    files_with_public_path
        In how many files `rebase` changed webpack's public path: the main bundle and at least one worker.
    """
    if not has_index or files_with_public_path < 2:
        raise UnknownLayout(
            f"index.html {'found' if has_index else 'missing'}, webpack loaders found in {files_with_public_path} files"
        )


def has_public_path(content: bytes) -> bool:
    """Whether a script says where its parts are."""
    return _PUBLIC_PATH in content


def _index(html: str, assets: str) -> str:
    def keep(match: re.Match[str]) -> str:
        tag = match[0]
        named = re.search(r'href="/([^"]*)"', tag)
        if named is None:
            return "" if "msapplication" in tag or "apple" in tag else tag
        return tag if is_used(named[1]) else ""

    html = _SERVICE_WORKER.sub("", _TAG.sub(keep, html))
    for old, new in (
        ('window.PUBLIC_URL="/"', f'window.PUBLIC_URL="{BASE}"'),
        ('src="/app-config.js"', f'src="{BASE}app-config.js"'),
        ('src="/app.bundle.', f'src="{assets}app.bundle.'),
        ('href="/app.bundle.css"', f'href="{assets}app.bundle.css"'),
        ("<title>OHIF Viewer</title>", "<title>Hilum viewer</title>"),
    ):
        if old not in html:
            raise UnknownLayout(f"index.html does not hold {old}")
        html = html.replace(old, new)
    return re.sub(r'\b(href|src)="/(?!ohif/)', rf'\1="{assets}', html)


def _web_manifest(content: bytes, assets: str) -> bytes:
    manifest = json.loads(content)
    manifest["start_url"] = BASE
    manifest["icons"] = [
        {**icon, "src": assets + icon["src"].lstrip("/")}
        for icon in manifest["icons"]
        if is_used(icon["src"].lstrip("/"))
    ]
    return json.dumps(manifest).encode()

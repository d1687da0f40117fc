"""The viewer's files: fetched, checked, re-based and served as a browser and an administrator expect it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from orthanc_plugin.viewer import prepare, rebase
from orthanc_plugin.viewer.prepare import Pin, ViewerNotPrepared
from orthanc_plugin.viewer.serving import Site, load_site

QUIET = Console(quiet=True)
LOADER = 'const a=1;\n__webpack_require__.p = "/";\n'
INDEX = (
    '<!doctype html><html><head><meta name="apple-mobile-web-app-capable" content="yes">'
    '<script>window.PUBLIC_URL="/"</script><link rel="manifest" href="/manifest.json">'
    '<link rel="icon" href="/assets/favicon-16x16.png"><link rel="apple-touch-icon" href="/assets/apple.png">'
    '<script src="/app-config.js"></script><script type="module" src="/init-service-worker.js"></script>'
    '<title>OHIF Viewer</title><script defer src="/app.bundle.0123456789abcdef.js"></script>'
    '<link href="/app.bundle.css" rel="stylesheet"></head><body></body></html>'
)
FILES = {
    "package/package.json": "{}",
    "package/dist/index.html": INDEX,
    "package/dist/app.bundle.0123456789abcdef.js": LOADER * 200,
    "package/dist/worker.bundle.0123456789abcdef.js": LOADER,
    "package/dist/app.bundle.css": "a{src:url(/font.woff2)} b{src:url('/x.png')} c{src:url(data:x)}",
    "package/dist/manifest.json": json.dumps(
        {"icons": [{"src": "/assets/android-chrome-192x192.png"}, {"src": "/assets/android-chrome-36x36.png"}]}
    ),
    "package/dist/assets/favicon-16x16.png": "png",
    "package/dist/app-config.js": "window.config = 'theirs'",
    "package/dist/sw.js": "importScripts('https://example.org/x.js')",
    "package/dist/app.js.map": "{}",
    "package/dist/ort/ort.js": "x",
}


def make_package(path: Path, files: dict[str, str], extra: tarfile.TarInfo | None = None) -> Pin:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        if extra is not None:
            archive.addfile(extra)
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return Pin("@ohif/app", "9.9.9", f"sha512-{digest}")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    pin = make_package(tmp_path / "ohif.tgz", FILES)
    prepare.prepare(tmp_path / "ohif", QUIET, tmp_path / "ohif.tgz", pin)
    return load_site(tmp_path / "ohif")


def assets(site: Site) -> str:
    return str(json.loads((site.dest / "manifest.json").read_text())["assets"])


def test_every_loader_style_and_link_points_below_ohif(site: Site) -> None:
    base = assets(site)
    assert base.startswith("/ohif/9.9.9-")
    for name in ("app.bundle.0123456789abcdef.js", "worker.bundle.0123456789abcdef.js"):
        script = site.respond(base + name).body.decode()
        assert f'__webpack_require__.p = "{base}"' in script
        assert '.p = "/"' not in script
    style = site.respond(base + "app.bundle.css").body.decode()
    assert style == f"a{{src:url({base}font.woff2)}} b{{src:url('{base}x.png')}} c{{src:url(data:x)}}"
    index = site.respond("/ohif/viewer").body.decode()
    assert 'src="/ohif/app-config.js"' in index
    assert 'window.PUBLIC_URL="/ohif/"' in index
    assert f'src="{base}app.bundle.0123456789abcdef.js"' in index
    assert f'href="{base}app.bundle.css"' in index
    assert "service-worker" not in index
    assert "apple" not in index
    manifest = json.loads(site.respond(base + "manifest.json").body)
    assert [i["src"] for i in manifest["icons"]] == [base + "assets/android-chrome-192x192.png"]


def test_what_is_never_used_is_left_out(site: Site) -> None:
    for name in ("ort/ort.js", "sw.js", "app.js.map", "package.json"):
        assert site.respond(f"/ohif/{name}").status == 404


def test_deep_links_get_the_page_and_missing_files_get_404(site: Site) -> None:
    for path in ("/ohif", "/ohif/", "/ohif/viewer", "/ohif/viewer?StudyInstanceUIDs=1.2.3", "/ohif/notfoundstudy"):
        answer = site.respond(path)
        assert answer.status == 200
        assert answer.mime == "text/html; charset=utf-8"
        assert b"Hilum viewer" in answer.body
    for path in ("/ohif/gone.js", "/ohif/assets/gone.png", assets(site) + "gone.js", assets(site) + "folder"):
        assert site.respond(path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/ohif/../../etc/passwd",
        "/ohif//etc/passwd",
        "/ohif/..%2f..%2fetc/passwd",
        "/ohif/manifest.json/../complete",
        "/ohif/complete",
        "/ohif/files/",
        "/ohif/app-config.js/../serving.py",
        "/ohif/\x00",
    ],
)
def test_no_path_leads_outside_the_manifest(site: Site, path: str) -> None:
    answer = site.respond(path)
    assert answer.status == 404 or b"Hilum viewer" in answer.body


def test_assets_are_cached_for_ever_and_pages_are_asked_for_again(site: Site) -> None:
    assert "immutable" in site.respond(assets(site) + "app.bundle.css").headers["Cache-Control"]
    for path in ("/ohif/viewer", "/ohif/app-config.js", "/ohif/app.bundle.css"):
        answer = site.respond(path)
        assert answer.headers["Cache-Control"] == "no-cache"
        again = site.respond(path, if_none_match=answer.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        assert site.respond(path, if_none_match='"other", W/' + answer.headers["ETag"]).status == 304
        assert site.respond(path, if_none_match='"other"').status == 200


def test_compressed_and_plain_answers_are_the_same_file_under_different_tags(site: Site) -> None:
    path = assets(site) + "app.bundle.0123456789abcdef.js"
    packed, plain = site.respond(path, "br, gzip;q=0.8"), site.respond(path, "gzip;q=0, identity")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 10
    assert packed.headers["ETag"] != plain.headers["ETag"]
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"


def test_every_answer_carries_the_security_headers(site: Site) -> None:
    for path in ("/ohif/viewer", "/ohif/app-config.js", "/ohif/gone.js", assets(site) + "app.bundle.css"):
        headers = site.respond(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
        assert "connect-src 'self'" in headers["Content-Security-Policy"]


def test_our_configuration_is_read_live(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "app-config"
    config.mkdir()
    (config / "2.js").write_text("two")
    (config / "1.js").write_text("one")
    live = Site(site.dest, config)
    first = live.respond("/ohif/app-config.js")
    (config / "1.js").write_text("ONE")
    second = live.respond("/ohif/app-config.js", if_none_match=first.headers["ETag"])
    assert first.body.index(b"one") < first.body.index(b"two"), "parts come in the order of their names"
    assert b"ONE" in second.body


def test_a_node_without_the_viewer_says_so_until_it_is_there(tmp_path: Path) -> None:
    site = load_site(tmp_path / "ohif")
    answer = site.respond("/ohif/viewer")
    assert answer.status == 503
    assert b"./hilum up" in answer.body
    pin = make_package(tmp_path / "ohif.tgz", FILES)
    prepare.prepare(tmp_path / "ohif", QUIET, tmp_path / "ohif.tgz", pin)
    assert site.respond("/ohif/viewer").status == 200


def test_preparing_again_changes_nothing_and_a_damaged_folder_is_made_anew(site: Site, tmp_path: Path) -> None:
    pin = make_package(tmp_path / "ohif.tgz", FILES)
    pin = Pin(pin.package, pin.version, pin.integrity)
    prepare.prepare(site.dest, QUIET, tmp_path / "ohif.tgz", pin)
    before = (site.dest / "complete").stat().st_ino
    prepare.prepare(site.dest, QUIET, tmp_path / "no such file", pin)
    assert (site.dest / "complete").stat().st_ino == before
    next((site.dest / "files").glob("*.gz")).unlink()
    assert not prepare.is_prepared(site.dest, pin)
    prepare.prepare(site.dest, QUIET, tmp_path / "ohif.tgz", pin)
    assert prepare.is_prepared(site.dest, pin)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".ohif-")] == []


def test_another_file_than_the_pinned_one_is_refused_and_the_old_viewer_stays(site: Site, tmp_path: Path) -> None:
    old = (site.dest / "complete").read_text()
    make_package(tmp_path / "evil.tgz", {**FILES, "package/dist/evil.js": "x"})
    with pytest.raises(ViewerNotPrepared, match="not the file that was pinned"):
        prepare.prepare(site.dest, QUIET, tmp_path / "evil.tgz")
    assert (site.dest / "complete").read_text() == old


def test_a_build_of_another_layout_is_refused(tmp_path: Path) -> None:
    pin = make_package(tmp_path / "a.tgz", {**FILES, "package/dist/index.html": "<html></html>"})
    with pytest.raises(ViewerNotPrepared, match="not laid out as expected"):
        prepare.prepare(tmp_path / "ohif", QUIET, tmp_path / "a.tgz", pin)
    without_loaders = {name: text.replace("__webpack_require__.p", "q") for name, text in FILES.items()}
    pin = make_package(tmp_path / "b.tgz", without_loaders)
    with pytest.raises(ViewerNotPrepared, match="loaders found in 0 files"):
        prepare.prepare(tmp_path / "ohif", QUIET, tmp_path / "b.tgz", pin)
    assert not (tmp_path / "ohif").exists()


def test_names_and_links_in_a_package_cannot_write_elsewhere(tmp_path: Path) -> None:
    link = tarfile.TarInfo("package/dist/link.js")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    pin = make_package(tmp_path / "a.tgz", {**FILES, "package/dist/../../../escaped.js": "x"}, link)
    prepare.prepare(tmp_path / "deep" / "ohif", QUIET, tmp_path / "a.tgz", pin)
    assert list(tmp_path.rglob("escaped.js")) == []
    site = load_site(tmp_path / "deep" / "ohif")
    assert site.respond("/ohif/link.js").status == 404


def test_without_npm_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ViewerNotPrepared, match="apt install npm"):
        prepare.prepare(tmp_path / "ohif", QUIET)
    assert list(tmp_path.iterdir()) == []


def test_what_npm_complains_about_is_passed_on_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'ENOTFOUND: no such registry' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ViewerNotPrepared, match=r"(?s)ENOTFOUND.*--tarball FILE"):
        prepare.prepare(tmp_path / "ohif", QUIET)


def test_the_pinned_viewer_where_it_is_prepared_has_no_path_left_to_the_root() -> None:
    dest = prepare._DEFAULT
    if not prepare.is_prepared(dest):
        pytest.skip(f"the viewer is not prepared in {dest}")
    site = load_site(dest)
    loaders = 0
    for file in json.loads((dest / "manifest.json").read_text())["files"]:
        body = site.respond(rebase.BASE + file["path"]).body
        assert hashlib.sha256(body).hexdigest() == file["sha256"]
        assert len(body) == file["size"]
        if file["path"].endswith(".js"):
            assert not rebase.has_public_path(body), file["path"]
            loaders += f'__webpack_require__.p = "{assets(site)}"'.encode() in body
        if file["path"].endswith((".css", ".html")):
            assert b"url(/a" not in body
            assert b'="/a' not in body
    assert loaders == 8, "the main bundle and its workers"
    assert sum(f.stat().st_size for f in dest.rglob("*") if f.is_file()) < 12e6

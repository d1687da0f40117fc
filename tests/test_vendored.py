"""The scripts of others that the worklist uses: which they are, and how they are served."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.hosting import routes
from orthanc_plugin.hosting.messages import Request
from orthanc_plugin.worklist import page

FOLDER = Path(page.__file__).parent / "static" / "vendor"
NOTED = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE))
NAMES = sorted(path.name for path in FOLDER.glob("*.js"))
NOBODY: Any = None  # a static file asks for nothing of the site


def test_each_is_noted() -> None:
    assert sorted(NOTED.values()) == NAMES
    assert len(NOTED) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_browser_gets_what_its_note_says_once_and_keeps_it(name: str) -> None:
    answer = routes.respond(Request(f"/hilum/static/{name}"), NOBODY)
    assert answer.status == 200
    assert NOTED[hashlib.sha256(answer.body).hexdigest()] == name
    assert answer.mime == "text/javascript; charset=utf-8"
    assert re.search(r"-\d+\.\d+\.\d+\.min\.js$", name), "kept for a year, so another version has another name"
    assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("name", ["worklist.js", "hilum.css"])
def test_our_own_are_asked_for_anew(name: str) -> None:
    assert routes.respond(Request(f"/hilum/static/{name}"), NOBODY).headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["vendor/README.md", "README.md", "LICENSE", "../page.py", "vendor", "..", "x.js"])
def test_nothing_else_is_served(name: str) -> None:
    assert routes.respond(Request(f"/hilum/static/{name}"), NOBODY).status == 404


def test_the_worklist_loads_them_before_its_own() -> None:
    source, _, _ = page.environment().loader.get_source(page.environment(), "worklist.html")  # type: ignore[union-attr]
    assert re.findall(r'<script src="/hilum/static/([^"]+)" defer>', source) == [*NAMES, "worklist.js"]

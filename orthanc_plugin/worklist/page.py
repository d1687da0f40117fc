"""The worklist as HTML: one template fragment serves the first load and every refresh."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from orthanc_plugin.worklist.rows import DISCLAIMER, WorklistRow

_STATUS_WORDS = {
    "queued": "Queued",
    "running": "Reading",
    "answered": "Answered, waits for further images",
    "done": "Done",
    "not_processed": "Not processed",
    "quarantined": "Quarantined",
}
_CAUTIONS = {
    "ap_view": "AP view: the heart looks larger",
    "bedside": "Taken at the bedside",
    "age_unknown": "Age unknown",
    "age_outside_validation": "Younger than the models were validated for",
    "view_unknown": "PA or AP is not known: the heart may look larger",
    "view_from_pixels": "The header does not tell the view; the pixels do",
    "body_part_doubtful": "The header names another body part; the pixels show a chest",
    "pixels_doubtful": "Perhaps not an upright frontal chest of an adult: see what the pixels show",
    "gate_failed": "The pixel gate failed; the header alone was believed",
    "collimated": "Narrow field: much of the picture is behind the collimator",
    "lungs_cut_off": "A lung reaches the edge of the picture",
    "clipped_grays": "Gray values cut off: parts are all black or all white",
    "low_contrast": "Hardly any contrast",
    "extreme_exposure": "Far from the target exposure (Deviation Index)",
}


def render_page(
    listed: list[WorklistRow] | None, status: dict[str, Any], now: float, *, visitor: tuple[str, str] = ("", "")
) -> str:
    """The whole page; without rows (None) when the ledger cannot be asked.

    Parameters
    ----------
    visitor
        Name and role of who is logged in.
    """
    return environment().get_template("worklist.html").render(_context(listed, status, now), visitor=visitor)


def render_rows(listed: list[WorklistRow], status: dict[str, Any], now: float) -> str:
    """The fragment that changes: problems, counts and rows."""
    return environment().get_template("rows.html").render(_context(listed, status, now))


def render_problems(status: dict[str, Any]) -> str:
    """The part of the fragment that says what is wrong."""
    return environment().get_template("problems.html").render(status=status)


def render_login(way: str, said: str) -> str:
    """The page to log in.

    Parameters
    ----------
    way
        Where to go afterwards, a path of this node.
    said
        What came of the last try; empty when there was none.
    """
    return environment().get_template("login.html").render(way=way, said=said, disclaimer=DISCLAIMER)


def _context(listed: list[WorklistRow] | None, status: dict[str, Any], now: float) -> dict[str, Any]:
    return {"rows": listed, "status": status, "now": now, "disclaimer": DISCLAIMER}


@cache
def environment() -> Environment:
    """The templates, with the filters that all pages use."""
    environment = Environment(
        loader=PackageLoader("orthanc_plugin.worklist"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["person"] = person_name
    environment.filters["dicom_time"] = dicom_time
    environment.filters["waited"] = waited
    environment.filters["clock"] = lambda seconds: datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")
    environment.filters["status_words"] = lambda status: _STATUS_WORDS.get(status, status)
    environment.filters["caution_words"] = lambda code: _CAUTIONS.get(code, code.replace("_", " ").capitalize())
    return environment


def person_name(name: str) -> str:
    """A PN value (PS3.5 6.2) as people read it: the first group that holds anything, ``Family, Given``."""
    group = next((g for g in name.split("=") if g.strip("^ ")), "")
    parts = [part.strip() for part in group.split("^")]
    given = " ".join(part for part in parts[1:3] if part)
    return f"{parts[0]}, {given}" if given else parts[0]


def dicom_time(date: str, time: str) -> str:
    """Study Date and Study Time (DA, TM) as ``2026-11-21 04:17``; what is not there is left out."""
    day = f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 and date.isdigit() else date
    hour = f"{time[:2]}:{time[2:4]}" if len(time) >= 4 and time[:4].isdigit() else ""
    return f"{day} {hour}".strip()


def waited(seconds: float) -> str:
    """A duration as ``40 s``, ``12 min`` or ``3 h 05``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02d}"

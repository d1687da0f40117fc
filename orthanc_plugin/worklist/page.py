"""The worklist as HTML: one template fragment serves the first load and every refresh."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from models.names import in_words
from orthanc_plugin.worklist.listing import SORT_WORDS, STATUS_WORDS, Listing, Look, Opinion, minutes, waiting
from orthanc_plugin.worklist.rows import DISCLAIMER, WorklistRow

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


# as the help says it: keys, and what they do
KEYS = (
    (("j", "k"), "the next study, the one before"),
    (("Enter",), "open it in OHIF; with Shift in a second window, which then follows"),
    (("v",), "everything about it, and what the AI did not look at"),
    (("c",), "claim it, or release it"),
    (("r",), "mark it as read, or unread"),
    (("a", "d"), "agree, disagree with the finding that has the focus, else the first; with Shift and a comment"),
    (("\u2190", "\u2192"), "the finding before, the next one"),
    (("n",), "write a note"),
    (("u",), "undo my last mark"),
    (("J", "K"), "the next page, the page before"),
    (("x",), "tick it, or untick it"),
    (("b",), "to what is done with all that are ticked"),
    (("/",), "search"),
    (("g",), "then a: all, u: unread, c: unread critical, m: my list, f: failed, n: not processed"),
    (("?",), "these keys"),
)
_BACKLOG_SECONDS = 7 * 86_400.0  # unread for longer: perhaps it was read elsewhere
# Findings offered where one is asked for; any other key can be written.
_OFFERED = (
    "pneumothorax", "effusion", "lung_opacity", "consolidation", "pneumonia", "edema", "cardiomegaly", "nodule", "mass",
    "atelectasis", "infiltration", "emphysema", "fibrosis", "pleural_thickening", "hernia", "fracture", "tuberculosis",
)  # fmt: skip


def render_page(listing: Listing, status: dict[str, Any], now: float, *, ledger: bool = True) -> str:
    """The whole page.

    Parameters
    ----------
    ledger
        False when it cannot be asked, so that nobody knows which studies there are.
    """
    return environment().get_template("worklist.html").render(_context(listing, status, now, ledger))


def render_rows(listing: Listing, status: dict[str, Any], now: float) -> str:
    """The fragment that changes: problems, the filter in force and rows; from one minute to the next the same, if
    nothing has happened.
    """
    return environment().get_template("rows.html").render(_context(listing, status, now, True))


def seen_as(listing: Listing, status: dict[str, Any], now: float) -> str:
    """What `render_rows` would show, as a short tag: the same as long as nothing changes, without rendering it.

    A cursor names the moment at which it was made, so that only its being there counts: the one that a browser has
    leads on from what it shows.
    """
    shown = replace(listing, next="more" if listing.next else "", previous="more" if listing.previous else "")
    over = [now >= row.reading.due_at for row in listing.rows]
    known = [status[name] for name in ("version", "state", "evaluated", "problems", "ae_title", "dicom_port")]
    return hashlib.sha256(pickle.dumps((shown, known, over, now // 60))).hexdigest()[:24]


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


def render_message(
    what: str, then: Sequence[str], problems: Sequence[Mapping[str, Any]], *, again: str, look: Look
) -> str:
    """A page in place of another.

    Parameters
    ----------
    what, then
        What happened; and sentences that say what to do.
    problems
        Of the node, as ``GET /hilum/api/status`` gives them.
    again
        Where to try once more; empty when that is no use.
    """
    template = environment().get_template("message.html")
    return template.render(what=what, then=then, problems=problems, again=again, look=look, disclaimer=DISCLAIMER)


def _context(listing: Listing, status: dict[str, Any], now: float, ledger: bool) -> dict[str, Any]:
    return {
        "it": listing,
        "next_up": listing.next_up,
        "backlog": any(r.reading.read_at is None and now - r.received_at > _BACKLOG_SECONDS for r in listing.rows),
        "status": status,
        "now": now,
        "ledger": ledger,
        "disclaimer": DISCLAIMER,
        "keys": KEYS,
        "offered": [in_words(key) for key in _OFFERED],
        "status_words": STATUS_WORDS,
        "sort_words": lambda sort: SORT_WORDS[sort.lstrip("-")] + (", descending" if sort.startswith("-") else ""),
        "waiting": waiting,
        "head": lambda *told: _head(listing, *told),
        "opinion": lambda row, finding: _opinion(listing.opinions_of(row, finding)),
    }


def _head(listing: Listing, column: str, words: str, css: str, unverified: str = "") -> Markup:
    """The head of a column by which the list can be sorted; and what is said beside it of what the AI states."""
    sorted_by = listing.sort.lstrip("-") == column
    way = ("descending" if listing.sort.startswith("-") else "ascending") if sorted_by else ""
    arrow = {"ascending": " \u2191", "descending": " \u2193", "": ""}[way]
    return Markup(
        '<th scope="col" class="{}"{}><button class="plain" form="sorting" name="sort" value="{}" '
        'title="Sort by this column">{}{}</button>{}</th>'
    ).format(
        css,
        Markup(' aria-sort="{}"').format(way) if way else "",
        listing.turned(column),
        words,
        arrow,
        Markup(' <span class="unverified">{}</span>').format(unverified) if unverified else "",
    )


def _opinion(opinions: list[Opinion]) -> str:
    """What people think of a finding, as a sign beside it."""
    return (" \u2713" if any(o.agrees for o in opinions) else "") + (
        " \u2717" if any(not o.agrees for o in opinions) else ""
    )


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
    environment.filters["every_name"] = every_name
    environment.filters["dicom_time"] = dicom_time
    environment.filters["clock"] = clock
    environment.filters["age_sex"] = age_sex
    environment.filters["waited"] = minutes
    environment.filters["query"] = urlencode
    environment.filters["without_text"] = _without_text
    environment.filters["status_words"] = lambda status: STATUS_WORDS.get(status, status)
    environment.filters["caution_words"] = lambda code: _CAUTIONS.get(code, code.replace("_", " ").capitalize())
    return environment


def person_name(name: str) -> str:
    """A PN value (PS3.5 6.2) as people read it: the first group that holds anything, ``Family, Given``."""
    group = next((g for g in name.split("=") if g.strip("^ ")), "")
    parts = [part.strip() for part in group.split("^")]
    given = " ".join(part for part in parts[1:3] if part)
    return f"{parts[0]}, {given}" if given else parts[0]


def every_name(name: str) -> str:
    """All groups of a PN value, alphabetic, ideographic and phonetic (PS3.5 6.2.1.2), as people read them."""
    return " \u00b7 ".join(filter(None, map(person_name, name.split("="))))


def dicom_time(date: str, time: str) -> str:
    """Study Date and Study Time (DA, TM) as ``2026-11-21 04:17``; what is not there is left out."""
    day = f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 and date.isdigit() else date
    hour = f"{time[:2]}:{time[2:4]}" if len(time) >= 4 and time[:4].isdigit() else ""
    return f"{day} {hour}".strip()


def clock(seconds: float, now: float) -> str:
    """A moment as ``04:17``, or on another day than today as ``21 Nov 04:17``."""
    at, today = datetime.fromtimestamp(seconds).astimezone(), datetime.fromtimestamp(now).astimezone()
    return at.strftime("%H:%M" if at.date() == today.date() else "%d %b %H:%M")


def age_sex(row: WorklistRow) -> str:
    """Age and sex, e.g. ``55 y F``: Patient's Age (AS), else from the birth date and the study date; may be empty."""
    age = row.patient_age
    if re.fullmatch(r"[0-9]{3}[DWMY]", age):
        told = f"{int(age[:3])} {age[3].lower()}"
    elif all(re.fullmatch(r"[0-9]{8}", day) for day in (row.patient_birth_date, row.study_date)):
        born, taken = row.patient_birth_date, row.study_date
        years = int(taken[:4]) - int(born[:4]) - (taken[4:] < born[4:])
        told = f"{years} y" if 0 <= years < 130 else ""
    else:
        told = ""
    return f"{told} {row.patient_sex}".strip()


def _without_text(fields: Mapping[str, str]) -> str:
    return urlencode({name: value for name, value in fields.items() if name != "text"})

"""The page of one study, its pictures and the content trees of its reports.

The rule: nothing is asked of Orthanc that the ledger does not name as a result of this study; pixels are never decoded
here (``reading.study_pictures`` says why). Orthanc renders what was not read; not by DICOMweb, which refuses what a
browser says it accepts (``Accept: image/avif, ...``: HTTP 400, seen with 1.10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection

from orthanc_plugin.access.audit_reading import latest
from orthanc_plugin.access.roles import Action
from orthanc_plugin.hosting.bundle_files import BundleFiles, recorded
from orthanc_plugin.hosting.messages import HTML, NOT_STORED, PAGE_HEADERS, TEXT, Request, Response, picture
from orthanc_plugin.hosting.reading_page import look_of
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.hosting.telling import told
from orthanc_plugin.ledger.mark_history import history, judgements
from orthanc_plugin.ledger.marks import MarkKind
from orthanc_plugin.ledger.pages import listed
from orthanc_plugin.ledger.patients import has_several, studies_of_patient
from orthanc_plugin.ledger.reading_order import WaitingLimits
from orthanc_plugin.ledger.views import of_study
from orthanc_plugin.worklist import study_view
from orthanc_plugin.worklist.content_tree import content_tree, runs, sections
from orthanc_plugin.worklist.detail import (
    ImageDetail,
    Moment,
    StudyDetail,
    image_detail,
    prior_studies,
    timeline,
)
from orthanc_plugin.worklist.rows import WorklistRow, worklist_row

_NOT_RECORDED = "What is done now is not in the audit log yet: the disk does not take it. It is tried again."
_MOST_SEEN = 50  # entries of the audit log in a timeline


def respond(name: str, request: Request, site: Site, db: Connection, now: float, *, said: str = "") -> Response:
    """Answer ``/hilum/studies/<name>``.

    Parameters
    ----------
    said
        What came of a mark, to be shown on the page.
    """
    study, _, rest = name.partition("/")
    task = next((t for t in of_study(db, study) if t["status"] != "removed"), None)
    if task is None:
        return told(
            request, 404, "There is no such study on the worklist.", "It may have been deleted from the archive."
        )
    if not rest:
        return _page(task, request, site, db, now, said=said)
    kind, _, wanted = rest.partition("/")
    images = task["result"].get("images", [])
    reports = {image["measurement_report"] for image in images if image.get("measurement_report")}
    if kind == "images":
        report, _, layer = wanted.partition("/")
        return _picture(report, layer, request, site) if report in reports else _missing()
    if kind == "rendered" and wanted in {image["sop_instance_uid"] for image in images} - {""}:
        return _sent(site.held.rendered(wanted), wanted, request)
    if kind == "documents" and wanted in reports | {task["result"].get("preliminary_report")}:
        return _document(task, wanted, request, site)
    return _missing()


def _page(task: dict[str, Any], request: Request, site: Site, db: Connection, now: float, *, said: str) -> Response:
    limits = WaitingLimits.of_minutes(site.settings.waiting_limits_minutes)
    row = worklist_row(listed(task, now, limits))
    study, result = row.study_instance_uid, task["result"]
    bundles = {(bundle.name, bundle.version): bundle for bundle in recorded(site.settings)}
    images = tuple(_image(image, study, site, bundles) for image in _read_first(result))
    report_uid = result.get("preliminary_report") or ""
    text = site.held.document(report_uid) if report_uid else None
    priors = [] if has_several(task) else studies_of_patient(db, task["patient_id"])  # whose would they be?
    marks = history(db, study)
    taken_back = {mark.undoes for mark in marks}
    detail = StudyDetail(
        row=row,
        images=images,
        report=sections(content_tree(text)) if text else (),
        report_uid=report_uid if text else "",
        priors=prior_studies([listed(prior, now, limits) for prior in priors], row),
        timeline=timeline(
            row,
            result,
            task["last_instance_at"],
            _stored(result, site),
            marks=marks,
            seen=_seen(request, site, study),
        ),
        judgements=_judgements(db, study),
        notes=tuple(
            Moment(mark.made_at, "", mark.made_by, mark.note)
            for mark in marks
            if mark.kind is MarkKind.NOTE and mark.number not in taken_back
        ),
    )
    unread = tuple(image for image in result.get("images", []) if not image["sop_instance_uid"])
    page = study_view.render_study(
        detail,
        now,
        visitor=(request.visitor.who.name, request.visitor.who.role),
        look=look_of(request),
        said=said or (_NOT_RECORDED if site.audit.problem else ""),
        may_mark=request.visitor.may(Action.MARK),
        may_retry=request.visitor.may(Action.RETRY),
        series_not_read=[image["message"] for image in unread],
    )
    return Response(200, HTML, page.encode(), dict(PAGE_HEADERS))


def _read_first(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The images, without whole series that were not looked at; those with a result come first."""
    images = [image for image in result.get("images", []) if image["sop_instance_uid"]]
    return sorted(images, key=lambda image: image["status"] != "done")


def _image(
    image: dict[str, Any], study: str, site: Site, bundles: Mapping[tuple[str, str], BundleFiles]
) -> ImageDetail:
    used = image.get("models", {})
    contracts = {n: bundles[n, v].section if (n, v) in bundles else {} for n, v in used.items()}
    report = image.get("measurement_report")
    tags = site.held.document(report) if report else None
    fallback = "" if "picture" in image.get("layers", ()) else _rendered(image["sop_instance_uid"], study, site)
    return image_detail(image, study, contracts, fallback=fallback, runs=runs(content_tree(tags)) if tags else ())


def _rendered(sop_instance_uid: str, study: str, site: Site) -> str:
    """Where Orthanc's rendering of an image is; empty when it cannot."""
    place = site.held.place(sop_instance_uid)
    if place is None or not place.rendered:
        return ""
    return f"/hilum/studies/{quote(study)}/rendered/{quote(sop_instance_uid)}"


def _stored(result: dict[str, Any], site: Site) -> list[tuple[str, float]]:
    """The results and when Orthanc stored them."""
    images = [image for image in result.get("images", []) if image.get("measurement_report")]
    many = len(images) > 1
    named = [(f"result of image {n}" if many else "result", i["measurement_report"]) for n, i in enumerate(images, 1)]
    named += [("preliminary report", uid) for uid in [result.get("preliminary_report")] if uid]
    places = [(name, site.held.place(uid)) for name, uid in named]
    return [(name, place.stored_at) for name, place in places if place is not None and place.stored_at]


def _seen(request: Request, site: Site, study: str) -> list[dict[str, Any]]:
    """Who opened the study, for those who may see the audit log."""
    if not request.visitor.may(Action.ADMINISTER):
        return []
    return latest(site.settings.audit, most=_MOST_SEEN, study=study)


def _judgements(db: Connection, study: str) -> dict[str, tuple[tuple[str, bool, str], ...]]:
    found: dict[str, list[tuple[str, bool, str]]] = {}
    for mark in judgements(db, [study]).get(study, []):
        found.setdefault(mark.finding, []).append((mark.made_by, mark.kind is MarkKind.AGREE, mark.note))
    return {finding: tuple(said) for finding, said in found.items()}


def _picture(report: str, layer: str, request: Request, site: Site) -> Response:
    return _sent(site.held.layer(report, layer), f"{report}/{layer}", request)


def _sent(content: bytes | None, name: str, request: Request) -> Response:
    return _missing() if content is None else picture(request, content, name)


def _document(task: dict[str, Any], uid: str, request: Request, site: Site) -> Response:
    tags = site.held.document(uid)
    if tags is None:
        return _missing()
    page = study_view.render_document(content_tree(tags), uid, _row(task), look_of(request))
    return Response(200, HTML, page.encode(), dict(PAGE_HEADERS))


def _row(task: dict[str, Any]) -> WorklistRow:
    return worklist_row(listed(task, 0.0, WaitingLimits()))


def _missing() -> Response:
    return Response(404, TEXT, b"This study has no such thing.\n", NOT_STORED)

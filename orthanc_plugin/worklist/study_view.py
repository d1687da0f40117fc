"""The page of a study, and of one of its reports, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from orthanc_plugin.worklist.content_tree import Item
from orthanc_plugin.worklist.detail import StudyDetail, study_url
from orthanc_plugin.worklist.listing import Look
from orthanc_plugin.worklist.page import environment
from orthanc_plugin.worklist.rows import DISCLAIMER, WorklistRow

# The grays that a picture keeps on either side of those that the networks see (``reading.study_pictures``): shown first
# is what the networks see.
_MARGIN = 0.1
SLOPE, INTERCEPT = 1 + 2 * _MARGIN, -_MARGIN
_CRITERION_WORDS = {
    "present": "met",
    "absent": "not met",
    "undetermined": "undetermined",
    "not_evaluated": "not evaluated",
}


def render_study(
    detail: StudyDetail,
    now: float,
    *,
    visitor: tuple[str, str],
    look: Look,
    may_mark: bool,
    may_retry: bool,
    said: str = "",
    series_not_read: Sequence[str] = (),
) -> str:
    """The page of a study.

    Parameters
    ----------
    said
        Why a mark was refused.
    series_not_read
        Why whole series were not looked at.
    """
    return (
        environment()
        .get_template("study.html")
        .render(
            it=detail,
            row=detail.row,
            now=now,
            visitor=visitor,
            look=look,
            said=said,
            may_mark=may_mark,
            may_retry=may_retry,
            series_not_read=series_not_read,
            disclaimer=DISCLAIMER,
            moment=moment,
            slope=SLOPE,
            intercept=INTERCEPT,
            criterion_words=_CRITERION_WORDS,
            percent=percent,
        )
    )


def render_document(tree: Item, uid: str, row: WorklistRow, look: Look) -> str:
    """The content tree of a report, to be unfolded."""
    template = environment().get_template("document.html")
    return template.render(
        tree=tree, uid=uid, row=row, look=look, back=study_url(row.study_instance_uid), disclaimer=DISCLAIMER
    )


def moment(seconds: float) -> str:
    """A time as ``2026-11-21 04:17:09``, in the time zone of the node."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def percent(share: float | None) -> str:
    """A probability as ``59 %``; a dash where there is none."""
    return "\u2013" if share is None else f"{100 * share:.0f} %"

"""What people think of the AI's findings, and what they note about a study.

The rule: a judgement is of one finding in one measurement report, the one that was looked at; what was not evaluated
there cannot be judged.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.mark_refusals import AnswerChanged, NotEvaluated, TextRefused
from orthanc_plugin.ledger.marks import Mark, MarkKind, add_mark, answer_changed, count_mark, study_to_mark
from orthanc_plugin.ledger.statements import result_of

LONGEST_NOTE = 4000  # characters


def judge(
    db: Connection,
    study_instance_uid: str,
    user: str,
    finding: str,
    *,
    agrees: bool,
    now: float,
    comment: str = "",
    report: str = "",
    seen_version: int | None = None,
) -> Mark:
    """Agree or disagree with what the AI says of one finding; of somebody's judgements on it the latest counts.

    Parameters
    ----------
    report
        SOP Instance UID of the measurement report that was looked at; the first that evaluates the finding by default.
    seen_version
        `answer_version` of what was looked at; None: whichever it is.

    Raises
    ------
    StudyUnknown, TextRefused
    AnswerChanged
        When the answer is another by now, or this report is none of it.
    NotEvaluated
        When the report, or none of them, says whether the finding is there.
    """
    row = study_to_mark(db, study_instance_uid)
    _require_short(study_instance_uid, comment)
    if seen_version not in (None, row.answer_version):
        raise answer_changed(study_instance_uid)
    images = [image for image in result_of(row.result).get("images", ()) if isinstance(image, dict)]
    if report:
        images = [image for image in images if image.get("measurement_report") == report]
        if not images:
            raise AnswerChanged(study_instance_uid, "this result is none of the study's now: look at the study again")
    judged = [image.get("measurement_report", "") for image in images if _evaluates(image, finding)]
    if not judged:
        raise NotEvaluated(study_instance_uid, "the AI did not evaluate this: there is nothing to agree with or not")
    kind = MarkKind.AGREE if agrees else MarkKind.DISAGREE
    number = count_mark(db, study_instance_uid)
    return add_mark(db, row, number, kind, user, now=now, finding=finding, report=judged[0], note=comment)


def add_note(db: Connection, study_instance_uid: str, user: str, text: str, *, now: float) -> Mark:
    """Leave a note about a study.

    Raises
    ------
    StudyUnknown, TextRefused
    """
    row = study_to_mark(db, study_instance_uid)
    if not text.strip():
        raise TextRefused(study_instance_uid, "an empty note says nothing: write something")
    _require_short(study_instance_uid, text)
    return add_mark(db, row, count_mark(db, study_instance_uid), MarkKind.NOTE, user, now=now, note=text)


def _evaluates(image: dict[str, Any], finding: str) -> bool:
    return any(f["key"] == finding and f["state"] != "not_evaluated" for f in image.get("findings", ()))


def _require_short(uid: str, text: str) -> None:
    if len(text) > LONGEST_NOTE:
        raise TextRefused(uid, f"a comment has at most {LONGEST_NOTE} characters: shorten it")

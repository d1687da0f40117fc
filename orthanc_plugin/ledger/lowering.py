"""What a later answer may not do to a study that waits: the AI can raise a study, and never lower one.

The rule: a critical or urgent study that nobody has read keeps its priority when the AI answers it lower, and says what
it was; it stands lower only with an answer that comes after somebody has read it, and has its place again when that is
taken back.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from orthanc_plugin.ledger.statements import result_of, run
from orthanc_plugin.ledger.task_states import Outcome

_PRESSING = 2  # ranks below this one
FIRST_ANSWER = "(first answer)"  # of the models, whose results are not stored

# of an UPDATE that makes a study unread: what the AI lowered since it was read
_IS_LOWERED = "read_rank < 2 AND read_rank < priority_rank"
_READ_PRIORITY = "CASE read_rank WHEN 0 THEN 'critical' ELSE 'urgent' END"
AS_IT_WAS_READ = f"""
    priority = CASE WHEN {_IS_LOWERED} THEN {_READ_PRIORITY} ELSE priority END,
    lowered_from = CASE WHEN {_IS_LOWERED} THEN coalesce(nullif(read_as, ''), {_READ_PRIORITY}) ELSE lowered_from END,
    priority_rank = CASE WHEN {_IS_LOWERED} THEN read_rank ELSE priority_rank END
"""


def priority_kept(db: Connection, study_instance_uid: str, outcome: Outcome) -> dict[str, Any]:
    """The columns that an answer may not lower: ``priority``, ``priority_rank``, ``lowered_from``.

    The row stays as it is until the transaction ends. ``lowered_from`` is the earlier answer in words, e.g.
    ``critical, Pneumothorax 91 %``; empty when this answer is no lower.
    """
    row = run(
        db,
        """
        SELECT priority, priority_rank, priority_reason, first_answer, lowered_from, read_at, result FROM tasks
        WHERE study_instance_uid = :uid {locked}
        """,
        uid=study_instance_uid,
    ).one_or_none()
    given = {"priority": outcome.priority, "priority_rank": outcome.priority_rank, "lowered_from": ""}
    if row is None or row.read_at is not None or row.priority_rank >= _PRESSING:
        return given
    if outcome.priority_rank <= row.priority_rank:
        return given
    return {"priority": row.priority, "priority_rank": row.priority_rank, "lowered_from": in_words(row)}


def in_words(row: Row[Any]) -> str:
    """The priority of a task and why it has it, e.g. ``critical, Pneumothorax 91 %``."""
    if row.lowered_from:
        return str(row.lowered_from)
    why = row.priority_reason or _of_images(row.priority, result_of(row.result))
    if why and row.first_answer:
        why = f"{why} {FIRST_ANSWER}"
    return ", ".join(filter(None, (row.priority, why)))


def _of_images(priority: str, result: dict[str, Any]) -> str:
    """Of a study that an earlier Hilum answered."""
    images = [image for image in result.get("images", ()) if isinstance(image, dict)]
    return next((image.get("priority_reason", "") for image in images if image.get("priority") == priority), "")

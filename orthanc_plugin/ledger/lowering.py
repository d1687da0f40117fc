"""What a later answer may not do to a study that waits: the AI can raise a study, and never lower one.

The rule: a critical or urgent study that nobody has read keeps its priority when the AI answers it lower, and says what
it was; it stands lower only with an answer that comes after somebody has read it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.statements import result_of, run
from orthanc_plugin.ledger.task_states import Outcome

_PRESSING = 2  # ranks below this one


def priority_kept(db: Connection, study_instance_uid: str, outcome: Outcome) -> dict[str, Any]:
    """The columns that an answer may not lower: ``priority``, ``priority_rank``, ``lowered_from``.

    The row stays as it is until the transaction ends. ``lowered_from`` is the earlier answer in words, e.g.
    ``critical, Pneumothorax 91 %``; empty when this answer is no lower.
    """
    row = run(
        db,
        """
        SELECT priority, priority_rank, lowered_from, read_at, result FROM tasks
        WHERE study_instance_uid = :uid {locked}
        """,
        uid=study_instance_uid,
    ).one_or_none()
    given = {"priority": outcome.priority, "priority_rank": outcome.priority_rank, "lowered_from": ""}
    if row is None or row.read_at is not None or row.priority_rank >= _PRESSING:
        return given
    if outcome.priority_rank <= row.priority_rank:
        return given
    told = row.lowered_from or _in_words(row.priority, result_of(row.result))
    return {"priority": row.priority, "priority_rank": row.priority_rank, "lowered_from": told}


def _in_words(priority: str, result: dict[str, Any]) -> str:
    images = [image for image in result.get("images", ()) if isinstance(image, dict)]
    why = (image.get("priority_reason", "") for image in images if image.get("priority") == priority)
    return ", ".join(filter(None, (priority, next(why, ""))))

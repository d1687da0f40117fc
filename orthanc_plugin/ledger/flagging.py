"""The first word on a study: its priority as soon as the models have answered, before their results are stored.

The rule: it only raises. A study that somebody has read waits again when it rises; one that nobody has read keeps the
priority when what is stored in the end is lower (``lowering``), and stays raised where that never comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from orthanc_plugin.ledger import counters, counting
from orthanc_plugin.ledger.marks import reopen_raised
from orthanc_plugin.ledger.statements import run
from orthanc_plugin.ledger.task_states import InferenceTask


@dataclass(frozen=True)
class Flag:
    """What the models said of a study whose results are not stored yet.

    Parameters
    ----------
    priority_rank
        0: critical, to 3: none.
    message
        Why, without patient data.
    """

    priority: str
    priority_rank: int
    message: str


def flag(db: Connection, task: InferenceTask, raised: Flag, *, now: float) -> bool:
    """Raise a study in the reading order; False when it stands as high already, or is another worker's."""
    row = run(
        db,
        """
        UPDATE tasks SET priority = :priority, priority_rank = :rank, priority_reason = :message, first_answer = 1,
                         lowered_from = '', written_at = :now
        WHERE study_instance_uid = :uid AND fence = :fence AND status = 'running' AND priority_rank > :rank
        RETURNING last_instance_at, completed_at
        """,
        uid=task.study_instance_uid,
        fence=task.fence,
        priority=raised.priority,
        rank=raised.priority_rank,
        message=raised.message,
        now=now,
    ).one_or_none()
    if row is None:
        return False
    reopen_raised(db, task.study_instance_uid, now=now)
    counters.add(db, counting.of_flag(row.last_instance_at, row.completed_at, now=now))
    return True

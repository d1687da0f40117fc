"""The answer to a study, kept in Orthanc with the study: what a lost ledger is rebuilt from.

The rule: it is an attachment of the study, so that Orthanc deletes both together, and no DICOM object. It counts as
long as Orthanc holds what it held when the answer was given (``Outcome.content``); otherwise the study is read again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields

from orthanc_plugin.archive import attachments
from orthanc_plugin.archive.client import OrthancClient, ResultRefused
from orthanc_plugin.ledger.tasks import InferenceTask, Outcome, TaskStatus

log = logging.getLogger("hilum.kept_answer")

_KEPT = tuple(f.name for f in fields(Outcome) if f.name != "conclude_at")


@dataclass(frozen=True)
class KeptAnswer:
    """An answer, and when the first and the last image of the study came, in seconds since 1970."""

    outcome: Outcome
    received_at: float
    last_instance_at: float


def keep_answer(orthanc: OrthancClient, studies: Iterable[str], task: InferenceTask, outcome: Outcome) -> None:
    """Keep the final answer to a study, in place of an earlier one.

    Parameters
    ----------
    studies
        Orthanc's names of the study.

    When Orthanc does not take it, that is logged and fails nothing: the study would be read again.

    Raises
    ------
    OrthancUnavailable
    """
    answer = {
        "received_at": task.received_at,
        "last_instance_at": task.last_instance_at,
        "outcome": {name: getattr(outcome, name) for name in _KEPT},
    }
    content = json.dumps(answer, separators=(",", ":")).encode()
    try:
        orthanc.keep_with_studies(studies, attachments.ANSWER, content)
    except ResultRefused:
        log.exception("an answer is kept in the ledger alone", extra={"study_instance_uid": task.study_instance_uid})


def kept_answer(orthanc: OrthancClient, study_instance_uid: str) -> KeptAnswer | None:
    """The answer that is kept with a study; None when there is none that can be used.

    Raises
    ------
    OrthancUnavailable
    """
    content = orthanc.kept_with_study(study_instance_uid, attachments.ANSWER)
    if content is None:
        return None
    try:
        answer = json.loads(content)
        outcome = Outcome(**{**answer["outcome"], "status": TaskStatus(answer["outcome"]["status"])})
        return KeptAnswer(outcome, float(answer["received_at"]), float(answer["last_instance_at"]))
    except (ValueError, TypeError, LookupError):
        log.exception("a kept answer cannot be used", extra={"study_instance_uid": study_instance_uid})
        return None

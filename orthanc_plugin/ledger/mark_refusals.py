"""Why a mark was not made: every refusal names its study, changes nothing, and says what to do.

::

    MarkRefused
    |-- StudyUnknown    the ledger has no such study, or it is no longer in Orthanc
    |-- ClaimedByOther  somebody else has it in hand: who, and until when
    |-- NotClaimed      it is not in your hands
    |-- AlreadyRead     somebody has read it: who, and when
    |-- NotRead         nobody has
    |-- AnswerChanged   what you looked at is no longer the AI's answer: look again
    |-- NotEvaluated    the AI said nothing of this finding there
    |-- TextRefused     a comment is missing or too long
    |-- NothingToUndo   you have made no mark that could be taken back
    '-- UndoOutdated    the study has changed since your mark: look again
"""

from __future__ import annotations


class MarkRefused(Exception):
    """A mark was not made, and nothing was changed; the message says what to do."""

    def __init__(self, study_instance_uid: str, message: str) -> None:
        super().__init__(message)
        self.study_instance_uid = study_instance_uid


class StudyUnknown(MarkRefused):
    """The ledger has no such study, or it is no longer in Orthanc."""


class ClaimedByOther(MarkRefused):
    """Somebody else has the study in hand."""

    def __init__(self, study_instance_uid: str, by: str, until: float) -> None:
        told = f"{by} has this study in hand: take another, or ask {by} or an admin to release it"
        super().__init__(study_instance_uid, told)
        self.by, self.until = by, until


class NotClaimed(MarkRefused):
    """The study is not in the hands of whoever would release it."""


class AlreadyRead(MarkRefused):
    """Somebody has read the study."""

    def __init__(self, study_instance_uid: str, by: str, at: float) -> None:
        super().__init__(study_instance_uid, f"{by} has read this study: mark it unread to read it again")
        self.by, self.at = by, at


class NotRead(MarkRefused):
    """Nobody has read the study."""


class AnswerChanged(MarkRefused):
    """What was looked at is no longer the AI's answer."""


class NotEvaluated(MarkRefused):
    """The AI said nothing of this finding there."""


class TextRefused(MarkRefused):
    """A comment is missing or too long."""


class NothingToUndo(MarkRefused):
    """There is no mark of this person that could be taken back."""


class UndoOutdated(MarkRefused):
    """The study has changed since the mark that would be taken back."""

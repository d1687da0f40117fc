"""What one look at the node came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it is; the later, the worse."""

    WELL = "well"
    UNKNOWN = "unknown"  # it could not be looked at
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, and what to do.

    Parameters
    ----------
    name
        A code.
    text
        For people; without patient data and secrets.
    what_to_do
        Empty when it is well.
    """

    name: str
    state: State
    text: str
    what_to_do: str = ""


def well(name: str, text: str) -> Check:
    """It is as it should be."""
    return Check(name, State.WELL, text)


def unknown(name: str, text: str, what_to_do: str = "") -> Check:
    """It could not be looked at."""
    return Check(name, State.UNKNOWN, text, what_to_do)


def warning(name: str, text: str, what_to_do: str) -> Check:
    """The node runs, and somebody should know."""
    return Check(name, State.WARNING, text, what_to_do)


def wrong(name: str, text: str, what_to_do: str) -> Check:
    """The node does not do its work, or soon will not."""
    return Check(name, State.WRONG, text, what_to_do)

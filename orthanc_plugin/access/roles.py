"""Which role may do which action: the one table that every route asks.

The rule: what is not named here is refused.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What an account is for."""

    RADIOLOGIST = "radiologist"
    TECHNOLOGIST = "technologist"
    ADMIN = "admin"
    MONITOR = "monitor"  # a program that watches the node, and sees no patient
    WORKER = "worker"  # the node's own process; no person has it


# the roles that can be given: to people, and to programs that log in as they do
ROLES_OF_PEOPLE = (Role.RADIOLOGIST, Role.TECHNOLOGIST, Role.ADMIN, Role.MONITOR)


class Action(StrEnum):
    """What can be done with the node."""

    VIEW_STATUS = "view_status"  # how the node is; no patient
    VIEW_METRICS = "view_metrics"  # what it did and how long that took; no patient, no study
    VIEW_WORKLIST = "view_worklist"
    VIEW_STUDY = "view_study"  # images and results: OHIF, and what is read by DICOMweb
    RETRY = "retry"  # have a quarantined study read again
    MARK = "mark"  # claims, read marks, agreement, notes
    ADMINISTER = "administer"  # the admin page
    STORE = "store"  # STOW-RS, and deleting by DICOMweb
    ORTHANC = "orthanc"  # Orthanc's own REST API and its pages


_EVERYBODY = frozenset({Action.VIEW_STATUS, Action.VIEW_WORKLIST, Action.VIEW_STUDY, Action.RETRY})
ALLOWED: dict[Role, frozenset[Action]] = {
    Role.TECHNOLOGIST: _EVERYBODY,
    Role.RADIOLOGIST: _EVERYBODY | {Action.MARK},
    Role.ADMIN: frozenset(Action),
    Role.MONITOR: frozenset({Action.VIEW_STATUS, Action.VIEW_METRICS}),
    Role.WORKER: frozenset({Action.VIEW_STATUS, Action.VIEW_STUDY, Action.STORE, Action.ORTHANC}),
}


def may(role: Role | None, action: Action) -> bool:
    """Whether a role may do it; nobody (None) may do anything."""
    return role is not None and action in ALLOWED[role]

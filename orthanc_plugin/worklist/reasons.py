"""Why a study has its priority, in words. Pure functions, no I/O.

The rule: wherever a priority is shown its reason is, whatever the task's status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_COUNTED = re.compile(r"^Nothing called present, [0-9]+ undetermined")  # as ``models.triage`` says it of one image


def why_in_words(task: Mapping[str, Any], read: Iterable[Mapping[str, Any]], undetermined: int) -> str:
    """The latest answer's reason, and the earlier answer whose priority the study keeps; empty where there is none.

    Parameters
    ----------
    read
        Entries of the images that were read.
    undetermined
        How many findings the list shows as such: over all images, and with what was derived from others.
    """
    latest = task["priority_reason"] or ("" if task["lowered_from"] else _of_images(task["priority"], read))
    latest = f"{latest} (first answer)" if task["first_answer"] else counted(latest, undetermined)
    earlier = f"earlier answer: {task['lowered_from']}" if task["lowered_from"] else ""
    return "; ".join(filter(None, (latest, earlier)))


def counted(words: str, undetermined: int) -> str:
    """The same with the number of the list."""
    return _COUNTED.sub(f"Nothing called present, {undetermined} undetermined", words)


def _of_images(priority: str, read: Iterable[Mapping[str, Any]]) -> str:
    """Of a study whose reason an earlier version did not keep."""
    if priority == "none":
        return ""
    reasons = (image.get("priority_reason", "") for image in read if image.get("priority") == priority)
    return next(filter(None, reasons), "Why is not known any more")

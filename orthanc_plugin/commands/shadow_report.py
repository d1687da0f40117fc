"""What a shadow said, beside what the active models said of the same images.

The rule: an image counts once, as it was read last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthanc_plugin.reading.shadow import records_of

_NOT_EVALUATED = "not_evaluated"


@dataclass(frozen=True)
class Agreement:
    """One finding of a shadow.

    Parameters
    ----------
    images
        On which the shadow answered.
    present
        On how many of them it would have said present.
    compared
        On how many the active models evaluated it too.
    agreed
        On how many of those both said the same.
    difference
        Mean absolute difference of the probabilities, where both gave one; None where there is none.
    """

    key: str
    images: int
    present: int
    compared: int
    agreed: int
    difference: float | None


@dataclass(frozen=True)
class ShadowReport:
    """Everything that is known of a shadow.

    Parameters
    ----------
    failed
        Images on which it gave no answer.
    seconds
        Mean time for an image; None when it saw none.
    measurements
        Key to the mean absolute difference from the active models, and to the number of images.
    """

    images: int
    failed: int
    seconds: float | None
    findings: tuple[Agreement, ...]
    measurements: Mapping[str, tuple[float, int]]


def compare(folder: Path, name: str, version: str) -> ShadowReport:
    """Read the records of a shadow."""
    latest = {said["sop_instance_uid"]: said for said in _records(folder, name, version)}.values()
    answered = [said for said in latest if said["failure"] is None]
    keys = dict.fromkeys(key for said in answered for key in said["findings"])
    measured: dict[str, list[float]] = {}
    for said in answered:
        for key, value in said["measurements"].items():
            if key in said["active"]["measurements"]:
                measured.setdefault(key, []).append(abs(value - said["active"]["measurements"][key]))
    return ShadowReport(
        len(latest),
        len(latest) - len(answered),
        sum(said["seconds"] for said in latest) / len(latest) if latest else None,
        tuple(_agreement(key, answered) for key in keys),
        {key: (sum(values) / len(values), len(values)) for key, values in measured.items()},
    )


def _agreement(key: str, answered: list[dict[str, Any]]) -> Agreement:
    said = [(one["findings"][key], one["active"]["findings"].get(key)) for one in answered if key in one["findings"]]
    both = [(mine, other) for mine, other in said if other is not None and other["state"] != _NOT_EVALUATED]
    given = [(mine["probability"], other["probability"]) for mine, other in both]
    apart = [abs(mine - other) for mine, other in given if mine is not None and other is not None]
    return Agreement(
        key,
        len(said),
        sum(mine["state"] == "present" for mine, _ in said),
        len(both),
        sum(mine["state"] == other["state"] for mine, other in both),
        sum(apart) / len(apart) if apart else None,
    )


def _records(folder: Path, name: str, version: str) -> Iterator[dict[str, Any]]:
    """Every whole line, the oldest first; one that a full disk cut off is left out."""
    for file in records_of(folder, name, version):
        if not file.exists():
            continue
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

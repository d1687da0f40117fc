"""What a run with faults counted, as numbers that can be printed and compared.

The rule: nothing is estimated; what was not measured is absent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.counting import Fate, Found


@dataclass
class Score:
    """The tally of one run.

    Parameters
    ----------
    kills
        Processes ended by SIGKILL from outside, by role.
    failpoints
        Processes that ended themselves, by the place at which they did.
    others
        Faults that end no process: answers dropped, the disk full.
    skipped
        Faults that this machine does not allow, with the reason.
    not_acknowledged
        Attempts to send an image that had to be repeated.
    recovery_seconds
        For each study that was in hand at a kill: until a worker had it in hand again or it was answered. Counted from
        the last kill before that, by what died then, or where the run itself starts something again, from that start.
    ready_seconds
        From each start of Orthanc to a worker that is ready.
    """

    ledger: str
    seed: int
    lease_seconds: float
    seconds: float = 0.0
    broken_off: bool = False
    kills: Counter[str] = field(default_factory=Counter)
    failpoints: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    images: int = 0
    not_acknowledged: int = 0
    never_acknowledged: int = 0
    quarantined_before_replay: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)
    recovery_seconds: dict[str, list[float]] = field(default_factory=dict)
    ready_seconds: list[float] = field(default_factory=list)

    @property
    def all_kills(self) -> int:
        """Processes that died, whoever killed them."""
        return self.kills.total() + self.failpoints.total()

    @property
    def all_recovery_seconds(self) -> list[float]:
        """Whatever had died."""
        return [seconds for each in self.recovery_seconds.values() for seconds in each]

    def count(self, fate: Fate) -> int:
        """Studies of this fate."""
        return sum(one.fate is fate for one in self.found)

    def broken(self) -> list[Found]:
        """The studies for which the promise was not kept."""
        return [one for one in self.found if one.fate in (Fate.DUPLICATE, Fate.LOST, Fate.STUCK)]

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return {
            "ledger": self.ledger,
            "seed": self.seed,
            "lease_seconds": self.lease_seconds,
            "seconds": round(self.seconds, 1),
            "broken_off": self.broken_off,
            "kills": {**dict(sorted(self.kills.items())), "total": self.all_kills},
            "failpoints": dict(sorted(self.failpoints.items())),
            "other_faults": dict(sorted(self.others.items())),
            "skipped": self.skipped,
            "studies_acknowledged": len(self.found),
            "images_acknowledged": self.images,
            "sent_again": self.not_acknowledged,
            "never_acknowledged": self.never_acknowledged,
            "fates": {fate.name.lower(): self.count(fate) for fate in Fate},
            "quarantined_before_replay": dict(self.quarantined_before_replay),
            "superseded_documents": sum(one.superseded for one in self.found),
            "recovery_seconds": {
                "all": summary(self.all_recovery_seconds),
                **{what: summary(seconds) for what, seconds in sorted(self.recovery_seconds.items())},
            },
            "ready_seconds": summary(self.ready_seconds),
            "broken_promises": [
                f"{one.study_instance_uid}: {one.fate.name.lower()}: {one.why}" for one in self.broken()
            ],
        }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Number, median, 99th percentile (nearest rank) and maximum; empty without values."""
    if not values:
        return {}
    ordered = sorted(values)

    def rank(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1], 2)

    return {"n": len(ordered), "p50": rank(0.5), "p99": rank(0.99), "max": round(ordered[-1], 2)}

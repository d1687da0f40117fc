"""Numbers that outlive every process: how often something happened, by codes.

The rule: what is counted is counted in the transaction that does it, so that no number is lost or told twice, whatever
dies; and a label is a code of ours (a finding, a bundle, a reason), never anything of a study.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from orthanc_plugin.ledger.statements import run, run_many


@dataclass(frozen=True)
class Count:
    """How often something happened.

    Parameters
    ----------
    name
        What happened (``counting``).
    labels
        Codes, in the order that `name` has them.
    number
        How often.
    total
        Sum of what was measured each time: seconds, probabilities.
    """

    name: str
    labels: tuple[str, ...] = ()
    number: int = 1
    total: float = 0.0


def add(db: Connection, counts: Iterable[Count]) -> None:
    """Add to what was counted before; the last thing that a transaction does."""
    sums: dict[tuple[str, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for count in counts:
        key = count.name, json.dumps(count.labels, separators=(",", ":"))
        number, total = sums[key]
        sums[key] = number + count.number, total + count.total
    run_many(
        db,
        """
        INSERT INTO counters (name, labels, number, total) VALUES (:name, :labels, :number, :total)
        ON CONFLICT (name, labels) DO UPDATE SET
            number = counters.number + excluded.number, total = counters.total + excluded.total
        """,
        # in one order, so that no two transactions wait for each other
        [
            {"name": name, "labels": labels, "number": number, "total": total}
            for (name, labels), (number, total) in sorted(sums.items())
        ],
    )


def counted(db: Connection) -> list[Count]:
    """Everything that was counted: some hundred rows, however many studies there are."""
    rows = run(db, "SELECT name, labels, number, total FROM counters ORDER BY name, labels")
    return [Count(row.name, tuple(json.loads(row.labels)), row.number, row.total) for row in rows]

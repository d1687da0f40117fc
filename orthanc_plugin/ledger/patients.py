"""The studies of one patient: those that bear the same Patient ID (0010,0020).

The rule: found by the index of words, so that it costs the same in a large archive; whether they are of the same person
is for the reader to judge, for IDs are given twice.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.derived import words_of
from orthanc_plugin.ledger.statements import result_of, run

_MOST = 50


def studies_of_patient(db: Connection, patient_id: str, *, most: int = _MOST) -> list[dict[str, Any]]:
    """The tasks under a Patient ID, with what pages show of a reading, the latest study first; none for an empty ID."""
    words = words_of("", patient_id, "").split()
    if not words:
        return []
    rows = run(
        db,
        """
        SELECT t.* FROM search_terms AS s CROSS JOIN tasks AS t
        WHERE s.term = :term AND t.study_instance_uid = s.study_instance_uid
            AND t.patient_id = :patient_id AND t.status <> 'removed'
        ORDER BY t.study_date DESC, t.study_time DESC LIMIT :most
        """,
        term=max(words, key=len),
        patient_id=patient_id,
        most=most,
    )
    return [{**row, "result": result_of(row["result"])} for row in rows.mappings()]

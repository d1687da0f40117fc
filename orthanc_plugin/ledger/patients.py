"""Whose a study is: the studies under one Patient ID (0010,0020), and what is shown of one with several patients.

The rule: the studies of a patient are found by the index of words, so that it costs the same in a large archive;
whether they are of the same person is for the reader to judge, for IDs are given twice. No name stands over the
findings of another patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.derived import words_of
from orthanc_plugin.ledger.statements import result_of, run

_MOST = 50
_OF_ONE_PATIENT = ("patient_id", "patient_birth_date", "patient_sex", "accession_number", "patient_age")


def has_several(task: Mapping[str, Any]) -> bool:
    """Whether a study holds images of several patients."""
    return bool(task["reason"] == "several_patients")


def named(task: dict[str, Any]) -> dict[str, Any]:
    """The task as it may be shown: without a patient where it holds images of several."""
    if not has_several(task):
        return task
    return {**task, **dict.fromkeys(_OF_ONE_PATIENT, ""), "patient_name": "Several patients"}


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

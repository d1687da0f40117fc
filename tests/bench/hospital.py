"""The ledger of a made-up hospital: three years of studies, of which the latest are unread."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from sqlalchemy import Connection, text

from orthanc_plugin.ledger.database import Ledger
from orthanc_plugin.ledger.derived import counts_of, findings_of, words_of
from orthanc_plugin.ledger.filters import PRIORITIES

_BATCH = 10_000
_SPAN_DAYS = 3 * 365
_UNREAD = 20_000  # the latest
RANKS = (0.02, 0.18, 0.7, 0.1)  # share of each priority
_FINDINGS = ("pneumothorax", "effusion", "lung_opacity", "consolidation", "edema", "mass", "nodule", "cardiomegaly",
             "atelectasis", "fracture", "infiltration", "emphysema", "fibrosis", "hernia")  # fmt: skip
FAMILIES = 20_000  # names, as common as their rank allows: the first has 1 in 100 studies


def fill(ledger: Ledger, studies: int, console: Console) -> None:
    """Put so many studies into an empty ledger: three years of a hospital, of which the latest are unread."""
    made = _studies(studies, random.Random(1))  # noqa: S311
    batches = range(0, studies, _BATCH)
    with ledger.write() as db:
        indexes = _indexes(db)  # made once all is there: ten times as fast
        for name in indexes:
            db.exec_driver_sql(f"DROP INDEX {name}")
        for table, columns in _SORTED.items():
            db.exec_driver_sql(f"CREATE TABLE staged_{table} AS SELECT {columns} FROM {table} WHERE 1 = 0")  # noqa: S608
    for _ in track(batches, description="making the ledger", console=console, transient=True):
        some = list(islice(made, _BATCH))
        words = [
            {**{name: row[name] for name in ("study_instance_uid", "search_words")}, "term": term}
            for row, _ in some
            for term in row["search_words"].split()
        ]
        with ledger.write() as db:
            for table, given in (
                ("tasks", [row for row, _ in some]),
                ("staged_search_terms", words),
                ("staged_study_findings", [found for _, each in some for found in each]),
            ):
                names = list(given[0])
                sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{n}' for n in names)})"  # noqa: S608
                db.execute(text(sql), given)
    with ledger.write() as db:
        db.exec_driver_sql("SET LOCAL statement_timeout = 0" if ledger.path is None else "PRAGMA cache_size = -262144")
        for table, columns in _SORTED.items():
            sql = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM staged_{table} ORDER BY 1, 2, 3"  # noqa: S608
            db.exec_driver_sql(sql)
            db.exec_driver_sql(f"DROP TABLE staged_{table}")
        for statement in indexes.values():
            db.exec_driver_sql(statement)
        if ledger.path is not None:
            db.exec_driver_sql("ANALYZE")
    if ledger.path is None:  # what autovacuum would have done in three years
        with ledger.engine.connect() as db:
            db.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("SET statement_timeout = 0")
            db.exec_driver_sql("VACUUM ANALYZE")


# What is derived from tasks, in the order of its keys: into a table in their order rows go fast only so.
_SORTED = {
    "search_terms": "term, study_instance_uid, search_words",
    "study_findings": "key, state, study_instance_uid, probability",
}


def _indexes(db: Connection) -> dict[str, str]:
    """How each index is made, but for those of keys."""
    sql = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        if db.dialect.name == "sqlite"
        else "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%pkey'"
    )
    return {name: made for name, made in db.execute(text(sql))}


def _studies(number: int, chance: random.Random) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    now = time.time()
    span = _SPAN_DAYS * 86_400
    for n in range(number):
        uid = f"1.2.826.0.1.3680043.8.498.{10**11 + chance.randrange(9 * 10**10)}.{n}"
        at = now - span * (number - n) / number if n < number - _UNREAD else now - 3 * 86_400 * (number - n) / _UNREAD
        rank = chance.choices(range(4), RANKS)[0]
        fate = chance.random()
        status = "quarantined" if fate < 0.001 else "not_processed" if fate < 0.03 else "done"
        result = answer_of(uid, rank, chance) if status == "done" else {}
        name, patient, accession = name_of(chance), f"P{n // 3:07d}", f"ACC{n:07d}"
        is_read = n < number - _UNREAD
        priority = rank if status == "done" else 3
        row = {
            "study_instance_uid": uid,
            "status": status,
            "generation": 1,
            "answered_generation": 1,
            "answer_version": 1,
            "not_before": at,
            "received_at": at,
            "last_instance_at": at,
            "completed_at": at + 5,
            "priority": PRIORITIES[priority],
            "priority_rank": priority,
            "reason": None if status == "done" else chance.choice(("view", "modality", "age", "quality")),
            "message": "Lung opacity 87 %, left",
            "result": json.dumps(result, separators=(",", ":")),
            "patient_name": name,
            "patient_id": patient,
            "patient_birth_date": "19600101",
            "patient_sex": "F",
            "accession_number": accession,
            "study_date": date_of(at),
            "study_time": "101010",
            "study_description": "Chest PA",
            "search_words": words_of(name, patient, accession),
            "read_at": at + chance.expovariate(1 / 7200) if is_read else None,
            "read_by": f"reader{n % 10}" if is_read else "",
            "read_rank": priority,
            "read_version": 1,
            "assigned_to": f"reader{n % 10}" if n % 997 == 0 else "",
            "claimed_by": f"reader{n % 10}" if not is_read and n % 500 < 10 else "",
            "claimed_until": now + 36_000,
            **counts_of(result),
        }
        yield row, [{"study_instance_uid": uid, **found} for found in findings_of(result)]


def answer_of(uid: str, rank: int, chance: random.Random) -> dict[str, Any]:
    """An answer as the node keeps it, of one image, about 2 kB."""
    findings = []
    for place, key in enumerate(_FINDINGS):
        likely = 0.25 / (1 + place) if rank < 2 else 0.02 / (1 + place)
        says = chance.random()
        state = "present" if says < likely else "undetermined" if says < 2.5 * likely else "absent"
        findings.append({"key": key, "state": state, "probability": round(says, 4), "laterality": None, "regions": []})
    image = {
        "sop_instance_uid": f"{uid}.1", "status": "done", "view": "PA", "reason": None, "priority": PRIORITIES[rank],
        "models": {"lung_fields": "1.0.0", "chest_findings": "2.0.0"}, "cautions": [], "findings": findings,
        "evidence": [{"source": "ViewPosition", "says": "PA"}], "measurement_report": f"{uid}.2", "thumbnail": True,
        "segmentation": f"{uid}.3", "instance": "a" * 44, "received": "20260101T000000",
    }  # fmt: skip
    return {"version": 1, "images": [image], "history": [], "preliminary_report": f"{uid}.4", "concluded": [f"{uid}.1"]}


_SYLLABLES = ("ma", "ro", "ki", "le", "sta", "ber", "no", "vi", "ta", "du", "gre", "lo", "pe", "sa", "fi", "hu")
GIVEN = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hans", "Ida", "Jonas", "Klara", "Leo")
_COMMON = np.cumsum(1 / (np.arange(FAMILIES) + 10.0))


def family(number: int) -> str:
    """A made-up family name; each number has another."""
    n, name = number, ""
    for _ in range(4):
        n, digit = divmod(n, len(_SYLLABLES))
        name += _SYLLABLES[digit]
    return name.capitalize()


def name_of(chance: random.Random) -> str:
    number = int(np.searchsorted(_COMMON, chance.random() * _COMMON[-1]))
    return f"{family(number)}^{chance.choice(GIVEN)}"


def date_of(at: float) -> str:
    return time.strftime("%Y%m%d", time.gmtime(at))

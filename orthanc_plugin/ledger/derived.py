"""What is derived from a task so that it is found: the words of its patient, and the findings of its answer.

The rule: nothing here is known here alone. Words and findings, and how many of these a task has, are written in the
transaction that changes what they come from; a task whose `search_words` is NULL has none yet (it came from an earlier
Hilum, or from a backup), and `derive_missing` makes them.

Words are folded: without accents, without case, in Unicode's compatibility form; letters that Unicode does not take
apart (``ø``, ``ł``) count as the plain ones. Chinese and Japanese names have no spaces: a name is found by its
beginning. What joins words (``O'Brien``, ``A-123``) parts them, and they are found in one piece as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row

from orthanc_plugin.ledger.statements import result_of, run, run_many

_LONGEST_WORD = 32  # characters; the rest of a longer one is not looked at
_MOST_BYTES = 2000  # of all words of a study: PostgreSQL takes 2704 into an index
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
_WORD = re.compile(r"[^\W_]+")
_APART = re.compile(r"[\s^=]+")  # ^ and = part the components and groups of a PN (PS3.5 6.2)
_TELLING = {"present": 0, "undetermined": 1}
# Findings that say that nothing was found (``models.findings.OF_ABSENCE``).
_OF_ABSENCE = frozenset({"no_finding", "covid_negative"})


@lru_cache(maxsize=256)  # the images of a study come one after the other
def words_of(patient_name: str, patient_id: str, accession_number: str) -> str:
    """The words by which a study is found, each once, with a space between; the family name is the first.

    Parameters
    ----------
    patient_name
        All groups of a PN.
    """
    words: dict[str, None] = {}
    size = 0
    for piece in (p for value in (patient_name, patient_id, accession_number) for p in _APART.split(_fold(value))):
        parts = _WORD.findall(piece)
        for part in (*parts, "".join(parts)):
            word = part[:_LONGEST_WORD]
            size += len(word.encode()) + 1
            if size > _MOST_BYTES:
                return " ".join(words)
            if word:
                words[word] = None
    return " ".join(words)


def asked_words(text: str) -> tuple[str, ...]:
    """The beginnings of words that somebody looks for; none when there is no letter and no digit in it."""
    return tuple(dict.fromkeys(word[:_LONGEST_WORD] for word in _WORD.findall(_fold(text))))


def _fold(text: str) -> str:
    # the ledger keeps no NUL either
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.replace("\0", "")).casefold())
    return "".join(c for c in apart if not unicodedata.combining(c)).translate(_PLAIN)


def write_words(db: Connection, study_instance_uid: str, words: str, *, before: str) -> None:
    """Have a study found by these words, and no longer by those before; its row holds them already."""
    run_many(
        db,
        "DELETE FROM search_terms WHERE study_instance_uid = :uid AND term = :term",
        [{"uid": study_instance_uid, "term": term} for term in before.split()],
    )
    run_many(
        db,
        "INSERT INTO search_terms (study_instance_uid, term, search_words) VALUES (:uid, :term, :words)"
        " ON CONFLICT DO NOTHING",
        [{"uid": study_instance_uid, "term": term, "words": words} for term in words.split()],
    )


def find_by_words(db: Connection, uid: str, row: Row[Any]) -> None:
    """Have a study found by its patient, where that is new: for the other images of a study nothing is to do."""
    if row.search_words is None:
        return  # `derive_missing` comes to it
    words = words_of(row.patient_name, row.patient_id, row.accession_number)
    if row.generation == 1:  # a new one
        write_words(db, uid, row.search_words, before="")
    if words != row.search_words:
        run(db, "UPDATE tasks SET search_words = :words WHERE study_instance_uid = :uid", uid=uid, words=words)
        write_words(db, uid, words, before=row.search_words)


def write_findings(db: Connection, study_instance_uid: str, result: Mapping[str, Any]) -> None:
    """Have a study found by what its answer calls present or leaves undetermined, and by nothing else.

    For each finding the most telling of its images counts, as on the worklist.
    """
    run(db, "DELETE FROM study_findings WHERE study_instance_uid = :uid", uid=study_instance_uid)
    run_many(
        db,
        "INSERT INTO study_findings (study_instance_uid, key, state, probability)"
        " VALUES (:uid, :key, :state, :probability)",
        [{"uid": study_instance_uid, **found} for found in findings_of(result)],
    )


def findings_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings of an answer that are present or undetermined: ``key``, ``state``, ``probability``."""
    best: dict[str, dict[str, Any]] = {}
    for image in result.get("images", ()):
        for f in image.get("findings", ()) if isinstance(image, dict) else ():
            if f["state"] in _TELLING and (f["key"] not in best or _rank(f) < _rank(best[f["key"]])):
                best[f["key"]] = f
    return [{name: f[name] for name in ("key", "state", "probability")} for f in best.values()]


def counts_of(result: Mapping[str, Any]) -> dict[str, int]:
    """How many findings of an answer are ``present`` and how many ``undetermined``, as the task has them.

    What is called present where nothing is found is not counted, as it is not shown on the worklist either.
    """
    found = findings_of(result)
    return {
        "present": sum(f["state"] == "present" and f["key"] not in _OF_ABSENCE for f in found),
        "undetermined": sum(f["state"] == "undetermined" for f in found),
    }


def _rank(finding: Mapping[str, Any]) -> tuple[int, float]:
    return _TELLING[finding["state"]], -(finding["probability"] or 0.0)


def derive_missing(db: Connection, limit: int) -> int:
    """Make the words and findings of `limit` studies that have none yet; how many there were."""
    rows = run(
        db,
        """
        SELECT study_instance_uid, status, patient_name, patient_id, accession_number, result FROM tasks
        WHERE search_words IS NULL ORDER BY study_instance_uid LIMIT :limit {skip_locked}
        """,
        limit=limit,
    ).all()
    for row in rows:
        _derive(db, row.study_instance_uid, row._mapping)
    return len(rows)


def is_complete(db: Connection) -> bool:
    """Whether every study can be found by its words and findings."""
    return run(db, "SELECT 1 FROM tasks WHERE search_words IS NULL LIMIT 1").scalar() is None


def _derive(db: Connection, uid: str, row: Mapping[Any, Any]) -> None:
    result = result_of(row["result"])
    words = words_of(row["patient_name"], row["patient_id"], row["accession_number"])
    run(
        db,
        """
        UPDATE tasks SET search_words = :words, answer_version = :version,
                         present = :present, undetermined = :undetermined
        WHERE study_instance_uid = :uid
        """,
        uid=uid,
        words=words,
        version=version_of(result),
        **counts_of(result),
    )
    write_words(db, uid, words, before="")  # it has none: where words are NULL, they were never written
    write_findings(db, uid, result)


def version_of(result: Mapping[str, Any]) -> int:
    """The version of an answer; 0 for one that tells none."""
    return int(result.get("version", 0))

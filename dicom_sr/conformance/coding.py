"""Rules for coded concepts: schemes, identifiers, lengths, and meanings that are those of the dictionary.

The rule: a code that PS3.16 lists carries the meaning that PS3.16 gives it (PS3.3 8.3), and an identifier of SNOMED CT
carries its check digit, for invented identifiers are common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import cast

from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.codes import PRIVATE_SCHEME, finding_table
from dicom_sr.conformance.tree import Concept, Violation, elements, items, read_concept, text

# Scheme, keyword and code value to meaning and context groups.
_Dictionary = dict[str, dict[str, dict[str, tuple[str, list[int]]]]]

# PS3.16 table 8-1: the UID of each coding scheme that objects like ours use.
SCHEME_UIDS = {
    "DCM": "1.2.840.10008.2.16.4",
    "SCT": "2.16.840.1.113883.6.96",
    "UCUM": "2.16.840.1.113883.6.8",
    "UMLS": "2.16.840.1.113883.6.86",
    "LN": "2.16.840.1.113883.6.1",
    "RADLEX": "2.16.840.1.113883.6.256",
    "RFC5646": "2.16.840.1.113883.6.316",
}
# SNOMED CT is designated SCT; these are retired (PS3.16 8.1.1).
_RETIRED_SNOMED = frozenset({"SRT", "SNM3", "99SDM", "SNM"})
_CODES = ("CodeValue", "LongCodeValue", "URNCodeValue")
# Meanings that mean the same as the dictionary's; SNOMED CT and PS3.16 word them so.
_SYNONYMS: dict[tuple[str, str], frozenset[str]] = {
    ("51440002", "SCT"): frozenset({"right and left"}),
    ("276214006", "SCT"): frozenset({"finding category"}),
}
# What a result copies from its image exactly, and what says in a language and a scheme of the site what was ordered.
_COPIED = frozenset(
    {
        "ProcedureCodeSequence", "RequestAttributesSequence", "ReferencedRequestSequence", "OtherPatientIDsSequence",
        "IssuerOfPatientIDQualifiersSequence", "IssuerOfAccessionNumberSequence",
    }
)  # fmt: skip
# Schemes of which dicom_sr.codes holds every code that we use, with its meaning.
_LISTED = frozenset({PRIVATE_SCHEME, "RADLEX", "UMLS"})
# What CID 29 and CID 33 both are for; newer editions of TID 1602 name the wider one.
_MODALITIES = (29, 33)

_VERHOEFF_D = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_P = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def check_codes(ds: Dataset, *, ours: bool) -> Iterator[Violation]:
    """Judge every coded concept of a decoded data set.

    A retired designator of SNOMED CT is wrong in what we write; others may have written when it was right.
    """
    for where, item in _coded_items(ds):
        yield from _code_violations(item, where)
        if where.partition("[")[0] not in _COPIED:
            coded = read_concept(item)
            yield from _meaning_violations(coded, where)
            if ours and coded.scheme in _RETIRED_SNOMED:
                message = f"{coded} names SNOMED CT by the retired designator {coded.scheme}"
                yield Violation("PS3.16 8.1.1", where, message)
    yield from _scheme_violations(ds)


def check_own_codes(ds: Dataset) -> Iterator[Violation]:
    """A private code of ours is one that we have, and means what our list says; so do the schemes that it names."""
    for where, item in _coded_items(ds):
        coded = read_concept(item)
        if coded.scheme not in _LISTED or where.partition("[")[0] in _COPIED:
            continue
        meanings = _own_meanings().get(coded.key)
        if meanings is None and coded.scheme == PRIVATE_SCHEME:
            yield Violation("Hilum codes", where, f"{coded} is not a code of {PRIVATE_SCHEME}")
        elif meanings and coded.meaning and _normal(coded.meaning) not in meanings:
            yield Violation("PS3.3 8.3", where, f"{coded} means {' or '.join(sorted(meanings))}")


def verhoeff_holds(identifier: str) -> bool:
    """Whether the last digit of a SNOMED CT identifier is its check digit (SNOMED CT TIG 5.5)."""
    check = 0
    for position, digit in enumerate(reversed(identifier)):
        check = int(_VERHOEFF_D[check][int(_VERHOEFF_P[position % 8][int(digit)])])
    return check == 0


@cache
def context_group(number: int) -> frozenset[tuple[str, str]]:
    """Value and scheme of each member of a context group that pydicom has; empty when it has not."""
    if number in _MODALITIES:
        return frozenset(key for cid in _MODALITIES for key in _members(cid))
    return _members(number)


def is_private(scheme: str) -> bool:
    """Whether a designator is a local one (PS3.16 8.2: it begins with 99)."""
    return scheme.startswith("99")


def _coded_items(ds: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Every item that holds a code, with its path."""
    for path, element in elements(ds):
        if isinstance(element.value, Items):
            for number, item in enumerate(element.value, start=1):
                if any(keyword in item for keyword in (*_CODES, "CodeMeaning")):
                    yield f"{path}[{number}]", item


def _code_violations(item: Dataset, where: str) -> Iterator[Violation]:
    coded = read_concept(item)
    given = [keyword for keyword in _CODES if text(item, keyword)]
    if len(given) != 1:
        message = "one of Code Value, Long Code Value and URN Code Value is needed"
        yield Violation("PS3.3 8.8", where, f"{message}, there are {len(given)}")
    if len(text(item, "CodeValue")) > 16:
        yield Violation("PS3.3 8.8", where, f"Code Value {coded.value} has more than 16 characters: Long Code Value")
    if "LongCodeValue" in item and len(text(item, "LongCodeValue")) <= 16:
        yield Violation("PS3.3 8.8", where, "Long Code Value for a code of at most 16 characters")
    if not coded.meaning or len(coded.meaning) > 64:
        yield Violation("PS3.3 8.3", where, f"Code Meaning of {coded.value} has {len(coded.meaning)} characters")
    if not coded.scheme and "URNCodeValue" not in item:
        yield Violation("PS3.3 8.2", where, f"Coding Scheme Designator of {coded.value} is absent")
    if coded.scheme == "SCT":
        yield from _snomed_violations(coded, where)


def _snomed_violations(coded: Concept, where: str) -> Iterator[Violation]:
    if not re.fullmatch(r"[1-9]\d{5,17}", coded.value):
        yield Violation("SNOMED CT identifier", where, f"{coded.value} is not 6 to 18 digits")
    elif not verhoeff_holds(coded.value):
        yield Violation("SNOMED CT identifier", where, f"{coded.value} fails the Verhoeff check")
    elif coded.value[-3:-1] not in ("00", "10"):
        yield Violation(
            "SNOMED CT identifier", where, f"{coded.value} identifies no concept: partition {coded.value[-3:-1]}"
        )


def _meaning_violations(coded: Concept, where: str) -> Iterator[Violation]:
    known = _meanings().get(coded.key)
    if coded.scheme not in ("DCM", "SCT") or known is None:
        return
    meaning = _normal(coded.meaning)
    if meaning and meaning not in known and meaning not in _SYNONYMS.get(coded.key, ()):
        yield Violation("PS3.3 8.3", where, f"{coded} means {' or '.join(sorted(known))}")


def _scheme_violations(ds: Dataset) -> Iterator[Violation]:
    """Each item of the identification is right, and none is there twice (PS3.3 table C.12-1)."""
    seen: set[str] = set()
    for number, item in enumerate(items(ds, "CodingSchemeIdentificationSequence"), start=1):
        where = f"CodingSchemeIdentificationSequence[{number}]"
        designator, uid = text(item, "CodingSchemeDesignator"), text(item, "CodingSchemeUID")
        if not designator or designator in seen:
            yield Violation("PS3.3 C.12.1", where, f"Coding Scheme Designator {designator or 'absent'}, or there twice")
        seen.add(designator)
        if uid and uid != SCHEME_UIDS.get(designator, uid):
            yield Violation("PS3.16 8", where, f"{designator} has the UID {SCHEME_UIDS[designator]}, not {uid}")


def used_schemes(ds: Dataset) -> dict[str, set[str]]:
    """Each Coding Scheme Designator among the codes that a data set does not copy, with the versions that they give."""
    used: dict[str, set[str]] = {}
    for path, element in elements(ds):
        above = path.partition("[")[0]
        if isinstance(element.value, Items) and above not in _COPIED | {"CodingSchemeIdentificationSequence"}:
            for item in element.value:
                if any(keyword in item for keyword in _CODES) and (scheme := text(item, "CodingSchemeDesignator")):
                    used.setdefault(scheme, set()).add(text(item, "CodingSchemeVersion"))
    return used


@cache
def _own_meanings() -> dict[tuple[str, str], frozenset[str]]:
    """Every meaning that ``dicom_sr.codes`` has for a code."""
    found: dict[tuple[str, str], set[str]] = {}
    for code in _own_codes([*vars(codes).values(), finding_table()]):
        found.setdefault((code.value, code.scheme_designator), set()).add(_normal(code.meaning))
    return {key: frozenset(meanings) for key, meanings in found.items()}


def _own_codes(values: Iterable[object]) -> Iterator[Code]:
    for value in values:
        if isinstance(value, Code):
            yield value
        elif isinstance(value, dict):
            yield from _own_codes(value.values())
        elif isinstance(value, codes.FindingCodes):
            yield from _own_codes(vars(value).values())


@cache
def _meanings() -> dict[tuple[str, str], frozenset[str]]:
    """Every meaning that pydicom's dictionary has for a code, in lower case, without SNOMED CT's semantic tag."""
    found: dict[tuple[str, str], set[str]] = {}
    for key, meaning, _groups in _dictionary():
        found.setdefault(key, set()).add(_normal(meaning))
    return {key: frozenset(meanings) for key, meanings in found.items()}


@cache
def _members(number: int) -> frozenset[tuple[str, str]]:
    return frozenset(key for key, _meaning, groups in _dictionary() if number in groups)


def _dictionary() -> Iterator[tuple[tuple[str, str], str, list[int]]]:
    """Value and scheme, meaning and context groups of every code that pydicom knows.

    Its table is read and not its ``codes``, which refuse a keyword that two codes of one scheme share.
    """
    for scheme, keywords in cast("_Dictionary", concepts).items():
        for listed in keywords.values():
            for value, (meaning, groups) in listed.items():
                yield (str(value), str(scheme)), str(meaning), list(groups)


def _normal(meaning: str) -> str:
    return " ".join(re.sub(r"\([a-z /]+\)$", "", meaning.casefold().strip()).split())

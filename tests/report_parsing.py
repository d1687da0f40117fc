"""From the text of a preliminary report back to what it states, with the same table of sentences.

The rule: a text is understood whole or not at all. A sentence that the table cannot have made raises, so that what was
parsed is everything that the text says.

::

    NotUnderstood    a sentence that the table does not have
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from dicom_sr.report.statements import NEITHER
from dicom_sr.report.wording import Wording
from models.findings import FindingState, Laterality


class NotUnderstood(Exception):
    """A sentence that the table cannot have made."""


@dataclass(frozen=True)
class Stated:
    """What a text says about one finding.

    Parameters
    ----------
    state
        None in the reason of a priority, which names a finding and its side alone.
    confidence
        An entry of ``confidence``; None where the text has no word for it.
    percent
        As printed: ``87``, ``<1``, ``>99``; the lowest and the highest of a range; empty where there is none.
    why
        An entry of ``why_not_evaluated``; empty where the text gives none.
    images
        Numbers from 1; empty when the text names no image.
    """

    key: str
    state: FindingState | None
    side: Laterality | None = None
    confidence: str | None = None
    percent: tuple[str, ...] = ()
    why: str = ""
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What a text says about one measurement; `caution` is an entry of ``cautions``."""

    key: str
    value: float
    caution: str | None
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What a text says about one criterion; numbers as printed, empty where there are none."""

    key: str
    state: FindingState
    sense: str = ""
    value: str = ""
    threshold: str = ""
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Said:
    """Everything that a section says.

    Parameters
    ----------
    remarks
        The entries of the table that name no finding, in order.
    withdrawn
        Images that are no longer read, from 1.
    unseen
        How many findings were not evaluated, and of how many.
    """

    findings: tuple[Stated, ...]
    measurements: tuple[Measured, ...]
    remarks: tuple[str, ...]
    withdrawn: tuple[int, ...]
    unseen: tuple[int, int] | None
    criteria: tuple[Judged, ...] = ()


def parse_findings(sentences: Iterable[str], wording: Wording) -> Said:
    """Read the sentences of FINDINGS.

    Raises
    ------
    NotUnderstood
    """
    grammar = _grammar(wording)
    return _read(sentences, grammar, grammar.findings)


def parse_impression(sentences: Iterable[str], wording: Wording) -> Said:
    """Read the sentences of IMPRESSION; the disclaimer is a remark.

    Raises
    ------
    NotUnderstood
    """
    grammar = _grammar(wording)
    return _read(sentences, grammar, grammar.impression)


_REMARKS = (
    "impression.nothing_present", "impression.nothing_evaluated", "impression.failed", "impression.covid_not_excluded",
    "impression.withdrawn",
)  # fmt: skip


@dataclass(frozen=True)
class _Form:
    """One kind of sentence: what it looks like, and what its parts mean."""

    name: str
    pattern: re.Pattern[str]
    key: str | None = None
    state: FindingState | None = None


def _read(sentences: Iterable[str], words: _Grammar, forms: tuple[_Form, ...]) -> Said:
    findings: list[Stated] = []
    measurements: list[Measured] = []
    criteria: list[Judged] = []
    remarks: list[str] = []
    withdrawn: tuple[int, ...] = ()
    unseen: tuple[int, int] | None = None
    for sentence in sentences:
        form, match = _form_of(sentence, forms)
        if form.name.startswith("measurements."):
            measurements.append(words.measured(form, match))
        elif form.name == "criteria":
            criteria.extend(words.judged(match[0]))
        elif form.state is None and form.key is None:
            remarks.append(form.name)
            if form.name == "impression.withdrawn":
                withdrawn = words.numbers(match["images"])
            if form.name.startswith("impression.not_evaluated"):
                unseen = int(match.groupdict().get("count", 1)), int(match["total"])
            if match.groupdict().get("name"):
                findings.append(words.stated(match, words.names[match["name"]], None))
        elif form.key is None:
            findings.extend(words.listed(form, match))
        else:
            findings.append(words.stated(match, form.key, form.state))
        findings.extend(words.elsewhere(findings[-1].key, match["rest"]) if match.groupdict().get("rest") else ())
    return Said(tuple(findings), tuple(measurements), tuple(remarks), withdrawn, unseen, tuple(criteria))


def _form_of(sentence: str, forms: tuple[_Form, ...]) -> tuple[_Form, re.Match[str]]:
    for said in (sentence, sentence[:1].lower() + sentence[1:]):  # the capital may be the sentence's, not the word's
        for form in forms:
            if match := form.pattern.fullmatch(said):
                return form, match
    raise NotUnderstood(f"no sentence of the table: {sentence!r}")


@lru_cache(maxsize=8)
def _grammar(wording: Wording) -> _Grammar:
    return _Grammar(wording)


class _Grammar:
    """The table of sentences, turned round: from words to entries."""

    def __init__(self, wording: Wording) -> None:
        self.wording = wording
        self.sides = _turned(wording.table("sides"))
        self.degrees = _turned(wording.table("confidence"))
        self.reasons = _turned(wording.table("why_not_evaluated"))
        self.cautions = _turned(wording.table("cautions"))
        entries = wording.table("findings")
        self.names = {text: key.removesuffix(".name") for key, text in entries.items() if key.endswith(".name")}
        self.nones = {text: key.removesuffix(".none") for key, text in entries.items() if key.endswith(".none")}
        self.subjects = {key.removesuffix(".subject"): t for key, t in entries.items() if key.endswith(".subject")}
        views = _any(wording.table("views").values())
        self.image = self._pattern("pieces.image", number=r"(\d+)", view=views)
        self.images = self._list_of(_plain(self.image))
        self.parts = {
            "side": rf"(?: (?P<side>{_any(self.sides)}))?",
            "confidence": rf"(?P<confidence>{_any(self.degrees)})",
            "probability": self._probability(),
            "where": self._optional("pieces.where", images=rf"(?P<images>{self.images})"),
            "why": rf"(?P<why>{_any(self.reasons)})",
            "name": rf"(?P<name>{_any(self.names)})",
        }
        where = rf"(?P<images>{self.images})"
        self.others = [
            (state, re.compile(self._pattern(f"elsewhere.{state}", **self.parts, images=where)))
            for state in FindingState
        ]
        names = wording.table("criteria.names")
        self.criteria = {text: key for key, text in names.items()}
        self.judgement = re.compile(rf"(?P<item>{_any(names.values())})(?: {self._senses()})?")
        listed_ = rf"(?P<list>{self._list_of(_plain(self.judgement.pattern))})"
        self.clauses = {
            state: re.compile(self._pattern(f"criteria.{state}", list=listed_, where=self.parts["where"]))
            for state in FindingState
        }

        self.findings, self.impression = tuple(self._findings()), tuple(self._impression())

    def _findings(self) -> list[_Form]:
        """Every sentence that FINDINGS can have."""
        rest = rf"(?P<rest>(?:; {self.images}: .+)?)"
        forms = self._remarks()
        for key, subject in self.subjects.items():
            for state in FindingState:
                own = f"findings.{key}.{state}"
                name = own if self.wording.get(own) else f"states.{state}"
                if name != f"states.{state}" or state in (FindingState.PRESENT, FindingState.UNDETERMINED):
                    forms.append(self._sentence(name, key, state, rest=rest, subject=re.escape(subject)))
        for state, items in ((FindingState.ABSENT, self.nones), (FindingState.NOT_EVALUATED, self.names)):
            forms.append(self._sentence(f"states.{state}", None, state, rest=rest, list=self._items(items)))
        clause = f"(?:{'|'.join(_plain(pattern.pattern) for pattern in self.clauses.values())})"
        forms.append(_Form("criteria", re.compile(rf"{clause}(?:; {clause})*\.")))
        value = rf"(?P<value>\d+{re.escape(self.wording['decimal'])}\d\d)"
        caution = self._optional("pieces.caution", caution=rf"(?P<caution>{_any(self.cautions)})")
        for key in self.wording.table("measurements"):
            forms.append(self._sentence(f"measurements.{key}", key, value=value, caution=caution))
        return forms

    def _impression(self) -> list[_Form]:
        """Every sentence that IMPRESSION can have."""
        forms = self._remarks()
        forms.append(_Form("disclaimer", re.compile(re.escape(self.wording["disclaimer"]))))
        forms.append(self._sentence("technique.model_failed", model=r"\S+ \S+"))
        reason = self._optional("pieces.reason", **self.parts)
        forms += [self._sentence(f"impression.{priority}", reason=reason) for priority in ("critical", "urgent")]
        for key, name in ((key, name) for name, key in self.names.items()):
            own = f"findings.{key}.present"
            known = {"name": re.escape(name), "subject": re.escape(self.subjects[key])}
            entry = own if self.wording.get(own) else "impression.present"
            forms.append(self._sentence(entry, key, FindingState.PRESENT, **known))
        undetermined = FindingState.UNDETERMINED
        forms.append(self._sentence(f"impression.{undetermined}", None, undetermined, list=self._items(self.names)))
        numbers = {"count": r"(?P<count>\d+)", "total": r"(?P<total>\d+)"}
        forms += [self._sentence(f"impression.not_evaluated_{number}", **numbers) for number in ("one", "many")]
        return forms

    def _remarks(self) -> list[_Form]:
        return [self._sentence(name, images=rf"(?P<images>{self.images})") for name in _REMARKS]

    # From a match to what it says

    def stated(self, match: re.Match[str], key: str, state: FindingState | None) -> Stated:
        found = match.groupdict()
        side, degree, why = found.get("side"), found.get("confidence"), found.get("why")
        return Stated(
            key,
            state,
            self._side(side),
            self.degrees[degree] if degree else None,
            tuple(found[part] for part in ("percent", "low", "high") if found.get(part)),
            self.reasons[why] if why else "",
            self.numbers(found.get("images")),
        )

    def listed(self, form: _Form, match: re.Match[str]) -> Iterator[Stated]:
        """One statement for each item of a list."""
        whole = self.stated(match, "", form.state)
        table = self.nones if form.name == "states.absent" else self.names
        item = re.compile(rf"(?P<item>{_any(table)}){self.parts['side']}{self.parts['probability']}")
        for found in item.finditer(match["list"]):
            said = self.stated(found, table[found["item"]], form.state)
            yield Stated(said.key, said.state, said.side, None, said.percent, whole.why, whole.images)

    def elsewhere(self, key: str, rest: str) -> Iterator[Stated]:
        """What follows about the other images, clause by clause."""
        at = 0
        while at < len(rest):
            for state, pattern in self.others:
                match = pattern.match(rest, at + 2)
                if match and (match.end() == len(rest) or rest.startswith("; ", match.end())):
                    yield self.stated(match, key, state)
                    at = match.end()
                    break
            else:
                raise NotUnderstood(f"no clause of the table: {rest[at:]!r}")

    def judged(self, sentence: str) -> Iterator[Judged]:
        """One judgement for each criterion of a sentence."""
        for state, clause in self.clauses.items():
            for match in clause.finditer(sentence):
                for found in self.judgement.finditer(match["list"]):
                    sense = next((name for name in self.wording.table("criteria.senses") if found[f"{name}_value"]), "")
                    numbers = (found[f"{sense}_value"], found[f"{sense}_threshold"]) if sense else ("", "")
                    yield Judged(self.criteria[found["item"]], state, sense, *numbers, self.numbers(match["images"]))

    def _senses(self) -> str:
        """The numbers behind a criterion."""
        number = rf"[<>]?\d+(?:{re.escape(self.wording['decimal'])}\d+)?(?: %)?"
        value = f"(?:{self._pattern('criteria.places', value=number)}|{number})"
        patterns = []
        for name in self.wording.table("criteria.senses"):
            parts = {"value": rf"(?P<{name}_value>{value})", "threshold": rf"(?P<{name}_threshold>{number})"}
            patterns.append(self._pattern(f"criteria.senses.{name}", **parts))
        return f"(?:{'|'.join(patterns)})"

    def measured(self, form: _Form, match: re.Match[str]) -> Measured:
        caution = match["caution"]
        value = float(match["value"].replace(self.wording["decimal"], "."))
        said = self.cautions[caution] if caution else None
        return Measured(form.name.removeprefix("measurements."), value, said, self.numbers(match["images"]))

    def _side(self, words: str | None) -> Laterality | None:
        if not words:
            return None
        return Laterality.BILATERAL if self.sides[words] == NEITHER else Laterality(self.sides[words])

    def numbers(self, images: str | None) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(self.image, images or ""))

    # From an entry to a pattern

    def _sentence(
        self, entry: str, key: str | None = None, state: FindingState | None = None, /, **parts: str
    ) -> _Form:
        """A whole sentence with its period."""
        rest = parts.pop("rest", "")
        pattern = self._pattern(entry, **{**self.parts, **parts})
        return _Form(entry, re.compile(rf"{pattern}{rest}\."), key, state)

    def _pattern(self, entry: str, /, **parts: str) -> str:
        """The entry as a regular expression, each placeholder replaced by its own."""
        pieces = re.split(r"\{(\w+)\}", self.wording[entry])
        return "".join(parts[piece] if n % 2 else re.escape(piece) for n, piece in enumerate(pieces))

    def _optional(self, entry: str, /, **parts: str) -> str:
        return f"(?: {self._pattern(entry, **parts)})?"

    def _probability(self) -> str:
        """One percentage, or a range."""
        number = r"[<>]?\d+"
        one = self._pattern("pieces.probability", percent=rf"(?P<percent>{number})")
        between = self._pattern("pieces.range", low=rf"(?P<low>{number})", high=rf"(?P<high>{number})")
        return rf"(?: (?:{one}|{between}))?"

    def _items(self, table: Mapping[str, str]) -> str:
        side, probability = _plain(self.parts["side"]), _plain(self.parts["probability"])
        return rf"(?P<list>{self._list_of(f'{_any(table)}{side}{probability}')})"

    def _list_of(self, item: str) -> str:
        return rf"{item}(?:, {item})*(?: {re.escape(self.wording['and'])} {item})?"


def _turned(table: Mapping[str, str]) -> dict[str, str]:
    return {text: key for key, text in table.items()}


def _any(texts: Iterable[str]) -> str:
    """One of the texts, the longest first."""
    longest_first = sorted(texts, key=len, reverse=True)
    return f"(?:{'|'.join(re.escape(text) for text in longest_first)})"


def _plain(pattern: str) -> str:
    """The same pattern without groups that capture."""
    return re.sub(r"\(\?P<\w+>|(?<!\\)\((?!\?)", "(?:", pattern)

"""From the findings of a study to the sentences of its preliminary report: TECHNIQUE, FINDINGS, IMPRESSION.

The rule: a sentence states what the structured findings hold and nothing more. Every finding has its place in FINDINGS
exactly once, with its state; a side, a probability or an image is named where there is one; no state is derived from
another (a large cardiothoracic ratio is not an enlarged heart), and nothing present is not called normal. Of COVID-19
the impression speaks only where something is present, and never of the class that is negative.

Where images of one study differ about a finding, the most telling one makes the sentence and the others follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

from dicom_sr.codes import finding_codes
from dicom_sr.report.criteria import criteria_sentences
from dicom_sr.report.statements import (
    HIGHLY_LIKELY,
    LIKELY,
    NEITHER,
    REGIONS,
    STATES,
    Statement,
    statements,
    telling,
)
from dicom_sr.report.wording import Wording, listed
from models.findings import OF_ABSENCE, FindingState, ImageFindings, Laterality, ModelRun, Priority, percent
from models.study import StudyFindings

_REGION_OF = {key: region for region, keys in REGIONS.items() for key in keys}
_MEASURED_IN = "heart"
_COVID = tuple(key for key in _REGION_OF if key.startswith("covid_"))
_NEUTRAL = "support_devices"  # mentioned last


@dataclass(frozen=True)
class Sentence:
    """One sentence; `region` is a key of ``REGIONS`` in FINDINGS, a topic in TECHNIQUE, else empty."""

    text: str
    region: str = ""


@dataclass(frozen=True)
class Report:
    """The sections of a preliminary report."""

    technique: tuple[Sentence, ...]
    findings: tuple[Sentence, ...]
    impression: tuple[Sentence, ...]


def compose(study: StudyFindings, wording: Wording) -> Report:
    """Put the findings of a study in words.

    Raises
    ------
    KeyError
        When a finding, caution, reason or refusal has no entry in the table.
    """
    writer = _Writer(study, wording)
    return Report(tuple(writer.technique()), tuple(writer.findings()), tuple(writer.impression()))


def impression_text(findings: ImageFindings | StudyFindings, wording: Wording) -> str:
    """The impression as one paragraph, and what it is worth."""
    if isinstance(findings, ImageFindings):
        findings = StudyFindings(findings.study_instance_uid, (findings,))
    sentences = _Writer(findings, wording).impression()
    return " ".join([*(sentence.text for sentence in sentences), wording["disclaimer"]])


class _Writer:
    """Sentences about one study from one table."""

    def __init__(self, study: StudyFindings, wording: Wording) -> None:
        self.study, self.wording = study, wording
        self.stated = statements(study)
        order = {key: rank for rank, key in enumerate(_REGION_OF)}
        self.leads = sorted((said[0] for said in self.stated.values()), key=lambda s: (telling(s)[:2], order[s.key]))
        runs: dict[tuple[str, str], list[tuple[int, ModelRun]]] = {}
        self.read = [position for position, image in enumerate(study.images) if not image.withdrawn]
        for position, image in enumerate(study.images):
            for run in () if image.withdrawn else image.runs:
                runs.setdefault((run.model.name, run.model.version), []).append((position, run))
        self.runs = runs

    # Sections

    def technique(self) -> Iterable[Sentence]:
        count = len(self.read)
        template = "no_image" if not count else "one_image" if count == 1 else "many_images"
        listed = ", ".join(self._image(position) for position in self.read)
        yield self._sentence(self._fill(f"technique.{template}", count=str(count), images=listed), "images")
        cautions: dict[str, list[int]] = {}
        for position, image in enumerate(self.study.images):
            for caution in image.cautions:
                cautions.setdefault(caution, []).append(position)
        for code, positions in cautions.items():
            said = self.wording[f"cautions.{code}"]
            yield self._sentence(
                self._fill("technique.caution", where=self._where(positions), caution=said), "cautions"
            )
        models = ", ".join(f"{name} {version}" for name, version in self.runs)
        yield self._sentence(
            self._fill("technique.models" if models else "technique.no_model", models=models), "models"
        )
        yield from (self._sentence(text, "models") for text in self._failures())
        words = self.wording.table("confidence")
        yield self._sentence(self._fill("technique.scale", high=str(HIGHLY_LIKELY), low=str(LIKELY), **words), "scale")
        for code in dict.fromkeys(self.study.unread):
            number = self.study.unread.count(code)
            template = "unread_one" if number == 1 else "unread_many"
            said = self._fill(f"technique.{template}", count=str(number), why=self.wording[f"unread.{code}"])
            yield self._sentence(said, "unread")
        yield Sentence(self.wording["disclaimer"], "disclaimer")

    def findings(self) -> Iterable[Sentence]:
        yield from (self._sentence(text) for text in self._withdrawn())
        if not self.leads:
            yield self._sentence(self._nothing())
        by_region: dict[str, list[Statement]] = {region: [] for region in REGIONS}
        for lead in self.leads:
            by_region[_REGION_OF[lead.key]].append(lead)
        for region, leads in by_region.items():
            # Those about which the images differ, and those with a sentence of their own, stand alone.
            alone = [lead for lead in leads if not self._joins(lead)]
            joined = sorted((lead for lead in leads if self._joins(lead)), key=lambda s: REGIONS[region].index(s.key))
            for lead in sorted(alone, key=lambda s: STATES.index(s.state)):
                yield self._sentence(self._alone(lead), region)
            yield from (self._sentence(text, region) for text in self._lists(joined, FindingState.ABSENT))
            if region == "lungs":
                yield from (self._sentence(text, region) for text in self._criteria())
                if self._covid_open():
                    yield self._sentence(self.wording["impression.covid_not_excluded"], region)
            if region == _MEASURED_IN:
                yield from (self._sentence(text, region) for text in self._measurements())
            yield from (self._sentence(text, region) for text in self._lists(joined, FindingState.NOT_EVALUATED))

    def impression(self) -> Iterable[Sentence]:
        if self.study.images and self.study.leading.priority in (Priority.CRITICAL, Priority.URGENT):
            yield self._sentence(self._priority(self.study.leading))
        yield from (self._sentence(text) for text in self._withdrawn())
        if not any(image.evaluated for image in self.study.images):
            yield self._sentence(self._nothing())
            if not self._all_failed():
                yield from (self._sentence(text) for text in self._failures())
            return
        said = [statement for lead in self.leads for statement in self.stated[lead.key]]
        present = [s for s in said if s.state is FindingState.PRESENT and s.key not in OF_ABSENCE]
        if not present:
            yield self._sentence(self.wording["impression.nothing_present"])
        pressing = self.study.leading.leading
        for lead in sorted(present, key=lambda s: (pressing is None or s.key != pressing.key, s.key == _NEUTRAL)):
            own = f"findings.{lead.key}.present"
            yield self._sentence(
                self._fill(own if self.wording.get(own) else "impression.present", **self._parts(lead))
            )
        open_ = [
            lead
            for lead in self.leads
            if lead.state is FindingState.UNDETERMINED
            and (lead.key not in _COVID or (present and lead.key not in OF_ABSENCE))
        ]
        if self._covid_open() and any(statement.key in _COVID for statement in (*present, *open_)):
            yield self._sentence(self.wording["impression.covid_not_excluded"])
        if open_:
            listed = [self._name(lead) + self._side(lead) + self._probability(lead) for lead in open_]
            yield self._sentence(self._fill("impression.undetermined", list=self._listed(listed)))
        yield from (self._sentence(text) for text in self._failures())
        if unseen := sum(lead.state is FindingState.NOT_EVALUATED for lead in self.leads):
            entry = f"impression.not_evaluated_{'one' if unseen == 1 else 'many'}"
            yield self._sentence(self._fill(entry, count=str(unseen), total=str(len(self.leads))))

    # Sentences

    def _alone(self, lead: Statement) -> str:
        """The most telling statement about a finding, then the images that say something else."""
        own = f"findings.{lead.key}.{lead.state}"
        name = own if self.wording.get(own) else f"states.{lead.state}"
        item = self._name(lead) if lead.state is FindingState.NOT_EVALUATED else self._none(lead)
        clauses = [self._fill(name, list=item, why=self._why(lead), **self._parts(lead))]
        for other in self.stated[lead.key][1:]:
            images, parts = self._images(other.images), self._parts(other)
            clauses.append(self._fill(f"elsewhere.{other.state}", images=images, why=self._why(other), **parts))
        return "; ".join(clauses)

    def _joins(self, lead: Statement) -> bool:
        """Whether a statement shares a sentence with others: negatives, and what was not evaluated."""
        if len(self.stated[lead.key]) > 1:
            return False
        own = self.wording.get(f"findings.{lead.key}.absent") is not None
        return lead.state is FindingState.NOT_EVALUATED or (lead.state is FindingState.ABSENT and not own)

    def _lists(self, joined: Sequence[Statement], state: FindingState) -> Iterable[str]:
        """One sentence for all negatives, or for all that was not evaluated for one reason, in the same images."""
        alike = sorted((s for s in joined if s.state is state), key=_together)
        for (why, images), group in groupby(alike, key=_together):
            said = list(group)
            items = [self._none(s) if state is FindingState.ABSENT else self._name(s) for s in said]
            reason = self.wording[f"why_not_evaluated.{why}"] if why else ""
            yield self._fill(f"states.{state}", list=self._listed(items), where=self._where(images), why=reason)

    def _measurements(self) -> Iterable[str]:
        for position, image in enumerate(self.study.images):
            for measured in image.measurements:
                said = self.wording[f"cautions.{measured.caution}"] if measured.caution else ""
                caution = f" {self._fill('pieces.caution', caution=said)}" if said else ""
                value = f"{measured.value:.2f}".replace(".", self.wording["decimal"])
                where = self._where([position])
                yield self._fill(f"measurements.{measured.key}", value=value, where=where, caution=caution)

    def _criteria(self) -> Iterable[str]:
        for position, image in enumerate(self.study.images):
            yield from criteria_sentences(image, self.wording, self._where([position]))

    def _failures(self) -> Iterable[str]:
        for (name, version), runs in self.runs.items():
            if failed := [position for position, run in runs if run.failure]:
                yield self._fill("technique.model_failed", model=f"{name} {version}", where=self._where(failed))

    def _withdrawn(self) -> Iterable[str]:
        if gone := [position for position, image in enumerate(self.study.images) if image.withdrawn]:
            yield self._fill("impression.withdrawn", images=self._images(gone))

    def _priority(self, image: ImageFindings) -> str:
        """No finding is named for a priority that it does not give."""
        reason, finding = "", image.leading
        if finding is not None and finding.urgency is image.priority:
            side = finding.laterality if finding_codes(finding.key).paired else None
            lead = Statement(finding.key, finding.state, side, None, "", "", ())
            reason = f" {self._fill('pieces.reason', name=self._name(lead), side=self._side(lead))}"
        return self._fill(f"impression.{image.priority}", reason=reason)

    def _nothing(self) -> str:
        """Why there is nothing to tell: an analysis that failed is not one that found nothing."""
        return self.wording[f"impression.{'failed' if self._all_failed() else 'nothing_evaluated'}"]

    def _all_failed(self) -> bool:
        runs = list(chain.from_iterable(self.runs.values()))
        return bool(runs) and all(run.failure for _, run in runs)

    def _covid_open(self) -> bool:
        """A COVID-19 class was evaluated, and the typical appearance was not called present."""
        leads = [self.stated[key][0].state for key in _COVID if key in self.stated]
        typical = self.stated.get("covid_typical")
        called = typical is not None and typical[0].state is FindingState.PRESENT
        return not called and any(state is not FindingState.NOT_EVALUATED for state in leads)

    # Parts of sentences; an optional one brings the space before it

    def _parts(self, said: Statement) -> dict[str, str]:
        return {
            "subject": self.wording[f"findings.{said.key}.subject"],
            "name": self._name(said),
            "side": self._side(said),
            "confidence": self.wording[f"confidence.{said.degree}"] if said.degree else "",
            "probability": self._probability(said),
            "where": self._where(said.images),
        }

    def _name(self, said: Statement) -> str:
        return self.wording[f"findings.{said.key}.name"]

    def _none(self, said: Statement) -> str:
        """``no pneumothorax (3 %)``; empty for a finding that has a sentence of its own when it is absent."""
        none = self.wording.get(f"findings.{said.key}.none")
        return f"{none}{self._side(said)}{self._probability(said)}" if none else ""

    def _side(self, said: Statement) -> str:
        """``No pneumothorax on both sides`` could mean one on one side."""
        neither = said.side is Laterality.BILATERAL and said.state is FindingState.ABSENT
        return f" {self.wording[f'sides.{NEITHER if neither else said.side}']}" if said.side else ""

    def _why(self, said: Statement) -> str:
        return self.wording[f"why_not_evaluated.{said.why}"] if said.why else ""

    def _probability(self, said: Statement) -> str:
        """In whole per cent, and never 0 or 100: no model is certain; from the lowest to the highest of the images."""
        if said.probability is None:
            return ""
        low, high = percent(said.probability if said.lowest is None else said.lowest), percent(said.probability)
        if low == high:
            return f" {self._fill('pieces.probability', percent=high)}"
        return f" {self._fill('pieces.range', low=low, high=high)}"

    def _where(self, positions: Sequence[int]) -> str:
        """Nothing when it holds for every image of the study."""
        if len(positions) == len(self.study.images):
            return ""
        return f" {self._fill('pieces.where', images=self._images(positions))}"

    def _images(self, positions: Sequence[int]) -> str:
        return self._listed([self._image(position) for position in positions])

    def _image(self, position: int) -> str:
        view = self.wording[f"views.{self.study.images[position].view}"]
        return self._fill("pieces.image", number=str(position + 1), view=view)

    def _listed(self, items: Sequence[str]) -> str:
        return listed(items, self.wording)

    def _fill(self, entry: str, /, **parts: str) -> str:
        """An entry with its placeholders filled; optional ones take the space before them away when empty."""
        return self.wording[entry].format_map(parts)

    @staticmethod
    def _sentence(text: str, region: str = "") -> Sentence:
        return Sentence(f"{text[0].upper()}{text[1:]}.", region)


def _together(said: Statement) -> tuple[str, tuple[int, ...]]:
    return said.why, said.images

"""The appearance for COVID-19 pneumonia, from opacities, lungs and findings, by published criteria.

Its numbers are the contract of a bundle without a network, ``covid_appearance``; a site that leaves that out has none.

The rule: every criterion is given with what was measured, the threshold and the outcome; what nobody looked for, and
what lies between its operating points, is a limitation of the appearance, never a criterion that is not met; and no
probability is made up for a class.

The criteria are those of Litmanovich et al. (J Thorac Imaging 2020;35:354-360, table 1):

- typical: lower-lung predominant opacities that are multifocal, bilateral and peripheral, or rounded;
- indeterminate: not typical, and unilateral, central or upper-lung predominant;
- atypical: pneumothorax, pleural effusion, pulmonary oedema, lobar consolidation, solitary nodule or mass, diffuse tiny
  nodules, or a cavity, whatever the opacities look like;
- negative: no opacity.

The table gives no numbers. Predominant is taken as "more of the opaque area than elsewhere", so that peripheral and
central, lower and upper complement each other and every set of opacities has a class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from models.findings import (
    LUNGS,
    OPACITIES,
    PROBABILITY,
    BoolMask,
    Criterion,
    Finding,
    FindingState,
    Sense,
)
from models.opacities import LungFields, Opacity, measure

_PRESENT, _ABSENT = FindingState.PRESENT, FindingState.ABSENT
_OPEN, _UNSEEN = FindingState.UNDETERMINED, FindingState.NOT_EVALUATED


class AppearanceClass(StrEnum):
    """The four classes, named as findings; and why there is none."""

    TYPICAL = "covid_typical"
    INDETERMINATE = "covid_indeterminate"
    ATYPICAL = "covid_atypical"
    NEGATIVE = "covid_negative"
    UNDETERMINED = "undetermined"  # whether there is an opacity is left open, or models disagree
    NOT_EVALUATED = "not_evaluated"  # something that decides was not looked for


CLASSES = tuple(AppearanceClass)[:4]

# Findings that can make the appearance atypical by being there. No model knows the last two yet.
ATYPICAL_FINDINGS = ("pneumothorax", "effusion", "edema", "diffuse_nodules", "cavity")
_NODULES = ("nodule", "mass")
_NODULE_OR_MASS = "lung_lesion"  # of CheXpert: either
# Opacities by another name: "no opacity" does not hold beside one of them.
_OTHER_OPACITIES = ("consolidation", "infiltration", "pneumonia")


@dataclass(frozen=True)
class CriteriaContract:
    """The numbers that the published table does not give, and which findings are looked at.

    Parameters
    ----------
    several
        Opacities from which on they are multifocal; and so many round ones are rounded opacities, where a single one
        may be a nodule.
    outer_half
        Share of the width of a lung, from its outer border, within which an opacity is peripheral.
    predominant
        Share of the area of all opacities from which on they are predominantly there.
    round
        Roundness (``models.opacities.Opacity``) of a rounded opacity. Of an ellipse whose axes are as 2 to 3, it is
        0.92; as 1 to 2, 0.80.
    lobar
        Share of a lung field from which on a single opacity is as large as a lobe. A lobe projects on a third of it and
        more, a middle lobe on about a quarter.
    atypical_findings
        Of `ATYPICAL_FINDINGS`: those that make the appearance atypical by being there.
    """

    several: int
    outer_half: float
    predominant: float
    round: float
    lobar: float
    atypical_findings: tuple[str, ...]

    def check(self) -> None:
        """Raise ValueError when they cannot be followed."""
        shares = (self.outer_half, self.predominant, self.round, self.lobar)
        if self.several < 2 or not all(0.0 < share < 1.0 for share in shares):
            raise ValueError(f"{self} cannot be followed")
        if unknown := set(self.atypical_findings) - set(ATYPICAL_FINDINGS):
            raise ValueError(f"{', '.join(sorted(unknown))} cannot be a criterion")

    @property
    def digest(self) -> str:
        """SHA-256 over the values in their order."""
        return hashlib.sha256(json.dumps(list(asdict(self).values())).encode()).hexdigest()


@dataclass(frozen=True)
class Appearance:
    """What the criteria make of one image.

    Parameters
    ----------
    reason
        Why there is no class, as a code: ``opacity_undetermined``, ``findings_disagree``, ``no_lungs``, ``no_regions``,
        or the reason for which opacity was not evaluated. None when there is one.
    possible
        The classes that are not ruled out: several when undetermined; beside a class, atypical, where a finding that
        would make it so lies between its operating points.
    criteria
        Every line of the table, met or not.
    limitations
        Keys of the criteria that were left open or not evaluated and could have made it another class.
    opacities
        As measured; empty where there is none or they could not be measured.
    opacity_probability
        Of the finding ``lung_opacity``: what a typical or an indeterminate appearance presupposes, and no probability
        of the class. A class has none.
    """

    label: AppearanceClass
    criteria: tuple[Criterion, ...]
    reason: str | None = None
    possible: tuple[AppearanceClass, ...] = ()
    limitations: tuple[str, ...] = ()
    opacities: tuple[Opacity, ...] = ()
    opacity_probability: float | None = None

    def findings(self, model: str) -> tuple[Finding, ...]:
        """The four classes as findings, without probabilities; a class is absent only where nothing leaves it open.

        Parameters
        ----------
        model
            Name of the bundle whose criteria were applied.
        """
        unseen = {
            c.speaks_for: c.reason for c in reversed(self.criteria) if c.key in self.limitations and c.state is _UNSEEN
        }
        return tuple(self._finding(label, unseen, model) for label in CLASSES)

    def _finding(self, label: AppearanceClass, unseen: Mapping[str, str | None], model: str) -> Finding:
        if self.label is AppearanceClass.NOT_EVALUATED:
            return Finding(label.value, _UNSEEN, reason=self.reason, model=model)
        if label is self.label:
            return Finding(label.value, _PRESENT, model=model)
        if label in self.possible:
            return Finding(label.value, _OPEN, model=model)
        if label in unseen:
            return Finding(label.value, _UNSEEN, reason=unseen[label], model=model)
        return Finding(label.value, _ABSENT, model=model)


def derive(
    findings: Iterable[Finding], lungs: LungFields | None, mask: BoolMask | None = None, *, contract: CriteriaContract
) -> Appearance:
    """Apply the criteria to one image.

    Parameters
    ----------
    findings
        Of the image; one that is missing was not evaluated. ``lung_opacity`` carries the boxes.
    lungs
        ``models.opacities.lung_fields`` of the same image; None where they were not found.
    mask
        Opacities outlined, shape (rows, columns) of the stored image; without it the boxes stand for them.
    contract
        The numbers that the criteria are judged by.
    """
    known = {finding.key: finding for finding in findings}
    opacity = known.get("lung_opacity") or Finding("lung_opacity", _UNSEEN, reason="no_model")
    opacities, unmeasured = _measured(opacity, lungs, mask)
    distribution = _distribution(contract, opacity, opacities, unmeasured)
    atypical = _atypical(contract, known, opacity, opacities, unmeasured)
    absence = _absence(opacity, known)
    appearance = Appearance(
        AppearanceClass.NOT_EVALUATED,
        (*distribution, *atypical, *absence),
        opacities=opacities,
        opacity_probability=opacity.probability,
    )
    if opacity.state is _UNSEEN:
        return replace(appearance, reason=opacity.reason or "unstated")
    if any(criterion.met for criterion in atypical):
        return replace(appearance, label=AppearanceClass.ATYPICAL)
    possible, reason = _by_opacity(opacity, unmeasured, distribution, absence)
    if not possible:
        return replace(appearance, reason=reason)
    limitations = tuple(criterion.key for criterion in atypical if criterion.state in (_OPEN, _UNSEEN))
    if possible == (AppearanceClass.INDETERMINATE,) and _may_be_rounded(distribution):
        limitations = ("rounded", *limitations)
    label = possible[0] if len(possible) == 1 else AppearanceClass.UNDETERMINED
    if any(criterion.state is _OPEN for criterion in atypical):
        possible = (*possible, AppearanceClass.ATYPICAL)
    left = tuple(other for other in possible if other is not label)
    return replace(appearance, label=label, reason=reason, possible=left, limitations=limitations)


def _measured(
    opacity: Finding, lungs: LungFields | None, mask: BoolMask | None
) -> tuple[tuple[Opacity, ...], str | None]:
    """The opacities, and why they could not be measured."""
    if opacity.state is _ABSENT:
        return (), None
    if opacity.state is not _PRESENT:
        return (), "opacity_undetermined" if opacity.state is _OPEN else opacity.reason or "unstated"
    if lungs is None:
        return (), "no_lungs"
    opacities = measure(lungs, opacity.regions, mask)
    return opacities, None if opacities else "no_regions"


def _distribution(
    contract: CriteriaContract, opacity: Finding, opacities: Sequence[Opacity], unmeasured: str | None
) -> tuple[Criterion, ...]:
    """How many opacities there are and where they lie: what is typical, then what is indeterminate."""
    typical, indeterminate = AppearanceClass.TYPICAL, AppearanceClass.INDETERMINATE
    area = sum(o.area for o in opacities)
    outer = round(sum(o.area for o in opacities if o.from_wall <= contract.outer_half) / area, 6) if area else None
    lower = round(sum(o.area * o.lower for o in opacities) / area, 6) if area else None
    inner, upper = (None if share is None else round(1 - share, 6) for share in (outer, lower))
    count, sides = float(len(opacities)), float(len({o.side for o in opacities}))
    rounded = _rounded(contract, opacities)
    lines = (
        Criterion("multifocal", typical, _ABSENT, count, contract.several, unit=OPACITIES),
        Criterion("bilateral", typical, _ABSENT, sides, 2, unit=LUNGS),
        Criterion("peripheral", typical, _ABSENT, outer, contract.predominant),
        Criterion("lower_lung", typical, _ABSENT, lower, contract.predominant),
        rounded,
        Criterion("unilateral", indeterminate, _ABSENT, sides or None, 1, Sense.AT_MOST, LUNGS),
        Criterion("central", indeterminate, _ABSENT, inner, 1 - contract.predominant, Sense.MORE_THAN),
        Criterion("upper_lung", indeterminate, _ABSENT, upper, 1 - contract.predominant, Sense.MORE_THAN),
    )
    if unmeasured:
        return tuple(replace(c, state=_UNSEEN, value=None, reason=unmeasured) for c in lines)
    if opacity.state is _ABSENT:
        return tuple(replace(c, reason="no_opacity") for c in lines)
    return tuple(c if c is rounded else replace(c, state=_PRESENT if _holds(c) else _ABSENT) for c in lines)


def _rounded(contract: CriteriaContract, opacities: Sequence[Opacity]) -> Criterion:
    """Boxes can tell that opacities are too elongated to be round, and not that they are round."""
    round_ = [o for o in opacities if o.roundness >= contract.round]
    line = Criterion("rounded", AppearanceClass.TYPICAL, _ABSENT, float(len(round_)), contract.several, unit=OPACITIES)
    if not _holds(line):
        return line
    if all(o.outlined for o in round_):
        return replace(line, state=_PRESENT)
    return replace(line, state=_UNSEEN, reason="no_outline")


def _holds(line: Criterion) -> bool:
    return line.value is not None and line.threshold is not None and line.sense.holds(line.value, line.threshold)


def _atypical(
    contract: CriteriaContract,
    known: Mapping[str, Finding],
    opacity: Finding,
    opacities: Sequence[Opacity],
    unmeasured: str | None,
) -> tuple[Criterion, ...]:
    return (
        *(_as_criterion(key, AppearanceClass.ATYPICAL, known.get(key)) for key in contract.atypical_findings),
        _solitary_nodule(known),
        _lobar(contract.lobar, known.get("consolidation"), opacity, opacities, unmeasured),
    )


def _as_criterion(key: str, speaks_for: str, finding: Finding | None, sense: Sense = Sense.AT_LEAST) -> Criterion:
    if finding is None:
        return Criterion(key, speaks_for, _UNSEEN, reason="no_model")
    line = Criterion(key, speaks_for, finding.state, reason=finding.reason)
    if finding.probability is None or finding.threshold is None:
        return line
    return replace(line, value=finding.probability, threshold=finding.threshold, sense=sense, unit=PROBABILITY)


def _solitary_nodule(known: Mapping[str, Finding]) -> Criterion:
    """A nodule or a mass; more than one box around either says that it is not the only one."""
    key, atypical = "solitary_nodule_or_mass", AppearanceClass.ATYPICAL
    given = [known[name] for name in (*_NODULES, _NODULE_OR_MASS) if name in known]
    states = {finding.key: finding.state for finding in given}
    for state in (_PRESENT, _OPEN):
        if called := [finding for finding in given if finding.state is state]:
            line = _as_criterion(key, atypical, max(called, key=lambda f: f.probability or 0.0))
            count = max(len(finding.regions) for finding in called)
            return _not_solitary(line, count) if state is _PRESENT and count > 1 else line
    seen = states.get(_NODULE_OR_MASS) is _ABSENT or all(states.get(name) is _ABSENT for name in _NODULES)
    if not seen:
        unseen = next((f.reason for f in given if f.state is _UNSEEN and f.key in _NODULES), "no_model")
        return Criterion(key, atypical, _UNSEEN, reason=unseen)
    nearest = max((f for f in given if f.state is _ABSENT), key=lambda f: f.probability or 0.0)
    return _as_criterion(key, atypical, nearest)


def _lobar(
    lobe: float,
    consolidation: Finding | None,
    opacity: Finding,
    opacities: Sequence[Opacity],
    unmeasured: str | None,
) -> Criterion:
    """Consolidation, and a single opacity that is as large as a lobe."""
    largest = max((round(o.of_lung, 6) for o in opacities), default=None)
    line = Criterion("lobar_consolidation", AppearanceClass.ATYPICAL, _ABSENT, largest, lobe)
    as_finding = _as_criterion(line.key, line.speaks_for, consolidation)
    if as_finding.state is _ABSENT:
        return as_finding
    if unmeasured:
        return replace(line, state=_UNSEEN, reason=unmeasured)
    if opacity.state is _ABSENT and as_finding.state is _PRESENT:
        return replace(line, state=_UNSEEN, reason="findings_disagree")
    if len(opacities) > 1:
        return _not_solitary(line, len(opacities))
    return replace(line, state=as_finding.state, reason=as_finding.reason) if _holds(line) else line


def _not_solitary(line: Criterion, count: int) -> Criterion:
    """Not met, for there is more than one."""
    return replace(
        line,
        state=_ABSENT,
        value=float(count),
        threshold=1,
        sense=Sense.AT_MOST,
        unit=OPACITIES,
        reason="not_solitary",
    )


def _absence(opacity: Finding, known: Mapping[str, Finding]) -> tuple[Criterion, ...]:
    """No opacity, nor anything that is one by another name."""
    negative = AppearanceClass.NEGATIVE
    turned = {_PRESENT: _ABSENT, _ABSENT: _PRESENT}
    called = [key for key in _OTHER_OPACITIES if key in known and known[key].state is _PRESENT]
    none = _as_criterion("no_opacity", negative, opacity, Sense.LESS_THAN)
    others = Criterion("no_other_opacity", negative, _PRESENT, float(len(called)), 0, Sense.AT_MOST, OPACITIES)
    return (
        replace(none, state=turned.get(none.state, none.state)),
        replace(others, state=_ABSENT) if called else others,
    )


def _by_opacity(
    opacity: Finding, unmeasured: str | None, distribution: Iterable[Criterion], absence: Sequence[Criterion]
) -> tuple[tuple[AppearanceClass, ...], str | None]:
    """The classes that the opacities leave, findings that make an appearance atypical aside; none, and why."""
    typical, indeterminate, negative = (
        AppearanceClass.TYPICAL,
        AppearanceClass.INDETERMINATE,
        AppearanceClass.NEGATIVE,
    )
    if opacity.state is _OPEN:
        return (typical, indeterminate, negative), "opacity_undetermined"
    if opacity.state is _ABSENT:
        if all(criterion.met for criterion in absence):
            return (negative,), None
        return (typical, indeterminate, negative), "findings_disagree"
    if unmeasured:
        return (), unmeasured
    met = {criterion.key for criterion in distribution if criterion.met}
    if "lower_lung" in met and ({"multifocal", "bilateral", "peripheral"} <= met or "rounded" in met):
        return (typical,), None
    return (indeterminate,), None


def _may_be_rounded(distribution: Iterable[Criterion]) -> bool:
    """Whether outlines could have made it typical."""
    state = {criterion.key: criterion.state for criterion in distribution}
    return state["rounded"] is _UNSEEN and state["lower_lung"] is _PRESENT

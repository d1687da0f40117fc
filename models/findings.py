"""What the models say about an image and about a study: the vocabulary that every other module shares.

Only the standard library and numpy are imported here, so that the encoder, the worker and the training code can all
depend on it without depending on each other. Everything is frozen; a later stage makes a changed copy.

Coordinates are those of the stored pixel matrix (PS3.3 C.10.5.1.2 for 2D graphics): x counts columns to the right, y
counts rows down, and the top left corner of the top left pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

BoolMask = npt.NDArray[np.bool_]
FloatMap = npt.NDArray[np.float32]

# Findings and structures without a side.
MIDLINE = frozenset(
    {
        "no_finding", "cardiomegaly", "hernia", "enlarged_cardiomediastinum", "support_devices", "pneumoperitoneum",
        "mediastinal_widening", "covid_typical", "covid_negative", "heart",
    }
)  # fmt: skip
# Findings that are called present where nothing is found.
OF_ABSENCE = frozenset({"no_finding", "covid_negative"})


class FindingState(StrEnum):
    """What is known about one finding (PS3.16 CID 240, and one that CID 240 does not have), the most telling first."""

    PRESENT = "present"
    UNDETERMINED = "undetermined"  # the score lies between the two operating points
    ABSENT = "absent"
    NOT_EVALUATED = "not_evaluated"  # no model looked, its evidence does not carry, or it failed: see `reason`


class Laterality(StrEnum):
    """Side of the patient, not of the picture (PS3.16 CID 244)."""

    RIGHT = "right"
    LEFT = "left"
    BILATERAL = "bilateral"


class View(StrEnum):
    """Projection of the radiograph (PS3.16 CID 4010)."""

    PA = "PA"
    AP = "AP"
    FRONTAL = "FRONTAL"  # frontal, but the header does not say from which side


class Caution(StrEnum):
    """What limits a result that is given all the same."""

    AP_VIEW = "ap_view"  # the heart looks larger
    BEDSIDE = "bedside"
    AGE_UNKNOWN = "age_unknown"
    AGE_OUTSIDE_VALIDATION = "age_outside_validation"  # the site has children read
    VIEW_UNKNOWN = "view_unknown"  # frontal, from which side nobody tells: the heart may look larger
    VIEW_FROM_PIXELS = "view_from_pixels"  # the header does not tell it
    BODY_PART_DOUBTFUL = "body_part_doubtful"  # Body Part Examined names another one
    PIXELS_DOUBTFUL = "pixels_doubtful"  # they pass the gate, but hardly
    GATE_FAILED = "gate_failed"  # the pixels were not checked
    COLLIMATED = "collimated"
    LUNGS_CUT_OFF = "lungs_cut_off"
    CLIPPED_GRAYS = "clipped_grays"
    LOW_CONTRAST = "low_contrast"
    EXTREME_EXPOSURE = "extreme_exposure"  # Deviation Index


class Priority(StrEnum):
    """Reading priority of an image or a study; what the AI found can raise it and never lower it."""

    CRITICAL = "critical"  # ACR category 1, minutes
    URGENT = "urgent"  # ACR category 2, hours
    ROUTINE = "routine"
    NONE = "none"  # the AI has no opinion: nothing was processed

    @property
    def rank(self) -> int:
        """0 for the most pressing."""
        return list(Priority).index(self)


# ACR actionable categories (CID 7035): 1 wants minutes, 2 wants hours; everything else is read in its turn.
URGENCY = {
    Priority.CRITICAL: {"pneumothorax", "pneumoperitoneum"},
    Priority.URGENT: {
        "consolidation", "covid_atypical", "covid_indeterminate", "covid_typical", "edema", "effusion", "fracture",
        "infiltration", "lung_opacity", "mass", "mediastinal_widening", "pneumonia", "tuberculosis",
    },
}  # fmt: skip


class Precision(StrEnum):
    """In which numbers a network computed."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"  # what of it is not in integers is in single precision


@dataclass(frozen=True)
class ModelIdentity:
    """One exact version of a packaged model.

    Parameters
    ----------
    name, version
        Of the bundle, from its ``metadata.json``.
    weights_digest, config_digest
        SHA-256, hexadecimal, of the weights file and of the contract (operating points, label mapping).
    """

    name: str
    version: str
    weights_digest: str
    config_digest: str


@dataclass(frozen=True)
class Region:
    """Axis-aligned box around a finding, in stored pixels.

    Parameters
    ----------
    x, y, width, height
        Left edge, top edge and size, in pixels; multiples of 1/16, so that they fit a Spatial Coordinates item exactly
        (PS3.3 C.18.6: single precision).
    score
        0 to 1 in steps of 1e-6, the model's confidence in this region.
    laterality
        Side of the patient on which the centre of the box lies; None for a finding without a side (`MIDLINE`).
    """

    x: float
    y: float
    width: float
    height: float
    score: float
    laterality: Laterality | None = None


@dataclass(frozen=True)
class Finding:
    """The state of one finding in one image.

    Parameters
    ----------
    key
        As in ``dicom_sr/codes.csv``, e.g. ``pneumothorax``.
    probability
        Calibrated, 0 to 1 in steps of 1e-6; None when not evaluated, or derived by criteria.
    threshold
        Probability from which the finding is called present; None when not evaluated, or derived by criteria.
    reason
        Why it was not evaluated, as a code: ``evidence``, ``model_failed``, ``view``, ``no_model``, ``routing`` when a
        rule of the site left its model out, ``refused`` when an earlier result is withdrawn, or what kept it from being
        derived (``models.appearance``).
    model
        Name of the model that answered; it is one of ``ImageFindings.runs``.
    """

    key: str
    state: FindingState
    probability: float | None = None
    threshold: float | None = None
    laterality: Laterality | None = None
    regions: tuple[Region, ...] = ()
    reason: str | None = None
    model: str | None = None

    @property
    def urgency(self) -> Priority:
        """How soon the finding, if present, wants to be read."""
        return next((priority for priority, keys in URGENCY.items() if self.key in keys), Priority.ROUTINE)


@dataclass(frozen=True, eq=False)
class SegmentMask:
    """A structure delineated by a model: a boolean array of shape (rows, columns) of the stored image."""

    key: str
    mask: BoolMask
    model: str


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """Where a model looked for one finding. For people's eyes: SR and SEG do not carry it.

    Parameters
    ----------
    values
        float32 of shape (h, w) that covers the stored image evenly at any resolution; 0 where nothing speaks for the
        finding, 1 at the strongest place.
    """

    key: str
    values: FloatMap
    model: str


@dataclass(frozen=True)
class Line:
    """A straight line from (x0, y0) to (x1, y1), in stored pixels; multiples of 1/16."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Measurement:
    """A number taken from the image, with the lines that show how.

    Parameters
    ----------
    key
        ``cardiothoracic_ratio``.
    value
        In `unit`, a UCUM code; ``1`` for a ratio. In steps of 1e-6.
    lines
        E.g. the cardiac diameter, then the thoracic diameter.
    caution
        Why the number deserves care; None if there is no reason known.
    """

    key: str
    value: float
    unit: str
    model: str
    lines: tuple[Line, ...] = ()
    caution: Caution | None = None


class Sense(StrEnum):
    """How a value must compare with its threshold for a criterion to be met."""

    AT_LEAST = ">="
    MORE_THAN = ">"
    AT_MOST = "<="
    LESS_THAN = "<"

    def holds(self, value: float, threshold: float) -> bool:
        """Whether it does."""
        if value == threshold:
            return self in (Sense.AT_LEAST, Sense.AT_MOST)
        return (value > threshold) == (self in (Sense.AT_LEAST, Sense.MORE_THAN))


# UCUM units of criteria: what a number counts (braces annotate and leave the unit as it is).
SHARE, PROBABILITY, OPACITIES, LUNGS = "1", "{probability}", "{opacities}", "{lungs}"


@dataclass(frozen=True)
class Criterion:
    """One criterion of a derived finding (``models.appearance``), as this image has it.

    Parameters
    ----------
    key
        E.g. ``lower_lung``.
    speaks_for
        Key of the finding that it is a criterion of.
    state
        Present when met, absent when not met.
    value
        What was measured, in `unit` and in steps of 1e-6; None when there is nothing to measure.
    threshold
        Of the value; None where there is none. Then `sense` and `unit` mean nothing and are left as they are.
    unit
        One of ``SHARE``, ``PROBABILITY`` (of the finding that decides), ``OPACITIES``, ``LUNGS``.
    reason
        Why it was not evaluated, a code as in ``Finding.reason``; or why it cannot be met: ``no_opacity``,
        ``not_solitary``.
    """

    key: str
    speaks_for: str
    state: FindingState
    value: float | None = None
    threshold: float | None = None
    sense: Sense = Sense.AT_LEAST
    unit: str = SHARE
    reason: str | None = None

    @property
    def met(self) -> bool | None:
        """None when that is not known."""
        return {FindingState.PRESENT: True, FindingState.ABSENT: False}.get(self.state)


@dataclass(frozen=True)
class ModelRun:
    """One model applied to one image; `failure` is a code when it did not answer."""

    model: ModelIdentity
    failure: str | None = None
    precision: Precision = Precision.FLOAT32  # without a network, nothing was lowered


@dataclass(frozen=True)
class ImageFindings:
    """Everything that the models say about one radiograph.

    Parameters
    ----------
    rows, columns
        Size of the stored pixel matrix.
    runs
        Each model that was asked, in the order in which they ran.
    priority, priority_reason
        Set by ``models.triage``; the reason is a sentence for people.
    cautions
        What limits the result.
    saliency
        One map for each finding that was called present by a model whose maps were shown to point at it.
    criteria
        By which findings were derived from other ones, in the order of those findings.
    route
        Name of the site's rule that left models out; empty when every active one was asked.
    """

    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    rows: int
    columns: int
    view: View
    runs: tuple[ModelRun, ...]
    findings: tuple[Finding, ...] = ()
    segments: tuple[SegmentMask, ...] = field(default=(), repr=False)
    measurements: tuple[Measurement, ...] = ()
    priority: Priority = Priority.ROUTINE
    priority_reason: str = ""
    cautions: tuple[Caution, ...] = ()
    saliency: tuple[SaliencyMap, ...] = field(default=(), repr=False)
    criteria: tuple[Criterion, ...] = ()
    route: str = ""

    @property
    def withdrawn(self) -> bool:
        """Whether this says no more than that an earlier result no longer holds, for the image is no longer read."""
        return bool(self.runs) and all(run.failure == "refused" for run in self.runs)

    def withdraw(self, why: str) -> ImageFindings:
        """What replaces these findings when their image is no longer read; `why` is the code of the refusal."""
        return replace(
            self,
            runs=tuple(replace(run, failure="refused") for run in self.runs),
            findings=tuple(
                Finding(f.key, FindingState.NOT_EVALUATED, reason="refused", model=f.model) for f in self.findings
            ),
            segments=(),
            measurements=(),
            priority=Priority.NONE,
            priority_reason=f"Withdrawn: the image is no longer read ({why})",
            cautions=(),
            saliency=(),
            criteria=(),
        )

    @property
    def derived(self) -> frozenset[str]:
        """Keys of the findings that were derived from others by criteria; they have no probability."""
        return frozenset(criterion.speaks_for for criterion in self.criteria)

    @property
    def present(self) -> tuple[Finding, ...]:
        """The findings called present, the most probable first."""
        found = [f for f in self.findings if f.state is FindingState.PRESENT]
        return tuple(sorted(found, key=lambda f: -(f.probability or 0.0)))

    @property
    def leading(self) -> Finding | None:
        """The finding called present that wants to be read first; None where nothing was found.

        Never a derived one: it knows nothing that the findings do not know from which it was derived.
        """
        found = (f for f in self.present if f.key not in OF_ABSENCE | self.derived)
        return min(found, key=lambda f: f.urgency.rank, default=None)

    @property
    def evaluated(self) -> bool:
        """Whether there is any finding that could have been found."""
        return any(f.state is not FindingState.NOT_EVALUATED for f in self.findings)


def percent(probability: float) -> str:
    """A probability in whole per cent; ``<1`` and ``>99`` at the ends, for no model is certain."""
    whole = round(100 * probability)
    return "<1" if whole < 1 else ">99" if whole > 99 else str(whole)

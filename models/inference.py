"""Runs the active bundles on one rendered radiograph and puts their answers together.

The rule: one model's failure is recorded as such and takes nothing from the others.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models import appearance, boxes, classes, masks, pixel_gate, scores, structures
from models.bundle import CRITERIA, Bundle, BundleInvalid, Contract
from models.calls import sigmoid
from models.contracts import BoxContract, ClassContract, MaskContract
from models.findings import (
    Criterion,
    Finding,
    FindingState,
    ImageFindings,
    Measurement,
    ModelRun,
    Precision,
    SaliencyMap,
    SegmentMask,
    View,
)
from models.forward import FloatArray, Forward
from models.opacities import lung_fields
from models.pixel_gate import GateAnswer
from models.preprocessing import Preprocessing
from models.refusal import ImageRefused
from models.rendering import Frame, RenderedImage, network_input
from models.runtime import Running, forwards_of

log = logging.getLogger("hilum.inference")

# Every answer names each of these, so that silence is never mistaken for absence (Wang et al., CVPR 2017).
NIH_FINDINGS = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
    "consolidation", "edema", "emphysema", "fibrosis", "pleural_thickening", "hernia",
)  # fmt: skip


class OutputInvalid(Exception):
    """A network answered with something that cannot be interpreted; recorded as that model's failure."""


@dataclass(frozen=True)
class ImageIdentity:
    """Which image is read, and from which side it was taken."""

    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    view: View


@dataclass(frozen=True)
class Models:
    """The active bundles in the order in which they run; use `assemble`.

    Parameters
    ----------
    bundles, forwards
        Those that find something.
    gate
        The one that decides whether they are asked at all; None when the site runs without it.
    criteria
        The one that derives the appearance for COVID-19 from what they found; None when the site runs without it.
    lowered
        Name to precision, of those that do not answer in float32.
    left_out
        Active ones that a rule of the site, `route`, has not asked.
    """

    bundles: tuple[Bundle, ...]
    forwards: tuple[Forward, ...]
    gate: tuple[Bundle, Forward] | None = None
    criteria: Bundle | None = None
    lowered: Mapping[str, Precision] = field(default_factory=dict)
    left_out: tuple[Bundle, ...] = ()
    route: str = ""

    def only(self, names: Collection[str], route: str) -> Models:
        """Those of these names, by a rule of the site; the pixel gate guards whatever is read."""
        kept = [
            (b, forward) for b, forward in zip(self.bundles, self.forwards, strict=True) if b.identity.name in names
        ]
        left_out = [bundle for bundle in self.bundles if bundle.identity.name not in names]
        criteria = self.criteria if self.criteria and self.criteria.identity.name in names else None
        if self.criteria is not criteria and self.criteria:
            left_out.append(self.criteria)
        if not left_out:
            return self
        return replace(
            self,
            bundles=tuple(bundle for bundle, _ in kept),
            forwards=tuple(forward for _, forward in kept),
            criteria=criteria,
            left_out=tuple(left_out),
            route=route,
        )

    @property
    def versions(self) -> dict[str, str]:
        """Name to version."""
        everything = [*(bundle for bundle, _ in self._all()), *([self.criteria] if self.criteria else [])]
        return {bundle.identity.name: bundle.identity.version for bundle in everything}

    @property
    def precisions(self) -> dict[str, Precision]:
        """Name to the precision in which it answers."""
        return {name: self.lowered.get(name, Precision.FLOAT32) for name in self.versions}

    def warm_up(self) -> None:
        """Run every network once, so that the first patient does not wait for one-time preparations."""
        for bundle, forward in self._all():
            size, preprocessing = bundle.contract.input_size, bundle.contract.preprocessing
            channels = preprocessing.channels if preprocessing else 1
            forward(np.zeros((1, channels, size, size), np.float32))

    def look(self, image: RenderedImage, *, children: bool) -> GateAnswer | None:
        """What the pixel gate says of an image; None when no gate is active.

        Raises
        ------
        OutputInvalid
            When its network answers with something that is no number.
        """
        if self.gate is None:
            return None
        bundle, forward = self.gate
        picture, _ = network_input(image, bundle.contract.input_size, stretch=True)
        logits = forward(picture[None, None])["logits"]
        if bundle.contract.gate is None or not np.isfinite(logits).all():
            raise OutputInvalid(f"{bundle.identity.name} answered with values that are not numbers")
        return pixel_gate.interpret(logits, bundle.contract.gate, children=children)

    def _all(self) -> list[tuple[Bundle, Forward]]:
        """Those with a network."""
        return [*([self.gate] if self.gate else []), *zip(self.bundles, self.forwards, strict=True)]

    def predict(self, image: RenderedImage, identity: ImageIdentity) -> ImageFindings:
        """Run every bundle on one image.

        Raises
        ------
        ImageRefused
            ``lungs_not_found`` when the picture shows no frontal chest.
        """
        answer = _Answer(image, identity.view, self.lowered)
        for bundle, forward in zip(self.bundles, self.forwards, strict=True):
            try:
                answer.add(bundle, forward)
            except ImageRefused:
                raise
            except Exception:  # whatever happens inside one model, the others still answer
                log.exception("model failed", extra={"model": bundle.identity.name})
                answer.add_failure(bundle)
        if self.criteria is not None:
            answer.add_appearance(self.criteria)
        for bundle in self.left_out:
            answer.leave_out(bundle)
        rows, columns = image.shape
        return ImageFindings(
            study_instance_uid=identity.study_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            rows=rows,
            columns=columns,
            view=identity.view,
            runs=tuple(answer.runs),
            findings=answer.all_findings(),
            segments=answer.segments,
            measurements=answer.measurements,
            saliency=answer.saliency,
            criteria=answer.criteria,
            route=self.route,
        )


def assemble(loaded: Iterable[Bundle], *, threads: int, running: Running | None = None) -> Models:
    """Make bundles ready to run, the lungs first: the others need them to tell sides.

    Parameters
    ----------
    threads
        Threads that one inference may use.
    running
        What runs the networks; without it torch does.

    Raises
    ------
    BundleInvalid
        When two of them are pixel gates, or criteria of the appearance.
    """
    bundles = sorted(loaded, key=lambda bundle: bundle.contract.interpreter != "structures")
    with_network = [bundle for bundle in bundles if bundle.build is not None]
    asked = list(zip(with_network, forwards_of(with_network, running, threads=threads), strict=True))
    if any(isinstance(bundle.contract.reading, BoxContract) for bundle in with_network):
        boxes.prepare(threads)
    gates = [(b, forward) for b, forward in asked if b.contract.interpreter == "gate"]
    criteria = [bundle for bundle in bundles if bundle.contract.interpreter == CRITERIA]
    for what, found in (("pixel gates", gates), ("bundles of criteria", criteria)):
        if len(found) > 1:
            raise BundleInvalid(f"two {what} are active: name one of them in the setting `bundles`")
    finding = [(b, forward) for b, forward in asked if b.contract.interpreter != "gate"]
    return Models(
        tuple(bundle for bundle, _ in finding),
        tuple(forward for _, forward in finding),
        gates[0] if gates else None,
        criteria[0] if criteria else None,
        {b.identity.name: run.precision for b, run in asked if run.precision is not Precision.FLOAT32},
    )


@dataclass(frozen=True)
class _Told:
    """What one bundle says of an image, and what it drew for it."""

    findings: tuple[Finding, ...]
    segments: tuple[SegmentMask, ...] = ()
    saliency: tuple[SaliencyMap, ...] = ()


def _told(
    contract: Contract, output: dict[str, FloatArray], frame: Frame, segments: Sequence[SegmentMask], model: str
) -> _Told:
    """Read the outputs as the contract says."""
    findings, reading = contract.findings, contract.reading
    if isinstance(reading, ClassContract):
        return _Told(classes.interpret(output["logits"], contract=findings, reading=reading, model=model))
    common: Any = {"contract": findings, "segments": segments, "model": model}
    if isinstance(reading, MaskContract):
        return _Told(*masks.interpret(output, frame, reading=reading, **common))
    if isinstance(reading, BoxContract):
        return _Told(boxes.interpret(output, frame, reading=reading, **common))
    maps = output.get("maps")
    said, saliency = scores.interpret(output["logits"], maps, frame, **common)
    return _Told(said, () if maps is None else scores.outlines(said, maps, frame, **common), saliency)


class _Answer:
    """Collects what the bundles say about one image."""

    def __init__(self, image: RenderedImage, view: View, lowered: Mapping[str, Precision] | None = None) -> None:
        self.image, self.view, self._lowered = image, view, lowered or {}
        self.runs: list[ModelRun] = []
        self.findings: dict[str, Finding] = {}
        self.segments: tuple[SegmentMask, ...] = ()
        self.measurements: tuple[Measurement, ...] = ()
        self.saliency: tuple[SaliencyMap, ...] = ()
        self.criteria: tuple[Criterion, ...] = ()
        self._pictures: dict[int, tuple[FloatArray, Frame]] = {}

    def add(self, bundle: Bundle, forward: Forward) -> None:
        """Run one bundle and keep its answer."""
        size, name = bundle.contract.input_size, bundle.identity.name
        if size not in self._pictures:
            rendered, at = network_input(self.image, size)
            self._pictures[size] = rendered[None, None], at
        asked, frame = self._pictures[size]
        preprocessing = bundle.contract.preprocessing
        output = forward(asked) if preprocessing is None else self._published(preprocessing, forward)
        if not all(np.isfinite(values).all() for values in output.values()):
            raise OutputInvalid(f"{name} answered with values that are not numbers")
        if bundle.contract.interpreter == "structures":
            self.segments, self.measurements = structures.interpret(
                sigmoid(output["logits"]).astype(np.float32),
                frame,
                bundle.contract.segments,
                self.view,
                name,
                picture=asked[0, 0],
                plausibility=bundle.contract.plausibility,
            )
        else:
            self._keep(_told(bundle.contract, output, frame, self.segments, name))
        self.runs.append(self._run(bundle))

    def _run(self, bundle: Bundle, failure: str | None = None) -> ModelRun:
        return ModelRun(bundle.identity, failure, self._lowered.get(bundle.identity.name, Precision.FLOAT32))

    def _keep(self, told: _Told) -> None:
        """Take over findings, and what was drawn for them; what was drawn for an answer that is replaced goes with it.

        What one model does not evaluate takes nothing from another that does.
        """
        for finding in told.findings:
            if finding.state is not FindingState.NOT_EVALUATED or finding.key not in self.findings:
                self.findings[finding.key] = finding
        self.segments = tuple(s for s in (*self.segments, *told.segments) if self._stands(s))
        self.saliency = tuple(s for s in (*self.saliency, *told.saliency) if self._stands(s))

    def _stands(self, drawn: SegmentMask | SaliencyMap) -> bool:
        finding = self.findings.get(drawn.key)
        return finding is None or finding.model == drawn.model

    def _published(self, preprocessing: Preprocessing, forward: Forward) -> dict[str, FloatArray]:
        """What a network says that was trained elsewhere: of several crops the mean of the probabilities."""
        logits = [forward(crop[None])["logits"] for crop in preprocessing.apply(self.image)]
        if len(logits) > 1:
            mean = np.mean([sigmoid(one.astype(np.float64)) for one in logits], axis=0)
            logits = [np.log(mean / (1.0 - mean)).astype(np.float32)]
        return {"logits": logits[0]}  # its maps lie over crops: it locates nothing

    def add_failure(self, bundle: Bundle) -> None:
        """Note that a bundle gave no answer, for each finding that it would have evaluated."""
        self.runs.append(self._run(bundle, "model_failed"))
        for c in bundle.contract.findings:
            reason = "model_failed" if c.evaluated else "evidence"
            finding = Finding(c.key, FindingState.NOT_EVALUATED, reason=reason, model=bundle.identity.name)
            self.findings.setdefault(c.key, finding)

    def leave_out(self, bundle: Bundle) -> None:
        """Note that a rule of the site did not ask a bundle, for each finding that nobody else evaluated."""
        keys = [c.key for c in bundle.contract.findings if c.evaluated]
        if bundle.contract.interpreter == CRITERIA:
            keys = [key.value for key in appearance.CLASSES]
        for key in keys:
            self.findings.setdefault(key, Finding(key, FindingState.NOT_EVALUATED, reason="routing"))

    def add_appearance(self, bundle: Bundle) -> None:
        """Derive the appearance for COVID-19 pneumonia where a model knows opacities and none tells the appearance."""
        opacity, model = self.findings.get("lung_opacity"), bundle.identity
        told = (self.findings[key] for key in appearance.CLASSES if key in self.findings)
        if opacity is None or any(finding.state is not FindingState.NOT_EVALUATED for finding in told):
            return
        if opacity.state is FindingState.NOT_EVALUATED:  # nothing to derive it from, for this model and this reason
            for key in appearance.CLASSES:
                self.findings.setdefault(key.value, replace(opacity, key=key.value))
            return
        try:
            found = self._appearance(bundle)
        except Exception:  # the findings that it is derived from hold all the same
            log.exception("model failed", extra={"model": model.name})
            found = appearance.Appearance(appearance.AppearanceClass.NOT_EVALUATED, (), reason="model_failed")
        self.findings.update({finding.key: finding for finding in found.findings(model.name)})
        self.criteria = found.criteria
        self.runs.append(ModelRun(model, "model_failed" if found.reason == "model_failed" else None))

    def _appearance(self, bundle: Bundle) -> appearance.Appearance:
        if bundle.contract.criteria is None:
            raise OutputInvalid(f"{bundle.identity.name} has no criteria")
        mask = next((s.mask for s in self.segments if s.key == "lung_opacity"), None)
        lungs = lung_fields(self.segments, self.image.hanging, self.image.aspect)
        return appearance.derive(self.findings.values(), lungs, mask, contract=bundle.contract.criteria)

    def all_findings(self) -> tuple[Finding, ...]:
        """What was found, then each finding that no active model knows."""
        for key in NIH_FINDINGS:
            self.findings.setdefault(key, Finding(key, FindingState.NOT_EVALUATED, reason="no_model"))
        return tuple(self.findings.values())

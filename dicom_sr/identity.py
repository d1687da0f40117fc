"""Identifiers of results, made from what the results were made of.

The rule: the same image of the same study, models, contracts, precisions, view, priority, cautions, route and
predecessor give the same UIDs, for ever and on every machine; anything else gives others. No time and nothing of the
patient enters them (PS3.5 B.2: ``2.25.`` followed by a UUID as an integer); results for corrected patient attributes
differ by the predecessor.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from dicom_sr.parameters import lowered
from models.findings import ImageFindings, ModelRun
from models.study import StudyFindings

# Raise this when the encoding of the same findings changes, its English sentences included: a new object must not carry
# an old identifier.
ENCODING_VERSION = 6
_NAMESPACE = uuid.UUID("6e1dfc1c-94a0-5c6e-9d0b-7c1c3f0a4f2e")


@dataclass(frozen=True)
class Identity:
    """Series Instance UID and SOP Instance UID of one object."""

    series: str
    instance: str


def image_result(findings: ImageFindings, role: str, predecessor_uid: str = "") -> Identity:
    """The identity that a result of an image will have; nothing is encoded for it.

    The pictures belong to their report: a new report has new ones.

    Parameters
    ----------
    role
        ``SR``, ``SEG``, ``SC`` or ``PR``. All objects of one role and one set of models share a series.
    predecessor_uid
        SOP Instance UID of the report that its report replaces; empty for the first. It is part of the identity, so
        that going back to an earlier model is a new result and not the old one's.
    """
    run = _models_key(findings)
    return Identity(
        derived_uid("series", findings.study_instance_uid, run, role),
        derived_uid(
            "instance",
            findings.study_instance_uid,
            findings.sop_instance_uid,
            run,
            role,
            predecessor_uid,
            findings.view,
            findings.priority,
            findings.priority_reason,
            *findings.cautions,
            *([f"route={findings.route}"] if findings.route else []),
        ),
    )


def study_result(
    study: StudyFindings,
    role: str,
    reports: Iterable[str],
    *,
    wording_digest: str = "",
    predecessor_uid: str = "",
) -> Identity:
    """The identity of a result of the whole study: its preliminary report (``DOC``) or its key objects (``KO``).

    Parameters
    ----------
    reports
        SOP Instance UIDs of the measurement reports that it is made from.
    wording_digest
        SHA-256 of the table of sentences that the report is written with.
    """
    runs = sorted({_models_key(image) for image in study.images})
    return Identity(
        derived_uid("series", study.study_instance_uid, role, *runs),
        derived_uid(
            "instance",
            study.study_instance_uid,
            role,
            wording_digest,
            predecessor_uid,
            *sorted(reports),
            *sorted(study.unread),
        ),
    )


def tracking_uid(findings: ImageFindings, key: str, what: str = "") -> str:
    """Identifier of a finding, or of its segment or one of its boxes, in every result of one run (PS3.16 TID 4108)."""
    image = findings.study_instance_uid, findings.sop_instance_uid
    return derived_uid("tracking", *image, _models_key(findings), key, what)


def device_uid(run: ModelRun) -> str:
    """Device UID of one exact version of a model, in one precision (IHE AIR: a new one for each retrained model)."""
    model = run.model
    parts = [model.name, model.version, model.weights_digest, model.config_digest, *lowered(run)]
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"  # whatever the encoding


def derived_uid(*parts: str) -> str:
    """A UID that depends on the parts and their order alone."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps([ENCODING_VERSION, *parts])).int}"


def _models_key(findings: ImageFindings) -> str:
    """A failed run counts too, so that a later success supersedes it."""
    runs = [
        [
            run.model.name,
            run.model.version,
            run.model.weights_digest,
            run.model.config_digest,
            run.failure,
            *lowered(run),
        ]
        for run in findings.runs
    ]
    return json.dumps(runs)

"""Identifiers of results, made from what the results were made of.

The rule: the same images, models and contracts give the same UIDs, for ever and on every machine; anything else gives
others. No time and nothing of the patient enters them (PS3.5 B.2: ``2.25.`` followed by a UUID as an integer).
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from models.findings import ImageFindings, ModelIdentity

# Raise this when the encoding of the same findings changes: a new object must not carry an old identifier.
ENCODING_VERSION = 2
_NAMESPACE = uuid.UUID("6e1dfc1c-94a0-5c6e-9d0b-7c1c3f0a4f2e")


@dataclass(frozen=True)
class ResultUids:
    """Series Instance UIDs and SOP Instance UIDs of the results of one image."""

    measurement_report_series: str
    measurement_report: str
    segmentation_series: str
    segmentation: str


def result_uids(findings: ImageFindings) -> ResultUids:
    """The identifiers that the results of these findings will have; nothing is encoded for it."""
    run, image = _models_key(findings), findings.sop_instance_uid
    return ResultUids(
        derived_uid("series", findings.study_instance_uid, run, "SR"),
        derived_uid("instance", image, run, "SR", *findings.cautions),
        derived_uid("series", findings.study_instance_uid, run, "SEG"),
        derived_uid("instance", image, run, "SEG"),
    )


def tracking_uid(findings: ImageFindings, key: str, ordinal: int = 0) -> str:
    """Identifier of one finding's region or segment, shared by report and segmentation (PS3.16 TID 4108)."""
    return derived_uid("tracking", findings.sop_instance_uid, _models_key(findings), f"{key}/{ordinal}")


def device_uid(model: ModelIdentity) -> str:
    """Device UID of one exact version of a model (IHE AIR: a new one for each retrained model)."""
    return derived_uid("device", model.name, model.version, f"{model.weights_digest}/{model.config_digest}")


def derived_uid(*parts: str) -> str:
    """A UID that depends on the parts and their order alone."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps([ENCODING_VERSION, *parts])).int}"


def _models_key(findings: ImageFindings) -> str:
    """A failed run counts too, so that a later success supersedes it."""
    runs = [
        [run.model.name, run.model.version, run.model.weights_digest, run.model.config_digest, run.failure]
        for run in findings.runs
    ]
    return json.dumps(runs)

"""One image from its intake to prioritised findings: the header's word, the pixels' word, the models' answers.

The rule: serving and ``./hilum predict`` read an image through this function, so that they cannot differ.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from models.agreement import confirm
from models.findings import Caution, ImageFindings, View
from models.inference import ImageIdentity, Models
from models.intake import Intake
from models.pixel_gate import GateAnswer
from models.quality import assess
from models.refusal import Evidence
from models.rendering import RenderedImage
from models.selection import Policy, Selection
from models.triage import prioritise

log = logging.getLogger("hilum.reading")


@dataclass(frozen=True, eq=False)
class Reading:
    """What was found in an image, and why it was read at all.

    Parameters
    ----------
    gate
        The pixel gate's answer; None when none is active, or it failed.
    """

    findings: ImageFindings
    evidence: tuple[Evidence, ...]
    gate: GateAnswer | None


def read_intake(taken: Intake, models: Models, policy: Policy) -> Reading:
    """Read an instance that was taken in; as `read`."""
    identity = ImageIdentity(
        study_instance_uid=str(taken.header.StudyInstanceUID),
        sop_class_uid=str(taken.header.SOPClassUID),
        sop_instance_uid=str(taken.header.SOPInstanceUID),
        view=taken.selection.view or View.FRONTAL,
    )
    return read(taken.image, taken.selection, identity, models, policy)


def read(
    image: RenderedImage, selection: Selection, identity: ImageIdentity, models: Models, policy: Policy
) -> Reading:
    """Read one image.

    Parameters
    ----------
    identity
        Its view is replaced by what header and pixels agree on.

    Raises
    ------
    ImageRefused
        When header and pixels contradict each other, or the picture shows no lungs.
    """
    failed: tuple[Caution, ...] = ()
    try:
        answer = models.look(image, children=policy.children)
    except Exception:  # whatever happens inside a model; the header's word then stands alone
        log.exception("the pixel gate failed")
        answer, failed = None, (Caution.GATE_FAILED,)
    chosen = confirm(selection, answer)
    findings = models.predict(image, replace(identity, view=chosen.view or View.FRONTAL))
    cautions = (*findings.cautions, *chosen.cautions, *failed, *assess(image, findings.segments))
    findings = prioritise(replace(findings, cautions=tuple(dict.fromkeys(cautions))))
    return Reading(findings, chosen.evidence, answer)

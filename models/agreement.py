"""Whether header and pixels agree: the header's evidence is held against the pixel gate's.

The rule: where they contradict each other the image is refused; nobody is believed against the other.
"""

from __future__ import annotations

from dataclasses import replace

from models.findings import Caution, View
from models.pixel_gate import CHILD, FRONTAL, GateAnswer
from models.refusal import Evidence, ImageRefused, Refusal
from models.selection import Selection


def confirm(selection: Selection, answer: GateAnswer | None) -> Selection:
    """Hold the header's evidence against the pixels'.

    Parameters
    ----------
    answer
        What the pixel gate says of the image as the header hangs it; None when no gate is active.

    Raises
    ------
    ImageRefused
        When the pixels contradict the header, or when both are silent.
    """
    if answer is None:
        if selection.view is None or selection.body_part_doubtful:
            code = Refusal.BODY_PART if selection.body_part_doubtful else Refusal.VIEW_UNKNOWN
            raise ImageRefused(code, "the header does not tell, and no pixel gate answered", selection.evidence)
        return selection
    evidence = (*selection.evidence, Evidence("pixels", f"{answer.shows.replace('_', ' ')}, score {answer.score:.2f}"))
    if not answer.accepted:
        code, message = _conflict(selection, answer)
        raise ImageRefused(code, message, evidence)
    cautions = selection.cautions
    if answer.doubtful:
        cautions = (*cautions, Caution.PIXELS_DOUBTFUL)
    if selection.view is None:
        cautions = (*cautions, Caution.VIEW_FROM_PIXELS)
    return replace(selection, view=selection.view or View.FRONTAL, evidence=evidence, cautions=cautions)


_TURNS = {
    "mirrored": "mirrored",
    "turned_left": "turned a quarter to the left",
    "turned_right": "turned a quarter to the right",
    "upside_down": "upside down",
}


def _conflict(selection: Selection, answer: GateAnswer) -> tuple[Refusal, str]:
    """The code and the words for a picture that the gate refuses."""
    what = {"lateral": "a lateral view", FRONTAL: "a frontal chest radiograph, but not surely enough"}
    seen = f"the pixels show {what.get(answer.shows, 'no frontal chest radiograph')} (score {answer.score:.2f})"
    if selection.body_part_doubtful:
        return Refusal.BODY_PART, f"the header names another body part, and {seen}"
    but = "the header does not say so" if selection.hanging.as_stored else "even after turning as the header says"
    if answer.shows in _TURNS:
        return Refusal.ORIENTATION, f"the pixels show a chest {_TURNS[answer.shows]}; {but}"
    if answer.shows == "inverted":
        return Refusal.INVERTED, "the pixels show dense structures dark; the header does not say so"
    if answer.shows == CHILD:
        return Refusal.AGE, "the pixels look like the chest of a child"
    if selection.view is None:
        return Refusal.PIXEL_GATE, f"the header does not tell the view, and {seen}"
    return Refusal.VIEW_CONFLICT, f"the header says {selection.view.value}, but {seen}"

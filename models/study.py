"""What the models say about a study, from what they say about its images.

The rule: nothing is averaged over images; each question has the answer of the image that tells most about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.findings import Finding, FindingState, ImageFindings


@dataclass(frozen=True)
class StudyFindings:
    """Everything that the models say about one study.

    Parameters
    ----------
    images
        The radiographs that were read, in the order in which they were taken.
    unread
        The code of each image, or whole series, that was not read (``models.refusal.Refusal``).
    """

    study_instance_uid: str
    images: tuple[ImageFindings, ...]
    unread: tuple[str, ...] = ()

    @property
    def leading(self) -> ImageFindings:
        """The image that sets the priority of the study: of equally pressing ones, that with the surest finding."""
        return min(self.images, key=lambda i: (i.priority.rank, -((i.leading and i.leading.probability) or 0.0)))

    @property
    def priority_reason(self) -> str:
        """That of the leading image, and on how many others nothing was evaluated: it cannot speak for them."""
        leading, blind = self.leading, sum(not image.evaluated for image in self.images)
        more = f"; no finding evaluated on {blind} of {len(self.images)} images" if blind and leading.evaluated else ""
        return leading.priority_reason + more

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Each finding as its most telling image has it: present, undetermined, absent; then the more probable."""
        best: dict[str, Finding] = {}
        for finding in (finding for image in self.images for finding in image.findings):
            if finding.key not in best or _telling(finding) < _telling(best[finding.key]):
                best[finding.key] = finding
        return tuple(best.values())


def _telling(finding: Finding) -> tuple[int, float]:
    return list(FindingState).index(finding.state), -(finding.probability or 0.0)

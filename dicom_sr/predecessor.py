"""What a result supersedes: the documents of ours that spoke for the same image, or the same study, before it.

The rule: which result is current is said by this chain alone, never by a date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pydicom import Dataset

from dicom_sr.references import Reference, predecessors_of, reference_to


def follow(
    before: Sequence[Dataset], instance_after: Callable[[str], str], *, unchanged: bool = True
) -> tuple[tuple[Reference, ...], bool]:
    """What a new document replaces, and whether it is the same as the one that speaks now.

    Parameters
    ----------
    before
        The current documents: none yet, or one; several when another node's results for the same image came in, which
        the new document reconciles.
    instance_after
        SOP Instance UID of the new document, given that of its direct predecessor (empty for none).
    unchanged
        Whether what speaks now still holds in what the identifiers do not tell.

    Returns
    -------
    predecessors
        Of the new document: the direct one first, then all that this one replaced, for a chain of which somebody
        deletes a link must not bring an older document back to life. When nothing has changed, the current one's own.
    again
        Whether the current document is the new one.
    """
    if len(before) == 1 and unchanged:
        own = predecessors_of(before[0])
        if instance_after(latest(own)) == before[0].SOPInstanceUID:
            return own, True
    ordered = sorted(before, key=lambda document: str(document.SOPInstanceUID))
    replaced = [one for document in ordered for one in (reference_to(document), *predecessors_of(document))]
    return tuple(dict.fromkeys(replaced)), False


def latest(predecessors: Sequence[Reference]) -> str:
    """SOP Instance UID of the direct predecessor; empty for a first document."""
    return predecessors[0].sop_instance_uid if predecessors else ""


def current(documents: Iterable[Dataset]) -> list[Dataset]:
    """Those that no other of them replaces, in the order in which they were given."""
    listed = list(documents)
    replaced = {one.sop_instance_uid for document in listed for one in predecessors_of(document)}
    return [document for document in listed if document.SOPInstanceUID not in replaced]

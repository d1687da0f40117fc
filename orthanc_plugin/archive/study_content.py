"""What Orthanc holds of a study, as a digest: by it an answered study is known to be still what was answered.

The rule: the worker that answers and the reconciliation that checks take the digest here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from dicom_sr.ownership import ACCOMPANYING_MODALITIES, is_own_result
from orthanc_plugin.archive.client import Series


def content_digest(series: Sequence[Series], stored: Iterable[str] = ()) -> str:
    """What Orthanc held of a study when it was answered: its images and, apart from them, our results.

    Parameters
    ----------
    series
        The study before it was read: an image that came later is no part of the answer, nor is a result that another
        worker stored meanwhile.
    stored
        Orthanc's names of the results that were stored since.

    Returns
    -------
    str
        ``<number>-<digest>/<number>-<digest>`` of Orthanc's names, which are digests of the patient's ID and the UIDs.
        Objects of others that only accompany images do not enter it.
    """
    images, results = images_and_results(series)
    return f"{_digest(images)}/{_digest({*results, *stored})}"


def images_digest(series: Sequence[Series]) -> str:
    """The part of `content_digest` about the images."""
    return _digest(images_and_results(series)[0])


def images_and_results(series: Sequence[Series]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Orthanc's names of the images and of our results, in the order of the names."""
    images: list[str] = []
    results: list[str] = []
    for one in series:
        if is_own_result(one.modality, one.manufacturer):
            results.extend(one.instances)
        elif one.modality not in ACCOMPANYING_MODALITIES:
            images.extend(one.instances)
    return tuple(sorted(images)), tuple(sorted(results))


def _digest(names: Iterable[str]) -> str:
    listed = sorted(names)
    return f"{len(listed)}-{hashlib.sha256(' '.join(listed).encode()).hexdigest()[:32]}"

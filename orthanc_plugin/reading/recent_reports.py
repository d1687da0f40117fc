"""What the measurement reports say that this process stored a moment ago, so that none is parsed to learn it.

The rule: a report is known by the bytes of its file. One that somebody has changed is another, and is read.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace

from models.findings import ImageFindings

_MOST = 100  # of about 40 KB; a study is concluded seconds after its images were read


def digest_of(file: bytes) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file).hexdigest()


class RecentReports:
    """The last reports, the oldest first."""

    def __init__(self) -> None:
        self._said: OrderedDict[str, ImageFindings] = OrderedDict()

    def remember(self, file: bytes, findings: ImageFindings) -> None:
        """What a file says: these findings without masks and maps, which no report holds."""
        self._said[digest_of(file)] = replace(findings, segments=(), saliency=())
        while len(self._said) > _MOST:
            self._said.popitem(last=False)

    def said(self, digest: str) -> ImageFindings | None:
        """What ``dicom_sr.reader.read_result`` would make of a file; None when it is not remembered."""
        return self._said.get(digest)

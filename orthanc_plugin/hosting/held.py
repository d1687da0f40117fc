"""What the pages ask Orthanc for: the documents and pictures of a study, by SOP Instance UID.

The rule: the host module is passed in, so that this runs without Orthanc; what is not there is None or empty. Only an
image that was not read is rendered here, by Orthanc: the others have their pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

# Longer texts are left out of Orthanc's JSON unless they are named (PS3.3 C.17.3: Text Value).
_WHOLE = "ignore-length=0040-a160"
# PS3.6 table A-1: what Orthanc 1.10 renders no picture of
_NOT_RENDERED = ("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.4.2")


@dataclass(frozen=True)
class Place:
    """Where an instance is, when Orthanc stored it (seconds since 1970), and whether Orthanc can show its pixels."""

    series_instance_uid: str
    stored_at: float
    rendered: bool


class Held(Protocol):
    """What Orthanc holds."""

    def layer(self, sop_instance_uid: str, name: str) -> bytes | None:
        """A picture that the worker keeps with a report: ``picture``, ``outlines`` or ``heat_map``."""

    def document(self, sop_instance_uid: str) -> dict[str, Any] | None:
        """A structured report, as ``worklist.content_tree`` reads it."""

    def rendered(self, sop_instance_uid: str) -> bytes | None:
        """Orthanc's own picture of an image, for one that has none of the worker's."""

    def place(self, sop_instance_uid: str) -> Place | None:
        """Where an instance is."""


class HeldByOrthanc:
    """The Orthanc that this process is part of.

    Parameters
    ----------
    host
        The module ``orthanc`` of its Python plugin.
    layers
        Names of pictures to the attachments that they are.
    """

    def __init__(self, host: Any, layers: Mapping[str, int]) -> None:
        self._host, self._layers = host, layers

    def layer(self, sop_instance_uid: str, name: str) -> bytes | None:
        """See `Held`."""
        if name not in self._layers:
            return None
        return self._get(sop_instance_uid, f"attachments/{self._layers[name]}/data")

    def document(self, sop_instance_uid: str) -> dict[str, Any] | None:
        """See `Held`."""
        content = self._get(sop_instance_uid, f"tags?short&{_WHOLE}")
        return None if content is None else dict(json.loads(content))

    def rendered(self, sop_instance_uid: str) -> bytes | None:
        """See `Held`."""
        return self._get(sop_instance_uid, f"rendered?width={_LONGEST}&height={_LONGEST}")

    def place(self, sop_instance_uid: str) -> Place | None:
        """See `Held`."""
        series, kept = self._get(sop_instance_uid, "series"), self._get(sop_instance_uid, "metadata?expand")
        if series is None or kept is None:
            return None
        metadata = json.loads(kept)
        if not isinstance(metadata, dict):  # Orthanc before 1.11 knows no `expand` here
            metadata = {name: (self._get(sop_instance_uid, f"metadata/{name}") or b"").decode() for name in _METADATA}
        syntax = str(metadata.get("TransferSyntax", ""))
        uid = str(json.loads(series)["MainDicomTags"].get("SeriesInstanceUID", ""))
        return Place(uid, _seconds(str(metadata.get("ReceptionDate", ""))), not syntax.startswith(_NOT_RENDERED))

    def _get(self, sop_instance_uid: str, what: str) -> bytes | None:
        try:
            instance = self._host.LookupInstance(sop_instance_uid)
            return bytes(self._host.RestApiGet(f"/instances/{instance}/{what}"))
        except self._host.OrthancException:
            return None


_LONGEST = 1280  # pixels of a picture
_METADATA = ("ReceptionDate", "TransferSyntax")


def _seconds(reception: str) -> float:
    """Orthanc's ReceptionDate (UTC, ``YYYYMMDDTHHMMSS``) in seconds since 1970; 0 when it is none."""
    try:
        return datetime.strptime(reception, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0

"""HTTP to Orthanc, as the worker needs it: find a study, fetch an instance, store a result.

The rule: a connection problem is `OrthancUnavailable` and may be tried again; anything else is a mistake and shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import httpx
from pydicom import Dataset, dcmwrite


class OrthancUnavailable(Exception):
    """Orthanc did not answer, or answered that it cannot serve now: try again later."""


class ResultRefused(Exception):
    """Orthanc does not take a result, whatever is tried: usually an identifier of the image is invalid."""


@dataclass(frozen=True)
class Series:
    """A series in Orthanc with the tags that Orthanc indexes."""

    orthanc_id: str
    series_instance_uid: str
    modality: str
    manufacturer: str
    instances: tuple[str, ...]


@dataclass(frozen=True)
class StoredInstance:
    """The bytes of an instance and when Orthanc received it (UTC, ``YYYYMMDDTHHMMSS``)."""

    content: bytes
    received: str


class OrthancClient:
    """A connection to one Orthanc; close it, or use it as a context manager."""

    def __init__(self, url: str, user: str, password: str, *, timeout: float = 30.0) -> None:
        self._http = httpx.Client(base_url=url, auth=(user, password), timeout=timeout, trust_env=False)

    def __enter__(self) -> OrthancClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def series_of_study(self, study_instance_uid: str) -> list[Series]:
        """Every series of a study, under whatever Patient ID it came; an empty list when the study is not there."""
        found = self._json("POST", "/tools/lookup", content=study_instance_uid)
        series = []
        for study in (item["ID"] for item in found if item["Type"] == "Study"):
            for item in self._json("GET", f"/studies/{study}/series"):
                tags = item["MainDicomTags"]
                series.append(
                    Series(
                        item["ID"],
                        tags.get("SeriesInstanceUID", ""),
                        tags.get("Modality", "").strip().upper(),
                        tags.get("Manufacturer", "").strip(),
                        tuple(item["Instances"]),
                    )
                )
        return series

    def file_size(self, orthanc_id: str) -> int:
        """Bytes of the file of an instance."""
        return int(self._request("GET", f"/instances/{orthanc_id}").json()["FileSize"])

    def model_name(self, orthanc_id: str) -> str:
        """Manufacturer's Model Name of an instance, empty when it has none; Orthanc reads the file for it."""
        tags = self._request("GET", f"/instances/{orthanc_id}/simplified-tags").json()
        return str(tags.get("ManufacturerModelName") or "").strip()

    def fetch(self, orthanc_id: str) -> StoredInstance:
        """The file of an instance, as it was received."""
        content = self._request("GET", f"/instances/{orthanc_id}/file").content
        received = self._request("GET", f"/instances/{orthanc_id}/metadata/ReceptionDate").text.strip()
        return StoredInstance(content, received)

    def has_instances(self, sop_instance_uids: Iterable[str]) -> bool:
        """Whether Orthanc holds all of these instances."""
        return all(self._json("POST", "/tools/lookup", content=uid) for uid in sop_instance_uids)

    def store(self, ds: Dataset) -> None:
        """Store a result; the same SOP Instance UID again changes nothing.

        Raises
        ------
        OrthancUnavailable, ResultRefused
        """
        buffer = BytesIO()
        try:
            dcmwrite(buffer, ds, enforce_file_format=True)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ResultRefused(f"it cannot be written: {type(error).__name__}") from error
        try:
            self._request("POST", "/instances", content=buffer.getvalue())
        except httpx.HTTPStatusError as error:
            raise ResultRefused(f"HTTP {error.response.status_code}") from error

    def has_attachment(self, sop_instance_uid: str, number: int) -> bool:
        """Whether Orthanc holds this instance and keeps user-defined attachment `number` (1024 or more) with it."""
        instances = self._instances(sop_instance_uid)
        kept = [self._json("GET", f"/instances/{instance}/attachments") for instance in instances]
        return bool(kept) and all(str(number) in names for names in kept)

    def attach(self, sop_instance_uid: str, number: int, content: bytes) -> None:
        """Keep `content` with an instance as user-defined attachment `number`; Orthanc deletes both together.

        Raises
        ------
        OrthancUnavailable
        ResultRefused
            Also when Orthanc does not hold the instance.
        """
        instances = self._instances(sop_instance_uid)
        if not instances:
            raise ResultRefused("there is no such instance to attach to")
        try:
            for instance in instances:
                self._request("PUT", f"/instances/{instance}/attachments/{number}", content=content)
        except httpx.HTTPStatusError as error:
            raise ResultRefused(f"HTTP {error.response.status_code}") from error

    def _instances(self, sop_instance_uid: str) -> list[str]:
        """Orthanc's identifiers of an instance: more than one when it came under several Patient IDs."""
        found = self._json("POST", "/tools/lookup", content=sop_instance_uid)
        return [item["ID"] for item in found if item["Type"] == "Instance"]

    def _json(self, method: str, path: str, *, content: str | None = None) -> list[Any]:
        answer: list[Any] = self._request(method, path, content=content).json()
        return answer

    def _request(self, method: str, path: str, *, content: bytes | str | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, content=content)
        except httpx.TransportError as error:
            raise OrthancUnavailable(f"{method} {path}: {type(error).__name__}") from error
        if response.status_code in (502, 503, 504, 507):
            raise OrthancUnavailable(f"{method} {path}: HTTP {response.status_code}")
        response.raise_for_status()
        return response

"""HTTP to Orthanc, as the worker needs it: find a study, fetch an instance, store a result, learn what has changed.

The rule: a connection problem is `OrthancUnavailable` and may be tried again; anything else is a mistake and shows.
Nothing heavy is imported before a result is stored: the worker's light process uses this too.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

_T = TypeVar("_T")

# User-defined metadata of an instance: its ReceptionDate in the Orthanc that it was restored from, which Orthanc itself
# does not let anybody set.
RECEIVED_METADATA = "1025"
# Orthanc's error codes: database, cannot write a file, full storage.
_NO_ROOM = frozenset({11, 14, 19})
_PIECE = 1 << 20  # bytes of a file that are in memory at a time


class OrthancUnavailable(Exception):
    """Orthanc did not answer, or answered that it cannot serve now: try again later."""


class StorageFull(OrthancUnavailable):
    """Orthanc has no room, or cannot write: try again when somebody has made room."""


class OrthancFailed(httpx.HTTPStatusError):
    """Orthanc failed at this request: it may be an accident, or a file that is damaged. A study's own failure."""


class ResultRefused(Exception):
    """Orthanc does not take a result, whatever is tried: usually an identifier of the image is invalid."""


@dataclass(frozen=True)
class Series:
    """A series in Orthanc with the tags that Orthanc indexes.

    Parameters
    ----------
    study
        Orthanc's name of the study that it is in.
    """

    orthanc_id: str
    study: str
    series_instance_uid: str
    modality: str
    manufacturer: str
    instances: tuple[str, ...]


@dataclass(frozen=True)
class StoredInstance:
    """The bytes of an instance, when Orthanc received it (UTC, ``YYYYMMDDTHHMMSS``) and, by C-STORE, from which AE."""

    content: bytes
    received: str
    calling_ae_title: str = ""


@dataclass(frozen=True)
class Stored:
    """An entry of Orthanc's feed of changes: an instance was stored.

    Parameters
    ----------
    number
        Its place in the feed.
    instance
        Orthanc's name for it.
    """

    number: int
    instance: str


@dataclass(frozen=True)
class Changes:
    """A page of Orthanc's feed of changes.

    Parameters
    ----------
    last
        The number up to which this page goes; the next page comes after it.
    done
        Whether this is the end of the feed for now.
    """

    stored: tuple[Stored, ...]
    last: int
    done: bool


class OrthancClient:
    """A connection to one Orthanc; close it, or use it as a context manager.

    Parameters
    ----------
    trust
        What is asked of who answers (``trust.http_trust``).
    """

    def __init__(
        self, url: str, user: str, password: str, *, trust: ssl.SSLContext | bool = True, timeout: float = 30.0
    ) -> None:
        self._beside = ThreadPoolExecutor(1, "beside")
        self._http = httpx.Client(base_url=url, auth=(user, password), timeout=timeout, trust_env=False, verify=trust)

    def __enter__(self) -> OrthancClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._beside.shutdown()
        self._http.close()

    def beside(self, work: Callable[[], _T]) -> Callable[[], _T]:
        """Begin to talk to Orthanc in a thread of its own, after what was begun so before.

        Returns
        -------
        Callable
            Waits for the end of it, and returns or raises what came of it.
        """
        return self._beside.submit(work).result

    def series_of_study(self, study_instance_uid: str) -> list[Series]:
        """Every series of a study, under whatever Patient ID it came; an empty list when the study is not there."""
        series = []
        for study in self.studies(study_instance_uid):
            for item in self._json("GET", f"/studies/{study}/series"):
                tags = item["MainDicomTags"]
                series.append(
                    Series(
                        item["ID"],
                        study,
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
        metadata = self.metadata(orthanc_id)
        return StoredInstance(
            self.file(orthanc_id), received_of(metadata), str(metadata.get("RemoteAET") or "").strip()
        )

    def file(self, orthanc_id: str) -> bytes:
        """The file alone."""
        return self._request("GET", f"/instances/{orthanc_id}/file").content

    def has_instances(self, sop_instance_uids: Iterable[str]) -> bool:
        """Whether Orthanc holds all of these instances."""
        return all(self._json("POST", "/tools/lookup", content=uid) for uid in sop_instance_uids)

    def store(self, file: bytes) -> str:
        """Store an instance, and tell Orthanc's name of it; the same SOP Instance UID again changes nothing.

        Raises
        ------
        OrthancUnavailable, OrthancFailed, ResultRefused
        """
        try:
            return str(self._request("POST", "/instances", content=file).json()["ID"])
        except OrthancFailed:
            raise
        except httpx.HTTPStatusError as error:
            raise ResultRefused(f"HTTP {error.response.status_code}") from error
        except LookupError as error:
            raise ResultRefused("it is not taken") from error

    def instances(self, sop_instance_uid: str) -> list[str]:
        """Orthanc's names of an instance: more than one when it came under several Patient IDs."""
        found = self._json("POST", "/tools/lookup", content=sop_instance_uid)
        return [item["ID"] for item in found if item["Type"] == "Instance"]

    def has_attachment(self, instances: Sequence[str], number: int) -> bool:
        """Whether user-defined attachment `number` (1024 or more) is kept with each of these instances, of which there
        is one at least."""
        kept = [self._json("GET", f"/instances/{instance}/attachments") for instance in instances]
        return bool(kept) and all(str(number) in names for names in kept)

    def attach(self, instances: Sequence[str], number: int, content: bytes) -> None:
        """Keep `content` with instances as user-defined attachment `number`; Orthanc deletes both together.

        Raises
        ------
        OrthancUnavailable
        ResultRefused
            Also when there is none.
        """
        if not instances:
            raise ResultRefused("there is no such instance to attach to")
        self._keep([f"/instances/{instance}" for instance in instances], number, content)

    def changes(self, since: int, *, limit: int = 1000) -> Changes:
        """What was stored after a place in the feed of changes; what was deleted since is left out of it."""
        page = self._request("GET", f"/changes?since={since}&limit={limit}").json()
        stored = (Stored(c["Seq"], c["ID"]) for c in page["Changes"] if c["ChangeType"] == "NewInstance")
        return Changes(tuple(stored), int(page["Last"]), bool(page["Done"]))

    def last_change(self) -> int:
        """The end of the feed of changes."""
        return int(self._request("GET", "/changes?last").json()["Last"])

    def study_ids(self) -> list[str]:
        """Orthanc's names of all studies: digests, so that their order says nothing and stays the same."""
        return sorted(map(str, self._json("GET", "/studies")))

    def study_instance_uid(self, study: str) -> str | None:
        """The UID of a study by Orthanc's name for it; None when it is there no more, or has none."""
        return self._study_uid(f"/studies/{study}")

    def study_of(self, instance: str) -> str | None:
        """The UID of the study of an instance; None when it is there no more."""
        return self._study_uid(f"/instances/{instance}/study")

    def studies(self, study_instance_uid: str) -> list[str]:
        """Orthanc's names of a study: more than one when it came under several Patient IDs."""
        found = self._json("POST", "/tools/lookup", content=study_instance_uid)
        return [item["ID"] for item in found if item["Type"] == "Study"]

    def holds_study(self, study_instance_uid: str) -> bool:
        """Whether Orthanc holds anything of a study."""
        return bool(self.studies(study_instance_uid))

    def tags(self, instance: str) -> dict[str, Any]:
        """The elements of an instance by keyword; empty when it is there no more."""
        answer = self._find(f"/instances/{instance}/simplified-tags")
        return {} if answer is None else dict(answer.json())

    def metadata(self, instance: str) -> dict[str, str]:
        """What Orthanc notes about an instance, by name, user-defined metadata by number."""
        return dict(self._request("GET", f"/instances/{instance}/metadata?expand").json())

    def keep_with_studies(self, studies: Iterable[str], number: int, content: bytes) -> None:
        """Keep `content` with studies, by Orthanc's names, as user-defined attachment `number`, in place of an earlier.

        Raises
        ------
        OrthancUnavailable, ResultRefused
        """
        self._keep([f"/studies/{study}" for study in studies], number, content)

    def kept_with_study(self, study_instance_uid: str, number: int) -> bytes | None:
        """What was kept so; None when nothing was."""
        for study in self.studies(study_instance_uid):
            if (answer := self._find(f"/studies/{study}/attachments/{number}/data")) is not None:
                return answer.content
        return None

    def ask(self, method: str, path: str, content: str | None = None) -> Any:
        """The JSON that Orthanc answers; None where it answers nothing, or there is no such thing (404).

        Raises
        ------
        OrthancUnavailable
        """
        try:
            answer = self._request(method, path, content=content)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 404:
                return None
            raise
        return answer.json() if answer.content else None

    # --- whole archives: backup and restore --------------------------------------------------------------------------
    def instance_ids(self) -> list[str]:
        """Orthanc's names of all instances."""
        return sorted(map(str, self._json("GET", "/instances")))

    def attachments(self, resource: str) -> list[str]:
        """The attachments of a resource (``/instances/...``, ``/studies/...``); none when it is there no more."""
        answer = self._find(f"{resource}/attachments")
        return [] if answer is None else list(answer.json())

    def attachment_md5(self, resource: str, attachment: str) -> str | None:
        """MD5 of the content of an attachment, ``dicom`` for the file itself; None when it is there no more."""
        answer = self._find(f"{resource}/attachments/{attachment}/md5")
        return None if answer is None else answer.text.strip()

    @contextmanager
    def attachment(self, resource: str, attachment: str) -> Iterator[Iterator[bytes]]:
        """The content of an attachment, exactly as it was stored, piece by piece.

        Raises
        ------
        OrthancUnavailable
            Also in the middle of it.
        """
        path = f"{resource}/attachments/{attachment}/data"
        try:
            with self._http.stream("GET", path) as response:
                _check(response, "GET", path)
                yield response.iter_bytes(_PIECE)
        except httpx.TransportError as error:
            raise OrthancUnavailable(f"GET {path}: {type(error).__name__}") from error

    def put(self, path: str, content: bytes) -> None:
        """Set metadata or an attachment by its path.

        Raises
        ------
        OrthancUnavailable, ResultRefused
        """
        try:
            self._request("PUT", path, content=content)
        except httpx.HTTPStatusError as error:
            raise ResultRefused(f"{path}: HTTP {error.response.status_code}") from error

    def _study_uid(self, path: str) -> str | None:
        answer = self._find(path)
        return None if answer is None else str(answer.json()["MainDicomTags"].get("StudyInstanceUID", "")) or None

    def _find(self, path: str) -> httpx.Response | None:
        """The answer to a GET; None when there is no such thing."""
        try:
            return self._request("GET", path)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 404:
                return None
            raise

    def _keep(self, resources: Iterable[str], number: int, content: bytes) -> None:
        try:
            for resource in resources:
                self._request("PUT", f"{resource}/attachments/{number}", content=content)
        except httpx.HTTPStatusError as error:
            raise ResultRefused(f"HTTP {error.response.status_code}") from error

    def _json(self, method: str, path: str, *, content: str | None = None) -> list[Any]:
        answer: list[Any] = self._request(method, path, content=content).json()
        return answer

    def _request(self, method: str, path: str, *, content: bytes | str | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, content=content)
        except httpx.TransportError as error:
            raise OrthancUnavailable(f"{method} {path}: {type(error).__name__}") from error
        _check(response, method, path)
        return response


def received_of(metadata: dict[str, str]) -> str:
    """When an instance was first received (UTC, ``YYYYMMDDTHHMMSS``), from Orthanc's metadata of it."""
    return str(metadata.get(RECEIVED_METADATA) or metadata["ReceptionDate"]).strip()


def seconds_of(received: str) -> float:
    """That in seconds since 1970."""
    return datetime.strptime(received, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()


def _check(response: httpx.Response, method: str, path: str) -> None:
    if response.status_code in (502, 503, 504, 507):
        raise OrthancUnavailable(f"{method} {path}: HTTP {response.status_code}")
    if _cannot_write(response):
        raise StorageFull(f"{method} {path}: Orthanc cannot write")
    if response.status_code >= 500:
        message = f"{method} {path}: HTTP {response.status_code}"
        raise OrthancFailed(message, request=response.request, response=response)
    response.raise_for_status()


def _cannot_write(response: httpx.Response) -> bool:
    """Whether an error is of Orthanc's disk and not of what it was given."""
    try:
        return response.status_code >= 500 and response.json().get("OrthancStatus") in _NO_ROOM
    except (ValueError, AttributeError):
        return False

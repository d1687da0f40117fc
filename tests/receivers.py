"""Receivers of results for tests: a PACS by pynetdicom, one by Orthanc without our plugin, and an HL7 receiver."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification
from running_node import free_port

from orthanc_plugin.commands.node import plugin_file


@dataclass
class Pacs:
    """A storage SCP, and what it took: the data set of each SOP Instance, and how often it came.

    `answer` may be exchanged: from a data set's SOP Class UID to a status, or something that takes its time.
    """

    port: int
    ae_title: str = "PACS"
    data_sets: dict[str, bytes] = field(default_factory=dict)
    came: Counter[str] = field(default_factory=Counter)
    callers: list[str] = field(default_factory=list)
    answer: Callable[[str], int] = lambda _sop_class: 0x0000
    report_to: int = 0  # the port for N-EVENT-REPORT; 0: it never reports
    keeps: Callable[[str], bool] | None = None
    asked: list[str] = field(default_factory=list)

    def stored(self, event: Any) -> int:
        request = event.request
        status = self.answer(str(request.AffectedSOPClassUID))
        uid = str(request.AffectedSOPInstanceUID)
        self.callers.append(event.assoc.requestor.ae_title)
        if status == 0x0000:
            self.came[uid] += 1
            self.data_sets[uid] = request.DataSet.getvalue()
        return status

    def commitment(self, event: Any) -> tuple[int, None]:
        wanted = event.action_information
        self.asked.append(str(wanted.TransactionUID))
        threading.Thread(target=self._report, args=(wanted,), daemon=True).start()
        return 0x0000, None

    def _report(self, wanted: Any) -> None:
        if not self.report_to:
            return
        keeps = self.keeps or (lambda uid: uid in self.data_sets)
        told = Dataset()
        told.TransactionUID = wanted.TransactionUID
        told.ReferencedSOPSequence = [o for o in wanted.ReferencedSOPSequence if keeps(str(o.ReferencedSOPInstanceUID))]
        failed = [o for o in wanted.ReferencedSOPSequence if not keeps(str(o.ReferencedSOPInstanceUID))]
        for one in failed:
            one.FailureReason = 0x0112
        if failed:
            told.FailedSOPSequence = failed
        if not told.ReferencedSOPSequence:
            del told.ReferencedSOPSequence
        entity = AE(ae_title=self.ae_title)
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate("127.0.0.1", self.report_to, ae_title="HILUM", ext_neg=[role])
        if association.is_established:
            kind = 2 if failed else 1
            association.send_n_event_report(told, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
            association.release()


@contextmanager
def pacs(port: int = 0, contexts: Any = None, *, strict: bool = False, **how: Any) -> Iterator[Pacs]:
    """Run one for the time of a block; a strict one knows nobody."""
    it = Pacs(port or free_port(), **how)
    entity = AE(ae_title=it.ae_title)
    entity.require_calling_aet = ["SOMEBODY ELSE"] if strict else []
    entity.supported_contexts = contexts or AllStoragePresentationContexts
    entity.add_supported_context(Verification)
    entity.add_supported_context(StorageCommitmentPushModel)
    handlers = [(evt.EVT_C_STORE, it.stored), (evt.EVT_N_ACTION, it.commitment)]
    server = entity.start_server(("127.0.0.1", it.port), block=False, evt_handlers=handlers)
    try:
        yield it
    finally:
        server.shutdown()


@dataclass
class Other:
    """An Orthanc without our plugin, with a password, and how to ask it."""

    http_port: int
    dicom_port: int
    http: httpx.Client
    user: str = "hilum"
    password: str = "let me in"

    @property
    def dicom_web(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def files(self) -> dict[str, bytes]:
        """SOP Instance UID to file, of all that it holds."""
        found = self.http.get("/instances?expand").json()
        return {
            one["MainDicomTags"]["SOPInstanceUID"]: self.http.get(f"/instances/{one['ID']}/file").content
            for one in found
        }


@contextmanager
def plain_orthanc(folder: Path, **more: Any) -> Iterator[Other]:
    """Run one for the time of a block."""
    it = Other(free_port(), free_port(), httpx.Client())
    folder.mkdir()
    configuration = {
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": it.http_port, "DicomPort": it.dicom_port, "DicomAet": "HILUM", "AuthenticationEnabled": True,
        "RegisteredUsers": {it.user: it.password}, "OverwriteInstances": False,
        "Plugins": [str(plugin_file("libOrthancDicomWeb.so"))], "DicomWeb": {"Enable": True}, **more,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    it.http = httpx.Client(
        base_url=f"http://127.0.0.1:{it.http_port}", auth=(it.user, it.password), timeout=30, trust_env=False
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                it.http.get("/system").raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield it
    finally:
        it.http.close()
        process.terminate()
        process.wait()


@dataclass
class Ris:
    """An HL7 receiver by MLLP; `answer` gives the acknowledgement's code, or None to close without a word."""

    port: int
    messages: list[str] = field(default_factory=list)
    answer: Callable[[str], str | None] = lambda _message: "AA"
    encoding: str = "utf-8"


@contextmanager
def ris(port: int = 0) -> Iterator[Ris]:
    listening = socket.create_server(("127.0.0.1", port))
    it = Ris(listening.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                content = b""
                while not content.endswith(b"\x1c\r"):
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    content += piece
                if not content:
                    continue
                message = content[1:-2].decode(it.encoding)
                it.messages.append(message)
                code = it.answer(message)
                if code is None:
                    continue
                control_id = message.split("\r")[0].split("|")[9]
                acknowledged = f"MSH|^~\\&|RIS||HILUM||20260101||ACK|1|P|2.5.1\rMSA|{code}|{control_id}\r"
                connection.sendall(b"\x0b" + acknowledged.encode() + b"\x1c\r")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield it
    finally:
        listening.close()


def closed_port() -> int:
    """A port that nobody listens at."""
    return free_port()

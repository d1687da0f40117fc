"""Receivers of results for tests: a PACS by pynetdicom, one by Orthanc without our plugin, and an HL7 receiver."""

from __future__ import annotations

import json
import os
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
from pynetdicom import AE, AllStoragePresentationContexts, evt
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
    report_to: tuple[str, int, str] | None = None  # host, port and AE title for N-EVENT-REPORT
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
        from pydicom import Dataset

        if self.report_to is None:
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
        host, port, ae_title = self.report_to
        from pynetdicom import build_role

        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate(host, port, ae_title=ae_title, ext_neg=[role])
        if association.is_established:
            kind = 2 if failed else 1
            association.send_n_event_report(told, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
            association.release()


@contextmanager
def pacs(port: int = 0, contexts: Any = None, **how: Any) -> Iterator[Pacs]:
    it = Pacs(port or free_port(), **how)
    entity = AE(ae_title=it.ae_title)
    entity.supported_contexts = contexts or AllStoragePresentationContexts
    entity.add_supported_context(Verification)
    entity.add_supported_context(StorageCommitmentPushModel)
    handlers = [(evt.EVT_C_STORE, it.stored), (evt.EVT_N_ACTION, it.commitment)]
    server = entity.start_server(("127.0.0.1", it.port), block=False, evt_handlers=handlers)
    try:
        yield it
    finally:
        server.shutdown()


@contextmanager
def plain_orthanc(folder: Path) -> Iterator[tuple[str, httpx.Client]]:
    """An Orthanc without our plugin and with a password, reached at the URL of its DICOMweb."""
    port = free_port()
    folder.mkdir()
    configuration = {
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": port, "DicomServerEnabled": False, "AuthenticationEnabled": True,
        "RegisteredUsers": {"hilum": "let me in"}, "OverwriteInstances": False,
        "Plugins": [str(plugin_file("libOrthancDicomWeb.so"))], "DicomWeb": {"Enable": True},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=("hilum", "let me in"), timeout=30)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                client.get("/system").raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/dicom-web", client
    finally:
        client.close()
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


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **more}

"""What one study costs: bytes, requests and files of a worker; statements and transactions of both databases; the disk.

The rule: everything is counted while a real study is read, at the wire, in the server's own log or on the disk; nothing
is derived from what the code is meant to do.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
from pydicom import dcmread
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from sqlalchemy import make_url

from dicom_sr.report.wording import load_wording
from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import caller_of, send
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import migrate, open_ledger
from orthanc_plugin.ledger.tasks import Arrival, InferenceTask, Outcome, Urgency
from orthanc_plugin.reading.active_models import load_active
from orthanc_plugin.reading.intake_process import IntakeProcess
from orthanc_plugin.reading.study import Reader, process_study
from tests.bench.bare_orthanc import bare_orthanc
from tests.bench.latency import QUIET_SECONDS
from tests.bench.plain_results import to_bytes
from tests.bench.sources import Pictures
from tests.bench.throughput import of_family
from tests.postgres_server import PostgresServer
from tests.running_node import start_node

_WARMING = 2
_IDLE_SECONDS = 10.0  # of a node without work, whose statements are none of a study
_PATIENCE = 60.0  # s a study
_CLIENTS = (1, 2, 4, 8)  # that change one ledger at the same time
_KINDS = {
    Comprehensive3DSRStorage: "SR of the image",
    BasicTextSRStorage: "SR of the study",
    SegmentationStorage: "SEG",
    SecondaryCaptureImageStorage: "heat map",
}
_CHANGES = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Wire:
    """Of one study, means: what a worker asks of Orthanc and stores in it.

    Parameters
    ----------
    requests
        HTTP requests.
    fetched, sent
        Bytes of the bodies that came from Orthanc and went to it.
    files
        Kind to bytes of what is kept: ``image`` and each kind of result.
    """

    requests: float
    fetched: float
    sent: float
    files: dict[str, float]


@dataclass(frozen=True)
class Statements:
    """Of one study, means: what a database was asked, and how many transactions changed it."""

    asked: float
    changes: float
    transactions: float


@dataclass(frozen=True)
class Sustained:
    """How many studies a second one ledger takes from so many clients, and the server's processor time for each.

    A study is what a plugin and a worker write of it: it comes, is claimed, and answered.
    """

    clients: int
    studies: float
    processor: float


class _CountingOrthanc(OrthancClient):
    """A connection that counts what goes over it; two threads of it never count the same thing at the same time."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.requests, self.fetched, self.sent = 0, 0, 0
        self.files: dict[str, int] = defaultdict(int)

    def _request(self, method: str, path: str, *, content: bytes | str | None = None) -> Any:
        response = super()._request(method, path, content=content)
        self.requests += 1
        self.fetched += len(response.content)
        self.sent += len(content or b"")
        return response

    def store(self, file: bytes) -> str:
        uid = dcmread(BytesIO(file), stop_before_pixels=True).SOPClassUID
        self.files[_KINDS.get(uid, UID(uid).name)] += len(file)
        return super().store(file)

    def _keep(self, resources: Iterable[str], number: int, content: bytes) -> None:
        named = list(resources)
        self.files["pictures and answer, beside the objects"] += len(named) * len(content)
        super()._keep(named, number, content)


def on_the_wire(pictures: Pictures, studies: int, folder: Path, bundles: Sequence[str]) -> tuple[Wire, Outcome]:
    """Read studies as a reading process does, and count; returns the last answer as well."""
    with ExitStack() as stack:
        settings = replace(stack.enter_context(bare_orthanc(folder / "wire")), bundles=tuple(bundles))
        accounts = load_credentials(settings.credentials)
        orthanc = stack.enter_context(
            _CountingOrthanc(settings.http_url, accounts.worker_user, accounts.worker_password)
        )
        intake = stack.enter_context(IntakeProcess(settings.intake_seconds))
        models = load_active(settings)
        models.warm_up()
        reader = Reader(
            settings, orthanc, models, intake, load_wording(settings.report_language, settings.site_wording)
        )
        image = 0
        for number in range(_WARMING + studies):
            if number == _WARMING:
                orthanc.requests, orthanc.fetched, orthanc.sent, image = 0, 0, 0, 0
                orthanc.files.clear()
            ds = pictures.study("wire", number)
            with OrthancClient(settings.http_url, accounts.worker_user, accounts.worker_password) as modality:
                modality.store(file := to_bytes(ds))
            image += len(file)
            came = time.time()
            task = InferenceTask(str(ds.StudyInstanceUID), 1, 1, 0, 0, None, {}, False, came, came, Urgency.ROUTINE)
            outcome = process_study(task, reader)
            outcome = process_study(replace(task, conclude=True, result=outcome.result), reader)
        files = {"image": image / studies, **{kind: size / studies for kind, size in orthanc.files.items()}}
        return Wire(orthanc.requests / studies, orthanc.fetched / studies, orthanc.sent / studies, files), outcome


def of_databases(
    pictures: Pictures, studies: int, home: Path, server: PostgresServer, bundles: Sequence[str]
) -> dict[str, Statements]:
    """What ``ledger`` and ``index`` are asked while a node reads studies that come one after the other.

    What a node without work asks in as much time is left out.
    """
    addresses = {"ledger": server.new_database(), "index": server.new_database()}
    site = {f"{name}_url": url for name, url in addresses.items()}
    settings, _process = start_node(
        home, bundles=",".join(bundles), quiet_seconds=str(QUIET_SECONDS), **site, study_seconds="600"
    )
    try:
        _one_by_one(pictures, "before", _WARMING, settings, addresses["ledger"])
        with _logged(server) as idle:
            time.sleep(_IDLE_SECONDS)
        started = time.monotonic()
        with _logged(server) as busy:
            _one_by_one(pictures, "counted", studies, settings, addresses["ledger"])
        share = (time.monotonic() - started) / _IDLE_SECONDS
    finally:
        node.stop(settings)
    found = {}
    for name, url in addresses.items():
        database = str(make_url(url).database)
        parts = zip(statements_of(busy, database), statements_of(idle, database), strict=True)
        found[name] = Statements(*(max(0.0, b - share * i) / studies for b, i in parts))
    return found


def _one_by_one(pictures: Pictures, run: str, studies: int, settings: Any, ledger_url: str) -> None:
    """Send studies, each when the one before has its report. Looks with a connection that is not counted."""
    with psycopg.connect(ledger_url.replace("+psycopg", "") + "&application_name=bench", autocommit=True) as db:
        for number in range(studies):
            ds = pictures.study(run, number)
            (sent,) = send([ds], "127.0.0.1", settings.dicom_port, settings.ae_title, caller_of(settings))
            if not sent.accepted:
                raise SystemExit(f"an image was not taken: {sent.error}")
            end = time.monotonic() + _PATIENCE
            asked = "SELECT 1 FROM tasks WHERE study_instance_uid = %s AND status = 'done'"
            while db.execute(asked, [str(ds.StudyInstanceUID)]).fetchone() is None:
                if time.monotonic() > end:
                    raise SystemExit(f"a study was not read within {_PATIENCE:g} s")
                time.sleep(0.05)


@contextmanager
def _logged(server: PostgresServer) -> Iterator[list[str]]:
    """Have the server log every statement for the time of a block; its lines are there after it."""
    lines: list[str] = []
    _set(server, "log_line_prefix = '%%d|%%a|%%p| '", "log_statement = 'all'")
    begin = server.log.stat().st_size
    yield lines
    _set(server, "log_statement = 'none'")
    lines += server.log.read_text("utf-8", "replace").encode()[begin:].decode("utf-8", "replace").splitlines()


def _set(server: PostgresServer, *settings: str) -> None:
    with psycopg.connect(server.url().replace("+psycopg", "") + "&application_name=bench", autocommit=True) as db:
        for setting in settings:
            db.execute(f"ALTER SYSTEM SET {setting.replace('%%', '%')}".encode())
        db.execute("SELECT pg_reload_conf()")
    time.sleep(0.5)  # until each backend has taken it up


_LINE = re.compile(r"(\w*)\|([^|]*)\|(\d+)\| LOG:  (?:statement|execute [^:]*): *(.*)")


def statements_of(lines: Sequence[str], database: str) -> tuple[float, float, float]:
    """Statements, those that change something, and transactions that hold one, of a database in the server's log."""
    told = []
    for number, line in enumerate(lines):
        if (found := _LINE.match(line)) and found[1] == database and found[2] != "bench":
            following = next((text.strip() for text in lines[number + 1 : number + 4] if text.strip()), "")
            told.append((found[3], (found[4].strip() or following).upper()))
    kinds: Counter[str] = Counter()
    changing: dict[str, bool] = {}  # backend to whether its transaction has changed something; absent: none is open
    for backend, statement in told:
        word = statement.split(maxsplit=1)[0].rstrip(";") if statement else ""
        changes = word in _CHANGES or (word == "WITH" and any(f"{each} " in statement for each in _CHANGES))
        if word in ("BEGIN", "START"):
            changing[backend] = False
        elif word in ("COMMIT", "END", "ROLLBACK", "ABORT"):
            kinds["transactions"] += changing.pop(backend, False) and word in ("COMMIT", "END")
        else:
            kinds["asked"] += 1
            kinds["changes"] += changes
            if backend in changing:
                changing[backend] = changing[backend] or changes
            else:
                kinds["transactions"] += changes
    return float(kinds["asked"]), float(kinds["changes"]), float(kinds["transactions"])


def sustained(server: PostgresServer, outcome: Outcome, seconds: float) -> list[Sustained]:
    """Let more and more clients, each a process of its own, change one ledger for some seconds."""
    found = []
    for clients in _CLIENTS:
        url = server.new_database()
        ledger = open_ledger(url)
        migrate(ledger)
        ledger.close()
        with ProcessPoolExecutor(clients, get_context("spawn")) as pool:
            list(
                pool.map(_write, *zip(*((url, outcome, 0.5, str(100 + n)) for n in range(clients)), strict=True))
            )  # warm
            used, started = of_family(server.pid), time.perf_counter()
            given = ((url, outcome, seconds, str(n + 1)) for n in range(clients))
            written = sum(pool.map(_write, *zip(*given, strict=True)))
            taken, used = time.perf_counter() - started, of_family(server.pid) - used
        found.append(Sustained(clients, written / taken, used / written))
    return found


def _write(url: str, outcome: Outcome, seconds: float, who: str) -> int:
    """Write studies for some seconds, through the product's functions; returns how many."""
    ledger, end, written = open_ledger(url), time.monotonic() + seconds, 0
    try:
        while time.monotonic() < end:
            uid = f"2.25.{who}{written:09d}"
            arrival = Arrival(uid, "Bench^Bench", f"BENCH-{who}-{written}", study_date="20260102")
            with ledger.write() as db:
                tasks.enqueue(db, arrival, now=time.time())
            task = None
            while task is None:  # another client may have it; then there is one of theirs
                with ledger.write() as db:
                    task = tasks.claim(db, who, now=time.time(), lease_seconds=30.0, abandoned_limit=20)
            with ledger.write() as db:
                tasks.answer(db, task, outcome, now=time.time(), conclude_at=None)
            written += 1
    finally:
        ledger.close()
    return written


def of_disk(files: Sequence[float], folder: Path, studies: int) -> float:
    """Studies a second whose files this disk takes one after the other, each synced as Orthanc does."""
    folder.mkdir()
    contents = [os.urandom(round(size)) for size in files]
    started = time.perf_counter()
    for number in range(studies):
        for part, content in enumerate(contents):
            with (folder / f"{number}-{part}").open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    return studies / (time.perf_counter() - started)

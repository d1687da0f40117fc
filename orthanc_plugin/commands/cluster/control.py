"""Starts a cluster of this machine, says how its members are, and ends it.

The rule: what was begun is ended when something of it does not start, and what does not start is named; a process is
only ever ended by the number that it noted itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import httpx

from orthanc_plugin.commands import node
from orthanc_plugin.commands.cluster import ray_node
from orthanc_plugin.commands.cluster.database import answers, make_database, server_command
from orthanc_plugin.commands.cluster.member import note_of
from orthanc_plugin.commands.cluster.plan import Plan, folder_of, is_cluster, keep_plan, load_plan, make_plan
from orthanc_plugin.commands.cluster.programs import write_configurations
from orthanc_plugin.commands.node import NodeFailed, NodeStatus
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.database import LedgerError, open_ledger
from orthanc_plugin.ledger.notes import workers_seen
from orthanc_plugin.ledger.ownership import load_archive_id
from orthanc_plugin.settings import Settings

_STOP_SECONDS = 120.0  # the sum of what its members may take
_SILENT_SECONDS = 15.0
_DATABASE_SECONDS = 60.0  # to start, and to end
_TOO_OFTEN = 4  # starts of one member before the cluster is ready
_LAST_WORDS = 400


@dataclass(frozen=True)
class Member:
    """One member, and whether it runs.

    Parameters
    ----------
    pid
        None: it does not run now.
    serves
        Whether it answers; of a worker, and a node of Ray that is not the head, the same as that it runs.
    """

    name: str
    pid: int | None
    serves: bool


def start(settings: Settings, workers: int | None = None, ray_nodes: int | None = None) -> subprocess.Popen[bytes]:
    """Make what is missing, and start what keeps all members alive.

    Parameters
    ----------
    workers, ray_nodes
        How many; None: as many as before.

    Raises
    ------
    NodeFailed, LedgerUnusable
    """
    _require_own(settings)
    node.make_ready(replace(settings, ledger_url="", index_url=""))
    for name, package in (("Orthanc", "orthanc"), ("haproxy", "haproxy")):
        if shutil.which(name) is None:
            raise NodeFailed(f"{name} is not installed; ./hilum up --cluster installs it, or: apt install {package}")
    if settings.check_modality_host:
        raise NodeFailed(
            "check_modality_host is set, but in a cluster every modality comes to Orthanc by way of the entrance: "
            'remove it, and let certificates tell who calls (dicom_tls = "mutual")'
        )
    plan = _make(settings, workers, ray_nodes)
    if plan.ray_nodes:
        ray_node.require_ray()
    load_credentials(settings.credentials)  # all members find the same
    load_archive_id(settings.archive_id_file)
    configuration = write_configurations(settings, plan)
    for name in plan.members:
        note_of(settings, name).unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HILUM_HOME": str(settings.home), "HILUM_HTTP_PORT": str(settings.http_port),
             "HILUM_DICOM_PORT": str(settings.dicom_port)},
        start_new_session=True,
    )  # fmt: skip
    node.note_process(settings.home / "node.json", process.pid)
    return process


@contextmanager
def databases(settings: Settings) -> Iterator[None]:
    """Make a home a cluster's, and have its databases run, and nothing else, for the time of a block.

    Raises
    ------
    NodeFailed
    """
    plan = _make(settings, None, None)
    log = settings.logs / "cluster-postgresql.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            server_command(settings, plan), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + _DATABASE_SECONDS
        while not answers(plan):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NodeFailed(f"PostgreSQL does not start{_last_words(settings, 'postgresql')}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_DATABASE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(settings: Settings, process: subprocess.Popen[bytes], *, seconds: float) -> Iterator[str]:
    """As ``node.wait_until_ready``; and every member serves.

    Raises
    ------
    NodeFailed
        When a member does not start, or not all are ready within `seconds`.
    """
    plan, begun, deadline = load_plan(settings), dict[str, set[str]](), time.monotonic() + seconds
    waits_for_worker = replace(settings, workers=plan.workers)
    for state in node.wait_until_ready(waits_for_worker, process, seconds=seconds):
        _require_steady(settings, plan, begun)
        yield state
    while lacking := _lacking(settings, plan):
        _require_steady(settings, plan, begun)
        if time.monotonic() > deadline:
            raise NodeFailed(
                f"not ready after {seconds:.0f} s: {', '.join(lacking)}{_last_words(settings, lacking[0])}"
            )
        yield "starting"
        time.sleep(0.2)


def members(settings: Settings, *, ask: bool = True) -> list[Member]:
    """How each member is; none where this is no cluster, or its plan is damaged.

    Parameters
    ----------
    ask
        Whether each is asked for an answer; without that, one that runs counts as serving.
    """
    try:
        plan = load_plan(settings)
    except (OSError, KeyError, ValueError):
        return []
    found = []
    for name in plan.members:
        pid = node.noted_process(note_of(settings, name))
        found.append(Member(name, pid, pid is not None and (not ask or _serves(settings, plan, name))))
    return found


def stop(settings: Settings) -> bool:
    """End all members in order, and wait until they are gone; False when none was running."""
    supervisor = node.running_pid(settings)
    left = [supervisor] if supervisor is not None else []
    left += [member.pid for member in members(settings, ask=False) if member.pid is not None and supervisor is None]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while left_now := _running(settings):
        if time.monotonic() > deadline:
            for pid in left_now:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    with suppress(OSError):
        (settings.home / "node.json").unlink(missing_ok=True)
    return bool(left)


def status(settings: Settings) -> NodeStatus:
    """How the cluster is: as its entrance says, and impaired where a member is away."""
    found = node.status(settings)
    away = [member.name for member in members(settings) if not member.serves]
    if found.state != "ready" or not away:
        return found
    problem = {
        "code": "member_away",
        "stops": False,
        "text": f"Of this cluster {', '.join(away)} {'does' if len(away) == 1 else 'do'} not serve.",
        "what_to_do": f"It is started again and again; {settings.logs} says why it ends.",
    }
    return NodeStatus("ready", {**found.details, "problems": [*found.problems, problem]})


def _make(settings: Settings, workers: int | None, ray_nodes: int | None) -> Plan:
    """Plan the next start, and make the databases where there are none."""
    plan = make_plan(settings, workers, ray_nodes)
    node.plugin_file(node.INDEX_PLUGIN)  # says so where it is missing
    for private in (folder_of(settings), settings.logs):
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep_plan(settings, plan)
    make_database(settings, plan)
    return plan


def _require_own(settings: Settings) -> None:
    """Make sure that this home is a cluster's, or empty, and that nothing leads to databases elsewhere."""
    if is_cluster(settings):
        try:
            plan = load_plan(settings)
        except (KeyError, ValueError) as error:
            raise NodeFailed(f"{settings.cluster_file} is damaged ({type(error).__name__}): restore it") from error
        if settings.ledger_url == plan.url("ledger") and settings.index_url == plan.url("index"):
            return
    elif not settings.ledger_url and not settings.index_url:
        if not settings.ledger.exists() and not (settings.storage / "index").exists():
            return
        raise NodeFailed(
            f"{settings.home} holds a node of one Orthanc: copy it with ./hilum backup DIR, and make a cluster of that "
            "in another HILUM_HOME with ./hilum restore DIR --cluster"
        )
    raise NodeFailed("ledger_url or index_url is set: a cluster of this machine has databases of its own; remove them")


def _serves(settings: Settings, plan: Plan, name: str) -> bool:
    if name == "postgresql":
        return answers(plan)
    if name == ray_node.HEAD:
        return node.listens(plan.ray_port)
    if name.startswith(("worker", "ray")):
        return True
    if name == "https":
        return node.listens(settings.https_port)
    url = (settings if name == "entrance" else plan.of_orthanc(settings, name)).http_url
    try:
        return httpx.get(f"{url}/hilum/login", timeout=3.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _lacking(settings: Settings, plan: Plan) -> list[str]:
    """Members that do not serve yet, and workers that are not ready."""
    lacking = [member.name for member in members(settings) if not member.serves]
    ledger = open_ledger(settings.ledger_address)
    try:
        with ledger.read() as db:
            seen = workers_seen(db, now=time.time(), silent_seconds=_SILENT_SECONDS)
    except LedgerError:
        seen = []
    finally:
        ledger.close()
    ready = sum(worker["state"] == "ready" for worker in seen)
    return lacking or [name for name in plan.members if name.startswith("worker")][ready:]


def _require_steady(settings: Settings, plan: Plan, begun: dict[str, set[str]]) -> None:
    """Give up on a member that ends as often as it is started; each start leaves a note, however soon it ended."""
    for name in plan.members:
        with suppress(OSError):
            begun.setdefault(name, set()).add(note_of(settings, name).read_text())
            if len(begun[name]) >= _TOO_OFTEN:
                raise NodeFailed(f"{name} ends as often as it is started{_last_words(settings, name)}")


def _last_words(settings: Settings, name: str) -> str:
    log = settings.logs / f"cluster-{name}.log"
    try:
        words = log.read_text("utf-8", "replace").strip()[-_LAST_WORDS:].splitlines()
    except OSError:
        words = []
    return f": {words[-1]} ({log})" if words else f": see {settings.logs}"


def _running(settings: Settings) -> list[int]:
    pids = [node.running_pid(settings), *(member.pid for member in members(settings, ask=False))]
    return [pid for pid in pids if pid is not None]

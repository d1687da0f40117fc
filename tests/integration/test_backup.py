"""A copy of a running node, and a node made from it: the same objects, the same ledger."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from other_versions import other_version
from postgres_server import binaries, postgres_server
from pydicom import dcmwrite
from rich.console import Console
from running_node import Node, free_port, start_node

from models.activation import Activation, Choice
from models.phantom import chest
from orthanc_plugin.access import audit_chain, audit_files
from orthanc_plugin.access.accounts import add_user, read_users
from orthanc_plugin.access.roles import Role
from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable, received_of
from orthanc_plugin.commands import backup as copying
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.backup_folder import BackupFailed, BackupFolder
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.commands.plain_orthanc import plain_orthanc
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger import filters, judging, marks, tasks
from orthanc_plugin.ledger.database import Ledger, LedgerUnusable, migrate, open_ledger
from orthanc_plugin.ledger.dump import dump, load
from orthanc_plugin.ledger.mark_history import history
from orthanc_plugin.ledger.notes import PLACE
from orthanc_plugin.ledger.ownership import load_archive_id
from orthanc_plugin.ledger.pages import page
from orthanc_plugin.ledger.tasks import Arrival
from orthanc_plugin.reading.active_models import registry_of
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings
from orthanc_plugin.working.reconciliation import reconcile

PIXELS = chest(1).pixels[:64, :64]
Contents = dict[str, Any]


def contents(orthanc: OrthancClient) -> Contents:
    """Every object of an Orthanc, its MD5, when it came, and what is attached to it and to its study."""
    held: Contents = {}
    for name in orthanc.instance_ids():
        path = f"/instances/{name}"
        file = orthanc.fetch(name)
        held[path] = hashlib.md5(file.content, usedforsecurity=False).hexdigest(), file.received
        for number in orthanc.attachments(path):
            if number.isdecimal():
                with orthanc.attachment(path, number) as pieces:
                    held[f"{path}/{number}"] = b"".join(pieces)
    for name in orthanc.study_ids():
        for number in orthanc.attachments(f"/studies/{name}"):
            with orthanc.attachment(f"/studies/{name}", number) as pieces:
                held[f"/studies/{name}/{number}"] = b"".join(pieces)
    return held


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    with ledger.read() as db:
        return [dict(row) for row in db.exec_driver_sql("SELECT * FROM tasks ORDER BY study_instance_uid").mappings()]


def put(orthanc: OrthancClient, study: str, seed: str = "") -> str:
    ds = radiograph(PIXELS, Exposure(seed=seed or study, study=study))
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    buffer.seek(0)
    return orthanc.store(buffer.getvalue())


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "hilum.toml").write_text('minimum_age = 21\nledger_url = ""\n')
    (home / "report.en.toml").write_text('title = "Preliminary report of our hospital"\n')
    monkeypatch.setenv("HILUM_HTTP_PORT", str(free_port()))
    return load_settings({**os.environ, "HILUM_HOME": str(home)})


@pytest.fixture
def running(settings: Settings) -> Iterator[OrthancClient]:
    """An Orthanc with three images, things attached to them, and a ledger; it passes for a node that runs."""
    load_archive_id(settings.archive_id_file)
    ledger = open_ledger(settings.ledger_address)
    migrate(ledger)
    with plain_orthanc(settings) as orthanc:
        ticks = node._start_ticks(os.getpid())
        (settings.home / "node.json").write_text(json.dumps({"pid": os.getpid(), "started": ticks}))
        for study in "abc":
            instance = put(orthanc, study)
            uid = orthanc.study_of(instance)
            assert uid is not None
            with ledger.write() as db:
                tasks.enqueue(db, Arrival(uid, "Müller^Ü", "1", study_description="Thorax\n"), now=1e9 + 1 / 3)
                tasks.set_fact(db, PLACE, "{}")
            orthanc.keep_with_studies(orthanc.studies(uid), 1025, f"the answer to {study}".encode())
            orthanc.attach([instance], 1024, os.urandom(2000))
        yield orthanc
    ledger.close()


def take(settings: Settings, folder: Path, **how: bool) -> str:
    said = StringIO()
    assert copying.backup(settings, folder, Console(file=said, width=200), **how) == 0
    return said.getvalue()


def bring_back(home: Path, folder: Path, **how: bool) -> str:
    said = StringIO()
    settings = load_settings({**os.environ, "HILUM_HOME": str(home), "HILUM_HTTP_PORT": str(free_port())})
    assert copying.restore(settings, folder, Console(file=said, width=200), **how) == 0
    return said.getvalue()


def restored(home: Path) -> Settings:
    return load_settings({**os.environ, "HILUM_HOME": str(home), "HILUM_HTTP_PORT": str(free_port())})


def test_a_restored_archive_is_the_one_that_was_copied(
    settings: Settings, running: OrthancClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, ledger = contents(running), open_ledger(settings.ledger_address)
    assert len(before) == 9
    assert "3 instances" in take(settings, tmp_path / "copy")
    assert "is whole" in bring_back(tmp_path / "nowhere", tmp_path / "copy", check=True)
    assert not (tmp_path / "nowhere").exists()
    time.sleep(1.1)  # another ReceptionDate
    monkeypatch.setenv("HILUM_HTTP_PORT", str(free_port()))
    home = tmp_path / "new"
    bring_back(home, tmp_path / "copy")
    new = restored(home)
    assert (new.minimum_age, new.archive_id_file.read_text()) == (21, settings.archive_id_file.read_text())
    assert (home / "report.en.toml").read_bytes() == (settings.home / "report.en.toml").read_bytes()
    assert not new.credentials.exists() or load_credentials(new.credentials) != load_credentials(settings.credentials)
    assert rows(open_ledger(new.ledger_address)) == rows(ledger)
    with open_ledger(new.ledger_address).read() as db:
        assert tasks.get_fact(db, PLACE) is None, "the feed of the new Orthanc is another one"
    assert {file.stat().st_mode & 0o077 for file in [*home.rglob("*.toml"), *(tmp_path / "copy").rglob("*.jsonl")]} == {
        0
    }
    with plain_orthanc(new) as orthanc:
        assert contents(orthanc) == before
    # a copy of the copy says the same, when its images were first received too
    with plain_orthanc(new):
        (home / "node.json").write_bytes((settings.home / "node.json").read_bytes())
        take(new, tmp_path / "second")
    first, second = (BackupFolder(tmp_path / name) for name in ("copy", "second"))
    made = [folder.manifest() for folder in (first, second)]
    assert list(first.resources(made[0])) == list(second.resources(made[1]))  # type: ignore[arg-type]


def test_the_site_s_own_models_and_what_it_chose_are_copied_too(
    settings: Settings, running: OrthancClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, activation = registry_of(settings), Activation(settings.active_models)
    own = registry.add(other_version(tmp_path, "lung_fields", "0.2.0"))
    activation.choose(Choice().activate(own, settings.bundles))
    (settings.own_models / ".being-written").write_text("")
    take(settings, tmp_path / "copy")
    monkeypatch.setenv("HILUM_HTTP_PORT", str(free_port()))
    bring_back(tmp_path / "new", tmp_path / "copy")
    new = restored(tmp_path / "new")
    chosen = Activation(new.active_models).choice.bundles(registry_of(new), new.bundles)
    assert [bundle.title for bundle in chosen] == [
        "pixel_gate 0.1.0", "lung_fields 0.2.0", "chest_findings 0.1.0", "lung_opacity 0.1.0",
        "covid_appearance 1.0.0",
    ]  # fmt: skip
    assert chosen[1].folder.is_relative_to(new.home)
    assert chosen[1].load().identity == own.load().identity
    assert not (new.own_models / ".being-written").exists()
    weights = next((tmp_path / "copy").glob("*/models/lung_fields/0.2.0/models/model.pt"))
    weights.write_bytes(b"damaged")
    with pytest.raises(BackupFailed, match=r"damaged: .*model\.pt"):
        bring_back(tmp_path / "other", tmp_path / "copy")


def test_a_second_backup_copies_what_is_new_and_drops_what_is_gone(
    settings: Settings, running: OrthancClient, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    take(settings, folder)
    files = {file: file.stat().st_mtime_ns for file in (folder / "objects").glob("*/*")}
    running._request("DELETE", f"/studies/{running.study_ids()[0]}")
    put(running, "d")
    time.sleep(1.1)  # another name
    assert "3 instances" in take(settings, folder)
    now = {file: file.stat().st_mtime_ns for file in (folder / "objects").glob("*/*")}
    assert len(set(files) - set(now)) == 3, "an image, its picture, its study's answer"
    assert len(set(now) - set(files)) == 1
    assert all(now[file] == files[file] for file in set(now) & set(files)), "written once"
    assert len([entry for entry in folder.iterdir() if entry.name.endswith("Z")]) == 1


def test_a_backup_that_was_broken_off_leaves_the_one_before_it_whole(
    settings: Settings, running: OrthancClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    take(settings, folder)
    time.sleep(1.1)
    for n in range(4):
        put(running, f"more {n}")
    calls = iter(range(1000))
    whole = OrthancClient.metadata

    def goes_away(client: OrthancClient, instance: str) -> dict[str, str]:
        if next(calls) == 4:
            raise OrthancUnavailable("GET: ConnectError")
        return whole(client, instance)

    monkeypatch.setattr(OrthancClient, "metadata", goes_away)
    with pytest.raises(BackupFailed, match=r"Orthanc does not answer.*what was copied is kept: run it again"):
        take(settings, folder)
    monkeypatch.undo()
    assert "3 instances" in bring_back(tmp_path / "nowhere", folder, check=True)
    assert "7 instances" in take(settings, folder)
    assert not list(folder.rglob("*.draft"))


def test_without_a_manifest_there_is_no_backup(
    settings: Settings, running: OrthancClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackupFolder, "complete", lambda *_: None)
    take(settings, tmp_path / "copy")
    with pytest.raises(BackupFailed, match="holds no complete backup"):
        bring_back(tmp_path / "new", tmp_path / "copy")


def test_a_full_disk_is_told_plainly(
    settings: Settings, running: OrthancClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(BackupFailed, match=r"the disk of .*copy is full; what was copied is kept: free space"):
        take(settings, tmp_path / "copy")


@pytest.mark.parametrize("what", ["objects/*/*.dcm", "*Z/ledger.jsonl", "*Z/resources.jsonl"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_damaged_backup_is_refused_before_anything_is_restored(
    settings: Settings, running: OrthancClient, tmp_path: Path, what: str, how: str
) -> None:
    folder = tmp_path / "copy"
    take(settings, folder)
    victim = next(folder.glob(what))
    if how == "missing":
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    with pytest.raises(BackupFailed, match=f"damaged: .*{victim.name}"):
        bring_back(tmp_path / "new", folder)
    assert not (tmp_path / "new").exists()


def test_passwords_are_copied_only_when_that_is_asked_for(
    settings: Settings, running: OrthancClient, tmp_path: Path
) -> None:
    secrets = 'ledger_url = "postgresql://u:secret@host/db"\nindex_url = "postgresql://u:indexed@host/i"\n'
    secrets += f'proxy_secret = "{"x1" * 16}"\n'
    (settings.home / "hilum.toml").write_text(f"minimum_age = 21\n{secrets}")
    settings.tls.mkdir()
    (settings.tls / "server.key").write_text("the key")
    take(settings, tmp_path / "without")
    take(settings, tmp_path / "with", with_credentials=True)
    accounts = load_credentials(settings.credentials)
    for secret in ("secret", "indexed", "x1" * 16, "the key", accounts.password, accounts.worker_password):
        for folder, found in (("without", False), ("with", True)):
            texts = [file.read_bytes() for file in (tmp_path / folder).glob("*Z/**/*") if file.is_file()]
            assert any(secret.encode() in text for text in texts) is found
    (settings.home / "hilum.toml").write_text('ledger_url = """\npostgresql://u:secret@host/db"""\n')
    with pytest.raises(BackupFailed, match="ledger_url in one line"):
        take(settings, tmp_path / "again")


def test_the_audit_log_goes_along_and_goes_on(settings: Settings, running: OrthancClient, tmp_path: Path) -> None:
    for number in range(9):
        audit_files.append(settings.audit, [{"who": "anna", "action": f"view {number}"}], longest=400)
    add_user(settings.users, "anna", Role.ADMIN, "correct horse battery", taken=frozenset())
    for with_credentials in (False, True):
        copy, home = tmp_path / f"copy-{with_credentials}", tmp_path / f"new-{with_credentials}"
        take(settings, copy, with_credentials=with_credentials)
        new = settings_of_copy(home, copy)
        audit_files.append(new.audit, [{"who": "anna"}], longest=400)
        found = audit_chain.verify(new.audit)
        assert (found.lines, found.faults) == (10, ())
        assert set(read_users(new.users)) == ({"anna"} if with_credentials else set())
        assert {path.stat().st_mode & 0o077 for path in (new.audit, *new.audit.iterdir())} == {0}


def settings_of_copy(home: Path, copy: Path) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_HTTP_PORT", str(free_port()))
        bring_back(home, copy)
    return restored(home)


def test_a_node_is_restored_into_an_empty_folder_only_and_a_failure_leaves_it_empty(
    settings: Settings, running: OrthancClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(settings, tmp_path / "copy")
    with pytest.raises(BackupFailed, match="is not empty"):
        bring_back(settings.home, tmp_path / "copy")
    home = tmp_path / "new"
    home.mkdir()
    with pytest.raises(node.NodeFailed, match="in use"):
        bring_back(home, tmp_path / "copy")  # the port of HILUM_HTTP_PORT is that of the node that runs
    assert list(home.iterdir()) == []
    monkeypatch.setenv("HILUM_HTTP_PORT", str(free_port()))
    monkeypatch.setattr(OrthancClient, "attachment_md5", lambda *_: "0" * 32)
    with pytest.raises(BackupFailed, match="is not what was copied"):
        bring_back(home, tmp_path / "copy")
    assert list(home.iterdir()) == []


_RESTORE = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from orthanc_plugin.commands import backup
from orthanc_plugin.settings import load_settings
original = backup._restore_resource
def and_then(*given):
    original(*given)
    os.kill(os.getpid(), int(sys.argv[2]))
backup._restore_resource = and_then
backup.restore(load_settings(), Path(sys.argv[1]), Console(file=sys.stderr))
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_restore_that_is_broken_off_serves_nobody_and_can_be_done_again(
    settings: Settings,
    running: OrthancClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: signal.Signals,
) -> None:
    take(settings, tmp_path / "copy")
    home, port = tmp_path / "new", free_port()
    monkeypatch.setenv("HILUM_HTTP_PORT", str(port))
    given = {**os.environ, "HILUM_HOME": str(home), "HILUM_HTTP_PORT": str(port)}
    command = [sys.executable, "-c", _RESTORE, str(tmp_path / "copy"), str(int(ending))]
    done = subprocess.run(command, cwd=REPOSITORY, env=given, check=False, capture_output=True)
    assert done.returncode == (-ending if ending is signal.SIGKILL else 128 + ending), done.stderr[-1000:]
    end = time.monotonic() + 10.0
    while not port_is_free(port):  # no Orthanc serves half an archive
        assert time.monotonic() < end
        time.sleep(0.1)
    if ending is signal.SIGKILL:
        with pytest.raises(node.NodeFailed, match="restore was broken off"):
            node.start(load_settings(given))
    else:
        assert list(home.iterdir()) == []
    assert "3 instances" in bring_back(home, tmp_path / "copy")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_node_that_does_not_run_and_a_folder_of_another_archive_are_told(
    settings: Settings, running: OrthancClient, tmp_path: Path
) -> None:
    take(settings, tmp_path / "copy")
    settings.archive_id_file.write_text("another\n")
    with pytest.raises(BackupFailed, match="another archive"):
        take(settings, tmp_path / "copy")
    with pytest.raises(BackupFailed, match="own folder"):
        take(settings, settings.home / "copy")
    (settings.home / "node.json").unlink()
    with pytest.raises(BackupFailed, match="does not run"):
        take(settings, tmp_path / "copy")


def test_a_dump_is_one_moment_of_the_ledger_and_fills_only_an_empty_one(tmp_path: Path) -> None:
    old, new = (open_ledger(tmp_path / name) for name in ("old", "new"))
    migrate(old)
    with old.write() as db:
        for n in range(1200):
            tasks.enqueue(db, Arrival(f"2.25.{n}", "Ü\ud800\0^Ä"), now=n / 3)
    lines = dump(old)
    first = [next(lines), next(lines)]
    with old.write() as db:  # while it is being dumped
        tasks.enqueue(db, Arrival("2.25.999999"), now=1.0)
    everything = [*first, *lines]
    assert load(new, everything) == {
        "tasks": 1200,
        "facts": 0,
        "reading_marks": 0,
        "saved_filters": 0,
        "mark_acts": 0,
        "counters": 0,
        "deliveries": 0,
        "archive_runs": 0,
    }
    assert rows(new) == [row for row in rows(old) if row["study_instance_uid"] != "2.25.999999"]
    with pytest.raises(LedgerUnusable, match="has tasks already"):
        load(new, everything)


@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")
def test_a_dump_goes_from_one_database_to_the_other_and_back(tmp_path: Path) -> None:
    here, there = open_ledger(tmp_path / "ledger.sqlite"), tmp_path / "back.sqlite"
    migrate(here)
    with here.write() as db:
        for n in range(600):
            tasks.enqueue(db, Arrival(f"2.25.{n}", "Ü^Ä", study_description="a\nb"), now=1e9 + n / 3)
        tasks.set_fact(db, "archive", "one")
        marks.mark_read(db, "2.25.7", "ada", now=1e9 + 2 / 3)
        judging.add_note(db, "2.25.7", "ben", "a note\nwith Ü", now=1e9 + 700)
        filters.save_filter(db, "ada", filters.NamedFilter("night", filters.Filter(read=False)))
    loaded = {
        "tasks": 600,
        "facts": 1,
        "reading_marks": 2,
        "saved_filters": 1,
        "mark_acts": 0,
        "counters": 0,
        "deliveries": 0,
        "archive_runs": 0,
    }
    with postgres_server() as server:
        server_ledger = open_ledger(server.new_database())
        assert load(server_ledger, dump(here)) == loaded
        assert sorted(rows(server_ledger), key=_by_uid) == sorted(rows(here), key=_by_uid)
        lines = dump(server_ledger)
        first = [next(lines), next(lines)]
        with server_ledger.write() as db:
            tasks.enqueue(db, Arrival("2.25.0"), now=5e9)
            tasks.enqueue(db, Arrival("2.25.99999"), now=5e9)
        assert load(open_ledger(there), [*first, *lines]) == loaded
        server_ledger.close()
    with open_ledger(there).read() as db, here.read() as old:
        assert history(db, "2.25.7") == history(old, "2.25.7")
        assert filters.saved_filters(db, "ada") == filters.saved_filters(old, "ada")
        found = page(db, filters.Filter(text="ü ä", read=True), now=1e9).rows  # words are made anew
        assert [row["study_instance_uid"] for row in found] == ["2.25.7"]
    assert sorted(rows(open_ledger(there)), key=_by_uid) == sorted(rows(here), key=_by_uid)


def _by_uid(row: dict[str, Any]) -> str:
    return str(row["study_instance_uid"])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "no dump"),
        (["{}"], "no dump"),
        (['{"ledger": 1, "schema": 99}'], "update Hilum"),
        (['{"ledger": 1, "schema": 2}', '{"table": "tasks; DROP TABLE tasks", "row": {"a": 1}}'], "lacks"),
        (['{"ledger": 1, "schema": 2}', '{"table": "facts", "row": {"name, value) --": 1}}'], "lacks"),
        (['{"ledger": 1, "schema": 2}', '{"table": "facts", "ro'], "damaged"),
    ],
)
def test_a_damaged_dump_is_refused(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(LedgerUnusable, match=why):
        load(open_ledger(tmp_path / "ledger.sqlite"), lines)


def test_a_dump_of_an_earlier_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    lines = [
        '{"ledger": 1, "schema": 1}',
        '{"table": "tasks", "row": {"study_instance_uid": "1.2", "status": "failed", "generation": 1,'
        ' "not_before": 1.5, "received_at": 1.5, "last_instance_at": 1.5}}',
    ]
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    assert load(ledger, lines)["tasks"] == 1
    assert [row["status"] for row in rows(ledger)] == ["quarantined"]


@pytest.mark.node
def test_a_node_that_is_copied_while_it_reads_is_the_same_node_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured, _ = start_node(tmp_path / "home", bundles="pixel_gate lung_fields chest_findings")
    try:
        with node.http(configured, load_credentials(configured.credentials)) as http:
            running = Node(configured, load_credentials(configured.credentials), http)
            done = [_send(running, age) for age in ("050Y", "050Y", "003Y")]
            for uid in done:
                running.wait_for(uid)
            time.sleep(6)  # their reports follow
            late = [_send(running, "050Y") for _ in range(3)]  # these are being read now
            take(configured, tmp_path / "copy")
            at_copy = _of_dump(tmp_path / "copy")
            copied = {r.path for r in BackupFolder(tmp_path / "copy").resources(_manifest(tmp_path / "copy"))}
            with _client(configured) as orthanc:
                before = {path: held for path, held in contents(orthanc).items() if path in copied}
    finally:
        node.stop(configured)
    monkeypatch.setenv("HILUM_HTTP_PORT", str(free_port()))
    bring_back(tmp_path / "new", tmp_path / "copy")
    new = restored(tmp_path / "new")
    ledger = open_ledger(new.ledger_address)
    assert {row["study_instance_uid"]: row for row in rows(ledger)} == at_copy
    with plain_orthanc(new) as orthanc:
        after = contents(orthanc)
        assert {path: held for path, held in after.items() if path in before} == before
        assert {path for path in after if path.count("/") == 2 and "instances" in path} == {
            path for path in before if "instances" in path
        }
        report = reconcile(ledger, orthanc, now=time.time(), stop=threading.Event())
        assert (report.changed, report.results_gone, report.removed, report.orphans) == (0, 0, 0, 0)
        assert report.missed <= len(late), "only what came after the ledger was copied"
        assert {row["status"] for row in rows(ledger) if row["study_instance_uid"] in done} == {"done", "not_processed"}


def _send(running: Node, age: str) -> str:
    ds = modality.radiograph(chest(2).pixels, Exposure(seed=uuid.uuid4().hex, study=uuid.uuid4().hex))
    ds.PatientAge = age
    (sent,) = modality.send([ds], "127.0.0.1", running.settings.dicom_port, running.settings.ae_title)
    assert sent.accepted
    return str(ds.StudyInstanceUID)


def _client(settings: Settings) -> OrthancClient:
    accounts = load_credentials(settings.credentials)
    return OrthancClient(settings.http_url, accounts.worker_user, accounts.worker_password)


def _manifest(folder: Path) -> Any:
    return BackupFolder(folder).manifest()


def _of_dump(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for file in folder.glob("*Z/ledger.jsonl") for line in file.read_text().splitlines()]
    return {line["row"]["study_instance_uid"]: line["row"] for line in lines if line.get("table") == "tasks"}


def test_the_time_of_an_image_survives_being_restored_twice() -> None:
    assert received_of({"ReceptionDate": "20260101T000000", "1025": "20200101T000000"}) == "20200101T000000"

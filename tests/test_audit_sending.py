"""The audit log on its way to a collector: in order and once, whoever is away; by TLS with certificates, TCP, UDP."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from receivers import closed_port
from syslog_collector import SyslogCollector, syslog_collector

from orthanc_plugin.access import audit_chain, audit_files, audit_sending, syslog
from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.audit_sending import AuditSending, Standing, owed
from orthanc_plugin.commands.authority import issue_to_client, issue_to_server, make_authority
from orthanc_plugin.commands.checks.audit import check_audit
from orthanc_plugin.commands.checks.check import State
from orthanc_plugin.hosting.health import Vitals, problems
from orthanc_plugin.integration import Collector
from orthanc_plugin.settings import load_settings

ANNA = Who("anna", "radiologist", "127.0.0.1")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_sending, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(audit_sending, "_LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(syslog, "_SECONDS", 2.0)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority, a collector's certificate, a node's, and one of another authority."""
    now, folder = datetime.now(UTC), tmp_path / "tls"
    folder.mkdir()
    site, other = make_authority("Site", now), make_authority("Other", now)
    issued = {
        "server": issue_to_server(site, ["127.0.0.1"], now), "elsewhere": issue_to_server(site, ["10.9.9.9"], now),
        "client": issue_to_client(site, "hilum", now), "stranger": issue_to_client(other, "hilum", now),
        "ca": site, "other": other,
    }  # fmt: skip
    for name, one in issued.items():
        (folder / f"{name}.crt").write_bytes(one.certificate)
        (folder / f"{name}.key").write_bytes(one.key)
    return folder


def context(certificates: Path, name: str = "server", version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A collector's, which wants to be shown a certificate of the site."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificates / f"{name}.crt", certificates / f"{name}.key")
    made.load_verify_locations(certificates / "ca.crt")
    made.verify_mode = ssl.CERT_REQUIRED
    if version is not None:
        made.maximum_version = version
    return made


def by_tls(certificates: Path, port: int, ours: str = "client", authority: str = "ca") -> Collector:
    return Collector(
        "127.0.0.1", port, "tls", str(certificates / f"{authority}.crt"), str(certificates / f"{ours}.crt"),
        str(certificates / f"{ours}.key"), source="node-1",
    )  # fmt: skip


def record(folder: Path, *numbers: int, longest: int = 2000) -> None:
    for number in numbers:
        audit_files.append(
            folder,
            [{"time": "2026-11-21T08:00:00.000Z", "who": "anna", "action": "view_study", "study": f"1.2.{number}"}],
            longest=longest,
        )


@contextmanager
def sending(folder: Path, collector: Collector) -> Iterator[AuditSending]:
    """One that has begun: what is recorded from now on is sent."""
    it = AuditSending(folder, collector)
    it.start()
    wait_for(lambda: audit_sending.read_cursor(folder) is not None)
    try:
        yield it
    finally:
        it.stop()


def wait_for(so: Callable[[], object], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < until, "this did not come about"
        time.sleep(0.01)


def studies(collector: SyslogCollector) -> list[int]:
    """The last number of each study, in the order in which they came."""
    return [int(re.findall(rb'ParticipantObjectID="1\.2\.(\d+)"', one)[0]) for one in collector.messages]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_collector_that_was_down_gets_every_entry_once_and_in_order(
    tmp_path: Path, certificates: Path, version: ssl.TLSVersion
) -> None:
    folder, port = tmp_path / "audit", closed_port()
    record(folder, 0)  # from before there was a collector
    with sending(folder, by_tls(certificates, port)) as it:
        record(folder, *range(1, 301))  # over many files
        wait_for(lambda: it.standing.error)
        assert (it.standing.owed, it.standing.sent) == (300, 0)
        with syslog_collector(context(certificates, version=version), port) as collector:
            wait_for(lambda: it.standing.owed == 0)
            record(folder, 301)
            wait_for(lambda: it.standing.owed == 0)
        record(folder, 302, 303)
        wait_for(lambda: it.standing.error)
        assert it.standing.owed == 2
        with syslog_collector(context(certificates), port) as again:
            wait_for(lambda: it.standing.owed == 0)
    assert studies(collector) == list(range(1, 302))
    assert studies(again) == [302, 303]
    assert it.standing == Standing(0, 303)
    assert audit_chain.verify(folder).faults == ()
    numbers = [int(re.findall(rb'sequenceId="(\d+)"', one)[0]) for one in collector.messages]
    assert numbers == list(range(2, 303)), "each has the number of its entry"


def test_what_one_process_did_not_send_the_next_one_does(tmp_path: Path, certificates: Path) -> None:
    folder, port = tmp_path / "audit", closed_port()
    with sending(folder, by_tls(certificates, port)):
        record(folder, *range(5))
    with (
        syslog_collector(context(certificates), port) as collector,
        sending(folder, by_tls(certificates, port)) as it,
    ):
        record(folder, 5)
        wait_for(lambda: it.standing.owed == 0)
    assert studies(collector) == list(range(6))


def test_a_batch_that_a_dying_collector_did_not_confirm_comes_again_as_a_whole(
    tmp_path: Path, certificates: Path
) -> None:
    folder = tmp_path / "audit"
    with (
        syslog_collector(context(certificates)) as collector,
        sending(folder, by_tls(certificates, collector.port)) as it,
    ):
        collector.takes = False
        record(folder, *range(20))
        wait_for(lambda: it.standing.error)
        assert it.standing.owed == 20
        collector.takes, collector.left = True, 7
        wait_for(lambda: it.standing.owed == 0)
    assert studies(collector) == [*range(7), *range(20)], "none is lost; those that nobody confirmed came twice"


def test_an_end_that_anybody_between_could_have_made_confirms_nothing(tmp_path: Path, certificates: Path) -> None:
    folder = tmp_path / "audit"
    with syslog_collector(context(certificates)) as collector:
        collector.is_polite = False
        ours = by_tls(certificates, collector.port)
        with sending(folder, ours) as it:
            record(folder, 1)
            wait_for(lambda: it.standing.error)
            assert "without close_notify" in it.standing.error
            assert (it.standing.owed, it.standing.sent) == (1, 0)
        with sending(folder, replace(ours, close_notify=False)) as it:
            wait_for(lambda: it.standing.owed == 0)
    assert set(studies(collector)) == {1}


@pytest.mark.parametrize(
    ("served", "ours", "authority"),
    [("server", "stranger", "ca"), ("server", "client", "other"), ("elsewhere", "client", "ca")],
    ids=["we are not known to it", "it is not known to us", "another host's"],
)
def test_a_wrong_certificate_on_either_side_sends_nothing(
    tmp_path: Path, certificates: Path, served: str, ours: str, authority: str
) -> None:
    folder = tmp_path / "audit"
    with (
        syslog_collector(context(certificates, served)) as collector,
        sending(folder, by_tls(certificates, collector.port, ours, authority)) as it,
    ):
        record(folder, 1)
        wait_for(lambda: it.standing.error)
        time.sleep(0.3)
        assert (it.standing.owed, it.standing.sent, collector.messages) == (1, 0, [])
        assert "TLS failed" in it.standing.error or "cannot be reached" in it.standing.error


def test_what_came_before_the_collector_was_set_is_not_sent(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    record(folder, 1, 2, 3)
    with syslog_collector() as collector, sending(folder, Collector("127.0.0.1", collector.port, "tcp")) as it:
        record(folder, 4)
        wait_for(lambda: it.standing.sent)
    assert studies(collector) == [4]


def test_by_udp_each_message_is_a_datagram(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(10)
        with sending(folder, Collector("127.0.0.1", listening.getsockname()[1], "udp")) as it:
            record(folder, 1, 2)
            came = [listening.recv(65_535) for _ in range(2)]
            wait_for(lambda: it.standing.owed == 0)
    assert [b"1.2.1" in came[0], b"1.2.2" in came[1]] == [True, True]
    assert all(one.startswith(b"<85>1 2026-11-21T08:00:00.000Z ") for one in came)


def test_nobody_waits_for_a_collector_that_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    audit = Audit(folder, longest=100_000)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and reads none
        audit.start()
        with sending(folder, Collector("127.0.0.1", silent.getsockname()[1], "tcp")) as it:
            began = time.monotonic()
            for number in range(500):
                assert audit.record("view_study", ANNA, f"1.2.{number}", wait_seconds=5 if number % 100 == 0 else 0)
            assert time.monotonic() - began < 2
            wait_for(lambda: it.standing.error)
            assert it.standing.owed == 500
        audit.stop()


def test_a_line_that_was_never_finished_and_files_that_were_removed_do_not_end_it(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    with syslog_collector() as collector, sending(folder, Collector("127.0.0.1", collector.port, "tcp")) as it:
        record(folder, *range(10), longest=600)
        wait_for(lambda: it.standing.owed == 0)
        with audit_files.files_of(folder)[-1].open("ab") as file:
            file.write(b'{"n": 11, "previo')
        time.sleep(0.1)
        record(folder, 10, longest=600)
        wait_for(lambda: it.standing.owed == 0)
    for file in audit_files.files_of(folder):
        file.unlink()  # all of it: only by tampering
    with syslog_collector(port=collector.port) as again, sending(folder, Collector("127.0.0.1", again.port, "tcp")):
        record(folder, 11, 12)
        wait_for(lambda: len(again.messages) == 2)
    assert studies(collector) + studies(again) == list(range(13))


def test_a_restored_log_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    with syslog_collector() as collector:
        ours = Collector("127.0.0.1", collector.port, "tcp")
        with sending(folder, ours) as it:
            record(folder, 1, 2)
            wait_for(lambda: it.standing.owed == 0)
        shutil.copytree(folder, tmp_path / "restored")
        with sending(tmp_path / "restored", ours) as it:
            record(tmp_path / "restored", 3)
            wait_for(lambda: it.standing.owed == 0)
    assert studies(collector) == [1, 2, 3]


def test_the_status_names_a_collector_that_is_down_for_long() -> None:
    def codes(standing: Standing) -> list[str]:
        found = problems(
            Vitals(
                ledger_error=None, free_mb=9999, reserve_mb=1, worker_seen=True, worker_problem="", running_seconds=0,
                collected=standing,
            )
        )  # fmt: skip
        assert all("3 entries" in problem.text for problem in found)
        return [problem.code for problem in found]

    assert codes(Standing(3, 0, "it cannot be reached", 10.0)) == []
    assert codes(Standing(3, 0, "it cannot be reached", 200.0)) == ["audit_unsent"]
    assert codes(Standing()) == []


def test_the_doctor_knocks_at_the_collector_and_follows_the_newest_files(tmp_path: Path, certificates: Path) -> None:
    def found() -> dict[str, tuple[State, str]]:
        return {check.name: (check.state, check.text) for check in check_audit(settings)}

    port = closed_port()
    tls = certificates
    (tmp_path / "hilum.toml").write_text(
        f'[collector]\nhost = "127.0.0.1"\nport = {port}\nauthority_file = "{tls}/ca.crt"\n'
        f'certificate_file = "{tls}/client.crt"\nkey_file = "{tls}/client.key"\n'
    )
    settings = load_settings({"HILUM_HOME": str(tmp_path)})
    assert found()["audit"] == (State.WELL, "there is no log yet")
    assert not settings.audit.exists(), "the doctor changes nothing"
    with sending(settings.audit, by_tls(tls, port)):
        record(settings.audit, *range(30), longest=2000)
    assert found()["collector"][0] is State.WARNING
    assert "30 entries are owed" in found()["collector"][1]
    assert found()["audit"][0] is State.WARNING, "all of it was never followed"
    assert owed(settings.audit) == 30
    with syslog_collector(context(tls), port) as collector:
        assert found()["collector"][0] is State.WELL
        assert collector.messages == []
    audit_chain.note_verified(settings.audit, audit_chain.verify(settings.audit).end, time.time())
    assert found()["audit"][0] is State.WELL
    last = audit_files.files_of(settings.audit)[-1]
    last.write_bytes(last.read_bytes().replace(b"anna", b"hans"))
    assert found()["audit"][0] is State.WRONG

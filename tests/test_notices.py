"""Telling people of critical results: a real ledger, real servers for HTTP and for SMTP with STARTTLS."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from notice_servers import MailServer, Receiver, made_certificate, receiving
from postgres_server import PostgresServer

from orthanc_plugin.ledger import marks, tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.outbox import Notice, Outbox
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus
from orthanc_plugin.settings import Settings, load_settings
from orthanc_plugin.working.notice_settings import NoticeSettings, NoticesUnusable, load_notice_settings
from orthanc_plugin.working.notices import NotTaken, content_of, send, signature
from orthanc_plugin.working.notifying import tell

SECRET = "sixteen characters"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as it:
        yield it


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    settings = load_settings({"HILUM_HOME": str(tmp_path)})
    settings.archive_id_file.write_text("a1")
    return settings


@pytest.fixture
def ledger(site: Settings) -> Iterator[Ledger]:
    made = open_ledger(site.ledger_address)
    migrate(made)
    yield made
    made.close()


def answered(ledger: Ledger, uid: str, priority: str, *, now: float) -> None:
    with ledger.write() as db:
        tasks.enqueue(db, Arrival(uid, patient_name="Doe^Jane", patient_id="P-7", accession_number="A9"), now=now)
        claimed = tasks.claim(db, "w", now=now, lease_seconds=60, abandoned_limit=3)
        assert claimed is not None
        rank = ("critical", "urgent", "routine").index(priority)
        outcome = Outcome(TaskStatus.DONE, priority, rank, {"version": 1}, message="Pneumothorax 91 %, right")
        tasks.answer(db, claimed, outcome, now=now, conclude_at=None)


def write(site: Settings, receiver: Receiver, more: str = "") -> None:
    lines = f'webhook_url = "{receiver.url}"\nwebhook_secret = "{SECRET}"\nnode_url = "https://hilum.example/"\n{more}'
    site.notifications.write_text(lines)


def test_without_its_file_nobody_is_told_and_nothing_is_written(site: Settings, ledger: Ledger) -> None:
    answered(ledger, "1.2.3", "critical", now=10.0)
    tell(site, ledger, 11.0)
    assert not site.outbox.exists()


def test_a_critical_result_is_told_once_signed_and_without_the_patient(
    site: Settings, ledger: Ledger, receiver: Receiver
) -> None:
    write(site, receiver)
    answered(ledger, "1.2.1", "critical", now=5.0)
    tell(site, ledger, 10.0)
    answered(ledger, "1.2.3", "critical", now=11.0)
    answered(ledger, "1.2.4", "urgent", now=11.0)
    for now in (12.0, 13.0, 14.0):
        tell(site, ledger, now)
    ((headers, body),) = receiver.got
    content = json.loads(body)
    assert content["study_instance_uid"] == "1.2.3", "not what was answered before anybody was to be told"
    assert (content["priority"], content["why"]) == ("critical", "Pneumothorax 91 %, right")
    assert content["url"] == "https://hilum.example/hilum/studies/1.2.3"
    assert not any(word in body.decode() for word in ("Doe", "Jane", "P-7", "A9"))
    digest = hmac.new(SECRET.encode(), b"12." + body, hashlib.sha256).hexdigest()
    assert headers["X-Hilum-Signature"] == f"t=12,v1={digest}" == signature(SECRET, body, 12.0)
    assert headers["X-Hilum-Id"] == content["id"]


def test_a_study_is_told_again_when_its_priority_rises(site: Settings, ledger: Ledger, receiver: Receiver) -> None:
    write(site, receiver, "notify_urgent = true\nnotify_with_patient = true\n")
    tell(site, ledger, 1.0)
    answered(ledger, "1.2.3", "urgent", now=2.0)
    tell(site, ledger, 3.0)
    answered(ledger, "1.2.3", "critical", now=4.0)
    tell(site, ledger, 5.0)
    contents = [json.loads(body) for _, body in receiver.got]
    assert [content["priority"] for content in contents] == ["urgent", "critical"]
    assert contents[0]["id"] != contents[1]["id"]
    assert contents[0]["patient"]["patient_id"] == "P-7"


def test_what_is_not_taken_is_tried_again_with_the_same_id_and_ever_longer_pauses(
    site: Settings, ledger: Ledger, receiver: Receiver
) -> None:
    write(site, receiver)
    tell(site, ledger, 1.0)
    answered(ledger, "1.2.3", "critical", now=2.0)
    receiver.status = 503
    tried = []
    for second in range(3, 100):
        before = len(receiver.got)
        tell(site, ledger, float(second))
        tried += [second] * (len(receiver.got) - before)
    assert tried == [3, 8, 18, 38, 78]
    (notice,) = Outbox(ledger, site.outbox).troubled()
    assert (notice.failures, notice.error, notice.next_at) == (5, "HTTP 503", 158.0)
    receiver.status = 200
    tell(site, ledger, 160.0)
    tell(site, ledger, 1000.0)
    assert len(receiver.got) == 6
    assert len({json.loads(body)["id"] for _, body in receiver.got}) == 1
    assert Outbox(ledger, site.outbox).troubled() == []


def test_after_a_day_and_after_somebody_has_read_it_nobody_is_told(
    site: Settings, ledger: Ledger, receiver: Receiver
) -> None:
    write(site, receiver)
    tell(site, ledger, 1.0)
    answered(ledger, "1.2.3", "critical", now=2.0)
    answered(ledger, "1.2.4", "critical", now=2.0)
    receiver.status = 500
    tell(site, ledger, 3.0)
    with ledger.write() as db:
        marks.mark_read(db, "1.2.4", "anna", now=4.0)
    tell(site, ledger, 90_000.0)
    sent = len(receiver.got)
    tell(site, ledger, 200_000.0)
    assert sent == 3
    assert len(receiver.got) == 3
    assert [notice.next_at for notice in Outbox(ledger, site.outbox).troubled()] == [None, None]


def test_of_several_workers_one_tells(site: Settings, receiver: Receiver, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    ledgers = [open_ledger(url) for _ in range(4)]
    migrate(ledgers[0])
    write(site, receiver)
    tell(site, ledgers[0], 1.0)
    for number in range(5):
        answered(ledgers[0], f"1.2.{number}", "critical", now=2.0)
    with ThreadPoolExecutor(4) as workers:
        for _ in range(3):
            list(workers.map(lambda ledger: tell(site, ledger, 3.0), ledgers))
    assert len(receiver.got) == 5
    assert len({json.loads(body)["id"] for _, body in receiver.got}) == 5
    assert not site.outbox.exists()
    for ledger in ledgers:
        ledger.close()


def test_a_notice_whose_worker_died_over_it_is_told_by_another(site: Settings, ledger: Ledger) -> None:
    outbox = Outbox(ledger, site.outbox)
    outbox.note("id", "webhook", "1.2.3", "critical", 1.0)
    (notice,) = outbox.due(2.0)
    assert outbox.take(notice, 2.0)
    assert not outbox.take(notice, 2.0)
    assert outbox.due(30.0) == []
    (again,) = outbox.due(70.0)
    assert outbox.take(again, 70.0)
    outbox.close(again, 71.0)
    assert outbox.due(1000.0) == []


def test_a_redirection_is_not_followed_and_an_error_names_no_address() -> None:
    nobody = NoticeSettings(webhook_url="http://127.0.0.1:9/token", webhook_secret=SECRET)
    with pytest.raises(NotTaken) as told:
        send(a_notice("webhook"), content_of(a_notice("webhook"), TASK, nobody), nobody, 1.0)
    assert str(told.value) == "ConnectError"
    assert "token" not in repr(nobody)
    assert SECRET not in repr(nobody)


def test_a_server_that_redirects_has_not_taken_it(receiver: Receiver) -> None:
    receiver.status = 307
    wanted = NoticeSettings(webhook_url=receiver.url, webhook_secret=SECRET)
    with pytest.raises(NotTaken, match="HTTP 307"):
        send(a_notice("webhook"), content_of(a_notice("webhook"), TASK, wanted), wanted, 1.0)
    assert len(receiver.got) == 1


TASK = {
    "priority_reason": "Pneumothorax 91 %", "lowered_from": "", "received_at": 1.0, "completed_at": 2.0,
    "patient_name": "Doe^Jane", "patient_id": "P-7", "patient_birth_date": "", "accession_number": "",
}  # fmt: skip


def a_notice(way: str) -> Notice:
    return Notice("abc", way, "1.2.3", "critical", 1.0, 1.0, None, 0, "")


@pytest.mark.parametrize(
    "line",
    ['webhook_url = "ftp://x"', 'webhook_url = "https://x"', 'unknown = 1', 'email_to = "a@b"', 'email_to = ["ab"]',
     'email_to = ["a@b"]\nemail_from = "c@d"', 'smtp_port = "587"', "notify_with_patient = 1", "[", "smtp_port = true"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_without_its_secrets(tmp_path: Path, line: str) -> None:
    file = tmp_path / "notifications.toml"
    file.write_text(f'smtp_password = "hidden"\n{line}\n')
    with pytest.raises(NoticesUnusable, match=r"notifications\.toml") as told:
        load_notice_settings(file)
    assert "hidden" not in str(told.value)


def mailed(server: MailServer) -> NoticeSettings:
    return NoticeSettings(
        email_to=("on.call@hospital.example",), email_from="hilum@hospital.example", smtp_host="localhost",
        smtp_port=server.port,
    )  # fmt: skip


def test_an_e_mail_goes_encrypted_and_without_the_patient(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = MailServer(certificate)
    wanted = mailed(server)
    send(a_notice("email"), content_of(a_notice("email"), TASK, wanted), wanted, 1.0)
    assert "STARTTLS" in server.commands[:2]
    (message,) = server.messages
    text = message.decode()
    assert "Pneumothorax 91 %" in text
    assert "abc@hilum.invalid" in text
    assert "not a medical device" in text
    assert "Doe" not in text


@pytest.mark.parametrize("speaks_tls", [False, True])
def test_no_e_mail_goes_where_the_server_cannot_be_trusted(certificate: Path, speaks_tls: bool) -> None:
    server = MailServer(certificate if speaks_tls else None)
    wanted = mailed(server)
    with pytest.raises(NotTaken):
        send(a_notice("email"), content_of(a_notice("email"), TASK, wanted), wanted, 1.0)
    assert "MAIL" not in server.commands
    assert server.messages == []

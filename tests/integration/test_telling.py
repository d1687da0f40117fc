"""A whole node tells of a critical study by webhook and e-mail, and a server that is away costs nobody anything."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from notice_servers import MailServer, made_certificate, receiving
from other_versions import other_version
from running_node import Node, free_port, start_node

from models.phantom import Pathology, chest
from orthanc_plugin.cli import main
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.ledger.outbox import Outbox

pytestmark = pytest.mark.node
SECRET = "sixteen characters"


def calls_everything_pneumothorax(metadata: dict[str, Any]) -> None:
    """No shipped bundle reports pneumothorax, for the evidence does not carry it; this one, for a test, does."""
    ours = metadata["hilum"]
    ours["findings"]["pneumothorax"] |= {"evaluated": True, "threshold_absent": 1e-6, "threshold_present": 2e-6}
    ours["figures"]["pneumothorax"]["evaluated"] = True


@pytest.fixture
def mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MailServer:
    """A server that the node, which is started later, trusts."""
    certificate = made_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return MailServer(certificate)


@pytest.fixture
def running(tmp_path: Path, mail: MailServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    settings, _ = start_node(tmp_path / "home")
    credentials = load_credentials(settings.credentials)
    try:
        monkeypatch.setenv("HILUM_HOME", str(settings.home))
        bundle = other_version(tmp_path, "chest_findings", "0.2.0", calls_everything_pneumothorax)
        assert main(["models", "add", str(bundle)]) == 0
        assert main(["models", "activate", "chest_findings", "0.2.0"]) == 0
        with node.http(settings, credentials) as client:
            started = Node(settings, credentials, client)
            status = "/hilum/api/status"
            started.wait(lambda: client.get(status).json()["models"].get("chest_findings") == "0.2.0", "the bundle")
            yield started
    finally:
        node.stop(settings)


def write(running: Node, port: int, mail: MailServer, more: str = "") -> None:
    file = running.settings.notifications
    file.write_text(
        f'webhook_url = "http://127.0.0.1:{port}/hook"\nwebhook_secret = "{SECRET}"\n'
        'email_to = ["on.call@hospital.example"]\nemail_from = "hilum@hospital.example"\n'
        f'smtp_host = "localhost"\nsmtp_port = {mail.port}\nnode_url = "https://hilum.example"\n{more}'
    )
    file.chmod(0o600)


def send(running: Node, name: str) -> str:
    phantom = chest(4, rows=512, columns=512, pathologies=[Pathology("pneumothorax", size=0.9)])
    how = Exposure(seed=uuid.uuid4().hex, patient_name=f"{name}^Secret", patient_id=f"ID-{name}")
    ds = modality.radiograph(phantom.pixels, how)
    (outcome,) = modality.send([ds], "127.0.0.1", running.settings.dicom_port, running.settings.ae_title)
    assert outcome.accepted
    return str(ds.StudyInstanceUID)


@pytest.mark.timeout(900)
def test_a_critical_study_is_told_by_both_ways_and_a_webhook_that_is_away_holds_up_nothing(
    running: Node, mail: MailServer
) -> None:
    port = free_port()  # nobody listens there yet
    write(running, port, mail)
    running.wait(running.settings.outbox.exists, "the notices to begin")
    first = send(running, "Alpha")
    row = running.wait_for(first)
    assert (row["status"], row["priority"]) == ("done", "critical")
    running.wait(lambda: mail.messages, "the e-mail")
    told = message_from_bytes(mail.messages[0])
    assert told["Subject"] == "Hilum: critical result"
    assert "STARTTLS" in mail.commands[:2]
    outbox = Outbox(open_ledger(running.settings.ledger_address), running.settings.outbox)
    running.wait(lambda: any(n.failures > 1 for n in outbox.troubled()), "the webhook to be tried again")
    second = send(running, "Beta")  # it is read while the webhook is away, and told by the other way
    assert running.wait_for(second)["priority"] == "critical"
    running.wait(lambda: len(mail.messages) == 2, "the second e-mail")
    status = running.http.get("/hilum/api/status").json()
    assert (status["state"], status["problems"]) == ("ready", [])
    page = running.http.get("/hilum/admin").text
    assert "Notices that were not taken" in page
    assert "ConnectError" in page

    with receiving(port) as receiver:
        running.wait(lambda: len(receiver.got) == 2, "both to be taken", 90)
        contents = {json.loads(body)["study_instance_uid"]: json.loads(body) for _, body in receiver.got}
        assert set(contents) == {first, second}
        assert all(headers["X-Hilum-Id"] in {c["id"] for c in contents.values()} for headers, _ in receiver.got)
        assert contents[first]["url"] == f"https://hilum.example/hilum/studies/{first}"
        said = [body.decode() for _, body in receiver.got] + [message.decode() for message in mail.messages]
        log = running.settings.logs.joinpath("worker.log").read_text()
        assert not [word for word in ("Alpha", "Beta", "Secret", "ID-") for text in (*said, log) if word in text]
        running.wait(lambda: not outbox.troubled(), "the notices to be struck off")

        write(running, port, mail, "notify_with_patient = true\n")
        third = send(running, "Gamma")
        running.wait_for(third)
        running.wait(lambda: len(receiver.got) == 3 and len(mail.messages) == 3, "the third to be told")
        assert json.loads(receiver.got[2][1])["patient"]["patient_id"] == "ID-Gamma"
        assert b"ID-Gamma" in mail.messages[2]

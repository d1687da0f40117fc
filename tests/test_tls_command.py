"""./hilum tls: an authority of the site's own, what it issues, and that its keys are nobody else's."""

from __future__ import annotations

import json
import os
import ssl
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from orthanc_plugin import cli
from orthanc_plugin.commands import authority, node
from orthanc_plugin.commands.authority import NameRefused, issue_to_client, issue_to_server, make_authority
from orthanc_plugin.hosting.health import Vitals, problems
from orthanc_plugin.settings import Settings, load_settings
from orthanc_plugin.trust import TlsFiles, TlsUnusable, http_trust, read_certificate, seconds_left

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("HILUM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HILUM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def told(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, object]]]:
    capsys.readouterr()
    code = cli.main(["tls", "show", "--json"])
    return code, {Path(one["file"]).name: one for one in json.loads(capsys.readouterr().out)}


def certificates_of(file: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(file.read_bytes())


def test_the_node_is_known_by_its_names_and_by_this_machine_s(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tls", "init", "PACS.example.org", "10.1.2.3"]) == 0
    files = TlsFiles(home / "tls")
    store = Store(certificates_of(files.authority))
    for name in (x509.DNSName("pacs.example.org"), x509.DNSName("localhost")):
        PolicyBuilder().store(store).build_server_verifier(name).verify(certificates_of(files.certificate)[0], [])
    code, found = told(capsys)
    assert code == 0
    assert found["server.crt"]["names"] == ["pacs.example.org", "10.1.2.3", "localhost", "127.0.0.1", "::1"]
    assert {one["state"] for one in found.values()} == {"valid"}
    context = ssl.create_default_context(cafile=files.authority)
    assert context.cert_store_stats()["x509_ca"] == 1
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


def test_keys_are_their_owner_s_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        assert cli.main(["tls", "init", "a"]) == cli.main(["tls", "client", "cr1"]) == cli.main(["tls", "renew"]) == 0
    finally:
        os.umask(before)
    for path in [home, *home.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_what_is_there_is_not_replaced_unasked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tls", "init", "a"]) == 0
    kept = {path: path.read_bytes() for path in (home / "tls").iterdir()}
    assert cli.main(["tls", "init", "b"]) == 1
    assert "tls renew" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (home / "tls").iterdir()} == kept


def test_a_renewed_certificate_has_the_same_names_another_key_and_the_same_authority(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tls", "init", "a.example", "10.0.0.1"]) == 0
    files = TlsFiles(home / "tls")
    before, key, parent = read_certificate(files.certificate), files.key.read_bytes(), files.authority.read_bytes()
    assert cli.main(["tls", "renew"]) == 0
    after = read_certificate(files.certificate)
    assert (after.names, after.issuer) == (before.names, before.issuer)
    assert after.sha256 != before.sha256
    assert files.key.read_bytes() != key
    assert files.authority.read_bytes() == parent
    assert cli.main(["tls", "renew", "b.example"]) == 0
    assert read_certificate(files.certificate).names[0] == "b.example"


def test_without_the_authority_s_key_nothing_is_issued_and_the_node_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tls", "init", "a"]) == 0
    files = TlsFiles(home / "tls")
    files.authority_key.rename(home / "elsewhere")
    for arguments in (["client", "cr1"], ["renew"]):
        assert cli.main(["tls", *arguments]) == 1
        assert "put it there for as long as it is needed" in capsys.readouterr().err
    assert told(capsys)[0] == 0
    (home / "elsewhere").rename(files.authority_key)
    files.authority_key.chmod(0o640)
    assert cli.main(["tls", "client", "cr1"]) == 1
    assert "can be read by others" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".hidden", "x" * 65, "ä", "a\nb"])
def test_a_client_s_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(NameRefused):
        issue_to_client(make_authority("A", NOW), name, NOW)


@pytest.mark.parametrize("name", ["a b", "-a", "a..b", "http://a", "a/b", "999.1.1.1.", ""])
def test_what_is_no_host_is_refused_and_leaves_nothing(name: str, home: Path) -> None:
    assert cli.main(["tls", "init", "--", "good", name]) == 1
    assert list((home / "tls").iterdir()) == []


def test_nothing_outlives_its_authority_and_none_issued_may_issue() -> None:
    old = make_authority("A", NOW - timedelta(days=authority.AUTHORITY_DAYS - 10))
    (parent,) = x509.load_pem_x509_certificates(old.certificate)
    for issued in (issue_to_server(old, ["a"], NOW), issue_to_client(old, "cr1", NOW)):
        (one,) = x509.load_pem_x509_certificates(issued.certificate)
        assert one.not_valid_after_utc <= parent.not_valid_after_utc
        assert not one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not one.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert parent.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def put(home: Path, *, issued_at: datetime) -> Settings:
    files = TlsFiles(home / "tls")
    files.folder.mkdir(parents=True)
    parent = make_authority("A", issued_at)
    issued = issue_to_server(parent, ["a"], issued_at)
    for file, content in (
        (files.authority, parent.certificate),
        (files.certificate, issued.certificate),
        (files.key, issued.key),
    ):
        file.write_bytes(content)
        file.chmod(0o600)
    (home / "hilum.toml").write_text('dicom_tls = "mutual"\nworkers = 1\n')
    return load_settings({"HILUM_HOME": str(home)})


@pytest.mark.parametrize(
    ("days", "state", "in_words"),
    [(30.5, "valid", ""), (29.5, "expires soon", "expires in 29 days"), (-1, "expired", "has expired")],
)
def test_a_certificate_that_ends_within_30_days_is_told_everywhere(
    home: Path, capsys: pytest.CaptureFixture[str], days: float, state: str, in_words: str
) -> None:
    settings = put(home, issued_at=NOW - timedelta(days=authority.SERVER_DAYS - days))
    shown, found = told(capsys)
    assert (shown, found["server.crt"]["state"]) == (int(state == "expired"), state)
    assert cli.main(["config", "check"]) == 0, "the node starts with it"
    assert (in_words in capsys.readouterr().err) is bool(in_words) or not in_words
    cli.main(["doctor", "--json"])
    checks = {
        c["text"]: c["state"] for c in json.loads(capsys.readouterr().out)["checks"] if c["name"] == "certificate"
    }
    (said,) = [text for text in checks if text.startswith("server.crt")]
    assert checks[said] == {"valid": "well", "expires soon": "warning", "expired": "wrong"}[state]
    left = seconds_left(settings, time.time())
    named = [p.code for p in problems(vitals(left))]
    assert named == (["certificate_expires"] if in_words else [])


def vitals(left: float | None) -> Vitals:
    return Vitals(
        ledger_error=None, free_mb=10_000, reserve_mb=500, worker_seen=True, worker_problem="", running_seconds=60.0,
        certificate_seconds=left,
    )  # fmt: skip


def test_a_node_without_what_its_settings_ask_for_does_not_start(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = put(home, issued_at=NOW)
    files = TlsFiles(settings.tls)
    other = issue_to_server(make_authority("B", NOW), ["b"], NOW)
    for damage, why in (
        (lambda: files.key.chmod(0o644), "can be read by others"),
        (lambda: (files.key.chmod(0o600), files.key.write_bytes(other.key)), "do not go together"),
        (files.key.unlink, "is missing"),
    ):
        damage()
        with pytest.raises(node.NodeFailed, match=why):
            node.start(settings)
        assert cli.main(["config", "check"]) == 1
        assert why in capsys.readouterr().err


def test_a_worker_elsewhere_trusts_the_site_s_authority_too(home: Path, tmp_path: Path) -> None:
    assert cli.main(["tls", "init", "a"]) == 0
    settings = load_settings({"HILUM_HOME": str(home)})
    assert http_trust(settings, "http://127.0.0.1:1") is True
    context = http_trust(settings, "https://a:8443")
    assert isinstance(context, ssl.SSLContext)
    subjects = [dict(x[0] for x in one["subject"]) for one in context.get_ca_certs()]
    assert {"commonName": "Hilum authority of a"} in subjects
    assert context.check_hostname
    (home / "tls" / "client.crt").write_text("nothing")
    with pytest.raises(TlsUnusable):
        http_trust(settings, "https://a:8443")

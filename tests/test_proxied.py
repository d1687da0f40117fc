"""Logging in by a proxy: the headers by which it tells who somebody is, and who is believed."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from orthanc_plugin.access import audit_files
from orthanc_plugin.access.accounts import Accounts
from orthanc_plugin.access.attempts import Attempts
from orthanc_plugin.access.audit import Audit
from orthanc_plugin.access.logins import Logins
from orthanc_plugin.access.roles import Action, Role
from orthanc_plugin.access.sessions import Sessions
from orthanc_plugin.credentials import Credentials, load_credentials
from orthanc_plugin.hosting import login
from orthanc_plugin.hosting.guard import Guard, Refusal
from orthanc_plugin.hosting.login import LoginPage
from orthanc_plugin.hosting.messages import Request
from orthanc_plugin.hosting.proxied import NO_PROXY, Proxied, Proxy, Unbelieved, proxy_of
from orthanc_plugin.hosting.trail import record_visit
from orthanc_plugin.settings import SettingsInvalid, load_settings

SECRET = "0123456789abcdef0123456789abcdef"
ROLES = (("readers", Role.RADIOLOGIST), ("Domain Admins", Role.ADMIN), ("staff", Role.TECHNOLOGIST))
PROXY = Proxy(SECRET, ROLES)


def said(user: str = "Anna.Schmidt@example.org", groups: str = "staff", secret: str = SECRET) -> dict[str, str]:
    return {"x-hilum-proxy-secret": secret, "x-hilum-user": user, "x-hilum-groups": groups}


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(logins(tmp_path), cookie="hilum", proxy=PROXY)


def logins(folder: Path) -> Logins:
    credentials = folder / "credentials.json"
    load_credentials(credentials)
    sessions = Sessions(folder / "sessions.sqlite", longest_seconds=3600, idle_seconds=3600)
    return Logins(Accounts(credentials, folder / "users.json"), sessions, Attempts())


@pytest.mark.parametrize(
    ("groups", "role"),
    [("readers", Role.RADIOLOGIST), ("staff,readers", Role.RADIOLOGIST), (" staff , other", Role.TECHNOLOGIST),
     ("Domain Admins", Role.ADMIN), ("domain admins", None), ("readers-of-news", None), ("", None), (",,", None),
     ("radiologist", None), ("worker", None)],
)  # fmt: skip
def test_the_first_group_that_the_site_names_counts_and_no_other_name_does(groups: str, role: Role | None) -> None:
    assert PROXY.who(said(groups=groups)) == Proxied("anna.schmidt@example.org", role)


@pytest.mark.parametrize("secret", ["", "wrong", SECRET[:-1], f"{SECRET} ", SECRET.upper(), "\u00e9" * 32])
def test_without_the_secret_nothing_is_believed(secret: str, guard: Guard) -> None:
    assert PROXY.who(said(secret=secret)) is Unbelieved.FORGED
    for path in ("/hilum/", "/dicom-web/studies", "/instances", "/hilum/login", "/"):
        assert guard.decide(Request(path, headers=said(secret=secret))).refusal is Refusal.NOT_THE_PROXY


@pytest.mark.parametrize("left_out", ["x-hilum-proxy-secret", "x-hilum-user"])
def test_a_part_of_the_headers_is_no_log_in(left_out: str, guard: Guard) -> None:
    headers = {name: value for name, value in said().items() if name != left_out}
    assert guard.decide(Request("/dicom-web/studies", headers=headers)).refusal is Refusal.NOT_THE_PROXY


def test_a_node_that_knows_no_proxy_refuses_whoever_claims_to_be_one() -> None:
    assert NO_PROXY.who(said()) is NO_PROXY.who(said(secret="")) is Unbelieved.FORGED
    assert NO_PROXY.who({"cookie": "hilum=1"}) is None


def test_a_proxy_that_names_nobody_leaves_the_log_in_to_the_node(guard: Guard) -> None:
    headers = {"x-hilum-proxy-secret": SECRET}
    assert guard.decide(Request("/dicom-web/studies", headers=headers)).refusal is Refusal.LOG_IN


@pytest.mark.parametrize(
    "user", ["hilum", "Hilum-Worker", "a b", "anna\x00", "<b>", "../x", "x" * 65, "-", "müller", "a;b", " "]
)
def test_a_name_that_nobody_can_have_or_the_node_itself_has_is_refused(user: str, guard: Guard) -> None:
    visit = guard.decide(Request("/dicom-web/studies", headers=said(user)))
    assert visit.refusal is Refusal.NOT_THE_PROXY


def test_whoever_has_no_group_of_the_site_gets_nothing(guard: Guard) -> None:
    for path in ("/hilum/", "/hilum/api/status", "/ohif/", "/dicom-web/studies", "/instances", "/hilum/admin"):
        visit = guard.decide(Request(path, headers=said(groups="others")))
        assert (visit.refusal, visit.visitor.who.name) == (Refusal.FORBIDDEN, "anna.schmidt@example.org")


def test_a_role_allows_what_it_allows_and_no_more(guard: Guard) -> None:
    visit = guard.decide(Request("/dicom-web/studies", headers=said(groups="readers")))
    assert (visit.refusal, visit.visitor.role, visit.action) == (None, Role.RADIOLOGIST, Action.VIEW_STUDY)
    assert guard.decide(Request("/instances", headers=said(groups="readers"))).refusal is Refusal.FORBIDDEN


def test_what_the_proxy_says_goes_before_a_cookie_or_a_password(guard: Guard, tmp_path: Path) -> None:
    admin: Credentials = load_credentials(tmp_path / "credentials.json")
    basic = base64.b64encode(f"{admin.user}:{admin.password}".encode()).decode()
    headers = {**said(groups="others"), "authorization": f"Basic {basic}"}
    assert guard.decide(Request("/instances", headers=headers)).refusal is Refusal.FORBIDDEN
    visit = guard.decide(Request("/instances", headers={"authorization": f"Basic {basic}"}))
    assert (visit.refusal, visit.visitor.who.name) == (None, admin.user)


def test_another_site_changes_nothing_for_somebody_whom_the_proxy_logs_in(guard: Guard) -> None:
    headers = {**said(groups="readers"), "host": "pacs", "sec-fetch-site": "cross-site", "origin": "https://evil"}
    assert guard.decide(Request("/hilum/mark", "POST", headers=headers)).refusal is Refusal.OTHER_SITE
    own = {**headers, "sec-fetch-site": "same-origin", "origin": "https://pacs"}
    assert guard.decide(Request("/hilum/mark", "POST", headers=own)).refusal is None
    # without Fetch Metadata and Origin it may be a form of another site: an old browser sends neither
    bare = {name: value for name, value in own.items() if not name.startswith(("sec-", "origin"))}
    assert guard.decide(Request("/hilum/mark", "POST", headers=bare)).refusal is Refusal.OTHER_SITE


def test_a_forged_request_is_answered_in_words_and_recorded(guard: Guard, tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", longest=1_000_000)
    audit.start()
    request = Request("/hilum/", headers={**said(secret="guess"), "accept": "text/html"}, address="10.0.0.9")
    visit = guard.decide_first(request)
    record_visit(audit, request, visit, lambda _level, _resource: [])
    answer = login.refuse(request, visit)
    audit.stop()
    assert answer.status == 403
    assert b"not believed" in answer.body
    assert SECRET.encode() not in answer.body
    (entry,) = audit_files.read(tmp_path / "audit")
    assert (entry["outcome"], entry["detail"], entry["address"]) == ("refused", "not_the_proxy", "10.0.0.9")
    assert "guess" not in str(entry)


def test_the_decision_for_one_person_is_never_given_to_another(guard: Guard) -> None:
    first = Request("/hilum/", headers=said(groups="readers"))
    assert guard.decide_first(first).visitor.role is Role.RADIOLOGIST
    other = replace(first, headers=said("bob", groups="others"))
    assert guard.decide(other).visitor.role is None


def test_log_out_leads_to_the_proxy_s(guard: Guard, tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", longest=1_000_000)
    page = LoginPage(logins(tmp_path), guard, audit, proxy_logout="/oauth2/sign_out")
    request = Request("/hilum/logout", "POST", headers=said(groups="readers"))
    visit = guard.decide(replace(request, headers={**request.headers, "x-requested-with": "x"}))
    answer = page.respond(replace(request, visitor=visit.visitor))
    assert answer.headers["Location"] == "/oauth2/sign_out"
    assert page.respond(Request("/hilum/logout", "POST")).headers["Location"] == "/hilum/login?left=yes"


@pytest.mark.parametrize(
    "line",
    ['proxy_secret = "short"', f'proxy_secret = "{"x" * 31} "', 'proxy_groups = ["readers"]',
     'proxy_groups = ["readers=worker"]', 'proxy_groups = ["=admin"]', 'proxy_groups = ["a=admin", "a=monitor"]',
     'proxy_logout = "https://evil"', 'proxy_logout = "//evil"', "proxy_secret = 1"],
)  # fmt: skip
def test_settings_that_would_open_a_door_by_mistake_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "hilum.toml").write_text(line)
    with pytest.raises(SettingsInvalid) as refused:
        load_settings({"HILUM_HOME": str(tmp_path)})
    assert "x" * 31 not in str(refused.value)


def test_the_proxy_is_the_one_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "hilum.toml").write_text('proxy_groups = ["readers=radiologist", "cn=it,ou=x=admin"]\n')
    with pytest.raises(SettingsInvalid, match="GROUP=ROLE"):
        load_settings({"HILUM_HOME": str(tmp_path)})
    (tmp_path / "hilum.toml").write_text('proxy_groups = ["readers=radiologist", "Domain Admins=admin"]\n')
    settings = load_settings({"HILUM_HOME": str(tmp_path), "HILUM_PROXY_SECRET_FILE": str(tmp_path / "secret")})
    assert SECRET not in repr(settings)
    assert SECRET not in repr(proxy_of(settings))
    assert proxy_of(settings).who(said(groups="Domain Admins")) == Proxied("anna.schmidt@example.org", Role.ADMIN)

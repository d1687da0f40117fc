"""Who is let in to what, as the filter decides it: every role, way in and kind of request; without Orthanc."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from orthanc_plugin.access import audit_files
from orthanc_plugin.access.accounts import Accounts, add_user
from orthanc_plugin.access.attempts import Attempts
from orthanc_plugin.access.audit import Audit
from orthanc_plugin.access.logins import Logins
from orthanc_plugin.access.roles import ALLOWED, ROLES_OF_PEOPLE, Action, Role
from orthanc_plugin.access.sessions import Sessions
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.hosting import login
from orthanc_plugin.hosting.guard import Guard, Refusal, Visit
from orthanc_plugin.hosting.login import LoginPage, way_back
from orthanc_plugin.hosting.messages import Request, Response
from orthanc_plugin.hosting.trail import record_visit, tells_its_study

PASSWORD = "correct horse battery"
HOST = "node:8042"
OWN = {"host": HOST, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin", "accept": "text/html,*/*"}
HOUR = 3600.0
STUDY = "1.2.840.99"
ORTHANC_ID = "0123abcd-0123abcd-0123abcd-0123abcd-0123abcd"


@dataclass
class House:
    """A guard and its log-in page, with a user of each role and a clock that stands still."""

    accounts: Accounts
    guard: Guard
    page: LoginPage
    audit: Audit
    folder: Path
    own: dict[Role, tuple[str, str]]
    now: list[float]

    def post(self, name: str, password: str, *, headers: dict[str, str] | None = None, way: str = "") -> Response:
        body = urlencode({"name": name, "password": password, "next": way}).encode()
        request = Request("/hilum/login", "POST", headers=OWN if headers is None else headers, body=body)
        return self.answered(request)

    def answered(self, request: Request) -> Response:
        visit = self.guard.decide(request)
        if visit.refusal is not None:
            return login.refuse(request, visit)
        return self.page.respond(replace(request, visitor=visit.visitor))

    def cookie(self, name: str) -> str:
        """That of a session which began without its 100 ms."""
        account = self.accounts.find(name)
        assert account is not None
        return f"{self.guard.cookie}={self.page.logins.begin(account, self.now[0])}"

    def decide(self, path: str, method: str = "GET", **headers: str) -> Visit:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.guard.decide_first(Request(path, method, headers={"host": HOST, **given}, address="127.0.0.1"))

    def recorded(self) -> list[tuple[str, str, str, str, str]]:
        self.audit.stop()
        named = ("who", "action", "study", "outcome", "detail")
        return [tuple(entry[name] for name in named) for entry in audit_files.read(self.folder)]  # type: ignore[misc]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Accounts: argon2 is slow on purpose, so they are made once."""
    home = tmp_path_factory.mktemp("accounts")
    load_credentials(home / "credentials.json")
    for role in ROLES_OF_PEOPLE:
        add_user(home / "users.json", f"{role}.one", role, PASSWORD, taken=frozenset())
    return home


@pytest.fixture
def house(files: Path, tmp_path: Path) -> Iterator[House]:
    now = [1000.0]
    sessions = Sessions(tmp_path / "sessions.sqlite", longest_seconds=12 * HOUR, idle_seconds=HOUR)
    accounts = Accounts(files / "credentials.json", files / "users.json")
    logins = Logins(accounts, sessions, Attempts())
    guard = Guard(logins, cookie="hilum_8042", clock=lambda: now[0])
    audit = Audit(tmp_path / "audit", longest=1_000_000, clock=lambda: now[0])
    audit.start()
    credentials = load_credentials(files / "credentials.json")
    own = {
        Role.ADMIN: (credentials.user, credentials.password),
        Role.WORKER: (credentials.worker_user, credentials.worker_password),
    }
    page = LoginPage(logins, guard, audit, clock=lambda: now[0])
    yield House(accounts, guard, page, audit, tmp_path / "audit", own, now)
    audit.stop()


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# what there is below Orthanc's port, and what it needs
ROUTES: list[tuple[str, str, Action | None]] = [
    ("GET", "/", None),
    ("GET", "/hilum/login", None),
    ("GET", "/hilum/static/login.css", None),
    ("GET", "/hilum", Action.VIEW_WORKLIST),
    ("GET", "/hilum/rows", Action.VIEW_WORKLIST),
    ("GET", "/hilum/thumbnails/1.2", Action.VIEW_WORKLIST),
    ("GET", "/hilum/loginx", Action.VIEW_WORKLIST),
    ("GET", "/hilum/login/../rows", Action.VIEW_WORKLIST),
    ("GET", "/hilum/staticx", Action.VIEW_WORKLIST),
    ("GET", "/hilum/api/status", Action.VIEW_STATUS),
    ("GET", "/hilum/metrics", Action.VIEW_METRICS),
    ("GET", "/hilum/metrics/x", Action.VIEW_WORKLIST),
    ("POST", "/hilum/api/retry", Action.RETRY),
    ("GET", "/ohif", Action.VIEW_STUDY),
    ("GET", "/ohif/viewer", Action.VIEW_STUDY),
    ("GET", "/dicom-web/studies", Action.VIEW_STUDY),
    ("GET", f"/dicom-web/studies/{STUDY}/metadata", Action.VIEW_STUDY),
    ("GET", "/wado", Action.VIEW_STUDY),
    ("POST", "/dicom-web/studies", Action.STORE),
    ("DELETE", f"/dicom-web/studies/{STUDY}", Action.STORE),
    ("POST", "/wado", Action.STORE),
    ("GET", "/dicom-web/servers", Action.ORTHANC),
    ("POST", "/dicom-web/servers/x/stow", Action.ORTHANC),
    ("GET", "/dicom-web", Action.ORTHANC),
    ("GET", "/dicom-web/studiesx", Action.ORTHANC),
    ("GET", "/dicom-webstudies", Action.ORTHANC),
    ("GET", "/instances", Action.ORTHANC),
    ("POST", "/instances", Action.ORTHANC),
    ("DELETE", f"/studies/{ORTHANC_ID}", Action.ORTHANC),
    ("PUT", "/modalities/x", Action.ORTHANC),
    ("POST", "/tools/execute-script", Action.ORTHANC),
    ("GET", "/app/explorer.html", Action.ORTHANC),
    ("GET", "/plugins", Action.ORTHANC),
    ("GET", "/hilumx", Action.ORTHANC),
    ("GET", "/ohifx/viewer", Action.ORTHANC),
    ("GET", "/HILUM/rows", Action.ORTHANC),
    ("GET", "", Action.ORTHANC),
    ("GET", "hilum/login", Action.ORTHANC),
    ("GET", "/nothing/known", Action.ORTHANC),
]


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
def test_every_route_and_role_is_decided_by_the_table(
    house: House, method: str, path: str, action: Action | None
) -> None:
    programs = {role: {"authorization": basic(*pair)} for role, pair in house.own.items()}
    ways: list[tuple[Role | None, dict[str, str]]] = [(None, {}), *programs.items()]
    for role in ROLES_OF_PEOPLE:
        ways.append((role, {"cookie": house.cookie(f"{role}.one"), "x_requested_with": "x"}))
    for role, headers in ways:
        visit = house.decide(path, method, **headers)
        allowed = action is None or (role is not None and action in ALLOWED[role])
        assert (visit.refusal is None) is allowed, (role, visit)
        assert visit.visitor.role is role


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ", "Basic !!!", "Basic aGlsdW0=", "Bearer x", basic("hilum", ""), basic("", ""),
     basic("hilum", "wrong"), basic("x" * 10_000, "y" * 10_000), basic("hilum\r\nX: y", "\x00"),
     "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(), basic("радиолог", "пароль")],
)  # fmt: skip
def test_a_password_that_is_wrong_is_refused_even_beside_a_session(house: House, header: str, method: str) -> None:
    cookie = house.cookie("admin.one")
    for path in ("/instances", "/dicom-web/studies", "/ohif", "/hilum"):
        assert house.decide(path, method, authorization=header).refusal in (Refusal.WRONG_PASSWORD, Refusal.TOO_MANY)
        assert house.decide(path, method, authorization=header, cookie=cookie).refusal is not None


@pytest.mark.parametrize(
    "cookie",
    ["", "hilum_8042=", "hilum_8042", "hilum_8043=x", "hilum_8042=x" * 1000, 'hilum_8042="', "\x00",
     "a=b; hilum_8042=é", "hilum_8042=../../x", "=;=;="],
)  # fmt: skip
def test_a_cookie_that_is_none_of_ours_opens_nothing(house: House, cookie: str) -> None:
    assert house.decide("/dicom-web/studies", cookie=cookie).refusal is Refusal.LOG_IN


def test_cookies_of_other_programs_of_this_machine_do_no_harm(house: House) -> None:
    ours = house.cookie("radiologist.one")
    jar = f'a={{"x": [1, "y"]}}; b="; c; =; d=é, ü;{ours};e=\x7f'
    assert house.decide("/dicom-web/studies", cookie=jar).refusal is None


def test_the_cookie_is_what_it_must_be(house: House) -> None:
    answer = house.post("radiologist.one", PASSWORD)
    name, *flags = answer.headers["Set-Cookie"].split("; ")
    assert name.startswith("hilum_8042=")
    assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Lax"]
    secure = house.post("radiologist.one", PASSWORD, headers={**OWN, "x-forwarded-proto": "https"})
    assert "Secure" in secure.headers["Set-Cookie"].split("; ")
    assert answer.headers["Cache-Control"] == "no-store"


def test_each_log_in_has_a_token_of_its_own_and_ends_the_one_before(house: House) -> None:
    first = house.cookie("radiologist.one")
    again = house.post("radiologist.one", PASSWORD, headers={**OWN, "cookie": first})
    second = again.headers["Set-Cookie"].partition(";")[0]
    assert first != second
    assert house.decide("/ohif", cookie=first).refusal is Refusal.LOG_IN
    assert house.decide("/ohif", cookie=second).refusal is None
    forced = house.post("radiologist.one", PASSWORD, headers={**OWN, "cookie": "hilum_8042=mine"})
    assert "mine" not in forced.headers["Set-Cookie"], "nobody can be given a session that somebody else knows"


def test_log_out_ends_the_session_and_takes_what_the_browser_kept(house: House) -> None:
    cookie = house.cookie("radiologist.one")
    answer = house.answered(Request("/hilum/logout", "POST", headers={**OWN, "cookie": cookie}))
    assert (answer.status, answer.headers["Location"]) == (303, "/hilum/login?left=yes")
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert '"cache"' in answer.headers["Clear-Site-Data"]
    assert house.decide("/ohif", cookie=cookie).refusal is Refusal.LOG_IN
    assert house.recorded()[-1][:2] == ("radiologist.one", "log_out")


def test_a_link_logs_nobody_out(house: House) -> None:
    cookie = house.cookie("radiologist.one")
    house.answered(Request("/hilum/logout", "GET", headers={**OWN, "cookie": cookie}))
    assert house.decide("/ohif", cookie=cookie).refusal is None


def test_a_page_that_refreshes_itself_keeps_nobody_logged_in(house: House) -> None:
    cookie = house.cookie("radiologist.one")
    for minutes in range(0, 62, 2):
        house.now[0] = 1000.0 + minutes * 60
        visit = house.decide("/hilum/rows", cookie=cookie)
    assert visit.refusal is None
    house.now[0] += 120
    assert house.decide("/hilum/rows", cookie=cookie).refusal is Refusal.LOG_IN


def test_who_reads_stays_logged_in(house: House) -> None:
    cookie = house.cookie("radiologist.one")
    for minutes in range(0, 11 * 60, 50):
        house.now[0] = 1000.0 + minutes * 60
        assert house.decide("/dicom-web/studies", cookie=cookie).refusal is None


SITES = ("cross-site", "same-site")


@pytest.mark.parametrize(("method", "path", "action"), [route for route in ROUTES if route[0] != "GET"])
def test_another_site_changes_nothing(house: House, method: str, path: str, action: Action | None) -> None:
    cookie, program = house.cookie("admin.one"), basic(*house.own[Role.ADMIN])
    ways: list[dict[str, str]] = [{"sec_fetch_site": site} for site in (*SITES, "none", "")]
    ways += [{"origin": origin} for origin in ("http://other.example", "null", "http://node:9000", "https://node", "")]
    ways += [{"x_http_method_override": "DELETE", "x_requested_with": "x"}]
    for headers in ways:
        for way_in in ({"cookie": cookie}, {"authorization": program}):
            visit = house.decide(path, method, **headers, **way_in)
            assert visit.refusal is Refusal.OTHER_SITE, (headers, way_in)
    assert house.decide(path, method, cookie=cookie).refusal is Refusal.OTHER_SITE, "a browser that says nothing"
    assert house.decide(path, method, authorization=program).refusal is None, "a program need not"


def test_another_site_may_link_and_not_embed(house: House) -> None:
    cookie = house.cookie("radiologist.one")
    for path, site in itertools.product(("/hilum", "/ohif/viewer", "/dicom-web/studies"), SITES):
        link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
        assert house.decide(path, cookie=cookie, **link).refusal is None
        for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")):
            embedded = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": dest}
            assert house.decide(path, cookie=cookie, **embedded).refusal is Refusal.OTHER_SITE


@pytest.mark.parametrize("origin", ["http://other.example", "null", f"http://{HOST}.other.example", "http://node:9000"])
def test_another_site_logs_nobody_in(house: House, origin: str) -> None:
    answer = house.post("radiologist.one", PASSWORD, headers={"host": HOST, "origin": origin})
    assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize(
    "wanted",
    ["", "http://other.example/", "//other.example/", "/\\other.example", "\\\\other.example", "/hilum\\..\\x",
     "javascript:alert(1)", "/hilum/\r\nSet-Cookie: x=1", "/hilum/login", "/hilum/login?next=/hilum/login",
     "/hilum/logout", "/instances", "/hilumx", "/ohif.other.example", "hilum/", " /hilum/", "/hilum/../instances",
     "/hilum/\u0000", "/ohif/\u202e", "/ohif/" + "x" * 3000, "https:/hilum/", "/%2F%2Fother.example", "/hilum@other"],
)  # fmt: skip
def test_the_way_back_leads_nowhere_else(house: House, wanted: str) -> None:
    assert way_back(wanted) == "/hilum/"
    assert house.post("radiologist.one", PASSWORD, way=wanted).headers["Location"] == "/hilum/"


@pytest.mark.parametrize(
    "wanted", ["/hilum", "/hilum/", "/hilum/?q=a%20b", "/ohif/viewer?StudyInstanceUIDs=1.2.3&x=https://other.example/"]
)
def test_the_way_back_leads_to_what_was_wanted(house: House, wanted: str) -> None:
    assert house.post("radiologist.one", PASSWORD, way=wanted).headers["Location"] == wanted


def refusal(house: House, path: str, query: dict[str, str] | None = None, **headers: str) -> Response:
    given = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(path, "GET", query or {}, given)
    return login.refuse(request, house.guard.decide(request))


def test_a_person_is_led_to_the_log_in_page_and_a_program_is_challenged(house: House) -> None:
    person = refusal(
        house, "/ohif/viewer", {"StudyInstanceUIDs": "1.2.3"}, accept="text/html", sec_fetch_mode="navigate"
    )
    assert person.status == 303
    assert person.headers["Location"] == "/hilum/login?next=%2Fohif%2Fviewer%3FStudyInstanceUIDs%3D1.2.3"
    program = refusal(house, "/hilum/api/status")
    assert (program.status, program.headers["WWW-Authenticate"][:11]) == (401, "Basic realm")
    script = refusal(house, "/hilum/rows", accept="*/*", sec_fetch_mode="cors")
    assert (script.status, "WWW-Authenticate" in script.headers) == (401, False), "no window of the browser's own"


def test_a_wrong_name_and_a_wrong_password_are_answered_alike(house: House) -> None:
    wrong, unknown = house.post("radiologist.one", "wrong password"), house.post("nobody", "wrong password")
    worker = house.post(*house.own[Role.WORKER])
    assert wrong == unknown == worker
    assert wrong.status == 403
    assert "Set-Cookie" not in wrong.headers


def test_a_password_that_is_typed_as_the_name_is_not_written_down(house: House) -> None:
    house.post(PASSWORD, "radiologist.one")
    house.post("radiologist.one", "wrong password")
    house.decide("/hilum", authorization=basic("my secret", "x"))
    record_visit(house.audit, Request("/hilum"), house.decide("/hilum", authorization=basic("my secret", "x")), str)
    assert {entry[0] for entry in house.recorded()} == {"", "radiologist.one"}
    assert "secret" not in "".join(path.read_text() for path in house.folder.glob("*.log"))


def test_after_some_wrong_passwords_the_page_asks_for_patience(house: House) -> None:
    answers = [house.post("radiologist.one", "wrong password") for _ in range(8)]
    assert [answer.status for answer in answers] == [403] * 5 + [503] * 3
    seconds = int(answers[-1].headers["Retry-After"])
    assert f"{seconds} s" in answers[-1].body.decode()
    house.now[0] += seconds
    assert house.post("radiologist.one", PASSWORD).status == 303
    assert [entry[3] for entry in house.recorded()] == ["refused"] * 6 + ["done"], "a flood is one entry"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "x" * 5000, "a\r\nSet-Cookie: x=1", "\u202egnp", "%00"])
def test_a_hostile_name_comes_back_nowhere(house: House, name: str) -> None:
    answer = house.post(name, "wrong password", way='"><script>alert(1)</script>')
    assert b"<script" not in answer.body
    assert set(answer.headers) == set(login._HEADERS)
    assert all("\r" not in value and "\n" not in value for value in answer.headers.values())


def test_a_form_that_is_no_form_is_refused_calmly(house: House) -> None:
    for body in (b"", b"\xff" * 100, b"name=" + b"x" * 100_000, b"&" * 5000, b"name=a&name=b&password=c"):
        answer = house.answered(Request("/hilum/login", "POST", headers=OWN, body=body))
        assert answer.status in (403, 413)


@pytest.mark.parametrize(
    ("peer", "forwarded", "told"),
    [
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "10.0.0.9", "10.0.0.9"),
        ("127.0.0.1", "1.1.1.1, 10.0.0.9", "10.0.0.9"),
        ("10.0.0.5", "10.0.0.9", "10.0.0.5"),
        ("127.0.0.1", "Mustermann", "127.0.0.1"),
        ("127.0.0.1", "::1", "::1"),
        ("", "10.0.0.9", ""),
    ],
)
def test_the_address_is_the_proxys_word_only_on_this_machine(
    house: House, peer: str, forwarded: str, told: str
) -> None:
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    visit = house.guard.decide(Request("/hilum", headers=headers, address=peer))
    assert visit.visitor.who.address == told


def test_what_the_filter_decided_is_never_told_to_another_request(house: House) -> None:
    cookie = house.cookie("admin.one")
    house.decide("/hilum", cookie=cookie)
    assert house.guard.decide(Request("/hilum", headers={"host": HOST})).refusal is Refusal.LOG_IN
    house.decide("/hilum", cookie=cookie)
    assert house.guard.decide(Request("/ohif", headers={"host": HOST, "cookie": "x=y"})).refusal is Refusal.LOG_IN


def trail(house: House, method: str, path: str, query: dict[str, str] | None = None, **headers: Any) -> None:
    """What the filter does with a request of an admin."""
    given = {"host": HOST, "cookie": house.cookie("admin.one"), "x-requested-with": "x", **headers}
    request = Request(path, method, query or {}, given, address="127.0.0.1")
    record_visit(house.audit, request, house.guard.decide_first(request), lambda level, name: [f"9.{len(level)}"])


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", f"/dicom-web/studies/{STUDY}/series", {}, ("view_study", STUDY, "")),
        ("GET", "/dicom-web/studies", {"StudyInstanceUID": STUDY}, ("view_study", STUDY, "")),
        ("GET", "/dicom-web/studies", {"PatientName": "Muster*"}, ("search", "", "")),
        ("GET", "/wado", {"studyUID": STUDY}, ("view_study", STUDY, "")),
        ("POST", f"/dicom-web/studies/{STUDY}", {}, ("store", STUDY, "POST")),
        ("DELETE", f"/dicom-web/studies/{STUDY}", {}, ("store", STUDY, "DELETE")),
        ("GET", f"/instances/{ORTHANC_ID}/file", {}, ("view_study", "9.9", "")),
        ("DELETE", f"/studies/{ORTHANC_ID}", {}, ("orthanc", "9.7", "DELETE studies")),
        ("GET", "/dicom-web/series", {"0020000d": STUDY}, ("view_study", STUDY, "")),
        ("GET", "/patients", {}, ("search", "", "Orthanc: patients")),
        ("GET", f"/patients/{ORTHANC_ID}/archive", {}, ("view_study", "9.8", "")),
        ("POST", "/tools/find", {}, ("search", "", "Orthanc: tools/find")),
        ("POST", "/tools/reset", {}, ("orthanc", "", "POST tools/reset")),
        ("POST", "/tools/create-archive", {}, ("orthanc", "", "POST tools/create-archive")),
        ("GET", "/tools/create-archive", {"resources": "x"}, ("orthanc", "", "GET tools/create-archive")),
        ("POST", "/tools/Mustermann^Max", {}, ("orthanc", "", "POST other")),
        ("GET", "/Mustermann^Max", {}, ("search", "", "Orthanc: other")),
    ],
)
def test_what_is_seen_and_changed_is_recorded_without_a_patient(
    house: House, method: str, path: str, query: dict[str, str], expected: tuple[str, str, str]
) -> None:
    trail(house, method, path, query)
    trail(house, method, path, query)
    found = house.recorded()
    once = (method == "GET" and "create" not in path) or path == "/tools/find"
    times = 1 if once else 2
    assert found == [("admin.one", expected[0], expected[1], "done", expected[2])] * times
    assert "uster" not in "".join(path.read_text() for path in house.folder.glob("*.log"))


@pytest.mark.parametrize("between", [",", "\\"])
def test_each_study_of_a_question_is_recorded(house: House, between: str) -> None:
    trail(house, "GET", "/dicom-web/series", {"StudyInstanceUID": f"{STUDY}{between}1.2.4{between}{STUDY}"})
    views = [("admin.one", "view_study", study, "done", "") for study in (STUDY, "1.2.4")]
    assert house.recorded() == views


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"objectUID": "1.2.9"}, False),
        ({"objectUID": "1.2.9", "studyUID": ""}, False),
        ({"objectUID": "1.2.9", "StudyInstanceUID": STUDY}, False),
        ({"objectUID": "1.2.9", "studyUID": "1.2.4"}, False),
        ({"objectUID": "", "studyUID": STUDY}, False),
        ({"objectUID": "1.2.9", "studyUID": STUDY}, True),
        ({"objectUID": "1.2.8", "studyUID": STUDY}, False),  # it is not there: no study is seen
    ],
)
def test_what_is_asked_by_wado_uri_names_its_study(query: dict[str, str], told: bool) -> None:
    request = Request("/wado", query={"requestType": "WADO", **query})
    assert tells_its_study(request, lambda uid: STUDY if uid == "1.2.9" else "") is told


@pytest.mark.parametrize(
    "path", ["/ohif/app.js", "/system", "/app/explorer.html", "/hilum/rows", "/hilum/thumbnails/1"]
)
def test_what_shows_no_study_is_not_recorded_by_the_filter(house: House, path: str) -> None:
    trail(house, "GET", path)
    assert house.recorded() == []


def test_what_a_role_was_refused_is_recorded(house: House) -> None:
    cookie = house.cookie("technologist.one")
    request = Request("/instances", headers={"host": HOST, "cookie": cookie}, address="127.0.0.1")
    for _ in range(3):
        record_visit(house.audit, request, house.guard.decide_first(request), str)
    assert house.recorded() == [("technologist.one", "orthanc", "", "refused", "forbidden")]

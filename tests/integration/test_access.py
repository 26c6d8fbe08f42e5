"""Who may do what, on a real Orthanc: each route of ours, Orthanc's own REST, and DICOMweb."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import find
from hypothesis import strategies as st

from coread.access import Role
from coread.audit.event import AuditKind
from coread.errors import ConfigurationError
from coread.ledger import Ledger
from coread.plugin import service
from coread.plugin.denials import EVERY, KINDS, Denial, Denials
from coread.plugin.gate import Gate
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.orthanc_at_start import OrthancAtStart
from tests.support import NOW, program

USERS = """
[access]
proxy_secret = "proxy-secret"
proxy_user_header = "Remote-User"
proxy_roles_header = "Remote-Groups"
proxy_roles = { radiologists = "reviewer" }
hosts = ["reader.hospital.example"]
[access.users.mona]
role = "monitor"
password = "mona-secret"
[access.users.ruth]
password = "ruth-secret"
[access.users.vera]
role = "reviewer"
name = "Verdi^Vera"
password = "vera-secret"
[access.users.adam]
role = "admin"
password = "adam-secret"
"""
OPEN = """
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
{more}
[worker]
processes = 0
"""
LOGINS = {
    Role.MONITOR: ("mona", "mona-secret"),
    Role.READER: ("ruth", "ruth-secret"),
    Role.REVIEWER: ("vera", "vera-secret"),
    Role.ADMIN: ("adam", "adam-secret"),
}
A_STUDY = "/studies/00000000-00000000-00000000-00000000-00000000"
JSON = {"Content-Type": "application/json"}
EVIL = {"Origin": "https://evil.example"}


def test_routes_and_roles_are_known(routes: dict[str, dict[str, Role]]) -> None:
    """Nobody changes anything without being a reviewer, and what is for admins stays so."""
    changing = {(path, method): role for path, of in routes.items() for method, role in of.items() if method != "GET"}
    assert len(changing) >= 5
    assert [what for what, role in changing.items() if role in (Role.MONITOR, Role.READER)] == []
    assert {path for path, of in routes.items() if Role.MONITOR in of.values()} == {
        "/coread/health",
        "/coread/health/live",
        "/coread/health/ready",
        "/coread/metrics",
    }
    assert routes["/coread/audit"] == {"GET": Role.ADMIN}
    assert routes["/coread/ledger/([a-z_]+)"] == {"POST": Role.ADMIN}


@pytest.mark.parametrize(
    "path", ["archive/runs", "audit", "health", "jobs", "metrics", "openapi\\.json", "ui", "worklist"]
)
def test_the_routes_that_are_tried_are_all_that_there_are(routes: dict[str, dict[str, Role]], path: str) -> None:
    """The fixture itself looks that nothing was registered beside the gate."""
    assert f"/coread/{path}" in routes
    assert "/dicom-web/workitems" in routes


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Role]]:
    """Path → method → role of all that the plugin registers when it starts, in whatever way."""
    (tmp_path / "coread.toml").write_text(OPEN.format(more=""))
    monkeypatch.setenv("COREAD_CONFIG", str(tmp_path / "coread.toml"))
    monkeypatch.setattr("sys.setswitchinterval", lambda _seconds: None)
    gates: list[Gate] = []

    def remember(*arguments: Any, **more: Any) -> Gate:
        gates.append(Gate(*arguments, **more))
        return gates[0]

    monkeypatch.setattr(service, "Gate", remember)
    orthanc = OrthancAtStart()
    service.start(orthanc)
    assert [path for path, _callback in orthanc.registered] == list(gates[0].routes), "each through the gate"
    assert orthanc.asked["RegisterIncomingHttpRequestFilter"] == 1
    return {path: dict(of) for path, of in gates[0].routes.items()}


def example_of(pattern: str) -> str:
    """The simplest path that a route takes."""
    path: str = find(st.from_regex(pattern, fullmatch=True), lambda _path: True)
    return path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """An Orthanc with people."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "coread.toml").write_text(OPEN.format(more='password = "coread-secret"') + USERS)
    with Supervisor(load_settings(folder / "coread.toml"), settings_file=folder / "coread.toml") as running:
        yield running


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """An Orthanc that asks nobody."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("unguarded")
    (folder / "coread.toml").write_text(OPEN.format(more="") + '[access]\nhosts = ["reader.hospital.example"]\n')
    with Supervisor(load_settings(folder / "coread.toml"), settings_file=folder / "coread.toml") as running:
        yield running


def ask(
    running: Supervisor, method: str, path: str, login: tuple[str, str] | None = None, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body: dict[str, str] | None = {} if method in ("POST", "PUT") else None
    url = f"{running.http_url}{path}"
    return httpx.request(method, url, json=body, auth=login, headers=named, trust_env=False, timeout=60)


def test_each_route_asks_who_it_is_and_lets_in_who_may(guarded: Supervisor, routes: dict[str, dict[str, Role]]) -> None:
    for pattern, of in routes.items():
        path = example_of(pattern)
        for method, needed in of.items():
            assert ask(guarded, method, path).status_code == 401, (method, path)
            assert ask(guarded, method, path, ("ruth", "guessed")).status_code == 401, (method, path)
            for role, login in LOGINS.items():
                is_refused = ask(guarded, method, path, login).status_code in (401, 403)
                assert is_refused != role.includes(needed), (method, path, role)
            if method != "GET":
                refused = ask(guarded, method, path, LOGINS[Role.ADMIN], origin="https://evil.example")
                assert refused.status_code == 403, (method, path)
                assert "another site" in refused.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/studies", Role.READER),
        ("GET", "/dicom-web/studies?limit=1", Role.READER),
        ("POST", "/tools/find", Role.READER),
        ("POST", "/dicom-web/studies", Role.REVIEWER),
        ("POST", "/instances", Role.ADMIN),
        ("POST", "/tools/execute-script", Role.ADMIN),
        ("POST", "/modalities/nowhere/store", Role.ADMIN),
        ("PUT", "/modalities/nowhere", Role.ADMIN),
        ("DELETE", A_STUDY, Role.ADMIN),
        ("GET", A_STUDY + "?_method=DELETE", Role.ADMIN),
        ("DELETE", "/modalities/nowhere", Role.ADMIN),
        ("POST", "//tools/../tools/execute-script/", Role.ADMIN),
    ],
)
def test_what_orthanc_itself_offers_is_guarded(guarded: Supervisor, method: str, path: str, needed: Role) -> None:
    assert ask(guarded, method, path).status_code == 401
    for role, login in LOGINS.items():
        is_refused = ask(guarded, method, path, login).status_code == 403
        # Orthanc itself lets nobody run scripts unless it is told to.
        if role.includes(needed) and "execute-script" in path:
            continue
        assert is_refused != role.includes(needed), role
    if ask(guarded, "GET", path.partition("?")[0], LOGINS[Role.ADMIN]).url.query or needed is Role.ADMIN:
        refused = ask(guarded, method, path, LOGINS[Role.ADMIN], sec_fetch_site="cross-site")
        assert refused.status_code == 403


def test_everybody_learns_who_they_are(guarded: Supervisor) -> None:
    assert ask(guarded, "GET", "/coread/me", LOGINS[Role.REVIEWER]).json() == {
        "user": "vera",
        "name": "Verdi^Vera",
        "role": "reviewer",
        "may": ["look", "review", "change"],
    }
    assert ask(guarded, "GET", "/coread/me", LOGINS[Role.READER]).json()["may"] == ["look"]


def test_a_proxy_says_who_somebody_is_and_nobody_else_does(guarded: Supervisor) -> None:
    said = {"Remote_User": "rosa", "Remote_Groups": "staff, radiologists"}
    rosa = ask(guarded, "GET", "/coread/me", ("coread-proxy", "proxy-secret"), **said).json()
    assert (rosa["user"], rosa["role"]) == ("rosa", "reviewer")
    assert ask(guarded, "GET", "/coread/me", ("coread-proxy", "guessed"), **said).status_code == 401
    assert ask(guarded, "GET", "/coread/me", LOGINS[Role.READER], **said).json()["user"] == "ruth"
    for path in ("/coread/me", "/studies"):
        assert ask(guarded, "GET", path, ("coread-proxy", "proxy-secret")).status_code == 403, "it names nobody"
    behind = {"Origin": "https://coread.example", "X_Forwarded_Host": "coread.example", "Remote_User": "adam"}
    assert ask(guarded, "DELETE", A_STUDY, ("coread-proxy", "proxy-secret"), **behind).status_code == 404
    assert ask(guarded, "DELETE", A_STUDY, LOGINS[Role.ADMIN], **behind).status_code == 403


def test_workers_and_the_command_line_sign_in_as_before(guarded: Supervisor) -> None:
    assert ask(guarded, "POST", "/coread/ledger/jobs", ("coread", "coread-secret")).status_code == 400
    assert ask(guarded, "GET", "/coread/audit", ("coread", "coread-secret")).is_success


def test_a_program_that_is_asked_for_nothing_may_do_anything(unguarded: Supervisor) -> None:
    assert ask(unguarded, "GET", "/coread/me").json()["role"] == "admin"
    assert ask(unguarded, "DELETE", A_STUDY).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", A_STUDY),
        ("GET", A_STUDY + "?_method=delete"),
        ("POST", "/tools/find"),
        ("POST", "/coread/jobs/0/retry"),
    ],
)
def test_a_page_of_another_site_changes_nothing_where_nobody_is_asked(
    unguarded: Supervisor, method: str, path: str
) -> None:
    ours = unguarded.http_url
    assert ask(unguarded, method, path, sec_fetch_site="cross-site").status_code == 403
    assert ask(unguarded, method, path, origin="https://evil.example").status_code == 403
    assert ask(unguarded, method, path, user_agent="Mozilla/5.0").status_code == 403
    assert ask(unguarded, method, path, origin=ours, user_agent="Mozilla/5.0").status_code != 403
    assert ask(unguarded, method, path, sec_fetch_site="same-origin", user_agent="Mozilla/5.0").status_code != 403


@pytest.mark.parametrize("path", ["/studies", "/coread/jobs", "/dicom-web/studies", "/app/explorer.html"])
def test_a_name_that_leads_here_by_rebinding_is_refused(unguarded: Supervisor, path: str) -> None:
    port = unguarded.settings.orthanc.http_port
    assert ask(unguarded, "GET", path, host=f"evil.example:{port}").status_code == 403
    for name in ("localhost", "127.0.0.1", "reader.hospital.example"):
        assert ask(unguarded, "GET", path, host=f"{name}:{port}").is_success


def test_where_people_sign_in_any_name_of_the_machine_will_do(guarded: Supervisor) -> None:
    assert ask(guarded, "GET", "/studies", LOGINS[Role.READER], host="whatever.example").is_success


def test_answers_tell_browsers_to_keep_and_guess_nothing(unguarded: Supervisor) -> None:
    headers = ask(unguarded, "GET", "/coread/jobs").headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(unguarded, "GET", "/coread/jobs/0").headers["X-Content-Type-Options"] == "nosniff"


def test_what_a_form_can_send_is_no_body(unguarded: Supervisor) -> None:
    url = f"{unguarded.http_url}/coread/ledger/job"
    answer = httpx.post(url, content='{"job_id": "a"}', headers={"Content-Type": "text/plain"}, trust_env=False)
    assert answer.status_code == 415


@pytest.mark.parametrize("levels", [700, 200_000])
def test_no_nesting_of_what_is_sent_ends_orthanc(guarded: Supervisor, levels: int) -> None:
    """Its HTTP threads have a small stack."""
    place = base64.urlsafe_b64encode(b"[" * 700).decode()
    with httpx.Client(base_url=guarded.http_url, trust_env=False, timeout=60) as http:
        assert http.get("/coread/worklist", params={"after": place}, auth=LOGINS[Role.READER]).status_code == 400
        for path, status in (("/coread/ledger/jobs", 400), ("/dicom-web/workitems", 413)):
            sent = http.post(path, content=b"[" * levels, headers=JSON, auth=LOGINS[Role.ADMIN])
            assert sent.status_code == status


def test_what_nobody_foresaw_is_answered_and_quoted_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    registered: dict[str, Callable[..., None]] = {}
    gate = Gate(SimpleNamespace(RegisterRestCallback=registered.__setitem__), asks_users=False)

    def fails(_output: Any, _url: str, **_request: Any) -> None:
        raise LookupError("Curie^Marie")

    gate.route("/coread/odd", GET=(Role.READER, fails))
    sent: list[Any] = []
    output = SimpleNamespace(SetHttpHeader=lambda *_: None, SendHttpStatus=lambda *said: sent.extend(said))
    registered["/coread/odd"](output, "/coread/odd", method="GET", headers={}, groups=())
    assert sent[0] == 500
    said = f"{sent} {capsys.readouterr()}"
    assert "LookupError" in said
    assert "Curie" not in said


def test_refused_requests_stand_in_the_audit_trail_once(guarded: Supervisor) -> None:
    ledger = Ledger(guarded.settings.ledger_url)
    for _ in range(20):
        assert ask(guarded, "GET", "/coread/audit", ("ruth", "ruth-secret")).status_code == 403

    def told() -> list[Any]:
        of_ruth = [row for row in ledger.audit() if row.kind is AuditKind.DENIED and row.who == "ruth"]
        return [row for row in of_ruth if row.details["route"] == "/coread/audit"]

    guarded.watch(lambda: bool(told()), pause_s=0.1)
    assert len(told()) <= 2, "one, and one of a test more than a minute before"
    assert told()[0].details["method"] == "GET"
    assert "needs the role admin" in told()[0].details["reason"]
    ledger.close()


def test_nobody_floods_the_audit_trail(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    now = [NOW]
    denials = Denials(ledger, clock=lambda: now[0])
    for number in range(10 * KINDS):
        denials.note(Denial(user=f"user{number}", method="DELETE", path=f"/studies/{number}", reason="no"))
    denials.step()
    denials.note(Denial(user="user0", method="DELETE", path="/studies/0", reason="no"))
    denials.step()
    rows = ledger.audit()
    assert len(rows) == KINDS + 1
    assert {row.details["route"] for row in rows} == {"/studies/*", ""}
    assert sum(row.details["times"] for row in rows) == 10 * KINDS
    now[0] += EVERY + timedelta(seconds=1)
    denials.step()
    assert len(ledger.audit()) == KINDS + 2, "what came meanwhile is told after a minute"


def test_people_without_a_password_are_an_error(tmp_path: Path) -> None:
    text = OPEN.format(more='password = "x"') + "[access.users.anna]\n"
    (tmp_path / "coread.toml").write_text(text)
    settings = load_settings(tmp_path / "coread.toml")
    with (
        pytest.raises(ConfigurationError, match=r"access.users.anna has no password"),
        Supervisor(settings, settings_file=tmp_path / "coread.toml"),
    ):
        pass
    (tmp_path / "coread.toml").write_text(OPEN.format(more="") + "[access.users.anna]\n")
    with pytest.raises(ConfigurationError, match="password is not set"):
        load_settings(tmp_path / "coread.toml")


def test_a_password_may_stand_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "coread.toml").write_text(OPEN.format(more='password = "x"') + "[access.users.anna-maria]\n")
    monkeypatch.setenv("COREAD_ACCESS__USERS__ANNA_MARIA__PASSWORD", "hers")
    assert load_settings(tmp_path / "coread.toml").access.logins == {"anna-maria": "hers"}
    monkeypatch.setenv("COREAD_ACCESS__USERS__BERT__PASSWORD", "his")
    with pytest.raises(ConfigurationError, match="not exactly one user"):
        load_settings(tmp_path / "coread.toml")


def test_an_orthanc_that_asks_nobody_cannot_tell_people_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = OPEN.format(more='password = "x"') + '[access.users.anna]\npassword = "a"\n'
    (tmp_path / "coread.toml").write_text(text)
    monkeypatch.setenv("COREAD_CONFIG", str(tmp_path / "coread.toml"))
    monkeypatch.setattr("sys.setswitchinterval", lambda _seconds: None)
    with pytest.raises(ConfigurationError, match="Orthanc asks nobody"):
        service.start(OrthancAtStart())


def test_passwords_are_written_where_only_the_owner_reads_them(guarded: Supervisor) -> None:
    path = guarded.settings.data_folder / "orthanc.json"
    assert path.stat().st_mode & 0o077 == 0
    assert set(json.loads(path.read_text())["RegisteredUsers"]) == {
        "coread",
        "coread-proxy",
        "mona",
        "ruth",
        "vera",
        "adam",
    }

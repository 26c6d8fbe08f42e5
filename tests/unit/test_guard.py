"""Who a request is from, and which are not let through."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coread.access import Person, Role
from coread.plugin.guard import Headers, foreign_page, form_body, needed_role, person_of, strange_host
from coread.settings_access import AccessSettings, UserSettings

ACCESS = AccessSettings.model_validate(
    {
        "users": {"anna": {"role": "reviewer", "name": "Doe^Anna", "password": "a"}},
        "proxy_secret": "s3cret",
        "proxy_user_header": "Remote-User",
        "proxy_roles_header": "Remote-Groups",
        "proxy_roles": {"radiologists": "reviewer", "pacs team": "admin"},
    }
)
CHROMIUM = "Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0.0.0"
HEADERS = st.dictionaries(
    st.sampled_from(["origin", "sec-fetch-site", "user-agent", "host", "authorization", "remote-user"]), st.text()
)


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def behind_proxy(said: str = "s3cret", **more: str) -> dict[str, str]:
    return basic("coread-proxy", said) | {name.replace("_", "-"): value for name, value in more.items()}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (basic("anna", "a"), Person(user="anna", role=Role.REVIEWER, name="Doe^Anna")),
        (basic("bert", "b"), Person(user="bert", role=Role.READER)),
        (basic("coread", "x"), Person(user="coread", role=Role.ADMIN)),
        ({"authorization": "Bearer ours"}, Person(user="", role=Role.ADMIN)),
        ({"authorization": "Bearer another's"}, None),
        ({}, None),
        (basic("bert", "b") | {"remote-user": "anna"}, Person(user="bert", role=Role.READER)),
        (behind_proxy(remote_user="anna"), Person(user="anna", role=Role.REVIEWER, name="Doe^Anna")),
        (behind_proxy(remote_user="carl", remote_groups="x, radiologists"), Person(user="carl", role=Role.REVIEWER)),
        (
            behind_proxy(remote_user="dora", remote_groups="radiologists,pacs team"),
            Person(user="dora", role=Role.ADMIN),
        ),
        (
            behind_proxy(remote_user="anna", remote_groups="pacs team"),
            Person(user="anna", role=Role.REVIEWER, name="Doe^Anna"),
        ),
        (behind_proxy(remote_user="emil"), Person(user="emil", role=Role.READER)),
        (behind_proxy("guessed", remote_user="anna"), None),
        (behind_proxy(), None),
        (behind_proxy(remote_user="coread"), None),
    ],
)
def test_a_person_is_who_orthanc_or_the_proxy_says(headers: Headers, expected: Person | None) -> None:
    assert person_of(headers, ACCESS, tokens={"Bearer ours"}) == expected


def test_without_roles_whoever_got_in_may_do_anything() -> None:
    access = AccessSettings()
    assert person_of(basic("bert", "b"), access, tokens=()) == Person(user="bert", role=Role.ADMIN)
    assert person_of(basic("coread-proxy", ""), access, tokens=()) == Person(user="coread-proxy", role=Role.ADMIN)


@given(headers=HEADERS)
def test_nobody_becomes_more_than_a_reader_by_headers_of_their_own(headers: dict[str, str]) -> None:
    person = person_of(headers | basic("bert", "b"), ACCESS, tokens={"Bearer ours"})
    assert person == Person(user="bert", role=Role.READER)


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/instances/1/file", Role.READER),
        ("POST", "/tools/find", Role.READER),
        ("POST", "/tools/find/x", Role.ADMIN),
        ("POST", "/dicom-web/studies", Role.REVIEWER),
        ("POST", "/dicom-web/studies/1.2.3", Role.REVIEWER),
        ("POST", "/dicom-web/studies/1.2.3/reject", Role.ADMIN),
        ("POST", "/instances", Role.ADMIN),
        ("POST", "/tools/execute-script", Role.ADMIN),
        ("POST", "/modalities/pacs/store", Role.ADMIN),
        ("POST", "/studies/1/anonymize", Role.ADMIN),
        ("PUT", "/dicom-web/studies", Role.ADMIN),
        ("DELETE", "/studies/1", Role.ADMIN),
        ("DELETE", "/changes", Role.ADMIN),
        ("PATCH", "/studies/1", Role.ADMIN),
    ],
)
def test_what_orthanc_itself_offers_needs_a_role(method: str, path: str, role: Role) -> None:
    assert needed_role(method, path) is role


@given(method=st.sampled_from(["POST", "PUT", "DELETE"]), path=st.text())
def test_what_is_not_known_to_be_harmless_needs_an_admin(method: str, path: str) -> None:
    assert needed_role(method, f"/x{path}") is Role.ADMIN


@pytest.mark.parametrize(
    ("headers", "is_let_through"),
    [
        ({}, True),
        ({"user-agent": "curl/8"}, True),
        ({"user-agent": CHROMIUM}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://reader:8042"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "https://elsewhere.example"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "https://viewer.example"}, True),
        ({"origin": "http://reader:8042"}, True),
        ({"origin": "http://READER:8042"}, True),
        ({"origin": "http://reader"}, False),
        ({"origin": "http://reader:8043"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "http://[reader:8042"}, False),
        ({"origin": "https://evil.example"}, False),
    ],
)
def test_a_page_of_another_site_changes_nothing(headers: Headers, is_let_through: bool) -> None:
    judged = [
        foreign_page(method, headers, host="reader:8042", origins=("https://viewer.example",))
        for method in ("POST", "PUT", "DELETE")
    ]
    assert [refusal is None for refusal in judged] == [is_let_through] * 3
    assert foreign_page("GET", headers, host="reader:8042", origins=()) is None, "it cannot see what it asked for"


def test_a_page_without_an_origin_is_foreign_to_a_host_without_a_name() -> None:
    assert foreign_page("POST", {"origin": "null"}, host="", origins=()) is not None


def test_a_proxy_may_speak_https_where_orthanc_speaks_http() -> None:
    assert foreign_page("POST", {"origin": "https://reader"}, host="reader", origins=()) is None
    assert foreign_page("POST", {"origin": "https://reader"}, host="reader:443", origins=()) is None


@pytest.mark.parametrize(
    ("host", "is_let_through"),
    [
        ("localhost:8042", True),
        ("LOCALHOST", True),
        ("coread.localhost:8042", True),
        ("127.0.0.1:8042", True),
        ("[::1]:8042", True),
        ("10.0.0.7:8042", True),
        ("reader:8042", True),
        ("reader.", True),
        ("evil.example:8042", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil@localhost.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_a_strange_name_of_this_machine_is_refused(host: str, is_let_through: bool) -> None:
    assert (strange_host({"host": host}, hosts=frozenset({"reader"})) is None) == is_let_through


def test_a_program_that_names_no_host_is_no_browser() -> None:
    assert strange_host({}, hosts=frozenset()) is None


@pytest.mark.parametrize("kind", ["text/plain", "text/plain;charset=UTF-8", "Multipart/Form-Data; boundary=x"])
def test_what_a_form_can_send_is_no_body_for_us(kind: str) -> None:
    refusal = form_body({"content-type": kind}, has_body=True)
    assert refusal is not None
    assert refusal.status == 415
    assert form_body({"content-type": kind}, has_body=False) is None
    assert form_body({"content-type": "application/json"}, has_body=True) is None


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({"users": {"coread": {}}}, "the user name coread is Coread's own"),
        ({"users": {"a:b": {}}}, "users"),
        ({"users": {"a": {"role": "boss"}}}, "'reader', 'reviewer' or 'admin'"),
        ({"users": {"a": {"name": "Doe=Anna"}}}, "users"),
        ({"proxy_user_header": "Remote-User"}, "proxy_user_header and proxy_secret together"),
        ({"proxy_roles": {"a": "admin"}, "proxy_roles_header": "X"}, "need proxy_user_header"),
        ({"origins": ["https://viewer.example/ohif"]}, "origins"),
        ({"hosts": ["reader:8042"]}, "hosts"),
    ],
)
def test_a_mistake_in_the_settings_is_named(access: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AccessSettings.model_validate(access)


def test_a_password_is_not_shown() -> None:
    assert "s3cret" not in repr(ACCESS)
    assert UserSettings().role is Role.READER

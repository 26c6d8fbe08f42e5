"""How the page's files are served, and what they are made with."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coread.plugin.gate import Gate
from coread.plugin.pages import ROOT, WEB, files_of, register_page

VENDOR = WEB / "vendor"


class Output:
    """What Orthanc hands to a handler."""

    def __init__(self) -> None:
        self.status = 200
        self.content = b""
        self.kind = ""
        self.headers: dict[str, str] = {}

    def SetHttpHeader(self, name: str, value: str) -> None:  # noqa: N802  # Orthanc's name
        self.headers[name] = value

    def AnswerBuffer(self, content: bytes, kind: str) -> None:  # noqa: N802
        self.content, self.kind = content, kind

    def SendHttpStatusCode(self, status: int) -> None:  # noqa: N802
        self.status = status


def ask(path: str | None, headers: Mapping[str, str] = {}) -> Output:
    handlers: dict[str, Callable[..., Any]] = {}
    register_page(Gate(SimpleNamespace(RegisterRestCallback=handlers.__setitem__), asks_users=False))
    output = Output()
    groups = () if path is None else (path,)
    handler = handlers[ROOT if path is None else f"{ROOT}/(.*)"]
    handler(output, ROOT, method="GET", groups=groups, headers=dict(headers))
    return output


@pytest.mark.parametrize("path", [None, "", "study/0123-abc", "archives", "archives/0123abc", "index.html"])
def test_the_page_and_the_places_in_it_are_the_same_file(path: str | None) -> None:
    answer = ask(path)
    assert (answer.status, answer.kind) == (200, "text/html; charset=utf-8")
    assert answer.content == (WEB / "index.html").read_bytes()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("app.js", "text/javascript"), ("vendor/preact.mjs", "text/javascript"), ("style.css", "text/css")],
)
def test_a_file_has_its_type_and_the_policy(path: str, kind: str) -> None:
    answer = ask(path)
    assert answer.kind == f"{kind}; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "../pages.py",
        "vendor/../../pages.py",
        "/etc/passwd",
        "..%2fpages.py",
        "vendor/README.md",
        "vendor",
        "nothing.js",
        "archives/../../pages.py",
    ],
)
def test_what_is_no_file_of_the_page_is_not_found(path: str) -> None:
    answer = ask(path)
    assert (answer.status, answer.content) == (404, b"")


def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    first = ask("app.js")
    again = ask("app.js", {"if-none-match": first.headers["ETag"]})
    assert (again.status, again.content) == (304, b"")
    assert ask("style.css", {"if-none-match": first.headers["ETag"]}).content


def test_other_people_s_files_are_what_their_list_says() -> None:
    listed = dict(re.findall(r"\| `([\w.]+)` \|.*`([0-9a-f]{64})`", (VENDOR / "README.md").read_text(encoding="utf-8")))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.glob("*.mjs")}
    assert listed == found


@pytest.mark.parametrize("name", sorted(name for name in files_of(WEB) if name.endswith((".js", ".html"))))
def test_no_file_of_ours_makes_markup_of_text_or_names_another_host(name: str) -> None:
    if name.startswith("vendor/"):
        return
    text = files_of(WEB)[name].content.decode()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerously|eval\(|new Function", text
    )
    assert not re.search(r"https?://", text)
    assert not re.search(r"<script>|<style|\son\w+=\"", text)


def test_every_module_that_is_imported_is_loaded_ahead() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'"/coread/ui/([\w./]+\.m?js)"', page))
    assert named == {name for name in files_of(WEB) if name.endswith((".js", ".mjs"))}


def test_the_page_s_files_are_few_and_small(tmp_path: Path) -> None:
    assert sum(len(file.content) for file in files_of(WEB).values()) < 120_000
    assert files_of(tmp_path) == {}

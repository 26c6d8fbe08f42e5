"""OHIF is served, pictures are served, and links lead to viewers."""

import io
import tarfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from coread import ohif
from coread.archive import Archive
from coread.cli import coread
from coread.errors import ConfigurationError, SourceGone
from coread.job import JobState
from coread.ledger import ArrivingStudy, Ledger
from coread.plugin.gate import Gate
from coread.plugin.ohif import register_ohif
from coread.plugin.pictures import pictures_of, register_pictures
from coread.plugin.viewers import links_of
from coread.settings import Settings, load_settings
from coread.workers.hold import utc_now
from tests.support import a_job

FACTS = {"StudyInstanceUID": "1.2.3", "AccessionNumber": "A/1 &x=1#", "PatientID": "", "orthanc_id": "abc-def"}
APP = "app.bundle.0123456789abcdef0123.js"
WORKERS = [f"worker{number}.bundle.js" for number in range(ohif.BUNDLES_AT_ROOT - 1)]
PICTURES = [{"caption": "slice 2 of 9", "instance": "i", "attachment": "4720"}]


class Output:
    """What a route answers."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"", dict[str, str]()

    def AnswerBuffer(self, body: bytes | str, content_type: str) -> None:  # noqa: N802  # Orthanc's name
        self.body = body if isinstance(body, bytes) else body.encode()
        self.headers["Content-Type"] = content_type

    def SetHttpHeader(self, name: str, value: str) -> None:  # noqa: N802  # as above
        self.headers[name] = value

    def Redirect(self, url: str) -> None:  # noqa: N802  # as above
        self.status, self.headers["Location"] = 301, url

    def SendHttpStatusCode(self, status: int) -> None:  # noqa: N802  # as above
        self.status = status

    def SendHttpStatus(self, status: int, body: str, _length: int) -> None:  # noqa: N802  # as above
        self.status, self.body = status, body.encode()


def ask(register: Callable[[Gate], None], path: str, url: str, **more: Any) -> Output:
    handlers: dict[str, Callable[..., None]] = {}
    register(Gate(SimpleNamespace(RegisterRestCallback=handlers.__setitem__), asks_users=False))
    output = Output()
    handlers[path](output, url, method="GET", **more)
    return output


# OHIF ---------------------------------------------------------------------------------------------------------------


def package_with(folder: Path, **changed: str) -> Path:
    """A package that is built as OHIF's is."""
    at_root = f"/******/ \t\t{ohif.AT_ROOT}\n"
    files = {
        "dist/index.html": "<script>inline()</script>",
        "dist/app-config.js": "elsewhere",
        f"dist/{APP}": at_root,
        **{f"dist/{name}": at_root for name in WORKERS},
        "dist/app.bundle.css": "src: url(/31fb.woff2)",
        "dist/31fb.woff2": "font",
        "dist/codec.wasm": "code",
        "dist/app.bundle.js.map": "map",
        "dist/ort/large.wasm": "network",
        "dist/init-service-worker.js": "https://elsewhere",
        "dist/assets/icon.png": "icon",
        "LICENSE": "MIT",
        "src/index.js": "source",
        **changed,
    }
    path = folder / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def any_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is of the real one, which is too large for a test."""
    monkeypatch.setattr(ohif, "check", lambda _package: None)


@pytest.fixture
def folder(tmp_path: Path, any_package: None) -> Path:  # noqa: ARG001  # used by what it does
    ohif.install(tmp_path / "viewer", package=package_with(tmp_path), say=lambda _text: None)
    return tmp_path / "viewer"


def test_what_is_installed_lives_in_its_folder_of_the_site_and_asks_nobody_else(folder: Path) -> None:
    place = folder / "ohif"
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    page = {"index.html", "start.js", "app-config.js", "coread.json"}
    kept = {APP, *WORKERS, "app.bundle.css", "31fb.woff2", "codec.wasm", "assets/icon.png", "LICENSE"}
    assert files == page | kept
    assert '.p = "/ohif/";' in (place / APP).read_text()
    assert "url(/ohif/31fb.woff2)" in (place / "app.bundle.css").read_text()
    assert f'src="/ohif/{APP}"' in (place / "index.html").read_text()
    assert "<script>" not in (place / "index.html").read_text()
    assert "://" not in (place / "app-config.js").read_text()
    assert ohif.is_up_to_date(folder)


def test_a_newer_version_takes_the_place_of_an_older_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "ohif").resolve()
    monkeypatch.setattr(ohif, "CHANGES", ohif.CHANGES + 1)
    assert not ohif.is_up_to_date(folder)
    ohif.install(folder, package=folder.parent / "package.tgz", say=lambda _text: None)
    assert ohif.is_up_to_date(folder)
    assert not before.exists()
    assert {path.name for path in folder.iterdir()} == {"ohif", (folder / "ohif").resolve().name}


@pytest.mark.usefixtures("any_package")
def test_a_package_that_is_built_otherwise_is_not_installed(tmp_path: Path) -> None:
    package = package_with(tmp_path, **{f"dist/{WORKERS[0]}": "built otherwise"})
    with pytest.raises(ConfigurationError, match="scripts that name their folder"):
        ohif.install(tmp_path / "viewer", package=package, say=lambda _text: None)
    assert ohif.installed(tmp_path / "viewer") is None
    assert list((tmp_path / "viewer").iterdir()) == []


def test_another_file_than_the_one_that_is_wanted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "coread.toml").write_text("")
    arguments = ["--config", str(tmp_path / "coread.toml"), "viewer", "install", "--from", str(package_with(tmp_path))]
    result = CliRunner().invoke(coread, arguments)
    assert isinstance(result.exception, ConfigurationError)
    assert "expected @ohif/app 3.12.10 with the digest sha512-" in str(result.exception)


def test_without_a_network_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(ConfigurationError, match=r"coread viewer install --from FILE\.tgz"):
        ohif.install(tmp_path / "viewer", package=None, say=lambda _text: None)


def ask_ohif(folder: Path, url: str, **more: Any) -> Output:
    return ask(lambda gate: register_ohif(gate, folder), "/ohif/(.*)" if url != "/ohif" else "/ohif", url, **more)


@pytest.mark.parametrize(
    ("url", "content_type", "cache"),
    [
        ("/ohif/viewer", "text/html; charset=utf-8", "no-cache"),
        ("/ohif/segmentation/deep", "text/html; charset=utf-8", "no-cache"),
        (f"/ohif/{APP}", "text/javascript; charset=utf-8", "immutable"),
        ("/ohif/codec.wasm", "application/wasm", "no-cache"),
        ("/ohif/assets/icon.png", "image/png", "no-cache"),
    ],
)
def test_files_are_served_as_what_they_are_and_other_paths_as_the_page(
    folder: Path, url: str, content_type: str, cache: str
) -> None:
    answer = ask_ohif(folder, url)
    assert answer.headers["Content-Type"] == content_type
    assert cache in answer.headers["Cache-Control"]
    again = ask_ohif(folder, url, headers={"if-none-match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "../package.tgz",
        "assets/../../../package.tgz",
        "LICENSE",
        "coread.json/",
        "/etc/passwd",
        "%2e%2e/x",
        "assets",
        "a\0",
        "a" * 300,
    ],
)
def test_nothing_beside_the_viewer_is_served(folder: Path, path: str) -> None:
    answer = ask_ohif(folder, f"/ohif/{path}")
    assert answer.body in {(folder / "ohif" / name).read_bytes() for name in ("index.html", "coread.json")}


def test_without_a_study_the_viewer_leads_to_the_list_of_studies(folder: Path) -> None:
    assert ask_ohif(folder, "/ohif").headers["Location"] == "/coread/ui"


def test_its_policy_forbids_other_hosts_and_scripts_in_pages(folder: Path) -> None:
    policy = ask_ohif(folder, "/ohif/viewer").headers["Content-Security-Policy"]
    assert "http" not in policy
    (scripts,) = (part for part in policy.split("; ") if part.startswith("script-src"))
    assert "'unsafe-inline'" not in scripts


def test_a_viewer_that_is_not_installed_is_no_page_but_an_error_that_says_so(tmp_path: Path) -> None:
    answer = ask_ohif(tmp_path, "/ohif/viewer")
    assert answer.status == 404
    assert b"`coread viewer install`" in answer.body


# Links --------------------------------------------------------------------------------------------------------------


def settings_with(folder: Path, url: str) -> Settings:
    (folder / "coread.toml").write_text(f'[[viewer]]\nname = "PACS"\nurl = """{url}"""\n')
    return load_settings(folder / "coread.toml")


def test_without_settings_a_study_is_opened_in_ohif_if_it_is_installed(folder: Path, tmp_path: Path) -> None:
    expected = {"name": "OHIF", "url": "/ohif/viewer?StudyInstanceUIDs=1.2.3"}
    assert links_of(Settings(viewer_folder=folder), FACTS) == [expected]
    assert links_of(Settings(viewer_folder=tmp_path / "empty"), FACTS) == []


def test_a_link_has_the_studys_own_identifiers_and_no_value_leaves_its_place(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "https://pacs.example/open?a={AccessionNumber}&o={orthanc_id}")
    (link,) = links_of(settings, FACTS)
    assert link == {"name": "PACS", "url": "https://pacs.example/open?a=A%2F1%20%26x%3D1%23&o=abc-def"}


def test_a_study_that_lacks_what_a_link_needs_gets_no_such_link(tmp_path: Path) -> None:
    assert links_of(settings_with(tmp_path, "/view?p={PatientID}"), FACTS) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/view?{PatientName}", "expected placeholders among {StudyInstanceUID}, {AccessionNumber}, {PatientID}, "),
        ("/view?{StudyInstanceUID", "a bracket without its other one"),
        ("javascript:alert(1)", "expected http"),
        ("//elsewhere.example/{PatientID}", "expected http"),
        ("ftp://pacs.example/", "expected http"),
        ("https://{PatientID}.example/", "a host that is the same for every study"),
        ("https://me:secret@pacs.example/", "and no password"),
        ("https://[::1/", "expected http"),
        ("", "expected http"),
    ],
)
def test_a_link_that_leads_nowhere_is_an_error_that_says_what_is_expected(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        settings_with(tmp_path, url)
    assert said in str(error.value)


# Pictures -----------------------------------------------------------------------------------------------------------


class Kept:
    """An archive that keeps one picture, or has lost it."""

    def __init__(self, png: bytes | None) -> None:
        self.png = png

    def attachment(self, orthanc_id: str, content_type: int) -> bytes:
        assert (orthanc_id, content_type) == ("i", 4720)
        if self.png is None:
            raise SourceGone("it was deleted")
        return self.png


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with a job that has a picture."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    now = utc_now()
    study = ArrivingStudy(orthanc_id="study", last_change=1, last_arrival_at=now)
    ledger.settle(study, [a_job("a", created_at=now)], present_uids=(), at=now)
    ledger.queue_due(at=now)
    assert ledger.claim(worker="w", queues=None, at=now, lease=timedelta(minutes=1))
    assert ledger.start_storing("a", worker="w", result={}, at=now)
    assert ledger.finish("a", JobState.DONE, worker="w", result={"pictures": PICTURES}, at=now)
    return ledger


def ask_picture(ledger: Ledger, job_id: str, number: str, *, png: bytes | None = b"png", **more: Any) -> Output:
    def register(gate: Gate) -> None:
        register_pictures(gate, ledger, connect=lambda: cast("Archive", Kept(png)))

    path = "/coread/jobs/([0-9a-f]+)/pictures/([0-9]{1,4})"
    return ask(register, path, f"/coread/jobs/{job_id}/pictures/{number}", groups=(job_id, number), **more)


def test_a_picture_is_served_once_for_each_content(ledger: Ledger) -> None:
    answer = ask_picture(ledger, "a", "1")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"png", "image/png")
    assert answer.headers["Cache-Control"].startswith("private")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    known: dict[str, Any] = {"headers": {"if-none-match": answer.headers["ETag"]}}
    assert ask_picture(ledger, "a", "1", **known).status == 304
    assert ask_picture(ledger, "a", "1", png=b"another", **known).body == b"another"


@pytest.mark.parametrize(
    ("job_id", "number", "said"),
    [("b", "1", b"no job b"), ("a", "0", b"a number from 1 to 1"), ("a", "2", b"a number from 1 to 1")],
)
def test_a_picture_that_is_not_there_is_an_error_that_says_why(
    ledger: Ledger, job_id: str, number: str, said: bytes
) -> None:
    answer = ask_picture(ledger, job_id, number)
    assert (answer.status, said in answer.body) == (404, True)


def test_a_picture_whose_result_was_deleted_is_said_to_be_gone(ledger: Ledger) -> None:
    answer = ask_picture(ledger, "a", "1", png=None)
    assert (answer.status, b"no longer in Orthanc" in answer.body) == (404, True)


def test_a_page_is_told_of_the_pictures_by_their_urls(ledger: Ledger) -> None:
    url = "/coread/jobs/a/pictures/1"
    assert pictures_of(ledger.jobs()) == {"a": {"pictures": [{"caption": "slice 2 of 9", "url": url}]}}

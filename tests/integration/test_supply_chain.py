"""What a deployment is made of is written down, and known vulnerabilities of it end a build."""

import json
import os
import runpy
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, ClassVar

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from coread import ohif
from coread.models.catalogue import installed_models
from coread.settings import Settings

ROOT = Path(__file__).parents[2]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
LICENCES_UNKNOWN = frozenset({"pkg:deb", "model:"})
"""Beginnings of what has its licence elsewhere: /usr/share/doc of the packages, the models' own LICENSE."""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
    )


# What a deployment is made of ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Image → its bill, as `make sbom` writes it; the script itself validates it against CycloneDX's schema."""
    folder = tmp_path_factory.mktemp("sbom")
    done = run("sbom.py", folder)
    assert done.returncode == 0, done.stderr
    return {image: json.loads((folder / f"{image}.cdx.json").read_text()) for image in ("orthanc", "worker")}


def direct(image: str) -> list[Requirement]:
    """What an image asks PyPI for, as pyproject.toml says it."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = described["project"]["optional-dependencies"]
    asked = {
        "orthanc": described["dependency-groups"]["plugin"],
        "worker": [*described["project"]["dependencies"], *extras["postgresql"], *extras["redis"]],
    }
    return [each for each in map(Requirement, asked[image]) if each.marker is None or each.marker.evaluate()]


def of_python(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        canonicalize_name(each["name"]): each
        for each in bill["components"]
        if each.get("purl", "").startswith("pkg:pypi/")
    }


@pytest.mark.parametrize("image", ["orthanc", "worker"])
def test_the_bill_names_every_dependency_with_the_pinned_version(image: str, bills: dict[str, dict[str, Any]]) -> None:
    found = of_python(bills[image])
    pins: dict[str, str] = {canonicalize_name(name): version for name, version in PINNED.items()}
    asked = [*direct(image), *(each for name in found for each in map(Requirement, distribution(name).requires or ()))]
    counting = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert {canonicalize_name(each.name) for each in counting} - set(found) == set()
    assert "psycopg-binary" in found, "an extra that is asked for"
    assert {name: Version(each["version"]).public for name, each in found.items()} == {
        name: pins[name] for name in found
    }


@pytest.mark.parametrize("image", ["orthanc", "worker"])
def test_the_bill_says_the_licence_of_each_package_and_of_no_tool(image: str, bills: dict[str, dict[str, Any]]) -> None:
    unknown = [
        each["bom-ref"]
        for each in bills[image]["components"]
        if not each.get("licenses") and not each["bom-ref"].startswith(tuple(LICENCES_UNKNOWN))
    ]
    assert unknown == []
    assert {"pytest", "mypy", "ruff", "cyclonedx-bom", "pip-audit"} & set(of_python(bills[image])) == set()
    assert ("torch" in of_python(bills[image])) == (image == "worker")


def test_the_bill_names_the_debian_packages_the_viewer_and_the_models(bills: dict[str, dict[str, Any]]) -> None:
    names = {image: {each["name"]: each for each in bill["components"]} for image, bill in bills.items()}
    assert {"orthanc", "orthanc-python", "orthanc-dicomweb", "orthanc-postgresql", "python3"} <= set(names["orthanc"])
    assert "libgomp1" in names["worker"]
    assert names["orthanc"]["app"]["version"] == ohif.VERSION
    of_page = [each["bom-ref"] for each in bills["orthanc"]["components"] if each["bom-ref"].startswith("page:")]
    assert sorted(of_page) == sorted(f"page:{path.name}" for path in (ROOT / "plugin/web/vendor").glob("*.mjs"))
    for name, model in installed_models(Settings()).items():
        (said,) = names["worker"][name]["properties"]
        assert said == {"name": "coread:digest", "value": model.digest()}


@pytest.mark.parametrize("image", ["orthanc", "worker"])
def test_the_bill_says_what_needs_what_and_nothing_of_this_machine(
    image: str, bills: dict[str, dict[str, Any]]
) -> None:
    bill = bills[image]
    refs = {each["bom-ref"] for each in bill["components"]}
    (root,) = (each for each in bill["dependencies"] if each["ref"] == bill["metadata"]["component"]["bom-ref"])
    assert {canonicalize_name(each.name) for each in direct(image)} <= {
        canonicalize_name(ref.partition("==")[0]) for ref in root["dependsOn"]
    }
    assert {ref for each in bill["dependencies"] for ref in each["dependsOn"]} <= refs
    assert "file:" not in json.dumps(bill)
    assert str(ROOT) not in json.dumps(bill)


# Known vulnerabilities ------------------------------------------------------------------------------------------------


class Service(BaseHTTPRequestHandler):
    """Answers as https://google.github.io/osv.dev/post-v1-query says, of one package that has a vulnerability."""

    VULNERABLE: ClassVar[str] = "jinja2"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        if asked == "unavailable":
            self.send_error(503)
            return
        package = {"name": asked, "ecosystem": "PyPI"}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
        known = {
            "id": "GHSA-made-up-0000",
            "aliases": ["CVE-1999-0000"],
            "summary": "made up",
            "published": "2026-01-01T00:00:00Z",
            "affected": [{"package": package, "ranges": ranges}],
        }
        content = json.dumps({"vulns": [known]} if asked == self.VULNERABLE else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(folder: Path, url: str, *pins: str) -> subprocess.CompletedProcess[str]:
    (folder / "pins.txt").write_text("\n".join(pins) + "\n")
    cache = ("--cache-dir", folder / "cache")
    return run("audit.py", folder / "pins.txt", "--vulnerability-service", "osv", "--osv-url", url, *cache)


def test_a_known_vulnerability_ends_the_build(service: str, tmp_path: Path) -> None:
    done = audit(tmp_path, service, "click==8.1.8", "jinja2==3.1.6")
    assert done.returncode == 1, done.stderr
    assert "jinja2 3.1.6: " in done.stdout
    assert "CVE-1999-0000" in done.stdout
    assert "mended in 99.1" in done.stdout
    assert "expected no known vulnerabilities, found 1; take the mended version" in done.stdout


def test_packages_without_known_vulnerabilities_are_in_order(service: str, tmp_path: Path) -> None:
    done = audit(tmp_path, service, "click==8.1.8", "torch==2.13.0")
    assert (done.returncode, done.stdout) == (0, "[audit] no vulnerabilities are known of 2 packages\n")


@pytest.mark.parametrize("pin", ["click==8.1.8", "unavailable==1"])
def test_a_service_that_does_not_answer_is_said_and_is_no_all_clear(pin: str, service: str, tmp_path: Path) -> None:
    url = service if pin.startswith("unavailable") else "http://127.0.0.1:1/v1/query"
    done = audit(tmp_path, url, pin)
    assert done.returncode == 0, done.stderr
    assert "NOT DONE: expected an answer of the vulnerability service" in done.stdout
    assert "no vulnerabilities are known" not in done.stdout


def test_what_is_not_pinned_cannot_be_audited(service: str, tmp_path: Path) -> None:
    done = audit(tmp_path, service, "click")
    assert done.returncode == 2
    assert "not pinned" in done.stderr


def test_a_service_that_knows_no_package_gives_no_all_clear() -> None:
    """As PyPI's where it has no JSON interface: pip-audit itself then says that no vulnerabilities are known."""
    verdict_of = runpy.run_path(str(ROOT / "scripts/audit.py"))["verdict_of"]
    skipped = {"name": "click", "skip_reason": "Dependency not found on PyPI"}
    known: dict[str, Any] = {"name": "rich", "version": "13.0", "vulns": []}
    ((said,), status) = verdict_of([skipped])
    assert (status, "NOT DONE" in said) == (0, True)
    lines, status = verdict_of([skipped, known])
    assert (status, lines[0]) == (0, "[audit] no vulnerabilities are known of 1 packages")
    assert "NOT asked about 1, which the service does not know: click" in lines[1]


def test_continuous_integration_audits() -> None:
    assert "make audit" in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert "scripts/audit.py" in (ROOT / "Makefile").read_text(encoding="utf-8")

"""The parts of ``docker/`` fit together, as far as can be seen without starting containers."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from coread import __version__
from coread.settings import load_settings
from tests.support import program

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))

IMPORTED = """
import json, sys, types

class Anything(types.ModuleType):
    def __getattr__(self, name):
        return Anything(name)

sys.modules["orthanc"] = Anything("orthanc")
import coread.cli, coread.ohif, coread.orthanc_process, coread.plugin.service
import alembic.command, kombu.transport.redis, psycopg
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder in which `prepare` was said."""
    program("openssl")
    folder = tmp_path_factory.mktemp("docker")
    for name in ("prepare", "compose.yaml", "coread.toml"):
        shutil.copy(DOCKER / name, folder / name)
    subprocess.run([folder / "prepare", "coread.example", "10.1.2.3"], check=True, capture_output=True)
    return folder


def test_every_secret_of_the_compose_file_is_made_and_used(prepared: Path) -> None:
    files = {name: prepared / entry["file"] for name, entry in COMPOSE["secrets"].items()}
    assert [name for name, file in files.items() if not file.is_file()] == []
    used = {name for service in COMPOSE["services"].values() for name in service.get("secrets", ())}
    assert used == set(files)
    others = {each.name for each in (prepared / "secrets").iterdir()} - {file.name for file in files.values()}
    assert others == {"broker-password", "own-ca.crt", "own-ca.key"}


def test_nobody_else_gets_into_the_folder_of_secrets_and_containers_can_read_the_files(prepared: Path) -> None:
    assert (prepared / "secrets").stat().st_mode & 0o777 == 0o700
    modes = {each.name: each.stat().st_mode & 0o777 for each in (prepared / "secrets").iterdir()}
    assert modes.pop("own-ca.key") == 0o400
    assert set(modes.values()) == {0o444}


def test_preparing_again_changes_nothing(prepared: Path) -> None:
    before = {each: each.read_bytes() for each in (prepared / "secrets").iterdir()}
    subprocess.run([prepared / "prepare", "another.example"], check=True, capture_output=True)
    assert {each: each.read_bytes() for each in (prepared / "secrets").iterdir()} == before


@pytest.mark.parametrize("name", ["https", "dicom"])
def test_a_certificate_is_for_the_names_that_were_given(prepared: Path, name: str) -> None:
    secrets = prepared / "secrets"
    names = ("-verify_hostname", "coread.example"), ("-verify_ip", "10.1.2.3")
    for asked in (*names, ("-verify_hostname", "another.example")):
        command = ["openssl", "verify", "-CAfile", str(secrets / "own-ca.crt"), *asked, str(secrets / f"{name}.crt")]
        assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) is (asked in names)


def test_the_settings_of_the_containers_are_in_order(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREAD_SECRETS", str(prepared / "secrets"))
    settings = load_settings(prepared / "coread.toml")
    assert settings.dicom_tls.incoming
    assert settings.access.logins.keys() == {"admin", "prometheus"}
    assert settings.ledger_url.startswith("postgresql+psycopg://coread:")


def test_the_compose_file_and_its_documentation_name_the_same() -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{(COREAD_[A-Z_]+)", text))
    assert [name for name in sorted(variables) if f"`{name}`" not in page] == []
    assert [name for name in COMPOSE["services"] if f"`{name}`" not in page] == []
    assert [name for name in COMPOSE["volumes"] if f"`{name}`" not in page] == []
    assert {f"{found}" for found in re.findall(r"COREAD_VERSION:-([^}]*)", text)} == {__version__}


def test_every_service_that_is_built_has_its_target() -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE))
    built = {service["build"]["target"] for service in COMPOSE["services"].values() if "build" in service}
    assert built <= targets
    for target in built:
        stage = re.split(r"^FROM ", text.split(f" AS {target}\n")[1], flags=re.MULTILINE)[0]
        assert "\nUSER " in stage, f"{target} runs as root"
        assert "\nHEALTHCHECK " in stage, f"nobody asks {target} how it is"


def test_every_image_is_labelled_with_the_version() -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG VERSION=(.*)$", text, flags=re.MULTILINE) == [__version__]
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    for service in COMPOSE["services"].values():
        if "build" not in service:
            continue
        stage, given = stages[service["build"]["target"]], service["build"]["args"]
        assert {"VERSION", "REVISION"} <= given.keys()
        assert service["image"].endswith(given["VERSION"]), "the tag and the label say the same"
        for name in ("version", "revision"):
            assert f"\nARG {name.upper()}\n" in stage
            assert f'org.opencontainers.image.{name}="${name.upper()}"' in stage


def test_each_container_of_ours_is_asked_for_what_runs_in_it() -> None:
    of_the_worker = {name: each for name, each in COMPOSE["services"].items() if "coread/worker:" in each["image"]}
    asked = {name: each.get("healthcheck", {}).get("test") for name, each in of_the_worker.items()}
    one_of = {name: ["CMD", "coread", "health", name] for name in ("courier", "archivist")}
    assert asked == {"worker": None, "coread": None, **one_of}, "the image itself asks for a worker"
    assert of_the_worker["coread"]["healthcheck"] == {"disable": True}
    assert [of_the_worker[name]["command"] for name in one_of] == [[name] for name in one_of]


# Compose, as somebody else's program reads it ------------------------------------------------------------------------

PROFILES = sorted({profile for service in COMPOSE["services"].values() for profile in service.get("profiles", ())})


@pytest.fixture(scope="module")
def compose_reads(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What podman-compose makes of the compose file with these profiles. Though it only reads, it asks podman for its
    version; where there is no podman, that is answered for it.
    """
    path = os.environ["PATH"]
    if shutil.which("podman") is None:
        folder = tmp_path_factory.mktemp("bin")
        (folder / "podman").write_text("#!/bin/sh\necho podman version 5.0.0\n")
        (folder / "podman").chmod(0o755)
        path = f"{folder}{os.pathsep}{path}"

    def read(*profiles: str, **environment: str) -> dict[str, Any]:
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        command = [sys.executable, "-m", "podman_compose", *chosen, "--file", str(DOCKER / "compose.yaml"), "config"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COREAD_", "COMPOSE_"))}
        done = subprocess.run(
            command,
            env={**kept, "PATH": path, **environment},
            cwd=tmp_path_factory.getbasetemp(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "WARN" not in done.stderr, done.stderr
        found: dict[str, Any] = yaml.safe_load(done.stdout)
        return found

    return read


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_adds_its_services_and_what_they_need_is_there(
    compose_reads: Callable[..., dict[str, Any]], profile: str
) -> None:
    found = compose_reads(profile)
    services = found["services"]
    expected = {name for name, each in COMPOSE["services"].items() if profile in each.get("profiles", [profile])}
    assert services.keys() == expected
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= expected, name
        assert set(service.get("networks", ())) <= found["networks"].keys(), name
        assert set(service.get("secrets", ())) <= found["secrets"].keys(), name
        for volume in service.get("volumes", ()):
            source = volume if isinstance(volume, str) else volume["source"]
            source = source.partition(":")[0]
            if source.startswith("./") and not source.startswith("./secrets/"):
                assert (DOCKER / source).exists(), (name, source)
            elif not source.startswith("."):
                assert source in found["volumes"], (name, source)


def test_a_version_and_a_registry_are_those_of_every_image_that_is_ours(
    compose_reads: Callable[..., dict[str, Any]],
) -> None:
    chosen = {"COREAD_VERSION": "9.9.9", "COREAD_REGISTRY": "registry.example/x", "COREAD_REVISION": "abc"}
    services = compose_reads(*PROFILES, **chosen)["services"]
    ours = {name: each for name, each in services.items() if name != "grafana"}
    for name, service in ours.items():
        assert re.fullmatch(r"registry\.example/x/coread/[a-z]+:9\.9\.9", service["image"]), name
        if "build" in service:
            assert {"VERSION=9.9.9", "REVISION=abc"} <= set(service["build"]["args"]), name


def _needed(names: Iterator[str]) -> set[str]:
    """These distributions and all that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        asked = Requirement(waiting.pop())
        name = canonicalize_name(asked.name)
        if name in found:
            continue
        found.add(name)
        extras = ("", *asked.extras)
        waiting += [
            str(each)
            for each in map(Requirement, requires(name) or ())
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return found


def test_the_plugins_group_has_all_that_the_plugin_imports() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    group = [each for each in described["dependency-groups"]["plugin"] if "python_full_version" not in each]
    known = _needed(iter(group)) | {"async-timeout", "coread"}
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    of_module = packages_distributions()
    imported = {canonicalize_name(each) for name in json.loads(done.stdout) for each in of_module.get(name, ())}
    # What others import where it is there, and do without where it is not.
    optional = {
        "attrs",
        "backports-tarfile",
        "cffi",
        "colorama",
        "cryptography",
        "greenlet",
        "msgpack",
        "pycparser",
        "setuptools",
    }
    assert imported - known - optional == set()

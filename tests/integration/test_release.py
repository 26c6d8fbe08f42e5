"""What a release hands out runs where nothing else of Coread is: installed from its wheel, away from the repository.

On Python 3.11 all of it, with torch, reads a study. On 3.13 that takes a build of torch for CPUs in a folder that pip
is told of (``PIP_FIND_LINKS``), since PyPI's is for CUDA and has gigabytes; without one, what needs no torch runs.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from coread import __version__, phantom
from tests.integration.test_validate import case_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
WITH_TORCH = ("torch", "monai", "pytorch-ignite")
"""torch, and those of our dependencies that ask for it."""
MODELS = {"chest_xray_pneumonia", "ecg_12_lead", "hippocampus_t1", "left_ventricle_sax"}


def python_of(version: str) -> Path:
    """An interpreter of this version: on the PATH, or one of pyenv's. Without one, the test is skipped."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (
        shutil.which(f"python{version}", path="/usr/bin:/usr/local/bin"),
        shutil.which(f"python{version}"),
        *sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True),
    ):
        if path is not None and _says(path, version):
            return Path(path)
    pytest.skip(f"there is no Python {version}: neither python{version} on the PATH nor one of pyenv's in {pyenv}")


def _says(path: str | Path, version: str) -> bool:
    """Whether it runs at all, and is of the version: pyenv's shims need not."""
    asked = [str(path), "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return (done.returncode, done.stdout.strip()) == (0, version)


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel in it, and a folder to work in."""

    venv: Path
    folder: Path

    def run(self, program: str, *words: object) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment in the folder, with nothing set that leads to the repository."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COREAD_", "PYTHON"))}
        environment = {**kept, "NUMBA_CACHE_DIR": str(self.folder / "numba"), "COLUMNS": "200"}
        environment.pop("VIRTUAL_ENV", None)
        return subprocess.run(
            [str(self.venv / "bin" / program), *map(str, words)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def coread(self, *words: object, status: int = 0) -> str:
        done = self.run("coread", *words)
        assert done.returncode == status, f"coread {words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, *words: object) -> None:
        done = self.run("python", "-m", "pip", "install", "--quiet", "--no-compile", *words)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def environment_of(version: str, folder: Path) -> Installation:
    """An empty one."""
    made = Installation(folder / "venv", folder / "elsewhere")
    made.folder.mkdir(parents=True)
    subprocess.run([str(python_of(version)), "-m", "venv", str(made.venv)], check=True)
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `make release` would hand out of this working tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(ROOT / "scripts" / "release.py"), "--rehearse", "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.name: path for path in folder.iterdir()}
    assert made.keys() == {f"coread-{__version__}.tar.gz", f"coread-{__version__}-py3-none-any.whl", "SHA256SUMS"}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    return made[f"coread-{__version__}-py3-none-any.whl"]


@pytest.fixture(scope="module", params=["3.11", "3.13"])
def whole(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel with all that it asks for, and nothing else."""
    made = environment_of(request.param, tmp_path_factory.mktemp("whole"))
    is_ours = request.param == f"{sys.version_info.major}.{sys.version_info.minor}"
    local = ("--dry-run", "--no-index", "--no-deps", "--constraint", ROOT / "constraints.txt", "torch")
    if not is_ours and made.run("python", "-m", "pip", "install", *local).returncode != 0:
        pytest.skip(f"no folder that pip is told of has torch for Python {request.param}; PyPI's has gigabytes")
    made.install("--constraint", ROOT / "constraints.txt", wheel)
    return made


def test_it_reads_a_study(whole: Installation) -> None:
    phantom.write_short_axis_study(whole.folder / "study")
    says_what_it_is(whole)
    whole.coread("analyze", "study", "--model", "left_ventricle_sax", "--output", "results")
    (summary,) = whole.folder.glob("results/*/left_ventricle_sax/summary.json")
    assert {path.name for path in summary.parent.iterdir()} >= {"SEG.dcm", "SR.dcm", "montage.png"}
    volumes = dict(volumes_in(json.loads(summary.read_text())))
    assert volumes["Left ventricular cavity"] == pytest.approx(phantom.truth().cavity_ml, rel=0.15)
    assert whole.run("python", "-m", "pip", "check").returncode == 0


def volumes_in(summary: Any) -> Iterator[tuple[str, float]]:
    """Structure and volume in ml."""
    for each in summary["findings"]:
        for measurement in each["measurements"]:
            if measurement["name"] == "Volume":
                yield each["structure"], measurement["value"]


def says_what_it_is(made: Installation) -> None:
    """The commands that everybody tries first; from the environment, not from here."""
    first, *models = made.coread("--version").splitlines()
    assert first == f"coread, version {__version__}"
    assert {re.match(r"  (\w+), version \S+, sha256 [0-9a-f]{12}, shipped$", line)[1] for line in models} == MODELS  # type: ignore[index]
    listed = json.loads(made.coread("models", "list", "--json"))
    assert {each["name"] for each in listed} == MODELS
    assert all(Path(each["folder"]).is_relative_to(made.venv) for each in listed), listed


def test_what_needs_no_torch_runs_on_python_3_13(
    wheel: Path, phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = environment_of("3.13", tmp_path_factory.mktemp("light"))
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    light = [each for each in described if Requirement(each).name not in WITH_TORCH]
    made.install("--only-binary", ":all:", "--constraint", ROOT / "constraints.txt", *light)
    made.install("--no-deps", wheel)
    assert made.run("python", "-c", "import torch").returncode == 1, "the other test is for where it is there"
    says_what_it_is(made)
    assert "in order" in made.coread("check-config")
    said = made.coread("routes", "test", phantom_folder)
    assert "left_ventricle_sax reads it" in said
    case = case_in(made.folder / "source", "oblique", (1, 2))
    files = [made.folder / f"{kind}.dcm" for kind in case.objects]
    for file, dataset in zip(files, case.objects.values(), strict=True):
        dataset.save_as(file, enforce_file_format=True)
    judged = json.loads(made.coread("validate", *files, "--source", case.source, "--json"))
    assert len(judged) == len(files) > 1
    assert {problem["rule"] for each in judged for problem in each["problems"]} <= {"program"}, "others' may be missing"

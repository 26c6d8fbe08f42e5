"""``coread --version`` answers whatever is wrong with models and settings: it is what people are asked for then."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coread import __version__
from coread.cli import coread
from coread.cli_version import DIGEST_SHOWN
from coread.models.allowlist import digest_of, files_of
from coread.models.catalogue import installed_models
from coread.settings import Settings
from tests.support import settings_with, write_bundle

LIGHT = """
import sys
from coread.cli import coread
try:
    coread(["--version"], standalone_mode=True)
except SystemExit as end:
    heavy = {"torch", "numpy", "pydicom", "monai"} & sys.modules.keys()
    sys.exit(f"{end.code} {sorted(heavy)}" if end.code or heavy else 0)
"""
NOTHING: dict[str, Any] = {"preprocessing": [], "postprocessing": []}


def said(*arguments: str) -> list[str]:
    found = CliRunner().invoke(coread, [*arguments, "--version"])
    assert found.exit_code == 0, found.output
    return found.output.splitlines()


def line_of(name: str, lines: list[str]) -> str:
    (line,) = (line for line in lines if line.startswith(f"  {name},"))
    return line


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file with a model that was added and approved, and one that was only added."""
    write_bundle(tmp_path / "added", manifest={"name": "added"}, inference=NOTHING)
    settings_with(tmp_path)
    write_bundle(tmp_path / "unknown", manifest={"name": "unknown"}, inference=NOTHING)
    file = tmp_path / "coread.toml"
    file.write_text('data_folder = "data"\n[models]\nfolders = ["."]\n')
    return file


def test_it_says_the_program_and_each_shipped_model_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, *models = said()
    assert first == f"coread, version {__version__}"
    assert models == [
        f"  {name}, version {model.version}, sha256 {model.digest()[:DIGEST_SHOWN]}, shipped"
        for name, model in sorted(installed_models(Settings()).items())
    ]
    assert list(tmp_path.iterdir()) == [], "asking makes nothing"


def test_a_shipped_model_that_the_settings_do_not_allow_is_shown_with_its_digest(tmp_path: Path) -> None:
    """It is what must be known to allow it."""
    file = tmp_path / "coread.toml"
    file.write_text('data_folder = "data"\n[models]\nallowed = []\n')
    for name, model in installed_models(Settings()).items():
        version, shown = model.version, model.digest()[:DIGEST_SHOWN]
        line = line_of(name, said("--config", str(file)))
        assert line == f"  {name}, version {version}, sha256 {shown}, not allowed"
        found = CliRunner().invoke(coread, ["--config", str(file), "models", "show", name, "--json"])
        assert found.exit_code == 0, found.output
        assert json.loads(found.stdout)["digest"] == model.digest()


@pytest.mark.parametrize("order", [("--config", "FILE", "--version"), ("--version", "--config", "FILE")])
def test_models_that_were_added_are_those_of_the_settings(settings: Path, order: tuple[str, ...]) -> None:
    found = CliRunner().invoke(coread, [str(settings) if word == "FILE" else word for word in order])
    assert found.exit_code == 0, found.output
    digest = digest_of(files_of(settings.parent / "added"))
    added = f"  added, version 1.2.3+{digest[:8]}, sha256 {digest[:DIGEST_SHOWN]}, enabled"
    assert line_of("added", found.output.splitlines()) == added
    assert line_of("unknown", found.output.splitlines()) == "  unknown, version 1.2.3, disabled"


def no_yaml(folder: Path) -> None:
    (folder / "coread.yaml").write_text("{")


def no_metadata(folder: Path) -> None:
    (folder / "configs" / "metadata.json").unlink()


def odd_metadata(folder: Path) -> None:
    metadata = {"version": 3, "task": ["x"], "network_data_format": {"outputs": [1, {"channel_def": 7}]}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))


def a_loop(folder: Path) -> None:
    (folder / "configs" / "loop").symlink_to(folder)


def a_folder_for_a_manifest(folder: Path) -> None:
    (folder / "coread.yaml").unlink()
    (folder / "coread.yaml").mkdir()


@pytest.mark.parametrize("harm", [no_yaml, no_metadata, odd_metadata, a_loop, a_folder_for_a_manifest])
def test_a_broken_model_keeps_nothing_else_from_being_said(settings: Path, harm: Callable[[Path], None]) -> None:
    harm(settings.parent / "added")
    lines = said("--config", str(settings))
    assert line_of("added", lines)
    assert "shipped" in line_of("ecg_12_lead", lines)
    assert "disabled" in line_of("unknown", lines)


@pytest.mark.parametrize(
    ("file", "content"), [("coread.toml", "port = 1"), ("coread.toml", "["), ("data/models/allowed.json", "{")]
)
def test_settings_or_approvals_that_cannot_be_read_are_named_and_the_rest_is_said(
    settings: Path, file: str, content: str
) -> None:
    (settings.parent / file).write_text(content)
    first, why, *models = said("--config", str(settings))
    assert first == f"coread, version {__version__}"
    assert "models that were added are not known" in why
    assert file in why
    assert [line.rpartition(", ")[2] for line in models] == ["shipped"] * len(installed_models(Settings()))


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "nowhere.toml" in said("--config", str(tmp_path / "nowhere.toml"))[1]


def test_weights_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", cannot)
    lines = said()
    assert all("cannot be read" in line and "Permission denied" in line for line in lines[1:]), lines
    assert len(lines) > 1


def test_it_is_quick_since_it_imports_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
